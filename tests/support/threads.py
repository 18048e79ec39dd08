"""Threads that race each other."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_together(work: Callable[[int], object], threads: int = 16) -> None:
    """Run `work(number)` on that many threads from the same moment on; raise what one of them raised."""
    barrier = threading.Barrier(threads)
    failures: list[BaseException] = []

    def body(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001  # it is raised below
            failures.append(failure)

    running = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert not any(thread.is_alive() for thread in running), "a deadlock"
    if failures:
        raise failures[0]
