# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document's deployment log, drawn from a record. Pure, private to this collection."""

from __future__ import annotations

import textwrap
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

# Words and order of the checklist's "Deployment Log"; each row shows the record's step of that name.
ACTIONS = (
    ("start", "Start deployment"),
    ("database_migration", "Database migration"),
    ("blue_green", "Deploy green"),
    ("canary_10", "Route 10% traffic"),
    ("canary_50", "Route 50% traffic"),
    ("canary_100", "Route 100% traffic"),
    ("cleanup", "Remove blue"),
    ("complete", "Deployment complete"),
)
_TITLES = {"configuration": "Configuration updates", "verification": "Verification", "rollback": "Rollback"}
COLUMNS = ("time", "action", "status", "notes")
# A failure's whole message would make a row nobody can read; the record keeps it.
_NOTES_WIDTH = 160
# Characters of a line on a screen.
SCREEN = 120


def rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """Return the table's rows: those of the document first, then the record's other steps in their order, then what happened."""
    steps = dict(record.get("steps") or {})
    if record.get("started"):
        steps["start"] = {"status": "done", "started": record["started"], "notes": _plan_note(record)}
    if record.get("finished"):
        complete = record.get("outcome") in ("complete", "cleaned_up")
        steps["complete"] = {
            "status": "done" if complete else "not complete",
            "started": record["finished"],
            "notes": f"outcome: {record.get('outcome')}" + (f"; {record['notes']}" if record.get("notes") else ""),
        }
    known = [name for name, words in ACTIONS]
    listed = list(ACTIONS) + [(name, title(name)) for name in record.get("order") or [] if name not in known]
    return [_row(steps.get(name) or {}, words) for name, words in listed] + [_event_row(entry) for entry in record.get("events") or []]


def _plan_note(record: dict[str, Any]) -> str:
    return f"{record.get('version')}, plan {str(record.get('plan_hash') or '')[:12]}, by {record.get('holder')}"


def title(name: str) -> str:
    """Return a step's name in the words of the document, where it has some."""
    if name.startswith("canary_") and name[7:].isdigit():
        return f"Route {name[7:]}% traffic"
    return dict(ACTIONS).get(name) or _TITLES.get(name, name.replace("_", " ").capitalize())


def _row(step: dict[str, Any], words: str) -> dict[str, str]:
    when = str(step.get("finished") or step.get("started") or "")
    # Seconds and the day are enough for people; the record keeps the microseconds.
    return {
        "time": when[:19].replace("T", " "),
        "action": words,
        "status": str(step.get("status") or ""),
        "notes": one_line(step.get("notes") or "", _NOTES_WIDTH),
    }


def _event_row(entry: dict[str, Any]) -> dict[str, str]:
    before, after = entry.get("before"), entry.get("after")
    known = before is not None and after is not None
    return {
        "time": str(entry.get("time") or "")[:19].replace("T", " "),
        "action": f"({entry.get('kind')}{' by ' + entry['signal'] if entry.get('signal') else ''})",
        "status": "" if not known else f"{before} -> {after} %" if before != after else f"stays {after} %",
        "notes": one_line(f"{entry.get('by')}: {entry.get('words')}", _NOTES_WIDTH),
    }


def table(log_rows: list[dict[str, str]]) -> str:
    """Return the rows as the Markdown table of the document, columns aligned."""
    heads = [name.capitalize() for name in COLUMNS]
    lines = [heads] + [[row[name].replace("|", "/") for name in COLUMNS] for row in log_rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    drawn = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)


def document(log_rows: list[dict[str, str]], width: int = SCREEN) -> str:
    """Return the table with exactly the rows of the document, notes cut so that no line is wider than ``width``."""
    own = log_rows[: len(ACTIONS)]
    others = sum(max(len(name), *(len(row[name]) for row in own)) for name in COLUMNS if name != "notes")
    # Four columns have five bars, and a space on both sides of each cell.
    room = max(len("Notes"), width - others - 13)
    return table([{**row, "notes": one_line(row["notes"], room)} for row in own])


def lines(log_rows: list[dict[str, str]], width: int = SCREEN) -> str:
    """Return every row that has happened, in the order of time, as lines whose notes are wrapped and not cut."""
    found = []
    for row in sorted((row for row in log_rows if row["time"]), key=lambda row: row["time"]):
        head = f"{row['time']}  {row['action']}{': ' if row['status'] else ''}{row['status']}"
        found.append(head)
        found += textwrap.wrap(row["notes"], width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(found)


def next_command(record: dict[str, Any]) -> str:
    """Return the command that makes sense after what the record says."""
    outcome = record.get("outcome")
    if not record:
        return "ansible-playbook playbooks/deploy_v2.yml"
    if outcome == "complete":
        return "ansible-playbook playbooks/cleanup.yml"
    if outcome == "cleaned_up":
        return "nothing to do"
    if outcome in ("rolled_back", "failed"):
        return "fix the cause, then ansible-playbook playbooks/deploy_v2.yml"
    return "ansible-playbook playbooks/resume.yml (goes on), or ansible-playbook playbooks/rollback.yml"
