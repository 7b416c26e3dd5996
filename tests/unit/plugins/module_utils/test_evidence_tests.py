# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of tests, coverage and benchmarks: counted, not believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_tests as evidence
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable

COMMIT = "3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2"
DIGEST = "sha256:" + "9f" * 32


def junit(cases: str, **attributes: object) -> bytes:
    head = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" {head}>{cases}</testsuite></testsuites>'.encode()


PASSED = '<testcase classname="tests.test_pricing" name="test_a" time="0.001"/>'
FAILED = '<testcase classname="tests.test_pricing" name="test_b"><failure message="assert 1 == 2">E</failure></testcase>'
ERROR = '<testcase classname="tests.test_pricing" name="test_c"><error message="fixture"/></testcase>'
SKIPPED = '<testcase classname="tests.test_pricing" name="test_d"><skipped type="pytest.skip" message="no lab"/></testcase>'


# --- JUnit -----------------------------------------------------------------------------------------------------------


def test_tests_are_counted_by_their_cases() -> None:
    found, _origin = evidence.read_junit("unit.xml", junit(PASSED + FAILED + ERROR + SKIPPED, tests=4, failures=1, errors=1, skipped=1))
    assert (found.tests, found.failures, found.errors, found.skipped) == (4, 1, 1, 1)
    assert found.bad == ["tests.test_pricing.test_b", "tests.test_pricing.test_c"]


def test_a_head_that_hides_a_failure_is_not_believed() -> None:
    found, _origin = evidence.read_junit("unit.xml", junit(PASSED + FAILED, tests=2, failures=0))
    with pytest.raises(Refused, match=r"2 tests, 1 failures.*test_b"):
        evidence.judge_tests("unit", found)


def test_an_error_that_stands_in_the_head_only_counts() -> None:
    found, _origin = evidence.read_junit("unit.xml", junit(PASSED, tests=1, errors=1))
    with pytest.raises(Refused, match="1 errors"):
        evidence.judge_tests("unit", found)


def test_a_suite_inside_a_suite_is_counted_once() -> None:
    data = f'<testsuite tests="2"><testsuite tests="2">{PASSED}{SKIPPED}</testsuite></testsuite>'.encode()
    found, _origin = evidence.read_junit("unit.xml", data)
    assert evidence.judge_tests("unit", found) == "unit tests: 2 tests, 0 failures, 0 errors, 1 skipped"


def test_a_report_with_fewer_cases_than_it_says_was_cut() -> None:
    with pytest.raises(Unusable, match="says it has 130 tests and holds 1"):
        evidence.read_junit("unit.xml", junit(PASSED, tests=130))


@pytest.mark.parametrize("cases", ["", SKIPPED])
def test_no_test_that_ran_proves_nothing(cases: str) -> None:
    found, _origin = evidence.read_junit("unit.xml", junit(cases))
    with pytest.raises(Unusable, match="nothing was run"):
        evidence.judge_tests("unit", found)


def test_a_report_says_where_it_comes_from_by_properties() -> None:
    properties = f'<properties><property name="git.commit" value="{COMMIT.upper()}"/><property name="image" value="r.example/s@{DIGEST}"/></properties>'
    _found, origin = evidence.read_junit("unit.xml", junit(properties + PASSED, timestamp="2026-11-28T09:34:01.222773+00:00"))
    assert (origin.commit, origin.digests) == (COMMIT, (DIGEST,))
    assert origin.made is not None and origin.made.isoformat() == "2026-11-28T09:34:01.222773+00:00"


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuites><testsuite name="&b;"/></testsuites>'
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><testsuites><testsuite name="x">&a;</testsuite></testsuites>'


@pytest.mark.parametrize("data", [BOMB, OUTSIDE])
def test_entities_are_refused(data: bytes) -> None:
    with pytest.raises(Unusable, match="declares an entity"):
        evidence.read_junit("unit.xml", data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", "is not XML"),
        (b"<testsuites><testsuite>", "is not XML"),
        (b"<html/>", "begins with <html>, expected a JUnit report"),
        (b"<testsuites>" + b"<properties>" * 300, "deeper than 200"),
    ],
)
def test_what_is_no_report_of_tests_is_not_judged(data: bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        evidence.read_junit("unit.xml", data)


# --- coverage --------------------------------------------------------------------------------------------------------


def cobertura(covered: int, lines: int, rate: object = "", file: str = "app/pricing.py") -> bytes:
    """With the document type that Java's tool writes."""
    body = "".join(f'<line number="{number}" hits="{int(number <= covered)}"/>' for number in range(1, lines + 1))
    rate = f'line-rate="{rate}"' if rate != "" else ""
    kind = '<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">'
    classes = f'<class name="pricing" filename="{file}"><methods><method name="f"><lines>{body}</lines></method></methods><lines>{body}</lines></class>'
    packages = f"<packages><package><classes>{classes}</classes></package></packages>"
    return f'<?xml version="1.0" ?>{kind}<coverage {rate} timestamp="1795858466806">{packages}</coverage>'.encode()


def coverage_json(covered: int, lines: int, said: int | None = None, file: str = "app/pricing.py") -> bytes:
    entry = {"executed_lines": list(range(1, covered + 1)), "missing_lines": list(range(covered + 1, lines + 1))}
    totals = {"covered_lines": covered if said is None else said, "num_statements": lines, "percent_covered": 99.0, "percent_covered_display": "99"}
    return json.dumps({"meta": {"version": "7.17.5", "timestamp": "2026-11-28T09:34:26.667853"}, "files": {file: entry}, "totals": totals}).encode()


@pytest.mark.parametrize("report", [cobertura, coverage_json])
def test_coverage_must_be_above_the_limit_not_at_it(report: Any) -> None:
    at, _origin = evidence.read_coverage("c", report(90, 100))
    with pytest.raises(Refused, match=r"90\.00 % of lines covered \(90 of 100\), expected > 90 %"):
        evidence.judge_coverage(at, 90)
    above, _origin = evidence.read_coverage("c", report(91, 100))
    assert evidence.judge_coverage(above, 90) == "91.00 % of lines covered (91 of 100), > 90 %"


def test_coverage_is_not_rounded_up() -> None:
    found, _origin = evidence.read_coverage("c", coverage_json(8_999, 10_000))
    with pytest.raises(Refused, match=r"89\.99 %"):
        evidence.judge_coverage(found, 89.995)


@pytest.mark.parametrize("data", [cobertura(10, 100, rate=0.95), coverage_json(10, 100, said=95)])
def test_a_sum_that_is_not_that_of_its_lines_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match=r"says 95\.00 %.*give 10\.00 %"):
        evidence.read_coverage("c", data)


