"""How a session key is made, and how it is shown without its secret.

A key is `<label>_<secret>`, such as `Otter-candid-46-k3xq_` and 32 hexadecimal digits. The label identifies a
session in a log, and its end the process that has issued the key; the secret alone is what logs in.
"""

from __future__ import annotations

import re
from os import getpid, urandom
from typing import Final

GROUPS: Final = 16
"""The groups that a store may part its users into; a key shows to which one its session belongs."""

# Sixty-four of each, so that six bits of a random byte pick one without bias.
_ANIMALS = (
    "Adder Alpaca Badger Beaver Bison Bittern Caribou Cheetah Chough Civet Condor Cormorant Coyote Crane Curlew "
    "Dingo Dolphin Dormouse Eagle Egret Ermine Falcon Ferret Finch Gannet Gazelle Gecko Gibbon Grouse Hare Heron "
    "Hoopoe Ibex Ibis Iguana Jackal Jackdaw Kestrel Kite Lapwing Lemur Linnet Lynx Marten Merlin Mongoose Narwhal "
    "Newt Ocelot Osprey Otter Petrel Plover Puffin Quail Raven Robin Sable Salmon Stoat Tapir Toucan Vole Wren"
).split()
_MANNERS = (
    "agile amber ample artful avid balmy blithe brave brisk calm candid chipper civil clever cosy crisp dapper "
    "daring deft eager earnest fabled fair fleet fond frank gentle glad hardy hearty honest humble jaunty jolly "
    "keen kind lively loyal lucid mellow merry mild modest neat nimble noble patient placid plucky polite proud "
    "quick quiet ready serene sleek snug spry staunch sunny tidy vivid warm witty"
).split()
_NUMBERS = [str(number) for number in range(10, 100)]

_PER_GROUP = len(_ANIMALS) // GROUPS
_GROUP_OF = {animal: index // _PER_GROUP for index, animal in enumerate(_ANIMALS)}

_KEY = re.compile(r"([A-Z][a-z]+-[a-z]+-[0-9]{2}-([a-z2-7]{4}))_[0-9A-F]{32}")
_SECRET = re.compile(r"(?<=_)[0-9A-F]{32}")

_MARK_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
# The marks of this process and of those that it was forked from, by process id: a child goes on with their sessions.
_marks: dict[int, str] = {}


def new_key(group: int | None = None) -> str:
    """Return a new session key, `str`, whose secret is 128 bits of the operating system's generator.

    Its label shows the `group`, 0 to 15, or any if that is `None`; see `group_of`. OWASP ASVS 5.0, 7.2.3: unique, from
    a cryptographically secure generator, at least 128 bits.
    """
    # One system call; no pool of random bytes is kept, since a forked child would hand out its parent's keys.
    noise = urandom(19)
    animal = noise[0] & 63 if group is None else group * _PER_GROUP + noise[0] % _PER_GROUP
    mark = _marks.get(getpid()) or _new_mark()
    return f"{_ANIMALS[animal]}-{_MANNERS[noise[1] & 63]}-{_NUMBERS[noise[2] % 90]}-{mark}_{noise[3:].hex().upper()}"


def _new_mark() -> str:
    return _marks.setdefault(getpid(), "".join(_MARK_DIGITS[byte & 31] for byte in urandom(4)))


def is_foreign(key: object) -> bool:
    """Return whether `key` has the form of a key, and was issued by another process than this one or its ancestors."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return match is not None and match[2] not in _marks.values()


def group_of(key: object) -> int | None:
    """Return the group that a key shows, `None` for anything that does not have the form of one."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return None if match is None else _GROUP_OF.get(match[1].partition("-")[0])


def is_key(value: object) -> bool:
    """Return whether `value` has the form of a session key; it need not be that of a session."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def label(key: object) -> str:
    """Return the part of `key` that is safe to show, a `str` of one short line.

    Anything that does not have the form of a key is described by its type alone: it may be a password,
    or a forged line of a log (OWASP ASVS 5.0, 16.2.5: tokens in logs only masked).
    """
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return match[1] if match else f"<{type(key).__name__}, not a key>"


def redact(text: str) -> str:
    """Return `text` without the secrets of the keys in it: for what others have written, such as an exception."""
    return _SECRET.sub("…", text)
