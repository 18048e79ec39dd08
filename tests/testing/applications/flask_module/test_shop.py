"""Each test leaves sessions, listeners, settings and a later time behind."""

import pytest
from shop import app, ends, io, sessions

from users_session_manager.testing import expect_logout, expect_session_expiring, sign_in


def new_browser(username):
    browser = app.test_client()
    sign_in(browser, username)
    return browser


def test_login(browser, clock):
    site = {"base_url": "https://localhost"}
    assert browser.post("/login", data={"username": "luca", "password": "pizza"}, **site).status_code == 403
    assert browser.get("/cart", **site).json == {"logout": True}
    assert browser.post("/login", data={"username": "luca", "password": "lasagne"}, **site).status_code == 200
    assert browser.get("/cart", **site).json == {"username": "luca", "cart": []}
    with expect_logout(browser):
        clock.advance(minutes=20)


def test_idle_timeout(browser, clock):
    sign_in(browser, "luca")
    clock.advance(minutes=19)
    assert browser.get("/cart").status_code == 200
    clock.advance(minutes=19, seconds=59)
    assert browser.get("/unread").status_code == 200  # which prolongs nothing
    with expect_logout(browser):
        clock.advance(seconds=1)
    assert browser.get("/cart").status_code == 401
    assert ends == [("luca", "expired")]


def test_warning(browser, clock):
    sign_in(browser, "luca")
    with expect_session_expiring(browser):
        clock.advance(minutes=19)
    browser.get("/cart")
    with pytest.raises(AssertionError, match="no session_expiring"), expect_session_expiring(browser):
        clock.advance(minutes=18)


def test_open_page(browser, clock):
    """A client of Socket.IO in the same process gets what the expectation says."""
    sign_in(browser, "luca")
    page = io.test_client(app, flask_test_client=browser)
    page.emit("session_key")
    clock.advance(minutes=19)
    assert page.get_received()[0]["name"] == "session_expiring"
    with expect_logout(browser):
        assert browser.post("/logout").json == {"ended": True}
    assert page.get_received()[0]["name"] == "logout"
    assert ends == [("luca", "deleted")]


def test_logout_elsewhere():
    phone, laptop = new_browser("luca"), new_browser("luca")
    with expect_logout(phone):
        assert laptop.post("/logout-elsewhere").json == {"ended": 1}
    assert (phone.get("/cart").status_code, laptop.get("/cart").status_code) == (401, 200)


def test_cap(browser):
    keys = [sign_in(app.test_client(), "luca") for _ in range(2)]
    with expect_logout(keys[0]):
        sign_in(browser, "luca")
    assert ends == [("luca", "evicted")]
    assert len(sessions.manager.sessions) == 2


@pytest.mark.parametrize("dish", ["lasagne", "pesto", "focaccia"])
def test_cart(browser, clock, dish):
    sign_in(browser, "luca", data=["pizza"])
    assert browser.post(f"/cart/{dish}").json == {"cart": ["pizza", dish]}
    clock.advance(hours=1)


@pytest.mark.parametrize("turn", range(4))
def test_what_a_test_changes(browser, clock, turn):
    """Listeners, settings, watchers and the socket reference of one test."""
    manager, heard = sessions.manager, []
    manager.on("sessionCreated", heard.append)
    manager.on("sessionEnded", lambda session, reason: heard.append(reason))
    manager.setSessionTimeOut(60)
    manager.setMaxSessionLifetime(90)
    manager.initSocketReference(None)
    key = sign_in(browser, "luca", timeout=30)
    clock.advance(seconds=30)
    assert heard == [key, "expired"]
    assert ends == [("luca", "expired")]
    manager.loadNewSession("fabio")
    manager.remove_all_listeners()
