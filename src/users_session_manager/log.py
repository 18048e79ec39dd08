"""The project's one logger, and npm's DEBUG variable."""

from __future__ import annotations

import logging
import os
from typing import Final

log: Final = logging.getLogger("users_session_manager")

# Settings files often spell "off" out, as in DEBUG=False.
_OFF = {"", "0", "false", "no", "off"}


if os.environ.get("DEBUG", "").strip().lower() not in _OFF:
    _console = logging.StreamHandler()
    _console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(_console)
    log.setLevel(logging.DEBUG)
