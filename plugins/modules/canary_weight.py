#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_weight
short_description: Shift traffic between two subsets of an Istio VirtualService
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Sets the weight of the canary subset of one HTTP route. The stable subset gets the rest of 100.
  - Only the two weights are written, by a JSON Patch that tests the route, both destinations and both old weights, and that
    carries the resourceVersion. Every other byte of the object stays. Equal weights cause no write.
  - A subset only gets traffic when a DestinationRule defines it and at least one of its pods is ready.
  - Afterwards the weights are confirmed in the route configuration of every ready gateway.
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
      - Shows the two weights only.
  idempotent:
    support: full
  in_process:
    support: full
options:
  kind:
    description: Kind of the route object.
    type: str
    choices: [VirtualService]
    default: VirtualService
  name:
    description: Name of the VirtualService.
    type: str
    required: true
  route:
    description: Name of the HTTP route. May be omitted when the VirtualService has exactly one.
    type: str
  destination_host:
    description: Host of both destinations. Needed only when a subset name occurs with several hosts.
    type: str
  stable:
    description: Subset that serves today (blue).
    type: str
    required: true
  canary:
    description: Subset that is being released (green).
    type: str
    required: true
  weight:
    description: Percent of requests for the canary, from 0 to 100.
    type: int
    required: true
  expected_weight:
    description:
      - Weight the canary must have before the change. Any other weight is drift, that is somebody else's edit. The task then
        fails without a write and names the last writer.
      - The wanted weight itself is never drift.
    type: int
  on_interrupt:
    description:
      - What becomes of a weight above 0 when the task is interrupted by INT, TERM, HUP or the death of ansible-playbook.
      - V(back) sends all traffic to the stable subset, V(hold) leaves the weight as it is.
    type: str
    choices: [back, hold]
    default: hold
  confirm:
    description: How the change is confirmed in the mesh.
    type: dict
    suboptions:
      method:
        description:
          - V(envoy) reads the route configuration of every ready gateway pod through the API server's pod proxy.
          - V(auto) takes the best method there is, today V(envoy).
          - V(none) confirms nothing.
        type: str
        choices: [auto, envoy, none]
        default: auto
      namespace:
        description: Namespace of the gateways.
        type: str
        default: istio-system
      selector:
        description: Label selector of the gateway pods.
        type: str
        default: istio=ingressgateway
      admin_port:
        description: Port of Envoy's admin interface.
        type: int
        default: 15000
      timeout:
        description: Seconds after which an unconfirmed change fails the task. The weights stay written.
        type: float
        default: 10.0
"""

EXAMPLES = r"""
- name: Send 10 % of the traffic to green
  signal.rollout.canary_weight:
    namespace: signal
    name: signal-service
    route: primary
    stable: v1
    canary: v2
    weight: 10
    expected_weight: 0
    on_interrupt: back

- name: Send everything back to blue
  signal.rollout.canary_weight:
    namespace: signal
    name: signal-service
    stable: v1
    canary: v2
    weight: 0
"""

RETURN = r"""
before:
  description: Weights found, in percent.
  returned: when the route was read
  type: dict
  sample: {"stable": 100, "canary": 0}
after:
  description: Weights afterwards. In check mode, those that would be written.
  returned: when the route was read
  type: dict
  sample: {"stable": 90, "canary": 10}
resource_version:
  description: resourceVersion of the object after the task.
  returned: when the route was read
  type: str
  sample: "4711"
confirmed:
  description: How, how fast (seconds after the write) and by how many gateways the weights were confirmed.
  returned: outside check mode, when confirmed
  type: dict
  sample: {"method": "envoy", "seconds": 0.112, "proxies": 2}
drift:
  description: What somebody else changed.
  returned: when the task failed because of drift
  type: dict
  sample: {"field": "weight of the canary", "expected": 10, "seen": 25, "manager": "kubectl-edit", "time": "2026-11-24T10:58:46Z"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_canary_weight)


if __name__ == "__main__":
    main()
