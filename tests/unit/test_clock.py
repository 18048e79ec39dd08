"""The clock: one thread, and alarms that ring in their order."""

from __future__ import annotations

import random
import threading
import tracemalloc
import weakref
from math import inf
from typing import Any

import pytest

from users_session_manager import MemoryStore, SessionManager
from users_session_manager import clock as clock_module
from users_session_manager.clock import LOCK, Clock, Worker
from users_session_manager.keys import new_key
from users_session_manager.timers import SessionTimer

KEY = new_key()


class TestClock:
    def test_early_wake(self):
        """A wake before the sleep is not lost, as a finalizer makes it when the thread is about to sleep."""
        looks = []
        pauses = [3600, 3600, 3600]

        def pause():
            looks.append(len(looks))
            with LOCK:
                if len(looks) == 1:
                    worker.wake()
            if len(looks) == 2:
                looked_again.set()
            return pauses[0]

        looked_again = threading.Event()
        worker = Worker("a worker", lambda: None, pause)
        worker.start()
        assert looked_again.wait(30)
        worker.stop()

    def test_started_in_between(self, monkeypatch):
        """A signal handler that starts it in the middle of its start leaves one thread, which can be woken."""
        make, started, ran = clock_module._closed_lock, [], threading.Event()

        def interrupted():
            if not started:
                started.append(True)
                worker.start()
            return make()

        due = threading.Event()
        worker = Worker("a worker", lambda: (due.clear(), ran.set()), lambda: 0 if due.is_set() else 3600)
        monkeypatch.setattr(clock_module, "_closed_lock", interrupted)
        worker.start()
        assert len([thread for thread in threading.enumerate() if thread.name == "a worker"]) == 1
        with LOCK:
            due.set()
            worker.wake()
        assert ran.wait(30)
        worker.stop()

    def test_wake(self):
        """A wake makes the thread ask again and does not make it run."""
        ran, asked = [], []
        enough = threading.Event()

        def pause():
            asked.append(1)
            if len(asked) == 100:
                enough.set()
            return 3600

        worker = Worker("a worker", lambda: ran.append(1), pause)
        worker.start()
        while not enough.wait(0.001):
            with LOCK:
                worker.wake()
        worker.stop()
        assert ran == []

    def test_order(self):
        """Timers expire in the order of their deadlines, then in that of their start."""
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], thread=False)
        order: list[int] = []
        for number, interval in enumerate([3, 1, 2, 1]):
            SessionTimer(interval, order.append, [number], clock=clock).start()
        assert clock.run_due() == 0
        seconds[0] = 2
        assert clock.run_due() == 3
        assert order == [1, 3, 2]
        seconds[0] = 3
        assert clock.run_due() == 1

    @pytest.mark.parametrize("step", [0.01, 0.5, 10])
    def test_many(self, step):
        """Two thousand timers that expire within two seconds keep that order too."""
        seconds, seen = [0.0], 0
        clock = Clock(lambda: seconds[0], thread=False)
        order: list[tuple[float, int]] = []
        draw = random.Random(7)
        intervals = [draw.randrange(300, 500) / 100 for _ in range(2000)]
        for number, interval in enumerate(intervals[:1000]):
            SessionTimer(interval, order.append, [(interval, number)], clock=clock).start()
        seconds[0] = 2.5  # those of the second that comes next are near by now, and more come to them
        clock.run_due()
        for number, interval in enumerate(intervals[1000:], 1000):
            SessionTimer(interval - 2.5, order.append, [(interval, number)], clock=clock).start()
        while len(order) < 2000:
            seconds[0] += step
            clock.run_due()
            assert all(interval <= seconds[0] for interval, _ in order[seen:])
            seen = len(order)
            assert clock.pause() > 0
        assert order == sorted(order)

    def test_earlier(self):
        """An alarm that is set again for an earlier time rings then, and once."""
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], thread=False)
        ran: list[str] = []
        timer = SessionTimer(100, ran.append, ["once"], clock=clock)
        timer.start()
        with LOCK:
            clock.set(timer, 5)
        seconds[0] = 5
        assert clock.run_due() == 1
        seconds[0] = 100
        assert clock.run_due() == 0
        assert ran == ["once"]

    def test_earlier_on_thread(self):
        """The thread wakes for an earlier alarm."""
        clock = Clock()
        SessionTimer(3600, pytest.fail, clock=clock).start()
        ran = threading.Event()
        SessionTimer(0.01, ran.set, clock=clock).start()
        assert ran.wait(30)
        clock.close()

    def test_cancelled_freed(self):
        """A cancelled timer is freed at once, however far its deadline is."""
        clock = Clock(lambda: 0.0, thread=False)
        timers = [SessionTimer(3000, list, clock=clock) for _ in range(1000)]
        for timer in timers:
            timer.start()
        watched = [weakref.ref(timer) for timer in timers]
        for timer in timers[:-1]:
            timer.cancel()
        del timers, timer
        assert [ref() is not None for ref in watched] == [False] * 999 + [True]
        assert clock.pause() == 3000

    def test_cancelled_memory(self):
        """Memory is bounded by what is set, not by how often something was set and cancelled."""
        clock = Clock(lambda: 0.0, thread=False)
        kept = SessionTimer(3000, list, clock=clock)
        kept.start()
        alarms = [SessionTimer(3000, list, clock=clock) for _ in range(100)]
        tracemalloc.start()
        try:
            for turn in range(200):
                for alarm in alarms:
                    with LOCK:
                        clock.set(alarm, clock.now() + 3000)
                        clock.cancel(alarm)
                if turn == 10:
                    before = tracemalloc.get_traced_memory()[0]
            assert tracemalloc.get_traced_memory()[0] < before + 50_000
        finally:
            tracemalloc.stop()
        assert clock.pause() == 3000

    def test_stop(self):
        """Stopped, it runs nothing; to stop it twice is harmless."""
        seconds = [0.0]
        clock = Clock(lambda: seconds[0])
        SessionTimer(0.05, pytest.fail, clock=clock).start()
        clock.close()
        clock.close()
        seconds[0] = 1.0
        assert clock.run_due() == 0
        SessionTimer(0, pytest.fail, clock=clock).start()
        assert not any(thread.name == "users-session-manager clock" for thread in threading.enumerate())

    def test_system_exit(self, monkeypatch):
        """A listener that raises what is no `Exception` ends neither the thread nor the other sessions."""
        hooked: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", hooked.append)
        store, ended = MemoryStore(), []
        manager = SessionManager(store=store)
        announced = threading.Event()

        @manager.on("sessionDeleted")
        def leave(key):
            ended.append(key)
            if len(ended) == 3:
                announced.set()
            raise SystemExit

        keys = [store.add("Luca", 0.01)[0] for _ in range(3)]
        assert announced.wait(30)
        assert ended == keys
        store.close()
        assert [failure.exc_type for failure in hooked] == [SystemExit] * 3

    def test_broken_hook(self, monkeypatch, caplog):
        """An excepthook that fails does not end the thread."""

        def broken(_):
            raise ZeroDivisionError

        monkeypatch.setattr(threading, "excepthook", broken)
        clock, ran = Clock(), threading.Event()
        SessionTimer(0, lambda: {}[KEY], clock=clock).start()
        SessionTimer(0.01, ran.set, clock=clock).start()
        assert ran.wait(30)
        assert "excepthook failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        name, secret = KEY.split("_")
        assert f"KeyError: '{name}_" in caplog.text
        assert secret not in caplog.text
        clock.close()

    def test_stop_ends_joins(self):
        """A stop ends the timers, so that no thread waits for them."""
        clock = Clock()
        timer = SessionTimer(3600, list, clock=clock)
        timer.start()
        waits = threading.Thread(target=timer.join, daemon=True)
        waits.start()
        clock.close()
        waits.join(30)
        assert not waits.is_alive()
        assert not timer.is_alive()
        timer.join()
        SessionTimer(1, list, clock=clock).start()
        assert clock.pause() == inf

    @pytest.mark.parametrize("interval", [float("nan"), float("inf"), 10**12])
    def test_too_long(self, interval):
        """An interval that no timer can hold is refused."""
        clock = Clock(thread=False)
        timer = SessionTimer(interval, list, clock=clock)
        with pytest.raises(ValueError, match="holds at most"):
            timer.start()
        assert not timer.is_alive()

    def test_stop_by_timer(self):
        """A timer may stop the clock."""
        clock = Clock()
        timer = SessionTimer(0, clock.stop, clock=clock)
        timer.start()
        timer.join(30)
        assert not timer.is_alive()

    def test_hanging(self):
        """A function that hangs does not hold up the stop for ever."""
        clock = Clock()
        started, go_on = threading.Event(), threading.Event()
        timer = SessionTimer(0, lambda: (started.set(), go_on.wait(30)), clock=clock)
        timer.start()
        assert started.wait(30)
        clock.close()
        assert timer.is_alive()
        go_on.set()
        timer.join(30)

    def test_no_thread(self, monkeypatch):
        """When no thread can be started, the timer is as it was and can be started later."""
        clock = Clock()

        def no_more(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        timer = SessionTimer(1, list, clock=clock)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(RuntimeError, match="new thread"):
                timer.start()
        assert not timer.is_alive()
        timer.start()
        assert timer.is_alive()
        clock.close()


def test_two_threads():
    """A thousand sessions cost at most two threads."""
    before = threading.active_count()
    manager = SessionManager()
    for number in range(1000):
        manager.loadNewSession(f"user {number}")
    assert threading.active_count() <= before + 2
    assert all(isinstance(session.timer, threading.Timer) for session in manager.sessions.values())
    assert all(session.timer.is_alive() for session in manager.sessions.values())
