# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the lab's own tests; they need root and, except for the unit tests, a lab that is up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "lab"
sys.path.insert(0, str(LAB))

Labctl = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab_lifecycle: takes the shared lab down and brings it up again")


@pytest.fixture(scope="session")
def labctl() -> Labctl:
    """Run ``labctl`` with the system's Python; ``expect`` is the exit code (None: any)."""

    def run(*arguments: str, expect: int | None = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["/usr/bin/python3", str(LAB / "labctl"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"labctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def lab(labctl: Labctl) -> Iterator[None]:
    """A lab that is up; left up, at its baseline."""
    labctl("up", timeout=2400)
    # The suite before may have left a release behind.
    labctl("reset")
    yield
    labctl("up")
    labctl("reset")


@pytest.fixture
def baseline(lab: None, labctl: Labctl) -> None:
    """The lab at its baseline."""
    labctl("reset")
