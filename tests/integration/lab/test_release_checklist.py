# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checklist in the lab's API server, beside the record of a release."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _catalogue, _kube, _release_checklist
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import connection
from .test_rollout_record import PLAN, Release


@pytest.fixture
def release(kube: _kube.Kube) -> Iterator[Release]:
    made = Release(kube)
    yield made
    made.remove()


def checklist(release: Release, state: str = "shown", who: str = "deployer", check_mode: bool = False, **asked: Any) -> dict[str, Any]:
    given = {**connection(who), "service": release.service, "version": "v2", "plan": PLAN, "state": state, **asked}
    given = {key: value for key, value in given.items() if value is not None}
    checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC, **_release_checklist.SPEC_RULES).validate(given)
    assert not checked.error_messages, checked.error_messages
    return _release_checklist.run(checked.validated_parameters, Context(check_mode=check_mode))


def box(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in answer["items"] if entry["id"] == name)


def test_a_box_is_attested_before_the_release_begins_and_still_is_when_it_has(release: Release) -> None:
    first = checklist(release, "attested", items=["code.review"], comment="pull request 412")
    assert first["changed"] and box(first, "code.review")["state"] == "attested"
    release.begin()
    release.act("step", step="configuration", status="done", evidence={"configmap": "config-v2", "configmap_keys": ["A"]})
    shown = checklist(release)
    assert box(shown, "code.review")["evidence"].endswith(": pull request 412")
    assert box(shown, "step_2.configmaps")["state"] == "proven"
    assert release.act("show")["record"]["steps"]["configuration"]["status"] == "done"


def test_who_attests_is_whom_the_api_server_has_authenticated(release: Release) -> None:
    first = checklist(release, "attested", items=["code.review"])
    review = _kube.connect(connection("deployer")).post(
        _kube.path_of("authentication.k8s.io", "v1", "selfsubjectreviews"),
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
    )
    assert box(first, "code.review")["evidence"].startswith(f"by {review['status']['userInfo']['username']} at 20")


def test_attesting_again_changes_nothing_and_revoking_opens_the_box(release: Release) -> None:
    checklist(release, "attested", items=["documentation"])
    assert not checklist(release, "attested", items=["documentation"])["changed"]
    revoked = checklist(release, "revoked", items=["documentation.runbook"])
    assert revoked["changed"] and box(revoked, "documentation.runbook")["state"] == "open"
    assert revoked["summary"]["attested"] == 4
    assert not checklist(release, "revoked", items=["documentation.runbook"])["changed"]


def test_attestations_do_not_count_for_another_plan(release: Release) -> None:
    checklist(release, "attested", items=["code.features"])
    assert checklist(release, plan={**PLAN, "steps": [100]})["summary"]["attested"] == 0
    release.begin(plan={**PLAN, "steps": [100]})
    assert checklist(release, plan=None)["summary"]["attested"] == 0


def test_demanded_boxes_that_are_open_are_all_named(release: Release) -> None:
    checklist(release, "attested", items=["code.review", "code.features"])
    with pytest.raises(RolloutError, match="2 of 4 boxes") as refused:
        checklist(release, "required", items=["code.review", "code.features", "code.benchmarks", "step_1.backup"])
    message = refused.value.message
    assert "code.benchmarks 'Performance benchmarks met' (open" in message and "step_1.backup" in message
    assert "attest_items=code.benchmarks" in message and "attest_items=code.benchmarks,step_1" not in message
    assert not checklist(release, "required", items=["code.review"])["changed"]


REDIS = "infrastructure.redis"
FAST, SLOW = ({"state": state, "evidence": f"PING p99 {ms} ms"} for state, ms in (("proven", 0.4), ("failed", 90)))


def test_a_proof_is_kept_for_this_version_and_plan_and_the_latest_counts(release: Release) -> None:
    checklist(release, "attested", items=["code.features"])
    first = checklist(release, "proven", proofs={REDIS: FAST})
    assert first["changed"] and box(first, REDIS)["state"] == "proven"
    assert not checklist(release, "proven", proofs={REDIS: FAST})["changed"]
    release.begin()
    shown = checklist(release, plan=None)
    assert box(shown, REDIS)["evidence"].startswith("PING p99 0.4 ms (20")
    assert box(shown, "code.features")["state"] == "attested"
    assert box(checklist(release, "proven", plan=None, proofs={REDIS: SLOW}), REDIS)["state"] == "failed"
    assert box(checklist(release, plan={**PLAN, "steps": [100]}), REDIS)["state"] == "open"


def test_a_proof_that_was_just_made_counts_for_what_is_demanded_without_a_write(release: Release) -> None:
    assert not checklist(release, "required", items=[REDIS], proofs={REDIS: FAST})["changed"]
    assert box(checklist(release), REDIS)["state"] == "open"
    with pytest.raises(RolloutError, match="infrastructure.redis 'Redis cluster ready' .failed: PING p99 90 ms"):
        checklist(release, "required", items=[REDIS], proofs={REDIS: SLOW})


def test_a_proof_without_a_plan_and_without_a_record_is_refused(release: Release) -> None:
    with pytest.raises(RolloutError, match="plan is not given"):
        checklist(release, "proven", plan=None, proofs={REDIS: FAST})


def test_check_mode_writes_nothing(release: Release) -> None:
    assert checklist(release, "attested", check_mode=True, items=["code.review"])["changed"]
    assert checklist(release)["summary"]["attested"] == 0


def test_nothing_is_lost_while_the_release_and_people_write_at_once(release: Release) -> None:
    release.begin()
    people = [item.id for item in _catalogue.ITEMS if item.for_people]
    shares = [people[number::5] for number in range(5)]
    failures: list[BaseException] = []

    def work(task: Any, *arguments: Any, **asked: Any) -> None:
        try:
            task(*arguments, **asked)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(checklist, release, "attested"), kwargs={"items": share}) for share in shares]

    def send() -> None:
        for number in range(3):
            release.act("message", events=[f"event-{number}"])

    threads.append(threading.Thread(target=work, args=(send,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert checklist(release)["summary"]["attested"] == len(people)
    assert set(release.act("show")["record"]["messages"]) == {"event-0", "event-1", "event-2"}
