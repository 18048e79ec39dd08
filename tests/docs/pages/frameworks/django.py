"""Cells that the test of docs/frameworks/django.md runs beside its blocks."""

# %% before: INSTALLED_APPS = [
import re

import django
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings
from django.urls import include, path

django.setup()
call_command("migrate", verbosity=0)
get_user_model().objects.all().delete()
get_user_model().objects.create_user("luca", password="lasagne")
get_user_model().objects.create_user("fabio", password="focaccia")
LUCA = {"username": "luca", "password": "lasagne"}
FABIO = {"username": "fabio", "password": "focaccia"}
from users_session_manager import MemoryStore, SessionManager

SessionManager().close()
time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)


def turn(seconds):
    global time_now
    time_now += seconds
    store.run_due()


in_the_tests = settings.INSTALLED_APPS, settings.MIDDLEWARE


# %% after: INSTALLED_APPS = [
def found(**settings):
    all_settings = {"INSTALLED_APPS": INSTALLED_APPS, "MIDDLEWARE": MIDDLEWARE, "STATIC_URL": "static/", **settings}
    with override_settings(**all_settings):
        return [one.id.partition(".")[2] for one in run_checks() if one.id.startswith("users_session_manager.")]


sessions_of_django, ours, auth_of_django = MIDDLEWARE[1], MIDDLEWARE[2], MIDDLEWARE[5]
assert found() == []
assert found(USER_SESSIONS={"TIMOUT": 60}) == found(USER_SESSIONS={"TIMEOUT": "60"}) == ["E001"]
assert found(MIDDLEWARE=[sessions_of_django, auth_of_django]) == ["E002"]
assert found(MIDDLEWARE=[ours, sessions_of_django, auth_of_django]) == ["E003"]
assert found(MIDDLEWARE=[sessions_of_django, ours]) == ["E003"]
assert found(MIDDLEWARE=[sessions_of_django, auth_of_django, ours]) == ["W001"]
assert found(USER_SESSIONS={"PASSIVE": ["no-such-name", "/a-path/"]}) == ["W002"]
assert found(USER_SESSIONS={"COOKIE": "login"}) == ["W003"]
assert found(USER_SESSIONS={"COOKIE_DOMAIN": "example.com"}) == ["W004"]
assert found(USER_SESSIONS={"COOKIE_DOMAIN": "example.com"}, SESSION_COOKIE_DOMAIN=".example.com") == []
without = {"INSTALLED_APPS": INSTALLED_APPS[:-1], "MIDDLEWARE": MIDDLEWARE}
for wrong, text in (
    ({**without}, "'users_session_manager.integrations.django' has to be in INSTALLED_APPS"),
    ({"USER_SESSIONS": {"TIMOUT": 60}}, "TIMOUT"),
    ({"MIDDLEWARE": [sessions_of_django, ours]}, "AuthenticationMiddleware"),
):
    changed = override_settings(**{"INSTALLED_APPS": INSTALLED_APPS, "MIDDLEWARE": MIDDLEWARE, **wrong})
    with changed, pytest.raises(ImproperlyConfigured, match=text):
        Client().get("/")

# %% before: from shop import views
import sys
import tempfile
import types
from pathlib import Path

from documents import DOCS

sys.modules["shop"] = shop = types.ModuleType("shop")
shop.views = types.SimpleNamespace(home=home, logout_others=logout_others)
templates = Path(tempfile.mkdtemp())
[login_html, home_html, *_] = re.findall(
    "^```html\n(.*?)^```$", (DOCS / "frameworks" / "django.md").read_text(), re.DOTALL | re.MULTILINE
)
(templates / "registration").mkdir()
(templates / "registration" / "login.html").write_text(login_html)
(templates / "home.html").write_text(home_html)
with_templates = [{**settings.TEMPLATES[0], "DIRS": [templates]}]
static_files = override_settings(STATIC_URL="static/")
static_files.enable()

