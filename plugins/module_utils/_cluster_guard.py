# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module cluster_guard: starts and removes the guard that runs in the cluster. Private to this collection.

What runs there is ``_cluster_guard_script.py``, in a Job, with rights that an administrator has given to its service account.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _cluster_guard_script,
    _events,
    _guard,
    _http_route,
    _kube,
    _record,
    _route,
    _virtual_service,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._weights import Route

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
    "service": {"type": "str", "required": True},
    "holder": {"type": "str"},
    "abort_route": {"type": "dict"},
    "image": {"type": "str"},
    "service_account": {"type": "str", "default": "signal-rollout-guard"},
    "grace": {"type": "float", "default": 30.0},
    "start_timeout": {"type": "float", "default": 60.0},
    "lifetime": {"type": "int", "default": 86400},
}
SPEC_RULES: dict[str, Any] = {"required_if": [["state", "started", ["holder", "abort_route", "image"]], ["state", "stopped", ["holder"]]]}
SUPPORTS_CHECK_MODE = True

RBAC_FILE = "roles/canary/files/guard_rbac.yml"
_BATCH, _RBAC = ("batch", "v1"), ("rbac.authorization.k8s.io", "v1")
_MANAGED = {"app.kubernetes.io/managed-by": "signal.rollout", "app.kubernetes.io/name": "signal-rollout-guard"}
_OF_SERVICE, _OF_RUN = "signal.rollout/service", "signal.rollout/run"
# The cluster's own user and group for what needs neither.
_NOBODY = 65532
_POLL, _LONGEST_POLL = 0.5, 5.0
_KEPT_AFTER_END = 3600
_RESTARTS = 20
# A node that is gone holds up the next pod for no longer, in seconds.
_NODE_SECONDS = 30


class ClusterGuardError(RolloutError):
    """The guard cannot do its work in the cluster. No guard is running there."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Start or remove the guard of one run. Returns ``changed, running, name, words``."""
    if params["state"] == "stopped":
        return Stay({**params, "abort_route": None}, _kube.connect(params), context).stop()
    if not params["image"].strip():
        raise ClusterGuardError(
            "image is empty, expected the name of an image with python3 3.9 or newer. No guard is running in the cluster. "
            "Next: set canary_guard_image, or go without (canary_guard_in_cluster: false)."
        )
    return Stay({**params, "abort_route": _guard.route_of(params)}, _kube.connect(params), context).start()


# ------------------------------------------------------------------------------------------------ pure rules


def needed_rights(service: str, namespace: str, routes: list[dict[str, Any]]) -> dict[str, list[tuple[str, str, str, str]]]:
    """Return the rights that the guard needs, by namespace: ``(API group, resource, name or '', verb)``."""
    record, lease = _record.record_name(service), _record.lease_name(service)
    needed = {namespace: [("", "configmaps", record, "get"), ("", "configmaps", record, "patch"), ("coordination.k8s.io", "leases", lease, "get")]}
    needed[namespace].append(("", "events", "", "create"))
    for route in routes:
        group, plural = _kind_of(route)
        needed.setdefault(route["namespace"], []).extend((group[0], plural, route["name"], verb) for verb in ("get", "patch"))
    return needed


def missing_rights(rules: list[dict[str, Any]], needed: list[tuple[str, str, str, str]]) -> list[str]:
    """Return in words what ``rules`` of a Role do not allow of ``needed``."""
    return [
        f"{verb} {resource}{'.' + group if group else ''}{'/' + name if name else ''}"
        for group, resource, name, verb in needed
        if not any(_allows(rule, group, resource, name, verb) for rule in rules)
    ]


def _allows(rule: dict[str, Any], group: str, resource: str, name: str, verb: str) -> bool:
    names = rule.get("resourceNames") or []
    return (
        any(known in ("*", group) for known in rule.get("apiGroups") or [])
        and any(known in ("*", resource) for known in rule.get("resources") or [])
        and any(known in ("*", verb) for known in rule.get("verbs") or [])
        and (not names or name in names)
    )


