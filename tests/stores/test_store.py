"""The contract of every store: one suite, run over each."""

from __future__ import annotations

import threading
import time
from itertools import permutations
from typing import Any

import pytest
from threads import run_together

from users_session_manager import Session, SessionError, TooManySessions
from users_session_manager.keys import new_key
from users_session_manager.policy import OwnLimits, Policy
from users_session_manager.stores.base import MAX_FORMER_KEYS, Callbacks

pytestmark = pytest.mark.parametrize("store_kind", ["memory", "redis", "cluster", "sqlite", "postgresql"])


class Case:
    """A store in a time that is turned by hand, and what it has announced."""

    def __init__(self, store: Any) -> None:
        self.seconds = 1000.0
        self.store = store(now=lambda: self.seconds, thread=False)
        self.ended: list[Session] = []
        self.warned: list[tuple[str, float]] = []
        self.store.open(Callbacks(self.hear, lambda session, left: self.warned.append((session.key, left))))

    def hear(self, session: Session, reason: str) -> None:
        assert reason == "expired"
        self.ended.append(session)

    def turn(self, seconds: float) -> None:
        self.seconds += seconds

    def settle(self) -> None:
        """Let the store announce what has expired, and what is about to."""
        self.store.run_due()

    def add(self, username: str = "Luca", timeout: float = 10, **options: object) -> str:
        """Add a session for which none is evicted; return its key."""
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


class Odd:
    def __hash__(self):
        raise ZeroDivisionError


def never_called(data):
    raise AssertionError("this was not to be called")


NOT_LIVE = [None, [], {}, 1, float("nan"), Odd(), b"", "", "unknown", "x" * 10**6, "\ud800", new_key()]


def test_add(store, case):
    """A session that is added is found."""
    before = time.time()
    key = case.add("Luca", 10)
    found = store.get(key)
    assert isinstance(found, Session)
    assert (found.username, found.userId, found.key) == ("Luca", "Luca", key)
    assert (found.data, found.timeout, found.formerKeys) == (None, None, ())
    assert before - 1 <= found.createdAt == found.authenticatedAt <= time.time() + 1
    assert isinstance(found.timer, threading.Timer)
    assert list(store.sessions) == [key]


def test_add_options(store, case):
    """Data and a timeout of its own are there from the start."""
    key = case.add("Luca", 5, data={"a": [1]}, own=OwnLimits(timeout=20))
    found = store.get(key)
    assert (found.data, found.timeout) == ({"a": [1]}, 20)


def test_bad_key(store, case):
    """A key that is unknown, malformed or no text at all is one case."""
    for key in NOT_LIVE:
        kept = case.add()
        assert store.get(key) is None
        assert store.restart(key, 10) is None
        assert store.time_left(key) is None
        assert store.set_data(key, 1) is False
        assert store.update_data(key, never_called) == (False, None)
        assert store.renew_key(key, 10) is None
        assert store.remove(key) is None
        timer = store.renew_timer(key, 1)
        assert timer.is_alive()
        case.turn(1)
        case.settle()
        assert case.ended == []
        assert list(store.sessions) == [kept]
        assert [session.key for session in store.remove_user("Luca", key)] == [kept]


def test_deadline(store, case):
    """A session is live until the instant of its deadline."""
    key = case.add("Luca", 10)
    case.turn(9.5)
    assert store.get(key)
    assert store.time_left(key) == pytest.approx(0.5)
    case.turn(0.5)
    assert store.get(key) is None
    assert store.restart(key, 10) is None
    assert store.set_data(key, 1) is False
    assert store.update_data(key, never_called) == (False, None)
    assert store.renew_key(key, 10) is None
    assert store.remove(key) is None
    assert store.of_user("Luca") == []
    assert store.remove_user("Luca") == []
    assert store.clear() == []
    assert store.usernames() == []
    assert store.time_left(key) is None


def test_expired_once(store, case):
    """An expiry is announced once, in the order of the deadlines."""
    first, second = case.add("Luca", 10), case.add("Luca", 5)
    case.turn(10)
    case.settle()
    case.settle()
    assert case.ended_keys() == [second, first]
    assert dict(store.sessions) == {}


