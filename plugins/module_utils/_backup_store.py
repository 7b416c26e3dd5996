# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folder that backups are kept in: whole ones only under a final name, for their owner only. Private to this collection.

A backup is written as ``NAME.partial`` and named at its end, its manifest first: whatever has a final name has its manifest, and what a
killed run has left is known by its ending.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

PARTIAL = ".partial"
_LOCK = ".lock"
ENDINGS = (".dump", ".dump.age", ".dump.gpg", ".dir")
_STAMP = "%Y-%m-%dT%H:%M:%SZ"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,150}")
_CHUNK = 1024 * 1024


class StoreError(RolloutError):
    """A backup cannot be kept in its folder, or is not what its manifest says."""


def stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime(_STAMP)


def default_name(database: str, moment: datetime) -> str:
    """Return ``DATABASE-20260102T030405Z``; what no file name should hold becomes ``_``."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', database).lstrip('.-') or 'database'}-{moment.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}"


def name_problem(name: str) -> str:
    """Return why ``name`` cannot be a backup's name; '' when it can."""
    if not _NAME.fullmatch(name) or name.endswith((PARTIAL, manifests.SUFFIX)):
        return f"name is '{one_line(name, 80)}', expected letters, digits and _ . @ + - with none of the endings {PARTIAL} and {manifests.SUFFIX}"
    return ""


@dataclass(frozen=True)
class Entry:
    """One backup of the folder. ``problem`` says why it is none to rely on, by its manifest and size alone; '' when it is."""

    name: str
    path: Path
    manifest: manifests.Manifest | None
    problem: str = ""

    @property
    def created(self) -> str:
        return self.manifest.created if self.manifest else ""

    def shown(self) -> dict[str, Any]:
        seen = self.manifest
        return {
            "name": self.name,
            "file": str(self.path),
            "problem": self.problem,
            "database": seen.inventory.database if seen else "",
            "created": self.created,
            "format": seen.format if seen else "",
            "bytes": seen.bytes if seen else 0,
            "rows": seen.inventory.rows if seen else 0,
            "alembic": list(seen.inventory.alembic) if seen else [],
            "encrypted": seen.encrypted if seen else "",
            "verified": seen.verified if seen else "none",
        }


def superseded(entries: Sequence[Entry], database: str, count: int, days: float, now: datetime) -> list[Entry]:
    """Return the backups of ``database`` that retention removes, the oldest first.

    A backup goes when it is none of the newest ``count`` and older than ``days`` (0: that limit does not count; both 0: none goes). The newest
    whole one, and the newest that was verified, stay whatever the limits say. A damaged one is left to people, and counts for nothing.
    """
    if not count and not days:
        return []
    whole = [entry for entry in entries if entry.manifest and not entry.problem and entry.manifest.inventory.database == database]
    whole.sort(key=lambda entry: (entry.created, entry.name), reverse=True)
    verified = [entry for entry in whole if entry.manifest and entry.manifest.verified != "none"]
    kept = {entry.name for entry in [*whole[: max(count, 1)], *verified[:1]]}
    oldest = stamp(now - timedelta(days=days))
    return [entry for entry in reversed(whole) if entry.name not in kept and (not days or entry.created < oldest)]


