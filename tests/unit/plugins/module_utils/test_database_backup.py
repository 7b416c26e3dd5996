# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making a backup, against recorded rows and programs that are small scripts: nothing incomplete ever has a final name."""

from __future__ import annotations

import contextlib
import json
import stat
from datetime import datetime, timezone

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _backup_dump, _backup_inventory, _backup_manifest, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup as engine
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

TABLES = (_backup_manifest.Table("public", "t", rows=2),)
INVENTORY = _backup_manifest.Inventory("db", "17.6", "7", "UTF8", {}, ("0001",), {}, "1:1:", TABLES)
# The last argument but for --dbname and others is --file=PATH; the programs find it themselves.
DUMP = """for word in "$@"; do case "$word" in --file=*) file="${word#--file=}";; --version) echo 'pg_dump (PostgreSQL) 17.6'; exit;; esac; done
printf '%s\\n' "$@" > "$(dirname "$0")/arguments"
"""
GOOD_DUMP = DUMP + 'if [ -n "$file" ]; then echo content > "$file"; else echo content; fi\necho \'pg_dump: dumping contents of table "public.t"\' >&2'
# What a dump is read back as: the two rows that the database is said to have.
SCRIPT = r"printf 'COPY public.t (a) FROM stdin;\n1\n2\n\\.\n'"
RESTORE = f'echo "$@" >> "$(dirname "$0")/restored"; {SCRIPT}'


