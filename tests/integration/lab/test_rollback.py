# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/rollback.yml from any state, on a small mesh of its own: what it puts back, and what it refuses."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _record, _snapshot
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import LAB, Mesh, _objects, connection, restore, wait_until

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
CONFIG, SECRET = "echo-config-v1", "echo-secrets-v1"
KEPT = {CONFIG: {"LOG_LEVEL": "INFO"}, SECRET: {"PASSWORD": base64.b64encode(b"of-the-old-version").decode()}}
DEAD = "operator@another-host/4711-1"


@dataclass
class Ended:
    """How a playbook ended; ``text`` is its output on one line."""

    code: int
    text: str
    changed: int


class Release:
    """A release of v2 on the mesh, in whatever state a test brings it to."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.kube = mesh.kube

    def play(self, playbook: str = "rollback", **variables: Any) -> Ended:
        settings = {
            "rollout_kubeconfig": str(LAB / "kubeconfig" / "admin"), "rollout_namespace": self.mesh.namespace,
            "rollout_service": "echo", "rollout_route": "primary", "rollout_websocket_metric": "", "communication_targets": [],
            "rollback_drain_seconds": 2, "rollback_ready_timeout_seconds": 30, "rollout_route_kind": self.mesh.kind,
            **{f"rollout_{name}_destination": value for name, value in self.mesh.destinations.items()}, **variables,
        }  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        command = [str(PLAYBOOK), f"playbooks/{playbook}.yml", "-e", json.dumps(settings)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False)
        text = " ".join((done.stdout + done.stderr).split())
        assert "Traceback" not in text
        return Ended(done.returncode, text, int(done.stdout.rpartition("changed=")[2].split()[0]))

    def path(self, plural: str, name: str | None = None) -> str:
        group = {"deployments": ("apps", "v1"), "leases": ("coordination.k8s.io", "v1")}.get(plural, ("", "v1"))
        return _kube.path_of(*group, plural, self.mesh.namespace, name)

    def deployment(self, version: str) -> dict[str, Any] | None:
        return self.kube.find(self.path("deployments", f"echo-{version}"))

    def replicas(self, version: str) -> int | None:
        found = self.deployment(version)
        return None if found is None else found["spec"]["replicas"]

    def ready(self, version: str) -> int:
        pods = self.kube.list(self.path("pods"), {"labelSelector": f"app=echo,version={version}"})
        return sum(map(pod_is_ready, pods))

    def scale(self, version: str, replicas: int) -> None:
        self.kube.patch(self.path("deployments", f"echo-{version}"), {"spec": {"replicas": replicas}}, _kube.MERGE_PATCH)
        wait_until(f"{replicas} ready pods of {version}", lambda: self.ready(version) == replicas)

    def delete(self, plural: str, name: str) -> None:
        self.kube.delete(self.path(plural, name))
        wait_until(f"{name} is gone", lambda: self.kube.find(self.path(plural, name)) is None)

    def delete_blue(self) -> None:
        self.delete("deployments", "echo-v1")
        wait_until("its pods are gone", lambda: self.ready("v1") == 0)

    def data(self, plural: str, name: str) -> dict[str, str]:
        return self.kube.get(self.path(plural, name)).get("data") or {}

    def keep(self, state: str, holder: str = DEAD, **options: Any) -> dict[str, Any]:
        empty = dict.fromkeys(_record.ARGUMENT_SPEC)
        params = {**empty, **connection(namespace=self.mesh.namespace), "service": "echo", "lease_duration": 2, **options}
        return _record.run({**params, "state": state, "holder": holder}, Context())

    def snapshot(self, state: str = "taken", **options: Any) -> dict[str, Any]:
        params = {
            **connection(namespace=self.mesh.namespace), "service": "echo", "name": "echo-v1", "state": state, "release": "r1",
            "workload": "missing", "replicas": 2, "select_by": None, **options,
        }  # fmt: skip
        return _snapshot.run(params, Context())

    def begin(self, weight: int, snapshot: bool = True) -> None:
        """Bring the release to ``weight`` percent, as a run that died there left it."""
        plan = {"service": "echo"}
        self.keep("begin", plan=plan, version="v2", break_glass="")
        if snapshot:
            self.snapshot()
        # Endpoints follow the pods a moment later.
        wait_until("both have endpoints", lambda: all(self.endpoints(version) for version in ("v1", "v2")))
        self.mesh.shift(weight)

    def endpoints(self, version: str) -> int:
        """Ready endpoints of a version's own Service."""
        path = _kube.path_of("discovery.k8s.io", "v1", "endpointslices", self.mesh.namespace)
        slices = self.kube.list(path, {"labelSelector": f"kubernetes.io/service-name=echo-{version}"})
        return sum(bool((one.get("conditions") or {}).get("ready")) for item in slices for one in item.get("endpoints") or [])

    def record(self) -> dict[str, Any]:
        return self.keep("show")["record"]

    def is_back(self) -> bool:
        return self.mesh.weights() == [100, 0]


