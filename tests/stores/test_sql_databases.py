"""SQL databases as they are found: rights, versions, settings, poolers, connections of the user's own, addresses."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgresql_server import PostgreSQLServer, own_postgresql_server, postgresql_program, unprivileged
from redis_failover import answers, free_port
from sql_checks import answer, check_connections, lines_of, program
from threads import run_together
from waiting import WAIT, at_rest, eventually

from users_session_manager import SessionError, SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.stores.sql import SQLStore, schema
from users_session_manager.stores.sql import sqlite as sqlite_engine

psycopg = pytest.importorskip("psycopg")

BOTH = pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
UNUSABLE = "The database of the sessions cannot be used, every session is refused"
AGAIN = "The database of the sessions is reachable again"


def works(manager: SessionManager) -> None:
    """Check what a manager does, once."""
    ended = []
    manager.on("sessionDeleted", ended.append)
    key = manager.loadNewSession("Luca", data=[1])
    assert manager.restartSessionTimer(key)
    assert manager.getSession(key).data == [1]
    new = manager.renewSessionKey(key)
    expires = manager.loadNewSession("Marco", timeout=2)
    assert manager.deleteSession(new)
    eventually(lambda: {new, expires} <= {*ended})


def add_one(url: str, **options: Any) -> None:
    """Add a session with a store that is closed after that."""
    with contextlib.closing(SQLStore.from_url(url, **options)) as store:
        store.add("Luca", 60)


def execute(url: str, *statements: str) -> list[Any]:
    """Execute statements in a database, and return the rows of the last one."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=WAIT)) as connection:
            for statement in statements:
                found = connection.execute(statement)
            rows = found.fetchall()
            connection.commit()
            return rows
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            found = connection.execute(statement)
        return found.fetchall() if found.description else []


