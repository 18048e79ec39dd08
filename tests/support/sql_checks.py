"""Waits, checks and failures for the tests of sessions in a SQL database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from waiting import WAIT, eventually

from users_session_manager import StoreUnavailable
from users_session_manager.stores.sql import SQLStore


def lines_of(caplog: Any) -> list[str]:
    """Return the beginning of each line of the log that is a warning or worse."""
    records = [record for record in caplog.records if record.name == "users_session_manager"]
    return [record.getMessage().partition(":")[0] for record in records if record.levelno >= 30]


def answer(call: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns, `None` while the database does not answer."""
    try:
        return call(*args)
    except StoreUnavailable:
        return None


def check_connections(store: SQLStore) -> None:
    """Check that no call has kept a connection: all that there may be are to be had."""
    database = store._database
    eventually(lambda: not database._in_use)
    assert len(database._open) == len(database._idle) <= database._connections


def copy_log(path: Path) -> None:
    """Copy all of the log beside a SQLite file into it: SQLite would find the sessions there, whatever the file is."""
    with contextlib.closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


class Watcher:
    """Has a client of one session, and hears of its end."""

    def __init__(self, manager: Any, key: str) -> None:
        self.session_id, self.key, self.ended = manager.getSession(key)._id, key, threading.Event()
        manager.addWatcher(self)

    def watched(self) -> dict[Any, str]:
        return {self.session_id: self.key}

    def noticed(self, notice: Any) -> None:
        if notice.kind in ("deleted", "ended"):
            self.ended.set()


@contextlib.contextmanager
def program(text: str, *args: object, **options: Any) -> Iterator[Any]:
    """Run a Python program that writes lines, and ends when its standard input is closed; it must end well."""
    command = [sys.executable, "-c", text, *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, **options)
    try:
        yield process
    finally:
        process.stdin.close()
        rest = process.stdout.read()
        process.stdout.close()
        code = process.wait(WAIT)
        assert code == 0, rest


_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN " + sys.argv[2])
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextlib.contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Let another process hold the lock of a SQLite file."""
    with program(_LOCK, path, how) as process:
        assert process.stdout.readline() == "locked\n"
        yield


@contextlib.contextmanager
def removed(path: Path) -> Iterator[None]:
    path.unlink()
    yield


@contextlib.contextmanager
def truncated(path: Path) -> Iterator[None]:
    os.truncate(path, 0)
    yield


@contextlib.contextmanager
def replaced_by_garbage(path: Path) -> Iterator[None]:
    """Put another file in the place of a SQLite file; at the end, remove it."""
    other = path.with_name("other")
    other.write_bytes(os.urandom(100_000))
    other.rename(path)
    yield
    path.unlink()


@contextlib.contextmanager
def overwritten(path: Path) -> Iterator[None]:
    """Write garbage into a SQLite file and what belongs to it; at the end, remove them."""
    for each in path.parent.glob(f"{path.name}*"):
        with each.open("r+b") as file:
            file.write(os.urandom(each.stat().st_size))
    yield
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


@contextlib.contextmanager
def folder_in_its_place(path: Path) -> Iterator[None]:
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()


@contextlib.contextmanager
def folder_missing(path: Path) -> Iterator[None]:
    shutil.rmtree(path.parent)
    yield
    path.parent.mkdir()
