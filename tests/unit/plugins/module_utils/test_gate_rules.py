# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of a gate beyond its limit: counting, two bands, baseline, slope; and the options that make them useless."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _gate, _gate_model, _gate_plan, _gate_words, _metric_gate
from ansible_collections.signal.rollout.plugins.module_utils._gate import Gate
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Metric, Plan, Reading, Sample, Verdict
from ansible_collections.signal.rollout.plugins.module_utils._gate_schedule import Rhythm
from hypothesis import given
from hypothesis import strategies as st


def options(metrics: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    asked = {"prometheus_url": "http://prometheus.example:9090", "duration": 100, "metrics": metrics, **changes}
    checked = ArgumentSpecValidator(_metric_gate.ARGUMENT_SPEC).validate(asked)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def read(entry: dict[str, Any], **changes: Any) -> Plan:
    return _gate_plan.read_plan(options([entry], **changes))


def mistakes(entry: dict[str, Any], **changes: Any) -> list[str]:
    with pytest.raises(_gate_model.ConfigError) as caught:
        read(entry, **changes)
    return caught.value.problems


def errors(**changes: Any) -> dict[str, Any]:
    return {"name": "errors", "query": "q", "below": 0.1, "unit": "%", **changes}


def latency(**changes: Any) -> dict[str, Any]:
    return {"name": "p99", "query": "q", "below": 200, "unit": "ms", "window": 10, **changes}


BANDS = {"far": 50, "errors": "e", "requests": "r"}
BASELINE = {"query": "stable", "tolerance": 5}
PRESET = {"preset": "error_percent", "preset_vars": {"version": "v2", "window": "30s"}}


# --------------------------------------------------------------------------------------- options that are refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"failure_limit": -2}, "failure_limit is -2"),
        ({"failure_limit": -1}, "its limits are disabled"),
        ({"failure_limit": 101}, "could never break its limit"),
        ({"consecutive_failure_limit": -1}, "consecutive_failure_limit is -1"),
        ({"consecutive_failure_limit": 2}, "can never matter, since failure_limit 0 ends the hold first"),
        ({"failure_limit": 3, "consecutive_failure_limit": 3}, "can never matter"),
        ({"failure_limit": -1, "consecutive_failure_limit": 101}, "could never break its limit"),
        ({"consecutive_error_limit": -1}, "consecutive_error_limit is -1"),
        ({"consecutive_success_limit": 0}, "consecutive_success_limit is 0"),
        ({"consecutive_success_limit": 102}, "the metric could never pass"),
        ({"count": 0, "interval": 10}, "count is 0"),
        ({"count": 5}, "it has a count and no interval"),
        ({"count": 12, "interval": 10}, "count is 12, but the hold has only 11 polls of it"),
        ({"count": 4, "interval": 10, "failure_limit": 2, "consecutive_success_limit": 3}, "which is 5"),
        ({"count": 3, "interval": 10, "failure_limit": 3}, "only 3 samples are counted"),
        ({"interval": 0.01}, "interval is 0.01 s"),
        ({"interval": math.nan}, "interval is nan s"),
        ({"interval": 200}, "expected at least one interval of 200 s"),
        ({"initial_delay": -1}, "initial_delay is -1.0 s"),
        ({"initial_delay": 100}, "leaves 0 s"),
        ({"query_timeout": 0}, "query_timeout is 0.0 s"),
        ({"bands": {"errors": "e", "requests": "r"}}, "neither of far and breach_at"),
        ({"bands": {**BANDS, "breach_at": 5}}, "far and breach_at of far and breach_at"),
        ({"bands": {**BANDS, "far": 1}}, "far is 1.0"),
        ({"bands": {**BANDS, "far": 1000}}, "far is 1000.0, which is 100 %"),
        ({"bands": {**BANDS, "far": math.inf}}, "far is inf"),
        ({"bands": {"far": 50}}, "errors and requests are not both given"),
        ({"bands": {"far": 50, "errors": "e"}}, "errors and requests are not both given"),
        ({"bands": {**BANDS, "alpha": 0}}, "alpha is 0.0"),
        ({"bands": {**BANDS, "beta": 0.5}}, "beta is 0.5"),
        ({"bands": {**BANDS, "acceptable": 0.2}}, "expected one on each side of the limit"),
        ({"bands": {**BANDS, "unacceptable": 0.05}}, "expected one on each side of the limit"),
        ({"bands": {**BANDS, "acceptable": math.nan}}, "expected one on each side of the limit"),
        ({"bands": BANDS, "failure_limit": 1}, "expected one rule for samples over the limit, not two"),
        ({"bands": BANDS, "count": 5, "interval": 10}, "expected one rule for samples over the limit, not two"),
        ({"bands": BANDS, "unit": "errors"}, "expected below or at_most a share above 0"),
        ({"bands": BANDS, "below": None, "above": 0.1}, "expected below or at_most a share above 0"),
    ],
)
def test_a_rule_that_could_never_decide_is_refused(changes: dict[str, Any], words: str) -> None:
    found = mistakes(errors(**changes))
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": {"tolerance": 5}}, "neither of query and preset"),
        ({"baseline": {**BASELINE, "query": "q"}}, "its query is that of the metric itself"),
        ({"baseline": {"query": "stable"}}, "it has no tolerance"),
        ({"baseline": {**BASELINE, "tolerance": -1}}, "tolerance is -1.0"),
        ({"baseline": {**BASELINE, "tolerance_percent": math.nan}}, "tolerance_percent is nan"),
        ({"baseline": {**BASELINE, "confidence": 1}}, "confidence is 1.0"),
        ({"baseline": {**BASELINE, "minimum_samples": 3}}, "minimum_samples is 3"),
        ({"baseline": {**BASELINE, "minimum_samples": 12}}, "only 11 windows of 10 s"),
        ({"baseline": {**BASELINE, "minimum_samples": 4}, "window": 30, "below": 200, "interval": 30}, "can never show a difference"),
        ({"baseline": BASELINE, "window": None}, "the metric's window is not known"),
        ({"baseline": {"preset": "error_percent", "preset_vars": PRESET["preset_vars"], "tolerance": 5}}, "its preset is in '%'"),
        ({"baseline": BASELINE, "count": 5, "interval": 10}, "count cannot be combined with baseline or slope"),
        ({"slope": {"at_most": math.nan}}, "at_most is nan"),
        ({"slope": {"at_most": 1, "confidence": 0.3}}, "confidence is 0.3"),
        ({"slope": {"at_most": 1, "warm_up": -1}}, "warm_up is -1.0"),
        ({"slope": {"at_most": 1, "warm_up": 100}}, "the growth could never be judged"),
        ({"slope": {"at_most": 1, "minimum_span": 101}}, "the growth could never be judged"),
        ({"slope": {"at_most": 1, "minimum_span": 0}}, "minimum_span is 0.0"),
        ({"slope": {"at_most": 1, "minimum_samples": 2}}, "minimum_samples is 2"),
        ({"slope": {"at_most": 1}, "interval": 10}, "has only 6 polls"),
    ],
)
def test_a_comparison_or_slope_that_could_never_decide_is_refused(changes: dict[str, Any], words: str) -> None:
    found = mistakes(latency(**changes))
    assert any(words in problem for problem in found), found


