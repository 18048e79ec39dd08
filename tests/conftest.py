from __future__ import annotations

import functools
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from users_session_manager import MemoryStore, SessionManager
from users_session_manager import manager as manager_module

STORES = ["memory", "redis", "cluster"]


class HandClock:
    """Time that stands still until a test turns it, and then runs out on the test's own thread what is due."""

    def __init__(self, store: Callable[..., Any] = MemoryStore) -> None:
        self.seconds = 1000.0
        self.store = store(now=lambda: self.seconds, thread=False)

    def turn(self, seconds: float) -> None:
        self.seconds += seconds
        self.store.run_due()


def store_maker(kind: str, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return what makes a store of that kind, empty, from its options; those it makes share what they keep."""
    if kind == "memory":
        return MemoryStore
    redis = pytest.importorskip("redis")
    from users_session_manager.stores.redis import RedisStore

    if kind == "redis":
        client = redis.Redis.from_url(request.getfixturevalue("redis_url"))
    else:
        client = redis.RedisCluster("127.0.0.1", request.getfixturevalue("redis_cluster_port"))
    request.addfinalizer(client.close)
    return functools.partial(RedisStore, client, prefix=f"{secrets.token_hex(8)}:")


@pytest.fixture(params=STORES)
def any_store(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """What makes a store, of each kind in turn."""
    return store_maker(request.param, request)


class Heard:
    """The events a manager has emitted, in their order."""

    def __init__(self, manager: SessionManager) -> None:
        self.events: list[tuple[Any, ...]] = []
        for name in ("sessionCreated", "sessionDeleted", "activeUserDeleted", "notifyClientToLogout", "error"):
            manager.on(name, self._listener(name))

    def _listener(self, name: str) -> Any:
        return lambda *args: self.events.append((name, *args))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [tuple(args) for event, *args in self.events if event == name]

    def names(self) -> list[str]:
        return [event[0] for event in self.events]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI set, a skipped test is a missing one, and the run fails."""
    report = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and report is not None and report.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one of the three masters of a real cluster."""
    redis = pytest.importorskip("redis")
    servers = []
    for _ in range(3):
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "20000"]
        servers.append(RedisServer(tmp_path_factory.mktemp("cluster"), *options))
    nodes = [redis.Redis(port=server.port) for server in servers]
    for index, node in enumerate(nodes):
        node.execute_command("CLUSTER ADDSLOTS", *range(16384 * index // 3, 16384 * (index + 1) // 3))
        node.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
    for server in servers[1:]:
        nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port)
    deadline = time.monotonic() + 60
    while not all("cluster_state:ok" in _cluster_info(node) for node in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for node in nodes:
        node.close()
    yield servers[0].port
    for server in servers:
        server.stop()


def _cluster_info(node: Any) -> str:
    """What the node says of its cluster, once it knows all three masters."""
    said = node.execute_command("CLUSTER INFO")
    text = said.decode() if isinstance(said, bytes) else "\n".join(f"{name}:{value}" for name, value in said.items())
    return text if "cluster_known_nodes:3" in text else ""


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL of the tests' own, on a free port of loopback; its user may make databases."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    search = os.pathsep.join([*map(str, reversed(installed)), os.environ.get("PATH", "")])
    initdb, program = shutil.which("initdb", path=search), shutil.which("postgres", path=search)
    if initdb is None or program is None:
        reason = "no PostgreSQL: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    # It refuses to run as root, and cannot look into a folder of pytest's, which is root's alone.
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="usm-postgresql-") as place, socket.create_server(("127.0.0.1", 0)) as free:
        folder, password, port = Path(place), secrets.token_hex(), free.getsockname()[1]
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        data = str(folder / "data")
        options = ["--username", "tester", "--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run([initdb, "-D", data, "--no-sync", "--encoding", "UTF8", *options], check=True, cwd="/", **user)
        free.close()
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [program, "-D", data, *(part for setting in settings for part in ("-c", setting))]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/", **user)
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail(f"PostgreSQL did not start: {said}")
        # Whatever else it has to say must not fill the pipe.
        reader = threading.Thread(target=server.stderr.read, name="postgresql", daemon=True)
        reader.start()
        yield f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"
        server.send_signal(signal.SIGINT)  # ends it without waiting for clients that are still there
        server.wait(timeout=30)
        reader.join(timeout=30)
        server.stderr.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `ON_EVERY_STORE = True` runs its tests with a manager on each."""
    if getattr(metafunc.module, "ON_EVERY_STORE", False) and "store_kind" in metafunc.fixturenames:
        in_memory = metafunc.definition.get_closest_marker("in_memory")
        metafunc.parametrize("store_kind", ["memory"] if in_memory else STORES)


@pytest.fixture
def store_kind() -> str:
    return "memory"


@pytest.fixture
def clock(store_kind: str, request: pytest.FixtureRequest) -> HandClock:
    return HandClock(store_maker(store_kind, request))


@pytest.fixture
def manager(clock: HandClock) -> SessionManager:
    """The singleton, fresh, on a clock turned by hand."""
    return SessionManager(store=clock.store)


@pytest.fixture
def heard(manager: SessionManager) -> Heard:
    return Heard(manager)


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, no line of the library's log at DEBUG level shows the secret of a key."""
    yield
    form = logging.Formatter()
    lines = [form.format(record) for record in caplog.get_records("call") if record.name == "users_session_manager"]
    assert not [line for line in lines if re.search("[0-9A-F]{32}", line)]


@pytest.fixture(autouse=True)
def fresh_singleton() -> Iterator[None]:
    """Each test begins without a SessionManager, and leaves none behind."""
    assert manager_module._instance is None, "a SessionManager is left over from elsewhere"
    yield
    if manager_module._instance is not None:
        manager_module._instance.close()
