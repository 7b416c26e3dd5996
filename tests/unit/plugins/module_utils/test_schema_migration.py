# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""schema_migration without a database: options, outcomes, words, and the child that runs Alembic."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _alembic, _schema_migration, _schema_state, _stable_queries
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

ENV = """
from alembic import context
import {imported}
context.configure(dialect_name="postgresql", literal_binds=True)
with context.begin_transaction():
    context.run_migrations()
"""
SCRIPT = """'''Make a table.'''
from alembic import op
revision = "{revision}"
down_revision = {down}
def upgrade():
    op.execute("create table t_{revision} (id int)")
def downgrade():
    op.execute("drop table t_{revision}")
"""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV.format(imported="os"))
    (tmp_path / "versions/a.py").write_text(SCRIPT.format(revision="a", down=None))
    (tmp_path / "versions/b.py").write_text(SCRIPT.format(revision="b", down='"a"'))
    path = tmp_path / "alembic.ini"
    path.write_text("[alembic]\nscript_location = %(here)s\n")
    return path


def options(ini: Path, **changes: Any) -> dict[str, Any]:
    wanted = {"login_user": "u", "login_db": "d", "login_password": "a-password", "state": "upgraded", "alembic_ini": str(ini), **changes}
    checked = ArgumentSpecValidator(_schema_migration.ARGUMENT_SPEC).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def alembic(ini: Path, context: Context | None = None) -> _alembic.Alembic:
    return _alembic.Alembic(sys.executable, str(ini), _alembic.environment(options(ini), "-c lock_timeout=1s"), context or Context())


def soon(seconds: float = 30) -> float:
    return time.monotonic() + seconds


# --- options


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alembic_ini": "/no/such/alembic.ini"}, "alembic_ini is '/no/such/alembic.ini', expected an existing file"),
        ({"version_table": "a b"}, "version_table is 'a b'"),
        ({"lock_timeout": 90}, "lock_timeout is 90, expected 0.01 to 60"),
        ({"retries": -1}, "retries is -1, expected 0 to 100"),
        ({"lock_timeout": 5, "statement_timeout": 2}, "lock_timeout is longer than statement_timeout"),
        ({"login_host": "postgresql://x"}, "login_host is"),
        ({"scratch_db": "d"}, "scratch_db is login_db, expected another database"),
        ({"scratch_db": "s", "stable_queries": "/no/such.sql"}, "stable_queries is '/no/such.sql', expected an existing file"),
        ({"accept_data_loss": "perhaps"}, "accept_data_loss is 'perhaps', expected yes, a number of rows, or nothing"),
    ],
)
def test_bad_options_are_told_before_anything_is_contacted(ini: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RolloutError) as failure:
        _schema_migration.run(options(ini, **changes), Context())
    assert says in failure.value.message
    assert failure.value.result["outcome"] is None


def test_older_servers_are_not_given_what_they_do_not_know(ini: Path) -> None:
    names = [name for name, _value in _schema_migration.limits(options(ini), 130000)]
    assert names == ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"]
    assert ("client_connection_check_interval", "1s") in _schema_migration.limits(options(ini), 140000)
    assert ("lock_timeout", "1000ms") in _schema_migration.limits(options(ini), 140000)


def test_pauses_grow_up_to_a_minute() -> None:
    assert [_schema_migration.pause(5, attempt) for attempt in (1, 2, 3, 4, 5, 90)] == [5, 10, 20, 40, 60, 60]
    assert _schema_migration.pause(0, 3) == 0
    assert _schema_migration.pause(120, 3) == 120


@pytest.mark.parametrize(
    ("word", "rows", "certain", "accepted"),
    [
        ("", 0, True, True),
        ("", 1, True, False),
        ("", 0, False, False),
        ("yes", 5, False, True),
        ("True", 5, True, True),
        ("5", 5, True, True),
        ("4", 5, True, False),
        ("100", 5, False, False),
    ],
)
def test_loss_needs_the_word(word: str, rows: int, certain: bool, accepted: bool) -> None:
    assert _schema_migration.accepted(word, rows, certain) is accepted


