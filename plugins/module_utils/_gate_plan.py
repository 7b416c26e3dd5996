# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads a gate's options into a plan, and finds every mistake in them before the first query. Private to this collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _confirm, _http_json, _promql
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import (
    LIMITS,
    LONGEST,
    SHORTEST_INTERVAL,
    ConfigError,
    Figure,
    Limit,
    Metric,
    Plan,
    Requests,
)
from ansible_collections.signal.rollout.plugins.module_utils._gate_options import (
    Timing,
    is_number,
    read_bands,
    read_baseline,
    read_slope,
)
from ansible_collections.signal.rollout.plugins.module_utils._question import Question


def read_plan(params: dict[str, Any]) -> Plan:
    """Return the plan that the options of metric_gate describe. Raises :class:`ConfigError` with every mistake."""
    problems: list[str] = []
    warnings: list[str] = []
    _times(params, problems)
    timing = None if problems else Timing(float(params["duration"]), float(params["interval"]))
    metrics = read_metrics(params.get("metrics") or [], problems, warnings, timing)
    if not params.get("metrics"):
        problems.append("metrics has no entry, expected at least one metric with a limit")
    elif metrics and all(metric.dry_run for metric in metrics):
        problems.append("every metric is a dry run, expected at least one that counts: such a gate would pass anything")
    minimum = params.get("minimum_samples")
    scrape = params.get("scrape_interval")
    if timing is not None:
        if minimum is not None:
            _minimum(minimum, metrics, timing, problems)
        if scrape:
            _scrapes(metrics, timing.duration, scrape, problems, warnings)
    requests = read_requests(params.get("minimum_requests"), problems, warnings)
    route = params.get("abort_route")
    if route and route.get("confirm"):
        # Found only on the way back, a mistake here would keep traffic where it is.
        mistakes = _confirm.problems_of(route["confirm"], 1 + len(route.get("others") or []))
        problems.extend(f"abort_route.{mistake}" for mistake in mistakes)
    if problems:
        raise ConfigError(problems)
    return Plan(
        metrics=tuple(metrics),
        duration=float(params["duration"]),
        interval=float(params["interval"]),
        initial_delay=float(params["initial_delay"]),
        outage_budget=float(params["outage_budget"]),
        extension=float(params["extension"]),
        max_age=float(params["max_age"]),
        minimum_samples=None if minimum is None else int(minimum),
        requests=requests,
        scrape_interval=scrape,
        warnings=tuple(warnings),
    )


def _times(params: dict[str, Any], problems: list[str]) -> None:
    def check(name: str, low: float, strict: bool) -> None:
        value = params.get(name)
        if value is None and name == "scrape_interval":
            return
        if not is_number(value) or value > LONGEST or value < low or (strict and value <= low):
            bound = f"above {low:g}" if strict else f"at least {low:g}"
            problems.append(f"{name} is {value} s, expected a number {bound} and at most {LONGEST:g}")

    for name in ("duration", "query_timeout", "max_age", "scrape_interval"):
        check(name, 0.0, True)
    check("interval", SHORTEST_INTERVAL, False)
    for name in ("initial_delay", "outage_budget", "extension"):
        check(name, 0.0, False)
    if not problems and params["duration"] < params["interval"]:
        problems.append(
            f"duration is {params['duration']:g} s and interval {params['interval']:g} s, expected a hold of at least one interval"
        )


def _minimum(minimum: int, metrics: list[Metric], timing: Timing, problems: list[str]) -> None:
    polls = {metric.name: timing.of(metric).polls for metric in metrics if metric.count is None}
    fewest = min(polls, key=lambda name: polls[name]) if polls else None
    most = polls[fewest] if fewest is not None else timing.polls
    if not 1 <= minimum <= most:
        problems.append(f"minimum_samples is {minimum}, expected 1 to {most} (the polls of {fewest or 'the hold'} in {timing.duration:g} s)")


def _scrapes(metrics: list[Metric], duration: float, scrape: float, problems: list[str], warnings: list[str]) -> None:
    if duration < 2 * scrape:
        problems.append(f"duration is {duration:g} s, expected at least two scrapes of {scrape:g} s")
    for metric in metrics:
        if metric.window is None:
            continue
        if metric.window < 2 * scrape:
            problems.append(
                f"metric {metric.name}: its window is {metric.window:g} s, expected at least two scrapes of {scrape:g} s, better four"
            )
        elif metric.window < 4 * scrape:
            warnings.append(
                f"metric {metric.name}: its window of {metric.window:g} s holds fewer than four scrapes of {scrape:g} s; "
                "one lost scrape makes the figure unsteady."
            )


