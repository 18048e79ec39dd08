"""Another password, another secret key, and impersonation: which session goes on, and which ends."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("django")
pytest.importorskip("django_project")  # sets Django up, before modules with models and forms are imported

from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path
from django_clients import BACKEND, copy_of, middleware_below, sign_in
from django_project import COOKIE, new_client, user_named

from users_session_manager import SessionManager
from users_session_manager.integrations.django import session_required


def impersonate(get_response: Any) -> Any:
    """Another user for this request alone."""

    def answer(request: Any) -> Any:
        if "as" in request.GET:
            request.user = user_named(request.GET["as"])
        return get_response(request)

    return answer


def hijack(request: Any) -> Any:
    """Log another user in over one's own login, as packages for support staff do."""
    history = [*request.session.get("history", []), request.user.get_username()]
    auth.login(request, user_named(request.GET["name"]), BACKEND)
    request.session["history"] = history
    return HttpResponse(" ".join(history))


def change_user(request: Any) -> Any:
    """Write another user into Django's session."""
    other = user_named(request.GET["name"])
    request.session[auth.SESSION_KEY] = str(other.pk)
    request.session[auth.HASH_SESSION_KEY] = other.get_session_auth_hash()
    return HttpResponse()


def change_password(request: Any) -> Any:
    request.user.set_password("pesto")
    request.user.save()
    auth.update_session_auth_hash(request, request.user)
    return HttpResponse()


async def achange_password(request: Any) -> Any:
    request.user = user = await request.auser()  # Django reads `request.user` there, which would ask the database
    user.set_password("pesto")
    await user.asave()
    await auth.aupdate_session_auth_hash(request, user)
    return HttpResponse()


def user(request: Any) -> Any:
    return HttpResponse(request.user.get_username())


@session_required
def mine(request: Any) -> Any:
    return HttpResponse(request.user_session.username)


urlpatterns = [
    path("hijack", hijack),
    path("change-user", change_user),
    path("change", change_password),
    path("achange", achange_password),
    path("own-form", PasswordChangeView.as_view(success_url="/user")),
    path("user", user),
    path("mine", mine),
    path("admin/", admin.site.urls),
]


@pytest.fixture(autouse=True)
def project(fresh_django_users: None) -> Any:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login"):
        yield


def by_key(handler: str, key: str) -> int:
    return new_client(handler).get("/mine", headers={"Session-Key": key}).status_code


# Another password, another secret


def check_others_end(handler: str, change: Any, name: str = "luca") -> None:
    """Check that a change of the password in one browser ends the other sessions, and not that of the browser."""
    manager = SessionManager()
    client, other = sign_in(handler, name), sign_in(handler, name)
    keys = [client.cookies[COOKIE].value, other.cookies[COOKIE].value]
    before = copy_of(client, handler, "sessionid", COOKIE)
    assert change(client).status_code in (200, 302)
    assert user_named(name).check_password("pesto")
    (key,) = manager.sessions
    assert key == client.cookies[COOKIE].value not in keys
    assert client.get("/mine").content == client.get("/user").content == name.encode()
    assert by_key(handler, key) == 200
    assert [by_key(handler, old) for old in keys] == [401, 401]
    for each in (other, before):
        assert each.get("/mine").status_code == 401
        assert each.get("/user").content == b""
    assert list(manager.sessions) == [key]


FORM = {"new_password1": "pesto", "new_password2": "pesto"}


@pytest.mark.parametrize("url", ["/change", "/achange"])
def test_update_session_auth_hash(manager, handler, url):
    """After `update_session_auth_hash` this session goes on under a new key, and all others end."""
    check_others_end(handler, lambda client: client.get(url))


@pytest.mark.parametrize(
    ("url", "name", "old"), [("/own-form", "luca", "lasagne"), ("/admin/password_change/", "admin", "antipasti")]
)
def test_password_forms(manager, handler, url, name, old):
    """Django's own form, and that of the admin, end all sessions but this one."""
    check_others_end(handler, lambda client: client.post(url, {"old_password": old, **FORM}), name)


def test_password_set_by_admin(manager, handler):
    """Another's password, set in the admin, ends all sessions of that user at once, and no other."""
    staff = sign_in(handler, "admin")
    lucas = [sign_in(handler) for _ in range(2)]
    url = f"/admin/auth/user/{user_named('luca').pk}/password/"
    assert staff.post(url, {"usable_password": "true", "password1": "pesto", "password2": "pesto"}).status_code == 302
    assert manager.getLoggedUsers() == ["admin"]
    assert staff.get("/mine").content == b"admin"
    assert [client.get("/mine").status_code for client in lucas] == [401, 401]


def test_password_and_header(manager, handler):
    """A request that changes the password, and presents the key in the header too, goes on by both."""
    client = sign_in(handler)
    (key,) = manager.sessions
    client.get("/change", headers={"Session-Key": key})
    (new,) = manager.sessions
    assert new != key
    assert client.get("/mine").content == client.get("/user").content == b"luca"
    assert (by_key(handler, new), by_key(handler, key)) == (200, 401)


def test_secret_key_rotation(manager, handler):
    """A login under an earlier secret goes on as long as the secret is a fallback; by cookie it gets the new one."""
    client, late = sign_in(handler), sign_in(handler)
    keys = [each.cookies[COOKIE].value for each in (client, late)]
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert [by_key(handler, key) for key in keys] == [200, 200]
        assert client.get("/user").content == client.get("/mine").content == b"luca"
        assert set(manager.sessions) == set(keys)  # no user has authenticated again
    with override_settings(SECRET_KEY="another"):
        user_named("luca").save()
        assert list(manager.sessions) == keys[:1]
        assert client.get("/user").content == client.get("/mine").content == b"luca"
        assert by_key(handler, client.cookies[COOKIE].value) == 200
        assert late.get("/mine").status_code == 401
        assert late.get("/user").content == b""
        assert list(manager.sessions) == keys[:1]


# Impersonation


@pytest.mark.parametrize("url", ["/hijack", "/change-user"])
def test_impersonation(manager, handler, url):
    """An impersonator has the session of the other user, and comes back with a new session of their own."""
    client = sign_in(handler, "admin")
    before = copy_of(client, handler, "sessionid", COOKIE)
    for name in ("luca", "admin", "fabio"):
        client.get(f"{url}?name={name}")
        assert manager.getLoggedUsers() == [name]
        assert client.get("/user").content == client.get("/mine").content == name.encode()
        assert before.get("/mine").status_code == 401
    manager.deleteAllSessions()
    assert client.get("/user").content == b""
    if url == "/hijack":
        client = sign_in(handler, "admin")
        assert client.get("/hijack?name=luca").content == b"admin"
        assert client.get("/hijack?name=admin").content == b"admin luca"


def test_impersonation_for_one_request(manager, handler):
    """A middleware that puts another user on the request changes no session."""
    with middleware_below(f"{__name__}.impersonate"):
        client = sign_in(handler, "admin")
        (key,) = manager.sessions
        assert client.get("/user?as=luca").content == b"luca"
        assert client.get("/mine?as=luca").content == b"admin"
        assert client.get("/user").content == b"admin"
    assert list(manager.sessions) == [key]
