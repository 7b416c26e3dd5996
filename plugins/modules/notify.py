#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: notify
short_description: Tell people about an event, once
version_added: 1.0.0
description:
  - Sends one message to all targets at the same time, through Apprise, which knows more than a hundred services (mail, Slack, Teams, webhooks).
  - An event that is in O(sent_events) is not sent again. Together with a record of RV(record_events), people hear of each event once, also when a
    deployment is repeated or resumed. After a crash between sending and recording they can hear of it twice.
  - A target that does not answer never fails the task, unless O(required). A deployment must not stop for a chat server.
  - Mentions of everybody (C(@everyone), C(<!channel>)) are made inert, control characters are removed, and long texts are cut.
  - No result, message or log holds the address of a target, or a part of it.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
attributes:
  check_mode:
    support: full
    details:
      - Nothing is sent. Addresses are parsed and the message is returned as RV(preview).
  diff_mode:
    support: N/A
    details:
      - A message leaves nothing behind that could be compared.
  idempotent:
    support: partial
    details:
      - An event is sent again unless its id from RV(record_events) is passed as O(sent_events).
  in_process:
    support: full
options:
  targets:
    description:
      - Addresses in the form of Apprise, for example V(mailto://mail.example.com?from=rollout@example.com&to=team@example.com),
        V(slack://TokenA/TokenB/TokenC/#releases) or V(jsons://example.com/hook). They are secrets, and never shown.
      - The limits of time and redirects of this module win over those in the address.
    type: list
    elements: str
    required: true
  event:
    description:
      - Identifier of the event, for example V(signal-service/v2/start). Up to 200 printable characters without C(#).
      - Services that take headers (mail, JSON, XML and form webhooks) get it as C(X-Rollout-Event), so that a receiver can recognise a repeated message.
    type: str
    required: true
  title:
    description:
      - Title or subject, one line of up to 200 characters.
    type: str
    required: true
  body:
    description:
      - Text of the message.
    type: str
    required: true
  body_format:
    description:
      - What the text is written in. Apprise converts it to what each service takes.
    type: str
    default: text
    choices:
      - text
      - markdown
      - html
  severity:
    description:
      - Kind of the message, which many services show as a colour or icon.
    type: str
    default: info
    choices:
      - info
      - success
      - warning
      - failure
  required:
    description:
      - Whether the task fails when a target did not take the message, or when there is none.
    type: bool
    default: false
  sent_events:
    description:
      - Identifiers that earlier calls returned as RV(record_events), of any event.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - How long a target may take, in seconds, 0.1 to 300. Up to 16 targets are told at the same time.
    type: float
    default: 10.0
  max_length:
    description:
      - After how many characters the text is cut, 100 to 100000.
    type: int
    default: 4000
requirements:
  - apprise >= 2.0 (Python library)
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Tell the team that the deployment starts
  signal.rollout.notify:
    targets: "{{ rollout_contacts }}"
    event: signal-service/v2/start
    title: Deployment of signal-service v2 starts
    body: |
      Canary steps: 10, 50 and 100 %.
      Follow it with: ansible-playbook playbooks/status.yml
    sent_events: "{{ already_told }}"
  register: told

- name: The rollback must be heard of
  signal.rollout.notify:
    targets: "{{ rollout_contacts }}"
    event: signal-service/v2/rolled-back
    title: signal-service is back on v1
    body: "Error rate 4.8 %, limit 0.1 %"
    severity: failure
    required: true
"""

RETURN = r"""
event:
  description: Identifier of the event.
  returned: always
  type: str
  sample: signal-service/v2/start
sent:
  description: Whether at least one target took the message in this call.
  returned: always
  type: bool
  sample: true
already_sent:
  description: Whether every target had had this event before, so that nothing was sent.
  returned: always
  type: bool
  sample: false
delivered:
  description: Positions in O(targets) that took the message, from 0.
  returned: always
  type: list
  elements: int
  sample: [0]
failures:
  description: Targets that did not take it. It is not called C(failed), which Ansible uses for the state of the task.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: Position in O(targets), from 0.
      returned: always
      type: int
      sample: 1
    service:
      description: Name of the service.
      returned: always
      type: str
      sample: Slack
    reason:
      description: Why, without any part of the address.
      returned: always
      type: str
      sample: connection refused
  sample:
    - index: 1
      service: Slack
      reason: connection refused
record_events:
  description:
    - Identifiers to add to O(sent_events) of later calls. It is the event itself when every target has had it, otherwise
      one identifier for each target that took it, so that only the others are told next time.
  returned: always
  type: list
  elements: str
  sample: [signal-service/v2/start]
preview:
  description: The message as it is sent, after cleaning and cutting.
  returned: always
  type: dict
  contains:
    title:
      description: Title.
      returned: always
      type: str
      sample: Deployment of signal-service v2 starts
    body:
      description: Text.
      returned: always
      type: str
      sample: "Canary steps: 10, 50 and 100 %."
  sample:
    title: Deployment of signal-service v2 starts
    body: "Canary steps: 10, 50 and 100 %."
targets:
  description: Targets that have not had the event yet, by position and name of the service.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: Position in O(targets), from 0.
      returned: always
      type: int
      sample: 0
    service:
      description: Name of the service.
      returned: always
      type: str
      sample: JSON
  sample:
    - index: 0
      service: JSON
"""

from ansible_collections.signal.rollout.plugins.module_utils import _notify
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_notify)


if __name__ == "__main__":
    main()
