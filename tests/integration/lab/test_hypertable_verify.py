# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hypertable_verify against the lab's TimescaleDB: real tables in a database of its own, with real defects."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _hypertables as hv
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .database import HOST, new_database, password, session

MAX_QUERIES = 8

# Three chunks of a day each. TimescaleDB folds the constants of partial indexes when it copies them to a chunk, so that their
# predicates differ there: by a cast (delta), by an array (name), and by a comparison that is gone (live).
SCHEMA = """
create schema hv authorization signal_owner;
grant usage on schema hv to signal_user;
set role signal_owner;
create table hv.signal_greeks (
  id bigint generated always as identity, time timestamptz not null, instrument text not null, delta double precision, live boolean,
  unique (instrument, time));
select create_hypertable('hv.signal_greeks', by_range('time', interval '1 day'));
create index signal_greeks_delta_idx on hv.signal_greeks (delta) where delta > 0;
create index signal_greeks_name_idx on hv.signal_greeks (instrument) where instrument in ('NIFTY', 'BANK::NIFTY');
create index signal_greeks_live_idx on hv.signal_greeks (time) where live = true;
create index signal_greeks_lower_idx on hv.signal_greeks (lower(instrument), time desc);
insert into hv.signal_greeks (time, instrument, delta)
  select t, 'NIFTY', 0.5 from generate_series(timestamptz '2026-01-01 06:00+00', timestamptz '2026-01-03 06:00+00', interval '12 hours') t;
create table hv.signal_subscriptions (id bigint primary key);
create table hv.signalx_other (id bigint primary key);
grant select, insert on hv.signal_greeks to signal_user;
reset role;
"""
GREEKS = {
    "schema": "hv",
    "table": "signal_greeks",
    "time_column": "time",
    "time_type": "timestamptz",
    "chunk_interval": "1 day",
    "space_dimensions": [],
    "min_chunks": 3,
    "owner": "signal_owner",
    "indexes": ["signal_greeks_delta_idx", "signal_greeks_lower_idx", {"columns": ["instrument", "time"], "unique": True}],
    "privileges": {"signal_user": ["SELECT", "INSERT"]},
}
CLEAN = {"hypertables": [GREEKS], "tables": ["hv.signal_subscriptions"], "prefix": "signal_"}


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with new_database("hv", "", setup="create extension timescaledb") as name:
        yield name


@pytest.fixture
def sql(database: str) -> Iterator[Any]:
    """A superuser's cursor in a database that holds the clean schema."""
    with session(database) as cursor:
        cursor.execute(SCHEMA)
        yield cursor
        cursor.execute("drop schema hv cascade")


def options(database: str, user: str = "signal_owner", **changes: Any) -> dict[str, Any]:
    wanted = {"login_host": HOST, "login_user": user, "login_password": password(user), "login_db": database, **CLEAN, **changes}
    checked = ArgumentSpecValidator(hv.ARGUMENT_SPEC).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def refused(database: str, **changes: Any) -> RolloutError:
    with pytest.raises(RolloutError) as failure:
        hv.run(options(database, **changes), Context())
    assert failure.value.result["queries"] <= MAX_QUERIES
    return failure.value


def only_problem(error: RolloutError) -> dict[str, Any]:
    problems = [*error.result["problems"], *(item for table in error.result["tables"] for item in table["problems"])]
    assert len(problems) == 1, problems
    return problems[0]


def chunks(sql: Any) -> list[str]:
    sql.execute("select c::text from show_chunks('hv.signal_greeks') c order by 1")
    return [row[0] for row in sql.fetchall()]


def chunk_index(sql: Any, chunk: str, column: str) -> str:
    """Name of the chunk's index whose definition holds ``column``."""
    sql.execute(
        "select indexrelid::regclass::text from pg_index where indrelid = %s::regclass and pg_get_indexdef(indexrelid) like %s", (chunk, f"%{column}%")
    )
    return sql.fetchone()[0]


# --- clean


@pytest.mark.parametrize("user", ["postgres", "signal_owner", "signal_user"])
def test_clean_schema_has_no_finding(database: str, sql: Any, user: str) -> None:
    result = hv.run(options(database, user), Context())
    assert (result["changed"], result["verdict"], result["problems"]) == (False, "pass", [])
    assert [(table["table"], table["verdict"], table["problems"]) for table in result["tables"]] == [
        ("hv.signal_greeks", "pass", []),
        ("hv.signal_subscriptions", "pass", []),
    ]
    assert [item["table"] for item in result["existing"]] == ["hv.signal_greeks", "hv.signal_subscriptions"]
    assert result["extension"]["license"] == "apache" and result["extension"]["version"] == result["extension"]["catalog_version"]
    assert result["queries"] <= MAX_QUERIES


