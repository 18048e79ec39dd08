"""The npm API name for name, and how the manager treats keys, ends and stores."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import pyee
import pytest

from users_session_manager import (
    MemoryStore,
    Session,
    SessionError,
    SessionManager,
    SessionRejected,
    StoreUnavailable,
)

REJECTION = "[Session Manager]: ⚠ !Session rejected! ⚠"
KEY = re.compile(r"[A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4}_[0-9A-F]{32}")


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


class Unequal:
    def __hash__(self) -> int:
        raise RuntimeError("not to be called")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be called")


BAD_KEYS = [
    *(None, [], {}, 1, True, float("nan"), ((),), Unhashable(), Unequal()),
    *("", "__proto__", "x" * 10_000_000, "\ud800", "Otter-candid-46-k3xq_00000000000000000000000000000000"),
    b"Otter-candid-46-k3xq_00000000000000000000000000000000",
]

NPM_METHODS = {
    "checkSessionStatus": lambda manager, key: manager.checkSessionStatus(key),
    "restartSessionTimer": lambda manager, key: manager.restartSessionTimer(key),
    "getSessionDetails": lambda manager, key: manager.getSessionDetails(key),
    "setSessionData": lambda manager, key: manager.setSessionData(key, {"a": 1}),
    "getSessionData": lambda manager, key: manager.getSessionData(key),
    "deleteSession": lambda manager, key: manager.deleteSession(key),
}
NEWER_METHODS = {
    "getSessionTimeLeft": lambda manager, key: manager.getSessionTimeLeft(key),
    "getSession": lambda manager, key: manager.getSession(key),
    "resumeSession": lambda manager, key: manager.resumeSession(key),
    "renewSessionKey": lambda manager, key: manager.renewSessionKey(key),
    "updateSessionData": lambda manager, key: manager.updateSessionData(key, lambda data: data),
}
TAKES_A_KEY = NPM_METHODS | NEWER_METHODS


class TestSingleton:
    def test_one(self, manager):
        """There is one manager, and it is an emitter."""
        assert SessionManager() is manager
        assert isinstance(manager, pyee.EventEmitter)

    def test_race(self):
        """Sixteen threads that race for the first manager get the same one."""
        for _ in range(20):
            barrier = threading.Barrier(16)
            found: list[SessionManager] = []

            def race(barrier=barrier, found=found):
                barrier.wait()
                found.append(SessionManager())

            threads = [threading.Thread(target=race) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 16
            assert len(set(map(id, found))) == 1
            found[0].close()

    def test_same_store(self, manager, clock):
        """A later call may name the same store and no other."""
        assert SessionManager(store=clock.store) is manager
        with pytest.raises(SessionError, match="names another"):
            SessionManager(store="redis://:hunter2@127.0.0.1/0")

    def test_no_store(self):
        """A wrong store is refused, and its password is not shown."""
        with pytest.raises(ValueError, match="'carrier-pigeon'") as refusal:
            SessionManager(store="carrier-pigeon://:hunter2@host")
        assert "hunter2" not in str(refusal.value)
        for store in (5, object()):
            with pytest.raises(TypeError, match=f"a Store, got {type(store).__name__}"):
                SessionManager(store=store)  # type: ignore[arg-type]
        assert SessionManager().getLoggedUsers() == []

    def test_bad_arguments(self):
        """Settings are methods: any argument but the store is refused by name, and there is no manager."""
        with pytest.raises(TypeError, match=r"only store=\.\.\., got int, timeout"):
            SessionManager(5, timeout=60)
        assert SessionManager(store=None)

    def test_subclass(self, clock):
        """A subclass can be the one."""

        class Mine(SessionManager):
            pass

        mine = Mine(store=clock.store)
        assert SessionManager() is mine

    def test_late_subclass(self, manager):
        """A subclass that is made too late is an error."""

        class Mine(SessionManager):
            pass

        with pytest.raises(SessionError, match="SessionManager"):
            Mine()

    def test_close(self, manager):
        """Closing frees the singleton, and may be done twice."""
        key = manager.loadNewSession("Luca")
        manager.close()
        manager.close()
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)
        with pytest.raises(SessionError, match="closed"):
            manager.loadNewSession("Luca")
        fresh = SessionManager()
        assert fresh is not manager
        manager.close()
        assert SessionManager() is fresh

    def test_used_store(self, manager, clock):
        """A store serves one manager."""
        manager.close()
        with pytest.raises(SessionError, match="new one"):
            SessionManager(store=clock.store)


class TestLogin:
    @pytest.mark.parametrize("method", ["loadNewSession", "addSession"])
    def test_ok(self, manager, heard, method):
        """A login returns a key and emits `sessionCreated`."""
        key = getattr(manager, method)("Luca")
        assert KEY.fullmatch(key)
        assert heard.events == [("sessionCreated", key)]
        assert manager.checkSessionStatus(key) is True

    def test_unique(self, manager):
        """Keys are unique."""
        keys = [manager.loadNewSession("Luca") for _ in range(1000)]
        assert len({key.partition("_")[2] for key in keys}) == 1000

    def test_bad_username(self, manager, heard):
        """A bad username is named in the error, and nothing changes."""
        cases = [(None, TypeError, "NoneType"), (b"x", TypeError, "bytes"), (1, TypeError, "int")]
        for username, error, shown in [*cases, ("", ValueError, "''")]:
            with pytest.raises(error, match=f"username must be a non-empty str, got {shown}"):
                manager.loadNewSession(username)
        assert manager.getLoggedUsers() == []
        assert heard.events == []

    def test_session(self, manager):
        """The session has what is promised."""
        before = time.time()
        key = manager.loadNewSession("Luca")
        session = manager.sessions[key]
        assert isinstance(manager.sessions, Mapping)
        assert isinstance(session, Session)
        assert (session.username, session.key, session.data) == ("Luca", key, None)
        assert before <= session.createdAt == session.authenticatedAt <= time.time()
        assert isinstance(session.timer, threading.Timer)
        assert session.timer.is_alive()


class TestRejection:
    @pytest.mark.parametrize("method", NPM_METHODS)
    def test_false(self, manager, heard, method):
        """With an `error` listener, a method of npm answers `False`."""
        kept = manager.loadNewSession("Luca")
        for key in BAD_KEYS:
            heard.events.clear()
            assert TAKES_A_KEY[method](manager, key) is False
            ((name, error, details),) = heard.events
            assert name == "error"
            assert isinstance(error, SessionRejected)
            assert str(error) == REJECTION
            assert list(details) == ["key"]
            assert details["key"] is key
        assert manager.checkSessionStatus(kept) is True

    @pytest.mark.parametrize("method", NEWER_METHODS)
    def test_always_raised(self, manager, heard, method):
        """A method beyond npm raises with a listener too, so one that only logs cannot open a guard."""
        rejected = []
        manager.on("sessionRejected", rejected.append)
        for key in BAD_KEYS:
            heard.events.clear()
            with pytest.raises(SessionRejected):
                NEWER_METHODS[method](manager, key)
            assert heard.names() == ["error"]
            assert rejected.pop() is key
            assert rejected == []

    @pytest.mark.parametrize("method", TAKES_A_KEY)
    def test_raised(self, manager, method):
        """Without a listener each method raises."""
        for key in BAD_KEYS:
            with pytest.raises(SessionRejected) as rejection:
                TAKES_A_KEY[method](manager, key)
            assert str(rejection.value) == REJECTION
            # The causes of an exception are printed with it, and may not show a key.
            assert rejection.value.__cause__ is None
            assert rejection.value.__context__ is None

    def test_silent(self, manager, heard):
        """`getUsernameFromSessionKey` and `findSession` emit nothing."""
        for key in BAD_KEYS:
            assert manager.getUsernameFromSessionKey(key) is False
            assert manager.findSession(key) is None
        assert heard.events == []

    def test_timer(self, manager, heard, clock):
        """A timer for a bad key starts, and ends nothing."""
        kept = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(2)
        timers = [manager.createNewSessionTimer(key, "Luca") for key in BAD_KEYS]
        assert all(timer.is_alive() for timer in timers)
        clock.turn(2)
        assert not any(timer.is_alive() for timer in timers)
        assert heard.events == [("sessionCreated", kept)]

    @pytest.mark.parametrize("method", TAKES_A_KEY)
    def test_expired(self, manager, heard, clock, method):
        """An expired key is rejected like an unknown one, also when the clock's thread is late."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        heard.events.clear()
        if method in NPM_METHODS:
            assert TAKES_A_KEY[method](manager, key) is False
        else:
            with pytest.raises(SessionRejected):
                TAKES_A_KEY[method](manager, key)
        assert heard.names() == ["error"]


