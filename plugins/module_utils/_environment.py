# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What environment a container must have, by its pod template, and how a running one differs. Pure, private to this collection.

Values are compared and forgotten: what leaves this module are names, and hashes of all values together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Objects = Mapping[tuple[str, str], Mapping[str, str]]
# What the kubelet fills in of a pod, by field path.
_FIELDS: dict[str, tuple[str, ...]] = {
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
    "metadata.uid": ("metadata", "uid"),
    "spec.nodeName": ("spec", "nodeName"),
    "spec.serviceAccountName": ("spec", "serviceAccountName"),
    "status.podIP": ("status", "podIP"),
    "status.hostIP": ("status", "hostIP"),
}
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass
class Declared:
    """The variables with their values; None where only the name is known. ``missing`` are objects and keys that are needed and not there."""

    values: dict[str, str | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drift:
    """Names whose value differs, and names that are missing, in one container."""

    different: tuple[str, ...]
    missing: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.different or self.missing)


def sources(container: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The ConfigMaps and Secrets that give a container its variables, as kind and name."""
    found = []
    for entry in container.get("envFrom") or []:
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if entry.get(key):
                found.append((kind, str(entry[key].get("name"))))
    for entry in container.get("env") or []:
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if (entry.get("valueFrom") or {}).get(key):
                found.append((kind, str(entry["valueFrom"][key].get("name"))))
    return list(dict.fromkeys(found))


def declared(container: Mapping[str, Any], objects: Objects, pod: Mapping[str, Any]) -> Declared:
    """Return what the kubelet gives ``container`` in ``pod``: envFrom first, then env, later entries over earlier ones."""
    found = Declared()
    for entry in container.get("envFrom") or []:
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if entry.get(key):
                _from_object(found, kind, entry[key], str(entry.get("prefix") or ""), objects)
    for entry in container.get("env") or []:
        name = str(entry.get("name"))
        if entry.get("valueFrom") is None:
            found.values[name] = expand(str(entry.get("value") or ""), found.values)
        else:
            _from_source(found, name, entry["valueFrom"], objects, pod)
    return found


def _from_object(found: Declared, kind: str, reference: Mapping[str, Any], prefix: str, objects: Objects) -> None:
    name = str(reference.get("name"))
    values = objects.get((kind, name))
    if values is not None:
        found.values.update({f"{prefix}{key}": value for key, value in values.items()})
    elif not reference.get("optional"):
        found.missing.append(f"{kind} {name}")


def _from_source(found: Declared, name: str, source: Mapping[str, Any], objects: Objects, pod: Mapping[str, Any]) -> None:
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        reference = source.get(key)
        if reference:
            values = objects.get((kind, str(reference.get("name")))) or {}
            if reference.get("key") in values:
                found.values[name] = values[reference["key"]]
            elif not reference.get("optional"):
                found.missing.append(f"key {reference.get('key')} of {kind} {reference.get('name')}")
            return
    path = _FIELDS.get(str((source.get("fieldRef") or {}).get("fieldPath")))
    value: Any = pod
    for step in path or ():
        value = (value or {}).get(step)
    found.values[name] = str(value) if path and value is not None else None


def expand(text: str, known: Mapping[str, str | None]) -> str | None:
    """Put in ``$(NAME)`` as the kubelet does: unknown names stay as they are, ``$$`` is one dollar. None when a value is not known."""
    if any(match.group(1) in known and known[match.group(1)] is None for match in _REFERENCE.finditer(text) if match.group(1)):
        return None

    def put(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        return str(known[match.group(1)]) if match.group(1) in known else match.group()

    return _REFERENCE.sub(put, text)


def environ(data: bytes) -> dict[str, str]:
    """Read ``/proc/PID/environ``: entries that end with a zero byte."""
    found = {}
    for entry in data.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            found[name.decode(errors="surrogateescape")] = value.decode(errors="surrogateescape")
    return found


def compare(wanted: Declared, running: Mapping[str, str]) -> Drift:
    """Return how a running environment differs from the declared one. Variables of the image or of the kubelet are no drift."""
    missing = sorted(name for name in wanted.values if name not in running)
    different = sorted(name for name, value in wanted.values.items() if value is not None and name in running and running[name] != value)
    return Drift(tuple(different), tuple(missing))


def fingerprint(values: Mapping[str, str | None]) -> str:
    """A short hash of all values together, that tells one configuration from another and nothing of a single value."""
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        digest.update(f"{name}={len(value or '')}:{value or ''}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def orphans(configmaps: Iterable[Mapping[str, Any]], deployments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of ConfigMaps that no pod template refers to."""
    used = {name for entry in deployments for name in _used(((entry.get("spec") or {}).get("template") or {}).get("spec") or {})}
    return sorted(name for entry in configmaps if (name := str(entry["metadata"]["name"])) not in used)


def _used(spec: Mapping[str, Any]) -> set[str]:
    found = set()
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        found |= {name for kind, name in sources(container) if kind == "ConfigMap"}
    for volume in spec.get("volumes") or []:
        found.add(str((volume.get("configMap") or {}).get("name")))
        for source in (volume.get("projected") or {}).get("sources") or []:
            found.add(str((source.get("configMap") or {}).get("name")))
    return found
