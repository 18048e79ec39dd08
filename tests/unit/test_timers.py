"""A SessionTimer is a threading.Timer in all but its thread."""

from __future__ import annotations

import gc
import random
import sys
import threading
import tracemalloc
import weakref
from math import inf
from typing import Any

import pytest

from users_session_manager import MemoryStore, SessionManager
from users_session_manager.clock import LOCK, Clock, Worker
from users_session_manager.policy import Policy
from users_session_manager.timers import SessionTimer


@pytest.fixture(params=["threading.Timer", "SessionTimer"])
def make(request):
    """Makes timers of both kinds, so that each promise is seen to hold for the standard library's too."""
    clock = Clock()

    def make_one(interval: float, function: Any, *args: Any, **kwargs: Any) -> threading.Timer:
        if request.param == "SessionTimer":
            return SessionTimer(interval, function, *args, clock=clock, **kwargs)
        timer = threading.Timer(interval, function, *args, **kwargs)
        timer.daemon = True
        return timer

    yield make_one
    clock.stop()


class TestLikeTheStandardLibrary:
    def test_it_calls_its_function_with_its_arguments(self, make):
        called = []
        timer = make(0.01, lambda *args, **kwargs: called.append((args, kwargs)), [1, 2], {"three": 3})
        assert not timer.is_alive()
        assert not timer.finished.is_set()
        timer.start()
        timer.join(30)
        assert called == [((1, 2), {"three": 3})]
        assert timer.finished.is_set()
        assert not timer.is_alive()
        timer.join()

    def test_its_attributes(self, make):
        function = list.append
        timer = make(5, function)
        assert isinstance(timer, threading.Timer)
        assert (timer.interval, timer.function, list(timer.args), timer.kwargs) == (5, function, [], {})
        assert timer.daemon is True
        assert timer.ident is None
        assert timer.native_id is None
        assert isinstance(timer.name, str)
        timer.name = "mine"
        assert timer.name == "mine"
        timer.kwargs = {"a": 1}
        assert timer.kwargs == {"a": 1}

    def test_cancelled_it_calls_nothing(self, make):
        timer = make(3600, pytest.fail)
        timer.start()
        assert timer.is_alive()
        timer.cancel()
        assert timer.finished.is_set()
        timer.join(30)
        assert not timer.is_alive()

    def test_cancelled_before_its_start_it_ends_at_once(self, make):
        timer = make(0, pytest.fail)
        timer.cancel()
        timer.start()
        timer.join(30)
        assert not timer.is_alive()

    def test_finished_set_by_hand_is_a_cancel(self, make):
        timer = make(0.05, pytest.fail)
        timer.start()
        timer.finished.set()
        timer.join(30)
        assert not timer.is_alive()

    def test_cancelled_while_its_function_runs_it_is_alive_until_that_returns(self, make):
        begun, go_on = threading.Event(), threading.Event()

        def function():
            begun.set()
            go_on.wait(30)

        timer = make(0, function)
        timer.start()
        assert begun.wait(30)
        timer.cancel()
        assert timer.is_alive()
        timer.join(0.01)
        assert timer.is_alive()
        go_on.set()
        timer.join(30)
        assert not timer.is_alive()

    def test_it_starts_once(self, make):
        timer = make(3600, list)
        timer.start()
        with pytest.raises(RuntimeError, match="once"):
            timer.start()
        timer.cancel()
        timer.join(30)
        with pytest.raises(RuntimeError, match="once"):
            timer.start()

    def test_it_cannot_be_joined_before_its_start(self, make):
        with pytest.raises(RuntimeError, match="before it is started"):
            make(1, list).join()

    def test_it_cannot_be_joined_by_its_own_function(self, make):
        failures = []

        def function():
            try:
                timer.join()
            except RuntimeError as failure:
                failures.append(str(failure))

        timer = make(0, function)
        timer.start()
        timer.join(30)
        assert failures == ["cannot join current thread"]

    def test_daemon_is_settled_by_the_start(self, make):
        timer = make(3600, list)
        timer.daemon = True
        timer.start()
        with pytest.raises(RuntimeError, match="active"):
            timer.daemon = True
        timer.cancel()

    def test_what_its_function_raises_goes_to_the_excepthook(self, make, monkeypatch):
        hooked = []
        monkeypatch.setattr(threading, "excepthook", hooked.append)
        timer = make(0, lambda: 1 / 0)
        timer.start()
        timer.join(30)
        (failure,) = hooked
        assert failure.exc_type is ZeroDivisionError
        assert failure.thread is timer

    def test_a_system_exit_ends_nothing_else_and_says_nothing(self, make, capsys, monkeypatch):
        monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

        def leave():
            raise SystemExit(1)

        timer = make(0, leave)
        timer.start()
        timer.join(30)
        assert capsys.readouterr().err == ""

    def test_its_repr_tells_how_it_is(self, make):
        timer = make(3600, list, ["Otter-candid-46_00000000000000000000000000000000"])
        assert "0000000000" not in repr(timer)
        timer.start()
        assert "0000000000" not in repr(timer)
        timer.cancel()


