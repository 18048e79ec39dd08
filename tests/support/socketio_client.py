"""A Socket.IO client for tests."""

from __future__ import annotations

import threading
from typing import Any

import requests
import socketio


def new_client() -> socketio.Client:
    """Return a client that calls its handlers in the order of the messages, and does not read the environment.

    By itself it starts a thread for each message, and these may overtake one another; here each thread waits for
    the one before, so a handler must not wait for an answer. And `requests` would look in the environment for
    proxies at each poll, and fail if pytest changes `PYTEST_CURRENT_TEST` at that moment.
    """
    session = requests.Session()
    session.trust_env = False
    # A busy machine may need longer than the 5 seconds that are the default.
    client = socketio.Client(reconnection=False, http_session=session, request_timeout=60)
    start_thread = client.eio.start_background_task
    last = threading.Event()
    last.set()

    def start_in_turn(target: Any, *args: Any, **options: Any) -> Any:
        nonlocal last
        if target != client.eio.handlers["message"]:
            return start_thread(target, *args, **options)
        before, done = last, threading.Event()
        last = done

        def handle() -> None:
            before.wait()
            try:
                target(*args, **options)
            finally:
                done.set()

        return start_thread(handle)

    client.eio.start_background_task = start_in_turn
    return client
