# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What going back to a backup would lose, table by table. Pure, private to this collection.

Every row carries the transaction that wrote it (``xmin``). The backup's manifest holds the snapshot in which it was taken, so within
one cluster a row is newer than the backup exactly if its transaction was not yet complete in that snapshot: late arrivals and
changed rows are counted as well as appended ones. In another cluster, or in a database that has itself been restored, transaction numbers
say nothing about the backup; there the newest time in the backup and the numbers of rows are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# 1 is a transaction number that no row of a user carries; PostgreSQL writes snapshots as xmin:xmax:running,running,...
_SNAPSHOT = re.compile(r"(\d+):(\d+):((?:\d+(?:,\d+)*)?)")
_NUMBERS = 2**32
# Beyond half of the 32-bit circle, older and newer transaction numbers cannot be told apart.
MAX_DISTANCE = 2**31 - 1

BY_TRANSACTION = "transaction"
BY_TIME = "time"


@dataclass(frozen=True)
class Snapshot:
    """A ``pg_snapshot`` with 64-bit transaction numbers: ``xmax`` is the first that had not begun, ``running`` were not complete."""

    xmax: int
    running: tuple[int, ...] = ()

    @property
    def first_new(self) -> int:
        """``xmax`` as rows carry it, in 32 bits."""
        return self.xmax % _NUMBERS

    @property
    def running_new(self) -> list[int]:
        return [number % _NUMBERS for number in self.running]


def snapshot_of(text: str | None) -> Snapshot | None:
    """Read ``pg_current_snapshot()``'s text; None for anything else."""
    found = _SNAPSHOT.fullmatch(text or "")
    if found is None:
        return None
    return Snapshot(int(found[2]), tuple(int(number) for number in found[3].split(",") if number))


@dataclass(frozen=True)
class TableLoss:
    """One table of the live database against the backup.

    ``rows``: now. ``backup_rows``: in the backup, None when the table is not in it. ``written``: rows of now that the backup does
    not hold, since they were inserted or changed later; they would be lost. ``removed``: rows of the backup that were deleted or
    changed since; they would come back. ``newest``: newest time in the table now, '' without a time column.
    """

    table: str
    rows: int
    backup_rows: int | None
    written: int
    removed: int
    method: str
    newest: str = ""

    def shown(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "rows": self.rows,
            "backup_rows": self.backup_rows,
            "written": self.written,
            "removed": self.removed,
            "method": self.method,
            "newest": self.newest,
        }


def by_transaction(table: str, rows: int, written: int, backup_rows: int | None, newest: str) -> TableLoss:
    """Judge a table whose new rows were told by their transactions: exact."""
    if backup_rows is None:
        return TableLoss(table, rows, None, rows, 0, BY_TRANSACTION, newest)
    return TableLoss(table, rows, backup_rows, written, max(0, backup_rows - (rows - written)), BY_TRANSACTION, newest)


def by_time(table: str, rows: int, newer: int | None, backup_rows: int | None, newest: str) -> TableLoss:
    """Judge a table by the rows whose time is after the backup's newest, and by the numbers of rows: at least so much is lost."""
    if backup_rows is None:
        return TableLoss(table, rows, None, rows, 0, BY_TIME, newest)
    written = max(newer or 0, rows - backup_rows)
    return TableLoss(table, rows, backup_rows, written, max(0, backup_rows - (rows - written)), BY_TIME, newest)


def gone(table: str, backup_rows: int) -> TableLoss:
    """A table of the backup that the live database has no more: all of it comes back, nothing is lost."""
    return TableLoss(table, 0, backup_rows, 0, backup_rows, BY_TRANSACTION)


@dataclass(frozen=True)
class Loss:
    """What going back would lose, over all tables."""

    tables: tuple[TableLoss, ...] = ()

    @property
    def written(self) -> int:
        """Rows that would be lost."""
        return sum(item.written for item in self.tables)

    @property
    def removed(self) -> int:
        """Rows that would come back."""
        return sum(item.removed for item in self.tables)

    @property
    def exact(self) -> bool:
        """Whether every number was told by transactions."""
        return all(item.method == BY_TRANSACTION for item in self.tables)

    def touched(self) -> list[TableLoss]:
        """Tables that would not be the same, the greatest loss first."""
        found = [item for item in self.tables if item.written or item.removed]
        return sorted(found, key=lambda item: (-item.written, -item.removed, item.table))

    def shown(self) -> dict[str, Any]:
        return {
            "written": self.written,
            "removed": self.removed,
            "exact": self.exact,
            "tables": [item.shown() for item in sorted(self.tables, key=lambda item: item.table)],
        }

    def words(self, most: int = 8) -> str:
        """Say it in one sentence, naming at most ``most`` tables."""
        touched = self.touched()
        if not touched:
            return "nothing was written since the backup"
        named = "; ".join(_table_words(item) for item in touched[:most])
        more = f"; and {len(touched) - most} more tables" if len(touched) > most else ""
        least = "" if self.exact else "at least "
        return f"{least}{_rows(self.written)} written since the backup would be lost ({named}{more})"


def _table_words(item: TableLoss) -> str:
    parts = [f"{_rows(item.written)} lost"] if item.written else []
    if item.removed:
        parts.append(f"{_rows(item.removed)} deleted or changed since come back")
    if item.backup_rows is None:
        parts.append("a table that the backup does not have")
    return f"{item.table}: {', '.join(parts)}"


def _rows(number: int) -> str:
    return f"{number} row{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Acceptance:
    """The operator's word on the loss: everything, at most ``rows`` rows, or (with neither) nothing."""

    everything: bool = False
    rows: int = 0

    def covers(self, loss: Loss) -> bool:
        return self.everything or loss.written <= self.rows


def acceptance(text: str) -> Acceptance | None:
    """Read ``accept_data_loss``: empty or a word for no, a word for yes, or a number of rows. None when it is none of them."""
    word = text.strip().lower()
    if word in ("", "false", "no", "0"):
        return Acceptance()
    if word in ("true", "yes"):
        return Acceptance(everything=True)
    if word.isascii() and word.isdigit():
        return Acceptance(rows=int(word))
    return None


def missing_tables(live: Iterable[str], backup: Iterable[str]) -> list[str]:
    """Tables of the backup that the live database does not have."""
    return sorted(set(backup) - set(live))
