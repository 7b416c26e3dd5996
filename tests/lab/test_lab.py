# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: up, repair, reset, breaks, down. Nothing here is about speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from siglab import database, settings
from siglab.api import ApiError
from siglab.cluster import Cluster, http_get
from siglab.daemons import Node
from siglab.lifecycle import Lab
from siglab.progress import Progress
from siglab.settings import Paths

LAB = settings.LAB_SOURCE
Labctl = Callable[..., subprocess.CompletedProcess[str]]
PATHS = Paths.from_environment()
NODE = Node(PATHS)
GATEWAY = {"Host": settings.HOST_HEADER}


def eventually(condition: Callable[[], object], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} s: {what}"
        time.sleep(0.1)


def pids() -> dict[str, int | None]:
    return {name: NODE.alive(name) for name in NODE.daemons}


def query(expression: str) -> list[dict]:
    status, unused, body = http_get(f"{settings.PROMETHEUS_URL}/api/v1/query?query={urllib.parse.quote(expression)}")
    assert status == 200, f"Prometheus answered {status} to {expression}"
    return json.loads(body)["data"]["result"]


def through_gateway(path: str = "/api/v1/status") -> int:
    return http_get(settings.GATEWAY_URL + path, GATEWAY, timeout=5)[0]


def weights_of(virtual_service: dict) -> dict[str, int]:
    primary = next(entry for entry in virtual_service["spec"]["http"] if entry.get("name") == "primary")
    return {route["destination"]["subset"]: route.get("weight", 0) for route in primary["route"]}


def v1_pods() -> list[dict]:
    return Cluster(PATHS).api.list("Pod", "signal", "app=signal-service,version=v1")


