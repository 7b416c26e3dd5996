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
import random
import select
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
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
READ_TRIES = 4
_RACES = 10
_TRANSIENT = (429, 500, 502, 503, 504)
_MAX_RETRY_AFTER = 5.0


class KubeError(RolloutError):
    """The API server refused a call, or could not be reached.

    ``status`` is the HTTP status, or 0 when no answer arrived. ``reason`` and ``causes`` are the server's own.
    ``outcome_unknown`` is true for a write whose answer was lost, or that failed inside the server: it may have been applied.
    ``retry_after`` is what the server asked for, in seconds.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        reason: str = "",
        causes: list[dict[str, str]] | None = None,
        outcome_unknown: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.causes = causes or []
        self.outcome_unknown = outcome_unknown
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.status == 0 or self.status in _TRANSIENT

    @property
    def lost_race(self) -> bool:
        """Whether a precondition did not hold: a stale version answers 409, a failed ``test`` of a JSON Patch a mute 422."""
        return self.status == 409 or (self.status == 422 and not self.causes)

    def pause(self, otherwise: float) -> float:
        """Seconds to wait before the next try: what the server asked for, else ``otherwise``, and never more than the cap."""
        return min(otherwise if self.retry_after is None else self.retry_after, _MAX_RETRY_AFTER)


class Kube:
    """A keep-alive connection to one API server, for one thread. :meth:`clone` gives another thread its own."""

    def __init__(self, configuration: Any, tls: ssl.SSLContext | None = None) -> None:
        self._configuration = configuration
        self._tls = tls
        self._connection: http.client.HTTPConnection | None = None
        self._from_cache = False

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._configuration.host)

    def clone(self) -> Kube:
        return Kube(self._configuration, self._tls)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, params: dict[str, Any] | None = None, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
        """Return the object at ``path``; transient failures are tried again within ``timeout`` seconds."""
        return self._read(path, params, timeout)

    def get_text(
        self, path: str, params: dict[str, Any] | None = None, timeout: float = CALL_TIMEOUT, tries: int = READ_TRIES
    ) -> str:
        """Return what ``path`` answers as text, for logs and proxied pages. Transient failures are tried ``tries`` times in all."""
        return self._read(path, params, timeout, text=True, tries=tries)

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

    @contextmanager
    def lists_from_cache(self) -> Iterator[None]:
        """Within it, lists are answered at once, as the API server's cache has them.

        A list is a consistent read otherwise. Since Kubernetes 1.31 that waits, right after any write to the cluster, until the
        cache of that resource has caught up: 50 to 100 ms, which a moment's lag is not worth where the world may change meanwhile
        anyway. The cache may lag, so that nothing may be refused by it alone.
        """
        self._from_cache = True
        try:
            yield
        finally:
            self._from_cache = False

    def _pages(self, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        params.setdefault("limit", PAGE_SIZE)
        if self._from_cache:
            params["resourceVersion"] = "0"
        while True:
            page = self.get(path, params)
            yield from page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            params["continue"] = token
            # The token carries the version; stating one beside it is an error.
            params.pop("resourceVersion", None)

    def patch(
        self, path: str, body: Any, content_type: str = JSON_PATCH, manager: str = FIELD_MANAGER, dry_run: bool = False
    ) -> dict[str, Any]:
        """Send a JSON Patch (list of operations), or a merge patch with ``content_type=MERGE_PATCH``. ``dry_run``: judged, and not stored."""
        return self._write("PATCH", path, body, content_type, manager, dry_run)

    def post(self, path: str, body: Any, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        return self._write("POST", path, body, "application/json", manager)

    def put(self, path: str, body: Any, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        return self._write("PUT", path, body, "application/json", manager)

    def delete(
        self, path: str, uid: str | None = None, resource_version: str | None = None, propagation: str | None = None
    ) -> dict[str, Any]:
        """Delete with preconditions: only the very object that was read. ``propagation`` says what becomes of what it owns."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in wanted.items() if value}
        body = {"preconditions": preconditions, **({"propagationPolicy": propagation} if propagation else {})}
        return self._write("DELETE", path, body, "application/json", "")

    def _read(self, path: str, params: dict[str, Any] | None, timeout: float, text: bool = False, tries: int = READ_TRIES) -> Any:
        target = f"{path}?{urlencode(params)}" if params else path
        deadline = time.monotonic() + timeout
        for attempt in range(1, tries + 1):
            try:
                return self._call("GET", target, None, "", deadline, text)
            except KubeError as error:
                pause = error.pause(0.1 * 2**attempt)
                if not error.transient or attempt == tries or time.monotonic() + pause >= deadline:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _write(self, method: str, path: str, body: Any, content_type: str, manager: str, dry_run: bool = False) -> dict[str, Any]:
        query = {"fieldManager": manager, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        target = f"{path}?{urlencode(query)}" if manager else path
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
            dropped = isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError))
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
        if self._connection is not None and _closed_by_server(self._connection):
            self.close()
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
                proxy.hostname, proxy.port or 3128, timeout=timeout, context=self._tls_context()
            )
            connection.set_tunnel(host, port)
            return connection
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls_context())

    def _tls_context(self) -> ssl.SSLContext:
        # Kept: the files of certificates and keys may be gone when a connection is lost and opened again.
        if self._tls is None:
            self._tls = _tls(self._configuration)
        return self._tls

    def websocket(self, target: str, subprotocols: list[str], timeout: float) -> Any:
        """Open a WebSocket to ``target`` with this connection's server, TLS, proxy and credentials.

        Returns the connection of the library websocket-client. Raises :class:`KubeError`, with the status of a refused handshake.
        """
        # Only exec needs it, and it costs 40 ms.
        try:
            import websocket
        except ImportError:
            websocket = None
        require("websocket-client", websocket)
        url = urlsplit(self.server)
        secure = url.scheme == "https"
        proxy = urlsplit(self._configuration.proxy or "")
        try:
            return websocket.create_connection(
                f"{'wss' if secure else 'ws'}://{url.netloc}{target}",
                timeout=timeout,
                header=[f"{name}: {value}" for name, value in self._headers().items()],
                subprotocols=subprotocols,
                sslopt={"context": self._tls_context()} if secure else {},
                http_proxy_host=proxy.hostname,
                http_proxy_port=proxy.port or 3128,
                proxy_type="http" if proxy.hostname else None,
                # The environment names no proxy for the other calls either.
                http_no_proxy=None if proxy.hostname else ["*"],
                redirect_limit=0,
                suppress_origin=True,
            )
        except websocket.WebSocketBadStatusException as error:
            raise _bad_status("GET", target, error.status_code, error.status_message or "", error.resp_body or b"") from None
        except (OSError, websocket.WebSocketException) as error:
            raise self._unreachable("GET", target, error) from None

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
            # A connection that was refused carried nothing; any other failure may have come after the request.
            outcome_unknown=method != "GET" and not isinstance(error, ConnectionRefusedError),
        )


