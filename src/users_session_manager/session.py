"""Session, one record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from .keys import label

if TYPE_CHECKING:  # the arrow goes the other way
    from .timers import SessionTimer

Reason = Literal["deleted", "expired", "evicted"]
"""Why a session has ended: somebody ended it, its time ran out, or it made room for a new one of its user."""


class Session:
    """One login: who, since when, what the application keeps with it, and the timer that will end it.

    | attribute | |
    |---|---|
    | `username` | as given to `loadNewSession`, `str` |
    | `key` | the session key, `str`; a secret |
    | `createdAt` | when it began: Unix time in seconds, `float` |
    | `authenticatedAt` | when its user last proved who they are: as `createdAt`, or when its key was last renewed |
    | `authenticationAge` | how many seconds ago that was, by the clock that said when, `float` |
    | `data` | what the application keeps with it; `None` until set |
    | `timeout` | an idle timeout of its own, in seconds; `None` for the manager's |
    | `formerKeys` | the keys that `renewSessionKey` has replaced, oldest first, `tuple[str, ...]` |
    | `timer` | a started `threading.Timer`, made when it is first asked for |
    """

    __slots__ = ()

    username: str
    key: str
    createdAt: float
    authenticatedAt: float
    data: Any
    timeout: float | None
    formerKeys: tuple[str, ...]

    @property
    def authenticationAge(self) -> float:
        return time.time() - self.authenticatedAt

    @property
    def timer(self) -> SessionTimer:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<Session {label(self.key)} of {self.username!r}>"
