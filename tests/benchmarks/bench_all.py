"""Measure this library beside the npm package, a thread per session and Flask-Session, in one run.

    python tests/benchmarks/bench_all.py [--quick] [--docs docs/explanation]

The measured processes take turns in an order that is drawn anew each time. The run fails on a wrong answer and never on
a time. It needs Linux, node, npm and redis-server; npm fetches its package once.
"""

import argparse
import contextlib
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen, run
from typing import Any

from bench_page import Row, as_picture, as_table, write_page
from bench_presence import FULL as FULL_PRESENCE
from bench_presence import QUICK as QUICK_PRESENCE
from bench_presence import measure_presence
from bench_redis import FULL, QUICK, measure_redis, redis_server

HERE = Path(__file__).parent
NPM_PACKAGE = "users-session-manager@1.0.9"
MEMORY = "memory of a session"
NPM_LIMITS = {"loadNewSession": 1.0, "checkSessionStatus": 1.3, "restartSessionTimer": 1.1, "setSessionData": 1.3}
NPM_LIMITS |= {"getSessionDetails": 1.6, "deleteSession": 2.5, "getUsernameFromSessionKey": 3.0, MEMORY: 0.75}
PORT_LIMITS = {"loadNewSession": 1 / 20, "restartSessionTimer": 1 / 100, MEMORY: 1 / 20}
IMPORTS = "from time import perf_counter as now; begun = now(); import pyee; between = now(); "
IMPORTS += "import users_session_manager; print(now() - between, between - begun)"
# A library must not print while it is timed, and Python must keep what it compiled for the import times.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("DEBUG", "PYTHONDONTWRITEBYTECODE")}
SESSIONS, REQUESTS = ([sys.executable, str(HERE / f"bench_{name}.py")] for name in ("sessions", "requests"))
OURS = [*SESSIONS, "ours"]


def measure(commands: dict[str, list[str]], questions: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Ask each process each question, in new processes each round; return what they answered, by answer and process."""
    found: dict[str, Any] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            processes = {}
            for name, command in commands.items():
                processes[name] = Popen(command, stdin=PIPE, stdout=PIPE, env=ENVIRONMENT, text=True)
                stack.callback(processes[name].communicate)
                stack.callback(processes[name].kill)
            for question in questions:
                for name, process in random.sample(list(processes.items()), len(processes)):
                    with contextlib.suppress(BrokenPipeError):
                        print(json.dumps(question), file=process.stdin, flush=True)
                    if not (answer := process.stdout.readline()):
                        raise SystemExit(f"broken: {name} did not answer {question}; its error is above")
                    for what, value in json.loads(answer).items():
                        found[what][name].append(value)
    return found


def measure_sessions(other: list[str], beside: str, limits: dict, rounds: int, size: int, calls: int) -> list[Row]:
    """Time the operations and weigh the sessions of this library and another; a login is timed with its logout."""
    timed = [what for what in limits if what not in ("deleteSession", MEMORY)]
    questions = [{"do": "fill", "size": size}, *({"do": "time", "what": what, "calls": calls} for what in timed)]
    found = measure({"ours": OURS, "other": other}, questions, rounds)
    unit = {MEMORY: "bytes"}
    return [Row(what, unit.get(what, "µs"), **found[what], beside=beside, max_ratio=limits[what]) for what in limits]


def measure_alone(rounds: int, size: int) -> Iterator[Row]:
    """Measure the lateness of expiries, and the import."""
    found = measure({"ours": OURS}, [{"do": "late", "size": size}], rounds)
    yield Row("lateness of an expiry, 99th percentile", "ms", found["late"]["ours"], most=25)
    command = [sys.executable, "-c", IMPORTS]
    outputs = [run(command, check=True, stdout=PIPE, env=ENVIRONMENT) for _ in range(rounds)]
    times = [[float(seconds) * 1000 for seconds in output.stdout.split()] for output in outputs]
    yield Row("import, after that of pyee", "ms", *map(list, zip(*times, strict=True)), "pyee", most=15)


def measure_requests(rounds: int, requests: int) -> Iterator[Row]:
    """Time a guarded request in memory, as the difference to a bare one, and on Redis."""
    questions = [{"do": "time", "requests": requests}] * rounds * 10
    for framework, beside in (("Flask", "Flask-Session"), ("FastAPI", "an empty dependency")):
        commands = {kind: [*REQUESTS, framework, kind] for kind in ("bare", "ours", "other")}
        times = measure(commands, questions, 1)["request"]
        added = [[a - b for a, b in zip(times[kind], times["bare"], strict=True)] for kind in ("ours", "other")]
        yield Row(f"{framework} request, what the guard adds", "µs", *added, beside, most=30)
    found = measure({kind: [*REQUESTS, "Django", kind] for kind in ("ours", "other")}, questions, 1)["request"]
    added = [ours - other for ours, other in zip(found["ours"], found["other"], strict=True)]
    yield Row("Django request, beyond `login_required`", "µs", added, most=20)
    with redis_server() as url:
        commands = {kind: [*REQUESTS, "Flask", kind, url] for kind in ("ours", "other")}
        found = measure(commands, questions, 1)
    yield Row("Flask request on Redis", "µs", **found["request"], beside="Flask-Session", max_ratio=0.7)
    yield Row("Flask request on Redis, CPU time of Redis", "µs", **found["server"], beside="Flask-Session")


def npm_command(cache: Path) -> list[str]:
    """Return the command for the npm package, which npm fetches unless it is there; its scripts do not run."""
    folder = cache.resolve() / "node_modules" / "users-session-manager"
    if not (folder / "index.js").is_file():
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(cache), NPM_PACKAGE]
        run(command, check=True, stdout=sys.stderr)
    return ["node", "--expose-gc", str(HERE / "bench_npm.cjs"), str(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "users-session-manager-benchmark"
    parser.add_argument("--quick", action="store_true", help="take less than a minute, to see that everything works")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write performance.md and its picture there")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", default=cache, help="keep the npm package there")
    options = parser.parse_args()
    rounds, sessions, threads, requests = (2, 2_000, 200, 10) if options.quick else (5, 100_000, 10_000, 200)
    npm = measure_sessions(npm_command(options.cache), "npm", NPM_LIMITS, rounds, sessions, sessions)
    port = measure_sessions([*SESSIONS, "port"], "a thread each", PORT_LIMITS, rounds, threads, threads // 10)
    late, imports = measure_alone(rounds, sessions)
    flask, fastapi, in_django, on_redis, in_redis = measure_requests(rounds, requests)
    present = measure_presence(*(QUICK_PRESENCE if options.quick else FULL_PRESENCE))
    more = [*port, fastapi, in_redis, *measure_redis(*(QUICK if options.quick else FULL)), *present, imports]
    parts = {"first": as_table([*npm, late, flask, in_django, on_redis]), "more": as_table(more)}
    print("\n\n".join(parts.values()))
    if options.docs:
        node = run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
        about = f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]} and Node.js {node.lstrip('v')}"
        parts["machine"] = f"With {sessions:,} sessions, npm's `{NPM_PACKAGE}`, and {about}:"
        write_page(options.docs, parts, as_picture(npm[:-1], f"Time of an operation with {sessions:,} sessions"))


if __name__ == "__main__":
    main()
