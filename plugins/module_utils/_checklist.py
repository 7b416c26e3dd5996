# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ticks a box: decisions over a release's record and what people have attested. Pure, private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._catalogue import BY_ID, ITEMS, KEPT, SECTIONS, Item
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

PROVEN, ATTESTED, NOT_NEEDED, OPEN, FAILED = "proven", "attested", "not_needed", "open", "failed"
STATES = (PROVEN, ATTESTED, NOT_NEEDED, OPEN, FAILED)
TICKED = (PROVEN, ATTESTED, NOT_NEEDED)
MEASURED = (PROVEN, NOT_NEEDED, FAILED)
EVIDENCE_LIMIT = 300
# The document: WebSocket latency < 50 ms.
_WEBSOCKET_MS = 50.0
_MARKS = {PROVEN: "x", ATTESTED: "x", NOT_NEEDED: "-", OPEN: " ", FAILED: "!"}


@dataclass(frozen=True)
class Tick:
    """What became of one box, and in one line what says so."""

    item: Item
    state: str
    evidence: str

    @property
    def ticked(self) -> bool:
        return self.state in TICKED

    def shown(self) -> dict[str, Any]:
        item = self.item
        return {
            "id": item.id,
            "section": item.section,
            "words": item.words,
            "kind": item.kind,
            "state": self.state,
            "evidence": self.evidence,
        }


Found = tuple[str, str]


Entries = Mapping[str, Mapping[str, Any]]


def ticks(record: Mapping[str, Any], attestations: Entries, proofs: Entries | None = None) -> list[Tick]:
    """Return all boxes in the order of the document.

    ``record`` is the release's, empty before there is one, with ``signoffs``: role to state and evidence.
    ``attestations``: id of a box to ``by``, ``time`` and ``comment``.
    ``proofs``: id of a box to ``state``, ``evidence`` and, once kept, ``time``; see :func:`mistakes_in`.
    """
    return [Tick(item, *_state(item, record, attestations.get(item.id), (proofs or {}).get(item.id))) for item in ITEMS]


