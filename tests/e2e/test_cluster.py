"""One session on four workers, in real browsers, behind a real nginx and on a real Redis."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("gunicorn")
pytest.importorskip("redis")
pytest.importorskip("simple_websocket")
pytest.importorskip("socketio")
import redis
from nginx import nginx
from npm_client import client_script
from redis_server import RedisServer
from server_process import ServerProcess
from socketio_client import new_client
from waiting import eventually

from users_session_manager import SessionManager
from users_session_manager.stores.redis import RedisStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

SITES = Path(__file__).with_name("sites")
SUPPORT = Path(__file__).parents[1] / "support"
MAX_WAIT = 30  # seconds; how long a test waits for what it expects, which a busy machine may need
ENDED = "The session of luca has ended: "

# Socket.IO sends several requests before it has its WebSocket, and only the worker of the first one knows them. So a
# cookie of nginx keeps each browser on one worker. `ip_hash` would too, but here all browsers are on 127.0.0.1.
HTTP = """
    userid on;
    userid_name worker_id;
    userid_path /;

    upstream workers {
        hash $uid_got$uid_set consistent;
        <servers>
    }

    map $http_upgrade $connection_upgrade {
        default upgrade;
        "" "";
    }

    server {
        listen <listen>;

        location / {
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
"""


class Cluster:
    """Four workers, each a gunicorn with a port of its own: those of one gunicorn share its port."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.url = ""  # nginx's
        self._workers: dict[int, ServerProcess] = {}
        for number in (1, 2, 3, 4):
            self.start(number)

    def start(self, number: int, port: int = 0) -> None:
        # A page that is open needs a thread.
        options = f"--threads 50 --graceful-timeout 2 --bind 127.0.0.1:{port}".split()
        environment = {"REDIS_URL": self.redis_url, "WORKER": str(number), "PYTHONPATH": str(SUPPORT)}
        self._workers[number] = ServerProcess(
            *("-m", "gunicorn", *options, "cluster_site:app"),
            printed=r"Listening at: http://127\.0\.0\.1:(\d+)",
            cwd=SITES,
            env=environment,
            starts_others=True,
        )

    def kill(self, number: int) -> int:
        """End a worker as `kill -9` does; return its port."""
        worker = self._workers.pop(number)
        worker.kill()
        return worker.port

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    @property
    def workers(self) -> list[str]:
        """The addresses of the workers themselves."""
        return [worker.address for _, worker in sorted(self._workers.items())]

    def announced(self) -> list[str]:
        """Return the reason of each end that a worker has announced."""
        outputs = [worker.output for worker in self._workers.values()]
        return sorted(reason for output in outputs for reason in re.findall(ENDED + r"(\w+)\n", output))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    client_script()  # else several workers could let npm install it at the same time
    folder = tmp_path_factory.mktemp("cluster")
    server = RedisServer(folder)
    cluster = Cluster(server.url)
    servers = "\n".join(f"server {address.removeprefix('http://')};" for address in cluster.workers)
    with nginx(folder, HTTP, servers=servers) as address:
        cluster.url = f"http://{address}"
        yield cluster
    cluster.stop()
    server.stop()


@pytest.fixture
def new_browser(browser: Browser, cluster: Cluster) -> Iterator[Callable[[], BrowserContext]]:
    """Makes browsers without any cookies; no session outlasts the test."""
    contexts: list[BrowserContext] = []

    def new_browser() -> BrowserContext:
        contexts.append(browser.new_context())
        contexts[-1].set_default_timeout(MAX_WAIT * 1000)
        return contexts[-1]

    yield new_browser
    for context in contexts:
        context.close()
    with redis.Redis.from_url(cluster.redis_url) as client:
        manager = SessionManager(store=RedisStore(client, thread=False))
        manager.deleteAllSessions()
        manager.close()


def log_in(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Username").fill("luca")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Hello, luca").wait_for()
    wait_until_joined(page)
    return page


def wait_until_joined(page: Page) -> None:
    page.wait_for_function("() => window.userSessions?.socket?.connected")
    assert page.evaluate("new Promise((done) => userSessions.socket.emit('session_key', null, done))") is True


def worker_of(page: Page) -> int:
    found = re.search(r"worker (\d)", page.locator("p").inner_text(), re.IGNORECASE)
    assert found is not None
    return int(found[1])


def key_of(context: BrowserContext) -> str:
    return next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "session_key")


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


def log_out(page: Page, cluster: Cluster) -> None:
    page.get_by_role("button", name="Log out").click()


def expire(page: Page, cluster: Cluster) -> None:
    """Let the session expire soon: restart it with a short timeout, as any process that shares these sessions can.

    With a short timeout from the start it could expire before the second page is there.
    """
    with redis.Redis.from_url(cluster.redis_url) as client:
        # Without a thread: it announces no end, so a worker does.
        manager = SessionManager(store=RedisStore(client, thread=False))
        assert manager.setSessionTimeOut(2)
        assert manager.restartSessionTimer(key_of(page.context))
        manager.close()


@pytest.mark.parametrize(("end", "reason"), [(log_out, "deleted"), (expire, "expired")])
def test_end_on_two_workers(cluster, new_browser, new_other_client, end, reason):
    """The end of a session logs two browsers on two workers out; each client hears of it once."""
    announced = cluster.announced()
    first, second = (new_browser() for _ in range(2))
    page = log_in(first, cluster.workers[0])
    second.add_cookies([cookie for cookie in first.cookies() if cookie["name"] == "session_key"])
    other = second.new_page()
    other.goto(cluster.workers[1])
    wait_until_joined(other)
    assert [worker_of(page), worker_of(other)] == [1, 2]
    others = [new_other_client(url, key_of(first)) for url in cluster.workers]
    end(page, cluster)
    page.wait_for_url("**/login" if end is log_out else "**/login?reason=expired&next=*")
    other.wait_for_url(f"**/login?reason={reason}*")
    for other_client in others:
        other_client.wait_for_logout()

    # A session that ends later: its notices and its announcement come after those of the first one.
    request = new_browser().request
    assert request.post(f"{cluster.workers[3]}/login", form={"username": "luca"}).ok
    later = next(cookie for cookie in request.storage_state()["cookies"] if cookie["name"] == "session_key")["value"]
    assert [other_client.present(later) for other_client in others] == [True] * 4
    assert request.post(f"{cluster.workers[3]}/logout").ok
    for other_client in others:
        other_client.wait_for_logout()
        assert other_client.present(later) is False  # which is one more logout
        assert other_client.unread_logouts() == 1
    eventually(lambda: len(cluster.announced()) >= len(announced) + 2)
    assert cluster.announced() == sorted([*announced, reason, "deleted"])


def test_sticky_websocket(cluster, new_browser):
    """A page behind nginx gets its WebSocket from the worker that answered it, and its logout over it."""
    context = new_browser()
    page = context.new_page()
    sent: list[str | bytes] = []
    received: list[str | bytes] = []

    def listen(websocket: Any) -> None:
        websocket.on("framesent", lambda frame: sent.append(frame))
        websocket.on("framereceived", lambda frame: received.append(frame))

    page.on("websocket", listen)
    page.goto(cluster.url)
    worker = worker_of(page)
    page.get_by_label("Username").fill("luca")
    page.get_by_role("button", name="Log in").click()
    deadline = time.monotonic() + MAX_WAIT
    while "5" not in sent:  # Engine.IO's word for: from now on all goes this way
        assert time.monotonic() < deadline, (sent, received)
        page.wait_for_timeout(20)
    wait_until_joined(page)
    assert worker_of(page) == worker
    # Not by its button: the answer to that may be here before the push, and then the page leaves without it.
    assert context.request.post(f"{cluster.url}/logout").ok
    page.wait_for_url("**/login?reason=deleted")
    assert received.count('42["logout",{"reason":"deleted"}]') == 1


def test_login_through_nginx(cluster, new_browser):
    """A login through nginx counts on every worker, and each browser stays with one."""
    seen = set()
    for _ in range(16):
        request = new_browser().request
        assert request.post(f"{cluster.url}/login", form={"username": "luca"}).ok
        answers = [request.get(f"{cluster.url}/session").json() for _ in range(3)]
        assert {answer["username"] for answer in answers} == {"luca"}
        assert len({answer["worker"] for answer in answers}) == 1
        seen.add(answers[0]["worker"])
    assert len(seen) > 1, "nginx sends all requests to one worker"
    straight = [request.get(f"{worker}/session").json() for worker in cluster.workers]
    assert [answer["worker"] for answer in straight] == [1, 2, 3, 4]
    assert [answer["users"] for answer in straight] == [["luca"] * 16] * 4
    assert request.post(f"{cluster.workers[0]}/logout").ok
    assert [request.get(f"{worker}/session").status for worker in cluster.workers] == [401] * 4


def test_killed_worker(cluster, new_browser):
    """A page of a worker that is killed goes on at another worker with its session, and hears of the end there."""
    context = new_browser()
    page = log_in(context, cluster.url)
    worker = worker_of(page)
    page.evaluate("() => { userSessions.socket.once('disconnect', () => (window.wasCutOff = true)) }")
    port = cluster.kill(worker)
    try:
        page.wait_for_function("window.wasCutOff")
        wait_until_joined(page)
        answer = context.request.get(f"{cluster.url}/session").json()
        assert answer["username"] == "luca"
        assert answer["worker"] != worker
        assert context.request.post(f"{cluster.url}/logout").ok
        page.wait_for_url("**/login?reason=deleted")
    finally:
        cluster.start(worker, port)
