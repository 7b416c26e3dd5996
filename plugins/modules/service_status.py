#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_status
short_description: Show how both versions of a service stand, in one call
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Answers what C(kubectl get pods -o wide), C(logs), C(describe pod), C(get endpoints), C(get hpa) and C(top pods) would, for the old and
    the new version of a service, and gives the lines for C(exec) and the like.
  - It is for the moment when things are broken. What the server refuses, or nobody can tell, is listed in RV(not_seen), and the rest is shown.
    Only an API server that gives no answer at all is a failure.
  - Usage comes from the metrics API or, without one, from the kubelet's series in Prometheus.
  - Lines of logs are data of others. Passwords in addresses, values of things called password, secret, token or key, and O(secrets) are masked.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._prometheus
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
options:
  prometheus_validate_certs:
    description:
      - Whether Prometheus' certificate is verified.
    type: bool
    default: true
  prometheus_ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed Prometheus' certificate.
    type: path
  prometheus_timeout:
    description:
      - Longest time Prometheus may take for one answer, in seconds.
    type: float
    default: 5.0
  service:
    description:
      - Name of the service.
    type: str
    required: true
  stable_version:
    description:
      - Value of the label C(version) of the pods that serve now (blue).
    type: str
    required: true
  version:
    description:
      - Value of the label C(version) of the pods of the new version (green).
    type: str
    required: true
  selector:
    description:
      - Label selector of the pods of all versions. Without it, C(app=SERVICE).
    type: str
  services:
    description:
      - Services whose endpoints are shown. Without it, O(service) alone.
    type: list
    elements: str
  log_lines:
    description:
      - Last lines of its log that are shown for each pod; V(0) for none. Of a container that was restarted and has not said anything yet, those of
        the one before it.
    type: int
    default: 5
  log_pods:
    description:
      - Pods whose log is read at most, those that are not ready first.
    type: int
    default: 20
  events:
    description:
      - Last events that are shown for each pod; of a pod that is ready only warnings. V(0) for none.
    type: int
    default: 3
  usage_window:
    description:
      - Seconds over which Prometheus averages the use of CPU.
    type: int
    default: 60
  width:
    description:
      - Longest line of RV(text), in characters.
    type: int
    default: 120
  secrets:
    description:
      - Texts that must not be shown, wherever they come from.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See how both versions stand
  signal.rollout.service_status:
    namespace: signal
    service: signal-service
    stable_version: v1
    version: v2
    services: [signal-service, signal-service-green]
    prometheus_url: http://prometheus.monitoring:9090
  register: status

- name: Show it
  ansible.builtin.debug:
    msg: "{{ status.text }}"
"""

RETURN = r"""
pods:
  description: The pods, the old version first. None when they may not be read.
  returned: when the API server answers
  type: list
  elements: dict
  sample:
    - name: signal-service-v2-7797bf7c47-9xk2p
      version: v2
      side: green
      ready: 1/1
      status: Running
      restarts: 0
  contains:
    name:
      description: Name of the pod.
      returned: always
      type: str
      sample: signal-service-v2-7797bf7c47-9xk2p
    version:
      description: Its label C(version).
      returned: always
      type: str
      sample: v2
    side:
      description: V(blue), V(green), or empty for another version.
      returned: always
      type: str
      sample: green
    ready:
      description: Ready containers of all.
      returned: always
      type: str
      sample: 1/1
    is_ready:
      description: Whether the pod is ready.
      returned: always
      type: bool
      sample: true
    status:
      description: What kubectl shows as its status.
      returned: always
      type: str
      sample: CrashLoopBackOff
    restarts:
      description: Restarts of its containers.
      returned: always
      type: int
      sample: 0
    age:
      description: How long ago it was made.
      returned: always
      type: str
      sample: 12m
    ip:
      description: Its address.
      returned: always
      type: str
      sample: 10.78.0.11
    node:
      description: Its node.
      returned: always
      type: str
      sample: worker-1
    container:
      description: The container whose log is shown.
      returned: always
      type: str
      sample: app
    reasons:
      description: Conditions that are not true, why a container waits, and how it ended last.
      returned: always
      type: list
      elements: str
      sample: ["container app ended 12s ago: Error, exit code 1"]
    events:
      description: Its last events.
      returned: always
      type: list
      elements: str
      sample: ["10s ago Warning BackOff (4 times): Back-off restarting failed container"]
    log:
      description: The last lines of its log.
      returned: always
      type: list
      elements: str
      sample: ['{"level": "ERROR", "message": "redis failed"}']
    log_is_previous:
      description: Whether they are of the container before this one.
      returned: always
      type: bool
      sample: false
    usage:
      description: What each container uses, in cores and bytes, and in percent of its requests and limits.
      returned: always
      type: list
      elements: dict
      sample:
        - {container: app, cpu: 0.05, memory: 71303168, cpu_of_request_percent: 50.0, cpu_of_limit_percent: 10.0}
endpoints:
  description: What each Service leads to, by version. None when it may not be read.
  returned: when the API server answers
  type: list
  elements: dict
  sample:
    - {service: signal-service, ports: [8080], ready: {v1: [10.78.0.10]}, not_ready: {}}
autoscalers:
  description: HorizontalPodAutoscalers of the service's Deployments. None when they may not be read.
  returned: when the API server answers
  type: list
  elements: dict
  sample:
    - {name: signal-service-hpa, target: Deployment/signal-service-v1, metrics: ["cpu 12% / 60%"], minimum: 2, maximum: 10, replicas: 2, desired: 2}
usage_source:
  description: Who said what the containers use; empty when nobody could.
  returned: when the API server answers
  type: str
  sample: metrics API
commands:
  description: Lines for what a screen cannot do, ready to be pasted.
  returned: when the API server answers
  type: list
  elements: str
  sample: ["kubectl -n signal exec -it signal-service-v2-7797bf7c47-9xk2p -c app -- /bin/bash"]
not_seen:
  description: What could not be read, and why.
  returned: when the API server answers
  type: list
  elements: str
  sample: ["metrics API: there is none in this cluster"]
text:
  description: All of it for people.
  returned: when the API server answers
  type: str
  sample: "Pods\n  VERSION  POD  READY  STATUS"
"""

from ansible_collections.signal.rollout.plugins.module_utils import _service_status
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_service_status)


if __name__ == "__main__":
    main()
