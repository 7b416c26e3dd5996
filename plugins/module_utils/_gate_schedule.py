# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When each metric of a gate is asked for. Pure; private to this collection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Metric, Plan


@dataclass
class Rhythm:
    """Something that is due every ``interval`` seconds from ``start`` on."""

    start: float
    interval: float
    turn: int = 0

    @property
    def next(self) -> float:
        return self.start + self.turn * self.interval

    def take(self, now: float) -> float | None:
        """Return the time for which it is due, or None when it is not; turns that were missed are left out."""
        if now < self.next - 1e-6:
            return None
        due = self.next
        self.turn = max(self.turn + 1, math.floor((now - self.start) / self.interval + 1e-6) + 1)
        return max(due, self.start + (self.turn - 1) * self.interval)


@dataclass
class Schedule:
    """The rhythms of a plan's metrics, and of the gate itself, from ``start`` on the caller's clock.

    All are counted from the start, so that slow answers never make them drift.
    """

    plan: Plan
    start: float
    gate: Rhythm = field(init=False)
    _metrics: dict[str, Rhythm] = field(init=False)

    def __post_init__(self) -> None:
        self.gate = Rhythm(self.start, self.plan.interval)
        self._metrics = {
            metric.name: Rhythm(self.start + metric.initial_delay, self.plan.interval_of(metric)) for metric in self.plan.metrics
        }

    def due(self, now: float) -> list[tuple[Metric, float]]:
        """Return the metrics that are due, with the time for which they are."""
        found = []
        for metric in self.plan.metrics:
            at = self._metrics[metric.name].take(now)
            if at is not None:
                found.append((metric, at))
        return found

    @property
    def next(self) -> float:
        """When something is due again."""
        return min(self.gate.next, *(rhythm.next for rhythm in self._metrics.values()))
