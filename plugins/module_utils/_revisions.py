# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The revisions of a release, and whether a database may go from one to another. Private to this collection. Pure.

Alembic itself runs a migration from states that it makes worse: with two rows in alembic_version of which one is the other's
ancestor it shows one, and a relative downgrade drops what the rows do not stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

HEAD = "head"
BASE = "base"
_SHOWN = 12


@dataclass(frozen=True)
class Revision:
    """One migration script: its id, the ids it follows (``down`` and ``depends_on``), its first line."""

    id: str
    down: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    title: str = ""

    @property
    def parents(self) -> tuple[str, ...]:
        return (*self.down, *self.depends_on)


@dataclass(frozen=True)
class Way:
    """What must be run: the revisions in the order in which they are applied or undone; none when nothing is pending."""

    before: str | None
    target: str | None
    steps: tuple[Revision, ...] = field(default=())


class Graph:
    """The release's revisions by id."""

    def __init__(self, revisions: Iterable[Revision]) -> None:
        self.revisions = {revision.id: revision for revision in revisions}
        followed = {parent for revision in self.revisions.values() for parent in revision.down}
        self.heads = sorted(name for name in self.revisions if name not in followed)

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> Graph:
        """Build it from what the child process has read."""
        return cls(Revision(entry["id"], tuple(entry["down"]), tuple(entry["depends_on"]), entry["title"]) for entry in entries)

    def ancestry(self, name: str) -> set[str]:
        """Return ``name`` and everything it stands on."""
        found: set[str] = set()
        left = [name]
        while left:
            current = left.pop()
            if current not in found and current in self.revisions:
                found.add(current)
                left += self.revisions[current].parents
        return found

    def ordered(self, names: set[str]) -> list[Revision]:
        """Return ``names`` with parents before children; ties by id."""
        done: list[str] = []
        left = sorted(names)
        while left:
            ready = [name for name in left if not any(parent in left for parent in self.revisions[name].parents)]
            done += ready
            left = [name for name in left if name not in ready]
        return [self.revisions[name] for name in done]

    def listed(self) -> str:
        names = [revision.id for revision in self.ordered(set(self.revisions))]
        return ", ".join(names if len(names) <= _SHOWN else ["...", *names[-_SHOWN:]]) or "none"


def current(graph: Graph, rows: Sequence[str], from_base: bool, database: str) -> str | None:
    """Return the revision that the database is at; None for an empty one with ``from_base``.

    Raises :class:`RolloutError` for a state that no migration may start from.
    """
    if len(graph.heads) != 1:
        seen = f"{len(graph.heads)} heads ({', '.join(graph.heads)})" if graph.heads else "no revision"
        raise RolloutError(f"The release's migrations have {seen}, expected 1. Next: join them (alembic merge heads) and release again")
    if len(rows) > 1:
        raise RolloutError(
            f"{database}: alembic_version has {len(rows)} rows ({', '.join(rows)}), expected 1{_explained(graph, rows)}. "
            "Next: find out which revision the tables are at, and delete the other rows"
        )
    if not rows:
        if from_base:
            return None
        raise RolloutError(
            f"{database}: no revision is recorded (alembic_version is missing or empty), expected one of {graph.listed()}. "
            "Next: check login_db; set from_base=true for a database that is new, or record where it stands (alembic stamp)"
        )
    if rows[0] not in graph.revisions:
        raise RolloutError(
            f"{database}: it is at revision {rows[0]}, which the release does not have; expected one of {graph.listed()}. "
            "Next: check that alembic_ini belongs to a release at least as new as the one that migrated this database"
        )
    return rows[0]


def _explained(graph: Graph, rows: Sequence[str]) -> str:
    for row in rows:
        for other in rows:
            if row != other and row in graph.ancestry(other):
                return f" ({row} is an ancestor of {other}: a restore into a database that had data leaves that)"
    return ""


def upgrade(graph: Graph, before: str | None, wanted: str, database: str) -> Way:
    """Return the way up to ``wanted`` (an id, or ``head``); raises :class:`RolloutError` where that is no way up."""
    target = graph.heads[0] if wanted == HEAD else wanted
    _known(graph, target, "revision")
    if before is not None and before not in graph.ancestry(target):
        if target in graph.ancestry(before):
            raise RolloutError(
                f"{database}: it is at revision {before}, newer than {target}. Next: upgrade to {graph.heads[0]}, or go back with state=downgraded"
            )
        raise _divergent(graph, before, target, database)
    held = graph.ancestry(before) if before is not None else set()
    return Way(before, target, tuple(graph.ordered(graph.ancestry(target) - held)))


def downgrade(graph: Graph, before: str | None, wanted: Sequence[str], database: str) -> Way:
    """Return the way down to the recorded set; raises :class:`RolloutError` where that is no way down."""
    if len(wanted) != 1:
        raise RolloutError(
            f"revisions names {len(wanted)} revisions ({', '.join(wanted) or 'none'}), expected the one that was recorded before the migration "
            f"('{BASE}' for none)"
        )
    target = None if wanted[0] == BASE else wanted[0]
    if target is not None:
        _known(graph, target, "revisions")
    if before == target:
        return Way(before, target)
    held = graph.ancestry(before) if before is not None else set()
    if target is not None and target not in held:
        if before is None or before in graph.ancestry(target):
            raise RolloutError(
                f"{database}: it is at revision {before or BASE}, older than {target}; there is nothing to go back from. Next: use state=upgraded"
            )
        raise _divergent(graph, before, target, database)
    kept = graph.ancestry(target) if target is not None else set()
    return Way(before, target, tuple(reversed(graph.ordered(held - kept))))


def _known(graph: Graph, name: str, option: str) -> None:
    if name not in graph.revisions:
        raise RolloutError(f"{option} is {name}, which the release does not have; expected one of {graph.listed()}")


def _divergent(graph: Graph, before: str, target: str, database: str) -> RolloutError:
    shared = graph.ordered(graph.ancestry(before) & graph.ancestry(target))
    return RolloutError(
        f"{database}: it is at revision {before}, which is on another branch than {target} "
        f"(they part after {shared[-1].id if shared else BASE}). Next: release migrations that follow {before}"
    )
