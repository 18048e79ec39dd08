"""Cells that the test of docs/how-to/log-out-everywhere.md runs beside its blocks."""

# %% after: laptop = manager.loadNewSession("luca", data={"browser": "Firefox on Linux"})
assert manager.getUserSessions("luca") == []

# %% before: def log_out_everywhere():
from documents import new_django_users, python_blocks

exec(python_blocks("frameworks/flask.md")[0])

# %% after: def log_out_everywhere():
site = {"base_url": "https://localhost"}
browser, other = app.test_client(), app.test_client()
for client in (browser, other):
    client.post("/login", data={"username": "luca", "password": "lasagne"}, **site)
assert browser.post("/logout-everywhere", **site).location == "/login"
for client in (browser, other):
    assert client.post("/logout-everywhere", **site).json == {"logout": True}
manager.deleteAllSessions()

# %% before: def logout_everywhere(request: Request, response: Response):
exec(python_blocks("frameworks/fastapi.md")[0])

# %% after: def logout_everywhere(request: Request, response: Response):
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient
browser, other = TestClient(app), TestClient(app)
for client in (browser, other):
    client.post("/login", data={"username": "luca", "password": "lasagne"})
manager.loadNewSession("fabio")
assert len(manager.getUserSessions("luca")) == 2
answer = browser.post("/logout-everywhere", follow_redirects=False)
assert (answer.status_code, answer.headers["location"]) == (303, "/login")
assert manager.getLoggedUsers() == ["fabio"] and not browser.cookies
manager.deleteAllSessions()

# %% before: def own_sessions(request):
luca, fabio = new_django_users("luca", "fabio")

# %% after: @admin.action(description="End all sessions of selected users", permissions=["change"])
from django.db import connection
from django.test import Client, override_settings
from django.urls import path


def browser_of(user):
    browser = Client()
    before = {*manager.sessions}
    browser.force_login(user)
    [browser.key] = {*manager.sessions} - before
    return browser


def has_ended(browser):
    return browser.get("/own").status_code == 401


urls = (
    path("own", own_sessions),
    path("end", end_own_session),
    path("everywhere", log_out_everywhere),
    path("login", lambda request: None, name="login"),
    path("admin/", admin.site.urls),
)
with override_settings(ROOT_URLCONF=urls):
    browser, other, fabios = browser_of(luca), browser_of(luca), browser_of(fabio)
    listed = browser.get("/own").json()["sessions"]
    assert [one["label"] for one in listed] == [label(browser.key), label(other.key)]
    assert [one["is_this_one"] for one in listed] == [True, False]
    assert browser.get("/end").status_code == 405
    for chosen, ended in ((fabios, 0), (other, 1)):
        assert browser.post("/end", {"label": label(chosen.key)}).json() == {"ended": ended}
    assert not has_ended(browser) and has_ended(other) and not has_ended(fabios)
    administrator = browser_of(get_user_model().objects.create_superuser("admin", password="antipasti"))
    chosen = {"action": "end_sessions", "_selected_action": [str(luca.pk)]}
    page = administrator.post("/admin/auth/user/", chosen, follow=True)
    assert b"Sessions that have ended: 1." in page.content
    assert has_ended(browser) and not has_ended(fabios) and not has_ended(administrator)
    browser, other = browser_of(luca), browser_of(luca)
    assert browser.get("/everywhere").status_code == 405
    assert manager.deleteUserSessions("luca") == 0
    assert browser.post("/everywhere")["Location"] == "/login"
    assert has_ended(browser) and has_ended(other) and not has_ended(fabios)
    browser = browser_of(luca)
    assert manager.deleteUserSessions(str(luca.pk)) == 1 and has_ended(browser)
admin.site.unregister(get_user_model())
admin.site.register(get_user_model(), UserAdmin)
connection.close()
manager.close()
