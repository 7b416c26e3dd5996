# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lengths of time as people and PostgreSQL write them. Private to this collection. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

_MICROSECONDS = {
    "us": 1,
    "microsecond": 1,
    "ms": 1_000,
    "millisecond": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "second": 1_000_000,
    "min": 60_000_000,
    "minute": 60_000_000,
    "h": 3_600_000_000,
    "hour": 3_600_000_000,
    "d": 86_400_000_000,
    "day": 86_400_000_000,
    "w": 604_800_000_000,
    "week": 604_800_000_000,
    # TimescaleDB counts 30 days for a month when it stores a chunk interval.
    "mon": 2_592_000_000_000,
    "month": 2_592_000_000_000,
    "year": 31_104_000_000_000,
}
_INTERVAL_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_CLOCK = re.compile(r"\s*(\d+):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*$")


def parse_interval(text: str) -> int:
    """Return an interval such as ``1 day``, ``12 hours``, ``1 day 06:00`` or ``7d`` in microseconds.

    Raises ValueError for anything else, for zero and for negative values. A month counts 30 days, a year 360, as in
    TimescaleDB's own conversion of chunk intervals.
    """
    rest = text
    total = 0
    parts = 0
    while rest.strip():
        clock = _CLOCK.match(rest)
        if clock:
            hours, minutes, seconds = clock.groups()
            total += int(hours) * 3_600_000_000 + int(minutes) * 60_000_000 + round(float(seconds or 0) * 1_000_000)
            parts += 1
            break
        part = _INTERVAL_PART.match(rest)
        if not part:
            raise ValueError(_interval_rule(text))
        number, unit = part.groups()
        unit = unit.lower()
        size = _MICROSECONDS.get(unit) or _MICROSECONDS.get(unit.removesuffix("s"))
        if size is None:
            raise ValueError(_interval_rule(text))
        total += round(float(number) * size)
        parts += 1
        rest = rest[part.end() :]
    if not parts or total <= 0:
        raise ValueError(_interval_rule(text))
    return total


def format_interval(microseconds: int) -> str:
    """Return the shortest exact wording of an interval, for example ``7 days`` or ``12 hours``."""
    for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond"):
        number, left = divmod(microseconds, _MICROSECONDS[unit])
        if number and not left:
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{microseconds} microseconds"


def _interval_rule(text: str) -> str:
    return f"'{one_line(text, 60)}' is no interval; expected a number with a unit, such as '1 day', '12 hours' or '7d'"


def interval_text(interval: Mapping[str, int] | None) -> str:
    if interval is None:
        return "none"
    if "integer" in interval:
        return str(interval["integer"])
    return format_interval(interval["microseconds"])
