# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What reports of tests, coverage and benchmarks say, counted anew instead of believed. Private to this collection. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import (
    Origin,
    Refused,
    Unusable,
    commit_of,
    digest_of,
    json_document,
    moment_of,
    xml_events,
)
from ansible_collections.signal.rollout.plugins.module_utils._http_json import expression_problem, jmespath_library

COMMIT_PROPERTIES = ("commit", "git.commit", "git_commit", "vcs.revision", "revision")
IMAGE_PROPERTIES = ("image", "image.digest", "container.image")
# In a report's own head the rate is rounded, and classes in one file may be counted twice.
_RATE_TOLERANCE = 2.0  # percentage points
BOUNDS = {"below": "<", "at_most": "<=", "above": ">", "at_least": ">="}


# --- tests -----------------------------------------------------------------------------------------------------------


@dataclass
class Tests:
    """What one JUnit report, or several, come to."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, other: Tests) -> None:
        self.tests += other.tests
        self.failures += other.failures
        self.errors += other.errors
        self.skipped += other.skipped
        self.bad += other.bad

    def __str__(self) -> str:
        return f"{self.tests} tests, {self.failures} failures, {self.errors} errors, {self.skipped} skipped"


def read_junit(name: str, data: bytes) -> tuple[Tests, Origin]:
    """Count a JUnit report by its test cases. Raises :class:`Unusable`."""
    counted, declared = Tests(), Tests()
    properties: dict[str, str] = {}
    made, path, state, case = "", [], "", ""
    for kind, element, attributes in xml_events(name, data):
        if kind == "end":
            path.pop()
            if element == "testcase":
                _count(counted, state, case)
            continue
        if not path and element not in ("testsuites", "testsuite"):
            raise Unusable(f"{name} begins with <{one_line(element, 40)}>, expected a JUnit report (<testsuites> or <testsuite>)")
        if element == "testsuite":
            made = made or attributes.get("timestamp", "")
            # Suites inside suites are in the sum of the outer one already.
            if "testsuite" not in path:
                declared.add(Tests(*(_whole(attributes.get(key)) for key in ("tests", "failures", "errors", "skipped"))))
        elif element == "property":
            properties.setdefault(attributes.get("name", "").lower(), attributes.get("value", ""))
        elif element == "testcase":
            state, case = "", f"{attributes.get('classname', '')}.{attributes.get('name', '')}".strip(".")
        elif path[-1:] == ["testcase"] and element in ("failure", "error", "skipped"):
            state = state if state in ("failure", "error") else element
        path.append(element)
    if declared.tests > counted.tests:
        raise Unusable(f"{name} says it has {declared.tests} tests and holds {counted.tests}: it was cut")
    # An error outside all test cases, such as in a fixture of a suite, is only in its head.
    counted.failures = max(counted.failures, declared.failures)
    counted.errors = max(counted.errors, declared.errors)
    commit = next((commit_of(properties[key]) for key in COMMIT_PROPERTIES if commit_of(properties.get(key))), "")
    digest = next((digest_of(properties[key]) for key in IMAGE_PROPERTIES if digest_of(properties.get(key))), "")
    return counted, Origin(commit, (digest,) if digest else (), moment_of(made))


def _count(counted: Tests, state: str, case: str) -> None:
    counted.tests += 1
    if state == "skipped":
        counted.skipped += 1
    elif state == "error":
        counted.errors += 1
    elif state == "failure":
        counted.failures += 1
    if state in ("error", "failure"):
        counted.bad.append(one_line(case, 80))


def _whole(text: str | None) -> int:
    try:
        return max(0, int(float(text or 0)))
    except (ValueError, OverflowError):
        return 0


def judge_tests(kind: str, found: Tests) -> str:
    """Return the evidence that all tests pass. Raises :class:`Refused` or :class:`Unusable`."""
    if found.failures or found.errors:
        named = f": {', '.join(found.bad[:3])}" if found.bad else ""
        raise Refused(f"{kind} tests: {found}{named}")
    if found.tests <= found.skipped:
        raise Unusable(f"{kind} tests: {found}: nothing was run")
    return f"{kind} tests: {found}"


# --- coverage --------------------------------------------------------------------------------------------------------


@dataclass
class Coverage:
    """Lines by file: all that can run, and those that did."""

    valid: dict[str, set[int]] = field(default_factory=dict)
    covered: dict[str, set[int]] = field(default_factory=dict)

    def line(self, file: str, number: int, ran: bool) -> None:
        self.valid.setdefault(file, set()).add(number)
        if ran:
            self.covered.setdefault(file, set()).add(number)

    def add(self, other: Coverage) -> None:
        """A line that ran in one of two reports has run."""
        for target, source in ((self.valid, other.valid), (self.covered, other.covered)):
            for file, lines in source.items():
                target.setdefault(file, set()).update(lines)

    @property
    def totals(self) -> tuple[int, int]:
        return sum(map(len, self.covered.values())), sum(map(len, self.valid.values()))


def read_coverage(name: str, data: bytes) -> tuple[Coverage, Origin]:
    """Read Cobertura XML or the JSON of coverage.py. Raises :class:`Unusable`, or :class:`Refused` when its sum is not that of its lines."""
    found, said, origin = _coverage_json(name, data) if data.lstrip()[:1] == b"{" else _cobertura(name, data)
    covered, valid = found.totals
    if not valid:
        raise Unusable(f"{name} measured no line of code")
    percent = 100 * covered / valid
    if said is not None and abs(said - percent) > _RATE_TOLERANCE:
        raise Refused(f"{name} says {said:.2f} % of its lines are covered, its {valid} lines give {percent:.2f} %")
    return found, origin


def _cobertura(name: str, data: bytes) -> tuple[Coverage, float | None, Origin]:
    found, said, made, file, root = Coverage(), None, "", "", True
    for kind, element, attributes in xml_events(name, data):
        if kind == "end":
            continue
        if root and element != "coverage":
            raise Unusable(f"{name} begins with <{one_line(element, 40)}>, expected Cobertura XML (<coverage>) or the JSON of coverage.py")
        if root:
            said, made = _rate(attributes.get("line-rate")), attributes.get("timestamp", "")
        elif element == "class":
            file = attributes.get("filename") or attributes.get("name", "")
        elif element == "line":
            found.line(file, _whole(attributes.get("number")), _whole(attributes.get("hits")) > 0)
        root = False
    return found, said, Origin(made=moment_of(made))


def _rate(text: str | None) -> float | None:
    try:
        rate = float(text or "nan")
    except ValueError:
        return None
    return 100 * rate if math.isfinite(rate) else None


def _coverage_json(name: str, data: bytes) -> tuple[Coverage, float | None, Origin]:
    document = json_document(name, data)
    files, totals = document.get("files"), document.get("totals")
    if not isinstance(files, dict) or not isinstance(totals, dict):
        raise Unusable(f"{name} has no files and totals, expected the JSON of coverage.py (coverage json) or Cobertura XML")
    found = Coverage()
    for file, entry in files.items():
        for key, ran in (("executed_lines", True), ("missing_lines", False)):
            lines = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(lines, list):
                raise Unusable(f"{name} has no list {key} of {one_line(file, 80)}, expected the JSON of coverage.py")
            for number in lines:
                found.line(file, _whole(str(number)), ran)
    covered, valid = (totals.get(key) for key in ("covered_lines", "num_statements"))
    said = 100 * covered / valid if isinstance(covered, int) and isinstance(valid, int) and valid else None
    return found, said, Origin(made=moment_of((document.get("meta") or {}).get("timestamp")))


def judge_coverage(found: Coverage, above_percent: float) -> str:
    """Return the evidence that more than ``above_percent`` of the lines ran. Raises :class:`Refused`."""
    covered, valid = found.totals
    # Cut, not rounded: 89.999 is not 90.00. The decision is on the counts.
    shown = f"{math.floor(10000 * covered / valid) / 100:.2f} % of lines covered ({covered} of {valid})"
    if not 100 * covered > above_percent * valid:
        raise Refused(f"{shown}, expected > {above_percent:g} %")
    return f"{shown}, > {above_percent:g} %"


# --- benchmarks ------------------------------------------------------------------------------------------------------


def limit_problems(where: str, limits: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the limits of one benchmark."""
    problems = []
    for limit in limits:
        bounds = [bound for bound in BOUNDS if limit.get(bound) is not None]
        if len(bounds) != 1:
            problems.append(f"{where}, limit {limit['name']}: {len(bounds)} bounds, expected one of {', '.join(BOUNDS)}")
        elif not math.isfinite(limit[bounds[0]]):
            problems.append(f"{where}, limit {limit['name']}: {bounds[0]} is {limit[bounds[0]]}, expected a finite number")
        trouble = expression_problem(limit["value"])
        if trouble:
            problems.append(f"{where}, limit {limit['name']}: {trouble}")
    return problems


