# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate against the lab's Prometheus, API server and Envoys, with real outages and real signals.

A figure that breaks at a known moment is a PromQL expression of time(): Prometheus itself evaluates it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _events, _kube, _metric_gate
from ansible_collections.signal.rollout.plugins.module_utils._context import DEATH, Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import GATEWAY, LAB, Mesh, wait_until

PROMETHEUS = ("10.79.0.52", 9090)
URL = f"http://{PROMETHEUS[0]}:{PROMETHEUS[1]}"
ROOT = Path(__file__).resolve().parents[3]
# Always there, always fresh: Prometheus scrapes itself every second.
CALM = {"name": "calm", "query": "vector(0.05)", "below": 0.1, "unit": "%"}


def breaking_at(moment: float, value: float = 5.0) -> dict[str, Any]:
    return {"name": "error_rate", "query": f"(time() >= bool {moment:.3f}) * {value:g}", "below": 0.1, "unit": "%"}


def options(**changes: Any) -> dict[str, Any]:
    asked = {"prometheus_url": URL, "duration": 3, "label": "test", "outage_budget": 3, "metrics": [CALM], **changes}
    checked = ArgumentSpecValidator(_metric_gate.ARGUMENT_SPEC).validate(asked)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def gate(lines: list[str] | None = None, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
    """Run the gate; its result, with the message of a failure as ``msg``."""
    context = Context(check_mode=check_mode, progress=(lines if lines is not None else []).append)
    try:
        return {"msg": "", **_metric_gate.run(options(**changes), context)}
    except RolloutError as error:
        return {"msg": error.message, **error.result}


def route(mesh: Mesh) -> dict[str, Any]:
    return {"kubeconfig": str(LAB / "kubeconfig/admin"), "namespace": mesh.namespace, "name": "echo", "stable": "v1", "canary": "v2"}


# ------------------------------------------------------------------------------------------------ verdicts and weights


def test_a_pass_leaves_the_weight(mesh: Mesh) -> None:
    mesh.shift(10)
    lines: list[str] = []
    result = gate(lines, abort_route=route(mesh))
    assert result["verdict"] == "pass", result["msg"]
    assert result["changed"] is False
    assert result["seconds"] >= 3
    assert lines[1] == "test: hold 00:03 left | calm 0.05 % < 0.1"
    assert mesh.weights() == [90, 10]


def test_a_breach_puts_traffic_back_inside_the_task_within_a_poll(mesh: Mesh) -> None:
    mesh.shift(10)
    moment = time.time() + 2.3
    back: list[float] = []

    def watch() -> None:
        wait_until("the weights are back", lambda: mesh.kube.clone().get(mesh.path("virtualservices"))["spec"]["http"][0]["route"][1].get("weight", 0) == 0, 15)
        back.append(time.time())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = gate(metrics=[CALM, breaking_at(moment)], duration=30, abort_route=route(mesh))
    watcher.join(20)
    assert result["verdict"] == "breach"
    assert result["changed"] is True
    assert result["aborted"]["before"] == {"stable": 90, "canary": 10}
    assert result["aborted"]["after"] == {"stable": 100, "canary": 0}
    assert result["aborted"]["confirmed"]["proxies"] == 2
    assert mesh.weights() == [100, 0]
    # Far below the hold of 30 s; how far is measured in tests/bench, not asserted.
    assert result["detection_time_s"] < 10 and back[0] - moment < 10
    assert "test: breach: error_rate is 5.00 %, expected < 0.1 %" in result["msg"]
    assert "Traffic is back on v1: weight 10 -> 0 in 0." in result["msg"]
    assert "confirmed by 2 gateways" in result["msg"]


def test_shift_is_made_and_confirmed_before_the_hold_begins(mesh: Mesh) -> None:
    lines: list[str] = []
    result = gate(lines, abort_route=route(mesh), shift={"weight": 10, "expected_weight": 0})
    assert result["verdict"] == "pass", result["msg"]
    assert result["changed"] is True and result["shift"]["after"] == {"stable": 90, "canary": 10}
    assert lines[0].startswith("test: weight 0 -> 10, confirmed by 2 gateways")
    assert mesh.weights() == [90, 10]


def test_shift_over_a_foreign_edit_is_refused_and_the_edit_is_left_alone(mesh: Mesh) -> None:
    mesh.shift(25)
    result = gate(abort_route=route(mesh), shift={"weight": 50, "expected_weight": 10})
    assert result["verdict"] == "error" and result["shift"]["drift"]["seen"] == 25
    assert result["aborted"] is None and result["changed"] is False
    assert mesh.weights() == [75, 25]


def test_shift_that_cannot_be_confirmed_goes_back(mesh: Mesh) -> None:
    blind = {**route(mesh), "confirm": {"admin_port": 1, "timeout": 0.5}}
    result = gate(abort_route=blind, shift={"weight": 10}, abort_timeout=0)
    assert result["verdict"] == "error" and "do not have them" in result["msg"]
    assert mesh.weights() == [100, 0]


def test_edit_by_somebody_else_during_the_hold_ends_it_and_is_left_alone(mesh: Mesh) -> None:
    weights = [{"op": "replace", "path": f"/spec/http/0/route/{place}/weight", "value": value} for place, value in enumerate((75, 25))]
    edit = threading.Timer(2.0, mesh.edit, [weights])
    edit.start()
    result = gate(duration=60, abort_route=route(mesh), shift={"weight": 10})
    edit.join()
    assert result["verdict"] == "error" and "'kubectl-edit'" in result["msg"]
    assert result["drift"]["seen"] == 25 and result["aborted"] is None
    assert mesh.weights() == [75, 25]


def together(mesh: Mesh) -> tuple[Mesh, dict[str, Any]]:
    """The mesh by its HTTPRoute, and the route options that move it with the VirtualService."""
    other = mesh.of("HTTPRoute")
    return other, {**route(mesh), "others": [{"kind": other.kind, **other.destinations}]}


def test_routes_that_move_together_go_back_together(mesh: Mesh) -> None:
    other, routes = together(mesh)
    result = gate(metrics=[CALM, breaking_at(time.time() + 2.3)], duration=30, abort_route=routes, shift={"weight": 10})
    assert result["verdict"] == "breach" and result["aborted"]["done"] is True
    assert [entry["before"]["canary"] for entry in result["aborted"]["routes"]] == [10, 10]
    assert [entry["confirmed"]["proxies"] for entry in result["aborted"]["routes"]] == [2, 2]
    assert mesh.weights() == other.weights() == [100, 0]


def test_edit_of_a_route_that_moves_along_is_seen_during_the_hold(mesh: Mesh) -> None:
    other, routes = together(mesh)
    edit = threading.Timer(3.0, other.edit, [other.foreign(75, 25)])
    edit.start()
    result = gate(duration=60, abort_route=routes, shift={"weight": 10})
    edit.join()
    assert result["verdict"] == "error" and result["drift"]["object"] == f"HTTPRoute {mesh.namespace}/echo"
    assert (result["drift"]["seen"], other.weights()) == (25, [75, 25])


def test_nothing_is_shifted_for_a_query_that_can_never_be_answered(mesh: Mesh) -> None:
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    result = gate(metrics=[{**CALM, "query": "sum(rate(x[1m])"}], abort_route=route(mesh), shift={"weight": 10})
    assert result["verdict"] == "error" and result["shift"] is None
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize(
    ("metric", "verdict", "words"),
    [
        ({"query": "nothing_of_this_name"}, "no_data", "no series"),
        ({"query": "vector(0) / vector(0)"}, "no_data", "NaN"),
        ({"query": "vector(1) / vector(0)"}, "no_data", "infinite"),
        ({"query": "up{job='prometheus'}", "freshness": "vector(time() - 3600)"}, "no_data", "s old, expected at most 30 s"),
        ({"query": "up{job='prometheus'}", "freshness": "nothing_of_this_name"}, "no_data", "freshness: no series"),
    ],
)
def test_without_evidence_the_weight_is_held_and_then_goes_back(mesh: Mesh, metric: dict[str, Any], verdict: str, words: str) -> None:
    mesh.shift(10)
    lines: list[str] = []
    result = gate(lines, metrics=[{"name": "m", "below": 9, "unit": "%", **metric}], abort_route=route(mesh))
    assert result["verdict"] == verdict
    assert words in result["msg"]
    assert 3 <= result["seconds"] < 15
    assert sum("cannot see m" in line for line in lines) == 1
    assert mesh.weights() == [100, 0]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(rate(x[1m])", "bad_data: invalid parameter"),
        ("no_such_function(x)", "unknown function"),
        ("prometheus_http_requests_total", "series where one is expected: {"),
        ("prometheus_http_requests_total[1m]", "gives a matrix"),
        ('"text"', "gives a string"),
    ],
)
def test_a_wrong_query_ends_the_gate_at_once_in_prometheus_words(mesh: Mesh, query: str, words: str) -> None:
    mesh.shift(10)
    result = gate(metrics=[CALM, {"name": "wrong", "query": query, "below": 1, "unit": "s"}], duration=600, abort_route=route(mesh))
    assert result["verdict"] == "error"
    assert "metric wrong:" in result["msg"]
    assert words in result["msg"]
    assert result["seconds"] < 15
    assert mesh.weights() == [100, 0]
    checked = gate(check_mode=True, metrics=[CALM, {"name": "wrong", "query": query, "below": 1, "unit": "s"}])
    assert words in checked["msg"]


