# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an observed share proves, and what it does not."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _share
from ansible_collections.signal.rollout.plugins.module_utils._weights import Weights
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("target", "requests", "reach"),
    [(0.1, 1000, 2.85), (0.1, 100, 9.0), (0.5, 1000, 4.74)],
)
def test_band_is_three_standard_deviations_of_a_binomial_share(target: float, requests: int, reach: float) -> None:
    low, high = _share.band(target, requests)
    assert 100 * (target - low) == pytest.approx(reach, abs=0.01)
    assert 100 * (high - target) == pytest.approx(reach, abs=0.01)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_none_and_all_leave_no_band(target: float) -> None:
    assert _share.band(target, 100) == (target, target)
    assert _share.Window(100, target, 1.0).agrees(target)
    assert not _share.Window(100, abs(target - 0.01), 1.0).agrees(target)


def test_without_requests_every_share_agrees() -> None:
    assert _share.band(0.1, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("before", "target", "needed"),
    [(0.0, 0.1, 82), (0.1, 0.5, 37), (0.5, 1.0, 10), (0.1, 0.11, 33813), (1.0, 0.0, 1)],
)
def test_requests_needed_grow_as_the_two_weights_come_close(before: float, target: float, needed: int) -> None:
    assert _share.requests_needed(before, target, 1) == pytest.approx(needed, rel=0.01, abs=1)


def test_minimum_always_holds_and_alone_counts_without_a_weight_before() -> None:
    assert _share.requests_needed(0.5, 1.0, 100) == 100
    assert _share.requests_needed(None, 0.1, 100) == 100
    assert _share.requests_needed(0.1, 0.1, 100) == 100


@given(before=st.integers(0, 100), target=st.integers(0, 100))
def test_enough_requests_keep_the_weight_before_outside_the_band(before: int, target: int) -> None:
    if before == target:
        return
    n = _share.requests_needed(before / 100, target / 100, 1)
    low, high = _share.band(target / 100, n)
    worst = 3 * math.sqrt(before / 100 * (1 - before / 100) / n)
    assert before / 100 + worst <= low or before / 100 - worst >= high


def test_requests_at_the_old_weight_are_practically_never_taken_for_the_new_one() -> None:
    draw = random.Random(4)
    needed = _share.requests_needed(0.1, 0.2, 1)
    hits = 0
    for _trial in range(2000):
        share = sum(draw.random() < 0.1 for _request in range(needed)) / needed
        hits += _share.Window(needed, share, 1.0).agrees(0.2)
    assert hits <= 6


def test_growth_counts_new_series_from_zero_and_restarted_ones_from_their_restart() -> None:
    growth = _share.Growth()
    assert growth.add({"a": 1000.0}) == 0
    assert growth.add({"a": 1010.0, "b": 5.0}) == 15
    assert growth.add({"a": 3.0, "b": 5.0}) == 18
    assert growth.add({"b": 6.0}) == 19
    assert growth.add({"a": 4.0, "b": 6.0}) == 20


def watch(*looks: tuple[float, float], target: float = 0.1, needed: int = 100) -> _share.Watch:
    found = _share.Watch(target, needed)
    for at, (stable, canary) in enumerate(looks):
        found.look(float(at), {"s": stable}, {"c": canary})
    return found


def test_window_waits_for_enough_requests() -> None:
    assert _share.Watch(0.1, 100).window() is None
    assert watch((0, 0), (80, 9)).window() is None
    found = watch((0, 0), (80, 9), (180, 20)).window()
    assert found == _share.Window(111.0, 11 / 111, 1.0)


def test_window_is_the_newest_so_that_requests_at_the_old_weight_age_out() -> None:
    # 1000 requests at 0 %, then 100 at 10 %: the whole disagrees, the newest part agrees.
    found = watch((0, 0), (1000, 0), (1090, 10)).window()
    assert found is not None and found.requests == 100 and found.agrees(0.1)


def test_counters_without_movement_make_no_window() -> None:
    assert watch((500, 50), (500, 50), (500, 50)).window() is None


def test_share_is_of_what_stable_and_canary_get_together() -> None:
    assert _share.share_of(Weights(90, 10)) == 0.1
    assert _share.share_of(Weights(60, 20)) == 0.25


HOST = "signal-service.signal.svc.cluster.local"


@pytest.mark.parametrize(
    ("preset", "host", "subset", "expected"),
    [
        ("requests", HOST, "v2", 'signal_requests_total{job="x", version="v2"}'),
        ("requests", "green.signal.svc.cluster.local", "", 'signal_requests_total{job="x", version="green"}'),
        (
            "gateway_requests", "green.ns.svc", "v2",
            'envoy_cluster_upstream_rq{job="x", envoy_cluster_name=~"outbound\\\\|[0-9]+\\\\|v2\\\\|green\\\\.ns\\\\.svc", envoy_response_code!=""}',
        ),
        (
            "istio_requests", HOST, "v2",
            'istio_requests_total{destination_service_name="signal-service", destination_service_namespace="signal", '
            'destination_version="v2", job="x", reporter="source"}',
        ),
        (
            "istio_requests", "green.signal.svc.cluster.local", "",
            'istio_requests_total{destination_service_name="green", destination_service_namespace="signal", job="x", reporter="source"}',
        ),
    ],
)
def test_presets_count_the_requests_of_one_destination(preset: str, host: str, subset: str, expected: str) -> None:
    assert _share.counters(preset, host, subset, {"job": "x"}, "signal") == expected


def answer(*series: tuple[str, str, str]) -> dict[str, Any]:
    result = [{"metric": {"pod": pod, _share.SIDE: side}, "value": [1.0, value]} for side, pod, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def test_both_sides_come_out_of_one_answer() -> None:
    stable, canary = _share.sides_of(answer(("stable", "a", "7"), ("stable", "b", "8"), ("canary", "c", "1")))
    assert stable == {(("pod", "a"),): 7.0, (("pod", "b"),): 8.0} and canary == {(("pod", "c"),): 1.0}


def test_query_marks_both_sides() -> None:
    query = _share.query_of("x", "y or z")
    assert query == 'label_replace(x, "signal_rollout_side", "stable", "", "") or label_replace(y or z, "signal_rollout_side", "canary", "", "")'


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"data": {"resultType": "scalar", "result": [1, "2"]}}, "give a scalar"),
        ({"data": {}}, "give a nothing known"),
        ({"data": {"resultType": "vector", "result": [{"metric": {}, "histogram": []}]}}, "without a plain value"),
        (answer(("stable", "a", "NaN")), "a counter is nan"),
        (answer(("stable", "a", "-1")), "a counter is -1"),
        ({**answer(("stable", "a", "1")), "warnings": ["partial"]}, "warns: partial"),
        ({**answer(("stable", "a", "1")), "isPartial": True}, "the answer is partial"),
    ],
)
def test_what_is_no_counter_is_refused_with_its_reason(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _share.sides_of(payload)
