"""Session, one record, and what it can hold."""

from __future__ import annotations

import threading
import time
from math import inf
from typing import Any, Literal
from uuid import UUID

from .errors import SessionError
from .keys import label

Reason = Literal["deleted", "expired", "evicted"]
"""Why a session has ended: it was deleted, its time was over, or it made room for a new session of its user."""


class Session:
    """One login: the user, since when, the application's data, and the timer that ends it.

    | attribute | |
    |---|---|
    | `username` | as given to `loadNewSession`, `str` |
    | `userId` | whose session it is, `str`: as given to `loadNewSession`, else the username |
    | `key` | the session key, `str`; a secret |
    | `createdAt` | when it was created: Unix time in seconds, `float` |
    | `authenticatedAt` | when its user last authenticated: as `createdAt`, or when its key was last renewed |
    | `authenticationAge` | how many seconds ago that was, `float`, by the clock of the store and never negative; \
    infinity if that clock was set back to before it |
    | `data` | what the application stores with it; `None` until set |
    | `timeout` | an idle timeout of its own, in seconds; `None` for the manager's |
    | `formerKeys` | keys that `renewSessionKey` has replaced, oldest first, `tuple[str, ...]`: the last one, and \
    those before it whose overlap was not over at the last renewal, at most 8 together |
    | `securityStamp` | a `str` that represents the user's credentials at the login: as given to `loadNewSession` or \
    `renewSessionKey`; `None` without one |
    | `timer` | a started `threading.Timer`, made when it is first asked for |

    A copy, by `copy` or by pickle, is a snapshot: it has these values and no store, and its `timer` is a
    `SessionError`.
    """

    # In the order of the arguments below.
    __slots__ = (
        *("username", "key", "createdAt", "authenticatedAt", "data", "timeout", "formerKeys", "userId"),
        "securityStamp",
    )

    def __init__(
        self,
        username: str,
        key: str,
        createdAt: float,
        authenticatedAt: float,
        data: Any = None,
        timeout: float | None = None,
        formerKeys: tuple[str, ...] = (),
        userId: str | None = None,
        securityStamp: str | None = None,
    ) -> None:
        self.username = username
        self.key = key
        self.createdAt = createdAt
        self.authenticatedAt = authenticatedAt
        self.data = data
        self.timeout = timeout
        self.formerKeys = formerKeys
        self.userId = username if userId is None else userId
        self.securityStamp = securityStamp

    @property
    def authenticationAge(self) -> float:
        return not_negative(time.time() - self.authenticatedAt)

    @property
    def _id(self) -> Any:
        """The id of the session in its store; a renewal of the key does not change it."""

    @property
    def timer(self) -> threading.Timer:
        raise SessionError(
            "a copy of a session has no timer: take that of what getSession() returns, see docs/reference/errors.md"
        )

    def __reduce__(self) -> tuple[type[Session], tuple[Any, ...]]:
        return Session, tuple(getattr(self, name) for name in Session.__slots__)

    def __repr__(self) -> str:
        return f"<Session {label(self.key)} of {self.username!r}>"


def not_negative(age: float) -> float:
    """Return an age, or infinity for a negative one: a clock that was set back must not make a login a recent one."""
    return age if age >= 0 else inf


def user_id_of(user: object) -> str:
    """Return a user id as a session has it; raise `TypeError` or `ValueError` for what is none."""
    if isinstance(user, UUID):
        return str(user)
    if isinstance(user, int) and not isinstance(user, bool):
        return str(int(user))  # not what an `IntEnum` is shown as
    return require_text("user id", user, "a non-empty str, an int or a UUID")


def require_stamp(stamp: object) -> None:
    """Raise `TypeError` for what cannot be a security stamp."""
    if stamp is not None and not isinstance(stamp, str):
        raise TypeError(f"the security stamp must be a str or None, got {type(stamp).__name__}")


def require_text(what: str, text: object, kinds: str = "a non-empty str") -> str:
    """Return a non-empty `str`; raise `TypeError` or `ValueError`, which name `what` it is, for anything else."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be {kinds}, got {type(text).__name__}")
    if not text:
        raise ValueError(f"{what} must be {kinds}, got ''")
    return text
