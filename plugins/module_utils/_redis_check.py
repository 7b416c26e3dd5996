# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module redis_check: one server, a primary watched by sentinels, or a cluster. Private to this collection.

Every node is asked itself, over plain connections: the library's cluster client hides a node that is down.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _http, _redis_rules
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import redis
except ImportError:
    redis = None  # type: ignore[assignment]

LIMITS_SPEC: dict[str, dict[str, Any]] = {
    "version_at_least": {"type": "str"},
    "maxmemory_policies": {"type": "list", "elements": "str"},
    "memory_below_percent": {"type": "float"},
    "fragmentation_at_most": {"type": "float"},
    "persistence": {"type": "list", "elements": "str", "choices": ["rdb", "aof"]},
    "ping_p99_below_ms": {"type": "float"},
    "hit_rate_above_percent": {"type": "float"},
    "lookups_at_least": {"type": "int"},
    "evictions_at_most": {"type": "int"},
    "blocked_clients_at_most": {"type": "int"},
    "replicas_at_least": {"type": "int"},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "no_log": True},
    "hosts": {"type": "list", "elements": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "tls": {"type": "bool", "default": False},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "topology": {"type": "str", "choices": list(_redis_rules.TOPOLOGIES)},
    "sentinel_primary": {"type": "str"},
    "sentinel_password": {"type": "str", "no_log": True},
    "pings": {"type": "int", "default": 20},
    "window": {"type": "float", "default": 1.0},
    "timeout": {"type": "float", "default": 5.0},
    "limits": {"type": "dict", "options": LIMITS_SPEC},
    "box": {"type": "str", "default": "infrastructure.redis"},
}
SPEC_RULES: dict[str, Any] = {"mutually_exclusive": [["url", "hosts"]], "required_one_of": [["url", "hosts"]]}
SUPPORTS_CHECK_MODE = True

