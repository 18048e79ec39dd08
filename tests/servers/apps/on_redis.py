"""The guarded application that GUARDED names, with its sessions in the Redis at REDIS_URL, as `on_redis:app`.

A worker that answers a request with a `Hold` header does nothing else until a test deletes the file that it makes for
itself in the folder HELD. With SERVE_ASGI, that of Django is served as ASGI.
"""

import importlib
import os
import time

from users_session_manager import SessionManager

SessionManager(store=os.environ["REDIS_URL"])
module = importlib.import_module(os.environ["GUARDED"])


def hold() -> None:
    path = os.path.join(os.environ["HELD"], str(os.getpid()))
    with open(path, "x"):
        pass
    while os.path.exists(path):
        time.sleep(0.005)


def holding_wsgi(application):
    def wrapper(environ, start_response):
        body = application(environ, start_response)
        if "HTTP_HOLD" in environ:
            hold()
        return body

    return wrapper


def holding_asgi(application):
    async def wrapper(scope, receive, send):
        async def send_later(message):
            if message["type"] == "http.response.start":
                hold()  # with its event loop, so that it accepts no other connection
            await send(message)

        is_held = scope["type"] == "http" and b"hold" in dict(scope["headers"])
        await application(scope, receive, send_later if is_held else send)

    return wrapper


if os.environ.get("SERVE_ASGI") and module.__name__ == "guarded_django":
    app = holding_asgi(module.asgi)
elif module.__name__ == "guarded_fastapi":
    app = holding_asgi(module.app)
else:
    app = holding_wsgi(module.app)
