"""The settings of all web frameworks: checks of their values, and the manager that has them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from os import PathLike
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import SessionError
from ..manager import SessionManager
from ..policy import PolicySettings, require_timeout
from ..stores import place_in, store_class
from ..stores.base import Store
from ._cookies import KeyCarrier
from ._forgery import check_origins

DEFAULTS: Final[dict[str, Any]] = {
    "STORE": None,
    "TIMEOUT": None,
    "LIFETIME": None,
    "MAX_SESSIONS_PER_USER": None,
    "OVERFLOW": "evict",
    "WARNING": None,
    "HEADER": "Session-Key",
    "COOKIE": "session_key",
    "COOKIE_SECURE": True,
    "COOKIE_SAMESITE": "Lax",
    "COOKIE_DOMAIN": None,
    "COOKIE_PARTITIONED": False,
    "PROXIES": 0,
    "TRUSTED_ORIGINS": (),
}
"""The default of each option that all frameworks have; `None` leaves the manager as it is."""


def carrier_of(options: Mapping[str, Any], *, bearer: bool = False) -> KeyCarrier:
    """Return where requests carry their keys, by what `DEFAULTS` names; `bearer` as for `KeyCarrier`."""
    return KeyCarrier(
        header=options["HEADER"],
        cookie=options["COOKIE"],
        secure=options["COOKIE_SECURE"],
        bearer=bearer,
        samesite=options["COOKIE_SAMESITE"],
        domain=options["COOKIE_DOMAIN"],
        partitioned=options["COOKIE_PARTITIONED"],
    )


class ConfiguredManager:
    """Returns the manager of the sessions, with the settings of an application, when it is called.

    The manager of a store that the settings name is made at once, before the application asks for `SessionManager()`.

    Args:
        options: What `DEFAULTS` names.
        manager: The manager; by default `SessionManager()` as it is at the moment of the call.
        folder: Where the file of a store is whose path is relative; `None`, the default, for the working directory.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        manager: SessionManager | None = None,
        folder: str | PathLike[str] | None = None,
    ) -> None:
        self._options = options
        self._store = options["STORE"]
        if folder is not None and isinstance(self._store, str):
            self._store = place_in(folder, self._store)
        self._manager = manager
        # The manager that has the settings; `close` makes room for another one.
        self._configured: weakref.ref[SessionManager] | None = None
        if options["STORE"] is not None:
            self()

    def __call__(self) -> SessionManager:
        found = None if self._configured is None else self._configured()
        if found is None or (self._manager is None and not found._is_open):
            found = SessionManager(store=self._store) if self._manager is None else self._manager
            _apply(self._options, found)
            self._configured = weakref.ref(found)
            if found._to_undo is not None:  # the settings are gone at the end of the test
                found._to_undo.append(self._forget)
        return found

    def _forget(self) -> None:
        self._configured = None


def wrong_values(options: Mapping[str, Any], taken: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each option that cannot work, and why.

    Args:
        options: What `DEFAULTS` names; others are not looked at.
        taken: The names of the framework's own cookies.
    """
    for name, check in _CHECKS.items():
        try:
            check(options[name], options)
            names = {f"{prefix}{options['COOKIE']}" for prefix in ("", "__Host-", "__Secure-")}
            if name == "COOKIE" and not names.isdisjoint(taken):
                raise ValueError(
                    f"cannot be {options[name]!r}: the framework has a cookie of that name; choose another one"
                )
        except (TypeError, ValueError, SessionError) as problem:  # noqa: PERF203
            yield name, str(problem)


def nearest(name: str, names: Collection[str], prefix: str = "") -> str:
    """Return which of `names` is meant by a `name` that does not exist, as the end of a sentence."""
    close = get_close_matches(name, names, 1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"there are {', '.join(f'{prefix}{each}' for each in sorted(names))}"


def _apply(options: Mapping[str, Any], policy: PolicySettings) -> None:
    if options["TIMEOUT"] is not None:
        policy.setSessionTimeOut(options["TIMEOUT"])
    if options["LIFETIME"] is not None:
        policy.setMaxSessionLifetime(options["LIFETIME"])
    if options["MAX_SESSIONS_PER_USER"] is not None:
        policy.setMaxSessionsPerUser(options["MAX_SESSIONS_PER_USER"], options["OVERFLOW"])
    if options["WARNING"] is not None:
        policy.setExpiryWarning(options["WARNING"])


def _check_store(value: Any, _: Any) -> None:
    if isinstance(value, str):
        store_class(value)
        place_in("", value)  # it raises for what names no file
        try:
            urlsplit(value).port  # noqa: B018  # it raises
        except ValueError:
            raise ValueError(
                "the address has a port that is no number from 0 to 65535: percent-encode special characters in the "
                "password"
            ) from None  # a secret is in it
    elif value is not None and not isinstance(value, Store):
        raise TypeError(f"has to be None, an address or a Store, not {value!r}")


def _check_timeout(value: Any, _: Any) -> None:
    if value is not None:
        require_timeout("it", value)


def _check_header(value: Any, _: Any) -> None:
    if value is not None:
        KeyCarrier(header=value)


def _check_cookie(value: Any, options: Mapping[str, Any]) -> None:
    KeyCarrier(header=None if options["HEADER"] is None else "Session-Key", cookie=value)


def _check_flag(value: Any, _: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"has to be True or False, not {value!r}")


def _check_samesite(value: Any, options: Mapping[str, Any]) -> None:
    KeyCarrier(samesite=value, secure=options["COOKIE_SECURE"])


def _check_domain(value: Any, _: Any) -> None:
    KeyCarrier(domain=value)


def _check_partitioned(value: Any, options: Mapping[str, Any]) -> None:
    _check_flag(value, options)
    if value:
        KeyCarrier(secure=options["COOKIE_SECURE"], samesite=options["COOKIE_SAMESITE"], partitioned=True)


def _check_proxies(value: Any, _: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"has to be the number of proxies in front of the application, not {value!r}")


_CHECKS: Final[dict[str, Callable[[Any, Mapping[str, Any]], object]]] = {
    "STORE": _check_store,
    "TIMEOUT": _check_timeout,
    "LIFETIME": lambda value, _: PolicySettings().setMaxSessionLifetime(value),
    "MAX_SESSIONS_PER_USER": lambda value, _: PolicySettings().setMaxSessionsPerUser(value),
    "OVERFLOW": lambda value, _: PolicySettings().setMaxSessionsPerUser(None, value),
    "WARNING": lambda value, _: PolicySettings().setExpiryWarning(value),
    "HEADER": _check_header,
    "COOKIE": _check_cookie,
    "COOKIE_SECURE": _check_flag,
    "COOKIE_SAMESITE": _check_samesite,
    "COOKIE_DOMAIN": _check_domain,
    "COOKIE_PARTITIONED": _check_partitioned,
    "PROXIES": _check_proxies,
    "TRUSTED_ORIGINS": lambda value, _: check_origins(value),
}
