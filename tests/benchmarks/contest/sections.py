"""The sections of a run, each of which adds its cells to the results."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from guarded_request_redis import redis_server

from .forms import Form
from .lineup import CACHEOUT, CACHETOOLS, DICTIONARY, NPM, ON_REDIS, OURS, PLAIN, in_memory
from .operations import TURNS, TURNS_ON_REDIS, measure_operations
from .pieces import measure_pieces
from .player import Player, players
from .results import Results
from .start_up import measure_start_up


def measure_in_memory(results: Results, form: Form, cache: Path) -> None:
    measure_operations(results, "operations", [*in_memory(form), DICTIONARY], TURNS, (0, 1), form, cache)


def measure_on_redis(results: Results, form: Form, cache: Path) -> None:
    """Time the operations on one Redis; each size has one of its own, in which there is nothing else.

    It has a core of its own too, as on a machine of its own: it would be to chance otherwise whether it shares one with
    who asks, which is cheaper.
    """
    cores = os.sched_getaffinity(0)
    for size in form.redis_sizes:
        part = replace(form, sizes=(size,), rounds=form.redis_rounds, calls=form.redis_calls)
        try:
            with redis_server("apart" if len(cores) > 1 else "free") as url:
                measure_operations(results, "redis", ON_REDIS, TURNS_ON_REDIS, (0,), part, cache, url)
        finally:
            os.sched_setaffinity(0, cores)


def measure_memory(results: Results, form: Form, cache: Path) -> None:
    """See by how much fresh processes grow while they log so many in, garbage collected before and after."""
    for size in form.memory_sizes:
        for _ in range(form.memory_runs):
            contestants = in_memory(form)
            for contestant in random.sample(contestants, len(contestants)):
                if size > contestant.most_sessions:
                    results.add("memory", ("resident", size), contestant.id, "bytes", contestant.why_no_more)
                    continue
                with players([contestant], cache) as (player,):
                    answer = player.ask("fill", size=size)
                found = answer.get("words") or answer["bytes"]
                results.add("memory", ("resident", size), contestant.id, "bytes", found)
                if "heap" in answer:
                    results.add("memory", ("V8's heap alone", size), contestant.id, "bytes", answer["heap"])


def measure_lateness(results: Results, form: Form, cache: Path) -> None:
    """Let sessions that were logged in one after the other run out, in fresh processes."""
    size, silent = form.late_sessions, "looks when it is called, and tells nobody"
    for percent in range(101):
        row = (percent, size)
        results.add("lateness", row, PLAIN.id, "ms", PLAIN.why_no_more)
        results.add("lateness", row, CACHETOOLS.id, "ms", silent)
        results.add("lateness", row, CACHEOUT.id, "ms", silent)
    for _ in range(form.late_runs):
        for contestant in random.sample([OURS, NPM], 2):
            with players([contestant], cache) as (player,):
                percentiles = player.ask("late", size=size, timeout=2)["percentiles"]
            for percent, late in enumerate(percentiles):
                results.add("lateness", (percent, size), contestant.id, "ms", late)


def measure_threads(results: Results, form: Form, cache: Path) -> None:
    """Let 8 threads at once log in, check, restart, set data and log out, each with keys of its own."""
    unit, rows = "calls a second", {1: ("1 thread",), 8: ("8 threads",)}
    for row in (*rows.values(), ("8 threads / 1 thread",)):
        results.add("threads", row, NPM.id, unit, "Node.js has one thread")
    contestants = [contestant for contestant in in_memory(form) if contestant is not NPM]
    with players(contestants, cache) as started:
        for _ in range(form.threaded_runs):
            for player in random.sample(started, len(started)):
                speeds = {}
                for threads in random.sample([1, 8], 2):
                    calls = form.threaded_calls // player.contestant.slowness
                    speeds[threads] = player.ask("threads", threads=threads, calls=calls)["calls a second"]
                for threads, row in rows.items():
                    results.add("threads", row, player.contestant.id, unit, speeds[threads])
                results.add("threads", ("8 threads / 1 thread",), player.contestant.id, "", speeds[8] / speeds[1])


def measure_idleness(results: Results, form: Form, cache: Path) -> None:
    """Watch processes whose sessions have 50 minutes left, from outside; at the same time, since they do nothing."""
    with players([OURS, NPM], cache) as started:
        for player in started:
            player.ask("fill", size=form.idle_sessions, timeout=3000)
        time.sleep(1)  # what comes after a login, such as the collection of garbage, is over
        before = [used_by(player) for player in started]
        time.sleep(form.idle_seconds)
        for player, (switches, ticks) in zip(started, before, strict=True):
            switches_now, ticks_now = used_by(player)
            name, span = player.contestant.id, f"in {form.idle_seconds} s"
            results.add("idle", (f"wake-ups {span}", form.idle_sessions), name, "", switches_now - switches)
            milliseconds = (ticks_now - ticks) * 1000 / os.sysconf("SC_CLK_TCK")
            results.add("idle", (f"ms of CPU time {span}", form.idle_sessions), name, "ms", milliseconds)


def used_by(player: Player) -> tuple[int, int]:
    """Return how often the threads of a process have run, and the ticks of CPU time they took."""
    process = Path(f"/proc/{player.process.pid}")
    switches = 0
    for status in process.glob("task/*/status"):
        lines = [line.split(":") for line in status.read_text().splitlines()]
        switches += sum(int(value) for name, value in lines if name.endswith("voluntary_ctxt_switches"))
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return switches, int(fields[11]) + int(fields[12])


SECTIONS: dict[str, Callable[[Results, Form, Path], None]] = {
    "operations": measure_in_memory,
    "pieces": measure_pieces,
    "memory": measure_memory,
    "lateness": measure_lateness,
    "threads": measure_threads,
    "start-up": measure_start_up,
    "idle": measure_idleness,
    "redis": measure_on_redis,
}
