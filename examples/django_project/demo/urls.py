"""The addresses of the demo."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views
from .users import DEMO_USERS

demo_users = [{"username": username, "password": password} for username, password in DEMO_USERS.items()]

urlpatterns = [
    path("", views.page, name="page"),
    path(
        "login", LoginView.as_view(template_name="login.html", extra_context={"demo_users": demo_users}), name="login"
    ),
    path("logout", LogoutView.as_view(), name="logout"),
    path("logout-everywhere", views.logout_everywhere),
    path("logout-user", views.logout_user),
    path("admin/", admin.site.urls),
]
