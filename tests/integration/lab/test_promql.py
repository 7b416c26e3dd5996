# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The PromQL presets, evaluated by Prometheus' own promtool (in the lab's Prometheus pod) on written-down histories.

Histories use promtool's notation at one sample a second: ``0+5x60`` is 0, 5, 10 ... for 60 steps, ``_x30`` is no sample.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _promql

STATE = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
OK = 'signal_requests_total{version="v2", code="200", endpoint="a", instance="p1"}'
BAD = 'signal_requests_total{version="v2", code="500", endpoint="a", instance="p1"}'
NOTHING = "nothing"
UP = 'up{job="signal-service", instance="p1"}'


def promtool(tests: str) -> subprocess.CompletedProcess[str]:
    """Run ``promtool test rules`` on ``tests`` where Prometheus itself runs."""
    kubectl = [str(STATE / "bin/kubectl"), "--kubeconfig", str(STATE / "kubeconfig/admin"), "--namespace", "monitoring"]
    pods = subprocess.run([*kubectl, "get", "pods", "-o", "name"], capture_output=True, text=True, check=True, timeout=30).stdout
    pod = next(name for name in pods.split() if "prometheus" in name)
    command = [*kubectl, "exec", "-i", pod, "--", "promtool", "test", "rules", "/dev/stdin"]
    return subprocess.run(command, input=tests, capture_output=True, text=True, timeout=60, check=False)


def value_at(query: str, second: int, history: dict[str, str]) -> float | str:
    """Return what ``query`` gives at ``second`` of ``history``: a number, NaN, or NOTHING.

    Prometheus was there all the time unless ``history`` says otherwise.
    promtool only compares, so the value is found in its complaint about a wrong expectation.
    """
    series = [{"series": name, "values": values} for name, values in {UP: "1x600", **history}.items()]
    # A label makes every possible answer differ from the expected empty one.
    expression = f'label_replace({query}, "asked", "yes", "", "")'
    case = {"expr": expression, "eval_time": f"{second}s", "exp_samples": [{"labels": '{never="seen"}', "value": 0}]}
    group = {"interval": "1s", "input_series": series, "promql_expr_test": [case]}
    tests = {"rule_files": [], "evaluation_interval": "1s", "tests": [group]}
    done = promtool(json.dumps(tests))
    assert done.returncode == 1, done.stdout + done.stderr
    got = re.search(r"^ *got: ?(.*)$", done.stdout + done.stderr, re.MULTILINE)
    assert got is not None, done.stdout + done.stderr
    if got[1] == "nil":
        return NOTHING
    assert got[1].count("asked=") == 1, f"not exactly one series: {got[1]}"
    return float(got[1].rsplit(" ", 1)[1])


def error_percent(window: str = "30s") -> str:
    return _promql.build("error_percent", {"version": "v2", "window": window}).query


def test_a_steady_share_of_errors() -> None:
    history = {OK: "0+19x120", BAD: "0+1x120"}
    assert value_at(error_percent(), 100, history) == pytest.approx(5.0)


def test_no_error_in_counters_that_exist_is_zero() -> None:
    assert value_at(error_percent(), 100, {OK: "0+20x120", BAD: "0x120"}) == 0


def test_no_series_of_errors_is_zero_percent_and_not_nothing() -> None:
    assert value_at(error_percent(), 100, {OK: "0+20x120"}) == 0


def test_no_series_at_all_is_nothing() -> None:
    assert value_at(error_percent(), 100, {'other{version="v2"}': "0+1x120"}) == NOTHING


def test_no_traffic_is_no_number() -> None:
    assert math.isnan(float(value_at(error_percent(), 100, {OK: "50x120", BAD: "0x120"})))


def test_old_errors_do_not_count_without_traffic() -> None:
    assert math.isnan(float(value_at(error_percent(), 110, {OK: "0+1x20 20x100", BAD: "0+1x20 20x100"})))