def traced(path: Path, statements: list[str]) -> sqlite3.Connection:
    """Return a connection that notes its statements."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.set_trace_callback(statements.append)
    return connection


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(8)}_"


@pytest.fixture
def database(postgresql_url: str) -> Iterator[str]:
    """The address of a database of the test's own in PostgreSQL."""
    name = f"t{secrets.token_hex(8)}"
    execute(postgresql_url, f"CREATE DATABASE {name}")
    yield postgresql_url.replace("/postgres", f"/{name}")
    execute(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


class TestRights:
    @pytest.fixture
    def limited(self, database) -> Iterator[str]:
        """The address of that database for a user who may make nothing in it."""
        name = f"u{secrets.token_hex(8)}"
        execute(
            database,
            f"CREATE USER {name} PASSWORD 'secret'",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        )
        yield f"postgresql://{name}:secret@{database.partition('@')[2]}"
        execute(database, f"DROP OWNED BY {name}", f"DROP USER {name}")

    def test_no_tables(self, database, limited, caplog):
        """Without the right to make tables, a message says what to do; after that the least rights are enough."""
        manager = SessionManager(store=limited)
        manager.serve()
        for call in (lambda: manager.loadNewSession("Luca"), manager.getLoggedUsers):
            with pytest.raises(StoreUnavailable, match=r"python -m users_session_manager\.stores\.sql postgresql"):
                call()
        time.sleep(1.5)  # its threads try as well
        check_connections(manager._store)
        assert lines_of(caplog) == [UNUSABLE]

        command = [sys.executable, "-m", "users_session_manager.stores.sql", "postgresql"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        user = limited.partition("//")[2].partition(":")[0]
        execute(
            database,
            printed,
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
        )
        eventually(lambda: answer(manager.loadNewSession, "Luca"))
        works(manager)
        assert lines_of(caplog) == [UNUSABLE, AGAIN]

    def test_no_rights_on_tables(self, database, limited):
        """A user who may make tables, but not use the existing ones, gets a message that names the missing right."""
        add_one(database)
        with pytest.raises(StoreUnavailable, match=r"permission denied.*grant SELECT, INSERT, UPDATE and DELETE"):
            add_one(limited)


class TestVersions:
    @BOTH
    def test_newer(self, sql_url, prefix, store_kind, caplog):
        """Tables of a newer version are left alone, and the log says so once."""
        add_one(sql_url, prefix=prefix)
        execute(sql_url, f"UPDATE {prefix}schema SET version = 99")
        manager = SessionManager(store=SQLStore.from_url(sql_url, prefix=prefix))
        manager.serve()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"version 99.*install the newer one"):
                manager.loadNewSession("Luca")
        time.sleep(1.5)
        check_connections(manager._store)
        assert lines_of(caplog) == [UNUSABLE]
        execute(sql_url, f"UPDATE {prefix}schema SET version = {len(schema._VERSIONS)}")
        eventually(lambda: answer(manager.loadNewSession, "Luca"))
        assert len(manager.sessions) == 2
        assert lines_of(caplog) == [UNUSABLE, AGAIN]

    UPGRADE = """
import sys, time
from users_session_manager import SessionManager
from users_session_manager.stores.sql import SQLStore, schema
schema._VERSIONS.append([
    "CREATE TABLE {sessions}_more (id {INTEGER})", "ALTER TABLE {sessions} ADD COLUMN more {WORD}",
    "UPDATE {sessions} SET more = 'upgraded'",
])
manager = SessionManager(store=SQLStore.from_url(sys.argv[1], prefix=sys.argv[2], timeout=60))
print("ready", flush=True)
sys.stdin.readline()
print(manager.checkSessionStatus(sys.argv[3]), manager.loadNewSession("Marco") and "in", flush=True)
"""

    @BOTH
    def test_upgrade(self, sql_url, prefix, store_kind):
        """Several processes upgrade the tables at once: it is done once, and the sessions go on."""
        manager = SessionManager(store=SQLStore.from_url(sql_url, prefix=prefix))
        keys = [manager.loadNewSession(f"user {number}") for number in range(50)]
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(program(self.UPGRADE, sql_url, prefix, keys[0])) for _ in range(4)]
            for process in started:
                assert process.stdout.readline() == "ready\n"
            for process in started:
                process.stdin.write("\n")
                process.stdin.flush()
            while manager.checkSessionStatus(keys[1]) and any(process.poll() is None for process in started):
                assert manager.restartSessionTimer(keys[1])  # one of the version before goes on
            assert [process.stdout.readline() for process in started] == ["True in\n"] * 4
        assert execute(sql_url, f"SELECT version FROM {prefix}schema") == [(len(schema._VERSIONS) + 1,)]
        select = f"SELECT count(*) FROM {prefix}sessions WHERE more = 'upgraded' AND username <> 'Marco'"
        assert execute(sql_url, select) == [(50,)]
        assert all(manager.checkSessionStatus(key) for key in keys)

    @BOTH
    def test_dropped(self, sql_url, prefix, store_kind, caplog):
        """The tables are dropped while it runs: the log says so, and new ones are made."""
        manager = SessionManager(store=SQLStore.from_url(sql_url, prefix=prefix))
        key = manager.loadNewSession("Luca")
        execute(sql_url, *(f"DROP TABLE {name}" for name in schema.table_names(prefix).values()))
        new = eventually(lambda: answer(manager.loadNewSession, "Marco"))
        assert manager.checkSessionStatus(new)
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)
        assert lines_of(caplog)[0] == "The database of the sessions is unreachable, every session is refused"
        check_connections(manager._store)
        works(manager)