def test_a_line_that_ran_in_one_of_two_reports_has_run() -> None:
    total = evidence.Coverage()
    for covered in (10, 40):
        total.add(evidence.read_coverage("c", cobertura(covered, 100))[0])
    total.add(evidence.read_coverage("c", coverage_json(5, 10, file="app/market.py"))[0])
    assert total.totals == (45, 110)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (cobertura(0, 0), "measured no line"),
        (b"<report/>", "expected Cobertura"),
        (b'{"total": 95}', "expected the JSON of coverage.py"),
        (b'{"files": {"a.py": {}}, "totals": {}}', "no list executed_lines of a.py"),
    ],
)
def test_what_measures_no_line_is_not_judged(data: bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        evidence.read_coverage("c", data)


# --- benchmarks ------------------------------------------------------------------------------------------------------

P99 = {"name": "latency p99", "value": 'metrics.http_req_duration."p(99)"', "unit": "ms", "below": 200.0}


def exported(p99: float = 120.0, crossed: bool = False, requests: int = 3000) -> dict[str, Any]:
    """As ``k6 run --summary-export`` writes it: there, a threshold is whether it was crossed."""
    duration = {"avg": 20.1, "p(95)": 60.0, "p(99)": p99, "thresholds": {"p(99)<200": crossed}}
    return {"root_group": {"name": ""}, "metrics": {"http_req_duration": duration, "http_reqs": {"count": requests, "rate": 100.0}}}


def handled(held: bool = True) -> dict[str, Any]:
    """As ``handleSummary(data)`` gets it."""
    duration = {"type": "trend", "values": {"p(99)": 120.0}, "thresholds": {"p(99)<200": {"ok": held}}}
    return {"root_group": {"name": ""}, "metrics": {"http_req_duration": duration, "http_reqs": {"values": {"count": 3000}}}}


def test_figures_are_held_against_limits_and_thresholds() -> None:
    assert evidence.judge_benchmark("k6.json", exported(), [P99]) == "k6.json: latency p99 120 ms < 200, 1 thresholds of k6 held"


def test_a_figure_at_its_limit_is_not_below_it() -> None:
    with pytest.raises(Refused, match="latency p99 200 ms, expected < 200 ms"):
        evidence.judge_benchmark("k6.json", exported(p99=200.0), [P99])


@pytest.mark.parametrize("summary", [exported(crossed=True), handled(held=False)])
def test_a_crossed_threshold_is_one_in_both_summaries_of_k6(summary: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"k6 threshold http_req_duration p\(99\)<200 was crossed"):
        evidence.judge_benchmark("k6.json", summary, [])


def test_thresholds_that_held_are_enough() -> None:
    assert "1 thresholds of k6 held" in evidence.judge_benchmark("k6.json", handled(), [])


@pytest.mark.parametrize(
    ("document", "limits", "said"),
    [
        (exported(requests=0), [P99], "without a request"),
        ({"mean": 3.0}, [], "no limits are stated"),
        ({"mean": "3"}, [{"name": "m", "value": "mean", "below": 4.0}], "expected one finite number"),
        ({"other": 3}, [{"name": "m", "value": "mean", "below": 4.0}], "has None at mean"),
        ({"mean": float("nan")}, [{"name": "m", "value": "mean", "below": 4.0}], "expected one finite number"),
    ],
)
def test_a_figure_that_is_not_there_is_not_judged(document: dict[str, Any], limits: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(Unusable, match=said):
        evidence.judge_benchmark("b.json", document, limits)


def test_limits_without_exactly_one_finite_bound_are_wrong() -> None:
    limits = [
        {"name": "none", "value": "a"},
        {"name": "two", "value": "a", "below": 1.0, "above": 0.0},
        {"name": "endless", "value": "a", "below": float("inf")},
        {"name": "path", "value": "a[", "below": 1.0},
    ]
    problems = evidence.limit_problems("benchmarks", limits)
    assert [problem.split(":")[0] for problem in problems] == [f"benchmarks, limit {name}" for name in ("none", "two", "endless", "path")]


def test_pytest_benchmark_says_its_commit() -> None:
    data = json.dumps({"commit_info": {"id": COMMIT}, "datetime": "2026-11-28T09:34:26+00:00", "benchmarks": []}).encode()
    _document, origin = evidence.read_benchmark("b.json", data)
    assert origin.commit == COMMIT and origin.made is not None
