"""The Socket.IO server, and what it sends to the pages."""

from __future__ import annotations

import sys
from typing import Any

import socketio

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.django import attach
from users_session_manager.integrations.socketio import presence

manager = SessionManager()  # with what is in USER_SESSIONS
# The server of `manage.py runserver` has no WebSocket, so pages use long polling there; a logout is just as fast.
polling: dict[str, Any] = {"transports": ["polling"], "allow_upgrades": False} if "runserver" in sys.argv else {}
io = socketio.Server(async_mode="threading", **polling)
attach(io)  # pages hear when their session ends, and some seconds before it expires
presence(manager, io)  # pages hear who logs in and out


@manager.on("sessionCreated")
def notify_other_browsers(key: str) -> None:
    created = manager.sessions.get(key)
    for session in manager.getUserSessions(created.userId) if created else []:
        if session["key"] != key:
            # The room of a key contains the tabs of its session.
            io.emit("notice", "You have also logged in with another browser.", to=session["key"])


@manager.on("sessionEnded")
def log_end(session: Session, reason: str) -> None:
    print(f"The session of {session.username} has ended: {reason}", flush=True)
