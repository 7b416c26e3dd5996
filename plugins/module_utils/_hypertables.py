# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared hypertables verified against the live database, or a declaration suggested from it. Private to this collection.

:mod:`_hypertable_declaration` checks the options, :mod:`_hypertable_catalog` reads, :mod:`_hypertable_verdict` decides,
:mod:`_hypertable_canary` inserts and rolls back, :mod:`_hypertable_suggestion` turns what was read into options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_canary import insert_canaries
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_catalog import Snapshot, observe
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_declaration import Declaration
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_suggestion import suggest, suggestion_yaml
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_verdict import (
    PASS,
    SUGGESTED,
    judge,
    judge_database,
    judge_table,
    judge_undeclared,
    overall,
    problem,
)
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import psycopg2

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
        warnings += session.superuser_warning
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
            problem(snapshot.database["database"], "prefix", f"no table named {declaration.prefix}...", "at least one", step, "database")
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
    for found in [*result["problems"], *(item for entry in result["tables"] for item in entry["problems"])]:
        del found["unsupported"]


def _failure_message(result: Mapping[str, Any], name: str) -> str:
    problems = [*result["problems"], *(item for entry in result["tables"] for item in entry["problems"])]
    bad = sum(entry["verdict"] != PASS for entry in result["tables"])
    shown = "; ".join(item["message"] for item in problems[:20])
    more = f"; and {len(problems) - 20} more in tables[].problems" if len(problems) > 20 else ""
    return (
        f"{name}: {len(problems)} problems, {bad} of {len(result['tables'])} tables not as declared: {shown}{more}. "
        f"Next: {problems[0]['next']}"
    )
