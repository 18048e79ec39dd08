"""What the tests of sessions in Redis wait for, find there and count."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT = 60
"""The seconds that a test waits for what must happen, which a busy machine may need."""
ROUNDING = 0.01
"""Two clocks of one machine may differ by this, so an announcement may come this long before its deadline."""


def eventually(condition: Callable[[], Any], timeout: float = WAIT) -> Any:
    """Return what `condition` returns once that is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, "the condition has not become true"
        time.sleep(0.02)
    return answer


def keys_under(client: Any, prefix: str) -> list[bytes]:
    return list(client.scan_iter(match=f"{prefix}2:{{*}}:*", count=1000))


def kept_sessions(client: Any, prefix: str) -> list[bytes]:
    """Return the ids of the sessions that are live, or whose end is not acknowledged."""
    sets = [key for key in keys_under(client, prefix) if key.endswith((b":due", b":ended"))]
    return [session for each in sets for session in client.zrange(each, 0, -1)]


def without_ttl(client: Any, prefix: str) -> list[bytes]:
    keys = keys_under(client, prefix)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.ttl(key)
        return [key for key, ttl in zip(keys, pipeline.execute(), strict=True) if ttl == -1]


def calls(client: Any) -> int:
    """How many calls have reached Redis that are not the tests' own."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
