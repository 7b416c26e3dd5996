#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: monitoring_check
short_description: See whether every panel of a dashboard shows data, and whether every alert could fire and did not
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - A dashboard counts by what it shows. Each query of each panel of the installed definition is asked, with Grafana's variables filled
    in, and must find series.
  - An alert counts when Prometheus has loaded it with that very expression, C(for) and labels, evaluates it without an error, and when
    what it measures exists. An alert on a metric that nobody exports never fires.
  - With O(since) the time from then to now is looked back over. An alert is quiet when it did not fire in it and when what it measures
    was there for nearly all of it. Silence of a Prometheus that saw nothing proves nothing.
  - It asks Prometheus only, and changes nothing. Grafana and Alertmanager are not needed.
extends_documentation_fragment:
  - signal.rollout._prometheus
  - signal.rollout._prometheus.tls
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
options:
  dashboards:
    description:
      - Dashboards to look at.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: How results name it.
        type: str
        required: true
      definition:
        description:
          - The dashboard as Grafana exports it, as a dictionary or as JSON text. Without it, the dashboard counts as not there.
        type: raw
      panels:
        description: Titles of panels that it must have.
        type: list
        elements: str
        default: []
      box:
        description: Box of the checklist that is proven while every panel shows a number. Panels without traffic leave it open.
        type: str
        default: ''
  dashboards_box:
    description: Box of the checklist that is proven when all dashboards exist and every query finds series, with or without traffic.
    type: str
    default: ''
  dashboard_variables:
    description:
      - Values of the variables in the queries, such as C(namespace) for C($namespace). C($__rate_interval) and C($__interval) are
        V(1m) and C($__range) is V(1h) unless they are set here.
    type: dict
    default: {}
  alerts:
    description:
      - Alerts to ask about.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the alert.
        type: str
        required: true
      query:
        description: What it measures, in PromQL, without the comparison.
        type: str
        required: true
      above:
        description: The limit. The alert is active while O(alerts[].query) is above it.
        type: float
        required: true
      unit:
        description: Unit of the limit, for results.
        type: str
        default: ''
      expr:
        description: The whole expression of the rule. Without it, C(QUERY > ABOVE).
        type: str
      for_seconds:
        description: How long the rule waits before it fires, in seconds. Without it, any time is right.
        type: float
      labels:
        description: Labels that the rule must carry. They tell alerts of one name apart.
        type: dict
        default: {}
      box:
        description: Box of the checklist that is proven when the alert did not fire since O(since).
        type: str
        default: ''
  alerts_box:
    description: Box of the checklist that is proven when every alert is loaded as written and could fire.
    type: str
    default: ''
  since:
    description: Beginning of the window to look back over, such as V(2026-11-24T12:05:12Z). Without it, only now is looked at.
    type: str
  step:
    description: Resolution of the look back, in seconds. Long windows are looked at with 300 steps at most.
    type: float
    default: 30.0
  minimum_coverage:
    description: Part of the window in which an alert's query must have given a number for the alert to count as quiet, in percent.
    type: float
    default: 90.0
  timeout:
    description: How long one query may take, in seconds.
    type: float
    default: 10.0
  wait:
    description: How long to wait until every alert is loaded as written, in seconds. In check mode it does not wait.
    type: float
    default: 0.0
  reload_url:
    description:
      - Address that makes Prometheus read its rules again, such as C(http://prometheus:9090/-/reload). It is asked by POST, once a
        second, while O(wait) waits. That is the one thing besides questions that this module sends.
    type: str
    default: ''
  required:
    description: Whether the task fails while there are problems.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Is the alert on errors there, and has it been quiet since noon?
  signal.rollout.monitoring_check:
    prometheus_url: https://prometheus.example.com
    since: "2026-11-24T12:00:00Z"
    alerts:
      - name: SignalHighErrorRate
        query: >-
          100 * sum by (version) (rate(signal_requests_total{code=~"5.."}[5m]))
          / sum by (version) (rate(signal_requests_total[5m]))
        above: 1
        unit: "%"
        for_seconds: 60

- name: Does every panel show data?
  signal.rollout.monitoring_check:
    prometheus_url: https://prometheus.example.com
    dashboards:
      - title: Service Overview
        definition: "{{ lookup('ansible.builtin.file', 'overview.json') }}"
        panels: [Request rate, Error rate]
    dashboard_variables: {namespace: signal}
"""

RETURN = r"""
verdict:
  description: V(pass) without problems, else V(fail).
  returned: when the options could be used
  type: str
  sample: pass
problems:
  description: Everything that is not as it should be, one line each.
  returned: when the options could be used
  type: list
  elements: str
  sample: ["alert SignalDiskSpace: its query finds no series, so it could never fire"]
dashboards:
  description: What was seen of each dashboard.
  returned: when the options could be used
  type: list
  elements: dict
  contains:
    title:
      description: Its title.
      returned: always
      type: str
      sample: Service Overview
    present:
      description: Whether there is a definition.
      returned: always
      type: bool
      sample: true
    with_data:
      description: Panels that show a number now.
      returned: always
      type: int
      sample: 4
    panels:
      description:
        - Its panels with C(title), C(state), C(detail) and C(queries). The state is V(data), V(idle) (series without a number, as
          without traffic), V(empty), V(error) or V(missing).
      returned: always
      type: list
      elements: dict
      sample: [{title: Request rate, state: data, detail: "", queries: ["sum(rate(signal_requests_total[1m]))"]}]
alerts:
  description: What was seen of each alert.
  returned: when the options could be used
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      returned: always
      type: str
      sample: SignalHighErrorRate
    state:
      description: What Prometheus says of it, V(inactive), V(pending) or V(firing). Empty when it is not loaded.
      returned: always
      type: str
      sample: inactive
    loaded:
      description: Whether it is loaded as written, and healthy.
      returned: always
      type: bool
      sample: true
    health:
      description: Health of the rule as Prometheus says.
      returned: always
      type: str
      sample: ok
    fired:
      description: Whether it fired since O(since). None without O(since).
      returned: always
      type: bool
      sample: false
    worst:
      description: Highest value of its query since O(since).
      returned: always
      type: float
      sample: 0.02
    limit:
      description: Its limit.
      returned: always
      type: float
      sample: 1.0
    unit:
      description: Unit of both.
      returned: always
      type: str
      sample: "%"
    coverage_percent:
      description: Part of the window in which its query gave a number.
      returned: always
      type: float
      sample: 100.0
    problem:
      description: Why it could not fire.
      returned: always
      type: str
      sample: ""
proofs:
  description: Proofs for the checklist, by the id of the box. A box that could not be judged is not in it.
  returned: when the options could be used
  type: dict
  sample:
    alerts.error_rate: {state: proven, evidence: "SignalHighErrorRate was loaded, measured in 100 % of 12 min, and did not fire"}
seconds:
  description: How long it took.
  returned: when the options could be used
  type: float
  sample: 0.21
"""

from ansible_collections.signal.rollout.plugins.module_utils import _monitoring_check
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_monitoring_check)


if __name__ == "__main__":
    main()