def _blue(mesh: Mesh) -> dict[str, Any]:
    body = next(item for _path, item in _objects(mesh) if item["kind"] == "Deployment" and item["metadata"]["name"] == "echo-v1")
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["envFrom"] = [{"configMapRef": {"name": CONFIG}}, {"secretRef": {"name": SECRET}}]
    return body


def _green(mesh: Mesh) -> dict[str, Any]:
    return next(item for _path, item in _objects(mesh) if item["kind"] == "Deployment" and item["metadata"]["name"] == "echo-v2")


@pytest.fixture
def by_gateway_api(shared_mesh: Mesh) -> Release:
    """The same release by the mesh's HTTPRoute."""
    return prepared(shared_mesh.of("HTTPRoute"))


@pytest.fixture
def release(shared_mesh: Mesh) -> Release:
    """The release by the mesh's VirtualService."""
    return prepared(shared_mesh)


def prepared(mesh: Mesh) -> Release:
    """Return a release: blue with a configuration of its own and green beside it, all traffic on blue, nothing noted."""
    made = Release(mesh)
    for plural, names in (
        ("configmaps", [CONFIG, "signal-rollout-echo", "signal-rollout-echo-snapshot"]),
        ("secrets", [SECRET, "signal-rollout-echo-snapshot"]),
        ("leases", ["signal-rollout-echo"]),
        ("deployments", ["echo-v1"]),
    ):
        for name in names:
            if made.kube.find(made.path(plural, name)) is not None:
                made.delete(plural, name)
    # Pods outlive their Deployment by a moment, and would be taken for those of the new one.
    wait_until("the pods of v1 are gone", lambda: made.ready("v1") == 0)
    for kind, plural, name in (("ConfigMap", "configmaps", CONFIG), ("Secret", "secrets", SECRET)):
        metadata = {"name": name, "namespace": mesh.namespace}
        made.kube.post(made.path(plural), {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": KEPT[name]})
    made.kube.post(made.path("deployments"), _blue(mesh))
    if made.deployment("v2") is None:
        made.kube.post(made.path("deployments"), _green(mesh))
    elif made.replicas("v2") != 1:
        made.scale("v2", 1)
    service = made.kube.get(made.path("services", "echo"))
    if service["spec"]["selector"] != {"app": "echo"}:
        made.kube.patch(made.path("services", "echo"), [{"op": "replace", "path": "/spec/selector", "value": {"app": "echo"}}])
    wait_until("both are ready", lambda: made.ready("v1") == 1 and made.ready("v2") == 1)
    restore(mesh)
    return made


def assert_second_run_writes_nothing(release: Release) -> None:
    version = release.mesh.version
    second = release.play()
    assert (second.code, second.changed) == (0, 0), second.text[-3000:]
    assert release.mesh.version == version


def test_nothing_was_deployed_and_nothing_is_written(release: Release) -> None:
    release.delete("deployments", "echo-v2")
    assert_second_run_writes_nothing(release)


@pytest.mark.parametrize("weight", [0, 10, 50, 100])
def test_from_any_weight_all_traffic_goes_back_and_green_is_stopped(release: Release, weight: int) -> None:
    release.begin(weight)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 0 and release.replicas("v1") == 1
    record = release.record()
    assert record["outcome"] == "rolled_back" and release.keep("show")["holder"] == ""
    drain = record["steps"]["rollback"]["evidence"]["drain"]
    assert drain["drained"] is True and drain["cut"] == 0 and drain["sources"]["gateways"] >= 1
    assert_second_run_writes_nothing(release)


@pytest.mark.parametrize("weight", [10, 100])
def test_http_route_goes_back_in_the_same_way(by_gateway_api: Release, weight: int) -> None:
    release = by_gateway_api
    release.begin(weight)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 0
    drain = release.record()["steps"]["rollback"]["evidence"]["drain"]
    assert drain["drained"] is True and drain["sources"]["gateways"] >= 1
    assert_second_run_writes_nothing(release)


def test_http_route_to_a_deleted_blue_waits_until_it_is_rebuilt(by_gateway_api: Release) -> None:
    release = by_gateway_api
    release.begin(100)
    release.delete_blue()
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1
    assert_second_run_writes_nothing(release)


def test_release_without_a_record_is_taken_back_too(release: Release) -> None:
    release.mesh.shift(50)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 0
    assert_second_run_writes_nothing(release)


def test_way_back_that_nothing_confirms_keeps_greens_pods_until_that_is_accepted(release: Release) -> None:
    release.begin(50)
    blind = {"rollout_confirm": {"selector": "istio=nobody"}, "rollback_confirm_timeout_seconds": 0.5}
    ended = release.play(**blind)
    assert ended.code != 0 and "WRITTEN back to v1, but UNCONFIRMED in the mesh: No ready gateway pod" in ended.text, ended.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 1
    accepted = release.play(**blind, rollback_accept_unconfirmed=True)
    assert accepted.code == 0 and "Going on, as rollback_accept_unconfirmed says" in accepted.text, accepted.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 0


def test_blue_at_0_pods_is_started_and_waited_for_before_it_gets_traffic(release: Release) -> None:
    release.begin(100)
    release.scale("v1", 0)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1 and release.replicas("v2") == 0
    assert "Deployment echo-v1 was changed (replicas)" in ended.text
    assert_second_run_writes_nothing(release)


def test_blue_without_a_pod_is_started_also_when_it_has_all_the_traffic_already(release: Release) -> None:
    release.begin(0)
    release.scale("v1", 0)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1
    assert_second_run_writes_nothing(release)


def test_deleted_blue_is_rebuilt_with_its_configuration_before_it_gets_traffic(release: Release) -> None:
    release.begin(100)
    before = release.deployment("v1")
    assert before is not None
    release.delete_blue()
    release.delete("configmaps", CONFIG)
    release.delete("secrets", SECRET)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1 and release.replicas("v2") == 0
    after = release.deployment("v1")
    assert after is not None and after["spec"] == before["spec"]
    assert {name: release.data(plural, name) for plural, name in (("configmaps", CONFIG), ("secrets", SECRET))} == KEPT
    assert "Deployment echo-v1 was missing" in ended.text
    assert_second_run_writes_nothing(release)


def test_deleted_blue_without_a_snapshot_is_not_sent_any_traffic(release: Release) -> None:
    release.begin(100, snapshot=False)
    release.delete_blue()
    ended = release.play()
    assert ended.code != 0 and release.mesh.weights() == [0, 100]
    assert "Traffic was NOT put back" in ended.text, ended.text[-3000:]
    assert "there is no snapshot of it" in ended.text
    assert "apply its manifest from Git" in ended.text
    assert release.ready("v2") == 1


def test_blue_that_crashes_by_a_changed_manifest_gets_its_own_back(release: Release) -> None:
    release.begin(50)
    broken = [{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["false"]}]
    release.kube.patch(release.path("deployments", "echo-v1"), broken, manager="kubectl-edit")
    # The rolling update keeps the old pod; without it nobody could take the traffic.
    old = [pod["metadata"]["name"] for pod in release.kube.list(release.path("pods"), {"labelSelector": "version=v1"}) if pod_is_ready(pod)]
    for name in old:
        release.kube.delete(release.path("pods", name))
    wait_until("no pod of v1 is ready", lambda: release.ready("v1") == 0)
    release.kube.patch(release.path("deployments", "echo-v1"), {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}, _kube.MERGE_PATCH)
    wait_until("no pod of v1 is ready", lambda: release.ready("v1") == 0)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1
    assert "Deployment echo-v1 was changed (template) by" in ended.text


@pytest.mark.parametrize("pinned_only", [True, False])
def test_service_that_cleanup_pinned_lets_blue_in_before_it_gets_traffic(release: Release, pinned_only: bool) -> None:
    release.begin(100)
    pin = [{"op": "add", "path": "/spec/selector/version", "value": "v2"}]
    release.kube.patch(release.path("services", "echo"), pin, manager="cleanup")
    if not pinned_only:
        release.delete_blue()
        release.delete("configmaps", CONFIG)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.ready("v1") == 1
    assert release.kube.get(release.path("services", "echo"))["spec"]["selector"] == {"app": "echo"}
    assert_second_run_writes_nothing(release)


@pytest.mark.parametrize("immutable", [False, True])
def test_changed_configuration_of_blue_is_put_back_and_its_writer_named(release: Release, immutable: bool) -> None:
    if immutable:
        release.kube.patch(release.path("configmaps", CONFIG), {"immutable": True}, _kube.MERGE_PATCH)
    release.begin(10)
    if immutable:
        release.delete("configmaps", CONFIG)
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG}, "immutable": True, "data": {"LOG_LEVEL": "NONE"}}
        release.kube.post(release.path("configmaps"), body, manager="a-stranger")
    else:
        release.kube.patch(release.path("configmaps", CONFIG), {"data": {"LOG_LEVEL": "NONE"}}, _kube.MERGE_PATCH, manager="a-stranger")
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.data("configmaps", CONFIG) == KEPT[CONFIG]
    assert bool(release.kube.get(release.path("configmaps", CONFIG)).get("immutable")) is immutable
    assert f"ConfigMap {CONFIG} was changed (LOG_LEVEL) by 'a-stranger'" in release.record()["steps"]["rollback"]["notes"]
    assert_second_run_writes_nothing(release)


