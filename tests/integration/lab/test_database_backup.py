# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_backup against the lab's TimescaleDB: real dumps, damaged in every way, and runs that are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _backup_inventory, _backup_manifest, _postgresql, _processes
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup as engine
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import LAB
from .database import HOST, PORT, new_database, password, session

CLIENT = LAB / "pgclient" / "bin"
ROOT = Path(__file__).parents[3]

SCHEMA = """
create extension timescaledb;
create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('0002');
create table instrument (id bigint primary key, name text not null check (name <> ''));
insert into instrument select i, 'instrument ' || i from generate_series(1, 500) i;
create table tick (time timestamptz not null, instrument bigint references instrument, price double precision);
select create_hypertable('tick', by_range('time', interval '1 day'));
create index tick_instrument_idx on tick (instrument, time desc);
insert into tick select timestamptz '2026-01-01' + i * interval '30 seconds', 1 + i % 500, sin(i) from generate_series(1, 40000) i;
create view newest as select instrument, max(time) as time from tick group by 1;
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with new_database("backup", "", setup=SCHEMA) as name:
        yield name


def connection(database: str) -> dict[str, Any]:
    return {
        "login_host": HOST,
        "login_port": PORT,
        "login_user": "postgres",
        "login_password": password("postgres"),
        "login_db": database,
    }


def backup(database: str, folder: Path, context: Context | None = None, **changes: Any) -> dict[str, Any]:
    wanted = {**connection(database), "dest": str(folder), "client_dir": str(CLIENT), "space_factor": 0, **changes}
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return engine.run(checked.validated_parameters, context or Context())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"} if folder.exists() else set()


@pytest.mark.parametrize("form", ["custom", "directory"])
def test_a_backup_notes_exactly_what_the_database_holds(database, tmp_path, form):
    result = backup(database, tmp_path / "b", format=form)
    tables = {table["name"]: table for table in result["manifest"]["tables"]}
    assert {name: table["rows"] for name, table in tables.items()} == {"alembic_version": 1, "instrument": 500, "tick": 40000}
    assert (tables["tick"]["kind"], tables["tick"]["chunks"], tables["tick"]["time_column"]) == ("hypertable", 14, "time")
    assert tables["tick"]["chunk_indexes"] == 28
    assert tables["tick"]["chunk_constraints"] == 28
    assert result["manifest"]["alembic"] == ["0002"]
    assert result["verified"] == "read"
    mode = (tmp_path / "b").stat().st_mode & 0o777, Path(result["manifest_file"]).stat().st_mode & 0o777
    assert mode == (0o700, 0o600)
    file = Path(result["file"])
    assert {path.stat().st_mode & 0o077 for path in [file, *(file.iterdir() if file.is_dir() else [])]} == {0}


def test_the_counts_are_those_of_the_dump_while_rows_are_written(database, tmp_path):
    """Restored, the dump has exactly the noted rows, whatever was written meanwhile."""
    stop = threading.Event()

    def write() -> None:
        with session(database) as cursor:
            while not stop.is_set():
                cursor.execute("insert into tick values (now(), 1, 0)")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        results = [backup(database, tmp_path / f"b{place}", verify="none") for place in range(3)]
    finally:
        stop.set()
        writer.join()
        with session(database) as cursor:
            cursor.execute("delete from tick where time > timestamptz '2026-06-01'")
            cursor.execute("select drop_chunks('tick', newer_than => timestamptz '2026-06-01')")
    for result in results:
        assert restored_problems(result) == []


def restored_problems(result: dict[str, Any]) -> list[str]:
    """Restore a backup into a database of its own, in the way that TimescaleDB wants it; return how that differs from the manifest."""
    manifest = _backup_manifest.Manifest.from_json(Path(result["manifest_file"]).read_bytes())
    name = f"test_restored_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        cursor.execute(f"create database {name} template template0")
    try:
        with session(name) as cursor:
            cursor.execute("create extension timescaledb")
            cursor.execute("select timescaledb_pre_restore()")
        subprocess.run(
            [CLIENT / "pg_restore", "--exit-on-error", f"--dbname={name}", result["file"]],
            env={**os.environ, "PGHOST": HOST, "PGPORT": str(PORT), "PGUSER": "postgres", "PGPASSWORD": password("postgres")},
            check=True,
        )
        with session(name) as cursor:
            cursor.execute("select timescaledb_post_restore()")
        params = ArgumentSpecValidator(_postgresql.ARGUMENT_SPEC).validate(connection(name)).validated_parameters
        seen = _postgresql.connect(params, 30)
        try:
            return _backup_manifest.compare(manifest, _backup_inventory.read(seen, 60, 10))
        finally:
            seen.close()
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")


def largest(path: Path) -> Path:
    return max(path.iterdir(), key=lambda file: file.stat().st_size) if path.is_dir() else path


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = largest(path)
        file.write_bytes(change(file.read_bytes()))

    return damage


def flipped(place: float) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = int((len(content) - 1) * place)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


def remove(path: Path) -> None:
    largest(path).unlink()


def manifest_change(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path.with_suffix(".json")
        file.write_text(change(file.read_text()))

    return damage


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut by one byte": rewrite(lambda content: content[:-1]),
    "cut in half": rewrite(lambda content: content[: len(content) // 2]),
    "cut to its first page": rewrite(lambda content: content[:4096]),
    "empty": rewrite(lambda content: b""),
    "a bit of the header": rewrite(flipped(0.0)),
    "a bit of the first tenth": rewrite(flipped(0.1)),
    "a bit of the middle": rewrite(flipped(0.5)),
    "the last bit": rewrite(flipped(1.0)),
    "a page of zeros": rewrite(lambda content: content[:4096] + bytes(4096) + content[8192:]),
    "two pages swapped": rewrite(lambda content: content[:4096] + content[8192:12288] + content[4096:8192] + content[12288:]),
    "a page twice": rewrite(lambda content: content[:8192] + content[4096:]),
    "bytes at the end": rewrite(lambda content: content + b"\n"),
    "line ends converted": rewrite(lambda content: content.replace(b"\n", b"\r\n")),
    "gone": remove,
    "a count in the manifest": manifest_change(lambda text: text.replace('"rows": 40000', '"rows": 40001')),
    "half a manifest": manifest_change(lambda text: text[: len(text) // 2]),
}


@pytest.fixture(scope="module", params=["custom", "directory"])
def made(request, database, tmp_path_factory) -> dict[str, Any]:
    return backup(database, tmp_path_factory.mktemp("made") / "b", format=request.param, name="a")


def copied(made: dict[str, Any], folder: Path) -> Path:
    subprocess.run(["cp", "-a", Path(made["file"]).parent, folder], check=True)
    return folder / Path(made["file"]).name


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_every_damage_is_caught(made, database, tmp_path, kind):
    path = copied(made, tmp_path / "c")
    DAMAGE[kind](path)
    with pytest.raises(RolloutError, match="Next: "):
        backup(database, path.parent, state="verify", name="a")


@pytest.mark.parametrize("kind", ["cut by one byte", "cut in half", "a page of zeros", "two pages swapped", "empty"])
def test_damage_before_the_checksum_was_taken_is_caught_by_reading(made, database, tmp_path, kind):
    """The manifest agrees with the damaged bytes, as if the disk had lied while the dump was written."""
    path = copied(made, tmp_path / "c")
    DAMAGE[kind](path)
    seen = _backup_manifest.Manifest.from_json((path.parent / "a.json").read_bytes())
    sha256, files = engine._backup_store.digests(path)
    changed = {**seen.to_dict(), "sha256": sha256, "files": files, "bytes": engine._backup_store.size_of(path)}
    changed.pop("checksum")
    (path.parent / "a.json").write_text(json.dumps({**changed, "checksum": _backup_manifest._checksum(changed)}))
    with pytest.raises(RolloutError, match="it cannot be read back"):
        backup(database, path.parent, state="verify", name="a")


def test_a_clean_backup_raises_no_alarm_in_25_trials_of_each_format(made, database, tmp_path):
    for trial in range(25):
        path = copied(made, tmp_path / f"c{trial}")
        assert backup(database, path.parent, state="verify", name="a")["verified"] == "read"


@pytest.mark.parametrize("form", ["custom", "directory"])
def test_a_backup_is_restored_and_compared_and_the_scratch_database_dropped(database, tmp_path, form):
    assert backup(database, tmp_path / "b", format=form, name="a", verify="restored")["verified"] == "restored"
    assert backup(database, tmp_path / "b", state="verify", verify="restored")["verified"] == "restored"
    with session("postgres") as cursor:
        cursor.execute("select count(*) from pg_database where datname like %s", [f"{database}_scratch_%"])
        assert cursor.fetchone()[0] == 0


def test_a_backup_that_is_not_restored_as_noted_gets_no_name(database, tmp_path, monkeypatch):
    """An index that the manifest has and the dump has not: only a restore can tell."""
    read = _backup_inventory.read

    def more(session: Any, *rest: Any) -> Any:
        seen = read(session, *rest)
        if seen.database != database:
            return seen
        tables = tuple(dataclasses.replace(table, indexes={**table.indexes, "missing_idx": "0"}) for table in seen.tables)
        return dataclasses.replace(seen, tables=tables)

    monkeypatch.setattr(_backup_inventory, "read", more)
    with pytest.raises(RolloutError, match=r"indexes missing: missing_idx"):
        backup(database, tmp_path / "b", verify="restored")
    assert names(tmp_path / "b") == set()


def test_a_table_that_is_locked_is_named_with_who_holds_it_within_the_lock_timeout(database, tmp_path):
    with session(database) as cursor:
        cursor.execute("begin; lock table instrument in access exclusive mode")
        began = time.monotonic()
        with pytest.raises(RolloutError, match=r"lock_timeout \(0\.5 s\): instrument by process \d+ \(postgres, idle in transaction\)"):
            backup(database, tmp_path / "b", lock_timeout=0.5)
        assert time.monotonic() - began < 5
        cursor.execute("rollback")
    assert names(tmp_path / "b") == set()


def test_a_full_disk_leaves_nothing_and_is_said(database, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(folder)], check=True)
    try:
        with pytest.raises(RolloutError, match=r"No space left on device.*Next: free space in dest"):
            backup(database, folder)
        assert names(folder) == set()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def slow_dump(tmp_path: Path) -> Path:
    """Client programs whose pg_dump stays for a while with half a backup written."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pg_restore").symlink_to(CLIENT / "pg_restore")
    program = folder / "pg_dump"
    program.write_text(
        f'#!/bin/sh\nfor word in "$@"; do case "$word" in --version) exec {CLIENT}/pg_dump --version;; --file=*) file="${{word#--file=}}";; esac; done\n'
        f'{CLIENT}/pg_dump "$@" && echo $$ > {tmp_path}/pid && exec sleep 60\n'
    )
    program.chmod(0o755)
    return folder


