# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checklist: that it is the document's, and what ticks a box."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _catalogue, _checklist, _release_checklist
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "deployment_checklist.md"
BOX = re.compile(r"^( *)- \[ \] (.+)$")


def boxes_of_the_document() -> list[tuple[str, str, bool, str]]:
    part = title = ""
    found = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            part, title = line[3:], ""
        elif line.startswith("### "):
            title = line[4:]
        box = BOX.match(line)
        if box:
            found.append((part, title, bool(box[1]), box[2].replace("**", "")))
    return found


def step(status: str = "done", notes: str = "", **evidence: Any) -> dict[str, Any]:
    return {"status": status, "notes": notes, "evidence": evidence}


METRIC = {"verdict": "pass", "worst": 0.02, "limit": 0.1, "condition": "< 0.1", "unit": "%", "samples": 900, "dry_run": False}
GATE = {
    "verdict": "pass",
    "seconds": 900.4,
    "confirmed": {"method": "envoy", "seconds": 0.12},
    "metrics": [
        *({**METRIC, "name": name} for name in ("error rate", "latency p99", "CPU of limit", "memory of limit")),
        {**METRIC, "name": "memory growth", "evidence": {"slope": {"per_hour": 0.1, "low": -0.2, "high": 0.4, "samples": 60}}},
    ],
}
CHECKS = [
    {"name": name, "ok": True, "latency_ms": {"p99": 12.5}}
    for name in ("health", "real-time Greeks", "moneyness Greeks", "historical Greeks", "custom timeframe", "existing integrations", "WebSocket")
]
COMPLETE: dict[str, Any] = {
    "version": "v2",
    "finished": "2026-11-24T14:00:00Z",
    "messages": ["t_24h", "t_2h", "t_30m", "metrics", "documentation", "start", "milestone:10 %", "completion"],
    "steps": {
        "database_migration": step(
            **{"from": "a1", "to": "b2"}, verdict="pass", timescaledb="2.19.3", tables=["signal_greeks"],
            backups=[{"file": "x.dump", "bytes": 10, "sha256": "f00", "verified": "read in full"}],
        ),
        "configuration": step(configmap="config-v2", configmap_keys=["A"], secret="secrets-v2", secret_keys=["B", "C"]),
        "blue_green": step(replicas={"available": 2}, smoke=CHECKS),
        "canary_10": step(**GATE),
        "canary_50": step(**GATE),
        "canary_100": step(**GATE),
        "verification": step(checks=CHECKS, load_test="load_test.js"),
        "cleanup": step(removed=["Deployment signal-service-v1", "ConfigMap signal-service-config-v1"]),
    },
}


def tick_of(name: str, record: dict[str, Any]) -> _checklist.Tick:
    return next(tick for tick in _checklist.ticks(record, {}) if tick.item.id == name)


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """A complete record in which the evidence of one step is another."""
    before = COMPLETE["steps"][name]
    return {**COMPLETE, "steps": {**COMPLETE["steps"], name: {**before, "evidence": {**before["evidence"], **changes}}}}


def test_the_catalogue_has_the_boxes_of_the_document_in_its_order_and_words() -> None:
    own = [
        (section.part, section.title, item.nested, item.words) for section in _catalogue.SECTIONS for item in section.items
    ]
    assert own == boxes_of_the_document()
    assert len(own) == 98


def test_every_box_has_an_id_of_its_section_and_a_rule_that_exists() -> None:
    assert len(_catalogue.BY_ID) == 98
    for section in _catalogue.SECTIONS:
        assert all(item.section == section.id for item in section.items)
    used = {item.proof.split(" ")[0] for item in _catalogue.ITEMS if item.proof}
    assert used - {_catalogue.KEPT} == _checklist.RULES | {"message", "signoff"}
    assert all(item.proof == _catalogue.KEPT for item in _catalogue.ITEMS if item.fallback)


def test_every_box_says_which_task_ticks_it_and_what_counts_as_proof() -> None:
    assert [item.id for item in _catalogue.ITEMS if not _catalogue.proven_by(item) or not _catalogue.what_counts(item)] == []
    assert set(_catalogue._KEPT_WORDS) == {item.id for item in _catalogue.ITEMS if item.proof == _catalogue.KEPT}


def test_a_complete_release_ticks_every_box_that_is_not_for_people() -> None:
    proofs = {item.id: {"state": "proven", "evidence": "12 of 12"} for item in _catalogue.ITEMS if item.proof == _catalogue.KEPT}
    found = _checklist.ticks(COMPLETE, {}, proofs)
    assert [(tick.item.id, tick.evidence) for tick in found if tick.item.kind == "automatic" and not tick.ticked] == []
    assert {tick.state for tick in found if tick.item.kind == "attested"} == {"open"}


def test_without_a_record_nothing_is_ticked() -> None:
    assert _checklist.summary(_checklist.ticks({}, {})) == {
        "proven": 0, "attested": 0, "not_needed": 0, "open": 98, "failed": 0, "ticked": 0, "total": 98,
    }


