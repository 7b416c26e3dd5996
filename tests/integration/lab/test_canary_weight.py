# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weight changes against the lab's API server, istiod and Envoys."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _kube, _weights
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import GATEWAY, LAB, Mesh, wait_until

ROOT = Path(__file__).resolve().parents[3]
WEIGHT_OF_V2 = "/spec/http/0/route/1/weight"


def foreign(stable: int, canary: int) -> list[dict[str, Any]]:
    return [
        {"op": "replace", "path": "/spec/http/0/route/0/weight", "value": stable},
        {"op": "replace", "path": WEIGHT_OF_V2, "value": canary},
    ]


def test_shift_is_confirmed_by_both_gateways_and_seen_in_traffic(mesh: Mesh) -> None:
    result = mesh.shift(100)
    assert result["changed"] and result["before"] == {"stable": 100, "canary": 0}
    assert result["after"] == {"stable": 0, "canary": 100}
    assert result["confirmed"]["method"] == "envoy" and result["confirmed"]["proxies"] == 2
    # Once confirmed, not one request may still go the old way: the pod of v1 must see none.
    before = {version: _requests_seen(mesh, version) for version in ("v1", "v2")}
    answers = Counter(_get(mesh.host) for _unused in range(100))
    assert answers == {200: 100}
    after = {version: _requests_seen(mesh, version) for version in ("v1", "v2")}
    assert {version: after[version] - before[version] for version in after} == {"v1": 0, "v2": 100}


def _get(host: str) -> int:
    connection = http.client.HTTPConnection(GATEWAY, 80, timeout=5)
    connection.request("GET", "/probe", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    # The echo pods serve an empty folder: their own 404 proves that the request arrived.
    return 200 if status == 404 else status


def _requests_seen(mesh: Mesh, version: str) -> int:
    pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": f"version={version}"})
    return sum(mesh.kube.get_text(f"{mesh.path('pods', pod['metadata']['name'], ('', 'v1'))}/log").count("GET /probe") for pod in pods)


def test_only_the_two_weights_change(mesh: Mesh) -> None:
    before = mesh.virtual_service["spec"]
    mesh.shift(10)
    after = mesh.virtual_service["spec"]
    assert [entry.pop("weight", 0) for entry in after["http"][0]["route"]] == [90, 10]
    for entry in before["http"][0]["route"]:
        entry.pop("weight", None)
    assert after == before


def test_equal_weights_cause_no_write(mesh: Mesh) -> None:
    mesh.shift(10)
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    assert mesh.shift(10)["changed"] is False
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


def test_check_mode_predicts_and_writes_nothing(mesh: Mesh) -> None:
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    result = mesh.shift(50, check_mode=True)
    assert result["changed"] and result["after"] == {"stable": 50, "canary": 50}
    assert "canary=0" in result["diff"]["before"] and "canary=50" in result["diff"]["after"]
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


def test_foreign_edit_of_the_weight_stops_the_shift_and_names_the_writer(mesh: Mesh) -> None:
    mesh.shift(10)
    mesh.edit(foreign(75, 25))
    with pytest.raises(_canary_weight.Drift, match="25, expected 10.*'kubectl-edit'") as caught:
        mesh.shift(50, expected_weight=10)
    assert mesh.weights() == [75, 25]
    assert caught.value.result["drift"]["manager"] == "kubectl-edit"
    assert caught.value.result["before"] == {"stable": 75, "canary": 25}


def _race(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, operations: list[dict[str, Any]]) -> None:
    """Have somebody else write between the engine's read and its first write."""
    original = _kube.Kube.patch
    pending = [operations]

    def patch(self: _kube.Kube, path: str, body: Any, *rest: Any, **options: Any) -> dict[str, Any]:
        if pending:
            original(self, path, pending.pop(), manager="kubectl-edit")
        return original(self, path, body, *rest, **options)

    monkeypatch.setattr(_kube.Kube, "patch", patch)


def test_race_with_an_unrelated_edit_keeps_both_changes(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    _race(mesh, monkeypatch, [{"op": "add", "path": "/spec/http/0/timeout", "value": "7s"}])
    assert mesh.shift(10)["changed"]
    assert mesh.weights() == [90, 10] and mesh.virtual_service["spec"]["http"][0]["timeout"] == "7s"


def test_race_with_an_edit_of_the_weights_is_lost_on_purpose(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    _race(mesh, monkeypatch, foreign(75, 25))
    with pytest.raises(_canary_weight.Drift, match="kubectl-edit"):
        mesh.shift(10)
    assert mesh.weights() == [75, 25]


def test_subset_unknown_to_the_destination_rule_gets_no_traffic(mesh: Mesh) -> None:
    mesh.edit([{"op": "replace", "path": "/spec/http/0/route/1/destination/subset", "value": "v9"}])
    with pytest.raises(_weights.WeightError, match=r"defines subset 'v9'.*subsets there: v1, v2"):
        mesh.shift(10, canary="v9")
    assert mesh.weights() == [100, 0]


def test_subset_without_a_ready_pod_gets_no_traffic(mesh: Mesh) -> None:
    scale = mesh.path("deployments", "echo-v2", ("apps", "v1")) + "/scale"
    pods = mesh.path("pods", None, ("", "v1"))
    mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 0}])
    try:
        with pytest.raises(_weights.WeightError, match="no ready pod for subset 'v2'"):
            _until_gone(mesh, pods)
            mesh.shift(10)
        assert mesh.weights() == [100, 0]
    finally:
        mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 1}])
        _until_ready(mesh, pods)


