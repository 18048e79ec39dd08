"""Small applications with a login and a logout by forms, one for each kind of integration, and servers for them.

Routes: `/page?policy=` has the forms, under that referrer policy; `/login?name=` and `/logout` take their posts;
`/start` asks an identity provider, which comes back to `/callback?name=`; `/me` says who is signed in. In FastAPI
`/socket` is a WebSocket of the session, which the page opens.
"""

# Without `from __future__ import annotations`: FastAPI could not see the names of a function in a text.

import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from server_process import MAX_WAIT

PAGE = """<!doctype html><title>Shop</title><h1>Shop</h1>
<form method="post" action="/login?name=luca"><button>Sign in</button></form>
<form method="post" action="/logout"><button>Sign out</button></form>
<output></output>
<script>
function connect() {
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
  const show = document.querySelector("output");
  socket.onmessage = event => { show.textContent = "connected as " + event.data };
  socket.onclose = event => { show.textContent = "closed with " + event.code };
}
</script>"""


class Shop:
    """An application, and what it was asked.

    Args:
        provider: The address to which `/start` sends a browser.
        settings: Those of the integration, in FastAPI's names.
    """

    is_asgi = False

    def __init__(self, provider: str = "", **settings: Any) -> None:
        self.provider = provider
        self.asked: list[tuple[str, int, dict[str, str]]] = []  # paths, statuses and headers of all posts
        self.application = self.build(settings)

    def build(self, settings: dict[str, Any]) -> Any:
        raise NotImplementedError


class FlaskShop(Shop):
    """With `sign_in` and `sign_out`."""

    def build(self, settings: dict[str, Any]) -> Any:
        from flask import Flask, redirect, request

        app = Flask(__name__)
        app.config["SECRET_KEY"] = "only for the tests"
        names = {"secure": "COOKIE_SECURE"}
        app.config.update({f"USER_SESSIONS_{names.get(name, name.upper())}": value for name, value in settings.items()})
        sign_in, sign_out, me = self.routes(app)

        @app.get("/page")
        def page() -> Any:
            return PAGE, {"Referrer-Policy": request.args.get("policy", "same-origin")}

        @app.post("/login")
        def login() -> str:
            sign_in(request.args["name"])
            return "signed in"

        @app.post("/logout")
        def logout() -> str:
            sign_out()
            return "signed out"

        @app.get("/start")
        def start() -> Any:
            return redirect(self.provider)

        @app.get("/callback")
        def callback() -> Any:
            sign_in(request.args["name"])
            return redirect("/me")

        @app.get("/me")
        def who() -> str:
            return me() or "nobody"

        @app.after_request
        def note(response: Any) -> Any:
            if request.method == "POST":
                self.asked.append((request.path, response.status_code, dict(request.headers)))
            return response

        return app

    def routes(self, app: Any) -> tuple[Any, Any, Any]:
        """Return what signs in, what signs out, and what says who is signed in."""
        from users_session_manager.integrations.flask import UserSessions, current_session

        sessions = UserSessions(app)
        return sessions.sign_in, sessions.sign_out, lambda: current_session and current_session.username


class FlaskLoginShop(FlaskShop):
    """With `login_user` and `logout_user`."""

    def routes(self, app: Any) -> tuple[Any, Any, Any]:
        from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user

        from users_session_manager.integrations.flask import UserSessions

        class User(UserMixin):
            def __init__(self, name: str) -> None:
                self.id = name

        login_manager = LoginManager(app)
        login_manager.user_loader(User)
        UserSessions(app, login_manager=login_manager)
        return lambda name: login_user(User(name)), logout_user, lambda: current_user.get_id()


