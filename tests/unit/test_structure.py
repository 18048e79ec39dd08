"""The shape of the source: imports point down only, and no function is too long to read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import users_session_manager

SOURCE = Path(users_session_manager.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

# From the bottom up; a module imports only from those before it. Those in one line do not know each other.
LAYERS = [
    ["errors", "keys", "log", "callers"],
    ["session", "clock"],
    ["timers", "policy", "events"],
    ["stores.base", "stores.encoding", "stores.reachability"],
    ["stores.memory", "stores.notices"],
    ["stores.expiry"],
    ["stores.shared"],
    ["stores.redis.records", "stores.sql.records", "stores.sql.engine", "stores.sql.schema"],
    ["stores.redis.client", "stores.sql.sqlite", "stores.sql.postgresql"],
    ["stores.redis.script", "stores.sql.database"],
    ["stores.sql.notices"],
    ["stores.sql.claims"],
    ["stores.redis", "stores.sql", "stores.sql.__main__"],
    ["stores"],
    ["manager"],
    ["integrations"],
    ["testing"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
PACKAGES = ("integrations", "testing")  # whose modules may import each other


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return layer_of(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def layer_of(name: str) -> str:
    return name.partition(".")[0] if name.startswith(PACKAGES) else name


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a module imports, within its functions too."""
    package = [*path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                deeper = ".".join([*base, alias.name])
                yield deeper if deeper in RANK else ".".join(base)


def test_imports_point_down():
    """A module imports only from those below it."""
    known = {name_of(path) for path in MODULES}
    assert known - set(RANK) == {""}, "the package itself is above all"
    for path in MODULES:
        name = name_of(path)
        for other in imports(path):
            other_name = layer_of(other)
            below = name == "" or RANK[other_name] < RANK[name] or name == other_name in PACKAGES
            assert below, f"{name} imports {other_name}"


def test_no_function_is_longer_than_thirty_lines():
    """Its docstring is not counted."""
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node, clean=False)
                lines = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
                if lines > 30:
                    long.append((path.name, node.name, lines))
    assert long == []
