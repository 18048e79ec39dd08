"""The Store protocol: what `SessionManager` asks of whatever keeps its sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..session import Session


class Store(Protocol):
    """Keeps sessions, owns their time, and hands back each one that ends, to one caller.

    Missing, ended and malformed are one case: a key of which no live session is known, be it unknown, run out, or no
    string at all, is answered with `None` or `False`, and nothing changes. "Live" is decided by the store's own
    clock at the instant of the call, not by whether a timer has got round to it.

    Whoever takes a session out announces its end: `remove` and `clear` return what they took out, and what runs out is
    handed to the callable given to `open`. For every session exactly one of the three does so.

    Each method is atomic and may be called from any thread. A store never emits, and calls nobody while it holds its
    lock. One that cannot be reached raises `StoreUnavailable` from any method, and has then changed nothing.
    """

    @property
    def blocking(self) -> bool:
        """Whether a call may wait for something outside the process; an event loop then leaves it to a thread."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by key, in the order of creation; it may still show some that ran out a moment ago."""

    def open(self, on_run_out: Callable[[Session], None]) -> None:
        """Begin: from now on `on_run_out(session)` is called, on the store's own thread, with each that ran out."""

    def add(self, key: str, username: str, timeout: float) -> Session:
        """Keep a new session that runs out after `timeout` seconds, and return it."""

    def get(self, key: object) -> Session | None:
        """Return the live session of that key; reading never prolongs."""

    def restart(self, key: object, timeout: float) -> bool:
        """Begin a live session's countdown again with `timeout` seconds."""

    def renew_timer(self, key: object, timeout: float) -> Any:
        """As `restart`, with a new timer in place of the old one; return that timer, started.

        Without a live session of that key the timer is started all the same, and will end nothing.
        """

    def time_left(self, key: object) -> float | None:
        """Return the seconds until a live session runs out."""

    def set_data(self, key: object, data: Any) -> bool:
        """Keep `data` with a live session."""

    def remove(self, key: object) -> Session | None:
        """Take a live session out and return it."""

    def clear(self) -> list[Session]:
        """Take all live sessions out and return them, in the order of creation."""

    def usernames(self) -> list[str]:
        """Return the username of each live session, in the order of creation."""

    def close(self) -> None:
        """Let everything go without announcing anything; afterwards `add` raises `SessionError`. May be done twice."""
