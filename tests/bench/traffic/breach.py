# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the first bad answer of green to all traffic on blue."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

from . import figures
from .results import Results
from .section import Options
from .stage import NAMESPACE, SERVICE, BenchError, Stage, labctl, samples

SCRAPE = POLL = 1.0
# Pods read their knobs every three seconds at most.
KNOB = 3.0
ERRORS = re.compile(r'^signal_requests_total\{.*code="5\d\d".*\} ([0-9.e+]+)$', re.MULTILINE)
# Share of errors, and the rule of the role canary by which they are judged.
BREAKS = {"5 %": (0.05, "two_bands"), "5 %, strict rule": (0.05, "strict"), "100 %": (1.0, "two_bands")}


# One error in a handful of requests proves nothing to the gate's sequential test; the second one does, unless many good answers came before.
EVIDENCE = 2


class Errors(threading.Thread):
    """Notes when green counts its next 5xx, and the one after it. Asks the pods every 20 ms until then."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(name="errors", daemon=True)
        self._connections = [http.client.HTTPConnection(address, 8080, timeout=3) for address in addresses]
        self._before = self._count()
        self.ended = threading.Event()
        self.seen: list[float] = []

    def _count(self) -> float:
        found = 0.0
        for connection in self._connections:
            connection.request("GET", "/metrics")
            found += sum(map(float, ERRORS.findall(connection.getresponse().read().decode())))
        return found

    def run(self) -> None:
        while len(self.seen) < EVIDENCE and not self.ended.wait(0.02):
            new, now = int(self._count() - self._before), time.time()
            self.seen += [now] * (min(new, EVIDENCE) - len(self.seen))
        for connection in self._connections:
            connection.close()


def shown(all_series: Sequence[dict[str, Any]], since: float, needed: int) -> float | None:
    """When the scrape began after which these counters, taken together, had grown by ``needed`` since ``since``; None when never.

    ``all_series`` is what Prometheus stored: ``[{values: [[time of the scrape, text], ...]}, ...]``. A counter that appears begins at 0.
    """
    steps: list[tuple[float, float]] = []
    for series in all_series:
        values = [(float(moment), float(text)) for moment, text in series["values"]]
        last = max((value for moment, value in values if moment < since), default=0.0)
        for moment, value in values:
            if moment >= since:
                steps.append((moment, max(0.0, value - last)))
                last = value
    grown = 0.0
    for moment, step in sorted(steps):
        grown += step
        if grown >= needed:
            return moment
    return None


def first_scrape(since: float, needed: int) -> float | None:
    """The first scrape that shows so many errors of green after ``since``, in the pods or in the gateways."""
    back = time.time() - since + 15
    selectors = ['signal_requests_total{version="v2",code=~"5.."}', 'envoy_cluster_upstream_rq{envoy_cluster_name=~".*v2.*",envoy_response_code=~"5.."}']
    moments = [shown(samples(selector, back), since, needed) for selector in selectors]
    return min((moment for moment in moments if moment is not None), default=None)


class Breach:
    name = "breach"
    about = "errors of green at a random moment of the hold at 10 %"
    variants = tuple(BREAKS)
    trials = 30
    seconds = 18.0
    preparation = 25.0

    def __init__(self) -> None:
        self._clear = 0.0

    def prepare(self, stage: Stage, options: Options) -> None:
        stage.deploy_green()
        stage.start_traffic(options.rate)
        time.sleep(2)

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        # A playbook takes more than a second to its first shift; errors of the last trial must have left the window by then.
        time.sleep(max(0.0, self._clear - time.time() - 1.0))
        began = time.time()
        ratio, rule = BREAKS[variant]
        play = stage.canary(canary_hold_seconds=60, canary_window_seconds=options.window, canary_error_rule=rule)
        try:
            return self._measure(stage, play, ratio, began)
        finally:
            play.kill()
            labctl("heal", "error-ratio")
            self._clear = max(time.time() + KNOB, time.time() + options.window + SCRAPE)

    def _measure(self, stage: Stage, play: Any, ratio: float, began: float) -> dict[str, Any]:
        play.until(60, "10 %: hold ")
        time.sleep(random.uniform(0.3, 0.3 + SCRAPE + POLL))
        errors = Errors(stage.addresses(NAMESPACE, f"app={SERVICE},version=v2"))
        broken = time.time()
        errors.start()
        labctl("break", "error-ratio", str(ratio))
        written = stage.watcher.until(0, broken, 30)
        confirmed = stage.gateways.until(0, 10) if stage.gateways is not None and written is not None else None
        errors.ended.set()
        code = play.end(60)
        ended = time.time()
        if not errors.seen:
            raise BenchError(f"green never counted an error after the break (log: {play.log})")
        visible = [first_scrape(broken, needed) for needed in (1, EVIDENCE)]
        time.sleep(max(0.0, ended + 1.2 - time.time()))
        books = stage.books(began, ended)

        def since_error(moment: float | None) -> float | None:
            return None if moment is None else round(moment - errors.seen[0], 3)

        return {
            "second": since_error(errors.seen[1]) if len(errors.seen) > 1 else None,
            "visible": since_error(visible[0]),
            "visible_second": since_error(visible[1]),
            "written": since_error(written),
            "confirmed": since_error(confirmed),
            "code": code,
            "sent": books["sent"],
            "failed": books["failed"],
            "causes": books["causes"],
            "failed_versions": books["failed_versions"],
            "failed_at": books["failed_at"],
        }

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        for result in results:
            for variant in self.variants:
                trials = result.of(variant)
                if not trials:
                    continue
                done = [t for t in trials if t["written"] is not None]
                rows.append(
                    [
                        result.kind,
                        variant,
                        str(len(trials)),
                        figures.spread(t["written"] for t in done),
                        figures.spread(t["written"] - t["second"] for t in done if t["second"] is not None),
                        f"{SCRAPE + POLL:g}",
                        figures.spread(t["written"] - t["visible_second"] for t in done if t["visible_second"] is not None),
                        figures.spread((t["confirmed"] - t["written"] for t in done if t["confirmed"] is not None), 3),
                        str(len(trials) - len(done)),
                        figures.failures(trials),
                    ]
                )
        head = ("route", "errors", "n", "first bad answer -> weights written, s", "second bad answer -> weights written, s", "scrape + poll, s")
        head += ("visible in Prometheus -> written, s", "written -> all gateways, s", "not back", "failed requests")
        notes = (
            "Times: median / p95 / max. The first bad answer alone proves nothing (a sequential test of the counts), the second one does, or the third after "
            "many good ones: the formula scrape + poll counts from the second, and visible is the beginning of the first scrape, of green or of a gateway, "
            "that shows two. At 5 % green gives one bad answer a second, so the wait for the next one is chance. The wait for the first one (up to 3 s "
            "until the pods read the break) is in no figure. The strict rule (canary_error_rule: strict) goes back at the first bad answer; what that costs a "
            "healthy release is in how_a_gate_decides.md."
        )
        return f"{figures.table(head, rows)}\n\n{notes}"
