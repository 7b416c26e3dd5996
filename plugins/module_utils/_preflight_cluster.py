# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: the cluster, its namespace, the rights, and the version that serves. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _http, _kube, _workload
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import Ask, Problem, Site

ENVIRONMENT_LABEL = "signal.rollout/environment"
_RIGHTS_AT_ONCE = 6


def check_cluster(site: Site, problem: Ask) -> Iterator[Problem]:
    kube = _kube.connect(site.params)
    site.facts["kube"] = kube
    wanted = site.params["cluster_server"]
    trouble = _http.url_problem(wanted) if wanted else ""
    if trouble:
        yield problem("cluster_server", "the expected API server", "it is a URL", trouble, "https://host:port", "correct it")
        return
    if wanted and _same_server(wanted) != _same_server(kube.server):
        # Nothing is sent: it may be the wrong cluster.
        yield problem(
            "cluster_server",
            "the kubeconfig",
            "the release goes to the cluster of its environment",
            kube.server,
            wanted,
            "choose the right kubeconfig and context, or correct the expected server",
        )
        return
    kube.get("/version", timeout=site.params["timeout"] / 2)


def _same_server(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def check_namespace(site: Site, problem: Ask) -> Iterator[Problem]:
    title = f"Namespace {site.namespace}"
    try:
        found = site.kube().find(_kube.path_of("", "v1", "namespaces", None, site.namespace))
    except _kube.KubeError as error:
        if error.status != 403:
            raise
        yield problem("namespace", title, "the namespace can be read", "no right to get it", "the right to get it", "have it granted")
        return
    if found is None:
        yield problem("namespace", title, "the namespace exists", "none of this name", "an existing one", "correct the name, or create it")
        return
    wanted = site.params["environment"]
    seen = ((found.get("metadata") or {}).get("labels") or {}).get(ENVIRONMENT_LABEL)
    if wanted and seen != wanted:
        yield problem(
            "environment",
            title,
            f"its label {ENVIRONMENT_LABEL} names the environment of the inventory",
            seen or "no such label",
            wanted,
            "use the inventory of that environment; or, for a namespace that is really meant, have its owner set the label",
        )


def check_rights(site: Site, problem: Ask) -> Iterator[Problem]:
    yield from refused(site, problem, site.params["rights"])


def refused(site: Site, problem: Ask, rights: list[dict[str, Any]]) -> Iterator[Problem]:
    with ThreadPoolExecutor(min(_RIGHTS_AT_ONCE, len(rights))) as pool:
        answers = list(pool.map(lambda right: _review(site, right), rights))
    for right, (allowed, reason) in zip(rights, answers, strict=True):
        if not allowed:
            yield problem(
                "rights",
                _right_words(right, site.namespace),
                "the release's identity may do what it will have to do",
                f"not allowed{f' ({one_line(reason, 120)})' if reason else ''}",
                "allowed",
                "have the right granted to this identity (Role and RoleBinding), or use another kubeconfig",
            )


def _review(site: Site, right: dict[str, Any]) -> tuple[bool, str]:
    resource, _slash, subresource = right["resource"].partition("/")
    attributes = {
        "verb": right["verb"],
        "group": right["group"],
        "resource": resource,
        "subresource": subresource,
        "namespace": site.namespace if right["namespace"] is None else right["namespace"],
        "name": right["name"] or "",
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = site.kube().post(_kube.path_of("authorization.k8s.io", "v1", "selfsubjectaccessreviews"), body)
    status = answer.get("status") or {}
    return bool(status.get("allowed")), str(status.get("reason") or status.get("evaluationError") or "")


def _right_words(right: dict[str, Any], namespace: str) -> str:
    where = namespace if right["namespace"] is None else right["namespace"]
    resource = f"{right['resource']}.{right['group']}" if right["group"] else right["resource"]
    named = f" {right['name']}" if right["name"] else ""
    return f"{right['verb']} {resource}{named}{f' in namespace {where}' if where else ''}"


def check_stable(site: Site, problem: Ask) -> Iterator[Problem]:
    name = site.params["deployment"]
    title = f"Deployment {site.namespace}/{name}"
    deployment = site.kube().find(_kube.path_of("apps", "v1", "deployments", site.namespace, name))
    site.facts["stable"] = deployment
    if deployment is None:
        yield problem(
            "deployment",
            title,
            "the version that serves now exists",
            "none of this name",
            "the Deployment to go back to",
            "correct the name or the stable version",
        )
        return
    judgement = _workload.judge(deployment, [], _workload.Limits(), 0.0)
    if judgement.state != "ready":
        yield problem(
            "deployment",
            title,
            "the version that serves now is healthy",
            one_line(judgement.reason, 160),
            "all its pods ready",
            "repair it first: it is what a rollback goes back to",
        )
    wanted = site.params["stable_version"]
    labels = ((deployment.get("spec") or {}).get("template") or {}).get("metadata", {}).get("labels") or {}
    if wanted and labels.get("version") != wanted:
        yield problem(
            "stable_version",
            title,
            "its pods carry the stable version",
            f"version={labels.get('version') or 'none'}",
            f"version={wanted}",
            "correct the stable version",
        )
