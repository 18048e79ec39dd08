"""Four workers behind nginx that share their sessions through Redis: a logout in one is a logout in all.

Run it with `python examples/cluster/run.py` and open the address it prints. It needs nginx and redis-server. In this
folder: `app.py` is the application of each worker, `gunicorn.conf.py` and `nginx.conf` configure its servers.
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
sys.path.append(str(HERE.parent))  # for the package `shared`
from shared.socket_io_client import fetch  # noqa: E402

WORKERS = 4
STOP_TIMEOUT = 10  # seconds


class Processes:
    """The processes of the cluster, in groups that are started one after the other and ended in reverse order."""

    def __init__(self) -> None:
        self._groups: list[list[subprocess.Popen[bytes]]] = []
        # A signal may arrive while the queue is in use; this kind of queue is re-entrant.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._signals.put(number))

    def start(self, *commands: list[str], **options: Any) -> None:
        self._groups.append([])
        for command in commands:
            # In a session of its own: Ctrl-C would end all at once, and Redis before the workers that still need it.
            process = subprocess.Popen(command, cwd=HERE, start_new_session=True, stdin=subprocess.DEVNULL, **options)  # noqa: S603
            self._groups[-1].append(process)

    def wait(self, port: int | None = None) -> None:
        """Wait until `port` accepts connections, or for ever without one; exit on Ctrl-C or when a process ends."""
        while port is None or not is_listening(port):
            try:
                if self._signals.get(timeout=None if port is None else 0.05) != signal.SIGCHLD:
                    sys.exit()
            except queue.Empty:
                continue
            for process in itertools.chain(*self._groups):
                if process.poll() is not None:
                    sys.exit(f"This process has ended with status {process.returncode}: {shlex.join(process.args)}")

    def stop(self) -> None:
        for group in reversed(self._groups):
            for process in group:
                process.terminate()
            for process in group:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT)
                process.kill()  # does nothing if it has ended
                process.wait()


def find(program: str) -> str:
    """Return the path of a program; exit if it is not installed."""
    # Debian installs nginx where only root's PATH leads.
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
    """Start the cluster, print its addresses, and run it until Ctrl-C."""
    script = fetch()
    with listen() as free:
        redis_port = free.getsockname()[1]
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    options = ["--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(folder), "--save", ""]
    processes.start([programs["redis-server"], *options, "--loglevel", "warning"], stdout=subprocess.DEVNULL)
    processes.wait(redis_port)

    # One gunicorn for each, with a port of its own. The workers of one gunicorn share its port, so nginx could not
    # choose between them.
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
    except OSError as error:
        parser.error(f"port {options.port}: {error.strerror}")
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        try:
            run(processes, Path(folder), port, options.timeout, programs)
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
