"""Sessions in Redis as several processes see them: killed, forked, late, cut off, and beside other programs."""

from __future__ import annotations

import asyncio
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from interpreter import run
from redis_server import RedisServer

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.stores import expiry
from users_session_manager.stores.base import Callbacks

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing

WORKER = Path(__file__).with_name("redis_worker.py")
WAIT = 60
# Two clocks of one machine may differ by this, so an announcement may come this long before its deadline.
ROUNDING = 0.01


def eventually(condition: Callable[[], Any], timeout: float = WAIT) -> Any:
    """Return what `condition` returns once that is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, "the condition has not become true"
        time.sleep(0.02)
    return answer


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(8)}:"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """A callable that starts a redis-server of this test alone, with the options it is given."""
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
                settled = len(keys_under(client, processes.prefix, "s:")) == len(live)
                return settled and all((store.time_left(session.key) or 0) > 100 for session in live) and live

            alive = {(*session.formerKeys, session.key)[0] for session in eventually(only_those_with_a_long_timeout)}
        processes.end()
        client.delete("logins", "keys")
        assert processes.facts("failed") == []
        check_ends(processes, alive)
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
        assert ends[unknown][0]["by"] in processes.killed, "it was never logged in"

    second = 0
    for announced in ends.values():
        for earlier, later in itertools.pairwise(announced):
            second += 1
            assert processes.killed.get(earlier["worker"], float("inf")) < later["at"], (earlier, later)

    deadlines = defaultdict(float)
    for fact in [*created.values(), *processes.facts("restarted")]:
        session = first_key.get(fact["key"])
        deadlines[session] = max(deadlines[session], fact["deadline"])
    deleting = {first_key.get(fact["key"]) for fact in processes.facts("deleting")}
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


def test_announcer_started_later(redis_url, prefix, monkeypatch):
    """An announcer that could not be started is started later."""
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


@pytest.mark.parametrize("name", ["poller", "reader"])
def test_no_thread(redis_url, prefix, monkeypatch, name):
    """A call for which no thread could be started fails, and the next one starts the thread."""
    start, refused = threading.Thread.start, []

    def no_thread(thread):
        if thread.name == f"users-session-manager {name}" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
    manager.initSocketReference(object())
    ended, logouts = [], []
    manager.on("sessionDeleted", ended.append)
    manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        manager.loadNewSession("Luca", timeout=2)
    key = manager.loadNewSession("Luca", timeout=2)
    eventually(lambda: (ended, logouts) == ([key], [key]))


def test_listener_removed(redis_url, prefix):
    """Ends that a process has claimed are another one's once its only listener has been removed."""
    seconds = 1000.0
    first = RedisStore.from_url(redis_url, prefix=prefix, thread=False, now=lambda: seconds)
    ended, elsewhere = [], []
    manager = SessionManager(store=first)
    manager.once("sessionEnded", lambda session, reason: ended.append(session.username))
    for number in range(20):
        manager.loadNewSession(f"{number}", timeout=2)
    second = RedisStore.from_url(redis_url, prefix=prefix, thread=False, now=lambda: seconds)
    second.open(Callbacks(on_ended=lambda session, reason: elsewhere.append(session.username)))
    second.serve()
    seconds += 3
    first.run_due()
    second.run_due()
    second.close()
    assert len(ended) == 1
    assert sorted([*ended, *elsewhere], key=int) == [f"{number}" for number in range(20)]


