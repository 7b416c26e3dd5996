# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on demand, and their cure. Faults of the service are knobs in a ConfigMap; the others act on the platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import database, processes, settings
from .api import JSON_PATCH, ApiError
from .cluster import NAMESPACE, Cluster, http_get
from .settings import LabError

DEFAULT_VERSION = "v2"
FOREIGN_MANAGER = "kubectl-edit"
FOREIGN_WEIGHT = "37"
METRICS_SERVICE = "signal-service-pods"


@dataclass(frozen=True)
class Knob:
    """A file of the knobs ConfigMap; ``default`` is what ``break`` writes when no value is given."""

    file: str
    default: str
    unit: str
    low: float
    high: float


KNOBS = {
    "error-ratio": Knob("error_ratio", "0.05", "share of requests, 0 to 1", 0, 1),
    "latency": Knob("latency_ms", "400", "milliseconds", 0, 60000),
    "crash-loop": Knob("crash", "1", "0 or 1", 0, 1),
    "unready": Knob("unready", "1", "0 or 1", 0, 1),
    "memory-leak": Knob("leak_mb_per_s", "20", "MiB per second", 0, 1024),
    "memory-pressure": Knob("held_mb", "140", "MiB that are held", 0, 65536),
    "disk-full": Knob("disk_percent", "95", "percent of the pod's /dev/shm", 0, 99),
}
# name: (namespace, Deployment)
SCALED = {
    "prometheus-down": ("monitoring", "prometheus"),
    "database-down": ("signal-data", "timescaledb"),
    "redis-down": ("signal-data", "redis"),
    "sink-down": ("monitoring", "sink"),
}
NAMES = (*KNOBS, *SCALED, "no-metrics", "foreign-edit")


def apply(cluster: Cluster, what: str, value: str | None, version: str) -> str:
    """Break ``what``; returns one line that says what is broken now."""
    _known(what)
    if what in KNOBS:
        return _turn(cluster, KNOBS[what], value, version)
    if what == "foreign-edit":
        return _foreign_edit(cluster, value)
    if value is not None:
        raise LabError(f"break {what} takes no value, got {value!r}")
    if what in SCALED:
        namespace, name = SCALED[what]
        cluster.wait_scaled(namespace, name, 0)
        return f"{what}: Deployment {namespace}/{name} has no pods now"
    _select_metrics(cluster, "signal-service-without-metrics")
    processes.wait_until(lambda: not _service_targets(cluster), 15, "Prometheus without targets of job signal-service", 0.2)
    return "no-metrics: Prometheus runs, but no longer finds the service's pods"


def heal(cluster: Cluster, what: str | None, version: str | None) -> list[str]:
    """Undo one break, or all of them; returns what was done."""
    if what is None:
        done = heal_platform(cluster)
        done += [_clear_knobs(cluster, each, None) for each in ([version] if version else settings.SERVICE_VERSIONS)]
        done.append(_undo_foreign_edit(cluster))
        return [line for line in done if line]
    _known(what)
    if what in KNOBS:
        return [_clear_knobs(cluster, version or DEFAULT_VERSION, KNOBS[what].file) or f"{what} was not set"]
    if what in SCALED:
        _scale_up(cluster, what)
        return [f"{what}: healed, {'/'.join(SCALED[what])} is ready"]
    if what == "no-metrics":
        _restore_metrics(cluster)
        return ["no-metrics: healed, Prometheus scrapes the service again"]
    return [_undo_foreign_edit(cluster) or "foreign-edit: the weights are not those of the foreign edit; nothing done"]


def heal_platform(cluster: Cluster) -> list[str]:
    """Bring back every part of the platform that a break took down."""
    done = []
    for what, (namespace, name) in SCALED.items():
        found = cluster.api.get("Deployment", namespace, name)
        if found is not None and found["spec"].get("replicas", 1) == 0:
            cluster.api.patch("Deployment", namespace, name, {"spec": {"replicas": 1}})
            done.append(f"{what}: healed")
    for what in SCALED:
        _wait_answering(cluster, what)
    service = cluster.api.get("Service", NAMESPACE, METRICS_SERVICE)
    if service is not None and service["spec"].get("selector") != {"app": "signal-service"}:
        _restore_metrics(cluster)
        done.append("no-metrics: healed")
    return done


def overview() -> str:
    """One line for each break."""
    lines = [f"{what:16} [{knob.default}] knob {knob.file} of the service: {knob.unit}" for what, knob in KNOBS.items()]
    lines += [f"{what:16} Deployment {namespace}/{name} without pods" for what, (namespace, name) in SCALED.items()]
    lines.append(f"{'no-metrics':16} Prometheus no longer finds the service's pods")
    lines.append(f"{'foreign-edit':16} [{FOREIGN_WEIGHT}] weight of v2, written by {FOREIGN_MANAGER}")
    return "\n".join(lines)


def forget(cluster: Cluster) -> None:
    """Drop what is remembered of a foreign edit; for when the weights have been set anew."""
    _memory(cluster).unlink(missing_ok=True)


def _known(what: str) -> None:
    if what not in NAMES:
        raise LabError(f"{what!r} is no break; expected one of: {', '.join(NAMES)}")


def knobs_name(version: str) -> str:
    return f"signal-service-knobs-{version}"


