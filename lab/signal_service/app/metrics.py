# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Prometheus metrics, each with the label ``version``; children are bound once, off the request path."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)
_WEBSOCKET_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COMPUTATION_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_USER_SECONDS = 300.0
_USERS_KEPT = 10_000
_QUERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
QUERIES = ("health", "instruments", "history", "write")
COMPUTATIONS = ("greeks", "moneyness", "historical", "tick")

disable_created_metrics()


class Metrics:
    """All series of one process, which has one version."""

    def __init__(self, version: str, endpoints: Iterable[tuple[str, str]]) -> None:
        """Create the series. ``endpoints`` lists (method, endpoint) pairs.

        Their counters for 200 and 500 start at 0: a series that first appears at 1 has no increase, and the
        first error would stay invisible to rate().
        """
        self._version = version
        self._requests = Counter("signal_requests", "API requests answered.", ("endpoint", "method", "code", "version"))
        self._durations = Histogram(
            "signal_request_duration_seconds",
            "Time from the request's arrival to the last byte of its answer.",
            ("endpoint", "version"),
            buckets=_REQUEST_BUCKETS,
        )
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._duration_children: dict[str, Histogram] = {}
        for method, endpoint in endpoints:
            for code in (200, 500):
                self._request_child(endpoint, method, code)
            self._duration_child(endpoint)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ("version",)).labels(version)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("version",)).labels(version)

        self.websocket_latency = Histogram(
            "signal_websocket_latency_seconds",
            "Round trip of a WebSocket ping frame, from this server to the client and back.",
            ("version",),
            buckets=_WEBSOCKET_BUCKETS,
        ).labels(version)
        self.cache_hits = counter("signal_cache_hits", "Answers taken from Redis.")
        self.cache_misses = counter("signal_cache_misses", "Answers that had to be computed.")
        computations = Counter("signal_computations", "Valuations of one option.", ("kind", "version"))
        self.computations = {kind: computations.labels(kind, version) for kind in COMPUTATIONS}
        durations = Histogram("signal_computation_seconds", "Time of one valuation.", ("kind", "version"), buckets=_COMPUTATION_BUCKETS)
        self._computation_seconds = {kind: durations.labels(kind, version) for kind in COMPUTATIONS}
        self._users: dict[str, float] = {}
        gauge("signal_active_users", "Clients that have asked within five minutes.").set_function(self._active_users)
        self.active_subscriptions = gauge("signal_active_subscriptions", "Instruments subscribed to, over all clients.")
        self.websocket_connections = gauge("signal_websocket_connections", "Open WebSocket connections.")
        queries = Histogram("signal_db_query_seconds", "Time of one database query.", ("query", "version"), buckets=_QUERY_BUCKETS)
        self.queries = {query: queries.labels(query, version) for query in QUERIES}
        self.db_errors = counter("signal_db_errors", "Database operations that failed.")
        self.redis_errors = counter("signal_redis_errors", "Redis operations that failed.")
        self.rows_dropped = counter("signal_rows_dropped", "Rows given up because the write queue was full.")

    def watch_disk(self, folder: str) -> None:
        """Report the size of the file system that holds ``folder``, and what is free of it."""

        def reader(part: str) -> Callable[[], float]:
            def read() -> float:
                try:
                    found = os.statvfs(folder)
                except OSError:
                    return float("nan")
                return float(found.f_frsize * getattr(found, part))

            return read

        for name, text, part in (("size", "Size of the file system.", "f_blocks"), ("free", "Free space of the file system.", "f_bavail")):
            Gauge(f"signal_disk_{name}_bytes", text, ("folder", "version")).labels(folder, self._version).set_function(reader(part))

    def computed(self, kind: str, started: float) -> None:
        """Count one valuation that began at ``started`` of the performance counter."""
        self.computations[kind].inc()
        self._computation_seconds[kind].observe(time.perf_counter() - started)

    def seen(self, user: str) -> None:
        """Note that this client is active. Bounded: clients that make up names must not grow our memory."""
        if user in self._users or len(self._users) < _USERS_KEPT:
            self._users[user] = time.monotonic()

    def _active_users(self) -> float:
        oldest = time.monotonic() - _USER_SECONDS
        self._users = {user: moment for user, moment in self._users.items() if moment >= oldest}
        return float(len(self._users))

    def _request_child(self, endpoint: str, method: str, code: int) -> Counter:
        child = self._requests.labels(endpoint, method, str(code), self._version)
        self._request_children[endpoint, method, code] = child
        return child

    def _duration_child(self, endpoint: str) -> Histogram:
        child = self._durations.labels(endpoint, self._version)
        self._duration_children[endpoint] = child
        return child

    def request(self, endpoint: str, method: str, code: int, seconds: float) -> None:
        """Count one answered request."""
        child = self._request_children.get((endpoint, method, code)) or self._request_child(endpoint, method, code)
        child.inc()
        (self._duration_children.get(endpoint) or self._duration_child(endpoint)).observe(seconds)

    @staticmethod
    def render() -> bytes:
        """Return the page that Prometheus scrapes."""
        return generate_latest(REGISTRY)
