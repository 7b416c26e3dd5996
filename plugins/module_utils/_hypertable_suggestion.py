# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A declaration from what exists. Private to this collection. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._hypertable_catalog import Snapshot
from ansible_collections.signal.rollout.plugins.module_utils._hypertable_declaration import PRIVILEGES
from ansible_collections.signal.rollout.plugins.module_utils._intervals import format_interval, interval_text


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
            entry["chunk_interval"] = interval_text(first["interval"])
    entry["space_dimensions"] = [
        {"column": item["column"], "partitions": item["partitions"]} for item in table["dimensions"] if item["kind"] != "Time"
    ]
    entry["indexes"] = sorted(index_name for seen in table["indexes"] for index_name in seen["names"])
    privileges: dict[str, list[str]] = {}
    for grant in table["grants"]:
        if grant["privilege"] in PRIVILEGES:
            privileges.setdefault(grant["role"], []).append(grant["privilege"])
    entry["privileges"] = {role: sorted(names, key=PRIVILEGES.index) for role, names in sorted(privileges.items())}
    if table["license"] == "timescale":
        entry["compression"] = bool(table["compression"])
        policies = {kind: value if kind == "reorder" else format_interval(value) for kind, value in table["policies"].items() if value}
        if policies:
            entry["policies"] = policies
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
