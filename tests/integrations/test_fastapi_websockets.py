"""WebSockets in FastAPI: whose pages may open one, and that it is closed when its session ends."""

# Without `from __future__ import annotations`: FastAPI could not see the names of `make_app` in a text.

import asyncio
import gc
import queue
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import Annotated, Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions would rather have another HTTP client than httpx
    from starlette.testclient import TestClient, WebSocketDenialResponse

from users_session_manager import MemoryStore, SessionManager, SessionRejected
from users_session_manager.integrations._websockets import SessionSocket
from users_session_manager.integrations.fastapi import RequestSession, UserSessions

COOKIE = "__Host-session_key"
MAX_WAIT = 60
URL = "wss://example.test"


class Application:
    """An application with WebSockets, and what its routes have seen."""

    def __init__(self, **options: Any) -> None:
        self.sessions = UserSessions(**options)
        self.left: queue.Queue[Any] = queue.Queue()  # the codes with which clients have left, as the routes see them
        self.accepting = threading.Event()  # a route waits for it between the guard and its `accept`
        self.accepting.set()
        self.waiting = threading.Event()
        self.app = app = FastAPI()
        self.sessions.install(app)
        current = Annotated[RequestSession, Depends(self.sessions.current)]
        optional = Annotated[RequestSession | None, Depends(self.sessions.optional)]

        async def serve(websocket: WebSocket, greeting: str) -> None:
            self.waiting.set()
            while not self.accepting.is_set():
                await sleep()
            await websocket.accept()
            try:
                await websocket.send_text(greeting)
                while True:
                    await websocket.send_text((await websocket.receive_text()).upper())
            except WebSocketDisconnect as left:
                self.left.put(left.code)
                with suppress(RuntimeError, WebSocketDisconnect):  # the client has left
                    await websocket.close()

        @app.post("/logout")
        def logout(request: Request, response: Response) -> bool:
            return self.sessions.sign_out(request, response)

        @app.websocket("/socket")
        async def guarded(websocket: WebSocket, session: current) -> None:
            await serve(websocket, session.username)

        @app.websocket("/optional")
        async def open_to_all(websocket: WebSocket, session: optional) -> None:
            await serve(websocket, session.username if session else "stranger")

        @app.websocket("/logout/{guard}")
        async def log_out(websocket: WebSocket, guard: str) -> None:
            """Sign out, as the client asks."""
            if guard == "optional":
                await self.sessions.optional(websocket)
            await websocket.accept()
            await websocket.receive_text()
            self.sessions.sign_out(websocket, Response())
            await websocket.send_text("bye")

        @app.websocket("/write")
        async def write(websocket: WebSocket, session: current) -> None:
            """Store something with the session after its end."""
            await websocket.accept()
            await websocket.receive()
            self.left.put("/write")
            session.data = "written"

        @app.websocket("/refused")
        async def refused(websocket: WebSocket, session: current) -> None:
            await websocket.accept()
            await websocket.receive()
            self.left.put("/refused")
            raise SessionRejected

        @app.websocket("/talks")
        async def talks(websocket: WebSocket, session: current) -> None:
            """Send without end, and never look at what comes."""
            await websocket.accept()
            try:
                while True:
                    await websocket.send_text("tick")
                    await sleep()
            except WebSocketDisconnect as left:
                self.left.put(left.code)

        self.client = TestClient(app, base_url="https://example.test")

    def open(self, key: str, path: str = "/socket", *, url: str = URL, **headers: str) -> Any:
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.websocket_connect(f"{url}{path}", headers={"Cookie": f"{COOKIE}={key}"} | shown)

    def assert_refused(self, key: str, path: str = "/socket", **headers: str) -> None:
        with pytest.raises(WebSocketDenialResponse) as refusal, self.open(key, path, **headers):
            pass
        assert (refusal.value.status_code, refusal.value.json()) == (403, {"crossOrigin": True})


async def sleep() -> None:
    await asyncio.sleep(0.01)


class EndingStore(MemoryStore):
    """A store whose sessions end just before it is asked whether they are still there."""

    def present_keys(self, session_ids: Any) -> Any:
        SessionManager().deleteAllSessions()
        return super().present_keys(session_ids)


@pytest.fixture
def site(manager: SessionManager) -> Application:
    return Application()


