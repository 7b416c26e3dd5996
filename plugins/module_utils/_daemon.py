# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that outlives the task that started it. Private to this collection.

It is forked, not started anew: everything it needs is loaded already, which saves a third of a second, and it still has the
credentials when their files are gone. In return it must let go of all it has inherited.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from ansible_collections.signal.rollout.plugins.module_utils import _processes
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

STOP = signal.SIGUSR1
_PR_SET_NAME = 15
# A lost terminal, Ctrl-C and a service manager's TERM reach whole groups of processes; this one is there to outlive them.
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)


class StartError(RolloutError):
    """The process did not get ready."""


class Daemon:
    """What the job gets: its log, the word that it is ready, and a descriptor that is readable once it must stop."""

    def __init__(self, report: int, stop: int) -> None:
        self._report = report
        self.stop = stop

    def log(self, text: str) -> None:
        """Write one line with its time to the log file."""
        when = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # Not print(): sys.stdout belongs to the task this was forked from.
        with contextlib.suppress(OSError):
            os.write(1, f"{when} {text}\n".encode(errors="backslashreplace"))

    def ready(self) -> None:
        """Let the task that waits for the start go on."""
        _say(self._report, {"ready": True})
        os.close(self._report)


def start(job: Callable[[Daemon], None], title: str, log: Path, timeout: float) -> int:
    """Run ``job`` in a process of its own session and return its id once it has called ``ready()``.

    Standard output and error go to ``log`` (mode 0600). Raises :class:`StartError` with the job's own words, or when ``timeout``
    seconds pass; then no process is left behind.
    """
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # Newer Pythons warn of threads at a fork; what the child uses afterwards takes no lock of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            middle = os.fork()
        if middle == 0:
            _become(job, title, log, reader, writer)
        os.close(writer)
        writer = -1
        os.waitpid(middle, 0)
        return _await_ready(reader, title, timeout)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _await_ready(reader: int, title: str, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    answer: dict[str, object] = {}
    text = b""
    while not ({"ready", "error"} & answer.keys()):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            _end(answer)
            raise StartError(f"{title} was not ready within {timeout:g} s and was ended. Next: see whether this machine is overloaded.")
        piece = os.read(reader, 65536)
        if not piece:
            raise StartError(f"{title} ended before it was ready, without a reason. Next: see its log file.")
        text += piece
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                answer.update(json.loads(line))
    if "error" in answer:
        raise StartError(str(answer["error"]))
    return int(str(answer["pid"]))


def _end(answer: dict[str, object]) -> None:
    if "pid" in answer:
        pid = int(str(answer["pid"]))
        _processes.tell(_processes.Process(pid, str(answer["started"])), signal.SIGKILL)


def _say(descriptor: int, answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, (json.dumps(answer) + "\n").encode())


def _become(job: Callable[[Daemon], None], title: str, log: Path, reader: int, writer: int) -> NoReturn:
    """Turn this fork into the process that runs ``job``. Never returns: everything up the stack belongs to somebody else."""
    code = 1
    try:
        os.setsid()
        # A second fork: no leader of a session, so never a controlling terminal; its parent is not the task, which need not wait.
        if os.fork():
            os._exit(0)
        os.close(reader)
        pid = os.getpid()
        _say(writer, {"pid": pid, "started": _processes.start_time(pid)})
        stop = _take_signals()
        os.umask(0o077)
        os.chdir("/")
        _let_go(log, keep={writer, *stop})
        _rename(title)
        # Objects of the task are neither collected nor copied: the pages stay shared with it.
        gc.freeze()
        daemon = Daemon(writer, stop[0])
        job(daemon)
        code = 0
    except RolloutError as error:
        _say(writer, {"error": error.message})
    except BaseException as error:
        _say(writer, {"error": f"{title}: {type(error).__name__}: {error}"})
        with contextlib.suppress(OSError):
            os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(code)


def _take_signals() -> tuple[int, int]:
    """Ignore what ends process groups; return the two ends of a pipe that becomes readable by :data:`STOP`."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(STOP, lambda number, frame: None)
    return reader, writer


def _let_go(log: Path, keep: set[int]) -> None:
    """Give up every inherited descriptor, so that nobody waits for this process to close a pipe.

    They are pointed to /dev/null and not closed: objects of the task still believe to own these numbers, and might close one later
    that had meanwhile become a connection of this process.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in _descriptors():
        if descriptor > 2 and descriptor not in keep | {nothing, output}:
            with contextlib.suppress(OSError):
                os.dup2(nothing, descriptor, inheritable=False)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return list(range(256))


def _rename(title: str) -> None:
    """Show ``title`` as the command, so that what ends ansible-playbook by its name does not end this process too (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    name = title.encode()
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name[:15], 0, 0, 0)
    area = _processes.argument_area(os.getpid())
    if area is not None:
        size = area[1] - area[0]
        ctypes.memmove(area[0], name[: size - 1].ljust(size, b"\0"), size)
