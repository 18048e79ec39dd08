"""A fresh manager for each test, which leaves nothing behind, and its clock."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from users_session_manager import MemoryStore, SessionError, SessionManager, SessionRejected
from users_session_manager.stores.base import Notice
from users_session_manager.testing import ManualClock, fresh_sessions

NOWHERE = "redis://127.0.0.1:1/0"
"""The address of a Redis that does not exist."""


class Watcher:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def watched(self) -> dict[Any, str]:
        return {}

    def noticed(self, notice: Notice) -> None:
        self.kinds.append(notice.kind)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with fresh_sessions() as clock:
        yield clock


def test_sessions_end_with_the_test():
    """Those from before are there again, and those of the test are gone, without an event."""
    manager, ended = SessionManager(), []
    before = manager.loadNewSession("luca")
    manager.on("sessionDeleted", ended.append)
    with fresh_sessions():
        assert SessionManager() is manager
        assert manager.getLoggedUsers() == []
        key = manager.loadNewSession("fabio")
        assert manager.getUsernameFromSessionKey(before) is False
    assert manager.getLoggedUsers() == ["luca"]
    assert manager.getUsernameFromSessionKey(key) is False
    assert ended == []


def test_what_the_application_has_made_is_kept():
    """Its listeners, settings, watchers and socket reference are there in each test, those of the last test are not."""
    manager, heard, watcher, io = SessionManager(), [], Watcher(), object()
    manager.on("sessionDeleted", lambda key: heard.append("application"))
    manager.setSessionTimeOut(60)
    manager.setExpiryWarning(10)
    manager.addWatcher(watcher)
    manager.initSocketReference(io)
    for turn in range(2):
        with fresh_sessions():
            assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (60, None)
            assert manager.getSocketReference() is io
            manager.on("sessionDeleted", lambda key: heard.append("test"))
            manager.once("sessionCreated", lambda key: heard.append("created"))
            manager.addWatcher(Watcher())
            manager.setSessionTimeOut(120)
            manager.setMaxSessionLifetime(1000)
            manager.setMaxSessionsPerUser(1)
            manager.setExpiryWarning(None)
            manager.initSocketReference(object())
            manager.deleteSession(manager.loadNewSession("luca"))
            assert heard == ["created", "application", "test"] * (turn + 1)
            assert watcher.kinds == ["deleted"] * (turn + 1)
    heard.clear()
    manager.deleteSession(manager.loadNewSession("luca"))
    assert heard == ["application"]
    assert (manager.getSessionTimeout(), manager.getSocketReference()) == (60, io)


def test_settings_that_a_first_request_applies():
    """They are applied again in each test: its first request is the first one that there is."""
    flask = pytest.importorskip("flask")
    from users_session_manager.integrations.flask import UserSessions

    manager, app = SessionManager(), flask.Flask("shop")
    app.config["USER_SESSIONS_TIMEOUT"] = 60
    sessions = UserSessions(app)
    for _ in range(2):
        with fresh_sessions():
            assert manager.getSessionTimeout() == 3000
            assert sessions.manager is manager
            assert manager.getSessionTimeout() == 60


def test_what_the_test_removes_is_put_back():
    """A listener, a watcher or a socket reference that the application has set."""
    manager, heard, watcher, io = SessionManager(), [], Watcher(), object()
    listener = manager.on("sessionDeleted", heard.append)
    manager.addWatcher(watcher)
    manager.initSocketReference(io)
    with fresh_sessions():
        manager.remove_all_listeners()
        manager.removeWatcher(watcher)
        manager.initSocketReference(None)
        manager.deleteSession(manager.loadNewSession("luca"))
        assert (heard, watcher.kinds) == ([], [])
    assert manager.listeners("sessionDeleted") == [listener]
    assert manager.getSocketReference() is io
    manager.deleteSession(manager.loadNewSession("luca"))
    assert (len(heard), watcher.kinds) == (1, ["deleted"])


def test_a_manager_that_is_made_within():
    """It is closed at the end, and the next test has another one, which may name another store."""
    for store in (None, NOWHERE, "redis://127.0.0.1:2/0", MemoryStore()):
        with fresh_sessions() as clock:
            manager = SessionManager(store=store)
            key = manager.loadNewSession("luca")
            assert (manager.blocking, manager.getSessionTimeLeft(key)) == (False, 3000)
            clock.advance(hours=1)
            assert manager.getLoggedUsers() == []
        with pytest.raises(SessionError, match="closed"):
            manager.loadNewSession("luca")


def test_a_store_that_cannot_be_reached_is_not_asked(clock: ManualClock):
    """As set up for Redis, on a machine without one."""
    manager = SessionManager(store=NOWHERE)
    manager.serve()
    assert manager.checkSessionStatus(manager.loadNewSession("luca"))


def test_a_second_store_is_an_error_as_ever():
    with fresh_sessions():
        SessionManager()
        with pytest.raises(SessionError, match="another"):
            SessionManager(store=NOWHERE)
        SessionManager().close()
        with pytest.raises(ValueError, match="scheme"):
            SessionManager(store="127.0.0.1:6379")


def test_a_manager_set_up_for_redis_at_import():
    """It needs no Redis in the tests."""
    manager = SessionManager(store=NOWHERE)
    manager.serve()
    with fresh_sessions():
        assert manager.checkSessionStatus(manager.loadNewSession("luca"))
        assert SessionManager(store=NOWHERE) is manager
    assert manager.blocking


def test_a_test_may_close_the_manager():
    """The application has its own again afterwards, and the other one is closed."""
    manager, ended = SessionManager(), []
    manager.on("sessionDeleted", ended.append)
    with fresh_sessions() as clock:
        manager.close()
        other = SessionManager()
        other.loadNewSession("luca")
        assert other is not manager
        clock.advance(hours=1)
        assert other.getLoggedUsers() == []
    assert SessionManager() is manager
    manager.deleteSession(manager.loadNewSession("luca"))
    assert len(ended) == 1
    with pytest.raises(SessionError, match="closed"):
        other.loadNewSession("luca")


def test_after_a_failure():
    """A test that fails leaves nothing behind either."""
    manager = SessionManager()

    def fail() -> None:
        with fresh_sessions():
            manager.loadNewSession("luca")
            manager.setSessionTimeOut(5)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert (manager.getLoggedUsers(), manager.getSessionTimeout()) == ([], 3000)


def test_within_one_another():
    """The sessions of the outer one are there again after the inner one."""
    manager = SessionManager()
    with fresh_sessions() as outer:
        key = manager.loadNewSession("luca")
        with fresh_sessions() as inner:
            inner.advance(hours=1)
            assert manager.getLoggedUsers() == []
        assert manager.getSessionTimeLeft(key) == 3000
        outer.advance(seconds=3000)
        assert manager.getLoggedUsers() == []


def test_no_thread():
    """Nothing expires by itself, and no thread is there for it."""
    before = set(threading.enumerate())
    with fresh_sessions():
        SessionManager().loadNewSession("luca")
        SessionManager().serve()
        assert set(threading.enumerate()) <= before


def test_the_thread_of_the_application_stops():
    """A session from before the test does not expire in the middle of it."""
    manager = SessionManager()
    manager.loadNewSession("luca")
    with fresh_sessions():
        assert "users-session-manager clock" not in [thread.name for thread in threading.enumerate()]


# The clock


def test_advance(clock: ManualClock):
    manager = SessionManager()
    key = manager.loadNewSession("luca", timeout=100_000)
    for argument, left in (
        ({"seconds": 1}, 99_999),
        ({"minutes": 1.5}, 99_909),
        ({"hours": 1}, 96_309),
        ({"days": 1, "hours": 1}, 6_309),
        ({}, 6_309),
    ):
        clock.advance(**argument)
        assert manager.getSessionTimeLeft(key) == left
    clock.advance(timedelta(hours=1), seconds=9)
    assert manager.getSessionTimeLeft(key) == 2_700
    clock.advance(minutes=44, seconds=59)
    assert manager.checkSessionStatus(key)
    clock.advance(seconds=1)
    assert manager.getUsernameFromSessionKey(key) is False


@pytest.mark.parametrize("wrong", [{"seconds": -1}, {"minutes": 1, "seconds": -61}, {"delta": timedelta(-1)}])
def test_backwards(clock: ManualClock, wrong: dict[str, Any]):
    key = SessionManager().loadNewSession("luca")
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(**wrong)
    assert SessionManager().getSessionTimeLeft(key) == 3000


@pytest.mark.parametrize("wrong", [{"delta": 20}, {"delta": "20"}, {"seconds": "20"}, {"minutes": None}])
def test_no_time(clock: ManualClock, wrong: dict[str, Any]):
    with pytest.raises(TypeError):
        clock.advance(**wrong)


def test_order_of_time(clock: ManualClock):
    """Warnings and ends come in the order of time, on this thread, each at the time at which it is due."""
    manager, heard, threads = SessionManager(), [], set()
    manager.setExpiryWarning(10)
    slow, fast = manager.loadNewSession("slow", timeout=100), manager.loadNewSession("fast", timeout=95)
    names = {slow: "slow", fast: "fast"}

    def note(what: str, key: str) -> None:
        threads.add(threading.get_ident())
        left = manager.getSessionTimeLeft(slow) if manager.findSession(slow) else 0
        heard.append((what, names[key], left))

    manager.on("sessionExpiring", lambda key, left: note(f"{left:g} left", key))
    manager.on("sessionDeleted", lambda key: note("ended", key))
    clock.advance(hours=1)
    assert heard == [("10 left", "fast", 15), ("10 left", "slow", 10), ("ended", "fast", 5), ("ended", "slow", 0)]
    assert threads == {threading.get_ident()}


def test_a_warning_that_is_longer_than_the_time_so_far(clock: ManualClock):
    """As just after the machine has started: the warning comes at once, and the session expires."""
    manager, heard = SessionManager(), []
    manager.on("sessionExpiring", lambda key, left: heard.append(left))
    manager.on("sessionEnded", lambda session, reason: heard.append(reason))
    manager.setExpiryWarning(60)
    manager.loadNewSession("luca", timeout=30)
    clock.advance()
    assert heard == [30]
    clock.advance(seconds=30)
    assert heard == [30, "expired"]


def test_what_a_listener_starts(clock: ManualClock):
    """A session that a listener starts, within the time that is turned, ends within it too."""
    manager, created = SessionManager(), []

    def again(session: Any, reason: str) -> None:
        if len(created) < 3:
            created.append(manager.loadNewSession("luca", timeout=60))

    manager.on("sessionEnded", again)
    manager.loadNewSession("luca", timeout=60)
    clock.advance(seconds=180)
    assert len(created) == 3
    assert manager.getSessionTimeLeft(created[2]) == 60


def test_a_listener_that_fails(clock: ManualClock, caplog: pytest.LogCaptureFixture):
    """The time goes on, and the log says so, as in the application."""
    manager, ended = SessionManager(), []
    manager.on("sessionDeleted", lambda key: 1 / 0)
    manager.on("sessionDeleted", ended.append)
    keys = [manager.loadNewSession("luca"), manager.loadNewSession("fabio")]
    clock.advance(seconds=3000)
    assert ended == keys
    assert "ZeroDivisionError" in caplog.text


def test_async_listeners_on_another_thread(clock: ManualClock):
    """They have run when the call returns, in order of time."""
    loop, heard = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    manager = SessionManager()
    manager.bindLoop(loop)

    async def note(session: Any, reason: str) -> None:
        await asyncio.sleep(0)
        heard.append((session.username, manager.getLoggedUsers()))

    manager.on("sessionEnded", note)
    manager.loadNewSession("later", timeout=20)
    manager.loadNewSession("sooner", timeout=10)
    clock.advance(seconds=30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert heard == [("sooner", ["later"]), ("later", [])]


async def _turn_on_the_loop(clock: ManualClock) -> list[str]:
    manager, heard = SessionManager(), []

    async def note(session: Any, reason: str) -> None:
        heard.append(session.username)

    manager.on("sessionEnded", note)
    manager.loadNewSession("luca")
    clock.advance(seconds=3000)
    assert heard == []
    await asyncio.sleep(0)
    return heard


def test_async_listeners_on_this_thread(clock: ManualClock):
    """They run as soon as the test awaits something."""
    assert asyncio.run(_turn_on_the_loop(clock)) == ["luca"]


def test_timers(clock: ManualClock):
    """The timer of a session follows the clock too."""
    manager = SessionManager()
    key = manager.loadNewSession("luca")
    timer = manager.createNewSessionTimer(key, "luca")
    clock.advance(seconds=2999)
    assert timer.is_alive()
    clock.advance(seconds=1)
    assert not timer.is_alive()
    with pytest.raises(SessionRejected):
        manager.getSession(key)


# Modules that are imported within a test


@pytest.mark.parametrize(
    "line",
    [
        "manager = SessionManager()",
        "SessionManager().on('sessionEnded', print)",
        "SessionManager().addWatcher(object())",
    ],
)
def test_an_import_within_a_test(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its listeners would be gone in the next test, which imports nothing: the warning says what to do."""
    (tmp_path / "imported_late.py").write_text(f"from users_session_manager import SessionManager\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_late", raising=False)
    if not line.startswith("manager"):
        SessionManager()
    with fresh_sessions(), pytest.warns(RuntimeWarning, match="^imported_late is imported within a test"):
        importlib.import_module("imported_late")
    monkeypatch.delitem(sys.modules, "imported_late")
    importlib.import_module("imported_late")  # elsewhere it is the usual way


def test_no_import_within_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A factory that is imported within a test may set the manager up when it is called."""
    text = (
        "from users_session_manager import SessionManager\ndef create(): SessionManager().on('sessionEnded', print)\n"
    )
    (tmp_path / "factory_late.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with fresh_sessions():
        importlib.import_module("factory_late").create()  # a warning would be an error
    monkeypatch.delitem(sys.modules, "factory_late")
