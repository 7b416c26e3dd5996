# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a gate is made of: limits, readings, samples, metrics, the plan and the verdict. Pure; private to this collection."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._question import Question

# Verdicts. NONE is the answer of check mode: a plan has no numbers.
PASS, BREACH, NO_DATA, ERROR = "pass", "breach", "no_data", "error"
INSUFFICIENT, CANCELLED, NONE = "insufficient", "cancelled", "none"
# States of a sample; NO_DATA and ERROR, which are blind, are shared with the verdicts. SUSPECT is slightly over the limit of
# a metric with two bands: seen, but neither good nor a breach.
GOOD, SUSPECT = "good", "suspect"

# Roles of a metric's questions; the text of each is asked on its own.
VALUE, FRESHNESS, ERRORS, REQUESTS = "value", "freshness", "errors", "requests"
BASELINE, BASELINE_FRESHNESS = "baseline", "baseline freshness"

LIMITS = ("below", "at_most", "above", "at_least")
SERIES_POINTS = 240
LONGEST = 7 * 86400.0
SHORTEST_INTERVAL = 0.1
_SYMBOLS = {"below": "<", "at_most": "<=", "above": ">", "at_least": ">="}
TINY = 1e-6


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
        return self.state in (GOOD, BREACH, SUSPECT)


@dataclass(frozen=True)
class Figure:
    """What an entry asks for, by preset, PromQL or HTTP. See :class:`_promql.Built` for the meaning of each part."""

    question: Question
    freshness: Question | None = None
    unit: str = ""
    window: float | None = None
    highest: float | None = None
    errors: Question | None = None
    requests: Question | None = None


@dataclass(frozen=True)
class Bands:
    """How a share slightly over its limit is judged: by its counts, not by the first sample.

    ``far`` is the value, in the metric's unit, from which one sample decides. ``errors`` and ``requests`` are the queries for
    the counts of the hold so far. ``good`` and ``bad`` are shares from 0 to 1: at ``good`` a release shall not be aborted, at
    ``bad`` it shall be. ``alpha`` bounds the chance of an abort at ``good``, ``beta`` that of a miss at ``bad``.
    ``scale`` turns the metric's unit into a share (0.01 for percent).
    """

    far: float
    errors: Question
    requests: Question
    good: float
    bad: float
    alpha: float
    beta: float
    scale: float


@dataclass(frozen=True)
class Baseline:
    """A comparison with the same figure of the stable version, asked at the same moments.

    ``increase`` when more is worse. A difference within ``absolute`` (in the metric's unit) or ``relative`` (a share of the
    baseline's median), whichever is larger, is tolerated whatever its significance. ``spacing`` in seconds is the least time
    between two samples that are compared: those of overlapping windows are not independent. ``looks`` are the numbers of
    samples at which the test is made; ``confidence`` holds for all looks together.
    """

    question: Question
    freshness: Question | None
    increase: bool
    absolute: float
    relative: float
    confidence: float
    minimum_samples: int
    spacing: float
    looks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Slope:
    """The fastest growth that is allowed, in the metric's unit per hour, judged by a line through the samples.

    Samples of the first ``warm_up`` seconds are left out. ``spans`` are the lengths in seconds at which the line is drawn;
    ``confidence`` holds for all of them together. At least ``minimum_samples`` points are needed.
    """

    at_most: float
    confidence: float
    warm_up: float
    minimum_samples: int
    spans: tuple[float, ...] = ()


@dataclass(frozen=True)
class Metric:
    """One gated figure. ``window`` and the limit give the worst-case detection time.

    The counting rules have the names that Argo Rollouts gives them. ``failure_limit`` samples over the limit are forgiven in
    the whole hold, None means any number; ``consecutive_failure_limit`` and ``consecutive_error_limit`` are forgiven in a row.
    ``consecutive_success_limit`` good samples in a row are needed at the end. With ``count`` the metric is done after so many
    samples that could be seen. ``interval`` and ``query_timeout`` are the gate's when None; ``initial_delay`` in seconds.
    """

    name: str
    question: Question
    limit: Limit
    failure_limit: int | None = 0
    no_data: str = "hold"
    dry_run: bool = False
    freshness: Question | None = None
    window: float | None = None
    consecutive_failure_limit: int | None = None
    consecutive_error_limit: int | None = None
    consecutive_success_limit: int = 1
    count: int | None = None
    interval: float | None = None
    initial_delay: float = 0.0
    query_timeout: float | None = None
    bands: Bands | None = None
    baseline: Baseline | None = None
    slope: Slope | None = None

    @property
    def questions(self) -> dict[str, Question]:
        """Everything that is asked for this metric, by role, the value first."""
        asked: dict[str, Question | None] = {VALUE: self.question, FRESHNESS: self.freshness}
        if self.bands is not None:
            asked.update({ERRORS: self.bands.errors, REQUESTS: self.bands.requests})
        if self.baseline is not None:
            asked.update({BASELINE: self.baseline.question, BASELINE_FRESHNESS: self.baseline.freshness})
        return {role: question for role, question in asked.items() if question is not None}

    @property
    def needs_scipy(self) -> bool:
        """Whether its rules need more than arithmetic."""
        return self.baseline is not None or self.slope is not None


@dataclass(frozen=True)
class Requests:
    """The sample floor: the number that ``question`` counts must reach ``at_least``."""

    question: Question
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
    minimum_samples: int | None = None
    requests: Requests | None = None
    scrape_interval: float | None = None
    warnings: tuple[str, ...] = ()

    def interval_of(self, metric: Metric) -> float:
        """Seconds from one sample of ``metric`` to the next."""
        return metric.interval if metric.interval is not None else self.interval

    def duration_of(self, metric: Metric) -> float:
        """For how many seconds ``metric`` must be watched."""
        return self.duration - metric.initial_delay

    def polls_of(self, metric: Metric) -> int:
        """How many samples of ``metric`` fit the hold."""
        return expected_polls(self.duration_of(metric), self.interval_of(metric))

    def minimum_of(self, metric: Metric) -> int:
        """How many good samples ``metric`` needs: half of those that fit the hold, unless the plan says otherwise."""
        if metric.count is not None:
            return metric.consecutive_success_limit
        return math.ceil(self.polls_of(metric) / 2) if self.minimum_samples is None else self.minimum_samples

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
    return math.floor(duration / interval + TINY) + 1
