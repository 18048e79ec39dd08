"""Signing a test client in, in each framework and with every setting of header, cookie and https."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a route.

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

for package in ("flask", "flask_login", "django", "fastapi", "httpx"):
    pytest.importorskip(package)

import socketio  # noqa: E402
from asgiref.sync import sync_to_async  # noqa: E402
from fastapi import Depends, FastAPI, Request, Response  # noqa: E402
from flask import Flask  # noqa: E402
from flask_login import FlaskLoginClient, LoginManager, UserMixin, login_required  # noqa: E402

from users_session_manager import SessionError, SessionManager, TooManySessions  # noqa: E402
from users_session_manager.integrations import fastapi as fastapi_integration  # noqa: E402
from users_session_manager.integrations import flask as flask_integration  # noqa: E402
from users_session_manager.testing import expect_logout, fresh_sessions, sign_in  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

WAYS = [
    {"header": header, "cookie": cookie, "secure": secure}
    for header in ("Session-Key", "X-Key", None)
    for cookie in ("session_key", "me", None)
    for secure in (True, False)
    if header or cookie
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with fresh_sessions():
        yield


def is_expected(client: Any) -> bool:
    """Whether the kit finds the session of a client."""
    manager = SessionManager()
    manager.addWatcher(_Watcher())
    with expect_logout(client):
        manager.deleteAllSessions()
    return True


class _Watcher:
    def watched(self) -> dict[Any, str]:
        return {}

    def noticed(self, notice: Any) -> None:
        pass


# Flask


def flask_app(**settings: Any) -> Flask:
    app = Flask("shop")
    app.config.update({f"USER_SESSIONS_{name}": value for name, value in settings.items()}, TESTING=True)
    sessions = flask_integration.UserSessions(app)
    app.extensions["sessions"] = sessions

    @app.get("/me")
    @flask_integration.session_required
    def me() -> Any:
        session = flask_integration.current_session
        return {"username": session.username, "data": session.data, "userId": session.userId}

    @app.post("/renew")
    def renew() -> Any:
        return {"key": sessions.renew_key()}

    @app.post("/logout")
    def logout() -> Any:
        return {"ended": sessions.sign_out()}

    return app


@every_way
def test_flask(way: dict[str, Any]):
    app = flask_app(HEADER=way["header"], COOKIE=way["cookie"], COOKIE_SECURE=way["secure"])
    client, stranger = app.test_client(), app.test_client()
    key = sign_in(client, "luca")
    assert SessionManager().getUsernameFromSessionKey(key) == "luca"
    assert client.get("/me").json["username"] == "luca"
    assert stranger.get("/me").status_code == 401
    assert is_expected(client)
    assert client.get("/me").status_code == 401


def test_flask_as_a_login():
    """The application's own renewal and logout go on from there, and a second login renews the key."""
    client = flask_app().test_client()
    first = sign_in(client, "luca", data="cart", userId=7)
    assert client.get("/me").json == {"username": "luca", "data": "cart", "userId": "7"}
    second = sign_in(client, "luca", userId=7)
    assert second != first
    assert SessionManager().getLoggedUsers() == ["luca"]
    third = client.post("/renew").json["key"]
    assert client.get("/me").json["data"] == "cart"
    assert list(SessionManager().sessions) == [third]
    assert client.post("/logout").json == {"ended": True}
    assert client.get("/me").status_code == 401


def test_flask_hooks():
    """No hook and no error handler of the application answers in place of the login, and none is lost."""
    app, asked = flask_app(MAX_SESSIONS_PER_USER=1, OVERFLOW="reject"), []
    app.before_request(lambda: asked.append(1) or ("closed", 418))
    client = app.test_client()
    sign_in(client, "luca")
    assert asked == []
    assert client.get("/me").status_code == 418
    with pytest.raises(TooManySessions):
        sign_in(app.test_client(), "luca")
    with pytest.raises(TypeError):
        sign_in(client, 7)
    with pytest.raises(SessionError, match="UserSessions"):
        sign_in(Flask("bare").test_client(), "luca")


