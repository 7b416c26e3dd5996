# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate's pure decisions: options, samples, verdicts, and what must hold for any history at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _gate, _gate_model, _gate_plan, _gate_words, _promql
from ansible_collections.signal.rollout.plugins.module_utils._gate import Gate
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Limit, Metric, Plan, Reading, Sample, Verdict
from ansible_collections.signal.rollout.plugins.module_utils._question import Question
from hypothesis import given
from hypothesis import strategies as st

ERROR_RATE = Metric("error_rate", Question("errors"), Limit("below", 0.1, "%"))
P99 = Metric("p99", Question("latency"), Limit("below", 200.0, "ms"))


def options(**changes: Any) -> dict[str, Any]:
    """The options of metric_gate as validation leaves them, for one good metric."""
    given_options: dict[str, Any] = {
        "duration": 30.0,
        "interval": 1.0,
        "initial_delay": 0.0,
        "query_timeout": 5.0,
        "outage_budget": 600.0,
        "extension": 0.0,
        "max_age": 30.0,
        "metrics": [{"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%"}],
    }
    return {**given_options, **changes}


def judged(metric: Metric, reading: Reading, asked: float, age: float | None) -> Sample:
    return _gate.judge(metric, _gate.believe(reading, age, 30.0), asked)


def mistakes(**changes: Any) -> list[str]:
    with pytest.raises(_gate_model.ConfigError) as caught:
        _gate_plan.read_plan(options(**changes))
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def metric(**changes: Any) -> dict[str, Any]:
    return {"name": "m", "query": "q", "below": 1.0, "unit": "ms", **changes}


# --------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("kind", "holding", "broken"),
    [
        ("below", [0.0, 0.0999, -5.0], [0.1, 0.2]),
        ("at_most", [0.1, 0.0], [0.1000001]),
        ("above", [0.1000001], [0.1, 0.0]),
        ("at_least", [0.1, 3.0], [0.0999]),
    ],
)
def test_limits_are_strict_where_they_say_so(kind: str, holding: list[float], broken: list[float]) -> None:
    limit = Limit(kind, 0.1, "%")
    assert all(limit.holds(value) for value in holding)
    assert not any(limit.holds(value) for value in [*broken, math.nan, math.inf, -math.inf])


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0.00"), (0.0999, "0.0999"), (0.1, "0.10"), (4.8712, "4.87"), (0.09999999, "0.09999999")])
def test_a_shown_value_is_never_on_the_other_side_of_its_limit(value: float, shown: str) -> None:
    assert Limit("below", 0.1, "%").show(value) == shown


@given(st.sampled_from(_gate_model.LIMITS), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_showing_keeps_the_side_for_every_value(kind: str, limit: float, value: float) -> None:
    a_limit = Limit(kind, limit, "x")
    assert a_limit.holds(float(a_limit.show(value))) == a_limit.holds(value)


# --------------------------------------------------------------------------------------------------- options


def test_good_options_make_a_plan() -> None:
    plan = _gate_plan.read_plan(options())
    assert plan.metrics == (ERROR_RATE,)
    assert plan.minimum_of(ERROR_RATE) == 16, "half of the 31 polls of 30 s, rounded up"
    assert plan.longest == 630


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (metric(unit=None), "unit is missing"),
        (metric(unit=" "), "unit is missing"),
        (metric(below=None), "none of below, at_most, above, at_least"),
        (metric(above=1.0), "below, above of below"),
        (metric(below=math.nan), "below is nan, expected a finite number"),
        (metric(below=math.inf), "expected a finite number"),
        (metric(query=None), "neither of query and preset"),
        (metric(query="  "), "neither of query and preset"),
        (metric(preset="p99_ms"), "both of query and preset"),
        (metric(preset_vars={"version": "v2"}), "preset_vars belongs to preset"),
        (metric(query=None, preset="p99_ms", preset_vars={"version": "v2"}), "preset_vars.window is missing"),
        (metric(query=None, preset="p99_ms", preset_vars={"version": "v2", "window": "a while"}), "expected a duration"),
        (metric(query=None, preset="p99_ms", preset_vars={"version": "v2", "window": "30s", "versoin": "v1"}), "no 'versoin'"),
        (metric(query=None, preset="error_percent", preset_vars={"version": "v2", "window": "30s"}), "unit is 'ms', but preset"),
        (metric(failure_limit=-1), "failure_limit is -1"),
        (metric(failure_limit=31), "could never break its limit"),
        (metric(window=0.0), "window is 0.0"),
        (metric(name=""), "expected 1 to 60 printable characters"),
        (metric(name="a\nb"), "expected 1 to 60 printable characters"),
        (metric(dry_run=True), "every metric is a dry run"),
    ],
)
def test_a_wrong_metric_is_refused_with_its_mistake(entry: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in mistakes(metrics=[entry]))


