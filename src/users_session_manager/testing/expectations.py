"""Check the events for the open pages of a session, without a server or a client."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import SessionError
from ..keys import label
from ..manager import SessionManager
from ..session import Session
from ..stores.base import Notice
from .clients import key_of


class _Recorder:
    """Keeps the notices that clients of this process are sent."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def watched(self) -> Mapping[Any, str]:
        return {}

    def noticed(self, notice: Notice) -> None:
        self.notices.append(notice)


@contextmanager
def expect_logout(*clients: Any) -> Iterator[None]:
    """Assert that the open pages of a session are sent a `logout` within the block, without a server or a browser.

        with expect_logout(browser):
            clock.advance(minutes=50)

    Args:
        clients: Whose session it is: its key, a `RequestSession` or `Session`, or a test client that is signed in; of
            several, each session has to be logged out.

    Raises:
        AssertionError: A session is sent none within the block, or has ended before it; or nothing would send it,
            since the application has attached no Socket.IO server.
        TypeError: It is none of these.

    A key that is renewed within the block stays that of its session.
    """
    # Without a watcher, the application itself emits for `notifyClientToLogout`, which npm has not for each end.
    kinds = ("ended", "deleted", "logout") if SessionManager()._watchers else ("ended", "logout")
    with _expect("logout", kinds, clients):
        yield


@contextmanager
def expect_session_expiring(*clients: Any) -> Iterator[None]:
    """Assert that the open pages of a session are sent `session_expiring` within the block.

        with expect_session_expiring(browser):
            clock.advance(minutes=49)

    Args:
        clients: As for `expect_logout`.

    Raises:
        AssertionError, TypeError: As for `expect_logout`. A warning needs `setExpiryWarning`, or the setting for it.
    """
    with _expect("session_expiring", ("expiring",), clients):
        yield


@contextmanager
def _expect(event: str, kinds: Collection[str], clients: Collection[Any]) -> Iterator[None]:
    manager, recorder = SessionManager(), _Recorder()
    if not clients:
        raise TypeError(f"expect_{event}() needs a key, a session or a test client; none was given")
    if manager._store.sends_notices:
        raise SessionError(
            f"expect_{event}() needs fresh_sessions(), since a shared store notifies clients on its own thread: "
            "use that, see docs/how-to/tests.md"
        )
    if not manager._watchers and not (event == "logout" and _emits_itself(manager)):
        raise AssertionError(
            f"no page would be sent {event}: no Socket.IO server is attached, call attach() first, see "
            "docs/how-to/tests.md"
        )
    sessions = [_live_session(manager, client) for client in clients]
    manager.addWatcher(recorder)
    try:
        yield
    finally:
        manager.removeWatcher(recorder)
    notified = [notice.session_id for notice in recorder.notices if notice.kind in kinds]
    for session in sessions:
        if session._id not in notified:
            raise AssertionError(
                f"the pages of {session.username!r} ({label(session.key)}) were sent no {event}: {_state_of(session)}"
            )


def _emits_itself(manager: SessionManager) -> bool:
    return manager.getSocketReference() is not None and bool(manager.listeners("notifyClientToLogout"))


def _live_session(manager: SessionManager, client: Any) -> Session:
    key = key_of(client)
    session = None if key is None else manager.findSession(key)
    if session is None:
        which = "this client presents no key" if key is None else f"{label(key)} has no live session"
        raise AssertionError(f"{which} at the start of the block")
    return session


def _state_of(session: Session) -> str:
    manager = SessionManager()
    if manager.findSession(session.key) is None:
        return "the session has ended without one"
    return f"the session is live, and expires in {manager.getSessionTimeLeft(session.key):g} seconds"
