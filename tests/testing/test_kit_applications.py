"""The tests of small applications, in random order and in parallel: nothing leaks from one to the next.

Each application in `applications/` is copied and tested by a pytest of its own, as its developers do. Its tests leave
sessions, listeners, settings and a later time behind, and each of them looks first whether it finds any.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("flask_socketio", "django", "fastapi", "httpx", "xdist", "redis"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[2]
APPLICATIONS = Path(__file__).parent / "applications"
NAMES = sorted(path.name for path in APPLICATIONS.iterdir() if path.is_dir())
COUNTS = {"django_site": 16, "fastapi_factory": 10, "fastapi_module": 22, "flask_factory": 11, "flask_module": 13}

SHUFFLE = """
import random

def pytest_addoption(parser):
    parser.addoption("--seed", type=int)
    parser.addoption("--rounds", type=int, default=1)

def pytest_collection_modifyitems(config, items):
    generator, rounds = random.Random(config.getoption("seed")), []
    for _ in range(config.getoption("rounds")):
        order = generator.sample(items, len(items))
        if rounds and rounds[-1] is order[0]:  # pytest does not set an item up twice in a row
            order.reverse()
        rounds += order
    items[:] = rounds
"""


@pytest.fixture
def application(name: str, tmp_path: Path) -> Path:
    folder = tmp_path / name
    shutil.copytree(APPLICATIONS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(APPLICATIONS / "traces.py", folder)
    (folder / "shuffle.py").write_text(SHUFFLE)
    return folder


def run(folder: Path, *command: str) -> str:
    """Run Python in the folder of an application, with warnings as errors; return what it prints if it succeeds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of other packages, which take seconds to import
    command = (sys.executable, *command)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_pytest(folder: Path, *options: str) -> int:
    """Return how many tests have passed."""
    warnings = ["-W", "error", "-W", "ignore:Using `httpx`"]  # Starlette asks for its successor
    printed = run(folder, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", *warnings, *options)
    return int(re.findall(r"^(\d+) passed in ", printed, re.MULTILINE)[-1])


def test_all_are_tested():
    assert list(COUNTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_in_random_order(application: Path, name: str):
    """All of them five times, each time in another order, in one process."""
    assert run_pytest(application, "-p", "shuffle", "--seed", "1", "--rounds", "5") == 5 * COUNTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_in_parallel(application: Path, name: str):
    assert run_pytest(application, "-p", "shuffle", "--seed", "7", "-p", "xdist", "-n", "2") == COUNTS[name]


@pytest.mark.parametrize("name", ["django_site"])
@pytest.mark.parametrize("options", [("--shuffle", "1"), ("--shuffle", "2", "--parallel", "2")], ids=" ".join)
def test_with_unittest(application: Path, name: str, options: tuple[str, ...]):
    """Django's own runner, without pytest."""
    assert "Ran 12 tests" in run(application, "-W", "error", "manage.py", "test", *options)


FIXTURES = """
import unittest

import pytest

from users_session_manager import SessionManager

manager = SessionManager(store="redis://127.0.0.1:1/0")  # not blocking in a test

@pytest.fixture(scope="session", autouse=True)
def of_the_session():
    assert manager.blocking
    yield
    assert manager.blocking

@pytest.fixture(autouse=True)
def a_of_all(clock):
    assert not manager.blocking
    manager.loadNewSession("luca")
    yield
    assert manager.getLoggedUsers() == ["luca"]
    clock.advance(hours=1)
    assert manager.getLoggedUsers() == []

@pytest.fixture(autouse=True)
def z_of_all(monkeypatch):
    assert not manager.blocking
    yield
    assert not manager.blocking

class Methods:
    def setup_method(self, method=None):
        assert manager.getLoggedUsers() == ["luca"]

    teardown_method = setUp = tearDown = test_one = test_two = setup_method

class TestMethods(Methods):
    pass

class UnitTest(Methods, unittest.TestCase):
    pass
"""


def test_order_of_fixtures(tmp_path: Path):
    """All that is done for one test is a part of it, its end included; a wider scope is from before it."""
    head = "import pytest\npytest_plugins = ['users_session_manager.testing.pytest_plugin']\n"
    (tmp_path / "conftest.py").write_text(head + FIXTURES)
    (tmp_path / "test_fixtures.py").write_text("from conftest import TestMethods, UnitTest\n")
    assert run_pytest(tmp_path) == 4


def test_only_when_asked_for(tmp_path: Path):
    """Without `pytest_plugins` there is no plugin: its fixture does not exist."""
    (tmp_path / "test_bare.py").write_text("import users_session_manager.testing\ndef test(clock): pass\n")
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "fixture 'clock' not found" in done.stdout


def test_the_page_about_it(tmp_path: Path):
    """The code of `docs/how-to/tests.md` works as files, with pytest and in parallel."""
    page = (ROOT / "docs" / "how-to" / "tests.md").read_text()
    files = re.findall(r"`([\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert len(files) == 7
    for name, text in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    [line] = re.findall(r"^pytest_plugins = .*$", page, re.MULTILINE)
    settings = (APPLICATIONS / "django_site" / "shop" / "settings.py").read_text().partition("USER_SESSIONS")[0]
    [sessions] = re.findall(r'`USER_SESSIONS = (\{"TIMEOUT".*?\})`', page)
    settings = settings.replace("shop.urls", "django_shop.urls") + f"USER_SESSIONS = {sessions}\n"
    (tmp_path / "django_shop" / "settings.py").write_text(settings)
    conftest = (
        (APPLICATIONS / "django_site" / "conftest.py").read_text().replace("shop.settings", "django_shop.settings")
    )
    (tmp_path / "conftest.py").write_text(re.sub("^pytest_plugins = .*$", line, conftest, flags=re.MULTILINE))
    (tmp_path / "shuffle.py").write_text(SHUFFLE)
    tests = ["test_flask_shop.py", "test_fastapi_shop.py", "django_shop/tests.py"]
    assert run_pytest(tmp_path, *tests, "-p", "shuffle", "--seed", "3", "--rounds", "3") == 3 * 11