def can(account: str, verb: str, resource: str, namespace: str = "signal", subresource: str = "") -> bool:
    """Ask the API server. A slash in ``resource`` is followed by an object's name."""
    asked = ["auth", "can-i", verb, resource, "-n", namespace, *([f"--subresource={subresource}"] if subresource else [])]
    done = subprocess.run(
        [str(PATHS.bin / "kubectl"), "--kubeconfig", str(PATHS.kubeconfig / account), *asked],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout.strip() == "yes"


# Prerequisites


def test_prerequisites_are_named_before_anything_changes(lab: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        state = Path(folder) / "state"
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", str(LAB / "labctl"), "up"],
            env={**os.environ, "SIGNAL_LAB_DIR": str(state), "SIGNAL_LAB_CACHE": f"{folder}/cache", "HOME": folder},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "running as user id 65534, expected root" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(Path(folder).iterdir()) == []


def test_all_problems_are_named_at_once(lab: None) -> None:
    """A second lab in a network that uses the lab's addresses: taken range and running lab, both in one message."""
    before = pids()
    with tempfile.TemporaryDirectory() as folder:
        script = 'ip link add taken type bridge; ip addr add 10.78.5.1/16 dev taken; ip link set taken up; exec /usr/bin/python3 "$0" up'
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", script, str(LAB / "labctl")],
            env={**os.environ, "SIGNAL_LAB_DIR": f"{folder}/state"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "address range 10.78.0.0/16 is taken" in done.stderr
        assert "is a lab running with another SIGNAL_LAB_DIR?" in done.stderr
        assert list(Path(folder).iterdir()) == []
    assert pids() == before


# A running lab


def test_down_of_another_state_folder_does_not_touch_this_lab(lab: None) -> None:
    before = pids()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["/usr/bin/python3", str(LAB / "labctl"), "down"], env={**os.environ, "SIGNAL_LAB_DIR": f"{folder}/state"}, check=True, timeout=60
        )
    assert pids() == before
    assert through_gateway() == 200


def test_up_is_idempotent(lab: None, labctl: Labctl) -> None:
    before = pids()
    pods = {pod["metadata"]["uid"] for pod in v1_pods()}
    assert "up already" in labctl("up").stdout
    assert pids() == before
    assert {pod["metadata"]["uid"] for pod in v1_pods()} == pods


def test_status_and_memory(baseline: None, labctl: Labctl) -> None:
    said = labctl("status").stdout
    for part in (*NODE.daemons, "timescaledb", "prometheus", "istio-ingressgateway", "sink", "redis"):
        assert part in said
    assert "lab is healthy" in said
    assert "TOO MUCH" not in said
    assert "v1 100" in said


def test_logs_name_their_parts(lab: None, labctl: Labctl) -> None:
    assert "kubelet" in labctl("logs").stdout
    with pytest.raises(settings.LabError, match="invalid input"):
        database.sql(PATHS, "SELECT 'seen by the tests'::int")
    eventually(lambda: 'integer: "seen by the tests"' in labctl("logs", "timescaledb", "--lines", "500").stdout, "the server's complaint is in its log")
    refused = labctl("logs", "nonsense", expect=1)
    assert "'nonsense' is no part of the lab" in refused.stderr


def test_webhook_gateway_class_and_two_gateways(lab: None) -> None:
    cluster = Cluster(PATHS)
    assert cluster.webhook_refuses()
    found = cluster.api.request("GET", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/istio")
    assert {item["type"]: item["status"] for item in found["status"]["conditions"]}["Accepted"] == "True"
    assert len(cluster.api.list("Pod", "istio-system", "istio=ingressgateway")) == 2


def test_prometheus_scrapes_everything_each_second(lab: None) -> None:
    eventually(lambda: {row["metric"]["job"] for row in query("up == 1")} == {"signal-service", "gateway", "kubelet", "prometheus"}, "all jobs up")
    eventually(lambda: float(query('max(count_over_time(up{job="signal-service"}[10s]))')[0]["value"][1]) >= 9, "ten samples in ten seconds")
    rows = query('container_memory_working_set_bytes{namespace="signal", container="app"}')
    assert {row["metric"]["pod"] for row in rows} == {pod["metadata"]["name"] for pod in v1_pods()}


def test_accounts_have_the_rights_of_their_part(lab: None) -> None:
    assert can("deployer", "patch", "virtualservices.networking.istio.io")
    assert can("deployer", "create", "deployments.apps")
    assert can("deployer", "get", "pods", "istio-system", "proxy")
    assert not can("deployer", "list", "secrets")
    # All pods of a node count for the room on it; what they say is not its business.
    assert can("deployer", "list", "pods", "signal-data")
    assert not can("deployer", "get", "pods", "signal-data", "log")
    assert not can("deployer", "create", "pods", "signal-data", "exec")
    assert not can("deployer", "delete", "pods", "signal-data")
    assert not can("deployer", "delete", "virtualservices.networking.istio.io")
    assert not can("deployer", "create", "rolebindings.rbac.authorization.k8s.io")
    assert can("viewer", "list", "deployments.apps")
    assert not can("viewer", "patch", "deployments.apps")
    assert not can("viewer", "get", "secrets/signal-service-secrets-v1")


def test_database_roles_are_no_superusers(baseline: None) -> None:
    assert database.sql(PATHS, "SELECT version_num FROM alembic_version", database="signal_db", role="signal_owner").strip() == "0001"
    rows = database.sql(PATHS, "SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE 'signal%'")
    assert rows.strip() == ""
    with pytest.raises(settings.LabError, match="permission denied"):
        database.sql(PATHS, "CREATE TABLE intruder (a int)", database="signal_db", role="signal_user")
    assert int(database.sql(PATHS, "SELECT count(*) FROM instruments", database="signal_db", role="signal_user")) > 0


def test_reset_goes_back_to_the_baseline(lab: None, labctl: Labctl) -> None:
    cluster = Cluster(PATHS)
    api = cluster.api
    owner = {"database": "signal_db", "role": "signal_owner"}
    database.sql(PATHS, "CREATE TABLE IF NOT EXISTS signal_leftover (a int)", **owner)
    api.ensure({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "record", "namespace": "signal"}, "data": {"a": "b"}})
    api.ensure({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "rollout", "namespace": "signal"}, "spec": {}})
    api.patch("Service", "signal", "signal-service", {"spec": {"selector": {"version": "v2"}}})
    api.patch("Deployment", "signal", "signal-service-v1", {"spec": {"replicas": 0}})
    api.delete("VirtualService", "signal", "signal-service")
    labctl("break", "sink-down")
    labctl("break", "error-ratio")
    labctl("reset")
    assert database.sql(PATHS, "SELECT to_regclass('signal_leftover') IS NULL", **owner).strip() == "t"
    assert api.get("ConfigMap", "signal", "record") is None
    assert api.get("Lease", "signal", "rollout") is None
    assert api.get("ConfigMap", "signal", "signal-service-knobs-v2") is None
    assert (api.get("Service", "signal", "signal-service") or {})["spec"]["selector"] == {"app": "signal-service"}
    assert weights_of(api.get("VirtualService", "signal", "signal-service") or {}) == {"v1": 100, "v2": 0}
    assert through_gateway() == 200
    assert json.loads(http_get(settings.SINK_URL + "/messages")[2]) == []
    assert "open breaks: none" in labctl("status").stdout


def test_killed_daemon_is_restarted(lab: None, labctl: Labctl) -> None:
    before = pids()
    victim = before["kube-scheduler"]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: NODE.alive("kube-scheduler") is None, "kube-scheduler gone")
    labctl("status", expect=3)
    labctl("up")
    after = pids()
    assert after["kube-scheduler"] not in (None, victim)
    assert {name: pid for name, pid in after.items() if name != "kube-scheduler"} == {name: pid for name, pid in before.items() if name != "kube-scheduler"}


