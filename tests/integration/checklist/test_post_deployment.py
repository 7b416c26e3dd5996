# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Day 1, week 1 and month 1 of a release: what a month in a real Prometheus, real logs and a real Redis prove, and what they do not.

A month cannot be waited for. It is written into a Prometheus of the test's own by promtool: v2 does well, v3 has errors, too little CPU, growing
memory and a cold cache, v4 has pods and no users, v9 is not there at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import (
    _kube,
    _log_digest,
    _record,
    _redis_check,
    _release_checklist,
    _usage_math,
    _usage_report,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from ..lab.conftest import LAB, connection, wait_until

ROOT = Path(__file__).resolve().parents[3]
DAY = 86400
LIMITS = {
    "error_percent": 0.1, "p99_ms": 200, "cpu_percent": 70, "memory_percent": 80, "cache_hit_percent": 80, "log_errors_per_hour": 60, "horizon_days": 30,
}
SIZING = {"cpu_headroom_percent": 20, "memory_headroom_percent": 30, "tolerance_percent": 20, "minimum_cpu": "10m", "minimum_memory": "32Mi"}
# A sample every five minutes. Bounds of the buckets, and how many requests lie within them.
MONTH = r"""
import math, os, time
end = int(os.environ["END"]); every = 300; start = end - 31 * 86400
BUCKETS = {"v1": (0.5, 0.99, 1, 1), "v2": (0.8, 0.999, 1, 1), "v3": (0.2, 0.9, 0.95, 1)}
out = open("/tmp/month", "w")
def write(name, labels, value):
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    for at in range(start, end + 1, every):
        out.write(f"{name}{{{inside}}} {value(at):.6f} {at}\n")
def counter(name, labels, rate):
    total = [0.0]
    def value(at):
        total[0] += rate(at) * every
        return total[0]
    write(name, labels, value)
for version in ("v1", "v2", "v3", "v4"):
    def load(at):
        return (20.0 if at // 3600 % 24 == 14 else 5.0)
    if version != "v4":
        bad = 0.02 if version == "v3" else 0.0
        for endpoint, share in (("/greeks", 0.75), ("/status", 0.25)):
            labels = {"version": version, "endpoint": endpoint}
            counter("signal_requests_total", {**labels, "code": "200"}, lambda at: load(at) * share * (1 - bad))
            counter("signal_requests_total", {**labels, "code": "500"}, lambda at: load(at) * share * bad)
        for le, part in zip(("0.05", "0.2", "0.5", "+Inf"), BUCKETS[version]):
            counter("signal_request_duration_seconds_bucket", {"version": version, "le": le}, lambda at: load(at) * part)
        counter("signal_cache_hits_total", {"version": version}, lambda at: load(at) * (0.5 if version == "v3" else 0.95))
        counter("signal_cache_misses_total", {"version": version}, lambda at: load(at) * (0.5 if version == "v3" else 0.05))
    labels = {"namespace": os.environ["NAMESPACE"], "pod": f"shop-{version}-0", "container": "app"}
    counter("container_cpu_usage_seconds_total", labels, lambda at: 0.095 if version == "v3" else 0.05)
    write("container_memory_working_set_bytes", labels, lambda at: 2**20 * (28 + (at - start) / 86400 if version == "v3" else 40 + math.sin(at)))
    write("container_start_time_seconds", labels, lambda at: start + (at - start) // (8 * 3600) * 8 * 3600 if version == "v3" else start)
out.write("# EOF\n")
"""
HISTORY = """
set -eu
cd /tmp
redis-server --port 7000 --bind 0.0.0.0 --protected-mode no --save '' --maxmemory 64mb --maxmemory-policy allkeys-lru --daemonize yes >/dev/null
redis-server --port 7001 --bind 0.0.0.0 --protected-mode no --save '' --maxmemory 3mb --maxmemory-policy allkeys-lru --daemonize yes >/dev/null
printf 'global: {}\\n' > prometheus.yml
python3 -c "$MONTH"
promtool tsdb create-blocks-from openmetrics --max-block-duration=1500h /tmp/month /tmp/data >/dev/null
exec prometheus --config.file=prometheus.yml --storage.tsdb.path=/tmp/data --storage.tsdb.retention.time=10y --log.level=warn
"""
# v2 has only good things to say; v3 fails by the second, and burns the CPU that it may have.
QUIET = """for i in 1 2 3; do echo '{"level": "INFO", "message": "computed"}'; done; exec sleep 3600"""
LOUD = """i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo '{"level": "ERROR", "message": "order '$i' lost", "error_type": "PricingError"}'; done
while :; do :; done"""


@dataclass
class Shop:
    """A namespace with Deployments shop-v2 and shop-v3, and a pod with their month. ``end`` is the month's end in unix seconds."""

    kube: _kube.Kube
    namespace: str
    address: str
    end: int

    @property
    def prometheus(self) -> str:
        return f"http://{self.address}:9090"

    def report(self, version: str, parts: list[str], window: int, **asked: Any) -> dict[str, Any]:
        given = {
            **connection(namespace=self.namespace), "service": "shop", "version": version, "stable_version": "v1", "parts": parts, "window": window,
            "until": _usage_math.moment(self.end), "released": _usage_math.moment(self.end - window), "scrape_interval": 300.0,
            "prometheus_url": self.prometheus, "minimum_samples": 20, "minimum_requests": 2995, "limits": LIMITS, "sizing": SIZING, **asked,
        }
        checked = ArgumentSpecValidator(_usage_report.ARGUMENT_SPEC, **_usage_report.SPEC_RULES).validate(
            {key: value for key, value in given.items() if value is not None}
        )
        assert not checked.error_messages, checked.error_messages
        return _usage_report.run(checked.validated_parameters, Context())

    def live(self, version: str, parts: list[str], seconds: int, **asked: Any) -> dict[str, Any]:
        """A report about the last ``seconds``, with the lab's own Prometheus."""
        now = time.time()
        times = {"until": _usage_math.moment(now), "released": _usage_math.moment(now - seconds - 1)}
        lab = {"prometheus_url": "http://10.79.0.52:9090", "scrape_interval": 1.0, "minimum_samples": 1}
        return self.report(version, parts, seconds, **{**times, **lab, **asked})

    def nodes(self, port: int) -> list[dict[str, Any]]:
        checked = ArgumentSpecValidator(_redis_check.ARGUMENT_SPEC).validate({"hosts": [f"{self.address}:{port}"], "pings": 1, "window": 0.0})
        return _redis_check.run(checked.validated_parameters, Context())["nodes"]


def deployment(version: str, script: str, requests_: dict[str, str], limits: dict[str, str]) -> dict[str, Any]:
    labels = {"app": "shop", "version": version}
    container = {
        "name": "app", "image": "localhost/signal-service:v1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        "resources": {"requests": requests_, "limits": limits},
    }
    spec = {"terminationGracePeriodSeconds": 0, "enableServiceLinks": False, "automountServiceAccountToken": False, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"shop-{version}"}, "spec": body}


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def shop(kube: _kube.Kube) -> Iterator[Shop]:
    namespace = f"after-{uuid.uuid4().hex[:8]}"
    end = int(time.time()) // 300 * 300
    image = kube.get(_kube.path_of("apps", "v1", "deployments", "signal-data", "redis"))["spec"]["template"]["spec"]["containers"][0]["image"]
    env = [{"name": name, "value": value} for name, value in (("END", str(end)), ("NAMESPACE", namespace), ("MONTH", MONTH))]
    history = {"name": "history", "image": image, "imagePullPolicy": "Never", "command": ["bash", "-c", HISTORY], "env": env}
    spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [history]}
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        pods = _kube.path_of("", "v1", "pods", namespace)
        kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "history"}, "spec": spec})
        small = {"cpu": "10m", "memory": "16Mi"}
        deployments = _kube.path_of("apps", "v1", "deployments", namespace)
        kube.post(deployments, deployment("v2", QUIET, {"cpu": "50m", "memory": "48Mi"}, {"cpu": "500m", "memory": "128Mi"}))
        kube.post(deployments, deployment("v3", LOUD, small, {"cpu": "100m", "memory": "64Mi"}))
        address = wait_until("the pod has an address", lambda: kube.get(f"{pods}/history")["status"].get("podIP"), 60)
        made = Shop(kube, namespace, address, end)
        wait_until("its Prometheus answers", lambda: answers(made.prometheus), 120)
        yield made
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