class TestUnreachable:
    TIMEOUT = 0.5

    def test_restarted(self, own_server, caplog):
        """Redis is stopped and started again: calls are refused in between, and no end is lost."""
        server = own_server("--appendonly", "yes")
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended: dict[str, float] = {}
        manager.on("sessionDeleted", lambda key: ended.setdefault(key, time.time()))
        stays = [manager.loadNewSession(f"stays {number}") for number in range(50)]
        out = manager.loadNewSession("logged out")
        manager.deleteSession(out)
        due: dict[str, float] = {}
        for number in range(100):
            timeout = random.uniform(2, 4)
            due[manager.loadNewSession(f"expires {number}", timeout=timeout)] = time.time() + timeout
        threads = {thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")}
        assert threads

        server.stop()
        stopped, slowest = time.time(), 0.0
        while sum(stopped < deadline < time.time() for deadline in due.values()) < 30:
            for call in (
                lambda: manager.loadNewSession("Luca"),
                lambda: manager.checkSessionStatus(stays[0]),
                lambda: manager.checkSessionStatus(out),
                lambda: manager.deleteSession(stays[0]),
                manager.getLoggedUsers,
            ):
                start = time.monotonic()
                with pytest.raises(StoreUnavailable, match="Redis is unreachable"):
                    call()
                slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        assert slowest < WAIT
        missed = [key for key, deadline in due.items() if stopped < deadline < time.time()]
        server.start()
        back = time.time()
        eventually(lambda: due.keys() <= ended.keys())
        late = sorted(ended[key] - back for key in missed)
        print(f"slowest refusal {slowest:.3f} s; {len(late)} expired in between, the last {late[-1]:.3f} s after it")

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
        assert [beginning(record) for record in caplog.records if record.levelname != "DEBUG"] == [
            "Redis is unreachable, every session is refused",
            "Redis is reachable again",
        ]

    def test_stalled(self, own_server, caplog):
        """Redis stalls: calls are refused after the timeout."""
        server = own_server()
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended = []
        manager.on("sessionDeleted", ended.append)
        stays, expires = manager.loadNewSession("stays"), manager.loadNewSession("expires", timeout=2)

        server.process.send_signal(signal.SIGSTOP)
        for call in (manager.loadNewSession, lambda _: manager.checkSessionStatus(stays)):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call("Luca")
            took = time.monotonic() - start
            print(f"refused after {took:.2f} s")
            assert self.TIMEOUT * 0.9 < took < WAIT
        server.process.send_signal(signal.SIGCONT)

        assert eventually(lambda: answer(manager.checkSessionStatus, stays))
        eventually(lambda: ended == [expires])
        lines = [beginning(record) for record in caplog.records if record.levelname != "DEBUG"]
        assert lines == ["Redis is unreachable, every session is refused", "Redis is reachable again"]

    def test_one_line(self, own_server, caplog):
        """Many threads that it does not answer at once cause one line in the log."""
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

    def test_started_later(self, own_server):
        """Redis may be started after the manager."""
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


def beginning(record: Any) -> str:
    return record.getMessage().partition(":")[0]


def answer(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, and `None` while Redis is unreachable."""
    try:
        return call(*args)
    except StoreUnavailable:
        return None


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
        eventually(lambda: len(processes.facts("all logged in")) == len(names), timeout=lead + WAIT)
        eventually(lambda: keys_under(client, processes.prefix, "s:") == [], timeout=lead + seconds + 2 * WAIT)
        processes.end()

        created = {fact["key"]: fact["deadline"] for fact in processes.facts("created")}
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


def calls(client: Any) -> int:
    """How many calls have reached Redis that are not the tests' own."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


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
            while list(client.scan_iter(match=f"{sys.argv[2]}*:s:*", count=1000)):
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
            lock, held, done = store._script.client.get().connection_pool._lock, threading.Event(), threading.Event()

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
        manager.loadNewSession(f"{{number}}", data={{"by": "me"}}, timeout=2)
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
        eventually(lambda: keys_under(client, prefix, "s:") == [])
        processes.end()
        assert len(here) + len(processes.facts("ended")) == 20

    def test_delete(self, redis_url, prefix, client):
        """A process that deletes a session and exits has acknowledged that."""
        done = run(
            OPENED + "    manager.deleteSession(manager.loadNewSession('Luca'))", redis_url, prefix, covered=False
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted True\n")
        assert keys_under(client, prefix) == [] or not keys_under(client, prefix, "s:")

    def test_close_in_logout(self, redis_url, prefix, client):
        """Closing in the middle of a logout loses no acknowledgement."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert keys_under(client, prefix, "s:") == []

    def test_close_in_listener(self, redis_url, prefix, client):
        """Closing in a listener of an expiry acknowledges that."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: keys_under(client, prefix, "s:") == [])

    def test_connections_after_close(self, own_server):
        """Closing in a listener leaves no connection, though the end is acknowledged afterwards."""
        server, closed = own_server(), threading.Event()
        manager = SessionManager(store=server.url)
        manager.on("sessionDeleted", lambda key: (manager.close(), closed.set()))
        manager.loadNewSession("Luca", timeout=2)
        assert closed.wait(WAIT)
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: keys_under(administrator, "users-session-manager:", "s:") == [])
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


def test_stop_while_busy(own_server, caplog):
    """Stopping while other threads ask fails none of their calls, and leaves no connection."""
    server, done = own_server(), threading.Event()
    manager = SessionManager(store=server.url)

    def busy():
        while not done.is_set():
            manager.deleteSession(manager.loadNewSession("Luca"))

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(busy) for _ in range(4)]
        for _ in range(200):
            manager.stop()
            manager.serve()
        done.set()
    for thread in threads:
        thread.result()
    manager.stop()
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []
    with redis.Redis.from_url(server.url) as administrator:
        eventually(lambda: len(administrator.client_list()) == 1)


def test_interrupted(redis_url, prefix, monkeypatch):
    """After a call that was interrupted before it read its answer, the next call does not get that answer."""
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix, thread=False))
    key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Marco")

    def interrupt(*_, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "parse_response", interrupt)
        with pytest.raises(KeyboardInterrupt):
            manager.getSession(other)
    monkeypatch.setattr(redis.Connection, "can_read", lambda *_, **options: False)  # the answer comes a moment later
    assert manager.getSession(key).username == "Luca"


