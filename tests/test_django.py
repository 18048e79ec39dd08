"""The Django integration, in a project as its users have it: Django's own auth, sessions and admin; WSGI and ASGI."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("django")

import django
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import authenticate, get_user_model, login, logout
from django.contrib.auth.decorators import login_required
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

from users_session_manager import MemoryStore, SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.integrations.django import UserSessionMiddleware, session_required

os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"
django.setup()

COOKIE = "__Host-session_key"
UNKNOWN = "Otter-candid-46_" + "0" * 32
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MIDDLEWARE = settings.MIDDLEWARE
OURS = "users_session_manager.integrations.django.UserSessionMiddleware"


def sign_in(request: Any) -> Any:
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponseForbidden()
    login(request, user)
    return JsonResponse({"key": request.user_session.key, "user": request.user.get_username()})


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
def other(request: Any) -> Any:
    raise SessionRejected


@session_required
def broken(request: Any) -> Any:
    raise ZeroDivisionError


def bare(request: Any) -> Any:
    return HttpResponse("hello")


urlpatterns = [
    path("login", sign_in),
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


def log_in(client: Any, username: str = "luca", password: str = "lasagne", **options: Any) -> str:
    answer = client.post("/login", {"username": username, "password": password}, **options)
    assert answer.status_code == 200
    assert answer.json()["user"] == username
    return answer.json()["key"]


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


def test_a_login_ends_the_session_of_djangos_own_when_the_cookie_was_lost(client, manager):
    log_in(client)
    del client.cookies[COOKIE]
    log_in(client)
    assert manager.getLoggedUsers() == ["luca"]


def test_a_login_that_gets_no_session_is_none(client, manager, monkeypatch):
    def away(*_: Any) -> Any:
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
    session = client._client.session if isinstance(client, OverAsgi) else client.session
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


def test_a_session_that_ends_during_the_view_is_401(client, manager):
    log_in(client)
    answer = client.get("/ends")
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

    def get(self, key: object) -> Any:
        self._asked()
        return super().get(key)

    def restart(self, *args: Any) -> bool:
        self._asked()
        return super().restart(*args)


@pytest.fixture
def slow() -> SlowStore:
    return SessionManager(store=SlowStore())._store


@every_view
@pytest.mark.parametrize("over", ["wsgi", "asgi"])
def test_a_store_that_is_away_is_503_and_nobody_gets_in(slow, kind, over):
    client = new_client(over)
    key = log_in(client)
    slow.away = True
    for url in (f"/{kind}/mine", "/sync/who", "/async/who", "/sync/user", "/async/user"):
        answer = client.get(url)
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


def test_reading_the_session_on_a_loop_says_what_to_do_instead(slow):
    async def hasty(request: Any) -> Any:
        return HttpResponse(request.user_session)

    urls = override_settings(ROOT_URLCONF=(path("hasty", hasty),))
    client = OverAsgi(raise_request_exception=True)
    with urls, pytest.raises(SynchronousOnlyOperation, match="auser_session"):
        client.get("/hasty")


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
        ({"TIMEOUT": "60"}, "TIMEOUT.*'60'"),
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
    with pytest.raises(ImproperlyConfigured, match="UserSessionMiddleware"):
        mine(RequestFactory().get("/"))


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
