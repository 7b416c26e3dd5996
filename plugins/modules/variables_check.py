#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: variables_check
short_description: Check a release's variables by the roles' argument specs, all at once
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Evaluates every variable that the roles declare and checks type, choices, ranges and relations. All problems are reported in one
    message, each with variable, rule and what was seen.
  - Refuses unknown variables that start with a role's name or with C(rollout_), and near misspellings of known ones.
  - Runs on the controller only, as the variables live there. Reads and connects to nothing.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
attributes:
  in_process:
    details:
      - Always runs inside the controller's process.
options:
  roles:
    description: Roles whose variables are checked. Without it, all roles of the collection.
    type: list
    elements: str
  ignore:
    description: Variables of one's own that look like one of the collection's.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Refuse bad variables before anything is written
  signal.rollout.variables_check:

- name: Check the variables of one role
  signal.rollout.variables_check:
    roles: [canary]
"""

RETURN = r"""
problems:
  description: What is wrong.
  returned: always
  type: list
  elements: dict
  sample: [{"variable": "canary_steps", "rule": "expected strictly increasing numbers", "seen": "[50, 10, 100] (list)"}]
checked:
  description: How many declared variables were checked.
  returned: always
  type: int
  sample: 64
"""
