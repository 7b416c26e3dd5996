# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module preflight_check: every reason why a release would fail, in one go. Private to this collection.

A check is a function that yields problems, and one line in :data:`CHECKS`. Checks run at the same time, each with its own
deadline; one that depends on another starts when that one has found nothing wrong. Nothing is written anywhere: the only
POSTs are SelfSubjectAccessReviews, which the API server answers and forgets, and the only PATCH is a dry run.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _capacity,
    _gate_model,
    _gate_plan,
    _headroom,
    _http,
    _kube,
    _manifests,
    _metric_gate,
    _postgresql,
    _preflight_infrastructure,
    _prometheus,
    _route,
    _sources,
    _weights,
    _workload,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import redis
except ImportError:
    redis = None  # type: ignore[assignment]

RIGHT_SPEC: dict[str, dict[str, Any]] = {
    "verb": {"type": "str", "required": True},
    "group": {"type": "str", "default": ""},
    "resource": {"type": "str", "required": True},
    "namespace": {"type": "str"},
    "name": {"type": "str"},
}

TRAFFIC_ROUTE_SPEC: dict[str, dict[str, Any]] = {
    **{
        name: _canary_weight.ROUTE_SPEC[name]
        for name in ("kind", "name", "route", "destination_host", "stable", "canary", "extra_destinations", "others")
    },
    "gateway_namespace": _canary_weight.ROUTE_SPEC["confirm"]["options"]["namespace"],
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "cluster_server": {"type": "str"},
    "environment": {"type": "str"},
    "rights": {"type": "list", "elements": "dict", "options": RIGHT_SPEC},
    "deployment": {"type": "str"},
    "stable_version": {"type": "str"},
    "version": {"type": "str"},
    "full_pods": {"type": "int"},
    "manifests": {"type": "list", "elements": "raw"},
    "allowed_kinds": {"type": "list", "elements": "str", "default": ["ConfigMap", "Deployment", "Secret", "Service"]},
    "traffic_route": {"type": "dict", "options": TRAFFIC_ROUTE_SPEC, "aliases": ["virtual_service"]},
    "postgresql": {
        "type": "dict",
        "options": {
            **_postgresql.ARGUMENT_SPEC,
            "extension": {"type": "str", "default": "timescaledb"},
            "pg_bin_dir": {"type": "path"},
        },
    },
    "backup": {
        "type": "dict",
        "options": {
            "path": {"type": "path", "required": True},
            "free_factor": {"type": "float", "default": 1.2},
            "max_age_hours": {"type": "float"},
            "verified": {"type": "str", "default": "read", "choices": ["read", "restored"]},
            "local_client": {"type": "bool", "default": True},
        },
    },
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.BESIDE_KUBERNETES_SPEC,
    "max_clock_skew": {"type": "float", "default": 30.0},
    "scrape_job": {"type": "str"},
    "scrape_targets": {"type": "int", "default": 1},
    "metrics": {"type": "list", "elements": "dict", "options": _metric_gate.METRICS_SPEC},
    "minimum_requests": {"type": "dict", "options": _metric_gate.REQUESTS_SPEC},
    "redis_url": {"type": "str", "no_log": True},
    "notification_targets": {"type": "list", "elements": "str", "no_log": True},
    "urls": {"type": "dict"},
    "variables": {"type": "dict"},
    "timeout": {"type": "float", "default": 10.0},
}

SUPPORTS_CHECK_MODE = True

ENVIRONMENT_LABEL = "signal.rollout/environment"
_RIGHTS_AT_ONCE = 6
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_RESOURCES = {
    "VirtualService": {"group": "networking.istio.io", "resource": "virtualservices"},
    "HTTPRoute": {"group": "gateway.networking.k8s.io", "resource": "httproutes"},
}
_PATHS = {"ConfigMap": "configmaps", "Secret": "secrets"}