def test_serve_during_stop(redis_url, prefix, monkeypatch):
    """A process that begins to serve again while it is stopped lets sessions expire, and passes notices on."""
    store = RedisStore.from_url(redis_url, prefix=prefix)
    manager, ended, logouts = SessionManager(store=store), [], []
    manager.on("sessionDeleted", ended.append)
    manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
    manager.initSocketReference(object())
    key = manager.loadNewSession("Luca", timeout=2)
    with monkeypatch.context() as patch:
        patch.setattr(store._clock, "stop", store.serve)  # as another thread may call it at that moment
        manager.stop()
    eventually(lambda: (ended, logouts) == ([key], [key]))


def test_eviction_policy(own_server, caplog):
    """An eviction policy that would log users out is a warning, once; the one that would not is none."""
    url = own_server().url
    for policy, warned in (("allkeys-lru", 1), ("volatile-ttl", 1), ("noeviction", 0)):
        caplog.clear()
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory-policy", policy)
        store = RedisStore.from_url(url, thread=False)
        manager = SessionManager(store=store)
        for _ in range(2):
            manager.loadNewSession("Luca")
            store.run_due()
        manager.close()
        warnings = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert len(warnings) == warned
        assert all(f"maxmemory-policy of Redis is {policy}" in warning for warning in warnings)


class Watcher:
    """Has a client of one session, and hears of its end."""

    def __init__(self, manager, key):
        self.session_id, self.key, self.ended = manager.getSession(key)._id, key, threading.Event()
        manager.addWatcher(self)

    def watched(self):
        return {self.session_id: self.key}

    def noticed(self, notice):
        if notice.kind == "deleted":
            self.ended.set()


