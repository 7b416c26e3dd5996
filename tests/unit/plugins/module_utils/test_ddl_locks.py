# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What statements lock and break, by PostgreSQL's own parser and by squawk."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _ddl_locks, _expand_only
from ansible_collections.signal.rollout.plugins.module_utils._ddl_locks import Catalog, Hypertable
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

CATALOG = Catalog({"logs": Hypertable(12, ("timestamp",))}, frozenset({"logs", "filled"}), {"old_idx": "plain"})
SERVER = 170012


def one(sql: str) -> _ddl_locks.Statement:
    (statement,) = _ddl_locks.analyse(sql, CATALOG)
    return statement


def rules(sql: str) -> list[tuple[str, str]]:
    return [(level, rule) for statement in _ddl_locks.analyse(sql, CATALOG) for level, rule, _message in statement.findings]


@pytest.mark.parametrize(
    ("sql", "locks"),
    [
        ("ALTER TABLE plain ADD COLUMN v text", {"plain": "ACCESS EXCLUSIVE"}),
        ("ALTER TABLE public.plain ADD COLUMN v text", {"plain": "ACCESS EXCLUSIVE"}),
        ("ALTER TABLE app.plain SET (fillfactor = 70)", {"app.plain": "SHARE UPDATE EXCLUSIVE"}),
        ("ALTER TABLE plain SET (timescaledb.compress)", {"plain": "ACCESS EXCLUSIVE"}),
        ("ALTER TABLE plain VALIDATE CONSTRAINT c", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("ALTER TABLE plain ADD FOREIGN KEY (x) REFERENCES other NOT VALID", {"plain": "SHARE ROW EXCLUSIVE", "other": "SHARE ROW EXCLUSIVE"}),
        ("ALTER TABLE plain ALTER x SET STATISTICS 100, DROP COLUMN y", {"plain": "ACCESS EXCLUSIVE"}),
        ("ALTER TABLE plain DISABLE TRIGGER t", {"plain": "SHARE ROW EXCLUSIVE"}),
        ("ALTER TABLE parts ATTACH PARTITION part FOR VALUES IN (1)", {"parts": "SHARE UPDATE EXCLUSIVE", "part": "ACCESS EXCLUSIVE"}),
        ("CREATE INDEX i ON plain (x)", {"plain": "SHARE"}),
        ("CREATE INDEX CONCURRENTLY i ON plain (x)", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("DROP INDEX old_idx", {"plain": "ACCESS EXCLUSIVE"}),
        ("DROP INDEX CONCURRENTLY old_idx", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("ALTER INDEX old_idx RENAME TO new_idx", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("REINDEX INDEX CONCURRENTLY old_idx", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("DROP TABLE plain, app.other", {"plain": "ACCESS EXCLUSIVE", "app.other": "ACCESS EXCLUSIVE"}),
        ("DROP TRIGGER t ON app.plain", {"app.plain": "ACCESS EXCLUSIVE"}),
        ("TRUNCATE plain", {"plain": "ACCESS EXCLUSIVE"}),
        ("VACUUM plain", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("VACUUM (FULL) plain", {"plain": "ACCESS EXCLUSIVE"}),
        ("CLUSTER plain USING old_idx", {"plain": "ACCESS EXCLUSIVE"}),
        ("LOCK TABLE plain IN EXCLUSIVE MODE", {"plain": "EXCLUSIVE"}),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", {"m": "EXCLUSIVE"}),
        ("CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION f()", {"plain": "SHARE ROW EXCLUSIVE"}),
        ("COMMENT ON COLUMN plain.x IS 'milliseconds'", {"plain": "SHARE UPDATE EXCLUSIVE"}),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", {"v": "ACCESS EXCLUSIVE"}),
        ("INSERT INTO plain SELECT * FROM other", {"plain": "ROW EXCLUSIVE", "other": "ACCESS SHARE"}),
        ("CREATE TABLE t (id int REFERENCES plain)", {"plain": "SHARE ROW EXCLUSIVE"}),
        ("CREATE TABLE t AS SELECT * FROM plain", {"plain": "ACCESS SHARE"}),
        ("GRANT SELECT ON plain TO app", {}),
        ("SELECT create_hypertable('plain', by_range('time'))", {"plain": "ACCESS EXCLUSIVE"}),
    ],
)
def test_locks_are_those_of_the_documentation(sql: str, locks: dict[str, str]) -> None:
    assert one(sql).locks == locks


@pytest.mark.parametrize(
    ("definition", "rewrites"),
    [
        ("v text", False),
        ("v text DEFAULT 'x'", False),
        ("v timestamptz DEFAULT now()", False),
        ("v timestamptz DEFAULT CURRENT_TIMESTAMP", False),
        ("v timestamptz DEFAULT clock_timestamp()", True),
        ("v uuid DEFAULT gen_random_uuid()", True),
        ("v int DEFAULT unknown_function()", True),
        ("v bigserial", True),
        ("v int GENERATED ALWAYS AS IDENTITY", True),
        ("v int GENERATED ALWAYS AS (1) STORED", True),
    ],
)
def test_added_column_rewrites_only_where_rows_differ(definition: str, rewrites: bool) -> None:
    assert one(f"ALTER TABLE plain ADD COLUMN {definition}").rewrites is rewrites


def test_what_the_script_has_made_is_nobodys_yet() -> None:
    script = "CREATE TABLE t (id int); CREATE INDEX i ON t (id); ALTER TABLE t ADD COLUMN x int NOT NULL; DROP INDEX i; DROP TABLE t"
    assert [(statement.locks, statement.findings) for statement in _ddl_locks.analyse(script)] == [({}, [])] * 5


def test_result_counts_chunks_and_says_who_waits() -> None:
    shown = one("ALTER TABLE logs ADD COLUMN version text").result(CATALOG)
    assert (shown["lock"], shown["chunks"], shown["blocks_reads"], shown["blocks_writes"]) == ("ACCESS EXCLUSIVE", 12, True, True)
    shown = one("CREATE INDEX i ON plain (x)").result(CATALOG)
    assert (shown["lock"], shown["chunks"], shown["blocks_reads"], shown["blocks_writes"], shown["scans"]) == ("SHARE", 0, False, True, True)
    assert one("DO $$ BEGIN END $$").result(CATALOG)["unknown"].startswith("a block of code")
    assert "function housekeeping" in one("SELECT housekeeping()").result(CATALOG)["unknown"]


def test_statements_know_their_revision_and_alembics_own_are_left_out() -> None:
    text = (
        "BEGIN;\n-- Running upgrade 0001 -> 0002\nALTER TABLE a ADD x int;\nUPDATE alembic_version SET version_num='0002' WHERE version_num = '0001';\n"
        "-- Running upgrade 0002 -> 0003\n-- é\nALTER TABLE b ADD x int;\nSET lock_timeout = 1;\nCOMMIT;\n"
    )
    assert [(statement.revision, statement.sql) for statement in _ddl_locks.analyse(text)] == [
        ("0002", "ALTER TABLE a ADD x int"),
        ("0003", "ALTER TABLE b ADD x int"),
    ]


def test_text_that_is_no_sql_is_refused() -> None:
    with pytest.raises(RolloutError, match="cannot be parsed: syntax error"):
        _ddl_locks.analyse("ALTER TABEL a")


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("ALTER TABLE plain DROP COLUMN x", [("breaks", "ban-drop-column")]),
        ("ALTER TABLE plain ALTER x SET NOT NULL", [("breaks", "adding-not-nullable-field")]),
        ("ALTER TABLE plain ALTER x TYPE bigint", [("breaks", "changing-column-type")]),
        ("ALTER TABLE plain ALTER x DROP DEFAULT", [("breaks", "dropped-default")]),
        ("ALTER TABLE plain ALTER x SET DEFAULT 1", []),
        ("ALTER TABLE plain ALTER x DROP NOT NULL", []),
        ("ALTER TABLE plain ADD x int NOT NULL", [("breaks", "adding-required-field")]),
        ("ALTER TABLE filled ADD x int NOT NULL", [("breaks", "adding-required-field"), ("fails", "required-field-in-filled-table")]),
        ("ALTER TABLE plain ADD x int NOT NULL DEFAULT 0", []),
        ("ALTER TABLE plain ADD CHECK (x > 0)", [("breaks", "added-constraint")]),
        ("ALTER TABLE plain RENAME x TO y", [("breaks", "renaming-column")]),
        ("ALTER TABLE plain RENAME TO y", [("breaks", "renaming-table")]),
        ("ALTER TABLE plain SET SCHEMA s", [("breaks", "changing-schema")]),
        ("ALTER TABLE plain ENABLE ROW LEVEL SECURITY", [("breaks", "row-security")]),
        ("CREATE UNIQUE INDEX i ON plain (x)", [("breaks", "disallowed-unique-constraint")]),
        ("DROP TABLE plain", [("breaks", "ban-drop-table")]),
        ("DROP FUNCTION f(int)", [("breaks", "dropping-object")]),
        ("REVOKE SELECT ON plain FROM app", [("breaks", "revoked-privilege")]),
        ("DELETE FROM plain", [("breaks", "deleting-all-rows")]),
        ("DELETE FROM plain WHERE x = 1", []),
        ("UPDATE plain SET x = 1", [("warns", "updating-all-rows")]),
        ("CREATE INDEX CONCURRENTLY i ON logs (x)", [("fails", "hypertable-concurrent-index")]),
        ("CREATE INDEX i ON logs (x)", [("warns", "hypertable-index-lock")]),
        ("CREATE INDEX i ON logs (x) WITH (timescaledb.transaction_per_chunk)", []),
        ("ALTER TABLE logs ADD UNIQUE (service)", [("breaks", "added-constraint"), ("fails", "hypertable-unique-columns")]),
        ("ALTER TABLE logs ADD UNIQUE (service, timestamp)", [("breaks", "added-constraint")]),
        ("SELECT create_hypertable('filled', 'time')", [("fails", "hypertable-of-filled-table")]),
        ("SELECT create_hypertable('filled', 'time', migrate_data => true)", []),
        ("CREATE TABLE t (time timestamptz, id int); SELECT create_hypertable('t', by_range('time')); CREATE UNIQUE INDEX i ON t (id)",
         [("fails", "hypertable-unique-columns")]),
        ("SELECT drop_chunks('logs', INTERVAL '1 day')", [("breaks", "dropping-chunks")]),
    ],
)  # fmt: skip
def test_what_the_running_version_does_not_stand(sql: str, found: list[tuple[str, str]]) -> None:
    assert sorted(rules(sql)) == found


def judged(sql: str) -> list[tuple[str, str, str]]:
    statements = _ddl_locks.analyse(sql, CATALOG)
    found = _expand_only.findings(sql, statements, _expand_only.linted(sql, SERVER, 30), CATALOG)
    return [(item["level"], item["rule"], item["source"]) for item in found]


def test_squawk_adds_what_our_rules_do_not_say() -> None:
    sql = (
        "-- Running upgrade 1 -> 2\nALTER TABLE plain DROP COLUMN é;\nCREATE INDEX i ON plain (x);\nCREATE INDEX j ON logs (x);\n"
        "ALTER TABLE plain ADD CONSTRAINT c CHECK (x > 0);\nCREATE TABLE t (id int); CREATE INDEX k ON t (id);\n"
    )
    assert judged(sql) == [
        ("breaks", "ban-drop-column", "signal.rollout"),
        ("breaks", "added-constraint", "signal.rollout"),
        ("warns", "require-concurrent-index-creation", "squawk"),
        ("warns", "hypertable-index-lock", "signal.rollout"),
        ("warns", "constraint-missing-not-valid", "squawk"),
    ]


def test_additions_are_no_reason_to_refuse() -> None:
    assert judged("CREATE TABLE t (id bigint PRIMARY KEY); ALTER TABLE plain ADD COLUMN version text; GRANT SELECT ON t TO app") == []
    assert _expand_only.refusal([]) is None


def test_refusal_names_the_worst_and_counts_the_rest() -> None:
    sql = ";".join(f"ALTER TABLE plain DROP COLUMN c{number}" for number in range(7))
    why = _expand_only.refusal(_expand_only.findings(sql, _ddl_locks.analyse(sql), [], CATALOG))
    assert why is not None
    assert why.startswith("no revision: plain.c0 is dropped, which the running version may use (ban-drop-column); ") and why.endswith("; and 2 more")


def test_what_is_dropped_is_listed_for_counting() -> None:
    sql = "ALTER TABLE logs DROP COLUMN version, DROP COLUMN pod; DROP TABLE plain; CREATE TABLE t (id int); DROP TABLE t; DELETE FROM other; TRUNCATE more"
    drops = [drop for statement in _ddl_locks.analyse(sql, CATALOG) for drop in statement.drops]
    assert drops == [("logs", "version"), ("logs", "pod"), ("plain", None), ("other", None), ("more", None)]
