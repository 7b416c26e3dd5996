# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about the Gateway API's HTTPRoute and Gateway as Istio reads them. Private to this collection."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _weights
from ansible_collections.signal.rollout.plugins.module_utils._weights import Destination, Route, WeightError, Weights

KIND = "HTTPRoute"
GROUP = ("gateway.networking.k8s.io", "v1")
PLURAL = "httproutes"
# The field of spec whose last writer is the one who set the weights. The schema makes it one atomic leaf.
FIELD = "rules"
CONTROLLER = "istio.io/gateway-controller"
_DEFAULT_MATCHES = [{"path": {"type": "PathPrefix", "value": "/"}}]


def title_of(document: dict[str, Any]) -> str:
    metadata = document.get("metadata") or {}
    return f"{KIND} {metadata.get('namespace')}/{metadata.get('name')}"


def read_route(document: dict[str, Any], rule: str | None, stable: str, canary: str, extra: str = "refuse") -> Route:
    """Return the managed rule of an HTTPRoute.

    ``rule`` may be None when there is exactly one. ``stable`` and ``canary`` are the names of the Services behind it. Raises
    :class:`WeightError`, quoting the object's own words, for everything that cannot be managed safely.
    """
    title = title_of(document)
    if stable == canary:
        raise WeightError(f"{title}: stable and canary are both '{stable}', expected two different Services.")
    namespace = str((document.get("metadata") or {}).get("namespace") or "")
    rules = (document.get("spec") or {}).get("rules") or []
    names = [str(entry.get("name") or "") for entry in rules]
    index = _weights.only_index(title, "rule", names, rule)
    _refuse_unreachable(title, rules, index)
    where = f"{title}, rule '{names[index] or index}'"
    destinations = [_destination(place, entry, namespace) for place, entry in enumerate(rules[index].get("backendRefs") or [])]
    hits = {name: [d for d in destinations if d.host == name and d.service] for name in (stable, canary)}
    first, second = _weights.two_of(where, "backend Service", hits, destinations)
    return Route(index, names[index], first, second, _weights.kept_share(where, destinations, first, second, extra))


def _destination(place: int, entry: dict[str, Any], namespace: str) -> Destination:
    name, written = str(entry.get("name") or ""), entry.get("weight")
    is_service = (entry.get("group") or "", entry.get("kind") or "Service") == ("", "Service")
    service = f"{name}.{entry.get('namespace') or namespace}.svc.cluster.local" if is_service else ""
    # The Gateway API counts a backend without a weight as 1, where Istio's own API counts 0.
    return Destination(place, name, name, service, "", 1 if written is None else written, written, entry.get("port"))


def _refuse_unreachable(title: str, rules: list[dict[str, Any]], index: int) -> None:
    """Precedence goes by how specific a match is, and by order only among equal ones: the first of them gets the request."""
    mine = _matches(rules[index])
    for place, entry in enumerate(rules[:index]):
        if mine <= _matches(entry):
            first, managed = str(entry.get("name") or place), str(rules[index].get("name") or index)
            raise WeightError(
                f"{title}: rule '{first}' comes first and has the same matches, so that '{managed}' is never reached. "
                f"Expected matches of its own for '{managed}'. Next: correct the rules in Git."
            )


def _matches(entry: dict[str, Any]) -> set[str]:
    matches = [{**_DEFAULT_MATCHES[0], **match} for match in entry.get("matches") or _DEFAULT_MATCHES]
    return {json.dumps(match, sort_keys=True) for match in matches}


def patch_operations(document: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
    """Return the JSON Patch that changes the two weights and nothing else, under test-and-set.

    uid and generation stand for the object's version: the controller's status moves resourceVersion by itself, right after our own
    write. A lost race answers a mute 422.
    """
    metadata = document["metadata"]
    operations: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/generation", "value": metadata["generation"]},
        *_tests(route),
    ]
    for place, destination, weight in zip(_places(route), (route.stable, route.canary), (target.stable, target.canary), strict=True):
        operations.extend(_weights.weight_operations(place, destination, weight))
    return operations


def break_glass(document: dict[str, Any], route: Route) -> str:
    """Return the line that puts traffic back by hand; see :func:`_weights.break_glass`."""
    return _weights.break_glass("httproute.gateway.networking.k8s.io", document, route, _tests(route), _places(route))


def _places(route: Route) -> tuple[str, str]:
    base = f"/spec/rules/{route.index}/backendRefs"
    return f"{base}/{route.stable.index}", f"{base}/{route.canary.index}"


def _tests(route: Route) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = []
    if route.name:
        tests.append({"op": "test", "path": f"/spec/rules/{route.index}/name", "value": route.name})
    for place, destination in zip(_places(route), (route.stable, route.canary), strict=True):
        tests.append({"op": "test", "path": f"{place}/name", "value": destination.host})
    return tests


