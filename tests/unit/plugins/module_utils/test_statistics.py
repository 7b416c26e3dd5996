# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The statistics behind the gate's rules: error rates by simulation with fixed seeds, and what holds for any samples."""

from __future__ import annotations

import math
import random

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _statistics
from ansible_collections.signal.rollout.plugins.module_utils._statistics import SequentialTest
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD, BAD, FAR = 0.0005, 0.002, 0.05


def sequential(**changes: float) -> SequentialTest:
    options = {"good": GOOD, "bad": _statistics.alternatives(BAD, FAR), "alpha": 0.01, "beta": 0.05, **changes}
    return SequentialTest(**options)  # type: ignore[arg-type]


def decided_after(share: float, rng: random.Random, most: int = 20000) -> int | None:
    """After how many requests the test decides, one at a time; None when it does not."""
    test = sequential()
    for number in range(1, most + 1):
        test.add(1.0 if rng.random() < share else 0.0, 1.0)
        if test.decided:
            return number
    return None


# ----------------------------------------------------------------------------------------------- sequential test


def test_it_tests_against_twice_the_limit_far_over_it_and_the_share_between() -> None:
    assert _statistics.alternatives(BAD, FAR) == (BAD, pytest.approx(0.01), FAR)
    assert _statistics.alternatives(0.06, FAR) == (0.06,)


def test_one_error_in_a_handful_of_requests_is_not_sufficient_and_two_are() -> None:
    test = sequential()
    test.add(1, 20)
    assert not test.decided
    test.add(1, 20)
    assert test.decided


def test_the_threshold_is_walds_shared_by_the_alternatives() -> None:
    assert sequential().threshold == pytest.approx(3 * 0.95 / 0.01)


def test_it_rarely_aborts_at_half_the_limit_however_long_it_runs() -> None:
    rng = random.Random(1)
    aborted = sum(decided_after(GOOD, rng, 5000) is not None for _turn in range(300))
    assert aborted <= 300 * 0.02


def test_it_sees_twice_the_limit_and_worse_sooner() -> None:
    rng = random.Random(2)
    medians = []
    for share in (0.002, 0.005, 0.05, 1.0):
        needed = sorted(decided_after(share, rng) or 10**9 for _turn in range(60))
        assert needed[54] < 10**9, f"at {share} nine out of ten are seen"
        medians.append(needed[30])
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] <= 3


def test_what_was_good_for_long_does_not_hide_what_has_become_bad() -> None:
    fresh, seasoned = sequential(), sequential()
    seasoned.add(0, 1_000_000)
    for test in (fresh, seasoned):
        while not test.decided:
            test.add(1, 500)
    assert seasoned.errors <= fresh.errors + math.ceil(math.log(100) / (math.log(4) - 0.75)) + 1


@pytest.mark.parametrize("share", [0.002, 0.01, 0.05])
def test_the_expected_number_of_requests_is_about_right(share: float) -> None:
    rng = random.Random(3)
    needed = [decided_after(share, rng) for _turn in range(80)]
    mean = sum(number for number in needed if number is not None) / len(needed)
    expected = sequential().expected_requests(share)
    assert expected is not None
    assert expected / 2.5 < mean < expected * 2.5


def test_a_good_share_is_not_expected_to_be_decided_against() -> None:
    assert sequential().expected_requests(GOOD) is None


def test_many_good_requests_clear_the_share() -> None:
    test = sequential()
    test.add(0, 1000)
    assert not test.cleared
    test.add(0, 2000)
    assert test.cleared


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500)), max_size=60))
def test_it_never_decides_without_errors_and_more_errors_never_speak_for_a_release(steps: list[tuple[int, int]]) -> None:
    worse, better, clean = sequential(), sequential(), sequential()
    for errors, fine in steps:
        worse.add(errors + 1, errors + 1 + fine)
        better.add(errors, errors + 1 + fine)
        clean.add(0, errors + fine)
    assert not clean.decided
    assert max(worse.sums) >= max(better.sums) - 1e-9
    assert all(math.isfinite(value) for value in worse.sums)


# ----------------------------------------------------------------------------------------------------- comparison


def normal(rng: random.Random, mean: float, spread: float, count: int) -> list[float]:
    return [rng.gauss(mean, spread) for _turn in range(count)]


def test_the_same_figure_is_rarely_significant() -> None:
    rng = random.Random(4)
    found = [_statistics.compare(normal(rng, 100, 10, 12), normal(rng, 100, 10, 12), True).p for _turn in range(300)]
    assert sum(p < 0.01 for p in found) <= 9


