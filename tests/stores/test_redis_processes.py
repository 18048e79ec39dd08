"""Sessions in Redis as several processes see them: killed, forked, late, cut off from Redis, or lied to by others."""

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
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing

WORKER = Path(__file__).with_name("redis_worker.py")
PATIENCE = 60
# An announcement has been heard this long before its deadline at most: what two clocks of one machine may differ by.
ROUNDING = 0.01


def eventually(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Return what `what` says once that is true."""
    deadline = time.monotonic() + patience
    while not (said := what()):
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.02)
    return said


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(8)}:"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """What starts a redis-server of this test alone, with the options it is given."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path, *options)
            stack.callback(server.stop)
            return server

        yield start


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
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
        self.killed[name] = time.time()

    def end(self) -> None:
        """End all of them as they are meant to end; none has anything to say."""
        for process in self.alive.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self.alive.items():
            assert process.wait(timeout=PATIENCE) == 0, name
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


def keys_under(client: Any, prefix: str, kind: str = "") -> list[bytes]:
    return list(client.scan_iter(match=f"{prefix}{{*}}:{kind}*", count=1000))


def without_ttl(client: Any, prefix: str) -> list[bytes]:
    keys = keys_under(client, prefix)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.ttl(key)
        return [key for key, ttl in zip(keys, pipeline.execute(), strict=True) if ttl == -1]


class TestKilledProcesses:
    @pytest.mark.parametrize(
        ("total", "pause"), [(2_500, 0.02), pytest.param(20_000, 0.015, marks=pytest.mark.slow)], ids=["some", "many"]
    )
    def test_no_end_is_lost_none_is_early_and_who_is_killed_alone_causes_a_second_one(
        self, processes, client, total, pause
    ):
        client.delete("logins", "keys")
        for _ in range(4):
            processes.start("torture", total, pause)
        busy = True
        while busy:
            time.sleep(1)
            assert without_ttl(client, processes.prefix) == []
            busy = int(client.get("logins") or 0) < total
            processes.kill(random.choice([*processes.alive]))
            processes.start("torture", total, pause)
        client.delete("keys")

        with contextlib.closing(RedisStore.from_url(processes.url, prefix=processes.prefix)) as store:

            def only_those_with_a_long_timeout():
                live = [session for session in map(store.get, store.sessions) if session is not None]
                settled = len(keys_under(client, processes.prefix, "s:")) == len(live)
                return settled and all((store.time_left(session.key) or 0) > 100 for session in live) and live

            alive = {(*session.formerKeys, session.key)[0] for session in eventually(only_those_with_a_long_timeout)}
        processes.end()
        client.delete("logins")
        assert processes.facts("failed") == []
        check_ends(processes, alive)
        assert len(processes.killed) >= 5
        assert without_ttl(client, processes.prefix) == []


def check_ends(processes: Processes, alive: set[str]) -> None:
    created = {fact["key"]: fact for fact in processes.facts("created")}
    ends = defaultdict(list)
    first_key = {}
    for end in processes.facts("ended"):
        ends[end["id"]].append(end)
        first_key.update(dict.fromkeys(end["keys"], end["id"]))

    assert created.keys() - ends.keys() - alive == set(), "lost"
    assert ends.keys() & alive == set(), "announced, and alive"
    for unknown in ends.keys() - created.keys():
        assert ends[unknown][0]["by"] in processes.killed, "nobody has logged it in"

    second = 0
    for told in ends.values():
        for earlier, later in itertools.pairwise(told):
            second += 1
            assert processes.killed.get(earlier["worker"], float("inf")) < later["at"], (earlier, later)

    deadlines = defaultdict(float)
    for fact in [*created.values(), *processes.facts("restarted")]:
        session = first_key.get(fact["key"])
        deadlines[session] = max(deadlines[session], fact["deadline"])
    deleting = {first_key.get(fact["key"]) for fact in processes.facts("deleting")}
    reasons = Counter()
    for session, told in ends.items():
        for end in told:
            assert end["reason"] == told[0]["reason"]
            if end["reason"] == "expired":
                assert end["at"] > deadlines[session] - ROUNDING, "early"
            if end["reason"] == "deleted":
                assert session in deleting
        reasons[told[0]["reason"]] += 1
    assert min(reasons["deleted"], reasons["expired"]) > 0
    print(
        f"{len(created)} sessions, {len(alive)} alive, {len(processes.killed)} processes killed, "
        f"{second} announced twice; {dict(reasons)}"
    )


def test_an_announcer_that_could_not_be_started_is_started_later(redis_url, prefix, monkeypatch):
    start, refused = threading.Thread.start, []

    def no_thread(thread):
        if thread.name == "users-session-manager announcer" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
    ended = []
    manager.on("sessionDeleted", ended.append)
    keys = [manager.loadNewSession("Luca", timeout=2) for _ in range(2)]
    eventually(lambda: set(ended) == set(keys))
    assert refused


class TestRedisAway:
    TIMEOUT = 0.5

    def test_it_is_stopped_and_started_again(self, own_server, caplog):
        server = own_server("--appendonly", "yes")
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended: dict[str, float] = {}
        manager.on("sessionDeleted", lambda key: ended.setdefault(key, time.time()))
        stays = [manager.loadNewSession(f"stays {number}") for number in range(50)]
        out = manager.loadNewSession("logged out")
        manager.deleteSession(out)
        due: dict[str, float] = {}
        for number in range(100):
            timeout = random.uniform(2.5, 5.5)
            due[manager.loadNewSession(f"runs out {number}", timeout=timeout)] = time.time() + timeout
        threads = {thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")}
        assert threads

        server.stop()
        stopped, slowest = time.time(), 0.0
        while time.time() < stopped + 5:
            for call in (
                lambda: manager.loadNewSession("Luca"),
                lambda: manager.checkSessionStatus(stays[0]),
                lambda: manager.checkSessionStatus(out),
                lambda: manager.deleteSession(stays[0]),
                manager.getLoggedUsers,
            ):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable, match="Redis is unreachable"):
                    call()
                slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        assert slowest < PATIENCE
        meanwhile = [key for key, deadline in due.items() if stopped < deadline < time.time()]
        server.start()
        back = time.time()
        eventually(lambda: due.keys() <= ended.keys())
        late = sorted(ended[key] - back for key in meanwhile)
        print(f"slowest refusal {slowest:.3f} s; {len(late)} fell due meanwhile, the last {late[-1]:.3f} s after it")

        assert len(meanwhile) > 10
        assert all(ended[key] > deadline - ROUNDING - 0.5 for key, deadline in due.items())
        assert ended.keys() == {*due, out}
        assert [manager.checkSessionStatus(key) for key in stays] == [True] * 50
        assert sorted(manager.getLoggedUsers()) == sorted(f"stays {number}" for number in range(50))
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(out)
        assert all(thread.is_alive() for thread in threads)
        # And it goes on.
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: len(ended) == len(due) + 2)
        assert [said(record) for record in caplog.records if record.levelname != "DEBUG"] == [
            "Redis is unreachable, every session is refused",
            "Redis is reachable again",
        ]

    def test_it_stalls(self, own_server, caplog):
        server = own_server()
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended = []
        manager.on("sessionDeleted", ended.append)
        stays, runs_out = manager.loadNewSession("stays"), manager.loadNewSession("runs out", timeout=2)

        server.process.send_signal(signal.SIGSTOP)
        for call in (manager.loadNewSession, lambda _: manager.checkSessionStatus(stays)):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call("Luca")
            took = time.monotonic() - began
            print(f"refused after {took:.2f} s")
            assert self.TIMEOUT * 0.9 < took < PATIENCE
        server.process.send_signal(signal.SIGCONT)

        assert eventually(lambda: answer(manager.checkSessionStatus, stays))
        eventually(lambda: ended == [runs_out])
        away = [said(record) for record in caplog.records if record.levelname != "DEBUG"]
        assert away == ["Redis is unreachable, every session is refused", "Redis is reachable again"]

    def test_many_threads_that_miss_it_at_once_say_so_once(self, own_server, caplog):
        server = own_server()
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        key = manager.loadNewSession("Luca")
        server.process.send_signal(signal.SIGSTOP)
        refused = []

        def ask():
            try:
                manager.checkSessionStatus(key)
            except StoreUnavailable:
                refused.append(True)

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.process.send_signal(signal.SIGCONT)
        assert len(refused) == 30
        eventually(lambda: answer(manager.checkSessionStatus, key))
        levels = [record.levelname for record in caplog.records if record.levelname != "DEBUG"]
        assert levels == ["ERROR", "WARNING"]

    def test_it_is_not_there_yet(self, own_server):
        server = own_server()
        server.stop()
        manager = SessionManager(store=server.url)
        ended = []
        manager.on("sessionDeleted", ended.append)
        with pytest.raises(StoreUnavailable):
            manager.loadNewSession("Luca")
        with pytest.raises(StoreUnavailable):
            manager.deleteAllSessions()
        server.start()
        key = manager.loadNewSession("Luca", timeout=2)
        assert manager.checkSessionStatus(key)
        eventually(lambda: ended == [key])


