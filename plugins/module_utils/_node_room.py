# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about room on the nodes for more pods. Private to this collection.

The scheduler's own filters, as far as the objects tell them: requests against what is allocatable, taints, node selectors and affinity, and
pods that must not share a node. What else it weighs (volumes, spread, preemption) is not foreseen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._capacity import selects
from ansible_collections.signal.rollout.plugins.module_utils._errors import require

try:
    from kubernetes.utils import parse_quantity
except ImportError:
    parse_quantity = None

_HOSTNAME = "kubernetes.io/hostname"
_ENDED = ("Succeeded", "Failed")
Amounts = dict[str, Decimal]


@dataclass(frozen=True)
class Room:
    """How many of the pods fit, and for the nodes that take no more of them: why, with how many nodes say so."""

    fits: int
    wanted: int
    reasons: Mapping[str, int]

    @property
    def words(self) -> str:
        return ", ".join(f"{count} node{'' if count == 1 else 's'} {reason}" for reason, count in sorted(self.reasons.items())) or "no node"


def needs(spec: Mapping[str, Any]) -> Amounts:
    """What one pod takes: its containers together (with init containers that stay), or its largest other init container when that is more."""
    require("kubernetes", parse_quantity)
    running: Counter[str] = Counter()
    for container in spec.get("containers") or []:
        running.update(_asked(container))
    start: Amounts = {}
    for container in spec.get("initContainers") or []:
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            running.update(asked)
        else:
            start = {name: max(start.get(name, Decimal(0)), value) for name, value in {**start, **asked}.items()}
    total = {name: max(Decimal(running.get(name, 0)), start.get(name, Decimal(0))) for name in {*running, *start}}
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + parse_quantity(text)
    return {**total, "pods": Decimal(1)}


def _asked(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    # A limit without a request is the request too.
    return {name: parse_quantity(text) for name, text in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items()}


def free_on(node: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Amounts:
    """What is allocatable on a node and not requested by the pods that are on it."""
    require("kubernetes", parse_quantity)
    free = {name: parse_quantity(text) for name, text in ((node.get("status") or {}).get("allocatable") or {}).items()}
    for pod in pods:
        for name, value in needs(pod.get("spec") or {}).items():
            free[name] = free.get(name, Decimal(0)) - value
    return free


def refuses(node: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Why the scheduler does not consider a node for a pod at all, or an empty text."""
    conditions = {entry.get("type"): entry.get("status") for entry in (node.get("status") or {}).get("conditions") or []}
    if conditions.get("Ready") != "True":
        return "not ready"
    labels = (node.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()) or not _in_affinity(labels, node, spec):
        return "not selected by the pod"
    taints = list((node.get("spec") or {}).get("taints") or [])
    if (node.get("spec") or {}).get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    for taint in taints:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(_tolerates(entry, taint) for entry in spec.get("tolerations") or []):
            return f"tainted {taint.get('key')}"
    return ""


def _in_affinity(labels: Mapping[str, str], node: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    name = str((node.get("metadata") or {}).get("name"))
    return any(
        (term.get("matchExpressions") or term.get("matchFields"))
        and all(_matches(labels, entry) for entry in term.get("matchExpressions") or [])
        and all(_matches({"metadata.name": name}, entry) for entry in term.get("matchFields") or [])
        for term in required.get("nodeSelectorTerms") or []
    )


def _matches(labels: Mapping[str, str], entry: Mapping[str, Any]) -> bool:
    if entry.get("operator") in ("Gt", "Lt"):
        seen, (wanted,) = labels.get(str(entry.get("key"))), entry.get("values") or ["0"]
        if seen is None or not seen.lstrip("-").isdigit():
            return False
        return int(seen) > int(wanted) if entry["operator"] == "Gt" else int(seen) < int(wanted)
    return selects({"matchExpressions": [dict(entry)]}, dict(labels))


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return toleration.get("key") == taint.get("key") and (toleration.get("value") or "") == (taint.get("value") or "")


def alone(template: Mapping[str, Any]) -> bool:
    """Whether a pod refuses to share a node with its own kind."""
    labels = (template.get("metadata") or {}).get("labels") or {}
    affinity = ((template.get("spec") or {}).get("affinity") or {}).get("podAntiAffinity") or {}
    return any(
        term.get("topologyKey") == _HOSTNAME and selects(term.get("labelSelector"), labels)
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []
    )


def place(
    nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]], templates: Iterable[tuple[Mapping[str, Any], int]]
) -> list[Room]:
    """Place the pods of each template, one template after the other, beside those that run. ``templates``: pod template and number of pods."""
    on: dict[str, list[Mapping[str, Any]]] = {}
    for pod in pods:
        where = (pod.get("spec") or {}).get("nodeName")
        if where and (pod.get("status") or {}).get("phase") not in _ENDED:
            on.setdefault(str(where), []).append(pod)
    listed = [(node, free_on(node, on.get(str(node["metadata"]["name"]), []))) for node in nodes]
    return [_place(listed, template, wanted) for template, wanted in templates]


def _place(listed: list[tuple[Mapping[str, Any], Amounts]], template: Mapping[str, Any], wanted: int) -> Room:
    spec = template.get("spec") or {}
    need, most = needs(spec), 1 if alone(template) else wanted
    placed, reasons = 0, Counter()  # type: ignore[var-annotated]
    for node, free in listed:
        reason = refuses(node, spec)
        if not reason:
            here = min([most, wanted - placed, *(int(free.get(name, Decimal(0)) // value) for name, value in need.items() if value > 0)])
            here = max(0, here)
            for name, value in need.items():
                free[name] = free.get(name, Decimal(0)) - value * here
            placed += here
            lacking = sorted(name for name, value in need.items() if free.get(name, Decimal(0)) < value)
            reason = f"without free {'/'.join(lacking)}" if lacking else "with one of them already" if most == 1 and here else ""
        if reason:
            reasons[reason] += 1
    return Room(placed, wanted, dict(reasons))
