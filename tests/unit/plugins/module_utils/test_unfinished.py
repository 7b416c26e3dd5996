# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the next person reads about a release that did not end."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _events, _log, _unfinished

JANE = "jane@bastion/4711-991234"


def interrupted(**changes: Any) -> dict[str, Any]:
    """A release whose run was killed in the hold at 50 %."""
    record = {
        "service": "signal-service",
        "version": "v2",
        "plan": {"stable_version": "v1"},
        "holder": JANE,
        "started": "2026-11-24T12:00:01.000000Z",
        "outcome": None,
        "steps": {
            "configuration": {"status": "done", "started": "2026-11-24T12:00:05Z", "finished": "2026-11-24T12:00:06Z"},
            "blue_green": {"status": "done", "started": "2026-11-24T12:00:07Z", "finished": "2026-11-24T12:01:00Z"},
            "canary_10": {"status": "done", "started": "2026-11-24T12:01:01Z", "finished": "2026-11-24T12:16:02Z"},
            "canary_50": {"status": "started", "started": "2026-11-24T12:16:03Z", "finished": None},
        },
        "order": ["configuration", "blue_green", "canary_10", "canary_50"],
        "events": [
            _events.event(
                "interrupted", "all traffic is back on v1", "metric_gate", JANE, signal="SIGTERM", before=50, after=0,
                when="2026-11-24T12:20:12.104214Z",
            )
        ],
    }
    return {**record, **changes}


def told(record: dict[str, Any], **changes: Any) -> str:
    known: dict[str, Any] = {"holder": JANE, "renewed": "2026-11-24T12:20:11.5Z", "me": "joe@laptop/1-2", "traffic": {"stable": 100, "canary": 0}}
    known.update(changes)
    return _unfinished.text(record, **known)


def test_interrupted_release_tells_who_when_which_signal_where_the_traffic_is_and_what_to_do() -> None:
    assert told(interrupted()).splitlines() == [
        f"UNFINISHED RELEASE of signal-service: v1 -> v2, begun 2026-11-24 12:00:01 UTC by {JANE}",
        "  What happened: 2026-11-24 12:20:12 UTC: interrupted by SIGTERM, weight 50 -> 0 %, told by metric_gate: all traffic is back on v1",
        f"  Lock:          {JANE}, last sign of life 2026-11-24 12:20:11 UTC; its end was seen 2026-11-24 12:20:12 UTC",
        "  Traffic now:   100 % on v1, 0 % on v2",
        "  What to do:    ansible-playbook playbooks/resume.yml: goes on, done already: Configuration updates, Deploy green; "
        "the traffic is at 0 %, so its steps begin again.",
        "                 ansible-playbook playbooks/rollback.yml: all traffic to v1, v2 is taken down.",
    ]


def test_run_without_a_word_of_its_end_may_still_go_on() -> None:
    text = told(interrupted(events=[]), traffic={"stable": 50, "canary": 50})
    assert "Nothing is noted after step 'Route 50% traffic' (started 2026-11-24 12:16:03 UTC)" in text
    assert "; it may still run" in text and "If that run still goes on, leave it alone." in text
    assert "Traffic now:   50 % on v1, 50 % on v2" in text
    assert "done already: Configuration updates, Deploy green, Route 10% traffic." in text


def test_held_release_says_why_it_was_closed() -> None:
    record = interrupted(outcome="held", finished="2026-11-24T12:20:13Z", notes="the weight is 30, expected 50", events=[])
    text = told(record, holder="")
    assert "2026-11-24 12:20:13 UTC: closed as held: the weight is 30, expected 50" in text and "nobody holds it" in text
    assert "resume.yml" in text


def test_failed_way_back_is_not_offered_to_go_on() -> None:
    record = interrupted(outcome="failed", finished="2026-11-24T12:20:13Z", notes="the way back failed")
    assert "resume.yml" not in told(record, holder="") and "rollback.yml" in told(record, holder="")


def test_lock_of_the_asking_run_is_its_own() -> None:
    assert "this run holds it" in told(interrupted(), me=JANE)


def test_weight_that_is_held_is_not_called_a_change() -> None:
    event = _events.event("interrupted", "the weight is held", "metric_gate", JANE, signal="SIGINT", before=50, after=50)
    assert "weight stays 50 %" in told(interrupted(events=[event]), traffic=None)
    assert "Traffic now" not in told(interrupted(), traffic=None)


@pytest.mark.parametrize("record", [{}, interrupted(outcome="complete"), interrupted(outcome="cleaned_up"), interrupted(outcome="rolled_back")])
def test_ended_release_or_none_is_not_mentioned(record: dict[str, Any]) -> None:
    assert told(record) == ""


def test_death_of_another_holder_does_not_count() -> None:
    assert _events.death_seen(interrupted(), JANE) is not None
    assert _events.death_seen(interrupted(), "joe@laptop/1-2") is None and _events.death_seen(interrupted(), "") is None


def test_events_are_bounded_and_the_newest_are_kept() -> None:
    record: dict[str, Any] = {}
    for number in range(_events.KEPT + 5):
        _events.append(record, _events.event("outage", f"number {number}", "metric_gate", JANE))
    assert len(record["events"]) == _events.KEPT and record["events"][-1]["words"] == f"number {_events.KEPT + 4}"


def test_log_table_shows_events_after_the_steps() -> None:
    row = _log.rows(interrupted())[-1]
    assert row == {
        "time": "2026-11-24 12:20:12",
        "action": "(interrupted by SIGTERM)",
        "status": "50 -> 0 %",
        "notes": "metric_gate: all traffic is back on v1",
    }
