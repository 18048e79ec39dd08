"""SessionTimer, a `threading.Timer` without a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .clock import LOCK, MAX_TIMEOUT, Clock, register


class SessionTimer(threading.Timer):
    """A `threading.Timer` that runs on the thread of a clock.

    Args:
        interval: Seconds to count down.
        function, args, kwargs: What to call then.
        clock: The clock that it is set in.

    The public names mean what the standard library says. There is no `ident`, and `daemon` is always true.

    Threads: any thread may call any method. `LOCK` guards the alarm; the events are set without it.
    """

    def __init__(self, *args: Any, clock: Clock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entry: bytes | None = None
        self._clock = clock
        self._was_started = False
        self._ended = threading.Event()
        register(self)

    def start(self) -> None:
        """Begin the countdown.

        Raises:
            RuntimeError: It was started before.
            ValueError: `interval` is more than a timer can hold, NaN and infinity included.
        """
        if self._was_started:
            raise RuntimeError("threads can only be started once")
        require_interval(self.interval)
        self._clock.start()
        with LOCK:
            if not self.finished.is_set():
                self._clock.set(self, self._clock.now() + self.interval)
            self._was_started = True
            is_set = self._entry is not None
        if not is_set:  # it was cancelled before its start, or the clock was closed
            self._ended.set()

    def cancel(self) -> None:
        """Stop the countdown, so that `function` is not called; does nothing once it has been."""
        self.finished.set()
        if self._cancel_countdown():
            self._ended.set()

    def end(self) -> None:
        """Note that there is nothing left to wait for; what `args` holds is released."""
        self.args = ()
        self.finished.set()
        self._ended.set()

    def is_alive(self) -> bool:
        """Return whether the countdown or `function` is under way."""
        return self._was_started and not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the timer is cancelled or `function` has returned.

        Args:
            timeout: The longest wait in seconds; `None`, the default, for no limit.

        Raises:
            RuntimeError: It was not started, or this is the clock's thread, which would wait for itself.
        """
        if not self._was_started:
            raise RuntimeError("cannot join thread before it is started")
        if self.is_alive() and self._clock.is_this_thread():
            raise RuntimeError("cannot join current thread")
        self._ended.wait(timeout)

    @property
    def daemon(self) -> bool:
        return True

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._was_started:
            raise RuntimeError("cannot set daemon status of active thread")
        if not daemonic:
            raise ValueError("a SessionTimer cannot keep the interpreter from exiting: leave daemon True")

    def __repr__(self) -> str:
        return f"<{self.name} of {self.interval} s, {'alive' if self.is_alive() else 'not alive'}>"

    def ring(self, now: float) -> Callable[[], object]:  # noqa: ARG002  # as in `Alarm`
        return self.run

    def clock_closed(self) -> None:
        self._ended.set()

    def run(self) -> None:
        """Call `function` on this thread, unless the timer was cancelled."""
        try:
            if not self.finished.is_set():
                self.function(*self.args, **self.kwargs)
        finally:
            self.end()

    def _after_fork_in_child(self) -> None:
        for event in (self.finished, self._ended):  # another thread of the parent may have held their locks
            event._at_fork_reinit()  # type: ignore[attr-defined]  # as the threading module does with its own

    def _cancel_countdown(self) -> bool:
        """Cancel the alarm; return whether it was set, so that `function` will not be called."""
        with LOCK:
            return self._clock.cancel(self)


def require_interval(seconds: float) -> None:
    """Raise `ValueError` for more seconds than a timer can hold, NaN and infinity included."""
    if not seconds <= MAX_TIMEOUT:
        raise ValueError(f"a timer holds at most {MAX_TIMEOUT} seconds, got {seconds!r}")
