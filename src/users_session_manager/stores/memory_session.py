"""MemorySession: a session that is its own countdown."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ..policy import Policy
from ..session import Session
from ..timers import SessionTimer

if TYPE_CHECKING:
    from .memory import MemoryStore


UNLISTED: Final[Any] = object()
"""The newer neighbour of a session that is not among the sessions of its user."""


class MemorySession(Session):
    """A `Session` in memory, and the `Countdown` to its end. Its `timer` is made when it is asked for.

    So a session is one object, and to look at it or to restart it touches nothing else. `_steady` is the policy that
    its countdown began under, as long as that goes on under it alike.

    Threads: the store's lock guards what is private here; see `Countdown` for what needs none.
    """

    __slots__ = (
        # What each request looks at stands side by side.
        *("_deadline", "username", "_steady", "timeout", "_interval", "_limit", "data", "createdAt", "key"),
        *("authenticatedAt", "formerKeys", "_place", "_timer", "_store"),
        # When it began, in the store's time, as its deadline and `_limit`, the end of its lifetime; the timer that
        # warns; its neighbours among the sessions of its user.
        *("_born", "_warning", "_older", "_newer"),
    )

    _deadline: float
    _interval: float
    _limit: float

    def __init__(self, store: MemoryStore, username: str, key: str, now: float, data: Any, policy: Policy) -> None:
        self.username = username
        self.key = key
        self.createdAt = self.authenticatedAt = time.time()
        self.data = data
        self.timeout: float | None = None
        self.formerKeys = ()
        self._store = store
        self._born = now
        self._limit = inf if policy.lifetime is None else now + policy.lifetime
        self._deadline = inf
        self._steady: Policy | None = None
        self._place: Any = None
        self._timer: SessionTimer | None = None
        self._warning: SessionTimer | None = None
        self._older: MemorySession | None = None
        self._newer: MemorySession | None = UNLISTED

    @property
    def timer(self) -> SessionTimer:
        return self._timer or self._store._timer_of(self)

    def _run_out(self) -> None:
        if self._timer is None:
            self._store._run_out(self)
        else:
            self._timer._run_out()
