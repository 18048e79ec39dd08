"""The middleware, `session_required`, and what a view calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth import login
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from ...manager import SessionManager
from ...policy import require_seconds
from .._web import REFUSED
from . import conf
from .state import KEY_IN_SESSION, DjangoState, UserSessionAttribute, add_no_store, current, state_of

View = TypeVar("View", bound=Callable[..., Any])


class UserSessionMiddleware:
    """Adds `request.user_session`, and ends Django's login with the session that it started.

    In MIDDLEWARE it follows Django's SessionMiddleware and AuthenticationMiddleware.

    | on the request | |
    |---|---|
    | `user_session` | a `RequestSession`, or `None`; looked up when first read, which prolongs nothing |
    | `await auser_session()` | the same in an `async def` view |
    | `user`, `await auser()` | as Django has them, but anonymous once the session of the login has ended |

    A `SessionRejected` that a view raises is answered 401 with `{"logout": true}`, or, if the client prefers HTML to
    JSON, with a redirect to `LOGIN_URL`; an `AuthenticationTooOld` 403, a `StoreUnavailable` 503. It works on WSGI and
    on ASGI.

    Raises:
        ImproperlyConfigured: A setting cannot work.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        wrong = [problem.msg for problem in conf.problems() if problem.id != conf.NOT_LISTED]
        if wrong:
            raise ImproperlyConfigured("; ".join(wrong))
        self.get_response = get_response
        self._carrier = conf.read_carrier()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        if (timeout := conf.read()["TIMEOUT"]) is not None:
            SessionManager().setSessionTimeOut(timeout)
        HttpRequest.user_session = UserSessionAttribute()

    def __call__(self, request: Any) -> Any:
        request._user_session_state = state = DjangoState(request, self._carrier)
        request.auser_session = state.auser_session
        request.user = SimpleLazyObject(state.user)
        request.auser = sync_to_async(state.user)
        if self._is_async:
            return self._answer(request, state)
        before = current.set(state)
        try:
            return state.finish(self.get_response(request))
        finally:
            current.reset(before)

    async def _answer(self, request: Any, state: DjangoState) -> Any:
        state.manager.bindLoop()  # `async def` listeners run on it, and a login comes from a thread
        before = current.set(state)
        try:
            return state.finish(await self.get_response(request))
        finally:
            current.reset(before)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """Answer what a view has raised, if it is ours."""
        return request._user_session_state.answer(exception) if isinstance(exception, REFUSED) else None


@overload
def session_required(view: View) -> View: ...


@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...


def session_required(view: Any = None, *, passive: bool = False, max_age: float | None = None) -> Any:
    """Guard a view: only requests with a live session reach it, and restart its idle timeout.

    Without one the answer is 401 with `{"logout": true}`, or a redirect to the login page; 503 while the store is
    unavailable. No answer may be stored by a cache. `method_decorator(session_required, name="dispatch")` guards a
    class.

    Args:
        view: The view, a function or an `async def`.
        passive: Whether the idle timeout does not restart: for what a page requests by itself.
        max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
            `{"reauthenticate": true}` (OWASP ASVS 5.0, 7.5.1). `None`, the default, for any.

    Raises:
        TypeError, ValueError: `max_age` is no number of seconds.
    """
    if view is None:
        return lambda view: _guard(view, prolong=not passive, max_age=max_age)
    return _guard(view, prolong=not passive, max_age=max_age)


def sign_in(request: Any, user: Any, *, data: Any = None, timeout: float | None = None, backend: Any = None) -> str:
    """Log a user in as Django's own `login` does, and return the key of the session.

    Django's own session has an expiry of its own, see its `set_expiry`. In an `async def` view say
    `await sync_to_async(sign_in)(request, user)`.

    Args:
        request: The request.
        user: The user, after the password was checked.
        data: What to store with the session; `None`, the default, keeps the data of one that goes on.
        timeout: An idle timeout of this session alone, in seconds; the browser then keeps the cookie when it is closed.
            `None`, the default, for that of the manager.
        backend: As for `login`.

    Raises:
        TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`; no user is then logged in.
    """
    state = _sync_state(request, "sign_in")
    state.options = {"data": data, "timeout": timeout}
    try:
        login(request, user, backend)
    finally:
        state.options = {}
    key: str = request.user_session.key
    return key


def renew_key(request: Any, *, overlap: float = 0) -> str:
    """Give the session of `request` a new key, Django's own session another one too, and return it.

    Call it after its user has authenticated again or has got other rights; a `login` of the same user does it by
    itself. In an `async def` view say `await sync_to_async(renew_key)(request)`.

    Args:
        request: The request.
        overlap: For how many seconds the old keys of both stay valid, 0 by default; see `renewSessionKey`.

    Raises:
        SessionRejected: There is no live session.
    """
    state = _sync_state(request, "renew_key")
    is_of_login = state.is_of_login()
    session = state.renew_key(overlap)
    if is_of_login:
        if overlap:
            # Requests that are under way go on with the present one. It has the old key, and so ends with that.
            kept = dict(request.session.items())
            request.session.create()
            request.session.update(kept)
        else:
            request.session.cycle_key()
        request.session[KEY_IN_SESSION] = session.key
    return session.key


def sign_out_elsewhere(request: Any) -> int:
    """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

    For a button, and for a changed password. In an `async def` view say
    `await sync_to_async(sign_out_elsewhere)(request)`.

    Raises:
        SessionRejected: There is no live session.
    """
    return _sync_state(request, "sign_out_elsewhere").sign_out_others()


def _guard(view: Callable[..., Any], *, prolong: bool, max_age: float | None) -> Callable[..., Any]:
    if max_age is not None:
        require_seconds("max_age", max_age)

    @wraps(view)
    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(request)
        try:
            state.authenticate(prolong=prolong, max_age=max_age)
        except REFUSED as error:
            return state.answer(error)
        return add_no_store(view(request, *args, **kwargs))

    @wraps(view)
    async def aguarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(request)
        try:
            await state.ask(state.authenticate, prolong=prolong, max_age=max_age)
        except REFUSED as error:
            return await state.ask(state.answer, error)
        response = view(request, *args, **kwargs)
        return add_no_store(await response if isawaitable(response) else response)

    return aguarded if iscoroutinefunction(view) or _is_dispatch_of_async_class(view) else guarded


def _is_dispatch_of_async_class(view: Any) -> bool:
    """Return whether `view` is what `method_decorator` makes of the `dispatch` of a class with `async def` methods."""
    return getattr(getattr(getattr(view, "func", None), "__self__", None), "view_is_async", False) is True


def _state(request: Any) -> DjangoState:
    state = state_of(request)
    if state is None:
        raise ImproperlyConfigured(f"the sessions of requests need {conf.MIDDLEWARE!r} in MIDDLEWARE")
    return state


def _sync_state(request: Any, function: str) -> DjangoState:
    """Return the state of a request to a caller that may wait."""
    state = _state(request)
    state.require_sync_context(f"sync_to_async({function})(request, ...)")
    return state
