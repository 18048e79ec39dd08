"""The session policy: each row of the contract's second table, and what a change of a setting does."""

from __future__ import annotations

import math
import re
import sys
import time
from typing import Any

import pytest

from users_session_manager import SessionManager, SessionRejected, TooManySessions
from users_session_manager.keys import is_key, new_key

EVENTS = "sessionCreated sessionDeleted activeUserDeleted sessionEnded sessionRenewed sessionExpiring".split()
EVENTS += ["notifyClientToLogout", "error"]

ON_EVERY_STORE = True


@pytest.fixture
def said(manager: SessionManager) -> list[tuple[Any, ...]]:
    """All events in their order; a session is shown by its key."""
    events: list[tuple[Any, ...]] = []

    def listener(name: str) -> Any:
        return lambda *args: events.append((name, *(getattr(arg, "key", arg) for arg in args)))

    for name in EVENTS:
        if name != "error":
            manager.on(name, listener(name))
    return events


@pytest.fixture
def io(manager):
    io = object()
    manager.initSocketReference(io)
    return io


def ended(key: str, reason: str) -> list[tuple[Any, ...]]:
    return [("sessionDeleted", key), ("activeUserDeleted", key), ("sessionEnded", key, reason)]


BAD_SECONDS = [
    pytest.param(value, error, id=repr(value))
    for error, values in {
        TypeError: ["60", b"60", [], {}, True, False, 1j],
        ValueError: [-1, math.nan, math.inf, -math.inf, 1e300],
    }.items()
    for value in values
]


class TestLogin:
    def test_data_is_there_from_the_start(self, manager):
        seen = []
        manager.on("sessionCreated", lambda key: seen.append(manager.getSessionData(key)))
        key = manager.loadNewSession("Luca", data={"browser": "Firefox"})
        assert seen == [{"browser": "Firefox"}]
        assert manager.getSessionDetails(key)["data"] == {"browser": "Firefox"}
        assert set(manager.getSessionDetails(key)) == {"username", "createdAt", "data"}

    def test_a_timeout_of_its_own_is_that_sessions_alone(self, manager, clock):
        own, other = manager.loadNewSession("Luca", timeout=10_000), manager.loadNewSession("Luca")
        assert (manager.getSessionTimeLeft(own), manager.getSessionTimeLeft(other)) == (10_000, 3000)
        clock.turn(2999)
        assert manager.restartSessionTimer(own)
        assert manager.restartSessionTimer(other)
        assert (manager.getSessionTimeLeft(own), manager.getSessionTimeLeft(other)) == (10_000, 3000)
        manager.setSessionTimeOut(50)
        manager.restartSessionTimer(own)
        manager.createNewSessionTimer(own, "Luca")
        assert manager.getSessionTimeLeft(own) == 10_000

    @pytest.mark.parametrize(("timeout", "error"), [*BAD_SECONDS, (0, ValueError), (1.9, ValueError)])
    def test_a_bad_timeout_is_named_and_there_is_no_session(self, manager, said, timeout, error):
        shown = re.escape(type(timeout).__name__ if error is TypeError else repr(timeout))
        with pytest.raises(error, match=shown):
            manager.loadNewSession("Luca", timeout=timeout)
        assert manager.getLoggedUsers() == []
        assert said == []

    def test_both_are_by_name_alone(self, manager):
        with pytest.raises(TypeError):
            manager.loadNewSession("Luca", {"a": 1})


class TestReading:
    def test_a_session_is_read_and_goes_on_as_it_was(self, manager, clock):
        key = manager.loadNewSession("Luca", data=1)
        clock.turn(1000)
        session = manager.getSession(key)
        assert (session.username, session.key, session.data) == ("Luca", key, 1)
        assert manager.getSessionTimeLeft(key) == 2000

    def test_a_session_is_resumed_and_begins_its_timeout_again(self, manager, clock):
        key = manager.loadNewSession("Luca")
        clock.turn(1000)
        assert manager.resumeSession(key).username == "Luca"
        assert manager.getSessionTimeLeft(key) == 3000


