# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the objects of a service say, in the terms of kubectl's get, describe and top. Pure, private to this collection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

try:
    from kubernetes.utils import parse_quantity
except ImportError:
    parse_quantity = None

BLUE, GREEN = "blue", "green"
_EVENT_WORDS = 160
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+@")
_NAMED_SECRET = re.compile(r"(?i)\b([\w-]*(?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&\"'}]+)")
MASK = "********"


def masked(text: str) -> str:
    """Return a line of a log without what looks like a secret: passwords in addresses, values of things called password, token or key."""
    return _NAMED_SECRET.sub(lambda found: found.group(1) + MASK, _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text))


def quantity(text: Any) -> float | None:
    """Return a Kubernetes quantity such as 250m or 64Mi as a number, None for nothing or nonsense."""
    if text in (None, ""):
        return None
    require("kubernetes", parse_quantity)
    try:
        return float(parse_quantity(str(text)))
    except ValueError:
        return None


def age(since: Any, now: datetime) -> str:
    """Return how long ago an API time is, as kubectl shows it: 45s, 12m, 3h, 4d."""
    try:
        moment = datetime.fromisoformat(str(since).replace("Z", "+00:00"))
    except ValueError:
        return "?"
    seconds = max(0, int((now - moment.astimezone(timezone.utc)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def side(version: str, stable: str, canary: str) -> str:
    """Return which side of the release a version is on; empty for one that is not part of it."""
    return BLUE if version == stable else GREEN if version == canary else ""


def containers(pod: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return each container's requests and limits: ``cpu`` in cores and ``memory`` in bytes, None where nothing is set."""
    found = {}
    for container in (pod.get("spec") or {}).get("containers") or []:
        resources = container.get("resources") or {}
        found[str(container.get("name"))] = {
            f"{kind}_{name}": quantity((resources.get(f"{kind}s") or {}).get(name)) for kind in ("request", "limit") for name in ("cpu", "memory")
        }
    return found


def main_container(pod: Mapping[str, Any]) -> str:
    """Return the container that kubectl logs and exec would take."""
    names = [str(container.get("name")) for container in (pod.get("spec") or {}).get("containers") or []]
    wished = ((pod.get("metadata") or {}).get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    return wished if wished in names else (names or [""])[0]


def read_pod(pod: Mapping[str, Any], stable: str, canary: str, now: datetime) -> dict[str, Any]:
    """Return one pod as a row of kubectl get pods -o wide, with what describe would add when it is not well."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    states = status.get("containerStatuses") or []
    version = str((metadata.get("labels") or {}).get("version") or "")
    return {
        "name": str(metadata["name"]),
        "version": version,
        "side": side(version, stable, canary),
        "ready": f"{sum(bool(state.get('ready')) for state in states)}/{len(spec.get('containers') or [])}",
        "is_ready": pod_is_ready(dict(pod)),
        "status": _state(metadata, status),
        "restarts": sum(int(state.get("restartCount") or 0) for state in states),
        "age": age(metadata.get("creationTimestamp"), now),
        "ip": str(status.get("podIP") or ""),
        "node": str(spec.get("nodeName") or ""),
        "container": main_container(pod),
        "reasons": _reasons(status, now),
        "events": [],
        "log": [],
    }


def _state(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """The column STATUS: the most telling of what the pod and its containers say."""
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    for state in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        now = state.get("state") or {}
        for kind in ("waiting", "terminated"):
            reason = (now.get(kind) or {}).get("reason")
            if reason and reason not in ("Completed", "PodInitializing"):
                return str(reason)
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _reasons(status: Mapping[str, Any], now: datetime) -> list[str]:
    """What describe says of a pod that is not well: conditions that are not true, why a container waits, how it ended last."""
    found = []
    for condition in status.get("conditions") or []:
        if condition.get("status") != "True" and (condition.get("type") in ("PodScheduled", "Ready") or condition.get("message")):
            words = condition.get("message") or condition.get("reason") or "no reason given"
            found.append(f"condition {condition.get('type')} is {condition.get('status')}: {one_line(words, _EVENT_WORDS)}")
    for state in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (state.get("state") or {}).get("waiting") or {}
        if waiting:
            found.append(f"container {state.get('name')} waits: {waiting.get('reason')}{_colon(waiting.get('message'))}")
        ended = (state.get("lastState") or {}).get("terminated") or (state.get("state") or {}).get("terminated") or {}
        if ended:
            signal = f", signal {ended['signal']}" if ended.get("signal") else ""
            found.append(
                f"container {state.get('name')} ended {age(ended.get('finishedAt'), now)} ago: {ended.get('reason') or 'no reason given'}, "
                f"exit code {ended.get('exitCode')}{signal}{_colon(ended.get('message'))}"
            )
    return found


def _colon(message: Any) -> str:
    return f": {masked(one_line(message, _EVENT_WORDS))}" if message else ""


def events_by_pod(events: Iterable[Mapping[str, Any]], names: Iterable[str], most: int, now: datetime) -> dict[str, list[str]]:
    """Return the last ``most`` events of each pod, the newest last, in words. A pod's own events name it by the involved object."""
    wanted = set(names)
    kept: dict[str, list[tuple[str, str]]] = {}
    for event in events:
        name = (event.get("involvedObject") or {}).get("name")
        if name not in wanted:
            continue
        series = event.get("series") or {}
        last = str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp") or "")
        count = series.get("count") or event.get("count") or 1
        times = f" ({count} times)" if count > 1 else ""
        words = masked(one_line(event.get("message") or "", _EVENT_WORDS))
        kept.setdefault(str(name), []).append((last, f"{age(last, now)} ago {event.get('type')} {event.get('reason')}{times}: {words}"))
    return {name: [words for _last, words in sorted(found)[-most:]] if most else [] for name, found in kept.items()}


def read_endpoints(slices: Iterable[Mapping[str, Any]], services: Iterable[str], versions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what each Service leads to, in the order of ``services``. ``versions``: name of a pod to its version."""
    found: dict[str, dict[str, Any]] = {name: {"service": name, "ready": {}, "not_ready": {}, "ports": []} for name in services}
    for piece in slices:
        row = found.get(str(((piece.get("metadata") or {}).get("labels") or {}).get("kubernetes.io/service-name") or ""))
        if row is None:
            continue
        row["ports"] = sorted({*row["ports"], *(int(port["port"]) for port in piece.get("ports") or [] if port.get("port"))})
        for endpoint in piece.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            version = versions.get(str((endpoint.get("targetRef") or {}).get("name")), "unknown")
            # The API says that an absent condition counts as ready.
            group = row["ready"] if conditions.get("ready") in (True, None) else row["not_ready"]
            group.setdefault(version, [])
            group[version] = sorted({*group[version], *map(str, endpoint.get("addresses") or [])})
    return list(found.values())


def read_autoscaler(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return one HorizontalPodAutoscaler (autoscaling/v2) as a row of kubectl get hpa."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    current = {_metric_name(entry): _metric_value(entry, "current") for entry in status.get("currentMetrics") or []}
    metrics = [
        f"{_metric_name(entry)} {current.get(_metric_name(entry)) or '<unknown>'} / {_metric_value(entry, 'target') or '?'}"
        for entry in spec.get("metrics") or []
    ]
    wrong = [
        f"{condition.get('type')} is {condition.get('status')}: {one_line(condition.get('message') or condition.get('reason') or '', _EVENT_WORDS)}"
        for condition in status.get("conditions") or []
        if condition.get("type") in ("AbleToScale", "ScalingActive") and condition.get("status") != "True"
    ]
    return {
        "name": str((body.get("metadata") or {}).get("name")),
        "target": f"{target.get('kind')}/{target.get('name')}",
        "metrics": metrics,
        "minimum": int(spec.get("minReplicas") or 1),
        "maximum": int(spec.get("maxReplicas") or 0),
        "replicas": int(status.get("currentReplicas") or 0),
        "desired": int(status.get("desiredReplicas") or 0),
        "problems": wrong,
    }


def _metric_name(entry: Mapping[str, Any]) -> str:
    body = _metric_body(entry)
    return str(body.get("name") or (body.get("metric") or {}).get("name") or entry.get("type"))


def _metric_body(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = str(entry.get("type") or "")
    return entry.get(kind[:1].lower() + kind[1:]) or {}


def _metric_value(entry: Mapping[str, Any], which: str) -> str:
    value = _metric_body(entry).get(which) or {}
    if value.get("averageUtilization") is not None:
        return f"{value['averageUtilization']}%"
    return str(value.get("averageValue") or value.get("value") or "")


def usage_of(containers_of_pod: Mapping[str, Mapping[str, float | None]], used: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return what each container uses beside its request and limit, in percent of them where they are set."""
    rows = []
    for name, resources in containers_of_pod.items():
        row: dict[str, Any] = {"container": name}
        for kind in ("cpu", "memory"):
            value = (used.get(name) or {}).get(kind)
            row[kind] = value
            for bound in ("request", "limit"):
                most = resources.get(f"{bound}_{kind}")
                row[f"{kind}_of_{bound}_percent"] = None if value is None or not most else round(100 * value / most, 1)
        rows.append(row)
    return rows
