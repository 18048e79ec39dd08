"""Database: the connections of this process, and what is asked on them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import random
from typing import Any, Final, NamedTuple, TypeVar

from ...clock import LOCK, is_uwsgi_master, notice_fork, register
from ...errors import SessionError
from ..reachability import Reachability
from .engine import Engine, Rows, Statement, no_connection
from .schema import missing_statements, table_names

Answer = TypeVar("Answer")
Execute = Callable[..., Rows]

# How often a call that another transaction is in the way of asks again after it has let other processes run. Most
# transactions are over by then, and a sleep would take longer.
_YIELDS: Final = 10
# By how much longer it waits each time after that, and how long at most, in seconds.
_PAUSE: Final = 0.0002
_MAX_PAUSE: Final = 0.01
# How long a fork waits for the calls that are under way, in seconds.
_FORK_TIMEOUT: Final = 2.0

# Connections that were in use when this process was forked. They are kept, since closing one would speak to the server,
# or release the locks of the parent.
_kept: Final[list[Any]] = []

# The errors of a database that has no more connections for this process.
_CONNECTING: Final = "connect"

_UNKNOWN: Final = object()
_let_others_run: Final = getattr(os, "sched_yield", partial(time.sleep, 0))  # Windows has the second one alone
_COMMIT: Final = Statement("COMMIT", ())


class _Connection(NamedTuple):
    raw: Any
    identity: object  # of the database that it is connected to
    generation: int


class _FailedError(Exception):
    """An exception of the driver, and whether a repetition on a new connection may help."""

    def __init__(
        self, failure: Exception, *, is_busy: bool = False, may_repeat: bool = False, refused: str | None = None
    ) -> None:
        super().__init__(failure)
        self.failure = failure
        self.is_busy = is_busy
        self.may_repeat = may_repeat
        self.refused = refused  # what was refused, as `Reachability` says it, if it was not the call itself


class Database:
    """Asks a SQL database, on connections that one call uses at a time.

    Whatever goes wrong on the way is `StoreUnavailable`, after at most `timeout` seconds. A call is repeated where
    another transaction was in the way, and once where its connection was lost before anything was committed. The
    tables are made, or upgraded, with the first connection of a process.

    Args:
        find_engine: Returns the engine.
        prefix: What the names of all tables begin with.
        timeout: How many seconds a call may take.
        connections: How many connections there are at most; a call waits for one.

    Threads: any thread may call any method. A fork waits for the calls that are under way, since a lock inside of a
    driver would stay closed in the child, and closes all connections. Otherwise SQLite would believe in the child that
    it has locked a file that only the parent has, and PostgreSQL would not notice that the parent has died.
    """

    def __init__(self, find_engine: Callable[[], Engine], prefix: str, timeout: float, connections: int) -> None:
        self.reachability = Reachability("The database of the sessions")
        self._find_engine = find_engine
        self.engine: Engine | None = None  # that of a callable is known once it has returned a connection
        self._prefix = prefix
        self._tables = table_names(prefix)
        self._timeout = timeout
        self._connections = connections
        self._statements: dict[str, Statement] = {}
        self._generation = 0  # how often all connections were closed
        self._reset()
        register(self)
        _databases.add(self)

    def _reset(self) -> None:
        # Guards the two below. Re-entrant, since a signal handler or a finalizer may call at any moment.
        self._changed = threading.Condition()
        self._in_use = 0  # connections
        self._is_forking = False
        # Held by the thread that asks again while another transaction is in the way. Many such threads would keep the
        # interpreter from the one that is writing, which needs it to commit.
        self._waiting = threading.RLock()
        self._idle: list[_Connection] = []
        self._open: dict[int, Any] = {}  # all connections of this process, by their `id`
        self._database_with_tables: object = _UNKNOWN  # the identity of that in which they were seen

    def _after_fork_in_child(self) -> None:
        _kept.append(self._open)
        self._reset()

    @property
    def _engine(self) -> Engine:
        if self.engine is None:
            found = self._find_engine()
            with LOCK:
                self.engine = self.engine or found  # one for all threads
        return self.engine

    def run(self, operation: str, statement: str, /, **params: Any) -> Rows:
        """Execute one statement, which may be repeated; return its rows.

        Args:
            operation: What it does, for the log.
            statement: The statement, as `Engine` describes.
            params: Its parameters.
        """
        return self._perform(operation, lambda execute: execute(statement, **params), begins=False)

    def transaction(self, operation: str, work: Callable[[Execute], Answer]) -> Answer:
        """Return what `work(execute)` returns, whose statements are one transaction. It may be called again."""
        return self._perform(operation, work, begins=True)

    def lock_user(self, execute: Execute, user_id: str) -> None:
        """Let no other process sign that user in until the end of this transaction."""
        self._engine.lock_user(execute.args[0], user_id)  # type: ignore[attr-defined]

    def tidy(self) -> None:
        """Copy a long log, which a request would have to do otherwise."""
        if self._engine.has_long_log():
            self._perform("tidy", lambda execute: self._engine.copy_log(execute.args[0]), begins=False)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close all connections, those in use later; the next call opens new ones."""
        with LOCK:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            self._close(connection)

    def _perform(self, operation: str, work: Callable[[Execute], Answer], *, begins: bool) -> Answer:
        notice_fork()
        asked_at, was_lost = time.monotonic(), False
        until = asked_at + self._timeout
        while True:
            try:
                answer = self._attempt(work, until, begins=begins)
                break
            except _FailedError as failed:
                failure = failed.failure
                if failed.is_busy and time.monotonic() < until:
                    time.sleep(_MAX_PAUSE * random())  # noqa: S311  # no secret
                elif failed.may_repeat and not was_lost and time.monotonic() < until:
                    was_lost = True
                else:
                    refused = operation if failed.refused is None else failed.refused
                    raise self.reachability.failed(failure, asked_at, refused) from failure
        self.reachability.answered(operation)
        return answer

    def _attempt(self, work: Callable[[Execute], Answer], until: float, *, begins: bool) -> Answer:
        """Work on one connection, again and again while other transactions are in the way."""
        connection, is_new = self._take(until)
        engine, raw = self._engine, connection.raw
        engine.limit(raw, until)
        try:
            try:
                answer = self._work(raw, work, begins=begins)
            except _FailedError as failed:
                if not self._may_repeat(raw, failed, until):
                    raise
                answer = self._work_later(raw, work, until, begins=begins)
        except _FailedError as failed:
            self._give_back(connection, is_good=failed.is_busy and engine.is_idle(raw))
            if not failed.is_busy:
                self._forget_all()
            is_lost = connection.identity != engine.identity() or (not is_new and engine.is_lost(failed.failure))
            failed.may_repeat = failed.may_repeat and is_lost
            raise
        except BaseException:
            self._give_back(connection, is_good=False)
            raise
        self._give_back(connection, is_good=True)
        if is_new:
            self.reachability.answered(_CONNECTING)
        return answer

    def _work_later(self, raw: Any, work: Callable[[Execute], Answer], until: float, *, begins: bool) -> Answer:
        """Ask again until nothing is in the way, one thread at a time."""
        tries, is_held = 0, self._waiting.acquire(timeout=max(0.0, until - time.monotonic()))
        try:
            while True:
                tries += 1
                _wait_after(tries)
                try:
                    return self._work(raw, work, begins=begins)
                except _FailedError as failed:
                    if not self._may_repeat(raw, failed, until):
                        raise
        finally:
            if is_held:
                self._waiting.release()

    def _may_repeat(self, raw: Any, failed: _FailedError, until: float) -> bool:
        """Return whether another transaction was in the way, and this call may ask again on its connection."""
        return failed.is_busy and not self._is_forking and self._engine.is_idle(raw) and time.monotonic() <= until

    def _work(self, raw: Any, work: Callable[[Execute], Answer], *, begins: bool) -> Answer:
        engine, is_committing = self._engine, False
        try:
            if begins:
                engine.execute(raw, engine.begin, {})
            answer = work(partial(self._execute, raw))
            if begins:
                is_committing = True
                engine.execute(raw, _COMMIT, {})
        except engine.errors as failure:
            is_busy = not is_committing and engine.is_busy(failure)
            raise _FailedError(failure, is_busy=is_busy, may_repeat=not is_committing) from failure
        return answer

    def _execute(self, raw: Any, statement: str, **params: Any) -> Rows:
        translated = self._statements.get(statement)
        if translated is None:
            translated = self._statements[statement] = self._engine.translate(statement, self._tables)
        return self._engine.execute(raw, translated, params)

    # Connections

    def _wait_for_turn(self, until: float) -> None:
        with self._changed:
            left = max(0.0, until - time.monotonic())
            if not (self._may_take() or self._changed.wait_for(self._may_take, left)):
                raise _FailedError(
                    TimeoutError(
                        f"all {self._connections} connections of this process are in use; "
                        "give the store a higher number of `connections`"
                    )
                )
            self._in_use += 1

    def _may_take(self) -> bool:
        return self._in_use < self._connections and not self._is_forking

    def _end_turn(self) -> None:
        with self._changed:
            self._in_use -= 1
            if self._is_forking or self._in_use == self._connections - 1:  # else nothing waits
                self._changed.notify_all()

    def _take(self, until: float) -> tuple[_Connection, bool]:
        """Return a connection that is not in use, and whether it is new."""
        self._wait_for_turn(until)
        stale, identity = list[_Connection](), None
        try:
            identity = self._engine.identity()
            while self._idle:
                try:
                    connection = self._idle.pop()
                except IndexError:  # another thread was faster
                    break
                if connection.identity == identity:
                    return connection, False
                stale.append(connection)
                self._database_with_tables = _UNKNOWN
            connection = self._connect(until)
        except Exception as failure:  # also whatever a callable raises
            self._end_turn()
            engine = self.engine
            is_busy = engine is not None and (engine.is_busy(failure) or engine.identity() != identity)
            raise _FailedError(failure, is_busy=is_busy, refused=_CONNECTING if self._open else "") from failure
        except BaseException:
            self._end_turn()
            raise
        finally:  # not earlier: a new file would have the number of the one that is closed
            for each in stale:
                self._close(each)
        return connection, True

    def _connect(self, until: float) -> _Connection:
        before, generation = self._engine.identity(), self._generation
        raw = self._engine.open(self._timeout, until, self._open)
        try:
            identity = self._engine.identity() if before is None else before
            if self._database_with_tables != identity:
                self._make_tables(raw)
                self._database_with_tables = identity
        except BaseException:
            raw.close()
            raise
        self._open[id(raw)] = raw
        return _Connection(raw, identity, generation)

    def _make_tables(self, raw: Any) -> None:
        engine = self._engine

        def execute(text: str) -> Rows:
            return engine.execute(raw, Statement(text, ()), {})

        def missing() -> list[str]:
            has_tables = engine.has_tables(raw, self._prefix)
            return missing_statements(engine.name, self._prefix, execute, has_tables=has_tables)

        try:
            if not missing():  # without a lock, which could not be had while the database can only be read
                return
            engine.execute(raw, engine.begin, {})
            engine.lock_schema(raw)
            for statement in missing():
                execute(statement)
            engine.execute(raw, _COMMIT, {})
        except engine.errors as failure:
            if not engine.is_forbidden(failure):
                raise
            raise SessionError(
                f"this user of the database may not make the tables of sessions ({failure}): let its owner execute "
                f"what `python -m users_session_manager.stores.sql {engine.name}` prints, and grant SELECT, "
                f"INSERT, UPDATE and DELETE on the tables {self._prefix}…, see docs/how-to/several-workers.md"
            ) from failure

    def _give_back(self, connection: _Connection, *, is_good: bool) -> None:
        # The master of uWSGI forks without a hook.
        if is_good and connection.generation == self._generation and not is_uwsgi_master():
            self._idle.append(connection)
        else:
            self._close(connection)
        self._end_turn()

    def _forget_all(self) -> None:
        """Begin anew after a failure: other connections may be lost as well, and tables may be gone."""
        self._database_with_tables = _UNKNOWN
        self.close()

    def _close(self, connection: _Connection) -> None:
        self._open.pop(id(connection.raw), None)
        with suppress(*self._engine.errors):
            connection.raw.close()

    # Forks

    def _hold(self) -> None:
        with self._changed:
            self._is_forking = True  # before it waits: busy threads would leave it no connection
            self._changed.wait_for(lambda: not self._in_use, _FORK_TIMEOUT)
        self.close()

    def _release(self) -> None:
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()


