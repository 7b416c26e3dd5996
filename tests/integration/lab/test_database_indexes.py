# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_indexes against the lab's TimescaleDB: real tables in a database of its own, real locks, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_indexes as di
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .database import HOST, PORT, Pooler, new_database, password, session

SCHEMA = """
create schema di authorization signal_owner;
grant usage on schema di to signal_user;
set role signal_owner;
create table di.signal_greeks (time timestamptz not null, instrument text not null, delta double precision);
select create_hypertable('di.signal_greeks', by_range('time', interval '1 day'));
insert into di.signal_greeks select t, 'NIFTY', 0.5 from generate_series(timestamptz '2026-01-01', timestamptz '2026-01-10', interval '6 hours') t;
create table di.orders (id bigint primary key, instrument text, price numeric, made timestamptz);
insert into di.orders select n, 'I' || n % 100, n, now() from generate_series(1, 1000) n;
create table di.parted (id bigint, made date) partition by range (made);
create table di.parted_2026 partition of di.parted for values from ('2026-01-01') to ('2027-01-01');
grant select on all tables in schema di to signal_user;
reset role;
"""
FILE = """
-- Indexes of v2.
SET lock_timeout = '5s';
CREATE INDEX IF NOT EXISTS greeks_instrument_idx ON di.signal_greeks (instrument, time DESC) WHERE delta > 0;
CREATE UNIQUE INDEX IF NOT EXISTS greeks_unique_idx ON di.signal_greeks (instrument, time);
CREATE INDEX orders_made_idx ON di.orders USING btree (lower(instrument), made DESC NULLS LAST) INCLUDE (price) WITH (fillfactor = 80);
CREATE INDEX parted_idx ON di.parted (made);
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with new_database("di", setup="create extension timescaledb") as name:
        yield name


@pytest.fixture
def sql(database: str) -> Iterator[Any]:
    with session(database) as cursor:
        cursor.execute(SCHEMA)
        yield cursor
        cursor.execute("drop schema di cascade")


def options(database: str, user: str = "signal_owner", **changes: Any) -> dict[str, Any]:
    login = {"login_host": HOST, "login_port": PORT, "login_user": user, "login_password": password(user), "login_db": database}
    checked = ArgumentSpecValidator(di.ARGUMENT_SPEC).validate({**login, "retry_delay": 0.1, **changes})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def one(definition: str, name: str = "orders_x_idx", table: str = "di.orders", unique: bool = False) -> dict[str, Any]:
    return {"indexes": [{"table": table, "name": name, "definition": definition, "unique": unique}]}


def run(database: str, check_mode: bool = False, user: str = "signal_owner", **changes: Any) -> dict[str, Any]:
    return di.run(options(database, user, **changes), Context(check_mode=check_mode))


def refused(database: str, **changes: Any) -> RolloutError:
    with pytest.raises(RolloutError) as failure:
        run(database, **changes)
    assert password("signal_owner") not in failure.value.message + str(failure.value.result)
    return failure.value


def indexes(sql: Any) -> dict[str, bool]:
    """Every index of the schema, with its validity."""
    sql.execute("select c.relname, indisvalid from pg_index join pg_class c on c.oid = indexrelid where relnamespace = 'di'::regnamespace")
    return dict(sql.fetchall())


def covered_chunks(sql: Any, definition: str) -> int:
    sql.execute(
        "select count(distinct indrelid) from pg_index where indisvalid and pg_get_indexdef(indexrelid) like %s"
        " and indrelid in (select inhrelid from pg_inherits where inhparent = 'di.signal_greeks'::regclass)",
        (f"%{definition}%",),
    )
    return sql.fetchone()[0]


# --- what is made


def test_file_is_made_and_a_second_run_changes_nothing(database: str, sql: Any, tmp_path: Path) -> None:
    path = tmp_path / "create_indexes.sql"
    path.write_text(FILE, encoding="utf-8")
    planned = run(database, check_mode=True, src=str(path))
    assert planned["changed"] and "orders_made_idx" not in indexes(sql)
    made = run(database, src=str(path))
    assert made["changed"] and made["passed_over"] == ["SET lock_timeout = '5s'"]
    assert [(item["name"], item["action"], item["method"], item["valid"]) for item in made["indexes"]] == [
        ("greeks_instrument_idx", "created", "transaction_per_chunk", True),
        ("greeks_unique_idx", "created", "blocks_writes", True),
        ("orders_made_idx", "created", "concurrently", True),
        ("parted_idx", "created", "blocks_writes", True),
    ]
    assert covered_chunks(sql, 'instrument, "time" DESC') == 10
    again = run(database, src=str(path))
    assert not again["changed"] and {item["action"] for item in again["indexes"]} == {"unchanged"}
    assert not run(database, check_mode=True, src=str(path))["changed"]


@pytest.mark.parametrize(
    ("first", "spelled"),
    [
        ("(instrument)", 'using  BTREE ("instrument" ASC NULLS LAST)'),
        ("(made) where price > 1", "(made) WHERE ((price > (1)::numeric))"),
        ("(made) where orders.price is not null", "(made) where price is not null"),
        ("(instrument text_ops, id) with (fillfactor=90)", "(instrument, id) with (fillfactor='90')"),
    ],
)
def test_two_spellings_are_one_index(database: str, sql: Any, first: str, spelled: str) -> None:
    assert run(database, **one(first))["changed"]
    assert not run(database, **one(spelled))["changed"]


def test_percent_and_quotes_in_a_condition_stay_as_they_are(database: str, sql: Any) -> None:
    strange = "(instrument) where instrument like 'N%s; --''%' /* not ; this */"
    assert run(database, **one(strange, 'Odd "name" % idx'))["changed"]
    assert not run(database, **one(strange, 'Odd "name" % idx'))["changed"]


def test_every_defect_of_a_declaration_is_named_before_the_first_write(database: str, sql: Any) -> None:
    sql.execute("create index orders_x_idx on di.orders (price); create sequence di.taken; create index owned_elsewhere on di.parted (id)")
    entries = [
        one("(made)")["indexes"][0],
        one("(made)", "taken")["indexes"][0],
        one("(made)", "owned_elsewhere")["indexes"][0],
        one("(absent)", "orders_y_idx")["indexes"][0],
        one("(now())", "orders_z_idx")["indexes"][0],
        one("(made)", "orders_fine_idx")["indexes"][0],
    ]
    for check_mode in (True, False):
        error = refused(database, check_mode=check_mode, indexes=entries)
        assert "exists with another definition: USING btree (price); expected USING btree (made)" in error.message
        assert "the name di.taken belongs to another object" in error.message
        assert "the name di.owned_elsewhere belongs to an index of di.parted" in error.message
        assert 'column "absent" does not exist' in error.message and "must be marked IMMUTABLE" in error.message
        assert "orders_fine_idx" not in indexes(sql)


def test_missing_table_and_foreign_owner_are_named(database: str, sql: Any) -> None:
    assert "there is no table di.absent" in refused(database, **one("(a)", table="di.absent")).message
    error = refused(database, user="signal_user", **one("(made)"))
    assert "di.orders is owned by signal_owner" in error.message


def test_same_index_by_another_name_is_warned_about(database: str, sql: Any) -> None:
    run(database, **one("(made)"))
    assert "is the same index as orders_x_idx" in run(database, **one("(made)", "orders_y_idx"))["warnings"][0]


def test_superuser_is_warned_about(database: str, sql: Any) -> None:
    assert "is a superuser" in run(database, user="postgres", **one("(made)"))["warnings"][0]
    assert "warnings" not in run(database, **one("(made)"))


# --- invalid ones


def half_built(sql: Any) -> None:
    """What CREATE INDEX CONCURRENTLY leaves when it finds duplicates."""
    with pytest.raises(psycopg2.Error, match="could not create unique index"):
        sql.execute("create unique index concurrently orders_x_idx on di.orders (instrument)")


def test_invalid_index_is_rebuilt_or_reported(database: str, sql: Any) -> None:
    half_built(sql)
    error = refused(database, invalid="report", **one("(instrument)", unique=True))
    assert "1 declared indexes are invalid" in error.message and indexes(sql)["orders_x_idx"] is False
    sql.execute("delete from di.orders where id > 50")
    planned = run(database, check_mode=True, **one("(instrument)", unique=True))
    assert (planned["indexes"][0]["action"], planned["indexes"][0]["valid"], indexes(sql)["orders_x_idx"]) == ("rebuilt", False, False)
    made = run(database, **one("(instrument)", unique=True))
    assert (made["indexes"][0]["action"], made["indexes"][0]["valid"], indexes(sql)["orders_x_idx"]) == ("rebuilt", True, True)


def test_failure_leaves_no_invalid_index(database: str, sql: Any) -> None:
    error = refused(database, **one("(instrument)", unique=True))
    assert "could not create unique index" in error.message and "remove the duplicate rows" in error.message
    assert "It left nothing behind" in error.message and "orders_x_idx" not in indexes(sql)


def test_invalid_index_that_nobody_declared_is_reported(database: str, sql: Any) -> None:
    half_built(sql)
    result = run(database, **one("(made)", "orders_y_idx"))
    assert [item["name"] for item in result["leftovers"]] == ["orders_x_idx"] and "is invalid and not declared" in result["warnings"][0]
    sql.execute(result["leftovers"][0]["drop"])


def test_hypertable_index_left_half_built_is_rebuilt_on_every_chunk(database: str, sql: Any) -> None:
    sql.execute("update di.signal_greeks set delta = 0 where time = '2026-01-05 00:00+00'")
    declared = one("((1 / delta))", "greeks_half_idx", "di.signal_greeks")
    error = refused(database, **declared)
    assert "division by zero" in error.message
    with pytest.raises(psycopg2.Error):
        sql.execute("create index greeks_half_idx on di.signal_greeks ((1 / delta)) with (timescaledb.transaction_per_chunk)")
    assert indexes(sql)["greeks_half_idx"] is False
    sql.execute("update di.signal_greeks set delta = 1")
    assert run(database, **declared)["indexes"][0]["action"] == "rebuilt"
    assert covered_chunks(sql, "/ delta") == 10


# --- in a database that is in use


@pytest.mark.parametrize("table", ["di.orders", "di.signal_greeks", "di.parted"])
def test_lock_that_is_held_is_named_and_nothing_is_left(database: str, sql: Any, table: str) -> None:
    column = {"di.orders": "made", "di.signal_greeks": "instrument", "di.parted": "made"}[table]
    with session(database, autocommit=False) as other:
        other.execute(f"lock table {table} in row exclusive mode")
        started = time.monotonic()
        error = refused(database, lock_timeout=0.5, retries=1, **one(f"({column})", "held_idx", table))
    assert time.monotonic() - started < 15
    assert "after 2 tries: the lock was not free within 0.5 s, held by process" in error.message and "of postgres" in error.message
    assert indexes(sql).get("held_idx") is not True
    assert run(database, **one(f"({column})", "held_idx", table))["indexes"][0]["valid"]


def test_lock_that_becomes_free_is_waited_for(database: str, sql: Any) -> None:
    with session(database, autocommit=False) as other:
        other.execute("lock table di.orders in row exclusive mode")
        timer = threading.Timer(1.5, other.connection.rollback)
        timer.start()
        result = run(database, lock_timeout=0.3, retries=50, **one("(made)"))
        timer.join()
    assert result["indexes"][0]["attempts"] > 1 and result["indexes"][0]["valid"]


def test_two_runs_take_turns(database: str, sql: Any) -> None:
    answers: list[dict[str, Any]] = []
    several = {"indexes": [one("(made)", f"orders_{number}_idx")["indexes"][0] for number in range(6)]}
    threads = [threading.Thread(target=lambda: answers.append(run(database, **several))) for _number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["changed"] for answer in answers) == [False, False, True]


def test_timeout_stops_the_build_and_says_where_it_stands(database: str, sql: Any) -> None:
    sql.execute("create function di.slow(text) returns text language plpgsql immutable as $$ begin perform pg_sleep(0.05); return $1; end $$")
    sql.execute("grant usage on schema di to signal_owner")
    started = time.monotonic()
    error = refused(database, timeout=2, **one("(di.slow(instrument))"))
    assert "was not created within timeout (2 s)" in error.message and time.monotonic() - started < 6
    assert error.result["indexes"][0]["valid"] is not True


def test_interruption_stops_the_build(database: str, sql: Any) -> None:
    sql.execute("create function di.slow(text) returns text language plpgsql immutable as $$ begin perform pg_sleep(0.05); return $1; end $$")
    context = Context()
    threading.Timer(1.5, context.interrupt, ["TERM"]).start()
    started = time.monotonic()
    with pytest.raises(RolloutError, match="interrupted while index orders_x_idx"):
        di.run(options(database, **one("(di.slow(instrument))")), context)
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(("table", "expression"), [("di.orders", "(di.slow(instrument))"), ("di.signal_greeks", "(di.slow(instrument), time)")])
def test_killed_run_is_completed_by_the_next(database: str, sql: Any, table: str, expression: str) -> None:
    sql.execute("create function di.slow(text) returns text language plpgsql immutable as $$ begin perform pg_sleep(0.1); return $1; end $$")
    sql.execute("delete from di.orders where id > 60")
    program = (
        "from ansible_collections.signal.rollout.plugins.module_utils import _database_indexes as di\n"
        "from ansible_collections.signal.rollout.plugins.module_utils._context import Context\n"
        f"di.run({options(database, **one(expression, 'killed_idx', table))!r}, Context())\n"
    )
    for delay in (1.2, 2.2):
        child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
    result = run(database, retries=50, **one(expression, "killed_idx", table))
    assert result["indexes"][0]["valid"] and indexes(sql)["killed_idx"] is True
    if table == "di.signal_greeks":
        assert covered_chunks(sql, "slow") == 10


def test_progress_is_shown(database: str, sql: Any) -> None:
    sql.execute("create function di.slow(text) returns text language plpgsql immutable as $$ begin perform pg_sleep(0.01); return $1; end $$")
    sql.execute("delete from di.orders where id > 200")
    lines: list[str] = []
    di.run(options(database, progress_interval=0.3, **one("(di.slow(instrument))")), Context(progress=lines.append))
    assert any("building index" in line and "di.orders" in line for line in lines), lines


def test_a_pooler_is_refused_before_anything_is_locked_or_written(database: str, sql: Any) -> None:
    pooler = Pooler()
    pooler.start()
    wanted = options(database, login_host="127.0.0.1", login_port=pooler.port, ssl_mode="disable", **one("(made)"))
    with pytest.raises(RolloutError, match=r"goes through a pooler .*Next: give host and port of the server itself") as failure:
        di.run(wanted, Context())
    assert failure.value.result["changed"] is False
    sql.execute("select to_regclass('di.orders_x_idx')")
    assert sql.fetchone()[0] is None
