"""A WSGI application that signs in and out through the manager of `noting`; it answers with the number of its process.

With POSTFORK, a hook of uWSGI begins to serve in each worker.
"""

import os

from noting import manager

if os.environ.get("POSTFORK"):
    import uwsgidecorators

    uwsgidecorators.postfork(manager.serve)


def app(environ, start_response):
    path, key = environ["PATH_INFO"], environ.get("HTTP_SESSION_KEY")
    is_right = True
    if path == "/login":
        key = manager.loadNewSession("Luca", timeout=2 if environ["QUERY_STRING"] == "expires" else None)
    elif path == "/logout":
        is_right = manager.deleteSession(key)
    elif path == "/check":
        is_right = manager.findSession(key) is not None
    status = "200 OK" if is_right else "401 Unauthorized"
    start_response(status, [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {key}".encode()]
