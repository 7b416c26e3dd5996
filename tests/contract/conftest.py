# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run one task through a chosen door and return what Ansible got."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


class Ran:
    """The result of one task: ``result`` as Ansible has it, ``output`` everything that was printed."""

    def __init__(self, result: dict[str, Any], output: str, code: int) -> None:
        self.result = result
        self.output = output
        self.code = code


Runner = Callable[..., Ran]


@pytest.fixture
def run_task(tmp_path: Path) -> Runner:
    """Return ``run(module, arguments, door=..., check=False, keywords={}, options=[], env={})``."""

    def run(
        module: str,
        arguments: dict[str, Any],
        door: str = "auto",
        check: bool = False,
        keywords: dict[str, Any] | None = None,
        options: list[str] | None = None,
        env: dict[str, str] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> Ran:
        task = {"name": "The task", f"signal.rollout.{module}": arguments, **(keywords or {})}
        report, output, code = _play(tmp_path / f"{door}.yml", [task], door, [*(["--check"] if check else []), *(options or [])], env, variables)
        return Ran(report[0], output, code)

    return run


def run_tasks(folder: Path, tasks: list[dict[str, Any]], door: str, options: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str]:
    """Run many tasks by one playbook, the failing ones too; return the result of each, and everything that was printed."""
    report, output, _code = _play(folder / f"{door}.yml", [{**task, "ignore_errors": True} for task in tasks], door, options)
    return report, output


def _play(
    path: Path,
    tasks: list[dict[str, Any]],
    door: str,
    options: Sequence[str],
    env: dict[str, str] | None = None,
    variables: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], str, int]:
    play = {
        "name": "The play",
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "signal_rollout_door": door,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            **(variables or {}),
        },
        "tasks": tasks,
    }
    path.write_text(yaml.safe_dump([play]), encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment = {
        **clean,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        **(env or {}),
    }
    command = [str(ANSIBLE_PLAYBOOK), "-i", "localhost,", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    start = done.stdout.find("{\n")
    assert start >= 0, done.stdout + done.stderr
    report = json.loads(done.stdout[start:])
    return [task["hosts"]["localhost"] for task in report["plays"][0]["tasks"]], done.stdout + done.stderr, done.returncode