def test_a_timer_that_would_keep_the_interpreter_alive_is_refused():
    timer = SessionTimer(1, list, clock=Clock(thread=False))
    with pytest.raises(ValueError, match="daemon is always True"):
        timer.daemon = False


class Interrupted:
    """A store of twenty sessions, on which a finalizer acts so many allocations after a call has begun."""

    def __init__(self) -> None:
        self.seconds, self.ended, self.removed = 1000.0, [], []
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)
        self.store.open(lambda session, reason: self.ended.append(session.key), lambda *args: None)
        self.keys = [self.store.add("Luca", 10.5)[0] for _ in range(20)]

    def call(self, work: Any, act: Any, allocations: int) -> bool:
        """Return whether the finalizer came before `work` was done."""
        came: list[Any] = []

        class Finalized:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                came.append(act(self_))

        self_ = self
        gc.collect()
        threshold = gc.get_threshold()
        try:
            gc.set_threshold(0)
            Finalized()
            gc.set_threshold(allocations, 1000, 1000)
            work(self)
        finally:
            gc.set_threshold(*threshold)
        is_in_time = bool(came)
        gc.collect()
        return is_in_time

    def turn_to(self, seconds: float, restarted_at: float | None = None) -> None:
        if restarted_at is not None:
            self.seconds = restarted_at
            for key in self.keys:
                self.store.restart(key, 10.5)
        self.seconds = seconds
        self.store.run_due()

    def remove(self, key: str) -> None:
        session = self.store.remove(key)
        if session is not None:
            self.removed.append(session.key)

    def fill_up(self) -> None:
        """Let the next logout prune the heap."""
        for key in [self.store.add("Fabio", 10.5)[0] for _ in range(200)][:110]:
            self.remove(key)

    def check(self) -> None:
        """Whatever happened, each session ends once, and nothing is left."""
        live = list(self.store.sessions)
        indexed = [*self.store.of_user("Luca"), *self.store.of_user("Fabio")]
        assert sorted(session.key for session, _ in indexed) == sorted(live)
        self.seconds += 1000
        self.store.run_due()
        assert sorted(self.ended + self.removed) == sorted({*self.ended, *self.removed})
        assert set(live) <= {*self.ended}
        assert dict(self.store.sessions) == {}
        assert self.store.of_user("Luca") == []
        assert self.store.clock.pause() == inf
        assert self.store.clock.run_due() == 0


