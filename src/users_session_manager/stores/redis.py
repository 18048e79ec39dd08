"""RedisStore: sessions in Redis or Valkey, shared by any number of processes and machines."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from ..errors import MissingDependency, SessionError, TooManySessions
from ..keys import GROUPS, group_of, new_key
from ..policy import Policy, require_seconds
from ..session import Reason, Session
from ..timers import SessionTimer
from .base import NO_LIMITS
from .redis_ends import POLL, SOME, Ends
from .redis_script import Script, number
from .redis_session import RedisSession, as_any_text, as_bytes, encode, live_session

try:
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.retry import Retry
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

# How many sessions one call lists.
_SOME_TO_LIST: Final = 250

_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()


class _Entry(NamedTuple):
    """What a list of all sessions tells of one."""

    began: int
    username: str
    key: str


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
        return iter([entry.key for entry in self._store._list()])

    def __len__(self) -> int:
        return self._store._count()

    def __repr__(self) -> str:
        return f"<sessions of {self._store!r}>"


class RedisStore:
    """Keeps sessions in Redis or Valkey, for any number of processes and machines. Implements `Store`.

    | option | default | |
    |---|---|---|
    | `client` | | a `redis.Redis`, one of Sentinel's included, or a `redis.RedisCluster`; it is never closed here |
    | `prefix` | `"users-session-manager:"` | what all keys in Redis begin with, `str` without braces |
    | `lease` | 30.0 | seconds that a process has to announce the end of a session before another does |

    Every operation is one round trip and atomic, under the clock of Redis; listing more than a few hundred sessions and
    ending more than a hundred of all users takes several, and in a cluster one for each of 16 groups; who logs in
    meanwhile may be among them or not. `data` is kept as JSON: tuples come back as lists, and keys as `str`; a
    `TypeError` says that it cannot be. Whatever goes wrong on the way to Redis is `StoreUnavailable`, after as long as
    the timeouts of the client say.

    Ends: of all processes one claims what has run out, announces it, and acknowledges that; if it dies, another does so
    once its lease has run out. So none is lost, and one is announced twice only if a process dies after its listeners
    ran and before Redis has heard so, or if Redis is away for longer than the lease just then. A warning is announced
    once at most.

    `now` is the time that deadlines are measured in, in seconds; the clock of Redis by default. Tests hand in one that
    they turn, with `thread=False`, and call `run_due` when something is to run out.

    Threads: any thread may call any method; what is shared lives in Redis, and in `Ends` under its lock. Two threads
    are started when a manager opens the store. A forked child has its own.
    """

    blocking = True
    at_hand = None

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
        require_seconds("the lease", lease)
        if lease < 1:
            raise ValueError(f"the lease must be at least 1 second, got {lease!r}")
        self._prefix = prefix
        self._script = Script(client, prefix, now)
        self._ends = Ends(self._script, lease, now, thread=thread)
        self._lease = number(lease)
        self._own_client: Redis | None = None
        self._closed = False
        self.sessions = RedisSessions(self)
        self.run_due = self._ends.run_due
        _stores.add(self)

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 2.0, **options: Any) -> RedisStore:
        """Return a store on the Redis at `url`: `redis://`, `rediss://` for TLS, or `unix://`.

        `timeout` is how long connecting and each answer may take, in seconds; after that it is `StoreUnavailable`. The
        address may hold a user, a password, and what redis-py takes there, such as `?socket_timeout=1`. `options` are
        those of the class. The connections are closed with the store. `ValueError` for what is no such address.
        """
        require_seconds("timeout", timeout)
        # Redis may have closed a connection that was idle: that is asked again once, at once. A timeout is not.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        limits: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry}
        # As many connections as there are threads: one too few is no reason to log somebody out.
        client = Redis.from_url(url, max_connections=2**31, **limits)
        store = cls(client, **options)
        store._own_client = client
        return store

    def __repr__(self) -> str:
        return f"<RedisStore {self._prefix!r}>"

    def open(self, on_ended: Callable[[Session, Reason], None], on_expiring: Callable[[Session, float], None]) -> None:
        if self._ends.is_open:
            raise SessionError("this RedisStore has been opened by a SessionManager before; make a new one")
        self._ends.open(on_ended, on_expiring)

    # One session

    def add(
        self,
        username: str,
        timeout: float,
        policy: Policy = NO_LIMITS,
        data: Any = None,
        *,
        own_timeout: bool = False,
    ) -> tuple[str, Sequence[Session]]:
        encoded = encode(data)
        if self._closed:
            raise SessionError("this SessionManager is closed")
        user, group = _user(username)
        key = new_key(group)
        said, answer = self._script.call(
            "add",
            [group],
            *(key, user, number(timeout), number(timeout if own_timeout else None), number(policy.lifetime)),
            *(number(policy.max_sessions), policy.overflow, number(policy.warning), encoded, self._lease),
        )
        if said == b"full":
            raise TooManySessions(f"{username!r} has {answer} sessions, and may have {policy.max_sessions}")
        self._expect(timeout, policy)
        return key, self._ends.taken(answer)

    def get(self, key: object) -> RedisSession | None:
        return self._live(self._ask("get", key))

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> RedisSession | None:
        session = self._live(self._ask("restart", key, *map(number, (timeout, policy.lifetime, policy.warning))))
        if session is not None:
            self._expect(session._left, policy)
        elif policy.lifetime is not None:
            self._ends.look(0)  # it may have outlived that
        return session

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SessionTimer:
        session = self.restart(key, timeout, policy)
        return self._ends.start_timer(timeout) if session is None else session.timer

    def renew_key(self, key: object, overlap: float) -> tuple[str, str] | None:
        new = new_key(group_of(key))
        old = self._ask("renew_key", key, new, number(overlap))
        return None if old is None else (old.decode(), new)

    def time_left(self, key: object) -> float | None:
        session = self.get(key)
        return None if session is None else session._left

    def set_data(self, key: object, data: Any) -> bool:
        return bool(self._ask("set_data", key, encode(data)))

    def remove(self, key: object) -> Session | None:
        record = self._ask("remove", key, self._lease)
        return None if record is None else self._ends.taken([record])[0]

    # Several

    def of_user(self, username: str) -> list[tuple[Session, float]]:
        user, group = _user(username)
        records = [] if self._closed else self._script.call("of_user", [group], user)
        return [(session, session._left) for session in map(self._live, records) if session is not None]

    def remove_user(self, username: str, except_key: object = None) -> list[Session]:
        user, group = _user(username)
        kept = except_key if group_of(except_key) == group else b""
        records = [] if self._closed else self._script.call("remove_user", [group], user, kept, self._lease)
        return [*self._ends.taken(records)]

    def clear(self) -> list[Session]:
        ended: list[RedisSession] = []
        for groups in [] if self._closed else self._script.together:
            for (records,) in self._script.pages("clear", groups, self._lease, SOME):
                ended += self._ends.taken(records)
        return [*sorted(ended, key=lambda session: session._began)]

    def usernames(self) -> list[str]:
        return [entry.username for entry in self._list()]

    def acknowledge(self, ended: Iterable[Session]) -> None:
        self._ends.acknowledge(session for session in ended if isinstance(session, RedisSession))

    def close(self) -> None:
        self._closed = True
        self._ends.close()
        if self._own_client is not None:
            self._own_client.close()

    def _live(self, record: bytes | None) -> RedisSession | None:
        return live_session(self._ends.start_timer, record)

    def _ask(self, operation: str, key: object, *args: Any) -> Any:
        """Return the answer for a key, `None` for what is none: nobody is asked about that."""
        group = group_of(key)
        if group is None or self._closed:
            return None
        return self._script.call(operation, [group], key, *args)

    def _list(self) -> list[_Entry]:
        found: dict[bytes, _Entry] = {}
        for groups in [] if self._closed else self._script.together:
            for (entries,) in self._script.pages("list", groups, _SOME_TO_LIST):
                for name, began, user, key in entries:
                    found[name] = _Entry(int(began), as_any_text(user), key.decode("ascii", "replace"))
        return sorted(found.values())

    def _count(self) -> int:
        return sum(self._script.call("count", groups) for groups in ([] if self._closed else self._script.together))

    def _expect(self, left: float, policy: Policy) -> None:
        """Look in time for what a countdown brings sooner than the next look."""
        soon = left - (policy.warning or 0)
        if soon < POLL:
            self._ends.look(max(0.0, soon))


def _user(username: str) -> tuple[bytes, int]:
    """Return a username as Redis has it, and the group of all its sessions."""
    user = as_bytes(username)
    return user, crc32(user) % GROUPS


def _at_exit() -> None:
    for store in list(_stores):
        store.close()


atexit.register(_at_exit)
