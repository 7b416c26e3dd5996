# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own control group, parent of all its pods, in every hierarchy (version 1, hybrid or 2)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .settings import CGROUP

ROOT = Path("/sys/fs/cgroup")


def version_2_only() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _parents() -> list[Path]:
    if version_2_only():
        return [ROOT]
    # "cpu" may be a link to "cpu,cpuacct": each real folder once.
    return sorted({path.resolve() for path in ROOT.iterdir() if path.is_dir() and (path / "cgroup.procs").exists()})


def folders() -> list[Path]:
    return [parent / CGROUP for parent in _parents() if (parent / CGROUP).is_dir()]


def create() -> None:
    for parent in _parents():
        folder = parent / CGROUP
        folder.mkdir(exist_ok=True)
        if version_2_only():
            controllers = (parent / "cgroup.controllers").read_text().split()
            for target in (parent, folder):
                for controller in controllers:
                    with contextlib.suppress(OSError):
                        (target / "cgroup.subtree_control").write_text(f"+{controller}")
        # A version 1 cpuset without processors and memory nodes accepts no process.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((parent / name).read_text())


def pids() -> set[int]:
    """Processes in the lab's control group, at any depth."""
    found: set[int] = set()
    for folder in folders():
        for path, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found.update(int(pid) for pid in (Path(path) / "cgroup.procs").read_text().split())
    return found


def remove() -> None:
    """Remove the empty groups, innermost first."""
    for folder in folders():
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
