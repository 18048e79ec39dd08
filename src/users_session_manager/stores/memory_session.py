"""MemorySession: a session that is its own countdown."""

from __future__ import annotations

from ..at_hand import Record
from ..session import Session
from ..timers import SessionTimer


class MemorySession(Record, Session):
    """A `Session` in memory, and the `Countdown` to its end. Its `timer` is made when it is asked for.

    So a session is one object, and to look at it or to restart it touches nothing else. `_steady` is the policy that
    its countdown began under, as long as that goes on under it alike. `_born` is when it began, in the store's time, as
    its deadline and `_limit`, the end of its lifetime; `_warning` the timer that warns; `_older` and `_newer` are its
    neighbours among the sessions of its user, see `ByUser`.

    Threads: the store's lock guards what is private here; see `Countdown` for what needs none.
    """

    __slots__ = ()

    @property
    def timer(self) -> SessionTimer:
        return self._timer or self._store._timer_of(self)  # type: ignore[no-any-return]

    def _run_out(self) -> None:
        if self._timer is None:
            self._store._run_out(self)
        else:
            self._timer._run_out()
