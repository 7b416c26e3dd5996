# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run test suites, show what failed, and close with the line "N passed, N failed".

    python3 tests/run.py all | SUITE...

First comes what the suites need: system packages, the virtual environment and, for those that use it, the lab. Every suite runs,
also after another one failed. A suite that is not pytest counts one test per check. A skipped test counts as failed, because a test
that did not run proves nothing. The whole output of each suite stays in build/test-logs/.

Up to SECOND_TRIES failed tests of a suite that uses the lab are run once more, alone and from the lab's baseline. One that passes then
counts as passed and is named as unsteady in the summary, with what it said first: either it or the product has a race. More than that
many failures are no accident, and none of them is tried again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import parts  # noqa: E402

LOGS = parts.ROOT / "build/test-logs"
TOTAL_LIMIT = 85 * 60.0  # seconds; a CI run may take 90 minutes
SECOND_TRIES = 3


@dataclass
class Result:
    """What one suite came to. ``failures`` and ``unsteady`` name tests or checks, ``said`` has what each of them said when it failed first."""

    name: str
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unsteady: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One command that passes when it exits with 0."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Suite:
    """A named group of tests. ``execute`` gets the log file and the seconds it may take."""

    name: str
    about: str
    limit: float
    execute: Callable[[Path, float], Result]
    lab: bool = False


def pytest_suite(name: str, about: str, limit: float, *arguments: str, lab: bool = False) -> Suite:
    """A folder of tests/ that pytest runs."""

    def once(tests: Sequence[str], log: Path, report: Path, limit: float, *more: str) -> Result:
        report.unlink(missing_ok=True)
        command = [parts.tool("pytest"), *tests, f"--junitxml={report}", "--color=no", "-o", "junit_family=xunit2", *more]
        outcome = parts.run(command, deadline=limit, log=log, heartbeat=name)
        return read_junit(name, report, outcome.code)

    def execute(log: Path, limit: float) -> Result:
        ends = time.monotonic() + limit
        result = once([f"tests/{name}"], log, log.with_suffix(".xml"), limit, *arguments)
        if lab:

            def passes(test: str) -> bool:
                second = once([node_id(test)], log, log.with_suffix(".again.xml"), max(1.0, ends - time.monotonic()))
                return second.passed > 0 and not second.failures

            try_again(result, log, passes)
        return result

    return Suite(name, about, limit, execute, lab)


def node_id(test: str) -> str:
    """Return how pytest names the test that a report calls ``tests.e2e.test_release::test_a``."""
    module, _separator, function = test.partition("::")
    return f"{module.replace('.', '/')}.py::{function}"


def try_again(result: Result, log: Path, passes: Callable[[str], bool]) -> None:
    """Run the failed tests of ``result`` once more, each from the lab's baseline, if they are few; those that pass become unsteady."""
    if len(result.failures) > SECOND_TRIES or not all(failure in result.said for failure in result.failures):
        return
    for failure in list(result.failures):
        to_the_baseline(log)
        if passes(failure):
            result.failures.remove(failure)
            result.unsteady.append(failure)
            result.passed += 1


def to_the_baseline(log: Path) -> None:
    """Leave nothing of a release, a fault or traffic that somebody or a suite before has made. What fails here shows in the tests."""
    for what in (["up"], ["traffic", "stop"], ["heal"], ["reset"]):
        parts.run([*parts.LABCTL, *what], deadline=600, log=log)


def read_junit(name: str, report: Path, code: int) -> Result:
    """Count a pytest report. A run that ended without a full report, or without any test, is a failure of its own."""
    result = Result(name)
    if not report.exists():
        result.failures.append(f"{name}: pytest ended with exit code {code} and wrote no report")
        return result
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        bad = [found for kind in ("failure", "error") if (found := case.find(kind)) is not None]
        if bad:
            # A test whose fixture fails at the end as well stands in the report once for each.
            if test not in result.said:
                result.failures.append(test)
            result.said.setdefault(test, shortened(bad[0].get("message") or ""))
        elif case.find("skipped") is not None:
            result.failures.append(f"skipped: {test}")
        else:
            result.passed += 1
    if code and not result.failures:
        result.failures.append(f"{name}: pytest ended with exit code {code}")
    return result


