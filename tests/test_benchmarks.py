"""The benchmarks run to their end; what they measure is for people to read, and fails nothing."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_guarded_request():
    for package in ("flask", "django", "fastapi"):
        pytest.importorskip(package)
    command = [sys.executable, str(BENCHMARKS / "guarded_request.py"), "--rounds", "3", "--requests", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["flask", "django", "fastapi"]
    assert all(len(re.findall(r"-?\d+\.\d", line)) >= 5 for line in lines), done.stdout


def test_guarded_request_redis():
    for package in ("flask", "flask_session", "redis"):
        pytest.importorskip(package)
    command = [sys.executable, str(BENCHMARKS / "guarded_request_redis.py"), "--rounds", "3", "--requests", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()[1:]]
    assert [line[0] for line in lines] == ["bare", "guarded", "Flask-Session", "in parts of it"]
    assert all(len(line) == 4 for line in lines), done.stdout
    trips = {name: float(count) for name, *_, count in lines}
    assert trips["bare"] == 0
    assert trips["guarded"] == 1, "a guarded request is one round trip"
    assert trips["Flask-Session"] >= 2, "it reads the session and writes it back"


def side_by_side(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "side_by_side.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def contest() -> None:
    """What the contest takes is there."""
    for package in ("cachetools", "cacheout", "flask", "flask_session", "matplotlib", "redis"):
        pytest.importorskip(package)
    for program in ("node", "npm", "redis-server"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on the PATH")


@pytest.fixture(scope="module")
def folder(contest: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run has left its page, its figures and what it printed."""
    folder = tmp_path_factory.mktemp("side_by_side")
    done = side_by_side("--quick", "--docs", folder, "--json", folder / "results.json", "--cache", folder / "cache")
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def cells(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    found = json.loads((folder / "results.json").read_text())["cells"]
    return {(cell["section"], *cell["row"], cell["contestant"]): cell for cell in found}


class TestSideBySide:
    """The contest with the npm package and the others, in its quick form."""

    CONTESTANTS = ("ours", "npm", "plain", "cachetools", "cacheout")
    KEYED = (
        *("loadNewSession", "checkSessionStatus", "getUsernameFromSessionKey", "getSessionDetails", "setSessionData"),
        *("getSessionData", "restartSessionTimer", "deleteSession"),
    )
    OTHERS = (
        *("createNewSessionTimer", "deleteAllSessions", "getLoggedUsers", "setSessionTimeOut", "getSessionTimeout"),
        *("initSocketReference", "getSocketReference", "sendLogoutMessage"),
    )
    SIZES = (1_000, 10_000)

    def test_each_operation_of_each_contestant_is_there(self, cells):
        contestants = (*self.CONTESTANTS, "dictionary")
        in_order = itertools.product(self.KEYED + self.OTHERS, ["in order"], self.SIZES, (0, 1), contestants)
        as_they_come = itertools.product(self.KEYED, ["as requests come"], self.SIZES, (0, 1), contestants)
        expected = {("operations", *place) for place in (*in_order, *as_they_come)}
        assert {place for place in cells if place[0] == "operations"} == expected
        for place in expected:
            cell = cells[place]
            assert cell["words"] or all(value > 0 for value in cell["values"]), cell
            assert bool(cell["words"]) != bool(cell["values"]), cell

    def test_nothing_of_the_npm_api_is_left_out_for_this_library_and_the_package(self, cells):
        for place, cell in cells.items():
            if place[0] == "operations" and place[-1] in ("ours", "npm"):
                too_long = place[-1] == "npm" and place[1] == "getLoggedUsers" and place[3] > 1_000
                assert bool(cell["words"]) == too_long, cell

    def test_the_other_sections_are_there(self, cells):
        expected = {
            *(("memory", "resident", *place) for place in itertools.product(self.SIZES, self.CONTESTANTS)),
            *(("memory", "V8's heap alone", size, "npm") for size in self.SIZES),
            *(("lateness", *place) for place in itertools.product(range(101), [2_000], self.CONTESTANTS)),
            *(
                ("idle", what, 10_000, who)
                for what in ("wake-ups in 1 s", "ms of CPU time in 1 s")
                for who in ("ours", "npm")
            ),
            *(
                ("threads", what, who)
                for what in ("1 thread", "8 threads", "8 threads / 1 thread")
                for who in self.CONTESTANTS
            ),
            *(
                ("pieces", what, 10_000, "python")
                for what in (
                    *("a call of a method", "and a look into the dictionary", "and the username"),
                    *("and whether its time has come", "and a new deadline", "a lock, taken and let go"),
                    "19 random bytes of the operating system",
                )
            ),
            *(("start-up", "start to first line, with no library, ms", who) for who in ("ours", "npm")),
            *(("start-up", "start to first session key, ms", who) for who in self.CONTESTANTS),
            ("start-up", "import pyee, ms", "ours"),
            ("start-up", "import users_session_manager after it, ms", "ours"),
            ("start-up", "packages of an extra that it imports", "ours"),
            *(
                ("redis", what, "as requests come", 1_000, 0, who)
                for what in self.KEYED
                for who in ("ours-redis", "flask-session")
            ),
        }
        assert {place for place in cells if place[0] != "operations"} == expected
        for place in expected:
            assert cells[place]["words"] or cells[place]["values"], place
            if place[0] in ("threads", "redis") or place[:3] == ("memory", "resident", 10_000):
                assert all(value > 0 for value in cells[place]["values"]), place

    def test_each_promise_is_held_against_what_was_measured(self, folder):
        _, _, promises = (folder / "printed.txt").read_text().partition("\nPromises\n")
        assert len(re.findall("  holds|  does not hold", promises)) == 23, promises

    def test_the_page_has_all_of_it(self, folder):
        page = (folder / "performance.md").read_text()
        assert page.startswith("# Performance\n")
        for heading in (
            "What was promised",
            "How it was measured",
            "Operations",
            "Memory",
            "Lateness",
            "Threads",
            "On Redis",
        ):
            assert f"\n## {heading}\n" in page
        notes = BENCHMARKS / "performance_notes.md"
        assert not notes.exists() or notes.read_text().strip() in page
        tables = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
        assert len(tables) > 10
        for table in tables:
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
        plots = re.findall(r"!\[.+\]\((.+)\)", page)
        assert len(plots) == 4
        for plot in plots:
            assert ElementTree.parse(folder / plot).getroot().tag.endswith("svg")

    def test_the_same_figures_make_the_same_page_and_plots(self, folder, tmp_path):
        done = side_by_side("--from", folder / "results.json", "--docs", tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == (folder / "printed.txt").read_text()
        written = sorted(path.name for path in tmp_path.iterdir())
        assert len(written) == 5
        for name in written:
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name

    @pytest.mark.parametrize(
        ("defect", "complaint"),
        [
            ("return 'Nobody'", "broken: npm package, asked for time .*: a "),
            ("process.exit(3)", "broken: npm package, asked"),
        ],
        ids=["a wrong answer", "a contestant that dies"],
    )
    def test_ends_the_run(self, contest, tmp_path, defect, complaint):
        package = tmp_path / "node_modules" / "users-session-manager"
        package.mkdir(parents=True)
        (package / "package.json").write_text('{"main": "index.js"}')
        (package / "index.js").write_text(f"""
            let last = 0
            module.exports = class extends require('events') {{
              setSessionTimeOut() {{ return true }}
              loadNewSession() {{ return `key${{++last}}` }}
              deleteSession() {{ return true }}
              deleteAllSessions() {{ return true }}
              getUsernameFromSessionKey() {{ {defect} }}
            }}""")
        done = side_by_side("--quick", "--only", "operations", "--sessions", "1000", "--cache", tmp_path)
        assert done.returncode != 0
        assert re.search(complaint, done.stderr), done.stderr
