# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The statistics behind a gate's rules. Pure; private to this collection.

Rank tests and the robust line come from scipy, which is imported by :func:`load` only when a rule needs it: it takes most
of a second. Wald's sequential test is arithmetic and lives here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import require

# Each look at growing evidence comes when there is so many times more of it: few looks leave each of them more power.
LOOK_GROWTH = 1.25
LONGEST_LINE = 60
_SECONDS_PER_HOUR = 3600.0


def load() -> Any:
    """Return ``scipy.stats``. Raises :class:`_errors.MissingLibrary` where it is not installed."""
    try:
        from scipy import stats
    except ImportError:
        stats = None
    return require("scipy", stats)


# ----------------------------------------------------------------------------------------------- Wald's sequential test


@dataclass
class SequentialTest:
    """Wald's sequential probability ratio test of a share of errors, against several alternatives side by side.

    Source: A. Wald, Sequential Tests of Statistical Hypotheses, Annals of Mathematical Statistics 16 (1945). For each share
    in ``bad`` the log likelihood ratio against ``good`` is summed up; the test decides when one of them reaches the logarithm
    of ``k (1 - beta) / alpha`` for ``k`` alternatives, so that all together abort at ``good`` with a chance of about ``alpha``
    at most.

    A sum never falls below the logarithm of ``alpha``: what was good for long must not hide what has just become bad.
    """

    good: float
    bad: tuple[float, ...]
    alpha: float
    beta: float
    errors: float = 0.0
    requests: float = 0.0
    sums: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = [0.0] * len(self.bad)

    @property
    def threshold(self) -> float:
        """The likelihood ratio that decides."""
        return len(self.bad) * (1.0 - self.beta) / self.alpha

    @property
    def ratio(self) -> float:
        """The largest likelihood ratio now."""
        return math.exp(min(700.0, max(self.sums)))

    @property
    def decided(self) -> bool:
        """Whether the evidence against the share is sufficient."""
        return max(self.sums) >= math.log(self.threshold)

    @property
    def cleared(self) -> bool:
        """Whether the evidence for the good share, against the nearest alternative, is sufficient (Wald's other boundary)."""
        return self.sums[0] <= math.log(self.beta / (1.0 - self.alpha))

    def add(self, errors: float, requests: float) -> None:
        """Count further answers: ``errors`` bad ones among ``requests``."""
        fine = max(0.0, requests - errors)
        self.errors += errors
        self.requests += errors + fine
        floor = math.log(self.alpha)
        for place, bad in enumerate(self.bad):
            step = errors * math.log(bad / self.good) + fine * math.log((1.0 - bad) / (1.0 - self.good))
            self.sums[place] = max(floor, self.sums[place] + step)

    def expected_requests(self, share: float) -> float | None:
        """About how many requests the test needs when ``share`` of them are errors; None when it cannot be expected to decide.

        Wald's approximation of the expected sample number, the best alternative counted, no excess over the boundary.
        """
        needed = []
        for bad in self.bad:
            drift = share * math.log(bad / self.good) + (1.0 - share) * math.log((1.0 - bad) / (1.0 - self.good))
            if drift > 0:
                # A test decides by whole errors: at least one, and those that the boundary needs on its own.
                errors = math.ceil(math.log(self.threshold) / math.log(bad / self.good))
                needed.append(max(math.log(self.threshold) / drift, errors / share))
        return min(needed, default=None)


def alternatives(bad: float, far: float) -> tuple[float, ...]:
    """The shares that a sequential test is made against: ``bad``, ``far``, and the one half-way on a logarithmic scale."""
    return (bad, math.sqrt(bad * far), far) if far > bad else (bad,)


# ----------------------------------------------------------------------------------------------------- two samples


@dataclass(frozen=True)
class Comparison:
    """How a canary's figures differ from a baseline's. ``shift`` is how much worse they are, in their own unit.

    ``p`` is the chance of such a difference, in the bad direction, between samples of the same figure.
    """

    canary: float
    baseline: float
    shift: float
    p: float
    samples: int


def compare(canary: Sequence[float], baseline: Sequence[float], increase: bool) -> Comparison:
    """Compare by Mann and Whitney's U, one-sided: more is worse when ``increase``.

    The size of the difference is the estimate of Hodges and Lehmann, the median of all pairwise differences. It does not
    move while half of the differences are equal, as with a baseline of zeros and a canary that is bad in every other
    sample; where values repeat so much, the difference of the means counts when it is larger.
    """
    sign = 1.0 if increase else -1.0
    differences = [sign * (one - other) for one in canary for other in baseline]
    shift = median(differences)
    if _commonest_share(baseline) >= 0.5 or _commonest_share(canary) >= 0.5:
        shift = max(shift, sign * (fmean(canary) - fmean(baseline)))
    if len({*canary, *baseline}) == 1:
        # Ranks of equal values say nothing, and their variance is 0.
        p = 1.0
    else:
        p = float(load().mannwhitneyu(canary, baseline, alternative="greater" if increase else "less").pvalue)
    return Comparison(median(canary), median(baseline), shift, p, min(len(canary), len(baseline)))


def smallest_p(samples: int) -> float:
    """The smallest p that two samples of this size can have at all: every value of one above every value of the other."""
    return 1.0 / math.comb(2 * samples, samples)


def looks(first: int, last: int) -> tuple[int, ...]:
    """The numbers of samples, from ``first`` to ``last``, at which growing evidence is looked at."""
    found = [first]
    while found[-1] < last:
        found.append(min(last, math.ceil(found[-1] * LOOK_GROWTH)))
    return tuple(found)


def spans(first: float, last: float) -> tuple[float, ...]:
    """As :func:`looks`, for a time in seconds that grows."""
    found = [first]
    while found[-1] < last:
        found.append(min(last, found[-1] * LOOK_GROWTH))
    return tuple(found)


def _commonest_share(values: Sequence[float]) -> float:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return max(counts.values()) / len(values)


# ------------------------------------------------------------------------------------------------------------ a line


@dataclass(frozen=True)
class Line:
    """A robust line: its slope in units per hour, and the bounds within which it lies with the confidence asked for."""

    slope: float
    low: float
    high: float
    points: int


def line(points: Sequence[tuple[float, float]], confidence: float) -> Line | None:
    """Return Theil and Sen's line through ``points`` of seconds and values; None for fewer than three points in time.

    One value in four may be wild without effect. The points are first reduced to at most 60 medians of equal parts of the
    time: neighbours are not independent, and a sawtooth of garbage collections is not growth.
    """
    reduced = _medians(points, LONGEST_LINE)
    if len(reduced) < 3:
        return None
    hours = [(time - reduced[0][0]) / _SECONDS_PER_HOUR for time, _value in reduced]
    values = [value for _time, value in reduced]
    found = load().theilslopes(values, hours, alpha=confidence)
    low, high = float(found[2]), float(found[3])
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Line(float(found[0]), low, high, len(reduced))


def _medians(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) <= most:
        return list(points)
    start, width = points[0][0], (points[-1][0] - points[0][0]) / most
    parts: dict[int, list[tuple[float, float]]] = {}
    for time, value in points:
        parts.setdefault(min(most - 1, int((time - start) / width)), []).append((time, value))
    return [(fmean(time for time, _v in part), median(value for _t, value in part)) for _place, part in sorted(parts.items())]