class FastApiShop(Shop):
    """With `sign_in` and `sign_out`, and a WebSocket."""

    is_asgi = True

    def build(self, settings: dict[str, Any]) -> Any:
        from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
        from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse

        from users_session_manager.integrations.fastapi import RequestSession, UserSessions

        app, sessions = FastAPI(), UserSessions(**settings)
        sessions.install(app)

        @app.get("/page")
        def page(policy: str = "same-origin") -> Any:
            return HTMLResponse(PAGE, headers={"Referrer-Policy": policy})

        @app.post("/login")
        def login(name: str, request: Request, response: Response) -> str:
            sessions.sign_in(request, response, name)
            return "signed in"

        @app.post("/logout")
        def logout(request: Request, response: Response) -> str:
            sessions.sign_out(request, response)
            return "signed out"

        @app.get("/start")
        def start() -> Any:
            return RedirectResponse(self.provider)

        @app.get("/callback")
        def callback(name: str, request: Request) -> Any:
            response = RedirectResponse("/me")
            sessions.sign_in(request, response, name)
            return response

        @app.get("/me")
        def who(session: Annotated[RequestSession | None, Depends(sessions.optional)]) -> Any:
            return PlainTextResponse(session.username if session else "nobody")

        @app.websocket("/socket")
        async def connect(websocket: WebSocket, session: Annotated[RequestSession, Depends(sessions.current)]) -> None:
            await websocket.accept()
            await websocket.send_text(session.username)
            try:
                await websocket.receive_text()
            except WebSocketDisconnect:
                pass

        @app.middleware("http")
        async def note(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            if request.method == "POST":
                headers = {name.title(): value for name, value in request.headers.items()}
                self.asked.append((request.url.path, response.status_code, headers))
            return response

        return app


def evil_site(target: str) -> Any:
    """Return an application whose pages attack another one, in the name of their visitor.

    `/form/login` and `/form/logout` post a form, `/fetch/…` the same by a script, `/frame/…` a form in a sandbox,
    `/ping/…` has a link that notifies the other application, and `/socket` opens a WebSocket; `?policy=` is the
    referrer policy. It also is an identity provider, at `/authorize`.

    Args:
        target: The origin of the other application.
    """
    from flask import Flask, redirect, request

    app = Flask("evil")
    paths = {"login": "/login?name=attacker", "logout": "/logout"}

    @app.after_request
    def set_policy(response: Any) -> Any:
        response.headers["Referrer-Policy"] = request.args.get("policy", "unsafe-url")
        return response

    def form(action: str) -> str:
        address = f"{target}{paths[action]}"
        return f"<form method=post action='{address}'></form><script>document.forms[0].submit()</script>"

    @app.get("/form/<action>")
    def post_form(action: str) -> str:
        return form(action)

    @app.get("/frame/<action>")
    def post_from_frame(action: str) -> str:
        source = form(action).replace('"', "&quot;")
        return f'<iframe sandbox="allow-scripts allow-forms" srcdoc="{source}"></iframe>'

    @app.get("/fetch/<action>")
    def fetch(action: str) -> str:
        options = "{method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({a: 1})}"
        return f"<script>fetch('{target}{paths[action]}', {options})</script>"

    @app.get("/ping/<action>")
    def follow_link(action: str) -> str:
        return f"<a href='#' ping='{target}{paths[action]}'>A link</a><script>document.links[0].click()</script>"

    @app.get("/socket")
    def connect() -> str:
        address = target.replace("http", "ws", 1)
        return f"""<output></output><script>
            const socket = new WebSocket("{address}/socket"), show = document.querySelector("output");
            socket.onmessage = event => {{ show.textContent = "connected as " + event.data }};
            socket.onclose = event => {{ show.textContent = "closed with " + event.code }};
            </script>"""

    @app.get("/authorize")
    def ask() -> str:
        return "<form method=post><button>Allow</button></form>"

    @app.post("/authorize")
    def allow() -> Any:
        return redirect(f"{target}/callback?name=luca", 303)

    return app


class Servers:
    """Servers of applications on free ports of loopback, each on a thread of its own; `close` stops them.

    Args:
        certificate: The files of a certificate and its key, with which https is served; `None` for http.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.scheme = "http" if certificate is None else "https"
        self._files = None if certificate is None else tuple(map(str, certificate))
        self._open = ExitStack()

    def close(self) -> None:
        self._open.close()

    def listen(self) -> socket.socket:
        """Return a socket on a free port."""
        return self._open.enter_context(socket.create_server(("127.0.0.1", 0)))

    def serve(self, application: Any, listening: socket.socket, *, is_asgi: bool = False) -> None:
        """Serve an application on the port of such a socket."""
        (self._serve_asgi if is_asgi else self._serve_wsgi)(application, listening)

    def _serve_wsgi(self, application: Any, listening: socket.socket) -> None:
        from werkzeug.serving import make_server

        port, number = listening.getsockname()[1], listening.fileno()
        server = make_server("127.0.0.1", port, application, threaded=True, fd=number, ssl_context=self._files)
        self._open.callback(server.server_close)
        self._start(server.serve_forever, server.shutdown)

    def _serve_asgi(self, application: Any, listening: socket.socket) -> None:
        import uvicorn

        files = {} if self._files is None else {"ssl_certfile": self._files[0], "ssl_keyfile": self._files[1]}
        options = {"log_level": "warning", "timeout_graceful_shutdown": 1, "ws": "wsproto"}
        server = uvicorn.Server(uvicorn.Config(application, **options, **files))

        def stop() -> None:
            server.should_exit = True

        self._start(lambda: server.run(sockets=[listening]), stop)

    def _start(self, run: Any, stop: Any) -> None:
        thread = threading.Thread(target=run)
        thread.start()
        self._open.callback(thread.join, MAX_WAIT)
        self._open.callback(stop)


def origin_of(listening: socket.socket, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
