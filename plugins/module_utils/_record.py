# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module rollout_record: who may act, and what was done. Private to this collection.

A Lease is the lock, taken by compare-and-swap on resourceVersion. A ConfigMap is the record. Both live beside the service,
so that any phase can run alone, from another machine, and finds its state.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _caller, _events, _kube, _log, _unfinished
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

STATES = ["begin", "resume", "step", "message", "event", "finish", "release", "takeover", "show"]
STATUSES = ["started", "done", "failed", "skipped"]
OUTCOMES = ["complete", "rolled_back", "held", "failed", "cleaned_up"]

EVENT_SPEC: dict[str, dict[str, Any]] = {
    "kind": {"type": "str", "required": True, "choices": list(_events.KINDS)},
    "words": {"type": "str", "required": True},
    "by": {"type": "str", "default": "playbook"},
    "before": {"type": "int"},
    "after": {"type": "int"},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": STATES},
    "service": {"type": "str", "required": True},
    "plan": {"type": "dict"},
    "version": {"type": "str"},
    "step": {"type": "str"},
    "status": {"type": "str", "choices": STATUSES},
    "notes": {"type": "str"},
    "evidence": {"type": "dict"},
    "weight": {"type": "int"},
    "events": {"type": "list", "elements": "str"},
    "event": {"type": "dict", "options": EVENT_SPEC},
    "traffic": {"type": "dict"},
    "outcome": {"type": "str", "choices": OUTCOMES},
    "holder": {"type": "str"},
    "takeover": {"type": "str"},
    "lease_duration": {"type": "int", "default": 60},
    "break_glass": {"type": "str"},
}
SPEC_RULES: dict[str, Any] = {
    "required_if": [
        ["state", "begin", ["plan", "version", "holder"]],
        ["state", "resume", ["plan", "version", "holder"]],
        ["state", "event", ["event", "holder"]],
        ["state", "step", ["step", "status", "holder"]],
        ["state", "message", ["events", "holder"]],
        ["state", "finish", ["outcome", "holder"]],
        ["state", "release", ["holder"]],
        ["state", "takeover", ["takeover", "holder"]],
    ]
}
SUPPORTS_CHECK_MODE = True

RECORD_KEY = _events.RECORD_KEY
PREVIOUS_KEY = "previous.json"
SCHEMA = 1
_LABELS = {"app.kubernetes.io/managed-by": "signal.rollout"}
_EVIDENCE_LIMIT = 20_000


class Locked(RolloutError):
    """Another run holds the release."""


class NothingToResume(RolloutError):
    """There is no unfinished release of this plan."""


class LostLock(RolloutError):
    """This run does not hold the release (any more); it must not write."""


def plan_hash(plan: dict[str, Any]) -> str:
    """Return the SHA-256 of ``plan`` in canonical JSON: same plan, same hash, whatever the order of keys."""
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(recorded: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return in words what differs between two plans, key by key; long values by their beginning."""
    keys = sorted({*recorded, *asked})
    return [
        f"{key} was {one_line(recorded.get(key), 40)}, now {one_line(asked.get(key), 40)}"
        for key in keys
        if plan_hash({"value": recorded.get(key)}) != plan_hash({"value": asked.get(key)})
    ]


def lease_name(service: str) -> str:
    return f"signal-rollout-{service}"


def record_name(service: str) -> str:
    return f"signal-rollout-{service}"


def kept(document: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """Return the JSON object under ``key`` of a service's ConfigMap, empty without one. Raises :class:`RolloutError` for anything else."""
    text = ((document or {}).get("data") or {}).get(key)
    if document is None or not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        metadata = document["metadata"]
        raise RolloutError(
            f"ConfigMap {metadata['namespace']}/{metadata['name']}: {key} is not a JSON object. "
            "Next: somebody edited it; save it and delete the key to start anew."
        )
    return found


def keep(kube: _kube.Kube, namespace: str, service: str, document: dict[str, Any] | None, values: dict[str, str]) -> dict[str, Any]:
    """Write ``values`` into the service's ConfigMap as it was read, made where there was none; a change since then is refused with 409."""
    if document is None:
        metadata = {"name": record_name(service), "namespace": namespace, "labels": _LABELS}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values}
        return kube.post(_kube.path_of("", "v1", "configmaps", namespace), body)
    document.setdefault("data", {}).update(values)
    return kube.put(_kube.path_of("", "v1", "configmaps", namespace, record_name(service)), document)


