# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PromQL for the figures that a release is judged by, under names. Pure; private to this collection.

A preset is written once, with its traps handled, and used by name in gates. It carries no limit: limits belong to
the caller. Every preset answers with exactly one number, or with nothing (never with 0) when there is nothing to see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._question import HOLD, as_duration

# How far back an earlier value of a counter is looked for: Prometheus' own default lookback. Unlike a plain
# offset, last_over_time() also bridges the stale marker that one failed scrape leaves.
_LOOKBACK = "5m"
# A gauge with a time stamp of its own (the kubelet's) outlives its pod by the lookback; older samples are not believed.
_GAUGE_AGE = 60

_DURATION = re.compile(r"^(?:\d+(?:ms|[smhdwy]))+$")
_DURATION_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_LABEL_NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")


class PresetError(ValueError):
    """The name or the variables of a preset are wrong. ``problems`` lists all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Built:
    """A preset with its variables filled in.

    ``freshness`` is a query for the time of the newest scrape behind the figure; ``window`` is in seconds, None when the
    preset has none or follows the hold. ``highest`` is the largest value that the figure can have at all, None if unbounded.
    ``errors`` and ``requests`` count, in the hold so far, what a share is made of: whole numbers unless a counter was reset.
    Empty for a figure that is no share.
    """

    query: str
    freshness: str
    unit: str
    window: float | None
    highest: float | None
    errors: str = ""
    requests: str = ""


@dataclass(frozen=True)
class Preset:
    """How a figure is asked for. ``needs`` and ``takes`` name its variables; ``labels`` is taken by all.

    ``share`` gives the counters of all and of the errors, as vector selectors, when the figure is a share. ``may_be_empty``
    are needed variables for which an empty text has a meaning.
    """

    unit: str
    needs: tuple[str, ...]
    write: Callable[[dict[str, Any]], str]
    fresh: Callable[[dict[str, Any]], str]
    takes: tuple[str, ...] = ()
    highest: float | None = None
    share: Callable[[dict[str, Any]], tuple[str, str]] | None = None
    may_be_empty: tuple[str, ...] = ()


def seconds(duration: Any) -> float | None:
    """Return a Prometheus duration (``30s``, ``1m30s``) or a number of seconds as seconds; None when it is neither."""
    if isinstance(duration, bool) or duration is None:
        return None
    if isinstance(duration, (int, float)):
        return float(duration) if math.isfinite(duration) and duration > 0 else None
    text = str(duration).strip()
    if text.replace(".", "", 1).isdigit():
        return float(text) or None
    if not _DURATION.match(text):
        return None
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)) or None


def quote(value: str) -> str:
    """Return ``value`` as a PromQL string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def selector(metric: str, labels: dict[str, str], *matchers: str) -> str:
    """Return a vector selector with equality matchers for ``labels`` and the ready-made ``matchers``."""
    inside = [f"{name}={quote(str(value))}" for name, value in sorted(labels.items())]
    return f"{metric}{{{', '.join([*inside, *matchers])}}}"


def _service(metric: str, variables: dict[str, Any], *matchers: str) -> str:
    labels = {**(variables.get("labels") or {}), "version": str(variables["version"])}
    return selector(metric, labels, *matchers)


def _container(metric: str, variables: dict[str, Any]) -> str:
    labels = {**(variables.get("labels") or {}), "namespace": str(variables["namespace"]), "container": str(variables["container"])}
    return selector(metric, labels, f"pod=~{quote(str(variables['pod']))}")


def _fresh_service(variables: dict[str, Any]) -> str:
    return f"min(timestamp({_service('signal_requests_total', variables)}))"


def _fresh_container(metric: str) -> Callable[[dict[str, Any]], str]:
    # max, not min: the last sample of a pod that is gone stays visible for the lookback.
    return lambda variables: f"max(timestamp({_container(metric, variables)}))"


def _new(series: str, window: str) -> str:
    """``series`` where "it did not exist one window ago" is known, nothing where Prometheus itself has no memory of that time.

    A Prometheus that came back with an empty database knows no counter from before, and would take everything that was ever
    counted for new. One scrape more than two, since its targets are not scraped at the same moment. Without any ``up`` series
    (a store that keeps only some metrics) nothing counts as new.
    """
    return f"({series} and on () (max(count_over_time(up[{_LOOKBACK}] offset {window})) >= 3))"


