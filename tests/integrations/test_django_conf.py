"""Django: the settings, and what can be wrong with them. `test_web.py` has what all frameworks share."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("django")

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.checks import WARNING, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, RequestFactory, override_settings
from django.views.debug import ExceptionReporter
from django_project import COOKIE, is_logged_out, log_in, mine, mine_async, new_client

from users_session_manager.integrations.django import UserSessionMiddleware, renew_key, sign_out_elsewhere
from users_session_manager.integrations.django import sign_in as sign_in_with
from users_session_manager.integrations.django.conf import read_carrier

MIDDLEWARE = settings.MIDDLEWARE
OURS = "users_session_manager.integrations.django.UserSessionMiddleware"

pytestmark = pytest.mark.usefixtures("django_project")


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
        ({"COOKIE": "__Secure-key"}, "'__Secure-key'.*prefix"),
        ({"HEADER": "Authorization"}, "'Authorization'.*meaning"),
        ({"COOKIE_SECURE": "yes"}, "COOKIE_SECURE.*'yes'"),
        ({"COOKIE_SAMESITE": False}, "COOKIE_SAMESITE.*'None', not False"),
        ({"COOKIE_SAMESITE": "None", "COOKIE_SECURE": False}, "COOKIE_SAMESITE.*COOKIE_SECURE"),
        ({"COOKIE_DOMAIN": "https://example.com"}, "COOKIE_DOMAIN.*'https://example.com'"),
        ({"COOKIE_PARTITIONED": "yes"}, "COOKIE_PARTITIONED.*'yes'"),
        ({"COOKIE_PARTITIONED": True}, "COOKIE_PARTITIONED.*SameSite"),
        ({"TIMEOUT": 1}, "TIMEOUT.*1"),
        ({"TIMEOUT": "60"}, "TIMEOUT.*str"),
        ({"USERNAME": "__class__"}, "USERNAME.*'__class__'"),
        ({"USERNAME": "delete"}, "USERNAME.*'delete'"),
        ({"COOKIE": "django_language"}, "COOKIE.*'django_language'"),
        ({"COOKIE": "messages"}, "COOKIE.*'messages'"),
        ({"STORE": "redis://:secret@localhost:none/0"}, "STORE.*port"),
        ({"STORE": "redis://:sec/ret@localhost:6379/0"}, "STORE.*port"),
    ]
    for wrong, named in settings:
        (error,) = errors_of(USER_SESSIONS=wrong)
        with pytest.raises(ImproperlyConfigured, match=named) as refusal, override_settings(USER_SESSIONS=wrong):
            UserSessionMiddleware(mine)
        assert error in str(refusal.value)
        assert ":sec" not in error  # nor a part of the password


def test_no_middleware():
    """A login without the middleware is refused: the browser would get no cookie."""
    others = [name for name in MIDDLEWARE if name != OURS]
    with override_settings(MIDDLEWARE=others), pytest.raises(ImproperlyConfigured, match="to MIDDLEWARE, directly"):
        log_in(Client())


def test_misspelt_passive():
    """A name of a URL that the project does not have is named; paths and names of other applications pass."""
    known = ["/poll/", "admin:index", "admin:auth_user_change", "django_project.poll"]
    assert errors_of(USER_SESSIONS={"PASSIVE": known}) == []
    assert errors_of(USER_SESSIONS={"PASSIVE": [*known, "index", "admin:idnex", ""]}) == [
        f"USER_SESSIONS['PASSIVE']: no URL has the name {name!r}" for name in ("index", "admin:idnex", "")
    ]


def test_names_in_error_reports():
    """A name that Django's error reports do not hide is a warning; by default and with the others, no key is shown."""
    for options, shown in (
        ({}, []),
        ({"HEADER": "X-Login"}, ["HTTP_X_LOGIN"]),
        ({"COOKIE": "login", "HEADER": None}, ["__Host-login"]),
        ({"COOKIE": "login_token", "HEADER": "X-Token"}, []),
        ({"COOKIE": None}, []),
    ):
        with override_settings(USER_SESSIONS=options):
            found = [each.msg for each in run_checks() if each.id == "users_session_manager.W003"]
            carrier = read_carrier()
            request = RequestFactory().get("/", headers={carrier.header: "my-key"} if carrier.header else {})
            if carrier.cookie:
                request.COOKIES[carrier.cookie] = request.META["HTTP_COOKIE"] = "my-key"
            report = ExceptionReporter(request, ValueError, ValueError(), None).get_traceback_text()
            assert ("my-key" in report) is bool(shown)
        assert len(found) == len(shown)
        assert all(repr(name) in message for message, name in zip(found, shown, strict=True))


