# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module environment_check: the environment of running pods against the declared one. Private to this collection."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _environment, _kube, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "name": {"type": "str", "required": True},
    "orphans": {"type": "dict"},
    "timeout": {"type": "float", "default": 10.0},
    "box": {"type": "str", "default": "step_2.environment"},
}
SUPPORTS_CHECK_MODE = True

_COMMAND = ["cat", "/proc/1/environ"]
_LARGEST = 1024 * 1024
_AT_ONCE = 8
_PATHS = {"ConfigMap": "configmaps", "Secret": "secrets"}


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Compare the environment of every ready pod of a Deployment with what its template declares. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys when one differs.
    """
    if not params["timeout"] > 0:
        raise RolloutError(f"environment_check: timeout is {params['timeout']} s, expected a number above 0. Nothing was read.")
    return _Check(params, _kube.connect(params)).run()


class _Check:
    """One look at a Deployment and its pods."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube) -> None:
        self.params = params
        self.kube = kube
        self.namespace = params["namespace"]
        self.title = f"Deployment {self.namespace}/{params['name']}"
        self.warnings: list[str] = []
        self.unknown: list[str] = []
        self.problems: list[str] = []

    def run(self) -> dict[str, Any]:
        deployment = self.kube.find(_kube.path_of("apps", "v1", "deployments", self.namespace, self.params["name"]))
        if deployment is None:
            raise RolloutError(f"{self.title} does not exist. Expected the one whose pods are looked at. Next: correct the name.")
        containers = ((deployment["spec"]["template"]).get("spec") or {}).get("containers") or []
        objects = self._objects(containers)
        selector = (deployment["spec"].get("selector") or {}).get("matchLabels") or {}
        labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        pods = [pod for pod in self.kube.list(_kube.path_of("", "v1", "pods", self.namespace), {"labelSelector": labels}) if pod_is_ready(pod)]
        if not pods:
            self.unknown.append("no pod is ready")
        places = [(pod, container) for pod in pods for container in containers]
        with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(places)))) as pool:
            shown = list(pool.map(lambda place: self._container(*place, objects), places))
        return self._result([entry for entry in shown if entry], len(pods))

    def _result(self, shown: list[dict[str, Any]], pods: int) -> dict[str, Any]:
        hashes = sorted({entry["sha256"] for entry in shown})
        names = len({name for entry in shown for name in entry["names"]})
        verdict = "fail" if self.problems else "unknown" if self.unknown else "pass"
        evidence = "; ".join(self.problems) or f"{names} variables in {pods} pods equal the declared ones, sha256 of all {', '.join(hashes)}"
        orphans = self._orphans()
        if orphans:
            self.warnings.append(f"no Deployment refers to ConfigMap {', '.join(orphans)}: an old generation that could be removed.")
        self.warnings += [f"{text}, so the environment is not proven." for text in dict.fromkeys(self.unknown)]
        result = {
            "changed": False,
            "verdict": verdict,
            "containers": sorted(shown, key=lambda entry: (entry["pod"], entry["container"])),
            "orphans": orphans,
            "problems": self.problems,
            "warnings": self.warnings,
            "proofs": {}
            if verdict == "unknown"
            else {self.params["box"]: {"state": "proven" if verdict == "pass" else "failed", "evidence": one_line(evidence)}},
        }
        if self.problems:
            raise RolloutError(
                f"{self.title}: {one_line('; '.join(self.problems), 1000)}. Expected the environment that its template declares. Next: restart the "
                "pods if the configuration was changed after they had started; otherwise see which ConfigMap or Secret is not that of the release.",
                **result,
            )
        return result

    def _objects(self, containers: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
        found: dict[tuple[str, str], dict[str, str]] = {}
        for kind, name in dict.fromkeys(source for container in containers for source in _environment.sources(container)):
            try:
                document = self.kube.find(_kube.path_of("", "v1", _PATHS[kind], self.namespace, name))
            except _kube.KubeError as error:
                if error.status != 403:
                    raise
                self.unknown.append(f"no right to read {kind} {name}")
                continue
            if document is not None:
                data = document.get("data") or {}
                found[kind, name] = {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in data.items()} if kind == "Secret" else data
        return found

    def _container(self, pod: dict[str, Any], container: dict[str, Any], objects: dict[tuple[str, str], dict[str, str]]) -> dict[str, Any] | None:
        name, where = str(pod["metadata"]["name"]), str(container["name"])
        wanted = _environment.declared(container, objects, pod)
        if not self.unknown:
            self.problems += [f"{where}: {what} does not exist" for what in wanted.missing if f"{where}: {what} does not exist" not in self.problems]
        try:
            done = _pod_exec.run(self.kube.clone(), self.namespace, name, where, _COMMAND, self.params["timeout"], _LARGEST)
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            self.unknown.append(f"no right to run a command in the pods of namespace {self.namespace} (pods/exec)")
            return None
        except _pod_exec.ExecError as error:
            if not error.not_found:
                raise
            self.unknown.append(f"container {where} has no program cat")
            return None
        if done.code != 0:
            self.unknown.append(f"container {where} does not let its environment be read: {one_line(done.stderr, 80)}")
            return None
        running = _environment.environ(done.stdout)
        drift = _environment.compare(wanted, running)
        if drift:
            parts = [f"{words} {', '.join(names)}" for words, names in (("other value of", drift.different), ("without", drift.missing)) if names]
            self.problems.append(f"pod {name}, container {where}: {'; '.join(parts)}")
        return {
            "pod": name,
            "container": where,
            "names": sorted(wanted.values),
            "different": list(drift.different),
            "missing": list(drift.missing),
            "sha256": _environment.fingerprint({key: running.get(key) for key, value in wanted.values.items() if not _own(container, key)}),
        }

    def _orphans(self) -> list[str]:
        labels = self.params["orphans"]
        if not labels:
            return []
        try:
            selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            configmaps = self.kube.list(_kube.path_of("", "v1", "configmaps", self.namespace), {"labelSelector": selector})
            return _environment.orphans(configmaps, self.kube.list(_kube.path_of("apps", "v1", "deployments", self.namespace)))
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            self.warnings.append(f"no right to list ConfigMaps and Deployments in namespace {self.namespace}, so old generations are not seen.")
            return []


def _own(container: dict[str, Any], name: str) -> bool:
    """Whether a variable is each pod's own, such as its name: it would make every pod's hash another."""
    return any(entry.get("name") == name and {"fieldRef", "resourceFieldRef"} & set(entry.get("valueFrom") or {}) for entry in container.get("env") or [])