def shortened(text: str, size: int = 600) -> str:
    line = " ".join(text.split())
    return line if len(line) <= size else f"{line[:size]}..."


def check_suite(name: str, about: str, limit: float, checks: Callable[[], list[Check]], lab: bool = False) -> Suite:
    """Commands of which each is one test."""

    def execute(log: Path, limit: float) -> Result:
        result = Result(name)
        ends = time.monotonic() + limit
        found = checks()
        if not found:
            result.failures.append(f"{name}: nothing to run was found")

        def passes(check: Check) -> bool:
            with log.open("a") as handle:
                handle.write(f"\n--- {check.name}\n")
            begins = log.stat().st_size
            outcome = parts.run(check.command, deadline=max(1.0, ends - time.monotonic()), log=log, heartbeat=check.name)
            if outcome.code:
                output = log.read_bytes()[begins:].decode("utf-8", "replace")
                result.said.setdefault(check.name, f"exit code {outcome.code}: {why(output)}")
            return not outcome.code

        for check in found:
            if passes(check):
                result.passed += 1
            else:
                result.failures.append(check.name)
        if lab:
            named = {check.name: check for check in found}
            try_again(result, log, lambda name: passes(named[name]))
        return result

    return Suite(name, about, limit, execute, lab)


def why(output: str) -> str:
    """Return the lines of a command's output that tell why it failed: from Ansible's first fatal one on, else the last ones."""
    lines = [line for line in output.splitlines() if line.strip(" \u2502")]
    first = next((number for number, line in enumerate(lines) if "fatal: [" in line or "[ERROR]" in line), max(0, len(lines) - 8))
    return shortened("\n".join(line.replace("\u2502", " ") for line in lines[first : first + 12]))


def lint_checks() -> list[Check]:
    scripts = [str(path.relative_to(parts.ROOT)) for folder in ("tools", "lab") for path in (parts.ROOT / folder).rglob("*.sh")]
    context = parts.ROOT / "build/execution-environment"
    return [
        Check("ruff", [parts.tool("ruff"), "check", "--quiet", "."]),
        Check("yamllint", [parts.tool("yamllint"), "--strict", "."]),
        Check("shellcheck", ["shellcheck", ".ci/run", *sorted(scripts)]),
        Check("ansible-lint, profile production", [parts.tool("ansible-lint"), "--offline", "--strict", "--nocolor", "--profile", "production"]),
        Check("antsibull-changelog", [parts.tool("antsibull-changelog"), "lint"]),
        Check("antsibull-docs", [parts.tool("antsibull-docs"), "lint-collection-docs", "--plugin-docs", "."]),
        Check("ansible-builder create", [parts.tool("ansible-builder"), "create", "--context", str(context)]),
    ]


def molecule_checks() -> list[Check]:
    scenarios = sorted(path.parent.name for path in (parts.ROOT / "molecule").glob("*/molecule.yml"))
    return [Check(f"molecule {name}", [parts.tool("molecule"), "test", "--scenario-name", name]) for name in scenarios if name != "default"]


def sanity(log: Path, limit: float) -> Result:
    result = Result("sanity")
    outcome = parts.run([parts.tool("python"), "tools/sanity.py"], deadline=limit, log=log, heartbeat="sanity")
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("ok "):
            result.passed += 1
        elif line.startswith("not ok "):
            result.failures.append(line.removeprefix("not ok "))
    if outcome.code and not result.failures:
        result.failures.append(f"ansible-test sanity ended with exit code {outcome.code}")
    return result


SUITES = (
    pytest_suite("unit", "pure functions, properties, and what holds the repository together", 900, "--numprocesses=auto"),
    check_suite("lint", "ruff, yamllint, shellcheck, ansible-lint, changelog, execution environment", 600, lint_checks),
    pytest_suite("packaging", "the three ways to run a checkout; the built and installed archive", 600),
    Suite("sanity", "ansible-test sanity in a clean copy", 900, sanity),
    pytest_suite("awx", "the setup play with the modules of awx.awx, against a stand-in for the API", 900),
    pytest_suite("contract", "the module door and the in-process door give the same answers", 900, lab=True),
    # Most of their time is waiting; see tests/integration/conftest.py. What a file has set up is one worker's, and taken away once.
    pytest_suite("integration", "the modules on the lab", 2700, "--numprocesses=2", "--dist=loadfile", lab=True),
    pytest_suite("e2e", "whole releases on the lab: all well, breaches, interruptions", 2700, lab=True),
    check_suite("molecule", "a scenario from the baseline to a finished release, twice", 1200, molecule_checks, lab=True),
    # The last one: it takes the lab down and brings it up again.
    pytest_suite("lab", "the lab itself: repair, reset, breaks, down without a trace", 1800, lab=True),
)


