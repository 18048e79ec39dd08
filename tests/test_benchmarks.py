"""The benchmarks run to their end; what they measure is for people to read, and fails nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_guarded_request():
    for package in ("flask", "django", "fastapi"):
        pytest.importorskip(package)
    command = [sys.executable, str(BENCHMARKS / "guarded_request.py"), "--rounds", "3", "--requests", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["flask", "django", "fastapi"]
    assert all(len(re.findall(r"-?\d+\.\d", line)) >= 5 for line in lines), done.stdout


def test_guarded_request_redis():
    for package in ("flask", "flask_session", "redis"):
        pytest.importorskip(package)
    command = [sys.executable, str(BENCHMARKS / "guarded_request_redis.py"), "--rounds", "3", "--requests", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()[1:]]
    assert [line[0] for line in lines] == ["bare", "guarded", "Flask-Session", "in parts of it"]
    assert all(len(line) == 4 for line in lines), done.stdout
    trips = {name: float(count) for name, *_, count in lines}
    assert trips["bare"] == 0
    assert trips["guarded"] == 1, "a guarded request is one round trip"
    assert trips["Flask-Session"] >= 2, "it reads the session and writes it back"