def _grown(series: str, window: str) -> str:
    """By how much each counter grew within ``window``, from 0 where it did not exist yet, from its reset where it restarted."""
    earlier = f"last_over_time({series}[{_LOOKBACK}] offset {window})"
    return f"(({series} - {earlier} >= 0) or {_new(series, window)})"


def _error_share(total: str, errors: str, window: str) -> str:
    """Errors in percent of all, by two forms of which the larger counts.

    rate() is right across counter resets, but does not see the first error of a series that did not exist before (it needs
    a second sample). The growth since the window's start sees it, but undercounts across a reset. Without any request both
    are 0/0 = NaN. ``total * 0`` stands for errors that never happened, so that no series of errors is 0 % and not nothing.
    """
    rate_total, rate_errors = f"sum(rate({total}[{window}]))", f"sum(rate({errors}[{window}]))"
    new_total, new_errors = f"sum({_grown(total, window)})", f"sum({_grown(errors, window)})"
    by_rate = f"({rate_errors} or {rate_total} * 0) / {rate_total}"
    by_growth = f"({new_errors} or {new_total} * 0) / {new_total}"
    return (
        f'100 * max(label_replace({by_rate}, "form", "rate", "", "") '
        f'or label_replace({by_growth}, "form", "growth", "", ""))'
    )


def _counted(series: str, window: str) -> str:
    """How often each counter was counted up within ``window``: exactly where it was not reset, by increase() where it was.

    A pod that ended within the window keeps what it counted. A counter that did not exist before begins at 0; where Prometheus
    has no memory of that time, only what it has seen counts.
    """
    reset = f"(increase({series}[{window}]) and resets({series}[{window}]) > 0)"
    latest = f"last_over_time({series}[{window}])"
    earlier = f"last_over_time({series}[{_LOOKBACK}] offset {window})"
    return f"({reset} or ({latest} - {earlier} >= 0) or {_new(latest, window)} or increase({series}[{window}]))"


def _counts(total: str, errors: str) -> tuple[str, str]:
    """Queries for the number of errors and of requests in the hold so far. No series of errors is 0 errors."""
    requests = f"sum({_counted(total, HOLD)})"
    return f"sum({_counted(errors, HOLD)}) or {requests} * 0", requests


def _percent(share: Callable[[dict[str, Any]], tuple[str, str]]) -> Callable[[dict[str, Any]], str]:
    return lambda variables: _error_share(*share(variables), variables["window"])


def _service_share(variables: dict[str, Any]) -> tuple[str, str]:
    total = _service("signal_requests_total", variables)
    return total, _service("signal_requests_total", variables, 'code=~"5.."')


def _gateway(metric: str, variables: dict[str, Any], *matchers: str) -> str:
    # Istio names a cluster "outbound|<port>|<subset>|<host>".
    cluster = rf"outbound\|[0-9]+\|{re.escape(str(variables['version']))}\|{re.escape(str(variables['host']))}"
    return selector(metric, dict(variables.get("labels") or {}), f"envoy_cluster_name=~{quote(cluster)}", *matchers)


def _gateway_share(variables: dict[str, Any]) -> tuple[str, str]:
    """As the callers see it: counts what the pods cannot, such as the 503 for a version without a living pod."""
    total = _gateway(_ENVOY_REQUESTS, variables, 'envoy_response_code!=""')
    return total, _gateway(_ENVOY_REQUESTS, variables, 'envoy_response_code=~"5.."')


def _gateway_requests(variables: dict[str, Any]) -> str:
    return f"sum(increase({_gateway_share(variables)[0]}[{variables['window']}]))"


def _gateway_p99_ms(variables: dict[str, Any]) -> str:
    # Envoy's histogram of upstream times is in milliseconds already.
    buckets = _gateway("envoy_cluster_upstream_rq_time_bucket", variables)
    return f"histogram_quantile(0.99, sum by (le) (rate({buckets}[{variables['window']}])))"


def _fresh_gateway(variables: dict[str, Any]) -> str:
    return f"min(timestamp({_gateway(_ENVOY_REQUESTS, variables)}))"


