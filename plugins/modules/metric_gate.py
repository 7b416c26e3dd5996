#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: metric_gate
short_description: Hold while figures from Prometheus keep their limits, and put traffic back when they do not
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Watches figures for a time and passes only with evidence. Every figure must have kept its strict limit at every poll, must have
    been seen for the whole duration, and the last sample must be good.
  - The verdict is V(pass), V(breach), V(no_data), V(error), V(insufficient) or V(cancelled). The task fails for every verdict but
    V(pass), with the same result keys.
  - A breach ends the hold at once. While a figure cannot be seen (no answer, no series, NaN, several series, a warning of Prometheus,
    an old sample) the hold waits with its clock stopped, up to O(outage_budget). Too little evidence at the end extends the hold, up
    to O(extension).
  - With O(abort_route), every verdict but V(pass) puts all traffic back inside this task, before it fails.
  - Mistakes in the options are found before the first query, all at once. Every query is asked once before the hold begins, and one
    that Prometheus cannot understand, or that gives several series, ends the task with Prometheus' own words.
extends_documentation_fragment:
  - signal.rollout._prometheus
  - signal.rollout._prometheus.tls
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
attributes:
  check_mode:
    support: partial
    details:
      - A plan has no numbers. In check mode only the options and the queries are validated, the verdict is V(none), and nothing is
        written.
  diff_mode:
    support: none
  idempotent:
    support: N/A
    details:
      - The answer depends on the observed system. The only write is the way back.
  in_process:
    support: full
    details:
      - Live lines are shown only in the controller's process. A module's output is read when it has ended.
