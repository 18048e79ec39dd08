"""Session, one record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .keys import label

if TYPE_CHECKING:  # the arrow goes the other way
    from .timers import SessionTimer


class Session:
    """One login: who, since when, what the application keeps with it, and the timer that will end it.

    | attribute | |
    |---|---|
    | `username` | as given to `loadNewSession`, `str` |
    | `key` | the session key, `str`; a secret |
    | `createdAt` | Unix time in seconds, `float` |
    | `data` | what `setSessionData` put there; `None` until then |
    | `timer` | a started `threading.Timer` |
    """

    __slots__ = ("username", "key", "createdAt", "data", "timer")

    def __init__(self, username: str, key: str, created_at: float, timer: SessionTimer) -> None:
        self.username = username
        self.key = key
        self.createdAt = created_at
        self.data: Any = None
        self.timer = timer

    def __repr__(self) -> str:
        return f"<Session {label(self.key)} of {self.username!r}>"
