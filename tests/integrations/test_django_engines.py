"""Django's own session and ours, with every session engine of Django, on WSGI and on ASGI."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from watched_store import WatchedStore

pytest.importorskip("django")
pytest.importorskip("django_project")  # sets Django up, before modules with models and forms are imported

from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.utils.functional import empty
from django.views import View
from django_clients import BACKEND, copy_of, sign_in
from django_project import COOKIE, djangos_session, new_client, user_named

from users_session_manager import SessionManager
from users_session_manager.integrations.django import passive, session_required

ENGINES = ["db", "cache", "cached_db", "file", "signed_cookies"]
SESSIONS, OURS, AUTH, *OTHERS = settings.MIDDLEWARE


def note_user(name: str) -> Any:
    """Make a middleware that reads `request.user`, and says in the answer whom it saw."""

    def middleware(get_response: Any) -> Any:
        def answer(request: Any) -> Any:
            user = request.user.get_username()
            response = get_response(request)
            response[name] = user
            return response

        return answer

    return middleware


above, below = note_user("Above"), note_user("Below")


def hello(request: Any) -> Any:
    return HttpResponse("hello")


def user(request: Any, number: int = 0) -> Any:
    return HttpResponse(request.user.get_username())


async def auser(request: Any) -> Any:
    return HttpResponse((await request.auser()).get_username())


def asked(request: Any) -> Any:
    return HttpResponse(auth.get_user(request).get_username())


@session_required
def mine(request: Any) -> Any:
    return HttpResponse(request.user_session.username)


@session_required
async def amine(request: Any) -> Any:
    return HttpResponse((await request.auser_session()).username + (await request.auser()).get_username())


@session_required
def with_user(request: Any) -> Any:
    return HttpResponse(request.user_session.username + request.user.get_username())


def swapped(request: Any) -> Any:
    """Put another of Django's sessions under the request, and purge what Django has cached."""
    before = request.user.get_username()
    request.session = engine().SessionStore(request.headers["Other"])
    for name in ("_cached_user", "_acached_user"):
        vars(request).pop(name, None)
    request.user._wrapped = empty
    names = f"{before} {request.user.get_username()}"
    assert (request.user_session and request.user_session.username) == (request.user.get_username() or None)
    return HttpResponse(names)


def by_hand(request: Any) -> Any:
    found = user_named(request.GET["name"])
    request.session[auth.SESSION_KEY] = str(found.pk)
    request.session[auth.BACKEND_SESSION_KEY] = BACKEND
    request.session[auth.HASH_SESSION_KEY] = found.get_session_auth_hash()
    request.session.save()
    return HttpResponse()


def emptied(request: Any) -> Any:
    if "read" in request.GET:
        request.session.get("x")
    getattr(request.session, request.GET["method"])()
    return HttpResponse()


async def aemptied(request: Any) -> Any:
    if "read" in request.GET:
        await request.session.aget("x")
    await request.session.aflush()
    return HttpResponse()


@passive
async def apoll(request: Any) -> Any:
    return await auser(request)


@method_decorator(passive, name="dispatch")
class Poll(View):
    def get(self, request: Any) -> Any:
        return user(request)


urlpatterns = [
    path("hello", hello),
    path("user", user),
    path("auser", auser),
    path("asked", asked),
    path("mine", mine),
    path("amine", amine),
    path("with-user", with_user),
    path("swapped", swapped),
    path("by-hand", by_hand),
    path("emptied", emptied),
    path("aemptied", aemptied),
    path("poll", passive(user)),
    path("apoll", apoll),
    path("class-poll", Poll.as_view()),
    path("guarded-poll", login_required(passive(user))),
    path("required-poll", session_required(passive=True)(user)),
    path("hidden-poll", passive(session_required(user))),
    path("named-poll", user, name="named-poll"),
    path("app/", include(([path("named-poll", user, name="named-poll")], "app"))),
    path("<int:number>/poll", user),
    path("admin/", admin.site.urls),
]


def engine() -> Any:
    return import_module(settings.SESSION_ENGINE)


@pytest.fixture(params=ENGINES)
def every_engine(request: Any, tmp_path: Any, monkeypatch: Any) -> Any:
    module = f"django.contrib.sessions.backends.{request.param}"
    if request.param == "file":
        monkeypatch.setattr(import_module(module).SessionStore, "_storage_path", str(tmp_path), raising=False)
    with override_settings(SESSION_ENGINE=module):
        yield


