# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module usage_report: how a released version does in its first day, week and month. Private to this collection.

Every part is read on its own: what cannot be read is said in its place, and proves nothing. A box is proven only once the window after the release
has passed and the measurements cover it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _kube,
    _log_digest,
    _pod_status,
    _prometheus,
    _usage_math,
    _usage_proofs,
    _usage_queries,
    _usage_words,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

PARTS = ["metrics", "error_logs", "resources", "cache", "usage", "capacity"]

LIMITS_SPEC: dict[str, dict[str, Any]] = {
    "error_percent": {"type": "float"},
    "p99_ms": {"type": "float"},
    "cpu_percent": {"type": "float"},
    "memory_percent": {"type": "float"},
    "cache_hit_percent": {"type": "float"},
    "log_errors_per_hour": {"type": "float"},
    "requests_per_second": {"type": "float"},
    "horizon_days": {"type": "float"},
}
SIZING_SPEC: dict[str, dict[str, Any]] = {
    "cpu_headroom_percent": {"type": "float", "required": True},
    "memory_headroom_percent": {"type": "float", "required": True},
    "tolerance_percent": {"type": "float", "required": True},
    "minimum_cpu": {"type": "str", "required": True},
    "minimum_memory": {"type": "str", "required": True},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.BESIDE_KUBERNETES_SPEC,
    "prometheus_timeout": {"type": "float", "default": 30.0},
    "parts": {"type": "list", "elements": "str", "required": True, "choices": PARTS},
    "service": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "stable_version": {"type": "str", "required": True},
    "selector": {"type": "str"},
    "deployment": {"type": "str"},
    "container": {"type": "str", "default": ""},
    "released": {"type": "str", "required": True},
    "started": {"type": "str"},
    "until": {"type": "str"},
    "window": {"type": "int", "required": True},
    "baseline_window": {"type": "int", "default": 0},
    "scrape_interval": {"type": "float", "default": 15.0},
    "points": {"type": "int", "default": 2000},
    "minimum_samples": {"type": "int", "default": 1},
    "minimum_requests": {"type": "int", "default": 1},
    "minimum_coverage_percent": {"type": "float", "default": 90.0},
    "confidence": {"type": "float", "default": 0.95},
    "labels": {"type": "dict", "default": {}},
    "queries": {"type": "dict", "default": {}},
    "limits": {"type": "dict", "options": LIMITS_SPEC},
    "sizing": {"type": "dict", "options": SIZING_SPEC},
    "log_lines": {"type": "int", "default": 20000},
    "log_pods": {"type": "int", "default": 20},
    "log_rows": {"type": "list", "elements": "dict"},
    "log_coverage": {"type": "dict"},
    "redis_nodes": {"type": "list", "elements": "dict"},
}
SPEC_RULES: dict[str, Any] = {"required_together": [["log_rows", "log_coverage"]]}
SUPPORTS_CHECK_MODE = True

