"""What the web frameworks have in common."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from users_session_manager import AuthenticationTooOld, SessionRejected, TooManySessions
from users_session_manager.integrations._web import (
    KeyCarrier,
    admit,
    dismiss,
    dismiss_elsewhere,
    renew_key,
    sign_in,
)


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

    def test_the_cookie_of_a_session_with_a_timeout_of_its_own_outlasts_the_browser(self, manager):
        carrier = KeyCarrier()
        usual, remembered = sign_in(manager, [], "Luca"), sign_in(manager, [], "Luca", timeout=3600)
        assert "max_age" not in carrier.cookie_options(usual)
        assert carrier.cookie_options(remembered) == carrier.cookie_options() | {"max_age": 400 * 24 * 3600}


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

    def test_what_was_admitted_stays_readable_when_the_session_ends_and_is_not_written_any_more(self, either):
        key = either.loadNewSession("Luca", data={"a": 1}, timeout=60)
        session = admit(either, key)
        live = either.sessions[key]
        either.deleteSession(key)
        assert (session.key, session.username, session.data, session.timeout) == (key, "Luca", {"a": 1}, 60)
        assert (session.createdAt, session.authenticatedAt) == (live.createdAt, live.authenticatedAt)
        with pytest.raises(SessionRejected):
            session.data = 1
        assert session.data == {"a": 1}

    def test_a_key_that_was_renewed_admits_as_the_new_one_until_its_overlap_is_over(self, either, clock):
        old = either.loadNewSession("Luca")
        new = either.renewSessionKey(old, overlap=10)
        clock.turn(9.5)
        assert admit(either, old).key == admit(either, new).key == new
        clock.turn(0.5)
        with pytest.raises(SessionRejected):
            admit(either, old)
        assert admit(either, new).username == "Luca"


@pytest.fixture
def wall(manager, monkeypatch):
    """The wall clock that `admit` reads; each session has proved at 1000.0 who its user is."""
    wall = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("users_session_manager.session.time", SimpleNamespace(time=lambda: wall.now))
    monkeypatch.setattr("users_session_manager.stores.memory.time", SimpleNamespace(time=lambda: wall.now))
    return wall


class TestMaxAge:
    @pytest.mark.parametrize("now", [1000.0, 1059.9, 1060.0])
    def test_whoever_has_logged_in_recently_is_admitted(self, either, wall, now):
        key = either.loadNewSession("Luca")
        wall.now = now
        assert admit(either, key, max_age=60).username == "Luca"

    @pytest.mark.parametrize("now", [1060.1, 1e12, 999.9, 0.0, float("inf"), float("nan")])
    def test_whoever_has_not_is_too_old_and_that_ends_nothing(self, either, wall, now):
        key = either.loadNewSession("Luca")
        wall.now = now  # earlier than the login as well: what a clock that was set back says is never taken for fresh
        with pytest.raises(AuthenticationTooOld):
            admit(either, key, max_age=60)
        assert admit(either, key).username == "Luca"

    def test_a_renewal_makes_it_recent_again_and_an_activity_does_not(self, either, wall):
        key = either.loadNewSession("Luca")
        wall.now = 2000.0
        admit(either, key)
        with pytest.raises(AuthenticationTooOld):
            admit(either, key, max_age=60)
        session = renew_key(either, key)
        assert (session.createdAt, session.authenticatedAt) == (1000.0, 2000.0)
        assert admit(either, session.key, max_age=60).key == session.key

    @pytest.mark.parametrize("key", [None, "", "unknown"])
    def test_without_a_session_it_is_a_rejection(self, either, wall, key):
        with pytest.raises(SessionRejected):
            admit(either, key, max_age=60)


def is_alive(manager, key):
    return manager.getUsernameFromSessionKey(key) is not False


class TestSignIn:
    def test_without_a_session_it_begins_one(self, either):
        session = sign_in(either, [None, "", "unknown"], "Luca", data={"a": 1}, timeout=60)
        assert either.getLoggedUsers() == ["Luca"]
        assert (session.username, session.data, session.timeout) == ("Luca", {"a": 1}, 60)
        assert either.getSessionTimeLeft(session.key) == 60

    def test_that_of_the_same_user_goes_on_under_a_new_key(self, either, heard, wall, clock):
        old = either.loadNewSession("Luca", data={"cart": 1})
        heard.events.clear()
        clock.turn(1000)
        wall.now = 2000.0
        session = sign_in(either, [old], "Luca")
        assert session.key != old
        assert not is_alive(either, old)
        assert (session.data, session.createdAt, session.authenticatedAt) == ({"cart": 1}, 1000.0, 2000.0)
        assert either.getSessionTimeLeft(session.key) == 3000
        assert (either.getLoggedUsers(), heard.events) == (["Luca"], [])

    def test_data_that_is_given_takes_the_place_of_what_was_there(self, either):
        session = sign_in(either, [either.loadNewSession("Luca", data={"cart": 1})], "Luca", data={"cart": 2})
        assert session.data == either.getSessionData(session.key) == {"cart": 2}

    @pytest.mark.parametrize(("before", "after"), [(None, 60), (60, None), (60, 90)])
    def test_with_another_timeout_it_is_a_new_session_and_the_old_one_ends(self, either, before, after):
        either.setMaxSessionsPerUser(1, "reject")  # the one that goes is not in the way
        old = either.loadNewSession("Luca", data={"cart": 1}, timeout=before)
        session = sign_in(either, [old], "Luca", timeout=after)
        assert not is_alive(either, old)
        assert (either.getLoggedUsers(), session.data, session.timeout) == (["Luca"], None, after)

    def test_those_of_others_end_after_the_new_one_has_begun(self, either, heard):
        planted = either.loadNewSession("Mallory")
        heard.events.clear()
        session = sign_in(either, [planted], "Luca")
        assert heard.events[:2] == [("sessionCreated", session.key), ("sessionDeleted", planted)]
        assert (session.data, either.getLoggedUsers()) == (None, ["Luca"])

    def test_no_key_that_was_shown_lives_on_whosever_it_was(self, either):
        keys = [either.loadNewSession(name) for name in ("Luca", "Mallory", "Luca")]
        former = either.renewSessionKey(keys[0], overlap=60)
        session = sign_in(either, [*keys, former, "unknown"], "Luca")
        assert session.key not in (*keys, former)
        assert not any(is_alive(either, key) for key in (*keys, former))
        assert list(either.sessions) == [session.key]

    def test_a_refused_login_leaves_the_others_as_they_were(self, either, heard):
        either.setMaxSessionsPerUser(1, "reject")
        elsewhere, here = either.loadNewSession("Luca"), either.loadNewSession("Fabio", data=1)
        heard.events.clear()
        with pytest.raises(TooManySessions):
            sign_in(either, [here], "Luca")
        assert (either.getSessionData(here), is_alive(either, elsewhere), heard.events) == (1, True, [])

    @pytest.mark.parametrize(
        ("username", "timeout"), [("", None), (None, None), (False, None), ("Luca", 1), ("Luca", "60")]
    )
    def test_what_the_manager_would_not_take_changes_nothing(self, either, username, timeout):
        either.on("error", lambda *_: None)
        key = either.loadNewSession("Luca", data=1)
        with pytest.raises((TypeError, ValueError)):
            sign_in(either, [key, "unknown"], username, timeout=timeout)
        assert (list(either.sessions), either.getSessionData(key)) == ([key], 1)

    @pytest.mark.parametrize("moment", ["getUsernameFromSessionKey", "resumeSession", "renewSessionKey"])
    def test_a_session_that_ends_meanwhile_is_followed_by_a_new_one(self, either, monkeypatch, moment):
        key = either.loadNewSession("Luca")
        original = getattr(either, moment)

        def end_after(*args):
            answer = original(*args)
            either.deleteUserSessions("Luca")
            monkeypatch.setattr(either, moment, original)
            return answer

        monkeypatch.setattr(either, moment, end_after)
        session = sign_in(either, [key], "Luca", data=2)
        assert session.data == either.getSessionData(session.key) == 2
        assert list(either.sessions) == [session.key]


class TestRenewKey:
    def test_the_old_key_is_dead_at_once(self, either):
        old = either.loadNewSession("Luca", data=1)
        session = renew_key(either, old)
        assert not is_alive(either, old)
        assert (session.username, session.data, list(either.sessions)) == ("Luca", 1, [session.key])

    def test_no_deadline_moves(self, either, clock):
        old = either.loadNewSession("Luca")
        clock.turn(1000)
        assert either.getSessionTimeLeft(renew_key(either, old).key) == 2000

    @pytest.mark.parametrize("key", [None, "", "unknown"])
    def test_without_a_session_it_is_a_rejection(self, either, key):
        with pytest.raises(SessionRejected):
            renew_key(either, key)

    def test_whoever_holds_the_session_of_the_request_writes_under_the_new_key(self, either):
        session = admit(either, either.loadNewSession("Luca", data=1))
        session.become(renew_key(either, session.key))
        session.data = 2
        assert either.getSessionData(session.key) == 2


class TestFind:
    def test_a_live_session_is_found_by_each_of_its_keys(self, either):
        old = either.loadNewSession("Luca")
        new = either.renewSessionKey(old, overlap=60)
        assert either.findSession(old) is either.findSession(new) is either.sessions[new]

    @pytest.mark.parametrize("key", [None, "", "unknown"])
    def test_any_other_key_is_no_event(self, manager, heard, key):
        assert manager.findSession(key) is None
        assert heard.events == []


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

    def test_the_others_of_the_same_user_are_ended_and_nobody_elses(self, either, clock):
        here, _, _ = (either.loadNewSession("Luca") for _ in range(3))
        either.loadNewSession("Fabio")
        clock.turn(1000)
        assert dismiss_elsewhere(either, here) == 2
        assert either.getLoggedUsers() == ["Luca", "Fabio"]
        assert either.getSessionTimeLeft(here) == 2000
        assert dismiss_elsewhere(either, here) == 0

    def test_under_a_former_key_the_session_itself_is_spared_too(self, either):
        old = either.loadNewSession("Luca")
        new = either.renewSessionKey(old, overlap=60)
        assert dismiss_elsewhere(either, old) == 0
        assert is_alive(either, new)

    @pytest.mark.parametrize("key", [None, "", "unknown"])
    def test_elsewhere_without_a_session_is_a_rejection_and_ends_nothing(self, either, key):
        either.loadNewSession("Luca")
        with pytest.raises(SessionRejected):
            dismiss_elsewhere(either, key)
        assert either.getLoggedUsers() == ["Luca"]