def said(record: Any) -> str:
    return record.getMessage().partition(":")[0]


def answer(call: Callable[..., Any], *args: Any) -> Any:
    """What a call says, and nothing while Redis is away."""
    try:
        return call(*args)
    except StoreUnavailable:
        return None


class TestOnTime:
    @pytest.mark.parametrize(
        ("count", "seconds", "lead"),
        [(4_000, 4, 6), pytest.param(100_000, 20, 120, marks=pytest.mark.slow)],
        ids=["some", "a hundred thousand"],
    )
    def test_each_of_a_crowd_is_announced_once_and_soon(self, processes, client, count, seconds, lead):
        first = time.time() + lead
        names = [processes.start("crowd", count // 4, first, first + seconds) for _ in range(4)]
        eventually(lambda: len(processes.facts("all in")) == len(names), patience=lead + PATIENCE)
        eventually(lambda: keys_under(client, processes.prefix, "s:") == [], patience=lead + seconds + 2 * PATIENCE)
        processes.end()

        created = {fact["key"]: fact["deadline"] for fact in processes.facts("created")}
        ended = [(fact["id"], fact["at"]) for fact in processes.facts("ended")]
        assert len(created) == len(ended) == count
        assert created.keys() == {key for key, _ in ended}
        all_in = max(fact["at"] for fact in processes.facts("all in"))
        late = sorted(at - created[key] for key, at in ended)
        print(
            f"{count} sessions over {seconds} s, {first - all_in:.1f} s after the last login; announced late by "
            + ", ".join(f"{share:.1%} {late[int(share * (count - 1))]:.3f} s" for share in (0.5, 0.9, 0.99, 0.999, 1))
            + f"; within 1 s: {sum(one <= 1 for one in late) / count:.2%}"
        )
        assert late[0] > -ROUNDING
        announced_by = Counter(fact["worker"] for fact in processes.facts("ended"))
        assert announced_by.keys() == set(names)

    @pytest.mark.parametrize("many", [1, 4])
    def test_idle_processes_leave_redis_alone(self, processes, own_server, many):
        server = own_server()
        processes.url = server.url
        names = [processes.start("listen") for _ in range(many)]
        processes.wait_for("ready", *names)
        with redis.Redis.from_url(server.url) as client:
            eventually(lambda: calls(client) >= many)
            time.sleep(1)  # they have said what they say at the start
            before, at = calls(client), time.monotonic()
            commands = client.info("stats")["total_commands_processed"]
            time.sleep(5)
            asked, seconds = calls(client) - before, time.monotonic() - at
            commands = client.info("stats")["total_commands_processed"] - commands
        print(f"{many} idle: {asked / seconds:.2f} calls a second, {commands / seconds:.0f} commands, theirs included")
        assert 0 < asked <= 2 * many * (seconds + 1)
        processes.end()


def calls(client: Any) -> int:
    """How many calls have reached Redis that are not the tests' own."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


def run(program: str, *args: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), *args],
        capture_output=True,
        text=True,
        timeout=patience,
        env=uncovered(),
        check=False,
    )


OPENED = """
    import os, signal, sys, threading, time
    from users_session_manager import SessionManager
    from users_session_manager.stores.redis import RedisStore

    store = RedisStore.from_url(sys.argv[1], prefix=sys.argv[2], lease=2)
    manager = SessionManager(store=store)

    def say(session, reason):  # at once, whoever is forked or ends
        os.write(1, f"{session.username} {reason} {os.getpid() == parent}\\n".encode())

    manager.on("sessionEnded", say)
    parent = os.getpid()
"""


class TestFork:
    def test_parent_and_child_both_work_and_each_end_is_announced_once(self, redis_url, prefix):
        done = run(
            OPENED
            + """
    stop = threading.Event()
    key = manager.loadNewSession("of both", timeout=5)

    def busy():  # so that locks of every kind are held when the fork comes
        while not stop.is_set():
            manager.checkSessionStatus(key)

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
        manager.loadNewSession(f"child-{child}-waits", timeout=2)
        assert manager.checkSessionStatus(key)
        time.sleep(6)
        manager.close()
        os._exit(0)
    stop.set()
    manager.deleteSession(manager.loadNewSession("parent-deletes"))
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    time.sleep(1)
    """,
            redis_url,
            prefix,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split() for line in done.stdout.replace("of both", "of-both").splitlines()]
        told = Counter(name for name, _, _ in lines)
        expected = {"of-both", "parent-deletes", *(f"before-{number}" for number in range(20))}
        expected |= {f"child-{child}-{what}" for child in range(4) for what in ("deletes", "waits")}
        assert told == dict.fromkeys(expected, 1)
        # Who deletes announces.
        assert {(name, here) for name, reason, here in lines if reason == "deleted"} == {
            ("parent-deletes", "True"),
            *((f"child-{child}-deletes", "False") for child in range(4)),
        }

    def test_a_child_that_logs_out_at_once_acknowledges_that(self, redis_url, prefix):
        """Before its own clock has looked for the first time."""
        done = run(
            OPENED
            + """
    key = manager.loadNewSession("Luca")
    time.sleep(0.5)
    if pid := os.fork():
        os.waitpid(pid, 0)
        time.sleep(4)
    else:
        manager.deleteSession(key)
        time.sleep(1)
        os._exit(0)
    """,
            redis_url,
            prefix,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted False\n")

    def test_a_child_announces_nothing_of_what_its_parent_has_in_hand(self, redis_url, prefix):
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
        manager.loadNewSession("childs", timeout=2)
        time.sleep(7)
        os._exit(0)
    """,
            redis_url,
            prefix,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert told == {"childs": 1, **{f"parents-{number}": 1 for number in range(20)}}

    def test_a_child_announces_what_its_parent_has_died_of_announcing(self, redis_url, prefix):
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
    manager.loadNewSession("childs", timeout=2)
    time.sleep(6)
    os._exit(0)
    """,
            redis_url,
            prefix,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert told.keys() == {"childs", *map(str, range(20))}
        assert sorted(told.values())[:-1] == [1] * 20  # at most the one that was under way a second time


class TestEndOfAProcess:
    @pytest.mark.parametrize("end", ["manager.close()", "pass", "sys.exit()"])
    def test_what_was_announced_is_acknowledged_and_what_was_not_is_handed_back(
        self, redis_url, prefix, end, processes, client
    ):
        """The one announcement that is under way comes to its end; the others are another process' at once."""
        done = run(
            OPENED.replace("lease=2", "lease=600")
            + f"""
    def slow(session, reason):
        last.set()
        time.sleep(0.2)

    last = threading.Event()
    manager.on("sessionEnded", slow)
    for number in range(20):
        manager.loadNewSession(f"{{number}}", data={{"by": "me"}}, timeout=2)
    last.wait()
    {end}
    """,
            redis_url,
            prefix,
        )
        assert (done.returncode, done.stderr) == (0, "")
        here = [line.split()[0] for line in done.stdout.splitlines()]
        assert 1 <= len(here) < 20
        processes.prefix = prefix
        processes.start("listen")
        eventually(lambda: keys_under(client, prefix, "s:") == [])
        processes.end()
        assert len(here) + len(processes.facts("ended")) == 20

    def test_who_deletes_and_exits_has_acknowledged(self, redis_url, prefix, client):
        done = run(OPENED + "    manager.deleteSession(manager.loadNewSession('Luca'))", redis_url, prefix)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted True\n")
        assert keys_under(client, prefix) == [] or not keys_under(client, prefix, "s:")

    def test_closing_in_the_middle_of_a_logout_loses_no_acknowledgement(self, redis_url, prefix, client):
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert keys_under(client, prefix, "s:") == []

    def test_closing_on_hearing_of_an_end_acknowledges_that(self, redis_url, prefix, client):
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: keys_under(client, prefix, "s:") == [])

    @pytest.mark.parametrize("how", ["SIGTERM", "SIGSTOP"])
    @pytest.mark.parametrize("noticed", [True, False])
    def test_an_exit_without_redis_neither_hangs_nor_says_anything(self, own_server, prefix, how, noticed):
        server = own_server()
        began = time.monotonic()
        done = run(
            OPENED
            + f"""
    import logging
    logging.getLogger("users_session_manager").addHandler(logging.NullHandler())
    manager.loadNewSession("Luca")
    manager.deleteSession(manager.loadNewSession("Marco"))
    os.kill({server.process.pid}, signal.{how})
    time.sleep({3 if noticed else 0})
    """,
            server.url,
            prefix,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Marco deleted True\n")
        assert time.monotonic() - began < PATIENCE / 2


class TestEvictionPolicy:
    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
    def test_one_that_would_log_people_out_is_warned_of_once(self, own_server, caplog, policy):
        server = own_server("--maxmemory-policy", policy)
        manager = SessionManager(store=server.url)
        ended = []
        manager.on("sessionDeleted", ended.append)
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: ended)
        warnings = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert len(warnings) == 1
        assert f"maxmemory-policy of Redis is {policy}" in warnings[0]

    def test_the_one_that_would_not_is_fine(self, own_server, caplog):
        manager = SessionManager(store=own_server("--maxmemory-policy", "noeviction").url)
        ended = []
        manager.on("sessionDeleted", ended.append)
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: ended)
        assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


