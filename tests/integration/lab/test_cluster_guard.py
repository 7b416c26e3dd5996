# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard in the cluster: started as a Job by the module, and its program as such, always with the rights of the file that is shipped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import (
    _cluster_guard,
    _cluster_guard_script,
    _events,
    _guard,
    _kube,
    _record,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from .conftest import Mesh, connection, wait_until
from .test_traffic_guard import Playbook, canary_tasks, route_of

ROOT = Path(__file__).resolve().parents[3]
SERVICE, HOLDER, LEASE_SECONDS, GRACE = "echo", "jane@bastion/1-1", 3, 0.5
BLUE = [100, 0]


class Release:
    """A release in the middle of its canary: 10 % on v2 of both routes, by a run that renews the lock only when it is asked to."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.kube, self.namespace = mesh, mesh.kube, mesh.namespace
        self.other = mesh.of("HTTPRoute")
        self.act("begin", version="v2", plan={"stable_version": "v1"})
        self.act("step", step="canary_10", status="started")
        for route in (mesh, self.other):
            route.shift(10)

    def act(self, state: str, holder: str = HOLDER, **options: Any) -> dict[str, Any]:
        params: dict[str, Any] = {
            **dict.fromkeys(_record.ARGUMENT_SPEC),
            **connection(namespace=self.namespace),
            "state": state, "service": SERVICE, "holder": holder, "lease_duration": LEASE_SECONDS,
            **options,
        }
        return _record.run(params, Context())

    def renew(self) -> None:
        _record.renew(self.kube, self.namespace, _record.lease_name(SERVICE), HOLDER)

    def params(self, **options: Any) -> dict[str, Any]:
        route = {
            "name": "echo", **self.mesh.destinations,
            "others": [{"kind": "HTTPRoute", "name": "echo", **self.other.destinations}],
        }
        given = {
            "state": "started", "service": SERVICE, "holder": HOLDER, "abort_route": route, "image": "localhost/signal-service:v1",
            "grace": GRACE, "lifetime": 120, "start_timeout": 30.0,
            **options,
        }
        validated = ArgumentSpecValidator(_cluster_guard.ARGUMENT_SPEC, **_cluster_guard.SPEC_RULES).validate(given)
        assert not validated.error_messages, validated.error_messages
        return {**validated.validated_parameters, **connection(namespace=self.namespace)}

    def guard(self, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module's engine."""
        return _cluster_guard.run(self.params(**options), Context(check_mode=check_mode))

    def said(self) -> dict[str, Any]:
        """What the guard has written about itself."""
        found = self.kube.get(_kube.path_of("", "v1", "configmaps", self.namespace, _record.record_name(SERVICE)))
        return json.loads(found["data"].get(_events.GUARD_KEY, "{}"))

    def jobs(self) -> list[dict[str, Any]]:
        return self.kube.list(_kube.path_of("batch", "v1", "jobs", self.namespace))

    def pods(self) -> list[dict[str, Any]]:
        selector = {"labelSelector": "app.kubernetes.io/name=signal-rollout-guard"}
        return self.kube.list(_kube.path_of("", "v1", "pods", self.namespace), selector)

    def told(self) -> list[tuple[str, str]]:
        """Reason and object of the Kubernetes Events of guards."""
        return [(one["reason"], one["involvedObject"]["kind"]) for one in guard_events(self.mesh)]


def remove(mesh: Mesh) -> None:
    """Remove what releases and guards have left in the namespace."""
    kube, namespace = mesh.kube, mesh.namespace
    jobs, events = _kube.path_of("batch", "v1", "jobs", namespace), _kube.path_of("", "v1", "events", namespace)
    objects = [
        *[f"{jobs}/{job['metadata']['name']}" for job in kube.list(jobs)],
        *[f"{events}/{event['metadata']['name']}" for event in guard_events(mesh)],
        _kube.path_of("coordination.k8s.io", "v1", "leases", namespace, _record.lease_name(SERVICE)),
        _kube.path_of("", "v1", "configmaps", namespace, _record.record_name(SERVICE)),
    ]
    for path in objects:
        if kube.find(path) is not None:
            kube.delete(path, propagation="Background")


def guard_events(mesh: Mesh) -> list[dict[str, Any]]:
    found = mesh.kube.list(_kube.path_of("", "v1", "events", mesh.namespace))
    return [one for one in found if (one.get("source") or {}).get("component") == "signal-rollout-guard"]


