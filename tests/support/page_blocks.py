"""The Python blocks of a page."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(page: str) -> list[str]:
    """Return the blocks of a page, `frameworks/flask.md`, or of one of its sections, `how-to/step-up.md#Flask`."""
    name, _, heading = page.partition("#")
    text = (DOCS / name).read_text()
    if heading:
        [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