def test_a_lost_connection_leaves_nothing_and_is_said(database, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pg_restore").symlink_to(CLIENT / "pg_restore")
    program = folder / "pg_dump"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) exec {CLIENT}/pg_dump --version;; esac\n'
        "end() { n=0; while [ $((n += 1)) -le 300 ]; do PGOPTIONS= "
        f"{CLIENT}/psql -qAtXc \"select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'signal.rollout' and "
        f'datname = current_database() and pid <> pg_backend_pid()" | grep -q t && return; done; }}\n'
        f'end & exec {CLIENT}/pg_dump "$@" --compress=gzip:9\n'
    )
    program.chmod(0o755)
    with pytest.raises(RolloutError, match=r"(terminating connection|server closed the connection|connection to server).*Next: "):
        backup(database, tmp_path / "b", client_dir=str(folder))
    assert names(tmp_path / "b") == set()


RUN = """
import json, sys
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup as engine
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
with Context() as context:
    engine.run(json.load(sys.stdin), context)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_backup_no_program_and_the_next_one_works(database, tmp_path, number):
    wanted = {**connection(database), "dest": str(tmp_path / "b"), "client_dir": str(slow_dump(tmp_path)), "space_factor": 0, "name": "a"}
    params = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate(wanted).validated_parameters
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "playbooks" / "collections")}
    running = subprocess.Popen([sys.executable, "-c", RUN], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert running.stdin
    running.stdin.write(json.dumps(params).encode())
    running.stdin.close()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program = int((tmp_path / "pid").read_text())
    running.send_signal(number)
    running.wait(20)
    time.sleep(0.3)
    assert not _processes.Process(program, _processes.UNKNOWN).alive()
    assert names(tmp_path / "b") == ({"a.dump.partial"} if number == signal.SIGKILL else set())
    result = backup(database, tmp_path / "b", name="a")
    assert len(result["warnings"]) == (1 if number == signal.SIGKILL else 0)
    assert names(tmp_path / "b") == {"a.dump", "a.json"}


def test_a_backup_for_a_gpg_key_is_read_with_that_key_only(database, tmp_path, monkeypatch):
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    key = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "dba@example.com", "future-default", "default", "never"]
    subprocess.run(key, check=True, capture_output=True)
    try:
        result = backup(database, tmp_path / "b", encrypt={"gpg_recipients": ["dba@example.com"]})
        assert result["file"].endswith(".dump.gpg")
        assert not Path(result["file"]).read_bytes().startswith(b"PGDMP")
        assert backup(database, tmp_path / "b", state="verify")["verified"] == "read"
        with pytest.raises(RolloutError, match=r"encryption failed.*gpg --import"):
            backup(database, tmp_path / "b2", encrypt={"gpg_recipients": ["nobody@example.com"]})
        assert names(tmp_path / "b2") == set()
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, timeout=30)
