# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which declared indexes a database has, and by which statement each missing one is made. Private to this collection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._index_file import TRANSACTION_PER_CHUNK, Index
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

CREATED = "created"
UNCHANGED = "unchanged"
REBUILT = "rebuilt"
HYPERTABLE = "hypertable"
# Kinds of relation that can be indexed, as pg_class has them.
_KINDS = {"r": "table", "p": "partitioned table", "m": "materialized view"}

_TABLES = """
SELECT d.place, c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind, pg_get_userbyid(c.relowner) AS owner,
  pg_has_role(c.relowner, 'USAGE') AS is_mine
FROM unnest(%(names)s::text[]) WITH ORDINALITY d (name, place)
LEFT JOIN pg_class c ON c.oid = to_regclass(d.name) LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY d.place
"""
_HYPERTABLES = "SELECT hypertable_schema AS schema, hypertable_name AS name FROM timescaledb_information.hypertables"
_HAS_TIMESCALE = "SELECT to_regclass('timescaledb_information.hypertables') IS NOT NULL AS has"
_INDEXES = """
SELECT i.indrelid::bigint AS table_oid, c.relname AS name, i.indisvalid AND i.indisready AND i.indislive AS is_valid,
  pg_get_indexdef(i.indexrelid) AS definition, (SELECT min(conname) FROM pg_constraint WHERE conindid = i.indexrelid) AS constraint
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY (%(oids)s) ORDER BY c.relname
"""
# Whatever else already has the name: names of tables, indexes and sequences of one schema are shared.
_TAKEN = """
SELECT d.place, c.relkind AS kind, t.oid::regclass::text AS on_table
FROM unnest(%(schemas)s::text[], %(names)s::text[], %(oids)s::bigint[]) WITH ORDINALITY d (schema, name, table_oid, place)
JOIN pg_namespace n ON n.nspname = d.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = d.name
LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid
WHERE i.indrelid IS DISTINCT FROM d.table_oid::oid
"""
_VALID = """
SELECT i.indisvalid AND i.indisready AND i.indislive AS is_valid
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s AND c.relname = %s
"""


@dataclass(frozen=True)
class Plan:
    """What becomes of one declared index, and by which statements."""

    index: Index
    schema: str
    table_oid: int
    kind: str
    action: str
    method: str
    create: str
    drop: str

    @property
    def shown(self) -> str:
        return f"index {self.index.name} on {self.schema}.{self.index.table}"

    def entry(self) -> dict[str, Any]:
        """Return this index in the module's result."""
        entry = {
            "name": self.index.name,
            "table": f"{self.schema}.{self.index.table}",
            "kind": self.kind,
            "action": self.action,
            "method": None,
            "statement": None,
            "valid": {UNCHANGED: True, REBUILT: False}.get(self.action),
            "attempts": 0,
            "seconds": 0.0,
        }
        if self.action != UNCHANGED:
            entry.update(method=self.method, statement=self.create)
        return entry


