"""The web frameworks alike, by real requests to the same site in each of them."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from foreign_key import foreign_key
from watched_store import WatchedStore
from web_sites import MAX_AGE, ONE_OF_EACH, SITES, UNKNOWN, Answer, Site

from users_session_manager import Session, SessionManager

COOKIE = "__Host-session_key"
DEAD = (None, "", "Luca", UNKNOWN)


def header(key: str) -> dict[str, str]:
    return {"Session-Key": key}


def cookie(key: str, name: str = COOKIE) -> dict[str, str]:
    return {"Cookie": f"{name}={key}"}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site], manager: SessionManager) -> Site:
    """A site of each framework once with a listener to `error` and once without: guards must not depend on it."""
    site = make_site(request.param)
    if site.is_async:
        manager.on("error", lambda *_: None)
    return site


def assert_rejected(answer: Answer) -> None:
    """The cookie stays: another one may have come since the request was sent, see `test_late_answers.py`."""
    assert (answer.status, answer.json, answer.cookie) == (401, {"logout": True}, None), answer.headers


def deletes(answer: Answer) -> bool:
    """Return whether the browser forgets the cookie: it takes the deletion only with the attributes of the cookie."""
    morsel = answer.cookie
    if morsel is None or morsel.value != "":
        return False
    assert morsel["max-age"] == "0" or "1970" in morsel["expires"]
    assert (morsel["path"], morsel["samesite"].lower(), morsel["domain"]) == ("/", "lax", "")
    assert bool(morsel["secure"]) is morsel.key.startswith("__Host-")
    return True


def assert_sets(answer: Answer, key: str, name: str = COOKIE, max_age: str = "") -> None:
    """The cookie is for the server alone."""
    morsel = answer.cookie
    assert morsel is not None
    assert (morsel.key, morsel.value, morsel["max-age"]) == (name, key, max_age)
    assert (morsel["path"], morsel["samesite"].lower(), morsel["domain"]) == ("/", "lax", "")
    assert (bool(morsel["httponly"]), bool(morsel["secure"])) == (True, name.startswith("__Host-"))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings and errors in the library's log, but for the one about a listener to `error`."""
    found = [each for each in caplog.records if each.name == "users_session_manager"]
    lines = [each.getMessage() for each in found if each.levelno >= logging.WARNING]
    return [line for line in lines if "`error` has a listener" not in line]


def is_live(manager: SessionManager, key: str) -> bool:
    return manager.getUsernameFromSessionKey(key) is not False


