# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module connection_drain: waits until a version that lost its traffic has nothing left to finish. Private.

Rule: weights confirmed in the mesh, then no request running in two looks in a row, then its pods may end. What cannot be
seen is given the time of the longest request. Weight changes never move an open WebSocket, so those are counted apart,
given a time of their own, and reported as cut when they are still open after it.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _envoy, _kube, _route, _weights
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

GATEWAYS_SPEC: dict[str, dict[str, Any]] = {
    "namespace": {"type": "str", "default": "istio-system"},
    "selector": {"type": "str", "default": "istio=ingressgateway"},
    "admin_port": {"type": "int", "default": 15000},
    "container": {"type": "str", "default": "istio-proxy"},
}
PODS_SPEC: dict[str, dict[str, Any]] = {
    "selector": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "path": {"type": "str", "default": "/metrics"},
    "websockets": {"type": "str"},
    "requests": {"type": "str"},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **{name: rule for name, rule in _canary_weight.ROUTE_SPEC.items() if name not in ("confirm", "capacity")},
    "leaving": {"type": "str", "default": "canary", "choices": ["canary", "stable"]},
    "gateways": {"type": "dict", "options": GATEWAYS_SPEC, "apply_defaults": True},
    "pods": {"type": "dict", "options": PODS_SPEC},
    "longest_request": {"type": "float", "default": 30.0},
    "websocket_timeout": {"type": "float", "default": 0.0},
    "settle": {"type": "float", "default": 0.2},
    "interval": {"type": "float", "default": 0.1},
}

SUPPORTS_CHECK_MODE = True
_LOOK_TIMEOUT = 2.0
_PROGRESS_SECONDS = 2.0
# Running, and waiting for a connection: both are requests that somebody still expects an answer to. An upgraded connection
# (WebSocket) stays one running request until it closes.
_GAUGES = ("upstream_rq_active", "upstream_rq_pending_active")
_HOST_GAUGES = ("rq_active", "rq_pending_active")


@dataclass(frozen=True)
class Look:
    """What one look counted. None means that it cannot be seen; ``blind`` says why.

    ``streams`` are requests that run now, open WebSockets among them; ``websockets`` those alone, as the service counts them.
    """

    streams: int | None
    websockets: int | None
    blind: str = ""

    @property
    def requests(self) -> int | None:
        """Requests without the WebSockets; all streams where those cannot be told apart."""
        return None if self.streams is None else max(0, self.streams - (self.websockets or 0))

    @property
    def left(self) -> int | None:
        """Everything that ends when the pods end now."""
        known = [value for value in (self.streams, self.websockets) if value is not None]
        return max(known) if known else None


@dataclass(frozen=True)
class Limits:
    """Seconds since the drain began. ``settle`` is its shortest time, whatever the counts say."""

    settle: float
    longest_request: float
    websocket_timeout: float


def decide(before: Look | None, now: Look, waited: float, limits: Limits) -> str:
    """Return why the drain is over, or an empty string while it goes on.

    ``before`` is the look before ``now``; None at the first one. One empty look proves little: a request may be between two
    counters at that moment, so that two in a row are needed.
    """
    if before is None or waited < limits.settle:
        return ""
    quiet = all(look.streams == 0 and not look.websockets for look in (before, now))
    if quiet:
        return "nothing is running"
    requests_over = waited >= limits.longest_request
    if now.websockets is not None and all(look.requests == 0 for look in (before, now)):
        requests_over = True
    if not requests_over:
        return ""
    # What may be WebSockets: those the service counts, else everything that outlived the longest request.
    sockets = now.streams if now.websockets is None else now.websockets
    if sockets and waited < limits.websocket_timeout:
        return ""
    if now.streams is None:
        return f"running requests cannot be seen; the longest request ({limits.longest_request:g} s) has had its time"
    if now.left:
        return f"{now.left} still open after {waited:.1f} s"
    # The look before was not empty: the next one decides.
    return "nothing is running" if waited >= limits.longest_request else ""


def gauges_of_clusters(stats: dict[str, Any], subset: str, host: str) -> int | None:
    """Sum the running requests of a version's clusters in Envoy's ``/stats?format=json``; None when it keeps no such count.

    Istio names a cluster ``outbound|PORT|SUBSET|HOST`` (SUBSET empty for a backend of its own); newer ones end it with ``;``.
    """
    total, found = 0, False
    for entry in stats.get("stats") or []:
        parts = str(entry.get("name") or "").split("|")
        if len(parts) != 4 or parts[0] != "cluster.outbound" or parts[2] != subset:
            continue
        cluster, _dot, gauge = parts[3].rpartition(".")
        if cluster.removesuffix(";") == host and gauge in _GAUGES:
            total, found = total + int(entry.get("value") or 0), True
    return total if found else None


