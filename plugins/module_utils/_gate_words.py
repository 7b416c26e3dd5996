# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a gate says: its rules, how fast they see, and the lines while it holds. Pure; private to this collection."""

from __future__ import annotations

import math
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._gate import Gate, Tally, words_of
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import BREACH, SUSPECT, TINY, Metric, Plan
from ansible_collections.signal.rollout.plugins.module_utils._gate_rules import sequential_test

# How many times over its limit a figure is taken to be when worst-case detection times are told.
SEVERITIES = (2, 10, 50)


def is_plain(metric: Metric) -> bool:
    """Whether the metric's only rule is its limit."""
    counting = (metric.consecutive_failure_limit, metric.consecutive_error_limit, metric.count, metric.bands, metric.baseline, metric.slope)
    return metric.failure_limit == 0 and metric.consecutive_success_limit == 1 and all(rule is None for rule in counting)


def rule(plan: Plan, metric: Metric) -> str:
    """Return by which rule ``metric`` is judged, in words."""
    limit, parts = metric.limit, []
    if metric.bands is not None:
        bands, test = metric.bands, sequential_test(metric.bands)
        against = ", ".join(f"{share / bands.scale:g}" for share in test.bad)
        parts.append(
            f"{limit}; from {bands.far:g} {limit.unit} on the first sample is a breach, between the two Wald's sequential test of errors and requests "
            f"of the hold decides: {bands.good / bands.scale:g} {limit.unit} against {against} {limit.unit}, alpha {bands.alpha:g}, beta {bands.beta:g}, "
            f"a breach from a likelihood ratio of {test.threshold:.0f} on; at the end the hold as a whole and its last sample must be {limit}"
        )
    else:
        parts.append(f"{limit}; {_forgiven(metric)}")
    if metric.consecutive_error_limit is not None:
        parts.append(f"more than {metric.consecutive_error_limit} samples in a row that cannot be seen end the hold")
    if metric.consecutive_success_limit > 1:
        parts.append(f"the last {metric.consecutive_success_limit} samples must be good")
    if metric.count is not None:
        parts.append(f"done after {metric.count} samples that could be seen")
    if metric.interval is not None or metric.initial_delay:
        parts.append(f"a sample every {plan.interval_of(metric):g} s" + (f" after {metric.initial_delay:g} s" if metric.initial_delay else ""))
    if metric.baseline is not None:
        parts.append(_baseline_words(metric))
    if metric.slope is not None:
        slope = metric.slope
        spans = f", first after {slope.spans[0]:g} s" if slope.spans else ""
        warm_up = f", the first {slope.warm_up:g} s left out" if slope.warm_up else ""
        parts.append(
            f"growth at most {slope.at_most:g} {limit.unit} per hour: a breach when the lower bound of Theil and Sen's slope is above that with "
            f"a confidence of {slope.confidence:g} in {len(slope.spans) or 'some'} looks{spans}{warm_up}"
        )
    if metric.no_data == "breach":
        parts.append("no data counts as over the limit")
    if metric.dry_run:
        parts.append("dry run: shown, never decides")
    return "; ".join(parts)


def _forgiven(metric: Metric) -> str:
    forgiven = []
    if metric.failure_limit:
        forgiven.append(f"{metric.failure_limit} samples over it are forgiven")
    if metric.consecutive_failure_limit is not None:
        forgiven.append(f"{metric.consecutive_failure_limit} in a row over it are forgiven")
    if forgiven:
        return " and ".join(forgiven)
    return "the first sample over it is a breach" if metric.failure_limit == 0 else "samples over it are no breach, but must end"


def _baseline_words(metric: Metric) -> str:
    rule, unit = metric.baseline, metric.limit.unit
    if rule is None:
        return ""
    tolerated = [f"{rule.absolute:g} {unit}"] if rule.absolute or not rule.relative else []
    tolerated += [f"{100 * rule.relative:g} % of the stable version's median"] if rule.relative else []
    return (
        f"compared with the stable version: a breach when {'more' if rule.increase else 'less'} by more than {' or '.join(tolerated)} (Hodges-Lehmann) and "
        f"significant (Mann-Whitney, one-sided, confidence {rule.confidence:g} over {len(rule.looks)} looks at {rule.looks[0]} to {rule.looks[-1]} "
        f"samples, one every {rule.spacing:g} s)"
    )


def evidence(tally: Tally) -> dict[str, Any]:
    """Return what a metric's rules have found so far: of bands, baseline and slope, those that it has."""
    found: dict[str, Any] = {}
    if tally.test is not None:
        test = tally.test
        found["bands"] = {
            "errors": test.errors, "requests": test.requests, "likelihood_ratio": round(test.ratio, 3), "breach_from": round(test.threshold, 3)
        }
    if tally.difference is not None:
        one = tally.difference.found
        found["baseline"] = {
            "samples": tally.difference.seen,
            "canary_median": one.canary if one else None,
            "stable_median": one.baseline if one else None,
            "worse_by": one.shift if one else None,
            "tolerated": tally.difference.tolerated,
            "p": one.p if one else None,
            "significant_below": tally.difference.chance,
        }
    if tally.growth is not None:
        line = tally.growth.found
        found["slope"] = {
            "samples": len(tally.growth.points),
            "per_hour": line.slope if line else None,
            "low": line.low if line else None,
            "high": line.high if line else None,
        }
    return found