def test_flask_in_a_with():
    """A client that keeps the context of its last request."""
    with flask_app().test_client() as client:
        sign_in(client, "luca")
        assert client.get("/me").json["username"] == "luca"
        sign_in(client, "fabio")
        assert client.get("/me").json["username"] == "fabio"
        assert flask_integration.current_session.username == "fabio"


def test_flask_at_another_address():
    """With a SERVER_NAME, an APPLICATION_ROOT and a subdomain."""
    app = flask_app()
    app.config.update(SERVER_NAME="shop.test", APPLICATION_ROOT="/shop")
    client = app.test_client()
    sign_in(client, "luca")
    assert client.get("/me").json["username"] == "luca"


def flask_login_app(**settings: Any) -> Any:
    app = Flask("blog")
    app.config.update(settings, TESTING=True, SECRET_KEY="only for the tests")

    class User(UserMixin):
        def __init__(self, user_id: str) -> None:
            self.id, self.username = user_id, f"user {user_id}"

    login_manager = LoginManager(app)
    flask_integration.UserSessions(app, login_manager=login_manager)
    login_manager.user_loader(User)

    @app.get("/")
    @login_required
    def start() -> Any:
        return {"username": flask_integration.current_session.username}

    @app.get("/api")
    @flask_integration.session_required
    def api() -> Any:
        return {}

    return app, User("7")


@pytest.mark.parametrize("cookie", ["session_key", None])
@pytest.mark.parametrize("protection", ["basic", "strong"])
@pytest.mark.parametrize("kind", [None, FlaskLoginClient])
def test_flask_login(cookie: str | None, protection: str, kind: Any):
    app, user = flask_login_app(USER_SESSIONS_COOKIE=cookie, SESSION_PROTECTION=protection)
    app.test_client_class = kind
    client = app.test_client()
    sign_in(client, user, remember=True)
    assert client.get("/").json == {"username": "user 7"}
    assert client.get("/api").status_code == 200
    [session] = SessionManager().getUserSessions("7")
    assert session["timeLeft"] == 365 * 24 * 60 * 60
    assert is_expected(client)
    assert client.get("/").status_code == 401


def test_flask_login_refuses():
    app, user = flask_login_app()
    type(user).is_active = False
    with pytest.raises(ValueError, match="is_active"):
        sign_in(app.test_client(), user)
    assert SessionManager().getLoggedUsers() == []


# FastAPI


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI()
    sessions = fastapi_integration.UserSessions(**options)
    sessions.install(app)

    @app.get("/me")
    async def me(session: Annotated[Any, Depends(sessions.current)]) -> Any:
        return {"username": session.username, "data": session.data, "userId": session.userId}

    @app.post("/renew")
    def renew(request: Request, response: Response) -> Any:
        return {"key": sessions.renew_key(request, response)}

    @app.post("/logout")
    def logout(request: Request, response: Response) -> Any:
        return {"ended": sessions.sign_out(request, response)}

    return app


FASTAPI_WAYS = [{**way, "bearer": bearer} for way in WAYS for bearer in (False, True)]
FASTAPI_WAYS.append({"header": None, "cookie": None, "secure": True, "bearer": True})


