"""The process of a contestant in Python: a question a line on its input, an answer a line on its output.

    python -m contest.contestant NAME [address of the Redis]

Timed is a loop over arguments that were made before, with the method bound once, and nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from math import ceil
from typing import Any

from .adapters import MAKERS, TIMEOUT, locked, nothing
from .loops import call_each, call_each_with, call_often, keep_each, new_string, now

DATA = {"cart": ["bread", "milk"]}
IO = object()
EVENTS = ("sessionCreated", "sessionDeleted", "notifyClientToLogout")
# New strings are made for so many calls at a time, so that they are as warm as a header that has just been parsed.
WARM = 2_000

RIGHT: dict[str, Callable[[Any, str], bool]] = {
    "checkSessionStatus": lambda answer, user: answer is True,
    "restartSessionTimer": lambda answer, user: answer is True,
    "getUsernameFromSessionKey": lambda answer, user: answer == user,
    "getSessionDetails": lambda answer, user: answer["username"] == user,
    "getSessionData": lambda answer, user: answer in (None, DATA),
}


def resident() -> int:
    """Return the bytes of memory that the process has, its garbage collected."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class Contestant:
    """The sessions of one contestant, and what is done with them."""

    def __init__(self, name: str, sessions: Any) -> None:
        self.name = name
        self.sessions = sessions
        self.keys: list[str] = []
        self.users: list[str] = []
        self.slice_at = 0
        self.numbers = count()

    def names(self, many: int) -> list[str]:
        return [f"user{next(self.numbers)}" for _ in range(many)]

    def fill(self, size: int, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Log so many in; answers the bytes a session that takes."""
        getattr(self.sessions, "setSessionTimeOut", nothing)(timeout)
        self.sessions.deleteSession(self.sessions.loadNewSession("first"))  # starts what starts with the first
        self.users = self.names(size)
        before = resident()
        try:
            self.keys = [self.sessions.loadNewSession(user) for user in self.users]
        except RuntimeError as failure:
            if "thread" not in str(failure):
                raise
            return {"words": "the machine starts no more threads"}
        return {"bytes": (resident() - before) / size}

    def listen(self, listeners: int) -> dict[str, Any]:
        if hasattr(self.sessions, "listen"):
            self.sessions.listen(nothing if listeners else None)
        elif not hasattr(self.sessions, "on"):
            return {"words": "no events"} if listeners else {}
        else:
            for event in EVENTS:
                (self.sessions.on if listeners else self.sessions.remove_listener)(event, nothing)
        return {}

    # The operations

    def time(self, what: str, **details: Any) -> dict[str, Any]:
        """Answer what was taken for an operation, or for several that belong together, in ns a call."""
        if what in self.OWN_WAY:
            return self.OWN_WAY[what](self, **details)
        if not hasattr(self.sessions, what):
            return {"words": "has none"}
        return {"ns": {what: self.time_of_one(what, **details)}}

    def time_of_one(self, what: str, *, pattern: str, calls: int, most: int) -> float:
        method, more = getattr(self.sessions, what), [DATA] if what == "setSessionData" else []
        call = call_each_with if more else call_each
        if pattern == "in order":
            places = self.next_slice(most)
            keys, passes = [self.keys[place] for place in places], ceil(calls / len(places))
            took, calls = call(method, keys, *more, passes=passes), passes * len(keys)
        else:
            took, size = 0, min(WARM, calls)
            calls = ceil(calls / size) * size
            for _ in range(calls // size):
                places = random.choices(range(len(self.keys)), k=size)
                keys = [new_string(self.keys[place]) for place in places]
                took += call(method, keys, *more)
        self.prove(what, places)
        return took / calls

    def next_slice(self, most: int) -> range:
        """Return the places of the next `most` sessions in the order of their logins, or of all if there are fewer."""
        size = min(most, len(self.keys))
        begin = self.slice_at if self.slice_at + size <= len(self.keys) else 0
        self.slice_at = begin + size
        return range(begin, begin + size)

    def prove(self, what: str, places: Sequence[int]) -> None:
        """See that the operation does what it is to do; what was timed only called it."""
        for place in places[:100]:
            key, user = self.keys[place], self.users[place]
            if what == "setSessionData":
                right = self.sessions.setSessionData(key, DATA) and self.sessions.getSessionData(key) == DATA
            else:
                right = RIGHT[what](getattr(self.sessions, what)(key), user)
            assert right, f"{what} of the session of {user}"

    def log_in_and_out(self, *, pattern: str, calls: int, most: int) -> dict[str, Any]:
        """Time logins, and the logouts of as many; there are as many sessions as before after it."""
        once = self.beside_them if pattern == "in order" else self.in_place_of_some
        size = min(most, len(self.keys)) if pattern == "in order" else min(WARM, calls, len(self.keys) // 2)
        passes = ceil(calls / size)
        taken = [once(size) for _ in range(passes)]
        each = {"loadNewSession": sum(i for i, _ in taken), "deleteSession": sum(o for _, o in taken)}
        return {"ns": {what: took / passes / size for what, took in each.items()}}

    def beside_them(self, size: int) -> tuple[int, int]:
        users = self.names(size)
        logins, keys = keep_each(self.sessions.loadNewSession, users)
        assert len(set(keys)) == size, "two sessions have one key"
        assert self.sessions.getUsernameFromSessionKey(keys[-1]) == users[-1], "a login is not known"
        logouts = call_each(self.sessions.deleteSession, keys)
        assert not any(map(self.sessions.getUsernameFromSessionKey, keys[:100])), "a logout has not ended a session"
        return logins, logouts

    def in_place_of_some(self, size: int) -> tuple[int, int]:
        places = random.sample(range(len(self.keys)), size)
        gone = [new_string(self.keys[place]) for place in places]
        logouts = call_each(self.sessions.deleteSession, gone)
        assert not any(map(self.sessions.getUsernameFromSessionKey, gone[:100])), "a logout has not ended a session"
        users = self.names(size)
        logins, keys = keep_each(self.sessions.loadNewSession, users)
        for place, key, user in zip(places, keys, users, strict=True):
            self.keys[place], self.users[place] = key, user
        return logins, logouts

    def delete_all(self, **details: Any) -> dict[str, Any]:
        if not hasattr(self.sessions, "deleteAllSessions"):
            return {"words": "has none"}
        begun = now()
        self.sessions.deleteAllSessions()
        took = now() - begun
        assert not any(map(self.sessions.getUsernameFromSessionKey, self.keys[:100])), "a session has not ended"
        size, self.keys = len(self.keys), []
        return self.fill(size) and {"ns": {"deleteAllSessions": took / size}}

    def list_users(self, *, calls: int, **details: Any) -> dict[str, Any]:
        if not hasattr(self.sessions, "getLoggedUsers"):
            return {"words": "has none"}
        assert len(self.sessions.getLoggedUsers()) == len(self.keys), "not all are listed"
        calls = ceil(calls / len(self.keys))
        return {"ns": {"getLoggedUsers": call_often(self.sessions.getLoggedUsers, calls) / calls / len(self.keys)}}

    def settings(self, *, calls: int, **details: Any) -> dict[str, Any]:
        """Time what is about no session: the timeout and the socket reference."""
        if not hasattr(self.sessions, "initSocketReference"):
            return {"words": "has none"}
        each = {
            "setSessionTimeOut": call_each(self.sessions.setSessionTimeOut, [TIMEOUT] * calls),
            "getSessionTimeout": call_often(self.sessions.getSessionTimeout, calls),
            "initSocketReference": call_each(self.sessions.initSocketReference, [IO] * calls),
            "getSocketReference": call_often(self.sessions.getSocketReference, calls),
        }
        assert self.sessions.getSocketReference() is IO, "another reference"
        assert self.sessions.getSessionTimeout() == TIMEOUT, "another timeout"
        keys = self.keys[:calls]
        passes = ceil(calls / len(keys))
        took = call_each(self.sessions.sendLogoutMessage, keys, passes)
        self.sessions.initSocketReference(None)
        each = {what: ns / calls for what, ns in each.items()}
        return {"ns": each | {"sendLogoutMessage": took / passes / len(keys)}}

    def new_timers(self, *, calls: int, **details: Any) -> dict[str, Any]:
        if not hasattr(self.sessions, "createNewSessionTimer"):
            return {"words": "has none"}
        keys = [self.sessions.loadNewSession(user) for user in self.names(calls)]
        took, timers = keep_each(self.sessions.createNewSessionTimer, keys, "Luca")
        for key, timer in zip(keys, timers, strict=True):
            timer.cancel()
            assert self.sessions.deleteSession(key) is True, "a session with a new timer is gone"
        return {"ns": {"createNewSessionTimer": took / calls}}

    OWN_WAY = {  # noqa: RUF012  # nobody changes it
        "login and logout": log_in_and_out,
        "deleteAllSessions": delete_all,
        "getLoggedUsers": list_users,
        "settings": settings,
        "createNewSessionTimer": new_timers,
    }

    # The rest

    def late(self, size: int, timeout: float) -> dict[str, Any]:
        """Let so many run out together; answers by how many ms each was late, as percentiles from 0 to 100."""
        seen: list[tuple[str, float]] = []
        all_over = threading.Event()
        clock = time.monotonic

        def listener(key: str) -> None:
            seen.append((key, clock()))
            if len(seen) == size:
                all_over.set()

        self.sessions.on("sessionDeleted", listener)
        self.sessions.setSessionTimeOut(timeout)
        deadlines = {}
        login = self.sessions.loadNewSession
        for user in self.names(size):
            deadlines[login(user)] = clock() + timeout
        assert all_over.wait(300), f"{size - len(seen)} sessions have not run out"
        late = sorted((when - deadlines[key]) * 1000 for key, when in seen)
        assert len({key for key, _ in seen}) == size, "a session has ended twice"
        return {"percentiles": [late[round(percent / 100 * (size - 1))] for percent in range(101)]}

    def threads(self, threads: int, calls: int) -> dict[str, Any]:
        """Answer the calls a second of so many threads at once, `calls` of them altogether."""
        sessions = locked(self.sessions) if self.name == "cachetools" else self.sessions
        cycles, wrong = calls // threads // 5, []
        barrier = threading.Barrier(threads + 1)

        def work() -> None:
            barrier.wait()
            for _ in range(cycles):
                key = sessions.loadNewSession("Luca")
                right = sessions.checkSessionStatus(key) and sessions.restartSessionTimer(key)
                if not (right and sessions.setSessionData(key, DATA) and sessions.deleteSession(key)):
                    wrong.append(key)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        barrier.wait()
        begun = now()
        for worker in workers:
            worker.join()
        assert not wrong, f"{len(wrong)} of {cycles * threads} sessions were lost among threads"
        return {"calls a second": cycles * threads * 5 / (now() - begun) * 1e9}


def main() -> None:
    name, *address = sys.argv[1:]
    contestant = Contestant(name, MAKERS[name](*address))
    # What a library prints would be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(contestant, question.pop("do"))(**question)
        except AssertionError as wrong:
            answer = {"error": str(wrong)}
        print(json.dumps(answer), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # without the ends of ten thousand threads


if __name__ == "__main__":
    main()
