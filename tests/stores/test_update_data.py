"""`updateSessionData`: no simultaneous change is lost; and data that JSON would change is refused."""

from __future__ import annotations

import secrets
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from threads import run_together

from users_session_manager import SessionManager

PROCESSES, THREADS = 4, 8

many_changes = pytest.mark.parametrize("changes", [20, pytest.param(100, marks=pytest.mark.long)])

PROGRAM = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[1])
    from threads import run_together
    from users_session_manager import SessionManager
    from users_session_manager.stores.redis import RedisStore

    _, _, url, prefix, key, process, threads, changes = sys.argv
    manager = SessionManager(store=RedisStore.from_url(url, prefix=prefix, timeout=60))
    assert manager.findSession(key).username == "luca"
    print("ready", flush=True)
    sys.stdin.readline()

    def work(number):
        name = f"{process}-{number}"
        for done in range(int(changes)):
            def change(data):
                data["all"] += 1
                data[name] = data.get(name, 0) + 1
                return data

            assert manager.updateSessionData(key, change)[name] == done + 1

    run_together(work, int(threads))
    manager.close()
""")


def total(names: list[str], changes: int) -> dict[str, int]:
    return {"all": len(names) * changes, **dict.fromkeys(names, changes)}


@many_changes
@pytest.mark.parametrize("store_kind", ["memory", "redis", "sqlite", "postgresql"])
def test_threads(manager, changes):
    """All changes of 32 threads are there, and each thread got back the data with its own."""
    key = manager.loadNewSession("luca", data={"all": 0})

    def work(number: int) -> None:
        name = str(number)

        def change(data: dict[str, int]) -> dict[str, int]:
            data["all"] += 1
            return {**data, name: data.get(name, 0) + 1}

        for done in range(changes):
            assert manager.updateSessionData(key, change)[name] == done + 1

    run_together(work, PROCESSES * THREADS)
    assert manager.getSessionData(key) == total([str(number) for number in range(PROCESSES * THREADS)], changes)


@many_changes
def test_processes(redis_url, request, changes):
    """All changes of 8 threads in each of four processes are there."""
    pytest.importorskip("redis")
    from users_session_manager.stores.redis import RedisStore

    prefix = f"{secrets.token_hex(8)}:"
    manager = SessionManager(store=RedisStore.from_url(redis_url, prefix=prefix, timeout=60))
    key = manager.loadNewSession("luca", data={"all": 0})
    support = str(request.config.rootpath / "tests" / "support")
    command = [sys.executable, "-W", "error", "-c", PROGRAM, support, redis_url, prefix, key]
    workers = [
        subprocess.Popen(
            [*command, str(number), str(THREADS), str(changes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * PROCESSES
        for worker in workers:
            print("go", file=worker.stdin, flush=True)
        ended = [(worker.communicate(timeout=280)[0], worker.returncode) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert ended == [("", 0)] * PROCESSES
    names = [f"{process}-{thread}" for process in range(PROCESSES) for thread in range(THREADS)]
    assert manager.getSessionData(key) == total(names, changes)


# Data that JSON would change

CHANGED_BY_JSON = {
    "int": {1: "a"},
    "float": {1.5: "a"},
    "None": {None: "a"},
    "bool": {True: "a"},
    "two that become one": {1: "a", "1": "b"},
    "in a list": {"cart": [{"a": 1}, {2: "b"}]},
    "in a tuple": ("a", {"b": ({None: 1},)}),
    "deep": {"a": {"b": {"c": {"d": {False: 1}}}}},
}


def change_in_place(manager: SessionManager, key: str, data: Any) -> Any:
    def change(old: dict[str, Any]) -> dict[str, Any]:
        old["new"] = data
        return old

    return manager.updateSessionData(key, change)


WRITERS = {
    "loadNewSession": lambda manager, key, data: manager.loadNewSession("luca", data=data),
    "setSessionData": lambda manager, key, data: manager.setSessionData(key, data),
    "updateSessionData": lambda manager, key, data: manager.updateSessionData(key, lambda old: data),
    "updateSessionData, in place": change_in_place,
}


@pytest.mark.parametrize("store_kind", ["redis"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("data", CHANGED_BY_JSON.values(), ids=CHANGED_BY_JSON)
def test_changed_by_json(manager, write, data):
    """A key that is no `str` is a `TypeError` at any depth, and nothing has changed."""
    key = manager.loadNewSession("luca", data={"old": [1, 2.5, None, True, {"1": "b"}]})
    with pytest.raises(TypeError):
        write(manager, key, data)
    assert manager.getSessionData(key) == {"old": [1, 2.5, None, True, {"1": "b"}]}
    assert manager.getLoggedUsers() == ["luca"]


@pytest.mark.parametrize("store_kind", ["redis"])
@pytest.mark.parametrize("write", list(WRITERS.values())[:3], ids=list(WRITERS)[:3])
def test_kept_by_json(manager, write):
    """Data of JSON is stored unchanged; a tuple comes back as a list."""
    data = {"": None, "1": True, "é": [1, -2.5, "\N{GRINNING FACE}", {"a": {}}], "t": (1, ("2",))}
    key = manager.loadNewSession("luca", data="old")
    answer = write(manager, key, data)
    if isinstance(answer, str):
        key = answer  # the new session's
    assert manager.getSessionData(key) == {**data, "t": [1, ["2"]]}
