# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kubernetes over one plain TLS connection. Private to this collection.

The ``kubernetes`` library resolves kubeconfig, contexts, exec plugins and service accounts. Its generated client costs
about 60 ms per task for configuration and connection pools; the handful of calls a release makes on its critical path
go through ``http.client`` instead (about 2 ms for a read, 5 ms for a write).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.basic import env_fallback
from ansible_collections.signal.rollout.plugins.module_utils._errors import (
    RolloutError,
    one_line,
    require,
)

try:
    import kubernetes
    import kubernetes.client
    import kubernetes.config
except ImportError:
    kubernetes = None

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "kubeconfig": {"type": "path", "fallback": (env_fallback, ["K8S_AUTH_KUBECONFIG"])},
    "context": {"type": "str", "fallback": (env_fallback, ["K8S_AUTH_CONTEXT"])},
    "host": {"type": "str", "fallback": (env_fallback, ["K8S_AUTH_HOST"])},
    "api_key": {"type": "str", "no_log": True, "fallback": (env_fallback, ["K8S_AUTH_API_KEY"])},
    "validate_certs": {"type": "bool", "fallback": (env_fallback, ["K8S_AUTH_VERIFY_SSL"])},
    "ca_cert": {"type": "path", "fallback": (env_fallback, ["K8S_AUTH_SSL_CA_CERT"])},
    "namespace": {"type": "str", "default": "default"},
}
CONNECTION_OPTIONS = tuple(name for name in ARGUMENT_SPEC if name != "namespace")

FIELD_MANAGER = "signal.rollout"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
PAGE_SIZE = 500
CALL_TIMEOUT = 10.0
_READ_TRIES = 4
_TRANSIENT = (429, 500, 502, 503, 504)
_MAX_RETRY_AFTER = 5.0


