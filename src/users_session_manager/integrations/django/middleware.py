"""The middleware and `session_required`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.auth import login
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from ...manager import SessionManager
from ...policy import require_seconds
from ...web import dismiss_elsewhere
from ...web import renew_key as renew
from . import conf
from .visit import KEY_IN_SESSION, REFUSALS, LazySession, Visit, current, keep_private, visit_of

View = TypeVar("View", bound=Callable[..., Any])


class UserSessionMiddleware:
    """Puts `request.user_session`, and lets Django's login last no longer than the session it began.

    It stands in MIDDLEWARE below Django's SessionMiddleware and AuthenticationMiddleware. Raises `ImproperlyConfigured`
    for settings that cannot work.

    | on the request | |
    |---|---|
    | `user_session` | a `RequestSession`, or `None`; looked up when first read, which prolongs nothing |
    | `await auser_session()` | the same in an `async def` view |
    | `user`, `await auser()` | as Django has them, but anonymous once the session of the login has ended |

    A `SessionRejected` that a view raises is answered 401 with `{"logout": true}`, or, if the client would rather have
    HTML than JSON, with a redirect to `LOGIN_URL`; an `AuthenticationTooOld` 403, a `StoreUnavailable` 503. Works on
    WSGI and ASGI alike.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        wrong = [problem.msg for problem in conf.problems() if problem.id != conf.NOT_LISTED]
        if wrong:
            raise ImproperlyConfigured("; ".join(wrong))
        self.get_response = get_response
        self._carrier = conf.carrier()
        header = self._carrier.header
        self._header = None if header is None else f"HTTP_{header.upper().replace('-', '_')}"
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        if (timeout := conf.read()["TIMEOUT"]) is not None:
            SessionManager().setSessionTimeOut(timeout)
        HttpRequest.user_session = LazySession()

    def __call__(self, request: Any) -> Any:
        visit = Visit(request, self._carrier, self._header)
        request._user_session_visit = visit
        request.auser_session = visit.alook
        request.user = SimpleLazyObject(visit.user)
        request.auser = visit.auser
        if self._is_async:
            return self._answer(request, visit)
        before = current.set(visit)
        try:
            return visit.leave(self.get_response(request))
        finally:
            current.reset(before)

    async def _answer(self, request: Any, visit: Visit) -> Any:
        SessionManager().bindLoop()  # `async def` listeners are to run on it, and a login comes from a thread
        before = current.set(visit)
        try:
            return visit.leave(await self.get_response(request))
        finally:
            current.reset(before)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """Answer what a view has raised, if it is ours."""
        if isinstance(exception, REFUSALS):
            return request._user_session_visit.refuse(exception)
        return None


@overload
def session_required(view: View) -> View: ...


@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...


def session_required(view: Any = None, *, passive: bool = False, max_age: float | None = None) -> Any:
    """Let only requests with a live session through to `view`, and begin its timeout again; the rest are answered 401.

    With `passive=True` the session goes on as it was: for what a page asks for by itself. With a `max_age`, whoever has
    proved longer ago than that many seconds who they are is answered 403 with `{"reauthenticate": true}` (OWASP ASVS
    5.0, 7.5.1); `TypeError` or `ValueError` for one that is no number of seconds. `view` is a function or an
    `async def`; `method_decorator(session_required, name="dispatch")` is for a class. Nothing that is answered is to be
    stored by anybody.
    """
    if view is None:
        return lambda view: _guard(view, prolong=not passive, max_age=max_age)
    return _guard(view, prolong=not passive, max_age=max_age)


def sign_in(request: Any, user: Any, *, data: Any = None, timeout: float | None = None, backend: Any = None) -> str:
    """Do what Django's own `login` does, with `loadNewSession`'s `data` and `timeout`, and return the session's key.

    With a `timeout` of its own the browser keeps the cookie when it is closed. Django's session has an end of its own,
    see its `set_expiry`. Raises what `loadNewSession` raises, and then Django has logged nobody in. In an `async def`
    view say `await sync_to_async(sign_in)(request, user)`.
    """
    visit = _visit_off_loop(request, "sign_in")
    visit.options = {"data": data, "timeout": timeout}
    try:
        login(request, user, backend)
    finally:
        visit.options = {}
    key: str = request.user_session.key
    return key


def renew_key(request: Any, *, overlap: float = 0) -> str:
    """Give the session of `request` a new key, Django's own session another one too, and return it.

    Call it when its user has proved again who they are, or has got other rights; a `login` of the same user does it by
    itself. The old keys of both are dead at once, or after `overlap` seconds, see `renewSessionKey`. Raises
    `SessionRejected` without a session. In an `async def` view say `await sync_to_async(renew_key)(request)`.
    """
    visit = _visit_off_loop(request, "renew_key")
    is_of_login = visit.is_of_login()
    session = renew(SessionManager(), visit.key, overlap=overlap)
    if is_of_login:
        if overlap:
            # Requests that are under way go on with the one there was. It has the old key, and so ends with that.
            kept = dict(request.session.items())
            request.session.create()
            request.session.update(kept)
        else:
            request.session.cycle_key()
        request.session[KEY_IN_SESSION] = session.key
    visit.signed_in(session)
    return session.key


def sign_out_elsewhere(request: Any) -> int:
    """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

    For a button, and for after a password was changed. Raises `SessionRejected` without a session. In an `async def`
    view say `await sync_to_async(sign_out_elsewhere)(request)`.
    """
    return dismiss_elsewhere(SessionManager(), _visit_off_loop(request, "sign_out_elsewhere").key)


def _guard(view: Callable[..., Any], *, prolong: bool, max_age: float | None) -> Callable[..., Any]:
    if max_age is not None:
        require_seconds("max_age", max_age)

    @wraps(view)
    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        visit = _visit(request)
        try:
            visit.admit(prolong=prolong, max_age=max_age)
        except REFUSALS as reason:
            return visit.refuse(reason)
        return keep_private(view(request, *args, **kwargs))

    @wraps(view)
    async def aguarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        visit = _visit(request)
        try:
            await visit.ask(visit.admit, prolong=prolong, max_age=max_age)
        except REFUSALS as reason:
            return await visit.ask(visit.refuse, reason)
        response = view(request, *args, **kwargs)
        return keep_private(await response if isawaitable(response) else response)

    return aguarded if iscoroutinefunction(view) or _is_dispatch_of_async_class(view) else guarded


def _is_dispatch_of_async_class(view: Any) -> bool:
    """Tell whether `view` is what `method_decorator` makes of a method that returns what an `async def` does."""
    return getattr(getattr(getattr(view, "func", None), "__self__", None), "view_is_async", False) is True


def _visit(request: Any) -> Visit:
    visit = visit_of(request)
    if visit is None:
        raise ImproperlyConfigured(f"the sessions of requests need {conf.MIDDLEWARE!r} in MIDDLEWARE")
    return visit


def _visit_off_loop(request: Any, function: str) -> Visit:
    visit = _visit(request)
    visit.keep_off_loop(f"sync_to_async({function})(request, ...)")
    return visit
