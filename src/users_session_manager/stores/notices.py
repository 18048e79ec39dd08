"""NoticeReader: passes the notices of a shared store to the clients of this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final

from ..clock import Worker
from ..errors import StoreUnavailable
from ..log import log
from .base import Notice, Store

# How soon a process asks a store again that was unreachable, in seconds.
RETRY_INTERVAL: Final = 0.5
# How often a process looks at the sessions of its own clients, in seconds: a notice may be lost.
CHECK_INTERVAL: Final = 4.0
# For how long connections stay open without a check of their sessions while the store does not answer, in seconds.
MAX_SILENCE: Final = 30.0


class NotifyingStore(Store):
    """A store that sends notices of its sessions to all processes; `_read` and `_keys_of` may be repeated."""

    sends_notices = True

    _now: Callable[[], float]
    _is_serving: bool
    _closed: bool

    @abstractmethod
    def _keys_of(self, ids: Sequence[Any], *, with_ended: bool) -> list[str | None]:
        """Return the present key of each of these sessions; `with_ended`, also that of one that has just ended."""

    @abstractmethod
    def _read(self, timeout: float, *, logins: bool) -> Iterator[Sequence[Notice]]:
        """Subscribe to notices; yield none once subscribed, then those that have come after `timeout` at most.

        With `logins` also to those of sessions that begin. If it had to subscribe again, a `"missed"` says so. They
        have no key: one who reads the notices of a store shall not be able to log in.
        """

    @abstractmethod
    def _interrupt(self) -> None:
        """Let `_read` yield soon, if it waits."""


class NoticeReader:
    """Passes the notices of a shared store on, on a thread of its own, while there is anything to pass them to.

    A notice comes with the id of its session. The key is added here, where it is needed: for the clients of this
    process, and for listeners of `notifyClientToLogout`. Every few seconds the reader also looks at the sessions that
    have clients here, and sends the notices that were lost.

    Args:
        store: The store; it serves, and has callbacks.
        thread: Whether a thread reads; else `run_due` does.
    """

    def __init__(self, store: NotifyingStore, *, thread: bool) -> None:
        self._store = store
        self._timeout = 1.0 if thread else 0.05
        self._worker = Worker("users-session-manager reader", self._pass_on, self._pause, thread=thread)
        self.reset()

    def reset(self) -> None:
        """Have no subscription: at the beginning, and in a forked child."""
        self._read_at = self._check_at = 0.0
        self._notices: Iterator[Sequence[Notice]] | None = None
        self._silent_since: float | None = None  # when the first of these checks was made that have had no answer
        self._reads_logins = False
        self._failed_checks = 0  # how often in a row no subscription could be made while the store answered

    def interest_changed(self) -> None:
        """Start or stop reading."""
        if not self._is_wanted() or self._store._callbacks.interest().logins != self._reads_logins:
            self.stop()
        if self._is_wanted():  # perhaps because of another thread in between
            self._worker.start()

    def stop(self) -> None:
        """End the subscription: the server would keep what is not read, and its connection would stay."""
        if self._notices is not None:
            self._store._interrupt()
        self._worker.stop()  # without a subscription it may be about to make one
        self._notices = self._silent_since = None

    def run_due(self) -> None:
        """Pass on what has come, on the calling thread: for a store without threads."""
        while self._is_wanted() and self._pass_on():
            pass

    def _is_wanted(self) -> bool:
        return self._store._is_serving and self._store._callbacks.interest().notices

    def _pause(self) -> float:
        return self._read_at - self._store._now() if self._is_wanted() else inf

    def _pass_on(self) -> bool:
        """Wait for notices and pass them on; return whether there were any. Check what is watched from time to time."""
        notices: Sequence[Notice] = ()
        failure, now = None, self._store._now
        is_new = self._notices is None
        try:
            if self._notices is None:
                self._reads_logins = self._store._callbacks.interest().logins
                self._notices = self._store._read(self._timeout, logins=self._reads_logins)
                self._check_at = min(self._check_at, now())
            notices = [*next(self._notices)]
            if is_new and self._reads_logins:
                notices.append(Notice("missed", None, None))
            self._failed_checks = 0
        except StoreUnavailable as unavailable:
            self._notices, failure = None, unavailable if is_new else None  # one that was lost can be made again
            self._read_at = now() + RETRY_INTERVAL
        except BaseException:
            self._notices, self._read_at = None, now() + RETRY_INTERVAL
            raise
        self._pass_to_followers(notices)
        with suppress(StoreUnavailable):  # it is in the log, once
            for notice in self._with_keys([each for each in notices if each.kind not in ("created", "missed")]):
                self._store._callbacks.on_notice(notice)
        if self._check_at <= now():
            self._check_at = now() + CHECK_INTERVAL
            with suppress(StoreUnavailable):
                self._check_in_time()
                if failure is not None:
                    self._warn(failure)
        return bool(notices)

    def _pass_to_followers(self, notices: Sequence[Notice]) -> None:
        if self._reads_logins:
            for notice in notices:
                if notice.kind in ("created", "deleted", "ended", "missed"):
                    self._store._callbacks.on_change(notice)

    def _with_keys(self, notices: Sequence[Notice]) -> list[Notice]:
        """Return those notices that something in this process waits for, each with the key of its session."""
        if not notices:
            return []
        callbacks = self._store._callbacks
        keys: dict[Any, str | None] = dict(callbacks.watched())
        asked = {each.session_id for each in notices if each.kind == "renewed" and each.session_id in keys}
        if callbacks.interest().logouts:  # a client's key may be one that a renewal has just replaced
            asked |= {each.session_id for each in notices if each.kind in ("ended", "logout")}
        found = zip(asked, self._store._keys_of([*asked], with_ended=True), strict=True)
        keys |= {session_id: key for session_id, key in found if key is not None}
        return [each._replace(key=keys[each.session_id]) for each in notices if keys.get(each.session_id) is not None]

    def _warn(self, failure: StoreUnavailable) -> None:
        """Log once that the store answers, and yet lets this process not subscribe."""
        len(self._store.sessions)  # raises if it does not answer: without clients nothing has been asked yet
        self._failed_checks += 1
        if self._failed_checks == 1:  # it may have come back just now
            self._check_at = self._read_at
        if self._failed_checks != 2:
            return
        log.warning(
            "No notices can be read, so clients get their logout some seconds late (%s): give the store's user "
            "what it needs, see docs/how-to/production.md",
            failure,
        )

    def _check_in_time(self) -> None:
        """Check, and send a notice if no check has had an answer for `MAX_SILENCE`."""
        now = self._store._now
        try:
            self._check()
            self._silent_since = None
        except StoreUnavailable:
            self._silent_since = now() if self._silent_since is None else self._silent_since
            if self._silent_since + MAX_SILENCE <= now():
                self._store._callbacks.on_notice(Notice("unreachable", None, None))
            raise

    def _check(self) -> None:
        """Pass on what no notice has said of the sessions that have clients in this process."""
        watched = self._store._callbacks.watched()
        keys = self._store.present_keys([*watched])
        if self._store._closed:  # a closed store has no keys, and yet the sessions have not ended
            return
        for session_id, key in zip(watched, keys, strict=True):
            if key is None:
                self._store._callbacks.on_notice(Notice("deleted", session_id, watched[session_id]))
            elif key != watched[session_id]:
                self._store._callbacks.on_notice(Notice("renewed", session_id, key))
