# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is running: the name under which this run holds a release. Private to this collection."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import Any


def run_identity(task_vars: dict[str, Any]) -> str:
    """Return one name per run of ansible-playbook, the same for all its tasks.

    In AWX that is the job. Elsewhere it is user, host, and the process with its start time: process ids alone come back.
    """
    for name in ("awx_job_id", "tower_job_id"):
        if task_vars.get(name):
            return f"awx-job-{task_vars[name]}"
    # A task runs in a worker that ansible-playbook forked: the parent is the run.
    run = os.getppid()
    return f"{_user()}@{socket.gethostname()}/{run}-{_started(run)}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _started(pid: int) -> str:
    """Return the start time of ``pid`` in clock ticks since boot (Linux), or '0' where that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "0"
    # The command name may hold spaces and parentheses; the fields after its last one are fixed.
    return stat.rpartition(")")[2].split()[19]
