# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An outage of the metrics in the middle of a hold, all times of the document divided by one number."""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from . import figures
from .results import Results
from .section import Options
from .stage import PROMETHEUS, Stage, labctl

MINUTE = 60.0
HOLD, BUDGET = 15 * MINUTE, 10 * MINUTE
OUTAGES = {"8 min, shorter than the budget": 8 * MINUTE, "14 min, longer than the budget": 14 * MINUTE}


class Outage(threading.Thread):
    """When Prometheus stops answering, and when it answers again; and what the gateways do meanwhile."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="outage", daemon=True)
        self._stage = stage
        self.ended = threading.Event()
        self.began: float | None = None
        self.over: float | None = None
        self.shares: set[int] = set()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            try:
                with urllib.request.urlopen(f"{PROMETHEUS}/-/ready", timeout=1):
                    answers = True
            except OSError:
                answers = False
            if not answers:
                self.began = self.began or time.time()
                if self._stage.gateways is not None:
                    self.shares.update(self._stage.gateways.green())
            elif self.began is not None and self.over is None:
                self.over = time.time()


class MetricsOutage:
    name = "outage"
    about = "Prometheus gone in the hold at 10 %, all times scaled"
    variants = tuple(OUTAGES)
    trials = 2
    seconds = 75.0
    preparation = 25.0

    def prepare(self, stage: Stage, options: Options) -> None:
        stage.deploy_green()
        stage.start_traffic(options.rate)

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        scale = options.scale
        wanted = OUTAGES[variant] / scale
        play = stage.canary(
            canary_steps=[10, 100],
            canary_hold_seconds=HOLD / scale,
            canary_bake_seconds=3,
            canary_window_seconds=options.window,
            canary_outage_budget_seconds=BUDGET / scale,
            canary_outage_notice_seconds=60 / scale,
        )
        outage = Outage(stage)
        try:
            return self._measure(stage, play, outage, wanted) | {"scale": scale, "window": options.window}
        finally:
            outage.ended.set()
            play.kill()
            labctl("heal", "prometheus-down")
            if stage.watcher.weight:
                stage.put_back()
            # The pods' series must be there again, and free of gaps, before the next hold.
            time.sleep(options.window + 2)

    def _measure(self, stage: Stage, play: Any, outage: Outage, wanted: float) -> dict[str, Any]:
        play.until(60, "10 %: hold ")
        time.sleep(random.uniform(2.0, 6.0))
        sent = stage.messages()
        outage.start()
        labctl("break", "prometheus-down")
        while outage.began is None:
            time.sleep(0.05)
        # Starting Prometheus again takes some seconds, which belong to the outage.
        while time.time() < outage.began + wanted - 4.0 and play.process.poll() is None:
            time.sleep(0.1)
        told = stage.messages() - sent
        if play.process.poll() is None:
            labctl("heal", "prometheus-down")
        code = play.end(180)
        back = stage.watcher.until(0, outage.began, 0)
        moves = [weight for moment, weight in stage.watcher.events if outage.began <= moment <= (outage.over or time.time())]
        return {
            "outage": None if outage.over is None else round(outage.over - outage.began, 1),
            "shares": sorted(outage.shares),
            "moves": moves,
            "blind_lines": play.count(outage.began, "cannot see"),
            "warnings": play.count(outage.began, "[WARNING]", "could not be seen"),
            "resumed": play.count(outage.began, "can be seen again") > 0,
            "messages": told,
            "code": code,
            "back": None if back is None else round(back - outage.began, 2),
            "final": stage.watcher.weight,
        }

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        scale = 1.0
        for result in results:
            for variant in self.variants:
                for trial in result.of(variant):
                    scale = trial["scale"]
                    lasted = "until the end" if trial["outage"] is None else f"{trial['outage']:.1f}"
                    moves = ", ".join(f"{weight} %" for weight in trial["moves"]) or "none"
                    end = "passed, green at 100 %" if trial["code"] == 0 else f"stopped (exit code {trial['code']}), green at {trial['final']} %"
                    cells = [
                        lasted,
                        ", ".join(f"{share} %" for share in trial["shares"]),
                        moves,
                        str(trial["blind_lines"]),
                        str(trial["warnings"]),
                        str(trial["messages"]),
                    ]
                    rows.append([result.kind, variant, *cells, end, "-" if trial["back"] is None else f"{trial['back']:.1f}"])
        head = (
            "route",
            "outage",
            "measured, s",
            "green in the gateways meanwhile",
            "weights written meanwhile",
            "live lines that say so",
            "warnings that sum it up",
        )
        head += ("messages to people meanwhile", "how it ended", "outage -> weights back, s")
        notes = f"All times divided by {scale:g}: hold {HOLD / scale:g} s, budget {BUDGET / scale:g} s. Sampled five times a second."
        return f"{figures.table(head, rows)}\n\n{notes}"
