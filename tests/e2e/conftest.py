"""An example as a real process on loopback, and Chromium in front of it.

The fixture `example` is `examples/flask_app`; the tests of another example have a fixture of that name of their own.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from npm_client import client_script

from users_session_manager import SessionManager

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_WAIT = 30  # seconds; how long a test waits for what it expects, which a busy machine may need

# Without the last four, Chromium calls home at every start.
SWITCHES = "--disable-gpu --no-first-run --disable-quic --disable-background-networking --disable-component-update "
SWITCHES += "--disable-sync"

# Chromium reports every answer of 400 and above as an error of the page; these are what the example is meant to say.
EXPECTED = re.compile(r"the server responded with a status of 40[013] ")
OFFLINE = re.compile(r"net::ERR_|WebSocket connection to .* failed")


class Example:
    """An example as its users start it: a process that prints the address to open."""

    def __init__(self, script: str, *options: str) -> None:
        client_script()  # else several examples could let npm install it at the same time
        command = [sys.executable, str(EXAMPLES / script), "--port", "0", *options]
        # Tests of Django in this process name settings of their own there; other tests measure the coverage.
        left_out = ("DJANGO_SETTINGS_MODULE", "COVERAGE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.output = ""
        self._seen = 0  # how much of it is from before the present test
        try:
            self.url = self.wait_for_output(r"http://127\.0\.0\.1:\d+/")
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise

    @property
    def new_output(self) -> str:
        """The output since `begin`."""
        return self.output[self._seen :]

    def begin(self) -> None:
        """Let the output up to now be that of earlier tests."""
        self._seen = len(self.output)

    def wait_for_output(self, pattern: str) -> str:
        """Return what in the new output matches `pattern`, as soon as it is there."""
        self.wait_until(lambda: re.search(pattern, self.new_output), pattern)
        found = re.search(pattern, self.new_output)
        assert found is not None
        return found[0]

    def wait_until(self, condition: Callable[[], object], expected: str) -> None:
        """Read the output until a condition of it is met."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + 2 * MAX_WAIT
        while not condition():
            left = deadline - time.monotonic()
            readable = left > 0 and select.select([self._process.stdout], [], [], left)[0]
            more = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            assert more, f"the example never printed {expected!r}, but:\n{self.output}"
            self.output += more.decode()

    def stop(self) -> str:
        """End the process; return everything it printed."""
        self._process.terminate()
        self.output += self._process.communicate(timeout=MAX_WAIT)[0].decode()
        return self.output


class Cable:
    """A TCP connection to the example that can be cut: what was open breaks, what is tried is refused.

    Playwright's own offline mode is a setting of the browser; here each side learns it from the network alone.
    """

    def __init__(self, url: str) -> None:
        self._target = ("127.0.0.1", urlsplit(url).port)
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._whole = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._threads = [threading.Thread(target=self._accept, name="cable", daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        with self._lock:
            self._whole = False
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def repair(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        for thread in self._threads:
            thread.join(MAX_WAIT)
        for end in [*self._open, self._listener]:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open += [near, far]
            for pair in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._carry, args=pair, name="cable", daemon=True))
                self._threads[-1].start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


# Werkzeug's server logs this if a browser closes a page while its Socket.IO client changes to a WebSocket: Engine.IO
# turns the closed connection into an `OSError`, or sends to it. No code of the example runs in it.
LEFT_WHILE_CONNECTING = re.compile(
    r"^Error on request:\nTraceback .*\n(?:  .*\n)+wsproto\.utilities\.LocalProtocolError: .*REMOTE_CLOSING\n"
    r"|^Error on request:\nTraceback .*\n(?:  .*\n)+"
    r"simple_websocket\.errors\.ConnectionClosed: .*\n\nDuring handling .*\n\n"
    r"Traceback .*\n(?:  .*\n)+OSError\n",
    re.MULTILINE,
)


def copy_example(name: str, folder: Path) -> str:
    """Copy an example into a folder, so that its files are its own; return the program that starts it."""
    shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("instance", "__pycache__"))
    (folder / "shared").symlink_to(EXAMPLES / "shared")
    return str(folder / name / "app.py")


