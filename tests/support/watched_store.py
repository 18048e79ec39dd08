"""A store that notes where it is asked, and that can become unreachable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from users_session_manager import MemoryStore, StoreUnavailable


class WatchedStore(MemoryStore):
    """A store in memory that a test can make unreachable, as one on a network can be.

    Args:
        blocking: Whether it says that it may have to be waited for.
        options: Those of a `MemoryStore`.

    Attributes:
        unreachable: Whether its calls fail.
        asked: A thread, and whether it runs an event loop, for each call.
    """

    def __init__(self, *, blocking: bool = True, **options: Any) -> None:
        super().__init__(**({"thread": False} | options))
        self._blocking = blocking
        self.unreachable = False
        self.asked: list[tuple[int, bool]] = []

    @property
    def blocking(self) -> bool:
        return self._blocking


def _watched(name: str) -> Callable[..., Any]:
    def method(store: WatchedStore, *args: Any, **options: Any) -> Any:
        try:
            is_on_loop = asyncio.get_running_loop() is not None
        except RuntimeError:
            is_on_loop = False
        store.asked.append((threading.get_ident(), is_on_loop))
        if store.unreachable:
            raise StoreUnavailable("no answer")
        return getattr(MemoryStore, name)(store, *args, **options)

    return method


for _name in ("add", "get", "restart", "renew_key", "time_left", "set_data", "of_user", "remove", "remove_user"):
    setattr(WatchedStore, _name, _watched(_name))


class CountingStore(WatchedStore):
    """Counts a restart, which in memory asks for the session itself, once."""

    def restart(self, *args: Any) -> Any:
        session = super().restart(*args)
        self.asked.pop()
        return session
