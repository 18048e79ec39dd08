"""What every store must do: one suite, run over each."""

from __future__ import annotations

import threading
import time
import tracemalloc
import weakref
from itertools import permutations
from typing import Any

import pytest

from users_session_manager import MemoryStore, Session, SessionError, SessionManager, Store, TooManySessions
from users_session_manager.keys import new_key
from users_session_manager.policy import Policy


class Case:
    """A store in a time that is turned by hand, and what it has handed back."""

    def __init__(self, store: Any) -> None:
        self.seconds = 1000.0
        self.store = store(now=lambda: self.seconds, thread=False)
        self.ended: list[Session] = []
        self.warned: list[tuple[str, float]] = []
        self.store.open(self.hear, lambda session, left: self.warned.append((session.key, left)))

    def hear(self, session: Session, reason: str) -> None:
        assert reason == "expired"
        self.ended.append(session)

    def turn(self, seconds: float) -> None:
        self.seconds += seconds

    def settle(self) -> None:
        """Let the store hand back what has run out, and what is about to."""
        self.store.run_due()

    def add(self, username: str = "Luca", timeout: float = 10, **options: object) -> str:
        """Add a session that nobody has to make room for; return its key."""
        key, evicted = self.store.add(username, timeout, **options)
        assert list(evicted) == []
        return key

    def ended_keys(self) -> list[str]:
        return [session.key for session in self.ended]


@pytest.fixture
def case(any_store):
    case = Case(any_store)
    yield case
    case.store.close()


@pytest.fixture
def store(case):
    return case.store


NOT_LIVE = [None, [], {}, 1, b"", "", "unknown", new_key()]


def test_what_is_added_is_found(store, case):
    before = time.time()
    key = case.add("Luca", 10)
    found = store.get(key)
    assert isinstance(found, Session)
    assert (found.username, found.key, found.data, found.timeout, found.formerKeys) == ("Luca", key, None, None, ())
    assert before - 1 <= found.createdAt == found.authenticatedAt <= time.time() + 1
    assert isinstance(found.timer, threading.Timer)
    assert list(store.sessions) == [key]


def test_data_and_a_timeout_of_its_own_are_there_from_the_start(store, case):
    key = case.add("Luca", 20, data={"a": [1]}, own_timeout=True)
    found = store.get(key)
    assert (found.data, found.timeout) == ({"a": [1]}, 20)


@pytest.mark.parametrize("key", NOT_LIVE, ids=repr)
def test_what_is_not_there_is_one_case(store, case, key):
    kept = case.add()
    assert store.get(key) is None
    assert store.restart(key, 10) is None
    assert store.time_left(key) is None
    assert store.set_data(key, 1) is False
    assert store.renew_key(key, 10) is None
    assert store.remove(key) is None
    timer = store.renew_timer(key, 1)
    assert timer.is_alive()
    case.turn(1)
    case.settle()
    assert case.ended == []
    assert list(store.sessions) == [kept]
    assert [session.key for session in store.remove_user("Luca", key)] == [kept]


def test_it_is_live_until_the_instant_of_its_deadline(store, case):
    key = case.add("Luca", 10)
    case.turn(9.5)
    assert store.get(key)
    assert store.time_left(key) == pytest.approx(0.5)
    case.turn(0.5)
    assert store.get(key) is None
    assert store.restart(key, 10) is None
    assert store.set_data(key, 1) is False
    assert store.renew_key(key, 10) is None
    assert store.remove(key) is None
    assert store.of_user("Luca") == []
    assert store.remove_user("Luca") == []
    assert store.clear() == []
    assert store.usernames() == []
    assert store.time_left(key) is None


def test_what_runs_out_is_handed_back_once(store, case):
    first, second = case.add("Luca", 10), case.add("Luca", 5)
    case.turn(10)
    case.settle()
    case.settle()
    assert case.ended_keys() == [second, first]
    assert dict(store.sessions) == {}


def test_nothing_is_handed_back_early(case):
    case.add("Luca", 10)
    case.turn(9.9)
    case.settle()
    assert case.ended == []