def test_check_mode_reads_for_real(database: str, sql: Any) -> None:
    assert hv.run(options(database), Context(check_mode=True))["verdict"] == "pass"


def test_column_dropped_before_the_newest_chunk_is_no_defect(database: str, sql: Any) -> None:
    sql.execute("alter table hv.signal_greeks drop column id")
    sql.execute("insert into hv.signal_greeks values ('2026-02-01', 'NIFTY', 0.1, true)")
    sql.execute("select count(distinct attnum) from pg_attribute where attname = 'delta' and attrelid in (select inhrelid from pg_inherits)")
    assert sql.fetchone()[0] == 2, "the chunks' attribute numbers are expected to differ, else this test proves nothing"
    assert hv.run(options(database), Context())["verdict"] == "pass"


def test_hypertable_without_any_chunk_passes(database: str, sql: Any) -> None:
    sql.execute("select drop_chunks('hv.signal_greeks', newer_than => timestamptz '2000-01-01')")
    assert hv.run(options(database, hypertables=[{**GREEKS, "min_chunks": 0}]), Context())["verdict"] == "pass"


# --- defects


def test_missing_index_on_one_chunk_is_named(database: str, sql: Any) -> None:
    chunk = chunks(sql)[1]
    sql.execute(f"drop index {chunk_index(sql, chunk, 'lower(')}")
    problem = only_problem(refused(database))
    assert problem["check"] == "chunk_indexes"
    assert problem["seen"] == f"index signal_greeks_lower_idx ((expression), time) missing on 1 of 3 chunks: {chunk}"


def test_different_index_does_not_stand_in_for_the_missing_one(database: str, sql: Any) -> None:
    chunk = chunks(sql)[1]
    sql.execute(f"drop index {chunk_index(sql, chunk, 'delta > ')}")
    sql.execute(f"create index on {chunk} (delta) where delta > 1")
    sql.execute(f"create index on {chunk} (delta)")
    sql.execute(f"create index on {chunk} using hash (delta) where delta > 0")
    problem = only_problem(refused(database))
    assert problem["seen"] == f"index signal_greeks_delta_idx (delta) missing on 1 of 3 chunks: {chunk}"


@pytest.mark.parametrize("flag", ["indisvalid", "indisready"])
def test_invalid_index_on_a_chunk_is_named(database: str, sql: Any, flag: str) -> None:
    index = chunk_index(sql, chunks(sql)[0], "lower(")
    sql.execute(f"update pg_index set {flag} = false where indexrelid = %s::regclass", (index,))
    problem = only_problem(refused(database))
    assert (problem["check"], problem["seen"]) == ("invalid_index", f"invalid index {index} on {chunks(sql)[0]}")


def test_invalid_index_of_the_table_itself_is_named(database: str, sql: Any) -> None:
    sql.execute("update pg_index set indisvalid = false where indexrelid = 'hv.signal_greeks_lower_idx'::regclass")
    assert only_problem(refused(database))["seen"] == "invalid index hv.signal_greeks_lower_idx on hv.signal_greeks"


def test_index_that_was_left_half_built_by_a_failure_is_found(database: str, sql: Any) -> None:
    sql.execute("insert into hv.signal_greeks (time, instrument, delta) values ('2026-01-03 07:00+00', 'X', 0)")
    with pytest.raises(psycopg2.Error, match="division by zero"):
        sql.execute("create index signal_greeks_half_idx on hv.signal_greeks ((1 / delta)) with (timescaledb.transaction_per_chunk)")
    checks = {item["check"] for table in refused(database).result["tables"] for item in table["problems"]}
    assert checks == {"chunk_indexes", "invalid_index"}


def test_plain_table_in_place_of_a_hypertable_is_named(database: str, sql: Any) -> None:
    sql.execute("alter table hv.signal_greeks rename to old; create table hv.signal_greeks (time timestamptz not null)")
    error = refused(database)
    assert error.result["tables"][0]["verdict"] == "not_hypertable"
    assert only_problem(error)["seen"] == "a table"


