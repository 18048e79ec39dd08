"""Where sessions are kept: one module or package for each kind of store."""

from __future__ import annotations

from os import PathLike
from typing import Any

from .base import Store
from .memory import MemoryStore


def open_store(store: str | Store | None) -> Store:
    """Return the store that `SessionManager(store=...)` names; see there."""
    if store is None:
        return MemoryStore()
    if isinstance(store, str):
        return store_class(store).from_url(store)  # type: ignore[no-any-return]
    if not isinstance(store, Store):
        raise TypeError(f"store must be None, an address or a Store, got {type(store).__name__}")
    return store


def store_class(address: str) -> Any:
    """Return the class of store that an address is for; `ValueError` if there is none."""
    scheme, separator, _ = address.partition("://")
    if not separator:  # it may hold a password, so it is not shown
        raise ValueError(
            "store must be an address with its scheme, such as redis://localhost:6379/0; this one has none"
        )
    if scheme in ("redis", "rediss", "unix"):
        from .redis import RedisStore  # an extra: only when it is asked for

        return RedisStore
    if scheme in ("sqlite", "postgresql", "postgres"):
        from .sql import SQLStore

        return SQLStore
    # The rest of an address may hold a password.
    raise ValueError(f"store must be a Store or an address of redis, sqlite or postgresql, got one of {scheme[:20]!r}")


def place_in(folder: str | PathLike[str], address: str) -> str:
    """Return an address whose file, if its path is relative, is in a folder, which is made if it is not there."""
    if not address.startswith("sqlite:"):
        return address
    from .sql.sqlite import resolve

    return resolve(address, folder)
