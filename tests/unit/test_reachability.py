"""Reachability: the log of a failure, however the calls of several threads end."""

import time

import pytest

from users_session_manager.errors import StoreUnavailable
from users_session_manager.stores.reachability import Reachability

LOST = ConnectionError("lost")


@pytest.fixture
def reachability():
    return Reachability("Redis")


def lines(caplog) -> list[str]:
    return [record.getMessage().partition(":")[0] for record in caplog.records]


def test_late_failure(reachability, caplog):
    """A call that began before the store answered again, and failed after it, begins no second failure."""
    early, late = time.monotonic(), time.monotonic()
    reachability.failed(LOST, early)
    reachability.answered("read")
    assert isinstance(reachability.failed(LOST, late), StoreUnavailable)
    assert not reachability.is_unreachable
    assert lines(caplog) == ["Redis is unreachable, every session is refused", "Redis is reachable again"]


def test_second_failure(reachability, caplog):
    """A call that began after the store had answered again begins a second failure."""
    reachability.failed(LOST, time.monotonic())
    reachability.answered("read")
    time.sleep(0.001)
    reachability.failed(LOST, time.monotonic())
    assert reachability.is_unreachable
    assert lines(caplog)[2:] == ["Redis is unreachable, every session is refused"]