@pytest.mark.parametrize("limit", [100.5, 1000.0])
def test_a_limit_that_nothing_can_break_is_refused(limit: float) -> None:
    entry = metric(query=None, preset="error_percent", preset_vars={"version": "v2", "window": "30s"}, unit="%", below=limit)
    assert any("can never be broken" in problem for problem in mistakes(metrics=[entry]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration": 0.0}, "duration is 0.0 s"),
        ({"duration": -1.0}, "duration is -1.0 s"),
        ({"duration": math.nan}, "duration is nan s"),
        ({"duration": 1e9}, "at most 604800"),
        ({"duration": 5.0, "interval": 10.0}, "at least one interval"),
        ({"interval": 0.0}, "interval is 0.0 s"),
        ({"interval": -1.0}, "interval is -1.0 s"),
        ({"interval": 0.01}, "interval is 0.01 s"),
        ({"initial_delay": -1.0}, "initial_delay is -1.0 s"),
        ({"query_timeout": 0.0}, "query_timeout is 0.0 s"),
        ({"outage_budget": -1.0}, "outage_budget is -1.0 s"),
        ({"extension": math.inf}, "extension is inf s"),
        ({"max_age": 0.0}, "max_age is 0.0 s"),
        ({"minimum_samples": 0}, "minimum_samples is 0, expected 1 to 31"),
        ({"minimum_samples": 32}, "minimum_samples is 32, expected 1 to 31"),
        ({"scrape_interval": 15.1}, "at least two scrapes"),
        ({"metrics": []}, "metrics has no entry"),
        ({"minimum_requests": {"query": "count", "at_least": 0.0}}, "at_least is 0.0"),
        ({"minimum_requests": {"at_least": 10.0}}, "minimum_requests: it has neither"),
    ],
)
def test_wrong_numbers_are_refused(changes: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in mistakes(**changes))


def test_all_mistakes_are_told_at_once() -> None:
    problems = mistakes(
        duration=-1.0,
        interval=0.0,
        metrics=[metric(), metric(unit=None), {"name": "x", "query": "q", "unit": "s"}],
        minimum_requests={"query": "q", "at_least": math.nan},
    )
    for words in ("duration", "interval", "used twice", "unit is missing", "metric x: it has none", "at_least is nan"):
        assert any(words in problem for problem in problems), words


def test_a_query_that_hides_missing_data_is_warned_about() -> None:
    plan = _gate_plan.read_plan(options(metrics=[metric(query="rate(x[1m]) or vector(0)")]))
    assert "missing data" in plan.warnings[0]


def test_a_window_of_fewer_than_two_scrapes_is_refused_and_of_fewer_than_four_warned_about() -> None:
    entry = metric(query=None, preset="p99_ms", preset_vars={"version": "v2", "window": "30s"})
    assert any("window is 30 s" in problem for problem in mistakes(duration=120.0, scrape_interval=20.0, metrics=[entry]))
    assert "fewer than four scrapes" in _gate_plan.read_plan(options(scrape_interval=10.0, metrics=[entry])).warnings[0]
    assert _gate_plan.read_plan(options(scrape_interval=5.0, metrics=[entry])).warnings == ()


