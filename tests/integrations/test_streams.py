"""Streamed answers that end with their session: what each framework calls, without a framework."""

# Without `from __future__ import annotations`: FastAPI could not see the names of a fixture in a text.

import asyncio
import contextvars
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis_server import RedisServer
from watched_store import WatchedStore

from users_session_manager import SessionError, SessionManager
from users_session_manager.integrations._request import RequestSession
from users_session_manager.integrations._streams import CONNECTIONS, SessionConnections, stream
from users_session_manager.integrations._websockets import SessionSocket
from users_session_manager.stores.base import Notice
from users_session_manager.stores.notices import MAX_SILENCE

MAX_WAIT = 60


def sign_in(username: str = "Luca", **options: Any) -> RequestSession:
    """Return the session of a request, as a guard does."""
    manager = SessionManager()
    return RequestSession(manager, manager.getSession(manager.loadNewSession(username, **options)))


class Numbers:
    """A generator of numbers, plain or asynchronous, and what has happened to it."""

    def __init__(self) -> None:
        self.asked = 0
        self.cleaned_up = 0
        self.cancelled = 0
        self.meanwhile: Callable[[], object] = lambda: None
        self.when_it_waits: Callable[[], object] = lambda: None

    def plain(self) -> Iterator[int]:
        try:
            while self.asked < 10**6:  # a stream that does not end fails the test
                self.asked += 1
                self.meanwhile()
                yield self.asked
        finally:
            self.cleaned_up += 1

    async def waiting(self) -> AsyncIterator[int]:
        """Yield two, and wait for ever for the third."""
        try:
            for number in range(1, 3):
                self.asked += 1
                yield number
            asyncio.get_running_loop().call_soon(self.when_it_waits)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            await asyncio.sleep(0)
            self.cleaned_up += 1


def ends_of(session: RequestSession, clock: Any) -> dict[str, Callable[[], object]]:
    manager = SessionManager()
    return {
        "deleted": lambda: manager.deleteSession(session.key),
        "expired": lambda: clock.turn(3001),
        "evicted": lambda: manager.loadNewSession("Luca"),
        "everyone": lambda: manager.deleteUserSessions("Luca"),
    }


EVERY_END = pytest.mark.parametrize("end", ["deleted", "expired", "evicted", "everyone"])


