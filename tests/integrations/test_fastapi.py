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
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import pytest
from watched_store import CountingStore, WatchedStore

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import Mount, Router

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions would rather have another HTTP client than httpx
    from starlette.testclient import TestClient, WebSocketDenialResponse

from users_session_manager import SessionError, SessionManager, SessionRejected, StoreUnavailable, TooManySessions
from users_session_manager.integrations._script import SCRIPT
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

    def test_no_user(self, manager):
        """An optional session may be `None`, of which Python says what the page of errors explains."""
        sessions = UserSessions()
        app = make_app(sessions)

        @app.get("/unguarded")
        def unguarded(session: Annotated[Any, Depends(sessions.optional)]) -> str:
            return session.username

        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'username'"):
            client_of(app).get("/unguarded")

    def test_browser(self, client, manager):
        """A browser keeps the cookie, sends it back, and forgets it at a logout, but not when its session ends."""
        key = client.post("/login", params={"name": "luca"}).json()["session_key"]
        assert (client.cookies[COOKIE], client.get("/me").json()) == (key, "luca")
        manager.deleteAllSessions()
        assert refused(client.get("/me"))
        assert client.cookies[COOKIE] == key
        client.post("/logout")
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

    @pytest.mark.parametrize("cookie", ["session_key", None])
    def test_sign_in_on_websocket(self, manager, cookie):
        """A WebSocket has no answer that sets a cookie: signing in is refused, unless a header carries the key."""
        sessions = UserSessions(cookie=cookie)
        app = make_app(sessions)

        @app.websocket("/sign-in")
        async def sign_in(websocket: WebSocket) -> None:
            await websocket.accept()
            answers = []
            for method, args in ((sessions.sign_in, ["luca"]), (sessions.renew_key, [])):
                try:
                    answers.append(method(websocket, Response(), *args))
                except SessionError as error:  # noqa: PERF203
                    answers.append(str(error))
            await websocket.send_json([*answers, sessions.sign_out(websocket, Response())])
            await websocket.close()

        with client_of(app).websocket_connect("/sign-in") as socket:
            *answers, was_signed_in = socket.receive_json()
        assert was_signed_in is (cookie is None)
        for answer in answers:
            assert ("by an HTTP request" in answer) is (cookie is not None)
        assert manager.getLoggedUsers() == []

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


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class TestRefusals:
    """Browsers are sent to the login page or get a page, clients of an API get JSON."""

    def app_with(self, **options: Any) -> tuple[FastAPI, UserSessions]:
        sessions = UserSessions(**options)
        app = make_app(sessions)

        @app.get("/sign-in", name="sign_in_page")
        def page(request: Request, path: str | None = None) -> str:
            return sessions.next_page(request, "/home", path=path)

        return app, sessions

    def browser_of(self, app: FastAPI, **options: Any) -> TestClient:
        options = {"base_url": "https://example.test", "follow_redirects": False, **options}
        return TestClient(app, headers=BROWSER, **options)

    @pytest.mark.parametrize("login_url", ["/sign-in", "sign_in_page"])
    def test_login_page(self, manager, login_url):
        """A browser is redirected to the login page with the page it came for; a client of an API is not."""
        app, _ = self.app_with(login_url=login_url)
        browser = self.browser_of(app)
        browser.cookies.set(COOKIE, UNKNOWN, domain="example.test")
        for path in ("/me", "/passive?a=b&c=%C3%A9", "/recent"):
            answer = browser.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (303, "no-store, private")
            assert browser.get(answer.headers["location"]).json() == path
        assert refused(browser.get("/me", headers={"Accept": "application/json"}))
        assert refused(client_of(app).get("/me"))
        assert browser.post("/hasty/renew").headers["location"] == "/sign-in"
        key = manager.loadNewSession("luca")
        assert browser.get("/me", headers={"Session-Key": key}).json() == "luca"

    @pytest.mark.parametrize("login_url", ["/app/sign-in", "sign_in_page"])
    def test_root_path(self, manager, login_url):
        """The login page, and the page to come back to, are where browsers see them behind a proxy."""
        app, sessions = self.app_with(login_url=login_url)
        below = FastAPI()
        sessions.install(below)
        below.get("/me", dependencies=[Depends(sessions.current)])(lambda: "x")
        app.mount("/below", below)
        browser = self.browser_of(app, root_path="/app")
        for sent, here in (("/me", "me"), ("/app/me", "me"), ("/app/below/me", "below%2Fme")):  # it may be removed
            assert browser.get(sent).headers["location"] == f"/app/sign-in?next=%2Fapp%2F{here}"

    def test_next_page(self, manager):
        """Only a path of this site is a next page."""
        app, _ = self.app_with()
        client = client_of(app)
        assert client.get("/sign-in").json() == "/home"
        for path in ("/", "/me?a=b", "/a//b", "/é"):
            assert client.get("/sign-in", params={"next": path}).json() == path
            assert client.get("/sign-in", params={"next": "/me", "path": path}).json() == path
        for path in ("//evil.test", "https://evil.test", "/\\evil.test", "me", "/\t/evil.test", "javascript:x", ""):
            assert client.get("/sign-in", params={"next": path}).json() == "/home"
            assert client.get("/sign-in", params={"next": "/me", "path": path}).json() == "/home"

    def test_pages(self, manager, clock, unavailable):
        """Without a login page, and for every other refusal, browsers get a page that says what is wrong."""
        app, _ = self.app_with()
        manager = SessionManager()
        manager.setMaxSessionsPerUser(1, overflow="reject")
        browser, key = self.browser_of(app), manager.loadNewSession("luca", timeout=9000)
        clock.turn(3601)
        answers = [browser.get("/me"), browser.get("/recent", headers={"Session-Key": key})]
        answers.append(browser.post("/login", params={"name": "luca"}))
        unavailable.unreachable = True
        answers.append(browser.get("/me", headers={"Session-Key": key}))
        for answer, status, text in zip(
            answers,
            (401, 403, 409, 503),
            ("sign in", "password again", "sign out elsewhere", "unavailable"),
            strict=True,
        ):
            assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
            assert text in answer.text
            assert answer.headers["cache-control"] == "no-store, private"

    def test_without_api(self, manager):
        """A site without an API redirects whatever asks, and answers pages."""
        app, _ = self.app_with(login_url="sign_in_page", api=False)
        for accept in ("application/json", "*/*", "text/html"):
            answer = client_of(app).get("/me", headers={"Accept": accept}, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fme")
        manager.setMaxSessionsPerUser(1, overflow="reject")
        manager.loadNewSession("luca")
        answer = client_of(app).post("/login", params={"name": "luca"})
        assert (answer.status_code, answer.headers["content-type"]) == (409, "text/html; charset=utf-8")
        with pytest.raises(WebSocketDenialResponse) as refusal, client_of(app).websocket_connect("/socket"):
            pass
        assert refusal.value.status_code == 401

    def test_accept(self, manager):
        """The more preferred type counts, by the most exact name."""
        app, _ = self.app_with(login_url="/sign-in")
        html = (
            "text/html",
            "text/*",
            "application/json;q=0.5, text/html;q=0.6",
            "*/*;q=0.1,text/html",
            "TEXT/HTML; Q=1",
        )
        json = (
            "",
            "*/*",
            "application/json",
            "text/html;q=0.5,*/*",
            "text/html,application/json",
            "text/html;q=0",
            "q=x",
        )
        for accepts, status in ((html, 303), (json, 401)):
            for accept in accepts:
                client = client_of(app)
                assert client.get("/me", headers={"Accept": accept}, follow_redirects=False).status_code == status

    def test_wrong_settings(self, manager):
        """A wrong argument is refused: where it is written, or at the start of the application."""
        for options in ({"login_url": ""}, {"login_url": 5}, {"api": False}):
            with pytest.raises(ValueError, match="login_url"):
                UserSessions(**options)
        app, _ = self.app_with(login_url="sign_in_pgae")

        async def start() -> None:
            async with app.router.lifespan_context(app):
                pass

        with pytest.raises(SessionError, match="login_url: the application has no route 'sign_in_pgae'"):
            asyncio.run(start())
        app, _ = self.app_with(login_url="sign_in_page")
        with client_of(app) as client:
            assert client.get("/open").status_code == 200

    def test_too_many_sessions(self, client, manager):
        """A login too many is 409."""
        manager.setMaxSessionsPerUser(1, overflow="reject")
        manager.loadNewSession("luca")
        answer = client.post("/login", params={"name": "luca"})
        assert (answer.status_code, answer.json()) == (409, {"tooManySessions": True})

    @pytest.fixture
    def unavailable(self, manager: SessionManager, clock: Any) -> WatchedStore:
        """A store that may be unreachable."""
        manager.close()
        store = WatchedStore(now=lambda: clock.seconds)
        SessionManager(store=store)
        return store

    def test_whatever_asks(self, unavailable):
        """A middleware and a route without a guard are answered as a guarded one is, whatever handles all else."""
        app, _ = self.app_with()

        @app.get("/asks")
        def asks() -> int:
            return len(SessionManager().getUserSessions("luca"))

        class Asking:
            """Asks before a request, or after its response has started."""

            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                when = scope.get("query_string")
                if when == b"before":
                    SessionManager().getSession(dict(scope["headers"]).get(b"session-key", b"").decode())
                await self.app(scope, receive, send)
                if when == b"after":
                    SessionManager().getUserSessions("luca")

        app.add_middleware(Asking)

        @app.exception_handler(Exception)
        async def catch_all(request: Request, error: Exception) -> Response:
            return PlainTextResponse("an error of the application", 500)

        client, headers = client_of(app), {"Session-Key": SessionManager().loadNewSession("luca")}
        assert client.get("/open?before", headers=headers).json() == "hello"
        assert refused(client.get("/open?before"))
        assert client.get("/asks?after").json() == 1
        unavailable.unreachable = True
        for path in ("/open?before", "/asks", "/me"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.json()) == (503, {"unavailable": True})
            assert answer.headers["retry-after"] == "5"
        with pytest.raises(StoreUnavailable):
            client.get("/open?after")

    def test_below_without_install(self, unavailable):
        """In an application without `install` the guard raises an `HTTPException` with the proper status."""
        manager = SessionManager()
        sessions = UserSessions(login_url="/sign-in")
        app, below = make_app(sessions), FastAPI()
        app.mount("/below", below)
        below.get("/me", dependencies=[Depends(sessions.current)])(lambda: "x")
        below.get("/recent", dependencies=[Depends(sessions.recent(0))])(lambda: "x")
        below.get("/optional", dependencies=[Depends(sessions.optional)])(lambda: "x")
        client, key = client_of(app), manager.loadNewSession("luca")
        assert client.get("/below/me", headers={"Session-Key": key}).json() == "x"
        assert client.get("/below/optional").json() == "x"
        client.cookies.set(COOKIE, UNKNOWN, domain="example.test")
        answer = client.get("/below/me")
        assert (answer.status_code, answer.json()) == (401, {"detail": {"logout": True}})
        assert answer.headers["cache-control"] == "no-store, private"
        assert "set-cookie" not in answer.headers
        answer = self.browser_of(app).get("/below/me")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fbelow%2Fme")
        unavailable.unreachable = True
        answer = client.get("/below/me", headers={"Session-Key": key})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")

    @pytest.mark.parametrize("way", ["mounted", "below a router", "below another"])
    def test_raised_below_without_install(self, unavailable, way):
        """An exception of a route there, without a guard or behind it, is answered by an `HTTPException` as well."""
        manager = SessionManager()
        sessions = UserSessions()
        app, below = make_app(sessions), FastAPI()
        current = Annotated[RequestSession, Depends(sessions.current)]

        @below.post("/login")
        def login(request: Request, response: Response) -> str:
            return sessions.sign_in(request, response, "luca")

        @below.post("/renew")
        def renew(request: Request, response: Response) -> str:
            return sessions.renew_key(request, response)

        @below.post("/ends-and-writes")
        def ends_and_writes(session: current) -> None:
            manager.deleteSession(session.key)
            session.data = "lost"

        @below.post("/looks-up")
        async def looks_up() -> str:
            return manager.getSession(UNKNOWN).username

        @below.exception_handler(Exception)
        def catch(request: Request, error: Exception) -> Response:
            return PlainTextResponse("caught", 500)

        if way == "mounted":
            app.mount("/below", below)
        elif way == "below a router":
            app.mount("/below", Router([Mount("/", below)]))
        else:
            between = FastAPI()
            between.mount("/", below)
            app.mount("/below", between)
        client = client_of(app)
        manager.setMaxSessionsPerUser(1, "reject")
        key = manager.loadNewSession("luca")
        for path, headers, status, name in (
            ("login", {}, 409, "tooManySessions"),
            ("renew", {}, 401, "logout"),
            ("looks-up", {}, 401, "logout"),
            ("ends-and-writes", {"Session-Key": key}, 401, "logout"),
        ):
            answer = client.post(f"/below/{path}", headers=headers)
            assert (answer.status_code, answer.json()) == (status, {"detail": {name: True}})
            assert answer.headers["cache-control"] == "no-store, private"
        unavailable.unreachable = True
        answer = client.post("/below/login")
        assert (answer.status_code, answer.json()) == (503, {"detail": {"unavailable": True}})
        assert answer.headers["retry-after"] == "5"

    def test_below_with_own_handlers(self, manager):
        """An application that is mounted may have an `install`, or handlers, of its own."""
        sessions, others = UserSessions(), UserSessions(login_url="/login")
        app, below, other = make_app(sessions), FastAPI(), make_app(others)
        below.get("/me")(lambda: manager.getSession(UNKNOWN).username)
        below.add_exception_handler(SessionRejected, lambda request, error: PlainTextResponse("mine", 403))
        app.mount("/below", below)
        app.mount("/other", other)
        client = client_of(app)
        assert client.get("/below/me").text == "mine"
        assert refused(client.get("/other/me"))
        assert self.browser_of(app).get("/other/me").status_code == 303

    def test_below_after_a_request(self, manager):
        """A mounted application that has answered requests takes no handler any more; its guards answer as before."""
        sessions = UserSessions()
        app, below = make_app(sessions), FastAPI()
        below.get("/open")(lambda: "x")
        below.get("/me", dependencies=[Depends(sessions.current)])(lambda: "x")
        assert client_of(below).get("/open").json() == "x"
        app.mount("/below", below)
        answer = client_of(app).get("/below/me")
        assert (answer.status_code, answer.json()) == (401, {"detail": {"logout": True}})

    def test_other_handlers(self, manager):
        """A handler of the application for a status, or for everything, does not replace the answer of a guard."""
        app = make_app(UserSessions())

        async def handle(request: Request, error: Exception) -> Response:
            return PlainTextResponse("an error", 500)

        for what in (401, 500, HTTPException, Exception, LookupError):
            app.add_exception_handler(what, handle)
        assert refused(client_of(app).get("/me"))

    def test_preflight(self, manager):
        """A CORS preflight, which carries no key, passes; nothing else without a key does, and it shows nothing."""
        sessions = UserSessions()
        app, router = FastAPI(), APIRouter(dependencies=[Depends(sessions.current)])
        sessions.install(app)

        @router.options("/area")
        def options() -> Response:
            return Response(headers={"Access-Control-Allow-Origin": "https://front.test"})

        @router.api_route("/mixed", methods=["GET", "OPTIONS"])
        def mixed() -> str:
            return "for users alone"

        app.include_router(router)
        client, origin = client_of(app), {"Origin": "https://front.test"}
        preflight = origin | {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "session-key"}
        answer = client.options("/area", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://front.test")
        answer = client.options("/mixed", headers=preflight)
        assert (answer.status_code, answer.content) == (204, b"")
        for path in ("/area", "/mixed"):
            for headers in ({}, origin, {"Access-Control-Request-Method": "PUT"}):
                assert refused(client.options(path, headers=headers))
        assert refused(client.get("/mixed", headers=preflight))
        app = FastAPI()
        sessions.install(app)
        app.include_router(router)
        app.add_middleware(CORSMiddleware, allow_origins=["https://front.test"], allow_methods=["*"])
        client = client_of(app)
        assert client.options("/mixed", headers=origin | {"Access-Control-Request-Method": "GET"}).status_code == 200
        answer = client.get("/mixed", headers=origin)
        assert refused(answer)
        assert answer.headers["access-control-allow-origin"] == "https://front.test"


class TestBearer:
    """`Authorization: Bearer` carries a key, if that is asked for."""

    def test_key(self, manager):
        """It counts after the header of the library, and before the cookie."""
        client, key = client_of(make_app(UserSessions(bearer=True))), manager.loadNewSession("luca")
        for value in (f"Bearer {key}", f"bearer {key}", f"BEARER  {key} "):
            answer = client.get("/me", headers={"Authorization": value})
            assert (answer.json(), answer.headers["vary"]) == ("luca", "Session-Key, Authorization, Cookie")
        both = {"Authorization": f"Bearer {UNKNOWN}", "Session-Key": key}
        assert client.get("/me", headers=both).json() == "luca"
        assert refused(client.get("/me", headers={"Authorization": f"Bearer {key}", "Session-Key": UNKNOWN}))
        for value in (f"Bearer {UNKNOWN}", "Bearer ", f"Bearer {key}, Bearer {key}", f"Bearer x {key}"):
            answer = client.get("/me", headers={"Authorization": value, "Cookie": f"{COOKIE}={key}"})
            assert refused(answer)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "set-cookie" not in answer.headers

    def test_other_schemes(self, manager):
        """Another scheme is not ours: it may be that of a server in front."""
        client, key = client_of(make_app(UserSessions(bearer=True))), manager.loadNewSession("luca")
        for value in (f"Basic {key}", key, "Bearer", f"Token {key}"):
            headers = {"Authorization": value}
            assert refused(client.get("/me", headers=headers))
        assert client.get("/me", headers={"Authorization": "Basic eDp5", "Cookie": f"{COOKIE}={key}"}).json() == "luca"

    def test_doubled(self, manager):
        """Two such headers are no key."""
        client, key = client_of(make_app(UserSessions(bearer=True))), manager.loadNewSession("luca")
        assert refused(client.get("/me", headers=[("Authorization", f"Bearer {key}")] * 2))

    def test_not_asked_for(self, client, manager):
        """Without `bearer` it is not looked at."""
        answer = client.get("/me", headers={"Authorization": f"Bearer {manager.loadNewSession('luca')}"})
        assert refused(answer)
        assert "www-authenticate" not in answer.headers

    def test_alone(self, manager):
        """It may be the only way in."""
        client = client_of(make_app(UserSessions(bearer=True, header=None, cookie=None)))
        key = client.post("/login", params={"name": "luca"}).json()["session_key"]
        assert client.get("/me", headers={"Authorization": f"Bearer {key}"}).json() == "luca"
        assert refused(client.get("/me", headers={"Session-Key": key, "Cookie": f"{COOKIE}={key}"}))
        assert not client.cookies
        new = client.post("/hasty/renew", headers={"Authorization": f"Bearer {key}"}).json()["session_key"]
        assert client.post("/logout", headers={"Authorization": f"Bearer {new}"}).json() is True


class TestSettings:
    """The settings of the manager are arguments."""

    def test_applied(self, manager):
        """They are those of the manager when it is needed, and of the next one."""
        settings = {"timeout": 60, "lifetime": 3600, "max_sessions_per_user": 1, "overflow": "reject", "warning": 5}
        sessions = UserSessions(**settings)
        for _ in range(2):
            found = sessions.manager
            assert (found.getSessionTimeout(), found.getMaxSessionLifetime()) == (60, 3600)
            found.loadNewSession("luca")
            with pytest.raises(TooManySessions):
                found.loadNewSession("luca")
            found.close()
        manager = SessionManager()
        assert UserSessions(manager, timeout=70).manager is manager
        assert manager.getSessionTimeout() == 70

    def test_defaults(self, manager):
        """Arguments that are not given leave the manager as it is."""
        manager.setSessionTimeOut(77)
        assert UserSessions().manager.getSessionTimeout() == 77

    def test_store(self):
        """The store is chosen at once, so that `SessionManager()` means it too; another one is an error."""
        store = WatchedStore()
        sessions = UserSessions(store=store)
        key = SessionManager().loadNewSession("luca")
        assert list(store.sessions) == [key]
        assert UserSessions(store=store).manager is sessions.manager
        with pytest.raises(SessionError, match="another"):
            UserSessions(store=WatchedStore())
        with pytest.raises(ValueError, match="store: the manager has a store already"):
            UserSessions(SessionManager(), store=store)
        sessions.manager.close()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("store", "redis.example:6379"),
            ("store", 5),
            ("timeout", 1),
            ("timeout", "60"),
            ("lifetime", -1),
            ("max_sessions_per_user", 0),
            ("overflow", "refuse"),
            ("warning", 0),
            ("proxies", -1),
            ("proxies", True),
            ("secure", "no"),
            ("header", "session_key"),
            ("cookie", "a b"),
            ("cookie", "__Host-x"),
            ("header", "Host"),
            ("samesite", "lax"),
            ("domain", "127.0.0.1"),
            ("partitioned", "yes"),
            ("partitioned", True),  # without samesite="None"
            ("api", "no"),
            ("bearer", "yes"),
            ("login_url", ""),
        ],
    )
    def test_wrong(self, manager, name, value):
        """A value that cannot work is refused by the name of its argument; a misspelt name by Python."""
        with pytest.raises(ValueError, match=f"^{name}: "):
            UserSessions(**{name: value})
        with pytest.raises(TypeError, match="timeuot"):
            UserSessions(timeuot=60)

    @pytest.mark.parametrize(
        ("base_url", "forwarded", "proxies", "warns"),
        [
            ("http://example.test", None, 0, True),
            ("http://example.test", "https", 0, True),
            ("http://example.test", "https", 1, False),
            ("http://example.test", "https, http", 1, True),
            ("https://example.test", None, 0, False),
        ],
    )
    def test_cookie_over_http(self, manager, caplog, base_url, forwarded, proxies, warns):
        """The log says once that a client cannot keep the cookie, unless a proxy has served it by https."""
        client = TestClient(make_app(UserSessions(proxies=proxies)), base_url=base_url)
        headers = {} if forwarded is None else {"X-Forwarded-Proto": forwarded}
        for _ in range(2):
            assert client.post("/login", params={"name": "luca"}, headers=headers).status_code == 200
        lines = [each.getMessage() for each in caplog.records if "for https alone" in each.getMessage()]
        assert len(lines) == int(warns)

    def test_user_id(self, manager):
        """A login has a user id of each kind, and a security stamp; the same user goes on with the session."""
        sessions = UserSessions()
        app = make_app(sessions)
        user_ids = {"int": 7, "str": "7", "uuid": UUID(int=7)}

        @app.post("/login-by-id/{kind}")
        def login(kind: str, request: Request, response: Response) -> None:
            sessions.sign_in(request, response, "luca", data=kind, userId=user_ids[kind], securityStamp=f"of {kind}")

        client, found = client_of(app), []
        for kind in user_ids:
            client.post(f"/login-by-id/{kind}")
            (session,) = manager.sessions.values()
            assert (session.username, session.data, session.securityStamp) == ("luca", kind, f"of {kind}")
            found.append((session.userId, session.createdAt))
            client.cookies.set(COOKIE, session.key)
        assert [user_id for user_id, _ in found] == ["7", "7", str(UUID(int=7))]

    def test_exports(self):
        """An application imports all it needs from the integration, for type checkers too."""
        from users_session_manager.integrations import fastapi

        assert {"RequestSession", "SessionRejected", "TooManySessions", "StoreUnavailable"} <= set(fastapi.__all__)
        assert [name for name in fastapi.__all__ if not hasattr(fastapi, name)] == []


