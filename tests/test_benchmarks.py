"""The benchmarks run to their end and fail on a wrong answer; their figures are for readers and fail nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from users_session_manager import SessionManager

SCRIPT = Path(__file__).parent / "benchmarks" / "bench_all.py"

BESIDE_NPM = [
    *("loadNewSession", "checkSessionStatus", "restartSessionTimer", "setSessionData", "getSessionDetails"),
    *("deleteSession", "getUsernameFromSessionKey", "memory of a session"),
]
FIRST_ROWS = [
    *BESIDE_NPM,
    "lateness of an expiry, 99th percentile",
    "Flask request, what the guard adds",
    "Django request, beyond `login_required`",
    "Flask request on Redis",
]
PRESENCE = [f"CPU time that presence adds to a second with 50 logins, {where}" for where in ("in memory", "on Redis")]
MORE_ROWS = [
    *("loadNewSession", "restartSessionTimer", "memory of a session"),
    "FastAPI request, what the guard adds",
    "Flask request on Redis, CPU time of Redis",
    "guarded request among 1,000 sessions",
    *("login", "logout with its acknowledgement", "logout with its acknowledgement, each by itself"),
    "memory of a session in Redis",
    *PRESENCE,
    "import, after that of pyee",
]
WITHOUT_OTHER = (
    *("lateness of an expiry, 99th percentile", "memory of a session in Redis"),
    "Django request, beyond `login_required`",
    *PRESENCE,
)


@pytest.fixture(scope="module")
def programs() -> None:
    """The programs and packages that the benchmarks run are there."""
    for package in ("fastapi", "flask", "flask_session", "redis", "simple_websocket", "socketio", "websockets"):
        pytest.importorskip(package)
    for program in ("node", "npm", "redis-server"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on the PATH")


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--quick", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the page that a quick run wrote, and with what it printed."""
    folder = tmp_path_factory.mktemp("benchmarks")
    done = run("--docs", folder, "--cache", folder / "cache")
    assert done.returncode == 0, done.stderr
    (folder / "printed.md").write_text(done.stdout)
    return folder


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table, without those of its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[line[2:-2].split(" | ") for line in table.splitlines()[2:]] for table in found]


def test_rows(folder):
    """Each row has a figure of this library, one of another where there is one, a limit and whether it holds."""
    first, more = tables((folder / "printed.md").read_text())
    assert [row[0] for row in first] == FIRST_ROWS
    assert [row[0] for row in more] == MORE_ROWS
    for title, ours, beside, ratio, limit, verdict in first + more:
        assert re.match(r"[\d.,e-]+ (µs|ms|bytes)$", ours), (title, ours)
        assert re.match(r"[\d.,e-]+ (µs|ms|bytes) \(.+\)$", beside) or title in WITHOUT_OTHER, (title, beside)
        # In the quick form the guard may add less than nothing, and has no ratio then.
        is_ratio = re.match(r"[\d.,e-]+ \([\d.,e-]+ to [\d.,e-]+\)$", ratio)
        assert is_ratio or "what the guard adds" in title or not beside, (title, ratio)
        assert verdict in ("holds", "does not hold") or limit == "none", (title, limit, verdict)


def test_page(folder):
    """The page of the quick run has the committed page's text, with its own tables and picture."""
    page = (folder / "performance.md").read_text()
    assert tables(page) == tables((folder / "printed.md").read_text())
    about = r"\nWith 2,000 sessions, npm's `\S+@[\d.]+`, and \d+ CPUs, Python [\d.]+ and Node.js [\d.]+:\n"
    assert re.search(about, page)
    measured = re.compile(r"<!-- measured: (\w+) -->.*?<!-- end -->", re.DOTALL)
    committed = (SCRIPT.parents[2] / "docs" / "explanation" / "performance.md").read_text()
    assert measured.sub(r"\1", page) == measured.sub(r"\1", committed)
    assert measured.findall(page) == ["machine", "first", "more"]


def test_picture(folder):
    """Each operation has two bars with a width, and the file is small."""
    [name] = re.findall(r"!\[.+\]\((.+)\)", (folder / "performance.md").read_text())
    assert (folder / name).stat().st_size < 60_000
    picture = ElementTree.parse(folder / name).getroot()
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert set(BESIDE_NPM[:-1]) < set(texts)
    bars = [float(bar.get("width")) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(bars) == 2 * len(BESIDE_NPM[:-1])
    assert max(bars) == 300
    assert min(bars) >= 0


@pytest.mark.parametrize("defect", ["return 'another user'", "process.exit(3)"], ids=["wrong", "dead"])
def test_wrong_answer(programs, tmp_path, defect):
    """A wrong answer and a process that dies end the run."""
    package = tmp_path / "node_modules" / "users-session-manager"
    package.mkdir(parents=True)
    (package / "index.js").write_text(f"""
        let last = 0
        module.exports = class {{
          loadNewSession() {{ return `key${{++last}}` }}
          deleteSession() {{ return true }}
          getUsernameFromSessionKey() {{ {defect} }}
        }}""")
    done = run("--cache", tmp_path)
    assert done.returncode != 0
    assert "broken: other did not answer {'do': 'time', 'what': 'loadNewSession'" in done.stderr
    assert ("not logged in" in done.stderr) == (defect == "return 'another user'")


def test_one_round_trip(redis_url, monkeypatch):
    """A guarded Flask request is one round trip to Redis."""
    flask, redis = pytest.importorskip("flask"), pytest.importorskip("redis")
    from users_session_manager.integrations.flask import UserSessions, session_required

    app, manager = flask.Flask("guarded"), SessionManager(store=redis_url)
    UserSessions(app, manager=manager)
    app.add_url_rule("/", view_func=session_required(lambda: "hello"))
    sent, here = [], threading.get_ident()
    send = redis.connection.AbstractConnection.send_packed_command

    def counted(*args, **options):
        sent.append(threading.get_ident() == here)
        return send(*args, **options)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", counted)
    headers = {"Session-Key": manager.loadNewSession("luca")}
    client = app.test_client()
    client.get("/", headers=headers)
    sent.clear()
    assert [client.get("/", headers=headers).text for _ in range(10)] == ["hello"] * 10
    assert sum(sent) == 10


def test_idle_clock_thread_never_wakes():
    """The kernel counts no switch to the clock thread while no deadline is near."""
    before = set(threading.enumerate())
    manager = SessionManager()
    for number in range(1000):
        manager.loadNewSession(f"user{number}")
    [clock] = set(threading.enumerate()) - before
    deadline = time.monotonic() + 60
    while switches_within(3, clock):  # a start may take long on a busy machine
        assert time.monotonic() < deadline, "the clock thread keeps waking up"


def switches_within(seconds: float, thread: threading.Thread) -> int:
    """Return how often the kernel switched to or from the thread within so many seconds."""
    counts = []
    for pause in (seconds, 0):
        lines = Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines()
        counts.append(sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line))
        time.sleep(pause)
    return counts[1] - counts[0]