def state(answer: dict[str, Any], box: str) -> str:
    return answer["proofs"].get(box, {"state": "open"})["state"]


@pytest.mark.box("day_1.metrics")
def test_a_day_within_the_limits_is_proven_beside_the_old_versions_week(shop: Shop) -> None:
    good = shop.report("v2", ["metrics"], DAY, baseline_window=7 * DAY)
    green, blue = good["parts"]["metrics"]["green"], good["parts"]["metrics"]["blue"]
    assert state(good, "day_1.metrics") == "proven" and good["queries"] == 10
    # Five a second, and twenty in one hour of the day.
    assert green["requests"] == pytest.approx(23 * 3600 * 5 + 3600 * 20, rel=0.05) and green["errors"] == 0
    assert green["p99_ms"] == pytest.approx(193, abs=2) and blue["p99_ms"] == pytest.approx(200, abs=1)
    assert green["restarts"] == 0 and green["cpu_cores"]["p95"] == pytest.approx(0.05, rel=0.01)


@pytest.mark.box("day_1.metrics")
def test_errors_and_latency_over_their_limits_fail_the_day_and_no_series_prove_nothing(shop: Shop) -> None:
    bad = shop.report("v3", ["metrics"], DAY, baseline_window=7 * DAY)
    assert bad["proofs"]["day_1.metrics"]["state"] == "failed"
    assert bad["parts"]["metrics"]["green"]["error_percent"] == pytest.approx(2.0, rel=0.01)
    assert bad["parts"]["metrics"]["green"]["restarts"] in (2, 3)
    assert all(words in bad["proofs"]["day_1.metrics"]["evidence"] for words in ("error rate 2 %, expected < 0.1 %", "p99 500 ms, expected < 200 ms"))
    nothing = shop.report("v9", ["metrics"], DAY, baseline_window=7 * DAY)
    assert state(nothing, "day_1.metrics") == "open" and "cover 0 %" in nothing["unproven"]["day_1.metrics"]


