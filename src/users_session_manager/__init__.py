# The house, from the top down; arrows between modules point down only:
#
#   integrations/   what a framework needs, each imported by name: they call the manager and listen
#   web.py          what the web frameworks have in common: where a key travels, the session of a request
#   manager.py      SessionManager: the npm API and the events; no storage of its own, and of the time it only asks
#                   whether that of a session which is at hand has come
#   policy.py       its settings: how long a session may last, how many a user may have
#   events.py       the emitter that keeps listeners apart
#   stores/         base.py says what a store must do; a store owns time
#                   memory.py does it with a dict, memory_session.py is what stands in it; by_user.py finds a
#                   user's sessions there, former_keys.py those of keys that were renewed
#                   redis.py does it in Redis: redis.lua is what happens there, redis_script.py calls it,
#                   redis_session.py is what comes back, redis_ends.py announces what has run out
#   at_hand.py      what each request looks at, in a store that keeps its sessions in this process; the same in C,
#                   where it has been built: _at_hand.c
#   timers.py       SessionTimer, what an application sees of a countdown
#   clock.py        the one thread that runs countdowns out
#   session.py      one record        keys.py   how a key is made and shown
#   errors.py       what goes wrong   log.py    the one logger
"""Who is logged in right now, and a logout the moment a session ends."""

from .errors import (
    AuthenticationTooOld,
    MissingDependency,
    SessionError,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)
from .manager import SessionManager
from .session import Session
from .stores.base import Store
from .stores.memory import MemoryStore

__all__ = [
    "AuthenticationTooOld",
    "MemoryStore",
    "MissingDependency",
    "Session",
    "SessionError",
    "SessionManager",
    "SessionRejected",
    "Store",
    "StoreUnavailable",
    "TooManySessions",
]
