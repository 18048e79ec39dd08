"""Checks the login in one of Django's own sessions where the session engine loads it.

So `request.user`, `auth.get_user`, Django REST framework, Channels and a copied cookie find no login whose session has
ended, whichever of them asks, above the middleware or below.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY as USER_IN_SESSION
from django.core.exceptions import SynchronousOnlyOperation

from ...errors import SessionRejected
from ...events import running_loop
from . import conf
from .state import KEY_IN_SESSION, LOGIN, Verdict, current, discard


def watch() -> None:
    """Check logins in the session engine of the settings; a second time is harmless."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if not getattr(store.load, "checks_logins", False):
        for name, wrap in (("load", _load), ("aload", _aload), ("flush", _flush), ("aflush", _aflush)):
            setattr(store, name, wrap(getattr(store, name)))


def _load(load: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(load)
    def checked(store: Any) -> dict[str, Any]:
        data: dict[str, Any] = load(store)
        store._login_key = None
        if USER_IN_SESSION not in data or vars(store).pop("_is_checked_by_aload", False):
            return data
        if running_loop() is not None and conf.manager().blocking:
            raise SynchronousOnlyOperation(
                "this may have to wait: use `await request.auser()` or `await request.session.aget(...)` here"
            )
        verdict = _judge(store, data)
        if verdict == "ended":
            discard(store)
        return _counted(store, data, verdict)

    checked.checks_logins = True  # type: ignore[attr-defined]
    return checked


def _aload(aload: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(aload)
    async def checked(store: Any) -> dict[str, Any]:
        store._is_checked_by_aload = True  # some engines call `load` there
        try:
            data: dict[str, Any] = await aload(store)
        finally:
            vars(store).pop("_is_checked_by_aload", None)
        store._login_key = None
        if USER_IN_SESSION not in data:
            return data
        verdict = await sync_to_async(_judge)(store, data)
        if verdict == "ended":
            await store.aflush()
            store._was_flushed = False
        return _counted(store, data, verdict)

    return checked


def _flush(flush: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(flush)
    def flushed(store: Any) -> None:
        if not hasattr(store, "_login_key") and store.session_key:
            store.load()  # nothing has asked yet whose login it has
        flush(store)
        store._was_flushed = True
        _end(vars(store).pop("_login_key", None))

    return flushed


def _aflush(aflush: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(aflush)
    async def flushed(store: Any) -> None:
        if not hasattr(store, "_login_key") and store.session_key:
            await store.aload()
        await aflush(store)
        store._was_flushed = True
        await sync_to_async(_end)(vars(store).pop("_login_key", None))

    return flushed


def _judge(store: Any, data: dict[str, Any]) -> Verdict:
    """Return whether the login in a session counts; the request that loads its own session decides that itself."""
    state = current.get()
    if state is not None and state.loads(store):
        return state.judge(data)
    key, manager = data.get(KEY_IN_SESSION), conf.manager()
    if key is None or manager.findSession(key) is not None:
        return "live"  # without a key, it gets a session at its next request
    return "set aside" if manager.isForeign(key) else "ended"


def _counted(store: Any, data: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Return the data of a session without a login that does not count."""
    if verdict == "ended":
        return {}
    store._login_key = data.get(KEY_IN_SESSION)
    if verdict == "live":
        return data
    store._login_aside = {name: data[name] for name in LOGIN if name in data}
    return {name: value for name, value in data.items() if name not in LOGIN}


def _end(key: str | None) -> None:
    """End the session of a login that was removed from Django's session."""
    manager = conf.manager()
    if key is not None and manager.findSession(key) is not None:
        with suppress(SessionRejected):  # it has ended in between
            manager.deleteSession(key)
