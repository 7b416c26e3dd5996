# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""schema_migration on the lab's database: deployers that begin in the same moment, and what the application's queries wait meanwhile.

    PYTHONPATH=playbooks/collections python tests/bench/migration.py [--races 100] [--rounds 5] [--hold 8] [--json FILE]

Races: each trial begins with a database before the migration and lets 2 or 5 deployers begin together. Waiting: one transaction holds
a table for some seconds, as a report does, while the table is altered; a reader asks it every 5 ms. The same migration runs by
Alembic alone and by schema_migration, one after the other in each round. Nothing is asserted. Databases of its own, dropped at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _schema_migration
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

HOST = "10.79.0.50"
SECRETS = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab")) / "secrets"
RELEASE = Path(__file__).resolve().parents[2] / "lab/signal_service/release/migrations"
OWNER = "signal_owner"
SCRIPT = """
from alembic import op
revision = "bench"
down_revision = "0001"
def upgrade():
    op.execute("alter table bench_orders add column bench int")
    op.execute("insert into bench_runs default values")
def downgrade():
    op.execute("alter table bench_orders drop column bench")
"""


def password(role: str) -> str:
    return (SECRETS / role).read_text(encoding="utf-8")


def connect(database: str, user: str = "postgres") -> Any:
    connection = psycopg2.connect(host=HOST, dbname=database, user=user, password=password(user), connect_timeout=5)
    connection.autocommit = True
    return connection


@contextlib.contextmanager
def cursor(database: str, user: str = "postgres") -> Iterator[Any]:
    connection = connect(database, user)
    try:
        with connection.cursor() as opened:
            yield opened
    finally:
        connection.close()


def migrate(database: str, scripts: Path, **changes: Any) -> dict[str, Any]:
    wanted = {
        "login_host": HOST,
        "login_user": OWNER,
        "login_password": password(OWNER),
        "login_db": database,
        "state": "upgraded",
        "alembic_ini": str(scripts / "alembic.ini"),
        "timeout": 120,
        "expand_only": "ignore",
        **changes,
    }
    checked = ArgumentSpecValidator(_schema_migration.ARGUMENT_SPEC).validate(wanted)
    if checked.error_messages:
        raise SystemExit("; ".join(checked.error_messages))
    return _schema_migration.run(checked.validated_parameters, Context())


class Bench:
    """One template database before the migration, and copies of it."""

    def __init__(self, scripts: Path) -> None:
        self.scripts = scripts
        self.template = f"bench_{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Bench:
        with cursor("postgres") as sql:
            sql.execute(f"create database {self.template} owner {OWNER}")
        with cursor(self.template) as sql:
            sql.execute("create extension timescaledb")
            sql.execute(f"grant all on schema public to {OWNER}")
        migrate(self.template, self.scripts, revision="0001", from_base=True)
        with cursor(self.template, OWNER) as sql:
            sql.execute("create table bench_runs (at timestamptz default clock_timestamp()); create table bench_orders as select 1 as id")
        with cursor("postgres") as sql:
            sql.execute(f"alter database {self.template} allow_connections false")
        return self

    def __exit__(self, *_unused: object) -> None:
        with cursor("postgres") as sql:
            sql.execute(f"drop database {self.template} with (force)")

    @contextlib.contextmanager
    def copy(self) -> Iterator[str]:
        name = f"{self.template}_x"
        with cursor("postgres") as sql:
            sql.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (self.template,))
            sql.execute(f"create database {name} template {self.template} owner {OWNER}")
        try:
            yield name
        finally:
            with cursor("postgres") as sql:
                sql.execute(f"drop database {name} with (force)")