class TestLifetime:
    def test_there_is_none_unless_set(self, manager):
        assert manager.getMaxSessionLifetime() is None
        assert manager.setMaxSessionLifetime(8 * 3600) is True
        assert manager.getMaxSessionLifetime() == 8 * 3600
        assert manager.setMaxSessionLifetime(None) is True
        assert manager.getMaxSessionLifetime() is None

    @pytest.mark.parametrize(("seconds", "error"), [*BAD_SECONDS, (0, ValueError), (1.9, ValueError)])
    def test_a_bad_one_is_named_and_changes_nothing(self, manager, seconds, error):
        manager.setMaxSessionLifetime(100)
        shown = re.escape(type(seconds).__name__ if error is TypeError else repr(seconds))
        with pytest.raises(error, match=shown):
            manager.setMaxSessionLifetime(seconds)
        assert manager.getMaxSessionLifetime() == 100

    def test_a_busy_session_ends_to_the_instant(self, manager, clock, said):
        manager.setMaxSessionLifetime(7000)
        key = manager.loadNewSession("Luca")
        for _ in range(6):
            clock.turn(1000)
            assert manager.restartSessionTimer(key)
        assert manager.getSessionTimeLeft(key) == 1000
        clock.seconds += 1000
        with pytest.raises(SessionRejected):
            manager.restartSessionTimer(key)
        said.clear()
        clock.turn(0)
        assert said == ended(key, "expired")

    @pytest.mark.parametrize("own", [None, 500])
    @pytest.mark.parametrize("order", [0, 1])
    def test_the_earliest_end_wins_in_whatever_order_they_are_set(self, manager, own, order):
        for idle, lifetime in ((100, 200), (200, 100), (600, 700), (700, 600), (50, 5000)):
            calls = [lambda idle=idle: manager.setSessionTimeOut(idle)]
            calls.append(lambda lifetime=lifetime: manager.setMaxSessionLifetime(lifetime))
            for call in calls if order else reversed(calls):
                call()
            key = manager.loadNewSession("Luca", timeout=own)
            assert manager.getSessionTimeLeft(key) == min(own or idle, lifetime)


class TestCap:
    def test_the_oldest_is_ended_before_the_new_one_begins(self, manager, clock, said, io):
        manager.setMaxSessionsPerUser(2)
        keys = [manager.loadNewSession("Luca") for _ in range(2)]
        other = manager.loadNewSession("Fabio")
        said.clear()
        newest = manager.loadNewSession("Luca")
        notice = [("notifyClientToLogout", io, keys[0])]
        assert said == [*ended(keys[0], "evicted"), *notice, ("sessionCreated", newest)]
        assert [row["key"] for row in manager.getUserSessions("Luca")] == [keys[1], newest]
        assert manager.checkSessionStatus(other)

    def test_or_the_new_one_is_refused(self, manager, said):
        manager.setMaxSessionsPerUser(1, overflow="reject")
        key = manager.loadNewSession("Luca")
        said.clear()
        with pytest.raises(TooManySessions, match="'Luca' has 1 sessions, and may have 1"):
            manager.loadNewSession("Luca")
        assert said == []
        assert manager.getLoggedUsers() == ["Luca"]
        manager.deleteSession(key)
        assert manager.loadNewSession("Luca")

    def test_a_lower_one_ends_nobody_until_the_next_login(self, manager):
        keys = [manager.loadNewSession("Luca") for _ in range(4)]
        manager.setMaxSessionsPerUser(2)
        assert all(map(manager.checkSessionStatus, keys))
        newest = manager.loadNewSession("Luca")
        assert [row["key"] for row in manager.getUserSessions("Luca")] == [keys[3], newest]

    def test_none_lifts_it(self, manager):
        manager.setMaxSessionsPerUser(1)
        assert manager.setMaxSessionsPerUser(None) is True
        assert len([manager.loadNewSession("Luca") for _ in range(3)]) == 3
        assert manager.getLoggedUsers() == ["Luca"] * 3

    @pytest.mark.parametrize(
        ("count", "overflow", "error", "shown"),
        [
            ("3", "evict", TypeError, "str"),
            (3.0, "evict", TypeError, "float"),
            (True, "evict", TypeError, "bool"),
            (0, "evict", ValueError, "0"),
            (-1, "reject", ValueError, "-1"),
            (3, "ignore", ValueError, "'ignore'"),
            (3, None, ValueError, "None"),
            (3, [], ValueError, r"\[\]"),
        ],
    )
    def test_a_bad_one_is_named_and_changes_nothing(self, manager, count, overflow, error, shown):
        manager.setMaxSessionsPerUser(1, "reject")
        with pytest.raises(error, match=shown):
            manager.setMaxSessionsPerUser(count, overflow)
        manager.loadNewSession("Luca")
        with pytest.raises(TooManySessions):
            manager.loadNewSession("Luca")

    def test_a_listener_that_fails_takes_no_end_from_the_others(self, manager, clock):
        """Not even one that raises what is no Exception, and so reaches the caller."""
        for _ in range(3):
            manager.loadNewSession("Luca")
        told = []

        def interrupted(key):
            told.append(key)
            if len(told) == 1:
                raise KeyboardInterrupt

        manager.on("sessionDeleted", interrupted)
        manager.setMaxSessionsPerUser(1)
        with pytest.raises(KeyboardInterrupt):
            manager.loadNewSession("Luca")
        assert len(told) == 3
        assert manager.getLoggedUsers() == ["Luca"]


