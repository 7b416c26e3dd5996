# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about weights, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _weights


@pytest.mark.parametrize("weight", [-1, 101, True, "10", 10.0, None])
def test_weight_outside_whole_percent_is_refused(weight: Any) -> None:
    with pytest.raises(_weights.WeightError, match="integer from 0 to 100"):
        _weights.wanted(weight)


def test_pod_that_is_being_deleted_is_not_ready() -> None:
    ready = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert _weights.pod_is_ready(ready)
    assert not _weights.pod_is_ready({**ready, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert not _weights.pod_is_ready({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})


def test_ready_endpoints_are_those_that_say_so_or_nothing() -> None:
    endpoints = [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
        {"addresses": ["10.0.0.3"]},
        {"addresses": ["10.0.0.4"], "targetRef": {"kind": "Pod", "name": "green-1"}},
    ]
    assert _weights.ready_endpoints([{"endpoints": endpoints}, {"endpoints": None}, {}]) == {"10.0.0.1", "10.0.0.3", "green-1"}
