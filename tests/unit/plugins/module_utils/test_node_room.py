# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether nodes have room for more pods, as the scheduler would have it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _node_room
from hypothesis import given
from hypothesis import strategies as st


def node(name: str = "a", cpu: str = "2", pods: str = "10", **spec: Any) -> dict[str, Any]:
    status = {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": pods}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name, "labels": {"zone": name, "size": "8"}}, "spec": spec, "status": status}


def container(cpu: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu}}, **more}


def running(cpu: str, where: str = "a", phase: str = "Running") -> dict[str, Any]:
    return {"spec": {"nodeName": where, "containers": [container(cpu)]}, "status": {"phase": phase}}


def template(cpu: str = "500m", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container(cpu)], **spec}}


def fits(nodes: list[dict[str, Any]], pods: list[dict[str, Any]], one: dict[str, Any], wanted: int) -> int:
    return _node_room.place(nodes, pods, [(one, wanted)])[0].fits


@given(nodes=st.integers(1, 4), wanted=st.integers(0, 30), used=st.integers(0, 4))
def test_as_many_fit_as_the_free_requests_allow(nodes: int, wanted: int, used: int) -> None:
    listed = [node(str(number)) for number in range(nodes)]
    taken = [running("500m", str(number)) for number in range(nodes) for _pod in range(used)]
    assert fits(listed, taken, template(), wanted) == min(wanted, nodes * (4 - used))


@pytest.mark.parametrize(
    ("one", "pods", "expected"),
    [
        (node(), [running("2", phase="Succeeded")], 2),
        (node(), [running("2")], 0),
        (node(), [running("2", where="b")], 2),
        (node(pods="1"), [], 1),
        (node(unschedulable=True), [], 0),
        (node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]), [], 0),
        (node(taints=[{"key": "gpu", "value": "yes", "effect": "PreferNoSchedule"}]), [], 2),
        ({**node(), "status": {**node()["status"], "conditions": [{"type": "Ready", "status": "Unknown"}]}}, [], 0),
    ],
)
def test_a_node_is_used_as_the_scheduler_would(one: dict[str, Any], pods: list[dict[str, Any]], expected: int) -> None:
    assert fits([one], pods, template(), 2) == expected


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


def affinity(*expressions: dict[str, Any]) -> dict[str, Any]:
    terms = [{"matchExpressions": list(expressions)}]
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, True),
        ({"tolerations": [{"operator": "Exists"}]}, True),
        ({"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}, True),
        ({"tolerations": [{"key": "gpu", "value": "no"}]}, False),
        ({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]}, False),
    ],
)
def test_only_what_tolerates_a_taint_goes_there(spec: dict[str, Any], taken: bool) -> None:
    assert (fits([node(taints=[TAINT])], [], template(**spec), 1) == 1) is taken


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ({"nodeSelector": {"zone": "a"}}, True),
        ({"nodeSelector": {"zone": "b"}}, False),
        (affinity({"key": "zone", "operator": "In", "values": ["a", "b"]}), True),
        (affinity({"key": "zone", "operator": "NotIn", "values": ["a"]}), False),
        (affinity({"key": "size", "operator": "Gt", "values": ["7"]}), True),
        (affinity({"key": "size", "operator": "Lt", "values": ["7"]}), False),
        (affinity({"key": "zone", "operator": "Exists"}, {"key": "none", "operator": "Exists"}), False),
    ],
)
def test_only_nodes_that_the_pod_selects_count(spec: dict[str, Any], taken: bool) -> None:
    assert (fits([node()], [], template(**spec), 1) == 1) is taken


def test_pods_that_must_not_share_a_node_take_one_each() -> None:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
    alone = template("1m", affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    assert fits([node("a"), node("b")], [], alone, 5) == 2


def test_an_init_container_counts_when_it_is_larger_and_a_sidecar_always() -> None:
    spec = {"containers": [container("500m")], "initContainers": [container("1")]}
    assert _node_room.needs(spec)["cpu"] == 1
    spec["initContainers"] = [container("1", restartPolicy="Always")]
    assert float(_node_room.needs(spec)["cpu"]) == 1.5


def test_a_limit_without_a_request_is_the_request() -> None:
    assert _node_room.needs({"containers": [{"resources": {"limits": {"cpu": "3"}}}]})["cpu"] == 3


def test_what_one_deployment_takes_the_next_has_not() -> None:
    first, second = _node_room.place([node()], [], [(template("1500m"), 1), (template("1"), 1)])
    assert (first.fits, second.fits) == (1, 0)
    assert second.words == "1 node without free cpu"
