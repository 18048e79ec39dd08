"""One request: the key it shows, the session it belongs to, and what its answer has to tell the client."""

from __future__ import annotations

import asyncio
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

from ...errors import AuthenticationTooOld, SessionRejected, StoreUnavailable
from ...manager import SessionManager
from ...web import LOGGED_OUT, RETRY_AFTER, TOO_OLD, UNAVAILABLE, KeyCarrier, RequestSession, admit, dismiss

Refusal = SessionRejected | AuthenticationTooOld | StoreUnavailable
REFUSALS = (SessionRejected, AuthenticationTooOld, StoreUnavailable)
"""What a view may raise, or its guard, and the middleware answers."""

KEY_IN_SESSION = "_user_session_key"
"""Where Django's own session keeps the key that a login of Django's was given."""

current: ContextVar[Visit | None] = ContextVar("users_session_manager_visit", default=None)
"""The request that is being answered, for signals that come without one."""


class Visit:
    """What the middleware knows of one request.

    `shown` is the key that the request carries. If it carries none, the key of Django's own login counts: a client that
    has lost our cookie, or a test client after `force_login`, is logged in all the same, and gets the cookie again.

    Threads: those of the request, one at a time; `ask` keeps what may wait off an event loop.
    """

    __slots__ = ("_auser", "_carrier", "_drop", "_given", "_looked", "_request", "_user", "options", "shown")

    def __init__(self, request: Any, carrier: KeyCarrier, header: str | None) -> None:
        # As the server has it, which `request.headers` would first make a table of. One that stands twice is joined.
        value = None if header is None else request.META.get(header)
        cookie = None if carrier.cookie is None else request.COOKIES.get(carrier.cookie)
        self.shown = carrier.key(() if value is None else (value,), cookie)
        self._request = request
        self._carrier = carrier
        self.options: dict[str, Any] = {}  # for the session that a login begins
        self._given: RequestSession | None = None
        self._drop = self._looked = False
        self._user = request.user
        self._auser = getattr(request, "auser", None)  # since Django 5.0

    # The session of the request

    @property
    def key(self) -> str | None:
        """The key that the request counts as showing."""
        key: str | None = self._request.session.get(KEY_IN_SESSION) if self.shown is None else self.shown
        return key

    def keys(self) -> list[str | None]:
        """Return all keys that the client shows; first the one that counts."""
        return [self.shown, self._request.session.get(KEY_IN_SESSION), self._cookie()]

    def _cookie(self) -> str | None:
        cookie: str | None = self._request.COOKIES.get(self._carrier.cookie)
        return cookie

    def admit(self, *, prolong: bool, max_age: float | None = None) -> RequestSession:
        """Return the live session of the request; raise `SessionRejected` without one."""
        session = admit(SessionManager(), self.key, prolong=prolong, max_age=max_age)
        if self.shown is None:
            self._given = session
        self._request.user_session = session
        return session

    def look(self) -> RequestSession | None:
        """Return the session of the request, or `None`; prolongs nothing."""
        self._looked = True
        try:
            return self.admit(prolong=False)
        except SessionRejected:
            self._forget_dead_cookie()
            self._request.user_session = None
            return None

    async def alook(self) -> RequestSession | None:
        """As `look`, where an event loop runs; `request.auser_session`."""
        known = vars(self._request)
        if "user_session" not in known:
            await self.ask(self.look)
        session: RequestSession | None = known["user_session"]
        return session

    async def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `question` on a thread that may wait; here if nothing has to be waited for."""
        if self.shown is None and self._request.session.session_key is not None:
            return await sync_to_async(question)(*args, **kwargs)  # Django's session may be in a database
        if SessionManager().blocking:
            return await sync_to_async(question, thread_sensitive=False)(*args, **kwargs)
        return question(*args, **kwargs)

    def keep_off_loop(self, instead: str) -> None:
        """Raise `SynchronousOnlyOperation` where an event loop runs, as Django does for its database."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise SynchronousOnlyOperation(f"this may have to wait: say `await {instead}` here")

    # Django's login, which ends with the session

    def user(self) -> Any:
        """Return whom Django has logged in, as long as the session of that login is alive; `request.user`."""
        if (key := self._key_of_login()) is None:
            return anonymous()
        if key and not self._user.is_authenticated:
            dismiss(SessionManager(), key)  # Django lets the user in no more: deleted, deactivated, another password
        return self._user

    async def auser(self) -> Any:
        """As `user`, where an event loop runs; `request.auser`."""
        if self._auser is None:
            return await sync_to_async(self.user)()
        if (key := await sync_to_async(self._key_of_login)()) is None:
            return anonymous()
        user = await self._auser()
        if key and not user.is_authenticated:
            await self.ask(dismiss, SessionManager(), key)
        return user

    def _key_of_login(self) -> str | None:
        """Return the key of the login in Django's session: `""` if there is no login, `None` if it does not count.

        With its session dead it is forgotten, in Django's own way with a login that has become void: no signal.
        """
        session = self._request.session
        if USER_IN_SESSION not in session:
            return ""
        key = session.get(KEY_IN_SESSION)
        if self.shown not in (None, key) and self.is_of_login():
            return self.shown
        if SessionManager().getUsernameFromSessionKey(key) is False:
            session.flush()
            return None
        # A request that shows the key of another session is nobody's, but the login of this one is not ended for it.
        return key if self.shown in (None, key) else None

    def is_of_login(self) -> bool:
        """Tell whether the request shows a key of the session of its login.

        Not always the one that Django's session has: a request that was under way during a renewal may have given the
        client back the session of Django's with the former key.
        """
        session = SessionManager().findSession(self.key)
        login = self._request.session.get(KEY_IN_SESSION)
        return session is not None and login in (session.key, *session.formerKeys)

    # What the answer has to tell

    def signed_in(self, session: RequestSession) -> None:
        """Note that the client has a new session, or a new key, also where the view holds the one it had before."""
        self.shown, self._given = session.key, session
        if (held := vars(self._request).get("user_session")) is None:
            self._request.user_session = session
        else:
            held.become(session)

    def signed_out(self) -> None:
        """Note that the client has no session any more."""
        self.shown = self._given = self._request.user_session = None
        self._drop = True

    def refuse(self, reason: Refusal) -> Any:
        """Return the answer to somebody who is not let in, or of whom nobody knows whether to let them in."""
        if isinstance(reason, StoreUnavailable):
            response = JsonResponse(UNAVAILABLE, status=503, headers={"Retry-After": str(RETRY_AFTER)})
        elif isinstance(reason, AuthenticationTooOld):
            response = JsonResponse(TOO_OLD, status=403)
        else:
            self._forget_dead_cookie()
            response = self._to_login() if self._is_for_people() else JsonResponse(LOGGED_OUT, status=401)
        return keep_private(response)

    def leave(self, response: Any) -> Any:
        """Put on the way out what the client has to be told."""
        if self._looked:
            patch_vary_headers(response, [name for name in (self._carrier.header, "Cookie") if name])
        if (name := self._carrier.cookie) is not None:
            if self._given is not None:
                response.set_cookie(name, self._given.key, **self._carrier.cookie_options(self._given))
            elif self._drop and name in self._request.COOKIES:
                response.delete_cookie(name, samesite="Lax")
        return response

    def _forget_dead_cookie(self) -> None:
        # What was rejected may be another key than the cookie's: that of a header, or one that a view has looked up.
        try:
            self._drop |= SessionManager().getUsernameFromSessionKey(self._cookie()) is False
        except StoreUnavailable:
            pass  # not known to be dead

    def _is_for_people(self) -> bool:
        accepted = [f"{kind.main_type}/{kind.sub_type}" for kind in self._request.accepted_types]
        return "text/html" in accepted and "application/json" not in accepted[: accepted.index("text/html")]

    def _to_login(self) -> Any:
        from django.contrib.auth.views import redirect_to_login  # its forms wait for the applications

        if self._request.method not in ("GET", "HEAD"):
            return HttpResponseRedirect(resolve_url(settings.LOGIN_URL))  # where it came from cannot be gone to
        # Two slashes at its beginning would be the address of another site.
        return redirect_to_login(escape_leading_slashes(self._request.get_full_path()))


class LazySession:
    """`request.user_session`: looked up when it is first read, and then an attribute like any other.

    Not one of Django's lazy objects: `request.user_session is None` would be false whatever it stands for.
    """

    def __get__(self, request: Any, owner: type | None = None) -> Any:
        if request is None:
            return self
        visit = visit_of(request)
        if visit is None:
            raise AttributeError("this request did not come through UserSessionMiddleware: it has no user_session")
        if SessionManager().blocking:
            visit.keep_off_loop("request.auser_session()")
        return visit.look()


def visit_of(request: Any) -> Visit | None:
    """Return what the middleware knows of a request, or `None` if it never saw it, as with a `force_login`."""
    return getattr(request, "_user_session_visit", None)


def keep_private(response: Any) -> Any:
    """Let nobody store an answer. Django's cache of whole pages obeys `private`, everything else `no-store`."""
    response.headers["Cache-Control"] = "no-store, private"
    return response


def anonymous() -> Any:
    """Return the user that nobody is."""
    from django.contrib.auth.models import AnonymousUser  # models wait for the applications

    return AnonymousUser()
