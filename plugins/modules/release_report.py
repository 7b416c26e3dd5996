#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_report
short_description: Write a release as one HTML page
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - The page shows how the release stands or ended, the gated metrics over the time of the canary with their limits and the changes of the
    weight, what each gate decided, the deployment log of the document, who has signed it off (for which images and until when), what people have
    attested in which words, and the checklist with what ticks each box.
  - It is one file that needs no other, light or dark as the reader's system is, and prints well.
  - Everything is read; nothing is written but the file.
extends_documentation_fragment:
  - signal.rollout._prometheus
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - The page tells when it was made, so that it is written anew each time.
  in_process:
    support: full
options:
  prometheus_validate_certs:
    description: Whether the certificate of O(prometheus_url) is checked.
    type: bool
    default: true
  prometheus_ca_cert:
    description: Path of the certificates of the authorities that may have signed the one of O(prometheus_url), in PEM format.
    type: path
  service:
    description: Name of the service, whose record is in the ConfigMap C(signal-rollout-SERVICE).
    type: str
    required: true
  path:
    description:
      - The file to write. A missing folder is made. It is replaced at once, never half written.
      - A folder, existing or with V(/) at its end, gets a file C(SERVICE-VERSION-BEGUN.html) for each deployment.
    type: path
    required: true
  contacts:
    description: Whom to turn to, as dictionaries of C(role), C(name) and C(contact).
    type: list
    elements: dict
    default: []
  timeout:
    description: Seconds that one question to Prometheus may take.
    type: float
    default: 5.0
requirements:
  - kubernetes (Python library)
  - requests (Python library), for O(prometheus_url)
"""

EXAMPLES = r"""
- name: Write the report of the release
  signal.rollout.release_report:
    namespace: signal
    service: signal-service
    prometheus_url: https://prometheus.example.com
    path: /srv/reports/signal-service-v2.html
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /srv/reports/signal-service-v2.html
bytes:
  description: Its size.
  returned: success
  type: int
  sample: 71234
charts:
  description: Number of metrics that are drawn.
  returned: success
  type: int
  sample: 7
charts_missing:
  description: Why there are no drawings, or fewer than metrics. Empty when there are all.
  returned: success
  type: str
  sample: "Not drawn: latency p99: Prometheus keeps no data of that time."
outcome:
  description: How the release ended, as the record has it. Empty while it is under way.
  returned: success
  type: str
  sample: complete
summary:
  description: How many boxes of the checklist are in each state, how many are ticked, and how many there are.
  returned: success
  type: dict
  sample: {proven: 34, attested: 60, not_needed: 1, open: 3, failed: 0, ticked: 95, total: 98}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _release_report
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_release_report)


if __name__ == "__main__":
    main()