class TestReads:
    def test_details(self, manager):
        key = manager.loadNewSession("Luca")
        details = manager.getSessionDetails(key)
        assert details == {"username": "Luca", "createdAt": manager.sessions[key].createdAt, "data": None}

    def test_data(self, manager):
        key = manager.loadNewSession("Luca")
        assert manager.getSessionData(key) is None
        data = {"actions": ["logged in"]}
        assert manager.setSessionData(key, data) is True
        assert manager.getSessionData(key) is data
        assert manager.getSessionDetails(key)["data"] == data
        assert manager.setSessionData(key, None) is True
        assert manager.getSessionData(key) is None

    def test_update(self, manager, heard):
        """An update stores what `change` returns for a copy of the data, and returns it; it emits nothing."""
        key = manager.loadNewSession("Luca")
        heard.events.clear()
        assert manager.updateSessionData(key, lambda cart: [*(cart or []), "lasagne"]) == ["lasagne"]
        before = manager.getSessionData(key)
        after = manager.updateSessionData(key, lambda cart: cart.append("pesto") or cart)
        assert (before, after, manager.getSessionData(key)) == (["lasagne"], ["lasagne", "pesto"], after)
        assert manager.updateSessionData(key, lambda cart: None) is None
        assert manager.getSessionData(key) is None
        assert manager.updateSessionData(key, lambda cart: False) is False
        assert heard.events == []

    def test_failed_update(self, manager, heard):
        """An exception of `change` passes through, and changes nothing; all but a function is a `TypeError`."""
        key = manager.loadNewSession("Luca", data=["lasagne"])
        heard.events.clear()
        with pytest.raises(ZeroDivisionError):
            manager.updateSessionData(key, lambda cart: cart.append(1 / 0))
        for change in (None, ["pesto"], "pesto"):
            for each in (key, "no such key"):
                with pytest.raises(TypeError, match=f"change must be callable, got {type(change).__name__}"):
                    manager.updateSessionData(each, change)
        assert manager.getSessionData(key) == ["lasagne"]
        assert heard.events == []

    def test_update_and_end(self, manager, heard):
        """A session that ends while `change` runs is a rejection."""
        key = manager.loadNewSession("Luca")
        heard.events.clear()
        with pytest.raises(SessionRejected):
            manager.updateSessionData(key, lambda data: manager.deleteSession(key))
        assert heard.names() == ["sessionDeleted", "activeUserDeleted", "error"]

    def test_update_in_update(self, manager):
        """A `change` that changes the data itself each time is an error; one that does so once is called again."""
        key = manager.loadNewSession("Luca", data=0)

        def change(data):
            manager.setSessionData(key, data + 1)
            return data

        with pytest.raises(SessionError, match="let it return the new data"):
            manager.updateSessionData(key, change)
        assert manager.getSessionData(key) > 1
        manager.setSessionData(key, 0)
        assert manager.updateSessionData(key, lambda data: data or change(data) or 5) == 1

    def test_username(self, manager):
        key = manager.loadNewSession("Luca")
        assert manager.getUsernameFromSessionKey(key) == manager.findSession(key).username == "Luca"

    def test_session(self, manager, clock):
        """Getting a session prolongs nothing; resuming it restarts its timeout."""
        key = manager.loadNewSession("Luca", data=1)
        clock.turn(1000)
        session = manager.getSession(key)
        assert (session.username, session.key, session.data) == ("Luca", key, 1)
        assert manager.getSessionTimeLeft(key) == 2000
        assert manager.resumeSession(key).username == "Luca"
        assert manager.getSessionTimeLeft(key) == 3000

    def test_logged_users(self, manager, clock):
        """There is one entry per live session, in the order of creation."""
        first = manager.loadNewSession("Luca")
        manager.loadNewSession("Fabio")
        manager.loadNewSession("Luca")
        assert manager.getLoggedUsers() == ["Luca", "Fabio", "Luca"]
        manager.restartSessionTimer(first)
        assert manager.getLoggedUsers() == ["Luca", "Fabio", "Luca"]
        manager.deleteSession(first)
        assert manager.getLoggedUsers() == ["Fabio", "Luca"]
        clock.seconds += 3000
        assert manager.getLoggedUsers() == []

    def test_no_read_prolongs(self, manager, clock):
        """Reading never prolongs a session."""
        key = manager.loadNewSession("Luca")
        clock.turn(2999)
        for read in ("checkSessionStatus", "getUsernameFromSessionKey", "getSessionDetails", "getSessionData"):
            getattr(manager, read)(key)
        manager.setSessionData(key, 1)
        manager.findSession(key)
        assert manager.getSessionTimeLeft(key) == 1
        manager.getLoggedUsers()
        clock.turn(1)
        assert manager.getUsernameFromSessionKey(key) is False

    def test_dictionary(self, manager):
        """In memory `sessions` is a dictionary, and data is kept as it was given."""
        key = manager.loadNewSession("Luca")
        manager.setSessionData(key, data := object())
        assert isinstance(manager.sessions, dict)
        assert manager.getSessionData(key) is data
        assert manager.blocking is False

    def test_strict_store(self):
        """A store that answers `get` in its own way is asked for each read."""

        class Strict(MemoryStore):
            def get(self, key):
                return None

        manager = SessionManager(store=Strict(thread=False))
        manager.on("error", lambda *rejection: None)
        key = manager.loadNewSession("Luca")
        assert manager.checkSessionStatus(key) is False
        assert manager.getUsernameFromSessionKey(key) is False
        assert manager.getSessionDetails(key) is False
        assert manager.getSessionData(key) is False


