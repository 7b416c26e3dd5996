# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs behind `make deploy` and `make test`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import deploy
import parts
import pytest
import run


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, **more}


def virtual_service(v1: int, v2: int) -> dict[str, Any]:
    routes = [{"destination": {"subset": subset}, "weight": weight} for subset, weight in (("v1", v1), ("v2", v2))]
    return named("VirtualService", "signal-service", spec={"http": [{"name": "primary", "route": routes}]})


BASELINE = [named("Deployment", "signal-service-v1"), virtual_service(100, 0), named("ConfigMap", "signal-service-config-v1")]


# --- deploy ----------------------------------------------------------------------------------------------------------


def test_the_baseline_needs_no_reset() -> None:
    assert deploy.differences(BASELINE) == []


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([*BASELINE, named("Deployment", "signal-service-v2")], "v2 is deployed"),
        ([BASELINE[0], virtual_service(90, 10)], "traffic is v1 90 %, v2 10 %"),
        ([*BASELINE, named("Lease", "signal-rollout-signal-service")], "lock of an earlier release"),
        ([*BASELINE, named("ConfigMap", "signal-rollout-signal-service")], "record of an earlier release"),
        (BASELINE[1:], "v1 is not deployed"),
    ],
)
def test_each_trace_of_a_release_is_named(objects: list[dict[str, Any]], words: str) -> None:
    (found,) = deploy.differences(objects)
    assert words in found


def test_knobs_survive_a_reset() -> None:
    knobs = named("ConfigMap", "signal-service-knobs-v2", data={"error_ratio": "0.05", "crash": ""})
    objects = [*BASELINE, knobs, named("ConfigMap", "signal-service-knobs-v1")]
    assert deploy.knobs_in_use(objects) == [("v2", "error-ratio", "0.05")]


def test_weights_and_failed_steps_of_a_record_become_marks() -> None:
    record = {
        "weights": [{"time": "2026-11-24T10:00:01.500000Z", "weight": 10}, {"time": "2026-11-24T10:00:32.000000Z", "weight": 50}],
        "steps": {
            "canary_10": {"status": "done", "finished": "2026-11-24T10:00:31.000000Z"},
            "canary_50": {"status": "failed", "finished": "2026-11-24T10:00:40.000000Z"},
        },
    }
    objects = [*BASELINE, named("ConfigMap", "signal-rollout-signal-service", data={"record.json": json.dumps(record)})]
    marks = deploy.weight_changes(objects)
    assert [mark["name"] for mark in marks] == ["v2 at 10 %", "v2 at 50 %", "canary_50 failed"]
    assert [mark["time"] - marks[0]["time"] for mark in marks] == [0, 30.5, 38.5]
    assert deploy.weight_changes(BASELINE) == []


# --- commands with a deadline ----------------------------------------------------------------------------------------


def test_a_command_is_ended_after_its_deadline_with_its_children(tmp_path: Path) -> None:
    log, pid = tmp_path / "log", tmp_path / "pid"
    started = time.monotonic()
    outcome = parts.run(["sh", "-c", f"(trap '' TERM; echo $$ >/dev/null; exec sleep 301) & echo $! > {pid}; sleep 302"], deadline=0.5, log=log, patience=0.5)
    assert outcome.code == 124
    assert time.monotonic() - started < 20
    assert "ended after its deadline of 0.5 s" in log.read_text()
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    # Gone, or dead and only not yet collected by init.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_missing_program_is_a_failed_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert parts.run(["no-such-program-here"], deadline=5, log=log).code == 127
    assert "no-such-program-here" in log.read_text()


def test_the_callers_own_settings_are_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "oneline")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("SIGNAL_TEST_KEPT", "yes")
    kept = parts.environment()
    assert "ANSIBLE_STDOUT_CALLBACK" not in kept
    assert "PYTHONPATH" not in kept
    assert kept["SIGNAL_TEST_KEPT"] == "yes"
    assert kept["PATH"].split(os.pathsep)[0] == str(parts.VENV / "bin")


def test_the_lab_has_one_user_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "CACHE", tmp_path)
    first, second = parts.sole_user_of_the_lab("make deploy"), parts.sole_user_of_the_lab("make test")
    with first, pytest.raises(parts.Stop, match="in use by make deploy"), second:
        pytest.fail("two users at once")
    with parts.sole_user_of_the_lab("make test"):
        pass


def test_termination_runs_finally_blocks(tmp_path: Path) -> None:
    code = "\n".join(
        [
            "import sys, time; sys.path.insert(0, sys.argv[1]); import parts; parts.end_on_signals()",
            "try: print('up', flush=True); time.sleep(60)",
            "finally: print('cleaned up')",
        ]
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(parts.ROOT / "tools")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    out, _err = process.communicate(timeout=20)
    assert out == "cleaned up\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (12.34, "12.3 s"), (200, "3 min 20 s"), (3599.6, "60 min 00 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert parts.duration(seconds) == text


# --- counting --------------------------------------------------------------------------------------------------------


def report(tmp_path: Path, *cases: str) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


PASSED = '<testcase classname="a" name="passed"/>'


def test_a_skipped_test_counts_as_failed(tmp_path: Path) -> None:
    cases = [PASSED, '<testcase classname="a" name="b"><skipped/></testcase>', '<testcase classname="a" name="c"><failure/></testcase>']
    result = run.read_junit("unit", report(tmp_path, *cases), 1)
    assert result.passed == 1
    assert result.failures == ["skipped: a::b", "a::c"]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 124])
