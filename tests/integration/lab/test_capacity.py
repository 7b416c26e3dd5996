# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weights against real Deployments, a real HorizontalPodAutoscaler controller and real disruption budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _capacity, _confirm, _kube
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import Mesh, wait_until

Scale = Callable[[str, int], None]
CONFIRM = {name: rule.get("default") for name, rule in _confirm.CONFIRM_SPEC.items()}
APPS, AUTOSCALING, POLICY = ("apps", "v1"), ("autoscaling", "v2"), ("policy", "v1")


@pytest.fixture(params=["VirtualService", "HTTPRoute"])
def either(request: pytest.FixtureRequest, mesh: Mesh, scale: Scale) -> Iterator[Mesh]:
    """The mesh by each kind of route."""
    chosen = mesh.of(request.param)
    yield chosen
    chosen.shift(0)


@pytest.fixture
def scale(mesh: Mesh) -> Iterator[Scale]:
    """Return ``scale(version, replicas)``, which waits until so many pods are ready; both versions have one pod at the end."""

    def change(version: str, replicas: int) -> None:
        path = mesh.path("deployments", f"echo-{version}", APPS)
        mesh.kube.patch(f"{path}/scale", [{"op": "replace", "path": "/spec/replicas", "value": replicas}])

        def reached() -> bool:
            pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": f"version={version}"})
            return len(pods) == replicas == sum(map(pod_is_ready, pods))

        wait_until(f"{replicas} pods of {version} are ready", reached, 60)

    yield change
    mesh.shift(0)
    for version in ("v1", "v2"):
        change(version, 1)


