# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database holds of hypertables. Private to this collection.

Reading is set-based: the number of statements does not grow with tables or chunks. Only the views of timescaledb_information (by
column name) and PostgreSQL's own catalogs are read; the extension's catalog of chunks changed its shape four times between 2.22
and 2.29.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_declaration import Declaration
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_verdict import SHOWN
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session

_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


# The settings count for this transaction only. Without JIT: compiling these wide catalog queries costs more than running
# them. With an empty search path no foreign operator or function can be picked, and expressions print alike everywhere.
_SERVER = """
select set_config('statement_timeout', %(timeout_ms)s, true), set_config('lock_timeout', %(lock_ms)s, true),
       set_config('jit', 'off', true), set_config('search_path', 'pg_catalog', true),
       current_setting('server_version') as server_version, current_database()::text as database,
       pg_is_in_recovery() as in_recovery, e.extversion as version,
       current_setting('timescaledb.license', true) as license,
       current_setting('timescaledb.restoring', true) as restoring,
       to_regclass('timescaledb_information.hypertables') is not null as has_views,
       to_regclass('_timescaledb_catalog.metadata') is not null as has_metadata
from (select 1) as one left join pg_extension e on e.extname = 'timescaledb'
"""

_CATALOG_VERSION = "select value from _timescaledb_catalog.metadata where key = 'timescaledb_version'"

# to_jsonb() reads a view's columns by name: a column that a version does not have is absent, and no error.
_RELATIONS = r"""
with dimension as (
  select d.hypertable_schema, d.hypertable_name,
         jsonb_agg(to_jsonb(d) || jsonb_build_object('interval_us',
             (extract(epoch from (to_jsonb(d) ->> 'time_interval')::interval) * 1000000)::bigint)
           order by d.dimension_number) as dimensions
  from timescaledb_information.dimensions d group by 1, 2
), wanted as (
  select c.oid, n.nspname, c.relname, c.relkind, c.relowner, c.relacl, to_jsonb(h) as hypertable
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join timescaledb_information.hypertables h on h.hypertable_schema = n.nspname and h.hypertable_name = c.relname
  where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and ((n.nspname, c.relname) in (select s::name, t::name from unnest(%(schemas)s::text[], %(names)s::text[]) as w(s, t))
      or (n.nspname !~ '^(pg_|_timescaledb_|timescaledb_|information_schema$)' and c.relkind in ('r', 'p')
          and not c.relispartition
          and (c.relname like %(pattern)s or (%(every_hypertable)s and h.hypertable_name is not null))))
), chunk as (
  select i.inhparent, count(*) as chunks, count(*) filter (where c.relowner <> w.relowner) as foreign_owned
  from wanted w join pg_inherits i on i.inhparent = w.oid join pg_class c on c.oid = i.inhrelid
  where w.hypertable is not null group by 1
)
select w.oid::bigint as oid, w.nspname::text as schema, w.relname::text as name, w.relkind::text as relkind,
       pg_get_userbyid(w.relowner)::text as owner, w.hypertable, d.dimensions,
       coalesce(k.chunks, 0) as chunks, coalesce(k.foreign_owned, 0) as foreign_owned,
       w.relname like %(pattern)s as has_prefix,
       case when %(with_grants)s then (
         select jsonb_agg(distinct jsonb_build_object('role', r.rolname, 'privilege', a.privilege_type))
         from aclexplode(w.relacl) a join pg_roles r on r.oid = a.grantee where a.grantee <> w.relowner) end as grants
from wanted w
left join dimension d on d.hypertable_schema = w.nspname and d.hypertable_name = w.relname
left join chunk k on k.inhparent = w.oid
order by 2, 3
"""

