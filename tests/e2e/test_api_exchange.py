"""What the exchange promises that needs no browser to see, on SQLite and on PostgreSQL."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from users_session_manager import SessionManager

pytest.importorskip("flask")
pytest.importorskip("simple_websocket")
pytest.importorskip("socketio")
argon2 = pytest.importorskip("argon2")
psycopg = pytest.importorskip("psycopg")
sqlalchemy = pytest.importorskip("sqlalchemy")

EXAMPLE = Path(__file__).parents[2] / "examples" / "api_exchange"
GUARDED = ("get_table_data", "log_user_out", "set_session_timeout", "logout")
LOGGED_OUT = (401, {"logout": True})
NOT_ALLOWED = (403, {"accepted": False, "message": "Action not allowed!"})


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new and empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'exchange.sqlite3'}"
    url = request.getfixturevalue("postgresql_url")
    name = tmp_path.name.replace("-", "_")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return str(sqlalchemy.make_url(url).set(database=name).render_as_string(hide_password=False))


@pytest.fixture
def example_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the example as its `python app.py` does."""
    monkeypatch.syspath_prepend(EXAMPLE)
    yield importlib.import_module
    for name in ("app", "database"):
        sys.modules.pop(name, None)


@pytest.fixture
def database(example_module: Callable[[str], Any], database_url: str) -> Iterator[Any]:
    module = example_module("database")
    module.hasher = argon2.PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)  # as slow as it should be is slow
    module.UNKNOWN_USER_HASH = module.hasher.hash("nobody")
    database = module.Database(database_url)
    yield database
    database.close()


@pytest.fixture
def call(example_module: Callable[[str], Any], database: Any) -> Callable[..., tuple[int, Any]]:
    """Does what the page's `callApi` does."""
    client = example_module("app").create_app(database).test_client()

    def call(api_name: str, key: str | None = None, **body: Any) -> tuple[int, Any]:
        headers = {"Api-Name": api_name} | ({} if key is None else {"Session-Key": key})
        answer = client.post("/api", json=body, headers=headers)
        assert "Set-Cookie" not in answer.headers
        return answer.status_code, answer.json

    return call


@pytest.fixture
def log_in(call: Callable[..., tuple[int, Any]]) -> Callable[[str, str], str]:
    def log_in(username: str, password: str) -> str:
        status, answer = call("try_login", username=username, password=password)
        assert (status, answer["accepted"], answer["message"]) == (200, True, "Welcome!")
        return str(answer["user_data"]["session_key"])

    return log_in


def change(database: Any, example_module: Callable[[str], Any], username: str, **columns: Any) -> None:
    with database._session.begin() as session:
        user = session.get(example_module("database").User, username)
        for name, value in columns.items():
            setattr(user, name, value)


def test_own_orders(call, log_in):
    """A user gets their own orders, page by page."""
    luca, fabio = log_in("luca", "lasagne"), log_in("fabio", "focaccia")
    status, first = call("get_table_data", luca, table="orders", page=1)
    assert (status, first["accepted"], first["message"]) == (200, True, "OK")
    table = first["table_data"]
    assert (table["columns"], len(table["rows"]), table["pages"]) == (["Number", "Dish", "Price"], 5, 2)
    second = call("get_table_data", luca, table="orders", page=2)[1]["table_data"]
    assert len(second["rows"]) == 2
    his = call("get_table_data", fabio, table="orders", page=1)[1]["table_data"]
    assert {row[1] for row in his["rows"]} == {"Focaccia with rosemary", "Minestrone", "Espresso"}
    numbers = [row[0] for rows in (table["rows"], second["rows"], his["rows"]) for row in rows]
    assert len(set(numbers)) == 10


def test_page_out_of_range(call, log_in):
    """Instead of a page that does not exist, the nearest one is shown."""
    key = log_in("luca", "lasagne")
    for page, shown in ((0, 1), (-5, 1), (99, 2), ("2", 1), (None, 1), (10**30, 2)):
        assert call("get_table_data", key, table="orders", page=page)[1]["table_data"]["page"] == shown


def test_wrong_password(call, database):
    """A wrong password and an unknown user get the same answer."""
    attempts = [("luca", "focaccia"), ("nobody at all", "nobody"), ("", ""), (None, None), (["luca"], {"a": 1})]
    attempts += [("luca\0", "lasagne"), ("luca", "lasagne\0"), ("luca' --", "x"), ("LUCA", "lasagne")]
    answers = [call("try_login", username=username, password=password) for username, password in attempts]
    assert answers == [(403, {"accepted": False, "message": "Wrong username or password."})] * len(attempts)
    assert SessionManager().getLoggedUsers() == []


