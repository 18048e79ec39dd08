"""The Socket.IO server, and the list that it pushes to the pages."""

from __future__ import annotations

import threading
from typing import Any

import socketio
from django.conf import settings
from shared.pages import label

from users_session_manager import SessionManager
from users_session_manager.integrations.socketio import attach

manager = SessionManager()
io = socketio.Server(async_mode="threading")
# From here on every page that sends `session_key` gets `logout` the moment its session ends.
attach(manager, io, cookie="__Host-session_key" if settings.USER_SESSIONS["COOKIE_SECURE"] else "session_key")

_pushing = threading.Lock()  # so that no page gets an old list after a newer one


def all_sessions() -> list[dict[str, Any]]:
    """Return the details of all sessions, grouped by user."""
    return [session for name in dict.fromkeys(manager.getLoggedUsers()) for session in manager.getUserSessions(name)]


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