def test_pods_that_started_with_changed_configuration_are_replaced(release: Release) -> None:
    release.begin(10)
    value = base64.b64encode(b"another").decode()
    release.kube.patch(release.path("secrets", SECRET), {"data": {"PASSWORD": value}}, _kube.MERGE_PATCH)
    started = {pod["metadata"]["name"] for pod in release.kube.list(release.path("pods"), {"labelSelector": "version=v1"})}
    for name in started:
        release.kube.delete(release.path("pods", name))

    def names() -> set[str]:
        pods = release.kube.list(release.path("pods"), {"labelSelector": "version=v1"})
        return {pod["metadata"]["name"] for pod in pods if pod_is_ready(pod)}

    wrong = wait_until("a pod with the changed Secret is ready", lambda: names() - started)
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.data("secrets", SECRET) == KEPT[SECRET]
    wait_until("it was replaced", lambda: names() and not names() & wrong)
    assert value not in ended.text and "of-the-old-version" not in ended.text


def test_missing_configuration_without_a_snapshot_is_told_after_the_traffic_is_back(release: Release) -> None:
    release.begin(50, snapshot=False)
    release.delete("configmaps", CONFIG)
    ended = release.play()
    assert ended.code != 0 and release.is_back() and release.replicas("v2") == 0
    assert f"ConfigMap {CONFIG}, which Deployment" in ended.text and "All traffic is on v1, but this is left" in ended.text


