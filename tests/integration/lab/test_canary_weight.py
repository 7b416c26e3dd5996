# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weight changes against the lab's API server, istiod and Envoys."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _capacity, _confirm, _http_route, _kube, _weights
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import GATEWAY, LAB, Mesh, restore, wait_until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["VirtualService", "HTTPRoute"])
def mesh(shared_mesh: Mesh, request: pytest.FixtureRequest) -> Mesh:
    """The mesh by each kind of route in turn: the same tests, the same results."""
    restore(shared_mesh)
    return shared_mesh.of(request.param)


@pytest.fixture
def istio(shared_mesh: Mesh) -> Mesh:
    """The mesh by its VirtualService, for what only Istio's own API has."""
    restore(shared_mesh)
    return shared_mesh


@pytest.fixture
def gateway_api(shared_mesh: Mesh) -> Mesh:
    """The mesh by its HTTPRoute, for what only the Gateway API has."""
    restore(shared_mesh)
    return shared_mesh.of("HTTPRoute")


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
    before = mesh.route["spec"]
    mesh.shift(10)
    after = mesh.route["spec"]
    assert mesh.weights() == [90, 10]
    for spec in (before, after):
        for entry in (spec.get("http") or spec.get("rules"))[0].get("route") or spec["rules"][0]["backendRefs"]:
            entry.pop("weight", None)
    assert after == before


def test_equal_weights_cause_no_write(mesh: Mesh) -> None:
    mesh.shift(10)
    version = mesh.version
    assert mesh.shift(10)["changed"] is False
    assert mesh.version == version


def test_check_mode_predicts_and_writes_nothing(mesh: Mesh) -> None:
    version = mesh.version
    result = mesh.shift(50, check_mode=True)
    assert result["changed"] and result["after"] == {"stable": 50, "canary": 50}
    assert "canary=0" in result["diff"]["before"] and "canary=50" in result["diff"]["after"]
    assert mesh.version == version


def test_foreign_edit_of_the_weight_stops_the_shift_and_names_the_writer(mesh: Mesh) -> None:
    mesh.shift(10)
    mesh.edit(mesh.foreign(75, 25))
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
    edit = {"path": f"{mesh.rule}/timeout", "value": "7s"} if not mesh.is_gateway_api else {"path": f"{mesh.rule}/timeouts", "value": {"request": "7s"}}
    _race(mesh, monkeypatch, [{"op": "add", **edit}])
    assert mesh.shift(10)["changed"]
    assert mesh.weights() == [90, 10] and "7s" in str(mesh.route["spec"])


def test_race_with_an_edit_of_the_weights_is_lost_on_purpose(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    _race(mesh, monkeypatch, mesh.foreign(75, 25))
    with pytest.raises(_canary_weight.Drift, match="kubectl-edit"):
        mesh.shift(10)
    assert mesh.weights() == [75, 25]


def test_subset_unknown_to_the_destination_rule_gets_no_traffic(istio: Mesh) -> None:
    istio.edit([{"op": "replace", "path": "/spec/http/0/route/1/destination/subset", "value": "v9"}])
    with pytest.raises(_weights.WeightError, match=r"defines subset 'v9'.*subsets there: v1, v2"):
        istio.shift(10, canary="v9")
    assert istio.weights() == [100, 0]


def test_service_that_does_not_exist_gets_no_traffic(gateway_api: Mesh) -> None:
    gateway_api.edit([{"op": "replace", "path": "/spec/rules/0/backendRefs/1/name", "value": "echo-v9"}])
    with pytest.raises(_weights.WeightError, match=f"Service {gateway_api.namespace}/echo-v9 does not exist"):
        gateway_api.shift(10, canary="echo-v9")
    assert gateway_api.weights() == [100, 0]


def test_subset_without_a_ready_pod_gets_no_traffic(mesh: Mesh) -> None:
    scale = mesh.path("deployments", "echo-v2", ("apps", "v1")) + "/scale"
    pods = mesh.path("pods", None, ("", "v1"))
    mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 0}])
    try:
        with pytest.raises(_weights.WeightError, match="no ready pod for .*which would get 10 %"):
            _until_gone(mesh, pods)
            mesh.shift(10)
        assert mesh.weights() == [100, 0]
    finally:
        mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 1}])
        _until_ready(mesh, pods)


