# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on demand: small files in a folder, re-read every half second while the service runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.5
_OFF = ("", "0", "false", "no", "off")

log = logging.getLogger("signal.knobs")


@dataclass(frozen=True, slots=True)
class Values:
    """What the files say now; the defaults mean "no fault"."""

    error_ratio: float = 0.0
    latency_seconds: float = 0.0
    crash: bool = False
    unready: bool = False
    leak_mb_per_s: float = 0.0
    held_mb: float = 0.0
    disk_percent: float = 0.0


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8", errors="replace").strip().lower()
    except OSError:
        return ""


def _number(folder: Path, name: str, ceiling: float) -> float:
    text = _text(folder, name)
    if text in _OFF:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return min(max(value, 0.0), ceiling) if math.isfinite(value) else 0.0


def read(folder: str) -> Values:
    """Read all knobs; a missing or unreadable file, and a value that is no number, mean "off"."""
    path = Path(folder)
    return Values(
        error_ratio=_number(path, "error_ratio", 1.0),
        latency_seconds=_number(path, "latency_ms", 60_000.0) / 1000.0,
        crash=_text(path, "crash") not in _OFF,
        unready=_text(path, "unready") not in _OFF,
        leak_mb_per_s=_number(path, "leak_mb_per_s", 1024.0),
        held_mb=_number(path, "held_mb", 65536.0),
        disk_percent=_number(path, "disk_percent", 99.0),
    )


class Knobs:
    """Keeps ``values`` up to date and carries out the knobs that act on the process and its disk."""

    def __init__(self, folder: str, leak_cap_mb: float, disk_dir: str) -> None:
        self._folder = folder
        self._leak_cap_mb = leak_cap_mb
        self._leaked: list[bytearray] = []
        self._leak_debt_mb = 0.0
        self._held: list[bytearray] = []
        self._filler = Path(disk_dir) / f"signal-filler-{os.getpid()}"
        self.values = Values()
        # What a container that was killed has left to its successor.
        with contextlib.suppress(OSError):
            self._filler.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Read the folder once. With ``crash`` set the process ends here, with exit code 1 and no clean-up."""
        values = read(self._folder)
        if values.crash:
            print("signal-service: the crash knob is set, exiting", file=sys.stderr, flush=True)
            os._exit(1)
        if values != self.values:
            log.warning("knobs changed", extra={"knobs": repr(values)})
            self.values = values
            self._hold()
            self._fill()

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            self.refresh()
            self._leak(POLL_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    def _hold(self) -> None:
        self._held = [bytearray(b"\x01") * (1 << 20) for _block in range(int(self.values.held_mb))]

    def _fill(self) -> None:
        """Fill the file system to the wanted share, with a file that goes when the knob is off."""
        try:
            self._filler.unlink(missing_ok=True)
            found = os.statvfs(self._filler.parent)
            blocks = int(found.f_blocks * self.values.disk_percent / 100.0) - (found.f_blocks - found.f_bfree)
            if self.values.disk_percent and blocks > 0:
                with self._filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, blocks * found.f_frsize)
        except OSError as error:
            log.error("the disk knob failed", extra={"error_type": type(error).__name__})

    def _leak(self, seconds: float) -> None:
        if self.values.leak_mb_per_s <= 0.0:
            # Off means healed: give the memory back.
            self._leaked.clear()
            self._leak_debt_mb = 0.0
            return
        self._leak_debt_mb += self.values.leak_mb_per_s * seconds
        while self._leak_debt_mb >= 1.0 and len(self._leaked) < self._leak_cap_mb:
            self._leak_debt_mb -= 1.0
            # Every page is written, or the kernel would not count it as used.
            self._leaked.append(bytearray(b"\x01") * (1 << 20))
