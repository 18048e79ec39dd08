"""The Socket.IO hook, on a real server with real clients."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading

import pytest

socketio = pytest.importorskip("socketio")
serving = pytest.importorskip("werkzeug.serving")
pytest.importorskip("simple_websocket")

from users_session_manager import SessionError, SessionManager, StoreUnavailable  # noqa: E402
from users_session_manager.integrations.socketio import attach  # noqa: E402


class Server:
    """python-socketio in threading mode behind Werkzeug, on a free port of loopback."""

    def __init__(self) -> None:
        self.io = socketio.Server(async_mode="threading")
        self.io.on("private", lambda sid: self.io.emit("private", to=sid))
        self._http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.io.shutdown()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(30)


class Client:
    """A python-socketio client that keeps what it is told."""

    def __init__(self, address: str, transport: str, cookie: str | None = None) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.io = socketio.Client(reconnection=False)
        self.io.on("logout", lambda *_: self.told.put("logout"))
        self.io.on("mark", lambda *_: self.told.put("mark"))
        self.io.on("private", lambda *_: self.told.put("private"))
        self.gone = threading.Event()
        self.io.on("disconnect", lambda *_: self.gone.set())
        headers = {} if cookie is None else {"Cookie": cookie}
        self.io.connect(address, transports=[transport], headers=headers, wait_timeout=30)
        self.sid = self.io.get_sid()

    def leave(self) -> None:
        if self.io.connected and self.io.transport() == "websocket":
            # As a closed tab does; a polite good-bye would wait three seconds for an answer.
            self.io.eio.ws.sock.shutdown(socket.SHUT_RDWR)
            assert self.gone.wait(30)
        else:
            self.io.disconnect()

    def present(self, *data: object) -> object:
        return self.io.call("session_key", *data, timeout=30)

    def heard(self, server: Server) -> list[str]:
        """All this client has been told up to now: what is sent to it arrives in order, so a mark comes last."""
        server.io.emit("mark", to=self.sid)
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
        client.leave()


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

        for method in ("checkSessionStatus", "getUsernameFromSessionKey"):  # at the first look, and at the second
            with monkeypatch.context() as patch:
                patch.setattr(manager, method, away)
                assert client.present(other) is False
            assert client.heard(server) == []
        assert client.present(key) is True
        manager.deleteSession(other)
        assert client.heard(server) == []
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]


class TestTheEnd:
    @pytest.mark.parametrize("end", ["runs out", "deleteSession", "deleteAllSessions", "sendLogoutMessage"])
    def test_each_client_gets_one_logout_and_nobody_else(self, manager, clock, server, connect, end):
        key, other = manager.loadNewSession("Luca"), None
        tabs = [connect(), connect()]
        assert [tab.present(key) for tab in tabs] == [True, True]
        if end == "runs out":
            clock.turn(1000)
        bystander = connect()
        if end != "deleteAllSessions":
            other = manager.loadNewSession("Fabio")
            assert bystander.present(other) is True
        {
            "runs out": lambda: clock.turn(2000),
            "deleteSession": lambda: manager.deleteSession(key),
            "deleteAllSessions": manager.deleteAllSessions,
            "sendLogoutMessage": lambda: manager.sendLogoutMessage(key),
        }[end]()
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
        assert last.sid in rooms._members[key]
        assert len(rooms._members[key]) <= 2  # the one before may still be leaving
        manager.deleteSession(key)
        assert rooms._members == rooms._key_of == {}
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

    def test_detached_it_tells_nobody_and_lets_go(self, manager, server, attached, connect):
        client = connect()
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        attached()
        attached()
        manager.deleteSession(key)
        assert client.heard(server) == []
        assert manager.getSocketReference() is None
        assert manager.listeners("sessionDeleted") == []
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
        manager = SessionManager()
        detach = attach(manager, server.io)
        client = Client(server.address, "websocket")
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        with manager._store.clock.lock:
            manager._store.clock.schedule(manager.sessions[key].timer, 0.01)
        assert client.told.get(timeout=30) == "logout"
        client.leave()
        detach()

    def test_a_loop_that_has_closed_is_no_crash(self, manager, caplog):
        """The server has gone with its loop, and so have its clients."""
        errors = []
        manager.on("error", lambda error, details: errors.append(error))

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
        manager.on("error", lambda error, details: errors.append(error))
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
