# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Kubernetes client for the lab's own needs: JSON over one TLS connection per thread, as administrator."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from typing import Any

from .settings import API_PORT, NODE_IP, LabError, Paths

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

# kind: (path prefix, plural, namespaced)
KINDS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "Secret": ("/api/v1", "secrets", True),
    "Service": ("/api/v1", "services", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "Pod": ("/api/v1", "pods", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "ReplicaSet": ("/apis/apps/v1", "replicasets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "VirtualService": ("/apis/networking.istio.io/v1", "virtualservices", True),
    "DestinationRule": ("/apis/networking.istio.io/v1", "destinationrules", True),
    "Gateway": ("/apis/networking.istio.io/v1", "gateways", True),
    "EnvoyFilter": ("/apis/networking.istio.io/v1alpha3", "envoyfilters", True),
    "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes", True),
    "ValidatingWebhookConfiguration": ("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", False),
}


class ApiError(LabError):
    """The API server refused a request. ``status`` is the HTTP status, 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def path_of(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    prefix, plural, namespaced = KINDS[kind]
    path = f"{prefix}/namespaces/{namespace}/{plural}" if namespaced and namespace else f"{prefix}/{plural}"
    return f"{path}/{name}" if name else path


class Api:
    def __init__(self, paths: Paths, timeout: float = 15) -> None:
        self._timeout = timeout
        self._context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
        self._context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        self._local = threading.local()

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Send one request and return the decoded answer; raises ApiError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "User-Agent": "labctl", **({"Content-Type": content_type} if data else {})}
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            fresh = connection is None
            if fresh:
                connection = http.client.HTTPSConnection(NODE_IP, API_PORT, timeout=self._timeout, context=self._context)
                self._local.connection = connection
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                # An idle connection may have been closed by a restarted server: one more try on a new one.
                if fresh or attempt == 2:
                    raise ApiError(0, f"{method} {path}: API server does not answer ({error}). Look at: labctl status") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"message": text[:300].decode(errors="replace")}
        if response.status >= 400:
            raise ApiError(response.status, f"{method} {path}: {response.status} {answer.get('message', '')[:600]}")
        return answer

    def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object, or None when there is none."""
        try:
            return self.request("GET", path_of(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        query = f"?labelSelector={selector}" if selector else ""
        return self.request("GET", path_of(kind, namespace) + query).get("items") or []

    def patch(self, kind: str, namespace: str | None, name: str, body: Any, content_type: str = MERGE_PATCH, query: str = "") -> dict[str, Any]:
        return self.request("PATCH", path_of(kind, namespace, name) + query, body, content_type)

    def delete(self, kind: str, namespace: str | None, name: str, grace: int | None = None) -> None:
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self.request("DELETE", path_of(kind, namespace, name), body)
        except ApiError as error:
            if error.status != 404:
                raise

    def ensure(self, wanted: dict[str, Any]) -> None:
        """Make the object exactly ``wanted``, apart from its status.

        An object that is so already stays untouched: the API server stores nothing, a Deployment keeps its pods.
        """
        kind, metadata = wanted["kind"], wanted["metadata"]
        namespace, name = metadata.get("namespace"), metadata["name"]
        current = self.get(kind, namespace, name)
        if current is None:
            self.request("POST", path_of(kind, namespace), wanted)
            return
        body = {key: value for key, value in wanted.items() if key != "status"}
        body["metadata"] = {**metadata, "resourceVersion": current["metadata"]["resourceVersion"]}
        try:
            self.request("PUT", path_of(kind, namespace, name), body)
        except ApiError as error:
            # Fields that cannot be changed (immutable ConfigMaps, selectors): only a new object can have them.
            if error.status not in (409, 422):
                raise
            self.delete(kind, namespace, name)
            self.request("POST", path_of(kind, namespace), wanted)
