"""`docs/performance.md`, and what it says about the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .forms import Form
from .lineup import HERE, NPM_PACKAGE
from .plots import write_plots
from .promises import promises_table
from .results import Results
from .tables import Table, all_tables, as_markdown

NOTES = HERE.parent / "performance_notes.md"
COMMAND = ".venv/bin/python tests/benchmarks/side_by_side.py --docs docs"
PACKAGES = ("users-session-manager", "pyee", "cachetools", "cacheout", "Flask-Session", "redis")

# What each picture is called, and what it shows.
PLOTS = {
    "operations": (
        "Cost of an operation",
        "What an operation takes in each contestant, in order and without listeners. The lines on the bars are the "
        "quartiles.",
    ),
    "sizes": (
        "Cost of an operation against the number of sessions",
        "What an operation takes among more and more sessions, in order. The bands are quartiles.",
    ),
    "lateness": (
        "Lateness",
        "How late `sessionDeleted` came, from the first session to the last. The bands are the best and the worst run.",
    ),
    "memory": ("Memory", "By how many bytes a session the process grew."),
}

TITLES = {
    "operations": "Operations",
    "pieces": "What it is made of",
    "memory": "Memory",
    "lateness": "Lateness",
    "threads": "Threads",
    "start-up": "Start-up",
    "idle": "Idleness",
    "redis": "On Redis",
}

HOW = f"""
Each contestant keeps its sessions in a process of its own and times, with its own clock, a loop over arguments that
were made before. The processes of all sizes are there all the while, and come in turn, operation by operation and round
by round, in an order that is drawn anew each time: whatever drifts on the machine drifts for all. Shown is the median
over the rounds. `×0.91 (0.88 to 0.95)` is that median in parts of the npm package's, and the quartiles of what the two
were to each other round by round; on Redis it is Flask-Session in its place.

- "In order" goes through the sessions as they logged in, up to 100,000 of them at a time, with the very strings that
  `loadNewSession` has returned. "As requests come" takes a session at random for each call, and a key that is a new
  string, made just before as a web server makes one from a header.
- `loadNewSession` and `deleteSession` are measured in one go, so that there are as many sessions after it as before.
  `getLoggedUsers` and `deleteAllSessions` are shown for each session that is there.
- Each contestant is asked whether it does what it is to do: a wrong answer ends the run, a slow one does not.
- The npm package is `{NPM_PACKAGE}`. A first round that does not count is for V8 to compile it in,
  which also leaves the simplest of its methods out where it can. Without a listener is with the one for `error` that
  the package cannot do without; this library has it too.
- The `threading.Timer` port is the npm package in Python, with a thread for each session. It gets fewer calls, and so
  does cacheout.
- `cachetools.TTLCache` and cacheout are used as dictionaries of sessions: a restart puts the session in anew. Keys are
  of 128 bits there too. They have no timers and no sockets, and tell nobody when a session runs out. cachetools is not
  safe among threads, and has a lock around it there; cacheout has one of its own.
- A bare `dict` of sessions, with no timers, is no contestant. It shows what Python itself takes, and what the
  processor's caches make of it when there are more sessions than fit into them.
- Bytes a session are what a fresh process grew by while the sessions were logged in, garbage collected before and
  after. The caller keeps the keys and the usernames in both languages.
- Lateness is counted from the moment `loadNewSession` has returned, with a timeout of 2 seconds. A session can
  therefore be a little early.
- Start-up and idleness are seen from outside the process. A wake-up is a context switch of one of its threads.
- On Redis, both use one redis-server on this machine. Of Flask-Session only what it asks of Redis is timed, with no
  request and no cookie around it; a restart reads the session and writes it back, as each of its requests does.
"""


def about_this_run(form: Form) -> dict[str, Any]:
    """Return what the page says about a run before it begins."""
    return {
        "form": form.name,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {
            "processor": first_value("/proc/cpuinfo", "model name"),
            "cores": os.cpu_count(),
            "memory": f"{round(int(first_value('/proc/meminfo', 'MemTotal').split()[0]) / 1024**2)} GiB",
            "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        },
        "versions": {
            platform.python_implementation(): platform.python_version(),
            "Node.js": said_by("node", "--version").lstrip("v"),
            "npm package": NPM_PACKAGE.rpartition("@")[2],
            **{package: version(package) for package in PACKAGES},
            "redis-server": said_by("redis-server", "--version").partition("v=")[2].partition(" ")[0],
            "matplotlib": version("matplotlib"),
        },
    }


def first_value(file: str, name: str) -> str:
    lines = Path(file).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write_page(results: Results, folder: Path) -> None:
    """Write performance.md and its plots into a folder."""
    write_plots(results, folder)
    (folder / "performance.md").write_text("\n\n".join(part.strip() for part in parts(results)) + "\n")


def parts(results: Results) -> Iterator[str]:
    about = results.about
    yield "# Performance"
    yield (
        "What this library costs beside others that do the same or a part of it, measured in one run on one machine. "
        "The figures are that machine's; what carries over to others is the ratios."
    )
    yield f"Measured on {about['date']}, {about['form']} form, with:"
    facts = about["machine"] | about["versions"]
    yield as_markdown(Table("", ["", ""], [[str(name), str(value)] for name, value in facts.items()]))
    yield f"Repeat it, in the environment that the tests run in:\n\n```bash\n{COMMAND}\n```"
    yield "## What was promised"
    yield as_markdown(replace(promises_table(results), title=""))
    yield "## Pictures"
    for name, (title, text) in PLOTS.items():
        yield f"![{title}](performance_{name}.svg)\n\n{text}"
    yield "## How it was measured"
    yield HOW
    if NOTES.is_file():
        yield NOTES.read_text()
    for section, tables in all_tables(results, everything=False).items():
        yield f"## {TITLES[section]}"
        yield from (as_markdown(table) for table in tables)
