"""Four workers behind nginx that share their sessions through Redis: whoever logs out in one is logged out in all.

Run it with `python examples/cluster/run.py` and open the address it prints. It needs nginx and redis-server. Beside
this file: `app.py`, what each worker serves, `gunicorn.conf.py`, how, and `nginx.conf`, what stands before them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # what the examples share
from socket_io_client import fetch  # noqa: E402

WORKERS = 4
PATIENCE = 10  # seconds for a process to end when it is asked to


class Processes:
    """What has been started, in groups, to be ended in the opposite order."""

    def __init__(self) -> None:
        self._groups: list[list[subprocess.Popen[bytes]]] = []
        # A signal may come while the queue is in use; this kind of queue is made for that.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._signals.put(number))

    def start(self, *commands: list[str], **options: Any) -> None:
        self._groups.append([])
        for command in commands:
            # In a session of its own: Ctrl-C would end all of them at once, and Redis before those who still need it.
            process = subprocess.Popen(command, cwd=HERE, start_new_session=True, stdin=subprocess.DEVNULL, **options)  # noqa: S603
            self._groups[-1].append(process)

    def wait(self, port: int | None = None) -> None:
        """Wait until one of them listens on `port`, for ever without one; exit on Ctrl-C, and when one has ended."""
        while port is None or not is_listening(port):
            try:
                if self._signals.get(timeout=None if port is None else 0.05) != signal.SIGCHLD:
                    sys.exit()
            except queue.Empty:
                continue
            for process in itertools.chain(*self._groups):
                if process.poll() is not None:
                    sys.exit(f"This has ended by itself, with status {process.returncode}: {shlex.join(process.args)}")

    def stop(self) -> None:
        for group in reversed(self._groups):
            for process in group:
                process.terminate()
            for process in group:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
                process.kill()  # does nothing to one that has ended
                process.wait()


def find(program: str) -> str:
    """Return the path of a program; exit if it is not installed."""
    # Debian has nginx where only root looks.
    places = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"]
    return shutil.which(program, path=os.pathsep.join(places)) or sys.exit(
        f"This example needs {program}, which is not on the PATH: apt-get install {program}"
    )


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens there on loopback; on a free port by default."""
    return socket.create_server(("127.0.0.1", port), backlog=128)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(processes: Processes, folder: Path, port: int, timeout: float, programs: dict[str, str]) -> None:
    """Start the cluster, say where it is, and return when it is to end."""
    script = fetch(HERE / "instance")
    with listen() as free:
        redis_port = free.getsockname()[1]
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    options = ["--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(folder), "--save", ""]
    processes.start([programs["redis-server"], *options, "--loglevel", "warning"], stdout=subprocess.DEVNULL)
    processes.wait(redis_port)

    # One gunicorn for each, with a port of its own. The workers of one gunicorn share its port, where nobody can say
    # which of them is meant.
    sockets = [listen() for _ in range(WORKERS)]
    commands = []
    for number, listening in enumerate(sockets, start=1):
        settings = f"worker={number}, timeout={timeout}, client_script={script and str(script)!r}"
        bind = ["--bind", f"fd://{listening.fileno()}"]
        commands.append([sys.executable, "-m", "gunicorn", *bind, f"app:create_app({redis_url!r}, {settings})"])
    processes.start(*commands, pass_fds=[listening.fileno() for listening in sockets])
    addresses = ["{}:{}".format(*listening.getsockname()) for listening in sockets]
    for listening in sockets:
        listening.close()

    configuration = (HERE / "nginx.conf").read_text(encoding="utf-8").replace("<port>", str(port))
    servers = "\n        ".join(f"server {address};" for address in addresses)
    (folder / "nginx.conf").write_text(configuration.replace("<servers>", servers), encoding="utf-8")
    processes.start([programs["nginx"], "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"])
    processes.wait(port)
    print(f"Open http://127.0.0.1:{port}/ in a browser. Ctrl-C ends it.")
    print("The workers themselves:", *(f"http://{address}/" for address in addresses))
    print("Their sessions:", redis_url, flush=True)
    processes.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="nginx's; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    options = parser.parse_args()
    programs = {name: find(name) for name in ("redis-server", "nginx")}
    if not 2 <= options.timeout <= 1e9:
        parser.error("--timeout must be at least 2 seconds")
    try:
        with listen(options.port) as free:
            port = free.getsockname()[1]
    except OSError as taken:
        parser.error(f"port {options.port}: {taken.strerror}")
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        try:
            run(processes, Path(folder), port, options.timeout, programs)
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
