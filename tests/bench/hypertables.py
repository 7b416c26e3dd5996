# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hypertable_verify at 200 hypertables with 100 chunks each, beside what one would ask the views of TimescaleDB by hand.

    PYTHONPATH=playbooks/collections python tests/bench/hypertables.py --host HOST --password-file FILE [--tables 200] [--chunks 100] [--rounds 3] [--json FILE]

It makes a database of its own as a superuser, and drops it at the end. Each round measures all ways one after the other, in turn
in another order. Then defects are put in, one per table, beside changes that are none, and each way says which tables it finds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _hypertables as hv
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

OWNER = "bench_owner"
READER = "bench_reader"
TABLE = """
CREATE TABLE {name} (time timestamptz NOT NULL, instrument text NOT NULL, spare int, delta double precision);
SELECT create_hypertable('{name}', by_range('time', interval '1 day'));
CREATE INDEX {name}_instrument_time_idx ON {name} (instrument, time DESC);
CREATE INDEX {name}_delta_idx ON {name} (delta) WHERE delta > 0;
INSERT INTO {name} SELECT timestamptz '2026-01-01 06:00+00' + interval '1 day' * day, 'NIFTY', 1, 0.5 FROM generate_series(0, {last}) day;
GRANT SELECT, INSERT ON {name} TO bench_reader;
"""


def name_of(number: int) -> str:
    return f"signal_{number:03d}"


@contextlib.contextmanager
def session(options: argparse.Namespace, database: str) -> Iterator[Any]:
    connection = psycopg2.connect(host=options.host, port=options.port, user=options.user, password=options.password, dbname=database)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextlib.contextmanager
