"""Sessions in Redis while it is unreachable, stalled, full, or forbids something."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis_checks import ROUNDING
from waiting import WAIT, eventually

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.stores import notices as reader
from users_session_manager.stores import reachability

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing


class TestUnreachable:
    TIMEOUT = 4.0

    def test_restarted(self, own_server, caplog):
        """Redis is stopped and started again: calls are refused in between, and no end is lost."""
        server = own_server("--appendonly", "yes")
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended: dict[str, float] = {}
        manager.on("sessionDeleted", lambda key: ended.setdefault(key, time.time()))
        stays = [manager.loadNewSession(f"stays {number}") for number in range(50)]
        out = manager.loadNewSession("logged out")
        manager.deleteSession(out)
        due: dict[str, float] = {}
        for number in range(100):
            timeout = random.uniform(6, 10)
            due[manager.loadNewSession(f"expires {number}", timeout=timeout)] = time.time() + timeout
        threads = {thread for thread in threading.enumerate() if thread.name.startswith("users-session-manager")}
        assert threads

        server.stop()
        stopped, slowest = time.time(), 0.0
        while sum(stopped < deadline < time.time() for deadline in due.values()) < 30:
            for call in (
                lambda: manager.loadNewSession("Luca"),
                lambda: manager.checkSessionStatus(stays[0]),
                lambda: manager.checkSessionStatus(out),
                lambda: manager.deleteSession(stays[0]),
                manager.getLoggedUsers,
            ):
                start = time.monotonic()
                with pytest.raises(StoreUnavailable, match="Redis is unreachable"):
                    call()
                slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        assert slowest < WAIT
        missed = [key for key, deadline in due.items() if stopped < deadline < time.time()]
        server.start()
        back = time.time()
        eventually(lambda: due.keys() <= ended.keys())
        late = sorted(ended[key] - back for key in missed)
        print(f"slowest refusal {slowest:.3f} s; {len(late)} expired in between, the last {late[-1]:.3f} s after it")

        assert all(ended[key] > deadline - ROUNDING - 0.5 for key, deadline in due.items())
        assert ended.keys() == {*due, out}
        assert [manager.checkSessionStatus(key) for key in stays] == [True] * 50
        assert sorted(manager.getLoggedUsers()) == sorted(f"stays {number}" for number in range(50))
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(out)
        assert all(thread.is_alive() for thread in threads)
        # And it goes on.
        manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: len(ended) == len(due) + 2)
        assert [beginning(record) for record in caplog.records if record.levelname != "DEBUG"] == [
            "Redis is unreachable, every session is refused",
            "Redis is reachable again",
        ]

    def test_stalled(self, own_server, caplog):
        """Redis stalls: calls are refused after the timeout."""
        server = own_server()
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        ended = []
        manager.on("sessionDeleted", ended.append)
        stays, expires = manager.loadNewSession("stays"), manager.loadNewSession("expires", timeout=2)

        server.process.send_signal(signal.SIGSTOP)
        for call in (manager.loadNewSession, lambda _: manager.checkSessionStatus(stays)):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call("Luca")
            took = time.monotonic() - start
            print(f"refused after {took:.2f} s")
            assert self.TIMEOUT * 0.9 < took < WAIT
        server.process.send_signal(signal.SIGCONT)

        assert eventually(lambda: answer(manager.checkSessionStatus, stays))
        eventually(lambda: ended == [expires])
        lines = [beginning(record) for record in caplog.records if record.levelname != "DEBUG"]
        assert lines == ["Redis is unreachable, every session is refused", "Redis is reachable again"]

    def test_one_line(self, own_server, caplog):
        """Many threads that it does not answer at once cause one line in the log."""
        server = own_server()
        manager = SessionManager(store=RedisStore.from_url(server.url, timeout=self.TIMEOUT))
        key = manager.loadNewSession("Luca")
        server.process.send_signal(signal.SIGSTOP)
        refused = []

        def ask():
            try:
                manager.checkSessionStatus(key)
            except StoreUnavailable:
                refused.append(True)

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.process.send_signal(signal.SIGCONT)
        assert len(refused) == 30
        eventually(lambda: answer(manager.checkSessionStatus, key))
        levels = [record.levelname for record in caplog.records if record.levelname != "DEBUG"]
        assert levels == ["ERROR", "WARNING"]

    def test_started_later(self, own_server):
        """Redis may be started after the manager."""
        server = own_server()
        server.stop()
        manager = SessionManager(store=server.url)
        ended = []
        manager.on("sessionDeleted", ended.append)
        with pytest.raises(StoreUnavailable):
            manager.loadNewSession("Luca")
        with pytest.raises(StoreUnavailable):
            manager.deleteAllSessions()
        server.start()
        assert manager.checkSessionStatus(manager.loadNewSession("Marco"))
        key = manager.loadNewSession("Luca", timeout=2)
        eventually(lambda: ended == [key])


def beginning(record: Any) -> str:
    return record.getMessage().partition(":")[0]


def answer(call: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a call, and `None` while Redis is unreachable."""
    try:
        return call(*args)
    except StoreUnavailable:
        return None


