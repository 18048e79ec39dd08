"""Logouts through a message queue, one scenario a run: `socketio_queue.py SCENARIO REDIS_URL`.

In a process of its own, since the queue's managers keep their connections until the end of theirs. It stands for
several processes that share their sessions: there is one manager for all servers, and of what happens to a session one
of them hears, as the process does in which it happens.
"""

import asyncio
import contextlib
import os
import queue
import socket
import sys
import threading
import time

import redis
import socketio
import uvicorn
from werkzeug import serving

from users_session_manager import MemoryStore, SessionError, SessionManager
from users_session_manager.integrations.socketio import attach
from users_session_manager.keys import is_key

PATIENCE = 30


class HandClock:
    def __init__(self):
        self.seconds = 0.0
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)

    def turn(self, seconds):
        self.seconds += seconds
        self.store.clock.run_due()


class Process:
    """The hook in one process, which hears of nothing until it is told to."""

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
        assert ready.wait(PATIENCE)

    def emit(self, event, to=None):
        asyncio.run_coroutine_threadsafe(self.io.emit(event, to=to), self._loop).result(PATIENCE)


class Client:
    def __init__(self, server):
        self._told = queue.Queue()
        self._io = socketio.Client(reconnection=False)
        for word in ("logout", "mark", "private"):
            self._io.on(word, lambda *_, word=word: self._told.put(word))
        self._io.on("session_expiring", self._told.put)
        self._io.connect(server.address, transports=["polling"], wait_timeout=PATIENCE)

    def next(self):
        return self._told.get(timeout=PATIENCE)

    def present(self, key):
        return self._io.call("session_key", key, timeout=PATIENCE)


class House:
    """Two workers with threads, one with an event loop, and clients of all three."""

    def __init__(self, manager, clock, redis_url):
        self.manager, self.clock, self.redis_url = manager, clock, redis_url
        self.servers = [Server(manager, redis_url), Server(manager, redis_url), LoopServer(manager, redis_url)]
        self.clients = [Client(server) for server in self.servers]
        self.late = [Client(server) for server in self.servers]
        self.bystanders = [Client(server) for server in self.servers]
        with redis.Redis.from_url(redis_url) as asked:
            eventually(lambda: asked.pubsub_numsub("socketio")[0][1] == len(self.servers))

    def expect(self, clients, *words):
        """Wait until these clients are told that, and look whether anybody has been told anything else."""
        for client in clients:
            for word in words:
                told = client.next()
                assert told == word, (told, word)
        self.servers[0].emit("mark")
        for client in (*self.clients, *self.late, *self.bystanders):
            told = client.next()
            assert told == "mark", told

    def expect_rooms(self, *keys):
        for server in self.servers:
            eventually(lambda server=server: {room for room in rooms(server) if is_key(room)} == set(keys))


def rooms(server):
    return server.io.manager.rooms["/"].copy()


def eventually(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def evict(manager):
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(None)


ENDS = {
    "runs out": lambda house, key: house.clock.turn(60),
    "deleteSession": lambda house, key: house.manager.deleteSession(key),
    "deleteAllSessions": lambda house, key: house.manager.deleteAllSessions(),
    "deleteUserSessions": lambda house, key: house.manager.deleteUserSessions("Luca"),
    "evicted": lambda house, key: evict(house.manager),
}


def every_end_heard_by(house, process):
    """All clients of a session are told once, on whichever server and under whichever of its keys they have joined."""
    manager = house.manager
    manager.setExpiryWarning(60)
    for name, end in ENDS.items():
        for renewed in (False, True):
            old = key = manager.loadNewSession("Luca")
            assert [client.present(key) for client in house.clients] == [True] * 3
            with process.hears():
                if renewed:
                    key = manager.renewSessionKey(manager.renewSessionKey(old, 10), 10)
                assert [client.present(old) for client in house.late] == [True] * 3
                house.expect([])
                house.clock.turn(2940)
                house.expect([*house.clients, *house.late], 60)
                manager.sendLogoutMessage(key)
                house.expect([*house.clients, *house.late], "logout")
                end(house, key)
            house.expect([*house.clients, *house.late], "logout")
            house.expect_rooms()
            assert manager.deleteUserSessions("Luca") == (name == "evicted")


def a_process_without_a_server(house):
    writer = Process(house.manager, socketio.RedisManager(house.redis_url, write_only=True))
    assert house.manager.getSocketReference() is writer.io
    every_end_heard_by(house, writer)
    writer.detach()
    assert house.manager.getSocketReference() is None


def a_worker(house):
    every_end_heard_by(house, house.servers[0])


def an_async_server(house):
    every_end_heard_by(house, house.servers[2])


def an_async_server_without_clients(house):
    async def application():
        io = socketio.AsyncServer(client_manager=socketio.AsyncRedisManager(house.redis_url))
        await asyncio.to_thread(every_end_heard_by, house, Process(house.manager, io))

    asyncio.run(application())


def an_async_server_without_a_loop(house):
    """Other processes may have clients of the session, so saying nothing would lose their logout."""
    errors = []
    house.manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
    queue_manager = socketio.AsyncRedisManager(house.redis_url)
    detach = attach(house.manager, socketio.AsyncServer(client_manager=queue_manager))
    key = house.manager.renewSessionKey(house.manager.loadNewSession("Luca"))
    assert errors == []  # there is nobody to take along
    house.manager.deleteSession(key)
    (error,) = errors
    assert isinstance(error, SessionError)
    assert "attach() in a coroutine" in str(error)
    detach()


def a_session_that_each_worker_does_something_to(house):
    """Renewed in each, one after the other, and ended in one: each takes its own clients along, from whichever room."""
    first = house.manager.loadNewSession("Luca")
    assert [client.present(first) for client in house.clients] == [True] * 3
    key = first
    for server, client in zip(house.servers, house.clients, strict=True):
        with server.hears():
            key = house.manager.renewSessionKey(key)
        eventually(lambda server=server, key=key: key in rooms(server) and first not in rooms(server))
        server.emit("private", to=key)
        house.expect([client], "private")
    with house.servers[0].hears():
        house.manager.deleteSession(key)
    house.expect(house.clients, "logout")
    house.expect_rooms()


def a_worker_that_detaches(house):
    """Its own clients hear of nothing any more; those of the others stay in the rooms of their sessions."""
    for server in (house.servers[0], house.servers[2]):
        key = house.manager.loadNewSession("Luca")
        joined = [client for client in house.clients if client.present(key)]
        server.detach()
        eventually(lambda server=server, key=key: key not in rooms(server))
        house.clients.remove(joined[house.servers.index(server)])
        house.bystanders.append(joined[house.servers.index(server)])
        with house.servers[1].hears():
            house.manager.deleteSession(key)
        house.expect(house.clients, "logout")
        house.servers.remove(server)


def a_refusal(house):
    """It is told to the one who is refused, and to nobody who happens to be on a server."""
    house.manager.on("error", lambda error, details: None)
    for client in house.clients:
        assert client.present("unknown") is False
        house.expect([client], "logout")


SCENARIOS = [
    a_process_without_a_server,
    a_worker,
    an_async_server,
    an_async_server_without_clients,
    an_async_server_without_a_loop,
    a_session_that_each_worker_does_something_to,
    a_worker_that_detaches,
    a_refusal,
]

if __name__ == "__main__":
    name, url = sys.argv[1:]
    clock = HandClock()
    house = House(SessionManager(store=clock.store), clock, url)
    next(scenario for scenario in SCENARIOS if scenario.__name__ == name)(house)
    os._exit(0)
