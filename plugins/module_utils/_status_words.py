# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The answer of service_status as a screen of text, without colour and no wider than it may be. Pure, private to this collection."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> list[str]:
    """Return aligned columns, two spaces apart; the last one is cut so that no line is wider than ``width``."""
    cells = [[str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    return [_cut("  " + "  ".join(cell.ljust(size) for cell, size in zip(row, widths)).rstrip(), width) for row in cells]


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False) or [indent.rstrip()]


def _continued(command: str, width: int) -> list[str]:
    """A line for a shell, broken so that it can still be pasted. A word longer than the screen stays whole."""
    lines = textwrap.wrap(command, width - 2, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def text(answer: Mapping[str, Any], width: int) -> str:
    """Return the screen: pods, why they are not well, endpoints, autoscaler, usage, logs, and lines for kubectl."""
    lines: list[str] = []
    for title, part in (
        ("Pods", _pods(answer, width)),
        ("Pods that are not well, and warnings", _troubles(answer, width)),
        ("Endpoints", _endpoints(answer, width)),
        ("Autoscaler", _autoscalers(answer, width)),
        (f"Usage ({answer['usage_source'] or 'unknown'})", _usage(answer, width)),
        ("Log, last lines of each pod", _logs(answer, width)),
        ("By hand", [line for command in answer["commands"] for line in _continued(command, width)]),
        ("Not seen", [line for reason in answer["not_seen"] for line in _wrapped(reason, "  ", width)]),
    ):
        if part:
            lines += [title, *part, ""]
    return "\n".join(lines).rstrip()


def _who(version: str, side: str) -> str:
    return f"{version or '?'} {side}".rstrip()


def _pods(answer: Mapping[str, Any], width: int) -> list[str]:
    if not answer["pods"]:
        return ["  none" if answer["pods"] is not None else "  unknown"]
    heads = ("VERSION", "POD", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE")
    rows = [
        (_who(pod["version"], pod["side"]), pod["name"], pod["ready"], pod["status"], pod["restarts"], pod["age"], pod["ip"] or "-", pod["node"] or "-")
        for pod in answer["pods"]
    ]
    return table(heads, rows, width)


def _troubles(answer: Mapping[str, Any], width: int) -> list[str]:
    lines: list[str] = []
    for pod in answer["pods"] or []:
        if pod["reasons"] or pod["events"]:
            lines.append(f"  {pod['name']}")
            for words in [*pod["reasons"], *(f"event {event}" for event in pod["events"])]:
                lines += _wrapped(words, "    ", width)
    return lines


def _endpoints(answer: Mapping[str, Any], width: int) -> list[str]:
    if answer["endpoints"] is None:
        return ["  unknown"]
    lines: list[str] = []
    for row in answer["endpoints"]:
        ports = "/".join(map(str, row["ports"])) or "-"
        parts = [f"{version}: {', '.join(addresses)}" for version, addresses in sorted(row["ready"].items())] or ["none is ready"]
        parts += [f"not ready, {version}: {', '.join(addresses)}" for version, addresses in sorted(row["not_ready"].items())]
        lines += _wrapped(f"{row['service']} (port {ports})  {'; '.join(parts)}", "  ", width)
    return lines


def _autoscalers(answer: Mapping[str, Any], width: int) -> list[str]:
    if answer["autoscalers"] is None:
        return ["  unknown"]
    if not answer["autoscalers"]:
        return ["  none"]
    lines = []
    for row in answer["autoscalers"]:
        figures = f"{row['name']} -> {row['target']}: {', '.join(row['metrics']) or 'no metric'}; {row['replicas']} replicas of "
        lines += _wrapped(f"{figures}{row['minimum']} to {row['maximum']}, wants {row['desired']}", "  ", width)
        lines += [line for problem in row["problems"] for line in _wrapped(problem, "    ", width)]
    return lines


def _usage(answer: Mapping[str, Any], width: int) -> list[str]:
    rows = []
    for pod in answer["pods"] or []:
        for row in pod["usage"]:
            if row["cpu"] is None and row["memory"] is None:
                continue
            cpu = "-" if row["cpu"] is None else f"{1000 * row['cpu']:.0f}m"
            memory = "-" if row["memory"] is None else f"{row['memory'] / 2**20:.0f}Mi"
            percents = [_percent(row[f"{kind}_of_{bound}_percent"]) for kind in ("cpu", "memory") for bound in ("request", "limit")]
            rows.append((pod["name"], row["container"], cpu, *percents[:2], memory, *percents[2:]))
    if not rows:
        return ["  unknown"] if answer["pods"] else []
    return table(("POD", "CONTAINER", "CPU", "OF REQUEST", "OF LIMIT", "MEMORY", "OF REQUEST", "OF LIMIT"), rows, width)


def _percent(value: float | None) -> str:
    return "not set" if value is None else f"{value:.0f}%"


def _logs(answer: Mapping[str, Any], width: int) -> list[str]:
    lines: list[str] = []
    for pod in answer["pods"] or []:
        if pod["log"]:
            lines.append(f"  {pod['name']}{' (the container before this one)' if pod['log_is_previous'] else ''}")
            lines += [_cut(f"    {one_line(log_words(line), 4 * width)}", width) for line in pod["log"]]
    return lines


def log_words(line: str) -> str:
    """Return a structured line of a log by what a reader looks for first: time of day, level, message, then the rest."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    rest = {str(key): value for key, value in entry.items()}
    time = str(next((rest.pop(key) for key in ("time", "timestamp", "ts", "@timestamp") if key in rest), ""))
    level = str(next((rest.pop(key) for key in ("level", "severity", "levelname") if key in rest), "")).upper()
    message = str(next((rest.pop(key) for key in ("message", "msg", "event") if key in rest), ""))
    # The pod it is of says the version.
    rest.pop("version", None)
    moment = time[11:19] if time[10:11] in ("T", " ") else time
    return " ".join(part for part in (moment, level, message, *(f"{key}={value}" for key, value in rest.items())) if part)
