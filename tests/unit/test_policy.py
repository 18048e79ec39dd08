"""The settings, and what a change of each does to sessions and logins."""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import time
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest

from users_session_manager import SessionManager, SessionRejected, TooManySessions
from users_session_manager.keys import is_key, new_key

EVENTS = "sessionCreated sessionDeleted activeUserDeleted sessionEnded sessionRenewed sessionExpiring".split()
EVENTS += ["notifyClientToLogout"]

NOT_SECONDS = [(TypeError, value) for value in ("60", b"60", [], {}, True, False, 1j)]
NOT_SECONDS += [(ValueError, value) for value in (-1, math.nan, math.inf, -math.inf, 1e300, 10**400)]
TOO_SHORT = [(ValueError, 0), (ValueError, 1.9)]
BAD_USER_IDS = [(None, TypeError), (b"Luca", TypeError), (True, TypeError), (7.0, TypeError), ("", ValueError)]


class Number(IntEnum):
    SEVEN = 7


@pytest.fixture
def events(manager: SessionManager) -> list[tuple[Any, ...]]:
    """All events in their order; a session is shown by its key."""
    events: list[tuple[Any, ...]] = []

    def listener(name: str) -> Any:
        return lambda *args: events.append((name, *(getattr(arg, "key", arg) for arg in args)))

    for name in EVENTS:
        manager.on(name, listener(name))
    return events


@pytest.fixture
def io(manager):
    io = object()
    manager.initSocketReference(io)
    return io


def ended(key: str, reason: str) -> list[tuple[Any, ...]]:
    return [("sessionDeleted", key), ("activeUserDeleted", key), ("sessionEnded", key, reason)]


def shown(error: type[Exception], value: object) -> str:
    """An error message shows a part of a bad value."""
    return re.escape(type(value).__name__ if error is TypeError else repr(value)[:24])


class TestTimeout:
    def test_good(self, manager, clock):
        """A number that a timer can hold, of at least two seconds, is taken."""
        assert manager.MIN_SESSION_TIMEOUT == SessionManager.MIN_SESSION_TIMEOUT == 2
        for seconds in (2, 2.0, 3000, 2.5, 86400 * 365, threading.TIMEOUT_MAX):
            assert manager.setSessionTimeOut(seconds) is True
            assert manager.getSessionTimeout() == manager.getSessionTimeOut() == seconds
            key = manager.loadNewSession("Luca")
            assert manager.getSessionTimeLeft(key) == pytest.approx(seconds)
            clock.turn(seconds - 1)
            assert manager.checkSessionStatus(key)
            clock.turn(2)
            assert manager.getLoggedUsers() == []

    def test_bad(self, manager, caplog):
        """Anything else is refused with a warning in the log, and changes nothing."""
        for _, seconds in [*NOT_SECONDS, (None, None), (None, 1.999), (None, 10**12)]:
            caplog.clear()
            assert manager.setSessionTimeOut(seconds) is False
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert manager.getSessionTimeout() == 3000
        assert manager.settings == {"SESSION_TIMEOUT": 3000}

    def test_change(self, manager, clock):
        """A change leaves live sessions alone."""
        key = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(2)
        clock.turn(2999)
        assert manager.checkSessionStatus(key)

    def test_month(self, manager, clock):
        """More than 24.9 days do not expire at once, as they do in Node."""
        manager.setSessionTimeOut(86400 * 30)
        key = manager.loadNewSession("Luca")
        clock.turn(86400 * 29)
        assert manager.checkSessionStatus(key)


