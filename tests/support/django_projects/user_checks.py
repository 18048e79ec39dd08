"""Checks of one user model, in a process of their own: Django reads `AUTH_USER_MODEL` once.

Prints a line for each check, with the traceback of one that fails. The settings are `django_projects.settings`, and
`django.setup()` comes before the import.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.core import checks as system_checks
from django.core import serializers
from django.core.management import call_command
from django.test import Client, override_settings

from django_projects.models import Employee, Person, Proxy
from users_session_manager import MemoryStore, SessionManager
from users_session_manager.integrations.django import delete_user_sessions, get_user_sessions

User = get_user_model()
NAME = User.USERNAME_FIELD
manager: SessionManager
CHECKS: list[tuple[str, Callable[[], None]]] = []


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS.append((function.__name__, function))
    return function


def sign_in(user: Any) -> tuple[Client, str]:
    before = set(manager.sessions)
    client = Client()
    client.force_login(user)
    (key,) = set(manager.sessions) - before
    return client, key


def as_employee(user: Any) -> Any:
    """Return the user as one of the inheriting model, which has a row for it from then on."""
    link = Employee._meta.get_ancestor_link(User)
    employee = Employee(**{link.attname: user.pk}, desk="7")
    employee.save_base(raw=True)
    return Employee.objects.get(pk=user.pk)


def with_key(key: str) -> Client:
    return Client(headers={"Session-Key": key})


# Ways to lock a user out. Those of SILENT send none of Django's signals.


def deactivate(user: Any) -> None:
    user.is_active = False
    user.save()


def deactivate_field(user: Any) -> None:
    user.is_active = False
    user.save(update_fields=["is_active"])


def delete(user: Any) -> None:
    user.delete()


def delete_selected(user: Any) -> None:
    type(user).objects.filter(pk=user.pk).delete()


def set_password(user: Any) -> None:
    user.set_password("new")
    user.save()


def set_hash(user: Any) -> None:
    user.password = make_password("new")
    user.save(update_fields=["password"])


def set_unusable_password(user: Any) -> None:
    user.set_unusable_password()
    user.save()


def deactivate_silently(user: Any) -> None:
    type(user).objects.filter(pk=user.pk).update(is_active=False)


def set_hash_silently(user: Any) -> None:
    type(user).objects.filter(pk=user.pk).update(password=make_password("new"))


def set_hash_in_bulk(user: Any) -> None:
    user.password = make_password("new")
    type(user).objects.bulk_update([user], ["password"])


def delete_rows(user: Any) -> None:
    models = [type(user)._meta.concrete_model, User]
    for model in dict.fromkeys(models):
        model.objects.filter(pk=user.pk)._raw_delete("default")


def rename(user: Any) -> None:
    setattr(user, NAME, "gianluca@example.org")
    user.save()


def rename_then_deactivate(user: Any) -> None:
    rename(user)
    deactivate(user)


def rename_and_deactivate(user: Any) -> None:
    user.is_active = False
    rename(user)


def rename_then_set_password(user: Any) -> None:
    rename(user)
    set_password(user)


def rename_then_delete(user: Any) -> None:
    rename(user)
    user.delete()


def delete_person(user: Any) -> None:
    Person.objects.get(pk=user.pk).delete()


def delete_persons(user: Any) -> None:
    Person.objects.filter(pk=user.pk).delete()


SILENT = [deactivate_silently, set_hash_silently, set_hash_in_bulk, delete_rows]
AT_ONCE = [deactivate, deactivate_field, delete, delete_selected, set_password, set_hash, set_unusable_password]
AT_ONCE += [rename_then_deactivate, rename_and_deactivate, rename_then_set_password, rename_then_delete]
if issubclass(User, Person):
    AT_ONCE += [delete_person, delete_persons]
VIEWS_OF_USER: dict[str, Callable[[Any], Any]] = {
    "user": lambda user: user,
    "proxy": lambda user: Proxy.objects.get(pk=user.pk),
    "employee": as_employee,
}
PASSAGES = [("user", "header"), *((view, "cookies") for view in VIEWS_OF_USER)]


def lock_out(way: Callable[[Any], None], view: str, presents: str) -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    other, others_key = sign_in(User.objects.create_user("fabio@example.org", password="focaccia"))
    browser, key = sign_in(user)
    client = {"cookies": browser, "header": with_key(key)}[presents]
    assert client.get("/mine").content == b"luca@example.org"
    way(VIEWS_OF_USER[view](user))
    if way in AT_ONCE:
        assert list(manager.sessions) == [others_key], "the session goes on until the next request"
    answer = client.get("/mine")
    assert (answer.status_code, answer.json()) == (401, {"logout": True}), answer
    assert list(manager.sessions) == [others_key]
    assert browser.get("/user").content == b""
    assert other.get("/mine").content == other.get("/user").content == b"fabio@example.org"


def lock_out_of_django(way: Callable[[Any], None]) -> None:
    """The first request after the change is one at a page that Django alone guards."""
    user = User.objects.create_user("luca@example.org", password="lasagne")
    browser, _ = sign_in(user)
    way(user)
    assert browser.get("/user").content == b""
    assert list(manager.sessions) == []


for each in [*AT_ONCE, *SILENT]:
    CHECKS.append((f"{each.__name__} at Django's page", lambda way=each: lock_out_of_django(way)))
    for view, presents in PASSAGES:
        name = f"{each.__name__} through {view} by {presents}"
        CHECKS.append((name, lambda way=each, view=view, presents=presents: lock_out(way, view, presents)))


# Changes that lock no user out


def goes_on(change: Callable[[Any], Any], **changes: Any) -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    with override_settings(**changes):
        browser, key = sign_in(user)
        change(user)
        assert list(manager.sessions) == [key]
        assert with_key(key).get("/mine").status_code == 200
        assert browser.get("/mine").status_code == browser.get("/user").status_code == 200
        assert browser.get("/user").content
        assert list(manager.sessions) == [key]


@check
def saved_as_it_was() -> None:
    for view in VIEWS_OF_USER.values():
        User.objects.all().delete()
        goes_on(lambda user, view=view: view(user).save())


@check
def renamed() -> None:
    for view in VIEWS_OF_USER.values():
        User.objects.all().delete()
        goes_on(lambda user, view=view: rename(view(user)))


@check
def is_no_employee_any_more() -> None:
    """The row of the inheriting model is deleted, and that of the user is kept."""
    goes_on(lambda user: as_employee(user).delete(keep_parents=True))


@check
def row_of_employee_loaded() -> None:
    """A fixture has the fields of the inheriting model alone, so no password."""

    def load(user: Any) -> None:
        text = serializers.serialize("json", [as_employee(user)])
        for found in serializers.deserialize("json", text):
            found.save()

    goes_on(load)


@check
def inactive_whom_the_backend_lets_in() -> None:
    backends = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    goes_on(deactivate, AUTHENTICATION_BACKENDS=backends)


class PermissionBackend:
    """A backend as some packages add it to a project: it has no users."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        return None


