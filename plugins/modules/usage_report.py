#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: usage_report
short_description: Report how a released version does in its first day, week and month
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Reads what Prometheus, the API server and, by way of the caller, Redis and the logs have to say about a version since its release, and makes a
    short report of it, as data and as Markdown.
  - Queries are over ranges, of a bounded number of points, and without subqueries, so that a month costs what a day does. Percentiles of latency
    are computed from the buckets of the whole window.
  - A part that cannot be read says why and proves nothing. A box of the checklist is proven only once O(window) has passed since O(released) and
    the measurements cover it; where what was measured breaks one of O(limits), its proof is V(failed).
  - Nothing is written or applied anywhere.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._prometheus
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
requirements:
  - scipy (Python library), for V(capacity)
  - PyYAML (Python library), for the patch of V(resources) in the Markdown
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
    default: 30.0
  parts:
    description:
      - What to report.
      - V(metrics) are requests, errors, latency, CPU, memory and restarts, beside those of O(stable_version) before the release.
      - V(error_logs) are the errors in the logs by type.
      - V(resources) is the usage of each container, and the requests and limits that follow from it.
      - V(cache) is the hit rate and what the settings of Redis let expect.
      - V(usage) are the requests by endpoint, hour and weekday.
      - V(capacity) are the trends of requests, CPU and memory, and when they meet their limits.
    type: list
    elements: str
    choices: [metrics, error_logs, resources, cache, usage, capacity]
    required: true
  service:
    description:
      - Name of the service. Its pods are called SERVICE-VERSION-something.
    type: str
    required: true
  version:
    description:
      - The released version; the label C(version) of its series.
    type: str
    required: true
  stable_version:
    description:
      - The version before it.
    type: str
    required: true
  selector:
    description:
      - Label selector of the pods whose logs are read. Without it, C(app=SERVICE,version=VERSION).
    type: str
  deployment:
    description:
      - Name of the Deployment. Without it, SERVICE-VERSION.
    type: str
  container:
    description:
      - The only container to look at. Without it all of them, and for logs the one that kubectl would take.
    type: str
    default: ""
  released:
    description:
      - When the release was complete, such as V(2026-11-28T12:00:00Z).
    type: str
    required: true
  started:
    description:
      - When the release began, which is where the time of O(stable_version) ends. Without it O(released).
    type: str
  until:
    description:
      - The end of the report's window. Without it, now.
    type: str
  window:
    description:
      - Seconds after O(released) that the report is about. Where more have passed, the newest ones.
    type: int
    required: true
  baseline_window:
    description:
      - Seconds before O(started) from which the figures of O(stable_version) are taken; V(0) for no comparison.
    type: int
    default: 0
  scrape_interval:
    description:
      - Seconds between two scrapes of Prometheus. A step of a report is at least four of them.
    type: float
    default: 15.0
  points:
    description:
      - Points of one series at most.
    type: int
    default: 2000
  minimum_samples:
    description:
      - Samples that a proof needs.
    type: int
    default: 1
  minimum_requests:
    description:
      - Requests without which sizes do not count as tuned on real load.
    type: int
    default: 1
  minimum_coverage_percent:
    description:
      - Part of the window for which there must be measurements, in percent.
    type: float
    default: 90.0
  confidence:
    description:
      - Confidence of the bounds of a trend.
    type: float
    default: 0.95
  labels:
    description:
      - Further labels that the service's series must have.
    type: dict
    default: {}
  queries:
    description:
      - Queries in place of the built-in ones, for services that name their metrics otherwise. C($version), C($step), C($namespace) and C($service)
        stand for what is meant. Rates are per second over C($step), buckets are in seconds.
      - Keys are V(requests_by_code), V(requests_by_endpoint), V(duration_buckets), V(cache_hits), V(cache_misses), V(cpu), V(memory) and V(starts).
    type: dict
    default: {}
  limits:
    description:
      - Strict limits; at the limit itself a proof is V(failed). Without one nothing fails.
    type: dict
    suboptions:
      error_percent:
        description: Errors among the requests, in percent.
        type: float
      p99_ms:
        description: 99th percentile of the latency, in milliseconds.
        type: float
      cpu_percent:
        description: 95th percentile of the CPU in percent of its limit. For V(capacity) the part of the limits that may be used.
        type: float
      memory_percent:
        description: The same for memory.
        type: float
      cache_hit_percent:
        description: Hit rate that the cache must be above, in percent.
        type: float
      log_errors_per_hour:
        description: Errors in the logs per hour.
        type: float
      requests_per_second:
        description: Rate of requests that the service is known to carry, for V(capacity).
        type: float
      horizon_days:
        description: Days within which no limit of V(capacity) may be met.
        type: float
  sizing:
    description:
      - How sizes follow from usage. Needed for V(resources).
    type: dict
    suboptions:
      cpu_headroom_percent:
        description: What is added to the usage of CPU, in percent.
        type: float
        required: true
      memory_headroom_percent:
        description: What is added to the usage of memory, in percent.
        type: float
        required: true
      tolerance_percent:
        description: Difference to the present size, in percent of it, that is not worth a change.
        type: float
        required: true
      minimum_cpu:
        description: Least request of CPU, as a quantity.
        type: str
        required: true
      minimum_memory:
        description: Least request of memory, as a quantity.
        type: str
        required: true
  log_lines:
    description:
      - Last lines read of each container's log. A log that is longer proves only the time since its first line read.
    type: int
    default: 20000
  log_pods:
    description:
      - Pods whose logs are read at most.
    type: int
    default: 20
  log_rows:
    description:
      - The errors as a log store has counted them, in place of the pods' logs. Each has C(error_type) and C(count), and perhaps C(first) and C(last).
    type: list
    elements: dict
  log_coverage:
    description:
      - What the log store has of the window, with C(first) (time of the first line it has at all) and C(lines) (lines of any level in the window).
        Without lines nobody can tell whether there were no errors or no log.
    type: dict
  redis_nodes:
    description:
      - What RV(signal.rollout.redis_check#module:nodes) says.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Report the first day
  signal.rollout.usage_report:
    namespace: signal
    service: signal-service
    version: v2
    stable_version: v1
    released: "2026-11-28T22:41:07Z"
    window: 86400
    baseline_window: 604800
    parts: [metrics, error_logs]
    prometheus_url: http://prometheus.monitoring:9090
    limits: {error_percent: 0.1, p99_ms: 200}
  register: report

- name: Keep it
  ansible.builtin.copy:
    content: "{{ report.markdown }}"
    dest: reports/day_1.md
    mode: "0644"
"""

RETURN = r"""
service:
  description: The service.
  returned: when the options could be used
  type: str
  sample: signal-service
version:
  description: The version.
  returned: when the options could be used
  type: str
  sample: v2
window:
  description: What time the report is about, and whether all of it has passed.
  returned: when the options could be used
  type: dict
  sample:
    {released: "2026-11-28T22:41:07Z", since: "2026-11-28T22:41:07Z", until: "2026-11-29T22:41:10Z", seconds: 86400, demanded_seconds: 86400,
     complete: true, step_seconds: 60}
parts:
  description: Each part by its name. One that could not be read has C(error) only.
  returned: when the options could be used
  type: dict
  sample:
    metrics: {green: {requests: 812344, error_percent: 0.01, p99_ms: 31.2}, blue: {requests: 5711023, error_percent: 0.02, p99_ms: 58.9}}
proofs:
  description: For O(signal.rollout.release_checklist#module:proofs).
  returned: when the options could be used
  type: dict
  sample:
    day_1.metrics: {state: proven, evidence: "812344 requests, error rate 0.01 %, p99 31.2 ms (before 0.02 %, 58.9 ms), restarts 0"}
unproven:
  description: Boxes that stay open, and why.
  returned: when the options could be used
  type: dict
  sample: {day_1.error_logs: "the measurements cover 40 % of the time, expected at least 90 %"}
queries:
  description: Queries that Prometheus was asked.
  returned: when the options could be used
  type: int
  sample: 10
markdown:
  description: The report for people.
  returned: when the options could be used
  type: str
  sample: "# signal-service v2: 2026-11-28T22:41:07Z to 2026-11-29T22:41:10Z"
text:
  description: One line per box.
  returned: when the options could be used
  type: str
  sample: "day_1.metrics: proven: 812344 requests, error rate 0.01 %, p99 31.2 ms"
"""

from ansible_collections.signal.rollout.plugins.module_utils import _usage_report
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_usage_report)


if __name__ == "__main__":
    main()
