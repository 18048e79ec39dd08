"""The Socket.IO hook, on real servers with real clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import Any

import pytest

socketio = pytest.importorskip("socketio")
from interpreter import run  # noqa: E402
from socketio_client import new_client  # noqa: E402
from socketio_servers import Client, LoopServer, Server  # noqa: E402

from users_session_manager import (  # noqa: E402
    MemoryStore,
    SessionError,
    SessionManager,
    SessionRejected,
    StoreUnavailable,
)
from users_session_manager.integrations.socketio import attach  # noqa: E402

KEY = re.compile(r"[A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4}_[0-9A-F]{32}")
ROUNDS = 30
"""How often a race is run."""


class Queue(socketio.PubSubManager):
    """A message queue to which no other process listens; it keeps what is published."""

    def __init__(self) -> None:
        super().__init__(write_only=True)
        self.published: list[dict[str, Any]] = []

    def _publish(self, data: Any) -> None:  # what a queue of python-socketio has
        self.published.append(data)

    def _listen(self) -> Iterator[Any]:
        return iter(())

    def of_ours(self) -> list[dict[str, Any]]:
        """Return what was published, but for what the application of these tests sends itself."""
        return [data for data in self.published if data.get("event") not in ("mark", "private")]


@pytest.fixture(scope="module")
def with_queue() -> Iterator[Server]:
    server = Server(client_manager=Queue())
    yield server
    server.stop()


on_every_server = pytest.mark.parametrize("server", ["threads", "loop", "with_queue"], indirect=True)
on_queue = pytest.mark.parametrize("server", ["with_queue"], indirect=True)
on_loop = pytest.mark.parametrize("server", ["loop"], indirect=True)
over_both_transports = pytest.mark.parametrize("connect", ["websocket", "polling"], indirect=True)


in_every_store = pytest.mark.parametrize("store_kind", ["memory", "redis"])


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server | LoopServer]:
    """A server; if it has a message queue, nothing of ours goes through that."""
    server = request.getfixturevalue(getattr(request, "param", "threads"))
    yield server
    if isinstance(server.io.manager, Queue):
        assert server.io.manager.of_ours() == []
        server.io.manager.published.clear()


@pytest.fixture
def attached(manager: SessionManager, server: Server | LoopServer) -> Iterator[Callable[[], None]]:
    manager.on("error", lambda error, details: None)
    detach = server.attach(manager)
    yield detach
    detach()


@pytest.fixture
def connect(request: pytest.FixtureRequest, server: Any, attached: Any) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def connect(**options: Any) -> Client:
        clients.append(Client(server.address, getattr(request, "param", "websocket"), **options))
        return clients[-1]

    yield connect
    for client in clients:
        server.remove(client)
    # The tests that follow share the server; python-socketio loses sends while another client disconnects.
    deadline = time.monotonic() + 90  # one that has vanished is noticed after a ping interval and a ping timeout
    while {client.sid for client in clients} & set(server.io.manager.rooms.get("/", {}).get(None, {}).copy()):
        assert time.monotonic() < deadline, "a client is still connected"
        time.sleep(0.001)


def session_rooms(server: Server | LoopServer) -> set[str]:
    """Return the rooms that have the name of a key, and so not those that each client has for itself."""
    server.settle()
    return {room for room in server.io.manager.rooms.get("/", {}).copy() if isinstance(room, str) and KEY.match(room)}


def evict(manager: SessionManager) -> None:
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(None)


# How Luca's one session, created at least 1000 seconds before any other, can end.
ENDS: dict[str, Callable[..., Any]] = {
    "expires": lambda manager, clock, key: clock.turn(2000),
    "deleteSession": lambda manager, clock, key: manager.deleteSession(key),
    "deleteAllSessions": lambda manager, clock, key: manager.deleteAllSessions(),
    "deleteUserSessions": lambda manager, clock, key: manager.deleteUserSessions("Luca"),
    "evicted": lambda manager, clock, key: evict(manager),
}

REASONS = {"expires": "expired", "evicted": "evicted"}
"""The reasons of those ends that are not a deletion."""


ELSEWHERE = """
import sys
from contextlib import suppress
from users_session_manager import SessionManager, SessionRejected
from users_session_manager.stores.redis import RedisStore

