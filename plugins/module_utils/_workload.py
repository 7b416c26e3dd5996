# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module workload_ready: waits for a Deployment, and fails at the first terminal cause. Private."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "kind": {"type": "str", "default": "Deployment", "choices": ["Deployment"]},
    "name": {"type": "str", "required": True},
    "min_ready": {"type": "int"},
    "timeout": {"type": "float", "default": 300.0},
    "interval": {"type": "float", "default": 0.25},
    "stable_for": {"type": "float", "default": 0.0},
    "restart_limit": {"type": "int", "default": 2},
    "unschedulable_grace": {"type": "float", "default": 30.0},
}

SUPPORTS_CHECK_MODE = True

# Waiting reasons of a container that no amount of waiting cures.
_TERMINAL_WAITING = {
    "ImagePullBackOff": "the image cannot be pulled",
    "ErrImageNeverPull": "the image is not on the node and imagePullPolicy is Never",
    "InvalidImageName": "the image name is not valid",
    "CreateContainerConfigError": "a ConfigMap, Secret or key it needs does not exist",
    "CreateContainerError": "the container cannot be created",
    "RunContainerError": "the container cannot be started",
}
# The kubelet says so while it has not yet got to see a new ConfigMap or Secret, and tries again.
_PASSING = re.compile(r"^failed to sync (configmap|secret) cache\b")
_LOG_LINES = 10
# Longest wait for the log of a container that has crashed.
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class Judgement:
    """``state`` is ready, waiting or failed; ``reason`` says why in one line; ``pod`` names the culprit, if any."""

    state: str
    reason: str
    pod: str = ""
    waiting_seconds: float = 0.0


@dataclass
class Limits:
    """How strict :func:`judge` is. ``unschedulable_grace`` in seconds."""

    min_ready: int | None = None
    restart_limit: int = 2
    unschedulable_grace: float = 30.0


def judge(deployment: dict[str, Any], pods: list[dict[str, Any]], limits: Limits, waited: float) -> Judgement:
    """Decide whether the Deployment is ready, still coming, or cannot come.

    ``pods`` are those of the newest template. ``waited`` is how many seconds this wait has lasted. Ready means: the
    controller has seen the newest spec, every replica is of the newest template and available, none of an older one is left.
    """
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    wanted = spec.get("replicas", 1)
    needed = wanted if limits.min_ready is None else limits.min_ready
    if not wanted:
        return Judgement("failed", "spec.replicas is 0: nothing will ever become ready")
    if needed > wanted:
        return Judgement("failed", f"{needed} ready pods are demanded, but spec.replicas is {wanted}")
    generation = (deployment.get("metadata") or {}).get("generation", 0)
    if status.get("observedGeneration", 0) < generation:
        return Judgement("waiting", "the controller has not seen the newest spec yet")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return Judgement("failed", f"ProgressDeadlineExceeded: {one_line(condition.get('message'))}")
    for pod in pods:
        broken = _terminal(pod, limits, waited)
        if broken:
            return Judgement("failed", broken, pod["metadata"]["name"])
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return Judgement("waiting", f"{updated} of {wanted} replicas have the newest template")
    if total > updated:
        return Judgement("waiting", f"{total - updated} replicas of an older template are still there")
    if available < needed:
        return Judgement("waiting", f"{available} of {needed} pods are available")
    return Judgement("ready", f"{available} of {wanted} pods are available")


def _terminal(pod: dict[str, Any], limits: Limits, waited: float) -> str:
    """Return why ``pod`` will not become ready, or an empty string while it still may."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return ""
    if status.get("phase") == "Failed":
        return f"pod {name} failed: {status.get('reason') or 'no reason given'} {one_line(status.get('message') or '')}".strip()
    for condition in status.get("conditions") or []:
        unschedulable = condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"
        if unschedulable and waited >= limits.unschedulable_grace:
            return f"pod {name} cannot be scheduled: {one_line(condition.get('message'))}"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        title = f"container {container.get('name')} of pod {name}"
        if reason in _TERMINAL_WAITING and not _PASSING.search(str(waiting.get("message") or "")):
            return f"{title}: {reason}, {_TERMINAL_WAITING[reason]}: {one_line(waiting.get('message') or '')}"
        if container.get("restartCount", 0) >= limits.restart_limit and not container.get("ready"):
            # Between two starts the newest end is the present state, and the one before may be forgotten already.
            ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
            if not (ended or reason) and container["restartCount"] == limits.restart_limit:
                # How it ended is known with the next look, or with the next restart.
                continue
            return (
                f"{title}: restarted {container['restartCount']} times ({reason or 'not ready'}), "
                f"last exit code {ended.get('exitCode', 'unknown')} ({ended.get('reason') or 'no reason given'})"
            )
    return ""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Wait until the Deployment is ready. Raises :class:`RolloutError` at the first terminal cause or at the deadline."""
    return _Wait(params, context).run()


