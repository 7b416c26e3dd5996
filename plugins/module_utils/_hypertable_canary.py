# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A row that shows whether a hypertable routes rows to its chunks. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_catalog import milliseconds
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

_CANARY_SETTINGS = """
select set_config('statement_timeout', %(timeout_ms)s, true), set_config('lock_timeout', '2000', true),
       set_config('search_path', 'pg_catalog', true)
"""

_COLUMNS = """
select a.attrelid::bigint as oid, a.attname::text as name, format_type(a.atttypid, null) as type, a.attnotnull as required,
       a.atthasdef or a.attidentity <> '' as has_default, t.typcategory::text as category,
       (select e.enumlabel::text from pg_enum e where e.enumtypid = a.atttypid order by e.enumsortorder limit 1) as label,
       newest.schema as chunk_schema, newest.name as chunk_name
from pg_attribute a join pg_type t on t.oid = a.atttypid
left join lateral (
  select n.nspname::text as schema, c.relname::text as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
  join pg_namespace n on n.oid = c.relnamespace where i.inhparent = a.attrelid and c.relkind = 'r'
  order by i.inhrelid desc limit 1) newest on true
where a.attrelid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attrelid, a.attnum
"""


def insert_canaries(session: Session, tables: Mapping[tuple[str, str], dict[str, Any]], query_timeout: float) -> None:
    """Insert one row into each hypertable, note which chunk took it, and roll it back.

    The row is a copy of one in the newest chunk, one microsecond later, so that it falls into an existing chunk and
    satisfies the table's constraints. An empty table gets a made-up row of the present time, whose new chunk is rolled back
    with it. Triggers fire, and sequences do not go back.
    """
    if not tables:
        return
    oids = [table["oid"] for table in tables.values()]
    columns: dict[int, list[dict[str, Any]]] = {oid: [] for oid in oids}
    for row in session.rows(_COLUMNS, {"oids": oids}):
        columns[row["oid"]].append(row)
    for name, table in tables.items():
        table["canary"] = _insert_canary(session, name, table, columns[table["oid"]], query_timeout)


def _insert_canary(
    session: Session, name: tuple[str, str], table: Mapping[str, Any], columns: list[dict[str, Any]], query_timeout: float
) -> dict[str, Any]:
    made_up, unknown = _made_up_row(table, columns)
    session.restart(read_only=False)
    try:
        session.raw_rows(_CANARY_SETTINGS, {"timeout_ms": milliseconds(query_timeout)})
        found = session.raw_rows(_copied_row(name, table, columns)) if columns and columns[0]["chunk_name"] else []
        if not found:
            if unknown:
                return {"routed": False, "chunk": None, "reason": f"no row to copy and no value known for {one_line(', '.join(unknown))}"}
            found = session.raw_rows(*_insert_statement(name, made_up))
        row = found[0]
    except psycopg2.Error as error:
        return _canary_refused(error)
    finally:
        session.rollback()
    if row["oid"] == table["oid"]:
        return {"routed": False, "chunk": None, "reason": "the row stayed in the table itself"}
    return {"routed": True, "chunk": row["chunk"], "reason": None}


def _canary_refused(error: Any) -> dict[str, Any]:
    # A uniqueness error is raised by the chunk's own index: the row had found its chunk.
    if error.pgcode == "23505" and error.diag.schema_name == "_timescaledb_internal":
        return {"routed": True, "chunk": f"{error.diag.schema_name}.{error.diag.table_name}", "reason": None}
    text = one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
    kind = "privilege: " if error.pgcode == "42501" else ""
    return {"routed": False, "chunk": None, "reason": f"{kind}{text}"}


def _copied_row(name: tuple[str, str], table: Mapping[str, Any], columns: list[dict[str, Any]]) -> Any:
    sql = psycopg2.sql
    first = table["dimensions"][0]
    values = []
    for column in columns:
        value = sql.Identifier(column["name"])
        if column["name"] == first["column"] and str(first["type"]).startswith("timestamp"):
            value = value + sql.SQL(" + interval '1 microsecond'")
        values.append(value)
    return sql.SQL(
        "insert into {table} ({columns}) overriding system value select {values} from {chunk} order by {time} desc limit 1 "
        "returning tableoid::bigint as oid, tableoid::regclass::text as chunk"
    ).format(
        table=sql.Identifier(*name),
        columns=sql.SQL(", ").join(sql.Identifier(column["name"]) for column in columns),
        values=sql.SQL(", ").join(values),
        chunk=sql.Identifier(columns[0]["chunk_schema"], columns[0]["chunk_name"]),
        time=sql.Identifier(first["column"]),
    )


def _made_up_row(table: Mapping[str, Any], columns: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return values for the columns that need one, and the columns for which none is known."""
    row: dict[str, Any] = {}
    unknown = []
    time_columns = [item["column"] for item in table["dimensions"] if item["kind"] == "Time"]
    for column in columns:
        is_time = column["name"] in time_columns
        if not is_time and (not column["required"] or column["has_default"]):
            continue
        value = _made_up_value(column)
        if value is None:
            unknown.append(f"{column['name']} ({column['type']})")
        else:
            row[column["name"]] = value
    return row, unknown


def _made_up_value(column: Mapping[str, Any]) -> str | None:
    if column["type"] == "uuid":
        return "00000000-0000-0000-0000-000000000000"
    if column["type"] in ("json", "jsonb"):
        return "{}"
    # Categories of pg_type: array, boolean, date and time, enum, numeric, string, interval.
    known = {"A": "{}", "B": "false", "D": "now", "E": column["label"], "N": "0", "S": "canary", "T": "0"}
    return known.get(column["category"])


def _insert_statement(name: tuple[str, str], row: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    sql = psycopg2.sql
    statement = sql.SQL(
        "insert into {table} ({columns}) overriding system value values ({values}) "
        "returning tableoid::bigint as oid, tableoid::regclass::text as chunk"
    ).format(
        table=sql.Identifier(*name),
        columns=sql.SQL(", ").join(sql.Identifier(column) for column in row),
        values=sql.SQL(", ").join(sql.Placeholder() for column in row),
    )
    return statement, list(row.values())
