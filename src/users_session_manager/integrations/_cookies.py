"""Where a request carries its session key: the names, and the cookie with its attributes."""

from __future__ import annotations

import re
from collections.abc import Container
from http.cookies import CookieError, Morsel
from typing import Any, Final, Literal

# Browsers keep a cookie for at most so many seconds.
MAX_COOKIE_AGE: Final = 400 * 24 * 60 * 60
_LONG_AGO: Final = "Thu, 01 Jan 1970 00:00:00 GMT"
# The characters that RFC 9110, 5.6.2, allows in the name of a header, and RFC 6265 in that of a cookie.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers that say something else already. Many of them no script may set, and some are changed on the way.
_TAKEN_HEADER = re.compile(
    "(accept|access-control|content|if|proxy|sec|x-forwarded)(-.*)?|authorization|cache-control|connection|cookie2?|"
    "date|dnt|expect|forwarded|from|host|keep-alive|max-forwards|origin|pragma|priority|range|referer|save-data|set-cookie2?|"
    "te|trailer|transfer-encoding|upgrade|upgrade-insecure-requests|user-agent|via|x-csrf-?token|x-requested-with",
    re.IGNORECASE,
)
# RFC 6265bis, 4.1.3. Browsers compare them without regard to case.
_PREFIXES: Final = ("__host-", "__secure-", "__http-")
# Two labels at least, the last of which no IP address has. Browsers ignore a dot before them.
_DOMAIN = re.compile(r"\.?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])?", re.IGNORECASE)

_SECURE: Final = "set COOKIE_SECURE (FastAPI: secure) to True"

SameSite = Literal["Lax", "Strict", "None"]
"""Which requests from pages of other sites bring the cookie: links alone, none, or all."""


def read_cookie(header: str | None, name: str) -> str | None:
    """Return the value of a cookie in a `Cookie` header, `None` without one.

    The first value counts. Whatever else the header holds, such as values in JSON or in other alphabets, hides nothing:
    browsers send what scripts and other servers of the domain have set, which is seldom as RFC 6265 has it.

    Args:
        header: The header; several are joined by semicolons.
        name: The name of the cookie.
    """
    if header is None or name not in header:
        return None
    for pair in header.split(";"):
        found, separator, value = pair.partition("=")
        # Not `strip()`: a name after another kind of space is no name with a prefix to browsers, so anyone may set it.
        if separator and found.strip(" \t") == name:
            value = value.strip(" \t")
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return None


class KeyCarrier:
    """Where a request carries its session key: in a header, else in a cookie. Never in a URL (OWASP ASVS 5.0, 14.2.1).

    Args:
        header: The name of the header; `None` for the cookie alone.
        cookie: The name of the cookie, without a prefix; `None` for the header alone.
        secure: Whether the cookie is for https alone; its name then begins with `__Host-`, or with `__Secure-` if there
            is a `domain`.
        bearer: Whether `Authorization: Bearer` carries a key too, where the integration reads it.
        samesite: Which requests from pages of other sites bring the cookie: `"Lax"`, the default, links; `"Strict"`
            none; `"None"` all.
        domain: The domain whose hosts all get the cookie; `None`, the default, for the host that has set it alone.
        partitioned: Whether the cookie is another one in each site that embeds the application (CHIPS).

    Raises:
        ValueError: A name cannot work: most servers drop a header with an underscore, and some join its value with that
            of another header. Or browsers drop the cookie: one with SameSite=None has to be `secure` (RFC 6265bis),
            and one that is partitioned has to be both.

    The cookie is HttpOnly in any case (ASVS 3.3.1 to 3.3.4).
    """

    def __init__(
        self,
        *,
        header: str | None = "Session-Key",
        cookie: str | None = "session_key",
        secure: bool = True,
        bearer: bool = False,
        samesite: SameSite = "Lax",
        domain: str | None = None,
        partitioned: bool = False,
    ) -> None:
        if header is None and cookie is None and not bearer:
            raise ValueError("a session key needs a header or a cookie to travel in; both are None: name one of them")
        _require_names(header, cookie)
        _require_attributes(secure=secure, samesite=samesite, domain=domain, partitioned=partitioned)
        prefix = "" if not secure else "__Host-" if domain is None else "__Secure-"
        self.header = header
        self.cookie = None if cookie is None else f"{prefix}{cookie}"
        self.secure = bool(secure)
        self._attributes: dict[str, Any] = {"path": "/", "httponly": True, "secure": self.secure, "samesite": samesite}
        self._attributes["domain"] = (domain or "").removeprefix(".")
        self._cookie_class: type[Morsel[str]] = PartitionedCookie if partitioned else Morsel
        self.bearer = bool(bearer)
        # The request headers that decide on a guarded answer.
        self.varies_by = [name for name in (header, bearer and "Authorization", cookie and "Cookie") if name]
        # Whether the log says that a client cannot keep the cookie.
        self.has_warned = False
        # The name of the header in WSGI; no variable has an empty name.
        self.variable = "" if header is None else f"HTTP_{header.upper().replace('-', '_')}"

    def make_cookie(self, value: str, max_age: int | None = None) -> Morsel[str]:
        """Return the cookie, as `Set-Cookie` has it; an empty one deletes the cookie, with the same attributes.

        Args:
            value: The key.
            max_age: For how many seconds the browser keeps the cookie; `None` to forget it when it is closed.
        """
        cookie = self._cookie_class()
        cookie.set(str(self.cookie), value, value)
        life: dict[str, Any] = {"max-age": 0, "expires": _LONG_AGO}
        if value:
            life = {} if max_age is None else {"max-age": max_age}
        cookie.update(self._attributes | life)
        return cookie


