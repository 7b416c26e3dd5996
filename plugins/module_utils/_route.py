# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of route objects behind one face: read, what must hold before a write, what to write. Private to this collection.

The rules themselves are pure and stand in ``_virtual_service.py`` and ``_http_route.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.signal.rollout.plugins.module_utils import _http_route, _kube, _virtual_service, _weights
from ansible_collections.signal.rollout.plugins.module_utils._weights import Destination, Route, WeightError, Weights

KINDS = (_virtual_service.KIND, _http_route.KIND)
# Where Istio looks for DestinationRules after the service's own namespace.
ROOT_NAMESPACE = "istio-system"
# istiod writes the status of a route about 0.1 s after the route itself; a busy one needs longer.
_STATUS_SECONDS = 3.0
_STATUS_POLL = 0.05


@dataclass(frozen=True)
class Behind:
    """The pods behind one destination, and the labels that every one of them carries. ``namespace`` is theirs."""

    namespace: str
    labels: dict[str, str]
    pods: list[dict[str, Any]]


class RouteObject(Protocol):
    """One route object, of whatever kind. ``document`` is what :meth:`read` returned, ``route`` what :meth:`rule` made of it."""

    title: str
    path: str

    def rule(self, document: dict[str, Any]) -> Route:
        """Return the managed rule with its weights; raises :class:`WeightError`."""

    def operations(self, document: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
        """Return the JSON Patch under preconditions; see the kinds' own ``patch_operations``."""

    def writer(self, document: dict[str, Any]) -> dict[str, str]:
        """Return ``manager`` and ``time`` of the last writer of the weights."""

    def shown(self, config_dump: dict[str, Any], document: dict[str, Any], route: Route) -> list[Weights]:
        """Return what one Envoy has for the rule; see :func:`_weights.envoy_weights`."""

    def carriers(self, document: dict[str, Any], route: Route) -> tuple[bool, bool]:
        """Return whether gateways and whether sidecars carry the rule."""

    def break_glass(self, document: dict[str, Any], route: Route) -> str:
        """Return a kubectl line that puts traffic back without this collection."""

    def refuse_unusable(self, document: dict[str, Any]) -> None:
        """Raise :class:`WeightError` when the mesh does not take this object as it stands."""

    def ready_endpoints(self, document: dict[str, Any], destination: Destination) -> set[str]:
        """Return what is ready behind ``destination``; raises :class:`WeightError` when the mesh does not know it."""

    def behind(self, document: dict[str, Any], destination: Destination) -> Behind:
        """Return the pods behind ``destination``, ready or not, none for one that the mesh does not know."""


def of(params: dict[str, Any], kube: _kube.Kube) -> RouteObject:
    """Return the adapter for the route that ``params`` names (the options of canary_weight)."""
    if params["kind"] == _http_route.KIND:
        return HTTPRoute(params, kube)
    return VirtualService(params, kube)


def read(route: RouteObject, kube: _kube.Kube) -> dict[str, Any]:
    """Return the route object; raises :class:`WeightError` when it does not exist."""
    found = kube.find(route.path)
    if found is None:
        raise WeightError(
            f"{route.title} does not exist. Next: create it with both destinations, or check the options kind, name and namespace."
        )
    return found


class _Services:
    """Services with what is behind them, each asked for once."""

    def __init__(self, title: str, kube: _kube.Kube) -> None:
        self._title = title
        self._kube = kube
        self._documents: dict[str, dict[str, Any] | None] = {}
        self._found: dict[str, Behind] = {}
        self._ready: dict[str, set[str]] = {}

    def ready_endpoints(self, destination: Destination) -> set[str]:
        """Return what is ready behind a destination's Service; see :func:`_weights.ready_endpoints`.

        The EndpointSlices are what istiod sends to the proxies. A pod may be ready a little before it is in them.
        """
        service = destination.service
        name, namespace = _service_of(self._title, service)
        if destination.port is not None:
            self._refuse_port(destination, f"{namespace}/{name}")
        if service not in self._ready:
            base = _kube.path_of("discovery.k8s.io", "v1", "endpointslices", namespace)
            slices = self._kube.list(base, {"labelSelector": f"kubernetes.io/service-name={name}"})
            if not slices:
                self._require(service, f"{namespace}/{name}")
            self._ready[service] = _weights.ready_endpoints(slices)
        return self._ready[service]

    def _refuse_port(self, destination: Destination, title: str) -> None:
        """istiod reports no wrong port: the proxies would have no cluster for it, and answer 5xx."""
        ports = [entry.get("port") for entry in (self._require(destination.service, title).get("spec") or {}).get("ports") or []]
        if destination.port not in ports:
            listed = ", ".join(map(str, ports)) or "none"
            raise WeightError(
                f"{self._title}: destination '{destination.name}' names port {destination.port}, but Service {title} has {listed}. "
                "Next: correct the port in Git."
            )

    def _require(self, service: str, title: str) -> dict[str, Any]:
        found = self._find(service)
        if found is None:
            raise WeightError(f"{self._title}: Service {title} does not exist. Next: create it first; the proxies answer 5xx without it.")
        return found

    def _find(self, service: str) -> dict[str, Any] | None:
        if service not in self._documents:
            name, namespace = _service_of(self._title, service)
            self._documents[service] = self._kube.find(_kube.path_of("", "v1", "services", namespace, name))
        return self._documents[service]

    def pods(self, service: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        """Return the pods with all ``labels`` in the Service's namespace; no labels give none."""
        _name, namespace = _service_of(self._title, service)
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return self._kube.list(_kube.path_of("", "v1", "pods", namespace), {"labelSelector": selector}) if selector else []

    def behind(self, service: str) -> Behind:
        """Return the pods that a Service selects, ready or not."""
        if service not in self._found:
            _name, namespace = _service_of(self._title, service)
            found = self._find(service)
            selector = ((found or {}).get("spec") or {}).get("selector") or {}
            self._found[service] = Behind(namespace, selector, self.pods(service, selector))
        return self._found[service]


def _service_of(title: str, service: str) -> tuple[str, str]:
    parts = service.split(".")
    if len(parts) < 3 or parts[2] != "svc":
        raise WeightError(
            f"{title}: destination '{service or 'that is no Service'}' is no Service of the cluster, so its endpoints cannot be seen. "
            "Expected a host such as service.namespace.svc.cluster.local."
        )
    return parts[0], parts[1]


class VirtualService:
    """A route of Istio's own API."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube) -> None:
        self._params = params
        self._kube = kube
        self._subsets_of: dict[str, dict[str, dict[str, str]]] = {}
        self._looked: list[str] = []
        self.path = _kube.path_of(*_virtual_service.GROUP, _virtual_service.PLURAL, params["namespace"], params["name"])
        self.title = f"{_virtual_service.KIND} {params['namespace']}/{params['name']}"
        self._services = _Services(self.title, kube)

    def rule(self, document: dict[str, Any]) -> Route:
        names = self._params
        return _virtual_service.read_route(
            document, names.get("route"), names.get("destination_host"), names["stable"], names["canary"], _extra(names)
        )

    def operations(self, document: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
        return _virtual_service.patch_operations(document, route, target)

    def writer(self, document: dict[str, Any]) -> dict[str, str]:
        return _weights.last_writer(document, _virtual_service.FIELD)

    def shown(self, config_dump: dict[str, Any], document: dict[str, Any], route: Route) -> list[Weights]:
        return _virtual_service.envoy_weights(config_dump, document, route)

    def carriers(self, document: dict[str, Any], route: Route) -> tuple[bool, bool]:
        return _virtual_service.carriers(document, route.index)

    def break_glass(self, document: dict[str, Any], route: Route) -> str:
        return _virtual_service.break_glass(document, route)

    def refuse_unusable(self, document: dict[str, Any]) -> None:
        """Istio gives a VirtualService no status to look at."""

    def ready_endpoints(self, document: dict[str, Any], destination: Destination) -> set[str]:
        if not destination.subset:
            return self._services.ready_endpoints(destination)
        subsets = self._subsets(document, destination.service)
        if destination.subset not in subsets:
            known = ", ".join(sorted(subsets)) or "none"
            raise WeightError(
                f"{self.title}: no DestinationRule in namespace {' or '.join(self._looked)} defines subset '{destination.subset}' of host "
                f"{destination.host} (subsets there: {known}). Next: add the subset first; Envoy answers 503 without it."
            )
        ready = self._services.ready_endpoints(destination)
        if not subsets[destination.subset]:
            # A subset without labels is everything that the host has.
            return ready
        return ready & {str(pod["metadata"]["name"]) for pod in self._services.pods(destination.service, subsets[destination.subset])}

    def behind(self, document: dict[str, Any], destination: Destination) -> Behind:
        """A subset is never more than what the Service selects."""
        found = self._services.behind(destination.service)
        if not destination.subset:
            return found
        labels = self._subsets(document, destination.service).get(destination.subset)
        if labels is None:
            return Behind(found.namespace, {}, [])
        pods = [pod for pod in found.pods if labels.items() <= (pod["metadata"].get("labels") or {}).items()]
        return Behind(found.namespace, {**labels, **found.labels}, pods)

    def _subsets(self, document: dict[str, Any], service: str) -> dict[str, dict[str, str]]:
        """Istio takes the rules of the service's namespace, and those of the root namespace when there is none."""
        if service not in self._subsets_of:
            self._subsets_of[service] = self._read_subsets(document, service)
        return self._subsets_of[service]

    def _read_subsets(self, document: dict[str, Any], service: str) -> dict[str, dict[str, str]]:
        _name, namespace = _service_of(self.title, service)
        own = self._params["namespace"]
        for_sidecars = _virtual_service.is_for_sidecars_only(document)
        # A sidecar sees the rules of its own namespace first; which one that is, only the route's can stand for.
        viewer, places = (own, [own, namespace]) if for_sidecars else (self._params["confirm"]["namespace"], [namespace])
        self._looked = []
        for place in dict.fromkeys([*places, ROOT_NAMESPACE]):
            try:
                rules = self._kube.list(_kube.path_of(*_virtual_service.GROUP, "destinationrules", place))
            except _kube.KubeError as error:
                if error.status != 403:
                    raise
                self._looked.append(f"{place} (may not be read: 403)")
                continue
            self._looked.append(place)
            subsets = _virtual_service.subset_labels(rules, service, viewer)
            if subsets is not None:
                return subsets
        return {}


class HTTPRoute:
    """A route of the Gateway API."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube) -> None:
        self._params = params
        self._kube = kube
        self.path = _kube.path_of(*_http_route.GROUP, _http_route.PLURAL, params["namespace"], params["name"])
        self.title = f"{_http_route.KIND} {params['namespace']}/{params['name']}"
        self._services = _Services(self.title, kube)

    def rule(self, document: dict[str, Any]) -> Route:
        names = self._params
        if names.get("destination_host"):
            raise WeightError(
                f"{self.title}: destination_host is '{names['destination_host']}', but a backend of an HTTPRoute is named by its Service. "
                "Expected no destination_host with this kind. Next: leave the option out."
            )
        return _http_route.read_route(document, names.get("route"), names["stable"], names["canary"], _extra(names))

    def operations(self, document: dict[str, Any], route: Route, target: Weights) -> list[dict[str, Any]]:
        return _http_route.patch_operations(document, route, target)

    def writer(self, document: dict[str, Any]) -> dict[str, str]:
        return _weights.last_writer(document, _http_route.FIELD)

    def shown(self, config_dump: dict[str, Any], document: dict[str, Any], route: Route) -> list[Weights]:
        return _http_route.envoy_weights(config_dump, document, route)

    def carriers(self, document: dict[str, Any], route: Route) -> tuple[bool, bool]:
        return _http_route.carriers(document)

    def break_glass(self, document: dict[str, Any], route: Route) -> str:
        return _http_route.break_glass(document, route)

    def refuse_unusable(self, document: dict[str, Any]) -> None:
        """Wait for the controller's judgement of this generation, then hold it and the Gateways' own against the rules."""
        gateways = [self._gateway(namespace, name) for namespace, name in _http_route.gateways_of(document)]
        deadline = time.monotonic() + _STATUS_SECONDS
        while _http_route.status_lags(document) and time.monotonic() < deadline:
            time.sleep(_STATUS_POLL)
            # Only the status is taken over: what is written stays tied to the generation that was read first.
            newer = read(self, self._kube)
            if newer["metadata"]["generation"] != document["metadata"]["generation"]:
                # Somebody else is writing: the write's own preconditions will show it, and then the newer one is judged.
                return
            document = {**document, "status": newer.get("status")}
        _http_route.refuse_unusable(document, gateways)

    def _gateway(self, namespace: str, name: str) -> dict[str, Any]:
        found = self._kube.find(_kube.path_of(*_http_route.GROUP, "gateways", namespace, name))
        if found is None:
            raise WeightError(
                f"{self.title}: its parent Gateway {namespace}/{name} does not exist, expected one that is Programmed. "
                "Next: create the Gateway, or correct spec.parentRefs."
            )
        return found

    def ready_endpoints(self, document: dict[str, Any], destination: Destination) -> set[str]:
        return self._services.ready_endpoints(destination)

    def behind(self, document: dict[str, Any], destination: Destination) -> Behind:
        return self._services.behind(destination.service)


def _extra(params: dict[str, Any]) -> str:
    return str(params.get("extra_destinations") or "refuse")