def mistakes_in(proofs: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with proofs that are to be kept, each mistake in words."""
    mistakes: list[str] = []
    for name, proof in proofs.items():
        item = BY_ID.get(name)
        if item is None:
            mistakes.append(f"proofs holds '{one_line(str(name), 60)}', expected the id of a box")
        elif item.proof != KEPT:
            how = "playbooks/signoff.yml" if item.is_signoff else f"the record's step {item.step or 'messages'}" if item.proof else "people"
            mistakes.append(f"proofs.{name}: the box is ticked by {how}, expected one whose proof is kept")
        elif not isinstance(proof, Mapping) or set(proof) != {"state", "evidence"}:
            mistakes.append(f"proofs.{name} is not a dictionary of state and evidence")
        elif proof["state"] not in MEASURED:
            mistakes.append(f"proofs.{name}.state is '{one_line(str(proof['state']), 60)}', expected one of {', '.join(MEASURED)}")
        elif not isinstance(proof["evidence"], str) or not proof["evidence"].strip():
            mistakes.append(f"proofs.{name}.evidence is empty, expected what was measured")
    return mistakes


def _state(item: Item, record: Mapping[str, Any], attestation: Mapping[str, Any] | None, proof: Mapping[str, Any] | None) -> Found:
    if item.proof == KEPT and proof is not None:
        at = f" ({str(proof['time'])[:16].replace('T', ' ')} UTC)" if proof.get("time") else ""
        return proof["state"], f"{proof['evidence']}{at}"
    if item.for_people and attestation is not None:
        comment = f": {attestation['comment']}" if attestation.get("comment") else ""
        return ATTESTED, f"by {attestation['by']} at {attestation['time']}{comment}"
    if not item.proof:
        return OPEN, "nobody has attested it"
    if item.proof == KEPT:
        return OPEN, "nothing has proven it" + (", and nobody has attested it" if item.fallback else "")
    if item.is_signoff:
        return (record.get("signoffs") or {}).get(item.proof.removeprefix("signoff ")) or (OPEN, "nobody has decided")
    if not item.step:
        return _message(item.proof.removeprefix("message "), record)
    step = (record.get("steps") or {}).get(item.step)
    if not step:
        return OPEN, f"step {item.step} has not begun"
    if step.get("status") == "failed":
        return FAILED, f"step {item.step} failed: {step.get('notes') or 'no reason noted'}"
    if step.get("status") != "done":
        return OPEN, f"step {item.step} is {step.get('status')}"
    evidence = step.get("evidence") or {}
    if evidence.get("truncated"):
        return OPEN, f"the evidence of step {item.step} was too long for the record"
    rule, _space, word = item.proof.partition(" ")
    return _RULES[rule](evidence, word)


# ------------------------------------------------------------------------------------------------ rules of proof


def _done(_evidence: Mapping[str, Any], _word: str) -> Found:
    return PROVEN, "applied and available"


def _backup(evidence: Mapping[str, Any], _word: str) -> Found:
    backups = evidence.get("backups") or []
    if not backups:
        return NOT_NEEDED, "nothing was pending, so nothing was migrated"
    last = backups[-1]
    if not last.get("sha256") or not last.get("verified"):
        return OPEN, f"backup {last.get('file', '')} was not verified"
    return PROVEN, f"{last.get('file', '')}, {last.get('bytes', '?')} bytes, verified: {last['verified']}"


def _migrated(evidence: Mapping[str, Any], _word: str) -> Found:
    if not evidence.get("to"):
        return OPEN, "no revision is noted"
    return PROVEN, f"from {evidence.get('from')} to {evidence['to']}"


def _tables(evidence: Mapping[str, Any], _word: str) -> Found:
    tables = evidence.get("tables") or []
    return (PROVEN, ", ".join(tables)) if tables else (OPEN, "no table is noted")


def _verified(evidence: Mapping[str, Any], _word: str) -> Found:
    verdict = evidence.get("verdict")
    if verdict != "pass":
        return OPEN, f"hypertable_verify said {verdict or 'nothing'}"
    return PROVEN, f"hypertable_verify passed (TimescaleDB {evidence.get('timescaledb') or 'of unknown version'})"


def _named(key: str) -> Callable[[Mapping[str, Any], str], Found]:
    def rule(evidence: Mapping[str, Any], _word: str) -> Found:
        if not evidence.get(key):
            return OPEN, f"no {key} is noted"
        keys = len(evidence.get(f"{key}_keys") or [])
        return PROVEN, f"{evidence[key]} with {keys} {'key' if keys == 1 else 'keys'}"

    return rule


def _replicas(evidence: Mapping[str, Any], _word: str) -> Found:
    replicas = evidence.get("replicas") or {}
    available = replicas.get("available", replicas.get("ready"))
    if not available:
        return OPEN, "no available pod is noted"
    return PROVEN, f"{available} pods are available"


def _smoke(evidence: Mapping[str, Any], _word: str) -> Found:
    return _checks(evidence.get("smoke") or [], "")


def _check(evidence: Mapping[str, Any], word: str) -> Found:
    return _checks(evidence.get("checks") or [], word)


def _checks(checks: Iterable[Mapping[str, Any]], word: str) -> Found:
    """Judge the checks whose name contains ``word``; all of them for the empty word."""
    chosen = [check for check in checks if word in str(check.get("name", "")).lower()]
    wrong = [check for check in chosen if not check.get("ok")]
    if wrong:
        return FAILED, f"check '{wrong[0].get('name')}' failed"
    if not chosen:
        return OPEN, f"no check with '{word}' in its name was made" if word else "no check was made"
    return PROVEN, ", ".join(f"{check['name']}{_p99(check)}" for check in chosen)


def _p99(check: Mapping[str, Any]) -> str:
    value = (check.get("latency_ms") or {}).get("p99")
    return f" (p99 {value:g} ms)" if isinstance(value, (int, float)) else ""


def _latency(evidence: Mapping[str, Any], word: str) -> Found:
    state, words = _check(evidence, word)
    if state != PROVEN:
        return state, words
    measured = [(check.get("latency_ms") or {}).get("p99") for check in evidence["checks"] if word in str(check.get("name", "")).lower()]
    known = [value for value in measured if isinstance(value, (int, float))]
    if not known:
        return OPEN, f"no latency of {words} is noted"
    if max(known) >= _WEBSOCKET_MS:
        return FAILED, f"p99 {max(known):g} ms, expected < {_WEBSOCKET_MS:g} ms"
    return PROVEN, f"p99 {max(known):g} ms < {_WEBSOCKET_MS:g} ms"


def _load_test(evidence: Mapping[str, Any], _word: str) -> Found:
    script = evidence.get("load_test") or "none"
    return (OPEN, "no load test was run") if script == "none" else (PROVEN, f"{script} kept its thresholds")


def _weight(evidence: Mapping[str, Any], _word: str) -> Found:
    confirmed = evidence.get("confirmed") or {}
    if not confirmed.get("method") or confirmed["method"] == "unconfirmed":
        return OPEN, "nothing has confirmed the weight in the mesh"
    return PROVEN, f"confirmed by {confirmed['method']} in {confirmed.get('seconds', '?')} s"


def _gate(evidence: Mapping[str, Any], _word: str) -> Found:
    if evidence.get("verdict") != "pass":
        return FAILED, f"the gate said {evidence.get('verdict') or 'nothing'}: {evidence.get('reason') or 'no reason noted'}"
    judged = [metric for metric in evidence.get("metrics") or [] if not metric.get("dry_run")]
    if not judged:
        return OPEN, "the gate judged no metric"
    return PROVEN, f"{len(judged)} metrics kept their limits for {evidence.get('seconds', 0):g} s"


def _metric(evidence: Mapping[str, Any], word: str) -> Found:
    metric = _metric_named(evidence, word)
    if metric is None:
        return OPEN, f"no metric '{word}' was judged"
    figures = f"worst {_number(metric.get('worst'))}, limit {metric.get('condition', '')} {metric.get('unit', '')}, {metric.get('samples', 0)} samples"
    if metric.get("verdict") != "pass":
        return FAILED, figures
    return PROVEN, figures


def _slope(evidence: Mapping[str, Any], word: str) -> Found:
    metric = _metric_named(evidence, word)
    slope = ((metric or {}).get("evidence") or {}).get("slope")
    if metric is None or not slope or slope.get("per_hour") is None:
        return OPEN, "no growth of the memory was measured"
    figures = f"{slope['per_hour']:.2f} per hour ({_number(slope.get('low'))} to {_number(slope.get('high'))}), {slope.get('samples', 0)} samples"
    return (PROVEN if metric.get("verdict") == "pass" else FAILED), figures


def _metric_named(evidence: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((metric for metric in evidence.get("metrics") or [] if metric.get("name") == name and not metric.get("dry_run")), None)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "?"


def _removed(evidence: Mapping[str, Any], word: str) -> Found:
    removed = [name for name in evidence.get("removed") or [] if str(name).startswith(f"{word} ")]
    return (PROVEN, ", ".join(removed)) if removed else (NOT_NEEDED, f"no {word} of the old version was left")


def _pinned(_evidence: Mapping[str, Any], _word: str) -> Found:
    return PROVEN, "the Service selects only the new version, and lists only its pods"


_RULES: dict[str, Callable[[Mapping[str, Any], str], Found]] = {
    "done": _done,
    "backup": _backup,
    "migrated": _migrated,
    "tables": _tables,
    "verified": _verified,
    "configmap": _named("configmap"),
    "secret": _named("secret"),
    "replicas": _replicas,
    "smoke": _smoke,
    "check": _check,
    "latency": _latency,
    "load_test": _load_test,
    "weight": _weight,
    "gate": _gate,
    "metric": _metric,
    "slope": _slope,
    "removed": _removed,
    "pinned": _pinned,
}
RULES = frozenset(_RULES)


def _message(event: str, record: Mapping[str, Any]) -> Found:
    sent = [name for name in record.get("messages") or [] if name == event or name.startswith((f"{event}:", f"{event}#"))]
    if sent:
        return PROVEN, f"sent: {', '.join(name.partition(':')[2] or name for name in sent)}"
    if event == "issue":
        troubled = any(step.get("status") == "failed" for step in (record.get("steps") or {}).values())
        if record.get("finished") and not troubled:
            return NOT_NEEDED, "there was no problem"
    return OPEN, "no such message was sent"


# ------------------------------------------------------------------------------------------------ how it is shown


def text(found: Iterable[Tick]) -> str:
    """Return the checklist as the document shows it, each box with what says so."""
    by_section: dict[str, list[Tick]] = {}
    for tick in found:
        by_section.setdefault(tick.item.section, []).append(tick)
    lines: list[str] = []
    part = ""
    for section in SECTIONS:
        if section.part != part:
            part = section.part
            lines += ["", part]
        own = by_section.get(section.id, [])
        lines.append(f"  {section.title} ({sum(tick.ticked for tick in own)} of {len(own)})")
        for tick in own:
            margin = "      " if tick.item.nested else "    "
            lines.append(f"{margin}[{_MARKS[tick.state]}] {tick.item.words}  ({tick.item.id}: {tick.evidence})")
    return "\n".join(lines).strip()


def summary(found: Iterable[Tick]) -> dict[str, int]:
    """Return how many boxes are in each state, and ``ticked`` and ``total``."""
    every = list(found)
    counts = {state: sum(tick.state == state for tick in every) for state in STATES}
    return {**counts, "ticked": sum(tick.ticked for tick in every), "total": len(every)}
