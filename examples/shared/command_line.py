"""The options that all examples have."""

from __future__ import annotations

import argparse

from users_session_manager import SessionManager


def read_options(manager: SessionManager, description: str | None, *, port: int) -> int:
    """Set the timeout and the warning that the command line asks for; return the port."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=port, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    # WCAG 2.2, 2.2.1: at least 20 seconds to ask for more time.
    warning = "seconds before its end at which the pages of a session show a warning (default: %(default)s)"
    parser.add_argument("--warning", type=float, default=20, help=warning)
    options = parser.parse_args()
    if not manager.setSessionTimeOut(options.timeout):
        parser.error(f"--timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds")
    try:
        manager.setExpiryWarning(options.warning)
    except ValueError as error:
        parser.error(f"--warning: {error}")
    return int(options.port)
