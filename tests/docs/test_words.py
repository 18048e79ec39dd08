"""No file has words that mislead readers: private names, people in place of data, verbs that hide an action."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "examples", "docs", ".github")
SUFFIXES = {".cjs", ".conf", ".css", ".html", ".js", ".lua", ".md", ".py", ".svg", ".txt", ".yml"}
# Each with its better word. Nothing here has a second meaning that a file might need.
PHRASES = {
    r"whoever|whosoever": "the name of the user, the process or the client",
    r"who is there": "which users are signed in",
    r"at hand": "available",
    r"takes? leave|took leave": "release",
    r"lets? go": "release, or detach",
    r"the house": "the process",
    r"runs? out|ran out": "expire",
    r"what comes meanwhile": "later calls",
    r"mended": "fixed",
    r"tells|told": "a verb that says what is sent",
}
NAMES = {
    "BATCH_SIZE, LIST_PAGE_SIZE": "_SOME SOME _SOME_TO_LIST SOME_TO_LIST",
    "STOP_TIMEOUT, MAX_TIMEOUT": "_PATIENCE PATIENCE LONGEST _LONGEST",
    "a Condition": "_bell _ring",
    "_after_fork_in_child, _locked_for_fork": "_revive _held",
    "run_due, expire": "_run_out run_out",
    "_detach, _surplus_sessions": "_let_go _in_the_way",
    "started_at, serial": "_born born",
    "_debug, _requested_store": "_say _named_store",
    "ExpiryWorker": "redis_ends",
    "_poll, _poll_once": "_turn _keep_up",
    "_to_acknowledge, _pending, _claimed": "_told _to_tell _is_telling _in_hand",
    "_release_leases, _reset": "_take_leave _begin_anew",
    "is_unreachable, _failed_operation": "is_away _trouble",
    "multi_group, due_ids": "of_several fallen_due",
    "authenticate, sign_out": "admit dismiss dismiss_elsewhere",
    "bindLoop": "show_loop",
    "_NOT_LOADED, _cookie_changed": "_UNASKED _moved",
    "_wants_html, add_no_store, require_sync_context": "_is_for_people keep_private keep_off_loop",
    "_prune_at": "_many",
    "bench_*.py": "contest contestant lineup",
}
FORBIDDEN = {
    **{rf"(?i:\b(?:{phrase})\b)": better for phrase, better in PHRASES.items()},
    **{rf"\b(?:{'|'.join(names.split())})\b": better for better, names in NAMES.items()},
}


def texts() -> Iterator[tuple[Path, str]]:
    """Return each file of the project that people read, but this one, with its text."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and path != Path(__file__):
                yield path.relative_to(ROOT), path.read_text()
    yield Path("README.md"), (ROOT / "README.md").read_text()


def found_in(text: str) -> list[tuple[int, str]]:
    """Return the number and what to do of each line with a word that is to be replaced."""
    return [
        (number, f"{match[0]!r}: better {better}")
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, better in FORBIDDEN.items()
        for match in re.finditer(pattern, line)
    ]


def test_words():
    files = list(texts())
    assert len(files) > 200
    assert [f"{path}:{number} {problem}" for path, text in files for number, problem in found_in(text)] == []


@pytest.mark.parametrize("line", ["the lease RUNS OUT", "_SOME = 100", "def _take_leave(self):", "he was told"])
def test_a_word_is_found(line):
    assert [number for number, _ in found_in(f"fine\n{line}")] == [2]


@pytest.mark.parametrize("line", ["import contextlib", "a promise", "it holds", "SOMETIMES", "running out of memory"])
def test_other_words_are_not(line):
    assert found_in(line) == []
