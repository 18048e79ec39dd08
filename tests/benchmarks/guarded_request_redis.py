"""What a guard costs with sessions in Redis: a Flask request, bare, guarded, and with Flask-Session on the same Redis.

    python tests/benchmarks/guarded_request_redis.py [--rounds 60] [--requests 200] [--cores apart]

Flask-Session runs as it comes: a permanent session that has logged in, and whose timeout begins again with each request
as that of a guarded one does. For that it reads the session and writes it back, with its cookie; its view looks into it
for the username, and so does ours. Each has a client of its own, made from the same address; all requests carry the
same header with both cookies.

The three are called in turn, round by round, so that the machine's drift cancels. Shown are medians over the rounds, in
microseconds a request, the quartiles, and the round trips to Redis that a request takes; then the guarded request in
parts of that of Flask-Session, round by round. The redis-server is started for it, on a free port, and stopped. What
our process asks Redis by itself meanwhile, once a second, is in the times and not in the round trips.

How long a round trip takes is up to where the system puts the two processes, and the ratio with it: on one core it is
cheapest, since Redis runs when we wait; apart, as with Redis on a machine of its own, each has to wake the other.
`--cores one` and `--cores apart` keep them there, so that runs can be compared.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, abort, session
from flask_session import Session
from redis import Redis
from redis.connection import AbstractConnection
from werkzeug.test import Client, EnvironBuilder

from users_session_manager import SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, session_required

Call = Callable[[int], float]


@contextmanager
def redis_server(cores: str = "free") -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("needs redis-server on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            wait_for(port, server)
            if cores != "free":
                first, *others = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(server.pid, others[:1] if cores == "apart" else [first])
                os.sched_setaffinity(0, [first])
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    with socket.socket() as client:
        while client.connect_ex(("127.0.0.1", port)):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the redis-server did not start")
            time.sleep(0.02)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Note how many commands each send to Redis of this thread holds: each waits for its answer, so is a round trip."""
    sent: list[int] = []
    thread, send = threading.get_ident(), AbstractConnection.send_packed_command

    def noted(self: AbstractConnection, command: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            sent.append(len(command))
        return send(self, command, *args, **options)

    AbstractConnection.send_packed_command = noted  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        AbstractConnection.send_packed_command = send  # type: ignore[method-assign]


def with_flask_session(url: str) -> tuple[Flask, str]:
    """An application, and the cookie of one who has logged in."""
    app = Flask("flask_session")
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(url))
    Session(app)

    @app.post("/login")
    def login() -> str:
        session["username"] = "Luca"
        return ""

    @app.get("/")
    def view() -> dict[str, str]:
        if "username" not in session:
            abort(401)
        return {"username": session["username"]}

    return app, Client(app).post("/login").headers["Set-Cookie"].partition(";")[0]


def with_guard() -> tuple[Flask, str]:
    app = Flask("guarded")
    sessions = UserSessions(app)

    @app.post("/login")
    def login() -> str:
        sessions.sign_in("Luca")
        return ""

    @app.get("/")
    @session_required
    def view() -> dict[str, str]:
        return {"username": current_session.username}

    return app, Client(app).post("/login").headers["Set-Cookie"].partition(";")[0]


def bare() -> Flask:
    app = Flask("bare")

    @app.get("/")
    def view() -> dict[str, str]:
        return {"username": "Luca"}

    return app


def time_wsgi(application: Flask, cookies: str) -> Call:
    environ = EnvironBuilder("/", headers={"Cookie": cookies}).get_environ()

    def call(requests: int) -> float:
        answers: list[Any] = []
        begun = time.perf_counter()
        for _ in range(requests):
            answer = application(dict(environ), lambda status, headers, exc_info=None: answers.append(status))
            answers.extend(answer)
            getattr(answer, "close", lambda: None)()
        took = time.perf_counter() - begun
        assert set(answers) == {"200 OK", b'{"username":"Luca"}\n'}, set(answers)
        return took / requests

    return call


def round_trips(call: Call) -> int:
    call(1)  # connects
    with counted() as sent:
        call(10)
    assert len(sent) % 10 == 0, sent
    return len(sent) // 10


def measure(url: str, rounds: int, requests: int) -> None:
    SessionManager(store=url)
    (theirs, their_cookie), (ours, our_cookie) = with_flask_session(url), with_guard()
    cookies = f"{their_cookie}; {our_cookie}"
    applications = {"bare": bare(), "guarded": ours, "Flask-Session": theirs}
    calls = {name: time_wsgi(application, cookies) for name, application in applications.items()}
    trips = {name: round_trips(call) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(call(requests) * 1e6)
    print(f"{'':16}{'median':>10}{'quartiles':>20}{'round trips':>14}")
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"{name:16}{middle:10.1f}{f'{low:.1f} to {high:.1f}':>20}{trips[name]:14}")
    ratios = [our / their for our, their in zip(taken["guarded"], taken["Flask-Session"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    part = trips["guarded"] / trips["Flask-Session"]
    print(f"{'in parts of it':16}{middle:10.2f}{f'{low:.2f} to {high:.2f}':>20}{part:14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--requests", type=int, default=200, help="requests a round")
    parser.add_argument("--cores", choices=["free", "apart", "one"], default="free", help="where both run; on Linux")
    options = parser.parse_args()
    with redis_server(options.cores) as url:
        measure(url, options.rounds, options.requests)
        SessionManager().close()


if __name__ == "__main__":
    main()