url, prefix, key = sys.argv[1:]
manager = SessionManager(store=RedisStore.from_url(url, prefix=prefix, timeout=30))
"""
"""How a program of another process begins."""


def fail(*_: Any) -> Any:
    raise StoreUnavailable("no answer")


class TestJoining:
    @on_every_server
    @over_both_transports
    def test_live_key(self, manager, server, connect):
        """A live key, in a dict or bare, is acknowledged."""
        client, key = connect(), manager.loadNewSession("Luca")
        for shape in ({"session_key": key}, key):
            assert client.present(shape) is True
            assert client.heard(server) == []

    @on_every_server
    @over_both_transports
    def test_anything_else(self, manager, server, connect):
        """Anything else is refused and logged out, and reaches no other client."""
        client, stranger = connect(), connect()
        nonsense = ["unknown", None, 5, [], {}, {"session_key": None}, {"session_key": {"a": []}}, {"other": "x"}]
        for data in ([], *([each] for each in nonsense), ["x" * 100_000]):
            assert client.present(*data) is False
            assert client.heard(server) == ["logout"]
        assert stranger.heard(server) == []

    @on_every_server
    def test_ended_key(self, manager, clock, server, connect):
        """The key of a session that has expired is refused, announced or not."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        client = connect()
        assert client.present(key) is False
        clock.turn(0)
        assert client.heard(server) == ["logout"]

    @on_every_server
    def test_client_id(self, server, connect):
        """A client that sends the id of another one joins nothing."""
        victim, stranger = connect(), connect()
        assert stranger.present({"session_key": victim.sid}) is False
        victim.io.emit("private")
        assert victim.words.get(timeout=30) == "private"
        assert stranger.heard(server) == ["logout"]

    def test_without_error_listener(self, manager, server, connect):
        """Without a listener to `error` a refusal is the same."""
        manager.remove_all_listeners("error")
        client = connect()
        assert client.present("unknown") is False
        assert client.heard(server) == ["logout"]

    @on_every_server
    def test_last_key_counts(self, manager, server, connect):
        """A client belongs to the session that it named last, and to none once it was refused."""
        client = connect()
        first, second, third = (manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino"))
        assert [client.present(key) for key in (first, second)] == [True, True]
        manager.deleteSession(first)
        assert client.heard(server) == []
        manager.deleteSession(second)
        assert client.heard(server) == ["logout"]
        assert [client.present(key) for key in (third, "unknown")] == [True, False]
        assert client.heard(server) == ["logout"]
        manager.deleteSession(third)
        assert client.heard(server) == []

    @on_every_server
    def test_unreachable_store(self, manager, server, connect, monkeypatch):
        """While the store is unreachable no client joins or is logged out."""
        client = connect()
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        assert client.present(key) is True
        for method in ("getSession", "presentKeys"):  # at the first check, and at the second
            with monkeypatch.context() as patch:
                patch.setattr(manager, method, fail)
                assert client.present(other) is False
            assert client.heard(server) == []
        assert client.present(key) is True
        manager.deleteSession(other)
        assert client.heard(server) == []
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]

    @on_every_server
    def test_came_back(self, manager, server, connect):
        """A client that was disconnected when its session ended learns it at its next join."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        client.leave()
        manager.deleteSession(key)
        back = connect()
        assert back.present(key) is False
        assert (back.heard(server), back.reasons) == (["logout"], [{"reason": None}])


class TestTheEnd:
    @on_every_server
    @over_both_transports
    def test_one_logout_each(self, manager, clock, server, connect):
        """However a session ends, each of its clients gets one logout, and no other client does."""
        tabs, other_client = [connect(), connect()], connect()
        for name, end in ENDS.items():
            key, other = manager.loadNewSession("Luca"), None
            assert [tab.present(key) for tab in tabs] == [True, True]
            clock.turn(1000)
            if name != "deleteAllSessions":
                other = manager.loadNewSession("Fabio")
                assert other_client.present(other) is True
            end(manager, clock, key)
            assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]], name
            assert {str(tab.reasons.pop()) for tab in tabs} == {str({"reason": REASONS.get(name, "deleted")})}
            assert other_client.heard(server) == [], name
            assert manager.getUsernameFromSessionKey(key) is False
            assert key not in session_rooms(server)
            assert other is None or manager.checkSessionStatus(other)
            manager.deleteAllSessions()
            assert other_client.heard(server) == ([] if other is None else ["logout"])

    @on_every_server
    @over_both_transports
    def test_message(self, manager, server, connect):
        """A message is a logout for each client of a session that goes on, under any of its keys."""
        old = manager.loadNewSession("Luca")
        tabs, stranger = [connect(), connect()], connect()
        assert [tab.present(old) for tab in tabs] == [True, True]
        manager.sendLogoutMessage(old)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        new = manager.renewSessionKey(old, 10)
        for key in (old, new):
            manager.sendLogoutMessage(key)
            assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]
        assert tabs[0].reasons == [{"reason": None}] * 3
        assert (stranger.heard(server), session_rooms(server)) == ([], {new})
        manager.sendLogoutMessage(stranger.sid)  # the name of a room, and no key
        assert stranger.heard(server) == []
        manager.deleteSession(new)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]

    @over_both_transports
    def test_many_threads(self, manager, server, connect):
        """Messages that many threads send to one client arrive whole."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        barrier = threading.Barrier(4)

        def send() -> None:
            barrier.wait(30)
            for _ in range(3):  # together fewer than the sixteen packets that a poll of this client may bring
                manager.sendLogoutMessage(key)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.heard(server) == ["logout"] * 12

    @on_every_server
    def test_all_but_one(self, manager, server, connect):
        """When a user is logged out elsewhere, the clients of the session that is spared hear nothing."""
        clients = [connect() for _ in range(4)]
        kept, *others = [manager.loadNewSession(name) for name in ("Luca", "Luca", "Luca", "Fabio")]
        for client, key in zip(clients, [kept, *others], strict=True):
            assert client.present(key) is True
        renewed = manager.renewSessionKey(kept)
        assert manager.deleteUserSessions("Luca", renewed) == 2
        assert [client.heard(server) for client in clients] == [[], ["logout"], ["logout"], []]
        manager.deleteSession(renewed)
        assert [client.heard(server) for client in clients] == [["logout"], [], [], []]

    @on_every_server
    @pytest.mark.parametrize("blocking", [False, True])
    def test_between_two_checks(self, manager, clock, server, connect, monkeypatch, blocking):
        """A session that ends between the two checks of a joining client logs it out once."""
        # A loop takes to a thread what it asks a store that may have to be waited for.
        monkeypatch.setattr(type(clock.store), "blocking", blocking)
        key, find = manager.loadNewSession("Luca"), manager.presentKeys

        def second_check(ids: list[Any]) -> Any:
            if manager.sessions:
                manager.deleteSession(key)
            return find(ids)

        client = connect()
        monkeypatch.setattr(manager, "presentKeys", second_check)
        assert client.present(key) is False
        assert client.heard(server) == ["logout"]
        assert session_rooms(server) == set()

    @on_every_server
    def test_leaves_before_it_joins(self, manager, server, attached):
        """A client that leaves before it is in the room is in none."""
        answer = server.io.handlers["/"]["session_key"]("an unknown id", manager.loadNewSession("Luca"))
        assert (server.run(answer) if isinstance(server, LoopServer) else answer) is False
        assert session_rooms(server) == set()

    def test_gone_clients(self, manager, server, connect, monkeypatch):
        """Clients that have gone are forgotten: at the end nothing is sent to most of them."""
        key = manager.loadNewSession("Luca")
        for _ in range(8):
            client = connect()
            assert client.present(key) is True
            server.io.disconnect(client.sid)
            assert client.gone.wait(30)
        last = connect()
        assert last.present(key) is True
        emit, sent = server.io.emit, []

        def note(*args: Any, to: Any, **options: Any) -> None:
            sent.append(to)
            emit(*args, to=to, **options)

        monkeypatch.setattr(server.io, "emit", note)
        manager.deleteSession(key)
        assert last.sid in sent
        assert len(sent) <= 5  # they are looked for each time that their number has doubled
        monkeypatch.undo()
        assert last.heard(server) == ["logout"]

    def test_closed_room(self, manager, server, connect):
        """Clients are notified by their id, since python-socketio may lose a room that empties while one enters it."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        server.io.close_room(key)
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]

    @pytest.mark.parametrize("has_gone", [True, False])
    def test_send_fails(self, manager, server, connect, monkeypatch, has_gone):
        """A client that cannot be sent to keeps no other from the logout; if it is still there, that is an error."""
        key, errors = manager.loadNewSession("Luca"), []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
        tabs = [connect() for _ in range(3)]
        assert [tab.present(key) for tab in tabs] == [True, True, True]
        send, unlucky = server.io.eio.send_packet, server.io.manager.eio_sid_from_sid(tabs[1].sid, "/")

        def closed(eio_sid: str, packet: Any) -> Any:
            if eio_sid != unlucky:
                return send(eio_sid, packet)
            if has_gone:
                monkeypatch.undo()
                server.io.disconnect(tabs[1].sid)
                assert tabs[1].gone.wait(30)
            raise ZeroDivisionError

        monkeypatch.setattr(server.io.eio, "send_packet", closed)
        manager.deleteSession(key)
        monkeypatch.undo()
        assert [tab.heard(server) for tab in (tabs[0], tabs[2])] == [["logout"], ["logout"]]
        assert [type(error) for error in errors] == ([] if has_gone else [ZeroDivisionError])
        assert session_rooms(server) == set()

    def test_another_leaves(self, manager, server, connect, monkeypatch):
        """A client that leaves at the same time costs no other client the logout.

        The last one on a list of python-socketio's takes that list with it, between a check of the list and its use.
        """
        key = manager.loadNewSession("Luca")
        tabs = [connect() for _ in range(4)]

        def stumbling(call: Callable[..., Any]) -> Callable[..., Any]:
            calls = itertools.count()

            def stumble(*args: Any, **options: Any) -> Any:
                is_ours = sys._getframe(1).f_globals["__name__"].startswith("users_session_manager")
                if is_ours and next(calls) % 2 == 0:
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

    def test_no_lock_while_sending(self, manager, server, connect, monkeypatch):
        """Nothing is sent under a lock: python-socketio may call a handler of the application in the middle of it."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        client = connect()
        assert client.present(key) is True
        send, done = server.io.emit, []

        def emit(*args: Any, **options: Any) -> None:
            if not done:
                thread = threading.Thread(target=lambda: done.append(manager.deleteSession(other)))
                thread.start()
                thread.join(30)
            send(*args, **options)

        monkeypatch.setattr(server.io, "emit", emit)
        manager.deleteSession(key)
        assert done == [True]
        assert client.heard(server) == ["logout"]

    def test_no_lock_while_asking(self, manager, server, connect):
        """The manager is asked without a lock: a listener to `error` may need another thread of the server."""
        key = manager.loadNewSession("Luca")
        stranger, client = connect(), connect()
        answers: list[object] = []

        def listener(error: Exception, details: Any) -> None:
            thread = threading.Thread(target=lambda: answers.append(client.present(key)))
            thread.start()
            thread.join(30)

        manager.once("error", listener)
        assert stranger.present("unknown") is False
        assert answers == [True]


