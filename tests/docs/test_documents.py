"""The pages: their blocks run, the site is built from them, their links resolve, their commands can be pasted."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from documents import DOCS, build_site, python_blocks
from pyee import EventEmitter
from redis_server import RedisServer
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import users_session_manager
from users_session_manager import SessionError, SessionManager, StoreUnavailable

for package in ("socketio", "flask", "flask_login", "django", "fastapi", "prometheus_client", "psycopg", "redis"):
    pytest.importorskip(package, reason=f"the documents show what needs {package}, which is not installed")

# Django reads its settings once a process: the documents show it in the project that its own tests use.
os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PAGES = sorted(DOCS.rglob("*.md"))
CHECKS = Path(__file__).parent / "pages"
DOCUMENTS = [README, *PAGES, *sorted((ROOT / ".github").glob("*.md"))]

FENCED = re.compile(r"^ *```(.*)\n(?:.*\n)*?^ *```$", re.MULTILINE)
COMMAND = re.compile(r"^<!-- command: (\w+) -->\n```bash\n(.+)\n```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")

ELSEWHERE = {
    "stores.redis": ["RedisStore"],
    "stores.sql": ["SQLStore"],
    "integrations.socketio": ["attach", "presence"],
    "integrations.flask": ["UserSessions", "session_required", "session_optional", "passive"],
    "integrations.django": [
        "UserSessionMiddleware",
        "session_required",
        "passive",
        "sign_in",
        "renew_key",
        "sign_out_elsewhere",
        "stream",
        "get_user_sessions",
        "delete_user_sessions",
        "cookie_name",
        "attach",
    ],
    "integrations.fastapi": ["UserSessions", "RequestSession"],
    "integrations.prometheus": ["instrument"],
    "testing": ["fresh_sessions", "ManualClock", "sign_in", "expect_logout", "expect_session_expiring"],
}


def id_of(path: Path) -> str:
    return str(path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT))


# Pages whose blocks go on with the application of another page.
CONTINUED = {
    "how-to/log-out-everywhere.md": ["frameworks/flask.md", "frameworks/fastapi.md"],
    "how-to/step-up.md": ["frameworks/flask.md", "frameworks/fastapi.md"],
}

# Pages whose blocks are saved in files, each beside the test that runs these files.
SAVED = {"tutorial.md": "test_tutorial.py"}

WITH_PYTHON = [path for path in PAGES if "```python" in path.read_text()]
every_page_with_python = pytest.mark.parametrize("path", WITH_PYTHON, ids=id_of)
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=id_of)


@pytest.fixture
def the_stores_that_are_named(
    path: Path, redis_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the documents keep in a store of this machine goes to those of the tests."""
    from users_session_manager.stores.redis import RedisStore

    from_url = RedisStore.from_url
    ours = {"redis://127.0.0.1:6379/0": redis_url}
    monkeypatch.setattr(RedisStore, "from_url", lambda url, **options: from_url(ours.get(url, url), **options))
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("SESSIONS", f"sqlite:///{request.getfixturevalue('tmp_path')}/sessions.db")
    if "DATABASE_URL" in path.read_text():
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgresql_url"))
    if "REDIS_CLUSTER_URL" in path.read_text():
        monkeypatch.setenv("REDIS_CLUSTER_URL", f"redis://127.0.0.1:{request.getfixturevalue('redis_cluster_port')}")


class Cells:
    """The code of a file in `pages/`, which a test runs before and after blocks of the page with the same name.

    A line `# %% after: line` begins a cell; `line` is one that only this block of the page has.
    """

    def __init__(self, path: Path, blocks: list[str]) -> None:
        self.file = CHECKS / path.relative_to(DOCS).with_suffix(".py")
        self.programs: dict[tuple[str, int], list[CodeType]] = {}
        text = self.file.read_text() if self.file.exists() else ""
        _, *parts = re.split(r"^# %% (before|after): (.+)\n", text, flags=re.MULTILINE)
        for when, line, code in zip(*(parts[first::3] for first in range(3)), strict=True):
            found = [number for number, block in enumerate(blocks) if line in map(str.strip, block.splitlines())]
            assert len(found) == 1, f"{self.file}: {len(found)} blocks of {path} have the line {line}"
            above = text.index(f"# %% {when}: {line}\n{code}")
            # With as many lines above it as in the file, so that a failure shows the line of the file.
            program = compile("\n" * (text[:above].count("\n") + 1) + code, self.file, "exec")
            self.programs.setdefault((when, found[0]), []).append(program)

    def run(self, when: str, block: int, namespace: dict[str, Any]) -> None:
        for program in self.programs.get((when, block), ()):
            exec(program, namespace)


@pytest.mark.parametrize("path", [path for path in WITH_PYTHON if id_of(path) not in SAVED], ids=id_of)
def test_python_blocks_run(path: Path, the_stores_that_are_named: None) -> None:
    """In one namespace, from top to bottom; a failure is shown with the document's own line."""
    document = Sybil([PythonCodeBlockParser()]).parse(path)
    document.namespace["__name__"] = "__main__"
    examples = [*document]
    cells = Cells(path, [example.parsed for example in examples])
    for number, example in enumerate(examples):
        cells.run("before", number, document.namespace)
        example.evaluate()
        cells.run("after", number, document.namespace)


