"""The whole manager against a model of a few lines: any calls in any order, time turned by hand.

`python tests/stores/test_property.py 3600` searches for an hour; without a number, for a minute. With the address of a
store as a second argument, such as `sqlite:////tmp/sessions.db`, the manager keeps its sessions there, under a prefix
of its own.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from dataclasses import dataclass, field
from math import inf
from typing import Any
from uuid import UUID, uuid4

import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from users_session_manager import MemoryStore, SessionManager, SessionRejected, TooManySessions  # noqa: E402
from users_session_manager.keys import new_key  # noqa: E402
from users_session_manager.stores.base import MAX_FORMER_KEYS  # noqa: E402

USERS = ["Luca", "Fabio", "Gino"]
# Most often none; a number is the same as its text, and a user id may be what another user is called.
GIVEN_IDS = [None, None, None, 7, "7", "Gino", UUID(int=7)]
STAMPS = ["", "old", "new"]
USER_IDS = [*USERS, 7, "7", UUID(int=7), str(UUID(int=7))]
EVENTS = "sessionCreated sessionDeleted activeUserDeleted sessionEnded sessionRenewed sessionExpiring".split()
EVENTS += ["notifyClientToLogout", "sessionRejected"]


@dataclass(eq=False)
class Login:
    """A session of the model."""

    username: str
    user_id: str
    key: str
    started_at: float
    own: float | None
    data: Any
    stamp: str | None
    deadline: float = inf
    limit: float = inf
    own_lifetime: float | None = None
    warn_at: float = inf
    warned_of: float = inf  # the deadline that a warning has been set for
    former: dict[str, float] = field(default_factory=dict)  # the keys before, and until when they are good


class Model:
    """A session manager, written once more and as plainly as possible."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.idle, self.lifetime, self.cap, self.overflow, self.warning = 3000.0, None, None, "evict", None
        self.logins: list[Login] = []
        self.events: list[tuple[Any, ...]] = []

    def live(self, user_id: str | None = None) -> list[Login]:
        of_user = [login for login in self.logins if user_id in (None, login.user_id)]
        return [login for login in of_user if self.now < login.deadline]

    def find(self, key: str) -> Login | None:
        for login in self.live():
            if key == login.key or self.now < login.former.get(key, -inf):
                return login
        return None

    def good_keys(self) -> list[str]:
        return [key for login in self.logins for key in (login.key, *login.former) if self.find(key)]

    def count_down(self, login: Login) -> None:
        lifetime = self.lifetime if login.own_lifetime is None else login.own_lifetime
        if lifetime is not None:
            login.limit = min(login.limit, login.started_at + lifetime)
        deadline = min(self.now + (login.own or self.idle), login.limit)
        if self.warning is None:
            login.warn_at = login.warned_of = inf
        elif deadline != login.warned_of:
            login.warn_at, login.warned_of = deadline - self.warning, deadline
        login.deadline = deadline

    def log_in(
        self, username: str, user: Any, key: str, own: float | None, data: Any, lifetime: Any, stamp: str | None
    ) -> bool:
        user_id = username if user is None else str(user)
        live = self.live(user_id)
        if self.cap is not None and len(live) >= self.cap:
            if self.overflow == "reject":
                return False
            self.end(live[: len(live) - self.cap + 1], "evicted", notified=True)
        login = Login(username, user_id, key, self.now, own, data, stamp, own_lifetime=lifetime)
        self.count_down(login)
        self.logins.append(login)
        self.events.append(("sessionCreated", key))
        return True

    def renew(self, login: Login, new: str, overlap: float, stamp: str | None) -> None:
        self.events.append(("sessionRenewed", login.key, new))
        until = self.now + overlap
        good_until = {key: min(good, until) for key, good in login.former.items()}
        former = [(key, good) for key, good in good_until.items() if self.now < good] + [(login.key, until)]
        login.former = dict(former[-MAX_FORMER_KEYS:])
        login.key = new
        login.stamp = login.stamp if stamp is None else stamp

    def end(self, logins: list[Login], reason: str, *, notified: bool = False) -> None:
        for login in logins:
            self.logins.remove(login)
            for event in ("sessionDeleted", "activeUserDeleted"):
                self.events.append((event, login.key))
            self.events.append(("sessionEnded", login.key, reason))
            if notified:
                self.events.append(("notifyClientToLogout", login.key))

    def settle(self) -> None:
        for login in self.live():
            if login.warn_at <= self.now:
                login.warn_at = inf
                self.events.append(("sessionExpiring", login.key, login.deadline - self.now))
        self.end([login for login in self.logins if login.deadline <= self.now], "expired", notified=True)