class TestPlain:
    @EVERY_END
    def test_each_end(self, manager, clock, end):
        """However the session ends, its stream ends before its next item is made; another one goes on."""
        manager.setMaxSessionsPerUser(1)
        session, numbers = sign_in(), Numbers()
        others = stream(sign_in("Fabio", timeout=1e6), Numbers().plain())
        items = stream(session, numbers.plain())
        assert [next(items), next(items), next(others)] == [1, 2, 1]
        ends_of(session, clock)[end]()
        assert list(items) == []
        assert (numbers.asked, numbers.cleaned_up) == (2, 1)
        assert next(others) == 2

    def test_end_while_an_item_is_made(self, manager):
        """An item that a generator yields after the end is not sent."""
        session, numbers = sign_in(), Numbers()
        numbers.meanwhile = lambda: numbers.asked == 3 and manager.deleteSession(session.key)
        assert list(stream(session, numbers.plain())) == [1, 2]
        assert (numbers.asked, numbers.cleaned_up) == (3, 1)

    def test_end_by_another_thread(self, manager):
        session, numbers = sign_in(), Numbers()
        items = stream(session, numbers.plain())
        assert next(items) == 1
        ending = threading.Thread(target=manager.deleteSession, args=(session.key,))
        ending.start()
        ending.join()
        assert list(items) == []

    def test_end_before_the_first_item(self, manager):
        """A session that ends between the guard and the first item lets none through."""
        session, numbers = sign_in(), Numbers()
        items = stream(session, numbers.plain())
        manager.deleteSession(session.key)
        assert list(items) == []
        assert numbers.asked == 0
        assert CONNECTIONS.watched() == {}

    def test_client_leaves(self, manager):
        """A stream that is closed cleans up and is forgotten; so is one that has no further item."""
        session, numbers = sign_in(), Numbers()
        items = stream(session, numbers.plain())
        assert next(items) == 1
        assert [*CONNECTIONS.watched().values()] == [session.key]
        items.close()
        assert (numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})
        assert list(stream(session, [1, 2])) == [1, 2]
        assert CONNECTIONS.watched() == {}
        assert manager.checkSessionStatus(session.key)

    def test_dropped(self, manager):
        """A stream that is never closed, as in Starlette, is forgotten too."""
        numbers = Numbers()
        next(stream(sign_in(), numbers.plain()))
        assert (numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})

    def test_failure(self, manager):
        """An exception of the generator reaches the caller, and the stream is forgotten."""

        def failing() -> Iterator[int]:
            yield 1
            raise RuntimeError("of the generator")

        items = stream(sign_in(), failing())
        assert next(items) == 1
        with pytest.raises(RuntimeError, match="of the generator"):
            next(items)
        assert CONNECTIONS.watched() == {}

    def test_closes_what_it_was_given(self, manager):
        """As servers do with the iterable of an application."""

        class Rows:
            closed = 0

            def __iter__(self) -> Iterator[int]:
                return iter([1, 2])

            def close(self) -> None:
                self.closed += 1

        rows = Rows()
        assert list(stream(sign_in(), rows)) == [1, 2]
        assert rows.closed == 1

    def test_renewal(self, manager):
        """A new key ends nothing; the end of the session then does."""
        session = sign_in()
        items = stream(session, Numbers().plain())
        assert next(items) == 1
        new = manager.renewSessionKey(session.key)
        assert next(items) == 2
        assert [*CONNECTIONS.watched().values()] == [new]
        manager.deleteSession(new)
        assert list(items) == []

    def test_prolongs_nothing(self, manager, clock):
        """However many items are sent, the idle timeout goes on."""
        session = sign_in()
        items = stream(session, Numbers().plain())
        for _ in range(3):
            next(items)
            clock.turn(900)
        assert manager.getSessionTimeLeft(session.key) == 300
        clock.turn(301)
        assert list(items) == []


def run(steps: Any) -> Any:
    """Run a coroutine; what waits for ever fails the test, and not its run."""
    return asyncio.run(asyncio.wait_for(steps, MAX_WAIT))


async def collect(items: Any, end: Callable[[], object], after: int = 2) -> list[Any]:
    """Return all items; from `after` of them on, nothing but the end can stop the wait for the next one."""
    found = []
    async for item in items:
        found.append(item)
        if len(found) == after:
            asyncio.get_running_loop().call_soon(end)
    return found