class TestResponses:
    """The cookie goes out, or is deleted, with whatever response is sent, and caches know what it depends on."""

    @pytest.fixture
    def app(self, manager: SessionManager) -> FastAPI:
        sessions = UserSessions()
        app, below = make_app(sessions), FastAPI()
        app.mount("/below", below)

        def change(request: Request, response: Response, what: str) -> None:
            if what == "sign_in":
                sessions.sign_in(request, response, "luca")
            elif what == "renew_key":
                sessions.renew_key(request, response)
            else:
                sessions.sign_out(request, response)

        class Unforeseen(Exception):
            pass

        def answer(how: str) -> Any:
            if how == "HTTPException":
                raise HTTPException(400, "terms not accepted")
            if how == "handler":
                raise Unforeseen
            if how == "crash":
                raise ZeroDivisionError
            responses = {"redirect": RedirectResponse("/", 303), "stream": StreamingResponse(iter(["x"]))}
            return responses.get(how, {"how": how})

        async def handle(request: Request, error: Exception) -> Response:
            return PlainTextResponse("handled", 418)

        app.add_exception_handler(Unforeseen, handle)

        @app.post("/change/{what}/{how}")
        @below.post("/change/{what}/{how}")
        def change_and_answer(what: str, how: str, request: Request, response: Response) -> Any:
            change(request, response, what)
            return answer(how)

        @app.post("/change/{what}/own")
        def own(what: str, request: Request) -> Response:
            response = PlainTextResponse("own")
            change(request, response, what)
            return response

        @app.post("/mind")
        def mind(request: Request, response: Response) -> None:
            for what in ("sign_in", "renew_key", "sign_out", "sign_in"):
                change(request, response, what)
            response.set_cookie("session_key_of_another", "x")

        @app.get("/cached")
        def cached(session: Annotated[RequestSession, Depends(sessions.current)], vary: str = "") -> Response:
            headers = {"Cache-Control": "private, max-age=60"} | ({"Vary": vary} if vary else {})
            return PlainTextResponse(session.username, headers=headers)

        @app.get("/file", dependencies=[Depends(sessions.current)])
        def file() -> Response:
            return FileResponse(__file__)

        return app

    @pytest.mark.parametrize(
        ("below", "how"),
        [
            *(
                ("", how)
                for how in ("json", "own", "redirect", "stream", "HTTPException", "handler", "crash", "replaced")
            ),
            *(("/below", how) for how in ("json", "redirect", "HTTPException", "crash")),
        ],
    )
    def test_cookie(self, app, manager, how, below):
        """After a login, a renewal and a logout the client has the cookie that it should have."""
        if how == "replaced":

            @app.middleware("http")
            async def replace(request: Request, call_next: Any) -> Response:
                await call_next(request)
                return PlainTextResponse("replaced")

        client = TestClient(app, base_url="https://example.test", follow_redirects=False, raise_server_exceptions=False)
        keys = []
        for what in ("sign_in", "renew_key", "sign_in"):
            answer = client.post(f"{below}/change/{what}/{how}")
            assert len(answer.headers.get_list("set-cookie")) == 1
            keys.append(client.cookies[COOKIE])
            assert list(manager.sessions) == [keys[-1]]
        assert len(set(keys)) == 3
        answer = client.post(f"{below}/change/sign_out/{how}")
        assert (COOKIE in client.cookies, len(manager.sessions)) == (False, 0)
        assert answer.headers["cache-control"] == "no-store, private"

    def test_last_change(self, app, manager):
        """A route that changes its mind sends the last cookie alone, and those of others."""
        answer = client_of(app).post("/mind")
        (key,) = manager.sessions
        others, ours = answer.headers.get_list("set-cookie")
        assert ours.startswith(f"{COOKIE}={key};")
        assert others.startswith("session_key_of_another=x;")

    def test_caches(self, app, manager):
        """No cache stores what a session decides on; a route's own `Cache-Control` stays, with the `Vary` it needs."""
        client, headers = client_of(app), {"Session-Key": manager.loadNewSession("luca")}
        for path in ("/me", "/passive", "/optional", "/recent", "/file"):
            for answer in (client.get(path, headers=headers), client.get(path)):
                assert answer.headers["cache-control"] == "no-store, private"
                assert answer.headers["vary"] == "Session-Key, Cookie"
        assert client.get("/cached", headers=headers).headers["cache-control"] == "private, max-age=60"
        for own, vary in (("", "Session-Key, Cookie"), ("cookie", "cookie, Session-Key"), ("*", "*")):
            assert client.get("/cached", params={"vary": own}, headers=headers).headers["vary"] == vary
        answer = client.get("/open", headers=headers)
        assert {"cache-control", "vary"}.isdisjoint(answer.headers)

    def test_other_messages(self, manager):
        """Messages before the response, such as those that templates send to test clients, change nothing."""

        class Debugged(PlainTextResponse):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send({"type": "http.response.debug", "info": {"template": None, "context": {}}})
                await super().__call__(scope, receive, send)

        sessions = UserSessions()
        app = make_app(sessions)
        app.get("/debugged", dependencies=[Depends(sessions.current)])(lambda: Debugged("x"))
        answer = client_of(app).get("/debugged", headers={"Session-Key": manager.loadNewSession("luca")})
        assert (answer.text, answer.headers["cache-control"]) == ("x", "no-store, private")

    def test_too_late(self, app, client):
        """An application that has answered requests is not changed any more."""
        client.get("/open")
        with pytest.raises(SessionError, match="before the application answers its first request"):
            UserSessions().install(client.app)

    def test_never_stored(self, manager):
        """An answer with a cookie is not to be stored, whatever the route says."""
        app, sessions = FastAPI(), UserSessions()
        sessions.install(app)

        @app.get("/stored")
        def stored(request: Request, response: Response) -> None:
            response.headers["Cache-Control"] = "max-age=60"
            sessions.sign_in(request, response, "luca")

        answer = client_of(app).get("/stored")
        assert answer.headers.get_list("Cache-Control") == ["no-store, private"]

    def test_twice(self, manager):
        """Only one of two could answer the rejections of an application, so a second one is an error."""
        app, sessions = FastAPI(), UserSessions()
        app.add_exception_handler(SessionRejected, lambda *_: Response(status_code=418))  # one of its own is none
        sessions.install(app)
        for again in (sessions, UserSessions(cookie="staff")):
            with pytest.raises(SessionError, match="has its UserSessions already"):
                again.install(app)

    @pytest.mark.parametrize("when", ["background", "stream"])
    def test_after_the_answer(self, manager, when):
        """Code that runs after the answer has begun cannot change its cookie: a new key would log the client out."""
        app, sessions, problems = FastAPI(), UserSessions(), []
        sessions.install(app)

        def try_both(request: Request) -> Iterator[str]:
            yield "on"
            for call in (partial(sessions.sign_in, username="fabio"), sessions.renew_key):
                with pytest.raises(SessionError, match="has its cookies already") as problem:
                    call(request, Response())
                problems.append(problem.value)

        @app.get("/", dependencies=[Depends(sessions.current)])
        def answer(request: Request, tasks: BackgroundTasks) -> Any:
            if when == "stream":
                return StreamingResponse(try_both(request))
            tasks.add_task(lambda: [*try_both(request)])
            return "on"

        key = manager.loadNewSession("luca")
        assert client_of(app).get("/", headers={"Cookie": f"__Host-session_key={key}"}).status_code == 200
        assert len(problems) == 2
        assert list(manager.sessions) == [key]


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
                {"bearer": True},
                {
                    "SessionKeyHeader": {"type": "apiKey", "in": "header", "name": "Session-Key"},
                    "SessionKeyBearer": {"type": "http", "scheme": "bearer"},
                    "SessionKeyCookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                },
            ),
            (
                {"bearer": True, "header": None, "cookie": None},
                {"SessionKeyBearer": {"type": "http", "scheme": "bearer"}},
            ),
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
        """Functions that change sessions are refused on the loop, say what to call, and change nothing."""
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
        assert our_threads() == []  # the application has been imported, and has served no request
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
                late = manager.loadNewSession("gino", timeout=6)
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


