#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_weight
short_description: Shift traffic between two destinations of a VirtualService or an HTTPRoute
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Sets the weight of the canary destination of one HTTP route, or of several that move together. The stable destination gets the rest
    of 100.
  - Only the two weights are written, by a JSON Patch that tests the route, both destinations and both old weights, and the object's
    version. Every other byte of the object stays. Equal weights cause no write.
  - When a later write of several routes fails on the way up, the routes that were written already go back to what they were. On the way
    down (weight 0) every route is tried whatever becomes of the others, and the error says which are back.
  - A write that lost a race is repeated on what the other writer left, unless that touched the weights or the route, which is drift.
    A write whose answer was lost is settled by reading.
  - A destination only gets traffic when the mesh knows it (a subset of a DestinationRule, a Service) and something is ready behind it.
  - Afterwards the weights are confirmed, in the route configuration of every ready gateway or by the share of the requests that the
    canary was seen to get. Without a proof the task fails.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._route
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
  capacity:
    description:
      - How many ready pods a share needs. A share that grows beyond what the ready pods of its subset can carry is refused before
        anything is written. Needed are O(capacity.full) times the share, rounded up, and at least one pod.
      - Without this option one ready pod is enough for any share. An empty dictionary takes all numbers from the live objects.
      - The way to weight 0 is never refused for too few pods as long as one is ready, since few pods of the stable subset serve
        better than a canary that somebody wants to leave. RV(capacity.warnings) tells of it.
      - A HorizontalPodAutoscaler whose C(maxReplicas) is less than the needed pods is refused too.
      - Reads the Service, and lists its pods and the Deployments, HorizontalPodAutoscalers and PodDisruptionBudgets of the namespace.
    type: dict
    suboptions:
      full:
        description:
          - Pods that carry all traffic. Without it, what the stable subset's Deployment wants, or C(minReplicas) of its
            HorizontalPodAutoscaler when that is more. When the canary has all traffic, or the stable Deployment stands at 0, the
            canary's number counts too if it is more.
        type: int
      disruptions:
        description:
          - What becomes of a share that the pods can carry, but not those that PodDisruptionBudgets leave after evictions.
          - V(warn) tells it in RV(capacity.warnings), V(refuse) refuses the change. Pods without a budget are not judged.
        type: str
        choices: [warn, refuse]
        default: warn
  confirm:
    description:
      - How the change is confirmed in the mesh. A change that nothing confirms fails the task, unless O(confirm.accept_unconfirmed) is set;
        the weights stay written.
      - Every gateway that is ready must show the weights, also one that becomes ready meanwhile; one that goes away is no longer waited for.
      - A proxy that rejects the configuration ends the wait with the proxy's own reason. This is never accepted.
    type: dict
    suboptions:
      method:
        description:
          - V(envoy) reads the route configuration of every ready gateway from Envoy's admin port, through the API server's pod proxy.
          - V(exec) reads it by a command in the pod (pilot-agent, curl or bash), which also reaches an admin port on 127.0.0.1 as
            a stock istio-proxy has it. Needs the verbs get and create on pods/exec.
          - V(observed) takes the canary's share of the requests that Prometheus counts after the write, see O(confirm.observed).
          - V(auto) is V(envoy), for a pod whose port cannot be reached V(exec), and V(observed) where a pod allows neither.
          - V(none) confirms nothing and is content with that.
        type: str
        choices: [auto, envoy, exec, observed, none]
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
      container:
        description: Container with Envoy, of gateways and sidecars.
        type: str
        default: istio-proxy
      timeout:
        description: Seconds that the proxies may take to show the weights.
        type: float
        default: 10.0
      sidecars:
        description:
          - Callers whose sidecars must show the weights too, when the route applies to the mesh.
          - Needed for a route that applies to sidecars only.
        type: dict
        suboptions:
          namespace:
            description: Namespace of the callers. Without it the route's own.
            type: str
          selector:
            description: Label selector of the callers' pods. Those that are ready and have O(confirm.container) count.
            type: str
            required: true
          sample:
            description: How many of them are asked, chosen at random.
            type: int
            default: 3
      observed:
        description:
          - Counters of the requests to both destinations, from which the canary's share is taken.
          - The counting begins after the write, one scrape later at the earliest. The share must be within three standard deviations
            of a binomial share around the weight, among so many requests that the weight before would not be.
        type: dict
        suboptions:
          prometheus_url:
            description: Address of Prometheus.
            type: str
            required: true
          prometheus_token:
            description: Bearer token.
            type: str
          prometheus_token_file:
            description: Path of a file with the bearer token, read again when it has changed.
            type: path
          prometheus_user:
            description: User for basic authentication.
            type: str
          prometheus_password:
            description: Password for basic authentication.
            type: str
          prometheus_tenant:
            description: Tenant of a multi-tenant server, sent as the header C(X-Scope-OrgID).
            type: str
          prometheus_headers:
            description: Further HTTP headers. Their values are secrets.
            type: dict
          prometheus_client_cert:
            description: Path of the client certificate that is shown to Prometheus, in PEM format.
            type: path
          prometheus_client_key:
            description: Path of its key, in PEM format without a passphrase, unless the certificate's file holds it.
            type: path
          validate_certs:
            description: Whether Prometheus' certificate is verified.
            type: bool
            default: true
            aliases: [prometheus_validate_certs]
          ca_cert:
            description: Path of the file with the certificate authorities that may have signed Prometheus' certificate.
            type: path
            aliases: [prometheus_ca_cert]
          preset:
            description:
              - Which counters, instead of O(confirm.observed.stable_query) and O(confirm.observed.canary_query).
              - V(requests) are the service's own (C(signal_requests_total), whose label C(version) is the subset, or the
                name of the Service of a destination without one), V(gateway_requests) Envoy's
                (C(envoy_cluster_upstream_rq) by cluster), V(istio_requests) Istio's (C(istio_requests_total), reporter source).
            type: str
            choices: [requests, gateway_requests, istio_requests]
          labels:
            description: Further labels that the preset's counters must carry.
            type: dict
          stable_query:
            description: PromQL for the counters of requests to the stable destination, without C(rate) or C(increase).
            type: str
          canary_query:
            description: The same for the canary.
            type: str
          minimum_requests:
            description: Requests that must have been counted at least.
            type: int
            default: 100
          scrape_interval:
            description: Seconds between two scrapes of these counters.
            type: float
            default: 15.0
          timeout:
            description: Seconds that the share may take to prove the weight.
            type: float
            default: 120.0
      istiod:
        description:
          - Where istiod counts rejected configuration (C(pilot_xds_rds_reject) and its siblings). It is read beside the write and while
            the proxies lag. An istiod that is not found or does not answer is no error.
        type: dict
        suboptions:
          url:
            description: Address of istiod's monitoring port, as in C(http://istiod.istio-system:15014). Without it, the pods below are asked.
            type: str
          namespace:
            description: Namespace of istiod's pods.
            type: str
            default: istio-system
          selector:
            description: Label selector of istiod's pods.
            type: str
            default: app=istiod
          port:
            description: Their monitoring port, read through the API server's pod proxy.
            type: int
            default: 15014
      accept_unconfirmed:
        description:
          - Whether weights that are written but not confirmed are a result, with C(confirmed.state=unconfirmed), instead of an error.
          - More traffic for the canary is then also written when it is clear before that nothing can confirm it.
        type: bool
        default: false
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
    capacity: {}

