"""Each test has an application of its own, which may have settings and a store of its own."""

import pytest

from users_session_manager import SessionManager
from users_session_manager.testing import sign_in


@pytest.fixture
def options(request):
    if "port" in request.fixturenames:
        return {"store": f"redis://127.0.0.1:{request.getfixturevalue('port')}/0"}
    if "timeout" in request.fixturenames:
        return {"timeout": request.getfixturevalue("timeout"), "secure": False}
    return {}


@pytest.mark.parametrize("port", [1, 2, 3])
def test_stores(port, app, browser, clock):
    sign_in(browser, "luca")
    assert browser.get("/me").json() == {"username": "luca"}
    clock.advance(minutes=20)
    assert browser.get("/me").status_code == 401
    assert app.state.ends == [("luca", "expired")]


@pytest.mark.parametrize("timeout", [10, 60, 600])
def test_timeouts(timeout, app, browser, clock):
    sign_in(browser, "luca")
    clock.advance(seconds=timeout - 1)
    assert browser.get("/me").status_code == 200
    clock.advance(seconds=timeout)
    assert browser.get("/me").status_code == 401
    assert app.state.ends == [("luca", "expired")]


@pytest.mark.parametrize("turn", range(4))
def test_default(turn, app, browser):
    assert SessionManager().getSessionTimeout() == 20 * 60
    sign_in(browser, "luca")
    assert browser.post("/logout").json() == {"ended": True}
    assert app.state.ends == [("luca", "deleted")]
    sign_in(browser, "fabio")
    SessionManager().setMaxSessionsPerUser(1)
