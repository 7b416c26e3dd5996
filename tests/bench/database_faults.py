# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_backup and schema_migration on the lab's server, each with a fault at many moments: what is left, and whether a rerun completes.

    PYTHONPATH=playbooks/collections:tests python tests/bench/database_faults.py [--points 12] [--json FILE] [--clean 25]

Each trial is one run with one fault: the connection is cut before or after a request has reached the server, or while data flows, the
process is killed, the disk is full, a table is locked. Then the trial looks for itself: what the run says of its end must be what the
database and the folder hold, the backup that was there before must still be whole, and the same run once more must complete.
A trial's ``problems`` say what of this was not so. Databases and folders of its own, removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup, _postgresql, _schema_migration, _schema_state
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from bench import faults

HOST, PORT = "10.79.0.50", 5432
LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
RELEASE = Path(__file__).resolve().parents[2] / "lab/signal_service/release/migrations"
OWNER = "signal_owner"
SCHEMA = """
create extension timescaledb;
create table instrument (id bigint primary key, name text not null);
insert into instrument select i, 'instrument ' || i from generate_series(1, 500) i;
create table tick (time timestamptz not null, instrument bigint references instrument, price double precision);
select create_hypertable('tick', by_range('time', interval '1 day'));
insert into tick select timestamptz '2026-01-01' + i * interval '30 seconds', 1 + i % 500, random() from generate_series(1, 20000) i;
"""
ROWS = "insert into logs select now() - i * interval '1 minute', 's', 'INFO', null, 'm' from generate_series(1, 500) i"
# A part of it commits before the rest: what a migration that fails in between leaves behind is what the module has to name.
HALVES = """
from alembic import op
revision = "half"
down_revision = "0001"
def upgrade():
    op.execute("create table halves (a int)")
    with op.get_context().autocommit_block():
        op.execute("create index concurrently halves_a on halves (a)")
    op.execute("alter table halves add column b int")
def downgrade():
    op.execute("drop table halves")
"""
CUT, ANSWER_LOST, CUT_IN_DATA, DOWN = "connection cut", "cut, the answer lost", "cut while data flows", "server gone"
KILLED, KILLED_AT_FILE, DISK, LOCKED = "kill -9", "kill -9 at a file", "disk full", "table locked"


@dataclass
class Trial:
    """One run with a fault. ``said`` is how the run ended by its own words, ``found`` what was there afterwards, ``late`` that the fault came after it."""

    step: str
    fault: str
    place: str
    said: str = ""
    found: str = ""
    seconds: float = 0.0
    late: bool = False
    problems: list[str] = field(default_factory=list)

    def expect(self, true: Any, problem: str) -> None:
        if not true:
            self.problems.append(problem)


def password(role: str = "postgres") -> str:
    return (LAB / "secrets" / role).read_text(encoding="utf-8")


@contextlib.contextmanager
def cursor(database: str, user: str = "postgres") -> Iterator[Any]:
    connection = psycopg2.connect(host=HOST, port=PORT, dbname=database, user=user, password=password(user), connect_timeout=5)
    connection.autocommit = True
    try:
        with connection.cursor() as opened:
            yield opened
    finally:
        connection.close()