def end_machine(playbook: int, guard: int) -> None:
    """End ansible-playbook, everything that it has started, and its guard, as the loss of power would: nobody can do anything any more."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    doomed = {playbook, guard}
    while more := {pid for pid, parent in parents.items() if parent in doomed} - doomed:
        doomed |= more
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in doomed:
            os.kill(pid, number)


def rights(namespace: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of the file that an administrator applies, with the names of this test's service, by the path of their collection."""
    text = (ROOT / _cluster_guard.RBAC_FILE).read_text(encoding="utf-8")
    text = text.replace("signal-service", SERVICE).replace("namespace: signal\n", f"namespace: {namespace}\n")
    plurals = {"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}
    found = []
    for body in yaml.safe_load(text)["items"]:
        group, _slash, version = body["apiVersion"].rpartition("/")
        found.append((_kube.path_of(group, version, plurals[body["kind"]], namespace), body))
    return found


@pytest.fixture(scope="module")
def allowed(shared_mesh: Mesh) -> Mesh:
    for path, body in rights(shared_mesh.namespace):
        shared_mesh.kube.post(path, body)
    return shared_mesh


@pytest.fixture
def release(allowed: Mesh, mesh: Mesh) -> Iterator[Release]:
    made = Release(mesh)
    yield made
    remove(mesh)


class Relay:
    """The way to the API server, which can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self.target, self.is_cut = (host, port), False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self.listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            server = socket.create_connection(self.target, timeout=10)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()


class Program:
    """The guard's program in a thread, as its service account, over a way that can be cut."""

    def __init__(self, release: Release, folder: Path) -> None:
        kube, namespace = release.kube, release.namespace
        account = _kube.path_of("", "v1", "serviceaccounts", namespace, "signal-rollout-guard")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        (folder / "token").write_text(kube.post(f"{account}/token", body)["status"]["token"], encoding="ascii")
        roots = kube.get(_kube.path_of("", "v1", "configmaps", namespace, "kube-root-ca.crt"))["data"]["ca.crt"]
        (folder / "ca.crt").write_text(roots, encoding="ascii")
        host, _colon, port = kube.server.removeprefix("https://").partition(":")
        self.relay = Relay(host, int(port))
        stay = _cluster_guard.Stay({**release.params(), "abort_route": _guard.route_of(release.params())}, kube.clone(), Context())
        guard = _cluster_guard_script.Guard(stay.settings(stay.described_routes()), _cluster_guard_script.Api(self.relay.host, self.relay.port, str(folder)))
        self.why = ""
        self.thread = threading.Thread(target=lambda: setattr(self, "why", guard.run()), daemon=True)
        self.thread.start()
        wait_until("it watches", lambda: release.said().get("state") == "watching", 10)

    def end(self, seconds: float = 15.0) -> str:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "it goes on"
        self.relay.listener.close()
        return self.why


@pytest.fixture
def program(release: Release, tmp_path: Path) -> Callable[[], Program]:
    return lambda: Program(release, tmp_path)


def weights(release: Release) -> list[list[int]]:
    return [release.mesh.weights(), release.other.weights()]


def test_traffic_of_every_route_is_back_when_nobody_renews_the_lock_and_the_next_person_is_told(release: Release) -> None:
    started = release.guard()
    assert (started["changed"], started["running"]) == (True, True)
    wait_until("traffic is back", lambda: weights(release) == [BLUE, BLUE], 15)
    wait_until("it has said so", lambda: release.said()["state"] == "moved", 10)
    assert (release.said()["before"], release.said()["after"], release.said()["holder"]) == (10, 0, HOLDER)
    assert release.told() == [("TrafficPutBack", "VirtualService")]
    wait_until("the Job has ended", lambda: any(one["type"] == "Complete" for one in (release.jobs()[0]["status"].get("conditions") or [])))
    pod = release.pods()[0]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0 and len(release.pods()) == 1

    shown = release.act("show", holder="joe@laptop/2-2", traffic={"stable": 100, "canary": 0})
    flat = " ".join(shown["unfinished"].split())
    assert "guard, weight 10 -> 0 %, told by guard in the cluster: the lock was not renewed for" in flat
    assert "it may still run" in flat, "silence is no proof of an end"
    release.mesh.shift(10)
    with pytest.raises(_cluster_guard.ClusterGuardError, match=r"has acted for .* already"):
        release.guard()
    assert release.guard(state="stopped")["changed"] is True and release.jobs() == []
    assert release.said()["state"] == "moved", "what it did stays to be read"
    release.act("resume", holder="joe@laptop/2-2", version="v2", plan={"stable_version": "v1"})
    kinds = [event["kind"] for event in release.act("show")["events"]]
    assert kinds == ["guard", "resumed"]


def test_run_that_lives_is_left_alone_and_one_that_dies_together_with_its_guard_is_not(allowed: Mesh, mesh: Mesh, tmp_path: Path) -> None:
    guard = {"state": "started", "service": SERVICE, "abort_route": route_of(mesh), "image": "localhost/signal-service:v1", "grace": GRACE}
    tasks = canary_tasks(tmp_path, mesh=mesh)
    tasks.insert(-2, {"name": "Start the guard in the cluster", "signal.rollout.cluster_guard": guard})
    playbook = Playbook(mesh, tmp_path, tasks, "auto")
    try:
        playbook.wait_for_task("Something slow")
        # The lock of these tasks lasts 5 s, and the task that takes its time does not renew it.
        time.sleep(5 + GRACE + 2)
        assert mesh.weights() == [90, 10] and playbook.process.poll() is None
        end_machine(playbook.process.pid, playbook.guard()["pid"])
        playbook.process.wait(10)
        wait_until("traffic is back", lambda: mesh.weights() == BLUE, 20)
        assert "ended" not in playbook.guard() and playbook.events() == [], "nobody on this machine did it"
    finally:
        playbook.process.kill()
        remove(mesh)


def test_guard_that_is_removed_leaves_nothing_and_does_nothing(release: Release) -> None:
    assert release.guard(check_mode=True) == {**release.guard(check_mode=True), "changed": True, "running": False}
    assert release.jobs() == []
    release.guard()
    assert release.guard(state="stopped", check_mode=True)["words"] == "would be removed" and len(release.jobs()) == 1
    assert release.guard(state="stopped")["changed"] is True
    assert release.guard(state="stopped")["changed"] is False
    wait_until("its pod is gone", lambda: not release.pods(), 15)
    names = [one["metadata"]["name"] for one in release.kube.list(_kube.path_of("", "v1", "configmaps", release.namespace))]
    assert [name for name in names if name.startswith("signal-rollout-guard")] == []
    assert release.said() == {} and weights(release) == [[90, 10], [90, 10]]


def test_weight_of_a_stranger_is_left_and_told(release: Release, program: Callable[[], Program]) -> None:
    running = program()
    release.mesh.edit(release.mesh.foreign(60, 40))
    why = running.end()
    assert release.mesh.weights() == [60, 40] and release.other.weights() == BLUE, "the other route is this release's still"
    assert "this release did not set; last written by 'kubectl-edit'" in why
    assert (release.said()["state"], release.said()["before"], release.said()["after"]) == ("drift", 40, 40)
    assert release.told()[-1] == ("TrafficLeft", "VirtualService")
    assert release.act("show")["events"][-1]["kind"] == "drift"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"state": "finish", "outcome": "held"}, "held by 'nobody'"),
        ({"state": "step", "step": "canary_100", "status": "done", "weight": 100}, "all traffic stays on the new version"),
    ],
)
def test_release_that_ended_or_has_passed_keeps_its_traffic(
    release: Release, program: Callable[[], Program], end: dict[str, Any], words: str
) -> None:
    running = program()
    release.act(**end)
    assert words in running.end()
    assert weights(release) == [[90, 10], [90, 10]] and release.told() == [] and release.act("show")["events"] == []


