#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: workload_scale
short_description: Set the number of replicas of a Deployment
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Writes C(spec.replicas) through the scale subresource, under its resourceVersion. An equal number causes no write.
  - A HorizontalPodAutoscaler removes pods that it did not choose itself at its next look, and only its C(minReplicas) holds them.
    O(autoscaler=raise) raises that minimum before the pods are added, notes the former one in the annotation
    C(signal.rollout/raised-min-replicas) of the autoscaler, and O(autoscaler=restore) puts it back.
  - Does not wait. Use M(signal.rollout.workload_ready) for pods that must come, and M(signal.rollout.connection_drain) before pods that go.
  - Exists because it lies on the way back, where it takes a fraction of the time of a generic module.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the number of replicas only.
  idempotent:
    support: full
  in_process:
    support: full
options:
  name:
    description: Name of the Deployment.
    type: str
    required: true
  replicas:
    description: Wanted number of replicas, 0 or more. May be omitted with O(autoscaler=restore); the number then stays as it is.
    type: int
  direction:
    description: V(up) only ever adds pods and leaves a larger number as it is, V(any) sets the number.
    type: str
    choices: [any, up]
    default: any
  autoscaler:
    description:
      - What becomes of the HorizontalPodAutoscaler (autoscaling/v2) of the Deployment, if there is one.
      - V(leave) does not look for it. V(raise) raises its C(minReplicas) to O(replicas) when that is more, and fails without a write
        when its C(maxReplicas) does not allow so many.
      - V(restore) puts back a C(minReplicas) that V(raise) has raised, unless somebody else has changed it since.
    type: str
    choices: [leave, raise, restore]
    default: leave
  missing:
    description: What a Deployment that does not exist means. V(ignore) reports RV(exists) as false and changes nothing.
    type: str
    choices: [fail, ignore]
    default: fail
"""

EXAMPLES = r"""
- name: Stop green, if there is one
  signal.rollout.workload_scale:
    namespace: signal
    name: signal-service-v2
    replicas: 0
    missing: ignore

- name: Have at least three pods before they get their share of the traffic
  signal.rollout.workload_scale:
    namespace: signal
    name: signal-service-v2
    replicas: 3
    direction: up
    autoscaler: raise
"""

RETURN = r"""
exists:
  description: Whether the Deployment is there.
  returned: always
  type: bool
  sample: true
before:
  description: Replicas wanted before the task. Null when the Deployment does not exist.
  returned: always
  type: int
  sample: 2
after:
  description: Replicas wanted afterwards. In check mode, the number that would be written.
  returned: always
  type: int
  sample: 0
autoscaler:
  description: The HorizontalPodAutoscaler, with its C(minReplicas) before and after the task and its C(maxReplicas). Null without one.
  returned: always
  type: dict
  sample: {"name": "signal-service-v2", "before": 1, "after": 3, "max": 6}
warnings:
  description: What could not be seen or put back.
  returned: always
  type: list
  elements: str
  sample: ["Deployment signal/signal-service-v2: no right to list its autoscaler, so it is not known whether one undoes this."]
"""

from ansible_collections.signal.rollout.plugins.module_utils import _scale
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_scale)


if __name__ == "__main__":
    main()
