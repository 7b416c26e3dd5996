# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a Redis is ready, decided from what its servers say."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _redis_check, _redis_rules
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._redis_rules import Node, Servers, judge

INFO = {
    "role": "master", "redis_version": "8.0.2", "maxmemory": 1000, "used_memory": 500, "maxmemory_policy": "allkeys-lru", "loading": 0,
    "rdb_last_bgsave_status": "ok", "aof_enabled": 1, "blocked_clients": 0, "keyspace_hits": 10, "keyspace_misses": 10, "evicted_keys": 0,
}
LIMITS: dict[str, Any] = {
    "version_at_least": "7.2", "maxmemory_policies": ["allkeys-lru"], "memory_below_percent": 80.0, "persistence": ["aof"], "ping_p99_below_ms": 5.0,
    "hit_rate_above_percent": 80.0, "lookups_at_least": 10, "evictions_at_most": 0, "blocked_clients_at_most": 0,
}
LATER = {"keyspace_hits": 110, "keyspace_misses": 20, "evicted_keys": 0}


def node(later: dict[str, Any] | None = None, pings: tuple[float, ...] = (0.2, 0.4), **info: Any) -> Node:
    return Node("10.0.0.1:6379", {**INFO, **info}, {**LATER, **(later or {})}, pings)


def test_a_sound_server_passes_every_limit_and_its_figures_are_the_evidence() -> None:
    servers = Servers("standalone", (node(),))
    verdict = judge(servers, LIMITS)
    assert (verdict.state, verdict.problems) == ("pass", [])
    assert _redis_rules.evidence(servers, verdict) == (
        "Redis 8.0.2 standalone, policy allkeys-lru, 50.0 % of maxmemory, PING p99 0.40 ms, 100 of 110 lookups hit"
    )


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (node(redis_version="7.0.15"), "version 7.0.15, expected 7.2 or newer"),
        (node(maxmemory_policy="noeviction"), "maxmemory-policy noeviction, expected allkeys-lru"),
        (node(used_memory=800), "80.0 % of maxmemory used, expected less than 80 %"),
        (node(maxmemory=0), "maxmemory is not set"),
        (node(aof_enabled=0), "AOF persistence is off"),
        (node(pings=(5.0,)), "PING p99 5.00 ms, expected less than 5 ms"),
        (node(blocked_clients=1), "1 blocked clients, expected at most 0"),
        (node({"evicted_keys": 3}), "3 keys evicted in the window"),
        (node({"keyspace_hits": 50}), "hit rate 80.0 % of 50 lookups, expected more than 80 %"),
        (node(rdb_last_bgsave_status="err"), "last RDB save ended with err"),
        (node(loading=1), "still loading"),
        (node(role="slave", master_link_status="down"), "has lost its primary (link down)"),
        (Node("10.0.0.1:6379", error="no answer"), "10.0.0.1:6379: no answer"),
    ],
)
def test_each_limit_names_what_was_seen_and_what_was_expected(broken: Node, said: str) -> None:
    problems = judge(Servers("standalone", (broken,)), LIMITS).problems
    assert [said in problem for problem in problems] == [True]


def test_too_few_lookups_prove_nothing_and_refute_nothing() -> None:
    verdict = judge(Servers("standalone", (node({"keyspace_hits": 10, "keyspace_misses": 10}),)), LIMITS)
    assert (verdict.state, verdict.problems, len(verdict.unknown)) == ("unknown", [], 1)


def test_limits_that_are_not_set_judge_nothing() -> None:
    assert judge(Servers("standalone", (node(maxmemory=0, redis_version="2.8", aof_enabled=0),)), {}).state == "pass"


def test_counters_of_a_server_that_restarted_begin_at_nothing() -> None:
    assert _redis_rules.hits([node({"keyspace_hits": 4, "keyspace_misses": 1})]) == (4, 5)


@pytest.mark.parametrize(("values", "p99"), [([], None), ([3.0], 3.0), ([float(n) for n in range(1, 201)], 198.0)])
def test_percentiles_are_values_that_were_measured(values: list[float], p99: float | None) -> None:
    assert _redis_rules.percentile(values, 99) == p99


WHOLE = """\
aa 10.0.0.1:7000@17000,host myself,master - 0 0 1 connected 0-8191
bb 10.0.0.1:7001@17001 master - 0 0 2 connected 8192-16382 16383
cc 10.0.0.1:7002@17002 slave aa 0 0 1 connected
dd 10.0.0.1:7003@17003 slave bb 0 0 2 connected
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("", ""), []),
        (("16383\n", "[16383->-aa]\n"), ["16383 of 16384 slots are served"]),
        (("slave bb 0 0 2 connected", "slave bb 0 0 2 disconnected"), ["10.0.0.1:7003 is disconnected", "10.0.0.1:7001 has 0 linked replicas"]),
        (("bb 10.0.0.1:7001@17001 master -", "bb 10.0.0.1:7001@17001 master,fail -"), ["8192 of 16384 slots", "10.0.0.1:7001 is master/fail"]),
    ],
)
def test_a_cluster_is_whole_when_every_slot_is_served_and_every_member_linked(change: tuple[str, str], said: list[str]) -> None:
    troubles = _redis_rules.cluster_troubles("ok", _redis_rules.members(WHOLE.replace(*change) if change[0] else WHOLE), 1)
    assert [any(words in trouble for trouble in troubles) for words in said] == [True] * len(said)
    assert len(troubles) == len(said)


def test_wrong_options_are_all_named_before_anything_is_asked() -> None:
    params = {name: spec.get("default") for name, spec in _redis_check.ARGUMENT_SPEC.items()}
    params |= {"hosts": ["a:0", "b c"], "pings": 0, "limits": {"memory_below_percent": 180.0, "version_at_least": "new"}}
    with pytest.raises(RolloutError) as refused:
        _redis_check.run(params, Context())
    for words in ("'a:0'", "'b c'", "pings is 0", "180", "'new'", "Nothing was asked"):
        assert words in refused.value.message