def test_expired_order(store, case, store_kind):
    """Sessions of different users are announced in the order of their deadlines, but for those on several nodes."""
    users = ["Luca", "Fabio", "Gino", "Anna", "Marco", "Zoë", "Rita", "Ugo"]
    keys = [case.add(user, 20 - number) for number, user in enumerate(users)]
    case.turn(20)
    case.settle()
    assert sorted(case.ended_keys()) == sorted(keys)
    if store_kind != "cluster":
        assert case.ended_keys() == keys[::-1]


def test_not_early(case):
    """Nothing is announced early."""
    case.add("Luca", 10)
    case.turn(9.9)
    case.settle()
    assert case.ended == []


def test_restart(store, case):
    """A restart moves the deadline either way."""
    key = case.add("Luca", 10)
    case.turn(9)
    assert store.restart(key, 10).key == key
    case.turn(9)
    case.settle()
    assert store.restart(key, 2).key == key
    case.turn(2)
    case.settle()
    assert case.ended_keys() == [key]


def test_new_timer(store, case):
    """A new timer takes the place of the old one."""
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


def test_data(store, case):
    """Data stays with the session."""
    key = case.add()
    assert store.set_data(key, {"a": [1, 2]}) is True
    assert store.get(key).data == {"a": [1, 2]}
    assert store.remove(key).data == {"a": [1, 2]}


def test_remove(store, case):
    """A session that is removed is returned once and does not expire."""
    key = case.add("Luca", 10)
    assert store.remove(key).key == key
    assert store.remove(key) is None
    case.turn(10)
    case.settle()
    assert case.ended == []


def test_clear(store, case):
    """`clear` takes the live ones out, in the order of creation."""
    gone = case.add("Gino", 5)
    keys = [case.add("Luca", 10), case.add("Fabio", 10)]
    case.turn(5)
    assert store.usernames() == ["Luca", "Fabio"]
    assert [session.key for session in store.clear()] == keys
    assert store.clear() == []
    case.settle()
    assert case.ended_keys() == [gone]


def test_close(store, case):
    """Closed, it has no sessions and takes none."""
    key = case.add()
    store.renew_key(key, 10)
    store.close()
    store.close()
    assert store.get(key) is None
    assert store.update_data(key, never_called) == (False, None)
    assert store.usernames() == []
    assert store.of_user("Luca") == []
    with pytest.raises(SessionError, match="closed"):
        store.add("Luca", 10)


def test_repr(store, case):
    """The `repr` of the sessions shows no key."""
    key = case.add()
    assert key.partition("_")[2] not in repr(store.sessions)