class TestLog:
    def test_no_lock_while_logging(self, manager, monkeypatch):
        """No lock is held while the server writes to its log: a handler locks too, and may ask the manager."""

        class Handler(logging.Handler):
            """Asks the manager at each line, and takes its time for one that says so."""

            is_busy, may_go_on = threading.Event(), threading.Event()

            def emit(self, record: logging.LogRecord) -> None:
                if record.getMessage() == "slow":
                    self.is_busy.set()
                    assert self.may_go_on.wait(30)
                manager.getLoggedUsers()

        logger = logging.Logger("of the server", logging.INFO)
        logger.addHandler(handler := Handler())
        server = Server(logger=logger)
        detach = server.attach(manager)
        monkeypatch.setattr(server.io.manager, "is_connected", lambda sid, namespace: True)
        server.io.manager.basic_enter_room("a client", "/", None, eio_sid="its connection")
        key = manager.loadNewSession("Luca")

        def join_and_leave() -> None:
            server.io.handlers["/"]["session_key"]("a client", key)
            manager.renewSessionKey(key)
            detach()

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
        server.stop()


class TestRenewal:
    @on_every_server
    def test_clients_stay(self, manager, clock, server, connect):
        """The clients of a session whose key is renewed stay, and get one logout at its end, however it ends."""
        tabs = [connect(), connect()]
        for name, end in ENDS.items():
            for overlap in (0, 10):
                old = manager.loadNewSession("Luca")
                assert [tab.present(old) for tab in tabs] == [True, True]
                clock.turn(1000)
                new = manager.renewSessionKey(old, overlap)
                assert [tab.heard(server) for tab in tabs] == [[], []]
                assert session_rooms(server) == {new}
                end(manager, clock, new)
                assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]], (name, overlap)
                assert session_rooms(server) == set()
                manager.deleteAllSessions()

    @on_every_server
    def test_room(self, manager, server, connect):
        """They are in the room of the new key alone, and so is a client that joins under the old one."""
        old = manager.loadNewSession("Luca")
        tabs = [connect(), connect()]
        assert tabs[0].present(old) is True
        new = manager.renewSessionKey(old, 10)
        assert tabs[1].present(old) is True
        assert session_rooms(server) == {new}
        server.emit("private", to=new)
        assert [tab.heard(server) for tab in tabs] == [["private"], ["private"]]
        server.emit("private", to=old)
        assert [tab.heard(server) for tab in tabs] == [[], []]
        assert [tabs[0].present(key) for key in (new, old)] == [True, True]  # and joins again
        manager.deleteSession(new)
        assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]]

    def test_after_the_overlap(self, manager, clock, server, connect):
        """After the overlap the old key is refused; a client that had joined under it hears of the end once."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, 10)
        client, late = connect(), connect()
        assert client.present(old) is True
        clock.turn(10)
        assert late.present(old) is False
        assert late.heard(server) == ["logout"]
        manager.deleteSession(new)
        assert (client.heard(server), late.heard(server)) == (["logout"], [])

    @on_every_server
    def test_again_and_again(self, manager, server, connect):
        """A session that is renewed again and again has its clients in the room of the last key."""
        keys = [manager.loadNewSession("Luca")]
        tabs = []
        for _ in range(3):
            tabs.append(connect())
            assert tabs[-1].present(keys[0]) is True
            keys.append(manager.renewSessionKey(keys[-1], 10))
            assert session_rooms(server) == {keys[-1]}
        tabs.append(connect())
        assert tabs[-1].present(keys[1]) is True
        server.emit("private", to=keys[-1])
        manager.sendLogoutMessage(keys[2])
        assert [tab.heard(server) for tab in tabs] == [["private", "logout"]] * 4
        manager.deleteSession(keys[-1])
        assert [tab.heard(server) for tab in tabs] == [["logout"]] * 4
        assert session_rooms(server) == set()

    @on_every_server
    @in_every_store
    @pytest.mark.parametrize("overlap", [0, 10])
    def test_between_two_checks(self, manager, clock, server, connect, monkeypatch, overlap):
        """A client whose key is renewed between its two checks is in the room of the new key, with all others."""
        old = manager.loadNewSession("Luca")
        tab, client = connect(), connect()
        assert tab.present(old) is True
        find, renewed = manager.getSession, []

        def first_check(key: str) -> Any:
            session = find(key)
            if not renewed:
                renewed.append(manager.renewSessionKey(key, overlap))
            return session

        monkeypatch.setattr(manager, "getSession", first_check)
        assert client.present(old) is True  # at the first check the key was good
        monkeypatch.undo()
        (new,) = renewed
        for _ in range(2):
            assert session_rooms(server) == {new}
            server.emit("private", to=new)
            assert [tab.heard(server), client.heard(server)] == [["private"], ["private"]]
            clock.turn(0)  # a notice of the renewal, if there is one, comes after all this
        manager.deleteSession(new)
        clock.turn(0)
        assert [tab.heard(server), client.heard(server)] == [["logout"], ["logout"]]

    @on_every_server
    @in_every_store
    def test_after_the_second_check(self, manager, clock, server, connect, monkeypatch):
        """A renewal after the second check, but before the client is moved to the key that was found, is no loss."""
        keys = [manager.loadNewSession("Luca")]
        client = connect()
        check, present = manager.getSession, manager.presentKeys

        def renew_after(ask: Callable[..., Any]) -> Callable[..., Any]:
            def asked(what: Any) -> Any:
                answer = ask(what)
                if len(keys) < 4:
                    keys.append(manager.renewSessionKey(keys[-1], 10))
                return answer

            return asked

        monkeypatch.setattr(manager, "getSession", renew_after(check))
        monkeypatch.setattr(manager, "presentKeys", renew_after(present))
        assert client.present(keys[0]) is True
        monkeypatch.undo()
        assert len(keys) >= 3
        assert session_rooms(server) == {keys[-1]}
        clock.turn(0)
        assert session_rooms(server) == {keys[-1]}
        manager.deleteSession(keys[-1])
        clock.turn(0)
        assert client.heard(server) == ["logout"]

    def test_end_waits_for_the_move(self, manager, server, connect, monkeypatch):
        """An end does not come between the check of a client and its way into the room."""
        client, key = connect(), manager.loadNewSession("Luca")
        assert client.present(key) is True
        enter, ending = server.io.manager.basic_enter_room, threading.Thread(target=manager.deleteAllSessions)

        def enter_late(*args: Any, **options: Any) -> None:
            ending.start()
            ending.join(0.2)  # it has to wait, so there is no other way to see that it does
            enter(*args, **options)

        monkeypatch.setattr(server.io.manager, "basic_enter_room", enter_late)
        manager.renewSessionKey(key)
        ending.join(30)
        assert client.heard(server) == ["logout"]
        assert session_rooms(server) == set()

    @on_every_server
    def test_unreachable_store(self, manager, clock, server, connect, monkeypatch):
        """While the store is unreachable its clients move too, and get no message that might be wrong."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        for method in ("findSession", "getSession", "presentKeys"):
            monkeypatch.setattr(manager, method, fail)
        key = manager.renewSessionKey(key)
        assert session_rooms(server) == {key}
        monkeypatch.setattr(clock.store, "get", fail)
        with pytest.raises(StoreUnavailable):
            manager.sendLogoutMessage(key)
        assert client.heard(server) == []

    @pytest.mark.parametrize("overlap", [0, 10])
    def test_wrong_order(self, manager, server, connect, overlap):
        """If renewals are announced in the wrong order, the clients are in the room of the last key."""
        overlaps: list[Any] = []

        def renew_again(_: str, new: str) -> None:
            if overlaps:
                overlaps.append(manager.renewSessionKey(new, overlaps.pop()))

        manager.on("sessionRenewed", renew_again)  # the hook hears of the inner renewal first
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        overlaps.append(overlap)
        manager.renewSessionKey(old)
        last = overlaps.pop()
        server.emit("private", to=last)
        assert client.heard(server) == ["private"]
        assert session_rooms(server) == {last}
        manager.deleteSession(last)
        assert client.heard(server) == ["logout"]

    @on_loop
    def test_end_at_once(self, manager, clock, server, connect):
        """A renewal that is followed at once by the end, each on the loop or on another thread."""
        tabs = [connect(), connect()]
        places: list[Callable[[Any], Any]] = [server.call, lambda call: call()]
        ends = {name: ENDS[name] for name in ("expires", "deleteSession")}
        ends["sendLogoutMessage"] = lambda manager, clock, key: manager.sendLogoutMessage(key)
        for renewed, ended, name, overlap in itertools.product(places, places, ends, (0, 10)):
            key = manager.loadNewSession("Luca")
            assert [tab.present(key) for tab in tabs] == [True, True]
            clock.turn(1000)

            def renew(key: str = key, overlap: float = overlap) -> str:
                return manager.renewSessionKey(manager.renewSessionKey(key, overlap), overlap)

            def finish(key: str, end: Callable[..., Any] = ends[name]) -> None:
                end(manager, clock, key)

            if renewed is ended is server.call:  # with no turn of the loop in between
                server.call(lambda finish=finish, renew=renew: finish(renew()))
            else:
                new = renewed(renew)
                ended(lambda finish=finish, new=new: finish(new))
            assert [tab.heard(server) for tab in tabs] == [["logout"], ["logout"]], (name, overlap)
            assert len(session_rooms(server)) == (1 if name == "sendLogoutMessage" else 0)
            manager.deleteAllSessions()
            assert {word for tab in tabs for word in tab.heard(server)} <= {"logout"}