def _until_gone(mesh: Mesh, pods: str) -> None:
    wait_until("v2 has no pod", lambda: not mesh.kube.list(pods, {"labelSelector": "version=v2"}))


def _until_ready(mesh: Mesh, pods: str) -> None:
    ready = {"labelSelector": "version=v2"}
    wait_until("v2 is back", lambda: any(_weights.pod_is_ready(pod) for pod in mesh.kube.list(pods, ready)))


def test_object_that_does_not_exist_is_named(mesh: Mesh) -> None:
    with pytest.raises(_weights.WeightError, match=f"VirtualService {mesh.namespace}/nobody does not exist"):
        mesh.shift(10, name="nobody")


def test_missing_right_is_told_and_nothing_is_written(mesh: Mesh) -> None:
    with pytest.raises(_kube.KubeError, match="403") as caught:
        mesh.shift(10, user="viewer")
    assert caught.value.result["changed"] is False
    assert mesh.weights() == [100, 0]


def test_gateways_that_do_not_show_the_weights_fail_the_task_but_the_write_is_told(mesh: Mesh) -> None:
    # The route of another host never appears for this VirtualService name in the gateways selected here.
    confirm = {"method": "envoy", "namespace": "istio-system", "selector": "istio=nobody", "admin_port": 15000, "timeout": 0.3}
    with pytest.raises(_canary_weight.Unconfirmed, match="No ready gateway pod") as caught:
        mesh.shift(10, confirm=confirm)
    assert caught.value.result["changed"] is True and caught.value.result["after"] == {"stable": 90, "canary": 10}


def test_edit_by_somebody_else_before_the_gateways_have_the_weights_is_drift(mesh: Mesh) -> None:
    confirm = {"method": "envoy", "namespace": "istio-system", "selector": "istio=ingressgateway", "admin_port": 1, "timeout": 5}
    edit = threading.Timer(0.2, mesh.edit, [foreign(63, 37)])
    edit.start()
    with pytest.raises(_canary_weight.Drift, match="37, expected 10.*'kubectl-edit'"):
        mesh.shift(10, confirm=confirm)
    edit.join()
    assert mesh.weights() == [63, 37]


def test_of_two_deployers_at_once_one_wins_and_the_other_is_told(mesh: Mesh) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def deploy(weight: int) -> None:
        barrier.wait()
        try:
            mesh.shift(weight, expected_weight=0)
            outcomes.append("won")
        except RolloutError:
            outcomes.append("told")

    threads = [threading.Thread(target=deploy, args=(weight,)) for weight in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) in (["told", "won"],), outcomes
    assert mesh.weights() in ([90, 10], [80, 20])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_shift_that_is_killed_before_it_is_confirmed_goes_back(mesh: Mesh, name: str, tmp_path: Path) -> None:
    # Nothing listens on that port, so the confirmation never comes and the signal finds the task waiting for it.
    confirm = {"admin_port": 1, "timeout": 30}
    route = {"name": "echo", "stable": "v1", "canary": "v2", "weight": 10, "on_interrupt": "back", "confirm": confirm}
    login = {"kubeconfig": str(LAB / "kubeconfig" / "admin"), "namespace": mesh.namespace}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [{"signal.rollout.canary_weight": {**login, **route}}],
    }
    playbook = tmp_path / "shift.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(playbook)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the weight is written", lambda: mesh.weights() == [90, 10])
        process.send_signal(getattr(signal, name))
        wait_until("traffic is back", lambda: mesh.weights() == [100, 0], 5)
        assert process.wait(20) != 0
        assert mesh.weights() == [100, 0]
    finally:
        process.kill()