class TestLogin:
    def test_data(self, manager):
        """Data is there from the start."""
        seen = []
        manager.on("sessionCreated", lambda key: seen.append(manager.getSessionData(key)))
        key = manager.loadNewSession("Luca", data={"browser": "Firefox"})
        assert seen == [{"browser": "Firefox"}]
        assert manager.getSessionDetails(key)["data"] == {"browser": "Firefox"}
        assert set(manager.getSessionDetails(key)) == {"username", "createdAt", "data"}

    def test_own_timeout(self, manager, clock):
        """A timeout of a session's own is that session's alone, and stays."""
        own, other = manager.loadNewSession("Luca", timeout=10_000), manager.loadNewSession("Luca")
        assert (manager.getSessionTimeLeft(own), manager.getSessionTimeLeft(other)) == (10_000, 3000)
        assert (manager.getSession(own).timeout, manager.getSession(other).timeout) == (10_000, None)
        clock.turn(2999)
        assert manager.restartSessionTimer(own)
        assert manager.restartSessionTimer(other)
        assert (manager.getSessionTimeLeft(own), manager.getSessionTimeLeft(other)) == (10_000, 3000)
        manager.setSessionTimeOut(50)
        manager.restartSessionTimer(own)
        manager.createNewSessionTimer(own, "Luca")
        assert manager.getSessionTimeLeft(own) == 10_000

    def test_own_lifetime(self, manager, clock):
        """A lifetime of a session's own takes the place of the manager's."""
        manager.setMaxSessionLifetime(100)
        own, other = manager.loadNewSession("Luca", lifetime=5000), manager.loadNewSession("Luca")
        assert (manager.getSessionTimeLeft(own), manager.getSessionTimeLeft(other)) == (3000, 100)
        clock.turn(2999)
        assert manager.restartSessionTimer(own)
        assert manager.getSessionTimeLeft(own) == 2001

    @pytest.mark.parametrize("name", ["timeout", "lifetime"])
    def test_bad_times(self, manager, events, name):
        """A bad timeout or lifetime is named, and there is no session."""
        for error, seconds in NOT_SECONDS + TOO_SHORT:
            with pytest.raises(error, match=f"the {name} of a session.*{shown(error, seconds)}"):
                manager.loadNewSession("Luca", **{name: seconds})
        assert manager.getLoggedUsers() == []
        assert events == []

    def test_keywords(self, manager):
        """Options are passed by name alone."""
        with pytest.raises(TypeError):
            manager.loadNewSession("Luca", {"a": 1})


class TestLifetime:
    def test_default(self, manager):
        """There is none unless it is set."""
        assert manager.getMaxSessionLifetime() is None
        assert manager.setMaxSessionLifetime(8 * 3600) is True
        assert manager.getMaxSessionLifetime() == 8 * 3600
        assert manager.setMaxSessionLifetime(None) is True
        assert manager.getMaxSessionLifetime() is None

    def test_bad(self, manager):
        """A bad one is named and changes nothing."""
        manager.setMaxSessionLifetime(100)
        for error, seconds in NOT_SECONDS + TOO_SHORT:
            with pytest.raises(error, match=shown(error, seconds)):
                manager.setMaxSessionLifetime(seconds)
        assert manager.getMaxSessionLifetime() == 100

    def test_busy(self, manager, clock, events):
        """A busy session ends, to the instant."""
        manager.setMaxSessionLifetime(7000)
        key = manager.loadNewSession("Luca")
        for _ in range(6):
            clock.turn(1000)
            assert manager.restartSessionTimer(key)
        assert manager.getSessionTimeLeft(key) == 1000
        clock.seconds += 1000
        with pytest.raises(SessionRejected):
            manager.restartSessionTimer(key)
        events.clear()
        clock.turn(0)
        assert events == ended(key, "expired")

    def test_earliest(self, manager):
        """The earliest end wins, in whatever order the settings are made."""
        for idle, lifetime in ((100, 200), (200, 100), (600, 700), (700, 600), (50, 5000)):
            calls = [lambda idle=idle: manager.setSessionTimeOut(idle)]
            calls.append(lambda lifetime=lifetime: manager.setMaxSessionLifetime(lifetime))
            for order in (calls, calls[::-1]):
                manager.setSessionTimeOut(3000)
                manager.setMaxSessionLifetime(None)
                for call in order:
                    call()
                for own in (None, 500):
                    key = manager.loadNewSession("Luca", timeout=own)
                    assert manager.getSessionTimeLeft(key) == min(own or idle, lifetime)