class PartitionedCookie(Morsel[str]):
    """A cookie with the attribute `Partitioned`, which Python knows from 3.14 on, and some frameworks do not."""

    def OutputString(self, attrs: Container[str] | None = None) -> str:
        return f"{super().OutputString(attrs)}; Partitioned"


def _require_names(header: Any, cookie: Any) -> None:
    """Raise `ValueError` for the name of a header or of a cookie that cannot work."""
    for what, name in (("header", header), ("cookie", cookie)):
        if name is not None and not (isinstance(name, str) and _TOKEN.fullmatch(name)):
            raise ValueError(
                f"the name of the {what} cannot be {name!r}: use letters, digits and hyphens; a cookie may have "
                "underscores too"
            )
    if header is not None and "_" in header:
        raise ValueError(
            f"the name of the header cannot be {header!r}: many servers drop names with an underscore; use hyphens"
        )
    if header is not None and _TAKEN_HEADER.fullmatch(header):
        raise ValueError(
            f"the name of the header cannot be {header!r}: that header has a meaning of its own; choose another one"
        )
    if cookie is not None and cookie.lower().startswith(_PREFIXES):
        raise ValueError(f"the name of the cookie cannot be {cookie!r}: leave out the prefix, which `secure` adds")
    try:
        Morsel[str]().set(cookie or "x", "", "")
    except CookieError:
        raise ValueError(
            f"the name of the cookie cannot be {cookie!r}: an attribute of cookies is called so; choose another one"
        ) from None


def _require_attributes(*, secure: bool, samesite: Any, domain: Any, partitioned: bool) -> None:
    """Raise `ValueError` for attributes with which browsers drop the cookie, or do not send it."""
    if samesite not in ("Lax", "Strict", "None"):
        raise ValueError(f"the SameSite of the cookie has to be 'Lax', 'Strict' or 'None', not {samesite!r}")
    if domain is not None and not (isinstance(domain, str) and _DOMAIN.fullmatch(domain)):
        raise ValueError(f"the domain of the cookie has to be one such as 'example.com', or None, not {domain!r}")
    if samesite == "None" and not secure:
        raise ValueError(f"browsers drop a cookie with SameSite=None that is not for https alone: {_SECURE}")
    if partitioned and not secure:
        raise ValueError(f"browsers drop a partitioned cookie that is not for https alone: {_SECURE}")
    if partitioned and samesite != "None":
        raise ValueError(
            "browsers send a page in a frame no partitioned cookie, unless its SameSite is 'None' as well: set "
            "COOKIE_SAMESITE (FastAPI: samesite) to 'None'"
        )