class TestNotices:
    @pytest.mark.parametrize("missing", ["-subscribe", "-publish", "resetchannels"])
    def test_not_allowed(self, own_server, caplog, missing):
        """Without a permission for notices, clients get their logout late, and the log says what is missing, once."""
        server = own_server()
        with redis.Redis.from_url(server.url) as administrator:
            administrator.execute_command("ACL", "SETUSER", "limited", "on", ">password", "~*", "&*", "+@all")
            administrator.execute_command("ACL", "SETUSER", "limited", missing)
        manager = SessionManager(store=server.url.replace("//", "//limited:password@"))
        key = manager.loadNewSession("Luca")
        ended = Watcher(manager, key).ended
        with contextlib.closing(RedisStore.from_url(server.url)) as other:
            assert other.remove(key) is not None
        assert ended.wait(WAIT)
        time.sleep(1)  # it tries to subscribe again and again
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "No notices can be read" in line
        assert manager.loadNewSession("Luca")

    def test_comes_back(self, own_server, caplog):
        """After the connection of the subscription was cut, it subscribes again by itself."""
        server, heard = own_server(), threading.Event()
        manager = SessionManager(store=server.url)
        manager.on("notifyClientToLogout", lambda io, key: heard.set())
        manager.initSocketReference(object())
        manager.serve()
        with redis.Redis.from_url(server.url) as administrator:
            for _ in range(3):
                eventually(lambda: administrator.pubsub_numsub("users-session-manager:notices")[0][1] == 1)
                heard.clear()
                manager.loadNewSession("Luca")
                manager.deleteUserSessions("Luca")
                assert heard.wait(WAIT)
                assert administrator.client_kill_filter(_type="pubsub") == 1

    def test_away(self, own_server, caplog):
        """Without Redis the log says that, and nothing of a missing permission, also in a process without clients."""
        server = own_server()
        manager = SessionManager(store=server.url)
        manager.initSocketReference(object())
        manager.serve()
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:notices")[0][1] == 1)
        server.stop()
        time.sleep(1.5 * expiry.CHECK_INTERVAL)
        manager.close()
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "Redis is unreachable" in line

    def test_cut_again_and_again(self, own_server, caplog):
        """While the connection of the subscription is cut all the time, clients still learn of an end."""
        server = own_server()
        manager = SessionManager(store=server.url)
        key = manager.loadNewSession("Luca")
        ended = Watcher(manager, key).ended
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:notices")[0][1] == 1)
            administrator.delete(*administrator.scan_iter(match="*:s:*"))  # an end of which there is no notice

            def cut():
                time.sleep(0.2)
                administrator.client_kill_filter(_type="pubsub")
                return ended.is_set()

            eventually(cut)
        assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]

    def test_unknown_failure(self, redis_url, prefix, monkeypatch):
        """Whatever goes wrong in the subscription is reported once, and it begins anew."""
        get_message, failed, reported = redis.client.PubSub.get_message, [], []
        logouts = []

        def fail(subscription, *args, **options):
            if not failed:
                failed.append(True)
                raise AttributeError("another thread has closed it")
            return get_message(subscription, *args, **options)

        monkeypatch.setattr(redis.client.PubSub, "get_message", fail)
        monkeypatch.setattr(threading, "excepthook", lambda failure: reported.append(failure.exc_type))
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
        manager.initSocketReference(object())
        key = manager.loadNewSession("Luca")
        with redis.Redis.from_url(redis_url) as administrator:
            eventually(lambda: administrator.pubsub_numsub(f"{prefix}notices")[0][1] == 1 and failed)
        eventually(lambda: manager.sendLogoutMessage(key) and logouts)
        assert reported == [AttributeError]

    def test_detached_while_away(self, own_server):
        """A watcher that is removed while there is no subscription leaves no thread, and the next one gets notices."""
        server, ended = own_server(), threading.Event()

        class Watcher:
            def watched(self):
                return {}

            def noticed(self, notice):
                if notice.kind == "deleted":
                    ended.set()

        def readers():
            return [thread for thread in threading.enumerate() if thread.name == "users-session-manager reader"]

        manager, watcher = SessionManager(store=server.url), Watcher()
        server.stop()
        manager.serve()
        manager.addWatcher(watcher)
        time.sleep(1)
        assert readers()
        manager.removeWatcher(watcher)
        eventually(lambda: not readers())
        server.start()
        key = manager.loadNewSession("Luca")
        manager.addWatcher(watcher)
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:notices")[0][1] == 1)
        manager.deleteSession(key)
        assert ended.wait(WAIT)

    def test_close(self, redis_url, prefix, monkeypatch):
        """A process that closes its manager logs no client out: the session goes on."""
        monkeypatch.setattr(expiry, "CHECK_INTERVAL", 0.0)  # the reader checks each time it is woken
        notices, is_checked = [], threading.Event()

        class Watcher:
            def watched(self):
                is_checked.set()
                return ids

            def noticed(self, notice):
                notices.append(notice.kind)

        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        key = manager.loadNewSession("Luca")
        ids = {manager.getSession(key)._id: key}
        manager.addWatcher(Watcher())
        assert is_checked.wait(WAIT)
        time.sleep(0.3)  # now it waits for a notice
        manager.close()
        assert not [thread for thread in threading.enumerate() if "reader" in thread.name]
        assert notices == []


