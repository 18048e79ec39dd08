"""Parts of Django, and packages beside it, that log users in and read who is logged in, each in its own way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from watched_store import WatchedStore

pytest.importorskip("django")
pytest.importorskip("django_project")  # sets Django up, before modules with models and forms are imported

from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.auth import login as channels_login
from channels.auth import logout as channels_logout
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib import admin, auth
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path
from django_clients import BACKEND, middleware_below, of_proxy, sign_in
from django_project import COOKIE, new_client, user_named
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from users_session_manager import SessionManager
from users_session_manager.integrations.django import session_required


class NamesAsTokens(TokenAuthentication):
    """Without the table of the tokens, which would need an application of its own."""

    def authenticate_credentials(self, key: str) -> Any:
        return user_named(key), key


class RestView(APIView):
    authentication_classes = (SessionAuthentication, NamesAsTokens)
    permission_classes = (IsAuthenticated,)

    def get(self, request: Any) -> Any:
        return Response({"user": request.user.get_username()})


class Consumer(AsyncWebsocketConsumer):
    """Answers whom the socket belongs to; a name logs in, and "out" logs out."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "out":
            await channels_logout(self.scope)
        elif text_data:
            user = await get_user_model().objects.aget(username=text_data)
            await channels_login(self.scope, user, BACKEND)
            await database_sync_to_async(self.scope["session"].save)()
        await self.send(json.dumps([self.scope["user"].get_username(), self.scope["session"].session_key]))


@login_not_required
async def asign_in(request: Any) -> Any:
    await auth.alogin(request, await get_user_model().objects.aget(username=request.GET["name"]), BACKEND)
    return HttpResponse((await request.auser_session()).key)


async def asign_out(request: Any) -> Any:
    await auth.alogout(request)
    return HttpResponse(str(await request.auser_session()) + request.user.get_username())


