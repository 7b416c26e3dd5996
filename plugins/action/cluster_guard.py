# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _cluster_guard
from ansible_collections.signal.rollout.plugins.plugin_utils._identity import run_identity
from ansible_collections.signal.rollout.plugins.plugin_utils._in_process import InProcessAction


class ActionModule(InProcessAction):
    engine = _cluster_guard

    def task_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Fill in under which name this ansible-playbook holds the release."""
        arguments = super().task_arguments(task_vars)
        if not arguments.get("holder"):
            arguments["holder"] = run_identity(task_vars)
        return arguments