def test_each_box_of_a_step_that_failed_is_shown_as_failed_with_the_reason() -> None:
    record = {**COMPLETE, "steps": {**COMPLETE["steps"], "blue_green": step("failed", "pod crashes")}}
    for name in ("step_3.green", "step_3.ready", "step_3.smoke"):
        assert tick_of(name, record).state == "failed"
        assert "pod crashes" in tick_of(name, record).evidence


@pytest.mark.parametrize(
    ("box", "name", "changes", "state"),
    [
        ("step_1.backup", "database_migration", {"backups": [{"file": "x.dump", "sha256": "", "verified": "no"}]}, "open"),
        ("step_1.backup", "database_migration", {"backups": []}, "not_needed"),
        ("step_1.migrate", "database_migration", {"to": ""}, "open"),
        ("step_1.tables", "database_migration", {"tables": []}, "open"),
        ("step_1.hypertables", "database_migration", {"verdict": "fail"}, "open"),
        ("step_2.secrets", "configuration", {"secret": ""}, "open"),
        ("step_3.ready", "blue_green", {"replicas": {"available": 0}}, "open"),
        ("step_3.smoke", "blue_green", {"smoke": []}, "open"),
        ("step_3.smoke", "blue_green", {"smoke": [{"name": "health", "ok": False}]}, "failed"),
        ("step_3.canary_10", "canary_10", {"confirmed": {"method": "unconfirmed"}}, "open"),
        ("step_3.hold_10", "canary_10", {"verdict": "breach", "reason": "error rate"}, "failed"),
        ("step_3.hold_10", "canary_10", {"metrics": []}, "open"),
        ("step_3.hold_10_cpu", "canary_10", {"metrics": []}, "open"),
        ("step_3.hold_10_errors", "canary_10", {"metrics": [{**METRIC, "name": "error rate", "dry_run": True}]}, "open"),
        ("step_3.hold_10_errors", "canary_10", {"metrics": [{**METRIC, "name": "error rate", "verdict": "breach"}]}, "failed"),
        ("technical.memory_leaks", "canary_100", {"metrics": [{**METRIC, "name": "memory growth", "evidence": {}}]}, "open"),
        ("step_4.performance", "verification", {"load_test": "none"}, "open"),
        ("step_4.historical", "verification", {"checks": CHECKS[:1]}, "open"),
        ("technical.websocket_latency", "verification", {"checks": [{**CHECKS[-1], "latency_ms": {"p99": 50.0}}]}, "failed"),
        ("technical.websocket_latency", "verification", {"checks": [{**CHECKS[-1], "latency_ms": None}]}, "open"),
        ("step_5.remove_old", "cleanup", {"removed": []}, "not_needed"),
        ("step_2.configmaps", "configuration", {"truncated": True}, "open"),
    ],
)
def test_a_box_is_not_ticked_by_evidence_that_does_not_prove_it(box: str, name: str, changes: dict[str, Any], state: str) -> None:
    assert tick_of(box, COMPLETE).state == "proven"
    assert tick_of(box, changed(name, **changes)).state == state


def test_the_figures_of_a_metric_are_shown_with_its_limit() -> None:
    assert tick_of("step_3.hold_10_errors", COMPLETE).evidence == "worst 0.02, limit < 0.1 %, 900 samples"


def test_problems_must_have_been_told_if_there_were_any() -> None:
    troubled = {**COMPLETE, "steps": {**COMPLETE["steps"], "verification": step("failed")}}
    assert tick_of("communication_during.issues", COMPLETE).state == "not_needed"
    assert tick_of("communication_during.issues", troubled).state == "open"
    assert tick_of("communication_during.issues", {**troubled, "messages": ["issue:rollback"]}).state == "proven"


def test_an_attestation_is_shown_with_who_when_and_why() -> None:
    entry = {"by": "jane", "time": "2026-11-24T10:00:00Z", "comment": "pull request 412"}
    tick = next(tick for tick in _checklist.ticks({}, {"code.review": entry}) if tick.item.id == "code.review")
    assert (tick.state, tick.evidence) == ("attested", "by jane at 2026-11-24T10:00:00Z: pull request 412")


def test_an_attestation_never_ticks_a_box_that_the_record_ticks() -> None:
    entry = {"by": "jane", "time": "2026-11-24T10:00:00Z", "comment": ""}
    assert next(tick for tick in _checklist.ticks({}, {"step_1.backup": entry}) if tick.item.id == "step_1.backup").state == "open"


REDIS, DASHBOARDS = "infrastructure.redis", "infrastructure.dashboards"
ENTRY = {"by": "jane", "time": "2026-11-24T10:00:00Z", "comment": ""}


