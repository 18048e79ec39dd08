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


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """Run a PostgreSQL on a free port of loopback; yield the address of a user who may make databases."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    search = os.pathsep.join([*map(str, reversed(installed)), os.environ.get("PATH", "")])
    initdb, program = shutil.which("initdb", path=search), shutil.which("postgres", path=search)
    if initdb is None or program is None:
        reason = "no PostgreSQL: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    # It refuses to run as root, and cannot look into a folder of pytest's, which is root's alone.
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="usm-postgresql-") as place, socket.create_server(("127.0.0.1", 0)) as free:
        folder, password, port = Path(place), secrets.token_hex(), free.getsockname()[1]
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        data = str(folder / "data")
        options = ["--username", "tester", "--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run([initdb, "-D", data, "--no-sync", "--encoding", "UTF8", *options], check=True, cwd="/", **user)
        free.close()
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [program, "-D", data, *(part for setting in settings for part in ("-c", setting))]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/", **user)
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail(f"PostgreSQL did not start: {lines}")
        # Whatever else it writes must not fill the pipe.
        reader = threading.Thread(target=server.stderr.read, name="postgresql", daemon=True)
        reader.start()
        yield f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"
        server.send_signal(signal.SIGINT)  # ends it without waiting for clients that are still connected
        server.wait(timeout=30)
        reader.join(timeout=30)
        server.stderr.close()
