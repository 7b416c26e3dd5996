# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module database_restore: goes back to a backup beside the live database, and swaps by name. Private to this collection."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _backup_store,
    _data_loss,
    _database_marks,
    _loss_reading,
    _postgresql,
    _restore_swap,
    _restore_tools,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._data_loss import Acceptance, Loss
from ansible_collections.signal.rollout.plugins.module_utils._database_marks import Mark
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session
from ansible_collections.signal.rollout.plugins.module_utils._restore_swap import Database
from ansible_collections.signal.rollout.plugins.module_utils._restore_tools import Backup, Tools

PLAN, PREPARED, SWAPPED, RETURNED, CLEANED = "plan", "prepared", "swapped", "returned", "cleaned"

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_postgresql.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": [PLAN, PREPARED, SWAPPED, RETURNED, CLEANED]},
    "src": {"type": "path"},
    "target": {"type": "str", "required": True},
    "accept_data_loss": {"type": "str", "default": ""},
    "owner": {"type": "str"},
    "jobs": {"type": "int", "default": 1},
    "client_dir": {"type": "path"},
    "timeout": {"type": "float", "default": 3600.0},
    "keep_old": {"type": "bool", "default": True},
    "decrypt": {"type": "dict", "options": {"identity_file": {"type": "path", "required": True}}},
}
SPEC_RULES: dict[str, Any] = {"required_if": [["state", PLAN, ["src"]], ["state", PREPARED, ["src"]], ["state", SWAPPED, ["src"]]]}
SUPPORTS_CHECK_MODE = True

_SILENCE_SECONDS = 30.0


class LossNotAccepted(RolloutError):
    """Rows would be lost that nobody has given up. Nothing was changed."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Bring the databases into ``state``. Returns ``changed, state, loss, databases, compared, next``."""
    accepted = _data_loss.acceptance(params["accept_data_loss"])
    if accepted is None:
        raise RolloutError(f"accept_data_loss is '{params['accept_data_loss']}', expected nothing, yes, or the most rows that may be lost")
    if params["target"] == params["login_db"]:
        raise RolloutError(f"login_db is the target {params['target']} itself, expected another database such as postgres: it is renamed")
    session = _postgresql.connect_committing(params, _SILENCE_SECONDS)
    try:
        with _restore_swap.alone(session, params["target"]):
            return Restore(params, context, session, accepted).run()
    finally:
        session.close()


