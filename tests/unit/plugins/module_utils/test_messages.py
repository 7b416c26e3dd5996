# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be done about a message, by what the ledger has of it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _messages, _notify
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=timezone.utc)
MOMENT = {"start": "2026-12-01T12:00:00+00:00", "opens": 86400.0, "closes": 7200.0}


def entry(state: str, age: float = 1, pending: tuple[int, ...] = (), **targets: str) -> dict[str, Any]:
    """An entry of the deployment 'd', claimed ``age`` seconds ago for 20 s; ``targets``: t0='delivered'."""
    at = (NOW - timedelta(seconds=age)).isoformat()
    told = {name.removeprefix("t"): {"state": found} for name, found in targets.items()}
    return {"occasion": "d", "state": state, "by": "ann@host/1", "time": at, "seconds": 20, "pending": list(pending), "targets": told}


def decide(found: dict[str, Any] | None, count: int = 2, **more: Any) -> _messages.Decision:
    return _messages.decide(found, "d", count, NOW, **more)


def test_a_message_that_nobody_has_claimed_goes_to_every_target() -> None:
    assert decide(None) == _messages.Decision(todo=[0, 1])


def test_another_deployment_is_told_of_anew() -> None:
    assert _messages.decide(entry("done", t0="delivered", t1="delivered"), "other", 2, NOW).todo == [0, 1]


def test_what_an_older_record_says_was_sent_is_not_sent_again() -> None:
    assert decide(None, had=[0]).todo == [1]


def test_a_fresh_claim_is_waited_for() -> None:
    for state in ("claimed", "sending"):
        assert decide(entry(state, pending=(0, 1))).wait


def test_a_claim_of_a_dead_run_is_taken_over_and_says_so() -> None:
    assert decide(entry("claimed", 60, (0, 1))) == _messages.Decision(todo=[0, 1], taken_over_from="ann@host/1")


def test_what_a_dead_run_has_perhaps_sent_is_uncertain_and_not_sent_again() -> None:
    found = decide(entry("sending", 60, (0, 1)), count=3)
    assert (found.perhaps, found.todo) == ([0, 1], [2])


def test_a_target_that_certainly_failed_is_tried_again_and_an_uncertain_one_only_when_asked() -> None:
    found = entry("done", t0="failed", t1="uncertain", t2="delivered")
    assert decide(found, 3).todo == [0]
    assert decide(found, 3, again=True).todo == [0, 1]


@pytest.mark.parametrize(
    ("at", "words"),
    [("2026-11-30T11:59:59Z", "too early"), ("2026-11-30T12:00:00Z", ""), ("2026-12-01T09:59:59Z", ""), ("2026-12-01T10:00:00Z", "too late")],
)
def test_a_message_is_due_in_its_window_only(at: str, words: str) -> None:
    now = _messages.moment_of(at)
    assert now is not None
    found = _messages.outside(MOMENT, now)
    assert words in found and bool(found) == bool(words)


@pytest.mark.parametrize("start", ["tomorrow", "2026-12-01T12:00:00", "", "22:00"])
def test_a_start_without_zone_or_sense_is_refused(start: str) -> None:
    with pytest.raises(RolloutError, match="expected a time with its zone"):
        _messages.outside({**MOMENT, "start": start}, NOW)


def test_a_start_as_yaml_reads_it_is_taken() -> None:
    assert _messages.moment_of(str(datetime(2026, 12, 1, 12, 0, tzinfo=timezone.utc))) is not None


def test_the_ledger_keeps_the_newest_releases_and_each_by_its_plan() -> None:
    ledgers: dict[str, Any] = {}
    for number in range(8):
        ledgers = _messages.with_events(ledgers, "v2", f"plan{number}", {"start": {**entry("done"), "occasion": str(number)}})
    assert [release["plan_hash"] for release in ledgers["releases"]] == [f"plan{number}" for number in range(3, 8)]
    assert _messages.events_of(ledgers, "v2", "plan4")["start"]["occasion"] == "4"
    assert _messages.events_of(ledgers, "v2", None)["start"]["occasion"] == "7"
    assert _messages.events_of(ledgers, "v3", None) == {}


def test_only_a_reason_that_rules_out_a_delivery_is_certain() -> None:
    for reason in ("connection refused", "the service answered 404", "the service answered 503", "host name not found"):
        assert not _notify.perhaps_told(reason)
    for reason in ("timed out", "the connection was cut", "the service answered 500", "no answer within 3 s", "interrupted", "not accepted by the service"):
        assert _notify.perhaps_told(reason)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://owner:hunter2hunter2@db/x", "Authorization: Bearer hunter2hunter2", "PGPASSWORD=hunter2hunter2", '{"token": "hunter2hunter2"}',
        "it said hunter2hunter2", "-----BEGIN RSA PRIVATE KEY-----\nhunter2hunter2\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_are_masked_in_a_message(text: str) -> None:
    assert "hunter2hunter2" not in _notify.masked(text, ["hunter2hunter2"] if text.startswith("it said") else [])


def test_masking_leaves_ordinary_words_alone() -> None:
    text = "Error rate 4.8 %, limit 0.1 %. Secrets were updated; see https://docs.example.com/v2 and mail team@example.com"
    assert _notify.masked(text, ["4.8", ""]) == text


@pytest.mark.parametrize("text", ["<!channel>", "<!here>", "<@U012AB>", "<at>Everyone</at>", "@here", "@channel", "@everyone", "<!subteam^S1>"])
def test_mentions_in_inserted_text_are_inert(text: str) -> None:
    found = _notify.clean(text, 100)
    assert found != text and found.replace("\u200b", "") == text