@pytest.mark.parametrize(
    ("after", "changes", "alive", "outcome"),
    [
        (["b"], ["created table t"], [], "at_target"),
        (["a"], [], [], "unchanged"),
        (["a"], ["created table t"], [], "indeterminate"),
        (["x"], [], [], "indeterminate"),
        (["b"], [], [12], "indeterminate"),
        (["a"], [], [12], "indeterminate"),
    ],
)
def test_outcome_is_what_the_database_holds(after: list[str], changes: list[str], alive: list[int], outcome: str) -> None:
    assert _schema_migration.outcome_of(["b"], ["a"], after, changes, alive) == outcome


def test_queries_of_the_running_version_keep_their_lines() -> None:
    text = "SELECT 1;\n-- the next\n\nSELECT 'a;b'\n  FROM t;\n"
    assert _stable_queries.statements(text) == [(1, "SELECT 1"), (4, "SELECT 'a;b'\n  FROM t")]
    with pytest.raises(RolloutError, match="stable_queries cannot be parsed"):
        _stable_queries.statements("SELECT %s FROM")


def test_differences_name_a_table_once() -> None:
    before = {"table public.a": "r", "column public.a.x": "int", "index public.i": "true", "column public.a.y": "int"}
    after = {"table public.a": "r", "column public.a.x": "text", "table public.b": "r", "column public.b.x": "int", "index public.i": "true"}
    assert _schema_state.differences(before, after) == ["created table public.b", "dropped column public.a.y", "changed column public.a.x"]


def test_blocker_is_described() -> None:
    row = {"pid": 7, "user": "app", "application": "v1", "client": "10.0.0.1", "state": "idle in transaction", "transaction_seconds": 12.4,
           "query": "SELECT 1", "relation": "logs"}  # fmt: skip
    assert _schema_state.blocker_words(row) == "process 7 of app, v1 from 10.0.0.1 holds logs, idle in transaction for 12 s: SELECT 1"
    assert "a prepared transaction holds logs" in _schema_state.blocker_words({"pid": 0, "relation": "logs"})


# --- the interpreter


@pytest.mark.parametrize(
    ("opening", "found"),
    [
        ("#!/opt/venv/bin/python3.11\nimport re\n", "/opt/venv/bin/python3.11"),
        ("#!/usr/bin/env -S python3 -E\n", "python3"),
        ("#!/bin/sh\n'''exec' \"/opt/a b/bin/python\" \"$0\" \"$@\"\n' '''\n", "/opt/a b/bin/python"),
        ("#!/bin/sh\n'''exec' /opt/long/bin/python \"$0\" \"$@\"\n' '''\n", "/opt/long/bin/python"),
        ("#!/bin/sh\nexec alembic\n", None),
        ("\x7fELF", None),
        ("", None),
    ],
)
def test_interpreter_of_a_program(opening: str, found: str | None) -> None:
    assert _alembic.shebang(opening) == found


def test_interpreter_by_option(tmp_path: Path) -> None:
    assert _alembic.interpreter(None, None) == sys.executable
    assert _alembic.interpreter(sys.executable, None) == sys.executable
    program = tmp_path / "alembic"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    assert _alembic.interpreter(None, str(program)) == sys.executable
    program.write_text("echo\n")
    for python, command in (("/no/python", None), (None, "/no/alembic"), (None, str(program))):
        with pytest.raises(RolloutError):
            _alembic.interpreter(python, command)


