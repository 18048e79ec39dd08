"""The Socket.IO hook, on a real server with real clients."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

socketio = pytest.importorskip("socketio")
serving = pytest.importorskip("werkzeug.serving")
pytest.importorskip("simple_websocket")

from users_session_manager import (  # noqa: E402
    MemoryStore,
    SessionError,
    SessionManager,
    SessionRejected,
    StoreUnavailable,
)
from users_session_manager.integrations.socketio import attach  # noqa: E402
from users_session_manager.integrations.socketio.registry import retry_on_key_error  # noqa: E402
from users_session_manager.keys import is_key  # noqa: E402


class Server:
    """python-socketio in threading mode behind Werkzeug, on a free port of loopback."""

    def __init__(self, **options: object) -> None:
        self.io = socketio.Server(async_mode="threading", **options)
        self.io.on("private", lambda sid: self.io.emit("private", to=sid))
        self._http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def emit(self, event: str, to: object) -> None:
        self.io.emit(event, to=to)

    def settle(self) -> None:
        """Nothing is under way here once a call has returned."""

    def dismiss(self, client: Client) -> None:
        client.leave()

    def stop(self) -> None:
        self.io.shutdown()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(30)


class LoopServer:
    """python-socketio on an event loop of its own, behind uvicorn, on a free port of loopback."""

    def __init__(self, manager: SessionManager) -> None:
        uvicorn = pytest.importorskip("uvicorn")
        self.io = socketio.AsyncServer(async_mode="asgi")
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(socketio.ASGIApp(self.io), log_config=None, lifespan="off", timeout_graceful_shutdown=0)
        self._http = uvicorn.Server(config)
        ready = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self.detach = attach(manager, self.io)
            ready.set()
            await self._http.serve(sockets=[listener])

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        self._thread.start()
        assert ready.wait(30)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Call on the thread of the loop; return what it returns."""

        async def there() -> Any:
            return call()

        return self.run(there())

    def emit(self, event: str, to: object) -> None:
        self.run(self.io.emit(event, to=to))

    def settle(self) -> None:
        """Let the loop do what it has been handed."""

        async def some_turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.run(some_turns())

    def dismiss(self, client: Client) -> None:
        if client.io.connected and client.io.transport() == "polling":
            # Its own good-bye would wait until its poll is answered, which that is not here.
            self.run(self.io.disconnect(client.sid))
            assert client.gone.wait(30)
        else:
            client.leave()

    def stop(self) -> None:
        self._http.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


def rooms_of_sessions(server: Server | LoopServer) -> set[str]:
    """The rooms in which somebody is, but for the one that each client has for itself."""
    server.settle()
    return {room for room in server.io.manager.rooms.get("/", {}).copy() if is_key(room)}


class Client:
    """A python-socketio client that keeps what it is told."""

    def __init__(self, address: str, transport: str, cookie: str | None = None) -> None:
        self.told: queue.Queue[object] = queue.Queue()
        self.io = socketio.Client(reconnection=False)
        for word in ("logout", "mark", "private"):
            self.io.on(word, lambda *_, word=word: self.told.put(word))
        self.io.on("session_expiring", lambda *data: self.told.put(("session_expiring", *data)))
        self.gone = threading.Event()
        self.io.on("disconnect", lambda *_: self.gone.set())
        headers = {} if cookie is None else {"Cookie": cookie}
        self.io.connect(address, transports=[transport], headers=headers, wait_timeout=30)
        self.sid = self.io.get_sid()

    def leave(self) -> None:
        if self.io.connected and self.io.transport() == "websocket":
            # As a closed tab does; a polite good-bye would wait three seconds for an answer.
            end = self.io.eio.ws.sock
            end.shutdown(socket.SHUT_RDWR)
            assert self.gone.wait(30)
            end.close()  # its own library leaves that to the garbage collector
        else:
            self.io.disconnect()

    def present(self, *data: object) -> object:
        return self.io.call("session_key", *data, timeout=30)

    def heard(self, server: Server | LoopServer) -> list[object]:
        """All this client has been told up to now: what is sent to it arrives in order, so a mark comes last."""
        server.emit("mark", to=self.sid)
        told = []
        while (word := self.told.get(timeout=30)) != "mark":
            told.append(word)
        return told


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def attached(manager, server):
    manager.on("error", lambda error, details: None)
    return attach(manager, server.io)


@pytest.fixture(params=["websocket", "polling"])
def connect(request, server, attached):
    clients = []

    def connect_one(**options):
        clients.append(Client(server.address, request.param, **options))
        return clients[-1]

    yield connect_one
    for client in clients:
        server.dismiss(client)


