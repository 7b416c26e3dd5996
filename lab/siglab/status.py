# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``labctl status`` and ``labctl logs`` show."""

from __future__ import annotations

import os
from pathlib import Path

from . import cgroups, network, processes, settings, traffic
from .breaks import KNOBS, SCALED, knobs_name
from .cluster import NAMESPACE, Cluster
from .lifecycle import Lab
from .settings import LabError

ADDRESSES = {
    "API server": settings.API_URL,
    "gateway": f"{settings.GATEWAY_URL} (Host: {settings.HOST_HEADER})",
    "signal-service": settings.SERVICE_URL,
    "signal-service-green": settings.GREEN_URL,
    "TimescaleDB": f"{settings.DATABASE_IP}:5432 (database signal_db)",
    "Redis": f"redis://{settings.REDIS_IP}:6379/0",
    "Prometheus": settings.PROMETHEUS_URL,
    "sink": f"{settings.SINK_URL}, SMTP {settings.SINK_SMTP}",
}


def show(lab: Lab) -> int:
    """Print parts with health, pids and memory; returns 0 when all of the lab is healthy, 3 when not."""
    paths = lab.paths
    healthy, total = True, 0
    everything: list[int] = []
    print(f"state {paths.state}   cache {paths.cache}   namespace {settings.NETNS}: {'there' if network.complete() else 'missing'}")
    print(f"{'PART':34} {'HEALTH':12} {'PID':>8} {'RSS MiB':>8}")
    for name in lab.node.daemons:
        pid = lab.node.alive(name)
        good = pid is not None and lab.node.daemons[name].healthy()
        memory = processes.rss(pid) if pid else 0
        everything += [pid] if pid else []
        total += memory
        healthy &= good
        print(f"{name:34} {'healthy' if good else 'not running' if pid is None else 'UNHEALTHY':12} {pid or '-':>8} {memory / 2**20:8.0f}")
    members = _processes_by_pod()
    try:
        cluster = Cluster(paths)
        pods = cluster.api.list("Pod")
    except (LabError, OSError):
        pods, cluster = [], None
    for pod in sorted(pods, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"])):
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        conditions = {item["type"]: item["status"] for item in pod.get("status", {}).get("conditions", [])}
        good = conditions.get("Ready") == "True"
        pids = members.get(pod["metadata"]["uid"], [])
        memory = sum(processes.rss(pid) for pid in pids)
        everything += pids
        total += memory
        health = "ready" if good else "ending" if pod["metadata"].get("deletionTimestamp") else "NOT READY"
        print(f"{name[:60]:34} {health:12} {max(pids, default='-'):>8} {memory / 2**20:8.0f}  {pod.get('status', {}).get('podIP', '')}")
    shims = sum(processes.rss(pid) for pid in lab.shims())
    total += shims
    shared_once = sum(processes.pss(pid) for pid in [*everything, *lab.shims()])
    print(f"{'containerd shims':34} {'':12} {'':>8} {shims / 2**20:8.0f}")
    limit = settings.MEMORY_LIMIT
    note = f"(limit {limit / 2**20:.0f}; {shared_once / 2**20:.0f} with shared pages counted once)"
    print(f"{'total':34} {'' if total <= limit else 'TOO MUCH':12} {'':>8} {total / 2**20:8.0f}  {note}")
    if cluster is not None and pods:
        missing = cluster.not_ready()
        healthy &= not missing
        if missing:
            print(f"not ready: {', '.join(missing)}")
        broken = open_breaks(cluster)
        print(f"open breaks: {', '.join(broken) or 'none'}")
        _show_release(cluster)
    else:
        healthy = False
    print(f"traffic: {traffic.state(paths)}")
    for name, address in ADDRESSES.items():
        print(f"  {name:22} {address}")
    print(f"  {'kubeconfigs':22} {paths.kubeconfig}/admin, deployer, viewer")
    print("lab is healthy" if healthy else "lab is NOT healthy. Run: labctl up")
    return 0 if healthy else 3


def open_breaks(cluster: Cluster) -> list[str]:
    broken = []
    for what, (namespace, name) in SCALED.items():
        found = cluster.api.get("Deployment", namespace, name)
        if found is not None and found["spec"].get("replicas", 1) == 0:
            broken.append(what)
    files = {knob.file: what for what, knob in KNOBS.items()}
    for version in settings.SERVICE_VERSIONS:
        data = (cluster.api.get("ConfigMap", NAMESPACE, knobs_name(version)) or {}).get("data") or {}
        broken += [f"{files.get(file, file)}={value} on {version}" for file, value in data.items()]
    service = cluster.api.get("Service", NAMESPACE, "signal-service-pods")
    if service is not None and service["spec"].get("selector") != {"app": "signal-service"}:
        broken.append("no-metrics")
    if (cluster.paths.run / "foreign-edit.json").exists():
        broken.append("foreign-edit")
    return broken


def _show_release(cluster: Cluster) -> None:
    found = cluster.api.get("VirtualService", NAMESPACE, "signal-service")
    for http in (found or {}).get("spec", {}).get("http", []):
        routes = http.get("route", [])
        # A destination alone gets everything, with or without a weight.
        weights = ", ".join(f"{route['destination'].get('subset')} {route.get('weight', 100 if len(routes) == 1 else 0)}" for route in routes)
        print(f"weights of route {http.get('name', '?')}: {weights}")
    found = cluster.api.get("HTTPRoute", NAMESPACE, "signal-service")
    for rule in (found or {}).get("spec", {}).get("rules", []):
        weights = ", ".join(f"{backend['name']} {backend.get('weight', 1)}" for backend in rule.get("backendRefs", []))
        print(f"weights of HTTPRoute rule {rule.get('name', '?')}: {weights}")


def _processes_by_pod() -> dict[str, list[int]]:
    """{pod uid: pids} from the names of the control groups."""
    found: dict[str, set[int]] = {}
    for folder in cgroups.folders():
        for path, _, files in os.walk(folder):
            if "cgroup.procs" not in files:
                continue
            parts = [part for part in Path(path).parts if part.startswith("pod")]
            if parts:
                try:
                    pids = (Path(path) / "cgroup.procs").read_text().split()
                except OSError:
                    continue
                found.setdefault(parts[-1].removeprefix("pod"), set()).update(int(pid) for pid in pids)
    return {uid: sorted(pids) for uid, pids in found.items()}


def logs(lab: Lab, part: str | None, lines: int) -> int:
    """Print the end of a daemon's log file or of the pods of a Deployment; without a part, name them all."""
    node = lab.node
    if part is None:
        print("daemons:     " + " ".join(node.daemons))
        try:
            pods = Cluster(lab.paths).api.list("Deployment")
            print("deployments: " + " ".join(sorted(item["metadata"]["name"] for item in pods)))
        except (LabError, OSError):
            print("deployments: (the API server does not answer)")
        print(f"builds:      {lab.paths.cache / 'logs'}")
        return 0
    if part in node.daemons:
        log = node.log(part)
        if not log.exists():
            raise LabError(f"{log}: no such file, {part} has not been started yet. Run: labctl up")
        print("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))
        return 0
    cluster = Cluster(lab.paths)
    for item in cluster.api.list("Deployment"):
        if item["metadata"]["name"] == part:
            selector = ",".join(f"{key}={value}" for key, value in item["spec"]["selector"]["matchLabels"].items())
            print(
                cluster.kubectl(
                    # fmt: off
                    "--namespace", item["metadata"]["namespace"], "logs", "--selector", selector, "--all-containers",
                    "--prefix", "--ignore-errors", f"--tail={lines}",
                    # fmt: on
                ),
                end="",
            )
            return 0
    raise LabError(f"{part!r} is no part of the lab. Run: labctl logs")
