# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a request asks for. Pure functions, standard library only."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_DEFAULT_HISTORY = timedelta(days=1)
_DEFAULT_TIMEFRAME = timedelta(hours=1)
_LONGEST_RANGE = timedelta(days=366)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class RequestError(Exception):
    """The request cannot be answered: HTTP status ``code`` and a message for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _moment(name: str, text: str, end_of_day: bool) -> datetime:
    """Read a date or a time from a query; a date as the end of a range includes that day."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestError(422, f"{name} is not a date or time, expected like 2024-01-01 or 2024-01-01T09:15:00Z") from error
    # Without an offset the time is UTC, whatever the machine's own zone is.
    value = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    if end_of_day and _DATE.fullmatch(text):
        value += timedelta(days=1)
    return value


def parse_range(start_text: str | None, end_text: str | None, now: datetime) -> tuple[datetime, datetime]:
    """Return [start, end) from the query's ``from`` and ``to``; the last day when both are missing."""
    end = now if end_text is None else _moment("to", end_text, end_of_day=True)
    start = end - _DEFAULT_HISTORY if start_text is None else _moment("from", start_text, end_of_day=False)
    if not start < end:
        raise RequestError(422, "from is not before to")
    if end - start > _LONGEST_RANGE:
        raise RequestError(422, f"the range is longer than {_LONGEST_RANGE.days} days")
    return start, end


def parse_timeframe(text: str | None, longest_minutes: int) -> timedelta:
    """Return the bucket width from the query's ``timeframe`` in minutes; an hour when it is missing."""
    if text is None:
        return _DEFAULT_TIMEFRAME
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= longest_minutes:
        raise RequestError(422, f"timeframe is not a whole number of minutes from 1 to {longest_minutes}")
    return timedelta(minutes=int(text))
