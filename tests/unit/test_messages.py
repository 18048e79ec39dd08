"""The texts of exceptions and warnings, read from the source: what each says, and that a page lists them all."""

from __future__ import annotations

import ast
import builtins
import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import users_session_manager
from users_session_manager import SessionRejected, errors

SOURCE = Path(users_session_manager.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "reference" / "errors.md"

LOGGED = {"log.warning", "log.error", "log.critical", "log.exception", "warnings.warn"}
CHECKS = {"Error", "CheckWarning"}  # Django's
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
# Functions that return a text, which an exception then has.
RETURNING = {"no_connection", "problem_of"}

# Texts that no application sees by themselves: they are caught, or end another text, or are `threading`'s.
INTERNAL = {
    "no event loop is known, or the one that was has closed",
    "a step waits where there is no event loop",
    "this is not the key of the session",
    "this is no time",
    "the subscription receives nothing that is published",
    "no answer in time",
    "the connections have been closed",
    "the file was replaced",
    "keys must be str, got …",
    "threads can only be started once",
    "cannot join thread before it is started",
    "cannot join current thread",
    "cannot set daemon status of active thread",
}
# There is nothing to explain, npm has said it, or its value is another one of these texts.
WITHOUT_PAGE = {
    "… is reachable again",
    str(SessionRejected()),
    "… cannot be used, every session is refused: …",
}
# Python's message in FastAPI and Django, which give `None` in place of a session to a view without a guard.
OF_PYTHON = "'NoneType' object has no attribute 'username'"
# A value of theirs says what to do, or their page does, or there is nothing to do.
NOTHING_TO_DO = {
    "a server in … mode loses the logouts of other threads: … before all else, see docs/how-to/production.md",
    "setSessionTimeOut changed nothing: …, see docs/guide.md",
    "… is unreachable, every session is refused: … (see docs/how-to/production.md)",
    *WITHOUT_PAGE,
}

# Words by which a text asks for an action, or names the right values.
TO_DO = re.compile(
    r"\b(add|ask|call|check|choose|close|correct|execute|give|guard|import|install|leave|let|make|move|name|pass|"
    r"percent-encode|pip install|return|say|send|serve|set|sign|start|stream|take|use)\b|chmod 600",
    re.IGNORECASE,
)
RIGHT = re.compile(r"\b(must|has to|may have|takes|cannot be|needs|holds at most|has no option|does not exist|only)\b")

SECRET = {"address", "addresses", "cookie", "key", "keys", "password", "secret", "token", "url", "urls"}
# They show no key, or are the name of a cookie and a setting that names a page.
SHOWN = re.compile(r"\b(type|label|len|id_of)\([^()]*\)|^cookie$|^(self\._)?login_url$")


class Message(NamedTuple):
    kind: str
    text: str  # with `…` for each value
    values: list[str]  # their expressions
    hint: str  # of a system check

    @property
    def is_of_ours(self) -> bool:
        """Whether it is no error of a single argument: then a page explains more."""
        return self.kind in OURS | LOGGED | {"AttributeError", "ImproperlyConfigured"}


def every_node() -> Iterator[ast.AST]:
    return chain.from_iterable(map(ast.walk, TREES.values()))


def constants() -> dict[str, str]:
    """Return the texts of the source that have a name."""
    found = {}
    for node in every_node():
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id.isupper() and isinstance(node.value.value, str):
                found[target.id] = node.value.value
    return found


def read(node: ast.expr | None, names: dict[str, str]) -> tuple[str, list[str]]:
    """Return the text of an expression, and the expressions of its values; no text if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+)?[rs]", "…", node.value), []
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id], []
    if not isinstance(node, ast.JoinedStr):
        return "", []
    parts, values = [], []
    for part in node.values:
        inner = part.value if isinstance(part, ast.FormattedValue) else part
        text, _ = read(inner, names)
        parts.append((repr(text) if getattr(part, "conversion", -1) == ord("r") else text) if text else "…")
        values += [] if text else [ast.unparse(inner)]
    return "".join(parts), values


def raised() -> set[str]:
    """Return the names of the exceptions that the source raises."""
    raises = [node.exc for node in every_node() if isinstance(node, ast.Raise)]
    names = {ast.unparse(each.func).rpartition(".")[2] for each in raises if isinstance(each, ast.Call)}
    return names | OURS | {name for name in vars(builtins) if name.endswith("Error")}


def expressions(tree: ast.Module, exceptions: set[str]) -> Iterator[tuple[str, ast.expr, ast.AST]]:
    """Yield each expression that is a text for users, after its kind and before the node that it is in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func)
            kind = name if name in LOGGED else name.rpartition(".")[2]
            if kind in LOGGED | CHECKS | exceptions or name in ("super().__init__", "problems.append"):
                yield kind, node.args[0], node
        elif isinstance(node, ast.Yield) and node.value is not None:
            for each in node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]:
                yield "yield", each, node
        elif isinstance(node, ast.FunctionDef) and node.name in RETURNING:
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and each.value is not None:
                    yield "return", each.value, each


