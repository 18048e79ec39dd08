"""Each test leaves sessions, listeners, settings and a later time behind."""

import pytest
from shop import app, ends, manager
from starlette.testclient import TestClient

from users_session_manager.testing import expect_logout, expect_session_expiring, sign_in


def test_login(browser, clock):
    assert browser.post("/login?username=luca&password=pizza").status_code == 403
    assert browser.get("/cart").json() == {"logout": True}
    assert browser.post("/login?username=luca&password=lasagne").status_code == 200
    assert browser.get("/cart").json() == {"username": "luca", "cart": []}
    with expect_logout(browser):
        clock.advance(minutes=20)


def test_idle_timeout(browser, clock):
    sign_in(browser, "luca")
    clock.advance(minutes=19)
    assert browser.get("/cart").status_code == 200
    clock.advance(minutes=19, seconds=59)
    assert browser.get("/unread").status_code == 200
    with expect_logout(browser):
        clock.advance(seconds=1)
    assert browser.get("/cart").status_code == 401
    assert ends == [("luca", "expired")]  # the listener, which is async, has run


def test_warning(browser, clock):
    sign_in(browser, "luca")
    with expect_session_expiring(browser):
        clock.advance(minutes=19)


def test_logout_everywhere(browser):
    phone = TestClient(app, base_url="https://testserver")
    sign_in(browser, "admin")
    sign_in(phone, "luca")
    with expect_logout(phone):
        assert browser.delete("/users/luca/sessions").json() == {"ended": 1}
    assert phone.get("/cart").status_code == 401
    assert browser.get("/cart").status_code == 200


@pytest.mark.parametrize("dish", ["lasagne", "pesto", "focaccia"])
def test_cart(browser, clock, dish):
    sign_in(browser, "luca", data=["pizza"])
    assert browser.post(f"/cart/{dish}").json() == {"cart": ["pizza", dish]}
    clock.advance(hours=1)


@pytest.mark.parametrize("turn", range(4))
def test_what_a_test_changes(browser, clock, turn):
    heard = []
    manager.on("sessionCreated", heard.append)
    manager.on("sessionEnded", lambda session, reason: heard.append(reason))
    manager.setSessionTimeOut(60)
    manager.setMaxSessionLifetime(90)
    key = sign_in(browser, "luca", timeout=30)
    clock.advance(seconds=30)
    assert heard == [key, "expired"]
    manager.loadNewSession("fabio")
    manager.remove_all_listeners()
