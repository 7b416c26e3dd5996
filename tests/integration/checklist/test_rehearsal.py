# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups and a rehearsed migration, on a database of one's own."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_store, _preflight_database
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from ..lab.conftest import LAB
from ..lab.database import password, session
from ..lab.test_database_backup import backup
from ..lab.test_schema_migration import database, refused, rows, run, scripts, template, write

# Fixtures: pytest finds them here by name.
__all__ = ["database", "scripts", "template"]
TESTED, BACKUPS = "infrastructure.migrations_tested", "infrastructure.backups"
QUERIES = Path(__file__).resolve().parents[3] / "lab/signal_service/release/sql/stable_queries.sql"


def rehearsal(database: str, folder: Path, **changes: Any) -> dict[str, Any]:  # noqa: F811
    return {
        "state": "rehearsed", "backup": backup(database, folder)["file"], "client_dir": str(LAB / "pgclient/bin"), "stable_queries": str(QUERIES),
        "scratch_login_user": "postgres", "scratch_login_password": password(), **changes,
    }  # fmt: skip


def copies() -> list[str]:
    with session("postgres") as cursor:
        cursor.execute("select datname from pg_database where datname like 'test\\_sm%\\_scratch\\_2%'")
        return [row[0] for row in cursor.fetchall()]


@pytest.mark.box(TESTED, BACKUPS)
def test_a_migration_that_works_on_a_restored_copy_proves_both_boxes_and_leaves_nothing(database: str, tmp_path: Path) -> None:  # noqa: F811
    result = run(database, **rehearsal(database, tmp_path / "backups"))
    assert {box: proof["state"] for box, proof in result["proofs"].items()} == {TESTED: "proven", BACKUPS: "proven"}
    assert "0002, 0003, 0004 on a restored copy" in result["proofs"][TESTED]["evidence"]
    assert "6 queries of the running version pass" in result["proofs"][TESTED]["evidence"]
    assert (rows(database), copies(), result["changed"]) == (["0001"], [], False)
    checked = run(database, context=Context(check_mode=True), **rehearsal(database, tmp_path / "others"))
    assert checked["rehearsed"] is None and TESTED not in checked["proofs"]


@pytest.mark.box(TESTED)
def test_a_migration_that_takes_away_what_the_running_version_needs_fails_the_box(database: str, scripts: Path, tmp_path: Path) -> None:  # noqa: F811
    write(scripts, "a", 'op.execute("alter table logs drop column error_type")')
    asked = rehearsal(database, tmp_path / "backups", alembic_ini=str(scripts / "alembic.ini"), expand_only="warn")
    proofs = refused(database, **asked).result["proofs"]
    assert proofs[TESTED]["state"] == "failed" and "error_type" in proofs[TESTED]["evidence"]
    # The backup itself has been restored.
    assert proofs[BACKUPS]["state"] == "proven"
    assert (rows(database), copies()) == (["0001"], [])


@pytest.mark.box(TESTED)
def test_a_migration_that_fails_on_the_data_fails_the_box(database: str, scripts: Path, tmp_path: Path) -> None:  # noqa: F811
    write(scripts, "a", 'op.execute("select 1/0")')
    asked = rehearsal(database, tmp_path / "backups", alembic_ini=str(scripts / "alembic.ini"), expand_only="ignore")
    assert refused(database, **asked).result["proofs"][TESTED]["state"] == "failed"
    assert rows(database) == ["0001"]


def judged(folder: Path, database: str, hours: float = 24, verified: str = "read", later: float = 0) -> dict[str, str] | None:  # noqa: F811
    now = datetime.now(timezone.utc) + timedelta(hours=later)
    return _preflight_database.judge_backups(_backup_store.Store(str(folder)).entries(), database, hours, verified, now)


@pytest.mark.box(BACKUPS)
def test_the_newest_backup_proves_the_box_until_it_is_too_old_too_little_verified_or_damaged(database: str, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "backups"
    assert judged(folder, database) is None
    file = Path(backup(database, folder)["file"])
    states = [judged(folder, database), judged(folder, database, later=30), judged(folder, database, verified="restored")]
    assert [found and found["state"] for found in states] == ["proven", "failed", "failed"]
    assert judged(folder, "another") is None
    os.truncate(file, 100)
    damaged = judged(folder, database)
    assert damaged is not None and damaged["state"] == "failed"