def test_interrupted(redis_url, prefix, monkeypatch):
    """After a call that was interrupted before it read its answer, the next call does not get that answer."""
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix, thread=False))
    key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Marco")

    def interrupt(*_, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "parse_response", interrupt)
        with pytest.raises(KeyboardInterrupt):
            manager.getSession(other)
    monkeypatch.setattr(redis.Connection, "can_read", lambda *_, **options: False)  # the answer comes a moment later
    assert manager.getSession(key).username == "Luca"


def test_eviction_policy(own_server, caplog):
    """An eviction policy that would log users out is a warning, once; the one that would not is none."""
    url = own_server().url
    for policy, warned in (("allkeys-lru", 1), ("volatile-ttl", 1), ("noeviction", 0)):
        caplog.clear()
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory-policy", policy)
        store = RedisStore.from_url(url, thread=False)
        manager = SessionManager(store=store)
        for _ in range(2):
            manager.loadNewSession("Luca")
            store.run_due()
        manager.close()
        warnings = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert len(warnings) == warned
        assert all(f"maxmemory-policy of Redis is {policy}" in warning for warning in warnings)


class Watcher:
    """Has a client of one session, and hears of its end."""

    def __init__(self, manager, key):
        self.session_id, self.key, self.ended = manager.getSession(key)._id, key, threading.Event()
        manager.addWatcher(self)

    def watched(self):
        return {self.session_id: self.key}

    def noticed(self, notice):
        if notice.kind == "deleted":
            self.ended.set()