@check
def backend_without_users() -> None:
    backends = [f"{__name__}.PermissionBackend", "django.contrib.auth.backends.ModelBackend"]
    with override_settings(AUTHENTICATION_BACKENDS=backends):
        user = User.objects.create_user("luca@example.org", password="lasagne")
        client = Client()
        client.force_login(user, backends[1])
        (key,) = manager.sessions
        assert with_key(key).get("/mine").status_code == 200
        delete_rows(user)
        assert with_key(key).get("/mine").status_code == 401


@check
def secret_key_rotated() -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    browser, key = sign_in(user)
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["only for the tests"]):
        user.save()
        assert with_key(key).get("/mine").status_code == 200
        assert browser.get("/mine").status_code == 200


# Names


@check
def rename_changes_nothing() -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    browser, key = sign_in(user)
    rename(user)
    newcomer = User.objects.create_user("luca@example.org", password="minestrone")
    assert browser.get("/user").content == b"gianluca@example.org"
    assert browser.get("/mine").status_code == with_key(key).get("/mine").status_code == 200
    assert get_user_sessions(newcomer) == []
    newcomers, newcomers_key = sign_in(newcomer)
    assert newcomers.get("/user").content == newcomers.get("/mine").content == b"luca@example.org"
    assert [one["key"] for one in get_user_sessions(user)] == [key]
    assert [one["key"] for one in get_user_sessions(newcomer)] == [newcomers_key]
    set_password(newcomer)
    assert list(manager.sessions) == [key]
    newcomer.delete()
    assert browser.get("/mine").status_code == 200


