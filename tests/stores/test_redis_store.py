"""Sessions in Redis of one process: its threads and listeners, and what other programs write beside it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis_checks import calls, kept_sessions, keys_under, without_ttl
from waiting import WAIT, eventually

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable, TooManySessions
from users_session_manager.keys import group_of, new_key
from users_session_manager.stores.base import Callbacks

redis = pytest.importorskip("redis")

from users_session_manager.stores.encoding import digest_of  # noqa: E402
from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing
from users_session_manager.stores.redis.client import ProcessClient  # noqa: E402


def test_announcer_started_later(redis_url, prefix, monkeypatch):
    """An announcer that could not be started is started later."""
    start, refused = threading.Thread.start, []

    def no_thread(thread):
        if thread.name == "users-session-manager announcer" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
    ended = []
    manager.on("sessionDeleted", ended.append)
    keys = [manager.loadNewSession("Luca", timeout=2) for _ in range(2)]
    eventually(lambda: set(ended) == set(keys))
    assert refused


@pytest.mark.parametrize("name", ["poller", "reader"])
def test_no_thread(redis_url, prefix, monkeypatch, name):
    """A call for which no thread could be started fails, and the next one starts the thread."""
    start, refused = threading.Thread.start, []

    def no_thread(thread):
        if thread.name == f"users-session-manager {name}" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
    manager.initSocketReference(object())
    ended, logouts = [], []
    manager.on("sessionDeleted", ended.append)
    manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        manager.loadNewSession("Luca", timeout=2)
    key = manager.loadNewSession("Luca", timeout=2)
    eventually(lambda: (ended, logouts) == ([key], [key]))


def test_listener_removed(redis_url, prefix):
    """Ends that a process has claimed are another one's once its only listener has been removed."""
    seconds = 1000.0
    first = RedisStore.from_url(redis_url, prefix=prefix, thread=False, now=lambda: seconds)
    ended, elsewhere = [], []
    manager = SessionManager(store=first)
    manager.once("sessionEnded", lambda session, reason: ended.append(session.username))
    for number in range(20):
        manager.loadNewSession(f"{number}", timeout=2)
    second = RedisStore.from_url(redis_url, prefix=prefix, thread=False, now=lambda: seconds)
    second.open(Callbacks(on_ended=lambda session, reason: elsewhere.append(session.username)))
    second.serve()
    seconds += 3
    first.run_due()
    second.run_due()
    second.close()
    assert len(ended) == 1
    assert sorted([*ended, *elsewhere], key=int) == [f"{number}" for number in range(20)]


def test_stop_while_busy(own_server, caplog):
    """Stopping while other threads ask fails none of their calls, and leaves no connection."""
    server, done = own_server(), threading.Event()
    manager = SessionManager(store=server.url)

    def busy():
        while not done.is_set():
            manager.deleteSession(manager.loadNewSession("Luca"))

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(busy) for _ in range(4)]
        for _ in range(200):
            manager.stop()
            manager.serve()
        done.set()
    for thread in threads:
        thread.result()
    manager.stop()
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []
    with redis.Redis.from_url(server.url) as administrator:
        eventually(lambda: len(administrator.client_list()) == 1)


def test_serve_during_stop(redis_url, prefix, monkeypatch):
    """A process that begins to serve again while it is stopped lets sessions expire, and passes notices on."""
    store = RedisStore.from_url(redis_url, prefix=prefix)
    manager, ended, logouts = SessionManager(store=store), [], []
    manager.on("sessionDeleted", ended.append)
    manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
    manager.initSocketReference(object())
    key = manager.loadNewSession("Luca", timeout=2)
    with monkeypatch.context() as patch:
        patch.setattr(store._clock, "stop", store.serve)  # as another thread may call it at that moment
        manager.stop()
    eventually(lambda: (ended, logouts) == ([key], [key]))


