# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals to ansible-playbook at random moments of the whole canary: shift, hold, between the steps, bake."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from typing import Any

from . import figures
from .results import Results
from .section import Options
from .stage import BenchError, Play, Stage

PASSED = "after the last step"
# What makes a moment of the canary a phase, by the newest line that was printed before it.
MARKS = (
    ("Note in the record that this step begins", "shift"),
    (": hold ", "hold"),
    (": PASS", "between the steps"),
    # The record has the last step as done by then: traffic stays on green by design, and nobody may move it.
    ("Tell people how much traffic is on the new version, percent: 100", PASSED),
)
WAIT = 12.0
# Nothing may move traffic to green again after it is back.
SETTLE = 2.0


def phase(lines: Sequence[tuple[float, str]], moment: float) -> str:
    """The phase that ``moment`` fell into."""
    found = "before the first shift"
    for when, line in lines:
        if when > moment:
            break
        for word, name in MARKS:
            if word in line:
                found = "bake" if name == "hold" and line.startswith("100 %") else name
    return found


class Signals:
    name = "signals"
    about = "INT, TERM, HUP, KILL at random moments of the canary"
    variants = ("INT", "TERM", "HUP", "KILL")
    trials = 10
    seconds = 18.0
    preparation = 45.0

    def __init__(self) -> None:
        self._length = 0.0

    def prepare(self, stage: Stage, options: Options) -> None:
        stage.deploy_green()
        stage.start_traffic(options.rate)
        time.sleep(1)
        play = self._start(stage, options)
        if play.end(120):
            raise BenchError(f"the canary does not pass without a signal (log: {play.log})\n{play.tail()}")
        self._length = time.time() - play.until(0, MARKS[0][0])
        stage.put_back()
        if stage.watcher.until(0, play.started, 10) is None:
            raise BenchError("the weights could not be put back by hand")

    def _start(self, stage: Stage, options: Options) -> Play:
        return stage.canary(canary_hold_seconds=3, canary_bake_seconds=3, canary_window_seconds=min(options.window, 4))

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        while True:
            began = time.time()
            play = self._start(stage, options)
            try:
                result = self._interrupt(stage, play, variant)
            finally:
                play.kill()
                if stage.watcher.weight:
                    stage.put_back()
                    stage.watcher.until(0, began, 10)
            if result is not None:
                time.sleep(1.2)
                books = stage.books(began, time.time() - 1.0)
                return result | {
                    "sent": books["sent"],
                    "failed": books["failed"],
                    "causes": books["causes"],
                    "failed_versions": books["failed_versions"],
                    "failed_at": books["failed_at"],
                }

    def _interrupt(self, stage: Stage, play: Play, variant: str) -> dict[str, Any] | None:
        """One signal; None when the playbook was at its end already."""
        begun = play.until(60, MARKS[0][0])
        moment = begun + random.uniform(0.0, self._length)
        while time.time() < moment:
            if play.process.poll() is not None:
                return None
            time.sleep(0.005)
        if play.process.poll() is not None:
            return None
        weight = stage.watcher.weight
        sent = time.time()
        play.process.send_signal(getattr(signal, f"SIG{variant}"))
        green_last = self._last_on_green(stage, sent)
        written = self._written(stage, sent)
        ended = play.process.poll() is not None
        return {
            "phase": phase(play.lines, sent),
            "weight": weight,
            "written": written,
            "confirmed": green_last,
            "ended": ended,
        }

    def _last_on_green(self, stage: Stage, sent: float) -> float | None:
        """Seconds until no gateway had anything for green any more, for good; None when that did not come."""
        clear: float | None = None
        while time.time() < sent + WAIT:
            now = time.time()
            if stage.gateways is not None and any(stage.gateways.green()):
                clear = None
            elif clear is None:
                clear = now
            elif now - clear > SETTLE and stage.watcher.weight == 0:
                return round(clear - sent, 3)
            time.sleep(0.02)
        return None

    def _written(self, stage: Stage, sent: float) -> float | None:
        events = [(moment, weight) for moment, weight in stage.watcher.events if moment > sent]
        if stage.watcher.weight:
            return None
        return round(events[-1][0] - sent, 3) if events else 0.0

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        for result in results:
            for variant in self.variants:
                trials = result.of(variant)
                if not trials:
                    continue
                phases = figures.total({trial["phase"]: 1} for trial in trials)
                concerned = [trial for trial in trials if trial["phase"] != PASSED]
                moved = [trial for trial in concerned if trial["weight"]]
                rows.append(
                    [
                        result.kind,
                        variant,
                        str(len(trials)),
                        figures.listed(phases),
                        str(len(moved)),
                        figures.spread(trial["written"] for trial in moved),
                        figures.spread(trial["confirmed"] for trial in moved),
                        str(sum(trial["written"] is None or trial["confirmed"] is None for trial in concerned)),
                        figures.failures(trials),
                    ]
                )
        head = ("route", "signal", "n", "moments", "of which green had traffic", "signal -> API says 100 % blue, s", "signal -> all gateways do, s")
        head += ("never back", "failed requests")
        notes = (
            "Times: median / p95 / max of the moments in which green had traffic; at the others green had none and got none afterwards. Watched for "
            f"{SETTLE:g} s more, so that traffic that came back to green would be seen. Steps 10, 50, 100 with holds and bake of 3 s. {PASSED.capitalize()} "
            "traffic stays on green, by design."
        )
        return f"{figures.table(head, rows)}\n\n{notes}"
