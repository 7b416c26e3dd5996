# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several calls at once, each in a thread of its own, so that a slow one does not delay the others. Private to this collection."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._gate_model import ERROR, Reading

# A call of a lane: gives the answer, and does not raise.
Call = Callable[[], Any]


class Lanes:
    """One lane, and one call at a time in it, for every key. Trouble is answered by a :class:`Reading` of state ERROR.

    The threads are daemons: a hanging name lookup or server must not keep the process alive once the gate has decided.
    """

    def __init__(self) -> None:
        # Not SimpleQueue: when a signal handler runs longer than its get() may wait, CPython 3.11 turns the
        # time left into a negative one and waits for ever. The handler that puts traffic back does run longer.
        self._answers: queue.Queue[tuple[Hashable, int, Any]] = queue.Queue()
        self._inputs: dict[Hashable, queue.SimpleQueue[tuple[int, Call] | None]] = {}
        # What is under way: the call's number, when it was begun, and how long it may take.
        self._asked: dict[Hashable, tuple[int, float, float]] = {}
        self._stuck: set[Hashable] = set()
        self._serial = 0

    def ask(self, key: Hashable, call: Call, timeout: float) -> bool:
        """Begin ``call`` in its lane; False while that lane still waits for its previous answer."""
        if key in self._asked or key in self._stuck:
            return False
        if key not in self._inputs:
            self._inputs[key] = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(key, self._inputs[key]), name=f"lane {str(key)[:20]}", daemon=True).start()
        self._serial += 1
        self._asked[key] = (self._serial, time.monotonic(), timeout)
        self._inputs[key].put((self._serial, call))
        return True

    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._asked)

    def answers(self, wait: float) -> list[tuple[Hashable, Any]]:
        """Return the answers that are there, waiting up to ``wait`` seconds for the first one."""
        found: list[tuple[Hashable, Any]] = []
        deadline = time.monotonic() + wait
        while not found:
            left = deadline - time.monotonic()
            try:
                self._take(self._answers.get(timeout=max(0.0, left)) if left > 0 else self._answers.get_nowait(), found)
            except queue.Empty:
                break
        while True:
            try:
                self._take(self._answers.get_nowait(), found)
            except queue.Empty:
                break
        found.extend(self._overdue())
        return found

    def close(self) -> None:
        for lane in self._inputs.values():
            lane.put(None)

    def _work(self, key: Hashable, tasks: queue.SimpleQueue[tuple[int, Call] | None]) -> None:
        while True:
            task = tasks.get()
            if task is None:
                return
            serial, call = task
            try:
                answer = call()
            except Exception as error:
                # A lane that dies silently would look like a slow server for ever.
                answer = Reading(ERROR, detail=f"internal error while asking: {type(error).__name__}")
            self._answers.put((key, serial, answer))

    def _take(self, answer: tuple[Hashable, int, Any], found: list[tuple[Hashable, Any]]) -> None:
        key, serial, content = answer
        self._stuck.discard(key)
        asked = self._asked.get(key)
        if asked is not None and asked[0] == serial:
            del self._asked[key]
            found.append((key, content))

    def _overdue(self) -> list[tuple[Hashable, Any]]:
        # The client ends its own calls in time, save for what no timeout covers, such as a name lookup.
        now = time.monotonic()
        late = [(key, timeout) for key, (_serial, asked, timeout) in self._asked.items() if now - asked > timeout + 1.0]
        for key, _timeout in late:
            del self._asked[key]
            self._stuck.add(key)
        return [(key, Reading(ERROR, detail=f"no answer within {timeout:g} s")) for key, timeout in late]
