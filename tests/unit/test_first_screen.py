# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which playbooks tell first what became of a release that did not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"


def roles_of(name: str) -> list[dict[str, Any]]:
    (play,) = yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text(encoding="utf-8"))
    return [task["ansible.builtin.import_role"] for task in play["tasks"] if "ansible.builtin.import_role" in task]


@pytest.mark.parametrize("name", ["deploy_v2", "preflight", "status"])
def test_playbook_begins_with_the_unfinished_release(name: str) -> None:
    assert roles_of(name)[0] == {"name": "signal.rollout.preflight", "tasks_from": "unfinished"}


def test_rollback_tells_of_it_as_soon_as_the_traffic_is_back() -> None:
    (block,) = yaml.safe_load((PLAYBOOKS.parent / "roles/rollback/tasks/main.yml").read_text(encoding="utf-8"))
    names = [task["name"] for task in block["block"]]
    assert names.index("Say what became of an unfinished release") == names.index("Traffic first") + 1


def test_resume_is_the_deployment_that_refuses_to_begin_anew() -> None:
    (play,) = yaml.safe_load((PLAYBOOKS / "resume.yml").read_text(encoding="utf-8"))
    assert play["ansible.builtin.import_playbook"] == "deploy_v2.yml" and play["vars"] == {"rollout_resume": True}
