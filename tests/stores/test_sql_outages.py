"""Sessions in a SQL database that is stopped, locked, full, read-only, removed or replaced."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgresql_server import PostgreSQLServer, own_postgresql_server
from redis_checks import ROUNDING
from redis_failover import Proxy
from sql_checks import (
    Watcher,
    answer,
    check_connections,
    copy_log,
    folder_in_its_place,
    folder_missing,
    lines_of,
    locked,
    overwritten,
    program,
    removed,
    replaced_by_garbage,
    truncated,
)
from threads import run_together
from waiting import WAIT, eventually

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.keys import new_key
from users_session_manager.stores import notices as reader
from users_session_manager.stores.sql import SQLStore, database

psycopg = pytest.importorskip("psycopg")

NAME = "The database of the sessions"
OUTAGE = [f"{NAME} is unreachable, every session is refused", f"{NAME} is reachable again"]


@pytest.fixture
def open_store() -> Iterator[Callable[..., SQLStore]]:
    """A callable that opens a store at an address; at the end all of its connections are to be had."""
    stores: list[SQLStore] = []

    def opened(url: str, **options: Any) -> SQLStore:
        stores.append(SQLStore.from_url(url, **options))
        return stores[-1]

    yield opened
    for store in stores:
        check_connections(store)
        store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL of this module, which its tests stop; each of them leaves it running."""
    with own_postgresql_server() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "sessions.db"


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")}