@pytest.mark.parametrize("api_name", GUARDED)
def test_dead_key(call, log_in, api_name):
    """A forged key, one whose session has ended and none at all are answered with a logout."""
    ended, live = log_in("luca", "lasagne"), log_in("luca", "lasagne")
    assert call("logout", ended) == (200, {"logout": True})
    forged = live.partition("_")[0] + "_" + "0" * 32
    for key in (None, "", "luca", ended, forged, live.lower(), f"{live},{live}"):
        assert call(api_name, key, table="orders", username="luca", seconds=5) == LOGGED_OUT
    assert SessionManager().getLoggedUsers() == ["luca"]
    assert SessionManager().getSessionTimeout() == 60


def test_not_allowed(call, log_in):
    """What a user may not do is not done."""
    fabio, _ = log_in("fabio", "focaccia"), log_in("luca", "lasagne")
    assert call("get_table_data", fabio, table="users") == NOT_ALLOWED
    assert call("log_user_out", fabio, username="luca") == NOT_ALLOWED
    assert call("set_session_timeout", fabio, seconds=5) == NOT_ALLOWED
    assert call("get_table_data", fabio, table="sqlite_master") == NOT_ALLOWED
    assert SessionManager().getLoggedUsers() == ["fabio", "luca"]
    assert SessionManager().getSessionTimeout() == 60
    assert call("get_table_data", fabio, table="orders")[0] == 200


def test_manage_users(call, log_in):
    """A user who manages users sees which of them are logged in, and ends their sessions."""
    luca, fabio = log_in("luca", "lasagne"), log_in("fabio", "focaccia")
    log_in("fabio", "focaccia")
    assert call("get_table_data", luca, table="users")[1]["table_data"]["rows"] == [["fabio", 2], ["luca", 1]]
    assert call("log_user_out", luca, username="fabio") == (200, {"accepted": True, "message": "OK", "ended": 2})
    assert call("get_table_data", fabio, table="orders") == LOGGED_OUT
    assert call("log_user_out", luca, username="nobody at all")[1]["ended"] == 0
    assert call("set_session_timeout", luca, seconds=5)[1]["timeout"] == 5
    for seconds in (1, None, "5", True, -1):
        assert call("set_session_timeout", luca, seconds=seconds)[0] == 400
    assert SessionManager().getSessionTimeout() == 5


def test_permission_changes(call, log_in, database, example_module):
    """A permission counts from the moment in which it is given or taken."""
    fabio = log_in("fabio", "focaccia")
    change(database, example_module, "fabio", users_management=True, dataset_management=False)
    assert call("get_table_data", fabio, table="users")[0] == 200
    assert call("get_table_data", fabio, table="orders") == NOT_ALLOWED


def test_removed_user(call, log_in, database, example_module):
    """A user who is removed from the database is logged out."""
    fabio = log_in("fabio", "focaccia")
    module = example_module("database")
    with database._session.begin() as session:
        session.query(module.Order).filter_by(username="fabio").delete()
        session.delete(session.get(module.User, "fabio"))
    assert call("get_table_data", fabio, table="orders") == LOGGED_OUT
    assert SessionManager().getLoggedUsers() == []


def test_password_hash(call, log_in, database, example_module):
    """A password is stored as an Argon2 hash, which is renewed when its cost rises."""
    module = example_module("database")
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("focaccia")
    change(database, example_module, "fabio", password_hash=cheap)
    log_in("fabio", "focaccia")
    with database._session() as session:
        hashes = {user.username: user.password_hash for user in session.query(module.User)}
    assert all(kept.startswith("$argon2id$") for kept in hashes.values())
    assert hashes["fabio"] != cheap
    log_in("fabio", "focaccia")
    change(database, example_module, "fabio", password_hash="0" * 32)  # an MD5, as the npm package's example has it
    assert call("try_login", username="fabio", password="focaccia")[0] == 403


def test_restart(example_module, database, database_url):
    """What is in the database is there after a restart."""
    change(database, example_module, "fabio", dataset_management=False)
    again = example_module("database").Database(database_url)
    assert again.users() == ["fabio", "luca"]
    assert again.permissions("fabio") == {"dataset_management": False, "users_management": False}
    assert again.orders("luca", 1)["pages"] == 2
    again.close()


def test_database_fails(call, log_in, database, example_module):
    """A database that fails is an error and no logout."""
    key = log_in("luca", "lasagne")
    with database._session() as session:
        example_module("database").Base.metadata.drop_all(session.connection())
        session.commit()
    failed = (503, {"accepted": False, "message": "Error in API call!"})
    assert call("get_table_data", key, table="orders") == failed
    assert call("try_login", username="luca", password="lasagne") == failed
    assert SessionManager().checkSessionStatus(key)


def test_unknown_call(call, log_in):
    """A call that the API does not have is refused."""
    key = log_in("luca", "lasagne")
    for name in ("", "__init__", "validate_api_request", "GET_TABLE_DATA"):
        assert call(name, key)[0] == 400
    assert call("get_table_data", key) == NOT_ALLOWED
