"""Show who is online, and log every open tab out the moment its session ends: with Django's own login and admin.

Run it with `python examples/django_project/app.py` and open the address it prints.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import django
from django.core.management import call_command
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
    django.setup()
    call_command("migrate", verbosity=0)
    from demo.live import manager  # these need Django, set up
    from demo.users import create_demo_users
    from demo.wsgi import application
    from shared.command_line import read_options

    port = read_options(manager, __doc__, port=8000)
    create_demo_users()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each request
    server = make_server("127.0.0.1", port, application, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