def test_a_worse_figure_is_significant_with_its_size() -> None:
    rng = random.Random(5)
    found = _statistics.compare(normal(rng, 150, 10, 12), normal(rng, 100, 10, 12), True)
    assert found.p < 1e-4
    assert found.shift == pytest.approx(50, abs=10)
    assert (found.canary, found.baseline) == (pytest.approx(150, abs=8), pytest.approx(100, abs=8))


def test_the_direction_decides_what_is_worse() -> None:
    rng = random.Random(6)
    high, low = normal(rng, 95, 1, 10), normal(rng, 80, 1, 10)
    assert _statistics.compare(low, high, increase=False).p < 1e-4
    assert _statistics.compare(low, high, increase=True).p > 0.99
    assert _statistics.compare(low, high, increase=False).shift == pytest.approx(15, abs=1)


def test_a_baseline_of_zeros_does_not_hide_errors_in_every_other_sample() -> None:
    # As in Spinnaker's issue 5622: five of ten samples with errors against none; the median of differences sees little of it.
    canary = [0.0, 0.035, 0.0, 0.18, 0.0, 0.07, 0.0, 0.11, 0.0, 0.05]
    found = _statistics.compare(canary, [0.0] * 10, True)
    assert found.p < 0.02
    assert found.shift == pytest.approx(sum(canary) / 10)


def test_equal_constants_are_no_difference_and_unequal_ones_are() -> None:
    assert _statistics.compare([5.0] * 8, [5.0] * 8, True).p == 1.0
    found = _statistics.compare([6.0] * 8, [5.0] * 8, True)
    assert found.p < 0.001 and found.shift == 1.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=20), st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=20))
def test_a_comparison_is_finite_for_any_samples(one: list[float], other: list[float]) -> None:
    found = _statistics.compare(one, other, True)
    assert 0.0 <= found.p <= 1.0
    assert math.isfinite(found.shift)


@pytest.mark.parametrize("samples", [4, 8, 12])
def test_the_smallest_p_is_reached_by_samples_that_do_not_overlap(samples: int) -> None:
    low, high = [float(n) for n in range(samples)], [float(n + 100) for n in range(samples)]
    # scipy is exact up to eight samples and approximates beyond.
    assert _statistics.compare(high, low, True).p == pytest.approx(_statistics.smallest_p(samples), abs=1e-4)


def test_looks_grow_with_the_evidence() -> None:
    assert _statistics.looks(8, 16) == (8, 10, 13, 16)
    assert _statistics.looks(8, 8) == (8,)
    assert _statistics.spans(400.0, 800.0) == (400.0, 500.0, 625.0, 781.25, 800.0)


# ------------------------------------------------------------------------------------------------------------ line


def sawtooth(rng: random.Random, per_hour: float, seconds: int, noise: float = 2.0) -> list[tuple[float, float]]:
    """Memory with a garbage collection every 40 s, growing by ``per_hour``."""
    return [(float(at), 100 + (at % 40) * 0.5 + per_hour * at / 3600 + rng.gauss(0, noise)) for at in range(0, seconds, 5)]


def test_a_leak_is_a_slope_above_nothing_and_a_sawtooth_is_not() -> None:
    rng = random.Random(7)
    leaking = [_statistics.line(sawtooth(rng, 100, 600), 0.95) for _turn in range(20)]
    assert all(line is not None and line.low > 20 for line in leaking)
    steady = [_statistics.line(sawtooth(rng, 0, 600), 0.95) for _turn in range(100)]
    assert sum(line is not None and line.low > 5 for line in steady) <= 5


def test_wild_values_do_not_make_a_slope() -> None:
    rng = random.Random(8)
    points = sawtooth(rng, 0, 600)
    points[-5:] = [(at, value + 1000) for at, value in points[-5:]]
    line = _statistics.line(points, 0.95)
    assert line is not None and line.low < 5


def test_a_slope_is_in_units_per_hour() -> None:
    line = _statistics.line([(float(at), at * 2.0) for at in range(0, 300, 3)], 0.95)
    assert line is not None
    assert line.slope == pytest.approx(7200)
    assert line.points == _statistics.LONGEST_LINE


def test_two_points_are_no_line() -> None:
    assert _statistics.line([(0.0, 1.0), (10.0, 2.0)], 0.95) is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1e9), min_size=3, max_size=200), st.floats(0.5, 0.999))
def test_a_line_lies_within_its_bounds(values: list[float], confidence: float) -> None:
    line = _statistics.line([(float(at), value) for at, value in enumerate(values)], confidence)
    assert line is None or line.low <= line.slope + 1e-6 * abs(line.slope) + 1e-6
