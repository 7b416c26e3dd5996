# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hypertable_verify on the views of every TimescaleDB from 2.14 to 2.29, in a database that has their columns and no extension.

The lab has one version, of the Apache edition. The views of the others are stood in for by tables with the same columns (as in
sql/views.sql of each tag), chunks by inheritance. So the statements run on a real server, also what only the Timescale License allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _hypertable_catalog
from ansible_collections.signal.rollout.plugins.module_utils import _hypertables as hv
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .database import HOST, PORT, new_database, password, session

HYPERTABLES = "hypertable_schema name, hypertable_name name, owner name, num_dimensions int, num_chunks bigint, compression_enabled bool, tablespaces name[]"
DIMENSIONS = (
    "hypertable_schema name, hypertable_name name, dimension_number bigint, column_name name, column_type regtype, dimension_type text,"
    " time_interval interval, integer_interval bigint, integer_now_func name, num_partitions smallint"
)
JOBS = (
    "job_id int, application_name name, schedule_interval interval, max_runtime interval, max_retries int, retry_period interval,"
    " proc_schema name, proc_name name, owner regrole, scheduled bool, fixed_schedule bool, config jsonb, next_start timestamptz,"
    " initial_start timestamptz, hypertable_schema name, hypertable_name name, check_schema name, check_name name"
)
# Since 2.20 the view of hypertables has two more columns; the others have kept theirs.
PRIMARY = ", primary_dimension name, primary_dimension_type regtype"
VERSIONS = {f"2.{minor}.0": HYPERTABLES + (PRIMARY if minor >= 20 else "") for minor in range(14, 30)}
SCHEMA = """
drop schema if exists timescaledb_information cascade; drop schema if exists _timescaledb_internal cascade; drop table if exists ticks cascade;
create schema timescaledb_information; create schema _timescaledb_internal;
create table timescaledb_information.hypertables ({hypertables});
create table timescaledb_information.dimensions ({dimensions});
create table timescaledb_information.jobs ({jobs});
create table ticks (time timestamptz not null, instrument text);
create index ticks_time_idx on ticks (time desc);
insert into timescaledb_information.hypertables (hypertable_schema, hypertable_name, owner, num_dimensions, num_chunks, compression_enabled)
  values ('public', 'ticks', 'postgres', 1, 2, true);
insert into timescaledb_information.dimensions values ('public', 'ticks', 1, 'time', 'timestamptz', 'Time', '1 day', null, null, null);
insert into timescaledb_information.jobs (job_id, proc_name, config, hypertable_schema, hypertable_name) values
  (1000, 'policy_retention', '{{"drop_after": "30 days", "hypertable_id": 1}}', 'public', 'ticks'),
  (1001, 'policy_compression', '{{"compress_after": "7 days", "hypertable_id": 1}}', 'public', 'ticks'),
  (1002, 'policy_reorder', '{{"index_name": "ticks_time_idx", "hypertable_id": 1}}', 'public', 'ticks'),
  (3, 'policy_job_stat_history_retention', '{{"drop_after": "1 month"}}', null, null);
"""
CHUNK = """
create table _timescaledb_internal._hyper_1_{n}_chunk () inherits (ticks);
create index _hyper_1_{n}_chunk_ticks_time_idx on _timescaledb_internal._hyper_1_{n}_chunk (time desc);
"""
TICKS = {
    "table": "ticks", "time_column": "time", "time_type": "timestamptz", "chunk_interval": "1 day", "space_dimensions": [], "min_chunks": 2,
    "owner": "postgres", "indexes": ["ticks_time_idx"], "compression": True,
    "policies": {"retention": "30 days", "compression": "7 days", "reorder": "ticks_time_idx"},
}  # fmt: skip


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with new_database("hvv") as name:
        yield name


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the views of this version; only what the extension itself answers is stood in for."""
    with session(database) as cursor:
        cursor.execute(SCHEMA.format(hypertables=VERSIONS[request.param], dimensions=DIMENSIONS, jobs=JOBS))
        for number in (1, 2):
            cursor.execute(CHUNK.format(n=number))
    answer(monkeypatch, request.param, "timescale")
    return str(request.param)


def answer(monkeypatch: pytest.MonkeyPatch, version: str, license_name: str) -> None:
    real = _hypertable_catalog._SERVER

    def read(session: Any, query_timeout: float) -> dict[str, Any]:
        row = session.rows(real, {"timeout_ms": "30000", "lock_ms": "30000"})[0]
        return {**row, "version": version, "catalog_version": version, "license": license_name}

    monkeypatch.setattr(_hypertable_catalog, "_read_database", read)


def run(database: str, **changes: Any) -> dict[str, Any]:
    login = {"login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "login_db": database}
    checked = ArgumentSpecValidator(hv.ARGUMENT_SPEC).validate({**login, "hypertables": [TICKS], **changes})
    assert not checked.error_messages, checked.error_messages
    return hv.run(checked.validated_parameters, Context())


def test_declaration_that_holds_passes(database: str, version: str) -> None:
    result = run(database)
    assert (result["verdict"], result["extension"]["version"], result["queries"] <= 8) == ("pass", version, True)


def test_suggestion_holds(database: str, version: str) -> None:
    found = run(database, state="suggest", hypertables=[])["suggestion"]
    assert found["hypertables"][0]["policies"] == TICKS["policies"] and found["hypertables"][0]["compression"] is True
    assert run(database, **found)["verdict"] == "pass"


def test_missing_policy_chunk_index_and_compression_are_named(database: str, version: str) -> None:
    with session(database) as cursor:
        cursor.execute("delete from timescaledb_information.jobs where job_id = 1000")
        cursor.execute("update timescaledb_information.hypertables set compression_enabled = false")
        cursor.execute("drop index _timescaledb_internal._hyper_1_2_chunk_ticks_time_idx")
    with pytest.raises(RolloutError) as failure:
        run(database)
    assert sorted(item["check"] for item in failure.value.result["tables"][0]["problems"]) == ["chunk_indexes", "compression", "policies"]
    assert "retention policy: none; expected retention policy: 30 days" in failure.value.message


def test_apache_edition_is_another_answer_than_missing(database: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, version, "apache")
    with pytest.raises(RolloutError) as failure:
        run(database)
    assert failure.value.result["verdict"] == "unsupported_license"