def test_view_and_missing_table_are_named(database: str, sql: Any) -> None:
    sql.execute("create view hv.signal_view as select 1 as time")
    hypertables = [{"schema": "hv", "table": "signal_view"}, {"schema": "hv", "table": "absent"}, GREEKS]
    error = refused(database, hypertables=hypertables, tables=["hv.signal_subscriptions", "hv.gone"])
    assert [table["verdict"] for table in error.result["tables"]] == ["not_hypertable", "missing", "pass", "pass", "missing"]


def test_wrong_time_dimension_is_named(database: str, sql: Any) -> None:
    error = refused(database, hypertables=[{**GREEKS, "time_column": "ts", "time_type": "bigint", "chunk_interval": "7 days", "min_chunks": 4}])
    assert [(item["check"], item["seen"]) for item in error.result["tables"][0]["problems"]] == [
        ("time_column", "time"),
        ("time_type", "timestamp with time zone"),
        ("chunk_interval", "1 day"),
        ("min_chunks", "3 chunks"),
    ]


def test_printed_command_cures_the_chunk_interval(database: str, sql: Any) -> None:
    sql.execute("select set_chunk_time_interval('hv.signal_greeks', interval '6 hours')")
    problem = only_problem(refused(database))
    assert (problem["seen"], problem["expected"]) == ("6 hours", "1 day")
    sql.execute(problem["next"].split(" (counts")[0])
    assert hv.run(options(database), Context())["verdict"] == "pass"


def test_space_and_integer_dimensions(database: str, sql: Any) -> None:
    sql.execute("create table hv.signal_int (seq bigint not null, instrument text not null)")
    sql.execute("select create_hypertable('hv.signal_int', by_range('seq', 1000)); select add_dimension('hv.signal_int', by_hash('instrument', 4))")
    right = {"schema": "hv", "table": "signal_int", "time_column": "seq", "time_type": "int8", "chunk_interval": "1000"}
    space = [{"column": "instrument", "partitions": 4}]
    assert hv.run(options(database, hypertables=[GREEKS, {**right, "space_dimensions": space}]), Context())["verdict"] == "pass"
    assert only_problem(refused(database, hypertables=[GREEKS, {**right, "space_dimensions": []}]))["seen"] == "also instrument"
    wrong = [{"column": "instrument", "partitions": 8}]
    problem = only_problem(refused(database, hypertables=[GREEKS, {**right, "space_dimensions": wrong}]))
    sql.execute(problem["next"])
    assert hv.run(options(database, hypertables=[GREEKS, {**right, "space_dimensions": wrong}]), Context())["verdict"] == "pass"
    assert only_problem(refused(database, hypertables=[GREEKS, {**right, "chunk_interval": "2000"}]))["seen"] == "1000"


def test_wrong_owner_of_the_table_or_a_chunk_is_named(database: str, sql: Any) -> None:
    assert only_problem(refused(database, hypertables=[{**GREEKS, "owner": "signal_user"}]))["seen"] == "signal_owner"
    sql.execute("update pg_class set relowner = 'postgres'::regrole where oid = %s::regclass", (chunks(sql)[0],))
    assert only_problem(refused(database))["seen"] == "1 of 3 chunks owned by another role"


def test_missing_privilege_role_and_schema_usage_are_named(database: str, sql: Any) -> None:
    wanted = {"signal_user": ["SELECT", "DELETE"], "nobody_of_the_lab": ["SELECT"], "public": ["SELECT"]}
    error = refused(database, hypertables=[{**GREEKS, "privileges": wanted}])
    assert [item["seen"] for item in error.result["tables"][0]["problems"]] == [
        "signal_user has SELECT",
        "no role nobody_of_the_lab",
        "public may not use schema hv",
        "public has none",
    ]
    assert error.result["tables"][0]["problems"][0]["next"] == "GRANT DELETE ON hv.signal_greeks TO signal_user"


def test_table_with_the_prefix_that_nobody_declared_is_reported(database: str, sql: Any) -> None:
    error = refused(database, tables=[])
    assert [(table["table"], table["verdict"]) for table in error.result["tables"]] == [("hv.signal_greeks", "pass"), ("hv.signal_subscriptions", "undeclared")]
    assert "hv.signalx_other" not in str(error.result), "the underscore of the prefix must not match any character"


def test_prefix_that_matches_nothing_does_not_pass(database: str, sql: Any) -> None:
    problem = only_problem(refused(database, hypertables=[], tables=[], prefix="nothing_"))
    assert problem["seen"] == "no table named nothing_..."


