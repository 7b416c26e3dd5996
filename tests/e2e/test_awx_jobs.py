# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs of the AWX workflow as AWX runs them: by ansible-runner, each in a folder of its own, answers as text, nobody to ask."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import ansible_runner
import pytest
import yaml

from .conftest import QUICK, ROOT, Stage


class Tagged(str):
    """Text that came from a person. AWX marks it, so that it is never taken for a template."""


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(Tagged, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


@dataclass
class Job:
    """How a job ended."""

    status: str
    output: str
    changed: int


class Awx:
    """What AWX does between a launch and ansible-playbook."""

    def __init__(self, folder: Path, inventory: str) -> None:
        class Loader(yaml.SafeLoader):
            pass

        Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))
        data = yaml.load((ROOT / "playbooks/vars/awx.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
        self.templates = {template["name"]: template for template in data["awx_templates"]}
        self.folder, self.inventory, self.count = folder, inventory, 0

    def run(self, name: str, check: bool = False, **answers: str) -> Job:
        """Run a template. ``answers`` are those of its survey, as text."""
        template = self.templates[name]
        self.count += 1
        private = self.folder / f"awx_{self.count}"
        for part in ("playbooks", "roles", "plugins", "meta"):
            shutil.copytree(ROOT / part, private / "project" / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("ansible.cfg", "galaxy.yml"):
            shutil.copy(ROOT / part, private / "project" / part)
        script = private / "inventory" / "hosts"
        script.parent.mkdir()
        script.write_text(f"#! /usr/bin/env python3\n# -*- coding: utf-8 -*-\nprint({self.inventory!r})\n", encoding="utf-8")
        script.chmod(0o700)
        # The template's own variables, and what AWX says of the job, are trusted; answers are not.
        mine = {"rollout_release_dir": str(ROOT / "lab/signal_service/release"), **QUICK, "awx_job_id": self.count, "tower_job_id": self.count,
                "awx_job_launch_type": "workflow", "awx_user_name": "somebody"}
        given = {"rollout_version": "v2", "rollout_stable_version": "v1", **answers}
        (private / "env").mkdir()
        variables = yaml.dump({**mine, **{key: Tagged(value) for key, value in given.items()}}, Dumper=Dumper)
        (private / "env" / "extravars").write_text(variables, encoding="utf-8")
        environment = {
            # The caller's own settings are not there in a job's container.
            **{key: "" for key in os.environ if key.startswith(("ANSIBLE_", "K8S_", "PG"))},
            "ANSIBLE_FORCE_COLOR": "True", "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
            "ANSIBLE_COLLECTIONS_PATH": f"{private}/requirements_collections:playbooks/collections:~/.ansible/collections:/usr/share/ansible/collections",
            "HOME": str(private), "JOB_ID": str(self.count), "INVENTORY_ID": "1", "MAX_EVENT_RES": "700000", "PYTHONPATH": "",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        options = [*(["--check"] if check else []), *(["-t", template["tags"]] if template.get("tags") else [])]
        ended = ansible_runner.run(
            private_data_dir=str(private), ident=str(self.count), playbook=template["playbook"], inventory=str(script), envvars=environment,
            cmdline=" ".join(options) or None, quiet=True, timeout=170, suppress_env_files=True,
        )
        with ended.stdout as stream:
            output = stream.read()
        return Job(str(ended.status), output, sum(((ended.stats or {}).get("changed") or {}).values()))


@pytest.fixture
def awx(tmp_path: Path, ansible: Callable[..., CompletedProcess[str]]) -> Awx:
    """AWX after it has synchronised the lab's inventory."""
    listed = ansible("ansible-inventory", "-i", str(ROOT / "inventories/lab"), "--list", "--export")
    assert listed.returncode == 0, listed.stderr
    return Awx(tmp_path, json.dumps(json.loads(listed.stdout)))


def test_the_jobs_of_a_workflow_stop_where_an_approval_is_waited_for_and_a_denial_leads_back(stage: Stage, awx: Awx) -> None:
    wrong = awx.run("all phases", canary_until="10")
    assert wrong.status == "failed" and "expected 100 (or nothing) in a run of all phases" in " ".join(wrong.output.split())
    assert stage.record() == {}
    for phase in ("migrate", "green"):
        job = awx.run(phase)
        assert job.status == "successful", job.output[-4000:]
    assert stage.revision() == "0004" and stage.replicas("v2") and stage.weights() == [100, 0]
    for step, weights in (("10", [90, 10]), ("50", [50, 50])):
        job = awx.run("canary", canary_until=step)
        assert job.status == "successful", job.output[-4000:]
        assert stage.weights() == weights and stage.holder() == "" and stage.record()["outcome"] is None
    again = awx.run("canary", canary_until="50")
    assert again.status == "successful" and stage.weights() == [50, 50]
    assert "Later steps: 100 %" in " ".join(again.output.split())
    assert [entry["weight"] for entry in stage.record()["weights"]] == [10, 50]
    early = awx.run("outcome", outcome_expected="complete")
    assert early.status == "failed" and "outcome none" in " ".join(early.output.split())
    assert awx.run("status").status == "successful"
    # A denied approval goes this way; what a person typed stays text.
    back = awx.run("rollback", rollback_reason="{{ 1 + 1 }} is what somebody typed")
    assert back.status == "successful", back.output[-4000:]
    assert stage.weights() == [100, 0] and stage.record()["notes"] == "{{ 1 + 1 }} is what somebody typed"
    assert awx.run("outcome", outcome_expected="rolled_back").status == "successful"


@pytest.mark.parametrize("version", ["1.10", "0123", "true"])
def test_a_version_that_looks_like_something_else_is_refused_with_the_reason(awx: Awx, version: str) -> None:
    job = awx.run("preflight", rollout_version=version)
    words = " ".join(job.output.split())
    assert job.status == "failed" and "rollout_version: expected text" in words
    assert "AWX takes the quotes off" in words or "expected text like" in words