def user(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


@login_not_required
def page(request: Any) -> Any:
    return HttpResponse("hello")


@session_required
def mine(request: Any) -> Any:
    return HttpResponse(request.user_session.username)


urlpatterns = [
    path("rest", RestView.as_view()),
    path("asign-in", asign_in),
    path("asign-out", asign_out),
    path("user", user),
    path("hello", page),
    path("mine", mine),
    path("admin/", admin.site.urls),
]


@pytest.fixture(autouse=True)
def project(fresh_django_users: None) -> Any:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login"):
        yield


# Django REST framework


def test_rest_session(manager, handler):
    """SessionAuthentication knows the user while the session lasts; with an unavailable store the answer is 503."""
    manager.close()
    store = WatchedStore()
    manager = SessionManager(store=store)
    client = sign_in(handler)
    assert client.get("/rest").json() == {"user": "luca"}
    store.unreachable = True
    answer = client.get("/rest")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    store.unreachable = False
    assert client.get("/rest").json() == {"user": "luca"}
    manager.deleteAllSessions()
    for _ in range(2):
        assert client.get("/rest").status_code == 403


def test_rest_token(manager, handler):
    """A token is no session: it needs none, starts none, and goes on beside one that has ended."""
    authorized = {"Authorization": "Token fabio"}
    client = new_client(handler)
    assert client.get("/rest", headers=authorized).json() == {"user": "fabio"}
    assert (manager.getLoggedUsers(), dict(client.cookies)) == ([], {})
    client = sign_in(handler)
    manager.deleteAllSessions()
    assert client.get("/rest", headers=authorized).json() == {"user": "fabio"}
    assert manager.getLoggedUsers() == []


# Channels


async def ask_socket(sessionid: str, *messages: str) -> list[Any]:
    """Open a socket with a cookie of Django's, and return the answer to each message."""
    headers = [(b"cookie", f"sessionid={sessionid}".encode())]
    scope = {"type": "websocket", "path": "/", "headers": headers, "query_string": b""}
    socket = ApplicationCommunicator(AuthMiddlewareStack(Consumer.as_asgi()), scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(30))["type"] == "websocket.accept"
    answers = []
    for message in messages:
        await socket.send_input({"type": "websocket.receive", "text": message})
        answers.append(json.loads((await socket.receive_output(30))["text"]))
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait(30)
    return answers


ask = async_to_sync(ask_socket)


def test_channels_user(manager, clock, handler):
    """A socket of AuthMiddlewareStack belongs to the user until the session has ended, and prolongs nothing."""
    client = sign_in(handler)
    (key,) = manager.sessions
    cookie = client.cookies["sessionid"].value
    clock.turn(1000)
    assert ask(cookie, "") == [["luca", cookie]]
    assert manager.getSessionTimeLeft(key) == 2000
    manager.deleteSession(key)
    for _ in range(3):
        assert [name for name, _ in ask(cookie, "")] == [""]


def test_channels_login(manager, handler):
    """A login in a consumer gets its session with the next request; a login over another one, and a logout, end one."""
    ((name, cookie),) = ask("", "luca")
    assert (name, manager.getLoggedUsers()) == ("luca", [])
    client = new_client(handler)
    client.cookies["sessionid"] = cookie
    assert client.get("/mine").content == client.get("/user").content == b"luca"
    assert manager.getLoggedUsers() == ["luca"]
    ((_, cookie),) = ask(client.cookies["sessionid"].value, "fabio")
    assert manager.getLoggedUsers() == []
    client.cookies["sessionid"] = cookie
    assert client.get("/mine").content == client.get("/user").content == b"fabio"
    assert manager.getLoggedUsers() == ["fabio"]
    assert [name for name, _ in ask(client.cookies["sessionid"].value, "", "out")] == ["fabio", ""]
    assert manager.getLoggedUsers() == []
    assert client.get("/mine").status_code == 401
    assert client.get("/user").content == b""


# A proxy that logs users in


def test_remote_user(manager, handler):
    """A user whom a proxy names has one session, a new one after its end, and none without the name."""
    backend = "django.contrib.auth.backends.RemoteUserBackend"
    with middleware_below(of_proxy(handler)), override_settings(AUTHENTICATION_BACKENDS=[backend]):
        client = new_client(handler)
        luca, fabio = {"Proxy-User": "luca"}, {"Proxy-User": "fabio"}
        for url in ("/user", "/mine", "/user"):
            assert client.get(url, headers=luca).content == b"luca"
            assert manager.getLoggedUsers() == ["luca"]
        (first,) = manager.sessions
        manager.deleteAllSessions()
        assert client.get("/mine", headers=luca).content == b"luca"
        assert first not in manager.sessions
        assert client.get("/mine", headers=fabio).content == b"fabio"
        assert manager.getLoggedUsers() == ["fabio"]
        assert client.get("/user").content == b""
        assert manager.getLoggedUsers() == []
        client.get("/user", headers=luca)
        get_user_model().objects.filter(username="luca").update(is_active=False)
        assert client.get("/mine", headers=luca).status_code == 401
        assert manager.getLoggedUsers() == []


# Django's own


def test_login_required_middleware(manager, handler):
    """LoginRequiredMiddleware redirects from the first request after the end on."""
    with middleware_below("django.contrib.auth.middleware.LoginRequiredMiddleware"):
        client = sign_in(handler)
        assert client.get("/user").content == client.get("/mine").content == b"luca"
        manager.deleteAllSessions()
        for url in ("/user", "/mine", "/user"):
            assert client.get(url).status_code == 302
        assert client.get("/hello").content == b"hello"


def test_async_login_and_logout(manager, handler):
    """`alogin` starts a session, and `alogout` ends it."""
    client = new_client(handler)
    key = client.get("/asign-in?name=luca").content.decode()
    assert key == client.cookies[COOKIE].value
    assert client.get("/mine").content == b"luca"
    other = client.get("/asign-in?name=fabio").content.decode()
    assert (manager.getLoggedUsers(), list(manager.sessions)) == (["fabio"], [other])
    assert client.get("/asign-out").content == b"None"
    assert (manager.getLoggedUsers(), client.cookies[COOKIE].value) == ([], "")
    assert client.get("/mine").status_code == 401
