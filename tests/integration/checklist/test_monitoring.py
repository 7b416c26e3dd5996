# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dashboards and alerts on the lab's own Prometheus: installed, broken, and every alert fired by a real fault and resolved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube

from ..lab.conftest import wait_until

ROOT = Path(__file__).resolve().parents[3]
LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
PROMETHEUS = "http://10.79.0.52:9090"
DASHBOARDS = ("signal-service-overview", "signal-service-performance", "signal-service-business")
RULES = "prometheus-rules"
ALERTS = {
    "HighErrorRate": "alerts.error_rate",
    "HighLatency": "alerts.latency",
    "PodRestarts": "alerts.restarts",
    "DatabaseConnectionFailures": "alerts.database",
    "RedisConnectionIssues": "alerts.redis",
    "MemoryPressure": "alerts.memory",
    "DiskSpace": "alerts.disk",
}
BOXES = ("dashboards.overview", "dashboards.performance", "dashboards.business")
MEMORY_LIMIT = 256 * 2**20

pytestmark = pytest.mark.alone


def labctl(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "lab/labctl"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(query: str) -> list[dict[str, Any]]:
    address = f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return list(json.load(answer)["data"]["result"])


def firing() -> set[str]:
    return {series["metric"]["alertname"] for series in ask('ALERTS{alertstate="firing",service="signal-service"}')}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def config_map(name: str) -> str:
    return _kube.path_of("", "v1", "configmaps", "monitoring", name)


Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(ansible: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Look:
    """What the role finds: ``look("proofs")``, ``look("summary", since)``."""

    def run(entry: str, since: str = "") -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("look")
        role = {"ansible.builtin.import_role": {"name": "signal.rollout.monitoring", "tasks_from": entry}, "vars": {"monitoring_since": since}}
        keep = {"ansible.builtin.copy": {"content": "{{ _monitoring_found | to_json }}", "dest": str(folder / "found.json"), "mode": "0600"}}
        (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "release", "gather_facts": False, "tasks": [role, keep]}]))
        done = ansible("ansible-playbook", "-i", "inventories/lab", str(folder / "play.yml"))
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads((folder / "found.json").read_text()))

    return run


@pytest.fixture(scope="module")
def install(ansible: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[], str]:
    """Install dashboards and alerts as the deployer; returns what the playbook shows."""

    def run() -> str:
        done = ansible("ansible-playbook", "-i", "inventories/lab", "playbooks/monitor.yml", "--tags", "install")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(kube: _kube.Kube, install: Callable[[], str]) -> Iterator[None]:
    """Both are there. What was not there before goes again."""
    before = {name for name in (*DASHBOARDS, RULES) if kube.find(config_map(name))}
    install()
    try:
        yield
    finally:
        labctl("heal")
        for name in {*DASHBOARDS, RULES} - before:
            kube.delete(config_map(name))


@pytest.fixture(autouse=True)
def traffic(installed: None) -> Iterator[None]:
    """v1 has traffic, and Prometheus has seen it."""
    labctl("traffic", "start")
    try:
        wait_until("Prometheus sees requests", lambda: ask("sum(rate(signal_requests_total[15s])) > 0"), 60)
        yield
    finally:
        labctl("traffic", "stop")


@pytest.mark.box("infrastructure.dashboards", "infrastructure.alert_rules")
def test_what_is_installed_proves_both_boxes_and_installing_again_changes_nothing(installed: None, look: Look, install: Callable[[], str]) -> None:
    found = look("proofs")
    assert {box: proof["state"] for box, proof in found["proofs"].items()} == {
        "infrastructure.dashboards": "proven",
        "infrastructure.alert_rules": "proven",
    }, found["problems"]
    assert "7 of 7 alerts" in found["proofs"]["infrastructure.alert_rules"]["evidence"]
    assert "12 panels" in found["proofs"]["infrastructure.dashboards"]["evidence"]
    assert "changed=0" in install()


@pytest.mark.box("infrastructure.dashboards")
def test_a_panel_on_a_metric_that_nobody_exports_fails_the_box(installed: None, look: Look, kube: _kube.Kube) -> None:
    path = config_map(DASHBOARDS[2])
    before = kube.get(path)["data"]
    (name, text), = before.items()
    kube.patch(path, [{"op": "replace", "path": "/data", "value": {name: text.replace("signal_active_users", "signal_users_active")}}], manager="test")
    try:
        proof = look("proofs")["proofs"]["infrastructure.dashboards"]
        assert proof["state"] == "failed"
        assert "Business Metrics: 3 of 4 panels have data, not: User activity (no series)" in proof["evidence"]
    finally:
        kube.patch(path, [{"op": "replace", "path": "/data", "value": before}], manager="test")


