"""Forks at random moments while threads sign in and out; each child does the same and exits, or it is a failure.

The arguments are the number of forks and a kind of store; in `memory`, each child lets a session of its parent expire.
"""

import faulthandler
import os
import random
import signal
import sys
import threading
import time

faulthandler.enable()
COUNT, KIND = int(sys.argv[1]), sys.argv[2]
HANG = 60
AT_ONCE = 5

if KIND != "memory":
    from noting import manager, visit

    manager.initSocketReference(object())  # so that there is a reader
else:
    from users_session_manager import SessionManager

    manager = SessionManager()
    ended = []
    manager.on("sessionDeleted", ended.append)

    def visit():
        key = manager.loadNewSession("Luca")
        return manager.getUsernameFromSessionKey(key) == "Luca" and manager.deleteSession(key) and key in ended


def in_child():
    if not visit():
        return "a visit went wrong"
    if KIND == "memory":
        inherited = [key for key in [*manager.sessions] if manager.findSession(key)]
        deadline = time.monotonic() + HANG
        while not set(inherited) <= set(ended):
            if time.monotonic() > deadline:
                return "a session of the parent has not expired"
            time.sleep(0.01)
    return None


def work():
    while not stop.wait(0.02):
        visit()
        if KIND == "memory":
            manager.loadNewSession("expires", timeout=2)


stop = threading.Event()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
visit()
children, failures, left = {}, [], COUNT
while left or children:
    if left and len(children) < AT_ONCE:
        time.sleep(random.uniform(0, 0.02))
        child = os.fork()
        if child == 0:
            sys.exit(in_child())
        left -= 1
        children[child] = time.monotonic()
    for child, forked_at in [*children.items()]:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            del children[child]
            if status:
                failures.append(status)
        elif time.monotonic() - forked_at > 3 * HANG:
            os.kill(child, signal.SIGABRT)  # which prints where its threads are
            failures.append("hung")
            os.waitpid(child, 0)
            del children[child]
    time.sleep(0.001)
stop.set()
for thread in threads:
    thread.join()
print(COUNT, failures, flush=True)
sys.stdin.read()  # until all ends have been announced
