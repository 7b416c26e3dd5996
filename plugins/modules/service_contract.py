#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_contract
short_description: Prove that other services are what a release needs
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Asks other services by HTTP for JSON and holds the answers against a contract - the version in a range, fields with their types, values such
    as quotas.
  - Fails with every breach of every service at once; the result then has the same keys as after a success.
  - Reads only, by GET. Redirects are not followed.
requirements:
  - requests (Python library)
  - jmespath (Python library)
  - packaging (Python library)
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
options:
  services:
    description: The services that the release depends on.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What it is called in messages.
        type: str
        required: true
      url:
        description: Beginning of its addresses, such as V(http://instrument-service.market:8080).
        type: str
        required: true
      box:
        description: Id of the box of the checklist that its contract proves, such as V(dependencies.instrument).
        type: str
      headers:
        description: Headers of every request.
        type: dict
      token:
        description: Bearer token of every request.
        type: str
      requests:
        description: What is asked, and what the answers must hold. Each demands at least one of O(services[].requests[].version),
          O(services[].requests[].fields) and O(services[].requests[].values).
        type: list
        elements: dict
        required: true
        suboptions:
          path:
            description: Path, with its query.
            type: str
            required: true
          status:
            description: Status that the answer must have.
            type: int
            default: 200
          latency_below_ms:
            description: The answer must come in less, in milliseconds.
            type: float
          version:
            description: The version of the service or of its interface.
            type: dict
            suboptions:
              json_path:
                description: JMESPath expression of the version in the answer.
                type: str
                required: true
              range:
                description: Versions that the release works with, such as V(>=2.1,<3). A version before its release, such as V(3.0.0-rc.1), comes
                  before that release.
                type: str
                required: true
          fields:
            description: What the release reads of the answer.
            type: list
            elements: dict
            suboptions:
              json_path:
                description: JMESPath expression. One with C([*]) stands for all that it finds, at least one.
                type: str
                required: true
              type:
                description: Type in JSON. V(integer) is a V(number) without fraction; null is none of them.
                type: str
                required: true
                choices: [string, integer, number, boolean, array, object]
          values:
            description: Values that must be as declared, such as quotas. Each has one limit or more.
            type: list
            elements: dict
            suboptions:
              json_path:
                description: JMESPath expression of the value.
                type: str
                required: true
              equals:
                description: What it must be.
                type: raw
              at_least:
                description: The least that it may be.
                type: float
              at_most:
                description: The most that it may be.
                type: float
  validate_certs:
    description: Whether the certificates of the services are verified.
    type: bool
    default: true
  ca_cert:
    description: PEM file of the authority that signed them. Without it the system's are used.
    type: path
  client_cert:
    description: PEM file of the certificate that is shown to the services.
    type: path
  client_key:
    description: PEM file of its key, without a passphrase. Without it the key is in O(client_cert).
    type: path
  timeout:
    description: Seconds that an answer may take.
    type: float
    default: 5.0
seealso:
  - module: signal.rollout.endpoint_probe
    description: For the addresses of the released service itself.
"""

EXAMPLES = r"""
- name: Are the services there that the release needs?
  signal.rollout.service_contract:
    services:
      - name: instrument service
        url: http://instrument-service.market:8080
        box: dependencies.instrument
        requests:
          - path: /version
            version: {json_path: version, range: ">=2.1,<3"}
          - path: /instruments?limit=1
            fields:
              - {json_path: "instruments[*].symbol", type: string}
              - {json_path: "instruments[*].lot_size", type: integer}
      - name: subscription service
        url: http://subscription-service.market:8080
        box: dependencies.subscription
        token: "{{ vault_subscription_token }}"
        requests:
          - path: /quotas/signal-service
            values:
              - {json_path: max_subscriptions, at_least: 5000}
"""

RETURN = r"""
services:
  description: What became of each service, in the order of O(services).
  returned: when the options could be used
  type: list
  elements: dict
  sample:
    - name: instrument service
      ok: true
      breaches: []
      kept: [version 2.3.1, 2 fields]
      requests: 2
      slowest_ms: 4.1
  contains:
    name:
      description: Its name.
      returned: always
      type: str
      sample: instrument service
    ok:
      description: Whether it keeps the contract.
      returned: always
      type: bool
      sample: true
    breaches:
      description: What it breaks, each with the path that was asked.
      returned: always
      type: list
      elements: str
      sample: ["/version: version 1.9.0, expected >=2.1,<3"]
    kept:
      description: What it keeps, with the figures.
      returned: always
      type: list
      elements: str
      sample: [version 2.3.1, 2 fields]
    requests:
      description: How many requests were sent.
      returned: always
      type: int
      sample: 2
    slowest_ms:
      description: The slowest answer, in milliseconds. Null when there was none.
      returned: always
      type: float
      sample: 4.1
proofs:
  description: For O(signal.rollout.release_checklist#module:proofs), one for each service with a O(services[].box).
  returned: when the options could be used
  type: dict
  sample:
    dependencies.instrument: {state: proven, evidence: "instrument service: version 2.3.1, 2 fields; 2 requests, slowest 4.1 ms"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _service_contract
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_service_contract)


if __name__ == "__main__":
    main()
