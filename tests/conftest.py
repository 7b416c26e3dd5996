# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all suites."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Programs that tests start must find the collection too, as pytest does by its own setting.
os.environ["PYTHONPATH"] = str(ROOT / "playbooks/collections")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def ansible() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the environment that runs pytest: ``ansible("ansible-doc", "-l", cwd=..., env={...}, timeout=60)``.

    The caller's own ANSIBLE_ variables are kept out; standard output and error are captured as text.
    """

    def run(program: str, *arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTEST_")) and key != "PYTHONPATH"}
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        return subprocess.run(command, cwd=cwd, env=kept | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)

    return run
