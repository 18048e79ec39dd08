"""The answers of a guarded view while the SQL database is unreachable, locked, or replaced."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from postgresql_server import own_postgresql_server
from sql_checks import (
    check_connections,
    copy_log,
    folder_in_its_place,
    folder_missing,
    locked,
    overwritten,
    removed,
    replaced_by_garbage,
)
from waiting import eventually

pytest.importorskip("flask")
pytest.importorskip("psycopg")

from flask import Flask

from users_session_manager import SessionManager
from users_session_manager.integrations.flask import UserSessions, session_required
from users_session_manager.keys import new_key
from users_session_manager.stores.sql import SQLStore


def make_app(url: str, **options: Any) -> Any:
    """Return an application whose sessions are at an address, with a view for users alone."""
    app = Flask(__name__)
    app.config.update(TESTING=True)
    SessionManager(store=SQLStore.from_url(url, timeout=4.0, **options))
    sessions = UserSessions(app)

    @app.post("/login")
    def login() -> str:
        return sessions.sign_in("Luca")

    @app.get("/me")
    @session_required
    def me() -> str:
        return "me"

    return app


def test_postgresql():
    """While PostgreSQL does not answer, or is not there, a guarded view answers 503 and nothing else."""
    with own_postgresql_server() as server:
        app = make_app(server.url, prefix=f"t{secrets.token_hex(8)}_")
        client = logged_in(app)
        with server.paused():
            assert statuses(app, client, 5) == {503}
        eventually(lambda: client.get("/me", base_url="https://localhost").status_code == 200)
        server.stop()
        assert statuses(app, client, 2) == {503}
        server.start()
        eventually(lambda: client.get("/me", base_url="https://localhost").status_code == 200)
        assert stranger(app).get("/me", base_url="https://localhost").status_code == 401
        check_connections(SessionManager()._store)


@pytest.mark.parametrize(
    "broken", [locked, replaced_by_garbage, overwritten, folder_in_its_place, folder_missing, removed]
)
def test_sqlite(tmp_path, broken):
    """While the file is none of ours, 503 and nothing else; a user of a file that is gone has to log in again."""
    path = Path(tmp_path) / "folder" / "sessions.db"
    path.parent.mkdir()
    app = make_app(f"sqlite:///{path}")
    client = logged_in(app)
    copy_log(path)
    with broken(path):
        found = statuses(app, client, 1.5)
        if broken is removed:  # a call on the way when that is noticed may be refused
            assert found - {503} == {401}
        else:
            assert found == {503}
    if broken is locked:
        eventually(lambda: client.get("/me", base_url="https://localhost").status_code == 200)
    else:
        eventually(lambda: client.get("/me", base_url="https://localhost").status_code == 401)
    assert logged_in(app).get("/me", base_url="https://localhost").status_code == 200
    check_connections(SessionManager()._store)


def logged_in(app: Flask) -> Any:
    client = app.test_client()
    assert client.post("/login", base_url="https://localhost").status_code == 200
    return client


def stranger(app: Flask) -> Any:
    """Return a client with a key that the store has never had."""
    client = app.test_client()
    client.set_cookie("__Host-session_key", new_key(), domain="localhost", secure=True)
    return client


def statuses(app: Flask, client: Any, seconds: float) -> set[int]:
    """Return what a user and a stranger are answered in that time."""
    found, start = Counter[int](), time.monotonic()
    while time.monotonic() - start < seconds:
        found[client.get("/me", base_url="https://localhost").status_code] += 1
        found[stranger(app).get("/me", base_url="https://localhost").status_code] += 1
    print(dict(found))
    return {*found}
