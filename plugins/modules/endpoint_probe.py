#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint_probe
short_description: Check HTTP and WebSocket endpoints of a service, all at once
version_added: 1.0.0
description:
  - Runs all checks concurrently, each with a timeout and all with one deadline, and reports every broken rule of every check.
  - The task fails when a check does, and returns the same keys as on success.
  - An HTTP check looks at the status, at headers, at the body as text or as JSON by dotted paths, and at the latency.
  - A WebSocket check connects, sends messages, waits for expected ones in their order, and measures round trips.
  - Redirects are not followed, and neither proxies nor C(.netrc) of the environment are used. The probe speaks to the address it is given.
  - Only reading methods exist, so that it can run in check mode and at any time.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
options:
  base_url:
    description:
      - Where the service is, for example V(https://signal.example.com). The paths of the checks are appended.
      - Its scheme is C(http), C(https), C(ws) or C(wss). WebSocket checks use the fitting one of C(ws) and C(wss), the others of C(http) and C(https).
      - A user or password in it is refused, and so are link-local addresses and names that resolve to one.
    type: str
    required: true
  host_header:
    description:
      - Host header to send, for a gateway that routes by host name. The certificate is still verified for the host of O(base_url).
    type: str
  headers:
    description:
      - Headers to send with every request, such as an authorization.
      - Their values are masked in all output, therefore each needs at least 8 characters.
    type: dict
  validate_certs:
    description:
      - Whether the server's certificate is verified.
    type: bool
    default: true
  ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed the server's certificate.
      - Without it, the authorities count that come with the C(requests) library.
    type: path
  timeout:
    description:
      - How long one call may take, in seconds. For a WebSocket it holds for connecting, sending and everything expected
        together, and again for each round trip.
    type: float
    default: 5.0
  deadline:
    description:
      - How long all checks together may take, in seconds. A check that has not ended by then fails.
    type: float
    default: 60.0
  concurrency:
    description:
      - How many checks run at the same time, 1 to 64. Take 1 for the least disturbed latencies.
    type: int
    default: 8
  retries:
    description:
      - How often a call is tried again when no connection comes about or it is cut, 0 to 10. An answer is never asked for again, whatever its status.
      - A WebSocket that is accepted and then brings no message at all is tried again too, and a check that needed it is a warning.
    type: int
    default: 0
  checks:
    description:
      - What to check. Names must be different.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the check in results and messages.
        type: str
        required: true
      path:
        description:
          - Path, optionally with a query.
        type: str
        default: /
      method:
        description:
          - HTTP method.
        type: str
        default: GET
        choices:
          - GET
          - HEAD
          - OPTIONS
      status:
        description:
          - Status codes that pass.
        type: list
        elements: int
        default: [200]
      json:
        description:
          - What must be true of the body as JSON, by dotted path. C(data.0.delta) is the C(delta) of the first element of C(data),
            C(\.) is a dot that belongs to a key, V($) is the whole document.
          - A value must be equal, and of the same type. A dictionary is a set of rules that must all hold.
          - Rules are C(above), C(at_least), C(below), C(at_most) (finite numbers), C(equals), C(one_of) (list), C(exists) (boolean),
            C(type) (C(null), C(boolean), C(string), C(integer), C(number), C(array), C(object)), C(length_at_least) and C(matches) (regular expression).
        type: dict
      contains:
        description:
          - Text that the body must contain.
        type: str
      header:
        description:
          - What must be true of response headers, by name, as a text or as rules like those of O(checks[].json).
        type: dict
      latency_below_ms:
        description:
          - The p99 of the latency must be below this, in milliseconds. It is measured from the request to the last byte of the answer,
            including the connection for the first call. For a WebSocket it is the time to connect and to get all that is expected.
        type: float
      repeat:
        description:
          - How often the call is made, one after the other, 1 to 10000. Every call must pass.
        type: int
        default: 1
      websocket:
        description:
          - Makes the check one of a WebSocket. It takes no O(checks[].method), O(checks[].status), O(checks[].json),
            O(checks[].contains) or O(checks[].header).
        type: dict
        suboptions:
          send:
            description:
              - Messages to send after connecting. Anything but a text is sent as JSON.
            type: list
            elements: raw
            default: []
          expect:
            description:
              - Messages that must arrive in this order. Others in between are skipped.
              - A dictionary is a part that a JSON message must have. Inside it, values may be rules like those of O(checks[].json). A text must be equal.
            type: list
            elements: raw
            default: []
          ping:
            description:
              - Message of the service's own ping, with O(checks[].websocket.pong). Without it, round trips are ping frames of the protocol,
                which a proxy or library answers without the service's code.
            type: raw
          pong:
            description:
              - Part that the answer to O(checks[].websocket.ping) must have.
            type: dict
          round_trips:
            description:
              - How many round trips to measure, 0 to 10000.
            type: int
            default: 0
          latency_below_ms:
            description:
              - The p99 of the round trips must be below this, in milliseconds.
            type: float
requirements:
  - requests (Python library)
  - websocket-client (Python library), for WebSocket checks
seealso:
  - module: ansible.builtin.uri
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Smoke tests of green
  signal.rollout.endpoint_probe:
    base_url: http://signal-service-green.signal.svc.cluster.local
    checks:
      - name: health
        path: /health
        header:
          x-signal-version: v2
        json:
          status: healthy
          checks.database: ok
      - name: real-time greeks
        path: /api/v2/realtime/greeks/NSE@NIFTY@OPTION@21500@CALL
        json:
          greeks.delta: {above: 0, below: 1}
        repeat: 20
        latency_below_ms: 200
      - name: subscriptions
        path: /api/v2/subscriptions/websocket
        websocket:
          send:
            - {type: subscribe, instrument: NSE@NIFTY@OPTION@21500@CALL}
          expect:
            - {type: subscribed}
            - {type: greeks}
          ping: {type: ping, t: 1}
          pong: {type: pong}
          round_trips: 20
          latency_below_ms: 50

- name: Through the gateway, by host name, with a token
  signal.rollout.endpoint_probe:
    base_url: https://gateway.example.com
    host_header: signal-service.example.com
    headers:
      Authorization: "Bearer {{ signal_token }}"
    retries: 2
    checks:
      - name: status
        path: /api/v2/status
"""

RETURN = r"""
checks:
  description: One entry for each check, in the order of O(checks).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the check.
      returned: always
      type: str
      sample: health
    ok:
      description: Whether every rule held for every call.
      returned: always
      type: bool
      sample: true
    status:
      description: HTTP status of the last answer, 101 for a WebSocket, null when none came.
      returned: always
      type: int
      sample: 200
    problems:
      description: The broken rules.
      returned: always
      type: list
      elements: dict
      contains:
        rule:
          description: Which rule.
          returned: always
          type: str
          sample: json status
        seen:
          description: What was seen, from the first call that broke it.
          returned: always
          type: str
          sample: '"degraded"'
        expected:
          description: What was expected.
          returned: always
          type: str
          sample: '"healthy"'
        message:
          description: All of it in one line, and in how many calls.
          returned: always
          type: str
          sample: 'json status: "degraded" in 2 of 20 calls, expected "healthy"'
    latency_ms:
      description:
        - Latency of the calls that were answered, in milliseconds. For a WebSocket that of the round trips, or without any the time to
          connect and to get all that is expected. Values are null when nothing was measured.
        - The p99 is by nearest rank. Below 100 calls it is the maximum.
      returned: always
      type: dict
      contains:
        min:
          description: Shortest.
          returned: always
          type: float
          sample: 3.1
        median:
          description: Median.
          returned: always
          type: float
          sample: 4.2
        p99:
          description: 99th percentile.
          returned: always
          type: float
          sample: 9.8
        max:
          description: Longest.
          returned: always
          type: float
          sample: 9.8
    calls:
      description: Number of calls or connections.
      returned: always
      type: int
      sample: 20
    attempts:
      description: Number of calls with those that were tried again.
      returned: always
      type: int
      sample: 20
  sample:
    - name: health
      ok: true
      status: 200
      problems: []
      latency_ms: {min: 3.1, median: 3.1, p99: 3.1, max: 3.1}
      calls: 1
      attempts: 1
failed_checks:
  description: Names of the checks that failed. It is not called C(failed), which Ansible uses for the state of the task.
  returned: always
  type: list
  elements: str
  sample: []
seconds:
  description: How long all took, in seconds.
  returned: always
  type: float
  sample: 0.214
"""

from ansible_collections.signal.rollout.plugins.module_utils import _probe
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_probe)


if __name__ == "__main__":
    main()
