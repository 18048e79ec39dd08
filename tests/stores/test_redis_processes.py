"""Sessions in Redis as several processes see them: killed, forked, late and ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreter import run
from redis_checks import ROUNDING, calls, kept_sessions, without_ttl
from waiting import WAIT, eventually

from users_session_manager import SessionManager

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing

WORKER = Path(__file__).with_name("redis_worker.py")


class Processes:
    """Workers that share one Redis, and what each of them has seen."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.prefix, self.folder = url, f"{secrets.token_hex(8)}:", folder
        self.alive: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: dict[str, float] = {}
        self.started = 0

    def start(self, scenario: str, *args: object) -> str:
        self.started += 1
        name = f"worker-{self.started}"
        command = [sys.executable, str(WORKER), scenario, self.url, self.prefix, str(self.folder / name)]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.alive[name] = subprocess.Popen(
                [*command, *map(str, args)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=uncovered()
            )
        return name

    def kill(self, name: str) -> None:
        process = self.alive.pop(name)
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=WAIT) == -signal.SIGKILL
        self.killed[name] = time.time()

    def end(self) -> None:
        """End all of them as they are meant to end; none has written anything to its console."""
        for process in self.alive.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self.alive.items():
            assert process.wait(timeout=WAIT) == 0, name
        self.alive.clear()
        logs = [log.read_text() for log in self.folder.glob("*.log") if log.name.startswith("worker")]
        # The one line is what the first `error` listener causes.
        assert [log.partition("From now on the npm methods")[0] + log.partition("\n")[2] for log in logs] == [
            ""
        ] * self.started

    def facts(self, what: str, *names: str) -> list[dict[str, Any]]:
        """All that was noted of that kind, in the order of the time, with the name of the worker."""
        found = []
        for file in self.folder.glob("worker-*"):
            if file.suffix or (names and file.name not in names):
                continue
            lines = file.read_text().splitlines()
            found += [{"worker": file.name, **json.loads(line)} for line in lines if f'"what": "{what}"' in line]
        return sorted(found, key=lambda fact: fact["at"])

    def wait_for(self, what: str, *names: str) -> None:
        for name in names:
            eventually(lambda name=name: self.facts(what, name))