@pytest.mark.parametrize("declaration", [{"compression": True}, {"policies": {"retention": "90 days"}}])
def test_apache_edition_answers_unsupported(database: str, sql: Any, declaration: dict[str, Any]) -> None:
    error = refused(database, hypertables=[{**GREEKS, **declaration}])
    assert error.result["verdict"] == "unsupported_license"
    assert "not available under the apache license" in only_problem(error)["seen"]
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        sql.execute("select add_retention_policy('hv.signal_greeks', interval '90 days')")


def test_unfinished_restore_is_reported(database: str, sql: Any) -> None:
    sql.execute(f"alter database {database} set timescaledb.restoring = 'on'")
    try:
        problem = only_problem(refused(database))
    finally:
        sql.execute(f"alter database {database} reset timescaledb.restoring")
    assert problem["check"] == "restoring"


def test_names_are_data(database: str, sql: Any) -> None:
    name = "signal_\"; drop schema hv cascade; --'%"
    error = refused(database, hypertables=[{**GREEKS, "table": name, "owner": name, "privileges": {name: ["SELECT"]}}, GREEKS])
    assert [table["verdict"] for table in error.result["tables"]] == ["missing", "pass", "pass"]
    sql.execute("select to_regclass('hv.signal_subscriptions') is not null")
    assert sql.fetchone()[0]


# --- suggestion


def test_suggestion_satisfies_the_verification(database: str, sql: Any) -> None:
    result = hv.run(options(database, state="suggest", hypertables=[], tables=[]), Context())
    assert result["verdict"] == "suggested" and result["queries"] <= MAX_QUERIES
    entry = result["suggestion"]["hypertables"][0]
    assert entry["chunk_interval"] == "1 day" and entry["privileges"] == {"signal_user": ["SELECT", "INSERT"]}
    assert sorted(entry["indexes"]) == [
        f"signal_greeks_{part}" for part in ("delta_idx", "instrument_time_key", "live_idx", "lower_idx", "name_idx", "time_idx")
    ]
    assert result["suggestion"]["tables"] == ["hv.signal_subscriptions"]
    again = hv.run(options(database, hypertables=result["suggestion"]["hypertables"], tables=result["suggestion"]["tables"]), Context())
    assert again["verdict"] == "pass"


def test_suggestion_without_a_prefix_takes_every_hypertable(database: str, sql: Any) -> None:
    sql.execute("create table hv.other (time timestamptz not null); select create_hypertable('hv.other', by_range('time'))")
    result = hv.run(options(database, state="suggest", hypertables=[], tables=[], prefix=None), Context())
    assert [entry["table"] for entry in result["suggestion"]["hypertables"]] == ["other", "signal_greeks"]


# --- canary rows


def census(sql: Any) -> tuple[int, int]:
    sql.execute("select count(*), count(distinct tableoid) from hv.signal_greeks")
    rows, _used = sql.fetchone()
    return rows, len(chunks(sql))


def test_canary_row_is_routed_into_an_existing_chunk_and_gone(database: str, sql: Any) -> None:
    before = census(sql)
    result = hv.run(options(database, "signal_user", canary_insert=True), Context())
    assert result["tables"][0]["canary_chunk"] == chunks(sql)[-1]
    assert census(sql) == before


def test_canary_row_of_an_empty_table_leaves_no_chunk(database: str, sql: Any) -> None:
    sql.execute("create type hv.mood as enum ('calm', 'wild')")
    sql.execute("""create table hv.signal_empty (time timestamptz not null, id bigint generated always as identity, name varchar(20) not null,
      price numeric not null, mood hv.mood not null, tags text[] not null, doc jsonb not null, ok boolean not null, key uuid not null,
      twice numeric generated always as (price * 2) stored, note text not null default 'x')""")
    sql.execute("select create_hypertable('hv.signal_empty', by_range('time')); alter table hv.signal_empty owner to signal_owner")
    result = hv.run(options(database, hypertables=[GREEKS, {"schema": "hv", "table": "signal_empty"}], canary_insert=True), Context())
    assert result["tables"][1]["canary_chunk"].startswith("_timescaledb_internal._hyper_")
    sql.execute("select count(*) from show_chunks('hv.signal_empty')")
    assert sql.fetchone()[0] == 0


def test_canary_row_that_meets_its_own_key_still_proves_the_route(database: str, sql: Any) -> None:
    sql.execute("create table hv.signal_days (day date primary key); select create_hypertable('hv.signal_days', by_range('day'))")
    sql.execute("insert into hv.signal_days values ('2026-01-01'); grant select, insert on hv.signal_days to signal_user")
    result = hv.run(options(database, "signal_user", hypertables=[GREEKS, {"schema": "hv", "table": "signal_days"}], canary_insert=True), Context())
    assert result["tables"][1]["canary_chunk"].startswith("_timescaledb_internal._hyper_")


