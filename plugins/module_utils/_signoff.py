# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module signoff: five approvals of a release, each by an authenticated person. Private to this collection.

The history stands in a ConfigMap of its own, so that those who approve need not be able to write the record, nor those who release the
approvals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _approvals, _caller, _events, _kube, _record
from ansible_collections.signal.rollout.plugins.module_utils._approvals import APPROVE, APPROVED, REJECT, REVOKE, ROLES, Judged, Policy, Subject
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

STATES = ["shown", "decided", "revoked", "required"]
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "default": "shown", "choices": STATES},
    "service": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "plan": {"type": "dict"},
    "role": {"type": "str", "choices": list(ROLES)},
    "decision": {"type": "str", "choices": [APPROVE, REJECT]},
    "comment": {"type": "str", "default": ""},
    "approvers": {"type": "dict"},
    "roles": {"type": "list", "elements": "str", "choices": list(ROLES), "default": list(ROLES)},
    "valid_hours": {"type": "float", "default": 72.0},
    "deployer_may_approve": {"type": "bool", "default": False},
    "one_role_per_person": {"type": "bool", "default": True},
    "pod_selector": {"type": "str"},
}
SPEC_RULES: dict[str, Any] = {
    "required_if": [["state", "decided", ["role", "decision", "approvers"]], ["state", "revoked", ["role", "approvers"]]],
}
SUPPORTS_CHECK_MODE = True

KEY = "signoff.json"
_LABELS = {"app.kubernetes.io/managed-by": "signal.rollout"}
_COMMENT = 300
_LONGEST_HOURS = 24 * 365


def configmap_name(service: str) -> str:
    return f"{_record.record_name(service)}-signoff"


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Show the sign-offs, decide for a role, take that back, or refuse while some are missing. See the module's RETURN.

    Raises :class:`RolloutError`, without a write, for whoever may not decide, and for a release that is not there.
    """
    problems = _problems(params)
    if problems:
        raise RolloutError(f"signoff: {'; '.join(problems)}. Nothing was written.")
    return Signoff(params, context, _kube.connect(params)).run()


def _problems(params: Mapping[str, Any]) -> list[str]:
    problems = []
    for role, entry in (params["approvers"] or {}).items():
        if role not in ROLES:
            problems.append(f"approvers has '{one_line(role, 60)}', expected one of {', '.join(ROLES)}")
        elif not isinstance(entry, dict) or set(entry) - {"users", "groups"} or not all(isinstance(names, list) for names in entry.values()):
            problems.append(f"approvers.{role} is not a dictionary of users and groups, each a list")
    if len(params["comment"]) > _COMMENT:
        problems.append(f"comment has {len(params['comment'])} characters, expected at most {_COMMENT}")
    if params["decision"] == REJECT and not params["comment"].strip():
        problems.append("comment is empty, expected why it is rejected")
    if not 0 < params["valid_hours"] <= _LONGEST_HOURS:
        problems.append(f"valid_hours is {params['valid_hours']:g}, expected more than 0 and at most {_LONGEST_HOURS}")
    return problems


def signed(kube: _kube.Kube, namespace: str, service: str, record: Mapping[str, Any]) -> dict[str, Judged]:
    """Return how each role stands for the release of ``record``, where anybody has decided; the inventory's mapping is not judged."""
    document = kube.find(_path(namespace, service))
    history = _history(document)
    if not any(entry.get("version") == record.get("version") for entry in history):
        return {}
    subject = subject_of(kube, namespace, service, record, None)
    return _approvals.judge(history, subject, Policy(), datetime.now(timezone.utc))


def subject_of(kube: _kube.Kube, namespace: str, service: str, record: Mapping[str, Any], selector: str | None) -> Subject:
    """Return what runs of the release, by the digests of its images."""
    version = str(record.get("version"))
    pods = kube.list(_kube.path_of("", "v1", "pods", namespace), {"labelSelector": selector or f"app={service},version={version}"})
    return Subject(version, str(record.get("plan_hash")), _approvals.images_of(pods), tuple(record.get("deployers") or ()))


def _path(namespace: str, service: str) -> str:
    return _kube.path_of("", "v1", "configmaps", namespace, configmap_name(service))