@dataclass
class _Wait:
    params: dict[str, Any]
    context: Context
    result: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        params = self.params
        self.kube = _kube.connect(params)
        self.path = _kube.path_of("apps", "v1", "deployments", params["namespace"], params["name"])
        limits = Limits(params["min_ready"], params["restart_limit"], params["unschedulable_grace"])
        started = time.monotonic()
        ready_since: float | None = None
        shown = ""
        while True:
            waited = time.monotonic() - started
            verdict = self._look(limits, waited)
            if verdict.state == "failed":
                self._fail(verdict.reason, verdict.pod)
            if verdict.state == "ready":
                ready_since = time.monotonic() if ready_since is None else ready_since
                if time.monotonic() - ready_since >= params["stable_for"]:
                    self.result.update(ready=True, reason=verdict.reason, seconds=round(waited, 2))
                    return self.result
            else:
                ready_since = None
            if verdict.reason != shown:
                shown = verdict.reason
                self.context.progress(f"Deployment {params['namespace']}/{params['name']}: {shown}")
            if self.context.check_mode:
                self.result.update(ready=verdict.state == "ready", reason=verdict.reason, seconds=0.0)
                return self.result
            if waited >= params["timeout"]:
                self._fail(f"not ready after {params['timeout']:g} s: {verdict.reason}", _first_unready(self.pods))
            if self.context.sleep(params["interval"]):
                self._fail(f"interrupted by {self.context.signal_name} while waiting: {verdict.reason}", "")

    def _look(self, limits: Limits, waited: float) -> Judgement:
        params = self.params
        self.result = {"changed": False, "ready": False, "reason": "", "replicas": {}, "events": [], "pods": [], "log": []}
        self.pods: list[dict[str, Any]] = []
        deployment = self.kube.find(self.path)
        if deployment is None:
            return Judgement("failed", "it does not exist")
        selector = (deployment["spec"].get("selector") or {}).get("matchLabels") or {}
        text = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        base = _kube.path_of("", "v1", "pods", params["namespace"])
        everything = self.kube.list(base, {"labelSelector": text})
        self.pods = [pod for pod in everything if _is_newest(pod, deployment, everything)]
        status = deployment.get("status") or {}
        self.result["replicas"] = {
            "wanted": deployment["spec"].get("replicas", 1),
            "updated": status.get("updatedReplicas", 0),
            "available": status.get("availableReplicas", 0),
            "ready": status.get("readyReplicas", 0),
        }
        self.result["pods"] = [{"name": pod["metadata"]["name"], "ready": pod_is_ready(pod)} for pod in self.pods]
        return judge(deployment, self.pods, limits, waited)

    def _fail(self, reason: str, pod: str) -> None:
        params = self.params
        self.result.update(reason=reason)
        self.result["events"] = self._events(pod or params["name"])
        if pod:
            self.result["log"] = self._last_lines(pod)
        title = f"Deployment {params['namespace']}/{params['name']}"
        tail = f" Last log line: {self.result['log'][-1]}" if self.result["log"] else ""
        last = f" Last event: {self.result['events'][-1]}" if self.result["events"] else ""
        needed = params["min_ready"] or self.result["replicas"].get("wanted", "all")
        raise RolloutError(
            f"{title}: {reason}. Expected {needed} ready pods within {params['timeout']:g} s.{last}{tail} "
            f"Next: kubectl -n {params['namespace']} describe {'pod ' + pod if pod else 'deployment ' + params['name']}",
            **self.result,
        )

    def _events(self, name: str) -> list[str]:
        selector = {"fieldSelector": f"involvedObject.name={name}"}
        try:
            events = self.kube.list(_kube.path_of("", "v1", "events", self.params["namespace"]), selector)
        except _kube.KubeError:
            # The cause is known already; events only decorate it, and the right to read them may be missing.
            return []
        events.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))
        return [f"{item.get('reason')}: {one_line(item.get('message'))}" for item in events[-5:]]

    def _last_lines(self, pod: str) -> list[str]:
        """Return the end of the log of ``pod``; what crashed a moment ago is asked for again for :data:`_LOG_SECONDS`.

        Between two starts the API server may name a container whose log the kubelet has removed, and the new one has not said anything yet.
        """
        crashed = any(_has_crashed(item) for item in self.pods if item["metadata"]["name"] == pod)
        deadline = time.monotonic() + (_LOG_SECONDS if crashed else 0.0)
        while not (lines := self._log(pod)) and time.monotonic() < deadline and not self.context.sleep(0.2):
            pass
        return lines

    def _log(self, pod: str) -> list[str]:
        path = _kube.path_of("", "v1", "pods", self.params["namespace"], pod) + "/log"
        for previous in ("true", "false"):
            try:
                text = self.kube.get_text(path, {"tailLines": _LOG_LINES, "previous": previous}, timeout=3.0)
            except _kube.KubeError:
                continue
            # The kubelet answers 200 with these words when the container's log is gone already.
            if text.strip() and not text.startswith("unable to retrieve container logs"):
                return [one_line(line, 200) for line in text.splitlines()[-_LOG_LINES:]]
        return []


def _is_newest(pod: dict[str, Any], deployment: dict[str, Any], pods: list[dict[str, Any]]) -> bool:
    """Whether ``pod`` belongs to the newest ReplicaSet, judged by creation of its template hash."""
    newest = max(pods, key=lambda item: str(item["metadata"].get("creationTimestamp")))
    label = "pod-template-hash"
    return (pod["metadata"].get("labels") or {}).get(label) == (newest["metadata"].get("labels") or {}).get(label)


def _has_crashed(pod: dict[str, Any]) -> bool:
    return any(container.get("restartCount", 0) > 0 for container in (pod.get("status") or {}).get("containerStatuses") or [])


def _first_unready(pods: list[dict[str, Any]]) -> str:
    return next((pod["metadata"]["name"] for pod in pods if not pod_is_ready(pod)), "")
