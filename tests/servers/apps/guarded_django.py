"""A Django project in one file, with a login and guarded views; `python -m guarded_django runserver` serves it."""

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

from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from events import silence, ticks

from users_session_manager import SessionManager, StoreUnavailable, TooManySessions
from users_session_manager.integrations import django as sessions
from users_session_manager.integrations.django import session_required

LASTING = {"Cache-Control": "public, max-age=3600"}


def login(request, name="Luca"):
    """Start a session of a user that Django does not know, whose key is enough in either place."""
    return JsonResponse({"session_key": SessionManager().loadNewSession(name)})


def logout(request):
    return JsonResponse({"ended": SessionManager().deleteSession(request.user_session.key)})


@session_required
def guarded(request):
    return JsonResponse({"username": request.user_session.username})


@session_required
def lasting(request):
    """It says itself what caches may do."""
    return JsonResponse({"username": request.user_session.username}, headers=LASTING)


@session_required
def file(request):
    return FileResponse(open(__file__, "rb"))  # the response closes it


@session_required(passive=True)
def stream(request):
    return StreamingHttpResponse(sessions.stream(request, ticks()), content_type="text/event-stream")


@session_required(passive=True)
async def async_stream(request):
    return StreamingHttpResponse(sessions.stream(request, silence()), content_type="text/event-stream")


@session_required(max_age=0)
def recent(request):
    return JsonResponse({})


def too_many(request):
    raise TooManySessions("too many")


def unavailable(request):
    raise StoreUnavailable("no answer")


def public(request):
    return JsonResponse({}, headers=LASTING)


urlpatterns = [path("login", login), path("login/<name>", login)]
urlpatterns += [path(view.__name__.replace("_", "-"), view) for view in (guarded, lasting, file, recent, too_many)]
urlpatterns += [path("unavailable", unavailable), path("public", public)]
urlpatterns += [path("stream", stream), path("async-stream", async_stream), path("logout", logout)]

app, asgi = get_wsgi_application(), get_asgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
