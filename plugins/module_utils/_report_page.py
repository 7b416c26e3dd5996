# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of a release as one HTML page that needs nothing else. Pure, private to this collection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _log, _report_chart
from ansible_collections.signal.rollout.plugins.module_utils._approvals import APPROVE, APPROVED, MISSING, REJECTED, ROLES, VOID, Judged, short_images
from ansible_collections.signal.rollout.plugins.module_utils._catalogue import BY_ID, SECTIONS
from ansible_collections.signal.rollout.plugins.module_utils._checklist import ATTESTED, FAILED, MEASURED, NOT_NEEDED, OPEN, PROVEN, Tick, summary

_MARKS = {PROVEN: "✓", ATTESTED: "✓", NOT_NEEDED: "–", OPEN: "", FAILED: "✗"}
_GOOD, _BAD = ("complete", "cleaned_up"), ("failed", "rolled_back")

_STYLE = """
:root {
  --ink: #1b1f24; --soft: #59636e; --page: #ffffff; --panel: #f5f7f9; --rule: #d5dbe1;
  --good: #17703a; --bad: #b42318; --warn: #8a5a00; --line: #1f5fbf;
}
/* Paper is white, whatever the screen is. */
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --ink: #e7ebef; --soft: #9aa5b1; --page: #14181c; --panel: #1d2328; --rule: #3b454f;
    --good: #5bc98a; --bad: #ff8a80; --warn: #e6b45c; --line: #7db0ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 28px 24px 60px; max-width: 1080px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.73em; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin: 36px 0 10px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 1.07em; margin: 20px 0 4px; }
p { margin: 6px 0; overflow-wrap: anywhere; }
p.group { margin-top: 12px; }
.soft { color: var(--soft); }
.badge {
  display: inline-block; padding: 1px 10px; border-radius: 99px; border: 1px solid currentColor;
  font-size: 14px; font-weight: 600; vertical-align: 3px;
}
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px; margin: 18px 0; }
.tile { background: var(--panel); border-radius: 8px; padding: 10px 14px; break-inside: avoid; }
.tile b { display: block; font-size: 1.4em; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .87em; line-height: 1.35; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--panel); border-radius: 8px; padding: 10px 12px 4px; break-inside: avoid; }
figcaption { font-size: .93em; display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); } .axis { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke: var(--line); stroke-width: 1.8; stroke-linejoin: round; } .dot { fill: var(--line); }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; } .mark { stroke: var(--soft); stroke-dasharray: 1 3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
td { overflow-wrap: break-word; } td:last-child { overflow-wrap: anywhere; }
td.words { min-width: 13em; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
td.short { white-space: nowrap; overflow-wrap: normal; font-variant-numeric: tabular-nums; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.box { width: 1.25em; height: 1.25em; line-height: 1.2em; border: 1px solid var(--soft); border-radius: 3px; text-align: center; font-weight: 700; flex: none; }
ul.boxes { list-style: none; margin: 0; padding: 0; }
ul.boxes li { display: flex; gap: 10px; padding: 3px 0; break-inside: avoid; }
ul.boxes li > span:last-child { min-width: 0; }
ul.boxes li.nested { padding-left: 30px; }
ul.boxes small { display: block; color: var(--soft); font-size: .87em; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 8px; padding: 10px 14px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .87em; }
@media screen and (max-width: 800px) {
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .charts { grid-template-columns: minmax(0, 1fr); }
  .wide table { min-width: 720px; }
}
@media screen and (max-width: 480px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  h2 { margin-top: 20px; }
  h2, h3, p.group, thead { break-after: avoid; }
  tr, pre { break-inside: avoid; }
  .note { break-before: avoid; }
  th, td { padding-right: 10px; }
  .badge { font-size: 11px; }
  .tile { padding: 6px 8px; }
}
"""


@dataclass(frozen=True)
class People:
    """What people have said of the release, and whom to turn to. ``approvals`` by role, ``attestations`` by the id of the box."""

    approvals: Mapping[str, Judged] = field(default_factory=dict)
    attestations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contacts: Sequence[Mapping[str, Any]] = field(default=())


@dataclass(frozen=True)
class Report:
    """What the page shows. ``record`` is the release's; ``charts_missing`` says why there are no charts, or fewer."""

    record: Mapping[str, Any]
    ticks: Sequence[Tick]
    made: str
    charts: Sequence[_report_chart.Chart] = ()
    charts_missing: str = ""
    people: People = field(default_factory=People)