def test_a_preset_brings_its_query_freshness_and_window() -> None:
    plan = _gate_plan.read_plan(options(metrics=[metric(query=None, preset="p99_ms", preset_vars={"version": "v2", "window": "1m30s"})]))
    assert 'version="v2"' in plan.metrics[0].question.text
    assert plan.metrics[0].freshness == Question('min(timestamp(signal_requests_total{version="v2"}))')
    assert plan.metrics[0].window == 90


def test_label_values_cannot_break_out_of_the_query() -> None:
    built = _promql.build("requests", {"version": 'v2"} or vector(1) #\\', "window": "30s"})
    assert r'version="v2\"} or vector(1) #\\"' in built.query


# ---------------------------------------------------------------------------------------- one reading, one sample


@pytest.mark.parametrize(
    ("reading", "age", "state"),
    [
        (Reading("good", 0.0, 1.0), 0.0, "good"),
        (Reading("good", 0.0999, 1.0), 30.0, "good"),
        (Reading("good", 0.1, 1.0), 0.0, "breach"),
        (Reading("good", math.nan, 1.0), 0.0, "no_data"),
        (Reading("good", math.inf, 1.0), 0.0, "no_data"),
        (Reading("good", None, 1.0), 0.0, "no_data"),
        (Reading("good", 0.0, 1.0), 30.1, "no_data"),
        (Reading("good", 0.0, 1.0), -30.1, "error"),
        (Reading("good", 0.0, 1.0), None, "error"),
        (Reading("good", 0.0, 1.0), math.nan, "error"),
        (Reading("no_data"), None, "no_data"),
        (Reading("error"), 0.0, "error"),
        (Reading("never heard of", 0.0, 1.0), 0.0, "error"),
    ],
)
def test_only_a_fresh_finite_number_within_its_limit_is_good(reading: Reading, age: float | None, state: str) -> None:
    sample = judged(ERROR_RATE, reading, 5.0, age)
    assert sample.state == state
    assert (sample.value is not None) == sample.seen


def test_no_data_can_be_made_a_breach_but_an_error_cannot() -> None:
    strict = Metric("m", Question("q"), Limit("at_least", 1.0, "pods"), no_data="breach")
    assert judged(strict, Reading("no_data"), 0.0, None).state == "breach"
    assert judged(strict, Reading("error"), 0.0, None).state == "error"


# ------------------------------------------------------------------------------------------------------ the hold


def plan(**changes: Any) -> Plan:
    given_plan: dict[str, Any] = {"metrics": (ERROR_RATE,), "duration": 10.0, "interval": 1.0, "minimum_samples": 6, "outage_budget": 60.0}
    return Plan(**{**given_plan, **changes})


def play(a_plan: Plan, *histories: str, counts: list[float | None] | None = None, longest: int = 2000) -> tuple[Verdict | None, int]:
    """Play one character a poll for each metric: g good, b breach, n no data, e error. The last one repeats for ever.

    ``counts`` are the requests known at each poll. Returns the verdict and the second it came at.
    """
    gate = Gate(a_plan, 0.0)
    for second in range(longest):
        now = second * a_plan.interval
        for each, history in zip(a_plan.metrics, histories, strict=True):
            letter = history[min(second, len(history) - 1)]
            state = {"g": "good", "b": "breach", "n": "no_data", "e": "error"}[letter]
            good, bad = (each.limit.value / 2, each.limit.value * 2)
            value = {"g": good, "b": bad}.get(letter)
            verdict = gate.add(each.name, Sample(now, state, value, "because"))
            if verdict is not None:
                return verdict, second
        if counts is not None:
            count = counts[min(second, len(counts) - 1)]
            gate.add_requests(Reading("no_data", detail="no series") if count is None else Reading("good", count, now))
        verdict = gate.decide(now)
        if verdict is not None:
            return verdict, second
    return None, longest


def test_a_clean_hold_passes_at_its_end_and_not_before() -> None:
    verdict, second = play(plan(), "g")
    assert (verdict.kind, second) == ("pass", 10)