class TestAsync:
    @EVERY_END
    def test_each_end(self, manager, clock, end):
        """However the session ends, what its stream waits for is cancelled, and it cleans up."""
        manager.setMaxSessionsPerUser(1)
        session, numbers = sign_in(), Numbers()
        assert run(collect(stream(session, numbers.waiting()), ends_of(session, clock)[end])) == [1, 2]
        assert (numbers.cancelled, numbers.cleaned_up, CONNECTIONS.watched()) == (1, 1, {})

    def test_end_by_another_thread(self, manager):
        session, numbers = sign_in(), Numbers()
        ending = threading.Thread(target=manager.deleteSession, args=(session.key,))
        assert run(collect(stream(session, numbers.waiting()), ending.start)) == [1, 2]
        ending.join()
        assert numbers.cleaned_up == 1

    def test_end_while_an_item_is_sent(self, manager):
        """No further item is made; nothing is cancelled, since nothing waits."""
        session, numbers = sign_in(), Numbers()

        async def send() -> None:
            items = stream(session, numbers.waiting())
            assert await anext(items) == 1
            manager.deleteSession(session.key)
            await asyncio.sleep(0)
            assert [item async for item in items] == []

        run(send())
        assert (numbers.asked, numbers.cancelled, numbers.cleaned_up) == (1, 0, 1)

    def test_end_by_the_stream(self, manager):
        """A generator that ends its own session sends nothing after that."""
        session = sign_in()

        async def ending() -> AsyncIterator[int]:
            yield 1
            manager.deleteSession(session.key)
            yield 2

        async def send() -> list[int]:
            return [item async for item in stream(session, ending())]

        assert run(send()) == [1]

    @pytest.mark.parametrize("blocking", [False, True])
    def test_end_before_the_first_item(self, manager, blocking):
        """A session that ends between the guard and the first item lets none through."""
        manager.close()
        manager = SessionManager(store=WatchedStore(blocking=blocking))
        session, numbers = sign_in(), Numbers()

        async def send() -> list[int]:
            return [item async for item in stream(session, numbers.waiting())]

        manager.deleteSession(session.key)
        assert run(send()) == []
        assert (numbers.asked, CONNECTIONS.watched()) == (0, {})

    def test_server_goes_on(self, manager):
        """The task of the server is not left cancelled: what it awaits afterwards, also with a timeout, works."""
        session, numbers = sign_in(), Numbers()

        async def serve() -> None:
            await collect(stream(session, numbers.waiting()), lambda: manager.deleteSession(session.key))
            await asyncio.sleep(0)
            if sys.version_info >= (3, 11):
                assert asyncio.current_task().cancelling() == 0
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await asyncio.Event().wait()

        run(serve())

    @pytest.mark.parametrize("ends_too", [False, True])
    def test_server_is_cancelled(self, manager, ends_too):
        """A server that cancels its task, since the client has left, is obeyed, even in the instant of the end."""
        session, numbers = sign_in(), Numbers()

        async def serve() -> None:
            task = asyncio.current_task()

            def leave() -> None:
                if ends_too:
                    manager.deleteSession(session.key)  # which interrupts in the next round of the loop
                    asyncio.get_running_loop().call_soon(task.cancel)
                else:
                    task.cancel()

            await collect(stream(session, numbers.waiting()), leave)

        if ends_too and sys.version_info < (3, 11):  # it cannot be known there, and the stream has ended in any case
            with suppress(asyncio.CancelledError):
                run(serve())
        else:
            with pytest.raises(asyncio.CancelledError):
                run(serve())
        assert (numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})

    def test_one_task(self, manager):
        """All items are awaited in the task of the server, with its context: a generator may hold a timeout open."""
        session, tasks = sign_in(), []
        name = contextvars.ContextVar("name", default="")

        async def watching() -> AsyncIterator[str]:
            for _ in range(3):
                tasks.append(asyncio.current_task())
                yield name.get()

        async def serve() -> list[str]:
            name.set("Luca")
            tasks.append(asyncio.current_task())
            return [item async for item in stream(session, watching())]

        assert run(serve()) == ["Luca"] * 3
        assert len(set(tasks)) == 1

    @pytest.mark.parametrize("last_word", [True, False])
    def test_swallowed_cancellation(self, manager, last_word):
        """A generator that answers its cancellation by one more item, or by a return, ends all the same."""
        session = sign_in()

        async def stubborn() -> AsyncIterator[str]:
            yield "first"
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if last_word:
                yield "last"

        async def serve() -> None:
            end = lambda: manager.deleteSession(session.key)  # noqa: E731
            assert await collect(stream(session, stubborn()), end, after=1) == ["first"]
            if sys.version_info >= (3, 11):
                assert asyncio.current_task().cancelling() == 0

        run(serve())

    def test_client_leaves(self, manager):
        """A stream that is closed, or dropped, cleans up and is forgotten; so is one that has no further item."""

        async def two() -> AsyncIterator[int]:
            yield 1
            yield 2

        async def serve() -> None:
            numbers, dropped = Numbers(), Numbers()
            items = stream(sign_in(), numbers.waiting())
            assert await anext(items) == 1
            assert len(CONNECTIONS.watched()) == 1
            await items.aclose()
            assert (numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})
            assert [item async for item in stream(sign_in(), two())] == [1, 2]
            assert CONNECTIONS.watched() == {}
            await anext(stream(sign_in(), dropped.waiting()))
            while CONNECTIONS.watched() or not dropped.cleaned_up:
                await asyncio.sleep(0)

        run(serve())

    def test_renewal(self, manager):
        """A new key ends nothing; the end of the session then does."""
        session, numbers = sign_in(), Numbers()

        async def serve() -> None:
            items = stream(session, numbers.waiting())
            assert await anext(items) == 1
            new = manager.renewSessionKey(session.key)
            assert await anext(items) == 2
            asyncio.get_running_loop().call_soon(manager.deleteSession, new)
            assert [item async for item in items] == []

        run(serve())
        assert (numbers.cancelled, numbers.cleaned_up) == (1, 1)

    def test_no_thread(self, manager):
        """A thousand streams wait without a thread of their own, and all end."""
        sessions = [sign_in(f"user {number}") for number in range(1000)]

        async def serve() -> None:
            streams = [asyncio.create_task(collect(stream(each, Numbers().waiting()), list)) for each in sessions]
            while len(CONNECTIONS.watched()) < 1000:
                await asyncio.sleep(0)
            assert set(threading.enumerate()) <= before  # others may have ended meanwhile
            manager.deleteAllSessions()
            assert await asyncio.gather(*streams) == [[1, 2]] * 1000

        before = {*threading.enumerate()}
        run(serve())

    def test_closed_loop(self, manager):
        """The end of a session whose stream was left behind by a loop that has closed disturbs nothing."""
        session = sign_in()
        loop = asyncio.new_event_loop()
        items = stream(session, Numbers().waiting())
        assert loop.run_until_complete(anext(items)) == 1
        loop.close()
        assert manager.deleteSession(session.key)
        with suppress(StopIteration, RuntimeError):
            items.aclose().send(None)