class FakeSession:
    name = "PostgreSQL h:1/db as u"

    def __init__(self, **server):
        self.server = {"version": "17.6", "size": 10, "locks": 6400, "tables": 10, "snapshot": "0-1", **server}
        self.closed = False

    def rows(self, statement, arguments=()):
        return [self.server]

    def close(self):
        self.closed = True


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of programs, a database that answers, and a way to run the engine."""

    class Place:
        dest = tmp_path / "backups"
        programs = tmp_path / "bin"
        session = FakeSession()

        def program(self, name, body):
            path = self.programs / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)

        def run(self, context=None, **options):
            given = {"login_user": "u", "login_db": "db", "dest": str(self.dest), "client_dir": str(self.programs), **options}
            checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC).validate(given)
            assert not checked.error_messages
            return engine.run(checked.validated_parameters, context or Context())

        def names(self):
            return sorted(path.name for path in self.dest.iterdir() if path.name != ".lock") if self.dest.exists() else []

        def arguments(self):
            return (self.programs / "arguments").read_text().splitlines()

    place = Place()
    place.programs.mkdir()
    place.program("pg_dump", GOOD_DUMP)
    place.program("pg_restore", RESTORE)
    monkeypatch.setattr(_postgresql, "connect", lambda *unused: place.session)
    monkeypatch.setattr(_backup_inventory, "read", lambda *unused: INVENTORY)
    return place


def test_a_backup_is_named_when_it_is_complete_and_was_read_back(place):
    result = place.run(name="a")
    assert place.names() == ["a.dump", "a.json"]
    assert stat.S_IMODE((place.dest / "a.dump").stat().st_mode) == 0o600
    assert (result["changed"], result["bytes"], result["verified"]) == (True, 8, "read")
    assert (place.programs / "restored").read_text() == f"--file=- {place.dest}/a.dump.partial\n"
    manifest = json.loads((place.dest / "a.json").read_text())
    assert manifest == result["manifest"]
    assert (manifest["file"], manifest["tables"][0]["rows"]) == ("a.dump", 2)
    assert place.session.closed


def test_the_dump_works_in_the_snapshot_that_was_counted_in(place):
    place.run(name="a", lock_timeout=2.5)
    assert {"--snapshot=0-1", "--format=custom", "--compress=zstd:3", "--lock-wait-timeout=2500", "--no-password"} < set(place.arguments())


def test_a_password_is_never_an_argument(place):
    place.run(name="a", login_password="very-secret")
    assert "very-secret" not in "".join(place.arguments())


def test_check_mode_writes_nothing_and_says_what_would_be(place):
    result = place.run(Context(check_mode=True), name="a")
    assert (result["changed"], result["file"]) == (True, str(place.dest / "a.dump"))
    assert not place.dest.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('echo x > "$file"; echo "pg_dump: error: could not write: No space left on device" >&2; exit 1', r"No space left.*Next: free space in dest"),
        ('echo x > "$file"; echo "pg_dump: error: query failed: server closed the connection" >&2; exit 1', r"Next: see the server's log"),
        ('echo x > "$file"; kill -9 $$', r"\(signal 9\)"),
        ('echo x > "$file"; exec sleep 30', r"no end within timeout.*Next: raise timeout"),
    ],
)
def test_whatever_ends_a_dump_leaves_nothing(place, body, words):
    place.program("pg_dump", DUMP + body)
    with pytest.raises(RolloutError, match=words) as caught:
        place.run(name="a", timeout=2)
    assert place.names() == []
    assert caught.value.result["file"] == str(place.dest / "a.dump")
    assert place.session.closed


def test_a_dump_that_cannot_be_read_back_gets_no_name(place):
    place.program("pg_restore", "echo 'pg_restore: error: could not uncompress data' >&2; exit 1")
    with pytest.raises(RolloutError, match="cannot be read back: .*could not uncompress"):
        place.run(name="a")
    assert place.names() == []


def test_a_dump_that_lacks_rows_gets_no_name(place):
    place.program("pg_restore", r"printf 'COPY public.t (a) FROM stdin;\n1\n\\.\n'")
    with pytest.raises(RolloutError, match=r"cannot be read back: public\.t: 1 rows; expected 2"):
        place.run(name="a")
    assert place.names() == []


def scratch(monkeypatch, problem=""):
    """Stand for the restore; return the list of what it was asked."""
    asked = []

    @contextlib.contextmanager
    def scratch_database(tools, backup, context):
        asked.append((tools.params["login_user"], tools.params["login_host"], tools.params["login_db"], backup.path.name))
        if problem:
            raise RolloutError(problem)
        yield "db_scratch"

    monkeypatch.setattr(engine._scratch, "scratch_database", scratch_database)
    return asked


def test_a_backup_is_restored_by_the_superuser_before_it_gets_its_name(place, monkeypatch):
    asked = scratch(monkeypatch)
    who = {"scratch_login_user": "root", "scratch_login_password": "long-enough"}
    assert place.run(name="a", verify="restored", **who)["manifest"]["verified"] == "restored"
    assert place.run(state="verify", verify="restored")["verified"] == "restored"
    assert asked == [("root", "localhost", "postgres", "a.dump.partial"), ("u", "localhost", "postgres", "a.dump")]


def test_a_backup_that_cannot_be_restored_gets_no_name(place, monkeypatch):
    scratch(monkeypatch, "public.t: rows 0; expected 2")
    with pytest.raises(RolloutError, match="rows 0"):
        place.run(name="a", verify="restored")
    assert place.names() == []


def test_a_client_built_without_the_compression_falls_back_to_gzip(place):
    refuse = 'case "$*" in *zstd*) echo "pg_dump: error: this build does not support compression with zstd" >&2; exit 1;; esac\n'
    place.program("pg_dump", DUMP + refuse + 'echo content > "$file"')
    result = place.run(name="a")
    assert "--compress=gzip:6" in place.arguments()
    assert result["manifest"]["compression"] == "gzip:6"
    assert "built without zstd:3" in result["warnings"][0]


@pytest.mark.parametrize(
    ("server", "options", "words"),
    [
        ({"version": "18.1 (Debian)"}, {}, r"pg_dump 17\.6 is older than the server's 18\.1"),
        ({"size": 10**18}, {}, "MB free, expected"),
        ({"tables": 20000}, {}, "20000 tables and chunks, but the server's lock table has room for 6400"),
        ({}, {"name": "../x"}, "name is '../x'"),
        ({}, {"compression": "rar"}, "compression is 'rar', expected zstd"),
        ({}, {"timeout": 0}, "timeout is 0, expected more than 0"),
        ({}, {"jobs": 2}, "jobs is 2 with the format custom"),
        ({}, {"keep": {"count": -1}}, "keep.count is -1"),
        ({}, {"verify": "restored", "encrypt": {"age_recipients": ["a"]}}, "expected decrypt.identity_file"),
        ({}, {"format": "directory", "encrypt": {"gpg_recipients": ["a"]}}, "directory cannot be encrypted"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_written(place, server, options, words):
    place.session = FakeSession(**server)
    with pytest.raises(RolloutError, match=words):
        place.run(**options)
    assert not place.dest.exists()


def test_many_chunks_are_warned_of_before_they_are_too_many(place):
    place.session = FakeSession(tables=4000)
    assert "raise max_locks_per_transaction" in place.run(name="a")["warnings"][0]


def test_an_existing_backup_is_never_overwritten(place):
    place.run(name="a")
    with pytest.raises(RolloutError, match=r"a\.dump and .*a\.json exists already"):
        place.run(name="a")
    assert place.names() == ["a.dump", "a.json"]


def test_older_backups_go_after_the_new_one_is_there(place):
    for name in ("a", "b", "c"):
        place.run(name=name)
    assert place.run(Context(check_mode=True), name="d", keep={"count": 2})["removed"] == ["a"]
    assert place.run(name="d", keep={"count": 2})["removed"] == ["a", "b"]
    assert place.names() == ["c.dump", "c.json", "d.dump", "d.json"]


def test_a_failed_backup_removes_no_older_one(place):
    place.run(name="a")
    place.program("pg_dump", DUMP + "exit 1")
    with pytest.raises(RolloutError):
        place.run(name="b", keep={"count": 1})
    assert place.names() == ["a.dump", "a.json"]


def test_what_a_killed_run_left_is_removed_and_said(place):
    place.run(name="a")
    (place.dest / "b.dump.partial").write_text("half")
    assert place.run(name="c")["warnings"] == ["removed what a killed backup had left: b.dump.partial"]


def test_backups_are_listed_and_the_newest_is_verified(place):
    place.run(name="a")
    place.run(name="b")
    assert [entry["name"] for entry in place.run(state="listed")["backups"]] == ["b", "a"]
    result = place.run(state="verify")
    assert (result["changed"], result["file"], result["verified"]) == (False, str(place.dest / "b.dump"), "read")


def test_a_changed_backup_is_not_verified(place):
    place.run(name="a")
    (place.dest / "a.dump").write_text("c0ntent\n")
    with pytest.raises(RolloutError, match=r"its SHA-256 is .*Next: take another backup"):
        place.run(state="verify", name="a")


def test_no_backup_to_verify_is_said(place):
    with pytest.raises(RolloutError, match="has no backup of db"):
        place.run(state="verify")


@pytest.mark.parametrize("program", ["age", "gpg"])
def test_an_encrypted_backup_goes_through_the_program_before_the_disk(place, monkeypatch, program):
    place.program(program, 'case "$*" in *--decrypt*) sed s/^e:// ;; *) sed s/^/e:/ ;; esac')
    monkeypatch.setenv("PATH", f"{place.programs}:/usr/bin:/bin")
    place.program("pg_restore", f'cat > "$(dirname "$0")/plain"; {SCRIPT}')
    result = place.run(name="a", encrypt={f"{program}_recipients": ["who"]})
    assert result["file"].endswith(f"a.dump.{program}")
    assert (place.dest / f"a.dump.{program}").read_text() == "e:content\n"
    assert (place.programs / "plain").read_text() == "content\n"
    (place.programs / "plain").unlink()
    assert place.run(state="verify", decrypt={"identity_file": "/key"})["verified"] == "read"
    assert (place.programs / "plain").read_text() == "content\n"


def test_without_a_key_only_the_checksum_is_compared_and_that_is_said(place, monkeypatch):
    place.program("age", "cat")
    monkeypatch.setenv("PATH", f"{place.programs}:/usr/bin:/bin")
    place.run(name="a", encrypt={"age_recipients": ["who"]})
    result = place.run(state="verify")
    assert (result["verified"], len(result["warnings"])) == ("none", 1)


def test_an_encryption_that_fails_leaves_nothing(place, monkeypatch):
    place.program("gpg", "echo 'gpg: error: no public key' >&2; exit 2")
    monkeypatch.setenv("PATH", f"{place.programs}:/usr/bin:/bin")
    with pytest.raises(RolloutError, match="no public key"):
        place.run(name="a", encrypt={"gpg_recipients": ["who"]})
    assert place.names() == []


@pytest.mark.parametrize(
    ("wanted", "client", "used", "warned"),
    [
        ("zstd:3", "17.6", "zstd:3", False),
        ("zstd:3", "15.4", "6", True),
        ("gzip:9", "15.4", "9", False),
        ("gzip", "15.4", "6", False),
        ("none", "15.4", "0", False),
        ("none", "16.1", "none", False),
    ],
)
def test_the_compression_that_a_client_can_do(wanted, client, used, warned):
    assert _backup_dump.compression_for(wanted, client) == (used, _backup_dump.compression_for(wanted, client)[1])
    assert bool(_backup_dump.compression_for(wanted, client)[1]) is warned


def test_progress_says_table_size_and_time(tmp_path):
    said = []
    progress = _backup_dump.Progress(3, tmp_path / "a.partial", said.append)
    progress.said('pg_dump: dumping contents of table "public.ticks"')
    (tmp_path / "a.partial").write_bytes(bytes(2_500_000))
    progress.tick()
    assert said == ["table 1 of 3, public.ticks, 2.5 MB, 0 s"]


def test_the_name_holds_the_time_in_utc():
    assert engine._backup_store.default_name("db", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)) == "db-20260102T030405Z"