class TestOrigin:
    """A key in a cookie opens a WebSocket for pages of the own origin alone: the browser sends it for any page."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.test"},
            {"Origin": "http://example.test"},
            {"Origin": "https://example.test:8443"},
            {"Origin": "null"},
            {"Origin": "https://evil.test", "Sec_Fetch_Site": "cross-site"},
            {"Origin": "https://blog.example.test", "Sec_Fetch_Site": "same-site"},
        ],
        ids=lambda headers: "-".join(headers.values()),
    )
    def test_refused(self, site, manager, headers):
        """No other page gets a connection, and where no session is needed, none is there."""
        key = manager.loadNewSession("Luca")
        site.assert_refused(key, **headers)
        with site.open(key, "/optional", **headers) as connection:
            assert connection.receive_text() == "stranger"
        assert manager.checkSessionStatus(key)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "https://example.test"},
            {"Origin": "https://example.test", "Sec_Fetch_Site": "same-origin"},
            {"Origin": "https://app.example"},
            {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"},
        ],
        ids=lambda headers: "-".join(headers.values()) or "none",
    )
    def test_let_in(self, manager, headers):
        """The own pages, those of origins that are named, and programs are let in."""
        site = Application(trusted_origins=["https://app.example"])
        for path in ("/socket", "/optional"):
            with site.open(manager.loadNewSession("Luca"), path, **headers) as connection:
                assert connection.receive_text() == "Luca"

    def test_key_in_header(self, site, manager):
        """No page can send the header, so no page is meant by its origin; without a key the answer is 401."""
        key = manager.loadNewSession("Luca")
        with site.open(key, Origin="https://evil.test", Session_Key=key) as connection:
            assert connection.receive_text() == "Luca"
        with (
            pytest.raises(WebSocketDenialResponse) as refusal,
            site.client.websocket_connect(f"{URL}/socket", headers={"Origin": "https://evil.test"}),
        ):
            pass
        assert (refusal.value.status_code, refusal.value.json()) == (401, {"logout": True})

    @pytest.mark.parametrize("guard", ["none", "optional"])
    def test_sign_out(self, site, manager, guard):
        """Where no session is needed, a page of another origin signs no user out; the socket is closed with 4403."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio")
        with site.open(key, f"/logout/{guard}", Origin="https://evil.test") as connection:
            connection.send_text("please")
            with pytest.raises(WebSocketDisconnect) as closed:
                connection.receive_text()
        assert closed.value.code == 4403
        assert list(manager.sessions) == [key, other]
        for own, shown in ((key, {"Origin": "https://example.test"}), (other, {"Session_Key": other})):
            with site.open(own, f"/logout/{guard}", **shown) as connection:
                connection.send_text("please")
                with suppress(WebSocketDisconnect):
                    assert connection.receive_text() == "bye"
        assert list(manager.sessions) == []

    @pytest.mark.parametrize("scheme", ["https", "HTTPS", "wss"])
    def test_proxy(self, manager, scheme):
        """Behind a proxy the host is what the client has asked for; some proxies say that the scheme is `wss`."""
        key = manager.loadNewSession("Luca")
        shown = {"Origin": "https://public.test", "X_Forwarded_Host": "public.test", "X_Forwarded_Proto": scheme}
        Application().assert_refused(key, **shown)
        with Application(proxies=1).open(key, url="ws://127.0.0.1:8000", **shown) as connection:
            assert connection.receive_text() == "Luca"


def assert_closed(connection: Any) -> None:
    """The next message is the end of the connection, by the end of its session."""
    with pytest.raises(WebSocketDisconnect) as closed:
        connection.receive_text()
    assert (closed.value.code, closed.value.reason) == (4401, "The session has ended.")


class TestEnd:
    """The WebSockets of a session are closed with 4401 the moment it ends."""

    @pytest.mark.parametrize("end", ["deleted", "expired", "evicted", "everyone", "signed out"])
    def test_each_end(self, site, manager, clock, end):
        """However it ends; those of other sessions stay open."""
        manager.setMaxSessionsPerUser(1)
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio", timeout=1e6)
        ends: dict[str, Callable[[], Any]] = {
            "deleted": lambda: manager.deleteSession(key),
            "expired": lambda: clock.turn(3001),
            "evicted": lambda: manager.loadNewSession("Luca"),
            "everyone": lambda: manager.deleteUserSessions("Luca"),
            "signed out": lambda: site.client.post("/logout", headers={"Cookie": f"{COOKIE}={key}"}),
        }
        with site.open(key) as first, site.open(key) as second, site.open(other) as stays:
            for connection in (first, second, stays):
                connection.receive_text()
            ends[end]()
            assert_closed(first)
            assert_closed(second)
            stays.send_text("ciao")
            assert stays.receive_text() == "CIAO"

    def test_renewal(self, site, manager):
        """A new key ends nothing; the end of the session then does."""
        key = manager.loadNewSession("Luca")
        with site.open(key) as connection:
            connection.receive_text()
            new = manager.renewSessionKey(key)
            connection.send_text("ciao")
            assert connection.receive_text() == "CIAO"
            manager.deleteSession(new)
            assert_closed(connection)

    def test_before_accept(self, site, manager):
        """A session that ends before the route accepts closes the socket as soon as it is accepted."""
        key = manager.loadNewSession("Luca")
        site.accepting.clear()

        def end() -> None:
            assert site.waiting.wait(MAX_WAIT)
            manager.deleteSession(key)
            site.accepting.set()

        ending = threading.Thread(target=end)
        ending.start()
        with site.open(key) as connection:
            assert_closed(connection)
        ending.join()

    def test_end_during_guard(self, site, manager):
        """A session that ends while the guard lets the socket in lets none in."""
        manager.close()
        manager = SessionManager(store=EndingStore())
        key = manager.loadNewSession("Luca")
        with pytest.raises(WebSocketDenialResponse) as refusal, site.open(key):
            pass
        assert refusal.value.status_code == 401

    def test_client_leaves(self, site, manager):
        """A WebSocket that its client has closed is forgotten, and the end of its session does nothing to it."""

        def all_sockets() -> list[SessionSocket]:
            gc.collect()
            return [each for each in gc.get_objects() if type(each) is SessionSocket]

        key, before = manager.loadNewSession("Luca"), all_sockets()
        with site.open(key) as connection:
            connection.receive_text()
            assert len(all_sockets()) == len(before) + 1
        del connection  # it has the scope of the request
        assert all_sockets() == before
        assert manager.deleteSession(key)

    def test_another_manager(self, site, manager):
        """After `close` the new manager notifies the sockets of its sessions."""
        with site.open(manager.loadNewSession("Luca")) as connection:
            connection.receive_text()
        manager.close()
        manager = SessionManager()
        key = manager.loadNewSession("Luca")
        with site.open(key) as connection:
            connection.receive_text()
            manager.deleteSession(key)
            assert_closed(connection)


