# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dashboards, alert rules and log queries as the role installs and asks them.

The dashboards go into a namespace of their own, the rules into a file. Prometheus' own promtool, in the lab's pod, tests the rules.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube

from .conftest import wait_until

LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
PLATFORMS = ("kube_state_metrics", "kubelet")
Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def play(ansible: Callable[..., subprocess.CompletedProcess[str]], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Run one entry of the role on the lab's inventory: ``play("logs", {...}, keep="monitoring_logs")``."""

    def run(entry: str, variables: dict[str, Any], keep: str = "") -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("play")
        tasks: list[dict[str, Any]] = [{"ansible.builtin.import_role": {"name": "signal.rollout.monitoring", "tasks_from": entry}}]
        if keep:
            tasks.append({"ansible.builtin.copy": {"content": f"{{{{ {keep} | to_json }}}}", "dest": str(folder / "kept.json"), "mode": "0600"}})
        path = folder / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": "release", "gather_facts": False, "tasks": tasks}]))
        done = ansible("ansible-playbook", "-i", "inventories/lab", str(path), "-e", json.dumps(variables), timeout=120)
        done.kept = json.loads((folder / "kept.json").read_text()) if (folder / "kept.json").exists() else None  # type: ignore[attr-defined]
        return done

    return run


@pytest.fixture(scope="module")
def namespace(kube: _kube.Kube) -> Iterator[str]:
    name = f"monitoring-{uuid.uuid4().hex[:8]}"
    kube.post(_kube.path_of("", "v1", "namespaces"), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.delete(_kube.path_of("", "v1", "namespaces", name=name))


@pytest.fixture(scope="module")
def options(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Variables that keep the role away from the lab's own Prometheus: its rules become a file."""
    return {
        "rollout_kubeconfig": str(LAB / "kubeconfig/admin"),
        "monitoring_namespace": namespace,
        "monitoring_rules_config_map": "",
        "monitoring_reload_url": "",
        "monitoring_prometheus_rule": "never",
        # The document's own times, not the lab's short ones.
        "monitoring_window_seconds": 300,
        "monitoring_restart_window_seconds": 900,
        "monitoring_for_seconds": 60,
        "rules": str(tmp_path_factory.mktemp("rules")),
    }


@pytest.fixture(scope="module")
def rules(play: Play, options: dict[str, Any]) -> dict[str, str]:
    """The rule file for each platform; the dashboards are installed with it."""
    found = {}
    for platform in PLATFORMS:
        path = Path(options["rules"]) / f"{platform}.yml"
        done = play("install", {**options, "monitoring_platform": platform, "monitoring_rules_file": str(path)})
        assert done.returncode == 0, done.stdout
        found[platform] = path.read_text()
    return found


def promtool(program: str, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run promtool beside Prometheus on ``files``; ``program`` is its arguments."""
    kubectl = [str(LAB / "bin/kubectl"), "--kubeconfig", str(LAB / "kubeconfig/admin"), "--namespace", "monitoring"]
    script = (
        "import json, os, subprocess, sys, tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    os.chdir(folder)\n"
        "    for name, text in json.load(sys.stdin).items():\n"
        "        open(name, 'w').write(text)\n"
        f"    sys.exit(subprocess.run(['promtool', *{program.split()!r}]).returncode)\n"
    )
    command = [*kubectl, "exec", "-i", "deployment/prometheus", "--", "python3", "-c", script]
    return subprocess.run(command, input=json.dumps(files), capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_promtool_finds_the_rule_files_right(rules: dict[str, str], platform: str) -> None:
    done = promtool("check rules --lint=all --lint-fatal rules.yml", {"rules.yml": rules[platform]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 7 rules found" in done.stdout


OK = 'signal_requests_total{version="v2",code="200",endpoint="a"}'
BAD = 'signal_requests_total{version="v2",code="500",endpoint="a"}'
QUICK, SLOW = (f'signal_request_duration_seconds_bucket{{version="v2",le="{edge}"}}' for edge in ("0.5", "1"))
EVER = 'signal_request_duration_seconds_bucket{version="v2",le="+Inf"}'
POD = 'namespace="signal",pod="signal-service-v2-abc",container="app"'
LIMIT = 256 * 2**20
# A history at one sample each 15 s, as promtool writes it: whether the alert fires after ten minutes of it.
HISTORIES: list[tuple[str, str, dict[str, str], bool]] = [
    ("kubelet", "HighErrorRate", {OK: "0+991x60", BAD: "0+9x60"}, False),
    ("kubelet", "HighErrorRate", {OK: "0+988x60", BAD: "0+12x60"}, True),
    ("kubelet", "HighErrorRate", {OK: "0+0x60", BAD: "0+0x60"}, False),
    ("kubelet", "HighLatency", {QUICK: "0+995x60", SLOW: "0+1000x60", EVER: "0+1000x60"}, False),
    ("kubelet", "HighLatency", {QUICK: "0+980x60", SLOW: "0+1000x60", EVER: "0+1000x60"}, True),
    ("kubelet", "PodRestarts", {f"container_start_time_seconds{{{POD}}}": "1000x60"}, False),
    ("kubelet", "PodRestarts", {f"container_start_time_seconds{{{POD}}}": "1000x20 1400x40"}, True),
    # Somebody else's pod.
    ("kubelet", "PodRestarts", {f"container_start_time_seconds{{{POD.replace('signal-service', 'billing')}}}": "1000x30 1400x30"}, False),
    ("kube_state_metrics", "PodRestarts", {f"kube_pod_container_status_restarts_total{{{POD}}}": "2x60"}, False),
    ("kube_state_metrics", "PodRestarts", {f"kube_pod_container_status_restarts_total{{{POD}}}": "2x30 3x30"}, True),
    ("kubelet", "DatabaseConnectionFailures", {'signal_db_errors_total{version="v2"}': "7x30 10x30"}, False),
    ("kubelet", "DatabaseConnectionFailures", {'signal_db_errors_total{version="v2"}': "7+1x60"}, True),
    ("kubelet", "RedisConnectionIssues", {'signal_redis_errors_total{version="v2"}': "7x30 10x30"}, False),
    ("kubelet", "RedisConnectionIssues", {'signal_redis_errors_total{version="v2"}': "7+1x60"}, True),
    ("kubelet", "MemoryPressure", {f"container_memory_working_set_bytes{{{POD}}}": f"{int(LIMIT * 0.89)}x60"}, False),
    ("kubelet", "MemoryPressure", {f"container_memory_working_set_bytes{{{POD}}}": f"{int(LIMIT * 0.91)}x60"}, True),
    # For less than a minute.
    ("kubelet", "MemoryPressure", {f"container_memory_working_set_bytes{{{POD}}}": f"{LIMIT // 2}x38 {int(LIMIT * 0.91)}x20"}, False),
    *(
        (
            "kube_state_metrics",
            "MemoryPressure",
            {
                f"container_memory_working_set_bytes{{{POD}}}": f"{int(LIMIT * share)}x60",
                f'kube_pod_container_resource_limits{{{POD},resource="memory"}}': f"{LIMIT}x60",
            },
            share > 0.9,
        )
        for share in (0.89, 0.91)
    ),
    *(
        (
            "kubelet",
            "DiskSpace",
            {'signal_disk_size_bytes{version="v2",folder="/data"}': "1000x60", 'signal_disk_free_bytes{version="v2",folder="/data"}': f"{free}x60"},
            free < 150,
        )
        for free in (151, 149)
    ),
    *(
        (
            "kube_state_metrics",
            "DiskSpace",
            {
                f'node_filesystem_size_bytes{{instance="n1",mountpoint="/",fstype="{kind}"}}': "1000x60",
                f'node_filesystem_avail_bytes{{instance="n1",mountpoint="/",fstype="{kind}"}}': f"{free}x60",
            },
            free < 150 and kind == "ext4",
        )
        for free, kind in ((151, "ext4"), (149, "ext4"), (1, "tmpfs"))
    ),
]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_alert_fires_above_its_limit_and_not_below(rules: dict[str, str], platform: str) -> None:
    tests = [
        {
            "name": f"{alert} {number}",
            "interval": "15s",
            "input_series": [{"series": name, "values": values} for name, values in history.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing",service="signal-service"}}) or vector(0)',
                    "eval_time": "10m",
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        for number, (where, alert, history, fires) in enumerate(HISTORIES)
        if where == platform
    ]
    written = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests}
    done = promtool("test rules tests.yml", {"rules.yml": rules[platform], "tests.yml": json.dumps(written)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    for fires in (True, False):
        assert {alert for _platform, alert, _history, fired in HISTORIES if fired is fires} == {
            "HighErrorRate", "HighLatency", "PodRestarts", "DatabaseConnectionFailures", "RedisConnectionIssues", "MemoryPressure", "DiskSpace",
        }


PANELS = {
    "signal-service-overview": ["Request rate", "Error rate", "Latency percentiles", "Active connections"],
    "signal-service-performance": ["Greeks calculation time", "Cache hit rate", "Database query performance", "Memory usage"],
    "signal-service-business": ["Computations per second", "Active subscriptions", "Moneyness queries", "User activity"],
}


def test_dashboards_have_the_panels_of_the_document(rules: dict[str, str], kube: _kube.Kube, namespace: str) -> None:
    found = {}
    for item in kube.list(_kube.path_of("", "v1", "configmaps", namespace), {"labelSelector": "grafana_dashboard=1"}):
        (name, text), = item["data"].items()
        assert name == f"{item['metadata']['name']}.json"
        dashboard = json.loads(text)
        assert dashboard["schemaVersion"] >= 39
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        # Grafana's grid is 24 wide, and panels must not lie on each other.
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
        assert len(places) == len(dashboard["panels"])
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])
        assert all(target["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"] for target in panel["targets"])
        found[item["metadata"]["name"]] = [panel["title"] for panel in dashboard["panels"]]
    assert found == PANELS


# --- logs ------------------------------------------------------------------------------------------------------------


def test_the_document_s_log_queries_are_answered_by_the_tables(play: Play) -> None:
    done = play("logs", {}, keep="monitoring_logs")
    assert done.returncode == 0, done.stdout
    assert "/api/v1/status" in [entry["endpoint"] for entry in done.kept["requests"]]
    assert all(entry["p99_ms"] > 0 for entry in done.kept["requests"])


def test_a_log_query_cannot_write(play: Play) -> None:
    done = play("logs", {"_monitoring_log_queries": ["CREATE TABLE written_by_a_log_query (x int)", "SELECT 1"]})
    assert done.returncode != 0
    assert "read-only transaction" in done.stdout


@pytest.fixture
def server() -> Iterator[Any]:
    """Answers what it is told to, and keeps what it was asked."""
    asked: list[tuple[str, str, dict[str, str], Any]] = []
    answers: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.command, self.path, dict(self.headers), json.loads(self.rfile.read(length)) if length else None))
            body = json.dumps(answers.pop(0)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_arguments: Any) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    found.asked, found.answers, found.url = asked, answers, f"http://127.0.0.1:{found.server_port}"  # type: ignore[attr-defined]
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_loki_is_asked_for_the_same(play: Play, server: Any) -> None:
    def vector(label: str, *pairs: tuple[str, str]) -> dict[str, Any]:
        result = [{"metric": {label: name}, "value": [1764230400.1, value]} for name, value in pairs]
        return {"status": "success", "data": {"resultType": "vector", "result": result, "stats": {}}}

    server.answers += [vector("error_type", ("TimeoutError", "3"), ("InjectedError", "41")), vector("endpoint", ("/api/v2/status", "12.5"))]
    done = play("logs", {"monitoring_log_source": "loki", "monitoring_log_url": server.url, "monitoring_log_token": "s3cret"}, keep="monitoring_logs")
    assert done.returncode == 0, done.stdout
    assert done.kept == {
        "errors": [{"error_type": "InjectedError", "count": 41}, {"error_type": "TimeoutError", "count": 3}],
        "requests": [{"endpoint": "/api/v2/status", "p99_ms": 12.5}],
    }
    queries = [parse_qs(urlsplit(path).query)["query"][0] for _method, path, _headers, _body in server.asked]
    assert queries == [
        'sum by (error_type) (count_over_time({service="signal-service"} | json | level="ERROR" [1h]))',
        'quantile_over_time(0.99, {service="signal-service"} | json | endpoint!="" | unwrap duration [1h]) by (endpoint)',
    ]
    assert all(headers["Authorization"] == "Bearer s3cret" for _method, _path, headers, _body in server.asked)
    assert "s3cret" not in done.stdout


def test_elasticsearch_is_asked_for_the_same(play: Play, server: Any) -> None:
    errors = {"errors": {"doc_count_error_upper_bound": 0, "sum_other_doc_count": 0, "buckets": [{"key": "InjectedError", "doc_count": 41}]}}
    slowest = {"endpoints": {"buckets": [{"key": "/api/v2/status", "doc_count": 900, "duration": {"values": {"99.0": 12.5}}}]}}
    server.answers += [{"took": 2, "timed_out": False, "aggregations": errors}, {"took": 2, "timed_out": False, "aggregations": slowest}]
    done = play("logs", {"monitoring_log_source": "elasticsearch", "monitoring_log_url": server.url}, keep="monitoring_logs")
    assert done.returncode == 0, done.stdout
    assert done.kept == {"errors": [{"error_type": "InjectedError", "count": 41}], "requests": [{"endpoint": "/api/v2/status", "p99_ms": 12.5}]}
    assert [path for _method, path, _headers, _body in server.asked] == ["/logs-*/_search", "/api_requests-*/_search"]
    logs, requests = (body for _method, _path, _headers, body in server.asked)
    filters = [{"term": {"service": "signal-service"}}, {"range": {"@timestamp": {"gt": "now-1h"}}}]
    assert logs["query"] == {"bool": {"filter": [*filters, {"term": {"level": "ERROR"}}]}}
    assert requests["query"] == {"bool": {"filter": filters}}
    assert requests["aggs"]["endpoints"]["aggs"]["duration"] == {"percentiles": {"field": "duration", "percents": [99]}}


# --- the Prometheus operator -----------------------------------------------------------------------------------------

OPERATOR = ("monitoring.coreos.com", "v1")


@pytest.fixture
def operator_types(kube: _kube.Kube) -> Iterator[None]:
    """The resource type of the Prometheus operator, without anybody who acts on it."""
    group, version = OPERATOR
    crds = _kube.path_of("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"kind": "PrometheusRule", "plural": "prometheusrules", "singular": "prometheusrule", "listKind": "PrometheusRuleList"}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"prometheusrules.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [{"name": version, "served": True, "storage": True, "schema": schema}]},
    }
    kube.post(crds, body)
    wait_until("the type is served", lambda: kube.find(f"/apis/{group}/{version}"))
    yield
    kube.delete(f"{crds}/prometheusrules.{group}")


def test_with_the_operator_the_alerts_are_a_prometheus_rule_and_count_when_they_are_loaded(
    play: Play, options: dict[str, Any], rules: dict[str, str], kube: _kube.Kube, namespace: str, operator_types: None
) -> None:
    given = {"monitoring_platform": "kube_state_metrics", "monitoring_prometheus_rule": "auto", "monitoring_load_timeout_seconds": 0}
    done = play("install", {**options, **given})
    # Nobody has loaded it: an object alone is no alert.
    assert done.returncode != 0
    assert "Prometheus has not loaded every alert" in done.stdout
    rule = kube.get(_kube.path_of(*OPERATOR, "prometheusrules", namespace, "signal-service"))
    assert rule["spec"] == yaml.safe_load(rules["kube_state_metrics"])
    assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