class TestNotices:
    @pytest.mark.parametrize("missing", ["-subscribe", "-publish", "resetchannels"])
    def test_not_allowed(self, own_server, caplog, missing):
        """Without a permission for notices, clients get their logout late, and the log says what is missing, once."""
        server = own_server()
        with redis.Redis.from_url(server.url) as administrator:
            administrator.execute_command("ACL", "SETUSER", "limited", "on", ">password", "~*", "&*", "+@all")
            administrator.execute_command("ACL", "SETUSER", "limited", missing)
        manager = SessionManager(store=server.url.replace("//", "//limited:password@"))
        key = manager.loadNewSession("Luca")
        ended = Watcher(manager, key).ended
        with contextlib.closing(RedisStore.from_url(server.url)) as other:
            assert other.remove(key) is not None
        assert ended.wait(WAIT)
        eventually(lambda: "No notices can be read" in caplog.text)
        time.sleep(1)  # it tries to subscribe again and again
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "No notices can be read" in line
        assert manager.loadNewSession("Luca")

    def test_comes_back(self, own_server, caplog):
        """After the connection of the subscription was cut, it subscribes again by itself."""
        server, heard = own_server(), threading.Event()
        manager = SessionManager(store=server.url)
        manager.on("notifyClientToLogout", lambda io, key: heard.set())
        manager.initSocketReference(object())
        manager.serve()
        with redis.Redis.from_url(server.url) as administrator:
            for _ in range(3):
                eventually(lambda: administrator.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1)
                heard.clear()
                manager.loadNewSession("Luca")
                manager.deleteUserSessions("Luca")
                assert heard.wait(WAIT)
                assert administrator.client_kill_filter(_type="pubsub") == 1

    def test_away(self, own_server, caplog):
        """Without Redis the log says that, and nothing of a missing permission, also in a process without clients."""
        server = own_server()
        manager = SessionManager(store=server.url)
        manager.initSocketReference(object())
        manager.serve()
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1)
        server.stop()
        time.sleep(1.5 * reader.CHECK_INTERVAL)
        manager.close()
        (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        assert "Redis is unreachable" in line

    def test_cut_again_and_again(self, own_server, caplog):
        """While the connection of the subscription is cut all the time, clients still learn of an end."""
        server = own_server()
        manager = SessionManager(store=server.url)
        key = manager.loadNewSession("Luca")
        ended = Watcher(manager, key).ended
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1)
            administrator.delete(*administrator.scan_iter(match="*:s:*"))  # an end of which there is no notice

            def cut():
                time.sleep(0.2)
                administrator.client_kill_filter(_type="pubsub")
                return ended.is_set()

            eventually(cut)
        assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]

    def test_unknown_failure(self, redis_url, prefix, monkeypatch):
        """A failure of the subscription is reported once, and the subscription begins again."""
        get_message, failed, reported = redis.client.PubSub.get_message, [], []
        logouts = []

        def fail(subscription, *args, **options):
            if not failed:
                failed.append(True)
                raise AttributeError("another thread has closed it")
            return get_message(subscription, *args, **options)

        monkeypatch.setattr(redis.client.PubSub, "get_message", fail)
        monkeypatch.setattr(threading, "excepthook", lambda failure: reported.append(failure.exc_type))
        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        manager.on("notifyClientToLogout", lambda io, key: logouts.append(key))
        manager.initSocketReference(object())
        key = manager.loadNewSession("Luca")
        with redis.Redis.from_url(redis_url) as administrator:
            eventually(lambda: administrator.pubsub_numsub(f"{prefix}2:notices")[0][1] == 1 and failed)
        eventually(lambda: manager.sendLogoutMessage(key) and logouts)
        assert reported == [AttributeError]

    def test_detached_while_away(self, own_server):
        """A watcher that is removed while there is no subscription leaves no thread, and the next one gets notices."""
        server, ended = own_server(), threading.Event()

        class Watcher:
            def watched(self):
                return watched

            def noticed(self, notice):
                if notice.kind == "deleted":
                    ended.set()

        def readers():
            return [thread for thread in threading.enumerate() if thread.name == "users-session-manager reader"]

        manager, watcher, watched = SessionManager(store=server.url), Watcher(), {}
        server.stop()
        manager.serve()
        manager.addWatcher(watcher)
        time.sleep(1)
        assert readers()
        manager.removeWatcher(watcher)
        eventually(lambda: not readers())
        server.start()
        key = manager.loadNewSession("Luca")
        watched[manager.getSession(key)._id] = key
        manager.addWatcher(watcher)
        with redis.Redis.from_url(server.url) as administrator:
            eventually(lambda: administrator.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1)
        manager.deleteSession(key)
        assert ended.wait(WAIT)

    def test_close(self, redis_url, prefix, monkeypatch):
        """A process that closes its manager logs no client out: the session goes on."""
        monkeypatch.setattr(reader, "CHECK_INTERVAL", 0.0)  # the reader checks each time it is woken
        notices, is_checked = [], threading.Event()

        class Watcher:
            def watched(self):
                is_checked.set()
                return ids

            def noticed(self, notice):
                notices.append(notice.kind)

        manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix))
        key = manager.loadNewSession("Luca")
        ids = {manager.getSession(key)._id: key}
        manager.addWatcher(Watcher())
        assert is_checked.wait(WAIT)
        time.sleep(0.3)  # now it waits for a notice
        manager.close()
        eventually(lambda: not [thread for thread in threading.enumerate() if "reader" in thread.name])
        assert notices == []


class TestFullMemory:
    def test_full(self, own_server, caplog, monkeypatch):
        """With a full memory logins are refused, in one line of the log, and sessions still end."""
        monkeypatch.setattr(reachability, "_FORGET_AFTER", 600.0)
        server = own_server("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
        manager = SessionManager(store=RedisStore.from_url(server.url))
        ended = []
        manager.on("sessionDeleted", ended.append)
        stays, out = manager.loadNewSession("stays"), manager.loadNewSession("out")
        due = [manager.loadNewSession(f"{number}", timeout=5) for number in range(50)]
        logins = (manager.loadNewSession(f"user {number}", data="x" * 2000) for number in range(100_000))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            list(logins)
        assert manager.checkSessionStatus(stays)
        with pytest.raises(StoreUnavailable):
            manager.loadNewSession("Luca", data="x" * 2000)
        assert manager.checkSessionStatus(stays)
        assert manager.deleteSession(out)
        eventually(lambda: {out, *due} <= set(ended))
        assert len(ended) == len(set(ended))
        assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == ["ERROR"]