def read_metrics(
    entries: list[dict[str, Any]], problems: list[str], warnings: list[str], timing: Timing | None = None
) -> list[Metric]:
    """Return the metrics that ``entries`` describe, and append what is wrong with them to ``problems``.

    Without ``timing`` only that is checked which does not depend on the length of the hold.
    """
    metrics: list[Metric] = []
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        name = str(entry.get("name") or "").strip()
        where = f"metric {name}" if name else f"metric number {number}"
        before = len(problems)
        if not name or not name.isprintable() or len(name) > 60:
            problems.append(f"{where}: name is {entry.get('name')!r}, expected 1 to 60 printable characters")
        if name in names:
            problems.append(f"{where}: the name is used twice, expected a name of its own for every metric")
        names.add(name)
        metric = _metric(name, where, entry, timing, problems, warnings)
        if len(problems) == before and metric is not None:
            metrics.append(metric)
    return metrics


def _metric(
    name: str, where: str, entry: dict[str, Any], timing: Timing | None, problems: list[str], warnings: list[str]
) -> Metric | None:
    figure = _figure(where, entry, problems, warnings)
    limit = _limit(where, entry, figure, problems)
    window = entry.get("window")
    if window is not None and (not is_number(window) or window <= 0):
        problems.append(f"{where}: window is {window}, expected a number of seconds above 0")
        window = None
    elif window is None and figure is not None:
        window = figure.window
    own = _own_timing(where, entry, timing, problems)
    counting = _counting(where, entry, own, problems)
    strict = counting["failure_limit"] == 0 and counting["consecutive_failure_limit"] is None and counting["count"] is None
    bands = read_bands(where, entry.get("bands"), limit, figure, strict, problems)
    baseline = slope = None
    compared = entry.get("baseline")
    if compared:
        other = _figure(f"{where}: baseline", compared, problems, warnings)
        baseline = read_baseline(where, compared, limit, figure, other, window, own, problems)
    if entry.get("slope"):
        slope = read_slope(where, entry["slope"], own, problems)
    if counting["count"] is not None and (baseline is not None or slope is not None):
        problems.append(f"{where}: count cannot be combined with baseline or slope, which need the whole hold")
    if figure is None or limit is None:
        return None
    return Metric(
        name=name,
        question=figure.question,
        limit=limit,
        no_data=entry.get("no_data") or "hold",
        dry_run=bool(entry.get("dry_run")),
        freshness=Question(entry["freshness"]) if entry.get("freshness") else figure.freshness,
        window=window,
        interval=entry.get("interval"),
        initial_delay=float(entry.get("initial_delay") or 0.0),
        query_timeout=entry.get("query_timeout"),
        bands=bands,
        baseline=baseline,
        slope=slope,
        **counting,
    )


def _own_timing(where: str, entry: dict[str, Any], timing: Timing | None, problems: list[str]) -> Timing | None:
    """The metric's own share of the hold; None when it is not known, or wrong."""
    before = len(problems)
    interval, delay, timeout = entry.get("interval"), entry.get("initial_delay") or 0.0, entry.get("query_timeout")
    if interval is not None and not (is_number(interval) and SHORTEST_INTERVAL <= interval <= LONGEST):
        problems.append(f"{where}: interval is {interval} s, expected a number from {SHORTEST_INTERVAL:g} to {LONGEST:g}")
    if not (is_number(delay) and 0 <= delay <= LONGEST):
        problems.append(f"{where}: initial_delay is {delay} s, expected a number from 0 to {LONGEST:g}")
    if timeout is not None and not (is_number(timeout) and 0 < timeout <= LONGEST):
        problems.append(f"{where}: query_timeout is {timeout} s, expected a number above 0")
    if timing is None or len(problems) > before:
        return None
    own = Timing(timing.duration - delay, interval if interval is not None else timing.interval)
    if own.duration < own.interval:
        problems.append(
            f"{where}: of the hold of {timing.duration:g} s its initial_delay leaves {max(0.0, own.duration):g} s, "
            f"expected at least one interval of {own.interval:g} s"
        )
        return None
    return own