# An index of the table and its copies on the chunks share a signature: columns by name (attribute numbers differ once a
# column was dropped), operator classes, options, collations, access method, predicate and expressions.
# TimescaleDB folds constants when it copies an index to a chunk, so that "(delta > (0)::double precision)" becomes
# "(delta > '0'::double precision)" there, and IN (...) an array constant. Predicates and expressions are therefore compared
# without casts, quotes and brackets. Where folding changes more than that, the name decides that TimescaleDB gives the copy.
_INDEXES = r"""
with rel as (
  select o as hoid, o as roid from unnest(%(oids)s::oid[]) as o
  union all
  select i.inhparent, i.inhrelid from pg_inherits i join pg_class c on c.oid = i.inhrelid and c.relkind = 'r'
  where i.inhparent = any(%(oids)s::oid[])
), total as (
  select hoid, count(*) - 1 as chunks from rel group by 1
), part as (
  select r.hoid, r.roid, x.indexrelid, x.indrelid, x.indisvalid and x.indisready as ok, x.indisunique, ic.relam,
         ic.relname, x.indclass::text as cls, x.indoption::text as opt, x.indcollation::text as coll, x.indnkeyatts as nk,
         x.indpred, x.indexprs, u.att, u.ord
  from rel r join pg_index x on x.indrelid = r.roid join pg_class ic on ic.oid = x.indexrelid,
       unnest(x.indkey::int2[]) with ordinality as u(att, ord)
), named as (
  select p.hoid, p.roid, p.indexrelid, p.relname, p.ok, p.indisunique, p.relam, p.cls, p.opt, p.coll, p.nk,
         array_agg(coalesce(a.attname::text, '(expression)') order by p.ord) as cols,
         max(coalesce(pg_get_expr(p.indpred, p.indrelid), '')) as pred,
         max(coalesce(pg_get_expr(p.indexprs, p.indrelid), '')) as exprs
  from part p left join pg_attribute a on a.attrelid = p.indrelid and a.attnum = p.att and p.att <> 0
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
), folded as (
  select n.*,
         case when pred <> '' or exprs <> '' then regexp_replace(regexp_replace(pred || ' | ' || exprs, %(casts)s, '', 'g'),
           %(brackets)s, '', 'g') end as ex,
         case when (pred <> '' or exprs <> '') and roid <> hoid then (
           select c.relname from pg_class c where c.oid = n.roid) end as chunk
  from named n
), sig as (
  select f.hoid, f.roid, f.relname, f.ok, f.indisunique, f.relam, f.cls, f.opt, f.coll, f.nk, f.cols, f.pred, f.exprs,
         coalesce(root.ex, f.ex, '') as ex
  from folded f left join folded root on root.hoid = f.hoid and root.roid = root.hoid and root.ex is not null
    and f.chunk is not null and f.relname = f.chunk || '_' || root.relname
), grouped as (
  select hoid, indisunique, relam, cls, opt, coll, nk, cols, ex,
         array_agg(relname::text order by relname) filter (where roid = hoid) as names,
         max(pred) filter (where roid = hoid) as pred, max(exprs) filter (where roid = hoid) as exprs,
         count(distinct roid) filter (where ok and roid <> hoid) as covered,
         count(distinct roid) filter (where roid <> hoid) as present,
         array_agg(distinct roid) filter (where roid <> hoid) as roids
  from sig group by 1, 2, 3, 4, 5, 6, 7, 8, 9
)
select g.hoid::bigint as oid, g.indisunique as "unique", m.amname::text as method, g.cols as columns, g.nk::int as key_count,
       g.pred as predicate, g.exprs as expressions, g.names, t.chunks, g.covered, g.present - g.covered as invalid,
       case when g.present < t.chunks then array(
         select n.nspname || '.' || c.relname
         from pg_inherits i join pg_class c on c.oid = i.inhrelid and c.relkind = 'r' join pg_namespace n on n.oid = c.relnamespace
         where i.inhparent = g.hoid and not (i.inhrelid = any(coalesce(g.roids, '{}')))
         order by i.inhrelid limit %(shown)s) end as missing
from grouped g join total t on t.hoid = g.hoid join pg_am m on m.oid = g.relam
where g.names is not null
order by 1, g.names
"""
_CASTS = (
    r"::(double precision|(character|bit) varying|(timestamp|time)(\(\d\))? with(out)? time zone"
    r'|("[^"]+"|[a-z_][a-z0-9_$]*)(\.("[^"]+"|[a-z_][a-z0-9_$]*))?)(\(\d+(,\d+)?\))?(\[\])*'
)
_BRACKETS = r"ARRAY(?=\[)|['\s(){}\[\]]"

