# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Figures of several runs as one cell of a table. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value at or below which ``share`` (0 to 1) of all values lie (nearest rank)."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """``median / p95 / max`` of the values that there are, and how many have none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return " / ".join(f"{value:.{digits}f}" for value in (statistics.median(known), percentile(known, 0.95), max(known)))


def middle(values: Sequence[float], digits: int = 0) -> str:
    """``median (min-max)``."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts added up by their name."""
    added: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            added[name] = added.get(name, 0) + count
    return dict(sorted(added.items()))


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def failures(books: Sequence[dict[str, Any]]) -> str:
    """Failed requests with their causes, and which version gave the answers ("none" when there was no answer)."""
    causes, versions = (total(one[name] for one in books) for name in ("causes", "failed_versions"))
    text = f"{sum(one['failed'] for one in books)} of {sum(one['sent'] for one in books):,}"
    return f"{text} ({listed(causes)}; from {listed(versions)})" if causes else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