def quoted(*names: str | None) -> str:
    """Return a name for SQL, its parts quoted; parts that are None are left out."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names if name)


def signature(definition: str) -> str:
    """Return what of ``pg_get_indexdef`` says how the index is made: uniqueness, and all from USING on.

    A name that holds the word USING would be cut in the wrong place; both sides of a comparison are then unequal, never equal.
    """
    head, using, rest = definition.partition(" USING ")
    return f"{'UNIQUE ' if head.startswith('CREATE UNIQUE ') else ''}{using.strip()} {rest}"


def statements(index: Index, schema: str, kind: str, concurrently: bool) -> tuple[str, str, str]:
    """Return how the index is made (the module's ``method``), the statement that makes it and the one that drops it.

    A hypertable refuses CONCURRENTLY and takes one transaction per chunk instead, which a unique index cannot have; a partitioned
    table has neither.
    """
    method = "blocks_writes"
    if concurrently and kind in ("table", "materialized view"):
        method = "concurrently"
    elif concurrently and kind == HYPERTABLE and not index.unique:
        method = "transaction_per_chunk"
    word = " CONCURRENTLY" if method == "concurrently" else ""
    tail = index.tail(*([TRANSACTION_PER_CHUNK] if method == "transaction_per_chunk" else []))
    create = f"CREATE {'UNIQUE ' if index.unique else ''}INDEX{word} {quoted(index.name)} ON {quoted(schema, index.table)} {tail}"
    return method, create, f"DROP INDEX{word} {quoted(schema, index.name)}"


def is_valid(session: Session, plan: Plan) -> bool | None:
    """Return whether the index is valid now, None when it does not exist."""
    rows = session.rows(_VALID, [plan.table_oid, plan.index.name])
    return bool(rows[0]["is_valid"]) if rows else None


def planned(session: Session, declared: Sequence[Index], concurrently: bool) -> tuple[list[Plan], list[dict[str, str]], list[str]]:
    """Return a plan for each declared index, the invalid indexes of the same tables that nobody declared, and warnings.

    Raises :class:`RolloutError` with everything that stands against it. Nothing is written but temporary copies, which are rolled back.
    """
    tables = _tables(session, declared)
    oids = [table["oid"] for table in tables]
    live = _by_table(session.rows(_INDEXES, {"oids": list(set(oids))}))
    arguments = {"schemas": [table["schema"] for table in tables], "names": [index.name for index in declared], "oids": oids}
    taken = {row["place"]: row for row in session.rows(_TAKEN, arguments)}
    plans: list[Plan] = []
    problems: list[str] = []
    warnings: list[str] = []
    for place, (index, table) in enumerate(zip(declared, tables, strict=True), 1):
        name = f"{table['schema']}.{index.name}"
        try:
            wanted = _as_printed(session, index, table["schema"])
        except psycopg2.Error as error:
            problems.append(f"{index.origin}: {name}: {_first_line(error)}")
            continue
        there = live[table["oid"]].get(index.name)
        if place in taken:
            other = taken[place]["on_table"]
            problems.append(f"{index.origin}: the name {name} belongs to {f'an index of {other}' if other else 'another object'}")
            continue
        problem = _difference(index, there, wanted)
        if problem:
            problems.append(problem)
            continue
        action = CREATED if there is None else UNCHANGED if there["is_valid"] else REBUILT
        if action != UNCHANGED and not table["is_mine"]:
            problems.append(f"{index.origin}: {table['schema']}.{table['name']} is owned by {table['owner']}, expected a role that login_user is a member of")
            continue
        twins = [other for other, row in live[table["oid"]].items() if other != index.name and signature(row["definition"]) == wanted]
        if twins and action != UNCHANGED:
            warnings.append(f"{name} is the same index as {', '.join(twins)}, which is there already.")
        method, create, drop = statements(index, table["schema"], table["kind"], concurrently)
        plans.append(Plan(index, table["schema"], table["oid"], table["kind"], action, method, create, drop))
    if problems:
        raise RolloutError(
            f"{session.name}: {len(problems)} indexes cannot be made as declared: {'; '.join(problems)}. Nothing was written. "
            "Next: correct the declaration, or rename or drop what is in its place"
        )
    left = _leftovers(declared, tables, live)
    warnings.extend(f"{item['name']} on {item['table']} is invalid and not declared: it costs every write. Next: {item['drop']}" for item in left)
    return plans, left, warnings


def _tables(session: Session, declared: Sequence[Index]) -> list[dict[str, Any]]:
    """Return the table of each declared index."""
    rows = session.rows(_TABLES, {"names": [quoted(index.schema, index.table) for index in declared]})
    hypertables = set()
    if session.rows(_HAS_TIMESCALE)[0]["has"]:
        hypertables = {(row["schema"], row["name"]) for row in session.rows(_HYPERTABLES)}
    problems = []
    for index, row in zip(declared, rows, strict=True):
        if row["oid"] is None:
            problems.append(f"{index.origin}: {index.name}: there is no table {index.table_name}")
        elif row["kind"] not in _KINDS:
            problems.append(f"{index.origin}: {index.name}: {index.table_name} cannot be indexed (kind {row['kind']})")
        else:
            row["kind"] = HYPERTABLE if (row["schema"], row["name"]) in hypertables else _KINDS[row["kind"]]
    if problems:
        raise RolloutError(f"{session.name}: {'; '.join(problems)}. Nothing was written. Next: run the migrations first (alembic upgrade head)")
    return rows


def _by_table(rows: Iterable[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    grouped: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        grouped[row["table_oid"]][row["name"]] = row
    return grouped


def _as_printed(session: Session, index: Index, schema: str) -> str:
    """Create the index on an empty temporary copy of its table; return its signature as PostgreSQL prints it. Raises psycopg2's error."""
    copy = quoted("pg_temp", index.table)
    session.raw_rows("BEGIN")
    try:
        session.raw_rows(f"CREATE TEMPORARY TABLE {quoted(index.table)} (LIKE {quoted(schema, index.table)}) ON COMMIT DROP".replace("%", "%%"))
        unique = "UNIQUE " if index.unique else ""
        session.raw_rows(f"CREATE {unique}INDEX {quoted(index.name)} ON {copy} {index.tail()}".replace("%", "%%"))
        rows = session.raw_rows("SELECT pg_get_indexdef(%s::regclass) AS definition", [quoted("pg_temp", index.name)])
        return signature(rows[0]["definition"])
    finally:
        session.raw_rows("ROLLBACK")


def _difference(index: Index, there: Mapping[str, Any] | None, wanted: str) -> str | None:
    if there is None:
        return None
    if signature(there["definition"]) != wanted:
        return f"{index.origin}: {index.name} exists with another definition: {signature(there['definition'])}; expected {wanted}"
    if not there["is_valid"] and there["constraint"]:
        return f"{index.origin}: {index.name} is invalid and belongs to the constraint {there['constraint']}, which is not dropped here"
    return None


def _leftovers(declared: Sequence[Index], tables: Sequence[Mapping[str, Any]], live: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, str]]:
    names = {(table["oid"], index.name) for index, table in zip(declared, tables, strict=True)}
    left = []
    for table in {table["oid"]: table for table in tables}.values():
        word = " CONCURRENTLY" if table["kind"] in ("table", "materialized view") else ""
        for name, row in live[table["oid"]].items():
            if not row["is_valid"] and (table["oid"], name) not in names:
                drop = f"DROP INDEX{word} {quoted(table['schema'], name)}"
                left.append({"name": name, "table": f"{table['schema']}.{table['name']}", "drop": drop})
    return left


def _first_line(error: Any) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