class TestFullMemory:
    def test_it_refuses_logins_in_one_line_of_the_log_and_ends_go_on(self, own_server, caplog):
        server = own_server("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
        manager = SessionManager(store=RedisStore.from_url(server.url))
        ended = []
        manager.on("sessionDeleted", ended.append)
        stays, out = manager.loadNewSession("stays"), manager.loadNewSession("out")
        due = [manager.loadNewSession(f"{number}", timeout=5) for number in range(50)]
        logins = (manager.loadNewSession(f"user {number}", data="x" * 2000) for number in range(100_000))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            list(logins)
        assert manager.checkSessionStatus(stays)
        with pytest.raises(StoreUnavailable):
            manager.loadNewSession("Luca", data="x" * 2000)
        assert manager.checkSessionStatus(stays)
        assert manager.deleteSession(out)
        eventually(lambda: {out, *due} <= set(ended))
        assert len(ended) == len(set(ended))
        assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == ["ERROR"]


class TestWhatOthersWrote:
    @pytest.fixture
    def told(self) -> list[str]:
        return []

    @pytest.fixture
    def open_manager(self, client, prefix, told) -> Iterator[SessionManager]:
        manager = SessionManager(store=RedisStore(client, prefix=prefix))
        manager.on("sessionEnded", lambda session, reason: told.append(session.username))
        yield manager
        manager.close()  # before the client is

    @staticmethod
    def names(client: Any, prefix: str, key: str) -> tuple[str, str]:
        """What the hash of a session is called, and what all names of its group begin with."""
        (name,) = keys_under(client, prefix, f"s:{key}")
        at = name.decode().removesuffix(f"s:{key}")
        return name.decode(), at

    @staticmethod
    def assert_rejected(manager: SessionManager, *keys: str) -> None:
        for key in keys:
            for call in (
                *(manager.checkSessionStatus, manager.restartSessionTimer, manager.getSessionDetails),
                *(manager.resumeSession, manager.renewSessionKey, manager.getSessionTimeLeft),
            ):
                with pytest.raises(SessionRejected):
                    call(key)
            assert manager.getUsernameFromSessionKey(key) is False
            assert manager.findSession(key) is None

    def assert_all_goes_on(self, manager: SessionManager, told: list[str]) -> None:
        """Listing and counting, a login, and the end of a session of each group."""
        manager.getLoggedUsers()
        len(manager.sessions)
        names = {f"user {number}" for number in range(64)}
        for name in names:
            manager.loadNewSession(name, timeout=2)
        eventually(lambda: names <= set(told))

    @pytest.mark.parametrize("kind", ["string", "list", "set", "zset"])
    def test_a_session_of_another_type(self, client, prefix, open_manager, told, kind):
        key = open_manager.loadNewSession("Luca")
        name, _ = self.names(client, prefix, key)
        client.delete(name)
        write = {
            "string": lambda: client.set(name, "Luca"),
            "list": lambda: client.rpush(name, "Luca"),
            "set": lambda: client.sadd(name, "Luca"),
            "zset": lambda: client.zadd(name, {"Luca": 1}),
        }
        write[kind]()
        self.assert_rejected(open_manager, key)
        with pytest.raises(SessionRejected):
            open_manager.deleteSession(key)
        assert open_manager.getUserSessions("Luca") == []
        self.assert_all_goes_on(open_manager, told)

    @pytest.mark.parametrize("field", ["key", "user", "created", "authenticated", "deadline", "born", "began"])
    def test_a_field_that_is_missing_or_garbage(self, client, prefix, open_manager, told, field):
        values = [None, "", "garbage", "nan", "inf", "-inf", b"\xff\xfe", "9" * 400, "[" * 9000]
        for number, value in enumerate(values):
            key = open_manager.loadNewSession(f"{number}", timeout=60)
            name, at = self.names(client, prefix, key)
            if value is None:
                client.hdel(name, field)
            else:
                client.hset(name, field, value)
            if field == "user" and isinstance(value, str):
                assert open_manager.getSession(key).username == value  # a name is a name, whatever it is
            elif field == "user" and value is not None:
                with pytest.raises(SessionRejected):
                    open_manager.resumeSession(key)
            else:
                self.assert_rejected(open_manager, key)
            for said in (open_manager.getLoggedUsers(), [*open_manager.sessions]):
                assert all(isinstance(one, str) for one in said)
            open_manager.getUserSessions(f"{number}")
            client.zadd(f"{at}due", {key: 1})
        self.assert_all_goes_on(open_manager, told)

    @pytest.mark.parametrize("field", ["own", "limit", "warned", "reason"])
    @pytest.mark.parametrize("kind", ["due", "ended"])
    def test_what_a_session_need_not_have(self, client, prefix, open_manager, told, field, kind):
        for number, value in enumerate(
            ["", "garbage", "nan", "inf", "-inf", "9" * 400, "a b\nc 7", b"\xff", "deleted"]
        ):
            key = open_manager.loadNewSession(f"{number}", timeout=60)
            name, at = self.names(client, prefix, key)
            client.hset(name, field, value)
            for call in (open_manager.getSession, open_manager.restartSessionTimer, open_manager.checkSessionStatus):
                with contextlib.suppress(SessionRejected):
                    call(key)
            open_manager.getUserSessions(f"{number}")
            client.zadd(f"{at}{kind}", {key: 1})
        self.assert_all_goes_on(open_manager, told)

    def test_former_keys_that_are_none(self, client, prefix, open_manager, told):
        values = ["", "garbage", "null", "7", '"text"', "[1]", "[[]]", '[["a"]]', '[["a","b"]]', "[[1,2],null]"]
        values += ["[" * 5000, '{"a":[1]}', "[null]", '[["a",{}]]', '[[null,"1"]]', "\xff", '[["a","nan"]]']
        for number, former in enumerate(values):
            first = open_manager.loadNewSession(f"{number}", timeout=60)
            key = open_manager.renewSessionKey(first, overlap=60)
            name, _ = self.names(client, prefix, first)
            client.hset(name, "former", former)
            self.assert_rejected(open_manager, first)
            for call in (open_manager.checkSessionStatus, open_manager.renewSessionKey):
                with contextlib.suppress(SessionRejected):
                    call(key)
        self.assert_all_goes_on(open_manager, told)

    @pytest.mark.parametrize("data", ["{", b"\xff", "[" * 100_000, "9" * 5000], ids=lambda data: str(data[:5]))
    def test_data_that_is_no_json(self, client, prefix, open_manager, told, caplog, data):
        key = open_manager.loadNewSession("Luca", timeout=2, data={"id": 7})
        name, _ = self.names(client, prefix, key)
        client.hset(name, "data", data)
        with pytest.raises(SessionRejected):
            open_manager.getSessionData(key)
        with pytest.raises(SessionRejected):
            open_manager.checkSessionStatus(key)
        assert open_manager.getUserSessions("Luca") == []
        assert "another program has changed" in caplog.text
        eventually(lambda: "Luca" in told)
        self.assert_all_goes_on(open_manager, told)

    @pytest.mark.parametrize("kind", ["due", "warn", "ended", "u:Luca"])
    def test_garbage_in_the_sets(self, client, prefix, open_manager, told, kind):
        open_manager.setExpiryWarning(1)
        key = open_manager.loadNewSession("Luca", timeout=2.5)
        _, at = self.names(client, prefix, key)
        other = open_manager.loadNewSession("Marco")
        garbage = ["", "garbage", b"\xff\x00", "x" * 100_000, key.replace(key[-1], "x"), other, *map(str, range(150))]
        client.zadd(f"{at}{kind}", {one: score for one in garbage for score in [random.choice([float("-inf"), 0, 1])]})
        client.zadd(f"{at}{kind}", {"later": float("inf"), key: 0})
        assert open_manager.checkSessionStatus(key)
        assert [session["key"] for session in open_manager.getUserSessions("Luca")] == [key]
        assert sorted(open_manager.getLoggedUsers()) == ["Luca", "Marco"]
        eventually(lambda: "Luca" in told)
        self.assert_all_goes_on(open_manager, told)
        assert told.count("Luca") == 1
        assert open_manager.deleteUserSessions("Luca") == 0
        assert open_manager.checkSessionStatus(other)

    def test_a_key_that_somebody_has_made_up_lets_nobody_in(self, client, prefix, open_manager):
        key = open_manager.loadNewSession("Luca")
        _, at = self.names(client, prefix, key)
        forged = key[:-32] + "0123456789ABCDEF" * 2
        for value in (key, forged, "", b"\xff"):
            client.set(f"{at}k:{forged}", value)
            self.assert_rejected(open_manager, forged)
        client.delete(f"{at}k:{forged}")
        client.rpush(f"{at}k:{forged}", key)
        self.assert_rejected(open_manager, forged)
        assert open_manager.checkSessionStatus(key)


class TestClients:
    @pytest.mark.parametrize(
        "options",
        [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"protocol": 3, "decode_responses": True}],
        ids=str,
    )
    def test_any_client_will_do(self, redis_url, prefix, options):
        with redis.Redis.from_url(redis_url, **options) as client:
            manager = SessionManager(store=RedisStore(client, prefix=prefix))
            ended = []
            manager.on("sessionEnded", lambda session, reason: ended.append((session.username, session.data, reason)))
            key = manager.loadNewSession("Zoë", data={"ids": [1, 2.5, None, "ü"]})
            runs_out = manager.loadNewSession("Marco", timeout=2)
            new = manager.renewSessionKey(key, overlap=30)
            session = manager.getSession(key)
            assert (session.key, session.formerKeys, session.username) == (new, (key,), "Zoë")
            assert session.data == {"ids": [1, 2.5, None, "ü"]}
            assert manager.getLoggedUsers() == ["Zoë", "Marco"]
            assert list(manager.sessions) == [new, runs_out]
            assert manager.setSessionData(new, 7)
            assert [one["data"] for one in manager.getUserSessions("Zoë")] == [7]
            assert manager.deleteSession(new)
            eventually(lambda: ended == [("Zoë", 7, "deleted"), ("Marco", None, "expired")])
            manager.close()
            assert client.ping()

    def test_one_that_was_handed_in_is_not_closed(self, redis_url, prefix):
        class Watched(redis.Redis):
            closed = False

            def close(self):
                self.closed = True
                super().close()

        client = Watched.from_url(redis_url)
        manager = SessionManager(store=RedisStore(client, prefix=prefix))
        manager.loadNewSession("Luca")
        manager.close()
        assert not client.closed
        client.close()

    def test_what_is_none_is_told_by_its_name(self, client):
        from redis import asyncio

        with pytest.raises(TypeError, match=r"got a redis\.asyncio\.client\.Redis"):
            RedisStore(asyncio.Redis())
        with pytest.raises(TypeError, match=r"got a builtins\.str"):
            RedisStore("redis://127.0.0.1")
        with pytest.raises(ValueError, match=r"without braces, got 'my\{app\}:'"):
            RedisStore(client, prefix="my{app}:")
        with pytest.raises(TypeError, match="prefix must be a str, got bytes"):
            RedisStore(client, prefix=b"my:")
        with pytest.raises(TypeError, match=r"lease.*got str"):
            RedisStore(client, lease="30")
        for lease in (0.5, 0, -1, float("nan")):
            with pytest.raises(ValueError, match=rf"lease.*got {lease}"):
                RedisStore(client, lease=lease)