def test_endpoints_that_lag_behind_ready_pods_are_waited_for(mesh: Mesh) -> None:
    """As in the moment after a pod has become ready: the pod says so, the EndpointSlice does not yet."""
    slices = mesh.path("endpointslices", None, ("discovery.k8s.io", "v1"))
    for entry in mesh.kube.list(slices):
        mesh.kube.delete(f"{slices}/{entry['metadata']['name']}")
    assert mesh.shift(10)["confirmed"]["state"] == "confirmed"
    assert mesh.weights() == [90, 10]


def test_only_a_refusal_waits_for_the_servers_caches(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a write a consistent list takes 50 to 100 ms; a cached one may lag, so that it must never refuse by itself."""
    asked: list[str] = []
    original = _kube.Kube.get

    def get(self: _kube.Kube, path: str, params: dict[str, Any] | None = None, *rest: Any, **options: Any) -> dict[str, Any]:
        if "limit" in (params or {}):
            asked.append(str((params or {}).get("resourceVersion")))
        return original(self, path, params, *rest, **options)

    monkeypatch.setattr(_kube.Kube, "get", get)
    unconfirmed = {"method": "none"}
    mesh.shift(10, confirm=unconfirmed)
    assert asked and set(asked) == {"0"}
    asked.clear()
    capacity = {"full": 1000, "disruptions": "warn"}
    with pytest.raises(_capacity.CapacityError):
        mesh.shift(20, confirm=unconfirmed, capacity=capacity)
    assert set(asked[: len(asked) // 2]) == {"0"} and set(asked[len(asked) // 2 :]) == {"None"}


def _until_gone(mesh: Mesh, pods: str) -> None:
    wait_until("v2 has no pod", lambda: not mesh.kube.list(pods, {"labelSelector": "version=v2"}))


def _until_ready(mesh: Mesh, pods: str) -> None:
    ready = {"labelSelector": "version=v2"}
    wait_until("v2 is back", lambda: any(_weights.pod_is_ready(pod) for pod in mesh.kube.list(pods, ready)))


def test_object_that_does_not_exist_is_named(mesh: Mesh) -> None:
    with pytest.raises(_weights.WeightError, match=f"{mesh.kind} {mesh.namespace}/nobody does not exist"):
        mesh.shift(10, name="nobody")


def test_missing_right_is_told_and_nothing_is_written(mesh: Mesh) -> None:
    with pytest.raises(_kube.KubeError, match="403") as caught:
        mesh.shift(10, user="viewer")
    assert caught.value.result["changed"] is False
    assert mesh.weights() == [100, 0]


def test_edit_by_somebody_else_before_the_gateways_have_the_weights_is_drift(mesh: Mesh) -> None:
    # Nothing listens on that port, so the confirmation is still waiting when the edit comes.
    confirm = {"admin_port": 1, "timeout": 5}
    edit = threading.Timer(0.2, mesh.edit, [mesh.foreign(63, 37)])
    edit.start()
    with pytest.raises(_canary_weight.Drift, match="37, expected 10.*'kubectl-edit'"):
        mesh.shift(10, confirm=confirm)
    edit.join()
    assert mesh.weights() == [63, 37]


class _LosesAnswers(ThreadingHTTPServer):
    """Passes every request on to the lab's API server, and drops the connection instead of answering the first write."""

    daemon_threads = True

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.kube = mesh.kube
        self.writes = 0


class _Forward(BaseHTTPRequestHandler):
    server: _LosesAnswers
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused: Any) -> None:
        """Keep the output of the tests quiet."""

    def do_GET(self) -> None:
        self._answer(self.server.kube.clone().get_text(self.path).encode())

    def do_PATCH(self) -> None:
        operations = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = self.server.kube.clone().patch(self.path.split("?")[0], operations)
        self.server.writes += 1
        if self.server.writes == 1:
            self.close_connection = True
            self.connection.close()
            return
        self._answer(json.dumps(body).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_write_whose_answer_is_lost_is_settled_by_reading(mesh: Mesh) -> None:
    proxy = _LosesAnswers(mesh)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        generation = mesh.version[1]
        result = mesh.shift(10, host=f"http://127.0.0.1:{proxy.server_port}")
    finally:
        proxy.shutdown()
    assert proxy.writes == 1 and mesh.weights() == [90, 10]
    assert mesh.version[1] == generation + 1
    assert result["changed"] is True and result["confirmed"]["proxies"] == 2


def test_third_destination_keeps_its_weight_when_asked_and_is_refused_otherwise(mesh: Mesh) -> None:
    third = dict(mesh.entries()[0], weight=20)
    if mesh.is_gateway_api:
        third["name"] = "echo"
    else:
        third["destination"] = {"host": f"echo-v1.{mesh.namespace}.svc.cluster.local"}
    mesh.edit([{"op": "replace", "path": f"{mesh.backends}/0/weight", "value": 80}, {"op": "add", "path": f"{mesh.backends}/-", "value": third}])
    with pytest.raises(_weights.WeightError, match="other destinations carry traffic .*=20"):
        mesh.shift(10)
    result = mesh.shift(30, extra_destinations="keep")
    assert mesh.weights() == [50, 30, 20] and result["after"] == {"stable": 50, "canary": 30}
    assert result["confirmed"]["proxies"] == 2
    with pytest.raises(_weights.WeightError, match="weight is 81, but other destinations keep 20 %: expected at most 80"):
        mesh.shift(81, extra_destinations="keep")
    assert mesh.weights() == [50, 30, 20]


def test_destinations_without_subset_are_shifted_by_their_hosts(istio: Mesh) -> None:
    entries = [{"destination": {"host": f"echo-{version}"}, "weight": weight} for version, weight in (("v1", 100), ("v2", 0))]
    istio.edit([{"op": "replace", "path": istio.backends, "value": entries}])
    result = istio.shift(100, stable="echo-v1", canary="echo-v2")
    assert istio.weights() == [0, 100] and result["confirmed"]["proxies"] == 2


def test_named_route_moves_and_the_header_route_before_it_stays(istio: Mesh) -> None:
    header = {
        "name": "header",
        "match": [{"headers": {"x-canary": {"exact": "yes"}}}],
        "route": [{"destination": {"host": "echo", "subset": "v2"}}],
        "mirror": {"host": "echo", "subset": "v1"},
    }
    istio.edit([{"op": "add", "path": "/spec/http/0", "value": header}])
    before = istio.route["spec"]["http"][0]
    assert istio.shift(10, route="primary")["confirmed"]["proxies"] == 2
    after = istio.route["spec"]["http"]
    assert after[0] == before and [entry["weight"] for entry in after[1]["route"]] == [90, 10]
    istio.edit([{"op": "remove", "path": "/spec/http/0/match"}])
    with pytest.raises(_weights.WeightError, match="'header' comes first and matches every request, so that 'primary' is never reached"):
        istio.shift(20, route="primary")


def test_route_that_the_gateway_api_does_not_accept_gets_no_weight_but_goes_back(gateway_api: Mesh) -> None:
    gateway_api.shift(10)
    nobody = {"name": "nobody", "port": 80, "weight": 10}
    gateway_api.edit([*gateway_api.foreign(80, 10), {"op": "add", "path": f"{gateway_api.backends}/-", "value": nobody}])
    with pytest.raises(_weights.WeightError, match=r"ResolvedRefs=False, BackendNotFound: backend\(nobody\..* not found"):
        gateway_api.shift(50, extra_destinations="keep")
    assert gateway_api.weights() == [80, 10, 10]
    gateway_api.edit([*gateway_api.foreign(90, 10), {"op": "remove", "path": f"{gateway_api.backends}/2"}])
    gateway_api.edit([{"op": "replace", "path": "/spec/parentRefs/0/name", "value": "nowhere"}])
    with pytest.raises(_weights.WeightError, match="its parent Gateway istio-system/nowhere does not exist"):
        gateway_api.shift(50)
    gateway_api.shift(0, confirm={**_confirm_defaults(), "method": "none"})
    assert gateway_api.weights() == [100, 0]


def _confirm_defaults() -> dict[str, Any]:
    return {name: rule.get("default") for name, rule in _confirm.CONFIRM_SPEC.items()}


def test_gateway_that_cannot_be_programmed_is_refused_in_its_own_words(gateway_api: Mesh) -> None:
    # As in a real cluster: it stands in another namespace than the Service of the gateways.
    address = {"type": "Hostname", "value": "istio-ingressgateway.istio-system.svc.cluster.local"}
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": "istio", "addresses": [address], "listeners": [listener]}
    body = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "astray"}, "spec": spec}
    path = gateway_api.path("gateways", None, _http_route.GROUP)
    gateway_api.kube.post(path, body)
    try:
        astray = {"name": "astray", "namespace": gateway_api.namespace}
        gateway_api.edit([{"op": "replace", "path": "/spec/parentRefs/0", "value": astray}])
        wait_until("istiod has judged the Gateway", lambda: "AddressNotUsable" in str(gateway_api.kube.get(f"{path}/astray")))
        with pytest.raises(_weights.WeightError, match="Gateway .*/astray has Programmed=False, AddressNotUsable: Failed to assign"):
            gateway_api.shift(10)
        assert gateway_api.weights() == [100, 0]
    finally:
        gateway_api.kube.delete(f"{path}/astray")


