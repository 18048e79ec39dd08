"""Redis as it fails: a name that moves, cuts, lost answers, and replicas that take over."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis_server import RedisServer, redis_program
from waiting import WAIT, eventually


def bound(seconds: float) -> float:
    """Return how long something may take: beside the other tests, as long as a test waits for anything."""
    return WAIT if "PYTEST_XDIST_WORKER" in os.environ else seconds


class Stalls:
    """Measures how late a thread runs that sleeps for 10 ms again and again: what a busy machine adds to any time."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def _measure(self) -> None:
        while True:
            start = time.monotonic()
            if self._stop.wait(0.01):
                return
            self.longest = max(self.longest, time.monotonic() - start - 0.01)

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()


class _Connection:
    """A connection of a client, and the one to Redis that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.is_subscription = False
        self._pumps = 2
        self._lock = threading.Lock()

    def shut_down(self) -> None:
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def pump_ends(self) -> None:
        self.shut_down()
        with self._lock:
            self._pumps -= 1
            if not self._pumps:
                for each in self.sockets:
                    each.close()


class Proxy:
    """A TCP proxy on a free port of loopback: the name by which a Redis is reached.

    A new connection goes to the port `target`, as after a change in the DNS; open ones stay where they are. With
    `drop_every` at 20, the connection of every twentieth answer is closed in place of passing the answer on.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.drop_every = 0
        self.dropped = 0
        self._answers = itertools.count(1)
        self._passes = threading.Event()
        self._passes.set()
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._start(self._accept)

    def cut(self) -> None:
        """Pass nothing on from now on, and keep what comes; connections stay open."""
        self._passes.clear()

    def heal(self) -> None:
        """Pass on what was kept, and what comes."""
        self._passes.set()

    def close(self) -> None:
        self._passes.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(WAIT)
        self._listener.close()
        for connection in self._connections:
            connection.shut_down()
        for thread in self._threads:
            thread.join(WAIT)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._passes.wait()
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server)
            self._connections.append(connection)
            self._start(self._pump_requests, connection)
            self._start(self._pump_answers, connection)

    def _pump_requests(self, connection: _Connection) -> None:
        client, server = connection.sockets
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                self._note(connection, data)
                self._passes.wait()
                server.sendall(data)
        connection.pump_ends()

    def _pump_answers(self, connection: _Connection) -> None:
        client, server = connection.sockets
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                self._passes.wait()
                if self._is_dropped(connection):
                    break
                client.sendall(data)
        connection.pump_ends()

    def _note(self, connection: _Connection, request: bytes) -> None:
        """Note what matters of a request before it is passed on."""
        connection.is_subscription |= b"SUBSCRIBE" in request.upper()

    def _is_dropped(self, connection: _Connection) -> bool:
        """Return whether the present answer is to be lost. A notice is none: it was not asked for."""
        every = self.drop_every
        if not every or connection.is_subscription or next(self._answers) % every:
            return False
        self.dropped += 1
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


