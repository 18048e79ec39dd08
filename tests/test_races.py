"""Sixteen threads at once: every end announced exactly once, whatever races."""

from __future__ import annotations

import collections
import random
import threading

from users_session_manager import SessionManager, SessionRejected

THREADS, LOGINS = 16, 200


def run_together(work, threads=THREADS):
    """Run `work(number)` on that many threads from the same moment on; raise what one of them raised."""
    barrier = threading.Barrier(threads)
    failures: list[BaseException] = []

    def body(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001  # it is raised below
            failures.append(failure)

    running = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert not any(thread.is_alive() for thread in running), "a deadlock"
    if failures:
        raise failures[0]


def test_logins_restarts_deletes_and_expiries_race():
    manager = SessionManager()
    clock = manager._store.clock
    created, deleted = collections.Counter(), collections.Counter()
    counting, all_told = threading.Lock(), threading.Event()

    def count(counter):
        def listener(key):
            with counting:
                counter[key] += 1
                if sum(deleted.values()) == THREADS * LOGINS:
                    all_told.set()

        return listener

    manager.on("sessionCreated", count(created))
    manager.on("sessionDeleted", count(deleted))
    manager.on("error", lambda error, details: None)
    shared: list[str] = []

    def work(number):
        chance = random.Random(number)
        for _ in range(LOGINS):
            key = manager.loadNewSession(f"user {number}")
            shared.append(key)
            if chance.random() < 0.5:  # let it run out on the clock's own thread, now or while others use it
                with clock.lock:
                    session = manager.sessions.get(key)
                    if session is not None and session.timer.is_alive():
                        clock.schedule(session.timer, chance.random() / 100)
            other = chance.choice(shared)
            manager.restartSessionTimer(other) if chance.random() < 0.3 else manager.checkSessionStatus(other)
            manager.setSessionData(other, number)
            if chance.random() < 0.3:
                manager.deleteSession(chance.choice(shared))
            if chance.random() < 0.01:
                manager.deleteAllSessions()

    run_together(work)
    manager.deleteAllSessions()
    with clock.lock:
        for session in list(manager.sessions.values()):
            clock.schedule(session.timer, 0)
    assert all_told.wait(60)
    assert sum(created.values()) == THREADS * LOGINS
    assert set(created.values()) == {1}
    assert deleted == created
    assert manager.sessions == {}


def test_one_session_deleted_by_sixteen_threads_as_it_runs_out_ends_once(clock, manager):
    for _ in range(50):
        deleted, rejected = [], []
        key = manager.loadNewSession("Luca")
        manager.once("sessionDeleted", deleted.append)
        clock.seconds += 3000 - 0.5

        def work(number, key=key, deleted=deleted, rejected=rejected):
            try:
                if number == 0:
                    clock.turn(0.5)
                elif manager.deleteSession(key):
                    deleted.append("by hand")
            except SessionRejected:
                rejected.append(number)

        run_together(work)
        assert deleted[0] == key
        assert len(deleted) - 1 + len(rejected) == THREADS - 1
        assert deleted.count("by hand") <= 1


def test_a_restart_that_races_the_end_either_wins_or_is_rejected(clock, manager):
    for _ in range(200):
        key = manager.loadNewSession("Luca")
        ended: list[str] = []
        answers: list[bool] = []
        manager.once("sessionDeleted", ended.append)
        clock.seconds += 3000 - 0.5

        def work(number, key=key, answers=answers):
            if number == 0:
                clock.turn(0.5)
            else:
                try:
                    answers.append(manager.restartSessionTimer(key))
                except SessionRejected:
                    answers.append(False)

        run_together(work, threads=2)
        assert (answers, ended) in (([True], []), ([False], [key]))
        manager.remove_all_listeners("sessionDeleted")
        manager.deleteAllSessions()


def test_ten_thousand_sessions_cost_at_most_two_threads():
    before = threading.active_count()
    manager = SessionManager()
    for number in range(10_000):
        manager.loadNewSession(f"user {number}")
    assert threading.active_count() <= before + 2
    assert all(isinstance(session.timer, threading.Timer) for session in manager.sessions.values())
    assert all(session.timer.is_alive() for session in manager.sessions.values())
