# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared about hypertables. Private to this collection. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._intervals import parse_interval

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_TYPE_ALIASES = {
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "int8": "bigint",
    "int4": "integer",
    "int": "integer",
    "int2": "smallint",
}


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
