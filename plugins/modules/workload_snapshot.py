#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: workload_snapshot
short_description: Keep what a Deployment is and runs with, and bring it back
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - The before-image of a Deployment is the Deployment itself with every ConfigMap and Secret that its pods read.
  - The image of the Deployment and its ConfigMaps is kept in a ConfigMap, that of its Secrets in a Secret of the same name. A
    Secret's value is never in a ConfigMap, in a variable, or in the result of this task.
  - Bringing back creates what is missing and replaces content that was changed, and names the last writer. An immutable object is
    deleted, with preconditions, and created again. Pods that have started with changed content are restarted by a rolling update.
  - Without a snapshot it says what is missing. It fails when the Deployment itself is gone and cannot be rebuilt.
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
  in_process:
    support: full
options:
  state:
    description:
      - V(taken) keeps the image of what is there now, once per O(release). It is to be taken before the first write of a release.
      - V(restored) brings back what is missing or differs from the image.
    type: str
    required: true
    choices: [taken, restored]
  service:
    description: Name of the service. ConfigMap and Secret are both named C(signal-rollout-SERVICE-snapshot).
    type: str
    required: true
  name:
    description: Name of the Deployment.
    type: str
    required: true
  release:
    description: Id of the release before which the image is taken. A second run of the same release keeps the first image.
    type: str
  workload:
    description:
      - When V(restored) touches the Deployment. V(missing) only creates it when it is gone.
      - V(differs) also gives a Deployment back its pod template and at least the number of replicas it had, for one that cannot take traffic.
    type: str
    choices: [missing, differs]
    default: missing
  replicas:
    description: Replicas for a Deployment that stands at 0, where the image does not tell another number.
    type: int
    default: 2
  select_by:
    description:
      - Service that must select the Deployment's pods. With O(state=restored), keys of its selector that shut them out are removed,
        such as the version that a cleanup pinned.
    type: str
"""

EXAMPLES = r"""
- name: Keep what v1 is, before anything is written
  signal.rollout.workload_snapshot:
    namespace: signal
    service: signal-service
    name: signal-service-v1
    state: taken
    release: 5f0c1e2a-6b7d-4c1f-9a53-1f6f0f2d7c11

- name: Bring v1 back
  signal.rollout.workload_snapshot:
    namespace: signal
    service: signal-service
    name: signal-service-v1
    state: restored
    workload: differs
    select_by: signal-service
"""

RETURN = r"""
snapshot:
  description: What is kept. Null when there is no usable snapshot.
  returned: always
  type: dict
  sample: {"release": "5f0c1e2a", "taken": "2026-11-24T16:00:00Z", "deployment": "signal-service-v1", "replicas": 2,
    "configmaps": ["signal-service-config-v1"], "secrets": ["signal-service-secrets-v1"]}
restored:
  description: What was brought back, what it was (missing or changed), the keys that differed, who wrote them last and when, and all that in words.
  returned: always
  type: list
  elements: dict
  sample: [{"kind": "ConfigMap", "name": "signal-service-config-v1", "was": "changed", "keys": ["LOG_LEVEL"], "manager": "kubectl-edit",
    "time": "2026-11-24T16:05:00Z", "words": "ConfigMap signal-service-config-v1 was changed (LOG_LEVEL) by 'kubectl-edit' at 2026-11-24T16:05:00Z"}]
restarted:
  description: Pods that had started with changed content and are replaced by a rolling update.
  returned: always
  type: list
  elements: str
  sample: []
problems:
  description: What cannot be kept or brought back and is left to be done by hand. Each is a warning too.
  returned: always
  type: list
  elements: str
  sample: []
"""

from ansible_collections.signal.rollout.plugins.module_utils import _snapshot
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_snapshot)


if __name__ == "__main__":
    main()
