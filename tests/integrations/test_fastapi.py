"""The FastAPI dependency, in an application as its users write it."""

# Without `from __future__ import annotations`: FastAPI could not see the names of `make_app` in a text.

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from starlette.concurrency import run_in_threadpool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions would rather have another HTTP client than httpx
    from starlette.testclient import TestClient, WebSocketDenialResponse

from users_session_manager import MemoryStore, SessionError, SessionManager, StoreUnavailable, TooManySessions
from users_session_manager.integrations.fastapi import UserSessions
from users_session_manager.integrations._web import RequestSession

UNKNOWN = "Otter-candid-46_" + "0" * 32
COOKIE = "__Host-session_key"


class BlockingStore(MemoryStore):
    """A store that may wait: remembers which threads it was asked on, and can be away."""

    blocking = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: set[int] = set()
        self.away = False

    def _asked(self) -> None:
        self.threads.add(threading.get_ident())
        if self.away:
            raise StoreUnavailable("no answer")


def asked_first(name: str) -> Callable[..., Any]:
    def method(store: BlockingStore, *args: Any, **options: Any) -> Any:
        store._asked()
        return getattr(MemoryStore, name)(store, *args, **options)

    return method


for name in ("add", "get", "restart", "renew_key", "time_left", "set_data", "of_user", "remove", "remove_user"):
    setattr(BlockingStore, name, asked_first(name))


def make_app(sessions: UserSessions, *, install: bool = True) -> FastAPI:
    app = FastAPI()
    if install:
        sessions.install(app)
    current = Annotated[RequestSession, Depends(sessions.current)]

    @app.post("/login")
    def login(name: str, request: Request, response: Response, timeout: float | None = None) -> dict[str, str]:
        try:
            return {"session_key": sessions.sign_in(request, response, name, timeout=timeout)}
        except TooManySessions as refusal:
            raise HTTPException(409) from refusal

    @app.post("/async/login")
    async def async_login(
        name: str, request: Request, response: Response, timeout: float | None = None
    ) -> dict[str, str]:
        return await run_in_threadpool(login, name, request, response, timeout)

    @app.post("/hasty/login")
    async def hasty_login(name: str, request: Request, response: Response) -> dict[str, str]:
        return {"session_key": sessions.sign_in(request, response, name)}

    @app.post("/logout")
    def logout(request: Request, response: Response) -> bool:
        return sessions.sign_out(request, response)

    @app.post("/renew")
    def renew(request: Request, response: Response, overlap: float = 0) -> dict[str, str]:
        return {"session_key": sessions.renew_key(request, response, overlap=overlap)}

    @app.post("/async/renew")
    async def async_renew(request: Request, response: Response, overlap: float = 0) -> dict[str, str]:
        return await run_in_threadpool(renew, request, response, overlap)

    @app.post("/hasty/renew")
    async def hasty_renew(request: Request, response: Response) -> dict[str, str]:
        return renew(request, response)

    @app.post("/elsewhere")
    def elsewhere(request: Request) -> int:
        return sessions.sign_out_elsewhere(request)

    @app.post("/async/elsewhere")
    async def async_elsewhere(request: Request) -> int:
        return await run_in_threadpool(sessions.sign_out_elsewhere, request)

    @app.post("/hasty/elsewhere")
    async def hasty_elsewhere(request: Request) -> int:
        return sessions.sign_out_elsewhere(request)

    @app.post("/hasty/logout")
    async def hasty_logout(request: Request, response: Response) -> bool:
        return sessions.sign_out(request, response)

    recent_session = Annotated[RequestSession, Depends(sessions.recent(3600))]

    @app.get("/recent")
    def recent(session: recent_session) -> str:
        return session.username

    @app.get("/async/recent")
    async def async_recent(session: recent_session) -> str:
        return session.username

    @app.get("/me")
    def me(session: current) -> dict[str, Any]:
        return {"username": session.username, "data": session.data}

    @app.get("/async/me")
    async def async_me(session: current) -> dict[str, Any]:
        return {"username": session.username, "data": session.data, "since": session.createdAt}

    @app.get("/passive")
    async def passive(session: Annotated[RequestSession, Depends(sessions.passive)]) -> str:
        return session.username

    optional_session = Annotated[RequestSession | None, Depends(sessions.optional)]

    @app.get("/optional")
    async def optional(session: optional_session) -> str:
        return "nobody" if session is None else session.username

    @app.get("/open")
    async def open_to_all() -> str:
        return "hello"

    @app.get("/ends")
    def ends(session: current) -> str:
        sessions.manager.deleteSession(session.key)
        return session.username

    @app.get("/ends-and-writes")
    def ends_and_writes(session: current) -> str:
        sessions.manager.deleteSession(session.key)
        session.data = "lost"
        return "written"

    @app.post("/renews-and-writes")
    def renews_and_writes(session: current, request: Request, response: Response) -> dict[str, str]:
        first = sessions.renew_key(request, response)
        session.data = first
        second = sessions.renew_key(request, response)
        return {"first": first, "second": second, "held": session.key}

    @app.post("/changes-its-mind")
    def changes_its_mind(visitor: optional_session, request: Request, response: Response) -> bool:
        sessions.sign_in(request, response, "fabio")
        sessions.sign_in(request, response, "luca")
        return sessions.sign_out(request, response)

    @app.get("/looks-up")
    def looks_up(session: current) -> Any:
        return sessions.manager.getSessionDetails(UNKNOWN)

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


