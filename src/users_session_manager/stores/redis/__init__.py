"""RedisStore: sessions in Redis or Valkey, shared by any number of processes and machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from ...errors import MissingDependency, SessionError, TooManySessions
from ...keys import GROUPS, group_of, new_key
from ...policy import OwnLimits, Policy, require_seconds
from ...session import Session
from ..base import NO_LIMITS, NOT_OWN, Notice
from ..expiry import Claim, SharedSession, SharedStore
from .records import as_any_text, encode, encode_number, ended_session, live_session
from .script import Script

try:
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.retry import Retry
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

# How many sessions one call lists.
LIST_PAGE_SIZE: Final = 250
# How many sessions one call takes out: it keeps Redis from other clients for no more than a few milliseconds.
BATCH_SIZE: Final = 100


class RedisSessions(Mapping[str, Session]):
    """The live sessions by key; each look at it asks Redis."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def __getitem__(self, key: str) -> Session:
        session = self._store.get(key)
        if session is None or session.key != key:
            raise KeyError(f"<no live session of {type(key).__name__}>")
        return session

    def __iter__(self) -> Iterator[str]:
        return iter([key for _, _, key in self._store._list()])

    def __len__(self) -> int:
        return self._store._count()


class RedisStore(SharedStore):
    """Keeps sessions in Redis or Valkey, for any number of processes and machines.

    Args:
        client: A `redis.Redis`, one of Sentinel's included, or a `redis.RedisCluster`. It is a template: each process
            makes a client of its own with the same options, and closes that one alone.
        prefix: What all keys in Redis begin with, a `str` without braces; `"users-session-manager:"` by default.
        lease: Seconds that a process has to announce the end of a session before another does; 30.0 by default.
        now: The time that deadlines are measured in, in seconds; the clock of Redis by default. Tests pass one that
            they turn, with `thread=False`, and call `run_due()` to let sessions expire.
        thread: Whether threads let them expire.

    Every operation is one round trip and atomic, under the clock of Redis; listing more than a few hundred sessions and
    ending more than a hundred of all users takes several, and in a cluster one for each of 16 groups; a login during
    that time may be included or not. `data` is stored as JSON: tuples come back as lists, and keys as `str`; what JSON
    cannot hold is a `TypeError`. Whatever goes wrong on the way to Redis is `StoreUnavailable`, after the
    timeouts of the client.

    Ends: one of the processes that serve and listen claims what has expired, announces it, and acknowledges that; if it
    dies, another does so once its lease has expired. So no end is lost, and one is announced twice only if a process
    dies after its listeners ran and before Redis has received the acknowledgement, or if Redis is unreachable for
    longer than the lease just then. A warning is announced at most once.

    Notices: Redis publishes each end on the channel `<prefix>notices`, to which a process subscribes that serves and
    has clients or a socket reference.

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
        super().__init__(lease, now, thread=thread)
        self._prefix = prefix
        self._script = Script(client, prefix, now)
        self._sessions = RedisSessions(self)

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

    @property
    def sessions(self) -> RedisSessions:
        return self._sessions

    # One session

    def add(
        self, username: str, timeout: float, policy: Policy = NO_LIMITS, data: Any = None, own: OwnLimits = NOT_OWN
    ) -> tuple[str, Sequence[Session]]:
        encoded = encode(data)
        if self._closed:
            raise SessionError("this SessionManager is closed")
        self.serve()
        user, group = _user(username)
        key, lease = new_key(group), self._own_lease()
        outcome, answer = self._script.call(
            "add",
            [group],
            *(key, user, *map(encode_number, (timeout, own.timeout, own.lifetime or policy.lifetime))),
            *("own" if own.lifetime else "", encode_number(policy.max_sessions), policy.overflow),
            *(encode_number(policy.warning), encoded, lease),
        )
        if outcome == b"full":
            raise TooManySessions(f"{username!r} has {answer} sessions, and may have {policy.max_sessions}")
        self._poll_in_time(own.timeout or timeout, policy)
        return key, self._taken_out(answer, lease)

    def get(self, key: object) -> SharedSession | None:
        return self._live(self._ask("get", key))

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SharedSession | None:
        self.serve()
        settings = map(encode_number, (timeout, policy.lifetime, policy.warning))
        session = self._live(self._ask("restart", key, *settings))
        if session is not None:
            self._poll_in_time(session._snapshot.left, policy)
        elif policy.lifetime is not None:
            self._poll_in_time(0, policy)  # it may have outlived that
        return session

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> threading.Timer:
        session = self.restart(key, timeout, policy)
        return self._start_timer(timeout) if session is None else session.timer

    def renew_key(self, key: object, overlap: float) -> tuple[str, str, Any] | None:
        new = new_key(group_of(key))
        found = self._ask("renew_key", key, new, encode_number(overlap))
        return None if found is None else (found[1].decode(), new, found[0])

    def time_left(self, key: object) -> float | None:
        session = self.get(key)
        return None if session is None else session._snapshot.left

    def set_data(self, key: object, data: Any) -> bool:
        return bool(self._ask("set_data", key, encode(data)))

    def remove(self, key: object) -> Session | None:
        lease = self._own_lease()
        record = self._ask("remove", key, lease)
        return None if record is None else self._taken_out([record], lease)[0]

    # Several

    def of_user(self, username: str) -> list[tuple[Session, float]]:
        user, group = _user(username)
        records = [] if self._closed else self._script.call("of_user", [group], user)
        return [(session, session._snapshot.left) for session in map(self._live, records) if session is not None]

    def remove_user(self, username: str, except_key: object = None) -> list[Session]:
        user, group = _user(username)
        kept = except_key if group_of(except_key) == group else b""
        lease = self._own_lease()
        records = [] if self._closed else self._script.call("remove_user", [group], user, kept, lease)
        return [*self._taken_out(records, lease)]

    def clear(self) -> list[Session]:
        ended: list[SharedSession] = []
        lease = self._own_lease()
        for groups in [] if self._closed else self._script.batches:
            for (records,) in self._script.pages("clear", groups, lease, BATCH_SIZE):
                ended += self._taken_out(records, lease)
        return [*sorted(ended, key=lambda session: session._snapshot.serial)]

    def usernames(self) -> list[str]:
        return [username for _, username, _ in self._list()]

    def present_keys(self, session_ids: Sequence[bytes]) -> list[str | None]:
        found: dict[bytes, str | None] = {}
        for ids, keys in [] if self._closed else self._call_by_group("present_keys", session_ids):
            found |= {each: key.decode() if key else None for each, key in zip(ids, keys, strict=True)}
        return [found.get(each) for each in session_ids]

    def send_logout(self, key: object) -> None:
        if not self._ask("send_logout", key):
            self._callbacks.on_notice(Notice("logout", None, key))

    def _live(self, record: Sequence[bytes] | None) -> SharedSession | None:
        return live_session(self._start_timer, record)

    def _taken_out(self, records: Iterable[Sequence[bytes]], lease: float) -> list[SharedSession]:
        ended = [ended_session(self._start_timer, record) for record in records]
        return self._claimed(ended) if lease else ended

    def _ask(self, operation: str, key: object, *args: Any) -> Any:
        """Return the answer for a key, `None` for what is no key: Redis is not asked about that."""
        group = group_of(key)
        if group is None or self._closed:
            return None
        return self._script.call(operation, [group], key, *args)

    def _list(self) -> list[tuple[int, str, str]]:
        """Return the place in the order of creation, the username and the key of each live session, in that order."""
        found = {}  # by id, since a scan may return a session twice
        for groups in [] if self._closed else self._script.batches:
            for (entries,) in self._script.pages("list", groups, LIST_PAGE_SIZE):
                for session_id, serial, user, key in entries:
                    found[session_id] = int(serial), as_any_text(user), key.decode("ascii", "replace")
        return sorted(found.values())

    def _count(self) -> int:
        return sum(self._script.call("count", groups) for groups in ([] if self._closed else self._script.batches))

    # For SharedStore

    @property
    def _is_unreachable(self) -> bool:
        return self._script.is_unreachable

    def _claim(self, lease: float, *, warnings: bool) -> Iterator[Claim]:
        self._script.warn_of_eviction()
        for groups in self._script.batches:
            ended, expiring, next_in = self._script.call("claim", groups, BATCH_SIZE, lease, int(warnings))
            live = [session for session in map(self._live, expiring) if session is not None]
            yield Claim([ended_session(self._start_timer, record) for record in ended], live, float(next_in))

    def _acknowledge(self, ids: Sequence[bytes]) -> None:
        self._call_by_group("acknowledge", ids)

    def _extend(self, ids: Sequence[bytes], lease: float) -> None:
        self._call_by_group("extend", ids, lease)

    def _read(self, timeout: float) -> Iterator[Notice | None]:
        return self._script.subscribe(timeout)

    def _interrupt(self) -> None:
        self._script.interrupt()

    def _disconnect(self) -> None:
        self._script.client.close()

    def _after_fork_in_child(self) -> None:
        self._script.after_fork_in_child()  # first: else the subscription would end here, with locks of redis-py
        super()._after_fork_in_child()

    def _call_by_group(self, operation: str, ids: Sequence[bytes], *args: Any) -> list[tuple[list[bytes], Any]]:
        """Call an operation for sessions, batch by batch; return the ids of each batch, and the answer."""
        by_group: dict[int, list[bytes]] = {}
        for each in ids:
            by_group.setdefault(group_of(each.decode("ascii", "replace")) or 0, []).append(each)
        answers = []
        for group, members in by_group.items():
            for first in range(0, len(members), BATCH_SIZE):
                batch = members[first : first + BATCH_SIZE]
                answers.append((batch, self._script.call(operation, [group], *args, *batch)))
        return answers


def _user(username: str) -> tuple[bytes, int]:
    """Return a username as Redis has it, and the group of all its sessions."""
    user = username.encode("utf-8", "surrogatepass")  # any `str` can be one, halves of surrogate pairs included
    return user, crc32(user) % GROUPS
