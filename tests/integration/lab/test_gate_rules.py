# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate's rules against the lab's Prometheus and API server: counts, two bands, comparison, growth, and the way back.

Figures that change at a known moment are PromQL expressions of time(): Prometheus itself evaluates them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import Mesh, wait_until
from .test_metric_gate import CALM, gate, route


def standby(mesh: Mesh, **changes: Any) -> dict[str, Any]:
    return {"namespace": mesh.namespace, "name": "echo-v1", **changes}


def deployments(mesh: Mesh, name: str = "echo-v1") -> str:
    return _kube.path_of("apps", "v1", "deployments", mesh.namespace, name)


def scale(mesh: Mesh, replicas: int) -> None:
    mesh.kube.clone().patch(deployments(mesh), [{"op": "replace", "path": "/spec/replicas", "value": replicas}])


@pytest.fixture
def stable(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh, whose stable version is whole again afterwards."""
    yield mesh
    scale(mesh, 1)
    wait_until("the stable version is ready", lambda: mesh.kube.get(deployments(mesh))["status"].get("readyReplicas") == 1)


# ------------------------------------------------------------------------------------------------------ two bands


def banded(errors: str, requests: str, value: str = "vector(0.3)") -> dict[str, Any]:
    bands = {"far": 50, "errors": errors, "requests": requests}
    return {"name": "error_rate", "query": value, "below": 0.1, "unit": "%", "bands": bands}


def test_a_share_slightly_over_its_limit_goes_back_when_its_counts_suffice(mesh: Mesh) -> None:
    mesh.shift(10)
    began = time.time()
    metric = banded(f"floor(vector((time() - {began:.3f}) * 2))", f"(time() - {began:.3f}) * 100")
    result = gate(metrics=[metric], duration=60, abort_route=route(mesh))
    assert result["verdict"] == "breach", result["msg"]
    assert "sufficient evidence that it is not < 0.1 %" in result["msg"]
    assert result["metrics"][0]["breaches"] == 0 and result["metrics"][0]["suspect"] > 0
    assert mesh.weights() == [100, 0]


def test_one_error_in_thousands_of_requests_does_not_send_a_release_back(mesh: Mesh) -> None:
    mesh.shift(10)
    until = time.time() + 3
    metric = banded("vector(1)", "vector(9000)", f"(time() < bool {until:.3f}) * 0.4")
    result = gate(metrics=[metric], duration=5, extension=10, abort_route=route(mesh))
    assert result["verdict"] == "pass", result["msg"]
    assert result["metrics"][0]["suspect"] > 0
    assert mesh.weights() == [90, 10]


def test_far_over_the_limit_the_first_sample_sends_it_back(mesh: Mesh) -> None:
    mesh.shift(10)
    result = gate(metrics=[banded("vector(1)", "vector(9000)", "vector(6)")], duration=60, abort_route=route(mesh))
    assert (result["verdict"], result["metrics"][0]["samples"]) == ("breach", 1)
    assert mesh.weights() == [100, 0]


def test_a_query_for_counts_that_cannot_be_understood_ends_the_gate_before_any_shift(mesh: Mesh) -> None:
    mesh.shift(0)
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    result = gate(metrics=[banded("sum(", "vector(1)")], abort_route=route(mesh), shift={"weight": 10})
    assert result["verdict"] == "error" and "errors of metric error_rate" in result["msg"]
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


def test_the_service_presets_count_what_their_share_is_made_of(mesh: Mesh) -> None:
    metric = {
        "name": "error_rate", "preset": "error_percent", "preset_vars": {"version": "v1", "window": "10s"}, "below": 0.1, "unit": "%",
        "bands": {"far": 50},
    }
    lines: list[str] = []
    result = gate(lines, check_mode=True, metrics=[metric], scrape_interval=1)
    assert result["msg"] == ""
    assert set(result["metrics"][0]["queries"]) == {"value", "freshness", "errors", "requests"}
    assert any("alpha 0.01, beta 0.05" in line for line in lines)


# ----------------------------------------------------------------------------------------------- counts and rhythms


def test_a_gate_of_counted_metrics_passes_early(mesh: Mesh) -> None:
    result = gate(metrics=[{**CALM, "interval": 0.5, "count": 4}], duration=60)
    assert result["verdict"] == "pass", result["msg"]
    assert result["metrics"][0]["samples"] == 4
    assert result["seconds"] < 15


def test_failures_in_a_row_and_errors_in_a_row_are_counted(mesh: Mesh) -> None:
    over = {"name": "m", "query": "vector(5)", "below": 0.1, "unit": "%", "failure_limit": -1, "consecutive_failure_limit": 2}
    result = gate(metrics=[over], duration=60)
    assert (result["verdict"], result["metrics"][0]["breaches"]) == ("breach", 3)
    silent = {"name": "m", "query": "nothing_of_this_name", "below": 0.1, "unit": "%", "consecutive_error_limit": 2}
    result = gate(metrics=[silent], duration=60, outage_budget=600)
    assert (result["verdict"], result["metrics"][0]["blind"]) == ("no_data", 3)


# ------------------------------------------------------------------------------------------- the stable version


def test_a_canary_slower_than_the_stable_version_goes_back_under_its_absolute_limit(mesh: Mesh) -> None:
    mesh.shift(10)
    noisy = "{base} + 5 * sin(vector(time() * {pace}))"
    metric = {
        "name": "p99", "query": noisy.format(base=150, pace=3), "below": 200, "unit": "ms", "window": 1,
        "baseline": {"query": noisy.format(base=100, pace=7), "tolerance": 10, "tolerance_percent": 20},
    }
    result = gate(metrics=[metric], duration=20, abort_route=route(mesh))
    assert result["verdict"] == "breach", result["msg"]
    assert "p99 is worse than the stable version's: medians" in result["msg"]
    found = result["metrics"][0]["evidence"]["baseline"]
    assert found["worse_by"] == pytest.approx(50, abs=12) and found["p"] < found["significant_below"]
    assert mesh.weights() == [100, 0]


def test_a_stable_version_that_cannot_be_seen_holds_the_weight(mesh: Mesh) -> None:
    mesh.shift(10)
    metric = {
        "name": "p99", "query": "vector(100)", "below": 200, "unit": "ms", "window": 1,
        "baseline": {"query": "nothing_of_this_name", "tolerance": 10},
    }
    lines: list[str] = []
    result = gate(lines, metrics=[metric], duration=20, outage_budget=3, abort_route=route(mesh))
    assert result["verdict"] == "no_data"
    assert sum("cannot see p99 (no_data: baseline: no series)" in line for line in lines) == 1
    assert result["outages"][0]["metrics"] == ["p99"]
    assert mesh.weights() == [100, 0]


# --------------------------------------------------------------------------------------------------------- a leak


@pytest.fixture
def leaking(mesh: Mesh) -> Iterator[str]:
    """A pod that allocates 4 MiB a second, up to some 220 MiB; its name begins with the one given."""
    code = "import time\nkept = []\nwhile True:\n    kept.append(b'x' * (2 << 20)) if len(kept) < 110 else None\n    time.sleep(0.5)"
    container = {
        "name": "app", "image": "localhost/signal-service:v1", "imagePullPolicy": "Never", "command": ["python3", "-c", code],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}},
    }
    body = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leaking", "namespace": mesh.namespace},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    pods = _kube.path_of("", "v1", "pods", mesh.namespace)
    mesh.kube.post(pods, body)
    wait_until("the leaking pod runs", lambda: pod_is_ready(mesh.kube.get(f"{pods}/leaking")), 60)
    yield "leaking"
    mesh.kube.delete(f"{pods}/leaking")


def memory(mesh: Mesh, pod: str) -> dict[str, Any]:
    return {
        "name": f"memory of {pod}", "preset": "memory_percent_of_limit", "below": 99, "unit": "%", "interval": 2,
        "preset_vars": {"namespace": mesh.namespace, "pod": pod, "container": "app", "limit_bytes": 256 * 2**20},
        "slope": {"at_most": 600, "minimum_span": 36},
    }


def test_a_leaking_pod_goes_back_before_its_memory_is_full_and_a_steady_one_does_not(mesh: Mesh, leaking: str) -> None:
    """As the kubelet measures it: every ten to fifteen seconds."""
    mesh.shift(10)
    seen = {"query": f'count(container_memory_working_set_bytes{{namespace="{mesh.namespace}", container="app"}})', "at_least": 1}
    wait_until("the kubelet's figures", lambda: gate(metrics=[{**CALM, "query": seen["query"], "below": 99}], duration=1)["verdict"] == "pass", 60)
    metrics = [memory(mesh, leaking), memory(mesh, "echo-v1-.*")]
    result = gate(metrics=metrics, duration=60, outage_budget=60, abort_route=route(mesh))
    assert result["verdict"] == "breach", result["msg"]
    assert "memory of leaking grows by" in result["msg"]
    steady = result["metrics"][1]["evidence"]["slope"]
    assert result["metrics"][0]["worst"] < 99 and (steady["low"] is None or steady["low"] < 600)
    assert mesh.weights() == [100, 0]


# --------------------------------------------------------------------------------------------------- the way back


def test_a_stable_version_that_is_scaled_away_is_told_at_once_and_traffic_stays(stable: Mesh) -> None:
    stable.shift(100)
    threading.Timer(2.0, scale, [stable, 0]).start()
    lines: list[str] = []
    result = gate(lines, duration=60, abort_route=route(stable), standby=standby(stable))
    assert result["verdict"] == "error"
    assert "it was scaled to 0" in result["msg"] and "there is nothing that could take it" in result["msg"]
    assert result["seconds"] < 20
    assert result["aborted"] is None
    assert stable.weights() == [0, 100]


def test_a_stable_version_with_too_few_ready_pods_is_told_and_never_passed(stable: Mesh) -> None:
    stable.shift(100)
    lines: list[str] = []
    result = gate(lines, duration=3, extension=3, abort_route=route(stable), standby=standby(stable, at_least=2))
    assert result["verdict"] == "insufficient"
    assert "has 1 ready pods, expected at least 2" in result["msg"]
    assert sum("the hold does not pass while that is so" in line for line in lines) == 1
    assert any("has 1 ready pods" in text for text in result["warnings"])


def test_a_stable_version_with_too_few_pods_for_all_traffic_is_warned_about_and_passes(stable: Mesh) -> None:
    result = gate(duration=3, abort_route=route(stable), shift={"weight": 100}, standby=standby(stable, enough=3))
    assert result["verdict"] == "pass", result["msg"]
    assert any("has 1 ready pods of the 3 that all traffic needs" in text for text in result["warnings"])


def test_a_breach_does_not_send_traffic_to_a_version_without_any_ready_pod(stable: Mesh) -> None:
    stable.shift(100)
    scale(stable, 0)
    wait_until("no stable pod", lambda: not stable.kube.get(deployments(stable))["status"].get("readyReplicas"))
    result = gate(metrics=[{**CALM, "query": "vector(5)"}], duration=60, abort_route=route(stable), standby=standby(stable))
    assert result["verdict"] in ("breach", "error")
    assert stable.weights() == [0, 100]
    assert "Traffic was left as it is" in result["msg"] or "TRAFFIC IS NOT BACK" in result["msg"]


def test_a_bake_with_the_stable_version_ready_passes(stable: Mesh) -> None:
    result = gate(duration=3, abort_route=route(stable), shift={"weight": 100}, standby=standby(stable))
    assert result["verdict"] == "pass", result["msg"]
    assert stable.weights() == [0, 100]
    assert stable.kube.get(deployments(stable))["spec"]["replicas"] == 1


def test_a_standby_that_does_not_exist_is_told_at_once(mesh: Mesh) -> None:
    mesh.shift(100)
    result = gate(duration=60, abort_route=route(mesh), standby=standby(mesh, name="echo-v0"))
    assert result["verdict"] == "error"
    assert "echo-v0, which traffic would go back to, does not exist any more" in result["msg"]
    assert mesh.weights() == [0, 100]
