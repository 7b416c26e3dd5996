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
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _confirm, _http_route, _kube, _virtual_service
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready, ready_endpoints

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
    """A namespace with a Service, one pod per version, a DestinationRule, a VirtualService and an HTTPRoute behind the lab's gateway.

    ``kind`` is the route that :meth:`shift`, :meth:`weights` and :meth:`edit` mean; ``host`` is its host name.
    """

    kube: _kube.Kube
    namespace: str
    kind: str = _virtual_service.KIND

    @property
    def is_gateway_api(self) -> bool:
        return self.kind == _http_route.KIND

    @property
    def host(self) -> str:
        return f"{self.namespace}{'-gwapi' if self.is_gateway_api else ''}.lab"

    def of(self, kind: str) -> Mesh:
        """The same namespace by another kind of route."""
        return Mesh(self.kube, self.namespace, kind)

    @property
    def destinations(self) -> dict[str, str]:
        """Options that name both destinations."""
        return {"stable": "echo-v1", "canary": "echo-v2"} if self.is_gateway_api else {"stable": "v1", "canary": "v2"}

    @property
    def rule(self) -> str:
        """JSON pointer of the managed rule."""
        return "/spec/rules/0" if self.is_gateway_api else "/spec/http/0"

    @property
    def backends(self) -> str:
        """JSON pointer of the managed rule's destinations."""
        return f"{self.rule}/{'backendRefs' if self.is_gateway_api else 'route'}"

    @property
    def route_path(self) -> str:
        if self.is_gateway_api:
            return self.path(_http_route.PLURAL, group=_http_route.GROUP)
        return self.path(_virtual_service.PLURAL)

    @property
    def route(self) -> dict[str, Any]:
        return self.kube.get(self.route_path)

    def entries(self) -> list[dict[str, Any]]:
        """The managed rule's destinations as they stand."""
        if self.is_gateway_api:
            return list(self.route["spec"]["rules"][0]["backendRefs"])
        return list(self.route["spec"]["http"][0]["route"])

    @property
    def version(self) -> tuple[str, int]:
        """What a write to the route's spec changes; istiod's status writes do not."""
        metadata = self.route["metadata"]
        return metadata["uid"], metadata["generation"]

    def path(self, plural: str, name: str | None = "echo", group: tuple[str, str] = _virtual_service.GROUP) -> str:
        return _kube.path_of(*group, plural, self.namespace, name)

    @property
    def virtual_service(self) -> dict[str, Any]:
        return self.kube.get(self.path("virtualservices"))

    def weights(self) -> list[int]:
        return [entry.get("weight", 0) for entry in self.entries()]

    def shift(
        self, weight: int, check_mode: bool = False, user: str = "admin", confirm: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Run the engine of canary_weight on this mesh, with the options as a door would complete them."""
        validated = ArgumentSpecValidator(_confirm.CONFIRM_SPEC).validate(confirm or {})
        assert not validated.error_messages, validated.error_messages
        params = {
            **connection(user, namespace=self.namespace),
            "kind": self.kind, "name": "echo", "route": None, "destination_host": None,
            "extra_destinations": "refuse", "others": None, "capacity": None, **self.destinations,
            "weight": weight, "expected_weight": None, "confirm": validated.validated_parameters,
            **options,
        }
        return _canary_weight.run(params, Context(check_mode=check_mode, diff=True))

    def edit(self, operations: list[dict[str, Any]], manager: str = "kubectl-edit") -> None:
        """Change the route as somebody else would."""
        self.kube.patch(self.route_path, operations, manager=manager)

    def foreign(self, stable: int, canary: int) -> list[dict[str, Any]]:
        """The edit that gives both destinations other weights."""
        return [
            {"op": "replace", "path": f"{self.backends}/0/weight", "value": stable},
            {"op": "replace", "path": f"{self.backends}/1/weight", "value": canary},
        ]


def _objects(mesh: Mesh) -> list[tuple[str, dict[str, Any]]]:
    """Path of the collection and body of everything in the mesh, the two routes last."""
    namespace = mesh.namespace
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

    def own_service(name: str, selector: dict[str, str]) -> dict[str, Any]:
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        body = named("Service", "v1", spec={"selector": selector, "ports": ports})
        body["metadata"]["name"] = name
        return body

    deployments = _kube.path_of("apps", "v1", "deployments", namespace)
    services = _kube.path_of("", "v1", "services", namespace)
    istio = "networking.istio.io/v1"
    route = [
        {"destination": {"host": service, "subset": "v1"}, "weight": 100},
        {"destination": {"host": service, "subset": "v2"}, "weight": 0},
    ]
    subsets = [{"name": version, "labels": {"version": version}} for version in ("v1", "v2")]
    backends = [{"name": "echo-v1", "port": 80, "weight": 100}, {"name": "echo-v2", "port": 80, "weight": 0}]
    gateway_api = {
        "parentRefs": [{"name": "edge", "namespace": "istio-system"}],
        "hostnames": [mesh.of("HTTPRoute").host],
        "rules": [{"name": "primary", "backendRefs": backends}],
    }
    http = [{"name": "primary", "retries": {"attempts": 2}, "route": route}]
    return [
        (deployments, deployment("v1")),
        (deployments, deployment("v2")),
        (services, own_service("echo", {"app": "echo"})),
        (services, own_service("echo-v1", {"app": "echo", "version": "v1"})),
        (services, own_service("echo-v2", {"app": "echo", "version": "v2"})),
        (
            _kube.path_of(*_virtual_service.GROUP, "destinationrules", namespace),
            named("DestinationRule", istio, spec={"host": service, "subsets": subsets}),
        ),
        (
            _kube.path_of(*_virtual_service.GROUP, "virtualservices", namespace),
            named("VirtualService", istio, spec={"hosts": [mesh.of("VirtualService").host], "gateways": ["signal/edge"], "http": http}),
        ),
        (
            _kube.path_of(*_http_route.GROUP, "httproutes", namespace),
            named("HTTPRoute", "gateway.networking.k8s.io/v1", spec=gateway_api),
        ),
    ]


@pytest.fixture(scope="module")
def shared_mesh(kube: _kube.Kube) -> Iterator[Mesh]:
    namespace = f"mesh-{uuid.uuid4().hex[:8]}"
    mesh = Mesh(kube, namespace)
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        for path, body in _objects(mesh):
            kube.post(path, body)
        pods = _kube.path_of("", "v1", "pods", namespace)
        wait_until("both pods are ready", lambda: sum(map(pod_is_ready, kube.list(pods))) == 2, 60)
        yield mesh
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


def restore(mesh: Mesh) -> None:
    """Put both routes back as they were made, 100 % on v1, confirmed, with a ready endpoint behind each version."""
    slices = mesh.path("endpointslices", None, ("discovery.k8s.io", "v1"))
    for version in ("v1", "v2"):
        mine = {"labelSelector": f"kubernetes.io/service-name=echo-{version}"}
        wait_until(f"{version} has an endpoint", lambda mine=mine: ready_endpoints(mesh.kube.list(slices, mine)))
    for _path, body in _objects(mesh)[-2:]:
        one = mesh.of(body["kind"])
        one.edit([{"op": "replace", "path": "/spec", "value": body["spec"]}], manager="fixture")
        one.shift(0)


@pytest.fixture
def mesh(shared_mesh: Mesh) -> Mesh:
    """The mesh by its VirtualService, at 100 % on v1, routes as they were made."""
    restore(shared_mesh)
    return shared_mesh