def test_weights_of_a_stranger_are_put_back_and_the_stranger_is_named(release: Release) -> None:
    release.begin(10)
    release.mesh.edit(release.mesh.foreign(63, 37), manager="a-stranger")
    ended = release.play()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and "v2 had 37 %" in ended.text and "last writer a-stranger" in ended.text


def test_living_run_keeps_its_pods_and_its_record_while_traffic_goes_back(release: Release) -> None:
    release.begin(10)
    alive = threading.Event()

    def breathe() -> None:
        kube = _kube.connect(connection(namespace=release.mesh.namespace))
        while not alive.wait(0.3):
            _record.renew(kube, release.mesh.namespace, _record.lease_name("echo"), DEAD)

    thread = threading.Thread(target=breathe)
    thread.start()
    try:
        ended = release.play()
    finally:
        alive.set()
        thread.join()
    assert ended.code != 0 and release.is_back()
    assert release.replicas("v2") == 1 and release.record()["outcome"] is None
    assert f"'{DEAD}' renewed the lease" in ended.text and "All traffic is on v1, but this is left" in ended.text


def test_living_run_that_ends_at_the_sight_of_the_weights_is_closed_as_rolled_back(release: Release) -> None:
    release.begin(10)

    def give_up() -> None:
        kube = _kube.connect(connection(namespace=release.mesh.namespace))
        while not release_back(kube):
            _record.renew(kube, release.mesh.namespace, _record.lease_name("echo"), DEAD)
            time.sleep(0.2)
        release_keep()

    def release_back(kube: _kube.Kube) -> bool:
        found = kube.get(release.mesh.route_path)
        return found["spec"]["http"][0]["route"][1].get("weight", 0) == 0

    def release_keep() -> None:
        release.keep("finish", outcome="held", notes="another hand has changed the traffic")

    thread = threading.Thread(target=give_up)
    thread.start()
    ended = release.play()
    thread.join()
    assert ended.code == 0, ended.text[-3000:]
    assert release.is_back() and release.replicas("v2") == 0 and release.record()["outcome"] == "rolled_back"


