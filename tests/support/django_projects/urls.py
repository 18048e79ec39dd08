"""A guarded view, and one that answers whom Django sees."""

from django.http import HttpResponse
from django.urls import path

from users_session_manager.integrations.django import session_required


@session_required
def mine(request):
    return HttpResponse(request.user_session.username)


def user(request):
    return HttpResponse(request.user.get_username())


urlpatterns = [path("mine", mine), path("user", user)]
