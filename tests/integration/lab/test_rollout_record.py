# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lock and record against the lab's API server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _events, _kube, _record
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from .conftest import connection

PLAN = {"image": "localhost/signal-service:v2", "steps": [10, 50, 100]}


class Release:
    """One service's release, acted upon by named runs."""

    def __init__(self, kube: _kube.Kube) -> None:
        self.kube = kube
        self.service = f"record-{uuid.uuid4().hex[:8]}"

    def act(self, state: str, holder: str = "run-a", check_mode: bool = False, **options: Any) -> dict[str, Any]:
        params: dict[str, Any] = {
            **dict.fromkeys(_record.ARGUMENT_SPEC),
            **connection("deployer"),
            "state": state, "service": self.service, "holder": holder, "lease_duration": 1,
            **options,
        }
        return _record.run(params, Context(check_mode=check_mode))

    def begin(self, holder: str = "run-a", plan: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        return self.act("begin", holder, plan=plan or PLAN, version="v2", **options)

    def remove(self) -> None:
        lease = _kube.path_of("coordination.k8s.io", "v1", "leases", "signal", _record.lease_name(self.service))
        record = _kube.path_of("", "v1", "configmaps", "signal", _record.record_name(self.service))
        for path in (lease, record):
            if self.kube.find(path):
                self.kube.delete(path)


@pytest.fixture
def release(kube: _kube.Kube) -> Iterator[Release]:
    made = Release(kube)
    yield made
    made.remove()


def test_second_deployer_is_refused_and_told_who_holds_the_release(release: Release) -> None:
    assert release.begin("run-a")["changed"]
    release.act("step", step="blue_green", status="started")
    with pytest.raises(_record.Locked, match="held by 'run-a' .step 'blue_green'.*rollout_takeover='run-a'"):
        release.begin("run-b")
    assert release.act("show")["holder"] == "run-a"


def test_of_many_deployers_at_once_exactly_one_gets_the_release(release: Release) -> None:
    for _unused in range(10):
        won = _race(release, [f"run-{number}" for number in range(4)])
        assert len(won) == 1
        assert release.act("show")["holder"] == won[0]
        assert release.act("release", won[0])["holder"] == ""


def _race(release: Release, names: list[str]) -> list[str]:
    """Have all of them begin in the same moment; return who got the release."""
    barrier = threading.Barrier(len(names))
    won: list[str] = []

    def deploy(name: str) -> None:
        barrier.wait()
        try:
            release.begin(name)
        except _record.Locked:
            return
        won.append(name)

    threads = [threading.Thread(target=deploy, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return won


def test_step_is_found_by_a_later_run_that_shares_nothing_but_the_cluster(release: Release) -> None:
    release.begin()
    release.act("step", step="canary_10", status="started")
    release.act("step", step="canary_10", status="done", notes="0.00 %", evidence={"worst": 0.0}, weight=10)
    release.act("release")
    shown = release.act("show", "run-b")
    step = shown["record"]["steps"]["canary_10"]
    assert (step["status"], step["notes"], step["evidence"]) == ("done", "0.00 %", {"worst": 0.0})
    assert [entry["weight"] for entry in shown["record"]["weights"]] == [10]
    assert "Route 10% traffic" in shown["log_text"]


def test_same_plan_resumes_and_another_plan_starts_anew_keeping_the_old_record(release: Release, kube: _kube.Kube) -> None:
    first = release.begin()["record"]["id"]
    release.act("step", step="configuration", status="done")
    release.act("release")
    resumed = release.begin("run-b")["record"]
    assert resumed["id"] == first and resumed["steps"]["configuration"]["status"] == "done"
    release.act("release", "run-b")
    other = release.begin("run-c", plan={"image": "other"})["record"]
    assert other["id"] != first and other["steps"] == {}
    stored = kube.get(_kube.path_of("", "v1", "configmaps", "signal", _record.record_name(release.service)))
    assert first in stored["data"][_record.PREVIOUS_KEY]


def test_complete_release_of_the_same_plan_is_not_begun_again(release: Release) -> None:
    release.begin()
    release.act("finish", outcome="complete")
    again = release.begin("run-b")
    assert again["already"] is True and again["changed"] is False


def test_run_that_lost_the_lock_cannot_write(release: Release) -> None:
    release.begin("run-a")
    release.act("release", "run-a")
    release.begin("run-b")
    with pytest.raises(_record.LostLock, match="held by 'run-b', expected 'run-a'"):
        release.act("step", "run-a", step="canary_10", status="done")
    assert "canary_10" not in release.act("show")["record"]["steps"]


def test_takeover_needs_the_holders_name_and_its_silence(release: Release) -> None:
    release.begin("run-a")
    with pytest.raises(_record.Locked):
        release.begin("run-b", takeover="run-x")
    taken = release.begin("run-b", takeover="run-a")
    assert taken["holder"] == "run-b" and taken["token"] == 2


def test_holder_that_still_lives_is_not_taken_over(release: Release) -> None:
    release.begin("run-a", lease_duration=3)
    alive = threading.Timer(1.0, lambda: release.act("step", "run-a", step="canary_10", status="started"))
    alive.start()
    with pytest.raises(_record.Locked, match="'run-a' renewed the lease"):
        release.begin("run-b", takeover="run-a")
    alive.join()
    assert release.act("show")["holder"] == "run-a"


def test_each_message_is_remembered_once(release: Release) -> None:
    release.begin()
    assert release.act("message", events=["start"])["already"] is False
    assert release.act("message", events=["start"])["already"] is True
    assert release.act("show")["record"]["messages"] == ["start"]


def test_check_mode_takes_no_lock_and_writes_no_record(release: Release) -> None:
    assert release.begin(check_mode=True)["changed"] is False
    shown = release.act("show")
    assert shown["holder"] == "" and shown["record"] == {}


def test_step_without_a_record_says_what_to_do(release: Release) -> None:
    with pytest.raises(_record.LostLock, match="Nothing was written"):
        release.act("step", step="canary_10", status="done")


def died(release: Release, holder: str) -> None:
    """Have the record tell that ``holder`` has ended, as its guard would."""
    entry = _events.event("guard", "all traffic is back", "guard", holder, before=10, after=0)
    assert _events.add(release.kube, "signal", _record.record_name(release.service), entry) == ""


def test_resume_goes_on_with_the_release_of_a_run_whose_end_was_seen_without_waiting(release: Release) -> None:
    release.begin("run-a")
    release.act("step", step="blue_green", status="done")
    died(release, "run-a")
    before = release.act("show", "run-b", traffic={"stable": 100, "canary": 0})
    assert "UNFINISHED RELEASE" in before["unfinished"] and "100 % on" in before["unfinished"]
    # A lease of an hour: had it to be waited for, this test would not end.
    resumed = release.act("resume", "run-b", plan=PLAN, version="v2", lease_duration=3600)
    assert resumed["holder"] == "run-b" and resumed["record"]["steps"]["blue_green"]["status"] == "done"
    assert [event["kind"] for event in resumed["events"]] == ["guard", "resumed"]
    with pytest.raises(_record.LostLock):
        release.act("step", "run-a", step="canary_10", status="started")


def test_resume_leaves_a_run_alone_that_still_lives(release: Release) -> None:
    release.begin("run-a")
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(0.2):
            release.act("step", "run-a", step="canary_10", status="started")

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(_record.Locked, match="run-a"):
            release.act("resume", "run-b", plan=PLAN, version="v2")
    finally:
        stop.set()
        thread.join()


def test_resume_takes_a_silent_lock_after_its_duration(release: Release) -> None:
    release.begin("run-a")
    assert release.act("resume", "run-b", plan=PLAN, version="v2")["holder"] == "run-b"


@pytest.mark.parametrize("outcome", ["complete", "rolled_back", "failed"])
def test_resume_of_an_ended_release_is_refused(release: Release, outcome: str) -> None:
    release.begin("run-a")
    release.act("finish", outcome=outcome)
    with pytest.raises(_record.NothingToResume, match=f"'{outcome}', expected an unfinished one"):
        release.act("resume", "run-b", plan=PLAN, version="v2")
    assert release.act("show")["holder"] == ""


def test_resume_of_nothing_of_another_version_or_another_plan_is_refused_before_any_write(release: Release) -> None:
    with pytest.raises(_record.NothingToResume, match="nothing to resume"):
        release.act("resume", "run-b", plan=PLAN, version="v2")
    assert release.act("show")["token"] == 0
    release.begin("run-a")
    release.act("release")
    with pytest.raises(_record.NothingToResume, match="is of v2, expected v3"):
        release.act("resume", "run-b", plan=PLAN, version="v3")
    with pytest.raises(_record.NothingToResume, match="steps was .10, 50, 100., now .50, 100."):
        release.act("resume", "run-b", plan={**PLAN, "steps": [50, 100]}, version="v2")
    assert release.act("show")["holder"] == ""


def test_held_release_is_resumed(release: Release) -> None:
    release.begin("run-a")
    release.act("finish", outcome="held", notes="somebody else's weight")
    resumed = release.act("resume", "run-b", plan=PLAN, version="v2")
    assert resumed["record"]["outcome"] is None and "after it was held" in resumed["events"][-1]["words"]


def test_event_is_kept_and_shown_in_the_log(release: Release) -> None:
    release.begin("run-a")
    noted = release.act("event", event={"kind": "outage", "words": "no metrics", "by": "playbook", "before": 10, "after": 10})
    assert noted["changed"] and noted["events"][-1]["holder"] == "run-a"
    assert "(outage)" in noted["log_text"] and "no metrics" in noted["log_text"]


def test_notes_of_others_do_not_make_a_step_fail(release: Release) -> None:
    release.begin("run-a")
    stop = threading.Event()

    def note() -> None:
        while not stop.is_set():
            died(release, "run-0")

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for number in range(10):
            release.act("step", step=f"step_{number}", status="done")
    finally:
        stop.set()
        thread.join()
    assert len(release.act("show")["record"]["order"]) == 10
