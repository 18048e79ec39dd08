"""`flask --app developed_flask run --debug`."""

import os

import socketio
from developed_site import io
from guarded_flask import app

app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)


@app.after_request
def name_process(response):
    response.headers["Process"] = os.getpid()
    return response
