"""ByUser: the sessions of each user, found without looking at those of anybody else."""

from __future__ import annotations

from typing import Final, Literal

from .memory_session import MemorySession

UNLISTED: Final[Literal[False]] = False
"""The newer neighbour of a session that is not among the sessions of its user, as it begins."""


class ByUser:
    """Each user's sessions in the order of creation, as a chain through the sessions themselves.

    Adding and removing cost the same however many there are, and a session costs two of its slots. The oldest session
    of a user stands in the dictionary, and knows the newest as its `_older`.

    Threads: under the lock of the store. `add` and `remove` call nothing, since between two calls a signal handler or
    a finalizer may come, and log the same user in or out on this very thread.
    """

    __slots__ = ("_oldest",)

    def __init__(self) -> None:
        self._oldest: dict[str, MemorySession] = {}

    def add(self, session: MemorySession) -> None:
        """Make `session` the newest of its user, unless it is in already."""
        if session._newer is not UNLISTED:
            return
        all_users, username = self._oldest, session.username
        session._newer = None
        if username not in all_users:
            all_users[username] = session
            return
        oldest = all_users[username]
        newest = oldest if oldest._older is None else oldest._older
        newest._newer = oldest._older = session
        session._older = newest

    def remove(self, session: MemorySession) -> None:
        """Take out `session`, if it is in."""
        if session._newer is UNLISTED:
            return
        all_users, username = self._oldest, session.username
        oldest, older, newer = all_users[username], session._older, session._newer
        if session is not oldest:
            older._newer = newer  # only the oldest can have none
        elif newer is not None:
            all_users[username] = oldest = newer
        else:
            del all_users[username]
        if newer is not None and newer is not oldest:
            newer._older = older
        else:  # what was before it is the newest now
            oldest._older = None if older is oldest else older
        session._older, session._newer = None, UNLISTED

    def of(self, username: str) -> list[MemorySession]:
        """Return the sessions of a user, oldest first."""
        sessions = []
        session = self._oldest.get(username)
        while session is not None:
            sessions.append(session)
            session = session._newer
        return sessions