WORK = {
    "a login": lambda case: case.keys.append(case.store.add("Luca", 10)[0]),
    "a login with a cap": lambda case: case.removed.extend(
        session.key for session in case.store.add("Luca", 10, Policy(max_sessions=5))[1]
    ),
    "a restart": lambda case: case.store.restart(case.keys[3], 10.5),
    "a restart that is shorter": lambda case: case.store.restart(case.keys[3], 1),
    "a renewal": lambda case: case.store.renew_key(case.keys[3], 5),
    "a logout": lambda case: case.remove(case.keys[3]),
    "logouts that prune the heap": lambda case: [case.remove(key) for key in list(case.store.sessions)[-60:]],
    "everybody's logout": lambda case: case.removed.extend(session.key for session in case.store.clear()),
    "the clock, as they expire": lambda case: case.turn_to(1010.5),
    "the clock, as it looks too early": lambda case: case.turn_to(1010.6, restarted_at=1009.5),
}
ACTS = {
    "removes": lambda case: case.remove(case.keys[3]),
    "removes many": lambda case: [case.remove(key) for key in case.keys[:18]],
    "shortens": lambda case: case.store.restart(case.keys[3], 0.2),
    "logs in": lambda case: case.store.add("Luca", 3),
    "logs in and out": lambda case: case.remove(case.store.add("Luca", 3)[0]),
    "renews": lambda case: case.store.renew_key(case.keys[3], 1),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("work", WORK)
def test_a_finalizer_may_come_at_each_allocation(work, act):
    came = set()
    gc.freeze()  # so that to collect all takes no time
    try:
        for allocations in range(1, 60):
            case = Interrupted()
            if "prune" in work:
                case.fill_up()
            came.add(case.call(WORK[work], ACTS[act], allocations))
            case.check()
    finally:
        gc.unfreeze()
    assert True in came, "it was to come in the middle"


class TestTheTimerOfASession:
    """The application may do with it what it likes; a session that is rejected stays so, one that is live expires."""

    @pytest.fixture
    def case(self):
        return Interrupted()

    @pytest.mark.parametrize(
        "again", [lambda store, key: store.restart(key, 10), lambda store, key: store.renew_timer(key, 10)]
    )
    def test_cancelled_once_more_after_its_session_has_another_one_it_does_nothing(self, case, again):
        key = case.keys[0]
        timer = case.store.get(key).timer
        timer.cancel()
        assert case.store.time_left(key) == inf
        again(case.store, key)
        timer.cancel()
        assert case.store.time_left(key) == 10
        assert case.store.get(key).timer is not timer

    @pytest.mark.parametrize("stop", [lambda timer: timer.cancel(), lambda timer: timer.finished.set()])
    def test_stopped_after_the_deadline_it_keeps_no_session_alive(self, case, stop):
        key = case.keys[0]
        timer = case.store.get(key).timer
        case.seconds += 10.5  # and the clock is late
        stop(timer)
        assert case.store.get(key) is None
        case.store.run_due()
        assert case.store.get(key) is None
        assert sorted(case.ended) == sorted(case.keys)
        assert not timer.is_alive()

    def test_asked_for_after_the_end_it_is_over(self, case):
        session = case.store.remove(case.keys[0])
        assert not session.timer.is_alive()
        assert session.timer.finished.is_set()


class TestClock:
    def test_a_wake_before_the_sleep_is_not_lost(self):
        """As a finalizer makes it that comes when the thread is about to sleep."""
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

    def test_a_wake_makes_it_ask_again_and_does_not_make_it_run(self):
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

    def test_what_raises_in_the_middle_of_a_prune_loses_no_alarm(self):
        """A signal handler may raise anywhere."""
        case = Interrupted()
        for _ in range(300):
            case.keys.append(case.store.add("Luca", 10.5)[0])

        def interrupt(frame, event, arg):
            if frame.f_code.co_name == "_prune":
                frame.f_trace_lines = True

                def at_line(frame, event, arg):
                    lines.append(frame.f_lineno)
                    if len(lines) == at:
                        raise KeyboardInterrupt
                    return at_line

                return at_line
            return None

        interrupted = 0
        for at in range(1, 8):
            lines: list[int] = []
            before = sys.gettrace()
            sys.settrace(interrupt)
            try:
                for key in case.keys[at * 40 - 40 : at * 40]:
                    case.remove(key)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(before)
        assert interrupted
        left = len(case.store.sessions)
        case.seconds += 1000
        case.store.run_due()
        assert len(case.ended) == left

    def test_timers_run_out_in_the_order_of_their_deadlines_then_of_their_start(self):
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
    def test_a_crowd_that_runs_out_within_a_second_does_so_in_that_order_too(self, step):
        seconds = [0.0]
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
            assert all(interval <= seconds[0] for interval, _ in order)
            assert clock.pause() > 0
        assert order == sorted(order)

    def test_a_deadline_that_comes_nearer_is_kept(self):
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

    def test_its_thread_wakes_for_a_nearer_deadline(self):
        clock = Clock()
        SessionTimer(3600, pytest.fail, clock=clock).start()
        ran = threading.Event()
        SessionTimer(0.01, ran.set, clock=clock).start()
        assert ran.wait(30)
        clock.stop()

    def test_a_cancelled_timer_that_is_far_is_freed_at_once(self):
        clock = Clock(thread=False)
        timers = [SessionTimer(3000, list, clock=clock) for _ in range(1000)]
        for timer in timers:
            timer.start()
        watched = [weakref.ref(timer) for timer in timers]
        for timer in timers[:-1]:
            timer.cancel()
        del timers, timer
        assert [ref() is not None for ref in watched] == [False] * 999 + [True]
        assert clock.pause() > 2990

    def test_cancelled_alarms_do_not_pile_up(self):
        """Memory is bounded by what is set, not by how often something was set and cancelled."""
        clock = Clock(thread=False)
        kept = SessionTimer(3000, list, clock=clock)
        kept.start()
        alarms = [SessionTimer(3000, list, clock=clock) for _ in range(100)]
        tracemalloc.start()
        try:
            for turn in range(1000):
                for alarm in alarms:
                    with LOCK:
                        clock.set(alarm, clock.now() + 3000)
                        clock.cancel(alarm)
                if turn == 10:
                    before = tracemalloc.get_traced_memory()[0]
            assert tracemalloc.get_traced_memory()[0] < before + 50_000
        finally:
            tracemalloc.stop()
        assert clock.pause() > 2990

    def test_a_restart_writes_only_a_deadline_and_the_alarm_is_set_again_when_it_rings(self):
        seconds = [0.0]
        store = MemoryStore(now=lambda: seconds[0], thread=False)
        ended: list[str] = []
        store.open(lambda session, reason: ended.append(session.key), lambda *args: None)
        key = store.add("Luca", 10)[0]
        for seconds[0] in (5.0, 9.0):
            store.restart(key, 10)
        assert store.clock.pause() == 1, "it is looked at where it was"
        for seconds[0] in (10.0, 18.9):
            assert store.run_due() == 0
        assert store.clock.pause() == pytest.approx(0.1)
        seconds[0] = 19.0
        assert store.run_due() == 1
        assert ended == [key]

    def test_stopped_it_runs_nothing_and_twice_is_harmless(self):
        clock = Clock()
        SessionTimer(0.05, pytest.fail, clock=clock).start()
        clock.stop()
        clock.stop()
        assert clock.run_due() == 0
        SessionTimer(0, pytest.fail, clock=clock).start()
        assert not any(thread.name == "users-session-manager clock" for thread in threading.enumerate())

    def test_what_a_session_raises_as_it_runs_out_ends_neither_it_nor_the_others(self, monkeypatch):
        """What is no `Exception` passes the emitter; a listener of `sessionEnded` that leaves is none."""
        hooked: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", hooked.append)
        store, ended = MemoryStore(), []
        manager = SessionManager(store=store)
        told = threading.Event()

        @manager.on("sessionDeleted")
        def leave(key):
            ended.append(key)
            if len(ended) == 3:
                told.set()
            raise SystemExit

        keys = [store.add("Luca", 0.01)[0] for _ in range(3)]
        assert told.wait(30)
        assert ended == keys
        store.close()
        assert [failure.exc_type for failure in hooked] == [SystemExit] * 3

    def test_a_hook_that_fails_does_not_end_it(self, monkeypatch, caplog):
        def broken(_):
            raise ZeroDivisionError

        monkeypatch.setattr(threading, "excepthook", broken)
        clock, ran = Clock(), threading.Event()
        SessionTimer(0, lambda: 1 / 0, clock=clock).start()
        SessionTimer(0.01, ran.set, clock=clock).start()
        assert ran.wait(30)
        assert "excepthook failed" in caplog.text
        clock.stop()

    def test_stopped_it_leaves_nobody_waiting(self):
        clock = Clock()
        timer = SessionTimer(3600, list, clock=clock)
        timer.start()
        waits = threading.Thread(target=timer.join, daemon=True)
        waits.start()
        clock.stop()
        waits.join(30)
        assert not waits.is_alive()
        assert not timer.is_alive()
        timer.join()
        SessionTimer(1, list, clock=clock).start()
        assert clock.pause() == inf

    @pytest.mark.parametrize("interval", [float("nan"), float("inf"), 10**12])
    def test_what_no_timer_can_hold_is_refused(self, interval):
        clock = Clock(thread=False)
        timer = SessionTimer(interval, list, clock=clock)
        with pytest.raises(ValueError, match="holds at most"):
            timer.start()
        assert not timer.is_alive()

    def test_a_timer_may_stop_it(self):
        clock = Clock()
        timer = SessionTimer(0, clock.stop, clock=clock)
        timer.start()
        timer.join(30)
        assert not timer.is_alive()

    def test_a_function_that_hangs_does_not_hold_up_the_stop_for_ever(self):
        clock = Clock()
        begun, go_on = threading.Event(), threading.Event()
        timer = SessionTimer(0, lambda: (begun.set(), go_on.wait(30)), clock=clock)
        timer.start()
        assert begun.wait(30)
        clock.stop()
        assert timer.is_alive()
        go_on.set()
        timer.join(30)

    def test_when_no_thread_can_be_started_nothing_is_half_done(self, monkeypatch):
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
        clock.stop()
