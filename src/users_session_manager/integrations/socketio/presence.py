"""Presence: sends the pages of signed-in users the names of those who are signed in, who came and who went."""

from __future__ import annotations

import json
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from math import inf
from typing import Any, Final

from ...clock import LOCK, Worker, register
from ...errors import StoreUnavailable
from ...keys import redact
from ...log import log
from ...manager import SessionManager
from ...session import Session
from ...stores.base import Notice
from .notifier import Notifier

PRESENCE: Final = "presence"
"""The event with which a page asks for the list, and with which it gets the list, and who came and who went."""

# How often changes are sent at most, in seconds. After a quiet time they are sent at once.
PUSH_INTERVAL: Final = 1.0
# How soon a store that was unreachable is asked again, in seconds.
RETRY_INTERVAL: Final = 2.0
# How often all sessions are listed anew, in seconds: a notice may be lost unseen, as between nodes of a cluster.
RELOAD_INTERVAL: Final = 600.0
# Bytes of the names in one message of changes, and of one name, as JSON.
MAX_CHANGES: Final = 9_500
MAX_NAME: Final = 4_500


class Presence:
    """Keeps the names of all who are signed in, in all processes, and sends them to the clients of one server.

    It asks the store for all sessions once a client has joined, and from then on follows the notices of those that
    begin and end. One thread sends everything, so that no page gets a list that is older than the events it has got.
    Changes wait until it is their time: who came and went in between is not mentioned, and what one message cannot
    hold comes with the next. Each message says what is so now, so that hearing one twice does no harm.

    Args:
        manager: The manager of the sessions.
        notifier: What has the clients of the server.
        show: Returns the name that others see of a session, `None` for none.

    Threads: any thread may call any method; `LOCK` guards what the thread of this object is given to do. It is not held
    while the store is asked, `show` runs or something is sent.
    """

    def __init__(self, manager: SessionManager, notifier: Notifier, show: Callable[[Session], str | None]) -> None:
        self._manager = manager
        self._notifier = notifier
        self._show = show
        self._worker = Worker("users-session-manager presence", self._push, self._pause)
        self._undo = ExitStack()  # it calls the last one first, and nothing the second time
        self._has_failed = False  # whether the log says that `show` fails
        self._reset()
        register(self)

    def _reset(self) -> None:
        """Know nothing: until a client joins, and in a forked child, whose parent has the clients."""
        self._is_active = False
        self._notices: deque[Notice] = deque()
        self._asking: dict[str, None] = {}  # the ids of the clients that have asked for the list
        # Only the thread changes these.
        self._is_loaded = False
        self._push_at = self._load_at = 0.0
        self._names: dict[Any, str | None] = {}  # by the ids of the sessions
        self._counts: dict[str, int] = {}  # how many sessions have that name
        self._new: dict[Any, None] = {}  # the ids of sessions that have begun
        self._to_send: dict[str, bool] = {}  # names that have come or gone: whether the pages have them still

    def _after_fork_in_child(self) -> None:
        self._reset()

    def start(self) -> None:
        """Begin, since there is a client."""
        with LOCK:
            if not self._is_active:
                self._is_active = True
                self._worker.wake()
        self._worker.start()

    def attach(self, server: Any, namespace: str) -> None:
        """Answer the clients of a server, and follow the sessions."""
        self._undo.callback(self._worker.close)
        self._undo.callback(self._manager.removeFollower, self.follow)
        self._undo.callback(server.handlers.setdefault(namespace, {}).pop, PRESENCE, None)
        self._undo.callback(setattr, self._notifier, "presence", None)
        self._notifier.presence = self
        server.on(PRESENCE, self.ask, namespace=namespace)
        self._manager.addFollower(self.follow)
        if self._notifier.registry.watched():
            self._load_at = time.monotonic() + PUSH_INTERVAL  # a shared store subscribes anew, and says when it has
            self.start()

    def detach(self) -> None:
        """End that, and the thread; send nothing. Calling it twice is harmless."""
        self._undo.close()
        with LOCK:
            self._reset()

    def ask(self, sid: str, *_: Any) -> bool:
        """Send the list to a client that belongs to a session; return whether it does."""
        if not self._notifier.registry.has_joined(sid):
            return False
        self.start()
        with LOCK:
            self._asking[sid] = None
            self._worker.wake()
        return True

    def follow(self, notice: Notice) -> None:
        """Note that a session has begun or ended."""
        with LOCK:
            if self._is_active:
                self._notices.append(notice)
                if len(self._notices) == 1:  # else it has been woken
                    self._worker.wake()

    def _pause(self) -> float:
        if not self._is_active or not self._manager._is_open:
            return inf
        return max(self._push_at, 0.0 if self._has_work() else self._load_at) - time.monotonic()

    # On the thread

    def _has_work(self) -> bool:
        return bool(self._notices or self._asking or self._new or self._to_send)

    def _push(self) -> None:
        """Find out what has changed, and send it."""
        pause = PUSH_INTERVAL
        try:
            self._hear()
            if self._load_at <= time.monotonic():
                self._load()
                self._hear()  # what has ended since it was listed
            self._look_up()
        except StoreUnavailable:  # it is in the log, once
            pause = RETRY_INTERVAL
        finally:
            self._push_at = time.monotonic() + pause  # counted from now, when something is sent
        if self._is_loaded:
            with LOCK:
                asking, self._asking = self._asking, {}
            came, went = self._take_changes()
            if came or went or asking:
                everyone = [*self._counts] if asking else []
                self._notifier._run(self._send(came, went, asking, everyone))

    async def _send(self, came: list[str], went: list[str], asking: dict[str, None], everyone: list[str]) -> None:
        clients = self._notifier.registry.joined()
        if came or went:
            changes = {"all": False, "came": came, "went": went}
            await self._notifier._send_together([sid for sid in clients if sid not in asking], PRESENCE, changes)
        whole = {"all": True, "came": everyone, "went": []}
        await self._notifier._send_together([sid for sid in clients if sid in asking], PRESENCE, whole)

    def _hear(self) -> None:
        """Read the notices that have come."""
        while self._notices:
            notice = self._notices.popleft()
            if notice.kind == "missed":
                self._load_at = 0.0
            elif notice.kind == "created":
                self._new[notice.session_id] = None
            else:
                self._new.pop(notice.session_id, None)
                self._remove(notice.session_id)

    def _load(self) -> None:
        """List all sessions, and drop those whose end was missed."""
        with LOCK:
            if not self._notifier.registry.has_connected():  # the next client starts it again
                self._reset()
                return
        found: set[Any] = set()
        for page in self._manager.listSessions():
            found.update(session._id for session in page)
            self._add(page)
        if self._manager._is_open:  # a closed store has no sessions, and yet they have not ended
            for session_id in [each for each in self._names if each not in found]:
                self._remove(session_id)
            self._is_loaded, self._load_at = True, time.monotonic() + RELOAD_INTERVAL

    def _look_up(self) -> None:
        """Ask the store for the sessions that have begun."""
        if self._new:
            self._add([each for each in self._manager.findSessions([*self._new]) if each is not None])
            self._new.clear()

    def _add(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            if session._id not in self._names:
                name = self._names[session._id] = self._name_of(session)
                self._count(name, 1)

    def _remove(self, session_id: Any) -> None:
        self._count(self._names.pop(session_id, None), -1)

    def _count(self, name: str | None, change: int) -> None:
        if name is None:
            return
        before = self._counts.get(name, 0)
        self._counts[name] = before + change
        if not before + change:
            del self._counts[name]
        if self._is_loaded and not (before and before + change):
            self._to_send.setdefault(name, before > 0)

    def _take_changes(self) -> tuple[list[str], list[str]]:
        """Return who came and who went, as many as a message may hold."""
        came: list[str] = []
        went: list[str] = []
        size = 0
        for name in [*self._to_send]:
            is_there = name in self._counts
            if self._to_send[name] != is_there:
                size += len(json.dumps(name)) + 1
                if size > MAX_CHANGES:
                    break
                (came if is_there else went).append(name)
            del self._to_send[name]
        return came, went

    def _name_of(self, session: Session) -> str | None:
        """Return what others see of a session; nothing if `show` fails, since that may be what it must not show."""
        try:
            name = self._show(session)
            if name is not None and not isinstance(name, str):
                raise TypeError(f"show must return a str or None, got {type(name).__name__}")
            if name is not None and len(json.dumps(name)) > MAX_NAME:
                raise ValueError(f"what show returns may have {MAX_NAME:,} bytes as JSON, return a shorter name")
        except Exception:  # noqa: BLE001  # it is the application's
            if not self._has_failed:
                self._has_failed = True
                log.error(
                    "A session is not shown to others: correct what this names in `show`, see "
                    "docs/how-to/who-is-online.md\n%s",
                    redact(traceback.format_exc()),
                )
            return None
        return name
