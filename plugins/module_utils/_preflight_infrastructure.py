# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check that look at nodes and mesh, and the boxes that its checks prove together. Private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _backup_store,
    _canary_weight,
    _capacity,
    _kube,
    _mesh_rules,
    _node_room,
    _route,
    _virtual_service,
    _weights,
)
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

# Boxes of the checklist and the checks that must all have passed for it.
BOXES: dict[str, tuple[str, ...]] = {
    "infrastructure.capacity": ("capacity", "nodes"),
    "dependencies.mesh": ("traffic_route", "mesh"),
}
_ISTIO_SECURITY = ("security.istio.io", "v1")
_EVIDENCE_LIMIT = 300


def check_nodes(site: Any, problem: Callable[..., Any]) -> Iterator[Any]:
    """Whether the nodes have room for all pods of the new version beside everything that runs."""
    templates: list[tuple[dict[str, Any], int]] = []
    titles: list[str] = []
    stable = site.facts.get("stable")
    serving = ((stable or {}).get("spec") or {}).get("replicas") or 0
    full = site.params["full_pods"] or serving
    if stable and (missing := serving - ((stable.get("status") or {}).get("replicas") or 0)) > 0:
        templates.append((stable["spec"]["template"], missing))
        titles.append(f"Deployment {site.params['deployment']}")
    wanted_of: dict[str, int] = {}
    for manifest in site.facts.get("manifests") or []:
        if manifest.kind != "Deployment":
            continue
        wanted = wanted_of[manifest.name] = max(full, int((manifest.body.get("spec") or {}).get("replicas") or 1))
        live = site.kube().find(_kube.path_of("apps", "v1", "deployments", site.namespace, manifest.name))
        templates.append((manifest.pod_template, max(0, wanted - (((live or {}).get("status") or {}).get("replicas") or 0))))
        titles.append(manifest.title)
    nodes = _everywhere(site, "nodes", "whether the nodes have room is not known")
    pods = _everywhere(site, "pods", "whether the nodes have room is not known")
    if nodes is None or pods is None:
        return
    rooms = _node_room.place(nodes, pods, templates)
    for title, room in zip(titles, rooms, strict=True):
        if room.fits < room.wanted:
            yield problem(
                "full_pods",
                title,
                "the nodes have room for all its pods beside those that run",
                f"{room.fits} of {room.wanted} further pods fit: {room.words}",
                f"room for {room.wanted}",
                "add nodes, or lower its requests or the number of pods",
            )
    yield from _doubled_budgets(site, problem)
    further = sum(room.wanted for room in rooms)
    names = ", ".join(f"{count} of {name}" for name, count in wanted_of.items())
    site.facts["evidence nodes"] = f"{names} beside {serving} of the old version: {further} further pods fit on {len(nodes)} node(s) with {len(pods)} pods"


def _doubled_budgets(site: Any, problem: Callable[..., Any]) -> Iterator[Any]:
    """The API server refuses every eviction of a pod that two budgets select, so that a node could not be drained."""
    try:
        budgets = site.kube().list(_kube.path_of("policy", "v1", "poddisruptionbudgets", site.namespace))
    except _kube.KubeError as error:
        if error.status not in (403, 404):
            raise
        return
    for manifest in site.facts.get("manifests") or []:
        labels = (manifest.pod_template.get("metadata") or {}).get("labels") or {}
        found = [str(entry["metadata"]["name"]) for entry in budgets if _capacity.selects((entry.get("spec") or {}).get("selector"), labels)]
        if manifest.kind == "Deployment" and len(found) > 1:
            yield problem(
                "manifests",
                manifest.title,
                "at most one PodDisruptionBudget selects its pods",
                f"{len(found)}: {', '.join(found)}",
                "one, since no pod of two budgets can be evicted",
                "narrow the selector of one of them",
            )


def _everywhere(site: Any, plural: str, lost: str) -> list[dict[str, Any]] | None:
    try:
        return site.kube().list(_kube.path_of("", "v1", plural))
    except _kube.KubeError as error:
        if error.status != 403:
            raise
        site.warnings.append(f"no right to list {plural} of the cluster: {lost}.")
        return None


# ----------------------------------------------------------------------------------------------------------- the mesh


