"""A fresh manager for each test, and its clock."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from .. import manager as manager_module
from ..stores.base import Store
from ..stores.memory import MemoryStore

# How long `advance` waits for an `async def` listener, in seconds.
LISTENER_TIMEOUT: Final = 30


class ManualClock:
    """The time of the sessions of a test, which `advance` alone moves. `fresh_sessions` makes it.

    It moves deadlines and warnings. Times of day, such as `createdAt`, are those of the machine.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._store = self._new_store()

    def _new_store(self) -> MemoryStore:
        """Return a store on this clock, in place of the one before, which has been closed."""
        self._store = MemoryStore(now=lambda: self._now, thread=False)
        return self._store

    def advance(
        self,
        delta: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the time forward, and do what has become due: warnings, and the ends of sessions.

            clock.advance(minutes=20)

        All of it has happened when the call returns, on this thread and in order of time: a listener sees the time at
        which it is due. An `async def` listener has run too, unless its event loop is that of this thread: such a
        listener runs at the next `await`.

        Args:
            delta: How far, as a `timedelta`; what the others say is added.
            days, hours, minutes, seconds: How far, as numbers.

        Raises:
            TypeError: `delta` is no `timedelta`, or another argument no number.
            ValueError: The time would go backwards.
            TimeoutError: An `async def` listener has not ended within 30 seconds.
        """
        if not isinstance(delta, (timedelta, type(None))):
            raise TypeError(f"advance() takes a timedelta, got {type(delta).__name__}: say seconds=..., minutes=...")
        total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds) + (delta or timedelta())
        if total < timedelta():
            raise ValueError(f"the clock goes forward only, got {total.total_seconds()} seconds")
        until = self._now + total.total_seconds()
        while (due := self._store.clock.next_alarm()) <= until:
            self._now = max(self._now, due)
            self._store.run_due()
            _wait_for_listeners()
        self._now = max(self._now, until)


def _wait_for_listeners() -> None:
    """Wait for the `async def` listeners that run on the loop of another thread."""
    manager = manager_module._instance
    if manager is None or manager._loop is None or not manager._loop.is_running():
        return
    pending = [each for each in manager._tasks if isinstance(each, concurrent.futures.Future)]
    if concurrent.futures.wait(pending, LISTENER_TIMEOUT).not_done:
        raise TimeoutError(
            f"an async listener has not ended within {LISTENER_TIMEOUT} seconds; check what it waits for"
        )


@contextmanager
def isolated(new_store: Callable[[], Store]) -> Iterator[None]:
    """Let every manager keep its sessions in a store of `new_store()`, and leave no trace of that; for a test.

    At the end the present manager is as it was: its store, its listeners, its settings, its watchers and its socket
    reference. One that was made in between is closed.
    """
    before, outer = manager_module._instance, manager_module._new_store
    kept = {} if before is None else before._isolate(new_store())
    manager_module._new_store = new_store
    try:
        yield
    finally:
        manager_module._new_store = outer
        if manager_module._instance is not None and manager_module._instance is not before:
            manager_module._instance.close()
        if before is not None:
            before._restore(kept)
        manager_module._instance = before


@contextmanager
def fresh_sessions() -> Iterator[ManualClock]:
    """Run a test without any session from before, on a clock that it turns; leave nothing to the next test.

        with fresh_sessions() as clock: ...

    The pytest plugin does this for each test. With `unittest`, `self.clock = self.enterContext(fresh_sessions())` in
    `setUp` does (Python 3.11 or later).

    Within it, each `SessionManager` keeps its sessions in memory, whatever store the application names, and no thread
    lets them expire. The one that the application has made before keeps its listeners, settings, attached servers and
    watchers; at the end it has these again, and none that the test has added. One that is made within is closed at the
    end, so that an application factory can be called in each test.

    Returns:
        A context manager that returns the clock.
    """
    clock = ManualClock()
    with isolated(clock._new_store):
        yield clock