def test_all_mistakes_of_all_rules_are_told_at_once() -> None:
    found = mistakes(
        errors(
            failure_limit=-2, count=0, bands={"alpha": 2}, baseline={"query": "q", "confidence": 7}, slope={"at_most": math.inf}, interval=-1
        ),
        duration=-5,
    )
    for words in ("duration", "failure_limit is -2", "count is 0", "alpha", "confidence is 7", "at_most is inf", "interval is -1"):
        assert any(words in problem for problem in found), words


def test_a_minimum_of_samples_that_a_slow_metric_cannot_reach_is_refused() -> None:
    assert any("the polls of errors" in problem for problem in mistakes(errors(interval=20), minimum_samples=7))
    assert read(errors(interval=20), minimum_samples=6).minimum_samples == 6


def test_a_preset_of_a_share_brings_both_counts() -> None:
    metric = read({"name": "errors", **PRESET, "below": 0.1, "unit": "%", "bands": {"breach_at": 5}}).metrics[0]
    assert metric.bands is not None
    assert metric.bands.far == 5
    assert "$hold" in metric.bands.errors.text and 'code=~"5.."' in metric.bands.errors.text
    assert list(metric.questions) == ["value", "freshness", "errors", "requests"]


def test_without_a_hold_only_that_is_checked_which_does_not_depend_on_it() -> None:
    found: list[str] = []
    entries = options([latency(baseline=BASELINE, slope={"at_most": 1}, consecutive_success_limit=1000)], duration=1)["metrics"]
    metrics = _gate_plan.read_metrics(entries, found, [])
    assert (len(metrics), found) == (1, [])


