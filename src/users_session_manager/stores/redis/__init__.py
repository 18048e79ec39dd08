"""RedisStore: sessions in Redis or Valkey, shared by any number of processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from os import urandom
from typing import Any, Final
from zlib import crc32

from ...clock import LOCK
from ...errors import MissingDependency, SessionError, StoreUnavailable, TooManySessions
from ...keys import GROUPS, group_of, new_key
from ...policy import OwnLimits, Policy, require_seconds
from ...session import Session
from ..base import MAX_FORMER_KEYS, NO_LIMITS, NOT_OWN, Notice
from ..encoding import digest_of
from ..expiry import Claim, SharedSession
from ..shared import SharedStore
from .records import as_any_text, encode_number, encode_stamp, encode_text, ended_session, id_of, live_session
from .script import Scripts

try:
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.retry import Retry
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

# How many sessions one call lists.
LIST_PAGE_SIZE: Final = 100
# How many sessions one call takes out: it keeps Redis from other clients for no more than a few milliseconds.
BATCH_SIZE: Final = 50
# The answer of the script if the data has changed since it was read.
CHANGED_BY_OTHERS: Final = 2


class RedisStore(SharedStore):
    """Keeps sessions in Redis or Valkey, for any number of processes and machines.

    Args:
        client: A `redis.Redis`, one of Sentinel's included, or a `redis.RedisCluster`. It is a template: each process
            makes a client of its own with the same options, and closes that one alone.
        prefix: What all keys in Redis begin with, a `str` without braces; `"users-session-manager:"` by default.
        lease: Seconds that a process has to announce the end of a session before another does; 30.0 by default.
        max_data: Bytes that the data of a session may have as JSON; 1 MiB by default.
        max_username: Characters that a username, a user id and a security stamp may have; 1,000 by default.
        now: The time that deadlines are measured in, in seconds; the clock of Redis by default. Tests pass one that
            they turn, with `thread=False`, and call `run_due()` to let sessions expire.
        thread: Whether threads let them expire.

    Every operation is one round trip and atomic, under the clock of Redis, and may be repeated by the client; listing
    more than a hundred sessions and ending more than fifty takes several, and for the sessions of all users in
    a cluster one for each of 16 groups; a login during that time may be included or not. `data` is
    stored as JSON: tuples come back as lists; what JSON cannot hold, or would change, is a `TypeError`. Whatever goes
    wrong on the way to Redis is `StoreUnavailable`, after the timeouts of the client.

    A session is found by the SHA-256 of its key: the key itself is in the session's hash alone, and in no name. A node
    that was demoted answers nothing; the next call connects anew.

    Ends: one of the processes that serve and listen claims what has expired, announces it, and acknowledges that; if it
    dies, another does so once its lease has expired. So no end is lost, and one is announced twice only if a process
    dies after its listeners ran and before Redis has received the acknowledgement, or if Redis is unreachable for
    longer than the lease just then. A warning is announced at most once.

    Notices: Redis publishes each end on the channel `<prefix>2:notices`, to which a process subscribes that serves and
    has clients or a socket reference, and each login on `<prefix>2:logins`, for processes that show who is signed in.

    Threads: any thread may call any method. The poller's thread starts when the process begins to serve, the reader's
    with the subscription, the announcer's with the first end, and one for timers with the first timer that is asked
    for. A forked child has its own.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        prefix: str = "users-session-manager:",
        lease: float = 30.0,
        max_data: int = 1024 * 1024,
        max_username: int = 1000,
        now: Callable[[], float] | None = None,
        thread: bool = True,
    ) -> None:
        if not isinstance(client, (Redis, RedisCluster)):
            kind = f"{type(client).__module__}.{type(client).__name__}"
            raise TypeError(f"client must be a redis.Redis or a redis.RedisCluster, got a {kind}")
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, got {type(prefix).__name__}")
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"prefix must be without braces, got {prefix!r}")
        super().__init__(lease, max_data, max_username, now, thread=thread)
        self._prefix = prefix
        self._scripts = Scripts(client, prefix, now)

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 2.0, **options: Any) -> RedisStore:
        """Return a store on the Redis at an address.

        Args:
            url: `redis://`, `rediss://` for TLS, or `unix://`; it may contain a user, a password, and what redis-py
                accepts there, such as `?socket_timeout=1`.
            timeout: How many seconds connecting and each answer may take, 2.0 by default; after that it is
                `StoreUnavailable`.
            options: Those of the class.

        Raises:
            ValueError: `url` is no such address.
        """
        require_seconds("timeout", timeout)
        # Redis may have closed an idle connection: then it is asked again, once and at once. A timeout is not repeated.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        limits: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry}
        # As many connections as there are threads: one too few is no reason to refuse a session.
        client = Redis.from_url(url, max_connections=2**31, **limits)
        return cls(client, **options)

    def __repr__(self) -> str:
        return f"<RedisStore {self._prefix!r}>"

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
        group, lease = _group_of_user(user), self._own_lease()
        key = new_key(group)
        limits = [
            *map(encode_number, (timeout, own.timeout, own.lifetime or policy.lifetime)),
            *("own" if own.lifetime else "", encode_number(policy.max_sessions), policy.overflow),
            encode_number(policy.warning),
        ]
        args = (digest_of(key), key, name, user, *limits, encoded, stamp, lease, BATCH_SIZE)
        evicted = self._taken_out(self._add(username, policy, group, *args), lease)
        self._poll_in_time(own.timeout or timeout, policy)
        return key, evicted

    def _add(self, username: str, policy: Policy, group: int, *args: Any) -> Iterator[list[SharedSession]]:
        """Add a session; yield what had to make room for it, page by page."""
        outcome = b"again"
        while outcome == b"again":
            outcome, answer = self._take("add", [group], *args)
            if outcome == b"full":
                raise TooManySessions(
                    f"{username!r} has {answer} sessions, and may have {policy.max_sessions}: let the user sign out "
                    "elsewhere first, see docs/guide.md"
                )
            yield self._ended_of(answer)

    def get(self, key: object) -> SharedSession | None:
        return self._live(self._ask("get", key))

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SharedSession | None:
        self.serve()
        settings = map(encode_number, (timeout, policy.lifetime, policy.warning))
        session = self._live(self._ask("restart", key, *settings))
        self._restarted(session, policy)
        return session

    def renew_key(self, key: object, overlap: float, security_stamp: str | None = None) -> tuple[str, str, Any] | None:
        new, stamp = new_key(group_of(key)), self._encode_stamp(security_stamp)
        found = self._ask("renew_key", key, digest_of(new), new, encode_number(overlap), MAX_FORMER_KEYS, stamp)
        return None if found is None else (found[1].decode(), new, found[0])

    def set_data(self, key: object, data: Any) -> bool:
        return bool(self._ask("set_data", key, self._limits.encode_data(data)))

    def set_stamp(self, key: object, security_stamp: str) -> bool:
        return bool(self._ask("set_stamp", key, self._encode_stamp(security_stamp)))

    def _replace_data(self, key: object, before: SharedSession, data: str) -> bool | None:
        present = before._snapshot.data.encode("utf-8", "surrogatepass")
        outcome = self._ask("set_data", key, data, _operation_id(), present)
        return None if outcome == CHANGED_BY_OTHERS else bool(outcome)

    def _encode_stamp(self, stamp: str | None) -> bytes:
        return encode_stamp(None if stamp is None else self._limits.check_text("a security stamp", stamp))

    def remove(self, key: object, kind: str = "deleted") -> Session | None:
        group, lease = group_of(key), self._own_lease()
        if group is None or self._closed:
            return None
        records = self._take("remove", [group], digest_of(str(key)), lease, kind)
        ended = self._taken_out([self._ended_of(records)], lease)
        return ended[0] if ended else None

    # Several

    def of_user(self, user_id: str) -> list[tuple[Session, float]]:
        user = encode_text(user_id)
        found, after, is_over = [], b"", self._closed
        while not is_over:
            records, after = self._scripts.call("of_user", [_group_of_user(user)], user, after, LIST_PAGE_SIZE)
            found += [session for session in map(self._live, records) if session is not None]
            is_over = not after
        return [(session, session._snapshot.left) for session in found]

    def remove_user(self, user_id: str, except_key: object = None) -> list[Session]:
        user, lease = encode_text(user_id), self._own_lease()
        group = _group_of_user(user)
        spared = self.get(except_key)
        kept = "" if spared is None else spared._id.partition(":")[2]

        def pages() -> Iterator[list[SharedSession]]:
            has_more = not self._closed
            while has_more:
                records, has_more = self._take("remove_user", [group], user, kept, lease, BATCH_SIZE)
                yield self._ended_of(records)

        return [*self._taken_out(pages(), lease)]

    def clear(self, *, silent: bool = False) -> list[Session]:
        lease = 0 if silent else self._own_lease()

        def pages() -> Iterator[list[SharedSession]]:
            for groups in [] if self._closed else self._scripts.batches:
                for (records,) in self._scripts.pages(
                    groups,
                    lambda groups, *cursors: self._take("clear", groups, "" if silent else lease, BATCH_SIZE, *cursors),
                ):
                    yield self._ended_of(records)

        return [*sorted(self._taken_out(pages(), lease), key=attrgetter("createdAt"))]

    def find(self, session_ids: Sequence[str]) -> list[Session | None]:
        found: dict[str, Session | None] = {}
        for some, records in [] if self._closed else self._call_by_group("sessions", session_ids):
            found |= {each: self._live(record or None) for each, record in zip(some, records, strict=True)}
        return [found.get(each) for each in session_ids]

    def pages(self) -> Iterator[Sequence[Session]]:
        for groups in [] if self._closed else self._scripts.batches:
            for (records,) in self._scripts.pages(
                groups, lambda groups, *cursors: self._scripts.call("pages", groups, LIST_PAGE_SIZE, *cursors)
            ):
                yield [session for session in map(self._live, records) if session is not None]

    def send_logout(self, key: object) -> None:
        if not self._ask("send_logout", key):
            self._callbacks.on_notice(Notice("logout", None, key))

    def _live(self, record: bytes | None) -> SharedSession | None:
        return live_session(self._start_timer, record)

    def _ask(self, operation: str, key: object, *args: Any) -> Any:
        """Return the answer for a key, `None` for what is no key: Redis is not asked about that."""
        group = group_of(key)
        if group is None or self._closed:
            return None
        return self._scripts.call(operation, [group], digest_of(str(key)), *args)

    def _take(self, operation: str, groups: Sequence[int], what: Any, *args: Any) -> Any:
        """Call an operation that takes sessions out; if its answer is lost, the poller asks what they were."""
        operation_id = _operation_id()
        try:
            return self._scripts.call(operation, groups, what, operation_id, *args)
        except StoreUnavailable:
            self._recover_soon((groups, operation_id))
            raise

    def _ended_of(self, records: Iterable[bytes]) -> list[SharedSession]:
        sessions = []
        for record in records:
            session = ended_session(self._start_timer, record)
            if session is not None:
                sessions.append(session)
            else:
                with LOCK:
                    self._to_acknowledge.append(id_of(record))  # no RedisStore has written it
        return sessions

    def _list(self) -> list[tuple[str, str]]:
        found = {}  # by id, since a scan may return a session twice
        for groups in [] if self._closed else self._scripts.batches:
            for (entries,) in self._scripts.pages(
                groups, lambda groups, *cursors: self._scripts.call("list", groups, LIST_PAGE_SIZE, *cursors)
            ):
                for session_id, created, name, key in entries:
                    found[session_id] = int(created), as_any_text(name), key.decode("ascii", "replace")
        return [(name, key) for _, name, key in sorted(found.values())]

    def _count(self) -> int:
        return sum(
            count
            for groups in ([] if self._closed else self._scripts.batches)
            for (count,) in self._scripts.pages(
                groups, lambda groups, *places: self._scripts.call("count", groups, LIST_PAGE_SIZE, *places)
            )
        )

    # For SharedStore

    @property
    def _is_unreachable(self) -> bool:
        return self._scripts.reachability.is_unreachable

    def _claim(self, lease: float, *, warnings: bool) -> Iterator[Claim]:
        self._scripts.check_set_up()
        for groups in self._scripts.batches:
            is_over = False
            while not is_over:
                ended, expiring, next_in = self._take("claim", groups, BATCH_SIZE, lease, int(warnings))
                is_over = float(next_in) > 0
                yield Claim(self._ended_of(ended), self._expiring_of(expiring), float(next_in))

    def _recover(self, operation: tuple[Sequence[int], str]) -> Claim:
        groups, operation_id = operation
        ended, expiring = self._scripts.call("recover", groups, operation_id)
        return Claim(self._ended_of(ended), self._expiring_of(expiring), 0)

    def _expiring_of(self, records: Iterable[bytes]) -> list[SharedSession]:
        return [session for session in map(self._live, records) if session is not None]

    def _acknowledge(self, ids: Sequence[str]) -> None:
        self._call_by_group("acknowledge", ids)

    def _extend(self, ids: Sequence[str], lease: float) -> None:
        self._call_by_group("extend", ids, lease)

    def _keys_of(self, ids: Sequence[str], *, with_ended: bool) -> list[str | None]:
        found: dict[str, str | None] = {}
        for some, keys in [] if self._closed else self._call_by_group("keys", ids, int(with_ended)):
            found |= {each: key.decode() if key else None for each, key in zip(some, keys, strict=True)}
        return [found.get(each) for each in ids]

    def _read(self, timeout: float, *, logins: bool) -> Iterator[list[Notice]]:
        return self._scripts.subscribe(timeout, logins=logins)

    def _interrupt(self) -> None:
        self._scripts.interrupt()

    def _disconnect(self) -> None:
        self._scripts.client.close()

    def _after_fork_in_child(self) -> None:
        self._scripts.after_fork_in_child()  # first: else the subscription would end here, with locks of redis-py
        super()._after_fork_in_child()

    def _call_by_group(self, operation: str, ids: Sequence[str], *args: Any) -> list[tuple[list[str], Any]]:
        """Call an operation for sessions, batch by batch; return the ids of each batch, and the answer."""
        by_group: dict[int, list[str]] = {}
        for each in ids:
            by_group.setdefault(int(each.partition(":")[0]), []).append(each)
        answers = []
        for group, members in by_group.items():
            for first in range(0, len(members), BATCH_SIZE):
                batch = members[first : first + BATCH_SIZE]
                digests = [each.partition(":")[2] for each in batch]
                answers.append((batch, self._scripts.call(operation, [group], *args, *digests)))
        return answers


def _group_of_user(user: bytes) -> int:
    """Return the group of all sessions of a user id."""
    return crc32(user) % GROUPS


def _operation_id() -> str:
    return urandom(8).hex()