class TestRaces:
    """Each client gets one logout, be it for the refusal or for the end, and none stays in a room."""

    @on_every_server
    @over_both_transports
    def test_join_and_end(self, manager, server, connect):
        """Clients join while the session ends."""
        clients = [connect() for _ in range(4)]
        with ThreadPoolExecutor(len(clients)) as threads:
            for _ in range(ROUNDS // 2):
                key, barrier = manager.loadNewSession("Luca"), threading.Barrier(len(clients) + 1)

                def join(client: Client, key: str = key, barrier: threading.Barrier = barrier) -> object:
                    barrier.wait(30)
                    return client.present(key)

                answers = [threads.submit(join, client) for client in clients]
                barrier.wait(30)
                manager.deleteSession(key)
                assert len([answer.result(30) for answer in answers]) == len(clients)
                assert [client.heard(server) for client in clients] == [["logout"]] * len(clients)

    @on_every_server
    def test_join_and_renewal(self, manager, server, connect):
        """Clients join while the key is renewed three times."""
        clients = [connect() for _ in range(3)]
        with ThreadPoolExecutor(len(clients) + 1) as threads:
            for number in range(ROUNDS):
                key, barrier = manager.loadNewSession("Luca"), threading.Barrier(len(clients) + 1)

                def join(client: Client, key: str = key, barrier: threading.Barrier = barrier) -> object:
                    barrier.wait(30)
                    return client.present(key)

                def renew(
                    key: str = key, barrier: threading.Barrier = barrier, overlap: float = (0, 10, 10)[number % 3]
                ) -> str:
                    barrier.wait(30)
                    for _ in range(3):
                        key = manager.renewSessionKey(key, overlap)
                    return key

                answers = [threads.submit(join, client) for client in clients]
                key = threads.submit(renew).result(60)
                joined = [answer.result(60) for answer in answers]
                assert [client.heard(server) for client in clients] == [[] if yes else ["logout"] for yes in joined]
                assert all(joined) or number % 3 == 0
                assert session_rooms(server) == ({key} if any(joined) else set())
                manager.deleteSession(key)
                assert [client.heard(server) for client in clients] == [["logout"] if yes else [] for yes in joined]
                assert session_rooms(server) == set()

    @on_every_server
    def test_join_renewal_and_end(self, manager, server, connect):
        """Clients join while the key is renewed and the session ends."""

        def renew(key: str, overlap: float) -> None:
            with suppress(SessionRejected):  # the end may come first
                manager.renewSessionKey(key, overlap)

        clients = [connect() for _ in range(3)]
        with ThreadPoolExecutor(len(clients) + 2) as threads:
            for number in range(ROUNDS):
                key = manager.loadNewSession("Luca")
                assert clients[0].present(key) is True
                barrier = threading.Barrier(len(clients) + 1)

                def act(action: Callable[..., Any], *args: Any, barrier: threading.Barrier = barrier) -> Any:
                    barrier.wait(30)
                    return action(*args)

                acts = [threads.submit(act, client.present, key) for client in clients[1:]]
                acts.append(threads.submit(act, renew, key, 10 * (number % 2)))
                acts.append(threads.submit(act, manager.deleteUserSessions, "Luca"))
                assert [act.result(60) for act in acts][-1] == 1
                assert [client.heard(server) for client in clients] == [["logout"]] * 3
                assert session_rooms(server) == set()


class TestExpiring:
    @on_every_server
    @over_both_transports
    def test_reaches_its_clients(self, manager, clock, server, connect):
        """A warning reaches the clients of that session, under whatever key they have joined, and no others."""
        manager.setExpiryWarning(60)
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Luca", timeout=5000)
        tabs = [connect(), connect()]
        other_client, stranger = connect(), connect()
        assert (tabs[0].present(key), other_client.present(other)) == (True, True)
        manager.renewSessionKey(key, 10)
        assert tabs[1].present(key) is True
        clock.turn(2939)
        assert [tab.heard(server) for tab in tabs] == [[], []]
        clock.turn(11)
        for tab in tabs:
            ((word, left),) = tab.heard(server)
            assert (word, left, type(left) in (int, float)) == ("session_expiring", 50, True)
        assert other_client.heard(server) == stranger.heard(server) == []

    def test_once_a_countdown(self, manager, clock, server, connect):
        """It comes once a countdown, and again after a restart."""
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


class TestQueue:
    """A message queue that the application has for messages of its own carries none of ours."""

    @on_queue
    def test_own_messages(self, manager, server, connect):
        """A message of the application to the room of a session, or its closing, still goes through the queue."""
        key, client = manager.loadNewSession("Luca"), connect()
        assert client.present(key) is True
        server.emit("private", to=key)
        assert client.heard(server) == ["private"]
        (sent, _mark) = server.io.manager.published
        assert (sent["method"], sent["event"], sent["room"]) == ("emit", "private", key)

    @on_queue
    def test_detach(self, manager, server, attached, connect):
        """Detached, it takes its own clients out of the rooms, and asks no other process to do so."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        attached()
        assert session_rooms(server) == set()
        assert server.io.manager.published == []

    def test_loop(self, manager):
        """So it is on an event loop."""

        class LoopQueue(socketio.async_pubsub_manager.AsyncPubSubManager):
            async def _publish(self, data: Any) -> None:
                published.append(data)

            async def _listen(self) -> Any:
                yield  # it is never asked

        published: list[Any] = []
        server = LoopServer(client_manager=LoopQueue(write_only=True))
        detach = server.attach(manager)
        client, key = Client(server.address), manager.loadNewSession("Luca")
        assert client.present(key) is True
        key = manager.renewSessionKey(key)
        manager.sendLogoutMessage(key)
        manager.deleteSession(key)
        server.settle()
        assert published == []
        assert client.heard(server) == ["logout", "logout"]
        assert [data["event"] for data in published] == ["mark"]
        client.leave()
        detach()
        server.stop()


class TestJoinDuringTheEnd:
    @pytest.mark.parametrize("server", ["threads", "with_queue"], indirect=True)
    def test_joins_while_others_are_notified(self, manager, server, connect, monkeypatch):
        """A client that joins while the others are notified is in no room, and gets one logout."""
        key = manager.loadNewSession("Luca")
        client, tab = connect(), connect()
        assert tab.present(key) is True
        emit, find, check = server.io.emit, manager.presentKeys, manager.getSession
        is_sending, has_joined, all_notified = threading.Event(), threading.Event(), threading.Event()
        rooms: list[set[str]] = []

        def emit_later(*args: Any, to: Any, **options: Any) -> None:
            if to == tab.sid:
                is_sending.set()
                assert has_joined.wait(30)
            emit(*args, to=to, **options)

        def end() -> None:
            manager.deleteSession(key)
            all_notified.set()

        ending = threading.Thread(target=end)

        def first_check(key: str) -> Any:
            session = check(key)
            ending.start()
            assert is_sending.wait(30)
            return session

        def second_check(ids: list[Any]) -> Any:
            rooms.append(session_rooms(server))
            has_joined.set()
            assert all_notified.wait(30)
            return find(ids)

        monkeypatch.setattr(manager, "getSession", first_check)
        monkeypatch.setattr(server.io, "emit", emit_later)
        monkeypatch.setattr(manager, "presentKeys", second_check)
        assert client.present(key) is False
        ending.join(30)
        monkeypatch.undo()
        assert (client.heard(server), tab.heard(server)) == (["logout"], ["logout"])
        assert rooms == [set()] == [session_rooms(server)]


@pytest.mark.parametrize("server", ["threads", "loop"], indirect=True)
class TestOnRedis:
    """Wherever a session ends, its clients hear of it in the process that they are connected to, with no queue."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"{secrets.token_hex(8)}:"

    @pytest.fixture
    def manager(self, redis_url: str, prefix: str) -> SessionManager:
        """A manager with the threads of its store, whose server has no message queue."""
        redis_store = pytest.importorskip("users_session_manager.stores.redis")
        return SessionManager(store=redis_store.RedisStore.from_url(redis_url, prefix=prefix))

    @pytest.fixture
    def elsewhere(self, redis_url: str, prefix: str) -> Callable[..., str]:
        """Run statements with `manager` and `key` in another process, which has no server; return what it prints."""

        def elsewhere(statements: str, key: str) -> str:
            done = run(f"{ELSEWHERE}\n{statements}\nmanager.close()", redis_url, prefix, key)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout.strip()

        return elsewhere

    @pytest.mark.parametrize(
        ("end", "reason"),
        [
            ("manager.deleteSession(key)", "deleted"),
            ("manager.deleteAllSessions()", "deleted"),
            ("assert manager.deleteUserSessions('Luca') == 1", "deleted"),
            ("manager.setMaxSessionsPerUser(1); manager.loadNewSession('Luca')", "evicted"),
            ("manager.deleteSession(manager.renewSessionKey(key))", "deleted"),
            (
                "manager.setMaxSessionLifetime(2)\nwith suppress(SessionRejected): manager.restartSessionTimer(key)",
                "expired",
            ),
        ],
    )
    def test_end_elsewhere(self, manager, server, connect, elsewhere, end, reason):
        """A session that another process ends is a logout for each of its clients here, and for no other."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        tabs, stranger = [connect(), connect()], connect()
        assert [tab.present(key) for tab in tabs] == [True, True]
        assert stranger.present(other) is True
        elsewhere(end, key)
        assert [tab.words.get(timeout=30) for tab in tabs] == ["logout", "logout"]
        assert [tab.heard(server) for tab in tabs] == [[], []]
        assert [tab.reasons for tab in tabs] == [[{"reason": reason}]] * 2
        assert stranger.heard(server) == (["logout"] if "deleteAllSessions" in end else [])
        assert key not in session_rooms(server)

    def test_message_elsewhere(self, manager, server, connect, elsewhere):
        """A message that another process sends is a logout, under any key of the session, which goes on."""
        old = manager.loadNewSession("Luca")
        client, stranger = connect(), connect()
        assert client.present(old) is True
        new = manager.renewSessionKey(old, 60)
        for key in (new, old):
            assert elsewhere("print(manager.sendLogoutMessage(key))", key) == "False"  # it has no socket reference
            assert client.words.get(timeout=30) == "logout"
        assert (client.heard(server), stranger.heard(server)) == ([], [])
        assert manager.checkSessionStatus(new)
        elsewhere("manager.sendLogoutMessage('unknown')", new)
        manager.deleteSession(new)
        assert client.words.get(timeout=30) == "logout"
        assert client.heard(server) == []

    def test_warning_elsewhere(self, manager, server, connect, elsewhere):
        """A warning whose countdown another process has started reaches the clients, once."""
        key, other = manager.loadNewSession("Luca", timeout=60), manager.loadNewSession("Luca", timeout=60)
        client, stranger = connect(), connect()
        assert (client.present(key), stranger.present(other)) == (True, True)
        elsewhere("manager.setExpiryWarning(90); manager.restartSessionTimer(key)", key)
        word, left = client.words.get(timeout=30)
        assert (word, 0 < left <= 60) == ("session_expiring", True)
        assert (client.heard(server), stranger.heard(server)) == ([], [])

    def test_renewal_elsewhere(self, manager, server, connect, elsewhere):
        """The clients move to the room of a key that another process has made, and hear nothing of that."""
        old = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(old) is True
        new = elsewhere("print(manager.renewSessionKey(manager.renewSessionKey(key)))", old)
        deadline = time.monotonic() + 30
        while session_rooms(server) != {new}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.emit("private", to=new)
        assert client.heard(server) == ["private"]
        late = connect()
        assert (late.present(old), late.present(new)) == (False, True)
        assert late.heard(server) == ["logout"]
        elsewhere("manager.deleteSession(key)", new)
        assert [each.words.get(timeout=30) for each in (client, late)] == ["logout", "logout"]
        assert [each.heard(server) for each in (client, late)] == [[], []]

    def test_lost_notice(self, manager, server, connect, redis_url, prefix):
        """A session of which no notice has come, since it was lost, is a logout within a few seconds all the same."""
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        clients = [connect(), connect()]
        assert [client.present(key) for client, key in zip(clients, keys, strict=True)] == [True, True]
        with pytest.importorskip("redis").Redis.from_url(redis_url) as redis:
            assert redis.delete(
                *[name for name in redis.scan_iter(f"{prefix}*:s:*") if redis.hget(name, "n") == b"Luca"]
            )
        assert clients[0].words.get(timeout=30) == "logout"
        assert [client.heard(server) for client in clients] == [[], []]
        assert session_rooms(server) == {keys[1]}

    def test_reference(self, manager, server, connect, elsewhere):
        """`notifyClientToLogout` is emitted here too: once for each end but `deleteSession`, as in npm."""
        messages: queue.Queue[tuple[object, str]] = queue.Queue()
        manager.on("notifyClientToLogout", lambda *args: messages.put(args))
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio", "Gino")]
        client = connect()
        assert client.present(keys[0]) is True
        assert manager.sendLogoutMessage(keys[0]) is True
        assert messages.get(timeout=30) == (server.io, keys[0])
        elsewhere("manager.deleteSession(key); manager.deleteUserSessions('Fabio')", keys[0])
        assert messages.get(timeout=30) == (server.io, keys[1])
        elsewhere("manager.sendLogoutMessage(key)", keys[2])
        assert messages.get(timeout=30) == (server.io, keys[2])
        assert messages.empty()
        assert client.heard(server) == ["logout", "logout"]

    def test_detached(self, manager, server, attached, connect, elsewhere):
        """Once detached, clients hear nothing; attached again, new ones do."""
        key = manager.loadNewSession("Luca")
        client = connect()
        assert client.present(key) is True
        attached()
        elsewhere("manager.sendLogoutMessage(key)", key)
        detach = server.attach(manager)
        assert client.heard(server) == []
        assert client.present(key) is True
        elsewhere("manager.deleteSession(key)", key)
        assert client.words.get(timeout=30) == "logout"
        assert client.heard(server) == []
        detach()

    def test_stopped_in_between(self, manager, server, connect, elsewhere):
        """After `stop` a client that joins starts again what it needs."""
        keys = [manager.loadNewSession("Luca") for _ in range(2)]
        clients = [connect(), connect()]
        assert clients[0].present(keys[0]) is True
        manager.stop()
        assert clients[1].present(keys[1]) is True
        elsewhere("manager.deleteUserSessions('Luca')", keys[0])
        assert [client.words.get(timeout=30) for client in clients] == ["logout", "logout"]
        assert [client.heard(server) for client in clients] == [[], []]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
class TestFork:
    @pytest.mark.parametrize("server", ["threads", "loop", "with_queue"], indirect=True)
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_child_sends_nothing(self, manager, server, connect):
        """The clients stay the parent's: a child that ends their session in its copy of the memory sends nothing."""
        key, client = manager.loadNewSession("Luca"), connect()
        assert client.present(key) is True
        pid = os.fork()
        if pid == 0:
            status = 99
            with suppress(BaseException):
                sent: list[object] = []
                server.io.emit = lambda *args, **options: sent.append(args)
                if isinstance(server, LoopServer):
                    # It would wake the loop of the parent, which shares the pipe for that.
                    server._loop.call_soon_threadsafe = lambda *args, **options: sent.append(args)
                for act in (manager.renewSessionKey, manager.sendLogoutMessage):
                    act(key)
                manager.deleteAllSessions()
                status = len(sent)
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.heard(server) == []
        assert session_rooms(server) == {key}
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]


