"""A manager on a shared store, from the first login to the last end."""

from __future__ import annotations

import time

import pytest

from users_session_manager import SessionError, SessionManager, SessionRejected, TooManySessions
from users_session_manager.keys import is_key, new_key

EVENTS = "sessionCreated sessionDeleted activeUserDeleted sessionEnded sessionRenewed sessionExpiring".split()
EVENTS += ["notifyClientToLogout", "sessionRejected", "listenerFailed"]


@pytest.mark.parametrize("store_kind", ["redis", "cluster", "sqlite", "postgresql"])
def test_smoke(manager, clock, store_kind):
    """Login, restart, data, renewal, limits, warnings, expiry, deletion and rejection, each event exactly once."""
    events = []

    def listener(name):
        return lambda *args: events.append((name, *(getattr(arg, "key", arg) for arg in args)))

    def emitted():
        found = events[:]
        events.clear()
        return found

    def notified():
        """The keys of the notices, which come from Redis after the events of the call."""
        clock.turn(0)
        keys = [key for name, reference, key in found_notices() if (name, reference) == ("notifyClientToLogout", io)]
        return sorted(keys)

    def found_notices():
        found = [event for event in events if event[0] == "notifyClientToLogout"]
        events[:] = [event for event in events if event[0] != "notifyClientToLogout"]
        return found

    def ended(key, reason):
        return [("sessionDeleted", key), ("activeUserDeleted", key), ("sessionEnded", key, reason)]

    for name in EVENTS:
        manager.on(name, listener(name))
    io = object()
    manager.initSocketReference(io)
    assert manager.blocking is True
    manager.serve()
    clock.turn(0)  # it subscribes to the notices

    # Login
    before = time.time()
    key = manager.loadNewSession("Luca", data={"a": [1, None, "ü"]})
    own = manager.loadNewSession("Zoë \ud800", timeout=10_000, lifetime=12_000)
    assert is_key(key)
    assert emitted() == [("sessionCreated", key), ("sessionCreated", own)]
    assert manager.getLoggedUsers() == ["Luca", "Zoë \ud800"]
    assert list(manager.sessions) == [key, own]
    assert len(manager.sessions) == 2
    assert manager.sessions[key].username == manager.getUsernameFromSessionKey(key) == "Luca"
    details = manager.getSessionDetails(key)
    assert before - 1 <= details.pop("createdAt") <= time.time() + 1
    assert details == {"username": "Luca", "data": {"a": [1, None, "ü"]}}
    (row,) = manager.getUserSessions("Zoë \ud800")
    assert (row["key"], row["data"], row["timeLeft"]) == (own, None, 10_000)
    with pytest.raises(TypeError, match="what JSON can hold"):
        manager.loadNewSession("Luca", data=object())
    for data in ({1, 2}, float("nan")):
        with pytest.raises(TypeError, match="what JSON can hold"):
            manager.setSessionData(key, data)
    assert manager.setSessionData(key, 7) is True
    assert manager.getSessionData(key) == 7

    # Restart: with the timeout that is set now, but for one of the session's own
    clock.turn(2999)
    manager.setSessionTimeOut(100)
    assert manager.restartSessionTimer(key) is True
    assert manager.resumeSession(own).timeout == 10_000
    assert (manager.getSessionTimeLeft(key), manager.getSessionTimeLeft(own)) == (100, 12_000 - 2999)
    timer = manager.createNewSessionTimer(key, "Luca")
    assert timer.is_alive()
    assert emitted() == []

    # Renewal, with an overlap and without
    second = manager.renewSessionKey(key, overlap=5)
    third = manager.renewSessionKey(second)
    assert emitted() == [("sessionRenewed", key, second), ("sessionRenewed", second, third)]
    session = manager.getSession(third)
    assert (session.key, session.formerKeys) == (third, (second,))
    assert 0 <= session.authenticationAge < 60
    assert session.timer is session.timer
    assert manager.findSession(key) is manager.findSession(second) is None
    fourth = manager.renewSessionKey(third, overlap=5)
    assert manager.getSession(third).key == fourth
    clock.turn(5)
    with pytest.raises(SessionRejected):
        manager.getSession(third)
    assert emitted() == [("sessionRenewed", third, fourth), ("sessionRejected", third)]

    # A limit, of both kinds
    manager.setMaxSessionsPerUser(2)
    fifth = manager.loadNewSession("Luca")
    sixth = manager.loadNewSession("Luca")
    assert notified() == [fourth]
    assert emitted() == [("sessionCreated", fifth), *ended(fourth, "evicted"), ("sessionCreated", sixth)]
    assert manager.sendLogoutMessage(fifth) is True
    assert notified() == [fifth]
    assert manager.sendLogoutMessage(fourth) is True
    assert notified() == [fourth], "as in npm, for any key, and then in this process alone"
    manager.setMaxSessionsPerUser(2, "reject")
    with pytest.raises(TooManySessions, match="'Luca' has 2 sessions, and may have 2"):
        manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(None)
    assert emitted() == []

    # A warning, then the end
    manager.setExpiryWarning(60)
    manager.restartSessionTimer(fifth)
    clock.turn(40)
    clock.turn(50)
    assert emitted() == [("sessionExpiring", fifth, 60)]
    clock.turn(10)
    assert notified() == sorted([fifth, sixth])
    assert sorted(emitted()) == sorted(event for one in (fifth, sixth) for event in ended(one, "expired"))
    clock.turn(100)
    assert emitted() == []

    # Deletion, of one, of a user's others and of all
    keys = [manager.loadNewSession("Luca") for _ in range(4)]
    emitted()
    assert manager.deleteSession(keys[0]) is True
    assert emitted() == ended(keys[0], "deleted")
    assert notified() == [], "as in npm"
    assert manager.deleteUserSessions("Luca", exceptKey=keys[3]) == 2
    assert notified() == sorted(keys[1:3])
    assert emitted() == [event for one in keys[1:3] for event in ended(one, "deleted")]
    assert manager.deleteAllSessions() is True
    assert notified() == sorted([own, keys[3]])
    assert emitted() == [event for one in (own, keys[3]) for event in ended(one, "deleted")]
    assert manager.deleteAllSessions() is True
    clock.turn(20_000)
    assert emitted() == []
    assert manager.getLoggedUsers() == list(manager.sessions) == manager.getUserSessions("Luca") == []

    # Rejection
    errors = []
    manager.on("error", lambda error, details: errors.append((type(error), details)))
    for bad in (key, fourth, own, new_key(), "unknown", None, []):
        assert manager.checkSessionStatus(bad) is False
        assert errors.pop() == (SessionRejected, {"key": bad})
        with pytest.raises(SessionRejected):
            manager.resumeSession(bad)
        assert emitted() == [("sessionRejected", bad)] * 2
        errors.clear()
    manager.close()
    with pytest.raises(SessionError, match="before; make a new one"):
        SessionManager(store=clock.store)
    assert not [text for text in (repr(manager), repr(manager.sessions), repr(session)) if fourth[-32:] in text]