class TestRefused:
    def test_no_session(self, manager):
        with pytest.raises(SessionError, match="no session that could end the stream"):
            stream(None, [])

    @pytest.mark.parametrize("wrong", [Numbers().plain, Numbers().waiting, 5, None])
    def test_no_items(self, manager, wrong):
        """Anything that is not iterable, such as a generator function that was not called, is an error at once."""
        with pytest.raises(TypeError, match="not iterable"):
            stream(sign_in(), wrong)


@pytest.mark.parametrize("store_kind", ["redis"])
class TestSharedStore:
    def test_end_elsewhere(self, any_store, manager):
        """An end in another process ends both kinds; a renewal there ends none."""
        manager.close()
        manager, numbers = SessionManager(store=any_store()), Numbers()
        session, waiting = sign_in(), Numbers()
        other = any_store(thread=False)

        def end() -> None:
            _, new, _ = other.renew_key(session.key, 0)
            assert other.remove(new) is not None

        plain = stream(session, numbers.plain())
        assert next(plain) == 1
        assert run(collect(stream(session, waiting.waiting()), end)) == [1, 2]
        assert len(list(zip(plain, range(10**7), strict=False))) < 10**7
        assert (numbers.cleaned_up, waiting.cleaned_up, CONNECTIONS.watched()) == (1, 1, {})
        other.close()

    def test_lost_notice(self, any_store, clock, manager):
        """An end of which no notice comes is found within seconds."""
        session = sign_in()
        items = stream(session, Numbers().plain())
        assert next(items) == 1
        clock.turn(0)
        other = any_store(thread=False)
        assert other.clear(silent=True)
        assert next(items) == 2
        clock.turn(4.1)
        assert list(items) == []
        other.close()


class TestUnreachable:
    def test_ends_after_a_while(self, tmp_path):
        """While the store does not answer, streams and WebSockets go on for a while; then all of them end."""
        pytest.importorskip("redis")
        from users_session_manager.stores.redis import RedisStore

        server, time_now = RedisServer(tmp_path, "--appendonly", "yes"), 1000.0
        store = RedisStore.from_url(server.url, now=lambda: time_now, thread=False)
        manager = SessionManager(store=store)
        manager.serve()
        sent: list[Any] = []

        def turn(seconds: float) -> None:
            nonlocal time_now
            time_now += seconds
            store.run_due()

        async def send(message: Any) -> None:
            sent.append(message)

        async def serve() -> None:
            session = sign_in(timeout=10_000)
            plain, numbers = stream(session, Numbers().plain()), Numbers()
            waiting = asyncio.create_task(collect(stream(session, numbers.waiting()), list))
            socket = SessionSocket(send)
            CONNECTIONS.add(session, socket)
            await socket.send({"type": "websocket.accept"})
            while numbers.asked < 2:
                await asyncio.sleep(0)
            assert next(plain) == 1
            turn(5)
            server.stop()
            turn(5)  # the first check without an answer
            turn(MAX_SILENCE - 1)
            await asyncio.sleep(0.05)
            assert (next(plain), waiting.done(), len(sent)) == (2, False, 1)
            server.start()
            turn(5)
            server.stop()
            for seconds in (5, MAX_SILENCE - 1):  # it counts anew
                turn(seconds)
            await asyncio.sleep(0.05)
            assert (next(plain), waiting.done(), len(sent)) == (3, False, 1)
            turn(2)
            assert list(plain) == []
            assert await waiting == [1, 2]
            while len(sent) < 2:
                await asyncio.sleep(0)
            assert sent[1] == {
                "type": "websocket.close",
                "code": 1013,
                "reason": "The session cannot be checked now.",
            }
            assert (numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})

        try:
            run(serve())
        finally:
            server.process.kill()


