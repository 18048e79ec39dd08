"""Listeners: each event once, isolated from each other, never under a lock."""

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
    def test_session(self, manager, clock, heard):
        """`sessionEnded` comes after the other two events, with the whole session and the reason of its end."""
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
    def test_order(self, manager):
        """`sessionRejected` comes before `error`; a listener for it alone keeps the exception."""
        order: list[tuple[str, object]] = []
        manager.on("sessionRejected", lambda key: order.append(("sessionRejected", key)))
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus("unknown")
        manager.on("error", lambda error, details: order.append(("error", details["key"])))
        assert manager.restartSessionTimer("unknown") is False
        assert order == [("sessionRejected", "unknown"), ("sessionRejected", "unknown"), ("error", "unknown")]

    def test_failure(self, manager, caplog):
        """A listener that fails changes no answer."""
        manager.on("sessionRejected", fails)
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus("unknown")
        assert "a listener's own fault" in caplog.text


class TestIsolation:
    @pytest.mark.parametrize("event", EVENTS)
    def test_others(self, manager, clock, event):
        """A listener that raises stops no other listener and no caller."""
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
    def test_log(self, manager, caplog, listens_to_rejections):
        """Without a listener for `listenerFailed`, the log has the traceback."""
        if listens_to_rejections:
            manager.on("error", pytest.fail)
        manager.on("sessionCreated", fails)
        key = manager.loadNewSession("Luca")
        assert manager.checkSessionStatus(key)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "fails" in record.getMessage()
        assert "a listener's own fault" in caplog.text

    def test_error_listener(self, manager, caplog):
        """The failure of an `error` listener is logged, and the other listeners run."""
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

    def test_failure_listener(self, manager, caplog):
        """The failure of a `listenerFailed` listener is logged."""
        manager.on("listenerFailed", fails)
        manager.on("sessionCreated", fails)
        manager.loadNewSession("Luca")
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "listenerFailed" in errors[0]

    def test_no_lock(self, manager, clock):
        """A listener may call any method from any thread."""
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

    def test_new_listener(self, manager):
        """A listener for `new_listener` keeps no other listener from its events."""
        added, heard = [], []
        manager.on("new_listener", lambda event, listener: added.append(event))
        manager.on("sessionCreated", heard.append)
        key = manager.loadNewSession("Luca")
        assert added == ["sessionCreated"]
        assert heard == [key]

    def test_secret(self, manager, caplog):
        """An exception that contains a key is logged without its secret."""
        manager.on("sessionCreated", {}.pop)
        key = manager.loadNewSession("Luca")
        assert "KeyError" in caplog.text
        assert f"{key.partition('_')[0]}_…" in caplog.text
        assert key not in caplog.text

    def test_reentrant(self, manager):
        """A finalizer or a signal handler in the middle of an emit does not wait for its own thread."""

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

    def test_pyee(self, manager):
        """`once`, removal and `emit` work as in pyee."""
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

    def test_changes(self, manager):
        """A listener that is added or removed, in whatever way, counts from the next event."""
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

    def test_own_events(self, manager):
        """The application may emit events of its own."""
        heard = []
        assert manager.emit("lunch", 1) is False
        manager.on("lunch", lambda *args, **kwargs: heard.append((args, kwargs)))
        assert manager.emit("lunch", 1, at="noon") is True
        assert heard == [((1,), {"at": "noon"})]


