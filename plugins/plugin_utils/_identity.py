# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is running: the name under which this run holds a release. Private to this collection."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._processes import Process, start_time


def run_identity(task_vars: dict[str, Any]) -> str:
    """Return one name per run of ansible-playbook, the same for all its tasks.

    In AWX that is the job. Elsewhere it is user, host, and the process with its start time: process ids alone come back.
    """
    for name in ("awx_job_id", "tower_job_id"):
        if task_vars.get(name):
            return f"awx-job-{task_vars[name]}"
    # A task runs in a worker that ansible-playbook forked: the parent is the run.
    run = os.getppid()
    return f"{_user()}@{socket.gethostname()}/{run}-{start_time(run)}"


def run_process() -> Process:
    """Return the ansible-playbook whose task this is. Called in the worker that it has forked for the task."""
    run = os.getppid()
    return Process(run, start_time(run))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
