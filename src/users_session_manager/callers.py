"""The caller of this package, as the stack shows it."""

from __future__ import annotations

import sys
from types import FrameType


def caller() -> str:
    """Return the file and line outside of this package from where it was called."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def importing_module() -> str | None:
    """Return the name of the module whose import has led here; `None` if no module is being imported."""
    frame: FrameType | None = sys._getframe()
    module = None
    while frame is not None:
        if module is None and frame.f_code.co_name == "<module>":
            module = frame.f_globals.get("__name__")
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return module or "a module"
        frame = frame.f_back
    return None
