"""The middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.checks import ERROR
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from .._refusals import REFUSED
from . import conf, engine, testing
from .state import DjangoState, UserSessionAttribute, current


class UserSessionMiddleware:
    """Adds `request.user_session`, and ends Django's login with the session that it started.

    It belongs in MIDDLEWARE, directly below Django's SessionMiddleware.

    | on the request | |
    |---|---|
    | `user_session` | a `RequestSession`, or `None`; looked up when first read |
    | `await auser_session()` | the same in an `async def` view |

    Each request of a signed-in user restarts the idle timeout, but those of `passive` views.

    A `SessionRejected` that a view raises is answered 401 with `{"logout": true}`, or, if the client prefers HTML to
    JSON, with a redirect to `LOGIN_URL`; an `AuthenticationTooOld` and a `CrossOriginRequest` 403, a `TooManySessions`
    409, a `StoreUnavailable` 503. It works on WSGI and on ASGI.

    Raises:
        ImproperlyConfigured: A setting cannot work.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        found = conf.problems()
        wrong = [problem.msg for problem in found if problem.level >= ERROR and problem.id != conf.NOT_LISTED]
        if wrong:
            raise ImproperlyConfigured(f"{'; '.join(wrong)}; see docs/frameworks/django.md")
        self.get_response = get_response
        self._carrier = conf.read_carrier()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        conf.manager()
        engine.watch()
        testing.watch()
        HttpRequest.user_session = UserSessionAttribute()

    def __call__(self, request: Any) -> Any:
        request._user_session_state = state = DjangoState(request, self._carrier)
        request.auser_session = state.auser_session
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
            return await state.afinish(await self.get_response(request))
        finally:
            current.reset(before)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """Answer what a view has raised, if it is ours."""
        return request._user_session_state.answer(exception) if isinstance(exception, REFUSED) else None
