"""One contestant's process, as the driver sees it: a question a line, an answer a line."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .lineup import HERE, Contestant, command_of

# Seconds for one answer; far more than any takes.
PATIENCE = 1800


def environment() -> dict[str, str]:
    """Return the environment for the contestants: one in which none prints, and Python keeps what it has compiled."""
    without = ("DEBUG", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in without}


class Broken(Exception):
    """A contestant that died, that did not answer, or whose answer was wrong."""


class Player:
    """The process of a contestant with sessions of its own; `words` is why it is out, if it is."""

    def __init__(self, contestant: Contestant, cache: Path, *arguments: str) -> None:
        self.contestant = contestant
        self.words: str | None = None
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self.process = subprocess.Popen(
            command_of(contestant, cache, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=HERE.parent,
            env=environment(),
            text=True,
        )

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Ask one question and wait for the answer; `Broken` without a right one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        try:
            self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], PATIENCE)[0]:
                line = self.process.stdout.readline()
            answer = json.loads(line)
        except (BrokenPipeError, ValueError) as failure:
            raise Broken(f"{self.contestant.label}, asked for {do}, said {line!r}\n{self._said()}") from failure
        if "error" in answer:
            raise Broken(f"{self.contestant.label}, asked for {do} {details}: {answer['error']}")
        return answer

    def _said(self) -> str:
        self.process.kill()
        self.process.wait()
        self._stderr.seek(0)
        return self._stderr.read()[-4000:]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._stderr.close()


@contextmanager
def players(contestants: Iterable[Contestant], cache: Path, *arguments: str) -> Iterator[list[Player]]:
    """Start a process for each, and end them all."""
    with ExitStack() as stack:
        started = []
        for contestant in contestants:
            player = Player(contestant, cache, *arguments)
            stack.callback(player.close)
            started.append(player)
        yield started
