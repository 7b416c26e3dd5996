# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads what a database holds, table by table, in the caller's snapshot. Private to this collection.

TimescaleDB's chunks are found by inheritance and its views are read by the names of their columns, since its own catalog changes
from version to version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._backup_manifest import HYPERTABLE, TABLE, Inventory, Table
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

# With an empty search path definitions name every schema; without row security a count is of all rows, or an error.
_SETTINGS = """
select set_config('search_path', '', true), set_config('row_security', 'off', true), set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO, MDY', true), set_config('intervalstyle', 'postgres', true), set_config('jit', 'off', true),
       set_config('statement_timeout', %(statement_ms)s, true), set_config('lock_timeout', %(lock_ms)s, true),
       set_config('idle_in_transaction_session_timeout', '0', true)
"""

_DATABASE = """
select current_database()::text as database, current_setting('server_version') as server_version,
       pg_catalog.pg_encoding_to_char(d.encoding)::text as encoding, d.datcollate::text as collate, d.datctype::text as ctype,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') as provider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '') as locale,
       (select system_identifier::text from pg_catalog.pg_control_system()) as system_identifier,
       pg_catalog.pg_current_snapshot()::text as snapshot,
       (select jsonb_object_agg(extname, extversion) from pg_catalog.pg_extension) as extensions,
       pg_catalog.to_regclass('timescaledb_information.dimensions') is not null as has_dimensions,
       (select array_agg(quote_ident(n.nspname) || '.alembic_version' order by n.nspname) from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relname = 'alembic_version' and c.relkind = 'r')::text[] as alembic_tables
from pg_catalog.pg_database d where d.datname = current_database()
"""

_OURS = "n.nspname !~ '^(pg_|_timescaledb_|timescaledb_|information_schema$)'"
_NO_MEMBER = "not exists (select from pg_catalog.pg_depend e where e.classid = '{catalog}'::regclass and e.objid = {oid} and e.deptype = 'e')"

_TABLES = rf"""
with wanted as (
  select c.oid, n.nspname, c.relname, c.relkind from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and {_OURS}
    and {_NO_MEMBER.format(catalog="pg_catalog.pg_class", oid="c.oid")}
)
select w.nspname::text as schema, w.relname::text as name, w.relkind::text as relkind,
       (select coalesce(array_agg(a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
                                  || case when a.attnotnull then ' not null' else '' end order by a.attnum), '{{}}')
        from pg_catalog.pg_attribute a where a.attrelid = w.oid and a.attnum > 0 and not a.attisdropped)::text[] as columns,
       (select coalesce(jsonb_object_agg(i.relname, pg_catalog.pg_get_indexdef(x.indexrelid)
                                         || case when x.indisvalid and x.indisready then '' else ' INVALID' end), '{{}}')
        from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid where x.indrelid = w.oid) as indexes,
       (select coalesce(jsonb_object_agg(k.conname, pg_catalog.pg_get_constraintdef(k.oid)), '{{}}')
        from pg_catalog.pg_constraint k where k.conrelid = w.oid and k.contype in ('c', 'f', 'p', 'u', 'x')) as constraints
from wanted w order by 1, 2
"""

_HYPERTABLES = """
with dimension as (
  select to_jsonb(d) ->> 'hypertable_schema' as schema, to_jsonb(d) ->> 'hypertable_name' as name,
         to_jsonb(d) ->> 'column_name' as time_column
  from timescaledb_information.dimensions d where (to_jsonb(d) ->> 'dimension_number')::int = 1
), parent as (
  select c.oid, d.* from dimension d join pg_catalog.pg_namespace n on n.nspname = d.schema
  join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = d.name
), chunk as (
  select p.oid, count(*) as chunks from parent p join pg_catalog.pg_inherits i on i.inhparent = p.oid group by 1
), chunk_index as (
  select p.oid, count(*) as number from parent p join pg_catalog.pg_inherits i on i.inhparent = p.oid
  join pg_catalog.pg_index x on x.indrelid = i.inhrelid where x.indisvalid and x.indisready group by 1
), chunk_constraint as (
  select p.oid, count(*) as number from parent p join pg_catalog.pg_inherits i on i.inhparent = p.oid
  join pg_catalog.pg_constraint k on k.conrelid = i.inhrelid where k.convalidated and k.contype in ('c', 'f', 'p', 'u', 'x') group by 1
)
select p.schema, p.name, p.time_column, coalesce(c.chunks, 0) as chunks, coalesce(x.number, 0) as chunk_indexes,
       coalesce(k.number, 0) as chunk_constraints
from parent p left join chunk c using (oid) left join chunk_index x using (oid) left join chunk_constraint k using (oid)
"""