def messages() -> Iterator[Message]:
    names, exceptions = constants(), raised()
    for path, tree in TREES.items():
        for kind, expression, node in expressions(tree, exceptions):
            text, values = read(expression, names)
            text = " ".join(text.removesuffix("\n…").split())
            has_words = len(re.findall(r"\w+", text.partition("see docs")[0])) > 2
            if not has_words or text in INTERNAL or (kind == "__init__" and path.name != "errors.py"):
                continue
            if kind in LOGGED:
                values += [ast.unparse(each) for each in node.args[1:]]  # type: ignore[attr-defined]
            hints = [read(each.value, names)[0] for each in getattr(node, "keywords", []) if each.arg == "hint"]
            yield Message(kind if kind != "__init__" else "SessionError", text, values, "".join(hints))


MESSAGES = [*messages(), Message("SessionRejected", str(SessionRejected()), [], "")]


def test_every_text_is_read():
    """Each message is written where it is raised or logged, so that the tests below see it."""
    names, exceptions = constants(), raised()
    found = chain.from_iterable(expressions(tree, exceptions) for tree in TREES.values())
    kinds = OURS | LOGGED | {"TypeError", "ValueError", "AttributeError"}
    unread = {ast.unparse(text) for kind, text, _ in found if kind in kinds and not read(text, names)[0]}
    assert unread == {"no_connection(connection)", "str(failure)"}


def test_page():
    """Each message about the set-up of an application names a page that explains more, and the page exists."""
    for message in MESSAGES:
        pages = re.findall(r"\b[Ss]ee (docs/[\w/-]+\.md)", f"{message.text} {message.hint}")
        needs_page = message.kind in CHECKS or (message.is_of_ours and message.text not in WITHOUT_PAGE)
        assert len(pages) == 1 or (not needs_page and not pages), message
        assert all((ROOT / page).is_file() for page in pages), message


def test_to_do():
    """It says what to do, or which values are right, and then which one it got."""
    for message in MESSAGES:
        said = re.sub(r"\b[Ss]ee docs/\S+", "", f"{message.text} {message.hint}")
        says_right = RIGHT.search(said) and (
            message.values or message.kind in CHECKS or re.search("got|this one", said)
        )
        if message.is_of_ours:
            assert TO_DO.search(said) or message.text in NOTHING_TO_DO, message
        elif message.kind not in ("AssertionError", "KeyError", "OSError"):  # these say what has happened
            assert TO_DO.search(said) or says_right, message


def test_no_secret():
    """No value that is shown has the name of one that may be a key, a cookie, a password or an address with one."""
    for message in MESSAGES:
        for value in message.values:
            assert SECRET.isdisjoint(re.findall("[a-z]+", SHOWN.sub("", value).lower())), (value, message)


def test_list():
    """The page lists each text of the source, with `…` for each value, and no others; each entry links its page."""
    entries = re.findall(r"^- (``?) ?(.+?) ?\1(?=:|$)(.*?)(?=\n- |\n\n|\Z)", LIST.read_text(), re.MULTILINE | re.DOTALL)
    listed = {" ".join(text.split()): rest for _, text, rest in entries}
    assert len(listed) == len(entries), "a text is listed twice"
    written = {message.text for message in MESSAGES} | {OF_PYTHON}
    assert sorted(written - set(listed)) == [], f"add these to {LIST}: - `text`: what it means and what to do"
    assert sorted(set(listed) - written) == [], f"remove these from {LIST}, or change them as the source has them"
    for text, rest in listed.items():
        for page in re.findall(r"\bsee docs/([\w/-]+\.md)", text):
            assert page == "reference/errors.md" or f"]({os.path.relpath(page, 'reference')}" in rest, text
