# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared indexes brought into a database that is in use. Private to this collection.

Whether an index is there already is decided by PostgreSQL itself: each declared one is created on an empty temporary copy of its
table, read back as the server prints it, and rolled back. So two spellings of one index are equal, and whatever the server would
refuse is known before the first write.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _index_file, _index_state, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._index_state import Plan
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_postgresql.ARGUMENT_SPEC,
    "src": {"type": "path"},
    "indexes": {
        "type": "list",
        "elements": "dict",
        "options": {
            "table": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "definition": {"type": "str", "required": True},
            "unique": {"type": "bool", "default": False},
        },
    },
    "concurrently": {"type": "str", "default": "auto", "choices": ["auto", "never"]},
    "invalid": {"type": "str", "default": "rebuild", "choices": ["rebuild", "report"]},
    "lock_timeout": {"type": "float", "default": 1.0},
    "timeout": {"type": "float", "default": 1800.0},
    "retries": {"type": "int", "default": 9},
    "retry_delay": {"type": "float", "default": 5.0},
    "progress_interval": {"type": "float", "default": 10.0},
}
SPEC_RULES: dict[str, Any] = {"mutually_exclusive": [("src", "indexes")], "required_one_of": [("src", "indexes")]}
SUPPORTS_CHECK_MODE = True