# --------------------------------------------------------------------------------------------------- playing holds


def play(plan: Plan, history: str, longest: int = 2000, count: Callable[[int], tuple[float, float]] | None = None) -> tuple[Verdict | None, int]:
    """Play one character a sample of the only metric: g good, s suspect, b breach, n no data, e error; the last one repeats."""
    metric = plan.metrics[0]
    gate = Gate(plan, 0.0)
    values = {"g": metric.limit.value / 2, "s": metric.limit.value * 1.5, "b": metric.limit.value * 90}
    states = {"g": "good", "s": "suspect", "b": "breach", "n": "no_data", "e": "error"}
    for turn in range(longest):
        now = metric.initial_delay + turn * plan.interval_of(metric)
        letter = history[min(turn, len(history) - 1)]
        verdict = gate.add(metric.name, Sample(now, states[letter], values.get(letter), "because"))
        if verdict is None and count is not None:
            verdict = gate.count(metric.name, *count(turn))
        verdict = verdict or gate.decide(now)
        if verdict is not None:
            return verdict, turn
    return None, longest


def test_failures_in_a_row_are_counted_apart_from_all_failures() -> None:
    plan = read(errors(failure_limit=-1, consecutive_failure_limit=2))
    assert play(plan, "bbg" * 60)[0].kind == "insufficient", "half of the samples are not good in the end"
    plan = read(errors(failure_limit=-1, consecutive_failure_limit=2), minimum_samples=10)
    assert play(plan, "bbg" * 33 + "g")[0].kind == "pass"
    verdict, turn = play(plan, "bbgbbb")
    assert (verdict.kind, turn) == ("breach", 5)
    assert verdict.reason.startswith("3 samples in a row over the limit, 2 forgiven")


def test_whichever_limit_of_failures_comes_first_decides() -> None:
    plan = read(errors(failure_limit=4, consecutive_failure_limit=1))
    assert play(plan, "gbb")[1] == 2
    assert play(plan, "gbgbgbgbgb")[1] == 9


def test_errors_in_a_row_end_the_hold_before_the_budget_does() -> None:
    plan = read(errors(consecutive_error_limit=4))
    verdict, turn = play(plan, "ggeeegeeeee")
    assert (verdict.kind, turn) == ("error", 10)
    assert "5 times in a row, 4 forgiven" in verdict.reason
    assert play(plan, "gnnnnn")[0].kind == "no_data"
    assert play(read(errors(consecutive_error_limit=4, failure_limit=1)), "g" + "e" * 4 + "g")[0].kind == "pass"


def test_a_streak_of_good_samples_is_needed_at_the_end() -> None:
    plan = read(errors(failure_limit=5, consecutive_success_limit=10))
    verdict, turn = play(plan, "g" * 95 + "bg")
    assert (verdict.kind, turn) == ("insufficient", 100)
    assert "good 5 times in a row, expected 10" in verdict.reason
    assert play(read(errors(failure_limit=5, consecutive_success_limit=10), extension=20), "g" * 95 + "bg")[1] == 105


def test_a_metric_is_done_after_its_count_and_passes_early() -> None:
    verdict, turn = play(read(errors(count=5, interval=10)), "g")
    assert (verdict.kind, turn) == ("pass", 4)
    assert play(read(errors(count=5, interval=10, failure_limit=2)), "bgbgg")[1] == 4


def test_samples_that_show_nothing_do_not_count() -> None:
    verdict, turn = play(read(errors(count=5, interval=10)), "gneggng")
    assert (verdict.kind, turn) == ("pass", 7)


def test_a_count_reached_without_its_streak_is_not_enough() -> None:
    plan = read(errors(count=5, interval=10, failure_limit=2, consecutive_success_limit=3))
    verdict, turn = play(plan, "gggbg")
    assert (verdict.kind, turn) == ("pass", 6), "measured on until three in a row are good"
    plan = read(errors(count=7, interval=10, failure_limit=4, consecutive_success_limit=3))
    verdict, turn = play(plan, "gbggbggbggbgg")
    assert (verdict.kind, turn) == ("insufficient", 10)


