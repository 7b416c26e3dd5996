# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Room for both versions, and a mesh that is ready for the new one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube

from ..lab.conftest import Mesh, connection
from ..lab.test_preflight_check import preflight

CAPACITY, MESH = "infrastructure.capacity", "dependencies.mesh"


def release(mesh: Mesh, folder: Path, labels: dict[str, str] | None = None, **spec: Any) -> str:
    """The manifest of version v2 as a file: what runs there already, made wrong by ``labels`` and ``spec``."""
    live = mesh.kube.get(mesh.path("deployments", "echo-v2", ("apps", "v1")))
    body = {key: copy.deepcopy(live[key]) for key in ("apiVersion", "kind", "spec")}
    body["metadata"] = {"name": "echo-v3", "namespace": mesh.namespace}
    body["spec"]["template"]["metadata"]["labels"].update(labels or {})
    body["spec"]["template"]["spec"].update(spec)
    path = folder / "deployment.yaml"
    path.write_text(yaml.safe_dump(body))
    return str(path)


def proofs(mesh: Mesh, manifest: str, user: str = "admin", **options: Any) -> dict[str, dict[str, str]]:
    given = {key: value for key, value in connection(user).items() if value is not None}
    route = {"name": "echo", "stable": "v1", "canary": "v2"}
    answer = preflight(**{**given, "namespace": mesh.namespace, "manifests": [manifest], "deployment": "echo-v1", "traffic_route": route, **options})
    assert answer["checks"], answer["msg"]
    return answer["proofs"]


@pytest.mark.box(CAPACITY, MESH)
def test_a_release_that_fits_proves_both_boxes(mesh: Mesh, tmp_path: Path) -> None:
    before = mesh.version
    found = proofs(mesh, release(mesh, tmp_path), full_pods=3)
    assert {box: proof["state"] for box, proof in found.items()} == {CAPACITY: "proven", MESH: "proven"}
    assert "3 further pods fit on 1 node" in found[CAPACITY]["evidence"]
    assert mesh.version == before


@pytest.mark.box(CAPACITY)
@pytest.mark.parametrize(
    ("spec", "full", "said"),
    [
        ({"nodeSelector": {"disk": "fast"}}, 2, "1 node not selected by the pod"),
        ({}, 5000, "without free pods"),
    ],
)
def test_pods_for_which_no_node_has_room_fail_the_box(mesh: Mesh, tmp_path: Path, spec: dict[str, Any], full: int, said: str) -> None:
    found = proofs(mesh, release(mesh, tmp_path, **spec), full_pods=full)[CAPACITY]
    assert found["state"] == "failed" and said in found["evidence"]


@pytest.mark.box(CAPACITY)
def test_a_quota_without_room_and_two_budgets_of_the_same_pods_fail_the_box(mesh: Mesh, tmp_path: Path) -> None:
    def made(name: str, group: tuple[str, str], kind: str, spec: dict[str, Any]) -> str:
        path = mesh.path(f"{kind.lower()}s", None, group)
        mesh.kube.post(path, {"apiVersion": "/".join(filter(None, group)), "kind": kind, "metadata": {"name": name}, "spec": spec})
        return f"{path}/{name}"

    budget = {"minAvailable": 1, "selector": {"matchLabels": {"version": "v2"}}}
    paths = [made(name, ("policy", "v1"), "PodDisruptionBudget", budget) for name in ("one", "two")]
    paths.append(made("small", ("", "v1"), "ResourceQuota", {"hard": {"pods": "3"}}))
    try:
        evidence = proofs(mesh, release(mesh, tmp_path), full_pods=4)[CAPACITY]["evidence"]
        assert "ResourceQuota small" in evidence and "one, two" in evidence
    finally:
        for path in paths:
            mesh.kube.delete(path)


@pytest.mark.box(MESH)
@pytest.mark.parametrize(
    ("plural", "operations", "said"),
    [
        ("virtualservices", [{"op": "replace", "path": "/spec/gateways", "value": ["nowhere"]}], "no Gateway"),
        ("destinationrules", [{"op": "replace", "path": "/spec/subsets/1/name", "value": "v9"}], "defines subset 'v2'"),
        ("destinationrules", [{"op": "add", "path": "/spec/subsets/1/trafficPolicy", "value": {"tls": {"mode": "ISTIO_MUTUAL"}}}], "no sidecar"),
        ("destinationrules", [{"op": "add", "path": "/spec/subsets/1/labels/track", "value": "canary"}], "no label track=canary"),
    ],
)
def test_a_mesh_that_is_not_ready_fails_the_box(mesh: Mesh, tmp_path: Path, plural: str, operations: list[dict[str, Any]], said: str) -> None:
    path = mesh.path(plural)
    before = mesh.kube.get(path)["spec"]
    mesh.kube.patch(path, operations, manager="test")
    try:
        found = proofs(mesh, release(mesh, tmp_path))[MESH]
        assert found["state"] == "failed" and said in found["evidence"]
    finally:
        mesh.kube.patch(path, [{"op": "replace", "path": "/spec", "value": before}], manager="test")


@pytest.mark.box(MESH)
def test_pods_that_the_subset_does_not_mean_fail_the_box(mesh: Mesh, tmp_path: Path) -> None:
    found = proofs(mesh, release(mesh, tmp_path, labels={"version": "v3"}))[MESH]
    assert found["state"] == "failed" and "no label version=v2" in found["evidence"]


def test_without_the_rights_to_look_both_boxes_stay_open() -> None:
    given = {key: value for key, value in connection("viewer").items() if value is not None}
    manifests = sorted(str(path) for path in (Path(__file__).resolve().parents[3] / "lab/signal_service/release/k8s/deployments").glob("*.yaml"))
    route = {"name": "signal-service", "route": "primary", "stable": "v1", "canary": "v2"}
    answer = preflight(**given, manifests=manifests, deployment="signal-service-v1", version="v2", traffic_route=route)
    assert CAPACITY not in answer["proofs"] and MESH not in answer["proofs"]
    assert any("no right to list nodes" in text for text in answer["warnings"])


def test_the_lab_release_proves_both_boxes_as_its_deployer(kube: _kube.Kube) -> None:
    folder = Path(__file__).resolve().parents[3] / "lab/signal_service/release/k8s"
    given = {key: value for key, value in connection("deployer").items() if value is not None}
    route = {"name": "signal-service", "route": "primary", "stable": "v1", "canary": "v2"}
    answer = preflight(**given, manifests=sorted(map(str, folder.rglob("*.yaml"))), version="v2", traffic_route=route)
    assert {answer["proofs"][box]["state"] for box in (CAPACITY, MESH)} == {"proven"}, answer