@dataclass
class Restore:
    """One call of the module."""

    params: dict[str, Any]
    context: Context
    session: Session
    accepted: Acceptance
    changed: bool = False
    compared: int = 0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        decrypt = self.params["decrypt"] or {}
        self.tools = Tools(
            self.params, self.params["client_dir"], self.params["timeout"], self.params["jobs"], decrypt.get("identity_file")
        )
        self.now = datetime.now(timezone.utc)
        self.target = self.params["target"]

    def run(self) -> dict[str, Any]:
        state = self.params["state"]
        if state == CLEANED:
            return self._clean()
        if state == RETURNED:
            return self._return()
        backup = _restore_tools.opened(self.params["src"])
        server = _restore_tools.check(self.session, backup, self.tools)
        same = server["system_identifier"] == backup.manifest.inventory.system_identifier
        if self._already_swapped(backup):
            return self._answer(f"{self.target} is this backup already, or was made from it; state: returned takes the old one back")
        if state == PLAN or self.context.check_mode:
            self.loss = self._read_loss(backup, same)
            more = "" if self.accepted.covers(self.loss) else f", with accept_data_loss: {self.loss.written}"
            return self._answer(f"state: prepared restores beside {self.target}; state: swapped{more} takes it into use", would_change=state != PLAN)
        if state == SWAPPED and not self._killed_while_closed(backup):
            # The cheap look comes first: nobody waits for a restore that is refused at its end.
            self._refuse_loss(self._read_loss(backup, same))
        name = self._prepare(backup)
        if state == PREPARED:
            self.loss = self._read_loss(backup, same)
            return self._answer(f"{name} is ready; state: swapped takes it into use")
        self._swap(backup, name, same)
        if not self.params["keep_old"]:
            return self._clean()
        return self._answer("state: returned takes the old database back; state: cleaned drops it")

    def _found(self) -> dict[str, Database]:
        return {item.name: item for item in _restore_swap.databases(self.session)}

    def _ours(self, *states: str) -> list[Database]:
        """Databases of ours for this target, the newest first."""
        found = [item for item in self._found().values() if item.mark and item.mark.live == self.target and item.mark.state in states]
        return sorted(found, key=lambda item: (item.mark.created if item.mark else "", item.name), reverse=True)

    def _superseded(self) -> Database | None:
        """The database that the live one has replaced."""
        live = self._found().get(self.target)
        found = [item for item in self._ours(_database_marks.SUPERSEDED) if live and item.mark and item.mark.successor == live.oid]
        return found[0] if found else None

    def _already_swapped(self, backup: Backup) -> bool:
        old = self._superseded()
        return bool(old and old.mark and old.mark.sha256 == backup.manifest.sha256)

    def _killed_while_closed(self, backup: Backup) -> bool:
        """Whether a run before this one has closed the live database for a swap and was killed; the swap opens it again."""
        live = self._found().get(self.target)
        ready = [item for item in self._ours(_database_marks.VERIFIED) if item.mark and item.mark.sha256 == backup.manifest.sha256]
        return bool(live and not live.allowed and ready)

    def _base(self, backup: Backup) -> str:
        """The snapshot whose rows the backup holds, in the transactions of the live database; '' when there is none."""
        own = backup.manifest.inventory.snapshot
        old = self._superseded()
        if not old or not old.mark or not old.mark.sha256:
            return own
        restored, taken = _data_loss.snapshot_of(old.mark.base), _data_loss.snapshot_of(own)
        # The live database was restored: only a backup taken since then knows its transactions.
        return own if restored and taken and taken.xmax >= restored.xmax else ""

    def _read_loss(self, backup: Backup, same: bool) -> Loss:
        live = self._found().get(self.target)
        if live is None:
            return Loss()
        if not live.allowed:
            raise RolloutError(
                f"{self.target} takes no connections, perhaps since a restore was killed: its rows cannot be counted. "
                f'Next: ALTER DATABASE "{self.target}" WITH ALLOW_CONNECTIONS true, and run again',
                databases=self._shown(),
            )
        session = _postgresql.connect({**self.params, "login_db": self.target}, _SILENCE_SECONDS)
        try:
            return self._count(session, backup, same)
        finally:
            session.close()

    def _count(self, session: Session, backup: Backup, same: bool) -> Loss:
        return _loss_reading.read(session, backup.manifest.inventory, self._base(backup), same, self.params["timeout"])

    def _refuse_loss(self, loss: Loss) -> None:
        self.loss = loss
        if not self.accepted.covers(loss):
            raise LossNotAccepted(
                f"{self.target} was not changed: {loss.words()}. accept_data_loss is '{self.params['accept_data_loss']}'. "
                f"Next: keep the database as it is, or run again with accept_data_loss: {loss.written}",
                loss=loss.shown(),
                databases=self._shown(),
            )

    def _prepare(self, backup: Backup) -> str:
        """Return the name of a database that is equal to the backup; one that a run before has made is taken."""
        for item in self._ours(_database_marks.VERIFIED):
            if item.mark and item.mark.sha256 == backup.manifest.sha256:
                self.compared = _restore_tools.compare(self.tools, backup, item.name)
                return item.name
        for item in self._ours(_database_marks.RESTORING):
            # Nobody else can be filling it: the lock is ours.
            _restore_tools.drop(self.session, item.name)
        self._drop_unmarked()
        live = self._found().get(self.target)
        owner = self.params["owner"] or (live.owner if live else self.params["login_user"])
        name = _database_marks.derived_name(self.target, "restore", self.now)
        mark = Mark(_database_marks.RESTORING, self.target, backup.manifest.sha256, backup.path.name, _backup_store.stamp(self.now))
        self.changed = True
        try:
            _restore_tools.create(self.session, name, backup, owner, mark)
            _restore_tools.fill(self.tools, backup, name, self.context)
            self.compared = _restore_tools.compare(self.tools, backup, name)
            _restore_tools.comment(self.session, name, mark.become(_database_marks.VERIFIED).encoded())
        except RolloutError:
            with contextlib.suppress(RolloutError):
                _restore_tools.drop(self.session, name)
            raise
        return name

    def _swap(self, backup: Backup, name: str, same: bool) -> None:
        found = self._found()
        live, new = found.get(self.target), found[name]
        mark = Mark(_database_marks.SUPERSEDED, self.target, backup.manifest.sha256, backup.path.name, _backup_store.stamp(self.now))
        swap = _restore_swap.Swap(self.target, live, new, mark, live.comment if live else "", self.now)
        self.changed = True
        _restore_swap.perform(self.session, self.params, swap, lambda watcher: self._refuse_loss(self._count(watcher, backup, same)), self.context)

    def _return(self) -> dict[str, Any]:
        old, live = self._superseded(), self._found().get(self.target)
        if old is None or old.mark is None or live is None:
            raise RolloutError(
                f"{self.target} has replaced no database that is still there. Next: see the databases in this result", databases=self._shown()
            )
        if not old.mark.sha256:
            return self._answer("state: cleaned drops what was restored")
        base = old.mark.base

        def judge(watcher: Session) -> None:
            self._refuse_loss(_loss_reading.read(watcher, None, base, True, self.params["timeout"]))

        if self.context.check_mode:
            session = _postgresql.connect({**self.params, "login_db": self.target}, _SILENCE_SECONDS)
            with contextlib.closing(session):
                self.loss = _loss_reading.read(session, None, base, True, self.params["timeout"])
            return self._answer(f"state: returned takes {old.name} back into use", would_change=True)
        # Without a checksum it is known as what was left, not as what was left behind for a backup.
        mark = Mark(_database_marks.SUPERSEDED, self.target, "", old.mark.file, _backup_store.stamp(self.now))
        swap = _restore_swap.Swap(self.target, live, old, mark, old.mark.comment, self.now)
        self.changed = True
        _restore_swap.perform(self.session, self.params, swap, judge, self.context)
        return self._answer("state: cleaned drops what was restored")

    def _clean(self) -> dict[str, Any]:
        live = self._found().get(self.target)
        if live is None or not live.allowed:
            raise RolloutError(
                f"nothing was dropped: {self.target} {'does not exist' if live is None else 'takes no connections'}. Next: see state: plan",
                databases=self._shown(),
            )
        leftovers = self._ours(_database_marks.SUPERSEDED, _database_marks.VERIFIED, _database_marks.RESTORING)
        if self.context.check_mode:
            return self._answer("state: cleaned drops what is not live", would_change=bool(leftovers))
        for item in leftovers:
            _restore_tools.drop(self.session, item.name)
            self.changed = True
        self._drop_unmarked()
        return self._answer("nothing is left to do")

    def _drop_unmarked(self) -> None:
        prefix = _database_marks.derived_name(self.target, "restore", self.now)[: -_database_marks.STAMP_DIGITS]
        for name in _restore_tools.unmarked(self.session, prefix):
            _restore_tools.drop(self.session, name)
            self.changed = True

    def _shown(self) -> list[dict[str, Any]]:
        return [item.shown() for item in self._found().values() if item.name == self.target or (item.mark and item.mark.live == self.target)]

    def _answer(self, following: str, would_change: bool = False) -> dict[str, Any]:
        return {
            "changed": self.changed or would_change,
            "state": self.params["state"],
            "loss": self.loss.shown() if self.loss else None,
            "databases": self._shown(),
            "compared": self.compared,
            "next": following,
        }
