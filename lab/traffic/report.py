# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a report file into text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from .ledger import Latencies, total


class ReportError(Exception):
    """The report file cannot be read; the message says what to do."""


def read(path: Path) -> dict[str, object]:
    """Return the report; raises ReportError."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}; start a run with: python -m traffic run --report {path}") from error
    except ValueError as error:
        raise ReportError(f"{path} is not a traffic report: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise ReportError(f"{path} is not a traffic report of schema 1")
    return data


def slices(report: Mapping[str, object], marks: Sequence[Mapping[str, object]], width: int) -> list[tuple[str, list]]:
    """Return (label, seconds) per slice: between marks when there are any, else of ``width`` seconds.

    The second that a mark falls into belongs to the slice before it, since part of it was sent before the mark.
    """
    seconds: list = report["seconds"]
    if not seconds:
        return []
    first, last = seconds[0]["t"], seconds[-1]["t"]
    if marks:
        edges = [first - 1] + [math.floor(mark["time"]) for mark in marks] + [last]
        names = ["start"] + [str(mark["name"]) for mark in marks]
        parts = [(name, low, high) for name, low, high in zip(names, edges, edges[1:], strict=False)]
    else:
        parts = [(f"{low - first:>5}s", low - 1, min(low + width - 1, last)) for low in range(first, last + 1, width)]
    chosen = [(name, [books for books in seconds if low < books["t"] <= high]) for name, low, high in parts]
    return [(name, part) for name, part in chosen if part]


def share_band(count: int, whole: int) -> str:
    """Return a share in percent with three standard deviations of a binomial share, like ``10.2 ± 2.9 %``."""
    if not whole:
        return "-"
    share = count / whole
    return f"{100 * share:.1f} ± {300 * math.sqrt(share * (1 - share) / whole):.1f} %"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _latency(values: Mapping[str, float | None]) -> str:
    names = ("min", "p50", "p90", "p99", "max")
    return " / ".join(_milliseconds(values[name]) for name in names) + f" ms ({', '.join(names)})"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _clock(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%H:%M:%S")


def text(report: Mapping[str, object], marks: Sequence[Mapping[str, object]], width: int | None) -> str:
    """Return the whole report as text; ``width`` in seconds, None for about 30 slices or the marks."""
    totals = report["totals"]
    websocket = totals["websocket"]
    seconds = report["seconds"]
    length = report["updated"] - report["started"]
    state = f"finished ({report['ended']})" if report["finished"] else f"running, process {report['pid']}"
    host = f" as {report['host']}" if report["host"] else ""
    lines = [
        f"Traffic to {report['url']}{host}: {report['rate']:g} requests/s, {report['websockets']} WebSockets",
        f"{_clock(report['started'])} to {_clock(report['updated'])} UTC, {length:.0f} s, {state}",
        "",
        f"requests    {totals['sent']} sent, {totals['ok']} ok, {totals['failed']} failed, {totals['in_flight']} in flight",
        f"failures    {_counts(totals['causes'])}",
        f"versions    {_counts(totals['versions'])}   failed: {_counts(totals['failed_versions'])}",
        f"latency     {_latency(totals['latency_ms'])}",
        f"schedule    {totals['lag_ms']:.1f} ms latest start behind time",
        f"WebSockets  opened {_counts(websocket['opened'])}   now open {_counts(websocket['open'])}",
        f"            closed by code {_counts(websocket['closed'])}   not opened {_counts(websocket['open_failures'])}"
        f"   pings unanswered: {websocket['stalls']}",
        f"            round trip {_latency(websocket['rtt_ms'])}",
        "",
    ]
    if width is not None:
        marks = ()
    parts = slices(report, marks, width or max(1, math.ceil(len(seconds) / 30)))
    versions = sorted(name for name in totals["versions"] if name != "none")
    head = ("slice", "from", "s", "sent", "failed", *(f"{name} share (3 sigma)" for name in versions), "p50", "p99", "ws closed")
    rows: list[Sequence[str]] = [head]
    for name, part in parts:
        books = total(part)
        answered = sum(books.versions[version] for version in versions)
        latency: Latencies = books.latency
        rows.append(
            (
                name,
                _clock(part[0]["t"]),
                str(part[-1]["t"] - part[0]["t"] + 1),
                str(books.sent),
                str(books.failed),
                *(share_band(books.versions[version], answered) for version in versions),
                _milliseconds(latency.percentile(0.5)),
                _milliseconds(latency.percentile(0.99)),
                _counts(books.ws_closed) if books.ws_closed else "0",
            )
        )
    return "\n".join(lines + _table(rows)) + "\n"
