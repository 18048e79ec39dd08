"""The compiled module: it answers as Python does, or leaves it to Python."""

from __future__ import annotations

import copy
import gc
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from users_session_manager import MemoryStore, SessionManager, SessionRejected, at_hand
from users_session_manager.keys import new_key
from users_session_manager.stores.memory_session import MemorySession

TESTS = Path(__file__).parent
IN_MEMORY = ("contract", "events", "policy", "process", "property", "races", "secrets", "timers")
PURE_PYTHON = "USERS_SESSION_MANAGER_PURE_PYTHON"

if os.environ.get(PURE_PYTHON):
    pytest.skip("Python alone has been chosen", allow_module_level=True)
built: Any = pytest.importorskip("users_session_manager._at_hand", reason="has not been built")


@pytest.fixture(scope="module")
def pure() -> Any:
    """The module as it is where nothing has been built."""
    spec = importlib.util.spec_from_file_location("pure_at_hand", at_hand.__file__)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PURE_PYTHON, "1")
        spec.loader.exec_module(module)
    return module


def quick_methods(owner: type) -> list[str]:
    return [name for name, method in vars(owner).items() if isinstance(method, built.Quick)]


ANSWERS: dict[str, Any] = {
    "checkSessionStatus": lambda answer, session: answer is True,
    "restartSessionTimer": lambda answer, session: answer is True,
    "resumeSession": lambda answer, session: answer is session,
    "getSession": lambda answer, session: answer is session,
    "findSession": lambda answer, session: answer is session,
    "getUsernameFromSessionKey": lambda answer, session: answer == "Luca",
    "getSessionDetails": lambda answer, session: (
        list(answer.items()) == [("username", "Luca"), ("createdAt", session.createdAt), ("data", session.data)]
    ),
    "setSessionData": lambda answer, session: answer is True and session.data == "new",
    "getSessionData": lambda answer, session: answer == "old",
    "remove": lambda answer, session: answer is session and session.key not in session._store.sessions,
}
FIELDS = [name for name, member in vars(built.Record).items() if inspect.ismemberdescriptor(member)]


class Asked:
    """A method whose Python part only notes that it was called, and with what."""

    def __init__(self, name: str, manager: SessionManager, store: MemoryStore) -> None:
        self.calls: list[tuple[Any, ...]] = []

        def function(*args: Any, **options: Any) -> str:
            self.calls.append((*args, options) if options else args)
            return "Python"

        function.__name__ = name
        self.owner = store if name == "remove" else manager
        self.more = ("new",) if name == "setSessionData" else ()
        self.method = built.Quick(function).__get__(self.owner)

    def __call__(self, key: object) -> Any:
        return self.method(key, *self.more)

    def leaves_to_python(self, key: object) -> bool:
        self.calls.clear()
        sessions = self.owner.sessions
        before = [[getattr(session, name) for name in FIELDS] for session in sessions.values()]
        answer = self(key)
        after = [[getattr(session, name) for name in FIELDS] for session in sessions.values()]
        return answer == "Python" and self.calls == [(self.owner, key, *self.more)] and before == after


@pytest.fixture
def asked(request, manager, clock) -> Asked:
    return Asked(request.param, manager, clock.store)


each_method = pytest.mark.parametrize("asked", list(ANSWERS), indirect=True)
each_restart = pytest.mark.parametrize("asked", ["restartSessionTimer", "resumeSession"], indirect=True)
the_removal = pytest.mark.parametrize("asked", ["remove"], indirect=True)


def test_it_knows_these_methods_and_no_others():
    assert {*quick_methods(SessionManager), *quick_methods(MemoryStore)} == set(ANSWERS)
    with pytest.raises(ValueError, match="'deleteSession'"):
        built.Quick(SessionManager.deleteSession)
    for odd in ((), (None,), (len, len)):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            built.Quick(*odd)


@each_method
def test_a_live_session_is_answered_without_python(asked, manager, request):
    key = manager.loadNewSession("Luca", data="old")
    session = manager.sessions[key]
    assert ANSWERS[request.node.callspec.params["asked"]](asked(key), session)
    assert asked.calls == []


@each_method
def test_what_is_not_as_usual_is_left_to_python(asked, manager, clock):
    class Key(str):
        pass

    key = manager.loadNewSession("Luca", data="old")
    for odd in (new_key(), "", Key(key), None, 7, [key], key.encode()):
        assert asked.leaves_to_python(odd), odd
    for args, options in (((), {}), ((key, 1, 2), {}), ((), {"key": key}), ((key,), {"more": 1})):
        asked.calls.clear()
        assert asked.method(*args, **options) == "Python"
        assert asked.calls == [(asked.owner, *args, options) if options else (asked.owner, *args)]
    clock.seconds += 3000
    assert asked.leaves_to_python(key), "it has run out"


