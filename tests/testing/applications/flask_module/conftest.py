import pytest
from shop import app, ends, sessions

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def no_trace_of_another_test():
    manager = sessions.manager
    assert manager.getLoggedUsers() == []
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, None)
    assert {event: len(manager.listeners(event)) for event in manager.event_names()} == {"sessionEnded": 1}
    ends.clear()


@pytest.fixture
def browser():
    return app.test_client()
