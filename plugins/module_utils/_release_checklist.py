# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module release_checklist: the 98 boxes of one release. Private to this collection.

What people attest and what was measured outside the steps stands beside the record, in a key of its own of the same ConfigMap, since it begins
before the release does and goes on after it. It counts for one version and one plan. Who writes is whom the API server has authenticated, never a
variable.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _approvals, _caller, _catalogue, _checklist, _events, _kube, _messages, _record, _signoff
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

STATES = ["shown", "attested", "revoked", "proven", "required"]

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "default": "shown", "choices": STATES},
    "service": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "plan": {"type": "dict"},
    "items": {"type": "list", "elements": "str", "default": []},
    "comment": {"type": "str", "default": ""},
    "proofs": {"type": "dict", "default": {}},
}
SPEC_RULES: dict[str, Any] = {
    "required_if": [["state", "attested", ["items", "plan"]], ["state", "revoked", ["items", "plan"]], ["state", "proven", ["proofs"]]],
}
SUPPORTS_CHECK_MODE = True

KEY = "checklist.json"
_COMMENT_LIMIT = 300


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Show the checklist, attest or revoke boxes, keep proofs, or refuse while some are open. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys for unknown boxes, for boxes that only a measurement may tick, for proofs of boxes
    that are ticked otherwise, and, with ``required``, while one of ``items`` is not ticked.
    """
    chosen = _chosen(params)
    return Checklist(params, context, _kube.connect(params)).run(chosen)


def _chosen(params: Mapping[str, Any]) -> list[_catalogue.Item]:
    """Return the boxes that ``items`` names. Raises :class:`RolloutError` with every mistake."""
    problems: list[str] = []
    chosen: dict[str, _catalogue.Item] = {}
    known = [section.id for section in _catalogue.SECTIONS] + list(_catalogue.BY_ID)
    for name in params["items"]:
        found = _catalogue.items_of(name)
        if not found:
            near = difflib.get_close_matches(name, known, 3)
            problems.append(f"items holds '{one_line(name, 60)}', expected the id of a box or of a section ({', '.join(near or known[:4])}, ...)")
        chosen.update({item.id: item for item in found})
    if params["state"] in ("attested", "revoked"):
        if not chosen and not problems:
            problems.append("items is empty, expected at least one box")
        problems.extend(
            f"{item.id} ('{item.words}') is ticked by {'playbooks/signoff.yml' if item.is_signoff else 'what is measured'} alone, expected a box for people"
            for item in chosen.values()
            if not item.for_people
        )
    if params["state"] in ("attested", "revoked") and params["proofs"]:
        problems.append(f"proofs is given with state {params['state']}, expected proven, shown or required")
    problems.extend(_checklist.mistakes_in(params["proofs"]))
    if len(params["comment"]) > _COMMENT_LIMIT:
        problems.append(f"comment has {len(params['comment'])} characters, expected at most {_COMMENT_LIMIT}")
    if problems:
        raise RolloutError(f"release_checklist: {'; '.join(problems)}. Nothing was written. Next: playbooks/status.yml lists every box.")
    return list(chosen.values())


@dataclass(frozen=True)
class Kept:
    """What stands beside the record: what people attest and what was measured, each by the id of its box."""

    attestations: dict[str, dict[str, Any]]
    proofs: dict[str, dict[str, Any]]


def valid(kept: Mapping[str, Any], version: str, plan_hash: str | None) -> Kept:
    """Return what counts for this version and, where it is known, for this plan."""
    if kept.get("version") != version or (plan_hash is not None and kept.get("plan_hash") != plan_hash):
        return Kept({}, {})
    return Kept(dict(kept.get("attestations") or {}), dict(kept.get("proofs") or {}))


# How a sign-off that stands so ticks its box; any other leaves it open.
_SIGNED = {_approvals.APPROVED: _checklist.ATTESTED, _approvals.REJECTED: _checklist.FAILED}


def gathered(
    kube: _kube.Kube, params: Mapping[str, Any], record: Mapping[str, Any], document: dict[str, Any] | None, plan_hash: str | None
) -> dict[str, Any]:
    """Return the record with what stands beside it: messages, also those from before it began, and sign-offs.

    ``signoffs`` is how each role's box is ticked, ``approvals`` how the role stands, with the decision itself.
    """
    found = _messages.with_messages(record, document, params["version"], plan_hash)
    if record.get("version") == params["version"]:
        judged = _signoff.signed(kube, params["namespace"], params["service"], record)
        found["signoffs"] = {role: (_SIGNED.get(one.state, _checklist.OPEN), one.words) for role, one in judged.items()}
        found["approvals"] = judged
    return found


class Checklist:
    """Reads and writes one service's attestations."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.path = _kube.path_of("", "v1", "configmaps", params["namespace"], _record.record_name(params["service"]))
        self.plan_hash = _record.plan_hash(params["plan"]) if params["plan"] is not None else None

    def run(self, chosen: list[_catalogue.Item]) -> dict[str, Any]:
        # The release itself writes to the same object: everything is read again.
        return _kube.until_undisturbed(lambda: self._once(chosen), self.context.sleep)

    def _once(self, chosen: list[_catalogue.Item]) -> dict[str, Any]:
        document = self.kube.find(self.path)
        record = _record.kept(document, _record.RECORD_KEY)
        # The record's own plan, unless the caller names another: status needs no inventory of the release.
        own = record if record.get("version") == self.params["version"] else {}
        plan_hash = self.plan_hash or own.get("plan_hash")
        if own.get("plan_hash") != plan_hash:
            own = {}
        own = gathered(self.kube, self.params, own, document, plan_hash)
        before = valid(_record.kept(document, KEY), self.params["version"], plan_hash)
        state = self.params["state"]
        if state in ("shown", "required"):
            answer = self._answer(own, Kept(before.attestations, {**before.proofs, **self.params["proofs"]}), changed=False)
            if state == "required":
                self._require(chosen, answer)
            return answer
        if plan_hash is None:
            raise RolloutError(
                f"release_checklist: there is no record of {self.params['service']} {self.params['version']}, and plan is not given, so that nobody "
                "could tell what the proofs count for. Nothing was written. Next: give the plan, as playbooks/vars/plan.yml makes it."
            )
        after = self._proven(before) if state == "proven" else Kept(self._changed(before.attestations, chosen, state), before.proofs)
        changed = after != before
        if changed and not self.context.check_mode:
            counted = {"version": self.params["version"], "plan_hash": plan_hash, "attestations": after.attestations, "proofs": after.proofs}
            _record.keep(self.kube, self.params["namespace"], self.params["service"], document, {KEY: json.dumps(counted)})
        return self._answer(own, after, changed=changed)

    def _proven(self, before: Kept) -> Kept:
        who, now = _caller.caller(self.kube).name, _events.now()
        made = {
            name: {"state": proof["state"], "evidence": one_line(proof["evidence"], _checklist.EVIDENCE_LIMIT), "time": now, "by": who}
            for name, proof in self.params["proofs"].items()
        }
        # Without its time: measured again with the same figures, it is the same proof.
        new = {name: proof for name, proof in made.items() if {**(before.proofs.get(name) or {}), "time": now} != proof}
        return Kept(before.attestations, {**before.proofs, **new})

    def _changed(self, attestations: dict[str, dict[str, Any]], chosen: Iterable[_catalogue.Item], state: str) -> dict[str, dict[str, Any]]:
        if state == "revoked":
            gone = {item.id for item in chosen}
            return {name: entry for name, entry in attestations.items() if name not in gone}
        who, comment = _caller.caller(self.kube).name, one_line(self.params["comment"], _COMMENT_LIMIT)
        after = dict(attestations)
        for item in chosen:
            before = after.get(item.id) or {}
            if (before.get("by"), before.get("comment")) != (who, comment):
                after[item.id] = {"by": who, "time": _events.now(), "comment": comment}
        return after

    def _require(self, chosen: list[_catalogue.Item], answer: dict[str, Any]) -> None:
        wanted = {item.id for item in chosen}
        missing = [entry for entry in answer["items"] if entry["id"] in wanted and entry["state"] not in _checklist.TICKED]
        if missing:
            listed = "; ".join(f"{entry['id']} '{entry['words']}' ({entry['state']}: {entry['evidence']})" for entry in missing)
            people = [entry["id"] for entry in missing if entry["state"] == _checklist.OPEN and _catalogue.BY_ID[entry["id"]].for_people]
            by_hand = (
                f" Next: whoever knows it attests it: ansible-playbook playbooks/attest.yml -e attest_items={','.join(people)}" if people else ""
            )
            raise RolloutError(
                f"Checklist of {self.params['service']} {self.params['version']}: {len(missing)} of {len(wanted)} boxes that must be ticked "
                f"before this are not: {listed}.{by_hand}",
                **answer,
            )

    @staticmethod
    def _answer(record: Mapping[str, Any], kept: Kept, changed: bool) -> dict[str, Any]:
        found = _checklist.ticks(record, kept.attestations, kept.proofs)
        return {
            "changed": changed,
            "items": [tick.shown() for tick in found],
            "summary": _checklist.summary(found),
            "text": _checklist.text(found),
        }