@each_method
def test_what_is_no_manager_has_nothing_at_hand(asked, manager):
    key = manager.loadNewSession("Luca")
    function = asked.method.__func__
    for other in (None, 7, object(), [], {key: 1}):
        assert function(other, key, *asked.more) == "Python"


@each_method
def test_nothing_is_at_hand_where_the_store_is_to_be_asked(asked, manager, clock, monkeypatch):
    key = manager.loadNewSession("Luca")
    if asked.owner is manager:
        monkeypatch.setattr(manager, "_at_hand", None)
        assert asked.leaves_to_python(key)
        del manager._at_hand
        assert asked.leaves_to_python(key)
        manager._at_hand = clock.store
    sessions, clock.store.sessions = clock.store.sessions, [key]
    assert asked(key) == "Python", "what holds the sessions is no dictionary"
    clock.store.sessions = {key: "no session"}
    assert asked(key) == "Python"
    clock.store.sessions = sessions


@each_method
def test_a_clock_that_fails_or_says_no_time_is_no_answer(asked, manager, clock, monkeypatch):
    key = manager.loadNewSession("Luca", data="old")

    def interrupted() -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock.store, "now", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(key)
    for odd in (7, None, "now"):
        monkeypatch.setattr(clock.store, "now", lambda odd=odd: odd)
        assert asked.leaves_to_python(key)


@each_restart
@pytest.mark.parametrize(
    "change",
    [
        lambda manager, key: manager.setSessionTimeOut(50),
        lambda manager, key: manager.setMaxSessionLifetime(5000),
        lambda manager, key: manager.sessions[key].timer.cancel(),
        lambda manager, key: manager._store.clock.cancel(manager.sessions[key]),
        lambda manager, key: manager.settings.clear(),
        lambda manager, key: setattr(manager, "settings", None),
        lambda manager, key: setattr(manager.sessions[key], "_limit", 1500.0),
    ],
)
def test_a_restart_that_changes_more_than_the_deadline_is_left_to_python(asked, manager, change):
    key = manager.loadNewSession("Luca")
    change(manager, key)
    assert asked.leaves_to_python(key)


@each_restart
def test_a_restart_moves_the_deadline_by_the_timeout_of_its_own(asked, manager, clock):
    plain, own = manager.loadNewSession("Luca"), manager.loadNewSession("Fabio", timeout=86400)
    clock.seconds += 100.5
    for key, timeout in ((plain, 3000), (own, 86400)):
        assert manager.getSessionTimeLeft(key) == timeout - 100.5
        asked(key)
        assert manager.getSessionTimeLeft(key) == timeout
    assert asked.calls == []


@the_removal
@pytest.mark.parametrize(
    "tie",
    [
        lambda manager, key: manager.sessions[key].timer,
        lambda manager, key: manager.getUserSessions("Luca"),
        lambda manager, key: manager.setExpiryWarning(10) and manager.restartSessionTimer(key),
        lambda manager, key: manager.sessions[key].timer.cancel(),
        lambda manager, key: setattr(manager.sessions[key], "formerKeys", (new_key(),)),
        lambda manager, key: manager.sessions[key]._place.clear(),
    ],
)
def test_a_session_that_something_is_tied_to_is_taken_out_by_python(asked, manager, tie):
    key = manager.loadNewSession("Luca")
    tie(manager, key)
    assert asked.leaves_to_python(key)


@the_removal
def test_a_session_in_the_clocks_hands_is_taken_out_by_python(asked, manager, clock):
    key = manager.loadNewSession("Luca")
    clock.turn(2999.5)
    assert not isinstance(manager.sessions[key]._place, dict), "it was to be among those that are near"
    assert asked.leaves_to_python(key)


def test_a_session_that_is_taken_out_leaves_its_slice_of_time(manager):
    key = manager.loadNewSession("Luca")
    session = manager.sessions[key]
    place = session._place
    assert session in place
    assert manager.deleteSession(key)
    assert session not in place
    assert session._steady is None, "a restart that is under way would not see that it has ended"


NEEDED = {
    "restartSessionTimer": {"timeout", "_interval", "_limit", "_steady"},
    "resumeSession": {"timeout", "_interval", "_limit", "_steady"},
    "getUsernameFromSessionKey": {"username"},
    "getSessionDetails": {"username", "createdAt", "data"},
    "getSessionData": {"data"},
    "remove": {"formerKeys", "_place", "_timer", "_warning"},
}


