# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Numbers of replicas, with and without an autoscaler that has its own opinion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _scale
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import Mesh, connection, wait_until

AUTOSCALING = ("autoscaling", "v2")


def scale(mesh: Mesh, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Run the engine on echo-v2."""
    defaults = {name: rule.get("default") for name, rule in _scale.ARGUMENT_SPEC.items()}
    params = {**defaults, **connection(namespace=mesh.namespace), "name": "echo-v2", **options}
    return _scale.run(params, Context(check_mode=check_mode, diff=True))


def replicas(mesh: Mesh) -> int:
    return mesh.kube.get(mesh.path("deployments", "echo-v2", ("apps", "v1")))["spec"]["replicas"]


def autoscaler(mesh: Mesh) -> dict[str, Any]:
    return mesh.kube.get(mesh.path("horizontalpodautoscalers", "green", AUTOSCALING))


@pytest.fixture
def scaled(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh with an autoscaler of 1 to 3 pods for v2."""
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "echo-v2"}
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 3, "metrics": [metric]}
    body = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "green", "namespace": mesh.namespace}}
    mesh.kube.post(mesh.path("horizontalpodautoscalers", None, AUTOSCALING), {**body, "spec": spec})
    yield mesh
    mesh.kube.delete(mesh.path("horizontalpodautoscalers", "green", AUTOSCALING))
    scale(mesh, replicas=1)


def test_direction_up_never_takes_a_pod_away(mesh: Mesh) -> None:
    try:
        up = scale(mesh, replicas=2, direction="up")
        assert (up["changed"], up["before"], up["after"], up["autoscaler"]) == (True, 1, 2, None)
        same = scale(mesh, replicas=1, direction="up")
        assert (same["changed"], same["after"]) == (False, 2) and replicas(mesh) == 2
    finally:
        scale(mesh, replicas=1)
    assert replicas(mesh) == 1


def test_minimum_is_raised_with_the_pods_and_put_back_afterwards(scaled: Mesh) -> None:
    up = scale(scaled, replicas=2, direction="up", autoscaler="raise")
    assert up["changed"] and up["autoscaler"] == {"name": "green", "before": 1, "after": 2, "max": 3}
    assert autoscaler(scaled)["spec"]["minReplicas"] == 2 and replicas(scaled) == 2
    assert "minReplicas=1" in up["diff"]["before"] and "replicas=2 minReplicas=2" in up["diff"]["after"]
    assert scale(scaled, replicas=3, direction="up", autoscaler="raise")["autoscaler"]["after"] == 3
    assert scale(scaled, replicas=3, direction="up", autoscaler="raise")["changed"] is False
    back = scale(scaled, autoscaler="restore")
    assert back["changed"] and back["autoscaler"] == {"name": "green", "before": 3, "after": 1, "max": 3}
    after = autoscaler(scaled)
    assert after["spec"]["minReplicas"] == 1 and _scale.ANNOTATION not in after["metadata"].get("annotations", {})
    # Its own controller decides from here on; this task has not taken a pod.
    assert back["after"] == 3
    assert scale(scaled, autoscaler="restore")["changed"] is False


def test_scaling_to_0_puts_the_minimum_back_and_the_controller_leaves_it_at_0(scaled: Mesh) -> None:
    scale(scaled, replicas=2, direction="up", autoscaler="raise")
    down = scale(scaled, replicas=0, autoscaler="restore")
    assert (down["after"], down["autoscaler"]["after"]) == (0, 1)

    def disabled() -> bool:
        conditions = autoscaler(scaled).get("status", {}).get("conditions") or []
        return any(entry.get("reason") == "ScalingDisabled" for entry in conditions)

    wait_until("the controller has looked", disabled, 40)
    assert replicas(scaled) == 0


def test_controller_scales_to_a_raised_minimum_by_itself_without_metrics(scaled: Mesh) -> None:
    scale(scaled, replicas=2, direction="up", autoscaler="raise")
    scale(scaled, replicas=1)
    wait_until("the controller has brought the second pod back", lambda: replicas(scaled) == 2, 40)


def test_more_pods_than_the_autoscaler_allows_are_refused_before_any_write(scaled: Mesh) -> None:
    with pytest.raises(RolloutError, match=r"HorizontalPodAutoscaler .*/green: allows at most 3 pods, but 4 are needed.*raise its maxReplicas to 4"):
        scale(scaled, replicas=4, direction="up", autoscaler="raise")
    assert replicas(scaled) == 1 and autoscaler(scaled)["spec"]["minReplicas"] == 1


def test_minimum_that_somebody_else_sets_meanwhile_stays_and_is_told(scaled: Mesh) -> None:
    scale(scaled, replicas=2, direction="up", autoscaler="raise")
    path = scaled.path("horizontalpodautoscalers", "green", AUTOSCALING)
    scaled.kube.patch(path, [{"op": "replace", "path": "/spec/minReplicas", "value": 3}], manager="kubectl-edit")
    back = scale(scaled, autoscaler="restore")
    assert autoscaler(scaled)["spec"]["minReplicas"] == 3 and "set to 3 by somebody else" in back["warnings"][0]
    again = scale(scaled, autoscaler="restore")
    assert (again["changed"], again["warnings"]) == (False, [])


def test_check_mode_predicts_and_writes_nothing(scaled: Mesh) -> None:
    predicted = scale(scaled, check_mode=True, replicas=2, direction="up", autoscaler="raise")
    assert predicted["changed"] and predicted["after"] == 2 and predicted["autoscaler"]["after"] == 2
    assert replicas(scaled) == 1 and autoscaler(scaled)["spec"]["minReplicas"] == 1


def test_write_of_the_autoscalers_controller_in_between_is_not_lost(scaled: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _kube.Kube.patch
    path = scaled.path("horizontalpodautoscalers", "green", AUTOSCALING)
    pending = [[{"op": "add", "path": "/metadata/annotations", "value": {"other": "kept"}}]]

    def patch(self: _kube.Kube, target: str, body: Any, *rest: Any, **options: Any) -> dict[str, Any]:
        if pending:
            original(self, path, pending.pop(), manager="somebody")
        return original(self, target, body, *rest, **options)

    monkeypatch.setattr(_kube.Kube, "patch", patch)
    scale(scaled, replicas=2, direction="up", autoscaler="raise")
    found = autoscaler(scaled)
    assert found["spec"]["minReplicas"] == 2 and found["metadata"]["annotations"]["other"] == "kept"


def test_deployment_that_is_missing_fails_or_is_ignored_as_asked(mesh: Mesh) -> None:
    with pytest.raises(RolloutError, match=f"Deployment {mesh.namespace}/nobody does not exist, so it cannot be scaled to 0"):
        scale(mesh, name="nobody", replicas=0)
    assert scale(mesh, name="nobody", replicas=0, missing="ignore")["exists"] is False


def test_number_is_demanded_unless_only_the_autoscaler_is_put_back(mesh: Mesh) -> None:
    with pytest.raises(RolloutError, match="replicas is missing"):
        scale(mesh, autoscaler="raise")
    assert scale(mesh, autoscaler="restore")["changed"] is False
