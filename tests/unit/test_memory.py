"""The memory store beyond the contract of every store: failures at any allocation, and the memory it takes."""

from __future__ import annotations

import collections
import gc
import random
import subprocess
import sys
import threading
import tracemalloc
import weakref
from math import inf, nan
from typing import Any

import pytest
from threads import run_together

from users_session_manager import MemoryStore, SessionError, SessionManager, Store
from users_session_manager.policy import Policy
from users_session_manager.stores.base import Callbacks


def test_abstract():
    """A store that lacks a method cannot be made, and the error names it."""
    names = (
        "sessions add get restart renew_timer renew_key time_left set_data update_data of_user remove remove_user clear"
    )
    for name in [*names.split(), "usernames", "close"]:
        incomplete = type("Incomplete", (MemoryStore,), {name: vars(Store)[name]})
        with pytest.raises(TypeError, match=rf"abstract.*\b{name}\b"):
            incomplete()


class TestStore:
    """The memory store, beyond the contract of every store."""

    def test_timer_alive(self):
        """The timer of a session that expires is alive until the end has been announced."""
        store, seen = MemoryStore(), []
        started, go_on = threading.Event(), threading.Event()

        def announce(session, reason):
            started.set()
            go_on.wait(30)
            seen.append(reason)

        store.open(Callbacks(on_ended=announce))
        key, _ = store.add("Luca", 1)
        timer = store.sessions[key].timer
        assert started.wait(30)
        assert timer.is_alive()
        assert not timer.finished.is_set()
        timer.join(0.01)
        assert seen == []
        go_on.set()
        timer.join(30)
        assert seen == ["expired"]
        assert timer.finished.is_set()
        assert not timer.is_alive()
        store.close()

    def test_interval(self):
        """`interval` is that of the present countdown."""
        store, policy = MemoryStore(thread=False), Policy()
        key, _ = store.add("Luca", 10, policy)
        timer = store.get(key).timer
        assert timer.interval == 10
        store.restart(key, 20, policy)
        assert timer.interval == 20
        assert store.get(key).timer is timer

    def test_too_long(self):
        """A timeout that no timer can hold, as the application may write into `settings`, is refused."""
        store, policy = MemoryStore(thread=False), Policy()
        key, _ = store.add("Luca", 10, policy)
        store.restart(key, 10, policy)
        for timeout in (inf, nan, 10**12):
            with pytest.raises(ValueError, match="holds at most"):
                store.add("Luca", timeout, policy)
            with pytest.raises(ValueError, match="holds at most"):
                store.restart(key, timeout, policy)
        assert store.time_left(key) <= 10
        assert list(store.sessions) == [key]

    def test_open(self):
        """It can be opened once."""
        store = MemoryStore(thread=False)
        store.open(Callbacks())
        with pytest.raises(SessionError, match="before"):
            store.open(Callbacks())

    @pytest.mark.parametrize("policy", [Policy(), Policy(warning=5)], ids=["plain", "with a warning"])
    def test_freed(self, policy):
        """A removed session is freed without the collector: there is no cycle with its timer."""

        class Data:
            pass

        def freed(end):
            keys = [store.add("Luca", 3000, policy)[0] for _ in range(3)]
            data = Data()
            watched = weakref.ref(data)
            store.set_data(keys[1], data)
            store.renew_key(keys[1], 1000)
            del data
            end(keys[1])
            return watched() is None

        store = MemoryStore(thread=False)
        assert freed(store.remove)
        assert freed(lambda key: store.remove_user("Luca"))
        assert freed(lambda key: store.clear())
        assert freed(lambda key: store.close())

    def test_close_unlocked(self):
        """A closing store frees its data without a lock, so that a finalizer may use any thread."""
        store = MemoryStore(thread=False)
        seen = []

        class Data:
            def __del__(self):
                thread = threading.Thread(target=lambda: seen.append(store.usernames()), daemon=True)
                thread.start()
                thread.join(30)

        store.add("Luca", 3000, data=Data())
        store.close()
        assert seen == [[]]

    def test_time_left(self):
        """The time left is right while another thread gives the session new timers."""
        store = MemoryStore(thread=False)
        key, _ = store.add("Luca", 3000)
        stop = threading.Event()

        def renew():
            while not stop.is_set():
                store.renew_timer(key, 3000)

        thread = threading.Thread(target=renew)
        thread.start()
        left = [store.time_left(key) for _ in range(20_000)]
        stop.set()
        thread.join()
        assert max(left) <= 3000

    def test_old_data(self):
        """A finalizer of replaced data may call the store from another thread."""
        store = MemoryStore(thread=False)
        key, _ = store.add("Luca", 3000)
        seen = []

        class Data:
            def __del__(self):
                thread = threading.Thread(target=lambda: seen.append(store.restart(key, 3000)))
                thread.start()
                thread.join(30)

        store.set_data(key, Data())
        store.set_data(key, None)
        assert [session.key for session in seen] == [key]

    def test_many_updates(self):
        """No simultaneous change is lost: 32 threads make 100 each, while others renew the key and set timers."""
        store = MemoryStore(thread=False)
        keys = [store.add("Luca", 3000, data={"count": 0})[0]]

        def count(data):
            data["count"] += 1
            return data

        def work(number):
            for turn in range(100):
                assert store.update_data(keys[-1], count)[0]
                if turn % 25 == 0 and number == 0:  # less often than a key has former ones
                    keys.append(store.renew_key(keys[-1], 3000)[1])
                store.restart(keys[-1], 3000)

        run_together(work, 32)
        assert store.get(keys[-1]).data == {"count": 3200}

    def test_same_object(self):
        """A change is seen if the same object is stored again, and if the application sets `session.data` itself."""
        store = MemoryStore(thread=False)
        key = store.add("Luca", 3000, data=["lasagne"])[0]
        session = store.get(key)

        def store_again():
            session.data.append("pesto")
            store.set_data(key, session.data)

        def set_directly():
            session.data = [*session.data, "focaccia"]

        for in_between in (store_again, set_directly):
            acts = [in_between]
            store.update_data(key, lambda data, acts=acts: (acts and acts.pop()(), [*data, "gelato"])[1])
        assert session.data == ["lasagne", "pesto", "gelato", "focaccia", "gelato"]

    def test_update_unlocked(self):
        """No lock is held while `change`, a copy or a finalizer of the data runs: each may use another thread."""
        store, seen = MemoryStore(thread=False), []

        def in_another_thread():
            thread = threading.Thread(target=lambda: seen.append(store.restart(key, 3000)), daemon=True)
            thread.start()
            thread.join(30)

        class Data:
            def __deepcopy__(self, memo):
                in_another_thread()
                return Data()

            def __del__(self):
                in_another_thread()

        key = store.add("Luca", 3000, data=Data())[0]
        assert store.update_data(key, lambda data: in_another_thread()) == (True, None)
        assert [session.key for session in seen] == [key] * 4

    def test_leaves_nothing(self):
        """A session that has ended leaves nothing: no former key, no entry of its user, no alarm."""
        store = MemoryStore(now=lambda: seconds, thread=False)
        store.open(Callbacks())
        seconds = 0.0

        def many_sessions():
            nonlocal seconds
            for number in range(500):
                key = store.add(f"user {number}", 10, Policy(warning=3, max_sessions=2))[0]
                for overlap in (5, 1000, 2, *[1000] * 10):
                    key = store.renew_key(key, overlap)[1]
                if number % 2:
                    store.remove(key)
            seconds += 10
            store.run_due()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first = many_sessions()
            assert many_sessions() < first + 10_000
        finally:
            tracemalloc.stop()

    def test_no_thread(self, monkeypatch):
        """When no thread can be started the login fails, and no session is evicted for it."""
        store = MemoryStore()

        def no_thread(*args):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            store.add("Luca", 3000, Policy(max_sessions=1))
        assert list(store.sessions) == []
        monkeypatch.undo()
        key, _ = store.add("Luca", 3000, Policy(max_sessions=1))
        assert [session.key for session, _ in store.of_user("Luca")] == [key]
        store.close()

    def test_restart(self):
        """A restart writes a deadline alone; the alarm is set again when it rings."""
        seconds = [0.0]
        store = MemoryStore(now=lambda: seconds[0], thread=False)
        ended: list[str] = []
        store.open(Callbacks(on_ended=lambda session, reason: ended.append(session.key)))
        key = store.add("Luca", 10)[0]
        for seconds[0] in (5.0, 9.0):
            store.restart(key, 10)
        assert store.clock.pause() == 1, "it is looked at where it was"
        for seconds[0] in (10.0, 18.9):
            assert store.run_due() == 0
        assert store.clock.pause() == pytest.approx(0.1)
        seconds[0] = 19.0
        assert store.run_due() == 1
        assert ended == [key]

    def test_interrupted_prune(self):
        """A signal handler that raises in the middle of a prune loses no alarm."""
        case = Interrupted()
        for _ in range(300):
            case.keys.append(case.store.add("Luca", 10.5)[0])

        def interrupt(frame, event, arg):
            if frame.f_code.co_name == "_prune":
                frame.f_trace_lines = True

                def at_line(frame, event, arg):
                    lines.append(frame.f_lineno)
                    if len(lines) == at:
                        raise KeyboardInterrupt
                    return at_line

                return at_line
            return None

        interrupted = 0
        for at in range(1, 8):
            lines: list[int] = []
            before = sys.gettrace()
            sys.settrace(interrupt)
            try:
                for key in case.keys[at * 40 - 40 : at * 40]:
                    case.remove(key)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(before)
        assert interrupted
        left = len(case.store.sessions)
        case.seconds += 1000
        case.store.run_due()
        assert len(case.ended) == left


