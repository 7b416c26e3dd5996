# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a Redis is ready for a release: decisions over what its nodes say of themselves. Pure, private to this collection."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STANDALONE, SENTINEL, CLUSTER = "standalone", "sentinel", "cluster"
TOPOLOGIES = (STANDALONE, SENTINEL, CLUSTER)
PRIMARY, REPLICA = "primary", "replica"
PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
_SLOTS = 16384
_PERSISTENCE = {
    "rdb_last_bgsave_status": "last RDB save",
    "aof_last_bgrewrite_status": "last AOF rewrite",
    "aof_last_write_status": "last AOF write",
}


@dataclass(frozen=True)
class Node:
    """One server that holds data: its answers to INFO, at the start and at the end of the window, and how long each PING took, in ms."""

    address: str
    info: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    pings: tuple[float, ...] = ()
    error: str = ""

    @property
    def role(self) -> str:
        return REPLICA if str(self.info.get("role")) in ("slave", "replica") else PRIMARY

    def grown(self, counter: str) -> int:
        """By how much a counter grew in the window; a server that restarted in it begins at 0."""
        first, last = number(self.info, counter), number(self.later, counter)
        return int(last - first if last >= first else last)


@dataclass(frozen=True)
class Servers:
    """What was read. ``troubles`` are those of the topology itself, already in words."""

    topology: str
    nodes: tuple[Node, ...]
    troubles: tuple[str, ...] = ()


@dataclass
class Verdict:
    """``problems``: measured, and bad. ``unknown``: demanded, and could not be judged."""

    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return FAIL if self.problems else UNKNOWN if self.unknown else PASS


def number(info: Mapping[str, Any], name: str) -> float:
    try:
        return float(info.get(name) or 0)
    except (TypeError, ValueError):
        return 0.0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile, ``share`` in percent. None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def version_of(text: str) -> tuple[int, ...]:
    """``7.2.4`` as numbers that compare. Empty for a text that is none."""
    found = re.match(r"\d+(?:\.\d+)*", str(text or "").strip())
    return tuple(int(part) for part in found.group().split(".")) if found else ()


# ------------------------------------------------------------------------------------------------------- the topology


@dataclass(frozen=True)
class Member:
    """One line of CLUSTER NODES."""

    node_id: str
    address: str
    flags: tuple[str, ...]
    primary_id: str
    linked: bool
    slots: int

    @property
    def usable(self) -> bool:
        return not {"fail", "fail?", "noaddr", "handshake"} & set(self.flags)