def test_another_manager(manager):
    """A new manager after `close` ends what belongs to the old one, whose sessions it does not know, and no other."""
    old = stream(sign_in(), Numbers().plain())
    assert next(old) == 1
    manager.close()
    manager = SessionManager(store=WatchedStore())
    session = sign_in()
    new = stream(session, Numbers().plain())
    assert [next(new), *old] == [1]
    manager.deleteSession(session.key)
    assert list(new) == []


def test_watched_sessions(manager):
    """The manager looks after the sessions that have connections, by their present keys."""

    class Connection:
        def __init__(self) -> None:
            self.session_ids: set[Any] = set()
            self.ended_by: list[str] = []

        def end(self, notice: Notice) -> None:
            self.ended_by.append(notice.kind)

    connections, first, second = SessionConnections(), Connection(), Connection()
    luca, fabio = sign_in(), sign_in("Fabio")
    for session, each in ((luca, first), (luca, second), (fabio, second)):
        connections.add(session, each)
    assert connections.watched() == {luca._id: luca.key, fabio._id: fabio.key}
    connections.noticed(Notice("renewed", luca._id, "c"))
    connections.noticed(Notice("renewed", "another", "d"))
    connections.noticed(Notice("logout", luca._id, "c"))
    assert connections.watched() == {luca._id: "c", fabio._id: fabio.key}
    connections.remove(first)
    assert connections.watched() == {luca._id: "c", fabio._id: fabio.key}
    connections.noticed(Notice("ended", luca._id, "c"))
    assert connections.watched() == {fabio._id: fabio.key}
    assert (first.ended_by, second.ended_by) == ([], ["ended"])
    connections.remove(second)
    assert connections.watched() == {}
    manager.removeWatcher(connections)


class TestFlask:
    """`sessions.stream(items)` in a view."""

    @pytest.fixture
    def app(self, manager: SessionManager) -> Any:
        flask = pytest.importorskip("flask")
        from users_session_manager.integrations.flask import UserSessions, session_optional, session_required

        app = flask.Flask("streams")
        app.testing = True
        app.numbers = Numbers()
        sessions = UserSessions(app)

        def answer(items: Any) -> Any:
            return flask.Response(sessions.stream(items), mimetype="text/event-stream")

        def texts() -> Iterator[str]:
            yield from map(str, app.numbers.plain())

        def with_context() -> Any:
            return answer(flask.stream_with_context(f"{flask.request.path} {number}" for number in range(2)))

        app.add_url_rule("/guarded", "guarded", session_required(passive=True)(lambda: answer(texts())))
        app.add_url_rule("/optional", "optional", session_optional(lambda: answer(texts())))
        app.add_url_rule("/open", "open", lambda: answer(texts()))
        app.add_url_rule("/async", "async", session_required(lambda: answer(app.numbers.waiting())))
        app.add_url_rule("/context", "context", session_required(with_context))
        return app

    @pytest.mark.parametrize("path", ["/guarded", "/optional", "/open"])
    def test_end(self, app, manager, path):
        key = manager.loadNewSession("Luca")
        answer = app.test_client().get(path, headers={"Session-Key": key})
        chunks = answer.iter_encoded()
        assert [next(chunks), next(chunks)] == [b"1", b"2"]
        assert "no-store" in answer.headers["Cache-Control"]
        manager.deleteSession(key)
        assert list(chunks) == []
        assert app.numbers.cleaned_up == 1
        answer.close()

    def test_client_leaves(self, app, manager):
        """The server closes an answer whose client has left; one to HEAD was not even begun."""
        headers = {"Session-Key": manager.loadNewSession("Luca")}
        answer = app.test_client().get("/guarded", headers=headers)
        assert next(answer.iter_encoded()) == b"1"
        answer.close()
        assert (app.numbers.cleaned_up, CONNECTIONS.watched()) == (1, {})
        app.test_client().head("/guarded", headers=headers).close()
        assert (app.numbers.asked, CONNECTIONS.watched()) == (1, {})

    def test_context(self, app, manager):
        """It takes what `stream_with_context` returns."""
        headers = {"Session-Key": manager.loadNewSession("Luca")}
        assert app.test_client().get("/context", headers=headers).text == "/context 0/context 1"

    @pytest.mark.parametrize("path", ["/optional", "/open"])
    def test_no_session(self, app, path):
        with pytest.raises(SessionError, match="no session that could end the stream"):
            app.test_client().get(path)

    def test_async(self, app, manager):
        """Flask has no event loop to run them on."""
        with pytest.raises(TypeError, match="a plain generator yields: pass one, not async_generator"):
            app.test_client().get("/async", headers={"Session-Key": manager.loadNewSession("Luca")})


