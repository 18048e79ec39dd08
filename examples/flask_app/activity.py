"""The log of what happens to sessions: it is printed, and streamed to the administrator's page."""

from __future__ import annotations

import queue
from collections.abc import Iterator


class ActivityLog:
    """Prints each line, and adds it to every open stream."""

    def __init__(self) -> None:
        self._streams: set[queue.SimpleQueue[str]] = set()

    def add(self, line: str) -> None:
        print(line, flush=True)
        for lines in self._streams.copy():
            lines.put(line)

    def events(self) -> Iterator[str]:
        """Yield each further line as a server-sent event."""
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._streams.add(lines)
        try:
            yield ":\n\n"  # a comment, with which the answer begins
            while True:
                yield _next_event(lines)
        finally:
            self._streams.discard(lines)


def _next_event(lines: queue.SimpleQueue[str]) -> str:
    try:
        return f"data: {lines.get(timeout=5)}\n\n"
    except queue.Empty:
        return ":\n\n"  # so that a silent stream can end too
