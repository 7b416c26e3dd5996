# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole releases on the lab, as a person runs them: ansible-playbook in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _messages, _record, _release_checklist, _virtual_service
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

ROOT = Path(__file__).resolve().parents[2]
LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
SINK = "http://10.79.0.53:8080"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
# Everything as in the lab's inventory, only shorter: what is tested is the order of things, not patience.
QUICK: dict[str, Any] = {
    "canary_hold_seconds": 5,
    "canary_bake_seconds": 5,
    "canary_window_seconds": 4,
    "canary_minimum_requests": 20,
    "canary_outage_budget_seconds": 8,
    "blue_green_stable_seconds": 0,
    "rollback_drain_seconds": 2,
    "communication_timeout_seconds": 3,
    # The load test takes half a minute by itself; molecule and `make deploy` run it.
    "verification_load_test_script": "",
}
DEADLINE = 180.0


def labctl(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "lab" / "labctl"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Ended:
    """How a playbook ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        return int(self.output.rpartition("changed=")[2].split()[0])


class Run:
    """A playbook that is running."""

    def __init__(self, playbook: str, variables: dict[str, Any], options: list[str], log: Path) -> None:
        command = [str(PLAYBOOK), f"playbooks/{playbook}.yml", "-e", json.dumps({**QUICK, **variables}), *options]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        self.log = log
        self.stream = log.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self, seconds: float = DEADLINE) -> Ended:
        try:
            self.process.wait(seconds)
        finally:
            self.kill()
        return Ended(self.process.returncode, self.log.read_text(encoding="utf-8"))

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.stream.close()


class Stage:
    """The lab as a test sees it."""

    def __init__(self, folder: Path) -> None:
        options: dict[str, Any] = dict.fromkeys(_kube.ARGUMENT_SPEC)
        self.kube = _kube.connect({**options, "kubeconfig": str(LAB / "kubeconfig" / "admin")})
        self.folder = folder
        self.runs: list[Run] = []

    def start(self, playbook: str, *options: str, **variables: Any) -> Run:
        run = Run(playbook, variables, list(options), self.folder / f"{len(self.runs)}-{playbook}.log")
        self.runs.append(run)
        return run

    def play(self, playbook: str, *options: str, **variables: Any) -> Ended:
        return self.start(playbook, *options, **variables).end()

    def find(self, group: str, version: str, plural: str, name: str) -> dict[str, Any] | None:
        return self.kube.find(_kube.path_of(group, version, plural, "signal", name))

    @property
    def virtual_service(self) -> dict[str, Any]:
        found = self.find(*_virtual_service.GROUP, "virtualservices", "signal-service")
        assert found is not None
        return found

    def weights(self) -> list[int]:
        """Percent on v1 and on v2."""
        primary = next(entry for entry in self.virtual_service["spec"]["http"] if entry.get("name") == "primary")
        return [entry.get("weight", 0) for entry in primary["route"]]

    def replicas(self, version: str) -> int | None:
        found = self.find("apps", "v1", "deployments", f"signal-service-{version}")
        return None if found is None else found["spec"]["replicas"]

    def record(self) -> dict[str, Any]:
        found = self.find("", "v1", "configmaps", _record.record_name("signal-service"))
        return json.loads(((found or {}).get("data") or {}).get(_record.RECORD_KEY, "{}"))

    def boxes(self, *chosen: str) -> dict[str, str]:
        """State of the boxes of these sections or with these ids; of all of them when none is named."""
        asked = {**dict.fromkeys(_release_checklist.ARGUMENT_SPEC), "kubeconfig": str(LAB / "kubeconfig" / "admin"), "namespace": "signal"}
        asked.update(state="shown", service="signal-service", version="v2", items=[], comment="", proofs={})
        found = {entry["id"]: entry for entry in _release_checklist.run(asked, Context())["items"]}
        return {name: entry["state"] for name, entry in found.items() if not chosen or name in chosen or entry["section"] in chosen}

    @staticmethod
    def report(ended: Ended) -> str:
        """The page that a deployment says it has left."""
        found = re.search(r"Report: (\S+\.html)", ended.output)
        assert found, ended.output[-4000:]
        return Path(found[1]).read_text(encoding="utf-8")

    def told(self) -> list[str]:
        """The messages that the deployment of the record has sent."""
        record = self.record()
        document = self.find("", "v1", "configmaps", _record.record_name("signal-service"))
        return _messages.with_messages(record, document, record["version"], record["plan_hash"])["messages"]

    def holder(self) -> str:
        found = self.find("coordination.k8s.io", "v1", "leases", _record.lease_name("signal-service"))
        return _record.read_lease(found).holder

    def messages(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{SINK}/messages", timeout=10) as answer:
            return json.load(answer)

    def revision(self) -> str:
        import psycopg2

        password = (LAB / "secrets" / "signal_owner").read_text(encoding="utf-8")
        session = psycopg2.connect(
            host="10.79.0.50", dbname="signal_db", user="signal_owner", password=password, connect_timeout=5
        )
        try:
            with session.cursor() as cursor:
                cursor.execute("SELECT version_num FROM alembic_version")
                rows = [row[0] for row in cursor.fetchall()]
        finally:
            session.close()
        assert len(rows) == 1
        return rows[0]

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 90.0) -> None:
        """Wait until ``condition`` is true; say what was waited for when it never is."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        return "\n".join(run.log.read_text(encoding="utf-8")[-3000:] for run in self.runs)

    def traffic(self) -> dict[str, Any]:
        """Stop the traffic and return its totals."""
        labctl("traffic", "stop")
        return json.loads((LAB / "traffic.json").read_text(encoding="utf-8"))["totals"]

    def lost(self) -> dict[str, Any]:
        """Stop the traffic; why and by which version requests failed, empty when none did."""
        totals = self.traffic()
        return {key: totals[key] for key in ("failed", "causes", "failed_versions")} if totals["failed"] else {}


@pytest.fixture
def quiet_stage(tmp_path: Path) -> Iterator[Stage]:
    """The lab at its baseline, without any user."""
    labctl("traffic", "stop")
    labctl("heal")
    labctl("reset")
    made = Stage(tmp_path)
    yield made
    for run in made.runs:
        run.kill()
    labctl("heal")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """The lab at its baseline, under 100 requests/s."""
    labctl("heal")
    labctl("reset")
    labctl("traffic", "start", "--rate", "100", "--websockets", "10", "--duration", "600")
    made = Stage(tmp_path)
    yield made
    for run in made.runs:
        run.kill()
    labctl("traffic", "stop")
    labctl("heal")
