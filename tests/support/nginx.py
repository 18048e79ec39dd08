"""An nginx on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import WAIT, eventually

CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}

http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    <http>
}
"""


@contextmanager
def nginx(folder: Path, http: str, **values: str) -> Iterator[str]:
    """Run nginx in a folder; return the host and the port on which it listens.

    Args:
        folder: For its files.
        http: What its block `http` has beside the paths. `<listen>` there becomes that host and port.
        values: What else in angle brackets becomes what.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        reason = "no nginx on the PATH: apt-get install nginx"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    text = CONFIGURATION.replace("<http>", http)
    for name, value in {"listen": f"{host}:{port}", **values}.items():
        text = text.replace(f"<{name}>", value)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"])

    def is_listening() -> bool:
        assert process.poll() is None, "nginx has ended"
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0

    try:
        eventually(is_listening)
        yield f"{host}:{port}"
    finally:
        process.terminate()
        process.wait(WAIT)