def test_emptied_environ(manager):
    """The cookie of the handshake is known also on a server that empties the environment of each request, as uWSGI."""

    def emptying(environ: Any, start_response: Any) -> Any:
        yield from application(environ, start_response)
        environ.clear()

    server = Server(allow_upgrades=False)
    application, server._http.app = server._http.app, emptying
    detach = attach(manager, server.io, cookie="sid")
    client = Client(server.address, "polling", cookie=f"sid={manager.loadNewSession('Luca')}")
    try:
        assert client.present() is True
    finally:
        client.leave()
        detach()
        server.stop()


def flask_sessions(manager: SessionManager) -> Any:
    flask = pytest.importorskip("flask")
    from users_session_manager.integrations.flask import UserSessions

    sessions = UserSessions(manager=manager)
    with pytest.raises(SessionError, match="init_app"):
        sessions.attach(object())  # it has no cookie yet
    app = flask.Flask(__name__)
    app.config["USER_SESSIONS_COOKIE"] = "login"
    sessions.init_app(app)
    return sessions


def fastapi_sessions(manager: SessionManager) -> Any:
    pytest.importorskip("fastapi")
    from users_session_manager.integrations.fastapi import UserSessions

    return UserSessions(manager, cookie="login")


@on_every_server
@pytest.mark.parametrize("sessions_of", [flask_sessions, fastapi_sessions])
class TestIntegrations:
    @pytest.fixture
    def attached(self, manager, server, sessions_of):
        detach = server.call(lambda: sessions_of(manager).attach(server.io))
        yield detach
        detach()

    @pytest.mark.usefixtures("sessions_of")
    def test_own_cookie(self, manager, server, connect):
        """The object of an integration knows the name of its cookie, and its prefix."""
        manager.on("error", lambda *_: None)
        key = manager.loadNewSession("Luca")
        clients = {name: connect(cookie=f"{name}={key}") for name in ("__Host-login", "login", "__Host-session_key")}
        assert [clients[name].present() for name in clients] == [True, False, False]
        manager.deleteSession(key)
        assert clients["__Host-login"].heard(server) == ["logout"]
        assert manager.getSocketReference() is server.io


