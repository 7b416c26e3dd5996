#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: connection_drain
short_description: Wait until a version that lost its traffic has nothing left to finish
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - To be used after a confirmed weight of 0 and before the version's pods end. Refuses a version that still has a weight.
  - Ends as soon as no request is running in two looks in a row, and not before O(settle). With nothing running that takes a
    fraction of a second.
  - Running requests are counted by Envoy itself at every ready gateway (C(upstream_rq_active) and C(upstream_rq_pending_active) of
    the version's clusters, of every route with O(others)). An upgraded connection counts there as one running request until it closes. With O(pods) the
    service's own gauges are read too, which tell WebSockets from requests and see clients that pass no gateway.
  - What cannot be seen is given O(longest_request) seconds.
  - A weight change never moves an open WebSocket. Those are given O(websocket_timeout) seconds to leave by themselves; what is
    open after that is reported in RV(cut) and ends with the pods, by a close frame if the service sends one on SIGTERM.
  - Open connections never fail the task.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._route
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    details:
      - In check mode it looks once and does not wait.
options:
  leaving:
    description: Which of the two is to be drained. V(canary) when going back, V(stable) when cleaning up.
    type: str
    choices: [canary, stable]
    default: canary
  gateways:
    description: Where the gateways are, whose Envoys count the running requests.
    type: dict
    suboptions:
      namespace:
        description: Namespace of the gateways.
        type: str
        default: istio-system
      selector:
        description: Label selector of the gateway pods.
        type: str
        default: istio=ingressgateway
      admin_port:
        description: Port of Envoy's admin interface. It is read through the API server's pod proxy, else by a command in the pod.
        type: int
        default: 15000
      container:
        description: Container in which Envoy runs, for the command.
        type: str
        default: istio-proxy
  pods:
    description:
      - Where the service itself tells what it has open, read from each pod of the leaving version through the API server's pod proxy.
      - Needs the right to get C(pods/proxy) in O(namespace).
    type: dict
    suboptions:
      selector:
        description: Label selector of the leaving version's pods.
        type: str
        required: true
      port:
        description: Port that serves the metrics.
        type: int
        required: true
      path:
        description: Path of the metrics, in Prometheus' text format.
        type: str
        default: /metrics
      websockets:
        description: Name of the gauge of open WebSocket connections. Its series are summed.
        type: str
      requests:
        description: Name of the gauge of requests that run now, without WebSockets. Its series are summed.
        type: str
  longest_request:
    description: Seconds the longest request may take. More are never waited for requests.
    type: float
    default: 30.0
  websocket_timeout:
    description: Seconds that open WebSockets are given to leave by themselves.
    type: float
    default: 0.0
  settle:
    description: Seconds the drain lasts at least, for requests that are between two counters when the weights change.
    type: float
    default: 0.2
  interval:
    description: Seconds between two looks.
    type: float
    default: 0.1
"""

EXAMPLES = r"""
- name: Let green finish what it has begun
  signal.rollout.connection_drain:
    namespace: signal
    name: signal-service
    stable: v1
    canary: v2
    longest_request: 30
    websocket_timeout: 0
    pods:
      selector: app=signal-service,version=v2
      port: 8080
      websockets: signal_websocket_connections
  register: drain

- name: Say what the end of green's pods will cut
  ansible.builtin.debug:
    msg: "{{ drain.cut }} connections, {{ drain.reason }}"
"""

RETURN = r"""
drained:
  description: Whether nothing was open at the last look. False also when that could not be seen.
  returned: always
  type: bool
  sample: true
reason:
  description: Why the drain ended, and what could not be seen.
  returned: always
  type: str
  sample: nothing is running
seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 0.214
start:
  description:
    - Running requests and open WebSockets at the first look. Null is what could not be seen.
    - Without the service's own gauge, WebSockets are among the requests.
  returned: always
  type: dict
  sample: {"requests": 3, "websockets": 10}
end:
  description: The same at the last look.
  returned: always
  type: dict
  sample: {"requests": 0, "websockets": 0}
cut:
  description: Connections that end when the pods end now. Null when nothing could be seen.
  returned: always
  type: int
  sample: 0
sources:
  description: How many gateways and pods were counted at.
  returned: always
  type: dict
  sample: {"gateways": 2, "pods": 2}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _drain
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_drain)


if __name__ == "__main__":
    main()
