# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup restored into a database of its own for a while, to prove it or to rehearse on it. Private to this collection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from ansible_collections.signal.rollout.plugins.module_utils import _backup_store, _database_marks, _postgresql, _restore_tools
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session
from ansible_collections.signal.rollout.plugins.module_utils._restore_tools import Backup, Tools

_SILENCE_SECONDS = 30.0
# A rehearsal of a run that was killed is dropped by a later one, but never one that may still be going on.
_ABANDONED = timedelta(days=1)


@contextlib.contextmanager
def scratch_database(tools: Tools, backup: Backup, context: Context) -> Iterator[str]:
    """Restore ``backup`` into a new database, compare it with the manifest, and yield its name; it is dropped at the end.

    ``tools.params`` are a superuser's, of any database of the server. Raises :class:`RolloutError` when the backup cannot be restored
    there, or is not restored as its manifest says.
    """
    session = _postgresql.connect_committing(tools.params, _SILENCE_SECONDS)
    try:
        _restore_tools.check(session, backup, tools)
        drop_abandoned(session)
        now = datetime.now(timezone.utc)
        live = backup.manifest.inventory.database
        name = _database_marks.derived_name(live, _database_marks.SCRATCH, now)
        mark = _database_marks.Mark(_database_marks.SCRATCH, live, backup.manifest.sha256, backup.path.name, _backup_store.stamp(now))
        _restore_tools.create(session, name, backup, tools.params["login_user"], mark)
        try:
            _restore_tools.fill(tools, backup, name, context)
            _restore_tools.compare(tools, backup, name)
            yield name
        finally:
            _dropped(tools, name)
    finally:
        session.close()


def _dropped(tools: Tools, name: str) -> None:
    # By a connection of its own: the one before may be what has failed.
    with contextlib.suppress(RolloutError), contextlib.closing(_postgresql.connect_committing(tools.params, _SILENCE_SECONDS)) as session:
        _restore_tools.drop(session, name)


def drop_abandoned(session: Session) -> list[str]:
    """Drop scratch databases older than a day that nobody is connected to; return their names."""
    rows = session.rows(
        "select d.datname::text as name, shobj_description(d.oid, 'pg_database') as comment from pg_database d "
        "where not exists (select from pg_stat_activity a where a.datid = d.oid)"
    )
    newest = _backup_store.stamp(datetime.now(timezone.utc) - _ABANDONED)
    names = []
    for row in rows:
        mark = _database_marks.decode(row["comment"])
        if mark is not None and mark.state == _database_marks.SCRATCH and mark.created < newest:
            _restore_tools.drop(session, row["name"])
            names.append(row["name"])
    return names
