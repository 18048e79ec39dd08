"""What CPython takes for the pieces that a request is made of, each with those above it: the least that can be done.

A session here is an object with a deadline, the sessions are a bare dictionary, and there is nothing else: no key of
another session, no policy, no store that may be another.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from os import urandom
from pathlib import Path
from typing import Any

from .forms import Form
from .lineup import PYTHON
from .loops import call_each, call_often
from .results import Results

SECTION = "pieces"


class Session:
    __slots__ = ("deadline", "username")

    def __init__(self, number: int) -> None:
        self.deadline = time.monotonic() + 86400
        self.username = f"user{number}"


class Pieces:
    """Each method does what the one above it does, and one thing more."""

    def __init__(self, size: int) -> None:
        self.sessions = {urandom(16).hex(): Session(number) for number in range(size)}

    def call(self, key: str) -> bool:
        return True

    def and_a_look(self, key: str) -> Session:
        return self.sessions[key]

    def and_the_username(self, key: str) -> str:
        return self.sessions[key].username

    def and_the_clock(self, key: str) -> str | None:
        session = self.sessions[key]
        return session.username if session.deadline > time.monotonic() else None

    def and_a_new_deadline(self, key: str) -> bool:
        session, now = self.sessions[key], time.monotonic()
        if session.deadline > now:
            session.deadline = now + 86400
        return True


def under_a_lock(lock: Any) -> Callable[[], None]:
    def hold() -> None:
        with lock:
            pass

    return hold


def measure_pieces(results: Results, form: Form, cache: Path) -> None:
    size = max(size for size in form.sizes if size <= 100_000)
    pieces = Pieces(size)
    keys, noise = list(pieces.sessions), lambda: urandom(19)
    timed: dict[str, Callable[[], float]] = {
        "a call of a method": lambda: call_each(pieces.call, keys) / size,
        "and a look into the dictionary": lambda: call_each(pieces.and_a_look, keys) / size,
        "and the username": lambda: call_each(pieces.and_the_username, keys) / size,
        "and whether its time has come": lambda: call_each(pieces.and_the_clock, keys) / size,
        "and a new deadline": lambda: call_each(pieces.and_a_new_deadline, keys) / size,
        "a lock, taken and let go": lambda: call_often(under_a_lock(threading.RLock()), size) / size,
        "19 random bytes of the operating system": lambda: call_often(noise, size) / size,
    }
    for number in range(-form.warm_ups, form.rounds):
        found = {what: timed[what]() / 1000 for what in random.sample(list(timed), len(timed))}
        for what in timed if number >= 0 else ():
            results.add(SECTION, (what, size), PYTHON.id, "µs", found[what])
