# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""notify against the lab's sink, by webhook and by mail."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _notify
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

SINK = "10.79.0.53"
NODE = "10.77.0.2"


@pytest.fixture
def event() -> str:
    """An event that no other test uses: the sink is shared, so messages are found by it."""
    return f"test/{uuid.uuid4().hex}"


def params(event: str, targets: list[str], **options: Any) -> dict[str, Any]:
    given = {"targets": targets, "event": event, "title": "Canary at 10 %", "body": "Error rate 0.02 %\nask @everyone", **options}
    checked = ArgumentSpecValidator(_notify.ARGUMENT_SPEC).validate(given)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def targets() -> list[str]:
    return [f"json://{SINK}:8080/hook/notify-test", f"mailto://{SINK}:2525?from=rollout@lab.example&to=team@lab.example,lead@lab.example"]


def messages(event: str) -> list[dict[str, Any]]:
    received = requests.get(f"http://{SINK}:8080/messages", timeout=5).json()
    return [message for message in received if message["headers"].get("x-rollout-event") == event]


def test_webhook_and_mail_arrive_with_event_and_harmless_text(event: str) -> None:
    result = _notify.run(params(event, targets(), severity="warning"), Context())
    assert (result["delivered"], result["failures"], result["record_events"]) == ([0, 1], [], [event])
    found = {message["channel"]: message for message in messages(event)}
    assert set(found) == {"http", "smtp"}
    assert found["http"]["name"] == "notify-test"
    assert found["smtp"]["subject"] == "Canary at 10 %"
    assert set(found["smtp"]["to"]) <= {"team@lab.example", "lead@lab.example"}
    for message in found.values():
        assert "Error rate 0.02 %" in message["body"] and "@everyone" not in message["body"]


def test_event_that_was_sent_is_not_sent_again(event: str) -> None:
    first = _notify.run(params(event, targets()), Context())
    count = len(messages(event))
    second = _notify.run(params(event, targets(), sent_events=["other", *first["record_events"]]), Context())
    assert second["already_sent"] is True and second["changed"] is False
    assert len(messages(event)) == count > 0


def test_check_mode_sends_nothing(event: str) -> None:
    result = _notify.run(params(event, targets()), Context(check_mode=True))
    assert result["changed"] is True and result["targets"] == [{"index": 0, "service": "JSON"}, {"index": 1, "service": "E-Mail"}]
    assert messages(event) == []


def test_dead_mail_server_does_not_hinder_the_webhook(event: str) -> None:
    # A port that nobody listens on, of the node: one of a Service would not answer at all.
    dead = f"mailto://{NODE}:2526?from=rollout@lab.example&to=team@lab.example"
    result = _notify.run(params(event, [dead, targets()[0]], timeout=3), Context())
    assert result["delivered"] == [1]
    assert result["failures"] == [{"index": 0, "service": "E-Mail", "reason": "connection refused"}]
    with pytest.raises(RolloutError) as refused:
        _notify.run(params(event, [dead, targets()[0]], timeout=3, required=True, sent_events=result["record_events"]), Context())
    assert NODE not in refused.value.message + str(refused.value.result)
    assert len(messages(event)) == 1


def test_silent_mail_server_is_given_up_in_time(event: str) -> None:
    silent = f"mailto://{SINK}:2526?from=rollout@lab.example&to=team@lab.example"
    result = _notify.run(params(event, [silent, targets()[0]], timeout=1), Context())
    assert result["delivered"] == [1]
    assert result["failures"] == [{"index": 0, "service": "E-Mail", "reason": "timed out"}]
