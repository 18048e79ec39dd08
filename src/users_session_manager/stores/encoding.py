"""How a shared store writes what the application gives it, and how large that may be."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any, NamedTuple


class SizeLimits(NamedTuple):
    """How large what is stored may be."""

    data: int
    """Bytes of data, as JSON."""
    username: int
    """Characters of a username, of a user id and of a security stamp."""

    def encode_data(self, data: Any) -> str:
        """Return `data` as JSON in ASCII, empty for `None`.

        Raises:
            TypeError: JSON cannot hold it, or would change it.
            ValueError: It is too large.
        """
        if data is None:
            return ""
        try:
            _require_str_keys(data)
            encoded = json.dumps(data, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as reason:
            raise TypeError(f"data in a shared store must be what JSON can hold: {reason}") from None
        if len(encoded) > self.data:
            raise ValueError(f"data in a shared store may have {self.data:,} bytes as JSON, got {len(encoded):,}")
        return encoded

    def check_text(self, what: str, text: str) -> str:
        """Return a username, a user id or a security stamp; `ValueError` if it is too long."""
        if len(text) > self.username:
            raise ValueError(f"{what} may have {self.username:,} characters, got {len(text):,}")
        return text


def require_limits(**limits: object) -> None:
    """Raise `ValueError` for a limit that is no positive `int`."""
    for name, most in limits.items():
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {most!r}")


def _require_str_keys(data: Any) -> None:
    """Raise `TypeError` for a dictionary that JSON would change without a word."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be str, got {type(key).__name__}")
            _require_str_keys(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            _require_str_keys(value)


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, by which a store finds its session: it does not show the key."""
    return urlsafe_b64encode(sha256(key.encode()).digest()).decode().rstrip("=")
