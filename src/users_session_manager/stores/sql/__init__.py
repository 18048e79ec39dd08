"""SQLStore: sessions in a SQLite file or in PostgreSQL, shared by any number of processes."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import urandom
from typing import Any, Final

from ...clock import LOCK
from ...errors import SessionError, StoreUnavailable, TooManySessions
from ...keys import is_key, new_key
from ...policy import OwnLimits, Policy, require_seconds
from ...session import Session
from ..base import MAX_FORMER_KEYS, NO_LIMITS, NOT_OWN, Notice
from ..encoding import digest_of
from ..expiry import Claim, SharedSession
from ..shared import SharedStore
from .claims import BATCH_SIZE, Claimer
from .database import Database, Execute, engine_of
from .engine import Engine, Rows
from .notices import NoticeLog, send
from .records import ALL_COLUMNS, COLUMNS, Row, as_text, encode_text, ended_session, former_keys, live_session
from .schema import DEFAULT_PREFIX

# How many sessions one call lists.
LIST_PAGE_SIZE: Final = 500

_PREFIX: Final = re.compile("[a-z_][a-z0-9_]{0,39}")

# The live session of the key with that digest, if it is its present key or a former one in its overlap. Everything is
# asked of the row itself, so that a transaction that had to wait sees what the one before it has changed.
_FOUND: Final = """
    id = coalesce(
        (SELECT id FROM {sessions} WHERE digest = :digest AND reason IS NULL),
        (SELECT session_id FROM {former_keys} WHERE digest = :digest)
    )
    AND reason IS NULL AND deadline > {now} AND (digest = :digest OR {good_until} > {now})"""
_LIVE: Final = "reason IS NULL AND deadline > {now}"
_SAME_DEADLINE: Final = "{least}({now} + coalesce(timeout, :timeout), ends_at)"
_NEW_END: Final = "{least}(ends_at, started_at + :lifetime)"
_NEW_DEADLINE: Final = "{least}({now} + coalesce(timeout, :timeout), " + _NEW_END + ")"

# A restart that moves no deadline goes on with the same countdown.
_NEW_WARNING: Final = (
    f"CASE WHEN :warning > 0 AND warning > 0 AND deadline = {_NEW_DEADLINE} THEN warning ELSE :warning END"
)

GET: Final = f"SELECT {COLUMNS} FROM {{sessions}} WHERE {_FOUND}"
# Nearly all restarts: by the present key, with the settings of the restart before, and nothing has to look at the
# session earlier. This changes no index; SQLite writes each index that has a column of the statement.
RESTART: Final = f"""
    UPDATE {{sessions}} SET deadline = {_SAME_DEADLINE}
    WHERE digest = :digest AND {_LIVE} AND ends_at <= started_at + :lifetime AND warning = :warning
    AND look_at <= {_SAME_DEADLINE} - warning
    RETURNING {COLUMNS}"""
RESTART_ANY: Final = f"""
    UPDATE {{sessions}} SET
        ends_at = {_NEW_END}, deadline = {_NEW_DEADLINE},
        warning = {_NEW_WARNING}, warned = CASE WHEN :warning > 0 THEN warned END,
        look_at = {{least}}(
            look_at, {_NEW_DEADLINE} - CASE WHEN warned = {_NEW_DEADLINE} THEN 0 ELSE {_NEW_WARNING} END
        )
    WHERE {_FOUND} RETURNING {COLUMNS}"""
INSERT: Final = """
    INSERT INTO {sessions} (
        digest, key, username, user_id, stamp, created_at, started_at,
        deadline, look_at, ends_at, timeout, warning, data
    ) VALUES (
        :digest, :key, :username, :user_id, :stamp, {unix}, {now} + :starts_in,
        {now} + :seconds, {now} + :seconds - :warning, {now} + :lifetime, :timeout, :warning, :data
    ) RETURNING id"""
END: Final = f"""
    UPDATE {{sessions}} SET reason = :reason, look_at = {{now}} + :lease, operation = :operation
    WHERE %s RETURNING {COLUMNS}"""
END_ONE: Final = END % _FOUND
END_SEVERAL: Final = END % "id {in_ids} AND reason IS NULL"


class SQLStore(SharedStore):
    """Keeps sessions in a SQLite file, for the processes of one machine, or in PostgreSQL, for those of any number.

    Args:
        connect: Returns a new connection of `sqlite3` or of psycopg 3, each time it is called. Not one of a pool: each
            process, a forked one too, closes its own.
        prefix: What the names of all tables begin with, lowercase letters, digits and underscores;
            `"users_session_manager_"` by default.
        timeout: How many seconds a call may take, 2.0 by default; after that it is `StoreUnavailable`.
        connections: How many connections a process opens at most, 10 by default; further calls wait for one.
        lease: Seconds that a process has to announce the end of a session before another does; 30.0 by default.
        max_data: Bytes that the data of a session may have as JSON; 1 MiB by default.
        max_username: Characters that a username, a user id and a security stamp may have; 1,000 by default.
        now: The time that deadlines are measured in, in seconds; by default the clock of the PostgreSQL server, or that
            of the machine for SQLite. Tests pass one that they turn, with `thread=False`, and call `run_due()`.
        thread: Whether threads let sessions expire.

    The first call of a process makes the tables, or upgrades those of an earlier version; `python -m
    users_session_manager.stores.sql` prints them. An operation on one session is one transaction; a restart and a read
    are one statement. Listing more than 500 sessions and ending more than a hundred takes several. `data` is stored as
    JSON: tuples come back as lists; what JSON cannot hold, or would change, is a `TypeError`.

    A login, a renewal and an end are as durable as the database makes a commit. A restart on PostgreSQL is committed
    with `synchronous_commit = off`: a crash of the server loses at most that a session was prolonged.

    Ends: as in `RedisStore`, one of the processes that serve and listen announces each, under a lease. Notices: each
    process that serves and has clients looks for them five times per second.

    Threads: any thread may call any method. A forked child has its own threads and connections.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        prefix: str = DEFAULT_PREFIX,
        timeout: float = 2.0,
        connections: int = 10,
        lease: float = 30.0,
        max_data: int = 1024 * 1024,
        max_username: int = 1000,
        now: Callable[[], float] | None = None,
        thread: bool = True,
    ) -> None:
        if not callable(connect):
            raise TypeError(f"connect must be callable, got a {type(connect).__name__}")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix must have 1 to 40 lowercase letters, digits and underscores, got {prefix!r}")
        require_seconds("timeout", timeout)
        if not isinstance(connections, int) or isinstance(connections, bool) or connections < 2:
            raise ValueError(f"connections must be an int of at least 2, got {connections!r}")
        super().__init__(lease, max_data, max_username, now, thread=thread)
        self._prefix = prefix
        self._database = Database(partial(engine_of, connect, now), prefix, timeout, connections)
        self._claimer = Claimer(self._database)

    @classmethod
    def from_url(
        cls, url: str, *, timeout: float = 2.0, now: Callable[[], float] | None = None, **options: Any
    ) -> SQLStore:
        """Return a store in the database at an address.

        Args:
            url: `sqlite:///relative.db` or `sqlite:////absolute.db`: the file is made with mode 0600 if it is not
                there. Or `postgresql://user:password@host/database`, with what libpq accepts there.
            timeout, now, options: Those of the class.

        Raises:
            ValueError: `url` is no such address.
            MissingDependency: It is that of a PostgreSQL, and psycopg is not installed.
            SessionError: The SQLite of this Python is too old.
        """
        engine: Engine
        if url.startswith("sqlite:"):
            from .sqlite import SQLiteEngine

            engine = SQLiteEngine.from_url(url, now)
        else:
            from .postgresql import PostgreSQLEngine

            engine = PostgreSQLEngine.from_url(url, now, timeout)
        store = cls(engine.open_raw, timeout=timeout, now=now, **options)
        store._database.engine = engine
        return store

    def __repr__(self) -> str:
        return f"<SQLStore {self._prefix!r}>"

    def _reset(self) -> None:
        super()._reset()
        self._interrupted = threading.Event()  # a thread of the parent may have held its lock

    # One session

    def add(
        self,
        username: str,
        timeout: float,
        policy: Policy = NO_LIMITS,
        data: Any = None,
        own: OwnLimits = NOT_OWN,
        user_id: str | None = None,
        security_stamp: str | None = None,
    ) -> tuple[str, Sequence[Session]]:
        encoded, name = self._limits.encode_data(data), encode_text(self._limits.check_text("a username", username))
        user = name if user_id is None else encode_text(self._limits.check_text("a user id", user_id))
        stamp = self._encode_stamp(security_stamp)
        if self._closed:
            raise SessionError(
                "this SessionManager is closed: call SessionManager() for another one, see docs/reference/errors.md"
            )
        self.serve()
        key, lease = new_key(), self._own_lease()
        idle, lifetime = own.timeout or timeout, own.lifetime or policy.lifetime or math.inf
        values: dict[str, Any] = {"digest": digest_of(key), "key": key, "username": name, "user_id": user}
        values |= {"stamp": stamp, "data": encoded, "timeout": own.timeout, "warning": float(policy.warning or 0)}
        values |= {"seconds": float(min(idle, lifetime)), "lifetime": float(lifetime)}
        values["starts_in"] = math.inf if own.lifetime else 0.0
        evicted = self._taken_out(self._add(username, user, policy, lease, values), lease)
        self._poll_in_time(idle, policy)
        return key, evicted

    def _add(
        self, username: str, user: str, policy: Policy, lease: float, values: dict[str, Any]
    ) -> Iterator[list[SharedSession]]:
        """Add a session; yield what had to make room for it, page by page."""

        def add(execute: Execute, operation: str) -> tuple[str, Any]:
            surplus = self._surplus(execute, user, policy)
            if surplus and policy.overflow == "reject":
                return "full", len(surplus) + policy.max_sessions - 1  # type: ignore[operator]
            rows = self._end_several(execute, surplus[:BATCH_SIZE], operation, lease, "evicted")
            if len(surplus) > BATCH_SIZE:
                return "again", rows
            ((session_id,),) = execute(INSERT, **values)
            send(execute, [Notice("created", session_id, None)])
            return "added", rows

        outcome = "again"
        while outcome == "again":
            outcome, answer = self._take("add", add)
            if outcome == "full":
                raise TooManySessions(
                    f"{username!r} has {answer} sessions, and may have {policy.max_sessions}: let the user sign out "
                    "elsewhere first, see docs/guide.md"
                )
            yield self._ended_of(answer)

    def _surplus(self, execute: Execute, user: str, policy: Policy) -> list[int]:
        """Return the sessions of a user that have to make room for one more, oldest first."""
        if policy.max_sessions is None:
            return []
        self._database.lock_user(execute, user)
        found = execute(f"SELECT id FROM {{sessions}} WHERE user_id = :user_id AND {_LIVE} ORDER BY id", user_id=user)
        return [session_id for (session_id,) in found[: max(0, len(found) - policy.max_sessions + 1)]]

    def get(self, key: object) -> SharedSession | None:
        return self._one("get", key, [GET])

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SharedSession | None:
        self.serve()
        lifetime = math.inf if policy.lifetime is None else float(policy.lifetime)
        limits = {"timeout": float(timeout), "lifetime": lifetime, "warning": float(policy.warning or 0)}
        session = self._one("restart", key, [RESTART, RESTART_ANY], **limits)
        if session is not None and session._snapshot.left <= 0:
            session = None
        self._restarted(session, policy)
        return session

    def renew_key(self, key: object, overlap: float, security_stamp: str | None = None) -> tuple[str, str, Any] | None:
        stamp, new = self._encode_stamp(security_stamp), new_key()
        if not self._may_ask(key):
            return None

        def renew(execute: Execute) -> tuple[str, str, Any] | None:
            found = execute(f"{GET} {{lock}}", digest=digest_of(str(key)))
            if not found:
                return None
            row = Row(*found[0])
            former, dropped = _renewed_former(row, row.now + overlap)
            execute(
                "UPDATE {sessions} SET digest = :digest, key = :key, former = :former, authenticated_at = {unix}, "
                "stamp = coalesce(:stamp, stamp) WHERE id = :id",
                digest=digest_of(new),
                key=new,
                former=json.dumps(former),
                stamp=stamp,
                id=row.id,
            )
            for digest in dropped:
                execute("DELETE FROM {former_keys} WHERE digest = :digest", digest=digest)
            if overlap:
                insert = "INSERT INTO {former_keys} (digest, session_id) VALUES (:digest, :id)"
                execute(insert, digest=row.digest, id=row.id)
            send(execute, [Notice("renewed", row.id, None)])
            return row.key, new, row.id

        return self._database.transaction("renew_key", renew)

    def set_data(self, key: object, data: Any) -> bool:
        return self._set(key, "data = :data", data=self._limits.encode_data(data))

    def set_stamp(self, key: object, security_stamp: str) -> bool:
        return self._set(key, "stamp = :stamp", stamp=self._encode_stamp(security_stamp))

    def _set(self, key: object, change: str, **values: Any) -> bool:
        statement = f"UPDATE {{sessions}} SET {change} WHERE {_FOUND} RETURNING id"
        return self._may_ask(key) and bool(self._durably("set", statement, digest=digest_of(str(key)), **values))

    def _replace_data(self, key: object, before: SharedSession, data: str) -> bool | None:
        values = {"digest": digest_of(str(key)), "data": data, "before": before._snapshot.data}
        statement = f"UPDATE {{sessions}} SET data = :data WHERE data = :before AND {_FOUND} RETURNING id"
        return True if self._durably("update_data", statement, **values) else None

    def _encode_stamp(self, stamp: str | None) -> str | None:
        return None if stamp is None else encode_text(self._limits.check_text("a security stamp", stamp))

    def remove(self, key: object, kind: str = "deleted") -> Session | None:
        lease = self._own_lease()

        def remove(execute: Execute, operation: str) -> list[Row]:
            values = {"digest": digest_of(str(key)), "reason": "deleted", "lease": lease, "operation": operation}
            rows = [Row(*row) for row in execute(END_ONE, **values)]
            send(execute, [Notice(kind, row.id, None, None, "deleted") for row in rows])  # type: ignore[arg-type]
            return rows

        if not self._may_ask(key):
            return None
        ended = self._taken_out([self._ended_of(self._take("remove", remove))], lease)
        return ended[0] if ended else None

    # Several

    def of_user(self, user_id: str) -> list[tuple[Session, float]]:
        where, user = f"user_id = :user_id AND {_LIVE}", encode_text(user_id)
        found = [session for page in self._pages(where, user_id=user) for session in page]
        return [(session, session._snapshot.left) for session in found]

    def remove_user(self, user_id: str, except_key: object = None) -> list[Session]:
        spared = self.get(except_key)
        where = f"user_id = :user_id AND {_LIVE} AND id <> :spared"
        return [*self._end_all(where, user_id=encode_text(user_id), spared=0 if spared is None else spared._id)]

    def clear(self, *, silent: bool = False) -> list[Session]:
        return [*(self._forget_all() if silent else self._end_all(_LIVE))]

    def _end_all(self, where: str, **values: Any) -> list[SharedSession]:
        """End all sessions of a condition, page by page, and return them in the order of creation."""
        lease, last = self._own_lease(), 0

        def end(execute: Execute, operation: str) -> tuple[list[int], list[Row]]:
            select = f"SELECT id FROM {{sessions}} WHERE {where} AND id > :after ORDER BY id LIMIT :most {{lock}}"
            ids = [each for (each,) in execute(select, after=last, most=BATCH_SIZE, **values)]
            return ids, self._end_several(execute, ids, operation, lease, "deleted")

        def pages() -> Iterator[list[SharedSession]]:
            nonlocal last
            is_over = self._closed
            while not is_over:
                ids, rows = self._take("remove", end)
                yield self._ended_of(rows)
                is_over, last = len(ids) < BATCH_SIZE, ids[-1] if ids else last

        return self._taken_out(pages(), lease)

    def _end_several(
        self, execute: Execute, ids: Sequence[int], operation: str, lease: float, reason: Any
    ) -> list[Row]:
        """End these sessions in a transaction; return them in the order of creation."""
        if not ids:
            return []
        found = execute(END_SEVERAL, ids=ids, reason=reason, lease=lease, operation=operation)
        rows = sorted(Row(*row) for row in found)
        send(execute, [Notice("ended", row.id, None, None, reason) for row in rows])
        return rows

    def _forget_all(self) -> list[SharedSession]:
        """Delete all sessions that are not announced; return them."""
        sessions: list[SharedSession] = []
        delete = (
            "DELETE FROM {sessions} WHERE id IN (SELECT id FROM {sessions} WHERE announced_at IS NULL ORDER BY id "
            f"LIMIT :most) RETURNING {COLUMNS}"
        )
        is_over = self._closed
        while not is_over:
            rows = sorted(Row(*row) for row in self._durably("clear", delete, most=BATCH_SIZE))
            sessions += self._ended_of([row for row in rows if row.reason is None])
            is_over = len(rows) < BATCH_SIZE
        return sessions

    def find(self, session_ids: Sequence[int]) -> list[Session | None]:
        found: dict[int, Session | None] = {}
        for rows in self._rows_of(session_ids, f"SELECT {COLUMNS} FROM {{sessions}} WHERE id {{in_ids}} AND {_LIVE}"):
            found |= {row[0]: self._live(Row(*row)) for row in rows}
        return [found.get(each) for each in session_ids]

    def pages(self) -> Iterator[Sequence[Session]]:
        yield from self._pages(_LIVE)

    def _pages(self, where: str, **values: Any) -> Iterator[list[SharedSession]]:
        statement = f"SELECT {COLUMNS} FROM {{sessions}} WHERE {where} AND id > :after ORDER BY id LIMIT :most"
        for rows in self._listed(statement, **values):
            yield self._live_of(Row(*row) for row in rows)

    def _listed(self, statement: str, **values: Any) -> Iterator[Rows]:
        """Yield the rows of a statement page by page, sorted by the id of a session, with which each begins."""
        last, is_over = 0, self._closed
        while not is_over:
            rows = self._database.run("list", statement, after=last, most=LIST_PAGE_SIZE, **values)
            yield rows
            is_over, last = len(rows) < LIST_PAGE_SIZE, rows[-1][0] if rows else last

    def _list(self) -> list[tuple[str, str]]:
        select = f"SELECT id, username, key FROM {{sessions}} WHERE {_LIVE} AND id > :after ORDER BY id LIMIT :most"
        return [(as_text(username), key) for rows in self._listed(select) for _, username, key in rows]

    def _count(self) -> int:
        if self._closed:
            return 0
        # All that are not due are live, which the index alone says.
        parts = (
            f"reason IS NULL AND look_at {due}"
            for due in ("> (SELECT {now})", "<= (SELECT {now}) AND deadline > {now}")
        )
        select = " + ".join(f"(SELECT count(*) FROM {{sessions}} WHERE {part})" for part in parts)
        return int(self._database.run("list", f"SELECT {select}")[0][0])

    def send_logout(self, key: object) -> None:
        session = self.get(key)
        if session is None:
            self._callbacks.on_notice(Notice("logout", None, key))
        else:
            self._database.transaction(
                "send_logout", lambda execute: send(execute, [Notice("logout", session._id, None)])
            )

    # What it asks

    def _may_ask(self, key: object) -> bool:
        """Return whether the database may know a key: it is not asked about what is none."""
        return is_key(key) and not self._closed

    def _durably(self, operation: str, statement: str, **values: Any) -> Rows:
        """Execute one statement in a transaction: it is not lost, and not repeated once it was committed."""
        return self._database.transaction(operation, lambda execute: execute(statement, **values))

    def _one(self, operation: str, key: object, statements: Sequence[str], **values: Any) -> SharedSession | None:
        """Return the session of the first of these statements that finds a row."""
        if not self._may_ask(key):
            return None
        digest = digest_of(str(key))
        for statement in statements:
            rows = self._database.run(operation, statement, digest=digest, **values)
            if rows:
                return self._live(Row(*rows[0]))
        return None

    def _live(self, row: Row) -> SharedSession | None:
        return live_session(self._start_timer, row)

    def _live_of(self, rows: Iterable[Row]) -> list[SharedSession]:
        return [session for session in map(self._live, rows) if session is not None]

    def _take(self, name: str, work: Callable[[Execute, str], Any]) -> Any:
        """Call an operation that takes sessions out; if its answer is lost, the poller asks what they were."""
        operation = urandom(8).hex()
        try:
            return self._database.transaction(name, lambda execute: work(execute, operation))
        except StoreUnavailable:
            self._recover_soon(operation)
            raise

    def _ended_of(self, rows: Sequence[Row]) -> list[SharedSession]:
        sessions = []
        for row in rows:
            session = ended_session(self._start_timer, row)
            if session is None:  # no SQLStore has written it
                with LOCK:
                    self._to_acknowledge.append(row.id)
            else:
                sessions.append(session)
        return sessions

    def _rows_of(self, ids: Sequence[int], statement: str) -> Iterator[Rows]:
        """Yield what a statement returns for sessions, batch by batch."""
        for batch in [] if self._closed else _batches(ids):
            yield self._database.run("sessions", statement, ids=batch)

    def _update(self, ids: Sequence[int], statement: str, **values: Any) -> None:
        """Execute a statement for sessions, batch by batch."""
        for batch in _batches(ids):
            self._durably("sessions", statement, ids=batch, **values)

    # For SharedStore

    @property
    def _is_unreachable(self) -> bool:
        return self._database.reachability.is_unreachable

    def _claim(self, lease: float, *, warnings: bool) -> Iterator[Claim]:
        claim = partial(self._claimer.claim, lease=lease, warnings=warnings)
        while (next_in := self._claimer.look(takes=lease > 0, warnings=warnings)) <= 0:
            ended, expiring, is_done = self._take("claim", claim)
            if not is_done:  # other processes are at what is due: to ask again at once would only hold them up
                break
            yield Claim(self._ended_of(ended), self._live_of(expiring), math.inf)
        yield Claim([], [], next_in)

    def _recover(self, operation: str) -> Claim:
        select = f"SELECT {ALL_COLUMNS} FROM {{sessions}} WHERE operation = :operation AND look_at > {{now}} AND "
        warned = self._database.run("recover", f"{select} reason IS NULL", operation=operation)
        ended = self._database.run(
            "recover",
            f"{select} reason IS NOT NULL AND announced_at IS NULL AND look_at <= {{now}} + :lease",
            operation=operation,
            lease=self._lease,
        )
        expiring = [row for row in sorted(Row(*row) for row in warned) if row.warned == row.deadline]
        return Claim(self._ended_of(sorted(Row(*row) for row in ended)), self._live_of(expiring), 0)

    def _acknowledge(self, ids: Sequence[int]) -> None:
        # This changes no index: the poll that comes when the lease is over deletes the row.
        self._update(ids, "UPDATE {sessions} SET announced_at = {now} WHERE id {in_ids} AND reason IS NOT NULL")

    def _extend(self, ids: Sequence[int], lease: float) -> None:
        update = (
            "UPDATE {sessions} SET look_at = {now} + :lease "
            "WHERE id {in_ids} AND reason IS NOT NULL AND announced_at IS NULL"
        )
        self._update(ids, update, lease=float(lease))

    def _keys_of(self, ids: Sequence[int], *, with_ended: bool) -> list[str | None]:
        select = "SELECT id, key FROM {sessions} WHERE id {in_ids}" + ("" if with_ended else f" AND {_LIVE}")
        found: dict[int, str] = {}
        for rows in self._rows_of(ids, select):
            found |= dict(rows)
        return [found.get(each) for each in ids]

    def _read(self, timeout: float, *, logins: bool) -> Iterator[list[Notice]]:  # noqa: ARG002  # all are read
        yield from NoticeLog(self._database).read(timeout, self._interrupted)

    def _interrupt(self) -> None:
        self._interrupted.set()

    def _disconnect(self) -> None:
        self._database.close()


def _batches(ids: Sequence[int]) -> Iterator[list[int]]:
    for first in range(0, len(ids), BATCH_SIZE):
        yield [*ids[first : first + BATCH_SIZE]]


def _renewed_former(row: Row, good_until: float) -> tuple[dict[str, tuple[float, str]], list[str]]:
    """Return the former keys of a session that gets a new key, and the digests of those that are not good any more."""
    shortened = {digest: (min(until, good_until), key) for digest, (until, key) in former_keys(row).items()}
    kept = {digest: former for digest, former in shortened.items() if former[0] > row.now}
    kept[row.digest] = good_until, row.key
    former = dict([*kept.items()][-MAX_FORMER_KEYS:])
    return former, [digest for digest in former_keys(row) if digest not in former]
