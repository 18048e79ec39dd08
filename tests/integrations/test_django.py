"""The Django integration, in a project as its users have it: Django's own auth, sessions and admin; WSGI and ASGI."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("django")

import django
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth import authenticate, get_user_model, login, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.hashers import make_password
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.db import connection
from django.http import HttpResponse, HttpResponseForbidden, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from users_session_manager import MemoryStore, SessionManager, SessionRejected, StoreUnavailable, TooManySessions
from users_session_manager.integrations.django import (
    UserSessionMiddleware,
    renew_key,
    session_required,
    sign_out_elsewhere,
)
from users_session_manager.integrations.django import sign_in as sign_in_with

os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"
django.setup()

COOKIE = "__Host-session_key"
UNKNOWN = "Otter-candid-46_" + "0" * 32
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MIDDLEWARE = settings.MIDDLEWARE
OURS = "users_session_manager.integrations.django.UserSessionMiddleware"
alogin = getattr(auth, "alogin", sync_to_async(login))  # since Django 5.0


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
    user = get_user_model().objects.get(username="luca")
    key = sign_in_with(request, user, data="cart", timeout=float(request.POST["timeout"]))
    return JsonResponse({"key": key, "user": request.user.get_username()})


async def remember_async(request: Any) -> Any:
    user = await sync_to_async(get_user_model().objects.get)(username="luca")
    timeout = float(request.POST["timeout"])
    key = await sync_to_async(sign_in_with)(request, user, data="cart", timeout=timeout)
    return JsonResponse({"key": key, "user": user.get_username()})


def renew(request: Any) -> Any:
    return JsonResponse({"key": renew_key(request, overlap=float(request.POST.get("overlap", 0)))})


async def renew_async(request: Any) -> Any:
    key = await sync_to_async(renew_key)(request, overlap=float(request.POST.get("overlap", 0)))
    return JsonResponse({"key": key})


@session_required
def renew_and_write(request: Any) -> Any:
    held = request.user_session
    held.data = renew_key(request)
    return JsonResponse({"key": held.key})


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
    user = get_user_model().objects.get(username=request.POST.get("whose", request.user.get_username()))
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


async def user_async(request: Any) -> Any:
    return HttpResponse((await request.auser()).get_username())


@login_required
def django_guarded(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


@session_required
def ends(request: Any) -> Any:
    SessionManager().deleteSession(request.user_session.key)
    return HttpResponse(request.user_session.username)


@session_required
def ends_and_writes(request: Any) -> Any:
    SessionManager().deleteSession(request.user_session.key)
    request.user_session.data = "lost"
    return HttpResponse("written")


@session_required
def other(request: Any) -> Any:
    raise SessionRejected


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
    path("renew-and-write", renew_and_write),
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
    path("guarded", django_guarded),
    path("ends", ends),
    path("ends-and-writes", ends_and_writes),
    path("other", other),
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


@pytest.fixture(scope="module", autouse=True)
def users() -> Any:
    call_command("migrate", verbosity=0)
    model = get_user_model()
    model.objects.all().delete()
    model.objects.create_user("luca", password="lasagne")
    model.objects.create_user("fabio", password="focaccia")
    model.objects.create_superuser("admin", password="antipasti")
    SessionManager().close()  # deleting users has asked for one
    yield
    connection.close()


@pytest.fixture(autouse=True)
def project() -> Any:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login"):
        yield
    connection.close()


@pytest.fixture(params=["wsgi", "asgi"])
def client(request, manager) -> Any:
    return new_client(request.param)


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


every_view = pytest.mark.parametrize("kind", ["sync", "async", "class", "asyncclass"])
both_views = pytest.mark.parametrize("kind", ["sync", "async"])


# Logging in and out


def test_djangos_login_begins_a_session_and_its_logout_ends_it(client, manager, heard):
    key = log_in(client)
    assert manager.getLoggedUsers() == ["luca"]
    cookie = client.cookies[COOKIE]
    assert cookie.value == key
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"], cookie["path"]) == (True, True, "Lax", "/")
    assert (cookie["max-age"], cookie["domain"]) == ("", "")
    assert client.get("/sync/mine").json() == {"username": "luca"}
    assert client.get("/sync/user").content == client.get("/async/user").content == b"luca"
    answer = client.post("/logout")
    assert answer.json() == {"session": None}
    assert (answer.cookies[COOKIE].value, answer.cookies[COOKIE]["max-age"]) == ("", 0)
    assert answer.cookies[COOKIE]["secure"]  # or the browser would not take a deletion of this name
    assert heard.names() == ["sessionCreated", "sessionDeleted", "activeUserDeleted"]
    assert is_logged_out(client.get("/sync/mine"))


def test_a_wrong_password_begins_nothing(client, manager, heard):
    assert client.post("/login", {"username": "luca", "password": "wrong"}).status_code == 403
    assert (heard.events, dict(client.cookies)) == ([], {})


def test_a_login_ends_what_the_client_had_before(client, manager):
    planted = manager.loadNewSession("mallory")
    client.cookies[COOKIE] = planted
    first = log_in(client)
    assert not is_alive(manager, planted)
    second = log_in(client)  # the same user again
    assert not is_alive(manager, first)
    third = log_in(client, "fabio", "focaccia")  # another one, for whom Django begins a new session of its own
    assert len({planted, first, second, third}) == 4
    assert manager.getLoggedUsers() == ["fabio"]


@both_views
def test_a_login_of_the_same_user_goes_on_with_the_session_under_a_new_key(client, manager, clock, kind):
    old, djangos = log_in(client, url=f"/{kind}/login"), client.cookies["sessionid"].value
    session = manager.sessions[old]
    session.createdAt = session.authenticatedAt = 1000.0
    session.data = "cart"
    clock.turn(1000)
    key = log_in(client, url=f"/{kind}/login")
    assert client.cookies[COOKIE].value == key != old
    assert manager.getSessionTimeLeft(key) == 3000
    assert (list(manager.sessions), manager.getSessionData(key)) == ([key], "cart")
    assert session.createdAt == 1000.0 < session.authenticatedAt
    assert new_client().get("/sync/mine", headers={"Session-Key": old}).status_code == 401
    assert client.get("/sync/user").content == client.get("/async/user").content == b"luca"
    stolen = new_client()
    stolen.cookies["sessionid"] = djangos
    assert stolen.get(f"/{kind}/user").content == b""
    assert stolen.get(f"/{kind}/mine").status_code == 401


@both_views
def test_an_attacker_never_knows_the_key_the_victim_ends_up_with(client, manager, kind):
    planted = [manager.loadNewSession("mallory"), manager.loadNewSession("luca"), UNKNOWN]
    for key in planted:
        client.cookies[COOKIE] = key
        assert log_in(client, url=f"/{kind}/login") not in planted
        client.post("/logout")
    assert not any(is_alive(manager, key) for key in planted)


def test_the_sessions_of_both_the_header_and_the_cookie_are_gone(client, manager):
    for url in ("/login", "/logout"):
        client.cookies[COOKIE] = manager.loadNewSession("fabio")
        headers = {"Session-Key": manager.loadNewSession("mallory")}
        client.post(url, {"username": "luca", "password": "lasagne"}, headers=headers)
        assert manager.getLoggedUsers() == (["luca"] if url == "/login" else [])


@both_views
def test_a_refused_login_leaves_the_clients_session_and_cookie_alone(client, manager, kind):
    manager.setMaxSessionsPerUser(1, "reject")
    manager.loadNewSession("luca")
    here = log_in(client, "fabio", "focaccia")
    answer = client.post(f"/{kind}/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json()) == (409, {"user": ""})
    assert COOKIE not in answer.cookies
    assert "_auth_user_id" not in djangos_session(client)
    assert client.get(f"/{kind}/mine").json() == {"username": "fabio"}
    assert (client.cookies[COOKIE].value, client.get(f"/{kind}/user").content) == (here, b"")


@both_views
def test_with_a_timeout_of_its_own_the_session_keeps_to_it_and_the_browser_keeps_the_cookie(
    client, manager, clock, kind
):
    answer = client.post(f"/{kind}/remember", {"timeout": 9000})
    key = answer.json()["key"]
    assert (client.cookies[COOKIE].value, client.cookies[COOKIE]["max-age"]) == (key, 400 * 24 * 3600)
    assert (manager.getSessionData(key), manager.getSessionTimeLeft(key)) == ("cart", 9000)
    clock.turn(8000)
    assert client.get("/sync/mine").status_code == 200
    assert manager.getSessionTimeLeft(key) == 9000
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/mine").cookies[COOKIE]["max-age"] == 400 * 24 * 3600  # it comes back as it was
    assert client.post("/sync/renew").cookies[COOKIE]["max-age"] == 400 * 24 * 3600
    key = log_in(client)  # with the usual timeout again
    assert client.cookies[COOKIE]["max-age"] == ""
    assert manager.getSessionTimeLeft(key) == 3000


def test_the_next_login_in_a_request_has_the_usual_timeout_again(manager):
    def twice(request: Any) -> Any:
        remember(request)
        login(request, request.user)
        return HttpResponse(request.user_session.timeout)

    with override_settings(ROOT_URLCONF=(path("twice", twice),)):
        assert new_client().post("/twice", {"timeout": 9000}).content == b"None"
    assert manager.getLoggedUsers() == ["luca"]


@both_views
def test_a_timeout_that_cannot_be_logs_nobody_in(client, manager, kind):
    assert client.post(f"/{kind}/remember", {"timeout": 1}).status_code == 500
    assert (manager.getLoggedUsers(), client.get("/sync/user").content) == ([], b"")


def test_a_login_ends_the_session_of_djangos_own_when_the_cookie_was_lost(client, manager):
    log_in(client)
    del client.cookies[COOKIE]
    log_in(client)
    assert manager.getLoggedUsers() == ["luca"]


def test_a_login_that_gets_no_session_is_none(client, manager, monkeypatch):
    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(manager._store, "add", away)
    answer = client.post("/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json(), answer["Retry-After"]) == (503, {"unavailable": True}, "5")
    assert client.get("/sync/user").content == b""


def test_force_login_of_djangos_test_client_is_a_login(client, manager):
    client.force_login(get_user_model().objects.get(username="luca"))
    assert client.get("/async/mine").json() == {"username": "luca"}
    assert client.cookies[COOKIE].value in manager.sessions
    assert client.get("/sync/user").content == b"luca"


# Django's login ends with the session


@both_views
@pytest.mark.parametrize("end", ["runs out", "is deleted", "everyone is logged out"])
def test_djangos_login_ends_with_the_session(client, manager, clock, kind, end):
    key = log_in(client, "admin", "antipasti")
    assert client.get("/admin/").status_code == 200
    if end == "runs out":
        clock.turn(3000)
    elif end == "is deleted":
        manager.deleteSession(key)
    else:
        manager.deleteAllSessions()
    old = client.cookies["sessionid"].value
    assert client.get(f"/{kind}/user").content == b""
    assert client.cookies["sessionid"].value == ""
    client.cookies["sessionid"] = old  # somebody kept a copy
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/user").content == b""
    for url in ("/admin/", "/guarded"):
        assert client.get(url).status_code == 302


def test_the_admin_is_closed_by_the_first_request_after_the_end(client, manager, clock):
    log_in(client, "admin", "antipasti")
    clock.turn(3000)
    answer = client.get("/admin/auth/user/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/auth/user/")


def test_a_login_of_djangos_that_never_had_a_session_is_none(client, manager):
    log_in(client)
    session = djangos_session(client)
    del session["_user_session_key"]
    session.save()
    assert client.get("/sync/user").content == b""
    assert "sessionid" not in {name for name, cookie in client.cookies.items() if cookie.value}


def test_a_key_of_another_session_makes_nobody_of_djangos_user_and_ends_nothing(client, manager):
    log_in(client)
    other = manager.loadNewSession("fabio")
    for key in (other, UNKNOWN):
        answer = client.get("/sync/user", headers={"Session-Key": key})
        assert answer.content == b""
        assert client.get("/async/user", headers={"Session-Key": key}).content == b""
    assert client.get("/sync/user").content == b"luca"


@both_views
def test_whom_django_lets_in_no_more_has_no_session_either(client, manager, kind):
    luca = get_user_model().objects.filter(username="luca")
    key = log_in(client)
    luca.update(is_active=False)  # without a signal
    try:
        assert client.get(f"/{kind}/user").content == b""
        assert not is_alive(manager, key)
    finally:
        luca.update(is_active=True)


def test_who_is_deactivated_or_deleted_is_logged_out_at_once(client, manager):
    model = get_user_model()
    fabio = manager.loadNewSession("fabio")
    maria = model.objects.create_user("maria", password="minestrone")
    for _ in range(2):
        log_in(client, "maria", "minestrone")
    maria.is_active = False
    maria.save()
    assert manager.getLoggedUsers() == ["fabio"]
    maria.is_active = True
    maria.save()
    log_in(client, "maria", "minestrone")
    maria.delete()
    assert manager.getLoggedUsers() == ["fabio"]
    assert is_alive(manager, fabio)
    assert is_logged_out(client.get("/sync/mine"))


@both_views
def test_a_new_password_logs_out_everywhere_else_at_once(client, manager, kind):
    maria = get_user_model().objects.create_user("maria", password="minestrone")
    try:
        there, key = log_in(new_client(), "maria", "minestrone"), log_in(client, "maria", "minestrone")
        fabio = manager.loadNewSession("fabio")
        assert client.post("/password", {"password": "pesto"}).status_code == 200
        assert (list(manager.sessions), is_alive(manager, there)) == ([key, fabio], False)
        assert client.get(f"/{kind}/user").content == b"maria"
        log_in(new_client(), "maria", "pesto")
        staff = new_client()
        admins = log_in(staff, "admin", "antipasti")
        staff.post("/password", {"whose": "maria", "password": "polenta"})  # by somebody else: nobody's is spared
        assert manager.getLoggedUsers() == ["fabio", "admin"]
        assert is_alive(manager, admins)
    finally:
        maria.delete()


def test_a_hash_that_a_login_brings_up_to_date_is_no_new_password(client, manager):
    first = log_in(new_client())
    old = make_password("lasagne", salt="short")
    get_user_model().objects.filter(username="luca").update(password=old)
    log_in(client)
    assert get_user_model().objects.get(username="luca").password != old
    assert is_alive(manager, first)


# A new key


@both_views
def test_a_renewed_key_is_in_the_cookie_and_the_old_one_is_dead_at_once(client, manager, clock, kind):
    old, djangos = log_in(client), client.cookies["sessionid"].value
    clock.turn(1000)
    key = client.post(f"/{kind}/renew").json()["key"]
    assert client.cookies[COOKIE].value == key != old
    assert manager.getSessionTimeLeft(key) == 2000
    assert new_client().get("/sync/mine", headers={"Session-Key": old}).status_code == 401
    assert client.get("/sync/mine").json() == {"username": "luca"}
    assert client.get("/sync/user").content == client.get("/async/user").content == b"luca"
    assert client.cookies["sessionid"].value != djangos
    stolen = new_client()
    stolen.cookies["sessionid"] = djangos
    assert stolen.get(f"/{kind}/user").content == b""
    assert stolen.get(f"/{kind}/mine").status_code == 401
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/user").content == b"luca"
    assert client.get(f"/{kind}/mine").cookies[COOKIE].value == key


@both_views
def test_with_an_overlap_a_request_under_way_passes_and_is_rejected_from_then_on(client, manager, clock, kind):
    old, djangos = log_in(client), client.cookies["sessionid"].value
    client.post(f"/{kind}/renew", {"overlap": 10})
    assert client.cookies["sessionid"].value != djangos
    late = new_client()
    late.cookies["sessionid"], late.cookies[COOKIE] = djangos, old
    clock.turn(9.5)
    answer = late.get(f"/{kind}/mine")
    assert answer.status_code == 200
    assert COOKIE not in answer.cookies
    assert late.get(f"/{kind}/user").content == b"luca"
    clock.turn(0.5)
    assert is_logged_out(late.get(f"/{kind}/mine", headers={"Session-Key": old}))
    assert late.get(f"/{kind}/user").content == b""
    assert client.get(f"/{kind}/user").content == b"luca"


@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "signed_cookies"])
@pytest.mark.parametrize("overlap", [0, 10])
def test_djangos_old_cookie_is_worth_as_long_as_the_old_key_wherever_its_sessions_are(manager, clock, engine, overlap):
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        client, stolen = new_client(), new_client()
        log_in(client)
        stolen.cookies["sessionid"] = client.cookies["sessionid"].value
        client.post("/sync/renew", {"overlap": overlap})
        if overlap:
            assert stolen.get("/sync/user").content == b"luca"
            clock.turn(overlap)
        assert stolen.get("/sync/user").content == b""
        assert client.get("/sync/user").content == b"luca"


@both_views
def test_a_request_under_way_that_brings_djangos_old_cookie_back_costs_nobody_their_login(client, manager, clock, kind):
    log_in(client)
    djangos = client.cookies["sessionid"].value
    client.post("/sync/renew", {"overlap": 10})
    client.cookies["sessionid"] = djangos
    for _ in range(2):
        assert client.get(f"/{kind}/user").content == b"luca"
        clock.turn(10)
    copied = new_client()
    copied.cookies["sessionid"] = client.cookies["sessionid"].value
    assert copied.get(f"/{kind}/user").content == b""


@both_views
def test_a_key_from_a_header_is_renewed_and_djangos_login_is_not_touched(client, manager, kind):
    luca, fabio = log_in(client), manager.loadNewSession("fabio")
    djangos = client.cookies["sessionid"].value
    key = client.post(f"/{kind}/renew", headers={"Session-Key": fabio}).json()["key"]
    assert manager.getUsernameFromSessionKey(key) == "fabio"
    assert not is_alive(manager, fabio)
    client.cookies[COOKIE] = luca
    assert client.cookies["sessionid"].value == djangos
    assert client.get(f"/{kind}/user").content == b"luca"


@both_views
def test_there_is_nothing_to_renew_without_a_session(client, manager, kind):
    assert is_logged_out(client.post(f"/{kind}/renew"))
    client.cookies[COOKIE] = UNKNOWN
    answer = client.post(f"/{kind}/renew")
    assert is_logged_out(answer)
    assert answer.cookies[COOKIE]["max-age"] == 0


def test_what_a_view_holds_goes_on_under_the_new_key(client, manager):
    log_in(client)
    key = client.post("/renew-and-write").json()["key"]
    assert client.cookies[COOKIE].value == manager.getSessionData(key) == key


# Logging out elsewhere


@both_views
def test_elsewhere_the_same_user_is_logged_out_and_nobody_else(client, manager, kind):
    other = new_client()
    there, here = log_in(other), log_in(client)
    manager.loadNewSession("fabio")
    answer = client.post(f"/{kind}/elsewhere")
    assert answer.json() == {"ended": 1}
    assert COOKIE not in answer.cookies
    assert (is_alive(manager, there), is_alive(manager, here)) == (False, True)
    assert manager.getLoggedUsers() == ["luca", "fabio"]
    assert other.get("/sync/user").content == b""
    assert client.get("/sync/user").content == b"luca"


@both_views
def test_elsewhere_without_a_session_is_a_rejection_and_ends_nothing(client, manager, kind):
    manager.loadNewSession("luca")
    for headers in ({}, {"Session-Key": UNKNOWN}):
        assert is_logged_out(client.post(f"/{kind}/elsewhere", headers=headers))
    assert manager.getLoggedUsers() == ["luca"]


# A login of late


@every_view
def test_a_login_that_is_too_old_is_403_until_it_is_done_again(client, manager, kind):
    url = f"/{kind}/recent"
    assert is_logged_out(client.get(url))
    key = log_in(client)
    for again in (lambda: log_in(client), lambda: client.post("/sync/renew").json()["key"]):
        assert client.get(url).json() == {"username": "luca"}
        # The second one: as if the computer's time had been set back since.
        for away in (-3601, +3600):
            manager.sessions[key].authenticatedAt = time.time() + away
            answer = client.get(url, headers=HTML)
            assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
            assert answer["Cache-Control"] == "no-store, private"
            assert client.get("/sync/mine").status_code == 200
        key = again()
    assert client.get(url).json() == {"username": "luca"}
    manager.deleteSession(key)
    assert is_logged_out(client.get(url))


@pytest.mark.parametrize("max_age", ["60", -1, float("nan"), float("inf"), True])
def test_a_max_age_that_is_no_time_is_refused_where_it_stands(max_age):
    with pytest.raises((TypeError, ValueError), match="max_age"):
        session_required(max_age=max_age)(bare)


# Guarded views


@every_view
def test_a_guarded_view_lets_a_live_session_through(client, manager, kind):
    log_in(client)
    answer = client.get(f"/{kind}/mine")
    assert answer.json() == {"username": "luca"}
    assert answer["Cache-Control"] == "no-store, private"
    assert COOKIE not in answer.cookies


@every_view
@pytest.mark.parametrize("listener", [True, False])
def test_anything_else_is_401_and_the_dead_cookie_is_deleted(client, manager, clock, kind, listener):
    if listener:
        manager.on("error", lambda *_: None)
    url = f"/{kind}/mine"
    assert is_logged_out(client.get(url))
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get(url)
    assert is_logged_out(answer)
    assert answer.cookies[COOKIE]["max-age"] == 0
    log_in(client)
    clock.turn(3000)
    assert is_logged_out(client.get(url))


@pytest.mark.parametrize("name", ["sync", "async", "class"])
def test_a_request_prolongs_the_session_and_a_passive_one_does_not(client, manager, clock, name):
    key = log_in(client)
    clock.turn(1000)
    passive = {"sync": "/sync/poll", "async": "/async/poll", "class": "/asyncclass/poll"}[name]
    assert client.get(passive).status_code == 200
    assert client.get("/sync/who").json()["session"] == client.get("/async/who").json()["session"] == "luca"
    assert client.get("/sync/user").content == b"luca"
    assert manager.getSessionTimeLeft(key) == 2000
    client.get(f"/{name}/mine")
    assert manager.getSessionTimeLeft(key) == 3000


def test_the_key_may_travel_in_the_header(client, manager):
    key = manager.loadNewSession("luca")
    assert client.get("/sync/mine", headers={"Session-Key": key}).json() == {"username": "luca"}
    assert client.get("/async/mine", headers={"Session-Key": f" {key} "}).json() == {"username": "luca"}


@pytest.mark.parametrize("header", ["{key},{key}", "{key}, x", "", UNKNOWN])
def test_a_doubled_header_is_a_rejection_and_no_way_to_the_cookie(client, manager, header):
    key = log_in(client)
    answer = client.get("/sync/mine", headers={"Session-Key": header.format(key=key)})
    assert is_logged_out(answer)
    assert COOKIE not in answer.cookies  # it was not the cookie that was rejected
    assert client.get("/sync/mine").status_code == 200


def test_a_header_that_stands_twice_is_a_rejection_on_asgi(manager):
    key = manager.loadNewSession("luca")

    async def call() -> int:
        scope = {"type": "http", "method": "GET", "path": "/sync/mine", "query_string": b"", "http_version": "1.1"}
        scope["headers"] = [(b"session-key", key.encode())] * 2
        sent, asked = [], []

        async def receive() -> Any:
            asked.append(True)
            return {"type": "http.request", "body": b""} if len(asked) == 1 else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await ASGIHandler()(scope, receive, send)
        return sent[0]["status"]

    assert async_to_sync(call)() == 401


@both_views
def test_the_session_of_an_open_view_is_one_or_none(client, manager, kind):
    answer = client.get(f"/{kind}/who")
    assert answer.json() == {"session": None, "none": True}
    assert answer["Vary"] == "Session-Key, Cookie"
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get(f"/{kind}/who")
    assert answer.json() == {"session": None, "none": True}
    assert answer.cookies[COOKIE]["max-age"] == 0
    log_in(client)
    assert client.get(f"/{kind}/who").json() == {"session": "luca", "none": False}


def test_a_view_that_does_not_ask_costs_no_look_at_the_store(client, manager, heard):
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get("/bare")
    assert (answer.content, answer.get("Vary"), heard.events) == (b"hello", None, [])


def test_what_was_let_in_stays_readable_when_the_session_ends_meanwhile(client, manager):
    log_in(client)
    answer = client.get("/ends")
    assert (answer.status_code, answer.content) == (200, b"luca")
    assert is_logged_out(client.get("/ends"))


def test_writing_to_a_session_that_has_ended_meanwhile_is_401(client, manager):
    log_in(client)
    answer = client.get("/ends-and-writes")
    assert is_logged_out(answer)
    assert answer.cookies[COOKIE]["max-age"] == 0


def test_a_rejection_of_another_key_leaves_the_cookie(client, manager):
    log_in(client)
    answer = client.get("/other")
    assert is_logged_out(answer)
    assert COOKIE not in answer.cookies


def test_other_exceptions_are_djangos(client, manager):
    log_in(client)
    assert client.get("/broken").status_code == 500


def test_browsers_are_sent_to_the_login_page_and_back(client, manager):
    answer = client.get("/sync/mine?a=1", headers=HTML)
    assert (answer.status_code, answer["Location"]) == (302, "/login?next=/sync/mine%3Fa%3D1")
    assert answer["Cache-Control"] == "no-store, private"
    assert client.post("/async/mine", headers=HTML)["Location"] == "/login"
    for accept in ("application/json, text/html", "*/*", "application/json"):
        assert is_logged_out(client.get("/sync/mine", headers={"Accept": accept}))


def test_the_way_back_is_always_within_the_site(manager):
    request = RequestFactory().get("/", headers=HTML)
    request.path = "//evil.example/x"
    request.session = Client().session
    request.user = None
    answer = UserSessionMiddleware(mine)(request)
    assert answer["Location"] == "/login?next=/%252Fevil.example/x"


# A store that is away, or slow


class SlowStore(MemoryStore):
    """A store that may wait: notes whether an event loop has to wait with it, and can be away."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.asked_on_loop: list[bool] = []
        self.away = False

    def _asked(self) -> None:
        self.asked_on_loop.append(asyncio._get_running_loop() is not None)
        if self.away:
            raise StoreUnavailable("no answer")


