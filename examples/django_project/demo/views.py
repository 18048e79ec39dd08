"""The page and the views behind its buttons. Each view declares its own guard."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST
from shared.pages import client_tag, content_security_policy
from shared.socket_io_client import fetch

from users_session_manager.integrations.django import session_required, sign_out_elsewhere

from .live import list_for_key, manager, push_lists

View = Callable[[HttpRequest], HttpResponse]

CLIENT_SCRIPT = fetch()


@session_required
def page(request: HttpRequest) -> HttpResponse:
    push_lists()  # this request has restarted the session, and the other tabs show its time left
    context = {
        "username": request.user_session.username,
        "sessions": list_for_key(request.user_session.key),
        "timeout": f"{manager.getSessionTimeout():g}",
    }
    return render(request, "page.html", context)


@require_POST
@session_required
def still_here(_: HttpRequest) -> HttpResponse:
    push_lists()  # the guard has restarted the session
    return JsonResponse({})


@require_POST
@session_required
def logout_elsewhere(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"ended": sign_out_elsewhere(request)})


def staff_only(view: View) -> View:
    """Guard a view for users who may open the admin. `request.user` is Django's own, and ends with the session."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request)

    return require_POST(session_required(guarded))


@staff_only
def set_timeout(request: HttpRequest) -> HttpResponse:
    try:
        valid = manager.setSessionTimeOut(float(request.POST.get("seconds", "")))
    except ValueError:
        valid = False
    if not valid:
        return JsonResponse({"error": f"It has to be at least {manager.MIN_SESSION_TIMEOUT} seconds."}, status=400)
    return JsonResponse({"timeout": manager.getSessionTimeout()})


@staff_only
def logout_everyone(_: HttpRequest) -> HttpResponse:
    manager.deleteAllSessions()
    return JsonResponse({})


def socket_io_client(_: HttpRequest) -> FileResponse:
    if CLIENT_SCRIPT is None:
        raise Http404
    return FileResponse(CLIENT_SCRIPT.open("rb"), content_type="text/javascript")


def client(_: HttpRequest) -> dict[str, Any]:
    """Give all templates, those of the admin included, the tag that loads socket.io-client."""
    return {"client": client_tag(CLIENT_SCRIPT)}


def harden(get_response: View) -> View:
    """Add a security policy to our own pages. Those of the admin have more to load."""
    policy = content_security_policy(CLIENT_SCRIPT)

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not request.path.startswith("/admin/"):
            response.headers["Content-Security-Policy"] = policy
        return response

    return answer


def show_restart(get_response: View) -> View:
    """Let the pages show the time that is left after a request of the admin, which has restarted the session too."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if request.path.startswith("/admin/"):
            push_lists()
        return response

    return answer
