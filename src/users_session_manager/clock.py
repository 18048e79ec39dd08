"""Clock, the one thread that runs sessions and timers out, and Countdown, what it asks of them."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from operator import itemgetter
from typing import Any, Final, Protocol

from .log import log

# The longest delay that a wait of the standard library takes, in seconds.
LONGEST: Final = threading.TIMEOUT_MAX

# How many are moved or run out each time the lock is taken, so that a crowd of them keeps nobody waiting.
_SOME: Final = 100

# How long stopping waits for a timer's function that still runs, in seconds: enough for one that is about to
# return, little enough that one that hangs does not hold up the exit of the interpreter.
_PATIENCE = 0.5


class Countdown(Protocol):
    """What a `Clock` runs out: a `SessionTimer`, or a session of the memory store. The clock alone sets what is here.

    But for one thing, for which no lock is needed: a deadline may be moved to a later time while `_steady` is not
    `None`. Who does so looks at `_steady` once more afterwards: if it is another now, somebody who holds the lock has
    come in between, and the lock decides.
    """

    _deadline: float
    """When it runs out, in the clock's time; infinite while it does not count."""

    _interval: float
    """How many seconds it counted down when it began."""

    _place: Any
    """Where it waits in the clock; `None` while it does not."""

    _steady: Any
    """Whatever its owner likes; `None` while more than its deadline changes, and once it has run out."""

    def _run_out(self) -> None:
        """Do what is to be done when the deadline has come, on the clock's thread and without its lock."""


_Run = list[tuple[float, Countdown]]
"""Countdowns, each with the deadline that it had when it came, the latest first."""

_DEADLINE: Final = itemgetter(0)


