"""Django's answers with an unavailable store, to a login too many and to one that fails later, and for caches."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from redis_server import RedisServer

pytest.importorskip("django")
pytest.importorskip("django_project")  # sets Django up, before modules with models and forms are imported

from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth import get_user_model
from django.contrib.auth.views import LoginView
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.test import override_settings
from django.urls import path
from django.views.decorators.cache import cache_page
from django_clients import BACKEND, copy_of, middleware_below, of_proxy, sign_in
from django_project import COOKIE, HTML, new_client, user_named

from users_session_manager import SessionManager
from users_session_manager.integrations.django import session_required

# Over ASGI Django makes the page of an error in a thread that closes no connection, of which Python 3.13 warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <sqlite3.Connection:pytest.PytestUnraisableExceptionWarning"
)

MESSAGE = "You are signed in as often as you may be."
numbers = count()
PAGES = {"user.html": "{{ user.username }}", "hello.html": "hello", "404.html": "{{ user.username }}"}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves is collected here, and not in a later one of another module."""
    yield
    gc.collect()


def templates(**more: str) -> Any:
    """Return a setting with these templates, and a context processor that reads the user at once."""
    processors = settings.TEMPLATES[0]["OPTIONS"]["context_processors"]
    loaders = [
        ("django.template.loaders.locmem.Loader", {**PAGES, **more}),
        "django.template.loaders.app_directories.Loader",
    ]
    return [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": loaders, "context_processors": [*processors, f"{__name__}.eager"]},
        }
    ]


def eager(request: Any) -> Any:
    return {"name": request.user.get_username()} if "eager" in request.GET else {}


def reader(get_response: Any) -> Any:
    def answer(request: Any) -> Any:
        request.user.get_username()
        return get_response(request)

    return answer


def hello(request: Any) -> Any:
    return HttpResponse("hello")


