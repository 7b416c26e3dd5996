#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: workload_ready
short_description: Wait until a Deployment is ready, and fail at the first terminal cause
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Ready means that the controller has seen the newest spec, every replica has the newest template and is available, and no
    replica of an older template is left.
  - Fails at once, with the reason, its events and the pod's last log lines, when waiting cannot help (image not found, missing
    ConfigMap or key, crash loop, pod that cannot be scheduled, progress deadline exceeded, zero replicas).
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    details:
      - In check mode it looks once and does not wait. RV(ready) tells what it saw.
options:
  kind:
    description: Kind of the workload.
    type: str
    choices: [Deployment]
    default: Deployment
  name:
    description: Name of the workload.
    type: str
    required: true
  min_ready:
    description: Pods that must be available. Without it, all replicas of the spec.
    type: int
  timeout:
    description: Seconds to wait at most.
    type: float
    default: 300.0
  interval:
    description: Seconds between two looks.
    type: float
    default: 0.25
  stable_for:
    description: Seconds the workload must stay ready before the task ends.
    type: float
    default: 0.0
  restart_limit:
    description: Restarts of an unready container from which on it counts as a crash loop.
    type: int
    default: 2
  unschedulable_grace:
    description: Seconds a pod may stay unscheduled before that counts as terminal (a node may be on its way).
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Wait until green is ready
  signal.rollout.workload_ready:
    namespace: signal
    name: signal-service-v2
    min_ready: 2
    timeout: 300
"""

RETURN = r"""
ready:
  description: Whether the workload is ready.
  returned: always
  type: bool
  sample: true
reason:
  description: Why, in one line.
  returned: always
  type: str
  sample: 2 of 2 pods are available
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 2.31
replicas:
  description: Counts from spec and status.
  returned: when the workload exists
  type: dict
  sample: {"wanted": 2, "updated": 2, "available": 2, "ready": 2}
pods:
  description: Pods of the newest template.
  returned: always
  type: list
  elements: dict
  sample: [{"name": "signal-service-v2-5d9c6b7f4-x2x7k", "ready": true}]
events:
  description: The last events of the pod or workload that failed.
  returned: always
  type: list
  elements: str
  sample: ["BackOff: Back-off restarting failed container"]
log:
  description: The last log lines of the pod that failed.
  returned: always
  type: list
  elements: str
  sample: ["ValueError: REDIS_URL is not set"]
"""

from ansible_collections.signal.rollout.plugins.module_utils import _workload
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_workload)


if __name__ == "__main__":
    main()
