# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the next person is told about a release that did not end. Pure, private to this collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _events, _log

# Outcomes after which nothing is left to do with a release.
ENDED = ("complete", "cleaned_up", "rolled_back")
_SHOWN = 5


def is_unfinished(record: dict[str, Any]) -> bool:
    """Whether a release was begun and neither completed nor taken back."""
    return bool(record.get("version")) and record.get("outcome") not in ENDED


def text(record: dict[str, Any], holder: str, renewed: str, me: str | None, traffic: dict[str, Any] | None) -> str:
    """Return the block for the next run's first screen, or '' when there is no unfinished release.

    ``holder`` and ``renewed`` are what the Lease says, ``me`` is the run that asks. ``traffic`` is the live ``{stable, canary}`` in
    percent; without it the block does not speak of it.
    """
    if not is_unfinished(record):
        return ""
    plan = record.get("plan") or {}
    stable, version = str(plan.get("stable_version") or "the old version"), str(record["version"])
    lines = [
        f"UNFINISHED RELEASE of {record.get('service')}: {stable} -> {version}, "
        f"begun {when(record.get('started'))} by {record.get('holder')}",
        *_labelled("What happened", _happened(record)),
        *_labelled("Lock", [_lock(record, holder, renewed, me)]),
    ]
    if traffic is not None:
        lines += _labelled("Traffic now", [f"{traffic.get('stable')} % on {stable}, {traffic.get('canary')} % on {version}"])
    lines += _labelled("What to do", _advice(record, holder, me, stable, version, traffic))
    return "\n".join(lines)


def _labelled(label: str, entries: list[str]) -> list[str]:
    heads = [f"{label}:"] + [""] * (len(entries) - 1)
    return [f"  {head:<15}{entry}" for head, entry in zip(heads, entries)]


def when(time: Any) -> str:
    """Return a time of the record for people: to the second, in UTC."""
    return f"{str(time)[:19].replace('T', ' ')} UTC" if time else "at an unknown time"


def _happened(record: dict[str, Any]) -> list[str]:
    lines = [told(entry) for entry in (record.get("events") or [])[-_SHOWN:]]
    if record.get("outcome"):
        lines.append(f"{when(record.get('finished'))}: closed as {record['outcome']}: {record.get('notes') or 'no reason given'}")
    return lines or [f"Nothing is noted after {_last_step(record)}: its run ended there without a word, or still goes on."]


def told(entry: dict[str, Any]) -> str:
    """Return one event as a line: time, what, by which signal, what became of the weight, who did it."""
    by_signal = f" by {entry['signal']}" if entry.get("signal") else ""
    return f"{when(entry.get('time'))}: {entry.get('kind')}{by_signal}, {_weights(entry)}told by {entry.get('by')}: {entry.get('words')}"


def _weights(entry: dict[str, Any]) -> str:
    before, after = entry.get("before"), entry.get("after")
    if before is None or after is None:
        return ""
    return f"weight stays {after} %, " if before == after else f"weight {before} -> {after} %, "


def _last_step(record: dict[str, Any]) -> str:
    steps = {name: entry for name, entry in (record.get("steps") or {}).items() if isinstance(entry, dict)}
    if not steps:
        return f"its begin at {when(record.get('started'))}"
    name = max(steps, key=lambda step: str(steps[step].get("finished") or steps[step].get("started") or ""))
    entry = steps[name]
    return f"step '{_log.title(name)}' ({entry.get('status')} {when(entry.get('finished') or entry.get('started'))})"


def _lock(record: dict[str, Any], holder: str, renewed: str, me: str | None) -> str:
    if not holder:
        return "nobody holds it"
    if holder == me:
        return "this run holds it"
    death = _events.death_seen(record, holder)
    life = f"last sign of life {when(renewed)}"
    return f"{holder}, {life}" + (f"; its end was seen {when(death['time'])}" if death else "; it may still run")


def _advice(
    record: dict[str, Any], holder: str, me: str | None, stable: str, version: str, traffic: dict[str, Any] | None
) -> list[str]:
    lines = []
    if holder not in ("", me) and _events.death_seen(record, holder) is None:
        lines.append("If that run still goes on, leave it alone.")
    if record.get("outcome") != "failed":
        lines.append(f"ansible-playbook playbooks/resume.yml: goes on, {_goes_on(record, traffic)}.")
    lines.append(f"ansible-playbook playbooks/rollback.yml: all traffic to {stable}, {version} is taken down.")
    return lines


def _goes_on(record: dict[str, Any], traffic: dict[str, Any] | None) -> str:
    steps = record.get("steps") or {}
    done = [name for name in record.get("order") or [] if (steps.get(name) or {}).get("status") == "done"]
    canary = [name for name in steps if name.startswith("canary_")]
    back = canary and traffic is not None and traffic.get("canary") == 0
    kept = [_log.title(name) for name in done if not (back and name.startswith("canary_"))]
    after = f"done already: {', '.join(kept)}" if kept else "nothing is done yet"
    return f"{after}; the traffic is at 0 %, so its steps begin again" if back else after
