import pytest
from shop import app, ends, manager, server
from starlette.testclient import TestClient

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def no_trace_of_another_test():
    assert manager.getLoggedUsers() == []
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, None)
    assert {event: len(manager.listeners(event)) for event in manager.event_names()} == {"sessionEnded": 1}
    ends.clear()


@pytest.fixture(params=[app, server], ids=["app", "server"])
def browser(request):
    with TestClient(request.param, base_url="https://testserver") as browser:
        yield browser
