"""The public API as a type checker sees it. Read by mypy, never run."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from fastapi import Request, Response
from typing_extensions import assert_type

from users_session_manager import (
    MemoryStore,
    MissingDependency,
    Session,
    SessionError,
    SessionManager,
    SessionRejected,
    Store,
    testing,
)
from users_session_manager.integrations import django, fastapi, flask, prometheus
from users_session_manager.integrations._request import RequestSession
from users_session_manager.integrations.socketio import attach, presence

manager = SessionManager()
assert_type(manager, SessionManager)
SessionManager(store=MemoryStore())
SessionManager(store="redis://127.0.0.1:6379/0")
SessionManager(MemoryStore())  # type: ignore[call-arg]
SessionManager(store=5)  # type: ignore[arg-type]

key = manager.loadNewSession("Luca")
assert_type(key, str)
assert_type(manager.addSession("Luca"), str)
manager.loadNewSession(None)  # type: ignore[arg-type]
manager.loadNewSession("Luca", userId=7)
manager.loadNewSession("Luca", userId=UUID(int=7))
manager.loadNewSession("Luca", userId=7.0)  # type: ignore[arg-type]
manager.loadNewSession("Luca", securityStamp="a stamp")
manager.loadNewSession("Luca", securityStamp=b"a stamp")  # type: ignore[arg-type]

assert_type(manager.checkSessionStatus(key), bool)
assert_type(manager.restartSessionTimer(key), bool)
assert_type(manager.getUsernameFromSessionKey(None), str | Literal[False])
assert_type(manager.getSessionDetails(key), dict[str, Any] | Literal[False])
assert_type(manager.setSessionData(key, {"a": 1}), bool)
assert_type(manager.getSessionData(key), Any)
assert_type(manager.updateSessionData(key, lambda data: data), Any)
manager.updateSessionData(key, {"a": 1})  # type: ignore[arg-type]
assert_type(manager.getUserSessions(7), list[dict[str, Any]])
assert_type(manager.deleteUserSessions(UUID(int=7), exceptKey=key), int)
assert_type(manager.getSessionTimeLeft(key), float)
assert_type(manager.getSession(key).username, str)
assert_type(manager.getSession(key).userId, str)
assert_type(manager.getSession(key).securityStamp, str | None)
assert_type(manager.resumeSession(key), Session)
assert_type(manager.findSession(key), Session | None)
assert_type(manager.renewSessionKey(key), str)
assert_type(manager.renewSessionKey(key, securityStamp="a stamp"), str)
manager.renewSessionKey(key, 0, "a stamp")  # type: ignore[call-arg]
assert_type(manager.bindLoop(), Literal[True])
assert_type(manager.deleteSession(key), bool)
assert_type(manager.deleteAllSessions(), Literal[True])
assert_type(manager.getLoggedUsers(), list[str])
assert_type(manager.setSessionTimeOut(3000), bool)
assert_type(manager.getSessionTimeout(), float)
assert_type(manager.getSessionTimeOut(), float)
assert_type(manager.initSocketReference(object()), Literal[True])
assert_type(manager.initSocketReferences(object()), Literal[True])
assert_type(manager.sendLogoutMessage(key), bool)
assert_type(manager.sessions, Mapping[str, Session])
assert_type(manager.settings, dict[str, float])
timer: threading.Timer = manager.createNewSessionTimer(key, "Luca")
manager.close()


@manager.on("sessionDeleted")
async def on_deleted(key: str) -> None: ...


store: Store = MemoryStore(now=lambda: 0.0, thread=False)
session = store.get(key)
assert_type(session, Session | None)
if session is not None:
    running: threading.Timer = session.timer
    assert_type(session.createdAt, float)

error: Exception = SessionRejected()
lookup: LookupError = SessionRejected()
base: SessionError = MissingDependency("a package", "extra")
detach: Callable[[], None] = attach(manager, object(), namespace="/", cookie="session_key")
end_presence: Callable[[], None] = presence(manager, object(), show=lambda session: session.username)
undo: Callable[[], None] = prometheus.instrument(SessionManager())

sessions = flask.UserSessions()
assert_type(sessions.sign_in("Luca"), str)
assert_type(sessions.sign_out(), bool)
assert_type(flask.current_session.username, str)


@flask.session_required
def guarded(number: int) -> str:
    return str(number)


@flask.session_required(passive=True)
def polled(number: int) -> str:
    return str(number)


assert_type(guarded(1), str)
assert_type(polled(1), str)
guarded("1")  # type: ignore[arg-type]

dependencies = fastapi.UserSessions(secure=False, timeout=60, max_sessions_per_user=1, overflow="reject")
fastapi.UserSessions(samesite="None", domain="example.com", partitioned=True)
fastapi.UserSessions(samesite="none")  # type: ignore[arg-type]
fastapi.UserSessions(overflow="refuse")  # type: ignore[arg-type]
assert_type(fastapi.UserSessions().manager, fastapi.SessionManager)


def fastapi_login(request: Request, response: Response, session: fastapi.RequestSession) -> None:
    assert_type(dependencies.sign_in(request, response, "Luca", userId=UUID(int=7), securityStamp="a"), str)
    assert_type(dependencies.next_page(request), str)
    assert_type(session.userId, str)


request_session: RequestSession = flask.current_session
assert_type(request_session.createdAt, float)

assert_type(sessions.sign_in("Luca", data={"a": 1}, timeout=9000), str)
assert_type(sessions.renew_key(overlap=5), str)
assert_type(sessions.sign_out_elsewhere(), int)
sessions.sign_in("Luca", {"a": 1})  # type: ignore[call-arg]
sessions.renew_key(5)  # type: ignore[call-arg]


@flask.session_required(max_age=300)
def sensitive(number: int) -> str:
    return str(number)


assert_type(sensitive(1), str)
flask.session_required(max_age="300")  # type: ignore[call-overload]

assert_type(request_session.authenticatedAt, float)
assert_type(request_session.timeout, float | None)
assert_type(request_session.userId, str)
str(request_session.securityStamp)  # type: ignore[attr-defined]
assert_type(request_session.update(lambda data: data), Any)
request_session.update([])  # type: ignore[arg-type]

dependencies.recent(300)
dependencies.recent("300")  # type: ignore[arg-type]
dependencies.recent(None)  # type: ignore[arg-type]


@django.session_required(max_age=300)
def view(request: object, number: int) -> str:
    return str(number)


assert_type(view(object(), 1), str)
assert_type(django.sign_in(object(), object(), data={"a": 1}, timeout=9000), str)
assert_type(django.renew_key(object(), overlap=5), str)
assert_type(django.sign_out_elsewhere(object()), int)


async def numbers() -> AsyncIterator[int]:
    yield 1


def stream(request: Request) -> None:
    assert_type(sessions.stream(["event"]), Iterator[str])
    sessions.stream(numbers())  # type: ignore[arg-type]
    assert_type(dependencies.stream(request, ["event"]), AsyncIterator[str])
    assert_type(dependencies.stream(request, numbers()), AsyncIterator[int])
    assert_type(django.stream(object(), ["event"]), Iterator[str])
    assert_type(django.stream(object(), numbers()), AsyncIterator[int])
    django.stream(object(), numbers)  # type: ignore[call-overload]


django.session_required(max_age="300")  # type: ignore[call-overload]
django.renew_key(object(), 5)  # type: ignore[call-arg]

with testing.fresh_sessions() as clock:
    assert_type(clock, testing.ManualClock)
    clock.advance(timedelta(minutes=20), days=1, hours=1, minutes=0.5, seconds=1)
    clock.advance(20)  # type: ignore[arg-type]
    clock.advance(minutes="20")  # type: ignore[arg-type]
assert_type(testing.sign_in(object(), "Luca", data=[]), str)
with testing.expect_logout(key, request_session), testing.expect_session_expiring(key):
    pass
