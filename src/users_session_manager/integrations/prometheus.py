"""Prometheus metrics of a manager: live sessions, logins, ends and rejections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import get_args

from ..errors import MissingDependency, SessionError, StoreUnavailable
from ..manager import SessionManager
from ..session import Reason, Session

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric
except ImportError as missing:
    raise MissingDependency("prometheus-client", "prometheus") from missing

# In seconds: from a short visit to a whole day.
_DURATIONS = (5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def instrument(manager: SessionManager, *, registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Count what happens to the sessions of `manager` from now on.

    Args:
        manager: The manager of the sessions.
        registry: Where the metrics are registered; the global registry of `prometheus_client` by default.

    Returns:
        A callable that removes the metrics and the listeners; calling it twice is harmless.

    Raises:
        SessionError: `registry` has these metrics already.

    | metric | kind | |
    |---|---|---|
    | `users_session_manager_sessions` | gauge | sessions; one in memory that has expired this moment may be counted |
    | `users_session_manager_sessions_created_total` | counter | logins |
    | `users_session_manager_sessions_ended_total` | counter | by `reason`: `deleted`, `expired` or `evicted` |
    | `users_session_manager_rejections_total` | counter | keys that were unknown or expired |
    | `users_session_manager_session_duration_seconds` | histogram | how long the sessions lasted that have ended |

    No username, no key and no part of one becomes a label: each would be a time series of its own that is kept for
    weeks, and would show the readers of the metrics which users were logged in.

    The gauge asks the store at each scrape, and is left out while the store is unavailable: an old number would look
    like a true one. Several processes: the counters and the histogram count what this process has done, so sum them
    over the processes. Sum the gauge as well for sessions in memory; for a shared store it is the same in each process,
    so take its maximum. With Prometheus' multiprocess mode the counters and the histogram are in its files, and the
    gauge is not: scrape each worker by itself for that.
    """
    metrics = _Metrics(manager)
    try:
        registry.register(metrics)
    except ValueError as duplicate:
        raise SessionError(
            "this registry has the metrics of a SessionManager already: call what instrument() has returned before, "
            "or pass another registry, see docs/how-to/prometheus.md"
        ) from duplicate
    undo = ExitStack()  # it calls nothing the second time
    undo.callback(registry.unregister, metrics)
    undo.enter_context(suppress(KeyError))  # the application may have removed all listeners
    listeners: tuple[Callable[..., None], ...] = (metrics.count_created, metrics.count_ended, metrics.count_rejected)
    for event, listener in zip(("sessionCreated", "sessionEnded", "sessionRejected"), listeners, strict=True):
        manager.on(event, listener)
        undo.callback(manager.remove_listener, event, listener)
    return undo.close


class _Metrics:
    """The metrics of one manager, as one collector: so they are in a registry together or not at all.

    Threads: any thread may call any method; the metrics lock themselves.
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        prefix = "users_session_manager"
        self._created = Counter(f"{prefix}_sessions_created_total", "Sessions that were created.", registry=None)
        self._ended = Counter(f"{prefix}_sessions_ended_total", "Sessions that have ended.", ["reason"], registry=None)
        self._rejections = Counter(f"{prefix}_rejections_total", "Session keys that were rejected.", registry=None)
        self._duration = Histogram(
            f"{prefix}_session_duration_seconds",
            "How long the sessions lasted that have ended.",
            buckets=_DURATIONS,
            registry=None,
        )
        for reason in get_args(Reason):
            self._ended.labels(reason)  # a counter that appears with its first event has no rate at that event

    def count_created(self, _key: str) -> None:
        self._created.inc()

    def count_ended(self, session: Session, reason: str) -> None:
        self._ended.labels(reason).inc()
        # Unix time, as in the session; a clock that was set back gives no negative duration.
        self._duration.observe(max(0.0, time.time() - session.createdAt))

    def count_rejected(self, _key: object) -> None:
        self._rejections.inc()

    def describe(self) -> Iterator[Metric]:
        yield self._sessions()
        yield from self._counted()

    def collect(self) -> Iterator[Metric]:
        gauge = self._sessions()
        with suppress(StoreUnavailable):  # the rest is known all the same
            gauge.add_metric([], len(self._manager.sessions))
            yield gauge
        yield from self._counted()

    def _sessions(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("users_session_manager_sessions", "Sessions that are live.", labels=[])

    def _counted(self) -> Iterator[Metric]:
        for metric in (self._created, self._ended, self._rejections, self._duration):
            yield from metric.collect()
