# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: the route, and whether the mesh takes what the release will ask of it. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _kube,
    _manifests,
    _mesh_rules,
    _preflight_cluster,
    _route,
    _virtual_service,
    _weights,
)
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import Ask, Problem, Site

_RESOURCES = {
    "VirtualService": {"group": "networking.istio.io", "resource": "virtualservices"},
    "HTTPRoute": {"group": "gateway.networking.k8s.io", "resource": "httproutes"},
}
_ISTIO_SECURITY = ("security.istio.io", "v1")


def check_traffic_route(site: Site, problem: Ask) -> Iterator[Problem]:
    try:
        routes = _routes(site)
    except _weights.WeightError as error:
        yield problem("traffic_route.others", "the routes of this release", "each is named once", *_words(error), "take the double out")
        return
    # The main route's is among the rights that the release lists.
    moved_too = [{"verb": "patch", **_RESOURCES[one["kind"]], "namespace": one["namespace"], "name": one["name"]} for one in routes[1:]]
    if moved_too:
        yield from _preflight_cluster.refused(site, problem, moved_too)
    for one in routes:
        yield from _check_route(site, problem, _route.of(one, site.kube()))


def _routes(site: Site) -> list[dict[str, Any]]:
    """The routes of the release, each with its options; raises :class:`_weights.WeightError` when one is named twice."""
    wanted = site.params["traffic_route"]
    return _canary_weight.each_route({**wanted, "namespace": site.namespace, "confirm": {"namespace": wanted["gateway_namespace"]}})


def _check_route(site: Site, problem: Ask, found: _route.RouteObject) -> Iterator[Problem]:
    try:
        document = _route.read(found, site.kube())
    except _weights.WeightError:
        yield problem("traffic_route.name", found.title, "the route exists", "none of this name", "an existing one", "correct the name")
        return
    rule = "one rule with both destinations, whose weights are whole numbers that sum to 100"
    try:
        route = found.rule(document)
    except _weights.WeightError as error:
        yield problem("traffic_route", found.title, rule, *_words(error, found.title), "correct the object where it is kept")
        return
    # Where several routes move together, one line puts each of them back, whatever becomes of the others.
    site.facts["break_glass"] = "; ".join(filter(None, (site.facts.get("break_glass"), found.break_glass(document, route))))
    try:
        found.refuse_unusable(document)
    except _weights.WeightError as error:
        yield problem("traffic_route", found.title, "the mesh takes the route", *_words(error, found.title), "repair what is named")
    for role, destination in (("stable", route.stable), ("canary", route.canary)):
        if role == "canary" and not destination.subset and ("Service", destination.host) in _kinds_and_names(site):
            # The release makes it before anything is sent there.
            continue
        try:
            found.ready_endpoints(document, destination)
        except _weights.WeightError as error:
            words = _words(error, found.title)
            yield problem(f"traffic_route.{role}", found.title, "the mesh knows every destination", *words, "add what is missing")


def _words(error: RolloutError, title: str = "") -> tuple[str, str]:
    """An error's own words as what was seen and what was expected."""
    seen = error.message.partition(" Next: ")[0].removeprefix(f"{title}, ").removeprefix(f"{title}: ")
    seen, _unused, expected = seen.partition(" Expected ")
    return one_line(seen, 280).rstrip("."), one_line(expected, 160).rstrip(".") or "both destinations, ready to take traffic"


def _kinds_and_names(site: Site) -> set[tuple[str, str]]:
    """Kind and name of everything the release brings; what is wrong with the manifests is another check's."""
    manifests, _unused = _manifests.read(site.params["manifests"] or [])
    return {(manifest.kind, manifest.name) for manifest in manifests}


def check_mesh(site: Site, problem: Ask) -> Iterator[Problem]:
    """Whether gateways carry the route, the canary's pods are the subset's, TLS fits on both sides, and the mesh accepts a new weight."""
    root = site.params["traffic_route"]["gateway_namespace"]
    known: list[str] = []
    for one in _routes(site):
        found = _route.of(one, site.kube())
        document = _route.read(found, site.kube())
        route = found.rule(document)
        if one["kind"] == _virtual_service.KIND:
            gateways = _gateways(site, document)
            if gateways is None:
                return
            yield from _check_gateways(site, problem, found.title, document, gateways, root)
            known.append(f"{len(gateways)} gateway(s)")
            tls = _check_tls(site, problem, found.title, route, root)
            if tls is None:
                return
            yield from tls
        yield from _check_labels(site, problem, found, document, route)
        # Never stored: the API server and istiod's webhook judge it and forget it.
        weights = route.weights
        step = 1 if weights.stable else -1
        target = _weights.Weights(weights.stable - step, weights.canary + step)
        try:
            site.kube().patch(found.path, found.operations(document, route, target), dry_run=True)
        except _kube.KubeError as error:
            if error.lost_race or error.status == 403:
                # The rights are another check's, and somebody else's write is no fault of the mesh.
                site.warnings.append(f"{found.title}: whether the mesh accepts a new weight could not be tried ({error.status}).")
                return
            yield problem(
                "traffic_route",
                found.title,
                "API server and mesh accept a new weight",
                one_line(error.message.partition(" Next: ")[0], 200),
                "a dry run that passes",
                "correct the object where it is kept",
            )
        known.append(f"a weight of {target.canary} accepted on trial")
    site.facts["evidence mesh"] = f"both destinations known, labels and TLS fit, {', '.join(known)}"