class TestGuard:
    def test_live_key(self, site, manager, clock):
        """A live key in the header or else the cookie passes, and restarts the idle timeout."""
        key = manager.loadNewSession("Luca", data="cart")
        for headers in (header(key), header(f" {key} "), cookie(key), cookie(f"{key}; a=b"), header(key) | cookie("x")):
            clock.turn(1000)
            answer = site.get("/me", headers)
            assert (answer.status, answer.json) == (200, {"username": "Luca", "data": "cart"})
            assert answer.cookie is None
            assert manager.getSessionTimeLeft(key) == 3000

    def test_passive(self, site, manager, clock):
        """A passive view lets the session be; so does one that is not guarded, but in Django."""
        key = manager.loadNewSession("Luca")
        clock.turn(1000)
        assert site.get("/passive", header(key)).json["username"] == "Luca"
        assert manager.getSessionTimeLeft(key) == 2000
        assert site.get("/open", header(key)).status == 200
        left = 3000 if site.every_request_prolongs else 2000
        assert manager.getSessionTimeLeft(key) == left
        clock.turn(left)
        assert_rejected(site.get("/passive", header(key)))

    @pytest.mark.parametrize("path", ["/me", "/passive", "/recent"])
    def test_dead_key(self, site, manager, path):
        """Everything but a live key is answered 401."""
        ended, live = manager.loadNewSession("Luca"), manager.loadNewSession("Luca")
        manager.deleteSession(ended)
        assert_rejected(site.get(path))
        for key in (ended, UNKNOWN, "", "Luca", "x" * 5000, live[:-1], live.lower(), f"{live}x"):
            assert_rejected(site.get(path, header(key)))
        for key in (ended, UNKNOWN, "Luca", live[:-1]):
            assert_rejected(site.get(path, cookie(key)))
            assert_rejected(site.get(path, header(key) | cookie(key)))
        assert is_live(manager, live)

    def test_own_ended_key(self, site, manager, clock, caplog):
        """A key that this process has issued is no sign of another one, so nothing is logged.

        So with one that was deleted, has expired, was evicted or was renewed.
        """
        manager.setMaxSessionsPerUser(3)
        keys = [manager.loadNewSession("Luca") for _ in range(4)]
        manager.deleteSession(keys[1])
        keys.append(manager.renewSessionKey(keys[2]))
        clock.turn(3000)
        for key in keys:
            assert not manager.isForeign(key)
            assert_rejected(site.get("/me", cookie(key)))
            assert_rejected(site.get("/me", header(key)))
        assert warnings_in(caplog) == []

    def test_key_of_another_process(self, site, manager, caplog):
        """With sessions in memory, a key of another process is rejected: it may be live there.

        The log says so once, whatever carries the key, and that is all it says.
        """
        keys = [foreign_key() for _ in range(3)]
        for key in keys:
            assert manager.isForeign(key)
            for path in ("/me", "/passive", "/recent"):
                answers = [site.get(path, carry(key)) for carry in (cookie, header)]
                answers.append(site.get(path, header(UNKNOWN) | cookie(key)))
                for answer in answers:
                    assert_rejected(answer)
            answer = site.get("/optional", cookie(key))
            assert (answer.status, answer.json, answer.cookie) == (200, {"username": None}, None)
        (warning,) = warnings_in(caplog)
        assert "another process" in warning
        assert "SessionManager(store=...)" in warning
        assert "docs/how-to/production.md" in warning

    @pytest.mark.parametrize("store_kind", ["redis"])
    def test_key_of_another_process_on_redis(self, site, manager, caplog):
        """In a store that processes share, it is a key like any other: nothing is logged if it has no session."""
        assert_rejected(site.get("/me", cookie(foreign_key())))
        assert warnings_in(caplog) == []

    def test_almost_a_key(self, site, manager, caplog):
        """A value that only looks like a key of another process is none, so nothing is logged."""
        key = foreign_key()
        old_form = re.sub(r"-[a-z2-7]{4}_", "_", key)
        for odd in (key[:-1], f"{key}0", key.lower(), key.replace("-", "_"), old_form):
            assert_rejected(site.get("/me", cookie(odd)))
        assert warnings_in(caplog) == []

    def test_expired_key(self, site, manager, clock):
        """A session that has expired is rejected at its deadline, announced or not."""
        key = manager.loadNewSession("Luca")
        clock.seconds += 3000
        assert_rejected(site.get("/me", cookie(key)))
        clock.turn(0)
        assert_rejected(site.get("/me", header(key)))

    def test_doubled_header(self, site, manager):
        """A header that is sent twice, joined or empty is no key, and does not leave the word to the cookie."""
        key = manager.loadNewSession("Luca")
        for values in ([key, key], [key, "x"], ["x", key], [f"{key},{key}"], [f"{key}, x"], [""]):
            headers = [("Session-Key", value) for value in values]
            assert_rejected(site.get("/me", headers))
            assert_rejected(site.get("/me", [*headers, *cookie(key).items()]))  # and the cookie is live
        assert site.get("/me", cookie(key)).status == 200

    def test_key_elsewhere(self, site, manager):
        """A key in the URL, or under a name that only looks like ours, is none."""
        key = manager.loadNewSession("Luca")
        assert_rejected(site.get("/me", {}, session_key=key, **{"Session-Key": key}))
        assert_rejected(site.get("/me", {"Session": key, "X-Session-Key": key}))
        for name in ("session_key", "__Secure-session_key", "session"):
            assert_rejected(site.get("/me", cookie(key, name)))

    def test_no_key_is_no_event(self, site, heard):
        """A request without a key is rejected without an event."""
        assert_rejected(site.get("/me"))
        assert heard.events == []

    def test_other_key_rejected(self, site, manager):
        """The session of a cookie stays when another key is rejected."""
        live = cookie(manager.loadNewSession("Luca"))
        assert_rejected(site.get("/me", header(UNKNOWN) | live))
        assert_rejected(site.get("/looks-up", live))
        assert site.get("/me", live).status == 200

    def test_optional(self, site, manager):
        """A view that is open to all has the session of the request, or none."""
        key = manager.loadNewSession("Luca")
        for headers in (header(key), cookie(key)):
            assert site.get("/optional", headers).json == {"username": "Luca"}
        manager.deleteSession(key)
        for headers in ({}, header(key), cookie(key), header(UNKNOWN)):
            answer = site.get("/optional", headers)
            assert (answer.status, answer.json) == (200, {"username": None})
            assert answer.cookie is None  # a request with the new key may be under way

    def test_end_during_request(self, site, manager):
        """A session that ends during the request stays readable; writing to it is rejected."""
        keys = [manager.loadNewSession("Luca") for _ in range(3)]
        answer = site.get("/ends", header(keys[0]))
        assert (answer.status, answer.json) == (200, {"username": "Luca"})
        assert_rejected(site.get("/ends-and-writes", header(keys[1])))
        assert_rejected(site.get("/ends-and-writes", cookie(keys[2])))
        assert manager.getLoggedUsers() == []

    def test_data(self, site, manager):
        """A view can store data with its session."""
        key = manager.loadNewSession("Luca")
        assert site.post("/writes", header(key), data="cart").json == {"data": "cart"}
        assert manager.getSessionData(key) == site.get("/me", header(key)).json["data"] == "cart"

    def test_update(self, site, manager):
        """A view can change the data of its session; what it changes is what is there, not what it has read."""
        key = manager.loadNewSession("Luca")
        assert site.post("/updates", header(key), data="lasagne").json == {"answer": ["lasagne"], "data": ["lasagne"]}
        assert site.post("/updates", cookie(key), data="pesto").json["answer"] == ["lasagne", "pesto"]
        assert manager.getSessionData(key) == site.get("/me", header(key)).json["data"] == ["lasagne", "pesto"]

    def test_update_of_ended(self, site, manager):
        """An update of a session that ends during the request is rejected."""
        keys = [manager.loadNewSession("Luca") for _ in range(2)]
        assert_rejected(site.post("/ends-and-updates", header(keys[0])))
        assert_rejected(site.post("/ends-and-updates", cookie(keys[1])))

    def test_former_key(self, site, manager, clock):
        """A key that was renewed is as good as the new one until its overlap is over."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=10)
        clock.turn(9.5)
        for key in (old, new):
            answer = site.get("/me", cookie(key))
            assert (answer.json["username"], answer.cookie) == ("Luca", None)
        clock.turn(0.5)
        assert_rejected(site.get("/me", cookie(old)))
        assert site.get("/me", cookie(new)).status == 200

    def test_no_store(self, site, manager):
        """No cache stores what a guarded view answers, nor a refusal."""
        key = manager.loadNewSession("Luca")
        for path, headers in (("/me", header(key)), ("/me", {}), ("/passive", header(key)), ("/ends", cookie(key))):
            assert "no-store" in site.get(path, headers).header("Cache-Control")
        assert site.get("/open").header("Cache-Control") == ""


# Cookies of scripts and other servers beside ours; in latin-1, as servers decode what browsers send in UTF-8.
OTHER_COOKIES = (
    "theme=dark",
    'prefs={"dark":true}',
    "seen[]=1",
    "a b=c",
    "consent=é".encode().decode("latin-1"),
    "flag",
    'x="unclosed',
    "tracking={a:1};n=1,2",
    "path=/x",
    "expires=never",
    "domain=3",
    "$Version=1",
    "=nameless",
    ";;",
    f"last={COOKIE}",
    f"X{COOKIE}=x",
)


class TestCookies:
    """One parser reads our cookie, for every framework and for the handshake of Socket.IO."""

    @pytest.mark.parametrize("other", OTHER_COOKIES)
    def test_beside_others(self, site, manager, other):
        """No other cookie hides ours."""
        key = manager.loadNewSession("Luca")
        for line in (f"{other}; {COOKIE}={key}", f"{COOKIE}={key}; {other}", f'{other};{COOKIE}="{key}" ; {other}'):
            assert site.get("/me", {"Cookie": line}).json["username"] == "Luca"

    def test_first_value(self, site, manager):
        """The first of several values counts."""
        keys = [manager.loadNewSession(name) for name in ("Luca", "Fabio")]
        for first, second in (keys, keys[::-1]):
            answer = site.get("/me", cookie(f"{first}; {COOKIE}={second}"))
            assert answer.json["username"] == manager.getSession(first).username
        for dead in (UNKNOWN, ""):
            assert site.get("/me", cookie(f"{dead}; {COOKIE}={keys[0]}")).status == 401

    def test_not_our_name(self, site, manager):
        """A name that browsers distinguish is another cookie: any site of the domain may set it."""
        key = manager.loadNewSession("Luca")
        for name in (
            f"\xa0{COOKIE}",
            f"\x85{COOKIE}",
            f"{COOKIE}\xa0",
            COOKIE.lower(),
            f'"{COOKIE}"',
            f"$Version=1,{COOKIE}",
        ):
            assert_rejected(site.get("/me", cookie(key, name)))

    @pytest.mark.parametrize("name", ["fastapi", "fastapi-async", "django-asgi"])
    def test_several_headers(self, make_site, manager, name):
        """Over HTTP/2, browsers send each cookie in a header of its own."""
        site, key = make_site(name), manager.loadNewSession("Luca")
        for pairs in ([("Cookie", "a=b"), *cookie(key).items()], [*cookie(key).items(), ("Cookie", "a=b")]):
            assert site.get("/me", pairs).status == 200


class TestMaxAge:
    """`/recent` is for logins of the last hour, by the clock of the store."""

    @pytest.fixture(autouse=True)
    def long_timeout(self, manager: SessionManager) -> None:
        manager.setSessionTimeOut(2e9)

    def test_recent_login(self, site, manager, clock):
        """A login is recent up to the very second."""
        key, login = manager.loadNewSession("Luca"), clock.seconds
        for age in (0.0, 59.9, float(MAX_AGE)):
            clock.seconds = login + age
            assert site.get("/recent", cookie(key)).json["username"] == "Luca"

    def test_old_login(self, site, manager, clock):
        """An older login is answered 403, one in the future too, since a clock was set back; and nothing ends."""
        key, login = manager.loadNewSession("Luca"), clock.seconds
        for age in (MAX_AGE + 0.1, 1e9, -0.1, -500.0):
            clock.seconds = login + age
            answer = site.get("/recent", cookie(key))
            assert (answer.status, answer.json, answer.cookie) == (403, {"reauthenticate": True}, None)
            assert site.get("/me", cookie(key)).status == 200

    def test_odd_time(self, site, manager, monkeypatch):
        """A time of the login in the future, or none, is no recent login."""
        key = manager.loadNewSession("Luca")
        now = time.time()
        for at, status in ((now - 60, 200), (now + 60, 403), (-1e12, 403), (math.nan, 403), (math.inf, 403)):
            session = Session("Luca", key, 1000.0, at)
            monkeypatch.setattr(manager, "resumeSession", lambda _, session=session: session)
            assert site.get("/recent", cookie(key)).status == status, at

    def test_clock_of_the_machine(self, site, manager, clock, monkeypatch):
        """Setting the clock of the machine makes no login older or newer: sessions in memory do not ask it."""
        keys = [manager.loadNewSession("Luca")]
        clock.turn(MAX_AGE + 1)
        keys.append(manager.loadNewSession("Luca"))
        unix = time.time()
        for offset in (0, -1e6, -MAX_AGE, -1, 1, MAX_AGE, 1e6):
            monkeypatch.setattr(time, "time", lambda offset=offset: unix + offset)
            assert [site.get("/recent", cookie(key)).status for key in keys] == [403, 200], offset

    def test_renewal(self, site, manager, clock, monkeypatch):
        """A renewal of the key or another login makes it recent again; a request does not."""
        for path, query in (("/renew", {}), ("/login", {"name": "Luca"})):
            monkeypatch.setattr(time, "time", lambda: 1000.0)
            old = site.start_session("Luca")
            clock.turn(MAX_AGE + 1)
            monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
            assert site.get("/me", cookie(old)).status == 200
            assert site.get("/recent", cookie(old)).status == 403
            key = site.post(path, cookie(old), **query).json["key"]
            session = manager.getSession(key)
            assert (session.createdAt, session.authenticatedAt) == (1000.0, 1_000_000.0)
            assert session.authenticationAge == 0
            assert site.get("/recent", cookie(key)).status == 200

    def test_rejected(self, site, manager):
        """Without a live session it is a rejection like any other."""
        for key in DEAD:
            assert_rejected(site.get("/recent", {} if key is None else header(key)))
        assert_rejected(site.get("/recent", cookie(UNKNOWN)))


class TestSignIn:
    def test_new_session(self, site, manager):
        """A login begins a session, with its data, and sets the cookie."""
        for headers in ({}, header("x"), cookie(UNKNOWN), header(UNKNOWN) | cookie("x")):
            answer = site.post("/login", headers, name="Luca", data="cart")
            key = answer.json["key"]
            assert (answer.json["username"], manager.getSessionData(key)) == ("Luca", "cart")
            assert_sets(answer, key)
            assert manager.getLoggedUsers() == ["Luca"]
            assert UNKNOWN not in manager.sessions
            manager.deleteSession(key)

    @pytest.mark.parametrize("carry", [header, cookie])
    def test_same_user(self, site, manager, heard, clock, carry):
        """The session of the same user goes on under a new key, with its data and a full timeout."""
        old = site.start_session("Luca", data="cart")
        manager.sessions[old].createdAt = manager.sessions[old].authenticatedAt = 1000.0
        clock.turn(1000)
        heard.events.clear()
        answer = site.post("/login", carry(old), name="Luca")
        key = answer.json["key"]
        assert_sets(answer, key)
        session = manager.getSession(key)
        assert (list(manager.sessions), session.data, session.createdAt) == ([key], "cart", 1000.0)
        assert session.authenticatedAt > 1000.0
        assert manager.getSessionTimeLeft(key) == 3000
        assert heard.events == []
        assert_rejected(site.get("/me", header(old)))
        assert site.get("/me", carry(key)).json == {"username": "Luca", "data": "cart"}

    def test_data_replaced(self, site, manager):
        """Data that a login brings replaces the data of the session."""
        answer = site.post("/login", cookie(site.start_session("Luca", data="old")), name="Luca", data="new")
        assert manager.getSessionData(answer.json["key"]) == "new"

    @pytest.mark.parametrize(("before", "after"), [(None, 60), (60, None), (60, 90)])
    def test_other_timeout(self, site, manager, before, after):
        """With another timeout it is a new session; the old one ends first and is not counted."""
        manager.setMaxSessionsPerUser(1, "reject")
        old = site.start_session("Luca", data="cart", timeout=before)
        key = site.post("/login", cookie(old), name="Luca", timeout=after).json["key"]
        session = manager.getSession(key)
        assert (list(manager.sessions), session.data, session.timeout) == ([key], None, after)

    def test_own_timeout(self, site, manager, clock):
        """With a timeout of its own the session has a cookie that outlasts the browser, also after a renewal."""
        answer = site.post("/login", name="Luca", timeout=9000)
        key = answer.json["key"]
        assert_sets(answer, key, max_age=str(400 * 24 * 3600))
        clock.turn(8000)
        assert site.get("/me", cookie(key)).status == 200
        assert manager.getSessionTimeLeft(key) == 9000
        answer = site.post("/renew", cookie(key))
        assert_sets(answer, answer.json["key"], max_age=str(400 * 24 * 3600))
        answer = site.post("/login", cookie(answer.json["key"]), name="Luca")
        assert_sets(answer, answer.json["key"])

    def test_other_user_id(self, site, manager):
        """A session of another user id is that of another user, whatever the username is; and the other way round."""
        other = manager.loadNewSession("Luca", data="cart", userId="other")
        key = site.post("/login", cookie(other), name="Luca").json["key"]
        assert (list(manager.sessions), manager.getSessionData(key)) == ([key], None)
        renamed = manager.loadNewSession("Old name", data="cart", userId=site.user_id("Fabio"))
        key = site.post("/login", header(renamed), name="Fabio").json["key"]
        assert (manager.getSession(key).userId, manager.getSessionData(key)) == (site.user_id("Fabio"), "cart")

    def test_other_user(self, site, manager, heard):
        """The session of another user ends once the new one has begun."""
        for carry in (header, cookie):
            planted = manager.loadNewSession("Mallory", data="planted")
            heard.events.clear()
            key = site.post("/login", carry(planted), name="Luca").json["key"]
            assert heard.events[:2] == [("sessionCreated", key), ("sessionDeleted", planted)]
            assert (manager.getLoggedUsers(), manager.getSessionData(key)) == (["Luca"], None)
            manager.deleteSession(key)

    def test_planted_keys(self, site, manager):
        """No key that the client presents lives on, so none can have been fixed in advance."""
        planted = [site.start_session(name) for name in ("Mallory", "Luca", "Luca")]
        former = manager.renewSessionKey(planted[1], overlap=60)
        planted.append(former)
        for first, second in ((0, 1), (1, 2), (2, 0), (3, 0), (0, 3)):
            headers = header(planted[first]) | cookie(planted[second])
            key = site.post("/login", headers, name="Luca").json["key"]
            assert key not in planted
            assert not is_live(manager, planted[first])
            assert not is_live(manager, planted[second])
        assert not any(is_live(manager, key) for key in planted)

    def test_both_keys(self, site, manager):
        """The sessions of the header and of the cookie both end, at a login and at a logout."""
        for path, left in (("/login", ["Luca"]), ("/logout", [])):
            headers = header(manager.loadNewSession("Fabio")) | cookie(manager.loadNewSession("Mallory"))
            site.post(path, headers, name="Luca")
            assert manager.getLoggedUsers() == left
            manager.deleteAllSessions()

    def test_refused(self, site, manager, heard):
        """A login that is refused leaves the session and the cookie of the client as they were."""
        manager.setMaxSessionsPerUser(1, "reject")
        site.start_session("Luca")
        here = manager.loadNewSession("Fabio", data="cart")
        heard.events.clear()
        answer = site.post("/login", cookie(here), name="Luca")
        assert (answer.status, answer.cookie) == (409, None)
        assert heard.events == []
        assert site.get("/me", cookie(here)).json == {"username": "Fabio", "data": "cart"}
        assert manager.getLoggedUsers() == ["Luca", "Fabio"]

    @pytest.mark.parametrize("moment", ["findSession", "resumeSession", "renewSessionKey"])
    def test_ends_in_between(self, site, manager, monkeypatch, moment):
        """A session that ends while its user logs in again is followed by a new one."""
        key, original = site.start_session("Luca"), getattr(manager, moment)

        def end_after(*args: Any, **options: Any) -> Any:
            answer = original(*args, **options)
            monkeypatch.setattr(manager, moment, original)
            assert manager.deleteUserSessions(site.user_id("Luca")) == 1
            return answer

        monkeypatch.setattr(manager, moment, end_after)
        key = site.post("/login", header(key), name="Luca", data="cart").json["key"]
        assert (list(manager.sessions), manager.getSessionData(key)) == ([key], "cart")

    def test_changes_its_mind(self, site, manager):
        """Two logins and a logout in one request leave no session and no cookie."""
        for names in ([], ["Mallory"]):
            headers = [cookie(manager.loadNewSession(name)) for name in names]
            answer = site.post("/changes-its-mind", headers[0] if headers else {})
            assert answer.status == 200
            assert manager.getLoggedUsers() == []
            assert answer.cookie is None or deletes(answer)
        assert deletes(answer)

    def test_rejected_afterwards(self, site, manager):
        """A request that is rejected after its login is given no session."""
        answer = site.post("/signs-in-and-rejects", cookie(manager.loadNewSession("Mallory")))
        assert_rejected(answer)
        assert site.post("/signs-in-and-rejects").cookie is None


class TestSignOut:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_ends_session(self, site, manager, heard, carry):
        """A logout ends the session, and deletes the cookie."""
        key, other = manager.loadNewSession("Luca"), manager.loadNewSession("Luca")
        answer = site.post("/logout", carry(key))
        assert (answer.status, answer.json) == (200, {"username": None})
        # A request from another site comes without the cookie, and must not delete it.
        assert deletes(answer) if carry is cookie else answer.cookie is None
        assert (is_live(manager, key), is_live(manager, other)) == (False, True)
        assert heard.names()[2:] == ["sessionDeleted", "activeUserDeleted"]
        assert_rejected(site.get("/me", header(key)))

    def test_without_session(self, site, manager, heard):
        """A logout without a session is no event."""
        for headers in ({}, header(UNKNOWN), cookie(UNKNOWN), header("")):
            assert site.post("/logout", headers).json == {"username": None}
        assert heard.events == []

    def test_ends_in_between(self, site, manager, monkeypatch):
        """A session that ends while its user logs out is no error."""
        monkeypatch.setattr(manager, "getUsernameFromSessionKey", lambda key: "Luca")
        assert site.post("/logout", cookie(UNKNOWN)).status == 200


class TestRenewKey:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_new_key(self, site, manager, clock, carry):
        """The new key is in the answer and the cookie; the old one is dead at once, and it moves no deadline."""
        old = manager.loadNewSession("Luca", data="cart")
        clock.turn(1000)
        answer = site.post("/renew", carry(old))
        key = answer.json["key"]
        assert_sets(answer, key)
        left = 3000 if site.every_request_prolongs else 2000
        assert (list(manager.sessions), manager.getSessionTimeLeft(key)) == ([key], left)
        assert_rejected(site.get("/me", header(old)))
        assert site.get("/me", carry(key)).json == {"username": "Luca", "data": "cart"}

    def test_overlap(self, site, manager, clock):
        """During the overlap a request under way passes, and keeps the cookie that the client has got since."""
        old = manager.loadNewSession("Luca")
        key = site.post("/renew", cookie(old), overlap=10).json["key"]
        clock.turn(9.5)
        answer = site.get("/me", cookie(old))
        assert (answer.status, answer.cookie) == (200, None)
        clock.turn(0.5)
        assert_rejected(site.get("/me", cookie(old)))
        assert site.get("/me", cookie(key)).status == 200

    def test_session_in_hand(self, site, manager):
        """The session that a view has goes on under the new key, each time."""
        answer = site.post("/renews-and-writes", cookie(manager.loadNewSession("Luca")))
        first, second, held = (answer.json[name] for name in ("first", "second", "held"))
        assert first != second == held
        assert_sets(answer, second)
        assert (list(manager.sessions), manager.getSessionData(second)) == ([second], first)

    def test_rejected(self, site, manager):
        """Without a live session there is nothing to renew."""
        for key in DEAD:
            assert_rejected(site.post("/renew", {} if key is None else header(key)))
        assert_rejected(site.post("/renew", cookie(UNKNOWN)))


class TestSignOutElsewhere:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_others_end(self, site, manager, clock, carry):
        """All other sessions of the user end, no others, and that does not prolong this one."""
        here, there, _ = (manager.loadNewSession("Luca") for _ in range(3))
        manager.loadNewSession("Fabio")
        clock.turn(1000)
        answer = site.post("/elsewhere", carry(here))
        assert (answer.json, answer.cookie) == ({"ended": 2}, None)
        assert (manager.getLoggedUsers(), is_live(manager, there)) == (["Luca", "Fabio"], False)
        assert manager.getSessionTimeLeft(here) == (3000 if site.every_request_prolongs else 2000)
        assert site.post("/elsewhere", carry(here)).json == {"ended": 0}
        assert site.get("/me", carry(here)).status == 200

    def test_user_id(self, site, manager):
        """The other sessions are those of the same user id."""
        here = manager.loadNewSession("Luca", userId=7)
        manager.loadNewSession("Luca Rossi", userId=7)
        other = manager.loadNewSession("Luca", userId=8)
        assert site.post("/elsewhere", header(here)).json == {"ended": 1}
        assert list(manager.sessions) == [here, other]

    def test_former_key(self, site, manager):
        """Under a former key the session itself is spared too."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=60)
        assert site.post("/elsewhere", header(old)).json == {"ended": 0}
        assert is_live(manager, new)

    def test_rejected(self, site, manager):
        """Without a live session it is a rejection, and ends nothing."""
        manager.loadNewSession("Luca")
        for key in DEAD:
            assert_rejected(site.post("/elsewhere", {} if key is None else header(key)))
        assert_rejected(site.post("/elsewhere", cookie(UNKNOWN)))
        assert manager.getLoggedUsers() == ["Luca"]


