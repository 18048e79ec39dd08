"""A prefix, a client and a Redis of a test's own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Processes
from redis_server import RedisServer
from store_address import StoreAddress


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(8)}:"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """A callable that starts a redis-server of this test alone, with the options it is given."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path, *options)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def processes(address: StoreAddress, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(address, tmp_path)
    yield processes
    processes.stop()
