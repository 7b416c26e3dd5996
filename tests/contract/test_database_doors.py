# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both doors of the database's modules give the same answer, refused and reading the lab's database, and neither shows a password."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from .conftest import run_tasks
from .test_doors import SECRET, closed_port, comparable

LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = str(LAB / "pgclient/bin")
INI = str(ROOT / "lab/signal_service/release/migrations/alembic.ini")
INDEX = {"table": "logs", "name": "logs_service_contract", "definition": "(service, timestamp DESC)"}
# As much of the release's schema as its next migrations change.
SCHEMA = """
create extension timescaledb;
create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('0001');
create table logs (timestamp timestamptz not null, service text not null);
create table api_requests (timestamp timestamptz not null, service text not null);
"""
LOGIN = {"login_host": "127.0.0.1", "login_user": "signal_owner", "login_db": "signal_db"}
BACKUP = {**LOGIN, "dest": "/nonexistent/backups", "client_dir": CLIENTS}

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "unreachable server, backup": ("database_backup", BACKUP),
    "unknown suboption of a backup": ("database_backup", {**BACKUP, "keep": {"weeks": 3}}),
    "all mistakes of a backup at once": ("database_backup", {**BACKUP, "jobs": 0, "compression": "rar", "timeout": -1}),
    "options of a backup that exclude each other": ("database_backup", {**BACKUP, "encrypt": {"age_recipients": ["a"], "gpg_recipients": ["b"]}}),
    "backup that is not there": ("database_backup", {**BACKUP, "state": "verify"}),
    "no client program": ("database_backup", {**BACKUP, "client_dir": "/nonexistent"}),
    "unreachable server, restore": ("database_restore", {**LOGIN, "state": "cleaned", "target": "signal_db"}),
    "restore without its backup": ("database_restore", {**LOGIN, "state": "swapped", "target": "signal_db"}),
    "restore from a file that is not there": ("database_restore", {**LOGIN, "state": "plan", "target": "signal_db", "src": "/nonexistent.dump"}),
    "unreachable server, migration": ("schema_migration", {**LOGIN, "state": "upgraded", "alembic_ini": INI}),
    "downgrade to nothing": ("schema_migration", {**LOGIN, "state": "downgraded", "alembic_ini": INI}),
    "all mistakes of a migration at once": ("schema_migration", {**LOGIN, "state": "plan", "alembic_ini": "/nonexistent", "retries": -1, "lock_timeout": 90}),
    "unreachable server, indexes": ("database_indexes", {**LOGIN, "indexes": [INDEX]}),
    "neither file nor list of indexes": ("database_indexes", LOGIN),
    "index without its table": ("database_indexes", {**LOGIN, "indexes": [{"name": "a", "definition": "(b)"}]}),
}


READING: dict[str, tuple[str, dict[str, Any]]] = {
    "a backup foreseen": ("database_backup", {"client_dir": CLIENTS, "name": "contract", "space_factor": 0}),
    "backups listed": ("database_backup", {"state": "listed"}),
    "a schema shown": ("schema_migration", {"state": "shown", "alembic_ini": INI}),
    "a migration planned": ("schema_migration", {"state": "plan", "alembic_ini": INI, "revision": "0004"}),
    "an index foreseen": ("database_indexes", {"indexes": [INDEX]}),
    "databases to clean foreseen": ("database_restore", {"state": "cleaned", "login_db": "postgres", "target": "signal_db"}),
}


HOST = "10.79.0.50"
DOORS = ["in_process", "module"]


def password() -> str:
    return (LAB / "secrets/postgres").read_text(encoding="utf-8")


def execute(database: str, statements: str) -> None:
    connection = psycopg2.connect(host=HOST, dbname=database, user="postgres", password=password(), connect_timeout=5)
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(statements)


class Answers:
    """What each door has answered to all cases, and everything that it printed."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.password = password()
        login = {"login_host": HOST, "login_user": "postgres", "login_password": self.password, "login_db": database}
        port = closed_port()
        tasks = [
            {"name": case, f"signal.rollout.{module}": {**arguments, "login_port": port, "login_password": SECRET}}
            for case, (module, arguments) in REFUSED.items()
        ]
        for case, (module, arguments) in READING.items():
            dest = {"dest": str(folder / "backups")} if module == "database_backup" else {}
            tasks.append({"name": case, f"signal.rollout.{module}": {**login, **dest, **arguments}, "check_mode": True})
        names = [*REFUSED, *READING]
        self.results: dict[str, dict[str, Any]] = {}
        self.output: dict[str, str] = {}
        for door in DOORS:
            results, self.output[door] = run_tasks(folder, tasks, door, ["-vvvv"])
            self.results[door] = dict(zip(names, results))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    name = f"contract_{uuid.uuid4().hex[:8]}"
    execute("postgres", f"create database {name}")
    try:
        execute(name, SCHEMA)
        yield Answers(tmp_path_factory.mktemp("doors"), name)
    finally:
        execute("postgres", f"drop database {name} with (force)")


@pytest.mark.parametrize("case", list(REFUSED))
def test_both_doors_refuse_alike(case: str, answers: Answers) -> None:
    here, there = (answers.results[door][case] for door in DOORS)
    assert here["failed"] is True and there["failed"] is True
    assert comparable(here) == comparable(there)
    assert "Traceback" not in here["msg"]


@pytest.mark.parametrize("case", list(READING))
def test_both_doors_read_the_same_in_check_mode(case: str, answers: Answers) -> None:
    here, there = (answers.results[door][case] for door in DOORS)
    assert not here.get("failed"), here
    assert comparable(here) == comparable(there)


@pytest.mark.parametrize("door", DOORS)
def test_no_password_shows_at_the_highest_verbosity_and_nothing_is_written(door: str, answers: Answers) -> None:
    assert SECRET not in answers.output[door] and answers.password not in answers.output[door]
    assert not (answers.folder / "backups").exists()
