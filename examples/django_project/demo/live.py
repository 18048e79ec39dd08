"""The Socket.IO server, and what it tells the pages."""

from __future__ import annotations

import threading
from typing import Any

import socketio
from django.conf import settings

from users_session_manager import SessionManager
from users_session_manager.integrations.socketio import attach

manager = SessionManager()
io = socketio.Server(async_mode="threading")
# From here on every page that sends `session_key` hears `logout` the moment its session ends.
attach(manager, io, cookie="__Host-session_key" if settings.USER_SESSIONS["COOKIE_SECURE"] else "session_key")

_pushing = threading.Lock()  # so that no page gets an old list after a newer one


def everyone() -> list[dict[str, Any]]:
    """Return the details of all sessions, those of a user together."""
    return [session for name in dict.fromkeys(manager.getLoggedUsers()) for session in manager.getUserSessions(name)]


def list_for(reader: str) -> list[dict[str, Any]]:
    """Return who is logged in, as the owner of the key `reader` may see it."""
    return [
        {
            "username": session["username"],
            # The label of a key is for showing. The whole key logs in, and is nobody's business but its owner's.
            "label": session["key"].partition("_")[0],
            "left": session["timeLeft"],
            "timeout": manager.getSessionTimeout(),
            "you": session["key"] == reader,
        }
        for session in everyone()
    ]


def push_lists(*_: Any) -> None:
    """Show each page who is logged in now."""
    with _pushing:
        for session in everyone():
            # The room of a key holds the pages of that session and nobody else.
            io.emit("sessions", list_for(session["key"]), to=session["key"])


for event in ("sessionCreated", "sessionDeleted", "sessionRenewed"):
    manager.on(event, push_lists)
