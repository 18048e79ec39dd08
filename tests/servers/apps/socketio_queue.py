"""Logouts through a message queue: `socketio_queue.py REDIS_URL` runs all scenarios, and prints the name of each.

In a process of its own, since the queue's managers keep their connections until the end of theirs. It simulates several
processes that share their sessions: there is one manager for all servers, and only one of them hears of what happens to
a session, as the process does in which it happens.
"""

import asyncio
import contextlib
import os
import queue
import re
import socket
import sys
import threading
import time
from pathlib import Path

import redis
import socketio
import uvicorn
from werkzeug import serving

from users_session_manager import MemoryStore, SessionError, SessionManager
from users_session_manager.integrations.socketio import attach

sys.path.append(str(Path(__file__).parents[2] / "support"))
from socketio_client import new_client

MAX_WAIT = 30
KEY = re.compile(r"[A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4}_[0-9A-F]{32}")


class HandClock:
    def __init__(self):
        self.seconds = 0.0
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)

    def turn(self, seconds):
        self.seconds += seconds
        self.store.clock.run_due()


class Process:
    """The hook in one process, which hears of nothing but within `hears`."""

    def __init__(self, manager, io):
        self.manager, self.io = manager, io
        self.detach = attach(manager, io)
        self._listeners = []
        for event in ("notifyClientToLogout", "sessionExpiring", "sessionRenewed", "sessionEnded"):
            self._listeners.append((event, manager.listeners(event)[-1]))
            manager.remove_listener(*self._listeners[-1])

    @contextlib.contextmanager
    def hears(self):
        for listener in self._listeners:
            self.manager.on(*listener)
        yield
        for listener in self._listeners:
            self.manager.remove_listener(*listener)


class Server(Process):
    """A worker's Socket.IO server, which hears through Redis what other processes send."""

    def __init__(self, manager, redis_url):
        super().__init__(
            manager, socketio.Server(async_mode="threading", client_manager=socketio.RedisManager(redis_url))
        )
        self._http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def emit(self, event, to=None):
        self.io.emit(event, to=to)


class LoopServer(Process):
    """The same on an event loop."""

    def __init__(self, manager, redis_url):
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready = threading.Event()

        async def serve():
            io = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(redis_url))
            super(LoopServer, self).__init__(manager, io)
            self._loop = asyncio.get_running_loop()
            server = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(io), log_config=None, lifespan="off"))
            ready.set()
            await server.serve(sockets=[listener])

        threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
        assert ready.wait(MAX_WAIT)

    def emit(self, event, to=None):
        asyncio.run_coroutine_threadsafe(self.io.emit(event, to=to), self._loop).result(MAX_WAIT)


class Client:
    def __init__(self, server):
        self._heard = queue.Queue()
        self._io = new_client()
        for word in ("logout", "mark", "private"):
            self._io.on(word, lambda *_, word=word: self._heard.put(word))
        self._io.on("session_expiring", self._heard.put)
        self._io.connect(server.address, transports=["websocket"], wait_timeout=MAX_WAIT)

    def next(self):
        return self._heard.get(timeout=MAX_WAIT)

    def present(self, key):
        return self._io.call("session_key", key, timeout=MAX_WAIT)


class Workers:
    """Two workers with threads, one with an event loop, and clients of all three."""

    def __init__(self, manager, clock, redis_url):
        self.manager, self.clock, self.redis_url = manager, clock, redis_url
        self.servers = [Server(manager, redis_url), Server(manager, redis_url), LoopServer(manager, redis_url)]
        self.clients = [Client(server) for server in self.servers]
        self.late = [Client(server) for server in self.servers]
        self.others = [Client(server) for server in self.servers]
        with redis.Redis.from_url(redis_url) as asked:
            eventually(lambda: asked.pubsub_numsub("socketio")[0][1] == len(self.servers))

    def expect(self, clients, *words):
        """Wait until these clients have heard that, and check that no client has heard anything else."""
        for client in clients:
            for word in words:
                heard = client.next()
                assert heard == word, (heard, word)
        self.servers[0].emit("mark")
        for client in (*self.clients, *self.late, *self.others):
            heard = client.next()
            assert heard == "mark", heard

    def expect_rooms(self, *keys):
        for server in self.servers:
            eventually(lambda server=server: session_rooms(server) == set(keys))


def rooms(server):
    return server.io.manager.rooms["/"].copy()


def session_rooms(server):
    return {room for room in rooms(server) if isinstance(room, str) and KEY.match(room)}


def eventually(condition):
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def evict(manager):
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(None)


ENDS = {
    "expires": lambda workers, key: workers.clock.turn(60),
    "deleteSession": lambda workers, key: workers.manager.deleteSession(key),
    "deleteAllSessions": lambda workers, key: workers.manager.deleteAllSessions(),
    "deleteUserSessions": lambda workers, key: workers.manager.deleteUserSessions("Luca"),
    "evicted": lambda workers, key: evict(workers.manager),
}


