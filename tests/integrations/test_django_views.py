"""Django: guarded views and open ones. `test_web.py` has what all frameworks share."""

from __future__ import annotations

import pytest

pytest.importorskip("django")

from django.template import Context, Engine
from django.test import Client, RequestFactory
from django_project import COOKIE, EVERY_VIEW, HTML, UNKNOWN, is_logged_out, log_in, mine

from users_session_manager.integrations.django import UserSessionMiddleware

pytestmark = pytest.mark.usefixtures("django_project")


def test_kinds_of_views(client, manager, clock):
    """Functions and classes, with and without coroutines, are guarded; open views prolong too, but passive ones."""
    for kind in EVERY_VIEW:
        assert is_logged_out(client.get(f"/{kind}/mine"))
        client.cookies[COOKIE] = UNKNOWN
        assert is_logged_out(client.get(f"/{kind}/mine"))
        key = log_in(client)
        clock.turn(1000)
        if kind != "class":
            assert client.get(f"/{kind}/poll").content in (b"luca", b'{"username": "luca"}')
            assert manager.getSessionTimeLeft(key) == 2000
        for url in ("/sync/who", "/async/who", "/sync/user", "/async/user", "/bare"):
            assert client.get(url).status_code == 200
            assert manager.getSessionTimeLeft(key) == 3000
            clock.turn(1000)
        answer = client.get(f"/{kind}/mine")
        assert answer.json() == {"username": "luca"}
        assert answer["Cache-Control"] == "no-store, private"
        assert COOKIE not in answer.cookies
        assert manager.getSessionTimeLeft(key) == (2000 if kind == "asyncclass" else 3000)
        client.post("/logout")


def test_no_user(manager):
    """A request without a session has `None`, of which Python says what the page of errors explains."""
    request = Client().get("/bare").wsgi_request
    assert request.user_session is None
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'username'"):
        request.user_session.username  # noqa: B018
    template = Engine().from_string("[{{ request.user_session.username }}]")
    assert template.render(Context({"request": request})) == "[]"


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
    """The user and the session follow each login and the logout within a request."""
    steps = ["luca", "fabio", ""]
    assert client.get("/async/change").json() == {"users": steps, "sessions": ["luca", "fabio", None]}
    assert manager.getLoggedUsers() == []


def test_bare_view(client, manager, heard):
    """A view that does not ask does not vary, and a stale cookie there is no rejection."""
    client.cookies[COOKIE] = UNKNOWN
    answer = client.get("/bare")
    assert (answer.content, answer.get("Vary"), heard.events) == (b"hello", None, [])


@pytest.mark.parametrize("way", ["header", "cookie"])
def test_key_without_login(client, manager, heard, clock, kind, way):
    """A key that belongs to no login of Django's is prolonged by every view, also by one that asks Django alone."""
    key = manager.loadNewSession("luca")
    heard.events.clear()
    headers = {"Session-Key": key} if way == "header" else {}
    if way == "cookie":
        client.cookies[COOKIE] = key
    for url in ("/bare", f"/{kind}/user", f"/{kind}/who", f"/{kind}/mine", f"/{kind}/renew", f"/{kind}/elsewhere"):
        clock.turn(1000)
        answer = client.post(url, headers=headers) if url.endswith(("renew", "elsewhere")) else None
        answer = answer or client.get(url, headers=headers)
        assert answer.status_code == 200
        if url.endswith("renew"):
            key = answer.json()["key"]
            headers = {"Session-Key": key} if way == "header" else {}
        assert manager.getSessionTimeLeft(key) == 3000
    clock.turn(1000)
    client.get(f"/{kind}/poll", headers=headers)
    assert manager.getSessionTimeLeft(key) == 2000
    clock.turn(2000)
    heard.events.clear()
    for url in ("/bare", f"/{kind}/user"):
        assert client.get(url, headers=headers).status_code == 200
    assert heard.events == []  # a stale key where none is asked for is no rejection


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
