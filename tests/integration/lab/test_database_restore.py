# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_restore against the lab's TimescaleDB: back to a real backup under write load, killed at every write, and taken back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg2
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup, _database_restore, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import LAB
from .database import HOST, PORT, password, session

CLIENTS = str(LAB / "pgclient" / "bin")
SCHEMA = """
create extension timescaledb;
create table signal_greeks (id bigint generated always as identity, time timestamptz not null, instrument text not null, delta float,
  unique (instrument, time));
select create_hypertable('signal_greeks', by_range('time', interval '1 day'));
insert into signal_greeks (time, instrument, delta)
  select t, 'NIFTY', 0.5 from generate_series(timestamptz '2026-01-01', timestamptz '2026-01-05', interval '10 minutes') t;
create table signal_subscriptions (id bigint primary key, name text);
insert into signal_subscriptions select g, 'x' || g from generate_series(1, 1000) g;
create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('0001');
"""
MIGRATION = """
alter table signal_greeks add column vega float;
create table signal_audit (id bigint primary key);
update alembic_version set version_num = '0002';
"""
CHANGES = """
insert into signal_greeks (time, instrument) select t, 'LATE' from generate_series(timestamptz '2026-01-02', timestamptz '2026-01-03', interval '1 hour') t;
update signal_subscriptions set name = 'changed' where id <= 7;
delete from signal_subscriptions where id > 990;
insert into signal_audit values (1), (2);
"""
WRITES = re.compile(r"(^|SQL\(')(analyze|select public\.timescaledb|create|comment|drop|alter)")
LATE, CHANGED, DELETED, AUDITED = 25, 7, 10, 2


def run(engine: ModuleType, check_mode: bool = False, **wanted: Any) -> dict[str, Any]:
    login = {"login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "client_dir": CLIENTS}
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC, **engine.SPEC_RULES).validate({**login, **wanted})
    assert not checked.error_messages, checked.error_messages
    return engine.run(checked.validated_parameters, Context(check_mode=check_mode))