def asked_first(name: str) -> Callable[..., Any]:
    def method(store: SlowStore, *args: Any, **options: Any) -> Any:
        store._asked()
        return getattr(MemoryStore, name)(store, *args, **options)

    return method


for name in ("add", "get", "restart", "renew_key", "time_left", "set_data", "of_user", "remove", "remove_user"):
    setattr(SlowStore, name, asked_first(name))


@pytest.fixture
def slow() -> SlowStore:
    return SessionManager(store=SlowStore())._store


@every_view
@pytest.mark.parametrize("over", ["wsgi", "asgi"])
def test_a_store_that_is_away_is_503_and_nobody_gets_in(slow, kind, over):
    client = new_client(over)
    key = log_in(client)
    slow.away = True
    urls = [f"/{kind}/mine", f"/{kind}/recent", "/sync/who", "/async/who", "/sync/user", "/async/user"]
    changes = [f"/{view}/{change}" for view in ("sync", "async") for change in ("renew", "elsewhere")]
    for url in urls + changes:
        answer = client.post(url) if url in changes else client.get(url)
        assert (answer.status_code, answer.json(), answer["Retry-After"]) == (503, {"unavailable": True}, "5"), url
        assert "no-store" in answer["Cache-Control"]
    slow.away = False
    assert client.get(f"/{kind}/mine").json() == {"username": "luca"}
    assert key in slow.sessions