def test_session_cookie_elsewhere():
    """A domain or a SameSite that Django's session cookie has not is a warning, since that cookie decides."""
    for ours, django, warned in (
        ({}, {"SESSION_COOKIE_DOMAIN": "example.com", "SESSION_COOKIE_SAMESITE": False}, []),
        ({"COOKIE_DOMAIN": "example.com"}, {}, ["SESSION_COOKIE_DOMAIN"]),
        ({"COOKIE_DOMAIN": "example.com"}, {"SESSION_COOKIE_DOMAIN": ".example.com"}, []),
        ({"COOKIE_DOMAIN": "example.com"}, {"SESSION_COOKIE_DOMAIN": "app.example.com"}, ["SESSION_COOKIE_DOMAIN"]),
        ({"COOKIE_SAMESITE": "None"}, {}, ["SESSION_COOKIE_SAMESITE"]),
        ({"COOKIE_SAMESITE": "None"}, {"SESSION_COOKIE_SAMESITE": "none"}, []),
        ({"COOKIE_SAMESITE": "Strict"}, {"SESSION_COOKIE_SAMESITE": "Lax"}, ["SESSION_COOKIE_SAMESITE"]),
    ):
        with override_settings(USER_SESSIONS=ours, **django):
            found = [each.msg for each in run_checks() if each.id.startswith("users_session_manager.")]
        assert len(found) == len(warned)
        assert all(f"the same {name}:" in message for message, name in zip(found, warned, strict=True))


def test_wrong_middleware():
    """A middleware that is missing, or comes too early, is an error that names it and its place."""
    sessions, ours, auth, messages = MIDDLEWARE
    assert ours == OURS
    (error,) = errors_of(MIDDLEWARE=[sessions, auth, messages])
    assert error == f"{OURS!r} has to be in MIDDLEWARE, directly below {sessions!r}"
    for wrong, named in (
        ([ours, sessions, auth, messages], sessions),
        ([ours, auth, messages], sessions),
        ([sessions, ours, messages], auth),
    ):
        (error,) = errors_of(MIDDLEWARE=wrong)
        assert f"MIDDLEWARE needs {named!r}" in error
        with override_settings(MIDDLEWARE=wrong), pytest.raises(ImproperlyConfigured, match=named):
            UserSessionMiddleware(mine)


def test_late_middleware(manager):
    """The middleware works further below, and a warning says where it belongs and what has to move."""
    sessions, ours, auth, messages = MIDDLEWARE
    with override_settings(MIDDLEWARE=[sessions, auth, messages, ours]):
        (warning,) = [each for each in run_checks() if each.id.startswith("users_session_manager.")]
        assert (warning.id, warning.level) == ("users_session_manager.W001", WARNING)
        assert f"directly below {sessions!r}" in warning.msg
        assert f"{auth!r}, {messages!r}" in warning.hint
        client = new_client()
        log_in(client)
        assert client.get("/sync/mine").json() == {"username": "luca"}


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


def test_plain_http(manager, caplog):
    """A cookie for https that a client gets over http is a warning that says what to do, once; no test client does."""
    luca = {"username": "luca", "password": "lasagne"}
    with override_settings(USER_SESSIONS={"COOKIE_SECURE": True, "PROXIES": 1}):
        log_in(new_client())  # as tests of a project do
        client = Client(enforce_csrf_checks=True)  # as a browser comes
        for options in ({"secure": True}, {"headers": {"X-Forwarded-Proto": "https"}}):
            assert client.post("/login", luca, **options).cookies[COOKIE].value
        assert "https alone" not in caplog.text
        for _ in range(2):
            assert client.post("/login", luca).cookies[COOKIE].value
    (line,) = [each.getMessage() for each in caplog.records if "https alone" in each.getMessage()]
    assert "set PROXIES to 1" in line
    assert "COOKIE_SECURE" in line


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
