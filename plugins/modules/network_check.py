#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network_check
short_description: Prove that NetworkPolicies, and the network, let pass what is declared and nothing else
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Works out what the NetworkPolicies of a namespace mean for pods with certain labels, also before there are any, and compares it with declared
    connections.
  - With O(connect), the outgoing ones are also tried from a running pod, by exec and its own C(python3). A policy means nothing on a network that does
    not enforce it.
  - Fails with all differences at once; the result then has the same keys as after a success. What could not be judged is told as a warning, and
    proves nothing.
  - Reads only. A tried connection is opened and closed; nothing is sent.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
options:
  labels:
    description: Labels of the pods.
    type: dict
    required: true
  named_ports:
    description: The pods' named ports with their numbers, which rules for ingress may use.
    type: dict
    default: {}
  isolated:
    description: Directions in which a policy must select the pods, so that what no policy names is not allowed.
    type: list
    elements: str
    choices: [ingress, egress]
    default: []
  connections:
    description: What must be possible, and what must not.
    type: list
    elements: dict
    required: true
    suboptions:
      direction:
        description: V(egress) from the pods, V(ingress) to them.
        type: str
        required: true
        choices: [ingress, egress]
      namespace:
        description: Namespace of the other side. Either this or O(connections[].ip).
        type: str
      labels:
        description: Labels of the pods on the other side.
        type: dict
        default: {}
      ip:
        description: Address of another side that is no pod.
        type: str
      port:
        description: Port of the side that is connected to. NetworkPolicies mean the port of the pod, not of a Service.
        type: int
        required: true
      protocol:
        description: Protocol.
        type: str
        choices: [TCP, UDP]
        default: TCP
      address:
        description: Name or address that O(connect) tries. Without it O(connections[].ip), and without both it is not tried.
        type: str
      allowed:
        description: Whether it must be possible.
        type: bool
        default: true
  connect:
    description: Whether outgoing connections by TCP are tried from one ready pod with O(labels). Needs get and create on pods/exec.
    type: bool
    default: false
  timeout:
    description: Seconds that a connection may take. What is blocked takes all of them.
    type: float
    default: 3.0
  box:
    description: Id of the box of the checklist that this proves.
    type: str
    default: dependencies.network_policies
"""

EXAMPLES = r"""
- name: Will the new pods reach the database, and nothing else?
  signal.rollout.network_check:
    namespace: signal
    labels: {app: signal-service, version: v2}
    isolated: [ingress, egress]
    connections:
      - {direction: egress, namespace: signal-data, labels: {app: timescaledb}, port: 5432}
      - {direction: ingress, namespace: istio-system, labels: {istio: ingressgateway}, port: 8080}
      - {direction: egress, ip: 169.254.169.254, port: 80, allowed: false}
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail), or V(unknown) when something could not be judged.
  returned: when the options could be used
  type: str
  sample: pass
policies:
  description: Names of the NetworkPolicies that select the pods.
  returned: when the options could be used
  type: list
  elements: str
  sample: [signal-service]
tried:
  description: The connections that were tried, each with what was seen - V(connected), V(refused), V(blocked) or V(unknown name).
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - {address: timescaledb.signal-data, port: 5432, allowed: true, seen: connected}
problems:
  description: What is otherwise than declared.
  returned: when the options could be used
  type: list
  elements: str
  sample: []
proofs:
  description: For O(signal.rollout.release_checklist#module:proofs). Empty when the verdict is V(unknown).
  returned: when the options could be used
  type: dict
  sample:
    dependencies.network_policies: {state: proven, evidence: "NetworkPolicy signal-service: 6 connections as declared"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _network_check
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_network_check)


if __name__ == "__main__":
    main()
