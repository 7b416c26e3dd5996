# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build outputs kept by content: an entry's name holds the hash of everything it was made from.

An entry is built under a temporary name and renamed when it is complete, so a name without the temporary prefix is
always whole; what an interrupted build leaves behind is removed by the next ``sweep``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TEMPORARY = ".building-"


def digest(*inputs: str | bytes | Path) -> str:
    """Hash of texts, and of files or folders (names, modes and contents, in a fixed order); 16 hex digits."""
    total = hashlib.sha256()
    for item in inputs:
        if isinstance(item, Path):
            for path in files_of(item):
                name = path.relative_to(item.parent).as_posix()
                mode = path.stat().st_mode & 0o111
                total.update(f"file {name} {bool(mode)} {path.stat().st_size}\n".encode())
                total.update(path.read_bytes())
        else:
            data = item.encode() if isinstance(item, str) else item
            total.update(f"text {len(data)}\n".encode() + data)
    return total.hexdigest()[:16]


def files_of(folder: Path) -> Iterable[Path]:
    """Files under ``folder`` (or itself) in a fixed order, without bytecode and hidden files."""
    if folder.is_file():
        return [folder]
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(p == "__pycache__" or p.startswith(".") or p.endswith(".pyc") for p in parts):
            found.append(path)
    return found


class Cache:
    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def history(self) -> Path:
        return self.root / "history.json"

    def path(self, part: str, key: str) -> Path:
        return self.root / f"{part}-{key}"

    def has(self, part: str, key: str) -> bool:
        return self.path(part, key).is_dir()

    def build(self, part: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the entry, calling ``make(folder)`` to fill a temporary folder when it does not exist yet."""
        final = self.path(part, key)
        if final.is_dir():
            return final
        temporary = self.root / f"{TEMPORARY}{part}-{key}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def sweep(self) -> list[str]:
        """Remove what interrupted builds left; call only while holding ``lock``. Returns the names removed."""
        removed = []
        for path in sorted(self.root.glob(f"{TEMPORARY}*")):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
        return removed

    def mark_used(self, part: str, key: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.path(part, key))

    def drop_unused(self, parts: Iterable[str], days: float = 14) -> None:
        """Remove entries of ``parts`` no lab has used for ``days``: changes of the inputs must not fill the disk."""
        oldest = time.time() - days * 86400
        known = set(parts)
        for path in self.root.iterdir():
            part, _, key = path.name.rpartition("-")
            if part in known and len(key) == 16 and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One builder at a time per cache; others wait, then find the entries done."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