def read_benchmark(name: str, data: bytes) -> tuple[dict[str, Any], Origin]:
    """Read the summary of k6 or any JSON object with figures. Raises :class:`Unusable`."""
    document = json_document(name, data)
    if not isinstance(document, dict):
        raise Unusable(f"{name} is a JSON {type(document).__name__}, expected an object with figures")
    commit_info = document.get("commit_info")
    commit = commit_of(document.get("commit")) or commit_of(commit_info.get("id") if isinstance(commit_info, dict) else "")
    digest = digest_of(document.get("image"))
    return document, Origin(commit, (digest,) if digest else (), moment_of(document.get("datetime") or document.get("created")))


def judge_benchmark(name: str, document: Mapping[str, Any], limits: list[dict[str, Any]]) -> str:
    """Return the evidence that every figure keeps its limit. Raises :class:`Refused` or :class:`Unusable`."""
    thresholds = _k6_thresholds(name, document)
    if not limits and not thresholds:
        raise Unusable(f"{name} has no thresholds of k6, and no limits are stated for it")
    crossed = [threshold for threshold, held in thresholds.items() if not held]
    shown, broken = [], [f"k6 threshold {threshold} was crossed" for threshold in crossed]
    for limit in limits:
        bound = next(key for key in BOUNDS if limit.get(key) is not None)
        value = _figure(name, document, limit)
        unit = f" {limit['unit']}" if limit.get("unit") else ""
        text = f"{limit['name']} {value:.6g}{unit}"
        if _holds(bound, value, limit[bound]):
            shown.append(f"{text} {BOUNDS[bound]} {limit[bound]:g}")
        else:
            broken.append(f"{text}, expected {BOUNDS[bound]} {limit[bound]:g}{unit}")
    if broken:
        raise Refused(f"{name}: {'; '.join(broken)}")
    if thresholds:
        shown.append(f"{len(thresholds)} thresholds of k6 held")
    return f"{name}: {', '.join(shown)}"


