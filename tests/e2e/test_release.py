# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a release does when all goes well, and what it does when something breaks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _catalogue

from .conftest import LAB, SINK, Stage, labctl

BLUE, GREEN = [100, 0], [0, 100]


def test_release_loses_no_request_and_a_second_run_changes_nothing(stage: Stage) -> None:
    first = stage.play("deploy_v2")
    assert first.code == 0, first.output[-4000:]
    assert stage.weights() == GREEN and stage.replicas("v1") == 2 and stage.replicas("v2") == 2
    record = stage.record()
    assert record["outcome"] == "complete" and stage.holder() == ""
    assert [entry["weight"] for entry in record["weights"]] == [10, 50, 100]
    for step in ("database_migration", "configuration", "blue_green", "canary_10", "canary_50", "canary_100", "verification"):
        assert record["steps"][step]["status"] == "done", step
    assert "| Route 100% traffic" in first.output and "kubectl" in first.output
    sent = Counter(message["name"] for message in stage.messages() if message["channel"] == "http")
    mails = [message for message in stage.messages() if message["channel"] == "smtp"]
    assert sent == {"platform-status": len(mails)} and len(mails) >= 3
    # What was sent is in the record, so that no later run says it again.
    assert len(stage.told()) == len(mails)

    page = stage.report(first)
    assert page.count("<figure>") == len({metric["name"] for metric in record["steps"]["canary_100"]["evidence"]["metrics"]})
    assert 'class="badge good">complete' in page and "Not drawn" not in page and record["id"] in page

    second = stage.play("deploy_v2")
    assert second.code == 0 and second.changed == 0, second.output[-4000:]
    assert "was complete already: nothing was changed" in second.output
    assert len([message for message in stage.messages() if message["channel"] == "smtp"]) == len(mails)

    totals = stage.traffic()
    assert totals["sent"] > 2000 and totals["versions"]["v2"] > 0
    assert (totals["failed"], totals["causes"]) == (0, {})
    assert totals["websocket"]["closed"] == {}

    # The line that needs none of this collection works as it was printed.
    line = record["break_glass"]
    assert line in [printed.strip() for printed in first.output.splitlines()], "it must be printed whole, on one line"
    environment = {**os.environ, "KUBECONFIG": str(LAB / "kubeconfig" / "deployer"), "PATH": f"{LAB / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stage.weights() == BLUE


def test_release_begins_once_people_have_attested_what_it_demands_and_ticks_the_other_boxes_itself(stage: Stage) -> None:
    demanded = {"preflight_required_boxes": ["code.features", "code.review"]}
    refused = stage.play("deploy_v2", **demanded)
    flat = " ".join(refused.output.split())
    assert refused.code != 0 and "2 of 2 boxes that must be ticked" in flat and "code.review 'Code review completed'" in flat
    assert stage.record() == {} and stage.weights() == BLUE and stage.replicas("v2") is None
    attested = stage.play("attest", attest_items="code.features, code.review", attest_comment="pull request 412")
    assert attested.code == 0 and attested.changed == 1, attested.output[-4000:]
    deployed = stage.play("deploy_v2", **demanded)
    assert deployed.code == 0, deployed.output[-4000:]
    shown = stage.play("status")
    assert shown.code == 0, shown.output[-4000:]
    boxes = dict(reversed(box) for box in re.findall(r"^ +\[(.)\] .*?\(([a-z_0-9]+\.[a-z_0-9]+):\s", shown.output, re.MULTILINE))
    assert list(boxes) == [item.id for item in _catalogue.ITEMS]
    # The quick release runs no load test and is too short for a leak; the old version is still there.
    later = {"step_4.performance", "technical.memory_leaks", "step_5.remove_old", "step_5.service", "step_5.configmaps"}
    # Nobody has announced it, and nobody has signed it off.
    later |= {item.id for item in _catalogue.ITEMS if item.section in ("communication_before", "signoff")}
    open_boxes = {item.id for item in _catalogue.ITEMS if item.proof not in ("", _catalogue.KEPT) and boxes[item.id] not in "x-"}
    assert open_boxes == later, shown.output[-12000:]
    assert boxes["code.review"] == "x" and boxes["signoff.qa"] == " " and "pull request 412" in shown.output


@pytest.mark.box("communication_during.issues", *(item.id for item in _catalogue.ITEMS if item.step.startswith("canary_")))
@pytest.mark.parametrize("weight", [10, 50, 100])
def test_breach_at_any_step_ends_with_all_traffic_on_blue(stage: Stage, weight: int) -> None:
    run = stage.start("deploy_v2", canary_hold_seconds=12, canary_bake_seconds=12)
    stage.until(f"green has {weight} %", lambda: stage.weights()[1] == weight)
    labctl("break", "error-ratio", "0.3")
    stage.until("traffic is back", lambda: stage.weights() == BLUE, 15)
    ended = run.end()
    assert ended.code != 0
    assert stage.weights() == BLUE and stage.replicas("v2") == 0 and stage.replicas("v1") == 2
    record = stage.record()
    assert record["outcome"] == "rolled_back" and record["steps"][f"canary_{weight}"]["status"] == "failed"
    assert stage.holder() == ""
    message = ended.output[ended.output.rindex("The release of v2 failed") :]
    flat = " ".join(message.split())
    assert "error" in flat and "%" in flat and "0.1" in flat and "All traffic is on v1" in flat
    assert "Traceback" not in ended.output
    assert 'class="badge bad">rolled back' in stage.report(ended)
    holds = [item.id for item in _catalogue.ITEMS if item.section == "step_3" and item.step == f"canary_{weight}"]
    measured = ["technical.error_rate", "technical.latency", "technical.memory_leaks"] if weight == 100 else []
    assert set(stage.boxes(*holds, *measured).values()) == {"failed"}
    assert stage.boxes("communication_during.issues", "communication_after.completion", "step_4.health") == {
        "communication_during.issues": "proven", "communication_after.completion": "open", "step_4.health": "open",
    }
    # The database keeps the new schema, on which v1 runs; the record says so.
    assert "0004" in record["steps"]["rollback"]["notes"] and stage.revision() == "0004"
    assert any("rolled back" in str(message) for message in stage.messages())


@pytest.mark.box("step_3.green", "step_3.ready", "step_3.smoke", "communication_during.issues")
def test_green_that_crashes_never_gets_traffic(stage: Stage) -> None:
    labctl("break", "crash-loop")
    labctl("break", "sink-down")
    before = stage.virtual_service["metadata"]["resourceVersion"]
    ended = stage.play("deploy_v2")
    assert ended.code != 0 and "restarted" in ended.output
    assert stage.virtual_service["metadata"]["resourceVersion"] == before
    assert stage.replicas("v2") == 0 and stage.record()["steps"]["blue_green"]["status"] == "failed"
    assert set(stage.boxes("step_3.green", "step_3.ready", "step_3.smoke").values()) == {"failed"}
    assert stage.boxes("communication_during.issues") == {"communication_during.issues": "open"}
    assert stage.lost() == {}


def test_metrics_that_vanish_hold_the_weight_and_then_go_back(stage: Stage) -> None:
    run = stage.start("deploy_v2", canary_hold_seconds=12)
    stage.until("green has 10 %", lambda: stage.weights() == [90, 10])
    labctl("break", "prometheus-down")
    time.sleep(3)
    assert stage.weights() == [90, 10], "an outage of the metrics alone must not move traffic at once"
    ended = run.end()
    assert ended.code != 0 and stage.weights() == BLUE and stage.replicas("v2") == 0
    assert stage.lost() == {}


def test_foreign_edit_is_seen_and_its_writer_named(stage: Stage) -> None:
    run = stage.start("deploy_v2")
    stage.until("green has 10 %", lambda: stage.weights() == [90, 10])
    labctl("break", "foreign-edit")
    edited = stage.weights()
    ended = run.end()
    assert ended.code != 0 and edited != [90, 10]
    flat = " ".join(ended.output.split())
    assert f"the canary's weight is {edited[1]}, expected 10" in flat and "Last written by" in flat


@pytest.mark.box("communication_during.start", "communication_during.milestones", "communication_after.completion")
def test_dead_webhook_does_not_stop_a_release(stage: Stage) -> None:
    labctl("break", "sink-down")
    ended = stage.play("deploy_v2")
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == GREEN and SINK not in ended.output
    unsent = ("communication_during.start", "communication_during.milestones", "communication_after.completion")
    assert set(stage.boxes(*unsent).values()) == {"open"}
    assert stage.boxes("communication_during.issues") == {"communication_during.issues": "not_needed"}


def test_second_deployer_is_refused_while_the_first_goes_on(stage: Stage) -> None:
    first = stage.start("deploy_v2")
    stage.until("the first holds the release", lambda: stage.holder() != "")
    holder = stage.holder()
    second = stage.play("deploy_v2")
    assert second.code != 0 and holder in " ".join(second.output.split())
    ended = first.end()
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == GREEN


# INT and HUP in a hold: test_interruption.py.
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_release_that_is_killed_in_a_hold_leaves_no_traffic_on_green(stage: Stage, name: str) -> None:
    run = stage.start("deploy_v2", canary_hold_seconds=60)
    stage.until("green has 10 %", lambda: stage.weights() == [90, 10])
    # The hold itself must have begun: its first live line says so.
    stage.until("the hold shows its first line", lambda: "hold 0" in run.log.read_text(encoding="utf-8"))
    run.process.send_signal(getattr(signal, name))
    stage.until("traffic is back", lambda: stage.weights() == BLUE, 10)
    run.process.wait(30)
    assert run.process.returncode != 0
    time.sleep(1)
    assert stage.weights() == BLUE, "nothing may move traffic to green again after the interruption"
    assert stage.lost() == {}


def test_rollback_by_hand_goes_back_and_a_second_one_writes_nothing(stage: Stage) -> None:
    assert stage.play("deploy_v2").code == 0
    ended = stage.play("rollback")
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == BLUE and stage.replicas("v2") == 0
    assert stage.record()["outcome"] == "rolled_back"
    version = stage.virtual_service["metadata"]["resourceVersion"]
    again = stage.play("rollback")
    assert again.code == 0 and again.changed == 0, again.output[-4000:]
    assert stage.virtual_service["metadata"]["resourceVersion"] == version
    assert stage.lost() == {}


@pytest.mark.box("step_5.remove_old", "step_5.service", "step_5.configmaps")
def test_cleanup_removes_blue_only_after_confirmation_and_a_complete_release(stage: Stage) -> None:
    early = stage.play("cleanup", cleanup_confirmed=True)
    assert early.code != 0 and stage.replicas("v1") == 2
    assert set(stage.boxes("step_5").values()) == {"open"}
    assert stage.play("deploy_v2").code == 0
    unconfirmed = stage.play("cleanup")
    assert unconfirmed.code != 0 and stage.replicas("v1") == 2
    ended = stage.play("cleanup", cleanup_confirmed=True)
    assert ended.code == 0, ended.output[-4000:]
    assert stage.replicas("v1") is None and stage.weights() == GREEN
    service = stage.find("", "v1", "services", "signal-service")
    assert service is not None and service["spec"]["selector"]["version"] == "v2"
    assert stage.find("", "v1", "configmaps", "signal-service-config-v1") is None
    assert set(stage.boxes("step_5").values()) == {"proven"}
    # The WebSockets that blue had all along did not leave by themselves: they were counted, and told to go.
    drain = stage.record()["steps"]["cleanup"]["evidence"]["drain"]
    assert drain["start"]["websockets"] == 10 and drain["cut"] == 10 and drain["end"]["requests"] == 0
    again = stage.play("cleanup", cleanup_confirmed=True)
    assert again.code == 0 and again.changed == 0, again.output[-4000:]
    totals = stage.traffic()
    assert totals["failed"] == 0 and totals["websocket"]["closed"] == {"1001": 10}


def test_check_mode_prints_the_plan_and_writes_nothing(stage: Stage) -> None:
    before = stage.virtual_service["metadata"]["resourceVersion"]
    ended = stage.play("deploy_v2", "--check")
    assert ended.code == 0, ended.output[-4000:]
    said = " ".join(ended.output.split())
    assert "Would have " in said and "pods ready, route 10 % of the traffic to v2" in said
    assert stage.virtual_service["metadata"]["resourceVersion"] == before
    assert stage.record() == {} and stage.holder() == "" and stage.replicas("v2") is None and stage.revision() == "0001"


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt variables": ({"canery_steps": [10, 100], "canary_hold_second": 5}, ["canery_steps", "canary_hold_second"]),
    "steps and limits out of range": (
        {"canary_steps": [50, 10, 101], "canary_max_error_percent": 150, "canary_max_p99_ms": -1},
        ["canary_steps", "canary_max_error_percent", "canary_max_p99_ms"],
    ),
    "wrong cluster": ({"rollout_cluster_server": "https://10.0.0.1:6443"}, ["rollout_cluster_server"]),
    "wrong environment": ({"rollout_environment": "staging"}, ["rollout_environment"]),
    "missing rights": ({"rollout_kubeconfig": "{{ signal_lab_dir }}/kubeconfig/viewer"}, ["patch", "virtualservices"]),
    "wrong database password and unreachable Prometheus": (
        {"rollout_db_owner_password": "certainly-not-it", "rollout_prometheus_url": "http://10.79.0.99:9090"},
        ["rollout_db_owner", "rollout_prometheus_url"],
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_by_name_before_the_first_write(stage: Stage, case: str) -> None:
    variables, words = BAD[case]
    before = stage.virtual_service["metadata"]["resourceVersion"]
    ended = stage.play("deploy_v2", **variables)
    assert ended.code != 0
    missing = [word for word in words if word not in ended.output]
    assert not missing, ended.output[-4000:]
    assert "certainly-not-it" not in ended.output and "Traceback" not in ended.output
    assert stage.record() == {} and stage.holder() == "" and stage.replicas("v2") is None
    assert stage.virtual_service["metadata"]["resourceVersion"] == before and stage.revision() == "0001"
    assert stage.messages() == []
