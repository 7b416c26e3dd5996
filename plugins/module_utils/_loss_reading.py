# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads from a live database which of its rows a backup does not hold. Private to this collection.

The judgement is :mod:`_data_loss`'s; this is the SQL. Alembic's own table is left out: its row is the state of the schema, no data.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _data_loss
from ansible_collections.signal.rollout.plugins.module_utils._backup_manifest import Inventory, Table
from ansible_collections.signal.rollout.plugins.module_utils._data_loss import Loss, Snapshot, TableLoss
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

_ALEMBIC = "alembic_version"
_TABLES = """
select n.nspname::text as schema, c.relname::text as name,
       (select array_agg(a.attname::text) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and c.relname <> 'alembic_version'
  and n.nspname !~ '^(pg_|_timescaledb_|timescaledb_|information_schema$)'
  and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
order by 1, 2
"""
_SETTINGS = """
select set_config('search_path', '', true), set_config('row_security', 'off', true), set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO, MDY', true), set_config('jit', 'off', true),
       set_config('statement_timeout', %(statement)s, true), set_config('lock_timeout', '10s', true)
"""
# A row is new when its 32-bit transaction number lies between the first that had not begun and now, on a circle.
_NEW = "(mod(xmin::text::bigint - {first} + 4294967296, 4294967296) <= {distance} or xmin::text::bigint = any({running}))"


def read(session: Session, backup: Inventory | None, base: str, same_cluster: bool, timeout: float) -> Loss:
    """Return what going back to ``backup`` would lose of the session's database.

    ``base`` is the snapshot whose rows the backup holds: its own, or that of the moment when it was last restored. Without ``backup``
    every table counts as known to it. The session must be at the begin of a REPEATABLE READ transaction. Every row is read once.
    """
    session.rows(_SETTINGS, {"statement": str(max(1, round(timeout * 1000)))})
    now = _data_loss.snapshot_of(session.rows("select pg_current_snapshot()::text as now")[0]["now"])
    then = _data_loss.snapshot_of(base) if same_cluster else None
    known = {table.full_name: table for table in (backup.tables if backup else ()) if table.name != _ALEMBIC}
    found = session.rows(_TABLES)
    losses = [_table(session, row, known if backup else None, then, now) for row in found]
    if backup and then is not None and _rewritten(losses):
        # Not one row of the backup is left: the database was itself restored since, and its transactions tell nothing.
        losses = [_table(session, row, known, None, now) for row in found]
    there = [item.table for item in losses]
    losses += [_data_loss.gone(name, known[name].rows) for name in _data_loss.missing_tables(there, known)]
    return Loss(tuple(losses))


def _rewritten(losses: list[TableLoss]) -> bool:
    shared = [item for item in losses if item.backup_rows and item.rows]
    return len(shared) > 1 and all(item.written == item.rows for item in shared)


def _table(session: Session, row: dict[str, Any], known: dict[str, Table] | None, then: Snapshot | None, now: Snapshot | None) -> TableLoss:
    full_name = f"{row['schema']}.{row['name']}"
    table = known.get(full_name) if known else None
    column = table.time_column if table and table.time_column in (row["columns"] or []) else ""
    arguments: dict[str, Any] = {}
    exact = then is not None and now is not None and now.xmax - then.xmax <= _data_loss.MAX_DISTANCE
    if exact and then is not None and now is not None:
        written = _NEW.format(first="%(first)s::bigint", distance="%(distance)s", running="%(running)s::bigint[]")
        arguments = {"first": then.first_new, "distance": now.xmax - then.xmax, "running": then.running_new}
    elif column and table and table.max_time:
        written = "{column} > %(newest)s"
        arguments = {"newest": table.max_time}
    else:
        written = "false"
    sql, name = psycopg2.sql.SQL, psycopg2.sql.Identifier
    identifier = name(column) if column else sql("null")
    newest = "coalesce(max({column})::text, '')" if column else "''"
    text = f"select count(*) as rows, count(*) filter (where {written}) as written, {newest} as newest from {{table}}"
    try:
        seen = session.rows(sql(text).format(column=identifier, table=name(row["schema"], row["name"])), arguments)[0]
    except RolloutError as error:
        error.reword(f"{full_name} cannot be counted: {error.message}")
        raise
    before = table.rows if table else None if known is not None else seen["rows"] - seen["written"]
    judge = _data_loss.by_transaction if exact else _data_loss.by_time
    return judge(full_name, seen["rows"], seen["written"], before, seen["newest"])