def prepare(suites: Sequence[Suite]) -> list[Result]:
    """Bring up what the suites need. Returns the failed preparations; a first one makes the later ones pointless."""
    steps: list[tuple[str, Sequence[str], float]] = [
        ("system packages", ["tools/prerequisites.sh", "git=git", "shellcheck=shellcheck"], 900),
        ("virtual environment", ["tools/venv.sh"], 1500),
    ]
    if any(suite.lab for suite in suites):
        steps.append(("lab", [*parts.LABCTL, "up"], 3000))
    for name, command, limit in steps:
        outcome = parts.run(command, deadline=limit)
        print(f"    {name} ready in {parts.duration(outcome.seconds)}" if not outcome.code else f"    {name}: FAILED (exit code {outcome.code})", flush=True)
        if outcome.code:
            return [Result(name, failures=[f"{name}: {' '.join(command)} ended with exit code {outcome.code}"], seconds=outcome.seconds)]
    return []


def run_suites(suites: Sequence[Suite]) -> list[Result]:
    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    print("==> preparing", flush=True)
    results = prepare(suites)
    if results:
        # Without its ground no suite can run: each of them is a failure, so that no count hides it.
        return results + [Result(suite.name, failures=[f"{suite.name}: not run, preparation failed"]) for suite in suites]
    for suite in suites:
        print(f"==> {suite.name}: {suite.about}", flush=True)
        log = LOGS / f"{suite.name}.log"
        log.unlink(missing_ok=True)
        log.touch()
        begun = time.monotonic()
        left = TOTAL_LIMIT - (begun - started)
        if suite.lab:
            to_the_baseline(log)
        result = suite.execute(log, max(1.0, min(suite.limit, left)))
        result.seconds = time.monotonic() - begun
        results.append(result)
        if result.failures:
            print(log.read_text(errors="replace"), flush=True)
        for line in told(result):
            print(f"    {line}")
        print(f"    {result.passed} passed, {len(result.failures)} failed in {parts.duration(result.seconds)}", flush=True)
    return results


def told(result: Result) -> list[str]:
    """Return what is said of the tests of ``result`` that did not simply pass."""
    lines = []
    for state, tests in (("FAILED", result.failures), ("UNSTEADY, passed at the second try:", result.unsteady)):
        for test in tests:
            lines.append(f"{state} {test}")
            lines.extend([f"    {result.said[test]}"] if test in result.said else [])
    return lines


def main(names: list[str]) -> int:
    known = {suite.name: suite for suite in SUITES}
    if names == ["all"]:
        names = list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        print(f"usage: tests/run.py all | SUITE...\nunknown: {', '.join(unknown) or 'nothing named'}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    suites = [known[name] for name in names]
    parts.end_on_signals()
    started = time.monotonic()
    try:
        if any(suite.lab for suite in suites):
            with parts.sole_user_of_the_lab("make test"):
                results = run_suites(suites)
        else:
            results = run_suites(suites)
    except parts.Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"interrupted ({interrupt or 'INT'}); what was started has been ended. The lab, if it is up, stays up: make lab-down", file=sys.stderr)
        return 130
    print("\n==> summary")
    for result in results:
        print(f"    {result.name:<20} {parts.duration(result.seconds):>12}   {result.passed:>5} passed {len(result.failures):>3} failed")
        for line in told(result):
            print(f"        {line}")
    print(f"    {'all':<20} {parts.duration(time.monotonic() - started):>12}   logs: {os.path.relpath(LOGS)}")
    passed, failed = sum(result.passed for result in results), sum(len(result.failures) for result in results)
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