@pytest.mark.parametrize("path", ["/me", "/async/me"])
def test_one_question(path):
    """A guarded request asks the store once, wherever its key is."""
    store = CountingStore()
    manager = SessionManager(store=store)
    client, key = client_of(make_app(UserSessions(manager))), manager.loadNewSession("Luca")
    for headers in ({"Session-Key": key}, {"Cookie": f"{COOKIE}={key}"}):
        store.asked.clear()
        assert client.get(path, headers=headers).status_code == 200
        assert len(store.asked) == 1
    manager.close()


class TestScript:
    """The script that signs a page out."""

    def test_served(self, manager):
        """An application serves it, before any route of its own that takes every path; a browser may keep it."""
        app = FastAPI()
        app.get("/{path:path}")(lambda path: path)
        UserSessions().install(app)
        answer = client_of(app).get("/user-sessions.js")
        assert (answer.status_code, answer.text) == (200, SCRIPT.read_text())
        assert answer.headers["Content-Type"].startswith("text/javascript")
        assert (answer.headers["Cache-Control"], answer.headers.get("Vary")) == ("max-age=3600", None)
        assert app.url_path_for("user_sessions_script") == "/user-sessions.js"
        assert "/user-sessions.js" not in app.openapi()["paths"]

    def test_elsewhere(self, manager):
        """It has another path, or none."""
        app, without = FastAPI(), FastAPI()
        UserSessions().install(app, script="/js/sessions.js")
        assert client_of(app).get("/js/sessions.js").status_code == 200
        UserSessions().install(without, script=None)
        assert client_of(without).get("/user-sessions.js").status_code == 404
        for wrong in ("user-sessions.js", "//elsewhere.example/", 1, "/", "/{name}.js", "/a.js?v=1", "/a.js#b"):
            with pytest.raises(ValueError, match=r"^script: has to be a path"):
                UserSessions().install(FastAPI(), script=wrong)