_LOCK_KEY = int.from_bytes(hashlib.sha256(b"signal.rollout database_indexes").digest()[:8], "big", signed=True)
_LOCK = "SELECT pg_try_advisory_lock(%s) AS taken"
_LOCK_HOLDER = """
SELECT a.pid, a.usename AS role, a.client_addr::text AS address
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %s
"""
_LIMITS = "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)"
_WATCH = """
SELECT p.relid::regclass::text AS relation, p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
  (SELECT string_agg(format('process %%s of %%s (%%s, %%s)', b.pid, b.usename, b.application_name, b.state), '; ')
   FROM pg_stat_activity b WHERE b.pid = ANY (pg_blocking_pids(a.pid))) AS blockers
FROM (SELECT %s::int AS pid) a LEFT JOIN pg_stat_progress_create_index p USING (pid)
"""
_SAMPLE_SECONDS = 0.2
# lock_not_available and deadlock_detected: nothing is wrong with the index, it was only not its turn.
_BUSY = ("55P03", "40P01")
_HINTS = {
    "23505": "remove the duplicate rows",
    "53100": "make room on the server's disk",
    "42501": "use the role that owns the table",
}


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Create what is missing. Raises :class:`RolloutError`; what was done before the failure is in its result."""
    started = time.monotonic()
    result: dict[str, Any] = {"changed": False, "indexes": [], "leftovers": [], "passed_over": [], "seconds": 0.0}
    try:
        _check(params)
        declared, result["passed_over"] = _declared(params)
        with contextlib.closing(_postgresql.connect_committing(params, params["timeout"])) as session:
            session.refuse_pooler()
            run_of = _Run(params, context, session, result, started + params["timeout"])
            run_of.reach(declared)
    except RolloutError as error:
        result["seconds"] = round(time.monotonic() - started, 3)
        raise RolloutError(error.message, **result) from None
    result["seconds"] = round(time.monotonic() - started, 3)
    return result


def _check(params: Mapping[str, Any]) -> None:
    problems = [
        f"{name} is {params[name]:g}, expected {low:g} to {high:g}"
        for name, low, high in (
            ("lock_timeout", 0.01, 3600),
            ("timeout", 1, 604800),
            ("retries", 0, 1000),
            ("retry_delay", 0, 3600),
            ("progress_interval", 0.1, 3600),
        )
        if not low <= params[name] <= high
    ]
    if problems:
        raise RolloutError(f"database_indexes cannot use its options: {'; '.join(problems)}")


def _declared(params: Mapping[str, Any]) -> tuple[list[_index_file.Index], list[str]]:
    if params["indexes"] is not None:
        return _index_file.listed(params["indexes"]), []
    path = Path(params["src"])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RolloutError(f"database_indexes cannot read src {path}: {one_line(error)}. Next: give the path of a file of CREATE INDEX statements") from None
    return _index_file.parse(text, path.name)


class _Run:
    """One run: a session that builds, and the result that fills up."""

    def __init__(self, params: Mapping[str, Any], context: Context, session: Session, result: dict[str, Any], deadline: float) -> None:
        self.params = params
        self.context = context
        self.session = session
        self.result = result
        self.deadline = deadline
        self.blockers = ""

    def reach(self, declared: list[_index_file.Index]) -> None:
        """Plan, and outside check mode do what is planned."""
        self._limit()
        if self.context.check_mode:
            self._report(self._plan(declared))
            return
        with self._alone():
            plans = self._plan(declared)
            self._report(plans)
            for plan, entry in zip(plans, self.result["indexes"], strict=True):
                if plan.action != _index_state.UNCHANGED:
                    self._build(plan, entry)

    def _plan(self, declared: list[_index_file.Index]) -> list[Plan]:
        plans, leftovers, warnings = _index_state.planned(self.session, declared, concurrently=self.params["concurrently"] == "auto")
        self.result["leftovers"] = leftovers
        warnings += self.session.superuser_warning
        if warnings:
            self.result["warnings"] = warnings
        invalid = [plan for plan in plans if plan.action == _index_state.REBUILT]
        if invalid and self.params["invalid"] == "report":
            self.result["indexes"] = [plan.entry() for plan in plans]
            raise RolloutError(
                f"{self.session.name}: {len(invalid)} declared indexes are invalid: {', '.join(plan.shown for plan in invalid)}; "
                f"expected valid ones. Nothing was written. Next: run again with invalid=rebuild, or {invalid[0].drop}"
            )
        return plans

    def _report(self, plans: list[Plan]) -> None:
        self.result["indexes"] = [plan.entry() for plan in plans]
        self.result["changed"] = self.context.check_mode and any(plan.action != _index_state.UNCHANGED for plan in plans)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the advisory lock by which two runs on one database take turns.

        It is asked for again and again: a session that waited inside the server would hold up CREATE INDEX CONCURRENTLY.
        """
        told = 0.0
        while not self.session.rows(_LOCK, [_LOCK_KEY])[0]["taken"]:
            holder = next(iter(self.session.rows(_LOCK_HOLDER, [_LOCK_KEY])), None)
            shown = f"process {holder['pid']} of {holder['role']} from {holder['address'] or 'the server itself'}" if holder else "another session"
            if time.monotonic() >= self.deadline:
                raise RolloutError(
                    f"{self.session.name}: {shown} has been creating indexes here for longer than timeout. Nothing was written. Next: wait for it, or end it"
                )
            if time.monotonic() - told >= self.params["progress_interval"]:
                self.context.progress(f"Indexes: waiting for {shown}, which creates indexes here")
                told = time.monotonic()
            self._pause(_SAMPLE_SECONDS)
        yield

    def _build(self, plan: Plan, entry: dict[str, Any]) -> None:
        """Create one index, in as many tries as are allowed; leave no invalid one behind a failure if that can be helped."""
        started = time.monotonic()
        clear_first = plan.action == _index_state.REBUILT
        for attempt in range(1, self.params["retries"] + 2):
            entry["attempts"] = attempt
            try:
                if clear_first:
                    self._execute(plan, plan.drop)
                    self.result["changed"] = True
                self._execute(plan, plan.create)
                self.result["changed"] = True
                break
            except psycopg2.Error as error:
                clear_first = self._after_failure(plan, entry, error, attempt)
        entry.update(seconds=round(time.monotonic() - started, 3), valid=_index_state.is_valid(self.session, plan))
        if not entry["valid"]:
            raise RolloutError(f"{self.session.name}: {plan.shown} was created but is not valid. Next: run again; it is rebuilt then")

    def _after_failure(self, plan: Plan, entry: dict[str, Any], error: Any, attempt: int) -> bool:
        """Return whether the next try must drop an invalid index first; raise when there is no next one."""
        if self.session.closed:
            entry["valid"] = False
            raise RolloutError(
                f"{self.session.name}: the connection was lost while {plan.shown} was created. Next: run again; what is half done is found and rebuilt"
            ) from None
        valid = entry["valid"] = _index_state.is_valid(self.session, plan)
        if valid is not None:
            self.result["changed"] = True
        self._stop_if_over(plan, valid)
        if error.pgcode in _BUSY and attempt <= self.params["retries"]:
            self.context.progress(f"Indexes: {plan.shown}: {self._busy()}; try {attempt + 1} follows")
            self._pause(min(self.params["retry_delay"], max(0.0, self.deadline - time.monotonic())))
            self._stop_if_over(plan, valid)
            return valid is not None
        cleared = valid is not None and self._cleared(plan)
        if cleared:
            entry["valid"] = valid = None
        cause = self._busy() if error.pgcode in _BUSY else one_line((str(error).strip().splitlines() or ["no reason given"])[0])
        hint = _HINTS.get(error.pgcode or "", "end what holds the lock, or run at a quieter time" if error.pgcode in _BUSY else "see the server's log")
        raise RolloutError(
            f"{self.session.name}: {plan.shown} was not created after {attempt} {'try' if attempt == 1 else 'tries'}: {cause} "
            f"(SQLSTATE {error.pgcode or 'none'}). {_left(plan, valid)} Next: {hint}, and run again"
        ) from None

    def _busy(self) -> str:
        return f"the lock was not free within {self.params['lock_timeout']:g} s, held by {self.blockers or 'a session that had gone when it was asked for'}"

    def _cleared(self, plan: Plan) -> bool:
        try:
            self._execute(plan, plan.drop)
        except psycopg2.Error:
            return False
        return True

    def _stop_if_over(self, plan: Plan, valid: bool | None) -> None:
        if self.context.cancelled.is_set():
            raise RolloutError(f"{self.session.name}: interrupted while {plan.shown} was created. {_left(plan, valid)} Next: run again; it goes on there")
        if time.monotonic() >= self.deadline:
            raise RolloutError(
                f"{self.session.name}: {plan.shown} was not created within timeout ({self.params['timeout']:g} s). {_left(plan, valid)} "
                "Next: raise timeout and run again; it goes on there"
            )

    def _pause(self, seconds: float) -> None:
        if self.context.sleep(seconds):
            raise RolloutError(f"{self.session.name}: interrupted while it waited. Next: run again; it goes on there")

    def _limit(self) -> None:
        # A little more than is left, so that the deadline has passed for certain when the server stops a statement.
        left = max(0, int((self.deadline - time.monotonic()) * 1000)) + 50
        self.session.rows(_LIMITS, [f"{max(1, int(self.params['lock_timeout'] * 1000))}ms", f"{left}ms"])

    def _execute(self, plan: Plan, statement: str) -> None:
        """Run one statement in a thread, so that this one can watch it and stop it: libpq lets no signal in."""
        self._limit()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self.session.raw_rows(statement.replace("%", "%%"))
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=work, daemon=True)
        with contextlib.closing(_postgresql.connect_committing(self.params, self.params["connect_timeout"])) as watcher:
            self.blockers = ""
            told = time.monotonic()
            worker.start()
            while worker.is_alive():
                worker.join(_SAMPLE_SECONDS)
                if self.context.cancelled.is_set() or time.monotonic() >= self.deadline:
                    self.session.cancel()
                elif worker.is_alive():
                    told = self._look(watcher, plan, told)
        if failures:
            raise failures[0]

    def _look(self, watcher: Session, plan: Plan, told: float) -> float:
        """Note who blocks the statement, tell how far it is when it is time; return when that was last told."""
        try:
            seen = watcher.raw_rows(_WATCH, [self.session.process])[0]
        except psycopg2.Error:
            # Nothing depends on what is watched.
            return told
        self.blockers = seen["blockers"] or self.blockers
        if time.monotonic() - told < self.params["progress_interval"]:
            return told
        self.context.progress(f"Indexes: {plan.shown}: {progress(seen)}")
        return time.monotonic()


def progress(seen: Mapping[str, Any]) -> str:
    """Return one row of pg_stat_progress_create_index, with the sessions that are waited for, in words."""
    if seen["blockers"]:
        return f"waits for {seen['blockers']}"
    if not seen["phase"]:
        return "at work"
    done, total = (seen["blocks_done"], seen["blocks_total"]) if seen["blocks_total"] else (seen["tuples_done"], seen["tuples_total"])
    share = f", {100 * done // total} %" if total else ""
    return f"{seen['phase']} on {seen['relation']}{share}"


def _left(plan: Plan, valid: bool | None) -> str:
    if valid is None:
        return "It left nothing behind."
    return "The index is there and valid." if valid else f"It left an invalid index behind, which costs every write: {plan.drop}."
