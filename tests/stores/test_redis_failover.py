"""Sessions in a Redis that fails: demoted, moved, loading, cut off, restarted, with another password, behind TLS."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificate import make_certificate
from failover_load import Load
from redis_failover import (
    Servers,
    Stalls,
    bound,
    free_port,
    holding_back,
    is_in_sync,
    masters_with_replicas,
)
from redis_server import RedisServer
from threads import run_together
from waiting import WAIT, eventually

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable

redis = pytest.importorskip("redis")

from redis.backoff import NoBackoff  # noqa: E402  # the extra may be missing
from redis.crc import key_slot  # noqa: E402
from redis.credentials import CredentialProvider  # noqa: E402
from redis.retry import Retry  # noqa: E402
from redis.sentinel import Sentinel  # noqa: E402

from users_session_manager.stores.redis import RedisStore  # noqa: E402

WORKER = Path(__file__).with_name("failover_worker.py")
# How soon a store has to be well again once Redis is.
SOON = bound(1.0)
# How long a call waits for an answer.
TIMEOUT = 4.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path) as servers:
        yield servers


@pytest.fixture
def open_manager() -> Iterator[Callable[..., SessionManager]]:
    """A callable that makes the manager, which is closed before the servers are stopped."""
    with contextlib.ExitStack() as stack:

        def open_manager(client: Any) -> SessionManager:
            store = RedisStore.from_url(client, timeout=TIMEOUT) if isinstance(client, str) else RedisStore(client)
            manager = SessionManager(store=store)
            stack.callback(manager.close)
            return manager

        yield open_manager


class Listening:
    """A process of its own that hears which clients are to be logged out."""

    def __init__(self, url: str, log: Path) -> None:
        self.heard: list[str] = []
        self.log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.heard == ["ready"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.heard.append(line.decode().strip())

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(WAIT) == 0
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join(WAIT)
            self._process.stdout.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[str], Listening]]:
    with contextlib.ExitStack() as stack:

        def start(url: str) -> Listening:
            process = Listening(url, tmp_path / "listening.log")
            stack.callback(process.end)
            return process

        yield start


def refused(call: Callable[[], Any]) -> bool:
    """Return whether a call is refused because of Redis."""
    try:
        call()
    except StoreUnavailable:
        return True
    return False


def until_answered(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call again and again; return after how many seconds there was an answer, and the answer."""
    start, answers = time.monotonic(), []
    while refused(lambda: answers.append(call())):
        assert time.monotonic() - start < WAIT, "it does not get well"
        time.sleep(0.01)
    return time.monotonic() - start, answers[0]


def until_heard(manager: SessionManager, has_heard: Callable[[], Any]) -> float:
    """Log a user out again and again, until another process has heard of it; return after how many seconds."""
    start = time.monotonic()
    while not has_heard():
        manager.loadNewSession("logged out")
        manager.deleteUserSessions("logged out")
        assert time.monotonic() - start < WAIT
        time.sleep(0.1)
    return time.monotonic() - start


def passive_calls(manager: SessionManager, key: str, user: str) -> list[Callable[[], Any]]:
    """The operations that only read."""
    return [
        lambda: manager.checkSessionStatus(key),
        lambda: manager.getSession(key),
        lambda: manager.findSession(key),
        lambda: manager.getSessionDetails(key),
        lambda: manager.getSessionData(key),
        lambda: manager.getSessionTimeLeft(key),
        lambda: manager.getUsernameFromSessionKey(key),
        lambda: manager.getUserSessions(user),
        lambda: manager.sessions[key],
        lambda: list(manager.sessions),
        lambda: len(manager.sessions),
        manager.getLoggedUsers,
    ]


