# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running version's own queries, tried on a migrated scratch database. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import pglast
except ImportError:
    pglast = None

_SECONDS = 30


def statements(text: str) -> list[tuple[int, str]]:
    """Return each statement of a file with the number of its line; raises :class:`RolloutError` for text that cannot be parsed."""
    require("pglast", pglast)
    try:
        parsed = pglast.parse_sql(text)
    except pglast.parser.ParseError as error:
        raise RolloutError(f"stable_queries cannot be parsed: {one_line(error)}. Next: give values for parameters, and SQL only") from None
    found = []
    for raw in parsed:
        end = raw.stmt_location + (raw.stmt_len or len(text))
        found.append((text.count("\n", 0, raw.stmt_location) + 1, text[raw.stmt_location : end].strip()))
    return found


def failures(params: Mapping[str, Any], path: str) -> tuple[list[str], int]:
    """Run each statement of the file in a transaction of its own that is rolled back; return what failed and how many there were."""
    queries = statements(Path(path).read_text(encoding="utf-8"))
    session = _postgresql.connect(params, _SECONDS, "signal.rollout stable_queries")
    failed = []
    try:
        for line, query in queries:
            session.restart(read_only=False)
            session.rows(f"SET LOCAL statement_timeout = '{_SECONDS}s'")
            try:
                # A per cent sign would begin a parameter.
                session.raw_rows(query.replace("%", "%%"))
            except _postgresql.psycopg2.Error as error:
                failed.append(f"line {line}: {one_line(str(error).splitlines()[0] if str(error) else error, 200)}")
    finally:
        session.close()
    return failed, len(queries)
