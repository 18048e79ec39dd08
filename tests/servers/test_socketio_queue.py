"""Logouts through a message queue: several Socket.IO servers, and a process that has none, on a real Redis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("socketio")
pytest.importorskip("simple_websocket")
pytest.importorskip("redis")
pytest.importorskip("uvicorn")

SCENARIOS = Path(__file__).parent / "apps" / "socketio_queue.py"


@pytest.fixture(scope="module")
def run(redis_url: str) -> subprocess.CompletedProcess[str]:
    """All scenarios, one after the other, in one process."""
    command = [sys.executable, str(SCENARIOS), redis_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "scenario",
    [
        "a_process_without_a_server",
        "a_worker",
        "an_async_server",
        "an_async_server_without_clients",
        "an_async_server_without_a_loop",
        "a_session_that_each_worker_does_something_to",
        "a_refusal",
        "a_worker_that_detaches",
    ],
)
def test_clients_of_other_processes(run, scenario):
    """The clients of other processes hear each end once."""
    assert scenario in run.stdout.splitlines(), run.stderr


def test_all_scenarios(run):
    """The process has run all of its scenarios, and no other."""
    assert (run.returncode, len(run.stdout.splitlines())) == (0, 8), run.stderr