class TestFastApi:
    """`sessions.stream(request, items)` in a route."""

    @pytest.fixture
    def numbers(self) -> Numbers:
        return Numbers()

    @pytest.fixture
    def client(self, manager: SessionManager, numbers: Numbers) -> Any:
        fastapi = pytest.importorskip("fastapi")
        pytest.importorskip("httpx")
        from fastapi.responses import StreamingResponse

        from users_session_manager.integrations.fastapi import UserSessions

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions would rather have another HTTP client than httpx
            from starlette.testclient import TestClient

        app, sessions = fastapi.FastAPI(), UserSessions()
        sessions.install(app)

        def plain(request: fastapi.Request) -> Any:
            return StreamingResponse(sessions.stream(request, map(str, numbers.plain())))

        async def waiting(request: fastapi.Request) -> Any:
            items = sessions.stream(request, numbers.waiting())
            return StreamingResponse(str(item) async for item in items)

        for name, guard in (("guarded", sessions.passive), ("optional", sessions.optional), ("open", lambda: None)):
            app.add_api_route(f"/{name}/plain", plain, dependencies=[fastapi.Depends(guard)])
            app.add_api_route(f"/{name}/async", waiting, dependencies=[fastapi.Depends(guard)])
        return TestClient(app, base_url="https://testserver")

    @pytest.mark.parametrize("guard", ["guarded", "optional"])
    @pytest.mark.parametrize("kind", ["plain", "async"])
    def test_end(self, client, manager, numbers, guard, kind):
        """The test client returns an answer once it is complete, so it ends while it is sent."""
        key = manager.loadNewSession("Luca")
        numbers.meanwhile = lambda: numbers.asked == 3 and manager.deleteSession(key)
        numbers.when_it_waits = lambda: manager.deleteSession(key)
        answer = client.get(f"/{guard}/{kind}", headers={"Session-Key": key})
        assert (answer.text, numbers.cleaned_up, CONNECTIONS.watched()) == ("12", 1, {})
        assert "no-store" in answer.headers["cache-control"]

    @pytest.mark.parametrize("guard", ["optional", "open"])
    @pytest.mark.parametrize("kind", ["plain", "async"])
    def test_no_session(self, client, guard, kind):
        with pytest.raises(SessionError, match="no session that could end the stream"):
            client.get(f"/{guard}/{kind}")

    def test_cancelled_while_its_thread_works(self, manager):
        """A server that is stopped waits for no thread; a plain generator is then closed at its next item."""
        fastapi = pytest.importorskip("fastapi")
        from users_session_manager.integrations.fastapi import UserSessions

        sessions, numbers, works = UserSessions(manager), Numbers(), threading.Event()
        key, app = manager.loadNewSession("Luca"), fastapi.FastAPI()
        sessions.install(app)
        headers = [(b"session-key", key.encode())]
        request = fastapi.Request({"type": "http", "method": "GET", "headers": headers, "app": app})

        async def serve() -> None:
            await sessions.current(request)
            items = sessions.stream(request, numbers.plain())
            assert [await anext(items), await anext(items)] == [1, 2]
            numbers.meanwhile = works.wait
            receiving = asyncio.create_task(anext(items))
            while numbers.asked < 3:
                await asyncio.sleep(0.001)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            works.set()
            del items, receiving
            while not numbers.cleaned_up or CONNECTIONS.watched():
                await asyncio.sleep(0.001)

        run(serve())


