"""SessionTimer, a `threading.Timer` without a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

from .clock import Clock, Countdown

_NEW, _WAITING, _RUNNING, _DONE = range(4)


class SessionTimer(threading.Timer):
    """A `threading.Timer` that runs on the thread of its `clock`.

    Takes what `threading.Timer` takes (`interval` in seconds, `function`, `args`, `kwargs`) and the `clock`. The public
    names mean what the standard library says; there is no `ident`, and `daemon` is always true.

    Threads: any thread may call any method; the clock's lock guards what they change.
    """

    # The set-up of Thread (an event, a name, an entry in the set of all threads) is left out on purpose: it costs
    # many times what the rest of a session does.
    __slots__ = (
        *("function", "args", "_kwargs", "_clock", "_state", "_finished", "_ended", "_name", "_countdown"),
        *("_deadline", "_interval", "_place", "_steady"),
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
        self.function = function
        self.args: Iterable[Any] = () if args is None else args
        self._kwargs = kwargs
        self._clock = clock
        self._state = _NEW
        self._finished: threading.Event | None = None
        self._ended: threading.Event | None = None
        self._name: str | None = None
        self._countdown: Countdown | None = None  # whose timer it is; `None` for one that counts down by itself
        self._deadline = inf
        self._interval = interval
        self._place: Any = None
        self._steady: Any = None

    @classmethod
    def of(
        cls, countdown: Countdown, function: Callable[..., object], args: Iterable[Any], *, clock: Clock
    ) -> SessionTimer:
        """Return the timer of a `countdown` that is under way, which that runs out: `_run_out` there calls it here."""
        timer = cls(countdown._interval, function, args, clock=clock)
        timer._countdown = countdown
        timer._state = _WAITING
        return timer

    @property
    def interval(self) -> float:
        return (self._countdown or self)._interval

    @interval.setter
    def interval(self, interval: float) -> None:
        (self._countdown or self)._interval = interval

    def start(self) -> None:
        """Begin the countdown; a second time it is a `RuntimeError`, as for any thread."""
        with self._clock.lock:
            if self._state != _NEW:
                raise RuntimeError("threads can only be started once")
            if self._finished is not None and self._finished.is_set():
                self._end()
            else:
                self.begin(self._interval)

    def begin(self, interval: float, until: float = inf) -> None:
        """Begin the countdown, or begin it anew, with the clock's lock held; see `Clock.schedule`."""
        self._clock.schedule(self, interval, until)
        self._state = _WAITING

    def cancel(self) -> None:
        """Stop the countdown: `function` will not be called. Does nothing once it has been."""
        with self._clock.lock:
            if self._state == _WAITING:
                self._clock.cancel(self._countdown or self)
                self._end()
            else:
                self.finished.set()

    def let_go(self) -> None:
        """End the timer of a countdown that is over, with the clock's lock held; `function` ends it if that runs."""
        if self._state != _RUNNING:
            self._end()

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
                self._clock.awaited.add(self._ended)
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

    def _run_out(self) -> None:
        """Call `function` on this thread."""
        with self._clock.lock:
            if self._state == _DONE:  # cancelled a moment ago
                return
            self._state = _RUNNING
        try:
            if self._finished is None or not self._finished.is_set():
                self.function(*self.args, **self.kwargs)
        finally:
            with self._clock.lock:
                if (self._countdown or self)._place is None:
                    self._end()
                else:  # it has begun anew meanwhile
                    self._state = _WAITING

    def _end(self) -> None:
        self._state = _DONE
        if self._countdown is not None:  # each would keep the other until the garbage collector comes
            self._interval, self._countdown, self.args = self._countdown._interval, None, ()
        if self._finished is not None:
            self._finished.set()
        if self._ended is not None:
            self._ended.set()
            self._clock.awaited.discard(self._ended)
