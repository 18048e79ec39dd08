"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse

from users_session_manager import SessionError, SessionRejected, StoreUnavailable, TooManySessions
from users_session_manager.integrations.prometheus import instrument

PREFIX = "users_session_manager_"
NAMES = {"sessions", "sessions_created", "sessions_ended", "rejections", "session_duration_seconds"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def values(registry: CollectorRegistry) -> dict[str, float]:
    """Return what a scrape reads, but for the buckets and the times at which counters were made."""
    return {
        sample.name.removeprefix(PREFIX) + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in parse(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created")) or sample.name.endswith("_created_total")
    }


def test_missing_client():
    """Without the client library, the import says what to install."""
    code = "import sys; sys.modules['prometheus_client'] = None; import users_session_manager.integrations.prometheus"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "prometheus-client is not installed: pip install 'users-session-manager[prometheus]'" in ended.stderr


def test_import_registers_nothing():
    """The import registers nothing."""
    code = """if True:
        import prometheus_client
        before = prometheus_client.generate_latest()
        import users_session_manager.integrations.prometheus
        assert b"users_session_manager" not in prometheus_client.generate_latest()
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_zeros(manager, registry):
    """Every number is there from the beginning."""
    instrument(manager, registry=registry)
    assert values(registry) == {
        "sessions": 0,
        "sessions_created_total": 0,
        "sessions_ended_total deleted": 0,
        "sessions_ended_total expired": 0,
        "sessions_ended_total evicted": 0,
        "rejections_total": 0,
        "session_duration_seconds_count": 0,
        "session_duration_seconds_sum": 0,
    }


def test_reasons(manager, clock, registry):
    """Sessions are counted with the reason of their end."""
    instrument(manager, registry=registry)
    keys = [manager.loadNewSession(name) for name in ("Luca", "Luca", "Fabio", "Gino")]
    manager.deleteSession(keys[0])
    clock.turn(3000)
    manager.loadNewSession("Luca")
    manager.loadNewSession("Fabio")
    now = values(registry)
    assert (now["sessions"], now["sessions_created_total"]) == (2, 6)
    assert (now["sessions_ended_total deleted"], now["sessions_ended_total expired"]) == (1, 3)
    manager.deleteAllSessions()
    now = values(registry)
    assert (now["sessions"], now["sessions_ended_total deleted"], now["sessions_ended_total evicted"]) == (0, 3, 0)
    assert now["session_duration_seconds_count"] == 6


def test_evicted_and_refused(manager, registry):
    """A session that made room for another is evicted; one that was refused is not counted."""
    instrument(manager, registry=registry)
    manager.setMaxSessionsPerUser(1)
    for _ in range(3):
        manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(1, overflow="reject")
    with pytest.raises(TooManySessions):
        manager.loadNewSession("Luca")
    now = values(registry)
    assert (now["sessions"], now["sessions_created_total"]) == (1, 3)
    assert (now["sessions_ended_total evicted"], now["sessions_ended_total deleted"]) == (2, 0)


def test_renewal(manager, registry, monkeypatch):
    """A renewal is no end and no login."""
    instrument(manager, registry=registry)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    key = manager.loadNewSession("Luca")
    before = values(registry)
    now += 10
    key = manager.renewSessionKey(key)
    assert values(registry) == before
    now += 10
    manager.deleteUserSessions("Luca")
    assert values(registry)["session_duration_seconds_sum"] == pytest.approx(20)
    assert values(registry)["sessions_ended_total deleted"] == 1


@pytest.mark.parametrize("store_kind", ["memory", "redis", "sqlite", "postgresql"])
def test_gauge(manager, clock, registry):
    """The gauge counts the sessions that there are at the scrape, those from before it was instrumented as well."""
    keys = [manager.loadNewSession("Luca") for _ in range(3)]
    instrument(manager, registry=registry)
    assert values(registry)["sessions"] == 3
    manager.deleteSession(keys[0])
    manager.renewSessionKey(keys[1], 60)
    assert values(registry)["sessions"] == 2
    clock.turn(3000)
    assert values(registry)["sessions"] == 0
    assert values(registry)["sessions_ended_total expired"] == 2


@pytest.mark.parametrize("store_kind", ["redis"])
def test_gauge_at_the_deadline(manager, clock, registry):
    """In a shared store it is right at the very deadline, announced or not: a scrape may come to any process."""
    manager.loadNewSession("Luca")
    instrument(manager, registry=registry)
    clock.seconds += 2999.9
    assert values(registry)["sessions"] == 1
    clock.seconds += 0.1
    assert values(registry)["sessions"] == 0
    assert values(registry)["sessions_ended_total expired"] == 0


@pytest.mark.parametrize("store_kind", ["memory", "redis", "sqlite", "postgresql"])
def test_counts_without_listing(manager, clock, registry, monkeypatch):
    """A scrape lists no session, however many there are."""
    instrument(manager, registry=registry)
    manager.loadNewSession("Luca")

    def fail(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(type(clock.store), "usernames", fail)
    monkeypatch.setattr(type(manager.sessions), "__iter__", fail)
    assert values(registry)["sessions"] == 1


def test_durations(manager, registry, monkeypatch):
    """Durations are in buckets from seconds to a day, and never negative."""
    instrument(manager, registry=registry)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    lasted = (1, 59, 3601, 90_000, -5)  # the last one: the computer's clock was set back
    for seconds in lasted:
        key = manager.loadNewSession("Luca")
        now += seconds
        manager.deleteSession(key)
    (family,) = [f for f in parse(generate_latest(registry).decode()) if f.name == f"{PREFIX}session_duration_seconds"]
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets[5] == 2
    assert buckets[60] == 3
    assert (buckets[3600], buckets[7200]) == (3, 4)
    assert (buckets[86400], buckets[float("inf")]) == (4, 5)
    assert values(registry)["session_duration_seconds_sum"] == pytest.approx(1 + 59 + 3601 + 90_000)


def test_rejections(manager, registry):
    """Rejections are counted and stay exceptions."""
    instrument(manager, registry=registry)
    for key in ("unknown", None, []):
        with pytest.raises(SessionRejected):
            manager.checkSessionStatus(key)
    assert values(registry)["rejections_total"] == 3
    manager.on("error", lambda *_: None)
    assert manager.restartSessionTimer("unknown") is False
    assert values(registry)["rejections_total"] == 4


def test_no_names(manager, clock, registry):
    """No username and no part of a key is in the metrics."""
    instrument(manager, registry=registry)
    keys = [manager.loadNewSession(name) for name in ("Lucrezia", "Fabrizio")]
    manager.deleteSession(keys[0])
    clock.turn(3000)
    text = generate_latest(registry).decode()
    for secret in ("Lucrezia", "Fabrizio", *keys, *(key.partition("_")[0] for key in keys)):
        assert secret not in text


def test_names(manager, registry):
    """Names, kinds and units are those of Prometheus."""
    instrument(manager, registry=registry)
    families = list(parse_open_metrics(generate_open_metrics(registry).decode()))
    assert {family.name for family in families} == {PREFIX + name for name in NAMES}
    assert {family.type for family in families} == {"gauge", "counter", "histogram"}
    assert all(family.documentation.endswith(".") for family in families)
    assert [family.name for family in families if family.name.endswith("_seconds")]


def test_unreachable_store(manager, clock, registry, monkeypatch):
    """While the store is unreachable, the gauge is left out and the rest is not."""
    instrument(manager, registry=registry)
    manager.loadNewSession("Luca")

    def fail(_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(type(clock.store), "sessions", property(fail))
    now = values(registry)
    assert "sessions" not in now
    assert now["sessions_created_total"] == 1


def test_twice(manager, registry):
    """Twice in one registry is an error, and changes nothing."""
    undo = instrument(manager, registry=registry)
    with pytest.raises(SessionError, match="already"):
        instrument(manager, registry=registry)
    manager.loadNewSession("Luca")
    assert values(registry)["sessions_created_total"] == 1
    elsewhere = CollectorRegistry()
    instrument(manager, registry=elsewhere)
    manager.loadNewSession("Luca")
    undo()
    assert (values(registry), values(elsewhere)["sessions_created_total"]) == ({}, 1)


def test_undo(manager, registry):
    """Undone, it leaves nothing; undoing twice is harmless."""
    undo = instrument(manager, registry=registry)
    undo()
    undo()
    assert generate_latest(registry) == b""
    for event in ("sessionCreated", "sessionEnded", "sessionRejected"):
        assert manager.listeners(event) == []
    instrument(manager, registry=registry)
    manager.loadNewSession("Luca")
    assert values(registry)["sessions_created_total"] == 1


def test_undo_without_listeners(manager, registry):
    """It can be undone after the application has removed all listeners."""
    undo = instrument(manager, registry=registry)
    manager.remove_all_listeners()
    undo()
    assert generate_latest(registry) == b""


def test_multiprocess(tmp_path: Path):
    """In multiprocess mode the counts of all processes are added up."""
    worker = """if True:
        from prometheus_client import CollectorRegistry
        from users_session_manager import SessionManager
        from users_session_manager.integrations.prometheus import instrument
        manager = SessionManager()
        instrument(manager, registry=CollectorRegistry())
        manager.deleteSession(manager.loadNewSession("Luca"))
    """
    scraped = """if True:
        import sys
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        sys.stdout.write(generate_latest(registry).decode())
    """
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", worker], env=environment, check=True)
    read = subprocess.run([sys.executable, "-c", scraped], env=environment, check=True, capture_output=True, text=True)
    assert f"{PREFIX}sessions_created_total 2.0" in read.stdout
    assert f'{PREFIX}sessions_ended_total{{reason="deleted"}} 2.0' in read.stdout
    assert f"{PREFIX}session_duration_seconds_count 2.0" in read.stdout
