"""The same tests with pytest, and some that are functions; the project needs no pytest-django for them."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from shop.tests import ShopTests  # noqa: F401

from users_session_manager import SessionManager
from users_session_manager.testing import expect_logout, sign_in


@pytest.fixture
def fabio():
    user = get_user_model().objects.create_user("fabio")
    yield user
    user.delete()


@pytest.mark.parametrize("turn", range(4))
def test_function(fabio, clock, turn):
    manager, browser = SessionManager(), Client()
    assert manager.getLoggedUsers() == []
    assert len(manager.listeners("sessionEnded")) == 1  # that of the URLs, which no request has imported yet
    manager.on("sessionEnded", lambda session, reason: None)
    sign_in(browser, fabio)
    with expect_logout(browser):
        clock.advance(minutes=20)
    assert browser.get("/cart").status_code == 401
    sign_in(browser, fabio)
