"""Listeners: told exactly once, kept apart, never under a lock."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading

import pyee
import pytest

from users_session_manager import MemoryStore, Session, SessionError, SessionManager, SessionRejected
from users_session_manager.clock import LOCK

EVENTS = ["sessionCreated", "sessionDeleted", "activeUserDeleted", "sessionEnded", "notifyClientToLogout"]

ON_EVERY_STORE = True


def everything(manager, clock):
    """Cause each event at least once."""
    manager.initSocketReference(object())
    manager.deleteSession(manager.loadNewSession("Luca"))
    manager.loadNewSession("Fabio")
    clock.turn(3000)
    manager.loadNewSession("Gino")
    manager.deleteAllSessions()


def fails(*args: object) -> None:
    raise ZeroDivisionError("a listener's own fault")


class TestEnded:
    def test_a_session_comes_whole_with_the_reason_of_its_end_after_the_other_two(self, manager, clock, heard):
        ended: list[tuple[Session, str]] = []
        manager.on("sessionEnded", lambda session, reason: heard.events.append(("sessionEnded", session.key, reason)))
        manager.on("sessionEnded", lambda session, reason: ended.append((session, reason)))
        deleted = manager.loadNewSession("Luca")
        manager.setSessionData(deleted, {"a": 1})
        manager.deleteSession(deleted)
        expired = manager.loadNewSession("Fabio")
        clock.turn(3000)
        one_of_all = manager.loadNewSession("Gino")
        manager.deleteAllSessions()
        assert heard.events == [
            event
            for key, reason in ((deleted, "deleted"), (expired, "expired"), (one_of_all, "deleted"))
            for event in (
                ("sessionCreated", key),
                ("sessionDeleted", key),
                ("activeUserDeleted", key),
                ("sessionEnded", key, reason),
            )
        ]
        assert [(session.username, session.data) for session, _ in ended] == [
            ("Luca", {"a": 1}),
            ("Fabio", None),
            ("Gino", None),
        ]


class TestRejected:
    @pytest.mark.parametrize("key", ["unknown", None, [], 7])
    def test_who_looks_on_does_not_turn_the_exception_into_false(self, manager, key):
        order: list[tuple[str, object]] = []
        manager.on("sessionRejected", lambda key: order.append(("sessionRejected", key)))
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)
        manager.on("error", lambda error, details: order.append(("error", details["key"])))
        assert manager.restartSessionTimer(key) is False
        assert order == [("sessionRejected", key), ("sessionRejected", key), ("error", key)]

    def test_one_that_fails_changes_no_answer(self, manager, caplog):
        manager.on("sessionRejected", fails)
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus("unknown")
        assert "a listener's own fault" in caplog.text


class TestIsolation:
    @pytest.mark.parametrize("event", EVENTS)
    def test_a_listener_that_raises_stops_nobody_else(self, manager, clock, event):
        before: list[object] = []
        after: list[object] = []
        failed: list[tuple[Exception, str, object]] = []
        manager.on(event, lambda *args: before.append(args))
        manager.on(event, fails)
        manager.on(event, lambda *args: after.append(args))
        manager.on("listenerFailed", lambda *args: failed.append(args))
        manager.on("error", pytest.fail)
        everything(manager, clock)
        assert before == after
        assert len(before) >= 2
        assert len(failed) == len(before)
        assert all(isinstance(failure, ZeroDivisionError) and rest == [event, fails] for failure, *rest in failed)
        assert manager.getLoggedUsers() == []

    @pytest.mark.parametrize("listens_to_rejections", [False, True])
    def test_without_a_listener_for_it_the_log_has_the_traceback(self, manager, caplog, listens_to_rejections):
        if listens_to_rejections:
            manager.on("error", pytest.fail)
        manager.on("sessionCreated", fails)
        key = manager.loadNewSession("Luca")
        assert manager.checkSessionStatus(key)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "fails" in record.getMessage()
        assert "a listener's own fault" in caplog.text

    def test_an_error_listener_that_fails_goes_to_the_log_and_the_others_hear(self, manager, caplog):
        heard = []
        calls = []

        def broken(error, details):
            calls.append(error)
            fails()

        manager.on("error", broken)
        manager.on("error", lambda error, details: heard.append(error))
        assert manager.checkSessionStatus("unknown") is False
        assert len(calls) == 1
        assert isinstance(heard[0], SessionRejected)
        assert "a listener's own fault" in caplog.text

    def test_a_listener_of_failures_that_fails_goes_to_the_log(self, manager, caplog):
        manager.on("listenerFailed", fails)
        manager.on("sessionCreated", fails)
        manager.loadNewSession("Luca")
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "listenerFailed" in errors[0]

    def test_what_is_no_exception_passes_and_the_session_has_ended(self, manager):
        def interrupted(key):
            raise KeyboardInterrupt

        key = manager.loadNewSession("Luca")
        manager.on("sessionDeleted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.deleteSession(key)
        assert manager.getUsernameFromSessionKey(key) is False

    def test_a_listener_may_call_any_method_from_any_thread(self, manager, clock):
        made: list[str] = []

        def restless(key):
            def elsewhere():
                manager.checkSessionStatus(made[0])
                manager.restartSessionTimer(made[0])
                manager.getLoggedUsers()

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join(30)
            assert not thread.is_alive(), "a lock was held while a listener ran"
            manager.deleteSession(manager.loadNewSession("nested"))

        made.append(manager.loadNewSession("first"))
        manager.once("sessionCreated", restless)
        manager.once("sessionDeleted", restless)
        manager.once("error", restless)
        manager.deleteSession(manager.loadNewSession("Luca"))
        manager.checkSessionStatus("unknown")
        clock.turn(2999)
        manager.restartSessionTimer(made[0])
        clock.turn(1)
        assert manager.getLoggedUsers() == ["first"]

    def test_who_listens_for_listeners_keeps_none_from_hearing(self, manager):
        added, heard = [], []
        manager.on("new_listener", lambda event, listener: added.append(event))
        manager.on("sessionCreated", heard.append)
        key = manager.loadNewSession("Luca")
        assert added == ["sessionCreated"]
        assert heard == [key]

    def test_an_exception_that_holds_a_key_does_not_show_it_in_the_log(self, manager, caplog):
        manager.on("sessionCreated", {}.pop)
        key = manager.loadNewSession("Luca")
        assert "KeyError" in caplog.text
        assert f"{key.partition('_')[0]}_…" in caplog.text
        assert key not in caplog.text

    def test_when_everyone_is_logged_out_an_interrupt_loses_nobody(self, manager):
        heard = []

        def interrupted(key):
            heard.append(key)
            if len(heard) == 1:
                raise KeyboardInterrupt

        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino")]
        manager.on("sessionDeleted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.deleteAllSessions()
        assert heard == keys
        assert manager.getLoggedUsers() == []

    def test_nor_do_several_and_all_are_acknowledged(self, manager, monkeypatch):
        acknowledged = []
        acknowledge = manager._store.acknowledge
        monkeypatch.setattr(
            manager._store, "acknowledge", lambda ended: acknowledged.extend(ended) or acknowledge(ended)
        )
        heard = []

        def interrupted(key):
            heard.append(key)
            raise KeyboardInterrupt

        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino", "Anna")]
        manager.on("sessionDeleted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.deleteSession(keys[0])
        with pytest.raises(KeyboardInterrupt):
            manager.deleteAllSessions()
        assert heard == keys
        assert [session.key for session in acknowledged] == keys

    def test_a_finalizer_or_a_signal_in_the_middle_of_an_emit_does_not_wait_for_its_own_thread(self, manager):
        class Name(str):
            def __hash__(self):
                # Asked for by pyee under its lock, as a collection of garbage could come there.
                manager.deleteSession(manager.loadNewSession("nested"))
                return super().__hash__()

        for event in ("lunch", "sessionCreated", "sessionDeleted"):
            manager.on(event, lambda *_: None)
        done = threading.Event()

        def emit():
            manager.emit(Name("lunch"))
            done.set()

        threading.Thread(target=emit, daemon=True).start()
        assert done.wait(30), "a thread waits for a lock that it holds"

    def test_once_and_removal_work_as_in_pyee(self, manager):
        heard: list[str] = []
        manager.once("sessionCreated", heard.append)
        first = manager.loadNewSession("Luca")
        manager.loadNewSession("Luca")
        assert heard == [first]
        manager.on("sessionCreated", heard.append)
        manager.remove_listener("sessionCreated", heard.append)
        manager.loadNewSession("Luca")
        assert heard == [first]
        assert manager.emit("sessionCreated", "x") is False
        with pytest.raises(ValueError, match="mine"):
            manager.emit("error", ValueError("mine"))

    @pytest.mark.in_memory
    def test_who_comes_and_who_goes_counts_for_the_next_event(self, manager):
        """Listeners are found once, and looked for again when one comes or goes, in whatever way."""
        heard = []

        def add(name):
            return lambda key: heard.append(name)

        def said():
            heard.clear()
            assert manager.emit("sessionCreated", "key") is bool(manager.listeners("sessionCreated"))
            return list(heard)

        assert said() == []
        first = manager.on("sessionCreated", add("on"))
        assert said() == ["on"]
        assert said() == ["on"]
        second = manager.on("sessionCreated")(add("decorated"))
        third = manager.listens_to("sessionCreated")(add("listens_to"))
        fourth = manager.add_listener("sessionCreated", add("add_listener"))
        assert said() == ["on", "decorated", "listens_to", "add_listener"]
        manager.remove_listener("sessionCreated", second)
        assert said() == ["on", "listens_to", "add_listener"]
        manager.once("sessionCreated", add("once"))
        assert said() == ["on", "listens_to", "add_listener", "once"]
        assert said() == ["on", "listens_to", "add_listener"]
        manager.once("sessionCreated")(add("once, decorated"))
        assert said() == ["on", "listens_to", "add_listener", "once, decorated"]
        for listener in (first, third):
            manager.remove_listener("sessionCreated", listener)
        assert said() == ["add_listener"]
        manager.remove_all_listeners("sessionCreated")
        assert said() == []
        manager.on("sessionCreated", fourth)
        manager.remove_all_listeners()
        assert said() == []

    def test_the_application_may_emit_its_own_events(self, manager):
        heard = []
        assert manager.emit("lunch", 1) is False
        manager.on("lunch", lambda *args, **kwargs: heard.append((args, kwargs)))
        assert manager.emit("lunch", 1, at="noon") is True
        assert heard == [((1,), {"at": "noon"})]


class TestABlockingListener:
    def test_rejection_stays_on_time_while_the_clock_thread_is_held_up(self):
        seconds = [1000.0]
        store = MemoryStore(now=lambda: seconds[0])
        manager = SessionManager(store=store)
        begun, go_on = threading.Event(), threading.Event()
        ended: list[str] = []

        def blocks(key):
            if not begun.is_set():
                assert threading.current_thread().name == "users-session-manager clock"
                begun.set()
                go_on.wait(30)
            ended.append(key)

        manager.on("sessionDeleted", blocks)
        manager.setSessionTimeOut(2)
        first = manager.loadNewSession("Luca")
        manager.setSessionTimeOut(5)
        others = [manager.loadNewSession(f"user {number}") for number in range(100)]
        seconds[0] += 2
        assert begun.wait(30)
        assert manager.getLoggedUsers() == [f"user {number}" for number in range(100)]
        seconds[0] += 3
        # The clock thread is still inside the listener, and all of them are rejected already.
        for key in others:
            with pytest.raises(SessionRejected):
                manager.checkSessionStatus(key)
            with pytest.raises(SessionRejected):
                manager.restartSessionTimer(key)
        assert manager.getLoggedUsers() == []
        assert ended == []
        done = threading.Event()
        manager.on("activeUserDeleted", lambda key: done.set() if key == others[-1] else None)
        go_on.set()
        assert done.wait(30)
        assert ended == [first, *others]


class TestAsyncListeners:
    def test_awaited_on_the_loop_that_runs_where_the_event_is_emitted(self, manager):
        async def application():
            told = asyncio.Event()

            async def listener(key):
                await asyncio.sleep(0)
                heard.append((key, asyncio.get_running_loop() is loop))
                told.set()

            loop = asyncio.get_running_loop()
            manager.on("sessionCreated", listener)
            heard.append(manager.loadNewSession("Luca"))
            await asyncio.wait_for(told.wait(), 30)

        heard: list[object] = []
        asyncio.run(application())
        assert heard == [heard[0], (heard[0], True)]

    @pytest.mark.parametrize("kind", ["function", "partial", "object"])
    def test_awaited_on_the_applications_loop_from_the_clock_thread(self, kind):
        store = MemoryStore()
        manager = SessionManager(store=store)
        heard: list[object] = []

        async def application():
            loop = asyncio.get_running_loop()
            told = asyncio.Event()

            async def listener(key):
                heard.append((key, asyncio.get_running_loop() is loop))
                told.set()

            class Listener:
                async def __call__(self, key):
                    await listener(key)

            manager.on(
                "sessionDeleted",
                {"function": listener, "partial": functools.partial(listener), "object": Listener()}[kind],
            )
            key = await asyncio.to_thread(manager.loadNewSession, "Luca")
            # On the real clock's thread, without waiting for a real timeout.
            store.restart(key, 0.01)
            await asyncio.wait_for(told.wait(), 30)
            return key

        key = asyncio.run(application())
        assert heard == [(key, True)]

    def test_added_before_the_loop_runs_it_is_found_by_a_login_on_the_loop(self, manager, clock):
        heard: list[str] = []

        @manager.on("sessionDeleted")
        async def listener(key):
            heard.append(key)

        async def application():
            key = manager.loadNewSession("Luca")
            await asyncio.to_thread(clock.turn, 3000)
            while not heard:
                await asyncio.sleep(0)
            return key

        assert asyncio.run(application()) == heard[0]

    def test_its_failure_goes_where_failures_go(self, manager, caplog):
        async def broken(*args):
            raise ZeroDivisionError("later")

        async def application(event):
            manager.on(event, broken)
            if event == "error":
                manager.checkSessionStatus("unknown")
            else:
                manager.loadNewSession("Luca")
            await asyncio.sleep(0.01)

        failed = []
        manager.once("listenerFailed", lambda *args: failed.append(args))
        asyncio.run(application("sessionCreated"))
        ((failure, *rest),) = failed
        assert isinstance(failure, ZeroDivisionError)
        assert rest == ["sessionCreated", broken]
        assert "later" not in caplog.text
        asyncio.run(application("error"))
        assert caplog.text.count("ZeroDivisionError: later") == 1

    def test_the_loop_of_a_passing_coroutine_does_not_take_the_place_of_the_applications(self, manager):
        heard: list[object] = []

        async def application():
            loop = asyncio.get_running_loop()

            @manager.on("sessionCreated")
            async def listener(key):
                heard.append(asyncio.get_running_loop() is loop)

            async def view():
                manager.loadNewSession("Luca")

            await asyncio.to_thread(lambda: asyncio.run(view()))  # as asgiref runs an async view of a WSGI application
            await asyncio.to_thread(manager.loadNewSession, "Luca")
            while len(heard) < 2:
                await asyncio.sleep(0)

        asyncio.run(application())
        assert heard == [True, True]

    def test_without_a_loop_it_is_a_clear_error(self, manager, clock):
        failed = []
        manager.on("listenerFailed", lambda *args: failed.append(args))

        @manager.on("sessionCreated")
        async def listener(key):
            raise AssertionError("there is no loop to run on")

        manager.loadNewSession("Luca")
        ((failure, *rest),) = failed
        assert isinstance(failure, SessionError)
        assert "no event loop" in str(failure)
        assert rest == ["sessionCreated", listener]

    def test_a_loop_that_has_closed_is_a_clear_error(self, manager, caplog):
        async def application():
            manager.loadNewSession("Luca")

        @manager.on("sessionDeleted")
        async def listener(key):
            raise AssertionError("the loop has closed")

        asyncio.run(application())
        assert manager.deleteAllSessions() is True
        assert "closed" in caplog.text
        assert "event loop" in caplog.text

    def test_bound_by_hand(self, manager):
        """From a thread, before the loop has emitted anything; a later loop takes its place once it has closed."""
        heard: list[object] = []

        @manager.on("sessionCreated")
        async def listener(key):
            heard.append(asyncio.get_running_loop())

        async def application(loop_is_given):
            loop = asyncio.get_running_loop()
            assert manager.bindLoop(loop if loop_is_given else None) is True
            await asyncio.to_thread(manager.loadNewSession, "Luca")
            while not heard:
                await asyncio.sleep(0)
            assert heard.pop() is loop

        asyncio.run(application(loop_is_given=False))
        asyncio.run(application(loop_is_given=True))

    def test_bound_by_hand_it_stays_where_a_listener_is_added_on_another_loop(self, manager):
        heard: list[object] = []

        async def listener(key):
            heard.append(asyncio.get_running_loop())

        async def elsewhere():
            manager.on("sessionCreated", listener)

        async def application():
            loop = asyncio.get_running_loop()
            manager.bindLoop()
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            manager.loadNewSession("Luca")
            while not heard:
                await asyncio.sleep(0)
            assert heard == [loop]

        asyncio.run(application())

    def test_what_is_no_loop_cannot_be_bound(self, manager):
        with pytest.raises(SessionError, match="no event loop is running"):
            manager.bindLoop()
        with pytest.raises(TypeError, match="event loop, got str"):
            manager.bindLoop("loop")


class TestWrongUse:
    @pytest.mark.parametrize(
        "add",
        [
            lambda m, f: m.on("sessionCreated", f),
            lambda m, f: m.once("sessionCreated", f),
            lambda m, f: m.on("sessionCreated")(f),
        ],
    )
    def test_a_listener_that_cannot_be_called_is_refused_at_once(self, manager, add):
        with pytest.raises(TypeError, match="a listener must be callable, got int"):
            add(manager, 5)
        assert manager.loadNewSession("Luca")

    @pytest.mark.parametrize(
        ("name", "right"),
        [
            ("sessionDelete", "sessionDeleted"),
            ("session_created", "sessionCreated"),
            ("SessionEnded", "sessionEnded"),
            ("sesionRenewed", "sessionRenewed"),
            ("sessionExpirign", "sessionExpiring"),
            ("errors", "error"),
            ("listenerfailed", "listenerFailed"),
        ],
    )
    def test_a_name_that_is_one_typo_away_is_a_warning(self, manager, caplog, name, right):
        manager.on(name, print)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert repr(name) in record.getMessage()
        assert repr(right) in record.getMessage()

    @pytest.mark.parametrize("name", ["lunch", "sessionClosed", "created", "loggedOut", *EVENTS])
    def test_other_names_are_the_applications_own(self, manager, caplog, name):
        manager.on(name, print)
        assert [record for record in caplog.records if record.levelno == logging.WARNING] == []

    def test_the_first_error_listener_is_a_warning_that_names_what_a_guard_should_call(self, manager, caplog):
        for _ in range(3):
            manager.on("error", lambda *_: None)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "getSession" in record.getMessage()


@pytest.mark.in_memory
def test_the_private_names_of_pyee_that_are_used_are_there(manager):
    """`_events` and `_lock`, in the oldest and the newest version: see `.ci/run`."""
    listener = manager.on("lunch", print)
    assert list(manager._events["lunch"].items()) == [(listener, listener)]
    plain = vars(pyee.EventEmitter())
    assert set(plain) == {"_events", "_lock"}
    assert not isinstance(plain["_lock"], type(threading.RLock())), "pyee's own would do"
    assert manager._lock is LOCK