def _turn(cluster: Cluster, knob: Knob, value: str | None, version: str) -> str:
    text = knob.default if value is None else value
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not knob.low <= number <= knob.high:
        raise LabError(f"value {text!r} for {knob.file}: expected a number from {knob.low:g} to {knob.high:g} ({knob.unit})")
    name = knobs_name(version)
    try:
        cluster.api.patch("ConfigMap", NAMESPACE, name, {"data": {knob.file: text}})
    except ApiError as error:
        if error.status != 404:
            raise
        cluster.api.ensure(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "signal-service", "version": version}},
                "data": {knob.file: text},
            }
        )
    return f"{version}: {knob.file} = {text} ({knob.unit}); running pods read it within 3 s"


def _clear_knobs(cluster: Cluster, version: str, file: str | None) -> str:
    found = cluster.api.get("ConfigMap", NAMESPACE, knobs_name(version))
    set_now = (found or {}).get("data") or {}
    cleared = [name for name in set_now if file is None or name == file]
    if not cleared:
        return ""
    cluster.api.patch("ConfigMap", NAMESPACE, knobs_name(version), {"data": {name: None for name in cleared}})
    return f"{version}: {', '.join(cleared)} off"


def _scale_up(cluster: Cluster, what: str) -> None:
    namespace, name = SCALED[what]
    cluster.wait_scaled(namespace, name, 1)
    _wait_answering(cluster, what)


def _wait_answering(cluster: Cluster, what: str) -> None:
    """A ready pod is reachable through its service address a moment later: wait for the answer itself."""
    namespace, name = SCALED[what]
    cluster.wait_ready(namespace, name)
    answers: dict[str, Callable[[], bool]] = {
        "prometheus-down": lambda: http_get(settings.PROMETHEUS_URL + "/-/ready")[0] == 200,
        "sink-down": lambda: http_get(settings.SINK_URL + "/health")[0] == 200,
        "database-down": lambda: database.answers(cluster.paths),
        "redis-down": cluster.redis_answers,
    }
    processes.wait_until(answers[what], 30, f"{namespace}/{name} answers at its service address")


def _select_metrics(cluster: Cluster, app: str) -> None:
    patch = [{"op": "replace", "path": "/spec/selector", "value": {"app": app}}]
    cluster.api.patch("Service", NAMESPACE, METRICS_SERVICE, patch, JSON_PATCH)


def _restore_metrics(cluster: Cluster) -> None:
    _select_metrics(cluster, "signal-service")
    processes.wait_until(lambda: bool(_service_targets(cluster)), 15, "Prometheus with targets of job signal-service", 0.2)


def _service_targets(cluster: Cluster) -> list[str]:
    status, _, body = http_get(settings.PROMETHEUS_URL + "/api/v1/targets?state=active")
    if status != 200:
        raise LabError(f"Prometheus at {settings.PROMETHEUS_URL} does not answer. Run: labctl heal prometheus-down")
    targets = json.loads(body)["data"]["activeTargets"]
    return [target["scrapeUrl"] for target in targets if target["labels"].get("job") == "signal-service"]


def _foreign_edit(cluster: Cluster, value: str | None) -> str:
    """Write other weights under the name kubectl uses, as a colleague with ``kubectl edit`` would."""
    text = FOREIGN_WEIGHT if value is None else value
    if not text.isdecimal() or int(text) > 100:
        raise LabError(f"value {text!r} for foreign-edit: expected the weight of v2, a whole number from 0 to 100")
    routes, index = _primary(cluster)
    weights = {"v1": 100 - int(text), "v2": int(text)}
    before = {}
    patch = []
    for position, route in enumerate(routes):
        subset = route["destination"].get("subset", "")
        if subset in weights:
            before[subset] = route.get("weight", 0)
            patch.append({"op": "add", "path": f"/spec/http/{index}/route/{position}/weight", "value": weights[subset]})
    if len(before) != 2:
        raise LabError(f"VirtualService {NAMESPACE}/signal-service has subsets {sorted(before)}, expected v1 and v2. Run: labctl reset")
    _memory(cluster).write_text(json.dumps({"before": before, "written": weights}))
    cluster.api.patch("VirtualService", NAMESPACE, "signal-service", patch, JSON_PATCH, f"?fieldManager={FOREIGN_MANAGER}")
    return f"foreign-edit: {FOREIGN_MANAGER} wrote weights {weights} (before: {before})"


def _undo_foreign_edit(cluster: Cluster) -> str:
    memory = _memory(cluster)
    if not memory.exists():
        return ""
    stored = json.loads(memory.read_text())
    memory.unlink()
    routes, index = _primary(cluster)
    found = {route["destination"].get("subset", ""): route.get("weight", 0) for route in routes}
    if found != stored["written"]:
        return ""
    patch = [
        {"op": "add", "path": f"/spec/http/{index}/route/{position}/weight", "value": stored["before"][route["destination"]["subset"]]}
        for position, route in enumerate(routes)
    ]
    cluster.api.patch("VirtualService", NAMESPACE, "signal-service", patch, JSON_PATCH, "?fieldManager=signal-lab")
    return f"foreign-edit: weights back at {stored['before']}"


def _primary(cluster: Cluster) -> tuple[list[dict], int]:
    found = cluster.api.get("VirtualService", NAMESPACE, "signal-service")
    for index, http in enumerate((found or {}).get("spec", {}).get("http", [])):
        if http.get("name") == "primary":
            return http["route"], index
    raise LabError(f"VirtualService {NAMESPACE}/signal-service has no http route 'primary'. Run: labctl reset")


def _memory(cluster: Cluster) -> Path:
    return cluster.paths.run / "foreign-edit.json"