def test_the_first_error_of_a_new_series_is_seen_at_its_first_sample() -> None:
    history = {OK: "0+20x120", BAD: "_x80 3 3 3 3 3 3"}
    rate_alone = (
        'sum(rate(signal_requests_total{version="v2", code=~"5.."}[30s])) / sum(rate(signal_requests_total{version="v2"}[30s]))'
    )
    assert value_at(rate_alone, 80, history) == NOTHING, "the trap this preset is written for"
    assert value_at(error_percent(), 80, history) == pytest.approx(100 * 3 / 603, rel=0.02)


def test_errors_from_before_a_prometheus_that_lost_its_data_are_not_new() -> None:
    history = {UP: "_x80 1x60", OK: "_x80 5000+20x60", BAD: "_x80 19x60"}
    assert value_at(error_percent(), 82, history) == 0
    assert value_at(error_percent(), 100, history) == 0
    errors, requests = counts(60)
    assert value_at(errors, 100, history) == 0
    assert value_at(requests, 100, history) == pytest.approx(400, rel=0.1)


def test_an_error_after_prometheus_lost_its_data_is_seen() -> None:
    history = {UP: "_x80 1x60", OK: "_x80 5000+20x60", BAD: "_x80 19x10 25x50"}
    assert float(value_at(error_percent(), 95, history)) > 0.5


def test_a_first_error_leaves_the_window_again() -> None:
    assert value_at(error_percent(), 115, {OK: "0+20x120", BAD: "_x80 3x40"}) == 0


def test_a_new_pod_counts_from_its_start() -> None:
    new_ok, new_bad = OK.replace("p1", "p2"), BAD.replace("p1", "p2")
    history = {OK: "0+10x120", BAD: "0x120", new_ok: "_x95 10+10x30", new_bad: "_x95 0 10 10 10 10 10"}
    # 10 errors, 300 + 60 + 10 requests within 30 s
    assert value_at(error_percent(), 100, history) == pytest.approx(100 * 10 / 370, rel=0.15)


def test_a_restarted_counter_never_goes_negative_and_keeps_its_errors() -> None:
    history = {OK: "0+20x80 0+20x40", BAD: "0+0x60 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 0 0x40"}
    # The restart wipes the counter; rate() still has the 5 errors of second 61 in its window.
    seen = float(value_at(error_percent(), 88, history))
    assert seen == pytest.approx(100 * 5 / 600, rel=0.2)


def test_errors_after_a_restart_are_counted_from_the_restart() -> None:
    history = {OK: "0+20x80 0+20x40", BAD: "50x80 0 2 2 2 2 2 2 2 2 2 2"}
    assert float(value_at(error_percent(), 85, history)) >= 100 * 2 / 600


def test_one_failed_scrape_at_the_window_start_does_not_bring_old_errors_back() -> None:
    history = {OK: "0+20x70 stale 1420+20x60", BAD: "10x70 stale 10x60"}
    assert value_at(error_percent(), 100, history) == 0


def test_the_other_versions_errors_do_not_count() -> None:
    history = {OK: "0+20x120", BAD: "0x120", BAD.replace("v2", "v1"): "0+20x120"}
    assert value_at(error_percent(), 100, history) == 0


def test_the_gateways_first_503_is_seen_at_its_first_sample() -> None:
    host = "signal-service.signal.svc.cluster.local"
    query = _promql.build("gateway_error_percent", {"version": "v2", "host": host, "window": "30s"}).query

    def requests(subset: str, code: str) -> str:
        return f'envoy_cluster_upstream_rq{{envoy_cluster_name="outbound|80|{subset}|{host}", envoy_response_code="{code}", instance="g1"}}'

    history = {requests("v2", "200"): "0+20x120", requests("v1", "503"): "0+20x120", requests("v1", "200"): "0+20x120"}
    assert value_at(query, 80, history) == 0
    assert value_at(query, 80, {**history, requests("v2", "503"): "_x80 3 3 3"}) == pytest.approx(100 * 3 / 603, rel=0.02)
    assert value_at(query, 80, {requests("v2", "503"): "0+5x120"}) == 100


HOST = "signal-service.signal.svc.cluster.local"
ENVOY = {"version": "v2", "host": HOST, "window": "30s"}


