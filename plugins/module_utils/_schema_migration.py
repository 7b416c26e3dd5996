# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of schema_migration: one run at a time, short waits for locks, and a certain answer about where it ended."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _alembic,
    _data_loss,
    _ddl_locks,
    _expand_only,
    _postgresql,
    _restore_tools,
    _revisions,
    _scratch,
)
from ansible_collections.signal.rollout.plugins.module_utils import _stable_queries as _stable
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._schema_state import (
    COUNTED,
    FENCE_STATEMENT,
    SchemaState,
    blocker_words,
    differences,
)

AT_TARGET = "at_target"
UNCHANGED = "unchanged"
INDETERMINATE = "indeterminate"

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_postgresql.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": ["shown", "plan", "rehearsed", "upgraded", "downgraded"]},
    "alembic_ini": {"type": "path", "required": True},
    "alembic_command": {"type": "str"},
    "python": {"type": "path"},
    "environment": {"type": "dict", "default": {}},
    "revision": {"type": "str", "default": "head"},
    "revisions": {"type": "list", "elements": "str", "default": []},
    "accept_data_loss": {"type": "str", "default": ""},
    "scratch_db": {"type": "str"},
    "stable_queries": {"type": "path"},
    "backup": {"type": "path"},
    "client_dir": {"type": "path"},
    "scratch_login_user": {"type": "str"},
    "scratch_login_password": {"type": "str", "no_log": True},
    "scratch_login_db": {"type": "str", "default": "postgres"},
    "version_table": {"type": "str", "default": "alembic_version"},
    "from_base": {"type": "bool", "default": False},
    "expand_only": {"type": "str", "default": "refuse", "choices": ["refuse", "warn", "ignore"]},
    "lock_timeout": {"type": "float", "default": 1.0},
    "statement_timeout": {"type": "float", "default": 600.0},
    "timeout": {"type": "float", "default": 1800.0},
    "retries": {"type": "int", "default": 9},
    "retry_delay": {"type": "float", "default": 5.0},
}
SPEC_RULES = {
    "mutually_exclusive": [("alembic_command", "python")],
    "required_if": [
        ("state", "downgraded", ("revisions",)),
        ("state", "rehearsed", ("backup", "scratch_login_user", "scratch_login_password")),
    ],
}

_QUERY_SECONDS = 30.0
_LONGEST_PAUSE = 60.0
# Lock not available, deadlock detected: what somebody else's transaction has caused and its end cures.
_RETRYABLE = ("55P03", "40P01")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_WORD = re.compile(r"(?i)(yes|true|no|false|[0-9]{1,12})?")
_RANGES = {"lock_timeout": (0.01, 60.0), "statement_timeout": (0.1, 86400.0), "timeout": (1.0, 86400.0), "retry_delay": (0.0, 600.0), "retries": (0, 100)}


