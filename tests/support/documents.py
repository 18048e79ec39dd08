"""The pages in `docs/`, and the site that is made of them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(page: str) -> list[str]:
    """Return the blocks of a page, `frameworks/flask.md`, or of one of its sections, `how-to/step-up.md#Flask`."""
    name, _, heading = page.partition("#")
    text = (DOCS / name).read_text()
    if heading:
        [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def build_site(folder: Path) -> None:
    """Build the site in a folder; a warning, such as one of a dead link, is an error."""
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "--keep-going", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def new_django_users(*names: str) -> list[Any]:
    """Return users of the project of the tests, with `lasagne` as password, in place of those that it has."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    get_user_model().objects.all().delete()
    return [get_user_model().objects.create_user(name, password="lasagne") for name in names]