class TestSecrets:
    """No message about a wrong address, and no line of the log, shows the password in it."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda url: url.replace("tester:", "tester:wrong"),
            lambda url: url.replace("tester:", "nobody:"),
            lambda url: url.replace("127.0.0.1", "no-such-host.invalid"),
            lambda url: url.replace("/postgres", "/no_such_database"),
            lambda url: f"{url.rpartition(':')[0]}:1/postgres",
        ],
        ids=["password", "user", "host", "database", "port"],
    )
    def test_refused(self, postgresql_url, change, caplog, capsys):
        caplog.set_level(logging.DEBUG)
        password = postgresql_url.partition("//tester:")[2].partition("@")[0]
        manager = SessionManager(store=change(postgresql_url))
        manager.serve()
        with pytest.raises(StoreUnavailable) as refused:
            manager.loadNewSession("Luca")
        time.sleep(0.2)
        manager.close()
        texts = [*traceback.format_exception(refused.value), repr(manager._store), *capsys.readouterr()]
        texts += [logging.Formatter().format(record) for record in caplog.records]
        assert not [text for text in texts if password in text]
        assert lines_of(caplog) == ["The database of the sessions is unreachable, every session is refused"]

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://luca:pass%word@localhost/db",
            "postgresql://luca:pass%word@localhost:port/db",
            "postgresql://luca:pass%25word@localhost:5432/db?sslmod=pass%word",
            "postgresql+psycopg://luca:pass%word@localhost/db",
            "postgresql://luca:pass%word@[::1/db",
            "host=localhost password=pass%word",
        ],
    )
    def test_malformed(self, url, caplog):
        with pytest.raises(ValueError, match="postgresql://user:password@host:port/database") as wrong:
            SQLStore.from_url(url)
        assert "pass%word" not in "".join(traceback.format_exception(wrong.value)).replace(url, "")
        assert url not in str(wrong.value)


class TestSettings:
    @pytest.mark.parametrize("level", ["serializable", "repeatable read"])
    def test_isolation(self, database, level):
        """A database whose transactions are stricter than usual: what has to be repeated is repeated."""
        name = database.rpartition("/")[2]
        execute(database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
        manager = SessionManager(store=SQLStore.from_url(database, timeout=WAIT))
        manager.setMaxSessionsPerUser(3)
        shared = manager.loadNewSession("shared")

        def work(number: int) -> None:
            for _ in range(10):
                assert manager.restartSessionTimer(shared)
                manager.loadNewSession(f"user {number % 2}")

        run_together(work, threads=8)
        assert [len(manager.getUserSessions(f"user {number}")) for number in range(2)] == [3, 3]
        works(manager)

    def test_no_statistics(self, database):
        """Polls of a new table read what is due alone: PostgreSQL has counted nothing yet, and could read all rows."""
        select = (
            "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'users_session_manager_sessions'"
        )
        ended, counted = [], []
        for poll in (False, True):
            store = SQLStore.from_url(database, thread=False)
            manager = SessionManager(store=store)
            manager.on("sessionEnded", lambda session, reason: ended.append(reason))
            manager.serve()
            for number in range(0 if poll else 150):
                manager.loadNewSession(f"user {number}", timeout=2)
            while poll and len(ended) < 150:
                store.run_due()
                time.sleep(0.1)
            if not poll:  # of few rows it would rightly read all
                execute(
                    database,
                    "INSERT INTO users_session_manager_sessions (digest, key, username, user_id, created_at, "
                    "started_at, deadline, look_at, ends_at, warning, data) SELECT digest || n, key, username, "
                    "user_id, created_at, started_at, 'infinity', 'infinity', ends_at, warning, data "
                    "FROM users_session_manager_sessions, generate_series(1, 200) AS n",
                )
            manager.close()  # which passes on what was counted
            counted += execute(database, select)
        (scans_before, fetched_before), (scans, fetched) = counted
        assert scans == scans_before
        assert fetched - fetched_before < 10_000

    def test_read_only(self, database):
        """A database that is set to be read only refuses until it is not."""
        manager = SessionManager(store=database)
        key, name = manager.loadNewSession("Luca"), database.rpartition("/")[2]
        execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        manager._store._disconnect()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="read-only"):
                manager.restartSessionTimer(key)
            with pytest.raises(StoreUnavailable, match="read-only"):
                manager.loadNewSession("Luca")
            assert manager.checkSessionStatus(key)
        check_connections(manager._store)
        execute(database, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
        assert eventually(lambda: answer(manager.restartSessionTimer, key))
        works(manager)

    def test_standby(self):
        """A standby, which may not know the present sessions, is refused until it is promoted."""
        with own_postgresql_server() as server:
            first = SQLStore.from_url(server.url)
            key = first.add("Luca", 60)[0]
            standby = PostgreSQLServer(server.folder)
            standby.password, standby.url = server.password, server.url.replace(str(server.port), str(standby.port))
            standby.data = server.folder / "standby"
            command = [
                postgresql_program("pg_basebackup"),
                "-D",
                str(standby.data),
                "-R",
                "-d",
                server.url,
                "-c",
                "fast",
            ]
            subprocess.run(command, check=True, cwd="/", **unprivileged())
            standby.start()
            try:
                store = SQLStore.from_url(standby.url)
                with pytest.raises(StoreUnavailable, match="standby"):
                    store.get(key)
                check_connections(store)
                first.close()
                server.stop()
                execute(standby.url, "SELECT pg_promote()")
                assert store.get(key).username == "Luca"
                assert store.restart(key, 60) is not None
                store.close()
            finally:
                standby.stop()

    def test_pgbouncer(self, postgresql_url, prefix):
        """Behind PgBouncer, each transaction may be on another connection, and none is left with a setting."""
        search = os.pathsep.join(["/usr/sbin", os.environ.get("PATH", "")])
        pooler = shutil.which("pgbouncer", path=search)
        if pooler is None:
            reason = "no PgBouncer: apt-get install pgbouncer"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        password, port = postgresql_url.partition("//tester:")[2].partition("@")[0], free_port()
        target = postgresql_url.rpartition(":")[2].partition("/")[0]
        with tempfile.TemporaryDirectory(prefix="usm-pgbouncer-") as folder:
            settings = Path(folder) / "pgbouncer.ini"
            (Path(folder) / "users").write_text(f'"tester" "{password}"\n')
            settings.write_text(
                f"[databases]\npostgres = host=127.0.0.1 port={target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
                f"listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {folder}/users\n"
                "pool_mode = transaction\ndefault_pool_size = 3\n"
            )
            for each in (Path(folder), settings, Path(folder) / "users"):
                if os.geteuid() == 0:
                    shutil.chown(each, "postgres", "postgres")
            process = subprocess.Popen(
                [pooler, str(settings)], cwd="/", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **unprivileged()
            )
            try:
                eventually(lambda: answers(port))
                url = postgresql_url.replace(f":{target}/", f":{port}/")
                store = SQLStore(lambda: psycopg.connect(url, prepare_threshold=None), prefix=prefix, timeout=WAIT)
                manager = SessionManager(store=store)
                manager.setMaxSessionsPerUser(2)
                shared = manager.loadNewSession("shared")

                def work(number: int) -> None:
                    for _ in range(10):
                        assert manager.restartSessionTimer(shared)
                        manager.loadNewSession(f"user {number % 3}")

                run_together(work, threads=10)
                assert [len(manager.getUserSessions(f"user {number}")) for number in range(3)] == [2, 2, 2]
                works(manager)
                with psycopg.connect(url, prepare_threshold=None, autocommit=True) as other:
                    shown = [other.execute(f"SHOW {name}").fetchone()[0] for name in SETTINGS]
                assert shown == ["on", "0", "0"]
                manager.close()
            finally:
                process.terminate()
                process.wait(WAIT)


SETTINGS = ("synchronous_commit", "statement_timeout", "idle_in_transaction_session_timeout")


@pytest.mark.parametrize("store_kind", ["postgresql"])
def test_row_of_another_process(any_store):
    """A poll ends at once while another process claims all that is due, and finds it later."""
    now = [1000.0]
    store = any_store(now=lambda: now[0], thread=False)
    key, _ = store.add("Luca", 10)
    now[0] += 10
    with contextlib.closing(store._database.engine.open_raw()) as connection:
        connection.execute(f"SELECT * FROM {store._prefix}sessions FOR UPDATE")
        claims = store._claim(30.0, warnings=True)
        found = [claim for claim, _ in zip(claims, range(10), strict=False)]
        assert [(list(claim.ended), claim.next_in) for claim in found] == [([], 0.0)]
        connection.rollback()  # the server would notice the end of the connection later
    (session,) = next(store._claim(30.0, warnings=True)).ended
    assert session.key == key
    store.close()


@BOTH
def test_refused_row(any_store, caplog):
    """A row that the database refuses, because the table was changed, shows no key."""
    store = any_store()
    store.add("Luca", 60)
    table = f"{store._prefix}sessions"
    with contextlib.closing(store._database.engine.open_raw()) as connection:
        if store._database.engine.name == "sqlite":
            connection.execute(f"CREATE TRIGGER few BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
        else:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT few CHECK (username <> 'Marco')")
        connection.commit()
    with pytest.raises(StoreUnavailable) as refused:
        store.add("Marco", 60)
    shown = [str(refused.value), *(record.getMessage() for record in caplog.records)]
    assert not [text for text in shown if re.search("[0-9A-F]{32}", text)]
    store.close()


class TestConnections:
    """The connections that a given callable may return."""

    OPTIONS: tuple[dict[str, Any], ...] = (
        {"isolation_level": None},
        {"isolation_level": "EXCLUSIVE"},
        {"isolation_level": "DEFERRED", "timeout": 0.0, "cached_statements": 0},
        {"factory": type("Mine", (sqlite3.Connection,), {})},
        {"detect_types": sqlite3.PARSE_COLNAMES},
        *({"autocommit": value} for value in (True, False, -1) if sys.version_info >= (3, 12)),
    )

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_sqlite(self, path, options):
        """Connections of `sqlite3` may have any settings: those that matter are set."""

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(path, check_same_thread=False, **options)
            connection.row_factory = sqlite3.Row
            connection.text_factory = bytes
            return connection

        manager = SessionManager(store=SQLStore(connect))
        manager.setMaxSessionsPerUser(2)
        works(manager)
        run_together(lambda number: manager.loadNewSession("Luca"), threads=8)
        assert len(manager.getUserSessions("Luca")) == 2
        check_connections(manager._store)

    def test_postgresql(self, postgresql_url, prefix):
        """Connections of psycopg may have any settings, and be in a transaction that the callable has begun."""

        def connect() -> Any:
            connection = psycopg.connect(postgresql_url, row_factory=psycopg.rows.dict_row, autocommit=False)
            connection.cursor_factory = psycopg.ClientCursor
            connection.execute("SET lock_timeout = 1234")
            return connection

        store = SQLStore(connect, prefix=prefix)
        works(SessionManager(store=store))
        assert store._database.run("test", "SELECT current_setting('lock_timeout')") == [("1234ms",)]
        check_connections(store)

    @staticmethod
    def refused(connect: Callable[[], Any], text: str, caplog: Any) -> None:
        store = SQLStore(connect, timeout=0.5)
        manager = SessionManager(store=store)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=text):
                manager.loadNewSession("Luca")
        time.sleep(0.3)  # its threads ask as well
        check_connections(store)
        manager.close()
        assert len(lines_of(caplog)) == 1

    def test_thread(self, path, caplog):
        self.refused(lambda: sqlite3.connect(path), "check_same_thread=False", caplog)

    def test_memory(self, caplog):
        self.refused(lambda: sqlite3.connect(":memory:", check_same_thread=False), "give sessions a file", caplog)

    @pytest.mark.parametrize(
        "found", [None, "a text", object(), threading.Lock()], ids=lambda found: type(found).__name__
    )
    def test_something_else(self, found, caplog):
        self.refused(lambda: found, "must return a new connection of sqlite3 or of psycopg 3, got a", caplog)

    def test_another_driver(self, caplog):
        class connection:  # as psycopg2 names it
            __module__ = "psycopg2.extensions"

            def close(self) -> None: ...

        self.refused(connection, r"got a psycopg2\.extensions", caplog)

    def test_async(self, postgresql_url, caplog):
        async def connect() -> None: ...

        def connecting() -> Any:
            coroutine = connect()
            coroutine.close()
            return coroutine

        self.refused(connecting, r"got a builtins\.coroutine", caplog)

    def test_idle(self, path):
        """A process without clients asks about once per second, also if it waits for warnings."""
        statements: list[str] = []
        manager = SessionManager(store=SQLStore(lambda: traced(path, statements)))
        manager.on("sessionExpiring", lambda key, left: None)
        manager.on("sessionEnded", lambda session, reason: None)
        manager.setExpiryWarning(60)
        manager.loadNewSession("luca")
        at_rest(lambda: len(statements), most=2, seconds=4)
        before = len(statements)
        eventually(lambda: len(statements) > before)
        manager.close()

    def test_raises(self, caplog):
        def connect() -> None:
            raise KeyError("no such setting")

        self.refused(connect, "KeyError: 'no such setting'", caplog)

    def test_changes(self, path, caplog):
        """A result that is no connection is refused; calls go on with the next connection."""
        returned: list[Any] = []

        def connect() -> Any:
            return returned[0] if returned else sqlite3.connect(path, check_same_thread=False)

        store = SQLStore(connect)
        key = store.add("Luca", 60)[0]
        store._disconnect()
        returned.append("a text")
        with pytest.raises(StoreUnavailable, match="got a builtins"):
            store.get(key)
        returned.clear()
        assert store.get(key).username == "Luca"
        check_connections(store)
        store.close()

    def test_same_twice(self, path, postgresql_url, caplog):
        for same in (sqlite3.connect(path, check_same_thread=False), psycopg.connect(postgresql_url)):
            with contextlib.closing(same):
                caplog.clear()
                self.refused(lambda same=same: same, "must return a new one each time", caplog)

    def test_same_later(self, path, caplog):
        """A callable that first returns new connections, and then one that is in use."""
        made: list[sqlite3.Connection] = []

        def connect() -> sqlite3.Connection:
            if len(made) < 2:
                made.append(sqlite3.connect(path, check_same_thread=False))
            return made[-1]

        store = SQLStore(connect, connections=4)
        key, barrier, texts = store.add("Luca", 60)[0], threading.Barrier(2), []

        def work(execute: Any) -> None:
            barrier.wait(WAIT)
            barrier.wait(WAIT)

        holder = threading.Thread(target=lambda: store._database.transaction("test", work))
        holder.start()
        barrier.wait(WAIT)
        try:
            store.get(key)
        except StoreUnavailable as refused:
            texts.append(str(refused))
        barrier.wait(WAIT)
        holder.join(WAIT)
        assert ["must return a new one each time" in text for text in texts] == [True]
        assert store.get(key).username == "Luca", "the connection that was in use was left alone"
        check_connections(store)
        store.close()


class TestLog:
    """The log that SQLite writes beside the file."""

    @pytest.fixture
    def log(self, path, monkeypatch):
        monkeypatch.setattr(sqlite_engine, "_LONG_LOG", 100_000)
        return path.with_name(f"{path.name}-wal")

    def test_copied(self, path, log):
        """A poller copies a long log, and begins a new one."""
        manager = SessionManager(store=f"sqlite:///{path}")
        keys = list[str]()
        while not keys or log.stat().st_size < 200_000:  # unless the poller was faster
            keys.append(manager.loadNewSession("Luca", data="x" * 1000))
        eventually(lambda: log.stat().st_size < 100_000)
        assert all(manager.checkSessionStatus(key) for key in keys)
        manager.close()
        assert execute(f"sqlite:///{path}", "PRAGMA integrity_check") == [("ok",)]

    def test_long_read(self, path, log):
        """While somebody reads for long, the log is kept, and nothing waits for a new one."""
        statements: list[str] = []
        store, reader = SQLStore(lambda: traced(path, statements), thread=False), sqlite3.connect(path)
        with contextlib.closing(store), contextlib.closing(reader):
            store.add("Luca", 60)
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM sqlite_master").fetchall()
            for _ in range(200):
                store.add("Luca", 60, data="x" * 1000)
            store._database.tidy()
            assert log.stat().st_size > 200_000
            assert [each for each in statements if "checkpoint(" in each] == ["PRAGMA wal_checkpoint(PASSIVE)"]
            reader.execute("ROLLBACK")
            store._database.tidy()
            assert log.stat().st_size == 0


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite:///x?y",
            "sqlite:relative.db",
            "sqlite:",
            "sqlite://x.db",
        ],
    )
    def test_sqlite(self, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=r"sqlite:///relative\.db or sqlite:////absolute\.db|with its scheme"):
            SessionManager(store=url)
        with pytest.raises(ValueError, match=r"sqlite:///relative\.db or sqlite:////absolute\.db"):
            SQLStore.from_url(url)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize("url", ["postgresql+psycopg://luca:hidden@host/db", "mysql://luca:hidden@host/db"])
    def test_others(self, url):
        with pytest.raises(ValueError, match="redis, sqlite or postgresql") as wrong:
            SessionManager(store=url)
        assert "hidden" not in str(wrong.value)

    def test_old_psycopg(self, monkeypatch):
        """A psycopg that cannot end the wait for an answer is refused by name."""
        monkeypatch.setattr(psycopg.Connection, "wait", lambda self, gen, interval=0.1: None)
        monkeypatch.setattr(psycopg, "__version__", "3.3.5")
        with pytest.raises(SessionError, match=r"psycopg 3\.3\.5 is too old.*3\.3\.6"):
            SQLStore.from_url("postgresql://127.0.0.1/database")

    def test_old_sqlite(self, tmp_path, monkeypatch):
        """A SQLite without what the store needs is refused by name."""
        monkeypatch.setattr(sqlite_engine.sqlite3, "sqlite_version_info", (3, 34, 1))
        monkeypatch.setattr(sqlite_engine.sqlite3, "sqlite_version", "3.34.1")
        with pytest.raises(SessionError, match=r"SQLite 3\.34\.1 is too old.*3\.35"):
            SQLStore.from_url(f"sqlite:///{tmp_path}/sessions.db")