# %% after: from shop import views
static_files.disable()
sys.modules["shop.urls"] = shop.urls = types.ModuleType("shop.urls")
shop.urls.urlpatterns = urlpatterns
project = {
    "INSTALLED_APPS": INSTALLED_APPS,
    "MIDDLEWARE": MIDDLEWARE,
    "ROOT_URLCONF": "shop.urls",
    "TEMPLATES": with_templates,
    "STATIC_URL": "static/",
    "LOGIN_URL": LOGIN_URL,
    "LOGOUT_REDIRECT_URL": LOGOUT_REDIRECT_URL,
    "LOGIN_REDIRECT_URL": LOGIN_REDIRECT_URL,
}
with override_settings(**project):
    browser, other = Client(), Client()
    for client in (browser, other):
        assert client.get("/")["Location"] == "/login/?next=/"
        assert b"password" in client.get("/login/").content
        assert client.post("/login/", LUCA)["Location"] == "/"
    page = browser.get("/").content.decode()
    assert "You are luca." in page and 'src="/static/users_session_manager/user-sessions.js"' in page
    assert browser.get("/logout-others/").status_code == 405
    assert browser.post("/logout-others/")["Location"] == "/"
    assert other.get("/")["Location"] == "/login/?next=/"
    assert browser.post("/logout/")["Location"] == "/login/"
    assert SessionManager().getLoggedUsers() == []

# %% after: django_application = get_asgi_application()
assert "session_key" in io.handlers["/"] and SessionManager().getSocketReference() is io
sys.modules["shop.asgi"] = shop.asgi = types.ModuleType("shop.asgi")

# %% after: IS_TEST = "test" in sys.argv or "pytest" in sys.modules
assert USER_SESSIONS == {"STORE": None}  # as pytest runs this
USER_SESSIONS = {"STORE": "sqlite:///sessions.sqlite3"}
from users_session_manager.integrations.django import cookie_name

assert found(USER_SESSIONS={"USERNAME": "nickname"}) == found(USER_SESSIONS={"STORE": "127.0.0.1"}) == ["E001"]
ALL_SETTINGS = {"TIMEOUT": 20 * 60, "LIFETIME": 12 * 60 * 60, "MAX_SESSIONS_PER_USER": 5, "WARNING": 60}
PASSIVE = ["notifications:unread", "/poll/"]
SessionManager().close()
with override_settings(USER_SESSIONS=USER_SESSIONS | ALL_SETTINGS | {"PASSIVE": PASSIVE}, BASE_DIR=templates):
    call_command("check")
    Client().force_login(get_user_model().objects.get(username="luca"))
    manager = SessionManager()
    assert (templates / "sessions.sqlite3").exists() and manager.getLoggedUsers() == ["luca"]
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (20 * 60, 12 * 60 * 60)
    assert cookie_name() == "__Host-session_key"
    manager.close()
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)

# %% after: class HomeTest(TestCase):
import unittest

get_user_model().objects.filter(username="luca").delete()  # the test makes one
with override_settings(**project):
    result = unittest.TestResult()
    detach = attach(socketio.AsyncServer(async_mode="asgi"))  # that of the page had the manager which is closed
    unittest.defaultTestLoader.loadTestsFromTestCase(HomeTest).run(result)
    assert (result.testsRun, result.errors, result.failures) == (3, [], [])
    detach()
get_user_model().objects.create_user("luca", password="lasagne")

# %% after: MONTH = 30 * 24 * 60 * 60
from django.contrib.auth import login, logout
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt


def session_of_page(request):
    session = request.user_session
    return JsonResponse({"hello": "stranger" if session is None else session.username})


def sign_in_view(request):
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponseForbidden()
    login(request, user)
    return JsonResponse({"session_key": request.user_session.key})


def sign_out_view(request):
    logout(request)
    return JsonResponse({})


@login_required
def inbox(request):
    return HttpResponse(f"The inbox of {request.user}")


@session_required
def elsewhere(request):
    return JsonResponse({"ended": sign_out_elsewhere(request)})


urls = (
    path("profile", profile),
    path("unread", unread),
    path("home", session_of_page, name="home"),
    path("in", sign_in_view),
    path("out", sign_out_view),
    path("inbox", inbox),
    path("messages", messages),
    path("cart", csrf_exempt(put_into_cart)),
    path("poll/", inbox),
    path("notifications/", include(([path("unread/", inbox, name="unread")], "notifications"))),
    path("remember", remember_me),
    path("elsewhere", elsewhere),
)
site = override_settings(INSTALLED_APPS=INSTALLED_APPS, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=urls, STATIC_URL="static/")
site.enable()
manager = SessionManager()


def browser_of(user=LUCA):
    browser = Client()
    browser.key = browser.post("/in", user).json()["session_key"]
    return browser


def by_key(key, page="/profile"):
    return Client().get(page, headers={"Session-Key": key})


def is_in(browser):
    return browser.get("/inbox").status_code == browser.get("/profile").status_code == 200


def is_out(browser):
    return (browser.get("/inbox").status_code, browser.get("/profile").status_code) == (302, 401)


