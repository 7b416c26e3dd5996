# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happened to a release besides its steps: interruptions, ways back, other hands. Private to this collection.

Written by whoever saw it, also by a process that does not hold the release's run: each write reads the record, changes only the
events, and carries the resourceVersion.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

RECORD_KEY = "record.json"
# Where the guard in the cluster, which must not write the record, says what it did; and its name as the author of an event.
GUARD_KEY = "guard.json"
CLUSTER_GUARD = "guard in the cluster"
INTERRUPTED, GUARD, DRIFT, OUTAGE, RESUMED = "interrupted", "guard", "drift", "outage", "resumed"
KINDS = (INTERRUPTED, GUARD, DRIFT, OUTAGE, RESUMED)
# Events that only the end of a run can cause: whoever holds the lock then is dead.
DEATHS = (INTERRUPTED, GUARD)
# A record holds 1 MiB; this many are more than a person reads.
KEPT = 50
_WORDS = 400
_PAUSE = 0.2


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(
    kind: str,
    words: str,
    by: str,
    holder: str,
    signal: str | None = None,
    before: int | None = None,
    after: int | None = None,
    when: str | None = None,
) -> dict[str, Any]:
    """Return one event.

    ``by`` is who saw or did it (a module's name, or guard), ``holder`` the run it happened to, ``before`` and ``after`` the canary's
    weight in percent where it is known, ``when`` the time in UTC (now without it).
    """
    return {
        "time": when or now(),
        "kind": kind,
        "signal": signal,
        "by": by,
        "holder": holder,
        "before": before,
        "after": after,
        "words": one_line(words, _WORDS),
    }


def append(record: dict[str, Any], entry: dict[str, Any]) -> None:
    """Add one event to ``record``; the oldest go when there are too many."""
    record["events"] = [*(record.get("events") or []), entry][-KEPT:]


def death_seen(record: dict[str, Any], holder: str) -> dict[str, Any] | None:
    """Return the newest event by which ``holder`` is known to have ended, or None.

    The guard in the cluster has seen no end, only silence: a run that was cut off from the cluster may come back.
    """
    told = [entry for entry in record.get("events") or [] if entry.get("by") != CLUSTER_GUARD]
    seen = [entry for entry in told if entry.get("kind") in DEATHS and entry.get("holder") == holder]
    return seen[-1] if holder and seen else None


def fold(record: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Return ``record`` with what the guard in the cluster has ``said`` of this very release among its events, in order of time."""
    kind = {"moved": GUARD, "drift": DRIFT}.get(str(said.get("state")))
    if kind is None or not record.get("id") or said.get("release") != record["id"]:
        return record
    entry = event(
        kind,
        str(said.get("words")),
        CLUSTER_GUARD,
        str(said.get("holder")),
        before=said.get("before"),
        after=said.get("after"),
        when=str(said.get("time")),
    )
    events = record.get("events") or []
    if not any((known.get("time"), known.get("by")) == (entry["time"], CLUSTER_GUARD) for known in events):
        record["events"] = sorted([*events, entry], key=lambda known: str(known.get("time")))[-KEPT:]
    return record


def amend(kube: _kube.Kube, namespace: str, name: str, change: Callable[[dict[str, Any]], bool], seconds: float) -> str:
    """Change the record in ConfigMap ``name`` by compare-and-swap, again and again for ``seconds``.

    ``change`` edits the record it is given and says whether there is something to write. Returns '' or, since a note must never stop
    who makes it, why it could not be written.
    """
    path = _kube.path_of("", "v1", "configmaps", namespace, name)
    deadline = time.monotonic() + seconds
    while True:
        try:
            document = kube.find(path)
            text = ((document or {}).get("data") or {}).get(RECORD_KEY)
            if document is None or not text:
                return f"there is no record in ConfigMap {namespace}/{name}"
            record = json.loads(text)
            if not change(record):
                return ""
            document["data"][RECORD_KEY] = json.dumps(record)
            kube.put(path, document)
            return ""
        except ValueError:
            return f"the record in ConfigMap {namespace}/{name} is not JSON"
        except RolloutError as error:
            if time.monotonic() + _PAUSE >= deadline or getattr(error, "status", 0) == 403:
                return error.message
        time.sleep(_PAUSE)


def add(kube: _kube.Kube, namespace: str, name: str, entry: dict[str, Any], seconds: float = 10.0) -> str:
    """Add one event to the record in ConfigMap ``name``; returns '' or why it could not be written."""

    def change(record: dict[str, Any]) -> bool:
        append(record, entry)
        return True

    return amend(kube, namespace, name, change, seconds)
