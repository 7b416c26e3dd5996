# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared hypertables against the live database. Private to this collection.

Reading is set-based: the number of statements does not grow with tables or chunks. Only the views of
timescaledb_information (by column name) and PostgreSQL's own catalogs are read; the extension's catalog of chunks
changed its shape four times between 2.22 and 2.29. :func:`judge` decides, and touches no database.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_postgresql.ARGUMENT_SPEC,
    "hypertables": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "table": {"type": "str", "required": True},
            "schema": {"type": "str", "default": "public"},
            "time_column": {"type": "str"},
            "time_type": {"type": "str"},
            "chunk_interval": {"type": "str"},
            "space_dimensions": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "column": {"type": "str", "required": True},
                    "partitions": {"type": "int"},
                },
            },
            "min_chunks": {"type": "int"},
            "owner": {"type": "str"},
            "indexes": {"type": "list", "elements": "raw"},
            "privileges": {"type": "dict"},
            "compression": {"type": "bool"},
            "policies": {
                "type": "dict",
                "options": {
                    "retention": {"type": "str"},
                    "compression": {"type": "str"},
                    "reorder": {"type": "str"},
                },
            },
        },
    },
    "tables": {"type": "list", "elements": "str", "default": []},
    "prefix": {"type": "str"},
    "canary_insert": {"type": "bool", "default": False},
    "state": {"type": "str", "default": "verified", "choices": ["verified", "suggest"]},
    "query_timeout": {"type": "float", "default": 30.0},
}
SUPPORTS_CHECK_MODE = True

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
# Verdicts of one table, the worst first; the whole is 'pass' only when every table is.
PASS = "pass"
MISSING = "missing"
NOT_HYPERTABLE = "not_hypertable"
MISMATCH = "mismatch"
UNDECLARED = "undeclared"
UNSUPPORTED = "unsupported_license"
FAIL = "fail"
SUGGESTED = "suggested"

_SHOWN = 5
_MICROSECONDS = {
    "us": 1,
    "microsecond": 1,
    "ms": 1_000,
    "millisecond": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "second": 1_000_000,
    "min": 60_000_000,
    "minute": 60_000_000,
    "h": 3_600_000_000,
    "hour": 3_600_000_000,
    "d": 86_400_000_000,
    "day": 86_400_000_000,
    "w": 604_800_000_000,
    "week": 604_800_000_000,
    # TimescaleDB counts 30 days for a month when it stores a chunk interval.
    "mon": 2_592_000_000_000,
    "month": 2_592_000_000_000,
    "year": 31_104_000_000_000,
}
_INTERVAL_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_CLOCK = re.compile(r"\s*(\d+):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*$")
_TYPE_ALIASES = {
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "int8": "bigint",
    "int4": "integer",
    "int": "integer",
    "int2": "smallint",
}
_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


# --- what is declared -----------------------------------------------------------------------------------------------


def parse_interval(text: str) -> int:
    """Return an interval such as ``1 day``, ``12 hours``, ``1 day 06:00`` or ``7d`` in microseconds.

    Raises ValueError for anything else, for zero and for negative values. A month counts 30 days, a year 360, as in
    TimescaleDB's own conversion of chunk intervals.
    """
    rest = text
    total = 0
    parts = 0
    while rest.strip():
        clock = _CLOCK.match(rest)
        if clock:
            hours, minutes, seconds = clock.groups()
            total += int(hours) * 3_600_000_000 + int(minutes) * 60_000_000 + round(float(seconds or 0) * 1_000_000)
            parts += 1
            break
        part = _INTERVAL_PART.match(rest)
        if not part:
            raise ValueError(_interval_rule(text))
        number, unit = part.groups()
        unit = unit.lower()
        size = _MICROSECONDS.get(unit) or _MICROSECONDS.get(unit.removesuffix("s"))
        if size is None:
            raise ValueError(_interval_rule(text))
        total += round(float(number) * size)
        parts += 1
        rest = rest[part.end() :]
    if not parts or total <= 0:
        raise ValueError(_interval_rule(text))
    return total


