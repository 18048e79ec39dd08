"""A SessionTimer is a threading.Timer in all but its thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from users_session_manager.clock import Clock
from users_session_manager.timers import SessionTimer


@pytest.fixture(params=["threading.Timer", "SessionTimer"])
def make(request):
    """Makes timers of both kinds, so that each promise is seen to hold for the standard library's too."""
    clock = Clock()

    def make_one(interval: float, function: Any, *args: Any, **kwargs: Any) -> threading.Timer:
        if request.param == "SessionTimer":
            return SessionTimer(interval, function, *args, clock=clock, **kwargs)
        timer = threading.Timer(interval, function, *args, **kwargs)
        timer.daemon = True
        return timer

    yield make_one
    clock.close()


class TestLikeTheStandardLibrary:
    def test_call(self, make):
        """It calls its function with its arguments."""
        called = []
        timer = make(0.01, lambda *args, **kwargs: called.append((args, kwargs)), [1, 2], {"three": 3})
        assert not timer.is_alive()
        assert not timer.finished.is_set()
        timer.start()
        timer.join(30)
        assert called == [((1, 2), {"three": 3})]
        assert timer.finished.is_set()
        assert not timer.is_alive()
        timer.join()

    def test_attributes(self, make):
        """Its attributes are those of a timer."""
        function = list.append
        timer = make(5, function)
        assert isinstance(timer, threading.Timer)
        assert (timer.interval, timer.function, list(timer.args), timer.kwargs) == (5, function, [], {})
        assert timer.daemon is True
        assert timer.ident is None
        assert timer.native_id is None
        assert isinstance(timer.name, str)
        timer.name = "mine"
        assert timer.name == "mine"
        timer.kwargs = {"a": 1}
        assert timer.kwargs == {"a": 1}

    def test_cancel(self, make):
        """Cancelled, it calls nothing."""
        timer = make(3600, pytest.fail)
        timer.start()
        assert timer.is_alive()
        timer.cancel()
        assert timer.finished.is_set()
        timer.join(30)
        assert not timer.is_alive()

    def test_early_cancel(self, make):
        """Cancelled before its start, it ends at once."""
        timer = make(0, pytest.fail)
        timer.cancel()
        timer.start()
        timer.join(30)
        assert not timer.is_alive()

    def test_finished(self, make):
        """To set `finished` by hand cancels it."""
        timer = make(1, pytest.fail)
        timer.start()
        timer.finished.set()
        timer.join(30)
        assert not timer.is_alive()

    def test_late_cancel(self, make):
        """Cancelled while its function runs, it is alive until that returns."""
        started, go_on = threading.Event(), threading.Event()

        def function():
            started.set()
            go_on.wait(30)

        timer = make(0, function)
        timer.start()
        assert started.wait(30)
        timer.cancel()
        assert timer.is_alive()
        timer.join(0.01)
        assert timer.is_alive()
        go_on.set()
        timer.join(30)
        assert not timer.is_alive()

    def test_start(self, make):
        """It starts once."""
        timer = make(3600, list)
        timer.start()
        with pytest.raises(RuntimeError, match="once"):
            timer.start()
        timer.cancel()
        timer.join(30)
        with pytest.raises(RuntimeError, match="once"):
            timer.start()

    def test_early_join(self, make):
        """It cannot be joined before its start."""
        with pytest.raises(RuntimeError, match="before it is started"):
            make(1, list).join()

    def test_own_join(self, make):
        """It cannot be joined by its own function."""
        failures = []

        def function():
            try:
                timer.join()
            except RuntimeError as failure:
                failures.append(str(failure))

        timer = make(0, function)
        timer.start()
        timer.join(30)
        assert failures == ["cannot join current thread"]

    def test_daemon(self, make):
        """`daemon` cannot be set after the start."""
        timer = make(3600, list)
        timer.daemon = True
        timer.start()
        with pytest.raises(RuntimeError, match="active"):
            timer.daemon = True
        timer.cancel()

    def test_excepthook(self, make, monkeypatch):
        """An exception of its function goes to `threading.excepthook`."""
        hooked = []
        monkeypatch.setattr(threading, "excepthook", hooked.append)
        timer = make(0, lambda: 1 / 0)
        timer.start()
        timer.join(30)
        (failure,) = hooked
        assert failure.exc_type is ZeroDivisionError
        assert failure.thread is timer

    def test_system_exit(self, make, capsys, monkeypatch):
        """A `SystemExit` ends nothing else and prints nothing."""
        monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

        def leave():
            raise SystemExit(1)

        timer = make(0, leave)
        timer.start()
        timer.join(30)
        assert capsys.readouterr().err == ""

    def test_repr(self, make):
        """Its `repr` does not show its arguments."""
        timer = make(3600, list, ["Otter-candid-46-k3xq_00000000000000000000000000000000"])
        assert "0000000000" not in repr(timer)
        timer.start()
        assert "0000000000" not in repr(timer)
        timer.cancel()


def test_not_daemon():
    """A timer that would keep the interpreter alive is refused."""
    timer = SessionTimer(1, list, clock=Clock(thread=False))
    with pytest.raises(ValueError, match="leave daemon True"):
        timer.daemon = False
