"""Who is logged in, as the pages show it, and how each of them is told the moment that changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from typing import Any

import socketio

from users_session_manager import SessionManager, SessionRejected

Sessions = dict[str, list[dict[str, Any]]]
"""By username: what `getUserSessions` tells, keys and all."""


class Presence:
    """Shows people their own sessions and who else is there, and administrators the sessions of everybody.

    Pages are warned `warning` seconds before their session ends, or half-way if it is no longer than that.
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
        """Set the timeout of the countdowns that begin from now on; tell whether it was taken."""
        taken = self._manager.setSessionTimeOut(seconds)
        if taken:
            self._manager.setExpiryWarning(self._warned_at(seconds))
        return taken

    def end(self, username: str, name: object) -> bool:
        """End the session of `username` that the pages know as `name`; tell whether there was one."""
        keys = [session["key"] for session in self._manager.getUserSessions(username)]
        try:
            return any(self._manager.deleteSession(key) for key in keys if name_of(key) == name)
        except SessionRejected:
            return False  # it has ended meanwhile

    def push(self) -> None:
        """Tell every page."""
        with self._pushing:
            everybody = self._everybody()
            for username, sessions in everybody.items():
                for session in sessions:
                    self._push_to(username, session["key"], everybody)

    def for_person(self, username: str, key: str, everybody: Sessions | None = None) -> dict[str, Any]:
        """Return what the pages of that session show: the user's own sessions, and who else is there."""
        everybody = self._everybody() if everybody is None else everybody
        people = [
            # Somebody is there until the last of their sessions has ended.
            {"id": name, "sessions": len(sessions), "left": max(each["timeLeft"] for each in sessions)}
            for name, sessions in everybody.items()
        ]
        own = _rows(everybody.get(username, []), key)
        own.sort(key=lambda row: not row["here"])
        return {"you": self._you(username, key, everybody), "sessions": own, "people": people}

    def for_administrator(self, username: str, key: str, everybody: Sessions | None = None) -> dict[str, Any]:
        """Return what an administrator sees: the sessions of everybody."""
        everybody = self._everybody() if everybody is None else everybody
        users = [{"id": name, "sessions": _rows(sessions, key)} for name, sessions in everybody.items()]
        return {"you": self._you(username, key, everybody), "users": users}

    def _push_to(self, username: str, key: str, everybody: Sessions) -> None:
        # The room of a key holds the pages of that session and nobody else.
        try:
            self._io.emit("sessions", self.for_person(username, key, everybody), to=key)
            if username in self._administrators:
                self._io.emit("everybody", self.for_administrator(username, key, everybody), to=key)
        except SessionRejected:
            pass  # it has ended meanwhile, and its pages have been told

    def _everybody(self) -> Sessions:
        users = sorted(set(self._manager.getLoggedUsers()))
        found = {username: self._manager.getUserSessions(username) for username in users}
        return {username: sessions for username, sessions in found.items() if sessions}

    def _you(self, username: str, key: str, everybody: Sessions) -> dict[str, Any]:
        session = self._manager.sessions.get(key)
        left = [each["timeLeft"] for each in everybody.get(username, []) if each["key"] == key]
        if session is None or not left:
            raise SessionRejected
        timeout = session.timer.interval
        expiring = left[0] <= self._warned_at(timeout)
        return {"username": username, "left": left[0], "timeout": timeout, "expiring": expiring}

    def _warned_at(self, timeout: float) -> float:
        """Return how many seconds before its end a countdown of that length is warned of."""
        return self._warning if self._warning < timeout else timeout / 2


def label(key: str) -> str:
    """Return the part of a key that is for showing. The whole key logs in, and is nobody's business but its owner's."""
    return key.partition("_")[0]


def name_of(key: str) -> str:
    """Return what a page calls a session that it wants to end: it tells two of one label apart, and logs nobody in."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _rows(sessions: list[dict[str, Any]], reader: str) -> list[dict[str, Any]]:
    return [
        {
            "id": name_of(session["key"]),
            "label": label(session["key"]),
            "browser": (session["data"] or {}).get("browser", "Unknown browser"),
            "since": session["createdAt"],
            "left": session["timeLeft"],
            "here": session["key"] == reader,
        }
        for session in sessions
    ]
