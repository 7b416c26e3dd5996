# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much the ready pods of a version can carry."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _capacity
from ansible_collections.signal.rollout.plugins.module_utils._capacity import Autoscaler, Budget, Side, Survey
from ansible_collections.signal.rollout.plugins.module_utils._weights import Weights
from hypothesis import given
from hypothesis import strategies as st

SHARES = st.integers(0, 100)
PODS = st.integers(0, 50)


def side(name: str, wanted: int, ready: int | None = None, **rest: Any) -> Side:
    return Side(name, wanted, wanted if ready is None else ready, (f"echo-{name}",), **rest)


def survey(full: int, stable: Side, canary: Side) -> Survey:
    return Survey(full, "option capacity.full", stable, canary)


def judge(world: Survey, before: int, after: int, disruptions: str = "warn") -> _capacity.Verdict:
    return _capacity.judge(world, Weights(100 - before, before), Weights(100 - after, after), disruptions)


# --- the number of pods ----------------------------------------------------------------------------------------------


@given(full=st.integers(1, 10_000), share=SHARES)
def test_needed_pods_are_the_exact_share_rounded_up(full: int, share: int) -> None:
    assert _capacity.needed_pods(full, share) == math.ceil(Fraction(full * share, 100))


@given(share=st.integers(1, 100))
def test_any_share_needs_a_pod_also_when_nothing_is_wanted(share: int) -> None:
    assert _capacity.needed_pods(0, share) == 1


@given(full=st.integers(1, 1000), share=SHARES)
def test_both_sides_together_need_all_pods_and_at_most_one_more(full: int, share: int) -> None:
    together = _capacity.needed_pods(full, share) + _capacity.needed_pods(full, 100 - share)
    assert together in (full, full + 1)


# --- the decision ----------------------------------------------------------------------------------------------------


@given(full=st.integers(1, 50), stable=PODS, canary=PODS, before=SHARES, after=SHARES)
def test_no_share_grows_beyond_what_ready_pods_carry(full: int, stable: int, canary: int, before: int, after: int) -> None:
    verdict = judge(survey(full, side("v1", full, stable), side("v2", full, canary)), before, after)
    if not verdict.refusal and after > before:
        assert canary * 100 >= full * after
    if not verdict.refusal and 0 < after < before:
        assert stable * 100 >= full * (100 - after)


@given(full=st.integers(1, 50), stable=PODS, canary=PODS, before=SHARES, disruptions=st.sampled_from(["warn", "refuse"]))
def test_the_way_to_weight_0_is_never_refused(full: int, stable: int, canary: int, before: int, disruptions: str) -> None:
    guarded = side("v1", full, stable, autoscaler=Autoscaler("hpa", "echo-v1", 1, 1), budgets=(Budget("pdb", stable),))
    assert judge(survey(full, guarded, side("v2", full, canary)), before, 0, disruptions).refusal == ""


@given(full=st.integers(1, 50), stable=PODS, canary=PODS, weight=SHARES)
def test_a_weight_that_stays_is_never_refused(full: int, stable: int, canary: int, weight: int) -> None:
    assert judge(survey(full, side("v1", full, stable), side("v2", full, canary)), weight, weight, "refuse").refusal == ""


@given(full=st.integers(1, 50), stable=PODS, canary=PODS, before=SHARES, after=SHARES)
def test_enough_ready_pods_are_never_refused_nor_warned_of(full: int, stable: int, canary: int, before: int, after: int) -> None:
    verdict = judge(survey(full, side("v1", full + stable), side("v2", full + canary)), before, after, "refuse")
    assert (verdict.refusal, verdict.warnings) == ("", [])


def test_refusal_says_what_was_seen_expected_and_what_to_do() -> None:
    refusal = judge(survey(3, side("v1", 3), side("v2", 1)), 10, 50).refusal
    assert refusal == (
        "destination 'v2' has 1 ready pod, but 50 % of the traffic needs 2 of the 3 pods that carry all of it (option capacity.full). "
        "Next: scale Deployment echo-v2 to 2 and wait until they are ready."
    )


