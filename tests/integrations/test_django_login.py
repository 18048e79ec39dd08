"""Django: what a login and a logout do. `test_web.py` has what all frameworks share."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("django")

from asgiref.sync import sync_to_async
from django.contrib import auth
from django.contrib.auth import login
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from django_project import (
    COOKIE,
    UNKNOWN,
    djangos_session,
    is_alive,
    is_logged_out,
    log_in,
    new_client,
    remember,
    user_named,
)

from users_session_manager import SessionRejected
from users_session_manager.integrations.django import sign_in as sign_in_with
from users_session_manager.keys import new_key

pytestmark = pytest.mark.usefixtures("django_project")


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
    """A login that is refused is none for Django either; it leaves a session alone that is not one of Django's."""
    manager.setMaxSessionsPerUser(1, "reject")
    there = manager.loadNewSession("luca", userId=str(user_named("luca").pk))
    here = client.cookies[COOKIE] = manager.loadNewSession("fabio")
    answer = client.post(f"/{kind}/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json()) == (409, {"user": ""})
    assert COOKIE not in answer.cookies
    assert "_auth_user_id" not in djangos_session(client)
    assert client.get(f"/{kind}/mine").json() == {"username": "fabio"}
    assert (client.cookies[COOKIE].value, client.get(f"/{kind}/user").content) == (here, b"")
    assert list(manager.sessions) == [there, here]


def test_refused_login_over_another(client, manager, kind):
    """Before a login, Django's `login` logs another user of the client out; that user has no session here either."""
    manager.setMaxSessionsPerUser(1, "reject")
    there = manager.loadNewSession("luca", userId=str(user_named("luca").pk))
    log_in(client, "fabio", "focaccia")
    answer = client.post(f"/{kind}/login", {"username": "luca", "password": "lasagne"})
    assert (answer.status_code, answer.json()) == (409, {"user": ""})
    assert list(manager.sessions) == [there]
    assert client.get(f"/{kind}/user").content == b""
    assert is_logged_out(client.get(f"/{kind}/mine"))


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


@pytest.mark.parametrize(("error", "status"), [(SessionRejected, 401), (ZeroDivisionError, 500)])
def test_login_before_error(client, manager, kind, error, status):
    """A request that signs a user in and then fails, or is rejected, has signed no user in."""

    def fail(request: Any) -> Any:
        sign_in_with(request, user_named(request.POST["username"]))
        raise error

    async def fail_async(request: Any) -> Any:
        await sync_to_async(fail)(request)

    luca = log_in(new_client())
    for before in (None, "fabio", "luca"):
        if before is not None:
            client.force_login(user_named(before))
            assert client.get("/sync/mine").json() == {"username": before}
        with override_settings(ROOT_URLCONF=(path("fail", fail if kind == "sync" else fail_async),)):
            answer = client.post("/fail", {"username": "luca"})
        assert answer.status_code == status
        assert list(manager.sessions) == [luca]
        assert client.get(f"/{kind}/user").content == b""
        assert is_logged_out(client.get(f"/{kind}/mine"))


def test_other_user_before_error(client, manager, kind):
    """A user that a view writes into Django's session is not stored by Django after a failure: nothing changes."""
    fabio = user_named("fabio")

    def fail(request: Any) -> Any:
        request.session[auth.SESSION_KEY] = str(fabio.pk)
        request.session[auth.HASH_SESSION_KEY] = fabio.get_session_auth_hash()
        raise ZeroDivisionError

    async def fail_async(request: Any) -> Any:
        await sync_to_async(fail)(request)

    key = log_in(client)
    with override_settings(ROOT_URLCONF=(path("fail", fail if kind == "sync" else fail_async),)):
        answer = client.post("/fail")
    assert (answer.status_code, dict(answer.cookies)) == (500, {})
    assert list(manager.sessions) == [key]
    assert client.get(f"/{kind}/user").content == b"luca"


def test_force_login(client, manager):
    """`force_login` of Django's test client is a login."""
    client.force_login(user_named("luca"))
    assert client.get("/async/mine").json() == {"username": "luca"}
    assert client.cookies[COOKIE].value in manager.sessions
    assert client.get("/sync/user").content == b"luca"


def test_signals_without_login(client, manager):
    """A package that reports its own logins and logouts, as those for tokens do, begins no session and evicts none."""
    user = user_named("luca")

    def take_token(request):
        auth.user_logged_in.send(sender=type(user), request=request, user=user)
        return HttpResponse(request.session.get("_user_session_key", "none"))

    key = log_in(client)
    manager.setMaxSessionsPerUser(1)
    with override_settings(ROOT_URLCONF=(path("token", take_token),)):
        answer = new_client().get("/token")
    assert (answer.content, dict(answer.cookies)) == (b"none", {})
    for signal in (auth.user_logged_in, auth.user_logged_out):
        signal.send(sender=type(user), request=RequestFactory().get("/"), user=user)  # no sessions there
    assert list(manager.sessions) == [key]
    assert client.get("/sync/mine").status_code == 200


@pytest.mark.parametrize("username", ["luca", "fabio"])
@pytest.mark.parametrize("is_foreign", [False, True], ids=["header", "restart"])
def test_data_of_login_set_aside(client, manager, is_foreign, username):
    """The data of a login that does not count for a request is for no other user who logs in with it."""
    log_in(client)
    before = djangos_session(client)
    before["cart"] = "of luca"
    if is_foreign:  # sessions in memory, and the process was started again
        before["_user_session_key"] = new_key().replace(UNKNOWN.split("-")[3][:4], "2222")
        del client.cookies[COOKIE]
    before.save()
    headers = {} if is_foreign else {"Session-Key": UNKNOWN}
    user = {"username": username, "password": {"luca": "lasagne", "fabio": "focaccia"}[username]}
    assert client.post("/login", user, headers=headers).status_code == 200
    assert client.get("/sync/mine").json() == {"username": username}
    assert djangos_session(client).get("cart") == ("of luca" if username == "luca" else None)
