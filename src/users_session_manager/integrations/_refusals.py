"""The answers to requests that are refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

from ..errors import AuthenticationTooOld, CrossOriginRequest, SessionRejected, StoreUnavailable, TooManySessions


class Refusal(NamedTuple):
    """The answer to a request that is refused."""

    status: int
    body: dict[str, bool]
    headers: dict[str, str]
    text: str = ""

    def page(self) -> str:
        """Return the answer as a page, for a browser."""
        return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{self.text}</title><h1>{self.text}</h1>'


TOO_MANY: Final = "You are signed in as often as you may be. Please sign out elsewhere first."
# Some caches, such as Django's of whole pages, obey `private` alone.
NO_STORE: Final = "no-store, private"
"""The `Cache-Control` of an answer that depends on a session."""
_NO_STORE: Final = {"Cache-Control": NO_STORE}
# The front end of the npm package looks for `logout`.
_REFUSALS: Final[dict[type[Exception], Refusal]] = {
    SessionRejected: Refusal(401, {"logout": True}, _NO_STORE, "Please sign in."),
    AuthenticationTooOld: Refusal(403, {"reauthenticate": True}, _NO_STORE, "Please enter your password again."),
    CrossOriginRequest: Refusal(403, {"crossOrigin": True}, _NO_STORE, "Please use a page of this site for that."),
    TooManySessions: Refusal(409, {"tooManySessions": True}, _NO_STORE, TOO_MANY),
    StoreUnavailable: Refusal(
        503, {"unavailable": True}, {"Retry-After": "5", **_NO_STORE}, "This is unavailable now. Please try again."
    ),
}
REFUSED: Final = tuple(_REFUSALS)
"""The exceptions that an integration answers with a `Refusal`."""


def refusal_of(error: Exception) -> Refusal:
    """Return the answer for one of the exceptions in `REFUSED`."""
    return next(refusal for kind, refusal in _REFUSALS.items() if isinstance(error, kind))


def prefers_html(accept: str) -> bool:
    """Return whether a client prefers HTML to JSON, by its `Accept` header; one without prefers nothing."""
    qualities: dict[str, float] = {}
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        with suppress(ValueError):
            qualities[kind] = float(quality)

    def quality_of(kind: str) -> float:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((qualities[each] for each in ranges if each in qualities), 0)

    return quality_of("text/html") > quality_of("application/json")
