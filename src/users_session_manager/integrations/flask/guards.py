"""The guards of views."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final, TypeVar, cast, overload
from weakref import WeakSet

from flask import Response, current_app, request

from ...errors import SessionRejected
from ...policy import require_seconds
from .._refusals import REFUSED
from .answers import answer_to
from .state import current_state, state_of_request

guards: Final[WeakSet[Any]] = WeakSet()
"""All guarded views: `UserSessions` checks that none is registered without its guard."""

View = TypeVar("View", bound=Callable[..., Any])


@overload
def session_required(view: View, /) -> View: ...
@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...
def session_required(
    view: Callable[..., Any] | None = None, /, *, passive: bool = False, max_age: float | None = None
) -> Callable[..., Any]:
    """Guard a view: only requests with a live session reach it, and restart its idle timeout.

    Without one the answer is 401 with `{"logout": true}`, or a redirect to the login page; 503 while the store is
    unavailable. It comes from the guard itself, whatever else handles errors, and so does the answer to an exception of
    ours that the view raises. A CORS preflight is answered without a session, and without the view, unless that has
    `provide_automatic_options = False` or a method `options`. Put the decorator below that of the route; the first
    request is refused with a `SessionError` otherwise, since the view would be open to all:

        @app.get("/profile")
        @session_required
        def profile(): ...

    Args:
        view: The view, also an `async def`.
        passive: Whether the idle timeout does not restart: for what a page requests by itself.
        max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
            `{"reauthenticate": true}` (OWASP ASVS 5.0, 7.5.1). `None`, the default, for any.

    Raises:
        TypeError, ValueError: `max_age` is no number of seconds.
    """
    if view is None:
        return lambda view: _guard(view, passive, max_age)
    return _guard(view, passive, max_age)


def session_optional(view: View) -> View:
    """Restart the idle timeout of a request that has a live session, and let the others pass too.

    As with `session_required`, the view finds the session as `current_session`, and the answer is 503 while the store
    is unavailable. For a whole application, but for its static files and `passive` views:

        app.before_request(session_optional(lambda: None))

    Args:
        view: The view, also an `async def`.
    """
    return _guarded(view, _prolong_if_live)


def passive(view: View) -> View:
    """Let requests of a view leave the idle timeout as it is, whatever guards it: for what a page requests by itself.

    `session_required(passive=True)` does the same for what that guards.
    """
    if inspect.iscoroutinefunction(view):

        @wraps(view)
        async def marked(*args: Any, **kwargs: Any) -> Any:
            return await view(*args, **kwargs)
    else:

        @wraps(view)
        def marked(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs)

    marked.is_passive_for_sessions = True  # type: ignore[attr-defined]
    guards.add(marked)
    return cast(View, marked)


def _guard(view: View, passive: bool, max_age: float | None) -> View:
    if max_age is not None:
        require_seconds("max_age", max_age)
    is_passive = passive or getattr(view, "is_passive_for_sessions", False)

    def let_in() -> Response | None:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            # A preflight carries no key.
            return None if _answers_preflights() else current_app.make_default_options_response()
        current_state().authenticate(prolong=not is_passive, max_age=max_age)
        return None

    guarded = _guarded(view, let_in)
    if is_passive:
        guarded.is_passive_for_sessions = True  # type: ignore[attr-defined]
    return guarded


def _guarded(view: View, let_in: Callable[[], Response | None]) -> View:
    """Return a view that calls `let_in` first, whose answer counts if there is one, and answers what either raises."""
    is_async = inspect.iscoroutinefunction(view)

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = let_in()
            if answer is not None:
                return answer
            return current_app.ensure_sync(view)(*args, **kwargs) if is_async else view(*args, **kwargs)
        except REFUSED as error:
            return answer_to(error)

    guards.add(guarded)
    return cast(View, guarded)


def _prolong_if_live() -> None:
    if (request.endpoint or "static").split(".")[-1] != "static" and not is_passive():  # those of blueprints have a dot
        with suppress(SessionRejected):
            state_of_request().authenticate()


def is_passive() -> bool:
    """Return whether the view of this request leaves the idle timeout as it is."""
    view = current_app.view_functions.get(request.endpoint or "")
    return getattr(view, "is_passive_for_sessions", False)


def _answers_preflights() -> bool:
    """Return whether the view of the request says that it answers `OPTIONS` itself; others were not written for it."""
    view = current_app.view_functions.get(request.endpoint or "")
    is_own = getattr(view, "provide_automatic_options", None) is False
    return is_own or hasattr(getattr(view, "view_class", None), "options")