def test_the_first_breach_ends_the_hold_at_once() -> None:
    verdict, second = play(plan(), "gggb")
    assert (verdict.kind, verdict.metric, second) == ("breach", "error_rate", 3)
    assert verdict.reason == "error_rate is 0.20 %, expected < 0.1 %"


def test_a_breach_counts_while_another_metric_is_blind() -> None:
    verdict, second = play(plan(metrics=(ERROR_RATE, P99)), "ggggb", "e")
    assert (verdict.kind, verdict.metric, second) == ("breach", "error_rate", 4)


def test_forgiven_breaches_are_counted_over_the_whole_hold() -> None:
    forgiving = Metric("error_rate", Question("errors"), Limit("below", 0.1, "%"), failure_limit=2)
    assert play(plan(metrics=(forgiving,)), "gbgbg")[0].kind == "pass"
    verdict, second = play(plan(metrics=(forgiving,)), "gbgbgb")
    assert (verdict.kind, second) == ("breach", 5)
    assert verdict.reason.startswith("3 samples over the limit, 2 forgiven")


def test_the_last_sample_must_be_good() -> None:
    forgiving = Metric("error_rate", Question("errors"), Limit("below", 0.1, "%"), failure_limit=1)
    verdict, second = play(plan(metrics=(forgiving,)), "g" * 10 + "bg")
    assert (verdict.kind, second) == ("insufficient", 10)
    verdict, second = play(plan(metrics=(forgiving,), extension=5.0), "g" * 10 + "bg")
    assert (verdict.kind, second) == ("pass", 11)


def test_an_outage_freezes_the_clock_and_the_hold_resumes_and_passes() -> None:
    verdict, second = play(plan(outage_budget=600.0), "ggggg" + "e" * 480 + "g")
    assert verdict.kind == "pass"
    # 4 s were watched before, 6 s still were to come after the first good sample at second 485.
    assert second == 485 + 6


@pytest.mark.parametrize(("letter", "kind"), [("e", "error"), ("n", "no_data")])
def test_an_outage_longer_than_the_budget_ends_the_hold(letter: str, kind: str) -> None:
    verdict, second = play(plan(), "ggggg" + letter)
    assert verdict.kind == kind
    assert second == 4 + 60
    assert "because" in verdict.reason


def test_never_any_data_ends_after_the_budget() -> None:
    assert [play(plan(), letter)[1] for letter in "ne"] == [60, 60]


def test_flapping_sight_uses_up_the_same_budget() -> None:
    verdict, second = play(plan(duration=100.0, minimum_samples=1), "gn" * 500)
    assert verdict.kind == "no_data"
    assert 60 <= second <= 62


def test_no_budget_means_the_first_blind_sample_ends_the_hold() -> None:
    assert play(plan(outage_budget=0.0), "gn")[1] == 1


def test_each_metric_must_be_watched_for_the_whole_duration() -> None:
    verdict, second = play(plan(metrics=(ERROR_RATE, P99)), "g", "nnnnn" + "g")
    assert (verdict.kind, second) == ("pass", 15)


def test_a_dry_run_is_shown_but_never_decides() -> None:
    muted = Metric("p99", Question("latency"), Limit("below", 200.0, "ms"), dry_run=True)
    assert play(plan(metrics=(ERROR_RATE, muted)), "g", "b")[0].kind == "pass"
    assert play(plan(metrics=(ERROR_RATE, muted)), "g", "e")[0].kind == "pass"


def test_too_few_good_samples_are_not_enough() -> None:
    forgiving = Metric("error_rate", Question("errors"), Limit("below", 0.1, "%"), failure_limit=5)
    verdict, second = play(plan(metrics=(forgiving,), minimum_samples=8), "bbbbbg")
    assert (verdict.kind, second) == ("insufficient", 10)
    assert "6 good samples of at least 8" in verdict.reason
    assert play(plan(metrics=(forgiving,), minimum_samples=8, extension=60.0), "bbbbbg")[0].kind == "pass"
    assert [play(plan(metrics=(forgiving,), minimum_samples=count), "bbbbbg")[0].kind for count in (6, 7)] == ["pass", "insufficient"]


