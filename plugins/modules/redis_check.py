#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_check
short_description: Prove that a Redis, its replicas or its cluster is ready
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Asks every server of a standalone Redis, of a primary that sentinels watch, or of a Redis Cluster for its state, and judges it by O(limits).
  - Always wrong, whatever the limits are, is a server that does not answer or still loads, a replica without its primary, a cluster with slots
    that nobody serves, a primary without quorum, and persistence whose last attempt has failed.
  - Fails with all problems at once; the result then has the same keys as after a success.
  - Reads only. The commands are C(PING), C(INFO), C(CLUSTER INFO), C(CLUSTER NODES) and those of C(SENTINEL) that read.
requirements:
  - redis (Python library)
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
options:
  url:
    description: Address, C(redis://[user:password@]host[:port]) or C(rediss://...) for TLS. It may hold a password, so it is never shown.
    type: str
  hosts:
    description: Servers as C(HOST) or C(HOST:PORT) - some members of a cluster, or the sentinels, or a standalone server.
    type: list
    elements: str
  username:
    description: User of an access control list. Without it, the one in O(url).
    type: str
  password:
    description: Password. Without it, the one in O(url).
    type: str
  tls:
    description: Whether the servers are reached by TLS. An address with C(rediss://) says so too.
    type: bool
    default: false
  validate_certs:
    description: Whether the servers' certificates are verified.
    type: bool
    default: true
  ca_cert:
    description: PEM file of the authority that signed the servers' certificates. Without it the system's are used.
    type: path
  client_cert:
    description: PEM file of the certificate that is shown to the servers.
    type: path
  client_key:
    description: PEM file of its key, without a passphrase. Without it the key is in O(client_cert).
    type: path
  topology:
    description: What the servers must be. Without it, what they say they are; V(sentinel) when O(sentinel_primary) is set.
    type: str
    choices: [standalone, sentinel, cluster]
  sentinel_primary:
    description: Name of the primary that the sentinels in O(hosts) or O(url) watch.
    type: str
  sentinel_password:
    description: Password of the sentinels; that of the servers is O(password).
    type: str
  pings:
    description: How many C(PING) are timed at each server, one after the other.
    type: int
    default: 20
  window:
    description: Seconds over which hits, misses and evictions are counted.
    type: float
    default: 1.0
  timeout:
    description: Seconds that a server may take for a connection or an answer.
    type: float
    default: 5.0
  limits:
    description: What is demanded of every server. A limit that is not set judges nothing.
    type: dict
    suboptions:
      version_at_least:
        description: Lowest version, such as V(7.2).
        type: str
      maxmemory_policies:
        description: Values of C(maxmemory-policy) that are right for what is kept in it.
        type: list
        elements: str
      memory_below_percent:
        description: Memory used must be below this share of C(maxmemory), in percent. A server without C(maxmemory) is refused.
        type: float
      fragmentation_at_most:
        description: Highest C(mem_fragmentation_ratio). It means little for a server with a few megabytes.
        type: float
      persistence:
        description: What must be on. For V(rdb), the server must have saved since it was started.
        type: list
        elements: str
        choices: [rdb, aof]
      ping_p99_below_ms:
        description: The 99th percentile of O(pings) must be below it, in milliseconds.
        type: float
      hit_rate_above_percent:
        description: Share of the lookups in O(window) that must find their key, all servers together, in percent.
        type: float
      lookups_at_least:
        description: With fewer lookups in O(window) the hit rate is not judged, and the box stays open.
        type: int
      evictions_at_most:
        description: Keys that a server may evict in O(window).
        type: int
      blocked_clients_at_most:
        description: Clients that may wait in a blocking command.
        type: int
      replicas_at_least:
        description: Linked replicas of every primary.
        type: int
  box:
    description: Id of the box of the checklist that this proves.
    type: str
    default: infrastructure.redis
seealso:
  - module: signal.rollout.release_checklist
"""

EXAMPLES = r"""
- name: Is Redis ready?
  signal.rollout.redis_check:
    url: "redis://:{{ vault_redis_password }}@redis.signal.svc:6379/0"
    limits:
      version_at_least: "7.0"
      maxmemory_policies: [allkeys-lru, allkeys-lfu]
      memory_below_percent: 80
      ping_p99_below_ms: 10

- name: Is the cluster whole, with a replica of every primary?
  signal.rollout.redis_check:
    hosts: [redis-0.redis:6379, redis-1.redis:6379, redis-2.redis:6379]
    topology: cluster
    limits:
      replicas_at_least: 1
      persistence: [aof]
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail), or V(unknown) when something that is demanded could not be judged.
  returned: when the options could be used
  type: str
  sample: pass
topology:
  description: V(standalone), V(sentinel), V(cluster), or V(unknown) when no server answered.
  returned: when the options could be used
  type: str
  sample: standalone
nodes:
  description: Every server that holds data.
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - address: 10.79.0.51:6379
      role: primary
      version: 8.0.2
      maxmemory: 134217728
      maxmemory_policy: allkeys-lru
      used_percent: 1.03
      ping_p99_ms: 0.21
problems:
  description: What was measured and is wrong.
  returned: when the options could be used
  type: list
  elements: str
  sample: []
unknown:
  description: What was demanded and could not be judged.
  returned: when the options could be used
  type: list
  elements: str
  sample: []
proofs:
  description: For O(signal.rollout.release_checklist#module:proofs). Empty when the verdict is V(unknown).
  returned: when the options could be used
  type: dict
  sample:
    infrastructure.redis: {state: proven, evidence: "Redis 8.0.2 standalone, policy allkeys-lru, 1.0 % of maxmemory, PING p99 0.21 ms"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _redis_check
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_redis_check)


if __name__ == "__main__":
    main()