class TestUnreachableStore:
    """While the store is unreachable, no request passes and no session ends."""

    @pytest.fixture(params=["in memory", "blocking"])
    def store(self, request: pytest.FixtureRequest) -> WatchedStore:
        return WatchedStore(blocking=request.param == "blocking")

    @pytest.fixture
    def manager(self, store: WatchedStore) -> SessionManager:
        return SessionManager(store=store)

    def test_503(self, site, manager, store):
        """Every request that needs the store is answered 503, and no cookie changes."""
        key = manager.loadNewSession("Luca")
        store.unreachable = True
        calls = [("GET", path, carry(key)) for path in ("/me", "/passive", "/recent") for carry in (header, cookie)]
        calls += [("POST", path, cookie(key)) for path in ("/login", "/logout", "/renew", "/elsewhere")]
        calls += [("GET", "/me", header(UNKNOWN)), ("GET", "/optional", cookie(key))]
        for method, path, headers in calls:
            answer = site.send(method, path, headers, name="Luca")
            assert (answer.status, answer.json) == (503, {"unavailable": True}), path
            assert (answer.header("Retry-After"), answer.cookie) == ("5", None), path
        assert site.get("/open", cookie(key)).status == 200
        assert_rejected(site.get("/me"))
        store.unreachable = False
        assert site.get("/me", cookie(key)).json["username"] == "Luca"

    def test_rejected_before(self, site, manager, store):
        """The answer to a rejection does not need the store, which may fail in between."""
        manager.on("error", lambda *_: setattr(store, "unreachable", True))
        assert_rejected(site.get("/me", cookie(UNKNOWN)))


