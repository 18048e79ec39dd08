"""The Django integration with Django's own auth, sessions and admin; `test_web.py` has what all frameworks share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from foreign_key import foreign_key
from watched_store import WatchedStore
from web_sites import set_up_django

pytest.importorskip("django")

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth import authenticate, get_user_model, login, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.hashers import make_password
from django.contrib.sessions.backends.db import SessionStore
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connection
from django.http import HttpResponse, HttpResponseForbidden, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from users_session_manager import SessionManager, TooManySessions
from users_session_manager.integrations.django import (
    UserSessionMiddleware,
    renew_key,
    session_required,
    sign_out_elsewhere,
)
from users_session_manager.integrations.django import sign_in as sign_in_with
from users_session_manager.integrations.django.state import KEY_IN_SESSION
from users_session_manager.keys import new_key

set_up_django()

COOKIE = "__Host-session_key"
UNKNOWN = new_key()  # issued by this process, and no session has it
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


async def change_user(request: Any) -> Any:
    """Log a user in, then another one, then out; answer whom `auser()` returns after each step."""
    await request.auser()
    names = []
    for name in ("luca", "fabio"):
        user, _ = await sync_to_async(get_user_model().objects.get_or_create)(username=name)
        await sync_to_async(login)(request, user, "django.contrib.auth.backends.ModelBackend")
        names.append((await request.auser()).get_username())
    await sync_to_async(logout)(request)
    return JsonResponse({"users": [*names, (await request.auser()).get_username()]})


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


@pytest.fixture(scope="module", autouse=True)
def users() -> Any:
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


@pytest.fixture
def unreachable(manager) -> WatchedStore:
    """The store of the manager, which a test can make unreachable."""
    manager.close()
    store = WatchedStore()
    SessionManager(store=store)
    return store


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


EVERY_VIEW = ("sync", "async", "class", "asyncclass")


@pytest.fixture
def kind(client: Any) -> str:
    """The kind of view that fits the handler; `test_kinds_of_views` has all of them on both."""
    return "async" if isinstance(client, OverAsgi) else "sync"


# Logging in and out


def test_login_and_logout(client, manager, heard):
    """Django's login begins a session, and its logout ends it."""
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


def test_wrong_password(client, manager, heard):
    """A wrong password begins nothing."""
    assert client.post("/login", {"username": "luca", "password": "wrong"}).status_code == 403
    assert (heard.events, dict(client.cookies)) == ([], {})


def test_login_ends_session_before(client, manager):
    """A login ends the session that the client had before."""
    planted = manager.loadNewSession("mallory")
    client.cookies[COOKIE] = planted
    first = log_in(client)
    assert not is_alive(manager, planted)
    second = log_in(client)  # the same user again
    assert not is_alive(manager, first)
    third = log_in(client, "fabio", "focaccia")  # another one, for whom Django begins a new session of its own
    assert len({planted, first, second, third}) == 4
    assert manager.getLoggedUsers() == ["fabio"]


def test_login_of_same_user(client, manager, clock, kind):
    """The session of the same user goes on under a new key, and Django's own session changes too."""
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