class TestUpdateData:
    def test_change(self, store, case):
        """The result of `change` is stored and returned; it prolongs nothing."""
        key = case.add("Luca", 10)
        case.turn(4)
        assert store.update_data(key, lambda data: [data]) == (True, [None])
        assert store.update_data(key, lambda data: [*data, {"a": 1}]) == (True, [None, {"a": 1}])
        assert store.get(key).data == [None, {"a": 1}]
        assert store.update_data(key, lambda data: None) == (True, None)
        assert store.get(key).data is None
        assert store.time_left(key) == 6

    def test_in_place(self, store, case):
        """`change` may change what it is given."""
        key = case.add("Luca", data={"cart": ["lasagne"]})

        def add(data):
            data["cart"].append("pesto")
            return data

        assert store.update_data(key, add) == (True, {"cart": ["lasagne", "pesto"]})
        assert store.get(key).data == {"cart": ["lasagne", "pesto"]}

    def test_error(self, store, case):
        """An exception of `change` passes through, and the data is as before, though it was changed in place."""
        key = case.add("Luca", data=["lasagne"])

        def fail(data):
            data.append("pesto")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.update_data(key, fail)
        assert store.get(key).data == ["lasagne"]

    def test_again(self, store, case):
        """If the data is replaced while `change` runs, `change` is called again with what is there now."""
        key, seen = case.add("Luca", data=["lasagne"]), []
        others = [["pesto"], None]

        def add(data):
            seen.append([*(data or [])])
            if others:
                other = threading.Thread(target=store.set_data, args=(key, others.pop(0)))
                other.start()
                other.join(30)
            return [*(data or []), "focaccia"]

        assert store.update_data(key, add) == (True, ["focaccia"])
        assert store.get(key).data == ["focaccia"]
        assert seen == [["lasagne"], ["pesto"], []]

    def test_other_session(self, store, case):
        """`change` may call the store, and what happens to other sessions is no reason to call it again."""
        key, other, seen = case.add("Luca"), case.add("Luca"), []

        def change(data):
            seen.append(data)
            store.set_data(other, 1)
            store.restart(key, 10)
            return store.update_data(other, lambda number: number + 1)[1]

        assert store.update_data(key, change) == (True, 2)
        assert store.get(other).data == 2
        assert seen == [None]

    @pytest.mark.parametrize("end", ["remove", "expire", "renew", "clear"])
    def test_ended(self, store, case, end):
        """If the key becomes that of no live session while `change` runs, its answer is not stored."""
        key, kept = case.add("Luca", 10, data=["lasagne"]), []
        ends = {
            "remove": lambda: kept.append(store.remove(key)),
            "expire": lambda: case.turn(10),
            "renew": lambda: kept.append(store.get(store.renew_key(key, 0)[1])),
            "clear": lambda: kept.extend(store.clear()),
        }

        def change(data):
            ends[end]()
            return [*data, "pesto"]

        assert store.update_data(key, change) == (False, None)
        case.settle()
        assert [session.data for session in kept or case.ended] == [["lasagne"]]
        assert len(store.sessions) == (end == "renew")

    def test_renewed(self, store, case):
        """A former key in its overlap is as good as the present one, also if it is renewed while `change` runs."""
        first = case.add("Luca", 100, data=0)
        second = store.renew_key(first, 5)[1]
        assert store.update_data(first, lambda data: data + 1) == (True, 1)

        def change(data):
            case.third = store.renew_key(first, 5)[1]
            return data + 1

        assert store.update_data(second, change)[0] is True
        assert store.get(case.third).data == 2

    def test_at_once(self, store, case):
        """No simultaneous change is lost."""
        key = case.add("Luca", data={"count": 0})

        def count(data):
            data["count"] += 1
            return data

        def many(number):
            for _ in range(25):
                assert store.update_data(key, count)[0]

        run_together(many, 8)
        assert store.get(key).data == {"count": 200}


class TestOneUser:
    def test_list(self, store, case):
        """A user's live sessions are listed oldest first, with the time they have left."""
        case.add("Luca", 5)
        kept = [case.add("Luca", 20), case.add("Luca", 15)]
        case.add("Fabio", 30)
        case.turn(5)
        assert [(session.key, left) for session, left in store.of_user("Luca")] == [(kept[0], 15), (kept[1], 10)]
        assert store.of_user("Gino") == []

    def test_remove_all(self, store, case):
        """All of a user's sessions are removed, and those of no other user."""
        keys = [case.add("Luca"), case.add("Luca")]
        other = case.add("Fabio")
        assert [session.key for session in store.remove_user("Luca")] == keys
        assert store.remove_user("Luca") == []
        assert store.usernames() == ["Fabio"]
        case.turn(10)
        case.settle()
        assert case.ended_keys() == [other]

    def test_remove_others(self, store, case):
        """All but one are removed."""
        keys = [case.add("Luca") for _ in range(3)]
        assert [session.key for session in store.remove_user("Luca", keys[1])] == [keys[0], keys[2]]
        assert [session.key for session, _ in store.of_user("Luca")] == [keys[1]]

    def test_other_user(self, store, case):
        """The key of another user's session spares none."""
        other = case.add("Fabio")
        case.add("Luca")
        assert len(store.remove_user("Luca", other)) == 1
        assert store.usernames() == ["Fabio"]

    def test_spared_by_former_key(self, store, case):
        """A session is spared by a key in its overlap."""
        old = case.add("Luca")
        case.add("Luca")
        kept = store.renew_key(old, 5)[1]
        assert len(store.remove_user("Luca", old)) == 1
        assert [session.key for session, _ in store.of_user("Luca")] == [kept]

    def test_any_order(self, store, case):
        """They are found in whatever order they end."""
        for order in permutations(range(4)):
            keys = [case.add("Luca") for _ in range(4)]
            for index in order:
                store.remove(keys[index])
                keys[index] = None
                assert [session.key for session, _ in store.of_user("Luca")] == [key for key in keys if key]
        again = case.add("Luca")
        assert [session.key for session, _ in store.of_user("Luca")] == [again]