@pytest.fixture(params=["with an error listener", "without"])
def either(request: pytest.FixtureRequest, manager: SessionManager) -> SessionManager:
    if request.param == "with an error listener":
        manager.on("error", lambda *_: None)
    return manager


@pytest.fixture
def blocking() -> BlockingStore:
    store = BlockingStore(thread=False)
    SessionManager(store=store)
    return store


GUARDED = ("/me", "/async/me", "/passive")


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.json()) == (401, {"logout": True})


def test_importing_it_without_fastapi_says_what_to_install():
    code = "import sys; sys.modules['fastapi'] = None; import users_session_manager.integrations.fastapi"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependency: fastapi is not installed: pip install 'users-session-manager[fastapi]'" in ended.stderr


class TestGuard:
    @pytest.mark.parametrize("path", ["/me", "/async/me"])
    def test_the_header_lets_a_live_session_in_and_prolongs_it(self, client, manager, clock, path):
        key = manager.loadNewSession("luca")
        manager.setSessionData(key, {"a": 1})
        clock.turn(1000)
        answer = client.get(path, headers={"Session-Key": key}).json()
        assert (answer["username"], answer["data"]) == ("luca", {"a": 1})
        assert manager.getSessionTimeLeft(key) == 3000

    def test_so_does_the_cookie(self, client, manager):
        client.cookies.set(COOKIE, manager.loadNewSession("luca"))
        assert client.get("/async/me").json()["username"] == "luca"

    def test_a_passive_route_does_not_prolong(self, client, manager, clock):
        key = manager.loadNewSession("luca")
        clock.turn(1000)
        assert client.get("/passive", headers={"Session-Key": key}).json() == "luca"
        assert manager.getSessionTimeLeft(key) == 2000

    @pytest.mark.parametrize("path", GUARDED)
    @pytest.mark.parametrize("key", [None, "", "luca", UNKNOWN])
    def test_without_a_live_session_the_answer_is_401_and_logout(self, either, client, path, key):
        assert refused(client.get(path, headers={} if key is None else {"Session-Key": key}))

    def test_a_session_that_has_run_out_is_refused(self, either, client, clock):
        key = either.loadNewSession("luca")
        clock.turn(3000)
        assert all(refused(client.get(path, headers={"Session-Key": key})) for path in GUARDED)

    def test_a_doubled_or_joined_header_is_refused_whatever_the_cookie(self, either, client):
        key = either.loadNewSession("luca")
        client.cookies.set(COOKIE, key)
        for values in ([key, key], [f"{key},{key}"], [key, "x"], [""]):
            answer = client.get("/me", headers=[("Session-Key", value) for value in values])
            assert refused(answer)
            assert "set-cookie" not in answer.headers, "the cookie is alive"
        assert client.get("/me").status_code == 200

    def test_a_key_in_the_url_or_under_another_name_is_none(self, client, manager):
        key = manager.loadNewSession("luca")
        assert refused(client.get("/me", params={"session_key": key, "Session-Key": key}))
        assert refused(client.get("/me", headers={"session_key": key}))
        assert refused(client.get("/me", headers={"Cookie": f"session_key={key}"}))

    def test_the_cookie_of_a_session_that_has_ended_is_taken_back(self, either, client):
        client.post("/login", params={"name": "luca"})
        either.deleteAllSessions()
        answer = client.get("/me")
        assert refused(answer)
        assert answer.headers["set-cookie"].startswith(f'{COOKIE}=""; ')
        assert "Secure" in answer.headers["set-cookie"], "without it a browser would not take a __Host- cookie back"
        assert COOKIE not in client.cookies

    def test_a_key_that_a_route_looks_up_in_vain_costs_nobody_their_cookie(self, client, manager):
        client.post("/login", params={"name": "luca"})
        answer = client.get("/looks-up")
        assert refused(answer)
        assert "set-cookie" not in answer.headers
        assert manager.getLoggedUsers() == ["luca"]

    def test_what_was_let_in_stays_readable_when_the_session_ends_meanwhile(self, either, client):
        headers = {"Session-Key": either.loadNewSession("luca")}
        assert client.get("/ends", headers=headers).json() == "luca"
        assert refused(client.get("/ends", headers=headers))

    def test_writing_to_a_session_that_has_ended_meanwhile_is_refused(self, either, client):
        assert refused(client.get("/ends-and-writes", headers={"Session-Key": either.loadNewSession("luca")}))
        client.cookies.set(COOKIE, either.loadNewSession("luca"))
        answer = client.get("/ends-and-writes")
        assert refused(answer)
        assert answer.headers["set-cookie"].startswith(f'{COOKIE}=""; ')

    def test_an_optional_session_sends_nobody_away(self, either, client, clock):
        key = either.loadNewSession("luca")
        assert client.get("/optional").json() == "nobody"
        assert client.get("/optional", headers={"Session-Key": UNKNOWN}).json() == "nobody"
        clock.turn(1000)
        assert client.get("/optional", headers={"Session-Key": key}).json() == "luca"
        assert either.getSessionTimeLeft(key) == 3000

    def test_a_websocket_is_guarded_too(self, client, manager):
        with client.websocket_connect("/socket", headers={"Session-Key": manager.loadNewSession("luca")}) as socket:
            assert socket.receive_text() == "luca"
        with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect("/socket"):
            pass
        assert refusal.value.status_code == 401

    def test_without_install_nobody_gets_through_and_the_reason_is_said(self, manager):
        client = client_of(make_app(UserSessions(), install=False))
        for key in (manager.loadNewSession("luca"), UNKNOWN):
            for path in (*GUARDED, "/optional"):
                with pytest.raises(SessionError, match=r"sessions\.install\(app\)"):
                    client.get(path, headers={"Session-Key": key})
        assert client.get("/open").status_code == 200

    def test_a_manager_and_names_of_its_own(self, manager):
        sessions = UserSessions(manager, header="X-Login", cookie=None)
        assert sessions.manager is manager
        client = client_of(make_app(sessions))
        answer = client.post("/login", params={"name": "luca"})
        assert "set-cookie" not in answer.headers
        assert client.get("/me", headers={"X-Login": answer.json()["session_key"]}).status_code == 200
        assert refused(client.get("/me", headers={"X-Login": UNKNOWN}))
        assert client.post("/logout", headers={"X-Login": answer.json()["session_key"]}).json() is True
        with pytest.raises(ValueError, match="underscore"):
            UserSessions(header="session_key")


