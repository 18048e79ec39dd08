"""The cluster example: one session on several workers, in real browsers, behind a real nginx and on a real Redis."""

from __future__ import annotations

import importlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("gunicorn")
pytest.importorskip("redis")
pytest.importorskip("simple_websocket")
pytest.importorskip("socketio")
import redis
from socketio_client import new_client

from users_session_manager import SessionManager
from users_session_manager.stores.redis import RedisStore

if TYPE_CHECKING:
    from conftest import Example
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
LABEL = r"session [A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4}"
MAX_WAIT = 30  # seconds; how long a test waits for what it expects, which a busy machine may need
LUCA = {"username": "luca", "password": "lasagne"}


class Cluster:
    """The example, and the addresses that it prints."""

    def __init__(self, example: Example) -> None:
        self.redis_url = example.wait_for_output(r"redis://127\.0\.0\.1:\d+/0")
        self.url, *self.workers = ADDRESS.findall(example.output)
        self.example = example

    def said(self, pattern: str) -> int:
        """How often the workers have printed that in this test."""
        return len(re.findall(pattern, self.example.new_output))


@pytest.fixture(scope="module")
def running_cluster(start_shared_example: Callable[..., Example]) -> Cluster:
    need_programs()
    return Cluster(start_shared_example("--timeout", "600", script="cluster/run.py"))


@pytest.fixture
def example(running_cluster: Cluster) -> Example:
    """The cluster without a session: those of the test before have ended, and the workers have printed it."""
    example = running_cluster.example
    example.wait_until(
        lambda: example.output.count(" logged in, ") == example.output.count(" has ended: "), "the end of each session"
    )
    example.begin()
    return example


@pytest.fixture
def cluster(running_cluster: Cluster, example: Example) -> Cluster:
    return running_cluster


