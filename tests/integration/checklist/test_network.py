# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NetworkPolicies, and the network itself, in a namespace of one's own.

The lab's network enforces no policy. What a network that does would do is done by a rule of the packet filter in the pod's own network namespace.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _network_check
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from ..lab.conftest import Mesh, connection

BOX = "dependencies.network_policies"
GREEN = {"app": "echo", "version": "v2"}
REDIS = {"direction": "egress", "namespace": "signal-data", "labels": {"app": "redis"}, "port": 6379, "address": "10.79.0.51"}
METADATA = {"direction": "egress", "ip": "169.254.169.254", "port": 80, "allowed": False}
GATEWAY = {"direction": "ingress", "namespace": "istio-system", "labels": {"istio": "ingressgateway"}, "port": 8080}
BLOCKED = {**REDIS, "allowed": False}
POLICY: dict[str, Any] = {
    "podSelector": {"matchLabels": {"app": "echo"}},
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "istio-system"}}}]}],
    "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "signal-data"}}}], "ports": [{"port": 6379}]}],
}


def check(mesh: Mesh, connections: list[dict[str, Any]], user: str = "admin", **asked: Any) -> dict[str, Any]:
    given = {key: value for key, value in connection(user).items() if value is not None}
    given |= {"namespace": mesh.namespace, "labels": GREEN, "isolated": ["ingress", "egress"], "connections": connections, "timeout": 1.0, **asked}
    checked = ArgumentSpecValidator(_network_check.ARGUMENT_SPEC).validate(given)
    assert not checked.error_messages, checked.error_messages
    try:
        return {"msg": "", **_network_check.run(checked.validated_parameters, Context())}
    except RolloutError as error:
        return {"msg": error.message, **error.result}


@pytest.fixture
def policy(mesh: Mesh) -> Iterator[str]:
    path = mesh.path("networkpolicies", None, ("networking.k8s.io", "v1"))
    mesh.kube.post(path, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "echo"}, "spec": POLICY})
    yield f"{path}/echo"
    mesh.kube.delete(f"{path}/echo")


def green(mesh: Mesh) -> dict[str, Any]:
    pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": "app=echo,version=v2"})
    return next(pod for pod in pods if pod_is_ready(pod))


@pytest.fixture
def filtered(mesh: Mesh) -> Iterator[None]:
    """Green's pod cannot reach Redis, as if a policy were enforced."""
    process = process_of(green(mesh)["metadata"]["uid"])
    rule = ["OUTPUT", "-p", "tcp", "-d", "10.79.0.51", "-j", "DROP"]
    subprocess.run(["nsenter", "-t", process, "-n", "iptables", "-I", *rule], check=True, timeout=10)
    yield
    subprocess.run(["nsenter", "-t", process, "-n", "iptables", "-D", *rule], check=True, timeout=10)


def process_of(uid: str) -> str:
    return next(path.name for path in Path("/proc").glob("[0-9]*") if uid.replace("-", "_") in cgroup(path) or uid in cgroup(path))


def cgroup(process: Path) -> str:
    try:
        return (process / "cgroup").read_text()
    except OSError:
        return ""


@pytest.mark.box(BOX)
def test_policies_and_a_network_that_are_as_declared_prove_the_box(mesh: Mesh, policy: str) -> None:
    answer = check(mesh, [REDIS, GATEWAY, METADATA])
    assert answer["proofs"][BOX] == {"state": "proven", "evidence": "NetworkPolicy echo: 3 connections as declared"}, answer["msg"]
    answer = check(mesh, [REDIS, GATEWAY], connect=True)
    assert answer["proofs"][BOX]["evidence"].endswith("1 tried from a running pod"), answer


@pytest.mark.box(BOX)
def test_without_a_policy_the_pods_are_not_isolated_and_the_box_fails(mesh: Mesh) -> None:
    answer = check(mesh, [REDIS, METADATA])
    assert answer["proofs"][BOX]["state"] == "failed"
    assert "no NetworkPolicy selects the pods" in answer["msg"] and "169.254.169.254 port 80/TCP is allowed" in answer["msg"]


@pytest.mark.box(BOX)
@pytest.mark.parametrize(
    ("pointer", "value", "said"),
    [
        ("/spec/podSelector/matchLabels/version", "v1", "no NetworkPolicy selects the pods"),
        ("/spec/egress/0/ports/0/port", 6380, "egress to pods app=redis of signal-data port 6379/TCP is not allowed"),
        ("/spec/ingress/0/from/0/podSelector", {"matchLabels": {"app": "other"}}, "ingress from pods istio=ingressgateway of istio-system"),
        ("/spec/egress/1", {}, "169.254.169.254 port 80/TCP is allowed"),
    ],
)
def test_a_policy_that_means_something_else_fails_the_box(mesh: Mesh, policy: str, pointer: str, value: Any, said: str) -> None:
    mesh.kube.patch(policy, [{"op": "add", "path": pointer, "value": value}], manager="test")
    answer = check(mesh, [REDIS, GATEWAY, METADATA])
    assert answer["proofs"][BOX]["state"] == "failed" and said in answer["msg"]


@pytest.mark.box(BOX)
def test_a_connection_that_policies_allow_and_the_network_does_not_fails_the_box(mesh: Mesh, policy: str, filtered: None) -> None:
    answer = check(mesh, [REDIS], connect=True)
    assert answer["proofs"][BOX]["state"] == "failed" and "10.79.0.51 port 6379 is blocked, expected connected" in answer["msg"]


@pytest.mark.box(BOX)
def test_a_forbidden_connection_is_proven_when_the_network_blocks_it_and_fails_while_it_does_not(
    mesh: Mesh, policy: str, request: pytest.FixtureRequest
) -> None:
    mesh.kube.patch(policy, [{"op": "replace", "path": "/spec/egress", "value": []}], manager="test")
    answer = check(mesh, [BLOCKED], connect=True)
    assert answer["proofs"][BOX]["state"] == "failed" and "is connected, expected blocked" in answer["msg"]
    request.getfixturevalue("filtered")
    assert check(mesh, [BLOCKED], connect=True)["proofs"][BOX]["state"] == "proven"


def test_a_port_on_which_nobody_listens_does_not_show_that_it_is_blocked(mesh: Mesh, policy: str) -> None:
    address = green(mesh)["status"]["podIP"]
    answer = check(mesh, [{"direction": "egress", "ip": address, "port": 9, "allowed": False}], connect=True)
    assert answer["verdict"] == "unknown" and answer["proofs"] == {}, json.dumps(answer)


def test_without_the_right_to_read_policies_nothing_is_proven(kube: _kube.Kube, mesh: Mesh) -> None:
    answer = check(mesh, [REDIS], user="viewer", namespace="signal")
    assert answer["verdict"] == "unknown" and answer["proofs"] == {}
