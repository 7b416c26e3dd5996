# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the statistical rules of a gated metric: bands, baseline and slope. Pure; private to this collection.

A rule that could never decide, or that would decide on nothing, is a mistake like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _statistics
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import (
    LONGEST,
    Bands,
    Baseline,
    Figure,
    Limit,
    Metric,
    Slope,
    expected_polls,
)
from ansible_collections.signal.rollout.plugins.module_utils._question import Question

# What a metric's unit is worth as a share from 0 to 1.
SHARES = {"%": 0.01, "percent": 0.01, "ratio": 1.0, "1": 1.0}
FEWEST_COMPARED = 4
FEWEST_POINTS = 5


@dataclass(frozen=True)
class Timing:
    """For how long something is watched, and how often; in seconds."""

    duration: float
    interval: float

    @property
    def polls(self) -> int:
        return expected_polls(self.duration, self.interval)

    def of(self, metric: Metric) -> Timing:
        """The part of this hold in which ``metric`` is watched."""
        return Timing(self.duration - metric.initial_delay, self.interval if metric.interval is None else metric.interval)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_bands(
    where: str,
    entry: dict[str, Any] | None,
    limit: Limit | None,
    figure: Figure | None,
    strict: bool,
    problems: list[str],
) -> Bands | None:
    """Return the two bands that ``entry`` describes. ``strict`` is whether the counting rules are those of the first sample."""
    if not entry:
        return None
    before = len(problems)
    where = f"{where}: bands"
    errors, requests = (Question(entry[name]) if (entry.get(name) or "").strip() else None for name in ("errors", "requests"))
    if errors is None and requests is None and figure is not None:
        errors, requests = figure.errors, figure.requests
    if errors is None or requests is None:
        problems.append(f"{where}: errors and requests are not both given, expected queries for both counts of the hold so far, or a preset of a share")
    if not strict:
        problems.append(f"{where} and failure_limit, consecutive_failure_limit or count: expected one rule for samples over the limit, not two")
    for name in ("alpha", "beta"):
        if not (is_number(entry[name]) and 0 < entry[name] < 0.5):
            problems.append(f"{where}: {name} is {entry[name]}, expected a chance above 0 and below 0.5")
    if limit is None:
        return None
    scale = SHARES.get(limit.unit)
    if limit.kind not in ("below", "at_most") or scale is None or limit.value <= 0:
        problems.append(f"{where}: the limit is {limit}, expected below or at_most a share above 0 in one of {', '.join(SHARES)}")
        return None
    far = _far(where, entry, limit, scale, problems)
    shares = {}
    for name, times in (("acceptable", 0.5), ("unacceptable", 2.0)):
        value = entry.get(name)
        shares[name] = (limit.value * times if value is None else value) * scale if value is None or is_number(value) else math.nan
    if not 0 < shares["acceptable"] <= limit.value * scale <= shares["unacceptable"] < 1 or shares["acceptable"] == shares["unacceptable"]:
        problems.append(
            f"{where}: acceptable and unacceptable are {shares['acceptable'] / scale:g} and {shares['unacceptable'] / scale:g} {limit.unit}, "
            f"expected one on each side of the limit of {limit.value:g} {limit.unit}, the second below {1 / scale:g} {limit.unit}"
        )
    if len(problems) > before or far is None or errors is None or requests is None:
        return None
    return Bands(
        far=far,
        errors=errors,
        requests=requests,
        good=shares["acceptable"],
        bad=shares["unacceptable"],
        alpha=entry["alpha"],
        beta=entry["beta"],
        scale=scale,
    )


def _far(where: str, entry: dict[str, Any], limit: Limit, scale: float, problems: list[str]) -> float | None:
    given = {name: entry[name] for name in ("far", "breach_at") if entry.get(name) is not None}
    if len(given) != 1:
        problems.append(f"{where}: it has {' and '.join(given) or 'neither'} of far and breach_at, expected exactly one")
        return None
    (name, value), = given.items()
    far = value * limit.value if name == "far" else value
    if not (is_number(value) and limit.value < far < 1 / scale):
        problems.append(
            f"{where}: {name} is {value}, which is {far:g} {limit.unit}, expected above the limit of {limit.value:g} and below {1 / scale:g} {limit.unit}"
        )
        return None
    return far