def test_the_redis_user_of_the_documents_may_do_what_sessions_take(tmp_path: Path) -> None:
    """Redis looks at each command of a script as well; one that is denied is an answer like any other to `pcall`."""
    from redis import Redis

    [line] = re.findall("^user sessions on (.+)$", (DOCS / "how-to" / "production.md").read_text(), re.MULTILINE)
    server = RedisServer(tmp_path)
    redis = Redis.from_url(server.url)
    redis.execute_command("ACL SETUSER", "sessions", "on", *line.split())
    manager = SessionManager(store=server.url.replace("//", "//sessions:the-password@"))
    ended: list[str] = []
    manager.on("sessionEnded", lambda session, reason: ended.append(reason))
    notified = threading.Event()
    manager.on("notifyClientToLogout", lambda io, key: notified.set())
    manager.initSocketReference(object())
    followed, is_followed = [], threading.Event()
    manager.addFollower(lambda notice: (followed.append(notice.kind), is_followed.set()))
    manager.serve()
    assert is_followed.wait(60)
    all_over = threading.Event()
    manager.on("sessionExpiring", lambda key, left: ended.append("expiring"))
    manager.on("sessionEnded", lambda session, reason: reason == "expired" and all_over.set())
    for warning in (1, None, 1):
        manager.setExpiryWarning(warning)
        manager.restartSessionTimer(warned := manager.loadNewSession("warned"))
    old = manager.loadNewSession("luca", data={"cart": []})
    key = manager.renewSessionKey(manager.renewSessionKey(old, 10), 10)
    assert manager.checkSessionStatus(old)
    assert manager.renewSessionKey(key)
    assert manager.deleteUserSessions("luca") == 1
    manager.setExpiryWarning(None)
    assert manager.restartSessionTimer(warned)
    assert manager.setSessionData(warned, None)
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("warned")
    assert manager.getLoggedUsers() == ["warned"]
    assert [session.username for page in manager.listSessions() for session in page] == ["warned"]
    assert manager.findSessions([manager.getSession(key)._id for key in manager.sessions])
    assert len(manager.sessions) == 1
    manager.deleteAllSessions()
    manager.setExpiryWarning(5)
    manager.loadNewSession("luca", timeout=6)
    assert all_over.wait(60)
    assert notified.wait(60)
    assert (followed[0], {*followed}) == ("missed", {"missed", "created", "ended"})
    with Redis.from_url(server.url.replace("//", "//sessions:the-password@")) as user:
        assert user.ping()  # as a subscription that has heard nothing for seconds
    assert ended == ["deleted", *["evicted"] * 3, "deleted", "expiring", "expired"]
    denied = [entry for entry in redis.acl_log() if entry["username"] == "sessions"]
    redis.close()
    manager.close()
    server.stop()
    assert denied == []


def test_the_log_says_what_deployment_quotes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Each wrong set-up of its table, in the order of the table, says what stands there."""
    import socketio
    from redis import Redis

    from users_session_manager.integrations.socketio import attach
    from users_session_manager.keys import new_key
    from users_session_manager.stores.redis import RedisStore

    table = (DOCS / "how-to" / "production.md").read_text().partition("## What the log says")[2].partition("## ")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    said: list[str] = []

    def logged() -> list[str]:
        texts = [record.message for record in caplog.records if record.name == "users_session_manager"]
        caplog.clear()
        return texts

    manager = SessionManager()
    command = "from users_session_manager.keys import new_key; print(new_key())"
    issued = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    assert manager.findSession(new_key()) is manager.findSession(issued) is None
    said += logged()
    manager.close()

    monkeypatch.setenv("RUN_MAIN", "true")
    manager = SessionManager()
    manager.serve()
    said += logged()

    with pytest.raises(SessionError) as error:
        SessionManager(store="redis://127.0.0.1:1/0")
    said.append(re.sub(r"\S*\.py:\d+", "app.py:12", str(error.value)))
    manager.close()

    with pytest.raises(ValueError, match="scheme") as refused:
        SessionManager(store="127.0.0.1:6379")
    said.append(str(refused.value))

    server = RedisServer(tmp_path)
    with Redis.from_url(server.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.zadd("users-session-manager:{7}:due", {"Otter-candid-46-k3xq_" + 32 * "0": time.time()})
    store = RedisStore.from_url(server.url, thread=False)
    manager = SessionManager(store=store)
    manager.serve()
    store.run_due()
    said += logged()
    server.stop()
    with pytest.raises(StoreUnavailable):
        manager.getLoggedUsers()
    said += logged()

    manager.close()

    manager = SessionManager(store=f"sqlite:///{tmp_path}/missing/sessions.db")
    with pytest.raises(StoreUnavailable):
        manager.getLoggedUsers()
    said += logged()

    with pytest.raises(SessionError) as error:
        attach(manager, socketio.Server(async_mode="gevent"))
    said.append(str(error.value))
    manager.close()

    assert [text for text, quote in zip(said, quoted[: len(said)], strict=True) if not text.startswith(quote)] == []
    # The others are tested beside what logs them.
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s+"', "", source)
    assert [quote for quote in quoted[len(said) :] if quote not in source] == []


@every_document
def test_every_block_names_its_language(path: Path) -> None:
    assert all(FENCED.findall(path.read_text()))


@every_document
def test_each_paragraph_appears_once(path: Path) -> None:
    """A merge may leave a part of a page there twice."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=- )", FENCED.sub("", path.read_text()))]
    long = [part for part in parts if len(part) > 60 or part.startswith("#")]
    assert [part for part in {*long} if long.count(part) > 1] == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in PAGES], ids=id_of)
