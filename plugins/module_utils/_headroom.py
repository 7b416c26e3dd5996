# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about room for more pods: ResourceQuota and LimitRange of a namespace. Private to this collection.

Whether a node has room is the scheduler's answer, and asking it needs rights on the cluster; a quota or a limit of the namespace
refuses the pod already at its creation, where it shows only in the events of a ReplicaSet.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import require

try:
    from kubernetes.utils import parse_quantity
except ImportError:
    parse_quantity = None

_COUNTS = ("pods", "count/pods")
# What a quota calls a resource, and where a container says how much of it it takes.
_RESOURCES = {
    "cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    "requests.cpu": ("requests", "cpu"),
    "requests.memory": ("requests", "memory"),
    "limits.cpu": ("limits", "cpu"),
    "limits.memory": ("limits", "memory"),
}


@dataclass(frozen=True)
class Shortage:
    """Why more pods would not be created. ``object`` names what refuses them."""

    object: str
    seen: str
    expected: str


def shortages(
    quotas: list[dict[str, Any]], ranges: list[dict[str, Any]], pod_spec: dict[str, Any], more: int
) -> list[Shortage]:
    """Return what refuses ``more`` further pods of ``pod_spec``; ``quotas`` and ``ranges`` are those of the namespace.

    Quotas with scopes are left out: which pods they count depends on more than the manifest.
    """
    require("kubernetes", parse_quantity)
    found = []
    for quota in quotas:
        spec = quota.get("spec") or {}
        if more > 0 and not spec.get("scopes") and not spec.get("scopeSelector"):
            found += _quota(quota, ranges, pod_spec, more)
    for limits in ranges:
        found += _range(limits, pod_spec)
    return found


def _quota(quota: dict[str, Any], ranges: list[dict[str, Any]], pod_spec: dict[str, Any], more: int) -> list[Shortage]:
    title = f"ResourceQuota {quota['metadata']['name']}"
    status = quota.get("status") or {}
    found = []
    for resource, text in ((quota.get("spec") or {}).get("hard") or {}).items():
        if resource not in _COUNTS and resource not in _RESOURCES:
            continue
        used_text = (status.get("used") or {}).get(resource, "0")
        each = Decimal(1) if resource in _COUNTS else _each(pod_spec, ranges, *_RESOURCES[resource])
        if each is None:
            kind, name = _RESOURCES[resource]
            found.append(Shortage(title, f"a container without {kind}.{name}", f"{kind}.{name} in every container, since the quota counts it"))
        elif parse_quantity(used_text) + each * more > parse_quantity(text):
            seen = f"{resource}: {used_text} of {text} used"
            found.append(Shortage(title, seen, f"room for {more} more pod{'' if more == 1 else 's'} of {_number(each)} each"))
    return found


def _each(pod_spec: dict[str, Any], ranges: list[dict[str, Any]], kind: str, resource: str) -> Decimal | None:
    """What one pod counts: its containers together, or its largest init container when that is more. None: not stated."""

    def stated(container: dict[str, Any]) -> Decimal | None:
        resources = container.get("resources") or {}
        # A limit without a request is the request too.
        given = (resources.get(kind) or {}).get(resource) or ((resources.get("limits") or {}).get(resource) if kind == "requests" else None)
        given = given or _default(ranges, kind, resource)
        return None if given is None else parse_quantity(given)

    running = [stated(container) for container in pod_spec.get("containers") or []]
    starting = [stated(container) for container in pod_spec.get("initContainers") or []]
    if None in running or None in starting:
        return None
    return max([sum((value for value in running if value is not None), Decimal(0)), *(value for value in starting if value is not None)])


def _default(ranges: list[dict[str, Any]], kind: str, resource: str) -> Any:
    for limits in ranges:
        for entry in (limits.get("spec") or {}).get("limits") or []:
            if entry.get("type") == "Container":
                values = entry.get("defaultRequest") if kind == "requests" else entry.get("default")
                if (values or {}).get(resource) is not None:
                    return (values or {})[resource]
    return None


def _range(limits: dict[str, Any], pod_spec: dict[str, Any]) -> list[Shortage]:
    title = f"LimitRange {limits['metadata']['name']}"
    found = []
    for entry in (limits.get("spec") or {}).get("limits") or []:
        if entry.get("type") != "Container":
            continue
        for container in [*(pod_spec.get("initContainers") or []), *(pod_spec.get("containers") or [])]:
            given = (container.get("resources") or {}).get("limits") or {}
            for resource, most in (entry.get("max") or {}).items():
                if resource in given and parse_quantity(given[resource]) > parse_quantity(most):
                    seen = f"container {container.get('name')} with limits.{resource} {given[resource]}"
                    found.append(Shortage(title, seen, f"at most {most}"))
    return found


def _number(value: Decimal) -> str:
    return f"{value.normalize():f}"