class TestJoining:
    @pytest.mark.parametrize("shape", [lambda key: {"session_key": key}, lambda key: key], ids=["in a dict", "bare"])
    def test_a_live_key_is_acknowledged(self, manager, server, connect, shape):
        client = connect()
        assert client.present(shape(manager.loadNewSession("Luca"))) is True
        assert client.heard(server) == []

    @pytest.mark.parametrize(
        "data",
        ["unknown", None, 5, [], {}, {"session_key": None}, {"session_key": {"a": []}}, {"other": "x"}, "x" * 100_000],
        ids=lambda data: repr(data)[:30],
    )
    def test_anything_else_is_refused_and_logged_out(self, server, connect, data):
        client = connect()
        assert client.present(data) is False
        assert client.heard(server) == ["logout"]

    def test_with_nothing_it_is_refused_too(self, server, connect):
        client = connect()
        assert client.present() is False
        assert client.heard(server) == ["logout"]

    def test_a_key_that_ended_is_refused(self, manager, clock, server, connect):
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000  # and its end is not announced yet
        client = connect()
        assert client.present(key) is False
        clock.turn(0)
        assert client.heard(server) == ["logout"]

    def test_a_stranger_who_sends_somebodys_sid_joins_nothing(self, server, connect):
        victim, stranger = connect(), connect()
        assert stranger.present({"session_key": victim.sid}) is False
        victim.io.call("private", timeout=30)
        assert victim.heard(server) == ["private"]
        assert stranger.heard(server) == ["logout"]

    def test_without_an_error_listener_a_refusal_is_the_same(self, manager, server, connect):
        manager.remove_all_listeners("error")
        client = connect()
        assert client.present("unknown") is False
        assert client.heard(server) == ["logout"]

    def test_a_client_belongs_to_the_session_it_named_last(self, manager, server, connect):
        client = connect()
        first, second = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        assert client.present(first) is True
        assert client.present(second) is True
        manager.deleteSession(first)
        assert client.heard(server) == []
        manager.deleteSession(second)
        assert client.heard(server) == ["logout"]

    def test_refused_it_belongs_to_none(self, manager, server, connect):
        client = connect()
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        assert client.present("unknown") is False
        assert client.heard(server) == ["logout"]
        manager.deleteSession(key)
        assert client.heard(server) == []

    def test_while_the_store_is_away_nobody_joins_and_nobody_is_logged_out(self, manager, server, connect, monkeypatch):
        client = connect()
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        assert client.present(key) is True

        def away(_):
            raise StoreUnavailable("the store is away")

        for method in ("getSession", "findSession"):  # at the first look, and at the second
            with monkeypatch.context() as patch:
                patch.setattr(manager, method, away)
                assert client.present(other) is False
            assert client.heard(server) == []
        assert client.present(key) is True
        manager.deleteSession(other)
        assert client.heard(server) == []
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]


def log_in_beyond_the_most(manager):
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("Luca")


# How Luca's one session, begun at least 1000 seconds before that of anybody else, can end.
ENDS = {
    "runs out": lambda manager, clock, key: clock.turn(2000),
    "deleteSession": lambda manager, clock, key: manager.deleteSession(key),
    "deleteAllSessions": lambda manager, clock, key: manager.deleteAllSessions(),
    "deleteUserSessions": lambda manager, clock, key: manager.deleteUserSessions("Luca"),
    "evicted": lambda manager, clock, key: log_in_beyond_the_most(manager),
}
# And what leaves it alive.
MESSAGE = {"sendLogoutMessage": lambda manager, clock, key: manager.sendLogoutMessage(key)}