def at_gateway(subset: str, metric: str = "envoy_cluster_upstream_rq", gateway: str = "g1", **labels: str) -> str:
    inside = {"envoy_cluster_name": f"outbound|80|{subset}|{HOST}", "instance": gateway, **labels}
    return f"{metric}{{{', '.join(f'{name}={json.dumps(value)}' for name, value in inside.items())}}}"


def test_the_gateways_p99_is_the_subsets_own_over_all_gateways() -> None:
    query = _promql.build("gateway_p99_ms", ENVOY).query
    bucket = "envoy_cluster_upstream_rq_time_bucket"
    history = {
        at_gateway(subset, bucket, gateway, le=le): f"0+{step}x120"
        for subset, gateway, growth in (("v2", "g1", (0, 98, 98)), ("v2", "g2", (0, 0, 2)), ("v1", "g1", (0, 0, 900)))
        for le, step in zip(("100", "250", "+Inf"), (growth[0], growth[1], growth[2]), strict=True)
    }
    history |= {at_gateway("v2", bucket, gateway, le="500"): f"0+{step}x120" for gateway, step in (("g1", 98), ("g2", 2))}
    assert value_at(query, 100, history) == pytest.approx(375.0)
    assert value_at(query, 100, {at_gateway("v1", bucket, le="250"): "0+9x120"}) == NOTHING


def test_the_gateways_requests_count_every_code_once() -> None:
    query = _promql.build("gateway_requests", {**ENVOY, "window": "1m"}).query
    history = {
        at_gateway("v2", envoy_response_code="200"): "0+18x120",
        at_gateway("v2", gateway="g2", envoy_response_code="503"): "0+2x120",
        # Envoy's own sum over all codes has no code.
        at_gateway("v2"): "0+20x120",
        at_gateway("v1", envoy_response_code="200"): "0+90x120",
    }
    assert value_at(query, 100, history) == pytest.approx(1200)


def test_a_cluster_without_subset_is_a_destination_of_its_own() -> None:
    query = _promql.build("gateway_requests", {**ENVOY, "version": "", "window": "1m"}).query
    history = {at_gateway("", envoy_response_code="200"): "0+5x120", at_gateway("v2", envoy_response_code="200"): "0+9x120"}
    assert value_at(query, 100, history) == pytest.approx(300)
    with pytest.raises(_promql.PresetError, match="preset_vars.version is missing"):
        _promql.build("error_percent", {"version": "", "window": "30s"})


ISTIO = {"version": "v2", "service": "signal-service", "namespace": "signal", "window": "30s"}


def at_proxy(version: str, code: str = "200", reporter: str = "source", metric: str = "istio_requests_total", **labels: str) -> str:
    inside = {
        "reporter": reporter, "destination_service_name": "signal-service", "destination_service_namespace": "signal",
        "destination_version": version, "response_code": code, "instance": "p1", **labels,
    }
    return f"{metric}{{{', '.join(f'{name}={json.dumps(value)}' for name, value in inside.items())}}}"


def test_istios_error_share_is_that_of_one_version_service_and_reporter() -> None:
    query = _promql.build("istio_error_percent", ISTIO).query
    noise = {
        at_proxy("v2", "503", "destination"): "0+20x120",
        at_proxy("v1", "503"): "0+20x120",
        at_proxy("v2", "503", destination_service_name="other"): "0+20x120",
        at_proxy("v2", "503", destination_service_namespace="other"): "0+20x120",
    }
    assert value_at(query, 100, {at_proxy("v2"): "0+20x120", **noise}) == 0
    assert value_at(query, 100, {at_proxy("v2"): "0+19x120", at_proxy("v2", "503"): "0+1x120", **noise}) == pytest.approx(5.0)
    assert value_at(query, 100, noise) == NOTHING
    behind = _promql.build("istio_error_percent", {**ISTIO, "reporter": "destination"}).query
    assert value_at(behind, 100, {at_proxy("v2", reporter="destination"): "0+20x120", **noise}) == pytest.approx(50.0)