class Servers:
    """Starts servers, each in a folder of its own, and stops them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._count = itertools.count()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def start(self, *options: str) -> RedisServer:
        folder = self._own_folder()
        server = RedisServer(folder, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *options)
        self._stack.callback(server.stop)
        return server

    def proxy(self, target: int) -> Proxy:
        proxy = Proxy(target)
        self._stack.callback(proxy.close)
        return proxy

    def client(self, port: int, **options: Any) -> Any:
        """Return a client of the test's own, whose texts are `str`."""
        import redis  # the extra may be missing

        client = redis.Redis(port=port, decode_responses=True, socket_timeout=WAIT, **options)
        self._stack.callback(client.close)
        return client

    def master_and_replica(self, *options: str) -> tuple[RedisServer, RedisServer]:
        master = self.start(*options)
        replica = self.start("--replicaof", f"127.0.0.1 {master.port}", *options)
        eventually(lambda: is_in_sync(self.client(replica.port)))
        return master, replica

    def start_loading(self, server: RedisServer, *options: str) -> None:
        """Start a stopped server again, and do not wait until it has read its file."""
        with server.log.open("w") as log:
            server.process = subprocess.Popen([*server.command, *options], stdout=log, stderr=subprocess.STDOUT)

    def sentinels(self, master: RedisServer, down_after: int = 3000) -> list[int]:
        """Start three sentinels that watch the master under the name `sessions`; return their ports."""
        ports = []
        for _ in range(3):
            folder, port = self._own_folder(), free_port()
            (folder / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor sessions 127.0.0.1 {master.port} 2\n"
                f"sentinel down-after-milliseconds sessions {down_after}\n"
                "sentinel failover-timeout sessions 2000\n"
            )
            with (folder / "sentinel.log").open("w") as log:
                process = subprocess.Popen(
                    [redis_program(), str(folder / "sentinel.conf"), "--sentinel"], stdout=log, stderr=subprocess.STDOUT
                )
            self._stack.callback(process.wait, WAIT)
            self._stack.callback(process.terminate)
            ports.append(port)
        for port in ports:
            eventually(lambda port=port: answers(port))
        for port in ports:
            eventually(lambda port=port: self._watches(port))
        return ports

    def _watches(self, port: int) -> bool:
        """Return whether a sentinel knows the two others and a replica that could take over."""
        return len(self.client(port).sentinel_sentinels("sessions")) == 2 and self.has_fit_replica(port)

    def has_fit_replica(self, port: int) -> bool:
        """Return whether a sentinel knows a replica that could take over."""
        replicas = self.client(port).sentinel_slaves("sessions")
        return any(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in replicas)

    def cluster(self, node_timeout: int = 5000) -> list[tuple[RedisServer, RedisServer]]:
        """Start a cluster of three masters with a replica each; return the pairs."""
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout))
        servers = [self.start(*options) for _ in range(6)]
        nodes = [self.client(server.port) for server in servers]
        for index, node in enumerate(nodes):
            if index < 3:
                node.execute_command("CLUSTER ADDSLOTSRANGE", 16384 * index // 3, 16384 * (index + 1) // 3 - 1)
            node.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
            nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", servers[index].port)
        for node in nodes:
            eventually(lambda node=node: node.cluster("INFO")["cluster_known_nodes"] == "6")
        for master, replica in zip(nodes[:3], nodes[3:], strict=True):
            replica.cluster("REPLICATE", master.cluster("MYID"))
        for node in nodes:
            eventually(lambda node=node: len(masters_with_replicas(node)) == 3)
        for replica in nodes[3:]:
            eventually(lambda replica=replica: is_in_sync(replica))
        return list(zip(servers[:3], servers[3:], strict=True))

    def _own_folder(self) -> Path:
        folder = self.folder / f"server-{next(self._count)}"
        folder.mkdir()
        return folder


def is_in_sync(replica: Any) -> bool:
    info = replica.info("replication")
    return info["role"] == "slave" and info["master_link_status"] == "up"


def masters_with_replicas(node: Any) -> dict[int, list[int]]:
    """Return the ports of the replicas by that of their master, of all that have slots, as a node of a cluster sees it.

    It is empty while the cluster does not serve.
    """
    if node.cluster("INFO")["cluster_state"] != "ok":
        return {}
    found: dict[int, list[int]] = {}
    for _, _, master, *replicas in node.execute_command("CLUSTER SLOTS"):
        if replicas:
            found[master[1]] = [replica[1] for replica in replicas]
    return found


@contextlib.contextmanager
def holding_back(master: Any, replica: Any) -> Iterator[None]:
    """Keep what is written from now on from the replica, which is free again at the end."""
    replica.config_set("masterauth", "not the password")  # with one, a master without a password refuses it
    master.execute_command("CLIENT KILL TYPE replica")
    try:
        yield
    finally:
        replica.config_set("masterauth", "")
