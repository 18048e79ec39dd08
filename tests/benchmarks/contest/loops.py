"""What is timed, in ns: loops over arguments that were made before, with the method bound once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

now = time.perf_counter_ns


def call_each(method: Callable[[Any], Any], arguments: Iterable[Any], passes: int = 1) -> int:
    begun = now()
    for _ in range(passes):
        for argument in arguments:
            method(argument)
    return now() - begun


def call_each_with(method: Callable[[Any, Any], Any], arguments: Iterable[Any], more: Any, passes: int = 1) -> int:
    begun = now()
    for _ in range(passes):
        for argument in arguments:
            method(argument, more)
    return now() - begun


def call_often(method: Callable[[], Any], calls: int) -> int:
    begun = now()
    for _ in range(calls):
        method()
    return now() - begun


def keep_each(method: Callable[..., Any], arguments: Sequence[Any], *more: Any) -> tuple[int, list[Any]]:
    """As `call_each`, for what has to be kept: a key, a timer."""
    begun = now()
    kept = [method(argument, *more) for argument in arguments]
    return now() - begun, kept


def new_string(key: str) -> str:
    return key.encode().decode()
