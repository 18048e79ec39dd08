"""What a process sees of the library: its import, its forks, its exit, its console."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(program: str, *, covered: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, with warnings as errors.

    Without coverage for one that forks while other threads are busy: coverage has a lock of its own, which a child may
    then find held for ever.
    """
    left_out = re.compile("DEBUG" if covered else "DEBUG|COVERAGE_.*")
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{name: value for name, value in os.environ.items() if not left_out.fullmatch(name)}, **environment},
        check=False,
    )


LIVE_CLOCK = """
    import os, sys, threading, time
    from users_session_manager import SessionManager
    from users_session_manager import MemoryStore
    store = MemoryStore()
    manager = SessionManager(store=store)

    def runs_out(seconds, name):
        return store.add(name, seconds)[0]
"""


class TestFork:
    @needs_fork
    def test_the_childs_sessions_run_out_and_no_lock_is_stuck(self):
        done = run(
            LIVE_CLOCK
            + """
    told = threading.Event()
    manager.on("sessionDeleted", lambda key: told.set() if key == watched else None)
    watched = runs_out(1, "watched")
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
            ok = not there or (told.wait(30) and manager.getUsernameFromSessionKey(watched) is False)
            fresh = manager.loadNewSession("child")
            renewed = manager.renewSessionKey(fresh, 60)
            ok = ok and SessionManager() is manager and manager.getSession(fresh).key == renewed
            ok = ok and manager.deleteUserSessions("child") == 1
            os._exit(0 if ok else 1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads: thread.join()
    assert told.wait(30)
    assert codes == [0] * 30, codes
    """,
            covered=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_a_session_that_was_running_out_at_the_fork_ends_in_the_child_too(self):
        done = run(
            LIVE_CLOCK
            + """
    begun, go_on = threading.Event(), threading.Event()
    ended = []
    def holds_up(key):
        ended.append(key)
        if not begun.is_set():
            begun.set()
            go_on.wait(30)
    manager.on("sessionDeleted", holds_up)
    first = runs_out(0, "first")
    begun.wait(30)
    told = threading.Event()
    manager.on("activeUserDeleted", lambda key: told.set())  # not before the child, where nobody holds the clock up
    second = runs_out(0, "second")
    child = os.fork()
    if child == 0:
        os._exit(0 if told.wait(30) and ended == [first, second] else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    go_on.set()
    assert code == 0
    """
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs_fork
    def test_a_listener_of_a_warning_may_fork_when_others_have_been_warned(self):
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
    def test_what_was_called_on_the_clocks_thread_at_the_fork_is_called_in_the_child(self):
        done = run("""
    import os, threading
    from users_session_manager.clock import Clock
    from users_session_manager.timers import SessionTimer

    parent, begun, go_on, in_child = os.getpid(), threading.Event(), threading.Event(), threading.Event()

    def function():
        if os.getpid() != parent:
            in_child.set()
            return
        begun.set()
        go_on.wait(30)

    timer = SessionTimer(0, function, clock=Clock())
    timer.start()
    assert begun.wait(30)
    child = os.fork()
    if not child:
        os._exit(0 if in_child.wait(30) else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    timer.join(30)
    """)
        assert (done.returncode, done.stderr) == (0, "")

    @needs_fork
    def test_the_events_of_a_timer_are_usable_in_the_child(self):
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
    def test_what_has_to_be_put_right_in_a_child_comes_before_anything_expires(self):
        done = run("""
    import os, sys, threading, time
    from users_session_manager.clock import LOCK, Clock, register
    from users_session_manager.timers import SessionTimer

    seen, ran_out = [], threading.Event()

    class Owner:
        def _after_fork_in_child(self):
            time.sleep(0.2)  # a thread that did not wait for this would have run
            seen.append("put right")

    def run_out():
        seen.append("ran out")
        ran_out.set()

    owner = Owner()
    register(owner)
    timer = SessionTimer(0.05, run_out, clock=Clock())
    with LOCK:
        timer.start()
        child = os.fork()
    if not child:
        assert ran_out.wait(60)
        os._exit(0 if seen == ["put right", "ran out"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "put right" not in seen
    """)
        assert (done.returncode, done.stderr) == (0, "")

    @needs_fork
    def test_threads_that_fork_at_the_same_time_do_not_lock_each_other_out(self):
        done = run(
            LIVE_CLOCK
            + """
    runs_out(3600, "Luca")
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
    def test_gunicorns_preload_shape(self):
        """The manager is made and used before the fork, the clock has run, and the parent goes on too."""
        done = run(
            LIVE_CLOCK
            + """
    manager.deleteSession(runs_out(0.5, "warm-up"))
    workers = []
    for _ in range(3):
        worker = os.fork()
        if worker == 0:
            told = threading.Event()
            manager.on("sessionDeleted", lambda key: told.set())
            runs_out(0.01, "in the worker")
            os._exit(0 if told.wait(30) else 1)
        workers.append(worker)
    told = threading.Event()
    manager.on("sessionDeleted", lambda key: told.set())
    runs_out(0.01, "in the parent")
    assert told.wait(30)
    assert [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers] == [0, 0, 0]
    """
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestExit:
    @pytest.mark.parametrize(
        "last_words",
        [
            "",
            "manager.close(); manager.close()",
            "manager.on('sessionDeleted', lambda key: time.sleep(3600)); runs_out(0, 'blocks'); time.sleep(0.1)",
            "import atexit; atexit.register(manager.deleteAllSessions)",
            "import atexit; atexit.register(lambda: manager.loadNewSession('late'))",
            "manager.on('sessionDeleted', lambda key: print(end=''))\nfor _ in range(20000): runs_out(0.05, 'x')",
        ],
        ids=["live sessions", "closed", "a listener that hangs", "delete at exit", "login at exit", "a burst"],
    )
    def test_nothing_hangs_and_nothing_is_printed(self, last_words, tmp_path):
        leaving = tmp_path / "leaving"
        program = textwrap.dedent(LIVE_CLOCK) + (
            "for number in range(100): manager.loadNewSession(str(number))\n"
            f"{last_words}\n"
            "import pathlib; pathlib.Path(os.environ['LEAVING']).write_text(str(time.time()))\n"
        )
        done = run(program, LEAVING=str(leaving))
        took = time.time() - float(leaving.read_text())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        # A second is the promise, the rest is for a machine that does something else meanwhile; what hangs, hangs for
        # an hour.
        assert took < 10


class TestConsole:
    LOGIN = "from users_session_manager import SessionManager; print(SessionManager().loadNewSession('Luca'))"

    @pytest.mark.parametrize("value", ["1", "true", "users-session-manager"])
    def test_with_debug_set_the_lines_go_to_the_console_without_the_secret(self, value):
        done = run(self.LOGIN, DEBUG=value)
        label, secret = done.stdout.strip().split("_")
        assert label in done.stderr
        assert secret not in done.stderr

    @pytest.mark.parametrize("value", ["", "0", "False", "off"])
    def test_with_debug_off_there_are_none(self, value):
        done = run(self.LOGIN, DEBUG=value)
        assert done.stderr == ""

    def test_a_listeners_failure_is_seen_without_any_set_up(self):
        done = run(
            """
            from users_session_manager import SessionManager
            manager = SessionManager()
            manager.on("sessionCreated", lambda key: 1 / 0)
            manager.loadNewSession("Luca")
            """
        )
        assert done.returncode == 0
        assert "ZeroDivisionError" in done.stderr
        assert "Traceback" in done.stderr


class TestImport:
    def test_the_core_imports_pyee_and_the_standard_library_alone(self):
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

    def test_an_integration_without_its_package_says_what_helps(self):
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
        assert done.stdout.strip() == (
            "python-socketio is not installed: pip install 'users-session-manager[socketio]'"
        )


class TestPatched:
    @pytest.mark.parametrize(
        ("package", "patch"),
        [
            ("gevent", "from gevent import monkey; monkey.patch_all()"),
            ("eventlet", "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()"),
        ],
    )
    def test_sessions_run_out_under_monkey_patching(self, package, patch):
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
            runs_out(0.01, "Luca")
            time.sleep(0)

    threads = [threading.Thread(target=login) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert all_ended.wait(30)
    assert len(set(ended)) == 200
    child = os.fork()
    if child == 0:
        told = threading.Event()
        manager.on("activeUserDeleted", lambda key: told.set())
        runs_out(0.01, "child")
        os._exit(0 if told.wait(30) else 1)
    assert os.waitpid(child, 0)[1] == 0
    """
            )
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
