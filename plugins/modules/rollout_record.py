#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_record
short_description: Take the lock of a release and keep its record in the cluster
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - The lock is a Lease, taken by compare-and-swap. A second deployer is refused and told who holds it.
  - The record is a ConfigMap beside the service. It holds the plan's hash, steps with times and evidence, weights, messages and the
    outcome, so that any phase can run alone, from another machine, and finds its state.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
    details:
      - In check mode every state only reads. A plan takes no lock.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - C(begin) for a release that is complete, C(show), and a C(step) already recorded change nothing. Times are recorded anew
        when a step is started again.
  in_process:
    support: full
options:
  state:
    description:
      - V(begin) takes the lock and opens the record, or resumes the one of the same plan.
      - V(resume) does so only when there is an unfinished release of this very plan, and takes the lock from a run that is dead.
      - V(step) writes what happened in a step, V(message) that a message was sent, V(event) what else happened.
      - V(finish) writes the outcome and gives the lock back, V(release) only gives it back.
      - V(takeover) takes the lock from a run that is dead, V(show) only reads.
    type: str
    required: true
    choices: [begin, resume, step, message, event, finish, release, takeover, show]
  service:
    description: Name of the service. Lease and ConfigMap are both named C(signal-rollout-SERVICE).
    type: str
    required: true
  plan:
    description: Everything that makes this release what it is. Its hash tells whether a later run is the same release.
    type: dict
  version:
    description: Version that is released.
    type: str
  step:
    description: Name of the step.
    type: str
  status:
    description: What became of the step.
    type: str
    choices: [started, done, failed, skipped]
  notes:
    description: One line for people, shown in the deployment log.
    type: str
  evidence:
    description: What proves the step. At most 20,000 bytes as JSON are kept.
    type: dict
  weight:
    description: Weight of the canary that this step confirmed, in percent.
    type: int
  events:
    description: Ids of messages that were sent, as RV(signal.rollout.notify#module:record_events) gives them.
    type: list
    elements: str
  event:
    description: What happened besides the steps, for O(state=event). The newest 50 are kept.
    type: dict
    suboptions:
      kind:
        description: What kind of event it is.
        type: str
        required: true
        choices: [interrupted, guard, drift, outage, resumed]
      words:
        description: One line for people.
        type: str
        required: true
      by:
        description: Who saw or did it.
        type: str
        default: playbook
      before:
        description: Weight of the canary before, in percent.
        type: int
      after:
        description: Weight of the canary afterwards, in percent.
        type: int
  traffic:
    description:
      - How the live traffic is split, as RV(signal.rollout.canary_weight#module:before) gives it. RV(unfinished) then speaks of it.
    type: dict
  outcome:
    description: How the release ended.
    type: str
    choices: [complete, rolled_back, held, failed, cleaned_up]
  holder:
    description:
      - Name under which the lock is held. Without it, the task fills in the run of ansible-playbook or the AWX job.
    type: str
  takeover:
    description:
      - Holder whose lock may be taken, as a proof that somebody looked. It must show no life for a whole lease duration, unless an
        event in the record tells that its end was seen.
      - With O(state=resume) it may be omitted; whoever holds the lock is then held to the same rule.
    type: str
  lease_duration:
    description: Seconds without a sign of life after which a holder may be taken for dead.
    type: int
    default: 60
  break_glass:
    description: Command line that puts all traffic back without this collection, kept in the record.
    type: str
"""

EXAMPLES = r"""
- name: Take the lock and open the record
  signal.rollout.rollout_record:
    namespace: signal
    service: signal-service
    state: begin
    version: v2
    plan:
      image: registry.example.com/signal-service@sha256:4a1c
      steps: [10, 50, 100]

- name: Record that green is ready
  signal.rollout.rollout_record:
    namespace: signal
    service: signal-service
    state: step
    step: blue_green
    status: done
    notes: 2 of 2 pods are available

- name: Show the deployment log
  signal.rollout.rollout_record:
    namespace: signal
    service: signal-service
    state: show
  register: shown
"""

RETURN = r"""
record:
  description: The record, empty when there is none.
  returned: always
  type: dict
  sample: {"id": "0c9f", "version": "v2", "outcome": null, "steps": {"blue_green": {"status": "done"}}}
plan_hash:
  description: SHA-256 of the recorded plan in canonical JSON.
  returned: always
  type: str
  sample: 7d0a8d4bd1f1b3a36f0d9f2f5f6c6d0e4d2d0d6f5c1a7f3f6a8a2f0c4f6b1e11
holder:
  description: Who holds the lock, empty when nobody does.
  returned: always
  type: str
  sample: jane@bastion/4711-991234
token:
  description: How many holders the lock has had. It grows with every change of hands.
  returned: always
  type: int
  sample: 3
already:
  description: For V(begin), whether this very plan is complete already. For V(message), whether it had been sent.
  returned: always
  type: bool
  sample: false
log:
  description: Rows of the deployment log.
  returned: always
  type: list
  elements: dict
  sample: [{"time": "2026-11-24 12:00:01", "action": "Start deployment", "status": "done", "notes": "v2"}]
log_text:
  description: The deployment log as the table of the checklist.
  returned: always
  type: str
  sample: "| Time | Action | Status | Notes |"
document_log_text:
  description: The same with exactly the rows of the document, no wider than 120 characters.
  returned: always
  type: str
  sample: "| Time | Action | Status | Notes |"
log_lines_text:
  description: Everything that has happened, in the order of time, as lines of at most 120 characters.
  returned: always
  type: str
  sample: "2026-11-24 12:00:01  Start deployment: done"
events:
  description:
    - What happened besides the steps, oldest first. C(before) and C(after) are the canary's weight in percent.
  returned: always
  type: list
  elements: dict
  sample:
    - time: "2026-11-24T12:05:12.104214Z"
      kind: interrupted
      signal: SIGTERM
      by: metric_gate
      holder: jane@bastion/4711-991234
      before: 10
      after: 0
      words: all traffic is back on v1
unfinished:
  description: For people, what is known of a release that neither completed nor was taken back, and what to do. Empty without one.
  returned: always
  type: str
  sample: "UNFINISHED RELEASE of signal-service: v1 -> v2, begun 2026-11-24 12:00:01 UTC by jane@bastion/4711-991234"
next_command:
  description: The command that makes sense next.
  returned: always
  type: str
  sample: ansible-playbook playbooks/cleanup.yml
"""

from ansible_collections.signal.rollout.plugins.module_utils import _record
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_record)


if __name__ == "__main__":
    main()
