"""MemorySession: a session that is its own countdown."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from ..policy import Policy
from ..session import Session
from ..timers import SessionTimer

if TYPE_CHECKING:
    from .memory import MemoryStore


class MemorySession(Session):
    """A `Session` in memory, and the `Countdown` to its end. Its `timer` is made when it is asked for.

    So a session is one object, and to look at it or to restart it touches nothing else. `_steady` is the policy that
    its countdown began under, as long as that goes on under it alike.

    Threads: the store's lock guards what is private here; see `Countdown` for what needs none.
    """

    __slots__ = (
        *("_deadline", "_steady", "_interval", "_place", "_timer", "_store"),
        # When it began and when its lifetime ends, in the store's time; the timer that warns.
        *("_born", "_limit", "_warning"),
        # Its neighbours among the sessions of its user.
        *("_older", "_newer"),
    )

    _interval: float
    _born: float

    def __init__(
        self, store: MemoryStore, username: str, key: str, created_at: float, data: Any, timeout: float | None
    ) -> None:
        self.username = username
        self.key = key
        self.createdAt = self.authenticatedAt = created_at
        self.data = data
        self.timeout = timeout
        self.formerKeys = ()
        self._store = store
        self._deadline = self._limit = inf
        self._steady: Policy | None = None
        self._place: Any = None
        self._timer: SessionTimer | None = None
        self._warning: SessionTimer | None = None
        self._older: MemorySession | None = None
        self._newer: MemorySession | None = None

    @property
    def timer(self) -> SessionTimer:
        return self._timer or self._store.timer_of(self)

    def _run_out(self) -> None:
        if self._timer is None:
            self._store.run_out(self)
        else:
            self._timer._run_out()
