# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database says about its schema, who migrates it, and who is in the way. Private to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._ddl_locks import Catalog, Hypertable, plain
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

_GONE_SECONDS = 10.0
# More rows than this are told as "at least".
COUNTED = 1_000_000


def _key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"signal.rollout schema_migration {purpose}".encode()).digest()[:8], "big", signed=True)


# Advisory locks belong to one database. RUN is held by the session that started a migration, FENCE is shared by the sessions that
# migrate: one that outlives its starter keeps the next run out.
RUN = _key("run")
FENCE = _key("fence")

_SERVER = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,
  current_setting('transaction_read_only') = 'on' AS read_only, current_setting('is_superuser') = 'on' AS superuser
"""
# What a migration may make, by schema and name, with a digest of its definition. Chunks and members of extensions are not listed.
_OBJECTS = """
WITH spaces AS (
  SELECT oid, nspname FROM pg_namespace
  WHERE nspname !~ '^(pg_|information_schema$|_timescaledb_|timescaledb_)'
), relations AS (
  SELECT c.oid, c.relkind, s.nspname || '.' || c.relname AS name, c.relowner, c.reloptions FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
       WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'relation' END || ' ' || name AS object,
       concat_ws(' ', relkind, relowner, reloptions::text, CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END) AS definition
FROM relations WHERE relkind NOT IN ('i', 'I', 't')
UNION ALL
SELECT 'column ' || r.name || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid))
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'p', 'c') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint ' || r.name || '.' || c.conname, concat_ws(' ', pg_get_constraintdef(c.oid), c.convalidated)
FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
UNION ALL
SELECT 'index ' || r.name, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid) FROM relations r JOIN pg_index i ON i.indexrelid = r.oid
UNION ALL
SELECT 'trigger ' || r.name || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function ' || s.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', md5(p.prosrc)
FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'enum ' || s.nspname || '.' || t.typname, string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY 1
UNION ALL
SELECT 'schema ' || nspname, '' FROM spaces
"""
_INVALID = """
SELECT indexrelid::regclass::text AS name, indrelid::regclass::text AS "table" FROM pg_index WHERE NOT indisvalid ORDER BY 1
"""
_HYPERTABLES = """
SELECT h.hypertable_schema AS "schema", h.hypertable_name AS name, h.num_chunks::int AS chunks,
  (SELECT array_agg(d.column_name::text ORDER BY d.dimension_number) FROM timescaledb_information.dimensions d
   WHERE d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name) AS columns
