# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A usage report as Markdown and as a few lines for a screen. Pure, private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._usage_math import moment, quantity_text

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

_TITLES = {
    "metrics": "Metrics",
    "error_logs": "Errors in the logs",
    "resources": "Sizes",
    "cache": "Cache",
    "usage": "Usage",
    "capacity": "Capacity",
}


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    # What others wrote must not end a cell.
    return lines + ["| " + " | ".join(one_line(cell, 200).replace("|", "/").replace("<", "&lt;") for cell in row) + " |" for row in rows]


def _number(value: Any, unit: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:.4g}{unit}" if isinstance(value, float) else f"{value}{unit}"


def markdown(answer: Mapping[str, Any]) -> str:
    """Return the whole report."""
    window = answer["window"]
    lines = [f"# {answer['service']} {answer['version']}: {window['since']} to {window['until']}", ""]
    length = f"{window['seconds']} s of {window['demanded_seconds']} s"
    lines.append(f"Released {window['released']}. The report is about {length}, in steps of {window['step_seconds']} s.")
    if not window["complete"]:
        lines.append("The time that this report is about has not passed yet, so it proves nothing.")
    for name, part in answer["parts"].items():
        lines += ["", f"## {_TITLES[name]}", ""]
        lines += [f"Not known: {one_line(part['error'], 300)}"] if part.get("error") else _PARTS[name](part)
    lines += ["", "## Boxes", ""]
    rows = [(box, proof["state"], proof["evidence"]) for box, proof in answer["proofs"].items()]
    lines += _table(("Box", "State", "Evidence"), rows + [(box, "open", reason) for box, reason in answer["unproven"].items()])
    return "\n".join(lines) + "\n"


def summary(answer: Mapping[str, Any]) -> str:
    """Return one line per box."""
    lines = [f"{box}: {proof['state']}: {proof['evidence']}" for box, proof in answer["proofs"].items()]
    return "\n".join(lines + [f"{box}: open: {reason}" for box, reason in answer["unproven"].items()])


def _metrics(part: Mapping[str, Any]) -> list[str]:
    green, blue = part["green"], part["blue"]
    known = not blue.get("error")
    rows = []
    for words, read in _METRIC_ROWS:
        rows.append((words, read(green), read(blue) if known else "-"))
    lines = _table(("", "new version, since the release", "old version, before it"), rows)
    return lines if known else [*lines, "", f"The old version: {one_line(blue['error'], 200)}."]


def _cores(value: float | None) -> str:
    return "-" if value is None else quantity_text("cpu", value)


def _bytes(value: float | None) -> str:
    return "-" if value is None else quantity_text("memory", value)


_METRIC_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("requests", lambda one: _number(one["requests"])),
    ("requests per second", lambda one: _number(one["requests_per_second"])),
    ("error rate", lambda one: _number(one["error_percent"], " %")),
    ("latency p50", lambda one: _number(one["p50_ms"], " ms")),
    ("latency p99", lambda one: _number(one["p99_ms"], " ms")),
    ("CPU of a container, p50 / p95 / max", lambda one: " / ".join(_cores(one["cpu_cores"][name]) for name in ("p50", "p95", "max"))),
    ("memory of a container, p50 / p95 / max", lambda one: " / ".join(_bytes(one["memory_bytes"][name]) for name in ("p50", "p95", "max"))),
    ("restarts seen", lambda one: _number(one["restarts"])),
    ("time with measurements", lambda one: _number(one["covered_percent"], " %")),
)


def _error_logs(part: Mapping[str, Any]) -> list[str]:
    since = "unknown" if part["covered_since"] is None else moment(part["covered_since"])
    lines = [f"{part['count']} errors ({part['per_hour']:.3g} an hour) among {part['lines']} lines; source: {part['source']}, which reaches back to {since}."]
    rows = [
        (entry["count"], entry["error_type"], *("-" if entry[name] is None else moment(entry[name]) for name in ("first", "last")), entry["example"])
        for entry in part["errors"]
    ]
    return [*lines, "", *_table(("Count", "Type", "First", "Last", "Example"), rows)] if rows else lines


