# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One message to people while a hold cannot see its metrics. Private to this collection.

A hold of ten minutes is one task: what happens in it reaches people only if the gate tells them. The gate itself must not wait
for a chat server, so the message is sent beside it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _notify
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

SPEC: dict[str, dict[str, Any]] = {
    "targets": _notify.ARGUMENT_SPEC["targets"],
    "event": {"type": "str", "required": True},
    "title": {"type": "str", "required": True},
    "after": {"type": "float", "default": 60.0},
    "sent_events": {"type": "list", "elements": "str", "default": []},
    "timeout": _notify.ARGUMENT_SPEC["timeout"],
}


def problems_of(notice: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options, one sentence each. Addresses are never part of a sentence."""
    problems = [f"outage_notice: {problem}" for problem in _notify.option_problems(_message(notice, ""))]
    if not (math.isfinite(notice["after"]) and 0 <= notice["after"] <= 86400):
        problems.append(f"outage_notice.after is {notice['after']} s, expected a number from 0 to 86400")
    return problems


class OutageNotice:
    """Tells people once of the first outage that lasts."""

    def __init__(self, notice: Mapping[str, Any], context: Context) -> None:
        self._notice = notice
        self._context = context
        self._thread: threading.Thread | None = None
        self._result: dict[str, Any] | None = None

    def is_due(self, seconds: float) -> bool:
        """Return whether an outage of ``seconds`` is to be told: it is long enough, and nothing was told yet."""
        return self._thread is None and seconds >= self._notice["after"]

    def tell(self, body: str) -> None:
        """Begin to send; returns at once."""
        self._thread = threading.Thread(target=self._send, args=(body,), name="outage-notice", daemon=True)
        self._thread.start()

    def result(self) -> dict[str, Any] | None:
        """Wait for the message that is under way, at most its timeout; None when none was due."""
        if self._thread is None:
            return None
        # notify keeps its own deadline, a second more is for what it does around the sending.
        self._thread.join(self._notice["timeout"] * (1 + len(self._notice["targets"]) // _notify.WORKERS) + 1.0)
        if self._result is None:
            return {"event": self._notice["event"], "sent": False, "record_events": [], "error": "its sending did not end in time"}
        return self._result

    def _send(self, body: str) -> None:
        message = _message(self._notice, body)
        try:
            found, error = _notify.run(message, self._context), ""
        except RolloutError as failure:
            found, error = failure.result, failure.message
        self._result = {
            "event": self._notice["event"],
            "sent": bool(found.get("sent")),
            "record_events": list(found.get("record_events", [])),
            "error": error or " ".join(found.get("warnings", [])),
        }


def _message(notice: Mapping[str, Any], body: str) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in _notify.ARGUMENT_SPEC.items()}
    given = {name: notice[name] for name in ("targets", "event", "title", "sent_events", "timeout")}
    return {**defaults, **given, "body": body, "severity": "warning"}
