"""Cells that the test of docs/how-to/tests.md runs beside its blocks."""

# %% before: pytest_plugins = ["users_session_manager.testing.pytest_plugin"]
import sys
import types
import unittest

from users_session_manager import SessionManager


def module(name, *names):
    """Let the next blocks import what these names mean here."""
    sys.modules[name] = made = types.ModuleType(name)
    made.__dict__.update({each: globals()[each] for each in names})


def run(*tests):
    """Call tests as pytest does, twice, with the fixtures that they ask for."""
    for test in 2 * tests:
        with fresh_sessions() as clock:
            fixtures = {"clock": lambda: clock, "browser": lambda: new_browser()}
            test(*(fixtures[name]() for name in test.__code__.co_varnames[: test.__code__.co_argcount]))


# %% after: class ShopTest(unittest.TestCase):
class Tried(ShopTest):
    if not hasattr(unittest.TestCase, "enterContext"):

        def enterContext(self, context):
            self.addCleanup(context.__exit__, None, None, None)
            return context.__enter__()

    def test(self):
        key = SessionManager().loadNewSession("luca")
        self.clock.advance(hours=1)
        self.assertEqual(SessionManager().getLoggedUsers(), [])


assert unittest.defaultTestLoader.loadTestsFromTestCase(Tried).run(unittest.TestResult()).wasSuccessful()

# %% after: app = Flask(__name__)
module("flask_shop", "app", "expired")

# %% after: return app.test_client()
new_browser = app.test_client
run(test_login, test_redirect, test_idle_timeout, test_logout_elsewhere, test_forged_login)
SessionManager().close()

# %% after: app = FastAPI()
module("fastapi_shop", "app", "expired")
import warnings

warnings.filterwarnings("ignore", module="starlette|fastapi")  # of a newer httpx


# %% after: with TestClient(app, base_url="https://testserver") as browser:
def new_browser():
    global opened
    opened = TestClient(app, base_url="https://testserver")
    return opened.__enter__()


def closing(test):
    def closed(browser, clock):
        test(*(browser, clock)[: test.__code__.co_argcount])
        opened.__exit__(None, None, None)

    return closed


run(*map(closing, (test_login, test_idle_timeout, test_logout_by_an_administrator)))
SessionManager().close()
import django

django.setup()
from django.core.management import call_command
from django.test import override_settings

call_command("migrate", verbosity=0)
from django.contrib.auth import get_user_model

get_user_model().objects.all().delete()  # those of other pages
SessionManager().close()
USER_SESSIONS = {"TIMEOUT": 20 * 60, "WARNING": 60}
changed = override_settings(USER_SESSIONS=USER_SESSIONS)
changed.enable()

# %% after: io = socketio.Server(async_mode="threading")
module("django_shop.urls", "expired", "urlpatterns")

# %% after: class CartTest(TestCase):
with override_settings(ROOT_URLCONF=sys.modules["django_shop.urls"]):
    result = unittest.defaultTestLoader.loadTestsFromTestCase(CartTest).run(unittest.TestResult())
assert (result.testsRun, result.errors, result.failures) == (3, [], [])
from django.db import connection

connection.close()
with fresh_sessions() as clock:
    manager = SessionManager()
    manager.setSessionTimeOut(20 * 60)
    browser = manager.loadNewSession("luca")
    try:
        with expect_logout(browser):
            clock.advance(minutes=19)
    except AssertionError as error:
        text = str(error)
assert text.startswith("the pages of 'luca' (")
assert text.endswith(") were sent no logout: the session is live, and expires in 60 seconds")
changed.disable()
SessionManager().close()

# %% after: class IdleTimeoutTest(TestCase):
import pytest
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.urls import path
from documents import new_django_users

from users_session_manager import TooManySessions

[luca] = new_django_users("luca")
with override_settings(
    USER_SESSIONS={"TIMEOUT": 1200}, ROOT_URLCONF=(path("inbox", login_required(lambda _: HttpResponse())),)
):
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(IdleTimeoutTest).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    manager = SessionManager()
    with override_settings(USER_SESSIONS={"TIMEOUT": 60, "MAX_SESSIONS_PER_USER": 1, "OVERFLOW": "reject"}):
        client = Client()
        client.force_login(luca)
        assert manager.getSessionTimeout() == 60
        with pytest.raises(TooManySessions):
            Client().force_login(luca)
    with pytest.raises(TooManySessions):  # the settings have no cap of their own
        Client().force_login(luca)
    assert manager.getSessionTimeout() == 1200
SessionManager().close()
connection.close()
