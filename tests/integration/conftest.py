# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several workers on one lab: files run beside each other, and a test marked ``alone`` runs beside no other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Hold the lab in turns, fixtures included. Who waits to be alone holds the turnstile, so that nobody else comes in before."""
    alone = item.get_closest_marker("alone") is not None
    with (LAB / "tests.turnstile").open("a") as turnstile, (LAB / "tests.turn").open("a") as turn:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        return (yield)