def test_a_restart_moves_the_deadline_either_way(store, case):
    key = case.add("Luca", 10)
    case.turn(9)
    assert store.restart(key, 10).key == key
    case.turn(9)
    case.settle()
    assert store.restart(key, 2).key == key
    case.turn(2)
    case.settle()
    assert case.ended_keys() == [key]


def test_a_new_timer_takes_the_old_ones_place(store, case):
    key = case.add("Luca", 10)
    timer = store.renew_timer(key, 20)
    assert isinstance(timer, threading.Timer)
    assert timer.is_alive()
    case.turn(10)
    case.settle()
    assert store.get(key)
    case.turn(10)
    case.settle()
    assert case.ended_keys() == [key]


def test_data_stays_with_the_session(store, case):
    key = case.add()
    assert store.set_data(key, {"a": [1, 2]}) is True
    assert store.get(key).data == {"a": [1, 2]}
    assert store.remove(key).data == {"a": [1, 2]}


def test_what_is_taken_out_is_returned_once_and_not_handed_back(store, case):
    key = case.add("Luca", 10)
    assert store.remove(key).key == key
    assert store.remove(key) is None
    case.turn(10)
    case.settle()
    assert case.ended == []


def test_clear_takes_the_live_ones_in_the_order_of_creation(store, case):
    gone = case.add("Gino", 5)
    keys = [case.add("Luca", 10), case.add("Fabio", 10)]
    case.turn(5)
    assert store.usernames() == ["Luca", "Fabio"]
    assert [session.key for session in store.clear()] == keys
    assert store.clear() == []
    case.settle()
    assert case.ended_keys() == [gone]


def test_closed_it_knows_nobody_and_takes_nobody(store, case):
    key = case.add()
    store.renew_key(key, 10)
    store.close()
    store.close()
    assert store.get(key) is None
    assert store.usernames() == []
    assert store.of_user("Luca") == []
    with pytest.raises(SessionError, match="closed"):
        store.add("Luca", 10)


def test_the_repr_of_the_sessions_shows_no_key(store, case):
    key = case.add()
    assert key.partition("_")[2] not in repr(store.sessions)


class TestOneUser:
    def test_their_live_sessions_are_listed_oldest_first_with_the_time_they_have(self, store, case):
        case.add("Luca", 5)
        kept = [case.add("Luca", 20), case.add("Luca", 15)]
        case.add("Fabio", 30)
        case.turn(5)
        assert [(session.key, left) for session, left in store.of_user("Luca")] == [(kept[0], 15), (kept[1], 10)]
        assert store.of_user("Gino") == []

    def test_all_of_them_are_taken_out_and_nobody_elses(self, store, case):
        keys = [case.add("Luca"), case.add("Luca")]
        other = case.add("Fabio")
        assert [session.key for session in store.remove_user("Luca")] == keys
        assert store.remove_user("Luca") == []
        assert store.usernames() == ["Fabio"]
        case.turn(10)
        case.settle()
        assert case.ended_keys() == [other]

    def test_all_but_one_are_taken_out(self, store, case):
        keys = [case.add("Luca") for _ in range(3)]
        assert [session.key for session in store.remove_user("Luca", keys[1])] == [keys[0], keys[2]]
        assert [session.key for session, _ in store.of_user("Luca")] == [keys[1]]

    def test_one_of_somebody_else_spares_none(self, store, case):
        other = case.add("Fabio")
        case.add("Luca")
        assert len(store.remove_user("Luca", other)) == 1
        assert store.usernames() == ["Fabio"]

    def test_one_is_spared_by_a_key_in_its_overlap(self, store, case):
        old = case.add("Luca")
        case.add("Luca")
        kept = store.renew_key(old, 5)[1]
        assert len(store.remove_user("Luca", old)) == 1
        assert [session.key for session, _ in store.of_user("Luca")] == [kept]

    @pytest.mark.parametrize("order", list(permutations(range(4))))
    def test_they_are_found_in_whatever_order_they_go(self, store, case, order):
        keys = [case.add("Luca") for _ in range(4)]
        for index in order:
            store.remove(keys[index])
            keys[index] = None
            assert [session.key for session, _ in store.of_user("Luca")] == [key for key in keys if key]
        again = case.add("Luca")
        assert [session.key for session, _ in store.of_user("Luca")] == [again]


