"""A server as its users start it: a process that prints where it listens."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MAX_WAIT = 60
"""The seconds that a test waits for what must happen, which a busy machine may need."""


class ServerProcess:
    """A Python process that listens on a port of its own choice, and prints that port.

    Args:
        command: The arguments of the interpreter.
        printed: A pattern of what the process prints once it has a port; its group is the port.
        cwd: The folder in which it runs.
        env: What its environment has beside that of this process.
        scheme: That of its address.
        starts_others: Whether it starts processes that it does not end itself, as a reloader does.
    """

    def __init__(
        self,
        *command: str,
        printed: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        scheme: str = "http",
        starts_others: bool = False,
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=cwd,
            env=os.environ | dict(env or {}),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=starts_others,
        )
        self._starts_others = starts_others
        try:
            self.port = int(self._wait_for(printed))
            self._wait_until_listening()
        except BaseException:
            self.kill()
            raise
        self.address = f"{scheme}://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """The output of the process, read without a `seek`, which would move the place where it writes."""
        return os.pread(self._output.fileno(), 10**7, 0).decode()

    def stop(self) -> str:
        """End the process; return what it has printed, in which there must be no traceback."""
        if self._starts_others:
            os.killpg(self._process.pid, signal.SIGTERM)
        else:
            self._process.terminate()
        self._process.wait(MAX_WAIT)
        output = self.output
        self._output.close()
        assert "Traceback" not in output, output
        return output

    def kill(self) -> None:
        """End the process, and those that it has started, as `kill -9` does."""
        if self._starts_others:
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait(MAX_WAIT)
        self._output.close()

    def _wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + MAX_WAIT
        while (found := re.search(pattern, self.output)) is None:
            self._require_running(deadline)
            time.sleep(0.02)
        return found[1]

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + MAX_WAIT
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            self._require_running(deadline)
            time.sleep(0.02)

    def _require_running(self, deadline: float) -> None:
        assert self._process.poll() is None, f"the server has ended: {self.output}"
        assert time.monotonic() < deadline, f"the server does not listen: {self.output}"
