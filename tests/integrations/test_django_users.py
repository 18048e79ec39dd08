"""Users whom Django refuses, and users who change, with user models of several kinds.

Django reads `AUTH_USER_MODEL` once in a process, so each model has a process of its own, which runs
`django_projects.user_checks`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from interpreter import run

pytest.importorskip("django")

SUPPORT = Path(__file__).parent.parent / "support"
USER_MODELS = {
    "standard": "auth.User",
    "primary key is a UUID": "django_projects.UserWithUuid",
    "login by email address": "django_projects.UserByEmail",
    "inherits from a person": "django_projects.UserAsPerson",
}


@pytest.mark.parametrize("model", USER_MODELS)
def test_users(model):
    """A locked-out user is refused at the next request, and at once where Django sends a signal; a rename is no end.

    Each model is also changed through a proxy, and through a model that inherits from it.
    """
    ended = run(
        "import django; django.setup(); from django_projects import user_checks; user_checks.main()",
        PYTHONPATH=os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        DJANGO_SETTINGS_MODULE="django_projects.settings",
        USER_MODEL=USER_MODELS[model],
    )
    failed = ended.stdout.partition("FAILED")[1:]
    assert (ended.returncode, ended.stderr, "".join(failed)) == (0, "", "")
    assert ended.stdout.count("passed ") > 80
