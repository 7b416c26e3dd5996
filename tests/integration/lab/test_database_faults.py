# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_backup and schema_migration with a fault at some of the moments that tests/bench/database_faults.py goes through.

A trial compares what the run says with what is there, and runs again: its ``problems`` are what was not as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bench import database_faults as trials


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trials.Backups]:
    with trials.Backups(tmp_path_factory.mktemp("backups")) as subject:
        yield subject


@pytest.fixture(scope="module")
def migrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trials.Migrations]:
    with trials.Migrations(tmp_path_factory.mktemp("migrations")) as subject:
        yield subject


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trials.Migrations]:
    with trials.Migrations(tmp_path_factory.mktemp("halves"), halves=True) as subject:
        yield subject


@pytest.mark.parametrize(
    ("fault", "share"), [(trials.CUT, 0.1), (trials.ANSWER_LOST, 0.4), (trials.DOWN, 0.7), (trials.CUT_IN_DATA, 0.5), (trials.CUT_IN_DATA, 0.95)]
)
def test_a_backup_whose_connection_is_cut_leaves_the_one_before_and_the_next_works(backups: trials.Backups, fault: str, share: float) -> None:
    last = backups.bytes if fault == trials.CUT_IN_DATA else backups.messages
    trial = backups.cut(round(last * share), fault)
    assert (trial.said, trial.found, trial.late, trial.problems) == ("refused", "nothing new", False, [])


def test_a_backup_that_is_killed_between_any_two_requests_leaves_a_whole_one_and_the_next_works(backups: trials.Backups) -> None:
    done = [backups.kill(place) for place in trials.evenly(round(backups.messages * 0.9), 3)]
    assert [(trial.late, trial.problems) for trial in done] == [(False, [])] * 3


def test_a_backup_that_is_killed_while_it_gets_its_name_and_the_old_one_goes_leaves_a_whole_one(backups: trials.Backups) -> None:
    done = [backups.kill(place, trials.KILLED_AT_FILE) for place in range(backups.files - 8, backups.files + 1, 2)]
    assert [trial.problems for trial in done] == [[]] * 5
    # Both ends were seen: before the new one had its name, and after.
    assert len({"a.dump, " in f"{trial.found}, " for trial in done}) == 2


def test_a_backup_on_a_disk_that_gets_full_at_any_time_leaves_nothing_and_the_next_works(backups: trials.Backups) -> None:
    done = [backups.fill(size) for size in trials.evenly(backups.size - 4096, 3)]
    assert [(trial.said, trial.problems) for trial in done] == [("refused", [])] * 3


def test_a_backup_waits_for_no_writer_and_gives_way_to_who_holds_a_table_for_himself(backups: trials.Backups) -> None:
    assert [(trial.said, trial.problems) for trial in (backups.lock("tick", mode) for mode in ("exclusive", "access exclusive"))] == [
        ("made", []),
        ("refused", []),
    ]


@pytest.mark.parametrize(
    ("fault", "requests", "said"),
    [
        (trials.CUT, ("ALTER TABLE logs", "COMMIT"), "unchanged"),
        (trials.ANSWER_LOST, ("ALTER TABLE logs", "COMMIT"), "at_target"),
        (trials.DOWN, ("ALTER TABLE logs",), "indeterminate"),
    ],
)
def test_a_migration_whose_connection_is_cut_says_how_the_database_stands_and_the_next_completes(
    migrations: trials.Migrations, fault: str, requests: tuple[str, ...], said: str
) -> None:
    trial = migrations.cut(requests, fault)
    assert (trial.said, trial.late, trial.problems) == (said, False, [])


def test_a_migration_that_is_killed_leaves_all_or_nothing_and_the_next_completes(migrations: trials.Migrations) -> None:
    trial = migrations.kill(("ALTER TABLE logs",))
    assert (trial.found, trial.late, trial.problems) == ("as before", False, [])


def test_a_migration_that_a_reader_holds_up_is_unchanged_and_completes_when_he_has_gone(migrations: trials.Migrations) -> None:
    trial = migrations.lock("logs", "access share")
    assert (trial.said, trial.problems) == ("unchanged", [])


def test_what_a_migration_names_as_half_done_is_all_that_has_to_be_undone(halves: trials.Migrations) -> None:
    trial = halves.cut(("alter table halves",))
    assert (trial.said, trial.found, trial.problems) == ("indeterminate", "half done", [])