class TestTheEnd:
    @pytest.mark.parametrize("end", ENDS | MESSAGE)
    def test_each_client_gets_one_logout_and_nobody_else(self, manager, clock, server, connect, end):
        key, other = manager.loadNewSession("Luca"), None
        tabs = [connect(), connect()]
        assert [tab.present(key) for tab in tabs] == [True, True]
        clock.turn(1000)
        bystander = connect()
        if end != "deleteAllSessions":
            other = manager.loadNewSession("Fabio")
            assert bystander.present(other) is True
        (ENDS | MESSAGE)[end](manager, clock, key)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        assert bystander.heard(server) == []
        assert manager.getUsernameFromSessionKey(key) == ("Luca" if end == "sendLogoutMessage" else False)
        assert len(list(server.io.manager.get_participants("/", key))) == (2 if end == "sendLogoutMessage" else 0)
        if other is not None:
            assert manager.checkSessionStatus(other)

    def test_what_many_threads_send_to_one_client_arrives_whole(self, manager, server, connect):
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        barrier = threading.Barrier(4)

        def send():
            barrier.wait(30)
            for _ in range(3):  # together fewer than the sixteen packets that a poll of this client may bring
                manager.sendLogoutMessage(key)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.heard(server) == ["logout"] * 12

    def test_a_message_for_what_is_no_live_session_reaches_nobody(self, manager, server, connect):
        client = connect()
        manager.sendLogoutMessage(client.sid)
        assert client.heard(server) == []

    def test_a_session_that_ends_between_the_two_looks_at_a_client(self, manager, server, connect, monkeypatch):
        key, find_out = manager.loadNewSession("Luca"), manager.findSession
        client = connect()
        monkeypatch.setattr(manager, "findSession", lambda key: find_out(key) and manager.deleteSession(key) and None)
        assert client.present(key) is False
        assert client.heard(server) == ["logout"]
        assert rooms_of_sessions(server) == set()

    def test_a_client_that_leaves_before_it_is_in_the_room(self, manager, server, attached):
        rooms = server.io.handlers["/"]["session_key"].__self__
        assert rooms.join("the id of one that has gone", manager.loadNewSession("Luca")) is False
        assert rooms.registry.members == rooms.registry.key_of == {}

    def test_a_client_that_was_away_learns_it_when_it_comes_back(self, manager, server, connect):
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        client.leave()
        manager.deleteSession(key)
        back = connect()
        assert back.present(key) is False
        assert back.heard(server) == ["logout"]

    def test_clients_that_have_gone_are_forgotten(self, manager, server, attached, connect):
        key = manager.loadNewSession("Luca")
        for _ in range(5):
            client = connect()
            assert client.present(key) is True
            server.io.disconnect(client.sid)
            assert client.gone.wait(30)
        rooms = server.io.handlers["/"]["session_key"].__self__
        last = connect()
        assert last.present(key) is True
        registry = rooms.registry
        assert last.sid in registry.members[key]
        assert len(registry.members[key]) <= 3  # the one before may still be leaving, and is not looked for each time
        manager.deleteSession(key)
        assert registry.members == registry.key_of == {}
        assert last.heard(server) == ["logout"]

    def test_a_join_that_races_the_end_gets_one_logout(self, manager, server, connect):
        clients = [connect() for _ in range(4)]
        for _ in range(25):
            key = manager.loadNewSession("Luca")
            answers: dict[int, object] = {}
            barrier = threading.Barrier(len(clients) + 1)

            def join(number, key=key, answers=answers, barrier=barrier):
                barrier.wait(30)
                answers[number] = clients[number].present(key)

            threads = [threading.Thread(target=join, args=(number,)) for number in range(len(clients))]
            for thread in threads:
                thread.start()
            barrier.wait(30)
            manager.deleteSession(key)
            for thread in threads:
                thread.join(30)
            assert len(answers) == len(clients)
            assert [client.heard(server) for client in clients] == [["logout"]] * len(clients)

    def test_all_but_one_session_of_a_user(self, manager, server, connect):
        clients = [connect() for _ in range(4)]
        kept, *others = [manager.loadNewSession(name) for name in ("Luca", "Luca", "Luca", "Fabio")]
        for client, key in zip(clients, [kept, *others], strict=True):
            assert client.present(key) is True
        renewed = manager.renewSessionKey(kept)
        assert manager.deleteUserSessions("Luca", renewed) == 2
        assert [client.heard(server) for client in clients] == [[], ["logout"], ["logout"], []]
        manager.deleteSession(renewed)
        assert [client.heard(server) for client in clients] == [["logout"], [], [], []]

    @pytest.mark.parametrize("gone", [True, False], ids=["it has gone", "it is there"])
    def test_a_client_that_cannot_be_told_keeps_nobody_else_from_it(self, manager, server, connect, monkeypatch, gone):
        """A connection may close between python-socketio's look at it and the sending."""
        key, errors = manager.loadNewSession("Luca"), []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
        tabs = [connect() for _ in range(3)]
        assert [tab.present(key) for tab in tabs] == [True, True, True]
        send, unlucky = server.io._send_eio_packet, server.io.manager.eio_sid_from_sid(tabs[1].sid, "/")

        def closed(eio_sid, packet):
            if eio_sid != unlucky:
                return send(eio_sid, packet)
            if gone:
                server.io.disconnect(tabs[1].sid)
                assert tabs[1].gone.wait(30)
            raise ZeroDivisionError

        monkeypatch.setattr(server.io, "_send_eio_packet", closed)
        manager.deleteSession(key)
        monkeypatch.undo()
        assert [tab.heard(server) for tab in (tabs[0], tabs[2])] == [["logout"], ["logout"]]
        assert [type(error) for error in errors] == ([] if gone else [ZeroDivisionError])
        assert rooms_of_sessions(server) == set()

    def test_another_that_leaves_at_the_same_time_costs_nobody_the_logout(self, manager, server, connect, monkeypatch):
        """The last one on a list of python-socketio's takes that with it, between a look at it and another."""
        key = manager.loadNewSession("Luca")
        tabs = [connect() for _ in range(4)]

        def stumbling(call):
            calls = itertools.count()

            def stumble(*args, **options):
                caller = sys._getframe(1).f_code  # python-socketio calls it too
                if caller is retry_on_key_error.__code__ and next(calls) % 2 == 0:
                    raise KeyError("/")
                return call(*args, **options)

            return stumble

        rooms = server.io.manager
        for name in ("is_connected", "basic_enter_room", "basic_leave_room"):
            monkeypatch.setattr(rooms, name, stumbling(getattr(rooms, name)))
        monkeypatch.setattr(server.io, "emit", stumbling(server.io.emit))
        assert [tab.present(key) for tab in tabs] == [True] * 4
        key = manager.renewSessionKey(key)
        assert len(list(server.io.manager.get_participants("/", key))) == 4
        manager.sendLogoutMessage(key)
        manager.deleteSession(key)
        monkeypatch.undo()
        assert [tab.heard(server) for tab in tabs] == [["logout", "logout"]] * 4

    def test_clients_are_told_by_their_id_since_a_room_can_be_lost(self, manager, server, connect):
        """python-socketio may delete a room that empties while somebody enters it."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        server.io.close_room(key)
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]

    def test_nothing_is_sent_under_a_lock(self, manager, server, connect, monkeypatch):
        """python-socketio may call a handler of the application in the middle of an emit."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        client = connect()
        assert client.present(key) is True
        send, done = server.io.emit, []

        def emit(*args, **kwargs):
            if not done:
                thread = threading.Thread(target=lambda: done.append(manager.deleteSession(other)))
                thread.start()
                thread.join(30)
            return send(*args, **kwargs)

        monkeypatch.setattr(server.io, "emit", emit)
        manager.deleteSession(key)
        assert done == [True]
        assert client.heard(server) == ["logout"]

    def test_detached_the_rooms_of_live_sessions_are_closed(self, manager, server, attached, connect):
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        attached()
        assert list(server.io.manager.get_participants("/", key)) == []
        assert client.heard(server) == []

    def test_an_error_listener_that_needs_another_thread_of_the_server_blocks_nothing(self, manager, server, connect):
        """The hook asks the manager, and so runs its listeners, without its own lock."""
        key = manager.loadNewSession("Luca")
        stranger, client = connect(), connect()
        answers = []

        def listener(error, details):
            thread = threading.Thread(target=lambda: answers.append(client.present(key)))
            thread.start()
            thread.join(30)

        manager.once("error", listener)
        assert stranger.present("unknown") is False
        assert answers == [True]