def test_a_breach_beyond_the_failure_limit_ends_a_counted_metric_at_once() -> None:
    verdict, turn = play(read(errors(count=5, interval=10, failure_limit=1)), "bb")
    assert (verdict.kind, turn) == ("breach", 1)


def test_a_delayed_metric_is_watched_for_the_rest_of_the_hold() -> None:
    plan = read(errors(initial_delay=40))
    assert play(plan, "g")[1] == 60
    gate = Gate(plan, 0.0)
    assert gate.blind(39.0) == [] and len(gate.blind(40.0)) == 1
    assert gate.tallies["errors"].blind_seconds(50.0) == 10.0


@given(st.text(alphabet="gbne", min_size=1, max_size=80), st.integers(-1, 4), st.none() | st.integers(0, 3), st.none() | st.integers(0, 3), st.integers(1, 5))
def test_no_combination_of_counting_rules_passes_without_its_evidence(
    history: str, failures: int, in_a_row: int | None, blind: int | None, streak: int
) -> None:
    entry = errors(
        failure_limit=failures, consecutive_failure_limit=in_a_row, consecutive_error_limit=blind, consecutive_success_limit=streak
    )
    try:
        plan = read({key: value for key, value in entry.items() if value is not None}, duration=30, outage_budget=20)
    except _gate_model.ConfigError:
        return
    verdict, turn = play(plan, history)
    assert verdict is not None, "a hold always ends"
    if verdict.kind != "pass":
        return
    seen = [history[min(at, len(history) - 1)] for at in range(turn + 1)]
    seen_only = "".join(letter for letter in seen if letter in "gb")
    assert seen_only.endswith("g" * streak)
    assert failures < 0 or seen.count("b") <= failures
    assert in_a_row is None or "b" * (in_a_row + 1) not in seen_only
    assert blind is None or not any(set(seen[at : at + blind + 1]) <= set("ne") for at in range(len(seen) - blind))
    assert seen.count("g") >= plan.minimum_of(plan.metrics[0])


# ------------------------------------------------------------------------------------------------------- two bands


def test_far_over_the_limit_the_first_sample_decides() -> None:
    metric = read(errors(bands=BANDS)).metrics[0]
    states = [_gate.judge(metric, Reading("good", value, 0.0), 0.0).state for value in (0.0999, 0.1, 4.99, 5.0)]
    assert states == ["good", "suspect", "suspect", "breach"]
    assert play(read(errors(bands=BANDS)), "gb")[0].reason == "errors is 9.00 %, expected < 0.1 %"


def test_slightly_over_the_limit_the_counts_decide_as_soon_as_they_suffice() -> None:
    plan = read(errors(bands=BANDS), extension=100)
    assert play(plan, "g" + "s" * 10 + "g", count=lambda turn: (1.0, 100.0 * turn))[0].kind == "pass", "one error in thousands of requests"
    verdict, turn = play(plan, "gs", count=lambda turn: (float(turn), 100.0 * turn))
    assert verdict.kind == "breach"
    assert 2 <= turn <= 6
    assert "sufficient evidence that it is not < 0.1 %" in verdict.reason


def test_overwhelming_evidence_is_told_without_twenty_digits() -> None:
    verdict, _turn = play(read(errors(bands=BANDS), extension=100), "gs", count=lambda turn: (40.0 * turn, 100.0 * turn))
    assert "likelihood ratio over 1000000, expected below 285" in verdict.reason


def test_at_the_end_the_limit_stands_for_the_last_sample() -> None:
    plan = read(errors(bands=BANDS), extension=20)
    verdict, turn = play(plan, "g" * 50 + "s", count=lambda turn: (1.0, 1000.0 * turn))
    assert (verdict.kind, turn) == ("breach", 120)
    assert verdict.reason == "errors is 0.15 %, expected < 0.1 %, at the end of the hold"


def test_at_the_end_the_limit_stands_for_the_hold_as_a_whole() -> None:
    plan = read(errors(bands=BANDS), extension=20)
    # 0.12 % with too few requests for the test, every sample of the window good.
    verdict, turn = play(plan, "g", count=lambda turn: (math.floor(turn / 83), 10.0 * turn))
    assert (verdict.kind, turn) == ("breach", 120)
    assert "over the whole hold (1 errors in 1200 requests)" in verdict.reason