class Stage:
    """A database with a backup, migrated and changed since."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        with session(name) as cursor:
            cursor.execute(SCHEMA)
        self.backup = run(_database_backup, login_db=name, dest=str(folder))
        with session(name) as cursor:
            cursor.execute(MIGRATION + CHANGES)

    def restore(self, state: str, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        source = {} if state in ("returned", "cleaned") else {"src": self.backup["file"]}
        return run(_database_restore, check_mode, state=state, login_db="postgres", target=self.name, **source, **options)

    @property
    def backup_rows(self) -> dict[str, int]:
        return {table["name"]: table["rows"] for table in self.backup["manifest"]["tables"]}

    def rows(self, table: str, database: str = "", where: str = "true") -> int:
        with session(database or self.name) as cursor:
            cursor.execute(f"select count(*) from {table} where {where}")
            return cursor.fetchone()[0]

    def revision(self) -> str:
        with session(self.name) as cursor:
            cursor.execute("select version_num from alembic_version")
            return cursor.fetchone()[0]

    def databases(self) -> dict[str, bool]:
        with session("postgres") as cursor:
            cursor.execute("select datname, datallowconn from pg_database where datname like %s", [self.name + "%"])
            return dict(cursor.fetchall())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    name = f"test_dr_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        cursor.execute(f"create database {name}")
    try:
        yield Stage(name, tmp_path / "backups")
    finally:
        with session("postgres") as cursor:
            cursor.execute("select datname from pg_database where datname like %s", [name + "%"])
            for (database,) in cursor.fetchall():
                cursor.execute(f"drop database {database} with (force)")


@contextlib.contextmanager
def writer(stage: Stage) -> Iterator[Callable[[], int]]:
    """Insert rows without a pause, connecting again whenever that ends; yields what tells how many were confirmed."""
    end, done = threading.Event(), []

    def write() -> None:
        while not end.is_set():
            with contextlib.suppress(psycopg2.Error), session(stage.name) as cursor:
                while not end.is_set():
                    cursor.execute("insert into signal_greeks (time, instrument) values (clock_timestamp(), 'LOAD')")
                    done.append(1)
            time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: len(done)
    finally:
        end.set()
        thread.join()


def test_the_plan_counts_late_changed_and_deleted_rows_and_writes_nothing(stage: Stage) -> None:
    for answer in (stage.restore("plan"), stage.restore("swapped", check_mode=True)):
        loss = answer["loss"]
        assert (loss["written"], loss["removed"], loss["exact"]) == (LATE + CHANGED + AUDITED, CHANGED + DELETED, True)
    assert stage.databases() == {stage.name: True}


def test_a_loss_that_nobody_accepted_is_refused_before_any_write(stage: Stage) -> None:
    for word in ("", str(LATE + CHANGED + AUDITED - 1)):
        with pytest.raises(RolloutError, match="rows written since the backup would be lost"):
            stage.restore("swapped", accept_data_loss=word)
    assert stage.databases() == {stage.name: True}


def test_the_full_circle_under_write_load(stage: Stage) -> None:
    with writer(stage) as confirmed:
        answer = stage.restore("swapped", accept_data_loss="yes")
        swapped_at = confirmed()
        while confirmed() < swapped_at + 10:
            time.sleep(0.01)
    (old,) = [name for name in stage.databases() if "_before_" in name]
    for table, rows in stage.backup_rows.items():
        assert stage.rows(table, where="instrument <> 'LOAD'" if table == "signal_greeks" else "true") == rows
    assert stage.revision() == "0001"
    with session("postgres") as cursor:
        cursor.execute(f"alter database {old} with allow_connections true")
    written = stage.rows("signal_greeks", old, "instrument in ('LOAD', 'LATE')") + CHANGED + AUDITED
    assert answer["loss"]["exact"]
    assert answer["loss"]["written"] == written
    # Every row that was confirmed is in one of the two.
    assert stage.rows("signal_greeks", old, "instrument = 'LOAD'") + stage.rows("signal_greeks", where="instrument = 'LOAD'") >= confirmed()


def test_the_old_database_comes_back_and_everything_is_repeatable(stage: Stage) -> None:
    assert stage.restore("prepared")["changed"]
    assert not stage.restore("prepared")["changed"]
    assert stage.restore("swapped", accept_data_loss="yes")["changed"]
    assert not stage.restore("swapped")["changed"]
    with session(stage.name) as cursor:
        cursor.execute("insert into signal_subscriptions values (5000, 'after the swap')")
    with pytest.raises(RolloutError, match="1 row written"):
        stage.restore("returned")
    assert stage.restore("returned", accept_data_loss="1")["changed"]
    assert not stage.restore("returned")["changed"]
    assert stage.revision() == "0002"
    assert stage.restore("plan")["loss"]["written"] == LATE + CHANGED + AUDITED
    assert stage.restore("cleaned")["changed"]
    assert not stage.restore("cleaned")["changed"]
    assert stage.databases() == {stage.name: True}


def test_owner_privileges_and_settings_of_the_database_stay(stage: Stage) -> None:
    with session("postgres") as cursor:
        cursor.execute(f"alter database {stage.name} set search_path to \"$user\", public, pg_catalog")
        cursor.execute(f"alter database {stage.name} connection limit 50")
        cursor.execute(f"revoke connect on database {stage.name} from public")
        cursor.execute(f"comment on database {stage.name} is 'the signals'")
    query = (
        "select datacl::text, datconnlimit, shobj_description(oid, 'pg_database'), "
        "(select setconfig::text from pg_db_role_setting where setdatabase = oid and setrole = 0) from pg_database where datname = %s"
    )
    with session("postgres") as cursor:
        cursor.execute(query, [stage.name])
        before = cursor.fetchone()
        stage.restore("swapped", accept_data_loss="yes")
        cursor.execute(query, [stage.name])
        assert cursor.fetchone() == before


def test_a_damaged_backup_and_a_plain_role_are_refused(stage: Stage) -> None:
    path = Path(stage.backup["file"])
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes(100))
    with pytest.raises(RolloutError, match="SHA-256"):
        stage.restore("swapped", accept_data_loss="yes")
    assert stage.databases() == {stage.name: True}


def _killed_at(stage: Stage, state: str, place: int) -> bool:
    """Run in a child that kills itself before its ``place``-th writing statement; False when it ended before that."""

    def child() -> None:
        original, left = _postgresql.Session.raw_rows, [place]

        def counted(self: Any, statement: Any, arguments: Any = ()) -> Any:
            text = statement if isinstance(statement, str) else repr(statement)
            if WRITES.search(text):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(self, statement, arguments)

        _postgresql.Session.raw_rows = counted  # type: ignore[method-assign]
        stage.restore(state, accept_data_loss="yes")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_killed_at_every_write_nothing_is_lost_and_a_rerun_completes(stage: Stage) -> None:
    loss = LATE + CHANGED + AUDITED
    killed = 0
    while _killed_at(stage, "swapped", killed):
        killed += 1
        assert stage.name in stage.databases()
        answer = stage.restore("swapped", accept_data_loss=str(loss))
        assert stage.revision() == "0001" and stage.rows("signal_subscriptions") == 1000
        assert answer["loss"] is None or answer["loss"]["written"] == loss
        stage.restore("returned", accept_data_loss="yes")
        stage.restore("cleaned")
        assert stage.databases() == {stage.name: True}
        assert stage.rows("signal_audit") == AUDITED and stage.revision() == "0002"
    assert killed >= 10
