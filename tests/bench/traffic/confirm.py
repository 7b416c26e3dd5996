# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the weight written to the weight confirmed, by each way to confirm it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from . import figures
from .results import ROOT, Results
from .section import Options
from .stage import LAB, NAMESPACE, PLAYBOOK, PROMETHEUS, ROUTE, BenchError, Stage

WEIGHT = 20
METHODS: dict[str, dict[str, Any]] = {
    "envoy": {},
    "exec": {},
    "observed": {"observed": {"prometheus_url": PROMETHEUS, "preset": "gateway_requests", "scrape_interval": 1}},
}


class Sight(threading.Thread):
    """When all gateways first showed each weight."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="sight", daemon=True)
        self._stage = stage
        self.ended = threading.Event()
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while self._stage.gateways is not None and not self.ended.wait(0.01):
            shares = set(self._stage.gateways.green())
            if len(shares) == 1 and (not self.seen or self.seen[-1][1] not in shares):
                self.seen.append((time.time(), shares.pop()))


class Confirm:
    name = "confirm"
    about = "the weight written, until it is confirmed"
    variants = tuple(METHODS)
    trials = 10
    seconds = 8.0
    preparation = 25.0

    def prepare(self, stage: Stage, options: Options) -> None:
        stage.deploy_green()
        stage.start_traffic(options.rate)

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        """Two shifts, to green and back; seconds as the module says, and as the gateways show from outside."""
        sight = Sight(stage)
        began = time.time()
        sight.start()
        try:
            told = self._shifts(stage, variant)
        finally:
            sight.ended.set()
            sight.join(5)
        outside = []
        for weight in (WEIGHT, 0):
            written = stage.watcher.until(weight, began, 1)
            shown = next((moment for moment, seen in sight.seen if written is not None and moment >= written and seen == weight), None)
            outside.append(None if written is None or shown is None else round(shown - written, 3))
        return {"told": [one.get("seconds") for one in told], "states": [one.get("state", "") for one in told], "outside": outside}

    def _shifts(self, stage: Stage, method: str) -> list[dict[str, Any]]:
        route = {
            "kubeconfig": str(LAB / "kubeconfig" / "deployer"),
            "namespace": NAMESPACE,
            "kind": stage.kind.name,
            "name": stage.kind.resource,
            "route": ROUTE,
            "stable": stage.kind.stable,
            "canary": stage.kind.canary,
            "confirm": {"method": method, **METHODS[method]},
        }
        with tempfile.TemporaryDirectory() as name:
            answer, path = Path(name) / "answer.json", Path(name) / "bench.yml"
            tasks: list[dict[str, Any]] = [
                {"name": f"To {weight}", "signal.rollout.canary_weight": {**route, "weight": weight}, "register": f"shift_{weight}"} for weight in (WEIGHT, 0)
            ]
            content = f"{{{{ [shift_{WEIGHT}.confirmed, shift_0.confirmed] | to_json }}}}"
            tasks.append({"name": "Tell", "ansible.builtin.copy": {"content": content, "dest": str(answer), "mode": "0600"}})
            variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
            play = {"name": "Bench", "hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}
            path.write_text(yaml.safe_dump([play]), encoding="utf-8")
            environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
            command = [str(PLAYBOOK), "-i", "localhost,", str(path)]
            done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                stage.put_back()
                raise BenchError(f"the shifts confirmed by {method} failed:\n{(done.stdout + done.stderr)[-1500:]}")
            return json.loads(answer.read_text(encoding="utf-8"))

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        for result in results:
            for variant in self.variants:
                trials = result.of(variant)
                if trials:
                    told = [seconds for trial in trials for seconds in trial["told"]]
                    outside = [seconds for trial in trials for seconds in trial["outside"]]
                    rows.append([result.kind, variant, str(len(told)), figures.spread(told, 3), figures.spread(outside, 3)])
        head = ("route", "confirmed by", "n", "as the module says, s", "gateways show it, seen from outside, s")
        notes = (
            f"Times from the write: median / p95 / max of shifts from 0 to {WEIGHT} % and back. An observed share needs requests and scrapes after the write: "
            "it comes later than the mesh itself."
        )
        return f"{figures.table(head, rows)}\n\n{notes}"
