# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Prometheus metrics, each with the label ``version``; children are bound once, off the request path."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)
_WEBSOCKET_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
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
        self.active_subscriptions = gauge("signal_active_subscriptions", "Instruments subscribed to, over all clients.")
        self.websocket_connections = gauge("signal_websocket_connections", "Open WebSocket connections.")
        queries = Histogram("signal_db_query_seconds", "Time of one database query.", ("query", "version"), buckets=_QUERY_BUCKETS)
        self.queries = {query: queries.labels(query, version) for query in QUERIES}
        self.db_errors = counter("signal_db_errors", "Database operations that failed.")
        self.redis_errors = counter("signal_redis_errors", "Redis operations that failed.")
        self.rows_dropped = counter("signal_rows_dropped", "Rows given up because the write queue was full.")

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