def page(report: Report) -> str:
    """Return the page. Everything that comes from outside is escaped."""
    record = report.record
    service, version = str(record.get("service") or ""), str(record.get("version") or "")
    stable = str((record.get("plan") or {}).get("stable_version") or "")
    heading = f"{service} {stable + ' → ' if stable else ''}{version}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(heading)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(heading)} {_badge(record)}</h1>",
        f'<p class="soft">{_line(record, report.made)}</p>',
        _tiles(report),
        _next(record),
        _charts(report),
        _judged(record),
        _section("Deployment log", _table(("Time (UTC)", "Action", "Status", "Notes"), _log_rows(record))),
        _signoffs(report.people.approvals),
        _attestations(report),
        _checklist(report.ticks),
        _people(report),
        _by_hand(record),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _badge(record: Mapping[str, Any]) -> str:
    outcome = str(record.get("outcome") or "under way")
    tone = "good" if outcome in _GOOD else "bad" if outcome in _BAD else "warn"
    return f'<span class="badge {tone}">{escape(outcome.replace("_", " "))}</span>'


def _line(record: Mapping[str, Any], made: str) -> str:
    said = [
        f"environment {record['plan']['environment']}" if (record.get("plan") or {}).get("environment") else "",
        f"begun {_when(record.get('started'))}" if record.get("started") else "",
        f"ended {_when(record.get('finished'))}" if record.get("finished") else "",
        f"by {record['holder']}" if record.get("holder") else "",
        f"deployment {record['id']}" if record.get("id") else "",
        f"plan {str(record['plan_hash'])[:12]}" if record.get("plan_hash") else "",
        f"this page {_when(made)}",
    ]
    return escape(" · ".join(part for part in said if part))


def _tiles(report: Report) -> str:
    counts = summary(report.ticks)
    weights = report.record.get("weights") or []
    steps = report.record.get("steps") or {}
    done = sum(step.get("status") == "done" for step in steps.values())
    tiles = [
        (f"{counts['ticked']} of {counts['total']}", "boxes ticked"),
        (str(counts["proven"] + counts["not_needed"]), "proven by a measurement"),
        (str(counts["attested"]), "attested by people"),
        (str(counts["failed"]), "failed"),
        (f"{done} of {len(steps)}", "steps done"),
        (f"{weights[-1].get('weight')} %" if weights else "none", "last weight on the new version"),
    ]
    drawn = "".join(f'<div class="tile"><b{_tone(words, value)}>{escape(value)}</b><span>{escape(words)}</span></div>' for value, words in tiles)
    return f'<div class="tiles">{drawn}</div>'


def _tone(words: str, value: str) -> str:
    return ' class="bad"' if words == "failed" and value != "0" else ""


def _next(record: Mapping[str, Any]) -> str:
    notes = f"<p>{escape(str(record['notes']))}</p>" if record.get("notes") else ""
    return f"{notes}<p>Next: <code>{escape(_log.next_command(dict(record)))}</code></p>"


def _charts(report: Report) -> str:
    drawn = []
    for chart in report.charts:
        limit = f"limit {chart.condition} {chart.unit}" if chart.limit is not None else "no limit"
        caption = f'<figcaption><b>{escape(chart.title)}</b><span class="soft">{escape(limit)}</span></figcaption>'
        drawn.append(f"<figure>{caption}{_report_chart.svg(chart)}</figure>")
    missing = f'<p class="soft">{escape(report.charts_missing)}</p>' if report.charts_missing else ""
    if not drawn and not missing:
        return ""
    return _section("What the gates watched", f'<div class="charts">{"".join(drawn)}</div>{missing}')


def _judged(record: Mapping[str, Any]) -> str:
    rows = []
    for name, step in (record.get("steps") or {}).items():
        for metric in (step.get("evidence") or {}).get("metrics") or []:
            # What had no time to be judged is no fault of its own.
            tone = {"pass": "good", "insufficient": "warn"}.get(str(metric.get("verdict")), "bad")
            verdict = f'<span class="{tone}">{escape(str(metric.get("verdict")))}</span>' + (" (dry run)" if metric.get("dry_run") else "")
            limit = f"{metric.get('condition') or ''} {metric.get('unit') or ''}"
            cells = (_log.title(name), str(metric.get("name")), _figure(metric.get("worst")), limit, str(metric.get("samples", "")))
            rows.append((*(escape(cell) for cell in cells), verdict))
    return _section("What the gates decided", _table(("Step", "Metric", "Worst", "Limit", "Samples", "Verdict"), rows)) if rows else ""


