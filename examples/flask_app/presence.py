"""The lists of sessions that the pages show, and how each page gets a new list the moment one changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from typing import Any

import socketio
from shared.pages import label

from users_session_manager import SessionManager, SessionRejected

Sessions = dict[str, list[dict[str, Any]]]
"""By username: what `getUserSessions` returns, keys included."""


class Presence:
    """Shows users their own sessions and who is logged in, and administrators the sessions of all users.

    Pages are warned `warning` seconds before their session expires, or half-way if it is no longer than that.
    """

    def __init__(
        self, manager: SessionManager, io: socketio.Server, *, administrators: Collection[str], warning: float
    ) -> None:
        self._manager = manager
        self._io = io
        self._administrators = administrators
        self._warning = warning
        self._pushing = threading.Lock()  # so that no page gets an old list after a newer one

    def set_timeout(self, seconds: float) -> bool:
        """Set the timeout of sessions started or restarted afterwards; return whether it was valid."""
        valid = self._manager.setSessionTimeOut(seconds)
        if valid:
            self._manager.setExpiryWarning(self._warned_at(seconds))
        return valid

    def end(self, username: str, session_id: object) -> bool:
        """End the session of `username` with that id; return whether there was one."""
        keys = [session["key"] for session in self._manager.getUserSessions(username)]
        try:
            return any(self._manager.deleteSession(key) for key in keys if id_of(key) == session_id)
        except SessionRejected:
            return False  # it has just ended

    def push(self) -> None:
        """Send every page its current list."""
        with self._pushing:
            all_sessions = self._all_sessions()
            for username, sessions in all_sessions.items():
                for session in sessions:
                    self._push_to(username, session["key"], all_sessions)

    def for_user(self, username: str, key: str, all_sessions: Sessions | None = None) -> dict[str, Any]:
        """Return what the pages of that session show: the user's own sessions, and who is logged in."""
        all_sessions = self._all_sessions() if all_sessions is None else all_sessions
        # How much time others have left is not for every user to see.
        users = [{"id": name, "sessions": len(sessions)} for name, sessions in all_sessions.items()]
        own = _rows(all_sessions.get(username, []), key)
        own.sort(key=lambda row: not row["here"])
        return {"you": self._you(username, key, all_sessions), "sessions": own, "users": users}

    def for_administrator(self, username: str, key: str, all_sessions: Sessions | None = None) -> dict[str, Any]:
        """Return what an administrator sees: the sessions of all users."""
        all_sessions = self._all_sessions() if all_sessions is None else all_sessions
        users = [{"id": name, "sessions": _rows(sessions, key)} for name, sessions in all_sessions.items()]
        return {"you": self._you(username, key, all_sessions), "users": users}

    def _push_to(self, username: str, key: str, all_sessions: Sessions) -> None:
        # The room of a key holds the pages of that session alone.
        try:
            self._io.emit("sessions", self.for_user(username, key, all_sessions), to=key)
            if username in self._administrators:
                self._io.emit("all_sessions", self.for_administrator(username, key, all_sessions), to=key)
        except SessionRejected:
            pass  # it has just ended, and its pages got `logout`

    def _all_sessions(self) -> Sessions:
        users = sorted(set(self._manager.getLoggedUsers()))
        found = {username: self._manager.getUserSessions(username) for username in users}
        return {username: sessions for username, sessions in found.items() if sessions}

    def _you(self, username: str, key: str, all_sessions: Sessions) -> dict[str, Any]:
        session = self._manager.sessions.get(key)
        left = [each["timeLeft"] for each in all_sessions.get(username, []) if each["key"] == key]
        if session is None or not left:
            raise SessionRejected
        timeout = session.timer.interval
        expiring = left[0] <= self._warned_at(timeout)
        return {"username": username, "left": left[0], "timeout": timeout, "expiring": expiring}

    def _warned_at(self, timeout: float) -> float:
        """Return how many seconds before its end a session with that timeout is warned."""
        return self._warning if self._warning < timeout else timeout / 2


def id_of(key: str) -> str:
    """Return the id by which a page names a session: unlike the label it is unique, and unlike the key it is public."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _rows(sessions: list[dict[str, Any]], reader: str) -> list[dict[str, Any]]:
    return [
        {
            "id": id_of(session["key"]),
            "label": label(session["key"]),
            "browser": (session["data"] or {}).get("browser", "Unknown browser"),
            "since": session["createdAt"],
            "left": session["timeLeft"],
            "here": session["key"] == reader,
        }
        for session in sessions
    ]
