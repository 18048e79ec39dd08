"""Set-ups that would log users out in silence: each has one warning, or an error, that says what to do."""

from __future__ import annotations

import random
import re

import pytest
from foreign_key import foreign_key
from interpreter import run

from users_session_manager import MemoryStore, SessionError, SessionManager
from users_session_manager.keys import is_foreign, new_key


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


class TestOtherProcesses:
    def test_once(self, manager, caplog):
        """A key of another process is rejected as any other, and the log says once that there may be several."""
        for _ in range(3):
            assert manager.findSession(foreign_key()) is None
            assert manager.getUsernameFromSessionKey(foreign_key()) is False
        (warning,) = warnings(caplog)
        assert "another process has issued" in warning
        assert "SessionManager(store=...)" in warning

    def test_hour(self, manager, clock, caplog):
        """A set-up that is right logs no warning in an hour of logins, ends, stale keys and nonsense."""
        manager.setSessionTimeOut(300)
        chance, keys = random.Random(7), []
        for _ in range(3600):
            clock.turn(1)
            keys.append(manager.loadNewSession(f"user {chance.randrange(50)}"))
            key = chance.choice(keys)  # most of them have ended
            if chance.random() < 0.3 and manager.findSession(key):
                manager.deleteSession(key)
            if chance.random() < 0.1 and manager.findSession(key):
                manager.renewSessionKey(key, chance.choice([0, 5]))
            for presented in (key, "", "hunter2", key + "\n", key.lower(), None, 7):
                manager.findSession(presented)
                assert not manager.isForeign(presented)
        assert warnings(caplog) == []

    def test_mark(self):
        """The mark of a process says which keys it has issued; it is the same in all of them, and no secret."""
        marks = {new_key().partition("_")[0][-4:] for _ in range(50)}
        assert len(marks) == 1
        assert re.fullmatch("[a-z2-7]{4}", *marks)
        assert not is_foreign(new_key())
        assert is_foreign(foreign_key())
        assert not any(map(is_foreign, (None, 1, "x", foreign_key() + "\n", [foreign_key()])))

    def test_fork(self):
        """A child has a mark of its own, and goes on with the keys of its parent."""
        done = run("""
    import os
    from users_session_manager.keys import is_foreign, new_key
    before, (read, write) = new_key(), os.pipe()
    if os.fork() == 0:
        own = new_key()
        assert not is_foreign(before) and not is_foreign(own)
        os.write(write, own.encode())
        os._exit(0)
    os.wait()
    theirs = os.read(read, 100).decode()
    print(is_foreign(theirs), is_foreign(before))
    """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "True False\n", "")


class TestReloader:
    @pytest.mark.parametrize("variable", ["WERKZEUG_RUN_MAIN", "RUN_MAIN"])
    def test_in_memory(self, variable, monkeypatch, caplog):
        """Under a development reloader, sessions in memory are a warning, once the process serves."""
        monkeypatch.setenv(variable, "true")
        manager = SessionManager()
        assert warnings(caplog) == []
        for _ in range(2):
            manager.loadNewSession("Luca")
        assert ["end with each reload" in warning for warning in warnings(caplog)] == [True]

    def test_argument(self, monkeypatch, caplog):
        """As well if the server was started with `--reload`."""
        monkeypatch.setattr("sys.argv", ["uvicorn", "app:app", "--reload"])
        SessionManager().serve()
        assert len(warnings(caplog)) == 1

    def test_none(self, caplog):
        """Without one there is no warning."""
        SessionManager().serve()
        assert warnings(caplog) == []


def test_second_store():
    """The error for a second store says where the first was chosen."""
    SessionManager()
    here = re.escape(__file__)
    with pytest.raises(SessionError, match=rf"made at {here}:\d+ has chosen .* close\(\)"):
        SessionManager(store=MemoryStore())


@pytest.mark.parametrize("address", ["localhost:6379", "user:hunter2@host:6379/0", "", "redis:/x"])
def test_no_scheme(address):
    """An address without its scheme is an error that shows the right form, and no password."""
    with pytest.raises(ValueError, match=r"such as redis://localhost:6379/0") as error:
        SessionManager(store=address)
    assert "hunter2" not in str(error.value)
