"""Django: its login ends with the session, and the session of a user whom Django refuses; see also `test_web.py`."""

from __future__ import annotations

from contextlib import suppress

import pytest

pytest.importorskip("django")

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import auth
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, transaction
from django_project import COOKIE, UNKNOWN, is_alive, is_logged_out, log_in, new_client, user_named

from users_session_manager.integrations.django import get_user_sessions

pytestmark = pytest.mark.usefixtures("django_project")


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
    """Django's login ends with the session, and a copy of Django's cookie signs no user in."""
    key = log_in(client, "admin", "antipasti")
    assert client.get("/admin/").status_code == 200
    end(manager, clock, key)
    old = client.cookies["sessionid"].value
    assert client.get(f"/{kind}/user").content == b""
    assert not SessionStore().exists(old)
    assert client.cookies["sessionid"].value == old  # a request with the cookie of another one may be under way
    del client.cookies[COOKIE]
    assert client.get(f"/{kind}/user").content == b""
    for url in ("/admin/", "/guarded"):
        assert client.get(url).status_code == 302


def test_cookie_alone(client, manager, kind):
    """Our cookie is no login without Django's session: that may have been removed or have expired in Django alone."""
    key = log_in(client)
    browser = client.cookies["sessionid"].value
    del client.cookies["sessionid"]  # as on a path for which Django's cookie is not
    assert client.get(f"/{kind}/mine").status_code == 401
    assert list(manager.sessions) == [key]
    client.cookies["sessionid"] = browser
    assert client.get(f"/{kind}/mine").status_code == 200
    SessionStore().delete(browser)  # as a page that lists logins does
    assert client.get(f"/{kind}/mine").status_code == 401
    assert list(manager.sessions) == []


def test_one_rejection(client, manager, heard, kind):
    """A request with a key whose session has ended is one rejection, though Django's session names it too."""
    for view in ("mine", "who", "user"):
        for way in ("cookie", "login", "header"):
            ended = log_in(client)
            manager.deleteSession(ended)
            headers = {"Session-Key": ended} if way == "header" else {}
            if way != "cookie":
                del client.cookies[COOKIE]
            heard.events.clear()
            answer = client.get(f"/{kind}/{view}", headers=headers)
            assert answer.status_code == (401 if view == "mine" else 200)
            assert [details["key"] for _, details in heard.of("error")] == [ended], (view, way)


def test_load_after_failed_load(manager):
    """A session that could not be loaded on an event loop is checked when it is loaded the next time."""
    client = new_client()
    ended = log_in(client)
    manager.deleteSession(ended)
    store = SessionStore(client.cookies["sessionid"].value)

    async def fail() -> None:
        raise DatabaseError

    store._aget_session_from_db = fail
    with pytest.raises(DatabaseError):
        async_to_sync(store.aload)()
    assert store.load() == {}


def test_admin_closes(client, manager, clock):
    """The admin is closed from the first request after the end."""
    log_in(client, "admin", "antipasti")
    clock.turn(3000)
    answer = client.get("/admin/auth/user/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/auth/user/")


def test_login_from_before(client, manager, kind):
    """A login of Django's that never had a session is given one: it is from before the integration was installed."""
    luca = user_named("luca")
    session = SessionStore()
    session[auth.SESSION_KEY], session[auth.BACKEND_SESSION_KEY] = str(luca.pk), settings.AUTHENTICATION_BACKENDS[0]
    session[auth.HASH_SESSION_KEY] = luca.get_session_auth_hash()
    session.save()
    client.cookies["sessionid"] = session.session_key
    assert client.get(f"/{kind}/user").content == b"luca"
    (found,) = get_user_sessions(luca)
    assert client.cookies[COOKIE].value == found["key"]
    assert client.get(f"/{kind}/mine").json() == {"username": "luca"}
    assert list(manager.sessions) == [found["key"]]
    manager.deleteSession(found["key"])
    assert client.get(f"/{kind}/user").content == b""


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
        there, old = log_in(new_client(), "maria", "minestrone"), log_in(client, "maria", "minestrone")
        fabio = manager.loadNewSession("fabio")
        assert client.post("/password", {"password": "pesto"}).status_code == 200
        key = client.cookies[COOKIE].value  # `update_session_auth_hash` changes that of Django, too
        assert not any(is_alive(manager, each) for each in (there, old))
        assert (key != old, {*manager.sessions}) == (True, {key, fabio})
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
    """A hash that a login brings up to date is to Django a new password: the other logins end, with us as with it."""
    luca, other = user_named("luca"), new_client()
    luca.password = old = make_password("lasagne", salt="short")
    luca.save()
    other.force_login(luca)
    assert other.get("/sync/mine").json() == {"username": "luca"}
    key = log_in(client)
    assert user_named("luca").password != old
    assert list(manager.sessions) == [key]
    assert client.get("/sync/user").content == b"luca"
    assert other.get("/sync/user").content == b""


def set_password(user):
    user.set_password("another")
    user.save()


def deactivate(user):
    user.is_active = False
    user.save()


@pytest.mark.parametrize("change", [set_password, deactivate, lambda user: user.delete()])
def test_rolled_back(client, manager, heard, change):
    """A change of a user that is rolled back ends no session; one that is committed does it then."""
    user = get_user_model().objects.create_user("anna", password="artichoke")
    key = log_in(client, "anna", "artichoke")
    heard.events.clear()
    with suppress(ZeroDivisionError), transaction.atomic():
        change(user_named("anna"))
        raise ZeroDivisionError
    assert (heard.events, list(manager.sessions)) == ([], [key])
    assert client.get("/guarded").content == b"anna"
    with transaction.atomic():
        change(user_named("anna"))
        assert list(manager.sessions) == [key]
    assert (heard.names()[0], list(manager.sessions)) == ("sessionDeleted", [])
    get_user_model().objects.filter(pk=user.pk).delete()
