"""Django's own login and admin, with sessions that end at once: in every open page, without a reload, and in the admin.

Run it with `python examples/django_project/app.py` and open the address it prints.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import django
from django.core.management import call_command
from werkzeug.serving import make_server

from users_session_manager import SessionManager

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    options = parser.parse_args()

    sys.path.insert(0, str(HERE))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide our own
    django.setup()
    call_command("migrate", verbosity=0)

    from demo.users import create_demo_users  # these two need the applications
    from demo.wsgi import application

    manager = SessionManager()  # with what is in USER_SESSIONS
    if not manager.setSessionTimeOut(options.timeout):
        parser.error(f"--timeout has to be at least {manager.MIN_SESSION_TIMEOUT} seconds")
    create_demo_users()
    # If the port is in use, this prints an error and exits.
    server = make_server("127.0.0.1", options.port, application, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
