"""Each test leaves sessions, listeners, settings and a later time behind."""

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import Client, TestCase, override_settings

from users_session_manager import SessionManager
from users_session_manager.testing import expect_logout, expect_session_expiring, fresh_sessions, sign_in

from .audit import ends


class ShopTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.luca = get_user_model().objects.create_user("luca", password="lasagne")

    def setUp(self):
        sessions = fresh_sessions()  # with Python 3.11: self.clock = self.enterContext(fresh_sessions())
        self.clock = sessions.__enter__()
        self.addCleanup(sessions.__exit__, None, None, None)
        manager = SessionManager()
        assert manager.getLoggedUsers() == []
        assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, None)
        assert {event: len(manager.listeners(event)) for event in manager.event_names()} == {"sessionEnded": 1}
        ends.clear()

    def test_login(self):
        assert self.client.post("/login", {"username": "luca", "password": "pizza"}).status_code == 403
        assert self.client.get("/cart").status_code == 401
        self.client.post("/login", {"username": "luca", "password": "lasagne"})
        assert self.client.get("/cart").json() == {"username": "luca"}
        with expect_logout(self.client):
            self.clock.advance(minutes=20)

    def test_idle_timeout(self):
        sign_in(self.client, self.luca)
        self.clock.advance(minutes=19)
        assert self.client.get("/cart").status_code == 200
        self.clock.advance(minutes=19, seconds=59)
        assert self.client.get("/unread").status_code == 200
        with expect_logout(self.client):
            self.clock.advance(seconds=1)
        assert self.client.get("/cart").status_code == 401
        assert ends == [("luca", "expired")]

    def test_warning(self):
        sign_in(self.client, "luca")
        with expect_session_expiring(self.client):
            self.clock.advance(minutes=19)

    def test_elsewhere(self):
        phone = Client()
        sign_in(phone, self.luca)
        sign_in(self.client, self.luca)
        with expect_logout(phone):
            assert self.client.get("/elsewhere").json() == {"ended": 1}
        assert phone.get("/cart").status_code == 401

    def test_cap(self):
        oldest = Client()
        with expect_logout(sign_in(oldest, self.luca)):
            sign_in(Client(), self.luca)
            sign_in(self.client, self.luca)
        assert ends == [("luca", "evicted")]

    async def test_async(self):
        await sync_to_async(sign_in)(self.async_client, self.luca)
        assert (await self.async_client.get("/later")).json() == {"username": "luca"}
        with expect_logout(self.async_client):
            self.clock.advance(minutes=20)
        assert (await self.async_client.get("/later")).status_code == 401

    def change(self):
        manager, heard = SessionManager(), []
        manager.on("sessionEnded", lambda session, reason: heard.append(reason))
        manager.setSessionTimeOut(60)
        manager.setMaxSessionLifetime(90)
        sign_in(self.client, self.luca)
        self.clock.advance(seconds=60)
        assert heard == ["expired"]
        sign_in(self.client, self.luca)
        manager.remove_all_listeners()

    test_change_1 = test_change_2 = test_change_3 = test_change_4 = change

    def test_settings(self):
        with override_settings(USER_SESSIONS={"TIMEOUT": 60}):
            sign_in(self.client, self.luca)
            self.clock.advance(seconds=60)
        assert ends == [("luca", "expired")]

    test_settings_again = test_settings