def test_several_cookie_headers(manager):
    """Over HTTP/2 browsers send each cookie in a header of its own, which some ASGI servers pass on as they are."""
    server = LoopServer()
    detach = server.attach(manager, cookie="sid")
    key = manager.loadNewSession("Luca")
    try:
        with closing(HTTPConnection(server.address.removeprefix("http://"), timeout=30)) as connection:

            def send(method: str, session: str = "", body: str = "") -> str:
                connection.putrequest(method, f"/socket.io/?EIO=4&transport=polling{session}")
                for cookie in ("a=b", f"sid={key}", "c=d"):
                    connection.putheader("Cookie", cookie)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body.encode())
                return connection.getresponse().read().decode()

            session = "&sid=" + json.loads(send("GET")[1:])["sid"]
            assert send("POST", session, "40") == "OK"
            assert send("GET", session).startswith("40")
            assert send("POST", session, '420["session_key"]') == "OK"
            assert send("GET", session) == "430[true]"
    finally:
        detach()
        server.stop()


@on_every_server
class TestCookie:
    @pytest.fixture
    def attached(self, manager, server):
        detach = server.attach(manager, cookie="sid")
        yield detach
        detach()

    def test_cookie_of_the_handshake(self, manager, server, connect):
        """A key in the cookie of the handshake is enough."""
        key = manager.loadNewSession("Luca")
        client = connect(cookie=f"a=b; sid={key}; c=d")
        assert client.present() is True
        assert client.present({"session_key": None}) is True
        manager.deleteSession(key)
        assert client.heard(server) == ["logout"]

    def test_beside_others(self, manager, server, connect):
        """No other cookie hides it, and its first value counts."""
        others = ('prefs={"dark":true}', "seen[]=1", "a b=c", "flag", 'x="unclosed', "n=1,2", "path=/x", "$Version=1")
        key = manager.loadNewSession("Luca")
        lines = [f"sid={key}; sid=unknown", *(f"{other}; sid={key}" for other in others)]
        for line in (*lines, *(f"sid={key}; {other}" for other in others)):
            assert connect(cookie=line).present() is True
        manager.on("error", lambda *_: None)
        assert connect(cookie=f"sid=unknown; sid={key}").present() is False

    def test_other_cookies(self, manager, server, connect):
        """Another cookie is refused, and a key that is sent comes before the cookie."""
        manager.on("error", lambda *_: None)
        # uvicorn refuses the last one itself.
        cookies = [None, "a=b", "sid=unknown", "sid=", "sid", ";;;", "s\x7fid=x"]
        for cookie in cookies[:-1] if isinstance(server, LoopServer) else cookies:
            client = connect(cookie=cookie)
            assert client.present() is False
            assert client.heard(server) == ["logout"]
        client = connect(cookie=f"sid={manager.loadNewSession('Luca')}")
        assert client.present("unknown") is False


