"""The rounds: each operation, everybody in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .forms import Form
from .lineup import NPM, QUADRATIC, Contestant
from .player import Player, players
from .results import Results

IN_ORDER, AS_REQUESTS_COME = "in order", "as requests come"

OF_A_KEY = (
    "checkSessionStatus",
    "getUsernameFromSessionKey",
    "getSessionDetails",
    "setSessionData",
    "getSessionData",
    "restartSessionTimer",
)
OF_NO_KEY = ("setSessionTimeOut", "getSessionTimeout", "initSocketReference", "getSocketReference", "sendLogoutMessage")


@dataclass(frozen=True)
class Turn:
    """What is timed in one go: one operation, or several that belong together."""

    what: str
    operations: tuple[str, ...]
    pattern: str = IN_ORDER
    seldom: bool = False  # it takes long


PAIR = ("loadNewSession", "deleteSession")
OPERATIONS = (*PAIR, *OF_A_KEY, "createNewSessionTimer", "getLoggedUsers", "deleteAllSessions", *OF_NO_KEY)
"""All methods of the npm API, in the order in which the tables have them."""

TURNS = (
    Turn("deleteAllSessions", ("deleteAllSessions",), seldom=True),  # the sessions are as if new after it
    Turn("login and logout", PAIR),
    *(Turn(what, (what,)) for what in OF_A_KEY),
    Turn("createNewSessionTimer", ("createNewSessionTimer",)),
    Turn("settings", OF_NO_KEY),
    Turn("getLoggedUsers", ("getLoggedUsers",)),
    Turn("login and logout", PAIR, AS_REQUESTS_COME),
    *(Turn(what, (what,), AS_REQUESTS_COME) for what in OF_A_KEY),
)
TURNS_ON_REDIS = tuple(turn for turn in TURNS if turn.pattern == AS_REQUESTS_COME)


Seats = list[tuple[Player, int]]


def measure_operations(
    results: Results,
    section: str,
    contestants: Sequence[Contestant],
    turns: Sequence[Turn],
    listeners: Sequence[int],
    form: Form,
    cache: Path,
    *arguments: str,
) -> None:
    """Time each operation of each contestant at each size, with everybody's sessions there all the while."""
    places = [(contestant, size) for size in form.sizes for contestant in contestants]
    with players([contestant for contestant, _ in places], cache, *arguments) as started:
        seats: Seats = [(player, size) for player, (_, size) in zip(started, places, strict=True)]
        for player, size in seats:
            fill(player, size)
        for count in listeners:
            for player, _ in seats:
                player.words = player.words or player.ask("listen", listeners=count).get("words")
            for pattern in (IN_ORDER, AS_REQUESTS_COME):  # the second one mixes up what is in order
                play_rounds(results, section, [turn for turn in turns if turn.pattern == pattern], count, seats, form)


def play_rounds(
    results: Results, section: str, turns: Sequence[Turn], listeners: int, seats: Seats, form: Form
) -> None:
    """Let the operations come in one order in each round, and for each of them the contestants and sizes in a new one.

    So whatever drifts on the machine drifts for all.
    """
    for number in range(-form.warm_ups, form.rounds):
        for turn in turns:
            if not turn.seldom or number % 5 == 0:
                take_turns(results if number >= 0 else None, section, turn, listeners, seats, form)


def fill(player: Player, size: int) -> None:
    if size > player.contestant.most_sessions:
        player.words = player.contestant.why_no_more
    else:
        player.words = player.ask("fill", size=size).get("words")


def take_turns(results: Results | None, section: str, turn: Turn, listeners: int, seats: Seats, form: Form) -> None:
    for player, size in random.sample(seats, len(seats)):
        answer = take_turn(turn, player, size, form)
        for operation in turn.operations if results is not None else ():
            found = answer["words"] if "words" in answer else answer["ns"][operation] / 1000
            results.add(section, (operation, turn.pattern, size, listeners), player.contestant.id, "µs", found)


def take_turn(turn: Turn, player: Player, size: int, form: Form) -> dict[str, Any]:
    if player.words:
        return {"words": player.words}
    if player.contestant is NPM and turn.what == "getLoggedUsers" and size > 1000:
        return {"words": QUADRATIC}
    calls = form.calls // player.contestant.slowness
    most = form.most if player.contestant.slowness == 1 else calls
    return player.ask("time", what=turn.what, pattern=turn.pattern, calls=calls, most=most)