class TestUserId:
    """A session belongs to its user id, whatever the username is."""

    def test_list(self, store, case):
        """The sessions of a user id are listed, those with its username are not."""
        keys = [case.add("Luca", user_id="7"), case.add("Luca Rossi", user_id="7"), case.add("7")]
        other = case.add("Luca", user_id="8")
        by_name = case.add("Luca")
        assert [session.key for session, _ in store.of_user("7")] == keys
        assert [session.username for session, _ in store.of_user("7")] == ["Luca", "Luca Rossi", "7"]
        assert [session.key for session, _ in store.of_user("8")] == [other]
        assert [session.key for session, _ in store.of_user("Luca")] == [by_name]
        assert store.of_user("Luca Rossi") == []
        assert store.usernames() == ["Luca", "Luca Rossi", "7", "Luca", "Luca"]

    def test_remove(self, store, case):
        """The sessions of a user id are removed, those with its username are not."""
        keys = [case.add("Luca", user_id="7"), case.add("Luca Rossi", user_id="7")]
        other, by_name = case.add("Luca", user_id="8"), case.add("Luca")
        assert [session.key for session in store.remove_user("7", keys[0])] == [keys[1]]
        assert len(store.remove_user("7", other)) == 1
        assert store.remove_user("Luca", other)[0].key == by_name
        assert list(store.sessions) == [other]

    @pytest.mark.parametrize("overflow", ["evict", "reject"])
    def test_cap(self, store, case, overflow):
        """A cap goes by the user id; the error shows the username."""
        policy = Policy(max_sessions=1, overflow=overflow)
        key = case.add("Luca", policy=policy, user_id="7")
        case.add("Luca", policy=policy, user_id="8")
        case.add("Luca", policy=policy)
        if overflow == "evict":
            evicted = store.add("Gino", 10, policy, user_id="7")[1]
            assert [(session.key, session.username, session.userId) for session in evicted] == [(key, "Luca", "7")]
        else:
            with pytest.raises(TooManySessions, match="'Gino' has 1 sessions, and may have 1"):
                store.add("Gino", 10, policy, user_id="7")
        assert len(store.sessions) == 3

    @pytest.mark.parametrize("user_id", ["7", "Zoë \ud800", "a b{c}:d,e%\x00\n", "x" * 1000])
    def test_stays(self, store, case, user_id):
        """It is that of the session in every answer, until its end."""
        key = case.add("Luca", user_id=user_id)
        key = store.renew_key(key, 0)[1]
        assert store.get(key).userId == store.restart(key, 10).userId == store.sessions[key].userId == user_id
        assert [session.userId for session, _ in store.of_user(user_id)] == [user_id]
        ended = [store.remove(key)]
        case.add("Luca", user_id=user_id)
        ended += store.remove_user(user_id)
        case.add("Luca", user_id=user_id)
        ended += store.clear()
        case.add("Luca", user_id=user_id)
        case.turn(10)
        case.settle()
        assert [(session.username, session.userId) for session in [*ended, *case.ended]] == [("Luca", user_id)] * 4


class TestSecurityStamp:
    """A store keeps the security stamp of a session, until a renewal or `set_stamp` changes it."""

    def test_set(self, store, case):
        """It is replaced at once, in nothing but a live session."""
        keys = [case.add("Luca", security_stamp=stamp) for stamp in ("a", None, "b")]
        store.remove(keys[2])
        assert [store.set_stamp(key, "new") for key in (*keys, "x", None, [])] == [
            True,
            True,
            False,
            False,
            False,
            False,
        ]
        assert [store.get(key).securityStamp for key in keys[:2]] == ["new", "new"]
        former, present, _ = store.renew_key(keys[0], 10)
        assert store.set_stamp(former, "") is True
        assert store.get(present).securityStamp == ""

    @pytest.mark.parametrize("stamp", [None, "", "7", 'Zoë \ud800 "\\', "a b{c}:d,e%\x00\n", "x" * 1000])
    def test_stays(self, store, case, stamp):
        """It is that of the session in every answer, until its end."""
        key = case.add("Luca", security_stamp=stamp)
        key = store.renew_key(key, 0)[1]
        store.set_data(key, {"a": 1})
        store.update_data(key, lambda data: {"b": 2})
        found = [store.get(key), store.restart(key, 10), store.sessions[key], store.of_user("Luca")[0][0]]
        assert [session.securityStamp for session in found] == [stamp] * 4
        ended = [store.remove(key)]
        case.add("Luca", security_stamp=stamp)
        ended += store.remove_user("Luca")
        case.add("Luca", security_stamp=stamp)
        ended += store.clear()
        case.add("Luca", security_stamp=stamp)
        ended += store.add("Luca", 10, Policy(max_sessions=1), security_stamp=stamp)[1]
        case.turn(10)
        case.settle()
        assert [session.securityStamp for session in [*ended, *case.ended]] == [stamp] * 5

    def test_renewal(self, store, case):
        """A renewal replaces it, for the former key in its overlap as well; without one it stays."""
        other, old = case.add("Luca", security_stamp="other"), case.add("Luca", security_stamp="old")
        new = store.renew_key(old, 5, "new")[1]
        assert [store.get(key).securityStamp for key in (old, new, other)] == ["new", "new", "other"]
        new = store.renew_key(old, 5)[1]
        assert store.get(new).securityStamp == "new"
        new = store.renew_key(new, 5, "")[1]
        assert store.get(new).securityStamp == ""
        assert store.renew_key(new_key(), 5, "new") is None

    def test_first_by_renewal(self, store, case):
        """A session that was created without one gets it in a renewal."""
        key = store.renew_key(case.add("Luca"), 0, "new")[1]
        assert store.get(key).securityStamp == "new"