def format_interval(microseconds: int) -> str:
    """Return the shortest exact wording of an interval, for example ``7 days`` or ``12 hours``."""
    for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond"):
        number, left = divmod(microseconds, _MICROSECONDS[unit])
        if number and not left:
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{microseconds} microseconds"


def _interval_rule(text: str) -> str:
    return f"'{one_line(text, 60)}' is no interval; expected a number with a unit, such as '1 day', '12 hours' or '7d'"


class Declaration:
    """The validated options: ``hypertables`` by qualified name, plain ``tables``, ``prefix``.

    Raises :class:`RolloutError` that names every unusable value at once.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self.hypertables: dict[tuple[str, str], dict[str, Any]] = {}
        self.tables: list[tuple[str, str]] = []
        self.prefix: str | None = params["prefix"]
        self.canary_insert: bool = params["canary_insert"]
        for index, entry in enumerate(params["hypertables"]):
            self._add_hypertable(f"hypertables[{index}]", entry)
        for index, text in enumerate(params["tables"]):
            self._add_table(f"tables[{index}]", text)
        if self.prefix is not None:
            self._check_name("prefix", self.prefix)
        if not 0 < params["query_timeout"] <= 3600:
            self.problems.append(f"query_timeout is {params['query_timeout']:g}, expected more than 0 and at most 3600 seconds")
        if params["state"] == "verified" and not self.hypertables and not self.tables and self.prefix is None:
            self.problems.append("nothing is declared, expected at least one of hypertables, tables or prefix")
        if self.problems:
            raise RolloutError(f"hypertable_verify cannot use its options: {'; '.join(self.problems)}")

    def _add_hypertable(self, where: str, entry: Mapping[str, Any]) -> None:
        name = (entry["schema"], entry["table"])
        self._check_name(f"{where}.schema", entry["schema"])
        self._check_name(f"{where}.table", entry["table"], dotted_hint=True)
        if name in self.hypertables:
            self.problems.append(f"{where} declares {'.'.join(name)} a second time")
        if entry["min_chunks"] is not None and entry["min_chunks"] < 0:
            self.problems.append(f"{where}.min_chunks is {entry['min_chunks']}, expected 0 or more")
        self.hypertables[name] = {
            "table": ".".join(name),
            "time_column": entry["time_column"],
            "time_type": normal_type(entry["time_type"]),
            "chunk_interval": self._chunk_interval(f"{where}.chunk_interval", entry["chunk_interval"]),
            "space_dimensions": entry["space_dimensions"],
            "min_chunks": entry["min_chunks"],
            "owner": entry["owner"],
            "indexes": self._indexes(f"{where}.indexes", entry["indexes"] or []),
            "privileges": self._privileges(f"{where}.privileges", entry["privileges"] or {}),
            "compression": entry["compression"],
            "policies": self._policies(f"{where}.policies", entry["policies"] or {}),
        }

    def _add_table(self, where: str, text: str) -> None:
        schema, dot, table = text.rpartition(".")
        name = (schema if dot else "public", table)
        for part in name:
            self._check_name(where, part)
        if name in self.hypertables:
            self.problems.append(f"{where} is '{text}', which hypertables declares too; expected it in one list only")
        if name in self.tables:
            self.problems.append(f"{where} declares {'.'.join(name)} a second time")
        self.tables.append(name)

    def _check_name(self, where: str, name: str, dotted_hint: bool = False) -> None:
        if not name or not name.isprintable() or len(name.encode()) > 63:
            self.problems.append(f"{where} is '{one_line(name, 80)}', expected 1 to 63 bytes of printable text")
        elif dotted_hint and "." in name:
            self.problems.append(f"{where} is '{name}', expected the bare name; the schema goes into schema")

    def _chunk_interval(self, where: str, text: str | None) -> dict[str, int] | None:
        if text is None:
            return None
        if text.strip().isdecimal():
            return {"integer": int(text)}
        try:
            return {"microseconds": parse_interval(text)}
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None

    def _indexes(self, where: str, entries: Iterable[Any]) -> list[dict[str, Any]]:
        wanted = []
        for index, entry in enumerate(entries):
            if isinstance(entry, str) and entry:
                wanted.append({"name": entry})
                continue
            columns = entry.get("columns") if isinstance(entry, dict) else None
            unique = entry.get("unique") if isinstance(entry, dict) else None
            usable = (
                isinstance(columns, list)
                and columns
                and all(isinstance(column, str) and column for column in columns)
                and set(entry) <= {"columns", "unique"}
                and (unique is None or isinstance(unique, bool))
            )
            if usable:
                wanted.append({"columns": columns, "unique": unique})
            else:
                self.problems.append(
                    f"{where}[{index}] is {one_line(json.dumps(entry, default=str), 80)}, "
                    "expected an index name, or a dictionary with columns (a list of names) and optionally unique (a boolean)"
                )
        return wanted

    def _privileges(self, where: str, entries: Mapping[str, Any]) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for role, names in entries.items():
            if isinstance(names, str):
                names = names.split(",")
            names = [str(name).strip().upper() for name in names] if isinstance(names, list) else []
            unknown = [name for name in names if name not in PRIVILEGES]
            if not names or unknown:
                self.problems.append(
                    f"{where}.{one_line(role, 63)} is {', '.join(unknown) or 'empty'}, expected a list out of {', '.join(PRIVILEGES)}"
                )
            wanted[role] = names
        return wanted

    def _policies(self, where: str, entries: Mapping[str, Any]) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        for kind, text in entries.items():
            if text is None:
                continue
            if kind == "reorder":
                wanted[kind] = text
                continue
            try:
                wanted[kind] = parse_interval(text)
            except ValueError as error:
                self.problems.append(f"{where}.{kind}: {error}")
        return wanted


def normal_type(name: str | None) -> str | None:
    """Return a data type the way PostgreSQL prints it; ``timestamptz`` and other common short names are known."""
    if name is None:
        return None
    flat = " ".join(name.lower().split())
    return _TYPE_ALIASES.get(flat, flat)


# --- the decision -----------------------------------------------------------------------------------------------------


def judge(observed: Mapping[str, Any] | None, declared: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Compare one declared hypertable with what the database holds; return the verdict and the problems.

    ``observed`` is None for a table that does not exist, else a dictionary with kind, owner, dimensions, chunks,
    foreign_owned_chunks, indexes, invalid_indexes, privileges, compression, policies, license and canary, as
    :func:`observe` builds it. ``declared`` is an entry of :attr:`Declaration.hypertables`; what it does not state is not
    judged, except that every index of the table must be valid on every chunk.

    A problem is a dictionary with check, seen, expected, message and next. The verdict is one of pass, missing,
    not_hypertable, mismatch, unsupported_license.
    """
    table = declared["table"]
    if observed is None:
        found = _problem(table, "existence", "no such table", "a hypertable", "run the migrations (alembic upgrade head)")
        return MISSING, [found]
    if observed["kind"] != "hypertable":
        column = declared["time_column"] or "time"
        step = f"SELECT create_hypertable({_literal(_quoted_name(table))}, by_range({_literal(column)}), migrate_data => true)"
        return NOT_HYPERTABLE, [_problem(table, "hypertable", f"a {observed['kind']}", "a hypertable", step)]
    problems = [
        *_judge_time(table, observed, declared),
        *_judge_space(table, observed, declared),
        *_judge_chunks(table, observed, declared),
        *_judge_owner(table, observed, declared),
        *_judge_indexes(table, observed, declared),
        *_judge_privileges(table, observed, declared),
        *_judge_licensed(table, observed, declared),
        *_judge_canary(table, observed),
    ]
    if not problems:
        return PASS, []
    return (UNSUPPORTED if all(item["unsupported"] for item in problems) else MISMATCH), problems