class TestFullMemory:
    def test_full(self, own_server, caplog):
        """With a full memory logins are refused, in one line of the log, and sessions still end."""
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
    """What another program writes under our names is a rejection or no session, and all else goes on."""

    @pytest.fixture
    def ended(self) -> list[str]:
        """The users whose sessions have ended."""
        return []

    @pytest.fixture
    def open_manager(self, client, prefix, ended) -> Iterator[SessionManager]:
        manager = SessionManager(store=RedisStore(client, prefix=prefix))
        manager.on("sessionEnded", lambda session, reason: ended.append(session.username))
        yield manager
        manager.close()  # before the client is

    @staticmethod
    def names(client: Any, prefix: str, key: str) -> tuple[str, str]:
        """Return the name of a session's hash, and what all names of its group begin with."""
        (name,) = keys_under(client, prefix, f"s:{key}")
        group = name.decode().removesuffix(f"s:{key}")
        return name.decode(), group

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

    def assert_all_goes_on(self, manager: SessionManager, ended: list[str]) -> None:
        """Listing and counting, a login, and the end of a session of each group."""
        manager.getLoggedUsers()
        len(manager.sessions)
        names = {f"user {number}" for number in range(64)}
        for name in names:
            manager.loadNewSession(name, timeout=2)
        eventually(lambda: names <= set(ended))

    def test_other_type(self, client, prefix, open_manager, ended):
        """A value of another type is no session."""
        for write in (
            lambda name: client.set(name, "Luca"),
            lambda name: client.rpush(name, "Luca"),
            lambda name: client.sadd(name, "Luca"),
            lambda name: client.zadd(name, {"Luca": 1}),
        ):
            key = open_manager.loadNewSession("Luca")
            name, _ = self.names(client, prefix, key)
            client.delete(name)
            write(name)
            self.assert_rejected(open_manager, key)
            with pytest.raises(SessionRejected):
                open_manager.deleteSession(key)
            assert open_manager.getUserSessions("Luca") == []
        self.assert_all_goes_on(open_manager, ended)

    def test_field(self, client, prefix, open_manager, ended):
        """A session without a field that it must have, or with garbage there, is rejected."""
        values = [None, "", "garbage", "nan", "inf", "-inf", b"\xff\xfe", "9" * 400, "[" * 9000]
        for field in ("key", "user", "created", "authenticated", "deadline", "started_at", "serial"):
            for number, value in enumerate(values):
                key = open_manager.loadNewSession(f"{number}", timeout=60)
                name, group = self.names(client, prefix, key)
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
                for found in (open_manager.getLoggedUsers(), [*open_manager.sessions]):
                    assert all(isinstance(one, str) for one in found)
                open_manager.getUserSessions(f"{number}")
                client.zadd(f"{group}due", {key: 1})
        self.assert_all_goes_on(open_manager, ended)

    def test_optional_field(self, client, prefix, open_manager, ended):
        """Garbage in a field that a session need not have stops nothing."""
        values = ["", "garbage", "nan", "inf", "-inf", "9" * 400, "a b\nc 7", b"\xff", "deleted"]
        for field, kind in itertools.product(("own", "limit", "warned", "reason"), ("due", "ended")):
            for number, value in enumerate(values):
                key = open_manager.loadNewSession(f"{number}", timeout=60)
                name, group = self.names(client, prefix, key)
                client.hset(name, field, value)
                for call in (
                    *(open_manager.getSession, open_manager.restartSessionTimer),
                    open_manager.checkSessionStatus,
                ):
                    with contextlib.suppress(SessionRejected):
                        call(key)
                open_manager.getUserSessions(f"{number}")
                client.zadd(f"{group}{kind}", {key: 1})
        self.assert_all_goes_on(open_manager, ended)

    def test_former_keys(self, client, prefix, open_manager, ended):
        """Garbage in the former keys of a session lets no former key in."""
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
        self.assert_all_goes_on(open_manager, ended)

    def test_data(self, client, prefix, open_manager, ended, caplog):
        """A session whose data is no JSON is rejected, and the log says why."""
        for number, data in enumerate(["{", b"\xff", "[" * 100_000, "9" * 5000]):
            user = f"no JSON {number}"
            key = open_manager.loadNewSession(user, timeout=2, data={"id": 7})
            name, _ = self.names(client, prefix, key)
            caplog.clear()
            client.hset(name, "data", data)
            with pytest.raises(SessionRejected):
                open_manager.getSessionData(key)
            with pytest.raises(SessionRejected):
                open_manager.checkSessionStatus(key)
            assert open_manager.getUserSessions(user) == []
            assert "another program has changed" in caplog.text
        eventually(lambda: {f"no JSON {number}" for number in range(4)} <= set(ended))
        self.assert_all_goes_on(open_manager, ended)

    @pytest.mark.parametrize("kind", ["due", "warn", "ended", "u:Luca"])
    def test_sets(self, client, prefix, open_manager, ended, kind):
        """Garbage in the sets of ids ends no session early, late or twice."""
        open_manager.setExpiryWarning(1)
        start = time.monotonic()
        key = open_manager.loadNewSession("Luca", timeout=2)
        _, group = self.names(client, prefix, key)
        other = open_manager.loadNewSession("Marco")
        garbage = ["", "garbage", b"\xff\x00", "x" * 100_000, key.replace(key[-1], "x"), other, *map(str, range(150))]
        client.zadd(f"{group}{kind}", {one: random.choice([float("-inf"), 0, 1]) for one in garbage})
        client.zadd(f"{group}{kind}", {"later": float("inf"), key: 0})
        alive = open_manager.findSession(key) is not None
        found = alive, [row["key"] for row in open_manager.getUserSessions("Luca")], open_manager.getLoggedUsers()
        if time.monotonic() < start + 2:  # else it may have expired in between
            assert found == (True, [key], ["Luca", "Marco"])
        eventually(lambda: "Luca" in ended)
        self.assert_all_goes_on(open_manager, ended)
        assert ended.count("Luca") == 1
        assert open_manager.deleteUserSessions("Luca") == 0
        assert open_manager.checkSessionStatus(other)

    def test_forged_key(self, client, prefix, open_manager):
        """A key that another program has made up is rejected."""
        key = open_manager.loadNewSession("Luca")
        _, group = self.names(client, prefix, key)
        forged = key[:-32] + "0123456789ABCDEF" * 2
        for value in (key, forged, "", b"\xff"):
            client.set(f"{group}k:{forged}", value)
            self.assert_rejected(open_manager, forged)
        client.delete(f"{group}k:{forged}")
        client.rpush(f"{group}k:{forged}", key)
        self.assert_rejected(open_manager, forged)
        assert open_manager.checkSessionStatus(key)


