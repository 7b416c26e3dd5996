# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Servers in a special state: a standby to back up from, and one whose disk is full in the middle of a migration."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup, _kube, _schema_migration
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import LAB, wait_until
from .servers import Server, Servers, servers

RELEASE = Path(__file__).resolve().parents[3] / "lab/signal_service/release/migrations"
SCHEMA = """
create extension timescaledb;
create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('0001');
create table tick (time timestamptz not null, price double precision);
select create_hypertable('tick', by_range('time', interval '1 day'));
insert into tick select timestamptz '2026-01-01' + i * interval '1 minute', random() from generate_series(1, 5000) i;
"""
FILLING = """
from alembic import op
revision = "filling"
down_revision = "0001"
def upgrade():
    op.execute("create table filled as select i, repeat(md5(i::text), 10) as text from generate_series(1, 150000) i")
def downgrade():
    op.execute("drop table filled")
"""


@pytest.fixture(scope="module")
def own(kube: _kube.Kube) -> Iterator[Servers]:
    with servers(kube) as started:
        yield started


@pytest.fixture(scope="module")
def primary(own: Servers) -> Server:
    server = own.start("primary")
    server.run("create database signal")
    server.run(SCHEMA, "signal")
    return server


def run(engine: Any, server: Server, **wanted: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate({**server.login, "login_db": "signal", **wanted})
    assert not checked.error_messages, checked.error_messages
    return engine.run(checked.validated_parameters, Context())


def test_a_standby_is_backed_up_and_is_no_place_for_a_migration(own: Servers, primary: Server, tmp_path: Path) -> None:
    standby = own.start("standby", primary)
    wait_until("the standby has the rows", lambda: standby.run("select count(*) from tick", "signal") == [(5000,)])
    assert standby.run("select pg_is_in_recovery()") == [(True,)]
    scratch = {"scratch_login_host": primary.host, "scratch_login_user": "postgres", "scratch_login_password": primary.password}
    wanted = {"dest": str(tmp_path / "b"), "client_dir": str(LAB / "pgclient/bin"), "space_factor": 0, "verify": "restored", **scratch}
    result = run(_database_backup, standby, **wanted)
    assert result["verified"] == "restored"
    assert {table["name"]: table["rows"] for table in result["manifest"]["tables"]} == {"alembic_version": 1, "tick": 5000}
    with pytest.raises(RolloutError, match=r"the server is a standby, expected the primary\. Next: give the primary's address"):
        run(_schema_migration, standby, state="upgraded", alembic_ini=str(RELEASE / "alembic.ini"))


def test_a_server_whose_disk_gets_full_has_an_unchanged_database_and_the_migration_completes_when_there_is_room(own: Servers, tmp_path: Path) -> None:
    server = own.start("small", megabytes=300)
    server.run("create database signal")
    server.run(SCHEMA, "signal")
    scripts = tmp_path / "migrations"
    shutil.copytree(RELEASE, scripts)
    for path in (scripts / "versions").glob("000[234]*"):
        path.unlink()
    (scripts / "versions/filling.py").write_text(FILLING, encoding="utf-8")
    wanted = {"state": "upgraded", "alembic_ini": str(scripts / "alembic.ini"), "expand_only": "ignore", "retries": 0, "timeout": 120}
    filled = server.container.run(["bash", "-c", "fallocate -l $(($(df --output=avail -B1 /data | tail -1) - 40000000)) /data/filler"])
    assert filled.code == 0, filled.stderr
    with pytest.raises(RolloutError, match=r"No space left on device|could not extend file|server closed the connection") as failure:
        run(_schema_migration, server, **wanted)
    assert failure.value.result["outcome"] in ("unchanged", "indeterminate")
    server.container.run(["rm", "/data/filler"])
    wait_until("the server answers", server.answers, 60)
    assert server.run("select version_num, to_regclass('filled')::text, (select count(*) from tick) from alembic_version", "signal") == [("0001", None, 5000)]
    assert run(_schema_migration, server, **wanted)["outcome"] == "at_target"
    assert server.run("select count(*) from filled", "signal") == [(150000,)]
