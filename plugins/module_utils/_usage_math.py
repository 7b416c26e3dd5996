# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What follows from series of measurements: percentiles, sizes, patterns, trends. Pure, private to this collection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import fmean, median
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _statistics

Points = Sequence[tuple[float, float]]
# Usage this near to its limit may have been cut by it.
_CLIPPED = 0.95
_CPU_STEP, _MEMORY_STEP = 0.01, 8 * 2**20
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Series:
    """One series of a range query: its labels, and its finite values by time."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def values(self) -> list[float]:
        return [value for _time, value in self.points]


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Return the value that ``percent`` of ``values`` do not exceed, by the nearest rank; None for no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return the figures by which usage is told."""
    return {
        "p50": percentile(values, 50),
        "p95": percentile(values, 95),
        "max": max(values, default=None),
        "samples": len(values),
    }


def histogram_quantile(quantile: float, counts: Mapping[float, float]) -> float | None:
    """Return a quantile of a Prometheus histogram: ``counts`` are cumulative, by the upper bound of the bucket.

    As Prometheus does it: linear within a bucket, the first one from 0, and the highest finite bound for what lies above it. Over counts of a whole
    window it is the quantile of that window, which a mean of many quantiles is not.
    """
    bounds = sorted(counts)
    if not bounds or not math.isinf(bounds[-1]) or counts[bounds[-1]] <= 0:
        return None
    rank = quantile * counts[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        # Rates of single buckets may be off by a rounding; a cumulative count never falls.
        count = max(below, counts[bound])
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        below = count
        lower = lower if math.isinf(bound) else bound
    return lower


def total(points: Points, step: float) -> float:
    """Return how much a rate per second came to, in steps of ``step`` seconds."""
    return sum(value for _time, value in points) * step


def covered_percent(series: Iterable[Series], steps: int) -> float:
    """Return for how many of the window's steps there is any value, in percent."""
    times = {time for one in series for time, _value in one.points}
    return 100.0 * min(len(times), steps) / steps if steps else 0.0


def changes(points: Points) -> int:
    """Return how often a value changed, which for the time a container started is how often it was restarted, at least."""
    values = [value for _time, value in points]
    return sum(one != other for one, other in zip(values, values[1:]))


def summed(series: Iterable[Series]) -> list[tuple[float, float]]:
    """Return the sum of all series at each time."""
    sums: dict[float, float] = {}
    for one in series:
        for time, value in one.points:
            sums[time] = sums.get(time, 0.0) + value
    return sorted(sums.items())


def highest(series: Iterable[Series]) -> list[tuple[float, float]]:
    """Return the highest of all series at each time."""
    found: dict[float, float] = {}
    for one in series:
        for time, value in one.points:
            found[time] = max(found.get(time, -math.inf), value)
    return sorted(found.items())


# ------------------------------------------------------------------------------------------------ sizes


@dataclass(frozen=True)
class Rule:
    """How sizes follow from usage. Percents on top of it, the change that is worth one, and the least sizes (cores, bytes)."""

    cpu_headroom: float
    memory_headroom: float
    tolerance: float
    minimum_cpu: float
    minimum_memory: float


def _up(value: float, step: float) -> float:
    # A hair less than a whole step is a whole step: 0.03 / 0.01 is 2.9999999999999996 in binary.
    return round(math.ceil(round(value / step, 6)) * step, 6)


def propose(usage: Mapping[str, Mapping[str, Any]], current: Mapping[str, float | None], rule: Rule) -> dict[str, dict[str, Any]]:
    """Return the size that follows from ``usage`` for each of the requests and limits, and whether it differs enough to be worth a change.

    Requests: the 95th percentile and headroom. Limits, where one is set: the highest value and headroom, not below the request. Memory without
    a limit gets one, CPU does not, since a limit of CPU slows down what is not in anybody's way; and it is never lowered, since usage of CPU is a
    mean that hides bursts. Usage at its limit was cut by it: how much it would have been is not known, so such a limit is doubled.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, headroom, least, step in (
        ("cpu", rule.cpu_headroom, rule.minimum_cpu, _CPU_STEP),
        ("memory", rule.memory_headroom, rule.minimum_memory, _MEMORY_STEP),
    ):
        p95, most = usage[kind].get("p95"), usage[kind].get("max")
        if p95 is None or most is None:
            continue
        request = _up(max(p95 * (1 + headroom / 100), least), step)
        limit = current.get(f"limit_{kind}")
        clipped = limit is not None and most >= _CLIPPED * limit
        found[f"request_{kind}"] = _entry(current.get(f"request_{kind}"), request, rule.tolerance, False)
        if limit is not None or kind == "memory":
            wanted = max(request, _up(most * (1 + headroom / 100), step))
            if clipped and limit is not None:
                wanted = max(wanted, _up(2 * limit, step))
            if kind == "cpu" and limit is not None:
                wanted = max(wanted, limit)
            found[f"limit_{kind}"] = _entry(limit, wanted, rule.tolerance, clipped)
    for kind in ("cpu", "memory"):
        request, bound = found.get(f"request_{kind}"), found.get(f"limit_{kind}")
        # A request that stays may be above a limit that is lowered.
        if request and bound and _kept(request) > _kept(bound):
            bound.update(proposed=_kept(request), change=_kept(request) != bound["current"])
    return found


def _kept(entry: Mapping[str, Any]) -> float:
    return entry["proposed"] if entry["change"] else entry["current"]


def _entry(current: float | None, proposed: float, tolerance: float, clipped: bool) -> dict[str, Any]:
    change = current is None or abs(proposed - current) > tolerance / 100 * current
    return {"current": current, "proposed": proposed, "change": change, "clipped": clipped}


def quantity_text(kind: str, value: float) -> str:
    """Return cores or bytes as Kubernetes writes them."""
    if kind == "cpu":
        return f"{round(1000 * value)}m"
    return f"{math.ceil(value / 2**20)}Mi"


def patch(containers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the strategic merge patch of a Deployment for proposals by container; empty when nothing is worth a change."""
    entries = []
    for name, sizes in containers.items():
        resources: dict[str, dict[str, str]] = {}
        for key, entry in sizes.items():
            bound, kind = key.split("_")
            if entry["change"]:
                resources.setdefault(f"{bound}s", {})[kind] = quantity_text(kind, entry["proposed"])
        if resources:
            entries.append({"name": name, "resources": resources})
    return {"spec": {"template": {"spec": {"containers": entries}}}} if entries else {}


# ------------------------------------------------------------------------------------------------ patterns


def patterns(points: Points, step: float) -> dict[str, Any]:
    """Return the mean rate by hour of the day and by weekday (UTC), the mean, the peak and when it was.

    An hour needs steps no longer than itself, and a weekday so many of them: what would be smeared is left out.
    """
    values = [value for _time, value in points]
    mean = fmean(values) if values else None
    peak = max(points, key=lambda point: point[1], default=None)
    return {
        "mean_per_second": mean,
        "peak_per_second": None if peak is None else peak[1],
        "peak_time": None if peak is None else moment(peak[0]),
        "peak_to_mean": None if peak is None or not mean else peak[1] / mean,
        "by_hour": _by(points, lambda when: when.hour) if step <= 3600 else {},
        "by_weekday": {_WEEKDAYS[day]: value for day, value in _by(points, lambda when: when.weekday()).items()} if step <= 86400 / 4 else {},
        "step_seconds": step,
    }


def _by(points: Points, part: Any) -> dict[int, float]:
    groups: dict[int, list[float]] = {}
    for time, value in points:
        groups.setdefault(part(datetime.fromtimestamp(time, timezone.utc)), []).append(value)
    return {key: fmean(values) for key, values in sorted(groups.items())}


def moment(time: float) -> str:
    """Return a unix time as the record writes times, without fractions."""
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# ------------------------------------------------------------------------------------------------ trend


def trend(points: Points, limit: float | None, confidence: float) -> dict[str, Any] | None:
    """Return a robust line through ``points`` and the days until it meets ``limit``; None when no line can be drawn.

    ``days`` is by the line itself, ``days_at_least`` by the steepest line within the confidence, ``days_at_most`` by the flattest. None is never.
    ``level`` is the median of the last tenth.
    """
    found = _statistics.line(points, confidence)
    if found is None:
        return None
    level = median(value for _time, value in points[-max(1, len(points) // 10) :])
    return {
        "level": level,
        "per_day": found.slope * 24,
        "per_day_low": found.low * 24,
        "per_day_high": found.high * 24,
        "samples": len(points),
        "limit": limit,
        "days": _days(level, limit, found.slope * 24),
        "days_at_least": _days(level, limit, found.high * 24),
        "days_at_most": _days(level, limit, found.low * 24),
    }


def _days(level: float, limit: float | None, per_day: float) -> float | None:
    if limit is None:
        return None
    if level >= limit:
        return 0.0
    return (limit - level) / per_day if per_day > 0 else None
