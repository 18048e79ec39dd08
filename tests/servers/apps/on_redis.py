"""The guarded application that GUARDED names, with its sessions in the Redis at REDIS_URL, as `on_redis:app`."""

import importlib
import os

from users_session_manager import SessionManager

SessionManager(store=os.environ["REDIS_URL"])
module = importlib.import_module(os.environ["GUARDED"])
if module.__name__ == "guarded_django":
    from django.core.wsgi import get_wsgi_application

    app = get_wsgi_application()
else:
    app = module.app
