"""Processes that fork, on one store: servers, pools and plain forks. None hangs; each end is announced exactly once."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from interpreter import run
from server_process import MAX_WAIT, ServerProcess
from store_address import StoreAddress
from test_http_servers import APPS, GUNICORN, need

SHARED_STORES = ["redis", "sqlite", "postgresql"]
on_each_store = pytest.mark.parametrize("store_kind", SHARED_STORES)

WORKERS = 2
CLIENTS = 4
HANG = 60
"""The seconds after which a request, or a forked child, counts as hung."""

RUN_GUNICORN = f"-m gunicorn --workers {WORKERS} --threads 4 -b 127.0.0.1:0 noting_wsgi:app"
UWSGI_PROGRAM = Path(sys.executable).with_name("uwsgi")
# Not of Python: a program of its own, in the process that the interpreter has begun.
RUN_UWSGI = (
    f"-c import,os,sys;os.execv(sys.argv[1],sys.argv[1:]) {UWSGI_PROGRAM} "
    f"--master --processes {WORKERS} --http-socket 127.0.0.1:0 --module noting_wsgi:app --die-on-term"
)
UWSGI = r"bound to TCP address 127\.0\.0\.1:(\d+)"

# The commands, and the work of the application beside.
SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "gunicorn": (RUN_GUNICORN, {}),
    "gunicorn, preload": (RUN_GUNICORN + " --preload", {}),
    "gunicorn, preload, client": (RUN_GUNICORN + " --preload", {"BEFORE_FORK": "client"}),
    "gunicorn, preload, session": (RUN_GUNICORN + " --preload", {"BEFORE_FORK": "session"}),
    "uwsgi": (RUN_UWSGI, {}),
    "uwsgi, client": (RUN_UWSGI, {"BEFORE_FORK": "client"}),
    "uwsgi, session": (RUN_UWSGI, {"BEFORE_FORK": "session"}),
    "uwsgi, threads": (RUN_UWSGI + " --enable-threads", {}),
    "uwsgi, threads, session": (RUN_UWSGI + " --enable-threads", {"BEFORE_FORK": "session"}),
    "uwsgi, lazy": (RUN_UWSGI + " --lazy-apps", {}),
    "uwsgi, osafterfork": (RUN_UWSGI + " --py-call-osafterfork", {"BEFORE_FORK": "session"}),
    "uwsgi, fork hooks": (RUN_UWSGI + " --enable-threads --py-call-uwsgi-fork-hooks", {"BEFORE_FORK": "session"}),
    "uwsgi, postfork": (RUN_UWSGI, {"POSTFORK": "yes"}),
}
# Those that each run of the tests starts.
COMMON = [
    "gunicorn, preload, client",
    "gunicorn, preload, session",
    "uwsgi",
    "uwsgi, threads, session",
    "uwsgi, postfork",
]
# How often the long test starts each.
STARTS = {"gunicorn, preload": 100, "gunicorn, preload, client": 50, "gunicorn, preload, session": 50}
AT_ONCE = 10


class Notes:
    """The notes of the processes of one application, and the notes that are still to come.

    Args:
        address: Where they keep their sessions.
        file: Where they note it.
    """

    def __init__(self, address: StoreAddress, file: Path) -> None:
        self.address, self.file = address, file
        # Coverage has locks of its own, which a child may find held for ever.
        uncovered = {name: "" for name in os.environ if name.startswith("COVERAGE_")}
        self.environment = {**uncovered, "STORE_URL": address.url, "PREFIX": address.prefix, "NOTES": str(file)}

    def of(self, what: str) -> Counter[str]:
        """Return how often each key was noted so."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return Counter(line.split()[1] for line in lines if line.split()[0] == what)

    @property
    def ended(self) -> Counter[str]:
        return self.of("expired") + self.of("deleted")

    def are_complete(self) -> bool:
        """Return whether each session that was created has ended, and this is acknowledged."""
        return self.of("created").keys() == self.ended.keys() and self.address.kept() == 0

    def wait(self, meanwhile: Any = lambda: None) -> None:
        deadline = time.monotonic() + MAX_WAIT
        while not self.are_complete():
            assert time.monotonic() < deadline, self.of("created").keys() - self.ended.keys() or "not acknowledged"
            meanwhile()
            time.sleep(0.05)

    def check(self) -> None:
        """Fail unless each session has ended in both ways, each exactly once."""
        assert self.ended == Counter([*self.of("created")])
        assert self.of("created")
        assert self.of("expired")
        assert self.of("deleted")


@pytest.fixture
def notes(address: StoreAddress, tmp_path: Path) -> Notes:
    return Notes(address, tmp_path / "notes")


