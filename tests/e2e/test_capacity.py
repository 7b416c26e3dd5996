# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release whose new version begins smaller than the old one: pods come before the weight that needs them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._capacity import needed_pods
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import ROOT, Stage, labctl

FULL = 3
BLUE, GREEN = [100, 0], [0, 100]
PODS = _kube.path_of("", "v1", "pods", "signal")


@pytest.fixture
def small_release(tmp_path: Path) -> Path:
    """The lab's release with one pod of green."""
    folder = tmp_path / "release"
    shutil.copytree(ROOT / "lab/signal_service/release", folder)
    manifest = folder / "k8s/deployments/signal-service-v2-green.yaml"
    deployment = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    deployment["spec"]["replicas"] = 1
    manifest.write_text(yaml.safe_dump(deployment), encoding="utf-8")
    return folder


def ready(stage: Stage, version: str) -> int:
    return sum(map(pod_is_ready, stage.kube.list(PODS, {"labelSelector": f"app=signal-service,version={version}"})))


def scale(stage: Stage, version: str, replicas: int) -> None:
    path = _kube.path_of("apps", "v1", "deployments", "signal", f"signal-service-{version}") + "/scale"
    stage.kube.patch(path, [{"op": "replace", "path": "/spec/replicas", "value": replicas}])
    stage.until(f"{replicas} pods of {version} are ready", lambda: ready(stage, version) == replicas)


class Observer:
    """Looks at green's weight and both versions' ready pods, over a connection of its own, until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        # Each look: weight of green, ready pods of v1, ready pods of v2.
        self.looks: list[tuple[int, int, int]] = []
        self._stage = Stage(stage.folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            # The weight first: pods that come after it cannot excuse it by more than the time of one call.
            weight = self._stage.weights()[1]
            self.looks.append((weight, ready(self._stage, "v1"), ready(self._stage, "v2")))
            time.sleep(0.01)


@pytest.fixture
def autoscaler(stage: Stage) -> Iterator[str]:
    """An autoscaler of 1 to 3 pods for green; its path."""
    collection = _kube.path_of("autoscaling", "v2", "horizontalpodautoscalers", "signal")
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "signal-service-v2"}
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": FULL, "metrics": [metric]}
    body = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "green"}, "spec": spec}
    stage.kube.post(collection, body)
    yield f"{collection}/green"
    stage.kube.delete(f"{collection}/green")


@pytest.fixture
def smaller(stage: Stage, small_release: Path) -> Iterator[dict[str, Any]]:
    """Variables of a release of one pod against a blue of three."""
    scale(stage, "v1", FULL)
    # How fast this machine is at the moment says nothing about who is scaled when.
    patience = {"canary_max_p99_ms": 30000, "canary_outage_budget_seconds": 60}
    yield {"rollout_release_dir": str(small_release), "blue_green_min_ready": 1, **patience}
    scale(stage, "v1", 2)
    # The next test's lab begins without pods that still drain.
    stage.until("the third pod of v1 is gone", lambda: len(stage.kube.list(PODS, {"labelSelector": "version=v1"})) == 2)


def test_pods_come_before_the_weight_that_needs_them(stage: Stage, smaller: dict[str, Any]) -> None:
    with Observer(stage) as observer:
        first = stage.play("deploy_v2", **smaller)
    assert first.code == 0, first.output[-4000:]
    assert stage.weights() == GREEN and stage.replicas("v2") == FULL
    fewest: dict[int, int] = {}
    for weight, _v1, pods in observer.looks:
        fewest[weight] = min(pods, fewest.get(weight, pods))
    assert fewest.pop(0) == 0 and set(fewest) == {10, 50, 100}
    assert all(pods >= needed_pods(FULL, weight) for weight, pods in fewest.items()), fewest
    assert fewest[10] < FULL, "green must have been smaller than blue at first, or this proves nothing"
    capacity = stage.record()["steps"]["canary_50"]["evidence"]["capacity"]
    assert (capacity["full"], capacity["canary"]["needed"]) == (3, 2) and capacity["canary"]["ready"] >= 2

    # The manifest still says one pod; those that were added stay.
    second = stage.play("deploy_v2", **smaller)
    assert second.code == 0 and second.changed == 0, second.output[-4000:]
    assert stage.replicas("v2") == FULL
    assert stage.lost() == {}


def test_way_back_gives_blue_its_pods_first_while_green_serves(stage: Stage, smaller: dict[str, Any], autoscaler: str) -> None:
    assert stage.play("deploy_v2", **smaller).code == 0
    assert stage.kube.get(autoscaler)["spec"]["minReplicas"] == FULL, "the autoscaler must have been kept from taking pods away"
    scale(stage, "v1", 1)
    with Observer(stage) as observer:
        ended = stage.play("rollback", **smaller)
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == BLUE and stage.replicas("v1") == FULL and stage.replicas("v2") == 0
    assert min(v1 for weight, v1, _v2 in observer.looks if weight == 0) >= FULL
    assert min(v1 for weight, v1, _v2 in observer.looks if weight == 100) == 1
    assert "was given its missing pods, 3 in all" in " ".join(ended.output.split())
    assert stage.kube.get(autoscaler)["spec"]["minReplicas"] == 1
    again = stage.play("rollback", **smaller)
    assert again.code == 0 and again.changed == 0, again.output[-4000:]
    assert stage.lost() == {}


def test_breach_does_not_wait_for_blues_pods_and_brings_them_afterwards(stage: Stage, smaller: dict[str, Any]) -> None:
    run = stage.start("deploy_v2", canary_hold_seconds=20, **smaller)
    stage.until("green has 50 %", lambda: stage.weights() == [50, 50])
    scale(stage, "v1", 1)
    with Observer(stage) as observer:
        labctl("break", "error-ratio", "0.3")
        ended = run.end()
    assert ended.code != 0 and stage.weights() == BLUE
    assert any((weight, v1) == (0, 1) for weight, v1, _v2 in observer.looks), "traffic went back while blue had one pod"
    assert stage.replicas("v1") == FULL and stage.replicas("v2") == 0


def test_plan_says_how_many_pods_each_step_needs(stage: Stage, smaller: dict[str, Any]) -> None:
    ended = stage.play("deploy_v2", "--check", **smaller)
    flat = " ".join(ended.output.split())
    assert ended.code == 0, ended.output[-4000:]
    for pods, weight in ((1, 10), (2, 50), (3, 100)):
        assert f"Would have {pods} of 3 pods ready, route {weight} %" in flat
    assert stage.replicas("v2") is None
