# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One metric over a release as a small SVG drawing. Pure, private to this collection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 24
# Two neighbours further apart than so many steps are not joined: nothing was seen between them.
_GAP_STEPS = 3.5
_SHORT_UNIT = 3
# Room that the words of a mark take.
_WORDS = 34


@dataclass(frozen=True)
class Mark:
    """A moment (seconds since the epoch) that is worth a line across, with the words beside it."""

    time: float
    words: str


@dataclass(frozen=True)
class Chart:
    """What is drawn: ``points`` are (seconds since the epoch, value) in order of time, ``step`` the seconds between two of them."""

    title: str
    unit: str
    points: Sequence[tuple[float, float]]
    step: float
    start: float
    end: float
    limit: float | None = None
    condition: str = ""
    marks: Sequence[Mark] = ()


def svg(chart: Chart) -> str:
    """Return the drawing. Colours come from the page, by classes."""
    top = _ceiling(chart)
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    span = max(chart.end - chart.start, 1e-9)

    def x(time: float) -> float:
        return _LEFT + plot_width * min(1.0, max(0.0, (time - chart.start) / span))

    def y(value: float) -> float:
        return _TOP + plot_height * (1 - min(1.0, max(0.0, value / top)))

    base = _TOP + plot_height
    # A long one has no room beside its number; the caption has it.
    unit = f" {escape(chart.unit)}" if len(chart.unit) <= _SHORT_UNIT else ""
    lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(chart))}">']
    for value in (0.0, top / 2, top):
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        lines.append(f'<text class="axis" x="{_LEFT - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{figure(value)}{unit if value == top else ""}</text>')
    for place, mark in enumerate(chart.marks):
        lines.append(f'<line class="mark" x1="{x(mark.time):.1f}" x2="{x(mark.time):.1f}" y1="{_TOP}" y2="{base}"/>')
        # Neighbours in two rows, so that they do not run into each other; at the right edge on the line's other side.
        late = x(mark.time) > WIDTH - _RIGHT - _WORDS
        place_x, anchor = (x(mark.time) - 3, "end") if late else (x(mark.time) + 3, "start")
        height = _TOP - 4 if place % 2 else _TOP + 8
        lines.append(f'<text class="axis" x="{place_x:.1f}" y="{height}" text-anchor="{anchor}">{escape(mark.words)}</text>')
    if chart.limit is not None:
        lines.append(f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(chart.limit):.1f}" y2="{y(chart.limit):.1f}"/>')
    for run in _runs(chart):
        if len(run) == 1:
            lines.append(f'<circle class="dot" cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="1.6"/>')
        else:
            path = " ".join(f"{x(time):.1f},{y(value):.1f}" for time, value in run)
            lines.append(f'<polyline class="line" points="{path}"/>')
    for time, anchor in ((chart.start, "start"), (chart.end, "end")):
        lines.append(f'<text class="axis" x="{x(time):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{clock(time)}</text>')
    return "\n".join([*lines, "</svg>"])


def _runs(chart: Chart) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = []
    for point in chart.points:
        if not math.isfinite(point[1]):
            continue
        if runs and point[0] - runs[-1][-1][0] <= _GAP_STEPS * chart.step:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _ceiling(chart: Chart) -> float:
    """Return the top of the axis: a round number that leaves the limit and all points in sight."""
    highest = max([value for _time, value in chart.points if math.isfinite(value)] + [(chart.limit or 0) * 1.15, 1e-9])
    magnitude = 10 ** math.floor(math.log10(highest))
    return next(step * magnitude for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * magnitude >= highest * 0.999999)


def _spoken(chart: Chart) -> str:
    values = [value for _time, value in chart.points if math.isfinite(value)]
    seen = f"{figure(min(values))} to {figure(max(values))} {chart.unit}" if values else "no data"
    return f"{chart.title}: {seen}" + (f", limit {chart.condition} {chart.unit}" if chart.limit is not None else "")


def figure(value: float) -> str:
    """Return a number with three significant digits, large ones in full."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def clock(time: float) -> str:
    """Return a moment as hours, minutes and seconds of the day, UTC."""
    seconds = int(time) % 86400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