@pytest.fixture(autouse=True)
def project(manager: SessionManager, django_users: None) -> Any:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login"):
        yield
    connection.close()


def names_in(answer: Any) -> set[str]:
    """Return whom the middleware above and below ours saw, and whom the view saw."""
    return {answer["Above"], answer["Below"], answer.content.decode()}


# An ended session


@pytest.mark.parametrize("page", ["user", "auser", "asked"])
def test_ended_session(manager, every_engine, handler, page):
    """The first request after the end is anonymous for a middleware above ours, for one below it, and for the view."""
    middleware = [SESSIONS, AUTH, f"{__name__}.above", OURS, f"{__name__}.below", *OTHERS]
    with override_settings(MIDDLEWARE=middleware):
        client = sign_in(handler)
        assert names_in(client.get(f"/{page}")) == {"luca"}
        manager.deleteAllSessions()
        for _ in range(2):
            assert names_in(client.get(f"/{page}")) == {""}


def test_copied_cookie(manager, every_engine, handler):
    """After the end a copy of Django's cookie signs no user in, however often and wherever it is sent."""
    client = sign_in(handler)
    manager.deleteAllSessions()
    for page in ("user", "auser", "asked", "hello", "user", "mine"):
        for names in (["sessionid"], ["sessionid", COOKIE]):
            for _ in range(3):
                answer = copy_of(client, handler, *names).get(f"/{page}")
                if page == "mine":
                    assert answer.status_code == 401
                else:
                    assert answer.content == (b"hello" if page == "hello" else b"")
    assert manager.getLoggedUsers() == []


# Changes of Django's session by an application


def test_swapped_session(manager, every_engine, handler):
    """Another of Django's sessions put under a request is read as Django alone reads it, and no session ends."""
    lucas = sign_in(handler).cookies["sessionid"].value
    browser, stranger = sign_in(handler, "fabio"), new_client(handler)
    for client, names in ((browser, b"fabio luca"), (stranger, b" luca")):
        answer = client.get("/swapped", headers={"Other": lucas})
        assert answer.content == names
        assert COOKIE not in answer.cookies, "the browser got the key of another user"
    assert manager.getLoggedUsers() == ["luca", "fabio"]
    assert browser.get("/user").content == browser.get("/mine").content == b"fabio"
    assert stranger.get("/user").content == b""
    manager.deleteUserSessions(str(user_named("luca").pk))
    assert browser.get("/swapped", headers={"Other": lucas}).content == b"fabio "


def test_login_by_hand(manager, every_engine, handler):
    """A login that was written into Django's session gets a session; written over another one, that ends."""
    client = new_client(handler)
    client.get("/by-hand?name=luca")
    assert manager.getLoggedUsers() == ["luca"]
    assert client.get("/mine").content == client.get("/user").content == b"luca"
    client.get("/by-hand?name=fabio")
    assert manager.getLoggedUsers() == ["fabio"]
    assert client.get("/mine").content == client.get("/user").content == b"fabio"
    manager.deleteAllSessions()
    assert client.get("/user").content == b""


@pytest.mark.parametrize("second", ["luca", "fabio"])
def test_two_logins(manager, every_engine, handler, second):
    """Two logins of one test client leave one session, that of the second."""
    client = new_client(handler)
    client.force_login(user_named("luca"))
    first = copy_of(client, handler, "sessionid")
    (key,) = manager.sessions
    client.force_login(user_named(second))
    assert manager.getLoggedUsers() == [second]
    assert key not in manager.sessions
    assert client.get("/user").content == client.get("/mine").content == second.encode()
    assert first.get("/user").content == b""


EMPTIED = ["emptied?method=flush", "emptied?method=flush&read", "emptied?method=clear", "emptied?method=clear&read"]


@pytest.mark.parametrize("url", [*EMPTIED, "aemptied", "aemptied?read"])
def test_emptied_session(manager, every_engine, handler, url):
    """`flush()` and `clear()` of Django's session end ours, also if nothing has read it before."""
    client = sign_in(handler)
    before = copy_of(client, handler, "sessionid", COOKIE)
    client.get(f"/{url}")
    assert manager.getLoggedUsers() == []
    assert (client.cookies["sessionid"].value == "") is ("clear" not in url)  # as Django does by itself
    for each in (client, before):
        assert each.get("/user").content == b""
        assert each.get("/mine").status_code == 401


