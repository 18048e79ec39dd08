"""The paths of this site, and the scheme with which a client has come."""

from __future__ import annotations

import re
from typing import Final

OWN_PATH: Final = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")
"""A path on this site. Browsers take "//" and a backslash for the beginning of a host, and skip control characters."""


def is_forwarded_https(schemes: str, proxies: int) -> bool:
    """Return whether the client came over https to the first of that many proxies.

    Args:
        schemes: The value of the header `X-Forwarded-Proto`, to which each proxy adds what it was asked with: for a
            WebSocket some, such as Traefik, say `wss`.
        proxies: How many proxies there are in front of the application; a client can write the rest itself.
    """
    return proxies > 0 and schemes.split(",")[-proxies:][0].strip().lower() in ("https", "wss")