_INVALID = r"""
select coalesce(i.inhparent, x.indrelid)::bigint as oid, n.nspname || '.' || ic.relname as index, n.nspname || '.' || c.relname as table
from pg_index x join pg_class ic on ic.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
join pg_namespace n on n.oid = c.relnamespace left join pg_inherits i on i.inhrelid = x.indrelid
where not (x.indisvalid and x.indisready) and n.nspname !~ '^pg_'
order by 2
"""

_PRIVILEGES = """
select w.schema, w.name, w.role, w.privilege,
       case when known.ok and c.oid is not null then has_table_privilege(w.role, c.oid, w.privilege) end as granted,
       case when known.ok and n.oid is not null then has_schema_privilege(w.role, n.oid, 'USAGE') end as usage,
       known.ok as role_exists
from unnest(%(schemas)s::text[], %(names)s::text[], %(roles)s::text[], %(privileges)s::text[])
       with ordinality as w(schema, name, role, privilege, number)
left join pg_namespace n on n.nspname = w.schema
left join pg_class c on c.relnamespace = n.oid and c.relname = w.name,
lateral (select w.role = 'public' or exists (select from pg_roles r where r.rolname = w.role) as ok) known
order by w.number
"""

_POLICIES = """
select j.hypertable_schema::text as schema, j.hypertable_name::text as name, j.proc_name::text as proc, j.config,
       extract(epoch from (j.config ->> 'drop_after')::interval) as drop_after,
       extract(epoch from (j.config ->> 'compress_after')::interval) as compress_after
from timescaledb_information.jobs j
where j.proc_name in ('policy_retention', 'policy_compression', 'policy_reorder') and j.hypertable_name is not null
"""