@pytest.mark.parametrize("url", ["/async/mine", "/asyncclass/mine", "/async/who", "/async/poll"])
def test_an_event_loop_never_waits_for_the_store(slow, url):
    client = new_client("asgi")
    log_in(client)
    assert client.get(url).status_code == 200
    client.cookies[COOKIE] = UNKNOWN
    assert client.get(url).status_code in (200, 401)
    assert slow.asked_on_loop
    assert not any(slow.asked_on_loop)


def test_nor_does_it_wait_when_sessions_change(slow):
    client = new_client("asgi")
    for _ in range(2):
        log_in(client, url="/async/login")
    for url in ("/async/remember", "/async/renew", "/async/elsewhere"):
        slow.asked_on_loop.clear()
        assert client.post(url, {"timeout": 60, "overlap": 60}).status_code == 200
        assert slow.asked_on_loop
        assert not any(slow.asked_on_loop)
    assert client.get("/async/recent").status_code == 200
    assert not any(slow.asked_on_loop)


@pytest.mark.parametrize("over", ["wsgi", "asgi", "asgi below a middleware of old"])
@pytest.mark.parametrize("function", [renew_key, sign_out_elsewhere, sign_in_with])
def test_changing_sessions_on_a_loop_says_what_to_do_instead_and_changes_nothing(manager, function, over):
    async def hasty(request: Any) -> Any:
        return HttpResponse(function(request, *([None] if function is sign_in_with else [])))

    keys = [manager.loadNewSession("luca") for _ in range(2)]
    middleware = [*MIDDLEWARE, f"{__name__}.middleware_of_old"] if "old" in over else MIDDLEWARE
    project = override_settings(ROOT_URLCONF=(path("hasty", hasty),), MIDDLEWARE=middleware)
    client = Client() if over == "wsgi" else OverAsgi(raise_request_exception=True)
    with project, pytest.raises(SynchronousOnlyOperation, match=rf"await sync_to_async\({function.__name__}\)"):
        client.get("/hasty", headers={"Session-Key": keys[0]})
    assert list(manager.sessions) == keys