def test_pods_that_are_wanted_but_not_ready_lead_to_their_status() -> None:
    assert "see why only 1 of 3 are ready" in judge(survey(3, side("v1", 3), side("v2", 3, 1)), 10, 50).refusal


def test_too_few_stable_pods_stop_a_step_down_and_only_warn_on_the_way_to_0() -> None:
    world = survey(3, side("v1", 3, 1), side("v2", 3))
    assert "destination 'v1' has 1 ready pod, but 90 %" in judge(world, 50, 10).refusal
    back = judge(world, 50, 0)
    assert back.refusal == "" and any("destination 'v1' has 1 ready pod, but 100 %" in text for text in back.warnings)


def test_too_few_stable_pods_do_not_stop_traffic_from_leaving_them() -> None:
    verdict = judge(survey(3, side("v1", 3, 1), side("v2", 3)), 10, 50)
    assert verdict.refusal == "" and "destination 'v1' has 1 ready pod" in verdict.warnings[0]


def test_autoscaler_that_would_remove_the_pods_again_is_refused() -> None:
    canary = side("v2", 3, autoscaler=Autoscaler("green", "echo-v2", 1, 2))
    refusal = judge(survey(3, side("v1", 3), canary), 50, 100).refusal
    assert "HorizontalPodAutoscaler green allows at most 2 pods" in refusal and "raise its maxReplicas to 3" in refusal


def test_autoscaler_that_may_scale_down_is_told() -> None:
    canary = side("v2", 3, autoscaler=Autoscaler("green", "echo-v2", 1, 5))
    verdict = judge(survey(3, side("v1", 3), canary), 50, 100)
    assert verdict.refusal == "" and "green may scale down to 1, which is less than the 3 pods" in verdict.warnings[0]


def test_with_an_autoscaler_its_minimum_is_what_to_raise() -> None:
    canary = side("v2", 1, autoscaler=Autoscaler("green", "echo-v2", 1, 5))
    assert "Next: raise minReplicas of HorizontalPodAutoscaler green to 3" in judge(survey(3, side("v1", 3), canary), 50, 100).refusal


# --- disruption budgets ----------------------------------------------------------------------------------------------


def test_pods_that_evictions_may_take_are_not_guaranteed() -> None:
    assert side("v2", 3, budgets=(Budget("a", 2), Budget("b", 1))).guaranteed == 2
    # One budget over both versions may take all pods of one.
    assert side("v2", 3, budgets=(Budget("shared", 5),)).guaranteed == 0
    assert side("v2", 3).guaranteed is None


def test_share_that_only_the_guaranteed_pods_cannot_carry_is_a_warning_or_a_refusal_as_asked() -> None:
    world = survey(3, side("v1", 3), side("v2", 3, budgets=(Budget("budget", 2),)))
    warned = judge(world, 10, 100)
    assert warned.refusal == "" and "evictions may leave 1 (PodDisruptionBudget budget)" in warned.warnings[0]
    assert warned.report["canary"]["guaranteed"] == 1
    assert "evictions may leave 1" in judge(world, 10, 100, "refuse").refusal
    assert judge(world, 100, 0, "refuse").refusal == ""


def test_budget_that_blocks_every_eviction_is_told() -> None:
    world = survey(1, side("v1", 1), side("v2", 1, budgets=(Budget("tight", 0),)))
    assert "tight allows no eviction now, so that draining a node would wait" in judge(world, 0, 100).warnings[0]


# --- what objects say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "echo"}}, True),
        ({"matchLabels": {"app": "other"}}, False),
        ({"matchExpressions": [{"key": "version", "operator": "In", "values": ["v1", "v2"]}]}, True),
        ({"matchExpressions": [{"key": "version", "operator": "NotIn", "values": ["v2"]}]}, False),
        ({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "version", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "version", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "echo"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
    ],
)
def test_label_selectors_select_as_the_api_server_does(selector: dict[str, Any] | None, fits: bool) -> None:
    assert _capacity.selects(selector, {"app": "echo", "version": "v2"}) is fits