def race(bench: Bench, deployers: int) -> dict[str, int]:
    """Have all of them begin in the same moment; count who migrated, who found it done, who was refused."""
    outcomes: list[str] = []
    barrier = threading.Barrier(deployers)

    def deploy(database: str) -> None:
        barrier.wait()
        try:
            outcomes.append("migrated" if migrate(database, bench.scripts, retries=0)["changed"] else "found it done")
        except RolloutError as error:
            outcomes.append("refused" if error.result.get("locked_by") else f"other: {error.message[:120]}")

    with bench.copy() as database:
        threads = [threading.Thread(target=deploy, args=(database,)) for _deployer in range(deployers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with cursor(database) as sql:
            sql.execute("select (select count(*) from bench_runs), (select string_agg(version_num, ' ') from alembic_version)")
            runs, revisions = sql.fetchone()
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    return {"scripts run": runs, "at target": int(revisions == "bench"), **counts}


def waiting(bench: Bench, hold: float, way: str) -> dict[str, Any]:
    """Migrate while a transaction holds the table for ``hold`` seconds; return what a reader waited, in ms, and the whole time."""
    taken: list[float] = []
    stop = threading.Event()

    def read(database: str) -> None:
        with cursor(database) as sql:
            while not stop.wait(0.005):
                began = time.perf_counter()
                sql.execute("select count(*) from bench_orders")
                sql.fetchone()
                taken.append((time.perf_counter() - began) * 1000)

    with bench.copy() as database:
        report = psycopg2.connect(host=HOST, dbname=database, user="postgres", password=password("postgres"))
        with report.cursor() as sql:
            sql.execute("select count(*) from bench_orders")
        end = threading.Timer(hold, report.close)
        end.start()
        reader = threading.Thread(target=read, args=(database,))
        reader.start()
        began = time.perf_counter()
        try:
            if way == "Alembic alone":
                # The release's own env.py has a limit too: without any is what most projects have.
                environment = {**os.environ, "PGHOST": HOST, "PGUSER": OWNER, "PGPASSWORD": password(OWNER), "PGDATABASE": database}
                environment["SIGNAL_LOCK_TIMEOUT"] = "0s"
                command = [sys.executable, "-m", "alembic", "-c", str(bench.scripts / "alembic.ini"), "upgrade", "head"]
                subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
            else:
                migrate(database, bench.scripts, lock_timeout=0.2, retries=60, retry_delay=0.5)
            seconds = time.perf_counter() - began
        finally:
            stop.set()
            reader.join()
            end.join()
    return {"way": way, "median": statistics.median(taken), "max": max(taken), "over_100": sum(one > 100 for one in taken), "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--races", type=int, default=100, help="trials for 2 and for 5 deployers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", type=float, default=8.0, help="seconds that the table is held")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"races": {2: [], 5: []}, "waiting": []}
    with tempfile.TemporaryDirectory() as folder:
        scripts = Path(folder) / "migrations"
        shutil.copytree(RELEASE, scripts)
        for path in (scripts / "versions").glob("000[234]*"):
            path.unlink()
        (scripts / "versions" / "bench.py").write_text(SCRIPT, encoding="utf-8")
        with Bench(scripts) as bench:
            for turn in range(options.rounds):
                ways = ["Alembic alone", "schema_migration"]
                for way in ways if turn % 2 == 0 else reversed(ways):
                    results["waiting"].append(waiting(bench, options.hold, way))
            for trial in range(options.races):
                for deployers in (2, 5):
                    results["races"][deployers].append(race(bench, deployers))
                print(f"race {trial + 1} of {options.races}", file=sys.stderr)
    print("| deployers | trials | scripts run once, at target | found it done | refused, the holder named | anything else |\n|---|---|---|---|---|---|")
    for deployers, found in results["races"].items():
        once = sum(one["scripts run"] == 1 and one["at target"] == 1 and one.get("migrated") == 1 for one in found)
        other = sum(count for one in found for name, count in one.items() if name.startswith("other"))
        done, refused = (sum(one.get(name, 0) for one in found) for name in ("found it done", "refused"))
        print(f"| {deployers} | {len(found)} | {once} | {done} | {refused} | {other} |")
    print("\n| migration by | rounds | query, median ms | query, longest ms (median; max) | queries over 100 ms | migration, s |\n|---|---|---|---|---|---|")
    for way in ("Alembic alone", "schema_migration"):
        own = [one for one in results["waiting"] if one["way"] == way]
        longest = [one["max"] for one in own]
        cells = [
            f"{statistics.median(one['median'] for one in own):.1f}",
            f"{statistics.median(longest):.0f}; {max(longest):.0f}",
            f"{statistics.median(one['over_100'] for one in own):.0f}",
            f"{statistics.median(one['seconds'] for one in own):.1f}",
        ]
        print(f"| {way} | {len(own)} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
