"""ProcessClient: the clients of redis-py that a process uses, made after the one that was handed in."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ...clock import LOCK
from ...errors import MissingDependency

try:
    from redis import BlockingConnectionPool, Redis, RedisCluster
    from redis.sentinel import SentinelConnectionPool
except ImportError as missing:
    raise MissingDependency("redis", "redis") from missing

# Clients that a forked child has from its parent. They are kept: to release them would take their locks, which a thread
# of the parent may have held at the fork.
_kept: Final[list[Any]] = []


class ProcessClient:
    """A client of this process, made when it is first asked for, and anew in a forked child.

    Args:
        template: What `RedisStore` was given; it is never used itself, and never closed.

    Threads: any thread may call any method.
    """

    def __init__(self, template: Redis | RedisCluster) -> None:
        self.is_cluster = isinstance(template, RedisCluster)
        self._template = template
        self._made: tuple[int, Any] = (0, None)  # the id of the process that made it, and the client
        self._users: dict[Any, int] = {}  # how many calls use a client now

    def get(self) -> Any:
        """Return the client of this process, whose answers are `bytes`. One of a cluster connects when it is made."""
        process_id, client = self._made
        if client is not None and process_id == os.getpid():
            return client
        if client is not None:
            self._keep(client)
        client = _copy_cluster(self._template) if self.is_cluster else _copy(self._template)
        with LOCK:
            process_id, made = self._made
            if made is None or process_id != os.getpid():
                self._made = (os.getpid(), client)
                return client
        self._disconnect(client)  # another thread was faster
        return made

    def is_present(self, client: Any) -> bool:
        """Return whether this client of this process has not been closed."""
        return client is self._made[1]

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Return the client of this process, which `close` closes after its last use."""
        client, process_id = self.get(), os.getpid()
        with LOCK:
            self._users[client] = self._users.get(client, 0) + 1
        try:
            yield client
        finally:
            if process_id == os.getpid():
                with LOCK:
                    # A signal handler may raise in between: then the count is too high, and never too low.
                    self._users[client] = left = self._users.get(client, 1) - 1
                    if not left:
                        del self._users[client]
                    is_closed = not left and client is not self._made[1]
                if is_closed:
                    self._disconnect(client)

    def close(self) -> None:
        """Close the connections of this process, those in use later; `get` makes a new client."""
        with LOCK:
            process_id, client = self._made
            if client is None or process_id != os.getpid():
                return
            self._made = (0, None)
            is_used = client in self._users
        if not is_used:
            self._disconnect(client)

    def _disconnect(self, client: Any) -> None:
        client.close()
        if not self.is_cluster:
            client.connection_pool.disconnect()

    def _keep(self, client: Any) -> None:
        _kept.append(client)
        for node in client.get_nodes() if self.is_cluster else ():
            node.redis_connection.auto_close_connection_pool = False  # at the exit, when nothing is kept any more


def _copy(template: Any) -> Any:
    pool = template.connection_pool
    options = _options(pool.connection_kwargs)
    if isinstance(pool, SentinelConnectionPool):
        options |= {"is_master": pool.is_master, "check_connection": pool.check_connection}
        options |= {"service_name": pool.service_name, "sentinel_manager": copy.copy(pool.sentinel_manager)}
        options["sentinel_manager"].sentinels = [_copy(each) for each in pool.sentinel_manager.sentinels]
        del options["connection_pool"]  # the pool puts itself there
    if isinstance(pool, BlockingConnectionPool):
        options |= {"timeout": pool.timeout, "queue_class": pool.queue_class}
    options |= {"connection_class": pool.connection_class, "max_connections": pool.max_connections}
    # A client that is given its pool does not close it when it is released.
    return type(template)(connection_pool=type(pool)(**options))


def _copy_cluster(template: Any) -> Any:
    manager = template.nodes_manager
    options = _options(manager.connection_kwargs)
    for name in ("redis_connect_func", "retry"):  # the cluster's own
        options.pop(name, None)
    if template.read_from_replicas:  # newer versions warn of it
        options["read_from_replicas"] = True
    for name in ("cluster_error_retry_attempts", "retry"):  # up to redis-py 5, and from 6 on
        if hasattr(template, name):
            options[name] = getattr(template, name)
    return type(template)(
        startup_nodes=[type(node)(node.host, node.port) for node in manager.startup_nodes.values()],
        address_remap=manager.address_remap,
        reinitialize_steps=template.reinitialize_steps,
        require_full_coverage=manager._require_full_coverage,
        dynamic_startup_nodes=manager._dynamic_startup_nodes,
        **options,
    )


def _options(template: dict[str, Any]) -> dict[str, Any]:
    shared = ("event_dispatcher", "himport_registry")  # what a client shares with its connections, locks included
    return {name: value for name, value in template.items() if name not in shared} | {"decode_responses": False}