@dataclass(frozen=True)
class Problem:
    """One reason not to start. ``variable`` is what the user would change."""

    check: str
    object: str
    variable: str
    rule: str
    seen: str
    expected: str
    next: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.object}. Rule: {self.rule}. Seen: {self.seen}. Expected: {self.expected}. Next: {self.next}."


class NotApplicable(Exception):
    """A check cannot be made for a reason that another check has told already."""


@dataclass
class Site:
    """What the checks look at: the options, and what earlier checks have found out (``facts``)."""

    params: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)

    @property
    def namespace(self) -> str:
        return str(self.params["namespace"])

    def variable(self, option: str) -> str:
        """The user's own name for ``option``: the longest prefix of it that the option ``variables`` names."""
        names = self.params.get("variables") or {}
        parts = option.split(".")
        for length in range(len(parts), 0, -1):
            if ".".join(parts[:length]) in names:
                return str(names[".".join(parts[:length])])
        return option

    def kube(self) -> _kube.Kube:
        """A connection for the calling thread."""
        connection = getattr(self._local, "kube", None)
        if connection is None:
            connection = self._local.kube = self.facts["kube"].clone()
        return connection

    @property
    def prometheus_params(self) -> dict[str, Any]:
        return _prometheus.beside_kubernetes(self.params)

    def prometheus(self) -> _prometheus.Prometheus:
        return _prometheus.Prometheus(self.prometheus_params, min(5.0, self.params["timeout"]))