def test_rule_without_a_name_is_confirmed_when_it_is_the_only_one(gateway_api: Mesh) -> None:
    gateway_api.edit([{"op": "remove", "path": "/spec/rules/0/name"}])
    assert gateway_api.shift(10)["confirmed"]["proxies"] == 2
    header = {"matches": [{"headers": [{"name": "x-canary", "value": "yes"}]}], "backendRefs": [{"name": "echo-v2", "port": 80}]}
    gateway_api.edit([{"op": "add", "path": "/spec/rules/1", "value": header}])
    with pytest.raises(_weights.WeightError, match=r"has 2 rules \('', ''\), expected one"):
        gateway_api.shift(20)


def test_port_that_the_service_does_not_have_gets_no_traffic(mesh: Mesh) -> None:
    port = "port" if mesh.is_gateway_api else "destination/port"
    mesh.edit([{"op": "add", "path": f"{mesh.backends}/1/{port}", "value": 81 if mesh.is_gateway_api else {"number": 81}}])
    with pytest.raises(_weights.WeightError, match="names port 81, but Service .* has 80"):
        mesh.shift(10)
    assert mesh.weights() == [100, 0]


def test_routes_of_both_kinds_move_together_and_back(mesh: Mesh) -> None:
    other = mesh.of("HTTPRoute" if mesh.kind == "VirtualService" else "VirtualService")
    others = [{"kind": other.kind, **other.destinations}]
    result = mesh.shift(10, others=others)
    assert (mesh.weights(), other.weights()) == ([90, 10], [90, 10])
    assert [(route["kind"], route["changed"], route["confirmed"]["proxies"]) for route in result["routes"]] == [
        (mesh.kind, True, 2),
        (other.kind, True, 2),
    ]
    other.edit(other.foreign(75, 25))
    with pytest.raises(_canary_weight.Drift, match=f"{other.kind} .* weight is 25, expected 10"):
        mesh.shift(50, others=others, expected_weight=10)
    assert (mesh.weights(), other.weights()) == ([90, 10], [75, 25])
    mesh.shift(0, others=others)
    assert (mesh.weights(), other.weights()) == ([100, 0], [100, 0])


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
    route = {"kind": mesh.kind, "name": "echo", **mesh.destinations, "weight": 10, "on_interrupt": "back", "confirm": confirm}
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