def test_links_resolve(path: Path) -> None:
    """Those of the pages are checked when the site is built."""
    for link in LINK.findall(FENCED.sub("", path.read_text())):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in _anchors(target), link


def test_commands_are_one_line_each() -> None:
    """They name files that exist, and each block of a shell is one of them, or how to install the package."""
    readme, contributing = (dict(COMMAND.findall(path.read_text())) for path in (README, CONTRIBUTING))
    assert list(readme) == ["example", "tests"]
    assert list(contributing) == ["setup", "unit", "site"]
    assert len(re.findall("```bash", README.read_text())) == len(readme) + 1
    assert len(re.findall("```bash", CONTRIBUTING.read_text())) == len(contributing)
    for file in re.findall(r"\S+/\S+\.(?:txt|py)", " ".join([*readme.values(), *contributing.values()])):
        assert (ROOT / file).is_file(), file


@every_page_with_python
def test_readers_see_what_blocks_need(path: Path) -> None:
    """A block uses no name that only a cell defines."""
    known = {*dir(builtins), "__name__"}
    for page in CONTINUED.get(id_of(path), ()):
        for block in python_blocks(page):
            known |= _names(block)[0]
    for example in Sybil([PythonCodeBlockParser()]).parse(path):
        bound, used = _names(example.parsed)
        known |= bound
        assert sorted(used - known) == [], f"line {example.line}"


def test_each_file_of_cells_has_a_page() -> None:
    pages = {(CHECKS / path.relative_to(DOCS)).with_suffix(".py") for path in PAGES}
    assert {*CHECKS.rglob("*.py")} - pages == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(folder)
    return folder


def test_each_page_is_in_the_site(site: Path) -> None:
    assert [path for path in PAGES if not (site / path.relative_to(DOCS)).with_suffix(".html").is_file()] == []


def test_each_public_name_is_in_the_reference(site: Path) -> None:
    """And each method of the classes, the npm package's names included."""
    described = {
        name for page in (site / "reference").glob("*.html") for name in re.findall(r' id="([\w.]+)"', page.read_text())
    }
    names = {
        f"users_session_manager.{name}": getattr(users_session_manager, name) for name in users_session_manager.__all__
    }
    for module, others in ELSEWHERE.items():
        imported = importlib.import_module(f"users_session_manager.{module}")
        names |= {f"users_session_manager.{module}.{name}": getattr(imported, name) for name in others}
    for name, thing in list(names.items()):
        if inspect.isclass(thing):
            names |= {f"{name}.{member}": None for member, _ in _members(thing)}
    assert sorted(names.keys() - described) == []


def test_the_tables_of_methods_and_events_are_complete() -> None:
    methods, events = ((DOCS / "reference" / name).read_text() for name in ("manager.md", "events.md"))
    assert [name for name, _ in _members(SessionManager) if f"`{name}" not in methods] == []
    named = re.findall(r"^\| `(\w+\()", inspect.getdoc(SessionManager) or "", re.MULTILINE)
    assert len(named) == 10
    assert [event for event in named if f"| `{event}" not in events] == []


def test_the_docstrings_of_methods_describe_their_arguments() -> None:
    """Each public method of the manager has one that names each argument; what a `key` is, the class says."""
    missing = []
    for name in dir(SessionManager):
        member = getattr(SessionManager, name)
        if name.startswith("_") or hasattr(EventEmitter, name) or not callable(member):
            continue
        arguments = list(inspect.signature(member).parameters)[1:]
        text = inspect.getdoc(member) or ""
        missing += [
            f"{name}({each})"
            for each in arguments
            if each != "key" and not re.search(rf"`{each}\b|^ *{each}: ", text, re.MULTILINE)
        ]
        missing += [] if text else [name]
    assert missing == []


def _names(code: str) -> tuple[set[str], set[str]]:
    """Return the names that a block binds, and those that it uses."""
    bound, used = set(), set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
    return bound, used


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that say what they are for, in the order of its source.

    Those that it has from another class of the page are described there.
    """
    bases = (base for base in cls.__mro__ if base.__module__.startswith("users_session_manager"))
    ours = [base for base in bases if base is cls or base.__name__ not in users_session_manager.__all__]
    for name, member in (found for base in ours for found in vars(base).items()):
        is_method = inspect.isfunction(member) or isinstance(member, classmethod)
        is_public = not name.startswith("_") and (is_method or isinstance(member, property))
        if is_public and member.__doc__ and not hasattr(EventEmitter, name):
            yield name, member
