"""One process of several on one Redis: `many_processes.py ROLE REDIS_URL PREFIX FACTS [PORT]`.

Roles: `opens` only makes a manager; `listens` has listeners too, and does not serve; `loop`, `threads`, `queue` are web
workers with a Socket.IO server at PORT, the last one with a message queue of the application's own; `memory` is one on
a loop whose sessions are in memory.

A worker does what the lines of its input say, and answers each with a line. What happens is appended to the file FACTS
at once: a SIGKILL loses nothing of it.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time

import socketio
import uvicorn
from werkzeug import serving

from users_session_manager import SessionManager
from users_session_manager.integrations.socketio import attach
from users_session_manager.stores.redis import RedisStore

ROLE, URL, PREFIX, FACTS = sys.argv[1:5]
facts = os.open(FACTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
store = None if ROLE == "memory" else RedisStore.from_url(URL, timeout=10, prefix=PREFIX, lease=6)
manager = SessionManager(store=store)


def note(what, **details):
    os.write(facts, (json.dumps({"what": what, "at": time.time(), **details}) + "\n").encode())


def note_end(session, reason):
    note("announced", id=session.data or session.key, reason=reason)


def login(user, timeout):
    key = manager.loadNewSession(user, timeout=timeout)
    manager.setSessionData(key, key)  # what it is known by, also after renewals
    note("created", id=key, deadline=time.time() + timeout)
    return key


def evict_if_live(key, user, timeout):
    """Sign in once more where one session is the limit; a session that ends in between is not evicted."""
    if manager.findSession(key) is None or manager.getSessionTimeLeft(key) < 1:
        return None
    note("ending", user=user)
    manager.setMaxSessionsPerUser(1)
    new = login(user, timeout)
    manager.setMaxSessionsPerUser(None)
    return new


def delete_if_live(first, key):
    if manager.findSession(key) is None or manager.getSessionTimeLeft(key) < 1:
        return None
    note("ending", id=first)
    return manager.deleteSession(key)


def delete_all():
    at = time.time()
    manager.deleteAllSessions()
    return at


def renew_if_live(key):
    return manager.renewSessionKey(key) if manager.findSession(key) else None


def listen_on(port):
    """Listen on a port that the process before this one may have left a moment ago."""
    return socket.create_server(("127.0.0.1", int(port)), backlog=1000)


async def serve_on_loop(port):
    io = socketio.AsyncServer(async_mode="asgi")
    attach(manager, io)
    server = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(io), log_config=None, lifespan="off"))
    await server.serve(sockets=[listen_on(port)])


def serve_with_threads(port):
    queue = socketio.RedisManager(URL) if ROLE == "queue" else None
    io = socketio.Server(async_mode="threading", client_manager=queue)
    attach(manager, io)
    listener = listen_on(port)
    http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(io), threaded=True, fd=listener.fileno())
    http.daemon_threads = True
    http.serve_forever()


if ROLE != "opens":
    manager.on("sessionEnded", note_end)
    manager.on("error", lambda error, details: None)
if ROLE in ("loop", "memory"):
    threading.Thread(target=asyncio.run, args=(serve_on_loop(sys.argv[5]),), daemon=True).start()
elif ROLE in ("threads", "queue"):
    threading.Thread(target=serve_with_threads, args=(sys.argv[5],), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    print(json.dumps(globals()[order.pop("do")](**order)), flush=True)
manager.close()
os._exit(0)
