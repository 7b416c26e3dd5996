# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the running version is safe on the schema that a migration makes: our own rules, and those of squawk. Private to this collection."""

from __future__ import annotations

import bisect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._ddl_locks import BREAKS, FAILS, WARNS, Catalog, Statement
from ansible_collections.signal.rollout.plugins.module_utils._errors import MissingLibrary, RolloutError, one_line

# Rules of squawk by which the running version breaks; all others only warn.
_BREAKING = (
    "adding-not-nullable-field", "adding-required-field", "ban-drop-column", "ban-drop-database", "ban-drop-table", "ban-truncate-cascade",
    "changing-column-type", "disallowed-unique-constraint", "renaming-column", "renaming-table",
)  # fmt: skip
# Matters of taste, and what the session's limits, Alembic's transaction and its version table already take care of.
_IGNORED = (
    "ban-char-field", "identifier-too-long", "require-lock-timeout", "require-statement-timeout", "require-timeout-settings", "require-table-schema",
    "transaction-nesting",
)  # fmt: skip
_ORDER = (FAILS, BREAKS, WARNS)


def program() -> str:
    """Return squawk's path: beside our interpreter, where its package puts it, else on the PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "squawk")
    found = beside if os.access(beside, os.X_OK) else shutil.which("squawk")
    if not found:
        raise MissingLibrary("The linter 'squawk' is not installed where this task runs. Next: pip install squawk-cli, or set expand_only=ignore")
    return found


def linted(text: str, server_version: int, seconds: float) -> list[dict[str, Any]]:
    """Return what squawk says of a migration's SQL, as it says it."""
    command = [program(), "--reporter", "json", "--pg-version", f"{server_version // 10000}.{server_version % 10000}", "--assume-in-transaction"]
    try:
        done = subprocess.run(
            [*command, "--stdin-filepath", "migration.sql"], input=text.encode(), cwd="/", capture_output=True, timeout=max(1.0, seconds), check=False
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RolloutError(f"squawk gave no answer about the migration: {one_line(error)}. Next: set expand_only=ignore to do without it") from None
    if not isinstance(found, list):
        raise RolloutError(f"squawk's answer about the migration is not a list: {one_line(done.stdout, 100)}")
    return found


def findings(text: str, statements: Sequence[Statement], violations: Iterable[Mapping[str, Any]], catalog: Catalog) -> list[dict[str, Any]]:
    """Return all findings in one list, the worst first, each once, with the statement it is about."""
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    starts = [statement.position for statement in statements]
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for index, statement in enumerate(statements):
        for level, rule, message in statement.findings:
            found[index, rule] = _finding(level, rule, "signal.rollout", message, statement)
    for violation in violations:
        rule = violation["rule_name"]
        # A statement may begin after the comments that squawk counts to it, so its end is looked up.
        end = lines[min(violation["line_end"], len(lines) - 1)] + violation["column_end"]
        index = bisect.bisect_right(starts, end) - 1
        if index < 0 or rule in _IGNORED or rule.startswith("prefer-") or (index, rule) in found:
            continue
        statement = statements[index]
        if rule == "syntax-error" or not statement.locks or not _counts(rule, statement, catalog):
            continue
        level = BREAKS if rule in _BREAKING else WARNS
        help_text = f" {violation['help']}" if violation.get("help") else ""
        found[index, rule] = _finding(level, rule, "squawk", one_line(violation["message"] + help_text), statement)
    return [entry for _key, entry in sorted(found.items(), key=lambda item: (_ORDER.index(item[1]["level"]), item[0]))]


def _counts(rule: str, statement: Statement, catalog: Catalog) -> bool:
    """Whether a rule applies: its advice to build indexes concurrently is refused by hypertables."""
    return rule != "require-concurrent-index-creation" or not any(name in catalog.hypertables for name in statement.locks)


def _finding(level: str, rule: str, source: str, message: str, statement: Statement) -> dict[str, Any]:
    return {"level": level, "rule": rule, "source": source, "message": message, "revision": statement.revision, "sql": one_line(statement.sql)}


def refusal(found: Iterable[Mapping[str, Any]]) -> str | None:
    """Return why a migration must not be run while the old version serves; None when nothing speaks against it."""
    bad = [item for item in found if item["level"] in (FAILS, BREAKS)]
    if not bad:
        return None
    shown = "; ".join(f"{item['revision'] or 'no revision'}: {item['message']} ({item['rule']})" for item in bad[:5])
    return f"{shown}{f'; and {len(bad) - 5} more' if len(bad) > 5 else ''}"