def judge_table(observed: Mapping[str, Any] | None, table: str) -> tuple[str, list[dict[str, Any]]]:
    """Judge a plain table that must exist: its presence, its kind and the validity of its indexes."""
    if observed is None:
        return MISSING, [_problem(table, "existence", "no such table", "a table", "run the migrations (alembic upgrade head)")]
    if observed["kind"] not in ("table", "partitioned table"):
        step = "declare it under hypertables" if observed["kind"] == "hypertable" else "see the migrations"
        return MISMATCH, [_problem(table, "kind", f"a {observed['kind']}", "a plain table", step)]
    problems = _judge_invalid(table, observed)
    return (MISMATCH if problems else PASS), problems


def judge_undeclared(observed: Mapping[str, Any], table: str, prefix: str) -> tuple[str, list[dict[str, Any]]]:
    """Judge a table that exists with the prefix and is declared nowhere: a hypertable is fine, a plain table is not."""
    problems = _judge_invalid(table, observed)
    if observed["kind"] != "hypertable":
        step = "make it a hypertable, or add it to tables"
        plain = _problem(
            table, "declaration", f"an undeclared {observed['kind']} named {prefix}...", "a hypertable or a declared table", step
        )
        return UNDECLARED, [plain, *problems]
    return (MISMATCH if problems else PASS), problems


