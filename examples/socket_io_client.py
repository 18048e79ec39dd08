"""Where the page gets its socket.io-client from: npm where there is one, else a public CDN."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

VERSION = "4.8.4"
CDN = f"https://cdn.jsdelivr.net/npm/socket.io-client@{VERSION}/dist/socket.io.min.js"
# The browser runs neither copy unless it is this very file, so nobody has to trust the CDN or the download.
INTEGRITY = "sha384-fBrXvbDtHoeKWJ/hcA6M+YGueiDW+h45I7V6F2kD1S8bOkrF9rZYPLVkCR6BLR/1"


def fetch(folder: Path) -> Path | None:
    """Return the client script below `folder`, brought by npm if it is not there yet; `None` if npm cannot."""
    script = folder / "node_modules/socket.io-client/dist/socket.io.min.js"
    npm = shutil.which("npm")
    if npm and not _is_genuine(script):
        quiet = ["--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            command = [npm, "install", "--prefix", str(folder), *quiet, f"socket.io-client@{VERSION}"]
            subprocess.run(command, check=False, timeout=60, capture_output=True)  # noqa: S603  # all of it is ours
        except (OSError, subprocess.TimeoutExpired):
            pass  # then there is still the CDN
    return script if _is_genuine(script) else None


def _is_genuine(script: Path) -> bool:
    if not script.is_file():
        return False
    digest = hashlib.sha384(script.read_bytes()).digest()
    return f"sha384-{base64.b64encode(digest).decode()}" == INTEGRITY
