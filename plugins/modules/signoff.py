#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: signoff
short_description: Sign off a release, as whom the API server has authenticated
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Five roles sign a release off. Who does it is whom the API server has authenticated, by whatever credentials the task has; no variable names them.
    O(approvers) says who speaks for which role.
  - An approval counts for one version, by one plan, with the images that run now, and until it expires. A pod with another digest makes it void.
  - The history is only appended to, in a ConfigMap of its own, C(signal-rollout-SERVICE-signoff), so that rights can tell those who release from
    those who approve. Each entry carries the hash of the one before it.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - Deciding the same again, while it counts, changes nothing, and does not make it last longer.
  in_process:
    support: full
options:
  state:
    description:
      - V(shown) reads how the five roles stand, V(decided) decides for O(role), V(revoked) takes its decision back, and V(required) fails, with every
        reason, while one of O(roles) has not approved.
    type: str
    choices: [shown, decided, revoked, required]
    default: shown
  service:
    description: Name of the service.
    type: str
    required: true
  version:
    description: Version that is released. The record must be of this version.
    type: str
    required: true
  plan:
    description: The plan of the release. With it, a record of another plan is refused.
    type: dict
  role:
    description: Role for which the caller decides.
    type: str
    choices: [devops, service_owner, qa, product, security]
  decision:
    description: What the caller decides. V(reject) needs a comment.
    type: str
    choices: [approve, reject]
  comment:
    description: Why, at most 300 characters.
    type: str
    default: ""
  approvers:
    description:
      - Who speaks for which role, by the role, each with C(users) and C(groups) as the API server names them.
      - With V(shown) and V(required), an approval by somebody who is not in it does not count.
    type: dict
  roles:
    description: Roles that must have approved.
    type: list
    elements: str
    choices: [devops, service_owner, qa, product, security]
    default: [devops, service_owner, qa, product, security]
  valid_hours:
    description: How long an approval counts, in hours.
    type: float
    default: 72.0
  deployer_may_approve:
    description: Whether somebody who has begun or resumed the release may approve it.
    type: bool
    default: false
  one_role_per_person:
    description: Whether the approval of one person counts for one role only.
    type: bool
    default: true
  pod_selector:
    description: Labels of the pods of the new version. Without it C(app=SERVICE,version=VERSION).
    type: str
"""

EXAMPLES = r"""
- name: Approve as QA Lead
  signal.rollout.signoff:
    namespace: signal
    service: signal-service
    version: v2
    state: decided
    role: qa
    decision: approve
    comment: https://qa.example.com/runs/871
    approvers:
      qa: {users: [quinn@example.com], groups: [qa-leads]}

- name: Go on only when everybody has approved
  signal.rollout.signoff:
    namespace: signal
    service: signal-service
    version: v2
    state: required
    approvers: "{{ signoff_approvers }}"
"""

RETURN = r"""
approver:
  description: Whom the API server has authenticated; empty when nothing was to be decided.
  returned: always
  type: str
  sample: quinn@example.com
roles:
  description: How each role stands. C(state) is V(approved), V(rejected), V(missing) or V(void), C(evidence) says why.
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - role: qa
      title: QA Lead
      state: approved
      evidence: "approved by quinn@example.com at 2026-11-30T23:10:00Z, until 2026-12-03T23:10:00Z, for app 3f1c9a20d1e2"
      by: quinn@example.com
      time: "2026-11-30T23:10:00Z"
      until: "2026-12-03T23:10:00Z"
      comment: https://qa.example.com/runs/871
missing:
  description: Those of O(roles) that have not approved.
  returned: when the options could be used
  type: list
  elements: str
  sample: [security]
complete:
  description: Whether all of O(roles) have approved.
  returned: when the options could be used
  type: bool
  sample: false
images:
  description: What runs of the new version, C(CONTAINER=DIGEST).
  returned: when the options could be used
  type: list
  elements: str
  sample: ["app=sha256:3f1c9a20d1e2"]
history:
  description: Every decision about this version and plan, in the order in which they were made.
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - {role: qa, decision: approve, by: quinn@example.com, time: "2026-11-30T23:10:00Z", until: "2026-12-03T23:10:00Z"}
text:
  description: How the roles stand, for people.
  returned: when the options could be used
  type: str
  sample: "[x] QA Lead  (approved by quinn@example.com at 2026-11-30T23:10:00Z, until 2026-12-03T23:10:00Z, for app 3f1c9a20d1e2)"
"""

from ansible_collections.signal.rollout.plugins.module_utils import _signoff
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_signoff)


if __name__ == "__main__":
    main()
