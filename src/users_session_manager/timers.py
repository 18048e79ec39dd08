"""SessionTimer, a `threading.Timer` without a thread of its own, and the one clock thread that serves them all."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Final

from .log import log

# The longest delay that a wait of the standard library takes, in seconds.
LONGEST: Final = threading.TIMEOUT_MAX

_NEW, _WAITING, _RUNNING, _DONE = range(4)

# With fewer dead entries than this a heap is not worth rebuilding.
_FEW = 64

# How long stopping waits for a timer's function that still runs, in seconds: enough for one that is about to
# return, little enough that one that hangs does not hold up the exit of the interpreter.
_PATIENCE = 0.5


class SessionTimer(threading.Timer):
    """A `threading.Timer` that runs on the thread of its `clock`.

    Takes what `threading.Timer` takes (`interval` in seconds, `function`, `args`, `kwargs`) and the `clock`. The public
    names mean what the standard library says; there is no `ident`, and `daemon` is always true.

    Threads: any thread may call any method; the clock's lock guards what they change.
    """

    # The set-up of Thread (an event, a name, an entry in the set of all threads) is left out on purpose: it costs
    # many times what the rest of a session does.
    __slots__ = (
        *("interval", "function", "args", "deadline"),
        *("_kwargs", "_clock", "_queued", "_state", "_finished", "_ended", "_name"),
    )

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        clock: Clock,
    ) -> None:
        self.interval = interval
        self.function = function
        self.args: Iterable[Any] = () if args is None else args
        self._kwargs = kwargs
        self._clock = clock
        self.deadline = inf  # in the clock's time; infinite until started and once cancelled
        self._queued = inf  # the time of this timer's entry in the clock's heap; infinite without one
        self._state = _NEW
        self._finished: threading.Event | None = None
        self._ended: threading.Event | None = None
        self._name: str | None = None

    def start(self) -> None:
        """Begin the countdown; a second time it is a `RuntimeError`, as for any thread."""
        with self._clock.lock:
            if self._state != _NEW:
                raise RuntimeError("threads can only be started once")
            if self._finished is not None and self._finished.is_set():
                self._end()
            else:
                self._clock.schedule(self, self.interval)

    def cancel(self) -> None:
        """Stop the countdown: `function` will not be called. Does nothing once it has been."""
        with self._clock.lock:
            self._clock.cancel(self)

    def is_alive(self) -> bool:
        """Tell whether the countdown or `function` is under way."""
        return self._state == _RUNNING or (self._state == _WAITING and not self._clock.stopped)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the timer has run out and `function` has returned, or `timeout` seconds; forever if `None`.

        Raises `RuntimeError` before the start, and on the clock's thread, which would wait for itself.
        """
        with self._clock.lock:
            if self._state == _NEW:
                raise RuntimeError("cannot join thread before it is started")
            if not self.is_alive():
                return
            if self._clock.is_this_thread():
                raise RuntimeError("cannot join current thread")
            if self._ended is None:
                self._ended = threading.Event()
        self._ended.wait(timeout)

    @property
    def finished(self) -> threading.Event:  # type: ignore[override]  # made when it is asked for
        """The event that is set once the timer was cancelled or has run."""
        with self._clock.lock:
            if self._finished is None:
                self._finished = threading.Event()
                if self._state == _DONE:
                    self._finished.set()
            return self._finished

    @property
    def kwargs(self) -> Mapping[str, Any]:
        if self._kwargs is None:
            self._kwargs = {}
        return self._kwargs

    @kwargs.setter
    def kwargs(self, kwargs: Mapping[str, Any]) -> None:
        self._kwargs = kwargs

    @property
    def name(self) -> str:
        return self._name or "SessionTimer"

    @name.setter
    def name(self, name: str) -> None:
        self._name = str(name)

    @property
    def daemon(self) -> bool:
        return True

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._state != _NEW:
            raise RuntimeError("cannot set daemon status of active thread")
        if not daemonic:
            raise ValueError("a SessionTimer cannot keep the interpreter from exiting: daemon is always True")

    @property
    def ident(self) -> None:
        return None

    @property
    def native_id(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"<{self.name} of {self.interval} s, {('new', 'waiting', 'running', 'done')[self._state]}>"

    def _fire(self) -> None:
        """Call `function` on this thread; what it raises goes where a thread's exceptions go."""
        try:
            if self._finished is None or not self._finished.is_set():
                self.function(*self.args, **self.kwargs)
        except BaseException:  # noqa: BLE001  # the clock must go on, whatever a timer's function does
            try:
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
            except BaseException:  # noqa: BLE001  # or its hook
                log.error("threading.excepthook failed", exc_info=True)
        finally:
            with self._clock.lock:
                self._end()

    def _end(self) -> None:
        self._state = _DONE
        if self._finished is not None:
            self._finished.set()
        if self._ended is not None:
            self._ended.set()


class Clock:
    """The thread that runs timers out, and the lock that whoever keeps them shares.

    `now` is the time in seconds that deadlines are measured in, monotonic. The thread starts with the first timer;
    it is a daemon. After `os.fork` the child gets a thread of its own, once `on_fork` has run there with the lock held:
    what the owner has to put right before anything runs out. With `thread=False` there is none: tests that turn the
    time by hand call `run_due`.

    Threads: `schedule` and `cancel` are called with `lock` held, everything else without it. `lock` guards the heap,
    the state of every timer on it, and what the owner of the clock keeps beside it, so that a session and its timer
    change together. It is re-entrant because a signal handler or a finalizer may log somebody out at any moment.
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
        self._bell = _silent_bell()
        self._thread: threading.Thread | None = None
        self._wakes_at = inf  # when the thread looks again by itself; minus infinity while it is not asleep
        self._heap: list[tuple[float, int, SessionTimer]] = []
        self._order = itertools.count()  # timers of one deadline run out in the order of their start
        self._dead = 0  # entries of the heap whose timer was cancelled or queued anew
        self._firing: SessionTimer | None = None
        with _clocks_lock:
            _clocks.add(self)

    def schedule(self, timer: SessionTimer, interval: float, until: float = inf) -> None:
        """Let `timer` run out `interval` seconds from now, or at the time `until` if that comes first.

        A timer that waits already gets its new deadline. Raises `ValueError` for more than a timer can hold, NaN and
        infinity included.
        """
        if not interval <= LONGEST:
            raise ValueError(f"a timer holds at most {LONGEST} seconds, got {interval!r}")
        if self._thread is None:
            self._start()
        now = self.now()
        deadline = now + interval
        if deadline > until:
            deadline, interval = until, until - now
        timer.deadline = deadline
        timer.interval = interval
        timer._state = _WAITING
        # A later deadline needs no entry: the one that is there will find it.
        if deadline < timer._queued and not self.stopped:
            was_queued, timer._queued = timer._queued != inf, deadline
            entry = (deadline, next(self._order), timer)
            heappush(self._heap, entry)
            if was_queued:
                self._bury()
            if deadline < self._wakes_at:
                self._ring()

    def cancel(self, timer: SessionTimer) -> None:
        """Let `timer` never run out. Nothing happens if it has."""
        if timer._state != _WAITING:
            timer.finished.set()
            return
        timer.deadline = timer._queued = inf
        timer._end()
        self._bury()

    def run_due(self) -> int:
        """Run every timer out whose deadline has come, on the calling thread; return how many there were."""
        count = 0
        while True:
            # One entry each time the lock is taken, so that a crowd of them keeps nobody waiting.
            with self.lock:
                if self.stopped or not self._heap or self._heap[0][0] > self.now():
                    return count
                timer = self._take_first()
                self._firing = timer
            if timer is not None:
                timer._fire()
                self._firing = None
                count += 1

    def stop(self) -> None:
        """End the thread; timers that wait will not run. Twice is harmless, and so is a call by a timer's function.

        A function that is running gets half a second to return.
        """
        with self.lock:
            self.stopped = True
            thread, self._thread = self._thread, None
            heap, self._heap = self._heap, []
            for _, _, timer in heap:
                if timer._ended is not None:
                    timer._ended.set()  # whoever joins it waits no longer
            self._ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def is_this_thread(self) -> bool:
        """Tell whether the caller runs on the clock's thread."""
        return self._thread is threading.current_thread()

    def _bury(self) -> None:
        """Count one more dead entry, and drop them all once they are the greater part.

        So what is deleted gives its memory back long before its deadline, at a cost a timer that stays the same.
        """
        self._dead += 1
        if self._dead > _FEW and self._dead * 2 > len(self._heap):
            # A finalizer or a signal may start a timer on this thread meanwhile: its entry goes to the new heap.
            old, self._heap, self._dead = self._heap, [], 0
            kept = [entry for entry in old if entry[2]._queued == entry[0]]
            self._heap.extend(kept)
            heapify(self._heap)

    def _take_first(self) -> SessionTimer | None:
        """Take the first entry off the heap; return its timer if that has run out."""
        queued_at, order, timer = heappop(self._heap)
        if queued_at != timer._queued:
            self._dead -= 1
            return None
        if timer.deadline > self.now():
            timer._queued = timer.deadline
            entry = (timer.deadline, order, timer)
            heappush(self._heap, entry)
            return None
        timer._queued = inf
        timer._state = _RUNNING
        return timer

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
                self._wakes_at = self._heap[0][0] if self._heap else inf
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
        if self._firing is not None and self._firing._state == _RUNNING:
            # It was under way on the parent's thread; whether it had done anything, its function finds out.
            self._firing._queued = self._firing.deadline
            entry = (self._firing.deadline, next(self._order), self._firing)
            heappush(self._heap, entry)
        if self._heap:
            self._start()


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