seconds = st.integers(2, 99)
a_while = st.sampled_from([1, 2, 5, 10, 60])
maybe_seconds = st.none() | seconds
maybe_stamp = st.none() | st.sampled_from(STAMPS)
# Most often one that is good, then one that was, then one that never will be.
keys = st.runner().flatmap(
    lambda machine: st.sampled_from([*machine.model.good_keys() * 4, *machine.keys[-3:], *NO_KEYS])
)
NO_KEYS = ["Luca", new_key()]


class ManagerMachine(RuleBasedStateMachine):
    """Every method with every kind of key; after each step both must have emitted and know the same."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.keys: list[str] = []
        self.emitted: list[tuple[Any, ...]] = []
        self.numbers = itertools.count(100)  # data that no session has had before
        self.has_read = True  # whether all notices have been read: those of a shared store come with a poll
        self.open()
        for name in EVENTS:
            self.manager.on(name, self.listener(name))
        self.manager.on("error", lambda error, details: None)
        self.manager.initSocketReference("io")
        self.manager.serve()
        self.run_due()

    new_store: Any = MemoryStore

    def open(self) -> None:
        store = self.new_store(now=lambda: self.model.now, thread=False)
        self.manager, self.run_due = SessionManager(store=store), store.run_due

    def teardown(self) -> None:
        # Data that outlives the manager must not be there for the next one.
        self.manager.deleteAllSessions()
        self.run_due()
        self.manager.close()

    def listener(self, name: str) -> Any:
        def listen(*args: Any) -> None:
            self.emitted.append((name, *(getattr(arg, "key", arg) for arg in args if arg != "io")))

        return listen

    def asked(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what a method answers that raises in any case; `None` if it does."""
        try:
            return getattr(self.manager, method)(*args, **options)
        except SessionRejected:
            return None

    def rejected(self, key: str) -> None:
        self.model.events.append(("sessionRejected", key))

    # Sessions

    @rule(
        username=st.sampled_from(USERS),
        user=st.sampled_from(GIVEN_IDS),
        own=maybe_seconds,
        data=st.none() | st.integers(-9, 9),
        lifetime=maybe_seconds,
        stamp=maybe_stamp,
    )
    def log_in(self, username: str, user: Any, own: Any, data: Any, lifetime: Any, stamp: str | None) -> None:
        try:
            key = self.manager.loadNewSession(
                username, data=data, timeout=own, lifetime=lifetime, userId=user, securityStamp=stamp
            )
        except TooManySessions:
            assert not self.model.log_in(username, user, "", own, data, lifetime, stamp)
            return
        assert self.model.log_in(username, user, key, own, data, lifetime, stamp)
        self.keys.append(key)

    @rule(key=keys)
    def check(self, key: str) -> None:
        login = self.model.find(key)
        assert self.manager.checkSessionStatus(key) is (login is not None)
        assert self.manager.getUsernameFromSessionKey(key) == (login.username if login else False)
        if login is None:
            self.rejected(key)

    @rule(key=keys)
    def read(self, key: str) -> None:
        login = self.model.find(key)
        left, session = self.asked("getSessionTimeLeft", key), self.asked("getSession", key)
        data, details = self.manager.getSessionData(key), self.manager.getSessionDetails(key)
        if login is None:
            assert (left, session, data, details) == (None, None, False, False)
            for _ in range(4):
                self.rejected(key)
            return
        assert session is not None
        assert details is not False
        assert (left, data, details["data"]) == (login.deadline - self.model.now, login.data, login.data)
        assert details["username"] == session.username == login.username
        assert (session.userId, session.securityStamp) == (login.user_id, login.stamp)
        assert (session.key, session.timeout, session.formerKeys) == (login.key, login.own, tuple(login.former))

    @rule(key=keys, resume=st.booleans())
    def restart(self, key: str, resume: bool) -> None:
        login = self.model.find(key)
        if login is not None:
            self.model.count_down(login)
        answer = self.asked("resumeSession", key) if resume else self.manager.restartSessionTimer(key)
        alive = login is not None and login.deadline > self.model.now
        assert bool(answer) is alive
        if not alive:
            self.rejected(key)

    @rule(key=keys)
    def give_a_new_timer(self, key: str) -> None:
        login = self.model.find(key)
        if login is not None:
            self.model.count_down(login)
        assert self.manager.createNewSessionTimer(key, "Luca").is_alive()

    @rule(key=keys, data=st.integers(-9, 9))
    def set_data(self, key: str, data: int) -> None:
        login = self.model.find(key)
        assert self.manager.setSessionData(key, data) is (login is not None)
        if login is None:
            self.rejected(key)
        else:
            login.data = data

    @rule(key=keys, number=st.integers(-9, 9), key_in_between=st.none() | keys)
    def update_data(self, key: str, number: int, key_in_between: str | None) -> None:
        """Change the data, while another caller sets that of a session, perhaps the same, for the first time."""
        login, given, other = self.model.find(key), [], next(self.numbers)

        def change(data: Any) -> Any:
            if key_in_between is not None and not given:
                self.set_data(key_in_between, other)
            given.append(data)
            return {"number": number, "before": data if isinstance(data, int) else None}

        if login is None:
            assert self.asked("updateSessionData", key, change) is None
            assert given == []
            self.rejected(key)
            return
        before = login.data
        answer = self.manager.updateSessionData(key, change)
        has_changed = key_in_between is not None and self.model.find(key_in_between) is login
        assert given == [before, other][: 1 + has_changed]
        login.data = {"number": number, "before": given[-1] if isinstance(given[-1], int) else None}
        assert answer == login.data

    @rule(key=keys, overlap=st.sampled_from([5, 1000]), times=st.sampled_from([3, 9, 20, 1000]))
    def renew_often(self, key: str, overlap: float, times: int) -> None:
        login = self.model.find(key)
        if login is not None:
            for _ in range(min(times, 30) if self.manager.blocking else times):  # each asks a server, if it blocks
                self.renew(login.key, overlap, None)

    @rule(key=keys, overlap=st.sampled_from([5, 0, 1, 1000]), stamp=maybe_stamp)
    def renew(self, key: str, overlap: float, stamp: str | None) -> None:
        login = self.model.find(key)
        new = self.asked("renewSessionKey", key, overlap, securityStamp=stamp)
        if login is None:
            assert new is None
            self.rejected(key)
            return
        self.model.renew(login, new, overlap, stamp)
        self.keys.append(new)

    # Ends

    @rule(key=keys)
    def delete(self, key: str) -> None:
        login = self.model.find(key)
        assert self.manager.deleteSession(key) is (login is not None)
        if login is None:
            self.rejected(key)
        else:
            self.model.end([login], "deleted")

    @rule(user=st.sampled_from([*USER_IDS, "Gino", "Gino"]), key=keys)
    def delete_user(self, user: Any, key: str) -> None:
        kept = self.model.find(key)
        ended = [login for login in self.model.live(str(user)) if login is not kept]
        assert self.manager.deleteUserSessions(user, key) == len(ended)
        self.model.end(ended, "deleted", notified=True)

    @rule(user=st.sampled_from(USER_IDS), key=keys, stamp=st.sampled_from(STAMPS))
    def end_stale(self, user: Any, key: str, stamp: str) -> None:
        kept = self.model.find(key)
        ended = [login for login in self.model.live(str(user)) if login.stamp not in (None, stamp)]
        ended = [login for login in ended if login is not kept]
        assert self.manager._end_stale_sessions(user, stamp.__eq__, key) == len(ended)
        self.model.end(ended, "deleted", notified=True)

    @rule(really=st.sampled_from([False, False, False, True]))
    def delete_all(self, really: bool) -> None:
        if not really:  # else hardly any session would grow old
            return
        assert self.manager.deleteAllSessions() is True
        self.model.end(self.model.live(), "deleted", notified=True)

    # Time

    @rule(seconds=a_while)
    def time_goes_by_and_the_clock_is_late(self, seconds: int) -> None:
        self.model.now += seconds

    @rule(seconds=a_while)
    def time_goes_by(self, seconds: int) -> None:
        self.model.now += seconds
        self.run_due()
        self.model.settle()
        self.has_read = True

    # Settings

    @rule(seconds=st.sampled_from([2, 10, 30, 60, 3000, 1, "x"]))
    def set_timeout(self, seconds: Any) -> None:
        if self.manager.setSessionTimeOut(seconds):
            self.model.idle = seconds

    @rule(seconds=maybe_seconds)
    def set_lifetime(self, seconds: float | None) -> None:
        self.manager.setMaxSessionLifetime(seconds)
        self.model.lifetime = seconds

    @rule(count=st.none() | st.integers(1, 3), overflow=st.sampled_from(["evict", "reject"]))
    def set_cap(self, count: int | None, overflow: Any) -> None:
        self.manager.setMaxSessionsPerUser(count, overflow)
        self.model.cap, self.model.overflow = count, overflow

    @rule(seconds=st.none() | st.integers(1, 30))
    def set_warning(self, seconds: float | None) -> None:
        self.manager.setExpiryWarning(seconds)
        self.model.warning = seconds

    # The rules that hold after each step

    @invariant()
    def both_have_emitted_the_same(self) -> None:
        type(self).steps += 1
        later = [] if self.has_read or not self.manager.blocking else ["notifyClientToLogout"]
        emitted, expected = (
            sorted([event for event in events if event[0] not in later], key=repr)
            for events in (self.emitted, self.model.events)
        )
        assert emitted == expected
        self.emitted[:] = [event for event in self.emitted if event[0] in later]
        self.model.events[:] = [event for event in self.model.events if event[0] in later]
        self.has_read = False

    @invariant()
    def both_know_the_same(self) -> None:
        live = self.model.live()
        assert self.manager.getLoggedUsers() == [login.username for login in live]
        for user in USER_IDS:
            rows = self.manager.getUserSessions(user)
            shown = [(row["key"], row["username"], row["userId"], row["data"], row["timeLeft"]) for row in rows]
            assert shown == [
                (login.key, login.username, str(user), login.data, login.deadline - self.model.now)
                for login in self.model.live(str(user))
            ]


