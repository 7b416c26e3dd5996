# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What NetworkPolicies let pass, as Kubernetes means them. Pure, private to this collection."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._capacity import selects

INGRESS, EGRESS = "ingress", "egress"
_TYPES = {INGRESS: "Ingress", EGRESS: "Egress"}


@dataclass(frozen=True)
class Peer:
    """The other side of a connection: a pod by its namespace and labels, or an address outside. ``ports`` are its named ports."""

    namespace: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        if not self.namespace:
            return self.ip
        return f"pods {','.join(f'{key}={value}' for key, value in sorted(self.labels.items()))} of {self.namespace}"


def selecting(policies: Iterable[Mapping[str, Any]], labels: Mapping[str, str], direction: str) -> list[Mapping[str, Any]]:
    """The policies of a pod's namespace that isolate it in a direction."""
    found = []
    for policy in policies:
        spec = policy.get("spec") or {}
        # Without types: Ingress always, Egress when there are rules for it.
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        if _TYPES[direction] in types and selects(spec.get("podSelector") or {}, dict(labels)):
            found.append(policy)
    return found


def allows(
    policies: Iterable[Mapping[str, Any]],
    namespace: str,
    labels: Mapping[str, str],
    direction: str,
    peer: Peer,
    port: int,
    protocol: str = "TCP",
    named: Mapping[str, int] | None = None,
) -> bool:
    """Whether ``policies`` (of the pod's namespace) let a pod with ``labels`` connect to ``peer``, or ``peer`` to it.

    A pod that no policy selects in a direction is not isolated. ``named`` are the pod's own named ports, which ingress rules may use.
    """
    isolating = selecting(policies, labels, direction)
    if not isolating:
        return True
    names = (named or {}) if direction == INGRESS else peer.ports
    return any(
        _peers(rule.get("to" if direction == EGRESS else "from"), namespace, peer) and _ports(rule.get("ports"), port, protocol, names)
        for policy in isolating
        for rule in (policy.get("spec") or {}).get(direction) or []
    )


def _peers(wanted: Sequence[Mapping[str, Any]] | None, namespace: str, peer: Peer) -> bool:
    if not wanted:
        return True
    return any(_is_peer(entry, namespace, peer) for entry in wanted)


def _is_peer(entry: Mapping[str, Any], namespace: str, peer: Peer) -> bool:
    block = entry.get("ipBlock")
    if block is not None:
        if not peer.ip:
            return False
        address = ipaddress.ip_address(peer.ip)
        inside = address in ipaddress.ip_network(str(block.get("cidr")), strict=False)
        return inside and not any(address in ipaddress.ip_network(str(cidr), strict=False) for cidr in block.get("except") or [])
    if not peer.namespace:
        return False
    spaces = entry.get("namespaceSelector")
    in_place = peer.namespace == namespace if spaces is None else selects(spaces, dict(peer.namespace_labels))
    pods = entry.get("podSelector")
    return in_place and (pods is None or selects(pods, dict(peer.labels)))


def _ports(wanted: Sequence[Mapping[str, Any]] | None, port: int, protocol: str, names: Mapping[str, int]) -> bool:
    if not wanted:
        return True
    for entry in wanted:
        if str(entry.get("protocol") or "TCP") != protocol:
            continue
        given = entry.get("port")
        first = names.get(str(given)) if isinstance(given, str) and not given.isdigit() else given
        if given is None or (first is not None and int(first) <= port <= int(entry.get("endPort") or first)):
            return True
    return False


@dataclass(frozen=True)
class Wish:
    """One declared connection: whether it must be possible."""

    direction: str
    peer: Peer
    port: int
    protocol: str = "TCP"
    allowed: bool = True

    @property
    def words(self) -> str:
        return f"{self.direction} {'to' if self.direction == EGRESS else 'from'} {self.peer.words} port {self.port}/{self.protocol}"


def breaches(
    policies: Sequence[Mapping[str, Any]], namespace: str, labels: Mapping[str, str], wishes: Iterable[Wish], isolated: Sequence[str], named: Mapping[str, int]
) -> list[str]:
    """What the policies do otherwise than declared. Directions in ``isolated`` must be closed to everything that no policy names."""
    found = [
        f"{direction}: no NetworkPolicy selects the pods, so that everything is allowed, expected one"
        for direction in isolated
        if not selecting(policies, labels, direction)
    ]
    for wish in wishes:
        seen = allows(policies, namespace, labels, wish.direction, wish.peer, wish.port, wish.protocol, named)
        if seen != wish.allowed:
            found.append(f"{wish.words} is {'allowed' if seen else 'not allowed'}, expected {'allowed' if wish.allowed else 'not allowed'}")
    return found
