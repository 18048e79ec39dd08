"""The documents: their Python blocks run, their links resolve, their commands can be pasted, `api.md` is up to date.

`UPDATE_DOCS=1 python -m pytest tests/docs/test_documents.py` writes `docs/api.md` anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from pyee import EventEmitter
from redis_server import RedisServer
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import users_session_manager
from users_session_manager import SessionError, SessionManager, StoreUnavailable

for package in ("socketio", "flask", "flask_login", "django", "fastapi", "prometheus_client", "psycopg", "redis"):
    pytest.importorskip(package, reason=f"the documents show what needs {package}, which is not installed")

# Django reads its settings once a process: the documents show it in the project that its own tests use.
os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
API = ROOT / "docs" / "api.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, *PAGES, *sorted((ROOT / ".github").glob("*.md"))]

FENCED = re.compile(r"^ *```(.*)\n(?:.*\n)*?^ *```$", re.MULTILINE)
COMMAND = re.compile(r"^<!-- command: (\w+) -->\n```bash\n(.+)\n```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = "<!-- From here on, the page is made from the docstrings. -->\n"
SECTION = re.compile(r"^(Args|Returns|Raises):\n((?: +.*(?:\n|\Z))+)", re.MULTILINE)

ELSEWHERE = {
    "stores.redis": ["RedisStore"],
    "stores.sql": ["SQLStore"],
    "integrations.socketio": ["attach"],
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

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


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


@every_page
def test_python_blocks_run(path: Path, the_stores_that_are_named: None) -> None:
    """In one namespace, from top to bottom; a failure is shown with the document's own line."""
    document = Sybil([PythonCodeBlockParser(), SkipParser()]).parse(path)
    document.namespace["__name__"] = "__main__"
    for example in document:
        example.evaluate()


def test_the_redis_user_of_the_documents_may_do_what_sessions_take(tmp_path: Path) -> None:
    """Redis looks at each command of a script as well; one that is denied is an answer like any other to `pcall`."""
    from redis import Redis

    [line] = re.findall("^user sessions on (.+)$", (ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE)
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
    manager.setExpiryWarning(1)
    manager.loadNewSession("luca", timeout=2)
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

    table = (ROOT / "docs" / "deployment.md").read_text().partition("## What the log says")[2].partition("## ")[0]
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
def test_links_resolve(path: Path) -> None:
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
    assert list(contributing) == ["setup", "unit", "api"]
    assert len(re.findall("```bash", README.read_text())) == len(readme) + 1
    assert len(re.findall("```bash", CONTRIBUTING.read_text())) == len(contributing)
    for file in re.findall(r"\S+/\S+\.(?:txt|py)", " ".join([*readme.values(), *contributing.values()])):
        assert (ROOT / file).is_file(), file


def test_api_lists_every_method_and_event() -> None:
    """The tables above what is made from the docstrings are complete."""
    tables = API.read_text().partition(GENERATED)[0]
    assert [name for name, _ in _members(SessionManager) if f"`{name}" not in tables] == []
    events = re.findall(r"^\| `(\w+\()", inspect.getdoc(SessionManager) or "", re.MULTILINE)
    assert [event for event in events if f"| `{event}" not in tables] == []


def test_api_is_what_the_docstrings_say() -> None:
    head, marker, generated = API.read_text().partition(GENERATED)
    if os.environ.get("UPDATE_DOCS"):
        generated = _api()
        API.write_text(head + marker + generated)
    assert generated == _api(), "out of date: UPDATE_DOCS=1 python -m pytest tests/docs/test_documents.py"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class _Plain:
    """An annotation or a default that shows as the source has it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _Plain(re.sub(r"\b(?:\w+\.)+(?=\w)", "", text))


def _signature(function: Any) -> str:
    signature = inspect.signature(getattr(function, "__func__", function))  # of a class method, what it wraps
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            value = parameter.default
            shown = _Plain(f"{value.__module__}.{value.__name__}") if inspect.isbuiltin(value) else value
            if " object at 0x" in repr(value):
                shown = _Plain("...")  # the text says what it is
            parameters.append(parameter.replace(annotation=_shown(parameter.annotation), default=shown))
    # None is what a constructor and a procedure return; it says nothing.
    says_nothing = signature.return_annotation in ("None", None, signature.empty)
    returns = signature.empty if says_nothing else _shown(signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=returns))


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


def _text(thing: Any) -> str:
    text = re.sub(r"(?<=\S) {2,}", " ", inspect.getdoc(thing) or "")  # a line of a table that the source continues
    return SECTION.sub(_section, text).rstrip()


def _section(found: re.Match[str]) -> str:
    """The arguments, results or exceptions of a docstring, as a list or a paragraph."""
    title, lines = found[1], textwrap.dedent(found[2]).splitlines()
    if title == "Returns":
        return "\n".join([f"**Returns:** {lines[0]}", *lines[1:], ""])
    items = []
    for line in lines:
        names, _, text = line.partition(": ")
        if line.startswith(" "):
            items.append(f"  {line.lstrip()}")
        else:
            items.append(f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {text}")
    return "\n".join([f"**{title}:**", "", *items, ""])


def _render(name: str, thing: Any) -> Iterator[str]:
    if not inspect.isclass(thing):
        yield f"## `{name}{_signature(thing)}`"
        yield _text(thing)
        return
    made_by_hand = "__init__" in vars(thing) and Protocol not in thing.__bases__
    yield f"## `{name}{_signature(thing.__init__) if made_by_hand else ''}`"
    yield _text(thing)
    if any(base is users_session_manager.Store for base in thing.__mro__[1:]):
        yield "It has the methods of [`Store`](#store)."
    members = list(_members(thing))
    for index, (title, member) in enumerate(members):
        if any(member is earlier for _, earlier in members[:index]):
            continue
        yield f"### `{title}{'' if isinstance(member, property) else _signature(member)}`"
        yield _text(member)
        also = [f"`{other}`" for other, same in members[index + 1 :] if same is member]
        if also:
            yield f"Also called {', '.join(also)}."


def _api() -> str:
    things = {name: getattr(users_session_manager, name) for name in ["SessionManager", "Session"]}
    things |= {name: getattr(users_session_manager, name) for name in users_session_manager.__all__}
    parts = ["", "Names without a module are imported from `users_session_manager`."]
    for name, thing in things.items():
        parts += _render(name, thing)
    for module, names in ELSEWHERE.items():
        parts.append(f"## From `users_session_manager.{module}`")
        for name in names:
            thing = getattr(importlib.import_module(f"users_session_manager.{module}"), name)
            parts += (re.sub("^##", "###", part) for part in _render(name, thing))
    return "\n\n".join(parts)[1:] + "\n"