def test_environment_takes_nothing_else_that_libpq_reads(ini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    monkeypatch.setenv("PGPASSFILE", "/home/me/.pgpass")
    variables = _alembic.environment(options(ini, environment={"SIGNAL_APP_ROLE": "app"}), "-c x=1")
    assert "PGSERVICE" not in variables
    assert (variables["PGPASSFILE"], variables["PGOPTIONS"], variables["SIGNAL_APP_ROLE"]) == ("/home/me/.pgpass", "-c x=1", "app")
    assert (variables["PGPASSWORD"], variables["PGUSER"], variables["PGDATABASE"]) == ("a-password", "u", "d")


# --- the child


def test_scripts_are_read(ini: Path) -> None:
    assert sorted(alembic(ini).revisions(soon()), key=lambda item: item["id"]) == [
        {"id": "a", "down": [], "depends_on": [], "title": "Make a table."},
        {"id": "b", "down": ["a"], "depends_on": [], "title": "Make a table."},
    ]


def test_sql_is_written_out_both_ways(ini: Path) -> None:
    assert "create table t_b" in alembic(ini).sql("upgrade", "a:b", soon())
    down = alembic(ini).sql("downgrade", "b:a", soon())
    assert "drop table t_b" in down and "drop table t_a" not in down


def test_what_does_not_load_is_named(ini: Path) -> None:
    (ini.parent / "env.py").write_text(ENV.format(imported="no_such_library"))
    with pytest.raises(RolloutError, match=r"did not write out the SQL.*No module named 'no_such_library'.*by alembic_command or python"):
        alembic(ini).sql("upgrade", "a:b", soon())
    (ini.parent / "versions/b.py").write_text(SCRIPT.format(revision="b", down='"z"'))
    with pytest.raises(RolloutError, match="did not read the release's migrations"):
        alembic(ini).revisions(soon())


def sleeping(ini: Path) -> None:
    (ini.parent / "env.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\nprint('x' * 300000, flush=True)\ntime.sleep(60)\n")


def started(ini: Path) -> bool:
    return (ini.parent / "pid").exists() and (ini.parent / "pid").read_text() != ""


def gone(ini: Path) -> bool:
    if not started(ini):
        return True
    pid = int((ini.parent / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_child_ends_at_the_deadline_and_its_output_is_drained(ini: Path) -> None:
    sleeping(ini)
    with pytest.raises(RolloutError, match="the time given by timeout is over"):
        alembic(ini).sql("upgrade", "a:b", soon(4))
    assert gone(ini)


def test_child_ends_when_the_run_is_interrupted(ini: Path) -> None:
    sleeping(ini)
    context = Context()

    def interrupt() -> None:
        deadline = soon()
        while not started(ini) and time.monotonic() < deadline:
            time.sleep(0.05)
        context.interrupt("SIGTERM")

    threading.Thread(target=interrupt).start()
    with pytest.raises(RolloutError, match="interrupted by SIGTERM"):
        alembic(ini, context).sql("upgrade", "a:b", soon())
    assert gone(ini)


def test_child_ends_with_a_run_that_is_killed(ini: Path) -> None:
    sleeping(ini)
    program = (
        "import sys, time\n"
        "from ansible_collections.signal.rollout.plugins.module_utils import _alembic\n"
        "from ansible_collections.signal.rollout.plugins.module_utils._context import Context\n"
        f"_alembic.Alembic(sys.executable, {str(ini)!r}, {{}}, Context()).sql('upgrade', 'a:b', time.monotonic() + 60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=os.environ)
    deadline = soon(20)
    while not started(ini):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = soon(5)
    while not gone(ini):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_end_of_a_child_is_told() -> None:
    error = {"kind": "LockNotAvailable", "message": "canceling statement due to lock timeout", "sqlstate": "55P03", "statement": "ALTER TABLE a"}
    assert _alembic.Ended(1, error=error).reason() == "LockNotAvailable: canceling statement due to lock timeout (at: ALTER TABLE a)"
    assert _alembic.Ended(-9).reason() == "it ended by signal 9"
    assert _alembic.Ended(3, output="one\ntwo\n").reason() == "it ended with exit code 3: two"
    assert "does not see the lock of this run" in _alembic.Ended(_alembic.FENCED).reason()


# --- what a rehearsal proves


RESTORED = {"backup": "b.dump", "tables": 5, "rows": 100, "seconds": 2.5, "queries": 6}
PENDING = [{"revision": "0002", "title": ""}]


@pytest.mark.parametrize(
    ("rehearsed", "pending", "outcome", "failure", "states"),
    [
        (RESTORED, PENDING, None, "", ("proven", "proven")),
        (RESTORED, PENDING, None, "it broke", ("proven", "failed")),
        (None, PENDING, None, "cannot restore", (None, "failed")),
        (None, [], None, "cannot connect", (None, None)),
        (None, [], "at_target", "", (None, "not_needed")),
        (None, PENDING, None, "", (None, None)),
    ],
)
def test_a_rehearsal_proves_what_it_has_come_to(
    rehearsed: dict[str, Any] | None, pending: list[dict[str, str]], outcome: str | None, failure: str, states: tuple[str | None, str | None]
) -> None:
    result = {"rehearsed": rehearsed, "pending": pending, "outcome": outcome, "before": ["0001"]}
    proofs = _schema_migration.rehearsal_proofs(result, failure)
    assert tuple(proofs.get(f"infrastructure.{box}", {}).get("state") for box in ("backups", "migrations_tested")) == states
