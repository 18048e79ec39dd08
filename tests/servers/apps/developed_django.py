"""`python -m developed_django runserver`."""

import sys

import developed_site  # first: it chooses the store, and the project below has its middleware
import guarded_django
import socketio
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application

settings.WSGI_APPLICATION = "developed_django.application"
application = socketio.WSGIApp(developed_site.io, get_wsgi_application())
assert guarded_django.urlpatterns

if __name__ == "__main__":
    sys.modules["developed_django"] = sys.modules["__main__"]
    execute_from_command_line(sys.argv)
