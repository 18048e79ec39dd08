"""SharedStore: what every store has that processes share."""

from __future__ import annotations

import itertools
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import random
from typing import Any, Final

from ..policy import Policy
from ..session import Session
from .base import NO_LIMITS
from .encoding import SizeLimits, require_limits
from .expiry import Claim, ClaimingStore, SharedSession

# How many seconds `update_data` waits at most, where many change the same data, before it tries again.
MAX_BACKOFF: Final = 0.05


class SharedSessions(Mapping[str, Session]):
    """The live sessions by key; each look at it asks the store."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    def __getitem__(self, key: str) -> Session:
        session = self._store.get(key)
        if session is None or session.key != key:
            raise KeyError(f"<no live session of {type(key).__name__}>")
        return session

    def __iter__(self) -> Iterator[str]:
        return iter([key for _, key in self._store._list()])

    def __len__(self) -> int:
        return self._store._count()


class SharedStore(ClaimingStore):
    """A store that processes share. What it is given is written as text, and read as a snapshot.

    Args:
        lease: Seconds that a process has to announce the end of a session before another does.
        max_data: Bytes that the data of a session may have as JSON.
        max_username: Characters that a username, a user id and a security stamp may have.
        now: The time that deadlines are measured in, in seconds; `None` for the clock of the store.
        thread: Whether threads let sessions expire.
    """

    def __init__(
        self, lease: float, max_data: int, max_username: int, now: Callable[[], float] | None, *, thread: bool
    ) -> None:
        require_limits(max_data=max_data, max_username=max_username)
        super().__init__(lease, now, thread=thread)
        self._limits = SizeLimits(max_data, max_username)
        self._sessions = SharedSessions(self)

    @property
    def sessions(self) -> SharedSessions:
        return self._sessions

    @abstractmethod
    def get(self, key: object) -> SharedSession | None: ...

    @abstractmethod
    def _list(self) -> list[tuple[str, str]]:
        """Return the username and the key of each live session, in the order of creation."""

    @abstractmethod
    def _count(self) -> int:
        """Return how many live sessions there are."""

    @abstractmethod
    def _replace_data(self, key: object, before: SharedSession, data: str) -> bool | None:
        """Store data with a live session if it is what it was `before`; `False` without a session, `None` if not."""

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> threading.Timer:
        session = self.restart(key, timeout, policy)
        return self._start_timer(timeout) if session is None else session.timer

    def time_left(self, key: object) -> float | None:
        session = self.get(key)
        return None if session is None else session._snapshot.left

    def update_data(self, key: object, change: Callable[[Any], Any]) -> tuple[bool, Any]:
        for attempt in itertools.count():
            session = self.get(key)
            if session is None:
                return False, None
            data = change(session.data)
            is_replaced = self._replace_data(key, session, self._limits.encode_data(data))
            if is_replaced is not None:
                return is_replaced, data if is_replaced else None
            time.sleep(random() * min(0.001 * 2 ** min(attempt, 10), MAX_BACKOFF))  # noqa: S311  # no secret
        raise AssertionError("unreachable")

    def usernames(self) -> list[str]:
        return [username for username, _ in self._list()]

    def present_keys(self, session_ids: Sequence[Any]) -> list[str | None]:
        return self._keys_of(session_ids, with_ended=False)

    def _restarted(self, session: SharedSession | None, policy: Policy) -> None:
        """Poll in time for what is due after a restart."""
        if session is not None:
            self._poll_in_time(session._snapshot.left, policy)
        elif policy.lifetime is not None:
            self._poll_in_time(0, policy)  # it may have outlived that

    def _taken_out(self, pages: Iterable[Iterable[SharedSession]], lease: float) -> list[SharedSession]:
        """Return the sessions that pages of an operation have taken out; if one fails, the others are announced."""
        ended: list[SharedSession] = []
        try:
            for found in pages:
                ended += self._claimed(found) if lease else found
        except BaseException:
            if lease:
                self._announce_soon(Claim(ended, [], 0))
            raise
        return ended