def changing_calls(manager: SessionManager, key: str, user: str) -> list[Callable[[], Any]]:
    return [
        lambda: manager.loadNewSession(user),
        lambda: manager.restartSessionTimer(key),
        lambda: manager.resumeSession(key),
        lambda: manager.renewSessionKey(key),
        lambda: manager.setSessionData(key, 1),
        lambda: manager.deleteSession(key),
        lambda: manager.deleteUserSessions(user),
        manager.deleteAllSessions,
    ]


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The levels of what an administrator sees in the log."""
    records = [record for record in caplog.records if record.name == "users_session_manager"]
    return [record.levelname for record in records if record.levelname not in ("DEBUG", "INFO")]


def check_ends(manager: SessionManager, ended: list[str]) -> None:
    """Sessions that end from now on are announced once."""
    expires, deleted = manager.loadNewSession("expires", timeout=2), manager.loadNewSession("deleted")
    manager.deleteSession(deleted)
    eventually(lambda: {expires, deleted} <= {*ended})
    assert len(ended) == len({*ended})


def ended_of(manager: SessionManager) -> list[str]:
    ended: list[str] = []
    manager.on("sessionDeleted", ended.append)
    return ended


ONCE = ["ERROR", "WARNING"]


class TestDemoted:
    """One name, as managed services have it: the old master becomes a replica, and its connections stay open."""

    @pytest.mark.parametrize("stale", ["yes", "no"], ids=["readonly", "masterdown"])
    def test_moved_later(self, servers, open_manager, listening, caplog, stale):
        """Nothing is answered by a demoted node, and soon all is well once the name is that of the new master."""
        old, new = servers.master_and_replica("--replica-serve-stale-data", stale)
        name = servers.proxy(old.port)
        manager = open_manager(name.url)
        ended, elsewhere = ended_of(manager), listening(name.url)
        key = manager.loadNewSession("Luca")
        # Many connections are open, as in a server with threads.
        run_together(lambda number: manager.checkSessionStatus(key), 8)
        eventually(lambda: servers.client(new.port).dbsize() == servers.client(old.port).dbsize())

        servers.client(new.port).replicaof("NO", "ONE")
        gone = manager.loadNewSession("gone")  # what the old master has not passed on
        assert manager.checkSessionStatus(gone) is True
        with contextlib.closing(NoServer()) as nowhere:
            # It is not in sync with the new one yet, so it still has data that no other node has.
            servers.client(old.port).replicaof("127.0.0.1", nowhere.port)
            calls = [*passive_calls(manager, gone, "gone"), *changing_calls(manager, gone, "gone")]
            until = time.monotonic() + 3  # long enough for a process that has no requests to see it
            while time.monotonic() < until:
                assert all(refused(call) for call in calls)

            with Stalls() as stalls:
                name.target = new.port
                took, _ = until_answered(lambda: manager.restartSessionTimer(key))
                print(
                    f"well again {took:.3f} s after the name had moved, in a machine that stalls {stalls.longest:.3f} s"
                )
                check_only_the_new_one_answers(manager, key, gone)
                run_together(lambda number: check_only_the_new_one_answers(manager, key, gone), 8)
                assert took < SOON + stalls.longest

                took = until_heard(manager, lambda: len(elsewhere.heard) > 1)
                print(f"another process hears of ends {took:.3f} s later")
                assert took < 2 * SOON + stalls.longest
            check_ends(manager, ended)
            last = manager.loadNewSession("logged out")
            manager.deleteUserSessions("logged out")
            eventually(lambda: last in elsewhere.heard)
        assert log_lines(caplog) == ONCE
        assert len(elsewhere.log.read_text().splitlines()) == 2, elsewhere.log.read_text()

    def test_subscription_left_behind(self, servers, open_manager, listening):
        """A subscription stays with the old master, while all other connections are to the new one: it is made anew."""
        old, new = servers.start(), servers.start()
        name = servers.proxy(old.port)
        manager, elsewhere = open_manager(name.url), listening(name.url)
        looker = servers.client(old.port)
        eventually(lambda: looker.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1)
        manager.loadNewSession("logged out")
        manager.deleteUserSessions("logged out")
        eventually(lambda: len(elsewhere.heard) == 2)
        name.target = new.port
        looker.client_kill_filter(_type="normal")
        assert looker.pubsub_numsub("users-session-manager:2:notices")[0][1] == 1
        print(f"it hears of ends after {until_heard(manager, lambda: len(elsewhere.heard) > 2):.1f} s")

    def test_connects_again(self, servers):
        """A subscription to two channels that redis-py makes again says once that notices may be missing."""
        server = servers.start()
        with contextlib.closing(RedisStore.from_url(server.url, thread=False)) as store:
            batches = store._scripts.subscribe(0.05, logins=True)
            assert next(batches) == []
            for _ in range(2):
                assert servers.client(server.port).client_kill_filter(_type="pubsub") == 1
                heard = [notice.kind for _ in range(10) for notice in next(batches)]
                assert heard == ["missed"]

    def test_full_pool(self, servers):
        """While no connection is left for the check of a subscription, it goes on, and hears what comes."""
        url = servers.start().url
        pool = redis.ConnectionPool.from_url(url, max_connections=3)
        with contextlib.closing(RedisStore(redis.Redis(connection_pool=pool), thread=False)) as store:
            batches = store._scripts.subscribe(0.05)
            assert next(batches) == []
            with contextlib.ExitStack() as stack:
                own = store._scripts.client.get().connection_pool
                for _ in range(2):
                    stack.callback(own.release, own.get_connection())
                assert [next(batches) for _ in range(20)] == [[]] * 20
                with contextlib.closing(RedisStore.from_url(url)) as other:
                    other.remove(other.add("Luca", 60)[0])
                assert any(next(batches) for _ in range(20))

    def test_moved_at_once(self, servers, open_manager, caplog):
        """A name that moves as the old master is demoted: the next request opens connections to the new one."""
        old, new = servers.master_and_replica()
        name = servers.proxy(old.port)
        manager = open_manager(name.url)
        ended = ended_of(manager)
        key = manager.loadNewSession("Luca")
        run_together(lambda number: manager.checkSessionStatus(key), 8)
        eventually(lambda: servers.client(new.port).dbsize() == servers.client(old.port).dbsize())
        name.target = new.port
        servers.client(new.port).replicaof("NO", "ONE")
        gone = manager.loadNewSession("gone")  # by a connection to the old master
        assert manager.checkSessionStatus(gone) is True
        with contextlib.closing(NoServer()) as nowhere, Stalls() as stalls:
            servers.client(old.port).replicaof("127.0.0.1", nowhere.port)
            for call in passive_calls(manager, gone, "gone"):
                start = time.monotonic()
                with contextlib.suppress(SessionRejected, StoreUnavailable, KeyError):
                    assert call() in (None, False, 1, [], [key], ["Luca"])
                assert time.monotonic() - start < SOON + stalls.longest
            took, _ = until_answered(lambda: manager.restartSessionTimer(key))
            check_only_the_new_one_answers(manager, key, gone)
            print(f"well again {took:.3f} s after that")
            assert took < SOON + stalls.longest
            check_ends(manager, ended)
        assert log_lines(caplog) in ([], ONCE)


class NoServer:
    """A port at which nothing answers."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # not listening, so it refuses
        self.port = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def check_only_the_new_one_answers(manager: SessionManager, key: str, gone: str) -> None:
    """All answers are of a master that has the session of `key`, and not that of `gone`."""
    assert manager.getSession(key).username == "Luca"
    for call in (manager.checkSessionStatus, manager.getSession, manager.getSessionDetails, manager.getSessionTimeLeft):
        with pytest.raises(SessionRejected):
            call(gone)
    assert manager.findSession(gone) is None
    assert manager.getUsernameFromSessionKey(gone) is False
    assert manager.getUserSessions("gone") == []
    assert list(manager.sessions) == [key]
    assert len(manager.sessions) == 1
    assert manager.getLoggedUsers() == ["Luca"]


