# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What follows from measurements after a release: percentiles, sizes, trends, and which boxes they prove."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _log_digest, _usage_math, _usage_proofs, _usage_queries, _usage_report, _usage_words
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._usage_math import Series
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20
RULE = _usage_math.Rule(20, 30, 20, 0.01, 32 * MIB)
finite = st.floats(0, 1e9, allow_nan=False)

# ------------------------------------------------------------------------------------------------ percentiles


@given(st.lists(finite, min_size=1, max_size=200), st.floats(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = _usage_math.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert _usage_math.percentile([], 95) is None
    assert _usage_math.spread([])["max"] is None


def test_a_quantile_is_interpolated_in_its_bucket_as_prometheus_does() -> None:
    counts = {0.01: 50.0, 0.05: 90.0, 0.1: 100.0, math.inf: 100.0}
    assert _usage_math.histogram_quantile(0.5, counts) == pytest.approx(0.01)
    assert _usage_math.histogram_quantile(0.9, counts) == pytest.approx(0.05)
    assert _usage_math.histogram_quantile(0.95, counts) == pytest.approx(0.075)


def test_what_lies_above_the_last_bound_is_told_by_that_bound() -> None:
    assert _usage_math.histogram_quantile(0.99, {0.1: 10.0, math.inf: 100.0}) == pytest.approx(0.1)


@pytest.mark.parametrize("counts", [{}, {0.1: 5.0}, {0.1: 0.0, math.inf: 0.0}])
def test_a_histogram_without_counts_or_without_its_end_has_no_quantile(counts: dict[float, float]) -> None:
    assert _usage_math.histogram_quantile(0.99, counts) is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=10), st.floats(0.01, 1))
def test_a_quantile_lies_within_the_bounds(counts: list[float], share: float) -> None:
    counts = sorted(counts)
    bounds = [*(0.01 * 2**place for place in range(len(counts) - 1)), math.inf]
    found = _usage_math.histogram_quantile(share, dict(zip(bounds, counts)))
    assert (found is None) == (counts[-1] == 0) and (found is None or 0 <= found <= bounds[-2])


# ------------------------------------------------------------------------------------------------ queries


@given(st.floats(1, 1e8), st.integers(2, 11000), st.floats(0.5, 300))
def test_a_window_never_costs_more_points_than_allowed_and_every_step_holds_four_scrapes(window: float, points: int, scrape: float) -> None:
    step = _usage_queries.step_of(1e9, 1e9 + window, points, scrape)
    assert _usage_queries.steps_in(1e9, 1e9 + window, step) <= points
    assert step >= 4 * scrape


WHO = _usage_queries.Subject("shop", "v2", "retail", "", {"region": 'eu"1'})


def test_no_query_has_a_subquery_and_labels_are_quoted() -> None:
    for name in _usage_queries.QUERIES:
        text = _usage_queries.written(name, WHO, 60, {})
        assert ":]" not in text and text.count("[") <= 1, text
    assert 'region="eu\\"1"' in _usage_queries.written("requests_by_code", WHO, 60, {})
    # The pods of v2 are not those of v20, and a point in a name stands for itself.
    assert 'pod=~"shop-v2-.*"' in _usage_queries.written("cpu", WHO, 60, {})
    assert 'pod=~"shop-v2\\\\.1-.*"' in _usage_queries.written("cpu", dataclasses.replace(WHO, version="v2.1"), 60, {})


def test_an_own_query_stands_in_for_a_built_in_one() -> None:
    text = _usage_queries.written("cpu", WHO, 60, {"cpu": 'rate(x{v="$version",n="$namespace",s="$service"}[$step])'})
    assert text == 'rate(x{v="v2",n="retail",s="shop"}[60s])'
    assert _usage_queries.problems_of({"cpu": " ", "gpu": "x"}) == [
        "queries has 'gpu', expected one of " + ", ".join(_usage_queries.QUERIES),
        "queries.cpu is empty",
    ]


def test_coverage_counts_steps_with_any_value() -> None:
    series = [Series({}, ((10.0, 1.0), (20.0, 1.0))), Series({}, ((20.0, 1.0), (30.0, 1.0)))]
    assert _usage_math.covered_percent(series, 6) == 50.0
    assert _usage_math.covered_percent([], 6) == _usage_math.covered_percent(series, 0) == 0.0


