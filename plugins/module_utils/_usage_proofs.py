# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which boxes of day 1, week 1 and month 1 follow from a report, and why others do not. Pure, private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

PROVEN, FAILED = "proven", "failed"
_EVIDENCE_LIMIT = 300
Parts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Demands:
    """What a report must have before it proves anything, and the limits by which it fails. ``complete``: the window has passed."""

    complete: bool
    minimum_samples: int
    minimum_coverage: float
    minimum_requests: int
    limits: Mapping[str, float] = field(default_factory=dict)


class Unproven(Exception):
    """Why a box stays open."""


# Box to the part it is read from.
BOXES: dict[str, str] = {
    "day_1.metrics": "metrics",
    "day_1.error_logs": "error_logs",
    "week_1.tuning": "resources",
    "week_1.cache": "cache",
    "week_1.resources": "resources",
    "month_1.usage": "usage",
    "month_1.capacity": "capacity",
}


def proofs(parts: Parts, demands: Demands) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the proofs of the boxes whose parts are there, and for the other boxes of these parts why they stay open."""
    found: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for box, name in BOXES.items():
        part = parts.get(name)
        if part is None:
            continue
        try:
            if part.get("error"):
                raise Unproven(str(part["error"]))
            state, words = _RULES[box](part, demands)
            found[box] = {"state": state, "evidence": one_line(words, _EVIDENCE_LIMIT)}
        except Unproven as reason:
            reasons[box] = str(reason)
    return found, reasons


def _enough(part: Mapping[str, Any], demands: Demands, samples: int | None = None) -> None:
    """Raise :class:`Unproven` unless the window has passed and the measurements cover it."""
    if not demands.complete:
        raise Unproven("the time after the release that this is about has not passed yet")
    covered = part.get("covered_percent") or 0.0
    if covered < demands.minimum_coverage:
        raise Unproven(f"the measurements cover {covered:g} % of the time, expected at least {demands.minimum_coverage:g} %")
    if samples is not None and samples < demands.minimum_samples:
        raise Unproven(f"there are {samples} samples, expected at least {demands.minimum_samples}")


def _verdict(broken: list[str], words: str) -> tuple[str, str]:
    return (FAILED, f"{'; '.join(broken)}. {words}") if broken else (PROVEN, words)


def _metrics(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    green, blue = part["green"], part["blue"]
    _enough(green, demands, green["samples"])
    if green["error_percent"] is None or green["p99_ms"] is None:
        raise Unproven("there were no requests whose errors or latency could be told")
    broken = []
    for name, words, unit in (("error_percent", "error rate", "%"), ("p99_ms", "p99", "ms")):
        limit = demands.limits.get(name)
        if limit is not None and green[name] >= limit:
            broken.append(f"{words} {green[name]:.4g} {unit}, expected < {limit:g} {unit}")
    before = "" if blue.get("error") else f" (before {blue['error_percent'] or 0:.3g} %, {_number(blue['p99_ms'])} ms)"
    figures = f"{green['requests']} requests, error rate {green['error_percent']:.3g} %, p99 {green['p99_ms']:.4g} ms{before}"
    return _verdict(broken, f"{figures}, restarts {green['restarts']}")


def _error_logs(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    if demands.complete and not part["lines"]:
        raise Unproven("there is no line of that time: no errors and no log look alike")
    _enough(part, demands)
    worst = ", ".join(f"{entry['error_type']} {entry['count']}" for entry in part["errors"][:3])
    limit = demands.limits.get("log_errors_per_hour")
    broken = [] if limit is None or part["per_hour"] < limit else [f"{part['per_hour']:.3g} errors an hour, expected < {limit:g}"]
    return _verdict(broken, f"{part['count']} errors in {len(part['errors'])} types among {part['lines']} lines{': ' if worst else ''}{worst}")


def _samples(part: Mapping[str, Any]) -> int:
    counts = [entry["usage"][kind]["samples"] for entry in part["containers"].values() for kind in ("cpu", "memory")]
    return min(counts, default=0)


def _resources(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    _enough(part, demands, _samples(part))
    broken, figures = [], []
    for name, entry in part["containers"].items():
        for kind in ("cpu", "memory"):
            limit, most = entry["current"].get(f"limit_{kind}"), demands.limits.get(f"{kind}_percent")
            if not limit:
                continue
            used = 100 * entry["usage"][kind]["p95"] / limit
            figures.append(f"{name} {kind} p95 {used:.3g} % of its limit")
            if most is not None and used >= most:
                broken.append(f"{name} {kind} p95 {used:.3g} % of its limit, expected < {most:g} %")
    if not figures:
        figures = [f"{name}: no limit is set" for name in part["containers"]]
    return _verdict(broken, f"{', '.join(figures)}; {_samples(part)} samples")


def _tuning(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    _enough(part, demands, _samples(part))
    if part["requests"] < demands.minimum_requests:
        raise Unproven(f"there were {part['requests']} requests, expected at least {demands.minimum_requests}: that is no real load")
    changes = sum(size["change"] for entry in part["containers"].values() for size in entry["sizes"].values())
    words = f"{changes} sizes are proposed to change" if changes else "the sizes fit, none is proposed to change"
    return PROVEN, f"{words}, from {part['requests']} requests and {_samples(part)} samples"


def _cache(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    _enough(part, demands)
    if part["hit_percent"] is None:
        raise Unproven("the cache was not asked for anything")
    if not part["nodes"]:
        raise Unproven("no settings of Redis could be read")
    limit = demands.limits.get("cache_hit_percent")
    broken = [] if limit is None or part["hit_percent"] > limit else [f"hit rate {part['hit_percent']:.4g} %, expected > {limit:g} %"]
    for node in part["nodes"]:
        totals = node.get("totals") or {}
        if node.get("maxmemory_policy") == "noeviction" and node.get("maxmemory") and (node.get("used_percent") or 0) >= 100:
            broken.append(f"{node.get('address')} is full and refuses writes")
        elif totals.get("evicted") and totals.get("keys") and totals["evicted"] > totals["keys"]:
            broken.append(f"{node.get('address')} has evicted {totals['evicted']} keys and holds {totals['keys']}")
    settings = ", ".join(f"{node.get('address')} {node.get('maxmemory_policy')}" for node in part["nodes"])
    return _verdict(broken, f"hit rate {part['hit_percent']:.4g} % of {part['lookups']} lookups; {settings}; {len(part['hints'])} hints")


def _usage(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    _enough(part, demands, part["samples"])
    if not part["requests"] or not part["by_endpoint"]:
        raise Unproven("there were no requests")
    first = part["by_endpoint"][0]
    return PROVEN, (
        f"{part['requests']} requests, mean {part['mean_per_second']:.3g}/s, peak {part['peak_per_second']:.3g}/s at {part['peak_time']}, "
        f"most for {first['endpoint']} ({first['percent']:.3g} %)"
    )


def _capacity(part: Mapping[str, Any], demands: Demands) -> tuple[str, str]:
    _enough(part, demands, part["samples"])
    known = {name: trend for name, trend in part["trends"].items() if trend is not None}
    if not any(trend["limit"] is not None for trend in known.values()):
        raise Unproven("there is no limit into which the usage could grow: no container limits, and no stated rate of requests")
    horizon = part.get("horizon_days")
    broken, figures = [], []
    for name, trend in known.items():
        if trend["limit"] is None:
            continue
        days = trend["days"]
        figures.append(f"{name.replace('_', ' ')}: {'not in sight' if days is None else f'{days:.3g} days'}")
        # A slope that may as well be none is no reason to act; usage above its limit is.
        certain = trend["per_day_low"] > 0 or days == 0
        if horizon is not None and days is not None and days < horizon and certain:
            broken.append(f"{name.replace('_', ' ')} meets its limit in {days:.3g} days, expected not within {horizon:g}")
    return _verdict(broken, f"limit met in: {', '.join(figures)}; {part['samples']} samples")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


_RULES: dict[str, Callable[[Mapping[str, Any], Demands], tuple[str, str]]] = {
    "day_1.metrics": _metrics,
    "day_1.error_logs": _error_logs,
    "week_1.tuning": _tuning,
    "week_1.cache": _cache,
    "week_1.resources": _resources,
    "month_1.usage": _usage,
    "month_1.capacity": _capacity,
}


def cache_hints(part: Mapping[str, Any], wanted: float | None) -> list[str]:
    """Return what the figures say about the settings of the cache. Nothing is ever set by them."""
    hints = []
    if part["hit_percent"] is not None and wanted is not None and part["hit_percent"] <= wanted:
        hints.append(f"the hit rate is {part['hit_percent']:.3g} %, expected > {wanted:g} %: longer times to live, or more memory if keys are evicted")
    for node in part["nodes"]:
        where, totals = node.get("address"), node.get("totals") or {}
        if not node.get("maxmemory"):
            hints.append(f"{where}: maxmemory is not set, so that only the machine's memory ends its growth")
        elif (node.get("used_percent") or 0) < 25:
            hints.append(f"{where}: {node['used_percent']:.3g} % of maxmemory is used, it could be smaller")
        if node.get("maxmemory_policy") == "noeviction":
            hints.append(f"{where}: with noeviction a full cache refuses writes; allkeys-lru or volatile-ttl makes room")
        if totals.get("evicted"):
            hints.append(f"{where}: {totals['evicted']} keys were evicted before they expired: more memory, or shorter times to live")
        keys, expiring = totals.get("keys") or 0, totals.get("expiring_keys") or 0
        if keys and expiring < keys:
            hints.append(f"{where}: {keys - expiring} of {keys} keys never expire")
        if totals.get("fragmentation") and totals["fragmentation"] > 1.5 and (totals.get("used_memory") or 0) > 64 * 2**20:
            hints.append(f"{where}: memory is fragmented ({totals['fragmentation']:.2f}): activedefrag yes")
    return hints
