# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a service with a crashing new version is shown, by the lab's API server, kubelet and Prometheus."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _service_status
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from .conftest import connection, wait_until

PROMETHEUS = "http://10.79.0.52:9090"
SECRET = "s3cret-of-the-inventory"
CRASH = f"echo connecting with password=hunter2; echo {SECRET} is wrong; exit 3"
BUSY = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo ready; sleep 3600"


def status(namespace: str, user: str = "admin", **asked: Any) -> dict[str, Any]:
    given = {**connection(user, namespace=namespace), "service": "shop", "stable_version": "v1", "version": "v2", **asked}
    checked = ArgumentSpecValidator(_service_status.ARGUMENT_SPEC).validate({key: value for key, value in given.items() if value is not None})
    assert not checked.error_messages, checked.error_messages
    return _service_status.run(checked.validated_parameters, Context())


def pod(version: str, script: str) -> dict[str, Any]:
    container = {
        "name": "app",
        "image": "localhost/signal-service:v1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"shop-{version}-0", "labels": {"app": "shop", "version": version}},
        "spec": {"terminationGracePeriodSeconds": 0, "enableServiceLinks": False, "containers": [container]},
    }


@pytest.fixture(scope="module")
def shop(kube: _kube.Kube) -> Iterator[str]:
    """A namespace with a pod of v1 that is well, and one of v2 that ends at once, again and again."""
    namespace = f"shop-{uuid.uuid4().hex[:8]}"
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        pods = _kube.path_of("", "v1", "pods", namespace)
        for body in (pod("v1", BUSY), pod("v2", CRASH)):
            kube.post(pods, body)
        service = {"metadata": {"name": "shop"}, "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080}]}}
        kube.post(_kube.path_of("", "v1", "services", namespace), {"apiVersion": "v1", "kind": "Service", **service})
        cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-v1"}
        spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [cpu]}
        body = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "shop-hpa"}, "spec": spec}
        kube.post(_kube.path_of("autoscaling", "v2", "horizontalpodautoscalers", namespace), body)

        def crashed() -> bool:
            states = kube.get(f"{pods}/shop-v2-0").get("status", {}).get("containerStatuses") or [{}]
            well = kube.get(f"{pods}/shop-v1-0").get("status", {}).get("containerStatuses") or [{}]
            return bool(states[0].get("restartCount", 0) >= 1 and states[0].get("state", {}).get("waiting") and well[0].get("ready"))

        wait_until("v2 has crashed twice and v1 is ready", crashed, 60)
        yield namespace
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


def test_a_crashing_green_is_told_apart_from_a_healthy_blue_with_its_reason(shop: str) -> None:
    shown = status(shop)
    blue, green = shown["pods"]
    assert (blue["side"], blue["ready"], blue["status"], blue["reasons"]) == ("blue", "1/1", "Running", [])
    assert (green["side"], green["ready"], green["status"]) == ("green", "0/1", "CrashLoopBackOff") and green["restarts"] >= 1
    assert any("exit code 3" in words for words in green["reasons"])
    assert any("BackOff" in words for words in green["events"])
    assert (blue["log"], blue["log_is_previous"]) == (["ready"], False)
    assert green["log"] == ["connecting with password=********", f"{SECRET} is wrong"]
    exec_lines = [line for line in shown["commands"] if " exec " in line]
    assert [line.split(" -n ")[1] for line in exec_lines] == [f"{shop} exec -it shop-{version}-0 -c app -- /bin/bash" for version in ("v1", "v2")]


def test_endpoints_and_autoscaler_say_what_the_cluster_does_with_it(shop: str) -> None:
    shown = status(shop, services=["shop", "shop-green"])
    row, missing = shown["endpoints"]
    assert list(row["ready"]) == ["v1"] and list(row["not_ready"]) == ["v2"] and row["ports"] == [8080]
    assert missing == {"service": "shop-green", "ports": [], "ready": {}, "not_ready": {}}
    (autoscaler,) = shown["autoscalers"]
    assert (autoscaler["name"], autoscaler["maximum"]) == ("shop-hpa", 4)
    assert "none is ready" in shown["text"]


def test_usage_comes_from_prometheus_where_there_is_no_metrics_api(shop: str) -> None:
    shown = wait_until(
        "Prometheus has the container's memory",
        lambda: next((seen for seen in [status(shop, prometheus_url=PROMETHEUS)] if seen["usage_source"]), None),
    )
    assert shown["usage_source"].startswith("Prometheus")
    (row,) = shown["pods"][0]["usage"]
    assert 0 < row["memory"] < 64 * 2**20 and 0 < row["memory_of_limit_percent"] < 100


def test_without_prometheus_and_metrics_api_everything_else_is_shown(shop: str) -> None:
    shown = status(shop, prometheus_url="http://127.0.0.1:9", prometheus_timeout=1.0)
    assert shown["usage_source"] == "" and len(shown["pods"]) == 2
    assert any(words.startswith("metrics API: ") for words in shown["not_seen"])
    assert any(words.startswith("Prometheus: ") for words in shown["not_seen"])
    assert "Usage (unknown)\n  unknown" in shown["text"]


def test_a_viewer_sees_the_screen_and_is_told_what_it_may_not_read() -> None:
    shown = status("signal", user="viewer", service="signal-service")
    assert shown["pods"] and {pod["side"] for pod in shown["pods"]} <= {"blue", "green"}
    assert any(words.startswith("logs: ") and "403" in words for words in shown["not_seen"])
    assert all(pod["log"] == [] for pod in shown["pods"])


def test_nothing_may_be_read_and_yet_it_is_an_answer(shop: str) -> None:
    shown = status(shop, user="viewer")
    assert shown["pods"] is None and shown["endpoints"] is None and shown["autoscalers"] is None
    assert [words.split(":")[0] for words in shown["not_seen"]] == ["pods", "endpoints", "autoscalers"]


def test_an_api_server_that_is_away_is_a_failure_that_names_it(shop: str) -> None:
    with pytest.raises(_kube.KubeError, match="127.0.0.1:9"):
        status(shop, kubeconfig=None, host="http://127.0.0.1:9")


def test_a_screen_costs_few_requests(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    call = _kube.Kube._call

    def counted(self: _kube.Kube, method: str, target: str, *rest: Any) -> Any:
        asked.append(f"{method} {target}")
        return call(self, method, target, *rest)

    monkeypatch.setattr(_kube.Kube, "_call", counted)
    status(shop)
    # Pods, events, endpoints, autoscalers, metrics; a log per pod, and at most the one before it.
    assert len(asked) <= 5 + 2 * 2
    assert all(line.startswith("GET ") for line in asked)