def test_nothing_is_proven_before_its_time_nor_where_prometheus_does_not_reach(shop: Shop) -> None:
    early = shop.report("v2", _usage_report.PARTS, DAY, released=_usage_math.moment(shop.end - DAY + 600), baseline_window=7 * DAY)
    assert early["proofs"] == {} and all("has not passed yet" in early["unproven"][box] for box in ("day_1.metrics", "week_1.resources", "month_1.usage"))
    # Two months, of which one is kept.
    long = shop.report("v2", ["usage", "metrics"], 62 * DAY, baseline_window=7 * DAY)
    assert long["proofs"] == {} and "expected at least 90 %" in long["unproven"]["month_1.usage"]
    assert "no series of v1" in long["parts"]["metrics"]["blue"]["error"]


@pytest.mark.box("day_1.error_logs")
def test_an_error_burst_in_the_log_of_a_pod_fails_the_day_and_a_quiet_log_proves_it(shop: Shop) -> None:
    def since_it_started(version: str, lines: int) -> dict[str, Any] | None:
        pods = shop.kube.list(_kube.path_of("", "v1", "pods", shop.namespace), {"labelSelector": f"version={version}"})
        start, now = (pods[0]["status"].get("startTime") if pods else None), int(time.time())
        seconds = 0 if start is None else now - int(_log_digest.unix_time(start) or now)
        if seconds < 1:
            return None
        answer = shop.report(version, ["error_logs"], seconds, released=start, until=_usage_math.moment(now))
        return answer if (answer["parts"]["error_logs"].get("lines") or 0) >= lines else None

    good = wait_until("v2 has logged", lambda: since_it_started("v2", 3))
    assert state(good, "day_1.error_logs") == "proven" and good["parts"]["error_logs"]["count"] == 0
    bad = wait_until("v3 has logged", lambda: since_it_started("v3", 200))
    (entry,) = bad["parts"]["error_logs"]["errors"]
    assert (entry["error_type"], entry["count"]) == ("PricingError", 200)
    assert state(bad, "day_1.error_logs") == "failed" and "PricingError 200" in bad["proofs"]["day_1.error_logs"]["evidence"]
    # A log that begins after the release says nothing of the time before.
    late = shop.live("v2", ["error_logs"], DAY)
    assert state(late, "day_1.error_logs") == "open" and "expected at least 90 %" in late["unproven"]["day_1.error_logs"]


