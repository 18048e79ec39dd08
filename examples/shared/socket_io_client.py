"""Where the pages get socket.io-client from: npm if it is installed, otherwise a public CDN."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

VERSION = "4.8.4"
CDN = f"https://cdn.jsdelivr.net/npm/socket.io-client@{VERSION}/dist/socket.io.min.js"
# The browser runs a copy only if it has this hash, so neither the CDN nor the download has to be trusted.
INTEGRITY = "sha384-fBrXvbDtHoeKWJ/hcA6M+YGueiDW+h45I7V6F2kD1S8bOkrF9rZYPLVkCR6BLR/1"
STATIC = Path(__file__).resolve().parent / "static"
INSTANCE = STATIC / "instance"  # not part of the repository


def client_script() -> dict[str, str]:
    """Return the attributes of the tag that loads the script."""
    script = fetch()
    return {"src": f"/static/{script.relative_to(STATIC).as_posix()}" if script else CDN, "integrity": INTEGRITY}


def fetch(folder: Path = INSTANCE) -> Path | None:
    """Return the client script below `folder`, and let npm install it first if it is missing; `None` if npm cannot."""
    script = folder / "node_modules/socket.io-client/dist/socket.io.min.js"
    npm = shutil.which("npm")
    if npm and not _is_genuine(script):
        quiet = ["--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            command = [npm, "install", "--prefix", str(folder), *quiet, f"socket.io-client@{VERSION}"]
            subprocess.run(command, check=False, timeout=60, capture_output=True)  # noqa: S603  # no part of it is input
        except (OSError, subprocess.TimeoutExpired):
            pass  # the pages use the CDN
    return script if _is_genuine(script) else None


def _is_genuine(script: Path) -> bool:
    if not script.is_file():
        return False
    digest = hashlib.sha384(script.read_bytes()).digest()
    return f"sha384-{base64.b64encode(digest).decode()}" == INTEGRITY