@pytest.fixture(params=["websockets-sansio", "wsproto"])
def server(request: pytest.FixtureRequest, site: Application) -> Iterator[str]:
    """The address of the application on a real server, with each implementation of WebSockets that it has."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip(request.param.partition("-")[0])
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(site.app, ws=request.param, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(MAX_WAIT)
    listening.close()


class TestServer:
    """On a real server, where nothing but the end itself wakes the route."""

    @pytest.mark.parametrize("path", ["/socket", "/talks"])
    def test_end(self, server, site, manager, caplog, path):
        """An idle client, and one that is being sent to, gets the code; the route sees a client that has left."""
        websocket = pytest.importorskip("websocket")
        key = manager.loadNewSession("Luca")
        connection = websocket.create_connection(
            f"ws://{server}{path}", timeout=MAX_WAIT, cookie=f"{COOKIE}={key}", suppress_origin=True
        )
        assert connection.recv() in ("Luca", "tick")
        manager.deleteSession(key)
        opcode, data = connection.recv_data()
        while opcode == websocket.ABNF.OPCODE_TEXT:
            opcode, data = connection.recv_data()
        assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4401)
        assert data[2:] == b"The session has ended."
        assert site.left.get(timeout=MAX_WAIT) in (4401, 1006, 1005)
        connection.shutdown()
        assert [line for line in caplog.records if line.name.startswith("uvicorn") and line.levelname == "ERROR"] == []

    def test_rejected_later(self, server, site, manager, caplog):
        """A refusal after a route has accepted closes the socket, and is no error in the server's log."""
        websocket = pytest.importorskip("websocket")
        for path, end, code in (("/write", True, 4401), ("/refused", False, 4401)):
            key = manager.loadNewSession("Luca")
            connection = websocket.create_connection(
                f"ws://{server}{path}", timeout=MAX_WAIT, cookie=f"{COOKIE}={key}", suppress_origin=True
            )
            if end:
                manager.deleteSession(key)
            else:
                connection.send("on")
            opcode, data = connection.recv_data()
            assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, code)
            connection.shutdown()
            assert site.left.get(timeout=MAX_WAIT) == path
        assert [line for line in caplog.records if line.name.startswith("uvicorn") and line.levelname == "ERROR"] == []

    def test_other_origin(self, server, manager):
        """A browser sends the origin with each WebSocket."""
        websocket = pytest.importorskip("websocket")
        options = {"timeout": MAX_WAIT, "cookie": f"{COOKIE}={manager.loadNewSession('Luca')}"}
        handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        handshake |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": "http://evil.test"}
        with closing(HTTPConnection(server, timeout=MAX_WAIT)) as refused:
            refused.request("GET", "/socket", headers=handshake | {"Cookie": options["cookie"]})
            assert refused.getresponse().status == 403
        connection = websocket.create_connection(f"ws://{server}/socket", origin=f"http://{server}", **options)
        assert connection.recv() == "Luca"
        connection.shutdown()


@pytest.mark.parametrize("store_kind", ["redis"])
def test_end_elsewhere(any_store, manager, clock):
    """An end in another process closes the sockets in this one."""
    manager.close()
    manager, site = SessionManager(store=any_store()), Application()
    key = manager.loadNewSession("Luca")
    with site.client, site.open(key) as connection:
        connection.receive_text()
        other = any_store(thread=False)
        assert other.remove(key) is not None
        other.close()
        assert_closed(connection)
