"""The addresses of the demo. Login and logout are Django's own views."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views
from .users import DEMO_USERS

demo_users = [{"name": name, "password": password} for name, password in DEMO_USERS.items()]

urlpatterns = [
    path("", views.page, name="page"),
    path(
        "login/",
        LoginView.as_view(template_name="login.html", extra_context={"demo_users": demo_users}),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("still-here/", views.still_here, name="still-here"),
    path("logout-elsewhere/", views.logout_elsewhere, name="logout-elsewhere"),
    path("timeout/", views.set_timeout, name="timeout"),
    path("logout-everyone/", views.logout_everyone, name="logout-everyone"),
    path("socket.io-client.js", views.socket_io_client, name="socket.io-client"),
    path("admin/", admin.site.urls),
]
