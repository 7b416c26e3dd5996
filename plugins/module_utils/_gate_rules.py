# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of a gate that judge many samples together: two bands, baseline, slope. Pure; private to this collection.

Each gathers evidence and says whether its limit is broken, or what is lacking before it can say anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.signal.rollout.plugins.module_utils import _statistics
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import TINY, Bands, Baseline, Metric, Slope

# Samples kept for a line; when there are more, every other one is dropped.
_KEPT = 2000
# Pairs of samples kept for a comparison: all their differences are looked at.
_PAIRS = 400


def sequential_test(bands: Bands) -> _statistics.SequentialTest:
    """Return the test by which a metric with two bands is judged."""
    far = bands.far * bands.scale
    return _statistics.SequentialTest(bands.good, _statistics.alternatives(bands.bad, far), bands.alpha, bands.beta)


@dataclass
class Difference:
    """The comparison of a metric with the stable version's figure."""

    rule: Baseline
    canary: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)
    found: _statistics.Comparison | None = None
    broken: bool = False
    seen: int = 0
    _last: float | None = None

    def add(self, time: float, canary: float, stable: float) -> None:
        """Take a pair of figures, unless its window overlaps with that of the last one; look at them when it is time to."""
        if self._last is not None and time - self._last < self.rule.spacing - TINY:
            return
        self._last = time
        self.seen += 1
        self.canary.append(canary)
        self.stable.append(stable)
        del self.canary[:-_PAIRS], self.stable[:-_PAIRS]
        if self.seen in self.rule.looks:
            self.found = _statistics.compare(self.canary, self.stable, self.rule.increase)
            self.broken = self.broken or (self.found.p < self.chance and self.found.shift > self.tolerated)

    @property
    def chance(self) -> float:
        """The p below which a difference counts: what the confidence leaves, shared by all looks (Bonferroni)."""
        return (1.0 - self.rule.confidence) / max(1, len(self.rule.looks))

    @property
    def tolerated(self) -> float:
        """The largest difference that is tolerated, in the metric's unit."""
        base = abs(self.found.baseline) if self.found is not None else 0.0
        return max(self.rule.absolute, self.rule.relative * base)

    @property
    def lacking(self) -> str:
        if self.seen >= self.rule.minimum_samples:
            return ""
        return f"{self.seen} windows could be compared with the stable version, expected at least {self.rule.minimum_samples}"

    def words(self, metric: Metric) -> str:
        """What the last look has found."""
        found, unit = self.found, metric.limit.unit
        if found is None:
            return f"{metric.name} could not be compared yet"
        return (
            f"{metric.name} is worse than the stable version's: medians {found.canary:.4g} and {found.baseline:.4g} {unit}, worse by {found.shift:.4g} "
            f"{unit} (Hodges-Lehmann), tolerated {self.tolerated:.4g} {unit}, p {found.p:.2g} (Mann-Whitney, {found.samples} windows each), "
            f"significant below {self.chance:.2g}"
        )


@dataclass
class Growth:
    """How fast a metric grows. ``start`` is the metric's start on the caller's clock."""

    rule: Slope
    start: float
    points: list[tuple[float, float]] = field(default_factory=list)
    found: _statistics.Line | None = None
    broken: bool = False
    looks: int = 0
    _apart: int = 1
    _skipped: int = 0

    def add(self, time: float, value: float) -> None:
        """Take a sample; draw the line when it is time to."""
        at = time - self.start - self.rule.warm_up
        if at < -TINY:
            return
        self._skipped += 1
        if self._skipped >= self._apart or not self.points:
            self.points.append((at, value))
            self._skipped = 0
        if len(self.points) > _KEPT:
            self.points = self.points[::2]
            self._apart *= 2
        due = self.looks < len(self.rule.spans) and at >= self.rule.spans[self.looks] - TINY
        if due and len(self.points) >= self.rule.minimum_samples:
            self.looks += 1
            confidence = 1.0 - (1.0 - self.rule.confidence) / len(self.rule.spans)
            self.found = _statistics.line(self.points, confidence) or self.found
            self.broken = self.broken or (self.found is not None and self.found.low > self.rule.at_most)

    @property
    def lacking(self) -> str:
        if self.found is not None:
            return ""
        span = self.points[-1][0] - self.points[0][0] if self.points else 0.0
        needed = self.rule.spans[0] if self.rule.spans else 0.0
        return (
            f"its growth is not known: {len(self.points)} samples over {span:.0f} s after the warm-up, "
            f"expected {self.rule.minimum_samples} over {needed:.0f} s"
        )

    def words(self, metric: Metric) -> str:
        """What the last line has shown."""
        found, unit = self.found, metric.limit.unit
        if found is None:
            return f"the growth of {metric.name} is not known yet"
        return (
            f"{metric.name} grows by {found.slope:.4g} {unit} per hour, at least {found.low:.4g} with a confidence of {self.rule.confidence:g} "
            f"(Theil-Sen, {found.points} points), expected at most {self.rule.at_most:g} {unit} per hour"
        )
