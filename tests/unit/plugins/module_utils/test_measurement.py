# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one-shot figures say, and what they prove."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _measurement
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import GOOD, NO_DATA, Reading

CACHE: dict[str, Any] = {"name": "cache hits", "query": "x", "unit": "%", "above": 80.0, "box": "technical.cache_hits"}
LATENCY: dict[str, Any] = {"name": "latency p99", "query": 'x{version="{version}"}', "unit": "ms", "higher_is_better": False}


def good(value: float) -> Reading:
    return Reading(GOOD, value=value)


def compared(new: Reading, old: Reading) -> dict[str, Any]:
    return _measurement.compared(LATENCY, new, old)


def proofs(*readings: Reading) -> dict[str, Any]:
    return _measurement.proofs_of([_measurement.judged(CACHE, reading, 900) for reading in readings])


def test_a_figure_at_its_strict_limit_breaks_it() -> None:
    assert proofs(good(80.0))["technical.cache_hits"]["state"] == "failed"
    assert proofs(good(80.1)) == {"technical.cache_hits": {"state": "proven", "evidence": "cache hits 80.1 %, expected > 80 %, over 900 s"}}


def test_no_data_proves_nothing_and_hides_no_breach() -> None:
    assert proofs(Reading(NO_DATA, detail="no series")) == {}
    assert proofs(good(99), Reading(NO_DATA)) == {}
    assert proofs(good(10), Reading(NO_DATA))["technical.cache_hits"]["state"] == "failed"


def test_the_improvement_is_the_measured_one() -> None:
    found = compared(good(6.0), good(12.0))
    assert (found["percent"], found["better"], found["words"]) == (-50.0, True, "latency p99 50 % lower: 6 ms, before 12 ms")
    assert compared(good(13.0), good(12.0))["better"] is False
    assert "unchanged" in compared(good(12.05), good(12.0))["words"]


@pytest.mark.parametrize(("new", "old"), [(Reading(NO_DATA), good(1)), (good(1), Reading(NO_DATA)), (good(1), good(0))])
def test_without_both_figures_there_is_no_improvement(new: Reading, old: Reading) -> None:
    assert compared(new, old)["percent"] is None and compared(new, old)["better"] is False


def test_all_mistakes_are_told_at_once() -> None:
    defaults: dict[str, Any] = {name: option.get("default") for name, option in _measurement.ARGUMENT_SPEC.items()}
    given = {
        **defaults, "prometheus_url": "ftp://x", "version": 'v2"}', "end": "today", "window": 60.0, "measurements": [{**CACHE, "below": 1.0}],
        "comparisons": [{**LATENCY, "query": "x"}],
    }
    with pytest.raises(RolloutError, match="Nothing was asked") as refused:
        _measurement.run(given, Context())
    for words in ("end is 'today'", "prometheus_url", "version is", "baseline_version", "2 limits", "both sides would be the same"):
        assert words in refused.value.message
