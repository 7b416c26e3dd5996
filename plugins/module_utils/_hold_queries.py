# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a gate's questions when they are due, and makes evidence of the answers. Private to this collection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ansible_collections.signal.rollout.plugins.module_utils._gate import Gate, believe, judge
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import (
    BASELINE,
    BASELINE_FRESHNESS,
    ERRORS,
    FRESHNESS,
    GOOD,
    NO_DATA,
    REQUESTS,
    VALUE,
    Metric,
    Plan,
    Reading,
    Verdict,
)
from ansible_collections.signal.rollout.plugins.module_utils._gate_schedule import Schedule
from ansible_collections.signal.rollout.plugins.module_utils._question import Question

# Counts of errors that wait for the count of requests of the same moment.
_COUNTS_KEPT = 64


class Clock(Protocol):
    """Time as the hold sees it; tests give one that runs hours in milliseconds."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...

    def sleep(self, seconds: float) -> bool:
        """Wait; True when the run was cancelled meanwhile."""


class Provider(Protocol):
    """Where readings come from; see :class:`_sources.Sources` for the meaning of each call."""

    def ask(self, question: Question, hold: float, timeout: float | None = None) -> bool: ...

    def waiting(self) -> bool: ...

    def answers(self, wait: float) -> list[tuple[Question, Reading]]: ...

    def close(self) -> None: ...


@dataclass
class Watch:
    """What is known of one metric. Answers are ``(when asked, reading)``; ``value`` is one that was not judged yet."""

    metric: Metric
    value: tuple[float, Reading] | None = None
    answers: dict[str, tuple[float, Reading]] = field(default_factory=dict)
    awaited: set[Question] = field(default_factory=set)
    errors: list[tuple[float, float]] = field(default_factory=list)


class Inquiry:
    """The questions of one hold. ``timeout`` in seconds is for those whose metric has none of its own."""

    def __init__(self, plan: Plan, provider: Provider, clock: Clock, timeout: float) -> None:
        self.plan = plan
        self.provider = provider
        self.clock = clock
        self.watches = [Watch(metric) for metric in plan.metrics]
        self._timeout = timeout
        self._timeouts: dict[Question, float] = {}
        for metric in plan.metrics:
            for question in metric.questions.values():
                # A question that metrics share must not hold up the more impatient one.
                seconds = metric.query_timeout or timeout
                self._timeouts[question] = min(seconds, self._timeouts.get(question, seconds))
        self._asked: dict[Question, float] = {}

    # --------------------------------------------------------------------------------------------- before the hold

    def questions(self) -> list[tuple[str, Question]]:
        """Everything that is asked, with what it is asked for."""
        uses = [
            (f"metric {metric.name}" if role == VALUE else f"{role} of metric {metric.name}", question)
            for metric in self.plan.metrics
            for role, question in metric.questions.items()
        ]
        if self.plan.requests is not None:
            uses.append(("minimum_requests", self.plan.requests.question))
        return uses

    def try_out(self, wait: float, cancelled: Callable[[], bool]) -> dict[Question, Reading]:
        """Ask everything once, only to learn whether it can be asked; ``wait`` is how long between two looks at ``cancelled``."""
        for question in dict.fromkeys(question for _where, question in self.questions()):
            self.provider.ask(question, self.plan.duration, self._timeouts.get(question, self._timeout))
        readings: dict[Question, Reading] = {}
        while self.provider.waiting() and not cancelled():
            readings.update(self.provider.answers(wait))
        return readings

    def problems(self, readings: dict[Question, Reading], wrong: Callable[[Reading], bool]) -> list[str]:
        """Return what is wrong with the questions whose reading is ``wrong``."""
        return [
            f"{where}: {readings[question].detail} (query: {question})"
            for where, question in self.questions()
            if question in readings and wrong(readings[question])
        ]

    # ------------------------------------------------------------------------------------------------- in the hold

    def ask(self, gate: Gate, schedule: Schedule, now: float) -> bool:
        """Ask what is due; return whether the gate's own turn has come too."""
        for metric, at in schedule.due(now):
            tally = gate.tallies[metric.name]
            if tally.complete:
                continue
            watch = self._watch(metric)
            for question in metric.questions.values():
                watch.awaited.add(question)
                self._send(question, at, gate)
        at_gate = schedule.gate.take(now)
        if at_gate is not None and self.plan.requests is not None:
            self._send(self.plan.requests.question, at_gate, gate)
        return at_gate is not None

    def take(self, gate: Gate, question: Question, reading: Reading) -> Verdict | None:
        """Hand an answer on to whoever waits for it; return the verdict when it ends the hold."""
        asked = self._asked[question]
        if self.plan.requests is not None and self.plan.requests.question == question:
            gate.add_requests(reading)
        concerned = [watch for watch in self.watches if question in watch.awaited]
        verdict = None
        for watch in concerned:
            watch.awaited.discard(question)
            for role in [role for role, one in watch.metric.questions.items() if one == question]:
                if role == VALUE:
                    watch.value = (asked, reading)
                else:
                    watch.answers[role] = (asked, reading)
                if role in (ERRORS, REQUESTS):
                    verdict = verdict or self._count(gate, watch, role)
            verdict = verdict or self._judge(gate, watch)
        return verdict

    def _send(self, question: Question, at: float, gate: Gate) -> None:
        hold = max(self.plan.interval, at - gate.start)
        if self.provider.ask(question, hold, self._timeouts.get(question, self._timeout)):
            self._asked[question] = at

    def _watch(self, metric: Metric) -> Watch:
        return next(watch for watch in self.watches if watch.metric.name == metric.name)

    def _count(self, gate: Gate, watch: Watch, role: str) -> Verdict | None:
        """Give the gate the newest count of requests with the newest count of errors that is not newer.

        Errors without the requests among which they occurred would look like more than they are.
        """
        asked, reading = watch.answers[role]
        if role == ERRORS and reading.state == GOOD and reading.value is not None:
            watch.errors = [*watch.errors[-_COUNTS_KEPT:], (asked, reading.value)]
        until, requests = watch.answers.get(REQUESTS, (0.0, Reading(NO_DATA)))
        errors = [value for at, value in watch.errors if at <= until]
        if requests.state != GOOD or requests.value is None or not errors:
            return None
        watch.errors = [entry for entry in watch.errors if entry[0] >= until or entry[1] == errors[-1]]
        return gate.count(watch.metric.name, errors[-1], requests.value)

    def _judge(self, gate: Gate, watch: Watch) -> Verdict | None:
        """Judge the newest value once, as soon as everything is known that it is judged with."""
        metric = watch.metric
        if watch.value is None:
            return None
        asked, reading = watch.value
        missing = [role for role in metric.questions if role != VALUE and role not in watch.answers]
        if missing and (FRESHNESS in missing or not self._decisive(metric, reading)):
            return None
        watch.value = None
        believed = self._aged(reading, watch.answers.get(FRESHNESS))
        companions = {
            role: believe(watch.answers[role][1], self.clock.monotonic() - watch.answers[role][0], self.plan.max_age)
            for role in (ERRORS, REQUESTS)
            if role in watch.answers and not self._not_counted_yet(gate, *watch.answers[role])
        }
        if BASELINE in watch.answers:
            companions[BASELINE] = self._aged(watch.answers[BASELINE][1], watch.answers.get(BASELINE_FRESHNESS))
        other = companions.get(BASELINE)
        return gate.add(metric.name, judge(metric, believed, asked, companions), other.value if other is not None else None)

    def _decisive(self, metric: Metric, reading: Reading) -> bool:
        """Whether the figure alone is a breach: that must not wait for a slow answer to another question."""
        if reading.state != GOOD or reading.value is None or metric.limit.holds(reading.value):
            return False
        return metric.bands is None or reading.value >= metric.bands.far

    def _not_counted_yet(self, gate: Gate, asked: float, reading: Reading) -> bool:
        # Until the first scrapes of a hold there is nothing to count, which is no outage.
        return reading.state == NO_DATA and asked - gate.start < self.plan.max_age

    def _aged(self, reading: Reading, fresh: tuple[float, Reading] | None) -> Reading:
        """Believe a reading by the age of the newest scrape: by Prometheus' own clock, plus what has passed since that was asked."""
        if reading.state != GOOD:
            return believe(reading, None, self.plan.max_age)
        if fresh is None:
            age = self.clock.time() - reading.at if reading.at is not None else None
            return believe(reading, age, self.plan.max_age)
        asked, newest = fresh
        if newest.state != GOOD or newest.value is None or newest.at is None:
            return believe(Reading(newest.state if newest.state != GOOD else NO_DATA, detail=f"freshness: {newest.detail}"), None, self.plan.max_age)
        return believe(reading, newest.at - newest.value + max(0.0, self.clock.monotonic() - asked), self.plan.max_age)