FLOOR = _gate_model.Requests(Question("count"), 2995.0)


def test_too_few_requests_extend_the_hold_and_then_it_passes() -> None:
    verdict, second = play(plan(requests=FLOOR, extension=60.0), "g", counts=[100.0 * n for n in range(100)])
    assert (verdict.kind, second) == ("pass", 30)
    assert "3000 requests" in verdict.reason


def test_too_few_requests_end_after_the_extension() -> None:
    verdict, second = play(plan(requests=FLOOR, extension=60.0), "g", counts=[100.0])
    assert (verdict.kind, second) == ("insufficient", 70)
    assert "100 requests, expected at least 2995" in verdict.reason


@pytest.mark.parametrize(("count", "kind"), [(2995.0, "pass"), (2994.9, "insufficient")])
def test_the_floor_itself_is_enough(count: float, kind: str) -> None:
    assert play(plan(requests=FLOOR), "g", counts=[count])[0].kind == kind


@pytest.mark.parametrize("count", [None, math.nan, math.inf])
def test_an_unknown_number_of_requests_is_not_enough(count: float | None) -> None:
    verdict, _second = play(plan(requests=FLOOR), "g", counts=[count])
    assert verdict.kind == "insufficient"
    assert "not known" in verdict.reason


def test_a_breach_during_the_extension_is_a_breach() -> None:
    verdict, second = play(plan(requests=FLOOR, extension=60.0), "g" * 20 + "b", counts=[1.0])
    assert (verdict.kind, second) == ("breach", 20)


# ------------------------------------------------------------------------------- whatever the history may be

LETTERS = st.text(alphabet="gbne", min_size=1, max_size=60)


@given(LETTERS, LETTERS, st.integers(0, 3), st.integers(0, 30), st.integers(0, 20))
def test_a_pass_always_has_all_its_evidence(one: str, two: str, forgiven: int, budget: int, extension: int) -> None:
    forgiving = Metric("error_rate", Question("errors"), Limit("below", 0.1, "%"), failure_limit=forgiven)
    a_plan = plan(metrics=(forgiving, P99), outage_budget=float(budget), extension=float(extension))
    verdict, second = play(a_plan, one, two)
    assert verdict is not None, "a hold always ends"
    assert second <= a_plan.longest + 1
    if verdict.kind != "pass":
        return
    for history, allowed in ((one, forgiven), (two, 0)):
        seen = [history[min(at, len(history) - 1)] for at in range(second + 1)]
        assert seen[-1] == "g"
        assert seen.count("b") <= allowed
        assert seen.count("g") >= a_plan.minimum_of(P99)
        in_sight = sum(seen[at] in "gb" and seen[at - 1] in "gb" for at in range(1, len(seen)))
        assert in_sight >= a_plan.duration


@given(st.text(alphabet="ne", min_size=1, max_size=60))
def test_blindness_alone_never_passes(history: str) -> None:
    verdict, _second = play(plan(), history)
    assert verdict.kind in ("no_data", "error")


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=11, max_size=40),
    st.sampled_from(_gate_model.LIMITS),
    st.floats(-1e6, 1e6),
)
def test_a_pass_means_that_every_single_value_kept_the_limit(values: list[float], kind: str, limit: float) -> None:
    each = Metric("m", Question("q"), Limit(kind, limit, "x"))
    gate = Gate(plan(metrics=(each,), outage_budget=5.0), 0.0)
    used: list[float] = []
    verdict = None
    for second, value in enumerate(values):
        used.append(value)
        sample = judged(each, Reading("good", value, 0.0), float(second), 0.0)
        verdict = gate.add("m", sample) or gate.decide(float(second))
        if verdict:
            break
    if verdict is not None and verdict.kind == "pass":
        finite = [value for value in used if math.isfinite(value)]
        assert all(each.limit.holds(value) for value in finite)
        assert len(finite) >= 6