def validated(engine: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate(wanted)
    if checked.error_messages:
        raise ValueError("; ".join(checked.error_messages))
    return checked.validated_parameters


def evenly(last: int, points: int) -> list[int]:
    """Return ``points`` numbers from 1 to ``last``, both included, at equal distances."""
    return sorted({1 + round(place * (last - 1) / max(1, points - 1)) for place in range(points)})


def sessions_gone(trial: Trial, database: str, seconds: float = 15.0) -> None:
    """Note how long the server kept sessions of a run that is gone."""
    began = time.monotonic()
    while True:
        with cursor("postgres") as sql:
            sql.execute(
                "select count(*) from pg_stat_activity where datname = %s and (application_name like 'signal.rollout%%' or application_name = 'alembic')",
                [database],
            )
            if not sql.fetchone()[0]:
                trial.seconds = time.monotonic() - began
                return
        if time.monotonic() - began > seconds:
            trial.problems.append(f"its sessions are still there after {seconds:g} s")
            return
        time.sleep(0.05)


class Backups:
    """A database, and a folder with one good backup of it that the next good one may replace."""

    step = "backup"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"faults_{uuid.uuid4().hex[:8]}"
        self.messages = self.bytes = self.files = self.size = 0

    def __enter__(self) -> Backups:
        with cursor("postgres") as sql:
            sql.execute(f"create database {self.name} template template0")
        with cursor(self.name) as sql:
            sql.execute(SCHEMA)
        self.backup(self.folder / "clean", name="0")
        copy = self.copy("measured")
        seen = multiprocessing.Value("i", 0)

        def counted(_event: str) -> None:
            seen.value += 1

        with faults.proxy(HOST, PORT) as between:
            faults.Run(
                lambda: self.backup(copy, login_host="127.0.0.1", login_port=between.port), lambda: faults.kill_at_file(copy, 0, counted)
            ).killed()
            self.messages, self.bytes = between.messages, between.bytes
        self.files = seen.value
        if self.names(copy) != {"a.dump", "a.json"}:
            raise RuntimeError(f"the run without a fault left {self.names(copy)}")
        self.size = sum((copy / name).stat().st_size for name in self.names(copy))
        return self

    def __exit__(self, *_unused: object) -> None:
        with cursor("postgres") as sql:
            sql.execute(f"drop database {self.name} with (force)")

    def backup(self, folder: Path, **changes: Any) -> dict[str, Any]:
        wanted = {
            "login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "login_db": self.name,
            "dest": str(folder), "client_dir": str(LAB / "pgclient/bin"), "space_factor": 0, "name": "a", "keep": {"count": 1}, **changes,
        }  # fmt: skip
        return _database_backup.run(validated(_database_backup, wanted), Context())

    def write(self, stop: threading.Event) -> None:
        """Write rows until told to stop."""
        with cursor(self.name) as sql:
            while not stop.wait(0.002):
                sql.execute("insert into tick values (timestamptz '2026-01-01' + random() * interval '7 days', 1, random())")

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "clean", self.folder / name))

    @staticmethod
    def names(folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir()} - {".lock"}

    def _refused(self, trial: Trial, folder: Path, **changes: Any) -> None:
        """Run it where it must fail: it has to say why, and leave the folder as it was."""
        try:
            trial.said = "made" if self.backup(folder, **changes)["verified"] == "read" else "made, not verified"
            return
        except RolloutError as error:
            trial.said = "refused"
            trial.expect("Next: " in error.message and password() not in error.message, f"its message does not say what to do: {error.message}")
        trial.expect(self.names(folder) == {"0.dump", "0.json"}, f"it left {sorted(self.names(folder))}")

    def _after(self, trial: Trial, folder: Path) -> None:
        """Look at what is there, then run once more."""
        left = self.names(folder)
        whole = [name for name in ("a", "0") if f"{name}.dump" in left]
        trial.found = ", ".join(sorted(left - {"0.dump", "0.json"})) or "nothing new"
        trial.expect(whole, f"no backup is left: {sorted(left)}")
        for name in whole:
            try:
                self.backup(folder, state="verify", name=name)
            except RolloutError as error:
                trial.problems.append(f"{name} has its final name and is not whole: {error.message}")
        try:
            self.backup(folder, name="b")
        except RolloutError as error:
            trial.problems.append(f"the rerun failed: {error.message}")
        trial.expect(self.names(folder) == {"b.dump", "b.json"}, f"after the rerun there is {sorted(self.names(folder))}")

    def cut(self, place: int, fault: str = CUT) -> Trial:
        trial = Trial(self.step, fault, f"{place} of {self.bytes if fault == CUT_IN_DATA else self.messages}")
        folder = self.copy(f"{fault}{place}")
        with faults.proxy(HOST, PORT) as between:
            aim(between, fault, place)
            self._refused(trial, folder, login_host="127.0.0.1", login_port=between.port)
            trial.late = not between.fired
        sessions_gone(trial, self.name)
        self._after(trial, folder)
        return trial

    def kill(self, place: int, fault: str = KILLED) -> Trial:
        trial = Trial(self.step, fault, f"{place} of {self.files if fault == KILLED_AT_FILE else self.messages}")
        folder = self.copy(f"{fault}{place}")
        with faults.proxy(HOST, PORT) as between:
            if fault == KILLED:
                between.at = place
            at_file = place if fault == KILLED_AT_FILE else 0
            run = faults.Run(
                lambda: self.backup(folder, login_host="127.0.0.1", login_port=between.port), lambda: faults.kill_at_file(folder, at_file)
            )
            between.action = run.kill
            trial.late = not run.killed()
            trial.said = "killed"
            sessions_gone(trial, self.name)
        self._after(trial, folder)
        return trial

    def fill(self, size: int) -> Trial:
        trial = Trial(self.step, DISK, f"{size} of {self.size} bytes")
        taken = sum(-(-(self.folder / "clean" / name).stat().st_size // 4096) * 4096 for name in ("0.dump", "0.json"))
        with faults.small_disk(self.folder / f"disk{size}", taken + size) as folder:
            shutil.copytree(self.folder / "clean", folder, dirs_exist_ok=True)
            self._refused(trial, folder)
            copy = self.folder / f"disk{size}-rerun"
            shutil.copytree(folder, copy)
        self._after(trial, copy)
        return trial

    def lock(self, table: str, mode: str) -> Trial:
        trial = Trial(self.step, LOCKED, f"{table} in {mode} mode")
        folder = self.copy(f"{table} {mode}")
        with cursor(self.name) as sql:
            sql.execute(f"begin; lock table {table} in {mode} mode")
            self._refused(trial, folder, lock_timeout=0.3)
            sql.execute("rollback")
        trial.expect((trial.said == "refused") == (mode == "access exclusive"), f"it was {trial.said}")
        if trial.said == "refused":
            self._after(trial, folder)
        return trial


class Migrations:
    """A database before the release's migrations, and copies of it. ``halves``: scripts that commit a part before the rest."""

    def __init__(self, folder: Path, halves: bool = False) -> None:
        self.halves = halves
        self.step = "migration that commits in between" if halves else "migration in one transaction"
        self.target = "half" if halves else "0004"
        self.template = f"faults_{uuid.uuid4().hex[:8]}"
        self.scripts = folder / self.target
        self.messages = 0
        self.reference: dict[str, str] = {}

    def __enter__(self) -> Migrations:
        shutil.copytree(RELEASE, self.scripts)
        if self.halves:
            for path in (self.scripts / "versions").glob("000[234]*"):
                path.unlink()
            (self.scripts / "versions/half.py").write_text(HALVES, encoding="utf-8")
        with cursor("postgres") as sql:
            sql.execute(f"create database {self.template} owner {OWNER}")
        with cursor(self.template) as sql:
            sql.execute(f"create extension timescaledb; grant all on schema public to {OWNER}")
        self.migrate(self.template, revision="0001", from_base=True)
        with cursor(self.template) as sql:
            sql.execute(ROWS)
        with cursor("postgres") as sql:
            sql.execute(f"alter database {self.template} allow_connections false")
        with self.copy() as database, faults.proxy(HOST, PORT) as between:
            self.migrate(database, login_host="127.0.0.1", login_port=between.port)
            self.messages, self.reference = between.messages, self.state(database)[1]
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

    def migrate(self, database: str, **changes: Any) -> dict[str, Any]:
        wanted = {
            "login_host": HOST, "login_port": PORT, "login_user": OWNER, "login_password": password(OWNER), "login_db": database, "state": "upgraded",
            "alembic_ini": str(self.scripts / "alembic.ini"), "expand_only": "ignore", "retries": 0, "timeout": 60, **changes,
        }  # fmt: skip
        return _schema_migration.run(validated(_schema_migration, wanted), Context())

    @staticmethod
    def state(database: str) -> tuple[list[str], dict[str, str], int]:
        """Revisions, objects and rows, read without the module."""
        wanted = {"login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "login_db": database}
        session = _postgresql.connect_committing(validated(_postgresql, wanted), 30)
        try:
            state = _schema_state.SchemaState(session, "alembic_version")
            return state.revisions(), state.objects(), session.rows("select count(*) as rows from logs")[0]["rows"]
        finally:
            session.close()

    def _tried(self, trial: Trial, database: str, **changes: Any) -> dict[str, Any]:
        try:
            result = self.migrate(database, **changes)
        except RolloutError as error:
            result = error.result
            trial.expect(password(OWNER) not in error.message, "its message holds the password")
        trial.said = str(result.get("outcome") or "refused")
        return result

    def _after(self, trial: Trial, database: str, before: dict[str, str], result: dict[str, Any] | None) -> None:
        """Compare what the run said with what is there; undo what it named, or for a killed one what is there; run once more."""
        revisions, objects, rows = self.state(database)
        changes = _schema_state.differences(before, objects)
        trial.found = ("at target" if revisions == [self.target] else "as before") + (f", {len(changes)} objects" if changes else "")
        if revisions != [self.target] and changes:
            trial.found = "half done"
        truth = {"at_target": revisions == [self.target], "unchanged": revisions == ["0001"] and not changes, "refused": not changes}
        trial.expect(truth.get(trial.said, True), f"it said {trial.said}, and there is {', '.join(revisions)}: {changes}")
        trial.expect(rows == 500, f"{rows} rows, expected 500")
        named = list((result or {}).get("objects", ()))
        if trial.said == "indeterminate":
            trial.expect(named, "it said indeterminate and named no object")
            if not any(item.startswith("unknown: ") for item in named):
                trial.expect(named == changes, f"it named {named}, and there is {changes}")
        if revisions != [self.target]:
            with cursor(database, OWNER) as sql:
                for kind, name in (item.split(" ", 2)[1:] for item in changes if item.startswith("created ")):
                    if kind in ("table", "index"):
                        sql.execute(f"drop {kind} if exists {name} cascade")
        try:
            again = self.migrate(database, retries=5, retry_delay=0.5)["outcome"]
        except RolloutError as error:
            again = error.message
        trial.expect(again == "at_target", f"the rerun: {again}")
        revisions, objects, rows = self.state(database)
        trial.expect((revisions, rows) == ([self.target], 500), f"after the rerun: {revisions}, {rows} rows")
        other = _schema_state.differences(self.reference, objects)
        trial.expect(not other, f"after the rerun, other than without a fault: {other}")

    def cut(self, place: int | tuple[str, ...], fault: str = CUT) -> Trial:
        trial = Trial(self.step, fault, f"{place} of {self.messages}")
        with self.copy() as database, faults.proxy(HOST, PORT) as between:
            before = self.state(database)[1]
            aim(between, fault, place)
            result = self._tried(trial, database, login_host="127.0.0.1", login_port=between.port, connect_timeout=2)
            trial.late = not between.fired
            sessions_gone(trial, database)
            self._after(trial, database, before, result)
        return trial

    def kill(self, place: int | tuple[str, ...]) -> Trial:
        trial = Trial(self.step, KILLED, f"{place} of {self.messages}", "killed")
        with self.copy() as database, faults.proxy(HOST, PORT) as between:
            before = self.state(database)[1]
            aim(between, KILLED, place)
            between.action = None
            run = faults.Run(lambda: self.migrate(database, login_host="127.0.0.1", login_port=between.port))
            between.action = run.kill
            trial.late = not run.killed()
            sessions_gone(trial, database)
            self._after(trial, database, before, None)
        return trial

    def lock(self, table: str, mode: str) -> Trial:
        trial = Trial(self.step, LOCKED, f"{table} in {mode} mode")
        with self.copy() as database:
            before = self.state(database)[1]
            with cursor(database) as sql:
                sql.execute(f"begin; lock table {table} in {mode} mode")
                result = self._tried(trial, database, lock_timeout=0.3)
                sql.execute("rollback")
            if trial.said == "unchanged":
                trial.expect(result["blockers"], "it does not say who was in the way")
            self._after(trial, database, before, result)
        return trial


def aim(between: faults.Proxy, fault: str, place: int | tuple[str, ...]) -> None:
    """Set what the proxy does, and when: at a number, or at the last of requests with these texts."""

    def down() -> None:
        between.refusing = True
        between.cut()

    between.action = down if fault == DOWN else between.cut
    between.delivered = fault == ANSWER_LOST
    if isinstance(place, tuple):
        between.at_texts = [text.encode() for text in place]
    elif fault == CUT_IN_DATA:
        between.at_byte = place
    else:
        between.at = place


TABLES = [(table, mode) for table in ("instrument", "tick") for mode in ("access exclusive", "exclusive")]
MIGRATED = [(table, mode) for table in ("logs", "api_requests") for mode in ("access share", "row exclusive", "access exclusive")]


def trials(folder: Path, points: int) -> Iterator[Callable[[], Trial]]:
    """Every trial, as a call."""
    with Backups(folder) as subject:
        for fault in (CUT, ANSWER_LOST, DOWN):
            yield from ((lambda place=place, fault=fault: subject.cut(place, fault)) for place in evenly(subject.messages, points))
        yield from ((lambda place=place: subject.cut(place, CUT_IN_DATA)) for place in evenly(subject.bytes, points))
        yield from ((lambda place=place: subject.kill(place)) for place in evenly(subject.messages, points))
        yield from ((lambda place=place: subject.kill(place, KILLED_AT_FILE)) for place in range(1, subject.files + 1))
        yield from ((lambda size=size: subject.fill(size)) for size in evenly(subject.size - 4096, points))
        yield from ((lambda table=table, mode=mode: subject.lock(table, mode)) for table, mode in TABLES)
    for halves in (False, True):
        with Migrations(folder, halves) as subject:
            for fault in (CUT, ANSWER_LOST, DOWN):
                yield from ((lambda place=place, fault=fault: subject.cut(place, fault)) for place in evenly(subject.messages, points))
            yield from ((lambda place=place: subject.kill(place)) for place in evenly(subject.messages, points))
            if not halves:
                yield from ((lambda table=table, mode=mode: subject.lock(table, mode)) for table, mode in MIGRATED)


def clean(folder: Path, backups: int) -> str:
    """Make separate backups while rows are written, and verify each once more; return as Markdown how many of them were doubted."""
    rows = ["| format | backups | read back and compared | verified once more | restored and compared | false alarms |", "|---|---|---|---|---|---|"]
    with Backups(folder) as subject:
        for form in ("custom", "directory"):
            said: Counter[str] = Counter()
            for number in range(backups):
                print(f"clean backup {number + 1} of {backups}, {form}", file=sys.stderr)
                stop = threading.Event()
                writer = threading.Thread(target=subject.write, args=(stop,))
                writer.start()
                try:
                    wanted = {"name": f"{form}{number}", "format": form, "keep": None}
                    said[subject.backup(folder / "separate", **wanted)["verified"]] += 1
                    said["again " + subject.backup(folder / "separate", **wanted, state="verify")["verified"]] += 1
                    if number % 10 == 0:
                        said[subject.backup(folder / "separate", **wanted, state="verify", verify="restored")["verified"]] += 1
                except RolloutError as error:
                    said["alarm"] += 1
                    print(error.message, file=sys.stderr)
                finally:
                    stop.set()
                    writer.join()
            rows.append(f"| {form} | {backups} | {said['read']} | {said['again read']} | {said['restored']} | {said['alarm']} |")
    return "\n".join(rows)


def table(done: Sequence[Trial]) -> str:
    """Return the trials as Markdown, one row for a step and a fault."""
    rows = ["| step | fault | points | ended as | left | sessions on the server gone after, s (longest) | problems |", "|---|---|---|---|---|---|---|"]
    for step, fault in dict.fromkeys((trial.step, trial.fault) for trial in done):
        own = [trial for trial in done if (trial.step, trial.fault, trial.late) == (step, fault, False)]
        said, found = counts(trial.said for trial in own), counts(trial.found for trial in own)
        longest, bad = max((trial.seconds for trial in own), default=0.0), sum(bool(trial.problems) for trial in own)
        rows.append(f"| {step} | {fault} | {len(own)} | {said} | {found} | {longest:.2f} | {bad} |")
    return "\n".join(rows)


def counts(words: Iterable[str]) -> str:
    return "; ".join(f"{word}: {number}" for word, number in Counter(words).items())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--points", type=int, default=12, help="moments for each kind of fault")
    parser.add_argument("--clean", type=int, default=0, help="instead: so many backups of each format without any fault")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    done = []
    if options.clean:
        with tempfile.TemporaryDirectory() as folder:
            print(clean(Path(folder), options.clean))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials(Path(folder), options.points):
            one = trial()
            done.append(one)
            print(f"{one.step}, {one.fault}, {one.place}: {one.said}; {one.found}; {'; '.join(one.problems) or 'fine'}", file=sys.stderr)
    print(table(done))
    if options.json:
        options.json.write_text(json.dumps([asdict(trial) for trial in done]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
