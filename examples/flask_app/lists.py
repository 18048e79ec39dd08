"""The lists of sessions that the pages show."""

from __future__ import annotations

import hashlib
from typing import Any

from shared.pages import label

from users_session_manager import SessionManager, SessionRejected


class SessionLists:
    """Shows users their own sessions, and administrators the sessions of all users.

    Pages are warned `warning` seconds before their session expires, or half-way if it is no longer than that.
    """

    def __init__(self, manager: SessionManager, *, warning: float) -> None:
        self._manager = manager
        self._warning = warning

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

    def for_user(self, username: str, key: str) -> dict[str, Any]:
        """Return what the pages of that session show: the user's own sessions."""
        own = _rows(self._manager.getUserSessions(username), key)
        own.sort(key=lambda row: not row["here"])
        return {"you": self._you(username, key), "sessions": own}

    def for_administrator(self, username: str, key: str) -> dict[str, Any]:
        """Return what an administrator sees: the sessions of all users."""
        found = {name: self._manager.getUserSessions(name) for name in sorted(set(self._manager.getLoggedUsers()))}
        users = [{"id": name, "sessions": _rows(sessions, key)} for name, sessions in found.items() if sessions]
        return {"you": self._you(username, key), "users": users}

    def _you(self, username: str, key: str) -> dict[str, Any]:
        session = self._manager.sessions.get(key)
        if session is None:
            raise SessionRejected
        left, timeout = self._manager.getSessionTimeLeft(key), session.timeout or self._manager.getSessionTimeout()
        return {"username": username, "left": left, "timeout": timeout, "expiring": left <= self._warned_at(timeout)}

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
