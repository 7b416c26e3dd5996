# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _database_marks as marks
from ansible_collections.signal.rollout.plugins.module_utils import _restore_swap as swap
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

OLD = swap.Database(1, "signal", True, 50, "signal_owner", "the live one")
NEW = swap.Database(2, "signal_restore_20260102030405000", True, -1, "postgres", "")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
PLAN = swap.Swap("signal", OLD, NEW, marks.Mark(marks.SUPERSEDED, "signal", "abc"), "the live one", MOMENT)


def text_of(statement: Any) -> str:
    if isinstance(statement, str):
        return statement
    if hasattr(statement, "seq"):
        return "".join(text_of(part) for part in statement.seq)
    if hasattr(statement, "strings"):
        return ".".join(statement.strings)
    return str(getattr(statement, "string", getattr(statement, "wrapped", "")))


class Server:
    """Notes statements; answers a few of them; fails at the one that holds ``fails``."""

    name, process = "PostgreSQL here", 99

    def __init__(self, fails: str = "", answers: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self.seen: list[str] = []
        self.fails = fails
        self.answers = {
            "pg_current_snapshot": [{"base": "9:9:"}],
            "from pg_database d where not": [vars(OLD), vars(NEW)],
            **(answers or {}),
        }

    def rows(self, statement: Any, arguments: Any = ()) -> list[dict[str, Any]]:
        text = text_of(statement)
        self.seen.append(text)
        if self.fails and self.fails in text:
            raise RolloutError(f"{self.fails} failed")
        return next((rows for words, rows in self.answers.items() if words in text), [])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.seen.append("BEGIN")
        yield
        self.seen.append("COMMIT")

    def rollback(self) -> None:
        self.seen.append("ROLLBACK")

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap._postgresql, "connect", lambda params, timeout: Server())


def writes(server: Server) -> list[str]:
    return [text for text in server.seen if text.startswith(("alter", "comment", "BEGIN", "COMMIT"))]


def test_the_names_change_in_one_transaction_after_the_last_count() -> None:
    server, judged = Server(), []
    swap.perform(server, {}, PLAN, lambda session: judged.append(len(server.seen)), Context())
    seen = writes(server)
    assert seen[0] == "alter database signal with allow_connections false"
    assert judged and judged[0] < server.seen.index("BEGIN")
    inside = seen[seen.index("BEGIN") : seen.index("COMMIT")]
    assert "alter database signal rename to signal_before_20260102030405000" in inside
    assert "alter database signal_restore_20260102030405000 rename to signal" in inside
    assert "alter database signal with allow_connections true connection limit 50" in inside
    kept = next(text for text in inside if "signal.rollout" in text)
    mark = marks.decode(kept.split(" is ", 1)[1])
    assert mark and (mark.successor, mark.base, mark.comment, mark.connection_limit) == (2, "9:9:", "the live one", 50)
    assert seen[-1] == "COMMIT"


def test_a_refused_loss_opens_the_live_database_again() -> None:
    server = Server()

    def refuse(session: Any) -> None:
        raise RolloutError("129 rows")

    with pytest.raises(RolloutError, match="129 rows"):
        swap.perform(server, {}, PLAN, refuse, Context())
    assert writes(server)[-1] == "alter database signal with allow_connections true"
    assert "BEGIN" not in server.seen


def test_a_failing_rename_opens_the_live_database_again() -> None:
    server = Server(fails="rename to")
    with pytest.raises(RolloutError, match="rename to failed"):
        swap.perform(server, {}, PLAN, lambda session: None, Context())
    assert server.seen[-1] == "alter database signal with allow_connections true"


def test_a_lost_answer_to_the_commit_does_not_close_or_open_another_database() -> None:
    renamed = [{**vars(OLD), "name": "signal_before_20260102030405000"}, {**vars(NEW), "name": "signal"}]
    server = Server(fails="connection limit", answers={"from pg_database d where not": renamed})
    with pytest.raises(RolloutError):
        swap.perform(server, {}, PLAN, lambda session: None, Context())
    assert server.seen[-1] != "alter database signal with allow_connections true"


def test_an_interrupted_run_keeps_the_names() -> None:
    server, context = Server(), Context()
    context.interrupt("SIGTERM")
    with pytest.raises(RolloutError, match="SIGTERM"):
        swap.perform(server, {}, PLAN, lambda session: None, context)
    assert "BEGIN" not in server.seen


def test_prepared_transactions_are_refused_before_anything_is_closed() -> None:
    server = Server(answers={"pg_prepared_xacts": [{"?column?": 1}]})
    with pytest.raises(RolloutError, match="prepared transactions"):
        swap.perform(server, {}, PLAN, lambda session: None, Context())
    assert writes(server) == []


def test_a_second_restore_is_kept_out() -> None:
    server = Server(answers={"pg_try_advisory_lock": [{"got": False}]})
    with pytest.raises(RolloutError, match="another restore of signal is running"), swap.alone(server, "signal"):
        pass


@pytest.mark.parametrize(
    ("value", "items"),
    [('"$user", public', ["$user", "public"]), ('"a""b",c', ['a"b', "c"]), ("public", ["public"]), ('""', [""]), ("", [""])],
)
def test_a_list_setting_is_taken_apart_by_its_names(value: str, items: list[str]) -> None:
    assert swap.list_items(value) == items
