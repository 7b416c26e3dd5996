# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Range queries of bounded size for the reports after a release. Private to this collection.

No query has a subquery, and none asks for more points than it was told to: a window of a month costs Prometheus what one of a day does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _prometheus, _promql
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._usage_math import Series

# A rate needs two samples, and the scrapes of a target are not even.
_SCRAPES_PER_STEP = 4


class NoAnswer(Exception):
    """Prometheus has not answered a query, in words for people."""


@dataclass(frozen=True)
class Subject:
    """Whose series are meant: one version of a service."""

    service: str
    version: str
    namespace: str
    container: str
    labels: Mapping[str, str]

    def own(self, metric: str) -> str:
        return _promql.selector(metric, {**self.labels, "version": self.version})

    def containers(self, metric: str) -> str:
        pods = f"pod=~{_promql.quote(f'{re.escape(self.service)}-{re.escape(self.version)}-.*')}"
        named = [f"container={_promql.quote(self.container)}"] if self.container else ['container!=""', 'container!="POD"']
        return _promql.selector(metric, {"namespace": self.namespace}, pods, *named)


QUERIES: dict[str, Callable[[Subject, str], str]] = {
    "requests_by_code": lambda who, step: f"sum by (code) (rate({who.own('signal_requests_total')}[{step}]))",
    "requests_by_endpoint": lambda who, step: f"sum by (endpoint) (rate({who.own('signal_requests_total')}[{step}]))",
    "duration_buckets": lambda who, step: f"sum by (le) (rate({who.own('signal_request_duration_seconds_bucket')}[{step}]))",
    "cache_hits": lambda who, step: f"sum(rate({who.own('signal_cache_hits_total')}[{step}]))",
    "cache_misses": lambda who, step: f"sum(rate({who.own('signal_cache_misses_total')}[{step}]))",
    "cpu": lambda who, step: f"sum by (pod, container) (rate({who.containers('container_cpu_usage_seconds_total')}[{step}]))",
    "memory": lambda who, step: f"max by (pod, container) (max_over_time({who.containers('container_memory_working_set_bytes')}[{step}]))",
    "starts": lambda who, step: f"max by (pod, container) ({who.containers('container_start_time_seconds')})",
}


def problems_of(overrides: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with queries that replace the built-in ones."""
    found = [f"queries has '{one_line(name, 40)}', expected one of {', '.join(QUERIES)}" for name in sorted(map(str, overrides)) if name not in QUERIES]
    return found + [f"queries.{name} is empty" for name, text in overrides.items() if not str(text or "").strip()]


def written(name: str, who: Subject, step: int, overrides: Mapping[str, Any]) -> str:
    """Return the PromQL text. In an override $version, $step, $namespace and $service stand for what is meant."""
    if not overrides.get(name):
        return QUERIES[name](who, f"{step}s")
    text = str(overrides[name])
    for word, value in (("$version", who.version), ("$step", f"{step}s"), ("$namespace", who.namespace), ("$service", who.service)):
        text = text.replace(word, value)
    return text


def step_of(since: float, until: float, points: int, scrape_interval: float) -> int:
    """Return the seconds between two points: never more than ``points`` of them, and each wide enough for a rate."""
    return max(math.ceil((until - since) / points), math.ceil(_SCRAPES_PER_STEP * scrape_interval), 1)


def steps_in(since: float, until: float, step: int) -> int:
    return max(0, int((until - since) // step))


class Ranges:
    """Asks range queries of one server, each within a deadline."""

    def __init__(self, client: _prometheus.Prometheus, overrides: Mapping[str, Any]) -> None:
        self.client = client
        self.overrides = overrides
        self.asked = 0

    def read(self, name: str, who: Subject, since: float, until: float, step: int) -> list[Series]:
        """Return the series of the query ``name`` over the window, the first point one step after its start. Raises :class:`NoAnswer`."""
        if steps_in(since, until, step) < 1:
            return []
        query = written(name, who, step, self.overrides)
        # From the end backwards: the newest point is the one that matters.
        start = until - (steps_in(since, until, step) - 1) * step
        asked = {"query": query, "start": f"{start:.3f}", "end": f"{until:.3f}", "step": str(step), "partial_response": "false"}
        self.asked += 1
        try:
            payload = self.client.ask("/api/v1/query_range", asked)
        except _prometheus.PrometheusError as error:
            raise NoAnswer(one_line(error.message, 200)) from None
        warnings = [text for text in payload.get("warnings") or [] if not str(text).startswith("PromQL info:")]
        if warnings or payload.get("isPartial"):
            raise NoAnswer(f"the answer is partial: {one_line('; '.join(map(str, warnings)), 160)}")
        data = payload.get("data") or {}
        if data.get("resultType") != "matrix":
            raise NoAnswer(f"the query {name} gives a {data.get('resultType')}, expected series over time")
        return [found for found in map(_series, data.get("result") or []) if found.points]


def _series(body: Mapping[str, Any]) -> Series:
    points = [(float(time), float(value)) for time, value in body.get("values") or []]
    labels = {str(name): str(value) for name, value in (body.get("metric") or {}).items()}
    return Series(labels, tuple((time, value) for time, value in points if math.isfinite(value)))
