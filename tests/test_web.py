"""What the web frameworks have in common."""

from __future__ import annotations

import asyncio

import pytest

from users_session_manager import SessionRejected
from users_session_manager.web import KeyCarrier, admit, dismiss, show_loop


class TestKeyCarrier:
    def test_a_header_comes_before_a_cookie(self):
        carrier = KeyCarrier()
        assert carrier.key(["in the header"], "in the cookie") == "in the header"
        assert carrier.key([], "in the cookie") == "in the cookie"
        assert carrier.key([], "") is None
        assert carrier.key([], None) is None

    def test_a_doubled_or_joined_header_is_no_key_and_no_way_to_the_cookie(self, manager):
        carrier = KeyCarrier()
        key = manager.loadNewSession("Luca")
        for headers in ([key, key], [f"{key},{key}"], [key, "x"], [f"{key}, x"], [""]):
            with pytest.raises(SessionRejected):
                admit(manager, carrier.key(headers, key))

    @pytest.mark.parametrize("header", ["session_key", "Session_Key", "", "a b", "a:b", "ä", "a\n", 5])
    def test_a_header_that_cannot_work_is_refused_by_name(self, header):
        with pytest.raises(ValueError, match="header") as refusal:
            KeyCarrier(header=header)
        assert repr(header) in str(refusal.value)

    @pytest.mark.parametrize("cookie", ["", "a b", "a=b", "a;b", 5])
    def test_a_cookie_that_cannot_work_is_refused_by_name(self, cookie):
        with pytest.raises(ValueError, match="cookie") as refusal:
            KeyCarrier(cookie=cookie)
        assert repr(cookie) in str(refusal.value)

    def test_there_has_to_be_one(self):
        with pytest.raises(ValueError, match="both are None"):
            KeyCarrier(header=None, cookie=None)

    def test_the_cookie_is_for_the_server_alone(self):
        secure, plain = KeyCarrier(), KeyCarrier(secure=False)
        assert secure.cookie == "__Host-session_key"
        assert plain.cookie == "session_key"
        assert secure.cookie_options() == {"httponly": True, "samesite": "Lax", "secure": True, "path": "/"}
        assert plain.cookie_options() == {"httponly": True, "samesite": "Lax", "secure": False, "path": "/"}


@pytest.fixture(params=["with an error listener", "without"])
def either(request, manager):
    if request.param == "with an error listener":
        manager.on("error", lambda *_: None)
    return manager


class TestAdmit:
    def test_a_live_session_is_read_once_and_prolonged_if_asked(self, either, clock):
        key = either.loadNewSession("Luca")
        clock.turn(1000)
        session = admit(either, key, prolong=False)
        assert either.getSessionTimeLeft(key) == 2000
        assert admit(either, key).key == key
        assert either.getSessionTimeLeft(key) == 3000
        assert (session.username, session.data) == ("Luca", None)
        assert session.createdAt == either.sessions[key].createdAt
        session.data = {"a": 1}
        assert session.data == either.getSessionData(key) == {"a": 1}
        assert key.partition("_")[2] not in repr(session)

    @pytest.mark.parametrize("prolong", [True, False])
    @pytest.mark.parametrize("key", [None, "", "unknown", 5])
    def test_anything_else_is_rejected_either_way(self, either, key, prolong):
        with pytest.raises(SessionRejected):
            admit(either, key, prolong=prolong)

    def test_without_a_key_there_is_no_event(self, manager, heard):
        with pytest.raises(SessionRejected):
            admit(manager, None)
        assert heard.events == []

    def test_a_session_that_ends_during_the_request_is_rejected_when_it_is_read(self, either):
        key = either.loadNewSession("Luca")
        session = admit(either, key)
        either.deleteSession(key)
        with pytest.raises(SessionRejected):
            session.username  # noqa: B018
        with pytest.raises(SessionRejected):
            session.data = 1


class TestDismiss:
    def test_a_live_session_is_ended(self, manager, heard):
        key = manager.loadNewSession("Luca")
        assert dismiss(manager, key) is True
        assert manager.getLoggedUsers() == []
        assert heard.names() == ["sessionCreated", "sessionDeleted", "activeUserDeleted"]

    @pytest.mark.parametrize("key", [None, "", "unknown"])
    def test_any_other_key_is_no_event(self, manager, heard, key):
        assert dismiss(manager, key) is False
        assert heard.events == []

    def test_a_session_that_ends_meanwhile_is_no_error(self, either, monkeypatch):
        monkeypatch.setattr(either, "getUsernameFromSessionKey", lambda key: "Luca")
        assert dismiss(either, "ended") is False


def test_a_loop_that_was_shown_is_where_async_listeners_run(manager):
    told = []

    async def listener(key):
        told[0].set_result(asyncio.get_running_loop())

    manager.on("sessionCreated", listener)  # before there is a loop

    async def application():
        loop = asyncio.get_running_loop()
        told.append(loop.create_future())
        show_loop(manager)
        await asyncio.to_thread(manager.loadNewSession, "Luca")
        assert await asyncio.wait_for(told[0], 30) is loop

    asyncio.run(application())
