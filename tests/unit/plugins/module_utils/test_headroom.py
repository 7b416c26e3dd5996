# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a namespace lets more pods be created."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _headroom
from hypothesis import given
from hypothesis import strategies as st

POD = {"containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}}]}


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}


def limits(**entry: Any) -> dict[str, Any]:
    return {"metadata": {"name": "usual"}, "spec": {"limits": [{"type": "Container", **entry}]}}


@given(hard=st.integers(0, 30), used=st.integers(0, 30), more=st.integers(1, 10))
def test_pods_are_refused_exactly_when_the_quota_would_be_exceeded(hard: int, used: int, more: int) -> None:
    found = _headroom.shortages([quota({"pods": str(hard)}, {"pods": str(used)})], [], POD, more)
    assert bool(found) == (used + more > hard)


@pytest.mark.parametrize(
    ("resource", "hard", "used", "fits"),
    [
        ("requests.cpu", "1", "800m", True),
        ("requests.cpu", "1", "801m", False),
        ("cpu", "1", "801m", False),
        ("requests.memory", "1Gi", "768Mi", True),
        ("requests.memory", "1G", "768Mi", False),
        ("limits.cpu", "3", "1", True),
        ("limits.cpu", "3", "1500m", False),
        ("limits.memory", "1Gi", "600Mi", False),
        ("count/pods", "5", "4", False),
        ("persistentvolumeclaims", "0", "0", True),
    ],
)
def test_two_more_pods_fit_or_not(resource: str, hard: str, used: str, fits: bool) -> None:
    assert (_headroom.shortages([quota({resource: hard}, {resource: used})], [], POD, 2) == []) is fits


def test_shortage_says_what_is_used_and_what_is_needed() -> None:
    found = _headroom.shortages([quota({"limits.cpu": "3"}, {"limits.cpu": "1500m"})], [], POD, 2)
    assert found == [_headroom.Shortage("ResourceQuota team", "limits.cpu: 1500m of 3 used", "room for 2 more pods of 1 each")]


def test_no_more_pods_need_no_room() -> None:
    assert _headroom.shortages([quota({"pods": "0"})], [], POD, 0) == []


def test_quota_of_some_scope_is_left_out() -> None:
    assert _headroom.shortages([quota({"pods": "0"}, scopes=["BestEffort"])], [], POD, 1) == []


def test_container_that_does_not_state_what_the_quota_counts_is_refused_unless_the_namespace_has_a_default() -> None:
    bare = {"containers": [{"name": "app"}]}
    counted = [quota({"requests.cpu": "10"})]
    assert "a container without requests.cpu" in _headroom.shortages(counted, [], bare, 1)[0].seen
    assert _headroom.shortages(counted, [limits(defaultRequest={"cpu": "100m"})], bare, 1) == []
    # A limit is the request where none is stated.
    limited = {"containers": [{"name": "app", "resources": {"limits": {"cpu": "11"}}}]}
    assert "0 of 10 used" in _headroom.shortages(counted, [], limited, 1)[0].seen


def test_largest_init_container_counts_when_it_takes_more() -> None:
    pod = {**POD, "initContainers": [{"name": "init", "resources": {"requests": {"cpu": "2"}}}]}
    assert _headroom.shortages([quota({"requests.cpu": "1"})], [], pod, 1) != []


def test_container_above_the_limit_of_the_namespace_is_refused() -> None:
    found = _headroom.shortages([], [limits(max={"memory": "200Mi"})], POD, 0)
    assert found == [_headroom.Shortage("LimitRange usual", "container app with limits.memory 256Mi", "at most 200Mi")]
    assert _headroom.shortages([], [limits(max={"memory": "256Mi"})], POD, 1) == []
