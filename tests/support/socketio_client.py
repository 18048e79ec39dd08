"""A Socket.IO client for tests."""

from __future__ import annotations

import requests
import socketio


def new_client() -> socketio.Client:
    """Return a client that does not read the environment.

    `requests` would look there for proxies at each poll, on the client's own thread, and fail if pytest changes
    `PYTEST_CURRENT_TEST` at that moment.
    """
    session = requests.Session()
    session.trust_env = False
    return socketio.Client(reconnection=False, http_session=session)