class TestLog:
    """A log handler holds a lock of its own while it writes, and may ask the manager then, or a finalizer may."""

    @pytest.fixture
    def handler(self, manager):
        class Handler(logging.Handler):
            """Adds to each line how many are logged in, and takes its time for one that says so."""

            def __init__(self):
                super().__init__()
                self.is_busy, self.may_go_on = threading.Event(), threading.Event()

            def emit(self, record):
                if record.getMessage() == "slow":
                    self.is_busy.set()
                    assert self.may_go_on.wait(30)
                manager.getLoggedUsers()

        return Handler()

    @pytest.fixture
    def logger(self, handler):
        logger = logging.Logger("of the server", logging.INFO)
        logger.addHandler(handler)
        return logger

    @pytest.fixture
    def server(self, logger):
        server = Server(logger=logger)
        yield server
        server.stop()

    def test_no_lock_of_ours_is_held_while_the_server_writes_to_its_log(
        self, manager, server, attached, handler, logger, monkeypatch
    ):
        monkeypatch.setattr(server.io.manager, "is_connected", lambda sid, namespace: True)
        rooms = server.io.handlers["/"]["session_key"].__self__
        server.io.manager.basic_enter_room("a client", "/", None, eio_sid="its connection")
        key = manager.loadNewSession("Luca")

        def join_and_leave():
            rooms.join("a client", key)
            manager.renewSessionKey(key)
            attached()

        writing = threading.Thread(target=logger.info, args=("slow",), daemon=True)
        joining = threading.Thread(target=join_and_leave, daemon=True)
        writing.start()
        assert handler.is_busy.wait(30)
        joining.start()
        joining.join(0.5)  # it may have to wait for the log, and must then hold no lock that the handler needs
        handler.may_go_on.set()
        for thread in (writing, joining):
            thread.join(30)
            assert not thread.is_alive()