def is_bound(binding: dict[str, Any], role: str, account: str, namespace: str) -> bool:
    """Whether a RoleBinding gives Role ``role`` to ServiceAccount ``account`` of ``namespace``."""
    reference = binding.get("roleRef") or {}
    meant = (reference.get("kind"), reference.get("name")) == ("Role", role)
    wanted = ("ServiceAccount", account, namespace)
    return meant and any(wanted == (one.get("kind"), one.get("name"), one.get("namespace")) for one in binding.get("subjects") or [])


def described(kind: str, title: str, path: str, rule: Route) -> dict[str, Any]:
    """Return one route as the guard's program reads it: where its weights are, and by what its destinations are known."""
    gateway_api = kind == _http_route.KIND

    def identity(host: str, subset: str) -> dict[str, Any]:
        return {"name": host} if gateway_api else {"destination/host": host, "destination/subset": subset or None}

    return {
        "title": title,
        "path": path,
        "rules": _http_route.FIELD if gateway_api else _virtual_service.FIELD,
        "entries": "backendRefs" if gateway_api else "route",
        "rule": {"name": rule.name, "index": rule.index},
        "stable": identity(rule.stable.host, rule.stable.subset),
        "canary": identity(rule.canary.host, rule.canary.subset),
        # What an entry counts that says nothing: 1 in the Gateway API, 0 in Istio's own.
        "without": 1 if gateway_api else 0,
        "kept": rule.kept,
    }


def job_of(name: str, labels: dict[str, str], params: dict[str, Any]) -> dict[str, Any]:
    """Return the Job that runs the guard, under the rules of the pod security standard "restricted"."""
    container = {
        "name": "guard",
        "image": params["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "/guard/guard.py", "/guard/settings.json"],
        "resources": {"requests": {"cpu": "5m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "96Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "guard", "mountPath": "/guard", "readOnly": True}],
    }
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _NODE_SECONDS}
        for key in ("not-ready", "unreachable")
    ]
    pod = {
        "serviceAccountName": params["service_account"],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "tolerations": tolerations,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _NOBODY, "runAsGroup": _NOBODY, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "guard", "configMap": {"name": name}}],
    }
    # A sidecar would outlive the guard, and the Job would never end.
    template = {"metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": params["namespace"], "labels": labels},
        "spec": {
            "backoffLimit": _RESTARTS,
            "activeDeadlineSeconds": params["lifetime"],
            "ttlSecondsAfterFinished": _KEPT_AFTER_END,
            "template": template,
        },
    }


def _kind_of(route: dict[str, Any]) -> tuple[tuple[str, str], str]:
    kind = _http_route if route["kind"] == _http_route.KIND else _virtual_service
    return kind.GROUP, kind.PLURAL


def program() -> str:
    """Return the text of the guard's program, also where modules are loaded from an archive."""
    loader = _cluster_guard_script.__loader__
    text = loader.get_source(_cluster_guard_script.__name__)
    return text.decode() if isinstance(text, bytes) else text


# ------------------------------------------------------------------------------------------------ the cluster