browser = Client()
assert browser.get("/profile").json() == {"logout": True}
assert browser.get("/home").json() == {"hello": "stranger"}
assert browser.post("/in", {"username": "luca", "password": "wrong"}).status_code == 403
browser = browser_of()
key = browser.key
assert browser.get("/profile").json() == {"username": "luca"} == by_key(key).json()
assert browser.get("/profile")["Cache-Control"] == "no-store, private"
with override_settings(USER_SESSIONS={"PASSIVE": PASSIVE}):
    for passive_page in ("/unread", "/messages", "/notifications/unread/", "/poll/"):
        turn(100)
        assert browser.get(passive_page).status_code == 200
    assert manager.getSessionTimeLeft(key) == 2600
for active_page in ("/inbox", "/profile", "/home"):
    turn(100)
    assert browser.get(active_page).status_code == 200 and manager.getSessionTimeLeft(key) == 3000
assert browser.get("/cart").json() == {"cart": ["lasagne"]}
manager.setSessionData(key, None)
client = Client(enforce_csrf_checks=True)
assert client.post("/profile", headers={"Session-Key": key}).status_code == 403
assert client.post("/cart", headers={"Session-Key": key}).status_code == 200
alone = Client()
alone.cookies["__Host-session_key"] = key
assert is_out(alone)
del browser.cookies["__Host-session_key"]
assert browser.get("/inbox").cookies["__Host-session_key"].value == key
assert browser.get("/inbox", headers={"Session-Key": manager.loadNewSession("luca")}).status_code == 302
assert browser.get("/inbox", headers={"Session-Key": f"{key}, {key}"}).status_code == 302
assert is_in(browser)
copied = browser.cookies["sessionid"].value
turn(3000)
assert is_out(browser)
for engine in ("db", "signed_cookies"):
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        browser = browser_of()
        copied, key = browser.cookies["sessionid"].value, browser.key
        manager.deleteSession(key)
        thief = Client()
        thief.cookies["sessionid"] = copied
        assert is_out(thief) and is_out(browser)
browser = browser_of()
browser.post("/out")
assert is_out(browser) and manager.getLoggedUsers() == []

browser, other = browser_of(), browser_of()
first, copied = browser.key, browser.cookies["sessionid"].value
assert browser.get("/cart").json() == {"cart": ["lasagne"]}
second = browser.post("/in", LUCA).json()["session_key"]
assert set(manager.sessions) == {second, other.key} and first != second and copied != browser.cookies["sessionid"].value
assert browser.get("/cart").json() == {"cart": ["lasagne", "lasagne"]} and by_key(first).status_code == 401
third = browser.post("/in", FABIO).json()["session_key"]
assert set(manager.sessions) == {third, other.key}
browser.post("/in", LUCA)
assert browser.post("/remember", {"username": "luca", "password": "x"}).status_code == 403
assert browser.post("/remember", LUCA).cookies["__Host-session_key"]["max-age"] > MONTH
assert browser.post("/elsewhere").json() == {"ended": 1} and is_out(other)
turn(MONTH - 1)
assert is_in(browser) and manager.deleteAllSessions()

# %% after: for session in get_user_sessions(luca):
from django.contrib.auth.models import AnonymousUser

luca, fabio = (get_user_model().objects.get(username=name) for name in ("luca", "fabio"))
browser, other, fabios = browser_of(), browser_of(), browser_of(FABIO)
assert manager.getSession(browser.key).userId == str(luca.pk) and manager.getSession(browser.key).username == "luca"
assert (
    [one["key"] for one in get_user_sessions(luca)]
    == [browser.key, other.key]
    == [one["key"] for one in manager.getUserSessions(str(luca.pk))]
)
luca.username = "luca.r"
luca.save()
fabio.username = "luca"
fabio.save()
assert is_in(browser) and is_in(other) and browser.get("/inbox").content == b"The inbox of luca.r"
assert browser.get("/profile").json() == {"username": "luca.r"} and browser.get("/home").json() == {"hello": "luca"}
assert delete_user_sessions(fabio) == 1 and is_out(fabios) and is_in(browser)
assert delete_user_sessions(luca.pk, except_key=browser.key) == 1 and is_in(browser) and is_out(other)
fabio.username = "fabio"
fabio.save()
luca.username, luca.first_name = "luca", "Luca"
luca.save()
with override_settings(USER_SESSIONS={"USERNAME": "first_name"}):
    assert browser_of().get("/home").json() == {"hello": "Luca"}
