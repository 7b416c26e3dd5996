# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Other processes of this machine: naming one for certain, waiting for its end, ending it. Private to this collection.

A process id alone comes back for another process. With the start time it names one process for as long as the machine runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "0"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Process:
    """One process: its id, and its start time in clock ticks since boot ('0' where that cannot be read)."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Whether it still runs. One that has ended and waits to be collected by its parent does not."""
        fields = _stat(self.pid)
        if fields is None:
            return self.started == UNKNOWN and _answers(self.pid)
        return fields[0] != "Z" and self.started in (UNKNOWN, fields[_START])


# Places in /proc/PID/stat, counted from the state, which is the first field after the command's name.
_START, _ARG_START, _ARG_END = 19, 45, 46


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and parentheses; the fields after its last one are fixed.
    return text.rpartition(")")[2].split()


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_time(pid: int) -> str:
    """Return the start time of ``pid`` in clock ticks since boot (Linux), or '0' where that cannot be read."""
    fields = _stat(pid)
    return fields[_START] if fields else UNKNOWN


def catches(pid: int, number: signal.Signals) -> bool | None:
    """Whether ``pid`` handles a signal by itself (Linux); None where that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return None


def argument_area(pid: int) -> tuple[int, int] | None:
    """Return the first and last address of the command line of ``pid`` (Linux), or None where that cannot be read."""
    fields = _stat(pid)
    if fields is None or len(fields) <= _ARG_END:
        return None
    first, last = int(fields[_ARG_START]), int(fields[_ARG_END])
    return (first, last) if 0 < first < last else None


class Watch:
    """Waits for the end of one process, which need not be a child.

    Linux tells by a pidfd, within a millisecond; elsewhere the process is looked at every tenth of a second.

    ansible-playbook gives up its handler of SIGINT with the first one, begins no task after it, and then waits for its workers. With
    ``grace``, one that has not ended so many seconds later counts as gone: a worker may hang for ever. ``hangs`` tells the two apart.
    """

    def __init__(self, process: Process, grace: float | None = None) -> None:
        self.process = process
        self.hangs = False
        self._grace = grace if grace is not None and catches(process.pid, signal.SIGINT) else None
        self._told: float | None = None
        self._pidfd = -1
        with contextlib.suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(process.pid)
        # Opened first and compared afterwards: from here on the descriptor cannot mean another process.
        if self._pidfd >= 0 and not process.alive():
            self.close()

    def wait(self, seconds: float, also: int) -> tuple[bool, bool]:
        """Wait at most ``seconds``; return (it is gone, the descriptor ``also`` is readable)."""
        deadline = time.monotonic() + max(0.0, seconds)
        poller = select.poll()
        poller.register(also, select.POLLIN)
        if self._pidfd >= 0:
            poller.register(self._pidfd, select.POLLIN)
        while True:
            left = max(0.0, deadline - time.monotonic())
            pause = left if self._pidfd >= 0 and self._grace is None else min(left, _POLL_SECONDS)
            ready = {descriptor for descriptor, mask in poller.poll(pause * 1000)}
            gone = self._pidfd in ready if self._pidfd >= 0 else not self.process.alive()
            if not gone and self._grace is not None and self._was_told_to_end():
                gone = self.hangs = time.monotonic() - (self._told or 0.0) >= self._grace
            if gone or also in ready or left <= 0:
                return gone, also in ready

    def _was_told_to_end(self) -> bool:
        if self._told is None and catches(self.process.pid, signal.SIGINT) is False:
            self._told = time.monotonic()
        return self._told is not None

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1


def tell(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is not there any more."""
    descriptor = -1
    with contextlib.suppress(AttributeError, OSError):
        descriptor = os.pidfd_open(process.pid)
    try:
        if not process.alive():
            return False
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


def wait_gone(process: Process, seconds: float) -> bool:
    """Wait until the process is gone; False when it is still there after ``seconds``."""
    deadline = time.monotonic() + seconds
    while process.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True