class TestWhatOthersWrote:
    """Data of another program under our names is a rejection or no session, and all else goes on."""

    @pytest.fixture
    def ended(self) -> list[str]:
        """The users whose sessions have ended."""
        return []

    @pytest.fixture
    def open_manager(self, client, prefix, ended) -> Iterator[SessionManager]:
        manager = SessionManager(store=RedisStore(client, prefix=prefix))
        manager.on("sessionEnded", lambda session, reason: ended.append(session.username))
        yield manager
        manager.close()  # before the client is

    @staticmethod
    def names(client: Any, prefix: str, key: str) -> tuple[str, str, str]:
        """Return the name of the hash of a session's first key, what all names of its group begin with, and its id."""
        group, session_id = f"{prefix}2:{{{group_of(key)}}}:", digest_of(key)
        assert client.exists(f"{group}s:{session_id}")
        return f"{group}s:{session_id}", group, session_id

    @staticmethod
    def assert_rejected(manager: SessionManager, *keys: str) -> None:
        for key in keys:
            for call in (
                *(manager.checkSessionStatus, manager.restartSessionTimer, manager.getSessionDetails),
                *(manager.resumeSession, manager.renewSessionKey, manager.getSessionTimeLeft),
            ):
                with pytest.raises(SessionRejected):
                    call(key)
            assert manager.getUsernameFromSessionKey(key) is False
            assert manager.findSession(key) is None

    def assert_all_goes_on(self, manager: SessionManager, ended: list[str]) -> None:
        """Listing and counting, a login, and the end of a session of each group."""
        manager.getLoggedUsers()
        len(manager.sessions)
        names = {f"user {number}" for number in range(64)}
        for name in names:
            manager.loadNewSession(name, timeout=2)
        eventually(lambda: names <= set(ended))

    def test_other_type(self, client, prefix, open_manager, ended):
        """A value of another type is no session."""
        for write in (
            lambda name: client.set(name, "Luca"),
            lambda name: client.rpush(name, "Luca"),
            lambda name: client.sadd(name, "Luca"),
            lambda name: client.zadd(name, {"Luca": 1}),
        ):
            key = open_manager.loadNewSession("Luca")
            name, *_ = self.names(client, prefix, key)
            client.delete(name)
            write(name)
            self.assert_rejected(open_manager, key)
            with pytest.raises(SessionRejected):
                open_manager.deleteSession(key)
            assert open_manager.getUserSessions("Luca") == []
        for group in range(16):
            with client.pipeline() as at_once:  # else a poller may set it in between
                at_once.delete(f"{prefix}2:{{{group}}}:listens")
                at_once.rpush(f"{prefix}2:{{{group}}}:listens", "Luca")
                at_once.execute()
        self.assert_all_goes_on(open_manager, ended)

    def test_field(self, client, prefix, open_manager, ended):
        """A session without a field that it must have, or with garbage there, is rejected."""
        values = [None, "", "garbage", "nan", "inf", "-inf", b"\xff\xfe", "9" * 400, "[" * 9000]
        for field in ("k", "n", "c", "d"):  # the key, the name, when it was created, its deadline
            for number, value in enumerate(values):
                key = open_manager.loadNewSession(f"{number}", timeout=60)
                name, group, session_id = self.names(client, prefix, key)
                if value is None:
                    client.hdel(name, field)
                else:
                    client.hset(name, field, value)
                if field == "n" and isinstance(value, str):
                    assert open_manager.getSession(key).username == value  # a name is a name, whatever it is
                elif field == "n" and value is not None:
                    with pytest.raises(SessionRejected):
                        open_manager.resumeSession(key)
                else:
                    self.assert_rejected(open_manager, key)
                for found in (open_manager.getLoggedUsers(), [*open_manager.sessions]):
                    assert all(isinstance(one, str) for one in found)
                open_manager.getUserSessions(f"{number}")
                client.zadd(f"{group}due", {session_id: 1})
        self.assert_all_goes_on(open_manager, ended)

    def test_optional_field(self, client, prefix, open_manager, ended):
        """Garbage in a field that a session need not have stops nothing."""
        open_manager.setMaxSessionLifetime(3600)
        values = ["", "garbage", "nan", "inf", "-inf", "9" * 400, "a b\nc 7", b"\xff", "deleted", "-1"]
        fields = "user present authenticated started_at own limit fixed warning warned former reason stamp".split()
        for field, value in itertools.product(fields, values):
            for kind in ("due", "ended", "expiring"):
                key = open_manager.loadNewSession("Luca", timeout=60)
                name, group, session_id = self.names(client, prefix, key)
                client.hset(name, field, value)
                for call in (
                    *(open_manager.getSession, open_manager.restartSessionTimer),
                    *(open_manager.checkSessionStatus, open_manager.renewSessionKey),
                ):
                    with contextlib.suppress(SessionRejected):
                        call(key)
                client.zadd(f"{group}{kind}", {session_id: 1})
            open_manager.getUserSessions("Luca")
            open_manager.getLoggedUsers()
        self.assert_all_goes_on(open_manager, ended)

    @pytest.mark.parametrize("field", ["user", "stamp", "authenticated", "own"])
    def test_rejected_field(self, client, prefix, open_manager, field):
        """A session that has what no text, time or timeout can be is rejected."""
        is_text = field in ("user", "stamp")
        for value in (b"\xff",) if is_text else ("", "garbage", "nan", "inf", "-inf", "9" * 400, b"\xff"):
            key = open_manager.loadNewSession("Luca")
            name, *_ = self.names(client, prefix, key)
            client.hset(name, field, value)
            for call in (open_manager.getSession, open_manager.checkSessionStatus, open_manager.restartSessionTimer):
                with pytest.raises(SessionRejected):
                    call(key)

    def test_no_stamp(self, client, prefix, open_manager):
        """A session that a version without security stamps has written has none."""
        key = open_manager.loadNewSession("Luca", securityStamp="a stamp")
        name, *_ = self.names(client, prefix, key)
        assert client.hdel(name, "stamp") == 1
        assert open_manager.resumeSession(key).securityStamp is None
        key = open_manager.renewSessionKey(key, securityStamp="a stamp")
        assert open_manager.resumeSession(key).securityStamp == "a stamp"

    def test_other_key(self, client, prefix, open_manager):
        """A session whose key another program has changed has neither key."""
        for other in (new_key(), open_manager.loadNewSession("Marco")):
            key = open_manager.loadNewSession("Luca")
            name, *_ = self.names(client, prefix, key)
            client.hset(name, "k", other)
            for call in (open_manager.getSession, open_manager.checkSessionStatus, open_manager.deleteSession):
                with pytest.raises(SessionRejected):
                    call(key)
        assert open_manager.checkSessionStatus(other), "that of Marco"

    def test_former_keys(self, client, prefix, open_manager, ended):
        """Garbage in the former keys of a session lets no former key in."""
        values = ["", "garbage", "a b", "a b c", ",", ",,, ,", "%s", "%s  %s", "%s garbage %s", "%s nan %s"]
        values += ["%s inf %s", "%s -inf %s", "%s 0 %s", "%s -1 %s", f"%s {'9' * 400} %s", "%s %s", b"\xff", "[" * 5000]
        for number, former in enumerate(values):
            first = open_manager.loadNewSession(f"{number}", timeout=60)
            key = open_manager.renewSessionKey(first, overlap=60)
            name, _, session_id = self.names(client, prefix, first)
            written = client.hget(name, "former").decode()
            assert open_manager.checkSessionStatus(first)
            if isinstance(former, str):
                former = former.replace("%s", session_id, 1).replace("%s", first)
                assert former != written
            client.hset(name, "former", former)
            self.assert_rejected(open_manager, first)
            for call in (open_manager.checkSessionStatus, open_manager.renewSessionKey):
                with contextlib.suppress(SessionRejected):
                    call(key)
        self.assert_all_goes_on(open_manager, ended)

    def test_data(self, client, prefix, open_manager, ended, caplog):
        """A session whose data is no JSON is rejected, and the log says why."""
        for number, data in enumerate(["{", b"\xff", "[" * 100_000, "9" * 5000]):
            user = f"no JSON {number}"
            key = open_manager.loadNewSession(user, timeout=2, data={"id": 7})
            name, *_ = self.names(client, prefix, key)
            caplog.clear()
            client.hset(name, "data", data)
            with pytest.raises(SessionRejected):
                open_manager.getSessionData(key)
            assert caplog.text.count("another program has changed") == 1
            with pytest.raises(SessionRejected):
                open_manager.updateSessionData(key, lambda data: 7)
            with pytest.raises(SessionRejected):
                open_manager.checkSessionStatus(key)
            assert open_manager.getUserSessions(user) == []
        eventually(lambda: {f"no JSON {number}" for number in range(4)} <= set(ended))
        self.assert_all_goes_on(open_manager, ended)

    def test_data_changed_in_between(self, client, prefix, open_manager):
        """Data that is no JSON any more when an update is to be written is not overwritten."""
        key = open_manager.loadNewSession("Luca", data=[1])
        name, *_ = self.names(client, prefix, key)
        with pytest.raises(SessionRejected):
            open_manager.updateSessionData(key, lambda data: client.hset(name, "data", "{"))
        assert client.hget(name, "data") == b"{"

    @pytest.mark.parametrize("end", ["expires", "deleteUserSessions"])
    def test_end_unreadable(self, client, prefix, caplog, end):
        """The end of a session that cannot be read is logged once, and no process gets it again."""
        seconds, ended = 1000.0, []
        stores = [RedisStore(client, prefix=prefix, now=lambda: seconds, thread=False) for _ in range(2)]
        manager = SessionManager(store=stores[0])
        manager.on("sessionEnded", lambda session, reason: ended.append(session.key))
        stores[1].open(Callbacks(on_ended=lambda session, reason: ended.append(session.key)))
        stores[1].serve()
        keys = [manager.loadNewSession("Luca", timeout=60) for _ in range(2)]
        name, *_ = self.names(client, prefix, keys[0])
        client.hset(name, "k", new_key())
        if end == "expires":
            seconds += 60
        else:
            assert manager.deleteUserSessions("Luca") == 1
        for _ in range(5):
            for store in stores:
                store.run_due()
            seconds += 40
        assert ended == keys[1:]
        assert kept_sessions(client, prefix) == []
        assert caplog.text.count("another program has changed") == 1
        for store in stores:
            store.close()

    @pytest.mark.parametrize("kind", ["due", "expiring", "ended", "users"])
    def test_sets(self, client, prefix, open_manager, ended, kind):
        """Garbage in the sets of ids ends no session early, late or twice."""
        open_manager.setExpiryWarning(1)
        start = time.monotonic()
        key = open_manager.loadNewSession("Luca", timeout=2)
        _, group, session_id = self.names(client, prefix, key)
        other = open_manager.loadNewSession("Marco")
        garbage = ["", "garbage", b"\xff\x00", "x" * 100_000, session_id.replace(session_id[-1], "x")]
        garbage += [digest_of(other), key, "4:Luca:", "4:Luca:1", f"4:Luca:1:{session_id}", *map(str, range(150))]
        scores = [0] if kind == "users" else [float("-inf"), 0, 1]  # that one is sorted by text
        client.zadd(f"{group}{kind}", {one: random.choice(scores) for one in garbage})
        client.zadd(f"{group}{kind}", {"later": max(scores) and float("inf"), session_id: 0})
        alive = open_manager.findSession(key) is not None
        found = alive, [row["key"] for row in open_manager.getUserSessions("Luca")], open_manager.getLoggedUsers()
        if time.monotonic() < start + 2:  # else it may have expired in between
            assert found == (True, [key], ["Luca", "Marco"])
        eventually(lambda: "Luca" in ended)
        self.assert_all_goes_on(open_manager, ended)
        assert ended.count("Luca") == 1
        assert open_manager.deleteUserSessions("Luca") == 0
        assert open_manager.checkSessionStatus(other)

    def test_users(self, client, prefix, open_manager):
        """Garbage among the sessions of users gives none to another user, and hides none."""
        users = {group_of(key): key for key in (open_manager.loadNewSession(f"{number}") for number in range(200))}
        keys = [open_manager.loadNewSession("Luca") for _ in range(3)]
        name, group, session_id = self.names(client, prefix, keys[0])
        other = users[group_of(keys[0])]
        created = client.hget(name, "c").decode()

        def write():
            entries = ["", "~", "4:Luca:", "4:Luca:1:garbage", f"4:Luca:1:{session_id}", f"4:Luca:{created}:"]
            entries.append(f"4:Luca:1:{digest_of(other)}")
            client.zadd(f"{group}users", dict.fromkeys(entries, 0))

        for _ in range(2):
            write()
            assert [row["key"] for row in open_manager.getUserSessions("Luca")] == keys
        open_manager.setMaxSessionsPerUser(3, "reject")
        write()
        with pytest.raises(TooManySessions):
            open_manager.loadNewSession("Luca")
        open_manager.setMaxSessionsPerUser(4, "reject")
        write()
        keys.append(open_manager.loadNewSession("Luca"))
        open_manager.setMaxSessionsPerUser(3)
        write()
        keys = [*keys[2:], open_manager.loadNewSession("Luca")]
        assert [row["key"] for row in open_manager.getUserSessions("Luca")] == keys
        write()
        assert open_manager.deleteUserSessions("Luca", keys[0]) == 2
        assert [row["key"] for row in open_manager.getUserSessions("Luca")] == keys[:1]
        assert open_manager.checkSessionStatus(other)

    def test_forged_key(self, client, prefix, open_manager):
        """A key that another program has made up is rejected."""
        key = open_manager.loadNewSession("Luca")
        _, group, session_id = self.names(client, prefix, key)
        forged = key[:-32] + "0123456789ABCDEF" * 2
        name = f"{group}k:{digest_of(forged)}"
        for value in (session_id, digest_of(forged), key, forged, "", b"\xff"):
            client.set(name, value)
            self.assert_rejected(open_manager, forged)
        client.delete(name)
        client.rpush(name, session_id)
        self.assert_rejected(open_manager, forged)
        assert open_manager.checkSessionStatus(key)


