# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared hypertables against what the database holds: the decision. Private to this collection. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._intervals import format_interval, interval_text

# Verdicts of one table, the worst first; the whole is 'pass' only when every table is.
PASS = "pass"
MISSING = "missing"
NOT_HYPERTABLE = "not_hypertable"
MISMATCH = "mismatch"
UNDECLARED = "undeclared"
UNSUPPORTED = "unsupported_license"
FAIL = "fail"
SUGGESTED = "suggested"

# How many names a message shows before it counts the rest.
SHOWN = 5


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
        found = problem(table, "existence", "no such table", "a hypertable", "run the migrations (alembic upgrade head)")
        return MISSING, [found]
    if observed["kind"] != "hypertable":
        column = declared["time_column"] or "time"
        step = f"SELECT create_hypertable({_literal(_quoted_name(table))}, by_range({_literal(column)}), migrate_data => true)"
        return NOT_HYPERTABLE, [problem(table, "hypertable", f"a {observed['kind']}", "a hypertable", step)]
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
        return MISSING, [problem(table, "existence", "no such table", "a table", "run the migrations (alembic upgrade head)")]
    if observed["kind"] not in ("table", "partitioned table"):
        step = "declare it under hypertables" if observed["kind"] == "hypertable" else "see the migrations"
        return MISMATCH, [problem(table, "kind", f"a {observed['kind']}", "a plain table", step)]
    problems = _judge_invalid(table, observed)
    return (MISMATCH if problems else PASS), problems