class TestCap:
    def test_the_oldest_make_room(self, store, case):
        keys = [case.add("Luca") for _ in range(3)]
        other = case.add("Fabio")
        newest, evicted = store.add("Luca", 10, Policy(max_sessions=2))
        assert [session.key for session in evicted] == keys[:2]
        assert [session.key for session, _ in store.of_user("Luca")] == [keys[2], newest]
        assert store.get(other)
        case.turn(10)
        case.settle()
        assert sorted(case.ended_keys()) == sorted([keys[2], newest, other])

    def test_or_the_login_is_refused_and_nothing_changes(self, store, case):
        policy = Policy(max_sessions=1, overflow="reject")
        key = case.add("Luca", policy=policy)
        with pytest.raises(TooManySessions, match="'Luca' has 1 sessions, and may have 1"):
            store.add("Luca", 10, policy)
        case.add("Fabio", policy=policy)
        assert list(store.sessions) == [key, *list(store.sessions)[1:]]
        assert store.usernames() == ["Luca", "Fabio"]

    @pytest.mark.parametrize("overflow", ["evict", "reject"])
    def test_one_that_has_run_out_counts_no_more_though_nobody_was_told_yet(self, store, case, overflow):
        gone = case.add("Luca", 5)
        case.turn(5)
        key = case.add("Luca", policy=Policy(max_sessions=1, overflow=overflow))
        assert [session.key for session, _ in store.of_user("Luca")] == [key]
        case.settle()
        assert case.ended_keys() == [gone]


class TestLifetime:
    def test_no_restart_prolongs_it(self, store, case):
        policy = Policy(lifetime=25)
        key = case.add("Luca", policy=policy)
        for _ in range(2):
            case.turn(9)
            assert store.restart(key, 10, policy)
        assert store.time_left(key) == 7
        case.turn(6)
        assert store.restart(key, 10, policy)
        assert store.time_left(key) == 1
        store.renew_timer(key, 10, policy)
        assert store.time_left(key) == 1
        key = store.renew_key(key, 0)[1]
        assert store.time_left(key) == 1
        case.turn(1)
        assert store.restart(key, 10, policy) is None
        case.settle()
        assert case.ended_keys() == [key]

    def test_the_earliest_end_wins(self, case):
        for timeout, own, lifetime, wins in [(10, False, 20, 10), (20, False, 10, 10), (30, True, 20, 20)]:
            key = case.add("Luca", timeout, policy=Policy(lifetime=lifetime), own_timeout=own)
            assert case.store.time_left(key) == wins

    def test_a_shorter_one_reaches_a_session_at_its_restart(self, store, case):
        key = case.add("Luca", policy=Policy(lifetime=100))
        case.turn(5)
        assert store.restart(key, 10, Policy(lifetime=8))
        assert store.time_left(key) == 3

    def test_a_shorter_one_ends_a_session_that_is_too_old_at_its_restart(self, store, case):
        key = case.add("Luca")
        case.turn(9)
        assert store.get(key)
        assert store.restart(key, 10, Policy(lifetime=8)) is None
        assert store.get(key) is None
        case.settle()
        assert case.ended_keys() == [key]

    def test_a_longer_one_prolongs_nothing(self, store, case):
        key = case.add("Luca", policy=Policy(lifetime=15))
        case.turn(9)
        for policy in (Policy(lifetime=100), Policy()):
            assert store.restart(key, 10, policy)
            assert store.time_left(key) == 6


class TestOwnTimeout:
    def test_a_restart_begins_it_again(self, store, case):
        key = case.add("Luca", 50, own_timeout=True)
        case.turn(40)
        assert store.restart(key, 10).timeout == 50
        assert store.time_left(key) == 50
        store.renew_timer(key, 10)
        assert store.time_left(key) == 50