def test_check_mode_asks_once_and_judges_nothing(mesh: Mesh) -> None:
    mesh.shift(10)
    result = gate(check_mode=True, metrics=[breaking_at(0)], duration=600, abort_route=route(mesh))
    assert (result["verdict"], result["msg"]) == ("none", "")
    assert result["seconds"] < 15
    assert mesh.weights() == [90, 10]


def test_too_few_requests_put_traffic_back(mesh: Mesh) -> None:
    mesh.shift(10)
    floor = {"query": "vector(12)", "at_least": 100}
    result = gate(minimum_requests=floor, extension=2, abort_route=route(mesh))
    assert result["verdict"] == "insufficient"
    assert result["requests"] == {"count": 12.0, "at_least": 100.0}
    assert 5 <= result["seconds"] < 20
    assert mesh.weights() == [100, 0]


def test_a_weight_that_is_back_already_is_not_written_again(mesh: Mesh) -> None:
    mesh.shift(0)
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    result = gate(metrics=[breaking_at(0)], abort_route=route(mesh))
    assert (result["verdict"], result["changed"], result["aborted"]["done"]) == ("breach", False, True)
    assert "weight was already 0" in result["msg"]
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


def test_a_foreign_weight_is_put_back_too(mesh: Mesh) -> None:
    mesh.shift(10)
    places = ("/spec/http/0/route/0/weight", "/spec/http/0/route/1/weight")
    mesh.edit([{"op": "replace", "path": place, "value": weight} for place, weight in zip(places, (60, 40), strict=True)])
    result = gate(metrics=[breaking_at(0)], abort_route=route(mesh))
    assert result["aborted"]["before"] == {"stable": 60, "canary": 40}
    assert mesh.weights() == [100, 0]


