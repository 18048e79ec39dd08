"""SessionManager: the npm package's API, and the events."""

from __future__ import annotations

import logging
import os
import reprlib
import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from .errors import SessionError, SessionRejected
from .events import IsolatedEmitter
from .keys import label, new_key
from .log import log
from .session import Session
from .stores.base import Store
from .stores.memory import MemoryStore
from .timers import LONGEST, SessionTimer

_T = TypeVar("_T")
_lock = threading.RLock()


class _Singleton(type):
    """Makes one instance for the whole process; further calls return it."""

    instance: SessionManager | None = None

    def __call__(cls: type[_T], *args: Any, **kwargs: Any) -> _T:
        with _lock:
            if _Singleton.instance is None:
                _Singleton.instance = super().__call__(*args, **kwargs)  # type: ignore[misc]
            elif args or kwargs:
                _Singleton.instance._check_same(*args, **kwargs)
            if not isinstance(_Singleton.instance, cls):
                raise SessionError(f"there is a {type(_Singleton.instance).__name__} already: close() it first")
            return _Singleton.instance
