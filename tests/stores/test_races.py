"""Sixteen threads at once: every end announced exactly once, whatever races."""

from __future__ import annotations

import collections
import contextlib
import time

import pytest
from threads import run_together

from users_session_manager import SessionRejected, TooManySessions
from users_session_manager.stores.base import MAX_FORMER_KEYS

THREADS = 16

pytestmark = pytest.mark.parametrize("store_kind", ["memory", "redis", "sqlite", "postgresql"])


@pytest.fixture
def rounds(store_kind):
    """How often a race is run: often enough that each outcome is met."""
    return range(100 if store_kind == "memory" else 30)


@pytest.fixture(autouse=True)
def often_switched(clock, store_kind, monkeypatch):
    """Let threads take turns within a call, whenever it looks at the time, and not after many calls.

    Those of a store in Redis take turns whenever they wait for it.
    """
    if store_kind != "memory":
        return

    def look_and_let_others_go_on():
        time.sleep(0)
        return clock.seconds

    monkeypatch.setattr(clock.store, "now", look_and_let_others_go_on)
    monkeypatch.setattr(clock.store.clock, "now", look_and_let_others_go_on)


def test_delete(clock, manager, rounds):
    """A session that sixteen threads delete as it expires ends once."""
    for _ in rounds:
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


def test_restart(clock, manager, rounds):
    """A restart that races the end either wins or is rejected."""
    manager.on("sessionEnded", lambda session, reason: None)  # so that no end is handed on to the next round
    for _ in rounds:
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

    def test_evict(self, manager):
        """32 threads that log one user in never make more sessions than the limit."""
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

    def test_reject(self, manager):
        """Or exactly as many of them succeed as the limit allows."""
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

    def test_delete_user(self, manager):
        """While 32 threads log a user in and some log out everywhere, each session lives or ends once."""
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
    def test_no_overlap(self, manager, rounds):
        """Of sixteen renewals at once without an overlap, one wins."""
        for _ in rounds:
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

    def test_overlap(self, manager, rounds):
        """With an overlap as many win as former keys are kept and one more, and the session has the last key."""
        for _ in rounds:
            old, renewed = manager.loadNewSession("Luca"), []
            heard: list[tuple[str, str]] = []
            manager.on("sessionRenewed", lambda *keys, heard=heard: heard.append(keys))

            def work(number, old=old, renewed=renewed):
                with contextlib.suppress(SessionRejected):
                    renewed.append(manager.renewSessionKey(old, 60))

            run_together(work)
            assert len(renewed) == MAX_FORMER_KEYS + 1
            assert sorted(new for _, new in heard) == sorted(renewed)
            (now,) = manager.sessions
            assert now in renewed
            assert manager.getUsernameFromSessionKey(old) is False
            assert {manager.getSession(key).key for key in renewed} == {now}
            assert {*manager.getSession(now).formerKeys, now} == {*renewed}
            assert manager.deleteSession(renewed[0]) is True
            assert not any(map(manager.getUsernameFromSessionKey, renewed))
            manager.remove_all_listeners("sessionRenewed")

    def test_few_with_overlap(self, manager, rounds):
        """Of no more renewals than former keys are kept all win, and the first key is good until the end."""
        for _ in rounds:
            old, renewed = manager.loadNewSession("Luca"), []
            run_together(
                lambda number, old=old, renewed=renewed: renewed.append(manager.renewSessionKey(old, 60)),
                threads=MAX_FORMER_KEYS,
            )
            (now,) = manager.sessions
            assert now in renewed
            assert {manager.getSession(key).key for key in (old, *renewed)} == {now}
            assert {*manager.getSession(now).formerKeys, now} == {old, *renewed}
            assert manager.deleteSession(old) is True
            assert not any(map(manager.getUsernameFromSessionKey, renewed))

    @pytest.mark.parametrize("end", ["expires", "deleteSession", "deleteUserSessions"])
    @pytest.mark.parametrize("overlap", [0, 60])
    def test_end(self, clock, manager, rounds, end, overlap):
        """A renewal that races the end either comes first or is rejected."""
        came_first = collections.Counter()
        for _ in rounds:
            old = manager.loadNewSession("Luca")
            ended, renewed = [], []
            manager.on("sessionDeleted", ended.append)
            clock.seconds += 3000 - 0.5

            def work(number, old=old, renewed=renewed):
                try:
                    if number:
                        renewed.append(manager.renewSessionKey(old, overlap))
                    elif end == "expires":
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
        assert sum(came_first.values()) == len(rounds)


def test_warning(clock, manager, rounds):
    """A warning that races a restart or a renewal comes once per countdown."""
    manager.setExpiryWarning(10)
    for _ in rounds:
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
        assert len(warned) == 1 or left > 10, "it was warned, or was restarted"
        assert all(key in keys and seconds == 10 for key, seconds in warned)
        manager.remove_all_listeners("sessionExpiring")
        manager.deleteAllSessions()
