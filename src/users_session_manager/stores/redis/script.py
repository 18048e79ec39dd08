"""Script: calls the server-side script in which each operation of a store is one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

from ...errors import MissingDependency, StoreUnavailable
from ...keys import GROUPS
from ...log import log
from .records import encode_number

try:
    from redis import Redis, RedisCluster
    from redis.exceptions import NoScriptError, RedisError, ResponseError
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

_TEXT: Final = Path(__file__).with_name("script.lua").read_bytes()
_SHA: Final = sha1(_TEXT, usedforsecurity=False).hexdigest()

ALL_GROUPS: Final = range(GROUPS)


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
        self.client: Any = client
        self._due = [f"{prefix}{{{group}}}:due".encode() for group in ALL_GROUPS]
        self._now = now
        self._is_cluster = isinstance(client, RedisCluster)
        # Which groups one call can be about.
        self.batches = [[group] for group in ALL_GROUPS] if self._is_cluster else [list(ALL_GROUPS)]
        # The operation that Redis has refused, empty if it did not answer at all, None without a failure.
        self._failed_operation: str | None = None
        self._policy_is_known = False

    @property
    def is_unreachable(self) -> bool:
        """Whether Redis did not answer when it was asked last."""
        return self._failed_operation == ""

    def call(self, operation: str, groups: Sequence[int], *args: Any) -> Any:
        """Return what `operation` answers: texts as `bytes`, and `None` for none."""
        now = b"" if self._now is None else encode_number(self._now())
        rest = (len(groups), *(self._due[group] for group in groups), operation, now, *args)
        try:
            try:
                answer = self.client.execute_command("EVALSHA", _SHA, *rest, NEVER_DECODE=True)
            except NoScriptError:  # it was restarted, or is another node
                answer = self.client.execute_command("EVAL", _TEXT, *rest, NEVER_DECODE=True)
        except (RedisError, OSError, ValueError) as failure:  # ValueError: the client has been closed
            is_new = self._failed_operation is None
            self._failed_operation = operation if isinstance(failure, ResponseError) else ""
            if is_new:
                log.error("Redis is unreachable, every session is refused: %s: %s", type(failure).__name__, failure)
            raise StoreUnavailable(f"Redis is unreachable: {type(failure).__name__}: {failure}") from failure
        # With a full memory Redis refuses some operations and not others: that is one line in the log, not many.
        if self._failed_operation in ("", operation):
            self._failed_operation = None
            log.warning("Redis is reachable again")
        return answer

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
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if self._is_cluster else {}
        try:
            answer = self.client.info("memory", **nodes)
        except (RedisError, OSError, ValueError) as failure:  # ValueError: the client has been closed
            log.debug("The maxmemory-policy of Redis is not known: %s", type(failure).__name__)
            return
        several = [node for node in answer.values() if isinstance(node, dict)]
        policies = {node.get("maxmemory_policy", "noeviction") for node in several or [answer]}
        for policy in policies - {"noeviction"}:
            log.warning(
                "maxmemory-policy of Redis is %s: it logs users out when its memory is full; set it to noeviction",
                policy,
            )
