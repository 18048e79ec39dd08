"""Every kind of Socket.IO server, every way a session can end, both transports, real clients of two languages.

Two kinds have all tests, one with threads and one with an event loop; the others have `test_smoke`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from npm_client import client_script
from server_process import MAX_WAIT, ServerProcess

socketio = pytest.importorskip("socketio")
from socketio_client import new_client  # noqa: E402

HERE = Path(__file__).parent
SERVERS = {
    "threading": ["simple_websocket", "werkzeug"],
    "gevent": ["simple_websocket", "gevent"],
    "eventlet": ["eventlet"],
    "flask_socketio": ["simple_websocket", "flask_socketio"],
    "asgi": ["uvicorn"],
}


class Server:
    """apps/socketio_server.py in a process of its own."""

    def __init__(self, mode: str) -> None:
        self._process = ServerProcess(str(HERE / "apps" / "socketio_server.py"), mode, printed=r"(?m)^(\d+)$")
        self.address = self._process.address
        self.stop = self._process.stop

    def do(self, what: str, **order: object) -> object:
        body = json.dumps({"what": what, **order}).encode()
        request = urllib.request.Request(
            f"{self.address}/do", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=MAX_WAIT) as answer:
            return json.load(answer)


class JavaScriptClient:
    def __init__(self, modules: Path, address: str, transport: str) -> None:
        self._process = subprocess.Popen(
            ["node", str(HERE / "apps" / "client.js"), str(modules), address, transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=lambda: [self._lines.put(line) for line in self._process.stdout])
        self._reader.daemon = True
        self._reader.start()
        self.sid = self.next()["sid"]

    def next(self):
        return json.loads(self._lines.get(timeout=MAX_WAIT))

    def present(self, key: object) -> object:
        self._process.stdin.write(json.dumps({"session_key": key}) + "\n")
        self._process.stdin.flush()
        heard = self.next()
        if heard == "logout":  # it comes before the acknowledgement
            assert self.next() == {"answer": False}
            return False
        return heard["answer"]

    def leave(self) -> None:
        self._process.stdin.close()
        self._process.wait(MAX_WAIT)
        self._reader.join(MAX_WAIT)
        self._process.stdout.close()


class PythonClient:
    def __init__(self, address: str, transport: str) -> None:
        self._heard: queue.Queue[object] = queue.Queue()
        self._gone = threading.Event()
        self._io = new_client()
        for word in ("logout", "mark"):
            self._io.on(word, lambda *_, word=word: self._heard.put(word))
        self._io.on("session_expiring", lambda left: self._heard.put({"left": left}))
        self._io.on("disconnect", lambda *_: self._gone.set())
        self._io.connect(address, transports=[transport], wait_timeout=MAX_WAIT)
        self.sid = self._io.get_sid()

    def next(self):
        return self._heard.get(timeout=MAX_WAIT)

    def present(self, key: object) -> object:
        answer = self._io.call("session_key", {"session_key": key}, timeout=MAX_WAIT)
        if answer is False:
            assert self.next() == "logout"
        return answer

    def leave(self) -> None:
        if self._io.connected and self._io.transport() == "websocket":
            end = self._io.eio.ws.sock
            end.shutdown(socket.SHUT_RDWR)  # as a closed tab does
            assert self._gone.wait(MAX_WAIT)
            end.close()  # its own library leaves that to the garbage collector
        else:
            self._io.disconnect()


def heard(server, client) -> list[object]:
    """Return all that a client has heard before a mark that is sent after it."""
    server.do("mark", sid=client.sid)
    words = []
    while (word := client.next()) != "mark":
        words.append(word)
    return words


def has(packages: list[str]) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)  # importing eventlet warns of its end


@pytest.fixture(scope="module")
def server(request):
    if not has(SERVERS[request.param]):
        pytest.skip(f"could not import {SERVERS[request.param]}")
    server = Server(request.param)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def modules():
    """The folder of node modules that has the real socket.io-client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        reason = "no node or npm on the PATH: apt-get install npm"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    script = client_script()
    assert script is not None, "npm could not bring socket.io-client"
    return script.parents[2]


@pytest.fixture(scope="module")
def clients(server, modules):
    """A client of each language over each transport; connecting is what takes long, so all tests have the same."""
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(JavaScriptClient, modules, server.address, each) for each in ("websocket", "polling")]
        found += [threads.submit(PythonClient, server.address, each) for each in ("websocket", "polling")]
        clients = [client.result(MAX_WAIT) for client in found]
        yield clients
        list(threads.map(lambda client: client.leave(), clients))


on_two_kinds = pytest.mark.parametrize("server", ["threading", "asgi"], indirect=True, scope="module")
ENDS = ["expires", "deleteSession", "deleteAllSessions", "deleteUserSessions", "evicted"]