_OBJECTS = f"""
select kind, count(*) as number from (
  select case c.relkind when 'v' then 'views' when 'm' then 'materialized views' else 'sequences' end as kind
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('v', 'm', 'S') and c.relpersistence <> 't' and {_OURS}
    and {_NO_MEMBER.format(catalog="pg_catalog.pg_class", oid="c.oid")}
  union all
  select 'functions' from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  where {_OURS} and {_NO_MEMBER.format(catalog="pg_catalog.pg_proc", oid="p.oid")}
  union all
  select 'triggers' from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace where not t.tgisinternal and {_OURS}
  union all
  select 'row policies' from pg_catalog.pg_policy y join pg_catalog.pg_class c on c.oid = y.polrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace where {_OURS}
) as found group by 1
"""

# The bootstrap superuser (10) and the predefined roles exist everywhere.
_ROLES = """
select r.rolname::text as role from pg_catalog.pg_roles r
where r.oid > 10 and r.rolname !~ '^pg_' and r.oid in (
  select d.refobjid from pg_catalog.pg_shdepend d
  where d.refclassid = 'pg_catalog.pg_authid'::regclass
    and d.dbid = (select oid from pg_catalog.pg_database where datname = current_database()))
order by 1
"""


def read(session: Session, statement_timeout: float, lock_timeout: float, counted: Callable[[str, int, int], None] | None = None) -> Inventory:
    """Return what the session's database holds, as its transaction sees it; every row is counted.

    The session must be in a REPEATABLE READ transaction that has not read anything, or was just restarted. ``counted(table, done, of)``
    is called before each table. Raises :class:`RolloutError` when the role may not see all rows.
    """
    settings = {"statement_ms": _milliseconds(statement_timeout), "lock_ms": _milliseconds(lock_timeout)}
    session.rows(_SETTINGS, settings)
    database = session.rows(_DATABASE)[0]
    hypertables: dict[tuple[str, str], dict[str, Any]] = {}
    if database["has_dimensions"]:
        hypertables = {(row["schema"], row["name"]): row for row in session.rows(_HYPERTABLES)}
    rows = session.rows(_TABLES)
    tables = []
    for place, row in enumerate(rows):
        if counted:
            counted(f"{row['schema']}.{row['name']}", place, len(rows))
        tables.append(_table(session, row, hypertables.get((row["schema"], row["name"]))))
    return Inventory(
        database=database["database"],
        server_version=database["server_version"],
        system_identifier=database["system_identifier"],
        encoding=database["encoding"],
        locale={name: database[name] for name in ("provider", "collate", "ctype", "locale")},
        alembic=_alembic(session, database["alembic_tables"] or []),
        extensions=database["extensions"] or {},
        snapshot=database["snapshot"],
        tables=tuple(tables),
        roles=tuple(row["role"] for row in session.rows(_ROLES)),
        objects={row["kind"]: row["number"] for row in session.rows(_OBJECTS)},
    )


def _table(session: Session, row: dict[str, Any], hypertable: dict[str, Any] | None) -> Table:
    name = psycopg2.sql.Identifier(row["schema"], row["name"])
    ends = psycopg2.sql.SQL("'' as first, '' as last")
    if hypertable:
        column = psycopg2.sql.Identifier(hypertable["time_column"])
        ends = psycopg2.sql.SQL("coalesce(min({0})::text, '') as first, coalesce(max({0})::text, '') as last").format(column)
    # Tables that inherit in the ordinary way are listed, and counted, by themselves.
    only = psycopg2.sql.SQL("only " if row["relkind"] == "r" and not hypertable else "")
    try:
        seen = session.rows(psycopg2.sql.SQL("select count(*) as rows, {} from {}{}").format(ends, only, name))[0]
    except RolloutError as error:
        error.reword(f"{row['schema']}.{row['name']} cannot be counted: {error.message}")
        raise
    return Table(
        schema=row["schema"],
        name=row["name"],
        kind=HYPERTABLE if hypertable else TABLE,
        rows=seen["rows"],
        time_column=hypertable["time_column"] if hypertable else "",
        min_time=seen["first"],
        max_time=seen["last"],
        chunks=hypertable["chunks"] if hypertable else 0,
        columns=tuple(row["columns"]),
        indexes=_digests(row["indexes"]),
        constraints=_digests(row["constraints"]),
        chunk_indexes=hypertable["chunk_indexes"] if hypertable else 0,
        chunk_constraints=hypertable["chunk_constraints"] if hypertable else 0,
    )


def _digests(definitions: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in sorted(definitions.items())}


def _alembic(session: Session, tables: list[str]) -> tuple[str, ...]:
    revisions: list[str] = []
    for table in tables:
        # The names were quoted by the server.
        revisions += [str(row["version_num"]) for row in session.rows(f"select version_num from {table} order by 1")]
    return tuple(revisions)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
