# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make deploy`: from a bare machine to a finished release in the lab, under traffic, with a summary.

Arguments are passed on to ansible-playbook, for example `make deploy ARGS="-e canary_hold_seconds=10"`.
The exit code is that of ansible-playbook, or that of the first part that failed before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import parts

NAMESPACE = "signal"
SERVICE = "signal-service"
# Keys of the knobs ConfigMaps (signal-service-knobs-VERSION), and what `labctl break` calls them.
KNOBS = {"error_ratio": "error-ratio", "latency_ms": "latency", "crash": "crash-loop", "leak_mb_per_s": "memory-leak", "unready": "unready"}
# The generator's report is traffic.json; marks cut it into slices.
TRAFFIC_MARKS = parts.STATE / "traffic.json.marks"
# How long an interrupted playbook may take to bring the traffic back before it is killed, in seconds.
PATIENCE = 60.0


@dataclass
class Part:
    """One part of the run, for the summary: what it was, how it ended, how long it took (seconds)."""

    name: str
    code: int
    seconds: float


class Deploy:
    """The parts of one `make deploy`, in order."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self.done: list[Part] = []

    def part(self, name: str, command: Sequence[str], deadline: float, patience: float = 10.0) -> int:
        """Run one part with its output on the terminal and note how it went."""
        print(f"==> {name}", flush=True)
        outcome = parts.run(command, deadline=deadline, patience=patience)
        self.done.append(Part(name, outcome.code, outcome.seconds))
        return outcome.code

    def need(self, name: str, command: Sequence[str], deadline: float) -> None:
        """Run a part without which the later ones make no sense."""
        code = self.part(name, command, deadline)
        if code:
            raise parts.Stop(f"{name}: {' '.join(command)} ended with exit code {code}; its output is above. Mend that, then run make deploy again.")

    def run(self) -> int:
        self.need("system packages", ["tools/prerequisites.sh", "git=git"], 900)
        self.need("virtual environment", ["tools/venv.sh"], 1500)
        self.need("lab", [*parts.LABCTL, "up"], 3000)
        objects = lab_objects()
        changes = differences(objects)
        if changes:
            print("The lab is not at its baseline: " + "; ".join(changes) + ".")
            # What was broken on purpose was meant for this release; the reset is only our way to its start.
            knobs = knobs_in_use(objects)
            self.need("lab reset", [*parts.LABCTL, "reset"], 300)
            for version, what, value in knobs:
                self.need(f"lab break {what} {value} ({version}), as before the reset", [*parts.LABCTL, "break", what, value, "--version", version], 60)
        # The release looks at them before it begins and after its end. Without them it goes on, with their boxes open.
        self.part("dashboards and alerts", [parts.tool("ansible-playbook"), "playbooks/monitor.yml", "--tags", "install"], 180)
        # A generator that was left running would count what happened before this release.
        self.need("traffic stop (left over)", traffic("stop"), 60)
        self.need("traffic start", traffic("start"), 60)
        try:
            return self.part("release", [parts.tool("ansible-playbook"), "playbooks/deploy_v2.yml", *self.arguments], 4 * 3600, PATIENCE)
        finally:
            self.part("traffic stop", traffic("stop"), 60)

    def report(self) -> None:
        """Show the traffic of the run, cut where the release changed the weights."""
        marks = weight_changes(lab_objects())
        TRAFFIC_MARKS.write_text("".join(json.dumps(mark) + "\n" for mark in marks))
        self.part("traffic report", traffic("report"), 60)

    def summary(self, code: int, seconds: float) -> None:
        print("\n==> summary")
        rows = [*self.done, Part("all", code, seconds)]
        width = max(len(part.name) for part in rows)
        for part in rows:
            print(f"    {part.name:<{width}} {parts.duration(part.seconds):>12}   {'ok' if part.code == 0 else f'exit code {part.code}'}", flush=True)


def traffic(action: str) -> list[str]:
    """Command line of the traffic generator, which needs the virtual environment's libraries."""
    return [parts.tool("python"), *parts.LABCTL[1:], "traffic", action]


def lab_objects() -> list[dict[str, Any]]:
    """The objects in the service's namespace that tell whether a release has been there."""
    kinds = "deployments.apps,virtualservices.networking.istio.io,configmaps,leases.coordination.k8s.io"
    command = [str(parts.STATE / "bin/kubectl"), "--kubeconfig", str(parts.STATE / "kubeconfig/admin"), "--namespace", NAMESPACE]
    command += ["--request-timeout=20s", "get", kinds, "--output=json"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise parts.Stop(f"The lab is up, but kubectl cannot be asked: {error}. Next: make lab-status") from error
    if answer.returncode:
        raise parts.Stop(f"The lab is up, but its API server does not answer: {answer.stderr.strip()[:300]}. Next: make lab-status")
    return json.loads(answer.stdout)["items"]


def differences(objects: list[dict[str, Any]]) -> list[str]:
    """What keeps a release from starting at the beginning: words for each difference from the lab's baseline."""
    found = []
    for item in objects:
        kind, name = item["kind"], item["metadata"]["name"]
        if kind == "Deployment" and name == f"{SERVICE}-v2":
            found.append("v2 is deployed")
        if kind == "VirtualService" and name == SERVICE:
            weights = {
                destination["destination"].get("subset", "?"): destination.get("weight", 100)
                for route in item["spec"].get("http", [])
                for destination in route.get("route", [])
            }
            if weights.get("v1") != 100:
                found.append("traffic is " + ", ".join(f"{subset} {weight} %" for subset, weight in sorted(weights.items())))
        if kind in ("Lease", "ConfigMap") and name == f"signal-rollout-{SERVICE}":
            found.append(f"there is a {'lock' if kind == 'Lease' else 'record'} of an earlier release ({kind} {name})")
    if not any(item["kind"] == "Deployment" and item["metadata"]["name"] == f"{SERVICE}-v1" for item in objects):
        found.append("v1 is not deployed")
    return found


def weight_changes(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """{"time" (epoch seconds), "name"} of each new weight and each failed step in the release's record; oldest first."""
    for item in objects:
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == f"signal-rollout-{SERVICE}":
            record = json.loads(item["data"]["record.json"])
            marks = [{"time": epoch(entry["time"]), "name": f"v2 at {entry['weight']} %"} for entry in record["weights"]]
            failed = [(name, step) for name, step in record["steps"].items() if step["status"] == "failed"]
            marks += [{"time": epoch(step["finished"]), "name": f"{name} failed"} for name, step in failed]
            return sorted(marks, key=lambda mark: mark["time"])
    return []


def epoch(stamp: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it, such as 2026-11-24T10:58:46.123456Z."""
    return datetime.fromisoformat(stamp).timestamp()


def knobs_in_use(objects: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(version, name for `labctl break`, value) of each knob that is set."""
    return [
        (version, KNOBS[key], value)
        for item in objects
        for version in ("v1", "v2")
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == f"{SERVICE}-knobs-{version}"
        for key, value in (item.get("data") or {}).items()
        if key in KNOBS and value.strip()
    ]


def main(arguments: list[str]) -> int:
    parts.end_on_signals()
    deploy = Deploy(arguments)
    started = time.monotonic()
    code = 1
    try:
        with parts.sole_user_of_the_lab("make deploy"):
            code = deploy.run()
            deploy.report()
    except parts.Stop as stop:
        print(stop, file=sys.stderr)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted ({interrupt or 'INT'}). Next: make lab-status, or make deploy to start anew", file=sys.stderr)
        code = 130
    deploy.summary(code, time.monotonic() - started)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
