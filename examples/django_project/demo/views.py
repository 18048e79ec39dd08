"""The page and what its buttons do. Each view says for itself whom it lets in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST
from socket_io_client import CDN, INTEGRITY, fetch

from users_session_manager.integrations.django import session_required

from .live import list_for, manager, push_lists

View = Callable[[HttpRequest], HttpResponse]

CLIENT_SCRIPT = fetch(settings.INSTANCE)


@session_required
def page(request: HttpRequest) -> HttpResponse:
    client = {"src": "/socket.io-client.js" if CLIENT_SCRIPT else CDN, "integrity": INTEGRITY}
    push_lists()  # opening the page has prolonged the session: the other tabs show it
    context = {"client": client, "sessions": list_for(request.user_session.key), "timeout": manager.getSessionTimeout()}
    return render(request, "page.html", context)


@require_POST
@session_required
def still_here(_: HttpRequest) -> HttpResponse:
    push_lists()  # the guard has restarted the timer already
    return JsonResponse({})


def staff_only(view: View) -> View:
    """Let only those through who may enter the admin; `request.user` is Django's, and ends with the session."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request)

    return require_POST(session_required(guarded))


@staff_only
def set_timeout(request: HttpRequest) -> HttpResponse:
    try:
        taken = manager.setSessionTimeOut(float(request.POST.get("seconds", "")))
    except ValueError:
        taken = False
    if not taken:
        return JsonResponse({"error": f"It has to be at least {manager.MIN_SESSION_TIMEOUT} seconds."}, status=400)
    return JsonResponse({"done": f"Set to {manager.getSessionTimeout():g} seconds."})


@staff_only
def logout_everyone(_: HttpRequest) -> HttpResponse:
    manager.deleteAllSessions()
    return JsonResponse({})


def socket_io_client(_: HttpRequest) -> FileResponse:
    if CLIENT_SCRIPT is None:
        raise Http404
    return FileResponse(CLIENT_SCRIPT.open("rb"), content_type="text/javascript")


def harden(get_response: View) -> View:
    """Middleware that says what our pages may load; the admin's are Django's own business."""
    policy = (
        f"default-src 'none'; script-src 'self'{'' if CLIENT_SCRIPT else ' ' + CDN}; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not request.path.startswith("/admin/"):
            response.headers["Content-Security-Policy"] = policy
        return response

    return answer
