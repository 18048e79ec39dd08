"""The page and the views behind its buttons. Login and logout are Django's own views."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_POST
from shared.socket_io_client import client_script

from users_session_manager.integrations.django import delete_user_sessions, session_required

CLIENT_SCRIPT = client_script()


@session_required
def page(request: HttpRequest) -> HttpResponse:
    context = {"username": request.user_session.username, "administrator": request.user.is_staff}
    return render(request, "page.html", context)


@require_POST
@session_required
def logout_everywhere(request: HttpRequest) -> HttpResponse:
    delete_user_sessions(request.user)
    return redirect("login")


@require_POST
@session_required
def logout_user(request: HttpRequest) -> JsonResponse:
    if not request.user.is_staff:
        raise PermissionDenied
    user = get_object_or_404(get_user_model(), username=str(json.loads(request.body)["username"]))
    return JsonResponse({"ended": delete_user_sessions(user)})


def scripts(_: HttpRequest) -> dict[str, Any]:
    """Give all templates, those of the admin included, the scripts that log a page out."""
    return {
        "client": CLIENT_SCRIPT,
        "user_sessions_script": static("users_session_manager/user-sessions.js"),
    }
