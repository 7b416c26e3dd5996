# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout runs as it is: by path in its folder, by absolute path from elsewhere, and by full name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
Ansible = Callable[..., CompletedProcess[str]]


def test_there_are_playbooks() -> None:
    assert {"deploy_v2", "rollback", "cleanup"} <= set(PLAYBOOKS)


@pytest.mark.parametrize("playbook", PLAYBOOKS)
@pytest.mark.parametrize("form", ["path in the checkout", "absolute path from elsewhere", "full name in the checkout"])
def test_a_playbook_is_found_with_all_it_uses(playbook: str, form: str, ansible: Ansible, tmp_path: Path) -> None:
    inventory = str(ROOT / "inventories/lab")
    if form == "path in the checkout":
        shown = ansible("ansible-playbook", f"playbooks/{playbook}.yml", "--list-tasks", cwd=ROOT)
    elif form == "full name in the checkout":
        shown = ansible("ansible-playbook", f"signal.rollout.{playbook}", "--list-tasks", cwd=ROOT)
    else:
        shown = ansible("ansible-playbook", "-i", inventory, str(ROOT / f"playbooks/{playbook}.yml"), "--list-tasks", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "[WARNING]" not in shown.stderr
    assert "TAGS:" in shown.stdout


def test_a_module_is_found_from_the_command_line(ansible: Ansible) -> None:
    # Without its options: the answer must come from our argument spec, not from "module not found".
    shown = ansible("ansible", "localhost", "-m", "signal.rollout.canary_weight", cwd=ROOT)
    assert shown.returncode != 0
    assert "missing required arguments" in shown.stdout + shown.stderr


def test_the_lab_is_the_default_inventory(ansible: Ansible) -> None:
    by_default = ansible("ansible-inventory", "--list", cwd=ROOT)
    by_name = ansible("ansible-inventory", "-i", "inventories/lab", "--list", cwd=ROOT)
    assert by_default.returncode == 0, by_default.stderr
    assert by_default.stdout == by_name.stdout
    assert "rollout_service" in by_default.stdout
