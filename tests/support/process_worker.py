"""One process of several that share their sessions: `process_worker.py SCENARIO URL PREFIX LEASE FACTS SHARED [...]`.

What happens is appended to the file FACTS, a line of JSON each, written at once: a SIGKILL loses nothing of it.
SHARED is a SQLite file with what all of them know, LEASE that of the store in seconds. It ends when its standard input
does. Scenarios:

    torture TOTAL PAUSE   sessions at random until all processes together have made TOTAL; PAUSE seconds between steps
    many COUNT FROM TO    COUNT sessions that expire between the Unix times FROM and TO
    listen                nothing of its own
    clients NAME...       signs these users in, as if each had a client here; notes what reaches that
"""

import json
import os
import random
import secrets
import sqlite3
import sys
import threading
import time
from contextlib import suppress

from users_session_manager import SessionManager, SessionRejected
from users_session_manager.stores import store_class

# Of the sessions of the torture most expire within seconds, and a few not while it lasts.
LONG = 3000


class Shared:
    """The state of all workers: how many sessions have been made, and the keys to use."""

    def __init__(self, file):
        self._lock = threading.Lock()  # one statement at a time, else SQLite refuses to wait for other processes
        self._connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
        self._ask("PRAGMA synchronous = OFF")
        self._ask("CREATE TABLE IF NOT EXISTS logins (number INTEGER PRIMARY KEY)")
        self._ask("CREATE TABLE IF NOT EXISTS known (number INTEGER PRIMARY KEY, text UNIQUE)")

    def _ask(self, statement, *params):
        with self._lock:
            return self._connection.execute(statement, params).fetchall()

    def count_login(self):
        return self._ask("INSERT INTO logins DEFAULT VALUES RETURNING number")[0][0]

    def logins(self):
        return self._ask("SELECT coalesce(max(number), 0) FROM logins")[0][0]

    def add(self, text):
        self._ask("INSERT OR IGNORE INTO known (text) VALUES (?)", text)

    def remove(self, text):
        self._ask("DELETE FROM known WHERE text = ?", text)

    def choose(self, chance):
        """Return one of them; `None` without any."""
        last = self._ask("SELECT coalesce(max(number), 0) FROM known")[0][0]
        found = self._ask("SELECT text FROM known WHERE number >= ? LIMIT 1", chance.randint(0, last))
        return found[0][0] if found else None

    def close(self):
        self._connection.close()


class Worker:
    """A manager of its own, and the file of what it has seen."""

    def __init__(self, url, prefix, lease, facts, shared):
        self.name = os.path.basename(facts)
        self.work = 0
        self._file = os.open(facts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.shared = Shared(shared)
        store = store_class(url).from_url(url, timeout=10, prefix=prefix, lease=float(lease))
        self.manager = SessionManager(store=store)
        self.manager.on("sessionEnded", self._ended)
        self.manager.on("error", lambda error, details: None)  # a rejection is `False`
        self.manager.on("listenerFailed", self._failed)

    def note(self, what, **details):
        line = json.dumps({"what": what, "at": time.time(), **details}) + "\n"
        os.write(self._file, line.encode())

    def _ended(self, session, reason):
        if self.work:
            time.sleep(self.work)
        self.note("ended", id=session.data["id"], reason=reason, by=session.data["by"])
        if self.work:
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
        self.manager.serve()  # those that start last may have nothing to do but to announce
        threads = [threading.Thread(target=self._torture, args=(int(total), float(pause))) for _ in range(2)]
        for thread in threads:
            thread.start()

    def _torture(self, total, pause):
        chance = random.Random()
        steps = (self._restart, self._restart, self._delete, self._renew, self._check)
        try:
            while self.shared.count_login() <= total:
                timeout = LONG if chance.random() < 0.02 else chance.uniform(2, 4)
                own = json.dumps([*self.log_in(f"user {chance.randrange(300)}", timeout), timeout])
                self.shared.add(own)
                for _ in range(chance.randrange(5)):
                    # One of any process: several use the same session.
                    known = self.shared.choose(chance) if chance.random() < 0.5 else None
                    chance.choice(steps)(known or own, chance)
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
            self.shared.remove(known)

    def _delete(self, known, chance):
        key, session, _ = json.loads(known)
        self.note("deleting", id=session)
        self.manager.deleteSession(key)
        self.shared.remove(known)

    def _renew(self, known, chance):
        key, session, timeout = json.loads(known)
        with suppress(SessionRejected):
            new = self.manager.renewSessionKey(key, overlap=chance.choice((0, 1)))
            self.shared.add(json.dumps([new, session, timeout]))

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

    # Clients

    def clients(self, *names):
        self._clients = {}
        for name in names:
            key, _ = self.log_in(name, LONG)
            self._clients[self.manager.getSession(key)._id] = key
            self.note("client", name=name, key=key)
        self.manager.addWatcher(self)
        self.manager.addFollower(lambda notice: self.note("followed", kind=notice.kind))

    def watched(self):
        return self._clients.copy()

    def noticed(self, notice):
        key = self._clients.pop(notice.session_id, None)
        if key is not None:
            self.note("notice", kind=notice.kind, key=key)

    def listen(self):
        self.manager.serve()


def main():
    scenario, *place = sys.argv[1:7]
    worker = Worker(*place)
    getattr(worker, scenario)(*sys.argv[7:])
    worker.note("ready")
    sys.stdin.read()
    worker.manager.close()


if __name__ == "__main__":
    main()
