"""One process of several that share their sessions in Redis: `redis_worker.py SCENARIO REDIS_URL PREFIX FACTS [...]`.

What happens is appended to the file FACTS, a line of JSON each, written at once: a SIGKILL loses nothing of it.
It ends when its standard input does. Scenarios:

    torture TOTAL PAUSE   sessions at random until all processes together have made TOTAL; PAUSE seconds between steps
    many COUNT FROM TO    COUNT sessions that expire between the Unix times FROM and TO
    listen                nothing of its own
"""

import json
import os
import random
import secrets
import sys
import threading
import time
from contextlib import suppress

import redis

from users_session_manager import SessionManager, SessionRejected
from users_session_manager.stores.redis import RedisStore

LEASE = 6.0
# Of the sessions of the torture most expire within seconds, and a few not while it lasts.
LONG = 3000


class Worker:
    """A manager of its own, and the file of what it has seen."""

    def __init__(self, url, prefix, facts):
        self.name = os.path.basename(facts)
        self.work = 0
        self._file = os.open(facts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.shared = redis.Redis.from_url(url, decode_responses=True)
        self.manager = SessionManager(store=RedisStore.from_url(url, timeout=10, prefix=prefix, lease=LEASE))
        self.manager.on("sessionEnded", self._ended)
        self.manager.on("error", lambda error, details: None)  # a rejection is `False`
        self.manager.on("listenerFailed", self._failed)

    def note(self, what, **details):
        line = json.dumps({"what": what, "at": time.time(), **details}) + "\n"
        os.write(self._file, line.encode())

    def _ended(self, session, reason):
        time.sleep(self.work)
        self.note("ended", id=session.data["id"], reason=reason, by=session.data["by"])
        time.sleep(self.work)

    def _failed(self, exception, event, listener):
        self.note("failed", text=repr(exception))

    def log_in(self, user, timeout):
        start, session = time.time(), secrets.token_hex(8)
        key = self.manager.loadNewSession(user, timeout=timeout, data={"by": self.name, "id": session})
        self.note("created", id=session, deadline=start + timeout)
        return key, session

    # Torture

    def torture(self, total, pause):
        # Each end takes this long before and after its note, so that a kill may come there.
        self.work = 0.005
        self.manager.setMaxSessionsPerUser(5)
        threads = [threading.Thread(target=self._torture, args=(int(total), float(pause))) for _ in range(2)]
        for thread in threads:
            thread.start()

    def _torture(self, total, pause):
        chance = random.Random()
        steps = (self._restart, self._restart, self._delete, self._renew, self._check)
        try:
            while self.shared.incr("logins") <= total:
                timeout = LONG if chance.random() < 0.02 else chance.uniform(2, 4)
                own = json.dumps([*self.log_in(f"user {chance.randrange(300)}", timeout), timeout])
                self.shared.sadd("keys", own)
                for _ in range(chance.randrange(5)):
                    # One of any process: several use the same session.
                    known = self.shared.srandmember("keys") if chance.random() < 0.5 else None
                    chance.choice(steps)(known or own, chance)  # the set may be empty
                time.sleep(chance.uniform(0, 2 * pause))
        except BaseException as failure:
            self.note("failed", text=repr(failure))
            raise

    def _restart(self, known, chance):
        key, session, timeout = json.loads(known)
        start = time.time()
        if self.manager.restartSessionTimer(key):
            self.note("restarted", id=session, deadline=start + timeout)
        else:
            self.shared.srem("keys", known)

    def _delete(self, known, chance):
        key, session, _ = json.loads(known)
        self.note("deleting", id=session)
        self.manager.deleteSession(key)
        self.shared.srem("keys", known)

    def _renew(self, known, chance):
        key, session, timeout = json.loads(known)
        with suppress(SessionRejected):
            new = self.manager.renewSessionKey(key, overlap=chance.choice((0, 1)))
            self.shared.sadd("keys", json.dumps([new, session, timeout]))

    def _check(self, known, chance):
        self.manager.checkSessionStatus(json.loads(known)[0])

    # Many

    def many(self, count, first, last):
        chance = random.Random()

        def log_in(total):
            for number in range(total):
                deadline = chance.uniform(float(first), float(last))
                self.log_in(f"{self.name} {number}", max(2.0, deadline - time.time()))
            self.note("all logged in")

        threading.Thread(target=log_in, args=(int(count),)).start()

    def listen(self):
        self.manager.serve()


def main():
    scenario, *place = sys.argv[1:5]
    worker = Worker(*place)
    getattr(worker, scenario)(*sys.argv[5:])
    worker.note("ready")
    sys.stdin.read()
    worker.manager.close()


if __name__ == "__main__":
    main()
