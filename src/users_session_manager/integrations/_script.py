"""The script for pages, and where it is served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

# Where Django finds the static files of its app.
SCRIPT: Final = Path(__file__).parent / "django" / "static" / "users_session_manager" / "user-sessions.js"
"""The script that signs a page out when its session ends."""
SCRIPT_URL: Final = "/user-sessions.js"
SCRIPT_PATH: Final = re.compile(r"/(?!/)[^\\\x00-\x20\x7f<>{}?#]+")
"""A path at which the script can be served: no parameters of a route, and no query."""
SCRIPT_MAX_AGE: Final = 3600
"""For how long a browser keeps the script, in seconds."""
