"""The methods of the manager for integrations and test runs, over each store."""

from __future__ import annotations

from typing import Any

import pytest

from users_session_manager.stores.base import Callbacks

pytestmark = pytest.mark.parametrize("store_kind", ["memory", "redis", "cluster", "sqlite", "postgresql"])

EVENTS = "sessionCreated sessionDeleted activeUserDeleted sessionEnded sessionRenewed sessionExpiring".split()
EVENTS += ["notifyClientToLogout", "sessionRejected", "error"]


class Watcher:
    """Notes the notices for clients."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.keys: dict[Any, str] = {}

    def watched(self) -> dict[Any, str]:
        return self.keys

    def noticed(self, notice: Any) -> None:
        self.kinds.append(notice.kind)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def io() -> object:
    return object()


@pytest.fixture
def events(manager, clock, watcher, io) -> list[tuple[Any, ...]]:
    """All events in their order, of a manager that serves, has a socket reference and a watcher."""
    events: list[tuple[Any, ...]] = []
    for name in EVENTS:
        manager.on(name, lambda *args, name=name: events.append((name, *(getattr(arg, "key", arg) for arg in args))))
    manager.initSocketReference(io)
    manager.addWatcher(watcher)
    manager.serve()
    clock.turn(0)  # it subscribes, and the store notes that there is a listener
    return events


class TestStaleSessions:
    def test_end(self, manager, clock, events, watcher, io):
        """The sessions of a user whose stamp is not current end, each as by `deleteUserSessions`; others do not."""
        stale = [manager.loadNewSession("Luca", securityStamp=stamp) for stamp in ("old", "")]
        kept = [
            manager.loadNewSession("Luca", securityStamp="new"),
            manager.loadNewSession("Luca"),
            manager.loadNewSession("Fabio", securityStamp="old"),
            manager.loadNewSession("Luca", userId=7, securityStamp="old"),
        ]
        watcher.keys = {manager.getSession(key)._id: key for key in [*stale, *kept]}
        events.clear()
        asked = []
        assert manager._end_stale_sessions("Luca", lambda stamp: asked.append(stamp) or stamp == "new") == 2
        assert asked == ["old", "", "new"]
        clock.turn(0)
        notified = [event for event in events if event[0] == "notifyClientToLogout"]
        assert sorted(notified, key=str) == sorted([("notifyClientToLogout", io, key) for key in stale], key=str)
        assert [event for event in events if event not in notified] == [
            event
            for key in stale
            for event in (("sessionDeleted", key), ("activeUserDeleted", key), ("sessionEnded", key, "deleted"))
        ]
        assert watcher.kinds == ["ended", "ended"]
        assert all(map(manager.findSession, kept))
        assert not any(map(manager.findSession, stale))
        assert manager._end_stale_sessions("Luca", lambda stamp: stamp == "new") == 0
        assert manager._end_stale_sessions(7, lambda stamp: stamp == "new") == 1

    def test_except(self, manager):
        """The session of one key is spared, be it a former one in its overlap."""
        old, other = (manager.loadNewSession("Luca", securityStamp="old") for _ in range(2))
        new = manager.renewSessionKey(old, 5)
        assert manager._end_stale_sessions("Luca", lambda stamp: False, new) == 1
        assert manager.findSession(other) is None
        assert manager._end_stale_sessions("Luca", lambda stamp: False, old) == 0
        assert manager._end_stale_sessions("Luca", lambda stamp: False, "unknown") == 1

    def test_ended_in_between(self, manager, events):
        """A session that ends while it is asked about is no second end, nor a rejection."""
        manager.loadNewSession("Luca", securityStamp="old")
        assert manager._end_stale_sessions("Luca", lambda stamp: not manager.deleteAllSessions()) == 0
        assert [name for name, *_ in events].count("sessionDeleted") == 1
        assert "sessionRejected" not in [name for name, *_ in events]

    def test_failure(self, manager, events):
        """An exception of `is_current` passes through; the sessions that have ended before it are announced."""
        keys = [manager.loadNewSession("Luca", securityStamp=stamp) for stamp in ("old", "bad")]
        with pytest.raises(KeyError):
            manager._end_stale_sessions("Luca", lambda stamp: {"old": False}[stamp])
        assert ("sessionEnded", keys[0], "deleted") in events
        assert manager.findSession(keys[1])


class TestForgetAll:
    def test_silent(self, manager, clock, events, watcher, io, caplog):
        """All sessions end without any event, notice or line in the log; all else stays."""
        manager.setSessionTimeOut(60)
        manager.setExpiryWarning(10)
        manager.setMaxSessionsPerUser(1)
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino")]
        keys.append(manager.renewSessionKey(keys[0], 30))
        clock.turn(0)
        events.clear()
        watcher.kinds.clear()
        caplog.clear()
        manager._forget_all()
        clock.turn(1)
        clock.turn(60)
        assert manager.getLoggedUsers() == []
        assert manager.getUserSessions("Luca") == []
        assert not any(map(manager.findSession, keys))
        assert (events, watcher.kinds, caplog.messages) == ([], [], [])

        assert manager.getSocketReference() is io
        key = manager.loadNewSession("Luca")
        assert manager.getSessionTimeLeft(key) == 60
        watcher.keys = {manager.getSession(key)._id: key}
        clock.turn(60)
        names = "sessionCreated sessionDeleted activeUserDeleted sessionEnded notifyClientToLogout"
        assert {name for name, *_ in events} == set(names.split())
        assert "ended" in watcher.kinds

    def test_without_listener(self, manager, clock, any_store, store_kind):
        """Where this process has no listener, the ends are not left to a process that has one, either."""
        heard = []
        other = any_store(now=lambda: clock.seconds, thread=False)
        other.open(Callbacks(on_ended=lambda session, reason: heard.append(session.username)))
        other.serve()
        other.run_due()
        manager.loadNewSession("Luca")
        manager._forget_all()
        clock.seconds += 100
        other.run_due()
        assert heard == []
        manager.loadNewSession("Fabio")
        manager.deleteAllSessions()
        other.run_due()
        assert heard == ([] if store_kind == "memory" else ["Fabio"])
        other.close()

    def test_expired(self, manager, clock, events):
        """An expired session that was not announced yet is forgotten, too."""
        key = manager.loadNewSession("Luca", timeout=5)
        clock.seconds += 10
        manager._forget_all()
        clock.turn(1)
        assert events == [("sessionCreated", key)]

    def test_many(self, manager):
        """There may be more than one call of a shared store ends."""
        for number in range(120):
            manager.loadNewSession(f"user {number % 7}")
        manager._forget_all()
        assert len(manager.sessions) == 0


class TestFollowers:
    """Presence gets every session that begins or ends, and all that are live."""

    def test_notices(self, manager, clock, events, watcher):
        """A follower hears of each session that begins and ends, by its id, and a watcher of no login."""
        heard: list[tuple[str, Any]] = []

        def follow(notice: Any) -> None:
            heard.append((notice.kind, notice.session_id))

        manager.addFollower(follow)
        clock.turn(0)
        assert heard in ([], [("missed", None)])
        heard.clear()
        keys = [manager.loadNewSession(name, timeout=60) for name in ("Luca", "Mia", "Gino")]
        ids = [manager.getSession(key)._id for key in keys]
        clock.turn(0)
        manager.renewSessionKey(keys[0])
        manager.sendLogoutMessage(keys[1])
        manager.deleteSession(keys[1])
        clock.turn(0)
        manager.deleteUserSessions("Gino")
        clock.turn(0)
        clock.turn(60)
        clock.turn(0)
        assert heard[:3] == [("created", each) for each in ids]
        assert heard[3:] == [("deleted", ids[1]), ("ended", ids[2]), ("ended", ids[0])]
        assert not {"created", "missed"} & {*watcher.kinds}
        manager.removeFollower(follow)
        manager.removeFollower(follow)
        heard.clear()
        manager.deleteSession(manager.loadNewSession("Luca"))
        clock.turn(0)
        assert heard == []

    def test_all_sessions(self, manager, clock):
        """All live sessions are listed, and found by their ids."""
        keys = [manager.loadNewSession(f"user {number}", userId=number, data={"n": number}) for number in range(1203)]
        expected = {manager.getSession(key)._id: number for number, key in enumerate(keys[3:], 3)}
        ended = [manager.getSession(key)._id for key in keys[:3]]
        for key in keys[:3]:
            manager.deleteSession(key)
        pages = [*manager.listSessions()]
        assert len(pages) > 1
        found = {each._id: each for page in pages for each in page}
        assert {session_id: each.data["n"] for session_id, each in found.items()} == expected
        ids = [*ended, *expected]
        sessions = manager.findSessions(ids)
        assert sessions[:3] == [None] * 3
        assert [(each.userId, each.key) for each in sessions[3:]] == [(str(n), keys[n]) for n in expected.values()]
        assert manager.findSessions([]) == []
        clock.seconds += 3000  # they have expired, announced or not
        assert [each for page in manager.listSessions() for each in page] == []
        assert {*manager.findSessions(ids)} == {None}
        manager.close()
        assert [*manager.listSessions()] == []