@pytest.mark.parametrize(
    ("box", "attestation", "proof", "state"),
    [
        (REDIS, None, None, "open"),
        (REDIS, ENTRY, None, "open"),
        (REDIS, None, "proven", "proven"),
        (REDIS, ENTRY, "failed", "failed"),
        (DASHBOARDS, None, None, "open"),
        (DASHBOARDS, ENTRY, None, "attested"),
        (DASHBOARDS, ENTRY, "proven", "proven"),
        (DASHBOARDS, ENTRY, "failed", "failed"),
        (DASHBOARDS, None, "not_needed", "not_needed"),
        ("code.features", None, "proven", "open"),
        ("step_1.backup", None, "proven", "open"),
    ],
)
def test_a_measurement_counts_more_than_an_attestation_which_counts_only_where_people_may_fall_back_on_it(
    box: str, attestation: dict[str, Any] | None, proof: str | None, state: str
) -> None:
    attestations = {box: attestation} if attestation else {}
    proofs = {box: {"state": proof, "evidence": "5 of 5"}} if proof else {}
    assert next(tick.state for tick in _checklist.ticks({}, attestations, proofs) if tick.item.id == box) == state


def test_a_kept_proof_is_shown_with_its_figures_and_its_time() -> None:
    proofs = {REDIS: {"state": "proven", "evidence": "PING p99 0.4 ms", "time": "2026-11-24T10:00:00Z", "by": "jane"}}
    tick = next(tick for tick in _checklist.ticks({}, {}, proofs) if tick.item.id == REDIS)
    assert tick.evidence == "PING p99 0.4 ms (2026-11-24 10:00 UTC)"


def test_attestations_for_another_version_or_plan_do_not_count() -> None:
    proofs = {"infrastructure.redis": {"state": "proven"}}
    kept = {"version": "v2", "plan_hash": "aa", "attestations": {"code.review": {"by": "jane"}}, "proofs": proofs}
    counting = _release_checklist.Kept({"code.review": {"by": "jane"}}, {"infrastructure.redis": {"state": "proven"}})
    nothing = _release_checklist.Kept({}, {})
    assert _release_checklist.valid(kept, "v2", "aa") == _release_checklist.valid(kept, "v2", None) == counting
    assert _release_checklist.valid(kept, "v3", "aa") == _release_checklist.valid(kept, "v2", "bb") == _release_checklist.valid({}, "v2", "aa") == nothing


def test_the_text_shows_each_box_once_with_its_id() -> None:
    text = _checklist.text(_checklist.ticks(COMPLETE, {}))
    assert len(re.findall(r"^ +\[[x !-]\] ", text, re.MULTILINE)) == 98
    assert "[x] Backup current database  (step_1.backup: x.dump, 10 bytes, verified: read in full)" in text
    assert "Code Readiness (0 of 7)" in text


def options(**asked: Any) -> dict[str, Any]:
    given = {"namespace": "signal", "service": "signal-service", "version": "v2", "plan": {}, **asked}
    checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC, **_release_checklist.SPEC_RULES).validate(given)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def test_wrong_boxes_are_refused_all_at_once_before_anything_is_read() -> None:
    asked = options(state="attested", items=["code.reviw", "step_1", "code"], comment="x" * 301)
    with pytest.raises(RolloutError) as refused:
        _release_checklist.run(asked, Context())
    message = refused.value.message
    assert "items holds 'code.reviw'" in message and "code.review" in message
    assert "step_1.backup ('Backup current database') is ticked by what is measured" in message
    assert "comment has 301 characters" in message and "Nothing was written" in message


def test_proofs_that_could_not_count_are_refused_all_at_once() -> None:
    good = {"state": "proven", "evidence": "5 of 5"}
    asked = options(
        state="proven",
        proofs={
            "code.reviw": good,
            "step_1.backup": good,
            "code.features": good,
            REDIS: {"state": "open", "evidence": "x"},
            DASHBOARDS: {"state": "proven", "evidence": " "},
        },
    )
    with pytest.raises(RolloutError) as refused:
        _release_checklist.run(asked, Context())
    message = refused.value.message
    assert "proofs holds 'code.reviw'" in message
    assert "proofs.step_1.backup: the box is ticked by the record's step database_migration" in message
    assert "proofs.code.features: the box is ticked by people" in message
    assert f"proofs.{REDIS}.state is 'open', expected one of proven, not_needed, failed" in message
    assert f"proofs.{DASHBOARDS}.evidence is empty" in message and "Nothing was written" in message


def test_a_sign_off_ticks_its_box_and_nobody_attests_it() -> None:
    entry = {"by": "jane", "time": "2026-11-24T10:00:00Z"}
    signed = {"signoffs": {"qa": ("attested", "approved by quinn"), "security": ("failed", "rejected by sven")}}
    found = {tick.item.id: tick for tick in _checklist.ticks({**COMPLETE, **signed}, {"signoff.devops": entry})}
    assert [found[f"signoff.{role}"].state for role in ("qa", "security", "devops")] == ["attested", "failed", "open"]
    assert found["signoff.qa"].evidence == "approved by quinn" and found["signoff.qa"].item.kind == "attested"
    assert "signoff.yml" in _checklist.mistakes_in({"signoff.qa": {"state": "proven", "evidence": "x"}})[0]