# ------------------------------------------------------------------------------------------------ sizes


def usage(cpu: tuple[float, float], memory: tuple[float, float]) -> dict[str, Any]:
    return {kind: {"p50": p95 / 2, "p95": p95, "max": most, "samples": 100} for kind, (p95, most) in (("cpu", cpu), ("memory", memory))}


def sizes(**given: float | None) -> dict[str, float | None]:
    return {"request_cpu": None, "limit_cpu": None, "request_memory": None, "limit_memory": None, **given}


def test_a_request_that_is_too_small_gets_a_bigger_proposal() -> None:
    found = _usage_math.propose(usage((0.2, 0.3), (64 * MIB, 80 * MIB)), sizes(request_cpu=0.01, request_memory=16 * MIB), RULE)
    assert found["request_cpu"] == {"current": 0.01, "proposed": 0.24, "change": True, "clipped": False}
    assert found["request_memory"]["proposed"] == 88 * MIB and found["request_memory"]["change"]
    # Memory without a limit gets one, CPU does not.
    assert found["limit_memory"]["proposed"] == 104 * MIB and "limit_cpu" not in found


def test_a_size_that_fits_is_kept() -> None:
    now = sizes(request_cpu=0.1, limit_cpu=0.5, request_memory=128 * MIB, limit_memory=160 * MIB)
    found = _usage_math.propose(usage((0.09, 0.11), (96 * MIB, 112 * MIB)), now, RULE)
    assert not any(entry["change"] for entry in found.values())
    assert _usage_math.patch({"app": found}) == {}


def test_usage_at_its_limit_was_cut_by_it_so_that_the_limit_is_doubled() -> None:
    now = sizes(request_cpu=0.1, limit_cpu=0.2, request_memory=32 * MIB, limit_memory=64 * MIB)
    found = _usage_math.propose(usage((0.195, 0.199), (63 * MIB, 64 * MIB)), now, RULE)
    assert found["limit_cpu"]["clipped"] and found["limit_cpu"]["proposed"] == 0.4
    assert found["limit_memory"]["clipped"] and found["limit_memory"]["proposed"] == 128 * MIB


def test_a_limit_of_cpu_is_never_lowered_since_a_mean_hides_bursts() -> None:
    found = _usage_math.propose(usage((0.02, 0.03), (40 * MIB, 40 * MIB)), sizes(request_cpu=0.5, limit_cpu=2.0), RULE)
    assert found["limit_cpu"]["proposed"] == 2.0 and not found["limit_cpu"]["change"]
    assert found["request_cpu"]["change"] and found["request_cpu"]["proposed"] == 0.03


@given(st.floats(0, 64), st.floats(0, 64), st.floats(1, 64 * 1024), st.floats(1, 64 * 1024), st.lists(st.none() | st.floats(0.01, 128), min_size=4, max_size=4))
def test_a_request_never_ends_up_above_its_limit(cpu: float, cpu_max: float, memory: float, memory_max: float, now: list[float | None]) -> None:
    current = sizes(
        request_cpu=now[0],
        limit_cpu=None if now[1] is None else max(now[1], now[0] or 0),
        request_memory=now[2] and now[2] * MIB,
        limit_memory=None if now[3] is None else max(now[3], now[2] or 0) * MIB,
    )
    measured = usage((cpu, max(cpu, cpu_max)), (memory * MIB, max(memory, memory_max) * MIB))
    found = _usage_math.propose(measured, current, RULE)
    after = {name: entry["proposed"] if entry["change"] else entry["current"] for name, entry in found.items()}
    for kind in ("cpu", "memory"):
        if after.get(f"limit_{kind}") is not None:
            assert after[f"request_{kind}"] <= after[f"limit_{kind}"] * (1 + 1e-9)


def test_the_patch_holds_only_what_changes_in_the_words_of_kubernetes() -> None:
    found = _usage_math.propose(usage((0.2, 0.3), (64 * MIB, 80 * MIB)), sizes(request_cpu=0.01, request_memory=88 * MIB), RULE)
    assert _usage_math.patch({"app": found})["spec"]["template"]["spec"]["containers"] == [
        {"name": "app", "resources": {"requests": {"cpu": "240m"}, "limits": {"memory": "104Mi"}}}
    ]


