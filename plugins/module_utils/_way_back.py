# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Putting all traffic back inside a gate's task, once, and saying how that went. Private to this collection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _confirm, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._hold_watchers import LeaseKeeper

_TRANSIENT = (0, 408, 429, 500, 502, 503, 504)
_RETRY_PAUSE = 0.5


class WayBack:
    """The way back of one hold. ``outcome`` is None until it was tried."""

    def __init__(self, route: dict[str, Any] | None, timeout: float) -> None:
        self._route = route
        self._timeout = timeout
        self._going = False
        self.keeper: LeaseKeeper | None = None
        # Says why the stable version cannot take any traffic, empty while it can.
        self.closed: Callable[[], str] = lambda: ""
        self.outcome: dict[str, Any] | None = None

    def take(self) -> None:
        """Put all traffic back, once. Also called from a signal handler, in the middle of anything."""
        if self._going:
            return
        self._going = True
        started = time.monotonic()
        outcome: dict[str, Any] = {
            "done": False,
            "changed": False,
            "before": None,
            "after": None,
            "confirmed": None,
            "routes": [],
            "seconds": 0.0,
            "error": "",
        }
        self.outcome = outcome
        try:
            if self.keeper is not None and not self.keeper.may_write():
                outcome["error"] = f"This run may not write any more: {self.keeper.lost}"
                return
            closed = self.closed()
            if closed:
                # A canary in breach serves better than nothing at all.
                outcome["error"] = f"{closed}."
                return
            self._write_zero(outcome, started + self._timeout)
        except Exception as error:
            # Whatever goes wrong here must be told as "traffic is not back", never as an internal error alone.
            outcome["error"] = f"{type(error).__name__}: {error}"
        finally:
            outcome["seconds"] = round(time.monotonic() - started, 3)

    def _write_zero(self, outcome: dict[str, Any], deadline: float) -> None:
        """Write weight 0; transient trouble of the API server is tried again until ``deadline``."""
        # What runs of the stable version serves better than a canary in breach: nothing about its pods may delay this.
        route = {**(self._route or {}), "weight": 0, "expected_weight": None, "capacity": None}
        while True:
            try:
                self._note(outcome, _canary_weight.run(route, Context()))
                return
            except RolloutError as error:
                self._note(outcome, error.result)
                outcome["error"] = error.message
                transient = isinstance(error, _kube.KubeError) and error.status in _TRANSIENT
                if not transient or time.monotonic() + _RETRY_PAUSE >= deadline:
                    return
            time.sleep(_RETRY_PAUSE)

    def _note(self, outcome: dict[str, Any], answer: dict[str, Any]) -> None:
        outcome["changed"] = outcome["changed"] or bool(answer.get("changed"))
        outcome["before"] = outcome["before"] or answer.get("before")
        outcome["after"] = answer.get("after") or outcome["after"]
        outcome["confirmed"] = answer.get("confirmed")
        outcome["routes"] = answer.get("routes") or []
        outcome["done"] = bool(outcome["routes"]) and all((route["after"] or {}).get("canary") == 0 for route in outcome["routes"])
        outcome["error"] = ""

    def words(self, why_left: str) -> str:
        """What became of the traffic, and what to do next; ``why_left`` says why it was left alone on purpose."""
        aborted = self.outcome
        if aborted is None:
            kept = "Traffic was left as it is"
            if why_left:
                return f"{kept}: {why_left}."
            if self._route:
                return f"{kept}, as on_interrupt says. Next: playbooks/resume.yml or playbooks/rollback.yml."
            return f"{kept}: no abort_route was given. Next: playbooks/rollback.yml puts it back."
        if not aborted["done"]:
            return f"TRAFFIC IS NOT BACK: {aborted['error']} Next: run playbooks/rollback.yml now; playbooks/status.yml shows the weights."
        before = (aborted["before"] or {}).get("canary")
        how = "was already 0" if before == 0 else f"{before} -> 0 in {aborted['seconds']:.2f} s"
        proof = f"but this is not confirmed: {aborted['error'].rstrip('.')}" if aborted["error"] else _confirm.words(aborted["confirmed"])
        return f"Traffic is back on {(self._route or {})['stable']}: weight {how}, {proof}. Next: playbooks/status.yml shows why."