class TestClients:
    @pytest.mark.parametrize(
        "options",
        [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"protocol": 3, "decode_responses": True}],
        ids=str,
    )
    def test_options(self, redis_url, prefix, options):
        """A client may have any of these options."""
        with redis.Redis.from_url(redis_url, **options) as client:
            seconds, ended = 1000.0, []
            store = RedisStore(client, prefix=prefix, now=lambda: seconds, thread=False)
            manager = SessionManager(store=store)
            manager.on("sessionEnded", lambda session, reason: ended.append((session.username, session.data, reason)))
            key = manager.loadNewSession("Zoë", data={"ids": [1, 2.5, None, "ü"]})
            expires = manager.loadNewSession("Marco", timeout=2)
            new = manager.renewSessionKey(key, overlap=30)
            session = manager.getSession(key)
            assert (session.key, session.formerKeys, session.username) == (new, (key,), "Zoë")
            assert session.data == {"ids": [1, 2.5, None, "ü"]}
            assert manager.getLoggedUsers() == ["Zoë", "Marco"]
            assert list(manager.sessions) == [new, expires]
            assert manager.setSessionData(new, 7)
            assert [one["data"] for one in manager.getUserSessions("Zoë")] == [7]
            assert manager.deleteSession(new)
            seconds += 2
            store.run_due()
            assert ended == [("Zoë", 7, "deleted"), ("Marco", None, "expired")]
            manager.close()
            assert client.ping()

    def test_not_closed(self, redis_url, prefix):
        """A client that was passed in is not closed."""

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

    def test_bad_client(self, client):
        """What is no client, prefix or lease is refused and named."""
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