# Breaks: each has its effect, and heal takes it back


def test_break_error_ratio(baseline: None, labctl: Labctl) -> None:
    labctl("break", "error-ratio", "1", "--version", "v1")
    eventually(lambda: through_gateway() == 500, "every request fails")
    labctl("heal", "error-ratio", "--version", "v1")
    eventually(lambda: all(through_gateway() == 200 for _unused in range(10)), "no request fails")


def test_break_latency(baseline: None, labctl: Labctl) -> None:
    def seconds() -> float:
        start = time.monotonic()
        assert through_gateway() == 200
        return time.monotonic() - start

    labctl("break", "latency", "400", "--version", "v1")
    eventually(lambda: min(seconds() for _unused in range(4)) > 0.4, "answers take 400 ms")
    labctl("heal", "latency", "--version", "v1")
    eventually(lambda: max(seconds() for _unused in range(4)) < 0.3, "answers are fast again")


def test_break_unready(baseline: None, labctl: Labctl) -> None:
    cluster = Cluster(PATHS)
    labctl("break", "unready", "--version", "v1")
    eventually(lambda: not (cluster.api.get("Deployment", "signal", "signal-service-v1") or {})["status"].get("readyReplicas"), "no pod is ready")
    labctl("heal")
    eventually(lambda: cluster.deployment_ready("signal", "signal-service-v1"), "all pods are ready")


def test_break_crash_loop(baseline: None, labctl: Labctl) -> None:
    def restarts() -> int:
        return sum(state["restartCount"] for pod in v1_pods() for state in pod["status"].get("containerStatuses", []))

    labctl("break", "crash-loop", "--version", "v1")
    eventually(lambda: restarts() >= 2, "the containers restart")
    labctl("heal", "crash-loop", "--version", "v1")
    # A reset does not wait for the kubelet's back-off: it makes new pods if need be.
    labctl("reset")
    assert Cluster(PATHS).deployment_ready("signal", "signal-service-v1")


def test_break_memory_leak(baseline: None, labctl: Labctl) -> None:
    def working_set() -> float:
        rows = query('sum(container_memory_working_set_bytes{namespace="signal", container="app"})')
        return float(rows[0]["value"][1]) if rows else 0.0

    eventually(lambda: working_set() > 0, "memory is measured")
    before = working_set()
    labctl("break", "memory-leak", "10", "--version", "v1")
    eventually(lambda: working_set() > before + 60 * 2**20, "memory grows")
    labctl("heal", "memory-leak", "--version", "v1")
    eventually(lambda: working_set() < before + 40 * 2**20, "memory is given back")


