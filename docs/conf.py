"""How Sphinx makes the site: `python -m sphinx -W -n --keep-going docs FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from sphinx.application import Sphinx

from users_session_manager import __version__

settings.configure()  # or the Django integration cannot be imported

project = "users-session-manager"
author = "the authors of users-session-manager"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "users-session-manager"
html_show_copyright = False
# Sphinx looks for it in the working directory.
html_search_scorer = str(Path(__file__).with_name("search_scorer.js"))

# Headings have the anchors that GitHub gives them, so that a link works in both.
myst_heading_anchors = 4

# Docstrings put names between single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
# A method that is described by the class above it is not described again.
autodoc_inherit_docstrings = False
# As the source has it: `time.monotonic`, and no address of an object.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
# Types of other packages are no links, as the build needs no network; `View` and `Item` are type variables.
nitpick_ignore_regex = [("py:.*", r"(?!users_session_manager\b).*|.*\.(View|Item)")]


def convert_tables(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Make list tables of the Markdown tables in a docstring."""
    converted: list[str] = []
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            converted.append(line)
        elif not line.startswith("|---"):
            if not lines[number - 1].startswith("|"):
                converted += [".. list-table::", "   :header-rows: 1", ""]
            first, *others = (cell.strip() for cell in line.strip()[1:-1].split("|"))
            converted += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    lines[:] = converted


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", convert_tables, priority=1)