class TestLogin:
    @pytest.mark.parametrize("path", ["/login", "/async/login", "/hasty/login"])
    def test_the_cookie_is_for_the_server_alone(self, client, manager, path):
        answer = client.post(path, params={"name": "luca"})
        key = answer.json()["session_key"]
        assert manager.getUsernameFromSessionKey(key) == "luca"
        name, *options = answer.headers["set-cookie"].split("; ")
        assert name == f"{COOKIE}={key}"
        assert {option.lower() for option in options} == {"httponly", "path=/", "samesite=lax", "secure"}

    def test_on_plain_http_it_has_no_prefix(self, manager):
        client = TestClient(make_app(UserSessions(secure=False)), base_url="http://example.test")
        cookie = client.post("/login", params={"name": "luca"}).headers["set-cookie"]
        assert cookie.startswith("session_key=")
        assert "secure" not in cookie.lower()
        assert client.get("/me").status_code == 200

    def test_the_session_the_client_had_ends(self, either, client):
        first = client.post("/login", params={"name": "luca"}).json()["session_key"]
        client.post("/login", params={"name": "fabio"})
        assert either.getUsernameFromSessionKey(first) is False
        assert either.getLoggedUsers() == ["fabio"]
        either.deleteAllSessions()
        assert client.post("/login", params={"name": "luca"}).status_code == 200, (
            "one that has ended is in nobody's way"
        )

    @pytest.mark.parametrize("path", ["/login", "/async/login"])
    def test_that_of_the_same_user_goes_on_under_a_new_key(self, either, client, clock, path):
        old = client.post(path, params={"name": "luca"}).json()["session_key"]
        session = either.sessions[old]
        session.createdAt = session.authenticatedAt = 1000.0
        session.data = "cart"
        clock.turn(1000)
        key = client.post(path, params={"name": "luca"}).json()["session_key"]
        assert client.cookies[COOKIE] == key != old
        assert either.getSessionTimeLeft(key) == 3000
        assert (list(either.sessions), either.getSessionData(key)) == ([key], "cart")
        assert session.createdAt == 1000.0 < session.authenticatedAt
        assert refused(client.get("/me", headers={"Session-Key": old}))
        assert client.get("/me").json() == {"username": "luca", "data": "cart"}

    def test_an_attacker_never_knows_the_key_the_victim_ends_up_with(self, either, client):
        planted = [either.loadNewSession("mallory"), either.loadNewSession("luca"), UNKNOWN]
        for key in planted:
            client.cookies.set(COOKIE, key)
            assert client.post("/login", params={"name": "luca"}).json()["session_key"] not in planted
            client.cookies.clear()
        for key in planted:
            assert refused(client.get("/me", headers={"Session-Key": key}))

    @pytest.mark.parametrize("path", ["/login", "/logout"])
    def test_the_sessions_of_both_the_header_and_the_cookie_are_gone(self, either, client, path):
        header, cookie = either.loadNewSession("fabio"), either.loadNewSession("mallory")
        client.cookies.set(COOKIE, cookie)
        client.post(path, params={"name": "luca"}, headers={"Session-Key": header})
        assert either.getLoggedUsers() == (["luca"] if path == "/login" else [])

    @pytest.mark.parametrize("path", ["/login", "/async/login"])
    def test_a_refused_login_leaves_the_clients_session_and_cookie_alone(self, either, client, path):
        either.setMaxSessionsPerUser(1, "reject")
        either.loadNewSession("luca")
        client.post(path, params={"name": "fabio"})
        answer = client.post(path, params={"name": "luca"})
        assert answer.status_code == 409
        assert "set-cookie" not in answer.headers
        assert client.get("/me").json()["username"] == "fabio"

    def test_with_a_timeout_of_its_own_the_session_keeps_to_it_and_the_browser_keeps_the_cookie(
        self, either, client, clock
    ):
        answer = client.post("/login", params={"name": "luca", "timeout": 9000})
        assert "Max-Age=34560000" in answer.headers["set-cookie"]
        clock.turn(8000)
        assert client.get("/me").json()["username"] == "luca"
        assert either.getSessionTimeLeft(answer.json()["session_key"]) == 9000
        assert "Max-Age=34560000" in client.post("/renew").headers["set-cookie"]

    def test_several_times_in_a_request_leaves_one_session_or_none(self, either, client):
        client.post("/login", params={"name": "mallory"})
        for _ in range(2):  # with and without a session that the route has been given
            answer = client.post("/changes-its-mind")
            assert answer.json() is True
            assert either.getLoggedUsers() == []
            assert answer.headers.get_list("set-cookie")[-1].startswith(f'{COOKIE}=""; ')  # browsers take the last
            client.cookies.clear()

    def test_logging_out_ends_the_session_and_takes_the_cookie_back(self, either, client):
        client.post("/login", params={"name": "luca"})
        assert client.post("/logout").json() is True
        assert either.getLoggedUsers() == []
        assert COOKIE not in client.cookies
        assert client.post("/logout").json() is False