def check_one_logout(server, clients, end, *, key=None, **options):
    """Let the session of the clients end like that: each hears one logout, and nothing else."""
    if key is None:
        key = server.do("login")
        assert [client.present(key) for client in clients] == [True] * len(clients)
    server.do(end, key=key, **options)
    assert [client.next() for client in clients] == ["logout"] * len(clients)
    assert [heard(server, client) for client in clients] == [[]] * len(clients)


@on_two_kinds
@pytest.mark.parametrize("end", ENDS)
def test_one_logout_each(server, clients, end):
    """Each client hears one logout, and cannot join again."""
    check_one_logout(server, clients, end)
    key = server.do("login")
    assert [client.present(key) for client in clients] == [True] * 4
    check_one_logout(server, clients, end, key=key)
    assert [client.present(key) for client in clients] == [False] * 4


@on_two_kinds
def test_message(server, clients):
    """After a message the session goes on, and its end is an end like any other."""
    key = server.do("login")
    assert [client.present(key) for client in clients] == [True] * 4
    check_one_logout(server, clients, "sendLogoutMessage", key=key)
    check_one_logout(server, clients, "deleteSession", key=key)


@on_two_kinds
@pytest.mark.parametrize("end", ENDS)
def test_renewal(server, clients, end):
    """A renewal by another request sends no logout, and the end sends one."""
    old = server.do("login")
    assert [client.present(old) for client in clients[::2]] == [True, True]
    key = server.do("renewed", key=old, overlap=MAX_WAIT)
    assert [client.present(old) for client in clients[1::2]] == [True, True]
    assert [heard(server, client) for client in clients] == [[]] * 4
    check_one_logout(server, clients, end, key=key)
    assert [client.present(dead) for client in clients for dead in (old, key)] == [False] * 8


@on_two_kinds
def test_session_goes_on(server, clients):
    """A restart, and the ends of other sessions, send no logout."""
    key, other = server.do("login"), server.do("login")
    assert [client.present(key) for client in clients] == [True] * 4
    assert server.do("restarted", key=key) is True
    server.do("deleteSession", key=other)
    server.do("expires", key=server.do("login"))
    server.do("deleteUserSessions", **{"except": key})
    assert [heard(server, client) for client in clients] == [[]] * 4
    check_one_logout(server, clients, "deleteSession", key=key)


def check_warning(server, warned, others):
    """The clients of a session hear a warning with the seconds that are left, once a countdown; others do not."""
    old, other_key = server.do("login"), server.do("login")
    assert [client.present(old) for client in warned] == [True] * len(warned)
    assert [client.present(other_key) for client in others] == [True] * len(others)
    key = server.do("renewed", key=old)
    for _ in range(2):
        server.do("warned", key=key)
        for client in warned:
            assert 3000 - MAX_WAIT < client.next()["left"] <= 3000
        assert [heard(server, client) for client in (*warned, *others)] == [[]] * 4
    check_one_logout(server, [*warned, *others], "deleteUserSessions", key=key)


@on_two_kinds
def test_warning(server, clients):
    """A warning reaches the clients of that session, in both languages and over both transports."""
    check_warning(server, clients[::2], clients[1::2])
    check_warning(server, clients[1::2], clients[::2])


def check_refusal(server, clients):
    for key in (clients[1].sid, None, "Otter-candid-46-k3xq_00000000000000000000000000000000"):
        assert [client.present(key) for client in clients] == [False] * 4
    assert [heard(server, client) for client in clients] == [[]] * 4


@on_two_kinds
def test_refusal(server, clients):
    """Anything but a live key is refused."""
    check_refusal(server, clients)


@on_two_kinds
def test_other_thread(server, clients):
    """An end on another thread than that of the loop reaches the clients too."""
    check_one_logout(server, clients, "deleteSession", thread=True)


@pytest.mark.parametrize("server", [kind for kind in SERVERS if kind not in ("threading", "asgi")], indirect=True)
def test_smoke(server, clients):
    """Joining, a refusal, a warning, an end by a request and by the clock."""
    check_refusal(server, clients)
    check_warning(server, clients[::2], clients[1::2])
    for end in ("expires", "deleteAllSessions"):
        check_one_logout(server, clients, end)


@pytest.mark.parametrize(
    ("mode", "package", "cure"),
    [("gevent", "gevent", r"gevent\.monkey\.patch_all"), ("eventlet", "eventlet", r"eventlet\.monkey_patch")],
)
def test_not_patched(mode, package, cure):
    """A server that would lose logouts without monkey-patching is refused with the cure."""
    program = f"""
import warnings; warnings.simplefilter("ignore")
import {package}, socketio
from users_session_manager import SessionError, SessionManager
from users_session_manager.integrations.socketio import attach
try:
    attach(SessionManager(), socketio.Server(async_mode={mode!r}))
except SessionError as refusal:
    assert SessionManager().getSocketReference() is None
    print(refusal)
"""
    if not has([package]):
        pytest.skip(f"could not import {package!r}")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=MAX_WAIT, check=False
    )
    assert re.search(cure, done.stdout), done.stderr