@pytest.fixture
def made(mesh: Mesh) -> Iterator[Callable[..., None]]:
    """Return a function that creates an object named echo, removed again at the end."""
    paths: list[str] = []

    def create(kind: str, version: str, plural: str, spec: dict[str, Any]) -> None:
        group = (version.rpartition("/")[0], version.rpartition("/")[2])
        metadata = {"name": "echo", "namespace": mesh.namespace}
        mesh.kube.post(mesh.path(plural, None, group), {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
        paths.append(mesh.path(plural, "echo", group))

    yield create
    for path in paths:
        mesh.kube.delete(path)


def autoscaler(target: str, minimum: int, maximum: int) -> dict[str, Any]:
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    return {"scaleTargetRef": reference, "minReplicas": minimum, "maxReplicas": maximum, "metrics": [metric]}


def capacity(full: int | None = None, disruptions: str = "warn") -> dict[str, Any]:
    return {"full": full, "disruptions": disruptions}


def test_weight_above_the_capacity_of_green_is_refused_and_nothing_is_written(either: Mesh, scale: Scale) -> None:
    green = either.destinations["canary"]
    scale("v1", 3)
    assert either.shift(33, capacity=capacity())["after"] == {"stable": 67, "canary": 33}
    with pytest.raises(_capacity.CapacityError, match=rf"'{green}' has 1 ready pod, but 34 % of the traffic needs 2 of the 3") as caught:
        either.shift(34, capacity=capacity())
    assert either.weights() == [67, 33]
    assert "pods wanted by Deployment echo-v1" in caught.value.message and "scale Deployment echo-v2 to 2" in caught.value.message
    assert caught.value.result["changed"] is False and caught.value.result["capacity"]["canary"]["needed"] == 2
    scale("v2", 2)
    result = either.shift(50, capacity=capacity())
    assert either.weights() == [50, 50]
    assert {key: result["capacity"]["canary"][key] for key in ("share", "needed", "wanted", "ready", "deployments")} == {
        "share": 50, "needed": 2, "wanted": 2, "ready": 2, "deployments": ["echo-v2"],
    }


def test_without_the_option_one_ready_pod_is_enough_and_nothing_more_is_read(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = _kube.Kube.get

    def get(self: _kube.Kube, path: str, *rest: Any, **options: Any) -> dict[str, Any]:
        asked.append(path.rpartition("/")[2])
        return original(self, path, *rest, **options)

    monkeypatch.setattr(_kube.Kube, "get", get)
    quick = {"confirm": {**CONFIRM, "method": "none"}}
    assert mesh.shift(100, **quick)["capacity"] is None
    without = Counter(asked)
    asked.clear()
    mesh.shift(100, **quick)
    assert asked == ["echo"], "an equal weight is one GET"
    mesh.shift(0, **quick)
    asked.clear()
    assert mesh.shift(100, capacity=capacity(1), **quick)["capacity"]["full"] == 1
    more = Counter(asked) - without
    assert more == Counter(["echo", "pods", "deployments", "horizontalpodautoscalers", "poddisruptionbudgets"]), "the Service and four lists"


def test_number_of_pods_that_carry_everything_can_be_given(mesh: Mesh, scale: Scale) -> None:
    with pytest.raises(_capacity.CapacityError, match=r"51 % of the traffic needs 2 of the 2 .*option capacity\.full"):
        mesh.shift(51, capacity=capacity(2))
    assert mesh.shift(50, capacity=capacity(2))["changed"]


def test_check_mode_refuses_too(mesh: Mesh) -> None:
    with pytest.raises(_capacity.CapacityError, match="needs 3 of the 3"):
        mesh.shift(100, check_mode=True, capacity=capacity(3))


def test_way_back_to_too_few_blue_pods_is_taken_and_told(either: Mesh, scale: Scale) -> None:
    blue = either.destinations["stable"]
    scale("v2", 2)
    either.shift(100, capacity=capacity(2))
    with pytest.raises(_capacity.CapacityError, match=f"'{blue}' has 1 ready pod, but 90 % of the traffic needs 2"):
        either.shift(10, capacity=capacity(2))
    result = either.shift(0, capacity=capacity(2))
    assert either.weights() == [100, 0]
    assert any(f"'{blue}' has 1 ready pod, but 100 %" in text for text in result["capacity"]["warnings"])


def test_pods_of_another_service_with_the_same_version_carry_nothing(mesh: Mesh, scale: Scale, made: Callable[..., None]) -> None:
    template = mesh.kube.get(mesh.path("deployments", "echo-v2", APPS))["spec"]["template"]
    labels = {"app": "other", "version": "v2"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": {**template, "metadata": {"labels": labels}}}
    made("Deployment", "apps/v1", "deployments", spec)
    pods = mesh.path("pods", None, ("", "v1"))
    wait_until("its pod is ready", lambda: any(map(pod_is_ready, mesh.kube.list(pods, {"labelSelector": "app=other"}))))
    with pytest.raises(_capacity.CapacityError, match="destination 'v2' has 1 ready pod, but 60 %"):
        mesh.shift(60, capacity=capacity(2))


def test_autoscaler_of_blue_says_how_many_pods_carry_everything(mesh: Mesh, scale: Scale, made: Callable[..., None]) -> None:
    made("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers", autoscaler("echo-v1", 2, 4))
    with pytest.raises(_capacity.CapacityError, match="needs 2 of the 2 pods"):
        mesh.shift(60, capacity=capacity())
    # Its controller brings the second pod by itself, without any metric.
    wait_until("the autoscaler has scaled", lambda: mesh.kube.get(mesh.path("deployments", "echo-v1", APPS))["spec"]["replicas"] == 2, 40)


def test_weight_that_the_autoscaler_of_green_would_undo_is_refused(mesh: Mesh, scale: Scale, made: Callable[..., None]) -> None:
    made("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers", autoscaler("echo-v2", 1, 2))
    with pytest.raises(_capacity.CapacityError, match="HorizontalPodAutoscaler echo allows at most 2 pods, but 100 %"):
        mesh.shift(100, capacity=capacity(3))
    result = mesh.shift(30, capacity=capacity(3))
    assert result["capacity"]["canary"]["hpa"] == {"name": "echo", "min": 1, "max": 2, "disabled": False}


def test_disruption_budget_tells_how_many_pods_evictions_leave(mesh: Mesh, scale: Scale, made: Callable[..., None]) -> None:
    scale("v2", 2)
    made("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets", {"minAvailable": 1, "selector": {"matchLabels": {"version": "v2"}}})
    budget = mesh.path("poddisruptionbudgets", "echo", POLICY)
    wait_until("the budget is counted", lambda: mesh.kube.get(budget).get("status", {}).get("disruptionsAllowed") == 1)
    with pytest.raises(_capacity.CapacityError, match=r"evictions may leave 1 \(PodDisruptionBudget echo\)"):
        mesh.shift(100, capacity=capacity(2, "refuse"))
    result = mesh.shift(100, capacity=capacity(2))
    assert result["capacity"]["canary"]["guaranteed"] == 1 and result["capacity"]["canary"]["pdb"] == [{"name": "echo", "allowed": 1}]
    assert "evictions may leave 1" in result["capacity"]["warnings"][0]


def test_missing_rights_to_look_are_told_not_fatal(mesh: Mesh) -> None:
    token = limited_user(mesh)
    user = {"kubeconfig": None, "host": mesh.kube.server, "api_key": token, "validate_certs": False}
    with pytest.raises(_capacity.CapacityError, match="55 % of the traffic needs 2 of the 2"):
        mesh.shift(55, check_mode=True, capacity=capacity(2), **user)
    warnings = mesh.shift(50, check_mode=True, capacity=capacity(2), **user)["capacity"]["warnings"]
    assert [text.partition(":")[0] for text in warnings] == [
        f"no right to list {plural} in namespace {mesh.namespace}" for plural in ("horizontalpodautoscalers", "poddisruptionbudgets")
    ]


def limited_user(mesh: Mesh) -> str:
    """Return the token of a user who may look at routes, pods and Deployments of the mesh, and at nothing else."""

    def create(path: str, kind: str, version: str, **rest: Any) -> None:
        mesh.kube.post(path, {"apiVersion": version, "kind": kind, "metadata": {"name": "limited"}, **rest})

    rules = [
        {"apiGroups": ["networking.istio.io"], "resources": ["*"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
    ]
    group = "rbac.authorization.k8s.io"
    accounts = mesh.path("serviceaccounts", None, ("", "v1"))
    create(accounts, "ServiceAccount", "v1")
    create(mesh.path("roles", None, (group, "v1")), "Role", f"{group}/v1", rules=rules)
    create(
        mesh.path("rolebindings", None, (group, "v1")), "RoleBinding", f"{group}/v1",
        roleRef={"apiGroup": group, "kind": "Role", "name": "limited"},
        subjects=[{"kind": "ServiceAccount", "name": "limited", "namespace": mesh.namespace}],
    )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return mesh.kube.post(f"{accounts}/limited/token", request)["status"]["token"]
