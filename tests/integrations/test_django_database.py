"""Django: sessions in the project's own PostgreSQL, and in a SQLite file beside the project."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from interpreter import run

pytest.importorskip("django")
psycopg = pytest.importorskip("psycopg")

PROJECT = """
import logging, os, sys
from pathlib import Path
from urllib.parse import urlsplit
import django
from django.conf import settings

address = urlsplit(sys.argv[1])
APP = "users_session_manager.integrations.django"
OPTIONS = {}
settings.configure(
    SECRET_KEY="x", DEBUG=True, ALLOWED_HOSTS=["testserver"], ROOT_URLCONF="__main__",
    BASE_DIR=Path(sys.argv[2]), LOGGING_CONFIG=None,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", APP],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        f"{APP}.UserSessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": address.path[1:], "USER": address.username,
            "PASSWORD": address.password, "HOST": address.hostname, "PORT": address.port,
            "ATOMIC_REQUESTS": True, "OPTIONS": OPTIONS,
        },
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(sys.argv[2], "project.sqlite3")},
    },
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    USER_SESSIONS={"STORE": STORE},
)
django.setup()
logging.getLogger("django").setLevel(logging.CRITICAL)
from django.contrib.auth import authenticate, get_user_model, login, logout
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from users_session_manager.integrations.django import session_required
from users_session_manager import SessionManager

def sign_in(request):
    login(request, authenticate(request, username="Luca", password="x"))
    return HttpResponse()

def out(request):
    logout(request)
    raise RuntimeError("this rolls the transaction of the request back")

urlpatterns = [
    path("login", sign_in), path("out", out), path("", session_required(lambda request: HttpResponse(request.user)))
]

def tables():
    from django.db import connection
    return sorted(name for name in connection.introspection.table_names() if name.startswith("users_session_"))
"""


@pytest.fixture
def database(postgresql_url: str) -> Iterator[str]:
    """The address of an empty database."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgresql_url, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name}")
        yield postgresql_url.rpartition("/")[0] + f"/{name}"
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run_project(code: str, database: str, folder: Path, store: str | None, options: str = "{}") -> list[str]:
    project = PROJECT.replace("STORE}", f"{store!r}}}").replace("OPTIONS = {}", f"OPTIONS = {options}")
    done = run(project + code, database, str(folder), covered=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


LOG_IN = """
call_command("migrate", verbosity=0)
get_user_model().objects.create_user("Luca", password="x")
client = Client(raise_request_exception=False)
client.post("/login")
print(client.get("/").status_code)
print(SessionManager().getLoggedUsers())
"""


@pytest.mark.parametrize("options", ["{}", "{'pool': True}"])
def test_rollback(database, tmp_path, options):
    """A logout stays, although the transaction of its request is rolled back."""
    code = LOG_IN + 'print(client.post("/out").status_code, SessionManager().getLoggedUsers())\n'
    assert run_project(code, database, tmp_path, "django://default", options) == ["200", "['Luca']", "500 []"]


def test_migration(database, tmp_path):
    """The migration makes the tables where the store is, without one more connection; the store finds them."""
    expected = [f"users_session_manager_{name}" for name in ("former_keys", "notices", "schema", "sessions", "state")]
    code = 'call_command("migrate", verbosity=0)\nprint(tables())\nprint(SessionManager().getLoggedUsers())\n'
    code += 'call_command("migrate", "users_session_manager", "zero", verbosity=0)\n'
    code += 'call_command("migrate", verbosity=0)\nprint(tables())\n'
    assert run_project(code, database, tmp_path, "django://default") == [str(expected), "[]", str(expected)]


@pytest.mark.parametrize("store", [None, "sqlite:///sessions.sqlite3"])
def test_no_migration(database, tmp_path, store):
    """The migration makes nothing where the sessions are elsewhere."""
    assert run_project('call_command("migrate", verbosity=0)\nprint(tables())', database, tmp_path, store) == ["[]"]


def test_base_dir(database, tmp_path):
    """The relative path of a SQLite file is in `BASE_DIR`."""
    assert run_project(LOG_IN, database, tmp_path, "sqlite:///sessions.sqlite3") == ["200", "['Luca']"]
    assert (tmp_path / "sessions.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("django://other", "DATABASES has no 'other': name one of default, lite"),
        ("django://lite", "sqlite:///sessions.sqlite3"),
        ("sqlite://", "sqlite:///relative.db"),
    ],
)
def test_wrong_entry(database, tmp_path, store, problem):
    """A store that cannot work is a system check, which names what can."""
    code = "from django.core.checks import run_checks\nprint([each.msg for each in run_checks()])"
    (found,) = run_project(code, database, tmp_path, store)
    assert "USER_SESSIONS['STORE']" in found
    assert problem in found
