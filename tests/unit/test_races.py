"""Sixteen threads at once: every end announced exactly once, whatever races."""

from __future__ import annotations

import collections
import contextlib
import random
import threading
import time

import pytest

from users_session_manager import MemoryStore, SessionManager, SessionRejected, TooManySessions

THREADS, LOGINS = 16, 200

ON_EVERY_STORE = True


@pytest.fixture(autouse=True)
def often_switched(clock, store_kind, monkeypatch):
    """Threads take turns within a call, whenever it looks at the time, and not after many calls.

    Those of a store in Redis do so whenever they wait for it.
    """
    if store_kind != "memory":
        return

    def look_and_let_others_go_on():
        time.sleep(0)
        return clock.seconds

    monkeypatch.setattr(clock.store, "now", look_and_let_others_go_on)
    monkeypatch.setattr(clock.store.clock, "now", look_and_let_others_go_on)


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


@pytest.mark.in_memory
def test_logins_restarts_deletes_and_expiries_race():
    store = MemoryStore()
    manager = SessionManager(store=store)
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


class TestCap:
    LOGINS, CAP = 32, 3

    def test_32_threads_that_log_one_user_in_never_make_more_than_three(self, manager):
        manager.setMaxSessionsPerUser(self.CAP)
        ended, created, most = [], [], []
        manager.on("sessionEnded", lambda session, reason: ended.append((session.key, reason)))

        def work(number):
            for _ in range(10):
                created.append(manager.loadNewSession("Luca"))
                most.append(len(manager.getUserSessions("Luca")))

        run_together(work, threads=self.LOGINS)
        assert max(most) == self.CAP
        kept = [row["key"] for row in manager.getUserSessions("Luca")]
        assert len(kept) == self.CAP
        assert collections.Counter(ended) == {(key, "evicted"): 1 for key in created if key not in kept}

    def test_or_exactly_three_of_them_succeed(self, manager):
        manager.setMaxSessionsPerUser(self.CAP, "reject")
        for _ in range(10):
            created, refused = [], []

            def work(number, created=created, refused=refused):
                try:
                    created.append(manager.loadNewSession("Luca"))
                except TooManySessions:
                    refused.append(number)

            run_together(work, threads=self.LOGINS)
            assert (len(created), len(refused)) == (self.CAP, self.LOGINS - self.CAP)
            assert sorted(row["key"] for row in manager.getUserSessions("Luca")) == sorted(created)
            assert manager.deleteUserSessions("Luca") == self.CAP

    def test_logged_out_everywhere_while_32_log_in_every_session_ends_once_or_lives(self, manager):
        ended, created = collections.Counter(), []
        manager.on("sessionDeleted", lambda key: ended.update([key]))

        def work(number):
            for _ in range(20):
                created.append(manager.loadNewSession("Luca"))
                if number % 8 == 0:
                    manager.deleteUserSessions("Luca", created[-1])

        run_together(work, threads=self.LOGINS)
        alive = {row["key"] for row in manager.getUserSessions("Luca")}
        assert set(ended.values()) == {1}
        assert alive | set(ended) == set(created)
        assert not alive & set(ended)
        assert alive == set(manager.sessions)


class TestRenewal:
    def test_of_sixteen_renewals_at_once_without_overlap_one_wins(self, manager):
        for _ in range(50):
            old, renewed = manager.loadNewSession("Luca"), []
            heard: list[tuple[str, str]] = []
            manager.on("sessionRenewed", lambda *keys, heard=heard: heard.append(keys))

            def work(number, old=old, renewed=renewed):
                with contextlib.suppress(SessionRejected):
                    renewed.append(manager.renewSessionKey(old))

            run_together(work)
            assert heard == [(old, renewed[0])]
            assert list(manager.sessions) == renewed
            manager.remove_all_listeners("sessionRenewed")
            manager.deleteAllSessions()

    def test_with_an_overlap_all_win_and_the_session_has_the_last_key(self, manager):
        for _ in range(50):
            old, renewed = manager.loadNewSession("Luca"), []
            run_together(lambda number, old=old, renewed=renewed: renewed.append(manager.renewSessionKey(old, 60)))
            (now,) = manager.sessions
            assert now in renewed
            assert {manager.getSession(key).key for key in (old, *renewed)} == {now}
            assert set(manager.getSession(now).formerKeys) | {now} == {old, *renewed}
            assert manager.deleteSession(old) is True
            assert not any(map(manager.getUsernameFromSessionKey, renewed))

    @pytest.mark.parametrize("end", ["runs out", "deleteSession", "deleteUserSessions"])
    @pytest.mark.parametrize("overlap", [0, 60])
    def test_one_that_races_the_end_either_comes_first_or_is_rejected(self, clock, manager, end, overlap):
        came_first = collections.Counter()
        for _ in range(150):
            old = manager.loadNewSession("Luca")
            ended, renewed = [], []
            manager.on("sessionDeleted", ended.append)
            clock.seconds += 3000 - 0.5

            def work(number, old=old, renewed=renewed):
                try:
                    if number:
                        renewed.append(manager.renewSessionKey(old, overlap))
                    elif end == "runs out":
                        clock.turn(0.5)
                    elif end == "deleteSession":
                        manager.deleteSession(old)
                    else:
                        manager.deleteUserSessions("Luca")
                except SessionRejected:
                    pass

            run_together(work, threads=2)
            clock.turn(0.5)
            came_first["renewal" if renewed else "end"] += 1
            assert ended == (renewed or [old])
            assert manager.sessions == {}
            assert manager.getUsernameFromSessionKey(old) is False
            manager.remove_all_listeners("sessionDeleted")
        assert sum(came_first.values()) == 150


def test_a_warning_that_races_a_restart_or_a_renewal_comes_once_a_countdown(clock, manager):
    manager.setExpiryWarning(10)
    for _ in range(150):
        keys, warned = [manager.loadNewSession("Luca")], []
        manager.on("sessionExpiring", lambda key, left, warned=warned: warned.append((key, left)))
        clock.seconds += 2990 - 0.5

        def work(number, keys=keys):
            if number == 0:
                clock.turn(0.5)
            elif number == 1:
                keys.append(manager.renewSessionKey(keys[0]))
            else:
                with contextlib.suppress(SessionRejected):
                    manager.restartSessionTimer(keys[0])

        run_together(work, threads=3)
        clock.turn(0)
        left = manager.getSessionTimeLeft(keys[-1])
        assert len(warned) <= 1
        assert len(warned) == 1 or left > 10, "it was warned, or has begun anew"
        assert all(key in keys and seconds == 10 for key, seconds in warned)
        manager.remove_all_listeners("sessionExpiring")
        manager.deleteAllSessions()


@pytest.mark.in_memory
def test_ten_thousand_sessions_cost_at_most_two_threads():
    before = threading.active_count()
    manager = SessionManager()
    for number in range(10_000):
        manager.loadNewSession(f"user {number}")
    assert threading.active_count() <= before + 2
    assert all(isinstance(session.timer, threading.Timer) for session in manager.sessions.values())
    assert all(session.timer.is_alive() for session in manager.sessions.values())
