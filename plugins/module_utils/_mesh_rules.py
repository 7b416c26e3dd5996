# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about Istio objects around a route: gateways, mutual TLS, labels of a subset. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _weights
from ansible_collections.signal.rollout.plugins.module_utils._capacity import selects
from ansible_collections.signal.rollout.plugins.module_utils._virtual_service import _host_matches

STRICT, PERMISSIVE, DISABLE = "STRICT", "PERMISSIVE", "DISABLE"
_SIDECAR = "istio-proxy"


def gateways_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Namespace and name of the gateways that a VirtualService names; sidecars (``mesh``) are none."""
    own = str((document.get("metadata") or {}).get("namespace") or "")
    names = [str(name) for name in (document.get("spec") or {}).get("gateways") or [] if name != "mesh"]
    return [(name.partition("/")[0], name.partition("/")[2]) if "/" in name else (own, name) for name in names]


def unserved_hosts(document: Mapping[str, Any], gateways: Iterable[Mapping[str, Any]]) -> list[str]:
    """Hosts of a VirtualService that no server of its gateways takes. Hosts without a dot are those of sidecars."""
    own = str((document.get("metadata") or {}).get("namespace") or "")
    servers = [
        str(host)
        for gateway in gateways
        for server in (gateway.get("spec") or {}).get("servers") or []
        for host in server.get("hosts") or []
        if _open_to(str(host), str((gateway.get("metadata") or {}).get("namespace") or ""), own)
    ]
    hosts = [str(host) for host in (document.get("spec") or {}).get("hosts") or []]
    outside = [host for host in hosts if "." in host and not host.endswith(".svc.cluster.local")] or hosts
    return [host for host in outside if not any(_takes(server.rpartition("/")[2], host) for server in servers)]


def _open_to(host: str, of_gateway: str, own: str) -> bool:
    place, slash, _host = host.rpartition("/")
    return not slash or place in ("*", own) or (place == "." and of_gateway == own)


def _takes(server: str, host: str) -> bool:
    if server == "*" or server == host:
        return True
    return server.startswith("*.") and host.lstrip("*").endswith(server[1:])


def mtls_of(policies: Sequence[Mapping[str, Any]], namespace: str, labels: Mapping[str, str], root: str) -> tuple[str, str]:
    """The mutual TLS mode that pods with ``labels`` in ``namespace`` demand, and which PeerAuthentication says so.

    The policy of the workload wins over the namespace's, and that over the mesh's; UNSET asks the next one. Without any it is PERMISSIVE.
    """

    def of(place: str, wanted: bool) -> list[Mapping[str, Any]]:
        found = []
        for policy in policies:
            selector = (policy.get("spec") or {}).get("selector")
            in_place = (policy.get("metadata") or {}).get("namespace") == place
            if in_place and bool((selector or {}).get("matchLabels")) == wanted and (not wanted or selects(selector, dict(labels))):
                found.append(policy)
        return sorted(found, key=lambda policy: str(policy["metadata"].get("creationTimestamp")))

    for policy in (*of(namespace, True), *of(namespace, False), *of(root, False)):
        mode = str(((policy.get("spec") or {}).get("mtls") or {}).get("mode") or "UNSET")
        if mode != "UNSET":
            return mode, f"PeerAuthentication {policy['metadata']['namespace']}/{policy['metadata']['name']}"
    return PERMISSIVE, "no PeerAuthentication"


def client_tls(rules: Iterable[Mapping[str, Any]], service: str, subset: str) -> tuple[str, str]:
    """The TLS mode with which proxies call a subset, and which DestinationRule says so. Empty: Istio chooses by itself."""
    for rule in rules:
        spec, metadata = rule.get("spec") or {}, rule.get("metadata") or {}
        if not _host_matches(_weights.full_host(str(spec.get("host") or ""), str(metadata.get("namespace") or "")), service):
            continue
        own = next((entry for entry in spec.get("subsets") or [] if entry.get("name") == subset), {})
        for policy in (own.get("trafficPolicy"), spec.get("trafficPolicy")):
            mode = ((policy or {}).get("tls") or {}).get("mode")
            if mode:
                return str(mode), f"DestinationRule {metadata.get('namespace')}/{metadata.get('name')}"
    return "", "no DestinationRule"


def tls_conflict(server: str, client: str, has_sidecar: bool) -> str:
    """What the two sides of a connection expect of each other and do not get, or an empty text."""
    mutual = client in ("ISTIO_MUTUAL", "MUTUAL")
    if server == STRICT and has_sidecar and client in (DISABLE, "SIMPLE"):
        return "the pods take mutual TLS only, and the proxies send none"
    if mutual and not has_sidecar:
        return "the proxies send mutual TLS, and the pods have no sidecar that understands it"
    if mutual and server == DISABLE:
        return "the proxies send mutual TLS, and the pods take plain text only"
    return ""


def has_sidecar(pod: Mapping[str, Any]) -> bool:
    spec = pod.get("spec") or {}
    return any(entry.get("name") == _SIDECAR for entry in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])])


def unlike(wanted: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """Labels that a pod must carry and does not, as ``key=value``."""
    return [f"{key}={value}" for key, value in sorted(wanted.items()) if labels.get(key) != value]