class TestCap:
    def test_evict(self, store, case):
        """The oldest sessions are evicted."""
        keys = [case.add("Luca") for _ in range(3)]
        other = case.add("Fabio")
        newest, evicted = store.add("Luca", 10, Policy(max_sessions=2))
        assert [session.key for session in evicted] == keys[:2]
        assert [session.key for session, _ in store.of_user("Luca")] == [keys[2], newest]
        assert store.get(other)
        case.turn(10)
        case.settle()
        assert sorted(case.ended_keys()) == sorted([keys[2], newest, other])

    def test_reject(self, store, case):
        """Or the login is refused, and nothing changes."""
        policy = Policy(max_sessions=1, overflow="reject")
        key = case.add("Luca", policy=policy)
        with pytest.raises(TooManySessions, match="'Luca' has 1 sessions, and may have 1"):
            store.add("Luca", 10, policy)
        case.add("Fabio", policy=policy)
        assert list(store.sessions) == [key, *list(store.sessions)[1:]]
        assert store.usernames() == ["Luca", "Fabio"]

    def test_expired(self, store, case):
        """A session that has expired does not count, though its end is not announced yet."""
        for user, overflow in (("Luca", "evict"), ("Fabio", "reject")):
            gone = case.add(user, 5)
            case.turn(5)
            key = case.add(user, policy=Policy(max_sessions=1, overflow=overflow))
            assert [session.key for session, _ in store.of_user(user)] == [key]
            case.settle()
            assert case.ended_keys() == [gone]
            case.ended.clear()

    @pytest.mark.parametrize("overflow", ["evict", "reject"])
    def test_newer_expired(self, store, case, overflow):
        """A newer session that has expired leaves room for the older ones, of which none is evicted."""
        keys = [case.add("Luca") for _ in range(2)]
        gone = case.add("Luca", 5)
        case.turn(5)
        keys.append(case.add("Luca", policy=Policy(max_sessions=3, overflow=overflow)))
        assert [session.key for session, _ in store.of_user("Luca")] == keys
        case.settle()
        assert case.ended_keys() == [gone]


class TestLifetime:
    def test_no_restart(self, store, case):
        """No restart, new timer or renewal prolongs it."""
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

    def test_earliest(self, case):
        """The earliest end wins."""
        for timeout, own, lifetime, wins in [(10, None, 20, 10), (20, None, 10, 10), (10, 30, 20, 20)]:
            key = case.add("Luca", timeout, policy=Policy(lifetime=lifetime), own=OwnLimits(timeout=own))
            assert case.store.time_left(key) == wins

    def test_shorter(self, store, case):
        """A shorter one reaches a session at its restart."""
        key = case.add("Luca", policy=Policy(lifetime=100))
        case.turn(5)
        assert store.restart(key, 10, Policy(lifetime=8))
        assert store.time_left(key) == 3

    def test_too_old(self, store, case):
        """A shorter one ends a session that is too old at its restart."""
        key = case.add("Luca")
        case.turn(9)
        assert store.get(key)
        assert store.restart(key, 10, Policy(lifetime=8)) is None
        assert store.get(key) is None
        case.settle()
        assert case.ended_keys() == [key]

    def test_longer(self, store, case):
        """A longer one prolongs nothing."""
        key = case.add("Luca", policy=Policy(lifetime=15))
        case.turn(9)
        for policy in (Policy(lifetime=100), Policy()):
            assert store.restart(key, 10, policy)
            assert store.time_left(key) == 6


