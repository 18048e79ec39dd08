"""Many processes on one Redis: each end is announced once, and each client of each process gets its logout at once."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from npm_client import client_script

pytest.importorskip("redis")
pytest.importorskip("socketio")
pytest.importorskip("simple_websocket")
pytest.importorskip("uvicorn")

APPS = Path(__file__).parent / "apps"
MAX_WAIT = 120
LEASE = 6


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Process:
    """One process, with the file of what it has seen."""

    def __init__(self, role: str, url: str, prefix: str, facts: Path, *args: object) -> None:
        command = [sys.executable, str(APPS / "many_processes.py"), role, url, prefix, str(facts), *map(str, args)]
        self.role, self.facts, self.args = role, facts, args
        self.killed_at: float | None = None
        with facts.with_suffix(".log").open("wb") as log:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )

    def wait(self) -> None:
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n", self.facts.with_suffix(".log").read_text()

    def do(self, what: str, **details: Any) -> Any:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        print(json.dumps({"do": what, **details}), file=self.popen.stdin, flush=True)
        return json.loads(self.popen.stdout.readline())

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self.killed_at = time.time()

    def end(self) -> None:
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self.popen.wait(MAX_WAIT)
        finally:
            self.popen.kill()
            self.popen.wait()

    def saw(self, what: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.facts.read_text().splitlines()) if self.facts.exists() else ()
        return [fact for fact in lines if fact["what"] == what]


class Site:
    """Web workers, their clients, and the processes beside them."""

    def __init__(self, url: str, folder: Path, roles: list[str], beside: list[str]) -> None:
        self.url, self.folder, self.prefix = url, folder, f"{secrets.token_hex(8)}:"
        self.all: list[Process] = []
        self.chance = random.Random(11)
        self.beside = [self.start(role) for role in beside]
        self.workers = [self.start(role, free_port()) for role in roles]
        for process in self.all:
            process.wait()
        script = client_script()
        assert script is not None, "npm is missing"
        self.log = folder / "clients.txt"
        with self.log.open("wb") as log:
            self.clients = [
                subprocess.Popen(
                    ["node", str(APPS / "many_clients.cjs"), str(script.parents[2])],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    text=True,
                    bufsize=1,
                )
                for _ in roles
            ]

    def start(self, role: str, *args: object) -> Process:
        process = Process(role, self.url, self.prefix, self.folder / f"{len(self.all)}-{role}", *args)
        self.all.append(process)
        return process

    def replace(self, index: int) -> None:
        """Kill a worker, and start another one at its port."""
        old = self.workers[index]
        old.kill()
        self.workers[index] = self.start(old.role, *old.args)
        self.workers[index].wait()

    def connect(self, index: int, keys: list[str]) -> None:
        order = {"address": f"http://127.0.0.1:{self.workers[index].args[0]}", "keys": keys}
        print(json.dumps(order), file=self.clients[index].stdin, flush=True)

    def seen(self) -> dict[str, list[dict[str, Any]]]:
        """The events of the client of each key, in the order of the time."""
        seen = defaultdict(list)
        for line in self.log.read_text().rpartition("\n")[0].splitlines():  # the last one may be half written
            fact = json.loads(line)
            seen[fact["key"]].append(fact)
        return seen

    def wait_for(self, what: str, keys: list[str]) -> None:
        deadline = time.monotonic() + MAX_WAIT
        while missing := set(keys) - {
            key for key, facts in self.seen().items() if any(f["what"] == what for f in facts)
        }:
            assert time.monotonic() < deadline, f"{len(missing)} of {len(keys)} clients without {what!r}"
            time.sleep(0.2)

    def announced(self) -> dict[str, list[tuple[Process, float, str]]]:
        """By whom, when and why the end of each session was announced."""
        ends = defaultdict(list)
        for process in self.all:
            for fact in process.saw("announced"):
                ends[fact["id"]].append((process, fact["at"], fact["reason"]))
        return ends

    def end(self) -> None:
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.close()
            client.wait(MAX_WAIT)
        for process in self.all:
            process.end()


@pytest.fixture
def make_site(redis_url, tmp_path):
    with contextlib.ExitStack() as stack:

        def make(roles: list[str], beside: list[str]) -> Site:
            site = Site(redis_url, tmp_path, roles, beside)
            stack.callback(site.end)
            return site

        yield make


def check(site: Site, clients: dict[str, str]) -> None:
    """Check announcements and logouts; `clients` has the first key of the session of each client's key."""
    created = {fact["id"]: fact for process in site.all for fact in process.saw("created")}
    deadline = time.monotonic() + MAX_WAIT
    while created.keys() - site.announced().keys():
        assert time.monotonic() < deadline, "an end was not announced"
        time.sleep(0.5)
    time.sleep(1)  # a second announcement would come within the lease and a poll
    if any(process.killed_at for process in site.all):
        time.sleep(LEASE + 1)
    announced = site.announced()
    assert announced.keys() == created.keys()
    twice = [ends for ends in announced.values() if len(ends) > 1]
    for ends in twice:
        (first, at, _), *later = sorted(ends, key=lambda end: end[1])
        assert first.killed_at is not None, "announced twice, and the first process lives"
        assert first.killed_at - at < 2, "announced twice, and the first process was killed much later"
        assert len(later) == 1
    assert {process.role for ends in announced.values() for process, *_ in ends} <= {"loop", "threads", "queue"}

    # The instant of each end: that of the call, or the deadline.
    ended = {first: fact["deadline"] for first, fact in created.items()}
    ended |= {fact["id"]: fact["at"] for process in site.all for fact in process.saw("ending") if "id" in fact}
    evicted = [fact for process in site.all for fact in process.saw("ending") if "user" in fact]
    assert len(evicted) == sum(reason == "evicted" for ends in announced.values() for _, _, reason in ends[:1])
    late = []
    for key, facts in site.seen().items():
        logouts = [fact["at"] for fact in facts if fact["what"] == "logout"]
        assert logouts, "a client without its logout"
        assert len(logouts) == 1, "a client with two"
        first = clients[key]
        if announced[first][0][2] == "evicted":
            continue  # the instant of that is not known to the process that it happens in
        before = [fact for fact in facts if fact["at"] < ended[first]]
        if before and before[-1]["what"] == "joined" and before[-1]["joined"]:
            after = next(fact for fact in facts if fact["at"] >= ended[first])
            if after["what"] == "logout":  # else its server was killed
                late.append(after["at"] - ended[first])
    late.sort()
    share = [f"{share:.0%} {late[min(len(late) - 1, int(len(late) * share))]:.3f} s" for share in (0.5, 0.9, 0.99, 1)]
    print(f"{len(created)} sessions, {len(late)} logouts of live processes, {len(twice)} announced twice; {share}")
    assert len(late) > len(clients) / 3


