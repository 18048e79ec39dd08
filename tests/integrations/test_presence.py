"""Presence, on real servers with real clients."""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("socketio")
from interpreter import run
from socketio_servers import Client, serving
from waiting import eventually

from users_session_manager import MemoryStore, SessionError, SessionManager, StoreUnavailable
from users_session_manager.integrations.socketio import SIGNED_IN_ROOM, attach, presence
from users_session_manager.testing.isolation import isolated

THREAD = "users-session-manager presence"

ELSEWHERE = """
import sys
from users_session_manager import SessionManager
from users_session_manager.stores.redis import RedisStore

url, prefix, *keys = sys.argv[1:]
manager = SessionManager(store=RedisStore.from_url(url, prefix=prefix, timeout=30))
"""
"""How a program of another process begins."""


class Page(Client):
    """A client that does with `presence` what a page does."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.online: set[str] = set()
        self.messages: list[dict[str, Any]] = []
        self.io.on("presence", self._heard)
        self.io.on("news", lambda *_: self.words.put("news"))

    def _heard(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["all"]:
            self.online.clear()
        self.online.update(message["came"])
        self.online.difference_update(message["went"])

    def ask(self, *data: object) -> object:
        return self.io.call("presence", *data, timeout=30)

    def names(self, kind: str) -> list[str]:
        """Return the names of all changes of a kind, in their order."""
        return [name for message in self.messages if not message["all"] for name in message[kind]]


@pytest.fixture(params=["threads", "loop"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(8)}:"


@pytest.fixture
def manager(store_kind: str, prefix: str, request: pytest.FixtureRequest) -> SessionManager:
    """A manager with the threads of its store."""
    if store_kind == "memory":
        return SessionManager()
    redis_store = pytest.importorskip("users_session_manager.stores.redis")
    return SessionManager(store=redis_store.RedisStore.from_url(request.getfixturevalue("redis_url"), prefix=prefix))


@pytest.fixture
def attached(manager: SessionManager, server: Any) -> Iterator[Callable[[], None]]:
    manager.on("error", lambda error, details: None)
    detach = server.attach(manager)
    yield detach
    detach()
    eventually(lambda: THREAD not in {thread.name for thread in threading.enumerate()})


@pytest.fixture
def present(manager: SessionManager, server: Any, attached: Any) -> Callable[[], None]:
    return server.call(lambda: presence(manager, server.io))


@pytest.fixture
def connect(server: Any, attached: Any) -> Iterator[Callable[[], Page]]:
    pages: list[Page] = []

    def connect() -> Page:
        pages.append(Page(server.address))
        return pages[-1]

    yield connect
    for page in pages:
        server.remove(page)


@pytest.fixture
def sign_in(manager: SessionManager, connect: Any) -> Callable[[str], tuple[str, Page]]:
    """A callable that signs a user in; it returns the key and a page that has the list."""

    def sign_in(username: str) -> tuple[str, Page]:
        key, page = manager.loadNewSession(username), connect()
        assert page.present(key) is True
        assert page.ask() is True
        eventually(lambda: username in page.online)
        return key, page

    return sign_in


in_every_store = pytest.mark.parametrize("store_kind", ["memory", "redis"])
on_threads = pytest.mark.parametrize("server", ["threads"], indirect=True)


@in_every_store
class TestChanges:
    def test_come_and_go(self, manager, server, present, sign_in):
        """A page gets the list once it asks, then who came and who went; a user with two sessions counts once."""
        other = manager.loadNewSession("Gino")
        _, page = sign_in("Luca")
        assert [message["all"] for message in page.messages] == [True]
        assert page.online == {"Luca", "Gino"}
        keys = [manager.loadNewSession("Fabio") for _ in range(2)]
        eventually(lambda: page.online == {"Luca", "Gino", "Fabio"})
        manager.deleteSession(keys[0])
        manager.loadNewSession("Mia")
        eventually(lambda: "Mia" in page.online)
        manager.deleteSession(keys[1])
        manager.deleteSession(other)
        eventually(lambda: page.online == {"Luca", "Mia"})
        assert page.names("came") == ["Fabio", "Mia"]
        assert sorted(page.names("went")) == ["Fabio", "Gino"]
        assert page.heard(server) == []

    def test_without_asking(self, manager, present, connect, sign_in):
        """A page that does not ask gets the changes alone; asked again, the list comes again."""
        sign_in("Luca")
        key, page = manager.loadNewSession("Mia"), connect()
        assert page.present(key) is True
        manager.loadNewSession("Fabio")
        eventually(lambda: "Fabio" in page.online)
        assert not any(message["all"] for message in page.messages)
        for _ in range(2):
            page.messages.clear()
            assert page.ask({"any": "thing"}) is True
            eventually(lambda: any(message["all"] for message in page.messages))
            assert page.online == {"Luca", "Mia", "Fabio"}

    @on_threads
    def test_renewal(self, manager, present, sign_in):
        """A new key is no change, and its page goes on hearing."""
        key, page = sign_in("Luca")
        manager.renewSessionKey(key)
        manager.loadNewSession("Mia")
        eventually(lambda: "Mia" in page.online)
        assert (page.names("came"), page.names("went")) == (["Mia"], [])

    @on_threads
    def test_expiry(self, manager, present, sign_in):
        """A user whose session expires goes."""
        _, page = sign_in("Luca")
        manager.loadNewSession("Mia", timeout=2)
        eventually(lambda: "Mia" in page.online)
        eventually(lambda: page.online == {"Luca"})

    def test_size_and_pace(self, manager, server, present, sign_in, monkeypatch):
        """However many come and go, a message has 10 KB at most, and there is one in a second at most."""
        key, page = sign_in("Luca")
        emit, sent = server.io.emit, []

        def note(event: str, data: Any = None, **options: Any) -> Any:
            if event == "presence":
                sent.append((time.monotonic(), len(json.dumps([event, data]))))
            return emit(event, data, **options)

        monkeypatch.setattr(server.io, "emit", note)
        begun = time.monotonic()
        names = {f"user {number} of the ænglish test" for number in range(900)}
        for name in names:
            manager.loadNewSession(name)
        eventually(lambda: page.online == {"Luca", *names})
        for name in names:
            manager.deleteUserSessions(name)
        eventually(lambda: page.online == {"Luca"})
        times, sizes = zip(*sent, strict=True)
        assert len(sent) > 6
        assert max(sizes) <= 10_000
        assert len(sent) <= times[-1] - begun + 1
        assert manager.checkSessionStatus(key)


@in_every_store
class TestStrangers:
    def check(self, manager: SessionManager, server: Any, connect: Any, sign_in: Any, seconds: float) -> None:
        stranger, refused, former = connect(), connect(), connect()
        assert refused.present("unknown") is False
        key = manager.loadNewSession("Gino")
        assert former.present(key) is True
        manager.deleteSession(key)
        assert former.words.get(timeout=30) == "logout"
        former.messages.clear()
        _, page = sign_in("Luca")
        assert [each.ask() for each in (stranger, refused, former)] == [False] * 3
        until, count = time.monotonic() + seconds, 0
        while not count or time.monotonic() < until:
            count += 1
            key = manager.loadNewSession("Mia")
            eventually(lambda: page.online == {"Luca", "Mia"})
            manager.sendLogoutMessage(key)
            server.emit("news", to=SIGNED_IN_ROOM)
            manager.deleteSession(key)
            eventually(lambda: page.online == {"Luca"})
        assert page.heard(server) == ["news"] * count
        assert [each.heard(server) for each in (stranger, refused, former)] == [[], ["logout"], []]
        assert stranger.messages == refused.messages == former.messages == []

    def test_hear_nothing(self, manager, server, present, connect, sign_in):
        """Without a session of its own that is live, a client hears of no login, no presence and no end."""
        self.check(manager, server, connect, sign_in, 0)

    @pytest.mark.long
    def test_hear_nothing_in_ten_minutes(self, manager, server, present, connect, sign_in):
        """So it is in ten minutes."""
        self.check(manager, server, connect, sign_in, 600)


@on_threads
class TestShow:
    @pytest.fixture
    def present(self) -> None:
        """Each test has its own."""

    def test_name(self, manager, server, attached, sign_in):
        """The result of `show` is sent, and a session without a name is hidden."""
        presence(manager, server.io, show=lambda session: session.data and session.data["name"])
        key, page = manager.loadNewSession("luca@example.com", data={"name": "Luca"}), None
        manager.loadNewSession("boss@example.com")
        hidden, page = manager.loadNewSession("admin@example.com"), sign_in_as(manager, sign_in)
        assert page.online == {"Luca", "Mia"}
        manager.loadNewSession("fabio@example.com", data={"name": "Fabio"})
        manager.deleteSession(hidden)
        manager.deleteSession(key)
        eventually(lambda: page.online == {"Fabio", "Mia"})
        assert "example.com" not in json.dumps(page.messages)

    @pytest.mark.parametrize("wrong", [5, "x" * 5000, {"name": "Luca"}, ZeroDivisionError])
    def test_failure(self, manager, server, attached, sign_in, caplog, wrong):
        """A session for which `show` fails is hidden, and the log says so once."""

        def show(session: Any) -> Any:
            if session.username == "Mia":
                return "Mia"
            if isinstance(wrong, type):
                raise wrong(session.key)
            return wrong

        presence(manager, server.io, show=show)
        for name in ("Luca", "Fabio"):
            manager.loadNewSession(name)
        page = sign_in_as(manager, sign_in)
        assert page.online == {"Mia"}
        assert len([line for line in caplog.messages if "is not shown" in line]) == 1


def sign_in_as(manager: SessionManager, sign_in: Any) -> Page:
    """Return a page of a user who is shown as Mia."""
    load = manager.loadNewSession
    manager.loadNewSession = lambda username: load(username, data={"name": "Mia"})  # type: ignore[method-assign]
    try:
        return sign_in("Mia")[1]
    finally:
        del manager.loadNewSession


class TestSettingUp:
    def test_nothing_runs_before_a_client(self, manager, server, present, sign_in):
        """There is no thread until the first client has joined, and none once it is detached."""
        manager.loadNewSession("Luca")
        assert THREAD not in {thread.name for thread in threading.enumerate()}
        sign_in("Mia")
        assert THREAD in {thread.name for thread in threading.enumerate()}
        present()
        present()
        eventually(lambda: THREAD not in {thread.name for thread in threading.enumerate()})

    def test_detach(self, manager, server, present, sign_in):
        """Detached, it sends and answers nothing; it can be started again, for clients that have joined before."""
        _, page = sign_in("Luca")
        present()
        page.messages.clear()
        manager.loadNewSession("Mia")
        page.io.emit("presence")
        assert (page.heard(server), page.messages) == ([], [])
        again = server.call(lambda: presence(manager, server.io))
        assert page.ask() is True
        eventually(lambda: page.online == {"Luca", "Mia"})
        again()

    def test_wrong_order(self, manager, server):
        """A server that is not attached, in another namespace or with another manager, is refused."""
        with pytest.raises(SessionError, match=r"call attach\(\) before presence"):
            presence(manager, server.io)
        detach = server.attach(manager)
        with pytest.raises(SessionError, match="namespace '/other'"):
            presence(manager, server.io, namespace="/other")
        detach()
        with pytest.raises(TypeError):
            presence(manager, object())

    def test_twice(self, manager, server, present):
        """A server has it once."""
        with pytest.raises(SessionError, match="already"):
            server.call(lambda: presence(manager, server.io))

    @on_threads
    def test_room(self, manager, server, attached, connect):
        """Without presence too, the clients of all sessions are in one room, as long as their session is live."""
        pages = [connect() for _ in range(3)]
        keys = [manager.loadNewSession(name) for name in ("Luca", "Mia")]
        assert [page.present(key) for page, key in zip(pages, keys, strict=False)] == [True, True]
        manager.renewSessionKey(keys[0])
        server.emit("news", to=SIGNED_IN_ROOM)
        assert [page.heard(server) for page in pages] == [["news"], ["news"], []]
        assert pages[1].present("unknown") is False
        manager.deleteUserSessions("Luca")
        server.emit("news", to=SIGNED_IN_ROOM)
        assert [page.heard(server) for page in pages] == [["logout"], ["logout"], []]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @on_threads
    def test_fork(self, manager, server, present, sign_in):
        """A child has neither the thread nor the clients, and sends nothing."""
        _, page = sign_in("Luca")
        pid = os.fork()
        if pid == 0:
            status = 99
            with suppress(BaseException):
                sent: list[object] = []
                server.io.emit = lambda *args, **options: sent.append(args)
                manager.loadNewSession("Mia")
                status = len(sent) + sum(thread.name == THREAD for thread in threading.enumerate())
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        manager.loadNewSession("Gino")
        eventually(lambda: page.online == {"Luca", "Gino"})

    @on_threads
    def test_isolated(self, manager, present, sign_in):
        """A test that has a store of its own shows no session of another one, and ends none."""
        key, page = sign_in("Luca")
        with isolated(MemoryStore):
            manager.loadNewSession("Mia")
            eventually(lambda: page.online == {"Mia"})
        eventually(lambda: page.online == {"Luca"})
        assert manager.checkSessionStatus(key)

    def test_flask_socketio(self, manager):
        """A `flask_socketio.SocketIO` is as good as its server."""
        flask, flask_socketio = pytest.importorskip("flask"), pytest.importorskip("flask_socketio")
        app = flask.Flask(__name__)
        io = flask_socketio.SocketIO(app, async_mode="threading")
        http = serving.make_server("127.0.0.1", 0, app, threaded=True)
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        detach = attach(manager, io)
        presence(manager, io)
        page = Page(f"http://127.0.0.1:{http.server_port}")
        assert page.present(manager.loadNewSession("Luca")) is True
        assert page.ask() is True
        eventually(lambda: page.online == {"Luca"})
        page.leave()
        detach()
        io.server.shutdown()
        http.shutdown()
        http.server_close()
        thread.join(30)


@pytest.mark.parametrize("store_kind", ["redis"])
class TestOverProcesses:
    @pytest.fixture
    def elsewhere(self, redis_url: str, prefix: str) -> Callable[..., str]:
        """Run statements with `manager` and `keys` in another process, which has no server; return what it prints."""

        def elsewhere(statements: str, *keys: str) -> str:
            done = run(f"{ELSEWHERE}\n{statements}\nmanager.close()", redis_url, prefix, *keys)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout.strip()

        return elsewhere

    def test_elsewhere(self, server, present, sign_in, elsewhere):
        """A login and a logout in another process are shown here."""
        _, page = sign_in("Luca")
        key = elsewhere("print(manager.loadNewSession('Mia'))")
        eventually(lambda: page.online == {"Luca", "Mia"})
        elsewhere("manager.deleteSession(keys[0])", key)
        eventually(lambda: page.online == {"Luca"})

    @on_threads
    def test_within_a_second(self, manager, present, sign_in, redis_url, prefix):
        """Of many logins in another process, most are heard here within a second."""
        _, page = sign_in("Luca")
        heard: queue.Queue[tuple[str, float]] = queue.Queue()
        page.io.on("presence", lambda message: [heard.put((name, time.time())) for name in message["came"]])
        run(
            f"{ELSEWHERE}\nimport time\n"
            "for _ in range(20): manager.loadNewSession(str(time.time())); time.sleep(0.1)\nmanager.close()",
            redis_url,
            prefix,
        )
        late = sorted(at - float(name) for name, at in (heard.get(timeout=30) for _ in range(20)))
        print(f"heard after {late[10]:.2f} s (median), {late[-1]:.2f} s (most)")
        assert late[0] < 1.0

    def test_lost_notices(self, manager, present, sign_in, redis_url, prefix):
        """Notices that were lost with the connection are found once there is a new one."""
        _, page = sign_in("Luca")
        key = manager.loadNewSession("Mia")
        eventually(lambda: page.online == {"Luca", "Mia"})
        with pytest.importorskip("redis").Redis.from_url(redis_url) as redis:
            lost = [name for name in redis.scan_iter(f"{prefix}*:s:*") if redis.hget(name, "n") == b"Mia"]
            assert redis.delete(*lost) == 1  # no notice says so
            redis.client_kill_filter(_type="pubsub")
        eventually(lambda: page.online == {"Luca"})
        assert manager.findSession(key) is None
        manager.loadNewSession("Fabio")
        eventually(lambda: page.online == {"Luca", "Fabio"})

    @on_threads
    def test_unreachable(self, manager, present, sign_in, monkeypatch):
        """While the store is unreachable no name goes; afterwards the pages get what has changed."""
        _, page = sign_in("Luca")
        asked = threading.Event()

        def fail(*_: Any) -> Any:
            asked.set()
            raise StoreUnavailable("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(manager, "findSessions", fail)
            key = manager.loadNewSession("Gino")
            manager.loadNewSession("Mia")
            assert asked.wait(30)
            manager.deleteSession(key)
            assert page.online == {"Luca"}
        eventually(lambda: page.online == {"Luca", "Mia"})
        assert "Gino" not in page.names("came")

    @on_threads
    def test_after_subscription(self, manager, server, attached, sign_in, connect):
        """It may begin in a process that has clients and reads notices already."""
        page, key = connect(), manager.loadNewSession("Luca")
        assert page.present(key) is True
        presence(manager, server.io)
        assert page.ask() is True
        eventually(lambda: page.online == {"Luca"})
        manager.loadNewSession("Mia")
        eventually(lambda: page.online == {"Luca", "Mia"})
