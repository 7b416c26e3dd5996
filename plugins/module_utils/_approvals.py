# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which sign-offs count: decisions over the history of approvals. Pure, private to this collection.

The history is only appended to; each entry carries the hash of the one before it, so that a line that was changed or taken out is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._catalogue import items_of
from ansible_collections.signal.rollout.plugins.module_utils._messages import moment_of

# Role to its words in the document.
ROLES: dict[str, str] = {item.id.partition(".")[2]: item.words for item in items_of("signoff")}
APPROVE, REJECT, REVOKE = "approve", "reject", "revoke"
APPROVED, REJECTED, MISSING, VOID = "approved", "rejected", "missing", "void"
# A ConfigMap holds 1 MiB; an entry has at most about 1 KiB.
_KEPT = 400

Entry = dict[str, Any]
Approvers = Mapping[str, Mapping[str, Collection[str]]]


@dataclass(frozen=True)
class Policy:
    """Who may approve. ``approvers`` is None where the mapping is not known: then it is not judged."""

    approvers: Approvers | None = None
    deployer_may_approve: bool = False
    one_role_per_person: bool = True


@dataclass(frozen=True)
class Subject:
    """What is signed off: a version by a plan, as it runs. ``deployers``: who has released it."""

    version: str
    plan_hash: str
    images: tuple[str, ...] = ()
    deployers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """How one role stands, and why."""

    role: str
    state: str
    words: str
    entry: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        known = {key: self.entry.get(key) or "" for key in ("by", "time", "until", "comment")}
        return {"role": self.role, "title": ROLES[self.role], "state": self.state, "evidence": self.words, **known}


def mapped(approvers: Approvers, role: str, name: str, groups: Collection[str]) -> bool:
    """Whether the inventory says that a person speaks for a role."""
    entry = approvers.get(role) or {}
    return name in (entry.get("users") or ()) or bool(set(groups) & set(entry.get("groups") or ()))


def appended(history: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the history with one more entry, chained to the last one."""
    chained = {**entry, "previous": history[-1]["hash"] if history else ""}
    return [*history, {**chained, "hash": _hash(chained)}][-_KEPT:]


def broken_at(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the position of the first entry that somebody has changed, or None."""
    for position, entry in enumerate(history):
        if entry.get("hash") != _hash(entry) or (position and entry.get("previous") != history[position - 1].get("hash")):
            return position
    return None


def _hash(entry: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in entry.items() if key != "hash"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def judge(history: Iterable[Mapping[str, Any]], subject: Subject, policy: Policy, now: datetime) -> dict[str, Judged]:
    """Return how each of the five roles stands for this very subject."""
    own = [entry for entry in history if (entry.get("version"), entry.get("plan_hash")) == (subject.version, subject.plan_hash)]
    last = {entry["role"]: entry for entry in own if entry.get("role") in ROLES}
    found: dict[str, Judged] = {}
    spoken: dict[str, str] = {}
    for role in sorted(last, key=lambda name: str(last[name].get("time"))):
        state, words = _state(last[role], role, subject, policy, now)
        by = str(last[role].get("by"))
        if state == APPROVED and policy.one_role_per_person and by in spoken:
            state, words = VOID, f"{by} has approved as {ROLES[spoken[by]]} already, and one person has one role"
        if state == APPROVED:
            spoken[by] = role
        found[role] = Judged(role, state, words, last[role])
    return {role: found.get(role) or Judged(role, MISSING, "nobody has decided") for role in ROLES}


def _state(entry: Mapping[str, Any], role: str, subject: Subject, policy: Policy, now: datetime) -> tuple[str, str]:
    by, at = entry.get("by"), entry.get("time")
    because = f": {entry['comment']}" if entry.get("comment") else ""
    if entry.get("decision") == REJECT:
        return REJECTED, f"rejected by {by} at {at}{because}"
    if entry.get("decision") != APPROVE:
        return MISSING, f"taken back by {by} at {at}{because}"
    until = moment_of(str(entry.get("until")))
    if until is None or now >= until:
        return VOID, f"the approval of {by} has expired at {entry.get('until')}"
    if not subject.images or list(entry.get("images") or []) != list(subject.images):
        return VOID, f"{by} has approved other images ({short_images(entry.get('images') or [])}) than run now ({short_images(subject.images)})"
    if not policy.deployer_may_approve and by in subject.deployers:
        return VOID, f"{by} has released it, and nobody approves their own release"
    if policy.approvers is not None and not mapped(policy.approvers, role, str(by), entry.get("groups") or []):
        return VOID, f"{by} does not speak for {ROLES[role]} by signoff_approvers"
    return APPROVED, f"approved by {by} at {at}, until {entry.get('until')}, for {short_images(subject.images)}{because}"


def short_images(images: Iterable[str]) -> str:
    """The images by the beginning of their digests, as people compare them."""
    shown = []
    for image in images:
        name, _mark, digest = image.partition("=")
        shown.append(f"{name} {digest.rpartition('sha256:')[2][:12]}")
    return ", ".join(shown) or "none"


def images_of(pods: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return ``CONTAINER=DIGEST`` of everything that the pods run, each once; pods that are going do not count."""
    found = set()
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp"):
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            digest = str(status.get("imageID") or "")
            if digest:
                found.add(f"{status.get('name')}={digest.rpartition('@')[2] or digest}")
    return tuple(sorted(found))


def two_of_one(images: Iterable[str]) -> list[str]:
    """Return the containers that run more than one image, as in the middle of an update."""
    names = [image.partition("=")[0] for image in images]
    return sorted({name for name in names if names.count(name) > 1})


def text(judged: Mapping[str, Judged]) -> str:
    """Return the five roles as the document lists them."""
    marks = {APPROVED: "x", REJECTED: "!"}
    return "\n".join(f"[{marks.get(one.state, ' ')}] {ROLES[role]}  ({one.words})" for role, one in judged.items())