@check
def name_of_deleted_user_is_taken() -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    browser, key = sign_in(user)
    delete_rows(user)
    newcomer = User.objects.create_user("luca@example.org", password="lasagne")
    if newcomer.pk != user.pk:  # else it is the same user to Django too, but for the password
        assert get_user_sessions(newcomer) == []
    assert with_key(key).get("/mine").status_code == browser.get("/mine").status_code == 401
    assert manager.getLoggedUsers() == []


@check
def cap_counts_by_user_id() -> None:
    with limited(1, "reject"):
        user = User.objects.create_user("luca@example.org", password="lasagne")
        sign_in(user)
        rename(user)
        sign_in(User.objects.create_user("luca@example.org", password="lasagne"))
        assert len(manager.sessions) == 2


@contextmanager
def limited(number: int, overflow: str) -> Iterator[None]:
    manager.setMaxSessionsPerUser(number, overflow)
    try:
        yield
    finally:
        manager.setMaxSessionsPerUser(None)


@check
def sessions_of_a_user() -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    _, others_key = sign_in(User.objects.create_user("fabio@example.org", password="focaccia"))
    keys = [sign_in(user)[1] for _ in range(3)]
    for who in (user, user.pk, str(user.pk), Proxy.objects.get(pk=user.pk), as_employee(user)):
        assert [one["key"] for one in get_user_sessions(who)] == keys, who
        assert [one["username"] for one in get_user_sessions(who)] == ["luca@example.org"] * 3
    assert delete_user_sessions(user, except_key=keys[1]) == 2
    assert [one["key"] for one in get_user_sessions(user)] == keys[1:2]
    assert delete_user_sessions(user.pk) == 1
    assert delete_user_sessions(Proxy.objects.get(pk=user.pk)) == 0
    assert list(manager.sessions) == [others_key]


@check
def shown_name() -> None:
    user = User.objects.create_user("luca@example.org", password="lasagne")
    User.nickname, User.blank, User.number = lambda self: "Luca", "", property(lambda self: 7)
    for option, shown in (
        ("nickname", "Luca"),
        ("number", "7"),
        ("blank", "luca@example.org"),
        (NAME, user.get_username()),
    ):
        with override_settings(USER_SESSIONS={"USERNAME": option}):
            browser, _ = sign_in(user)
            assert browser.get("/mine").content == shown.encode(), option
            assert [one["username"] for one in get_user_sessions(user)] == [shown]
        manager.deleteAllSessions()
    with override_settings(USER_SESSIONS={"USERNAME": "no_such"}):
        (problem,) = [one for one in system_checks.run_checks() if one.id == "users_session_manager.E001"]
        assert "USERNAME" in problem.msg
        assert "no_such" in problem.msg


def main() -> None:
    global manager
    call_command("migrate", run_syncdb=True, verbosity=0)
    failed = [problem for problem in system_checks.run_checks() if "users_session_manager" in problem.id]
    assert not failed, failed
    manager = SessionManager(store=MemoryStore(thread=False))
    for name, function in CHECKS:
        User.objects.all().delete()
        Person.objects.all().delete()
        manager.deleteAllSessions()
        try:
            function()
        except Exception:  # noqa: BLE001  # the test of the model reports all of them
            print("FAILED", name, traceback.format_exc(limit=-3), sep="\n")
        else:
            print("passed", name)
