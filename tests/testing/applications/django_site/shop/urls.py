"""The views of a shop, which Django imports at the first request; so it does with what they listen to."""

import socketio
from django.contrib.auth import authenticate, login, logout
from django.http import HttpResponseForbidden, JsonResponse
from django.urls import path

from users_session_manager import SessionManager
from users_session_manager.integrations.django import attach, passive, session_required, sign_out_elsewhere

from .audit import note

io = socketio.Server(async_mode="threading")
attach(io)
SessionManager().on("sessionEnded", note)


def sign_in(request):
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponseForbidden()
    login(request, user)
    return JsonResponse({})


def sign_out(request):
    logout(request)
    return JsonResponse({})


@session_required
def cart(request):
    return JsonResponse({"username": request.user.get_username()})


@passive
@session_required
def unread(request):
    return JsonResponse({"messages": 0})


@session_required
async def later(request):
    return JsonResponse({"username": request.user_session.username})


@session_required
def elsewhere(request):
    return JsonResponse({"ended": sign_out_elsewhere(request)})


urlpatterns = [
    path("login", sign_in),
    path("logout", sign_out),
    path("cart", cart),
    path("unread", unread),
    path("later", later),
    path("elsewhere", elsewhere),
]