class TestOwnTimeout:
    def test_restart(self, store, case):
        """A restart begins it again."""
        key = case.add("Luca", 5, own=OwnLimits(timeout=50))
        case.turn(40)
        assert store.restart(key, 10).timeout == 50
        assert store.time_left(key) == 50
        store.renew_timer(key, 10)
        assert store.time_left(key) == 50


class TestOwnLifetime:
    def test_in_place(self, store, case):
        """It takes the place of the manager's, whatever that is."""
        for policy in (Policy(), Policy(lifetime=5), Policy(lifetime=1000)):
            key = case.add("Luca", policy=policy, own=OwnLimits(lifetime=25))
            for _ in range(2):
                case.turn(9)
                assert store.restart(key, 10, policy)
            assert store.time_left(key) == 7
            key = store.renew_key(key, 0)[1]
            case.turn(7)
            assert store.restart(key, 10, policy) is None
            case.settle()
            assert case.ended_keys() == [key]
            case.ended.clear()


class TestRenewal:
    def test_same_session(self, store, case):
        """The session is the same under another key."""
        old = case.add("Luca", data={"a": 1})
        created = store.get(old).createdAt
        case.turn(4)
        replaced, new, _ = store.renew_key(old, 0)
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

    def test_no_overlap(self, store, case):
        """Without an overlap the old key is dead at once."""
        old = case.add()
        store.renew_key(old, 0)
        assert store.get(old) is None
        assert store.restart(old, 10) is None
        assert store.remove(old) is None
        assert store.renew_key(old, 0) is None

    def test_overlap(self, store, case):
        """With one it is good until the instant when that is over."""
        old = case.add("Luca", 100)
        new = store.renew_key(old, 5)[1]
        case.turn(4.5)
        assert store.get(old).key == store.get(new).key == new
        assert new in store.sessions
        assert old not in store.sessions
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

    def test_twice(self, store, case):
        """A renewed session is renewed again, and each key is good for its own overlap."""
        first = case.add("Luca", 100)
        second = store.renew_key(first, 10)[1]
        case.turn(5)
        replaced, third, _ = store.renew_key(second, 10)
        assert replaced == second
        assert [store.get(key).key for key in (first, second, third)] == [third] * 3
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, True, True]
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, False, True]
        assert store.get(third).formerKeys == (first, second)

    def test_no_longer(self, store, case):
        """No key outlives the one that replaced it."""
        first = case.add("Luca", 100)
        second = store.renew_key(first, 50)[1]
        third = store.renew_key(second, 5)[1]
        case.turn(5)
        assert [store.get(key) is not None for key in (first, second, third)] == [False, False, True]
        fourth = store.renew_key(third, 50)[1]
        fifth = store.renew_key(fourth, 0)[1]
        assert [store.get(key) is not None for key in (third, fourth, fifth)] == [False, False, True]

    def test_forgotten(self, store, case):
        """A renewal forgets the former keys whose overlap is over; the key that it replaces is there in any case."""
        first = case.add("Luca", 100)
        second = store.renew_key(first, 5)[1]
        case.turn(4)
        third = store.renew_key(second, 5)[1]
        assert store.get(third).formerKeys == (first, second)
        case.turn(1)
        fourth = store.renew_key(third, 5)[1]
        assert store.get(fourth).formerKeys == (second, third)
        fifth = store.renew_key(fourth, 0)[1]
        assert store.get(fifth).formerKeys == (fourth,)
        sixth = store.renew_key(fifth, 5)[1]
        assert store.get(sixth).formerKeys == (fifth,)
        assert store.remove(sixth).formerKeys == (fifth,)

    def test_bounded(self, store, case):
        """One former key more than are kept ends the overlap of the oldest early."""
        keys = [case.add("Luca", 100)]
        for number in range(3 * MAX_FORMER_KEYS):
            case.turn(1)
            replaced, new, _ = store.renew_key(keys[-1], 1000)
            assert replaced == keys[-1]
            keys.append(new)
            good = keys[-MAX_FORMER_KEYS - 1 :]
            assert store.get(new).formerKeys == tuple(good[:-1])
            assert [store.get(key) is not None for key in keys] == [key in good for key in keys], number
        assert store.restart(keys[0], 100) is None
        assert [session.formerKeys for session in store.clear()] == [tuple(keys[-MAX_FORMER_KEYS - 1 : -1])]
        assert not any(map(store.get, keys))

    def test_former_key(self, store, case):
        """A key in its overlap can be renewed like the present one."""
        first = case.add()
        second = store.renew_key(first, 5)[1]
        replaced, third, _ = store.renew_key(first, 5)
        assert replaced == second
        assert {store.get(key).key for key in (first, second, third)} == {third}

    def test_end(self, store, case):
        """The end of the session is that of all its keys."""
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

    def test_order(self, store, case):
        """The order of creation stays."""
        keys = [case.add(name, 100) for name in ("Luca", "Fabio", "Luca", "Gino")]
        new = store.renew_key(keys[0], 0)[1]
        assert store.usernames() == ["Luca", "Fabio", "Luca", "Gino"]
        assert [session.key for session, _ in store.of_user("Luca")] == [new, keys[2]]
        assert [session.key for session in store.clear()] == [new, *keys[1:]]

    def test_timer(self, store, case):
        """A timer from before the renewal still ends the session."""
        key = case.add("Luca", 10)
        store.renew_timer(key, 20)
        new = store.renew_key(key, 0)[1]
        case.turn(20)
        case.settle()
        assert case.ended_keys() == [new]


