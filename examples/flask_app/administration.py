"""The administrator's page: it shows the sessions of all users, and can end any of them."""

from __future__ import annotations

from typing import Any, Final

from activity import ActivityLog
from flask import Blueprint, Response, abort, jsonify, render_template, request
from lists import SessionLists
from werkzeug.exceptions import Forbidden

from users_session_manager.integrations.flask import UserSessions, current_session, session_required

ADMINISTRATORS: Final = frozenset({"admin"})


def administration(user_sessions: UserSessions, lists: SessionLists, log: ActivityLog) -> Blueprint:
    """Return the views below `/admin`; only the session of an administrator may use them."""
    manager = user_sessions.manager
    views = Blueprint("administration", __name__, url_prefix="/admin")

    @views.before_request
    @session_required(passive=True)
    def only_administrators() -> None:
        if current_session.username not in ADMINISTRATORS:
            abort(403)

    @views.errorhandler(Forbidden)
    def refuse(_: Forbidden) -> Any:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return render_template("refused.html"), 403
        return jsonify(error="That is for the administrator."), 403

    @views.get("")
    def page() -> str:
        return render_template("admin.html", timeout=f"{manager.getSessionTimeout():g}")

    @views.get("/sessions")
    def sessions() -> Response:
        return jsonify(lists.for_administrator(current_session.username, current_session.key))

    @views.get("/activity")
    def activity() -> Response:
        return Response(user_sessions.stream(log.events()), mimetype="text/event-stream")  # it ends with the session

    @views.post("/logout")
    def logout() -> Any:
        ended = lists.end(username(), request.json.get("session"))
        return jsonify({}) if ended else (jsonify(error="That session has ended already."), 404)

    @views.post("/logout-user")
    def logout_user() -> Response:
        return jsonify(ended=manager.deleteUserSessions(username()))

    @views.post("/logout-everyone")
    def logout_everyone() -> Response:
        manager.deleteAllSessions()
        return jsonify({})

    @views.post("/timeout")
    def timeout() -> Any:
        if not lists.set_timeout(request.json.get("seconds")):
            return jsonify(error=f"It has to be a number of at least {manager.MIN_SESSION_TIMEOUT} seconds."), 400
        return jsonify(timeout=manager.getSessionTimeout())

    return views


def username() -> str:
    """Return the username in the body of a request."""
    name = request.json.get("username")
    return name if isinstance(name, str) and name else abort(400)
