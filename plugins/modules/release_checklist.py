#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_checklist
short_description: Show, prove, attest and demand the boxes of the deployment checklist
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - The checklist has 98 boxes, in the order and words of C(docs/deployment_checklist.md). A box is ticked by the record of the
    release, when a step has proven it, by a proof that another task made and that is kept beside the record, or by a person who attests it.
  - An attestation counts for one version and one plan. It names whom the API server has authenticated, when, and a comment.
  - A box that a measurement ticks cannot be attested, so that nobody can write over what was measured. Some of these may be attested where
    nothing could be measured; a proof that failed counts more than an attestation.
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
      - The same person attesting the same box with the same comment again, or the same proof with the same evidence, changes nothing.
  in_process:
    support: full
options:
  state:
    description:
      - V(shown) reads every box.
      - V(attested) ticks the boxes O(items) in the name of the caller, V(revoked) takes that back.
      - V(proven) keeps O(proofs).
      - V(required) fails, with all of their names, while one of O(items) is not ticked.
    type: str
    choices: [shown, attested, revoked, proven, required]
    default: shown
  service:
    description: Name of the service. The attestations are in the ConfigMap of its record, C(signal-rollout-SERVICE).
    type: str
    required: true
  version:
    description: Version that is released.
    type: str
    required: true
  plan:
    description:
      - The plan of the release, as in O(signal.rollout.rollout_record#module:plan). Attestations for another plan do not count.
      - Required for V(attested) and V(revoked). Without it, the plan of the record is taken.
    type: dict
  items:
    description:
      - Ids of boxes, or of sections for all of their boxes, such as V(code.review) or V(documentation).
    type: list
    elements: str
    default: []
  proofs:
    description:
      - What tasks have measured, as the modules that prove boxes return it under C(proofs), by the id of the box. Each is a dictionary of C(state)
        (V(proven), V(failed) or V(not_needed)) and C(evidence), one line with what was measured.
      - With V(shown) and V(required) they count for this answer only; nothing is written.
    type: dict
    default: {}
  comment:
    description: What the attestation rests on, such as a link. At most 300 characters.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Attest that the code was reviewed and that the release notes are prepared
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
    plan: "{{ release_plan }}"
    state: attested
    items: [code.review, documentation.release_notes]
    comment: https://git.example.com/signal/pulls/412

- name: Keep what was measured
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
    plan: "{{ release_plan }}"
    state: proven
    proofs:
      infrastructure.redis: {state: proven, evidence: "Redis 8.0.2 standalone, PING p99 0.4 ms"}

- name: Release only what is ready
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
    plan: "{{ release_plan }}"
    state: required
    items: [code, documentation, infrastructure, dependencies]

- name: Show all boxes
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
  register: checklist
"""

RETURN = r"""
items:
  description: All boxes in the order of the document.
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - id: step_1.backup
      section: step_1
      words: Backup current database
      kind: automatic
      state: proven
      evidence: "signal_db-20261124T120512Z.dump, 81233 bytes, verified: read in full"
  contains:
    id:
      description: Id of the box.
      returned: always
      type: str
      sample: step_1.backup
    section:
      description: Id of its section.
      returned: always
      type: str
      sample: step_1
    words:
      description: What the document says.
      returned: always
      type: str
      sample: Backup current database
    kind:
      description: V(automatic) when a measurement ticks it, V(attested) when a person does.
      returned: always
      type: str
      sample: automatic
    state:
      description: V(proven), V(attested), V(not_needed), V(open) or V(failed). The first three are ticked.
      returned: always
      type: str
      sample: proven
    evidence:
      description: What says so, in one line.
      returned: always
      type: str
      sample: from 3f6c1a20 to 9b2d4e71
summary:
  description: How many boxes are in each state, how many are ticked, and how many there are.
  returned: when the options could be used
  type: dict
  sample: {proven: 34, attested: 60, not_needed: 1, open: 3, failed: 0, ticked: 95, total: 98}
text:
  description: The checklist for people.
  returned: when the options could be used
  type: str
  sample: "[x] Backup current database"
"""

from ansible_collections.signal.rollout.plugins.module_utils import _release_checklist
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_release_checklist)


if __name__ == "__main__":
    main()
