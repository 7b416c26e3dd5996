# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls in lanes: at the same time, each with its own deadline, none lost."""

from __future__ import annotations

import threading
import time
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._lanes import Lanes


def collect(lanes: Lanes, seconds: float) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    deadline = time.monotonic() + seconds
    while lanes.waiting() and time.monotonic() < deadline:
        found.update(lanes.answers(0.05))
    return found


def test_calls_run_at_the_same_time_and_a_slow_one_delays_nobody() -> None:
    lanes, release = Lanes(), threading.Event()
    assert lanes.ask("slow", lambda: release.wait(10), 5.0)
    for name in ("a", "b", "c", "d"):
        assert lanes.ask(name, lambda name=name: name, 5.0)
    fast: dict[Any, Any] = {}
    while len(fast) < 4:
        fast.update(lanes.answers(0.05))
    assert fast == {name: name for name in ("a", "b", "c", "d")}
    assert not lanes.ask("slow", lambda: None, 5.0), "a lane asks nothing new while it waits"
    release.set()
    assert collect(lanes, 3) == {"slow": True}
    lanes.close()


def test_a_call_that_never_returns_is_an_error_and_its_late_answer_is_ignored() -> None:
    # What a hanging name lookup looks like.
    lanes, release = Lanes(), threading.Event()
    lanes.ask("q", lambda: release.wait(20), 0.2)
    found = collect(lanes, 5)
    assert (found["q"].state, found["q"].detail) == ("error", "no answer within 0.2 s")
    assert not lanes.ask("q", lambda: "again", 0.2)
    release.set()
    deadline = time.monotonic() + 5
    late: list[Any] = []
    while not lanes.ask("q", lambda: "again", 0.2) and time.monotonic() < deadline:
        late += lanes.answers(0.05)
    assert late == []
    assert collect(lanes, 5) == {"q": "again"}
    lanes.close()


def test_a_bug_in_a_lane_is_an_error_and_not_silence() -> None:
    def crash() -> None:
        raise KeyError("a bug")

    lanes = Lanes()
    lanes.ask("q", crash, 1.0)
    assert "KeyError" in collect(lanes, 3)["q"].detail
    lanes.close()
