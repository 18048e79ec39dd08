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


@pytest.mark.parametrize(
    "scenario",
    [
        "a_process_without_a_server",
        "a_worker",
        "an_async_server",
        "an_async_server_without_clients",
        "an_async_server_without_a_loop",
        "a_session_that_each_worker_does_something_to",
        "a_worker_that_detaches",
        "a_refusal",
    ],
)
def test_the_clients_of_other_processes_are_told_once(redis_url, scenario):
    command = [sys.executable, str(SCENARIOS), scenario, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