@pytest.mark.parametrize("page", ["user", "mine"])
def test_deleted_session(manager, every_engine, handler, page):
    """Once Django's session is gone, as after `clearsessions`, our cookie is no login, and the session ends."""
    client = sign_in(handler)
    if settings.SESSION_ENGINE.endswith("signed_cookies"):
        client.cookies["sessionid"] = "no session"
    else:
        djangos_session(client).delete()
    assert copy_of(client, handler, COOKIE).get("/mine").status_code == 401
    assert manager.getLoggedUsers() == ["luca"]  # a request without Django's cookie shows nothing of Django's session
    assert client.get(f"/{page}").content != b"luca"
    assert client.get("/mine").status_code == 401
    assert manager.getLoggedUsers() == []


# The idle timeout


@pytest.mark.parametrize("url", ["/admin/auth/user/", "/no-such-page", "/hello", "/user", "/auser", "/mine"])
def test_every_request_prolongs(manager, clock, handler, url):
    """Every request of a signed-in user restarts the idle timeout, whatever it reads."""
    client = sign_in(handler, "admin")
    (key,) = manager.sessions
    for each in (client, copy_of(client, handler, COOKIE)):  # a public page may be asked for with our cookie alone
        clock.turn(1000)
        each.get(url)
        assert manager.getSessionTimeLeft(key) == 3000
    clock.turn(1000)
    assert new_client(handler).get(url, headers={"Session-Key": key}).status_code in (200, 302, 404)
    assert manager.getSessionTimeLeft(key) == 3000


POLLS = ["/poll", "/apoll", "/class-poll", "/guarded-poll", "/required-poll", "/hidden-poll", "/named-poll"]


@pytest.mark.parametrize("url", [*POLLS, "/app/named-poll", "/7/poll"])
@pytest.mark.parametrize("reader", ["no middleware", "a middleware"])
def test_passive_views(manager, clock, handler, url, reader):
    """A passive request leaves the idle timeout as it is, whatever guards its view, and whatever reads the user."""
    middleware = settings.MIDDLEWARE if reader == "no middleware" else [*settings.MIDDLEWARE, f"{__name__}.below"]
    passives = ["named-poll", "app:named-poll", "/7/poll"]
    with override_settings(USER_SESSIONS={"PASSIVE": passives}, MIDDLEWARE=middleware):
        client = sign_in(handler)
        (key,) = manager.sessions
        clock.turn(1000)
        assert client.get(url).content == b"luca"
        copy_of(client, handler, COOKIE).get(url)
        new_client(handler).get(url, headers={"Session-Key": key})
        assert manager.getSessionTimeLeft(key) == 2000
        client.get("/8/poll")
        assert manager.getSessionTimeLeft(key) == 3000


# The cost of a request


class CountingStore(WatchedStore):
    """A store that notes one question for each call: `restart` of a store in memory calls its `get`."""

    def restart(self, *args: Any, **options: Any) -> Any:
        session = super().restart(*args, **options)
        self.asked.pop()
        return session


@pytest.mark.parametrize("save_always", [False, True])
@pytest.mark.parametrize("readers", ["", "below", "above below"])
@pytest.mark.parametrize(
    "url", ["/mine", "/amine", "/with-user", "/user", "/auser", "/hello", "/poll", "/required-poll"]
)
def test_one_question(manager, handler, url, readers, save_always):
    """A request asks the store once, whatever reads `request.user` besides the guard."""
    names = readers.split()
    middleware = [SESSIONS, OURS, AUTH, *[f"{__name__}.{name}" for name in names], *OTHERS]
    manager.close()
    store = CountingStore()
    SessionManager(store=store)
    with override_settings(MIDDLEWARE=middleware, SESSION_SAVE_EVERY_REQUEST=save_always):
        client = sign_in(handler)
        store.asked.clear()
        assert client.get(url).status_code == 200
        assert len(store.asked) == 1
        if handler == "asgi":
            assert not any(is_on_loop for _, is_on_loop in store.asked)
        store.asked.clear()
        (key,) = store.sessions
        assert copy_of(client, handler, "sessionid").get(url, headers={"Session-Key": key}).status_code == 200
        assert len(store.asked) == 1
