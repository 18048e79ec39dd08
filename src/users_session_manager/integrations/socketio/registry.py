"""Which clients of a Socket.IO server belong to which session, and are in its room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ...clock import LOCK


class ClientRegistry:
    """The clients of one server that belong to a session.

    A client is in the room of its session as long as it is registered for it: both change in one step, under `LOCK`.
    Only the caller that removes a client sends its `logout`, so the client gets one.

    While the end of a session is being sent, no client enters its rooms: a client that joins then gets its `logout`
    from the second check of the join, and would get another one through the room.

    Threads: any thread may call any method for a server with threads; for an `AsyncServer` only that of its loop may.
    The functions of python-socketio that are called with `LOCK` held change its tables: they send nothing, log nothing
    and await nothing, unlike the server's own `enter_room` and `leave_room`.

    Args:
        rooms: The `manager` of the server.
        namespace: The namespace of the clients.
    """

    def __init__(self, rooms: Any, namespace: str) -> None:
        self.members: dict[str, set[str]] = {}  # session key: the ids of its clients
        self.key_of: dict[str, str] = {}  # and the other way round
        self.ending: set[str] = set()  # the keys of sessions whose end is being sent
        self._rooms = rooms
        self._namespace = namespace
        self._prune_at = 1

    def add(self, sid: str, key: str) -> bool:
        """Register a client for this session alone; return whether it is connected."""
        with LOCK:
            if len(self.key_of) >= self._prune_at:  # it has doubled; a client that has disconnected is not reported
                for gone in [other for other in self.key_of if not self.is_connected(other)]:
                    self._assign(gone, None)
                self._prune_at = 2 * len(self.key_of) + 1
            self._assign(sid, key if self.is_connected(sid) else None)
            return sid in self.key_of

    def move(self, keys: Sequence[str]) -> None:
        """Register the clients of a session under the first of its keys.

        The others are all former keys: renewals may be announced in the wrong order, or in another process.
        """
        new, *former = keys
        with LOCK:
            for sid in self.clients(former):
                if self.key_of.get(sid) in former:  # else its session has ended on this very thread, see `_assign`
                    self._assign(sid, new)

    def remove(self, sid: str) -> bool:
        """Remove a client; return whether it was registered."""
        with LOCK:
            return self._assign(sid, None) is not None

    def remove_session(self, keys: Iterable[str]) -> list[str]:
        """Remove and return the clients of a session; none enters its rooms until its keys are taken from `ending`."""
        with LOCK:
            self.ending.update(keys)
            for sid in (clients := self.clients(keys)):
                self._assign(sid, None)
            return clients

    def remove_all(self) -> None:
        """Remove all clients."""
        with LOCK:
            self.remove_session(list(self.members))

    def clients(self, keys: Iterable[str]) -> list[str]:
        """Return the clients of a session with these keys."""
        with LOCK:
            return list({sid for key in keys for sid in self.members.get(key, ())})

    def is_connected(self, sid: str) -> bool:
        """Return whether a client is connected."""
        return bool(retry_on_key_error(self._rooms.is_connected, sid, self._namespace))

    def _assign(self, sid: str, key: str | None) -> str | None:
        """Register a client for this session or for none, and move it to that room; return the key it had before.

        Called with `LOCK` held. A finalizer or a signal handler may end a session on this very thread even so:
        therefore the tables change first, and a room is entered only if the client is registered still.
        """
        old = self.key_of.pop(sid, None)
        if old is not None:
            self.members[old].remove(sid)
            if not self.members[old]:
                del self.members[old]
        if key is not None:
            self.members.setdefault(key, set()).add(sid)
            self.key_of[sid] = key
        if old is not None:
            retry_on_key_error(self._rooms.basic_leave_room, sid, self._namespace, old)
        if key is not None and self.key_of.get(sid) == key and key not in self.ending and self.is_connected(sid):
            with suppress(KeyError, ValueError):  # it disconnects at this moment
                retry_on_key_error(self._rooms.basic_enter_room, sid, self._namespace, key)
        return old


def retry_on_key_error(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of python-socketio, and once more after a `KeyError`.

    Another thread may delete a room or a list of clients between the function's check and its use, with the last client
    in it. Nothing has been changed or sent by then.
    """
    with suppress(KeyError):
        return call(*args, **options)
    return call(*args, **options)
