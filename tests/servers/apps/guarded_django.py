"""A Django project in one file, with a login and a guarded view; `python -m guarded_django runserver` serves it."""

import sys

import django
from django.conf import settings

settings.configure(
    DEBUG=True,
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "users_session_manager.integrations.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "users_session_manager.integrations.django.UserSessionMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USER_SESSIONS={"COOKIE_SECURE": False},
)
django.setup()

from django.contrib.auth import get_user_model
from django.contrib.auth import login as sign_in
from django.core.management import call_command, execute_from_command_line
from django.http import JsonResponse
from django.urls import path

from users_session_manager.integrations.django import session_required


def login(request):
    call_command("migrate", verbosity=0)
    user, _ = get_user_model().objects.get_or_create(username="Luca")
    sign_in(request, user)
    return JsonResponse({"session_key": request.user_session.key})


@session_required
def guarded(request):
    return JsonResponse({"username": request.user_session.username})


urlpatterns = [path("login", login), path("guarded", guarded)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