class TestRenewKey:
    @pytest.mark.parametrize("path", ["/renew", "/async/renew", "/hasty/renew"])
    def test_the_new_key_is_in_the_answer_and_the_cookie_and_the_old_one_is_dead_at_once(
        self, either, client, clock, path
    ):
        old = client.post("/login", params={"name": "luca"}).json()["session_key"]
        clock.turn(1000)
        key = client.post(path).json()["session_key"]
        assert client.cookies[COOKIE] == key != old
        assert either.getSessionTimeLeft(key) == 2000
        assert refused(client.get("/me", headers={"Session-Key": old}))
        assert client.get("/me").json()["username"] == "luca"

    @pytest.mark.parametrize("path", ["/renew", "/async/renew"])
    def test_with_an_overlap_a_request_under_way_passes_and_is_refused_from_then_on(self, either, client, clock, path):
        old = client.post("/login", params={"name": "luca"}).json()["session_key"]
        client.post(path, params={"overlap": 10})
        clock.turn(9.5)
        answer = client.get("/me", headers={"Session-Key": old})
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        clock.turn(0.5)
        assert refused(client.get("/me", headers={"Session-Key": old}))
        assert client.get("/me").status_code == 200

    def test_what_a_route_was_given_goes_on_under_the_new_key(self, either, client):
        client.post("/login", params={"name": "luca"})
        answer = client.post("/renews-and-writes").json()
        assert answer["first"] != answer["second"] == answer["held"] == client.cookies[COOKIE]
        assert list(either.sessions) == [answer["second"]]
        assert either.getSessionData(answer["second"]) == answer["first"]

    @pytest.mark.parametrize("path", ["/renew", "/async/renew"])
    def test_without_a_session_it_is_refused(self, either, client, path):
        for headers in ({}, {"Session-Key": UNKNOWN}, {"Cookie": f"{COOKIE}={UNKNOWN}"}):
            assert refused(client.post(path, headers=headers))


