# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's own Redis, and a cluster and a primary with sentinel of one's own, in one pod."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _redis_check
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import wait_until

SERVICE = "redis://10.79.0.51:6379/0"
PASSWORD = "a-password-of-this-test"  # noqa: S105
# Six members of a cluster (7000 to 7005), a primary with its replica (7100, 7101) and a sentinel (7200).
START = f"""
set -eu
cd /tmp
serve() {{ redis-server --port "$1" --bind 0.0.0.0 --protected-mode no --save '' --dbfilename "$1.rdb" --daemonize yes "${{@:2}}" >/dev/null; }}
for port in 7000 7001 7002 7003 7004 7005; do
  serve $port --cluster-enabled yes --cluster-config-file nodes-$port.conf --cluster-node-timeout 1000 --cluster-announce-ip $IP \\
    --requirepass {PASSWORD} --masterauth {PASSWORD} --appendonly yes --appenddirname aof-$port
done
serve 7100 --replica-announce-ip $IP
serve 7101 --replicaof $IP 7100 --replica-announce-ip $IP
printf 'port 7200\\nprotected-mode no\\nsentinel monitor signal %s 7100 1\\nsentinel down-after-milliseconds signal 1000\\n' $IP > sentinel.conf
redis-server sentinel.conf --sentinel --daemonize yes >/dev/null
redis-cli -a {PASSWORD} --no-auth-warning --cluster create $IP:7000 $IP:7001 $IP:7002 $IP:7003 $IP:7004 $IP:7005 --cluster-replicas 1 --cluster-yes
exec sleep 3600
"""


def check(**asked: Any) -> dict[str, Any]:
    given = {"window": 0.2, "timeout": 2.0, **asked}
    checked = ArgumentSpecValidator(_redis_check.ARGUMENT_SPEC, **_redis_check.SPEC_RULES).validate(given)
    assert not checked.error_messages, checked.error_messages
    return _redis_check.run(checked.validated_parameters, Context())


def refused(**asked: Any) -> RolloutError:
    with pytest.raises(RolloutError) as found:
        check(**asked)
    return found.value


@pytest.fixture(scope="module")
def servers(kube: _kube.Kube) -> Iterator[str]:
    """Address of a pod that runs all of them."""
    namespace = f"redis-{uuid.uuid4().hex[:8]}"
    image = kube.get(_kube.path_of("apps", "v1", "deployments", "signal-data", "redis"))["spec"]["template"]["spec"]["containers"][0]["image"]
    container = {
        "name": "redis", "image": image, "imagePullPolicy": "Never", "command": ["bash", "-c", START],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        pods = _kube.path_of("", "v1", "pods", namespace)
        kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis"}, "spec": spec})
        address = wait_until("the pod has an address", lambda: kube.get(f"{pods}/redis")["status"].get("podIP"), 60)
        wait_until("the cluster is whole", lambda: whole(address), 60)
        yield address
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


def whole(address: str) -> bool:
    try:
        check(hosts=[f"{address}:7000"], password=PASSWORD, topology="cluster", limits={"replicas_at_least": 1}, window=0)
        check(hosts=[f"{address}:7200"], sentinel_primary="signal", limits={"replicas_at_least": 1}, window=0)
    except RolloutError:
        return False
    return True


def shut(address: str, port: int, password: str | None = None) -> None:
    with redis.Redis(host=address, port=port, password=password) as client:
        client.shutdown(nosave=True)


@pytest.mark.box("infrastructure.redis")
def test_the_service_cache_is_ready_and_a_wrong_policy_or_a_full_memory_is_named() -> None:
    limits = {"version_at_least": "7.0", "maxmemory_policies": ["allkeys-lru"], "memory_below_percent": 80}
    answer = check(url=SERVICE, limits=limits)
    assert answer["proofs"]["infrastructure.redis"]["state"] == "proven"
    assert answer["topology"] == "standalone" and not answer["changed"]
    error = refused(url=SERVICE, limits={**limits, "maxmemory_policies": ["noeviction"], "memory_below_percent": 0.001})
    assert error.result["proofs"]["infrastructure.redis"]["state"] == "failed"
    assert len(error.result["problems"]) == 2


def test_a_server_that_is_not_there_is_a_failed_proof() -> None:
    error = refused(url="redis://10.79.0.53:8080/0")
    assert error.result["proofs"]["infrastructure.redis"]["state"] == "failed"


def test_a_hit_rate_that_nobody_can_tell_leaves_the_box_open(servers: str) -> None:
    error = refused(hosts=[f"{servers}:7100"], topology="standalone", limits={"hit_rate_above_percent": 80})
    assert error.result["verdict"] == "unknown" and error.result["proofs"] == {}


def test_every_member_of_a_cluster_is_asked_whichever_is_named(servers: str) -> None:
    answer = check(hosts=[f"{servers}:7004"], password=PASSWORD, limits={"replicas_at_least": 1, "persistence": ["aof"]})
    assert answer["topology"] == "cluster"
    assert sorted(node["role"] for node in answer["nodes"]) == ["primary"] * 3 + ["replica"] * 3
    assert "6 nodes" in answer["proofs"]["infrastructure.redis"]["evidence"]


def test_a_wrong_password_is_told_without_it(servers: str) -> None:
    error = refused(url=f"redis://:not-the-password@{servers}:7000")
    assert "not-the-password" not in error.message + str(error.result)
    assert "assword" in error.message or "auth" in error.message.lower()


def test_another_topology_than_the_expected_one_is_refused(servers: str) -> None:
    assert "run as cluster, expected standalone" in refused(hosts=[f"{servers}:7000"], password=PASSWORD, topology="standalone").message


def test_a_cluster_that_lost_a_replica_is_not_ready(servers: str) -> None:
    answer = check(hosts=[f"{servers}:7000"], password=PASSWORD)
    lost = int(next(node["address"] for node in answer["nodes"] if node["role"] == "replica").rpartition(":")[2])
    shut(servers, lost, PASSWORD)
    start = next(f"{servers}:{port}" for port in range(7000, 7006) if port != lost)
    error = refused(hosts=[start], password=PASSWORD, limits={"replicas_at_least": 1})
    assert f"{servers}:{lost}" in error.message and error.result["topology"] == "cluster"


def test_a_primary_by_its_sentinel_is_ready_until_its_replica_is_gone(servers: str) -> None:
    asked = {"hosts": [f"{servers}:7200"], "sentinel_primary": "signal", "limits": {"replicas_at_least": 1}}
    answer = check(**asked)
    assert answer["topology"] == "sentinel" and [node["role"] for node in answer["nodes"]] == ["primary", "replica"]
    shut(servers, 7101)
    assert f"{servers}:7101" in refused(**asked).message
