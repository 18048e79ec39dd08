"""socket.io-client of npm, which the examples keep in a folder of their own once they have it."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def client_script() -> Path | None:
    """Return the script, or `None` without npm. Several test processes install it one after the other."""
    spec = importlib.util.spec_from_file_location("npm_socket_io_client", EXAMPLES / "shared" / "socket_io_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with open(Path(tempfile.gettempdir()) / f"socket-io-client-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script: Path | None = module.fetch()
        return script