def hosts_of_clusters(clusters: dict[str, Any], subset: str, host: str) -> int:
    """Sum the running requests of a version's endpoints in Envoy's ``/clusters?format=json``; 0 when it knows no such cluster.

    For gateways whose metrics are trimmed to a list, as Istio's own are: the counts of each endpoint are always kept.
    """
    total = 0
    for cluster in clusters.get("cluster_statuses") or []:
        parts = str(cluster.get("name") or "").split("|")
        if len(parts) == 4 and parts[0] == "outbound" and parts[2] == subset and parts[3] == host:
            for endpoint in cluster.get("host_statuses") or []:
                total += sum(int(s.get("value") or 0) for s in endpoint.get("stats") or [] if s.get("name") in _HOST_GAUGES)
    return total


def gauge_total(page: str, name: str) -> int | None:
    """Sum all series of the gauge ``name`` on a page of Prometheus text; None when it has none or no finite number."""
    total, found = 0.0, False
    for line in page.splitlines():
        match = re.match(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)", line)
        if match is None or match.group(1) != name:
            continue
        try:
            value = float(match.group(2))
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        total, found = total + value, True
    return round(total) if found else None


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Wait until the leaving version is drained, or its times are over.

    Returns ``drained, reason, seconds, start, end, cut, sources``; never fails because something is still open. Raises
    :class:`RolloutError` when the leaving version still has a weight, the route cannot be read, or the run is interrupted.
    """
    _refuse_times(params)
    return _Drain(params, context, _kube.connect(params)).run()


def _refuse_times(params: dict[str, Any]) -> None:
    bad = [f"{name} is {params[name]:g}" for name in ("longest_request", "websocket_timeout", "settle") if not 0 <= params[name] <= 86400]
    if not 0.02 <= params["interval"] <= 60:
        bad.append(f"interval is {params['interval']:g}")
    if bad:
        raise RolloutError(f"{', '.join(bad)}; expected seconds from 0 to 86400, and from 0.02 to 60 for interval. Nothing was done.")


class _Drain:
    """Counts at every ready gateway and at the version's own pods until :func:`decide` ends it."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.limits = Limits(params["settle"], params["longest_request"], params["websocket_timeout"])
        self.version: str = params[params["leaving"]]
        self.sources: dict[str, Any] = {}
        gateways = params["gateways"]
        self.admin = _envoy.Admin(kube, gateways["admin_port"], gateways["container"], (_envoy.PROXY, _envoy.EXEC))
        # Each keeps the way by which it could be read.
        self.proxies: dict[str, _envoy.Proxy] = {}

    def run(self) -> dict[str, Any]:
        self.clusters = self._clusters()
        started = time.monotonic()
        first = before = None
        told = started
        while True:
            now = self._look()
            first = first or now
            waited = time.monotonic() - started
            reason = "looked once" if self.context.check_mode else decide(before, now, waited, self.limits)
            if reason:
                return self._result(first, now, waited, reason)
            if time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                self.context.progress(f"Draining {self.version}: {_words(now)}, {waited:.0f} s")
            before = now
            if self.context.sleep(self.params["interval"]):
                raise RolloutError(
                    f"Drain of {self.version}: interrupted by {self.context.signal_name} while {_words(now)}. Nothing was ended. "
                    "Next: playbooks/rollback.yml goes on from here.",
                    **self._result(first, now, waited, "interrupted"),
                )

    def _result(self, first: Look, last: Look, waited: float, reason: str) -> dict[str, Any]:
        return {
            "changed": False,
            "drained": last.streams == 0 and not last.websockets,
            "reason": reason + (f" ({last.blind})" if last.blind else ""),
            "seconds": round(waited, 3),
            "start": {"requests": first.requests, "websockets": first.websockets},
            "end": {"requests": last.requests, "websockets": last.websockets},
            "cut": last.left,
            "sources": self.sources,
        }

    def _clusters(self) -> list[tuple[str, str]]:
        """Return subset and full host of the leaving version on every route, as Istio names its clusters. Its weights must be 0."""
        found: list[tuple[str, str]] = []
        for params in _canary_weight.each_route(self.params):
            at = _route.of(params, self.kube)
            route = at.rule(_route.read(at, self.kube))
            destination = getattr(route, params["leaving"])
            weight = getattr(route.weights, params["leaving"])
            if weight:
                raise RolloutError(
                    f"{at.title}: {params[params['leaving']]} has {weight} % of the traffic, expected 0 before it is drained. Nothing was waited for. "
                    "Next: move the traffic away first (signal.rollout.canary_weight)."
                )
            # Two routes to the same destination are one cluster of Envoy, and counted once.
            if (destination.subset, destination.service) not in found:
                found.append((destination.subset, destination.service))
        return found

    def _look(self) -> Look:
        blind: list[str] = []
        streams = self._gateways(blind)
        websockets, requests = self._pods(blind)
        if requests is not None:
            # The service's own count also holds what reached it without passing a gateway.
            streams = max(streams or 0, requests + (websockets or 0))
        return Look(streams, websockets, "; ".join(blind))

    def _gateways(self, blind: list[str]) -> int | None:
        """Sum over every ready gateway; None as soon as one of them cannot be read."""
        options = self.params["gateways"]
        base = _kube.path_of("", "v1", "pods", options["namespace"])
        try:
            pods = [pod for pod in self.kube.list(base, {"labelSelector": options["selector"]}) if _weights.pod_is_ready(pod)]
        except _kube.KubeError as error:
            blind.append(f"gateways cannot be listed: {one_line(error, 120)}")
            return None
        self.sources["gateways"] = len(pods)
        if not pods:
            blind.append(f"no ready gateway in namespace {options['namespace']} with labels {options['selector']}")
            return None
        total = 0
        for pod in pods:
            name = pod["metadata"]["name"]
            proxy = self.proxies.setdefault(name, _envoy.Proxy(options["namespace"], name, "gateway", _envoy.PROXY))
            try:
                total += self._at_gateway(proxy)
            except (RolloutError, ValueError) as error:
                blind.append(f"gateway {name} cannot be read: {one_line(error, 200)}")
                return None
        return total

    def _at_gateway(self, proxy: _envoy.Proxy) -> int:
        total, listed = 0, None
        for subset, host in self.clusters:
            pattern = host.replace(".", r"\.")
            names = rf"^cluster\.outbound\|[0-9]+\|{subset}\|{pattern};?\.({'|'.join(_GAUGES)})$"
            found = gauges_of_clusters(json.loads(self.admin.read(proxy, "stats", {"filter": names, "format": "json"})), subset, host)
            if found is None:
                listed = listed or json.loads(self.admin.read(proxy, "clusters", {"format": "json"}))
                found = hosts_of_clusters(listed, subset, host)
            total += found
        return total

    def _pods(self, blind: list[str]) -> tuple[int | None, int | None]:
        """Return (WebSockets, requests) as the leaving version's own pods count them; None for what they do not tell."""
        options = self.params["pods"]
        if not options:
            return None, None
        base = _kube.path_of("", "v1", "pods", self.params["namespace"])
        totals: dict[str, int | None] = {name: 0 for name in ("websockets", "requests") if options[name]}
        try:
            pods = [pod for pod in self.kube.list(base, {"labelSelector": options["selector"]}) if _runs(pod)]
            self.sources["pods"] = len(pods)
            for pod in pods:
                address = f"{base}/{pod['metadata']['name']}:{options['port']}/proxy{options['path']}"
                page = self.kube.get_text(address, timeout=_LOOK_TIMEOUT)
                for name, total in totals.items():
                    value = gauge_total(page, options[name])
                    if value is None:
                        blind.append(f"pod {pod['metadata']['name']} has no metric {options[name]}")
                    totals[name] = None if value is None or total is None else total + value
        except _kube.KubeError as error:
            blind.append(f"the service's own counts cannot be read: {one_line(error, 120)}")
            return None, None
        return totals.get("websockets"), totals.get("requests")


def _runs(pod: dict[str, Any]) -> bool:
    """Whether the pod may hold connections. One that is not ready may: it lost new traffic, not its old connections."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any("running" in (status.get("state") or {}) for status in statuses)


def _words(look: Look) -> str:
    counts = [f"{value} {name}" for name, value in (("requests", look.requests), ("WebSockets", look.websockets)) if value is not None]
    return " and ".join(counts) + " open" if counts else "nothing can be seen"
