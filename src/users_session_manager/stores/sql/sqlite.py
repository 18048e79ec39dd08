"""SQLiteEngine: a SQLite file that the processes of one machine share."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from os import urandom
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

from ...clock import LOCK
from ...errors import SessionError
from ...log import log
from .engine import Engine, Rows, Statement

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

_SCHEME: Final = "sqlite:///"
# The first with RETURNING.
_OLDEST: Final = (3, 35)
# The text of a failure that another connection causes; before Python 3.11 there is no code.
_BUSY: Final = ("database is locked", "database table is locked", "database schema is locked", "locking protocol")
# The size of a page, in bytes. A restart changes one row and writes one page; a new file is given small ones.
_PAGE_SIZE: Final = 1024
# How many bytes the write-ahead log has before a poller copies it to the file, which waits for the disk.
_LONG_LOG: Final = 32 * 1024 * 1024
# How many pages it has before the process that writes does that, since no poller could.
_LOG_PAGES: Final = 64_000
# How long writes may have to wait so that a new log can begin, in milliseconds.
_LOG_TIMEOUT: Final = 50
# The size to which an empty write-ahead log is cut, in bytes.
_MAX_LOG: Final = 64 * 1024 * 1024
_SETTINGS: Final = (
    "synchronous = NORMAL",
    f"wal_autocheckpoint = {_LOG_PAGES}",
    f"journal_size_limit = {_MAX_LOG}",
)
# In place of what identifies a file that is there no more: a new one may have its number.
_REMOVED: Final = (-1, -1)


class SQLiteEngine(Engine):
    """Opens a SQLite file in WAL mode. A write waits for other writes; a read never waits.

    A commit survives the end of any process; a power cut may lose the last ones.
    """

    name = "sqlite"
    kind = sqlite3.Connection
    begin = Statement(
        "BEGIN IMMEDIATE", ()
    )  # a transaction that only begins to write later fails at once if another one writes
    errors = (sqlite3.Error,)
    words: ClassVar[Mapping[str, str]] = {
        "now": ":now",
        "unix": ":unix",
        "least": "min",
        "good_until": """json_extract(former, '$."' || :digest || '"[0]')""",
        "in_ids": "IN (SELECT value FROM json_each(:ids))",
        "lock": "",
        "lock_free": "",
    }

    def __init__(self, connect: Callable[[], Any], now: Callable[[], float] | None, path: Path | None = None) -> None:
        super().__init__(connect, now)
        if sqlite3.sqlite_version_info < _OLDEST:
            raise SessionError(
                f"SQLite {sqlite3.sqlite_version} is too old for sessions: it has to be 3.35 or later. Use a newer "
                "Python, or another store, see docs/how-to/several-workers.md"
            )
        self._path = path
        self._file: tuple[int, int] | None = None  # the one that was opened last
        self._is_usable = False  # whether a connection was used on another thread than the one that has opened it

    @classmethod
    def from_url(cls, url: str, now: Callable[[], float] | None) -> SQLiteEngine:
        """Return the engine for the file of an address: `sqlite:///relative.db` or `sqlite:////absolute.db`.

        Raises:
            ValueError: The address names no file.
        """
        path = path_of(url).absolute()
        existing = f"{path.as_uri()}?mode=rw"  # `_make_file` makes it, with its mode
        return cls(lambda: sqlite3.connect(existing, uri=True, check_same_thread=False), now, path)

    def open(self, seconds: float, until: float, known: Mapping[int, Any]) -> Any:  # noqa: ARG002  # writes are repeated
        if self._path is not None:
            self._make_file(self._path)
        file = self.identity()
        try:
            connection = self.open_raw()
            self.check(connection, known)
            try:
                self._prepare(connection, file)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as failure:
            raise type(failure)(f"{failure}: {self._path}") from failure
        return connection

    def _prepare(self, connection: Any, file: object) -> None:
        if not self._is_usable:
            _require_usable(connection)
            self._is_usable = True
        if hasattr(connection, "autocommit"):  # from Python 3.12 on, where it may begin transactions by itself
            connection.autocommit = True
        connection.isolation_level = None
        connection.row_factory = None
        connection.text_factory = str
        connection.execute("PRAGMA busy_timeout = 0")
        (_, _, path), *_ = connection.execute("PRAGMA database_list")
        if not path:
            raise SessionError(
                "a SQLite database in memory is that of one connection: give sessions a file, see "
                "docs/how-to/several-workers.md"
            )
        self._path = Path(path)
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()  # which opens what belongs to the file
        if file not in (None, self.identity()):
            raise sqlite3.OperationalError("the file was replaced")
        self._notice_file()
        if mode != "wal":
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise SessionError(
                    f"processes cannot share {path}, which has to be on a disk of this machine: move it there, see "
                    "docs/how-to/several-workers.md"
                )
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")

    def _make_file(self, path: Path) -> None:
        """Make the file if it is not there; only its owner can read the keys in it.

        What belonged to a file that was removed is removed as well: connections to that one may still use it.
        """
        if path.exists():
            return
        with _locked(path.parent):
            if path.exists():
                return
            if self._file is not None:
                self._file = _REMOVED
            for each in ("-wal", "-shm"):
                Path(f"{path}{each}").unlink(missing_ok=True)
            new = path.with_name(f"{path.name}-{urandom(8).hex()}")
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            try:
                # Not at its place, where another process would find it before it is in WAL mode.
                with closing(sqlite3.connect(new)) as connection:
                    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
                    connection.execute("PRAGMA journal_mode = WAL")
                new.rename(path)
            finally:
                new.unlink(missing_ok=True)

    def _notice_file(self) -> None:
        """Log which file is opened, once, and when it is another one than before."""
        with LOCK:
            found, self._file = self._file, self.identity()
        if found is None:
            log.info("Sessions are kept in %s", self._path)
            if self._path is not None and self._path.stat().st_mode & 0o077:
                log.warning(
                    "%s has the keys of all sessions, and other users may read it: chmod 600 it, see "
                    "docs/how-to/several-workers.md",
                    self._path,
                )
        elif found != self._file:
            log.error(
                "The file of the sessions was removed or replaced, and its sessions are gone: %s. Leave it in its "
                "place, see docs/how-to/several-workers.md",
                self._path,
            )

    def identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # type: ignore[arg-type]
        except (OSError, TypeError):  # there is none, or it is not known yet
            return None
        return found.st_dev, found.st_ino

    def execute(self, connection: Any, statement: Statement, params: Mapping[str, Any]) -> Rows:
        # Since a statement that cannot write at once fails, it is executed at that time.
        unix = time.time()
        params = {**params, "unix": unix, "now": unix if self._now is None else self._now()}
        if "ids" in params:
            params["ids"] = json.dumps(params["ids"])
        return connection.execute(statement.text, params).fetchall()  # type: ignore[no-any-return]

    def is_idle(self, connection: Any) -> bool:
        return not connection.in_transaction

    def is_busy(self, failure: Exception) -> bool:
        return isinstance(failure, BlockingIOError) or str(failure).startswith(_BUSY)

    def is_lost(self, failure: Exception) -> bool:  # noqa: ARG002  # a new connection would find the same file
        return False

    def has_long_log(self) -> bool:
        try:
            return os.stat(f"{self._path}-wal").st_size > _LONG_LOG
        except OSError:  # there is none
            return False

    def copy_log(self, connection: Any) -> None:
        _, pages, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # while others write
        if copied < 0.9 * pages:  # a long read needs the rest, and a new log would have to wait for it
            return
        connection.execute(f"PRAGMA busy_timeout = {_LOG_TIMEOUT}")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute("PRAGMA busy_timeout = 0")

    def has_tables(self, connection: Any, prefix: str) -> bool:
        select = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return connection.execute(select, [f"{prefix}schema"]).fetchone() is not None


def path_of(url: str) -> Path:
    """Return the path in an address, which may be relative; `ValueError` if it names no file."""
    path = unquote(url.removeprefix(_SCHEME))
    if not url.startswith(_SCHEME) or path in ("", ":memory:") or "?" in path:
        raise ValueError(
            "the address of a SQLite file must be sqlite:///relative.db or sqlite:////absolute.db; for sessions in "
            "memory, name no store"
        )
    return Path(path)


def resolve(url: str, folder: str | os.PathLike[str]) -> str:
    """Return an address with its path, if that is relative, in a folder, which is made if it is not there."""
    path = Path(folder, path_of(url)).absolute()
    if not path_of(url).is_absolute():
        Path(folder).mkdir(parents=True, exist_ok=True)
    return f"{_SCHEME}{quote(str(path))}"


def _require_usable(connection: Any) -> None:
    """Raise a `SessionError` if a connection is closed, or is not for every thread."""
    failures: list[Exception] = []

    def use() -> None:
        try:
            connection.execute("SELECT 1")
        except sqlite3.ProgrammingError as failure:
            failures.append(failure)
        except sqlite3.Error:
            pass  # it says that of the file

    use()
    if failures:
        raise SessionError(
            "connect has returned a closed connection: it must return a new one each time, see "
            "docs/how-to/several-workers.md"
        )
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    if failures:
        raise SessionError(
            "any thread uses a connection: connect must give sqlite3.connect check_same_thread=False, see "
            "docs/how-to/several-workers.md"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time make a file in a folder; `BlockingIOError` while another one does."""
    if fcntl is None:  # on Windows, where no file can be removed that is open
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