# ------------------------------------------------------------------------------------------------ patterns and trends

DAY = 86400.0
# A Monday.
START = 1764547200.0


def month(value: Any) -> list[tuple[float, float]]:
    return [(START + hour * 3600, value(hour)) for hour in range(30 * 24)]


def test_patterns_tell_the_busy_hour_and_the_quiet_day() -> None:
    def load(hour: int) -> float:
        return (20.0 if hour % 24 == 14 else 5.0) * (0.5 if hour // 24 % 7 in (5, 6) else 1.0)

    found = _usage_math.patterns(month(load), 3600)
    assert max(found["by_hour"], key=found["by_hour"].get) == 14
    assert sorted(found["by_weekday"], key=found["by_weekday"].get)[:2] in (["Saturday", "Sunday"], ["Sunday", "Saturday"])
    assert found["peak_per_second"] == 20.0 and found["peak_time"].endswith("T14:00:00Z")


def test_steps_longer_than_an_hour_say_nothing_of_hours() -> None:
    found = _usage_math.patterns([(START, 1.0), (START + 7200, 2.0)], 7200)
    assert found["by_hour"] == {} and found["by_weekday"] != {}


def test_a_trend_tells_when_the_limit_is_met() -> None:
    found = _usage_math.trend(month(lambda hour: 100 + hour / 24), 160.0, 0.95)
    assert found["per_day"] == pytest.approx(1.0) and found["days"] == pytest.approx((160 - found["level"]) / 1.0)
    assert found["days_at_least"] <= found["days"] <= found["days_at_most"]


def test_a_few_wild_values_do_not_make_a_trend() -> None:
    found = _usage_math.trend(month(lambda hour: 1e6 if hour % 97 == 0 else 100.0), 160.0, 0.95)
    assert found["per_day"] == 0.0 and found["days"] is None


def test_two_points_are_no_trend_and_usage_above_its_limit_needs_none() -> None:
    assert _usage_math.trend([(0.0, 1.0), (1.0, 2.0)], 3.0, 0.95) is None
    assert _usage_math.trend(month(lambda hour: 200.0), 160.0, 0.95)["days"] == 0.0


# ------------------------------------------------------------------------------------------------ logs


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"level": "ERROR", "message": "redis failed", "error_type": "TimeoutError"}', "TimeoutError"),
        ('{"severity": "critical", "msg": "order 4711 of \'jane\' lost"}', "order # of # lost"),
        ("2026-11-28 12:00:00 ERROR cannot reach 10.0.0.7:5432", "cannot reach #:#"),
        ('{"level": "INFO", "message": "ERROR is only a word here"}', None),
        ("all is well", None),
    ],
)
def test_errors_are_told_by_level_and_grouped_by_type(line: str, kind: str | None) -> None:
    found = _log_digest.error_of(line)
    assert (found and found[0]) == kind


def test_a_digest_counts_by_type_the_most_frequent_first_without_secrets() -> None:
    lines = [(100.0 + place, f"ERROR order {place} failed, token=abc{place}") for place in range(3)] + [(99.0, "FATAL out of memory")]
    first, second = _log_digest.digest(lines)
    assert (first["count"], first["first"], first["last"]) == (3, 100.0, 102.0)
    assert second["error_type"] == "out of memory" and second["count"] == 1
    assert "abc" not in str([first, second])


def test_rows_of_a_log_store_have_the_same_form() -> None:
    rows = [{"error_type": None, "count": 2}, {"error_type": "TimeoutError", "count": "5", "first": "2026-11-28T12:00:00Z", "last": "2026-11-28T13:00:00Z"}]
    assert [(entry["error_type"], entry["count"]) for entry in _log_digest.from_rows(rows)] == [("TimeoutError", 5), ("unknown", 2)]


def test_times_of_kubernetes_are_read_with_their_nanoseconds() -> None:
    assert _log_digest.unix_time("2026-11-28T12:00:00.123456789Z") == pytest.approx(1795867200.123456)
    assert _log_digest.unix_time("2026-11-28T14:00:00+02:00") == 1795867200.0
    assert _log_digest.unix_time("yesterday") is None


# ------------------------------------------------------------------------------------------------ proofs