class TestClients:
    @pytest.mark.parametrize(
        "options",
        [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"protocol": 3, "decode_responses": True}],
        ids=str,
    )
    def test_options(self, redis_url, prefix, options):
        """A client may have any of these options."""
        with redis.Redis.from_url(redis_url, **options) as client:
            seconds, ended = 1000.0, []
            store = RedisStore(client, prefix=prefix, now=lambda: seconds, thread=False)
            manager = SessionManager(store=store)
            manager.on("sessionEnded", lambda session, reason: ended.append((session.username, session.data, reason)))
            key = manager.loadNewSession("Zoë", data={"ids": [1, 2.5, None, "ü"]})
            expires = manager.loadNewSession("Marco", timeout=2)
            new = manager.renewSessionKey(key, overlap=30)
            session = manager.getSession(key)
            assert (session.key, session.formerKeys, session.username) == (new, (key,), "Zoë")
            assert session.data == {"ids": [1, 2.5, None, "ü"]}
            assert manager.getLoggedUsers() == ["Zoë", "Marco"]
            assert list(manager.sessions) == [new, expires]
            assert manager.setSessionData(new, 7)
            assert [one["data"] for one in manager.getUserSessions("Zoë")] == [7]
            assert manager.deleteSession(new)
            seconds += 2
            store.run_due()
            assert ended == [("Zoë", 7, "deleted"), ("Marco", None, "expired")]
            manager.close()
            assert client.ping()

    def test_not_closed(self, redis_url, prefix):
        """A client that was passed in is not closed."""

        class Watched(redis.Redis):
            closed = False

            def close(self):
                self.closed = True
                super().close()

        client = Watched.from_url(redis_url)
        manager = SessionManager(store=RedisStore(client, prefix=prefix))
        manager.loadNewSession("Luca")
        manager.close()
        assert not client.closed
        client.close()

    def test_cluster_options(self, redis_cluster_port):
        """The client that a process makes for a cluster has the options of the one that was passed in."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        def options_of(client: Any) -> list[Any]:
            nodes = client.nodes_manager
            return [
                client.retry.get_retries(),
                *(client.reinitialize_steps, nodes._require_full_coverage, nodes._dynamic_startup_nodes),
                nodes.connection_kwargs["socket_timeout"],
            ]

        options = {"require_full_coverage": False, "dynamic_startup_nodes": False, "reinitialize_steps": 7}
        retry = Retry(NoBackoff(), 6)
        with (
            redis.RedisCluster("127.0.0.1", redis_cluster_port, retry=retry, socket_timeout=3, **options) as template,
            contextlib.closing(ProcessClient(template)) as made,
        ):
            assert made.get() is not template
            assert options_of(made.get()) == options_of(template) == [6, 7, False, False, 3]

    def test_bad_client(self, client):
        """A wrong client, prefix or lease is refused and named."""
        from redis import asyncio

        with pytest.raises(TypeError, match=r"got a redis\.asyncio\.client\.Redis"):
            RedisStore(asyncio.Redis())
        with pytest.raises(TypeError, match=r"got a builtins\.str"):
            RedisStore("redis://127.0.0.1")
        with pytest.raises(ValueError, match=r"without braces, got 'my\{app\}:'"):
            RedisStore(client, prefix="my{app}:")
        with pytest.raises(TypeError, match="prefix must be a str, got bytes"):
            RedisStore(client, prefix=b"my:")
        with pytest.raises(TypeError, match=r"lease.*got str"):
            RedisStore(client, lease="30")
        for lease in (0.5, 0, -1, float("nan")):
            with pytest.raises(ValueError, match=rf"lease.*got {lease}"):
                RedisStore(client, lease=lease)


class TestExpiryInRedis:
    def test_former_key(self, prefix, client):
        """A former key is known for as long as its overlap, however short the session's timeout was."""
        store, overlap = RedisStore(client, prefix=prefix, thread=False), 10 * 86400
        second = store.renew_key(store.add("Luca", 10)[0], 0)[1]
        store.renew_key(second, overlap)
        name = f"{prefix}2:{{{group_of(second)}}}:k:{digest_of(second)}"
        assert client.ttl(name) >= overlap
        store.close()

    def test_nothing_left(self, redis_url, prefix, client):
        """Each key in Redis expires by itself, and nothing is left of what has ended."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        ended = []
        manager.on("sessionDeleted", ended.append)
        manager.setMaxSessionsPerUser(3)
        manager.setExpiryWarning(1)
        chance, keys = random.Random(5), []
        for _ in range(300):
            step = chance.randrange(6)
            if step < 2 or not keys:
                keys.append(manager.loadNewSession(f"user {chance.randrange(40)}", timeout=chance.uniform(2, 3)))
                continue
            key = chance.choice(keys)
            with contextlib.suppress(SessionRejected):
                if step == 2:
                    keys.append(manager.renewSessionKey(key, overlap=chance.choice((0, 5))))
                elif step == 3:
                    manager.deleteSession(key)
                elif step == 4:
                    manager.restartSessionTimer(key)
                else:
                    manager.setSessionData(key, [1])
        assert kept_sessions(client, prefix)
        assert without_ttl(client, prefix) == []
        eventually(lambda: kept_sessions(client, prefix) == [])
        assert without_ttl(client, prefix) == []
        # A repeated call finds a session a minute after its end, and an operation after its lease, too.
        remembered = {b"s": 60_000, b"o": 90_000, b"listens": 2 * 86_400_000}

        def kind_of(name: bytes) -> bytes:
            return name.removeprefix(prefix.encode()).split(b":")[2]

        def too_long() -> list[bytes]:
            """The names that are kept longer; the last end may still have to be acknowledged."""
            names = keys_under(client, prefix)
            return [name for name in names if client.pttl(name) > remembered.get(kind_of(name), 0)]

        eventually(lambda: too_long() == [])
        assert {kind_of(name) for name in keys_under(client, prefix)} == {*remembered}
        assert len(manager.sessions) == 0

    def test_acknowledged(self, own_server):
        """An end that is acknowledged causes no further calls."""
        server, seconds = own_server(), 1000.0
        store = RedisStore.from_url(server.url, now=lambda: seconds, thread=False, lease=1)
        manager = SessionManager(store=store)
        with redis.Redis.from_url(server.url) as client:

            def calls_in_a_second() -> int:
                nonlocal seconds
                before = calls(client)
                seconds += 1
                store.run_due()
                return calls(client) - before

            manager.on("sessionDeleted", lambda key: None)
            manager.serve()
            calls_in_a_second()
            idle = calls_in_a_second()
            manager.deleteSession(manager.loadNewSession("Luca"))
            manager.loadNewSession("Marco", timeout=2)
            assert max(calls_in_a_second() for _ in range(4)) > idle
            assert calls_in_a_second() == idle > 0


class TestAsyncListeners:
    def manager_on_loop(self, url, prefix, body):
        """Run `body(manager)` on a loop, then stop the manager from a thread, as a server does."""

        async def application():
            manager = SessionManager(store=RedisStore.from_url(url, prefix=prefix, lease=2))
            manager.bindLoop()
            try:
                await body(manager)
            finally:
                await asyncio.to_thread(manager.stop)

        asyncio.run(application())

    @pytest.mark.parametrize("end", ["expires", "deleted"])
    def test_acknowledged_once_done(self, redis_url, prefix, client, end):
        """An end is acknowledged once its async listener has run, and not while it waits."""
        begun, done, looked = [], [], asyncio.Event()

        async def listener(session, reason):
            begun.append(session.key)
            await asyncio.sleep(3 if end == "expires" else 0)  # longer than the lease, which is kept
            await looked.wait()
            done.append(session.key)

        async def body(manager):
            manager.on("sessionEnded", listener)
            key = manager.loadNewSession("Luca", timeout=2)
            if end == "deleted":
                manager.deleteSession(key)
            while not begun:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert kept_sessions(client, prefix), "it is not acknowledged yet"
            looked.set()
            while kept_sessions(client, prefix):
                await asyncio.sleep(0.01)
            assert begun == done == [key]

        self.manager_on_loop(redis_url, prefix, body)

    def test_handed_on_at_stop(self, redis_url, prefix):
        """An end whose async listener is cut off by a stop is announced by another process, and not lost."""
        begun, again = threading.Event(), threading.Event()

        async def listener(session, reason):
            begun.set()
            await asyncio.sleep(3600)

        async def body(manager):
            manager.on("sessionEnded", listener)
            manager.deleteSession(manager.loadNewSession("Luca"))
            await asyncio.to_thread(begun.wait, WAIT)

        self.manager_on_loop(redis_url, prefix, body)
        SessionManager().close()
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("sessionEnded", lambda session, reason: again.set() if reason == "deleted" else None)
        manager.serve()
        assert again.wait(WAIT)

    def test_no_loop(self, redis_url, prefix, client, caplog):
        """A script whose async listeners have no loop leaves its ends to others, and the log says so once."""
        heard, announced = [], threading.Event()

        async def listener(session, reason):
            heard.append(session.key)

        with contextlib.closing(SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))) as manager:
            manager.on("sessionEnded", lambda session, reason: None)
            manager.serve()
            eventually(lambda: client.exists(f"{prefix}2:{{0}}:listens"))
        with contextlib.closing(SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))) as manager:
            manager.on("sessionEnded", listener)
            for _ in range(3):
                manager.deleteSession(manager.loadNewSession("Luca"))
        assert heard == []
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "knows no event loop" in line
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        ends = []
        manager.on("sessionEnded", lambda session, reason: ends.append(reason) or (len(ends) == 3 and announced.set()))
        manager.serve()
        assert announced.wait(WAIT)
        assert ends == ["deleted"] * 3


class TestUnusualEnds:
    """Ends that a test by hand had lost, doubled or spared."""

    def test_lifetime_shortened_long_ago(self, redis_url, prefix):
        """A session that is days past a lifetime that was set after its creation still ends with its events."""
        seconds, ended = 1000.0, []
        store = RedisStore.from_url(redis_url, prefix=prefix, now=lambda: seconds, thread=False)
        manager = SessionManager(store=store)
        manager.on("sessionEnded", lambda session, reason: ended.append(reason))
        manager.on("error", lambda error, details: None)
        key = manager.loadNewSession("Luca", timeout=30 * 86400)
        seconds += 10 * 86400
        manager.setMaxSessionLifetime(7 * 86400)
        assert manager.restartSessionTimer(key) is False
        store.run_due()
        assert ended == ["expired"]

    def test_created_by_a_faster_clock(self, redis_url, prefix, client):
        """After a failover to a node whose clock is behind, a user is logged out everywhere all the same."""
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        key = manager.loadNewSession("Luca")
        (name,) = client.scan_iter(match=f"{prefix}*:s:*")
        (users,) = client.scan_iter(match=f"{prefix}*:users")
        created, later = client.hget(name, "c").decode(), int(time.time() + 100) * 1_000_000
        (entry,) = client.zrange(users, 0, -1)
        client.hset(name, "c", later)
        client.zadd(users, {entry.decode().replace(created, str(later)): 0})
        client.zrem(users, entry)
        assert manager.deleteUserSessions("Luca") == 1
        assert manager.findSession(key) is None

    @pytest.mark.parametrize("call", ["deleteUserSessions", "deleteAllSessions"])
    def test_longer_than_the_lease(self, redis_url, prefix, call):
        """A process that does not serve and announces for longer than its lease keeps it."""
        ended, elsewhere = [], []
        other = RedisStore.from_url(redis_url, prefix=prefix, lease=8)
        other.open(Callbacks(on_ended=lambda session, reason: elsewhere.append(session.key)))
        keys = [other.add("Luca", 600)[0] for _ in range(60)]
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix, lease=8))
        manager.on("sessionEnded", lambda session, reason: ended.append(session.key) or time.sleep(0.14))
        getattr(manager, call)(*(["Luca"] if call == "deleteUserSessions" else []))
        assert sorted(ended) == sorted(keys)
        eventually(lambda: kept_sessions(other._scripts.client.get(), prefix) == [])
        other.close()
        assert elsewhere == []

    def test_half_a_logout(self, redis_url, prefix):
        """If a later page of it fails in a process that does not serve, another one announces what has ended."""
        elsewhere = []
        other = RedisStore.from_url(redis_url, prefix=prefix, lease=2)
        other.open(Callbacks(on_ended=lambda session, reason: elsewhere.append(session.key)))
        for _ in range(60):  # more than a page
            other.add("Luca", 600)
        store = RedisStore.from_url(redis_url, prefix=prefix, lease=2)
        manager = SessionManager(store=store)
        manager.on("sessionEnded", lambda session, reason: None)
        call, removed = store._scripts.call, []

        def fail(operation, *args):
            if operation == "remove_user":
                removed.append(operation)
                if len(removed) == 2:
                    raise StoreUnavailable("no answer")
            return call(operation, *args)

        store._scripts.call = fail
        other.stop()  # nothing claims what is handed on while the lease could be taken again
        with pytest.raises(StoreUnavailable):
            manager.deleteUserSessions("Luca")
        time.sleep(1.5)
        other.serve()
        eventually(lambda: len(elsewhere) == 50, timeout=WAIT)
        assert store._unacknowledged == set()
        other.close()

    def test_foreign_notice(self, redis_url, prefix, client):
        """A message of another program is no notice, and delays none."""
        logouts: list[str] = []
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
        manager.initSocketReference(object())
        key = manager.loadNewSession("Luca")
        channel = f"{prefix}2:notices"
        eventually(lambda: client.pubsub_numsub(channel)[0][1] == 1)
        for garbage in ("ended abc:x ", f"ended 99:{'x' * 43} ", "ended 3: ", "ended", b"\xff"):
            client.publish(channel, garbage)
        manager.deleteAllSessions()
        eventually(lambda: logouts == [key])

    def test_frozen_clock(self, redis_url, prefix):
        """A key that is renewed without an overlap is rejected, though the clock has not moved."""
        store = RedisStore.from_url(redis_url, prefix=prefix, now=lambda: 1000.0000004999, thread=False)
        manager = SessionManager(store=store)
        key = manager.loadNewSession("Luca")
        manager.renewSessionKey(key)
        assert manager.findSession(key) is None

    def test_warned_no_more(self, redis_url, prefix):
        """A warning whose claim had no answer is dropped if the session was restarted in between."""
        seconds, warned = 1000.0, []
        store = RedisStore.from_url(redis_url, prefix=prefix, now=lambda: seconds, thread=False)
        manager = SessionManager(store=store)
        manager.on("sessionExpiring", lambda key, left: warned.append((key, left)))
        manager.setExpiryWarning(10)
        keys = [manager.loadNewSession(name, timeout=60) for name in ("Luca", "Marco")]
        call, lost = store._scripts.call, []

        def lose(operation, *args):
            answer = call(operation, *args)
            if operation == "claim" and not lost:
                lost.append(operation)
                manager.restartSessionTimer(keys[0])
                raise StoreUnavailable("no answer")
            return answer

        seconds += 55
        store._scripts.call = lose
        store.run_due()
        seconds += 1
        store.run_due()
        assert lost
        assert [key for key, _ in warned] == [keys[1]]