def judge_database(database: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Judge what holds for the whole database: an unfinished restore and a half-done extension update."""
    name = database["database"]
    problems = []
    if database["restoring"] == "on":
        problems.append(
            _problem(name, "restoring", "timescaledb.restoring is on", "off", "SELECT timescaledb_post_restore()", "database")
        )
    catalog = database["catalog_version"]
    if catalog and catalog != database["version"]:
        problems.append(
            _problem(
                name,
                "extension_version",
                f"catalog {catalog}, extension {database['version']}",
                "the same version",
                "ALTER EXTENSION timescaledb UPDATE (first statement of a new session)",
                "database",
            )
        )
    return problems


def _judge_time(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    first = next((item for item in observed["dimensions"] if item["kind"] == "Time"), None)
    if first is None:
        wanted = declared["time_column"] or "a time dimension"
        return [_problem(table, "time_column", "no time dimension", wanted, "see timescaledb_information.dimensions")]
    problems = []
    if declared["time_column"] not in (None, first["column"]):
        step = "recreate the hypertable on that column (the first dimension cannot be changed)"
        problems.append(_problem(table, "time_column", first["column"], declared["time_column"], step))
    if declared["time_type"] not in (None, first["type"]):
        step = f"ALTER TABLE {_quoted_name(table)} ALTER COLUMN {_quoted(first['column'])} TYPE {declared['time_type']}"
        problems.append(_problem(table, "time_type", first["type"], declared["time_type"], step))
    wanted_interval = declared["chunk_interval"]
    if wanted_interval is not None and wanted_interval != first["interval"]:
        argument = (
            str(wanted_interval["integer"])
            if "integer" in wanted_interval
            else f"INTERVAL {_literal(_interval_text(wanted_interval))}"
        )
        step = f"SELECT set_chunk_time_interval({_literal(_quoted_name(table))}, {argument}) (counts for new chunks)"
        problems.append(
            _problem(table, "chunk_interval", _interval_text(first["interval"]), _interval_text(wanted_interval), step)
        )
    return problems


def _judge_space(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    wanted = declared["space_dimensions"]
    if wanted is None:
        return []
    seen = {item["column"]: item["partitions"] for item in observed["dimensions"] if item["kind"] != "Time"}
    problems = []
    for entry in wanted:
        column, partitions = entry["column"], entry["partitions"]
        if column not in seen:
            step = f"SELECT add_dimension({_literal(_quoted_name(table))}, by_hash({_literal(column)}, {partitions or 4}))"
            problems.append(_problem(table, "space_dimensions", f"no dimension {column}", f"dimension {column}", step))
        elif partitions not in (None, seen[column]):
            step = f"SELECT set_number_partitions({_literal(_quoted_name(table))}, {partitions}, {_literal(column)})"
            problems.append(
                _problem(
                    table,
                    "space_dimensions",
                    f"{seen[column]} partitions by {column}",
                    f"{partitions} partitions by {column}",
                    step,
                )
            )
    extra = sorted(set(seen) - {entry["column"] for entry in wanted})
    if extra:
        expected = ", ".join(entry["column"] for entry in wanted) or "none"
        step = "declare them, or recreate the hypertable"
        problems.append(_problem(table, "space_dimensions", f"also {', '.join(extra)}", expected, step))
    return problems


def _judge_chunks(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    least = declared["min_chunks"]
    if least is None or observed["chunks"] >= least:
        return []
    step = f"look at the data: SELECT show_chunks({_literal(_quoted_name(table))})"
    return [_problem(table, "min_chunks", f"{observed['chunks']} chunks", f"at least {least}", step)]


def _judge_owner(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    owner = declared["owner"]
    if owner is None:
        return []
    step = f"ALTER TABLE {_quoted_name(table)} OWNER TO {_quoted(owner)}"
    if observed["owner"] != owner:
        return [_problem(table, "owner", observed["owner"], owner, step)]
    if observed["foreign_owned_chunks"]:
        seen = f"{observed['foreign_owned_chunks']} of {observed['chunks']} chunks owned by another role"
        return [_problem(table, "owner", seen, owner, step)]
    return []


def _judge_indexes(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    problems = []
    for wanted in declared["indexes"]:
        if not any(_is_index(wanted, seen) for seen in observed["indexes"]):
            text = _index_text(wanted)
            step = (
                "run the index file (create_indexes.sql)"
                if "name" in wanted
                else f"CREATE {'UNIQUE ' if wanted['unique'] else ''}INDEX ON {_quoted_name(table)} "
                f"({', '.join(_quoted(column) for column in wanted['columns'])}) WITH (timescaledb.transaction_per_chunk)"
            )
            names = sorted(name for seen in observed["indexes"] for name in seen["names"])
            problems.append(_problem(table, "indexes", _some(names) or "no index", text, step))
    for seen in observed["indexes"]:
        absent = seen["chunks"] - seen["covered"] - seen["invalid"]
        if absent > 0:
            text = f"{seen['names'][0]} ({', '.join(seen['columns'])})"
            step = f"DROP INDEX {_quoted(seen['names'][0])} and create it again, or create it on the chunk"
            problems.append(
                _problem(
                    table,
                    "chunk_indexes",
                    f"index {text} missing on {absent} of {seen['chunks']} chunks: {_some(seen['missing'], absent)}",
                    f"a valid one on each of {seen['chunks']} chunks",
                    step,
                )
            )
    return problems + _judge_invalid(table, observed)


def _judge_invalid(table: str, observed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One problem for each invalid or unready index of the table and its chunks, at most a handful and a rest."""
    invalid = observed["invalid_indexes"]
    problems = [
        _problem(
            table,
            "invalid_index",
            f"invalid index {item['index']} on {item['table']}",
            "valid and ready",
            f"REINDEX INDEX {_quoted_name(item['index'])}",
        )
        for item in invalid[:_SHOWN]
    ]
    if len(invalid) > _SHOWN:
        step = "SELECT indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready)"
        problems.append(
            _problem(table, "invalid_index", f"{len(invalid) - _SHOWN} more invalid indexes", "valid and ready", step)
        )
    return problems


def _judge_privileges(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    problems = []
    for role, names in declared["privileges"].items():
        seen = observed["privileges"].get(role)
        if seen is None:
            problems.append(_problem(table, "privileges", f"no role {role}", f"role {role}", f"CREATE ROLE {_quoted(role)}"))
            continue
        if not seen["usage"]:
            schema = table.split(".", 1)[0]
            step = f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(role)}"
            problems.append(_problem(table, "privileges", f"{role} may not use schema {schema}", "USAGE", step))
        lacking = [name for name in names if name not in seen["granted"]]
        if lacking:
            step = f"GRANT {', '.join(lacking)} ON {_quoted_name(table)} TO {_quoted(role)}"
            held = ", ".join(seen["granted"]) or "none"
            problems.append(_problem(table, "privileges", f"{role} has {held}", f"{role} has {', '.join(names)}", step))
    return problems


def _judge_licensed(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compression and policies: in the Apache edition they cannot exist, which is another answer than 'missing'."""
    wanted = [f"policy {kind}" for kind in declared["policies"]]
    if declared["compression"]:
        wanted.append("compression")
    if wanted and observed["license"] != "timescale":
        seen = f"not available under the {observed['license'] or 'unknown'} license of this server"
        step = "install the Timescale-licensed edition, or drop it from the declaration"
        return [_problem(table, "license", seen, item, step, unsupported=True) for item in wanted]
    problems = []
    if declared["compression"] is not None and declared["compression"] != bool(observed["compression"]):
        words = {True: "compression on", False: "compression off"}
        step = f"ALTER TABLE {_quoted_name(table)} SET (timescaledb.compress = {str(declared['compression']).lower()})"
        problems.append(
            _problem(table, "compression", words[bool(observed["compression"])], words[declared["compression"]], step)
        )
    for kind, value in declared["policies"].items():
        seen = observed["policies"].get(kind)
        if seen == value:
            continue
        shown = {
            True: "none" if seen is None else str(seen),
            False: "none" if seen is None else format_interval(seen) if isinstance(seen, int) else str(seen),
        }[kind == "reorder"]
        expected = value if kind == "reorder" else format_interval(value)
        argument = _literal(value) if kind == "reorder" else f"INTERVAL {_literal(expected)}"
        step = f"SELECT add_{kind}_policy({_literal(_quoted_name(table))}, {argument})"
        problems.append(_problem(table, "policies", f"{kind} policy: {shown}", f"{kind} policy: {expected}", step))
    return problems


def _judge_canary(table: str, observed: Mapping[str, Any]) -> list[dict[str, Any]]:
    canary = observed.get("canary")
    if canary is None or canary["routed"]:
        return []
    step = "insert a row by hand inside BEGIN ... ROLLBACK and read the server's message"
    return [_problem(table, "canary_insert", canary["reason"], "a row routed to a chunk", step)]


def _problem(
    name: str, check: str, seen: Any, expected: Any, step: str, noun: str = "", unsupported: bool = False
) -> dict[str, Any]:
    subject = f"{noun} {name}".strip()
    return {
        "check": check,
        "seen": str(seen),
        "expected": str(expected),
        "message": f"{subject}: {check}: {seen}; expected {expected}",
        "next": step,
        "unsupported": unsupported,
    }


def _is_index(wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    if "name" in wanted:
        return wanted["name"] in seen["names"]
    same = list(wanted["columns"]) == list(seen["key_columns"]) and not seen["predicate"]
    return same and wanted["unique"] in (None, seen["unique"])


def _index_text(wanted: Mapping[str, Any]) -> str:
    if "name" in wanted:
        return f"index {wanted['name']}"
    return f"{'unique ' if wanted['unique'] else ''}index on ({', '.join(wanted['columns'])})"


def _interval_text(interval: Mapping[str, int] | None) -> str:
    if interval is None:
        return "none"
    if "integer" in interval:
        return str(interval["integer"])
    return format_interval(interval["microseconds"])


def _some(names: list[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    shown = names[:_SHOWN]
    rest = total - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _quoted(name: str) -> str:
    """Return ``name`` as an SQL identifier for a printed command; nothing printed here is ever executed."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _quoted_name(table: str) -> str:
    return ".".join(_quoted(part) for part in table.split(".", 1))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- what the database holds ------------------------------------------------------------------------------------------

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
        for row in session.rows(_INDEXES, {"oids": detailed, "shown": _SHOWN, "casts": _CASTS, "brackets": _BRACKETS}):
            by_oid[row["oid"]]["indexes"].append(_index(row))
    if tables:
        for row in session.rows(_INVALID):
            if row["oid"] in by_oid:
                by_oid[row["oid"]]["invalid_indexes"].append({"index": row["index"], "table": row["table"]})
    _read_privileges(session, declaration, tables)
    if database["license"] == "timescale" and any(entry["policies"] for entry in declaration.hypertables.values()):
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


# --- the canary row ---------------------------------------------------------------------------------------------------


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
                return {"routed": False, "chunk": None, "reason": f"no row to copy and no value known for {_some(unknown)}"}
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


# --- a declaration from what exists -----------------------------------------------------------------------------------


def suggest(snapshot: Snapshot, prefix: str | None) -> dict[str, list[Any]]:
    """Return options for hypertables and tables that the database satisfies as it is."""
    hypertables = []
    tables = []
    for (schema, name), table in sorted(snapshot.tables.items()):
        if table["kind"] != "hypertable":
            if table["kind"] in ("table", "partitioned table"):
                tables.append(name if schema == "public" else f"{schema}.{name}")
            continue
        hypertables.append(_suggested(schema, name, table))
    return {"hypertables": hypertables, "tables": tables}


def _suggested(schema: str, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"table": name, "schema": schema, "owner": table["owner"]}
    first = next((item for item in table["dimensions"] if item["kind"] == "Time"), None)
    if first:
        entry["time_column"] = first["column"]
        entry["time_type"] = first["type"]
        if first["interval"]:
            entry["chunk_interval"] = _interval_text(first["interval"])
    entry["space_dimensions"] = [
        {"column": item["column"], "partitions": item["partitions"]} for item in table["dimensions"] if item["kind"] != "Time"
    ]
    entry["indexes"] = sorted(index_name for seen in table["indexes"] for index_name in seen["names"])
    privileges: dict[str, list[str]] = {}
    for grant in table["grants"]:
        if grant["privilege"] in PRIVILEGES:
            privileges.setdefault(grant["role"], []).append(grant["privilege"])
    entry["privileges"] = {role: sorted(names, key=PRIVILEGES.index) for role, names in sorted(privileges.items())}
    return entry


def suggestion_yaml(suggestion: Mapping[str, list[Any]]) -> str:
    """Return the suggestion as YAML for an inventory. JSON is YAML, so scalars and inner lists are written as JSON."""
    lines = []
    for key in ("hypertables", "tables"):
        lines.append(f"{key}:" if suggestion[key] else f"{key}: []")
        for entry in suggestion[key]:
            if not isinstance(entry, dict):
                lines.append(f"  - {json.dumps(entry)}")
                continue
            lead = "  - "
            for name, value in entry.items():
                lines.append(f"{lead}{name}: {json.dumps(value)}")
                lead = "    "
    return "\n".join(lines) + "\n"


# --- the engine -------------------------------------------------------------------------------------------------------


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Verify the declaration, or suggest one. Raises :class:`RolloutError` unless the verdict is a pass."""
    started = time.monotonic()
    result: dict[str, Any] = {
        "changed": False,
        "verdict": "error",
        "tables": [],
        "existing": [],
        "problems": [],
        "extension": None,
        "server": None,
        "queries": 0,
        "seconds": 0.0,
    }
    warnings: list[str] = []
    try:
        declaration = Declaration(params)
        session = _postgresql.connect(params, params["query_timeout"])
    except RolloutError as error:
        raise RolloutError(error.message, **result) from None
    try:
        suggesting = params["state"] == "suggest"
        snapshot = observe(session, declaration, params["query_timeout"], suggest=suggesting)
        _describe(result, snapshot, declaration)
        if context.cancelled.is_set():
            raise RolloutError("hypertable_verify was interrupted before it had a verdict. Next: run it again")
        if suggesting:
            result["verdict"] = SUGGESTED
            result["suggestion"] = suggest(snapshot, declaration.prefix)
            result["suggestion_yaml"] = suggestion_yaml(result["suggestion"])
        else:
            if declaration.canary_insert and context.check_mode:
                warnings.append("canary_insert was left out: check mode writes nothing, not even what is rolled back.")
            elif declaration.canary_insert:
                routed = {
                    name: table
                    for name, table in snapshot.tables.items()
                    if name in declaration.hypertables and table["kind"] == "hypertable"
                }
                insert_canaries(session, routed, params["query_timeout"])
            _judge_all(result, snapshot, declaration)
    except (RolloutError, psycopg2.Error) as error:
        known = error if isinstance(error, RolloutError) else session.translated(error)
        result.update(queries=session.queries, seconds=round(time.monotonic() - started, 3))
        raise RolloutError(known.message, **result) from None
    finally:
        session.close()
    result.update(queries=session.queries, seconds=round(time.monotonic() - started, 3))
    if snapshot.database["in_recovery"]:
        warnings.append("This server is a standby: what it shows may lag behind the primary.")
    if result["verdict"] not in (PASS, SUGGESTED):
        raise RolloutError(_failure_message(result, session.name), **result)
    if warnings:
        result["warnings"] = warnings
    return result


def _describe(result: dict[str, Any], snapshot: Snapshot, declaration: Declaration) -> None:
    database = snapshot.database
    result["extension"] = {
        "version": database["version"],
        "catalog_version": database["catalog_version"],
        "license": database["license"],
    }
    result["server"] = {
        "version": database["server_version"],
        "database": database["database"],
        "in_recovery": database["in_recovery"],
    }
    result["existing"] = [
        {"table": ".".join(name), "kind": table["kind"], "chunks": table["chunks"]}
        for name, table in snapshot.tables.items()
        if table["has_prefix"]
    ]


def _judge_all(result: dict[str, Any], snapshot: Snapshot, declaration: Declaration) -> None:
    answers = []
    for name, declared in declaration.hypertables.items():
        observed = snapshot.tables.get(name)
        answers.append((name, observed, *judge(observed, declared)))
    for name in declaration.tables:
        observed = snapshot.tables.get(name)
        answers.append((name, observed, *judge_table(observed, ".".join(name))))
    known = {*declaration.hypertables, *declaration.tables}
    for name, observed in snapshot.tables.items():
        if name not in known:
            answers.append((name, observed, *judge_undeclared(observed, ".".join(name), declaration.prefix or "")))
    result["problems"] = judge_database(snapshot.database)
    if not answers:
        step = "run the migrations (alembic upgrade head)"
        result["problems"].append(
            _problem(snapshot.database["database"], "prefix", f"no table named {declaration.prefix}...", "at least one", step, "database")
        )
    for name, observed, verdict, problems in answers:
        entry = {
            "table": ".".join(name),
            "verdict": verdict,
            "kind": observed["kind"] if observed else None,
            "chunks": observed["chunks"] if observed else 0,
            "problems": problems,
        }
        if observed and observed["canary"]:
            entry["canary_chunk"] = observed["canary"]["chunk"]
        result["tables"].append(entry)
    result["verdict"] = overall([entry["verdict"] for entry in result["tables"]], result["problems"])
    for problem in [*result["problems"], *(item for entry in result["tables"] for item in entry["problems"])]:
        del problem["unsupported"]


def overall(verdicts: list[str], problems: list[Any]) -> str:
    """Return the verdict over all tables: pass only when there is at least one and each passed."""
    bad = [verdict for verdict in verdicts if verdict != PASS]
    if problems or not verdicts:
        return FAIL
    if not bad:
        return PASS
    return UNSUPPORTED if all(verdict == UNSUPPORTED for verdict in bad) else FAIL


def _failure_message(result: Mapping[str, Any], name: str) -> str:
    problems = [*result["problems"], *(item for entry in result["tables"] for item in entry["problems"])]
    bad = sum(entry["verdict"] != PASS for entry in result["tables"])
    shown = "; ".join(item["message"] for item in problems[:20])
    more = f"; and {len(problems) - 20} more in tables[].problems" if len(problems) > 20 else ""
    return (
        f"{name}: {len(problems)} problems, {bad} of {len(result['tables'])} tables not as declared: {shown}{more}. "
        f"Next: {problems[0]['next']}"
    )