def _istio(metric: str, variables: dict[str, Any], *matchers: str) -> str:
    labels = {
        **(variables.get("labels") or {}),
        "reporter": str(variables.get("reporter") or "source"),
        "destination_service_name": str(variables["service"]),
        "destination_service_namespace": str(variables["namespace"]),
        "destination_version": str(variables["version"]),
    }
    return selector(metric, labels, *matchers)


def _istio_share(variables: dict[str, Any]) -> tuple[str, str]:
    return _istio(_ISTIO_REQUESTS, variables), _istio(_ISTIO_REQUESTS, variables, 'response_code=~"5.."')


def _istio_requests(variables: dict[str, Any]) -> str:
    return f"sum(increase({_istio(_ISTIO_REQUESTS, variables)}[{variables['window']}]))"


def _istio_p99_ms(variables: dict[str, Any]) -> str:
    buckets = _istio("istio_request_duration_milliseconds_bucket", variables)
    return f"histogram_quantile(0.99, sum by (le) (rate({buckets}[{variables['window']}])))"


def _fresh_istio(variables: dict[str, Any]) -> str:
    # max, not min: a sidecar that is gone leaves its last samples for the lookback, and every caller is a series of its own.
    return f"max(timestamp({_istio(_ISTIO_REQUESTS, variables)}))"


def _p99_ms(metric: str) -> Callable[[dict[str, Any]], str]:
    def write(variables: dict[str, Any]) -> str:
        buckets = _service(f"{metric}_bucket", variables)
        return f"1000 * histogram_quantile(0.99, sum by (le) (rate({buckets}[{variables['window']}])))"

    return write


def _cpu_percent(variables: dict[str, Any]) -> str:
    used = f"sum by (pod) (rate({_container('container_cpu_usage_seconds_total', variables)}[{variables['window']}]))"
    return f"100 * max({used}) / {variables['limit_cores']!r}"


def _memory_percent(variables: dict[str, Any]) -> str:
    used = _container("container_memory_working_set_bytes", variables)
    return f"100 * max({used} and (time() - timestamp({used}) <= {_GAUGE_AGE})) / {variables['limit_bytes']!r}"


def _requests(variables: dict[str, Any]) -> str:
    return f"sum(increase({_service('signal_requests_total', variables)}[{variables['window']}]))"


def _cache_hit_percent(variables: dict[str, Any]) -> str:
    window = variables["window"]
    hits = f"sum(rate({_service('signal_cache_hits_total', variables)}[{window}]))"
    misses = f"sum(rate({_service('signal_cache_misses_total', variables)}[{window}]))"
    hits, misses = f"({hits} or {misses} * 0)", f"({misses} or {hits} * 0)"
    return f"100 * {hits} / ({hits} + {misses})"


def _pods_seen(variables: dict[str, Any]) -> str:
    """How many pods of the version Prometheus can scrape; 0 only when it does see pods of another version.

    A version whose pods all died leaves no series, which alone would look like a monitoring outage.
    """
    mine = f"count(count by (instance) ({_service('signal_requests_total', variables)}))"
    anyone = f"count({selector('signal_requests_total', dict(variables.get('labels') or {}))})"
    return f"{mine} or {anyone} * 0"


def _fresh_anyone(variables: dict[str, Any]) -> str:
    return f"min(timestamp({selector('signal_requests_total', dict(variables.get('labels') or {}))}))"


_CONTAINER = ("namespace", "pod", "container")
_P99 = _p99_ms("signal_request_duration_seconds")
_WEBSOCKET_P99 = _p99_ms("signal_websocket_latency_seconds")
_CPU, _MEMORY = "container_cpu_usage_seconds_total", "container_memory_working_set_bytes"
_ENVOY_REQUESTS, _ISTIO_REQUESTS = "envoy_cluster_upstream_rq", "istio_requests_total"
_OWN, _ENVOY, _ISTIO = ("version", "window"), ("version", "host", "window"), ("version", "service", "namespace", "window")
# A cluster without subset belongs to a destination that is a Service of its own, as an HTTPRoute's backends are.
_SUBSET = ("version",)
REPORTERS = ("source", "destination")

