"""What every store must do: one suite, run over each."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from users_session_manager import MemoryStore, Session, SessionError
from users_session_manager.keys import new_key


class MemoryCase:
    """A MemoryStore on a clock turned by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.store = MemoryStore(now=lambda: self.seconds, thread=False)

    def turn(self, seconds: float) -> None:
        self.seconds += seconds

    def settle(self) -> None:
        """Let the store hand back what has run out."""
        self.store.clock.run_due()


@pytest.fixture(params=[MemoryCase])
def case(request):
    case = request.param()
    case.ended = []
    case.store.open(case.ended.append)
    yield case
    case.store.close()


@pytest.fixture
def store(case):
    return case.store


NOT_LIVE = [None, [], {}, 1, b"", "", "unknown", new_key()]


def test_what_is_added_is_found(store):
    key = new_key()
    before = time.time()
    session = store.add(key, "Luca", 10)
    assert isinstance(session, Session)
    found = store.get(key)
    assert (found.username, found.key, found.data) == ("Luca", key, None)
    assert before - 1 <= found.createdAt <= time.time() + 1
    assert isinstance(found.timer, threading.Timer)
    assert list(store.sessions) == [key]


@pytest.mark.parametrize("key", NOT_LIVE, ids=repr)
def test_what_is_not_there_is_one_case(store, case, key):
    kept = store.add(new_key(), "Luca", 10)
    assert store.get(key) is None
    assert store.restart(key, 10) is False
    assert store.time_left(key) is None
    assert store.set_data(key, 1) is False
    assert store.remove(key) is None
    timer = store.renew_timer(key, 1)
    assert timer.is_alive()
    case.turn(1)
    case.settle()
    assert case.ended == []
    assert list(store.sessions) == [kept.key]


def test_it_is_live_until_the_instant_of_its_deadline(store, case):
    key = store.add(new_key(), "Luca", 10).key
    case.turn(9.5)
    assert store.get(key)
    assert store.time_left(key) == pytest.approx(0.5)
    case.turn(0.5)
    assert store.get(key) is None
    assert store.restart(key, 10) is False
    assert store.set_data(key, 1) is False
    assert store.remove(key) is None
    assert store.clear() == []
    assert store.usernames() == []
    assert store.time_left(key) is None


def test_what_runs_out_is_handed_back_once(store, case):
    first = store.add(new_key(), "Luca", 10)
    second = store.add(new_key(), "Fabio", 5)
    case.turn(10)
    case.settle()
    case.settle()
    assert [session.key for session in case.ended] == [second.key, first.key]
    assert dict(store.sessions) == {}


def test_nothing_is_handed_back_early(store, case):
    store.add(new_key(), "Luca", 10)
    case.turn(9.9)
    case.settle()
    assert case.ended == []


def test_a_restart_moves_the_deadline_either_way(store, case):
    key = store.add(new_key(), "Luca", 10).key
    case.turn(9)
    assert store.restart(key, 10) is True
    case.turn(9)
    case.settle()
    assert store.restart(key, 2) is True
    case.turn(2)
    case.settle()
    assert [session.key for session in case.ended] == [key]


def test_a_new_timer_takes_the_old_ones_place(store, case):
    key = store.add(new_key(), "Luca", 10).key
    timer = store.renew_timer(key, 20)
    assert isinstance(timer, threading.Timer)
    assert timer.is_alive()
    case.turn(10)
    case.settle()
    assert store.get(key)
    case.turn(10)
    case.settle()
    assert [session.key for session in case.ended] == [key]


def test_data_stays_with_the_session(store):
    key = store.add(new_key(), "Luca", 10).key
    assert store.set_data(key, {"a": [1, 2]}) is True
    assert store.get(key).data == {"a": [1, 2]}
    assert store.remove(key).data == {"a": [1, 2]}


def test_what_is_taken_out_is_returned_once_and_not_handed_back(store, case):
    key = store.add(new_key(), "Luca", 10).key
    assert store.remove(key).key == key
    assert store.remove(key) is None
    case.turn(10)
    case.settle()
    assert case.ended == []


def test_clear_takes_the_live_ones_in_the_order_of_creation(store, case):
    gone = store.add(new_key(), "Gino", 5)
    keys = [store.add(new_key(), name, 10).key for name in ("Luca", "Fabio")]
    case.turn(5)
    assert store.usernames() == ["Luca", "Fabio"]
    assert [session.key for session in store.clear()] == keys
    assert store.clear() == []
    case.settle()
    assert [session.key for session in case.ended] == [gone.key]


def test_closed_it_knows_nobody_and_takes_nobody(store):
    key = store.add(new_key(), "Luca", 10).key
    store.close()
    store.close()
    assert store.get(key) is None
    assert store.usernames() == []
    with pytest.raises(SessionError, match="closed"):
        store.add(new_key(), "Luca", 10)


def test_the_repr_of_the_sessions_shows_no_key(store):
    key = store.add(new_key(), "Luca", 10).key
    assert key.partition("_")[2] not in repr(store.sessions)
    assert key.partition("_")[0] in repr(store.sessions)


class TestMemoryStore:
    def test_it_can_be_opened_once(self):
        store = MemoryStore(thread=False)
        store.open(lambda session: None)
        with pytest.raises(SessionError, match="before"):
            store.open(lambda session: None)

    def test_a_session_that_was_removed_is_freed_without_the_collector(self):
        """A cycle between a session and its timer would keep a million of them until the next collection."""

        class Data:
            pass

        store = MemoryStore(thread=False)
        key = store.add(new_key(), "Luca", 3000).key
        data = Data()
        watched = weakref.ref(data)
        store.set_data(key, data)
        del data
        store.remove(key)
        assert watched() is None

    def test_what_it_lets_go_of_when_it_closes_is_let_go_of_without_its_lock(self):
        store = MemoryStore(thread=False)
        seen = []

        class Data:
            def __del__(self):
                thread = threading.Thread(target=lambda: seen.append(store.usernames()), daemon=True)
                thread.start()
                thread.join(30)

        store.set_data(store.add(new_key(), "Luca", 3000).key, Data())
        store.close()
        assert seen == [[]]

    def test_the_time_left_is_that_of_a_timer_that_runs(self):
        """While another thread gives the session a new timer."""
        store = MemoryStore(thread=False)
        key = store.add(new_key(), "Luca", 3000).key
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
        key = store.add(new_key(), "Luca", 3000).key
        seen = []

        class Data:
            def __del__(self):
                thread = threading.Thread(target=lambda: seen.append(store.restart(key, 3000)))
                thread.start()
                thread.join(30)

        store.set_data(key, Data())
        store.set_data(key, None)
        assert seen == [True]
