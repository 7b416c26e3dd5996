# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles of roles/database_migration/files/roles.sql on the lab's server: each does its step, and nothing beyond it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_indexes, _hypertables
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

from .conftest import LAB
from .database import HOST, PORT, password
from .database import session as administration

SCRIPT = Path(__file__).parents[3] / "roles" / "database_migration" / "files" / "roles.sql"
ROLES = ("signal_backup", "signal_migrator", "signal_verifier")
PASSWORD = "password-of-this-test"
MIGRATION = (
    "create table signal_greeks (time timestamptz not null, instrument text)",
    "select create_hypertable('signal_greeks', by_range('time', interval '1 day'))",
    "insert into signal_greeks values ('2026-01-01', 'NIFTY')",
)


def session(database: str, user: str = "postgres") -> contextlib.AbstractContextManager[Any]:
    return administration(database, user, None if user == "postgres" else PASSWORD)


def program(name: str, database: str, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    login = {"PGHOST": HOST, "PGPORT": str(PORT), "PGUSER": user, "PGPASSWORD": password() if user == "postgres" else PASSWORD}
    command = [str(LAB / "pgclient" / "bin" / name), f"--dbname={database}", *arguments]
    return subprocess.run(command, env={**os.environ, **login}, capture_output=True, text=True, timeout=60, check=False)


def create_roles(database: str, named: str) -> subprocess.CompletedProcess[str]:
    variables = {"database": named, "schema": "public", "owner": "signal_owner", "application": "signal_user"}
    return program("psql", database, "postgres", *(f"--set={name}={value}" for name, value in variables.items()), f"--file={SCRIPT}")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A migrated database with the roles; what the script leaves in the cluster goes at the end, if it was not there before."""
    name = f"test_roles_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        cursor.execute("select rolname from pg_roles where rolname = any(%s)", (list(ROLES),))
        before = {row[0] for row in cursor.fetchall()}
        if before:
            pytest.skip(f"{', '.join(sorted(before))} exist on this server, and this test would change their passwords")
        cursor.execute("select pg_has_role('signal_owner', 'pg_read_all_stats', 'member')")
        (had_stats,) = cursor.fetchone()
        cursor.execute(f"create database {name} owner signal_owner template template0")
    try:
        with session(name) as cursor:
            cursor.execute("create extension timescaledb")
            for _time in range(2):
                done = create_roles(name, name)
                assert done.returncode == 0, done.stderr
            for role in ROLES:
                cursor.execute(f"alter role {role} password %s", (PASSWORD,))
        with session(name, "signal_migrator") as cursor:
            for statement in MIGRATION:
                cursor.execute(statement)
        yield name
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")
            for role in ROLES:
                cursor.execute(f"drop role if exists {role}")
            if not had_stats:
                cursor.execute("revoke pg_read_all_stats from signal_owner")


def run(engine: Any, database: str, user: str, **options: Any) -> dict[str, Any]:
    login = {"login_host": HOST, "login_port": PORT, "login_user": user, "login_password": PASSWORD, "login_db": database}
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate({**login, **options})
    assert not checked.error_messages, checked.error_messages
    return engine.run(checked.validated_parameters, Context())


def test_none_of_them_is_a_superuser(database: str) -> None:
    with session(database) as cursor:
        cursor.execute("select rolname from pg_roles where rolname = any(%s) and (rolsuper or rolcreatedb or rolcreaterole)", (list(ROLES),))
        assert cursor.fetchall() == []


def test_script_refuses_another_database(database: str) -> None:
    done = create_roles("postgres", database)
    assert done.returncode == 3 and "connected to database postgres" in done.stderr


def test_what_the_migrator_creates_belongs_to_the_owner(database: str) -> None:
    index = {"table": "signal_greeks", "name": "signal_greeks_instrument_idx", "definition": "(instrument, time DESC)"}
    assert run(_database_indexes, database, "signal_migrator", indexes=[index])["changed"]
    with session(database) as cursor:
        cursor.execute("select distinct pg_get_userbyid(relowner) from pg_class where relname like '%signal_greeks%' or relname like '\\_hyper\\_%'")
        assert cursor.fetchall() == [("signal_owner",)]


def test_backup_reads_everything_and_writes_nothing(database: str, tmp_path: Path) -> None:
    done = program("pg_dump", database, "signal_backup", "--format=custom", f"--file={tmp_path / 'x.dump'}")
    assert done.returncode == 0, done.stderr
    with session(database, "signal_backup") as cursor:
        with pytest.raises(psycopg2.Error, match="read-only transaction"):
            cursor.execute("delete from signal_greeks")
        cursor.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg2.Error, match="permission denied"):
            cursor.execute("delete from signal_greeks")


def test_verifier_verifies_and_sees_no_row(database: str) -> None:
    wanted = [{"table": "signal_greeks", "time_column": "time", "chunk_interval": "1 day", "min_chunks": 1, "owner": "signal_owner"}]
    result = run(_hypertables, database, "signal_verifier", hypertables=wanted)
    assert result["verdict"] == "pass" and "warnings" not in result
    with session(database, "signal_verifier") as cursor, pytest.raises(psycopg2.Error, match="permission denied"):
        cursor.execute("select * from signal_greeks")
