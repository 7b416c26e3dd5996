# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kill a playbook at a chosen moment of its canary, and measure how long all traffic takes to be back on the old version.

Used by the tests of interruptions and by the bench. A release is prepared once, up to green being ready; each trial then runs
playbooks/canary.yml, whose first shift comes after about two seconds, and not the whole deployment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _confirm, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

if TYPE_CHECKING:
    from .conftest import Run, Stage

# What is tested is the interruption: neither a busy machine nor a late sample may end the canary before it.
CALM: dict[str, Any] = {"canary_max_p99_ms": 20000, "canary_max_error_percent": 1, "canary_outage_budget_seconds": 60}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
# Looked at so often while waiting for a moment or for the weights.
_TICK = 0.005


@dataclass(frozen=True)
class Outcome:
    """One interruption. Seconds are from the signal; ``weight`` is the canary's percent when it came.

    ``back_s`` is when the API says 0 %, ``confirmed_s`` when every gateway does, ``exit_s`` when ansible-playbook was gone.
    """

    signal: str
    moment: str
    weight: int
    back_s: float
    confirmed_s: float
    exit_s: float
    events: list[dict[str, Any]]


def prepare(stage: Stage) -> None:
    """Bring the lab to where the canary can begin: green ready, record open, lock free, all traffic on blue."""
    ended = stage.play("deploy_v2", "--tags", "database_migration,configuration,blue_green", **CALM)
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == [100, 0] and stage.holder() == ""


def moments(stage: Stage, run: Run) -> dict[str, Callable[[], bool]]:
    """Names of moments in a canary, each with the question whether it has come."""

    def printed(text: str) -> bool:
        return text in run.log.read_text(encoding="utf-8", errors="replace")

    return {
        "the first step is noted": lambda: printed("Note in the record that this step begins: 10"),
        "the shift's task has begun": lambda: printed("monitor metrics, percent: 10]"),
        "the weight is written": lambda: stage.weights()[1] == 10,
        "the weight is confirmed": lambda: printed("weight 0 -> 10, confirmed"),
        "a hold": lambda: printed("hold 0"),
        "the step's passing is noted": lambda: printed("Note in the record that this step has passed: 10"),
        "people are told": lambda: printed("Tell people how much traffic is on the new version, percent: 10"),
        "the second shift": lambda: printed("Note in the record that this step begins: 50"),
        "the bake": lambda: stage.weights()[1] == 100 and printed("100 %: watching"),
    }


def interrupt(
    stage: Stage,
    name: str,
    moment: str,
    group: bool = False,
    delay: float = 0.0,
    seconds: float = 30.0,
    run: Run | None = None,
    **variables: Any,
) -> Outcome:
    """Start the canary (or take ``run``), wait for ``moment`` and ``delay`` seconds, send the signal, wait until traffic is back.

    ``group`` sends it to the whole process group, as a terminal does. Raises AssertionError when traffic is not back, or not confirmed,
    within ``seconds``.
    """
    run = run or stage.start("canary", rollout_takeover=stage.holder() or "nobody", **CALM, **variables)
    come = moments(stage, run)[moment]
    deadline = time.monotonic() + 60
    while not come():
        assert run.process.poll() is None, f"the playbook ended before {moment}:\n{stage.tail()}"
        assert time.monotonic() < deadline, f"never came: {moment}\n{stage.tail()}"
        time.sleep(_TICK)
    time.sleep(delay)
    weight = stage.weights()[1]
    began = time.monotonic()
    number = getattr(signal, name)
    if group:
        os.killpg(run.process.pid, number)
    else:
        run.process.send_signal(number)
    return _outcome(stage, run, name, moment, weight, began, seconds)


def _outcome(stage: Stage, run: Run, name: str, moment: str, weight: int, began: float, seconds: float) -> Outcome:
    back = confirmed = gone = None
    version = stage.virtual_service["metadata"]["resourceVersion"]
    while back is None or confirmed is None or gone is None:
        assert time.monotonic() < began + seconds, f"{name} at {moment}: back after {back}, confirmed after {confirmed}\n{stage.tail()}"
        if gone is None and run.process.poll() is not None:
            gone = time.monotonic() - began
        if back is None and stage.weights()[1] == 0:
            back = time.monotonic() - began
        if back is not None and confirmed is None and _confirmed(stage):
            confirmed = time.monotonic() - began
        time.sleep(_TICK)
    # A write that was on its way when the signal came must not undo what was put back.
    time.sleep(1.0)
    assert stage.weights() == [100, 0], f"{name} at {moment}: traffic went to green again ({version})\n{stage.tail()}"
    return Outcome(name, moment, weight, back, confirmed, gone, list(stage.record().get("events") or []))


def _confirmed(stage: Stage) -> bool:
    """Whether every gateway shows 0 % for green, by the engine's own confirmation and an equal weight, which writes nothing."""
    confirm = {option: rule.get("default") for option, rule in _confirm.CONFIRM_SPEC.items()}
    names = {option: None for option in (*_kube.ARGUMENT_SPEC, *_canary_weight.ARGUMENT_SPEC)}
    route = {
        **names,
        "namespace": "signal",
        "name": "signal-service",
        "kind": "VirtualService",
        "route": "primary",
        "stable": "v1",
        "canary": "v2",
        "weight": 0,
        "confirm": {**confirm, "timeout": 0.5},
    }
    try:
        return bool(_canary_weight.Shift(route, Context(), stage.kube.clone()).run()["confirmed"])
    except _confirm.Unconfirmed:
        return False