class TestFindSession:
    """The calls by which an integration, or an application, looks a session up."""

    def test_each_key(self, manager):
        """A live session is found by each of its keys."""
        old = manager.loadNewSession("Luca")
        new = manager.renewSessionKey(old, overlap=60)
        assert manager.findSession(old) is manager.findSession(new) is manager.sessions[new]

    def test_dead_key(self, manager, heard):
        """Any other key is no event."""
        assert [manager.findSession(key) for key in DEAD] == [None] * len(DEAD)
        assert heard.events == []


@pytest.mark.parametrize("name", ONE_OF_EACH)
class TestNames:
    """Where the key travels is configured."""

    def test_plain_http(self, make_site, name):
        """For http alone, the cookie has no prefix and is not `Secure`."""
        site = make_site(name, secure=False)
        answer = site.post("/login", name="Luca")
        key = answer.json["key"]
        assert_sets(answer, key, "session_key")
        assert site.get("/me", cookie(key, "session_key")).status == 200
        assert deletes(site.post("/logout", cookie(key, "session_key")))
        assert_rejected(site.get("/me", cookie(key, "session_key")))

    def test_header_alone(self, make_site, manager, name):
        """Without a cookie the header is what counts."""
        site = make_site(name, cookie=None)
        answer = site.post("/login", name="Luca")
        key = answer.json["key"]
        assert site.get("/me", header(key)).status == 200
        for other in (COOKIE, "session_key", "None"):
            assert_rejected(site.get("/me", cookie(key, other)))
        answers = [answer, site.get("/me", header(UNKNOWN)), site.post("/renew", header(key))]
        answers.append(site.post("/logout", header(answers[-1].json["key"])))
        assert [answer.cookie for answer in answers] == [None] * 4
        assert manager.getLoggedUsers() == []

    def test_cookie_alone(self, make_site, manager, name):
        """Without a header the cookie is what counts, and nothing that a header says."""
        site, key = make_site(name, header=None), manager.loadNewSession("Luca")
        for headers in (cookie(key), header(UNKNOWN) | cookie(key)):
            assert site.get("/me", headers).status == 200
        for headers in (header(key), {"None": key}):
            assert_rejected(site.get("/me", headers))

    def test_other_names(self, make_site, manager, name):
        """The header and the cookie can have other names."""
        site, key = make_site(name, header="X-Key", cookie="my_session_key"), manager.loadNewSession("Luca")
        for headers in ({"X-Key": key}, cookie(key, "__Host-my_session_key")):
            assert site.get("/me", headers).status == 200
        for headers in (header(key), cookie(key)):
            assert_rejected(site.get("/me", headers))