class TestOneUsersSessions:
    def test_their_details_oldest_first(self, manager, clock):
        before = time.time()
        first = manager.loadNewSession("Luca", data={"browser": "Firefox"})
        clock.turn(1000)
        manager.loadNewSession("Fabio")
        second = manager.loadNewSession("Luca", timeout=50)
        rows = manager.getUserSessions("Luca")
        assert [row["key"] for row in rows] == [first, second]
        assert before <= rows[0].pop("createdAt") == rows[0].pop("authenticatedAt") <= time.time()
        assert rows[0] == {"key": first, "username": "Luca", "data": {"browser": "Firefox"}, "timeLeft": 2000}
        assert (rows[1]["data"], rows[1]["timeLeft"]) == (None, 50)
        assert manager.getUserSessions("Gino") == []
        assert [manager.getSessionTimeLeft(key) for key in (first, second)] == [2000, 50]

    def test_logged_out_everywhere(self, manager, said, io):
        keys = [manager.loadNewSession("Luca"), manager.loadNewSession("Luca")]
        other = manager.loadNewSession("Fabio")
        said.clear()
        assert manager.deleteUserSessions("Luca") == 2
        assert said == [event for key in keys for event in (*ended(key, "deleted"), ("notifyClientToLogout", io, key))]
        assert manager.deleteUserSessions("Luca") == 0
        assert manager.checkSessionStatus(other)

    def test_logged_out_everywhere_else(self, manager, said, io):
        keys = [manager.loadNewSession("Luca") for _ in range(3)]
        said.clear()
        assert manager.deleteUserSessions("Luca", exceptKey=keys[1]) == 2
        assert [event[1] for event in said if event[0] == "sessionDeleted"] == [keys[0], keys[2]]
        assert manager.checkSessionStatus(keys[1])

    @pytest.mark.parametrize("except_key", ["unknown", None, [], new_key(), 5], ids=repr)
    def test_what_is_no_session_of_theirs_spares_none(self, manager, except_key):
        manager.loadNewSession("Luca")
        assert manager.deleteUserSessions("Luca", except_key) == 1

    def test_all_have_ended_before_the_first_is_announced(self, manager):
        for _ in range(3):
            manager.loadNewSession("Luca")
        left = []
        manager.on("sessionDeleted", lambda key: left.append(len(manager.getUserSessions("Luca"))))
        manager.deleteUserSessions("Luca")
        assert left == [0, 0, 0]

    @pytest.mark.parametrize("method", ["getUserSessions", "deleteUserSessions"])
    @pytest.mark.parametrize(("username", "error"), [(None, TypeError), (b"Luca", TypeError), ("", ValueError)])
    def test_a_bad_username_is_named(self, manager, method, username, error):
        """Else "nobody of that name" would be taken for "logged out"."""
        with pytest.raises(error, match="username must be a non-empty str, got"):
            getattr(manager, method)(username)


