"""How much is done: the full form, which takes its time, and the quick one, which only sees that everything works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Form:
    """The amounts of a run."""

    name: str
    sizes: tuple[int, ...]  # of the operations
    rounds: int
    warm_ups: int  # rounds that are not counted: V8 compiles what has run for a while
    calls: int  # at least so many a turn
    most: int  # sessions that one pass goes through at most
    most_of_slow: int  # sessions that those have to keep which take long for it
    memory_sizes: tuple[int, ...]
    memory_runs: int
    late_sessions: int
    late_runs: int
    starts: int
    threaded_calls: int
    threaded_runs: int
    idle_sessions: int
    idle_seconds: int
    redis_sizes: tuple[int, ...]
    redis_rounds: int
    redis_calls: int

    def with_changes(self, sizes: Sequence[int] | None, rounds: int | None) -> Form:
        return replace(self, sizes=tuple(sizes or self.sizes), rounds=rounds or self.rounds)


FULL = Form(
    name="full",
    sizes=(1_000, 10_000, 100_000),
    rounds=5,
    warm_ups=1,
    calls=20_000,
    most=100_000,
    most_of_slow=10_000,
    memory_sizes=(10_000, 100_000),
    memory_runs=3,
    late_sessions=100_000,
    late_runs=5,
    starts=10,
    threaded_calls=200_000,
    threaded_runs=7,
    idle_sessions=100_000,
    idle_seconds=10,
    redis_sizes=(1_000,),
    redis_rounds=5,
    redis_calls=2_000,
)

QUICK = Form(
    name="quick",
    sizes=(1_000, 10_000),
    rounds=2,
    warm_ups=0,
    calls=2_000,
    most=2_000,
    most_of_slow=1_000,
    memory_sizes=(1_000, 10_000),
    memory_runs=2,
    late_sessions=2_000,
    late_runs=1,
    starts=3,
    threaded_calls=20_000,
    threaded_runs=2,
    idle_sessions=10_000,
    idle_seconds=1,
    redis_sizes=(1_000,),
    redis_rounds=2,
    redis_calls=200,
)