def refused(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes that has to be refused."""
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match=NAME):
        call()
    return time.monotonic() - start


class TestStopped:
    TIMEOUT = 4.0

    @staticmethod
    @contextlib.contextmanager
    def stopped(server: PostgreSQLServer, how: str) -> Iterator[None]:
        if how == "paused":
            with server.paused():
                yield
            return
        server.stop(signal.Signals[how])
        try:
            yield
        finally:
            server.start()

    @pytest.mark.parametrize("how", ["SIGINT", "SIGQUIT", "paused"])
    def test_five_seconds(self, server, open_store, caplog, how):
        """PostgreSQL is away for 5 s: calls are refused in between, no end is lost, and it goes on by itself."""
        store = open_store(server.url, timeout=self.TIMEOUT, prefix=f"t{secrets.token_hex(8)}_")
        manager = SessionManager(store=store)
        ended: dict[str, list[float]] = defaultdict(list)
        manager.on("sessionDeleted", lambda key: ended[key].append(time.time()))
        stays = [manager.loadNewSession(f"stays {number}") for number in range(20)]
        watcher = Watcher(manager, stays[0])
        out = manager.loadNewSession("logged out")
        manager.deleteSession(out)
        due = {}
        for number in range(60):
            timeout = random.uniform(2.5, 7)
            due[manager.loadNewSession(f"expires {number}", timeout=timeout)] = time.time() + timeout
        threads = own_threads()
        assert len(threads) >= 2

        slowest, stop = 0.0, time.time()
        with self.stopped(server, how):
            while time.time() - stop < 5:
                for call in (
                    lambda: manager.loadNewSession("Luca"),
                    lambda: manager.restartSessionTimer(stays[0]),
                    lambda: manager.checkSessionStatus(out),
                    lambda: manager.deleteSession(stays[0]),
                    manager.getLoggedUsers,
                ):
                    slowest = max(slowest, refused(call))
                time.sleep(0.02)
        back = time.time()
        eventually(lambda: due.keys() <= ended.keys())
        late = sorted(times[0] - back for key, times in ended.items() if key != out and stop < due[key] < back)
        assert late
        print(f"slowest refusal {slowest:.3f} s; the last of {len(late)} ends {late[-1]:.3f} s after it was back")
        assert slowest < WAIT / 4  # psycopg itself would wait for ever

        assert all(times[0] > due[key] - ROUNDING for key, times in ended.items() if key != out)
        alive = [key for key in stays if answer(manager.checkSessionStatus, key)]
        # A logout whose request the server had already received may have been made.
        assert {*stays} - {*alive} <= ({stays[0]} if how == "paused" else set())
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(out)
        assert all(thread.is_alive() for thread in threads)
        # And it goes on.
        new = manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: new in ended)
        assert lines_of(caplog) == OUTAGE
        if stays[0] in alive:
            manager.deleteSession(stays[0])
        assert watcher.ended.wait(WAIT)
        time.sleep(0.2)
        assert {key: len(times) for key, times in ended.items()} == dict.fromkeys(
            {*due, out, new, *({stays[0]} & ended.keys())}, 1
        )

    def test_many_threads(self, server, open_store, caplog):
        """While it does not answer, many threads share few connections, and all of them are refused."""
        store = open_store(server.url, timeout=self.TIMEOUT, connections=2, prefix=f"t{secrets.token_hex(8)}_")
        manager = SessionManager(store=store)
        key = manager.loadNewSession("Luca")
        with server.paused():
            run_together(lambda number: refused(lambda: manager.checkSessionStatus(key)), threads=50)
        assert eventually(lambda: answer(manager.checkSessionStatus, key))
        assert lines_of(caplog) == OUTAGE

    def test_started_later(self, server, open_store):
        """It may be started after the manager."""
        server.stop()
        try:
            manager = SessionManager(store=open_store(server.url, prefix=f"t{secrets.token_hex(8)}_"))
            ended = []
            manager.on("sessionDeleted", ended.append)
            refused(lambda: manager.loadNewSession("Luca"))
            refused(manager.deleteAllSessions)
        finally:
            server.start()
        assert manager.checkSessionStatus(manager.loadNewSession("Marco"))
        key = manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: ended == [key])

    def test_close_while_away(self, server, open_store):
        """A manager is closed while it does not answer, in a bounded time."""
        manager = SessionManager(store=open_store(server.url, timeout=self.TIMEOUT, prefix=f"t{secrets.token_hex(8)}_"))
        manager.on("sessionDeleted", print)
        manager.loadNewSession("Luca")
        with server.paused():
            refused(manager.getLoggedUsers)
            start = time.monotonic()
            manager.close()
            assert time.monotonic() - start < WAIT / 4


class LosesCommits(Proxy):
    """Cuts a connection when a COMMIT was sent on it, before or after PostgreSQL has executed it."""

    def __init__(self, target: int, url: str) -> None:
        super().__init__(target)
        self.address = url.replace(f":{target}/", f":{self.port}/")
        self.loses: str | None = None
        self._committing: set[int] = set()

    def _note(self, connection: Any, request: bytes) -> None:
        if self.loses is not None and b"COMMIT\0" in request:
            if self.loses == "request":
                self.dropped += 1
                raise OSError("the request is lost")
            self._committing.add(id(connection))

    def _is_dropped(self, connection: Any) -> bool:
        if id(connection) not in self._committing:
            return False
        self._committing.discard(id(connection))
        self.dropped += 1
        return True


class TestLostCommit:
    LEASE = 180.0

    @pytest.fixture
    def proxy(self, server) -> Iterator[LosesCommits]:
        proxy = LosesCommits(server.port, server.url)
        yield proxy
        proxy.close()

    @pytest.fixture
    def manager(self, proxy, open_store) -> SessionManager:
        return SessionManager(store=open_store(proxy.address, lease=self.LEASE, prefix=f"t{secrets.token_hex(8)}_"))

    @pytest.fixture
    def ended(self, manager) -> dict[str, list[str]]:
        ended = defaultdict(list)
        manager.on("sessionEnded", lambda session, reason: ended[session.key].append(reason))
        return ended

    def test_answer(self, manager, proxy, ended):
        """The answer to the COMMIT of a logout is lost: the end is announced once, and long before the lease ends."""
        keys = [manager.loadNewSession(f"user {number}") for number in range(15)]
        slowest = 0.0
        for key in keys:
            proxy.loses = "answer"
            refused(lambda key=key: manager.deleteSession(key))
            proxy.loses, start = None, time.monotonic()
            eventually(lambda key=key: key in ended)
            slowest = max(slowest, time.monotonic() - start)
            with pytest.raises(SessionRejected):
                manager.deleteSession(key)
        print(f"the last end was announced {slowest:.3f} s after its logout")
        assert slowest < self.LEASE / 3
        assert proxy.dropped >= 15
        time.sleep(0.3)
        assert ended == {key: ["deleted"] for key in keys}

    def test_request(self, manager, proxy, ended):
        """The COMMIT itself is lost: the session goes on, and nothing is announced."""
        key = manager.loadNewSession("Luca")
        proxy.loses = "request"
        refused(lambda: manager.deleteSession(key))
        refused(lambda: manager.renewSessionKey(key))
        proxy.loses = None
        assert manager.checkSessionStatus(key)
        time.sleep(0.5)
        assert not ended
        assert proxy.dropped >= 2

    def test_eviction(self, manager, proxy, ended):
        """The answer to a login that has evicted a session is lost: that end is announced once."""
        manager.setMaxSessionsPerUser(1)
        first = manager.loadNewSession("Luca")
        proxy.loses = "answer"
        refused(lambda: manager.loadNewSession("Luca"))
        proxy.loses = None
        eventually(lambda: ended == {first: ["evicted"]}, self.LEASE / 3)
        assert len(manager.getUserSessions("Luca")) == 1

    def test_all(self, manager, proxy, ended):
        """While each answer to a COMMIT is lost, a logout of all users is asked for again and again."""
        keys = [manager.loadNewSession(f"user {number}") for number in range(350)]
        proxy.loses = "answer"
        for _ in range(4):  # a batch is a transaction
            refused(manager.deleteAllSessions)
        proxy.loses = None
        assert manager.deleteAllSessions() is False or not len(manager.sessions)
        eventually(lambda: {*keys} == ended.keys(), self.LEASE / 3)
        time.sleep(0.3)
        assert ended == {key: ["deleted"] for key in keys}


class TestBusy:
    def test_row_locked(self, server, open_store, caplog):
        """A row is locked for seconds: calls are refused in time, and leave nothing on the server that waits."""
        prefix = f"t{secrets.token_hex(8)}_"
        with contextlib.closing(open_store(server.url, timeout=WAIT, prefix=prefix)) as store:
            store.usernames()  # the tables are there
        manager = SessionManager(store=open_store(server.url, timeout=0.5, prefix=prefix))
        key, other = (eventually(lambda name=name: answer(manager.loadNewSession, name)) for name in ("Luca", "Marco"))

        def waiting() -> int:
            select = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
            return administrator.execute(select, [f"%{prefix}%"]).fetchone()[0]

        with psycopg.connect(server.url, autocommit=True) as administrator, psycopg.connect(server.url) as locker:
            locker.execute(f"SELECT 1 FROM {prefix}sessions WHERE username = 'Luca' FOR UPDATE")
            for _ in range(5):
                refused(lambda: manager.restartSessionTimer(key))
                assert eventually(lambda: answer(manager.restartSessionTimer, other))
            eventually(lambda: not waiting())
            locker.rollback()
        assert eventually(lambda: answer(manager.restartSessionTimer, key))
        assert lines_of(caplog)[0] == OUTAGE[0]

    def test_stopped_in_transaction(self, server, open_store):
        """A process that is suspended in the middle of a transaction does not keep others waiting."""
        prefix = f"t{secrets.token_hex(8)}_"
        manager = SessionManager(store=open_store(server.url, timeout=5.0, prefix=prefix))
        key = manager.loadNewSession("Luca")
        suspended, done = open_store(server.url, timeout=5.0, prefix=prefix), threading.Event()
        locks = threading.Event()

        def work(execute: Any) -> None:
            execute("SELECT id FROM {sessions} FOR UPDATE")
            locks.set()
            assert done.wait(WAIT)

        def hold() -> None:
            with contextlib.suppress(StoreUnavailable):
                suspended._database.transaction("test", work)

        holder = threading.Thread(target=hold)
        holder.start()
        assert locks.wait(WAIT)
        assert eventually(lambda: answer(manager.restartSessionTimer, key))
        done.set()
        holder.join(WAIT)

    def test_too_many_connections(self, open_store, caplog):
        """PostgreSQL refuses connections: calls are refused until it accepts them, and other users get theirs."""
        with own_postgresql_server("max_connections=12", "superuser_reserved_connections=0") as server:
            store = open_store(server.url, connections=8)
            manager = SessionManager(store=store)
            key = manager.loadNewSession("Luca")
            manager.stop()  # its poller may give a connection back
            with contextlib.ExitStack() as stack:

                def is_refused() -> bool:
                    """Take one more connection, that of the store if there is no other."""
                    store._disconnect()
                    with contextlib.suppress(psycopg.OperationalError):
                        stack.enter_context(contextlib.closing(psycopg.connect(server.url)))
                    return answer(manager.checkSessionStatus, key) is None

                eventually(is_refused)
                run_together(lambda number: refused(lambda: manager.checkSessionStatus(key)), threads=20)
                check_connections(store)
                assert lines_of(caplog) == OUTAGE[:1]
            assert eventually(lambda: answer(manager.checkSessionStatus, key))
            assert lines_of(caplog) == OUTAGE

    @pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
    def test_more_threads_than_connections(self, sql_store, store_kind):
        """Fifty threads on two connections all get their answers."""
        store = sql_store(connections=2, timeout=WAIT)
        manager = SessionManager(store=store)

        def work(number: int) -> None:
            for _ in range(5):
                key = manager.loadNewSession(f"user {number}")
                assert manager.restartSessionTimer(key)
                assert manager.checkSessionStatus(key)
                assert manager.deleteSession(key)

        run_together(work, threads=50)
        assert len(manager.sessions) == 0
        check_connections(store)
        assert len(store._database._open) <= 2


class TestSQLiteLocked:
    @pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
    def test_five_seconds(self, path, open_store, caplog, how):
        """Another process holds the lock for 5 s: writes are refused, reads are answered, and no end is lost."""
        manager = SessionManager(store=open_store(f"sqlite:///{path}", timeout=0.5))
        ended: dict[str, list[float]] = defaultdict(list)
        manager.on("sessionDeleted", lambda key: ended[key].append(time.time()))
        stays, out = manager.loadNewSession("stays"), manager.loadNewSession("out")
        manager.deleteSession(out)
        due = {}
        for number in range(20):
            timeout = random.uniform(2, 5)
            due[manager.loadNewSession(f"expires {number}", timeout=timeout)] = time.time() + timeout
        threads, slowest = own_threads(), 0.0
        with locked(path, how):
            start = time.monotonic()
            while time.monotonic() - start < 5:
                slowest = max(slowest, refused(lambda: manager.loadNewSession("Luca")))
                slowest = max(slowest, refused(lambda: manager.restartSessionTimer(stays)))
                slowest = max(slowest, refused(lambda: manager.deleteSession(stays)))
                assert manager.checkSessionStatus(stays)
                with pytest.raises(SessionRejected):
                    manager.checkSessionStatus(out)
            assert not {*ended} & {key for key, deadline in due.items() if deadline > time.time()}
        print(f"slowest refusal {slowest:.3f} s")
        assert slowest < WAIT / 4
        eventually(lambda: due.keys() <= ended.keys())
        assert eventually(lambda: answer(manager.restartSessionTimer, stays))
        assert eventually(lambda: answer(manager.deleteSession, stays))
        eventually(lambda: stays in ended)
        assert {key: len(times) for key, times in ended.items()} == dict.fromkeys({*due, out, stays}, 1)
        assert all(times[0] > due[key] - ROUNDING for key, times in ended.items() if key in due)
        assert all(thread.is_alive() for thread in threads)
        manager.loadNewSession("Luca")
        eventually(lambda: answer(manager.getLoggedUsers) and lines_of(caplog)[-1] == OUTAGE[1])
        assert lines_of(caplog)[:2] == OUTAGE

    def test_many_threads(self, path, open_store, monkeypatch):
        """Of the threads of a process one asks again and again, and the others wait for that."""
        wait_after, asked = database._wait_after, list[int]()

        def noted(tries: int) -> None:
            asked.append(threading.get_ident())
            wait_after(tries)

        monkeypatch.setattr(database, "_wait_after", noted)
        store = open_store(f"sqlite:///{path}", timeout=WAIT, thread=False)
        keys, restarted = [store.add("Luca", 60)[0] for _ in range(4)], list[Any]()
        threads = [threading.Thread(target=lambda key=key: restarted.append(store.restart(key, 60))) for key in keys]
        with locked(path):
            for thread in threads:
                thread.start()
            eventually(lambda: store._database._in_use == len(threads) and len(asked) > 100)
            assert len({*asked}) == 1
            assert store.get(keys[0]) is not None, "a read waits for nothing"
        for thread in threads:
            thread.join(WAIT)
        assert {session.key for session in restarted} == {*keys}

    def test_new_process(self, path, open_store):
        """A process that starts meanwhile can read."""
        key = open_store(f"sqlite:///{path}").add("Luca", 60)[0]
        with locked(path):
            store = open_store(f"sqlite:///{path}", timeout=0.5)
            assert store.get(key).username == "Luca"
            refused(lambda: store.restart(key, 60))
        assert store.restart(key, 60) is not None


def fill(manager: SessionManager) -> list[str]:
    """Begin sessions until there is no room for one more; return their keys."""
    keys = []
    for _ in range(1000):
        key = answer(lambda: manager.loadNewSession("Luca", data="x" * 1000))
        if key is None:
            return keys
        keys.append(key)
    raise AssertionError("there is room for all")


class TestSQLiteFull:
    def test_quota(self, path, caplog):
        """The file may not grow: logins are refused, sessions go on, and there is room again by itself."""
        pages = [1000]

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(path, check_same_thread=False)
            connection.execute(f"PRAGMA max_page_count = {pages[0]}")
            return connection

        store = SQLStore(connect)
        manager = SessionManager(store=store)
        ended = []
        manager.on("sessionDeleted", ended.append)
        keys = [manager.loadNewSession("Luca")]
        with contextlib.closing(sqlite3.connect(path)) as look:
            pages[0] = look.execute("PRAGMA page_count").fetchone()[0] + 3
        store._disconnect()
        keys += fill(manager)
        for _ in range(20):
            refused(lambda: manager.loadNewSession("Luca", data="x" * 1000))
            assert manager.restartSessionTimer(keys[0])
            assert manager.checkSessionStatus(keys[-1])
        check_connections(store)
        assert lines_of(caplog)[1:] == OUTAGE[:1], "the first line is about the mode of the file"
        pages[0] = 1000
        store._disconnect()
        assert manager.checkSessionStatus(manager.loadNewSession("Luca", data="x" * 1000))
        assert manager.deleteAllSessions()
        eventually(lambda: {*keys} <= {*ended})
        check_connections(store)
        assert lines_of(caplog)[1:] == OUTAGE
        store.close()
        with contextlib.closing(sqlite3.connect(path)) as look:
            assert look.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_disk(self, tmp_path, open_store, caplog):
        """A small disk is full: changes are refused, no user is let in, and calls go on once there is room."""
        folder = tmp_path / "disk"
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=False).returncode:
            pytest.skip("this user may not mount a disk")
        try:
            store = open_store(f"sqlite:///{folder}/sessions.db", timeout=0.5)
            manager = SessionManager(store=store)
            ended = []
            manager.on("sessionDeleted", ended.append)
            key, out = manager.loadNewSession("Luca"), manager.loadNewSession("Marco")
            expires = manager.loadNewSession("Anna", timeout=2)
            manager.deleteSession(out)
            ballast = folder / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
            fill(manager)
            threads, start = own_threads(), time.monotonic()
            while time.monotonic() - start < 3:
                with pytest.raises(SessionRejected):
                    manager.checkSessionStatus(out)
                assert answer(manager.restartSessionTimer, key) in (None, True)
                assert manager.checkSessionStatus(key)
            with pytest.raises(SessionRejected):
                manager.checkSessionStatus(expires)
            check_connections(store)
            assert lines_of(caplog) == OUTAGE[:1]
            ballast.unlink()
            eventually(lambda: expires in ended)
            assert manager.checkSessionStatus(manager.loadNewSession("Luca", data="x" * 1000))
            assert manager.restartSessionTimer(key)
            assert all(thread.is_alive() for thread in threads)
            eventually(lambda: answer(manager.getLoggedUsers) and lines_of(caplog) == OUTAGE)
            manager.close()
        finally:
            subprocess.run(["umount", str(folder)], check=True)


_IDLE = """
import logging, sys, threading
from users_session_manager import SessionManager
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
manager = SessionManager(store=sys.argv[1])
manager.on("sessionDeleted", print)
manager.serve()
manager.getLoggedUsers()
print("ready", flush=True)
for line in sys.stdin:
    try:
        print("answer", manager.checkSessionStatus(line.strip()), flush=True)
    except Exception as failure:
        print("answer", type(failure).__name__, flush=True)
"""


class TestSQLiteReplaced:
    def test_removed(self, path, open_store, caplog):
        """The file is removed: an idle process notices it, and all processes go over to the new one."""
        url = f"sqlite:///{path}"
        manager = SessionManager(store=open_store(url))
        key = manager.loadNewSession("Luca")
        watcher = Watcher(manager, key)
        with program(_IDLE, url) as idle:
            assert idle.stdout.readline() == "ready\n"
            path.unlink()
            start = time.monotonic()
            line = idle.stdout.readline()
            print(f"an idle process has noticed it after {time.monotonic() - start:.3f} s")
            assert "was removed or replaced, and its sessions are gone" in line
            assert str(path) in line
            with pytest.raises(SessionRejected):
                manager.checkSessionStatus(key)
            new = manager.loadNewSession("Marco")
            for each, expected in ((key, "SessionRejected"), (new, "True")):
                idle.stdin.write(f"{each}\n")
                idle.stdin.flush()
                assert idle.stdout.readline() == f"answer {expected}\n"
        assert watcher.ended.wait(WAIT)
        assert lines_of(caplog) == ["The file of the sessions was removed or replaced, and its sessions are gone"]

    def test_ids(self, path, open_store):
        """No session of the new file has the id of one in the old file: its client would be taken for another's."""
        store = open_store(f"sqlite:///{path}")
        old = {store.get(store.add("Luca", 60)[0])._id for _ in range(20)}
        time.sleep(1)
        path.unlink()
        assert not old & {store.get(store.add("Luca", 60)[0])._id for _ in range(20)}

    def test_notices_of_the_new_file(self, path, open_store, monkeypatch):
        """Notices of the new file are read, though there were more in the old one."""
        monkeypatch.setattr(reader, "CHECK_INTERVAL", 600.0)
        manager = SessionManager(store=open_store(f"sqlite:///{path}"))
        for number in range(20):
            manager.deleteSession(manager.loadNewSession(f"user {number}"))
        watcher = Watcher(manager, manager.loadNewSession("Luca"))
        time.sleep(1)
        path.unlink()
        watcher.key = manager.loadNewSession("Luca")
        watcher.session_id = manager.getSession(watcher.key)._id
        time.sleep(0.5)
        manager.deleteSession(watcher.key)
        assert watcher.ended.wait(WAIT)

    @pytest.mark.parametrize(
        "broken", [removed, truncated, replaced_by_garbage, overwritten, folder_in_its_place, folder_missing]
    )
    def test_broken(self, path, open_store, caplog, broken):
        """A damaged file lets no old key in, and all is well once it is removed."""
        url = f"sqlite:///{path}"
        stores = [open_store(url, timeout=2.0), open_store(url, timeout=2.0)]
        manager = SessionManager(store=stores[0])
        ended = []
        manager.on("sessionDeleted", ended.append)
        keys = [manager.loadNewSession(f"user {number}") for number in range(100)]
        assert stores[1].get(keys[0]) is not None
        threads, let_in = own_threads(), 0
        copy_log(path)
        with broken(path):
            answers = set()
            start = time.monotonic()
            while time.monotonic() - start < 1.5:
                for store in stores:
                    for key in (keys[0], keys[-1]):
                        with contextlib.suppress(StoreUnavailable):
                            let_in += store.restart(key, 60) is not None
                            answers.add("there is none")
                with contextlib.suppress(StoreUnavailable):
                    manager.loadNewSession("Luca")
            if broken not in (removed, truncated):  # which is a new file, without sessions
                assert not answers
                refused(lambda: manager.loadNewSession("Luca"))
            assert not let_in
        for store in stores:
            check_connections(store)
        new = eventually(lambda: answer(manager.loadNewSession, "Luca"))
        expires = eventually(lambda: answer(lambda: manager.loadNewSession("Marco", timeout=2)))
        for store in stores:
            assert eventually(lambda store=store: answer(store.get, new)).username == "Luca"
            assert not any(answer(store.get, key) for key in keys)
        eventually(lambda: expires in ended)
        assert all(thread.is_alive() for thread in threads)
        assert lines_of(caplog)
        for store in stores:
            store._disconnect()
        with contextlib.closing(sqlite3.connect(path)) as look:
            assert look.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_connects_and_refuses(path, caplog):
    """A database that can be connected to again, and still refuses each change, is not called reachable."""
    connects, writes = [True], [True]

    def connect() -> sqlite3.Connection:
        if not connects:
            raise sqlite3.OperationalError("unable to open database file")
        connection = sqlite3.connect(path, check_same_thread=False)
        if not writes:
            connection.execute("PRAGMA query_only = 1")
        return connection

    with contextlib.closing(SQLStore(connect, thread=False)) as store:
        key, _ = store.add("Luca", 60)
        store._disconnect()
        caplog.clear()
        connects.clear()
        refused(lambda: store.restart(key, 60))
        connects.append(True)
        writes.clear()
        for _ in range(2):
            refused(lambda: store.restart(key, 60))
        assert lines_of(caplog) == OUTAGE[:1]
        writes.append(True)
        assert store.restart(key, 60) is not None
        assert lines_of(caplog) == OUTAGE


_READ_ONLY = """
import itertools, logging, os, pathlib, sys
from users_session_manager import SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.stores.sql import SQLStore, sqlite
path, key, old, may_go_on = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
for other in ("encodings.idna", "sqlite3"):
    __import__(other)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
logging.basicConfig(stream=sys.stdout, format="log %(message)s", level=logging.WARNING)
manager = SessionManager(store=SQLStore.from_url(f"sqlite:///{path}", timeout=30.0))

def say(*words):
    sys.stdout.write(" ".join(words) + "\\n")  # in one piece: the poller logs at the same time
    sys.stdout.flush()

def ask(call, *args):
    try:
        return str(call(*args))
    except (StoreUnavailable, SessionRejected) as failure:
        return f"{type(failure).__name__} {failure}"

for line in itertools.chain([""], sys.stdin):
    say("login", ask(manager.loadNewSession, "Luca"))
    say("restart", ask(manager.restartSessionTimer, key))
    say("old", ask(manager.checkSessionStatus, old))
    say("end")
"""


class TestSQLiteReadOnly:
    @pytest.mark.parametrize("what", ["file", "folder", "empty folder"])
    def test_another_user(self, tmp_path, open_store, what):
        """A user who may only read the file, or its folder, is refused; with the rights all goes on by itself."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="usm-sqlite-") as place:  # pytest's folders are for one user alone
            folder, path = Path(place), Path(place) / "sessions.db"
            key = old = new_key()
            folder.chmod(0o755)
            if what != "empty folder":
                store = open_store(f"sqlite:///{path}")
                key, old = (store.add("Luca", 60)[0] for _ in range(2))
                store.remove(old)
                store.close()
                path.chmod(0o644 if what == "file" else 0o666)
            if os.geteuid() != 0:
                folder.chmod(0o555)
                if path.exists():
                    path.chmod(0o444)
            with program(_READ_ONLY, path, key, old, what, cwd="/") as process:
                self.check(process, login="StoreUnavailable", restart="StoreUnavailable")
                folder.chmod(0o777)
                if path.exists():
                    path.chmod(0o666)
                process.stdin.write("\n")
                process.stdin.flush()
                self.check(process, login="", restart="SessionRejected" if what == "empty folder" else "True")

    @staticmethod
    def check(process: Any, **expected: str) -> None:
        found = {}
        for line in process.stdout:
            if line == "end\n":
                break
            print(line, end="")
            name, _, text = line.partition(" ")
            found[name] = text
        for name, text in expected.items():
            assert found[name].startswith(text), found
        assert not found["old"].startswith("True")
        assert ("StoreUnavailable" in found["login"]) == (expected["login"] == "StoreUnavailable")