class TestDjango:
    """`stream(request, items)` in a view."""

    @pytest.fixture
    def numbers(self) -> Numbers:
        return Numbers()

    @pytest.fixture
    def views(self, manager: SessionManager, numbers: Numbers) -> Iterator[None]:
        pytest.importorskip("django")
        from web_sites import set_up_django

        set_up_django()
        from django.http import StreamingHttpResponse
        from django.test import override_settings
        from django.urls import path

        from users_session_manager.integrations import django as sessions

        def plain(request: Any) -> Any:
            return StreamingHttpResponse(sessions.stream(request, map(str, numbers.plain())))

        async def waiting(request: Any) -> Any:
            return StreamingHttpResponse(sessions.stream(request, numbers.waiting()))

        async def asks(request: Any) -> Any:
            await request.auser_session()
            return await waiting(request)

        guard = sessions.session_required(passive=True)
        routes = [path("guarded/plain", guard(plain)), path("guarded/async", guard(waiting))]
        routes += [path("open/plain", plain), path("open/async", waiting), path("asks/async", asks)]
        with override_settings(ROOT_URLCONF=tuple(routes)):
            yield

    @pytest.mark.parametrize("path", ["/guarded/plain", "/open/plain"])
    def test_plain(self, views, manager, numbers, path):
        from django.test import Client

        key = manager.loadNewSession("Luca")
        answer = Client().get(path, headers={"Session-Key": key})
        chunks = iter(answer)
        assert [next(chunks), next(chunks)] == [b"1", b"2"]
        manager.deleteSession(key)
        assert list(chunks) == []
        assert numbers.cleaned_up == 1
        answer = Client().get(path, headers={"Session-Key": manager.loadNewSession("Luca")})
        assert next(iter(answer)) == b"3"
        answer.close()
        assert (numbers.cleaned_up, CONNECTIONS.watched()) == (2, {})

    @pytest.mark.parametrize("path", ["/guarded/async", "/asks/async"])
    def test_async(self, views, manager, numbers, path):
        from django.test import AsyncClient

        key = manager.loadNewSession("Luca")

        async def serve() -> list[bytes]:
            answer = await AsyncClient().get(path, headers={"Session-Key": key})
            return await collect(aiter(answer), lambda: manager.deleteSession(key))

        assert run(serve()) == [b"1", b"2"]
        assert (numbers.cancelled, numbers.cleaned_up, CONNECTIONS.watched()) == (1, 1, {})

    def test_async_on_wsgi(self, views, manager, numbers):
        """Django collects all items then, and says so; it is over when the session ends."""
        from django.test import Client

        key = manager.loadNewSession("Luca")
        numbers.when_it_waits = lambda: manager.deleteSession(key)
        answer = Client().get("/guarded/async", headers={"Session-Key": key})
        with pytest.warns(Warning, match="must consume asynchronous iterators"):
            assert list(answer) == [b"1", b"2"]
        assert (numbers.cancelled, numbers.cleaned_up, CONNECTIONS.watched()) == (1, 1, {})

    def test_no_session(self, views, manager):
        from django.core.exceptions import SynchronousOnlyOperation
        from django.test import AsyncClient, Client

        with pytest.raises(SessionError, match="no session that could end the stream"):
            Client().get("/open/plain")
        for path in ("/open/async", "/asks/async"):
            with pytest.raises(SessionError, match="no session that could end the stream"):
                run(AsyncClient().get(path))
        manager.close()
        key = SessionManager(store=WatchedStore()).loadNewSession("Luca")
        with pytest.raises(SynchronousOnlyOperation, match="auser_session"):
            run(AsyncClient().get("/open/async", headers={"Session-Key": key}))
