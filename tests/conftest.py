"""Fixtures for all tiers: a fresh singleton, a clock turned by hand, and servers that start when first asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgresql_server import postgresql_server
from redis_server import RedisServer, redis_cluster
from store_address import StoreAddress

from users_session_manager import MemoryStore, SessionManager
from users_session_manager import manager as manager_module


class HandClock:
    """Time that a test turns; what is due then expires on the test's own thread."""

    def __init__(self, store: Callable[..., Any] = MemoryStore) -> None:
        self.seconds = 1000.0
        self.store = store(now=lambda: self.seconds, thread=False)

    def turn(self, seconds: float) -> None:
        self.seconds += seconds
        self.store.run_due()


class Heard:
    """The events that a manager has emitted, in their order."""

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
    """Fail a run with a skipped test if CI is set: there, nothing may be missing."""
    report = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and report is not None and report.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def patient_stores() -> Iterator[None]:
    """A store waits half a minute where a test says nothing else; a busy machine may need more than the default."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (("redis", "RedisStore"), ("sql", "SQLStore")):
            with contextlib.suppress(ImportError):  # the extra may be missing
                kind = getattr(importlib.import_module(f"users_session_manager.stores.{module}"), name)
                for method in (kind.from_url.__func__, kind.__init__):
                    if "timeout" in method.__kwdefaults__:
                        patch.setitem(method.__kwdefaults__, "timeout", 30.0)
        yield


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one of the three masters of a real cluster."""
    pytest.importorskip("redis")
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as port:
        yield port


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The address of a real PostgreSQL, whose user may make databases."""
    with postgresql_server() as url:
        yield url


@pytest.fixture
def store_kind() -> str:
    """Where the sessions of `manager` are kept; a test on other stores parametrizes it."""
    return "memory"


@pytest.fixture
def any_store(store_kind: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A callable that makes a store of that kind, empty, from its options; those it makes share their sessions."""
    if store_kind == "memory":
        yield MemoryStore
        return
    if store_kind in ("sqlite", "postgresql"):
        yield request.getfixturevalue("sql_store")
        return
    redis = pytest.importorskip("redis")
    from users_session_manager.stores.redis import RedisStore

    if store_kind == "redis":
        client = redis.Redis.from_url(request.getfixturevalue("redis_url"))
    else:
        client = redis.RedisCluster("127.0.0.1", request.getfixturevalue("redis_cluster_port"))
    yield functools.partial(RedisStore, client, prefix=f"{secrets.token_hex(8)}:")
    client.close()


@pytest.fixture
def sql_url(store_kind: str, request: pytest.FixtureRequest) -> str:
    """The address of a SQLite file of the test's own, or of PostgreSQL."""
    if store_kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/sessions.db"
    pytest.importorskip("psycopg")
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def sql_store(sql_url: str) -> Iterator[Callable[..., Any]]:
    """A callable that makes a `SQLStore`; those it makes share tables of the test's own, and are closed with it."""
    from users_session_manager.stores.sql import SQLStore

    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Any:
            store = SQLStore.from_url(sql_url, **{"prefix": prefix, "timeout": 30.0, **options})
            stack.callback(store.close)
            return store

        prefix = f"t{secrets.token_hex(8)}_"
        yield make


@pytest.fixture
def address(store_kind: str, request: pytest.FixtureRequest) -> StoreAddress:
    """The address of a store of the test's own that processes share; an empty one for memory."""
    if store_kind == "memory":
        return StoreAddress("", "")
    if store_kind == "redis":
        pytest.importorskip("redis")
        return StoreAddress.new(request.getfixturevalue("redis_url"))
    return StoreAddress.new(request.getfixturevalue("sql_url"))


@pytest.fixture
def clock(any_store: Callable[..., Any]) -> HandClock:
    return HandClock(any_store)


@pytest.fixture
def manager(clock: HandClock) -> SessionManager:
    """The singleton, fresh, on a clock turned by hand."""
    return SessionManager(store=clock.store)


@pytest.fixture
def heard(manager: SessionManager) -> Heard:
    return Heard(manager)


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test: no line of the library's log at DEBUG level shows the secret of a key."""
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
