"""The cost of an operation in Redis has a bound, whatever the amount of data; and no name there is a key."""

from __future__ import annotations

import logging
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from users_session_manager import SessionManager

redis = pytest.importorskip("redis")

from users_session_manager.stores.redis import RedisStore  # noqa: E402  # the extra may be missing

LONG = 24 * 60 * 60.0
# On a quiet machine these take about 10 ms.
MANY_GETS = "for _ = 1, 30000 do redis.call('GET', KEYS[1]) end"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server of these tests alone: it counts the commands of all its clients together."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.flushall()
        yield client


class Turned:
    """A manager on Redis whose clock a test turns; only `run_due` lets its store do anything by itself."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        self.now = 1000.0
        self.prefix = f"{secrets.token_hex(8)}:"
        template = redis.Redis.from_url(server.url)
        self.store = RedisStore(template, prefix=self.prefix, now=lambda: self.now, thread=False, **options)
        self.manager = SessionManager(store=self.store)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.store.run_due()


# After many renewals


def cost(client: Any, operation: Callable[[], object]) -> tuple[int, int]:
    """Return how many commands Redis does for an operation, and the microseconds that its scripts take."""
    client.config_resetstat()
    operation()
    stats = client.info("commandstats")
    scripts = [stats[name]["usec"] for name in ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall") if name in stats]
    return sum(each["calls"] for each in stats.values()), sum(scripts)


def lasting(client: Any) -> list[int]:
    """Return the sizes of all that does not go away within minutes."""
    names = [name for name in client.scan_iter(count=1000) if not 0 <= client.ttl(name) <= 300]
    return sorted(client.memory_usage(name, samples=0) for name in names)


@pytest.mark.parametrize("times", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("overlap", [0, 3600])
def test_many_renewals(server, client, overlap, times):
    """A request, a renewal and a logout cost the same after them, and nothing in Redis has grown."""
    turned = Turned(server)
    manager = turned.manager
    manager.setSessionTimeOut(LONG)
    manager.on("sessionDeleted", lambda key: None)

    def renew(key: str, times: int) -> str:
        for _ in range(times):
            key = turned.store.renew_key(key, overlap)[1]
        return key

    def logout(key: str) -> None:
        assert manager.deleteSession(key)
        turned.store.run_due()

    def costs(key: str) -> dict[str, tuple[int, int]]:
        """Return the costs of one session's operations, the last of which ends it."""
        found = {"request": cost(client, lambda: manager.resumeSession(key))}
        new = []
        found["renewal"] = cost(client, lambda: new.append(renew(key, 1)))
        found["logout"] = cost(client, lambda: logout(new[0]))
        return found

    # The first ones load the script and connect.
    few = [costs(renew(manager.loadNewSession("luca"), 10)) for _ in range(22)][1:]
    client.flushall()
    keys = [renew(manager.loadNewSession("luca"), 20) for _ in range(2)]
    before = lasting(client)
    keys = [renew(key, times // 2) for key in keys]
    between = keys[0]
    keys = [renew(key, times // 2) for key in keys]
    after = lasting(client)

    assert len(after) == len(before)
    assert all(size <= size_before + 200 for size, size_before in zip(after, before, strict=True))
    assert len(manager.getSession(keys[0]).formerKeys) <= 8
    assert not manager.findSession(between)
    many = [costs(key) for key in keys]
    for operation in ("request", "renewal", "logout"):
        # A number of commands is exact, but for a few that a regular poll may add. A time may be disturbed, and
        # always towards more.
        commands = statistics.median(each[operation][0] for each in few)
        assert min(each[operation][0] for each in many) <= commands + 10, operation
        took = statistics.median(each[operation][1] for each in few)
        assert min(each[operation][1] for each in many) <= 5 * took, operation


def test_former_keys(server):
    """Eight of them are kept: a ninth ends the overlap of the oldest, and those whose overlap is over are forgotten."""
    turned = Turned(server)
    manager = turned.manager
    manager.setSessionTimeOut(LONG)
    keys = [manager.loadNewSession("luca")]
    keys += [key := manager.renewSessionKey(keys[0], 3600)]
    for _ in range(11):
        keys.append(key := manager.renewSessionKey(key, 3600))
    assert manager.getSession(key).formerKeys == tuple(keys[-9:-1])
    assert [manager.findSession(each) is not None for each in keys] == [False] * (len(keys) - 9) + [True] * 9
    turned.turn(3601)
    assert [manager.findSession(each) is not None for each in keys] == [False] * (len(keys) - 1) + [True]
    newest = manager.renewSessionKey(key)
    assert manager.getSession(newest).formerKeys == (key,)


def test_long_user_id(server, client):
    """The cost of a user's sessions does not grow with the square of the length of the user id."""
    turned = Turned(server)

    def took(user: str) -> int:
        for _ in range(20):
            turned.manager.loadNewSession(user)
        return cost(client, lambda: turned.manager.deleteUserSessions(user))[1]

    took("luca")  # the first one loads the scripts
    rounds = [(took("x" * 1000), took("x" * 10)) for _ in range(5)]  # Redis may wait for the processor in some of them
    long, short = (min(each) for each in zip(*rounds, strict=True))
    assert long <= 5 * short


# With many sessions of one user


@pytest.fixture(scope="module", params=[6_000, pytest.param(60_000, marks=pytest.mark.long)])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The file of a redis-server with that many sessions of one user, their prefix and their number."""
    folder, prefix = tmp_path_factory.mktemp("many"), f"{secrets.token_hex(8)}:"
    server = RedisServer(folder)
    store = RedisStore.from_url(server.url, prefix=prefix, timeout=60)
    for _ in range(request.param):
        store.add("luca", LONG)
    store.close()
    with redis.Redis.from_url(server.url) as client:
        client.save()
    server.stop()
    return folder / "dump.rdb", prefix, request.param


class Measured(redis.Connection):
    """Notes the CPU time of the server's main thread for each call, which other processes hardly change."""

    meter: Any = None
    calls: list[float]

    @classmethod
    def cpu(cls) -> float:
        answer = cls.meter.info("cpu")
        return answer["used_cpu_user_main_thread"] + answer["used_cpu_sys_main_thread"]

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        self._before = self.cpu()
        super().send_packed_command(*args, **options)

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        finally:
            self.calls.append((self.cpu() - self._before) * 1000)


class Crowded:
    """A manager on a server with many sessions, where the time of each call is measured."""

    def __init__(self, server: RedisServer, prefix: str, count: int) -> None:
        self.count = count
        self.calls = Measured.calls = []
        Measured.meter = redis.Redis.from_url(server.url)
        pool = redis.ConnectionPool(connection_class=Measured, host="127.0.0.1", port=server.port)
        self.client = redis.Redis(connection_pool=pool)
        self.store = RedisStore(self.client, prefix=prefix, thread=False)
        self.manager = SessionManager(store=self.store)
        self.manager.setSessionTimeOut(LONG)
        self.ended: list[str] = []
        self.manager.on("sessionDeleted", self.ended.append)

    def longest_call(self, operation: Callable[[], object]) -> tuple[float, float]:
        """Return the milliseconds of the longest call of an operation, and those that are allowed.

        10 ms are, or on a machine that is slow now as many as one call needs for a known number of commands.
        """
        control = [self._longest(lambda: self.client.eval(MANY_GETS, 1, "none")) for _ in range(5)]
        took = self._longest(operation)
        control += [self._longest(lambda: self.client.eval(MANY_GETS, 1, "none")) for _ in range(5)]
        return took, max(10.0, *control)

    def _longest(self, operation: Callable[[], object]) -> float:
        self.calls.clear()
        operation()
        return max(self.calls)


@pytest.fixture
def crowded(many: tuple[Path, str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Crowded]:
    caplog.set_level(logging.INFO, "users_session_manager")  # else it keeps a line for each session
    dump, prefix, count = many
    shutil.copy(dump, tmp_path)
    server = RedisServer(tmp_path)
    crowded = Crowded(server, prefix, count)
    yield crowded
    crowded.manager.close()
    crowded.client.close()
    Measured.meter.close()
    server.stop()


def evict(manager: SessionManager) -> None:
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("luca")


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (lambda manager: manager.deleteUserSessions("luca"), []),
        (evict, ["luca"]),
        (lambda manager: manager.deleteAllSessions(), []),
    ],
    ids=["deleteUserSessions", "setMaxSessionsPerUser", "deleteAllSessions"],
)
def test_end_a_crowd(crowded, end, left):
    """Ending so many sessions, and acknowledging that, never holds Redis for more than 10 ms at once."""

    def end_and_acknowledge() -> None:
        end(crowded.manager)
        crowded.store.run_due()

    took, allowed = crowded.longest_call(end_and_acknowledge)
    assert len(set(crowded.ended)) == len(crowded.ended) == crowded.count
    assert crowded.manager.getLoggedUsers() == left
    assert took <= allowed


@pytest.mark.parametrize(
    "count",
    [
        lambda manager: len(manager.getUserSessions("luca")),
        lambda manager: manager.getLoggedUsers().count("luca"),
        lambda manager: len(manager.sessions),
    ],
    ids=["getUserSessions", "getLoggedUsers", "sessions"],
)
def test_list_a_crowd(crowded, count):
    """Listing so many sessions never holds Redis for more than 10 ms at once."""
    counted = []
    took, allowed = crowded.longest_call(lambda: counted.append(count(crowded.manager)))
    assert counted == [crowded.count]
    assert took <= allowed


# Sizes


def sized(characters: int) -> str:
    """Return a pattern of a number, written with or without commas."""
    return f"{characters:,}".replace(",", ",?")


@pytest.mark.parametrize(
    "login",
    [
        lambda manager, name: manager.loadNewSession(name),
        lambda manager, name: manager.loadNewSession("luca", userId=name),
        lambda manager, name: manager.loadNewSession("luca", securityStamp=name),
    ],
    ids=["username", "userId", "securityStamp"],
)
def test_long_name(server, login):
    """A username, a user id and a security stamp may have 1,000 characters, of whatever kind."""
    turned = Turned(server)
    for letter in ("x", "\N{GRINNING FACE}"):
        with pytest.raises(ValueError, match=sized(1001)):
            login(turned.manager, letter * 1001)
    assert turned.manager.getLoggedUsers() == []
    assert login(turned.manager, "\N{GRINNING FACE}" * 1000)


WRITERS = {
    "loadNewSession": lambda manager, key, data: manager.loadNewSession("luca", data=data),
    "setSessionData": lambda manager, key, data: manager.setSessionData(key, data),
    "updateSessionData": lambda manager, key, data: manager.updateSessionData(key, lambda old: data),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_long_data(server, write):
    """Data may have 1 MiB as JSON, and one byte more changes nothing."""
    turned = Turned(server)
    manager, most = turned.manager, 1024 * 1024
    key = manager.loadNewSession("luca", data="old")
    with pytest.raises(ValueError, match=sized(most + 1)):
        write(manager, key, "x" * (most - 1))
    assert manager.getSessionData(key) == "old"
    assert manager.getLoggedUsers() == ["luca"]
    assert write(manager, key, "x" * (most - 2))


def test_sizes_are_settings(server):
    """Both bounds are options of the store."""
    turned = Turned(server, max_data=10, max_username=5)
    key = turned.manager.loadNewSession("lucas", data="12345678")
    with pytest.raises(ValueError, match="6"):
        turned.manager.loadNewSession("lucass")
    with pytest.raises(ValueError, match="a security stamp may have 5 characters, got 6"):
        turned.manager.renewSessionKey(key, securityStamp="stamps")
    with pytest.raises(ValueError, match="11"):
        turned.manager.setSessionData(key, "123456789")
    assert turned.manager.getSessionData(key) == "12345678"


# Names and notices


class Overheard:
    """The commands and the messages of Redis since the last check."""

    def __init__(self, server: RedisServer, client: Any) -> None:
        self.client = client
        self.subscription = client.pubsub()
        self.subscription.psubscribe("*")
        assert self.subscription.get_message(timeout=60)["type"] == "psubscribe"
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self.socket.sendall(b"MONITOR\r\n")
        self.lines = self.socket.makefile("rb")
        assert self.lines.readline() == b"+OK\r\n"

    def asked(self) -> str:
        token, text = secrets.token_hex(8), ""
        self.client.echo(token)
        while token not in text:
            text += self.lines.readline().decode("latin-1")
        return text

    def published(self) -> str:
        token, text = secrets.token_hex(8), ""
        self.client.publish("the-end", token)
        while token not in text:
            text += str(self.subscription.get_message(timeout=60))
        return text

    def names(self) -> list[str]:
        return [*self.client.scan_iter(count=1000), *self.client.pubsub_channels()]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()
        self.subscription.close()


@pytest.fixture
def overheard(server: RedisServer, client: Any) -> Iterator[Overheard]:
    overheard = Overheard(server, client)
    yield overheard
    overheard.close()


def test_no_key_is_shown(server, overheard):
    """No name in Redis and no notice has a key or its secret, and only a login and a renewal send one."""
    turned = Turned(server)
    manager = turned.manager
    manager.setSessionTimeOut(60)
    manager.setExpiryWarning(10)
    manager.initSocketReference(object())
    happened: list[str] = []
    for event in ("sessionDeleted", "notifyClientToLogout", "sessionExpiring", "sessionRenewed"):
        manager.on(event, lambda *args, event=event: happened.append(event))
    manager.on("error", lambda *args: happened.append("error"))
    keys: list[str] = []
    published = 0

    def step(operation: Callable[[], object], *, sends_key: bool = False) -> Any:
        nonlocal published
        answer = operation()
        if sends_key:
            keys.append(answer)
        asked, notices = overheard.asked(), overheard.published()
        published += notices.count("'data'") - 1
        for secret in [key.partition("_")[2] for key in keys]:
            assert not [name for name in overheard.names() if secret in name]
            assert secret not in notices
            assert sends_key or secret not in asked
        return answer

    def login() -> str:
        return step(lambda: manager.loadNewSession("luca", data={"a": 1}), sends_key=True)

    key = login()
    keys.append(f"{key.partition('_')[0]}_{'0123456789ABCDEF' * 2}")  # one that no session has
    for each in [*keys]:
        step(lambda each=each: manager.checkSessionStatus(each))
        step(lambda each=each: manager.restartSessionTimer(each))
        step(lambda each=each: manager.setSessionData(each, {"b": 2}))
        step(lambda each=each: manager.getSessionData(each))
        step(lambda each=each: manager.findSession(each))
        step(lambda each=each: manager.sendLogoutMessage(each))
    step(lambda: manager.deleteSession(keys[1]))
    step(lambda: manager.updateSessionData(key, lambda data: {"c": 3}))
    step(lambda: manager.getSessionTimeLeft(key))
    renewed = step(lambda: manager.renewSessionKey(key, 30), sends_key=True)
    step(lambda: manager.resumeSession(key))
    step(lambda: manager.resumeSession(renewed))
    step(turned.store.run_due)
    other = login()
    step(lambda: manager.getUserSessions("luca"))
    step(lambda: manager.getLoggedUsers())
    step(lambda: [*manager.sessions])
    step(lambda: manager.deleteUserSessions("luca", exceptKey=renewed))
    step(turned.store.run_due)
    assert not manager.findSession(other)
    step(lambda: manager.deleteSession(renewed))
    step(turned.store.run_due)
    login()
    step(lambda: turned.turn(51))
    step(lambda: turned.turn(10))
    login()
    manager.setMaxSessionsPerUser(1)
    login()
    step(turned.store.run_due)
    step(manager.deleteAllSessions)
    step(turned.store.run_due)
    assert {"sessionDeleted", "notifyClientToLogout", "sessionExpiring", "sessionRenewed", "error"} == set(happened)
    assert happened.count("sessionDeleted") == 5
    assert published >= 5
    step(manager.close)


def test_names_have_the_version(server, client):
    """All that is in Redis, and the channel of the notices, begins with the prefix and the version of the layout."""
    turned = Turned(server)
    manager = turned.manager
    manager.initSocketReference(object())
    manager.on("sessionDeleted", lambda key: None)
    manager.setExpiryWarning(10)
    key = manager.renewSessionKey(manager.loadNewSession("luca", data={"a": 1}), 30)
    manager.loadNewSession("mia")
    turned.store.run_due()
    names = [*client.scan_iter(), *client.pubsub_channels()]
    manager.deleteSession(key)
    names += client.scan_iter()
    turned.store.run_due()
    names += client.scan_iter()
    assert len(names) > 5
    assert not [name for name in names if not name.startswith(f"{turned.prefix}2:")]


@pytest.mark.parametrize("is_there", [True, False], ids=["old layout", "only the new one"])
def test_layout_one_beside(server, client, caplog, is_there):
    """Sessions of the layout before are not read, and the log says so once."""
    turned = Turned(server)
    old = "Otter-candid-46-k3xq_" + "0123456789ABCDEF" * 2
    for group in range(16 if is_there else 0):
        name = f"{turned.prefix}{{{group}}}:"
        client.zadd(f"{name}due", {old: time.time() + LONG})
        client.zadd(f"{name}u:luca", {old: time.time()})
        fields = {"key": old, "user": "luca", "created": time.time(), "authenticated": time.time()}
        fields |= {"deadline": time.time() + LONG, "limit": "inf", "started_at": time.time(), "serial": 1}
        client.hset(f"{name}s:{old}", mapping=fields)
        client.set(f"{name}listens", 1)
    with caplog.at_level(logging.WARNING):
        key = turned.manager.loadNewSession("luca")
        for _ in range(3):
            turned.turn(5)
            turned.manager.resumeSession(key)
        turned.manager.stop()
        turned.manager.resumeSession(key)
        turned.turn(5)
    assert turned.manager.findSession(old) is None
    assert turned.manager.getLoggedUsers() == ["luca"]
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == is_there
    assert not [record for record in warnings if "0123456789ABCDEF" in record.getMessage()]
