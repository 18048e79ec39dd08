import pytest
from shop import app, ends, sessions
from traces import assert_no_trace

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def no_trace_of_another_test():
    manager = sessions.manager
    assert_no_trace(manager)
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, None)
    ends.clear()


@pytest.fixture
def browser():
    return app.test_client()