def _history(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    history = list(_record.kept(document, KEY).get("history") or [])
    broken = _approvals.broken_at(history)
    if broken is not None and document is not None:
        metadata = document["metadata"]
        raise RolloutError(
            f"ConfigMap {metadata['namespace']}/{metadata['name']}: entry {broken + 1} of {len(history)} was changed by hand, so that no sign-off counts. "
            f"Nothing was written. Next: find out who did; save it, delete the key {KEY}, and have everybody sign again."
        )
    return history


class Signoff:
    """Sign-offs of one service's release."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.namespace, self.service = params["namespace"], params["service"]
        self.policy = Policy(params["approvers"], params["deployer_may_approve"], params["one_role_per_person"])
        self.where = f"Sign-off of {self.service} {params['version']}"

    def run(self) -> dict[str, Any]:
        record = self._record()
        subject = subject_of(self.kube, self.namespace, self.service, record, self.params["pod_selector"])
        # Two approvers at once: everything is read and judged again.
        return _kube.until_undisturbed(lambda: self._once(subject), self.context.sleep)

    def _record(self) -> dict[str, Any]:
        path = _kube.path_of("", "v1", "configmaps", self.namespace, _record.record_name(self.service))
        record = _record.kept(self.kube.find(path), _record.RECORD_KEY)
        if record.get("version") != self.params["version"]:
            raise RolloutError(
                f"{self.where}: the record is of {record.get('version') or 'no release'}, expected {self.params['version']}. Nothing was written. "
                "Next: release it first (playbooks/deploy_v2.yml)."
            )
        if self.params["plan"] and _record.plan_hash(self.params["plan"]) != record.get("plan_hash"):
            raise RolloutError(
                f"{self.where}: it was released by another plan than this one. Nothing was written. Next: use the inventory it was released with."
            )
        return record

    def _once(self, subject: Subject) -> dict[str, Any]:
        document = self.kube.find(_path(self.namespace, self.service))
        history = _history(document)
        state = self.params["state"]
        if state == "shown":
            return self._answer(history, subject, changed=False)
        if state == "required":
            return self._required(self._answer(history, subject, changed=False))
        caller = _caller.caller(self.kube)
        decision = self.params["decision"] if state == "decided" else REVOKE
        before = self._judged(history, subject)
        self._refuse(caller, decision, subject, before)
        entry = self._entry(caller, decision, subject)
        if self._is_same(before[self.params["role"]], entry):
            return self._answer(history, subject, changed=False, caller=caller.name)
        history = _approvals.appended(history, entry)
        if not self.context.check_mode:
            self._write(document, history)
        return self._answer(history, subject, changed=True, caller=caller.name)

    def _judged(self, history: list[dict[str, Any]], subject: Subject) -> dict[str, Judged]:
        return _approvals.judge(history, subject, self.policy, datetime.now(timezone.utc))

    def _refuse(self, caller: _caller.Caller, decision: str, subject: Subject, before: Mapping[str, Judged]) -> None:
        """Raise :class:`RolloutError` with every reason why this person may not decide this."""
        role, problems = self.params["role"], []
        if not _approvals.mapped(self.params["approvers"], role, caller.name, caller.groups):
            problems.append(f"signoff_approvers does not have {caller.name} (groups {', '.join(caller.groups) or 'none'}) for role {role}, {ROLES[role]}")
        if decision == APPROVE:
            if not self.policy.deployer_may_approve and not subject.deployers:
                problems.append("the record does not say who has released it, so that nobody can be told from them")
            if not self.policy.deployer_may_approve and caller.name in subject.deployers:
                problems.append(f"{caller.name} has released it, and nobody approves their own release")
            others = [ROLES[other] for other, one in before.items() if other != role and one.state == APPROVED and one.entry.get("by") == caller.name]
            if self.policy.one_role_per_person and others:
                problems.append(f"{caller.name} has approved as {others[0]} already, and one person has one role")
            if not subject.images:
                problems.append(f"no pod of {self.params['version']} runs, so that there is nothing to approve")
            if _approvals.two_of_one(subject.images):
                problems.append(f"container {_approvals.two_of_one(subject.images)[0]} runs two images, expected one")
        if problems:
            raise RolloutError(
                f"{self.where} as {ROLES[role]} is refused: {'; '.join(problems)}. Nothing was written. "
                "Next: the right person does it with a kubeconfig of their own (kubectl auth whoami shows whose it is).",
                approver=caller.name,
            )

    def _entry(self, caller: _caller.Caller, decision: str, subject: Subject) -> dict[str, Any]:
        until = datetime.now(timezone.utc) + timedelta(hours=self.params["valid_hours"])
        groups = set((self.params["approvers"].get(self.params["role"]) or {}).get("groups") or ())
        return {
            "role": self.params["role"], "decision": decision, "by": caller.name, "groups": sorted(groups & set(caller.groups)), "time": _events.now(),
            "until": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "comment": one_line(self.params["comment"], _COMMENT), "version": subject.version,
            "plan_hash": subject.plan_hash, "images": list(subject.images),
        }

    @staticmethod
    def _is_same(before: Judged, entry: Mapping[str, Any]) -> bool:
        """Whether this very decision stands already: deciding again does not make it last longer."""
        if entry["decision"] == REVOKE:
            return not before.entry or before.entry.get("decision") == REVOKE
        stands = before.state == APPROVED if entry["decision"] == APPROVE else before.state == _approvals.REJECTED
        return stands and (before.entry.get("by"), before.entry.get("comment")) == (entry["by"], entry["comment"])

    def _write(self, document: dict[str, Any] | None, history: list[dict[str, Any]]) -> None:
        values = {KEY: json.dumps({"history": history})}
        if document is None:
            metadata = {"name": configmap_name(self.service), "namespace": self.namespace, "labels": _LABELS}
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values}
            self.kube.post(_kube.path_of("", "v1", "configmaps", self.namespace), made)
            return
        document.setdefault("data", {}).update(values)
        self.kube.put(_path(self.namespace, self.service), document)

    def _required(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["missing"]:
            listed = "; ".join(f"{one['title']}: {one['evidence']}" for one in answer["roles"] if one["role"] in answer["missing"])
            raise RolloutError(
                f"{self.where}: {len(answer['missing'])} of {len(self.params['roles'])} sign-offs are missing: {listed}. Nothing was written. "
                f"Next: ansible-playbook playbooks/signoff.yml -e signoff_role={answer['missing'][0]} -e signoff_decision=approve, by whom it concerns.",
                **answer,
            )
        return answer

    def _answer(self, history: list[dict[str, Any]], subject: Subject, changed: bool, caller: str = "") -> dict[str, Any]:
        judged = self._judged(history, subject)
        missing = [role for role in self.params["roles"] if judged[role].state != APPROVED]
        return {
            "changed": changed,
            "approver": caller,
            "roles": [one.shown() for one in judged.values()],
            "missing": missing,
            "complete": not missing,
            "images": list(subject.images),
            "history": [entry for entry in history if (entry.get("version"), entry.get("plan_hash")) == (subject.version, subject.plan_hash)],
            "text": _approvals.text(judged),
        }