def test_a_share_that_was_over_the_limit_at_the_end_must_become_clearly_good() -> None:
    plan = read(errors(bands=BANDS), extension=1000)
    # One error in 900 requests, then none: below the limit soon, but good evidence takes longer.
    verdict, turn = play(plan, "g", count=lambda turn: (1.0 if turn >= 50 else 0.0, 9.0 * turn))
    assert verdict.kind == "pass"
    assert turn > 112, "later than the first moment under the limit"


def test_counts_that_begin_anew_are_further_evidence() -> None:
    gate = Gate(read(errors(bands=BANDS)), 0.0)
    for counts in ((1.0, 1000.0), (0.0, 10.0), (1.0, 500.0)):
        gate.count("errors", *counts)
    test = gate.tallies["errors"].test
    assert test is not None
    assert (test.errors, test.requests) == (2.0, 1500.0)


def test_without_its_counts_a_metric_is_blind_unless_it_is_far_over_the_limit() -> None:
    metric = read(errors(bands=BANDS)).metrics[0]
    silent = {"errors": Reading("error", detail="refused")}
    sample = _gate.judge(metric, Reading("good", 0.05, 0.0), 0.0, silent)
    assert (sample.state, sample.value, sample.detail) == ("error", None, "errors: refused")
    assert _gate.judge(metric, Reading("good", 6.0, 0.0), 0.0, silent).state == "breach"


def poisson(rng: random.Random, mean: float) -> int:
    limit, number, product = math.exp(-mean), 0, rng.random()
    while product >= limit:
        number += 1
        product *= rng.random()
    return number


def simulated(rng: random.Random, share: float, rate: float, bands: bool) -> str:
    """The verdict of a hold of 15 minutes at ``rate`` requests/s of which ``share`` are errors, judged over windows of 60 s."""
    entry = errors(window=60, **({"bands": BANDS} if bands else {}))
    plan = read(entry, duration=900, extension=900, minimum_requests={"query": "count", "at_least": 2995})
    gate, metric = Gate(plan, 0.0), plan.metrics[0]
    totals = [(0, 0)]
    for turn in range(2000):
        if turn:
            requests = poisson(rng, rate)
            totals.append((totals[-1][0] + sum(rng.random() < share for _turn in range(requests)), totals[-1][1] + requests))
        failed, asked = (now - before for now, before in zip(totals[-1], totals[max(0, turn - 60)], strict=True))
        reading = Reading("good", 100 * failed / asked, float(turn)) if asked else Reading("no_data")
        verdict = gate.add("errors", _gate.judge(metric, reading, float(turn)))
        if bands:
            verdict = verdict or gate.count("errors", *map(float, totals[-1]))
        gate.add_requests(Reading("good", float(totals[-1][1]), float(turn)))
        verdict = verdict or gate.decide(float(turn))
        if verdict is not None:
            return verdict.kind
    raise AssertionError("a hold always ends")


# The figures in docs/how_a_gate_decides.md are those of more holds of the same kind.
@pytest.mark.parametrize(
    ("share", "rate", "bands", "fewest", "most"),
    [
        (0.0005, 3.4, False, 30, 50),
        (0.0005, 3.4, True, 0, 8),
        (0.0005, 20.0, True, 0, 2),
        (0.002, 3.4, True, 38, 50),
        (0.002, 20.0, True, 47, 50),
        (0.05, 3.4, True, 50, 50),
    ],
)
def test_how_often_a_hold_is_aborted(share: float, rate: float, bands: bool, fewest: int, most: int) -> None:
    rng = random.Random(11)
    aborted = sum(simulated(rng, share, rate, bands) == "breach" for _turn in range(50))
    assert fewest <= aborted <= most


# -------------------------------------------------------------------------------------------------------- baseline


def compare(plan: Plan, canary: Callable[[int], float], stable: Callable[[int], float | None]) -> tuple[Verdict | None, int, Gate]:
    gate, metric = Gate(plan, 0.0), plan.metrics[0]
    for turn in range(500):
        other = stable(turn)
        companions = {"baseline": Reading("no_data", detail="no series") if other is None else Reading("good", other, 0.0)}
        sample = _gate.judge(metric, Reading("good", canary(turn), 0.0), float(turn), companions)
        verdict = gate.add(metric.name, sample, other) or gate.decide(float(turn))
        if verdict is not None:
            return verdict, turn, gate
    return None, 500, gate


