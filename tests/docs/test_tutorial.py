"""The blocks of the tutorial, saved as it says, and its own tests; tests/e2e has them in a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCS, python_blocks
from server_process import MAX_WAIT
from tutorial import FILE, STEPS, command, follow

pytest.importorskip("flask_socketio")


def test_each_block_is_saved() -> None:
    """The commands are the only blocks of the tutorial that the reader saves in no file."""
    saved = [block for step in STEPS for _, _, block in FILE.findall(step)]
    blocks = re.findall(r"^```(\w+)\n", (DOCS / "tutorial.md").read_text(), re.MULTILINE)
    assert len(saved) == len([language for language in blocks if language != "bash"])
    assert [block for block in python_blocks("tutorial.md") if block not in saved] == []


def test_the_tests(tmp_path: Path) -> None:
    """After the sixth step."""
    follow(tmp_path, 6)
    options = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *command(6), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=MAX_WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