def attributes(answer: Answer) -> tuple[str, set[str]]:
    """Return the name of the cookie that an answer sets or deletes, and what else it says of it."""
    (line,) = [value for name, value in answer.headers if name.lower() == "set-cookie" and "session_key=" in value]
    pair, *others = line.strip().split("; ")
    ends = ("expires=", "max-age=")
    return pair.partition("=")[0], {each.lower() for each in others if not each.lower().startswith(ends)}


COMMON = {"path=/", "httponly"}
ATTRIBUTES = {
    "strict": ({"samesite": "Strict"}, "__Host-session_key", {"secure", "samesite=strict"}),
    "of all sites": ({"samesite": "None"}, "__Host-session_key", {"secure", "samesite=none"}),
    "in frames": (
        {"samesite": "None", "partitioned": True},
        "__Host-session_key",
        {"secure", "samesite=none", "partitioned"},
    ),
    "of all hosts": (
        {"domain": ".example.test"},
        "__Secure-session_key",
        {"secure", "samesite=lax", "domain=example.test"},
    ),
    "over http": (
        {"domain": "example.test", "secure": False},
        "session_key",
        {"samesite=lax", "domain=example.test"},
    ),
}


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "django-asgi"])
@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes(make_site, name, case):
    """The attributes of the cookie are configured; its deletion by a logout has the same ones."""
    names, expected, others = ATTRIBUTES[case]
    site = make_site(name, **names)
    answer = site.post("/login", name="Luca")
    key = answer.json["key"]
    assert attributes(answer) == (expected, COMMON | others)
    assert attributes(site.post("/login", name="Luca", timeout=9000)) == (expected, COMMON | others)
    assert site.get("/me", cookie(key, expected)).status == 200
    answer = site.post("/logout", cookie(key, expected))
    assert attributes(answer) == (expected, COMMON | others)
    assert "Max-Age=0" in answer.header("Set-Cookie")
    assert f"{expected}={key}" not in answer.header("Set-Cookie")


