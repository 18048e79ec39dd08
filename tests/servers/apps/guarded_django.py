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
        "users_session_manager.integrations.django.UserSessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",  # it needs no database
    USER_SESSIONS={"COOKIE_SECURE": False},
)
django.setup()

from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path

from users_session_manager import SessionManager
from users_session_manager.integrations.django import session_required


def login(request):
    """Start a session of a user that Django does not know, whose key is enough in either place."""
    return JsonResponse({"session_key": SessionManager().loadNewSession("Luca")})


@session_required
def guarded(request):
    return JsonResponse({"username": request.user_session.username})


urlpatterns = [path("login", login), path("guarded", guarded)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