class TestWarning:
    POLICY = Policy(warning=3)

    def test_once(self, case):
        """It comes that long before the end, and once."""
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

    def test_same_deadline(self, store, case):
        """A restart that moves no deadline keeps the time of the warning, unless warnings are off by then."""
        limited = OwnLimits(lifetime=20)
        key, silent = (case.add(name, 100, policy=self.POLICY, own=limited) for name in ("Luca", "Gino"))
        for warning in (6, 5):
            assert store.restart(key, 100, Policy(warning=warning))
        assert store.restart(silent, 100)
        case.turn(16)
        case.settle()
        assert case.warned == []
        case.turn(1)
        case.settle()
        assert case.warned == [(key, 3)]
        assert store.restart(silent, 100, Policy(warning=2))
        case.turn(1)
        case.settle()
        assert case.warned == [(key, 3), (silent, 2)]

    def test_each_countdown(self, store, case):
        """It comes again with each countdown."""
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

    def test_late(self, case):
        """Late, it says what is left; after the end it does not come."""
        key = case.add("Luca", 10, policy=self.POLICY)
        case.turn(9)
        case.settle()
        assert case.warned == [(key, 1)]
        other = case.add("Luca", 10, policy=self.POLICY)
        case.turn(10)
        case.settle()
        assert case.ended_keys() == [key, other]
        assert len(case.warned) == 1

    def test_shorter(self, case):
        """A countdown that is shorter warns at once."""
        key = case.add("Luca", 2, policy=self.POLICY)
        case.settle()
        assert case.warned == [(key, 2)]

    def test_lifetime(self, store, case):
        """The last countdown of a lifetime warns once, however often it is restarted."""
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

    def test_ended(self, store, case):
        """It does not come for a session that has ended."""
        keys = [case.add("Luca", 10, policy=self.POLICY) for _ in range(2)]
        store.remove(keys[0])
        store.clear()
        case.turn(8)
        case.settle()
        assert case.warned == []

    def test_renewed(self, store, case):
        """It comes with the present key."""
        key = case.add("Luca", 10, policy=self.POLICY)
        new = store.renew_key(key, 0)[1]
        case.turn(7)
        case.settle()
        assert case.warned == [(new, 3)]

    def test_switched(self, store, case):
        """Switched on or off, it applies to the countdowns that begin then."""
        key = case.add("Luca", 10)
        case.turn(8)
        case.settle()
        assert case.warned == []
        store.restart(key, 10, self.POLICY)
        store.restart(key, 10)
        case.turn(8)
        case.settle()
        assert case.warned == []
