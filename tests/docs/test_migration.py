"""The pages for a change from Flask-Login, Flask-Session and Django's sessions, with the programs before and after it.

What the programs for Flask-Session and Django do after the change, the cells of their pages check.
"""

from __future__ import annotations

import difflib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, python_blocks

for package in ("flask_login", "flask_session"):
    pytest.importorskip(package, reason=f"the programs need {package}, which is not installed")

from users_session_manager import SessionManager  # noqa: E402

# Flask-Login 0.6.3 calls it for its cookie, and Python 3.12 warns of that.
pytestmark = pytest.mark.filterwarnings(r"ignore:datetime\.datetime\.utcnow:DeprecationWarning")

PROGRAMS = Path(__file__).parent / "migration"
DIFF = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The programs before and after, in the order of the diffs of a page.
CHANGES = {
    "coming-from-flask-login": [
        ("flask_login_before", "flask_login_after"),
        ("flask_login_before", "flask_login_replaced"),
    ],
    "coming-from-flask-session": [("flask_session_before", "flask_session_after")],
    "coming-from-django-sessions": [("django_sessions_before", "django_sessions_after")],
}
LUCA = {"username": "luca", "password": "lasagne"}


def text_of(program: str) -> list[str]:
    return (PROGRAMS / f"{program}.py").read_text().splitlines()


def diff_of(before: str, after: str) -> list[str]:
    """Return the lines of a unified diff without context, without its head."""
    return [*difflib.unified_diff(text_of(before), text_of(after), n=0, lineterm="")][2:]


def changed_lines(diff: list[str]) -> int:
    """Return how many lines of a diff are added or changed."""
    return len([line for line in diff if line.startswith("+")])


@pytest.mark.parametrize("page", CHANGES)
def test_diffs(page):
    """The diffs of a page are those of its programs, and its first Python block is the program after the change."""
    shown = [block.splitlines() for block in DIFF.findall((DOCS / "how-to" / f"{page}.md").read_text())]
    assert shown == [diff_of(*programs) for programs in CHANGES[page]]
    assert python_blocks(f"how-to/{page}.md")[0].splitlines() == text_of(CHANGES[page][0][1])


def test_few_lines():
    """A small application changes in at most 15 lines, whichever way its reader takes."""
    counts = [changed_lines(diff_of(*programs)) for programs in CHANGES["coming-from-flask-login"]]
    assert 0 < counts[0] < counts[1] <= 15
    assert "in three lines" in (DOCS / "how-to" / "coming-from-flask-login.md").read_text()
    lines = [line for line in diff_of(*CHANGES["coming-from-flask-login"][0]) if line.startswith("+")]
    assert len([line for line in lines if line != "+"]) == 3


def browse(program: str) -> list[Any]:
    """Return what a browser sees of an application: redirects, texts, and whether a login outlives the browser."""
    namespace = runpy.run_path(str(PROGRAMS / f"{program}.py"))
    browser = namespace["blog"].test_client()
    seen: list[Any] = []

    def get(path: str) -> None:
        answer = browser.get(path, headers={"Accept": "text/html"})
        is_redirect = 300 <= answer.status_code < 400
        seen.append((path, answer.location if is_redirect else (answer.status_code, answer.text)))

    def post(path: str, **form: str) -> None:
        answer = browser.post(path, data=form, headers={"Accept": "text/html"})
        seen.append((path, answer.status_code, answer.location))

    def close_browser() -> None:
        for cookie in [*browser._cookies.values()]:
            if cookie.expires is None and cookie.max_age is None:
                browser.delete_cookie(cookie.key, domain=cookie.domain, path=cookie.path)

    get("/")
    get("/drafts?page=2")
    get("/login?next=/drafts")
    post("/login?next=/drafts", username="luca", password="focaccia")
    post("/login?next=/drafts", username="fabio", password="lasagne")
    get("/drafts")
    post("/login?next=/drafts", **LUCA)
    get("/drafts")
    get("/")
    post("/logout")
    get("/")
    post("/login", **LUCA)
    close_browser()
    get("/")
    post("/login?next=https://elsewhere.example/", **LUCA, remember="on")
    close_browser()
    get("/")
    post("/logout")
    get("/")
    close_browser()
    get("/")
    if "sessions" in namespace:
        SessionManager().close()
    return seen


@pytest.fixture(scope="module")
def before() -> list[Any]:
    return browse("flask_login_before")


def test_before(before):
    """The application works with Flask-Login alone, so the comparison below means something."""
    start = (200, 'You are luca.\n<form method="post" action="/logout"><button>Log out</button></form>')
    assert before[:2] == [("/", "/login?next=%2F"), ("/drafts?page=2", "/login?next=%2Fdrafts%3Fpage%3D2")]
    assert before[3:5] == [("/login?next=/drafts", 403, None)] * 2
    assert before[6:9] == [
        ("/login?next=/drafts", 302, "/drafts"),
        ("/drafts", (200, "The drafts of luca")),
        ("/", start),
    ]
    assert before[9:] == [
        ("/logout", 302, "/login"),
        ("/", "/login?next=%2F"),
        ("/login", 302, "/"),
        ("/", "/login?next=%2F"),
        ("/login?next=https://elsewhere.example/", 302, "/"),
        ("/", start),
        ("/logout", 302, "/login"),
        ("/", "/login?next=%2F"),
        ("/", "/login?next=%2F"),
    ]


@pytest.mark.parametrize("after", ["flask_login_after", "flask_login_replaced"])
def test_alike(before, after):
    """Login, guard, the redirect to the login page and back, logout and "remember me" are as before."""
    assert browse(after) == before
