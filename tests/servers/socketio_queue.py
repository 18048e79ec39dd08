"""Logouts through a message queue, one scenario a run: `socketio_queue.py SCENARIO REDIS_URL`.

In a process of its own, since the queue's managers keep their connections until the end of theirs.
"""

import asyncio
import os
import queue
import sys
import threading

import socketio
from werkzeug import serving

from users_session_manager import MemoryStore, SessionError, SessionManager
from users_session_manager.integrations.socketio import attach


class HandClock:
    def __init__(self):
        self.seconds = 0.0
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)

    def turn(self, seconds):
        self.seconds += seconds
        self.store.clock.run_due()


class Server:
    """A worker's Socket.IO server, which hears through Redis what other processes send."""

    def __init__(self, redis_url):
        self.io = socketio.Server(async_mode="threading", client_manager=socketio.RedisManager(redis_url))
        self._http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()


def connected(address):
    told: queue.Queue[str] = queue.Queue()
    client = socketio.Client(reconnection=False)
    for word in ("logout", "mark"):
        client.on(word, lambda *_, word=word: told.put(word))
    client.connect(address, transports=["polling"], wait_timeout=30)
    return client, told


def a_process_without_a_server(manager, clock, redis_url, servers):
    """Each worker has let its clients into the room of their session; the end comes from a process without a server."""
    writer = socketio.RedisManager(redis_url, write_only=True)
    detach = attach(manager, writer)
    assert manager.getSocketReference() is writer
    for end in ("runs out", "deleteSession", "sendLogoutMessage"):
        key = manager.loadNewSession("Luca")
        clients = [connected(server.address) for server in servers]
        for server, (client, _) in zip(servers, clients, strict=True):
            server.io.enter_room(client.get_sid(), key)
        bystander, heard = connected(servers[0].address)
        if end == "runs out":
            clock.turn(3000)
        else:
            getattr(manager, end)(key)
        assert [told.get(timeout=30) for _, told in clients] == ["logout", "logout"]
        writer.emit("mark", None, namespace="/")
        assert [told.get(timeout=30) for _, told in clients] == ["mark", "mark"]
        assert heard.get(timeout=30) == "mark"
        assert len(list(servers[0].io.manager.get_participants("/", key))) == (1 if end == "sendLogoutMessage" else 0)
        for client in (*(client for client, _ in clients), bystander):
            client.disconnect()
    detach()
    assert manager.getSocketReference() is None
    assert manager.listeners("sessionDeleted") == []


def a_worker(manager, clock, redis_url, servers):
    detach = attach(manager, servers[0].io)
    key = manager.loadNewSession("Luca")
    (here, told_here), (there, told_there) = (connected(server.address) for server in servers)
    assert here.call("session_key", key, timeout=30) is True
    servers[1].io.enter_room(there.get_sid(), key)
    manager.deleteSession(key)
    assert told_here.get(timeout=30) == told_there.get(timeout=30) == "logout"
    servers[0].io.emit("mark")
    assert told_here.get(timeout=30) == told_there.get(timeout=30) == "mark"
    here.disconnect()
    there.disconnect()
    detach()


def an_async_server_without_a_loop(manager, clock, redis_url, servers):
    """Other processes may have clients of the session, so saying nothing would lose their logout."""
    errors = []
    manager.on("error", lambda error, details: errors.append(error))
    detach = attach(manager, socketio.AsyncServer(client_manager=socketio.AsyncRedisManager(redis_url)))
    manager.deleteSession(manager.loadNewSession("Luca"))
    (error,) = errors
    assert isinstance(error, SessionError)
    assert "attach() in a coroutine" in str(error)
    detach()


def an_async_server(manager, clock, redis_url, servers):
    client, told = connected(servers[1].address)
    key = manager.loadNewSession("Luca")
    servers[1].io.enter_room(client.get_sid(), key)

    async def application():
        queue_manager = socketio.AsyncRedisManager(redis_url)
        detach = attach(manager, socketio.AsyncServer(client_manager=queue_manager))
        await asyncio.to_thread(manager.deleteSession, key)
        assert await asyncio.to_thread(told.get, timeout=30) == "logout"
        detach()

    asyncio.run(application())
    client.disconnect()


SCENARIOS = [a_process_without_a_server, a_worker, an_async_server_without_a_loop, an_async_server]

if __name__ == "__main__":
    name, url = sys.argv[1:]
    clock = HandClock()
    manager = SessionManager(store=clock.store)
    next(scenario for scenario in SCENARIOS if scenario.__name__ == name)(
        manager, clock, url, [Server(url), Server(url)]
    )
    os._exit(0)