def test_canary_row_without_the_right_to_insert_is_named(database: str, sql: Any) -> None:
    sql.execute("revoke insert on hv.signal_greeks from signal_user")
    with pytest.raises(RolloutError) as failure:
        hv.run(options(database, "signal_user", hypertables=[{"schema": "hv", "table": "signal_greeks"}], canary_insert=True), Context())
    problem = only_problem(failure.value)
    assert problem["check"] == "canary_insert" and problem["seen"].startswith("privilege: permission denied for table signal_greeks")


def test_canary_row_that_a_trigger_refuses_is_named(database: str, sql: Any) -> None:
    sql.execute("create function hv.no() returns trigger language plpgsql as $$ begin raise exception 'not here'; end $$")
    sql.execute("create trigger no before insert on hv.signal_greeks for each row execute function hv.no()")
    with pytest.raises(RolloutError) as failure:
        hv.run(options(database, canary_insert=True), Context())
    assert only_problem(failure.value)["seen"] == "not here"


def test_canary_row_is_left_out_in_check_mode(database: str, sql: Any) -> None:
    sql.execute("revoke insert on hv.signal_greeks from signal_owner")
    result = hv.run(options(database, canary_insert=True), Context(check_mode=True))
    assert result["verdict"] == "pass" and "check mode writes nothing" in result["warnings"][0]


# --- connections


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"login_password": "wrong-password-of-the-test"}, "password authentication failed"),
        ({"login_db": "test_hv_absent"}, "check login_db"),
        ({"login_port": 1}, "pg_isready -h 10.79.0.50 -p 1"),
        ({"login_user": "nobody_of_the_lab"}, "check login_user"),
        ({"ssl_mode": "verify-full"}, "check ssl_mode and ca_cert"),
    ],
)
def test_connection_that_fails_is_explained_without_the_password(database: str, changes: dict[str, Any], words: str) -> None:
    error = refused(database, **changes)
    assert words in error.message
    assert error.result["verdict"] == "error" and error.result["queries"] == 0
    for secret in ("wrong-password-of-the-test", password("signal_owner")):
        assert secret not in error.message + str(error.result)


def test_database_without_the_extension_is_explained() -> None:
    name = f"test_hv_plain_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        # The lab's template1 need not be free of the extension; template0 is.
        cursor.execute(f"create database {name} template template0")
        try:
            error = refused(name, user="postgres")
        finally:
            cursor.execute(f"drop database {name} with (force)")
    assert "no timescaledb extension" in error.message and error.result["verdict"] == "error"


def test_statement_that_takes_too_long_is_cut(database: str, sql: Any) -> None:
    sql.execute("begin; lock table pg_catalog.pg_inherits in access exclusive mode")
    try:
        error = refused(database, query_timeout=0.3)
    finally:
        sql.execute("rollback")
    assert "did not end within query_timeout" in error.message


# --- size


def test_many_tables_and_chunks_cost_few_statements(database: str, sql: Any) -> None:
    count = 20
    sql.execute("set role signal_owner")
    for number in range(count):
        sql.execute(f"create table hv.signal_many_{number} (time timestamptz not null, instrument text)")
        sql.execute(f"select create_hypertable('hv.signal_many_{number}', by_range('time', interval '1 day'))")
        sql.execute(f"create index on hv.signal_many_{number} (instrument, time)")
        sql.execute(
            f"insert into hv.signal_many_{number} select t, 'x' from generate_series(timestamptz '2026-01-01', timestamptz '2026-01-10', interval '1 day') t"
        )
    sql.execute("reset role")
    sql.execute("select c::text from show_chunks('hv.signal_many_7') c order by 1 limit 1")
    chunk = sql.fetchone()[0]
    sql.execute(f"drop index {chunk_index(sql, chunk, 'instrument')}")
    many = [{"schema": "hv", "table": f"signal_many_{number}", "chunk_interval": "1 day", "min_chunks": 10} for number in range(count)]
    error = refused(database, hypertables=[GREEKS, *many])
    assert [table["table"] for table in error.result["tables"] if table["verdict"] != "pass"] == ["hv.signal_many_7"]
    assert chunk in only_problem(error)["seen"]
    assert error.result["seconds"] < 20
