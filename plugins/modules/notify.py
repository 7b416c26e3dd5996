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
  - With O(service) and O(version), each event is claimed beside the record of the release before it is sent, so that people hear of it once, also
    when a deployment is resumed and when two runs are at it at the same time. This needs no release lock, so that it works before a release begins.
  - People are told at most once. What a run that died has claimed, but not begun to send, the next one sends. What it had begun to send is
    RV(uncertain), and is sent again only with O(send_again). The same goes for a service that took the message but did not answer in time.
  - Without O(service), an event that is in O(sent_events) is not sent again; that does not hold against two runs at the same time.
  - A target that does not answer never fails the task, unless O(required). A deployment must not stop for a chat server.
  - Mentions of everybody (C(@everyone), C(<!channel>)) are made inert, control characters are removed, and long texts are cut.
  - No result, message or log holds the address of a target, or a part of it.
  - What looks like a secret in the text is masked, as are the O(secrets) that are given.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
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
      - With O(service), or when its id from RV(record_events) is passed as O(sent_events), an event is not sent again.
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
  required_targets:
    description:
      - Further addresses, each of which must take the message; otherwise the task fails. They are told beside the others.
    type: list
    elements: str
    default: []
  secrets:
    description:
      - Texts that must not be in a message. Those of at least 8 characters are masked, as are the addresses, and what looks like a password or token.
    type: list
    elements: str
    default: []
  service:
    description:
      - Name of the service. The messages that were sent are in the ConfigMap of its record, C(signal-rollout-SERVICE).
    type: str
  version:
    description:
      - Version that is released.
    type: str
  plan:
    description:
      - The plan of the release, as in O(signal.rollout.rollout_record#module:plan). Messages of another plan do not count.
      - Without it, the plan of the record is taken, where the record is of this version.
    type: dict
  occasion:
    description:
      - What the message is sent for, such as the start time of a release. Another occasion, and the event is sent again.
      - Without it, the deployment of the record.
    type: str
  moment:
    description:
      - When the message is due, reckoned from the start of the release.
    type: dict
    suboptions:
      start:
        description:
          - When the release starts, in ISO 8601 with its zone, such as V(2026-11-30T22:00:00+01:00).
        type: str
        required: true
      opens:
        description:
          - From when on the message may be sent, in seconds before the start.
        type: float
        required: true
      closes:
        description:
          - Until when it may be sent, in seconds before the start.
        type: float
        required: true
      outside:
        description:
          - Whether the task fails when the message was not sent in its time and is not due now (V(refuse)), or does nothing (V(skip)).
        type: str
        choices: [refuse, skip]
        default: refuse
  holder:
    description:
      - Name under which the message is claimed. Without it, the task fills in the run of ansible-playbook or the AWX job.
    type: str
  without_claim:
    description:
      - What to do when the API server cannot be reached. V(send) is for what must be heard of even twice.
    type: str
    choices: [refuse, send]
    default: refuse
  send_again:
    description:
      - Whether targets of which it is uncertain if they were told are told now. For people who have asked there.
    type: bool
    default: false
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

- name: Remind people, once, whoever runs this
  signal.rollout.notify:
    namespace: signal
    service: signal-service
    version: v2
    plan: "{{ release_plan }}"
    occasion: "{{ rollout_start_time }}"
    moment: {start: "{{ rollout_start_time }}", opens: 7200, closes: 1800}
    targets: "{{ rollout_contacts }}"
    event: t_2h
    title: signal-service v2 is deployed in two hours
    body: "Maintenance window: 22:00 to 00:30"

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
uncertain:
  description: Targets of which it is not known whether they were told, by this call or an earlier one. They are not told again.
  returned: always
  type: list
  elements: dict
  sample:
    - {index: 0, service: Slack, reason: timed out}
due:
  description: Whether the message was due, by O(moment).
  returned: always
  type: bool
  sample: true
reason:
  description: Why it was not due.
  returned: when it was not due
  type: str
  sample: "it is 2026-11-30 08:00 UTC, too early: due from 2026-11-30 20:00 UTC to 2026-11-30 21:30 UTC, before the start at 2026-11-30 22:00 UTC"
taken_over_from:
  description: The run that had claimed the message and did not end it, empty without one.
  returned: always
  type: str
  sample: jane@bastion/4711-991234
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