def uncovered() -> dict[str, str]:
    """The environment without coverage, which has locks of its own and costs its time in each process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


@pytest.fixture
def processes(redis_url: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(redis_url, tmp_path)
    yield processes
    for process in processes.alive.values():
        process.kill()
        process.wait()
        process.stdin.close()


class TestKilledProcesses:
    @pytest.mark.parametrize(
        ("total", "pause"), [(1_500, 0.02), pytest.param(20_000, 0.015, marks=pytest.mark.slow)], ids=["some", "many"]
    )
    def test_killed(self, processes, client, total, pause):
        """No end is lost, none is early, and only a killed process causes a second announcement."""
        client.delete("logins", "keys")
        for _ in range(4):
            processes.start("torture", total, pause)
        for logins in range(200, total, 200):
            eventually(lambda logins=logins: int(client.get("logins") or 0) >= logins)
            assert without_ttl(client, processes.prefix) == []
            processes.kill(random.choice([*processes.alive]))
            processes.start("torture", total, pause)
        eventually(lambda: int(client.get("logins") or 0) >= total)

        with contextlib.closing(RedisStore.from_url(processes.url, prefix=processes.prefix)) as store:

            def only_those_with_a_long_timeout():
                live = [session for session in map(store.get, store.sessions) if session is not None]
                settled = len(kept_sessions(client, processes.prefix)) == len(live)
                return settled and all((store.time_left(session.key) or 0) > 100 for session in live) and live

            alive = {session.data["id"] for session in eventually(only_those_with_a_long_timeout)}
        processes.end()
        client.delete("logins", "keys")
        assert processes.facts("failed") == []
        check_ends(processes, alive)
        assert without_ttl(client, processes.prefix) == []


def check_ends(processes: Processes, alive: set[str]) -> None:
    created = {fact["id"]: fact for fact in processes.facts("created")}
    ends = defaultdict(list)
    for end in processes.facts("ended"):
        ends[end["id"]].append(end)

    assert created.keys() - ends.keys() - alive == set(), "lost"
    assert ends.keys() & alive == set(), "announced, and alive"
    for unknown in ends.keys() - created.keys():
        assert ends[unknown][0]["by"] in processes.killed, "it was never logged in"

    second = 0
    for announced in ends.values():
        for earlier, later in itertools.pairwise(announced):
            second += 1
            assert processes.killed.get(earlier["worker"], float("inf")) < later["at"], (earlier, later)

    deadlines = defaultdict(float)
    for fact in [*created.values(), *processes.facts("restarted")]:
        deadlines[fact["id"]] = max(deadlines[fact["id"]], fact["deadline"])
    deleting = {fact["id"] for fact in processes.facts("deleting")}
    reasons = Counter()
    for session, announced in ends.items():
        for end in announced:
            assert end["reason"] == announced[0]["reason"]
            if end["reason"] == "expired":
                assert end["at"] > deadlines[session] - ROUNDING, "early"
            if end["reason"] == "deleted":
                assert session in deleting
        reasons[announced[0]["reason"]] += 1
    assert min(reasons["deleted"], reasons["expired"]) > 0
    print(
        f"{len(created)} sessions, {len(alive)} alive, {len(processes.killed)} processes killed, "
        f"{second} announced twice; {dict(reasons)}"
    )


class TestOnTime:
    @pytest.mark.parametrize(
        ("count", "seconds", "lead"),
        [(1_000, 2, 4), pytest.param(100_000, 20, 120, marks=pytest.mark.slow)],
        ids=["some", "many"],
    )
    def test_many(self, processes, client, count, seconds, lead):
        """Each of many sessions is announced once and soon, by all processes together."""
        first = time.time() + lead
        names = [processes.start("many", count // 4, first, first + seconds) for _ in range(4)]
        eventually(lambda: len(processes.facts("all logged in")) == len(names), timeout=lead + 5 * WAIT)
        eventually(lambda: kept_sessions(client, processes.prefix) == [], timeout=lead + seconds + 2 * WAIT)
        processes.end()

        created = {fact["id"]: fact["deadline"] for fact in processes.facts("created")}
        ended = [(fact["id"], fact["at"]) for fact in processes.facts("ended")]
        assert len(created) == len(ended) == count
        assert created.keys() == {key for key, _ in ended}
        last_login = max(fact["at"] for fact in processes.facts("all logged in"))
        late = sorted(at - created[key] for key, at in ended)
        print(
            f"{count} sessions over {seconds} s, {first - last_login:.1f} s after the last login; announced late by "
            + ", ".join(f"{share:.1%} {late[int(share * (count - 1))]:.3f} s" for share in (0.5, 0.9, 0.99, 0.999, 1))
            + f"; within 1 s: {sum(one <= 1 for one in late) / count:.2%}"
        )
        assert late[0] > -ROUNDING
        announced_by = Counter(fact["worker"] for fact in processes.facts("ended"))
        assert announced_by.keys() == set(names)

    def test_idle(self, processes, own_server):
        """Idle processes ask Redis about once per second each."""
        processes.url = own_server().url
        with redis.Redis.from_url(processes.url) as client:
            for many, more in ((1, 1), (4, 3)):
                processes.wait_for("ready", *(processes.start("listen") for _ in range(more)))
                eventually(lambda many=many: calls(client) >= many)
                time.sleep(0.5)  # they have asked what they ask at the start
                before, at = calls(client), time.monotonic()
                time.sleep(2.5)
                asked, seconds = calls(client) - before, time.monotonic() - at
                print(f"{many} idle: {asked / seconds:.2f} calls per second")
                assert 0 < asked <= 2 * many * (seconds + 1)
        processes.end()


OPENED = """
    import os, signal, sys, threading, time
    from redis import Redis
    from users_session_manager import SessionManager
    from users_session_manager.stores.redis import RedisStore

    store = RedisStore.from_url(sys.argv[1], prefix=sys.argv[2], lease=2)
    manager = SessionManager(store=store)

    def write(session, reason):  # at once, also in a child and at the exit
        os.write(1, f"{session.username} {reason} {os.getpid() == parent}\\n".encode())

    manager.on("sessionEnded", write)
    parent = os.getpid()

    def wait_for_ends():  # until each session has ended, and its end is acknowledged
        with Redis.from_url(sys.argv[1]) as client:
            while [key for key in client.scan_iter(f"{sys.argv[2]}*") if key.endswith((b":due", b":ended"))]:
                time.sleep(0.05)