class Stay:
    """The guard of one run, as objects of the cluster."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube, context: Context) -> None:
        self.params = params
        self.kube = kube
        self.context = context
        self.namespace: str = params["namespace"]
        self.service: str = params["service"]
        self.holder: str = params["holder"]
        run_key = hashlib.sha256(self.holder.encode()).hexdigest()[:10]
        self.labels = {**_MANAGED, _OF_SERVICE: self.service[:63], _OF_RUN: run_key}
        self.name = f"signal-rollout-guard-{self.service[:30].rstrip('-')}-{run_key}"
        self.jobs = _kube.path_of(*_BATCH, "jobs", self.namespace)
        self.config_maps = _kube.path_of("", "v1", "configmaps", self.namespace)
        self.record_path = f"{self.config_maps}/{_record.record_name(self.service)}"
        self.routes = _canary_weight.each_route(params["abort_route"]) if params.get("abort_route") else []
        self.warnings: list[str] = []

    def start(self) -> dict[str, Any]:
        self._refuse_missing_rights()
        known = self.described_routes()
        job = self.kube.find(f"{self.jobs}/{self.name}")
        if job is not None and not _has_ended(job):
            return self._answer(False, True, "watches already")
        if self.context.check_mode:
            return self._answer(True, False, "would be started")
        settings = self.settings(known)
        self._remove()
        self._forget()
        self._create(settings)
        try:
            self._await_ready()
        except RolloutError:
            self._remove()
            raise
        return self._answer(True, True, f"watches the lock of '{self.holder}' from inside the cluster")

    def stop(self) -> dict[str, Any]:
        found = self.kube.find(f"{self.jobs}/{self.name}") is not None
        if found and not self.context.check_mode:
            self._remove()
            self._forget()
        words = "no guard of this run is in the cluster" if not found else "would be removed" if self.context.check_mode else "removed"
        return self._answer(found, found and self.context.check_mode, words)

    def _answer(self, changed: bool, running: bool, words: str) -> dict[str, Any]:
        told = {"warnings": self.warnings} if self.warnings else {}
        return {"changed": changed, "running": running, "name": f"{self.namespace}/{self.name}", "words": words, **told}

    def _refuse_missing_rights(self) -> None:
        """Raise :class:`ClusterGuardError` naming everything that the administrator has not given yet, or only warn where that is hidden."""
        account = self.params["service_account"]
        missing: list[str] = []
        for namespace, needed in needed_rights(self.service, self.namespace, self.routes).items():
            try:
                missing += self._missing_in(namespace, needed, account)
            except _kube.KubeError as error:
                if error.status != 403:
                    raise
                self.warnings.append(f"The rights of the guard in namespace {namespace} cannot be read, so they were not checked: {error.message}")
        if missing:
            raise ClusterGuardError(
                f"The guard in the cluster lacks {len(missing)} things: {'; '.join(missing)}. No guard is running there. Next: have an "
                f"administrator apply {RBAC_FILE} of this collection with the names of this service, or go without (canary_guard_in_cluster: false)."
            )

    def _missing_in(self, namespace: str, needed: list[tuple[str, str, str, str]], account: str) -> list[str]:
        missing = []
        if namespace == self.namespace and self.kube.find(_kube.path_of("", "v1", "serviceaccounts", namespace, account)) is None:
            missing.append(f"ServiceAccount {namespace}/{account}")
        role = self.kube.find(_kube.path_of(*_RBAC, "roles", namespace, account))
        if role is None:
            missing.append(f"Role {namespace}/{account}")
        else:
            missing += [f"'{right}' in Role {namespace}/{account}" for right in missing_rights(role.get("rules") or [], needed)]
        binding = self.kube.find(_kube.path_of(*_RBAC, "rolebindings", namespace, account))
        if binding is None or not is_bound(binding, account, account, self.namespace):
            missing.append(f"RoleBinding {namespace}/{account} of that Role to ServiceAccount {self.namespace}/{account}")
        return missing

    def described_routes(self) -> list[dict[str, Any]]:
        return [self._described(route) for route in self.routes]

    def _described(self, route: dict[str, Any]) -> dict[str, Any]:
        found = _route.of(route, self.kube)
        return described(route["kind"], found.title, found.path, found.rule(_route.read(found, self.kube)))

    def settings(self, known: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the guard's program has to know. Raises :class:`ClusterGuardError` unless this run holds a release with a record."""
        lease_path = _kube.path_of("coordination.k8s.io", "v1", "leases", self.namespace, _record.lease_name(self.service))
        lease = _record.read_lease(self.kube.find(lease_path))
        record = _record.kept(self.kube.find(self.record_path), _record.RECORD_KEY)
        if lease.holder != self.holder or not record.get("id"):
            raise ClusterGuardError(
                f"The release of {self.service} in namespace {self.namespace} is held by '{lease.holder or 'nobody'}' and has "
                f"{'a' if record.get('id') else 'no'} record, expected '{self.holder}' (this run) and a record. No guard is running in the "
                "cluster. Next: run the playbook from its begin, which takes the lock."
            )
        said = self._said()
        if said.get("state") in (_cluster_guard_script.MOVED, _cluster_guard_script.DRIFT):
            raise ClusterGuardError(
                f"The guard in the cluster has acted for '{self.holder}' (this run) already: {one_line(said.get('words'))}. It does so once. "
                "Next: playbooks/status.yml shows how the release stands; playbooks/resume.yml goes on with it."
            )
        main = self.routes[0]
        involved = {"apiVersion": "/".join(_kind_of(main)[0]), "kind": main["kind"], "namespace": self.namespace, "name": main["name"]}
        if main["namespace"] != self.namespace:
            # An event belongs to an object of its own namespace.
            involved = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": self.namespace, "name": _record.record_name(self.service)}
        return {
            "namespace": self.namespace,
            "holder": self.holder,
            "release": record["id"],
            "lease": lease_path,
            "record": self.record_path,
            "stable": self.params["abort_route"]["stable"],
            "grace": self.params["grace"],
            "poll": min(_LONGEST_POLL, max(_POLL, lease.duration / 12)),
            "routes": known,
            "involved": involved,
        }

    def _create(self, settings: dict[str, Any]) -> None:
        job = self.kube.post(self.jobs, job_of(self.name, self.labels, self.params))
        # Owned by the Job, so that both go together, whoever removes it. Its pod waits for it.
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": job["metadata"]["uid"]}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels, "ownerReferences": [owner]},
            "data": {"guard.py": program(), "settings.json": json.dumps(settings, indent=1)},
        }
        self.kube.post(self.config_maps, body)

    def _remove(self) -> None:
        """Remove what there is of this run's guard: at once, also its pod, so that it cannot act any more."""
        for path in (f"{self.jobs}/{self.name}", f"{self.config_maps}/{self.name}"):
            found = self.kube.find(path)
            if found is None:
                continue
            try:
                self.kube.delete(path, uid=found["metadata"]["uid"], propagation="Background")
            except _kube.KubeError as error:
                if error.status not in (404, 409):
                    raise

    def _said(self) -> dict[str, Any]:
        said = _record.kept(self.kube.find(self.record_path), _events.GUARD_KEY)
        return said if said.get("holder") == self.holder else {}

    def _await_ready(self) -> None:
        """Wait for the guard's own word that it can read and write what it will have to."""
        deadline = time.monotonic() + self.params["start_timeout"]
        while self._said().get("state") != _cluster_guard_script.WATCHING:
            if time.monotonic() >= deadline:
                raise ClusterGuardError(
                    f"The guard in the cluster did not say within {self.params['start_timeout']:g} s that it watches: {self._trouble()}. "
                    "It was removed again. Next: correct that, or go without (canary_guard_in_cluster: false)."
                )
            if self.context.sleep(_POLL):
                raise ClusterGuardError("Interrupted while the guard in the cluster was starting. It was removed again.")

    def _trouble(self) -> str:
        """Why there is no word of the guard, as far as its pod and its log tell."""
        pods = self.kube.list(_kube.path_of("", "v1", "pods", self.namespace), {"labelSelector": f"{_OF_RUN}={self.labels[_OF_RUN]}"})
        if not pods:
            return f"Job {self.namespace}/{self.name} has no pod (see kubectl -n {self.namespace} describe job {self.name})"
        pod = max(pods, key=lambda one: str(one["metadata"].get("creationTimestamp")))
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        waiting = [(one.get("state") or {}).get("waiting") or {} for one in status.get("containerStatuses") or []]
        reasons = [f"{one.get('reason')}: {one.get('message')}" for one in waiting if one.get("reason")]
        conditions = [str(one.get("message")) for one in status.get("conditions") or [] if one.get("status") == "False" and one.get("message")]
        try:
            log = self.kube.get_text(_kube.path_of("", "v1", "pods", self.namespace, f"{name}/log"), {"tailLines": 5}, tries=1)
        except _kube.KubeError:
            log = ""
        words = log or "; ".join([*reasons, *conditions[:1]])
        return f"pod {name} is {status.get('phase', 'unknown')}: {one_line(words or 'it says nothing', 400)}"

    def _forget(self) -> None:
        """Take back the word of a guard of this run that has done nothing; what one did stays to be read."""
        state = self._said().get("state")
        if state and state not in (_cluster_guard_script.MOVED, _cluster_guard_script.DRIFT):
            self.kube.patch(self.record_path, {"data": {_events.GUARD_KEY: None}}, _kube.MERGE_PATCH)


def _has_ended(job: dict[str, Any]) -> bool:
    done = {one.get("type") for one in (job.get("status") or {}).get("conditions") or [] if one.get("status") == "True"}
    return bool(done & {"Complete", "Failed"}) or bool(job["metadata"].get("deletionTimestamp"))
