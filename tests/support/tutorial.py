"""The steps of the tutorial: the files that they leave, and their commands."""

import re
import shlex
from pathlib import Path

from documents import DOCS

TUTORIAL = (DOCS / "tutorial.md").read_text()
STEPS = re.split(r"^## \d\. ", TUTORIAL, flags=re.MULTILINE)
FILE = re.compile(r"(Save this as|at the end of)\s`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(folder: Path, last: int) -> None:
    """Write the files as they are after that step."""
    for step in STEPS[: last + 1]:
        for how, name, block in FILE.findall(step):
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            above = "" if how == "Save this as" else file.read_text() + "\n"
            file.write_text(above + block)


def command(step: int) -> list[str]:
    """Return the only command of a step, on a free port."""
    [found] = re.findall(r"^```bash\n(.+)\n```$", STEPS[step], re.MULTILINE)
    return shlex.split(found.replace("8000", "0"))