def _resources(part: Mapping[str, Any]) -> list[str]:
    rule = part["rule"]
    rows = []
    for name, entry in part["containers"].items():
        for key, size in entry["sizes"].items():
            bound, kind = key.split("_")
            used = entry["usage"][kind]
            text = "-" if size["current"] is None else quantity_text(kind, size["current"])
            proposal = quantity_text(kind, size["proposed"]) if size["change"] else "keep"
            figures = " / ".join(quantity_text(kind, used[figure]) for figure in ("p50", "p95", "max"))
            rows.append((name, f"{kind} {bound}", figures, text, proposal + (" (usage touches the limit)" if size["clipped"] else "")))
    lines = [
        f"Requests: 95th percentile and {rule['cpu_headroom_percent']:g} % (CPU) or {rule['memory_headroom_percent']:g} % (memory); limits: the highest "
        f"value and as much, and no limit of CPU is lowered. Differences up to {rule['tolerance_percent']:g} % are no change. CPU values are means over a "
        "step. Nothing was applied.",
        "",
        *_table(("Container", "Size", "Usage p50 / p95 / max", "Now", "Proposal"), rows),
    ]
    if part["patch"] and yaml is not None:
        lines += ["", f"For `kubectl patch deployment {part['deployment']} --patch-file FILE`:", "", "```yaml"]
        lines += [*yaml.safe_dump(part["patch"], sort_keys=False).rstrip().splitlines(), "```"]
    return lines


def _cache(part: Mapping[str, Any]) -> list[str]:
    lines = [f"Hit rate {_number(part['hit_percent'], ' %')} of {part['lookups']} lookups."]
    rows = []
    for node in part["nodes"]:
        totals = node.get("totals") or {}
        ttl = totals.get("avg_ttl_ms")
        rows.append(
            (
                node.get("address"),
                node.get("maxmemory_policy"),
                _bytes(node.get("maxmemory") or None),
                _number(node.get("used_percent"), " %"),
                totals.get("keys", "-"),
                totals.get("evicted", "-"),
                totals.get("expired", "-"),
                "-" if not ttl else f"{ttl / 1000:.3g} s",
            )
        )
    if rows:
        lines += ["", *_table(("Redis", "Policy", "maxmemory", "Used", "Keys", "Evicted", "Expired", "Mean time to live"), rows)]
    return lines + ([""] if part["hints"] else []) + [f"- {one_line(hint)}" for hint in part["hints"]]


def _usage(part: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{part['requests']} requests; mean {_number(part['mean_per_second'])}/s, peak {_number(part['peak_per_second'])}/s at {part['peak_time'] or '-'} "
        f"(mean over {part['step_seconds']} s), peak to mean {_number(part['peak_to_mean'])}.",
        "",
        *_table(("Endpoint", "Requests", "Share"), [(row["endpoint"], row["requests"], f"{row['percent']:.3g} %") for row in part["by_endpoint"]]),
    ]
    for title, groups in (("Hour (UTC)", part["by_hour"]), ("Weekday (UTC)", part["by_weekday"])):
        if groups:
            most = max(groups.values()) or 1.0
            lines += ["", *_table((title, "Requests per second", ""), [(key, f"{value:.4g}", "#" * round(30 * value / most)) for key, value in groups.items()])]
    return lines


def _capacity(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, trend in part["trends"].items():
        if trend is None:
            rows.append((name.replace("_", " "), "-", "too few points for a line", "-", "-"))
            continue
        shown = _shown_as(name)
        slope = f"{shown(trend['per_day'])} a day ({shown(trend['per_day_low'])} to {shown(trend['per_day_high'])})"
        days = "no limit is known" if trend["limit"] is None else _when(trend)
        limit = "-" if trend["limit"] is None else shown(trend["limit"])
        rows.append((name.replace("_", " "), shown(trend["level"]), slope, limit, days))
    return [
        f"{part['replicas']} replicas. Lines by Theil and Sen, with the bounds of {100 * part['confidence']:g} % confidence.",
        "",
        *_table(("", "Now", "Trend", "Limit", "Limit is met in"), rows),
    ]


def _shown_as(name: str) -> Callable[[float], str]:
    if name.startswith("memory"):
        return lambda value: f"{value / 2**20:.4g} MiB"
    return lambda value: f"{value:.4g}"


def _when(trend: Mapping[str, Any]) -> str:
    if trend["days"] is None:
        return "not in sight"
    low = "now" if not trend["days_at_least"] else f"{trend['days_at_least']:.3g}"
    high = "never" if trend["days_at_most"] is None else f"{trend['days_at_most']:.3g}"
    return f"{trend['days']:.3g} days ({low} to {high})"


_PARTS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "metrics": _metrics,
    "error_logs": _error_logs,
    "resources": _resources,
    "cache": _cache,
    "usage": _usage,
    "capacity": _capacity,
}
