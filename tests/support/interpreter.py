"""A Python interpreter of its own for a program, for what cannot be seen from within: forks, exits, the console."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap


def run(program: str, *args: str, covered: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with warnings as errors.

    Not `covered`: for one that forks while other threads are busy, since coverage has a lock of its own, which a child
    may then find held for ever.
    """
    left_out = re.compile("DEBUG" if covered else "DEBUG|COVERAGE_.*")
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{name: value for name, value in os.environ.items() if not left_out.fullmatch(name)}, **environment},
        check=False,
    )
