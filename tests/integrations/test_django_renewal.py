"""Django: a new key, a logout elsewhere, and logins that have to be recent; see also `test_web.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from foreign_key import foreign_key

pytest.importorskip("django")

from django.http import StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from django_project import (
    COOKIE,
    EVERY_VIEW,
    HTML,
    bare,
    djangos_session,
    is_alive,
    is_logged_out,
    log_in,
    new_client,
    user_named,
)

from users_session_manager import SessionError
from users_session_manager.integrations.django import renew_key, session_required, sign_in
from users_session_manager.integrations.django.state import KEY_IN_SESSION

pytestmark = pytest.mark.usefixtures("django_project")


def test_renewal(client, manager, clock, kind):
    """A renewal of the key changes Django's own session too; the old cookies of both are dead at once."""
    old, djangos = log_in(client), client.cookies["sessionid"].value
    clock.turn(1000)
    key = client.post(f"/{kind}/renew").json()["key"]
    assert client.cookies[COOKIE].value == key != old
    assert manager.getSessionTimeLeft(key) == 3000  # as every request restarts it
    assert new_client().get("/sync/mine", headers={"Session-Key": old}).status_code == 401
    assert client.get("/sync/mine").json() == {"username": "luca"}
    assert client.get("/sync/user").content == client.get("/async/user").content == b"luca"
    assert client.cookies["sessionid"].value != djangos
    stolen = new_client()
    stolen.cookies["sessionid"] = djangos
    assert stolen.get(f"/{kind}/user").content == b""
    assert stolen.get(f"/{kind}/mine").status_code == 401
    del client.cookies[COOKIE]
    answer = client.get(f"/{kind}/user")
    assert (answer.content, answer.cookies[COOKIE].value) == (b"luca", key)
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/mine").cookies[COOKIE].value == key


def test_after_the_answer(manager):
    """The generator of a stream cannot change the cookies of its answer: a new key would log the client out."""

    def stream(request: Any) -> Any:
        yield b"on"
        for call in (partial(sign_in, request, user_named("fabio")), partial(renew_key, request)):
            with pytest.raises(SessionError, match="has its cookies already"):
                call()
            yield b", refused"

    view = session_required(lambda request: StreamingHttpResponse(stream(request)))
    client = new_client()
    log_in(client)
    with override_settings(ROOT_URLCONF=(path("stream", view),)):
        assert b"".join(client.get("/stream").streaming_content) == b"on, refused, refused"
        assert client.get("/stream").status_code == 200
    assert manager.getLoggedUsers() == ["luca"]


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
    copied = new_client()
    copied.cookies["sessionid"] = djangos
    for view in ("mine", "user"):
        assert COOKIE not in copied.get(f"/{kind}/{view}").cookies  # nor is a copy exchanged for the new key
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
    login = dict(djangos_session(client).items())

    def present(one: str) -> None:
        session = djangos_session(client)
        session.update({**login, KEY_IN_SESSION: one})
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
    key = client.post("/sync/renew", {"overlap": 10}).json()["key"]
    renewed_at = manager.getSession(key).authenticatedAt
    client.cookies["sessionid"] = djangos
    for _ in range(2):
        assert client.get(f"/{kind}/user").content == b"luca"
        assert client.get(f"/{kind}/mine").json() == {"username": "luca"}
        clock.turn(10)
    assert (list(manager.sessions), manager.getSession(key).authenticatedAt) == ([key], renewed_at)
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
    """A login that is too old is answered 403 until it is done again, by every kind of view; a browser gets a page."""
    manager.setSessionTimeOut(9000)
    for kind in EVERY_VIEW:
        url = f"/{kind}/recent"
        assert is_logged_out(client.get(url))
        key = log_in(client)
        for again in (lambda: log_in(client), lambda: client.post("/sync/renew").json()["key"]):
            assert client.get(url).json() == {"username": "luca"}
            clock.turn(3601)
            answer = client.get(url)
            assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
            page = client.get(url, headers=HTML)
            assert (page.status_code, page["Content-Type"]) == (403, "text/html; charset=utf-8")
            assert b"enter your password again" in page.content
            assert answer["Cache-Control"] == page["Cache-Control"] == "no-store, private"
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