def test_refused_login(client, manager, kind):
    """A login that is refused is none for Django either, and leaves the session of the client alone."""
    manager.setMaxSessionsPerUser(1, "reject")
    manager.loadNewSession("luca")
    here = log_in(client, "fabio", "focaccia")
    answer = client.post(f"/{kind}/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json()) == (409, {"user": ""})
    assert COOKIE not in answer.cookies
    assert "_auth_user_id" not in djangos_session(client)
    assert client.get(f"/{kind}/mine").json() == {"username": "fabio"}
    assert (client.cookies[COOKIE].value, client.get(f"/{kind}/user").content) == (here, b"")


def test_own_timeout(client, manager, clock, kind):
    """The cookie of a session with a timeout of its own comes back as it was when it was lost."""
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


def test_next_login_in_request(manager):
    """The next login in a request has the usual timeout again."""

    def twice(request: Any) -> Any:
        remember(request)
        login(request, request.user)
        return HttpResponse(request.user_session.timeout)

    with override_settings(ROOT_URLCONF=(path("twice", twice),)):
        assert new_client().post("/twice", {"timeout": 9000}).content == b"None"
    assert manager.getLoggedUsers() == ["luca"]


def test_wrong_timeout(client, manager, kind):
    """With a timeout that is refused, Django logs no user in."""
    assert client.post(f"/{kind}/remember", {"timeout": 1}).status_code == 500
    assert (manager.getLoggedUsers(), client.get("/sync/user").content) == ([], b"")


def test_login_after_lost_cookie(client, manager):
    """A login ends the session of Django's login when the cookie of its key was lost."""
    log_in(client)
    del client.cookies[COOKIE]
    log_in(client)
    assert manager.getLoggedUsers() == ["luca"]


def test_login_without_store(client, kind, unreachable):
    """A login that gets no session is none."""
    unreachable.unreachable = True
    answer = client.post(f"/{kind}/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json(), answer["Retry-After"]) == (503, {"unavailable": True}, "5")
    unreachable.unreachable = False
    assert client.get(f"/{kind}/user").content == b""


def test_force_login(client, manager):
    """`force_login` of Django's test client is a login."""
    client.force_login(get_user_model().objects.get(username="luca"))
    assert client.get("/async/mine").json() == {"username": "luca"}
    assert client.cookies[COOKIE].value in manager.sessions
    assert client.get("/sync/user").content == b"luca"


# Django's login ends with the session


@pytest.mark.parametrize(
    "end",
    [
        lambda manager, clock, key: clock.turn(3000),
        lambda manager, clock, key: manager.deleteSession(key),
        lambda manager, clock, key: manager.deleteAllSessions(),
    ],
    ids=["expires", "deleteSession", "deleteAllSessions"],
)
def test_login_ends_with_session(client, manager, clock, kind, end):
    """Django's login ends with the session, and a copy of Django's cookie is worth nothing then."""
    key = log_in(client, "admin", "antipasti")
    assert client.get("/admin/").status_code == 200
    end(manager, clock, key)
    old = client.cookies["sessionid"].value
    assert client.get(f"/{kind}/user").content == b""
    assert client.cookies["sessionid"].value == ""
    client.cookies["sessionid"] = old  # a copy was kept
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/user").content == b""
    for url in ("/admin/", "/guarded"):
        assert client.get(url).status_code == 302


def test_admin_closes(client, manager, clock):
    """The admin is closed from the first request after the end."""
    log_in(client, "admin", "antipasti")
    clock.turn(3000)
    answer = client.get("/admin/auth/user/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/auth/user/")


def test_login_from_before(client, manager, kind):
    """A login of Django's that never had a session is none: it is from before the integration was installed."""
    luca = get_user_model().objects.get(username="luca")
    session = SessionStore()
    session[auth.SESSION_KEY], session[auth.BACKEND_SESSION_KEY] = str(luca.pk), settings.AUTHENTICATION_BACKENDS[0]
    session[auth.HASH_SESSION_KEY] = luca.get_session_auth_hash()
    session.save()
    client.cookies["sessionid"] = session.session_key
    assert client.get(f"/{kind}/user").content == b""
    assert "sessionid" not in {name for name, cookie in client.cookies.items() if cookie.value}


def test_key_of_other_session(client, manager):
    """With the key of another session the user is anonymous, and nothing ends."""
    log_in(client)
    other = manager.loadNewSession("fabio")
    for key in (other, UNKNOWN):
        answer = client.get("/sync/user", headers={"Session-Key": key})
        assert answer.content == b""
        assert client.get("/async/user", headers={"Session-Key": key}).content == b""
    assert client.get("/sync/user").content == b"luca"


def test_inactive_user(client, manager, kind):
    """A user whom Django lets in no more has no session either."""
    luca = get_user_model().objects.filter(username="luca")
    key = log_in(client)
    luca.update(is_active=False)  # without a signal
    try:
        assert client.get(f"/{kind}/user").content == b""
        assert not is_alive(manager, key)
    finally:
        luca.update(is_active=True)


def test_deactivated_or_deleted(client, manager):
    """A user who is deactivated or deleted is logged out at once."""
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


def test_new_password(client, manager, kind):
    """A new password logs its user out everywhere else at once."""
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
        staff.post("/password", {"whose": "maria", "password": "polenta"})  # by another user: no session is spared
        assert manager.getLoggedUsers() == ["fabio", "admin"]
        assert is_alive(manager, admins)
    finally:
        maria.delete()


def test_password_rehash(client, manager):
    """A hash that a login brings up to date is no new password."""
    first = log_in(new_client())
    old = make_password("lasagne", salt="short")
    get_user_model().objects.filter(username="luca").update(password=old)
    log_in(client)
    assert get_user_model().objects.get(username="luca").password != old
    assert is_alive(manager, first)


# A new key


def test_renewal(client, manager, clock, kind):
    """A renewal of the key changes Django's own session too; the old cookies of both are dead at once."""
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


def test_renewal_with_overlap(client, manager, clock, kind):
    """During the overlap Django's old cookie counts as long as the old key."""
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
def test_session_engines(manager, clock, engine):
    """Django's old cookie counts as long as the old key wherever Django keeps its sessions."""
    for overlap in (0, 10):
        check_old_cookie(clock, engine, overlap)


def check_old_cookie(clock: Any, engine: str, overlap: float) -> None:
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


def test_login_of_another_process(client, manager, kind):
    """With sessions in memory, a login that another worker may have is not logged out: its request is anonymous."""
    key, foreign = log_in(client), foreign_key()

    def present(one: str) -> None:
        session = djangos_session(client)
        session[KEY_IN_SESSION] = one
        session.save()
        client.cookies[COOKIE] = one

    present(foreign)
    for _ in range(2):
        assert client.get(f"/{kind}/user").content == b""
    present(key)
    assert client.get(f"/{kind}/user").content == b"luca"


def test_old_cookie_comes_back(client, manager, clock, kind):
    """A request under way that brings Django's old cookie back costs no user the login."""
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


def test_renewal_by_header(client, manager, kind):
    """The key of a header is renewed, and Django's login is not touched."""
    luca, fabio = log_in(client), manager.loadNewSession("fabio")
    djangos = client.cookies["sessionid"].value
    key = client.post(f"/{kind}/renew", headers={"Session-Key": fabio}).json()["key"]
    assert manager.getUsernameFromSessionKey(key) == "fabio"
    assert not is_alive(manager, fabio)
    client.cookies[COOKIE] = luca
    assert client.cookies["sessionid"].value == djangos
    assert client.get(f"/{kind}/user").content == b"luca"


# Logging out elsewhere


def test_sign_out_elsewhere(client, manager, kind):
    """A logout elsewhere ends the logins of the same user in Django too."""
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


# A login of late


def test_max_age(client, manager, clock):
    """A login that is too old is answered 403 to a browser too, until it is done again, by every kind of view."""
    manager.setSessionTimeOut(9000)
    for kind in EVERY_VIEW:
        url = f"/{kind}/recent"
        assert is_logged_out(client.get(url))
        key = log_in(client)
        for again in (lambda: log_in(client), lambda: client.post("/sync/renew").json()["key"]):
            assert client.get(url).json() == {"username": "luca"}
            clock.turn(3601)
            answer = client.get(url, headers=HTML)
            assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
            assert answer["Cache-Control"] == "no-store, private"
            assert client.get("/sync/mine").status_code == 200
            key = again()
        assert client.get(url).json() == {"username": "luca"}
        manager.deleteSession(key)
        assert is_logged_out(client.get(url))


def test_wrong_max_age():
    """A `max_age` that is no number of seconds is refused where it is written."""
    for max_age in ("60", -1, float("nan"), float("inf"), True):
        with pytest.raises((TypeError, ValueError), match="max_age"):
            session_required(max_age=max_age)(bare)


# Guarded views


def test_kinds_of_views(client, manager, clock):
    """Functions and classes, with and without coroutines, are guarded, and prolong the session unless passive."""
    for kind in EVERY_VIEW:
        assert is_logged_out(client.get(f"/{kind}/mine"))
        client.cookies[COOKIE] = UNKNOWN
        answer = client.get(f"/{kind}/mine")
        assert is_logged_out(answer)
        assert answer.cookies[COOKIE]["max-age"] == 0
        key = log_in(client)
        clock.turn(1000)
        if kind != "class":
            assert client.get(f"/{kind}/poll").content in (b"luca", b'{"username": "luca"}')
            assert client.get("/sync/who").json()["session"] == client.get("/async/who").json()["session"] == "luca"
            assert client.get("/sync/user").content == client.get("/async/user").content == b"luca"
            assert manager.getSessionTimeLeft(key) == 2000
        answer = client.get(f"/{kind}/mine")
        assert answer.json() == {"username": "luca"}
        assert answer["Cache-Control"] == "no-store, private"
        assert COOKIE not in answer.cookies
        assert manager.getSessionTimeLeft(key) == (2000 if kind == "asyncclass" else 3000)
        client.post("/logout")


def test_open_view(client, manager, kind):
    """The session of an open view is one or `None`; its answer varies by what carries the key."""
    answer = client.get(f"/{kind}/who")
    assert answer.json() == {"session": None, "none": True}
    assert answer["Vary"] == "Session-Key, Cookie"
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get(f"/{kind}/who")
    assert answer.json() == {"session": None, "none": True}
    assert COOKIE not in answer.cookies
    log_in(client)
    assert client.get(f"/{kind}/who").json() == {"session": "luca", "none": False}


def test_change_user(client, manager):
    """`request.auser()` follows a login and a logout within the request."""
    assert client.get("/async/change").json() == {"users": ["luca", "fabio", ""]}
    assert manager.getLoggedUsers() == []


def test_bare_view(client, manager, heard):
    """A view that does not ask costs no call of the store."""
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get("/bare")
    assert (answer.content, answer.get("Vary"), heard.events) == (b"hello", None, [])


def test_other_exceptions(client, manager):
    """Other exceptions are Django's."""
    log_in(client)
    assert client.get("/broken").status_code == 500


def test_login_page(client, manager):
    """A browser is sent to the login page and back."""
    answer = client.get("/sync/mine?a=1", headers=HTML)
    assert (answer.status_code, answer["Location"]) == (302, "/login?next=/sync/mine%3Fa%3D1")
    assert answer["Cache-Control"] == "no-store, private"
    assert client.post("/async/mine", headers=HTML)["Location"] == "/login"
    for accept in ("application/json, text/html", "*/*", "application/json"):
        assert is_logged_out(client.get("/sync/mine", headers={"Accept": accept}))


def test_way_back(manager):
    """The way back is always within the site."""
    request = RequestFactory().get("/", headers=HTML)
    request.path = "//evil.example/x"
    request.session = Client().session
    request.user = None
    answer = UserSessionMiddleware(mine)(request)
    assert answer["Location"] == "/login?next=/%252Fevil.example/x"


# A store that is unreachable, or slow


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
    """What changes sessions is refused on the loop with the way out, and changes nothing."""
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


# Settings


def errors_of(**changes: Any) -> list[str]:
    with override_settings(**changes):
        return [problem.msg for problem in run_checks() if problem.id.startswith("users_session_manager.")]


def test_sound_settings():
    """A sound project passes the checks."""
    assert errors_of() == []
    assert errors_of(USER_SESSIONS={"HEADER": None, "COOKIE_SECURE": False, "TIMEOUT": 60.5}) == []


def test_wrong_settings():
    """A wrong setting is named by a check, and by the middleware where no check is run."""
    settings: list[tuple[Any, str]] = [
        (["HEADER"], "dict"),
        ({"HAEDER": "X"}, "'HAEDER'"),
        ({"HEADER": "Session_Key"}, "'Session_Key'.*underscore"),
        ({"HEADER": None, "COOKIE": None}, "both are None"),
        ({"COOKIE": "a b"}, "'a b'"),
        ({"COOKIE": "sessionid", "COOKIE_SECURE": False}, "'sessionid'"),
        ({"COOKIE_SECURE": "yes"}, "COOKIE_SECURE.*'yes'"),
        ({"TIMEOUT": 1}, "TIMEOUT.*1"),
        ({"TIMEOUT": "60"}, "TIMEOUT.*str"),
    ]
    for wrong, named in settings:
        (error,) = errors_of(USER_SESSIONS=wrong)
        with pytest.raises(ImproperlyConfigured, match=named) as refusal, override_settings(USER_SESSIONS=wrong):
            UserSessionMiddleware(mine)
        assert error in str(refusal.value)


def test_wrong_middleware():
    """A middleware that is missing or comes too early is named."""
    (error,) = errors_of(MIDDLEWARE=MIDDLEWARE[:-1])
    assert error == f"{OURS!r} has to be in MIDDLEWARE"
    for wrong in ([OURS, *MIDDLEWARE[:-1]], [MIDDLEWARE[0], OURS, *MIDDLEWARE[1:-1]]):
        errors = errors_of(MIDDLEWARE=wrong)
        assert errors
        assert any("AuthenticationMiddleware" in error for error in errors)
        with override_settings(MIDDLEWARE=wrong), pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            UserSessionMiddleware(mine)


def test_not_installed():
    """An application that is not installed is named."""
    without = override_settings(INSTALLED_APPS=settings.INSTALLED_APPS[:-1])
    with without, pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
        UserSessionMiddleware(mine)


def test_view_without_middleware(manager):
    """A view whose request did not pass the middleware says so."""
    for function in (mine, renew_key, sign_out_elsewhere, lambda request: sign_in_with(request, None)):
        with pytest.raises(ImproperlyConfigured, match="UserSessionMiddleware"):
            function(RequestFactory().get("/"))


def test_request_without_middleware(client, manager):
    """Without the middleware a request has no session to read."""
    client.get("/bare")
    with pytest.raises(AttributeError, match="UserSessionMiddleware"):
        RequestFactory().get("/").user_session  # noqa: B018


def test_timeout_setting(manager):
    """The settings say how long sessions last; each middleware keeps the names that it was made with."""
    options = {"HEADER": "X-Key", "COOKIE": "who", "COOKIE_SECURE": False, "TIMEOUT": 60}
    with override_settings(USER_SESSIONS=options):
        client = Client()
        key = log_in(client)
    assert client.cookies["who"].value == key
    assert manager.getSessionTimeLeft(key) == 60
    assert Client().get("/sync/mine", headers={"X-Key": key}).status_code == 401  # back to the names of everyone
    with override_settings(USER_SESSIONS=options):
        assert Client().get("/sync/mine", headers={"X-Key": key}).status_code == 200


def test_no_cookie(manager):
    """Without our cookie only Django's are set."""
    with override_settings(USER_SESSIONS={"COOKIE": None}):
        client = Client()
        key = log_in(client)
        assert list(client.cookies) == ["csrftoken", "sessionid"] or list(client.cookies) == ["sessionid"]
        assert Client().get("/sync/mine", headers={"Session-Key": key}).status_code == 200
        assert is_logged_out(Client().get("/sync/mine"))


def test_guarded_view():
    """A guarded view stays the kind of function that it was."""
    assert iscoroutinefunction(mine_async)
    assert not iscoroutinefunction(mine)
    assert mine.__name__ == "mine"


def test_missing_django():
    """Without Django, the import says what to install."""
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