def option_problems(params: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options, one sentence each. Nothing is contacted."""
    problems = _postgresql.option_problems(params)
    if not os.path.isfile(params["alembic_ini"]):
        problems.append(f"alembic_ini is '{params['alembic_ini']}', expected an existing file")
    if not _NAME.fullmatch(params["version_table"]):
        problems.append(f"version_table is '{params['version_table']}', expected a table's name, with its schema or without")
    for name, (low, high) in _RANGES.items():
        if not low <= params[name] <= high:
            problems.append(f"{name} is {params[name]:g}, expected {low:g} to {high:g}")
    if params["scratch_db"] is not None and params["scratch_db"] == params["login_db"]:
        problems.append("scratch_db is login_db, expected another database, restored from it")
    if params["state"] == "rehearsed" and params["scratch_db"] is not None:
        problems.append("scratch_db is given with state rehearsed, which restores backup into a database of its own")
    if params["stable_queries"] is not None and params["scratch_db"] is None and params["state"] != "rehearsed":
        problems.append("stable_queries needs scratch_db or state rehearsed, expected a migrated copy to try them on")
    if params["stable_queries"] is not None and not os.path.isfile(params["stable_queries"]):
        problems.append(f"stable_queries is '{params['stable_queries']}', expected an existing file")
    if not _WORD.fullmatch(params["accept_data_loss"]):
        problems.append(f"accept_data_loss is '{params['accept_data_loss']}', expected yes, a number of rows, or nothing")
    if params["lock_timeout"] > params["statement_timeout"]:
        problems.append("lock_timeout is longer than statement_timeout, so that a wait for a lock could not be told from a slow statement")
    return problems


def run(params: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Bring the database to a revision, or say how it stands.

    Raises :class:`RolloutError`, with all keys of the result, when nothing may be done or it did not get there.
    """
    migration = Migration(params, context)
    try:
        migration.run()
    except RolloutError as error:
        error.result = {**migration.result(), **error.result}
        if params["state"] == "rehearsed":
            error.result["proofs"] = rehearsal_proofs(error.result, one_line(error.message))
        raise
    finally:
        migration.close()
    if params["state"] == "rehearsed":
        return {**migration.result(), "proofs": rehearsal_proofs(migration.result(), "")}
    return migration.result()


def rehearsal_proofs(result: Mapping[str, Any], failure: str) -> dict[str, dict[str, str]]:
    """Return what a rehearsal proves of the checklist. One that has not come to the copy proves and refutes nothing. Pure."""
    seen = result["rehearsed"]
    proofs: dict[str, dict[str, str]] = {}
    if seen and seen.get("backup"):
        line = f"{seen['backup']} restored and compared: {seen['tables']} tables, {seen['rows']} rows"
        proofs["infrastructure.backups"] = {"state": "proven", "evidence": line}
    if failure:
        if result["pending"]:
            proofs["infrastructure.migrations_tested"] = {"state": "failed", "evidence": failure}
    elif seen:
        steps = ", ".join(step["revision"] for step in result["pending"])
        line = f"{steps} on a restored copy in {seen['seconds']} s, {seen['queries']} queries of the running version pass"
        proofs["infrastructure.migrations_tested"] = {"state": "proven", "evidence": one_line(line)}
    elif result["outcome"] == AT_TARGET:
        proofs["infrastructure.migrations_tested"] = {"state": "not_needed", "evidence": f"nothing is pending at {', '.join(result['before'])}"}
    return proofs


def limits(params: Mapping[str, Any], version: int) -> list[tuple[str, str]]:
    """Return the settings of a migrating session, as far as a server of ``version`` knows them."""
    settings = [
        ("lock_timeout", f"{params['lock_timeout'] * 1000:.0f}ms"),
        ("statement_timeout", f"{params['statement_timeout'] * 1000:.0f}ms"),
        ("idle_in_transaction_session_timeout", "60s"),
    ]
    # The server ends a statement whose client died, instead of finishing and committing it unseen.
    return [*settings, ("client_connection_check_interval", "1s")] if version >= 140000 else settings


def pause(delay: float, attempt: int) -> float:
    """Return how long to wait after failed attempt number ``attempt`` (from 1): doubled each time, a minute at most."""
    return min(delay * 2 ** min(attempt - 1, 16), max(delay, _LONGEST_PAUSE))


def accepted(word: str, rows: int, certain: bool) -> bool:
    """Return whether ``word`` (accept_data_loss) covers a loss of ``rows``; one that could not be counted takes a yes."""
    given = _data_loss.acceptance(word) or _data_loss.Acceptance()
    return given.everything or (certain and rows <= given.rows)


def outcome_of(target: Sequence[str], before: Sequence[str], after: Sequence[str], changes: Sequence[str], alive: Sequence[int]) -> str:
    """Return where a run has ended, by what the database itself holds."""
    if alive:
        return INDETERMINATE
    if list(after) == list(target):
        return AT_TARGET
    return UNCHANGED if list(after) == list(before) and not changes else INDETERMINATE


def loss_words(item: Mapping[str, Any]) -> str:
    """Say what one statement of a downgrade takes away."""
    if item["table"] is None:
        return f"{item['revision']}: a statement whose effect is not known before it runs"
    what = f"column {item['table']}.{item['column']}" if item["column"] else f"table {item['table']}"
    rows = "an unknown number of" if item["rows"] is None else f"{'at least ' if item['rows'] >= COUNTED else ''}{item['rows']}"
    return f"{what} with {rows} rows"


class Migration:
    """One call of the module."""

    def __init__(self, params: Mapping[str, Any], context: Context) -> None:
        self._params = params
        self._context = context
        self._started = time.monotonic()
        self._deadline = self._started + params["timeout"]
        self._state: SchemaState | None = None
        self._processes: list[int] = []
        self._limits: list[tuple[str, str]] = []
        self._result: dict[str, Any] = {
            "changed": False, "outcome": None, "before": [], "after": [], "heads": [], "pending": [], "problem": None,
            "statements": [], "findings": [], "loss": [], "rehearsed": None, "attempts": 0, "blockers": [], "objects": [],
            "invalid_indexes": [], "locked_by": [], "warnings": [],
        }  # fmt: skip

    @property
    def _name(self) -> str:
        return _postgresql.address(self._params)

    def result(self) -> dict[str, Any]:
        return {**self._result, "seconds": round(time.monotonic() - self._started, 3)}

    def close(self) -> None:
        if self._state:
            self._state.session.close()

    @property
    def _down(self) -> bool:
        return self._params["state"] == "downgraded" or bool(self._params["revisions"])

    @property
    def _live(self) -> SchemaState:
        if self._state is None:
            raise AssertionError("no session was opened")
        return self._state

    def _connected(self) -> SchemaState:
        self.close()
        session = _postgresql.connect_committing(self._params, _QUERY_SECONDS, "signal.rollout schema_migration")
        self._state = SchemaState(session, self._params["version_table"])
        session.rows("SELECT set_config('statement_timeout', %s, false)", [f"{_QUERY_SECONDS:.0f}s"])
        return self._state

    def run(self) -> None:
        problems = option_problems(self._params)
        if problems:
            raise RolloutError(f"schema_migration cannot use its options: {'; '.join(problems)}")
        state = self._connected()
        server = state.server()
        if server.superuser:
            self._result["warnings"].append(f"{self._name}: migrations need no superuser. Next: use the role that owns the schema")
        self._limits = limits(self._params, server.version)
        alembic = self._alembic()
        graph = _revisions.Graph.of(alembic.revisions(self._deadline))
        rows = state.revisions()
        self._result.update(before=rows, after=rows, heads=graph.heads, invalid_indexes=state.invalid_indexes())
        if self._params["state"] == "shown":
            self._show(graph, rows)
            return
        way = self._way(graph, rows)
        self._note(way)
        if not way.steps:
            self._result["outcome"] = AT_TARGET
            return
        planned = self._params["state"] == "plan"
        if planned or self._context.check_mode or self._down or self._params["expand_only"] != "ignore":
            self._plan(state, alembic, way, server.version)
        if planned:
            return
        self._refuse()
        if self._context.check_mode:
            self._result["changed"] = self._params["state"] != "rehearsed"
            return
        if self._params["state"] == "rehearsed":
            self._rehearse_restored(rows)
            return
        if self._params["scratch_db"]:
            self._rehearse(rows, self._params["scratch_db"])
        self._migrate(state, alembic, graph)

    def _alembic(self) -> _alembic.Alembic:
        python = _alembic.interpreter(self._params["python"], self._params["alembic_command"])
        options = " ".join(f"-c {name}={value}" for name, value in self._limits)
        return _alembic.Alembic(python, os.path.abspath(self._params["alembic_ini"]), _alembic.environment(self._params, options), self._context)

    def _show(self, graph: _revisions.Graph, rows: Sequence[str]) -> None:
        try:
            self._note(self._way(graph, rows))
        except RolloutError as error:
            self._result["problem"] = error.message

    def _way(self, graph: _revisions.Graph, rows: Sequence[str]) -> _revisions.Way:
        before = _revisions.current(graph, rows, self._params["from_base"], self._name)
        if self._down:
            return _revisions.downgrade(graph, before, self._params["revisions"], self._name)
        return _revisions.upgrade(graph, before, self._params["revision"], self._name)

    def _note(self, way: _revisions.Way) -> None:
        self._result["pending"] = [{"revision": step.id, "title": step.title} for step in way.steps]

    def _plan(self, state: SchemaState, alembic: _alembic.Alembic, way: _revisions.Way, version: int) -> None:
        """Note what each statement locks, and what the running version would not stand."""
        text = alembic.sql(self._direction, f"{way.before or _revisions.BASE}:{way.target or _revisions.BASE}", self._deadline)
        catalog = state.catalog()
        statements = _ddl_locks.analyse(text, catalog)
        self._result["statements"] = [statement.result(catalog) for statement in statements]
        if self._down:
            self._result["loss"] = self._losses(state, statements)
        elif self._params["expand_only"] != "ignore":
            violations = _expand_only.linted(text, version, self._deadline - time.monotonic())
            self._result["findings"] = _expand_only.findings(text, statements, violations, catalog)

    def _rehearse_restored(self, rows: Sequence[str]) -> None:
        """Rehearse on a copy that is restored for it and dropped afterwards. Nothing is changed in the live database."""
        superuser = {
            **self._params, "login_db": self._params["scratch_login_db"],
            "login_user": self._params["scratch_login_user"], "login_password": self._params["scratch_login_password"],
        }  # fmt: skip
        backup = _restore_tools.opened(self._params["backup"])
        if backup.manifest.inventory.database != self._params["login_db"]:
            raise RolloutError(
                f"{self._name}: {backup.path.name} is a backup of {backup.manifest.inventory.database}, expected one of {self._params['login_db']}. "
                "Next: name a backup of this database"
            )
        tools = _restore_tools.Tools(superuser, self._params["client_dir"], max(1.0, self._deadline - time.monotonic()))
        with _scratch.scratch_database(tools, backup, self._context) as name:
            # Who migrates owns the live database, and could not create anything in somebody else's.
            with contextlib.closing(_postgresql.connect_committing(superuser, _QUERY_SECONDS)) as session:
                _restore_tools.give(session, name, self._params["login_user"])
            restored = {"backup": backup.path.name, "tables": len(backup.manifest.inventory.tables), "rows": backup.manifest.inventory.rows}
            try:
                self._rehearse(rows, name)
            finally:
                # However the migration ends: that the backup can be restored is known by now.
                self._result["rehearsed"] = {"database": name, "seconds": None, "queries": 0, "failed": [], **(self._result["rehearsed"] or {}), **restored}

    def _rehearse(self, rows: Sequence[str], name: str) -> None:
        """Run the same on the scratch database first, and the running version's queries on what it has become."""
        changes = {
            "state": "upgraded" if self._params["state"] == "rehearsed" else self._params["state"],
            "login_db": name, "scratch_db": None, "stable_queries": None, "expand_only": "ignore", "accept_data_loss": "yes",
        }  # fmt: skip
        params = {**self._params, **changes, "timeout": max(1.0, self._deadline - time.monotonic())}
        migration = Migration(params, self._context)
        try:
            migration.run()
        except RolloutError as error:
            raise RolloutError(f"{self._name}: the rehearsal failed, nothing was changed here. {error.message}") from error
        finally:
            migration.close()
        seen = migration.result()
        if seen["before"] != list(rows):
            raise RolloutError(
                f"{self._name}: the rehearsal says nothing: {name} was at revision {', '.join(seen['before']) or 'none'}, "
                f"expected {', '.join(rows) or 'none'} as here. Next: restore a backup into it anew"
            )
        queries = self._params["stable_queries"]
        failed, count = _stable.failures(params, queries) if queries else ([], 0)
        self._result["rehearsed"] = {"database": name, "seconds": seen["seconds"], "queries": count, "failed": failed}
        if failed:
            raise RolloutError(
                f"{self._name}: {len(failed)} of {count} queries of the running version fail on the migrated schema ({name}); nothing was changed here. "
                f"{'; '.join(failed[:5])}. Next: split the migration, or correct {queries}"
            )

    @property
    def _direction(self) -> str:
        return "downgrade" if self._down else "upgrade"

    def _losses(self, state: SchemaState, statements: Sequence[_ddl_locks.Statement]) -> list[dict[str, Any]]:
        """Return what a downgrade takes away that holds something."""
        found: list[dict[str, Any]] = []
        for statement in statements:
            for table, column in statement.drops:
                rows = state.content(table, column)
                if rows != 0:
                    found.append({"table": table, "column": column, "rows": rows, "revision": statement.revision})
            if statement.opaque:
                found.append({"table": None, "column": None, "rows": None, "revision": statement.revision})
        return found

    def _refuse(self) -> None:
        if not self._down:
            self._refuse_breaking()
            return
        loss = self._result["loss"]
        certain = all(item["rows"] is not None and item["rows"] < COUNTED for item in loss)
        rows = sum(item["rows"] or 0 for item in loss)
        if accepted(self._params["accept_data_loss"], rows, certain):
            return
        shown = "; ".join(loss_words(item) for item in loss[:10])
        raise RolloutError(
            f"{self._name}: going back to {self._params['revisions'][0]} loses data; nothing was changed. {shown}. Next: leave the schema as it is "
            f"(the older version runs on it when the migration only added), or acknowledge this by accept_data_loss={rows if certain else 'yes'}"
        )

    def _refuse_breaking(self) -> None:
        why = _expand_only.refusal(self._result["findings"])
        if why is None:
            return
        if self._params["expand_only"] == "refuse":
            raise RolloutError(
                f"{self._name}: the migration is not safe while the running version serves; nothing was changed. {why}. "
                "Next: split it (add now, remove with the next release), or set expand_only=warn when the running version stands it"
            )
        self._result["warnings"].append(f"{self._name}: the migration is not safe while the running version serves: {why}")

    def _migrate(self, state: SchemaState, alembic: _alembic.Alembic, graph: _revisions.Graph) -> None:
        state.take_lock()
        # Another run may have migrated between the first look and the lock.
        rows = state.revisions()
        way = self._way(graph, rows)
        self._note(way)
        self._result.update(before=rows, after=rows)
        if not way.steps:
            self._result["outcome"] = AT_TARGET
            return
        before = state.objects()
        invalid = {index["name"] for index in state.invalid_indexes()}
        along = {(step.id,) for step in way.steps} | {tuple(rows)}
        while True:
            self._result["attempts"] += 1
            ended = self._attempt(alembic, way)
            self._settle(way, before)
            if self._result["outcome"] == AT_TARGET:
                self._arrived(ended, invalid)
                return
            lost = self._state is not state
            again = ended.sqlstate in _RETRYABLE and not ended.stopped and not lost and tuple(self._result["after"]) in along
            if not again or self._result["attempts"] > self._params["retries"] or not self._rest():
                raise self._failed(ended, way)

    def _attempt(self, alembic: _alembic.Alembic, way: _revisions.Way) -> _alembic.Ended:
        order = {
            "action": "migrate",
            "direction": self._direction,
            "target": way.target or _revisions.BASE,
            "look": self._live.look_statement(),
            "fence": FENCE_STATEMENT,
            "session": _alembic.session_statements(self._limits),
        }
        self._processes = []
        return alembic.run(order, self._deadline, self._seen, self._watch)

    def _seen(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "connected":
            self._processes.append(event["process"])
        elif event["event"] == "step" and event["text"].startswith("Running "):
            self._context.progress(f"{self._name}: {event['text']}")

    def _watch(self) -> str:
        """Note who is in the way; return why the run must stop when the session that holds its lock is gone."""
        try:
            found = self._live.blockers(self._processes)
        except RolloutError as error:
            return f"the session that holds the lock of this run was lost ({error.message})"
        known = {(item["attempt"], item["pid"], item["relation"]) for item in self._result["blockers"]}
        for item in found:
            if (self._result["attempts"], item["pid"], item["relation"]) not in known:
                self._result["blockers"].append({**item, "attempt": self._result["attempts"]})
                self._context.progress(f"{self._name}: attempt {self._result['attempts']} waits: {blocker_words(item)}")
        return ""

    def _settle(self, way: _revisions.Way, objects: Mapping[str, str]) -> None:
        """Read where the database stands, once the sessions of the child have ended."""
        target = [way.target] if way.target else []
        try:
            state = self._answering()
            alive = state.end_sessions(self._processes)
            after = state.revisions()
            changes = differences(objects, state.objects())
            self._result["invalid_indexes"] = state.invalid_indexes()
        except RolloutError as error:
            self._result.update(outcome=INDETERMINATE, after=[], objects=[f"unknown: {error.message}"], changed=True)
            return
        outcome = outcome_of(target, self._result["before"], after, changes, alive)
        noted = [*changes, *(f"still running: process {process}" for process in alive)]
        self._result.update(outcome=outcome, after=after, objects=[] if outcome == AT_TARGET else noted, changed=outcome != UNCHANGED)

    def _answering(self) -> SchemaState:
        """Return the session that holds the lock, or another one when that was lost."""
        try:
            self._live.session.rows("SELECT 1")
            return self._live
        except RolloutError:
            return self._connected()

    def _arrived(self, ended: _alembic.Ended, invalid: set[str]) -> None:
        if ended.code:
            self._result["warnings"].append(f"{self._name}: the migration is complete, though Alembic ended badly: {ended.stopped or ended.reason()}")
        left = [index["name"] for index in self._result["invalid_indexes"] if index["name"] not in invalid]
        if left:
            self._result["warnings"].append(f"{self._name}: the migration has left invalid indexes: {', '.join(left)}. Next: drop and build them again")

    def _rest(self) -> bool:
        """Wait before the next attempt; False when there is no time for it or the run is cancelled."""
        seconds = pause(self._params["retry_delay"], self._result["attempts"])
        if time.monotonic() + seconds >= self._deadline:
            return False
        self._context.progress(f"{self._name}: a lock was not free in time; attempt {self._result['attempts'] + 1} in {seconds:g} s")
        return not self._context.sleep(seconds)

    def _failed(self, ended: _alembic.Ended, way: _revisions.Way) -> RolloutError:
        result = self._result
        reason = ended.stopped or ("Alembic ended without an error" if not ended.code else ended.reason())
        attempts = f" after {result['attempts']} attempts" if result["attempts"] > 1 else ""
        last = [item for item in result["blockers"] if item["attempt"] == result["attempts"]]
        blocked = f". In the way: {'; '.join(blocker_words(item) for item in last)}" if ended.sqlstate in _RETRYABLE and last else ""
        stands = ", ".join(result["after"]) or "none"
        if result["outcome"] == UNCHANGED:
            state = f"The database is unchanged, at revision {stands}"
        else:
            shown = result["objects"][:10]
            more = f" and {len(result['objects']) - 10} more" if len(result["objects"]) > 10 else ""
            state = f"The state is indeterminate: revision {stands}, {', '.join(shown) or 'no other object'}{more}"
        bad = ", ".join(index["name"] for index in result["invalid_indexes"][:10])
        return RolloutError(
            f"{self._name}: the migration from {way.before or _revisions.BASE} to {way.target or _revisions.BASE} failed{attempts}: "
            f"{reason}{blocked}. {state}{f'; invalid indexes: {bad}' if bad else ''}. Next: {self._advice(ended, last)}"
        )

    def _advice(self, ended: _alembic.Ended, blockers: Sequence[Mapping[str, Any]]) -> str:
        if self._result["outcome"] == INDETERMINATE:
            return "compare these objects with the scripts, undo by hand what is half done, and run again"
        if ended.code == _alembic.FENCED:
            return "let env.py take its address from PGHOST, PGPORT, PGUSER and PGDATABASE, or set its variable by environment"
        pids = sorted({item["pid"] for item in blockers if item["pid"]})
        if ended.sqlstate in _RETRYABLE and pids:
            return f"let these transactions end (or SELECT pg_terminate_backend({pids[0]})) and run again, or raise retries"
        return "correct the cause and run again"
