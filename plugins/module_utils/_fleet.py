# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proxies that must show a weight: which they are now, and what each of them shows. Private to this collection."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _envoy, _kube, _weights
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

GATEWAY, SIDECAR = "gateway", "sidecar"
# A listing older than this is repeated before all proxies count as confirmed: a gateway may have become ready since.
_LISTING_HOLDS_SECONDS = 0.05


@dataclass(frozen=True)
class Claim:
    """What a confirmation has to prove about one route.

    ``title`` names the route in messages. ``shown`` returns what one Envoy has for that route, one entry per virtual host it
    appears in, from the admin interface's ``/config_dump?resource=dynamic_route_configs``; an empty list says "no such route".
    ``before`` are the weights it had. ``stable`` and ``canary`` are each ``(full host of the service, subset or "")``.
    ``on_gateways`` and ``in_mesh`` say whether gateways and sidecars carry the route.
    """

    title: str
    target: _weights.Weights
    shown: Callable[[dict[str, Any]], list[_weights.Weights]]
    before: _weights.Weights | None
    stable: tuple[str, str]
    canary: tuple[str, str]
    on_gateways: bool = True
    in_mesh: bool = False


class Fleet:
    """The proxies that must show the weights: every ready gateway, and a random sample of the callers' sidecars."""

    def __init__(self, options: dict[str, Any], kube: _kube.Kube, namespace: str, claim: Claim, ways: tuple[str, ...]) -> None:
        self._options = options
        self._kube = kube
        self._namespace = namespace
        self._claim = claim
        self._proxies: dict[tuple[str, str], _envoy.Proxy] = {}
        self._listed_at = 0.0
        self._needs_gateways = claim.on_gateways
        self._needs_sidecars = claim.in_mesh and bool(options.get("sidecars"))
        self._first_way = ways[0]
        self.admin = _envoy.Admin(kube, options["admin_port"], options["container"], ways)

    @property
    def pending(self) -> list[_envoy.Proxy]:
        return [proxy for proxy in self._proxies.values() if not proxy.shows]

    @property
    def listed(self) -> bool:
        return self._listed_at > 0

    @property
    def is_current(self) -> bool:
        return time.monotonic() - self._listed_at <= _LISTING_HOLDS_SECONDS

    @property
    def proxies(self) -> list[_envoy.Proxy]:
        return list(self._proxies.values())

    def count(self, kind: str, showing: bool = False) -> int:
        return sum(proxy.kind == kind and (proxy.shows or not showing) for proxy in self._proxies.values())

    def gap(self) -> str:
        """What is missing before anything can be confirmed at all, as a sentence; empty when nothing is."""
        options = self._options
        if not self._needs_gateways and not self._needs_sidecars:
            return "The route applies to sidecars only, and confirm.sidecars does not say whose. Next: set confirm.sidecars."
        if self._needs_gateways and not self.count(GATEWAY):
            return (
                f"No ready gateway pod in namespace {options['namespace']} with labels {options['selector']}. "
                "Next: check confirm.namespace and confirm.selector (rollout_gateway_namespace, rollout_gateway_selector)."
            )
        if self._needs_sidecars and not self.count(SIDECAR):
            sidecars = options["sidecars"]
            return (
                f"No ready pod with container {options['container']} in namespace {sidecars['namespace'] or self._namespace} "
                f"with labels {sidecars['selector']}. Next: check confirm.sidecars."
            )
        return ""

    def list(self) -> None:
        """Take in the proxies that are ready now; those that are known keep what they have shown, those that are gone are dropped."""
        options, kept = self._options, self._proxies
        found: dict[tuple[str, str], str] = {}
        if self._needs_gateways:
            for pod in self._ready_pods(options["namespace"], options["selector"]):
                found[_key(pod)] = GATEWAY
        if self._needs_sidecars:
            sidecars = options["sidecars"]
            pods = self._ready_pods(sidecars["namespace"] or self._namespace, sidecars["selector"])
            callers = [_key(pod) for pod in pods if _has_container(pod, options["container"]) and _key(pod) not in found]
            chosen = [key for key in callers if key in kept]
            others = [key for key in callers if key not in kept]
            chosen += random.sample(others, min(len(others), max(0, sidecars["sample"] - len(chosen))))
            found.update(dict.fromkeys(chosen, SIDECAR))
        self._proxies = {
            key: kept.get(key) or _envoy.Proxy(*key, kind=kind, way=self._first_way) for key, kind in sorted(found.items())
        }
        self._listed_at = time.monotonic()

    def _ready_pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        pods = self._kube.list(_kube.path_of("", "v1", "pods", namespace), {"labelSelector": selector})
        return [pod for pod in pods if _weights.pod_is_ready(pod)]

    def look(self, deadline: float) -> str:
        """Read the proxies that have not shown the weights yet. Returns why one can never be read, or an empty text.

        After ``deadline`` (of the monotonic clock) no further one is begun with: each may take as long as a read may take.
        """
        for place, proxy in enumerate(self.pending):
            if place and time.monotonic() >= deadline:
                break
            try:
                dump = self.admin.route_configs(proxy)
            except _envoy.Unreadable as error:
                return f"the configuration of {proxy.kind} {proxy.namespace}/{proxy.name} cannot be read ({error.message})"
            except RolloutError as error:
                proxy.seen = one_line(error.message, 160)
                continue
            self._judge(proxy, dump)
        return ""

    def _judge(self, proxy: _envoy.Proxy, dump: dict[str, Any]) -> None:
        shown = self._claim.shown(dump)
        proxy.routes_seen = bool(shown)
        proxy.shows = proxy.routes_seen and all(weights == self._claim.target for weights in shown)
        proxy.seen = ", ".join(_weights.as_text(weights.as_dict()) for weights in shown) or "no such route"
        if not proxy.routes_seen:
            # Narrow reads only make sense once the route was found.
            proxy.configs = ()
        elif not proxy.configs and not proxy.shows:
            proxy.configs = _envoy.configs_with(dump, lambda one: bool(self._claim.shown(one)))


def _key(pod: dict[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _has_container(pod: dict[str, Any], name: str) -> bool:
    spec = pod.get("spec") or {}
    # Istio's native sidecars are init containers that keep running.
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return any(container.get("name") == name for container in containers)