@pytest.mark.box("day_1.error_logs")
def test_errors_of_a_log_table_count_and_a_table_without_lines_proves_nothing(shop: Shop) -> None:
    first = _usage_math.moment(shop.end - 30 * DAY)
    few = [{"error_type": "TimeoutError", "count": 5}]
    assert state(shop.report("v2", ["error_logs"], DAY, log_rows=few, log_coverage={"first": first, "lines": 100}), "day_1.error_logs") == "proven"
    many = [{"error_type": "TimeoutError", "count": 5000}]
    bad = shop.report("v2", ["error_logs"], DAY, log_rows=many, log_coverage={"first": first, "lines": 9000})
    assert state(bad, "day_1.error_logs") == "failed" and "TimeoutError 5000" in bad["proofs"]["day_1.error_logs"]["evidence"]
    assert state(shop.report("v2", ["error_logs"], DAY, log_rows=[], log_coverage={"first": first, "lines": 0}), "day_1.error_logs") == "open"
    late = {"first": _usage_math.moment(shop.end - 3600), "lines": 100}
    assert state(shop.report("v2", ["error_logs"], DAY, log_rows=[], log_coverage=late), "day_1.error_logs") == "open"


@pytest.mark.box("week_1.resources", "week_1.tuning")
def test_a_week_of_usage_within_its_limits_is_proven_with_sizes_that_follow_from_it(shop: Shop) -> None:
    good = shop.report("v2", ["resources"], 7 * DAY)
    assert state(good, "week_1.resources") == "proven" and state(good, "week_1.tuning") == "proven"
    sizes = good["parts"]["resources"]["containers"]["app"]["sizes"]
    assert sizes["request_cpu"]["proposed"] == 0.06 and not sizes["request_cpu"]["change"]
    assert sizes["limit_memory"]["proposed"] == 56 * 2**20 and sizes["limit_memory"]["change"]
    assert "memory: 56Mi" in good["markdown"]


@pytest.mark.box("week_1.resources", "week_1.tuning")
def test_usage_near_its_limit_fails_the_week_and_sizes_without_users_are_not_tuned(shop: Shop) -> None:
    bad = shop.report("v3", ["resources"], 7 * DAY)
    assert state(bad, "week_1.resources") == "failed" and "app cpu p95 95 % of its limit" in bad["proofs"]["week_1.resources"]["evidence"]
    assert bad["parts"]["resources"]["containers"]["app"]["sizes"]["limit_cpu"] == {"current": 0.1, "proposed": 0.2, "change": True, "clipped": True}
    idle = shop.report("v4", ["resources"], 7 * DAY, deployment="shop-v2")
    assert state(idle, "week_1.tuning") == "open" and "no real load" in idle["unproven"]["week_1.tuning"]