def middleware_of_old(get_response: Any) -> Any:
    return lambda request: get_response(request)


def test_reading_the_session_on_a_loop_says_what_to_do_instead(slow):
    async def hasty(request: Any) -> Any:
        return HttpResponse(request.user_session)

    urls = override_settings(ROOT_URLCONF=(path("hasty", hasty),))
    client = OverAsgi(raise_request_exception=True)
    with urls, pytest.raises(SynchronousOnlyOperation, match="auser_session"):
        client.get("/hasty")


def test_async_listeners_run_on_the_loop_of_the_application(manager):
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


# Settings


def errors_of(**changes: Any) -> list[str]:
    with override_settings(**changes):
        return [problem.msg for problem in run_checks() if problem.id.startswith("users_session_manager.")]


def test_a_sound_project_has_nothing_to_complain_of():
    assert errors_of() == []
    assert errors_of(USER_SESSIONS={"HEADER": None, "COOKIE_SECURE": False, "TIMEOUT": 60.5}) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["HEADER"], "dict"),
        ({"HAEDER": "X"}, "'HAEDER'"),
        ({"HEADER": "Session_Key"}, "'Session_Key'.*underscore"),
        ({"HEADER": None, "COOKIE": None}, "both are None"),
        ({"COOKIE": "a b"}, "'a b'"),
        ({"COOKIE": "sessionid", "COOKIE_SECURE": False}, "'sessionid'"),
        ({"COOKIE_SECURE": "yes"}, "COOKIE_SECURE.*'yes'"),
        ({"TIMEOUT": 1}, "TIMEOUT.*1"),
        ({"TIMEOUT": "60"}, "TIMEOUT.*str"),
    ],
)
def test_a_wrong_setting_is_named_by_a_check_and_where_none_is_run(wrong, named):
    (error,) = errors_of(USER_SESSIONS=wrong)
    with pytest.raises(ImproperlyConfigured, match=named) as refusal, override_settings(USER_SESSIONS=wrong):
        UserSessionMiddleware(mine)
    assert error in str(refusal.value)