FROM timescaledb_information.hypertables h
"""
_TABLES = """
SELECT n.nspname AS "schema", c.relname AS name, pg_relation_size(c.oid) > 0 AS filled,
  (SELECT array_agg(i.indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^(pg_|information_schema$|_timescaledb_|timescaledb_)'
"""
_BLOCKERS = """
SELECT DISTINCT b.pid, a.usename AS "user", a.application_name AS application, host(a.client_addr) AS client, a.state,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float AS transaction_seconds, a.query,
  w.relation::regclass::text AS relation, w.mode
FROM pg_locks w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
WHERE w.pid = ANY(%s) AND NOT w.granted ORDER BY b.pid
"""
_HOLDERS = """
SELECT l.pid, a.usename AS "user", a.application_name AS application, host(a.client_addr) AS client, a.backend_start::text AS since
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = ANY(%s) ORDER BY l.pid
"""


@dataclass(frozen=True)
class Server:
    """What the session runs on."""

    version: int
    superuser: bool


class SchemaState:
    """One database by a direct session that commits each statement by itself."""

    def __init__(self, session: _postgresql.Session, version_table: str) -> None:
        self.session = session
        self._version_table = version_table

    def server(self) -> Server:
        """Look at the server; raises :class:`RolloutError` for one that cannot be migrated through this connection."""
        self.session.refuse_pooler()
        seen = self.session.rows(_SERVER)[0]
        name = self.session.name
        if seen["standby"]:
            raise RolloutError(f"{name}: the server is a standby, expected the primary. Next: give the primary's address")
        if seen["read_only"]:
            raise RolloutError(f"{name}: transactions are read-only by default. Next: ALTER ROLE or ALTER DATABASE ... RESET default_transaction_read_only")
        return Server(seen["version"], seen["superuser"])

    def revisions(self) -> list[str]:
        """Return the rows of Alembic's table, sorted; none where there is no table."""
        if not self.session.rows("SELECT to_regclass(%s) AS found", [self._version_table])[0]["found"]:
            return []
        table = _postgresql.psycopg2.sql.Identifier(*self._version_table.split("."))
        statement = _postgresql.psycopg2.sql.SQL("SELECT version_num FROM {}").format(table)
        return sorted(row["version_num"] for row in self.session.rows(statement))

    def objects(self) -> dict[str, str]:
        """Return each object of the schema with its definition."""
        return {row["object"]: row["definition"] for row in self.session.rows(_OBJECTS)}

    def invalid_indexes(self) -> list[dict[str, str]]:
        return self.session.rows(_INVALID)

    def catalog(self) -> Catalog:
        """Return what the locks of a migration depend on."""
        tables = self.session.rows(_TABLES)
        known = self.session.rows("SELECT to_regclass('timescaledb_information.hypertables') IS NOT NULL AS known")[0]["known"]
        found = self.session.rows(_HYPERTABLES) if known else []
        hypertables = {plain(row["schema"], row["name"]): Hypertable(row["chunks"], tuple(row["columns"] or ())) for row in found}
        filled = {plain(row["schema"], row["name"]) for row in tables if row["filled"]}
        indexes = {index: plain(row["schema"], row["name"]) for row in tables for index in row["indexes"] or ()}
        return Catalog(hypertables, frozenset(filled | {name for name, table in hypertables.items() if table.chunks}), indexes)

    def content(self, table: str, column: str | None) -> int | None:
        """Return how many rows a table holds, or a column other than null, counted up to :data:`COUNTED`; None where that took too long."""
        sql = _postgresql.psycopg2.sql
        wanted = sql.SQL("WHERE {} IS NOT NULL").format(sql.Identifier(column)) if column else sql.SQL("")
        statement = sql.SQL("SELECT count(*)::int AS rows FROM (SELECT FROM {} {} LIMIT {}) AS held")
        composed = statement.format(sql.Identifier(*table.split(".")), wanted, sql.Literal(COUNTED))
        try:
            return int(self.session.raw_rows(composed)[0]["rows"])
        except _postgresql.psycopg2.errors.QueryCanceled:
            return None
        except _postgresql.psycopg2.Error as error:
            raise self.session.translated(error) from error

    def blockers(self, processes: Sequence[int]) -> list[dict[str, Any]]:
        """Return who keeps one of ``processes`` waiting for a lock."""
        found = self.session.rows(_BLOCKERS, [list(processes)])
        return [{**row, "query": one_line(row["query"] or "", 200)} for row in found]

    def take_lock(self) -> None:
        """Take the lock of a run; raises :class:`RolloutError` with the holder when another run has it."""
        if not self.session.rows("SELECT pg_try_advisory_lock(%s) AS taken", [RUN])[0]["taken"]:
            raise self._locked("another run migrates this database")
        if not self.session.rows("SELECT pg_try_advisory_lock(%s) AS taken", [FENCE])[0]["taken"]:
            raise self._locked("a migration whose run is gone is still at work in this database")
        self.session.rows("SELECT pg_advisory_unlock(%s)", [FENCE])

    def _locked(self, what: str) -> RolloutError:
        holders = [row for row in self.session.rows(_HOLDERS, [[RUN, FENCE]]) if row["pid"] != self.session.process]
        named = "; ".join(holder_words(row) for row in holders) or "it has ended meanwhile"
        return RolloutError(f"{self.session.name}: {what} ({named}); nothing was changed. Next: wait for its end and run again", locked_by=holders)

    def look_statement(self) -> str:
        """Return the statement by which a migrating session sees its process and whether this run holds the lock."""
        high, low = (RUN >> 32) & 0xFFFFFFFF, RUN & 0xFFFFFFFF
        return (
            "SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            f"AND classid = {high} AND objid = {low} AND pid = {self.session.process} "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
        )

    def end_sessions(self, processes: Sequence[int]) -> list[int]:
        """Wait until the sessions of a child that is gone have ended, ending those that go on; return those that stay."""
        deadline = time.monotonic() + _GONE_SECONDS
        left = list(processes)
        while left:
            rows = self.session.rows("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s) AND datname = current_database()", [left])
            left = [row["pid"] for row in rows]
            if not left or time.monotonic() >= deadline:
                break
            with contextlib.suppress(RolloutError):
                self.session.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(%s) AND usename = session_user", [left])
            time.sleep(0.05)
        return left


FENCE_STATEMENT = f"SELECT pg_try_advisory_lock_shared({FENCE})"


def holder_words(row: Mapping[str, Any]) -> str:
    """Name one session for a message."""
    where = f" from {row['client']}" if row.get("client") else ""
    what = f", {row['application']}" if row.get("application") else ""
    return f"process {row['pid']} of {row.get('user') or 'somebody'}{what}{where}"


def blocker_words(row: Mapping[str, Any]) -> str:
    """Name one blocker: who, for how long, on what, and its last statement."""
    if not row["pid"]:
        return f"a prepared transaction holds {row['relation'] or 'a lock'} (SELECT * FROM pg_prepared_xacts)"
    age = f" for {row['transaction_seconds']:.0f} s" if row.get("transaction_seconds") else ""
    query = f": {one_line(row['query'], 80)}" if row.get("query") else ""
    return f"{holder_words(row)} holds {row['relation'] or 'a lock'}, {row.get('state') or 'state unknown'}{age}{query}"


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return what came, went and changed between two readings of :meth:`SchemaState.objects`.

    Parts of a table that came or went as a whole are not repeated.
    """
    found = []
    for mark, names in (
        ("created", after.keys() - before.keys()),
        ("dropped", before.keys() - after.keys()),
        ("changed", {name for name in before.keys() & after.keys() if before[name] != after[name]}),
    ):
        tables = {name.removeprefix("table ") for name in names if name.startswith("table ")}
        for name in sorted(names):
            kind, _blank, path = name.partition(" ")
            if kind in ("column", "constraint", "trigger") and path.rpartition(".")[0] in tables and mark != "changed":
                continue
            found.append(f"{mark} {name}")
    return found
