"""The FastAPI dependency: what it has beside what `test_web.py` checks in every framework."""

# Without `from __future__ import annotations`: FastAPI could not see the names of `make_app` in a text.

import asyncio
import queue
import secrets
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from watched_store import WatchedStore

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from starlette.concurrency import run_in_threadpool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions would rather have another HTTP client than httpx
    from starlette.testclient import TestClient, WebSocketDenialResponse

from users_session_manager import SessionError, SessionManager
from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.keys import new_key

UNKNOWN = new_key()  # issued by this process, and no session has it
COOKIE = "__Host-session_key"
GUARDED = ("/me", "/async/me", "/passive")


def make_app(sessions: UserSessions, *, install: bool = True) -> FastAPI:
    app = FastAPI()
    if install:
        sessions.install(app)
    current = Annotated[RequestSession, Depends(sessions.current)]
    optional_session = Annotated[RequestSession | None, Depends(sessions.optional)]
    recent_session = Annotated[RequestSession, Depends(sessions.recent(3600))]

    @app.post("/login")
    def login(name: str, request: Request, response: Response) -> dict[str, str]:
        return {"session_key": sessions.sign_in(request, response, name)}

    @app.post("/hasty/login")
    async def hasty_login(name: str, request: Request, response: Response) -> dict[str, str]:
        return {"session_key": sessions.sign_in(request, response, name)}

    @app.post("/async/login")
    async def async_login(name: str, request: Request, response: Response) -> dict[str, str]:
        return {"session_key": await run_in_threadpool(sessions.sign_in, request, response, name)}

    @app.post("/logout")
    def logout(request: Request, response: Response) -> bool:
        return sessions.sign_out(request, response)

    @app.post("/hasty/logout")
    async def hasty_logout(request: Request, response: Response) -> bool:
        return sessions.sign_out(request, response)

    @app.post("/hasty/renew")
    async def hasty_renew(request: Request, response: Response) -> dict[str, str]:
        return {"session_key": sessions.renew_key(request, response)}

    @app.post("/async/renew")
    async def async_renew(request: Request, response: Response) -> dict[str, str]:
        return {"session_key": await run_in_threadpool(sessions.renew_key, request, response, overlap=60)}

    @app.post("/hasty/elsewhere")
    async def hasty_elsewhere(request: Request) -> int:
        return sessions.sign_out_elsewhere(request)

    @app.post("/async/elsewhere")
    async def async_elsewhere(request: Request) -> int:
        return await run_in_threadpool(sessions.sign_out_elsewhere, request)

    @app.get("/me")
    def me(session: current) -> str:
        return session.username

    @app.get("/async/me")
    async def async_me(session: current) -> str:
        return session.username

    @app.get("/passive")
    async def passive(session: Annotated[RequestSession, Depends(sessions.passive)]) -> str:
        return session.username

    @app.get("/optional")
    async def optional(session: optional_session) -> str:
        return "nobody" if session is None else session.username

    @app.get("/recent")
    def recent(session: recent_session) -> str:
        return session.username

    @app.get("/async/recent")
    async def async_recent(session: recent_session) -> str:
        return session.username

    @app.get("/open")
    async def open_to_all() -> str:
        return "hello"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: current) -> None:
        await websocket.accept()
        await websocket.send_text(session.username)
        await websocket.close()

    @app.websocket("/recent/socket")
    async def recent_socket(websocket: WebSocket, session: recent_session) -> None:
        await socket(websocket, session)

    return app


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="https://example.test")


@pytest.fixture
def client(manager: SessionManager) -> TestClient:
    return client_of(make_app(UserSessions()))


@pytest.fixture
def blocking() -> WatchedStore:
    """The store of the manager, which says that it may have to be waited for."""
    store = WatchedStore()
    SessionManager(store=store)
    return store


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.json()) == (401, {"logout": True})


def test_missing_fastapi():
    """Without FastAPI, the import says what to install."""
    code = "import sys; sys.modules['fastapi'] = None; import users_session_manager.integrations.fastapi"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependency: fastapi is not installed: pip install 'users-session-manager[fastapi]'" in ended.stderr