for wrong in (None, "luca", object(), AnonymousUser(), get_user_model()(username="unsaved")):
    for call in (get_user_sessions, delete_user_sessions):
        with pytest.raises(ValueError, match="neither a user"):
            call(wrong)
assert manager.deleteAllSessions()

from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.test.utils import isolate_apps

with isolate_apps("django.contrib.auth"):

    class Staff(User):
        class Meta:
            proxy = True
            app_label = "auth"


def flush(request):
    request.session.flush()
    return HttpResponse()


@login_required
def change_password(request):
    request.user.set_password("lasagne")
    request.user.save()
    if "keep" in request.GET:
        update_session_auth_hash(request, request.user)
    return HttpResponse()


def fresh():
    User.objects.filter(username="luca").delete()
    luca = User.objects.create_user("luca", password="lasagne")
    return luca, browser_of(), browser_of(), browser_of(FABIO)


def unusable(user):
    user.set_unusable_password()
    user.save()


def deactivate(user):
    user.is_active = False
    user.save()


ended = []
manager.on("sessionEnded", lambda session, reason: ended.append(session.username))
with override_settings(ROOT_URLCONF=(*urls, path("flush", flush), path("change", change_password))):
    for clear in ("/flush", "/out"):
        luca, first, second, fabios = fresh()
        first.post(clear)
        assert is_out(first) and is_in(second) and by_key(first.key).status_code == 401
    for change in (
        unusable,
        deactivate,
        User.delete,
        lambda user: deactivate(Staff.objects.get(pk=user.pk)),
        lambda user: Staff.objects.get(pk=user.pk).delete(),
        lambda user: User.objects.filter(pk=user.pk).delete(),
        lambda user: (setattr(user, "password", make_password("x")), user.save()),
    ):
        luca, first, second, fabios = fresh()
        ended.clear()
        change(luca)
        assert ended == ["luca", "luca"] and is_out(first) and is_out(second) and is_in(fabios)
        assert by_key(first.key).status_code == 401
    for update in ({"password": make_password("x")}, {"is_active": False}):
        luca, first, second, fabios = fresh()
        ended.clear()
        User.objects.filter(pk=luca.pk).update(**update)
        assert ended == [] and by_key(first.key).status_code == 401 and ended == ["luca"]
        assert is_out(first) and is_out(second) and is_in(fabios)
    luca, first, second, fabios = fresh()
    first.post("/change?keep")
    assert is_in(first) and is_out(second) and is_in(fabios) and by_key(first.key).status_code == 401
    luca, first, second, fabios = fresh()
    assert first.post("/change").status_code == 200
    assert is_out(first) and is_out(second) and is_in(fabios)
    luca, first, second, fabios = fresh()
    luca.username, luca.is_staff = "luca.r", True
    luca.save()
    assert is_in(first) and is_in(second)
    luca.username = "luca"
    luca.save()
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert is_in(first)
    with override_settings(SECRET_KEY="another", SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        assert by_key(second.key).status_code == 401
manager.remove_all_listeners("sessionEnded")
assert manager.deleteAllSessions()
from watched_store import WatchedStore


def fail(request):
    login(request, User.objects.get(username="luca"))
    return HttpResponse(status=500)


HTML = {"Accept": "text/html"}
LIMITED = {"MAX_SESSIONS_PER_USER": 1, "OVERFLOW": "reject"}
form = LoginView.as_view(template_name="login.html")
(templates / "login.html").write_text("{{ form.errors }}")
(templates / "503.html").write_text("Our own page")
more_urls = (*urls, path("pay", session_required(max_age=60)(session_of_page)), path("form", form), path("fail", fail))
with override_settings(ROOT_URLCONF=more_urls, TEMPLATES=with_templates):
    assert Client().get("/profile", headers=HTML)["Location"] == "/accounts/login/?next=/profile"
    browser = browser_of()
    turn(61)
    page = browser.get("/pay", headers=HTML)
    assert page.status_code == 403 and page.content.startswith(b"<!doctype html>")
    assert browser.get("/pay").json() == {"reauthenticate": True}
    with override_settings(USER_SESSIONS=LIMITED):
        refused = Client()
        assert refused.post("/in", LUCA).json() == {"tooManySessions": True}
        assert is_out(refused)
        page = Client().post("/in", LUCA, headers=HTML)
        assert page.status_code == 409 and b"signed in as often" in page.content
        page = Client().post("/form", LUCA)
        assert page.status_code == 200 and b"signed in as often" in page.content
    manager.setMaxSessionsPerUser(None)
    failed = Client(raise_request_exception=False)
    assert failed.post("/fail").status_code == 500 and is_out(failed)
    manager.close()
    away = WatchedStore()
    manager = SessionManager(store=away)
    browser = browser_of()
    away.unreachable = True
    for page in ("/profile", "/home", "/inbox"):
        answer = browser.get(page)
        assert (answer.status_code, answer.json()) == (503, {"unavailable": True}), (page, answer)
        assert browser.get(page, headers=HTML).content == b"Our own page"
    away.unreachable = False
manager.close()
store = MemoryStore(now=lambda: time_now, thread=False)
manager = SessionManager(store=store)

# %% after: async def hello(request):
from asgiref.sync import async_to_sync
from django.test import AsyncClient

browser = browser_of()
key = browser.key
carts = (path("cart", put_into_cart), path("async-cart", put_into_cart_async))
with override_settings(ROOT_URLCONF=carts):
    post = async_to_sync(AsyncClient().post)
    assert post("/cart").status_code == post("/async-cart").status_code == 401
    assert post("/cart", headers={"Session-Key": key}).json() == {"cart": ["lasagne"]}
    assert post("/async-cart", headers={"Session-Key": key}).json() == {"cart": ["lasagne", "pesto"]}


@session_required
async def profile_async(request):
    user = await request.auser()
    return JsonResponse({"username": request.user_session.username, "email": user.email})


with override_settings(ROOT_URLCONF=(path("profile", profile_async), path("home", hello))):
    client = AsyncClient()
    get = async_to_sync(client.get)
    assert get("/profile").status_code == 401
    assert get("/home").json() == {"hello": "stranger"}
    assert get("/home", headers={"Session-Key": key}).json() == {"hello": "luca"}
    assert get("/profile", headers={"Session-Key": key}).json() == {"username": "luca", "email": ""}
    client.cookies = browser.cookies
    assert get("/profile").json() == {"username": "luca", "email": ""}

# %% after: async def headlines():
from users_session_manager.integrations.django import stream


def orders():
    yield "number,dish\n"
    for number, dish in enumerate(["lasagne", "pesto"], 1):
        yield f"{number},{dish}\n"


@session_required
def export_orders(request):
    return StreamingHttpResponse(stream(request, orders()), content_type="text/csv")


manager = SessionManager()


async def listen(key):
    answer = await AsyncClient().get("/headlines", headers={"Session-Key": key})
    events = aiter(answer)
    first = asyncio.create_task(anext(events))
    while not listeners:
        await asyncio.sleep(0)
    [mine] = listeners
    mine.put_nowait("lasagne")
    assert await first == b"data: lasagne\n\n"
    asyncio.get_running_loop().call_soon(manager.deleteSession, key)
    assert [event async for event in events] == []
    assert listeners == set()


with override_settings(ROOT_URLCONF=(path("headlines", stream_headlines), path("orders", export_orders))):
    key = manager.loadNewSession("luca")
    answer = iter(Client().get("/orders", headers={"Session-Key": key}))
    assert [next(answer), next(answer)] == [b"number,dish\n", b"1,lasagne\n"]
    manager.deleteSession(key)
    assert list(answer) == []
    async_to_sync(listen)(manager.loadNewSession("luca"))

# %% after: django_application = get_wsgi_application()
from django.core.asgi import get_asgi_application

assert "session_key" in io.handlers["/"] and manager.getSocketReference() is io
asynchronous = socketio.AsyncServer(async_mode="asgi")
detach = attach(asynchronous)
socketio.ASGIApp(asynchronous, get_asgi_application())
assert "session_key" in asynchronous.handlers["/"]
detach()
io.shutdown()
manager.initSocketReference(None)
browser, key_of_django = browser_of(), browser.cookies["sessionid"].value
without = browser.session
old = without.pop("_user_session_key")
without.save()
manager.deleteAllSessions()
assert is_in(browser) and manager.getLoggedUsers() == ["luca"]
earlier = manager.loadNewSession("luca", data="kept")
changed = browser.session
changed["_user_session_key"] = earlier
changed.save()
browser.cookies["__Host-session_key"] = earlier
assert by_key(earlier).status_code == 200
assert is_in(browser) and manager.findSession(earlier) is None
assert by_key(earlier).status_code == 401
site.disable()
connection.close()
manager.close()
assert in_the_tests == (settings.INSTALLED_APPS, settings.MIDDLEWARE)
