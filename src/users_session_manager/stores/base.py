"""The Store protocol: what `SessionManager` asks of whatever keeps its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from ..at_hand import AtHand
from ..policy import Policy
from ..session import Reason, Session

NO_LIMITS: Final = Policy()


class Store(Protocol):
    """Keeps sessions, owns their time, and hands back each one that ends, to one caller.

    Missing, ended and malformed are one case: a key of which no live session is known, be it unknown, run out, or no
    string at all, is answered with `None` or `False`, and nothing changes. "Live" is decided by the store's own
    clock at the instant of the call, not by whether a timer has got round to it. A key that a renewal has replaced is
    as good as the new one until its overlap is over, and unknown from then on.

    A session ends at the earliest of two deadlines: its idle timeout, counted from its last restart, and its lifetime,
    counted from its beginning, which no restart moves. `timeout` is the manager's idle timeout in seconds; a session
    with one of its own keeps to that. `policy` holds everything else that is set, as it is at the call.

    Whoever takes a session out announces its end: `add`, `remove`, `remove_user` and `clear` return what they took out,
    and what runs out is handed to the callable given to `open`. For every session exactly one of them does so. Who was
    returned one says so with `acknowledge` once its end has been announced: a store of several processes hands one
    that nobody has acknowledged, since the process has died, to another.

    Each method is atomic and may be called from any thread. A store never emits, and calls nobody while it holds its
    lock. One that cannot be reached raises `StoreUnavailable` from any method, and has then changed nothing.
    """

    @property
    def blocking(self) -> bool:
        """Whether a call may wait for something outside the process; an event loop then leaves it to a thread."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by key; it may still show some that ran out a moment ago."""

    @property
    def at_hand(self) -> AtHand | None:
        """The store itself, if a manager may look for its sessions without asking; `None` if it is to be asked.

        So it can answer what a request asks with one look, where calling the store would take longer than the answer;
        what is not found so, whyever, it asks the store. This is decided once, when a manager opens the store.
        """

    def open(self, on_ended: Callable[[Session, Reason], None], on_expiring: Callable[[Session, float], None]) -> None:
        """Begin: from now on each session that ran out is given to `on_ended`, on a thread of the store's own.

        Each that is running out is given to `on_expiring` with the seconds left, once a countdown, `policy.warning`
        seconds before its end; at once where a countdown is shorter than that, and not at all once it has ended.
        """

    def add(
        self,
        username: str,
        timeout: float,
        policy: Policy = NO_LIMITS,
        data: Any = None,
        *,
        own_timeout: bool = False,
    ) -> tuple[str, Sequence[Session]]:
        """Keep a new session, whose own `timeout` is if `own_timeout`; return its key, and who had to make room for it.

        At no moment has the user more live sessions than `policy.max_sessions`: the oldest are taken out, or, if
        `policy.overflow` is `"reject"`, it is `TooManySessions` and nothing has changed.
        """

    def get(self, key: object) -> Session | None:
        """Return the live session of that key; reading never prolongs."""

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> Session | None:
        """Begin a live session's countdown again, and return the session.

        One that has outlived `policy.lifetime`, since that was set later than the session began, runs out here.
        """

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> Any:
        """As `restart`, with a new timer in place of the old one; return that timer, started.

        Without a live session of that key the timer is started all the same, and will end nothing.
        """

    def renew_key(self, key: object, overlap: float) -> tuple[str, str] | None:
        """Give a live session a new key; return the one that it replaces and the new one.

        The old key, and those it has replaced itself, are good for `overlap` seconds more at most. No deadline moves;
        `authenticatedAt` is now.
        """

    def time_left(self, key: object) -> float | None:
        """Return the seconds until a live session runs out."""

    def set_data(self, key: object, data: Any) -> bool:
        """Keep `data` with a live session."""

    def of_user(self, username: str) -> Sequence[tuple[Session, float]]:
        """Return the live sessions of a user, oldest first, each with the seconds until it runs out."""

    def remove(self, key: object) -> Session | None:
        """Take a live session out and return it."""

    def remove_user(self, username: str, except_key: object = None) -> Sequence[Session]:
        """Take all live sessions of a user out but that of `except_key`, and return them, oldest first."""

    def clear(self) -> Sequence[Session]:
        """Take all live sessions out and return them, in the order of creation."""

    @property
    def acknowledge(self) -> Callable[[Iterable[Session]], None] | None:
        """What takes note that the ends of these have been announced; `None` for a store that need not know.

        Never fails; one that is not known is passed over.
        """

    def usernames(self) -> list[str]:
        """Return the username of each live session, in the order of creation."""

    def close(self) -> None:
        """Let everything go without announcing anything; afterwards `add` raises `SessionError`. May be done twice."""
