# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module service_status: how both versions of a service stand, in one call. Private to this collection.

It is for the moment when things are broken. Whatever the API server refuses, or nobody can tell, is named in ``not_seen``, and the rest is shown.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _pod_status, _prometheus, _promql, _status_words
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.BESIDE_KUBERNETES_SPEC,
    "prometheus_timeout": {"type": "float", "default": 5.0},
    "service": {"type": "str", "required": True},
    "stable_version": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "selector": {"type": "str"},
    "services": {"type": "list", "elements": "str"},
    "log_lines": {"type": "int", "default": 5},
    "log_pods": {"type": "int", "default": 20},
    "events": {"type": "int", "default": 3},
    "usage_window": {"type": "int", "default": 60},
    "width": {"type": "int", "default": 120},
    "secrets": {"type": "list", "elements": "str", "no_log": True, "default": []},
}
SUPPORTS_CHECK_MODE = True

_BOUNDS = {"log_lines": (0, 1000), "log_pods": (0, 1000), "events": (0, 100), "usage_window": (1, 86400), "width": (80, 1000)}
# A refusal or an absence is an answer; anything else is an API server that cannot be asked.
_ANSWERS = (403, 404, 405)
_METRICS = ("metrics.k8s.io", "v1beta1")
_LOG_BYTES = 262_144


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return pods, endpoints, autoscalers, usage and last log lines of the service, and all of it as ``text``. See the module's RETURN.

    Raises :class:`RolloutError` for options out of range, and :class:`_kube.KubeError` when the API server gives no answer at all.
    """
    problems = [
        f"{name} is {params[name]}, expected {least} to {most}" for name, (least, most) in _BOUNDS.items() if not least <= params[name] <= most
    ]
    if problems:
        raise RolloutError(f"service_status: {'; '.join(problems)}. Next: correct the options.")
    return Status(params, _kube.connect(params)).run()


class Status:
    """Reads one service's objects over one connection."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube) -> None:
        self.params = params
        self.kube = kube
        self.namespace: str = params["namespace"]
        self.service: str = params["service"]
        self.selector: str = params["selector"] or f"app={self.service}"
        self.not_seen: list[str] = []
        self.now = datetime.now(timezone.utc)

    def run(self) -> dict[str, Any]:
        bodies = self._seen("pods", lambda: self.kube.list(self._path("", "v1", "pods"), {"labelSelector": self.selector}))
        pods = None if bodies is None else self._pods(bodies)
        source = self._usage(bodies or [], pods or [])
        answer: dict[str, Any] = {
            "changed": False,
            "pods": pods,
            "endpoints": self._endpoints(pods or []),
            "autoscalers": self._autoscalers(),
            "usage_source": source,
            "commands": self._commands(pods or []),
            "not_seen": self.not_seen,
        }
        return {**answer, "text": _status_words.text(answer, self.params["width"])}

    def _path(self, group: str, version: str, plural: str, name: str | None = None) -> str:
        return _kube.path_of(group, version, plural, self.namespace, name)

    def _seen(self, what: str, read: Callable[[], Any]) -> Any:
        """Return what ``read`` gives, or None, with the reason noted, when the server refuses just this."""
        try:
            return read()
        except _kube.KubeError as error:
            if error.status not in _ANSWERS:
                raise
            self.not_seen.append(f"{what}: {one_line(error.message, 240)}")
            return None

    # ---------------------------------------------------------------------------------------------- pods

    def _pods(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        stable, canary = self.params["stable_version"], self.params["version"]
        pods = [_pod_status.read_pod(body, stable, canary, self.now) for body in bodies]
        sides = {_pod_status.BLUE: 0, _pod_status.GREEN: 1}
        pods.sort(key=lambda pod: (sides.get(pod["side"], 2), pod["version"], pod["name"]))
        for pod in pods:
            pod.update(usage=[], log_is_previous=False)
        self._events(pods)
        self._logs(pods)
        return pods

    def _events(self, pods: list[dict[str, Any]]) -> None:
        if not pods or not self.params["events"]:
            return
        asked = {"fieldSelector": "involvedObject.kind=Pod"}
        events = self._seen("events", lambda: self.kube.list(self._path("", "v1", "events"), asked))
        found = _pod_status.events_by_pod(events or [], [pod["name"] for pod in pods], self.params["events"], self.now)
        for pod in pods:
            # Of a pod that is well, how it was scheduled and started is no news.
            mine = found.get(pod["name"], [])
            pod["events"] = mine if not pod["is_ready"] else [words for words in mine if " Warning " in words]

    def _logs(self, pods: list[dict[str, Any]]) -> None:
        if not self.params["log_lines"]:
            return
        # Those that are not well first, should there be more than are asked for.
        chosen = sorted(pods, key=lambda pod: pod["is_ready"])[: self.params["log_pods"]]
        if len(chosen) < len(pods):
            self.not_seen.append(f"logs of {len(pods) - len(chosen)} more pods: log_pods is {self.params['log_pods']}")
        for pod in chosen:
            try:
                pod["log"] = self._log(pod, previous=False)
                if not pod["log"] and pod["restarts"]:
                    pod["log"] = self._log(pod, previous=True)
                    pod["log_is_previous"] = True
            except _kube.KubeError as error:
                if error.status in (401, 403):
                    self.not_seen.append(f"logs: {one_line(error.message, 240)}")
                    return
                # 400 is what a container that has never run answers; a kubelet that is away answers 500 or nothing.
                if error.status != 400:
                    self.not_seen.append(f"log of {pod['name']}: {one_line(error.message, 240)}")

    def _log(self, pod: dict[str, Any], previous: bool) -> list[str]:
        asked = {"container": pod["container"], "tailLines": self.params["log_lines"], "limitBytes": _LOG_BYTES}
        if previous:
            asked["previous"] = "true"
        path = f"{self._path('', 'v1', 'pods', pod['name'])}/log"
        lines = self.kube.get_text(path, asked, tries=1).splitlines()
        return [_pod_status.masked(one_line(line, 1000)) for line in lines][-self.params["log_lines"] :]

    # ---------------------------------------------------------------------------------------------- what leads to them

    def _endpoints(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        services = self.params["services"] or [self.service]
        asked = {"labelSelector": f"kubernetes.io/service-name in ({','.join(services)})"}
        slices = self._seen("endpoints", lambda: self.kube.list(self._path("discovery.k8s.io", "v1", "endpointslices"), asked))
        return None if slices is None else _pod_status.read_endpoints(slices, services, {pod["name"]: pod["version"] for pod in pods})

    def _autoscalers(self) -> list[dict[str, Any]] | None:
        bodies = self._seen("autoscalers", lambda: self.kube.list(self._path("autoscaling", "v2", "horizontalpodautoscalers")))
        if bodies is None:
            return None
        mine = [_pod_status.read_autoscaler(body) for body in bodies]
        return [row for row in mine if re.fullmatch(rf"[A-Za-z]+/{re.escape(self.service)}(-.*)?", row["target"])]

    # ---------------------------------------------------------------------------------------------- usage

    def _usage(self, bodies: list[dict[str, Any]], pods: list[dict[str, Any]]) -> str:
        """Fill in what each container uses; return who said so, or nothing."""
        if not bodies:
            return ""
        source, used = "metrics API", self._by_metrics_api()
        if not used:
            source, used = f"Prometheus, mean of {self.params['usage_window']} s", self._by_prometheus()
        if not used:
            return ""
        resources = {str(body["metadata"]["name"]): _pod_status.containers(body) for body in bodies}
        for pod in pods:
            pod["usage"] = _pod_status.usage_of(resources[pod["name"]], used.get(pod["name"]) or {})
        return source

    def _by_metrics_api(self) -> dict[str, dict[str, dict[str, float]]]:
        path = _kube.path_of(*_METRICS, "pods", self.namespace)
        try:
            # An aggregated API whose server is away answers 503, which is not worth waiting for here.
            listed = json.loads(self.kube.get_text(path, {"labelSelector": self.selector}, tries=1))
        except _kube.KubeError as error:
            words = "there is none in this cluster" if error.status == 404 else one_line(error.message, 240)
            self.not_seen.append(f"metrics API: {words}")
            return {}
        found: dict[str, dict[str, dict[str, float]]] = {}
        for item in listed.get("items") or []:
            own = found.setdefault(str(item["metadata"]["name"]), {})
            for container in item.get("containers") or []:
                amounts = {kind: _pod_status.quantity((container.get("usage") or {}).get(kind)) for kind in ("cpu", "memory")}
                own[str(container.get("name"))] = {kind: amount for kind, amount in amounts.items() if amount is not None}
        if not found:
            self.not_seen.append("metrics API: it knows none of the pods")
        return found

    def _by_prometheus(self) -> dict[str, dict[str, dict[str, float]]]:
        if not self.params["prometheus_url"]:
            self.not_seen.append("Prometheus: prometheus_url is not given")
            return {}
        own = _prometheus.beside_kubernetes(self.params)
        wrong = _prometheus.problems_of(own)
        if wrong:
            self.not_seen.append(f"Prometheus: {'; '.join(wrong)}")
            return {}
        labels = {"namespace": self.namespace}
        pods = f"pod=~{_promql.quote(re.escape(self.service) + '-.*')}"
        cpu = _promql.selector("container_cpu_usage_seconds_total", labels, pods, 'container!=""', 'container!="POD"')
        memory = _promql.selector("container_memory_working_set_bytes", labels, pods, 'container!=""', 'container!="POD"')
        queries = {
            "cpu": f"sum by (pod, container) (rate({cpu}[{self.params['usage_window']}s]))",
            "memory": f"max by (pod, container) ({memory})",
        }
        client = _prometheus.Prometheus(own, self.params["prometheus_timeout"])
        found: dict[str, dict[str, dict[str, float]]] = {}
        for kind, query in queries.items():
            try:
                payload = client.ask("/api/v1/query", {"query": query})
            except _prometheus.PrometheusError as error:
                self.not_seen.append(f"Prometheus: {one_line(error.message, 240)}")
                return {}
            for series in (payload.get("data") or {}).get("result") or []:
                labels = series.get("metric") or {}
                found.setdefault(labels.get("pod", ""), {}).setdefault(labels.get("container", ""), {})[kind] = float(series["value"][1])
        if not found:
            self.not_seen.append("Prometheus: it has no series of these pods' containers")
        return found

    # ---------------------------------------------------------------------------------------------- lines for people

    def _commands(self, pods: list[dict[str, Any]]) -> list[str]:
        """Ready-made lines for what a screen cannot do: follow a log, describe all of a pod, go inside."""
        base = ["kubectl"]
        for option in ("kubeconfig", "context"):
            if self.params.get(option):
                base.append(f"--{option}={self.params[option]}")
        base += ["-n", self.namespace]
        lines = [[*base, "logs", "-f", "-l", self.selector, "--tail=100"]]
        for side in (_pod_status.BLUE, _pod_status.GREEN):
            mine = [pod for pod in pods if pod["side"] == side]
            if mine:
                # The one that is not well is the one to look into.
                pod = min(mine, key=lambda one: one["is_ready"])
                lines += [[*base, "describe", "pod", pod["name"]], [*base, "exec", "-it", pod["name"], "-c", pod["container"], "--", "/bin/bash"]]
        return [shlex.join(line) for line in lines]
