# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Envoys of one's own inside the lab: gateways and sidecars that only one namespace uses, so that they can be hurt."""

from __future__ import annotations

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import Mesh, wait_until

GATEWAY_DEPLOYMENT = _kube.path_of("apps", "v1", "deployments", "istio-system", "istio-ingressgateway")
GATEWAY_CONFIG = _kube.path_of("", "v1", "configmaps", "istio-system", "gateway-bootstrap")
# Envoy answers its own readiness over the admin interface, which the kubelet cannot reach when it is bound to 127.0.0.1.
LOCAL_READY = ["curl", "-sf", "http://127.0.0.1:15000/ready"]


def start_proxy(mesh: Mesh, name: str, kind: str = "router", admin: str = "127.0.0.1", group: str = "", lost: bool = False) -> str:
    """Run an Envoy like the lab's gateway in ``mesh``'s namespace until it is ready; return the label selector of its group.

    ``kind`` is Istio's node type, router or sidecar; a sidecar here intercepts nothing, it only gets the configuration.
    A ``lost`` one is ready, but never gets any. Proxies of one ``group`` are selected together.
    """
    kube, namespace = mesh.kube, mesh.namespace
    labels = {"istio": f"{namespace}-{group or name}", "app": name}
    bootstrap = kube.get(GATEWAY_CONFIG)["data"]["envoy.yaml"]
    for old, new in (
        ("router~POD_IP~POD_NAME.istio-system~istio-system.svc", f"{kind}~POD_IP~POD_NAME.{namespace}~{namespace}.svc"),
        ("NAMESPACE: istio-system", f"NAMESPACE: {namespace}"),
        ("cluster: istio-ingressgateway.istio-system", f"cluster: {name}.{namespace}"),
        ("{istio: ingressgateway, app: istio-ingressgateway}", f"{{istio: {labels['istio']}, app: {name}}}"),
        ("socket_address: {address: 0.0.0.0, port_value: 15000}", f"socket_address: {{address: {admin}, port_value: 15000}}"),
    ):
        assert old in bootstrap, f"the lab's gateway no longer has {old}"
        bootstrap = bootstrap.replace(old, new)
    if lost:
        bootstrap = bootstrap.replace("port_value: 15010", "port_value: 9")
    kube.post(
        mesh.path("configmaps", None, ("", "v1")),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-bootstrap"}, "data": {"envoy.yaml": bootstrap}},
    )
    template = kube.get(GATEWAY_DEPLOYMENT)["spec"]["template"]
    template["metadata"] = {"labels": labels}
    template["spec"]["volumes"][0]["configMap"] = {"name": f"{name}-bootstrap"}
    template["spec"]["terminationGracePeriodSeconds"] = 0
    container = template["spec"]["containers"][0]
    command = ["true"] if lost else LOCAL_READY
    container["readinessProbe"] = {"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 2}
    kube.post(
        mesh.path("deployments", None, ("apps", "v1")),
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        },
    )
    selector = f"istio={labels['istio']}"
    wait_until(f"proxy {name} is ready", lambda: ready_pods(mesh, f"app={name}"), 60)
    return selector


def start_gateway(mesh: Mesh, name: str) -> str:
    """Like :func:`start_proxy`, with a Service and a Gateway ``name`` that routes can attach to."""
    metadata = {"name": name}
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    labels = {"istio": f"{mesh.namespace}-{name}"}
    kube = mesh.kube
    kube.post(
        mesh.path("services", None, ("", "v1")),
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": ports}},
    )
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    kube.post(
        mesh.path("gateways", None),
        {
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": metadata,
            "spec": {"selector": labels, "servers": [server]},
        },
    )
    return start_proxy(mesh, name)


def allow_sidecars(mesh: Mesh) -> None:
    """Without mutual TLS a sidecar needs no certificate, which nobody would issue here."""
    mesh.kube.post(
        mesh.path("peerauthentications", None, ("security.istio.io", "v1")),
        {
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
            "spec": {"mtls": {"mode": "DISABLE"}},
        },
    )


def ready_pods(mesh: Mesh, selector: str) -> list[str]:
    """Names of the ready pods of a proxy."""
    pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": selector})
    return [pod["metadata"]["name"] for pod in pods if pod_is_ready(pod)]


def stop_proxy(mesh: Mesh, name: str) -> None:
    """Delete a proxy of :func:`start_proxy`."""
    mesh.kube.delete(mesh.path("deployments", name, ("apps", "v1")))
    mesh.kube.delete(mesh.path("configmaps", f"{name}-bootstrap", ("", "v1")))


def attach(mesh: Mesh, *gateways: str) -> None:
    """Have the VirtualService apply to ``gateways`` only."""
    mesh.edit([{"op": "replace", "path": "/spec/gateways", "value": list(gateways)}], manager="fixture")
