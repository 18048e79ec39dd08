"""The state of one request: its session, its user, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY as USER_IN_SESSION
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpResponseRedirect, JsonResponse
from django.shortcuts import resolve_url
from django.utils.cache import patch_vary_headers
from django.utils.http import escape_leading_slashes

from ...errors import SessionRejected
from ...events import running_loop
from ...manager import SessionManager
from .._web import KeyCarrier, RequestSession, RequestState

KEY_IN_SESSION = "_user_session_key"
"""Where Django's own session stores the key of its login."""

current: ContextVar[DjangoState | None] = ContextVar("users_session_manager_request", default=None)
"""The state of the request that is being answered, for signals that come without a request."""


class DjangoState(RequestState):
    """What the middleware knows of one request.

    If the request presents no key, the key of Django's own login counts: a client that has lost our cookie, or a test
    client after `force_login`, is logged in all the same, and gets the cookie again.

    Threads: those of the request, one at a time; `ask` keeps what may wait off an event loop.
    """

    def __init__(self, request: Any, carrier: KeyCarrier) -> None:
        cookie = None if carrier.cookie is None else request.COOKIES.get(carrier.cookie)
        # As the server has it; `request.headers` would first copy all headers.
        super().__init__(SessionManager, carrier, request.META.get(carrier.variable), cookie)
        self.options: dict[str, Any] = {}  # for the session that a login starts
        self._request = request
        self._varies = False  # whether the answer depends on the key
        self.login_user: Any = getattr(request, "user", None)

    # The session of the request

    @property
    def key(self) -> str | None:
        return self._login_key() if self.presented is None else self.presented

    def presented_keys(self) -> list[str | None]:
        return [*super().presented_keys(), self._login_key()]

    def _login_key(self) -> str | None:
        key: str | None = self._request.session.get(KEY_IN_SESSION)
        return key

    def user_session(self) -> RequestSession | None:
        """Return the live session, or `None`; `request.user_session`."""
        if not self._is_loaded and self.manager.blocking:
            self.require_sync_context("request.auser_session()")
        self._varies = True
        return self.find_session()

    async def auser_session(self) -> RequestSession | None:
        """As `user_session`, on an event loop; `request.auser_session`."""
        if not self._is_loaded:
            await self.ask(self.find_session)
        return self.user_session()

    async def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `question` on a thread that may wait; on this one if there is nothing to wait for."""
        if self.presented is None and self._request.session.session_key is not None:
            return await sync_to_async(question)(*args, **kwargs)  # Django's session may be in a database
        if self.manager.blocking:
            return await sync_to_async(question, thread_sensitive=False)(*args, **kwargs)
        return question(*args, **kwargs)

    def require_sync_context(self, instead: str) -> None:
        """Raise `SynchronousOnlyOperation` on an event loop, as Django does for its database."""
        if running_loop() is not None:
            raise SynchronousOnlyOperation(f"this may have to wait: say `await {instead}` here")

    # Django's login, which ends with the session

    def user(self) -> Any:
        """Return the user of Django's login while its session is live; `request.user`."""
        if (key := self._key_of_login()) is None:
            return anonymous()
        if not self.login_user.is_authenticated and key:
            self._end(key)  # Django itself refuses this user: deleted, deactivated, another password
        return self.login_user

    def _key_of_login(self) -> str | None:
        """Return the key of the login in Django's session: `""` if there is no login, `None` if it does not count.

        A login whose session has ended is removed as Django removes one that has become void: without a signal.
        """
        if USER_IN_SESSION not in self._request.session:
            return ""
        if self.manager.blocking:
            self.require_sync_context("request.auser()")
        key = self._login_key()
        if self.presented not in (None, key) and self.is_of_login():
            return self.presented
        if self.manager.findSession(key) is None:
            if not self.manager.isForeign(key):  # else the login may be live in another process
                self._request.session.flush()
            return None
        # A request with the key of another session is anonymous, but that does not end the login of this one.
        return key if self.presented in (None, key) else None

    def is_of_login(self) -> bool:
        """Return whether the request presents a key of the session of its login.

        That is not always the key in Django's session: a request that was under way during a renewal may have given the
        client back the Django session with the former key.
        """
        session = self.manager.findSession(self.key)
        return session is not None and self._login_key() in (session.key, *session.formerKeys)

    # The answer

    def answer(self, error: Exception) -> Any:
        """Return the answer to a request that is refused."""
        refusal = self.refuse(error)
        if isinstance(error, SessionRejected) and self._wants_html():
            return add_no_store(self._redirect_to_login())
        return add_no_store(JsonResponse(refusal.body, status=refusal.status, headers=refusal.headers))

    def finish(self, response: Any) -> Any:
        """Add to an answer what the client and caches need."""
        if self._varies:
            patch_vary_headers(response, [name for name in (self.carrier.header, "Cookie") if name])
        self.write_cookie(response.set_cookie)
        return response

    def _wants_html(self) -> bool:
        accepted = [f"{kind.main_type}/{kind.sub_type}" for kind in self._request.accepted_types]
        return "text/html" in accepted and "application/json" not in accepted[: accepted.index("text/html")]

    def _redirect_to_login(self) -> Any:
        from django.contrib.auth.views import redirect_to_login  # its forms wait for the applications

        if self._request.method not in ("GET", "HEAD"):
            return HttpResponseRedirect(resolve_url(settings.LOGIN_URL))  # a form cannot be sent again
        # Two slashes at its beginning would be the address of another site.
        return redirect_to_login(escape_leading_slashes(self._request.get_full_path()))


class UserSessionAttribute:
    """`request.user_session`, which the application may replace.

    It is not one of Django's lazy objects: `request.user_session is None` would never be true of one.
    """

    def __get__(self, request: Any, owner: type | None = None) -> Any:
        if request is None:
            return self
        state = state_of(request)
        if state is None:
            raise AttributeError("this request did not come through UserSessionMiddleware: it has no user_session")
        return state.user_session()


def state_of(request: Any) -> DjangoState | None:
    """Return the state of a request, or `None` if the middleware has not seen it, as with a `force_login`."""
    return getattr(request, "_user_session_state", None)


def add_no_store(response: Any) -> Any:
    """Forbid to store an answer. Django's cache of whole pages obeys `private`, everything else `no-store`."""
    response.headers["Cache-Control"] = "no-store, private"
    return response


def anonymous() -> Any:
    """Return the user of a request without a login."""
    from django.contrib.auth.models import AnonymousUser  # models wait for the applications

    return AnonymousUser()
