"""The Django project that the tests of Django request: its views, and clients that log in there.

Many views are there in each kind, at `/sync/…`, `/async/…`, `/class/…` and `/asyncclass/…`.
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import admin
from django.contrib.auth import alogin, alogout, authenticate, get_user_model, login, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, HttpResponseForbidden, JsonResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from web_sites import set_up_django

from users_session_manager import SessionManager, TooManySessions
from users_session_manager.integrations.django import renew_key, session_required, sign_out_elsewhere
from users_session_manager.integrations.django import sign_in as sign_in_with
from users_session_manager.keys import new_key

set_up_django()

COOKIE = "__Host-session_key"
UNKNOWN = new_key()  # issued by this process, and no session has it
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
EVERY_VIEW = ("sync", "async", "class", "asyncclass")


def user_named(username: str) -> Any:
    return get_user_model().objects.get(username=username)


def sign_in(request: Any) -> Any:
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponseForbidden()
    try:
        login(request, user)
    except TooManySessions:
        return JsonResponse({"user": request.user.get_username()}, status=409)
    return JsonResponse({"key": request.user_session.key, "user": request.user.get_username()})


async def sign_in_async(request: Any) -> Any:
    who = {"username": request.POST["username"], "password": request.POST["password"]}
    user = await sync_to_async(authenticate)(request, **who)
    try:
        await alogin(request, user)
    except TooManySessions:
        return JsonResponse({"user": request.user.get_username()}, status=409)
    return JsonResponse({"key": (await request.auser_session()).key, "user": user.get_username()})


def remember(request: Any) -> Any:
    user = user_named("luca")
    key = sign_in_with(request, user, data="cart", timeout=float(request.POST["timeout"]))
    return JsonResponse({"key": key, "user": request.user.get_username()})


async def remember_async(request: Any) -> Any:
    user = await sync_to_async(user_named)("luca")
    timeout = float(request.POST["timeout"])
    key = await sync_to_async(sign_in_with)(request, user, data="cart", timeout=timeout)
    return JsonResponse({"key": key, "user": user.get_username()})


def renew(request: Any) -> Any:
    return JsonResponse({"key": renew_key(request, overlap=float(request.POST.get("overlap", 0)))})


async def renew_async(request: Any) -> Any:
    key = await sync_to_async(renew_key)(request, overlap=float(request.POST.get("overlap", 0)))
    return JsonResponse({"key": key})


def elsewhere(request: Any) -> Any:
    return JsonResponse({"ended": sign_out_elsewhere(request)})


async def elsewhere_async(request: Any) -> Any:
    return JsonResponse({"ended": await sync_to_async(sign_out_elsewhere)(request)})


@session_required(max_age=3600)
def recent(request: Any) -> Any:
    return JsonResponse({"username": request.user_session.username})


@session_required(max_age=3600)
async def recent_async(request: Any) -> Any:
    return JsonResponse({"username": request.user_session.username})


@method_decorator(session_required(max_age=3600), name="dispatch")
class Recent(View):
    def get(self, request: Any) -> Any:
        return JsonResponse({"username": request.user_session.username})


@method_decorator(session_required(max_age=3600), name="dispatch")
class RecentAsync(View):
    async def get(self, request: Any) -> Any:
        return JsonResponse({"username": request.user_session.username})


@login_required
def change_password(request: Any) -> Any:
    user = user_named(request.POST.get("whose", request.user.get_username()))
    user.set_password(request.POST["password"])
    user.save()
    if user == request.user:
        update_session_auth_hash(request, user)
    return HttpResponse()


def sign_out(request: Any) -> Any:
    logout(request)
    return JsonResponse({"session": request.user_session})


@session_required
def mine(request: Any) -> Any:
    return JsonResponse({"username": request.user_session.username})


@session_required
async def mine_async(request: Any) -> Any:
    session = await request.auser_session()
    assert session is request.user_session
    return JsonResponse({"username": session.username})


@session_required(passive=True)
def poll(request: Any) -> Any:
    return HttpResponse(request.user_session.username)


@session_required(passive=True)
async def poll_async(request: Any) -> Any:
    return HttpResponse(request.user_session.username)


@method_decorator(session_required, name="dispatch")
class Mine(View):
    def get(self, request: Any) -> Any:
        return JsonResponse({"username": request.user_session.username})


@method_decorator(session_required(passive=True), name="dispatch")
class MineAsync(View):
    async def get(self, request: Any) -> Any:
        return JsonResponse({"username": request.user_session.username})


def who(request: Any) -> Any:
    session = request.user_session
    return JsonResponse({"session": session and session.username, "none": session is None})


async def who_async(request: Any) -> Any:
    session = await request.auser_session()
    assert (await request.auser_session()) is session
    return JsonResponse({"session": session and session.username, "none": session is None})


def user(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


async def change_user(request: Any) -> Any:
    """Log a user in, then another one, then out; answer what the request has after each step."""
    users, sessions = [], []

    async def note() -> None:
        session = await request.auser_session()
        users.append(await sync_to_async(request.user.get_username)())
        sessions.append(session and session.username)

    for name in ("luca", "fabio"):
        await alogin(request, await sync_to_async(user_named)(name), "django.contrib.auth.backends.ModelBackend")
        await note()
    await alogout(request)
    await note()
    return JsonResponse({"users": users, "sessions": sessions})


async def user_async(request: Any) -> Any:
    return HttpResponse((await request.auser()).get_username())


@login_required
def django_guarded(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


@session_required
def broken(request: Any) -> Any:
    raise ZeroDivisionError


def bare(request: Any) -> Any:
    return HttpResponse("hello")


urlpatterns = [
    path("login", sign_in),
    path("sync/login", sign_in),
    path("async/login", sign_in_async),
    path("sync/remember", remember),
    path("async/remember", remember_async),
    path("sync/renew", renew),
    path("async/renew", renew_async),
    path("sync/elsewhere", elsewhere),
    path("async/elsewhere", elsewhere_async),
    path("sync/recent", recent),
    path("async/recent", recent_async),
    path("class/recent", Recent.as_view()),
    path("asyncclass/recent", RecentAsync.as_view()),
    path("password", change_password),
    path("logout", sign_out),
    path("sync/mine", mine),
    path("async/mine", mine_async),
    path("class/mine", Mine.as_view()),
    path("asyncclass/mine", MineAsync.as_view()),
    path("sync/poll", poll),
    path("async/poll", poll_async),
    path("asyncclass/poll", MineAsync.as_view()),
    path("sync/who", who),
    path("async/who", who_async),
    path("sync/user", user),
    path("async/user", user_async),
    path("async/change", change_user),
    path("guarded", django_guarded),
    path("broken", broken),
    path("bare", bare),
    path("admin/", admin.site.urls),
]


class OverAsgi:
    """Django's client of the ASGI handler, called as the other one is."""

    def __init__(self, *, raise_request_exception: bool = False) -> None:
        self._client = AsyncClient(raise_request_exception=raise_request_exception)
        self.cookies = self._client.cookies
        self.force_login = self._client.force_login

    @async_to_sync
    async def get(self, *args: Any, **options: Any) -> Any:
        return await self._client.get(*args, **options)

    @async_to_sync
    async def post(self, *args: Any, **options: Any) -> Any:
        return await self._client.post(*args, **options)


def new_client(kind: str = "wsgi") -> Any:
    return Client(raise_request_exception=False) if kind == "wsgi" else OverAsgi()


def log_in(client: Any, username: str = "luca", password: str = "lasagne", url: str = "/login") -> str:
    answer = client.post(url, {"username": username, "password": password})
    assert answer.status_code == 200
    assert answer.json()["user"] == username
    return answer.json()["key"]


def djangos_session(client: Any) -> Any:
    return client._client.session if isinstance(client, OverAsgi) else client.session


def is_logged_out(answer: Any) -> bool:
    assert answer["Cache-Control"] == "no-store, private"
    return (answer.status_code, answer.json()) == (401, {"logout": True})


def is_alive(manager: SessionManager, key: str) -> bool:
    return manager.getUsernameFromSessionKey(key) is not False