class Interrupted:
    """A store of twenty sessions, on which a finalizer acts so many allocations after the start of a call."""

    def __init__(self) -> None:
        self.seconds, self.ended, self.removed = 1000.0, [], []
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)
        self.store.open(Callbacks(on_ended=lambda session, reason: self.ended.append(session.key)))
        self.keys = [self.store.add("Luca", 10.5)[0] for _ in range(20)]

    def call(self, work: Any, act: Any, allocations: int) -> bool:
        """Return whether the finalizer came before `work` was done."""
        came: list[Any] = []

        class Finalized:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                came.append(act(self_))

        self_ = self
        gc.collect()
        threshold = gc.get_threshold()
        try:
            gc.set_threshold(0)
            Finalized()
            gc.set_threshold(allocations, 1000, 1000)
            work(self)
        finally:
            gc.set_threshold(*threshold)
        is_in_time = bool(came)
        gc.collect()
        return is_in_time

    def turn_to(self, seconds: float, restarted_at: float | None = None) -> None:
        if restarted_at is not None:
            self.seconds = restarted_at
            for key in self.keys:
                self.store.restart(key, 10.5)
        self.seconds = seconds
        self.store.run_due()

    def remove(self, key: str) -> None:
        session = self.store.remove(key)
        if session is not None:
            self.removed.append(session.key)

    def renew_in_overlap(self) -> None:
        renewed = self.store.renew_key(self.keys[3], 5)
        if renewed is not None:
            self.keys.append(self.keys[3])  # which is good still
            self.keys[3] = renewed[1]

    def fill_up(self) -> None:
        """Let the next logout prune the heap."""
        for key in [self.store.add("Fabio", 10.5)[0] for _ in range(200)][:110]:
            self.remove(key)

    def check(self) -> None:
        """After any failure each session ends once, and nothing is left."""
        live = list(self.store.sessions)
        assert all(found.key in live for found in map(self.store.get, self.keys) if found is not None)
        indexed = [*self.store.of_user("Luca"), *self.store.of_user("Fabio")]
        assert sorted(session.key for session, _ in indexed) == sorted(live)
        self.seconds += 1000
        self.store.run_due()
        assert sorted(self.ended + self.removed) == sorted({*self.ended, *self.removed})
        assert set(live) <= {*self.ended}
        assert dict(self.store.sessions) == {}
        assert self.store.of_user("Luca") == []
        assert self.store.clock.pause() == inf
        assert self.store.clock.run_due() == 0


