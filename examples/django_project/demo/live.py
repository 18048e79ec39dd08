"""The Socket.IO server, and the list that it pushes to the pages."""

from __future__ import annotations

import sys
import threading
from typing import Any

import socketio

from users_session_manager import SessionManager
from users_session_manager.integrations.django import attach

# The server of `manage.py runserver` has no WebSocket, so pages use long polling there; a logout is just as fast.
polling: dict[str, Any] = {"transports": ["polling"], "allow_upgrades": False} if "runserver" in sys.argv else {}
io = socketio.Server(async_mode="threading", **polling)
# From here on every page that sends `session_key` gets `logout` the moment its session ends.
attach(io)
manager = SessionManager()

_pushing = threading.Lock()  # so that no page gets an old list after a newer one


def all_sessions() -> dict[str, list[dict[str, Any]]]:
    """Return the details of all sessions by user id. Two users may have had the same name, so ids count."""
    user_ids = dict.fromkeys(session.userId for session in list(manager.sessions.values()))
    found = {user_id: manager.getUserSessions(user_id) for user_id in user_ids}
    return {user_id: sessions for user_id, sessions in found.items() if sessions}


def list_for(reader: dict[str, Any], everyone: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what the pages of the session `reader` show: its own time left, and who is logged in."""
    users = [
        {"name": sessions[0]["username"], "sessions": len(sessions), "you": user_id == reader["userId"]}
        for user_id, sessions in everyone.items()
    ]
    return {"left": reader["timeLeft"], "timeout": manager.getSessionTimeout(), "users": users}


def list_for_key(key: str) -> dict[str, Any] | None:
    """Return the list for the session of a key, `None` if it has just ended."""
    everyone = all_sessions()
    readers = (session for sessions in everyone.values() for session in sessions)
    return next((list_for(reader, everyone) for reader in readers if reader["key"] == key), None)


def push_lists(*_: Any) -> None:
    """Send each page its current list."""
    with _pushing:
        everyone = all_sessions()
        for sessions in everyone.values():
            for session in sessions:
                # The room of a key holds the pages of that session alone.
                io.emit("sessions", list_for(session, everyone), to=session["key"])


for event in ("sessionCreated", "sessionDeleted", "sessionRenewed"):
    manager.on(event, push_lists)
