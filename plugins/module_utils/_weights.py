# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about weights: what a VirtualService says, what to write, what Envoy shows. Private to this collection.

Nothing here talks to a server. Objects are the plain dictionaries the API returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

FULL = 100


class WeightError(RolloutError):
    """The object does not allow the wanted change; nothing was written."""


@dataclass(frozen=True)
class Weights:
    """Shares of one route in percent. ``stable + canary`` is 100."""

    stable: int
    canary: int

    def as_dict(self) -> dict[str, int]:
        return {"stable": self.stable, "canary": self.canary}


@dataclass(frozen=True)
class Destination:
    """One weighted destination of a route: its place in the list and what it says."""

    index: int
    host: str
    subset: str
    weight: int | None


@dataclass(frozen=True)
class Route:
    """The managed HTTP route of a VirtualService, with the two destinations whose weights may change."""

    index: int
    name: str
    stable: Destination
    canary: Destination
    weights: Weights


def wanted(weight: int) -> Weights:
    """Return the weights for ``weight`` percent on the canary. Raises :class:`WeightError` outside 0-100."""
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= FULL:
        raise WeightError(f"weight is {weight!r}, expected an integer from 0 to 100 (percent of requests for the canary).")
    return Weights(FULL - weight, weight)


def read_route(
    virtual_service: dict[str, Any], route: str | None, host: str | None, stable: str, canary: str
) -> Route:
    """Return the managed route of ``virtual_service``.

    ``route`` may be None when there is exactly one HTTP route; ``host`` when both destinations have the same one.
    Raises :class:`WeightError`, quoting the object's own words, for everything that cannot be managed safely.
    """
    title = _title(virtual_service)
    if stable == canary:
        raise WeightError(f"{title}: stable and canary are both the subset '{stable}', expected two different subsets.")
    routes = (virtual_service.get("spec") or {}).get("http") or []
    index = _route_index(title, routes, route)
    name = str(routes[index].get("name") or "")
    where = f"{title}, route '{name or index}'"
    destinations = [_destination(place, entry) for place, entry in enumerate(routes[index].get("route") or [])]
    words = ", ".join(f"{d.subset or '(no subset)'}={d.weight}" for d in destinations) or "no destination"
    found = {subset: _one(where, words, destinations, subset, host) for subset in (stable, canary)}
    if found[stable].host != found[canary].host:
        raise WeightError(
            f"{where}: subsets '{stable}' and '{canary}' belong to different hosts "
            f"({found[stable].host}, {found[canary].host}). Next: set the option host."
        )
    weights = _weights(where, words, destinations, found[stable], found[canary])
    return Route(index, name, found[stable], found[canary], weights)


def _title(virtual_service: dict[str, Any]) -> str:
    metadata = virtual_service.get("metadata") or {}
    return f"VirtualService {metadata.get('namespace')}/{metadata.get('name')}"


def _route_index(title: str, routes: list[dict[str, Any]], route: str | None) -> int:
    names = [str(entry.get("name") or "") for entry in routes]
    listed = ", ".join(f"'{name}'" for name in names) or "none"
    if route:
        hits = [index for index, name in enumerate(names) if name == route]
        if len(hits) == 1:
            return hits[0]
        seen = "it is there more than once" if hits else f"its http routes are {listed}"
        raise WeightError(f"{title}: expected exactly one http route named '{route}', but {seen}.")
    if len(routes) != 1:
        raise WeightError(f"{title}: has {len(routes)} http routes ({listed}), expected one. Next: set the option route.")
    return 0


def _destination(place: int, entry: dict[str, Any]) -> Destination:
    target = entry.get("destination") or {}
    return Destination(place, str(target.get("host") or ""), str(target.get("subset") or ""), entry.get("weight"))


def _one(
    where: str, words: str, destinations: list[Destination], subset: str, host: str | None
) -> Destination:
    hits = [d for d in destinations if d.subset == subset and (not host or d.host == host)]
    if len(hits) == 1:
        return hits[0]
    of_host = f" of host '{host}'" if host else ""
    count = "more than once" if hits else "not at all"
    raise WeightError(
        f"{where}: expected subset '{subset}'{of_host} exactly once, found {count} (destinations: {words}). "
        f"Next: give the route both subsets in Git, with weight 0 for the new one."
    )


def _weights(
    where: str, words: str, destinations: list[Destination], stable: Destination, canary: Destination
) -> Weights:
    if len(destinations) == 1:
        raise WeightError(f"{where}: has one destination ({words}), expected two.")
    values = [d.weight or 0 for d in destinations]
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in values) or sum(values) != FULL:
        raise WeightError(f"{where}: weights are {words}, expected whole numbers that sum to 100.")
    others = [d for d in destinations if d.index not in (stable.index, canary.index) and d.weight]
    if others:
        extra = ", ".join(f"{d.subset or d.host}={d.weight}" for d in others)
        raise WeightError(f"{where}: other destinations carry traffic ({extra}), expected only stable and canary.")
    return Weights(stable.weight or 0, canary.weight or 0)