options:
  label:
    description:
      - How live lines and messages name this hold, such as V(canary 10%).
    type: str
    default: gate
  duration:
    description:
      - How long every figure must have been watched, in seconds. Time in which it could not be seen does not count.
    type: float
    required: true
  interval:
    description:
      - Time from one poll to the next, in seconds, at least 0.1. Polls keep to an absolute schedule.
    type: float
    default: 1.0
  initial_delay:
    description:
      - Time before the first poll, in seconds, in which nothing is judged.
    type: float
    default: 0.0
  query_timeout:
    description:
      - How long one query may take, in seconds. Queries run at the same time, and a slow one does not delay the others.
    type: float
    default: 5.0
  metrics:
    description:
      - The figures. At least one that is not a dry run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the figure in messages and results. Each name once.
        type: str
        required: true
      query:
        description:
          - PromQL that gives exactly one number, a scalar or a vector of one series.
          - C($hold) in it stands for the time since the start of the hold, for example C(increase(x[$hold])).
          - Exactly one of O(metrics[].query) and O(metrics[].preset).
        type: str
      preset:
        description:
          - A ready-made query, with its traps handled. Each answers with nothing, and never with 0, when there is nothing to see.
          - V(error_percent) is the share of answers with a code of 500 or more in C(signal_requests_total), in C(%). It sees the
            very first error of a series that did not exist before, and is right across restarts of counters.
          - V(gateway_error_percent) is the same as Envoy's gateways see it, which includes the 503 for a version without a living
            pod.
          - V(p99_ms) and V(websocket_p99_ms) are the 99th percentiles of C(signal_request_duration_seconds) and
            C(signal_websocket_latency_seconds), in C(ms).
          - V(cpu_percent_of_limit) and V(memory_percent_of_limit) are the use of the worst pod in percent of its limit, by the
            kubelet's C(container_cpu_usage_seconds_total) and C(container_memory_working_set_bytes).
          - V(requests) counts the requests of the window.
          - V(cache_hit_percent) is the share of C(signal_cache_hits_total) in all lookups, in C(%).
          - V(pods_seen) counts the pods that can be scraped, in C(pods). It is 0 only while pods of another version are seen.
        type: str
        choices:
          - cache_hit_percent
          - cpu_percent_of_limit
          - error_percent
          - gateway_error_percent
          - memory_percent_of_limit
          - p99_ms
          - pods_seen
          - requests
          - websocket_p99_ms
      preset_vars:
        description:
          - Variables of the preset. All take C(labels), a dictionary of further labels that the series must have.
          - V(error_percent), V(p99_ms), V(websocket_p99_ms), V(requests) and V(cache_hit_percent) need C(version) and C(window), a
            duration such as V(30s), or V($hold).
          - V(gateway_error_percent) needs C(version) (the subset), C(host) (the full name of the service) and C(window).
          - V(cpu_percent_of_limit) needs C(namespace), C(pod) (a regular expression), C(container), C(window) and C(limit_cores).
          - V(memory_percent_of_limit) needs C(namespace), C(pod), C(container) and C(limit_bytes).
          - V(pods_seen) needs C(version).
        type: dict
      below:
        description:
          - The figure must be less than this. A figure equal to it breaks the limit.
          - Exactly one of O(metrics[].below), O(metrics[].at_most), O(metrics[].above) and O(metrics[].at_least) is needed.
        type: float
      at_most:
        description:
          - The figure must be this or less.
        type: float
      above:
        description:
          - The figure must be more than this. A figure equal to it breaks the limit.
        type: float
      at_least:
        description:
          - The figure must be this or more.
        type: float
      unit:
        description:
          - Unit of the figure and its limit, such as V(%) or V(ms). It is needed for every metric and never guessed.
          - With a preset it must be the preset's own unit.
        type: str
      failure_limit:
        description:
          - How many polls of the whole hold may be over the limit. One more is a breach.
        type: int
        default: 0
      no_data:
        description:
          - What a poll without data means. V(hold) is to wait and see, within the outage budget.
          - V(breach) counts it as a poll over the limit. Nothing makes it a pass.
        type: str
        choices: [hold, breach]
        default: hold
      dry_run:
        description:
          - Measure and show the figure, but never decide by it.
        type: bool
        default: false
      freshness:
        description:
          - PromQL for the unix time of the newest scrape behind the figure, such as C(min(timestamp(x))). Presets bring their own.
          - Without it only the time of Prometheus' own evaluation is looked at, by this host's clock. That shows an answer from a
            cache or a wrong clock, but not a target that is no longer scraped, whose last samples stay visible for some minutes.
        type: str
      window:
        description:
          - Length of the query's window in seconds. It is used to tell the worst-case detection time, and to refuse a window of
            fewer than two scrapes. Presets know theirs.
        type: float
  minimum_samples:
    description:
      - How many good samples each figure needs for a pass. Without it, half of the polls that fit O(duration).
    type: int
  minimum_requests:
    description:
      - How much traffic there must have been for a pass. An error rate of 0 in ten requests proves nothing.
    type: dict
    suboptions:
      query:
        description:
          - PromQL that gives exactly one number, a scalar or a vector of one series.
          - C($hold) in it stands for the time since the start of the hold, for example C(increase(x[$hold])).
          - Exactly one of O(minimum_requests.query) and O(minimum_requests.preset).
        type: str
      preset:
        description:
          - A ready-made query, with its traps handled. Each answers with nothing, and never with 0, when there is nothing to see.
          - V(error_percent) is the share of answers with a code of 500 or more in C(signal_requests_total), in C(%). It sees the
            very first error of a series that did not exist before, and is right across restarts of counters.
          - V(gateway_error_percent) is the same as Envoy's gateways see it, which includes the 503 for a version without a living
            pod.
          - V(p99_ms) and V(websocket_p99_ms) are the 99th percentiles of C(signal_request_duration_seconds) and
            C(signal_websocket_latency_seconds), in C(ms).
          - V(cpu_percent_of_limit) and V(memory_percent_of_limit) are the use of the worst pod in percent of its limit, by the
            kubelet's C(container_cpu_usage_seconds_total) and C(container_memory_working_set_bytes).
          - V(requests) counts the requests of the window.
          - V(cache_hit_percent) is the share of C(signal_cache_hits_total) in all lookups, in C(%).
          - V(pods_seen) counts the pods that can be scraped, in C(pods). It is 0 only while pods of another version are seen.
        type: str
        choices:
          - cache_hit_percent
          - cpu_percent_of_limit
          - error_percent
          - gateway_error_percent
          - memory_percent_of_limit
          - p99_ms
          - pods_seen
          - requests
          - websocket_p99_ms
      preset_vars:
        description:
          - Variables of the preset. All take C(labels), a dictionary of further labels that the series must have.
          - V(error_percent), V(p99_ms), V(websocket_p99_ms), V(requests) and V(cache_hit_percent) need C(version) and C(window), a
            duration such as V(30s), or V($hold).
          - V(gateway_error_percent) needs C(version) (the subset), C(host) (the full name of the service) and C(window).
          - V(cpu_percent_of_limit) needs C(namespace), C(pod) (a regular expression), C(container), C(window) and C(limit_cores).
          - V(memory_percent_of_limit) needs C(namespace), C(pod), C(container) and C(limit_bytes).
          - V(pods_seen) needs C(version).
        type: dict
      at_least:
        description:
          - The number of requests that must be reached.
        type: float
        required: true
  extension:
    description:
      - How long the hold may go on after O(duration) to gather the evidence that is still missing, in seconds. After that the verdict
        is V(insufficient).
    type: float
    default: 0.0
  outage_budget:
    description:
      - How long a figure may be out of sight in the whole hold, all gaps together, in seconds. The weight stays as it is meanwhile.
        After that the verdict is V(no_data) or V(error).
    type: float
    default: 600.0
  max_age:
    description:
      - How old the newest scrape behind a figure may be, in seconds. An older figure is no data.
    type: float
    default: 30.0
  scrape_interval:
    description:
      - How often Prometheus scrapes the service, in seconds. With it, worst-case detection times are told, and windows that are too
        short for it are refused.
    type: float
  abort_route:
    description:
      - The route on which all traffic is put back to the stable subset for every verdict but V(pass). The options are those of
        M(signal.rollout.canary_weight), and the weight is always 0.
      - A weight that somebody else has changed meanwhile is put back too.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
        type: str
      host:
        description:
          - URL of the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
        type: str
      api_key:
        description:
          - Bearer token for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
        type: path
      namespace:
        description:
          - Namespace of the route.
        type: str
        default: default
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
        description: Subset that gets all traffic (blue).
        type: str
        required: true
      canary:
        description: Subset that gets no more traffic (green).
        type: str
        required: true
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
            description: Seconds after which the change counts as unconfirmed. The weights stay written.
            type: float
            default: 10.0
  shift:
    description:
      - A weight change that this task makes and confirms before the hold begins, on the route that O(abort_route) names.
      - The weight is then looked at as often as the metrics. Somebody else's edit ends the hold with V(error) and is left alone.
      - One task for both leaves no moment in which the canary has traffic and nobody would take it back.
      - When the change is refused (drift, no ready pod) nothing is moved, and O(abort_route) is not taken either. The same holds when
        somebody else changes the weights before the gateways have them.
    type: dict
    suboptions:
      weight:
        description: Percent of requests for the canary, from 0 to 100.
        type: int
        required: true
      expected_weight:
        description: Weight the canary must have before the change; any other is drift.
        type: int
  abort_timeout:
    description:
      - How long putting traffic back is tried again while the API server is in trouble, in seconds.
    type: float
    default: 60.0
  on_interrupt:
    description:
      - What an interruption (INT, TERM, HUP, or the death of the controller's process) does. V(back) puts traffic back by
        O(abort_route) inside the signal handler, V(hold) leaves it as it is.
    type: str
    choices: [back, hold]
    default: back
  lease:
    description:
      - The Lease of the release, renewed during the hold every third of its duration, as by M(signal.rollout.rollout_record).
      - When somebody else has taken it, the hold ends with the verdict V(error), and nothing is written any more.
      - Connection options that are not given are those of O(abort_route).
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
        type: str
      host:
        description:
          - URL of the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
        type: str
      api_key:
        description:
          - Bearer token for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
        type: path
      namespace:
        description:
          - Namespace of the Lease.
        type: str
        required: true
      name:
        description:
          - Name of the Lease.
        type: str
        required: true
      holder:
        description:
          - Identity of this run, as RV(signal.rollout.rollout_record#module:holder) gave it.
        type: str
        required: true
      duration:
        description:
          - For how long the Lease is valid after a renewal, in seconds.
        type: float
        default: 60.0
seealso:
  - module: signal.rollout.canary_weight
  - module: signal.rollout.preflight_check
"""

EXAMPLES = r"""
- name: Hold 10 % for fifteen minutes
  signal.rollout.metric_gate:
    prometheus_url: https://prometheus.example.com
    label: canary 10%
    duration: 900
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
      - name: p99
        preset: p99_ms
        preset_vars: {version: v2, window: 1m}
        below: 200
        unit: ms
      - name: queue
        query: max(signal_queue_length{version="v2"})
        freshness: min(timestamp(signal_queue_length{version="v2"}))
        at_most: 100
        unit: messages
        failure_limit: 2
    minimum_requests:
      preset: requests
      preset_vars: {version: v2, window: $hold}
      at_least: 2995
    extension: 900
    scrape_interval: 5
    abort_route:
      namespace: signal
      name: signal-service
      stable: v1
      canary: v2

- name: Only see whether the queries are valid
  signal.rollout.metric_gate:
    prometheus_url: https://prometheus.example.com
    duration: 900
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
  check_mode: true
"""

RETURN = r"""
verdict:
  description:
    - V(pass), V(breach), V(no_data), V(error), V(insufficient) or V(cancelled). V(none) in check mode.
  returned: always
  type: str
  sample: pass
reason:
  description: Why, in one sentence with the numbers.
  returned: always
  type: str
  sample: error_rate is 4.87 %, expected < 0.1 %
metrics:
  description: What each metric has shown.
  returned: always
  type: list
  elements: dict
  sample:
    - name: error_rate
      verdict: pass
      worst: 0.04
      last: 0.0
      detail: ""
      limit: 0.1
      condition: < 0.1
      unit: "%"
      samples: 901
      good: 899
      breaches: 0
      blind: 2
      dry_run: false
      query: max(signal_queue_length{version="v2"})
  contains:
    name:
      description: Name of the metric.
      returned: always
      type: str
      sample: error_rate
    verdict:
      description: The metric's own verdict, in the words of RV(verdict).
      returned: always
      type: str
      sample: pass
    worst:
      description: The value nearest to the limit, or furthest beyond it. Null when there was none.
      returned: always
      type: float
      sample: 0.04
    last:
      description: The last value. Null when the last poll saw none.
      returned: always
      type: float
      sample: 0.0
    detail:
      description: Why the last poll saw no value.
      returned: always
      type: str
      sample: ""
    limit:
      description: The limit.
      returned: always
      type: float
      sample: 0.1
    condition:
      description: The limit with its comparison.
      returned: always
      type: str
      sample: < 0.1
    unit:
      description: Unit of values and limit.
      returned: always
      type: str
      sample: "%"
    samples:
      description: Number of samples, the sum of the next three.
      returned: always
      type: int
      sample: 901
    good:
      description: Samples within the limit.
      returned: always
      type: int
      sample: 899
    breaches:
      description: Samples over the limit.
      returned: always
      type: int
      sample: 0
    blind:
      description: Polls that saw no usable value.
      returned: always
      type: int
      sample: 2
    dry_run:
      description: Whether the metric was only shown.
      returned: always
      type: bool
      sample: false
    query:
      description: The PromQL that was asked.
      returned: always
      type: str
      sample: max(signal_queue_length{version="v2"})
series:
  description:
    - For each metric a bounded list of C([unix time, value]) for charts. When it is full, neighbours are merged and the worse value
      is kept. Value null means that the metric could not be seen.
  returned: always
  type: dict
  sample: {"error_rate": [[1795519126.0, 0.0], [1795519127.0, 0.02]]}
requests:
  description: Requests counted and needed. Null without O(minimum_requests), or when the hold did not begin.
  returned: always
  type: dict
  sample: {"count": 3120.0, "at_least": 2995.0}
detection:
  description:
    - For each metric with a known window the longest time in seconds from the start of a breach to the poll that sees it, for figures
      that are 2, 10 and 50 times over the limit. Empty without O(scrape_interval). For a percentile it is the share of slow requests
      that is over the share allowed.
  returned: always
  type: list
  elements: dict
  sample:
    - metric: error_rate
      worst_case:
        - {times: 2, seconds: 32.0}
        - {times: 10, seconds: 8.0}
        - {times: 50, seconds: 3.2}
detection_time_s:
  description:
    - Time in seconds from the last good sample of the metric to the verdict, an upper bound of how long the breach could be seen in
      Prometheus before it was. Null for other verdicts.
  returned: always
  type: float
  sample: 1.01
shift:
  description: The weight change that O(shift) asked for, with the keys of M(signal.rollout.canary_weight). Null without one.
  returned: always
  type: dict
  sample:
    changed: true
    before: {"stable": 100, "canary": 0}
    after: {"stable": 90, "canary": 10}
    resource_version: "4711"
    confirmed: {"method": "envoy", "seconds": 0.112, "proxies": 2}
    drift: null
drift:
  description: What somebody else changed on the route before or during the hold. Such an edit ends the hold and is left alone.
  returned: always
  type: dict
  sample: {"field": "weight of the canary", "expected": 10, "seen": 25, "manager": "kubectl-edit", "time": "2026-11-24T10:58:46Z"}
aborted:
  description: How traffic was put back. Null when it was not tried.
  returned: always
  type: dict
  sample:
    done: true
    changed: true
    before: {"stable": 90, "canary": 10}
    after: {"stable": 100, "canary": 0}
    confirmed: {"method": "envoy", "seconds": 0.112, "proxies": 2}
    seconds: 0.15
    error: ""
  contains:
    done:
      description: Whether the canary's weight in the API server is 0.
      returned: always
      type: bool
      sample: true
    changed:
      description: Whether that took a write.
      returned: always
      type: bool
      sample: true
    before:
      description: Weights found, in percent.
      returned: always
      type: dict
      sample: {"stable": 90, "canary": 10}
    after:
      description: Weights afterwards.
      returned: always
      type: dict
      sample: {"stable": 100, "canary": 0}
    confirmed:
      description: How the weights were confirmed in the mesh. Null when they were not.
      returned: always
      type: dict
      sample: {"method": "envoy", "seconds": 0.112, "proxies": 2}
    seconds:
      description: How long it took, confirmation included.
      returned: always
      type: float
      sample: 0.15
    error:
      description: What went wrong, empty when nothing did.
      returned: always
      type: str
      sample: ""
started:
  description: When the task began, in UTC. Null when its options were refused.
  returned: always
  type: str
  sample: "2026-11-24T12:38:46Z"
seconds:
  description: How long the task took.
  returned: always
  type: float
  sample: 900.3
"""

from ansible_collections.signal.rollout.plugins.module_utils import _metric_gate
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_metric_gate)


if __name__ == "__main__":
    main()
