"""FormerKeys: the keys that renewals have replaced, as long as they are good for requests that are under way."""

from __future__ import annotations

from ..clock import Clock
from ..timers import SessionTimer
from .memory_session import MemorySession


class FormerKeys:
    """Each former key with its session, and the timer that will drop it. One whose time is over takes no memory.

    Threads: under the lock of the clock, but for the look whether there are any.
    """

    __slots__ = ("_by_key", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_key: dict[str, tuple[MemorySession, SessionTimer]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, session: MemorySession, overlap: float) -> None:
        """Let the present key of a session be good for `overlap` seconds after it has another."""
        key = session.key
        drop = SessionTimer(overlap, self.drop, (key,), clock=self._clock)
        drop.begin(overlap)
        self._by_key[key] = session, drop

    def present(self, key: str) -> str | None:
        """Return the key that the session of a former key has now, `None` for one that is not good any more."""
        former = self._by_key.get(key)
        return former[0].key if former is not None and former[1]._deadline > self._clock.now() else None

    def shorten(self, session: MemorySession, overlap: float) -> None:
        """Let the former keys of a session be good for `overlap` seconds more at most."""
        for key in session.formerKeys:
            former = self._by_key.get(key)
            if former is not None and overlap:
                former[1].begin(overlap, former[1]._deadline)
            elif former is not None:
                former[1].cancel()
                self.drop(key)

    def drop(self, key: str) -> None:
        """Forget a key."""
        with self._clock.lock:
            self._by_key.pop(key, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._by_key = {}