@contextmanager
def sessions_of(program: str) -> Iterator[SessionManager]:
    """Share the sessions of a copied example, as another worker of it would."""
    instance = Path(program).parent / "instance"
    instance.mkdir(exist_ok=True)  # the example makes it when it needs its sessions first
    manager = SessionManager(store=f"sqlite:///{instance}/sessions.sqlite3")
    yield manager
    manager.close()


def starter() -> Iterator[Callable[..., Example]]:
    started: list[Example] = []

    def start(*options: str, script: str) -> Example:
        started.append(Example(script, *options))
        return started[-1]

    yield start
    for example in started:
        output = LEFT_WHILE_CONNECTING.sub("", example.stop())
        assert "Traceback" not in output, output


@pytest.fixture
def start_example() -> Iterator[Callable[..., Example]]:
    """Starts an example with more options; it ends with the test."""
    yield from starter()


@pytest.fixture(scope="module")
def start_shared_example() -> Iterator[Callable[..., Example]]:
    """Starts an example for all tests of a module."""
    yield from starter()


@pytest.fixture(scope="module")
def flask_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return copy_example("flask_app", tmp_path_factory.mktemp("flask"))


@pytest.fixture(scope="module")
def flask_example(start_shared_example: Callable[..., Example], flask_program: str) -> Example:
    return start_shared_example("--timeout", "600", "--warning", "300", script=flask_program)


@pytest.fixture
def example(flask_example: Example, flask_program: str) -> Example:
    """The example without a session, with sessions that outlast every test."""
    with sessions_of(flask_program) as manager:
        manager.deleteAllSessions()
    flask_example.begin()
    return flask_example


@pytest.fixture
def cable(example: Example) -> Iterator[Cable]:
    cable = Cable(example.url)
    yield cable
    cable.close()


@pytest.fixture(scope="module")  # not longer: while Playwright runs, its event loop is in the way of other tests
def browser() -> Iterator[Browser]:
    # The headless shell opens a page three times as fast.
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        _missing("no Chromium on the PATH: apt-get install chromium-headless-shell")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _missing("no Playwright: pip install playwright")
    expect.set_options(timeout=MAX_WAIT * 1000)
    # Chromium's sandbox refuses to run as root, as which containers do everything.
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*SWITCHES.split(), *root])
        yield browser
        browser.close()


def _missing(reason: str) -> Any:
    # Where everything is meant to be tested, a test that cannot run is one that failed.
    return pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture
def expect(browser: Browser) -> Any:
    from playwright.sync_api import expect

    return expect


class Person:
    """A user with a browser of their own."""

    def __init__(self, context: BrowserContext, url: str, complaints: list[str]) -> None:
        self.context = context
        self.url = url
        self._complaints = complaints

    def open_tab(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self._complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda failure: self._complaints.append(str(failure)))
        page.goto(self.url)
        return page

    def log_in(self, username: str, password: str) -> Page:
        page = self.open_tab()
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in", exact=True).click()
        page.get_by_text("this is you").wait_for()
        return page


@pytest.fixture
def new_person(browser: Browser, example: Example) -> Iterator[Callable[..., Person]]:
    """Gives people browsers without any cookies; what their pages complain of fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def new_person(*, url: str = example.url, **options: Any) -> Person:
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(MAX_WAIT * 1000)
        return Person(contexts[-1], url, complaints)

    yield new_person
    for context in contexts:
        with suppress(Exception):  # the example may have been stopped
            context.request.post(example.url + "logout", data={})  # an example that tests share has no session then
        context.close()
    assert [text for text in complaints if not EXPECTED.search(text) and not OFFLINE.search(text)] == []


@pytest.fixture
def luca(new_person: Callable[..., Person]) -> Page:
    """A page in which luca is logged in."""
    return new_person().log_in("luca", "lasagne")


@pytest.fixture
def fabio(new_person: Callable[..., Person]) -> Page:
    """A page of another browser in which fabio is logged in."""
    return new_person().log_in("fabio", "focaccia")