_now = _events.now


@dataclass(frozen=True)
class Lease:
    """What a Lease object says. ``holder`` is empty when nobody holds it; ``token`` counts the holders so far."""

    holder: str
    token: int
    duration: int
    renewed: str
    resource_version: str


def read_lease(document: dict[str, Any] | None) -> Lease:
    spec = (document or {}).get("spec") or {}
    return Lease(
        str(spec.get("holderIdentity") or ""),
        int(spec.get("leaseTransitions") or 0),
        int(spec.get("leaseDurationSeconds") or 0),
        str(spec.get("renewTime") or ""),
        str(((document or {}).get("metadata") or {}).get("resourceVersion") or ""),
    )


def renew(kube: _kube.Kube, namespace: str, name: str, holder: str) -> None:
    """Renew the Lease ``name`` for ``holder``. Raises :class:`LostLock` when somebody else has it."""
    path = _kube.path_of("coordination.k8s.io", "v1", "leases", namespace, name)
    document = kube.find(path)
    lease = read_lease(document)
    if document is None or lease.holder != holder:
        raise LostLock(
            f"Lease {namespace}/{name} is held by '{lease.holder or 'nobody'}', expected '{holder}': "
            "this run must not write any more. Next: playbooks/status.yml shows who runs the release."
        )
    document["spec"]["renewTime"] = _now()
    kube.put(path, document)


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Do what ``state`` says to Lease and record. Returns the record, its log table and the holder."""
    return Keeper(params, context, _kube.connect(params)).run()


class Keeper:
    """Reads and writes one service's Lease and record."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.namespace: str = params["namespace"]
        self.service: str = params["service"]
        self.lease_path = _kube.path_of("coordination.k8s.io", "v1", "leases", self.namespace, lease_name(self.service))
        self.record_path = _kube.path_of("", "v1", "configmaps", self.namespace, record_name(self.service))

    def run(self) -> dict[str, Any]:
        state: str = self.params["state"]
        if self.context.check_mode and state != "show":
            # A plan must not take the lock away from the run that is really going on.
            return self._answer(self._read_record()[1], self._lease(), changed=False)
        # An interrupted run or its guard may still note an event: everything is read again, and checked again.
        return _kube.until_undisturbed(getattr(self, f"_{state}"), self.context.sleep)

    def _lease(self) -> Lease:
        return read_lease(self.kube.find(self.lease_path))

    def _read_record(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        document = self.kube.find(self.record_path)
        return document, _events.fold(kept(document, RECORD_KEY), kept(document, _events.GUARD_KEY))

    def _show(self) -> dict[str, Any]:
        return self._answer(self._read_record()[1], self._lease(), changed=False)

    def _begin(self) -> dict[str, Any]:
        lease, _taken = self._acquire()
        document, record = self._read_record()
        digest = plan_hash(self.params["plan"])
        same = record.get("plan_hash") == digest and record.get("version") == self.params["version"]
        already = same and record.get("outcome") in ("complete", "cleaned_up")
        if already:
            return self._answer(record, lease, changed=False, already=True)
        previous = None
        if same and record.get("outcome") in (None, "held"):
            record.update(holder=lease.holder, token=lease.token, outcome=None)
            record.setdefault("resumed", []).append({"time": _now(), "holder": lease.holder})
        else:
            previous = json.dumps(record) if record else None
            record = self._new_record(digest, lease)
        self._note_deployer(record)
        self._save(document, record, previous)
        return self._answer(record, lease, changed=True)

    def _resume(self) -> dict[str, Any]:
        """Take over an unfinished release of this very plan; refuse, before any write, when there is nothing to go on with."""
        record = self._read_record()[1]
        self._refuse_resume(record)
        lease, _taken = self._acquire()
        # Read again: what the dead run's guard wrote meanwhile must not be lost.
        document, record = self._need_record()
        self._refuse_resume(record)
        since = record.get("outcome") or "interrupted"
        record.update(holder=lease.holder, token=lease.token, outcome=None)
        record.setdefault("resumed", []).append({"time": _now(), "holder": lease.holder})
        _events.append(record, _events.event(_events.RESUMED, f"goes on after it was {since}", "rollout_record", lease.holder))
        self._note_deployer(record)
        self._save(document, record)
        return self._answer(record, lease, changed=True)

    def _note_deployer(self, record: dict[str, Any]) -> None:
        """Keep who releases, as the API server knows them: they do not sign off what they have released."""
        try:
            name = _caller.caller(self.kube).name
        except RolloutError:
            # An API server before 1.28 does not say; a sign-off then says that it does not know.
            return
        record["deployers"] = sorted({*(record.get("deployers") or []), name})

    def _refuse_resume(self, record: dict[str, Any]) -> None:
        """Raise :class:`NothingToResume` unless the record is an unfinished release of this version by this plan."""
        where = f"Release of {self.service} in namespace {self.namespace}"
        outcome, version = record.get("outcome"), record.get("version")
        if not version:
            raise NothingToResume(f"{where}: there is no record, so nothing to resume. Next: ansible-playbook playbooks/deploy_v2.yml.")
        if outcome in _unfinished.ENDED or outcome == "failed":
            raise NothingToResume(
                f"{where}: the release of {version} ended {_unfinished.when(record.get('finished'))} as '{outcome}', expected an "
                f"unfinished one. Nothing was written. Next: {_log.next_command(record)}."
            )
        if version != self.params["version"]:
            raise NothingToResume(
                f"{where}: the unfinished release is of {version}, expected {self.params['version']} (rollout_version). Nothing was "
                f"written. Next: resume it with rollout_version={version}, or run playbooks/rollback.yml for it."
            )
        different = differences(record.get("plan") or {}, self.params["plan"])
        if different:
            raise NothingToResume(
                f"{where}: this is not the plan that was begun: {'; '.join(different)}. Nothing was written. Next: run with the same "
                "variables and files as then, or run playbooks/rollback.yml and deploy the new plan."
            )

    def _event(self) -> dict[str, Any]:
        lease = self._renewed()
        document, record = self._need_record()
        entry = self.params["event"]
        _events.append(
            record,
            _events.event(
                entry["kind"], entry["words"], entry["by"], lease.holder, before=entry["before"], after=entry["after"]
            ),
        )
        self._save(document, record)
        return self._answer(record, lease, changed=True)

    def _new_record(self, digest: str, lease: Lease) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": str(uuid.uuid4()),
            "service": self.service,
            "version": self.params["version"],
            "plan": self.params["plan"],
            "plan_hash": digest,
            "holder": lease.holder,
            "token": lease.token,
            "started": _now(),
            "finished": None,
            "outcome": None,
            "break_glass": self.params.get("break_glass"),
            "steps": {},
            "order": [],
            "weights": [],
            "messages": [],
            "events": [],
        }

    def _acquire(self) -> tuple[Lease, bool]:
        """Take the Lease, or raise :class:`Locked` naming the holder. Renewing one's own is not a change."""
        document = self.kube.find(self.lease_path)
        lease = read_lease(document)
        me = self.params["holder"]
        if lease.holder and lease.holder != me:
            record = self._read_record()[1]
            resumes = self.params["state"] == "resume" and not self.params.get("takeover")
            if self.params.get("takeover") != lease.holder and not resumes:
                raise Locked(self._locked_words(lease), **self._answer(record, lease, changed=False))
            # Whose end was seen by its own guard or gate needs no waiting for: a process that is gone does not come back.
            if _events.death_seen(record, lease.holder) is None:
                self._await_silence(lease)
                document = self.kube.find(self.lease_path)
        return self._swap(document, me), lease.holder != me

    def _locked_words(self, lease: Lease) -> str:
        record = self._read_record()[1]
        step = (record.get("order") or ["no step yet"])[-1]
        return (
            f"Release of {self.service} in namespace {self.namespace} is held by '{lease.holder}' "
            f"(step '{step}', last sign of life {lease.renewed or 'unknown'}), expected nobody. Nothing was written. "
            "Next: wait for that run to end; if it is dead, playbooks/resume.yml goes on with its release, and "
            f"-e rollout_takeover='{lease.holder}' lets any other playbook take the lock."
        )

    def _await_silence(self, lease: Lease) -> None:
        """Let a takeover happen only when the holder shows no life for a whole lease duration, on our own clock."""
        duration = max(1, lease.duration or self.params["lease_duration"])
        self.context.progress(f"Watching the lease of '{lease.holder}' for {duration} s before taking over")
        deadline = time.monotonic() + duration
        while time.monotonic() < deadline:
            if self.context.sleep(min(1.0, max(0.0, deadline - time.monotonic()))):
                raise LostLock("Interrupted while waiting for the old lease to expire. Nothing was written.")
            current = self._lease()
            if current.resource_version != lease.resource_version:
                raise Locked(
                    f"Release of {self.service} cannot be taken over: '{current.holder or 'somebody'}' renewed the lease "
                    f"at {current.renewed}. Nothing was written. Next: wait for that run to end."
                )

    def _swap(self, document: dict[str, Any] | None, holder: str) -> Lease:
        before = read_lease(document)
        body = document or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": lease_name(self.service), "namespace": self.namespace, "labels": _LABELS},
        }
        same = before.holder == holder
        body["spec"] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": self.params["lease_duration"],
            "acquireTime": (body.get("spec") or {}).get("acquireTime") if same else _now(),
            "renewTime": _now(),
            "leaseTransitions": before.token if same else before.token + 1,
        }
        try:
            if document is None:
                parent = _kube.path_of("coordination.k8s.io", "v1", "leases", self.namespace)
                return read_lease(self.kube.post(parent, body))
            return read_lease(self.kube.put(self.lease_path, body))
        except _kube.KubeError as error:
            if error.status != 409:
                raise
            lease = self._lease()
            raise Locked(self._locked_words(lease), **self._answer({}, lease, changed=False)) from None

    def _check_holder(self) -> Lease:
        lease = self._lease()
        if lease.holder != self.params["holder"]:
            raise LostLock(
                f"Release of {self.service} is held by '{lease.holder or 'nobody'}', expected '{self.params['holder']}' (this run). "
                "Nothing was written. Next: run the playbook from its begin, which takes the lock."
            )
        return lease

    def _step(self) -> dict[str, Any]:
        lease = self._renewed()
        document, record = self._need_record()
        name, status = self.params["step"], self.params["status"]
        entry = dict(record["steps"].get(name) or {})
        before = json.dumps(record, sort_keys=True)
        if status == "started":
            entry = {"status": status, "started": _now(), "finished": None, "notes": "", "evidence": {}}
        else:
            if entry.get("status") == status and not self.params.get("notes") and not self.params.get("evidence"):
                return self._answer(record, lease, changed=False)
            entry.setdefault("started", _now())
            entry.update(status=status, finished=_now())
        if self.params.get("notes") is not None:
            entry["notes"] = one_line(self.params["notes"])
        if self.params.get("evidence") is not None:
            entry["evidence"] = _bounded(self.params["evidence"])
        record["steps"][name] = entry
        if name not in record["order"]:
            record["order"].append(name)
        if self.params.get("weight") is not None:
            # The weight holds from the step's beginning: it is written first, and noted once the step has proven it.
            record["weights"].append({"time": entry["started"], "weight": self.params["weight"], "step": name})
        changed = json.dumps(record, sort_keys=True) != before
        self._save(document, record)
        return self._answer(record, lease, changed=changed)

    def _message(self) -> dict[str, Any]:
        """Remember which messages were sent; ``already`` tells that all of them had been."""
        lease = self._renewed()
        document, record = self._need_record()
        new = [event for event in self.params["events"] if event not in record["messages"]]
        if not new:
            return self._answer(record, lease, changed=False, already=True)
        record["messages"].extend(new)
        self._save(document, record)
        return self._answer(record, lease, changed=True)

    def _finish(self) -> dict[str, Any]:
        self._check_holder()
        document, record = self._need_record()
        record["outcome"] = self.params["outcome"]
        record["finished"] = _now()
        if self.params.get("notes") is not None:
            record["notes"] = one_line(self.params["notes"], 1000)
        self._save(document, record)
        return self._answer(record, self._give_up(), changed=True)

    def _release(self) -> dict[str, Any]:
        lease = self._lease()
        if lease.holder != self.params["holder"]:
            return self._answer(self._read_record()[1], lease, changed=False)
        return self._answer(self._read_record()[1], self._give_up(), changed=True)

    def _takeover(self) -> dict[str, Any]:
        lease, taken = self._acquire()
        document, record = self._read_record()
        if record:
            record.update(holder=lease.holder, token=lease.token)
            record.setdefault("resumed", []).append({"time": _now(), "holder": lease.holder})
            self._save(document, record)
        return self._answer(record, lease, changed=taken)

    def _renewed(self) -> Lease:
        self._check_holder()
        renew(self.kube, self.namespace, lease_name(self.service), self.params["holder"])
        return self._lease()

    def _give_up(self) -> Lease:
        document = self.kube.find(self.lease_path)
        if document is None:
            return read_lease(None)
        document["spec"]["holderIdentity"] = ""
        return read_lease(self.kube.put(self.lease_path, document))

    def _need_record(self) -> tuple[dict[str, Any], dict[str, Any]]:
        document, record = self._read_record()
        if document is None or not record:
            raise RolloutError(
                f"There is no record of a release of {self.service} in namespace {self.namespace}. "
                "Next: begin one (playbooks/deploy_v2.yml does)."
            )
        return document, record

    def _save(
        self, document: dict[str, Any] | None, record: dict[str, Any], previous: str | None = None
    ) -> dict[str, Any]:
        values = {RECORD_KEY: json.dumps(record), **({PREVIOUS_KEY: previous} if previous else {})}
        return keep(self.kube, self.namespace, self.service, document, values)

    def _answer(self, record: dict[str, Any], lease: Lease, changed: bool, already: bool = False) -> dict[str, Any]:
        rows = _log.rows(record)
        return {
            "changed": changed,
            "already": already,
            "record": record,
            "plan_hash": record.get("plan_hash"),
            "holder": lease.holder,
            "token": lease.token,
            "log": rows,
            "log_text": _log.table(rows),
            "document_log_text": _log.document(rows),
            "log_lines_text": _log.lines(rows),
            "next_command": _log.next_command(record),
            "events": record.get("events") or [],
            "unfinished": _unfinished.text(record, lease.holder, lease.renewed, self.params.get("holder"), self.params.get("traffic")),
        }


def _bounded(evidence: dict[str, Any]) -> dict[str, Any]:
    """A ConfigMap holds 1 MiB; one step's evidence must not use it up."""
    text = json.dumps(evidence, default=str)
    if len(text) <= _EVIDENCE_LIMIT:
        return json.loads(text)
    return {"truncated": True, "bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