def need_programs() -> None:
    for program in ("nginx", "redis-server"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is None:
            reason = f"no {program} on the PATH: apt-get install {program}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


class OtherClient:
    """A client of a session that stays connected when that ends, and so hears a second `logout` if there is one."""

    def __init__(self, url: str, key: str) -> None:
        self._logouts: queue.Queue[str] = queue.Queue()
        self.io = new_client()
        self.io.on("logout", lambda _data: self._logouts.put("logout"))
        self.io.connect(url, transports=["websocket"], wait_timeout=MAX_WAIT)
        assert self.present(key) is True

    def present(self, key: str) -> object:
        return self.io.call("session_key", key, timeout=MAX_WAIT)

    def wait_for_logout(self) -> None:
        self._logouts.get(timeout=MAX_WAIT)

    def unread_logouts(self) -> int:
        """Return how many more have come, once all that has arrived is handled."""
        handled = threading.Event()
        self.io.start_background_task(handled.set)  # in turn, see `new_client`
        assert handled.wait(MAX_WAIT)
        return self._logouts.qsize()


@pytest.fixture
def new_other_client() -> Iterator[Callable[[str, str], OtherClient]]:
    others: list[OtherClient] = []

    def new_other_client(url: str, key: str) -> OtherClient:
        others.append(OtherClient(url, key))
        return others[-1]

    yield new_other_client
    for other_client in others:
        other_client.io.disconnect()


@pytest.fixture
def two_pages(cluster: Cluster, new_person: Callable[..., Any]) -> tuple[list[Page], str]:
    """The pages of two browsers, each straight on a worker of its own, with one session; and its key."""
    first, second = (new_person(url=url) for url in cluster.workers[:2])
    page = first.log_in("luca", "lasagne")
    cookie = next(cookie for cookie in first.context.cookies() if cookie["name"] == "session_key")
    second.context.add_cookies([cookie])
    other = second.open_tab()
    other.get_by_text("Connected", exact=True).wait_for()
    return [page, other], cookie["value"]


def answered_by(page: Page, worker: int) -> Any:
    return page.get_by_text(f"Worker {worker} answered.", exact=True)


def log_out(pages: list[Page], key: str, cluster: Cluster) -> None:
    pages[0].get_by_role("button", name="Log out").click()


def expire(pages: list[Page], key: str, cluster: Cluster) -> None:
    """Let the session expire soon: restart it with a short timeout, as any process that shares these sessions can.

    With a short timeout from the start it could expire before the second page is there.
    """
    with redis.Redis.from_url(cluster.redis_url) as client:
        # Without a thread: it announces no end, so a worker does.
        manager = SessionManager(store=RedisStore(client, thread=False))
        assert manager.setSessionTimeOut(2)
        assert manager.restartSessionTimer(key)
        manager.close()


@pytest.mark.parametrize(("end", "reason"), [(log_out, "deleted"), (expire, "expired")])
def test_end_on_two_workers(cluster, two_pages, new_other_client, new_person, expect, end, reason):
    """The end of a session logs two browsers on two workers out."""
    pages, key = two_pages
    for worker, page in enumerate(pages, start=1):
        expect(answered_by(page, worker)).to_be_visible()
        expect(page.get_by_text("luca this is you", exact=True)).to_be_visible()
    others = [new_other_client(url, key) for url in cluster.workers]
    end(pages, key, cluster)
    for page in pages:
        expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
        assert page.evaluate("window.neverReloaded"), "the page was reloaded"
        assert set(page.locator("[data-private]").all_text_contents()) == {""}
    for other_client in others:
        other_client.wait_for_logout()
    # A session that ends later: its notices and its announcement come after those of the first one.
    request = new_person(url=cluster.workers[3]).context.request
    answer = request.post(cluster.workers[3] + "login", data=LUCA)
    later = next(cookie for cookie in request.storage_state()["cookies"] if cookie["name"] == "session_key")["value"]
    assert answer.ok
    assert [other_client.present(later) for other_client in others] == [True] * 4
    assert request.post(cluster.workers[3] + "logout", data={}).ok
    for other_client in others:
        other_client.wait_for_logout()
        assert other_client.present(later) is False  # which is one more logout
        assert other_client.unread_logouts() == 1
    cluster.example.wait_for_output(rf"worker 4: luca logged in, {LABEL}\n")
    cluster.example.wait_for_output(rf"worker 4: {LABEL} of luca has ended: deleted\n")
    said = rf"worker \d: {LABEL} of luca has ended: {reason}\n"
    cluster.example.wait_for_output(said)
    assert cluster.said(said) == (2 if reason == "deleted" else 1)
    assert cluster.said("has ended") == 2


def test_sticky_websocket(new_person, expect):
    """A page behind nginx gets its WebSocket from the worker that answered it."""
    person = new_person()
    page = person.context.new_page()
    sent: list[str | bytes] = []
    received: list[str | bytes] = []

    def listen(websocket: Any) -> None:
        websocket.on("framesent", lambda frame: sent.append(frame))
        websocket.on("framereceived", lambda frame: received.append(frame))

    page.on("websocket", listen)
    page.goto(person.url)
    worker = re.search(r"worker (\d)", page.get_by_text("This page comes from").inner_text())[1]
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("lasagne")
    page.get_by_role("button", name="Log in").click()
    deadline = time.monotonic() + MAX_WAIT
    while "5" not in sent:  # Engine.IO's word for: from now on all goes this way
        assert time.monotonic() < deadline, (sent, received)
        page.wait_for_timeout(20)
    page.get_by_text("Connected", exact=True).wait_for()
    expect(answered_by(page, int(worker))).to_be_visible()
    # Not by its button: the answer to that may be here before the push, and then the page leaves without it.
    assert person.context.request.post(person.url + "logout", data={}).ok
    expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
    assert received.count('42["logout",{"reason":"deleted"}]') == 1


def test_list_of_users(luca, fabio, expect):
    """Every page shows who is logged in, on whichever worker."""
    expect(luca.get_by_role("listitem").filter(has_text="fabio")).to_be_visible()
    expect(fabio.get_by_role("listitem").filter(has_text="luca")).to_be_visible()
    fabio.get_by_role("button", name="Log out").click()
    expect(luca.get_by_role("listitem").filter(has_text="fabio")).to_have_count(0)


def test_login_through_nginx(cluster, new_person):
    """A login through nginx counts on every worker, and each browser stays with one."""
    seen = set()
    for _ in range(16):
        request = new_person().context.request
        assert request.post(cluster.url + "login", data=LUCA).ok
        answers = [request.get(cluster.url + "session").json() for _ in range(3)]
        assert {answer["username"] for answer in answers} == {"luca"}
        assert len({answer["worker"] for answer in answers}) == 1
        assert 60 < answers[0]["left"] <= 600
        seen.add(answers[0]["worker"])
    assert len(seen) > 1, "nginx sends all requests to one worker"
    straight = [request.get(worker + "session").json() for worker in cluster.workers]
    assert [answer["worker"] for answer in straight] == [1, 2, 3, 4]
    assert [answer["users"] for answer in straight] == [{"luca": 16}] * 4
    assert request.post(cluster.workers[0] + "logout", data={}).ok
    assert [request.get(worker + "session").status for worker in cluster.workers] == [401] * 4


def test_refused_login(cluster, new_person):
    """A wrong password, and what a form of another site can post, are refused."""
    request = new_person().context.request
    assert request.post(cluster.url + "login", data={**LUCA, "password": "focaccia"}).status == 403
    assert request.post(cluster.url + "login", form=LUCA).status == 415
    assert request.post(cluster.url + "login", data="[]", headers={"Content-Type": "application/json"}).status == 415
    assert request.get(cluster.url + "session").status == 401


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(number, monkeypatch, tmp_path, new_other_client):
    """Ctrl-C ends every process that was started."""
    need_programs()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, str(FOLDER / "run.py"), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        printed = ""
        while "redis://" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", printed)]
        assert [is_open(port) for port in ports] == [True] * 6
        assert len(os.listdir(tmp_path)) == 1
    finally:
        # A terminal signals the whole group, and users press it twice.
        for _ in range(2):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        # Ends when no process is left that could print.
        rest = process.communicate(timeout=2 * MAX_WAIT)[0]
    assert (rest, process.returncode) == ("", 0)
    assert [is_open(port) for port in ports] == [False] * 6
    assert os.listdir(tmp_path) == []


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("missing", ["nginx", "redis-server"])
def test_missing_program(missing, monkeypatch):
    """A program that is missing is named in one line."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(shutil, "which", lambda program, **options: None if program == missing else program)
    try:
        with pytest.raises(SystemExit) as refused:
            importlib.import_module("run").main()
    finally:
        sys.modules.pop("run", None)
    assert refused.value.code == f"This example needs {missing}, which is not on the PATH: apt-get install {missing}"


def test_port_taken(tmp_path):
    """A port that is taken is an error, and nothing is started."""
    need_programs()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, str(FOLDER / "run.py"), "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 2
    assert f"run.py: error: port {command[-1]}: Address already in use" in done.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == []
