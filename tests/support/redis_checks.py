"""Checks of the data and the commands in Redis."""

from __future__ import annotations

from typing import Any

ROUNDING = 0.01
"""Two clocks of one machine may differ by this, so an announcement may come this long before its deadline."""


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
