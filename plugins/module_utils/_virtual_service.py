# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about Istio's VirtualService and DestinationRule. Private to this collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _weights
from ansible_collections.signal.rollout.plugins.module_utils._weights import Destination, Route, WeightError, Weights

KIND = "VirtualService"
GROUP = ("networking.istio.io", "v1")
PLURAL = "virtualservices"
# The field of spec whose last writer is the one who set the weights. Istio's schema makes it one atomic leaf.
FIELD = "http"
_EVERY_PATH = ({"prefix": "/"}, {"regex": ".*"}, {"regex": "/.*"})


def title_of(document: dict[str, Any]) -> str:
    metadata = document.get("metadata") or {}
    return f"{KIND} {metadata.get('namespace')}/{metadata.get('name')}"


def read_route(
    document: dict[str, Any], route: str | None, host: str | None, stable: str, canary: str, extra: str = "refuse"
) -> Route:
    """Return the managed HTTP route of a VirtualService.

    ``route`` may be None when there is exactly one; ``host`` when both subsets have the same one. ``stable`` and ``canary`` are
    subsets, or hosts of destinations without subset. Raises :class:`WeightError`, quoting the object's own words, for everything
    that cannot be managed safely.
    """
    title = title_of(document)
    if stable == canary:
        raise WeightError(f"{title}: stable and canary are both '{stable}', expected two different destinations.")
    namespace = str((document.get("metadata") or {}).get("namespace") or "")
    routes = (document.get("spec") or {}).get("http") or []
    names = [str(entry.get("name") or "") for entry in routes]
    index = _weights.only_index(title, "http route", names, route)
    _refuse_unreachable(title, routes, index)
    where = f"{title}, route '{names[index] or index}'"
    destinations = [_destination(place, entry, namespace) for place, entry in enumerate(routes[index].get("route") or [])]
    hits = {name: [d for d in destinations if _is_meant(d, name, host, namespace)] for name in (stable, canary)}
    of_host = f" of host '{host}'" if host else ""
    first, second = _weights.two_of(where, f"subset{of_host} or host", hits, destinations)
    if (first.subset or second.subset) and first.service != second.service:
        raise WeightError(
            f"{where}: '{stable}' and '{canary}' belong to different hosts ({first.host}, {second.host}). "
            "Next: set the option destination_host."
        )
    return Route(index, names[index], first, second, _weights.kept_share(where, destinations, first, second, extra))


def _destination(place: int, entry: dict[str, Any], namespace: str) -> Destination:
    target = entry.get("destination") or {}
    host, subset = str(target.get("host") or ""), str(target.get("subset") or "")
    written = entry.get("weight")
    # Without a weight a destination gets nothing, once there is a second one.
    return Destination(place, subset or host, host, _weights.full_host(host, namespace), subset, written or 0, written, _port_of(target))


def _port_of(target: dict[str, Any]) -> int | None:
    return (target.get("port") or {}).get("number")


def _is_meant(destination: Destination, name: str, host: str | None, namespace: str) -> bool:
    if host and destination.service != _weights.full_host(host, namespace):
        return False
    if destination.subset:
        return destination.subset == name
    return destination.service == _weights.full_host(name, namespace)


def _refuse_unreachable(title: str, routes: list[dict[str, Any]], index: int) -> None:
    """Istio takes the first HTTP route that matches: what stands behind one that takes everything is never reached."""
    for place, entry in enumerate(routes[:index]):
        if _takes_everything(entry):
            first, managed = str(entry.get("name") or place), str(routes[index].get("name") or index)
            raise WeightError(
                f"{title}: http route '{first}' comes first and matches every request, so that '{managed}' is never reached. "
                f"Expected '{managed}' before it. Next: correct the order of the http routes in Git."
            )


def _takes_everything(entry: dict[str, Any]) -> bool:
    matches = entry.get("match")
    if not matches:
        return True
    for match in matches:
        conditions = {key: value for key, value in match.items() if key not in ("name", "ignoreUriCase", "statPrefix") and value}
        if not conditions or (set(conditions) == {"uri"} and conditions["uri"] in _EVERY_PATH):
            return True
    return False