def ask(port: int, path: str, key: str = "") -> tuple[int, str, str]:
    """Return the status, the number of the process, and the key that it answers with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    with contextlib.closing(connection):
        connection.request("POST", path, headers={"Session-Key": key})
        answer = connection.getresponse()
        return (answer.status, *answer.read().decode().split())


def visit(port: int) -> set[str]:
    """Sign in twice and out once; return the processes that have answered."""
    _, first, _ = ask(port, "/login?expires")
    _, second, key = ask(port, "/login")
    answers = [ask(port, path, key) for path in ("/check", "/logout", "/check")]
    assert [status for status, _, _ in answers] == [200, 200, 401]
    return {first, second, *(process for _, process, _ in answers)}


def need_server(kind: str) -> None:
    if kind.startswith("gunicorn"):
        need("gunicorn")
    elif not UWSGI_PROGRAM.exists():
        pytest.skip("no uWSGI: it is not there for Windows")


@contextlib.contextmanager
def running(kind: str, notes: Notes, **environment: str) -> Iterator[ServerProcess]:
    command, extra = SERVERS[kind]
    server = ServerProcess(
        *(part.replace("import,", "import ") for part in command.split()),
        printed=UWSGI if kind.startswith("uwsgi") else GUNICORN,
        cwd=APPS,
        env=notes.environment | extra | environment,
    )
    try:
        yield server
        output = server.output
    finally:
        server.stop()
    # uWSGI says it too, as the first and for reasons of its own.
    warnings = output.count("uWSGI runs without threads: ")
    assert (0 < warnings <= WORKERS) == ("Python threads support is disabled" in output)


def ask_all_workers(call: Any, port: int) -> None:
    """Call with the port, several times at once, until each worker has answered."""
    processes: set[str] = set()
    deadline = time.monotonic() + MAX_WAIT
    with ThreadPoolExecutor(CLIENTS) as threads:
        while len(processes) < WORKERS:
            assert time.monotonic() < deadline
            processes.update(*threads.map(call, [port] * CLIENTS))


def serve(kind: str, notes: Notes) -> None:
    """Start a server, sign in and out at each worker, wait for all ends, and stop it."""
    with running(kind, notes) as server:
        ask_all_workers(visit, server.port)
        notes.wait(lambda: ask(server.port, "/"))
    notes.check()


@on_each_store
@pytest.mark.parametrize(
    "kind", [kind if kind in COMMON else pytest.param(kind, marks=pytest.mark.long) for kind in SERVERS]
)
def test_servers(kind, notes):
    """Each worker of a server serves, whatever its master did before it forked."""
    need_server(kind)
    serve(kind, notes)


@on_each_store
def test_quiet(notes):
    """A logout is announced once, although nothing runs in its worker for longer than the lease."""
    need_server("uwsgi")

    def sign_out(port: int) -> set[str]:
        _, first, key = ask(port, "/login")
        status, second, _ = ask(port, "/logout", key)
        assert status == 200
        return {first, second}

    with running("uwsgi", notes, LEASE="6") as server:
        ask_all_workers(sign_out, server.port)
        time.sleep(8)
        ask_all_workers(sign_out, server.port)
    assert notes.of("deleted") == Counter([*notes.of("created")])


@pytest.mark.long
@on_each_store
@pytest.mark.parametrize("kind", [kind for kind in SERVERS if "preload" in kind or "uwsgi" in kind])
def test_servers_often(kind, address, tmp_path):
    """The same, start after start."""
    need_server(kind)
    starts = range(STARTS.get(kind, 50))

    def each(number: int) -> StoreAddress:
        """Return an address of its own for each start."""
        return StoreAddress.new(address.url.replace("sessions.db", f"{number}.db"))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for start in [threads.submit(serve, kind, Notes(each(number), tmp_path / str(number))) for number in starts]:
            start.result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_uwsgi_master():
    """Under a uWSGI without threads the log says so, once; its master has no thread, and its child has."""
    done = run("""
    import os, sys, threading, types
    sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=0, masterpid=lambda pid=os.getpid(): pid)
    from users_session_manager import SessionManager
    manager = SessionManager()
    manager.loadNewSession("Luca")
    print(threading.active_count(), flush=True)
    child = os.fork()
    if not child:
        print(threading.active_count(), flush=True)
        manager.loadNewSession("Luca")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    """)
    assert (done.returncode, done.stdout) == (0, "1\n2\n")
    assert done.stderr.count("uWSGI runs without threads: ") == done.stderr.count("\n") == 1


class Program:
    """A program of APPS that forks, prints one line, and lives until its input is closed."""

    def __init__(self, notes: Notes, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", *arguments],
            cwd=APPS,
            env=os.environ | notes.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        return self._process.stdout.readline()

    def end(self) -> tuple[int, str, str]:
        """Return its exit code, and what else it has printed."""
        try:
            output, errors = self._process.communicate(timeout=MAX_WAIT)
        finally:
            self._process.kill()
            self._process.wait()
        return self._process.returncode, output, errors


@on_each_store
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method, notes):
    """Each process of a pool signs in and out, while its parent does."""
    program = Program(notes, "noting_pool.py", method, "40")
    try:
        assert program.line() == "40\n"
        notes.wait()
    finally:
        ended = program.end()
    assert ended == (0, "", "")
    notes.check()


@pytest.mark.parametrize("store_kind", ["memory", *SHARED_STORES])
@pytest.mark.parametrize("forks", [30, pytest.param(200, marks=pytest.mark.long)])
def test_random_forks(store_kind, forks, notes):
    """A process forks at any moment of its threads; each child signs in and out, and exits."""
    program = Program(notes, "noting_forks.py", str(forks), store_kind)
    try:
        assert program.line() == f"{forks} []\n"
        if store_kind != "memory":
            notes.wait()
    finally:
        ended = program.end()
    assert ended == (0, "", "")
    if store_kind != "memory":
        notes.check()


@on_each_store
def test_celery(notes, redis_url):
    """Each process of celery's pool signs in and out."""
    need("celery")
    pytest.importorskip("redis")
    notes.environment["REDIS_URL"] = redis_url
    worker = ServerProcess(
        *"-m celery -A noting_celery worker --concurrency 2 --pool prefork --loglevel INFO".split(),
        printed=r"Connected to redis://\S*127\.0\.0\.1:(\d+)",  # the port of its Redis: it has none of its own
        cwd=APPS,
        env=notes.environment | {"DJANGO_SETTINGS_MODULE": ""},  # that of other tests
    )
    try:
        tasks = Program(notes, "noting_tasks.py", "2")
        assert tasks.end() == (0, "{True}\n", "")
        notes.wait()
    finally:
        worker.stop()
    notes.check()