class TestOwnLifetime:
    @pytest.mark.parametrize("policy", [Policy(), Policy(lifetime=5), Policy(lifetime=1000)], ids=repr)
    def test_it_takes_the_place_of_the_managers(self, store, case, policy):
        key = case.add("Luca", policy=Policy(lifetime=25), own_lifetime=True)
        for _ in range(2):
            case.turn(9)
            assert store.restart(key, 10, policy)
        assert store.time_left(key) == 7
        key = store.renew_key(key, 0)[1]
        case.turn(7)
        assert store.restart(key, 10, policy) is None
        case.settle()
        assert case.ended_keys() == [key]


class TestRenewal:
    def test_the_session_is_the_same_under_another_key(self, store, case):
        old = case.add("Luca", data={"a": 1})
        created = store.get(old).createdAt
        case.turn(4)
        replaced, new = store.renew_key(old, 0)
        assert replaced == old
        found = store.get(new)
        assert (found.username, found.key, found.data, found.createdAt) == ("Luca", new, {"a": 1}, created)
        assert found.authenticatedAt >= created
        assert found.formerKeys == (old,)
        assert store.time_left(new) == 6
        assert list(store.sessions) == [new]
        assert store.usernames() == ["Luca"]
        case.turn(6)
        case.settle()
        assert case.ended_keys() == [new]

    def test_the_old_key_is_dead_at_once(self, store, case):
        old = case.add()
        store.renew_key(old, 0)
        assert store.get(old) is None
        assert store.restart(old, 10) is None
        assert store.remove(old) is None
        assert store.renew_key(old, 0) is None

    def test_or_to_the_instant_after_its_overlap(self, store, case):
        old = case.add("Luca", 100)
        new = store.renew_key(old, 5)[1]
        case.turn(4.5)
        assert store.get(old).key == store.get(new).key == new
        assert store.restart(old, 100)
        assert store.set_data(old, 1) is True
        assert store.time_left(old) == 100
        case.turn(0.5)
        assert store.get(old) is None
        assert store.restart(old, 100) is None
        assert store.get(new).data == 1
        case.settle()
        assert store.get(new)
        assert case.ended == []

    def test_a_renewal_of_a_renewal(self, store, case):
        first = case.add("Luca", 100)
        second = store.renew_key(first, 10)[1]
        case.turn(5)
        replaced, third = store.renew_key(second, 10)
        assert replaced == second
        assert [store.get(key).key for key in (first, second, third)] == [third] * 3
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, True, True]
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, False, True]
        assert store.get(third).formerKeys == (first, second)

    def test_no_earlier_key_outlives_the_one_that_was_replaced_after_it(self, store, case):
        first = case.add("Luca", 100)
        second = store.renew_key(first, 50)[1]
        third = store.renew_key(second, 5)[1]
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, False, True]
        fourth = store.renew_key(third, 50)[1]
        fifth = store.renew_key(fourth, 0)[1]
        assert [store.get(key) is not None for key in (third, fourth, fifth)] == [False, False, True]

    def test_a_key_in_its_overlap_can_be_renewed_like_the_one_that_replaced_it(self, store, case):
        first = case.add()
        second = store.renew_key(first, 5)[1]
        replaced, third = store.renew_key(first, 5)
        assert replaced == second
        assert {store.get(key).key for key in (first, second, third)} == {third}

    def test_the_end_of_the_session_is_that_of_all_its_keys(self, store, case):
        for end in (lambda key: store.remove(key), lambda key: store.remove_user("Luca"), lambda key: store.clear()):
            first = case.add("Luca", 100)
            second = store.renew_key(first, 50)[1]
            end(first)
            assert store.get(first) is store.get(second) is None
        first = case.add("Luca", 10)
        second = store.renew_key(first, 50)[1]
        case.turn(10)
        assert store.get(first) is None
        case.settle()
        assert store.get(first) is None
        assert case.ended_keys() == [second]

    def test_the_order_of_creation_stays(self, store, case):
        keys = [case.add(name, 100) for name in ("Luca", "Fabio", "Luca", "Gino")]
        new = store.renew_key(keys[0], 0)[1]
        assert store.usernames() == ["Luca", "Fabio", "Luca", "Gino"]
        assert [session.key for session, _ in store.of_user("Luca")] == [new, keys[2]]
        assert [session.key for session in store.clear()] == [new, *keys[1:]]

    def test_a_timer_that_was_given_before_still_ends_the_session(self, store, case):
        key = case.add("Luca", 10)
        store.renew_timer(key, 20)
        new = store.renew_key(key, 0)[1]
        case.turn(20)
        case.settle()
        assert case.ended_keys() == [new]