def test_a_live_pod_with_too_small_a_request_gets_a_bigger_proposal(shop: Shop) -> None:
    def measured() -> dict[str, Any] | None:
        sizes = shop.live("v3", ["resources"], 8)["parts"]["resources"]["containers"]["app"]["sizes"]
        return sizes if sizes.get("request_cpu", {}).get("change") and "request_memory" in sizes else None

    sizes = wait_until("Prometheus has seen it work", measured)
    assert sizes["request_cpu"]["current"] == 0.01 < sizes["request_cpu"]["proposed"]


@pytest.mark.box("week_1.cache")
def test_a_warm_cache_with_room_is_proven_and_one_that_evicts_or_misses_fails(shop: Shop) -> None:
    with redis.Redis(host=shop.address, port=7000) as room, redis.Redis(host=shop.address, port=7001) as tight:
        room.set("key", "value", ex=3600)
        for place in range(3000):
            tight.set(f"key-{place}", "x" * 2000, ex=3600)
    good = shop.report("v2", ["cache"], 7 * DAY, redis_nodes=shop.nodes(7000))
    assert state(good, "week_1.cache") == "proven" and good["parts"]["cache"]["hit_percent"] == pytest.approx(95)
    evicting = shop.report("v2", ["cache"], 7 * DAY, redis_nodes=shop.nodes(7001))
    assert state(evicting, "week_1.cache") == "failed" and "has evicted" in evicting["proofs"]["week_1.cache"]["evidence"]
    assert any("were evicted before they expired" in hint for hint in evicting["parts"]["cache"]["hints"])
    cold = shop.report("v3", ["cache"], 7 * DAY, redis_nodes=shop.nodes(7000))
    assert state(cold, "week_1.cache") == "failed" and "hit rate 50 %, expected > 80 %" in cold["proofs"]["week_1.cache"]["evidence"]
    assert state(shop.report("v2", ["cache"], 7 * DAY), "week_1.cache") == "open"


@pytest.mark.box("month_1.usage")
def test_a_month_of_requests_tells_the_busy_hour_and_a_version_without_any_tells_nothing(shop: Shop) -> None:
    good = shop.report("v2", ["usage"], 30 * DAY)
    usage = good["parts"]["usage"]
    assert state(good, "month_1.usage") == "proven" and len(usage["by_hour"]) == 24
    assert max(usage["by_hour"], key=usage["by_hour"].get) in (14, 15) and usage["peak_to_mean"] > 3
    assert [(row["endpoint"], round(row["percent"])) for row in usage["by_endpoint"]] == [("/greeks", 75), ("/status", 25)]
    assert state(shop.report("v4", ["usage"], 30 * DAY), "month_1.usage") == "open"


@pytest.mark.box("month_1.capacity")
def test_a_steady_month_has_room_and_memory_that_grows_into_its_limit_fails(shop: Shop) -> None:
    good = shop.report("v2", ["capacity"], 30 * DAY)
    assert state(good, "month_1.capacity") == "proven"
    assert good["parts"]["capacity"]["trends"]["cpu_cores"]["per_day"] == pytest.approx(0, abs=1e-3)
    bad = shop.report("v3", ["capacity"], 30 * DAY, limits={**LIMITS, "memory_percent": 100})
    trend = bad["parts"]["capacity"]["trends"]["memory_bytes_of_the_largest_container"]
    # One MiB a day from 28, and 64 of them are the limit.
    assert trend["per_day"] == pytest.approx(2**20, rel=0.05) and trend["days"] == pytest.approx(6.5, abs=1.5)
    assert state(bad, "month_1.capacity") == "failed" and "memory bytes" in bad["proofs"]["month_1.capacity"]["evidence"]


