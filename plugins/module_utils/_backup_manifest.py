# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a backup is, and what the database held when it was taken. Private to this collection.

The manifest is a JSON file beside the backup. A backup whose manifest does not agree with it, or a restored database that does not
agree with the manifest, is not one to rely on. Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

VERSION = 1
TABLE, HYPERTABLE = "table", "hypertable"
CUSTOM, DIRECTORY = "custom", "directory"
SUFFIX = ".json"
_CHECKSUM = "checksum"
_NAMED = 5


class ManifestError(RolloutError):
    """A manifest cannot be read, or is not whole."""


@dataclass(frozen=True)
class Table:
    """One table with all that belongs to it.

    ``rows`` is exact. ``time_column`` is the hypertable's, ``min_time`` and ``max_time`` its ends as text ('' when there are none).
    ``columns`` are ``name type`` in their order. ``indexes`` and ``constraints`` are digests of their definitions by name.
    ``chunk_indexes`` and ``chunk_constraints`` count those on the chunks, valid ones only.
    """

    schema: str
    name: str
    kind: str = TABLE
    rows: int = 0
    time_column: str = ""
    min_time: str = ""
    max_time: str = ""
    chunks: int = 0
    columns: tuple[str, ...] = ()
    indexes: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    chunk_indexes: int = 0
    chunk_constraints: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Inventory:
    """What one database holds, in one snapshot.

    ``snapshot`` is ``pg_current_snapshot()``. ``locale`` holds ``provider``, ``collate``, ``ctype`` and ``locale`` (ICU or builtin).
    ``roles`` own something or hold a privilege: a restore needs them. ``objects`` counts what is no table, by kind.
    """

    database: str
    server_version: str
    system_identifier: str
    encoding: str
    locale: Mapping[str, str]
    alembic: tuple[str, ...]
    extensions: Mapping[str, str]
    snapshot: str
    tables: tuple[Table, ...]
    roles: tuple[str, ...] = ()
    objects: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True)
class Manifest:
    """One backup: the file or folder ``file`` beside the manifest, and the database in the dump's own snapshot.

    ``sha256`` is that of the file as it lies there (encrypted, if it is); of a folder it is :func:`tree_digest` of ``files``, which is
    empty for a file. ``encrypted`` is '' or the program: ``age`` or ``gpg``. ``verified``: what was proved when it was made.
    """

    file: str
    format: str
    compression: str
    bytes: int
    sha256: str
    created: str
    client_version: str
    inventory: Inventory
    encrypted: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    verified: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """Return it as one flat object, with ``version`` and a checksum of everything else."""
        fields = dataclasses.asdict(self)
        fields.update(fields.pop("inventory"))
        # As JSON reads it again: lists, not tuples.
        fields = json.loads(json.dumps({"version": VERSION, **fields}))
        return {**fields, _CHECKSUM: _checksum(fields)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "manifest") -> Manifest:
        """Read a manifest. Raises :class:`ManifestError`, which names ``where``, when it is not whole or of another version."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise _unreadable(where, one_line(error, 120)) from None
        if not isinstance(fields, dict):
            raise _unreadable(where, "it is no JSON object")
        if fields.get("version") != VERSION:
            raise ManifestError(
                f"{where}: it is of version {one_line(fields.get('version'), 20)}, expected {VERSION}. "
                "Next: use the release of this collection that made the backup."
            )
        noted = fields.pop(_CHECKSUM, None)
        if noted != _checksum(fields):
            raise _unreadable(where, "its checksum does not agree with its text")
        fields.pop("version")
        try:
            inventory = {name: fields.pop(name) for name in _INVENTORY_FIELDS}
            inventory["tables"] = tuple(_table(entry) for entry in inventory["tables"])
            for name in ("alembic", "roles"):
                inventory[name] = tuple(inventory[name])
            return cls(inventory=Inventory(**inventory), **fields)
        except (KeyError, TypeError) as error:
            raise _unreadable(where, f"its fields are not those of a manifest ({one_line(error, 120)})") from None


_INVENTORY_FIELDS = tuple(item.name for item in dataclasses.fields(Inventory))


def _table(entry: dict[str, Any]) -> Table:
    return Table(**{**entry, "columns": tuple(entry["columns"])})


def _unreadable(where: str, reason: str) -> ManifestError:
    return ManifestError(f"{where}: not a whole manifest: {reason}. Next: take another backup; this one cannot be relied on.")


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def tree_digest(files: Mapping[str, str]) -> str:
    """Return one SHA-256 for a folder whose files have these (as ``sha256sum`` of a list that ``sha256sum`` has printed)."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def compare(manifest: Manifest, seen: Inventory) -> list[str]:
    """Return every way in which a restored database is not what the backup's manifest says, one sentence each."""
    expected = manifest.inventory
    problems = [
        f"{what}: {shown}; expected {wanted}"
        for what, shown, wanted in (
            ("encoding", seen.encoding, expected.encoding),
            ("locale", _pairs(seen.locale), _pairs(expected.locale)),
            ("alembic revision", _words(seen.alembic), _words(expected.alembic)),
            ("extensions", _pairs(seen.extensions), _pairs(expected.extensions)),
            ("objects", _pairs(seen.objects), _pairs(expected.objects)),
        )
        if shown != wanted
    ]
    there = {table.full_name: table for table in seen.tables}
    for table in expected.tables:
        found = there.pop(table.full_name, None)
        problems += [f"{table.full_name}: missing"] if found is None else _table_problems(table, found)
    return problems + [f"{name}: not in the backup" for name in sorted(there)]


def _table_problems(expected: Table, seen: Table) -> list[str]:
    problems = [
        f"{expected.full_name}: {what.replace('_', ' ')} {getattr(seen, what)!r}; expected {getattr(expected, what)!r}"
        for what in ("kind", "rows", "time_column", "min_time", "max_time", "chunks", "chunk_indexes", "chunk_constraints")
        if getattr(seen, what) != getattr(expected, what)
    ]
    if seen.columns != expected.columns:
        problems.append(f"{expected.full_name}: columns {_words(seen.columns)}; expected {_words(expected.columns)}")
    for what in ("indexes", "constraints"):
        wanted, found = getattr(expected, what), getattr(seen, what)
        changes = (
            ("missing", sorted(set(wanted) - set(found))),
            ("not in the backup", sorted(set(found) - set(wanted))),
            ("of another definition", sorted(name for name in set(wanted) & set(found) if wanted[name] != found[name])),
        )
        problems += [f"{expected.full_name}: {what} {change}: {_few(names)}" for change, names in changes if names]
    return problems


def _pairs(items: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {items[name]}" for name in sorted(items)) or "none"


def _words(items: tuple[str, ...]) -> str:
    return ", ".join(items) or "none"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