WORK = {
    "a login": lambda case: case.keys.append(case.store.add("Luca", 10)[0]),
    "a login with a cap": lambda case: case.removed.extend(
        session.key for session in case.store.add("Luca", 10, Policy(max_sessions=5))[1]
    ),
    "a restart": lambda case: case.store.restart(case.keys[3], 10.5),
    "a restart that is shorter": lambda case: case.store.restart(case.keys[3], 1),
    "a renewal": lambda case: case.store.renew_key(case.keys[3], 5),
    "many renewals": lambda case: [case.renew_in_overlap() for _ in range(12)],
    "an update": lambda case: case.store.update_data(case.keys[3], lambda data: [data]),
    "a logout": lambda case: case.remove(case.keys[3]),
    "logouts that prune the heap": lambda case: [case.remove(key) for key in list(case.store.sessions)[-60:]],
    "logout of all": lambda case: case.removed.extend(session.key for session in case.store.clear()),
    "the clock, as they expire": lambda case: case.turn_to(1010.5),
    "the clock, as it looks too early": lambda case: case.turn_to(1010.6, restarted_at=1009.5),
}
ACTS = {
    "removes": lambda case: case.remove(case.keys[3]),
    "removes many": lambda case: [case.remove(key) for key in case.keys[:18]],
    "shortens": lambda case: case.store.restart(case.keys[3], 0.2),
    "logs in": lambda case: case.store.add("Luca", 3),
    "logs in and out": lambda case: case.remove(case.store.add("Luca", 3)[0]),
    "renews": lambda case: case.store.renew_key(case.keys[3], 1),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("work", WORK)
def test_finalizer(work, act):
    """A finalizer may come at each allocation."""
    came = set()
    gc.freeze()  # so that to collect all takes no time
    try:
        for allocations in range(1, 60):
            case = Interrupted()
            if "prune" in work:
                case.fill_up()
            came.add(case.call(WORK[work], ACTS[act], allocations))
            case.check()
    finally:
        gc.unfreeze()
    assert True in came, "it was to come in the middle"


class TestTheTimerOfASession:
    """The application may do with it what it likes; a session that is rejected stays so, one that is live expires."""

    @pytest.fixture
    def case(self):
        return Interrupted()

    @pytest.mark.parametrize(
        "again", [lambda store, key: store.restart(key, 10), lambda store, key: store.renew_timer(key, 10)]
    )
    def test_old_timer(self, case, again):
        """A timer does nothing once its session has another one."""
        key = case.keys[0]
        timer = case.store.get(key).timer
        timer.cancel()
        assert case.store.time_left(key) == inf
        again(case.store, key)
        timer.cancel()
        assert case.store.time_left(key) == 10
        assert case.store.get(key).timer is not timer

    @pytest.mark.parametrize("stop", [lambda timer: timer.cancel(), lambda timer: timer.finished.set()])
    def test_late_stop(self, case, stop):
        """Stopped after the deadline, it keeps no session alive."""
        key = case.keys[0]
        timer = case.store.get(key).timer
        case.seconds += 10.5  # and the clock is late
        stop(timer)
        assert case.store.get(key) is None
        case.store.run_due()
        assert case.store.get(key) is None
        assert sorted(case.ended) == sorted(case.keys)
        assert not timer.is_alive()

    def test_ended(self, case):
        """Asked for after the end of its session, it is over."""
        session = case.store.remove(case.keys[0])
        assert not session.timer.is_alive()
        assert session.timer.finished.is_set()


def test_races():
    """Logins, restarts, deletions and expiries race on sixteen threads and the clock's: each session ends once."""
    threads, logins = 16, 100
    store = MemoryStore()
    manager = SessionManager(store=store)
    created, deleted = collections.Counter(), collections.Counter()
    counting, all_ended = threading.Lock(), threading.Event()

    def count(counter):
        def listener(key):
            with counting:
                counter[key] += 1
                if sum(deleted.values()) == threads * logins:
                    all_ended.set()

        return listener

    manager.on("sessionCreated", count(created))
    manager.on("sessionDeleted", count(deleted))
    manager.on("error", lambda error, details: None)
    shared: list[str] = []

    def work(number):
        chance = random.Random(number)
        for _ in range(logins):
            key = manager.loadNewSession(f"user {number}")
            shared.append(key)
            if chance.random() < 0.5:  # let it expire on the clock's own thread, now or while others use it
                store.restart(key, chance.random() / 100)
            other = chance.choice(shared)
            manager.restartSessionTimer(other) if chance.random() < 0.3 else manager.checkSessionStatus(other)
            manager.setSessionData(other, number)
            if chance.random() < 0.3:
                manager.deleteSession(chance.choice(shared))
            if chance.random() < 0.01:
                manager.deleteAllSessions()

    run_together(work)
    manager.deleteAllSessions()
    assert all_ended.wait(60)
    assert sum(created.values()) == threads * logins
    assert set(created.values()) == {1}
    assert deleted == created
    assert manager.sessions == {}


PROGRAM = """
import resource, sys, tracemalloc
from users_session_manager import SessionManager

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

def allocated():
    return tracemalloc.get_traced_memory()[0]

COUNT = 1_000_000
manager = SessionManager()

def login(count):
    return [manager.loadNewSession("Luca") for _ in range(count)]
"""

# The oldest 99% go, as when sessions that were created together end together: the system gets its memory back.
OLDEST = """
before = resident()
keys = login(COUNT)
full = resident() - before
for key in keys[:-COUNT // 100]:
    manager.deleteSession(key)
del keys
emptied = resident() - before
left = min(map(manager.getSessionTimeLeft, manager.sessions))
print(full, emptied, left)
"""

# 99% go in random order. Those that stay hold on to most pages, since CPython does not move objects: the memory
# is free, and goes to the logins that follow.
SCATTERED = """
import random, time
tracemalloc.start()
before = allocated()
keys = login(COUNT)
full = allocated() - before
tracemalloc.stop()
random.Random(7).shuffle(keys)
gone, pauses = keys[:-COUNT // 100], []
for key in gone:
    start = time.perf_counter()
    manager.deleteSession(key)
    pauses.append(time.perf_counter() - start)
print(f"the longest pauses, in s: {[round(pause, 3) for pause in sorted(pauses)[-6:]]}", file=sys.stderr)
left = min(map(manager.getSessionTimeLeft, manager.sessions))
manager.close()
del manager, keys, gone, key, pauses
manager = SessionManager()
tracemalloc.start()
before = allocated()
keys = login(COUNT)
random.Random(7).shuffle(keys)
for key in keys[:-COUNT // 100]:
    manager.deleteSession(key)
del keys, key
emptied = allocated() - before
print(full, emptied, left)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("scenario", [OLDEST, SCATTERED], ids=["oldest", "scattered"])
def test_million(scenario):
    """Deleting 99% of a million sessions gives their memory back."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + scenario], capture_output=True, text=True, timeout=600, check=True
    )
    full, emptied, left = map(float, done.stdout.split())
    print(done.stderr)
    print(f"{full / 1e6:.0f} bytes a session with a million, {emptied / full:.0%} of it kept after deleting 99%")
    assert left > 45 * 60, "the deadlines were to be far away"
    assert full / 1_000_000 < 1024
    assert emptied < full * 0.15
