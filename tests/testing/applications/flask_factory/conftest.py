import pytest
from shop import create_app
from traces import assert_no_trace

from users_session_manager import SessionManager

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture
def settings():
    return {}


@pytest.fixture
def app(settings):
    app = create_app(**settings)
    assert_no_trace(SessionManager())
    return app


@pytest.fixture
def browser(app):
    return app.test_client()