class Clock:
    """The thread that runs countdowns out, and the lock that whoever keeps them shares.

    `now` is the time in seconds that deadlines are measured in, monotonic. The thread starts with the first countdown;
    it is a daemon. After `os.fork` the child gets a thread of its own, once `on_fork` has run there with the lock held:
    what the owner has to put right before anything runs out. With `thread=False` there is none: tests that turn the
    time by hand call `run_due`.

    What is far away waits in slices of a second, each a dictionary, which costs the same however many wait; a second
    before its time comes a slice goes to a heap, which knows the order to the instant.

    Threads: `schedule` and `cancel` are called with `lock` held, everything else without it. `lock` guards the slices
    and the heap, the state of every countdown in them, and what the owner of the clock keeps beside it, so that a
    session and its deadline change together. It is re-entrant because a signal handler or a finalizer may log somebody
    out at any moment.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        thread: bool = True,
        on_fork: Callable[[], object] | None = None,
    ) -> None:
        self.now = now
        self._on_fork = on_fork
        self._threaded = thread
        self.lock = threading.RLock()
        self.stopped = False
        self.awaited: set[threading.Event] = set()  # what somebody waits for who joins a timer
        self._bell = _silent_bell()
        self._thread: threading.Thread | None = None
        self._wakes_at = inf  # when the thread looks again by itself; minus infinity while it is not asleep
        self._far: dict[int, dict[Countdown, bool]] = {}  # by the second in which they run out
        self._slices: list[int] = []  # these seconds, a heap
        self._opened = -1  # the last slice that has gone to the near ones
        self._opening: tuple[int, list[Countdown]] | None = None  # the one that goes now, and who of it is yet to go
        self._near: list[tuple[float, int, _Run]] = []  # a heap of runs, by the deadline of their first
        self._order = itertools.count()  # those of one deadline run out in the order in which they came there
        self._firing: list[Countdown] = []
        with _clocks_lock:
            _clocks.add(self)

    def schedule(self, countdown: Countdown, interval: float, until: float = inf) -> None:
        """Let `countdown` run out `interval` seconds from now, or at the time `until` if that comes first.

        One that waits already gets its new deadline. Raises `ValueError` for more than a timer can hold, NaN and
        infinity included.
        """
        if not interval <= LONGEST:
            raise ValueError(f"a timer holds at most {LONGEST} seconds, got {interval!r}")
        if self._thread is None:
            self._start()
        read_clock = self.now
        now = read_clock()
        deadline = now + interval
        if deadline > until:
            deadline, interval = until, until - now
        countdown._steady = None
        place, before = countdown._place, countdown._deadline
        countdown._deadline = deadline
        countdown._interval = interval
        # For a later deadline it can wait where it is: it is looked at there, and found to have time.
        if (place is None or deadline < before) and not self.stopped:
            if place is not None:
                self._take_out(countdown)
            self._put(countdown)

    def join_slice(self, countdown: Countdown, interval: float, deadline: float) -> bool:
        """Let `countdown`, which does not wait yet, do so in a slice that is there; `False` if that cannot be.

        Needs no lock: a login in a crowd of them does this. After `False`, `cancel` what may have come of it.
        """
        second = int(deadline)
        countdowns = self._far.get(second)
        if countdowns is None:
            return False
        countdown._deadline = deadline
        countdown._interval = interval
        countdown._place = countdowns
        countdowns[countdown] = True
        return self._far.get(second) is countdowns  # else it has been opened, and who did so may not have seen this one

    def cancel(self, countdown: Countdown) -> None:
        """Let `countdown` never run out. Nothing happens if it has."""
        countdown._steady = None
        countdown._deadline = inf
        self._take_out(countdown)

    def run_due(self) -> int:
        """Run out everything whose deadline has come, on the calling thread; return how many there were."""
        count = 0
        while True:
            with self.lock:
                now = self.now()
                if self.stopped or self._next_look() > now:
                    return count
                if not self._open(now):
                    continue
                self._firing = due = self._take_due(now)
            for countdown in due:
                if self.stopped:
                    break
                try:
                    countdown._run_out()
                except BaseException:  # noqa: BLE001  # the clock must go on, whatever a timer's function does
                    _report(countdown)
            count += len(due)
            self._firing = []

    def stop(self) -> None:
        """End the thread; what waits will not run out. Twice is harmless, and so is a call by a timer's function.

        A function that is running gets half a second to return.
        """
        with self.lock:
            self.stopped = True
            thread, self._thread = self._thread, None
            slices, self._far, self._slices, self._opening = self._far, {}, [], None
            near, self._near = self._near, []
            for event in self.awaited:
                event.set()
            self.awaited.clear()
            self._ring()
        # They and those who wait in them would keep each other.
        for countdowns in slices.values():
            countdowns.clear()
        for _, _, run in near:
            run.clear()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def is_this_thread(self) -> bool:
        """Tell whether the caller runs on the clock's thread."""
        return self._thread is threading.current_thread()

    def _put(self, countdown: Countdown) -> None:
        """Let `countdown`, which waits nowhere, wait until it is looked at, at its deadline or before; if it counts.

        Any call may let a finalizer or a signal handler in, who cancels it or puts it elsewhere. So its place is noted
        last, if it still counts and has none, and with no call in between.
        """
        deadline = countdown._deadline
        if not -inf < deadline < inf:
            return
        second = int(deadline)
        countdowns = self._far.get(second)
        if countdowns is None and second > self._opened:
            new: dict[Countdown, bool] = {}
            countdowns = self._far.setdefault(second, new)
            if countdowns is new:
                heappush(self._slices, second)
        if countdowns is None:
            run = [(deadline, countdown)]
            if countdown._place is None and countdown._deadline < inf:
                countdown._place = run
                self._put_near(run)
        elif countdown._place is None and countdown._deadline < inf:
            countdowns[countdown] = True
            countdown._place = countdowns
        if self._next_look() < self._wakes_at:
            self._ring()

    def _put_near(self, run: _Run) -> None:
        """Let those of a run, whose place it is and who are in the order of their deadlines, be looked at each."""
        run.reverse()  # the first is taken from the end
        heappush(self._near, (run[-1][0], next(self._order), run))

    def _take_out(self, countdown: Countdown) -> None:
        place, countdown._place = countdown._place, None
        if isinstance(place, dict):
            place.pop(countdown, None)

    def _next_look(self) -> float:
        """Return when there is something to do: infinity for never."""
        if self._opening is not None:
            return -inf
        near = self._near[0][0] if self._near else inf
        return min(near, self._slices[0] - 1) if self._slices else near

    def _open(self, now: float) -> bool:
        """Let some of the next slice go to where those are that are near, if it is time; tell whether that will do.

        It will not if the slice has begun: somebody in it may have to run out before those who are there.
        """
        if self._opening is None:
            if not self._slices or self._slices[0] - 1 > now:
                return True
            second = heappop(self._slices)
            self._opening = second, list(self._far[second])[::-1]
        second, waiting = self._opening
        countdowns = self._far[second]
        run: _Run = []
        for countdown in waiting[: -_SOME - 1 : -1]:
            if countdown._place is not countdowns:
                continue
            countdown._place = run  # at once: see `_put`
            if not countdowns.pop(countdown, None):  # somebody has just taken it out, without the lock
                continue
            deadline = countdown._deadline
            if deadline < second + 1:
                run.append((deadline, countdown))
            elif countdown._place is run:
                countdown._place = None
                self._put(countdown)
        if run:
            run.sort(key=_DEADLINE)
            self._put_near(run)
        del waiting[-_SOME:]
        if not waiting:
            del self._far[second]  # before the look at who has come meanwhile: see `join_slice`
            self._opened, self._opening = second, None
            for countdown in list(countdowns):
                if countdowns.pop(countdown, None):
                    countdown._place = None
                    self._put(countdown)
        return second > now

    def _take_due(self, now: float) -> list[Countdown]:
        """Take some of the near ones whose deadline has come; those who have more time by now wait on."""
        near = self._near
        due: list[Countdown] = []
        while near and near[0][0] <= now and len(due) < _SOME:
            _, order, run = heappop(near)
            others = near[0][0] if near else inf
            while run:  # it is empty if a finalizer has stopped the clock
                _, countdown = run.pop()
                if countdown._place is run:  # else it was taken out, or put elsewhere
                    countdown._place = None
                    # Before the look at what is moved without the lock.
                    steady, countdown._steady = countdown._steady, None
                    deadline = countdown._deadline
                    if deadline <= now:
                        due.append(countdown)
                    else:
                        countdown._steady = steady
                        self._put(countdown)
                if len(due) == _SOME or (run and not now >= run[-1][0] < others):
                    break
            if run:
                heappush(near, (run[-1][0], order, run))
        return due

    def _start(self) -> None:
        if self.stopped or not self._threaded:
            return
        self._thread = threading.Thread(target=self._loop, name="users-session-manager clock", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._thread = None
            raise

    def _loop(self) -> None:
        while True:
            self.run_due()
            with self.lock:
                if self.stopped:
                    return
                bell = self._bell
                self._wakes_at = self._next_look()
            # Without the lock: a bell that rings before this waits for it is heard all the same.
            bell.acquire(timeout=max(0.0, min(self._wakes_at - self.now(), LONGEST)))
            self._wakes_at = -inf

    def _ring(self) -> None:
        """Wake the thread, or let it not fall asleep."""
        self._wakes_at = -inf
        if self._bell.locked():
            self._bell.release()

    def _revive(self) -> None:
        """Give the child of a fork its own thread. The lock is held by the thread that forked."""
        if self._on_fork is not None:
            self._on_fork()
        self._bell = _silent_bell()
        self._thread = None
        self._wakes_at = inf
        for countdown in self._firing:
            # Each was under way on the parent's thread; whether it had done anything, it finds out.
            if countdown._place is None:
                self._put(countdown)
        self._firing = []
        if self._next_look() < inf:
            self._start()


def _report(countdown: Countdown) -> None:
    """Let the exception that is being handled go where a thread's exceptions go."""
    thread = countdown if isinstance(countdown, threading.Thread) else threading.current_thread()
    try:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
    except BaseException:  # noqa: BLE001  # the clock must go on, whatever the hook does
        log.error("threading.excepthook failed", exc_info=True)


def _silent_bell() -> threading.Lock:
    """Return a lock that is held: whoever takes it sleeps until it is let go, be that before or after."""
    bell = threading.Lock()
    bell.acquire()
    return bell


_clocks: weakref.WeakSet[Clock] = weakref.WeakSet()
# Held during a fork, so that one thread forks at a time and no clock is made meanwhile.
_clocks_lock = threading.RLock()
_held: list[Clock] = []


def _before_fork() -> None:
    _clocks_lock.acquire()
    _held[:] = _clocks
    for clock in _held:
        clock.lock.acquire()


def _after_fork(in_child: bool) -> None:
    for clock in _held:
        if in_child:
            clock._revive()
        clock.lock.release()
    _held.clear()
    _clocks_lock.release()


def _at_exit() -> None:
    # A daemon thread that is cut off in the middle of a print can abort the interpreter.
    with _clocks_lock:
        clocks = list(_clocks)
    for clock in clocks:
        clock.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