@pytest.mark.parametrize("way", FASTAPI_WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_fastapi(way: dict[str, Any]):
    app = fastapi_app(**way)
    client, stranger = TestClient(app), TestClient(app)
    key = sign_in(client, "luca")
    assert SessionManager().getUsernameFromSessionKey(key) == "luca"
    assert client.get("/me").json()["username"] == "luca"
    assert stranger.get("/me").status_code == 401
    assert is_expected(client)
    assert client.get("/me").status_code == 401


def test_fastapi_as_a_login():
    """The application's own renewal and logout go on from there, and a second login renews the key."""
    with TestClient(fastapi_app()) as client:
        client.cookies.set("theme", "dark")
        first = sign_in(client, "luca", data="cart", userId=7)
        assert client.get("/me").json() == {"username": "luca", "data": "cart", "userId": "7"}
        second = sign_in(client, "luca", userId=7)
        assert second != first
        assert SessionManager().getLoggedUsers() == ["luca"]
        third = client.post("/renew").json()["key"]
        assert client.get("/me").json()["data"] == "cart"
        assert list(SessionManager().sessions) == [third]
        assert client.post("/logout").json() == {"ended": True}
        assert client.get("/me").status_code == 401
        assert dict(client.cookies) == {"theme": "dark"}


def test_fastapi_within_other_applications():
    """Behind Socket.IO, wrapped in a middleware, and mounted."""
    app, outer = fastapi_app(), FastAPI()
    outer.mount("/shop", app)
    for client, path in (
        (TestClient(socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"), app)), "/me"),
        (TestClient(outer), "/shop/me"),
    ):
        sign_in(client, "luca")
        assert client.get(path).json()["username"] == "luca"
        assert is_expected(client)


def test_fastapi_refuses():
    client = TestClient(fastapi_app(max_sessions_per_user=1, overflow="reject"))
    sign_in(client, "luca")
    with pytest.raises(TooManySessions):
        sign_in(TestClient(client.app), "luca")
    with pytest.raises(TypeError):
        sign_in(client, 7)
    with pytest.raises(SessionError, match="install"):
        sign_in(TestClient(FastAPI()), "luca")


# Django


@pytest.fixture
def django_user() -> Iterator[Any]:
    import django_project
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.test import override_settings

    get_user_model().objects.all().delete()
    with override_settings(ROOT_URLCONF=django_project.__name__, LOGIN_URL="/login"):
        yield get_user_model().objects.create_user("luca", password="lasagne")
    get_user_model().objects.all().delete()
    connection.close()


@every_way
def test_django(way: dict[str, Any], django_user: Any):
    from django.test import Client, override_settings

    settings = {"HEADER": way["header"], "COOKIE": way["cookie"], "COOKIE_SECURE": way["secure"]}
    with override_settings(USER_SESSIONS=settings):
        client, stranger = Client(), Client()
        key = sign_in(client, django_user)
        assert SessionManager().getUsernameFromSessionKey(key) == "luca"
        assert client.get("/sync/mine").json() == {"username": "luca"}
        assert client.get("/guarded").content == b"luca"
        assert stranger.get("/sync/mine").status_code == 401
        assert is_expected(client)
        assert client.get("/sync/mine").status_code == 401


def test_django_as_a_login(django_user: Any):
    """A username will do; the application's own renewal and logout go on from there, as a second login does."""
    from django.test import Client

    client = Client()
    first = sign_in(client, "luca", backend="django.contrib.auth.backends.ModelBackend")
    second = sign_in(client, "luca")
    assert second != first
    assert SessionManager().getLoggedUsers() == ["luca"]
    third = client.post("/sync/renew").json()["key"]
    assert list(SessionManager().sessions) == [third]
    assert client.get("/sync/mine").json() == {"username": "luca"}
    client.post("/logout")
    assert client.get("/sync/mine").status_code == 401
    with pytest.raises(type(django_user).DoesNotExist):
        sign_in(client, "nobody")


def test_django_async(django_user: Any):
    from django.test import AsyncClient

    async def test() -> None:
        client = AsyncClient()
        await sync_to_async(sign_in)(client, django_user)
        assert (await client.get("/async/mine")).json() == {"username": "luca"}
        assert is_expected(client)
        assert (await client.get("/async/mine")).status_code == 401

    asyncio.run(test())


def test_what_is_no_client():
    for wrong in (object(), None, Flask("shop"), 7):
        with pytest.raises(TypeError, match=rf"pass a test client.*not a .*{type(wrong).__qualname__}"):
            sign_in(wrong, "luca")


def test_imports():
    """The kit imports no framework, and no pytest."""
    code = (
        "import sys, users_session_manager.testing as kit\n"
        "try: kit.sign_in(object(), 'luca')\n"
        "except TypeError: pass\n"
        "print({name.partition('.')[0] for name in sys.modules} & "
        "{'flask', 'django', 'fastapi', 'starlette', 'pytest', 'socketio', 'redis'})"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "set()"
