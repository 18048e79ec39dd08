import pytest
from shop import app, ends, manager, server
from starlette.testclient import TestClient
from traces import assert_no_trace

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def no_trace_of_another_test():
    assert_no_trace(manager)
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, None)
    ends.clear()


@pytest.fixture(params=[app, server], ids=["app", "server"])
def browser(request):
    with TestClient(request.param, base_url="https://testserver") as browser:
        yield browser
