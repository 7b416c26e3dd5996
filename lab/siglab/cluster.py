# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the node: manifests, accounts, readiness, and the baseline every test starts from."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from . import daemons, database, pki, processes, settings
from .api import Api, ApiError
from .daemons import Node
from .settings import LAB_SOURCE, SERVICE_SOURCE, LabError, Paths

MANIFESTS = LAB_SOURCE / "manifests"
MANAGER = "signal-lab"
NAMESPACE = "signal"

# (namespace, Deployment): what must be ready for the lab to be usable.
PLATFORM = (
    ("kube-system", "coredns"),
    ("signal-data", "timescaledb"),
    ("signal-data", "redis"),
    ("signal-data", "neighbours"),
    ("monitoring", "prometheus"),
    ("monitoring", "sink"),
    ("istio-system", "istio-ingressgateway"),
)
BASELINE_DEPLOYMENT = f"signal-service-{settings.BASELINE_VERSION}"

# Removed from the service's namespace by a reset unless the baseline has them.
SWEPT_KINDS = (
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Job",
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "EnvoyFilter",
    "HTTPRoute",
    "Service",
    "ConfigMap",
    "Secret",
    "Lease",
)
KEPT = {("ConfigMap", "kube-root-ca.crt"), ("ConfigMap", "istio-ca-root-cert"), ("ConfigMap", "istio-ca-crl")}

WEBHOOK_CA = ("istio-system", "istio-ca-root-cert")
TOKEN_SECONDS = 365 * 86400