def members(text: str) -> list[Member]:
    """Read the answer to CLUSTER NODES. Lines that are not understood are left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 8:
            continue
        flags = tuple(words[2].split(","))
        address = words[1].partition("@")[0].partition(",")[0]
        ranges = [word for word in words[8:] if not word.startswith("[")]
        found.append(Member(words[0], address, flags, "" if words[3] == "-" else words[3], words[7] == "connected", sum(map(_width, ranges))))
    return found


def _width(slots: str) -> int:
    first, _dash, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def cluster_troubles(state: str, found: Sequence[Member], replicas_at_least: int | None) -> list[str]:
    """What is wrong with a cluster: slots without a server, members that fail, primaries with too few replicas."""
    troubles = []
    if state != "ok":
        troubles.append(f"cluster_state is {state or 'not told'}, expected ok")
    covered = sum(member.slots for member in found if member.usable)
    if covered != _SLOTS:
        troubles.append(f"{covered} of {_SLOTS} slots are served, expected all")
    troubles += [
        f"{member.address or member.node_id[:8]} is {'disconnected' if member.usable else '/'.join(member.flags)}, expected a connected member"
        for member in found
        if not member.usable or not (member.linked or "myself" in member.flags)
    ]
    for member in found:
        if "master" in member.flags and member.slots and member.usable and replicas_at_least:
            replicas = sum(1 for other in found if other.primary_id == member.node_id and other.usable and other.linked)
            if replicas < replicas_at_least:
                troubles.append(f"{member.address} has {replicas} linked replicas, expected {replicas_at_least} or more")
    return troubles


def sentinel_troubles(name: str, primary: Mapping[str, Any], replicas: Iterable[Mapping[str, Any]], quorum: str, replicas_at_least: int | None) -> list[str]:
    """What is wrong with a primary that sentinels watch; ``quorum`` is what CKQUORUM complains of, empty when it is content."""
    troubles = [f"sentinel: {quorum}"] if quorum else []
    flags = set(str(primary.get("flags") or "").split(","))
    if flags & {"s_down", "o_down", "disconnected"}:
        troubles.append(f"primary {name} is {'/'.join(sorted(flags))}, expected one that answers")
    linked = 0
    for replica in replicas:
        state, address = str(replica.get("master-link-status")), f"{replica.get('ip')}:{replica.get('port')}"
        if state == "ok" and not {"s_down", "o_down", "disconnected"} & set(str(replica.get("flags") or "").split(",")):
            linked += 1
        else:
            troubles.append(f"replica {address} of {name} has link {state}, expected ok")
    if replicas_at_least and linked < replicas_at_least:
        troubles.append(f"primary {name} has {linked} linked replicas, expected {replicas_at_least} or more")
    return troubles


def replication_troubles(node: Node, replicas_at_least: int | None) -> list[str]:
    """What is wrong with the replicas of a standalone server, or with its own link to a primary."""
    if node.role == REPLICA:
        return [f"{node.address} is a replica, expected the primary that takes writes"]
    linked = 0
    troubles = []
    for key, value in node.info.items():
        if re.fullmatch(r"slave\d+", key) and isinstance(value, Mapping):
            if value.get("state") == "online":
                linked += 1
            else:
                troubles.append(f"replica {value.get('ip')}:{value.get('port')} is {value.get('state')}, expected online")
    if replicas_at_least and linked < replicas_at_least:
        troubles.append(f"{node.address} has {linked} linked replicas, expected {replicas_at_least} or more")
    return troubles


# --------------------------------------------------------------------------------------------------------- the limits


def judge(servers: Servers, limits: Mapping[str, Any]) -> Verdict:
    """Decide by ``limits``, which are the module's option of this name; one that is not set judges nothing."""
    verdict = Verdict(problems=list(servers.troubles))
    for node in servers.nodes:
        if node.error:
            verdict.problems.append(f"{node.address}: {node.error}")
            continue
        verdict.problems += _state(node)
        verdict.problems += _against(node, limits)
    _hit_rate([node for node in servers.nodes if not node.error], limits, verdict)
    return verdict


def _state(node: Node) -> list[str]:
    """What is never right, whatever the limits are."""
    info, problems = node.info, []
    if number(info, "loading"):
        problems.append(f"{node.address} is still loading its data, expected one that serves")
    if node.role == REPLICA and info.get("master_link_status") not in (None, "up"):
        problems.append(f"{node.address} has lost its primary (link {info['master_link_status']}), expected link up")
    for option, what in _PERSISTENCE.items():
        if info.get(option) not in (None, "ok"):
            problems.append(f"{node.address}: {what} ended with {info[option]}, expected ok")
    return problems