def demands(**changed: Any) -> _usage_proofs.Demands:
    limits = {"error_percent": 0.1, "p99_ms": 200, "cpu_percent": 70, "memory_percent": 80, "cache_hit_percent": 80, "log_errors_per_hour": 60}
    return _usage_proofs.Demands(**{"complete": True, "minimum_samples": 5, "minimum_coverage": 90, "minimum_requests": 100, "limits": limits, **changed})


def digest(**changed: Any) -> dict[str, Any]:
    spread = {"p50": 1.0, "p95": 2.0, "max": 3.0, "samples": 50}
    base = {"covered_percent": 100.0, "samples": 50, "requests": 1000, "requests_per_second": 1.0, "errors": 0, "error_percent": 0.0, "restarts": 0}
    return {**base, "p50_ms": 5.0, "p99_ms": 50.0, "cpu_cores": spread, "memory_bytes": spread, **changed}


def metrics(**changed: Any) -> dict[str, Any]:
    return {"metrics": {"green": digest(**changed), "blue": digest(p99_ms=80.0)}}


def sized(requests: int = 1000, samples: int = 50, p95: float = 0.1) -> dict[str, Any]:
    used = {"cpu": {"p50": p95, "p95": p95, "max": p95, "samples": samples}, "memory": {"p50": MIB, "p95": MIB, "max": MIB, "samples": samples}}
    current = sizes(request_cpu=0.1, limit_cpu=1.0, request_memory=64 * MIB, limit_memory=128 * MIB)
    entry = {"current": current, "usage": used, "sizes": _usage_math.propose(used, current, RULE)}
    return {"resources": {"containers": {"app": entry}, "covered_percent": 100.0, "requests": requests, "patch": {}, "deployment": "shop", "rule": {}}}


def cached(percent: float | None = 95.0, nodes: Any = None) -> dict[str, Any]:
    node = {"address": "cache:6379", "maxmemory": 100 * MIB, "maxmemory_policy": "allkeys-lru", "used_percent": 50.0, "totals": {"keys": 10, "evicted": 0}}
    return {"cache": {"covered_percent": 100.0, "hit_percent": percent, "lookups": 100, "hits": 95, "nodes": [node] if nodes is None else nodes, "hints": []}}


def logs(**changed: Any) -> dict[str, Any]:
    entry = {"error_type": "TimeoutError", "count": 3, "first": None, "last": None, "example": ""}
    return {"error_logs": {"covered_percent": 100.0, "count": 3, "per_hour": 0.1, "lines": 500, "errors": [entry], **changed}}


def trended(**changed: Any) -> dict[str, Any]:
    line = {"level": 1.0, "per_day": 0.1, "per_day_low": 0.05, "per_day_high": 0.2, "samples": 700, "limit": 10.0, "days": 90.0, "days_at_least": 45.0}
    trends = {"cpu_cores": {**line, "days_at_most": 180.0, **changed}, "requests_per_second": None}
    return {"capacity": {"covered_percent": 100.0, "samples": 700, "horizon_days": 30, "replicas": 2, "confidence": 0.95, "trends": trends}}


GOOD = [
    ("day_1.metrics", metrics()),
    ("day_1.error_logs", logs()),
    ("week_1.tuning", sized()),
    ("week_1.resources", sized()),
    ("week_1.cache", cached()),
    ("month_1.usage", {
        "usage": {"covered_percent": 100.0, "samples": 700, "requests": 9, "by_endpoint": [{"endpoint": "/a", "percent": 100.0}],
                  "mean_per_second": 1.0, "peak_per_second": 2.0, "peak_time": "2026-11-28T14:00:00Z"},
    }),
    ("month_1.capacity", trended()),
]
BAD = [
    ("day_1.metrics", metrics(error_percent=0.1), "error rate 0.1 %, expected < 0.1 %"),
    ("day_1.metrics", metrics(p99_ms=250.0), "p99 250 ms, expected < 200 ms"),
    ("day_1.error_logs", logs(per_hour=60.0), "60 errors an hour, expected < 60"),
    ("week_1.resources", sized(p95=0.7), "app cpu p95 70 % of its limit, expected < 70 %"),
    ("week_1.cache", cached(80.0), "hit rate 80 %, expected > 80 %"),
    ("week_1.cache", cached(nodes=[{"address": "c", "totals": {"keys": 5, "evicted": 50}}]), "c has evicted 50 keys and holds 5"),
    ("month_1.capacity", trended(days=12.0), "cpu cores meets its limit in 12 days, expected not within 30"),
]
OPEN = [
    ("day_1.metrics", metrics(covered_percent=89.0), "cover 89 % of the time, expected at least 90 %"),
    ("day_1.metrics", metrics(samples=4), "4 samples"),
    ("day_1.metrics", metrics(error_percent=None), "no requests"),
    ("day_1.metrics", {"metrics": {"error": "HTTP 503"}}, "HTTP 503"),
    ("day_1.error_logs", logs(covered_percent=0.0), "cover 0 %"),
    ("day_1.error_logs", logs(lines=0, count=0, errors=[]), "no errors and no log look alike"),
    ("week_1.tuning", sized(requests=99), "no real load"),
    ("week_1.resources", sized(samples=4), "4 samples"),
    ("week_1.cache", cached(None), "not asked for anything"),
    ("week_1.cache", cached(nodes=[]), "no settings of Redis"),
    ("month_1.capacity", trended(limit=None), "there is no limit"),
]


