"""The common part of the applications for development servers: sessions, a Socket.IO server, and a note of each end.

The environment: REDIS_URL, empty for sessions in memory, and NOTES, a file with the process and the user of each end.
"""

import os

import socketio

from users_session_manager import SessionManager
from users_session_manager.integrations.socketio import attach

manager = SessionManager(store=os.environ["REDIS_URL"] or None)
manager.setSessionTimeOut(2)
io = socketio.Server(async_mode="threading", transports=["polling"])  # which each of these servers can
attach(manager, io)


@manager.on("sessionEnded")
def note(session, reason):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{os.getpid()} {session.key.partition('_')[0]}\n")


print("process", os.getpid(), flush=True)
