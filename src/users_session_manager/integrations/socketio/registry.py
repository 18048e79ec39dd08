"""Which clients of a Socket.IO server belong to which session, and are in its room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ...clock import LOCK, register

SIGNED_IN_ROOM: Final = "users-session-manager:signed-in"
"""The room of all clients of a server that belong to a session."""


class ClientRegistry:
    """The clients of one server that belong to a session.

    A client is in the room of its session, and in the `SIGNED_IN_ROOM`, as long as it is registered for the session:
    all of it changes in one step, under `LOCK`.
    Only the caller that removes a client sends its `logout`, so the client gets one.

    While the end of a session is being sent, no client enters its rooms: a client that joins then gets its `logout`
    from the second check of the join, and would get another one through the room.

    Threads: any thread may call any method for a server with threads; for an `AsyncServer` only that of its loop may,
    but for what only reads. The functions of python-socketio that are called with `LOCK` held change its
    tables: they send nothing, log nothing and await nothing, unlike the server's own `enter_room` and `close_room`,
    which also write to a message queue.

    Args:
        rooms: The `manager` of the server.
        namespace: The namespace of the clients.
    """

    def __init__(self, rooms: Any, namespace: str) -> None:
        self._rooms = rooms
        self._namespace = namespace
        self._reset()
        register(self)

    def _reset(self) -> None:
        self._members: dict[Any, set[str]] = {}  # session id: the ids of its clients
        self._joined: dict[str, tuple[Any, str]] = {}  # client id: the id of its session, and the key that its room has
        self._ending: set[Any] = set()  # the ids of sessions whose end is being sent
        self._prune_at = 1

    def _after_fork_in_child(self) -> None:
        self._reset()  # the clients are connected to the parent

    def has_clients(self, session_id: Any) -> bool:
        """Return whether a session has clients."""
        return session_id in self._members

    def has_joined(self, sid: str) -> bool:
        """Return whether a client belongs to a session."""
        return sid in self._joined

    def joined(self) -> list[str]:
        """Return the clients that belong to a session; some may have disconnected."""
        with LOCK:
            return [*self._joined]

    def has_connected(self) -> bool:
        """Return whether a client that belongs to a session is connected."""
        return any(self.is_connected(sid) for sid in self.joined())

    def watched(self) -> dict[Any, str]:
        """Return the key of each session that has clients, by its id."""
        with LOCK:
            return dict(self._joined.values())

    def add(self, sid: str, session_id: Any, key: str) -> bool:
        """Register a client for this session alone; return whether it is connected."""
        with LOCK:
            if len(self._joined) >= self._prune_at:  # it has doubled; a client that has disconnected is not reported
                for gone in [other for other in self._joined if not self.is_connected(other)]:
                    self._assign(gone, None)
                self._prune_at = 2 * len(self._joined) + 1
            self._assign(sid, (session_id, key) if self.is_connected(sid) else None)
            return sid in self._joined

    def move(self, session_id: Any, key: str) -> None:
        """Let the clients of a session be in the room of its new key."""
        with LOCK:
            for sid in self.clients(session_id):
                if sid in self._joined and self._joined[sid][0] == session_id:  # it may have ended, see `_assign`
                    self._assign(sid, (session_id, key))

    def remove(self, sid: str) -> bool:
        """Remove a client; return whether it was registered."""
        with LOCK:
            return self._assign(sid, None)

    def begin_end(self, session_id: Any, key: str) -> list[str]:
        """Remove and return the clients of a session, and empty the room of its key.

        No client enters that room until `finish_end`.
        """
        with LOCK:
            self._ending.add(session_id)
            for sid in (clients := self.clients(session_id)):
                self._assign(sid, None)
            retry_on_key_error(self._rooms.basic_close_room, key, self._namespace)  # others may be in it
            return clients

    def finish_end(self, session_id: Any) -> None:
        """Note that the end of a session has been sent."""
        self._ending.discard(session_id)

    def remove_all(self) -> None:
        """Remove all clients."""
        with LOCK:
            for sid in [*self._joined]:
                self._assign(sid, None)

    def clients(self, session_id: Any) -> list[str]:
        """Return the clients of a session."""
        with LOCK:
            return [*self._members.get(session_id, ())]

    def is_connected(self, sid: str) -> bool:
        """Return whether a client is connected."""
        return bool(retry_on_key_error(self._rooms.is_connected, sid, self._namespace))

    def _assign(self, sid: str, new: tuple[Any, str] | None) -> bool:
        """Register a client for a session and its key, or for none; return whether it was registered before.

        Called with `LOCK` held. A finalizer or a signal handler may end a session on this very thread even so:
        therefore the tables change first, and a room is entered only if the client is registered still.
        """
        old = self._joined.pop(sid, None)
        if old is not None:
            self._members[old[0]].remove(sid)
            if not self._members[old[0]]:
                del self._members[old[0]]
        if new is not None:
            self._members.setdefault(new[0], set()).add(sid)
            self._joined[sid] = new
        if old is not None:
            for room in [old[1]] if new is not None else [old[1], SIGNED_IN_ROOM]:
                retry_on_key_error(self._rooms.basic_leave_room, sid, self._namespace, room)
        if new and self._joined.get(sid) == new and new[0] not in self._ending and self.is_connected(sid):
            with suppress(KeyError, ValueError):  # it disconnects at this moment
                for room in (new[1], SIGNED_IN_ROOM):
                    retry_on_key_error(self._rooms.basic_enter_room, sid, self._namespace, room)
        return old is not None


def retry_on_key_error(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of python-socketio, and once more after a `KeyError`.

    Another thread may delete a room or a list of clients between the function's check and its use, with the last client
    in it. Nothing has been changed or sent by then.
    """
    with suppress(KeyError):
        return call(*args, **options)
    return call(*args, **options)