def test_a_middleware_that_is_missing_or_stands_too_early_is_named():
    (error,) = errors_of(MIDDLEWARE=MIDDLEWARE[:-1])
    assert error == f"{OURS!r} has to be in MIDDLEWARE"
    for wrong in ([OURS, *MIDDLEWARE[:-1]], [MIDDLEWARE[0], OURS, *MIDDLEWARE[1:-1]]):
        errors = errors_of(MIDDLEWARE=wrong)
        assert errors
        assert any("AuthenticationMiddleware" in error for error in errors)
        with override_settings(MIDDLEWARE=wrong), pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            UserSessionMiddleware(mine)


def test_an_application_that_is_not_installed_is_named():
    without = override_settings(INSTALLED_APPS=settings.INSTALLED_APPS[:-1])
    with without, pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
        UserSessionMiddleware(mine)


def test_a_view_that_never_met_the_middleware_says_so(manager):
    for function in (mine, renew_key, sign_out_elsewhere, lambda request: sign_in_with(request, None)):
        with pytest.raises(ImproperlyConfigured, match="UserSessionMiddleware"):
            function(RequestFactory().get("/"))


def test_without_the_middleware_there_is_no_session_to_read(client, manager):
    client.get("/bare")
    with pytest.raises(AttributeError, match="UserSessionMiddleware"):
        RequestFactory().get("/").user_session  # noqa: B018