QUICK = settings(
    max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def search(how: settings, new_store: Any = MemoryStore) -> int:
    """Search for a difference; return how many steps were made."""

    class Machine(ManagerMachine):
        steps = 0

    Machine.new_store = staticmethod(new_store)
    run_state_machine_as_test(Machine, settings=how)
    return Machine.steps


@pytest.mark.parametrize("store_kind", ["memory", "redis", "sqlite", "postgresql"])
def test_model(any_store, store_kind):
    """The manager does what the model does; with fewer examples where each step asks a server."""
    examples = 25 if store_kind == "memory" else 15
    assert search(settings(QUICK, max_examples=examples), any_store) >= 20 * examples


class NoOverlap(MemoryStore):
    def renew_key(self, key, overlap, security_stamp=None):
        return super().renew_key(key, 0, security_stamp)


def test_difference():
    """A manager that does otherwise is found: a search that finds nothing here finds nothing elsewhere."""
    with pytest.raises((AssertionError, SessionRejected)):  # an answer that differs, or a rejection
        # It stops at the first.
        search(settings(QUICK, database=None, phases=[Phase.generate], max_examples=3000), NoOverlap)


if __name__ == "__main__":
    logging.getLogger("users_session_manager").setLevel(logging.ERROR)
    ends, made = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 60), 0
    new_store: Any = MemoryStore
    if len(sys.argv) > 2:
        from users_session_manager.stores import store_class

        def new_store(**options: Any) -> Any:
            return store_class(sys.argv[2]).from_url(sys.argv[2], prefix=f"t{uuid4().hex}_", **options)

    while time.monotonic() < ends:
        made += search(settings(QUICK, max_examples=1000, stateful_step_count=100), new_store)
        print(f"{made} steps, and no difference", flush=True)
