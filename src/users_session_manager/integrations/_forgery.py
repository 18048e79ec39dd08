"""Whether a page of another origin may have made a request, in the name of the user of a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from ..errors import CrossOriginRequest
from ..log import log

# A page may post these to another origin without a CORS preflight: what forms do, the first one for a request without a
# type, and what browsers themselves do for `<a ping>` and for violations of a policy that the page has set.
_WITHOUT_PREFLIGHT: Final = {
    *("", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"),
    *("text/ping", "application/csp-report"),
}
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?")


class OriginCheck:
    """Refuses forms of other origins that sign in or out, and WebSockets of other origins (OWASP ASVS 5.0, 3.5.1).

    Args:
        trusted: The origins whose pages may do so too.
        proxies: How many proxies there are in front of the application.

    Threads: any.
    """

    def __init__(self, trusted: Collection[str], proxies: int) -> None:
        self._trusted = {_canonical(origin) for origin in trusted}
        self._proxies = proxies
        self._has_warned = False

    def require_own_form(self, method: str | None, header: Callable[[str], str | None], *, is_https: bool) -> None:
        """As `require_own_origin`, for a request that needs no CORS preflight; any other is let in.

        Args:
            method: Its method. A GET is let in: an identity provider redirects the browser back with one.
            header: Returns the value of a header of the request, `None` without it.
            is_https: Whether the client came over https.
        """
        media_type = (header("Content-Type") or "").partition(";")[0].strip().lower()
        if method == "POST" and media_type in _WITHOUT_PREFLIGHT:
            self.require_own_origin(header, is_https=is_https)

    def require_own_origin(self, header: Callable[[str], str | None], *, is_https: bool) -> None:
        """Raise `CrossOriginRequest` if a page of another origin has made a request that a browser says it has made.

        Browsers send `Sec-Fetch-Site` over https and to loopback, and `Origin` with each POST and each WebSocket. What
        has neither comes from a program, which has no cookies of a user.
        """
        origin, site = header("Origin"), header("Sec-Fetch-Site")
        if origin is not None and _canonical(origin) in self._trusted:
            return
        own = self._own_origin(header, is_https=is_https)
        is_own = origin is None or _canonical(origin) == own if site is None else site in ("same-origin", "none")
        if not is_own:
            self._warn(site, origin, own)
            raise CrossOriginRequest(
                "a page of another origin may not sign in or out, or open a WebSocket: if this one may, name it in "
                "TRUSTED_ORIGINS (FastAPI: trusted_origins), see docs/explanation/security.md"
            )

    def _own_origin(self, header: Callable[[str], str | None], *, is_https: bool) -> str:
        """Return the origin of the application, as the client sees it."""
        host = header("Host") or ""
        if self._proxies:
            # Each proxy adds what it was asked for; a client can write the rest itself.
            host = (header("X-Forwarded-Host") or host).split(",")[-self._proxies :][0]
        return _canonical(f"{'https' if is_https else 'http'}://{host.strip()}")

    def _warn(self, site: str | None, origin: str | None, own: str) -> None:
        if not self._has_warned:
            log.warning(
                "A page of another origin tried to sign in or out, or to open a WebSocket, and was refused: "
                "Sec-Fetch-Site is %.100r, Origin %.200r, and this site is %.200r. If it was a page of this site, "
                "behind a proxy, set PROXIES to 1, and let the proxy send X-Forwarded-Proto, and Host with its "
                "port; if Origin is 'null', send 'Referrer-Policy: same-origin' with the page. Another origin "
                "that may do so belongs in TRUSTED_ORIGINS. (FastAPI: proxies, trusted_origins.) See "
                "docs/explanation/security.md",
                *(site, origin, own),
            )
        self._has_warned = True


def check_origins(value: Any) -> None:
    """Raise `TypeError` or `ValueError` if `value` is no list of origins."""
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"has to be a list of origins, such as ['https://app.example.com'], not {value!r}")
    for origin in value:
        if not _ORIGIN.fullmatch(origin.lower()):
            raise ValueError(
                f"has an origin that cannot be {origin!r}: say scheme, host and, if need be, port, "
                "as in 'https://app.example.com'"
            )


def _canonical(origin: str) -> str:
    """Return an origin as browsers write it: in lower case, and without the default port of its scheme."""
    origin = origin.lower()
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], ""))
