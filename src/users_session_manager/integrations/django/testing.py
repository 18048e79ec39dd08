"""Keeps the sessions of one test of a project out of the next, as Django does with the rows of its database."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from ...errors import StoreUnavailable
from ...keys import is_foreign
from ...stores.memory import MemoryStore
from . import conf

# The sessions that were there before the test that runs: those of its class.
_kept: frozenset[str] = frozenset()


def watch() -> None:
    """End the sessions of a test with it, silently, if tests are run; a second time is harmless."""
    cases = sys.modules.get("django.test.testcases")
    if cases is None or hasattr(cases.SimpleTestCase, "forgets_sessions"):
        return
    case = cases.SimpleTestCase
    case.forgets_sessions = True
    # Test runners call these two, and pytest-django does so for functions.
    before, after = vars(case)["_pre_setup"], case._post_teardown

    def pre_setup(test: Any) -> None:
        kind: Any = test if isinstance(test, type) else type(test)
        if "forgets_sessions" not in vars(kind):
            kind.forgets_sessions = True
            kind.addClassCleanup(_forget, of_class=True)
        _remember()
        before.__get__(None if test is kind else test, kind)()

    def post_teardown(test: Any) -> None:
        after(test)
        _forget()

    case._pre_setup = classmethod(pre_setup) if isinstance(before, classmethod) else pre_setup  # one since Django 5.2
    case._post_teardown = post_teardown


def _remember() -> None:
    global _kept
    with suppress(StoreUnavailable):  # a test has stopped it
        _kept = frozenset(conf.manager().sessions)


def _forget(*, of_class: bool = False) -> None:
    manager, kept = conf.manager(), frozenset[str]() if of_class else _kept
    with suppress(StoreUnavailable):
        if not kept and isinstance(manager._store, MemoryStore):
            manager._forget_all()
        for key in set(manager.sessions) - kept:
            if not is_foreign(key):  # those of a server, and of tests that run in parallel, are in the same store
                manager._store.remove(key)
