# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which messages of a release were sent: claimed before they are sent, so that two runners never tell people twice. Private.

The ledger is a key of its own in the ConfigMap of the record, written by compare-and-swap, without the release's lock: people are told
before a release begins, and after it has ended. A message goes from ``claimed`` (certainly not sent) over ``sending`` (perhaps sent) to
``done``. What a run that died left as ``claimed`` is sent by the next one. What it left as ``sending`` is ``uncertain``: people are told
at most once.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _events, _kube, _record
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

KEY = "messages.json"
CLAIMED, SENDING, DONE = "claimed", "sending", "done"
DELIVERED, REFUSED, UNCERTAIN = "delivered", "failed", "uncertain"
# Releases whose messages are remembered: the next one is announced before the last one's are all sent.
_RELEASES = 5
# A release has about ten; this many leave room for milestones and issues by hand.
_EVENTS = 100
_TRIES = 30
_POLL = 0.15  # seconds

Entry = dict[str, Any]


# ------------------------------------------------------------------------------------------------ decisions


@dataclass(frozen=True)
class Decision:
    """What is to be done about one message. ``todo``: the targets to tell. ``wait``: another run is at it."""

    todo: list[int] = field(default_factory=list)
    wait: bool = False
    # Targets of which a run that died may have told some.
    perhaps: list[int] = field(default_factory=list)
    taken_over_from: str = ""


def decide(entry: Mapping[str, Any] | None, occasion: str, count: int, now: datetime, had: Iterable[int] = (), again: bool = False) -> Decision:
    """Return what to do about a message for ``count`` targets. Pure.

    ``entry`` is what the ledger has of it, ``occasion`` what it is sent for (a deployment, or a start time): an entry of another one does
    not count. ``had``: targets that an older record says were told. ``again``: people have asked for what is uncertain to be sent again.
    """
    if entry is None or entry.get("occasion") != occasion:
        return Decision(todo=[index for index in range(count) if index not in set(had)])
    settled = {DELIVERED} if again else {DELIVERED, UNCERTAIN}
    told = {int(index) for index, target in (entry.get("targets") or {}).items() if target.get("state") in settled} | set(had)
    todo = [index for index in range(count) if index not in told]
    if entry.get("state") == DONE:
        return Decision(todo=todo)
    if not _is_stale(entry, now):
        return Decision(wait=True)
    if entry.get("state") == CLAIMED:
        return Decision(todo=todo, taken_over_from=str(entry.get("by") or "somebody"))
    perhaps = [int(index) for index in entry.get("pending") or [] if int(index) not in told]
    return Decision(todo=[index for index in todo if again or index not in perhaps], perhaps=perhaps, taken_over_from=str(entry.get("by") or "somebody"))


def _is_stale(entry: Mapping[str, Any], now: datetime) -> bool:
    """Whether whoever claimed it has had its time. Clocks that differ do no harm: a claim that was taken over can send nothing any more."""
    claimed = moment_of(str(entry.get("time") or ""))
    return claimed is None or now >= claimed + timedelta(seconds=float(entry.get("seconds") or 0))


def moment_of(text: str) -> datetime | None:
    """Return a time in ISO 8601 with its zone, or None for anything else."""
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def outside(moment: Mapping[str, Any], now: datetime) -> str:
    """Return why a message is not due now, in words; empty when it is.

    ``moment``: ``start`` of the release, and ``opens`` and ``closes``, seconds before it. Raises :class:`RolloutError` for a bad one.
    """
    start = moment_of(str(moment["start"]))
    if start is None:
        raise RolloutError(
            f"notify: moment.start is '{one_line(moment['start'], 60)}', expected a time with its zone such as 2026-11-30T22:00:00+01:00. "
            "Nothing was sent. Next: set rollout_start_time."
        )
    if not moment["opens"] > moment["closes"] >= 0:
        raise RolloutError(f"notify: moment.opens is {moment['opens']} and closes {moment['closes']}, expected opens > closes >= 0. Nothing was sent.")
    first, last = start - timedelta(seconds=moment["opens"]), start - timedelta(seconds=moment["closes"])
    window = f"from {_minute(first)} to {_minute(last)}, before the start at {_minute(start)}"
    if now < first:
        return f"it is {_minute(now)}, too early: due {window}"
    return f"it is {_minute(now)}, too late: due {window}" if now >= last else ""