@pytest.mark.box("infrastructure.alert_rules")
def test_an_alert_with_another_limit_fails_the_box(installed: None, look: Look, kube: _kube.Kube, install: Callable[[], str]) -> None:
    path = config_map(RULES)
    (name, text), = kube.get(path)["data"].items()
    assert "> 500" in text
    kube.patch(path, [{"op": "replace", "path": "/data", "value": {name: text.replace("> 500", "> 5000")}}], manager="test")

    def loaded() -> bool:
        urllib.request.urlopen(urllib.request.Request(f"{PROMETHEUS}/-/reload", method="POST", data=b""), timeout=10).close()
        with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/rules?type=alert", timeout=10) as answer:
            return "5000" in answer.read().decode()

    wait_until("Prometheus has loaded the changed rule", loaded)
    proof = look("proofs")["proofs"]["infrastructure.alert_rules"]
    install()
    assert proof["state"] == "failed"
    assert "HighLatency: it is loaded with another expression" in proof["evidence"]
    assert look("proofs")["proofs"]["infrastructure.alert_rules"]["state"] == "proven"


def memory_of_v1() -> float:
    return max(float(series["value"][1]) for series in ask('container_memory_working_set_bytes{container="app",pod=~"signal-service-v1-.*"}'))


def restarts(kube: _kube.Kube) -> int:
    pods = kube.list(_kube.path_of("", "v1", "pods", "signal"), {"labelSelector": "app=signal-service,version=v1"})
    return sum(status["restartCount"] for pod in pods for status in pod["status"].get("containerStatuses") or [])


@pytest.mark.box(*ALERTS.values())
def test_each_alert_fires_by_a_real_fault_and_resolves(
    installed: None, look: Look, kube: _kube.Kube, ansible: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    wait_until("no alert fires", lambda: not firing(), 60)
    began = now()
    seen: set[str] = set()

    def fired(*wanted: str) -> Callable[[], bool]:
        def see() -> bool:
            seen.update(firing())
            return seen >= set(wanted)

        return see

    before = restarts(kube)
    labctl("break", "crash-loop", "--version", "v1")
    wait_until("v1 was restarted", lambda: restarts(kube) > before, 60)
    labctl("heal")
    wait_until("v1 answers", lambda: len(ask('up{job="signal-service"} == 1')) >= 2, 60)
    hold = int((0.95 * MEMORY_LIMIT - memory_of_v1()) / 2**20)
    for what, value in (("error-ratio", "0.2"), ("latency", "800"), ("memory-pressure", str(hold))):
        labctl("break", what, value, "--version", "v1")
    labctl("break", "redis-down")
    wait_until("four alerts fire", fired("HighErrorRate", "HighLatency", "MemoryPressure", "RedisConnectionIssues"), 60)
    watched = ansible("ansible-playbook", "-i", "inventories/lab", "playbooks/monitor.yml")
    assert watched.returncode != 0
    assert "alert RedisConnectionIssues fires now" in " ".join(watched.stdout.split())
    labctl("heal")
    labctl("break", "disk-full", "--version", "v1")
    labctl("break", "database-down")
    wait_until("the others fire", fired("DiskSpace", "DatabaseConnectionFailures", "PodRestarts"), 60)
    labctl("heal")
    assert seen == set(ALERTS)
    found = look("summary", began)
    assert {box: found["proofs"][box]["state"] for box in ALERTS.values()} == dict.fromkeys(ALERTS.values(), "failed"), found["alerts"]

    wait_until("all of them have resolved", lambda: not firing(), 90)
    wait_until("both pods of v1 answer again", lambda: len(ask('up{job="signal-service"} == 1')) >= 2, 60)
    quiet = now()
    time.sleep(20)
    found = look("summary", quiet)
    states = {box: proof["state"] for box, proof in found["proofs"].items()}
    assert states == dict.fromkeys([*ALERTS.values(), *BOXES], "proven"), found["problems"]


@pytest.mark.box(*BOXES)
def test_dashboards_without_data_fail_their_boxes_and_alerts_that_saw_nothing_stay_open(installed: None, look: Look) -> None:
    began = now()

    def states(since: str) -> dict[str, str]:
        found.update(look("summary", since))
        return {box: found["proofs"].get(box, {}).get("state", "open") for box in BOXES}

    def become(state: str, since: Callable[[], str]) -> None:
        # Panels differ in how far back they look: a figure is gone, and is back, when the last of them says so.
        try:
            wait_until(f"all dashboards are {state}", lambda: states(since()) == dict.fromkeys(BOXES, state), 90)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found['problems']}") from None

    found: dict[str, Any] = {}
    labctl("break", "no-metrics")
    become("failed", lambda: began)
    assert "alerts.error_rate" not in found["proofs"]
    labctl("heal", "no-metrics")
    become("proven", lambda: now_before(2))


def now_before(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