class TestWarning:
    POLICY = Policy(warning=3)

    def test_it_comes_that_long_before_the_end_and_once(self, case):
        key = case.add("Luca", 10, policy=self.POLICY)
        case.turn(6.9)
        case.settle()
        assert case.warned == []
        case.turn(0.1)
        case.settle()
        case.turn(1)
        case.settle()
        assert case.warned == [(key, 3)]
        case.turn(2)
        case.settle()
        assert case.ended_keys() == [key]
        assert len(case.warned) == 1

    def test_it_comes_again_with_each_countdown(self, store, case):
        key = case.add("Luca", 10, policy=self.POLICY)
        for _ in range(3):
            case.turn(7)
            case.settle()
            assert store.restart(key, 10, self.POLICY)
        assert case.warned == [(key, 3)] * 3
        case.turn(5)
        case.settle()
        store.renew_timer(key, 10, self.POLICY)
        case.turn(5)
        case.settle()
        assert len(case.warned) == 3

    def test_late_it_says_what_is_left_and_after_the_end_nothing(self, case):
        key = case.add("Luca", 10, policy=self.POLICY)
        case.turn(9)
        case.settle()
        assert case.warned == [(key, 1)]
        other = case.add("Luca", 10, policy=self.POLICY)
        case.turn(10)
        case.settle()
        assert case.ended_keys() == [key, other]
        assert len(case.warned) == 1

    def test_a_countdown_that_is_shorter_warns_at_once(self, case):
        key = case.add("Luca", 2, policy=self.POLICY)
        case.settle()
        assert case.warned == [(key, 2)]

    def test_the_last_countdown_of_a_lifetime_warns_once_whatever_restarts(self, store, case):
        policy = Policy(lifetime=20, warning=3)
        key = case.add("Luca", 10, policy=policy)
        case.turn(9)
        store.restart(key, 10, policy)
        case.turn(7)
        case.settle()
        assert case.warned == [(key, 3)]
        case.turn(1)
        store.restart(key, 10, policy)  # the lifetime cuts this one off three seconds from now
        case.settle()
        assert case.warned == [(key, 3), (key, 3)]
        case.turn(1)
        store.restart(key, 10, policy)
        store.restart(key, 10, policy)
        case.settle()
        assert len(case.warned) == 2

    def test_who_has_ended_is_not_warned(self, store, case):
        keys = [case.add("Luca", 10, policy=self.POLICY) for _ in range(2)]
        store.remove(keys[0])
        store.clear()
        case.turn(8)
        case.settle()
        assert case.warned == []

    def test_a_renewed_key_is_the_one_that_is_warned(self, store, case):
        key = case.add("Luca", 10, policy=self.POLICY)
        new = store.renew_key(key, 0)[1]
        case.turn(7)
        case.settle()
        assert case.warned == [(new, 3)]

    def test_switched_on_and_off_it_counts_for_the_countdowns_that_begin_then(self, store, case):
        key = case.add("Luca", 10)
        case.turn(8)
        case.settle()
        assert case.warned == []
        store.restart(key, 10, self.POLICY)
        store.restart(key, 10)
        case.turn(8)
        case.settle()
        assert case.warned == []