def filled_database(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """A database with the hypertables, and a superuser's cursor in it."""
    database = f"bench_hypertables_{uuid.uuid4().hex[:8]}"
    with session(options, "postgres") as server:
        for role in (OWNER, READER):
            server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not server.fetchone():
                server.execute(f"CREATE ROLE {role}")
        server.execute(f"CREATE DATABASE {database} OWNER {OWNER} TEMPLATE template0")
    try:
        with session(options, database) as cursor:
            cursor.execute("CREATE EXTENSION timescaledb")
            cursor.execute("GRANT USAGE ON SCHEMA public TO bench_reader")
            cursor.execute(f"SET ROLE {OWNER}")
            for number in range(options.tables):
                cursor.execute(TABLE.format(name=name_of(number), last=options.chunks - 1))
                if not (number + 1) % 50:
                    say(f"{number + 1} of {options.tables} hypertables")
            cursor.execute("RESET ROLE")
            cursor.execute("ANALYZE")
            yield database, cursor
    finally:
        with session(options, "postgres") as server:
            server.execute(f"DROP DATABASE {database} WITH (FORCE)")
            server.execute(f"DROP ROLE {OWNER}, {READER}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the ways to verify: each returns the tables that it objects to, and how many statements it took -------------------------------


def declared(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {
            "table": name_of(number),
            "time_column": "time",
            "time_type": "timestamptz",
            "chunk_interval": "1 day",
            "space_dimensions": [],
            "min_chunks": options.chunks,
            "owner": OWNER,
            "indexes": [f"{name_of(number)}_instrument_time_idx", f"{name_of(number)}_delta_idx"],
            "privileges": {READER: ["SELECT", "INSERT"]},
        }
        for number in range(options.tables)
    ]


def by_module(options: argparse.Namespace, database: str, cursor: Any) -> tuple[set[str], int]:
    wanted = {
        "login_host": options.host, "login_port": options.port, "login_user": options.user, "login_password": options.password,
        "login_db": database, "prefix": "signal_", "hypertables": declared(options), "query_timeout": 300,
    }  # fmt: skip
    checked = ArgumentSpecValidator(hv.ARGUMENT_SPEC).validate(wanted)
    if checked.error_messages:
        raise SystemExit("; ".join(checked.error_messages))
    try:
        result = hv.run(checked.validated_parameters, Context())
    except RolloutError as error:
        result = error.result
        if result["verdict"] == "error":
            raise SystemExit(error.message) from None
    return {item["table"].removeprefix("public.") for item in result["tables"] if item["verdict"] != "pass"}, result["queries"]


def by_list(options: argparse.Namespace, database: str, cursor: Any) -> tuple[set[str], int]:
    """The two statements of the checklist: the tables are there, and they are hypertables."""
    cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'signal\\_%%'", ())
    tables = {row[0] for row in cursor.fetchall()}
    cursor.execute("SELECT hypertable_name FROM timescaledb_information.hypertables")
    hypertables = {row[0] for row in cursor.fetchall()}
    wanted = {name_of(number) for number in range(options.tables)}
    return (wanted - tables) | (tables - hypertables), 2


def by_views(options: argparse.Namespace, database: str, cursor: Any) -> tuple[set[str], int]:
    """The views of TimescaleDB and pg_indexes, table by table: interval, chunks, owner, and as many indexes on each chunk as on the table."""
    found = set()
    for number in range(options.tables):
        name = name_of(number)
        cursor.execute("SELECT owner, num_chunks FROM timescaledb_information.hypertables WHERE hypertable_name = %s", (name,))
        owner, chunks = cursor.fetchone() or ("", 0)
        if owner != OWNER or chunks < options.chunks:
            found.add(name)
        cursor.execute("SELECT column_name, time_interval::text FROM timescaledb_information.dimensions WHERE hypertable_name = %s", (name,))
        if cursor.fetchall() != [("time", "1 day")]:
            found.add(name)
        cursor.execute("SELECT count(*) FROM pg_indexes WHERE tablename = %s", (name,))
        (indexes,) = cursor.fetchone()
        cursor.execute(
            "SELECT c.chunk_name, count(i.indexname) FROM timescaledb_information.chunks c LEFT JOIN pg_indexes i"
            " ON i.schemaname = c.chunk_schema AND i.tablename = c.chunk_name WHERE c.hypertable_name = %s GROUP BY 1",
            (name,),
        )
        # Three: TimescaleDB makes one on the time column by itself.
        if indexes < 3 or any(count != indexes for _chunk, count in cursor.fetchall()):
            found.add(name)
    return found, 4 * options.tables


WAYS: dict[str, Callable[[argparse.Namespace, str, Any], tuple[set[str], int]]] = {
    "hypertable_verify": by_module,
    "checklist's two statements": by_list,
    "views, table by table": by_views,
}


# --- what is put in ------------------------------------------------------------------------------------------------------------------

# What is done to one hypertable {t}; {c} is its 7th chunk, {i} and {d} are that chunk's indexes on instrument and on delta.
DEFECTS = {
    "index missing on one chunk": "DROP INDEX {i}",
    "index of one chunk invalid": "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{i}'::regclass",
    "index of one chunk not ready": "UPDATE pg_index SET indisready = false WHERE indexrelid = '{i}'::regclass",
    "index of the table invalid": "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{t}_delta_idx'::regclass",
    "index missing everywhere": "DROP INDEX {t}_instrument_time_idx",
    "other columns in its place on one chunk": "DROP INDEX {i}; CREATE INDEX ON {c} (time, instrument)",
    "other condition in its place on one chunk": "DROP INDEX {d}; CREATE INDEX ON {c} (delta) WHERE delta > 1",
    "other method in its place on one chunk": "DROP INDEX {d}; CREATE INDEX ON {c} USING hash (delta) WHERE delta > 0",
    "other order in its place on one chunk": "DROP INDEX {i}; CREATE INDEX ON {c} (instrument, time)",
    "chunk interval changed": "SELECT set_chunk_time_interval('{t}', interval '7 days')",
    "chunks dropped": "SELECT drop_chunks('{t}', older_than => timestamptz '2026-01-03')",
    "owner changed": "ALTER TABLE {t} OWNER TO bench_reader",
    "owner of one chunk changed": "UPDATE pg_class SET relowner = 'bench_reader'::regrole WHERE oid = '{c}'::regclass",
    "privilege revoked": "REVOKE INSERT ON {t} FROM bench_reader",
    "one more dimension": "SELECT add_dimension('{t}', by_hash('instrument', 2), if_not_exists => true)",
    "table dropped": "DROP TABLE {t}",
    "plain table in its place": "DROP TABLE {t}; CREATE TABLE {t} (time timestamptz NOT NULL); ALTER TABLE {t} OWNER TO bench_owner",
}
# Changes that leave a table as it was declared.
HARMLESS = {
    "column dropped before the newest chunk": "ALTER TABLE {t} DROP COLUMN spare; INSERT INTO {t} VALUES ('2026-12-01', 'NIFTY', 1)",
    "one more index on one chunk": "CREATE INDEX ON {c} (spare)",
    "one more index on the table": "CREATE INDEX {t}_more_idx ON {t} (spare) WHERE spare IN (1, 2)",
    "index of the table renamed on one chunk": "ALTER INDEX {i} RENAME TO {t}_renamed",
    "index built again on one chunk": "REINDEX INDEX {i}",
    "chunk rewritten": "CLUSTER {c} USING {short_i}",
    "more privileges": "GRANT DELETE ON {t} TO bench_reader",
    "rows deleted from one chunk": "DELETE FROM {c}",
}


def put_in(cursor: Any, table: str, statements: str) -> None:
    cursor.execute("SELECT c::text FROM show_chunks(%s) c ORDER BY c LIMIT 1 OFFSET 6", (table,))
    (chunk,) = cursor.fetchone()
    cursor.execute("SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass", (chunk,))
    indexes = cursor.fetchall()
    instrument = next(name for name, text in indexes if "instrument" in text)
    delta = next(name for name, text in indexes if "delta" in text)
    short = instrument.rpartition(".")[2]
    for statement in statements.format(t=table, c=chunk, i=instrument, d=delta, short_i=short).split("; "):
        cursor.execute(statement)


def measured(options: argparse.Namespace, database: str, cursor: Any) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {way: {"seconds": []} for way in WAYS}
    for turn in range(options.rounds):
        order = list(WAYS)
        for way in order[turn % len(order) :] + order[: turn % len(order)]:
            started = time.monotonic()
            found, statements = WAYS[way](options, database, cursor)
            figures[way]["seconds"].append(round(time.monotonic() - started, 3))
            figures[way].update(statements=statements, alarms_when_clean=sorted(found))
            say(f"round {turn + 1}: {way}: {figures[way]['seconds'][-1]} s, {statements} statements, {len(found)} objections")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=5432)
    parser.add_argument("--user", default="postgres")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tables < len(DEFECTS) + len(HARMLESS) or options.chunks < 7:
        parser.error(f"at least {len(DEFECTS) + len(HARMLESS)} tables of 7 chunks are needed")
    options.password = options.password_file.read_text(encoding="utf-8").strip()
    started = time.monotonic()
    with filled_database(options) as (database, cursor):
        say(f"made in {time.monotonic() - started:.0f} s")
        figures = measured(options, database, cursor)
        expected = {}
        for number, (what, statements) in enumerate({**DEFECTS, **HARMLESS}.items()):
            # Spread over the tables, so that none is judged by its neighbour.
            table = name_of(number * (options.tables // (len(DEFECTS) + len(HARMLESS))))
            put_in(cursor, table, statements)
            if what in DEFECTS:
                expected[table] = what
        for way, ask in WAYS.items():
            found, _statements = ask(options, database, cursor)
            missed = [expected[table] for table in sorted(set(expected) - found)]
            figures[way].update(found=len(found & set(expected)), missed=missed, false_alarms=sorted(found - set(expected)))
    report(options, figures, len(expected))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def report(options: argparse.Namespace, figures: dict[str, dict[str, Any]], injected: int) -> None:
    print(f"{options.tables} hypertables, {options.tables * options.chunks} chunks, {options.rounds} rounds\n")
    print("| way | seconds, median (least-most) | statements | objections to the clean database | defects found | false alarms beside harmless changes |")
    print("|---|---|---|---|---|---|")
    for way, seen in figures.items():
        spread = f"{statistics.median(seen['seconds']):.2f} ({min(seen['seconds']):.2f}-{max(seen['seconds']):.2f})"
        clean = len(seen["alarms_when_clean"])
        print(f"| {way} | {spread} | {seen['statements']} | {clean} | {seen['found']} of {injected} | {len(seen['false_alarms'])} of {len(HARMLESS)} |")
    for way, seen in figures.items():
        print(f"\n{way}: missed: {', '.join(seen['missed']) or 'none'}; false alarms: {', '.join(seen['false_alarms']) or 'none'}")


if __name__ == "__main__":
    main()
