"""A process runs no thread before it serves, and none after it was stopped until the next call."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from waiting import eventually

from users_session_manager import SessionManager, SessionRejected
from users_session_manager.stores.base import Notice


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")]


class TestStop:
    def test_again(self):
        """Stopped, sessions, listeners and settings stay; the next sign-in starts the thread, which goes on."""
        manager, ended = SessionManager(), threading.Event()
        manager.on("sessionDeleted", lambda key: ended.set() if key == short else None)
        manager.setSessionTimeOut(77)
        assert own_threads() == [], "nothing runs before it is needed"
        short, key = manager.loadNewSession("Luca", timeout=2), manager.loadNewSession("Marco")
        assert len(own_threads()) == 1
        for _ in range(2):
            manager.stop()
            eventually(lambda: own_threads() == [])
        assert manager.getSession(key).username == "Marco"
        assert manager.getSessionTimeout() == 77
        manager.resumeSession(key)
        assert len(own_threads()) == 1
        assert ended.wait(30)
        with pytest.raises(SessionRejected):
            manager.getSession(short)

    def test_serve(self):
        """`serve` starts what a sign-in starts; twice is harmless, and after `close` it does nothing."""
        manager = SessionManager()
        for _ in range(2):
            manager.serve()
            assert len(own_threads()) == 1
        manager.close()
        manager.serve()
        manager.stop()
        eventually(lambda: own_threads() == [])

    def test_many_times(self):
        """However often it is stopped and started, one thread runs, and alarms ring."""
        manager, ended = SessionManager(), []
        manager.on("sessionDeleted", ended.append)
        key = manager.loadNewSession("Luca", timeout=2)
        for _ in range(200):
            manager.stop()
            manager.serve()
        assert len(own_threads()) == 1
        deadline = time.monotonic() + 30
        while not ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ended == [key]


class Watcher:
    def __init__(self) -> None:
        self.notices: list[tuple[str, Any, float | None]] = []

    def watched(self) -> dict[Any, str]:
        return {}

    def noticed(self, notice: Notice) -> None:
        self.notices.append((notice.kind, notice.key, notice.left))


class TestNotices:
    def test_kinds(self, manager, clock):
        """Each end, renewal, warning and logout is one notice, in the order in which they happen."""
        watcher = Watcher()
        manager.addWatcher(watcher)
        manager.setExpiryWarning(10)
        key, other = manager.loadNewSession("Luca", timeout=60), manager.loadNewSession("Marco", timeout=600)
        new = manager.renewSessionKey(key)
        manager.sendLogoutMessage(new)
        clock.turn(50)
        clock.turn(10)
        manager.deleteSession(other)
        third = manager.loadNewSession("Luca")
        manager.deleteUserSessions("Luca")
        expected = [("renewed", new, None), ("logout", new, None), ("expiring", new, 10.0), ("ended", new, None)]
        assert watcher.notices == [*expected, ("deleted", other, None), ("ended", third, None)]
        manager.removeWatcher(watcher)
        manager.removeWatcher(watcher)
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert len(watcher.notices) == 6

    def test_failing(self, manager):
        """A watcher that fails keeps nothing from the caller and from the others; it is a failed listener."""
        failed, watcher = [], Watcher()
        manager.on("listenerFailed", lambda failure, event, listener: failed.append((repr(failure), event)))

        class Broken(Watcher):
            def noticed(self, notice: Notice) -> None:
                raise ValueError("broken")

        manager.addWatcher(Broken())
        manager.addWatcher(watcher)
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert failed == [("ValueError('broken')", "notice")]
        assert len(watcher.notices) == 1

    def test_present_keys(self, manager, clock):
        """The present keys of sessions are found by their ids, and none of one that has ended."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Marco")
        ids = [manager.getSession(each)._id for each in (key, other)]
        new = manager.renewSessionKey(key)
        assert manager.presentKeys(ids) == [new, other]
        manager.deleteSession(other)
        assert manager.presentKeys([*reversed(ids)]) == [None, new]
        clock.turn(3000)
        assert manager.presentKeys(ids) == [None, None]
        assert manager.presentKeys([]) == []