def envoy_weights(config_dump: dict[str, Any], document: dict[str, Any], route: Route) -> list[Weights]:
    """Return what one Envoy has for ``route``; see :func:`_weights.envoy_weights`.

    istiod notes the gateway and the host name with an entry, but not the HTTPRoute: routes of one host are merged. So the rule's
    name and the Services must say which entry is meant. A rule without a name gets one of namespace, name and place.
    """
    metadata = document["metadata"]
    name = route.name or f"{metadata['namespace']}.{metadata['name']}.{route.index}"
    shown = _weights.envoy_weights(config_dump, route, lambda config: _is_origin(config, document), name)
    return [weights for weights in shown if weights.stable or weights.canary]


def _is_origin(config: str, document: dict[str, Any]) -> bool:
    """Whether istiod made ``config`` (the name of a VirtualService of its own) for one of the route's parents."""
    own = document["metadata"]["namespace"]
    for kind, namespace, name in parents_of(document):
        if kind == "Gateway" and f"/virtual-service/{namespace}~{name}~istio-autogenerated-k8s-gateway~" in config:
            return True
        # For sidecars it is named by the route's namespace, perhaps a port, and the host of the parent Service.
        if kind == "Service" and f"/virtual-service/{own}~" in config and f"~{name}.{namespace}.svc." in config:
            return True
    return False


def parents_of(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return ``(kind, namespace, name)`` of every parent, each once."""
    parents = (document.get("spec") or {}).get("parentRefs") or []
    return list(dict.fromkeys(_parent(parent, document) for parent in parents))


def _parent(reference: dict[str, Any], document: dict[str, Any]) -> tuple[str, str, str]:
    namespace = str((document.get("metadata") or {}).get("namespace") or "")
    return str(reference.get("kind") or "Gateway"), str(reference.get("namespace") or namespace), str(reference.get("name") or "")


def gateways_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return ``(namespace, name)`` of every Gateway the route hangs on, each once."""
    return [(namespace, name) for kind, namespace, name in parents_of(document) if kind == "Gateway"]


def carriers(document: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether gateways and whether sidecars carry the route: a parent that is a Service stands for the mesh (GAMMA)."""
    kinds = [kind for kind, _namespace, _name in parents_of(document)]
    return "Gateway" in kinds, "Service" in kinds


def status_lags(document: dict[str, Any]) -> bool:
    """Whether the controller has not yet judged the newest generation of a route, or of a Gateway."""
    generation = (document.get("metadata") or {}).get("generation")
    return any((condition.get("observedGeneration") or 0) != generation for condition in _conditions(document))


def _conditions(document: dict[str, Any]) -> list[dict[str, Any]]:
    status = document.get("status") or {}
    if document.get("kind") == "Gateway":
        return [c for c in status.get("conditions") or [] if c.get("type") == "Programmed"]
    ours = [parent for parent in status.get("parents") or [] if parent.get("controllerName") == CONTROLLER]
    return [c for parent in ours for c in parent.get("conditions") or [] if c.get("type") in ("Accepted", "ResolvedRefs")]


def refuse_unusable(document: dict[str, Any], gateways: list[dict[str, Any]]) -> None:
    """Raise :class:`WeightError`, with the condition's own reason and message, unless the route is accepted and every Gateway works.

    A route looks healthy behind a Gateway that is not programmed, so both are asked.
    """
    title = title_of(document)
    if not parents_of(document):
        raise WeightError(f"{title}: hangs on nothing, expected a Gateway or a Service in spec.parentRefs. Next: correct the route in Git.")
    for gateway in gateways:
        metadata = gateway["metadata"]
        _refuse_conditions(f"{title}: Gateway {metadata['namespace']}/{metadata['name']}", gateway, _conditions(gateway), ("Programmed",))
    judged = [parent for parent in (document.get("status") or {}).get("parents") or [] if parent.get("controllerName") == CONTROLLER]
    for parent in parents_of(document):
        mine = [entry for entry in judged if _parent(entry.get("parentRef") or {}, document) == parent]
        if not mine:
            kind, namespace, name = parent
            raise WeightError(
                f"{title}: its status does not mention {kind} {namespace}/{name}; expected Accepted and ResolvedRefs to be True. "
                "Next: check spec.parentRefs, and that istiod runs."
            )
        for entry in mine:
            _refuse_conditions(title, document, entry.get("conditions") or [], ("Accepted", "ResolvedRefs"))


def _refuse_conditions(who: str, document: dict[str, Any], conditions: list[dict[str, Any]], types: tuple[str, ...]) -> None:
    generation = document["metadata"].get("generation")
    for kind in types:
        condition = next((c for c in conditions if c.get("type") == kind), None)
        if condition is None:
            seen = f"has no condition {kind}"
        elif (condition.get("observedGeneration") or 0) != generation:
            seen = f"has {kind}={condition.get('status')} for generation {condition.get('observedGeneration')}, it is at {generation}"
        elif condition.get("status") != "True":
            seen = f"has {kind}={condition.get('status')}, {condition.get('reason')}: {condition.get('message')}"
        else:
            continue
        raise WeightError(f"{who} {seen}. Expected {kind}=True. Nothing was written. Next: repair what the condition names.")
