# The modules, from the top down; imports point down only:
#
#   testing/        what the tests of an application need, imported by name
#   integrations/   what each framework needs, imported by name: they call the manager and listen
#                   _request.py is what the web frameworks share of a request, _cookies.py where its key travels
#   manager.py      SessionManager: the npm API, the policy methods and the events; keeps nothing, reads no clock
#   stores/         base.py describes what a store must do; a store owns time
#                   memory.py keeps sessions in a dictionary
#                   redis/ keeps them in Redis: script.lua runs there, script.py calls it, records.py reads the answers
#                   sql/ keeps them in a SQLite file or in PostgreSQL: database.py asks it, schema.py has the tables
#                   expiry.py claims, announces and acknowledges the ends that processes share
#   events.py       the emitter that isolates listeners
#   policy.py       how long a session may last, how many a user may have
#   timers.py       SessionTimer, the threading.Timer of a session
#   clock.py        the one lock, the thread that rings alarms, and all about forks and exit
#   session.py      one record        keys.py   how a key is made and shown
#   errors.py       what goes wrong   log.py    the one logger
#   callers.py      who calls, for messages that name a line
"""Track who is logged in, and notify your code and every open browser tab the moment a session ends."""

from .errors import (
    AuthenticationTooOld,
    CrossOriginRequest,
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

__version__ = "0.1.0"

__all__ = [
    "AuthenticationTooOld",
    "CrossOriginRequest",
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