class Cluster:
    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.node = Node(paths)
        self.api = Api(paths)

    # Manifests

    def values(self) -> dict[str, str]:
        return {
            **self.node.values(),
            "SINK_IMAGE": f"{settings.SERVICE_IMAGE}:{settings.BASELINE_VERSION}",
            "SIGNAL_USER_PASSWORD": pki.password(self.paths, database.APPLICATION),
        }

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        return processes.run(
            [str(self.paths.bin / "kubectl"), "--kubeconfig", str(self.paths.kubeconfig / "admin"), *arguments],
            stdin=stdin,
            timeout=timeout,
            # The discovery cache belongs to this lab, and goes with it.
            env={"KUBECACHEDIR": str(self.paths.run / "kubectl-cache"), "HOME": str(self.paths.run)},
        )

    def apply(self, text: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "-f", "-", stdin=text)

    def apply_manifests(self, *names: str) -> None:
        texts = [daemons.render((MANIFESTS / name).read_text(), self.values()) for name in names]
        self.apply("\n---\n".join(texts))

    def install_crds(self, folder: Path) -> None:
        """Create the CustomResourceDefinitions of Istio and the Gateway API and wait until they are served."""
        texts = [path.read_text() for path in sorted(folder.glob("*.yaml"))]
        self.apply("\n---\n".join(texts))

        def served() -> bool:
            try:
                self.api.list("VirtualService", NAMESPACE)
                self.api.list("DestinationRule", NAMESPACE)
                self.api.list("HTTPRoute", NAMESPACE)
                self.api.request("GET", f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/gateways")
                return True
            except ApiError as error:
                # 429: "storage is (re)initializing", which a new resource type says for a moment.
                if error.status not in (404, 429, 503):
                    raise
                return False

        processes.wait_until(served, 20, "Istio's and the Gateway API's resource types served")

    def create_passwords(self) -> None:
        self.api.ensure(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "timescaledb-passwords", "namespace": "signal-data"},
                "stringData": {name: pki.password(self.paths, name) for name in ("postgres",)},
            }
        )

    def create_account_kubeconfigs(self) -> None:
        """Kubeconfigs of the deployer and the viewer, with tokens that last as long as the lab's certificates."""
        for name in ("deployer", "viewer"):
            account = f"signal-{name}"
            answer = self.api.request(
                "POST",
                f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
                {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_SECONDS}},
            )
            pki.write_kubeconfig(self.paths.kubeconfig / name, self.paths.pki / "ca.crt", {"token": answer["status"]["token"]}, NAMESPACE)

    def activate_webhook(self) -> None:
        """Let the API server ask istiod about every Istio object; waits until a wrong one is refused."""

        def authority() -> str | None:
            found = self.api.get("ConfigMap", *WEBHOOK_CA)
            return (found or {}).get("data", {}).get("root-cert.pem")

        processes.wait_until(lambda: authority() is not None, 30, f"ConfigMap {'/'.join(WEBHOOK_CA)} written by istiod")
        bundle = base64.b64encode((authority() or "").encode()).decode()
        text = (MANIFESTS / "70-webhook.yaml").read_text()
        self.apply(daemons.render(text, {**self.values(), "CA_BUNDLE": bundle}))
        processes.wait_until(self.webhook_refuses, 20, "istiod's validating webhook active")

    def webhook_refuses(self) -> bool:
        """True when a VirtualService with a negative weight is refused by the webhook (a dry run, nothing is stored)."""
        destination = {"host": "lab-webhook-check"}
        wrong = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "lab-webhook-check", "namespace": NAMESPACE},
            "spec": {
                "hosts": ["lab-webhook-check"],
                "http": [{"route": [{"destination": destination, "weight": -5}, {"destination": destination, "weight": 105}]}],
            },
        }
        try:
            self.api.request("POST", f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}/virtualservices?dryRun=All", wrong)
        except ApiError as error:
            return "denied the request" in str(error)
        return False

    # Readiness

    def deployment_ready(self, namespace: str, name: str) -> bool:
        """True when all wanted replicas are up to date and ready, and no older ones are left."""
        found = self.api.get("Deployment", namespace, name)
        if found is None:
            return False
        status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
        return (
            wanted > 0
            and status.get("observedGeneration", 0) >= found["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == status.get("replicas", 0) == wanted
        )

    def not_ready(self) -> list[str]:
        """Parts of the platform that are not ready. The service itself is a release's business, not the lab's."""
        return [f"{namespace}/{name}" for namespace, name in PLATFORM if not self.deployment_ready(namespace, name)]

    def scaled_down(self) -> list[tuple[str, str]]:
        """Parts of the platform that an open ``break`` has taken down."""
        found = ((namespace, name, self.api.get("Deployment", namespace, name)) for namespace, name in PLATFORM)
        return [(namespace, name) for namespace, name, item in found if item is not None and item["spec"].get("replicas", 1) == 0]

    def has_service(self) -> bool:
        """True when some version of the service and its VirtualService exist, in whatever state of a release."""
        return bool(self.api.list("Deployment", NAMESPACE, "app=signal-service")) and self.api.get("VirtualService", NAMESPACE, "signal-service") is not None

    def wait_ready(self, namespace: str, name: str, timeout: float = 60) -> None:
        processes.wait_until(lambda: self.deployment_ready(namespace, name), timeout, f"Deployment {namespace}/{name} ready")

    def wait_scaled(self, namespace: str, name: str, replicas: int, timeout: float = 60) -> None:
        """Set the number of replicas, then wait until exactly that many pods exist and are ready."""
        self.api.patch("Deployment", namespace, name, {"spec": {"replicas": replicas}})

        def done() -> bool:
            if replicas:
                return self.deployment_ready(namespace, name)
            return not self.api.list("Pod", namespace, f"app={name}")

        processes.wait_until(done, timeout, f"Deployment {namespace}/{name} at {replicas} replicas")

    # Baseline

    def load_baseline(self) -> list[dict[str, Any]]:
        """The baseline's objects; kubectl turns the YAML into JSON once per change of the files."""
        folder = SERVICE_SOURCE / "baseline"
        text = "\n---\n".join(daemons.render(path.read_text(), self.values()) for path in sorted(folder.glob("*.yaml")))
        stored = self.paths.run / "baseline.json"
        source = self.paths.run / "baseline.yaml"
        if not (stored.exists() and source.exists() and source.read_text() == text):
            printed = self.kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text)
            objects = []
            decoder, rest = json.JSONDecoder(), printed.strip()
            while rest:
                found, end = decoder.raw_decode(rest)
                objects += found["items"] if found["kind"].endswith("List") else [found]
                rest = rest[end:].lstrip()
            pki.write_private(stored, json.dumps(objects))
            pki.write_private(source, text)
        return json.loads(stored.read_text())

    def ensure_baseline(self) -> None:
        """Make the service's namespace hold exactly the baseline, and wait until v1 serves all of the traffic."""
        wanted = self.load_baseline()
        keep = {(item["kind"], item["metadata"]["name"]) for item in wanted} | KEPT
        for kind in SWEPT_KINDS:
            for item in self.api.list(kind, NAMESPACE):
                name = item["metadata"]["name"]
                if (kind, name) not in keep and item.get("type") != "kubernetes.io/service-account-token":
                    self.api.delete(kind, NAMESPACE, name)
        for item in self.api.list("ReplicaSet", NAMESPACE):
            # Before its pods, or it would replace them.
            if not {("Deployment", owner["name"]) for owner in item["metadata"].get("ownerReferences", [])} & keep:
                self.api.delete("ReplicaSet", NAMESPACE, item["metadata"]["name"])
        pods = self.api.list("Pod", NAMESPACE)
        for item in wanted:
            self.api.ensure(item)
        for pod in pods:
            version = pod["metadata"].get("labels", {}).get("version")
            # New pods instead of waiting for the back-off of a crash loop, or for the drain of a version that goes.
            if version != settings.BASELINE_VERSION or not _is_ready(pod) or _restarts(pod):
                self.api.delete("Pod", NAMESPACE, pod["metadata"]["name"], grace=0)

    def wait_baseline(self, timeout: float = 60) -> None:
        """Wait until only v1's pods exist, all are healthy, and the gateway answers with v1."""
        self.wait_ready(NAMESPACE, BASELINE_DEPLOYMENT, timeout)

        def settled() -> bool:
            pods = self.api.list("Pod", NAMESPACE, "app=signal-service")
            others = [pod for pod in pods if pod["metadata"]["labels"].get("version") != settings.BASELINE_VERSION]
            for pod in others:
                self.api.delete("Pod", NAMESPACE, pod["metadata"]["name"], grace=0)
            return not others and all(_pod_health(pod) for pod in pods)

        processes.wait_until(settled, timeout, "pods of v1 healthy, and no others", 0.2)
        processes.wait_until(self.gateway_serves_baseline, timeout, f"v1 at {settings.GATEWAY_URL} (Host: {settings.HOST_HEADER}, {settings.GATEWAY_API_HOST})")

    def gateway_serves_baseline(self) -> bool:
        """Whether v1 answers by the VirtualService and by the HTTPRoute."""
        for host in (settings.HOST_HEADER, settings.GATEWAY_API_HOST):
            status, headers, _ = http_get(settings.GATEWAY_URL + "/health", {"Host": host})
            if status != 200 or headers.get("x-signal-version") != settings.BASELINE_VERSION:
                return False
        return True

    # What is not Kubernetes

    def redis_answers(self) -> bool:
        try:
            return _redis("PING").startswith(b"+PONG")
        except OSError:
            return False

    def flush_redis(self) -> None:
        answer = _redis("FLUSHALL")
        if not answer.startswith(b"+OK"):
            raise LabError(f"Redis at {settings.REDIS_IP}:6379 answered {answer!r} to FLUSHALL, expected +OK")

    def clear_sink(self) -> None:
        request = urllib.request.Request(settings.SINK_URL + "/messages", method="DELETE")
        try:
            _opener.open(request, timeout=5).close()
        except OSError as error:
            raise LabError(f"sink at {settings.SINK_URL}: DELETE /messages failed ({error}). Look at: labctl logs sink") from error

    def forget_metrics(self) -> None:
        """Delete the service's and the gateways' series, so that no query of the next test sees this one's samples."""
        matches = "&".join("match[]=" + urllib.parse.quote(f'{{job="{job}"}}') for job in ("signal-service", "gateway", "kubelet"))
        # The alerts that those series made fire belong to the earlier test too.
        matches += "&match[]=ALERTS&match[]=ALERTS_FOR_STATE"
        request = urllib.request.Request(f"{settings.PROMETHEUS_URL}/api/v1/admin/tsdb/delete_series?{matches}", method="POST", data=b"")
        try:
            _opener.open(request, timeout=5).close()
        except OSError as error:
            raise LabError(f"Prometheus at {settings.PROMETHEUS_URL}: deleting old series failed ({error}). Look at: labctl logs prometheus") from error


    def service_is_scraped(self) -> bool:
        """True when Prometheus has a good scrape of each pod of the service."""
        query = urllib.parse.quote('count(up{job="signal-service"} == 1)')
        status, _, body = http_get(f"{settings.PROMETHEUS_URL}/api/v1/query?query={query}")
        rows = json.loads(body)["data"]["result"] if status == 200 else []
        pods = self.api.list("Pod", NAMESPACE, "app=signal-service")
        return bool(rows) and int(rows[0]["value"][1]) == len(pods)


# Addresses of the lab are never reached through a proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_get(url: str, headers: dict[str, str] | None = None, timeout: float = 3) -> tuple[int, dict[str, str], bytes]:
    """(status, headers in lower case, body); status 0 when there was no answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    except (OSError, http.client.HTTPException):
        return 0, {}, b""
    finally:
        connection.close()


def _redis(command: str) -> bytes:
    with socket.create_connection((settings.REDIS_IP, 6379), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(64)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {item["type"]: item["status"] for item in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def _restarts(pod: dict[str, Any]) -> int:
    return sum(status["restartCount"] for status in pod.get("status", {}).get("containerStatuses", []))


def _pod_health(pod: dict[str, Any]) -> bool:
    address = pod.get("status", {}).get("podIP")
    return bool(address) and http_get(f"http://{address}:8080/health")[0] == 200