def patch_operations(virtual_service: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
    """Return the JSON Patch that changes the two weights and nothing else, under test-and-set.

    ``test`` pins the route, both destinations and both old weights; the ``replace`` of resourceVersion turns a lost race
    into a proper 409 Conflict, where a failed ``test`` would answer a mute 422.
    """
    base = f"/spec/http/{route.index}"
    operations: list[dict[str, Any]] = []
    if route.name:
        operations.append({"op": "test", "path": f"{base}/name", "value": route.name})
    for destination, weight in ((route.stable, target.stable), (route.canary, target.canary)):
        place = f"{base}/route/{destination.index}"
        operations.append({"op": "test", "path": f"{place}/destination/host", "value": destination.host})
        operations.append({"op": "test", "path": f"{place}/destination/subset", "value": destination.subset})
        if destination.weight is None:
            operations.append({"op": "add", "path": f"{place}/weight", "value": weight})
        else:
            operations.append({"op": "test", "path": f"{place}/weight", "value": destination.weight})
            operations.append({"op": "replace", "path": f"{place}/weight", "value": weight})
    version = virtual_service["metadata"]["resourceVersion"]
    operations.append({"op": "replace", "path": "/metadata/resourceVersion", "value": version})
    return operations


def last_writer(virtual_service: dict[str, Any]) -> dict[str, str]:
    """Return ``{manager, time}`` of the newest writer of the routes, from managedFields.

    A manager's name is a claim of the client, not an identity; the user's name is only in the audit log.
    """
    newest: dict[str, str] = {"manager": "unknown", "time": ""}
    for entry in (virtual_service.get("metadata") or {}).get("managedFields") or []:
        if "f:http" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            when = str(entry.get("time") or "")
            if when >= newest["time"]:
                newest = {"manager": str(entry.get("manager") or "unknown"), "time": when}
    return newest


def subset_labels(destination_rules: list[dict[str, Any]], host: str, namespace: str) -> dict[str, dict[str, str]]:
    """Return ``{subset: labels}`` that the DestinationRules define for ``host``."""
    found: dict[str, dict[str, str]] = {}
    for rule in destination_rules:
        spec = rule.get("spec") or {}
        if full_host(str(spec.get("host") or ""), namespace) != full_host(host, namespace):
            continue
        for subset in spec.get("subsets") or []:
            found[str(subset.get("name"))] = dict(subset.get("labels") or {})
    return found


def full_host(host: str, namespace: str) -> str:
    """Return the fully qualified service name that Istio makes of ``host``."""
    if "." in host or not host:
        return host
    return f"{host}.{namespace}.svc.cluster.local"


def envoy_weights(
    config_dump: dict[str, Any], virtual_service: str, namespace: str, route: str, host: str, stable: str, canary: str
) -> list[Weights]:
    """Return what one Envoy has for the managed route, one entry per virtual host it appears in.

    ``config_dump`` is the admin interface's ``/config_dump?resource=dynamic_route_configs``. A weight of 0 is absent from
    Envoy's config, and 100/0 shows as a plain ``cluster``. Shares are given out of 100 whatever the total is.
    """
    origin = f"/namespaces/{namespace}/virtual-service/{virtual_service}"
    service = full_host(host, namespace)
    shown: list[Weights] = []
    for config in config_dump.get("configs") or []:
        for virtual_host in (config.get("route_config") or {}).get("virtual_hosts") or []:
            for entry in virtual_host.get("routes") or []:
                if route and entry.get("name") != route:
                    continue
                istio = ((entry.get("metadata") or {}).get("filter_metadata") or {}).get("istio") or {}
                if not str(istio.get("config") or "").endswith(origin):
                    continue
                shares = _envoy_shares(entry.get("route") or {})
                shown.append(Weights(_share(shares, stable, service), _share(shares, canary, service)))
    return shown


def _envoy_shares(action: dict[str, Any]) -> dict[str, int]:
    if action.get("cluster"):
        return {str(action["cluster"]): FULL}
    clusters = (action.get("weighted_clusters") or {}).get("clusters") or []
    total = sum(int(entry.get("weight") or 0) for entry in clusters) or 1
    return {str(entry.get("name")): round(int(entry.get("weight") or 0) * FULL / total) for entry in clusters}


def _share(shares: dict[str, int], subset: str, service: str) -> int:
    # Istio's cluster names read "outbound|80|v1|service.namespace.svc.cluster.local".
    return sum(
        value
        for name, value in shares.items()
        if name.split("|")[2:3] == [subset] and name.split("|")[3:4] == [service]
    )


def pod_is_ready(pod: dict[str, Any]) -> bool:
    """Whether ``pod`` is ready and not being deleted."""
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
