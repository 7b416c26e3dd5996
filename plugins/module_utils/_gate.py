# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure decisions of the gate: what a figure means, when a hold has passed, when it has failed. Private to this collection.

Nothing here reads a clock or a network; times are seconds on the caller's monotonic clock. No evidence is never a pass:
every way to end a hold other than PASS needs no evidence at all, and PASS needs all of it.

Three steps, each of which can be extended alone: a provider gives a :class:`Reading`, :func:`judge` turns it into a
:class:`Sample` (good, suspect, breach, or blind), and :class:`Gate` counts samples until there is a :class:`Verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ansible_collections.signal.rollout.plugins.module_utils._gate_model import (
    BREACH,
    ERROR,
    GOOD,
    INSUFFICIENT,
    NO_DATA,
    NONE,
    PASS,
    SERIES_POINTS,
    SUSPECT,
    TINY,
    Metric,
    Plan,
    Reading,
    Sample,
    Verdict,
)
from ansible_collections.signal.rollout.plugins.module_utils._gate_rules import Difference, Growth, sequential_test
from ansible_collections.signal.rollout.plugins.module_utils._statistics import SequentialTest

_LARGEST_RATIO = 1_000_000

# ------------------------------------------------------------------------------------------------- judging a reading


def believe(reading: Reading, age: float | None, max_age: float) -> Reading:
    """Return ``reading``, or why it is no number that can be used.

    ``age`` is how old the newest scrape behind the number is, in seconds, None when that is unknown (which is an error). A
    number older than ``max_age``, or from a clock further ahead than that, is not used.
    """
    if reading.state == NO_DATA:
        return reading
    if reading.state != GOOD:
        return replace(reading, state=ERROR)
    if reading.value is None or not math.isfinite(reading.value):
        return Reading(NO_DATA, detail="the answer is not a finite number")
    if age is None or not math.isfinite(age):
        return Reading(ERROR, detail="the age of the figure is unknown")
    if age > max_age:
        return Reading(NO_DATA, detail=f"the newest figure is {age:.0f} s old, expected at most {max_age:g} s")
    if age < -max_age:
        return Reading(ERROR, detail=f"the figure is from {-age:.0f} s ahead of this host's clock: one of the clocks is wrong")
    return reading


def judge(metric: Metric, reading: Reading, asked: float, companions: dict[str, Reading] | None = None) -> Sample:
    """Turn a believed reading into a sample. ``asked`` is on the monotonic clock.

    ``companions`` are the believed readings of what the metric is judged with, by their role. Without one of them the metric
    cannot be judged: it is as blind as without its own figure, unless that figure alone is a breach.
    """
    state, value, detail = reading.state, reading.value if reading.state == GOOD else None, reading.detail
    if value is not None and not metric.limit.holds(value):
        state = BREACH if metric.bands is None or value >= metric.bands.far else SUSPECT
    if state in (GOOD, SUSPECT):
        for role, companion in (companions or {}).items():
            if companion.state != GOOD:
                return Sample(asked, companion.state, None, f"{role}: {companion.detail}")
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
    test: SequentialTest | None = field(init=False, default=None)
    difference: Difference | None = field(init=False, default=None)
    growth: Growth | None = field(init=False, default=None)
    good: int = 0
    suspect: int = 0
    breaches: int = 0
    blind_samples: int = 0
    good_in_a_row: int = 0
    breaches_in_a_row: int = 0
    blind_in_a_row: int = 0
    watched: float = 0.0
    counts: tuple[float, float] = (0.0, 0.0)
    doubtful: bool = False
    last: Sample | None = None
    last_seen: Sample | None = None
    last_good: Sample | None = None
    worst: float | None = None

    def __post_init__(self) -> None:
        metric = self.metric
        self.series = Series(metric.limit.worse)
        if metric.bands is not None:
            self.test = sequential_test(metric.bands)
        if metric.baseline is not None:
            self.difference = Difference(metric.baseline)
        if metric.slope is not None:
            self.growth = Growth(metric.slope, self.start)

    def add(self, sample: Sample, baseline: float | None = None) -> None:
        """Count a sample; ``baseline`` is the stable version's figure of the same moment."""
        if sample.seen and self.last is not None and self.last.seen:
            self.watched += max(0.0, sample.time - self.last.time)
        self.last = sample
        self.series.add(sample.time, sample.value)
        if not sample.seen:
            self.blind_samples += 1
            self.blind_in_a_row += 1
            return
        self.blind_in_a_row = 0
        self.last_seen = sample
        self._count(sample)
        if sample.value is None:
            return
        self.worst = sample.value if self.worst is None else self.metric.limit.worse(self.worst, sample.value)
        if self.difference is not None and baseline is not None:
            self.difference.add(sample.time, sample.value, baseline)
        if self.growth is not None:
            self.growth.add(sample.time, sample.value)

    def _count(self, sample: Sample) -> None:
        good, breach = sample.state == GOOD, sample.state == BREACH
        self.good += good
        self.breaches += breach
        self.suspect += sample.state == SUSPECT
        self.good_in_a_row = self.good_in_a_row + 1 if good else 0
        self.breaches_in_a_row = self.breaches_in_a_row + 1 if breach else 0
        if good:
            self.last_good = sample

    @property
    def seen(self) -> int:
        return self.good + self.suspect + self.breaches

    @property
    def samples(self) -> int:
        return self.seen + self.blind_samples

    @property
    def broken(self) -> bool:
        """Whether one of the rules says that the metric has broken its limit for good."""
        metric = self.metric
        too_many = metric.failure_limit is not None and self.breaches > metric.failure_limit
        in_a_row = metric.consecutive_failure_limit is not None and self.breaches_in_a_row > metric.consecutive_failure_limit
        rules = (self.difference, self.growth)
        proven = self.test is not None and self.test.decided
        return too_many or in_a_row or proven or any(rule is not None and rule.broken for rule in rules)

    @property
    def lost(self) -> bool:
        """Whether the metric could not be seen more often in a row than is allowed."""
        limit = self.metric.consecutive_error_limit
        return limit is not None and self.blind_in_a_row > limit

    def close(self) -> None:
        """The hold's time is over: from now on the limit stands as it is written, also for a metric with two bands."""
        share = self._share
        self.doubtful = self.doubtful or (share is not None and not self.metric.limit.holds(share))

    @property
    def _share(self) -> float | None:
        """Errors among the requests of the hold, in the metric's unit; None for a metric without counts."""
        if self.test is None or self.metric.bands is None or not self.test.requests:
            return None
        return self.test.errors / self.test.requests / self.metric.bands.scale

    @property
    def over_at_the_end(self) -> str:
        """In which way a metric with two bands is not within its strict limit now, or empty.

        When the hold as a whole was over the limit at its end, being under it again is not enough, since a share that wanders
        around its limit is under it at some time: then the test must have the evidence for the good share.
        """
        limit, share, test = self.metric.limit, self._share, self.test
        if test is None:
            return ""
        if self.last is not None and self.last.state == SUSPECT and self.last.value is not None:
            return f"{self.metric.name} is {limit.show(self.last.value)} {limit.unit}, expected {limit}"
        if share is None or (limit.holds(share) and not self.doubtful) or (limit.holds(share) and test.cleared):
            return ""
        counts = f"{test.errors:.0f} errors in {test.requests:.0f} requests"
        return f"{self.metric.name} is {limit.show(share)} {limit.unit} over the whole hold ({counts}), expected clearly {limit}"

    @property
    def complete(self) -> bool:
        """Whether a metric with a count needs no more samples."""
        metric = self.metric
        return metric.count is not None and self.seen >= metric.count and self.good_in_a_row >= metric.consecutive_success_limit

    @property
    def blind(self) -> bool:
        """Whether the metric cannot be seen at the moment."""
        return not self.complete and (self.last is None or not self.last.seen)

    def remaining(self, duration: float, interval: float) -> float:
        """Seconds of watching that the metric still needs, of ``duration`` with a sample every ``interval``."""
        if self.complete:
            return 0.0
        left = max(0.0, duration - self.watched)
        count = self.metric.count
        if count is None or self.seen >= count:
            return left
        return min(left, (count - self.seen) * interval)

    def blind_seconds(self, now: float) -> float:
        """How long the metric could not be seen since its start, all gaps together."""
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
        self.tallies: dict[str, Tally] = {metric.name: Tally(metric, start + metric.initial_delay) for metric in plan.metrics}
        self.requests: float | None = None
        self.requests_state = NO_DATA
        self.requests_detail = "not counted yet"
        # Why the way back is not open at the moment, in words; empty while it is.
        self.way_back_closed = ""
        self._full_since: float | None = None

    @property
    def counted(self) -> list[Tally]:
        """The metrics that decide."""
        return [tally for tally in self.tallies.values() if not tally.metric.dry_run]

    def add(self, name: str, sample: Sample, baseline: float | None = None) -> Verdict | None:
        """Count a sample; return the verdict when it ends the hold at once. ``baseline`` is the stable version's figure."""
        tally = self.tallies[name]
        tally.add(sample, baseline)
        return None if tally.metric.dry_run else self._ended(tally)

    def count(self, name: str, errors: float, requests: float) -> Verdict | None:
        """Take the errors and requests of the hold so far of a metric with two bands; as :meth:`add`.

        Counts that are lower than before come from counters that began anew: what they show is new.
        """
        tally = self.tallies[name]
        if tally.test is None:
            return None
        before_errors, before_requests = tally.counts
        restarted = requests < before_requests or errors < before_errors
        tally.counts = (errors, requests)
        if restarted:
            before_errors = before_requests = 0.0
        tally.test.add(errors - before_errors, max(errors - before_errors, requests - before_requests))
        return None if tally.metric.dry_run else self._ended(tally)

    def _ended(self, tally: Tally) -> Verdict | None:
        if tally.broken:
            return self._breach(tally)
        if tally.lost and tally.last is not None:
            kind = NO_DATA if tally.last.state == NO_DATA else ERROR
            reason = (
                f"{tally.metric.name} could not be seen {tally.blind_in_a_row} times in a row, "
                f"{tally.metric.consecutive_error_limit} forgiven; the last answer: {words_of(tally.last)}"
            )
            return Verdict(kind, reason, tally.metric.name)
        return None

    def add_requests(self, reading: Reading) -> None:
        """Take the newest count for the sample floor. A count that cannot be read counts as none."""
        counted = reading.state == GOOD and reading.value is not None and math.isfinite(reading.value)
        self.requests = reading.value if counted else None
        self.requests_state = reading.state
        self.requests_detail = "" if counted else reading.detail or "no data"

    def decide(self, now: float) -> Verdict | None:
        """Return the verdict at ``now``, or None while the hold goes on."""
        for tally in self.counted:
            verdict = self._ended(tally)
            if verdict is not None:
                return verdict
        if self.remaining() <= TINY:
            for tally in self.counted:
                tally.close()
            lacking = self.lacking()
            if not lacking:
                return Verdict(PASS, self._pass_reason(now))
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since >= self.plan.extension - TINY:
                for tally in self.counted:
                    # Sampling may have left it open; at the end the limit stands as it is written.
                    if tally.over_at_the_end:
                        return Verdict(BREACH, f"{tally.over_at_the_end}, at the end of the hold", tally.metric.name)
                return Verdict(INSUFFICIENT, f"too little evidence after {self._ran(now)}: {'; '.join(lacking)}")
        return self._outage(now)

    def remaining(self) -> float:
        """Seconds of watching that the hold still needs."""
        plan = self.plan
        return max(tally.remaining(plan.duration_of(tally.metric), plan.interval_of(tally.metric)) for tally in self.counted)

    @property
    def extended(self) -> bool:
        """Whether the hold goes on only because there is too little evidence."""
        return self._full_since is not None

    def lacking(self) -> list[str]:
        """What evidence is missing for a pass, in words."""
        lacking = [words for tally in self.counted for words in self._lacks(tally)]
        floor = self.plan.requests
        if floor is not None:
            if self.requests is None:
                lacking.append(f"the number of requests is not known ({self.requests_detail}), expected at least {floor.at_least:g}")
            elif self.requests < floor.at_least:
                lacking.append(f"{self.requests:.0f} requests, expected at least {floor.at_least:g}")
        if self.way_back_closed:
            lacking.append(self.way_back_closed)
        return lacking

    def _lacks(self, tally: Tally) -> list[str]:
        name, needed, streak = tally.metric.name, self.plan.minimum_of(tally.metric), tally.metric.consecutive_success_limit
        lacking = []
        if tally.good < needed:
            lacking.append(f"{name} has {tally.good} good samples of at least {needed}")
        if tally.last is None or tally.last.state != GOOD:
            lacking.append(f"the last sample of {name} is not good ({words_of(tally.last)})")
        elif tally.good_in_a_row < streak:
            lacking.append(f"{name} has been good {tally.good_in_a_row} times in a row, expected {streak}")
        elif tally.over_at_the_end:
            lacking.append(tally.over_at_the_end)
        for rule in (tally.difference, tally.growth):
            if rule is not None and rule.lacking:
                lacking.append(f"{name}: {rule.lacking}")
        return lacking

    def blind(self, now: float) -> list[Tally]:
        """The metrics that count, have begun, and cannot be seen at the moment."""
        return [tally for tally in self.counted if tally.blind and now >= tally.start - TINY]

    def verdict_of(self, tally: Tally) -> str:
        """One metric's own verdict, for the result."""
        if tally.broken:
            return BREACH
        if tally.last is None:
            return NONE
        if not tally.last.seen:
            return tally.last.state
        return INSUFFICIENT if self._lacks(tally) else PASS

    def _outage(self, now: float) -> Verdict | None:
        tallies = [tally for tally in self.blind(now) if tally.last is not None]
        over = [tally for tally in tallies if tally.blind_seconds(now) >= self.plan.outage_budget - TINY]
        if not over:
            return None
        worst = max(over, key=lambda tally: tally.blind_seconds(now))
        kind = NO_DATA if worst.last is not None and worst.last.state == NO_DATA else ERROR
        return Verdict(
            kind,
            f"{worst.metric.name} could not be seen for {worst.blind_seconds(now):.0f} s, which is all of outage_budget "
            f"({self.plan.outage_budget:g} s); the last answer: {words_of(worst.last)}",
            worst.metric.name,
        )

    def _breach(self, tally: Tally) -> Verdict:
        metric = tally.metric
        for rule in (tally.difference, tally.growth):
            if rule is not None and rule.broken:
                return Verdict(BREACH, rule.words(metric), metric.name)
        test = tally.test
        if test is not None and test.decided and not tally.breaches:
            # It grows by a power with each error: beyond this its digits say nothing.
            ratio = f"{test.ratio:.0f}" if test.ratio < _LARGEST_RATIO else f"over {_LARGEST_RATIO}"
            share = test.errors / test.requests / (metric.bands.scale if metric.bands is not None else 1.0)
            reason = (
                f"{metric.name}: {test.errors:.0f} errors in {test.requests:.0f} requests of the hold ({metric.limit.show(share)} {metric.limit.unit}) "
                f"are sufficient evidence that it is not {metric.limit}: likelihood ratio {ratio}, expected below {test.threshold:.0f}"
            )
            return Verdict(BREACH, reason, metric.name)
        return Verdict(BREACH, f"{self._counted_words(tally)}{self._over_words(tally)}", metric.name)

    def _counted_words(self, tally: Tally) -> str:
        metric = tally.metric
        if metric.consecutive_failure_limit is not None and tally.breaches_in_a_row > metric.consecutive_failure_limit:
            return f"{tally.breaches_in_a_row} samples in a row over the limit, {metric.consecutive_failure_limit} forgiven; the last: "
        return f"{tally.breaches} samples over the limit, {metric.failure_limit} forgiven; the last: " if metric.failure_limit else ""

    def _over_words(self, tally: Tally) -> str:
        metric, last = tally.metric, tally.last_seen
        if last is None or last.value is None:
            return f"{metric.name} has no data ({last.detail if last else ''}), and its no_data is 'breach'"
        return f"{metric.name} is {metric.limit.show(last.value)} {metric.limit.unit}, expected {metric.limit}"

    def _pass_reason(self, now: float) -> str:
        requests = f", {self.requests:.0f} requests" if self.plan.requests is not None and self.requests is not None else ""
        kept = ", ".join(f"{tally.metric.name} {tally.metric.limit}" for tally in self.counted)
        return f"every limit held for {self._ran(now)}{requests}: {kept}"

    def _ran(self, now: float) -> str:
        return f"{now - self.start:.0f} s"


def words_of(sample: Sample | None) -> str:
    if sample is None:
        return "no answer yet"
    if sample.seen:
        return {BREACH: "over its limit", SUSPECT: "slightly over its limit"}.get(sample.state, "good")
    return f"{sample.state}: {sample.detail}" if sample.detail else sample.state
