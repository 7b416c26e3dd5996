# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: whether namespace and nodes have room for both versions. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _capacity, _headroom, _kube, _node_room
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import Ask, NotApplicable, Problem, Site


def check_capacity(site: Site, problem: Ask) -> Iterator[Problem]:
    """Whether the namespace lets the new version have the pods that carry all traffic."""
    if "manifests" not in site.facts:
        raise NotApplicable("the manifests could not be read")
    autoscalers = _listed(site, "autoscaling", "v2", "horizontalpodautoscalers")
    quotas = _listed(site, "", "v1", "resourcequotas")
    ranges = _listed(site, "", "v1", "limitranges")
    serving = (((site.facts.get("stable") or {}).get("spec") or {}).get("replicas")) or 0
    full = site.params["full_pods"] or serving
    for manifest in site.facts["manifests"]:
        if manifest.kind != "Deployment":
            continue
        wanted = max(full, int((manifest.body.get("spec") or {}).get("replicas") or 1))
        for scaler in autoscalers:
            found = _capacity.read_autoscaler(scaler, wanted)
            if _capacity.targets(scaler, manifest.name) and found.maximum < wanted:
                yield problem(
                    "full_pods",
                    manifest.title,
                    "its autoscaler allows the pods that carry all traffic",
                    f"HorizontalPodAutoscaler {found.name} with maxReplicas {found.maximum}",
                    f"{wanted} or more",
                    "raise its maxReplicas where it is kept",
                )
        live = site.kube().find(_kube.path_of("apps", "v1", "deployments", site.namespace, manifest.name))
        more = wanted - (((live or {}).get("spec") or {}).get("replicas") or 0)
        for shortage in _headroom.shortages(quotas, ranges, manifest.pod_spec, more):
            yield problem(
                "full_pods",
                f"{shortage.object} in namespace {site.namespace}",
                f"it lets {manifest.name} have the {wanted} pods that carry all traffic",
                shortage.seen,
                shortage.expected,
                "have it raised, or correct the resources in the manifest",
            )


def _listed(site: Site, group: str, version: str, plural: str) -> list[dict[str, Any]]:
    try:
        return site.kube().list(_kube.path_of(group, version, plural, site.namespace))
    except _kube.KubeError as error:
        if error.status not in (403, 404):
            raise
        site.warnings.append(f"no right to list {plural} in namespace {site.namespace}, so it is not known what they allow.")
        return []


def check_nodes(site: Site, problem: Ask) -> Iterator[Problem]:
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


def _doubled_budgets(site: Site, problem: Ask) -> Iterator[Problem]:
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


def _everywhere(site: Site, plural: str, lost: str) -> list[dict[str, Any]] | None:
    try:
        return site.kube().list(_kube.path_of("", "v1", plural))
    except _kube.KubeError as error:
        if error.status != 403:
            raise
        site.warnings.append(f"no right to list {plural} of the cluster: {lost}.")
        return None
