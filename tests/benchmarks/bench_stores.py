"""Measure sessions in SQLite and PostgreSQL beside those in Redis, Flask-Session and Django's own, in one run.

    python tests/benchmarks/bench_stores.py [--quick]

It starts a redis-server and a PostgreSQL of its own. The run fails on a wrong answer and never on a time.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from bench_all import REQUESTS, measure
from bench_redis import redis_server

from users_session_manager import SessionManager

sys.path.append(str(Path(__file__).parents[1] / "support"))
from postgresql_server import postgresql_server

QUICK, FULL = (2, 20, 1.0, 10_000), (40, 200, 5.0, 1_000_000)
LONG = 24 * 60 * 60
PROCESSES = 4


def measure_requests(rounds: int, requests: int, urls: dict[str, str], folder: Path) -> Iterator[str]:
    """Time guarded requests, one kind after another in a new order each time; yield what each adds to a bare one."""
    lite = f"sqlite:///{folder}"
    kinds = {
        "bare": ["Flask", "bare"],
        "in memory": ["Flask", "ours"],
        **{f"on {name}": ["Flask", "ours", url] for name, url in urls.items()},
        "Flask-Session on Redis": ["Flask", "other", urls["Redis"]],
        "Flask-Session on SQLite": ["Flask", "other", f"{lite}/flask-session.db"],
        "bare Django": ["Django", "bare"],
        "Django, db": ["Django", "db", f"{lite}/django-db.db"],
        "Django, cached_db": ["Django", "cached_db", f"{lite}/django-cached-db.db"],
    }
    questions = [{"do": "time", "requests": requests}] * rounds
    times = measure({name: [*REQUESTS, *args] for name, args in kinds.items()}, questions, 1)["request"]
    added = {
        name: [a - b for a, b in zip(values, times["bare Django" if "Django" in name else "bare"], strict=True)]
        for name, values in times.items()
    }
    for name, values in added.items():
        parts = [f"{other} {median(a / b for a, b in zip(values, added[other], strict=True)):.2f}" for other in OTHERS]
        ratios = f"; ratio to {', '.join(parts)}" if name in ("on SQLite", "on PostgreSQL") else ""
        yield f"{name}: {median(times[name]):.0f} µs, adds {median(values):.0f}{ratios}"


OTHERS = ("on Redis", "Flask-Session on Redis", "Flask-Session on SQLite", "Django, db", "Django, cached_db")


def restart(url: str, seconds: float, sessions: int) -> list[float]:
    """Restart sessions for some seconds; return how long each call took."""
    manager = SessionManager(store=url)
    keys = [manager.loadNewSession(f"user {number}") for number in range(sessions)]
    times, end = [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        manager.resumeSession(random.choice(keys))
        times.append(time.perf_counter() - begun)
    manager.close()
    return times


def measure_processes(seconds: float, urls: dict[str, str]) -> Iterator[str]:
    """Restart sessions from several processes at once."""
    for name, url in urls.items():
        with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
            found = [*pool.map(restart, [url] * PROCESSES, [seconds] * PROCESSES, [100] * PROCESSES)]
        times = sorted(each for times in found for each in times)
        late = [times[int(len(times) * share)] * 1e6 for share in (0.5, 0.99, 0.999)]
        yield (
            f"{PROCESSES} processes on {name}: {len(times) / seconds:,.0f} restarts per second; median {late[0]:.0f} "
            f"µs, 99th percentile {late[1]:.0f}, 99.9th {late[2]:.0f}, longest {times[-1] * 1e6:.0f}"
        )


def fill(manager: SessionManager, count: int) -> None:
    """Add sessions as the store does, many in each transaction; their keys are not needed."""
    from users_session_manager.stores import sql

    database = manager._store._database

    def add(execute: object) -> None:
        for _ in range(min(count, 10_000)):
            name = os.urandom(16).hex()
            values = {"digest": name, "key": name, "username": name, "user_id": name, "stamp": None, "data": ""}
            values |= {"starts_in": 0.0, "seconds": LONG, "warning": 0.0, "lifetime": float("inf"), "timeout": None}
            execute(sql.INSERT, **values)

    database._timeout = 600.0
    for _ in range(max(1, count // 10_000)):
        database.transaction("fill", add)


def measure_sizes(calls: int, large: int, urls: dict[str, str]) -> Iterator[str]:
    """Time restarts among few and among many sessions."""
    for name in ("SQLite", "PostgreSQL"):
        manager = SessionManager(store=urls[name])
        keys = [manager.loadNewSession(f"user {number}", timeout=LONG) for number in range(1000)]
        found = []
        for count in (0, large):
            fill(manager, count) if count else None
            times = []
            for _ in range(calls):
                begun = time.perf_counter()
                manager.resumeSession(random.choice(keys))
                times.append(time.perf_counter() - begun)
            found.append((median(times) * 1e6, sum(times) / calls * 1e6))
        (few, mean_few), (many, mean_many) = found
        begun = time.perf_counter()
        total = len(manager.sessions)
        counted = (time.perf_counter() - begun) * 1e3
        manager.close()
        yield (
            f"a restart on {name} among {total:,} sessions: median {many:.0f} µs, {many / few:.2f} times that among a "
            f"thousand; mean {mean_many:.0f}, {mean_many / mean_few:.2f} times; to count them takes {counted:.0f} ms"
        )


def measure_idle(seconds: float, urls: dict[str, str]) -> Iterator[str]:
    """Measure the CPU time of a process that serves, without clients and with one."""
    for name, url in urls.items():
        manager = SessionManager(store=url)
        key = manager.loadNewSession("Luca", timeout=LONG)
        shares = []
        for has_clients in (False, True):
            if has_clients:
                manager.addWatcher(_Watcher(manager.getSession(key)._id, key))
            time.sleep(1)
            cpu, begun = time.process_time(), time.perf_counter()
            time.sleep(2 * seconds)
            shares.append((time.process_time() - cpu) / (time.perf_counter() - begun))
        manager.close()
        yield f"an idle process on {name}: {shares[0]:.2%} of a core, with a client {shares[1]:.2%}"


class _Watcher:
    """A client of one session."""

    def __init__(self, session_id: object, key: str) -> None:
        self._watched = {session_id: key}

    def watched(self) -> dict[object, str]:
        return self._watched

    def noticed(self, notice: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take less than a minute, to see that everything works")
    parser.add_argument("--only", choices=("requests", "processes", "sizes", "idle"), help="one part alone")
    options = parser.parse_args()
    rounds, requests, seconds, large = QUICK if options.quick else FULL
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"SQLite": f"sqlite:///{folder}/sessions.db"}
        urls["PostgreSQL"] = stack.enter_context(postgresql_server())
        urls["Redis"] = stack.enter_context(redis_server())
        parts = {
            "requests": measure_requests(rounds, requests, urls, folder),
            "processes": measure_processes(seconds, urls),
            "idle": measure_idle(seconds, urls),
            "sizes": measure_sizes(requests * 50, large, urls),
        }
        for name, part in parts.items():
            if options.only in (None, name):
                for line in part:
                    print(line, flush=True)


if __name__ == "__main__":
    main()
