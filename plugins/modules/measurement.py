#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: measurement
short_description: Measure success criteria once, and the new version against the old one
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Asks Prometheus once for each figure, over a window that has passed, and holds it against its limit or against the same figure of the old version.
  - It never fails because of a figure. What was measured is in RV(measurements), and what that proves in RV(proofs). Without data there is neither.
  - To watch figures while traffic moves, use M(signal.rollout.metric_gate).
extends_documentation_fragment:
  - signal.rollout._prometheus
  - signal.rollout._prometheus.tls
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
options:
  measurements:
    description: Figures with a limit.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the figure.
        type: str
        required: true
      query:
        description: PromQL that gives one number. C({version}) and C({window}) are filled in.
        type: str
        required: true
      unit:
        description: Unit of the number.
        type: str
        required: true
      below:
        description: The figure must be below this number.
        type: float
      at_most:
        description: The figure must be at most this number.
        type: float
      above:
        description: The figure must be above this number.
        type: float
      at_least:
        description: The figure must be at least this number.
        type: float
      box:
        description: Box of the checklist that the figure proves, together with the other figures of this box.
        type: str
  comparisons:
    description: Figures of which both versions are asked.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the figure.
        type: str
        required: true
      query:
        description: PromQL that gives one number. C({version}) and C({window}) are filled in.
        type: str
        required: true
      unit:
        description: Unit of the number.
        type: str
        required: true
      higher_is_better:
        description: Whether a higher number is the better one.
        type: bool
        default: false
  version:
    description: The new version.
    type: str
    required: true
  baseline_version:
    description: The old version. Required for O(comparisons).
    type: str
  start:
    description: Begin of the window, in ISO 8601 with its zone.
    type: str
  end:
    description: End of the window, in ISO 8601 with its zone. Without it, now.
    type: str
  window:
    description: Length of the window in seconds, instead of O(start).
    type: float
  timeout:
    description: How long one answer may take, in seconds.
    type: float
    default: 10.0
"""

EXAMPLES = r"""
- name: Measure the cache over the last hour
  signal.rollout.measurement:
    prometheus_url: https://prometheus.example.com
    version: v2
    window: 3600
    measurements:
      - name: cache hits
        query: '100 * sum(rate(hits_total{version="{version}"}[{window}])) / sum(rate(lookups_total{version="{version}"}[{window}]))'
        unit: "%"
        above: 80
        box: technical.cache_hits
  register: measured

- name: Keep what that proves
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
    state: proven
    proofs: "{{ measured.proofs }}"
  when: measured.proofs | length > 0
"""

RETURN = r"""
window:
  description: Length of the window in seconds.
  returned: success
  type: float
  sample: 3600.0
measurements:
  description: Each figure with its verdict, C(pass), C(breach), C(no_data) or C(error), and in C(words).
  returned: success
  type: list
  elements: dict
  sample:
    - name: cache hits
      unit: "%"
      limit: "> 80 %"
      box: technical.cache_hits
      value: 93.1
      verdict: pass
      words: "cache hits 93.1 %, expected > 80 %, over 3600 s"
comparisons:
  description: Each figure of both versions. C(percent) is how far the new version's is above the old one's, null unless both were measured.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: latency p99, unit: ms, value: 8.1, baseline: 12.3, percent: -34.1, better: true, words: "latency p99 34 % lower: 8.1 ms, before 12.3 ms"}
proofs:
  description: What the figures prove, by the box; for O(signal.rollout.release_checklist#module:proofs).
  returned: success
  type: dict
  sample:
    technical.cache_hits: {state: proven, evidence: "cache hits 93.1 %, expected > 80 %, over 3600 s"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _measurement
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_measurement)


if __name__ == "__main__":
    main()
