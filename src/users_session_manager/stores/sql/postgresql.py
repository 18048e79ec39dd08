"""PostgreSQLEngine: a PostgreSQL that processes and machines share, by psycopg 3."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar, Final

from ...errors import MissingDependency, SessionError
from .engine import Engine, Rows, Statement

try:
    import psycopg
    from psycopg import errors
    from psycopg.pq import TransactionStatus
    from psycopg.rows import tuple_row
except ImportError as missing:
    raise MissingDependency("psycopg", "postgresql") from missing

_CLOCK: Final = "date_part('epoch', clock_timestamp())"
_PARAM: Final = re.compile(r"(?<![:\w]):(\w+)")


class PostgreSQLEngine(Engine):
    """Opens connections to a PostgreSQL, on which each call takes a bounded time."""

    name = "postgresql"
    kind = psycopg.Connection
    # A statement outside of a transaction may be lost if the server crashes: see `open`.
    begin = Statement("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO DEFAULT", ())
    errors = (psycopg.Error,)
    words: ClassVar[Mapping[str, str]] = {
        "now": _CLOCK,
        "unix": _CLOCK,
        "least": "least",
        "good_until": "(former::json -> :digest::text ->> 0)::float8",
        "in_ids": "= ANY(:ids::bigint[])",
        "lock": "FOR UPDATE",
        "lock_free": "FOR UPDATE SKIP LOCKED",
    }

    def __init__(self, connect: Callable[[], Any], now: Callable[[], float] | None) -> None:
        super().__init__(connect, now)
        if "timeout" not in signature(psycopg.Connection.wait).parameters:
            raise SessionError(
                f"psycopg {psycopg.__version__} is too old for sessions: pip install 'psycopg[binary]>=3.3.6', see "
                "docs/how-to/several-workers.md"
            )

    @classmethod
    def from_url(cls, url: str, now: Callable[[], float] | None, timeout: float) -> PostgreSQLEngine:
        """Return the engine for the address of a PostgreSQL, with what libpq accepts there.

        Raises:
            ValueError: libpq does not accept it.
        """
        options = {"connect_timeout": max(2, round(timeout)), "application_name": "users-session-manager"}
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            given = None
        if given is None or not url.startswith(("postgresql://", "postgres://")):  # its text would show the password
            raise ValueError(
                "the address of a PostgreSQL must be postgresql://user:password@host:port/database, as libpq accepts "
                "it: percent-encode special characters in the user and the password"
            )
        return cls(lambda: psycopg.connect(url, **{**options, **given}), now)  # type: ignore[arg-type]

    def open(self, seconds: float, until: float, known: Mapping[int, Any]) -> Any:
        connection = self.open_raw()
        self.check(connection, known)
        try:
            connection.wait = _BoundedWait(connection.wait, until)
            # One for all calls: it reads no statement, and knows how the values of each are passed.
            connection.sessions_cursor = psycopg.RawCursor(connection, row_factory=tuple_row)
            connection.commit()  # the callable may have begun a transaction
            connection.autocommit = True
            backend, is_standby = self._ask(connection, "SELECT pg_backend_pid(), pg_is_in_recovery()")
            if backend == connection.info.backend_pid:  # else a pooler would pass the settings on to others
                # The server gives up as well: a statement that waits for a lock would keep its connection, and a
                # process that was stopped its locks.
                limit = max(1, round(seconds * 1000))
                connection.execute(
                    f"SET synchronous_commit = off; SET statement_timeout = {limit}; "
                    f"SET idle_in_transaction_session_timeout = {limit}"
                )
            if is_standby:
                raise psycopg.OperationalError(
                    "this server is a standby, which may not know the present sessions: name the primary"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self, connection: Any, known: Mapping[int, Any]) -> None:
        super().check(connection, known)
        if connection.closed:
            raise SessionError(
                "connect has returned a closed connection: it must return a new one each time, see "
                "docs/how-to/several-workers.md"
            )

    def limit(self, connection: Any, until: float) -> None:
        connection.wait.until = until

    def translate(self, statement: str, tables: Mapping[str, str]) -> Statement:
        now = {} if self._now is None else {"now": ":now::float8"}
        text, _ = super().translate(statement, {**tables, **now})
        names = [*dict.fromkeys(_PARAM.findall(text))]
        # As bytes, which psycopg would make of it in each call.
        return Statement(_PARAM.sub(lambda found: f"${names.index(found[1]) + 1}", text).encode(), names)

    def execute(self, connection: Any, statement: Statement, params: Mapping[str, Any]) -> Rows:
        text, names = statement
        values = params if self._now is None else {**params, "now": self._now()}
        cursor = connection.sessions_cursor
        if names:
            cursor.execute(text, [values[name] for name in names], binary=True)
        else:  # it may be several
            cursor.execute(text, prepare=False)
        return cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []

    def is_idle(self, connection: Any) -> bool:
        return connection.info.transaction_status == TransactionStatus.IDLE  # type: ignore[no-any-return]

    def is_busy(self, failure: Exception) -> bool:
        return isinstance(failure, (errors.SerializationFailure, errors.DeadlockDetected))

    def is_lost(self, failure: Exception) -> bool:
        kinds = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)
        return isinstance(failure, kinds)

    def is_forbidden(self, failure: Exception) -> bool:
        return isinstance(failure, errors.InsufficientPrivilege)

    def has_tables(self, connection: Any, prefix: str) -> bool:
        # Not by `to_regclass`: a transaction keeps its answer, though another one makes the tables in between.
        select = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = :name::text AND pg_table_is_visible(oid)"
        (found,) = self._ask(connection, select, name=f"{prefix}schema")
        return bool(found)

    def lock_schema(self, connection: Any) -> None:
        self.lock_user(connection, "")  # no user id is empty

    def lock_user(self, connection: Any, user_id: str) -> None:
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('users-session-manager:' || :user_id::text, 0))"
        self._ask(connection, lock, user_id=user_id)

    def _ask(self, connection: Any, question: str, **params: str) -> Any:
        return self.execute(connection, self.translate(question, {}), params)[0]


class _BoundedWait:
    """Waits for the answers of a connection until a time, by `time.monotonic()`: psycopg would wait for ever."""

    def __init__(self, wait: Callable[..., Any], until: float) -> None:
        self._wait = wait
        self.until = until

    def __call__(self, *args: Any, **options: Any) -> Any:
        left = self.until - time.monotonic()
        return self._wait(*args, **{**options, "timeout": max(0.0, left)})
