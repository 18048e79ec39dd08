"""What a request looks at: the record of a session in this process, where it is found, and the quick way to it.

There are two of it that do the same: the Python below, and `_at_hand.c`, which takes its place where it has been built.
The environment variable `USERS_SESSION_MANAGER_PURE_PYTHON`, if it is not empty, keeps it away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Record:
    """The fields of a session in memory; `MemorySession` says what they are for."""

    __slots__ = (
        *("_deadline", "username", "_steady", "timeout", "_interval", "_limit", "data", "createdAt", "key"),
        *("authenticatedAt", "formerKeys", "_place", "_timer", "_store", "_born", "_warning", "_older", "_newer"),
    )

    def __init__(
        self, store: Any, username: str, key: str, born: float, created_at: float, limit: float, data: Any, /
    ) -> None:
        self._deadline = inf
        self.username = username
        self._steady: Any = None
        self.timeout: float | None = None
        self._interval: Any = None
        self._limit = limit
        self.data = data
        self.createdAt = self.authenticatedAt = created_at
        self.key = key
        self.formerKeys: tuple[str, ...] = ()
        self._place: Any = None
        self._timer: Any = None
        self._store = store
        self._born = born
        self._warning: Any = None
        self._older: Any = None
        self._newer: Any = False


class AtHand:
    """A store whose sessions can be looked at in this process, without asking it.

    `sessions` has them by their present keys. One lives as long as its `_deadline` is later than `now()`, in seconds.
    """

    __slots__ = ("now", "sessions")

    sessions: dict[str, Any]
    now: Callable[[], float]


class HasAtHand:
    """Who asks a store; `_at_hand` is the store if it is one of these, else `None`."""

    __slots__ = ("_at_hand",)

    _at_hand: Any


def quick(method: _Method) -> _Method:
    """Mark a method for which C has an answer, where there is one at hand; the method itself has all the others."""
    return method


if not TYPE_CHECKING and not os.environ.get("USERS_SESSION_MANAGER_PURE_PYTHON"):
    try:
        from ._at_hand import AtHand, HasAtHand, Quick, Record  # noqa: F401  # in place of those above
    except ImportError:  # it has not been built
        pass
    else:

        def quick(method):
            return update_wrapper(Quick(method), method)