def test_traffic_that_cannot_go_back_is_told_as_such(mesh: Mesh) -> None:
    mesh.shift(10)
    missing_right = {**route(mesh), "kubeconfig": str(LAB / "kubeconfig/viewer")}
    result = gate(metrics=[breaking_at(0)], abort_route=missing_right, abort_timeout=1)
    assert result["aborted"]["done"] is False
    assert "TRAFFIC IS NOT BACK" in result["msg"]
    assert "playbooks/rollback.yml" in result["msg"]
    assert result["changed"] is False
    assert mesh.weights() == [90, 10]


# ---------------------------------------------------------------------------------------------------- outages


class Wire:
    """A TCP connection to the lab's Prometheus that can be cut, and that can swallow everything without an answer."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.silent = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._accept()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        listener = self.listener

        def serve() -> None:
            while True:
                try:
                    inside, _peer = listener.accept()
                except OSError:
                    return
                outside = socket.create_connection(PROMETHEUS, timeout=5)
                self._pairs.append((inside, outside))
                threading.Thread(target=self._pump, args=(inside, outside), daemon=True).start()
                threading.Thread(target=self._pump, args=(outside, inside), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.silent:
                    target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def cut(self) -> None:
        """Refuse new connections and break the old ones."""
        for end in [self.listener, *(end for pair in self._pairs for end in pair)]:
            # Closing alone would not wake a thread that waits on it; one that is closed already cannot be shut down.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs = []

    def mend(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self._accept()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.cut()


def test_an_outage_within_the_budget_freezes_the_weight_is_told_once_and_the_hold_resumes(mesh: Mesh, wire: Wire) -> None:
    mesh.shift(10)
    threading.Timer(1.5, wire.cut).start()
    threading.Timer(5.5, wire.mend).start()
    lines: list[str] = []
    result = gate(lines, prometheus_url=wire.url, duration=5, outage_budget=20, abort_route=route(mesh))
    assert result["verdict"] == "pass", result["msg"]
    assert 8 < result["seconds"] < 25
    assert sum("cannot see" in line for line in lines) == 1
    assert sum("can be seen again" in line for line in lines) == 1
    assert mesh.weights() == [90, 10]


def test_an_outage_beyond_the_budget_puts_traffic_back(mesh: Mesh, wire: Wire) -> None:
    mesh.shift(10)
    threading.Timer(1.5, wire.cut).start()
    result = gate(prometheus_url=wire.url, duration=60, outage_budget=4, abort_route=route(mesh))
    assert result["verdict"] == "error"
    assert "Connection refused" in result["msg"]
    assert 5 < result["seconds"] < 20
    assert mesh.weights() == [100, 0]


def test_a_server_that_falls_silent_is_an_outage_too(mesh: Mesh, wire: Wire) -> None:
    mesh.shift(10)

    def fall_silent() -> None:
        wire.silent = True

    threading.Timer(1.5, fall_silent).start()
    result = gate(prometheus_url=wire.url, duration=60, outage_budget=4, query_timeout=1, abort_route=route(mesh))
    assert result["verdict"] == "error"
    assert "no answer" in result["msg"]
    assert result["seconds"] < 25
    assert mesh.weights() == [100, 0]


# ------------------------------------------------------------------------------------------------------ the lease


@pytest.fixture
def lease(mesh: Mesh) -> Iterator[dict[str, Any]]:
    """A Lease in the mesh's namespace, held by 'me' for three seconds."""
    path = _kube.path_of("coordination.k8s.io", "v1", "leases", mesh.namespace)
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "gate"}}
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 3, "renewTime": "2026-01-01T00:00:00.000000Z"}
    mesh.kube.post(path, {**body, "spec": spec})
    yield {"namespace": mesh.namespace, "name": "gate", "holder": "me", "duration": 3}
    mesh.kube.delete(f"{path}/gate")