- name: Send 10 % to green on a Gateway API route, and on the route of the sidecars with it
  signal.rollout.canary_weight:
    kind: HTTPRoute
    namespace: signal
    name: signal-service
    stable: signal-service-v1
    canary: signal-service-v2
    weight: 10
    others:
      - {kind: VirtualService, name: signal-service-internal, stable: v1, canary: v2}

- name: Send 50 % to green, for gateways with a stock istio-proxy, three callers' sidecars, and the observed share as the last resort
  signal.rollout.canary_weight:
    namespace: signal
    name: signal-service
    stable: v1
    canary: v2
    weight: 50
    confirm:
      sidecars:
        namespace: trading
        selector: app=desk
        sample: 3
      observed:
        prometheus_url: http://prometheus.monitoring:9090
        preset: istio_requests
        scrape_interval: 15

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
  description:
    - How the weights were confirmed.
    - C(method) is V(envoy), V(exec) (at least one proxy was read that way), V(observed) or V(none); C(state) is V(confirmed) or
      V(unconfirmed), then with a C(reason); C(seconds) is counted from the write; C(proxies), C(gateways) and C(sidecars) are how
      many had to show the weights.
    - With V(observed), C(share) is the canary's percentage of the last C(requests) that C(query) counted.
  returned: outside check mode, also when the task failed because nothing confirmed the weights
  type: dict
  sample:
    method: envoy
    state: confirmed
    seconds: 0.112
    proxies: 2
    gateways: 2
    sidecars: 0
    requests: 0
    share: null
    reason: ""