class TestExpiryInRedis:
    def test_former_key(self, prefix, client):
        """A former key is known for as long as its overlap, however short the session's timeout was."""
        store, overlap = RedisStore(client, prefix=prefix, thread=False), 10 * 86400
        second = store.renew_key(store.add("Luca", 10)[0], 0)[1]
        store.renew_key(second, overlap)
        (name,) = keys_under(client, prefix, f"k:{second}")
        assert client.ttl(name) >= overlap
        store.close()

    def test_nothing_left(self, redis_url, prefix, client):
        """Each key in Redis expires by itself, and nothing is left of what has ended."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        ended = []
        manager.on("sessionDeleted", ended.append)
        manager.setMaxSessionsPerUser(3)
        manager.setExpiryWarning(1)
        chance, keys = random.Random(5), []
        for _ in range(300):
            step = chance.randrange(6)
            if step < 2 or not keys:
                keys.append(manager.loadNewSession(f"user {chance.randrange(40)}", timeout=chance.uniform(2, 3)))
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
        assert {key.rpartition(b":")[2] for key in keys_under(client, prefix)} == {b"listens"}
        assert len(manager.sessions) == 0

    def test_acknowledged(self, own_server):
        """An end that is acknowledged causes no further calls."""
        server, seconds = own_server(), 1000.0
        store = RedisStore.from_url(server.url, now=lambda: seconds, thread=False, lease=1)
        manager = SessionManager(store=store)
        with redis.Redis.from_url(server.url) as client:

            def calls_in_a_second() -> int:
                nonlocal seconds
                before = calls(client)
                seconds += 1
                store.run_due()
                return calls(client) - before

            manager.on("sessionDeleted", lambda key: None)
            manager.serve()
            calls_in_a_second()
            idle = calls_in_a_second()
            manager.deleteSession(manager.loadNewSession("Luca"))
            manager.loadNewSession("Marco", timeout=2)
            assert max(calls_in_a_second() for _ in range(4)) > idle
            assert calls_in_a_second() == idle > 0


class TestAsyncListeners:
    def manager_on_loop(self, url, prefix, body):
        """Run `body(manager)` on a loop, then stop the manager from a thread, as a server does."""

        async def application():
            manager = SessionManager(store=RedisStore.from_url(url, prefix=prefix, lease=2))
            manager.bindLoop()
            try:
                await body(manager)
            finally:
                await asyncio.to_thread(manager.stop)

        asyncio.run(application())

    @pytest.mark.parametrize("end", ["expires", "deleted"])
    def test_acknowledged_once_done(self, redis_url, prefix, client, end):
        """An end is acknowledged once its async listener has run, and not while it waits."""
        begun, done = [], []

        async def listener(session, reason):
            begun.append(session.key)
            await asyncio.sleep(3 if end == "expires" else 0.2)  # longer than the lease, which is kept
            done.append(session.key)

        async def body(manager):
            manager.on("sessionEnded", listener)
            key = manager.loadNewSession("Luca", timeout=2)
            if end == "deleted":
                manager.deleteSession(key)
            while not begun:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert keys_under(client, prefix, "s:"), "it is not acknowledged yet"
            while keys_under(client, prefix, "s:"):
                await asyncio.sleep(0.01)
            assert begun == done == [key]

        self.manager_on_loop(redis_url, prefix, body)

    def test_handed_on_at_stop(self, redis_url, prefix):
        """An end whose async listener is cut off by a stop is announced by another process, and not lost."""
        begun, again = threading.Event(), threading.Event()

        async def listener(session, reason):
            begun.set()
            await asyncio.sleep(3600)

        async def body(manager):
            manager.on("sessionEnded", listener)
            manager.deleteSession(manager.loadNewSession("Luca"))
            await asyncio.to_thread(begun.wait, WAIT)

        self.manager_on_loop(redis_url, prefix, body)
        SessionManager().close()
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionEnded", lambda session, reason: again.set() if reason == "deleted" else None)
        manager.serve()
        assert again.wait(WAIT)

    def test_no_loop(self, redis_url, prefix, client, caplog):
        """A script whose async listeners have no loop leaves its ends to others, and the log says so once."""
        heard, announced = [], threading.Event()

        async def listener(session, reason):
            heard.append(session.key)

        with contextlib.closing(SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))) as manager:
            manager.on("sessionEnded", lambda session, reason: None)
            manager.serve()
            eventually(lambda: client.exists(f"{prefix}{{0}}:listens"))
        with contextlib.closing(SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))) as manager:
            manager.on("sessionEnded", listener)
            for _ in range(3):
                manager.deleteSession(manager.loadNewSession("Luca"))
        assert heard == []
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "knows no event loop" in line
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        ends = []
        manager.on("sessionEnded", lambda session, reason: ends.append(reason) or (len(ends) == 3 and announced.set()))
        manager.serve()
        assert announced.wait(WAIT)
        assert ends == ["deleted"] * 3