# --------------------------------------------------------------------------------------------------- how fast it sees


def detection_seconds(window: float, times_the_limit: float, scrape: float, poll: float) -> float:
    """Return the longest time from the start of a breach to the poll that sees it.

    A rate over ``window`` crosses its limit after ``window * limit / actual``; then the next scrape and the next poll must
    come. For a percentile ``times_the_limit`` is the share of slow requests over the share allowed (2 % over 1 % is 2).
    """
    return window / max(1.0, times_the_limit) + scrape + poll


def detection(plan: Plan) -> list[dict[str, Any]]:
    """Return for each metric whose window is known how long a breach can go unseen; empty without the scrape interval.

    Every entry of ``worst_case`` has the seconds until enough samples are over the limit (with two bands: over the far one), or
    None when they never are, and with two bands the number of requests after which the sequential test is expected to decide.
    """
    if plan.scrape_interval is None:
        return []
    return [
        {"metric": metric.name, "worst_case": [_worst_case(plan, plan.scrape_interval, metric, times) for times in SEVERITIES]}
        for metric in plan.metrics
        if metric.window is not None
    ]


def _worst_case(plan: Plan, scrape: float, metric: Metric, times: float) -> dict[str, Any]:
    poll, forgiven = plan.interval_of(metric), [metric.failure_limit, metric.consecutive_failure_limit]
    more = min((limit for limit in forgiven if limit is not None), default=0)
    found: dict[str, Any] = {"times": times, "seconds": None, "requests": None}
    over = times
    if metric.bands is not None:
        share = min(1.0, times * metric.limit.value * metric.bands.scale)
        needed = sequential_test(metric.bands).expected_requests(share)
        found["requests"] = math.ceil(needed) if needed is not None else None
        over = share / metric.bands.scale / metric.bands.far
    if over >= 1.0:
        found["seconds"] = round(detection_seconds(metric.window or 0.0, over, scrape, poll) + more * poll, 3)
    return found


def detection_words(entry: dict[str, Any]) -> str:
    """Return one entry of :func:`detection` in words."""
    parts = []
    for case in entry["worst_case"]:
        ways = [f"{case['seconds']:g} s"] if case["seconds"] is not None else []
        ways += [f"about {case['requests']} requests"] if case["requests"] is not None else []
        parts.append(f"{' or '.join(ways) or 'the whole hold'} at {case['times']}x")
    return f"{entry['metric']} is seen over its limit within {', '.join(parts)} the limit"


# ------------------------------------------------------------------------------------------------------ live lines


def clock(seconds: float) -> str:
    """Return seconds as ``mm:ss``, or ``h:mm:ss`` from one hour on."""
    whole = max(0, math.ceil(seconds - TINY))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def live_line(label: str, gate: Gate) -> str:
    """Return the line of one poll: remaining time, then every figure with its limit."""
    if gate.extended:
        head = f"{label}: hold extended"
    else:
        head = f"{label}: hold {clock(gate.remaining())} left"
    parts = [_figure(tally) for tally in gate.tallies.values()]
    floor = gate.plan.requests
    if floor is not None:
        count = "?" if gate.requests is None else f"{gate.requests:.0f}"
        parts.append(f"requests {count} >= {floor.at_least:g}")
    return " | ".join([head, *parts])


def _figure(tally: Tally) -> str:
    metric, last = tally.metric, tally.last
    muted = " (dry run)" if metric.dry_run else ""
    if last is None or last.value is None:
        return f"{metric.name} {'?' if last is None else last.state}{muted}"
    over = {BREACH: " OVER", SUSPECT: " slightly over"}.get(last.state, "")
    return f"{metric.name} {metric.limit.show(last.value)} {metric.limit.unit} {metric.limit.condition}{over}{muted}"


def outage_message(label: str, gate: Gate, now: float, goes_back: bool, weight: int | None) -> str:
    """Return what people are told of an outage that lasts: what cannot be seen, what stays, until when, what then, what to do."""
    blind = gate.blind(now)
    used = max((tally.blind_seconds(now) for tally in blind), default=0.0)
    seen = "\n".join(f"- {tally.metric.name}: {words_of(tally.last)}" for tally in blind)
    stays = "The traffic stays as it is" if weight is None else f"The traffic of the new version stays at {weight} %"
    end = "all traffic goes back to the stable version" if goes_back else "the gate fails"
    return (
        f"{label}: these metrics cannot be seen:\n{seen}\n"
        f"{stays} for up to {clock(gate.plan.outage_budget - used)} more; then {end}. When they can be seen again, the hold goes on by itself.\n"
        "Next: bring the monitoring back, or go back by playbooks/rollback.yml"
    )


def blind_line(label: str, gate: Gate, now: float, goes_back: bool) -> str:
    """Return the one line that says what the gate cannot see, why, and for how long it will wait."""
    names = ", ".join(f"{tally.metric.name} ({words_of(tally.last)})" for tally in gate.blind(now))
    used = max((tally.blind_seconds(now) for tally in gate.blind(now)), default=0.0)
    left = clock(gate.plan.outage_budget - used)
    end = "traffic goes back" if goes_back else "the gate fails"
    return f"{label}: cannot see {names}; the weight stays as it is for up to {left} more, then {end}"
