"""Where processes keep the sessions that they share, and what a test finds there."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, NamedTuple

from redis_checks import kept_sessions, without_ttl

from users_session_manager.stores import store_class
from users_session_manager.stores.base import Store


class StoreAddress(NamedTuple):
    """An address, and what the names of all keys or tables begin with."""

    url: str
    prefix: str

    @classmethod
    def new(cls, url: str) -> StoreAddress:
        """Return one for an empty store."""
        return cls(url, f"{secrets.token_hex(8)}:" if url.startswith("redis") else f"t{secrets.token_hex(8)}_")

    def open(self, **options: Any) -> Store:
        store: Store = store_class(self.url).from_url(self.url, prefix=self.prefix, **options)
        return store

    def kept(self) -> int:
        """Return how many sessions are live, or have an end that is not acknowledged."""
        if self.url.startswith("redis"):
            return len(self._ask_redis(kept_sessions))
        return int(self.query("SELECT count(*) FROM {sessions} WHERE announced_at IS NULL")[0][0])

    def faults(self) -> list[Any]:
        """Return what no process may leave behind, whenever it is killed."""
        if self.url.startswith("redis"):
            return self._ask_redis(without_ttl)
        orphans = "SELECT session_id FROM {former_keys} WHERE session_id NOT IN (SELECT id FROM {sessions})"
        damages = self.query("PRAGMA integrity_check") if self.url.startswith("sqlite") else []
        return [*self.query(orphans), *(damage for damage in damages if damage != ("ok",))]

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of a SQL database, in which the tables have their names in braces."""
        tables = {name: self.prefix + name for name in ("sessions", "former_keys", "notices", "state")}
        with contextlib.closing(self.connect()) as connection:
            return connection.execute(text.format_map(tables)).fetchall()  # type: ignore[no-any-return]

    def connect(self) -> Any:
        """Return a connection to a SQL database."""
        if self.url.startswith("sqlite"):
            import sqlite3

            return sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None, timeout=60)
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def _ask_redis(self, question: Any) -> list[bytes]:
        import redis

        with redis.Redis.from_url(self.url) as client:
            return question(client, self.prefix)  # type: ignore[no-any-return]