PRESETS: dict[str, Preset] = {
    "error_percent": Preset("%", _OWN, _percent(_service_share), _fresh_service, highest=100.0, share=_service_share),
    "p99_ms": Preset("ms", _OWN, _P99, _fresh_service),
    "requests": Preset("requests", _OWN, _requests, _fresh_service),
    "gateway_error_percent": Preset("%", _ENVOY, _percent(_gateway_share), _fresh_gateway, (), 100.0, _gateway_share, _SUBSET),
    "gateway_p99_ms": Preset("ms", _ENVOY, _gateway_p99_ms, _fresh_gateway, may_be_empty=_SUBSET),
    "gateway_requests": Preset("requests", _ENVOY, _gateway_requests, _fresh_gateway, may_be_empty=_SUBSET),
    "istio_error_percent": Preset("%", _ISTIO, _percent(_istio_share), _fresh_istio, ("reporter",), 100.0, _istio_share),
    "istio_p99_ms": Preset("ms", _ISTIO, _istio_p99_ms, _fresh_istio, ("reporter",)),
    "istio_requests": Preset("requests", _ISTIO, _istio_requests, _fresh_istio, ("reporter",)),
    "websocket_p99_ms": Preset("ms", _OWN, _WEBSOCKET_P99, _fresh_service),
    "cache_hit_percent": Preset("%", _OWN, _cache_hit_percent, _fresh_service, highest=100.0),
    "cpu_percent_of_limit": Preset("%", (*_CONTAINER, "window", "limit_cores"), _cpu_percent, _fresh_container(_CPU)),
    "memory_percent_of_limit": Preset("%", (*_CONTAINER, "limit_bytes"), _memory_percent, _fresh_container(_MEMORY)),
    "pods_seen": Preset("pods", ("version",), _pods_seen, _fresh_anyone),
}


def build(name: str, variables: dict[str, Any] | None) -> Built:
    """Return the preset ``name`` filled in with ``variables``. Raises :class:`PresetError` with every problem found."""
    preset = PRESETS.get(name)
    if preset is None:
        raise PresetError([f"preset '{name}' does not exist; there are {', '.join(sorted(PRESETS))}"])
    given = dict(variables or {})
    problems = _variable_problems(preset, given)
    if problems:
        raise PresetError([f"preset {name}: {problem}" for problem in problems])
    window = None
    if "window" in preset.needs:
        window = None if given["window"] == HOLD else seconds(given["window"])
        given["window"] = HOLD if window is None else as_duration(window)
    for limit in ("limit_cores", "limit_bytes"):
        if limit in preset.needs:
            given[limit] = float(given[limit])
    errors, requests = _counts(*preset.share(given)) if preset.share is not None else ("", "")
    return Built(preset.write(given), preset.fresh(given), preset.unit, window, preset.highest, errors, requests)


def _variable_problems(preset: Preset, given: dict[str, Any]) -> list[str]:
    known = {*preset.needs, *preset.takes, "labels"}
    problems = [f"preset_vars has no '{name}'; it takes {', '.join(sorted(known))}" for name in sorted(set(given) - known)]
    for name in preset.needs:
        value = given.get(name)
        if value is None or (str(value).strip() == "" and name not in preset.may_be_empty):
            problems.append(f"preset_vars.{name} is missing")
        elif name == "window" and value != HOLD and seconds(value) is None:
            problems.append(f"preset_vars.window is '{value}', expected a duration such as 30s, or '{HOLD}' for the hold so far")
        elif name in ("limit_cores", "limit_bytes") and not _positive(value):
            problems.append(f"preset_vars.{name} is '{value}', expected a number above 0")
    if given.get("reporter") and given["reporter"] not in REPORTERS:
        problems.append(f"preset_vars.reporter is '{given['reporter']}', expected {' or '.join(REPORTERS)}")
    labels = given.get("labels") or {}
    if not isinstance(labels, dict):
        problems.append("preset_vars.labels is not a dictionary of label names and values")
    else:
        wrong = sorted(str(name) for name in labels if not _LABEL_NAME.match(str(name)))
        problems.extend(f"preset_vars.labels has '{name}', which is no label name" for name in wrong)
    return problems


def _positive(value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool) and math.isfinite(number) and number > 0