def test_a_canary_that_is_worse_than_the_stable_version_is_a_breach_in_words() -> None:
    rng = random.Random(12)
    plan = read(latency(baseline={**BASELINE, "tolerance_percent": 10}))
    verdict, turn, gate = compare(plan, lambda _turn: rng.gauss(150, 5), lambda _turn: rng.gauss(100, 5))
    assert verdict is not None
    assert (verdict.kind, turn) == ("breach", 70), "at the eighth window of 10 s"
    for words in ("medians 151.4 and 98.13 ms", "Hodges-Lehmann", "tolerated 9.813 ms", "p 7.8e-05", "Mann-Whitney, 8 windows each"):
        assert words in verdict.reason, verdict.reason
    found = _gate_words.evidence(gate.tallies["p99"])["baseline"]
    assert found["worse_by"] > found["tolerated"]


def test_a_significant_but_small_difference_is_tolerated() -> None:
    rng = random.Random(13)
    verdict, _turn, gate = compare(read(latency(baseline=BASELINE)), lambda _turn: rng.gauss(103, 0.5), lambda _turn: rng.gauss(100, 0.5))
    assert verdict is not None and verdict.kind == "pass"
    found = gate.tallies["p99"].difference
    assert found is not None and found.found is not None and found.found.p < 0.001


def test_the_absolute_limit_stands_beside_the_comparison() -> None:
    verdict, turn, _gate_ = compare(read(latency(baseline=BASELINE)), lambda turn: 250.0 if turn == 5 else 100.0, lambda _turn: 260.0)
    assert verdict is not None
    assert (verdict.kind, turn) == ("breach", 5)


def test_a_better_canary_is_no_breach() -> None:
    verdict, _turn, _gate_ = compare(read(latency(baseline=BASELINE)), lambda _turn: 50.0, lambda _turn: 100.0)
    assert verdict is not None and verdict.kind == "pass"


def test_a_baseline_without_data_is_blindness() -> None:
    verdict, _turn, gate = compare(read(latency(baseline=BASELINE), outage_budget=50), lambda _turn: 50.0, lambda turn: 50.0 if turn < 20 else None)
    assert verdict is not None and verdict.kind == "no_data"
    assert "baseline: no series" in verdict.reason
    assert gate.tallies["p99"].difference is not None and gate.tallies["p99"].difference.seen == 2


def test_samples_of_overlapping_windows_are_left_out() -> None:
    _verdict, _turn, gate = compare(read(latency(baseline=BASELINE)), float, float)
    difference = gate.tallies["p99"].difference
    assert difference is not None
    assert difference.canary == [float(at) for at in range(0, 101, 10)]