def test_while_prometheus_is_away_every_part_says_so_and_proves_nothing(shop: Shop) -> None:
    answer = shop.report("v2", ["metrics", "resources", "cache", "usage", "capacity"], DAY, prometheus_url="http://127.0.0.1:9", prometheus_timeout=1.0)
    assert answer["proofs"] == {} and len(answer["unproven"]) == 6
    assert all(part["error"] for part in answer["parts"].values())
    assert answer["markdown"].count("Not known: ") == 5


def play(shop: Shop, folder: Path, version: str, period: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook about the month's end; the record says that the release is a window old."""
    given = {
        "rollout_namespace": shop.namespace, "rollout_service": "shop", "rollout_version": version, "rollout_stable_version": "v1",
        "rollout_kubeconfig": str(LAB / "kubeconfig/admin"), "rollout_prometheus_url": shop.prometheus, "rollout_redis_url": f"redis://{shop.address}:7000/0",
        "communication_targets": [], "post_deployment_report_dir": str(folder), "post_deployment_scrape_interval_seconds": 300,
        "post_deployment_minimum_samples": 4, "post_deployment_minimum_requests": 2995, "post_deployment_minimum_coverage_percent": 60,
        "post_deployment_week_seconds": 7200,
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/post_deployment.yml", "--tags", period, "-e", json.dumps(given)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=240, check=False)


def begin(shop: Shop, version: str, outcome: str | None) -> None:
    """A record whose release ended an hour before the month did. Only its times are written by hand."""
    params = {**dict.fromkeys(_record.ARGUMENT_SPEC), **connection(namespace=shop.namespace), "service": "shop", "holder": "test", "lease_duration": 1}
    acts: list[dict[str, Any]] = [{"state": "begin", "plan": {"version": version}, "version": version}]
    acts += [{"state": "finish", "outcome": outcome}] if outcome else []
    for act in acts:
        _record.run({**params, **act}, Context())
    path = _kube.path_of("", "v1", "configmaps", shop.namespace, _record.record_name("shop"))
    document = shop.kube.get(path)
    record = json.loads(document["data"][_record.RECORD_KEY])
    moment = _usage_math.moment(shop.end - 7500).replace("Z", ".000000Z")
    record.update(started=moment, finished=moment if outcome else None)
    document["data"][_record.RECORD_KEY] = json.dumps(record)
    shop.kube.put(path, document)


def test_the_playbook_keeps_its_proofs_its_reports_and_a_calendar_and_fails_when_a_box_has(shop: Shop, tmp_path: Path) -> None:
    begin(shop, "v2", None)
    refused = play(shop, tmp_path, "v2", "week_1")
    assert refused.returncode == 2 and "expected a complete release of v2" in refused.stdout
    begin(shop, "v2", "complete")
    done = play(shop, tmp_path, "v2", "week_1")
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads((tmp_path / "shop-v2-week_1.json").read_text())
    assert state(report, "week_1.resources") == "proven", report["unproven"]
    assert "## Sizes" in (tmp_path / "shop-v2-week_1.md").read_text()
    calendar = (tmp_path / "shop-v2-reminders.ics").read_bytes()
    assert calendar.count(b"BEGIN:VEVENT\r\n") == 5 and b"DESCRIPTION:Plan optimization sprint\r\n" in calendar and calendar.endswith(b"END:VCALENDAR\r\n")
    checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC).validate(
        {key: value for key, value in {**connection(namespace=shop.namespace), "service": "shop", "version": "v2"}.items() if value is not None}
    )
    boxes = {entry["id"]: entry["state"] for entry in _release_checklist.run(checked.validated_parameters, Context())["items"]}
    assert [boxes[box] for box in ("week_1.resources", "week_1.tuning", "week_1.cache", "day_1.metrics")] == ["proven", "proven", "proven", "open"]
    begin(shop, "v3", "complete")
    failed = play(shop, tmp_path, "v3", "week_1")
    assert failed.returncode == 2 and "app cpu p95 95 % of its limit, expected < 70 %" in failed.stdout
    assert "To do by people: Plan optimization sprint" in failed.stdout
