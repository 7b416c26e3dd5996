# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one Envoy has: its admin interface, reached through the API server, and how to read it. Private to this collection.

Two ways lead to the admin port: the API server's pod proxy, where the port is bound to the pod's address, and a command in
the pod, where it is bound to 127.0.0.1 as in a stock istio-proxy.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

PROXY, EXEC = "envoy", "exec"
# Seconds for one answer. A dump of thousands of routes takes a few hundred milliseconds.
TIMEOUT = 5.0
LARGEST_ANSWER = 64 * 1024 * 1024
# The port that pilot-agent asks; it takes no other.
_AGENT_PORT = 15000
# Envoy refuses HTTP/1.0, so the answer may come in chunks; it is taken apart on our side.
_BASH = (
    'exec 3<>"/dev/tcp/127.0.0.1/$1" && '
    'printf "GET /%s HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n" "$2" >&3 && exec cat <&3'
)
_REJECTED = re.compile(r"(?:\.rds\.(?P<route>.+)|listener_manager\.(?P<lds>lds)|cluster_manager\.(?P<cds>cds))\.update_rejected$")
REJECTED_FILTER = r"(\.rds\..*|listener_manager\.lds|cluster_manager\.cds)\.update_rejected$"
_LOG_LINES = 500
# What Envoy answers, with status 404, while it has nothing of the kind that is asked for.
_EMPTY = "not found in config dump"


class Unreadable(RolloutError):
    """This proxy's configuration cannot be read by any way that is allowed, and waiting will not change that."""


@dataclass
class Proxy:
    """One pod with an Envoy: where it is, how it is reached, what it showed last."""

    namespace: str
    name: str
    kind: str
    way: str
    shows: bool = False
    seen: str = "not read yet"
    routes_seen: bool = False
    # Names of the RouteConfigurations that hold the routes of interest; empty until one was read whole.
    configs: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """Name under which istiod counts what this proxy rejects."""
        return f"{self.name}.{self.namespace}"


class Admin:
    """Reads Envoy's admin interface. ``ways`` says which ways may be taken, in this order."""

    def __init__(self, kube: _kube.Kube, port: int, container: str, ways: tuple[str, ...]) -> None:
        self._kube = kube
        self._port = port
        self._container = container
        self.ways = ways
        self._commands = [self._curl, self._bash]
        if port == _AGENT_PORT:
            self._commands.insert(0, self._pilot_agent)

    def read(self, proxy: Proxy, path: str, query: dict[str, str]) -> str:
        """Return the answer to GET ``path``, taking the next way when one is refused.

        Raises :class:`Unreadable` when no way is left, another :class:`RolloutError` for what may pass.
        """
        refusals = []
        while True:
            try:
                return self._by_proxy(proxy, path, query) if proxy.way == PROXY else self._by_exec(proxy, path, query)
            except Unreadable as error:
                refusals.append(error.message)
                left = self.ways[self.ways.index(proxy.way) + 1 :]
                if not left:
                    raise Unreadable("; ".join(refusals)) from None
                proxy.way = left[0]

    def _by_proxy(self, proxy: Proxy, path: str, query: dict[str, str]) -> str:
        pod = _kube.path_of("", "v1", "pods", proxy.namespace, proxy.name)
        try:
            return self._kube.get_text(f"{pod}:{self._port}/proxy/{path}", query, timeout=TIMEOUT, tries=1)
        except _kube.KubeError as error:
            if _EMPTY in error.message:
                return "{}"
            if proxy_is_closed(error):
                raise Unreadable(f"port {self._port} by the API's pod proxy: {_why(error)}") from None
            raise

    def _by_exec(self, proxy: Proxy, path: str, query: dict[str, str]) -> str:
        target = f"{path}?{urlencode(query)}"
        while True:
            try:
                return self._commands[0](proxy, target)
            except _pod_exec.ExecError as error:
                if not error.not_found:
                    raise
                if len(self._commands) == 1:
                    raise Unreadable(
                        f"exec: container {self._container} has none of pilot-agent, curl and bash to ask port {self._port} with"
                    ) from None
                # All proxies of one confirmation are taken to be of one image: what is missing is not tried again.
                self._commands.pop(0)
            except _kube.KubeError as error:
                if error.status in (400, 403, 405):
                    raise Unreadable(f"exec: {_why(error)}") from None
                raise

    def _run(self, proxy: Proxy, command: list[str]) -> bytes:
        done = _pod_exec.run(self._kube, proxy.namespace, proxy.name, self._container, command, TIMEOUT, LARGEST_ANSWER)
        if done.code:
            raise _pod_exec.ExecError(f"{command[0]} ended with {done.code}: {one_line(done.stderr, 120) or 'no reason given'}")
        return done.stdout

    def _pilot_agent(self, proxy: Proxy, target: str) -> str:
        return _text(self._run(proxy, ["pilot-agent", "request", "GET", target]))

    def _curl(self, proxy: Proxy, target: str) -> str:
        command = ["curl", "-sS", "--max-time", f"{TIMEOUT:g}", f"http://127.0.0.1:{self._port}/{target}"]
        return _text(self._run(proxy, command))

    def _bash(self, proxy: Proxy, target: str) -> str:
        return _text(body_of(self._run(proxy, ["bash", "-c", _BASH, "envoy", str(self._port), target])))

    def route_configs(self, proxy: Proxy) -> dict[str, Any]:
        """Return the dump of the dynamic route configurations; of those in ``proxy.configs`` alone when they are known.

        An Envoy that does not know ``name_regex`` sends all of them, which is the same, only larger.
        """
        query = {"resource": "dynamic_route_configs"}
        if proxy.configs:
            query["name_regex"] = f"^(?:{'|'.join(re.escape(name) for name in proxy.configs)})$"
        return _object(self.read(proxy, "config_dump", query))

    def rejections(self, proxy: Proxy) -> dict[str, int]:
        """Return how many updates this Envoy has rejected, by kind: ``{"rds http.8080": 1, "lds": 0}``.

        A stock istio-proxy does not count those of routes; then istiod's counters are the ones that tell.
        """
        return rejected_updates(_object(self.read(proxy, "stats", {"filter": REJECTED_FILTER, "format": "json"})))

    def broken_listeners(self, proxy: Proxy) -> list[str]:
        """Return the listeners whose newest update was rejected, with Envoy's reason."""
        query = {"resource": "dynamic_listeners", "mask": "name,error_state.details"}
        return update_failures(_object(self.read(proxy, "config_dump", query)))

    def logged_reason(self, proxy: Proxy, seconds: float) -> str:
        """Return why this Envoy has rejected routes in the last ``seconds``, from its log; empty when it has not or nothing may be read.

        Needs the verb get on pods/log.
        """
        pod = _kube.path_of("", "v1", "pods", proxy.namespace, proxy.name)
        query = {"container": self._container, "tailLines": _LOG_LINES, "sinceSeconds": math.ceil(seconds)}
        try:
            return newest_rejection(self._kube.get_text(f"{pod}/log", query, timeout=TIMEOUT, tries=1))
        except _kube.KubeError:
            return ""


