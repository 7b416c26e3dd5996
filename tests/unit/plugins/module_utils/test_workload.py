# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a Deployment counts as ready, coming, or lost."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils._workload import Limits, judge


def deployment(wanted: int = 2, generation: int = 3, **status: Any) -> dict[str, Any]:
    full = {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}
    return {"metadata": {"generation": generation}, "spec": {"replicas": wanted}, "status": {**full, **status}}


def pod(name: str = "green-1", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": "Running", **status}}


def waiting(reason: str, restarts: int = 0, message: str = "") -> dict[str, Any]:
    container = {"name": "app", "restartCount": restarts, "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}
    return pod(containerStatuses=[container])


def state(document: dict[str, Any], pods: list[dict[str, Any]] | None = None, waited: float = 0.0, **limits: Any) -> str:
    return judge(document, pods or [pod()], Limits(**limits), waited).state


def test_all_replicas_new_and_available_is_ready() -> None:
    assert state(deployment()) == "ready"


@pytest.mark.parametrize(
    "status",
    [
        {"observedGeneration": 2},
        {"updatedReplicas": 1},
        {"availableReplicas": 1},
        {"replicas": 3},
        {"availableReplicas": 0, "updatedReplicas": 0, "replicas": 0},
    ],
)
def test_incomplete_rollout_is_waited_for(status: dict[str, Any]) -> None:
    assert state(deployment(**status)) == "waiting"


def test_old_pods_that_are_available_do_not_count_as_the_new_version() -> None:
    assert state(deployment(updatedReplicas=1, availableReplicas=3, replicas=3)) == "waiting"


def test_zero_replicas_can_never_become_ready() -> None:
    assert state(deployment(wanted=0)) == "failed"


def test_more_ready_pods_demanded_than_replicas_is_refused() -> None:
    assert state(deployment(), min_ready=3) == "failed"


def test_fewer_available_pods_suffice_when_min_ready_says_so() -> None:
    assert state(deployment(availableReplicas=1), min_ready=1) == "ready"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("failed to sync secret cache: timed out waiting for the condition", "waiting"),
        ("failed to sync configmap cache: timed out waiting for the condition", "waiting"),
        ('secret "signal-service-secrets-v2" not found', "failed"),
    ],
)
def test_configuration_that_the_node_has_not_seen_yet_is_waited_for(message: str, expected: str) -> None:
    assert judge(deployment(availableReplicas=0), [waiting("CreateContainerConfigError", message=message)], Limits(), 0.0).state == expected


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_cause_that_waiting_cannot_cure_fails_at_once_and_is_named(reason: str) -> None:
    verdict = judge(deployment(availableReplicas=0), [waiting(reason)], Limits(), 0.0)
    assert verdict.state == "failed" and reason in verdict.reason and verdict.pod == "green-1"


def test_starting_container_is_waited_for() -> None:
    assert state(deployment(availableReplicas=0), [waiting("ContainerCreating")]) == "waiting"


def test_crash_loop_is_terminal_from_the_restart_limit_on() -> None:
    assert state(deployment(availableReplicas=0), [waiting("CrashLoopBackOff", 1)]) == "waiting"
    assert state(deployment(availableReplicas=0), [waiting("CrashLoopBackOff", 2)]) == "failed"


@pytest.mark.parametrize(
    ("restarts", "states", "words"),
    [
        (3, {"state": {"terminated": {"exitCode": 3}}}, "last exit code 3"),
        (3, {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 4}}}, "last exit code 4"),
        (3, {"state": {"terminated": {"exitCode": 3}}, "lastState": {"terminated": {"exitCode": 4}}}, "last exit code 3"),
        (3, {"state": {"running": {}}}, ""),
        (4, {"state": {"running": {}}}, "last exit code unknown"),
    ],
)
def test_a_crash_loop_tells_the_newest_exit_code_and_waits_a_moment_for_one(restarts: int, states: dict[str, Any], words: str) -> None:
    container = {"name": "app", "restartCount": restarts, "ready": False, **states}
    verdict = judge(deployment(availableReplicas=0), [pod(containerStatuses=[container])], Limits(restart_limit=3), 0.0)
    assert (verdict.state, words in verdict.reason) == ("failed" if words else "waiting", True)


def test_restarted_but_ready_container_is_not_a_crash_loop() -> None:
    container = {"name": "app", "restartCount": 9, "ready": True, "state": {"running": {}}}
    assert state(deployment(), [pod(containerStatuses=[container])]) == "ready"


def test_unschedulable_pod_gets_a_grace_for_a_new_node() -> None:
    lost = pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}])
    assert state(deployment(availableReplicas=0), [lost], waited=5) == "waiting"
    assert state(deployment(availableReplicas=0), [lost], waited=30) == "failed"


def test_progress_deadline_of_the_controller_is_terminal() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    assert state(deployment(availableReplicas=0, conditions=[stuck])) == "failed"


def test_failed_pod_that_is_being_deleted_is_ignored() -> None:
    gone = pod(phase="Failed")
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert state(deployment(), [gone]) == "ready"