def test_errors_in_every_other_window_against_none_are_seen() -> None:
    entry = errors(below=1, window=10, baseline={"query": "stable", "tolerance": 0.02, "confidence": 0.95})
    verdict, _turn, _gate_ = compare(read(entry, duration=200), lambda turn: 0.1 if turn // 10 % 2 else 0.0, lambda _turn: 0.0)
    assert verdict is not None and verdict.kind == "breach"


# ----------------------------------------------------------------------------------------------------------- slope


def grow(entry: dict[str, Any], value: Callable[[int], float]) -> tuple[Verdict | None, int]:
    plan = read(entry)
    gate, metric = Gate(plan, 0.0), plan.metrics[0]
    for turn in range(500):
        sample = _gate.judge(metric, Reading("good", value(turn), 0.0), float(turn))
        verdict = gate.add(metric.name, sample) or gate.decide(float(turn))
        if verdict is not None:
            return verdict, turn
    return None, 500


MEMORY = {"name": "memory", "query": "m", "below": 80, "unit": "%", "slope": {"at_most": 100}}


def test_a_leak_is_a_breach_before_memory_is_full() -> None:
    rng = random.Random(14)
    verdict, turn = grow(MEMORY, lambda turn: 30 + 0.1 * turn + rng.gauss(0, 0.5))
    assert verdict is not None
    assert (verdict.kind, turn) == ("breach", 50), "at half of the hold"
    assert "memory grows by 3" in verdict.reason and "expected at most 100 % per hour" in verdict.reason


def test_steady_memory_and_a_rise_while_it_warms_up_are_none() -> None:
    rng = random.Random(15)
    assert grow(MEMORY, lambda turn: 30 + rng.gauss(0, 0.5))[0].kind == "pass"
    warm = {**MEMORY, "slope": {"at_most": 100, "warm_up": 40}}
    assert grow(warm, lambda turn: min(30.0, turn) + rng.gauss(0, 0.5))[0].kind == "pass"


def test_too_few_samples_for_a_slope_are_insufficient() -> None:
    plan = read({**MEMORY, "failure_limit": 200 - 100, "slope": {"at_most": 100, "minimum_span": 90}})
    gate, metric = Gate(plan, 0.0), plan.metrics[0]
    verdict = None
    for turn in range(101):
        # Seen by the clock of the hold, but without any figure that could be put on a line.
        state = "good" if turn > 95 else "breach"
        verdict = gate.add("memory", Sample(float(turn), state, 20.0 if turn > 95 else None)) or gate.decide(float(turn))
    assert verdict is not None and verdict.kind == "insufficient"
    assert "its growth is not known: 5 samples" in verdict.reason
    assert metric.slope is not None


# -------------------------------------------------------------------------------------------- rules in words, rhythm


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (errors(), ["< 0.1 %; the first sample over it is a breach"]),
        (errors(failure_limit=2), ["2 samples over it are forgiven"]),
        (errors(failure_limit=-1, consecutive_failure_limit=3), ["3 in a row over it are forgiven"]),
        (errors(failure_limit=-1, consecutive_success_limit=3), ["no breach, but must end", "the last 3 samples must be good"]),
        (errors(consecutive_error_limit=4), ["more than 4 samples in a row that cannot be seen end the hold"]),
        (errors(count=5, interval=10, initial_delay=20), ["done after 5 samples", "a sample every 10 s after 20 s"]),
        (errors(dry_run=True), ["dry run: shown, never decides"]),
        (errors(bands=BANDS), ["from 5 % on the first sample is a breach", "0.05 % against 0.2, 1, 5 %", "alpha 0.01, beta 0.05", "ratio of 285"]),
        (latency(baseline={**BASELINE, "tolerance_percent": 10}), ["more by more than 5 ms or 10 %", "confidence 0.99 over 3 looks at 8 to 11"]),
        (latency(slope={"at_most": 7, "warm_up": 20}), ["growth at most 7 ms per hour", "first after 40 s", "the first 20 s left out"]),
    ],
)
def test_a_rule_is_told_in_words(entry: dict[str, Any], words: list[str]) -> None:
    metrics = [entry, errors(name="other")]
    plan = _gate_plan.read_plan(options(metrics))
    told = _gate_words.rule(plan, plan.metrics[0])
    for part in words:
        assert part in told, told


def test_worst_cases_follow_the_rules() -> None:
    def seconds(**changes: Any) -> list[Any]:
        plan = read(errors(window=30, **changes), scrape_interval=1)
        return [(case["seconds"], case["requests"]) for case in _gate_words.detection(plan)[0]["worst_case"]]

    assert seconds() == [(17.0, None), (5.0, None), (2.6, None)]
    assert seconds(failure_limit=3) == [(20.0, None), (8.0, None), (5.6, None)]
    assert seconds(failure_limit=-1, consecutive_failure_limit=2) == [(19.0, None), (7.0, None), (4.6, None)]
    banded = seconds(bands=BANDS)
    assert [time for time, _requests in banded] == [None, None, 32.0]
    needed = [requests for _time, requests in banded]
    assert needed == sorted(needed, reverse=True) and needed[-1] < 50


def test_turns_that_were_missed_are_left_out_and_the_rest_keep_their_times() -> None:
    rhythm = Rhythm(100.0, 10.0)
    assert [rhythm.take(now) for now in (99.0, 100.0, 105.0, 111.0, 145.0, 149.0, 150.0)] == [None, 100.0, None, 110.0, 140.0, None, 150.0]


def test_metric_is_seen_by_the_plan() -> None:
    plan = read(errors(interval=5, initial_delay=10))
    metric: Metric = plan.metrics[0]
    assert (plan.interval_of(metric), plan.duration_of(metric), plan.polls_of(metric), plan.minimum_of(metric)) == (5.0, 90.0, 19, 10)
