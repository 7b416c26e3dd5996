# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks: events noted while a run goes on, in a file beside its report."""

from __future__ import annotations

import json
from pathlib import Path


def marks_path(report: Path) -> Path:
    """Return the file that marks are appended to while a run writes the report."""
    return report.with_name(report.name + ".marks")


def read_marks(report: Path) -> list[dict[str, object]]:
    """Return the marks of a report as ``{"time", "name"}``, oldest first."""
    try:
        lines = marks_path(report).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line]
