# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release that is really killed at many moments: traffic goes back, the record tells of it, and the release goes on afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _cluster_guard, _kube, _record

from .conftest import ROOT, Run, Stage, labctl
from .interruption import CALM, interrupt, prepare

BLUE, GREEN = [100, 0], [0, 100]
IN_CLUSTER: dict[str, Any] = {
    "canary_guard_in_cluster": True,
    "canary_guard_image": "localhost/signal-service:v1",
    "canary_guard_grace_seconds": 1,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The lab under traffic with a release whose canary can begin. Each test leaves it at 100 % on blue, and the next takes it over."""
    labctl("heal")
    labctl("reset")
    labctl("traffic", "start", "--rate", "100", "--websockets", "10", "--duration", "900")
    made = Stage(tmp_path_factory.mktemp("interruption"))
    try:
        prepare(made)
        yield made
    finally:
        for run in made.runs:
            run.kill()
        labctl("traffic", "stop")
        labctl("heal")


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Ctrl-C in a hold": ("SIGINT", "a hold", {"group": True}),
    "lost SSH in a hold": ("SIGHUP", "a hold", {"group": True}),
    "terminated before the write": ("SIGTERM", "the shift's task has begun", {}),
    "killed between write and confirmation": ("SIGKILL", "the weight is written", {}),
    "killed between two tasks": ("SIGKILL", "the step's passing is noted", {}),
    "terminated while people are told": ("SIGTERM", "people are told", {}),
    "killed before the second shift": ("SIGKILL", "the second shift", {}),
    "killed in the bake": ("SIGKILL", "the bake", {"canary_steps": [100]}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_killed_canary_has_all_traffic_back_and_tells_of_it(prepared: Stage, case: str) -> None:
    name, moment, options = CASES[case]
    outcome = interrupt(prepared, name, moment, **options)
    assert prepared.weights() == BLUE

    def told() -> list[dict[str, Any]]:
        return [event for event in prepared.record()["events"] if event["holder"] == prepared.holder()]

    prepared.until("the record tells of it", told, 10)
    assert {event["kind"] for event in told()} <= {"interrupted", "guard"}
    if outcome.weight:
        assert any(event["before"] == outcome.weight and event["after"] == 0 for event in told()), told()


def test_cancelled_job_of_awx_has_all_traffic_back(prepared: Stage) -> None:
    # What cancels a job there: TERM to the process group of ansible-playbook, and KILL to all of it soon after.
    run = prepared.start("canary", rollout_takeover=prepared.holder() or "nobody", awx_job_id=4711, **CALM)
    prepared.until("green has 10 %", lambda: prepared.weights() == [90, 10])
    os.killpg(run.process.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.killpg(run.process.pid, signal.SIGKILL)
    prepared.until("traffic is back", lambda: prepared.weights() == BLUE, 10)
    assert prepared.holder() == "awx-job-4711"
    prepared.until("the record tells of it", lambda: prepared.record()["events"][-1]["holder"] == "awx-job-4711", 10)


@pytest.fixture
def guard_rights(prepared: Stage) -> Iterator[None]:
    """What an administrator does once: apply the shipped file as it is. Taken away again, with what the guard has left."""
    plurals = {"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}
    made = []
    for body in yaml.safe_load((ROOT / _cluster_guard.RBAC_FILE).read_text(encoding="utf-8"))["items"]:
        group, _slash, version = body["apiVersion"].rpartition("/")
        collection = _kube.path_of(group, version, plurals[body["kind"]], "signal")
        prepared.kube.post(collection, body)
        made.append(f"{collection}/{body['metadata']['name']}")
    yield
    jobs = _kube.path_of("batch", "v1", "jobs", "signal")
    made += [f"{jobs}/{job['metadata']['name']}" for job in prepared.kube.list(jobs)]
    for path in made:
        prepared.kube.delete(path, propagation="Background")


def end_machine(run: Run, guard: int) -> None:
    """End ansible-playbook, everything that it has started, and its guard, as the loss of power would: nobody can do anything any more."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    doomed = {run.process.pid, guard}
    while more := {pid for pid, parent in parents.items() if parent in doomed} - doomed:
        doomed |= more
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in doomed:
            os.kill(pid, number)
    run.process.wait(10)


def test_guard_in_the_cluster_without_its_rights_is_refused_before_anything_is_written(prepared: Stage) -> None:
    before = prepared.record()
    refused = prepared.play("deploy_v2", **IN_CLUSTER, **CALM)
    flat = " ".join(refused.output.split())
    assert refused.code != 0
    assert "lacks 3 things: ServiceAccount signal/signal-rollout-guard; Role signal/signal-rollout-guard; RoleBinding" in flat, refused.output[-4000:]
    assert "Next: have an administrator apply roles/canary/files/guard_rbac.yml" in flat
    assert prepared.record() == before and refused.changed == 0


# The last one here: it leaves a release whose lock nobody has given up.
def test_release_whose_machine_dies_has_its_traffic_back_from_inside_the_cluster(prepared: Stage, guard_rights: None) -> None:
    hold = {"canary_hold_seconds": 90, "rollout_takeover": prepared.holder() or "nobody"}
    run = prepared.start("canary", **hold, **IN_CLUSTER, **CALM)
    prepared.until("the hold shows its first line", lambda: "hold 0" in run.log.read_text(encoding="utf-8"))
    # The lock of a release lasts a minute, which a test need not wait for; less than this would be too short for who renews it.
    lease = _kube.path_of("coordination.k8s.io", "v1", "leases", "signal", _record.lease_name("signal-service"))
    prepared.kube.patch(lease, {"spec": {"leaseDurationSeconds": 25}}, _kube.MERGE_PATCH)
    end_machine(run, prepared.record()["guard"]["pid"])
    time.sleep(3)
    assert prepared.weights() == [90, 10], "nothing on this machine is left to put it back"
    prepared.until("traffic is back", lambda: prepared.weights() == BLUE, 60)

    def told() -> str:
        return " ".join(prepared.play("status").output.split())

    prepared.until("the next person is told", lambda: "told by guard in the cluster" in told(), 30)
    first_screen = told()
    assert "guard, weight 10 -> 0 %, told by guard in the cluster: the lock was not renewed for" in first_screen
    assert "Traffic now: 100 % on v1, 0 % on v2" in first_screen and "it may still run" in first_screen


# The last one: it leaves all traffic on the new version.
def test_held_release_goes_on_and_one_killed_after_the_bake_keeps_its_traffic(prepared: Stage) -> None:
    run = prepared.start("canary", rollout_takeover=prepared.holder() or "nobody", canary_on_interrupt="hold", **CALM)
    prepared.until("the hold shows its first line", lambda: "hold 0" in run.log.read_text(encoding="utf-8"))
    assert prepared.record()["guard"]["running"] is False
    run.process.send_signal(signal.SIGTERM)
    run.process.wait(30)
    time.sleep(2)
    assert prepared.weights() == [90, 10]
    migrated = prepared.record()["steps"]["database_migration"]

    # Its death is in the record, so that nobody has to wait for its lock or to name it.
    resumed = prepared.start("resume", **CALM)
    prepared.until("verification has begun", lambda: "verification : " in resumed.log.read_text(encoding="utf-8"), 90)
    assert prepared.weights() == GREEN
    resumed.process.kill()
    prepared.until("the record tells of it", lambda: prepared.record()["events"][-1]["kind"] == "interrupted", 10)
    first_screen = " ".join(resumed.log.read_text(encoding="utf-8").split())
    assert "UNFINISHED RELEASE" in first_screen and "weight stays 10 %, told by metric_gate" in first_screen
    assert "Traffic now: 90 % on v1, 10 % on v2" in first_screen
    assert prepared.weights() == GREEN and "stays on the new version" in prepared.record()["events"][-1]["words"]

    refused = prepared.play("resume", canary_hold_seconds=6, **CALM)
    assert refused.code != 0 and "hold_seconds was 5, now 6" in " ".join(refused.output.split())
    ended = prepared.play("resume", **CALM)
    assert ended.code == 0, ended.output[-4000:]
    record = prepared.record()
    assert record["outcome"] == "complete" and prepared.holder() == "" and prepared.weights() == GREEN
    assert record["steps"]["database_migration"] == migrated, "what was done and verified is not done again"
    assert "percent: 10]" not in ended.output, "steps that have passed are not held again"
    again = prepared.play("resume", **CALM)
    assert again.code != 0 and "ended" in again.output and "'complete'" in again.output
