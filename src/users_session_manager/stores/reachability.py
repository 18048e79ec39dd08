"""Reachability: whether a shared store answers, and the log of that."""

from __future__ import annotations

import time
from typing import Final

from ..errors import SessionError, StoreUnavailable
from ..keys import redact
from ..log import log

# After so many seconds without a failure an operation that was refused counts as possible again: it may never be asked
# for again.
_FORGET_AFTER: Final = 5.0


class Reachability:
    """Notes whether a store answers; the log has one line when a failure begins and one when it is over.

    Several threads ask at once, and calls end in another order than they begin. The failure of a call that began before
    the store answered again says nothing new.

    Args:
        name: What the log calls the store.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # The operation that the store has refused, empty if it did not answer at all, None without a failure.
        self._failed_operation: str | None = None
        self._failed_at = self._recovered_at = float("-inf")

    @property
    def is_unreachable(self) -> bool:
        """Whether the store did not answer when it was asked last."""
        return self._failed_operation == ""

    def failed(self, failure: BaseException, asked_at: float, refused: str = "") -> StoreUnavailable:
        """Note a failure, and return the exception to raise.

        Args:
            failure: What has happened.
            asked_at: When the call began, by `time.monotonic()`.
            refused: The operation that the store has refused, while it may do others; empty, the default, if it does
                not answer at all.
        """
        is_over = asked_at <= self._recovered_at
        is_new = self._failed_operation is None and not is_over
        if not is_over:
            self._failed_operation, self._failed_at = refused, time.monotonic()
        if isinstance(failure, SessionError):  # its text says what to do
            if is_new:
                log.error("%s cannot be used, every session is refused: %s", self._name, failure)
            return StoreUnavailable(str(failure))
        text = redact(f"{type(failure).__name__}: {failure}")  # a database may show the row that it has refused
        if is_new:
            log.error(
                "%s is unreachable, every session is refused: %s (see docs/how-to/production.md)", self._name, text
            )
        return StoreUnavailable(
            f"{self._name} is unreachable, and a change may have been made: {text} (check that it runs at the address "
            "of the store, see docs/how-to/production.md)"
        )

    def answered(self, operation: str) -> None:
        """Note that an operation has had its answer.

        With a full memory or disk a store refuses some operations and not others: that is one line, not many.
        """
        if self._failed_operation is None:
            return
        now = time.monotonic()
        if self._failed_operation in ("", operation) or now - self._failed_at > _FORGET_AFTER:
            self._failed_operation, self._recovered_at = None, now
            log.warning("%s is reachable again", self._name)
