# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
  diff_mode:
    description: Returns details on what has changed, or what would change in check mode, when in diff mode.
  idempotent:
    description:
      - When run twice in a row outside check mode with the same arguments, the second invocation indicates no change.
  in_process:
    description:
      - Runs inside the controller's process when the task's connection is local, it is neither escalated nor asynchronous,
        and its interpreter is the controller's own. Otherwise it runs as an ordinary module with the same answers.
"""

    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module does not modify state. It reads for real in check mode too.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: N/A
    details:
      - This module does not modify state. Its answer depends on the observed system.
  in_process:
    support: full
"""

    ACTIONGROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/signal.rollout.rollout) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - signal.rollout.rollout
"""

    ACTIONGROUP_KUBERNETES = r"""
options: {}
attributes:
  action_group:
    description: Use one of these groups in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - signal.rollout.rollout
      - signal.rollout.kubernetes
"""
