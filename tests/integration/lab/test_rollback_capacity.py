# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role rollback on a blue that has fewer pods than carry everything, in a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _scale
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import LAB, Mesh, connection, wait_until

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
APPS, AUTOSCALING = ("apps", "v1"), ("autoscaling", "v2")


def ready(mesh: Mesh, version: str) -> int:
    pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": f"app=echo,version={version}"})
    return sum(map(pod_is_ready, pods))


def replicas(mesh: Mesh, version: str) -> int:
    return mesh.kube.get(mesh.path("deployments", f"echo-{version}", APPS))["spec"]["replicas"]


def scale(mesh: Mesh, version: str, number: int) -> None:
    path = mesh.path("deployments", f"echo-{version}", APPS)
    mesh.kube.patch(f"{path}/scale", [{"op": "replace", "path": "/spec/replicas", "value": number}])
    wait_until(f"{number} pods of {version} are ready", lambda: ready(mesh, version) == number, 60)


def rollback(mesh: Mesh, folder: Path, **variables: Any) -> str:
    """Run the role as a playbook would; return its output."""
    play = {
        "name": "Rollback",
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "roles": [{"role": "signal.rollout.rollback"}],
    }
    path = folder / "rollback.yml"
    path.write_text(yaml.safe_dump([play]), encoding="utf-8")
    given = {
        "rollout_service": "echo", "rollout_namespace": mesh.namespace, "rollout_stable_version": "v1", "rollout_version": "v2",
        "rollout_kubeconfig": str(LAB / "kubeconfig" / "admin"), "rollback_drain_seconds": 1, **variables,
    }
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    command = [str(PLAYBOOK), "-i", "localhost,", str(path), "-e", json.dumps(given)]
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return " ".join(done.stdout.split())


class Observer:
    """Looks at green's weight and blue's ready pods until it is stopped."""

    def __init__(self, mesh: Mesh) -> None:
        self.looks: list[tuple[int, int]] = []
        self._mesh = Mesh(mesh.kube.clone(), mesh.namespace)
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
            weight = self._mesh.weights()[1]
            self.looks.append((weight, ready(self._mesh, "v1")))
            time.sleep(0.01)

    def fewest(self, weight: int) -> int:
        """The fewest ready pods of blue that were seen while green had ``weight``."""
        return min(pods for seen, pods in self.looks if seen == weight)


@pytest.fixture
def shrunk(mesh: Mesh) -> Iterator[Mesh]:
    """Green with two pods and all traffic, blue with one pod left."""
    scale(mesh, "v2", 2)
    mesh.shift(100)
    yield mesh
    mesh.shift(0)
    for version in ("v1", "v2"):
        scale(mesh, version, 1)


def test_blue_gets_its_pods_first_while_green_serves_and_a_second_run_changes_nothing(shrunk: Mesh, tmp_path: Path) -> None:
    with Observer(shrunk) as observer:
        output = rollback(shrunk, tmp_path)
    assert "v1 was given its missing pods, 2 in all" in output
    assert shrunk.weights() == [100, 0] and (replicas(shrunk, "v1"), replicas(shrunk, "v2")) == (2, 0)
    assert observer.fewest(100) == 1 and observer.fewest(0) == 2
    assert "changed=0" in rollback(shrunk, tmp_path)


def test_urgent_way_back_does_not_wait_for_pods_and_brings_them_beside_it(shrunk: Mesh, tmp_path: Path) -> None:
    shrunk.shift(50)
    with Observer(shrunk) as observer:
        output = rollback(shrunk, tmp_path, rollback_urgent=True)
    assert shrunk.weights() == [100, 0] and observer.fewest(0) == 1
    # At 50 % nothing but a record would know that blue was larger: it keeps the pod that it has.
    assert "v1 had the pods it needs" in output and replicas(shrunk, "v1") == 1


@contextmanager
def no_more_pods(mesh: Mesh, most: int) -> Iterator[None]:
    """A quota under which further pods of the namespace are not created."""
    quotas = mesh.path("resourcequotas", None, ("", "v1"))
    mesh.kube.post(quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": {"hard": {"pods": str(most)}}})
    wait_until("the quota is counted", lambda: (mesh.kube.get(f"{quotas}/tight").get("status") or {}).get("used"))
    try:
        yield
    finally:
        mesh.kube.delete(f"{quotas}/tight")


def test_green_that_is_not_whole_is_left_at_once_and_blue_grows_beside_it(shrunk: Mesh, tmp_path: Path) -> None:
    with no_more_pods(shrunk, 3):
        path = shrunk.path("deployments", "echo-v2", APPS)
        shrunk.kube.patch(f"{path}/scale", [{"op": "replace", "path": "/spec/replicas", "value": 3}])
        with Observer(shrunk) as observer:
            rollback(shrunk, tmp_path)
    assert shrunk.weights() == [100, 0] and observer.fewest(0) == 1
    assert replicas(shrunk, "v1") == 3


def test_pods_that_do_not_come_hold_traffic_back_only_so_long(shrunk: Mesh, tmp_path: Path) -> None:
    with no_more_pods(shrunk, 3):
        output = rollback(shrunk, tmp_path, rollback_capacity_wait_seconds=2)
    assert shrunk.weights() == [100, 0]
    assert "Traffic did not wait for all of them" in output and "not ready after 2 s" in output


def test_autoscalers_minimum_is_raised_for_blue_and_put_back_for_green(shrunk: Mesh, tmp_path: Path) -> None:
    collection = shrunk.path("horizontalpodautoscalers", None, AUTOSCALING)
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    for version in ("v1", "v2"):
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"echo-{version}"}
        spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric]}
        body = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": version}, "spec": spec}
        shrunk.kube.post(collection, body)
    try:
        # As a step of the canary leaves it.
        defaults = {name: rule.get("default") for name, rule in _scale.ARGUMENT_SPEC.items()}
        raised = {"name": "echo-v2", "replicas": 2, "direction": "up", "autoscaler": "raise"}
        _scale.run({**defaults, **connection(namespace=shrunk.namespace), **raised}, _scale.Context())
        rollback(shrunk, tmp_path)
        minimum = {version: shrunk.kube.get(f"{collection}/{version}")["spec"]["minReplicas"] for version in ("v1", "v2")}
        assert minimum == {"v1": 2, "v2": 1} and replicas(shrunk, "v1") == 2
    finally:
        for version in ("v1", "v2"):
            shrunk.kube.delete(f"{collection}/{version}")
