"""The functions that a project calls: the guard of its views, sign-in, sign-out, and the sessions of a user."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.auth import login
from django.core.exceptions import ImproperlyConfigured

from ...errors import SessionError
from ...policy import require_seconds
from .._refusals import REFUSED
from .._request import HAS_BEGUN
from .._streams import Item
from .._streams import stream as stream_of
from . import conf, users
from .answers import add_no_store
from .state import DjangoState, state_of

View = TypeVar("View", bound=Callable[..., Any])


@overload
def session_required(view: View) -> View: ...


@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...


def session_required(view: Any = None, *, passive: bool = False, max_age: float | None = None) -> Any:
    """Guard a view: only requests with a live session, of a user whom Django lets in, reach it.

    If the key comes in the header, `request.user` is the user of its session in the view.

    Else the answer is 401 with `{"logout": true}`, or a redirect to the login page; 503 while the store is
    unavailable. No answer may be stored by a cache, unless the view sets a `Cache-Control` of its own, which is kept
    with a `Vary` by the key. `method_decorator(session_required, name="dispatch")` guards a class.

    Args:
        view: The view, a function or an `async def`.
        passive: Whether the idle timeout does not restart, see `passive`.
        max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
            `{"reauthenticate": true}` (OWASP ASVS 5.0, 7.5.1). `None`, the default, for any.

    Raises:
        TypeError, ValueError: `max_age` is no number of seconds.
    """
    if view is None:
        return lambda view: _guard(view, prolong=not passive, max_age=max_age)
    return _guard(view, prolong=not passive, max_age=max_age)


def passive(view: View) -> View:
    """Let requests of a view leave the idle timeout as it is: for what a page requests by itself.

    It does so whatever guards the view. `USER_SESSIONS["PASSIVE"]` does the same for views of other applications.
    """

    @wraps(view)
    def marked(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    found: Any = markcoroutinefunction(marked) if iscoroutinefunction(view) else marked
    found.is_passive_for_sessions = True
    return found  # type: ignore[no-any-return]


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
        CrossOriginRequest: A form of another origin has made the request, which Django itself has not checked.
    """
    state = _answered_state(request, "sign_in")
    state.require_own_form()
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
    state = _answered_state(request, "renew_key")
    login = state.login()
    is_of_login = login is not None and login.key == state.key
    session = state.renew_key(overlap)
    if is_of_login:
        if overlap:
            # Requests that are under way go on with the present one. It has the old key, and so ends with that.
            kept = dict(request.session.items())
            request.session.create()
            request.session.update(kept)
        else:
            request.session.cycle_key()
        state.set_login_key(session.key)
    return session.key


def sign_out_elsewhere(request: Any) -> int:
    """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

    For a button, and for a changed password. In an `async def` view say
    `await sync_to_async(sign_out_elsewhere)(request)`.

    Raises:
        SessionRejected: There is no live session.
        CrossOriginRequest: As for `sign_in`.
    """
    state = _sync_state(request, "sign_out_elsewhere")
    state.require_own_form()
    return state.sign_out_others()


def get_user_sessions(user: Any) -> list[dict[str, Any]]:
    """Return the details of a user's live sessions, oldest first; see `SessionManager.getUserSessions`.

    Args:
        user: The user, or the primary key.

    Raises:
        ValueError: It is neither.
    """
    return conf.manager().getUserSessions(users.id_of(user))


def delete_user_sessions(user: Any, *, except_key: object = None) -> int:
    """Log a user out everywhere, or everywhere but in one session; return how many ended.

    Args:
        user: The user, or the primary key.
        except_key: The key of the session to spare.

    Raises:
        ValueError: `user` is neither.
    """
    return conf.manager().deleteUserSessions(users.id_of(user), except_key)


def cookie_name() -> str | None:
    """Return the name of the cookie that carries the key, with its prefix; `None` if there is none."""
    return conf.read_carrier().cookie


@overload
def stream(request: Any, items: AsyncIterable[Item]) -> AsyncIterator[Item]: ...


@overload
def stream(request: Any, items: Iterable[Item]) -> Iterator[Item]: ...


def stream(request: Any, items: Any) -> Any:
    """Return an iterator over `items` that ends with the session of `request`, for a `StreamingHttpResponse`.

    An asynchronous one, which Django streams on ASGI, ends at once: what it waits for is cancelled. A plain one, which
    Django streams on WSGI, ends at its next item. Either way `items` is closed, and so it is when the client has left.
    Nothing of this prolongs the session.

    Args:
        request: The request.
        items: An asynchronous generator or iterator, or a plain one.

    Raises:
        SessionError: The request has no live session.
        SynchronousOnlyOperation: An `async def` view is not guarded and has not awaited `request.auser_session()`.
        TypeError: `items` cannot be iterated over.
    """
    return stream_of(_state(request).user_session(), items)


def attach(io: Any, *, namespace: str = "/") -> Callable[[], None]:
    """Send the Socket.IO clients of a session a `logout` when it ends; return a callable that detaches.

    As `users_session_manager.integrations.socketio.attach`, with the manager and the cookie of the settings.

    Args:
        io: The server, see there.
        namespace: The namespace of the clients.
    """
    from ..socketio import attach  # an extra of its own

    return attach(conf.manager(), io, namespace=namespace, cookie=cookie_name())


def _guard(view: Callable[..., Any], *, prolong: bool, max_age: float | None) -> Callable[..., Any]:
    if max_age is not None:
        require_seconds("max_age", max_age)

    @wraps(view)
    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(request)
        try:
            state.let_in(prolong=prolong, max_age=max_age)
        except REFUSED as error:
            return state.answer(error)
        return add_no_store(view(request, *args, **kwargs), state.carrier)

    @wraps(view)
    async def aguarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(request)
        try:
            await state.ask(state.let_in, prolong=prolong, max_age=max_age)
        except REFUSED as error:
            return await state.ask(state.answer, error)
        response = view(request, *args, **kwargs)
        return add_no_store(await response if isawaitable(response) else response, state.carrier)

    found: Any = aguarded if iscoroutinefunction(view) or _is_dispatch_of_async_class(view) else guarded
    found.is_passive_for_sessions = not prolong or getattr(view, "is_passive_for_sessions", False)
    return found  # type: ignore[no-any-return]


def _is_dispatch_of_async_class(view: Any) -> bool:
    """Return whether `view` is what `method_decorator` makes of the `dispatch` of a class with `async def` methods."""
    return getattr(getattr(getattr(view, "func", None), "__self__", None), "view_is_async", False) is True


def _state(request: Any) -> DjangoState:
    state = state_of(request)
    if state is None:
        raise ImproperlyConfigured(
            f"the sessions of requests need {conf.MIDDLEWARE!r} in MIDDLEWARE: add it there, see "
            "docs/frameworks/django.md"
        )
    return state


def _answered_state(request: Any, function: str) -> DjangoState:
    """Return the state of a request to a caller that sets the cookie."""
    state = _sync_state(request, function)
    if state.has_begun_answer:
        raise SessionError(HAS_BEGUN)
    return state


def _sync_state(request: Any, function: str) -> DjangoState:
    """Return the state of a request to a caller that may wait."""
    state = _state(request)
    state.require_sync_context(f"sync_to_async({function})(request, ...)")
    return state
