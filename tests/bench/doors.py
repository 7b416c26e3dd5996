# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure one task of each kind through both doors, side by side, on the running lab.

    python tests/bench/doors.py [--runs 5] [--tasks 10]

Per-task cost is (a playbook of N tasks - an empty playbook) / N, whole process, wall clock; the variants take turns, so that a
neighbour's load hits all of them alike. Prints a Markdown table. Nothing is asserted: figures belong into docs/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
KUBERNETES = {"kubeconfig": str(LAB / "kubeconfig" / "deployer"), "namespace": "signal"}
ROUTE = {"name": "signal-service", "stable": "v1", "canary": "v2", "weight": 0}


def tasks() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return one harmless task per module: ``{label: (module, arguments)}``."""
    login = {
        "login_host": "10.79.0.50",
        "login_db": "signal_db",
        "login_user": "signal_owner",
        "login_password": (LAB / "secrets" / "signal_owner").read_text(encoding="utf-8"),
    }
    probe = {"base_url": "http://10.79.0.70", "checks": [{"name": "health", "path": "/health"}]}
    gate = {
        "prometheus_url": "http://10.79.0.52:9090",
        "duration": 1,
        "interval": 1,
        "metrics": [{"name": "up", "query": "sum(up)", "above": 0, "unit": "targets"}],
    }
    return {
        "canary_weight (equal, confirmed)": ("signal.rollout.canary_weight", {**KUBERNETES, **ROUTE}),
        "workload_ready": ("signal.rollout.workload_ready", {**KUBERNETES, "name": "signal-service-v1"}),
        "rollout_record (show)": ("signal.rollout.rollout_record", {**KUBERNETES, "state": "show", "service": "signal-service"}),
        "endpoint_probe (1 check)": ("signal.rollout.endpoint_probe", probe),
        "hypertable_verify (1 table)": ("signal.rollout.hypertable_verify", {**login, "hypertables": [{"table": "signal_ticks"}]}),
        "metric_gate (1 s hold)": ("signal.rollout.metric_gate", gate),
        "kubernetes.core.k8s_info": (
            "kubernetes.core.k8s_info",
            {**KUBERNETES, "api_version": "apps/v1", "kind": "Deployment", "name": "signal-service-v1"},
        ),
    }


def seconds(module: str, arguments: dict[str, Any], count: int, door: str, folder: Path) -> float:
    variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "signal_rollout_door": door}
    play = {"name": "Bench", "hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables}
    play["tasks"] = [{"name": f"Task {number}", module: arguments} for number in range(count)]
    path = folder / "bench.yml"
    path.write_text(yaml.safe_dump([play]), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    started = time.perf_counter()
    done = subprocess.run([str(ANSIBLE_PLAYBOOK), "-i", "localhost,", str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{module} through door {door} failed:\n{done.stdout}{done.stderr}")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=10)
    options = parser.parse_args()
    print(f"Milliseconds per task, median (min-max) of {options.runs} runs of {options.tasks} tasks, start-up taken out.\n")
    print("| task | in-process door | module door | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, (module, arguments) in tasks().items():
            doors = ["in_process", "module"] if module.startswith("signal.") else ["module"]
            costs: dict[str, list[float]] = {door: [] for door in doors}
            for _unused in range(options.runs):
                empty = seconds(module, arguments, 0, "auto", folder)
                for door in doors:
                    spent = seconds(module, arguments, options.tasks, door, folder)
                    costs[door].append((spent - empty) / options.tasks * 1000)
            cells = [_cell(costs.get(door)) for door in ("in_process", "module")]
            ratio = "-"
            if len(doors) == 2:
                pairs = zip(costs["in_process"], costs["module"])
                ratio = f"{statistics.median(here / there for here, there in pairs):.2f}"
            print(f"| {label} | {cells[0]} | {cells[1]} | {ratio} |", flush=True)


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


if __name__ == "__main__":
    main()