class Snapshot:
    """Everything that was read: ``database`` facts, and ``tables`` by (schema, name) as :func:`judge` wants them."""

    def __init__(self, database: dict[str, Any], tables: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.database = database
        self.tables = tables


def observe(session: Session, declaration: Declaration, query_timeout: float, suggest: bool = False) -> Snapshot:
    """Read all that the declaration needs, in at most seven statements and one snapshot of the database.

    ``suggest`` also reads grants, and takes every hypertable when no prefix is given.
    """
    database = _read_database(session, query_timeout)
    names = [*declaration.hypertables, *declaration.tables]
    rows = session.rows(
        _RELATIONS,
        {
            "schemas": [schema for schema, name in names],
            "names": [name for schema, name in names],
            "pattern": like_pattern(declaration.prefix),
            "every_hypertable": suggest and declaration.prefix is None,
            "with_grants": suggest,
        },
    )
    tables = {(row["schema"], row["name"]): _table(row, database) for row in rows}
    by_oid = {table["oid"]: table for table in tables.values()}
    detailed = [
        table["oid"]
        for name, table in tables.items()
        if table["kind"] == "hypertable" and (suggest or name in declaration.hypertables)
    ]
    if detailed:
        for row in session.rows(_INDEXES, {"oids": detailed, "shown": SHOWN, "casts": _CASTS, "brackets": _BRACKETS}):
            by_oid[row["oid"]]["indexes"].append(_index(row))
    if tables:
        for row in session.rows(_INVALID):
            if row["oid"] in by_oid:
                by_oid[row["oid"]]["invalid_indexes"].append({"index": row["index"], "table": row["table"]})
    _read_privileges(session, declaration, tables)
    if database["license"] == "timescale" and (suggest or any(entry["policies"] for entry in declaration.hypertables.values())):
        _read_policies(session, tables)
    return Snapshot(database, tables)


def like_pattern(prefix: str | None) -> str | None:
    r"""Return a LIKE pattern for names that start with ``prefix``; ``_`` and ``%`` in it stand for themselves."""
    if prefix is None:
        return None
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%"


def milliseconds(seconds: float) -> str:
    """Return a timeout for PostgreSQL, where 0 would mean none at all."""
    return str(max(1, int(seconds * 1000)))


def _read_database(session: Session, query_timeout: float) -> dict[str, Any]:
    timeout = milliseconds(query_timeout)
    row = session.rows(_SERVER, {"timeout_ms": timeout, "lock_ms": timeout})[0]
    if row["version"] is None or not row["has_views"]:
        raise RolloutError(
            f"{session.name}: the database has no timescaledb extension, expected one that holds hypertables. "
            "Next: check login_db, or run CREATE EXTENSION timescaledb as its owner"
        )
    row["catalog_version"] = None
    if row["has_metadata"]:
        found = session.rows(_CATALOG_VERSION)
        row["catalog_version"] = found[0]["value"] if found else None
    return row


def _table(row: Mapping[str, Any], database: Mapping[str, Any]) -> dict[str, Any]:
    hypertable = row["hypertable"]
    return {
        "oid": row["oid"],
        "kind": "hypertable" if hypertable else _KINDS[row["relkind"]],
        "owner": row["owner"],
        "dimensions": [_dimension(item) for item in row["dimensions"] or []],
        "chunks": row["chunks"],
        "foreign_owned_chunks": row["foreign_owned"],
        "has_prefix": bool(row["has_prefix"]),
        "compression": (hypertable or {}).get("compression_enabled"),
        "license": database["license"],
        "grants": row["grants"] or [],
        "indexes": [],
        "invalid_indexes": [],
        "privileges": {},
        "policies": {},
        "canary": None,
    }


def _dimension(item: Mapping[str, Any]) -> dict[str, Any]:
    interval: dict[str, int] | None = None
    if item.get("interval_us") is not None:
        interval = {"microseconds": int(item["interval_us"])}
    elif item.get("integer_interval") is not None:
        interval = {"integer": int(item["integer_interval"])}
    return {
        "column": item["column_name"],
        "type": item["column_type"],
        "kind": item["dimension_type"],
        "interval": interval,
        "partitions": item.get("num_partitions"),
    }


def _index(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "names": row["names"],
        "columns": row["columns"],
        "key_columns": row["columns"][: row["key_count"]],
        "unique": row["unique"],
        "method": row["method"],
        "predicate": row["predicate"],
        "expressions": row["expressions"],
        "chunks": row["chunks"],
        "covered": row["covered"],
        "invalid": row["invalid"],
        "missing": row["missing"] or [],
    }


def _read_privileges(session: Session, declaration: Declaration, tables: dict[tuple[str, str], dict[str, Any]]) -> None:
    wanted = [
        (schema, name, role, privilege)
        for (schema, name), entry in declaration.hypertables.items()
        if (schema, name) in tables
        for role, privileges in entry["privileges"].items()
        for privilege in privileges
    ]
    if not wanted:
        return
    keys = ("schemas", "names", "roles", "privileges")
    arguments = {key: [item[position] for item in wanted] for position, key in enumerate(keys)}
    for row in session.rows(_PRIVILEGES, arguments):
        if not row["role_exists"]:
            continue
        seen = tables[row["schema"], row["name"]]["privileges"].setdefault(
            row["role"], {"usage": bool(row["usage"]), "granted": []}
        )
        if row["granted"]:
            seen["granted"].append(row["privilege"])


def _read_policies(session: Session, tables: dict[tuple[str, str], dict[str, Any]]) -> None:
    for row in session.rows(_POLICIES):
        table = tables.get((row["schema"], row["name"]))
        if table is None:
            continue
        if row["proc"] == "policy_reorder":
            table["policies"]["reorder"] = (row["config"] or {}).get("index_name")
        else:
            kind, value = (
                ("retention", row["drop_after"])
                if row["proc"] == "policy_retention"
                else ("compression", row["compress_after"])
            )
            table["policies"][kind] = None if value is None else round(float(value) * 1_000_000)