def test_istios_first_error_of_a_new_series_is_seen_at_its_first_sample() -> None:
    history = {at_proxy("v2"): "0+20x120", at_proxy("v2", "500"): "_x80 3 3 3 3"}
    assert value_at(_promql.build("istio_error_percent", ISTIO).query, 80, history) == pytest.approx(100 * 3 / 603, rel=0.02)


def test_istios_p99_is_in_milliseconds() -> None:
    query = _promql.build("istio_p99_ms", ISTIO).query
    bucket = "istio_request_duration_milliseconds_bucket"
    growth = {"100": 0, "250": 98, "500": 100, "+Inf": 100}
    assert value_at(query, 100, {at_proxy("v2", metric=bucket, le=le): f"0+{step}x120" for le, step in growth.items()}) == pytest.approx(375.0)


def test_istios_requests_and_their_age() -> None:
    history = {at_proxy("v2"): "0+20x120", at_proxy("v2", "503", instance="p2"): "0+1x60"}
    assert value_at(_promql.build("istio_requests", ISTIO).query, 100, history) == pytest.approx(600, rel=0.01)
    # A caller that ended leaves an old sample, which must not make the figure look old.
    assert value_at(_promql.build("istio_requests", ISTIO).freshness, 100, history) == 100


def counts(hold: int, preset: str = "error_percent", **variables: str) -> tuple[str, str]:
    """The queries for errors and requests of a hold that has lasted ``hold`` seconds."""
    built = _promql.build(preset, variables or {"version": "v2", "window": "30s"})
    return built.errors.replace(_promql.HOLD, f"{hold}s"), built.requests.replace(_promql.HOLD, f"{hold}s")


def test_errors_and_requests_of_the_hold_are_whole_numbers() -> None:
    errors, requests = counts(47)
    history = {OK: "0+19x120", BAD: "7x70 10x50"}
    assert value_at(errors, 100, history) == 3
    assert value_at(requests, 100, history) == 47 * 19 + 3


def test_no_series_of_errors_counts_no_errors_and_no_series_at_all_counts_nothing() -> None:
    errors, requests = counts(30)
    assert value_at(errors, 100, {OK: "0+20x120"}) == 0
    assert value_at(errors, 100, {'other{version="v2"}': "0+1x120"}) == NOTHING
    assert value_at(requests, 100, {'other{version="v2"}': "0+1x120"}) == NOTHING


def test_the_first_error_of_a_new_series_is_counted() -> None:
    assert value_at(counts(30)[0], 80, {OK: "0+20x120", BAD: "_x80 1 1 1"}) == 1


def test_what_a_pod_counted_before_it_ended_within_the_hold_still_counts() -> None:
    history = {OK: "0+20x120", BAD.replace("p1", "p2"): "0x80 4x5 stale"}
    assert value_at(counts(60)[0], 110, history) == 4
    assert value_at(counts(10)[0], 110, history) == 0


def test_counts_across_a_reset_are_neither_negative_nor_lost() -> None:
    history = {OK: "0+20x80 0+20x40", BAD: "100x70 103x10 0x10 2x40"}
    assert float(value_at(counts(60)[0], 110, history)) == pytest.approx(5, rel=0.1)
    assert float(value_at(counts(60)[1], 110, history)) == pytest.approx(60 * 20 + 5, rel=0.05)


def test_every_error_share_has_its_counts() -> None:
    gateway = {at_gateway("v2", envoy_response_code="200"): "0+20x120", at_gateway("v2", envoy_response_code="503"): "_x80 2x40"}
    mesh = {at_proxy("v2"): "0+20x120", at_proxy("v2", "503"): "_x80 2x40"}
    for preset, variables, history in (("gateway_error_percent", ENVOY, gateway), ("istio_error_percent", ISTIO, mesh)):
        errors, requests = counts(30, preset, **variables)
        assert value_at(errors, 100, history) == 2
        assert value_at(requests, 100, history) == 602