_FROM_PROMETHEUS = ("metrics", "resources", "cache", "usage", "capacity")
_LEAST = {"window": 1, "baseline_window": 0, "points": 2, "minimum_samples": 1, "minimum_requests": 0, "log_lines": 1, "log_pods": 1}
# More points than this Prometheus refuses.
_MOST_POINTS = 11_000
_LOG_TIMEOUT = 30.0


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return the report's parts, as data and as Markdown, and the proofs that follow. See the module's RETURN.

    Raises :class:`RolloutError` with every mistake in the options, before anything is asked.
    """
    return Report(params, context, *_window(params)).run()


def _window(params: dict[str, Any]) -> tuple[float, float, float]:
    """Return when the release was complete, when it began, and the end of the window. Raises :class:`RolloutError`."""
    problems = [f"{name} is {params[name]}, expected at least {least}" for name, least in _LEAST.items() if params[name] < least]
    if params["points"] > _MOST_POINTS:
        problems.append(f"points is {params['points']}, expected at most {_MOST_POINTS}, which is what Prometheus answers")
    if not params["parts"]:
        problems.append(f"parts is empty, expected some of {', '.join(PARTS)}")
    for name in ("scrape_interval", "prometheus_timeout"):
        if not (math.isfinite(params[name]) and params[name] > 0):
            problems.append(f"{name} is {params[name]}, expected a number of seconds above 0")
    if not 0 < params["minimum_coverage_percent"] <= 100:
        problems.append(f"minimum_coverage_percent is {params['minimum_coverage_percent']}, expected above 0 and at most 100")
    if not 0 < params["confidence"] < 1:
        problems.append(f"confidence is {params['confidence']}, expected between 0 and 1")
    times: dict[str, float] = {}
    for name in ("released", "started", "until"):
        text = params[name]
        found = time.time() if name == "until" and not text else _log_digest.unix_time(text) if text else None
        if found is None and (text or name == "released"):
            problems.append(f"{name} is '{one_line(text, 40)}', expected a time such as 2026-11-28T12:00:00Z")
        times[name] = found if found is not None else 0.0
    if not problems and times["until"] < times["released"]:
        problems.append(f"released is {params['released']}, expected a time before until ({_usage_math.moment(times['until'])})")
    problems += _usage_queries.problems_of(params["queries"])
    if set(params["parts"]) & set(_FROM_PROMETHEUS):
        problems += _prometheus.problems_of(_prometheus.beside_kubernetes(params))
    if "resources" in params["parts"]:
        sizing = params["sizing"] or {}
        if not sizing:
            problems.append("sizing is missing, expected the rule by which sizes follow from usage")
        problems += [
            f"sizing.{name} is '{one_line(sizing[name], 40)}', expected a quantity such as 10m or 32Mi"
            for name in ("minimum_cpu", "minimum_memory")
            if sizing and _pod_status.quantity(sizing[name]) is None
        ]
    if problems:
        raise RolloutError(f"usage_report: {'; '.join(problems)}. Nothing was read. Next: correct the options.")
    return times["released"], times["started"] or times["released"], times["until"]


class Report:
    """Reads the parts of one report, each on its own."""

    def __init__(self, params: dict[str, Any], context: Context, released: float, started: float, until: float) -> None:
        self.params = params
        self.context = context
        self.released, self.started, self.until = released, started, until
        # At most the window: a job that runs late reports of the newest one.
        self.since = max(released, until - params["window"])
        self.step = _usage_queries.step_of(self.since, until, params["points"], params["scrape_interval"])
        self.limits = {name: value for name, value in (params["limits"] or {}).items() if value is not None}
        self.green = self._subject(params["version"])
        self.kube = _kube.connect(params)
        client = _prometheus.Prometheus(_prometheus.beside_kubernetes(params), params["prometheus_timeout"]) if params["prometheus_url"] else None
        self.ranges = None if client is None else _usage_queries.Ranges(client, params["queries"])
        self._read_once: dict[str, list[_usage_math.Series]] = {}

    def _subject(self, version: str) -> _usage_queries.Subject:
        labels = {str(name): str(value) for name, value in self.params["labels"].items()}
        return _usage_queries.Subject(self.params["service"], version, self.params["namespace"], self.params["container"], labels)

    @property
    def complete(self) -> bool:
        """Whether the window after the release has passed."""
        return self.until - self.released >= self.params["window"]

    def run(self) -> dict[str, Any]:
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "metrics": self._metrics,
            "error_logs": self._error_logs,
            "resources": self._resources,
            "cache": self._cache,
            "usage": self._usage,
            "capacity": self._capacity,
        }
        parts: dict[str, dict[str, Any]] = {}
        for name in PARTS:
            if name in self.params["parts"]:
                self.context.progress(f"usage_report: {name.replace('_', ' ')}")
                try:
                    parts[name] = made[name]()
                except (_usage_queries.NoAnswer, _kube.KubeError) as error:
                    parts[name] = {"error": one_line(getattr(error, "message", "") or str(error), 300)}
        window = {
            "released": _usage_math.moment(self.released),
            "since": _usage_math.moment(self.since),
            "until": _usage_math.moment(self.until),
            "seconds": round(self.until - self.since),
            "demanded_seconds": self.params["window"],
            "complete": self.complete,
            "step_seconds": self.step,
        }
        demands = _usage_proofs.Demands(
            self.complete,
            self.params["minimum_samples"],
            self.params["minimum_coverage_percent"],
            self.params["minimum_requests"],
            self.limits,
        )
        proofs, reasons = _usage_proofs.proofs(parts, demands)
        report = {"service": self.params["service"], "version": self.params["version"], "window": window, "parts": parts}
        answer = {"changed": False, **report, "proofs": proofs, "unproven": reasons, "queries": 0 if self.ranges is None else self.ranges.asked}
        return {**answer, "markdown": _usage_words.markdown(answer), "text": _usage_words.summary(answer)}

    # ---------------------------------------------------------------------------------------------- series

    def _prometheus(self) -> _usage_queries.Ranges:
        if self.ranges is None:
            raise AssertionError("a part that needs Prometheus was begun without it")
        return self.ranges

    def _series(self, name: str) -> list[_usage_math.Series]:
        """The series of the new version over the window, read once for all parts."""
        if name not in self._read_once:
            self._read_once[name] = self._prometheus().read(name, self.green, self.since, self.until, self.step)
        return self._read_once[name]

    @property
    def _steps(self) -> int:
        return _usage_queries.steps_in(self.since, self.until, self.step)

    # ---------------------------------------------------------------------------------------------- parts

    def _metrics(self) -> dict[str, Any]:
        green = self._digest(self._series, self._steps, self.step)
        baseline: dict[str, Any] = {"error": "no baseline was asked for"}
        if self.params["baseline_window"]:
            since = self.started - self.params["baseline_window"]
            step = _usage_queries.step_of(since, self.started, self.params["points"], self.params["scrape_interval"])
            blue = self._subject(self.params["stable_version"])
            try:
                ranges = self._prometheus()
                read = {name: ranges.read(name, blue, since, self.started, step) for name in _DIGEST}
                baseline = self._digest(read.__getitem__, _usage_queries.steps_in(since, self.started, step), step)
                if baseline["requests"] is None:
                    baseline = {"error": f"no series of {blue.version} in the time before the release: nothing was measured, or it is no longer kept"}
            except _usage_queries.NoAnswer as error:
                baseline = {"error": str(error)}
        return {"green": green, "blue": baseline}

    def _digest(self, read: Callable[[str], list[_usage_math.Series]], steps: int, step: int) -> dict[str, Any]:
        by_code = read("requests_by_code")
        counts = [(next(iter(one.labels.values()), ""), _usage_math.total(one.points, step)) for one in by_code]
        requests = sum(count for _code, count in counts)
        errors = sum(count for code, count in counts if code.startswith("5"))
        bounds = {_bound(one.labels.get("le")): _usage_math.total(one.points, step) for one in read("duration_buckets")}
        buckets = {bound: count for bound, count in bounds.items() if not math.isnan(bound)}
        quantiles = {name: _usage_math.histogram_quantile(share, buckets) for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))}
        return {
            "covered_percent": round(_usage_math.covered_percent(by_code, steps), 1),
            "samples": max((len(one.points) for one in by_code), default=0),
            "requests": round(requests) if by_code else None,
            "requests_per_second": requests / (steps * step) if by_code and steps else None,
            "errors": round(errors) if by_code else None,
            "error_percent": 100 * errors / requests if requests > 0 else None,
            **{name: None if value is None else 1000 * value for name, value in quantiles.items()},
            "cpu_cores": _usage_math.spread([value for one in read("cpu") for value in one.values]),
            "memory_bytes": _usage_math.spread([value for one in read("memory") for value in one.values]),
            "restarts": sum(_usage_math.changes(one.points) for one in read("starts")),
        }

    def _error_logs(self) -> dict[str, Any]:
        hours = max(self.until - self.since, 1.0) / 3600
        if self.params["log_rows"] is not None:
            errors = _log_digest.from_rows(self.params["log_rows"])
            coverage = self.params["log_coverage"] or {}
            found = {"source": "query", "lines": int(coverage.get("lines") or 0), "covered_since": _log_digest.unix_time(coverage.get("first"))}
        else:
            errors, found = self._pod_logs()
        count = sum(entry["count"] for entry in errors)
        first = found["covered_since"]
        covered = 0.0 if first is None or not found["lines"] else 100.0 * (self.until - max(first, self.since)) / max(self.until - self.since, 1.0)
        return {**found, "errors": errors, "count": count, "per_hour": count / hours, "covered_percent": round(max(0.0, min(100.0, covered)), 1)}

    def _pod_logs(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        selector = self.params["selector"] or f"app={self.params['service']},version={self.params['version']}"
        path = _kube.path_of("", "v1", "pods", self.params["namespace"])
        pods = self.kube.list(path, {"labelSelector": selector})
        if not pods:
            raise _usage_queries.NoAnswer(f"there is no pod with {selector}, whose log could be read")
        lines: list[tuple[float | None, str]] = []
        begins: list[float] = []
        for pod in pods[: self.params["log_pods"]]:
            states = (pod.get("status") or {}).get("containerStatuses") or []
            restarted = any(state.get("restartCount") for state in states)
            name, container = str(pod["metadata"]["name"]), self.params["container"] or _pod_status.main_container(pod)
            begin = _log_digest.unix_time((pod.get("status") or {}).get("startTime") or "")
            for previous in (False, True) if restarted else (False,):
                own = self._log(f"{path}/{name}/log", container, previous)
                if len(own) >= self.params["log_lines"] and own[0][0] is not None:
                    # The end of a longer log: it says nothing of the time before its first line.
                    begin = own[0][0]
                lines += own
            if begin is not None:
                begins.append(begin)
        mine = [line for line in lines if line[0] is None or self.since <= line[0] <= self.until]
        # Logs of pods that are gone are gone with them, so that the oldest pod that is left decides.
        found = {"source": f"logs of {min(len(pods), self.params['log_pods'])} of {len(pods)} pods", "lines": len(lines)}
        return _log_digest.digest(mine), {**found, "covered_since": min(begins, default=None)}

    def _log(self, path: str, container: str, previous: bool) -> list[tuple[float | None, str]]:
        asked = {"container": container, "timestamps": "true", "tailLines": self.params["log_lines"], **({"previous": "true"} if previous else {})}
        try:
            text = self.kube.get_text(path, asked, timeout=_LOG_TIMEOUT, tries=2)
        except _kube.KubeError as error:
            if previous and error.status in (400, 404, 500):
                return []
            raise
        parted = [line.partition(" ") for line in text.splitlines()]
        return [(_log_digest.unix_time(stamp), words) for stamp, _space, words in parted]

    def _deployment(self) -> dict[str, Any]:
        name = self.params["deployment"] or f"{self.params['service']}-{self.params['version']}"
        return self.kube.get(_kube.path_of("apps", "v1", "deployments", self.params["namespace"], name))

    def _resources(self) -> dict[str, Any]:
        sizing = self.params["sizing"]
        rule = _usage_math.Rule(
            sizing["cpu_headroom_percent"],
            sizing["memory_headroom_percent"],
            sizing["tolerance_percent"],
            _pod_status.quantity(sizing["minimum_cpu"]) or 0.0,
            _pod_status.quantity(sizing["minimum_memory"]) or 0.0,
        )
        body = self._deployment()
        by_code, cpu, memory = self._series("requests_by_code"), self._series("cpu"), self._series("memory")
        containers = {}
        for name, sizes in _pod_status.containers((body["spec"] or {}).get("template") or {}).items():
            if self.params["container"] and name != self.params["container"]:
                continue
            used = {
                kind: _usage_math.spread([value for one in series if one.labels.get("container") in (name, None) for value in one.values])
                for kind, series in (("cpu", cpu), ("memory", memory))
            }
            containers[name] = {"current": sizes, "usage": used, "sizes": _usage_math.propose(used, sizes, rule)}
        return {
            "deployment": body["metadata"]["name"],
            "containers": containers,
            "patch": _usage_math.patch({name: entry["sizes"] for name, entry in containers.items()}),
            "covered_percent": round(_usage_math.covered_percent(memory, self._steps), 1),
            "requests": round(sum(_usage_math.total(one.points, self.step) for one in by_code)),
            "rule": json.loads(json.dumps(sizing)),
        }

    def _cache(self) -> dict[str, Any]:
        hits, misses = self._series("cache_hits"), self._series("cache_misses")
        found = [sum(_usage_math.total(one.points, self.step) for one in series) for series in (hits, misses)]
        lookups = sum(found)
        nodes = self.params["redis_nodes"] or []
        answer = {
            "covered_percent": round(_usage_math.covered_percent([*hits, *misses], self._steps), 1),
            "hits": round(found[0]),
            "lookups": round(lookups),
            "hit_percent": 100 * found[0] / lookups if lookups > 0 else None,
            "nodes": nodes,
        }
        return {**answer, "hints": _usage_proofs.cache_hints(answer, self.limits.get("cache_hit_percent"))}

    def _usage(self) -> dict[str, Any]:
        by_endpoint = self._series("requests_by_endpoint")
        totals = sorted(
            ((next(iter(one.labels.values()), "all"), _usage_math.total(one.points, self.step)) for one in by_endpoint), key=lambda pair: -pair[1]
        )
        requests = sum(count for _name, count in totals)
        points = _usage_math.summed(by_endpoint)
        return {
            **_usage_math.patterns(points, self.step),
            "samples": len(points),
            "covered_percent": round(_usage_math.covered_percent(by_endpoint, self._steps), 1),
            "requests": round(requests),
            "by_endpoint": [{"endpoint": name, "requests": round(count), "percent": 100 * count / requests} for name, count in totals if requests > 0],
        }

    def _capacity(self) -> dict[str, Any]:
        body = self._deployment()
        sizes = _pod_status.containers((body["spec"] or {}).get("template") or {})
        chosen = [entry for name, entry in sizes.items() if name == self.params["container"] or not self.params["container"]]
        replicas = int((body["spec"] or {}).get("replicas") or 0)
        cores, memory = ([entry[f"limit_{kind}"] for entry in chosen] for kind in ("cpu", "memory"))
        share = {kind: self.limits.get(f"{kind}_percent", 100.0) / 100 for kind in ("cpu", "memory")}
        # Without a limit of every container there is no size that usage could grow into.
        most_cores = sum(map(float, cores)) * replicas * share["cpu"] if cores and all(cores) and replicas else None
        most_bytes = max(map(float, memory)) * share["memory"] if memory and all(memory) else None
        subjects = {
            "requests_per_second": (_usage_math.summed(self._series("requests_by_code")), self.limits.get("requests_per_second")),
            "cpu_cores": (_usage_math.summed(self._series("cpu")), most_cores),
            "memory_bytes_of_the_largest_container": (_usage_math.highest(self._series("memory")), most_bytes),
        }
        trends = {name: _usage_math.trend(points, limit, self.params["confidence"]) for name, (points, limit) in subjects.items()}
        return {
            "replicas": replicas,
            "confidence": self.params["confidence"],
            "horizon_days": self.limits.get("horizon_days"),
            "covered_percent": round(_usage_math.covered_percent(self._series("requests_by_code"), self._steps), 1),
            "samples": min((entry["samples"] for entry in trends.values() if entry), default=0),
            "trends": trends,
        }


_DIGEST = ("requests_by_code", "duration_buckets", "cpu", "memory", "starts")


def _bound(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