def test_snapshot_keeps_secrets_in_a_secret_alone_and_is_taken_once_per_release(release: Release) -> None:
    first = release.snapshot()
    assert first["changed"] and first["snapshot"]["configmaps"] == [CONFIG] and first["snapshot"]["secrets"] == [SECRET]
    kept = json.dumps(release.data("configmaps", "signal-rollout-echo-snapshot"))
    assert KEPT[SECRET]["PASSWORD"] not in kept and "of-the-old-version" not in kept and SECRET in kept
    assert release.kube.get(release.path("secrets", "signal-rollout-echo-snapshot"))["type"] == "Opaque"
    release.kube.patch(release.path("configmaps", CONFIG), {"data": {"LOG_LEVEL": "NONE"}}, _kube.MERGE_PATCH)
    assert not release.snapshot()["changed"], "the same release keeps what was there before its first write"
    assert release.snapshot("restored")["restored"][0]["keys"] == ["LOG_LEVEL"]
    assert release.snapshot(release="r2")["changed"]


def test_check_mode_writes_nothing_and_says_what_would_come_back(release: Release) -> None:
    release.snapshot()
    release.delete("configmaps", CONFIG)
    params = {
        **connection(namespace=release.mesh.namespace), "service": "echo", "name": "echo-v1", "state": "restored", "release": None,
        "workload": "missing", "replicas": 2, "select_by": None,
    }  # fmt: skip
    answer = _snapshot.run(params, Context(check_mode=True))
    assert answer["changed"] and answer["restored"][0]["words"] == f"ConfigMap {CONFIG} was missing"
    assert release.kube.find(release.path("configmaps", CONFIG)) is None


@pytest.mark.parametrize("accepted", [False, True])
def test_canary_goes_on_with_an_unconfirmed_weight_only_when_told_to(release: Release, accepted: bool) -> None:
    release.begin(0)
    ended = release.play(
        "canary", rollout_takeover=DEAD, rollout_prometheus_url="http://10.79.0.52:9090", rollout_confirm={"admin_port": 1},
        canary_confirm_timeout_seconds=0.5, canary_accept_unconfirmed=accepted, canary_guard=False, canary_hold_seconds=30,
        canary_bake_seconds=30, canary_scrape_interval_seconds=1, canary_window_seconds=10, canary_outage_budget_seconds=1,
    )  # fmt: skip
    # Nobody calls v2 here, so a hold that has begun ends without data: traffic is back in both cases, by different roads.
    assert ended.code != 0 and release.is_back()
    assert ("weight 0 -> 10, UNCONFIRMED: after 0.5 s 2 of 2 proxies" in ended.text) is accepted, ended.text[-3000:]
    assert ("are in the API, but UNCONFIRMED in the mesh" in ended.text) is not accepted
