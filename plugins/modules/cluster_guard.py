#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_guard
short_description: Put traffic back when the machine that runs the release dies in the middle of a canary
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - M(signal.rollout.metric_gate) and M(signal.rollout.traffic_guard) put traffic back when ansible-playbook dies. Neither survives the end
    of the machine, or of the container, that they run in. This module starts a guard inside the cluster, which does.
  - It is a Job with one pod that watches the Lease of the release. When nobody has renewed it for longer than it lasts and O(grace) beside
    that, while the record says that a canary is in progress, it puts all traffic back on the stable destination.
  - It acts once at most, and only where the live weight is one that this release has set; another one is somebody else's and is left. What
    it did stands in the record's ConfigMap under the key C(guard.json), where M(signal.rollout.rollout_record) reads it, and is a Kubernetes
    Event. It does not ask the gateways whether they have the weight.
  - It ends by itself when the lock has gone to somebody else or nobody, when the release is closed or the canary has passed, and after
    O(lifetime).
  - For how long the Lease was silent is measured by the guard's own clock, and anew after a time in which the API server did not answer
    it, since the run could not renew then either.
  - The Lease must be renewed while the run lives. M(signal.rollout.metric_gate) does so in a hold, and M(signal.rollout.traffic_guard)
    between holds.
requirements:
  - An image with C(python3) 3.9 or newer, nothing else; any user may run it.
  - The service account, its Role and its RoleBinding, made once by an administrator. C(roles/canary/files/guard_rbac.yml) of this
    collection holds them.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
    details:
      - The rights of the guard, and the routes, are checked in check mode too.
  diff_mode:
    support: none
  idempotent:
    support: full
  in_process:
    support: full
options:
  state:
    description:
      - V(started) starts the guard unless this run's is there already, and returns once it has proven that it can read and write what it
        will have to.
      - V(stopped) removes it.
    type: str
    required: true
    choices: [started, stopped]
  service:
    description: Name of the service, as in M(signal.rollout.rollout_record).
    type: str
    required: true
  abort_route:
    description:
      - The route on which all traffic is put back, with the options of O(signal.rollout.metric_gate#module:abort_route), without those of
        the connection. How it would be confirmed is not used.
      - Required for O(state=started).
    type: dict
  image:
    description:
      - The image of the guard's pod. It is taken from the node where it is there already.
      - Required for O(state=started).
    type: str
  service_account:
    description: Name of the service account of the pod, of its Role and of its RoleBinding.
    type: str
    default: signal-rollout-guard
  grace:
    description:
      - Seconds of silence beyond what the Lease lasts before traffic goes back.
      - Longer than a disturbance of the network between the run and the API server that should not end a canary.
    type: float
    default: 30.0
  holder:
    description: Name under which this run holds the lock. Without it, the task fills in the run of ansible-playbook or the AWX job.
    type: str
  start_timeout:
    description: Seconds within which the pod must have started and proven that it is ready.
    type: float
    default: 60.0
  lifetime:
    description: Seconds after which the guard ends in any case.
    type: int
    default: 86400
"""

EXAMPLES = r"""
- name: Put traffic back should this machine die
  signal.rollout.cluster_guard:
    namespace: signal
    service: signal-service
    state: started
    image: docker.io/library/python:3.13-slim
    abort_route:
      name: signal-service
      route: primary
      stable: v1
      canary: v2

- name: The canary has ended
  signal.rollout.cluster_guard:
    namespace: signal
    service: signal-service
    state: stopped
"""

RETURN = r"""
running:
  description: Whether a guard of this run is in the cluster after the task.
  returned: success
  type: bool
  sample: true
name:
  description: Namespace and name of its Job.
  returned: success
  type: str
  sample: signal/signal-rollout-guard-signal-service-4a1c0f9e2b
words:
  description: What the guard does, or why there is none.
  returned: success
  type: str
  sample: watches the lock of 'jane@bastion/4711-991234' from inside the cluster
"""

from ansible_collections.signal.rollout.plugins.module_utils import _cluster_guard
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_cluster_guard)


if __name__ == "__main__":
    main()