def _gateways(site: Site, document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    found = []
    for namespace, name in _mesh_rules.gateways_of(document):
        try:
            gateway = site.kube().find(_kube.path_of(*_virtual_service.GROUP, "gateways", namespace, name))
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            site.warnings.append(f"no right to read Gateway {namespace}/{name}, so it is not known whether it carries the route.")
            return None
        found.append(gateway or {"missing": f"{namespace}/{name}"})
    return found


def _check_gateways(
    site: Site, problem: Ask, title: str, document: Mapping[str, Any], gateways: Sequence[dict[str, Any]], place: str
) -> Iterator[Problem]:
    for gateway in gateways:
        if "missing" in gateway:
            yield problem(
                "traffic_route.name", title, "its gateways exist", f"no Gateway {gateway['missing']}", "one of this name", "create it, or correct the name"
            )
            continue
        selector = (gateway.get("spec") or {}).get("selector") or {}
        labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        pods = site.kube().list(_kube.path_of("", "v1", "pods", place), {"labelSelector": labels})
        if not any(map(_weights.pod_is_ready, pods)):
            yield problem(
                "traffic_route",
                f"Gateway {gateway['metadata']['namespace']}/{gateway['metadata']['name']}",
                "a proxy carries it",
                f"no ready pod with {labels or 'any label'} in namespace {place}",
                "at least one",
                "repair the gateway's pods, or correct its selector",
            )
    present = [gateway for gateway in gateways if "missing" not in gateway]
    unserved = _mesh_rules.unserved_hosts(document, present) if present else []
    if unserved:
        yield problem(
            "traffic_route", title, "its gateways take its hosts", f"no server for {', '.join(unserved)}", "a server with each host", "add it to the Gateway"
        )


def _check_labels(site: Site, problem: Ask, found: Any, document: Mapping[str, Any], route: Any) -> Iterator[Problem]:
    """The pods that the release brings must be those that the canary's destination means."""
    deployment = _brought(site)
    if deployment is None:
        return
    labels = (deployment.pod_template.get("metadata") or {}).get("labels") or {}
    behind = found.behind(document, route.canary)
    unlike = _mesh_rules.unlike(behind.labels, labels)
    if unlike:
        yield problem(
            "manifests",
            deployment.title,
            f"its pods are what the mesh means by '{route.canary.name}'",
            f"no label {', '.join(unlike)}",
            "all labels of the subset and of the Service",
            "correct the labels of the pods, or the subset",
        )


def _brought(site: Site) -> Any:
    deployments = [manifest for manifest in site.facts.get("manifests") or [] if manifest.kind == "Deployment"]
    version = site.params["version"]
    own = [entry for entry in deployments if ((entry.pod_template.get("metadata") or {}).get("labels") or {}).get("version") == version]
    return (own or deployments or [None])[0]


def _check_tls(site: Site, problem: Ask, title: str, route: Any, root: str) -> list[Any] | None:
    """What is wrong with TLS between proxies and pods. None when it cannot be known."""
    service = route.canary.service.split(".")
    place = service[1] if len(service) > 1 else site.namespace
    policies: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for namespace in dict.fromkeys((place, root)):
        for group, plural, into in ((_ISTIO_SECURITY, "peerauthentications", policies), (_virtual_service.GROUP, "destinationrules", rules)):
            try:
                into += site.kube().list(_kube.path_of(*group, plural, namespace))
            except _kube.KubeError as error:
                if error.status == 404:
                    continue
                if error.status != 403:
                    raise
                site.warnings.append(f"no right to list {plural} in namespace {namespace}, so it is not known whether TLS fits.")
                return None
    deployment = _brought(site)
    labels = ((deployment.pod_template.get("metadata") or {}).get("labels") or {}) if deployment else {}
    pods = site.kube().list(_kube.path_of("", "v1", "pods", place), {"labelSelector": ",".join(f"{k}={v}" for k, v in _selector(site).items())})
    server, said = _mesh_rules.mtls_of(policies, place, labels, root)
    client, told = _mesh_rules.client_tls(rules, route.canary.service, route.canary.subset)
    conflict = _mesh_rules.tls_conflict(server, client, any(map(_mesh_rules.has_sidecar, pods)))
    if not conflict:
        return []
    return [
        problem(
            "traffic_route",
            title,
            "proxies and pods agree on TLS",
            f"{told}: {client or 'nothing'}; {said}: {server}; {conflict}",
            "modes that fit",
            "correct the mode on one side",
        )
    ]


def _selector(site: Site) -> dict[str, str]:
    """Labels of the pods that serve now: whether they have a sidecar, the new ones will have."""
    stable = site.facts.get("stable") or {}
    return ((stable.get("spec") or {}).get("selector") or {}).get("matchLabels") or {"signal.rollout/none": "none"}
