# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running lab, and a small mesh of one's own inside it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
GATEWAY = "10.79.0.60"


def connection(user: str = "admin", **options: Any) -> dict[str, Any]:
    """Return the Kubernetes options of one of the lab's users, complete as a door would pass them."""
    empty: dict[str, Any] = dict.fromkeys(_kube.ARGUMENT_SPEC)
    return {**empty, "namespace": "signal", "kubeconfig": str(LAB / "kubeconfig" / user), **options}


@pytest.fixture(scope="session")
def kube() -> _kube.Kube:
    """The lab's API as its administrator."""
    return _kube.connect(connection())


def wait_until(what: str, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true answer of ``condition``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass
class Mesh:
    """A namespace with a Service, one pod per subset, a DestinationRule and a VirtualService behind the lab's gateway."""

    kube: _kube.Kube
    namespace: str
    host: str

    def path(self, plural: str, name: str | None = "echo", group: tuple[str, str] = _canary_weight.ISTIO) -> str:
        return _kube.path_of(*group, plural, self.namespace, name)

    @property
    def virtual_service(self) -> dict[str, Any]:
        return self.kube.get(self.path("virtualservices"))

    def weights(self) -> list[int]:
        return [entry.get("weight", 0) for entry in self.virtual_service["spec"]["http"][0]["route"]]

    def shift(self, weight: int, check_mode: bool = False, user: str = "admin", **options: Any) -> dict[str, Any]:
        """Run the engine of canary_weight on this mesh."""
        confirm = {name: rule["default"] for name, rule in _canary_weight.CONFIRM_SPEC.items()}
        params = {
            **connection(user, namespace=self.namespace),
            "kind": "VirtualService", "name": "echo", "route": None, "destination_host": None,
            "stable": "v1", "canary": "v2", "weight": weight, "expected_weight": None, "confirm": confirm,
            **options,
        }
        return _canary_weight.run(params, Context(check_mode=check_mode, diff=True))

    def edit(self, operations: list[dict[str, Any]], manager: str = "kubectl-edit") -> None:
        """Change the VirtualService as somebody else would."""
        self.kube.patch(self.path("virtualservices"), operations, manager=manager)


def _objects(namespace: str, host: str) -> list[tuple[str, dict[str, Any]]]:
    service = f"echo.{namespace}.svc.cluster.local"

    def named(kind: str, version: str, **rest: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": "echo", "namespace": namespace}, **rest}

    def deployment(version: str) -> dict[str, Any]:
        labels = {"app": "echo", "version": version}
        container = {
            "name": "app",
            "image": "localhost/signal-service:v1",
            "imagePullPolicy": "Never",
            "command": ["python3", "-m", "http.server", "8080"],
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        }
        template = {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        }
        body = named(
            "Deployment", "apps/v1", spec={"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        )
        body["metadata"]["name"] = f"echo-{version}"
        return body

    deployments = _kube.path_of("apps", "v1", "deployments", namespace)
    istio = "networking.istio.io/v1"
    route = [
        {"destination": {"host": service, "subset": "v1"}, "weight": 100},
        {"destination": {"host": service, "subset": "v2"}, "weight": 0},
    ]
    subsets = [{"name": version, "labels": {"version": version}} for version in ("v1", "v2")]
    http = [{"name": "primary", "retries": {"attempts": 2}, "route": route}]
    return [
        (deployments, deployment("v1")),
        (deployments, deployment("v2")),
        (
            _kube.path_of("", "v1", "services", namespace),
            named("Service", "v1", spec={"selector": {"app": "echo"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        ),
        (
            _kube.path_of(*_canary_weight.ISTIO, "destinationrules", namespace),
            named("DestinationRule", istio, spec={"host": service, "subsets": subsets}),
        ),
        (
            _kube.path_of(*_canary_weight.ISTIO, "virtualservices", namespace),
            named("VirtualService", istio, spec={"hosts": [host], "gateways": ["signal/edge"], "http": http}),
        ),
    ]


@pytest.fixture(scope="module")
def shared_mesh(kube: _kube.Kube) -> Iterator[Mesh]:
    namespace = f"mesh-{uuid.uuid4().hex[:8]}"
    mesh = Mesh(kube, namespace, f"{namespace}.lab")
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        for path, body in _objects(namespace, mesh.host):
            kube.post(path, body)
        pods = _kube.path_of("", "v1", "pods", namespace)
        wait_until("both pods are ready", lambda: sum(map(pod_is_ready, kube.list(pods))) == 2, 60)
        yield mesh
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


@pytest.fixture
def mesh(shared_mesh: Mesh) -> Mesh:
    """The mesh at 100 % on v1, routes as they were made."""
    fresh = _objects(shared_mesh.namespace, shared_mesh.host)[-1][1]
    shared_mesh.edit([{"op": "replace", "path": "/spec", "value": fresh["spec"]}], manager="fixture")
    shared_mesh.shift(0)
    return shared_mesh