class TestGuard:
    def test_optional(self, client, manager, clock):
        """An optional session is prolonged if it is there, and refuses no request."""
        key = manager.loadNewSession("luca")
        clock.turn(1000)
        assert client.get("/optional").json() == "nobody"
        assert client.get("/optional", headers={"Session-Key": key}).json() == "luca"
        assert manager.getSessionTimeLeft(key) == 3000

    def test_browser(self, client, manager):
        """A browser keeps the cookie, sends it back, and forgets it when it is deleted."""
        key = client.post("/login", params={"name": "luca"}).json()["session_key"]
        assert (client.cookies[COOKIE], client.get("/me").json()) == (key, "luca")
        manager.deleteAllSessions()
        assert refused(client.get("/me"))
        assert COOKIE not in client.cookies

    def test_login_on_the_loop(self, client, manager):
        """With a store that never waits, a coroutine function may sign in itself."""
        key = client.post("/hasty/login", params={"name": "luca"}).json()["session_key"]
        assert client.post("/hasty/renew").json()["session_key"] == client.cookies[COOKIE] != key
        assert client.post("/hasty/elsewhere").json() == 0
        assert client.post("/hasty/logout").json() is True
        assert manager.getLoggedUsers() == []

    def test_logout_says_whether(self, client):
        """A logout says whether there was a session."""
        client.post("/login", params={"name": "luca"})
        assert client.post("/logout").json() is True
        assert COOKIE not in client.cookies
        assert client.post("/logout").json() is False

    def test_websocket(self, client, manager, clock):
        """A WebSocket is guarded too, and can ask for a recent login."""
        key = manager.loadNewSession("luca", timeout=9000)
        for path in ("/socket", "/recent/socket"):
            with client.websocket_connect(path, headers={"Session-Key": key}) as socket:
                assert socket.receive_text() == "luca"
        clock.turn(3601)
        for path, headers, status in (("/socket", {}, 401), ("/recent/socket", {"Session-Key": key}, 403)):
            connection = client.websocket_connect(path, headers=headers)
            with pytest.raises(WebSocketDenialResponse) as refusal, connection:
                pass
            assert refusal.value.status_code == status

    def test_not_installed(self, manager):
        """Without `install` no request gets through, and the error says why."""
        client = client_of(make_app(UserSessions(), install=False))
        for key in (manager.loadNewSession("luca"), UNKNOWN):
            for path in (*GUARDED, "/optional"):
                with pytest.raises(SessionError, match=r"sessions\.install\(app\)"):
                    client.get(path, headers={"Session-Key": key})
        assert client.get("/open").status_code == 200

    def test_manager(self, manager):
        """The manager is `SessionManager()` as it is when it is needed, or the one that was given."""
        first = UserSessions()
        assert first.manager is manager is UserSessions(manager).manager
        manager.close()
        assert first.manager is not manager
        first.manager.close()

    def test_wrong_names(self):
        """A name that cannot work is refused."""
        with pytest.raises(ValueError, match="underscore"):
            UserSessions(header="session_key")

    def test_wrong_max_age(self, manager):
        """A `max_age` that is no number of seconds is refused where it is written."""
        for max_age in (None, "60", -1, float("nan"), float("inf"), True):
            with pytest.raises((TypeError, ValueError), match="max_age"):
                UserSessions().recent(max_age)