class TestTime:
    def test_deadline(self, manager, clock):
        """A session is live until the instant of its deadline."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 2999.999
        assert manager.checkSessionStatus(key) is True
        clock.seconds += 0.001
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)

    def test_expiry(self, manager, heard, clock):
        """When it expires, its client is notified and its end announced, once."""
        io = object()
        manager.initSocketReference(io)
        key = manager.loadNewSession("Luca")
        clock.turn(3000)
        clock.turn(3000)
        assert heard.events == [
            ("sessionCreated", key),
            ("notifyClientToLogout", io, key),
            ("sessionDeleted", key),
            ("activeUserDeleted", key),
        ]
        assert key not in manager.sessions

    def test_restart(self, manager, heard, clock):
        """A restart begins the full timeout again, with the length that is set now."""
        key = manager.loadNewSession("Luca")
        clock.turn(2000)
        assert manager.restartSessionTimer(key) is True
        clock.turn(2999)
        assert manager.checkSessionStatus(key)
        manager.setSessionTimeOut(10)
        assert manager.restartSessionTimer(key) is True
        assert manager.getSessionTimeLeft(key) == 10
        clock.turn(10)
        assert heard.of("sessionDeleted") == [(key,)]

    def test_late_restart(self, manager, heard, clock):
        """An expired session cannot be restarted."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        assert manager.restartSessionTimer(key) is False
        clock.turn(0)
        assert heard.of("sessionDeleted") == [(key,)]

    def test_new_timer(self, manager, heard, clock):
        """A new timer takes the place of the old one, which is stopped."""
        key = manager.loadNewSession("Luca")
        old = manager.sessions[key].timer
        manager.setSessionTimeOut(5)
        timer = manager.createNewSessionTimer(key, "Luca")
        assert isinstance(timer, threading.Timer)
        assert timer.is_alive()
        assert timer is manager.sessions[key].timer
        assert not old.is_alive()
        clock.turn(4.5)
        assert manager.checkSessionStatus(key)
        clock.turn(0.5)
        clock.turn(3000)
        assert heard.of("sessionDeleted") == [(key,)]

    def test_cancelled_timer(self, manager, heard, clock):
        """A session whose timer was cancelled lives until it is restarted."""
        key = manager.loadNewSession("Luca")
        manager.sessions[key].timer.cancel()
        clock.turn(10**6)
        assert manager.checkSessionStatus(key)
        assert manager.getSessionTimeLeft(key) == float("inf")
        assert manager.restartSessionTimer(key) is True
        assert manager.sessions[key].timer.is_alive()
        clock.turn(3000)
        assert heard.of("sessionDeleted") == [(key,)]