_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\s\[\]/@]+)(?::(?P<port>\d{1,5}))?")
_PORT = 6379
_AT_ONCE = 16
_PERCENTS = ("memory_below_percent", "hit_rate_above_percent")


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Ask every node and judge what it says. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys when something is wrong, or could not be judged.
    """
    require("redis", redis)
    starts = _starts(params)
    return _Reader(params, context, starts).run()


def _starts(params: dict[str, Any]) -> list[tuple[str, int]]:
    """The servers that the options name. Raises :class:`RolloutError` with every mistake."""
    problems: list[str] = []
    starts: list[tuple[str, int]] = []
    if params["url"] is not None:
        trouble = _http.url_problem(params["url"], ("redis", "rediss"))
        if trouble:
            problems.append(f"url: {trouble}")
        else:
            parts = urlsplit(params["url"])
            starts.append((str(parts.hostname), parts.port or _PORT))
    for entry in params["hosts"] or []:
        found = _HOST.fullmatch(entry)
        if not found or not 0 < int(found["port"] or _PORT) < 65536:
            problems.append(f"hosts holds '{one_line(entry, 60)}', expected HOST or HOST:PORT")
        else:
            starts.append((found["host"].strip("[]"), int(found["port"] or _PORT)))
    if params["hosts"] == []:
        problems.append("hosts is empty, expected at least one server")
    if params["topology"] == _redis_rules.SENTINEL and not params["sentinel_primary"]:
        problems.append("topology is sentinel without sentinel_primary, expected the name of the primary that the sentinels watch")
    tls = _http.Tls(params["validate_certs"], params["ca_cert"] or "", params["client_cert"] or "", params["client_key"] or "")
    problems += tls.problems(lambda name: name)
    problems += [f"{name} is {params[name]}, expected a number above 0" for name in ("pings", "timeout") if not params[name] > 0]
    if params["window"] < 0:
        problems.append(f"window is {params['window']} s, expected 0 or more")
    limits = params["limits"] or {}
    for name, value in limits.items():
        if isinstance(value, (int, float)) and value < 0:
            problems.append(f"limits.{name} is {value:g}, expected 0 or more")
        elif name in _PERCENTS and value is not None and value > 100:
            problems.append(f"limits.{name} is {value:g}, expected at most 100 %")
    lowest = limits.get("version_at_least")
    if lowest and not _redis_rules.version_of(lowest):
        problems.append(f"limits.version_at_least is '{one_line(lowest, 30)}', expected a version such as 7.2")
    if problems:
        raise RolloutError(f"redis_check: {'; '.join(problems)}. Nothing was asked. Next: correct the options.")
    return starts


class _Reader:
    """One look at all servers."""

    def __init__(self, params: dict[str, Any], context: Context, starts: list[tuple[str, int]]) -> None:
        self.params = params
        self.context = context
        self.starts = starts
        self.secrets = _http.Secrets(filter(None, (params["url"], params["password"], params["sentinel_password"])))
        self.username, self.password, self.tls = params["username"], params["password"], params["tls"]
        if params["url"]:
            parts = urlsplit(params["url"])
            self.tls = self.tls or parts.scheme == "rediss"
            self.username = self.username or (unquote(parts.username) if parts.username else None)
            self.password = self.password or (unquote(parts.password) if parts.password else None)
            self.secrets.add(self.password or "", parts.password or "")

    def run(self) -> dict[str, Any]:
        limits = self.params["limits"] or {}
        try:
            servers = self._servers(limits)
        except _Unreachable as error:
            servers = _redis_rules.Servers(self.params["topology"] or "unknown", (), (str(error),))
        verdict = _redis_rules.judge(servers, limits)
        line = one_line(self.secrets.mask(_redis_rules.evidence(servers, verdict)))
        result = {
            "changed": False,
            "verdict": verdict.state,
            "topology": servers.topology,
            "nodes": [_shown(node) for node in servers.nodes],
            "problems": verdict.problems,
            "unknown": verdict.unknown,
            # What could not be judged proves nothing, and refutes nothing.
            "proofs": {}
            if verdict.state == _redis_rules.UNKNOWN
            else {self.params["box"]: {"state": "proven" if verdict.state == _redis_rules.PASS else "failed", "evidence": line}},
        }
        if verdict.state != _redis_rules.PASS:
            found = [*verdict.problems, *verdict.unknown]
            raise RolloutError(
                f"redis_check: {one_line('; '.join(found), 1000)}. Next: repair what is named, or correct the limit that does not fit.", **result
            )
        return result

    # ------------------------------------------------------------------------------------------------------- reading

    def _servers(self, limits: dict[str, Any]) -> _redis_rules.Servers:
        topology, info = self._topology()
        replicas = limits.get("replicas_at_least")
        if topology == _redis_rules.CLUSTER:
            state, found = self._first(lambda client: (_cluster_state(client), _redis_rules.members(_text(client.execute_command("CLUSTER NODES")))))
            troubles = _redis_rules.cluster_troubles(state, found, replicas)
            addresses = [_split(member.address) for member in found if member.usable and member.address]
            return _redis_rules.Servers(topology, self._nodes(addresses), tuple(troubles))
        if topology == _redis_rules.SENTINEL:
            addresses, troubles = self._watched(replicas)
            return _redis_rules.Servers(topology, self._nodes(addresses), tuple(troubles))
        nodes = self._nodes(self.starts)
        troubles = [trouble for node in nodes if not node.error for trouble in _redis_rules.replication_troubles(node, replicas)]
        return _redis_rules.Servers(topology, nodes, tuple(troubles))

    def _topology(self) -> tuple[str, dict[str, Any]]:
        wanted = self.params["topology"]
        if wanted is None and self.params["sentinel_primary"]:
            wanted = _redis_rules.SENTINEL
        if wanted == _redis_rules.SENTINEL:
            return wanted, {}
        info = self._first(lambda client: client.info("server"))
        seen = str(info.get("redis_mode") or _redis_rules.STANDALONE)
        if wanted is not None and seen != wanted:
            raise _Unreachable(f"the servers run as {seen}, expected {wanted}")
        if seen == _redis_rules.SENTINEL:
            raise _Unreachable("the server is a sentinel, expected sentinel_primary with the name of the primary that it watches")
        return seen, info

    def _watched(self, replicas: int | None) -> tuple[list[tuple[str, int]], list[str]]:
        """The primary that the sentinels name, with its replicas, and what is wrong with them."""
        name = self.params["sentinel_primary"]

        def ask(client: Any) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
            primary = _pairs(client.execute_command("SENTINEL MASTER", name))
            followers = [_pairs(entry) for entry in client.execute_command("SENTINEL SLAVES", name)]
            try:
                client.execute_command("SENTINEL CKQUORUM", name)
                quorum = ""
            except redis.ResponseError as error:
                quorum = one_line(error, 160)
            return primary, followers, quorum

        primary, followers, quorum = self._first(ask, sentinel=True)
        troubles = _redis_rules.sentinel_troubles(name, primary, followers, quorum, replicas)
        addresses = [(str(entry["ip"]), int(entry["port"])) for entry in (primary, *followers)]
        return addresses, troubles

    def _first(self, ask: Callable[[Any], Any], sentinel: bool = False) -> Any:
        """The answer of the first server that gives one; any member knows the whole."""
        reasons = []
        for host, port in self.starts:
            try:
                with self._client(host, port, sentinel) as client:
                    return ask(client)
            except (redis.RedisError, OSError, ValueError) as error:
                reasons.append(f"{host}:{port}: {self._words(error)}")
        raise _Unreachable("; ".join(reasons))

    def _nodes(self, addresses: list[tuple[str, int]]) -> tuple[_redis_rules.Node, ...]:
        with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(addresses)))) as pool:
            return tuple(pool.map(lambda address: self._node(*address), addresses))

    def _node(self, host: str, port: int) -> _redis_rules.Node:
        title = f"{host}:{port}"
        try:
            with self._client(host, port) as client:
                info = client.info()
                began = time.monotonic()
                pings = []
                for _attempt in range(self.params["pings"]):
                    sent = time.perf_counter()
                    client.ping()
                    pings.append((time.perf_counter() - sent) * 1000)
                if self.context.sleep(max(0.0, self.params["window"] - (time.monotonic() - began))):
                    return _redis_rules.Node(title, info, {}, (), "interrupted")
                return _redis_rules.Node(title, info, client.info("stats"), tuple(pings))
        except (redis.RedisError, OSError, ValueError) as error:
            return _redis_rules.Node(title, error=self._words(error))

    def _client(self, host: str, port: int, sentinel: bool = False) -> Any:
        seconds = self.params["timeout"]
        options: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": None, "decode_responses": True}
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_cert_reqs": "required" if self.params["validate_certs"] else "none",
                "ssl_check_hostname": self.params["validate_certs"],
                "ssl_ca_certs": self.params["ca_cert"],
                "ssl_certfile": self.params["client_cert"],
                "ssl_keyfile": self.params["client_key"] or self.params["client_cert"],
            }
        password = self.params["sentinel_password"] if sentinel else self.password
        return redis.Redis(host=host, port=port, username=None if sentinel else self.username, password=password, **options)

    def _words(self, error: BaseException) -> str:
        return one_line(self.secrets.mask(str(error) or type(error).__name__), 160)


class _Unreachable(Exception):
    """There is nothing to judge: no server answers, or it is of another kind."""


def _cluster_state(client: Any) -> str:
    found = re.search(r"cluster_state:(\w+)", _text(client.execute_command("CLUSTER INFO")))
    return found.group(1) if found else ""


def _text(answer: Any) -> str:
    """The answer as the server wrote it; some versions of the library have it parsed already."""
    if isinstance(answer, bytes):
        return answer.decode(errors="backslashreplace")
    if isinstance(answer, dict):
        return "\n".join(f"{key}:{value}" for key, value in answer.items()) if "cluster_state" in answer else _lines(answer)
    return str(answer)


def _lines(parsed: dict[str, dict[str, Any]]) -> str:
    """CLUSTER NODES as text again, from what the library made of it."""
    return "\n".join(
        " ".join(
            [
                entry["node_id"], address, entry["flags"], entry["master_id"], "0", "0", "0",
                "connected" if entry["connected"] else "disconnected",
                *("-".join(slots) for slots in entry["slots"]),
            ]
        )
        for address, entry in parsed.items()
    )


def _split(address: str) -> tuple[str, int]:
    host, _colon, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _pairs(answer: Any) -> dict[str, Any]:
    """A flat list of names and values as a dictionary."""
    if isinstance(answer, dict):
        return answer
    items = [_text(item) for item in answer]
    return dict(zip(items[::2], items[1::2]))


def _shown(node: _redis_rules.Node) -> dict[str, Any]:
    info = node.info
    used = _redis_rules.used_percent(info)
    found, lookups = _redis_rules.hits([node])
    return {
        "address": node.address,
        "role": node.role if info else "unknown",
        "error": node.error,
        "version": info.get("redis_version"),
        "maxmemory": int(_redis_rules.number(info, "maxmemory")),
        "maxmemory_policy": info.get("maxmemory_policy"),
        "used_percent": None if used is None else round(used, 2),
        "aof": _redis_rules.persists(info, "aof"),
        "rdb": _redis_rules.persists(info, "rdb"),
        "blocked_clients": int(_redis_rules.number(info, "blocked_clients")),
        "connected_clients": int(_redis_rules.number(info, "connected_clients")),
        "evicted": node.grown("evicted_keys"),
        "hits": found,
        "lookups": lookups,
        "ping_p50_ms": _rounded(_redis_rules.percentile(node.pings, 50)),
        "ping_p99_ms": _rounded(_redis_rules.percentile(node.pings, 99)),
        "totals": _totals(info),
    }


def _totals(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a server has counted since it started, and what it holds."""
    spaces = [space for name, space in info.items() if re.fullmatch(r"db\d+", str(name)) and isinstance(space, Mapping)]
    expiring = sum(int(_redis_rules.number(space, "expires")) for space in spaces)
    lives = sum(_redis_rules.number(space, "avg_ttl") * _redis_rules.number(space, "expires") for space in spaces)
    return {
        "uptime_seconds": int(_redis_rules.number(info, "uptime_in_seconds")),
        "evicted": int(_redis_rules.number(info, "evicted_keys")),
        "expired": int(_redis_rules.number(info, "expired_keys")),
        "keys": sum(int(_redis_rules.number(space, "keys")) for space in spaces),
        "expiring_keys": expiring,
        "avg_ttl_ms": round(lives / expiring) if expiring else None,
        "used_memory": int(_redis_rules.number(info, "used_memory")),
        "fragmentation": _rounded(_redis_rules.number(info, "mem_fragmentation_ratio")),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