class TestBlockingListener:
    def test_on_time(self):
        """Sessions are rejected on time while a listener holds up the clock's thread."""
        seconds = [1000.0]
        store = MemoryStore(now=lambda: seconds[0])
        manager = SessionManager(store=store)
        started, go_on = threading.Event(), threading.Event()
        ended: list[str] = []

        def blocks(key):
            if not started.is_set():
                assert threading.current_thread().name == "users-session-manager clock"
                started.set()
                go_on.wait(30)
            ended.append(key)

        manager.on("sessionDeleted", blocks)
        first = manager.loadNewSession("Luca")
        others = [manager.loadNewSession(f"user {number}") for number in range(100)]
        store.restart(first, 0)  # which wakes the clock's thread
        assert started.wait(30)
        assert manager.getLoggedUsers() == [f"user {number}" for number in range(100)]
        seconds[0] += 3000
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
    def test_same_loop(self, manager):
        """It is awaited on the loop that runs where the event is emitted."""

        async def application():
            called = asyncio.Event()

            async def listener(key):
                await asyncio.sleep(0)
                heard.append((key, asyncio.get_running_loop() is loop))
                called.set()

            loop = asyncio.get_running_loop()
            manager.on("sessionCreated", listener)
            heard.append(manager.loadNewSession("Luca"))
            await asyncio.wait_for(called.wait(), 30)

        heard: list[object] = []
        asyncio.run(application())
        assert heard == [heard[0], (heard[0], True)]

    @pytest.mark.parametrize("kind", ["function", "partial", "object"])
    def test_clock_thread(self, kind):
        """It is awaited on the application's loop when the clock's thread emits."""
        store = MemoryStore()
        manager = SessionManager(store=store)
        heard: list[object] = []

        async def application():
            loop = asyncio.get_running_loop()
            called = asyncio.Event()

            async def listener(key):
                heard.append((key, asyncio.get_running_loop() is loop))
                called.set()

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
            await asyncio.wait_for(called.wait(), 30)
            return key

        key = asyncio.run(application())
        assert heard == [(key, True)]

    def test_early(self, manager, clock):
        """Added before the loop runs, it is awaited on the loop on which an event was first emitted."""
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

    def test_failure(self, manager, caplog):
        """Its failure is emitted or logged like any other."""

        async def broken(*args):
            raise ZeroDivisionError("later")

        async def application(event, cause, is_done):
            manager.on(event, broken)
            cause()
            while not is_done():
                await asyncio.sleep(0)

        failed = []
        manager.once("listenerFailed", lambda *args: failed.append(args))
        asyncio.run(application("sessionCreated", lambda: manager.loadNewSession("Luca"), lambda: failed))
        ((failure, *rest),) = failed
        assert isinstance(failure, ZeroDivisionError)
        assert rest == ["sessionCreated", broken]
        assert "later" not in caplog.text
        asyncio.run(application("error", lambda: manager.checkSessionStatus("x"), lambda: "later" in caplog.text))
        assert caplog.text.count("ZeroDivisionError: later") == 1

    def test_passing_loop(self, manager):
        """The loop of a passing coroutine does not take the place of the application's."""
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

    def test_no_loop(self, manager, clock):
        """Without a loop it fails with a clear error."""
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

    def test_closed_loop(self, manager, caplog):
        """With a loop that has closed it fails with a clear error."""

        async def application():
            manager.loadNewSession("Luca")

        @manager.on("sessionDeleted")
        async def listener(key):
            raise AssertionError("the loop has closed")

        asyncio.run(application())
        assert manager.deleteAllSessions() is True
        assert "closed" in caplog.text
        assert "event loop" in caplog.text

    def test_bound(self, manager):
        """A loop is bound by hand from a thread; a later loop takes its place."""
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

    def test_bound_stays(self, manager):
        """A loop that was bound by hand stays when a listener is added on another one."""
        heard: list[object] = []

        async def listener(key):
            heard.append(asyncio.get_running_loop())

        async def elsewhere():
            manager.on("sessionCreated", listener)
            manager.loadNewSession("Luca")

        async def application():
            loop = asyncio.get_running_loop()
            manager.bindLoop()
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            manager.loadNewSession("Luca")
            while not heard or (heard[-1] is loop and len(heard) < 2):
                await asyncio.sleep(0)
            assert heard == [loop, loop]

        asyncio.run(application())

    def test_bad_loop(self, manager):
        """Anything but a loop cannot be bound."""
        with pytest.raises(SessionError, match="no event loop is running"):
            manager.bindLoop()
        with pytest.raises(TypeError, match="event loop, got str"):
            manager.bindLoop("loop")


class TestWrongUse:
    def test_not_callable(self, manager):
        """A listener that cannot be called is refused at once."""
        for add in (manager.on, manager.once, lambda event, listener: manager.on(event)(listener)):
            with pytest.raises(TypeError, match="a listener must be callable, got int"):
                add("sessionCreated", 5)
        assert manager.loadNewSession("Luca")

    def test_typo(self, manager, caplog):
        """An event name that is one typo away is a warning with the right name."""
        for name, right in [
            ("sessionDelete", "sessionDeleted"),
            ("session_created", "sessionCreated"),
            ("SessionEnded", "sessionEnded"),
            ("sesionRenewed", "sessionRenewed"),
            ("sessionExpirign", "sessionExpiring"),
            ("errors", "error"),
            ("listenerfailed", "listenerFailed"),
        ]:
            caplog.clear()
            manager.on(name, print)
            (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert repr(name) in record.getMessage()
            assert repr(right) in record.getMessage()

    def test_other_names(self, manager, caplog):
        """Other names are the application's own."""
        for name in ("lunch", "sessionClosed", "created", "loggedOut", *EVENTS):
            manager.on(name, print)
        assert [record for record in caplog.records if record.levelno == logging.WARNING] == []

    def test_error_warning(self, manager, caplog):
        """The first `error` listener is a warning that names what a guard should call."""
        for _ in range(3):
            manager.on("error", lambda *_: None)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "getSession" in record.getMessage()


def test_pyee_names(manager):
    """The private names of pyee that the emitter uses exist, in its oldest and its newest version."""
    listener = manager.on("lunch", print)
    assert list(manager._events["lunch"].items()) == [(listener, listener)]
    plain = vars(pyee.EventEmitter())
    assert set(plain) == {"_events", "_lock"}
    assert not isinstance(plain["_lock"], type(threading.RLock())), "pyee's own would do"
    assert manager._lock is LOCK
