"""Sessions as the several processes that share them see them: killed, forked, late and ended."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter, defaultdict

import pytest
from process_worker import Shared
from processes import OPENED, Processes, run_opened
from redis_checks import ROUNDING
from waiting import WAIT, eventually

from users_session_manager import SessionManager

pytestmark = pytest.mark.parametrize("store_kind", ["redis", "sqlite", "postgresql"])


class TestKilledProcesses:
    @pytest.mark.parametrize(
        ("count", "total", "lease"),
        [(4, 800, 10), pytest.param(8, 20_000, 30, marks=pytest.mark.long)],
        ids=["some", "many"],
    )
    def test_killed(self, processes, address, count, total, lease):
        """No end is lost, none is early, and only a killed process causes a second announcement."""
        shared, processes.lease = Shared(processes.shared), lease
        for _ in range(count):
            processes.start("torture", total, 0.02)
        eventually(lambda: shared.logins() >= 100)
        while shared.logins() < total:
            time.sleep(1)
            assert address.faults() == []
            working = eventually(lambda: [name for name in processes.alive if processes.facts("created", name)])
            processes.kill(random.choice(working))
            processes.start("torture", total, 0.02)
        shared.close()

        store = address.open()

        def only_those_with_a_long_timeout():
            live = [session for page in store.pages() for session in page]
            return address.kept() == len(live) and all(left(session) > 100 for session in live) and live

        def left(session):
            return store.time_left(session.key) or 0

        alive = {session.data["id"] for session in eventually(only_those_with_a_long_timeout, timeout=lease + 2 * WAIT)}
        store.close()
        processes.end()
        assert processes.facts("failed") == []
        check_ends(processes, alive)
        assert address.faults() == []


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
        [(1_000, 8, 4), pytest.param(100_000, 20, 180, marks=pytest.mark.long)],
        ids=["some", "many"],
    )
    def test_many(self, processes, address, count, seconds, lead):
        """Each of many sessions is announced once and soon, by all processes together."""
        first = time.time() + lead
        names = [processes.start("many", count // 4, first, first + seconds) for _ in range(4)]
        eventually(lambda: len(processes.facts("all logged in")) == len(names), timeout=lead + 5 * WAIT)
        time.sleep(max(0.0, first + seconds - time.time()))  # to count them all the time would keep a processor busy
        eventually(lambda: address.kept() == 0, timeout=2 * WAIT)
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
            + f"; within 0.3 s: {sum(one <= 0.3 for one in late) / count:.2%}"
        )
        assert late[0] > -ROUNDING
        announced_by = Counter(fact["worker"] for fact in processes.facts("ended"))
        assert announced_by.keys() == set(names)


class TestNotices:
    def test_logout(self, processes, address):
        """A logout in one process soon reaches the clients that another one has."""
        manager, names = SessionManager(store=address.open()), [f"user {number}" for number in range(20)]
        worker = processes.start("clients", *names)
        processes.wait_for("followed", worker)  # then it is subscribed
        ended_at = {}
        for client in processes.facts("client"):
            ended_at[client["key"]] = time.time()
            assert manager.deleteUserSessions(client["name"])
        notices = eventually(lambda: len(found := processes.facts("notice")) == len(names) and found)
        late = sorted(fact["at"] - ended_at[fact["key"]] for fact in notices)
        print(f"a client hears of a logout after {late[len(late) // 2]:.3f} s, at most {late[-1]:.3f} s")
        kinds = Counter(fact["kind"] for fact in notices)
        assert kinds["ended"] > kinds["deleted"], "the check was sooner than the notices"
        processes.end()


class TestFork:
    @pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
    def test_closed_parent(self, address, fork):
        """Data of a child is there after its parent, such as the master of uWSGI, has closed its connections."""
        done = run_opened(
            address,
            f"""
    import ctypes, types
    if "ctypes" in "{fork}":  # without a hook
        sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=1, masterpid=lambda: parent)
    manager.loadNewSession("parent")
    (child_reads, parent_writes), (parent_reads, child_writes) = os.pipe(), os.pipe()
    child = {fork}
    if not child:
        manager.loadNewSession("child")
        os.write(child_writes, b".")
        os.read(child_reads, 1)
        manager.loadNewSession("child of a closed parent")
        os._exit(0)
    os.read(parent_reads, 1)
    manager.close()
    os.write(parent_writes, b".")
    assert os.waitpid(child, 0)[1] == 0
    """,
        )
        assert (done.returncode, done.stderr) == (0, "")
        with contextlib.closing(address.open()) as store:
            assert sorted(store.usernames()) == ["child", "child of a closed parent", "parent"]
        assert address.faults() == []

    def test_both_work(self, address):
        """Parent and children all work, and each end is announced once."""
        done = run_opened(
            address,
            """
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
        key = manager.loadNewSession(f"child-{child}-deletes")
        assert manager.checkSessionStatus(key)
        manager.deleteSession(key)
        manager.loadNewSession(f"child-{child}-waits", timeout=2)
        wait_for_ends()
        manager.close()
        os._exit(0)
    stop.set()
    manager.deleteSession(manager.loadNewSession("parent-deletes"))
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    wait_for_ends()
    """,
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

    def test_early_logout(self, address):
        """A child that logs out before its own clock has first looked acknowledges that."""
        done = run_opened(
            address,
            """
    key = manager.loadNewSession("Luca")
    time.sleep(0.5)
    if pid := os.fork():
        os.waitpid(pid, 0)
    else:
        manager.deleteSession(key)
        wait_for_ends()  # if the child does not acknowledge, then the parent announces once more
        os._exit(0)
    """,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted False\n")

    def test_claimed_by_parent(self, address):
        """A child announces nothing that its parent has claimed."""
        done = run_opened(
            address,
            """
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
        )
        assert (done.returncode, done.stderr) == (0, "")
        announced = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert announced == {"child": 1, **{f"parents-{number}": 1 for number in range(20)}}

    def test_dead_parent(self, address):
        """A child announces what its parent had claimed when it died."""
        done = run_opened(
            address,
            """
    def slow(session, reason):
        first.set()
        time.sleep(60 if os.getpid() == parent else 0)

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
            OPENED.replace("lease=20", "lease=2"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        announced = Counter(line.split()[0] for line in done.stdout.splitlines())
        assert announced.keys() == {"child", *map(str, range(20))}
        assert sorted(announced.values())[:-1] == [1] * 20  # at most the one that was under way a second time


class TestEndOfAProcess:
    @pytest.mark.parametrize("end", ["manager.close()", "pass", "sys.exit()"])
    def test_release(self, address, end, processes):
        """The announcement under way is completed; the other claims are another process's at once."""
        done = run_opened(
            address,
            f"""
    from users_session_manager import clock

    def slow(session, reason):
        last.set()
        time.sleep(0.2)

    last = threading.Event()
    clock.STOP_TIMEOUT = 30.0  # a busy machine may need more than the default
    manager.on("sessionEnded", slow)
    for number in range(20):
        manager.loadNewSession(f"{{number}}", data={{"by": "me", "id": number}}, timeout=2)
    last.wait()
    {end}
    """,
            OPENED.replace("lease=20", "lease=600"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        here = [line.split()[0] for line in done.stdout.splitlines()]
        assert 1 <= len(here) < 20
        processes.start("listen")
        eventually(lambda: address.kept() == 0)
        processes.end()
        assert len(here) + len(processes.facts("ended")) == 20

    def test_delete(self, address):
        """A process that deletes a session and exits has acknowledged that."""
        done = run_opened(address, "    manager.deleteSession(manager.loadNewSession('Luca'))")
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "Luca deleted True\n")
        assert address.kept() == 0

    def test_close_in_logout(self, address):
        """Closing in the middle of a logout loses no acknowledgement."""
        manager = SessionManager(store=address.open())
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.deleteSession(manager.loadNewSession("Luca"))
        assert address.kept() == 0

    def test_close_in_listener(self, address):
        """Closing in a listener of an expiry acknowledges that."""
        manager = SessionManager(store=address.open())
        manager.on("sessionDeleted", lambda key: manager.close())
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: address.kept() == 0)