class TestCap:
    def test_evict(self, manager, clock, events, io):
        """The oldest session is ended before the new one begins."""
        manager.setMaxSessionsPerUser(2)
        keys = [manager.loadNewSession("Luca") for _ in range(2)]
        other = manager.loadNewSession("Fabio")
        events.clear()
        newest = manager.loadNewSession("Luca")
        notice = [("notifyClientToLogout", io, keys[0])]
        assert events == [*ended(keys[0], "evicted"), *notice, ("sessionCreated", newest)]
        assert [row["key"] for row in manager.getUserSessions("Luca")] == [keys[1], newest]
        assert manager.checkSessionStatus(other)

    def test_reject(self, manager, events):
        """Or the new one is refused."""
        manager.setMaxSessionsPerUser(1, overflow="reject")
        key = manager.loadNewSession("Luca")
        events.clear()
        with pytest.raises(TooManySessions, match="'Luca' has 1 sessions, and may have 1"):
            manager.loadNewSession("Luca")
        assert events == []
        assert manager.getLoggedUsers() == ["Luca"]
        manager.deleteSession(key)
        assert manager.loadNewSession("Luca")

    def test_lower(self, manager):
        """A lower limit ends no session until the next login."""
        keys = [manager.loadNewSession("Luca") for _ in range(4)]
        manager.setMaxSessionsPerUser(2)
        assert all(map(manager.checkSessionStatus, keys))
        newest = manager.loadNewSession("Luca")
        assert [row["key"] for row in manager.getUserSessions("Luca")] == [keys[3], newest]

    def test_none(self, manager):
        """`None` lifts the limit."""
        manager.setMaxSessionsPerUser(1)
        assert manager.setMaxSessionsPerUser(None) is True
        assert len([manager.loadNewSession("Luca") for _ in range(3)]) == 3
        assert manager.getLoggedUsers() == ["Luca"] * 3

    def test_bad(self, manager):
        """A bad limit is named and changes nothing."""
        manager.setMaxSessionsPerUser(1, "reject")
        for count, overflow, error, text in [
            ("3", "evict", TypeError, "str"),
            (3.0, "evict", TypeError, "float"),
            (True, "evict", TypeError, "bool"),
            (0, "evict", ValueError, "0"),
            (-1, "reject", ValueError, "-1"),
            (3, "ignore", ValueError, "'ignore'"),
            (3, None, ValueError, "None"),
            (3, [], ValueError, r"\[\]"),
        ]:
            with pytest.raises(error, match=text):
                manager.setMaxSessionsPerUser(count, overflow)
        manager.loadNewSession("Luca")
        with pytest.raises(TooManySessions):
            manager.loadNewSession("Luca")


class TestUserSessions:
    def test_details(self, manager, clock):
        """A user's sessions are listed with their details, oldest first."""
        before = time.time()
        first = manager.loadNewSession("Luca", data={"browser": "Firefox"}, securityStamp="not shown")
        clock.turn(1000)
        manager.loadNewSession("Fabio")
        second = manager.loadNewSession("Luca", timeout=50)
        rows = manager.getUserSessions("Luca")
        assert [row["key"] for row in rows] == [first, second]
        assert before <= rows[0].pop("createdAt") == rows[0].pop("authenticatedAt") <= time.time()
        names = {"username": "Luca", "userId": "Luca"}
        assert rows[0] == {"key": first, "data": {"browser": "Firefox"}, "timeLeft": 2000} | names
        assert (rows[1]["data"], rows[1]["timeLeft"]) == (None, 50)
        assert manager.getUserSessions("Gino") == []
        assert [manager.getSessionTimeLeft(key) for key in (first, second)] == [2000, 50]

    def test_delete(self, manager, events, io):
        """A user is logged out everywhere, and other users are not."""
        keys = [manager.loadNewSession("Luca"), manager.loadNewSession("Luca")]
        other = manager.loadNewSession("Fabio")
        events.clear()
        assert manager.deleteUserSessions("Luca") == 2
        assert events == [
            event for key in keys for event in (*ended(key, "deleted"), ("notifyClientToLogout", io, key))
        ]
        assert manager.deleteUserSessions("Luca") == 0
        assert manager.checkSessionStatus(other)

    def test_delete_others(self, manager, events):
        """A user is logged out everywhere else."""
        keys = [manager.loadNewSession("Luca") for _ in range(3)]
        events.clear()
        assert manager.deleteUserSessions("Luca", exceptKey=keys[1]) == 2
        assert [event[1] for event in events if event[0] == "sessionDeleted"] == [keys[0], keys[2]]
        assert manager.checkSessionStatus(keys[1])

    def test_bad_except_key(self, manager):
        """A key that is not of that user's session spares none."""
        for except_key in ("unknown", None, [], new_key(), 5, manager.loadNewSession("Fabio")):
            manager.loadNewSession("Luca")
            assert manager.deleteUserSessions("Luca", except_key) == 1

    def test_all_first(self, manager):
        """All have ended before the first is announced."""
        for _ in range(3):
            manager.loadNewSession("Luca")
        left = []
        manager.on("sessionDeleted", lambda key: left.append(len(manager.getUserSessions("Luca"))))
        manager.deleteUserSessions("Luca")
        assert left == [0, 0, 0]

    @pytest.mark.parametrize("method", ["getUserSessions", "deleteUserSessions"])
    def test_bad_user(self, manager, method):
        """A bad user id is an error: else "no such session" would be taken for "logged out"."""
        for user, error in BAD_USER_IDS:
            with pytest.raises(error, match="user id must be a non-empty str, an int or a UUID, got"):
                getattr(manager, method)(user)

    def test_user_id(self, manager):
        """They go by the user id, which is kept as text, and not by the username."""
        some_id = UUID(int=7)
        cases = [("7", "7"), (7, "7"), (-7, "-7"), (Number.SEVEN, "7"), (some_id, str(some_id)), (" Zoë ", " Zoë ")]
        for user, kept in cases:
            key = manager.loadNewSession("Luca", userId=user)
            other = manager.loadNewSession("Luca")
            assert manager.getSession(key).userId == kept
            assert type(manager.getSession(key).userId) is str
            for same in (user, kept):
                ((row),) = manager.getUserSessions(same)
                assert (row["key"], row["username"], row["userId"]) == (key, "Luca", kept)
            assert [row["key"] for row in manager.getUserSessions("Luca")] == [other]
            assert manager.getLoggedUsers() == ["Luca", "Luca"]
            assert manager.deleteUserSessions(user, other) == 1
            assert manager.deleteUserSessions("Luca", exceptKey=key) == 1

    def test_cap_by_user_id(self, manager):
        """A cap goes by the user id; the error shows the username."""
        manager.setMaxSessionsPerUser(1, "reject")
        manager.loadNewSession("Luca", userId=7)
        manager.loadNewSession("Luca", userId=8)
        manager.loadNewSession("Luca")
        with pytest.raises(TooManySessions, match="'Luca Rossi' has 1 sessions, and may have 1"):
            manager.loadNewSession("Luca Rossi", userId="7")
        manager.setMaxSessionsPerUser(1)
        manager.loadNewSession("Luca Rossi", userId="7")
        assert manager.getLoggedUsers() == ["Luca", "Luca", "Luca Rossi"]

    def test_bad_user_id(self, manager, events):
        """A login with a bad user id is an error, and there is no session; `None` is for the username."""
        for user, error in BAD_USER_IDS[1:]:
            with pytest.raises(error, match="user id must be a non-empty str, an int or a UUID, got"):
                manager.loadNewSession("Luca", userId=user)
        assert events == []
        assert manager.getSession(manager.loadNewSession("Luca", userId=None)).userId == "Luca"

    def test_cost(self, manager):
        """One user's sessions cost what they cost alone, but for the first call about a user."""

        def cost(others):
            for number in range(others):
                manager.loadNewSession(f"user {number}")
            manager.setMaxSessionsPerUser(None)
            keys = [manager.loadNewSession("Luca") for _ in range(3)]
            manager.getUserSessions("Luca")

            def work():
                assert len(manager.getUserSessions("Luca")) == 3
                assert manager.deleteUserSessions("Luca", keys[0]) == 2
                manager.setMaxSessionsPerUser(1)
                manager.loadNewSession("Luca")

            found = steps(work)
            manager.deleteAllSessions()
            return found

        few, many = cost(10), cost(1000)
        assert few > 50, "they were to be counted"
        assert many < few * 1.2