def patch_operations(document: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
    """Return the JSON Patch that changes the two weights and nothing else, under test-and-set.

    ``test`` pins the route, both destinations and both old weights; the ``replace`` of resourceVersion turns a lost race
    into a proper 409 Conflict, where a failed ``test`` would answer a mute 422.
    """
    operations = _tests(route)
    for place, destination, weight in zip(_places(route), (route.stable, route.canary), (target.stable, target.canary), strict=True):
        operations.extend(_weights.weight_operations(place, destination, weight))
    version = document["metadata"]["resourceVersion"]
    operations.append({"op": "replace", "path": "/metadata/resourceVersion", "value": version})
    return operations


def break_glass(document: dict[str, Any], route: Route) -> str:
    """Return the line that puts traffic back by hand; see :func:`_weights.break_glass`."""
    return _weights.break_glass("virtualservice", document, route, _tests(route), _places(route))


def _places(route: Route) -> tuple[str, str]:
    base = f"/spec/http/{route.index}/route"
    return f"{base}/{route.stable.index}", f"{base}/{route.canary.index}"


def _tests(route: Route) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = []
    if route.name:
        tests.append({"op": "test", "path": f"/spec/http/{route.index}/name", "value": route.name})
    for place, destination in zip(_places(route), (route.stable, route.canary), strict=True):
        tests.append({"op": "test", "path": f"{place}/destination/host", "value": destination.host})
        if destination.subset:
            tests.append({"op": "test", "path": f"{place}/destination/subset", "value": destination.subset})
    return tests


def envoy_weights(config_dump: dict[str, Any], document: dict[str, Any], route: Route) -> list[Weights]:
    """Return what one Envoy has for ``route``; see :func:`_weights.envoy_weights`."""
    metadata = document["metadata"]
    origin = f"/namespaces/{metadata['namespace']}/virtual-service/{metadata['name']}"
    return _weights.envoy_weights(config_dump, route, lambda config: config.endswith(origin), route.name)


def carriers(document: dict[str, Any], index: int) -> tuple[bool, bool]:
    """Return whether gateways and whether sidecars carry the HTTP route at ``index``.

    The matches of a route may narrow what the object says.
    """
    spec = document.get("spec") or {}
    names = set(spec.get("gateways") or ["mesh"])
    matches = (spec.get("http") or [])[index].get("match") or []
    narrowed = [set(match.get("gateways") or names) for match in matches]
    if narrowed:
        names = set().union(*narrowed)
    return bool(names - {"mesh"}), "mesh" in names


def is_for_sidecars_only(document: dict[str, Any]) -> bool:
    """Whether no gateway has this VirtualService. Without ``gateways`` Istio takes the reserved name ``mesh``."""
    gateways = (document.get("spec") or {}).get("gateways") or ["mesh"]
    return list(gateways) == ["mesh"]


def subset_labels(destination_rules: list[dict[str, Any]], service: str, viewer: str) -> dict[str, dict[str, str]] | None:
    """Return ``{subset: labels}`` of ``service`` as a proxy in namespace ``viewer`` sees the rules, None when none is for it.

    A rule's host may be short (of the rule's namespace) or begin with a wildcard; exact hosts win, then the longest wildcard.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for rule in destination_rules:
        namespace = str((rule.get("metadata") or {}).get("namespace") or "")
        spec = rule.get("spec") or {}
        host = _weights.full_host(str(spec.get("host") or ""), namespace)
        if not _is_exported(spec.get("exportTo"), namespace, viewer) or not _host_matches(host, service):
            continue
        subsets = found.setdefault(host, {})
        for subset in spec.get("subsets") or []:
            subsets[str(subset.get("name"))] = dict(subset.get("labels") or {})
    if not found:
        return None
    return found[max(found, key=lambda host: (host == service, len(host)))]


def _host_matches(host: str, service: str) -> bool:
    return service.endswith(host[1:]) if host.startswith("*") else host == service


def _is_exported(export_to: list[str] | None, namespace: str, viewer: str) -> bool:
    if not export_to or "*" in export_to or viewer in export_to:
        return True
    return "." in export_to and namespace == viewer
