"""Django: a store that is unreachable, or that has to be waited for. `test_web.py` has what all frameworks share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from watched_store import WatchedStore

pytest.importorskip("django")

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django_project import COOKIE, EVERY_VIEW, UNKNOWN, OverAsgi, log_in, new_client

from users_session_manager import SessionManager
from users_session_manager.integrations.django import renew_key, sign_out_elsewhere
from users_session_manager.integrations.django import sign_in as sign_in_with

MIDDLEWARE = settings.MIDDLEWARE

pytestmark = pytest.mark.usefixtures("django_project")


@pytest.fixture
def slow() -> WatchedStore:
    """The store of the manager, which says that it may have to be waited for."""
    store = WatchedStore(thread=True)
    SessionManager(store=store)
    return store


def test_unreachable_store(client, unreachable):
    """While the store is unreachable, whatever asks who the user is is answered 503, and no user is logged out."""
    key = log_in(client)
    unreachable.unreachable = True
    urls = [f"/{kind}/{view}" for kind in EVERY_VIEW for view in ("mine", "recent")]
    urls += ["/sync/who", "/async/who", "/sync/user", "/async/user"]
    changes = [f"/{view}/{change}" for view in ("sync", "async") for change in ("renew", "elsewhere")]
    for url in urls + changes:
        answer = client.post(url) if url in changes else client.get(url)
        assert (answer.status_code, answer.json(), answer["Retry-After"]) == (503, {"unavailable": True}, "5"), url
        assert "no-store" in answer["Cache-Control"]
    unreachable.unreachable = False
    assert client.get("/sync/mine").json() == {"username": "luca"}
    assert key in unreachable.sessions


def test_never_on_the_loop(slow):
    """A store that may wait is asked on a thread without an event loop, also for what changes sessions."""
    client = new_client("asgi")
    for _ in range(2):
        log_in(client, url="/async/login")
    for url in ("/async/remember", "/async/renew", "/async/elsewhere"):
        assert client.post(url, {"timeout": 60, "overlap": 60}).status_code == 200
    for url in ("/async/mine", "/asyncclass/mine", "/async/who", "/async/poll", "/async/recent"):
        assert client.get(url).status_code == 200
    client.cookies[COOKIE] = UNKNOWN
    for url in ("/async/mine", "/asyncclass/mine", "/async/who", "/async/poll"):
        assert client.get(url).status_code in (200, 401)
    assert len(slow.asked) > 12
    assert not any(is_on_loop for _, is_on_loop in slow.asked)


@pytest.mark.parametrize("over", ["wsgi", "asgi", "asgi below a middleware of old"])
def test_refused_on_the_loop(manager, over):
    """Functions that change sessions are refused on the loop, say what to call, and change nothing."""
    keys = [manager.loadNewSession("luca") for _ in range(2)]
    middleware = [*MIDDLEWARE, f"{__name__}.middleware_of_old"] if "old" in over else MIDDLEWARE
    for function in (renew_key, sign_out_elsewhere, sign_in_with):

        async def hasty(request: Any, function: Any = function) -> Any:
            return HttpResponse(function(request, *([None] if function is sign_in_with else [])))

        project = override_settings(ROOT_URLCONF=(path("hasty", hasty),), MIDDLEWARE=middleware)
        client = Client() if over == "wsgi" else OverAsgi(raise_request_exception=True)
        cure = rf"await sync_to_async\({function.__name__}\)"
        with project, pytest.raises(SynchronousOnlyOperation, match=cure):
            client.get("/hasty", headers={"Session-Key": keys[0]})
        assert list(manager.sessions) == keys


def middleware_of_old(get_response: Any) -> Any:
    return lambda request: get_response(request)


def test_reading_on_the_loop(slow):
    """Reading the session on a loop says what to do instead."""

    async def hasty(request: Any) -> Any:
        return HttpResponse(request.user_session)

    urls = override_settings(ROOT_URLCONF=(path("hasty", hasty),))
    client = OverAsgi(raise_request_exception=True)
    with urls, pytest.raises(SynchronousOnlyOperation, match="auser_session"):
        client.get("/hasty")


def test_user_on_the_loop(slow):
    """Without a login `request.user` asks no store, so it may be read on a loop; with one it names `auser()`."""

    async def hasty(request: Any) -> Any:
        return HttpResponse(str(request.user.is_anonymous))

    async def hasty_after_login(request: Any) -> Any:
        user, _ = await sync_to_async(get_user_model().objects.get_or_create)(username="luca")
        await sync_to_async(sign_in_with)(request, user)
        return HttpResponse()

    cookies = "django.contrib.sessions.backends.signed_cookies"
    urls = (path("hasty", hasty), path("login", hasty_after_login))
    client = OverAsgi(raise_request_exception=True)
    with override_settings(ROOT_URLCONF=urls, SESSION_ENGINE=cookies):
        assert client.get("/hasty").content == b"True"
        client.get("/login")
        with pytest.raises(SynchronousOnlyOperation, match=r"request\.auser"):
            client.get("/hasty")


def test_listeners(manager):
    """Coroutine functions that listen run on the loop of the application."""
    heard: list[tuple[str, Any]] = []

    @manager.on("sessionCreated")  # as the project is loaded: there is no loop yet
    async def listener(key: str) -> None:
        heard.append((key, asyncio.get_running_loop()))

    async def application() -> None:
        client = AsyncClient()
        answer = await client.post("/sync/login", {"username": "luca", "password": "lasagne"})  # on a thread
        while not heard:
            await asyncio.sleep(0.01)
        assert heard == [(answer.json()["key"], asyncio.get_running_loop())]

    asyncio.run(asyncio.wait_for(application(), 30))


def user_from_above(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["X-User"] = request.user.get_username()
        return response

    return middleware


@pytest.mark.parametrize("save", [False, True])
def test_unreachable_store_from_above(kind, unreachable, save):
    """The answer stays 503 for SessionMiddleware, which may save each session, and for what is above it."""
    above = [f"{__name__}.user_from_above", *MIDDLEWARE]
    with override_settings(MIDDLEWARE=above, SESSION_SAVE_EVERY_REQUEST=save):
        client = new_client("asgi" if kind == "async" else "wsgi")
        log_in(client)
        unreachable.unreachable = True
        for url in (f"/{kind}/mine", f"/{kind}/user", f"/{kind}/who", "/guarded"):
            answer = client.get(url)
            assert (answer.status_code, answer.json(), answer["X-User"]) == (503, {"unavailable": True}, ""), url
        unreachable.unreachable = False
        assert client.get("/guarded").content == b"luca"


def test_unreachable_store_and_a_session_to_save(client, unreachable):
    """A view that does not ask who the user is is answered, even if Django saves each session; this one stays."""
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        log_in(client)
        unreachable.unreachable = True
        assert client.get("/bare").content == b"hello"
        unreachable.unreachable = False
        assert client.get("/guarded").content == b"luca"