class TestWhatIsLeft:
    def test_a_former_key_is_known_for_as_long_as_its_overlap(self, prefix, client):
        """However short the session had to live when it had that key."""
        store, overlap = RedisStore(client, prefix=prefix, thread=False), 10 * 86400
        second = store.renew_key(store.add("Luca", 10)[0], 0)[1]
        store.renew_key(second, overlap)
        (name,) = keys_under(client, prefix, f"k:{second}")
        assert client.ttl(name) >= overlap
        store.close()

    def test_each_key_in_redis_ends_by_itself_and_what_has_ended_is_gone(self, redis_url, prefix, client):
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        ended = []
        manager.on("sessionDeleted", ended.append)
        manager.setMaxSessionsPerUser(3)
        manager.setExpiryWarning(1)
        chance, keys = random.Random(5), []
        for _ in range(600):
            step = chance.randrange(6)
            if step < 2 or not keys:
                keys.append(manager.loadNewSession(f"user {chance.randrange(40)}", timeout=chance.uniform(2, 5)))
                continue
            key = chance.choice(keys)
            with contextlib.suppress(SessionRejected):
                if step == 2:
                    keys.append(manager.renewSessionKey(key, overlap=chance.choice((0, 5))))
                elif step == 3:
                    manager.deleteSession(key)
                elif step == 4:
                    manager.restartSessionTimer(key)
                else:
                    manager.setSessionData(key, [1])
        assert keys_under(client, prefix, "s:")
        assert without_ttl(client, prefix) == []
        eventually(lambda: keys_under(client, prefix, "s:") == [])
        assert without_ttl(client, prefix) == []
        assert keys_under(client, prefix) == []
        assert len(manager.sessions) == 0
