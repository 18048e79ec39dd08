"""Every kind of Socket.IO server, every way a session can end, both transports, real clients of two languages."""

from __future__ import annotations

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
from pathlib import Path

import pytest

socketio = pytest.importorskip("socketio")

HERE = Path(__file__).parent
PATIENCE = 60

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
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "apps" / "socketio_server.py"), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        port = self._process.stdout.readline().strip()
        assert port, self._process.communicate(timeout=PATIENCE)[1]
        self.address = f"http://127.0.0.1:{port}"

    def do(self, what: str, **order: object) -> object:
        body = json.dumps({"what": what, **order}).encode()
        request = urllib.request.Request(
            f"{self.address}/do", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self._process.terminate()
        _, said = self._process.communicate(timeout=PATIENCE)
        assert "Traceback" not in said, said


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
        return json.loads(self._lines.get(timeout=PATIENCE))

    def present(self, key: object) -> object:
        self._process.stdin.write(json.dumps({"session_key": key}) + "\n")
        self._process.stdin.flush()
        told = self.next()
        if told == "logout":  # it comes before the acknowledgement
            assert self.next() == {"answer": False}
            return False
        return told["answer"]

    def leave(self) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


class PythonClient:
    def __init__(self, address: str, transport: str) -> None:
        self._told: queue.Queue[object] = queue.Queue()
        self._gone = threading.Event()
        self._io = socketio.Client(reconnection=False)
        for word in ("logout", "mark"):
            self._io.on(word, lambda *_, word=word: self._told.put(word))
        self._io.on("session_expiring", lambda left: self._told.put({"left": left}))
        self._io.on("disconnect", lambda *_: self._gone.set())
        self._io.connect(address, transports=[transport], wait_timeout=PATIENCE)
        self.sid = self._io.get_sid()

    def next(self):
        return self._told.get(timeout=PATIENCE)

    def present(self, key: object) -> object:
        answer = self._io.call("session_key", {"session_key": key}, timeout=PATIENCE)
        if answer is False:
            assert self.next() == "logout"
        return answer

    def leave(self) -> None:
        if self._io.connected and self._io.transport() == "websocket":
            end = self._io.eio.ws.sock
            end.shutdown(socket.SHUT_RDWR)  # as a closed tab does
            assert self._gone.wait(PATIENCE)
            end.close()  # its own library leaves that to the garbage collector
        else:
            self._io.disconnect()


def told_until_marked(server, client) -> list[object]:
    """All that a client is told before a mark that is sent after it."""
    server.do("mark", sid=client.sid)
    words = []
    while (word := client.next()) != "mark":
        words.append(word)
    return words


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    for package in SERVERS[request.param]:
        pytest.importorskip(package) if package != "eventlet" else _require_eventlet()
    server = Server(request.param)
    yield server
    server.stop()


def _require_eventlet() -> None:
    import importlib.util

    if importlib.util.find_spec("eventlet") is None:  # importing it warns of its end
        pytest.skip("could not import 'eventlet'")


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The folder of node modules that has the real socket.io-client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        reason = "no node or npm on the PATH: apt-get install npm"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    sys.path.insert(0, str(next((HERE.parents[1] / "examples").rglob("socket_io_client.py")).parent))
    try:
        from socket_io_client import fetch
    finally:
        del sys.path[0]
    script = fetch(tmp_path_factory.mktemp("npm"))
    assert script is not None, "npm could not bring socket.io-client"
    return script.parents[2]


@pytest.fixture(scope="module", params=["websocket", "polling"])
def clients(request, server, modules):
    """A client of each language; connecting is what takes long, so they live as long as the server."""
    found = [
        JavaScriptClient(modules, server.address, request.param),
        PythonClient(server.address, request.param),
    ]
    yield found
    for client in found:
        client.leave()


ENDS = ["runs out", "deleteSession", "deleteAllSessions", "deleteUserSessions", "evicted"]


@pytest.mark.parametrize("end", [*ENDS, "sendLogoutMessage"])
def test_each_client_gets_exactly_one_logout(server, clients, end):
    key = server.do("login")
    assert [client.present(key) for client in clients] == [True, True]
    server.do(end, key=key)
    assert [client.next() for client in clients] == ["logout", "logout"]
    assert [told_until_marked(server, client) for client in clients] == [[], []]
    if end == "sendLogoutMessage":  # the session goes on, and its end is an end like any other
        assert server.do("deleteSession", key=key) is True
        assert [client.next() for client in clients] == ["logout", "logout"]
    assert [client.present(key) for client in clients] == [False, False]


@pytest.mark.parametrize("end", ENDS)
def test_renewed_by_another_request_it_sends_none_and_one_at_its_end(server, clients, end):
    first, second = clients
    old = server.do("login")
    assert first.present(old) is True
    key = server.do("renewed", key=old, overlap=PATIENCE)
    assert second.present(old) is True
    assert [told_until_marked(server, client) for client in clients] == [[], []]
    server.do(end, key=key)
    assert [client.next() for client in clients] == ["logout", "logout"]
    assert [told_until_marked(server, client) for client in clients] == [[], []]
    assert [client.present(gone) for client in clients for gone in (old, key)] == [False] * 4


def test_a_session_that_goes_on_sends_none(server, clients):
    key, other = server.do("login"), server.do("login")
    assert [client.present(key) for client in clients] == [True, True]
    assert server.do("restarted", key=key) is True
    server.do("deleteSession", key=other)
    server.do("runs out", key=server.do("login"))
    server.do("deleteUserSessions", **{"except": key})
    assert [told_until_marked(server, client) for client in clients] == [[], []]
    server.do("deleteSession", key=key)
    assert [client.next() for client in clients] == ["logout", "logout"]


def test_a_warning_reaches_the_clients_of_that_session_with_the_seconds_that_are_left(server, clients):
    warned, other = clients
    old, bystanders = server.do("login"), server.do("login")
    assert (warned.present(old), other.present(bystanders)) == (True, True)
    key = server.do("renewed", key=old)
    for _ in range(2):  # once for each countdown
        server.do("warned", key=key)
        assert 3000 - PATIENCE < warned.next()["left"] <= 3000
        assert [told_until_marked(server, client) for client in clients] == [[], []]
    server.do("deleteUserSessions")
    assert [client.next() for client in clients] == ["logout", "logout"]


def test_what_is_no_live_key_is_refused(server, clients):
    first, second = clients
    assert first.present(second.sid) is False
    assert first.present(None) is False
    assert first.present("Otter-candid-46_00000000000000000000000000000000") is False
    assert [told_until_marked(server, client) for client in clients] == [[], []]


def test_an_end_on_another_thread_reaches_them_too(server, clients):
    key = server.do("login")
    assert [client.present(key) for client in clients] == [True, True]
    server.do("deleteSession", key=key, thread=True)
    assert [client.next() for client in clients] == ["logout", "logout"]


@pytest.mark.parametrize(
    ("mode", "package", "cure"),
    [("gevent", "gevent", r"gevent\.monkey\.patch_all"), ("eventlet", "eventlet", r"eventlet\.monkey_patch")],
)
def test_a_server_that_would_lose_logouts_without_monkey_patching_is_refused(mode, package, cure):
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
    if package == "eventlet":
        _require_eventlet()
    else:
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert re.search(cure, done.stdout), done.stderr
