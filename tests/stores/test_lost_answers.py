"""Answers of Redis that are lost after it has acted: nothing happens twice, and nothing is forgotten or late."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis_failover import Servers, Stalls, bound, eventually
from threads import run_together

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable

pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # the extra may be missing

THREADS = 8
LONG, SHORT, OVERLAP = 3000, 2, 30
# How late an end may be announced.
LATE = 2.0
# Two clocks of one machine may differ by this, so an announcement may come this long before its deadline.
ROUNDING = 0.05
# An operation whose answer is not known: it was made or not.
UNKNOWN = "unknown"


class End(NamedTuple):
    at: float
    reason: str


class Known:
    """A session as its user knows it."""

    def __init__(self, number: int, user: str, key: str | None) -> None:
        self.number, self.user, self.key = number, user, key
        self.data: Any = None
        self.is_sure = key is not None  # whether its present key and its data are known
        self.may_not_exist = key is None
        self.former: list[tuple[str, float]] = []  # keys that are good until then
        self.first_deadline = self.last_deadline = float("inf")
        self.deleted: tuple[float, float] | None = None  # when the call began and ended
        self.may_be_deleted: tuple[float, float] | None = None

    def spans(self) -> list[tuple[float, float]]:
        """From when to when each of the ends that it may have had may have come."""
        expires = (self.first_deadline, self.last_deadline) if self.last_deadline < float("inf") else None
        return [span for span in (expires, self.deleted, self.may_be_deleted) if span is not None]


class Users:
    """The work of one thread, which has users of its own and checks their sessions."""

    def __init__(self, manager: SessionManager, number: int) -> None:
        self.manager, self.number = manager, number
        self.chance = random.Random(number)
        self.users = [f"user {number} {each}" for each in range(4)]
        self.sessions: list[Known] = []
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        steps = (
            *(self.log_in,) * 4,
            *(self.check,) * 4,
            *(self.restart,) * 4,
            *(self.set_data, self.update_data, self.update_data),
            *(self.renew,) * 2,
            *(self.delete,) * 3,
            self.check_ended,
            self.list_user,
        )
        self.chance.choice(steps)()
        if self.chance.random() < 0.02:
            self.delete_user()

    def fail(self, text: str) -> None:
        self.failures.append(text)

    def fail_alive(self, session: Known, text: str) -> None:
        """Note a failure, unless the session may have expired while it was asked for."""
        if session.first_deadline > time.monotonic() + ROUNDING:
            self.fail(f"{text}: {session.number}")

    def ask(self, name: str, call: Callable[[], Any]) -> Any:
        """Return what a call answers, `UNKNOWN` if Redis was not reached."""
        try:
            answer = call()
        except StoreUnavailable:
            self.done[f"{name}, unknown"] += 1
            return UNKNOWN
        self.done[name] += 1
        return answer

    def a_live_one(self) -> Known | None:
        live = [one for one in self.live() if one.is_sure and one.first_deadline > time.monotonic() + 1]
        return self.chance.choice(live) if live else None

    def live(self) -> list[Known]:
        """The sessions that have not been deleted, as far as is known, those that may have expired included."""
        return [one for one in self.sessions if one.deleted is None and one.may_be_deleted is None]

    def log_in(self) -> None:
        number = len(self.sessions) * THREADS + self.number
        user, seconds = self.chance.choice(self.users), self.chance.choice((SHORT, LONG))
        data, start = {"id": number, "count": 0}, time.monotonic()
        key = self.ask("login", lambda: self.manager.loadNewSession(user, timeout=seconds, data=data))
        session = Known(number, user, None if key == UNKNOWN else key)
        session.data = data
        if seconds == SHORT:
            session.first_deadline, session.last_deadline = start + seconds, time.monotonic() + seconds
        self.sessions.append(session)

    def good_key(self, session: Known) -> str:
        """One of the keys by which the session can be found now."""
        assert session.key is not None
        good = [key for key, until in session.former[-4:] if until > time.monotonic() + 15]
        return self.chance.choice([session.key, *good])

    def check(self) -> None:
        if session := self.a_live_one():
            key = self.good_key(session)
            if self.ask("check", lambda: self.manager.checkSessionStatus(key)) is False:
                self.fail_alive(session, "a live session was rejected")

    def restart(self) -> None:
        session = self.a_live_one()
        if session is None:
            return
        key, start = self.good_key(session), time.monotonic()
        answer = self.ask("restart", lambda: self.manager.restartSessionTimer(key))
        if answer is False:
            self.fail_alive(session, "a live session was not restarted")
        if session.last_deadline < float("inf"):
            session.last_deadline = time.monotonic() + SHORT
            if answer is True:
                session.first_deadline = start + SHORT

    def set_data(self) -> None:
        session = self.a_live_one()
        if session is None:
            return
        data = {"id": session.number, "count": self.chance.randrange(1000)}
        answer = self.ask("set data", lambda: self.manager.setSessionData(session.key, data))
        if answer is False:
            self.fail_alive(session, "the data of a live session could not be set")
        session.data, session.is_sure = data, answer is True

    def update_data(self) -> None:
        session = self.a_live_one()
        if session is None:
            return

        def add_one(data: Any) -> Any:
            data["count"] += 1
            return data

        try:
            data = self.ask("update data", lambda: self.manager.updateSessionData(session.key, add_one))
        except SessionRejected:
            self.fail_alive(session, "the data of a live session could not be updated")
            return
        session.data = session.data | {"count": session.data["count"] + 1}
        session.is_sure = data != UNKNOWN
        if session.is_sure and data != session.data:
            self.fail(f"updated to {data}, and not to {session.data}")

    def renew(self) -> None:
        session = self.a_live_one()
        if session is None:
            return
        assert session.key is not None
        old, start = session.key, time.monotonic()
        try:
            new = self.ask("renewal", lambda: self.manager.renewSessionKey(old, overlap=OVERLAP))
        except SessionRejected:
            self.fail_alive(session, "the key of a live session could not be renewed")
            return
        if new == UNKNOWN:
            session.is_sure = False
        else:
            session.former.append((old, start + OVERLAP))
            session.key = new

    def delete(self) -> None:
        session = self.a_live_one()
        if session is None:
            return
        key, start = self.good_key(session), time.monotonic()
        answer = self.ask("delete", lambda: self.manager.deleteSession(key))
        if answer is False:
            self.fail_alive(session, "a live session could not be deleted")
        if answer == UNKNOWN:
            session.may_be_deleted = start, time.monotonic()
        else:
            session.deleted = start, time.monotonic()

    def delete_user(self) -> None:
        """Log a user out everywhere, but perhaps in one session."""
        user, spared = self.chance.choice(self.users), None
        if self.chance.random() < 0.5:
            mine = [one for one in self.live() if one.user == user and one.is_sure]
            spared = self.chance.choice([one for one in mine if one.first_deadline == float("inf")] or [None])
        start = time.monotonic()
        except_key = spared and spared.key
        count = self.ask("delete user", lambda: self.manager.deleteUserSessions(user, except_key))
        end = time.monotonic()
        # With a lost answer more sessions of the user may be there, and fewer.
        sure = unsure = 0
        for session in self.sessions:
            if session.user != user or session is spared or session.deleted is not None:
                continue
            if session.may_be_deleted or session.may_not_exist or session.first_deadline < end:
                unsure += session.last_deadline > start
            else:
                sure += 1
            if session.last_deadline < start:
                continue
            if count == UNKNOWN or session.may_be_deleted or session.may_not_exist or session.first_deadline < end:
                begin = session.may_be_deleted[0] if session.may_be_deleted else start
                session.may_be_deleted = begin, end
                if count != UNKNOWN:
                    session.is_sure = False
            else:
                session.deleted = start, end
        if count != UNKNOWN and not sure <= count <= sure + unsure:
            self.fail(f"{count} sessions of a user ended, and not {sure} to {sure + unsure}")

    def check_ended(self) -> None:
        ended = [one for one in self.sessions if one.deleted is not None and one.key is not None]
        if ended:
            session = self.chance.choice(ended[-20:])
            if self.ask("check of an ended one", lambda: self.manager.checkSessionStatus(session.key)) is True:
                self.fail(f"a session that was deleted is alive: {session.number}")

    def list_user(self) -> None:
        user = self.chance.choice(self.users)
        start = time.monotonic()
        rows = self.ask("list", lambda: self.manager.getUserSessions(user))
        if rows == UNKNOWN:
            return
        found = Counter(row["data"]["id"] for row in rows)
        if any(count > 1 for count in found.values()):
            self.fail(f"listed twice: {found}")
        end = time.monotonic()
        for session in self.sessions:
            if session.user != user:
                continue
            if session.deleted is not None and session.number in found:
                self.fail(f"a deleted session is listed: {session.number}")
            is_there = session.deleted is None and session.may_be_deleted is None and not session.may_not_exist
            if is_there and session.first_deadline > end and session.number not in found:
                self.fail(f"a live session is not listed: {session.number}")
            if session.last_deadline < start and session.number in found:
                self.fail(f"an expired session is listed: {session.number}")


class Ends:
    """The events that the listeners have got."""

    def __init__(self, manager: SessionManager) -> None:
        self.of: defaultdict[int, list[End]] = defaultdict(list)
        self.deleted: Counter[str] = Counter()
        self.keys: dict[int, set[str]] = defaultdict(set)
        self._lock = threading.Lock()
        manager.on("sessionEnded", self._ended)
        manager.on("sessionDeleted", self._deleted)

    def _ended(self, session: Any, reason: str) -> None:
        with self._lock:
            self.of[session.data["id"]].append(End(time.monotonic(), reason))
            self.keys[session.data["id"]].add(session.key)

    def _deleted(self, key: str) -> None:
        with self._lock:
            self.deleted[key] += 1


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path) as servers:
        yield servers


@pytest.mark.parametrize("operations", [2_000, pytest.param(20_000, marks=pytest.mark.slow)], ids=["some", "many"])
def test_lost_answers(servers, caplog, operations):
    """Every twentieth answer is lost: no false rejection, nothing lost or doubled, no end late."""
    caplog.set_level("WARNING")
    proxy = servers.proxy(servers.start().port)
    manager = SessionManager(store=RedisStore.from_url(proxy.url, timeout=10))
    manager.on("error", lambda error, details: None)  # a rejection is `False`
    heard = Ends(manager)
    people = [Users(manager, number) for number in range(THREADS)]
    proxy.drop_every = 20
    start = time.monotonic()

    def work(number: int) -> None:
        users = people[number]
        while sum(users.done.values()) < operations / THREADS:
            users.step()

    with Stalls() as stalls:
        run_together(work, THREADS)
        took = time.monotonic() - start
        # The last ones expire while answers are still lost.
        deadlines = [one.last_deadline for users in people for one in users.sessions]
        last = max(time.monotonic(), *(deadline for deadline in deadlines if deadline < float("inf")))
        while time.monotonic() < last + LATE + stalls.longest:
            time.sleep(0.05)
        proxy.drop_every = 0
        check(manager, people, heard, LATE + stalls.longest)
    done = sum((users.done for users in people), Counter())
    print(f"{done.total()} operations in {took:.1f} s, {proxy.dropped} answers lost; {dict(sorted(done.items()))}")
    assert proxy.dropped > operations / 40
    manager.close()


def check(manager: SessionManager, people: list[Users], heard: Ends, late: float) -> None:
    """Check each session: alive with its key and data, or ended once, with the right reason and in time."""
    failures = [failure for users in people for failure in users.failures]
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for user in [user for users in people for user in users.users]:
        for row in manager.getUserSessions(user):
            rows[row["data"]["id"]].append(row)
    delays = [0.0]
    for session in [session for users in people for session in users.sessions]:
        ends, alive = heard.of.get(session.number, []), rows.pop(session.number, [])
        found = [*check_one(session, ends, alive, late)]
        times = [heard.deleted[key] for key in heard.keys.get(session.number, ())]
        if times != [1] * len(ends):
            found.append(f"{times} times sessionDeleted")
        failures += [f"session {session.number}: {one}" for one in found]
        delays += [end.at - max(span[1] for span in session.spans()) for end in ends if session.spans()]
    failures += [f"session {number}: never signed in" for number in rows]
    print(f"the latest end was announced {max(delays):.3f} s after it")
    assert failures == [], f"{len(failures)} failures: {failures[:20]}"


def check_one(session: Known, ends: list[End], alive: list[dict[str, Any]], late: float) -> Iterator[str]:
    """Yield what is wrong with a session, of which these ends were heard, and which is now listed so."""
    spans = session.spans()
    if len(ends) + len(alive) > 1:
        yield f"{len(ends)} ends, and it is listed {len(alive)} times"
    if not ends and not alive and not session.may_not_exist:
        yield f"lost; deleted {session.deleted}, perhaps {session.may_be_deleted}"
    for row in alive:
        if session.deleted is not None or session.last_deadline < time.monotonic():
            yield "alive, though it was deleted or has expired"
        if session.is_sure and (row["key"], row["data"]) != (session.key, session.data):
            yield f"has {row['data']} and not {session.data}, or another key"
    for end in ends:
        if not spans:
            yield f"{end.reason}, which nothing has caused"
            continue
        if end.at < min(span[0] for span in spans) - ROUNDING:
            yield f"{end.reason} too early"
        if (delay := end.at - max(span[1] for span in spans)) > late:
            yield f"{end.reason} {delay:.2f} s late"
        reasons = {"expired"} if session.last_deadline < float("inf") else set()
        if session.deleted or session.may_be_deleted:
            reasons.add("deleted")
        if session.deleted and session.deleted[1] < session.first_deadline:
            reasons.discard("expired")
        if end.reason not in reasons:
            yield f"{end.reason}, and not one of {reasons}"


class TestMany:
    """Operations that end many sessions, or another than that of their key, with many lost answers."""

    @pytest.fixture
    def proxy(self, servers) -> Any:
        return servers.proxy(servers.start().port)

    @pytest.fixture
    def manager(self, proxy) -> Iterator[SessionManager]:
        manager = SessionManager(store=RedisStore.from_url(proxy.url, timeout=10))
        yield manager
        manager.close()

    @pytest.fixture
    def ended(self, manager) -> dict[str, list[tuple[float, str]]]:
        ended = defaultdict(list)
        manager.on("sessionEnded", lambda session, reason: ended[session.key].append((time.monotonic(), reason)))
        return ended

    def test_reject(self, manager, proxy, ended):
        """A login that is asked for again is not one too many."""
        manager.setMaxSessionsPerUser(1, "reject")
        proxy.drop_every = 7
        known = []
        for _ in range(150):
            key = answer(lambda: manager.loadNewSession("Luca"))  # TooManySessions would be raised here
            if key != UNKNOWN:
                known.append(key)
            while answer(lambda: manager.deleteUserSessions("Luca")) == UNKNOWN:
                pass
        proxy.drop_every = 0
        assert manager.getUserSessions("Luca") == []
        announced_in_time(ended, known)
        assert {key: len(ended[key]) for key in known} == dict.fromkeys(known, 1)
        assert proxy.dropped > 20

    def test_evict(self, manager, proxy, ended):
        """A login that is asked for again evicts once."""
        manager.setMaxSessionsPerUser(2)
        proxy.drop_every = 7
        keys = [answer(lambda: manager.loadNewSession("Luca")) for _ in range(150)]
        proxy.drop_every = 0
        left = [row["key"] for row in manager.getUserSessions("Luca")]
        assert len(left) == 2
        known = [key for key in keys if key != UNKNOWN and key not in left]
        announced_in_time(ended, known)
        assert {key: [reason for _, reason in ended[key]] for key in known} == {key: ["evicted"] for key in known}
        # Of those that are not known, each may have been there.
        assert len(known) <= len(ended) <= len(keys) - 2
        assert not ended.keys() & {*left}
        assert proxy.dropped > 15

    def test_delete_all(self, manager, proxy, ended):
        """Each end of a call that takes several rounds is announced once, and soon."""
        keys = [manager.loadNewSession(f"user {number % 50}") for number in range(1000)]
        proxy.drop_every = 5
        while answer(manager.deleteAllSessions) == UNKNOWN:
            pass
        proxy.drop_every = 0  # a regular loss may hit the same step of each new connection for ever
        announced_in_time(ended, keys)
        assert len(manager.sessions) == 0
        assert {key: [reason for _, reason in ended[key]] for key in keys} == {key: ["deleted"] for key in keys}
        assert proxy.dropped > 0


def announced_in_time(ended: dict[str, Any], keys: list[str]) -> None:
    """Wait until the ends of all these sessions, which have ended just now, have been announced."""
    with Stalls() as stalls:
        done = time.monotonic()
        eventually(lambda: {*keys} <= ended.keys())
        assert time.monotonic() - done < bound(LATE) + stalls.longest


def answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StoreUnavailable:
        return UNKNOWN