drift:
  description: What somebody else changed, on the first route where that was seen.
  returned: when the task failed because of drift
  type: dict
  sample:
    object: VirtualService signal/signal-service
    field: weight of the canary
    expected: 10
    seen: 25
    before: {"stable": 90, "canary": 10}
    after: {"stable": 75, "canary": 25}
    manager: kubectl-edit
    time: "2026-11-24T10:58:46Z"
writer:
  description: Who wrote the weights that were found, and when. The name is a claim of the client.
  returned: when the route was read
  type: dict
  sample: {"manager": "kubectl-edit", "time": "2026-11-24T10:58:46Z"}
break_glass:
  description: The line that puts all traffic back to the stable destination by kubectl alone, whatever the weights are then.
  returned: when every route was read
  type: str
  sample: kubectl -n signal patch virtualservice signal-service --type=json -p '[{"op":"test"}]'
capacity:
  description: How many pods each subset has and needs for the new weights.
  returned: when O(capacity) is set and the route was read
  type: dict
  contains:
    full:
      description: Pods that carry all traffic.
      type: int
      sample: 3
    source:
      description: Where that number comes from.
      type: str
      sample: pods wanted by Deployment signal-service-v1
    stable:
      description: The stable subset, with the same keys as RV(capacity.canary).
      type: dict
      sample: {"share": 50, "needed": 2, "wanted": 3, "ready": 3, "guaranteed": null, "deployments": ["signal-service-v1"], "hpa": null, "pdb": []}
    canary:
      description:
        - Its C(share) in percent, the pods C(needed) for it, those C(wanted) by its C(deployments), those C(ready), and those
          C(guaranteed), that is, left by evictions (null without a PodDisruptionBudget).
        - C(hpa) and C(pdb) are the HorizontalPodAutoscaler and the PodDisruptionBudgets of these pods.
      type: dict
      sample:
        share: 50
        needed: 2
        wanted: 2
        ready: 2
        guaranteed: 1
        deployments: [signal-service-v2]
        hpa: {"name": "signal-service-v2", "min": 2, "max": 6, "disabled": false}
        pdb: [{"name": "signal-service-v2", "allowed": 1}]
    warnings:
      description: What does not stop the change, but may cost capacity.
      type: list
      elements: str
      sample: ["destination 'v2': PodDisruptionBudget signal-service allows no eviction now, so that draining a node would wait."]
routes:
  description: Every route with its own result, the main one first. The keys above are the main one's.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: HTTPRoute
      namespace: signal
      name: signal-service
      route: null
      changed: true
      before: {"stable": 100, "canary": 0}
      after: {"stable": 90, "canary": 10}
      resource_version: "4711"
      confirmed: {"method": "envoy", "state": "confirmed", "seconds": 0.112, "proxies": 2, "gateways": 2, "sidecars": 0, "reason": ""}
      drift: null
      capacity: null
"""

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_canary_weight)


if __name__ == "__main__":
    main()