def read_baseline(
    where: str,
    entry: dict[str, Any],
    limit: Limit | None,
    canary: Figure | None,
    stable: Figure | None,
    window: float | None,
    own: Timing | None,
    problems: list[str],
) -> Baseline | None:
    """Return the comparison that ``entry`` describes; ``canary`` and ``stable`` are the two figures that are compared."""
    before = len(problems)
    where = f"{where}: baseline"
    if canary is not None and stable is not None:
        if canary.question == stable.question:
            problems.append(f"{where}: its query is that of the metric itself, expected the same figure of the stable version")
        if limit is not None and stable.unit and limit.unit != stable.unit:
            problems.append(f"{where}: its preset is in '{stable.unit}', but the metric in '{limit.unit}'")
    if window is None:
        problems.append(f"{where}: the metric's window is not known, expected window in seconds: samples of overlapping windows are not independent")
    tolerances = {name: entry.get(name) for name in ("tolerance", "tolerance_percent")}
    if all(value is None for value in tolerances.values()):
        problems.append(f"{where}: it has no tolerance, expected tolerance, tolerance_percent or both: no two versions are exactly alike")
    for name, value in tolerances.items():
        if value is not None and not (is_number(value) and value >= 0):
            problems.append(f"{where}: {name} is {value}, expected a number of 0 or more")
    _confidence(where, entry["confidence"], problems)
    minimum = entry["minimum_samples"]
    if minimum < FEWEST_COMPARED:
        problems.append(f"{where}: minimum_samples is {minimum}, expected at least {FEWEST_COMPARED}")
    if len(problems) > before or limit is None or stable is None or window is None:
        return None
    direction = entry.get("direction") or ("increase" if limit.kind in ("below", "at_most") else "decrease")
    looks: tuple[int, ...] = (minimum,)
    spacing = window
    if own is not None:
        spacing = max(window, own.interval)
        total = expected_polls(own.duration, spacing)
        if total < minimum:
            problems.append(
                f"{where}: the hold has only {total} windows of {spacing:g} s, and minimum_samples is {minimum}: it could never be judged; "
                "expected a longer hold, a shorter window or fewer samples"
            )
            return None
        looks = _statistics.looks(minimum, total)
        if _statistics.smallest_p(total) >= (1 - entry["confidence"]) / len(looks):
            problems.append(f"{where}: {total} samples of each version can never show a difference with a confidence of {entry['confidence']:g}")
            return None
    return Baseline(
        question=stable.question,
        freshness=Question(entry["freshness"]) if entry.get("freshness") else stable.freshness,
        increase=direction == "increase",
        absolute=float(tolerances["tolerance"] or 0.0),
        relative=float(tolerances["tolerance_percent"] or 0.0) / 100.0,
        confidence=entry["confidence"],
        minimum_samples=minimum,
        spacing=spacing,
        looks=looks,
    )


def read_slope(where: str, entry: dict[str, Any], own: Timing | None, problems: list[str]) -> Slope | None:
    """Return the fastest growth that ``entry`` allows."""
    before = len(problems)
    where = f"{where}: slope"
    if not is_number(entry["at_most"]):
        problems.append(f"{where}: at_most is {entry['at_most']}, expected a finite number, in the metric's unit per hour")
    _confidence(where, entry["confidence"], problems)
    warm_up, span, minimum = entry["warm_up"], entry.get("minimum_span"), entry["minimum_samples"]
    if not (is_number(warm_up) and 0 <= warm_up <= LONGEST):
        problems.append(f"{where}: warm_up is {warm_up} s, expected a number from 0 to {LONGEST:g}")
    if span is not None and not (is_number(span) and 0 < span <= LONGEST):
        problems.append(f"{where}: minimum_span is {span} s, expected a number above 0")
    if minimum < FEWEST_POINTS:
        problems.append(f"{where}: minimum_samples is {minimum}, expected at least {FEWEST_POINTS}")
    if len(problems) > before:
        return None
    spans: tuple[float, ...] = () if span is None else (span,)
    if own is not None:
        whole = own.duration - warm_up
        span = whole / 2 if span is None else span
        if whole < span or whole <= 0:
            problems.append(
                f"{where}: after warm_up {max(0.0, whole):g} s of the hold are left, expected at least minimum_span, which is {max(0.0, span):g} s: "
                "the growth could never be judged"
            )
            return None
        if expected_polls(span, own.interval) < minimum:
            problems.append(
                f"{where}: minimum_span of {span:g} s has only {expected_polls(span, own.interval)} polls, and minimum_samples is {minimum}; "
                "expected a longer span, a shorter interval or fewer samples"
            )
            return None
        spans = _statistics.spans(span, whole)
    return Slope(float(entry["at_most"]), entry["confidence"], float(warm_up), minimum, spans)


def _confidence(where: str, value: Any, problems: list[str]) -> None:
    if not (is_number(value) and 0.5 < value < 1):
        problems.append(f"{where}: confidence is {value}, expected a number above 0.5 and below 1, such as 0.95")