def _minute(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def events_of(ledgers: Mapping[str, Any], version: str, plan_hash: str | None) -> dict[str, Entry]:
    """Return the messages of one version and, where it is known, one plan, by their event."""
    for release in reversed(ledgers.get("releases") or []):
        if release.get("version") == version and plan_hash in (None, release.get("plan_hash")):
            return dict(release.get("events") or {})
    return {}


def with_events(ledgers: Mapping[str, Any], version: str, plan_hash: str, events: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the ledger with the messages of one release, which becomes the newest."""
    others = [entry for entry in ledgers.get("releases") or [] if (entry.get("version"), entry.get("plan_hash")) != (version, plan_hash)]
    newest = sorted(events.items(), key=lambda item: str(item[1].get("time")))[-_EVENTS:]
    return {"releases": [*others, {"version": version, "plan_hash": plan_hash, "events": dict(newest)}][-_RELEASES:]}


def with_messages(record: Mapping[str, Any], document: dict[str, Any] | None, version: str, plan_hash: str | None) -> dict[str, Any]:
    """Return the record with every message of its release that somebody has certainly had, also those sent before it began."""
    told = list(record.get("messages") or [])
    for event, entry in events_of(_record.kept(document, KEY), version, plan_hash).items():
        counts = not entry.get("deployment") or entry.get("occasion") == record.get("id")
        if counts and event not in told and any(target.get("state") == DELIVERED for target in (entry.get("targets") or {}).values()):
            told.append(event)
    return {**record, "messages": told}


# ------------------------------------------------------------------------------------------------ the ledger


class Ledger:
    """One message of one release in the API server."""

    def __init__(self, kube: _kube.Kube, params: Mapping[str, Any], seconds: float, context: Context) -> None:
        self.kube = kube
        self.context = context
        self.namespace, self.service, self.version = params["namespace"], params["service"], params["version"]
        self.event, self.count = params["event"], len(params["targets"]) + len(params["required_targets"])
        self.by = params.get("holder") or "somebody"
        self.again = bool(params.get("send_again"))
        self.claim = uuid.uuid4().hex
        self._seconds = seconds
        self._plan, self._occasion = params.get("plan"), params.get("occasion")
        self._of_deployment = self._occasion is None
        self._path = _kube.path_of("", "v1", "configmaps", self.namespace, _record.record_name(self.service))

    def look(self) -> Decision:
        """Return what would be done, without a write."""
        return self._read()[3]

    def take(self) -> tuple[Decision, Entry]:
        """Claim the message, or wait for whoever has. Returns the targets to tell, and what the ledger had of it."""
        for attempt in range(_TRIES):
            document, ledgers, entry, decision = self._read()
            while decision.wait and not self._is_mine(entry) and not self.context.sleep(_POLL):
                document, ledgers, entry, decision = self._read()
            if entry is not None and self._is_mine(entry):
                # The answer to our own write was lost.
                return Decision(todo=list(entry["pending"]), taken_over_from=str(entry.get("taken_over_from") or "")), entry
            if decision.wait:
                return decision, entry or {}
            if not decision.todo and not decision.perhaps:
                return decision, entry or {}
            mine = self._claimed(entry, decision)
            if self._write(document, ledgers, mine):
                return decision, mine
            self.context.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise RolloutError(f"notify: message {self.event} could not be claimed in {_TRIES} tries, others write to {self._path} all the time. Nothing was sent.")

    def start(self) -> bool:
        """Say that it is being sent from here on. False when another run has taken the claim over: then it must not be sent."""
        return self._update(lambda entry: {**entry, "state": SENDING})

    def finish(self, results: Mapping[int, Mapping[str, Any]]) -> bool:
        """Note what became of each target."""
        now = _events.now()
        made = {str(index): {**result, "time": now} for index, result in results.items()}
        return self._update(lambda entry: {**entry, "state": DONE, "pending": [], "targets": {**(entry.get("targets") or {}), **made}})

    def _is_mine(self, entry: Entry | None) -> bool:
        return entry is not None and entry.get("claim") == self.claim

    def _claimed(self, before: Entry | None, decision: Decision) -> Entry:
        same = before if before is not None and before.get("occasion") == self._occasion else {}
        targets = dict((same or {}).get("targets") or {})
        for index in decision.perhaps:
            if index not in decision.todo:
                reason = f"{decision.taken_over_from} ended while it was sent"
                targets[str(index)] = {"service": "", "state": UNCERTAIN, "reason": reason, "time": _events.now()}
        entry = {
            "occasion": self._occasion, "state": CLAIMED if decision.todo else DONE, "by": self.by, "claim": self.claim, "time": _events.now(),
            "seconds": self._seconds, "pending": decision.todo, "targets": targets, "deployment": self._of_deployment,
        }
        if decision.taken_over_from:
            entry["taken_over_from"] = decision.taken_over_from
        return entry

    def _read(self) -> tuple[dict[str, Any] | None, dict[str, Any], Entry | None, Decision]:
        document = self.kube.find(self._path)
        record = _record.kept(document, _record.RECORD_KEY)
        plan_hash = _record.plan_hash(self._plan) if self._plan else None
        own = record if record.get("version") == self.version and plan_hash in (None, record.get("plan_hash")) else {}
        self.plan_hash = plan_hash or str(own.get("plan_hash") or "")
        if self._occasion is None:
            self._occasion = str(own.get("id") or "")
        ledgers = _record.kept(document, KEY)
        entry = events_of(ledgers, self.version, self.plan_hash).get(self.event)
        return document, ledgers, entry, decide(entry, self._occasion, self.count, datetime.now(timezone.utc), self._noted(own), self.again)

    def _noted(self, record: Mapping[str, Any]) -> list[int]:
        """Targets that a record of before there was a ledger says were told."""
        messages = set(record.get("messages") or []) if record.get("id") == self._occasion else set()
        if self.event in messages:
            return list(range(self.count))
        return [index for index in range(self.count) if f"{self.event}#{index}" in messages]

    def _write(self, document: dict[str, Any] | None, ledgers: Mapping[str, Any], entry: Entry) -> bool:
        """Write this message's entry; False when it has to be read again first."""
        events = {**events_of(ledgers, self.version, self.plan_hash), self.event: entry}
        text = json.dumps(with_events(ledgers, self.version, self.plan_hash, events))
        try:
            _record.keep(self.kube, self.namespace, self.service, document, {KEY: text})
        except _kube.KubeError as error:
            if error.lost_race or error.outcome_unknown or error.transient:
                return False
            raise
        return True

    def _update(self, change: Callable[[Entry], Entry]) -> bool:
        """Change our own entry; False when it is not ours any more."""
        for attempt in range(_TRIES):
            document, ledgers, entry, _decision = self._read()
            if entry is None or not self._is_mine(entry):
                return False
            changed = change(entry)
            if changed == entry or self._write(document, ledgers, changed):
                return True
            self.context.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise RolloutError(f"notify: what became of message {self.event} could not be written in {_TRIES} tries. Next: look at the API server.")
