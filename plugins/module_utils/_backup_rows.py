# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counts the rows of a dump that is read back, and compares them with its manifest. Private to this collection. Pure.

pg_restore ends well on a folder whose zstd files are cut short, or empty: that it could read something says nothing about all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests

_COPY = re.compile(rb'^COPY ((?:"(?:[^"]|"")*"|[^\s".])+)\.((?:"(?:[^"]|"")*"|[^\s".])+) (?:\([^\n]*\) )?FROM stdin;$', re.MULTILINE)
_END = b"\n\\.\n"
_CHUNK = re.compile(r"_hyper_\d+_\d+_chunk")
# Rows of these are packed, or computed: the dump's own numbers cannot be told from the tables'.
_PACKED = re.compile(r"_compressed_hypertable_|compress_hyper_|_materialized_hypertable_")
_INTERNAL = "_timescaledb_"


class RowCounter:
    """Reads an SQL script piece by piece; ``rows`` are those of its COPY blocks by schema and table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self._rest = b""
        self._table: tuple[str, str] | None = None

    def feed(self, piece: bytes) -> None:
        text = self._rest + piece
        while True:
            if self._table is None:
                found = _COPY.search(text)
                # A header is only whole with the end of its line.
                if found is None or found.end() == len(text):
                    self._rest = text[found.start() if found else text.rfind(b"\n") + 1 :]
                    return
                self._table = (_plain(found[1]), _plain(found[2]))
                self.rows.setdefault(self._table, 0)
                # With the line end before the first row, so that an empty block ends like any other.
                text = text[found.end() :]
                continue
            end = text.find(_END)
            if end < 0:
                # Every line end but the last few bytes', which may be the beginning of the block's end.
                kept = max(0, len(text) - len(_END) + 1)
                self.rows[self._table] += text.count(b"\n", 0, kept)
                self._rest = text[kept:]
                return
            # The line end before the first row stands for the one before the block's end.
            self.rows[self._table] += text.count(b"\n", 0, end)
            text = text[end + len(_END) - 1 :]
            self._table = None


def _plain(identifier: bytes) -> str:
    name = identifier.decode(errors="replace")
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def differences(manifest: manifests.Manifest, rows: Mapping[tuple[str, str], int]) -> list[str]:
    """Return which tables of the dump do not have the noted rows.

    Leaves of a partitioned table have blocks of their own, as chunks have: these are compared as a sum.
    """
    problems = []
    tables = {(table.schema, table.name): table for table in manifest.inventory.tables}
    missing, chunked = 0, 0
    for name, table in tables.items():
        if table.kind == manifests.HYPERTABLE:
            chunked += table.rows - rows.get(name, 0)
        elif name not in rows:
            missing += table.rows
        elif rows[name] != table.rows:
            problems.append(f"{table.full_name}: {rows[name]} rows; expected {table.rows}")
    unknown = sum(number for name, number in rows.items() if name not in tables and not name[0].startswith(_INTERNAL))
    if unknown < missing:
        problems.append(f"partitioned and missing tables: {unknown} rows; expected {missing}")
    packed = any(name[0].startswith(_INTERNAL) and _PACKED.search(name[1]) for name in rows)
    in_chunks = sum(number for name, number in rows.items() if name[0].startswith(_INTERNAL) and _CHUNK.search(name[1]))
    if not packed and in_chunks != chunked:
        problems.append(f"chunks of all hypertables: {in_chunks} rows; expected {chunked}")
    return problems