@pytest.mark.parametrize("path", ["/recent", "/async/recent"])
class TestMaxAge:
    def test_without_a_session_it_is_401(self, either, client, path):
        for headers in ({}, {"Session-Key": UNKNOWN}, {"Cookie": f"{COOKIE}={UNKNOWN}"}):
            assert refused(client.get(path, headers=headers))

    def test_a_login_that_is_too_old_is_403_until_the_key_is_renewed(self, either, client, path):
        key = client.post("/login", params={"name": "luca"}).json()["session_key"]
        assert client.get(path).json() == "luca"
        # The second one: as if the computer's time had been set back since.
        for away in (-3601, +3600):
            either.sessions[key].authenticatedAt = time.time() + away
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
            assert "set-cookie" not in answer.headers
            assert client.get("/me").status_code == 200
        client.post("/renew")
        assert client.get(path).json() == "luca"


def test_a_websocket_can_take_a_recent_login_too(client, manager):
    key = manager.loadNewSession("luca")
    with client.websocket_connect("/recent/socket", headers={"Session-Key": key}) as socket:
        assert socket.receive_text() == "luca"
    manager.sessions[key].authenticatedAt = 1000.0
    old = client.websocket_connect("/recent/socket", headers={"Session-Key": key})
    with pytest.raises(WebSocketDenialResponse) as refusal, old:
        pass
    assert refusal.value.status_code == 403


@pytest.mark.parametrize("max_age", [None, "60", -1, float("nan"), float("inf"), True])
def test_a_max_age_that_is_no_time_is_refused_where_it_stands(max_age):
    with pytest.raises((TypeError, ValueError), match="max_age"):
        UserSessions().recent(max_age)


