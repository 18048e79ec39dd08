"""The applications of the pages, copied word for word into an empty folder, and started as a reader would.

Each is driven by a client that keeps cookies as the strictest browsers do: one for https alone is not kept over http.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificate import make_certificate
from documents import DOCS, python_blocks
from server_process import MAX_WAIT, ServerProcess

for package in (
    "flask",
    "flask_login",
    "flask_socketio",
    "fastapi",
    "gunicorn",
    "multipart",
    "requests",
    "socketio",
    "uvicorn",
):
    pytest.importorskip(package, reason=f"the applications of the pages need {package}, which is not installed")

import requests  # noqa: E402
from socketio_client import new_client  # noqa: E402

ROOT = Path(__file__).parents[2]
FLASK, FASTAPI, README = DOCS / "frameworks" / "flask.md", DOCS / "frameworks" / "fastapi.md", ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is added to these applications by other pages.
ADDED = {
    FLASK: ["how-to/log-out-everywhere.md#Flask", "how-to/step-up.md#Flask", "how-to/coming-from-flask-login.md"],
    FASTAPI: ["how-to/step-up.md#FastAPI"],
    README: [],
}
MADE = re.compile(r"^(\w+) = (?:Flask|FastAPI)\(", re.MULTILINE)
SAVED = re.compile(
    r"^Save (?:it|the blocks up to here) as `(\w+)\.py`, start (?:it|them) with\s`([^`]+)`", re.MULTILINE
)
LUCA = {"username": "luca", "password": "lasagne"}
WRONG = LUCA | {"password": "focaccia"}
WARNING = "for https alone"  # what the log says if the cookie will be dropped


def applications(blocks: list[str]) -> dict[str, str]:
    """Return the program of each application of these blocks, by the name of its variable.

    It is the block that makes the application, with the blocks below that use it. Those that import it are tests.
    """
    programs: dict[str, list[str]] = {}
    for block in blocks:
        if "\nfrom users_session_manager.testing import" in block:
            continue
        for name in MADE.findall(block):
            assert name not in programs, f"the page makes {name} twice"
            programs[name] = []
        used = {node.id for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name)}
        for name in used & programs.keys():
            programs[name].append(block)
    return {name: "\n\n".join(parts) for name, parts in programs.items()}


PROGRAMS = {
    path: applications([*BLOCK.findall(path.read_text()), *(block for page in pages for block in python_blocks(page))])
    for path, pages in ADDED.items()
}


class Client(requests.Session):
    """A browser without pages.

    Args:
        address: The address of the server.
        verify: The certificate of a server of https.
    """

    def __init__(self, address: str, verify: Any) -> None:
        super().__init__()
        self.address, self.verify, self.trust_env = address, verify, False
        self.headers.update({"Accept": "text/html,*/*;q=0.8", "Origin": address, "Sec-Fetch-Site": "same-origin"})

    def request(self, method: str, path: str, **options: Any) -> requests.Response:  # type: ignore[override]
        options |= {"timeout": MAX_WAIT, "allow_redirects": False}
        return super().request(method, self.address + path, **options)

    def submit(self, path: str, **fields: str) -> str:
        """Send a form; return where the answer leads."""
        answer = self.post(path, data=fields)
        assert answer.is_redirect, answer.text
        return answer.headers["Location"]


# What a reader does with each application. `kept` is whether the client keeps the cookie of the session.


def use_app(client: Client, kept: bool = True) -> None:
    assert "<form" in client.get("/login").text
    login = client.get("/").headers["Location"]
    assert login == "/login?next=%2F"
    assert client.post(login, data=WRONG).status_code == 403
    assert client.submit(login, **LUCA) == "/"
    if not kept:
        assert client.get("/").headers["Location"] == login
        return
    assert "You are luca." in client.get("/").text
    other = Client(client.address, client.verify)
    for each in (client, other):
        each.submit("/login", remember="on", **LUCA)
    [others] = {"/logout-others", "/logout-elsewhere"} & {*re.findall('action="([^"]+)"', client.get("/").text)}
    assert client.submit(others) == "/"
    assert other.get("/").headers["Location"] == login
    assert client.submit("/logout") == "/login"
    assert client.get("/").headers["Location"] == login


def use_whole_app(client: Client, kept: bool = True) -> None:
    use_app(client, kept)
    if not kept:
        return
    other = Client(client.address, client.verify)
    for each in (client, other):
        each.submit("/login", **LUCA)
    assert client.get("/unread").json() == {"messages": 0, "for": "luca"}
    assert client.get("/hello").text == "Hello, luca"
    assert client.post("/cart").json() == {"cart": ["lasagne"]}
    assert client.post("/payment").json() == {"paid": True}
    assert client.post("/password-again", data={"password": "focaccia"}).status_code == 403
    assert client.post("/password-again", data={"password": "lasagne"}).json() == {"proved": True}
    assert client.submit("/logout-everywhere") == "/login"
    assert [each.get("/").headers["Location"] for each in (client, other)] == ["/login?next=%2F"] * 2
    client.submit("/login", **LUCA)
    expect_push(client, lambda: client.submit("/logout"))
    assert client.get("/hello").text == "Hello, stranger"


def use_blog(client: Client, kept: bool = True) -> None:
    login = client.get("/").headers["Location"]
    assert login == "/login?next=%2F"
    assert "<form" in client.get(login).text
    assert client.post(login, data=WRONG).status_code == 403
    assert client.submit(login, **LUCA) == "/"
    # Flask's own cookie, which is for http too unless an application says otherwise, is enough without "remember".
    assert client.get("/").text.startswith("You are luca.")
    assert client.submit("/logout") == "/login"
    assert client.get("/").headers["Location"] == login
    client.submit("/login", remember="on", **LUCA)
    client.cookies.clear_session_cookies()  # the browser is closed
    assert (client.get("/").status_code == 200) == kept


def use_quickstart(client: Client, kept: bool = True) -> None:
    login = client.get("/").headers["Location"]
    assert client.submit(login, name="luca", password="lasagne") == "/"
    assert "You are luca." in client.get("/").text
    expect_push(client, lambda: client.post("/logout"))
    assert client.get("/").headers["Location"] == login


def use_whole_api(client: Client, kept: bool = True) -> None:
    use_app(client, kept)
    client.headers["Accept"] = "application/json"
    assert client.get("/openapi.json").ok
    assert client.get("/docs").ok
    assert client.get("/hello").json() == {"hello": "stranger"}
    assert client.get("/news").status_code == 401
    assert client.post("/api/login", json=WRONG).status_code == 403
    key = client.post("/api/login", json=LUCA).json()["session_key"]
    if not kept:
        assert client.get("/news").status_code == 401
        client.headers["Session-Key"] = key  # what a script does
    assert client.post("/cart/lasagne").json() == ["lasagne"]
    assert client.get("/hello").json() == {"hello": "luca"}
    assert client.get("/news").json()["for"] == "luca"
    assert client.get("/me").json() == {"name": "luca"}
    assert client.post("/payment").json() == {"paid_by": "luca"}
    assert client.post("/password-again", data={"password": "focaccia"}).status_code == 403
    if kept:
        assert client.post("/password-again", data={"password": "lasagne"}).json() == {"proved": True}
    assert client.submit("/logout") == "/login"
    assert client.get("/news").status_code == 401
    client.headers.pop("Session-Key", None)
    key = client.post("/async/login", json=LUCA).json()["session_key"]
    if not kept:
        client.headers["Session-Key"] = key
    assert client.post("/async/cart/pesto").json() == ["pesto"]


def expect_push(client: Client, log_out: Callable[[], object]) -> None:
    """A page that is open, and shows the cookie of the client, hears of the logout."""
    page, logged_out = new_client(), threading.Event()
    page.eio.http.verify = client.verify
    page.on("logout", lambda _data: logged_out.set())
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies)
    headers = {"Cookie": cookies, "Origin": client.address}
    page.connect(client.address, headers, transports=["polling"], wait_timeout=MAX_WAIT)
    assert page.call("session_key", timeout=MAX_WAIT) is True
    log_out()
    assert logged_out.wait(MAX_WAIT)
    page.disconnect()
    page.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def run(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Callable[..., Client]]:
    """Saves a program in an empty folder, starts it by a command, and returns a client."""
    servers: list[ServerProcess] = []

    def run(program: str, command: str, *, file: str = "main") -> Client:
        (tmp_path / f"{file}.py").write_text(program)
        scheme = "https" if "{certificate}" in command else "http"
        servers.append(
            ServerProcess(
                "-m",
                *command.format(certificate=certificate[0], key=certificate[1]).split(),
                printed=rf"(?:Running on|Listening at:|Uvicorn running on) {scheme}://127\.0\.0\.1:(\d+)",
                cwd=tmp_path,
                env={"FLASK_APP": "", "FLASK_DEBUG": "", "DEBUG": "", "DJANGO_SETTINGS_MODULE": "shop.settings"},
                scheme=scheme,
                starts_others="--debug" in command or "--reload" in command,
            )
        )
        return Client(servers[-1].address, str(certificate[0]))

    run.output = lambda: servers[-1].output  # type: ignore[attr-defined]
    yield run
    for server in servers:
        server.stop()


GUNICORN = "gunicorn --threads 4 --bind 127.0.0.1:0 --certfile {{certificate}} --keyfile {{key}} {}"
UVICORN = "uvicorn --port 0 --ssl-certfile {{certificate}} --ssl-keyfile {{key}} {}"

FLASK_APPLICATIONS = {"app": use_whole_app, "blog": use_blog}


def test_all_are_used():
    """A new application of a page needs a test."""
    assert PROGRAMS[FLASK].keys() == {*FLASK_APPLICATIONS}
    assert PROGRAMS[FASTAPI].keys() == PROGRAMS[README].keys() == {"app"}


@pytest.mark.parametrize(
    ("path", "port"),
    [(FLASK, "--port 0"), (FASTAPI, "--port 0")],
    ids=["flask", "fastapi"],
)
def test_first(path, port, run):
    """The first application of a page, with the name and the command that the page says."""
    page = path.read_text()
    [(file, command)] = SAVED.findall(page)
    program = applications(BLOCK.findall(page[: SAVED.search(page).start()]))["app"]
    client = run(program, f"{command} {port}", file=file)
    use_app(client)
    client.submit("/login", **LUCA)
    expect_push(client, lambda: client.submit("/logout"))
    assert WARNING not in run.output()


@pytest.mark.parametrize("name", FLASK_APPLICATIONS)
def test_flask_in_debug_mode(name, run):
    """`flask run --debug` over http."""
    client = run(PROGRAMS[FLASK][name], "flask --app main run --debug --port 0")
    FLASK_APPLICATIONS[name](client)
    assert WARNING not in run.output()


@pytest.mark.parametrize("name", FLASK_APPLICATIONS)
def test_flask_behind_https(name, run):
    """gunicorn with threads, over https."""
    client = run(PROGRAMS[FLASK][name], GUNICORN.format(f"main:{name}"))
    FLASK_APPLICATIONS[name](client)
    assert WARNING not in run.output()


@pytest.mark.parametrize("name", ["app", "blog"])
def test_flask_over_http(name, run):
    """`flask run` over http: the cookie is dropped, and the log says so, and what to do."""
    client = run(PROGRAMS[FLASK][name], "flask --app main run --port 0")
    FLASK_APPLICATIONS[name](client, kept=False)
    assert run.output().count(WARNING) == 1
    assert "COOKIE_SECURE" in run.output()


def test_flask_for_http(run):
    """With the setting that the page names, the first application works over plain http too."""
    line = 'app.config["USER_SESSIONS_COOKIE_SECURE"] = False\n'
    program = PROGRAMS[FLASK]["app"].replace("sessions = UserSessions(app)\n", line + "sessions = UserSessions(app)\n")
    assert line in program
    use_whole_app(run(program, "flask --app main run --port 0"))
    assert WARNING not in run.output()


def test_quickstart(run):
    """The application of the README, with its name and its command."""
    [command] = re.findall(r"`(flask --app quickstart run) --port 8000`", README.read_text())
    use_quickstart(run(PROGRAMS[README]["app"], f"{command} --port 0", file="quickstart"))


# FastAPI knows no debug mode: the page has an argument for http, which it says to delete before a deployment.
FOR_HTTPS = re.sub(r"^    secure=False,.*\n", "", PROGRAMS[FASTAPI]["app"], flags=re.MULTILINE)


def test_fastapi_for_http(run):
    """With that argument, over http and with the reloader."""
    use_whole_api(run(PROGRAMS[FASTAPI]["app"], "uvicorn --reload --port 0 main:server"))
    assert WARNING not in run.output()


def test_fastapi_behind_https(run):
    """uvicorn, over https."""
    assert PROGRAMS[FASTAPI]["app"] != FOR_HTTPS
    use_whole_api(run(FOR_HTTPS, UVICORN.format("main:server")))
    assert WARNING not in run.output()


def test_fastapi_over_http(run):
    """uvicorn over http: the cookie is dropped, and the log says so, and what to do."""
    use_whole_api(run(FOR_HTTPS, "uvicorn --port 0 main:server"), kept=False)
    assert run.output().count(WARNING) == 1
    assert "secure" in run.output()


def test_django(run, tmp_path):
    """The first project of the page, in the folder that `startproject` makes, with its tests."""
    page = (DOCS / "frameworks" / "django.md").read_text()
    blocks = python_blocks("frameworks/django.md")
    settings, urls_of_settings = blocks[:2]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["DJANGO_SUPERUSER_PASSWORD"] = LUCA["password"]
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "shop", "."], cwd=tmp_path, env=environment, check=True
    )
    file = tmp_path / "shop" / "settings.py"
    made = re.sub(r"^INSTALLED_APPS = .*?^\]\n", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    made = re.sub(r"^MIDDLEWARE = .*?^\]\n", lambda _: settings, made, flags=re.MULTILINE | re.DOTALL)
    made = re.sub(r"""['"]DIRS['"]: \[\]""", '"DIRS": [BASE_DIR / "templates"]', made)
    file.write_text(made + urls_of_settings)
    for name in ("views", "urls", "asgi", "tests"):
        [block] = re.findall(rf"`shop/{name}\.py`[^\n]*:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        (tmp_path / "shop" / f"{name}.py").write_text(block)
    (tmp_path / "templates" / "registration").mkdir(parents=True)
    for name, text in re.findall(r"`templates/([\w/]+\.html)`:\n\n```html\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[
        :2
    ]:
        (tmp_path / "templates" / name).write_text(text)

    create = re.findall(r"^python manage\.py (createsuperuser .+ luca@example\.com)$", page, re.MULTILINE)
    for command in ("check", "test", "migrate", f"{create[0]} --noinput"):
        arguments = [sys.executable, "-W", "error", "manage.py", *command.split()]
        subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, timeout=2 * MAX_WAIT)

    [command] = re.findall(r"^(uvicorn shop\.asgi:application --lifespan off) --reload$", page, re.MULTILINE)
    client = run("", f"{command} --port 0", file="unused")
    other = Client(client.address, client.verify)

    def submit(by: Client, path: str, **fields: str) -> str:
        return by.submit(path, csrfmiddlewaretoken=by.cookies["csrftoken"], **fields)

    for each in (client, other):
        login = each.get("/").headers["Location"]
        assert login == "/login/?next=/"
        assert "<form" in each.get(login).text
        assert submit(each, login, **LUCA) == "/"
        assert "You are luca." in each.get("/").text
    assert client.get("/static/users_session_manager/user-sessions.js").ok
    assert submit(client, "/logout-others/") == "/"
    assert other.get("/").headers["Location"] == "/login/?next=/"
    expect_push(client, lambda: submit(client, "/logout/"))
    assert client.get("/").headers["Location"] == "/login/?next=/"
    assert "lifespan" not in run.output()

    [store] = [block for block in blocks if "IS_TEST" in block]
    file.write_text(file.read_text() + store)
    use_sessions = "from users_session_manager import SessionManager; SessionManager().getLoggedUsers()"
    for arguments, has_file in ((["test"], False), (["shell", "--command", use_sessions], True)):
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=tmp_path, env=environment, check=True)
        assert (tmp_path / "sessions.sqlite3").exists() == has_file
