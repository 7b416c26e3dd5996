# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pipeline of the lab's own service, and what the preflight's own variables of the lab make of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import lab_evidence
import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "5e" * 20
BOXES = {
    "code.unit_tests", "code.integration_tests", "code.benchmarks", "code.security_scan", "code.vulnerabilities", "documentation.api_docs",
    "documentation.diagrams", "documentation.runbook", "documentation.migration_guide", "documentation.release_notes",
}  # fmt: skip
PLAY = """
- hosts: release
  gather_facts: false
  vars: {_preflight_proofs: {}}
  tasks:
    - ansible.builtin.include_role: {name: signal.rollout.preflight, tasks_from: proofs_evidence}
    - ansible.builtin.copy: {dest: "{{ answer }}", mode: "0600", content: "{{ _preflight_proofs | to_json }}"}
"""


@pytest.mark.box(*(BOXES - {"code.benchmarks"}))
def test_the_labs_release_is_proven_by_its_pipeline_and_not_by_that_of_another_commit(
    tmp_path: Path, ansible: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    reports = tmp_path / "evidence"
    lab_evidence.Pipeline(reports, COMMIT).run()
    (tmp_path / "play.yml").write_text(PLAY)

    def states(commit: str) -> dict[str, str]:
        answer = tmp_path / "answer.json"
        done = ansible(
            "ansible-playbook", "-i", str(ROOT / "inventories/lab"), str(tmp_path / "play.yml"), "-e", f"preflight_evidence_commit={commit}",
            "-e", f"signal_lab_evidence={reports}{os.sep}", "-e", f"answer={answer}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return {box: proof["state"] for box, proof in json.loads(answer.read_text()).items()}

    found = states(COMMIT)
    # How fast the service is depends on what else this machine does.
    assert {**found, "code.benchmarks": "proven"} == dict.fromkeys(BOXES, "proven")
    assert found.keys() == BOXES
    # The documents are judged by the version that they name.
    reported = {box for box in BOXES if box.startswith("code.")} | {"documentation.api_docs"}
    assert states("0" * 40) == {box: "failed" if box in reported else "proven" for box in BOXES}