class KubeError(RolloutError):
    """The API server refused a call, or could not be reached.

    ``status`` is the HTTP status, or 0 when no answer arrived. ``reason`` and ``causes`` are the server's own.
    ``outcome_unknown`` is true for a write whose answer was lost: it may have been applied.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        reason: str = "",
        causes: list[dict[str, str]] | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.causes = causes or []
        self.outcome_unknown = outcome_unknown


class Kube:
    """A keep-alive connection to one API server, for one thread. :meth:`clone` gives another thread its own."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._connection: http.client.HTTPConnection | None = None

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._configuration.host)

    def clone(self) -> Kube:
        return Kube(self._configuration)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, params: dict[str, Any] | None = None, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
        """Return the object at ``path``; transient failures are tried again within ``timeout`` seconds."""
        return self._read(path, params, timeout)

    def get_text(self, path: str, params: dict[str, Any] | None = None, timeout: float = CALL_TIMEOUT) -> str:
        """Return what ``path`` answers as text, for logs and proxied pages."""
        return self._read(path, params, timeout, text=True)

    def find(self, path: str) -> dict[str, Any] | None:
        """Return the object at ``path``, or None when it does not exist."""
        try:
            return self.get(path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return all items of a collection, page by page."""
        return list(self._pages(path, dict(params or {})))

    def _pages(self, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        params.setdefault("limit", PAGE_SIZE)
        while True:
            page = self.get(path, params)
            yield from page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            params["continue"] = token

    def patch(self, path: str, body: Any, content_type: str = JSON_PATCH, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        """Send a JSON Patch (list of operations), or a merge patch with ``content_type=MERGE_PATCH``."""
        return self._write("PATCH", path, body, content_type, manager)

    def post(self, path: str, body: Any, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        return self._write("POST", path, body, "application/json", manager)

    def put(self, path: str, body: Any, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        return self._write("PUT", path, body, "application/json", manager)

    def delete(self, path: str, uid: str | None = None, resource_version: str | None = None) -> dict[str, Any]:
        """Delete with preconditions: only the very object that was read."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in wanted.items() if value}
        return self._write("DELETE", path, {"preconditions": preconditions}, "application/json", "")

    def _read(self, path: str, params: dict[str, Any] | None, timeout: float, text: bool = False) -> Any:
        target = f"{path}?{urlencode(params)}" if params else path
        deadline = time.monotonic() + timeout
        for attempt in range(1, _READ_TRIES + 1):
            try:
                return self._call("GET", target, None, "", deadline, text)
            except KubeError as error:
                transient = error.status == 0 or error.status in _TRANSIENT
                pause = min(getattr(error, "retry_after", 0.1 * 2**attempt), _MAX_RETRY_AFTER)
                if not transient or attempt == _READ_TRIES or time.monotonic() + pause >= deadline:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _write(self, method: str, path: str, body: Any, content_type: str, manager: str) -> dict[str, Any]:
        target = f"{path}?{urlencode({'fieldManager': manager, 'fieldValidation': 'Strict'})}" if manager else path
        return self._call(method, target, body, content_type, time.monotonic() + CALL_TIMEOUT, False)

    def _call(self, method: str, target: str, body: Any, content_type: str, deadline: float, text: bool) -> Any:
        headers = self._headers()
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        fresh = self._connection is None
        try:
            response, data = self._exchange(method, target, payload, headers, deadline)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept connection that the server closed meanwhile shows before anything was processed.
            dropped = isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
            if dropped and not fresh and method == "GET":
                return self._call(method, target, body, content_type, deadline, text)
            raise self._unreachable(method, target, error) from None
        if 200 <= response.status < 300:
            return data.decode(errors="backslashreplace") if text else json.loads(data or b"{}")
        raise _refused(method, target, response, data)

    def _exchange(
        self, method: str, target: str, payload: bytes | None, headers: dict[str, str], deadline: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        timeout = max(0.1, deadline - time.monotonic())
        if self._connection is None:
            self._connection = self._connect(timeout)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        self._connection.request(method, target, body=payload, headers=headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.will_close:
            self.close()
        return response, data

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        url = urlsplit(self.server)
        port = url.port or (443 if url.scheme == "https" else 80)
        host = url.hostname or ""
        if url.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        proxy = urlsplit(self._configuration.proxy or "")
        if proxy.hostname:
            connection = http.client.HTTPSConnection(
                proxy.hostname, proxy.port or 3128, timeout=timeout, context=_tls(self._configuration)
            )
            connection.set_tunnel(host, port)
            return connection
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=_tls(self._configuration))

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        # Asks the library each time, so that a token file or an exec plugin can hand out a renewed token.
        bearer = self._configuration.get_api_key_with_prefix("authorization") or self._configuration.get_api_key_with_prefix(
            "BearerToken"
        )
        if bearer:
            headers["Authorization"] = bearer
        elif self._configuration.username:
            pair = f"{self._configuration.username}:{self._configuration.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        return headers

    def _unreachable(self, method: str, target: str, error: Exception) -> KubeError:
        return KubeError(
            f"No answer from the Kubernetes API at {self.server} to {method} {target.split('?')[0]}: "
            f"{one_line(error) or type(error).__name__}. Next: check that the address is right and the server is up.",
            outcome_unknown=method != "GET",
        )


def _refused(method: str, target: str, response: http.client.HTTPResponse, data: bytes) -> KubeError:
    try:
        status = json.loads(data)
        if not isinstance(status, dict):
            status = {}
    except ValueError:
        status = {}
    message = status.get("message") or data.decode(errors="backslashreplace") or response.reason
    details = status.get("details") or {}
    error = KubeError(
        f"The Kubernetes API answered {response.status} to {method} {target.split('?')[0]}: {one_line(message)}",
        status=response.status,
        reason=str(status.get("reason") or ""),
        causes=list(details.get("causes") or []),
    )
    retry_after = response.headers.get("Retry-After", "")
    if retry_after.isdigit():
        error.retry_after = float(retry_after)  # type: ignore[attr-defined]
    return error


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if configuration.verify_ssl:
        if configuration.ssl_ca_cert:
            context.load_verify_locations(configuration.ssl_ca_cert)
        else:
            context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    return context


def connect(params: dict[str, Any]) -> Kube:
    """Return a connection for the connection options in ``params`` (nothing is sent yet).

    Raises :class:`KubeError` when the credentials cannot be resolved: file missing, unknown context, exec plugin failing.
    """
    require("kubernetes", kubernetes)
    configuration = kubernetes.client.Configuration()
    kubeconfig, context = params.get("kubeconfig"), params.get("context")
    if params.get("host"):
        configuration.host = params["host"]
    elif kubeconfig or os.environ.get("KUBECONFIG") or os.path.exists(os.path.expanduser("~/.kube/config")):
        _load_kubeconfig(configuration, kubeconfig, context)
    else:
        try:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except kubernetes.config.ConfigException:
            raise KubeError(
                "No Kubernetes credentials: no kubeconfig was given, none is at the default place, and this is not a pod. "
                "Next: set the option kubeconfig (variable rollout_kubeconfig)."
            ) from None
    if params.get("api_key"):
        configuration.api_key = {"authorization": f"Bearer {params['api_key']}"}
        configuration.api_key_prefix = {}
    if params.get("ca_cert"):
        configuration.ssl_ca_cert = params["ca_cert"]
    if params.get("validate_certs") is not None:
        configuration.verify_ssl = params["validate_certs"]
    return Kube(configuration)


def _load_kubeconfig(configuration: Any, kubeconfig: str | None, context: str | None) -> None:
    named = kubeconfig or "the default kubeconfig"
    try:
        kubernetes.config.load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except (kubernetes.config.ConfigException, OSError, ValueError) as error:
        raise KubeError(
            f"Cannot read credentials from {named}: {one_line(error)}. "
            "Next: check the options kubeconfig and context (variables rollout_kubeconfig, rollout_context)."
        ) from None


def path_of(group: str, version: str, plural: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the URL path of an object or collection; ``group`` is empty for the core group.

    The few kinds a release touches have fixed paths, so no discovery call is ever made.
    """
    base = f"/apis/{group}/{version}" if group else f"/api/{version}"
    if namespace:
        base += f"/namespaces/{quote(namespace, safe='')}"
    base += f"/{plural}"
    return f"{base}/{quote(name, safe='')}" if name else base