@given(st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.3)), min_size=11, max_size=11))
def test_better_values_never_have_a_worse_verdict(pairs: list[tuple[float, float]]) -> None:
    def passes(values: list[float]) -> bool:
        gate = Gate(plan(), 0.0)
        verdict = None
        for second, value in enumerate(values):
            sample = judged(ERROR_RATE, Reading("good", value, 0.0), float(second), 0.0)
            verdict = verdict or gate.add("error_rate", sample) or gate.decide(float(second))
        return verdict is not None and verdict.kind == "pass"

    better, worse = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
    assert passes(better) or not passes(worse)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)), st.floats())
def test_no_odd_reading_becomes_good(value: Any, age: float) -> None:
    number = isinstance(value, float) and math.isfinite(value)
    state = "good" if number else "no_data"
    sample = judged(ERROR_RATE, Reading(state, value if number else None, 0.0), 0.0, age)
    assert sample.state != "good" or (number and value < 0.1 and abs(age) <= 30)


# ---------------------------------------------------------------------------------------- history and live lines


@given(st.lists(st.floats(0, 1e6) | st.none(), max_size=3000))
def test_a_series_stays_small_and_keeps_its_peak(values: list[float | None]) -> None:
    series = _gate.Series(max, limit=20)
    for second, value in enumerate(values):
        series.add(float(second), value)
    points = series.points()
    assert len(points) <= 20
    assert [point[0] for point in points] == sorted({point[0] for point in points})
    known = [value for value in values if value is not None]
    assert max((p[1] for p in points if p[1] is not None), default=None) == max(known, default=None)
    if values:
        assert points[0][0] == 0.0


def test_a_series_of_a_floor_keeps_its_lowest_value() -> None:
    series = _gate.Series(Limit("above", 80.0, "%").worse, limit=10)
    for second in range(1000):
        series.add(float(second), 10.0 if second == 500 else 90.0)
    assert min(point[1] for point in series.points()) == 10.0


@pytest.mark.parametrize(
    ("window", "times", "scrape", "poll", "seconds"),
    [(300.0, 2.0, 1.0, 1.0, 152.0), (30.0, 50.0, 1.0, 1.0, 2.6), (30.0, 1.0, 5.0, 1.0, 36.0), (30.0, 0.5, 0.0, 0.0, 30.0)],
)
def test_worst_case_detection(window: float, times: float, scrape: float, poll: float, seconds: float) -> None:
    assert _gate_words.detection_seconds(window, times, scrape, poll) == pytest.approx(seconds)


def test_the_live_line() -> None:
    muted = Metric("memory", Question("m"), Limit("below", 80.0, "%"), dry_run=True)
    gate = Gate(plan(metrics=(ERROR_RATE, P99, muted), duration=30.0, requests=FLOOR), 0.0)
    for second in range(4):
        gate.add("error_rate", Sample(float(second), "good", 0.0))
        gate.add("p99", Sample(float(second), "good", 41.23))
        gate.add("memory", Sample(float(second), "breach", 99.0))
        gate.add_requests(Reading("good", 611.6, 0.0))
    assert _gate_words.live_line("canary 10%", gate) == (
        "canary 10%: hold 00:27 left | error_rate 0.00 % < 0.1 | p99 41.2 ms < 200 | memory 99.0 % < 80 OVER (dry run) | requests 612 >= 2995"
    )


def test_the_line_while_blind_tells_why_and_how_long() -> None:
    gate = Gate(plan(), 0.0)
    gate.add("error_rate", Sample(0.0, "good", 0.0))
    gate.add("error_rate", Sample(1.0, "error", None, "connection refused"))
    assert _gate_words.blind_line("canary 10%", gate, 1.0, True) == (
        "canary 10%: cannot see error_rate (error: connection refused); the weight stays as it is for up to 00:59 more, then traffic goes back"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "00:00"), (0.2, "00:01"), (59.0, "00:59"), (60.0, "01:00"), (3599.5, "1:00:00"), (3725.0, "1:02:05")])
def test_the_remaining_time_reads_like_a_clock(seconds: float, text: str) -> None:
    assert _gate_words.clock(seconds) == text