def _holds(bound: str, value: float, limit: float) -> bool:
    return {"below": value < limit, "at_most": value <= limit, "above": value > limit, "at_least": value >= limit}[bound]


def _figure(name: str, document: Mapping[str, Any], limit: Mapping[str, Any]) -> float:
    try:
        value = jmespath_library().search(limit["value"], document)
    except jmespath_library().exceptions.JMESPathError as error:
        raise Unusable(f"{name}: {limit['value']} cannot be applied: {one_line(error, 120)}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Unusable(f"{name} has {one_line(repr(value), 60)} at {limit['value']}, expected one finite number")
    return float(value)


def _k6_thresholds(name: str, document: Mapping[str, Any]) -> dict[str, bool]:
    """{metric and threshold: held}. k6 writes ``{"ok": true}`` in handleSummary, and in --summary-export whether it was crossed."""
    metrics = document.get("metrics")
    if not isinstance(metrics, dict) or "root_group" not in document:
        return {}
    held = {}
    for metric, entry in metrics.items():
        thresholds = entry.get("thresholds") if isinstance(entry, dict) else None
        for expression, outcome in (thresholds or {}).items():
            held[f"{metric} {expression}"] = outcome.get("ok") is True if isinstance(outcome, dict) else outcome is False
    work = [_count_of(metrics.get(metric)) for metric in ("http_reqs", "iterations")]
    if not any(work):
        raise Unusable(f"{name} is a summary of k6 without a request or an iteration")
    return held


def _count_of(metric: Any) -> float:
    values = metric.get("values", metric) if isinstance(metric, dict) else {}
    count = values.get("count") if isinstance(values, dict) else None
    return count if isinstance(count, (int, float)) and count > 0 else 0