class TestSecurityStamp:
    def test_kept(self, manager):
        """It is kept as it is, an empty one included; there is none unless it is given."""
        for stamp in ("a stamp", "", None):
            assert manager.getSession(manager.loadNewSession("Luca", securityStamp=stamp)).securityStamp == stamp
        assert manager.getSession(manager.loadNewSession("Luca")).securityStamp is None

    def test_renewal(self, manager):
        """A renewal replaces it by one that is given, and keeps it without."""
        session = manager.getSession(manager.loadNewSession("Luca"))
        for given, kept in (("old", "old"), ("new", "new"), (None, "new"), ("", ""), (None, "")):
            assert manager.getSession(manager.renewSessionKey(session.key, securityStamp=given)).securityStamp == kept
        manager.renewSessionKey(session.key)
        assert session.securityStamp == ""

    def test_bad(self, manager, events):
        """Anything but a text is an error, and nothing changes."""
        key = manager.loadNewSession("Luca", securityStamp="a stamp")
        events.clear()
        for stamp in (b"x", 1, True, 1.5, [], object()):
            shown = f"the security stamp must be a str or None, got {type(stamp).__name__}"
            with pytest.raises(TypeError, match=shown):
                manager.loadNewSession("Luca", securityStamp=stamp)
            with pytest.raises(TypeError, match=shown):
                manager.renewSessionKey(key, securityStamp=stamp)
        assert events == []
        assert manager.getSession(key).securityStamp == "a stamp"

    def test_not_logged(self, manager, clock, caplog):
        """No line of the log shows it."""
        for end in (manager.deleteSession, lambda key: manager.deleteAllSessions(), lambda key: clock.turn(3000)):
            key = manager.loadNewSession("Luca", securityStamp="the old stamp")
            key = manager.renewSessionKey(key, securityStamp="the new stamp")
            manager.createNewSessionTimer(key, "Luca")
            end(key)
        assert "Session created" in caplog.text
        assert " stamp" not in caplog.text