def _log_rows(record: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for row in _log.rows(dict(record)):
        yield tuple(escape(row[name]) for name in _log.COLUMNS)


# State to its tone and its words.
_SIGNED = {APPROVED: ("good", "approved"), REJECTED: ("bad", "rejected"), VOID: ("warn", "approved, does not count")}


def _signoffs(approvals: Mapping[str, Judged]) -> str:
    if not any(one.entry for one in approvals.values()):
        return _section("Sign-off", f"<p>Nobody has decided. Asked are: {escape(', '.join(ROLES.values()))}.</p>")
    rows = []
    for role, title in ROLES.items():
        one = approvals.get(role) or Judged(role, MISSING, "")
        tone, words = _SIGNED.get(one.state, ("soft", "taken back" if one.entry else "nobody yet"))
        # What a decision is bound to and how long it lasts is said of an approval alone.
        until, images = (_minute(one.entry.get("until")), short_images(one.entry.get("images") or [])) if one.entry.get("decision") == APPROVE else ("", "")
        said = str(one.entry.get("comment") or "")
        because = _readable(one.words) if one.state == VOID else ""
        cells = (_minute(one.entry.get("time")), until, images, "; ".join(part for part in (because, said) if part))
        decision = f'<span class="{tone}">{words}</span>'
        rows.append((escape(title), decision, _name(one.entry.get("by")), *(escape(cell) or "–" for cell in cells)))
    heads = ("Role", "Decision", "By", "Time (UTC)", "Valid until (UTC)", "For images", "Words")
    note = '<p class="soft note">Whether the inventory lets each of them speak for the role is judged by playbooks/signoff.yml and playbooks/cleanup.yml.</p>'
    return _section("Sign-off", _table(heads, rows) + note)


def _attestations(report: Report) -> str:
    states = {tick.item.id: tick.state for tick in report.ticks}
    given = report.people.attestations
    rows = []
    # In the order of the document; a box that this version does not know comes last.
    for name in [*(name for name in BY_ID if name in given), *(name for name in given if name not in BY_ID)]:
        entry = given[name]
        title = BY_ID[name].words if name in BY_ID else name
        instead = "a measurement counts instead" if states.get(name) in MEASURED else ""
        words = "; ".join(part for part in (instead, str(entry.get("comment") or "")) if part)
        rows.append((escape(title), _name(entry.get("by")), escape(_minute(entry.get("time"))) or "–", escape(words) or "–"))
    if not rows:
        return _section("Attested by people", "<p>Nobody has attested a box of the checklist.</p>")
    return _section("Attested by people", _table(("Box", "By", "Time (UTC)", "Words"), rows))


def _checklist(ticks: Sequence[Tick]) -> str:
    parts, part = [], ""
    for section in SECTIONS:
        own = [tick for tick in ticks if tick.item.section == section.id]
        if section.part != part:
            part = section.part
            parts.append(f"<h3>{escape(part)}</h3>")
        counted = f'<span class="soft">{sum(tick.ticked for tick in own)} of {len(own)}</span>'
        parts.append(f'<p class="group"><b>{escape(section.title)}</b> {counted}</p><ul class="boxes">')
        for tick in own:
            tone = "bad" if tick.state == FAILED else "good" if tick.ticked else "soft"
            nested = ' class="nested"' if tick.item.nested else ""
            box = f'<span class="box {tone}" title="{escape(tick.state)}">{_MARKS[tick.state]}</span>'
            parts.append(f"<li{nested}>{box}<span>{escape(tick.item.words)}<small>{escape(_readable(tick.evidence))}</small></span></li>")
        parts.append("</ul>")
    return _section("Checklist", "\n".join(parts))


def _people(report: Report) -> str:
    messages = [(escape(name),) for name in report.record.get("messages") or []]
    contacts = [tuple(escape(str(contact.get(key) or "")) for key in ("role", "name", "contact")) for contact in report.people.contacts]
    told = _section("Messages sent", _table(("Message",), messages)) if messages else ""
    return told + (_section("Contacts", _table(("Role", "Name", "Contact"), contacts)) if contacts else "")


def _by_hand(record: Mapping[str, Any]) -> str:
    line = escape(str(record.get("break_glass") or "not noted"))
    return _section("Put all traffic back by hand", f"<p>Needs kubectl alone, whatever the weights are:</p><pre>{line}</pre>")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw cells that are HTML already."""
    head = "".join(f"<th{_class(name)}>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f'<td{_class(heads[place])}>{cell}</td>' for place, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# How columns are set; the rest wraps.
_COLUMNS = {
    "Time (UTC)": "short", "Valid until (UTC)": "short", "For images": "short", "Role": "short", "Limit": "short", "Status": "short",
    "Action": "short", "Step": "short", "Notes": "words", "Words": "words", "Worst": "number", "Samples": "number",
}


def _class(head: str) -> str:
    return f' class="{_COLUMNS[head]}"' if head in _COLUMNS else ""


def _when(stamp: Any) -> str:
    return str(stamp or "")[:19].replace("T", " ")


def _readable(text: str) -> str:
    """Return a text with its moments as people read them."""
    return re.sub(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?Z", r"\1 \2 UTC", text)


def _name(who: Any) -> str:
    """Draw a name so that a long one breaks where people read it in parts."""
    return re.sub(r"[:@/]", r"\g<0><wbr>", escape(str(who or ""), quote=False)) or "–"


def _minute(stamp: Any) -> str:
    return _when(stamp)[:16]


def _figure(value: Any) -> str:
    return _report_chart.figure(value) if isinstance(value, (int, float)) else "none"