def _against(node: Node, limits: Mapping[str, Any]) -> list[str]:
    info, problems = node.info, []

    def wrong(seen: str, expected: str) -> None:
        problems.append(f"{node.address}: {seen}, expected {expected}")

    lowest = limits.get("version_at_least")
    if lowest and version_of(str(info.get("redis_version"))) < version_of(lowest):
        wrong(f"version {info.get('redis_version') or 'not told'}", f"{lowest} or newer")
    policies = limits.get("maxmemory_policies") or []
    if policies and info.get("maxmemory_policy") not in policies:
        wrong(f"maxmemory-policy {info.get('maxmemory_policy') or 'not told'}", " or ".join(policies))
    used = used_percent(info)
    below = limits.get("memory_below_percent")
    if below is not None and used is None:
        wrong("maxmemory is not set", "a limit, so that it cannot take all memory")
    elif below is not None and used is not None and used >= below:
        wrong(f"{used:.1f} % of maxmemory used", f"less than {below:g} %")
    most = limits.get("fragmentation_at_most")
    if most is not None and number(info, "mem_fragmentation_ratio") > most:
        wrong(f"memory fragmentation {number(info, 'mem_fragmentation_ratio'):g}", f"at most {most:g}")
    for kind in limits.get("persistence") or []:
        if not persists(info, kind):
            wrong(f"{kind.upper()} persistence is off", "it is on")
    slowest, p99 = limits.get("ping_p99_below_ms"), percentile(node.pings, 99)
    if slowest is not None and p99 is not None and p99 >= slowest:
        wrong(f"PING p99 {p99:.2f} ms", f"less than {slowest:g} ms")
    blocked = limits.get("blocked_clients_at_most")
    if blocked is not None and number(info, "blocked_clients") > blocked:
        wrong(f"{number(info, 'blocked_clients'):g} blocked clients", f"at most {blocked}")
    evictions = limits.get("evictions_at_most")
    if evictions is not None and node.grown("evicted_keys") > evictions:
        wrong(f"{node.grown('evicted_keys')} keys evicted in the window", f"at most {evictions}")
    return problems


def used_percent(info: Mapping[str, Any]) -> float | None:
    """Memory used, in percent of maxmemory. None when there is no maxmemory."""
    limit = number(info, "maxmemory")
    return number(info, "used_memory") * 100 / limit if limit else None


def persists(info: Mapping[str, Any], kind: str) -> bool:
    """Whether a server writes its data down. For RDB: it has ever saved, since INFO does not tell the schedule."""
    if kind == "aof":
        return bool(number(info, "aof_enabled"))
    return number(info, "rdb_saves") > 0 or number(info, "rdb_last_save_time") > started(info) + 1


def started(info: Mapping[str, Any]) -> float:
    """When the server started, by its own clock: a server that never saved tells its start as its last save."""
    return number(info, "server_time_usec") / 1e6 - number(info, "uptime_in_seconds")


def hits(nodes: Iterable[Node]) -> tuple[int, int]:
    """Lookups that found their key, and all lookups, in the window."""
    found = [(node.grown("keyspace_hits"), node.grown("keyspace_misses")) for node in nodes]
    return sum(hit for hit, _miss in found), sum(hit + miss for hit, miss in found)


def _hit_rate(nodes: list[Node], limits: Mapping[str, Any], verdict: Verdict) -> None:
    above = limits.get("hit_rate_above_percent")
    if above is None:
        return
    found, all_of_them = hits(nodes)
    needed = max(1, limits.get("lookups_at_least") or 1)
    if all_of_them < needed:
        verdict.unknown.append(f"hit rate: {all_of_them} lookups in the window, expected {needed} or more to judge it")
    elif found * 100 / all_of_them <= above:
        verdict.problems.append(f"hit rate {found * 100 / all_of_them:.1f} % of {all_of_them} lookups, expected more than {above:g} %")


def evidence(servers: Servers, verdict: Verdict) -> str:
    """One line with the figures; with problems, those."""
    if verdict.problems:
        return "; ".join(verdict.problems)
    nodes = [node for node in servers.nodes if not node.error]
    info = nodes[0].info
    parts = [f"Redis {info.get('redis_version')} {servers.topology}"]
    if len(nodes) > 1:
        parts[0] += f" of {len(nodes)} nodes"
    parts.append(f"policy {'/'.join(sorted({str(node.info.get('maxmemory_policy')) for node in nodes}))}")
    used = [value for node in nodes if (value := used_percent(node.info)) is not None]
    if used:
        parts.append(f"{max(used):.1f} % of maxmemory")
    slowest = percentile([ping for node in nodes for ping in node.pings], 99)
    if slowest is not None:
        parts.append(f"PING p99 {slowest:.2f} ms")
    found, all_of_them = hits(nodes)
    if all_of_them:
        parts.append(f"{found} of {all_of_them} lookups hit")
    return ", ".join(parts)
