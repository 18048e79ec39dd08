"""Measure what Redis itself spends on an operation, beside a script that does one GET, and on a session.

    python tests/benchmarks/bench_redis.py [--quick]

Times are those of the server (`INFO commandstats`): neither the network nor Python is in them. All of what the
operation causes is counted, also what the threads of the library ask for meanwhile. The run starts a redis-server of
its own, 7.0 or newer, and fails on a wrong answer and never on a time.
"""

import argparse
import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from subprocess import PIPE, Popen

from bench_page import Row, as_table
from redis import Redis

from users_session_manager import SessionManager

GET = "return redis.call('GET', KEYS[1])"
SCRIPTS = {"EVAL", "EVALSHA", "FCALL"}
# The commands of connections and of this file, which are not a part of any operation.
OTHERS = {"AUTH", "CLIENT", "CONFIG", "HELLO", "INFO", "MONITOR", "PING", "SCRIPT", "SELECT"}
# Rounds, calls in each, sessions that are weighed, and most sessions among which a request is timed.
QUICK, FULL = (2, 100, 2_000, 1_000), (5, 2_000, 100_000, 1_000_000)
LONG = 24 * 60 * 60
FILLERS = 2
# How many operations, and then GETs, are called one after another: each kind as warm as the other.
BLOCK = 200
# After this many seconds a single logout is acknowledged.
PAUSE = 0.15


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Start a redis-server on a free port, and on another core than its clients, as if it had its own machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""]
    with Popen(command, stdout=PIPE, text=True) as server:
        try:
            if not any("Ready to accept connections" in line for line in server.stdout):
                raise SystemExit("broken: redis-server did not start")
            os.sched_setaffinity(server.pid, [max(os.sched_getaffinity(0))])
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