@each_method
def test_a_field_that_has_been_deleted_is_left_to_python(asked, manager, request):
    left = set()
    for name in FIELDS:
        key = manager.loadNewSession("Luca", data="old")
        if name in ("_deadline", "_born"):
            continue  # numbers that are always there
        delattr(manager.sessions[key], name)
        if asked(key) == "Python":
            left.add(name)
        manager._store.sessions.pop(key, None)
    assert left == NEEDED.get(request.node.callspec.params["asked"], set())


@each_method
def test_a_record_that_was_never_filled_is_no_session(asked, clock):
    key = new_key()
    clock.store.sessions[key] = MemorySession.__new__(MemorySession)
    assert asked(key) == "Python"
    del clock.store.sessions[key]


class TestRecord:
    VALUES = ("store", "Luca", "key", 1.0, 2.0, 3.0, "data")

    def test_it_has_the_fields_of_the_python_one(self, pure):
        assert sorted(FIELDS) == sorted(pure.Record.__slots__)
        ours, other = built.Record(*self.VALUES), pure.Record(*self.VALUES)
        for name in FIELDS:
            value = getattr(other, name)
            assert getattr(ours, name) == value, name
            assert type(getattr(ours, name)) is type(value), name
            setattr(ours, name, 7.5)
            assert getattr(ours, name) == 7.5
        assert not hasattr(ours, "__dict__")

    def test_it_takes_what_the_python_one_takes(self, pure):
        for record in (built.Record, pure.Record):
            for odd in ((), self.VALUES[:-1], (*self.VALUES, 1)):
                with pytest.raises(TypeError):
                    record(*odd)
            with pytest.raises(TypeError):
                record(*self.VALUES[:-1], data=1)
        with pytest.raises(TypeError):
            built.Record(*self.VALUES[:3], "when", *self.VALUES[4:])

    def test_it_can_be_filled_again(self):
        record = built.Record(*self.VALUES)
        record.__init__(*self.VALUES[:-1], "other")
        assert record.data == "other"

    def test_the_garbage_collector_sees_what_leads_back_to_it(self):
        class Data:
            pass

        for name in set(FIELDS) - {"_deadline", "_born"}:  # these are numbers whatever comes
            record, data = built.Record(*self.VALUES), Data()
            data.back = record
            setattr(record, name, data)
            gone = weakref.ref(data)
            del record, data
            gc.collect()
            assert gone() is None, name


class TestReferences:
    """Each call gives back what it took."""

    @each_method
    def test_no_call_keeps_anything(self, asked, manager, clock):
        live, keys = manager.loadNewSession("Luca", data="old"), [manager.loadNewSession("Fabio") for _ in range(1000)]
        cancelled = manager.loadNewSession("Anna")
        manager.sessions[cancelled].timer.cancel()
        removes = asked.owner is clock.store
        held = [manager.sessions[live], manager, manager._policy, manager.settings, clock.store, clock.store.sessions]
        held += [None, True, "new", "old", live, clock.seconds]

        def use() -> None:
            for key in keys if removes else [live, cancelled] * 500:
                asked(key)
            for odd in [new_key(), None, 7] * 300:
                asked(odd)
            asked.calls.clear()

        counts = [sys.getrefcount(thing) for thing in held]
        use()
        gc.collect()
        # None is counted by everything that goes on; a leak would be one a call.
        grown = [sys.getrefcount(thing) - count for thing, count in zip(held, counts, strict=True)]
        assert all(abs(more) < 200 for more in grown if not removes), grown
        assert abs(grown[0]) < 5, grown

    def test_a_session_is_freed_when_it_has_been_deleted(self, manager):
        class Data:
            pass

        data = Data()
        key = manager.loadNewSession("Luca", data=data)
        gone = weakref.ref(data)
        del data
        manager.deleteSession(key)
        assert gone() is None

    def test_a_store_that_is_dropped_is_freed_with_its_sessions(self):
        class Data:
            pass

        store, data = MemoryStore(now=lambda: 1.0, thread=False), Data()
        store.add("Luca", 3000, data=data)
        gone = weakref.ref(data)
        del store, data
        gc.collect()
        assert gone() is None


