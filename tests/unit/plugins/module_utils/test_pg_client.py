# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Client programs as children: their ends, deadlines, words and surroundings. The programs here are small scripts."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _pg_client as client
from ansible_collections.signal.rollout.plugins.module_utils import _processes as processes
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

PARAMS = {
    "login_host": "db",
    "login_port": 5433,
    "login_user": "u",
    "login_password": "secret-word",
    "login_db": "d",
    "ssl_mode": "require",
    "ca_cert": None,
    "connect_timeout": 5,
}


def script(tmp_path, name, body):
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_program_that_is_not_there_is_named_with_the_folder(tmp_path):
    with pytest.raises(client.ClientError, match=rf"pg_dump was not found in {tmp_path}.*client_dir"):
        client.find("pg_dump", str(tmp_path))


def test_the_version_is_the_one_after_the_product(tmp_path):
    path = script(tmp_path, "pg_dump", "echo 'pg_dump (PostgreSQL) 17.6 (Debian 17.6-1)'")
    assert client.version(client.find("pg_dump", str(tmp_path))) == "17.6"
    assert client.find("pg_dump", str(tmp_path)) == path


def test_another_program_by_that_name_is_refused(tmp_path):
    with pytest.raises(client.ClientError, match="printed 'hello', expected the version"):
        client.version(script(tmp_path, "pg_dump", "echo hello"))


@pytest.mark.parametrize(("text", "major"), [("17.6", 17), ("18beta1", 18), ("9.6.1", 9), ("17.6 (Debian)", 17), ("", 0), ("devel", 0)])
def test_majors(text, major):
    assert client.major(text) == major


def test_no_setting_of_ours_reaches_a_child_but_a_password_file(monkeypatch):
    monkeypatch.setenv("PGSERVICE", "other")
    monkeypatch.setenv("PGOPTIONS", "-c role=other")
    monkeypatch.setenv("PGPASSFILE", "/home/u/.pgpass")
    env = client.environment(PARAMS)
    assert {name: value for name, value in env.items() if name.startswith("PG")} == {
        "PGHOST": "db",
        "PGPORT": "5433",
        "PGUSER": "u",
        "PGDATABASE": "d",
        "PGSSLMODE": "require",
        "PGCONNECT_TIMEOUT": "5",
        "PGPASSWORD": "secret-word",
        "PGAPPNAME": "signal.rollout",
        "PGPASSFILE": "/home/u/.pgpass",
    }
    assert "PGPASSWORD" not in client.environment({**PARAMS, "login_password": None})


def test_a_failing_program_is_told_by_its_own_words(tmp_path):
    child = client.Child([script(tmp_path, "pg_dump", "echo 'pg_dump: warning: odd' >&2; echo 'pg_dump: error: no table' >&2; exit 3")])
    with pytest.raises(client.ClientError, match=r"^pg_dump: pg_dump: error: no table \(exit code 3\)$"):
        client.wait([child], Context(), 10)


def test_what_every_timescaledb_dump_warns_of_is_no_message(tmp_path):
    body = "echo 'pg_dump: warning: there are circular foreign-key constraints on this table:' >&2; echo 'pg_dump: detail: hypertable' >&2"
    child = client.Child([script(tmp_path, "pg_dump", body)])
    client.wait([child], Context(), 10)
    assert child.messages() == []


def test_progress_lines_are_heard_and_not_kept(tmp_path):
    heard = []
    child = client.Child([script(tmp_path, "pg_dump", "echo 'pg_dump: dumping' >&2; echo 'pg_dump: error: x' >&2")], said=heard.append)
    client.wait([child], Context(), 10)
    assert heard == ["pg_dump: dumping", "pg_dump: error: x"]
    assert child.messages() == ["pg_dump: error: x"]


def test_a_program_without_end_is_ended_with_what_it_started(tmp_path):
    child = client.Child([script(tmp_path, "pg_dump", f"sleep 60 & echo $! > {tmp_path}/pid; wait")])
    began = time.monotonic()
    with pytest.raises(client.ClientError, match=r"no end within timeout \(0\.5 s\)"):
        client.wait([child], Context(), 0.5)
    assert time.monotonic() - began < 5
    grandchild = int((tmp_path / "pid").read_text())
    assert not processes.Process(grandchild, processes.UNKNOWN).alive()


def test_a_program_that_ignores_the_first_word_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_GRACE_SECONDS", 0.3)
    child = client.Child([script(tmp_path, "pg_dump", "trap '' TERM; while :; do sleep 0.1; done")])
    with pytest.raises(client.ClientError, match="no end within timeout"):
        client.wait([child], Context(), 0.3)
    assert child.code() is not None


def test_an_interrupted_run_ends_its_programs(tmp_path):
    context = Context()
    threading.Timer(0.3, context.interrupt, ["SIGTERM"]).start()
    child = client.Child([script(tmp_path, "pg_dump", "exec sleep 60")])
    with pytest.raises(client.ClientError, match="interrupted by SIGTERM"):
        client.wait([child], context, 30)
    assert child.code() is not None


def test_a_chain_copies_everything_to_all_and_blames_who_failed_first(tmp_path):
    source = client.Child([script(tmp_path, "source", "seq 200000")], stdout=subprocess.PIPE)
    out = (tmp_path / "copy").open("wb")
    sinks = [
        client.Child([script(tmp_path, "one", "cat")], stdin=subprocess.PIPE, stdout=out),
        client.Child([script(tmp_path, "two", "cat")], stdin=subprocess.PIPE),
    ]
    source.pour([sink.stdin for sink in sinks])
    client.wait([source, *sinks], Context(), 30)
    out.close()
    assert (tmp_path / "copy").read_text().split() == [str(number) for number in range(1, 200001)]

    source = client.Child([script(tmp_path, "source", "exec yes")], stdout=subprocess.PIPE)
    sink = client.Child([script(tmp_path, "age", "echo 'age: error: no recipient' >&2; exit 1")], stdin=subprocess.PIPE)
    source.pour([sink.stdin])
    with pytest.raises(client.ClientError, match="age: error: no recipient"):
        client.wait([source, sink], Context(), 30)


def test_the_tick_comes_while_it_runs(tmp_path):
    ticks = []
    began = time.monotonic()
    client.wait([client.Child([script(tmp_path, "pg_dump", "sleep 0.7")])], Context(), 10, lambda: ticks.append(1), 0.2)
    assert 1 <= len(ticks) <= (time.monotonic() - began) / 0.2


def test_a_connection_on_a_command_line_has_no_password_and_is_read_back_as_it_was():
    psycopg2 = pytest.importorskip("psycopg2.extensions")
    params = {"login_host": "127.0.0.1", "login_port": 5432, "login_user": "o'brien", "login_password": "s3cret-word", "login_db": r"a b\c"}
    text = client.conninfo({**params, "ssl_mode": "prefer", "connect_timeout": 5}, "-c client_connection_check_interval=1s")
    assert "s3cret" not in text
    read = psycopg2.parse_dsn(text)
    assert (read["user"], read["dbname"], read["options"]) == ("o'brien", r"a b\c", "-c client_connection_check_interval=1s")


def test_what_cannot_be_written_fails_a_program_that_ended_well():
    class Full:
        def write(self, piece):
            raise OSError(28, "No space left on device")

        def close(self):
            """Nothing is held."""

    child = client.Child(["printf", "abc"], stdout=subprocess.PIPE)
    child.pour([Full()])
    with pytest.raises(client.ClientError, match="No space left on device"):
        client.wait([child], Context(), 10)
