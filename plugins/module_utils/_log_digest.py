# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Errors in the lines of a log, grouped by their type. Pure, private to this collection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._pod_status import masked

ERRORS = ("ERROR", "CRITICAL", "FATAL", "EMERGENCY", "ALERT", "PANIC")
_LEVEL = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b")
_LEVEL_KEYS = ("level", "severity", "levelname", "lvl")
_TYPE_KEYS = ("error_type", "exception_type", "error.type", "exc_type")
_WORDS_KEYS = ("message", "msg", "event", "error")
# What differs between two errors of the same kind: numbers, ids, addresses, quoted names.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\d+(?:\.\d+)*|'[^']*'|\"[^\"]*\"")
_TYPE_WORDS = 80


def unix_time(text: Any) -> float | None:
    """Return an RFC 3339 time as unix seconds. Kubernetes writes nanoseconds, which datetime does not read."""
    found = re.fullmatch(r"(\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2})(\.\d{1,6})?\d*(Z|[+-]\d{2}:?\d{2})?", str(text).strip())
    if found is None:
        return None
    zone = {"Z": "+00:00", None: "+00:00"}.get(found[3], found[3])
    try:
        return datetime.fromisoformat(f"{found[1]}{found[2] or ''}{zone}").timestamp()
    except ValueError:
        return None


def error_of(line: str) -> tuple[str, str] | None:
    """Return the type of the error that ``line`` tells of, and its words; None for any other line."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        found = _LEVEL.search(line)
        return None if found is None else (_kind_of(line[found.end() :]), line)
    level = str(next((entry[key] for key in _LEVEL_KEYS if key in entry), "")).upper()
    if level not in ERRORS:
        return None
    words = str(next((entry[key] for key in _WORDS_KEYS if entry.get(key)), ""))
    kind = next((str(entry[key]) for key in _TYPE_KEYS if entry.get(key)), "")
    return (one_line(kind, _TYPE_WORDS) if kind else _kind_of(words)), words


def _kind_of(words: str) -> str:
    return one_line(masked(_VARYING.sub("#", words)).strip(" :-[]"), _TYPE_WORDS) or "unknown"


def digest(lines: Iterable[tuple[float | None, str]]) -> list[dict[str, Any]]:
    """Return the errors among ``lines`` of (unix time, text) by type, the most frequent first."""
    found: dict[str, dict[str, Any]] = {}
    for time, line in lines:
        error = error_of(line)
        if error is None:
            continue
        kind, words = error
        entry = found.setdefault(kind, {"error_type": kind, "count": 0, "first": time, "last": time, "example": masked(one_line(words, 160))})
        entry["count"] += 1
        if time is not None:
            entry["first"] = time if entry["first"] is None else min(entry["first"], time)
            entry["last"] = time if entry["last"] is None else max(entry["last"], time)
    return ordered(found.values())


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a query for errors has answered (error_type, count, and perhaps first and last) in the same form."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = one_line(masked(str(row.get("error_type") or "unknown")), _TYPE_WORDS)
        entry = found.setdefault(kind, {"error_type": kind, "count": 0, "first": None, "last": None, "example": ""})
        entry["count"] += int(row.get("count") or 0)
        for name, pick in (("first", min), ("last", max)):
            time = unix_time(row.get(name))
            if time is not None:
                entry[name] = time if entry[name] is None else pick(entry[name], time)
    return ordered(found.values())


def ordered(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: (-entry["count"], entry["error_type"]))