class TestMethods:
    @pytest.mark.parametrize("name", quick_methods(SessionManager))
    def test_a_method_looks_like_the_python_one(self, name, manager):
        method = getattr(SessionManager, name)
        function = method.__wrapped__
        assert inspect.isfunction(function)
        assert (method.__name__, method.__qualname__, method.__doc__, method.__module__) == (
            function.__name__,
            function.__qualname__,
            function.__doc__,
            function.__module__,
        )
        assert inspect.signature(method) == inspect.signature(function)
        assert "self" not in inspect.signature(getattr(manager, name)).parameters
        assert inspect.isroutine(method)
        assert repr(method) == repr(function)
        assert pickle.loads(pickle.dumps(method)) is copy.copy(method) is copy.deepcopy(method) is method
        assert weakref.ref(method)() is method
        assert weakref.WeakMethod(getattr(manager, name))() == getattr(manager, name)
        getattr(create_autospec(SessionManager, instance=True), name)("key")

    def test_a_subclass_may_have_its_own_and_call_the_one_above(self, clock):
        class Mine(SessionManager):
            def checkSessionStatus(self, key: object) -> Any:
                return "mine", super().checkSessionStatus(key)

        manager = Mine(store=clock.store)
        try:
            manager.on("error", lambda *args: None)
            assert manager.checkSessionStatus(manager.loadNewSession("Luca")) == ("mine", True)
            assert manager.checkSessionStatus("nobody's") == ("mine", False)
        finally:
            manager.close()

    def test_a_store_that_wraps_another_is_asked(self):
        asked = []

        class Wrapper:
            def __init__(self) -> None:
                self._wrapped = MemoryStore(now=lambda: 1.0, thread=False)

            def __getattr__(self, name: str) -> Any:
                asked.append(name)
                return getattr(self._wrapped, name)

        manager = SessionManager(store=Wrapper())
        try:
            key = manager.loadNewSession("Luca")
            asked.clear()
            assert manager.checkSessionStatus(key)
            assert manager.restartSessionTimer(key)
            assert asked == ["get", "restart"]
        finally:
            manager.close()

    @pytest.mark.parametrize("name", ["get", "set_data", "restart"])
    def test_a_store_with_a_look_of_its_own_is_asked(self, name):
        class Own(MemoryStore):
            asked = 0

        def look(self: Own, *args: Any) -> Any:
            self.asked += 1
            return getattr(super(Own, self), name)(*args)

        setattr(Own, name, look)
        store = Own(now=lambda: 1.0, thread=False)
        manager = SessionManager(store=store)
        try:
            key = manager.loadNewSession("Luca")
            assert manager.setSessionData(key, 1)
            assert manager.checkSessionStatus(key)
            assert manager.restartSessionTimer(key)
            assert store.asked
        finally:
            manager.close()

    def test_a_rejection_is_as_ever(self, manager):
        for name in quick_methods(SessionManager):
            if name in ("findSession", "getUsernameFromSessionKey"):
                assert not getattr(manager, name)("nobody's")
                continue
            with pytest.raises(SessionRejected):
                getattr(manager, name)("nobody's", *(["new"] if name == "setSessionData" else []))


class Seconds(int):
    """A number of seconds whose float is another, and whose making runs Python."""

    def __float__(self) -> float:
        Seconds.made += 1
        return 1.0

    made = 0


@each_restart
@pytest.mark.parametrize("timeout", [Fraction(3000), Seconds(3000), True])
def test_a_timeout_of_any_other_kind_of_number_is_left_to_python(asked, manager, timeout):
    manager.settings["SESSION_TIMEOUT"] = timeout
    key = manager.loadNewSession("Luca")
    made = Seconds.made
    assert asked.leaves_to_python(key)
    assert Seconds.made == made


def test_a_clock_that_stands_in_for_the_monotonic_one_is_asked():
    program = """
import time
from unittest import mock
seconds = 1000.0
with mock.patch("time.monotonic", lambda: seconds):
    from users_session_manager import SessionManager, at_hand
manager = SessionManager()
manager.on("error", lambda *args: None)
key = manager.loadNewSession("Luca")
seconds += 2999
print(at_hand.Record.__module__, manager.restartSessionTimer(key), manager.getSessionTimeLeft(key))
seconds += 4000
print(manager.checkSessionStatus(key))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["users_session_manager._at_hand", "True", "3000.0", "False"], done.stderr


def test_python_alone_is_chosen_by_the_environment():
    program = "import sys, users_session_manager; print('users_session_manager._at_hand' in sys.modules)"
    for value, loaded in (("", "True"), ("1", "False")):
        environment = os.environ | {PURE_PYTHON: value}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == loaded, done.stderr


def test_everything_that_is_promised_of_sessions_in_memory_holds_in_python_alone():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not redis and not cluster"]
    done = subprocess.run(
        [*command, *(TESTS / f"test_{name}.py" for name in IN_MEMORY), TESTS / "stores" / "test_store.py"],
        cwd=TESTS.parent,
        env=os.environ | {PURE_PYTHON: "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
