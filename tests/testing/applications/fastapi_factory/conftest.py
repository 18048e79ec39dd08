import pytest
from shop import create_app
from starlette.testclient import TestClient
from traces import assert_no_trace

from users_session_manager import SessionManager

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]


@pytest.fixture
def options():
    return {}


@pytest.fixture
def app(options):
    app = create_app(**options)
    assert_no_trace(SessionManager())
    return app


@pytest.fixture
def browser(app):
    with TestClient(app) as browser:
        yield browser