@pytest.mark.parametrize(("box", "parts"), GOOD, ids=lambda value: value if isinstance(value, str) else "")
def test_enough_and_good_measurements_prove_a_box(box: str, parts: dict[str, Any]) -> None:
    found, reasons = _usage_proofs.proofs(parts, demands())
    assert found[box]["state"] == "proven" and box not in reasons
    assert 0 < len(found[box]["evidence"]) <= 300


@pytest.mark.parametrize(("box", "parts", "words"), BAD)
def test_a_broken_limit_fails_a_box_at_the_limit_itself(box: str, parts: dict[str, Any], words: str) -> None:
    found, _reasons = _usage_proofs.proofs(parts, demands())
    assert found[box]["state"] == "failed" and words in found[box]["evidence"]


@pytest.mark.parametrize(("box", "parts", "words"), OPEN)
def test_too_little_evidence_leaves_a_box_open_and_says_why(box: str, parts: dict[str, Any], words: str) -> None:
    found, reasons = _usage_proofs.proofs(parts, demands())
    assert box not in found and words in reasons[box]


@pytest.mark.parametrize(("box", "parts"), GOOD, ids=lambda value: value if isinstance(value, str) else "")
def test_nothing_is_proven_before_the_time_has_passed(box: str, parts: dict[str, Any]) -> None:
    found, reasons = _usage_proofs.proofs(parts, demands(complete=False))
    assert found == {} and "has not passed yet" in reasons[box]


def test_a_slope_that_may_as_well_be_none_is_no_reason_to_act() -> None:
    found, _reasons = _usage_proofs.proofs(trended(days=12.0, per_day_low=-0.1), demands())
    assert found["month_1.capacity"]["state"] == "proven"


def test_foreign_words_cannot_break_the_table_of_a_report() -> None:
    entry = {"error_type": "a|b\n# c <script>", "count": 1, "first": 0.0, "last": None, "example": "`x` | y"}
    part = {"covered_since": None, "count": 1, "per_hour": 1.0, "lines": 1, "source": "query", "errors": [entry]}
    rows = [line for line in _usage_words._error_logs(part) if line.startswith("| 1 ")]
    assert len(rows) == 1 and rows[0].count("|") == 6 and "<script>" not in rows[0]


def test_every_mistake_in_the_options_is_named_before_anything_is_read() -> None:
    params = {
        "parts": ["metrics", "resources"], "window": 0, "baseline_window": 0, "points": 20000, "minimum_samples": 1, "minimum_requests": 1,
        "log_lines": 1, "log_pods": 1, "scrape_interval": 0.0, "prometheus_timeout": 1.0, "minimum_coverage_percent": 0.0, "confidence": 2.0,
        "released": "yesterday", "started": None, "until": None, "queries": {"gpu": "x"}, "prometheus_url": None, "sizing": None,
        "prometheus_validate_certs": True, "prometheus_ca_cert": None,
    }
    with pytest.raises(RolloutError) as refused:
        _usage_report.run(params, Context())
    for words in ("window is 0", "points is 20000", "scrape_interval", "minimum_coverage_percent", "confidence", "released is 'yesterday'",
                  "'gpu'", "prometheus_url", "sizing is missing", "Nothing was read"):
        assert words in refused.value.message, words