class TestRenewal:
    @pytest.mark.parametrize("overlap", [0, 10])
    @pytest.mark.parametrize("end", ENDS)
    def test_its_clients_stay_and_get_one_logout_at_its_end(self, manager, clock, server, connect, end, overlap):
        old = manager.loadNewSession("Luca")
        tabs = [connect(), connect()]
        assert [tab.present(old) for tab in tabs] == [True, True]
        clock.turn(1000)
        new = manager.renewSessionKey(old, overlap)
        assert [tab.heard(server) for tab in tabs] == [[], []]
        assert rooms_of_sessions(server) == {new}
        ENDS[end](manager, clock, new)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        assert rooms_of_sessions(server) == set()

    def test_a_message_to_its_clients_reaches_them_once(self, manager, server, connect):
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        new = manager.renewSessionKey(old, 10)
        manager.sendLogoutMessage(new)
        assert client.heard(server) == ["logout"]
        manager.sendLogoutMessage(old)  # it is as good as the new one
        assert client.heard(server) == ["logout"]

    def test_they_are_in_the_room_of_the_new_key_and_in_that_of_the_old_no_longer(self, manager, server, connect):
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        new = manager.renewSessionKey(old, 10)
        server.emit("private", to=new)
        assert client.heard(server) == ["private"]
        server.emit("private", to=old)
        assert client.heard(server) == []

    def test_one_that_joins_under_the_old_key_is_in_the_room_of_the_new_one(self, manager, server, connect):
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, 10)
        client = connect()
        assert client.present(old) is True
        server.emit("private", to=new)
        assert client.heard(server) == ["private"]
        assert rooms_of_sessions(server) == {new}
        manager.deleteSession(new)
        assert client.heard(server) == ["logout"]

    def test_after_the_overlap_the_old_key_is_refused_and_told_once(self, manager, clock, server, connect):
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, 10)
        client, late = connect(), connect()
        assert client.present(old) is True
        clock.turn(10)
        assert late.present(old) is False
        assert late.heard(server) == ["logout"]
        manager.deleteSession(new)
        assert (client.heard(server), late.heard(server)) == (["logout"], [])

    def test_a_session_that_is_renewed_again_and_again(self, manager, server, connect):
        keys = [manager.loadNewSession("Luca")]
        tabs = []
        for _ in range(3):
            tabs.append(connect())
            assert tabs[-1].present(keys[0]) is True
            keys.append(manager.renewSessionKey(keys[-1], 10))
            assert rooms_of_sessions(server) == {keys[-1]}
        tabs.append(connect())
        assert tabs[-1].present(keys[1]) is True
        server.emit("private", to=keys[-1])
        manager.sendLogoutMessage(keys[2])
        assert [tab.heard(server) for tab in tabs] == [["private", "logout"]] * 4
        manager.deleteSession(keys[-1])
        assert [tab.heard(server) for tab in tabs] == [["logout"]] * 4
        assert rooms_of_sessions(server) == set()

    def test_a_client_that_joins_again_is_told_once(self, manager, server, connect):
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        new = manager.renewSessionKey(old, 10)
        assert client.present(new) is True
        assert client.present(old) is True
        manager.deleteSession(new)
        assert client.heard(server) == ["logout"]

    @pytest.mark.parametrize("overlap", [0, 10])
    def test_a_renewal_between_the_two_looks(self, manager, server, connect, monkeypatch, overlap):
        """It has taken along all who were in the room of the old key before this one enters that."""
        old = manager.loadNewSession("Luca")
        tab, client = connect(), connect()
        assert tab.present(old) is True
        renewed = []

        def first_look(key):
            renewed.append(manager.renewSessionKey(key, overlap))
            return key

        monkeypatch.setattr(server.io.handlers["/"]["session_key"].__self__, "_check", first_look)
        assert client.present(old) is bool(overlap)
        monkeypatch.undo()
        (new,) = renewed
        assert rooms_of_sessions(server) == {new}
        assert client.heard(server) == ([] if overlap else ["logout"])
        manager.deleteSession(new)
        assert (tab.heard(server), client.heard(server)) == (["logout"], ["logout"] if overlap else [])

    def test_an_end_does_not_come_between_the_look_at_a_client_and_its_way_into_the_room(
        self, manager, server, connect, monkeypatch
    ):
        client, key = connect(), manager.loadNewSession("Luca")
        assert client.present(key) is True
        enter, ending = server.io.manager.basic_enter_room, threading.Thread(target=manager.deleteAllSessions)

        def enter_late(*args, **options):
            ending.start()
            ending.join(0.2)  # it has to wait, so there is no other way to see that it does
            enter(*args, **options)

        monkeypatch.setattr(server.io.manager, "basic_enter_room", enter_late)
        manager.renewSessionKey(key)
        ending.join(30)
        assert client.heard(server) == ["logout"]
        assert rooms_of_sessions(server) == set()

    def test_while_the_store_is_away_its_clients_come_along_too(self, manager, server, connect, monkeypatch):
        """So it is after the renewal; and whether to send them a message nobody knows."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True

        def away(_):
            raise StoreUnavailable("the store is away")

        monkeypatch.setattr(manager, "findSession", away)
        key = manager.renewSessionKey(key)
        assert rooms_of_sessions(server) == {key}
        manager.sendLogoutMessage(key)
        assert client.heard(server) == []

    def test_renewals_that_race_joins(self, manager, server, connect):
        """Who was acknowledged gets one logout at the end, and who was not has had one."""
        clients = [connect() for _ in range(3)]
        with ThreadPoolExecutor(len(clients) + 1) as threads:
            for number in range(100):
                key = manager.loadNewSession("Luca")
                barrier = threading.Barrier(len(clients) + 1)

                def join(client, key=key, barrier=barrier):
                    barrier.wait(30)
                    return client.present(key)

                def renew(key=key, barrier=barrier, overlap=(0, 10, 10)[number % 3]):
                    barrier.wait(30)
                    for _ in range(3):
                        key = manager.renewSessionKey(key, overlap)
                    return key

                answers = [threads.submit(join, client) for client in clients]
                key = threads.submit(renew).result(60)
                joined = [answer.result(60) for answer in answers]
                assert [client.heard(server) for client in clients] == [[] if yes else ["logout"] for yes in joined]
                assert all(joined) or number % 3 == 0
                assert rooms_of_sessions(server) == ({key} if any(joined) else set())
                manager.deleteSession(key)
                assert [client.heard(server) for client in clients] == [["logout"] if yes else [] for yes in joined]
                assert rooms_of_sessions(server) == set()

    def test_joins_and_renewals_that_race_the_end(self, manager, server, connect):
        """Everybody gets one logout, be it for the refusal or for the end, and nobody stays in a room."""

        def renew(key, overlap):
            with suppress(SessionRejected):  # the end may come first
                manager.renewSessionKey(key, overlap)

        clients = [connect() for _ in range(3)]
        with ThreadPoolExecutor(len(clients) + 2) as threads:
            for number in range(75):
                key = manager.loadNewSession("Luca")
                assert clients[0].present(key) is True
                barrier = threading.Barrier(len(clients) + 1)

                def act(action, *args, barrier=barrier):
                    barrier.wait(30)
                    return action(*args)

                acts = [threads.submit(act, client.present, key) for client in clients[1:]]
                acts.append(threads.submit(act, renew, key, 10 * (number % 2)))
                acts.append(threads.submit(act, manager.deleteUserSessions, "Luca"))
                assert [act.result(60) for act in acts][-1] == 1
                assert [client.heard(server) for client in clients] == [["logout"]] * 3
                assert rooms_of_sessions(server) == set()


class TestRenewalsHeardInTheWrongOrder:
    @pytest.fixture
    def attached(self, manager, server):
        self.renew_again = []

        def renew_again(_, new):
            if self.renew_again:
                self.renew_again.append(manager.renewSessionKey(new, self.renew_again.pop()))

        manager.on("sessionRenewed", renew_again)
        return attach(manager, server.io)

    @pytest.mark.parametrize("overlap", [0, 10])
    def test_the_clients_are_in_the_room_of_the_last_key(self, manager, server, connect, overlap):
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        self.renew_again.append(overlap)
        manager.renewSessionKey(old)
        last = self.renew_again.pop()
        server.emit("private", to=last)
        assert client.heard(server) == ["private"]
        assert rooms_of_sessions(server) == {last}
        manager.deleteSession(last)
        assert client.heard(server) == ["logout"]


class TestExpiring:
    def test_it_reaches_the_clients_of_that_session_and_nobody_else(self, manager, clock, server, connect):
        manager.setExpiryWarning(60)
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Luca", timeout=5000)
        tabs = [connect(), connect()]
        assert [tab.present(key) for tab in tabs] == [True, True]
        bystander, stranger = connect(), connect()
        assert bystander.present(other) is True
        clock.turn(2939)
        assert [tab.heard(server) for tab in tabs] == [[], []]
        clock.turn(11)
        for tab in tabs:
            ((word, left),) = tab.heard(server)
            assert (word, left, type(left) in (int, float)) == ("session_expiring", 50, True)
        assert bystander.heard(server) == stranger.heard(server) == []

    def test_it_comes_once_a_countdown_and_again_after_a_restart(self, manager, clock, server, connect):
        manager.setExpiryWarning(60)
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        clock.turn(2940)
        clock.turn(30)
        assert client.heard(server) == [("session_expiring", 60)]
        manager.restartSessionTimer(key)
        clock.turn(2939)
        assert client.heard(server) == []
        clock.turn(1)
        assert client.heard(server) == [("session_expiring", 60)]
        clock.turn(60)
        assert client.heard(server) == ["logout"]

    def test_it_reaches_them_under_whatever_key_they_have_joined(self, manager, clock, server, connect):
        manager.setExpiryWarning(60)
        old = manager.loadNewSession("Luca")
        tabs = [connect(), connect()]
        assert tabs[0].present(old) is True
        manager.renewSessionKey(old, 10)
        assert tabs[1].present(old) is True
        clock.turn(2940)
        assert [tab.heard(server) for tab in tabs] == [[("session_expiring", 60)]] * 2


class Queue(socketio.PubSubManager):
    """A message queue to which no other process listens."""

    def _publish(self, data):
        pass

    def _listen(self):
        return iter(())


class TestQueue:
    """On a server with a message queue the room is told as well, for the clients of other processes."""

    @pytest.fixture
    def server(self):
        server = Server(client_manager=Queue(write_only=True))
        yield server
        server.stop()

    @pytest.mark.parametrize("end", ENDS | MESSAGE)
    def test_each_client_gets_one_logout(self, manager, clock, server, connect, end):
        old = manager.loadNewSession("Luca")
        tabs, stranger = [connect(), connect()], connect()
        assert [tab.present(old) for tab in tabs] == [True, True]
        clock.turn(1000)
        (ENDS | MESSAGE)[end](manager, clock, manager.renewSessionKey(old))
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        assert stranger.heard(server) == []

    def test_a_refusal_reaches_nobody_else(self, server, connect):
        refused, stranger = connect(), connect()
        assert refused.present("unknown") is False
        assert (refused.heard(server), stranger.heard(server)) == (["logout"], [])

    def test_one_that_joins_while_the_room_is_told_is_told_once(self, manager, server, connect, monkeypatch):
        """Its second look tells it, so the room must not."""
        key = manager.loadNewSession("Luca")
        client, tab = connect(), connect()
        assert tab.present(key) is True
        emit, find_out = server.io.emit, manager.findSession
        at_the_room, in_its_seat, room_told = threading.Event(), threading.Event(), threading.Event()

        def emit_later(*args, to, **options):
            if isinstance(to, list):
                at_the_room.set()
                assert in_its_seat.wait(30)
            emit(*args, to=to, **options)

        def end():
            manager.deleteSession(key)
            room_told.set()

        ending = threading.Thread(target=end)

        def first_look(_):
            ending.start()
            assert at_the_room.wait(30)
            return key

        def second_look(key):
            in_its_seat.set()
            assert room_told.wait(30)
            return find_out(key)

        rooms = server.io.handlers["/"]["session_key"].__self__
        monkeypatch.setattr(rooms, "_check", first_look)
        monkeypatch.setattr(server.io, "emit", emit_later)
        monkeypatch.setattr(manager, "findSession", second_look)
        assert client.present(key) is False
        ending.join(30)
        monkeypatch.undo()
        assert (client.heard(server), tab.heard(server)) == (["logout"], ["logout"])
        assert rooms_of_sessions(server) == set()

    test_joins_and_renewals_that_race_the_end = TestRenewal.test_joins_and_renewals_that_race_the_end

    def test_detached_it_takes_its_own_clients_out_and_asks_no_other_process_to(
        self, manager, server, attached, connect, monkeypatch
    ):
        key = manager.loadNewSession("Luca")
        client, said = connect(), []
        assert client.present(key) is True
        monkeypatch.setattr(server.io.manager, "_publish", said.append)
        attached()
        assert rooms_of_sessions(server) == set()
        assert said == []


class TestLoop:
    """A server on an event loop, to which other threads hand what is to be done."""

    @pytest.fixture
    def server(self, manager):
        server = LoopServer(manager)
        yield server
        server.stop()

    @pytest.fixture
    def attached(self, manager, server):
        manager.on("error", lambda error, details: None)
        return server.detach

    test_one_that_joins_under_the_old_key = (
        TestRenewal.test_one_that_joins_under_the_old_key_is_in_the_room_of_the_new_one
    )
    test_a_session_that_is_renewed_again_and_again = TestRenewal.test_a_session_that_is_renewed_again_and_again
    test_a_renewal_between_the_two_looks = TestRenewal.test_a_renewal_between_the_two_looks
    test_a_warning = TestExpiring.test_it_reaches_the_clients_of_that_session_and_nobody_else

    @pytest.mark.parametrize("connect", ["websocket"], indirect=True)  # with polling it takes half a minute
    def test_renewals_that_race_joins(self, manager, server, connect):
        TestRenewal.test_renewals_that_race_joins(self, manager, server, connect)

    @pytest.mark.parametrize("connect", ["websocket"], indirect=True)
    def test_joins_and_renewals_that_race_the_end(self, manager, server, connect):
        TestRenewal.test_joins_and_renewals_that_race_the_end(self, manager, server, connect)

    def test_a_client_that_leaves_before_it_is_in_the_room(self, manager, server):
        rooms = server.io.handlers["/"]["session_key"].__self__
        assert server.run(rooms.join("the id of one that has gone", manager.loadNewSession("Luca"))) is False
        assert rooms.registry.members == rooms.registry.key_of == {}

    def test_a_session_that_ends_while_another_thread_takes_the_second_look(
        self, manager, clock, server, connect, monkeypatch
    ):
        """As it does with a store that may have to be waited for."""
        monkeypatch.setattr(type(clock.store), "blocking", True)
        key, find_out = manager.loadNewSession("Luca"), manager.findSession

        def second_look(key):
            if manager.sessions:
                manager.deleteSession(key)
                server.settle()
            return find_out(key)

        client = connect()
        monkeypatch.setattr(manager, "findSession", second_look)
        assert client.present(key) is False
        assert client.heard(server) == ["logout"]
        assert rooms_of_sessions(server) == set()

    def test_detached_it_leaves_nothing_in_the_rooms(self, manager, server, attached, connect):
        client, key = connect(), manager.loadNewSession("Luca")
        assert client.present(key) is True
        attached()
        assert rooms_of_sessions(server) == set()
        manager.deleteSession(key)
        assert client.heard(server) == []

    @pytest.mark.parametrize("overlap", [0, 10])
    @pytest.mark.parametrize("end", ["runs out", "deleteSession", "sendLogoutMessage"])
    @pytest.mark.parametrize("ended", ["on the loop", "on another thread"])
    @pytest.mark.parametrize("renewed", ["on the loop", "on another thread"])
    def test_a_renewal_that_is_followed_at_once_by_the_end(
        self, manager, clock, server, connect, renewed, ended, end, overlap
    ):
        key = manager.loadNewSession("Luca")
        tabs = [connect(), connect()]
        assert [tab.present(key) for tab in tabs] == [True, True]
        clock.turn(1000)

        def renew():
            return manager.renewSessionKey(manager.renewSessionKey(key, overlap), overlap)

        def finish(key):
            (ENDS | MESSAGE)[end](manager, clock, key)

        if renewed == ended == "on the loop":  # with no turn of the loop in between
            server.on_loop(lambda: finish(renew()))
        else:
            new = server.on_loop(renew) if renewed == "on the loop" else renew()
            server.on_loop(lambda: finish(new)) if ended == "on the loop" else finish(new)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        assert len(rooms_of_sessions(server)) == (1 if end in MESSAGE else 0)


class TestCookie:
    @pytest.fixture
    def attached(self, manager, server):
        return attach(manager, server.io, cookie="sid")

    def test_a_key_in_the_cookie_of_the_handshake_is_enough(self, manager, server, connect):
        key = manager.loadNewSession("Luca")
        client = connect(cookie=f"a=b; sid={key}; c=d")
        assert client.present() is True
        assert client.present({"session_key": None}) is True
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]

    @pytest.mark.parametrize("cookie", [None, "a=b", "sid=unknown", "sid=", "sid", ";;;", "s\x7fid=x"], ids=repr)
    def test_another_cookie_is_refused(self, manager, server, connect, cookie):
        manager.on("error", lambda *_: None)
        client = connect(cookie=cookie)
        assert client.present() is False
        assert client.heard(server) == ["logout"]

    def test_a_key_that_is_sent_comes_before_the_cookie(self, manager, server, connect):
        manager.on("error", lambda *_: None)
        client = connect(cookie=f"sid={manager.loadNewSession('Luca')}")
        assert client.present("unknown") is False


class TestAttaching:
    def test_the_server_becomes_the_socket_reference(self, manager, server, attached):
        assert manager.getSocketReference() is server.io

    def test_detached_it_tells_nobody_and_lets_go(self, manager, clock, server, attached, connect):
        client = connect()
        manager.setExpiryWarning(60)
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        assert rooms_of_sessions(server) == {key}
        attached()
        attached()
        assert rooms_of_sessions(server) == set()
        key = manager.renewSessionKey(key)
        clock.turn(2950)
        manager.deleteSession(key)
        assert client.heard(server) == []
        assert manager.getSocketReference() is None
        for event in ("notifyClientToLogout", "sessionExpiring", "sessionRenewed", "sessionEnded"):
            assert manager.listeners(event) == []
        attach(manager, server.io)()

    def test_it_can_be_detached_after_all_listeners_were_removed(self, manager, server, attached):
        manager.remove_all_listeners()
        attached()
        attach(manager, server.io)()

    def test_detached_it_leaves_another_reference_alone(self, manager, attached):
        other = object()
        manager.initSocketReference(other)
        attached()
        assert manager.getSocketReference() is other

    def test_a_server_is_attached_once(self, manager, server, attached):
        with pytest.raises(SessionError, match="already"):
            attach(manager, server.io)

    def test_a_namespace_of_its_own(self, manager, server):
        detach = attach(manager, server.io, namespace="/logins")
        client = socketio.Client(reconnection=False)
        told: queue.Queue[str] = queue.Queue()
        client.on("logout", lambda *_: told.put("logout"), namespace="/logins")
        client.connect(server.address, transports=["polling"], namespaces=["/logins"], wait_timeout=30)
        key = manager.loadNewSession("Luca")
        assert client.call("session_key", key, namespace="/logins", timeout=30) is True
        manager.deleteSession(key)
        assert told.get(timeout=30) == "logout"
        client.disconnect()
        detach()

    @pytest.mark.parametrize("make", [object, socketio.Client, lambda: None], ids=["object", "client", "None"])
    def test_what_cannot_deliver_is_refused(self, manager, make):
        with pytest.raises(TypeError, match=r"must be a socketio\.Server"):
            attach(manager, make())
        assert manager.getSocketReference() is None

    def test_its_timer_runs_on_the_real_clock_too(self, server):
        store = MemoryStore()
        manager = SessionManager(store=store)
        detach = attach(manager, server.io)
        client = Client(server.address, "websocket")
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        store.restart(key, 0.01)
        assert client.told.get(timeout=30) == "logout"
        client.leave()
        detach()

    def test_a_loop_that_has_closed_is_no_crash(self, manager, caplog):
        """The server has gone with its loop, and so have its clients."""
        errors = []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))

        async def application():
            return attach(manager, socketio.AsyncServer(async_mode="asgi"))

        detach = asyncio.run(application())
        manager.sendLogoutMessage(manager.loadNewSession("Luca"))
        assert manager.deleteAllSessions() is True
        assert errors == []
        assert "loop has closed" in caplog.text
        detach()

    def test_without_a_client_an_async_server_has_nobody_to_tell(self, manager):
        errors = []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
        detach = attach(manager, socketio.AsyncServer(async_mode="asgi"))
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert errors == []
        detach()

    def test_a_failure_to_send_on_the_loop_is_in_the_log(self, manager, caplog, monkeypatch):
        io = socketio.AsyncServer(async_mode="asgi")

        async def fails(*args, **kwargs):
            raise ZeroDivisionError

        async def application():
            detach = attach(manager, io)
            monkeypatch.setattr(io, "close_room", fails)
            manager.deleteSession(manager.loadNewSession("Luca"))
            for _ in range(10):
                await asyncio.sleep(0)
            detach()

        asyncio.run(application())
        assert "A logout could not be sent" in caplog.text
        assert "ZeroDivisionError" in caplog.text
