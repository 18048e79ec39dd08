"""Cells that the test of docs/how-to/coming-from-django-sessions.md runs beside its blocks."""

# %% after: INSTALLED_APPS = [
import django
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.core.checks import run_checks
from django.core.management import call_command
from django.http import JsonResponse
from django.test import Client, override_settings
from django.urls import path

from users_session_manager import MemoryStore, SessionManager

django.setup()
call_command("migrate", verbosity=0)
from users_session_manager.integrations.django import delete_user_sessions, get_user_sessions

get_user_model().objects.all().delete()
luca = get_user_model().objects.create_user("luca", password="lasagne")
page = login_required(lambda request: JsonResponse({"cart": request.session.get("cart")}))
shared = {"ROOT_URLCONF": (path("cart", page),), "SESSION_COOKIE_AGE": SESSION_COOKIE_AGE}
without_ours = [name for name in MIDDLEWARE if "users_session_manager" not in name]
browser = Client()
browser.force_login(luca)
with override_settings(**shared, MIDDLEWARE=without_ours):
    visit = browser.session
    visit["cart"] = ["pesto"]
    visit.pop("_user_session_key", None)  # a login from before the library was there has none
    visit.save()
    assert browser.get("/cart").json() == {"cart": ["pesto"]}
now = dict(shared, INSTALLED_APPS=INSTALLED_APPS, MIDDLEWARE=MIDDLEWARE, USER_SESSIONS=USER_SESSIONS)
SessionManager().close()
with override_settings(**now):
    assert [one.id for one in run_checks() if one.id.startswith("users_session_manager.")] == []
    SessionManager(store=MemoryStore(now=float, thread=False))
    # A login from before the change goes on.
    cookies, browser = browser.cookies, Client()  # which reads MIDDLEWARE anew
    browser.cookies = cookies
    assert browser.get("/cart").json() == {"cart": ["pesto"]}
    [session] = get_user_sessions(luca)
    assert session["timeLeft"] == SESSION_COOKIE_AGE
    assert delete_user_sessions(luca) == 1
    assert browser.get("/cart").status_code == 302
