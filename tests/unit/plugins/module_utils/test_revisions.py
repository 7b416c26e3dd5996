# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way a database may go through a release's revisions."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _revisions
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._revisions import Graph, Revision

DB = "PostgreSQL db:5432/signal_db as signal_owner"
LINE = Graph([Revision("0001"), Revision("0002", ("0001",)), Revision("0003", ("0002",)), Revision("0004", ("0003",))])
# 0003 stands on 0002 and, by depends_on, on the side line's end.
BRANCHES = Graph([Revision("0001"), Revision("0002", ("0001",)), Revision("side", ("0001",)), Revision("0003", ("0002", "side"))])
FORK = Graph([Revision("0001"), Revision("a", ("0001",)), Revision("b", ("0001",))])


def ids(way: _revisions.Way) -> list[str]:
    return [step.id for step in way.steps]


def test_way_up_is_what_is_missing_in_order() -> None:
    way = _revisions.upgrade(LINE, "0001", "head", DB)
    assert (way.before, way.target, ids(way)) == ("0001", "0004", ["0002", "0003", "0004"])
    assert ids(_revisions.upgrade(LINE, None, "0002", DB)) == ["0001", "0002"]
    assert ids(_revisions.upgrade(LINE, "0004", "head", DB)) == []


def test_way_down_undoes_the_newest_first() -> None:
    assert ids(_revisions.downgrade(LINE, "0004", ["0001"], DB)) == ["0004", "0003", "0002"]
    assert ids(_revisions.downgrade(LINE, "0002", ["base"], DB)) == ["0002", "0001"]
    assert ids(_revisions.downgrade(LINE, "0002", ["0002"], DB)) == []


def test_joined_branches_are_passed_whole() -> None:
    assert ids(_revisions.upgrade(BRANCHES, "0002", "head", DB)) == ["side", "0003"]
    assert BRANCHES.heads == ["0003"]


def test_dependency_of_another_line_counts_as_held() -> None:
    graph = Graph([Revision("0001"), Revision("side"), Revision("0002", ("0001", "side")), Revision("0003", ("0002",), ("side",))])
    assert ids(_revisions.upgrade(graph, "0002", "head", DB)) == ["0003"]


@pytest.mark.parametrize(
    ("graph", "rows", "says"),
    [
        (FORK, ["0001"], "2 heads (a, b), expected 1"),
        (Graph([]), ["0001"], "have no revision, expected 1"),
        (LINE, ["0002", "0001"], "has 2 rows (0002, 0001), expected 1 (0001 is an ancestor of 0002"),
        (LINE, [], "no revision is recorded"),
        (LINE, ["9999"], "at revision 9999, which the release does not have; expected one of 0001, 0002, 0003, 0004"),
    ],
)
def test_states_that_no_migration_may_start_from(graph: Graph, rows: list[str], says: str) -> None:
    with pytest.raises(RolloutError) as failure:
        _revisions.current(graph, rows, False, DB)
    assert says in failure.value.message


def test_a_new_database_needs_the_word() -> None:
    assert _revisions.current(LINE, [], True, DB) is None
    assert _revisions.current(LINE, ["0003"], True, DB) == "0003"


@pytest.mark.parametrize(
    ("graph", "before", "wanted", "says"),
    [
        (LINE, "0001", "0009", "revision is 0009, which the release does not have"),
        (LINE, "0004", "0002", "at revision 0004, newer than 0002"),
        (BRANCHES, "side", "0002", "on another branch than 0002 (they part after 0001)"),
    ],
)
def test_no_way_up(graph: Graph, before: str, wanted: str, says: str) -> None:
    with pytest.raises(RolloutError) as failure:
        _revisions.upgrade(graph, before, wanted, DB)
    assert says in failure.value.message


@pytest.mark.parametrize(
    ("graph", "before", "wanted", "says"),
    [
        (LINE, "0004", [], "names 0 revisions (none), expected the one"),
        (LINE, "0004", ["0001", "0002"], "names 2 revisions (0001, 0002)"),
        (LINE, "0004", ["0009"], "revisions is 0009, which the release does not have"),
        (LINE, "0001", ["0002"], "at revision 0001, older than 0002"),
        (BRANCHES, "side", ["0002"], "on another branch"),
    ],
)
def test_no_way_down(graph: Graph, before: str, wanted: list[str], says: str) -> None:
    with pytest.raises(RolloutError) as failure:
        _revisions.downgrade(graph, before, wanted, DB)
    assert says in failure.value.message