def test_a_bad_end_is_a_failure_even_when_all_tests_passed(tmp_path: Path, code: int) -> None:
    assert len(run.read_junit("unit", report(tmp_path, PASSED), code).failures) == 1


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    assert len(run.read_junit("unit", tmp_path / "none.xml", 0).failures) == 1


def test_each_check_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    suite = run.check_suite("some", "", 30, lambda: [run.Check("good", ["true"]), run.Check("bad", ["sh", "-c", "echo seen; exit 3"])])
    result = suite.execute(log, 30)
    assert result.passed == 1
    assert (result.failures, result.said) == (["bad"], {"bad": "exit code 3: seen"})
    assert "seen" in log.read_text()


def test_what_a_failed_test_said_is_kept_once_in_one_line(tmp_path: Path) -> None:
    failed = '<testcase classname="a" name="c"><failure message="assert 1 == 2&#10;  because"/></testcase>'
    late = '<testcase classname="a" name="c"><error message="its fixture too"/></testcase>'
    result = run.read_junit("unit", report(tmp_path, failed, late), 1)
    assert (result.failures, result.said) == (["a::c"], {"a::c": "assert 1 == 2 because"})
    assert run.told(result) == ["FAILED a::c", "    assert 1 == 2 because"]


def test_ansible_s_first_fatal_line_tells_why() -> None:
    output = "TASK [a]\nok: [lab]\n" + "\n".join(f"ok {number}" for number in range(20)) + "\n  \u2502 fatal: [lab]: FAILED! => no room\n\nPLAY RECAP"
    assert run.why(output) == "fatal: [lab]: FAILED! => no room PLAY RECAP"


@pytest.fixture
def baselines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Each command to the lab as a line of this file."""
    seen = tmp_path / "labctl.log"
    seen.touch()
    monkeypatch.setattr(parts, "LABCTL", ["sh", "-c", f'echo "$1" >> {seen}', "labctl"])
    return seen


def test_a_test_on_the_lab_that_passes_the_second_time_is_named_unsteady(baselines: Path, tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/there || {{ touch {tmp_path}/there; echo not yet; exit 1; }}"
    checks = [run.Check("unsteady", ["sh", "-c", once]), run.Check("bad", ["false"])]
    result = run.check_suite("some", "", 30, lambda: checks, lab=True).execute(tmp_path / "log", 30)
    assert (result.passed, result.failures, result.unsteady) == (1, ["bad"], ["unsteady"])
    assert run.told(result)[2:] == ["UNSTEADY, passed at the second try: unsteady", "    exit code 1: not yet"]
    assert baselines.read_text().split() == ["up", "traffic", "heal", "reset"] * 2


def test_a_suite_on_the_lab_begins_at_its_baseline(baselines: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(run, "prepare", lambda suites: [])
    checks = [run.Check("seen", ["grep", "-q", "reset", str(baselines)])]
    results = run.run_suites([run.check_suite("some", "", 30, lambda: checks, lab=True)])
    assert [result.passed for result in results] == [1] and baselines.read_text().split() == ["up", "traffic", "heal", "reset"]


def test_many_failures_are_not_tried_again_and_neither_is_what_needs_no_lab(baselines: Path, tmp_path: Path) -> None:
    def tried(count: int, lab: bool) -> int:
        log = tmp_path / f"log{count}{lab}"
        checks = [run.Check(f"bad {number}", ["sh", "-c", "echo tried; exit 1"]) for number in range(count)]
        assert len(run.check_suite("some", "", 30, lambda: checks, lab=lab).execute(log, 30).failures) == count
        return log.read_text().count("tried")

    assert (tried(1, False), tried(run.SECOND_TRIES + 1, True), tried(run.SECOND_TRIES, True)) == (1, run.SECOND_TRIES + 1, 2 * run.SECOND_TRIES)


def test_a_report_s_name_of_a_test_leads_back_to_it() -> None:
    test = next(path for path in sorted((parts.ROOT / "tests/e2e").glob("test_*.py")))
    assert run.node_id(f"tests.e2e.{test.stem}::test_a[b.c::d]") == f"tests/e2e/{test.name}::test_a[b.c::d]"
    assert (parts.ROOT / run.node_id(f"tests.e2e.{test.stem}::x").partition("::")[0]).exists()


def test_a_suite_without_checks_is_a_failure(tmp_path: Path) -> None:
    assert run.check_suite("none", "", 30, list).execute(tmp_path / "log", 30).failures


def test_all_suites_fail_without_their_ground(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "LOGS", tmp_path)
    monkeypatch.setattr(run, "prepare", lambda suites: [run.Result("lab", failures=["lab: did not come up"])])
    results = run.run_suites(run.SUITES)
    assert sum(len(result.failures) for result in results) == 1 + len(run.SUITES)
    assert sum(result.passed for result in results) == 0
