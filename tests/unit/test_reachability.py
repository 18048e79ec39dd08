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
    reachability.answered("read", time.monotonic())
    assert isinstance(reachability.failed(LOST, late), StoreUnavailable)
    assert not reachability.is_unreachable
    assert lines(caplog) == ["Redis is unreachable, every session is refused", "Redis is reachable again"]


def test_late_answer(reachability, caplog):
    """An answer to a call that began before one which failed does not end the failure."""
    early, late = time.monotonic(), time.monotonic() + 0.001
    reachability.failed(LOST, late)
    reachability.answered("read", early)
    assert reachability.is_unreachable
    assert lines(caplog) == ["Redis is unreachable, every session is refused"]


def test_older_failure(reachability, caplog):
    """A failure of a call that began earlier changes nothing of what a later call has found."""
    now = time.monotonic()
    reachability.failed(LOST, now)
    reachability.failed(LOST, now - 2, "create")
    assert reachability.is_unreachable
    reachability.answered("read", now - 1)
    assert lines(caplog) == ["Redis is unreachable, every session is refused"]


def test_second_failure(reachability, caplog):
    """A call that began after the store had answered again begins a second failure."""
    reachability.failed(LOST, time.monotonic())
    reachability.answered("read", time.monotonic())
    time.sleep(0.001)
    reachability.failed(LOST, time.monotonic())
    assert reachability.is_unreachable
    assert lines(caplog)[2:] == ["Redis is unreachable, every session is refused"]
