# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about the before-image of a workload: what belongs to it, what differs. Private to this collection.

A before-image is the Deployment with everything its pods read: ConfigMaps and Secrets. Nothing here talks to a server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Fields that belong to the server; without them the object can be created again.
_SERVER_FIELDS = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
# What `kubectl rollout restart` writes.
RESTARTED = "kubectl.kubernetes.io/restartedAt"
# Written by the Deployment's controller; a new Deployment counts anew.
_CONTROLLER_FIELDS = ("deployment.kubernetes.io/revision",)


@dataclass(frozen=True, order=True)
class Reference:
    """A ConfigMap or Secret that a pod template names. Pods start without an ``optional`` one."""

    kind: str
    name: str
    optional: bool = False


def references(template: dict[str, Any]) -> list[Reference]:
    """Return what the pods of ``template`` read: by ``envFrom``, ``env``, volumes and projected volumes, each once.

    A name that occurs as optional and as required is required.
    """
    required: dict[tuple[str, str], bool] = {}
    for kind, source in _sources(template.get("spec") or {}):
        name = str(source.get("name") or source.get("secretName") or "")
        if name:
            optional = bool(source.get("optional")) and required.get((kind, name), True)
            required[kind, name] = optional
    return sorted(Reference(kind, name, optional) for (kind, name), optional in required.items())


def _sources(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        for entry in container.get("envFrom") or []:
            yield from _either(entry, "configMapRef", "secretRef")
        for entry in container.get("env") or []:
            yield from _either(entry.get("valueFrom") or {}, "configMapKeyRef", "secretKeyRef")
    for volume in spec.get("volumes") or []:
        yield from _either(volume, "configMap", "secret")
        for entry in (volume.get("projected") or {}).get("sources") or []:
            yield from _either(entry, "configMap", "secret")


def _either(entry: dict[str, Any], configmap: str, secret: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if entry.get(configmap):
        yield "ConfigMap", entry[configmap]
    if entry.get(secret):
        yield "Secret", entry[secret]


def cleaned(document: dict[str, Any], kind: str, api_version: str) -> dict[str, Any]:
    """Return ``document`` as it can be created again: without status and without what the server owns."""
    metadata = {key: value for key, value in document["metadata"].items() if key not in _SERVER_FIELDS}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in _CONTROLLER_FIELDS}
    metadata.pop("annotations", None)
    # An owner that is gone would have the new object collected at once.
    metadata.pop("ownerReferences", None)
    if annotations:
        metadata["annotations"] = annotations
    rest = {key: value for key, value in document.items() if key not in ("status", "metadata", "kind", "apiVersion")}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def changed_keys(kept: dict[str, Any], live: dict[str, Any]) -> list[str]:
    """Return the keys under which two ConfigMaps or Secrets hold different content, sorted."""
    keys: set[str] = set()
    for field in ("data", "binaryData"):
        one, other = kept.get(field) or {}, live.get(field) or {}
        keys |= {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return sorted(keys)


def same_template(kept: dict[str, Any], live: dict[str, Any]) -> bool:
    """Whether two Deployments make the same pods. A restart by annotation makes new pods of the same kind."""
    return _template(kept) == _template(live)


def _template(deployment: dict[str, Any]) -> dict[str, Any]:
    template = json.loads(json.dumps((deployment.get("spec") or {}).get("template") or {}))
    metadata = template.get("metadata") or {}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != RESTARTED}
    metadata.pop("annotations", None)
    metadata.pop("creationTimestamp", None)
    if annotations:
        metadata["annotations"] = annotations
    return template


def excluding_keys(selector: dict[str, str], deployment: dict[str, Any]) -> list[str]:
    """Return the keys of a Service's selector that shut out the pods of ``deployment``, sorted."""
    template = (deployment.get("spec") or {}).get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    return sorted(key for key, value in selector.items() if labels.get(key) != value)


def writer_of(document: dict[str, Any], *fields: str) -> dict[str, str]:
    """Return ``{manager, time}`` of the newest writer of one of the top-level ``fields``, from managedFields.

    A manager's name is a claim of the client, not an identity.
    """
    newest = {"manager": "unknown", "time": ""}
    for entry in (document.get("metadata") or {}).get("managedFields") or []:
        written = entry.get("fieldsV1") or {}
        when = str(entry.get("time") or "")
        if any(f"f:{name}" in written for name in fields) and when >= newest["time"]:
            newest = {"manager": str(entry.get("manager") or "unknown"), "time": when}
    return newest


def started_after(pods: list[dict[str, Any]], when: str) -> list[str]:
    """Return the names of pods that have started a container at or after ``when`` (RFC 3339, UTC, to the second)."""
    return sorted(
        pod["metadata"]["name"]
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp") and _last_start(pod.get("status") or {}) >= when
    )


def _last_start(status: dict[str, Any]) -> str:
    starts = [str(status.get("startTime") or "")]
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        for states in (container.get("state") or {}, container.get("lastState") or {}):
            starts += [str((states.get(name) or {}).get("startedAt") or "") for name in ("running", "terminated")]
    return max(starts)


def sealed(secret: dict[str, Any]) -> str:
    """Return a Secret as one value of another Secret's ``data``."""
    return base64.b64encode(json.dumps(secret).encode()).decode()


def unsealed(value: str) -> dict[str, Any]:
    """Return what :func:`sealed` made. Raises ValueError for anything else."""
    document = json.loads(base64.b64decode(value, validate=True))
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document