def judge_undeclared(observed: Mapping[str, Any], table: str, prefix: str) -> tuple[str, list[dict[str, Any]]]:
    """Judge a table that exists with the prefix and is declared nowhere: a hypertable is fine, a plain table is not."""
    problems = _judge_invalid(table, observed)
    if observed["kind"] != "hypertable":
        step = "make it a hypertable, or add it to tables"
        plain = problem(
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
            problem(name, "restoring", "timescaledb.restoring is on", "off", "SELECT timescaledb_post_restore()", "database")
        )
    catalog = database["catalog_version"]
    if catalog and catalog != database["version"]:
        problems.append(
            problem(
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
        return [problem(table, "time_column", "no time dimension", wanted, "see timescaledb_information.dimensions")]
    problems = []
    if declared["time_column"] not in (None, first["column"]):
        step = "recreate the hypertable on that column (the first dimension cannot be changed)"
        problems.append(problem(table, "time_column", first["column"], declared["time_column"], step))
    if declared["time_type"] not in (None, first["type"]):
        step = f"ALTER TABLE {_quoted_name(table)} ALTER COLUMN {_quoted(first['column'])} TYPE {declared['time_type']}"
        problems.append(problem(table, "time_type", first["type"], declared["time_type"], step))
    wanted_interval = declared["chunk_interval"]
    if wanted_interval is not None and wanted_interval != first["interval"]:
        argument = (
            str(wanted_interval["integer"])
            if "integer" in wanted_interval
            else f"INTERVAL {_literal(interval_text(wanted_interval))}"
        )
        step = f"SELECT set_chunk_time_interval({_literal(_quoted_name(table))}, {argument}) (counts for new chunks)"
        problems.append(
            problem(table, "chunk_interval", interval_text(first["interval"]), interval_text(wanted_interval), step)
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
            problems.append(problem(table, "space_dimensions", f"no dimension {column}", f"dimension {column}", step))
        elif partitions not in (None, seen[column]):
            step = f"SELECT set_number_partitions({_literal(_quoted_name(table))}, {partitions}, {_literal(column)})"
            problems.append(
                problem(
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
        problems.append(problem(table, "space_dimensions", f"also {', '.join(extra)}", expected, step))
    return problems


def _judge_chunks(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    least = declared["min_chunks"]
    if least is None or observed["chunks"] >= least:
        return []
    step = f"look at the data: SELECT show_chunks({_literal(_quoted_name(table))})"
    return [problem(table, "min_chunks", f"{observed['chunks']} chunks", f"at least {least}", step)]


def _judge_owner(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    owner = declared["owner"]
    if owner is None:
        return []
    step = f"ALTER TABLE {_quoted_name(table)} OWNER TO {_quoted(owner)}"
    if observed["owner"] != owner:
        return [problem(table, "owner", observed["owner"], owner, step)]
    if observed["foreign_owned_chunks"]:
        seen = f"{observed['foreign_owned_chunks']} of {observed['chunks']} chunks owned by another role"
        return [problem(table, "owner", seen, owner, step)]
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
            problems.append(problem(table, "indexes", _some(names) or "no index", text, step))
    for seen in observed["indexes"]:
        absent = seen["chunks"] - seen["covered"] - seen["invalid"]
        if absent > 0:
            text = f"{seen['names'][0]} ({', '.join(seen['columns'])})"
            step = f"DROP INDEX {_quoted(seen['names'][0])} and create it again, or create it on the chunk"
            problems.append(
                problem(
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
        problem(
            table,
            "invalid_index",
            f"invalid index {item['index']} on {item['table']}",
            "valid and ready",
            f"REINDEX INDEX {_quoted_name(item['index'])}",
        )
        for item in invalid[:SHOWN]
    ]
    if len(invalid) > SHOWN:
        step = "SELECT indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready)"
        problems.append(
            problem(table, "invalid_index", f"{len(invalid) - SHOWN} more invalid indexes", "valid and ready", step)
        )
    return problems


def _judge_privileges(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    problems = []
    for role, names in declared["privileges"].items():
        seen = observed["privileges"].get(role)
        if seen is None:
            problems.append(problem(table, "privileges", f"no role {role}", f"role {role}", f"CREATE ROLE {_quoted(role)}"))
            continue
        if not seen["usage"]:
            schema = table.split(".", 1)[0]
            step = f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(role)}"
            problems.append(problem(table, "privileges", f"{role} may not use schema {schema}", "USAGE", step))
        lacking = [name for name in names if name not in seen["granted"]]
        if lacking:
            step = f"GRANT {', '.join(lacking)} ON {_quoted_name(table)} TO {_quoted(role)}"
            held = ", ".join(seen["granted"]) or "none"
            problems.append(problem(table, "privileges", f"{role} has {held}", f"{role} has {', '.join(names)}", step))
    return problems


def _judge_licensed(table: str, observed: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compression and policies: in the Apache edition they cannot exist, which is another answer than 'missing'."""
    wanted = [f"policy {kind}" for kind in declared["policies"]]
    if declared["compression"]:
        wanted.append("compression")
    if wanted and observed["license"] != "timescale":
        seen = f"not available under the {observed['license'] or 'unknown'} license of this server"
        step = "install the Timescale-licensed edition, or drop it from the declaration"
        return [problem(table, "license", seen, item, step, unsupported=True) for item in wanted]
    problems = []
    if declared["compression"] is not None and declared["compression"] != bool(observed["compression"]):
        words = {True: "compression on", False: "compression off"}
        step = f"ALTER TABLE {_quoted_name(table)} SET (timescaledb.compress = {str(declared['compression']).lower()})"
        problems.append(
            problem(table, "compression", words[bool(observed["compression"])], words[declared["compression"]], step)
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
        problems.append(problem(table, "policies", f"{kind} policy: {shown}", f"{kind} policy: {expected}", step))
    return problems


def _judge_canary(table: str, observed: Mapping[str, Any]) -> list[dict[str, Any]]:
    canary = observed.get("canary")
    if canary is None or canary["routed"]:
        return []
    step = "insert a row by hand inside BEGIN ... ROLLBACK and read the server's message"
    return [problem(table, "canary_insert", canary["reason"], "a row routed to a chunk", step)]


def problem(
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


def _some(names: list[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    shown = names[:SHOWN]
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


def overall(verdicts: list[str], problems: list[Any]) -> str:
    """Return the verdict over all tables: pass only when there is at least one and each passed."""
    bad = [verdict for verdict in verdicts if verdict != PASS]
    if problems or not verdicts:
        return FAIL
    if not bad:
        return PASS
    return UNSUPPORTED if all(verdict == UNSUPPORTED for verdict in bad) else FAIL