def until_undisturbed(work: Callable[[], dict[str, Any]], sleep: Callable[[float], Any]) -> dict[str, Any]:
    """Return what ``work``, which reads, decides and writes, gives; it is done anew each time that somebody else has written in between."""
    for attempt in range(1, _RACES):
        try:
            return work()
        except KubeError as error:
            if not error.lost_race:
                raise
            sleep(random.uniform(0.01, 0.05) * attempt)
    return work()


def _closed_by_server(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection cannot be used again: the server speaks on it only to end it.

    Nothing has been sent yet then, so that a write may go over a new connection, which it may not once it was sent in vain.
    """
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _refused(method: str, target: str, response: http.client.HTTPResponse, data: bytes) -> KubeError:
    return _bad_status(method, target, response.status, response.reason, data, response.headers.get("Retry-After", ""))


def _bad_status(method: str, target: str, code: int, phrase: str, data: bytes, retry_after: str = "") -> KubeError:
    try:
        status = json.loads(data)
        if not isinstance(status, dict):
            status = {}
    except ValueError:
        status = {}
    message = status.get("message") or data.decode(errors="backslashreplace") or phrase
    details = status.get("details") or {}
    return KubeError(
        f"The Kubernetes API answered {code} to {method} {target.split('?')[0]}: {one_line(message)}",
        status=code,
        reason=str(status.get("reason") or ""),
        causes=list(details.get("causes") or []),
        outcome_unknown=method != "GET" and code >= 500,
        retry_after=_retry_after(retry_after),
    )


def _retry_after(text: str) -> float | None:
    """Return the header's seconds; a date, which RFC 9110 allows too, is turned into seconds from now."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


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