class ServerTime:
    """Measures the time that Redis spends on operations."""

    def __init__(self, url: str) -> None:
        self.client = Redis.from_url(url, decode_responses=True)
        self.client.set("one", "user 1")
        self.get = self.client.script_load(GET)

    def of(
        self, operations: Sequence[Callable[[], object]], end: Callable[[], object] = str, block: int = BLOCK
    ) -> tuple[float, float]:
        """Return the microseconds of one of these operations, with what they cause until `end` has returned.

        Beside it, those of a script of one GET, of which as many are called in between.
        """
        # Redis counts a command alike whether a client or a script asks for it: a few operations show which are whose.
        few, rest = operations[: len(operations) // 10 + 1], operations[len(operations) // 10 + 1 :]
        plain = self.plain_commands(few)
        self.client.config_resetstat()
        for number, operation in enumerate(rest, 1):
            operation()
            if number % block == 0 or number == len(rest):
                for _ in range(block):
                    assert self.client.evalsha_ro(self.get, 1, "one") == "user 1"
        end()
        calls = {name[8:].upper(): each for name, each in self.client.info("commandstats").items()}
        scripts = sum(calls[name]["usec"] for name in SCRIPTS & set(calls)) / len(rest)
        others = sum(calls[name]["usec_per_call"] * plain[name] / len(few) for name in set(plain) & set(calls))
        return scripts + others, calls["EVALSHA_RO"]["usec_per_call"]

    def plain_commands(self, operations: Sequence[Callable[[], object]]) -> Counter[str]:
        """Do these operations; return how often clients asked for each command that is no script."""
        found: Counter[str] = Counter()
        with self.client.monitor() as monitor:
            for operation in operations:
                operation()
            self.client.echo("the end")
            while (line := monitor.next_command())["command"] != "ECHO the end":
                if line["client_type"] != "lua":
                    found[line["command"].partition(" ")[0].upper()] += 1
        return Counter({name: times for name, times in found.items() if name not in SCRIPTS | OTHERS})

    def keep_busy(self) -> None:
        """Wait for the acknowledgement of a single logout; a Redis that had slept meanwhile would be slower."""
        until = time.monotonic() + PAUSE
        while time.monotonic() < until:
            self.client.ping()

    def used_memory(self) -> int:
        return self.client.info("memory")["used_memory"]


def open_manager(url: str) -> SessionManager:
    manager = SessionManager(store=url)
    manager.setSessionTimeOut(LONG)
    return manager


def fill(url: str, numbers: range, kept: int) -> list[str]:
    """Log a user in for each number; return so many of the keys."""
    manager = open_manager(url)
    chosen = set(random.sample(numbers, min(kept, len(numbers))))
    keys = [key for number in numbers if (key := manager.loadNewSession(f"user {number}")) and number in chosen]
    manager.close()
    return keys


def fill_from_processes(url: str, numbers: range, kept: int) -> list[str]:
    """As `fill`, from several processes."""
    parts = [numbers[first::FILLERS] for first in range(FILLERS)]
    with ProcessPoolExecutor(FILLERS, get_context("spawn")) as pool:
        found = pool.map(fill, [url] * FILLERS, parts, [kept // FILLERS] * FILLERS)
    return [key for keys in found for key in keys]


def measure_request(server: ServerTime, manager: SessionManager, keys: list[str], rounds: int, calls: int) -> Row:
    """Time guarded requests of the sessions of these keys, at random."""
    times = []
    for _ in range(rounds):
        chosen = random.choices(keys, k=calls)
        times.append(server.of([lambda key=key: manager.resumeSession(key) for key in chosen]))
    return row(f"guarded request among {len(manager.sessions):,} sessions", times, 6)


def measure_logins(server: ServerTime, manager: SessionManager, rounds: int, calls: int) -> Iterator[Row]:
    """Time logins, and logouts until nothing is left to acknowledge: many one after another, and each by itself."""
    users, ended = [f"another user {number}" for number in range(calls)], threading.Semaphore(0)
    manager.on("sessionDeleted", lambda key: ended.release())
    logins, logouts, alone, keys = [], [], [], []
    for _ in range(rounds):
        logins.append(server.of([lambda user=user: keys.append(manager.loadNewSession(user)) for user in users]))
        many, few = keys[: -calls // 50], keys[-calls // 50 :]
        # A stop acknowledges what has been announced and is not acknowledged yet.
        logouts.append(server.of([lambda key=key: manager.deleteSession(key) for key in many], manager.stop))
        operations = [lambda key=key: (manager.deleteSession(key), server.keep_busy()) for key in few]
        alone.append(server.of(operations, manager.stop, block=1))
        if not all(ended.acquire(blocking=False) for _ in keys) or manager.findSession(keys[0]):
            raise SystemExit("broken: not every logout was announced")
        keys.clear()
    yield row("login", logins, 15)
    yield row("logout with its acknowledgement", logouts, 15)
    yield row("logout with its acknowledgement, each by itself", alone, 15)


def row(title: str, times: list[tuple[float, float]], max_ratio: float) -> Row:
    ours, get = map(list, zip(*times, strict=True))
    return Row(title, "µs", ours, get, "a script of one GET", max_ratio=max_ratio)


def measure_redis(rounds: int, calls: int, weighed: int, most: int) -> Iterator[Row]:
    """Measure operations among a thousand sessions and, if there are to be more, among `most`; weigh a session."""
    with redis_server() as url:
        before = (server := ServerTime(url)).used_memory()
        fill(url, range(weighed), 0)
        weight = (server.used_memory() - before) / weighed
    with redis_server() as url:
        server, keys = ServerTime(url), fill(url, range(1000), 1000)
        manager = open_manager(url)
        yield measure_request(server, manager, keys, rounds, calls)
        yield from measure_logins(server, manager, rounds, calls)
        if most > 1000:
            keys = fill_from_processes(url, range(1000, most), 10_000)
            yield measure_request(server, manager, keys, rounds, calls)
        manager.close()
    yield Row("memory of a session in Redis", "bytes", [weight], most=650)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take some seconds, to see that everything works")
    print(as_table([*measure_redis(*(QUICK if parser.parse_args().quick else FULL))]))


if __name__ == "__main__":
    main()