LABELS = {"app": "echo", "version": "v2"}


def pod(ready: bool = True, deleted: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "pod", "labels": LABELS}
    if deleted:
        metadata["deletionTimestamp"] = "2026-11-24T10:00:00Z"
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}}


def deployment(name: str, replicas: int, labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"replicas": replicas, "template": {"metadata": {"labels": labels}}}}


def autoscaler(name: str, target: str, minimum: int = 2, maximum: int = 5, kind: str = "Deployment") -> dict[str, Any]:
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": target}
    return {"metadata": {"name": name}, "spec": {"scaleTargetRef": reference, "minReplicas": minimum, "maxReplicas": maximum}}


def test_side_is_read_from_the_objects_that_belong_to_it_and_no_others() -> None:
    found = _capacity.read_side(
        "v2",
        LABELS,
        [pod(), pod(ready=False), pod(deleted=True)],
        [deployment("echo-v2", 3, {**LABELS, "extra": "yes"}), deployment("echo-v1", 9, {"app": "echo", "version": "v1"})],
        [autoscaler("other", "echo-v1"), autoscaler("set", "echo-v2", kind="StatefulSet"), autoscaler("mine", "echo-v2")],
        [
            {"metadata": {"name": "mine"}, "spec": {"selector": {"matchLabels": {"app": "echo"}}}, "status": {"disruptionsAllowed": 1}},
            {"metadata": {"name": "other"}, "spec": {"selector": {"matchLabels": {"app": "x"}}}, "status": {"disruptionsAllowed": 0}},
        ],
    )
    assert found == Side("v2", 3, 1, ("echo-v2",), Autoscaler("mine", "echo-v2", 2, 5), (Budget("mine", 1),))


def test_pods_without_a_deployment_are_wanted_as_they_run() -> None:
    assert _capacity.read_side("v2", LABELS, [pod(), pod(ready=False)], [], [], []).wanted == 2


def test_autoscaler_of_a_deployment_at_0_does_nothing() -> None:
    scaler = _capacity.read_autoscaler(autoscaler("hpa", "echo-v2"), 0)
    assert scaler.disabled
    assert not _capacity.read_autoscaler(autoscaler("hpa", "echo-v2"), 1).disabled


def test_full_is_what_the_serving_version_wants_or_its_autoscaler_keeps() -> None:
    canary = side("v2", 7)
    assert _capacity.full_pods(side("v1", 3), canary, 50) == (3, "pods wanted by Deployment echo-v1")
    kept = side("v1", 3, autoscaler=Autoscaler("blue", "echo-v1", 5, 9))
    assert _capacity.full_pods(kept, canary, 0) == (5, "minReplicas of HorizontalPodAutoscaler blue")
    assert _capacity.full_pods(side("v1", 0), side("v2", 0), 0)[0] == 0


def test_full_is_not_taken_from_a_version_that_may_have_shrunk_without_its_traffic() -> None:
    canary = side("v2", 7)
    assert _capacity.full_pods(side("v1", 3), canary, 100) == (7, "pods wanted by Deployment echo-v2")
    assert _capacity.full_pods(side("v1", 9), canary, 100)[0] == 9
    stopped = side("v1", 0, autoscaler=Autoscaler("blue", "echo-v1", 5, 9, disabled=True))
    assert _capacity.full_pods(stopped, canary, 50) == (7, "pods wanted by Deployment echo-v2")


def test_missing_rights_are_told_with_the_verdict() -> None:
    world = replace(survey(1, side("v1", 1), side("v2", 1)), warnings=("no right to list poddisruptionbudgets",))
    assert judge(world, 0, 100).warnings == ["no right to list poddisruptionbudgets"]


@pytest.mark.parametrize("full", [0, -1])
def test_full_must_be_a_number_of_pods(full: int) -> None:
    assert _capacity.problems_of({"full": full}) == [f"capacity.full is {full}, expected a number of pods of at least 1"]
    assert _capacity.problems_of({"full": 1}) == _capacity.problems_of({"full": None}) == _capacity.problems_of(None) == []
