"""A real PostgreSQL of the tests' own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def postgresql_program(name: str) -> str:
    """Return the path of a program of PostgreSQL; skip the test without one."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    search = os.pathsep.join([*map(str, reversed(installed)), os.environ.get("PATH", "")])
    program = shutil.which(name, path=search)
    if program is None:
        reason = "no PostgreSQL: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return program


def unprivileged() -> dict[str, Any]:
    """Return the arguments of `subprocess` for a program that refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


class PostgreSQLServer:
    """A PostgreSQL on a free port of loopback, which can be stopped and started again, with its data.

    Args:
        folder: An empty folder that `unprivileged()` may enter; all that it writes is there.
        settings: Those of `postgresql.conf`, as `name=value`.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.password = secrets.token_hex()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.data = folder / "data"
        self.url = self.url_of("tester", self.password)
        self._settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        self._settings += settings
        self._server: subprocess.Popen[str] | None = None

    def make(self) -> None:
        """Make its data, with the user `tester`, who may do everything."""
        file = self.folder / "password"
        file.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, file):
                shutil.chown(path, "postgres", "postgres")
        options = ["--username", "tester", "--auth", "scram-sha-256", "--pwfile", str(file)]
        command = [postgresql_program("initdb"), "-D", str(self.data), "--no-sync", "--encoding", "UTF8", *options]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **unprivileged())

    def url_of(self, user: str, password: str, database: str = "postgres") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        settings = [part for setting in self._settings for part in ("-c", setting)]
        command = [postgresql_program("postgres"), "-D", str(self.data), *settings]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/", **unprivileged())
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if "ready to accept" in line:
                break
        else:
            server.wait()
            server.stderr.close()
            pytest.fail(f"PostgreSQL did not start: {lines}")
        # Its other output must not fill the pipe.
        self._reader = threading.Thread(target=server.stderr.read, name="postgresql", daemon=True)
        self._reader.start()
        self._server = server

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it without waiting for clients that are still connected; it does nothing if it does not run."""
        server, self._server = self._server, None
        if server is None:
            return
        assert server.stderr is not None
        server.send_signal(number)
        server.wait(timeout=30)
        self._reader.join(timeout=30)
        server.stderr.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let it and all of its processes do nothing meanwhile, as if its machine did not answer."""
        assert self._server is not None
        pid = self._server.pid
        self._server.send_signal(signal.SIGSTOP)  # first, so that it starts no further process
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for child in children:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in (*children, pid):
                os.kill(each, signal.SIGCONT)


@contextlib.contextmanager
def own_postgresql_server(*settings: str) -> Iterator[PostgreSQLServer]:
    """Run a PostgreSQL with these settings."""
    postgresql_program("postgres")
    # Not in a folder of pytest's, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="usm-postgresql-") as folder:
        server = PostgreSQLServer(Path(folder), *settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """Run a PostgreSQL; yield the address of a user who may make databases."""
    with own_postgresql_server() as server:
        yield server.url
