"""Measure the CPU time that presence adds to a server with many pages, while users log in and out.

    python tests/benchmarks/bench_presence.py [--quick]

The measured process has the sessions, an attached server and its pages, which are another process. It takes turns: a
time without presence, and a time with it, of which the difference is what presence adds. The run fails on a wrong list
and on a message of changes over 10 KB, and never on a time. It needs redis-server.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from subprocess import PIPE, Popen

import socketio
import websockets
from bench_page import Row, as_table
from bench_redis import fill_from_processes, open_manager, redis_server
from bench_worker import serve
from werkzeug import serving

from users_session_manager import SessionManager
from users_session_manager.integrations.socketio import attach, presence

# Rounds, seconds of each, sessions and pages.
QUICK, FULL = (2, 1, 2_000, 20), (3, 6, 100_000, 200)
LOGINS_PER_SECOND = 50
LARGEST = 10_000
LONG = 24 * 60 * 60


class Site:
    """The measured process: a threading server, its pages, and users who log in and out."""

    def __init__(self, url: str | None, pages: int, sessions: int) -> None:
        self.manager = open_manager(url) if url else SessionManager()
        self.manager.setSessionTimeOut(LONG)
        self.numbers = itertools.count()
        if not url:
            for number in range(sessions):
                self.manager.loadNewSession(f"user {number}")
        self.io = socketio.Server(async_mode="threading", ping_timeout=120)
        attach(self.manager, self.io)
        http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        keys = [self.manager.loadNewSession(f"user {number}") for number in range(pages)]
        command = [sys.executable, __file__, "--pages", str(http.server_port)]
        self.pages = Popen(command, stdin=PIPE, stdout=PIPE, text=True)
        self.ask(keys)

    def ask(self, what: object) -> list[int]:
        """Ask the pages something; return what they answer."""
        print(json.dumps(what), file=self.pages.stdin, flush=True)
        return json.loads(self.pages.stdout.readline())

    def measure(self, seconds: int) -> dict[str, float]:
        """Return the milliseconds of CPU time of a second without presence, and with it."""
        without = self.time(seconds)
        end = presence(self.manager, self.io)
        self.ask("list")
        with_it = self.time(seconds)
        users, deadline = len(set(self.manager.getLoggedUsers())), time.monotonic() + 60
        while (found := self.ask("result"))[:2] != [users, 0] and time.monotonic() < deadline:
            time.sleep(0.1)
        end()
        online, others, largest = found
        if (online, others) != (users, 0) or not 0 < largest <= LARGEST:
            raise SystemExit(
                f"broken: of {users:,} users a page shows {online:,}, and {others} pages show others; {largest=}"
            )
        return {"without": without, "with": with_it}

    def time(self, seconds: int) -> float:
        """Let users log in and out; return the milliseconds of CPU time of a second."""
        begun, used, keys = time.monotonic(), time.process_time(), []
        for count in range(seconds * LOGINS_PER_SECOND):
            keys.append(self.manager.loadNewSession(f"another user {next(self.numbers)}"))
            if len(keys) > LOGINS_PER_SECOND:  # each stays for a second
                self.manager.deleteSession(keys.pop(0))
            time.sleep(max(0.0, begun + count / LOGINS_PER_SECOND - time.monotonic()))
        return (time.process_time() - used) * 1000 / (time.monotonic() - begun)


class Page:
    """A page in a browser. Of two hundred in one process only the first one keeps the whole list."""

    largest = 0  # of all messages of changes

    def __init__(self, *, is_first: bool) -> None:
        self.is_first = is_first
        self.online: set[str] = set()
        self.changes: dict[str, bool] = {}  # who has come or gone since the list
        self.has_list = asyncio.Event()

    async def open(self, port: int, key: str) -> None:
        address = f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
        self.socket = await websockets.connect(address, max_size=None, compression=None, open_timeout=60)
        await self.socket.recv()
        await self.socket.send("40")
        await self.socket.recv()
        await self.socket.send("420" + json.dumps(["session_key", key]))
        if await self.socket.recv() != "430[true]":
            raise SystemExit("broken: a page was refused")
        self.task = asyncio.create_task(self.listen())

    async def list(self) -> None:
        self.has_list.clear()
        await self.socket.send('42["presence"]')
        await self.has_list.wait()

    async def listen(self) -> None:
        async for message in self.socket:
            if message == "2":
                await self.socket.send("3")
            elif message.startswith('42["presence",'):
                self.hear(message)

    def hear(self, message: str) -> None:
        is_list = message.startswith('42["presence",{"all":true')
        if is_list:
            self.changes.clear()
            self.has_list.set()
        else:
            Page.largest = max(Page.largest, len(message))
        if self.is_first or not is_list:
            data = json.loads(message[2:])[1]
            if is_list:
                self.online = set(data["came"])
                return
            self.changes |= dict.fromkeys(data["came"], True) | dict.fromkeys(data["went"], False)


async def show_pages(port: int) -> None:
    """Open the pages, and answer the process that has asked for them."""
    pages: list[Page] = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        what = json.loads(line)
        if isinstance(what, list):
            pages = [Page(is_first=not number) for number in range(len(what))]
            for page, key in zip(pages, what, strict=True):
                await page.open(port, key)
        elif what == "list":
            await asyncio.gather(*(page.list() for page in pages))
        first = pages[0]
        gone = {name for name, is_there in first.changes.items() if not is_there}
        online = (first.online | set(first.changes)) - gone
        others = sum(page.changes != first.changes for page in pages)
        print(json.dumps([len(online), others, Page.largest]), flush=True)
    os._exit(0)


def measure_site(title: str, url: str | None, rounds: int, seconds: int, sessions: int, pages: int) -> Row:
    command = [sys.executable, __file__, "--site", json.dumps([url, pages, sessions])]
    found = []
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as site:
        for _ in range(rounds):
            print(json.dumps({"do": "measure", "seconds": seconds}), file=site.stdin, flush=True)
            if not (answer := site.stdout.readline()):
                raise SystemExit("broken: the site did not answer; its error is above")
            found.append(json.loads(answer))
        site.stdin.close()
    return Row(title, "ms", [each["with"] - each["without"] for each in found], most=100)


def measure_presence(rounds: int, seconds: int, sessions: int, pages: int) -> Iterator[Row]:
    """Measure a site in memory, and one on Redis."""
    title = "CPU time that presence adds to a second with 50 logins"
    yield measure_site(f"{title}, in memory", None, rounds, seconds, sessions, pages)
    with redis_server() as url:
        fill_from_processes(url, range(sessions), 0)
        yield measure_site(f"{title}, on Redis", url, rounds, seconds, sessions, pages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take some seconds, to see that everything works")
    parser.add_argument("--site", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--pages", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.site:
        serve(Site(*options.site))
    elif options.pages:
        asyncio.run(show_pages(options.pages))
    else:
        print(as_table([*measure_presence(*(QUICK if options.quick else FULL))]))


if __name__ == "__main__":
    main()
