"""Script: calls the server-side script in which each operation of a store is one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

from ...errors import MissingDependency, StoreUnavailable
from ...keys import GROUPS
from ...log import log
from ..base import Notice
from .client import ProcessClient
from .records import encode_number, notice

try:
    from redis import Redis, RedisCluster
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, RedisError, ResponseError
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

FAILURES: Final = (RedisError, OSError, ValueError)  # ValueError: a connection has been closed by another thread

_TEXT: Final = Path(__file__).with_name("script.lua").read_bytes()
_SHA: Final = sha1(_TEXT, usedforsecurity=False).hexdigest()

ALL_GROUPS: Final = range(GROUPS)
# After how many waits without a notice a subscription asks whether Redis is there.
_READS_PER_PING: Final = 4


class Script:
    """Calls operations of `script.lua` for groups of users, each of which lives in one hash slot.

    Args:
        client: The client that is asked; it is never closed here.
        prefix: What all keys in Redis begin with.
        now: The time that is passed to the script; `None` for the clock of Redis.

    Whatever goes wrong on the way is `StoreUnavailable`; the log has one line when that begins and one when it is over.

    Threads: any; it changes only the note of what it has logged.
    """

    def __init__(self, client: Redis | RedisCluster, prefix: str, now: Callable[[], float] | None) -> None:
        self.client = ProcessClient(client)
        self.channel = f"{prefix}notices"
        self._due = [f"{prefix}{{{group}}}:due".encode() for group in ALL_GROUPS]
        self._now = now
        # Which groups one call can be about.
        self.batches = [[group] for group in ALL_GROUPS] if self.client.is_cluster else [list(ALL_GROUPS)]
        # The operation that Redis has refused, empty if it did not answer at all, None without a failure.
        self._failed_operation: str | None = None
        self._policy_is_known = False
        self._subscription: Any = None

    @property
    def is_unreachable(self) -> bool:
        """Whether Redis did not answer when it was asked last."""
        return self._failed_operation == ""

    def call(self, operation: str, groups: Sequence[int], *args: Any) -> Any:
        """Return what `operation` answers: texts as `bytes`, and `None` for none."""
        now = b"" if self._now is None else encode_number(self._now())
        rest = (len(groups), *(self._due[group] for group in groups), operation, now, *args)
        try:
            with self.client.use() as client:
                try:
                    answer = client.execute_command("EVALSHA", _SHA, *rest)
                except NoScriptError:  # it was restarted, or is another node
                    answer = client.execute_command("EVAL", _TEXT, *rest)
        except FAILURES as failure:
            raise self._failed(failure, operation) from failure
        except BaseException:  # of a signal handler: an answer that was not read is not that of the next call
            self.client.close()
            raise
        # With a full memory Redis refuses some operations and not others: that is one line in the log, not many.
        if self._failed_operation in ("", operation):
            self._failed_operation = None
            log.warning("Redis is reachable again")
        return answer

    def _failed(self, failure: Exception, operation: str) -> StoreUnavailable:
        is_new = self._failed_operation is None
        self._failed_operation = operation if isinstance(failure, ResponseError) else ""
        if is_new:
            log.error("Redis is unreachable, every session is refused: %s: %s", type(failure).__name__, failure)
        text = f"Redis is unreachable, and a change may have been made: {type(failure).__name__}: {failure}"
        return StoreUnavailable(text)

    def subscribe(self, timeout: float) -> Iterator[Notice | None]:
        """Subscribe to the notices; yield `None` once that is done, then each one, and `None` after each timeout.

        A failure is not logged here: the next call of the script says whether Redis is reachable.
        """
        try:
            with self.client.use() as client:
                yield from self._read(client, timeout)
        except FAILURES as failure:
            raise StoreUnavailable(f"{type(failure).__name__}: {failure}") from failure

    def _read(self, client: Any, timeout: float) -> Iterator[Notice | None]:
        self._subscription = subscription = client.pubsub()
        try:
            subscription.subscribe(self.channel)
            # It yields at once when this comes back, and the script must be allowed to do it, too.
            client.publish(self.channel, b"")
            silent_for, is_subscribed = 0, False
            while True:
                message = subscription.get_message(timeout=timeout)
                silent_for = 0 if message else silent_for + 1
                if silent_for == 2 * _READS_PER_PING:
                    raise RedisConnectionError("no answer to a ping of the subscription")
                if silent_for == _READS_PER_PING:
                    subscription.ping()
                kind = message and message["type"]
                if kind == "message":
                    yield notice(message["data"])
                elif kind is None or (kind == "subscribe" and is_subscribed):  # redis-py has connected again
                    yield None
                is_subscribed = is_subscribed or kind == "subscribe"
        finally:
            if self._subscription is subscription:  # else this is a forked child
                self._subscription = None
                subscription.close()

    def interrupt(self) -> None:
        """Let a subscription of this process that waits for a notice yield `None`."""
        if self._subscription is not None and not self.is_unreachable:
            with suppress(*FAILURES), self.client.use() as client:  # else it yields after its timeout
                client.publish(self.channel, b"")

    def after_fork_in_child(self) -> None:
        """Leave the subscription to the parent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.connection = None  # so that it does not return it to the parent's pool when it is released

    def pages(self, operation: str, groups: Sequence[int], *args: Any) -> Iterator[list[Any]]:
        """Call an operation that scans groups until it has seen all; yield what it answers beside the cursors."""
        cursors: Sequence[bytes] = [b"0"] * len(groups)
        while groups:
            cursors, *answer = self.call(operation, groups, *args, *cursors)
            yield answer
            left = [(group, cursor) for group, cursor in zip(groups, cursors, strict=True) if cursor]
            groups, cursors = [group for group, _ in left], [cursor for _, cursor in left]

    def warn_of_eviction(self) -> None:
        """Log a warning, once, if Redis is set to drop sessions when its memory is full, as far as that is known."""
        if self._policy_is_known:
            return
        self._policy_is_known = True
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if self.client.is_cluster else {}
        try:
            with self.client.use() as client:
                answer = client.info("memory", **nodes)
        except FAILURES as failure:
            log.debug("The maxmemory-policy of Redis is not known: %s", type(failure).__name__)
            return
        several = [node for node in answer.values() if isinstance(node, dict)]
        policies = {node.get("maxmemory_policy", "noeviction") for node in several or [answer]}
        for policy in policies - {"noeviction"}:
            log.warning(
                "maxmemory-policy of Redis is %s: it logs users out when its memory is full; set it to noeviction",
                policy,
            )