class TestKeyCarrier:
    """Its class is the one that the integrations use."""

    @pytest.fixture
    def carrier(self) -> Any:
        return pytest.importorskip("users_session_manager.integrations.fastapi").KeyCarrier

    def test_names(self, carrier):
        """The cookie has the prefix `__Host-` unless it is for http alone."""
        assert (carrier().header, carrier().cookie) == ("Session-Key", COOKIE)
        assert carrier(secure=False).cookie == "session_key"
        assert carrier(domain="example.com").cookie == "__Secure-session_key"
        assert carrier(domain="example.com", secure=False).cookie == "session_key"
        assert (carrier(header=None).header, carrier(cookie=None).cookie) == (None, None)

    def test_wrong_names(self, carrier):
        """A name that cannot work is refused by name."""
        wrong = [("header", name) for name in ("session_key", "Session_Key", "", "a b", "a:b", "ä", "a\n", 5)]
        wrong += [("cookie", name) for name in ("", "a b", "a=b", "a;b", 5)]
        for what, name in wrong:
            with pytest.raises(ValueError, match=what) as refusal:
                carrier(**{what: name})
            assert repr(name) in str(refusal.value)

    def test_taken_names(self, carrier):
        """A header with a meaning of its own, and a cookie with a prefix or named as an attribute, are refused."""
        taken = "Cookie cookie Authorization Host Origin Content-Type If-None-Match X-Forwarded-For Sec-Key Set-Cookie"
        taken += " Priority Save-Data Upgrade-Insecure-Requests X-Requested-With X-CSRFToken X-CSRF-Token"
        for name in taken.split():
            with pytest.raises(ValueError, match=f"header cannot be '{name}': .*meaning of its own"):
                carrier(header=name)
        for name in ("X-Key", "Hostname", "X-Cookie", "My-Authorization", "Session"):
            assert carrier(header=name).header == name
        for name in ("__Host-x", "__host-x", "__Secure-x", "__Http-x", "__Host-Http-x"):
            for secure in (True, False):
                with pytest.raises(ValueError, match=f"cookie cannot be '{name}': .*prefix"):
                    carrier(cookie=name, secure=secure)
        with pytest.raises(ValueError, match=r"cookie cannot be 'Path': .*attribute"):
            carrier(cookie="Path")

    def test_wrong_attributes(self, carrier):
        """Attributes with which no browser keeps or sends the cookie are refused."""
        domains = (
            "",
            ".",
            "com",
            "localhost",
            "127.0.0.1",
            "*.example.com",
            "example.com:80",
            "example.com/",
            "a..b",
            5,
        )
        wrong: list[tuple[dict[str, Any], str]] = [({"domain": domain}, "domain") for domain in domains]
        wrong += [({"samesite": value}, "SameSite") for value in ("lax", "", None, False, ["Lax"])]
        wrong += [
            ({"samesite": "None", "secure": False}, "SameSite=None .*not for https alone"),
            ({"samesite": "None", "partitioned": True, "secure": False}, "not for https alone"),
            ({"partitioned": True, "secure": False}, "partitioned .*not for https alone"),
            ({"partitioned": True}, "partitioned .*SameSite is 'None'"),
            ({"partitioned": True, "samesite": "Strict"}, "partitioned .*SameSite is 'None'"),
        ]
        for options, named in wrong:
            with pytest.raises(ValueError, match=named):
                carrier(**options)
        for domain in ("example.com", ".example.com", "a-b.example.co.uk", "xn--bcher-kva.example"):
            carrier(domain=domain, samesite="None", partitioned=True)

    def test_neither(self, carrier):
        """A key needs one of the two."""
        with pytest.raises(ValueError, match="both are None"):
            carrier(header=None, cookie=None)