def torture(site: Site, sessions: int, seconds: float, kill_every: float) -> None:
    chance, count = site.chance, len(site.workers)
    start = time.time() + 15 + sessions / 100  # until then the clients have joined
    keys: list[list[str]] = [[] for _ in range(count)]
    for number in range(sessions):
        timeout = start + chance.uniform(0, seconds) - time.time()
        keys[number % count].append(chance.choice(site.workers).do("login", user=f"user {number}", timeout=timeout))
    clients = {key: key for some in keys for key in some}
    for index, some in enumerate(keys):
        site.connect(index, some)
    site.wait_for("joined", list(clients))
    users = {
        key: f"user {number * count + index}" for index, some in enumerate(keys) for number, key in enumerate(some)
    }

    present = dict(clients)  # the present key of each session
    left = chance.sample(list(clients), k=sessions // 2)  # the others expire
    kill_at = start + kill_every
    while time.time() < start + seconds:
        if left and time.time() > start + seconds * (1 - len(left) / (sessions // 2)):
            key, worker = left.pop(), chance.choice(site.workers)
            what = chance.choice(["delete", "evict", "renew"])
            if what == "renew":
                with contextlib.suppress(json.JSONDecodeError):
                    new = worker.do("renew_if_live", key=present[key])
                    present[key] = new or present[key]
            elif what == "evict":
                worker.do("evict_if_live", user=users[key], key=present[key], timeout=5)
            else:
                worker.do("delete_if_live", first=key, key=present[key])
        elif time.time() > kill_at:
            kill_at += kill_every
            site.replace(chance.randrange(count))
        else:
            time.sleep(0.01)
    site.wait_for("logout", list(clients))
    check(site, clients)


def test_some(make_site):
    """Workers, two of them with a queue, beside processes that do not serve; clients of a killed one come back."""
    site = make_site(["loop", "queue", "queue"], ["opens", "listens"])
    torture(site, 100, 6, 3)


@pytest.mark.long
def test_many(make_site):
    """Eight processes, 2,000 sessions and clients, and a worker killed every three seconds."""
    site = make_site(["loop", "loop", "loop", "threads", "queue"], ["opens", "opens", "listens"])
    torture(site, 2000, 30, 3)


@pytest.mark.long
@pytest.mark.parametrize("role", ["memory", "loop"])
def test_one_process(make_site, role):
    """1,500 clients on one process with an event loop get their logouts, of all sessions at once or of each in time."""
    site = make_site([role], [])
    (worker,) = site.workers

    def connected(timeout: Any) -> list[str]:
        keys = [worker.do("login", user=f"user {number}", timeout=timeout(number)) for number in range(1500)]
        for first in range(0, len(keys), 100):
            site.connect(0, keys[first : first + 100])
        site.wait_for("joined", keys)
        return keys

    def print_delays(what: str, ends: dict[str, float]) -> None:
        site.wait_for("logout", list(ends))
        seen = site.seen()
        delays = sorted(next(f["at"] for f in seen[key] if f["what"] == "logout") - end for key, end in ends.items())
        print(f"{what}: 50% {delays[750]:.3f} s, 99% {delays[1485]:.3f} s, last {delays[-1]:.3f} s")

    keys = connected(lambda number: 600)
    print_delays("deleteAllSessions", dict.fromkeys(keys, worker.do("delete_all")))
    start = time.time() + 30
    connected(lambda number: start + number / 150 - time.time())
    assert time.time() < start, "the clients have taken too long"
    deadlines = {fact["id"]: fact["deadline"] for fact in worker.saw("created")[1500:]}
    print_delays("expiry", deadlines)
