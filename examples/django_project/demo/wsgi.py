"""Socket.IO in front of Django, which serves the static files too."""

import os

import socketio
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
django_application = StaticFilesHandler(get_wsgi_application())

from .live import io  # noqa: E402  # Django has to be set up first

application = socketio.WSGIApp(io, django_application)