class TestDocument:
    @pytest.mark.parametrize(
        ("options", "schemes"),
        [
            (
                {},
                {
                    "SessionKeyHeader": {"type": "apiKey", "in": "header", "name": "Session-Key"},
                    "SessionKeyCookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                },
            ),
            ({"cookie": None}, {"SessionKeyHeader": {"type": "apiKey", "in": "header", "name": "Session-Key"}}),
            (
                {"header": None, "secure": False},
                {"SessionKeyCookie": {"type": "apiKey", "in": "cookie", "name": "session_key"}},
            ),
        ],
    )
    def test_schemes(self, manager, options, schemes):
        """Guarded routes name their security schemes."""
        app = make_app(UserSessions(**options))
        document = client_of(app).get("/openapi.json").json()
        assert document["components"]["securitySchemes"] == schemes
        assert app.openapi() == app.openapi() == document
        for path in (*GUARDED, "/optional", "/recent"):
            assert document["paths"][path]["get"]["security"] == [{name: []} for name in schemes]
            assert "parameters" not in document["paths"][path]["get"]
        assert "security" not in document["paths"]["/open"]["get"]

    def test_no_guarded_route(self, manager):
        """An application without a guarded route names none."""
        app = FastAPI()
        UserSessions().install(app)
        assert "components" not in app.openapi()


class TestBlockingStore:
    def test_never_on_the_loop(self, blocking):
        """A store that may wait is asked on a thread without an event loop."""
        with client_of(make_app(UserSessions())) as client:
            for _ in range(2):
                client.post("/async/login", params={"name": "luca"})
            for change in ("/async/renew", "/async/elsewhere"):
                assert client.post(change).status_code == 200
            for path in (*GUARDED, "/optional", "/recent", "/async/recent"):
                assert "luca" in client.get(path).text
                assert client.get(path, headers={"Session-Key": UNKNOWN}).status_code in (200, 401)
            client.post("/logout")
        assert len(blocking.asked) > 20
        assert not any(is_on_loop for _, is_on_loop in blocking.asked)

    def test_refused_on_the_loop(self, blocking):
        """What changes sessions is refused on the loop with the way out, and changes nothing."""
        keys = [SessionManager().loadNewSession("luca") for _ in range(2)]
        for path in ("/hasty/login?name=luca", "/hasty/renew", "/hasty/elsewhere", "/hasty/logout"):
            with pytest.raises(SessionError, match="await run_in_threadpool"):
                client_of(make_app(UserSessions())).post(path, headers={"Session-Key": keys[0]})
            assert list(blocking.sessions) == keys


class TestLoop:
    def test_listeners(self, manager, clock):
        """From the start on, coroutine functions that listen run on the loop of the application."""
        ran: list[tuple[str, Any]] = []

        async def listener(key: str) -> None:
            ran.append((key, asyncio.get_running_loop()))
            done.set()

        manager.on("sessionDeleted", listener)  # as the module is imported: there is no loop yet
        done = threading.Event()
        loops: list[Any] = []
        app, router = make_app(UserSessions()), APIRouter()

        @router.get("/loop")
        async def loop() -> None:
            loops.append(asyncio.get_running_loop())

        app.include_router(router)
        with client_of(app) as client:
            client.get("/loop")
            key = client.post("/login", params={"name": "luca"}).json()["session_key"]  # in a thread
            clock.turn(3000)  # on another one
            assert done.wait(30)
        assert ran == [(key, loops[0])]

    def test_lifespan(self, manager):
        """The lifespan of the application goes on as it was."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> Any:
            yield {"started": "yes"}

        app = FastAPI(lifespan=lifespan)
        UserSessions().install(app)

        @app.get("/state")
        async def state(request: Request) -> str:
            return str(request.state.started)

        with client_of(app) as client:
            assert client.get("/state").json() == "yes"


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")]


class TestTwoLifespans:
    """The end of a lifespan stops threads and connections; a second test client works as the first one did."""

    @pytest.fixture
    def connections(self, request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
        """The manager, on the real clock; return how many connections it has."""
        if request.param == "memory":
            SessionManager()
            yield lambda: 0
            return
        redis = pytest.importorskip("redis")
        from users_session_manager.stores.redis import RedisStore

        name, url = secrets.token_hex(8), request.getfixturevalue("redis_url")
        template, asking = redis.Redis.from_url(url, client_name=name), redis.Redis.from_url(url)
        manager = SessionManager(store=RedisStore(template, prefix=f"{name}:"))
        yield lambda: sum(client["name"] == name for client in asking.client_list())
        manager.close()
        asking.close()
        template.close()

    @pytest.mark.parametrize("connections", ["memory", "redis"], indirect=True)
    def test_second_client(self, connections, request):
        """Sessions, listeners and settings stay; what expired in between is announced by the second one."""
        is_shared = request.node.callspec.params["connections"] == "redis"
        manager, io = SessionManager(), object()
        ended: queue.Queue[tuple[str, Any]] = queue.Queue()

        async def on_loop(key: str) -> None:
            ended.put((key, asyncio.get_running_loop()))

        messages: queue.Queue[tuple[object, str]] = queue.Queue()
        manager.on("sessionDeleted", on_loop)
        manager.on("notifyClientToLogout", lambda *args: messages.put(args))
        manager.initSocketReference(io)
        manager.setMaxSessionLifetime(90_000)
        app, loops, keys, late = make_app(UserSessions()), [], [], ""
        assert our_threads() == []  # the application has been imported, and serves nobody
        for number in range(2):
            with client_of(app) as client:
                assert client.portal is not None
                loops.append(client.portal.call(asyncio.get_running_loop))
                if number == 0:
                    keys.append(client.post("/login", params={"name": "luca"}).json()["session_key"])
                else:
                    assert client.get("/me", headers={"Session-Key": keys[0]}).json() == "luca"
                    # It expired while nothing ran.
                    assert ended.get(timeout=30) == (late, loops[number])
                    if not is_shared:  # else its notice may have come before anyone here could read it
                        assert messages.get(timeout=30) == (io, late)
                assert our_threads()
                short = manager.loadNewSession("fabio", timeout=2)
                assert ended.get(timeout=30) == (short, loops[number])
                while (message := messages.get(timeout=30)) != (io, short):
                    assert is_shared
                    assert message == (io, late)
                late = manager.loadNewSession("gino", timeout=2)
            for thread in our_threads():
                thread.join(30)  # it may have been stopped a moment ago
            assert our_threads() == []
            deadline = time.monotonic() + 30
            while connections():  # the server may not have noticed yet
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert SessionManager() is manager
            assert manager.getSocketReference() is io
            assert (manager.getMaxSessionLifetime(), manager.listeners("sessionDeleted")) == (90_000, [on_loop])
            assert manager.getUsernameFromSessionKey(keys[0]) == "luca"
            assert connections() == int(is_shared)  # the next call connects again
            while manager.findSession(late) is not None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert ended.empty()
            assert our_threads() == []
        assert loops[0] is not loops[1]
        assert ended.empty()
        assert messages.empty()
