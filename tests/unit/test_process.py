"""The library in a process: its import, its forks and its exit."""

from __future__ import annotations

import os
import textwrap
import time

import pytest
from interpreter import run

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


LIVE_CLOCK = """
    import os, sys, threading, time
    from users_session_manager import SessionManager
    from users_session_manager import MemoryStore
    store = MemoryStore()
    manager = SessionManager(store=store)

    def expires_in(seconds, name):
        return store.add(name, seconds)[0]
"""


class TestFork:
    @needs_fork
    def test_busy_threads(self):
        """In a child sessions expire and no lock is stuck, though other threads were busy at the fork."""
        done = run(
            LIVE_CLOCK
            + """
    announced = threading.Event()
    manager.on("sessionDeleted", lambda key: announced.set() if key == watched else None)
    watched = expires_in(1, "watched")
    stop = threading.Event()

    def busy():  # so that locks of every kind are held when the fork comes
        while not stop.is_set():
            manager.deleteSession(manager.loadNewSession("busy"))

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(4)]
    for thread in threads: thread.start()
    children = []
    for _ in range(30):
        child = os.fork()
        if child == 0:
            # One that was taken out before the fork is the parent's to announce.
            there = watched in manager.sessions
            ok = not there or (announced.wait(30) and manager.getUsernameFromSessionKey(watched) is False)
            fresh = manager.loadNewSession("child")
            renewed = manager.renewSessionKey(fresh, 60)
            ok = ok and SessionManager() is manager and manager.getSession(fresh).key == renewed
            ok = ok and manager.deleteUserSessions("child") == 1
            os._exit(0 if ok else 1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads: thread.join()
    assert announced.wait(30)
    assert codes == [0] * 30, codes
    """,
            covered=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_expiring(self):
        """A session that was about to expire at the fork ends in the child too."""
        done = run(
            LIVE_CLOCK
            + """
    started, go_on = threading.Event(), threading.Event()
    ended = []
    def holds_up(key):
        ended.append(key)
        if not started.is_set():
            started.set()
            go_on.wait(30)
    manager.on("sessionDeleted", holds_up)
    first = expires_in(0, "first")
    started.wait(30)
    announced = threading.Event()
    manager.on("activeUserDeleted", lambda key: announced.set())  # in the child, where nothing holds the clock up
    second = expires_in(0, "second")
    child = os.fork()
    if child == 0:
        os._exit(0 if announced.wait(30) and ended == [first, second] else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    go_on.set()
    assert code == 0
    """
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_warning(self):
        """A listener for a warning may fork in the middle of several warnings."""
        done = run("""
    import os, threading
    from users_session_manager import MemoryStore, SessionManager

    seconds, children = [0.0], []
    store = MemoryStore(now=lambda: seconds[0], thread=False)
    manager = SessionManager(store=store)
    manager.setExpiryWarning(10)
    keys = [manager.loadNewSession("Luca") for _ in range(3)]

    def fork(key, left):
        if key == keys[1]:
            child = os.fork()
            if child == 0:
                login = threading.Thread(target=manager.loadNewSession, args=("Fabio",), daemon=True)
                login.start()  # it needs the clock's lock
                login.join(30)
                os._exit(login.is_alive())
            children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    manager.on("sessionExpiring", fork)
    seconds[0] = 2990.0
    store.run_due()
    print(children)
    """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[0]\n", "")

    @needs_fork
    def test_called(self):
        """A call that the clock's thread was making at the fork is made in the child."""
        done = run("""
    import os, threading
    from users_session_manager.clock import Clock
    from users_session_manager.timers import SessionTimer

    parent, started, go_on, in_child = os.getpid(), threading.Event(), threading.Event(), threading.Event()

    def function():
        if os.getpid() != parent:
            in_child.set()
            return
        started.set()
        go_on.wait(30)

    timer = SessionTimer(0, function, clock=Clock())
    timer.start()
    assert started.wait(30)
    child = os.fork()
    if not child:
        os._exit(0 if in_child.wait(30) else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    timer.join(30)
    """)
        assert (done.returncode, done.stderr) == (0, "")

    @needs_fork
    def test_timer_events(self):
        """The events of a timer are usable in the child, though a thread held their locks at the fork."""
        done = run("""
    import os, threading
    from users_session_manager import MemoryStore

    store = MemoryStore()
    keys = [store.add("Luca", 3000)[0] for _ in range(50)]
    timers = [store.get(key).timer for key in keys]
    for timer in timers:  # as a thread does that is in the middle of `set` or `wait`
        timer.finished._cond.acquire()
        timer._ended._cond.acquire()
    child = os.fork()
    if not child:
        ended = threading.Thread(target=lambda: [store.remove(key) for key in keys], daemon=True)
        ended.start()
        ended.join(30)
        os._exit(0 if not ended.is_alive() and all(timer.finished.is_set() for timer in timers) else 1)
    assert os.waitpid(child, 0)[1] == 0
    """)
        assert (done.returncode, done.stderr) == (0, "")

    @needs_fork
    def test_first_repaired(self):
        """A child repairs its state before a session expires."""
        done = run("""
    import os, sys, threading, time
    from users_session_manager.clock import LOCK, Clock, register
    from users_session_manager.timers import SessionTimer

    seen, expired = [], threading.Event()

    class Owner:
        def _after_fork_in_child(self):
            time.sleep(0.2)  # a thread that did not wait for this would have run
            seen.append("repaired")

    def expire():
        seen.append("expired")
        expired.set()

    owner = Owner()
    register(owner)
    timer = SessionTimer(0.05, expire, clock=Clock())
    with LOCK:
        timer.start()
        child = os.fork()
    if not child:
        assert expired.wait(60)
        os._exit(0 if seen == ["repaired", "expired"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "repaired" not in seen
    """)
        assert (done.returncode, done.stderr) == (0, "")

    @needs_fork
    def test_simultaneous(self):
        """Threads that fork at the same time do not lock each other out."""
        done = run(
            LIVE_CLOCK
            + """
    expires_in(3600, "Luca")
    codes = []
    def forks():
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(len(manager.getLoggedUsers()))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    threads = [threading.Thread(target=forks) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert codes == [1] * 80, codes
    """,
            covered=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_preload(self):
        """As with gunicorn's `--preload`: made and used before the fork, and in use in parent and children."""
        done = run(
            LIVE_CLOCK
            + """
    manager.deleteSession(expires_in(0.5, "warm-up"))
    workers = []
    for _ in range(3):
        worker = os.fork()
        if worker == 0:
            announced = threading.Event()
            manager.on("sessionDeleted", lambda key: announced.set())
            expires_in(0.01, "in the worker")
            os._exit(0 if announced.wait(30) else 1)
        workers.append(worker)
    announced = threading.Event()
    manager.on("sessionDeleted", lambda key: announced.set())
    expires_in(0.01, "in the parent")
    assert announced.wait(30)
    assert [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers] == [0, 0, 0]
    """
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_without_hooks(self):
        """A fork that calls no hook of Python, as uWSGI's, is noticed where the child first uses the library."""
        done = run(
            LIVE_CLOCK
            + """
    import ctypes
    from users_session_manager.clock import LOCK
    before = manager.loadNewSession("before")
    # No thread may run here at the fork: the interpreter itself would not survive that. So the lock has been left.
    manager.stop()
    holder = threading.Thread(target=LOCK.acquire)
    holder.start()
    holder.join()
    children = []
    for number in range(10):
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            announced = threading.Event()
            manager.on("sessionDeleted", lambda key: announced.set() if key == short else None)
            short = expires_in(1, "short")
            ok = manager.checkSessionStatus(before) and announced.wait(30)
            ok = ok and manager.deleteSession(manager.loadNewSession("child"))
            os._exit(0 if ok else 1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(set(codes), flush=True)
    os._exit(0)  # since this process has no lock any more
    """,
            covered=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "{0}\n", "")


class TestExit:
    @pytest.mark.parametrize(
        "last_words",
        [
            "",
            "manager.close(); manager.close()",
            "manager.on('sessionDeleted', lambda key: time.sleep(3600)); expires_in(0, 'blocks'); time.sleep(0.1)",
            "import atexit; atexit.register(manager.deleteAllSessions)",
            "import atexit; atexit.register(lambda: manager.loadNewSession('late'))",
            "manager.on('sessionDeleted', lambda key: print(end=''))\nfor _ in range(20000): expires_in(0.05, 'x')",
        ],
        ids=["live sessions", "closed", "a listener that hangs", "delete at exit", "login at exit", "a burst"],
    )
    def test_silent(self, last_words, tmp_path):
        """Nothing hangs and nothing is printed."""
        leaving = tmp_path / "leaving"
        program = textwrap.dedent(LIVE_CLOCK) + (
            "for number in range(100): manager.loadNewSession(str(number))\n"
            f"{last_words}\n"
            "import pathlib; pathlib.Path(os.environ['LEAVING']).write_text(str(time.time()))\n"
        )
        done = run(program, LEAVING=str(leaving))
        took = time.time() - float(leaving.read_text())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        # A second is the promise, the rest is for a machine that is busy with something else; what hangs, hangs for
        # an hour.
        assert took < 10

    def test_stores_first(self):
        """A store stops its own workers; one that fails keeps nothing else from stopping."""
        done = run("""
    import threading
    from users_session_manager.clock import Worker, register

    class Owner:
        def __init__(self):
            self.worker = Worker("owned", print, lambda: 60)
            self.worker.start()
            register(self)

        def _after_fork_in_child(self):
            pass

        def _at_exit(self):
            print("store", threading.active_count() > 1)
            raise ValueError("broken")

    owners = [Owner() for _ in range(5)]
    """)
        assert (done.returncode, done.stdout.splitlines()) == (0, ["store True"] * 5)
        assert done.stderr.count("ValueError: broken") == 5


class TestImport:
    def test_core(self):
        """The core imports pyee and the standard library alone, and no asyncio."""
        done = run(
            """
            import sys
            import pyee
            before = set(sys.modules)
            import users_session_manager
            new = {name.partition(".")[0] for name in set(sys.modules) - before}
            print(*sorted(new - set(sys.stdlib_module_names)))
            print(*sorted(new & {"asyncio", "inspect"}))
            """
        )
        assert done.stdout.split("\n")[:2] == ["users_session_manager", ""]

    def test_missing_package(self):
        """An integration without its package says what helps."""
        done = run(
            """
            import sys
            sys.modules["socketio"] = None
            from users_session_manager import MissingDependency, SessionError
            try:
                import users_session_manager.integrations.socketio
            except MissingDependency as missing:
                assert isinstance(missing, (SessionError, ImportError))
                print(missing)
            """
        )
        assert "python-socketio is not installed: pip install 'users-session-manager[socketio]'," in done.stdout


class TestPatched:
    @pytest.mark.parametrize(
        ("package", "patch"),
        [
            ("gevent", "from gevent import monkey; monkey.patch_all()"),
            ("eventlet", "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()"),
        ],
        ids=["gevent", "eventlet"],
    )
    def test_patched(self, package, patch):
        """Sessions expire under monkey-patching, in a forked child too."""
        pytest.importorskip(package, exc_type=ImportError)
        done = run(
            f"{patch}\n"
            + textwrap.dedent(
                LIVE_CLOCK
                + """
    ended, all_ended = [], threading.Event()

    def on_deleted(key):
        time.sleep(0)  # another greenlet's turn, in the middle of a listener
        ended.append(key)
        if len(ended) == 200:
            all_ended.set()

    manager.on("sessionDeleted", on_deleted)

    def login():
        for _ in range(50):
            expires_in(0.01, "Luca")
            time.sleep(0)

    threads = [threading.Thread(target=login) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert all_ended.wait(30)
    assert len(set(ended)) == 200
    child = os.fork()
    if child == 0:
        announced = threading.Event()
        manager.on("activeUserDeleted", lambda key: announced.set())
        expires_in(0.01, "child")
        os._exit(0 if announced.wait(30) else 1)
    assert os.waitpid(child, 0)[1] == 0
    """
            )
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