class TestRestarted:
    @pytest.mark.parametrize("keeps", [True, False], ids=["persistence", "none"])
    def test_restarted(self, servers, open_manager, caplog, keeps):
        """A server that is restarted with its sessions, or without any."""
        server = servers.start(*(("--appendonly", "yes") if keeps else ()))
        manager = open_manager(server.url)
        ended = ended_of(manager)
        key = manager.loadNewSession("Luca")
        server.stop()
        assert all(refused(call) for call in passive_calls(manager, key, "Luca"))
        server.start()
        with Stalls() as stalls:
            took, user = until_answered(lambda: manager.getUsernameFromSessionKey(key))
            print(f"well again {took:.3f} s after the start")
            assert took < SOON + stalls.longest
        assert user == ("Luca" if keeps else False)
        assert manager.getLoggedUsers() == (["Luca"] if keeps else [])
        check_ends(manager, ended)
        assert log_lines(caplog) == ONCE

    def test_loading(self, servers, open_manager, listening, caplog):
        """A server that still reads its file when it is asked, and answers `LOADING`."""
        server = servers.start()
        manager = open_manager(server.url)
        ended, elsewhere = ended_of(manager), listening(server.url)
        key = manager.loadNewSession("Luca")
        client = servers.client(server.port)
        client.mset({f"other {number}": number for number in range(1000)})
        client.save()
        server.stop()
        assert refused(lambda: manager.checkSessionStatus(key))
        servers.start_loading(server, "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
        eventually(lambda: is_loading(client))
        calls = [*passive_calls(manager, key, "Luca"), lambda: manager.restartSessionTimer(key)]
        for call in itertools.cycle(calls):
            if not refused(call):
                assert not is_loading(client)
                break
        with Stalls() as stalls:
            took, answer = until_answered(lambda: manager.restartSessionTimer(key))
            print(f"well again {took:.3f} s after it had loaded")
            assert answer is True
            assert took < SOON + stalls.longest
        assert manager.getLoggedUsers() == ["Luca"]
        check_ends(manager, ended)
        last = manager.loadNewSession("logged out")
        manager.deleteUserSessions("logged out")
        eventually(lambda: last in elsewhere.heard)
        assert log_lines(caplog) == ONCE


def is_loading(client: Any) -> bool:
    try:
        return bool(client.info("persistence")["loading"])
    except redis.ConnectionError:
        return False


class Rotating(CredentialProvider):
    """Knows the password of the moment, as a client of a vault does."""

    password = "first"

    def get_credentials(self) -> tuple[str, str]:
        return "sessions", self.password


def client_with(credentials: CredentialProvider, port: int) -> Any:
    return redis.Redis(port=port, credential_provider=credentials, socket_timeout=TIMEOUT, retry=Retry(NoBackoff(), 1))


class TestPassword:
    def test_rotated(self, servers, open_manager, listening, caplog):
        """A password that is changed: soon all is well once the client's credential provider has the new one."""
        server = servers.start()
        client = servers.client(server.port)
        client.execute_command("ACL SETUSER sessions on >first ~* &* +@all")
        credentials = Rotating()
        manager = open_manager(client_with(credentials, server.port))
        manager.initSocketReference(object())
        ended = ended_of(manager)
        key = manager.loadNewSession("Luca")
        run_together(lambda number: manager.checkSessionStatus(key), 8)

        client.execute_command("ACL SETUSER sessions resetpass >second")
        client.execute_command("CLIENT KILL USER sessions")  # as when a token has expired
        for _ in range(3):
            for call in [*passive_calls(manager, key, "Luca"), *changing_calls(manager, key, "Luca")]:
                assert refused(call)
        with Stalls() as stalls:
            credentials.password = "second"
            took, answer = until_answered(lambda: manager.restartSessionTimer(key))
            print(f"well again {took:.3f} s after the provider had the new password")
            assert answer is True
            assert took < SOON + stalls.longest
        check_ends(manager, ended)
        check_notices(manager)
        assert log_lines(caplog) == ONCE

    def test_reconnects_with_the_new(self, servers, open_manager, caplog):
        """A provider that has the new password first: no request is refused."""
        server = servers.start()
        client = servers.client(server.port)
        client.execute_command("ACL SETUSER sessions on >first ~* &* +@all")
        credentials = Rotating()
        manager = open_manager(client_with(credentials, server.port))
        key = manager.loadNewSession("Luca")
        run_together(lambda number: manager.checkSessionStatus(key), 8)
        client.execute_command("ACL SETUSER sessions resetpass >second")
        credentials.password = "second"
        client.execute_command("CLIENT KILL USER sessions")
        run_together(lambda number: manager.checkSessionStatus(key), 8)
        assert log_lines(caplog) == []


class TestCut:
    @pytest.mark.parametrize(
        ("seconds", "timeout"), [(5, TIMEOUT), pytest.param(20, 2.0, marks=pytest.mark.slow)], ids=["short", "long"]
    )
    def test_cut(self, servers, caplog, listening, seconds, timeout):
        """Nothing passes for a while and no connection is closed: no end is lost, and soon all is well."""
        server = servers.start()
        name = servers.proxy(server.port)
        manager = SessionManager(store=RedisStore.from_url(name.url, timeout=timeout))
        ended: dict[str, float] = {}
        seen: list[str] = []
        manager.on("sessionDeleted", lambda key: ended.setdefault(key, time.monotonic()))
        manager.on("sessionDeleted", seen.append)
        elsewhere = listening(name.url)
        key = manager.loadNewSession("Luca")
        short = [manager.loadNewSession(f"{number}", timeout=2 + number / 10) for number in range(20)]
        run_together(lambda number: manager.checkSessionStatus(key), 8)

        name.cut()
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            assert refused(lambda: manager.checkSessionStatus(key))
            assert refused(lambda: manager.restartSessionTimer(short[0]))
        with Stalls() as stalls:
            name.heal()
            healed = time.monotonic()
            took, answer = until_answered(lambda: manager.restartSessionTimer(key))
            print(f"well again {took:.3f} s after a cut of {seconds} s")
            assert answer is True
            assert took < SOON + stalls.longest
            eventually(lambda: {*short} <= ended.keys())
            latest = max(ended[one] for one in short) - healed
            print(f"the last end was announced {latest:.3f} s after it")
            assert latest < bound(2) + stalls.longest
            # A process without any request of its own hears of ends again, too.
            took = until_heard(manager, lambda: {*elsewhere.heard} - {"ready", *short})
            print(f"another process hears of ends {took:.3f} s later")
        check_ends(manager, seen)
        assert log_lines(caplog) == ONCE
        manager.close()


class TestFailover:
    """Another server takes over, while threads use their sessions.

    The last changes are kept from the replica on purpose: replication is asynchronous, and what it has not passed on
    is lost with the master. Such changes are counted. All else has to be there.
    """

    @pytest.mark.parametrize(
        "ways", ["kill", pytest.param("kill stop kill stop kill", marks=pytest.mark.long)], ids=["one", "five"]
    )
    def test_sentinel(self, servers, open_manager, ways):
        """Sentinel makes the replica of a killed, or of a stopped, master the new one."""
        master, replica = servers.master_and_replica()
        ports = servers.sentinels(master)
        asked = [servers.client(port) for port in ports]
        sentinel = Sentinel([("127.0.0.1", port) for port in ports], socket_timeout=TIMEOUT)
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 1)}
        with contextlib.closing(sentinel.master_for("sessions", **limits)) as client:
            manager = open_manager(client)
            manager.initSocketReference(object())
            load = Load(manager)
            for way in ways.split():

                def is_named(port: int = replica.port) -> bool:
                    """Whether a sentinel has seen that the replica is the master, which it asks once a second."""
                    return any(one.sentinel_get_master_addr_by_name("sessions")[1] == port for one in asked)

                fail_over(servers, manager, load, master, replica, "witness", is_named, way)
                master, replica = replica, master
                old = servers.client(replica.port)
                old.replicaof("127.0.0.1", master.port)  # Sentinel would do it ten seconds later
                eventually(lambda old=old: is_in_sync(old))
                for port in ports:
                    eventually(lambda port=port: servers.has_fit_replica(port))
        for one in sentinel.sentinels:
            one.close()

    @pytest.mark.parametrize(
        "ways", ["kill ask", pytest.param("kill stop ask kill stop", marks=pytest.mark.long)], ids=["two", "five"]
    )
    def test_cluster(self, servers, open_manager, ways):
        """In a cluster the replica of a killed or of a stopped master takes over, or one that was asked to."""
        pairs = servers.cluster()
        master, replica = pairs[0]
        nodes_by_port = {each.port: servers.client(each.port) for pair in pairs for each in pair}
        # Of the first third of all slots.
        witness = next(name for name in map("witness {}".format, itertools.count()) if key_slot(name.encode()) < 5000)
        with contextlib.closing(
            redis.RedisCluster("127.0.0.1", master.port, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        ) as client:
            manager = open_manager(client)
            manager.initSocketReference(object())
            load = Load(manager)
            for way in ways.split():

                def is_named(port: int = replica.port) -> bool:
                    """Whether the cluster serves again, in the eyes of the new master."""
                    return port in {slots[2][1] for slots in nodes_by_port[port].execute_command("CLUSTER SLOTS")}

                fail_over(servers, manager, load, master, replica, witness, is_named, way)
                master, replica = replica, master
                old = servers.client(replica.port)
                eventually(lambda old=old: is_in_sync(old))
                for node in nodes_by_port.values():
                    eventually(lambda node=node: len(masters_with_replicas(node)) == 3)


def fail_over(
    servers: Servers,
    manager: SessionManager,
    load: Load,
    master: RedisServer,
    replica: RedisServer,
    witness: str,
    is_named: Callable[[], bool],
    way: str,
) -> None:
    """Let a replica take over from its master under load, and check all that was done.

    Args:
        witness: The name of a key of that master: once the replica has it, it has all that came before.
        is_named: Whether clients can find out that the replica is the new master.
        way: Whether to `kill` the master, to `stop` it, so that it is silent and later still thinks that it is the
            master, or to `ask` the replica of a cluster, which loses nothing.
    """
    old, new = servers.client(master.port), servers.client(replica.port)
    probes = [manager.loadNewSession(f"probe {number}") for number in range(32)]
    with Stalls() as stalls, load:
        acknowledged, until = 0.0, time.monotonic() + 1
        while time.monotonic() < until or not acknowledged:
            now = time.monotonic()
            old.set(witness, now)
            if old.wait(1, 1000) >= 1:
                acknowledged = now
            time.sleep(0.02)
        if way == "ask":
            new.execute_command("CLUSTER FAILOVER")
        else:
            with holding_back(old, new):
                time.sleep(0.3)
                master.process.send_signal(signal.SIGKILL if way == "kill" else signal.SIGSTOP)
        failed = time.monotonic()
        eventually(lambda: new.role()[0] == "master")
        eventually(lambda: way != "ask" or old.role()[0] == "slave")
        promoted = time.monotonic()
        eventually(is_named)
        named = time.monotonic()
        took, answers = until_answered(lambda: [manager.restartSessionTimer(probe) for probe in probes])
        assert answers == [True] * len(probes)
        if way == "stop":  # it does not know yet that there is another master
            master.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    if way == "kill":
        master.process.wait()
        master.start()
    changes, lost = load.check(acknowledged, promoted)
    print(
        f"{way}: {promoted - failed:.2f} s later the other is the master, {named - promoted:.2f} s later clients can "
        f"know, {took:.3f} s later all is well. The machine stalled for {stalls.longest:.3f} s. "
        f"{changes} changes, of which {lost} had not been passed on; {load.unavailable} calls refused so far"
    )
    # A call to a silent server takes as long as the client waits for it.
    assert took < SOON + stalls.longest + (TIMEOUT if way == "stop" else 0)
    assert lost == 0 if way == "ask" else lost < changes / 2
    for number in range(len(probes)):
        manager.deleteUserSessions(f"probe {number}")
    check_notices(manager)


def check_notices(manager: SessionManager) -> None:
    """Wait until this process hears of the ends of sessions that have clients."""
    heard: list[str] = []
    manager.on("notifyClientToLogout", lambda io, key: heard.append(key))

    def hears() -> list[str]:
        manager.loadNewSession("logged out")
        manager.deleteUserSessions("logged out")
        return heard

    start = time.monotonic()
    eventually(hears)
    print(f"notices are heard {time.monotonic() - start:.3f} s later")
    manager.remove_all_listeners("notifyClientToLogout")


class TestTLS:
    @pytest.fixture
    def start(self, servers, tmp_path) -> Callable[[str], tuple[int, Path]]:
        """A callable that starts a server with a certificate for an address; it returns port and certificate."""

        def start(address: str) -> tuple[int, Path]:
            certificate, key = make_certificate(tmp_path, address)
            files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
            port = free_port()
            servers.start("--tls-port", str(port), *files, "--tls-ca-cert-file", str(certificate))
            return port, certificate

        return start

    def test_works(self, start, listening, caplog):
        """An address that begins with `rediss://`: sessions, ends and notices."""
        port, certificate = start("127.0.0.1")
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        manager = SessionManager(store=url)
        ended, elsewhere = ended_of(manager), listening(url)
        key = manager.loadNewSession("Luca", data={"a": 1})
        assert manager.getSession(key).data == {"a": 1}
        check_ends(manager, ended)
        manager.deleteUserSessions("Luca")
        eventually(lambda: key in elsewhere.heard)
        assert log_lines(caplog) == []
        manager.close()

    @pytest.mark.parametrize("wrong", ["unknown authority", "other address", "no TLS"])
    def test_refused(self, start, tmp_path, caplog, wrong):
        """A server whose certificate is not trusted gets nothing to see; the error says why."""
        port, certificate = start("127.0.0.2" if wrong == "other address" else "127.0.0.1")
        reason = "certificate"
        if wrong == "unknown authority":
            certificate, _ = make_certificate(tmp_path, "127.0.0.3")
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        if wrong == "no TLS":
            url, reason = f"redis://127.0.0.1:{port}/0", "Redis is unreachable"
        manager = SessionManager(store=url)
        for call in (manager.getLoggedUsers, lambda: manager.getUserSessions("Luca"), lambda: len(manager.sessions)):
            assert refused(call)
        with pytest.raises(StoreUnavailable, match=reason):
            manager.loadNewSession("Luca")
        assert log_lines(caplog) == ["ERROR"]
        manager.close()
