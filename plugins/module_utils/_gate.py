# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure decisions of the gate: what a figure means, when a hold has passed, when it has failed. Private to this collection.

Nothing here reads a clock or a network; times are seconds on the caller's monotonic clock. No evidence is never a pass:
every way to end a hold other than PASS needs no evidence at all, and PASS needs all of it.

Three steps, each of which can be extended alone: a provider gives a :class:`Reading`, :func:`judge` turns it into a
:class:`Sample` (good, breach, or blind), and :class:`Gate` counts samples until there is a :class:`Verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _promql
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

# Verdicts. NONE is the answer of check mode: a plan has no numbers.
PASS, BREACH, NO_DATA, ERROR = "pass", "breach", "no_data", "error"
INSUFFICIENT, CANCELLED, NONE = "insufficient", "cancelled", "none"
# States of a sample; NO_DATA and ERROR, which are blind, are shared with the verdicts.
GOOD = "good"

LIMITS = ("below", "at_most", "above", "at_least")
SERIES_POINTS = 240
LONGEST = 7 * 86400.0
SHORTEST_INTERVAL = 0.1
_SYMBOLS = {"below": "<", "at_most": "<=", "above": ">", "at_least": ">="}
_TINY = 1e-6


class ConfigError(RolloutError):
    """The gate is configured wrongly; nothing was asked and nothing was written. ``problems`` lists all of it."""

    def __init__(self, problems: list[str]) -> None:
        listed = "\n".join(f"- {problem}" for problem in problems)
        super().__init__(
            f"metric_gate: {len(problems)} mistake{'s' if len(problems) > 1 else ''} in its options, found before the first query. "
            f"Next: correct them and run the same command again.\n{listed}"
        )
        self.problems = problems


@dataclass(frozen=True)
class Limit:
    """A limit with its unit. ``below`` and ``above`` are strict: a value equal to the limit breaks it."""

    kind: str
    value: float
    unit: str

    def holds(self, value: float) -> bool:
        """Whether ``value`` keeps the limit; never true for NaN or an infinity."""
        if not math.isfinite(value):
            return False
        if self.kind == "below":
            return value < self.value
        if self.kind == "at_most":
            return value <= self.value
        if self.kind == "above":
            return value > self.value
        return value >= self.value

    def worse(self, one: float, other: float) -> float:
        """Return whichever value is nearer to, or further beyond, the limit."""
        return max(one, other) if self.kind in ("below", "at_most") else min(one, other)

    @property
    def condition(self) -> str:
        """The limit without its unit, such as ``< 0.1``."""
        return f"{_SYMBOLS[self.kind]} {self.value:g}"

    def __str__(self) -> str:
        return f"{self.condition} {self.unit}"

    def show(self, value: float) -> str:
        """Return ``value`` rounded for reading, but never so that it changes sides of the limit."""
        decimals = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
        for digits in range(decimals, 12):
            text = f"{value:.{digits}f}"
            if self.holds(float(text)) == self.holds(value):
                return text
        return repr(value)


@dataclass(frozen=True)
class Reading:
    """One answer of a provider. ``state`` is GOOD (a finite number), NO_DATA or ERROR.

    ``at`` is the unix time the number stands for, by the provider's clock. ``hopeless`` marks an error of the question
    itself (its syntax, or several series where one is expected): asking again will not help.
    """

    state: str
    value: float | None = None
    at: float | None = None
    detail: str = ""
    hopeless: bool = False


@dataclass(frozen=True)
class Sample:
    """One judged reading. ``time`` is when it was asked for, so that a slow answer does not stretch the hold."""

    time: float
    state: str
    value: float | None = None
    detail: str = ""

    @property
    def seen(self) -> bool:
        return self.state in (GOOD, BREACH)


@dataclass(frozen=True)
class Metric:
    """One gated figure. ``window`` and the limit give the worst-case detection time."""

    name: str
    query: str
    limit: Limit
    failure_limit: int = 0
    no_data: str = "hold"
    dry_run: bool = False
    freshness: str | None = None
    window: float | None = None


@dataclass(frozen=True)
class Requests:
    """The sample floor: the number that ``query`` counts must reach ``at_least``."""

    query: str
    at_least: float


@dataclass(frozen=True)
class Plan:
    """Everything a hold is judged by. Times in seconds."""

    metrics: tuple[Metric, ...]
    duration: float
    interval: float
    initial_delay: float = 0.0
    outage_budget: float = 600.0
    extension: float = 0.0
    max_age: float = 30.0
    minimum_samples: int = 1
    requests: Requests | None = None
    scrape_interval: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def longest(self) -> float:
        """The longest that this gate can take."""
        return self.initial_delay + self.duration + self.outage_budget + self.extension


@dataclass(frozen=True)
class Verdict:
    """How a hold ended, why, and by which metric (None when by several, or by none)."""

    kind: str
    reason: str
    metric: str | None = None


def expected_polls(duration: float, interval: float) -> int:
    """Return how many polls fit a hold, the first at its start."""
    return math.floor(duration / interval + _TINY) + 1


def detection_seconds(window: float, times_the_limit: float, scrape: float, poll: float) -> float:
    """Return the longest time from the start of a breach to the poll that sees it.

    A rate over ``window`` crosses its limit after ``window * limit / actual``; then the next scrape and the next poll must
    come. For a percentile ``times_the_limit`` is the share of slow requests over the share allowed (2 % over 1 % is 2).
    """
    return window / max(1.0, times_the_limit) + scrape + poll


# ---------------------------------------------------------------------------------------------- reading the options


def read_plan(params: dict[str, Any]) -> Plan:
    """Return the plan that the options of metric_gate describe. Raises :class:`ConfigError` with every mistake."""
    problems: list[str] = []
    warnings: list[str] = []
    _times(params, problems)
    sound = not problems
    polls = expected_polls(params["duration"], params["interval"]) if sound else None
    metrics = read_metrics(params.get("metrics") or [], problems, warnings)
    _counts(metrics, polls, problems)
    minimum = params.get("minimum_samples")
    if polls is not None:
        if minimum is None:
            minimum = math.ceil(polls / 2)
        elif not 1 <= minimum <= polls:
            problems.append(f"minimum_samples is {minimum}, expected 1 to {polls} (the polls of {params['duration']:g} s)")
    scrape = params.get("scrape_interval")
    if sound and scrape:
        _scrapes(metrics, params["duration"], scrape, problems, warnings)
    requests = read_requests(params.get("minimum_requests"), problems, warnings)
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
        minimum_samples=int(minimum or 1),
        requests=requests,
        scrape_interval=scrape,
        warnings=tuple(warnings),
    )


def _times(params: dict[str, Any], problems: list[str]) -> None:
    def check(name: str, low: float, strict: bool) -> None:
        value = params.get(name)
        if value is None and name == "scrape_interval":
            return
        if not _number(value) or value > LONGEST or value < low or (strict and value <= low):
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


def _counts(metrics: list[Metric], polls: int | None, problems: list[str]) -> None:
    if not metrics:
        problems.append("metrics has no usable entry, expected at least one metric with a limit")
    elif all(metric.dry_run for metric in metrics):
        problems.append("every metric is a dry run, expected at least one that counts: such a gate would pass anything")
    for metric in metrics:
        if polls is not None and metric.failure_limit >= polls:
            problems.append(
                f"metric {metric.name}: failure_limit is {metric.failure_limit}, but the hold has only {polls} polls: "
                "the metric could never break its limit"
            )


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


def read_metrics(entries: list[dict[str, Any]], problems: list[str], warnings: list[str]) -> list[Metric]:
    """Return the metrics that ``entries`` describe, and append what is wrong with them to ``problems``."""
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
        question = _question(where, entry, problems, warnings)
        limit = _limit(where, entry, question, problems)
        failures = entry.get("failure_limit") or 0
        if failures < 0:
            problems.append(f"{where}: failure_limit is {failures}, expected 0 or more breaching samples that are forgiven")
        window = entry.get("window")
        if window is not None and (not _number(window) or window <= 0):
            problems.append(f"{where}: window is {window}, expected a number of seconds above 0")
        if len(problems) == before and question and limit:
            metrics.append(
                Metric(
                    name=name,
                    query=question.query,
                    limit=limit,
                    failure_limit=failures,
                    no_data=entry.get("no_data") or "hold",
                    dry_run=bool(entry.get("dry_run")),
                    freshness=entry.get("freshness") or question.freshness or None,
                    window=window if window is not None else question.window,
                )
            )
    return metrics


def read_requests(entry: dict[str, Any] | None, problems: list[str], warnings: list[str]) -> Requests | None:
    """Return the sample floor that the option minimum_requests describes."""
    if not entry:
        return None
    question = _question("minimum_requests", entry, problems, warnings)
    at_least = entry.get("at_least")
    if not _number(at_least) or at_least <= 0:
        problems.append(f"minimum_requests: at_least is {at_least}, expected a number above 0")
        return None
    return Requests(question.query, float(at_least)) if question else None


def _question(where: str, entry: dict[str, Any], problems: list[str], warnings: list[str]) -> _promql.Built | None:
    query, preset = str(entry.get("query") or "").strip(), entry.get("preset")
    if bool(query) == bool(preset):
        seen = "both" if query else "neither"
        problems.append(f"{where}: it has {seen} of query and preset, expected exactly one")
        return None
    if query:
        if entry.get("preset_vars"):
            problems.append(f"{where}: preset_vars belongs to preset, and there is none")
        if "vector(" in query.replace(" ", ""):
            warnings.append(f"{where}: its query uses vector(), which can turn missing data into a number that passes: {query}")
        return _promql.Built(query, "", "", None, None)
    try:
        return _promql.build(str(preset), entry.get("preset_vars"))
    except _promql.PresetError as error:
        problems.extend(f"{where}: {problem}" for problem in error.problems)
        return None


def _limit(where: str, entry: dict[str, Any], question: _promql.Built | None, problems: list[str]) -> Limit | None:
    kinds = [kind for kind in LIMITS if entry.get(kind) is not None]
    unit = str(entry.get("unit") or "").strip()
    if not unit:
        problems.append(f"{where}: unit is missing, expected the unit of its figure and limit, such as % or ms")
    elif question and question.unit and unit != question.unit:
        problems.append(f"{where}: unit is '{unit}', but preset {entry['preset']} is in '{question.unit}'")
    if len(kinds) != 1:
        seen = f"{', '.join(kinds)}" if kinds else "none"
        problems.append(f"{where}: it has {seen} of {', '.join(LIMITS)}, expected exactly one")
        return None
    value = entry[kinds[0]]
    if not _number(value):
        problems.append(f"{where}: {kinds[0]} is {value}, expected a finite number")
        return None
    highest = question.highest if question else None
    if highest is not None and not _can_break(kinds[0], value, highest):
        problems.append(f"{where}: {kinds[0]} {value:g} can never be broken by a figure from 0 to {highest:g} {unit}")
    return Limit(kinds[0], float(value), unit)


def _can_break(kind: str, limit: float, highest: float) -> bool:
    probe = Limit(kind, limit, "")
    return not (probe.holds(0.0) and probe.holds(highest))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------- judging a reading


def judge(metric: Metric, reading: Reading, asked: float, age: float | None, max_age: float) -> Sample:
    """Turn a reading into a sample.

    ``asked`` is on the monotonic clock. ``age`` is how old the newest scrape behind the number is, in seconds, None when
    that is unknown (which is an error). A number older than ``max_age``, or from a clock further ahead than that, is not used.
    """
    state, value, detail = reading.state, reading.value, reading.detail
    if state == GOOD:
        if value is None or not math.isfinite(value):
            state, value, detail = NO_DATA, None, "the answer is not a finite number"
        elif age is None or not math.isfinite(age):
            state, value, detail = ERROR, None, "the age of the figure is unknown"
        elif age > max_age:
            state, value, detail = NO_DATA, None, f"the newest figure is {age:.0f} s old, expected at most {max_age:g} s"
        elif age < -max_age:
            state, value, detail = ERROR, None, f"the figure is from {-age:.0f} s ahead of this host's clock: one of the clocks is wrong"
        elif not metric.limit.holds(value):
            state = BREACH
    else:
        value = None
    if state not in (GOOD, BREACH, NO_DATA):
        state = ERROR
    if state == NO_DATA and metric.no_data == "breach":
        return Sample(asked, BREACH, None, detail or "no data")
    return Sample(asked, state, value, detail)


# ----------------------------------------------------------------------------------------------------- the hold


class Series:
    """A bounded history of one figure for charts: ``[time, value]``, value None while blind.

    When it is full, neighbours are merged and the worse value of the two is kept, so that no peak is lost.
    """

    def __init__(self, worse: Callable[[float, float], float], limit: int = SERIES_POINTS) -> None:
        self._worse = worse
        self._limit = max(2, limit)
        self._stride = 1
        self._points: list[list[float | None]] = []
        self._in_last = 0

    def add(self, time: float, value: float | None) -> None:
        if self._points and self._in_last < self._stride:
            self._points[-1][1] = self._merge(self._points[-1][1], value)
            self._in_last += 1
            return
        if len(self._points) >= self._limit:
            self._halve()
        self._points.append([time, value])
        self._in_last = 1

    def points(self) -> list[list[float | None]]:
        return [list(point) for point in self._points]

    def _merge(self, one: float | None, other: float | None) -> float | None:
        if one is None or other is None:
            return other if one is None else one
        return self._worse(one, other)

    def _halve(self) -> None:
        pairs = zip(self._points[::2], self._points[1::2] + [None], strict=False)
        self._points = [[one[0], self._merge(one[1], other[1] if other else None)] for one, other in pairs]
        self._stride *= 2


@dataclass
class Tally:
    """What one metric has shown so far.

    ``watched`` is the metric's own hold clock: it runs between two samples in a row that could be seen.
    """

    metric: Metric
    start: float
    series: Series = field(init=False)
    good: int = 0
    breaches: int = 0
    blind_samples: int = 0
    watched: float = 0.0
    last: Sample | None = None
    last_seen: Sample | None = None
    last_good: Sample | None = None
    worst: float | None = None

    def __post_init__(self) -> None:
        self.series = Series(self.metric.limit.worse)

    def add(self, sample: Sample) -> None:
        if sample.seen and self.last is not None and self.last.seen:
            self.watched += max(0.0, sample.time - self.last.time)
        self.last = sample
        self.series.add(sample.time, sample.value)
        if not sample.seen:
            self.blind_samples += 1
            return
        self.last_seen = sample
        if sample.value is not None:
            self.worst = sample.value if self.worst is None else self.metric.limit.worse(self.worst, sample.value)
        if sample.state == GOOD:
            self.good += 1
            self.last_good = sample
        else:
            self.breaches += 1

    @property
    def samples(self) -> int:
        return self.good + self.breaches + self.blind_samples

    @property
    def broken(self) -> bool:
        return self.breaches > self.metric.failure_limit

    @property
    def blind(self) -> bool:
        """Whether the metric cannot be seen at the moment."""
        return self.last is None or not self.last.seen

    def blind_seconds(self, now: float) -> float:
        """How long the metric could not be seen since the start, all gaps together."""
        until = self.last.time if self.last is not None and self.last.seen else now
        return max(0.0, until - self.start - self.watched)


class Gate:
    """One hold. Feed it samples by :meth:`add`, and ask :meth:`decide` after each poll.

    Each metric has its own clock (:attr:`Tally.watched`), and the hold lasts until every metric that counts has been
    watched for the plan's duration; so blindness extends the hold by as long as it lasted. All blindness of a metric
    together may last ``outage_budget``.
    """

    def __init__(self, plan: Plan, start: float) -> None:
        self.plan = plan
        self.start = start
        self.tallies: dict[str, Tally] = {metric.name: Tally(metric, start) for metric in plan.metrics}
        self.requests: float | None = None
        self.requests_detail = "not counted yet"
        self._full_since: float | None = None

    @property
    def counted(self) -> list[Tally]:
        """The metrics that decide."""
        return [tally for tally in self.tallies.values() if not tally.metric.dry_run]

    def add(self, name: str, sample: Sample) -> Verdict | None:
        """Count a sample; return the verdict when it breaks the gate at once."""
        tally = self.tallies[name]
        tally.add(sample)
        if tally.broken and not tally.metric.dry_run:
            return self._breach(tally)
        return None

    def add_requests(self, reading: Reading) -> None:
        """Take the newest count for the sample floor. A count that cannot be read counts as none."""
        counted = reading.state == GOOD and reading.value is not None and math.isfinite(reading.value)
        self.requests = reading.value if counted else None
        self.requests_detail = "" if counted else reading.detail or "no data"

    def decide(self, now: float) -> Verdict | None:
        """Return the verdict at ``now``, or None while the hold goes on."""
        for tally in self.counted:
            if tally.broken:
                return self._breach(tally)
        if self.remaining() <= _TINY:
            lacking = self.lacking()
            if not lacking:
                return Verdict(PASS, self._pass_reason(now))
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since >= self.plan.extension - _TINY:
                return Verdict(INSUFFICIENT, f"too little evidence after {self._ran(now)}: {'; '.join(lacking)}")
        return self._outage(now)

    def remaining(self) -> float:
        """Seconds of watching that the hold still needs."""
        return max(0.0, self.plan.duration - min(tally.watched for tally in self.counted))

    @property
    def extended(self) -> bool:
        """Whether the hold goes on only because there is too little evidence."""
        return self._full_since is not None

    def lacking(self) -> list[str]:
        """What evidence is missing for a pass, in words."""
        lacking = []
        for tally in self.counted:
            name = tally.metric.name
            if tally.good < self.plan.minimum_samples:
                lacking.append(f"{name} has {tally.good} good samples of at least {self.plan.minimum_samples}")
            if tally.last is None or tally.last.state != GOOD:
                lacking.append(f"the last sample of {name} is not good ({_words(tally.last)})")
        floor = self.plan.requests
        if floor is not None:
            if self.requests is None:
                lacking.append(f"the number of requests is not known ({self.requests_detail}), expected at least {floor.at_least:g}")
            elif self.requests < floor.at_least:
                lacking.append(f"{self.requests:.0f} requests, expected at least {floor.at_least:g}")
        return lacking

    def blind(self) -> list[Tally]:
        """The metrics that count and cannot be seen at the moment."""
        return [tally for tally in self.counted if tally.blind]

    def verdict_of(self, tally: Tally) -> str:
        """One metric's own verdict, for the result."""
        if tally.broken:
            return BREACH
        if tally.last is None:
            return NONE
        if not tally.last.seen:
            return tally.last.state
        if tally.good < self.plan.minimum_samples or tally.last.state != GOOD:
            return INSUFFICIENT
        return PASS

    def _outage(self, now: float) -> Verdict | None:
        tallies = [tally for tally in self.blind() if tally.last is not None]
        over = [tally for tally in tallies if tally.blind_seconds(now) >= self.plan.outage_budget - _TINY]
        if not over:
            return None
        worst = max(over, key=lambda tally: tally.blind_seconds(now))
        kind = NO_DATA if worst.last is not None and worst.last.state == NO_DATA else ERROR
        return Verdict(
            kind,
            f"{worst.metric.name} could not be seen for {worst.blind_seconds(now):.0f} s, which is all of outage_budget "
            f"({self.plan.outage_budget:g} s); the last answer: {_words(worst.last)}",
            worst.metric.name,
        )

    def _breach(self, tally: Tally) -> Verdict:
        metric, last = tally.metric, tally.last_seen
        count = f"{tally.breaches} samples over the limit, {metric.failure_limit} forgiven; the last: " if metric.failure_limit else ""
        if last is None or last.value is None:
            what = f"{metric.name} has no data ({last.detail if last else ''}), and its no_data is 'breach'"
        else:
            what = f"{metric.name} is {metric.limit.show(last.value)} {metric.limit.unit}, expected {metric.limit}"
        return Verdict(BREACH, f"{count}{what}", metric.name)

    def _pass_reason(self, now: float) -> str:
        requests = f", {self.requests:.0f} requests" if self.plan.requests is not None and self.requests is not None else ""
        kept = ", ".join(f"{tally.metric.name} {tally.metric.limit}" for tally in self.counted)
        return f"every limit held for {self._ran(now)}{requests}: {kept}"

    def _ran(self, now: float) -> str:
        return f"{now - self.start:.0f} s"


def _words(sample: Sample | None) -> str:
    if sample is None:
        return "no answer yet"
    if sample.seen:
        return "over its limit" if sample.state == BREACH else "good"
    return f"{sample.state}: {sample.detail}" if sample.detail else sample.state


# ------------------------------------------------------------------------------------------------------ live lines


def clock(seconds: float) -> str:
    """Return seconds as ``mm:ss``, or ``h:mm:ss`` from one hour on."""
    whole = max(0, math.ceil(seconds - _TINY))
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
    over = " OVER" if last.state == BREACH else ""
    return f"{metric.name} {metric.limit.show(last.value)} {metric.limit.unit} {metric.limit.condition}{over}{muted}"


def blind_line(label: str, gate: Gate, now: float, goes_back: bool) -> str:
    """Return the one line that says what the gate cannot see, why, and for how long it will wait."""
    names = ", ".join(f"{tally.metric.name} ({_words(tally.last)})" for tally in gate.blind())
    used = max((tally.blind_seconds(now) for tally in gate.blind()), default=0.0)
    left = clock(gate.plan.outage_budget - used)
    end = "traffic goes back" if goes_back else "the gate fails"
    return f"{label}: cannot see {names}; the weight stays as it is for up to {left} more, then {end}"
