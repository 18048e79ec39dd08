"""Engine: what a SQL store needs to know of the database that it runs on."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from ...errors import SessionError

Rows = list[tuple[Any, ...]]


class Statement(NamedTuple):
    """A statement as one kind of database says it."""

    text: Any
    names: Sequence[str]
    """Those of its parameters, in their order, where the driver knows them by their place."""


_WORD: Final = re.compile(r"\{(\w+)\}")


def no_connection(found: object) -> str:
    """Return what is wrong with what a callable has returned."""
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    return (
        f"connect must return a new connection of sqlite3 or of psycopg 3, got a {kind}, see "
        "docs/how-to/several-workers.md"
    )


class Engine(ABC):
    """Opens connections of one kind of database, and executes statements on them.

    Statements are written once for all kinds: parameters as `:name`, and in braces the names of the tables and what
    each kind says in its own way:

    | word | |
    |---|---|
    | `{now}`, `{unix}` | the time of the deadlines, and Unix time, in seconds |
    | `{least}` | the function that returns the least of its arguments |
    | `{good_until}` | until when the former key of `:digest` is good; NULL for any other |
    | `{in_ids}` | a condition: that what comes before is one of `:ids` |
    | `{lock}`, `{lock_free}` | locks the rows that are selected; the second one skips those that are locked |

    Args:
        connect: Returns a new connection.
        now: The time of the deadlines; `None` for the clock of the database.
    """

    name: ClassVar[str]
    """That of the dialect in `schema.py`."""
    kind: ClassVar[type[Any]]
    """The class of its connections."""
    begin: ClassVar[Statement]
    """Begins a transaction that may write."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """The exception of the driver."""
    words: ClassVar[Mapping[str, str]]

    def __init__(self, connect: Callable[[], Any], now: Callable[[], float] | None) -> None:
        self.open_raw = connect
        self._now = now

    @abstractmethod
    def open(self, seconds: float, until: float, known: Mapping[int, Any]) -> Any:
        """Return a new connection, ready to use.

        Args:
            seconds: How long a call may take.
            until: The time, by `time.monotonic()`, until which that of this call has to be over.
            known: The connections that are open, by their `id`.

        Raises:
            SessionError: What the callable has returned can never be used.
        """

    def limit(self, connection: Any, until: float) -> None:  # noqa: B027  # a default, not a gap
        """Let a call of a connection fail that has no answer at that time, by `time.monotonic()`."""

    def check(self, connection: Any, known: Mapping[int, Any]) -> None:
        """Raise a `SessionError` if what a callable has returned is no new connection of this kind."""
        if not isinstance(connection, self.kind):
            raise SessionError(no_connection(connection))
        if known.get(id(connection)) is connection:
            raise SessionError(
                "connect has returned a connection that is in use: it must return a new one each time, see "
                "docs/how-to/several-workers.md"
            )

    def identity(self) -> object:
        """Return what changes when the database is replaced by another; a connection is good for one of them."""
        return None

    @abstractmethod
    def execute(self, connection: Any, statement: Statement, params: Mapping[str, Any]) -> Rows:
        """Execute a translated statement; return its rows."""

    @abstractmethod
    def is_idle(self, connection: Any) -> bool:
        """Return whether a connection is in no transaction after a failure, and can be used again."""

    @abstractmethod
    def is_busy(self, failure: Exception) -> bool:
        """Return whether another transaction is in the way, so that nothing was done and the call is to be repeated."""

    @abstractmethod
    def is_lost(self, failure: Exception) -> bool:
        """Return whether a failure says something about the connection, so that a new one may answer."""

    def is_forbidden(self, failure: Exception) -> bool:  # noqa: ARG002  # a default
        """Return whether the user of the database may not do that."""
        return False

    def has_long_log(self) -> bool:
        """Return whether it is time to copy the log of what was written; a server does that by itself."""
        return False

    def copy_log(self, connection: Any) -> None:  # noqa: B027  # a default, not a gap
        """Copy the log of what was written to where it belongs, and begin a new one if nothing is in the way."""

    @abstractmethod
    def has_tables(self, connection: Any, prefix: str) -> bool:
        """Return whether the tables of a prefix are there, in any version."""

    def lock_schema(self, connection: Any) -> None:  # noqa: B027  # a default, not a gap
        """Let no other process change the tables until the end of the transaction."""

    def lock_user(self, connection: Any, user_id: str) -> None:  # noqa: B027  # a default, not a gap
        """Let no other process sign that user in until the end of the transaction."""

    def translate(self, statement: str, tables: Mapping[str, str]) -> Statement:
        """Return a statement as this kind of database says it."""
        words = {**self.words, **tables}
        return Statement(_WORD.sub(lambda found: words[found[1]], statement), ())
