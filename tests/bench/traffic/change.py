# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One weight change: a task of this collection, kubectl, and the tasks of kubernetes.core, in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from . import figures
from .results import ROOT, Results
from .section import Options
from .stage import LAB, NAMESPACE, PLAYBOOK, ROUTE, BenchError, Stage

# A playbook of FEW changes and one of MANY: the difference is what each further one costs, the rest what the first one costs more.
FEW, MANY = 2, 12
KUBECONFIG = str(LAB / "kubeconfig" / "deployer")
WEIGHTS = (10, 0)
OURS = {
    "canary_weight, in-process, confirmed": ("in_process", "auto"),
    "canary_weight, in-process, not confirmed": ("in_process", "none"),
    "canary_weight, module, confirmed": ("module", "auto"),
    "canary_weight, module, not confirmed": ("module", "none"),
}
KUBECTL = "kubectl patch"
K8S = "kubernetes.core.k8s"
JSON_PATCH = "kubernetes.core.k8s_json_patch"
THEIRS = (KUBECTL, K8S, JSON_PATCH)


class Change:
    name = "change"
    about = "one weight change by each tool"
    variants = ("",)
    trials = 5
    seconds = 45.0
    preparation = 20.0

    def prepare(self, stage: Stage, options: Options) -> None:
        stage.deploy_green()

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]:
        """One round: every tool changes the weight some times; milliseconds for the first change of a playbook, and for a further one."""
        with tempfile.TemporaryDirectory() as name:
            bench = _Round(stage, Path(name))
            empty = bench.playbook([], "auto")
            cost = {label: bench.cost(bench.ours(confirm), door, empty) for label, (door, confirm) in OURS.items()}
            each = bench.kubectl()
            cost[KUBECTL] = {"first": each, "further": each}
            cost[K8S] = bench.cost(bench.k8s(), "auto", empty)
            cost[JSON_PATCH] = bench.cost(bench.json_patch(), "auto", empty)
        return {"milliseconds": cost}

    def table(self, results: Sequence[Results]) -> str:
        rows = []
        for result in results:
            rounds = [trial["milliseconds"] for trial in result.trials]
            for label in (*OURS, *THEIRS):
                if rounds:
                    ratios = [f"{statistics.median(one[label]['further'] / one[other]['further'] for one in rounds):.2f}" for other in THEIRS]
                    times = [figures.middle([one[label][which] for one in rounds]) for which in ("further", "first")]
                    rows.append([result.kind, label, str(len(rounds)), *times, *ratios])
        head = ("route", "one change by", "rounds", "ms, median (min-max)", "the first of a playbook, ms", *(f"ratio to {other}" for other in THEIRS))
        notes = (
            f"A round is one playbook of {FEW} changes and one of {MANY} by each tool, one tool after the other. A change costs the difference / {MANY - FEW}; "
            f"the first one of a playbook also loads libraries; start-up of ansible-playbook is in neither. kubectl: {MANY} calls, each a process with its own "
            "start-up, as in every use. Ratios: median of the rounds' own. Confirmed means that both gateways show the weight: it contains the mesh's own "
            "time, which no other tool waits for."
        )
        return f"{figures.table(head, rows)}\n\n{notes}"


class _Round:
    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._kind = stage.kind
        self._folder = folder
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}

    def playbook(self, tasks: list[dict[str, Any]], door: str) -> float:
        variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "signal_rollout_door": door}
        play = {"name": "Bench", "hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}
        path = self._folder / "bench.yml"
        path.write_text(yaml.safe_dump([play]), encoding="utf-8")
        environment = {**self._environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        command = [str(PLAYBOOK), "-i", "localhost,", str(path)]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        took = time.perf_counter() - started
        changed = done.stdout.rpartition("changed=")[2].split(maxsplit=1)
        if done.returncode or (tasks and changed[0] != str(len(tasks))):
            raise BenchError(f"{len(tasks)} changes through door {door} did not work:\n{(done.stdout + done.stderr)[-2000:]}")
        return took

    def cost(self, tasks: list[dict[str, Any]], door: str, empty: float) -> dict[str, float]:
        few, many = self.playbook(tasks[:FEW], door), self.playbook(tasks, door)
        further = (many - few) / (MANY - FEW)
        return {"first": round(1000 * (few - empty - (FEW - 1) * further), 1), "further": round(1000 * further, 1)}

    def kubectl(self) -> float:
        """Milliseconds of one call."""
        environment = {**self._environment, "KUBECONFIG": KUBECONFIG}
        started = time.perf_counter()
        for number in range(MANY):
            command = [str(LAB / "bin" / "kubectl"), "--namespace", NAMESPACE, "patch", self._kind.plural, self._kind.resource]
            command += ["--type", "json", "--patch", json.dumps(self._operations(WEIGHTS[number % 2]))]
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode or "no change" in done.stdout:
                raise BenchError(f"kubectl patch did not work: {done.stdout}{done.stderr}")
        return round(1000 * (time.perf_counter() - started) / MANY, 1)

    def ours(self, confirm: str) -> list[dict[str, Any]]:
        route = {
            "kubeconfig": KUBECONFIG,
            "namespace": NAMESPACE,
            "kind": self._kind.name,
            "name": self._kind.resource,
            "route": ROUTE,
            "stable": self._kind.stable,
            "canary": self._kind.canary,
            "confirm": {"method": confirm},
        }
        return self._tasks("signal.rollout.canary_weight", lambda weight: {**route, "weight": weight})

    def k8s(self) -> list[dict[str, Any]]:
        def definition(weight: int) -> dict[str, Any]:
            document = self._stage.document()
            for entry in self._kind.entries(document):
                entry["weight"] = weight if self._kind.called(entry) == self._kind.canary else 100 - weight
            field = "http" if self._kind.name == "VirtualService" else "rules"
            # A list is replaced as a whole: everything else in it has to be stated too.
            return {
                "apiVersion": document["apiVersion"],
                "kind": document["kind"],
                "metadata": {"name": self._kind.resource, "namespace": NAMESPACE},
                "spec": {field: document["spec"][field]},
            }

        return self._tasks("kubernetes.core.k8s", lambda weight: {"kubeconfig": KUBECONFIG, "state": "patched", "definition": definition(weight)})

    def json_patch(self) -> list[dict[str, Any]]:
        named = {
            "kubeconfig": KUBECONFIG,
            "api_version": f"{self._kind.group}/{self._kind.version}",
            "kind": self._kind.name,
            "namespace": NAMESPACE,
            "name": self._kind.resource,
        }
        return self._tasks("kubernetes.core.k8s_json_patch", lambda weight: {**named, "patch": self._operations(weight)})

    def _tasks(self, module: str, arguments: Any) -> list[dict[str, Any]]:
        return [{"name": f"Change {number}", module: arguments(WEIGHTS[number % 2])} for number in range(MANY)]

    def _operations(self, weight: int) -> list[dict[str, Any]]:
        document = self._stage.document()
        entries = self._kind.entries(document)
        if self._kind.name == "VirtualService":
            base = f"/spec/http/{next(i for i, http in enumerate(document['spec']['http']) if http.get('route') is entries)}/route"
        else:
            base = f"/spec/rules/{next(i for i, rule in enumerate(document['spec']['rules']) if rule.get('backendRefs') is entries)}/backendRefs"
        return [
            {"op": "replace", "path": f"{base}/{index}/weight", "value": weight if self._kind.called(entry) == self._kind.canary else 100 - weight}
            for index, entry in enumerate(entries)
            if self._kind.called(entry) in (self._kind.stable, self._kind.canary)
        ]
