"""How long it takes until something can be done: fresh processes, one after the other."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .forms import Form
from .lineup import CACHEOUT, CACHETOOLS, HERE, NPM, OURS, PLAIN, Contestant, npm_package
from .player import Broken, environment
from .results import Results

# What the extras of this library bring, and what comes with it.
OF_EXTRAS = (
    "django",
    "engineio",
    "fastapi",
    "flask",
    "prometheus_client",
    "redis",
    "socketio",
    "starlette",
    "werkzeug",
)

IMPORTS = f"""
import json, sys, time
begun = time.perf_counter()
import pyee
between = time.perf_counter()
import users_session_manager
ended = time.perf_counter()
extras = sorted({set(OF_EXTRAS)} & set(sys.modules))
print(json.dumps([(between - begun) * 1000, (ended - between) * 1000, len(extras)]))
"""

FIRST_KEY = "from contest.adapters import {0}; print({0}().loadNewSession('Luca'), flush=True)"
OUR_FIRST_KEY = """
from users_session_manager import SessionManager
print(SessionManager().loadNewSession("Luca"), flush=True)
"""
NPM_FIRST_KEY = "console.log(new (require(process.argv[1]))().loadNewSession('Luca'))"


def measure_start_up(results: Results, form: Form, cache: Path) -> None:
    python, node = [sys.executable, "-c"], ["node", "-e"]
    first_keys = {
        contestant: [*python, FIRST_KEY.format(contestant.id)] for contestant in (PLAIN, CACHETOOLS, CACHEOUT)
    }
    first_keys[OURS] = [*python, OUR_FIRST_KEY]
    first_keys |= {NPM: [*node, NPM_FIRST_KEY, str(npm_package(cache))]}
    bare = {OURS: [*python, "print('ready', flush=True)"], NPM: [*node, "console.log('ready')"]}
    rows = [("start to first line, with no library", bare), ("start to first session key", first_keys)]
    for number in range(-1, form.starts):  # the first ones read from the disk, and compile
        commands = [(row, contestant, command) for row, each in rows for contestant, command in each.items()]
        found = {
            (row, contestant): first_line_after(command, contestant)
            for row, contestant, command in random.sample(commands, len(commands))
        }
        pyee, ours, extras = imports()
        if number >= 0:
            for row, contestant, _ in commands:
                results.add("start-up", (f"{row}, ms",), contestant.id, "ms", found[row, contestant])
            results.add("start-up", ("import pyee, ms",), OURS.id, "ms", pyee)
            results.add("start-up", ("import users_session_manager after it, ms",), OURS.id, "ms", ours)
            results.add("start-up", ("packages of an extra that it imports",), OURS.id, "", extras)


def first_line_after(command: Sequence[str], contestant: Contestant) -> float:
    """Return the milliseconds from the start of a program to its first line."""
    begun = time.perf_counter()
    env = environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, env=env) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - begun
        process.kill()
    if not line.strip():
        raise Broken(f"{' '.join(command)} said nothing")
    return took * 1000


def imports() -> list[float]:
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise Broken(f"the imports failed: {done.stderr}")
    found: list[float] = json.loads(done.stdout)
    return found