def _counting(where: str, entry: dict[str, Any], own: Timing | None, problems: list[str]) -> dict[str, Any]:
    """The counting rules; every combination that could never fail, or never pass, is a problem."""
    failures = entry.get("failure_limit") or 0
    in_a_row, blind = entry.get("consecutive_failure_limit"), entry.get("consecutive_error_limit")
    streak, count = entry.get("consecutive_success_limit"), entry.get("count")
    streak = 1 if streak is None else streak
    rules = {
        "failure_limit": None if failures == -1 else failures,
        "consecutive_failure_limit": in_a_row,
        "consecutive_error_limit": blind,
        "consecutive_success_limit": streak,
        "count": count,
    }
    if failures < -1:
        problems.append(f"{where}: failure_limit is {failures}, expected 0 or more samples over the limit that are forgiven, or -1 for no such limit")
    for name, value in (("consecutive_failure_limit", in_a_row), ("consecutive_error_limit", blind)):
        if value is not None and value < 0:
            problems.append(f"{where}: {name} is {value}, expected 0 or more in a row that are forgiven")
    if streak < 1:
        problems.append(f"{where}: consecutive_success_limit is {streak}, expected 1 or more good samples in a row at the end")
    if count is not None and count < 1:
        problems.append(f"{where}: count is {count}, expected 1 or more samples")
    if count is not None and entry.get("interval") is None:
        problems.append(f"{where}: it has a count and no interval, expected the time from one sample to the next")
    if failures == -1 and in_a_row is None and streak <= 1:
        problems.append(f"{where}: its limits are disabled: failure_limit is -1, and neither consecutive_failure_limit nor consecutive_success_limit is set")
    if in_a_row is not None and 0 <= failures <= in_a_row:
        problems.append(
            f"{where}: consecutive_failure_limit {in_a_row} can never matter, since failure_limit {failures} ends the hold first; "
            "expected a larger failure_limit, or -1"
        )
    if own is None:
        return rules
    polls, of_what = own.polls, f"the hold has only {own.polls} polls of it"
    if count is not None:
        if count > own.polls:
            problems.append(f"{where}: count is {count}, but {of_what}")
        if failures >= 0 and count < failures + streak:
            problems.append(
                f"{where}: count is {count}, expected at least failure_limit + consecutive_success_limit, which is {failures + streak}"
            )
        polls, of_what = min(count, own.polls), f"only {count} samples are counted"
    forgiven = [(name, value) for name, value in (("failure_limit", failures), ("consecutive_failure_limit", in_a_row)) if value is not None and value >= 0]
    if forgiven and all(value >= polls for _name, value in forgiven):
        name, value = forgiven[0]
        problems.append(f"{where}: {name} is {value}, but {of_what}: the metric could never break its limit")
    if streak > polls:
        problems.append(f"{where}: consecutive_success_limit is {streak}, but {of_what}: the metric could never pass")
    return rules


def read_requests(entry: dict[str, Any] | None, problems: list[str], warnings: list[str]) -> Requests | None:
    """Return the sample floor that the option minimum_requests describes."""
    if not entry:
        return None
    figure = _figure("minimum_requests", entry, problems, warnings)
    at_least = entry.get("at_least")
    if not is_number(at_least) or at_least <= 0:
        problems.append(f"minimum_requests: at_least is {at_least}, expected a number above 0")
        return None
    return Requests(figure.question, float(at_least)) if figure else None


def _figure(where: str, entry: dict[str, Any], problems: list[str], warnings: list[str]) -> Figure | None:
    query, preset = str(entry.get("query") or "").strip(), entry.get("preset")
    if entry.get("http"):
        return _http_figure(where, entry, problems)
    if bool(query) == bool(preset):
        seen = "both" if query else "neither"
        problems.append(f"{where}: it has {seen} of query and preset, expected exactly one (or http)")
        return None
    if query:
        if entry.get("preset_vars"):
            problems.append(f"{where}: preset_vars belongs to preset, and there is none")
        if "vector(" in query.replace(" ", ""):
            warnings.append(f"{where}: its query uses vector(), which can turn missing data into a number that passes: {query}")
        return Figure(Question(query))
    try:
        built = _promql.build(str(preset), entry.get("preset_vars"))
    except _promql.PresetError as error:
        problems.extend(f"{where}: {problem}" for problem in error.problems)
        return None
    return Figure(
        question=Question(built.query),
        freshness=Question(built.freshness),
        unit=built.unit,
        window=built.window,
        highest=built.highest,
        errors=Question(built.errors) if built.errors else None,
        requests=Question(built.requests) if built.requests else None,
    )


def _http_figure(where: str, entry: dict[str, Any], problems: list[str]) -> Figure | None:
    others = [name for name in ("query", "preset", "preset_vars", "freshness") if entry.get(name)]
    if others:
        problems.append(f"{where}: it has http and {' and '.join(others)}, expected one way to ask for the figure")
    mistakes: list[str] = []
    question = _http_json.read_question(entry["http"], mistakes)
    problems.extend(f"{where}: {mistake}" for mistake in mistakes)
    return Figure(question) if question is not None else None


def _limit(where: str, entry: dict[str, Any], figure: Figure | None, problems: list[str]) -> Limit | None:
    kinds = [kind for kind in LIMITS if entry.get(kind) is not None]
    unit = str(entry.get("unit") or "").strip()
    if not unit:
        problems.append(f"{where}: unit is missing, expected the unit of its figure and limit, such as % or ms")
    elif figure and figure.unit and unit != figure.unit:
        problems.append(f"{where}: unit is '{unit}', but preset {entry['preset']} is in '{figure.unit}'")
    if len(kinds) != 1:
        seen = f"{', '.join(kinds)}" if kinds else "none"
        problems.append(f"{where}: it has {seen} of {', '.join(LIMITS)}, expected exactly one")
        return None
    value = entry[kinds[0]]
    if not is_number(value):
        problems.append(f"{where}: {kinds[0]} is {value}, expected a finite number")
        return None
    highest = figure.highest if figure else None
    if highest is not None and not _can_break(kinds[0], value, highest):
        problems.append(f"{where}: {kinds[0]} {value:g} can never be broken by a figure from 0 to {highest:g} {unit}")
    return Limit(kinds[0], float(value), unit)


def _can_break(kind: str, limit: float, highest: float) -> bool:
    probe = Limit(kind, limit, "")
    return not (probe.holds(0.0) and probe.holds(highest))
