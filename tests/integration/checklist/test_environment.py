# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The environment of running pods, in a namespace of one's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _environment_check, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from ..lab.conftest import Mesh, connection, wait_until

BOX = "step_2.environment"
PASSWORD = "a-password-of-this-test"  # noqa: S105


def check(mesh: Mesh, user: str = "admin", **asked: Any) -> dict[str, Any]:
    given = {key: value for key, value in connection(user).items() if value is not None}
    checked = ArgumentSpecValidator(_environment_check.ARGUMENT_SPEC).validate({**given, "namespace": mesh.namespace, "name": "configured", **asked})
    assert not checked.error_messages, checked.error_messages
    try:
        return {"msg": "", **_environment_check.run(checked.validated_parameters, Context())}
    except RolloutError as error:
        return {"msg": error.message, **error.result}


@pytest.fixture(scope="module")
def configured(shared_mesh: Mesh) -> Mesh:
    """A Deployment with variables from a ConfigMap, a Secret, its own field, and one that refers to another; it goes with its namespace."""
    mesh = shared_mesh
    labels = {"app": "configured"}
    for kind, data in (("ConfigMap", {"LEVEL": "info", "HOST": "db"}), ("Secret", {"PASSWORD": PASSWORD})):
        key = "data" if kind == "ConfigMap" else "stringData"
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "settings", "labels": labels}, key: data}
        mesh.kube.post(mesh.path(f"{kind.lower()}s", None, ("", "v1")), body)
    container = {
        "name": "app", "image": "localhost/signal-service:v1", "imagePullPolicy": "Never", "command": ["sleep", "3600"],
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "settings"}}],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "URL", "value": "db://$(HOST)/$(POD)"},
        ],
    }
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"metadata": {"name": "configured"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}}
    mesh.kube.post(mesh.path("deployments", None, ("apps", "v1")), {"apiVersion": "apps/v1", "kind": "Deployment", **body})
    pods = mesh.path("pods", None, ("", "v1"))
    wait_until("both are ready", lambda: sum(map(pod_is_ready, mesh.kube.list(pods, {"labelSelector": "app=configured"}))) == 2, 60)
    return mesh


def settings(mesh: Mesh, kind: str, data: dict[str, str]) -> None:
    path = mesh.path(kind, "settings", ("", "v1"))
    mesh.kube.patch(path, {"stringData" if kind == "secrets" else "data": data}, content_type=_kube.MERGE_PATCH, manager="test")


@pytest.mark.box(BOX)
def test_pods_with_the_declared_environment_prove_the_box_without_a_value(configured: Mesh) -> None:
    answer = check(configured)
    assert answer["proofs"][BOX]["state"] == "proven", answer["msg"]
    assert answer["proofs"][BOX]["evidence"].startswith("5 variables in 2 pods equal the declared ones")
    assert len({entry["sha256"] for entry in answer["containers"]}) == 2  # URL holds the name of the pod
    assert PASSWORD not in json.dumps(answer) and "db://" not in json.dumps(answer)


@pytest.mark.box(BOX)
@pytest.mark.parametrize(
    ("kind", "key", "before", "after"),
    [("configmaps", "LEVEL", "info", "debug"), ("secrets", "PASSWORD", PASSWORD, "another")],
)
def test_a_value_that_was_changed_under_running_pods_fails_the_box_by_name(configured: Mesh, kind: str, key: str, before: str, after: str) -> None:
    settings(configured, kind, {key: after})
    try:
        answer = check(configured)
        assert answer["proofs"][BOX]["state"] == "failed"
        assert f"other value of {key}" in answer["msg"]
        assert before not in json.dumps(answer) and after not in json.dumps(answer).replace("another one", "")
    finally:
        settings(configured, kind, {key: before})


@pytest.mark.box(BOX)
def test_a_variable_that_was_added_after_the_start_is_missing(configured: Mesh) -> None:
    settings(configured, "configmaps", {"NEW": "1"})
    try:
        assert "without NEW" in check(configured)["msg"]
    finally:
        path = configured.path("configmaps", "settings", ("", "v1"))
        configured.kube.patch(path, [{"op": "remove", "path": "/data/NEW"}], manager="test")


def test_an_old_generation_is_told(configured: Mesh) -> None:
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings-old", "labels": {"app": "configured"}}}
    configured.kube.post(configured.path("configmaps", None, ("", "v1")), old)
    answer = check(configured, orphans={"app": "configured"})
    assert answer["orphans"] == ["settings-old"] and answer["verdict"] == "pass"


def test_without_the_right_to_look_into_pods_nothing_is_proven(mesh: Mesh) -> None:
    answer = check(mesh, "viewer", namespace="signal", name="signal-service-v1")
    assert answer["verdict"] == "unknown" and answer["proofs"] == {}
    assert any("no right" in text for text in answer["warnings"])


@pytest.mark.box(BOX)
def test_the_lab_service_has_its_environment_as_the_deployer_sees_it(mesh: Mesh) -> None:
    answer = check(mesh, "deployer", namespace="signal", name="signal-service-v1")
    assert answer["proofs"].get(BOX, {}).get("state") == "proven", answer