def test_break_database_down_keeps_the_data(baseline: None, labctl: Labctl) -> None:
    owner = {"database": "signal_db", "role": "signal_owner"}
    database.sql(PATHS, "CREATE TABLE signal_kept (a int); INSERT INTO signal_kept VALUES (42)", **owner)
    labctl("break", "database-down")
    assert not database.answers(PATHS)
    eventually(lambda: all(http_get(f"http://{pod['status']['podIP']}:8080/health")[0] == 503 for pod in v1_pods()), "the service says so")
    assert "up already" not in labctl("up").stdout, "up must look further when a part is down"
    assert not database.answers(PATHS), "up must not heal what was broken on purpose"
    labctl("heal", "database-down")
    assert database.sql(PATHS, "SELECT a FROM signal_kept", **owner).strip() == "42"
    eventually(lambda: through_gateway("/health") == 200, "the service is well again")


def test_break_redis_down(baseline: None, labctl: Labctl) -> None:
    labctl("break", "redis-down")
    assert not Cluster(PATHS).redis_answers()
    labctl("heal", "redis-down")
    assert Cluster(PATHS).redis_answers()


@pytest.mark.parametrize(("what", "url"), [("prometheus-down", settings.PROMETHEUS_URL + "/-/ready"), ("sink-down", settings.SINK_URL + "/health")])
def test_break_http_server(baseline: None, labctl: Labctl, what: str, url: str) -> None:
    assert http_get(url)[0] == 200
    labctl("break", what)
    assert http_get(url)[0] == 0
    labctl("heal", what)
    assert http_get(url)[0] == 200


def test_break_no_metrics(baseline: None, labctl: Labctl) -> None:
    eventually(lambda: query('up{job="signal-service"}'), "the service is scraped")
    labctl("break", "no-metrics")
    eventually(lambda: query('up{job="signal-service"}') == [], "no series of the service")
    assert query('up{job="gateway"}') != []
    labctl("heal", "no-metrics")
    eventually(lambda: len(query('up{job="signal-service"} == 1')) == 2, "the service is scraped again")


def test_break_foreign_edit(baseline: None, labctl: Labctl) -> None:
    def state() -> tuple[dict[str, int], set[str]]:
        found = Cluster(PATHS).api.get("VirtualService", "signal", "signal-service") or {}
        weights = weights_of(found)
        managers = {entry["manager"] for entry in found["metadata"]["managedFields"] if "f:http" in entry.get("fieldsV1", {}).get("f:spec", {})}
        return weights, managers

    labctl("break", "foreign-edit", "20")
    assert state() == ({"v1": 80, "v2": 20}, {"kubectl-edit"})
    labctl("heal", "foreign-edit")
    assert state()[0] == {"v1": 100, "v2": 0}


@pytest.mark.parametrize("arguments", [("nonsense",), ("error-ratio", "2"), ("latency", "soon"), ("sink-down", "1"), ("foreign-edit", "101")])
def test_break_refuses_nonsense(lab: None, labctl: Labctl, arguments: tuple[str, ...]) -> None:
    refused = labctl("break", *arguments, expect=1)
    assert "expected" in refused.stderr or "takes no value" in refused.stderr
    assert "Traceback" not in refused.stderr


# These take the lab down


@pytest.mark.lab_lifecycle
def test_crash_of_everything_is_repaired(lab: None, labctl: Labctl) -> None:
    for pid in pids().values():
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(pids().values()), "all daemons gone")
    labctl("up")
    labctl("status")
    assert through_gateway() == 200


@pytest.mark.lab_lifecycle
def test_lost_network_is_repaired(lab: None, labctl: Labctl) -> None:
    subprocess.run(["ip", "link", "del", settings.HOST_LINK], check=True, timeout=20)
    labctl("up")
    assert through_gateway() == 200


@pytest.mark.lab_lifecycle
def test_down_leaves_nothing(lab: None, labctl: Labctl) -> None:
    lab_here = Lab(PATHS, Progress(PATHS.cache / "history.json"))
    assert lab_here.leftovers() != []
    try:
        labctl("down")
        assert lab_here.leftovers() == []
        assert str(PATHS.state) not in Path("/proc/self/mountinfo").read_text()
        assert labctl("down").returncode == 0, "down of a lab that is down"
        refused = labctl("reset", expect=1)
        assert "Run: labctl up" in refused.stderr
        labctl("status", expect=3)
        with pytest.raises((ApiError, OSError)):
            Cluster(PATHS).api.list("Pod")
    finally:
        labctl("up")
    assert through_gateway() == 200