def test_lock_that_has_gone_to_somebody_else_is_respected(release: Release, program: Callable[[], Program]) -> None:
    running = program()
    release.act("takeover", holder="joe@laptop/2-2", takeover=HOLDER)
    assert "held by 'joe@laptop/2-2'" in running.end()
    assert weights(release) == [[90, 10], [90, 10]]


def test_silence_in_which_the_guard_itself_saw_nothing_does_not_count(release: Release, program: Callable[[], Program]) -> None:
    running = program()
    running.relay.is_cut = True
    time.sleep(LEASE_SECONDS + GRACE + 1)
    running.relay.is_cut = False
    time.sleep(LEASE_SECONDS / 2)
    assert weights(release) == [[90, 10], [90, 10]], "the run had no chance to renew the lock either"
    release.renew()
    time.sleep(LEASE_SECONDS / 2 + 0.2)
    assert weights(release) == [[90, 10], [90, 10]]
    assert "is back on v1" in running.end()
    assert weights(release) == [BLUE, BLUE]


def test_everything_that_an_administrator_has_not_given_is_named_before_anything_is_written(mesh: Mesh, release: Release) -> None:
    with pytest.raises(_cluster_guard.ClusterGuardError) as refused:
        release.guard(check_mode=True, service_account="another-guard")
    for missing in ("ServiceAccount", "Role", "RoleBinding"):
        assert f"{missing} {mesh.namespace}/another-guard" in refused.value.message
    assert _cluster_guard.RBAC_FILE in refused.value.message
    path = _kube.path_of("rbac.authorization.k8s.io", "v1", "roles", mesh.namespace, "signal-rollout-guard")
    role = mesh.kube.get(path)
    rules = role["rules"]
    role["rules"] = [rule for rule in rules if rule["resources"] != ["httproutes"]]
    role = mesh.kube.put(path, role)
    try:
        with pytest.raises(_cluster_guard.ClusterGuardError, match="lacks 2 things: 'get httproutes.gateway.networking.k8s.io/echo' in Role"):
            release.guard()
    finally:
        mesh.kube.put(path, {**role, "rules": rules})
    assert release.jobs() == [] and release.said() == {}


def test_image_that_cannot_start_is_told_with_the_reason_and_removed(release: Release) -> None:
    with pytest.raises(_cluster_guard.ClusterGuardError, match=r"did not say within 3 s that it watches: pod .* It was removed again"):
        release.guard(image="localhost/no-such-image:v1", start_timeout=3.0)
    assert release.jobs() == []
