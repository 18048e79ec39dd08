"""Who takes part, and how far each can go."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from .forms import Form

HERE = Path(__file__).parent
NPM_PACKAGE = "users-session-manager@1.0.9"


@dataclass(frozen=True)
class Contestant:
    """One of those that are measured.

    `most_sessions` is how many it is asked to keep, and `why_no_more` what stands in its place beyond that. `slowness`
    is by how much fewer calls it gets, so that a slow one does not make the run take hours.
    """

    id: str
    label: str
    most_sessions: int = 1_000_000
    why_no_more: str = ""
    slowness: int = 1


OURS = Contestant("ours", "this library")
NPM = Contestant("npm", "npm package")
PLAIN = Contestant(
    "plain", "threading.Timer port", why_no_more="one thread a session: not asked for so many", slowness=20
)
CACHETOOLS = Contestant("cachetools", "cachetools")
CACHEOUT = Contestant(
    "cacheout", "cacheout", why_no_more="each login goes through all sessions: would take minutes", slowness=10
)
# No contestant: what Python itself takes, and what the processor's caches make of more and more sessions.
DICTIONARY = Contestant("dictionary", "a bare dict")
PYTHON = Contestant("python", "CPython, µs")
OURS_ON_REDIS = Contestant("ours-redis", "this library on Redis")
FLASK_SESSION = Contestant("flask-session", "Flask-Session")

IN_MEMORY = (OURS, NPM, PLAIN, CACHETOOLS, CACHEOUT)
ON_REDIS = (OURS_ON_REDIS, FLASK_SESSION)
LABELS = {contestant.id: contestant.label for contestant in (*IN_MEMORY, DICTIONARY, PYTHON, *ON_REDIS)}

QUADRATIC = "quadratic: would take minutes"
"""What stands for the npm package's `getLoggedUsers` beyond a thousand sessions."""


def in_memory(form: Form) -> list[Contestant]:
    return [one if one.slowness == 1 else replace(one, most_sessions=form.most_of_slow) for one in IN_MEMORY]


def command_of(contestant: Contestant, cache: Path, *arguments: str) -> list[str]:
    if contestant is NPM:
        return ["node", "--expose-gc", str(HERE / "npm.cjs"), str(npm_package(cache))]
    return [sys.executable, "-m", "contest.contestant", contestant.id, *arguments]


def npm_package(cache: Path) -> Path:
    return cache / "node_modules" / "users-session-manager"


def fetch_npm_package(cache: Path) -> None:
    """Install the npm package into the cache folder, unless it is there. Its scripts are not run."""
    if (npm_package(cache) / "package.json").is_file():
        return
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise SystemExit("needs node and npm on the PATH")
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(cache), NPM_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"npm could not bring {NPM_PACKAGE}:\n{done.stderr}")