class TestRenewal:
    def test_new_key(self, manager, clock, events):
        """A renewal gives the same session a new key; the old one is rejected at once."""
        old = manager.loadNewSession("Luca", data={"a": 1})
        created = manager.getSession(old).createdAt
        clock.turn(1000)
        events.clear()
        new = manager.renewSessionKey(old)
        assert is_key(new)
        assert events == [("sessionRenewed", old, new)]
        assert manager.getSessionDetails(new) == {"username": "Luca", "createdAt": created, "data": {"a": 1}}
        assert manager.getSession(new).authenticatedAt > created
        assert manager.getSessionTimeLeft(new) == 2000
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(old)
        assert manager.getLoggedUsers() == ["Luca"]

    def test_overlap(self, manager, clock):
        """Requests with the old key pass for as long as the overlap."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=5)
        clock.turn(4.999)
        assert manager.checkSessionStatus(old)
        assert manager.restartSessionTimer(old)
        assert manager.getUsernameFromSessionKey(old) == "Luca"
        clock.seconds += 0.001
        assert manager.getUsernameFromSessionKey(old) is False
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(old)
        assert manager.checkSessionStatus(new)

    def test_logout(self, manager, events):
        """A logout with the old key ends the session."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=5)
        events.clear()
        assert manager.deleteSession(old) is True
        assert events == ended(new, "deleted")

    def test_former_keys(self, manager):
        """A session that has ended has the keys that it has now; that of the first renewal was forgotten."""
        seen = []
        manager.on("sessionEnded", lambda session, reason: seen.append((session.key, session.formerKeys)))
        first = manager.loadNewSession("Luca")
        second = manager.renewSessionKey(first)
        third = manager.renewSessionKey(second, 5)
        manager.deleteSession(third)
        assert seen == [(third, (second,))]

    def test_bad_overlap(self, manager, events):
        """A bad overlap is named and changes nothing."""
        key = manager.loadNewSession("Luca")
        events.clear()
        for error, overlap in [*NOT_SECONDS, (TypeError, None)]:
            with pytest.raises(error, match="the overlap must be"):
                manager.renewSessionKey(key, overlap)
        assert events == []
        assert manager.checkSessionStatus(key)


class TestWarning:
    def test_once(self, manager, clock, events):
        """A warning says how long is left, once per countdown."""
        manager.setExpiryWarning(60)
        key = manager.loadNewSession("Luca")
        events.clear()
        clock.turn(2939)
        assert events == []
        clock.turn(1)
        clock.turn(30)
        assert events == [("sessionExpiring", key, 60)]
        manager.restartSessionTimer(key)
        clock.turn(2940)
        assert events == [("sessionExpiring", key, 60)] * 2
        clock.turn(60)
        assert events[2:] == ended(key, "expired")

    def test_none(self, manager, clock, events):
        """`None` takes the setting back."""
        manager.setExpiryWarning(60)
        assert manager.setExpiryWarning(None) is True
        manager.loadNewSession("Luca")
        clock.turn(2990)
        assert [event[0] for event in events] == ["sessionCreated"]

    def test_prolong(self, manager, clock):
        """A listener may prolong the session."""
        manager.setExpiryWarning(60)
        manager.on("sessionExpiring", lambda key, left: manager.restartSessionTimer(key))
        key = manager.loadNewSession("Luca")
        for _ in range(3):
            clock.turn(2940)
        assert manager.getSessionTimeLeft(key) == 3000

    def test_bad(self, manager, clock, events):
        """A bad one is named and changes nothing."""
        manager.setExpiryWarning(60)
        for error, seconds in [*NOT_SECONDS, (ValueError, 0)]:
            with pytest.raises(error, match="the warning must be"):
                manager.setExpiryWarning(seconds)
        key = manager.loadNewSession("Luca")
        clock.turn(2940)
        assert ("sessionExpiring", key, 60) in events


def test_settings(manager):
    """Each setting leaves the others as they are."""
    manager.setMaxSessionsPerUser(1, "reject")
    manager.setMaxSessionLifetime(100)
    manager.setExpiryWarning(10)
    manager.setSessionTimeOut(500)
    assert (manager.getMaxSessionLifetime(), manager.getSessionTimeout()) == (100, 500)
    assert manager.getSessionTimeLeft(manager.loadNewSession("Luca")) == 100
    with pytest.raises(TooManySessions):
        manager.loadNewSession("Luca")
    manager.setMaxSessionLifetime(None)
    with pytest.raises(TooManySessions):
        manager.loadNewSession("Luca")


def steps(work):
    """Count the lines of Python that `work` executes; a line that is executed again counts again."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
