# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""schema_migration against the lab's TimescaleDB: the release's own scripts in a database of its own, and everything that goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _schema_migration as sm
from ansible_collections.signal.rollout.plugins.module_utils import _schema_state
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .database import HOST, PORT, Pooler, open_session, password, session

RELEASE = Path(__file__).resolve().parents[3] / "lab/signal_service/release/migrations"
SCRIPT = """
from alembic import op
revision = {revision!r}
down_revision = {down!r}
def upgrade():
    {body}
def downgrade():
    {undo}
"""


@pytest.fixture(scope="module")
def template() -> Iterator[str]:
    """A database at 0001, as v1 runs on."""
    name = f"test_sm_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        cursor.execute(f"create database {name} owner signal_owner")
    try:
        with session(name) as cursor:
            cursor.execute("create extension timescaledb")
            cursor.execute("grant all on schema public to signal_owner")
        result = run(name, revision="0001", from_base=True)
        assert (result["before"], result["after"], result["outcome"]) == ([], ["0001"], "at_target")
        with session("postgres") as cursor:
            # TimescaleDB's scheduler would come back to it, and a database in use is no template.
            cursor.execute(f"alter database {name} allow_connections false")
            cursor.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (name,))
        yield name
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")


@pytest.fixture
def database(template: str) -> Iterator[str]:
    name = f"{template}_x"
    with session("postgres") as cursor:
        cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (template,))
        cursor.execute(f"create database {name} template {template} owner signal_owner")
    try:
        yield name
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the release's migrations up to 0001, to add one's own to."""
    folder = tmp_path / "migrations"
    shutil.copytree(RELEASE, folder)
    for path in (folder / "versions").glob("000[234]*"):
        path.unlink()
    return folder


def write(folder: Path, revision: str, body: str, down: str = "0001", undo: str = "pass") -> None:
    (folder / "versions" / f"{revision}.py").write_text(SCRIPT.format(revision=revision, down=down, body=body, undo=undo), encoding="utf-8")


def options(database: str, user: str = "signal_owner", **changes: Any) -> dict[str, Any]:
    wanted = {
        "login_host": HOST, "login_port": PORT, "login_user": user, "login_password": password(user), "login_db": database,
        "state": "upgraded", "alembic_ini": str(RELEASE / "alembic.ini"), "retries": 0, "retry_delay": 0.1, "timeout": 60, **changes,
    }  # fmt: skip
    checked = ArgumentSpecValidator(sm.ARGUMENT_SPEC).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def run(database: str, context: Context | None = None, **changes: Any) -> dict[str, Any]:
    return sm.run(options(database, **changes), context or Context())


def refused(database: str, context: Context | None = None, **changes: Any) -> RolloutError:
    with pytest.raises(RolloutError) as failure:
        run(database, context, **changes)
    assert password("signal_owner") not in failure.value.message
    return failure.value


def rows(database: str) -> list[str]:
    with session(database) as cursor:
        cursor.execute("select version_num from alembic_version order by 1")
        return [row[0] for row in cursor.fetchall()]


def exists(database: str, relation: str) -> bool:
    with session(database) as cursor:
        cursor.execute("select to_regclass(%s) is not null", (relation,))
        return bool(cursor.fetchone()[0])


def wait_until(what: str, condition: Any, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def migrating(database: str) -> list[int]:
    """Processes of the sessions that scripts have opened."""
    with session("postgres") as cursor:
        cursor.execute("select pid from pg_stat_activity where datname = %s and application_name in ('alembic', 'signal.rollout alembic')", (database,))
        return [row[0] for row in cursor.fetchall()]


def sleeping(database: str) -> bool:
    with session("postgres") as cursor:
        cursor.execute("select count(*) from pg_stat_activity where datname = %s and wait_event = 'PgSleep'", (database,))
        return bool(cursor.fetchone()[0])


# --- the way up


def test_release_goes_up_once(database: str) -> None:
    predicted = run(database, Context(check_mode=True))
    assert (predicted["changed"], predicted["outcome"], rows(database)) == (True, None, ["0001"])
    assert [item["revision"] for item in predicted["pending"]] == ["0002", "0003", "0004"]
    result = run(database)
    assert (result["changed"], result["outcome"], result["before"], result["after"]) == (True, "at_target", ["0001"], ["0004"])
    assert (result["attempts"], result["warnings"], result["objects"], result["invalid_indexes"]) == (1, [], [], [])
    again = run(database)
    assert (again["changed"], again["outcome"], again["attempts"], again["pending"]) == (False, "at_target", 0, [])


def test_shown_tells_without_a_lock(database: str) -> None:
    with session(database) as cursor:
        cursor.execute("select pg_advisory_lock(%s)", (_schema_state.RUN,))
        result = run(database, state="shown")
    assert (result["changed"], result["before"], result["heads"], len(result["pending"]), result["problem"]) == (False, ["0001"], ["0004"], 3, None)


def test_plan_says_what_each_statement_locks(database: str) -> None:
    plan = run(database, state="plan")
    assert (plan["changed"], plan["outcome"], rows(database)) == (False, None, ["0001"])
    (added,) = [item for item in plan["statements"] if item["sql"] == "ALTER TABLE logs ADD COLUMN version text"]
    assert (added["revision"], added["lock"], added["blocks_reads"], added["rewrites"]) == ("0004", "ACCESS EXCLUSIVE", True, False)
    assert [item for item in plan["statements"] if item["unknown"]] == []
    assert [item for item in plan["findings"] if item["level"] != "warns"] == []


def test_what_the_running_version_does_not_stand_is_refused(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("alter table logs drop column error_type")')
    ini = str(scripts / "alembic.ini")
    for context in (Context(check_mode=True), Context()):
        error = refused(database, context, alembic_ini=ini)
        assert "a: logs.error_type is dropped, which the running version may use (ban-drop-column)" in error.message
        assert (error.result["changed"], error.result["findings"][0]["level"], error.result["attempts"]) == (False, "breaks", 0)
    assert run(database, state="plan", alembic_ini=ini)["findings"][0]["rule"] == "ban-drop-column"
    result = run(database, alembic_ini=ini, expand_only="warn")
    assert result["outcome"] == "at_target" and "is not safe while the running version serves" in result["warnings"][0]


def test_what_hypertables_refuse_is_known_before(database: str, scripts: Path) -> None:
    with session(database) as cursor:
        cursor.execute("insert into logs values (now(), 's', 'ERROR', null, 'm')")
    write(scripts, "a", 'op.execute("alter table logs add unique (service)"); op.execute("alter table logs add x int not null")')
    found = run(database, state="plan", alembic_ini=str(scripts / "alembic.ini"))["findings"]
    assert [item["rule"] for item in found if item["level"] == "fails"] == ["hypertable-unique-columns", "required-field-in-filled-table"]
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"), expand_only="ignore")
    assert error.result["outcome"] == "unchanged" and "partition" in error.message


def test_superuser_is_warned_about(database: str) -> None:
    assert "need no superuser" in run(database, state="shown", user="postgres")["warnings"][0]


# --- the way down


def test_way_back_without_data_needs_no_word(database: str) -> None:
    before = run(database)["before"]
    result = run(database, state="downgraded", revisions=before)
    assert (result["changed"], result["outcome"], result["after"], result["loss"]) == (True, "at_target", ["0001"], [])
    assert [item["revision"] for item in result["pending"]] == ["0004", "0003", "0002"]
    assert run(database, state="downgraded", revisions=before)["changed"] is False
    assert not exists(database, "signal_greeks")


def test_way_back_names_what_it_takes(database: str) -> None:
    run(database)
    with session(database) as cursor:
        cursor.execute("insert into logs values (now(), 's', 'ERROR', null, 'm', 'v2'), (now(), 's', 'ERROR', null, 'm', null)")
        cursor.execute("insert into signal_subscriptions (session, instrument, pod, subscribed_at) values (gen_random_uuid(), 'N', 'p', now())")
    lost = [
        {"table": "logs", "column": "version", "rows": 1, "revision": "0004"},
        {"table": "signal_subscriptions", "column": None, "rows": 1, "revision": "0004"},
    ]
    assert run(database, state="plan", revisions=["0001"])["loss"] == lost
    for word in ("", "1"):
        error = refused(database, state="downgraded", revisions=["0001"], accept_data_loss=word)
        assert "column logs.version with 1 rows; table signal_subscriptions with 1 rows" in error.message
        assert error.message.endswith("accept_data_loss=2") and error.result["loss"] == lost
    assert rows(database) == ["0004"]
    result = run(database, state="downgraded", revisions=["0001"], accept_data_loss="2")
    assert (result["outcome"], result["loss"]) == ("at_target", lost)
    with session(database) as cursor:
        cursor.execute("select count(*) from logs")
        assert cursor.fetchone() == (2,)


# --- the rehearsal


@pytest.fixture
def scratch(template: str) -> Iterator[str]:
    name = f"{template}_scratch"
    with session("postgres") as cursor:
        cursor.execute(f"create database {name} template {template} owner signal_owner")
    try:
        yield name
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")


def test_rehearsal_comes_first(database: str, scratch: str, tmp_path: Path) -> None:
    queries = tmp_path / "v1.sql"
    queries.write_text("select price from signal_ticks where instrument like 'N%';\ninsert into logs values (now(), 's', 'INFO', null, 'm')", encoding="utf-8")
    result = run(database, scratch_db=scratch, stable_queries=str(queries))
    assert result["outcome"] == "at_target"
    assert (result["rehearsed"]["database"], result["rehearsed"]["queries"], result["rehearsed"]["failed"]) == (scratch, 2, [])
    assert rows(scratch) == ["0004"]
    assert run(database, state="downgraded", revisions=["0001"], scratch_db=scratch)["outcome"] == "at_target"
    run(database)
    assert "expected 0004 as here" in refused(database, state="downgraded", revisions=["0001"], scratch_db=scratch).message


def test_failed_rehearsal_leaves_the_database_alone(database: str, scratch: str, scripts: Path) -> None:
    with session(scratch) as cursor:
        cursor.execute("create table once (id int)")
    write(scripts, "a", 'op.execute("create table once (id int)")')
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"), scratch_db=scratch)
    assert "the rehearsal failed, nothing was changed here" in error.message and "already exists" in error.message
    assert (rows(database), error.result["changed"]) == (["0001"], False)


def test_query_of_the_running_version_that_fails_afterwards_is_named(database: str, scratch: str, scripts: Path, tmp_path: Path) -> None:
    queries = tmp_path / "v1.sql"
    queries.write_text("select 1;\n\nselect error_type from logs;\n", encoding="utf-8")
    write(scripts, "a", 'op.execute("alter table logs drop column error_type")')
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"), expand_only="warn", scratch_db=scratch, stable_queries=str(queries))
    assert "1 of 2 queries of the running version fail" in error.message and 'line 3: column "error_type" does not exist' in error.message
    assert rows(database) == ["0001"]


# --- refused, nothing written


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("insert into alembic_version values ('0002')", "alembic_version has 2 rows (0001, 0002), expected 1 (0001 is an ancestor of 0002"),
        ("update alembic_version set version_num = '7777'", "at revision 7777, which the release does not have"),
        ("delete from alembic_version", "no revision is recorded"),
        ("drop table alembic_version", "no revision is recorded"),
    ],
)
def test_refused_state_of_the_database(database: str, change: str, says: str) -> None:
    with session(database) as cursor:
        cursor.execute(change)
    error = refused(database)
    assert says in error.message
    assert (error.result["outcome"], error.result["changed"], error.result["attempts"]) == (None, False, 0)
    assert says in run(database, state="shown")["problem"]


def test_two_heads_are_refused(database: str, scripts: Path) -> None:
    write(scripts, "a", "pass")
    write(scripts, "b", "pass")
    assert "2 heads (a, b), expected 1" in refused(database, alembic_ini=str(scripts / "alembic.ini")).message


def test_divergent_branch_is_refused(database: str, scripts: Path) -> None:
    write(scripts, "a", "pass")
    write(scripts, "b", "pass")
    write(scripts, "joined", "pass", ("a", "b"))
    ini = str(scripts / "alembic.ini")
    run(database, alembic_ini=ini, revision="a")
    assert "on another branch than b (they part after 0001)" in refused(database, alembic_ini=ini, revision="b").message


def test_two_scripts_with_one_id_are_refused(database: str, scripts: Path) -> None:
    write(scripts, "a", "pass")
    shutil.copy(scripts / "versions/a.py", scripts / "versions/copy.py")
    assert "is present more than once" in refused(database, alembic_ini=str(scripts / "alembic.ini")).message


def test_script_that_does_not_load_is_named(database: str, scripts: Path) -> None:
    (scripts / "versions/broken.py").write_text("import no_such_library\n", encoding="utf-8")
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"))
    assert "No module named 'no_such_library'" in error.message and "name Alembic's own interpreter" in error.message


def test_pooler_is_refused(database: str) -> None:
    pooler = Pooler()
    pooler.start()
    error = refused(database, login_host="127.0.0.1", login_port=pooler.port, ssl_mode="disable")
    assert "goes through a pooler" in error.message


def test_script_that_goes_to_another_database_is_stopped(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("create table astray (id int)")')
    address = f"postgresql://signal_owner:{password('signal_owner')}@{HOST}:{PORT}/postgres"
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"), environment={"DATABASE_URL": address})
    assert "does not see the lock of this run" in error.message and "let env.py take its address" in error.message
    assert error.result["outcome"] == "unchanged"
    assert not exists("postgres", "astray") and not exists(database, "astray")


# --- locks


def test_blocker_is_named_and_nothing_changed(database: str) -> None:
    other = open_session(database, "signal_user")
    with other.cursor() as cursor:
        cursor.execute("select count(*) from logs")
        error = refused(database, lock_timeout=0.5, retries=1, user="signal_owner")
    pid = other.info.backend_pid
    other.close()
    assert (error.result["outcome"], error.result["changed"], error.result["attempts"]) == ("unchanged", False, 2)
    assert "LockNotAvailable" in error.message and f"process {pid} of signal_user" in error.message and "holds logs" in error.message
    assert [item["attempt"] for item in error.result["blockers"]] == [1, 2]
    assert rows(database) == ["0001"] and not exists(database, "signal_greeks")


def test_lock_that_becomes_free_is_waited_for(database: str) -> None:
    other = open_session(database, "signal_user")
    with other.cursor() as cursor:
        cursor.execute("select count(*) from logs")
    context = Context(progress=lambda text: other.close() if "attempt 2 in" in text else None)
    result = run(database, context, lock_timeout=0.3, retries=10, retry_delay=0.3)
    assert result["outcome"] == "at_target" and result["attempts"] > 1 and result["blockers"]


def test_of_two_runs_one_migrates(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("create table once (id int)"); op.execute("select pg_sleep(1.5)")')
    answers: list[Any] = []

    def one() -> None:
        try:
            answers.append(run(database, alembic_ini=str(scripts / "alembic.ini")))
        except RolloutError as error:
            answers.append(error)

    threads = [threading.Thread(target=one) for _number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [answer for answer in answers if isinstance(answer, RolloutError)]
    assert len(errors) == 2 and [answer["outcome"] for answer in answers if isinstance(answer, dict)] == ["at_target"]
    for error in errors:
        assert "another run migrates this database (process" in error.message and error.result["locked_by"]


# --- failures


def test_failing_script_leaves_nothing(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("create table half (id int)"); op.execute("select 1/0")')
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"))
    assert "DivisionByZero: division by zero (at: select 1/0)" in error.message and "unchanged, at revision 0001" in error.message
    assert (error.result["outcome"], error.result["changed"], error.result["objects"]) == ("unchanged", False, [])


def test_what_was_committed_before_a_failure_is_named(database: str, scripts: Path) -> None:
    body = (
        'op.execute("create table pairs (a int)"); op.execute("insert into pairs values (1), (1)")\n'
        "    with op.get_context().autocommit_block():\n"
        '        op.execute("create unique index concurrently pairs_a on pairs (a)")'
    )
    write(scripts, "a", body)
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"))
    assert (error.result["outcome"], error.result["changed"], error.result["after"]) == ("indeterminate", True, ["0001"])
    assert error.result["objects"] == ["created index public.pairs_a", "created table public.pairs"]
    assert error.result["invalid_indexes"] == [{"name": "pairs_a", "table": "pairs"}]
    assert "invalid indexes: pairs_a" in error.message and "undo by hand what is half done" in error.message


def test_slow_statement_is_ended(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("select pg_sleep(90)")')
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"), statement_timeout=1, lock_timeout=1, expand_only="ignore")
    assert "statement timeout" in error.message and error.result["attempts"] == 1


def test_run_that_takes_too_long_is_ended(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("select pg_sleep(90)")')
    for seconds in (8, 16, 32, 64):
        error = refused(database, alembic_ini=str(scripts / "alembic.ini"), timeout=seconds, expand_only="ignore")
        assert "the time given by timeout is over" in error.message
        # On a machine that is slow just now it was over before the scripts began.
        if error.result["attempts"]:
            break
    assert (error.result["attempts"], error.result["outcome"]) == (1, "unchanged"), error.message
    assert migrating(database) == [] and rows(database) == ["0001"]


def test_interruption_ends_the_scripts(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("create table half (id int)"); op.execute("select pg_sleep(90)")')
    context = Context()
    threading.Thread(target=lambda: (wait_until("asleep", lambda: sleeping(database)), context.interrupt("SIGTERM"))).start()
    error = refused(database, context, alembic_ini=str(scripts / "alembic.ini"))
    assert "interrupted by SIGTERM" in error.message and error.result["outcome"] == "unchanged"
    assert migrating(database) == [] and not exists(database, "half")


def test_lost_lock_stops_the_scripts(database: str, scripts: Path) -> None:
    write(scripts, "a", 'op.execute("create table half (id int)"); op.execute("select pg_sleep(90)")')

    def cut() -> None:
        wait_until("asleep", lambda: sleeping(database))
        with session("postgres") as cursor:
            cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'signal.rollout schema_migration'")

    thread = threading.Thread(target=cut)
    thread.start()
    error = refused(database, alembic_ini=str(scripts / "alembic.ini"))
    thread.join()
    assert "the session that holds the lock of this run was lost" in error.message
    assert error.result["outcome"] == "unchanged" and migrating(database) == [] and not exists(database, "half")


def test_killed_run_leaves_nothing_running_and_can_be_repeated(database: str, scripts: Path, tmp_path: Path) -> None:
    write(scripts, "a", 'op.execute("create table half (id int)"); op.execute("select pg_sleep(3)")')
    ini = str(scripts / "alembic.ini")
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os\n"
        "from ansible_collections.signal.rollout.plugins.module_utils import _schema_migration as sm\n"
        "from ansible_collections.signal.rollout.plugins.module_utils._context import Context\n"
        "sm.run(json.loads(os.environ['PARAMETERS']), Context())\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PARAMETERS": json.dumps(options(database, alembic_ini=ini))}
    child = subprocess.Popen([sys.executable, str(program)], env=environment)
    wait_until("asleep", lambda: sleeping(database))
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_until("its session has ended", lambda: migrating(database) == [], 3)
    assert rows(database) == ["0001"] and not exists(database, "half")
    assert run(database, alembic_ini=ini)["outcome"] == "at_target"
