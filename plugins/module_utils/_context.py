# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an engine function may know about its surroundings. Private to this collection.

Signals, the death of the parent process and live lines are handled here, so that no engine function
has to know through which door it was called.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# One that nobody else sends. By getppid() a death cannot be told from a TERM: it still names a parent whose threads are ending.
_PARENT_DEATH = signal.SIGUSR2
# What is told instead of a signal's name when only the end of the parent was seen: it was KILL, or HUP, which it does not pass on.
DEATH = "the death of ansible-playbook"
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, _PARENT_DEATH)


class InterruptHandle:
    """Returned by :meth:`Context.on_interrupt`; ``remove()`` takes the callback back."""

    def __init__(self, context: Context, callback: Callable[[], None]) -> None:
        self._context = context
        self.callback = callback

    def remove(self) -> None:
        self._context._callbacks = [item for item in self._context._callbacks if item is not self]


class Context:
    """Check mode, live progress and interruption, as one object.

    ``check_mode`` and ``diff`` are the task's. ``progress(text)`` shows one live line (nothing through the
    module door, whose output is read only at its end). ``cancelled`` is set by INT, TERM, HUP or the death
    of the parent process: loops look at it, or sleep with :meth:`sleep`.
    """

    def __init__(
        self,
        check_mode: bool = False,
        diff: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.check_mode = check_mode
        self.diff = diff
        self.progress: Callable[[str], None] = progress or (lambda text: None)
        self.cancelled = threading.Event()
        # Which signal it was, or DEATH.
        self.signal_name: str | None = None
        # Who forked this worker, noted by itself before the fork: getppid() alone would take for the parent whoever has adopted an orphan.
        forked_by = multiprocessing.parent_process()
        self._parent = os.getppid() if forked_by is None else forked_by.pid
        self._callbacks: list[InterruptHandle] = []
        self._previous: dict[int, object] = {}

    def sleep(self, seconds: float) -> bool:
        """Sleep at most ``seconds``; return True as soon as the run is cancelled."""
        # Event.wait() in the main thread is woken by a signal handler only on platforms where the lock
        # wait is interruptible; short slices make the reaction time certain everywhere.
        deadline = time.monotonic() + max(0.0, seconds)
        while not self.cancelled.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.cancelled.wait(min(left, 0.25))
        return True

    def on_interrupt(self, callback: Callable[[], None]) -> InterruptHandle:
        """Have ``callback`` run once, inside the signal handler, when the run is interrupted.

        The callback must open its own connections (the interrupted code may be in the middle of using
        one) and must not print.
        """
        handle = InterruptHandle(self, callback)
        self._callbacks.append(handle)
        return handle

    def interrupt(self, signal_name: str) -> None:
        """Mark the run as cancelled and run the callbacks, the newest first. A second call does nothing."""
        if self.cancelled.is_set():
            return
        self.signal_name = signal_name
        self.cancelled.set()
        for handle in reversed(self._callbacks):
            try:
                handle.callback()
            except Exception:
                # One failing clean-up must not keep the next one from running; the callback records its own outcome.
                continue

    def __enter__(self) -> Context:
        """Install the handlers. Only the main thread of a process may do so; elsewhere nothing is installed."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _HANDLED:
            self._previous[number] = signal.signal(number, self._handle)
        self._watch_parent()
        return self

    def __exit__(self, *unused: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]
        if self._previous:
            set_parent_death_signal(0)
        self._previous = {}

    def _handle(self, number: int, frame: object) -> None:
        # ansible-playbook forwards INT and then TERM twice: repeats must not abort a running clean-up.
        self.interrupt(DEATH if number == _PARENT_DEATH else signal.Signals(number).name)

    def _watch_parent(self) -> None:
        if not set_parent_death_signal(_PARENT_DEATH):
            return
        # The parent may have died before prctl(): then no signal will ever come.
        if os.getppid() != self._parent:
            self.interrupt(DEATH)


def set_parent_death_signal(number: int) -> bool:
    """Ask the Linux kernel for ``number`` when the parent dies; False where that does not exist."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False
