"""Processes that share a store: workers that note what they see, and programs that fork."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interpreter import run
from store_address import StoreAddress
from waiting import WAIT, eventually

WORKER = Path(__file__).with_name("process_worker.py")


class Processes:
    """Workers that share one store, and what each of them has seen."""

    def __init__(self, address: StoreAddress, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.lease = 600.0  # a process that has to wait for the processor is not to lose what it has claimed
        self.shared = folder / "shared.db"
        self.alive: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: dict[str, float] = {}
        self.started = 0

    def start(self, scenario: str, *args: object) -> str:
        self.started += 1
        name = f"worker-{self.started}"
        command = [sys.executable, WORKER, scenario, *self.address, self.lease, self.folder / name, self.shared]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.alive[name] = subprocess.Popen(
                [*map(str, command), *map(str, args)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=uncovered()
            )
        return name

    def kill(self, name: str) -> None:
        process = self.alive.pop(name)
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=WAIT) == -signal.SIGKILL
        self.killed[name] = time.time()

    def end(self) -> None:
        """End all of them as they are meant to end; none has written anything to its console."""
        for process in self.alive.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self.alive.items():
            assert process.wait(timeout=WAIT) == 0, name
        self.alive.clear()
        logs = [log.read_text() for log in self.folder.glob("*.log") if log.name.startswith("worker")]
        # The one line is what the first `error` listener causes.
        assert [log.partition("From now on the npm methods")[0] + log.partition("\n")[2] for log in logs] == [
            ""
        ] * self.started

    def stop(self) -> None:
        """End those that a failed test has left."""
        for process in self.alive.values():
            assert process.stdin is not None
            process.kill()
            process.wait()
            process.stdin.close()

    def facts(self, what: str, *names: str) -> list[dict[str, Any]]:
        """All that was noted of that kind, in the order of the time, with the name of the worker."""
        found = []
        for file in self.folder.glob("worker-*"):
            if file.suffix or (names and file.name not in names):
                continue
            lines = file.read_text().splitlines()
            found += [{"worker": file.name, **json.loads(line)} for line in lines if f'"what": "{what}"' in line]
        return sorted(found, key=lambda fact: fact["at"])

    def wait_for(self, what: str, *names: str) -> None:
        for name in names:
            eventually(lambda name=name: self.facts(what, name))


def uncovered() -> dict[str, str]:
    """The environment without coverage, which has locks of its own and costs its time in each process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


OPENED = """
    import os, signal, sys, threading, time
    from store_address import StoreAddress
    from users_session_manager import SessionManager

    address = StoreAddress(*sys.argv[1:])
    store = address.open(lease=20, timeout=30)
    manager = SessionManager(store=store)

    def write(session, reason):  # at once, also in a child and at the exit
        os.write(1, f"{session.username} {reason} {os.getpid() == parent}\\n".encode())

    manager.on("sessionEnded", write)
    parent = os.getpid()

    def wait_for_ends():  # until each session has ended, and its end is acknowledged
        while address.kept():
            time.sleep(0.05)
"""


def run_opened(address: StoreAddress, program: str, opened: str = OPENED) -> Any:
    """Run a program that shares a store, in an interpreter of its own; it may fork at any moment."""
    return run(opened + program, *address, covered=False, PYTHONPATH=str(WORKER.parent))
