"""A Socket.IO server of the mode that its argument names, on a free port, that a test controls by HTTP.

`POST /do` takes `{"what": ..., "key": ..., "sid": ...}` and answers JSON. Prints its port when it listens.
"""

import sys

MODE = sys.argv[1]
if MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif MODE == "eventlet":
    import warnings

    warnings.simplefilter("ignore")  # that eventlet is nearing its end is known
    import eventlet

    eventlet.monkey_patch()

import json

import socketio

from users_session_manager import MemoryStore, SessionManager
from users_session_manager.integrations.socketio import attach

OPTIONS = {"ping_interval": 1}  # a client that polls leaves no sooner than its poll is answered

store = MemoryStore()
manager = SessionManager(store=store)
manager.on("error", lambda error, details: None)


def expire(key):
    store.restart(key, 0.01)


def evict():
    manager.setMaxSessionsPerUser(1)
    manager.loadNewSession("Luca")
    manager.setMaxSessionsPerUser(None)


def warn(key):
    manager.setExpiryWarning(2 * manager.getSessionTimeout())  # so that it is due at once
    manager.restartSessionTimer(key)
    manager.setExpiryWarning(None)


ACTIONS = {
    "login": lambda order: manager.loadNewSession("Luca"),
    "expires": lambda order: expire(order["key"]),
    "deleteSession": lambda order: manager.deleteSession(order["key"]),
    "deleteAllSessions": lambda order: manager.deleteAllSessions(),
    "sendLogoutMessage": lambda order: manager.sendLogoutMessage(order["key"]),
    "deleteUserSessions": lambda order: manager.deleteUserSessions("Luca", order.get("except")),
    "evicted": lambda order: evict(),
    "restarted": lambda order: manager.restartSessionTimer(order["key"]),
    "renewed": lambda order: manager.renewSessionKey(order["key"], order.get("overlap", 0)),
    "warned": lambda order: warn(order["key"]),
}


def wsgi_application(emit):
    def application(environ, start_response):
        order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        if order["what"] == "mark":
            emit("mark", to=order["sid"])
            answer = True
        else:
            answer = ACTIONS[order["what"]](order)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    return application


def serve_threading():
    from werkzeug.serving import make_server

    io = socketio.Server(async_mode="threading", **OPTIONS)
    attach(manager, io)
    server = make_server("127.0.0.1", 0, socketio.WSGIApp(io, wsgi_application(io.emit)), threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def serve_gevent():
    from gevent import pywsgi

    io = socketio.Server(async_mode="gevent", **OPTIONS)
    attach(manager, io)
    server = pywsgi.WSGIServer(("127.0.0.1", 0), socketio.WSGIApp(io, wsgi_application(io.emit)), log=None)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


def serve_eventlet():
    io = socketio.Server(async_mode="eventlet", **OPTIONS)
    attach(manager, io)
    listener = eventlet.listen(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    eventlet.wsgi.server(listener, socketio.WSGIApp(io, wsgi_application(io.emit)), log_output=False)


def serve_flask_socketio():
    import flask
    import flask_socketio
    from werkzeug.serving import make_server

    app = flask.Flask(__name__)
    io = flask_socketio.SocketIO(app, async_mode="threading", **OPTIONS)
    attach(manager, io)

    @app.post("/do")
    def do():
        order = flask.request.get_json()
        if order["what"] == "mark":
            io.emit("mark", to=order["sid"])
            return flask.jsonify(True)
        return flask.jsonify(ACTIONS[order["what"]](order))

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def serve_asgi():
    import asyncio
    import socket

    import uvicorn

    io = socketio.AsyncServer(async_mode="asgi", **OPTIONS)
    attach(manager, io)

    async def application(scope, receive, send):
        if scope["type"] != "http":
            return
        order = json.loads((await receive())["body"])
        if order["what"] == "mark":
            await io.emit("mark", to=order["sid"])
            answer = True
        elif order.get("thread"):
            answer = await asyncio.to_thread(ACTIONS[order["what"]], order)
        else:
            answer = ACTIONS[order["what"]](order)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(io, application), log_level="error"))
    asyncio.run(server.serve(sockets=[listener]))


{
    "threading": serve_threading,
    "gevent": serve_gevent,
    "eventlet": serve_eventlet,
    "flask_socketio": serve_flask_socketio,
    "asgi": serve_asgi,
}[MODE]()