def _wait_after(tries: int) -> None:
    """Give a transaction that was in the way so many times the time to end."""
    if tries <= _YIELDS:
        _let_others_run()
    else:
        time.sleep(min(_PAUSE * (tries - _YIELDS), _MAX_PAUSE) * random())  # noqa: S311  # no secret


_databases: Final[weakref.WeakSet[Database]] = weakref.WeakSet()
_fork_lock = threading.Lock()


def _before_fork() -> None:
    _fork_lock.acquire()
    for database in [*_databases]:
        database._hold()


def _after_fork_in_parent() -> None:
    for database in [*_databases]:
        database._release()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    _fork_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def engine_of(connect: Callable[[], Any], now: Callable[[], float] | None) -> Engine:
    """Return the engine for what a callable returns.

    Raises:
        SessionError: It is neither a connection of `sqlite3` nor one of psycopg 3.
    """
    connection = connect()
    modules = {base.__module__.partition(".")[0] for base in type(connection).__mro__}
    if modules & {"sqlite3", "_sqlite3"}:
        from .sqlite import SQLiteEngine as Found
    elif "psycopg" in modules:
        from .postgresql import PostgreSQLEngine as Found  # type: ignore[assignment]
    else:
        raise SessionError(no_connection(connection))
    engine = Found(connect, now)
    engine.check(connection, {})
    with suppress(*engine.errors):  # it may be for another thread alone, which `open` says
        connection.close()
    return engine