class TestMemoryStore:
    """What the memory store promises beyond what every store does."""

    def test_the_timer_of_a_session_that_runs_out_is_alive_until_its_end_has_been_announced(self):
        store, seen = MemoryStore(), []
        begun, go_on = threading.Event(), threading.Event()

        def announce(session, reason):
            begun.set()
            go_on.wait(30)
            seen.append(reason)

        store.open(announce, lambda session, left: None)
        key, _ = store.add("Luca", 0.05)
        timer = store.sessions[key].timer
        assert begun.wait(30)
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

    def test_a_timer_tells_the_seconds_of_the_countdown_that_is_under_way(self):
        store, policy = MemoryStore(thread=False), Policy()
        key, _ = store.add("Luca", 10, policy)
        timer = store.get(key).timer
        assert timer.interval == 10
        store.restart(key, 20, policy)
        assert timer.interval == 20
        assert store.get(key).timer is timer

    @pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 10**12])
    def test_a_timeout_that_no_timer_can_hold_is_refused(self, timeout):
        """Whoever wrote it into `settings` by hand."""
        store, policy = MemoryStore(thread=False), Policy()
        key, _ = store.add("Luca", 10, policy)
        store.restart(key, 10, policy)
        for call in (lambda: store.add("Luca", timeout, policy), lambda: store.restart(key, timeout, policy)):
            with pytest.raises(ValueError, match="holds at most"):
                call()
        assert store.time_left(key) <= 10
        assert list(store.sessions) == [key]

    def test_a_subclass_with_a_look_of_its_own_is_asked_each_time(self):
        class Strict(MemoryStore):
            def get(self, key):
                return None

        manager = SessionManager(store=Strict(thread=False))
        manager.on("error", lambda *rejection: None)
        key = manager.loadNewSession("Luca")
        assert manager.checkSessionStatus(key) is False
        assert manager.getUsernameFromSessionKey(key) is False
        assert manager.getSessionDetails(key) is False
        assert manager.getSessionData(key) is False

    def test_a_key_with_a_hash_that_fails_is_one_case_too(self):
        class Odd:
            def __hash__(self):
                raise ZeroDivisionError

        store = MemoryStore(thread=False)
        assert store.get(Odd()) is None
        assert store.restart(Odd(), 10) is None
        assert store.set_data(Odd(), 1) is False
        assert store.remove(Odd()) is None

    def test_a_store_that_lacks_a_method_fails_at_once_and_says_which(self):
        class Half(Store):
            @property
            def sessions(self):
                return {}

        with pytest.raises(TypeError, match=r"abstract.*add.*remove"):
            Half()
        with pytest.raises(TypeError, match="a Store, got"):
            SessionManager(store=object())

    def test_it_can_be_opened_once(self):
        store = MemoryStore(thread=False)
        store.open(lambda session, reason: None, lambda session, left: None)
        with pytest.raises(SessionError, match="before"):
            store.open(lambda session, reason: None, lambda session, left: None)

    @pytest.mark.parametrize("policy", [Policy(), Policy(warning=5)], ids=["plain", "with a warning"])
    def test_a_session_that_was_removed_is_freed_without_the_collector(self, policy):
        """A cycle between a session and its timer would keep a million of them until the next collection."""

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

    def test_what_it_lets_go_of_when_it_closes_is_let_go_of_without_its_lock(self):
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

    def test_the_time_left_is_that_of_a_timer_that_runs(self):
        """While another thread gives the session a new timer."""
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

    def test_a_finalizer_of_old_data_may_call_the_store_from_another_thread(self):
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

    def test_what_has_ended_leaves_nothing_behind(self):
        """No former key, no entry of its user, no alarm."""
        store = MemoryStore(now=lambda: seconds, thread=False)
        store.open(lambda session, reason: None, lambda session, left: None)
        seconds = 0.0

        def ten_thousand_sessions():
            nonlocal seconds
            for number in range(10_000):
                key = store.add(f"user {number}", 10, Policy(warning=3, max_sessions=2))[0]
                for overlap in (5, 1000, 2):
                    key = store.renew_key(key, overlap)[1]
                if number % 2:
                    store.remove(key)
            seconds += 10
            store.run_due()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first = ten_thousand_sessions()
            assert ten_thousand_sessions() < first + 100_000
        finally:
            tracemalloc.stop()

    def test_nothing_is_evicted_for_a_session_that_cannot_be(self, monkeypatch):
        """No thread to be had is the failure that a login can meet."""
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