@dataclass(frozen=True)
class Check:
    """One entry of :data:`CHECKS`, made when all ``options`` are set.

    It waits for the checks in ``after`` and ``needs``, and is left out when one of ``needs`` has found a problem.
    """

    name: str
    options: tuple[str, ...]
    find: Callable[[Site, Callable[..., Problem]], Iterator[Problem]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- the cluster


def check_cluster(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
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


def check_namespace(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
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


def check_rights(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    yield from _refused(site, problem, site.params["rights"])


def _refused(site: Site, problem: Callable[..., Problem], rights: list[dict[str, Any]]) -> Iterator[Problem]:
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


def check_stable(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
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


def check_traffic_route(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    wanted = site.params["traffic_route"]
    options = {**wanted, "namespace": site.namespace, "confirm": {"namespace": wanted["gateway_namespace"]}}
    try:
        routes = _canary_weight.each_route(options)
    except _weights.WeightError as error:
        yield problem("traffic_route.others", "the routes of this release", "each is named once", *_words(error), "take the double out")
        return
    # The main route's is among the rights that the release lists.
    moved_too = [{"verb": "patch", **_RESOURCES[one["kind"]], "namespace": one["namespace"], "name": one["name"]} for one in routes[1:]]
    if moved_too:
        yield from _refused(site, problem, moved_too)
    for one in routes:
        yield from _check_route(site, problem, _route.of(one, site.kube()))


def _check_route(site: Site, problem: Callable[..., Problem], found: _route.RouteObject) -> Iterator[Problem]:
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
        if role == "canary" and not destination.subset and ("Service", destination.host) in _brought(site):
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


def _brought(site: Site) -> set[tuple[str, str]]:
    """Kind and name of everything the release brings; what is wrong with the manifests is another check's."""
    manifests, _unused = _manifests.read(site.params["manifests"] or [])
    return {(manifest.kind, manifest.name) for manifest in manifests}


# ------------------------------------------------------------------------------------------------------ the manifests


def check_manifests(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    require("PyYAML", _manifests.yaml)
    manifests, findings = _manifests.read(site.params["manifests"])
    site.facts["manifests"] = manifests
    rules = _manifests.Rules(
        namespace=site.namespace,
        kinds=tuple(site.params["allowed_kinds"]),
        version=site.params["version"] or "",
        stable_name=site.params["deployment"] or "",
    )
    for found in [*findings, *_manifests.check(manifests, rules)]:
        yield problem("manifests", found.object, found.rule, found.seen, found.expected, found.next)


def check_references(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    """What the manifests need in the cluster, and what they must not share with the stable Deployment there."""
    if "manifests" not in site.facts:
        raise NotApplicable("the manifests could not be read")
    deployments = [manifest for manifest in site.facts["manifests"] if manifest.kind == "Deployment"]
    brought = {(manifest.kind, manifest.name) for manifest in site.facts["manifests"]}
    for manifest in deployments:
        yield from _shared_selector(site, manifest, problem)
        for needed in _manifests.references(manifest):
            if (needed.kind, needed.name) not in brought and not _exists(site, needed):
                yield problem(
                    "manifests",
                    needed.needed_by,
                    "what the pods refer to exists",
                    f"no {needed.kind} {needed.name} in namespace {site.namespace} or among the manifests",
                    "that object, since the pods do not start without it",
                    "add it to the release, or correct the reference",
                )


def _shared_selector(site: Site, manifest: _manifests.Manifest, problem: Callable[..., Problem]) -> Iterator[Problem]:
    stable_name = site.params["deployment"]
    if not stable_name:
        return
    stable = site.kube().find(_kube.path_of("apps", "v1", "deployments", site.namespace, stable_name))
    theirs = (((stable or {}).get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    labels = ((manifest.pod_template.get("metadata") or {}).get("labels")) or {}
    if theirs and all(labels.get(key) == value for key, value in theirs.items()):
        yield problem(
            "manifests",
            manifest.title,
            "green's pods are not blue's",
            f"its pods match the selector of Deployment {stable_name}",
            "a label that tells them apart",
            "correct the labels: both Deployments would claim the same pods",
        )


def _exists(site: Site, needed: _manifests.Reference) -> bool:
    try:
        return site.kube().find(_kube.path_of("", "v1", _PATHS[needed.kind], site.namespace, needed.name)) is not None
    except _kube.KubeError as error:
        if error.status != 403:
            raise
        site.warnings.append(f"{needed.kind} {needed.name}: no right to read it, so it is not known whether it exists.")
        return True


def check_capacity(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
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


# ------------------------------------------------------------------------------------------------------- the database


def check_database(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    options = site.params["postgresql"]
    title = _postgresql.address(options)
    try:
        session = _postgresql.connect(options, query_timeout=site.params["timeout"])
    except RolloutError as error:
        seen, _next, then = error.message.removeprefix(f"{title}: ").partition(" Next: ")
        option = "login_password" if "password" in seen else "login_db" if "does not exist" in seen else "login_host"
        yield problem(
            f"postgresql.{option}", title, "the database can be reached", one_line(seen).rstrip("."), "a connection", then or "see the server's log"
        )
        return
    try:
        row = session.rows(
            "SELECT pg_is_in_recovery() AS standby, current_setting('server_version_num')::int / 10000 AS major,"
            " pg_database_size(current_database()) AS size,"
            " (SELECT extversion FROM pg_extension WHERE extname = %s) AS extension",
            (options["extension"],),
        )[0]
    finally:
        session.close()
    site.facts["database"] = row
    if row["standby"]:
        yield problem(
            "postgresql.login_host", title, "the server accepts writes", "a standby in recovery", "the primary", "name the primary's address"
        )
    if options["extension"] and row["extension"] is None:
        yield problem(
            "postgresql.login_db",
            title,
            f"the extension {options['extension']} is installed in this database",
            "it is not",
            f"CREATE EXTENSION {options['extension']} was run",
            "have it created, or correct the database's name",
        )


def check_postgresql_client(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    options = site.params["postgresql"]
    if not options["pg_bin_dir"] and not site.params["backup"]:
        raise NotApplicable("no backup and no pg_bin_dir was named")
    if site.params["backup"] and not site.params["backup"]["local_client"]:
        raise NotApplicable("the backup is made by the programs of another container")
    for program in ("pg_dump", "pg_restore"):
        path = os.path.join(options["pg_bin_dir"], program) if options["pg_bin_dir"] else shutil.which(program) or program
        seen = _program_version(path, site.params["timeout"])
        major = int(seen) if seen.isdigit() else None
        needed = site.facts["database"]["major"]
        if major is None or major < needed:
            yield problem(
                "postgresql.pg_bin_dir",
                path,
                "the client is as new as the server",
                f"version {seen}" if major else seen,
                f"version {needed} or newer, as the server",
                "install that client, and name its folder",
            )


def _program_version(path: str, timeout: float) -> str:
    """The major version of a PostgreSQL program, or why there is none."""
    try:
        done = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout / 2, check=False)
    except FileNotFoundError:
        return "no such program"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be run ({type(error).__name__})"
    text = done.stdout.decode(errors="backslashreplace")
    found = re.search(r"PostgreSQL\) (\d+)", text)
    if done.returncode != 0 or not found:
        return f"exit code {done.returncode}: {one_line(text + done.stderr.decode(errors='backslashreplace'), 120)}"
    return found.group(1)


def check_backup(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    backup = site.params["backup"]
    path = backup["path"]
    existing = path
    while not os.path.lexists(existing) and os.path.dirname(existing) != existing:
        existing = os.path.dirname(existing)
    title = f"backup folder {path}"
    if not os.path.isabs(path):
        yield problem("backup.path", title, "the path is absolute", "a relative path", "an absolute one", "write it in full")
        return
    status = os.lstat(existing)
    if existing == path and (stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode)):
        yield problem("backup.path", title, "it is a folder of its own", "a link or a file", "a folder", "name a folder")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield problem("backup.path", title, "it can be written", f"no right to write in {existing}", "that right", "correct owner or mode")
    if existing == path and status.st_mode & 0o077:
        yield problem(
            "backup.path",
            title,
            "only its owner can look into it",
            f"mode {stat.S_IMODE(status.st_mode):04o}",
            "0700",
            f"chmod 0700 {path}: a backup holds everything the database holds",
        )
    database = site.facts.get("database")
    if database is None:
        return
    space = os.statvfs(existing)
    free, needed = space.f_bavail * space.f_frsize, int(database["size"] * backup["free_factor"])
    if free < needed:
        yield problem(
            "backup.path",
            title,
            f"there is free space for {backup['free_factor']:g} times the database",
            _bytes(free),
            f"at least {_bytes(needed)}",
            "free some, or name another folder",
        )


def _bytes(number: int) -> str:
    return f"{number / 1024**3:.2f} GiB"


# -------------------------------------------------------------------------------------------------------- Prometheus


def check_prometheus(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    wrong = _prometheus.problems_of(site.prometheus_params)
    for text in wrong:
        option, _colon, seen = text.partition(": ")
        option = "prometheus_ca_cert" if option == "ca_cert" else option
        yield problem(option, "Prometheus", "its address and credentials can be used", seen, "usable ones", "correct the option")
    if wrong:
        return
    client = site.prometheus()
    title = f"Prometheus {client.url}"
    before = time.time()
    reading = client.read("time()")
    if reading.state != _gate_model.GOOD or reading.value is None:
        yield problem(
            "prometheus_url", title, "Prometheus answers queries", reading.detail, "a number", "correct the address, or repair Prometheus"
        )
        return
    skew = reading.value - (before + time.time()) / 2
    if abs(skew) > site.params["max_clock_skew"]:
        yield problem(
            "prometheus_url",
            title,
            "its clock and this host's agree",
            f"{abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            f"at most {site.params['max_clock_skew']:g} s",
            "set the clocks: the age of figures could not be judged",
        )


def check_scrapes(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    job, needed = site.params["scrape_job"], site.params["scrape_targets"]
    title = f"scrape job {job}"
    try:
        data = site.prometheus().ask("/api/v1/targets", {"state": "active"}).get("data") or {}
    except _prometheus.PrometheusError as error:
        yield problem("prometheus_url", title, "Prometheus shows its targets", error.message, "the list of targets", "see Prometheus' log")
        return
    targets = [target for target in data.get("activeTargets") or [] if (target.get("labels") or {}).get("job") == job]
    down = [target for target in targets if target.get("health") != "up"]
    if len(targets) - len(down) < needed:
        reasons = "".join(f"; {(target.get('labels') or {}).get('instance')}: {one_line(target.get('lastError'), 100)}" for target in down[:3])
        yield problem(
            "scrape_job",
            title,
            "the service is scraped",
            f"{len(targets) - len(down)} of {len(targets)} targets up{reasons}",
            f"at least {needed} up",
            "repair the scraping: without it no gate can pass",
        )


def check_queries(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    mistakes: list[str] = []
    metrics = _gate_plan.read_metrics(site.params["metrics"], mistakes, site.warnings)
    requests = _gate_plan.read_requests(site.params["minimum_requests"], mistakes, site.warnings)
    for text in mistakes:
        where, _colon, seen = text.partition(": ")
        yield problem("metrics", where, "the gate's options are right", seen or where, "a metric with query, limit and unit", "correct it")
    uses = [
        (f"metric {metric.name}" if role == _gate_model.VALUE else f"{role} of metric {metric.name}", question)
        for metric in metrics
        for role, question in metric.questions.items()
    ]
    if requests is not None:
        uses.append(("minimum_requests", requests.question))
    readings = _sources.ask_once(site.prometheus(), [question for _where, question in uses], 60.0)
    for where, question in uses:
        reading = readings[question]
        # No data is fine: the version that is to be watched does not run yet.
        if reading.state == _gate_model.ERROR:
            yield problem(
                "metrics",
                where,
                f"{question.request or 'Prometheus'} can answer the question",
                reading.detail,
                "one number, or no series yet",
                f"correct the query, or its source: {one_line(question, 120)}",
            )


# ------------------------------------------------------------------------------------------------------- the others


def check_redis(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    require("redis", redis)
    url = site.params["redis_url"]
    trouble = _http.url_problem(url, ("redis", "rediss"))
    if trouble:
        yield problem("redis_url", "Redis", "its address is usable", trouble, "redis://host:port/db", "correct the address")
        return
    parts = urlsplit(url)
    title = f"Redis {parts.hostname}:{parts.port or 6379}"
    seconds = min(5.0, site.params["timeout"] / 2)
    try:
        client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=None)
        try:
            client.ping()
        finally:
            client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        text = one_line(error, 160)
        for secret in (url, parts.password):
            text = text.replace(secret, "********") if secret else text
        yield problem("redis_url", title, "Redis answers PING", text, "PONG", "correct address and password, or repair Redis")


def check_notifications(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    targets = site.params["notification_targets"]
    if not targets:
        yield problem("notification_targets", "messages", "somebody is told", "no target", "at least one", "name where messages go")
        return
    try:
        import apprise
    except ImportError:
        require("apprise", None)
        return
    # Its own messages repeat the address, which is a secret.
    logger = logging.getLogger("apprise")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    for number, target in enumerate(targets, 1):
        if apprise.Apprise.instantiate(target, suppress_exceptions=True) is None:
            yield problem(
                "notification_targets",
                f"target {number} of {len(targets)}",
                "it is an address that Apprise understands",
                f"a text of {len(target)} characters that is none",
                "such as mailtos://... or json://...",
                "correct it; nothing was sent",
            )


def check_urls(site: Site, problem: Callable[..., Problem]) -> Iterator[Problem]:
    for name, url in sorted(site.params["urls"].items()):
        trouble = _http.url_problem(str(url)) or _host_problem(str(url))
        if trouble:
            yield problem(f"urls.{name}", f"the address {name}", "it is an address that may be called", trouble, "http(s)://host", "correct it")


def _host_problem(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        addresses = {item[4][0] for item in socket.getaddrinfo(host, parts.port or 80, type=socket.SOCK_STREAM)}
    except OSError as error:
        return f"its host {host} is not known ({error.strerror or error})"
    for text in sorted(addresses):
        address = ipaddress.ip_address(str(text).partition("%")[0])
        if any(address in network for network in _LINK_LOCAL if network.version == address.version):
            return f"its host {host} is the link-local address {text}, where clouds keep credentials"
    return ""


# New checks are added here; a check is made only when all of its options are set.
CHECKS: tuple[Check, ...] = (
    Check("cluster", ("namespace",), check_cluster),
    Check("namespace", ("namespace",), check_namespace, needs=("cluster",)),
    Check("rights", ("rights",), check_rights, needs=("cluster",)),
    Check("stable", ("deployment",), check_stable, needs=("cluster",)),
    Check("traffic_route", ("traffic_route",), check_traffic_route, needs=("cluster",)),
    Check("manifests", ("manifests",), check_manifests),
    Check("references", ("manifests",), check_references, needs=("cluster",), after=("manifests",)),
    Check("capacity", ("manifests",), check_capacity, needs=("cluster",), after=("manifests", "stable")),
    Check("nodes", ("manifests",), _preflight_infrastructure.check_nodes, needs=("cluster",), after=("manifests", "stable")),
    Check("mesh", ("traffic_route",), _preflight_infrastructure.check_mesh, needs=("traffic_route",), after=("manifests", "stable")),
    Check("database", ("postgresql",), check_database),
    Check("postgresql_client", ("postgresql",), check_postgresql_client, needs=("database",)),
    Check("backup", ("backup",), check_backup, after=("database",)),
    Check("backups", ("backup", "postgresql"), _preflight_infrastructure.check_backups),
    Check("prometheus", ("prometheus_url",), check_prometheus),
    Check("scrapes", ("prometheus_url", "scrape_job"), check_scrapes, needs=("prometheus",)),
    Check("queries", ("prometheus_url", "metrics"), check_queries, needs=("prometheus",)),
    Check("redis", ("redis_url",), check_redis),
    Check("notifications", ("notification_targets",), check_notifications),
    Check("urls", ("urls",), check_urls),
)
# An empty list of these is not "do not check", it is the problem.
_EMPTY_IS_WRONG = ("notification_targets", "manifests")


@dataclass
class Outcome:
    """How one check ended."""

    started: float = 0.0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    skipped: str = ""
    done: threading.Event = field(default_factory=threading.Event)


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Make every check that the options ask for. Returns ``problems`` (none), ``checks`` and ``seconds``.

    Raises :class:`RolloutError` with the same keys when a problem was found, all of them in its message.
    """
    if not params["timeout"] > 0:
        raise RolloutError(f"preflight_check: timeout is {params['timeout']} s, expected a number above 0.", **_result([], [], 0.0, []))
    return Preflight(params, context).run()


def asked(params: dict[str, Any]) -> list[Check]:
    """The checks that the options ask for."""

    def is_set(option: str) -> bool:
        value = params.get(option)
        return bool(value) or (value is not None and option in _EMPTY_IS_WRONG)

    return [check for check in CHECKS if all(is_set(option) for option in check.options)]


class Preflight:
    """One run of all checks."""

    def __init__(self, params: dict[str, Any], context: Context) -> None:
        self.site = Site(params)
        self.context = context
        self.timeout: float = params["timeout"]
        self.checks = asked(params)
        self.outcomes = {check.name: Outcome() for check in self.checks}
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        for check in self.checks:
            threading.Thread(target=self._make, args=(check,), name=f"check {check.name}", daemon=True).start()
        self._await()
        seconds = round(time.monotonic() - began, 3)
        problems = [problem for outcome in self.outcomes.values() for problem in outcome.problems]
        checks = [
            {
                "check": name,
                "ok": not outcome.problems and not outcome.skipped,
                "problems": len(outcome.problems),
                "skipped": outcome.skipped,
                "seconds": round(outcome.seconds, 3),
            }
            for name, outcome in self.outcomes.items()
        ]
        result = _result([asdict(problem) for problem in problems], checks, seconds, self.site.warnings)
        result["break_glass"] = self.site.facts.get("break_glass", "")
        result["proofs"] = _preflight_infrastructure.proofs(self.outcomes, self.site.facts)
        if self.context.cancelled.is_set():
            raise RolloutError("preflight_check: interrupted. Nothing was written.", **result)
        if problems:
            lines = "\n".join(f"{number}. {problem}" for number, problem in enumerate(problems, 1))
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            raise RolloutError(f"preflight_check: {count} found in {seconds:.1f} s. Nothing was written.\n{lines}", **result)
        self.context.progress(f"preflight: {len(checks)} checks passed in {seconds:.1f} s")
        return result

    def _await(self) -> None:
        """Wait for every check; one that is over its time is given up, and those that depend on it are left out."""
        while not self.context.cancelled.is_set():
            open_checks = [check for check in self.checks if not self.outcomes[check.name].done.is_set()]
            if not open_checks:
                return
            for check in open_checks:
                outcome = self.outcomes[check.name]
                if outcome.started and time.monotonic() - outcome.started > self.timeout:
                    self._finish(outcome, [self._late(check)])
            self.outcomes[open_checks[0].name].done.wait(0.05)

    def _late(self, check: Check) -> Problem:
        option = check.options[-1]
        return Problem(
            check=check.name,
            object=f"check {check.name}",
            variable=self.site.variable(option),
            rule="it ends in time",
            seen=f"no answer within {self.timeout:g} s",
            expected="an answer",
            next="see whether what it looks at is reachable and not overloaded",
        )

    def _make(self, check: Check) -> None:
        outcome = self.outcomes[check.name]
        for name in (*check.after, *check.needs):
            earlier = self.outcomes.get(name)
            if earlier is not None:
                earlier.done.wait()
                if name in check.needs and (earlier.problems or earlier.skipped):
                    self._finish(outcome, [], f"left out, since check {name} found a problem")
                    return
        outcome.started = time.monotonic()
        found: list[Problem] = []
        skipped = ""

        def problem(option: str, what: str, rule: str, seen: str, expected: str, then: str) -> Problem:
            return Problem(check.name, what, self.site.variable(option), rule, seen, expected, then)

        try:
            found.extend(check.find(self.site, problem))
        except NotApplicable as reason:
            skipped = str(reason)
        except RolloutError as error:
            seen, _next, then = error.message.partition(" Next: ")
            found.append(
                problem(check.options[-1], f"check {check.name}", "it can be made", seen.rstrip("."), "an answer", then.rstrip(".") or "see above")
            )
        except Exception as error:
            # A thread that dies silently would look like a check that passed.
            found.append(problem(check.options[-1], f"check {check.name}", "it can be made", f"{type(error).__name__}: {error}", "an answer", "report this"))
        self._finish(outcome, found, skipped)

    def _finish(self, outcome: Outcome, problems: list[Problem], skipped: str = "") -> None:
        with self._lock:
            if outcome.done.is_set():
                return
            outcome.problems, outcome.skipped = problems, skipped
            outcome.seconds = time.monotonic() - outcome.started if outcome.started else 0.0
            outcome.done.set()


def _result(problems: list[dict[str, Any]], checks: list[dict[str, Any]], seconds: float, warnings: list[str]) -> dict[str, Any]:
    return {"changed": False, "problems": problems, "checks": checks, "seconds": seconds, "warnings": list(warnings), "break_glass": "", "proofs": {}}
