# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a restore leaves in the cluster to know its own databases by. Private to this collection.

A mark is one JSON object in the comment of a database (``COMMENT ON DATABASE``). The comment is in a shared catalog: it is read
from any database of the cluster, changes in the transaction that renames the database, and goes with the database. Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

_OPENING = "signal.rollout: "
# PostgreSQL cuts longer names without an error (NAMEDATALEN - 1).
MAX_NAME = 63
# Digits of the time at the end of a derived name: to the millisecond.
STAMP_DIGITS = 17

RESTORING = "restoring"
VERIFIED = "verified"
SUPERSEDED = "superseded"
SCRATCH = "scratch"
STATES = (RESTORING, VERIFIED, SUPERSEDED, SCRATCH)


@dataclass(frozen=True)
class Mark:
    """What one database is to a restore.

    ``state``: ``restoring`` (filled now, or by a run that died), ``verified`` (equal to its backup, not yet in use), ``superseded``
    (was the live database until a verified one took its name), ``scratch`` (for a rehearsal only, dropped at its end).
    ``live``: name of the database that it replaces, or was. ``sha256`` and ``file``: the backup. ``created``: when, UTC.
    ``successor``: OID of the database that took the name of a superseded one. ``base``: ``pg_current_snapshot()`` of the moment from
    which rows in the successor are newer than the backup; '' before. ``comment`` and ``connection_limit``: what a superseded database had before.
    """

    state: str
    live: str
    sha256: str = ""
    file: str = ""
    created: str = ""
    successor: int = 0
    base: str = ""
    comment: str = ""
    connection_limit: int = -1

    def encoded(self) -> str:
        """Return the comment that stands for this mark."""
        return _OPENING + json.dumps(dataclasses.asdict(self), sort_keys=True)

    def become(self, state: str, **changes: str | int) -> Mark:
        """Return the mark of the same database in its next state."""
        return dataclasses.replace(self, state=state, **changes)  # type: ignore[arg-type]


def decode(comment: str | None) -> Mark | None:
    """Return the mark that a comment holds; None for a comment of somebody else's, or one that is not whole."""
    if not comment or not comment.startswith(_OPENING):
        return None
    try:
        fields = json.loads(comment[len(_OPENING) :])
        mark = Mark(**fields)
    except (ValueError, TypeError):
        return None
    return mark if mark.state in STATES and isinstance(mark.live, str) else None


def derived_name(live: str, purpose: str, moment: datetime) -> str:
    """Return ``LIVE_PURPOSE_STAMP`` within the length of a name; a long ``live`` is cut and told apart by a digest.

    ``purpose`` is ``restore``, ``before`` or ``scratch``. Raises nothing.
    """
    # Two swaps of a small database fit into one second.
    ending = f"_{purpose}_{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03d}"
    room = MAX_NAME - len(ending)
    if len(live.encode()) <= room:
        return live + ending
    digest = hashlib.sha256(live.encode()).hexdigest()[:8]
    kept = live.encode()[: room - 9].decode(errors="ignore")
    return f"{kept}_{digest}{ending}"


def lock_key(live: str) -> int:
    """Return the advisory lock's key by which two restores of one database keep out of each other's way (a signed 64-bit number)."""
    digest = hashlib.sha256(f"signal.rollout database_restore {live}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
