# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole releases and whole rollbacks under load: what they lose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from . import figures
from .results import Results
from .section import Options
from .stage import NAMESPACE, SERVICE, BenchError, Stage

# Ten rollbacks must see more than 20,000 requests at 200/s.
ROLLBACK_SECONDS = 10.5
GREEN_GONE = 60.0


class Deploys:
    name = "deploys"
    about = "a whole release and a whole rollback under load"
    variants = ("",)
    trials = 10
    seconds = 80.0
    preparation = 0.0

    def prepare(self, stage: Stage, options: Options) -> None:
        """Every trial begins with a reset of its own."""

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        stage.reset()
        return {
            "deploy": self._phase(stage, options, "deploy_v2", 0.0),
            # New traffic: its WebSockets are on green, and every one of them has to leave.
            "rollback": self._phase(stage, options, "rollback", ROLLBACK_SECONDS),
        }

    def _phase(self, stage: Stage, options: Options, playbook: str, at_least: float) -> dict[str, Any]:
        stage.start_traffic(options.rate)
        began = time.time()
        time.sleep(2.0)
        play = stage.play(playbook)
        code = play.end(240)
        took = time.time() - play.started
        back = stage.watcher.until(0, play.started, 0) if playbook == "rollback" else None
        if playbook == "rollback":
            self._await_no_green(stage)
        time.sleep(max(1.0, at_least - (time.time() - began)))
        books = stage.stop_traffic()
        weights = [weight for moment, weight in stage.watcher.events if moment >= play.started]
        return {**books, "code": code, "seconds": round(took, 2), "back": None if back is None else round(back - play.started, 3), "weights": weights}

    def _await_no_green(self, stage: Stage) -> None:
        """What is cut when green's pods end belongs to the rollback that scaled them down."""
        deadline = time.time() + GREEN_GONE
        while stage.pods(NAMESPACE, f"app={SERVICE},version=v2"):
            if time.time() > deadline:
                raise BenchError(f"pods of green are still there {GREEN_GONE:g} s after a rollback")
            time.sleep(0.2)

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        for result in results:
            for phase in ("deploy", "rollback"):
                done = [trial[phase] for trial in result.trials]
                if not done:
                    continue
                rows.append(
                    [
                        result.kind,
                        phase,
                        str(len(done)),
                        str(sum(one["code"] == 0 for one in done)),
                        figures.failures(done),
                        str(sum(sum(one["opened"].values()) for one in done)),
                        figures.listed(figures.total(one["closed"] for one in done)),
                        figures.listed(figures.total(one["open_failures"] for one in done)),
                        figures.spread((one["seconds"] for one in done), 1),
                        figures.spread(one["back"] for one in done),
                    ]
                )
        head = ("route", "what", "n", "exit code 0", "failed requests", "WebSockets opened", "closed by code", "not opened")
        head += ("whole playbook, s", "start of the process -> weights back, s")
        notes = (
            "Times: median / p95 / max. Holds and bake of 5 s. A deploy's 20 WebSockets begin on blue, a rollback's on green, from where every one has to go; "
            "1001 is a close by the service that the client is told, 1006 one without a word."
        )
        return f"{figures.table(head, rows)}\n\n{notes}"
