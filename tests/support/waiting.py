"""Waiting for what must happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT = 60
"""The seconds that a test waits for what must happen, which a busy machine may need."""


def eventually(condition: Callable[[], Any], timeout: float = WAIT) -> Any:
    """Return what `condition` returns once that is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, "the condition has not become true"
        time.sleep(0.01)
    return answer


def at_rest(count: Callable[[], int], most: float, seconds: float = 3) -> float:
    """Return by how many a count grows per second, once that is at most `most`: what has started may not be ready."""
    deadline = time.monotonic() + WAIT
    while True:
        before, begun = count(), time.monotonic()
        time.sleep(seconds)
        rate = (count() - before) / (time.monotonic() - begun)
        if rate <= most:
            return rate
        assert time.monotonic() < deadline, f"there are {rate:.2f} per second, and not {most}"