def proxy_is_closed(error: _kube.KubeError) -> bool:
    """Whether the API's pod proxy will not lead to this port: forbidden, or nobody listens on the pod's address.

    A pod that is gone is a different matter: it answers 404 with the API's own reason, and the next listing leaves it out.
    """
    if error.status == 404:
        return error.reason != "NotFound"
    return error.status in (403, 405) or "connection refused" in error.message


def _why(error: _kube.KubeError) -> str:
    if error.status == 403:
        return "forbidden (403)"
    return one_line(error.message.rsplit("dial tcp", 1)[-1] if "dial tcp" in error.message else error.message, 140).strip()


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _object(text: str) -> dict[str, Any]:
    try:
        found = {} if _EMPTY in text[:200] else json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RolloutError(f"the admin interface did not answer with JSON: {one_line(text[:200], 80) or 'nothing'}")
    return found


class _Bytes:
    """A socket's reading half over bytes that are already here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *unused: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


def body_of(raw: bytes) -> bytes:
    """Return the body of one whole HTTP answer. Raises :class:`RolloutError` when it is cut short or its status is not 200."""
    response = http.client.HTTPResponse(_Bytes(raw))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise RolloutError(f"the admin interface's answer is broken: {one_line(error, 80) or type(error).__name__}") from None
    if response.status != 200:
        raise RolloutError(f"the admin interface answered {response.status}: {one_line(_text(body), 80)}")
    return body


def configs_with(dump: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> tuple[str, ...]:
    """Return the names of the route configurations of ``dump`` for which ``holds`` is true of a dump with it alone."""
    names = []
    for config in dump.get("configs") or []:
        name = (config.get("route_config") or {}).get("name")
        if name and holds({"configs": [config]}):
            names.append(str(name))
    return tuple(names)


def rejected_updates(stats: dict[str, Any]) -> dict[str, int]:
    """Return ``{"rds <name>" | "lds" | "cds": count}`` of an answer of ``/stats?format=json``."""
    found: dict[str, int] = {}
    for entry in stats.get("stats") or []:
        match = _REJECTED.search(str(entry.get("name") or ""))
        if match:
            kind = f"rds {match['route']}" if match["route"] else match["lds"] or match["cds"]
            found[kind] = found.get(kind, 0) + int(entry.get("value") or 0)
    return found


def update_failures(dump: dict[str, Any]) -> list[str]:
    """Return ``"<name>: <reason>"`` for every resource of a config dump whose last update was rejected (UpdateFailureState)."""
    found = []
    for config in dump.get("configs") or []:
        state = config.get("error_state")
        if state:
            name = config.get("name") or (config.get("route_config") or {}).get("name") or "(no name)"
            found.append(f"{name}: {one_line(state.get('details') or 'no reason given', 200)}")
    return found


def newest_rejection(log: str) -> str:
    """Return the reason in Envoy's newest log line about rejected routes, or an empty text."""
    for line in reversed(log.splitlines()):
        head, mark, reason = line.partition(" rejected: ")
        if mark and head.endswith("RouteConfiguration"):
            return one_line(reason, 300)
    return ""
