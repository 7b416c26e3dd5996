# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read of a database, and how it is asked for: against recorded rows."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_inventory as inventory
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

DATABASE = {
    "database": "signal_db",
    "server_version": "17.6",
    "encoding": "UTF8",
    "collate": "C",
    "ctype": "C",
    "provider": "c",
    "locale": "",
    "system_identifier": "7",
    "snapshot": "1:1:",
    "extensions": {"plpgsql": "1.0"},
    "has_dimensions": True,
    "alembic_tables": ["public.alembic_version"],
}
TICKS = {"schema": "public", "name": "ticks", "relkind": "r", "columns": ["time timestamp"], "indexes": {"i": "CREATE INDEX i"}, "constraints": {}}
ODD = {**TICKS, "name": 'odd"name', "indexes": {}}
PARTED = {**ODD, "name": "parted", "relkind": "p"}
HYPERTABLE = {"schema": "public", "name": "ticks", "time_column": "time", "chunks": 3, "chunk_indexes": 3, "chunk_constraints": 0}


class FakeSession:
    """Answers by what a statement is about; notes the counting ones as text."""

    def __init__(self, has_dimensions=True, refused=""):
        self.database = {**DATABASE, "has_dimensions": has_dimensions}
        self.refused = refused
        self.settings = {}
        self.counts = []

    def rows(self, statement, arguments=()):
        text = statement if isinstance(statement, str) else shown(statement)
        if "set_config" in text:
            self.settings = arguments
            return [{}]
        if "select count(*)" in text:
            self.counts.append(text)
            if self.refused and self.refused in text:
                raise RolloutError("PostgreSQL h:1/d as u: permission denied for table ticks (SQLSTATE 42501). Next: see")
            return [{"rows": 5, "first": "a" if "min(" in text else "", "last": "b" if "max(" in text else ""}]
        return {
            inventory._DATABASE: [self.database],
            inventory._TABLES: [TICKS, ODD, PARTED],
            inventory._HYPERTABLES: [HYPERTABLE],
            inventory._OBJECTS: [{"kind": "views", "number": 2}],
            inventory._ROLES: [{"role": "owner"}],
            "select version_num from public.alembic_version order by 1": [{"version_num": "0001"}, {"version_num": "0002"}],
        }[statement]


def shown(composed):
    """Text of a composition, without a connection (names get plain quotes)."""
    sql = inventory.psycopg2.sql
    if isinstance(composed, sql.Composed):
        return "".join(shown(part) for part in composed.seq)
    if isinstance(composed, sql.Identifier):
        return ".".join('"' + part.replace('"', '""') + '"' for part in composed.strings)
    return composed.string


def test_tables_are_counted_and_a_hypertable_has_its_time_and_chunks():
    session = FakeSession()
    seen = inventory.read(session, 30, 1)
    ticks, odd, parted = seen.tables
    assert (ticks.kind, ticks.rows, ticks.time_column, ticks.min_time, ticks.max_time, ticks.chunks) == ("hypertable", 5, "time", "a", "b", 3)
    assert (odd.kind, odd.rows, odd.time_column, odd.max_time, odd.chunks) == ("table", 5, "", "", 0)
    assert list(ticks.indexes) == ["i"]
    assert seen.alembic == ("0001", "0002")
    assert seen.objects == {"views": 2}
    assert seen.roles == ("owner",)
    assert parted.full_name == "public.parted"


def test_only_a_plain_table_is_counted_without_its_heirs():
    session = FakeSession()
    inventory.read(session, 30, 1)
    assert [text.partition(" from ")[2] for text in session.counts] == ['"public"."ticks"', 'only "public"."odd""name"', '"public"."parted"']


def test_without_timescaledb_every_table_is_plain():
    seen = inventory.read(FakeSession(has_dimensions=False), 30, 1)
    assert {table.kind for table in seen.tables} == {"table"}


def test_deadlines_are_given_in_whole_milliseconds_and_are_never_off():
    session = FakeSession()
    inventory.read(session, 0.0001, 2.5)
    assert session.settings == {"statement_ms": "1", "lock_ms": "2500"}


def test_progress_names_the_table_and_its_place():
    said = []
    inventory.read(FakeSession(), 30, 1, lambda *what: said.append(what))
    assert said == [("public.ticks", 0, 3), ('public.odd"name', 1, 3), ("public.parted", 2, 3)]


def test_a_table_that_cannot_be_counted_is_named():
    with pytest.raises(RolloutError, match=r"public\.ticks cannot be counted: .*permission denied"):
        inventory.read(FakeSession(refused="ticks"), 30, 1)