def every_end_heard_by(workers, process):
    """Each client of a session hears each end once, on whichever server and under whichever key it has joined."""
    manager = workers.manager
    manager.setExpiryWarning(60)
    for name, end in ENDS.items():
        for renewed in (False, True):
            old = key = manager.loadNewSession("Luca")
            assert [client.present(key) for client in workers.clients] == [True] * 3
            with process.hears():
                if renewed:
                    key = manager.renewSessionKey(manager.renewSessionKey(old, 10), 10)
                assert [client.present(old) for client in workers.late] == [True] * 3
                workers.expect([])
                workers.clock.turn(2940)
                workers.expect([*workers.clients, *workers.late], 60)
                manager.sendLogoutMessage(key)
                workers.expect([*workers.clients, *workers.late], "logout")
                end(workers, key)
            workers.expect([*workers.clients, *workers.late], "logout")
            workers.expect_rooms()
            assert manager.deleteUserSessions("Luca") == (name == "evicted")


def a_process_without_a_server(workers):
    writer = Process(workers.manager, socketio.RedisManager(workers.redis_url, write_only=True))
    assert workers.manager.getSocketReference() is writer.io
    every_end_heard_by(workers, writer)
    writer.detach()
    assert workers.manager.getSocketReference() is None


def a_worker(workers):
    every_end_heard_by(workers, workers.servers[0])


def an_async_server(workers):
    every_end_heard_by(workers, workers.servers[2])


def an_async_server_without_clients(workers):
    async def application():
        io = socketio.AsyncServer(client_manager=socketio.AsyncRedisManager(workers.redis_url))
        await asyncio.to_thread(every_end_heard_by, workers, Process(workers.manager, io))

    asyncio.run(application())


def an_async_server_without_a_loop(workers):
    """Other processes may have clients of the session, so saying nothing would lose their logout."""
    errors = []
    workers.manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
    queue_manager = socketio.AsyncRedisManager(workers.redis_url)
    detach = attach(workers.manager, socketio.AsyncServer(client_manager=queue_manager))
    key = workers.manager.renewSessionKey(workers.manager.loadNewSession("Luca"))
    assert errors == []  # there is no client to move
    workers.manager.deleteSession(key)
    (error,) = errors
    assert isinstance(error, SessionError)
    assert "attach() in a coroutine" in str(error)
    detach()


def a_session_that_each_worker_does_something_to(workers):
    """Renewed in each, one after the other, and ended in one: each moves its own clients, from whichever room."""
    first = workers.manager.loadNewSession("Luca")
    assert [client.present(first) for client in workers.clients] == [True] * 3
    key = first
    for server, client in zip(workers.servers, workers.clients, strict=True):
        with server.hears():
            key = workers.manager.renewSessionKey(key)
        eventually(lambda server=server, key=key: key in rooms(server) and first not in rooms(server))
        server.emit("private", to=key)
        workers.expect([client], "private")
    with workers.servers[0].hears():
        workers.manager.deleteSession(key)
    workers.expect(workers.clients, "logout")
    workers.expect_rooms()


def a_worker_that_detaches(workers):
    """Its own clients hear of nothing any more; those of the others stay in the rooms of their sessions."""
    for server in (workers.servers[0], workers.servers[2]):
        key = workers.manager.loadNewSession("Luca")
        joined = [client for client in workers.clients if client.present(key)]
        server.detach()
        eventually(lambda server=server, key=key: key not in rooms(server))
        workers.clients.remove(joined[workers.servers.index(server)])
        workers.others.append(joined[workers.servers.index(server)])
        with workers.servers[1].hears():
            workers.manager.deleteSession(key)
        workers.expect(workers.clients, "logout")
        workers.servers.remove(server)


def a_refusal(workers):
    """It is sent to the client that is refused, and to no other client of any server."""
    workers.manager.on("error", lambda error, details: None)
    for client in workers.clients:
        assert client.present("unknown") is False
        workers.expect([client], "logout")


# The last one leaves less than it found.
SCENARIOS = [
    a_process_without_a_server,
    a_worker,
    an_async_server,
    an_async_server_without_clients,
    an_async_server_without_a_loop,
    a_session_that_each_worker_does_something_to,
    a_refusal,
    a_worker_that_detaches,
]

if __name__ == "__main__":
    clock = HandClock()
    workers = Workers(SessionManager(store=clock.store), clock, sys.argv[1])
    for scenario in SCENARIOS:
        workers.manager.initSocketReference(workers.servers[0].io)  # the one before may have taken it away
        scenario(workers)
        print(scenario.__name__, flush=True)
    os._exit(0)