class Store:
    """One folder of backups."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def make(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.is_symlink() or self.folder.stat().st_uid != os.geteuid():
                raise StoreError(f"{self.folder}: a link, or of another user; expected a folder of this user alone. Next: set dest to one")
            self.folder.chmod(0o700)
        except OSError as error:
            raise StoreError(f"{self.folder}: no folder for backups: {one_line(error)}. Next: set dest to a folder that this user may make") from None

    @contextlib.contextmanager
    def alone(self) -> Iterator[list[str]]:
        """Hold the folder against another run, and remove what killed ones have left; yields the names of that."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(f"{self.folder}: another run is making a backup there. Next: wait for its end, or set another dest") from None
            ours = tuple(ending + PARTIAL for ending in (*ENDINGS, manifests.SUFFIX))
            leftovers = sorted(path for path in self.folder.iterdir() if path.name.endswith(ours))
            leftovers += [path for path in self.folder.glob(f"*{manifests.SUFFIX}") if self._is_orphan(path)]
            for path in leftovers:
                remove(path)
            yield [path.name for path in leftovers]
        finally:
            os.close(descriptor)

    def _backup_of(self, name: str) -> Path | None:
        return next((self.folder / (name + ending) for ending in ENDINGS if (self.folder / (name + ending)).exists()), None)

    def _is_orphan(self, manifest_file: Path) -> bool:
        """Whether it is a manifest without its backup: the run was killed between the two names. Foreign files are none."""
        if self._backup_of(manifest_file.name[: -len(manifests.SUFFIX)]):
            return False
        with contextlib.suppress(OSError, manifests.ManifestError):
            manifests.Manifest.from_json(manifest_file.read_bytes())
            return True
        return False

    def free(self) -> int:
        """Bytes that may still be written there; the folder need not exist yet."""
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free

    def entries(self) -> list[Entry]:
        """Return all backups, the newest first; those without a readable manifest last."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in sorted(self.folder.iterdir()):
            name = name_of(path.name)
            if name == path.name or path.name.startswith("."):
                continue
            known = (self.folder / (name + manifests.SUFFIX)).is_file()
            found.append(self.entry(name) if known else Entry(name, path, None, "it has no manifest"))
        return sorted(found, key=lambda entry: (entry.created, entry.name), reverse=True)

    def entry(self, name: str) -> Entry:
        """Return one backup by its name. Raises nothing for a damaged one."""
        manifest_file = self.folder / (name + manifests.SUFFIX)
        path = self._backup_of(name) or self.folder / name
        try:
            manifest = manifests.Manifest.from_json(manifest_file.read_bytes(), str(manifest_file))
        except OSError as error:
            return Entry(name, path, None, f"its manifest cannot be read: {one_line(error)}")
        except manifests.ManifestError as error:
            return Entry(name, path, None, error.message.partition(". Next: ")[0])
        path = self.folder / os.path.basename(manifest.file)
        try:
            size = size_of(path)
        except OSError as error:
            return Entry(name, path, manifest, f"it cannot be read: {one_line(error)}")
        wrong = f"it has {size} bytes, expected {manifest.bytes}" if size != manifest.bytes else ""
        return Entry(name, path, manifest, wrong)

    def publish(self, partial: Path, final: Path, manifest: manifests.Manifest) -> Path:
        """Give a complete backup its final name, after all of it is on the disk. Returns the manifest's path."""
        manifest_file = final.parent / (name_of(final.name) + manifests.SUFFIX)
        partial_manifest = manifest_file.with_name(manifest_file.name + PARTIAL)
        try:
            descriptor = os.open(partial_manifest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(manifest.to_json())
                stream.flush()
                os.fsync(stream.fileno())
            for path in [partial, *(sorted(partial.iterdir()) if partial.is_dir() else [])]:
                sync(path)
            partial_manifest.rename(manifest_file)
            partial.rename(final)
        except BaseException:
            # A disk that is full for the manifest, too: without its backup it is worth nothing.
            for path in (partial_manifest, manifest_file):
                remove(path)
            raise
        sync(self.folder)
        return manifest_file

    def forget(self, entry: Entry) -> None:
        """Remove a backup: its own name first, so that nothing half removed has one."""
        gone = entry.path.with_name(entry.path.name + PARTIAL)
        entry.path.rename(gone)
        (self.folder / (entry.name + manifests.SUFFIX)).unlink(missing_ok=True)
        sync(self.folder)
        remove(gone)


def name_of(file_name: str) -> str:
    """Return a backup's name without its ending; the same text for what is no backup."""
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if file_name.endswith(ending)), "")
    return file_name[: len(file_name) - len(ending)]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size


def digests(path: Path) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of a file and nothing, or that of a folder and those of its files."""
    if not path.is_dir():
        return _sha256(path), {}
    files = {file.name: _sha256(file) for file in sorted(path.iterdir())}
    return manifests.tree_digest(files), files


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check(entry: Entry) -> manifests.Manifest:
    """Return the manifest of a backup whose every byte is the one that was written. Raises :class:`StoreError` naming what is not."""
    where = f"Backup {entry.path}"
    rely = "Next: take another backup; this one cannot be relied on"
    if entry.manifest is None or entry.problem:
        raise StoreError(f"{where}: {entry.problem}. {rely}")
    manifest = entry.manifest
    if entry.path.is_dir() != (manifest.format == manifests.DIRECTORY):
        raise StoreError(f"{where}: a {'folder' if entry.path.is_dir() else 'file'}, expected the format {manifest.format}. {rely}")
    try:
        sha256, files = digests(entry.path)
    except OSError as error:
        raise StoreError(f"{where}: it cannot be read: {one_line(error)}. {rely}") from None
    changed = sorted(name for name in set(files) | set(manifest.files) if files.get(name) != manifest.files.get(name))
    if changed:
        raise StoreError(f"{where}: {len(changed)} files are not those that were written: {', '.join(changed[:5])}. {rely}")
    if sha256 != manifest.sha256:
        raise StoreError(f"{where}: its SHA-256 is {sha256}, expected {manifest.sha256}. {rely}")
    return manifest
