"""The npm API name for name: each row of the contract's first table."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import pyee
import pytest

import users_session_manager
from users_session_manager import Session, SessionError, SessionManager, SessionRejected

REJECTION = "[Session Manager]: ⚠ !Session rejected! ⚠"
KEY = re.compile(r"[A-Z][a-z]+-[a-z]+-\d\d_[0-9A-F]{32}")

ON_EVERY_STORE = True


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


class Unequal:
    def __hash__(self) -> int:
        raise RuntimeError("nobody may ask")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nobody may ask")


BAD_KEYS = [
    pytest.param(key, id=name)
    for name, key in {
        "None": None,
        "list": [],
        "dict": {},
        "10 MB": "x" * 10_000_000,
        "__proto__": "__proto__",
        "empty": "",
        "bytes": b"Otter-candid-46_00000000000000000000000000000000",
        "int": 1,
        "True": True,
        "NaN": float("nan"),
        "tuple": ((),),
        "unhashable": Unhashable(),
        "hash raises": Unequal(),
        "lone surrogate": "\ud800",
        "unknown": "Otter-candid-46_00000000000000000000000000000000",
    }.items()
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
}
TAKES_A_KEY = NPM_METHODS | NEWER_METHODS


class TestSingleton:
    def test_there_is_one(self, manager):
        assert SessionManager() is manager
        assert isinstance(manager, pyee.EventEmitter)

    def test_sixteen_threads_racing_for_the_first_get_the_same(self):
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

    def test_a_later_call_may_name_the_same_store_and_no_other(self, manager, clock):
        assert SessionManager(store=clock.store) is manager
        with pytest.raises(SessionError, match="names another"):
            SessionManager(store="redis://:hunter2@127.0.0.1/0")

    def test_a_store_that_is_none_is_refused_without_showing_its_password(self):
        with pytest.raises(ValueError, match="'carrier-pigeon'") as refusal:
            SessionManager(store="carrier-pigeon://:hunter2@host")
        assert "hunter2" not in str(refusal.value)
        with pytest.raises(TypeError, match="got int"):
            SessionManager(store=5)  # type: ignore[arg-type]
        assert SessionManager().getLoggedUsers() == []

    def test_a_subclass_can_be_the_one(self, clock):
        class Mine(SessionManager):
            pass

        mine = Mine(store=clock.store)
        assert SessionManager() is mine

    def test_a_subclass_that_comes_too_late_is_told(self, manager):
        class Mine(SessionManager):
            pass

        with pytest.raises(SessionError, match="SessionManager"):
            Mine()

    def test_close_frees_it_and_may_be_called_twice(self, manager):
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

    def test_a_store_serves_one_manager(self, manager, clock):
        manager.close()
        with pytest.raises(SessionError, match="new one"):
            SessionManager(store=clock.store)


class TestLogin:
    @pytest.mark.parametrize("method", ["loadNewSession", "addSession"])
    def test_it_returns_a_key_and_says_so(self, manager, heard, method):
        key = getattr(manager, method)("Luca")
        assert KEY.fullmatch(key)
        assert heard.events == [("sessionCreated", key)]
        assert manager.checkSessionStatus(key) is True

    def test_keys_are_unique(self, manager):
        keys = [manager.loadNewSession("Luca") for _ in range(1000)]
        assert len({key.partition("_")[2] for key in keys}) == 1000

    @pytest.mark.parametrize(
        ("username", "error", "shown"),
        [(None, TypeError, "NoneType"), (b"x", TypeError, "bytes"), (1, TypeError, "int"), ("", ValueError, "''")],
    )
    def test_a_bad_username_is_named_and_changes_nothing(self, manager, heard, username, error, shown):
        with pytest.raises(error, match=re.escape(shown)):
            manager.loadNewSession(username)
        assert manager.getLoggedUsers() == []
        assert heard.events == []

    def test_the_session_has_what_is_promised(self, manager):
        before = time.time()
        key = manager.loadNewSession("Luca")
        session = manager.sessions[key]
        assert isinstance(manager.sessions, Mapping)
        assert isinstance(session, Session)
        assert (session.username, session.key, session.data) == ("Luca", key, None)
        assert before <= session.createdAt <= time.time()
        assert isinstance(session.timer, threading.Timer)
        assert session.timer.is_alive()


class TestRejection:
    @pytest.mark.parametrize("key", BAD_KEYS)
    @pytest.mark.parametrize("method", NPM_METHODS)
    def test_with_a_listener_it_is_false(self, manager, heard, method, key):
        kept = manager.loadNewSession("Luca")
        heard.events.clear()
        assert TAKES_A_KEY[method](manager, key) is False
        ((name, error, details),) = heard.events
        assert name == "error"
        assert isinstance(error, SessionRejected)
        assert isinstance(error, LookupError)
        assert str(error) == REJECTION
        assert list(details) == ["key"]
        assert details["key"] is key
        assert manager.checkSessionStatus(kept) is True

    @pytest.mark.parametrize("key", BAD_KEYS)
    @pytest.mark.parametrize("method", NEWER_METHODS)
    def test_a_method_beyond_npm_raises_whoever_listens(self, manager, heard, method, key):
        """A listener that only logs cannot open a guard."""
        rejected = []
        manager.on("sessionRejected", rejected.append)
        heard.events.clear()
        with pytest.raises(SessionRejected):
            NEWER_METHODS[method](manager, key)
        assert heard.names() == ["error"]
        assert len(rejected) == 1
        assert rejected[0] is key

    @pytest.mark.parametrize("key", BAD_KEYS)
    @pytest.mark.parametrize("method", TAKES_A_KEY)
    def test_without_one_it_is_raised(self, manager, method, key):
        with pytest.raises(SessionRejected) as rejection:
            TAKES_A_KEY[method](manager, key)
        assert str(rejection.value) == REJECTION
        # What is chained to an exception is printed with it, and may not show a key.
        assert rejection.value.__cause__ is None
        assert rejection.value.__context__ is None

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_the_username_is_false_without_an_event(self, manager, heard, key):
        assert manager.getUsernameFromSessionKey(key) is False
        assert heard.events == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_timer_for_it_starts_and_ends_nothing(self, manager, heard, clock, key):
        kept = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(2)
        timer = manager.createNewSessionTimer(key, "Luca")
        assert timer.is_alive()
        clock.turn(2)
        assert not timer.is_alive()
        assert heard.events == [("sessionCreated", kept)]

    @pytest.mark.parametrize("method", TAKES_A_KEY)
    def test_a_key_that_has_run_out_is_rejected_like_an_unknown_one(self, manager, heard, clock, method):
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000  # and the clock thread has not noticed
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
        assert manager.getSessionData(key) == data
        assert manager.getSessionDetails(key)["data"] == data
        assert manager.setSessionData(key, None) is True
        assert manager.getSessionData(key) is None

    def test_username(self, manager):
        assert manager.getUsernameFromSessionKey(manager.loadNewSession("Luca")) == "Luca"

    def test_logged_users_stand_in_the_order_of_creation_once_a_session(self, manager, clock):
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

    def test_reading_never_prolongs(self, manager, clock):
        key = manager.loadNewSession("Luca")
        clock.turn(2999)
        for read in ("checkSessionStatus", "getUsernameFromSessionKey", "getSessionDetails", "getSessionData"):
            getattr(manager, read)(key)
        manager.setSessionData(key, 1)
        assert manager.getSessionTimeLeft(key) == 1
        manager.getLoggedUsers()
        clock.turn(1)
        assert manager.getUsernameFromSessionKey(key) is False


class TestTime:
    def test_a_session_is_alive_until_the_instant_of_its_deadline(self, manager, clock):
        key = manager.loadNewSession("Luca")
        clock.seconds += 2999.999
        assert manager.checkSessionStatus(key) is True
        clock.seconds += 0.001
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)

    def test_when_it_runs_out_clients_are_notified_and_its_end_announced_once(self, manager, heard, clock):
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

    def test_a_restart_begins_the_full_timeout_again_with_the_length_set_now(self, manager, heard, clock):
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

    def test_a_change_of_the_timeout_leaves_running_sessions_alone(self, manager, clock):
        key = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(2)
        clock.turn(2999)
        assert manager.checkSessionStatus(key)

    def test_a_session_that_ran_out_cannot_be_restarted(self, manager, heard, clock):
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        assert manager.restartSessionTimer(key) is False
        clock.turn(0)
        assert heard.of("sessionDeleted") == [(key,)]

    @pytest.mark.parametrize("seconds", [2, 2.0, 3000, 2.5, 86400 * 365, threading.TIMEOUT_MAX])
    def test_a_good_timeout_is_taken(self, manager, clock, seconds):
        assert manager.setSessionTimeOut(seconds) is True
        assert manager.getSessionTimeout() == manager.getSessionTimeOut() == seconds
        key = manager.loadNewSession("Luca")
        assert manager.getSessionTimeLeft(key) == pytest.approx(seconds)
        clock.turn(seconds - 1)
        assert manager.checkSessionStatus(key)
        clock.turn(2)
        assert manager.getLoggedUsers() == []

    @pytest.mark.parametrize(
        "seconds",
        [True, "3", float("nan"), float("inf"), -float("inf"), -1, 1.999, 10**12, 10**400, None, [], 3j, b"3"],
        ids=lambda value: repr(value)[:20],
    )
    def test_a_bad_timeout_is_refused_and_changes_nothing(self, manager, seconds: Any):
        assert manager.setSessionTimeOut(seconds) is False
        assert manager.getSessionTimeout() == 3000
        assert manager.settings == {"SESSION_TIMEOUT": 3000}

    def test_the_least_timeout_is_two_seconds(self, manager):
        assert manager.MIN_SESSION_TIMEOUT == SessionManager.MIN_SESSION_TIMEOUT == 2

    def test_more_than_24_9_days_do_not_fire_at_once(self, manager, clock):
        manager.setSessionTimeOut(86400 * 30)
        key = manager.loadNewSession("Luca")
        clock.turn(86400 * 29)
        assert manager.checkSessionStatus(key)

    def test_a_new_timer_takes_the_place_of_the_old_one(self, manager, heard, clock):
        key = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(5)
        timer = manager.createNewSessionTimer(key, "Luca")
        assert isinstance(timer, threading.Timer)
        assert timer.is_alive()
        clock.turn(4.5)
        assert manager.checkSessionStatus(key)
        clock.turn(0.5)
        assert heard.of("sessionDeleted") == [(key,)]
        clock.turn(3000)
        assert heard.of("sessionDeleted") == [(key,)]

    @pytest.mark.in_memory
    def test_the_old_one_is_stopped(self, manager):
        key = manager.loadNewSession("Luca")
        old = manager.sessions[key].timer
        timer = manager.createNewSessionTimer(key, "Luca")
        assert timer is manager.sessions[key].timer
        assert not old.is_alive()

    @pytest.mark.in_memory
    def test_in_memory_they_are_a_dictionary_of_what_was_given(self, manager):
        key = manager.loadNewSession("Luca")
        manager.setSessionData(key, data := object())
        assert isinstance(manager.sessions, dict)
        assert manager.getSessionData(key) is data

    @pytest.mark.in_memory
    def test_a_session_whose_timer_was_cancelled_goes_on_until_it_is_restarted(self, manager, heard, clock):
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
        io = object()
        manager.initSocketReference(io)
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        heard.events.clear()
        assert manager.deleteAllSessions() is True
        assert heard.events == [
            event
            for key in keys
            for event in (("sessionDeleted", key), ("activeUserDeleted", key), ("notifyClientToLogout", io, key))
        ]
        assert manager.sessions == {}
        assert manager.deleteAllSessions() is True

    def test_delete_all_leaves_those_that_ran_out_to_the_clock(self, manager, heard, clock):
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        manager.deleteAllSessions()
        assert heard.of("sessionDeleted") == []
        clock.turn(0)
        assert heard.of("sessionDeleted") == [(key,)]

    def test_delete_all_has_ended_everyone_before_the_first_event(self, manager):
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        alive: list[object] = []
        manager.on("sessionDeleted", lambda key: alive.extend(map(manager.getUsernameFromSessionKey, keys)))
        manager.deleteAllSessions()
        assert alive == [False] * 4


class TestSocketReference:
    @pytest.mark.parametrize("method", ["initSocketReference", "initSocketReferences"])
    def test_any_object_is_kept(self, manager, method):
        assert manager.getSocketReference() is None
        io = object()
        assert getattr(manager, method)(io) is True
        assert manager.getSocketReference() is io

    def test_a_logout_message(self, manager, heard):
        key = manager.loadNewSession("Luca")
        assert manager.sendLogoutMessage(key) is False
        io = object()
        manager.initSocketReference(io)
        assert manager.sendLogoutMessage(key) is True
        assert heard.events[1:] == [("notifyClientToLogout", io, key)]
        assert manager.checkSessionStatus(key)

    def test_without_a_reference_nobody_is_notified(self, manager, heard, clock):
        manager.loadNewSession("Luca")
        clock.turn(3000)
        manager.loadNewSession("Luca")
        manager.deleteAllSessions()
        assert "notifyClientToLogout" not in heard.names()


class TestErrors:
    @pytest.mark.parametrize("name", ["SessionRejected", "TooManySessions", "StoreUnavailable", "MissingDependency"])
    def test_each_is_a_session_error(self, name):
        assert issubclass(getattr(users_session_manager, name), SessionError)
        assert name in users_session_manager.__all__

    def test_and_what_python_calls_it(self):
        assert issubclass(SessionRejected, LookupError)
        assert issubclass(users_session_manager.MissingDependency, ImportError)

    def test_an_unreachable_store_is_raised_and_never_taken_for_an_answer(self, manager, heard, monkeypatch):
        key = manager.loadNewSession("Luca")
        heard.events.clear()

        class Away:
            def __getattr__(self, name: str) -> Any:
                def unreachable(*args: Any, **options: Any) -> Any:
                    raise users_session_manager.StoreUnavailable("the store is away")

                return unreachable

        with monkeypatch.context() as patch:
            patch.setattr(manager, "_store", Away())
            for call in (*TAKES_A_KEY.values(), lambda manager, _: manager.loadNewSession("Fabio")):
                with pytest.raises(users_session_manager.StoreUnavailable):
                    call(manager, key)
            for method in ("getUserSessions", "deleteUserSessions"):
                with pytest.raises(users_session_manager.StoreUnavailable):
                    getattr(manager, method)("Luca")
            for method in ("getLoggedUsers", "deleteAllSessions"):
                with pytest.raises(users_session_manager.StoreUnavailable):
                    getattr(manager, method)()
        assert heard.events == []
        assert manager.checkSessionStatus(key) is True