def user(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


async def auser(request: Any) -> Any:
    return HttpResponse((await request.auser()).get_username())


def in_template(request: Any) -> Any:
    return render(request, "user.html")


def deferred(request: Any) -> Any:
    return TemplateResponse(request, "user.html")


def in_processor(request: Any) -> Any:
    return render(request, "hello.html")


def sign_in_here(request: Any) -> Any:
    auth.login(request, user_named(request.GET["name"]), BACKEND)
    if "raise" in request.GET:
        raise ZeroDivisionError
    return HttpResponse(status=int(request.GET.get("status", 200)))


async def asign_in_here(request: Any) -> Any:
    user = await get_user_model().objects.aget(username=request.GET["name"])
    await auth.alogin(request, user, BACKEND)
    if "raise" in request.GET:
        raise ZeroDivisionError
    return HttpResponse(status=int(request.GET.get("status", 200)))


@session_required
def mine(request: Any) -> Any:
    return HttpResponse("mine")


@session_required
async def amine(request: Any) -> Any:
    return HttpResponse("mine")


@session_required
def file(request: Any) -> Any:
    return FileResponse(open(__file__, "rb"))  # the response closes it


@session_required
def streaming(request: Any) -> Any:
    return StreamingHttpResponse(iter([b"a", b"b"]))


@session_required
async def astreaming(request: Any) -> Any:
    async def parts() -> Any:
        for part in (b"a", b"b"):
            yield part

    return StreamingHttpResponse(parts())


@session_required
def lasting(request: Any) -> Any:
    return HttpResponse("mine", headers={"Cache-Control": "public, max-age=3600"})


@cache_page(60)
@session_required
def cached(request: Any) -> Any:
    number = next(numbers)
    return HttpResponse(f"{request.user.username} {number}", headers={"Cache-Control": "public, max-age=60"})


def sign_in_and_last(request: Any) -> Any:
    response = sign_in_here(request)
    response["Cache-Control"] = "public, max-age=60"
    return response


@session_required(max_age=0)
def recent(request: Any) -> Any:
    return HttpResponse("mine")


urlpatterns = [
    path("hello", hello),
    path("user", user),
    path("auser", auser),
    path("in-template", in_template),
    path("deferred", deferred),
    path("in-processor", in_processor),
    path("sign-in", sign_in_here),
    path("asign-in", asign_in_here),
    path("mine", mine),
    path("amine", amine),
    path("file", file),
    path("streaming", streaming),
    path("astreaming", astreaming),
    path("lasting", lasting),
    path("cached", cached),
    path("sign-in-and-last", sign_in_and_last),
    path("recent", recent),
    path("login", LoginView.as_view(template_name="admin/login.html")),
    path("admin/", admin.site.urls),
]


@pytest.fixture(autouse=True)
def project(fresh_django_users: None) -> Any:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login", TEMPLATES=templates()):
        yield


# The store is unavailable


def is_unavailable(answer: Any) -> bool:
    assert "no-store" in answer["Cache-Control"]
    return (answer.status_code, answer["Retry-After"]) == (503, "5")


REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"
ASKERS = {
    "a view": ("/user", {}),
    "an async view": ("/auser", {}),
    "a guard": ("/mine", {}),
    "an async guard": ("/amine", {}),
    "a template": ("/in-template", {}),
    "a template that is rendered late": ("/deferred", {}),
    "a context processor": ("/in-processor?eager", {}),
    "the page for what is not found": ("/no-such-page", {}),
    "the admin": ("/admin/", {}),
    "a middleware": ("/hello", {"MIDDLEWARE": [*settings.MIDDLEWARE, f"{__name__}.reader"]}),
    "LoginRequiredMiddleware": ("/hello", {"MIDDLEWARE": [*settings.MIDDLEWARE, REQUIRED]}),
    "SESSION_SAVE_EVERY_REQUEST": ("/user", {"SESSION_SAVE_EVERY_REQUEST": True}),
}


@pytest.mark.parametrize("asker", ASKERS)
def test_unavailable(unreachable, handler, asker):
    """A request for the user is answered 503 while the store is unavailable, and the session goes on afterwards."""
    url, changes = ASKERS[asker]
    client = sign_in(handler, "admin")
    (key,) = unreachable.sessions
    with override_settings(**changes):
        client = copy_of(client, handler, "sessionid", COOKIE)  # a client keeps the middleware that it began with
        before = client.get(url).status_code
        unreachable.unreachable = True
        for each in (client, copy_of(client, handler, "sessionid")):
            answer = each.get(url)
            assert is_unavailable(answer)
            assert answer.json() == {"unavailable": True}
            assert {*answer.cookies} <= {"messages"}
        answer = client.get(url, headers=HTML)
        assert is_unavailable(answer)
        assert answer["Content-Type"].startswith("text/html")
        unreachable.unreachable = False
        assert client.get(url).status_code == before
    assert list(unreachable.sessions) == [key]
    assert client.get("/mine").content == b"mine"


@pytest.mark.parametrize("save_always", [False, True])
def test_public_page(unreachable, handler, save_always):
    """A page that asks nothing is answered while the store is unavailable."""
    client = sign_in(handler)
    unreachable.unreachable = True
    with override_settings(SESSION_SAVE_EVERY_REQUEST=save_always):
        for each in (
            client,
            copy_of(client, handler, COOKIE),
            copy_of(client, handler, "sessionid"),
            new_client(handler),
        ):
            assert each.get("/hello").content == b"hello"
        assert new_client(handler).get("/user").content == b""
    unreachable.unreachable = False
    assert client.get("/mine").content == b"mine"


@pytest.mark.parametrize("way", ["/sign-in?name=luca", "/asign-in?name=luca", "a form", "a proxy"])
def test_login_while_unavailable(unreachable, handler, way):
    """A login while the store is unavailable is answered 503, and is none for Django either."""
    client = new_client(handler)
    unreachable.unreachable = True
    with middleware_below(*[of_proxy(handler)] * (way == "a proxy")):
        if way == "a form":
            answer = client.post("/login", {"username": "luca", "password": "lasagne"})
        elif way == "a proxy":
            with override_settings(AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.RemoteUserBackend"]):
                answer = client.get("/user", headers={"Proxy-User": "luca"})
        else:
            answer = client.get(way)
    assert is_unavailable(answer)
    assert COOKIE not in answer.cookies
    unreachable.unreachable = False
    assert client.get("/user").content == b""
    assert len(unreachable.sessions) == 0


def test_redis_stopped(manager, handler, tmp_path):
    """The same with a real Redis that stops and comes back."""
    manager.close()
    server = RedisServer(tmp_path, "--appendonly", "yes")
    try:
        with override_settings(USER_SESSIONS={"STORE": server.url}):
            client = sign_in(handler)
            server.stop()
            for url in ("/user", "/mine", "/deferred"):
                assert is_unavailable(client.get(url))
            assert client.get("/hello").content == b"hello"
            server.start()
            assert client.get("/mine").content == b"mine"
            assert client.get("/user").content == b"luca"
            SessionManager(store=server.url).close()
    finally:
        server.stop()


# A login too many


@pytest.mark.parametrize(
    ("url", "name", "password"), [("/login", "luca", "lasagne"), ("/admin/login/", "admin", "antipasti")]
)
def test_too_many_in_a_form(manager, handler, url, name, password):
    """Django's own form, and that of the admin, say what is wrong; once there is room, they let in."""
    manager.setMaxSessionsPerUser(1, "reject")
    elsewhere, client = sign_in(handler, name), new_client(handler)
    form = {"username": name, "password": password, "next": "/hello"}
    answer = client.post(url, form, headers=HTML)
    assert answer.status_code == 200
    assert MESSAGE in answer.content.decode()
    assert MESSAGE not in client.post(url, {**form, "password": "wrong"}, headers=HTML).content.decode()
    assert client.get("/user").content == b""
    assert len(manager.sessions) == 1
    assert elsewhere.post(url, form).status_code == 302  # goes on with its own session
    manager.deleteAllSessions()
    assert client.post(url, form).status_code == 302
    assert client.get("/user").content == name.encode()


@pytest.mark.parametrize("way", ["/sign-in?name=luca", "/asign-in?name=luca", "a proxy"])
def test_too_many_elsewhere(manager, handler, way):
    """Elsewhere an API is answered 409 in JSON, and a browser with a page, which may be the project's own."""
    manager.setMaxSessionsPerUser(1, "reject")
    sign_in(handler)
    headers = {"Proxy-User": "luca"} if way == "a proxy" else {}
    url = "/user" if way == "a proxy" else way
    with middleware_below(*[of_proxy(handler)] * (way == "a proxy")):
        backends = [*settings.AUTHENTICATION_BACKENDS, "django.contrib.auth.backends.RemoteUserBackend"]
        with override_settings(AUTHENTICATION_BACKENDS=backends):
            client = new_client(handler)
            answer = client.get(url, headers=headers)
            assert (answer.status_code, answer.json()) == (409, {"tooManySessions": True})
            answer = client.get(url, headers=headers | HTML)
            assert answer.status_code == 409
            assert MESSAGE in answer.content.decode()
            with override_settings(TEMPLATES=templates(**{"409.html": "{{ user.username }} too many"})):
                assert client.get(url, headers=headers | HTML).content == b" too many"
    assert client.get("/user").content == b""
    assert COOKIE not in client.cookies
    assert len(manager.sessions) == 1


# A login that fails later on


@pytest.mark.parametrize("before", [None, "luca", "admin"])
@pytest.mark.parametrize("how", ["raise", "status=500", "status=503"])
@pytest.mark.parametrize("url", ["/sign-in", "/asign-in"])
def test_failure_after_login(manager, handler, url, how, before):
    """After a view that logs in and then fails no user is signed in, and no key is given out."""
    client = sign_in(handler, before) if before else new_client(handler)
    answer = client.get(f"{url}?name=luca&{how}")
    assert answer.status_code >= 500
    assert manager.getLoggedUsers() == []
    assert COOKIE not in answer.cookies or not answer.cookies[COOKIE].value
    assert client.get("/user").content == b""
    assert client.get("/mine").status_code == 401


# Answers that caches may store


@pytest.mark.parametrize("url", ["/mine", "/amine", "/file", "/streaming", "/astreaming", "/lasting", "/recent"])
def test_nothing_is_stored(unreachable, handler, url):
    """No answer of a guarded view may be stored by a cache, whatever it is, nor a refusal; and each names its keys."""
    client = sign_in(handler)
    (key,) = unreachable.sessions
    answers = [client.get(url), new_client(handler).get(url), new_client(handler).get(url, headers=HTML)]
    answers.append(new_client(handler).get(url, headers={"Session-Key": key}))
    unreachable.unreachable = True
    answers.append(client.get(url))
    expected = 403 if url == "/recent" else 200
    assert [answer.status_code for answer in answers] == [expected, 401, 302, expected, 503]
    for answer in answers:
        own = url == "/lasting" and answer.status_code == 200  # it says itself what caches may do
        assert {*answer["Cache-Control"].split(", ")} == (
            {"public", "max-age=3600"} if own else {"no-store", "private"}
        )
        assert {"Cookie", "Session-Key"} <= {*answer["Vary"].split(", ")}
        answer.close()


def test_cached_above_the_guard(manager, handler):
    """A decorator above the guard that stores answers gives none to another client, even one that may be stored."""
    clients = [sign_in(handler, "luca"), sign_in(handler, "fabio")]
    answers = []
    for _ in range(2):
        answers += [client.get("/cached").content.decode().split() for client in clients]
        assert new_client(handler).get("/cached").status_code == 401
        assert new_client(handler).get("/cached", headers={"Session-Key": "x"}).status_code == 401
    assert [name for name, _ in answers] == ["luca", "fabio"] * 2
    assert answers[:2] == answers[2:]  # which shows that they were stored


def test_cookie_is_not_stored(manager, handler):
    """An answer with a cookie is not to be stored, whatever the view says."""
    answer = new_client(handler).get("/sign-in-and-last?name=luca")
    assert answer.cookies[COOKIE].value
    assert answer["Cache-Control"] == "no-store, private"
