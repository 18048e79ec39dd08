"""A SessionTimer is a threading.Timer in all but its thread."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any

import pytest

from users_session_manager import MemoryStore, SessionManager
from users_session_manager.clock import Clock
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


def waiting(clock: Clock) -> set[Any]:
    """What waits in a clock, wherever."""
    near = {countdown for *_, run in clock._near for _, countdown in run}
    return {countdown for countdown in near.union(*clock._far.values()) if countdown._place is not None}


def interrupted(allocations: int, place: int, *, shortens: bool, is_put_back: bool) -> bool:
    """Let a finalizer log a session out, or shorten it, so many allocations after the clock has begun to move it.

    What comes of that is asserted; tells whether the finalizer came before the clock was done.
    """
    seconds, came, ended = [1000.0], [], []

    class Finalized:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            came.append(store.restart(keys[place], 0.2) if shortens else store.remove(keys[place]))

    def now() -> float:
        if begin:
            begin.clear()
            Finalized()
            gc.set_threshold(allocations, 1000, 1000)
        return seconds[0]

    begin: list[bool] = []
    store = MemoryStore(now=now, thread=False)
    store.open(lambda session, reason: ended.append(session.key), lambda *args: None)
    keys = [store.add("Luca", 10.5)[0] for _ in range(20)]
    gc.collect()
    threshold = gc.get_threshold()
    try:
        gc.set_threshold(0)
        seconds[0] = 1009.5
        if is_put_back:
            store.run_due()
            for key in keys:
                store.restart(key, 10.5)
            seconds[0] = 1010.6
        begin.append(True)
        assert store.run_due() == 0
    finally:
        gc.set_threshold(*threshold)
    is_in_time = bool(came)
    gc.collect()
    assert came != [None], "it was to be alive"
    seconds[0] += 0.25
    store.run_due()
    assert ended == ([keys[place]] if shortens else [])
    seconds[0] = 1100.0
    store.run_due()
    assert sorted(ended) == sorted(keys if shortens else set(keys) - {keys[place]})
    assert waiting(store.clock) == set()
    assert not store.clock._near
    assert not any(store.clock._far.values())
    return is_in_time


class TestClock:
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
            assert waiting(clock) == set() or min(timer._deadline for timer in waiting(clock)) > seconds[0]
        assert order == sorted(order)

    @pytest.mark.parametrize("shortens", [False, True])
    @pytest.mark.parametrize("is_put_back", [False, True])
    def test_a_finalizer_may_come_in_wherever_the_clock_is(self, shortens, is_put_back):
        came = set()
        gc.freeze()  # so that to collect all takes no time
        try:
            for allocations in range(1, 80):
                for place in (0, 10, 19):
                    came.add(interrupted(allocations, place, shortens=shortens, is_put_back=is_put_back))
        finally:
            gc.unfreeze()
        assert came == {True, False}, "it was to come both into the midst of it and not"

    def test_a_deadline_that_comes_nearer_is_kept(self):
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], thread=False)
        ran: list[str] = []
        timer = SessionTimer(100, ran.append, ["once"], clock=clock)
        timer.start()
        with clock.lock:
            timer.begin(5)
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

    def test_of_a_deleted_timer_that_is_far_nothing_is_kept(self):
        clock = Clock(thread=False)
        timers = [SessionTimer(3000, list, clock=clock) for _ in range(1000)]
        for timer in timers:
            timer.start()
        assert waiting(clock) == set(timers)
        for timer in timers[:-1]:
            timer.cancel()
        assert waiting(clock) == {timers[-1]}

    def test_restarts_do_not_add_to_what_waits(self):
        clock = Clock(thread=False)
        timer = SessionTimer(3000, list, clock=clock)
        timer.start()
        with clock.lock:
            for _ in range(1000):
                timer.begin(3000)
            for interval in range(3000, 2000, -1):
                timer.begin(interval)
        assert waiting(clock) == {timer}
        assert sum(map(len, clock._far.values())) == 1
        assert clock._near == []

    @pytest.mark.parametrize("intervals", [(3000, 0.01), (0.01, 3000), (0.01, 0.02, 0.005, 3000, 0.005)])
    def test_wherever_it_waited_before_it_runs_out_once(self, intervals):
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], thread=False)
        ran: list[float] = []
        timer = SessionTimer(0, lambda: ran.append(seconds[0]), clock=clock)
        for interval in intervals:
            with clock.lock:
                timer.begin(interval)
            assert clock.run_due() == 0
        for seconds[0] in (0.004, 0.005, 0.01, 0.02, 2999, 3000, 6000):
            clock.run_due()
        assert ran == [intervals[-1]]
        assert waiting(clock) == set()

    def test_a_deadline_that_was_moved_without_the_lock_is_seen_where_it_waits(self):
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], thread=False)
        ran: list[float] = []
        timer = SessionTimer(10, lambda: ran.append(seconds[0]), clock=clock)
        timer.start()
        timer._deadline = 20.0
        for seconds[0] in (10, 19.99):
            assert clock.run_due() == 0
            assert waiting(clock) == {timer}
        seconds[0] = 20
        assert clock.run_due() == 1

    def test_with_nothing_near_its_thread_does_not_look(self):
        clock = Clock(thread=False)
        SessionTimer(3000, list, clock=clock).start()
        assert clock._next_look() > clock.now() + 2990

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
        manager, ended = SessionManager(), []
        told = threading.Event()

        @manager.on("sessionDeleted")
        def leave(key):
            ended.append(key)
            if len(ended) == 3:
                told.set()
            raise SystemExit

        clock = manager._store.clock
        with clock.lock:
            keys = [manager.loadNewSession("Luca") for _ in range(3)]
            for key in keys:
                clock.schedule(manager.sessions[key], 0)
        assert told.wait(30)
        assert ended == keys
        clock.stop()
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
        assert waiting(clock) == set()

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