class TestSignOutElsewhere:
    @pytest.mark.parametrize("path", ["/elsewhere", "/async/elsewhere", "/hasty/elsewhere"])
    def test_the_others_of_the_same_user_end_and_nobody_elses(self, either, client, path):
        there = either.loadNewSession("luca")
        either.loadNewSession("fabio")
        client.post("/login", params={"name": "luca"})
        assert client.post(path).json() == 1
        assert refused(client.get("/me", headers={"Session-Key": there}))
        assert client.get("/me").status_code == 200
        assert either.getLoggedUsers() == ["fabio", "luca"]

    @pytest.mark.parametrize("path", ["/elsewhere", "/async/elsewhere"])
    def test_without_a_session_it_is_refused_and_ends_nothing(self, either, client, path):
        either.loadNewSession("luca")
        for headers in ({}, {"Session-Key": UNKNOWN}, {"Cookie": f"{COOKIE}={UNKNOWN}"}):
            assert refused(client.post(path, headers=headers))
        assert either.getLoggedUsers() == ["luca"]


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
    def test_guarded_routes_name_their_security_schemes(self, manager, options, schemes):
        app = make_app(UserSessions(**options))
        document = client_of(app).get("/openapi.json").json()
        assert document["components"]["securitySchemes"] == schemes
        assert app.openapi() == app.openapi() == document
        for path in (*GUARDED, "/optional", "/recent"):
            assert document["paths"][path]["get"]["security"] == [{name: []} for name in schemes]
            assert "parameters" not in document["paths"][path]["get"]
        assert "security" not in document["paths"]["/open"]["get"]

    def test_an_application_without_a_guarded_route_names_none(self, manager):
        app = FastAPI()
        UserSessions().install(app)
        assert "components" not in app.openapi()


class TestBlockingStore:
    @pytest.mark.parametrize("path", ["/me", "/async/me", "/passive", "/optional", "/recent", "/async/recent"])
    def test_it_is_asked_in_a_thread_and_never_on_the_loop(self, blocking, path):
        loops: set[int] = set()
        app = make_app(UserSessions())

        @app.middleware("http")
        async def see_the_loop(request: Request, call_next: Callable[..., Any]) -> Any:
            loops.add(threading.get_ident())
            return await call_next(request)

        with client_of(app) as client:
            for _ in range(2):
                client.post("/async/login", params={"name": "luca"})
            client.post("/async/renew", params={"overlap": 60})
            client.post("/async/elsewhere")
            assert "luca" in client.get(path).text
            client.get(path, headers={"Session-Key": UNKNOWN})
            client.post("/logout")
        assert blocking.threads
        assert not blocking.threads & loops

    def test_a_login_on_the_loop_is_refused_and_the_way_said(self, blocking):
        with pytest.raises(SessionError, match="await run_in_threadpool"):
            client_of(make_app(UserSessions())).post("/hasty/login", params={"name": "luca"})
        assert SessionManager().getLoggedUsers() == []

    @pytest.mark.parametrize("path", ["/hasty/renew", "/hasty/elsewhere", "/hasty/logout"])
    def test_so_is_everything_else_that_changes_sessions_and_then_nothing_has_changed(self, blocking, path):
        keys = [SessionManager().loadNewSession("luca") for _ in range(2)]
        with pytest.raises(SessionError, match="await run_in_threadpool"):
            client_of(make_app(UserSessions())).post(path, headers={"Session-Key": keys[0]})
        assert list(blocking.sessions) == keys

    @pytest.mark.parametrize("path", [*GUARDED, "/optional", "/recent"])
    def test_while_it_is_away_the_answer_is_503_and_nobody_loses_a_cookie(self, blocking, path):
        client = client_of(make_app(UserSessions()))
        key = client.post("/login", params={"name": "luca"}).json()["session_key"]
        blocking.away = True
        for answer in (client.get(path), client.get(path, headers={"Session-Key": UNKNOWN})):
            assert (answer.status_code, answer.json()) == (503, {"unavailable": True})
            assert int(answer.headers["retry-after"]) > 0
            assert "set-cookie" not in answer.headers
        for change in ("/login?name=fabio", "/renew", "/elsewhere", "/logout"):
            answer = client.post(change)
            assert (answer.status_code, answer.json()) == (503, {"unavailable": True}), change
            assert "set-cookie" not in answer.headers
        blocking.away = False
        assert client.cookies[COOKIE] == key
        assert client.get("/me").json()["username"] == "luca"

    def test_a_store_that_goes_away_between_a_rejection_and_its_answer_costs_nobody_a_cookie(self, blocking):
        blocking.away = True
        sessions = UserSessions()
        request = Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={UNKNOWN}".encode())]})
        answer = sessions._answer_rejection(request, StoreUnavailable())
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


class TestLoop:
    def test_from_the_start_async_listeners_run_on_the_loop_of_the_application(self, manager, clock):
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

    def test_the_lifespan_of_the_application_goes_on_as_it_was(self, manager):
        from contextlib import asynccontextmanager

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
