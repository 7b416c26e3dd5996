# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The share of the requests that the canary was seen to get, and when it proves a weight. Pure; private to this collection.

Counted are the increases of request counters after a weight was written. The share of n requests at weight p has a standard
deviation of sqrt(p (1 - p) / n); a share within three of them agrees with the weight, and n must be large enough that the
weight before would not agree as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _promql, _weights

SIGMAS = 3.0
# Names that the metric presets for the same counters have, so that one word means one thing.
PRESETS = ("requests", "gateway_requests", "istio_requests")
# Label that tells the two versions' series apart in one answer.
SIDE = "signal_rollout_side"


def share_of(weights: _weights.Weights) -> float:
    """Return the canary's part, from 0 to 1, of what stable and canary get together."""
    return weights.canary / max(1, weights.stable + weights.canary)


def requests_needed(before: float | None, target: float, minimum: int) -> int:
    """Return how many requests tell the share ``target`` from the share ``before`` with three standard deviations of each.

    From 3 s(target) + 3 s(before) < |target - before| with s(p) = sqrt(p (1 - p) / n). Never less than ``minimum``, which
    alone counts when ``before`` is None or the same.
    """
    if before is None or before == target:
        return minimum
    spread = math.sqrt(target * (1 - target)) + math.sqrt(before * (1 - before))
    return max(minimum, math.floor((SIGMAS * spread / (target - before)) ** 2) + 1)


def band(target: float, requests: float) -> tuple[float, float]:
    """Return the lowest and the highest share that agree with ``target`` among ``requests`` requests (three sigma, binomial)."""
    if requests <= 0:
        return 0.0, 1.0
    reach = SIGMAS * math.sqrt(target * (1 - target) / requests)
    return max(0.0, target - reach), min(1.0, target + reach)


@dataclass(frozen=True)
class Window:
    """Requests counted between two looks, and the share of the canary's among them."""

    requests: float
    share: float
    seconds: float

    def agrees(self, target: float) -> bool:
        low, high = band(target, self.requests)
        # A float's last digit must not refuse a share that is exactly the limit.
        return low - 1e-9 <= self.share <= high + 1e-9


class Growth:
    """Adds up by how much counters have grown, series by series, across restarts and new series."""

    def __init__(self) -> None:
        self._last: dict[Any, float] = {}
        self._total = 0.0
        self._begun = False

    def add(self, series: dict[Any, float]) -> float:
        """Take a look's values and return the growth since the first look.

        A series that was not there at the first look has grown from 0; one that is smaller than before was restarted and has
        grown by all it shows; one that is missing keeps what it had.
        """
        for name, value in series.items():
            last = self._last.get(name, 0.0)
            if self._begun:
                self._total += value - last if value >= last else value
            self._last[name] = value
        self._begun = True
        return self._total


@dataclass
class Watch:
    """The looks of one observation. ``target`` and ``before`` are shares from 0 to 1, ``needed`` a number of requests."""

    target: float
    needed: int
    _stable: Growth = field(default_factory=Growth)
    _canary: Growth = field(default_factory=Growth)
    _looks: list[tuple[float, float, float]] = field(default_factory=list)

    def look(self, at: float, stable: dict[Any, float], canary: dict[Any, float]) -> None:
        """Take what the counters show at ``at`` seconds."""
        self._looks.append((at, self._stable.add(stable), self._canary.add(canary)))

    @property
    def requests(self) -> float:
        """Requests counted since the first look."""
        return self._looks[-1][1] + self._looks[-1][2] if self._looks else 0.0

    def window(self) -> Window | None:
        """Return the newest stretch that has enough requests; None while there is none.

        The newest and not the whole: what was counted before every proxy had the weight must be able to age out.
        """
        if not self._looks:
            return None
        at, stable, canary = self._looks[-1]
        for earlier, stable_then, canary_then in reversed(self._looks[:-1]):
            requests = stable - stable_then + canary - canary_then
            if requests >= self.needed:
                return Window(requests, (canary - canary_then) / requests, at - earlier)
        return None


def query_of(stable: str, canary: str) -> str:
    """Return one query for the counters of both versions, so that both are seen at the same moment."""
    marked = [f'label_replace({query}, "{SIDE}", "{side}", "", "")' for side, query in (("stable", stable), ("canary", canary))]
    return " or ".join(marked)


def counters(preset: str, host: str, subset: str, labels: dict[str, str], namespace: str) -> str:
    """Return the selector of the counters of requests to one destination.

    ``host`` is the full name of its service; ``subset`` is empty when the service alone is the destination.
    """
    if preset == "requests":
        return _promql.selector("signal_requests_total", {**labels, "version": subset or host.split(".")[0]})
    if preset == "gateway_requests":
        cluster = rf"outbound\|[0-9]+\|{re.escape(subset)}\|{re.escape(host)}"
        matchers = [f"envoy_cluster_name=~{_promql.quote(cluster)}", 'envoy_response_code!=""']
        return _promql.selector("envoy_cluster_upstream_rq", labels, *matchers)
    service, _dot, rest = host.partition(".")
    named = {"reporter": "source", "destination_service_name": service}
    named["destination_service_namespace"] = rest.split(".")[0] or namespace
    if subset:
        named["destination_version"] = subset
    return _promql.selector("istio_requests_total", {**labels, **named})


def sides_of(payload: dict[str, Any]) -> tuple[dict[Any, float], dict[Any, float]]:
    """Return the values of the stable and the canary series of an answer to :func:`query_of`.

    Raises :class:`ValueError` with the reason when the answer is no list of finite counters.
    """
    data = payload.get("data") or {}
    # Prometheus before 3.0 lists its remarks on style among the warnings.
    warnings = [text for text in payload.get("warnings") or [] if not str(text).startswith("PromQL info:")]
    if warnings or payload.get("isPartial"):
        raise ValueError(f"Prometheus warns: {warnings[0] if warnings else 'the answer is partial'}")
    if data.get("resultType") != "vector":
        raise ValueError(f"the queries give a {data.get('resultType') or 'nothing known'}, expected counters (a vector)")
    sides: dict[str, dict[Any, float]] = {"stable": {}, "canary": {}}
    for series in _series(data.get("result")):
        labels = dict(series.get("metric") or {})
        value = float(series["value"][1])
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"a counter is {value}, expected a number of requests")
        side = sides.get(labels.pop(SIDE, ""))
        if side is not None:
            side[tuple(sorted(labels.items()))] = value
    return sides["stable"], sides["canary"]


def _series(result: Any) -> Iterable[dict[str, Any]]:
    if not isinstance(result, list) or not all(isinstance(item, dict) and "value" in item for item in result):
        raise ValueError("the answer has series without a plain value, expected counters")
    return result