class TestLogout:
    def test_delete(self, manager, heard, clock):
        manager.initSocketReference(object())
        key = manager.loadNewSession("Luca")
        timer = manager.sessions[key].timer
        assert manager.deleteSession(key) is True
        assert manager.deleteSession(key) is False
        clock.turn(3000)
        assert heard.names() == ["sessionCreated", "sessionDeleted", "activeUserDeleted", "error"]
        assert not timer.is_alive()
        assert timer.finished.is_set()

    def test_delete_all(self, manager, heard):
        """For each session its end is announced, then its client notified; without one nothing is emitted."""
        io = object()
        manager.initSocketReference(io)
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        heard.events.clear()
        assert manager.deleteAllSessions() is True
        assert manager.sessions == {}
        assert manager.deleteAllSessions() is True
        assert heard.events == [
            event
            for key in keys
            for event in (("sessionDeleted", key), ("activeUserDeleted", key), ("notifyClientToLogout", io, key))
        ]

    def test_delete_all_expired(self, manager, heard, clock):
        """`deleteAllSessions` leaves those that have expired to the clock."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        manager.deleteAllSessions()
        assert heard.of("sessionDeleted") == []
        clock.turn(0)
        assert heard.of("sessionDeleted") == [(key,)]

    def test_delete_all_first(self, manager):
        """`deleteAllSessions` has ended all sessions before the first event."""
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        alive: list[object] = []
        manager.on("sessionDeleted", lambda key: alive.extend(map(manager.getUsernameFromSessionKey, keys)))
        manager.deleteAllSessions()
        assert alive == [False] * 4


class Recording(MemoryStore):
    """A memory store that notes which ends were acknowledged."""

    def __init__(self) -> None:
        super().__init__(thread=False)
        self.acknowledged: list[str] = []

    def acknowledge(self, ended):
        self.acknowledged += [session.key for session in ended]


class TestInterrupts:
    """A listener that raises what is no `Exception` reaches the caller, and no end is lost."""

    @pytest.mark.parametrize("times", [1, 4])
    def test_delete(self, times):
        """Each session has ended, is announced and acknowledged, however often a listener interrupts."""
        store = Recording()
        manager = SessionManager(store=store)
        heard = []

        def interrupted(key):
            heard.append(key)
            if len(heard) <= times:
                raise KeyboardInterrupt

        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino", "Anna")]
        manager.on("sessionDeleted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.deleteSession(keys[0])
        assert manager.getUsernameFromSessionKey(keys[0]) is False
        if times > 1:
            with pytest.raises(KeyboardInterrupt):
                manager.deleteAllSessions()
        else:
            manager.deleteAllSessions()
        assert heard == store.acknowledged == keys
        assert manager.getLoggedUsers() == []

    def test_evicted(self, manager):
        """So it is with sessions that are evicted by a login."""
        for _ in range(3):
            manager.loadNewSession("Luca")
        heard = []

        def interrupted(key):
            heard.append(key)
            if len(heard) == 1:
                raise KeyboardInterrupt

        manager.on("sessionDeleted", interrupted)
        manager.setMaxSessionsPerUser(1)
        with pytest.raises(KeyboardInterrupt):
            manager.loadNewSession("Luca")
        assert len(heard) == 3
        assert manager.getLoggedUsers() == ["Luca"]


class TestSocketReference:
    @pytest.mark.parametrize("method", ["initSocketReference", "initSocketReferences"])
    def test_kept(self, manager, method):
        """Any object is kept."""
        assert manager.getSocketReference() is None
        io = object()
        assert getattr(manager, method)(io) is True
        assert manager.getSocketReference() is io

    def test_message(self, manager, heard):
        """A logout message is an event, with a reference only; it ends no session."""
        key = manager.loadNewSession("Luca")
        assert manager.sendLogoutMessage(key) is False
        io = object()
        manager.initSocketReference(io)
        assert manager.sendLogoutMessage(key) is True
        assert heard.events[1:] == [("notifyClientToLogout", io, key)]
        assert manager.checkSessionStatus(key)

    def test_none(self, manager, heard, clock):
        """Without a reference no client is notified."""
        manager.loadNewSession("Luca")
        clock.turn(3000)
        manager.loadNewSession("Luca")
        manager.deleteAllSessions()
        assert "notifyClientToLogout" not in heard.names()


class Unreachable(MemoryStore):
    """A memory store that can be unreachable."""

    is_unreachable = False


def _unless_away(method: str) -> Any:
    def call(store: Unreachable, *args: Any, **options: Any) -> Any:
        if store.is_unreachable:
            raise StoreUnavailable("the store is unreachable")
        return getattr(MemoryStore, method)(store, *args, **options)

    return call


METHODS = (
    "add get restart renew_timer renew_key time_left set_data update_data of_user remove remove_user clear usernames"
)
for _name in METHODS.split():
    setattr(Unreachable, _name, _unless_away(_name))


def test_unavailable():
    """An unreachable store is raised by each method, and never taken for an answer."""
    store, events = Unreachable(thread=False), []
    manager = SessionManager(store=store)
    for event in ("sessionRejected", "sessionDeleted", "sessionCreated", "error"):
        manager.on(event, lambda *args, event=event: events.append(event))
    key = manager.loadNewSession("Luca")
    events.clear()
    store.is_unreachable = True
    calls = [lambda method=method: method(manager, key) for method in TAKES_A_KEY.values()]
    calls += [lambda: manager.loadNewSession("Fabio"), lambda: manager.createNewSessionTimer(key, "Luca")]
    calls += [lambda: manager.getUserSessions("Luca"), lambda: manager.deleteUserSessions("Luca")]
    calls += [lambda: manager.getUsernameFromSessionKey(key), lambda: manager.findSession(key)]
    for call in (*calls, manager.getLoggedUsers, manager.deleteAllSessions):
        with pytest.raises(StoreUnavailable):
            call()
    assert events == []
    store.is_unreachable = False
    assert manager.checkSessionStatus(key) is True
