"""Forms of other origins in Django: where Django itself checks a form its answer counts, elsewhere ours does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("django")

from django.conf import settings
from django.contrib.auth import login, logout
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django_project import user_named

from users_session_manager import SessionManager

CSRF = "django.middleware.csrf.CsrfViewMiddleware"
OTHER = "https://evil.test"
ATTACKS = [
    {"Sec-Fetch-Site": "cross-site", "Origin": OTHER},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver:8443"},
    {"Origin": OTHER},
    {"Origin": "null"},
]


def certificate_login(get_response: Any) -> Any:
    """A middleware of Django that logs the owner of a certificate in."""

    def middleware(request: Any) -> Any:
        if "Client-Certificate" in request.headers:
            login(request, user_named(request.headers["Client-Certificate"]))
        return get_response(request)

    return middleware


@pytest.fixture
def project(django_project: None, manager: SessionManager) -> Iterator[Any]:
    """Views with Django's own check and without it, and a middleware that logs in."""

    def sign_in(request: Any) -> Any:
        if request.method == "POST":
            login(request, user_named("luca"))
        return HttpResponse(get_token(request))

    def sign_out(request: Any) -> Any:
        logout(request)
        return HttpResponse()

    routes = [path(name, view) for name, view in (("login", sign_in), ("logout", sign_out))]
    routes += [path(f"exempt/{route.pattern}", csrf_exempt(route.callback)) for route in routes]
    middleware = [*settings.MIDDLEWARE, CSRF, f"{__name__}.certificate_login"]
    with override_settings(ROOT_URLCONF=tuple(routes), MIDDLEWARE=middleware):
        yield


def new_client() -> Client:
    return Client(enforce_csrf_checks=True)


def test_checked_by_django(project, manager):
    """Without a token Django refuses; with one it lets in the origins that its settings name."""
    client = new_client()
    assert client.post("/login", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 403
    token = {"csrfmiddlewaretoken": client.get("/login").content.decode()}
    attack = {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}
    assert client.post("/login", token, headers=attack).status_code == 403
    assert manager.getLoggedUsers() == []
    with override_settings(CSRF_TRUSTED_ORIGINS=["https://app.example"]):
        trusting = new_client()  # with a new handler, which reads that setting
        trusting.cookies = client.cookies
        assert trusting.post("/login", token, headers=attack).status_code == 200
    assert manager.getLoggedUsers() == ["luca"]


@pytest.mark.parametrize("headers", ATTACKS, ids=lambda headers: "-".join(headers.values()))
def test_exempt(project, manager, headers):
    """A view that Django does not check is checked here; nothing of the client changes."""
    client = new_client()
    assert client.post("/exempt/login").status_code == 200
    for url in ("/exempt/login", "/exempt/logout"):
        stranger = new_client().post(url, headers=headers)
        assert (stranger.status_code, stranger.json()) == (403, {"crossOrigin": True})
        assert not any(morsel["max-age"] == 0 for morsel in stranger.cookies.values())
    assert client.post("/exempt/logout", headers=headers).status_code == 403
    assert manager.getLoggedUsers() == ["luca"]
    assert client.post("/exempt/logout", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert manager.getLoggedUsers() == []


def test_login_of_middleware(project, manager):
    """A middleware may log in at each request, from wherever it comes: that is no form of a user."""
    answer = new_client().post("/exempt/nowhere", headers={**ATTACKS[0], "Client-Certificate": "luca"})
    assert answer.status_code == 404
    assert manager.getLoggedUsers() == ["luca"]


def test_proxy(project, manager):
    """Behind a proxy the host and the scheme are those that the client has asked for."""
    shown = {"Origin": "https://public.test", "X-Forwarded-Host": "public.test", "X-Forwarded-Proto": "https"}
    assert new_client().post("/exempt/login", headers=shown).status_code == 403
    with override_settings(USER_SESSIONS={"PROXIES": 1}):
        assert new_client().post("/exempt/login", headers=shown).status_code == 200
        for wrong in ({"X-Forwarded-Proto": "http"}, {"X-Forwarded-Host": "evil.test"}):
            assert new_client().post("/exempt/login", headers=shown | wrong).status_code == 403
    assert manager.getLoggedUsers() == ["luca"]


@pytest.mark.usefixtures("project")
def test_clients_of_tests():
    """A test client sends no host, and its own origin is let in; without checks every origin is, as by Django."""
    user_named("luca")
    for secure, scheme in ((False, "http"), (True, "https")):
        for origin, status in ((f"{scheme}://testserver", 200), (OTHER, 403)):
            client = Client(enforce_csrf_checks=True)
            assert client.post("/exempt/login", headers={"Origin": origin}, secure=secure).status_code == status
            assert Client().post("/exempt/login", headers={"Origin": origin}, secure=secure).status_code == 200