@pytest.fixture
def events(mesh: Mesh, lease: dict[str, Any]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The events in the record that belongs to the Lease."""
    path = _kube.path_of("", "v1", "configmaps", mesh.namespace)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gate"}, "data": {_events.RECORD_KEY: json.dumps({"version": "v2"})}}
    mesh.kube.post(path, body)
    yield lambda: json.loads(mesh.kube.get(f"{path}/gate")["data"][_events.RECORD_KEY]).get("events") or []
    mesh.kube.delete(f"{path}/gate")


def lease_of(mesh: Mesh) -> dict[str, Any]:
    return mesh.kube.get(_kube.path_of("coordination.k8s.io", "v1", "leases", mesh.namespace, "gate"))["spec"]


def test_the_lease_is_renewed_during_the_hold(mesh: Mesh, lease: dict[str, Any]) -> None:
    seen: set[str] = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(gate, duration=4, lease=lease, abort_route=route(mesh))
        while not running.done():
            seen.add(lease_of(mesh)["renewTime"])
            time.sleep(0.2)
        assert running.result()["verdict"] == "pass"
    assert len(seen - {"2026-01-01T00:00:00.000000Z"}) >= 3


def test_a_lease_that_somebody_else_has_taken_ends_the_hold_without_a_write(mesh: Mesh, lease: dict[str, Any]) -> None:
    mesh.shift(10)

    def steal() -> None:
        mesh.kube.clone().patch(
            _kube.path_of("coordination.k8s.io", "v1", "leases", mesh.namespace, "gate"),
            [{"op": "replace", "path": "/spec/holderIdentity", "value": "somebody else"}],
        )

    threading.Timer(1.5, steal).start()
    result = gate(duration=30, lease=lease, abort_route=route(mesh))
    assert result["verdict"] == "error"
    assert "is held by 'somebody else', expected 'me'" in result["msg"]
    assert result["seconds"] < 15
    assert result["aborted"]["done"] is False
    assert mesh.weights() == [90, 10]


def test_a_lease_of_somebody_else_is_refused_before_the_first_query(mesh: Mesh, lease: dict[str, Any]) -> None:
    result = gate(lease={**lease, "holder": "another"}, abort_route=route(mesh))
    assert (result["verdict"], result["metrics"]) == ("error", [])
    assert "expected 'another'" in result["msg"]


# ------------------------------------------------------------------------------------- through ansible-playbook


def play(folder: Path, arguments: dict[str, Any], door: str) -> subprocess.Popen[str]:
    """Start ansible-playbook with one gate task; its result is written to result.json."""
    task = {"name": "Gate", "signal.rollout.metric_gate": arguments, "register": "gate", "ignore_errors": True}
    keep = {"name": "Keep", "ansible.builtin.copy": {"content": "{{ gate | to_json }}", "dest": str(folder / "result.json"), "mode": "0600"}}
    book = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable, "signal_rollout_door": door},
            "tasks": [task, keep],
        }
    ]
    (folder / "gate.yml").write_text(json.dumps(book))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", str(folder / "gate.yml")],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_both_doors_give_the_same_answer(mesh: Mesh, tmp_path: Path) -> None:
    answers = {}
    for door in ("in_process", "module"):
        mesh.shift(10)
        metrics = [CALM, {"name": "broken", "query": "vector(7)", "at_most": 5, "unit": "ms", "failure_limit": 1}]
        process = play(tmp_path, {"prometheus_url": URL, "duration": 5, "metrics": metrics, "abort_route": route(mesh)}, door)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output
        answers[door] = json.loads((tmp_path / "result.json").read_text())
        assert mesh.weights() == [100, 0]
        assert ("gate: watching 2 metrics" in output) == (door == "in_process"), "live lines only in the controller's process"
    first, second = answers["in_process"], answers["module"]
    assert first["verdict"] == second["verdict"] == "breach"
    assert first["failed"] is second["failed"] is True
    assert first["metrics"][1] == second["metrics"][1]
    # Whether the other metric's last answer came before or after the deciding one is chance.
    unsteady = {"seconds", "started", "series", "detection_time_s", "aborted", "msg", "invocation", "metrics"}
    assert {key: value for key, value in first.items() if key not in unsteady} == {key: value for key, value in second.items() if key not in unsteady}
    assert set(first) ^ set(second) <= {"exception"}
    assert first["aborted"]["after"] == second["aborted"]["after"] == {"stable": 100, "canary": 0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_every_way_to_end_ansible_playbook_during_a_hold_puts_traffic_back_and_is_recorded(
    mesh: Mesh, tmp_path: Path, number: signal.Signals, lease: dict[str, Any], events: Callable[[], list[dict[str, Any]]]
) -> None:
    mesh.shift(10)
    arguments = {"prometheus_url": URL, "duration": 60, "metrics": [CALM], "abort_route": route(mesh), "lease": lease}
    process = play(tmp_path, arguments, "in_process")
    assert process.stdout is not None
    for line in process.stdout:
        if "hold 00:58 left" in line:
            break
    sent = time.monotonic()
    process.send_signal(number)
    wait_until("the weights are back", lambda: mesh.weights() == [100, 0], 10)
    assert time.monotonic() - sent < 10
    process.stdout.close()
    process.wait(timeout=20)
    assert process.returncode != 0
    assert not (tmp_path / "result.json").exists()
    wait_until("the record tells of it", events, 10)
    (event,) = events()
    # TERM also ends ansible-playbook, and either may be seen first; HUP and KILL are seen by its death only.
    seen = {signal.SIGINT: {"SIGINT"}, signal.SIGTERM: {"SIGTERM", DEATH}}.get(number, {DEATH})
    assert event["signal"] in seen
    assert (event["kind"], event["by"], event["holder"]) == ("interrupted", "metric_gate", "me")
    assert (event["before"], event["after"]) == (10, 0)


def test_an_interruption_holds_the_weight_by_option(
    mesh: Mesh, tmp_path: Path, lease: dict[str, Any], events: Callable[[], list[dict[str, Any]]]
) -> None:
    arguments = {
        "prometheus_url": URL, "duration": 60, "metrics": [CALM], "abort_route": route(mesh), "shift": {"weight": 10},
        "on_interrupt": "hold", "lease": lease,
    }
    process = play(tmp_path, arguments, "in_process")
    assert process.stdout is not None
    for line in process.stdout:
        if "hold 00:58 left" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    process.wait(timeout=20)
    time.sleep(1.5)
    assert mesh.weights() == [90, 10]
    (event,) = events()
    assert (event["kind"], event["before"], event["after"]) == ("interrupted", 10, 10)


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    token = "correct-horse-battery-staple"
    wrong = {"name": "m", "query": f"up{{x='{token}'", "below": 1, "unit": "s"}
    arguments = {"prometheus_url": URL, "prometheus_token": token, "prometheus_headers": {"X-Key": f"key-{token}"}, "duration": 1, "metrics": [wrong]}
    for door in ("in_process", "module"):
        process = play(tmp_path, arguments, door)
        output = process.communicate(timeout=60)[0]
        assert "bad_data" in output
        assert token not in output
        assert token not in (tmp_path / "result.json").read_text()


# ------------------------------------------------------------------------------------------- the service's own metrics


@pytest.fixture
def visitors() -> Iterator[None]:
    """About 40 requests a second to the service, by way of the gateway."""
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(0.1):
            request = urllib.request.Request(f"http://{GATEWAY}/api/v1/status", headers={"Host": "signal-service.lab"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(visit) for _visitor in range(4)]
        yield
        stop.set()
        for visitor in running:
            visitor.result()


def version_that_serves(kube: _kube.Kube) -> str:
    found = kube.get(_kube.path_of("networking.istio.io", "v1", "virtualservices", "signal", "signal-service"))
    primary = next(entry for entry in found["spec"]["http"] if entry.get("name") == "primary")
    return max(primary["route"], key=lambda entry: entry.get("weight", 0))["destination"]["subset"]


def test_the_presets_measure_the_real_service(kube: _kube.Kube, visitors: None) -> None:
    version = version_that_serves(kube)
    service = {"version": version, "window": "10s"}
    container = {"namespace": "signal", "pod": f"signal-service-{version}-.*", "container": "app"}
    gateway = {**service, "host": "signal-service.signal.svc.cluster.local"}

    def metric(name: str, unit: str, variables: dict[str, Any], **limit: float) -> dict[str, Any]:
        return {"name": name, "preset": name, "preset_vars": variables, "unit": unit, **limit}

    metrics = [
        metric("error_percent", "%", service, below=100),
        metric("gateway_error_percent", "%", gateway, below=100),
        metric("p99_ms", "ms", service, above=0),
        metric("cpu_percent_of_limit", "%", {**container, "window": "30s", "limit_cores": 1}, above=0),
        metric("memory_percent_of_limit", "%", {**container, "limit_bytes": 256 * 1024**2}, above=0),
        metric("pods_seen", "pods", {"version": version}, at_least=1),
    ]
    time.sleep(3)
    floor = {"preset": "requests", "preset_vars": {"version": version, "window": "$hold"}, "at_least": 100}
    result = gate(metrics=metrics, minimum_requests=floor, duration=5, extension=10, outage_budget=15)
    assert result["verdict"] == "pass", result["msg"]
    worst = {entry["name"]: entry["worst"] for entry in result["metrics"]}
    assert worst["error_percent"] == worst["gateway_error_percent"] == 0
    assert 0 < worst["p99_ms"] < 1000
    assert 0 < worst["memory_percent_of_limit"] < 100
    assert result["requests"]["count"] >= 100


def test_a_version_whose_pods_all_died_breaks_the_gate_as_the_gateway_sees_it(mesh: Mesh) -> None:
    mesh.shift(50)
    scale = f"{mesh.path('deployments', 'echo-v2', ('apps', 'v1'))}/scale"
    mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 0}])
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(0.05):
            request = urllib.request.Request(f"http://{GATEWAY}/", headers={"Host": mesh.host})
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=5).close()

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        metric = {
            "name": "errors",
            "preset": "gateway_error_percent",
            "preset_vars": {"version": "v2", "host": f"echo.{mesh.namespace}.svc.cluster.local", "window": "10s"},
            "below": 1,
            "unit": "%",
        }
        result = gate(metrics=[metric], duration=30, outage_budget=20, abort_route=route(mesh))
    finally:
        stop.set()
        visitor.join()
        mesh.kube.patch(scale, [{"op": "replace", "path": "/spec/replicas", "value": 1}])
    assert result["verdict"] == "breach", result["msg"]
    assert mesh.weights() == [100, 0]
    pods = _kube.path_of("", "v1", "pods", mesh.namespace)
    wait_until("the pods are back", lambda: sum(map(pod_is_ready, mesh.kube.list(pods))) == 2, 60)


def test_the_absent_version_is_no_data_and_its_pods_are_none(kube: _kube.Kube) -> None:
    metrics = [
        {"name": "errors", "preset": "error_percent", "preset_vars": {"version": "v0", "window": "10s"}, "below": 1, "unit": "%"},
        {"name": "pods", "preset": "pods_seen", "preset_vars": {"version": "v0"}, "at_least": 0, "unit": "pods"},
    ]
    result = gate(metrics=metrics, duration=2, outage_budget=2)
    assert result["verdict"] == "no_data"
    assert [(entry["good"] > 0, entry["last"]) for entry in result["metrics"]] == [(False, None), (True, 0.0)]
