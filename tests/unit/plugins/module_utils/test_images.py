# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to a before-image, what differs from it, and which pods have read something else."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _images
from ansible_collections.signal.rollout.plugins.module_utils._images import Reference


def test_every_way_to_read_configuration_is_found_once() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}, {"prefix": "X_", "configMapRef": {"name": "a"}}],
        "env": [
            {"name": "A", "value": "plain"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k", "optional": True}}},
            {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    volumes = [
        {"name": "1", "configMap": {"name": "e", "optional": True}},
        {"name": "2", "secret": {"secretName": "f"}},
        {"name": "3", "projected": {"sources": [{"configMap": {"name": "g"}}, {"secret": {"name": "h"}}, {"serviceAccountToken": {}}]}},
        {"name": "4", "emptyDir": {}},
    ]
    init = {"envFrom": [{"configMapRef": {"name": "i"}}]}
    found = _images.references({"spec": {"containers": [container], "initContainers": [init], "volumes": volumes}})
    assert found == [
        *(Reference("ConfigMap", name, name == "e") for name in "acegi"),
        *(Reference("Secret", name, name == "d") for name in "bdfh"),
    ]


def test_what_is_optional_at_one_place_and_required_at_another_is_required() -> None:
    container = {"envFrom": [{"configMapRef": {"name": "a"}}]}
    volume = {"name": "v", "configMap": {"name": "a", "optional": True}}
    for spec in ({"containers": [container], "volumes": [volume]}, {"initContainers": [{}], "containers": [container], "volumes": [volume]}):
        assert _images.references({"spec": spec}) == [Reference("ConfigMap", "a", False)]


def test_pods_without_configuration_read_none() -> None:
    assert _images.references({"spec": {"containers": [{"name": "app"}]}}) == [] and _images.references({}) == []


def test_image_can_be_created_again() -> None:
    live = {
        "metadata": {
            "name": "signal-service-v1", "namespace": "signal", "labels": {"app": "x"}, "uid": "1", "resourceVersion": "2", "generation": 3,
            "creationTimestamp": "2026-11-24T10:00:00Z", "managedFields": [{}], "ownerReferences": [{}],
            "annotations": {"deployment.kubernetes.io/revision": "4", "team": "prices"},
        },
        "spec": {"replicas": 2},
        "status": {"replicas": 2},
    }  # fmt: skip
    assert _images.cleaned(live, "Deployment", "apps/v1") == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "signal-service-v1", "namespace": "signal", "labels": {"app": "x"}, "annotations": {"team": "prices"}},
        "spec": {"replicas": 2},
    }


def test_keys_that_were_changed_added_or_removed_are_named() -> None:
    kept = {"data": {"same": "1", "changed": "1", "removed": "1"}, "binaryData": {"bytes": "AA=="}}
    live = {"data": {"same": "1", "changed": "2", "added": "1"}, "binaryData": {"bytes": "AB=="}}
    assert _images.changed_keys(kept, live) == ["added", "bytes", "changed", "removed"]
    assert _images.changed_keys({"data": {}}, {"data": None}) == []


def deployment(image: str = "a", annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"labels": labels or {"app": "x", "version": "v1"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"spec": {"template": {"metadata": metadata, "spec": {"containers": [{"image": image}]}}}}


def test_restart_makes_no_other_pods_and_another_image_does() -> None:
    assert _images.same_template(deployment(), deployment(annotations={_images.RESTARTED: "2026-11-24T10:00:00Z"}))
    assert not _images.same_template(deployment(), deployment(annotations={"team": "prices"}))
    assert not _images.same_template(deployment(), deployment(image="b"))


@pytest.mark.parametrize(
    ("selector", "keys"),
    [
        ({"app": "x"}, []),
        ({"app": "x", "version": "v1"}, []),
        ({"app": "x", "version": "v2"}, ["version"]),
        ({"app": "y", "tier": "web"}, ["app", "tier"]),
        ({}, []),
    ],
)
def test_selector_keys_that_shut_the_pods_out_are_named(selector: dict[str, str], keys: list[str]) -> None:
    assert _images.excluding_keys(selector, deployment()) == keys


def test_last_writer_of_the_content_is_not_the_last_writer_of_a_label() -> None:
    fields = [
        {"manager": "kubectl", "time": "2026-11-24T10:00:00Z", "fieldsV1": {"f:data": {}}},
        {"manager": "stranger", "time": "2026-11-24T11:00:00Z", "fieldsV1": {"f:data": {"f:key": {}}}},
        {"manager": "labeller", "time": "2026-11-24T12:00:00Z", "fieldsV1": {"f:metadata": {}}},
    ]
    assert _images.writer_of({"metadata": {"managedFields": fields}}, "data") == {"manager": "stranger", "time": "2026-11-24T11:00:00Z"}
    assert _images.writer_of({"metadata": {}}, "data") == {"manager": "unknown", "time": ""}


def pod(name: str, started: str, container: str = "", state: str = "running", deleted: bool = False) -> dict[str, Any]:
    status: dict[str, Any] = {"startTime": started}
    if container:
        status["containerStatuses"] = [{"state": {state: {"startedAt": container}}}]
    return {"metadata": {"name": name, **({"deletionTimestamp": "x"} if deleted else {})}, "status": status}


def test_pods_that_have_read_later_content_are_those_with_a_later_start_of_any_container() -> None:
    when = "2026-11-24T10:00:00Z"
    pods = [
        pod("before", "2026-11-24T09:00:00Z", "2026-11-24T09:00:05Z"),
        pod("after", "2026-11-24T10:00:01Z"),
        pod("in the same second", "2026-11-24T10:00:00Z"),
        pod("restarted", "2026-11-24T09:00:00Z", "2026-11-24T10:30:00Z"),
        pod("crashing", "2026-11-24T09:00:00Z", "2026-11-24T10:30:00Z", state="terminated"),
        pod("leaving", "2026-11-24T10:30:00Z", deleted=True),
    ]
    assert _images.started_after(pods, when) == ["after", "crashing", "in the same second", "restarted"]


def test_sealed_secret_opens_to_what_it_was_and_anything_else_does_not() -> None:
    secret = {"kind": "Secret", "data": {"PGPASSWORD": "czNjcmV0"}}
    assert _images.unsealed(_images.sealed(secret)) == secret
    for other in ("", "%%%", "W10="):
        with pytest.raises(ValueError):
            _images.unsealed(other)