class TestRenewal:
    def test_a_new_key_for_the_same_session(self, manager, clock, said):
        old = manager.loadNewSession("Luca", data={"a": 1})
        created = manager.getSession(old).createdAt
        clock.turn(1000)
        said.clear()
        new = manager.renewSessionKey(old)
        assert is_key(new)
        assert said == [("sessionRenewed", old, new)]
        assert manager.getSessionDetails(new) == {"username": "Luca", "createdAt": created, "data": {"a": 1}}
        assert manager.getSession(new).authenticatedAt > created
        assert manager.getSessionTimeLeft(new) == 2000
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(old)
        assert manager.getLoggedUsers() == ["Luca"]

    def test_requests_in_flight_pass_for_as_long_as_the_overlap(self, manager, clock):
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

    def test_a_logout_under_the_old_key_ends_the_session(self, manager, said):
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=5)
        said.clear()
        assert manager.deleteSession(old) is True
        assert said == ended(new, "deleted")

    def test_the_session_that_ended_knows_all_its_keys(self, manager):
        seen = []
        manager.on("sessionEnded", lambda session, reason: seen.append((session.key, session.formerKeys)))
        first = manager.loadNewSession("Luca")
        second = manager.renewSessionKey(first)
        third = manager.renewSessionKey(second, 5)
        manager.deleteSession(third)
        assert seen == [(third, (first, second))]

    @pytest.mark.parametrize(("overlap", "error"), [*BAD_SECONDS, (None, TypeError)])
    def test_a_bad_overlap_is_named_and_changes_nothing(self, manager, said, overlap, error):
        key = manager.loadNewSession("Luca")
        said.clear()
        with pytest.raises(error, match="the overlap must be"):
            manager.renewSessionKey(key, overlap)
        assert said == []
        assert manager.checkSessionStatus(key)


class TestWarning:
    def test_it_says_how_long_is_left_once_a_countdown(self, manager, clock, said):
        manager.setExpiryWarning(60)
        key = manager.loadNewSession("Luca")
        said.clear()
        clock.turn(2939)
        assert said == []
        clock.turn(1)
        clock.turn(30)
        assert said == [("sessionExpiring", key, 60)]
        manager.restartSessionTimer(key)
        clock.turn(2940)
        assert said == [("sessionExpiring", key, 60)] * 2
        clock.turn(60)
        assert said[2:] == ended(key, "expired")

    def test_none_takes_it_back(self, manager, clock, said):
        manager.setExpiryWarning(60)
        assert manager.setExpiryWarning(None) is True
        manager.loadNewSession("Luca")
        clock.turn(2990)
        assert [event[0] for event in said] == ["sessionCreated"]

    def test_a_listener_may_prolong_the_session(self, manager, clock, said):
        manager.setExpiryWarning(60)
        manager.on("sessionExpiring", lambda key, left: manager.restartSessionTimer(key))
        key = manager.loadNewSession("Luca")
        for _ in range(3):
            clock.turn(2940)
        assert manager.getSessionTimeLeft(key) == 3000

    @pytest.mark.parametrize(("seconds", "error"), [*BAD_SECONDS, (0, ValueError)])
    def test_a_bad_one_is_named_and_changes_nothing(self, manager, clock, said, seconds, error):
        manager.setExpiryWarning(60)
        with pytest.raises(error, match="the warning must be"):
            manager.setExpiryWarning(seconds)
        key = manager.loadNewSession("Luca")
        clock.turn(2940)
        assert ("sessionExpiring", key, 60) in said


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


@pytest.mark.in_memory
def test_one_users_sessions_cost_what_that_users_sessions_cost(manager):
    """Not what all sessions cost, but for the first call about a user."""

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
