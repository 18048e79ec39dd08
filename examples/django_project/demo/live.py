"""The Socket.IO server, and the list that it pushes to the pages."""

from __future__ import annotations

import sys
import threading
from typing import Any

import socketio
from shared.pages import label

from users_session_manager import SessionManager
from users_session_manager.integrations.django import attach

# The server of `manage.py runserver` has no WebSocket, so pages use long polling there; a logout is just as fast.
polling: dict[str, Any] = {"transports": ["polling"], "allow_upgrades": False} if "runserver" in sys.argv else {}
io = socketio.Server(async_mode="threading", **polling)
# From here on every page that sends `session_key` gets `logout` the moment its session ends.
attach(io)
manager = SessionManager()

_pushing = threading.Lock()  # so that no page gets an old list after a newer one


def all_sessions() -> list[dict[str, Any]]:
    """Return the details of all sessions, grouped by user. Two users may have had the same name, so ids count."""
    user_ids = dict.fromkeys(session.userId for session in list(manager.sessions.values()))
    return [session for user_id in user_ids for session in manager.getUserSessions(user_id)]


def list_for(reader: str) -> list[dict[str, Any]]:
    """Return the list of all sessions for the owner of the key `reader`."""
    return [
        {
            "username": session["username"],
            "label": label(session["key"]),
            "left": session["timeLeft"],
            "timeout": manager.getSessionTimeout(),
            "you": session["key"] == reader,
        }
        for session in all_sessions()
    ]


def push_lists(*_: Any) -> None:
    """Send each page its current list."""
    with _pushing:
        for session in all_sessions():
            # The room of a key holds the pages of that session alone.
            io.emit("sessions", list_for(session["key"]), to=session["key"])


for event in ("sessionCreated", "sessionDeleted", "sessionRenewed"):
    manager.on(event, push_lists)