def test_settings_say_where_keys_travel_and_how_long_sessions_last(manager):
    options = {"HEADER": "X-Key", "COOKIE": "who", "COOKIE_SECURE": False, "TIMEOUT": 60}
    with override_settings(USER_SESSIONS=options):
        client = Client()
        key = log_in(client)
    assert client.cookies["who"].value == key
    assert not client.cookies["who"]["secure"]
    assert manager.getSessionTimeLeft(key) == 60
    assert Client().get("/sync/mine", headers={"X-Key": key}).status_code == 401  # back to the names of everyone
    with override_settings(USER_SESSIONS=options):
        assert Client().get("/sync/mine", headers={"X-Key": key}).status_code == 200


def test_without_a_cookie_the_header_is_what_counts(manager):
    with override_settings(USER_SESSIONS={"COOKIE": None}):
        client = Client()
        key = log_in(client)
        assert list(client.cookies) == ["csrftoken", "sessionid"] or list(client.cookies) == ["sessionid"]
        assert Client().get("/sync/mine", headers={"Session-Key": key}).status_code == 200
        assert is_logged_out(Client().get("/sync/mine"))


def test_a_guarded_view_stays_what_it_was():
    assert iscoroutinefunction(mine_async)
    assert not iscoroutinefunction(mine)
    assert mine.__name__ == "mine"


def test_without_django_the_error_says_what_to_install():
    code = """
        import sys
        sys.modules["django"] = None
        import users_session_manager.integrations.django
    """
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())], capture_output=True, text=True
    )
    assert "MissingDependency: Django is not installed: pip install 'users-session-manager[django]'" in ended.stderr


def is_alive(manager: SessionManager, key: str) -> bool:
    return manager.getUsernameFromSessionKey(key) is not False
