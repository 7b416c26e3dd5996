# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decisions of database_restore by the marks that earlier runs have left; the databases themselves are in the integration tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils import _database_marks as marks
from ansible_collections.signal.rollout.plugins.module_utils import _database_restore as restore
from ansible_collections.signal.rollout.plugins.module_utils import _loss_reading
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._data_loss import Acceptance, by_transaction
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._restore_swap import Database
from ansible_collections.signal.rollout.plugins.module_utils._restore_tools import Backup

LIVE = Database(5, "signal", True, -1, "signal_owner", "")
PARAMS: dict[str, Any] = {
    "target": "signal",
    "login_db": "postgres",
    "accept_data_loss": "",
    "state": "swapped",
    "client_dir": None,
    "timeout": 60.0,
    "jobs": 1,
    "decrypt": None,
}


def backup(snapshot: str = "100:100:", sha256: str = "abc") -> Backup:
    inventory = manifests.Inventory("signal", "17.6", "7", "UTF8", {}, ("0001",), {}, snapshot, ())
    return Backup(Path("signal.dump"), manifests.Manifest("signal.dump", "custom", "", 3, sha256, "", "17.6", inventory))


def marked(state: str, sha256: str, **fields: Any) -> Database:
    return Database(9, f"signal_{state}", True, -1, "postgres", marks.Mark(state, "signal", sha256, **fields).encoded())


def with_databases(monkeypatch: pytest.MonkeyPatch, *found: Database) -> restore.Restore:
    monkeypatch.setattr(restore._restore_swap, "databases", lambda session: list(found))
    return restore.Restore(PARAMS, Context(), None, Acceptance())  # type: ignore[arg-type]


def test_a_database_that_was_never_restored_is_told_by_the_backup_s_own_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_databases(monkeypatch, LIVE)._base(backup()) == "100:100:"


@pytest.mark.parametrize(
    ("snapshot", "sha256", "base"),
    [
        ("100:100:", "abc", ""),
        ("300:300:", "abc", "300:300:"),
        # It was taken back: its rows are the old ones again.
        ("100:100:", "", "100:100:"),
    ],
)
def test_a_restored_database_only_knows_the_backups_taken_since(monkeypatch: pytest.MonkeyPatch, snapshot: str, sha256: str, base: str) -> None:
    old = marked(marks.SUPERSEDED, sha256, successor=LIVE.oid, base="200:200:")
    assert with_databases(monkeypatch, LIVE, old)._base(backup(snapshot)) == base


def test_only_the_predecessor_of_the_live_database_makes_it_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = marked(marks.SUPERSEDED, "abc", successor=4)
    assert not with_databases(monkeypatch, LIVE, theirs)._already_swapped(backup())
    ours = marked(marks.SUPERSEDED, "abc", successor=LIVE.oid)
    assert with_databases(monkeypatch, LIVE, ours)._already_swapped(backup())
    assert not with_databases(monkeypatch, LIVE, ours)._already_swapped(backup(sha256="def"))


def test_a_closed_database_is_only_opened_for_a_swap_that_was_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = dataclasses.replace(LIVE, allowed=False)
    assert with_databases(monkeypatch, closed, marked(marks.VERIFIED, "abc"))._killed_while_closed(backup())
    assert not with_databases(monkeypatch, closed)._killed_while_closed(backup())
    with pytest.raises(RolloutError, match="takes no connections"):
        with_databases(monkeypatch, closed)._read_loss(backup(), True)


@pytest.mark.parametrize(("changes", "words"), [({"accept_data_loss": "some"}, "accept_data_loss is 'some'"), ({"login_db": "signal"}, "is the target")])
def test_contradictions_are_refused_before_anything_is_contacted(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RolloutError, match=words):
        restore.run({**PARAMS, **changes}, Context())


def test_only_a_database_without_one_old_row_counts_as_rewritten() -> None:
    new = by_transaction("public.a", 10, 10, 10, "")
    assert _loss_reading._rewritten([new, by_transaction("public.b", 5, 5, 5, "")])
    assert not _loss_reading._rewritten([new, by_transaction("public.b", 5, 4, 5, "")])
    # One table that a migration has rewritten is no restore.
    assert not _loss_reading._rewritten([new])