class TestAttaching:
    def test_socket_reference(self, manager, server, attached):
        """The server becomes the socket reference."""
        assert manager.getSocketReference() is server.io

    @on_every_server
    def test_detach(self, manager, clock, server, attached, connect):
        """Detached, it notifies no client, leaves nothing in rooms and listeners, and can be attached again."""
        client = connect()
        manager.setExpiryWarning(60)
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        assert session_rooms(server) == {key}
        attached()
        attached()
        assert session_rooms(server) == set()
        key = manager.renewSessionKey(key)
        clock.turn(2950)
        manager.deleteSession(key)
        assert client.heard(server) == []
        assert manager.getSocketReference() is None
        for event in ("notifyClientToLogout", "sessionExpiring", "sessionRenewed", "sessionEnded"):
            assert manager.listeners(event) == []
        server.attach(manager)()

    def test_detach_without_listeners(self, manager, server, attached):
        """It can be detached after the application has removed all listeners."""
        manager.remove_all_listeners()
        attached()
        server.attach(manager)()

    def test_detach_leaves_other_reference(self, manager, attached):
        """Detached, it leaves another socket reference alone."""
        other = object()
        manager.initSocketReference(other)
        attached()
        assert manager.getSocketReference() is other

    def test_twice(self, manager, server, attached):
        """A server is attached once."""
        with pytest.raises(SessionError, match="already"):
            server.attach(manager)

    def test_namespace(self, manager, server):
        """It can have a namespace of its own."""
        detach = server.attach(manager, namespace="/logins")
        client = new_client()
        words: queue.Queue[str] = queue.Queue()
        client.on("logout", lambda *_: words.put("logout"), namespace="/logins")
        client.connect(server.address, transports=["polling"], namespaces=["/logins"], wait_timeout=30)
        key = manager.loadNewSession("Luca")
        assert client.call("session_key", key, namespace="/logins", timeout=30) is True
        manager.deleteSession(key)
        assert words.get(timeout=30) == "logout"
        client.disconnect()
        detach()

    def test_wrong_server(self, manager):
        """A server that cannot deliver is refused."""
        for wrong in (object(), socketio.Client(), None):
            with pytest.raises(TypeError, match=r"must be a socketio\.Server"):
                attach(manager, wrong)
            assert manager.getSocketReference() is None

    def test_queue_alone(self, manager):
        """A message queue without a server is refused, with the reason: a process without a server needs no hook."""
        with pytest.raises(TypeError, match="got Queue; a process without a server needs no attach"):
            attach(manager, Queue())
        assert manager.getSocketReference() is None

    def test_real_clock(self, server):
        """The timer of a session runs on the real clock too."""
        store = MemoryStore()
        manager = SessionManager(store=store)
        detach = server.attach(manager)
        client = Client(server.address)
        key = manager.loadNewSession("Luca")
        assert client.present(key) is True
        store.restart(key, 0.01)
        assert client.words.get(timeout=30) == "logout"
        client.leave()
        detach()

    def test_closed_loop(self, manager, caplog):
        """A loop that has closed is no crash: the clients have gone with it."""
        errors: list[Exception] = []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))

        async def application() -> Any:
            return attach(manager, socketio.AsyncServer(async_mode="asgi"))

        detach = asyncio.run(application())
        manager.sendLogoutMessage(manager.loadNewSession("Luca"))
        assert manager.deleteAllSessions() is True
        assert errors == []
        assert "loop has closed" in caplog.text
        detach()

    def test_another_loop(self, manager, monkeypatch):
        """Work that a stopped loop has not begun is dropped once clients come on another one."""
        io = socketio.AsyncServer(async_mode="asgi")
        loop = asyncio.new_event_loop()

        async def application() -> Any:
            return attach(manager, io)

        detach = loop.run_until_complete(application())
        manager.deleteSession(manager.loadNewSession("Luca"))  # the loop does not run any more, nor has it closed
        notifier, sent = manager._watchers[0], []

        async def send(clients: list[str], event: str, data: Any = None) -> None:
            sent.append((clients, event))

        monkeypatch.setattr(notifier, "_send", send)
        monkeypatch.setattr(notifier.registry, "add", lambda sid, session_id, key: False)  # no client is connected

        async def another() -> None:
            key = manager.loadNewSession("Fabio")
            await notifier.join("sid", key)
            await asyncio.to_thread(manager.deleteSession, key)
            await asyncio.sleep(0)

        asyncio.run(another())
        assert sent == [([], "logout")]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert sent == [([], "logout")]
        detach()

    def test_many_at_once(self, manager):
        """Many ends wake the loop once: 1,500 clients would otherwise get their logouts late."""
        woken: list[Any] = []

        async def application() -> None:
            detach = attach(manager, socketio.AsyncServer(async_mode="asgi"))
            loop = asyncio.get_running_loop()
            wake = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *args, **options: woken.append(args) or wake(*args, **options)
            for _ in range(100):
                manager.loadNewSession("Luca")
            manager.deleteAllSessions()
            await asyncio.sleep(0)
            manager.deleteSession(manager.loadNewSession("Luca"))
            detach()

        asyncio.run(application())
        assert len(woken) == 2

    def test_no_loop(self, manager):
        """Without a loop an `AsyncServer` has no client to notify."""
        errors: list[Exception] = []
        manager.on("listenerFailed", lambda error, event, listener: errors.append(error))
        detach = attach(manager, socketio.AsyncServer(async_mode="asgi"))
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert errors == []
        detach()

    @on_loop
    def test_failure_on_the_loop(self, manager, server, connect, caplog, monkeypatch):
        """A failure to send on the loop is in the log."""
        key, client = manager.loadNewSession("Luca"), connect()
        assert client.present(key) is True

        async def fails(*args: Any, **options: Any) -> None:
            raise ZeroDivisionError(key)

        monkeypatch.setattr(server.io, "emit", fails)
        manager.deleteSession(key)
        server.settle()
        monkeypatch.undo()
        assert session_rooms(server) == set()
        assert "A logout could not be sent" in caplog.text
        assert "ZeroDivisionError" in caplog.text