def buckets(fast: int, slow: int) -> dict[str, str]:
    """A histogram that grows by ``fast`` requests a second within 100-200 ms and ``slow`` within 200-500 ms."""
    name = 'signal_request_duration_seconds_bucket{{version="v2", endpoint="a", instance="p1", le="{}"}}'
    growth = {"0.1": 0, "0.2": fast, "0.5": fast + slow, "+Inf": fast + slow}
    return {name.format(le): f"0+{step}x120" for le, step in growth.items()}


def test_p99_is_in_milliseconds_and_interpolated_within_its_bucket() -> None:
    query = _promql.build("p99_ms", {"version": "v2", "window": "30s"}).query
    assert value_at(query, 100, buckets(100, 0)) == pytest.approx(199.0)
    assert value_at(query, 100, buckets(98, 2)) == pytest.approx(350.0)


def test_p99_without_traffic_is_no_number() -> None:
    query = _promql.build("p99_ms", {"version": "v2", "window": "30s"}).query
    assert math.isnan(float(value_at(query, 100, buckets(0, 0))))


CONTAINER = {"namespace": "signal", "pod": "signal-service-v2-.*", "container": "app"}


def of_pod(metric: str, pod: str, container: str = "app") -> str:
    return f'{metric}{{namespace="signal", pod="{pod}", container="{container}"}}'


def test_cpu_is_the_worst_pods_share_of_the_limit() -> None:
    query = _promql.build("cpu_percent_of_limit", {**CONTAINER, "window": "1m", "limit_cores": 2}).query
    cpu = "container_cpu_usage_seconds_total"
    history = {
        of_pod(cpu, "signal-service-v2-a"): "0+0.5x120",
        of_pod(cpu, "signal-service-v2-b"): "0+1.5x120",
        of_pod(cpu, "signal-service-v1-a"): "0+2x120",
        of_pod(cpu, "signal-service-v2-a", "sidecar"): "0+2x120",
    }
    assert value_at(query, 100, history) == pytest.approx(75.0)


def test_memory_is_the_worst_pods_share_and_forgets_a_pod_that_is_gone() -> None:
    query = _promql.build("memory_percent_of_limit", {**CONTAINER, "limit_bytes": 200}).query
    memory = "container_memory_working_set_bytes"
    history = {of_pod(memory, "signal-service-v2-a"): "100x200", of_pod(memory, "signal-service-v2-gone"): "190x100"}
    assert value_at(query, 90, history) == pytest.approx(95.0)
    assert value_at(query, 190, history) == pytest.approx(50.0)


def test_cache_hits_are_a_share_of_lookups_and_nothing_without_lookups() -> None:
    query = _promql.build("cache_hit_percent", {"version": "v2", "window": "30s"}).query
    hits, misses = 'signal_cache_hits_total{version="v2"}', 'signal_cache_misses_total{version="v2"}'
    assert value_at(query, 100, {hits: "0+9x120", misses: "0+1x120"}) == pytest.approx(90.0)
    assert value_at(query, 100, {misses: "0+1x120"}) == 0
    assert value_at(query, 100, {hits: "0+1x120"}) == 100
    assert math.isnan(float(value_at(query, 100, {hits: "7x120", misses: "3x120"})))


def test_requests_of_the_window_are_counted() -> None:
    query = _promql.build("requests", {"version": "v2", "window": "1m"}).query
    assert value_at(query, 100, {OK: "0+20x120", BAD: "0+1x120"}) == pytest.approx(60 * 21)


def test_pods_that_all_died_are_zero_and_a_monitoring_outage_is_nothing() -> None:
    query = _promql.build("pods_seen", {"version": "v2"}).query
    second = OK.replace("p1", "p2")
    other = OK.replace("v2", "v1").replace("p1", "p3")
    assert value_at(query, 50, {OK: "0+1x60", second: "0+1x60", other: "0+1x60"}) == 2
    assert value_at(query, 50, {OK: "0+1x30 stale", second: "0+1x30 stale", other: "0+1x60"}) == 0
    assert value_at(query, 50, {OK: "0+1x30 stale", other: "0+1x30 stale"}) == NOTHING
