"""The Django integration in the tests of a project."""

from __future__ import annotations

import subprocess
import sys
import unittest
from typing import Any

import pytest
from web_sites import set_up_django

pytest.importorskip("django")

from django.contrib.auth import get_user_model
from django.http import JsonResponse
from django.test import Client, TestCase, override_settings
from django.urls import path

from users_session_manager import SessionManager
from users_session_manager.integrations.django import session_required

set_up_django()

urlpatterns = [path("guarded", session_required(lambda request: JsonResponse({"name": request.user.get_username()})))]


def project_tests(others: int = 0) -> list[type[TestCase]]:
    """Return classes that pytest does not find by itself; other processes have begun so many sessions."""

    class LogIn(TestCase):
        """Each test logs the same user in, who may have one session."""

        @classmethod
        def setUpTestData(cls) -> None:
            cls.user = get_user_model().objects.create_user("luca of a class")

        def log_in(self) -> None:
            assert len(SessionManager().sessions) == others
            self.client.force_login(self.user)
            assert self.client.get("/guarded").status_code == 200

        test_one = test_two = log_in

    class LogInAgain(LogIn):
        """Another class, whose users have the same primary keys."""

    class LogInForClass(TestCase):
        """A login of the class is there in each of its tests."""

        @classmethod
        def setUpTestData(cls) -> None:
            users = get_user_model().objects
            cls.browser, cls.other = Client(), users.create_user("fabio of a class")
            cls.browser.force_login(users.create_user("luca of a class"))

        def log_in(self) -> None:
            assert len(SessionManager().sessions) == others + 1
            self.client.force_login(self.other)
            assert self.browser.get("/guarded").json() == {"name": "luca of a class"}
            assert self.client.get("/guarded").json() == {"name": "fabio of a class"}

        test_one = test_two = log_in

    return [LogIn, LogInForClass, LogInAgain]


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_apart(store: str, request: pytest.FixtureRequest) -> None:
    """Sessions do not leak from one test of a project to the next, and no listener hears of that."""
    settings: dict[str, Any] = {"MAX_SESSIONS_PER_USER": 1, "OVERFLOW": "reject"}
    if store == "redis":
        settings["STORE"] = request.getfixturevalue("redis_url")
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, project_tests()))
    with override_settings(ROOT_URLCONF=__name__, USER_SESSIONS=settings):
        SessionManager().close()
        manager, ends = SessionManager(store=settings.get("STORE")), []
        manager.on("sessionDeleted", ends.append)
        result = unittest.TestResult()
        suite.run(result)
    assert result.testsRun == 6
    assert [text for _, text in result.failures + result.errors] == []
    assert (ends, list(manager.sessions)) == ([], [])


def test_sessions_of_other_processes(redis_url: str) -> None:
    """A test ends no session that another process has begun in the same store: a server, or a parallel test."""
    code = "import sys, users_session_manager as m; print(m.SessionManager(store=sys.argv[1]).loadNewSession('anna'))"
    server = subprocess.run([sys.executable, "-c", code, redis_url], check=True, capture_output=True, text=True)
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, project_tests(others=1)))
    with override_settings(ROOT_URLCONF=__name__, USER_SESSIONS={"STORE": redis_url}):
        SessionManager().close()
        manager, result = SessionManager(store=redis_url), unittest.TestResult()
        suite.run(result)
    left = list(manager.sessions)
    manager._forget_all()  # for other tests with this Redis
    assert result.testsRun == 6
    assert [text for _, text in result.failures + result.errors] == []
    assert left == [server.stdout.strip()]