def check_mesh(site: Any, problem: Callable[..., Any]) -> Iterator[Any]:
    """Whether gateways carry the route, the canary's pods are the subset's, TLS fits on both sides, and the mesh accepts a new weight."""
    wanted = site.params["traffic_route"]
    options = {**wanted, "namespace": site.namespace, "confirm": {"namespace": wanted["gateway_namespace"]}}
    known: list[str] = []
    for one in _canary_weight.each_route(options):
        found = _route.of(one, site.kube())
        document = _route.read(found, site.kube())
        route = found.rule(document)
        if one["kind"] == _virtual_service.KIND:
            gateways = _gateways(site, document)
            if gateways is None:
                return
            yield from _check_gateways(site, problem, found.title, document, gateways, wanted["gateway_namespace"])
            known.append(f"{len(gateways)} gateway(s)")
            tls = _check_tls(site, problem, found.title, route, wanted["gateway_namespace"])
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


def _gateways(site: Any, document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
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
    site: Any, problem: Callable[..., Any], title: str, document: Mapping[str, Any], gateways: Sequence[dict[str, Any]], place: str
) -> Iterator[Any]:
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


def _check_labels(site: Any, problem: Callable[..., Any], found: Any, document: Mapping[str, Any], route: Any) -> Iterator[Any]:
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


def _brought(site: Any) -> Any:
    deployments = [manifest for manifest in site.facts.get("manifests") or [] if manifest.kind == "Deployment"]
    version = site.params["version"]
    own = [entry for entry in deployments if ((entry.pod_template.get("metadata") or {}).get("labels") or {}).get("version") == version]
    return (own or deployments or [None])[0]


def _check_tls(site: Any, problem: Callable[..., Any], title: str, route: Any, root: str) -> list[Any] | None:
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


def _selector(site: Any) -> dict[str, str]:
    """Labels of the pods that serve now: whether they have a sidecar, the new ones will have."""
    stable = site.facts.get("stable") or {}
    return ((stable.get("spec") or {}).get("selector") or {}).get("matchLabels") or {"signal.rollout/none": "none"}


# -------------------------------------------------------------------------------------------------------- the backups


def check_backups(site: Any, problem: Callable[..., Any]) -> Iterator[Any]:
    """Keep what the newest backup proves. A release makes one of its own, so that an old one is no reason not to begin."""
    wanted = site.params["backup"]
    if wanted["max_age_hours"] is not None:
        entries = _backup_store.Store(wanted["path"]).entries()
        found = judge_backups(entries, site.params["postgresql"]["login_db"], wanted["max_age_hours"], wanted["verified"], datetime.now(timezone.utc))
        if found:
            site.facts["proof infrastructure.backups"] = found
    yield from ()


def judge_backups(
    entries: Sequence[_backup_store.Entry], database: str, max_age_hours: float, verified: str, now: datetime
) -> dict[str, str] | None:
    """Return what the newest backup of ``database`` proves; None when there is none to judge. Pure."""
    own = [entry for entry in entries if entry.manifest and entry.manifest.inventory.database == database]
    newest = max(own, key=lambda entry: (entry.created, entry.name), default=None)
    if newest is None or newest.manifest is None:
        return None
    age = (now - datetime.fromisoformat(newest.created.replace("Z", "+00:00"))).total_seconds() / 3600
    seen = newest.manifest.verified
    line = f"{newest.name}, {age:.1f} hours old, {newest.manifest.bytes} bytes, {newest.manifest.inventory.rows} rows, verified: {seen}"
    wrong = [newest.problem] if newest.problem else []
    if age > max_age_hours:
        wrong.append(f"expected at most {max_age_hours:g} hours")
    if seen != "restored" and seen != verified:
        wrong.append(f"expected verified: {verified}")
    return {"state": "failed" if wrong else "proven", "evidence": one_line("; ".join([line, *wrong]), _EVIDENCE_LIMIT)}


# ---------------------------------------------------------------------------------------------------------- the boxes


def proofs(outcomes: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what the checks prove of the checklist. A check that was not made, or could not be, proves and refutes nothing. Pure."""
    found: dict[str, dict[str, str]] = {name.removeprefix("proof "): value for name, value in facts.items() if name.startswith("proof ")}
    for box, names in BOXES.items():
        if not all(name in outcomes for name in names):
            continue
        problems = [problem for name in names for problem in outcomes[name].problems]
        # A check that gave no answer is told as a problem about itself.
        measured = [problem for problem in problems if problem.object != f"check {problem.check}"]
        if measured:
            words = "; ".join(f"{problem.object}: {problem.seen}, expected {problem.expected}" for problem in measured)
            found[box] = {"state": "failed", "evidence": one_line(words, _EVIDENCE_LIMIT)}
        elif not problems and not any(outcomes[name].skipped for name in names) and facts.get(f"evidence {names[-1]}"):
            found[box] = {"state": "proven", "evidence": one_line(facts[f"evidence {names[-1]}"], _EVIDENCE_LIMIT)}
    return found
