"""Scripts: calls the server-side scripts, of which each operation of a store is one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from random import random
from typing import Any, Final

from ...clock import LOCK
from ...errors import MissingDependency, StoreUnavailable
from ...keys import GROUPS
from ...log import log
from ..base import Notice
from ..reachability import Reachability
from .client import ProcessClient
from .records import encode_number, notice

try:
    from redis import Redis, RedisCluster
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        ClusterDownError,
        MasterDownError,
        NoScriptError,
        ReadOnlyError,
        RedisError,
        ResponseError,
    )
    from redis.exceptions import ConnectionError as RedisConnectionError
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

FAILURES: Final = (RedisError, OSError, ValueError)  # ValueError: a connection has been closed by another thread

# Answers of a node that is not the one to ask, or not yet or not any more: another connection may lead to the one that
# is. Nothing was done. A script's own failure is a text in older versions.
_REFUSALS: Final = (ReadOnlyError, MasterDownError, BusyLoadingError, AuthenticationError, ClusterDownError)
_REFUSAL_TEXT: Final = re.compile("READONLY|MASTERDOWN|NOREPLICAS")
# How often connections are made anew, in seconds: at a failure each of many calls would make its own.
_RECONNECT_INTERVAL: Final = 0.25

LAYOUT: Final = "2:"
"""It follows the prefix in all names: sessions of another layout are other sessions."""


def _sections() -> dict[str, bytes]:
    """Return the script of each section: what it needs, and itself."""
    text = Path(__file__).with_name("script.lua").read_text("utf-8")
    _, *parts = re.split(r"^--- (\w+)(?:: ([\w ]+))?\n", text, flags=re.MULTILINE)
    own: dict[str, str] = {}
    needed: dict[str, set[str]] = {}
    for name, needs, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        own[name] = body
        needed[name] = {name}.union(*(needed[other] for other in (needs or "").split()))
    return {name: "".join(own[each] for each in own if each in needed[name]).encode() for name in own}


_TEXTS: Final = _sections()
_SHAS: Final = {name: sha1(text, usedforsecurity=False).hexdigest() for name, text in _TEXTS.items()}

ALL_GROUPS: Final = range(GROUPS)
# How many notices are passed on at once.
_NOTICES_AT_ONCE: Final = 100
# After how many waits without a message a subscription is checked: an empty message, published on another connection
# as notices are, has to arrive. After a failover the subscription may be left with the old master. The waits are
# random: the first process to check publishes to all others, which are silent no longer.
_READS_PER_CHECK: Final = 2


class Scripts:
    """Calls operations of `script.lua` for groups of users, each of which lives in one hash slot.

    Args:
        client: The client that is asked; it is never closed here.
        prefix: What all keys in Redis begin with.
        now: The time that is passed to the script; `None` for the clock of Redis.

    Whatever goes wrong on the way is `StoreUnavailable`; the log has one line when that begins and one when it is over.
    After that the next call makes new connections: a name may lead to another node then, a Sentinel to another master.

    Threads: any; it changes only the note of what it has logged, and when it has connected anew.
    """

    def __init__(self, client: Redis | RedisCluster, prefix: str, now: Callable[[], float] | None) -> None:
        self.client = ProcessClient(client)
        self.channel = f"{prefix}{LAYOUT}notices"
        self._logins_channel = f"{prefix}{LAYOUT}logins"
        self._due = [f"{prefix}{LAYOUT}{{{group}}}:due".encode() for group in ALL_GROUPS]
        self._old_names = [f"{prefix}{{{group}}}:due".encode() for group in ALL_GROUPS]  # of layout 1
        self._now = now
        # Which groups one call can be about.
        self.batches = [[group] for group in ALL_GROUPS] if self.client.is_cluster else [list(ALL_GROUPS)]
        self.reachability = Reachability("Redis")
        self._reconnect_at = 0.0  # not before that
        self._is_checked = False  # whether the set-up of this Redis is known
        self._subscription: Any = None

    def call(self, operation: str, groups: Sequence[int], *args: Any) -> Any:
        """Return what `operation` answers: texts as `bytes`, and `None` for none. The call may be repeated."""
        now = b"" if self._now is None else encode_number(self._now())
        rest = (len(groups), *(self._due[group] for group in groups), now, *args)
        asked_at = time.monotonic()
        try:
            try:
                answer = self._execute(operation, rest)
            except FAILURES as failure:
                if not self._connect_anew(failure):
                    raise
                answer = self._execute(operation, rest)
        except FAILURES as failure:
            raise self.reachability.failed(failure, asked_at, "" if _is_of_node(failure) else operation) from failure
        except BaseException:  # of a signal handler: an answer that was not read is not that of the next call
            self.client.close()
            raise
        self.reachability.answered(operation)
        return answer

    def _execute(self, operation: str, rest: Sequence[Any]) -> Any:
        with self.client.use() as client:
            try:
                return client.execute_command("EVALSHA", _SHAS[operation], *rest)
            except NoScriptError:  # it was restarted, or is another node
                return client.execute_command("EVAL", _TEXTS[operation], *rest)

    def _connect_anew(self, failure: Exception) -> bool:
        """Close the connections that a failure says something about; return whether to ask again on new ones."""
        if not _is_of_node(failure):
            return False
        with LOCK:
            if time.monotonic() < self._reconnect_at:
                return False
            self._reconnect_at = time.monotonic() + _RECONNECT_INTERVAL
        self.client.close()
        return _is_refusal(failure)

    def subscribe(self, timeout: float, *, logins: bool = False) -> Iterator[list[Notice]]:
        """Subscribe to the notices; yield an empty list once that is done, then what has come after at most `timeout`.

        With `logins` also to those of logins. If redis-py had to connect again, a `"missed"` says so. A failure is not
        logged here: the next call of the script says whether Redis is reachable.
        """
        try:
            with self.client.use() as client:
                yield from self._read(client, timeout, [self.channel, *([self._logins_channel] if logins else [])])
        except FAILURES as failure:
            raise StoreUnavailable(f"{type(failure).__name__}: {failure}") from failure

    def _read(self, client: Any, timeout: float, channels: list[str]) -> Iterator[list[Notice]]:
        self._subscription = subscription = client.pubsub()
        try:
            subscription.subscribe(*channels)
            # It yields at once when this comes back, and the scripts must be allowed to do it, too.
            client.publish(self.channel, b"")
            silent_for = begun = is_awake = 0
            notices: list[Notice] = []
            while self.client.is_present(client):  # else it was closed after a failure
                message = subscription.get_message(timeout=0 if is_awake else timeout * (1 + random() / 2))  # noqa: S311
                silent_for = 0 if message or is_awake else silent_for + 1
                if silent_for == 2 * _READS_PER_CHECK:
                    raise RedisConnectionError("the subscription receives nothing that is published")
                if silent_for == _READS_PER_CHECK and not self._check(client):
                    silent_for -= 1
                kind = message and message["type"]
                found = notice(message["data"]) if kind == "message" else None
                if found is not None:
                    notices.append(found)
                if kind == "subscribe" and message["data"] == 1 and (begun := begun + 1) > 1:  # connected again
                    notices.append(Notice("missed", None, None))
                if len(notices) >= _NOTICES_AT_ONCE or kind is None:
                    yield notices
                    notices = []
                is_awake = bool(kind == "message" or notices)  # then whatever else has come is read at once
            raise RedisConnectionError("the connections have been closed")
        finally:
            if self._subscription is subscription:  # else this is a forked child
                self._subscription = None
                subscription.close()

    def _check(self, client: Any) -> bool:
        """Send the message that checks a subscription; return whether a connection was left for that."""
        with suppress(*FAILURES):
            client.publish(self.channel, b"")
            return True
        return False

    def interrupt(self) -> None:
        """Let a subscription of this process that waits for a notice yield."""
        if self._subscription is not None and not self.reachability.is_unreachable:
            with suppress(*FAILURES), self.client.use() as client:  # else it yields after its timeout
                client.publish(self.channel, b"")

    def after_fork_in_child(self) -> None:
        """Leave the subscription to the parent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.connection = None  # so that it does not return it to the parent's pool when it is released

    def pages(self, groups: Sequence[int], call: Callable[..., list[Any]]) -> Iterator[list[Any]]:
        """Call `call` with groups and a cursor for each until it has seen all; yield what it returns beside these."""
        cursors: Sequence[bytes] = [b"0"] * len(groups)
        while groups:
            cursors, *answer = call(groups, *cursors)
            yield answer
            left = [(group, cursor) for group, cursor in zip(groups, cursors, strict=True) if cursor]
            groups, cursors = [group for group, _ in left], [cursor for _, cursor in left]

    def check_set_up(self) -> None:
        """Log a warning, once, of what in this Redis logs users out, as far as that is known."""
        if self._is_checked:
            return
        self._is_checked = True
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if self.client.is_cluster else {}
        try:
            with self.client.use() as client:
                answer = client.info("memory", **nodes)
                old = sum(client.exists(name) for name in self._old_names)
        except FAILURES as failure:
            log.debug("The set-up of Redis is not known: %s", type(failure).__name__)
            return
        several = [node for node in answer.values() if isinstance(node, dict)]
        policies = {node.get("maxmemory_policy", "noeviction") for node in several or [answer]}
        for policy in policies - {"noeviction"}:
            log.warning(
                "maxmemory-policy of Redis is %s: it logs users out when its memory is full; set it to "
                "noeviction, see docs/how-to/production.md",
                policy,
            )
        if old:
            log.warning(
                "Redis has sessions of an earlier version of this library, which this one does not read: their "
                "users have to sign in again, and all processes need the same version; see "
                "docs/how-to/production.md"
            )


def _is_refusal(failure: Exception) -> bool:
    """Return whether a node has refused to answer because of its role or state."""
    return isinstance(failure, _REFUSALS) or _REFUSAL_TEXT.search(str(failure)) is not None


def _is_of_node(failure: Exception) -> bool:
    """Return whether the node is the matter, and not the operation."""
    return not isinstance(failure, ResponseError) or _is_refusal(failure)
