#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: traffic_guard
short_description: Put traffic back when ansible-playbook dies in the middle of a canary
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - M(signal.rollout.metric_gate) puts traffic back itself when it is interrupted. Between two tasks nobody would. This module starts a
    small process that waits for the end of ansible-playbook, by whatever signal, and then puts traffic back.
  - It only acts when the lock is still held by this run, the record says that a canary is in progress, and the live weight is one that
    this release has set. It writes what it did into the record.
  - It ends by itself with ansible-playbook, when the lock has gone to somebody else, and after O(lifetime).
  - It is a process of the machine that the task runs on, in a session of its own. It survives INT, TERM, HUP and KILL of
    ansible-playbook and of its process group and the end of the terminal. It does not survive the end of the machine, or of the
    container, that it runs in.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup_kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
  in_process:
    support: full
    details:
      - In a process of its own the module can watch ansible-playbook as well, as long as both are on the same machine. On another
        machine, over SSH, it is refused, since there is nothing to watch there.
options:
  state:
    description:
      - V(started) starts the guard unless it runs already, and returns once it has proven that it can read lock and record.
      - V(stopped) ends it.
    type: str
    required: true
    choices: [started, stopped]
  service:
    description: Name of the service, as in M(signal.rollout.rollout_record).
    type: str
    required: true
  abort_route:
    description:
      - The route on which all traffic is put back, with the options of O(signal.rollout.metric_gate#module:abort_route), without those of
        the connection.
      - Required for O(state=started).
    type: dict
  on_interrupt:
    description:
      - With V(hold) no guard is started, since an interruption shall leave the weight as it is. The record says so.
    type: str
    choices: [back, hold]
    default: back
  holder:
    description: Name under which this run holds the lock. Without it, the task fills in the run of ansible-playbook or the AWX job.
    type: str
  watch:
    description: The process whose end is waited for. Without it, the task fills in its ansible-playbook.
    type: dict
    suboptions:
      pid:
        description: Its id.
        type: int
        required: true
      started:
        description: Its start time in clock ticks since boot, so that another process with the same id is not mistaken for it.
        type: str
        required: true
  state_dir:
    description:
      - Folder for the state and the log of guards. Each gets a folder of its own in it, which only this user can read.
      - Without it C($XDG_STATE_HOME/signal.rollout/guard), or C(~/.local/state/signal.rollout/guard).
    type: path
  start_timeout:
    description: Seconds within which the guard must have proven that it is ready.
    type: float
    default: 10.0
  abort_timeout:
    description: Seconds for which the guard tries to put traffic back, when the API server does not answer for example.
    type: float
    default: 600.0
  lifetime:
    description: Seconds after which the guard ends in any case.
    type: float
    default: 86400.0
"""

EXAMPLES = r"""
- name: Put traffic back should ansible-playbook die
  signal.rollout.traffic_guard:
    namespace: signal
    service: signal-service
    state: started
    abort_route:
      name: signal-service
      route: primary
      stable: v1
      canary: v2

- name: The canary has ended
  signal.rollout.traffic_guard:
    namespace: signal
    service: signal-service
    state: stopped
"""

RETURN = r"""
running:
  description: Whether a guard runs after the task.
  returned: success
  type: bool
  sample: true
pid:
  description: Its process id, or that of the one that would be stopped.
  returned: success
  type: int
  sample: 4723
log:
  description: Its log file.
  returned: success
  type: str
  sample: /home/jane/.local/state/signal.rollout/guard/signal-signal-service-4a1c0f9e2b7d/guard.log
words:
  description: What the guard does, or why there is none.
  returned: success
  type: str
  sample: watches ansible-playbook (process 4711)
"""

from ansible_collections.signal.rollout.plugins.module_utils import _guard
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_guard)


if __name__ == "__main__":
    main()