"""


class TestFork:
    def test_both_work(self, redis_url, prefix):
        """Parent and children all work, and each end is announced once."""
        done = run(
            OPENED
            + """
    stop = threading.Event()
    key = manager.loadNewSession("of both", timeout=3)

    def busy():  # so that locks of every kind are held when the fork comes
        while not stop.is_set():
            manager.findSession(key)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        manager.loadNewSession(f"before-{number}", timeout=2 + number / 20)
    children = []
    for child in range(4):
        if pid := os.fork():
            children.append(pid)
            continue
        manager.deleteSession(manager.loadNewSession(f"child-{child}-deletes"))
        assert manager.checkSessionStatus(manager.loadNewSession(f"child-{child}-waits", timeout=2))
        wait_for_ends()
        manager.close()
        os._exit(0)
    stop.set()
    manager.deleteSession(manager.loadNewSession("parent-deletes"))
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    wait_for_ends()
    """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split() for line in done.stdout.replace("of both", "of-both").splitlines()]
        announced = Counter(name for name, _, _ in lines)
        expected = {"of-both", "parent-deletes", *(f"before-{number}" for number in range(20))}
        expected |= {f"child-{child}-{what}" for child in range(4) for what in ("deletes", "waits")}
        assert announced == dict.fromkeys(expected, 1)
        # The process that deletes announces.
        assert {(name, here) for name, reason, here in lines if reason == "deleted"} == {
            ("parent-deletes", "True"),
            *((f"child-{child}-deletes", "False") for child in range(4)),
        }

    def test_subscribed_parent(self, redis_url, prefix):
        """A child of a process that subscribes does not wait for the locks of its parent's connections."""
        done = run(
            """
            import os, signal, sys, threading
            from users_session_manager import SessionManager
            from users_session_manager.stores.redis import RedisStore

            store = RedisStore.from_url(sys.argv[1], prefix=sys.argv[2], thread=False)
            manager = SessionManager(store=store)
            manager.initSocketReference(object())
            manager.serve()
            store.run_due()
            lock, held, done = store._scripts.client.get().connection_pool._lock, threading.Event(), threading.Event()

            def hold():
                with lock:
                    held.set()
                    done.wait()

            threading.Thread(target=hold).start()
            held.wait()
            child = os.fork()
            if child == 0:
                os._exit(0)
            timer = threading.Timer(10, os.kill, (child, signal.SIGKILL))
            timer.start()
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            timer.cancel()
            done.set()
            """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr

    def test_early_logout(self, redis_url, prefix):
        """A child that logs out before its own clock has first looked acknowledges that."""
        done = run(
            OPENED
            + """
    key = manager.loadNewSession("Luca")
    time.sleep(0.5)
    if pid := os.fork():
        os.waitpid(pid, 0)
    else:
        manager.deleteSession(key)
        wait_for_ends()  # if the child does not acknowledge, then the parent announces once more
        os._exit(0)
    """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted False\n")

    def test_claimed_by_parent(self, redis_url, prefix):
        """A child announces nothing that its parent has claimed."""
        done = run(
            OPENED
            + """
    def slow(session, reason):
        first.set()
        time.sleep(0.1)

    first = threading.Event()
    manager.on("sessionEnded", slow)
    for number in range(20):
        manager.loadNewSession(f"parents-{number}", timeout=2)
    first.wait()
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        manager.loadNewSession("child", timeout=2)
        wait_for_ends()
        os._exit(0)
    """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        announced = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert announced == {"child": 1, **{f"parents-{number}": 1 for number in range(20)}}

    def test_dead_parent(self, redis_url, prefix):
        """A child announces what its parent had claimed when it died."""
        done = run(
            OPENED
            + """
    def slow(session, reason):
        first.set()
        time.sleep(1 if os.getpid() == parent else 0)

    first = threading.Event()
    manager.on("sessionEnded", slow)
    for number in range(20):
        manager.loadNewSession(f"{number}", timeout=2)
    first.wait()
    if os.fork():
        os._exit(0)
    manager.loadNewSession("child", timeout=2)
    wait_for_ends()
    os._exit(0)
    """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        announced = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert announced.keys() == {"child", *map(str, range(20))}
        assert sorted(announced.values())[:-1] == [1] * 20  # at most the one that was under way a second time


class TestEndOfAProcess:
    @pytest.mark.parametrize("end", ["manager.close()", "pass", "sys.exit()"])
    def test_release(self, redis_url, prefix, end, processes, client):
        """The announcement under way is completed; the other claims are another process's at once."""
        done = run(
            OPENED.replace("lease=2", "lease=600")
            + f"""
    def slow(session, reason):
        last.set()
        time.sleep(0.2)

    last = threading.Event()
    manager.on("sessionEnded", slow)
    for number in range(20):
        manager.loadNewSession(f"{{number}}", data={{"by": "me", "id": number}}, timeout=2)
    last.wait()
    {end}
    """,
            redis_url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        here = [line.split()[0] for line in done.stdout.splitlines()]
        assert 1 <= len(here) < 20
        processes.prefix = prefix
        processes.start("listen")
        eventually(lambda: kept_sessions(client, prefix) == [])
        processes.end()
        assert len(here) + len(processes.facts("ended")) == 20

    def test_delete(self, redis_url, prefix, client):
        """A process that deletes a session and exits has acknowledged that."""
        done = run(
            OPENED + "    manager.deleteSession(manager.loadNewSession('Luca'))", redis_url, prefix, covered=False
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted True\n")
        assert kept_sessions(client, prefix) == []

    def test_close_in_logout(self, redis_url, prefix, client):
        """Closing in the middle of a logout loses no acknowledgement."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert kept_sessions(client, prefix) == []

    def test_close_in_listener(self, redis_url, prefix, client):
        """Closing in a listener of an expiry acknowledges that."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: kept_sessions(client, prefix) == [])

    def test_connections_after_close(self, own_server):
        """Closing in a listener leaves no connection, though the end is acknowledged afterwards."""
        server, closed = own_server(), threading.Event()
        manager = SessionManager(store=server.url)
        manager.on("sessionDeleted", lambda key: (manager.close(), closed.set()))
        manager.loadNewSession("Luca", timeout=2)
        assert closed.wait(WAIT)
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: kept_sessions(administrator, "users-session-manager:") == [])
            eventually(lambda: len(administrator.client_list()) == 1)

    @pytest.mark.parametrize("how", ["SIGTERM", "SIGSTOP"])
    @pytest.mark.parametrize("noticed", [True, False])
    def test_without_redis(self, own_server, prefix, how, noticed):
        """An exit without Redis neither hangs nor prints anything."""
        server = own_server()
        start = time.monotonic()
        done = run(
            OPENED
            + f"""
    import logging
    noticed = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: noticed.set()
    logging.getLogger("users_session_manager").addHandler(handler)
    manager.loadNewSession("Luca")
    manager.deleteSession(manager.loadNewSession("Marco"))
    os.kill({server.process.pid}, signal.{how})
    assert not {noticed} or noticed.wait(30)
    """,
            server.url,
            prefix,
            covered=False,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Marco deleted True\n")
        assert time.monotonic() - start < WAIT / 2
