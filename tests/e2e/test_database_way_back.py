# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release that fails after its migration, while both versions write, and the way back to the backup that it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from .conftest import LAB, Stage, labctl

DATABASE = "signal_db"


def password() -> str:
    return (LAB / "secrets" / "postgres").read_text(encoding="utf-8")


@contextmanager
def administrator(database: str) -> Iterator[Any]:
    session = psycopg2.connect(host="10.79.0.50", dbname=database, user="postgres", password=password(), connect_timeout=5)
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            yield cursor
    finally:
        session.close()


def old_databases() -> list[str]:
    with administrator("postgres") as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{DATABASE}\\_%"])
        return [name for (name,) in cursor.fetchall()]


@pytest.fixture
def no_old_database() -> Iterator[None]:
    before = old_databases()
    yield
    with administrator("postgres") as cursor:
        for name in set(old_databases()) - set(before):
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def counted(cursor: Any, table: dict[str, Any], taken: str) -> int:
    """Rows of a table up to the newest that the backup has, or up to when it was taken: what is written since the way back is newer."""
    statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table["schema"], table["name"]))
    if table["time_column"]:
        statement += sql.SQL(" WHERE {} <= {}").format(sql.Identifier(table["time_column"]), sql.Literal(table["max_time"] or taken))
    cursor.execute(statement)
    return int(cursor.fetchone()[0])


def test_a_release_that_failed_after_its_migration_goes_back_to_its_backup_with_every_row_of_it(stage: Stage, no_old_database: None) -> None:
    run = stage.start("deploy_v2", canary_hold_seconds=12, canary_bake_seconds=12)
    stage.until("green has 10 %", lambda: stage.weights() == [90, 10])
    labctl("break", "error-ratio", "0.5")
    assert run.end().code != 0
    assert stage.weights() == [100, 0] and stage.revision() == "0004"
    (backup,) = stage.record()["steps"]["database_migration"]["evidence"]["backups"]
    manifest = json.loads(Path(backup["file"]).with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["alembic"] == ["0001"]

    wanted = {"rollback_database": "restore", "rollback_restore_password": password(), "rollback_client_dir": str(LAB / "pgclient/bin")}
    refused = stage.play("rollback", **wanted, rollback_database_acknowledge=True)
    assert refused.code != 0 and "would be lost" in refused.output, refused.output[-4000:]
    assert stage.revision() == "0004" and stage.weights() == [100, 0]

    ended = stage.play("rollback", **wanted, rollback_database_acknowledge=True, rollback_accept_data_loss="yes")
    assert ended.code == 0, ended.output[-4000:]
    assert password() not in ended.output + refused.output
    assert stage.revision() == "0001" and stage.weights() == [100, 0] and stage.replicas("v1") == 2 and stage.replicas("v2") == 0
    with administrator(DATABASE) as cursor:
        tables = manifest["tables"]
        assert {table["name"]: counted(cursor, table, manifest["created"]) for table in tables} == {table["name"]: table["rows"] for table in tables}
        cursor.execute("SELECT to_regclass('signal_greeks')")
        assert cursor.fetchone()[0] is None
    # What was written since is not gone before somebody drops it.
    (old,) = old_databases()
    with administrator("postgres") as cursor:
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(old)))
    with administrator(old) as cursor:
        (requests,) = [table for table in manifest["tables"] if table["name"] == "api_requests"]
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE version = 'v2') FROM api_requests")
        rows, of_green = cursor.fetchone()
        assert rows > requests["rows"] and of_green > 0
    stage.until("blue writes again", lambda: written(requests), 30)


def written(requests: dict[str, Any]) -> bool:
    with administrator(DATABASE) as cursor:
        cursor.execute("SELECT max(timestamp) > coalesce(%s, '-infinity')::timestamptz FROM api_requests", [requests["max_time"] or None])
        return bool(cursor.fetchone()[0])
