# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Results on disk, one file per section and kind of route, so that a measurement can be stopped and taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
# What decides the figures; a change of a document does not make them old.
MEASURED = ("plugins", "roles", "playbooks", "inventories", "lab")


def fingerprint() -> str:
    """Names the code that is measured: equal code, equal text, also when it is not committed."""
    listed = subprocess.run(["git", "ls-tree", "HEAD", *MEASURED], cwd=ROOT, check=True, capture_output=True, timeout=30).stdout
    changed = subprocess.run(["git", "diff", "HEAD", "--", *MEASURED], cwd=ROOT, check=True, capture_output=True, timeout=30).stdout
    return hashlib.sha256(listed + changed).hexdigest()[:12] + ("+" if changed else "")


@cache
def ways_of_measuring() -> str:
    """Names the code of this bench: what a trial holds may differ between two of them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


class Results:
    """The trials of one section with one kind of route."""

    def __init__(self, folder: Path, section: str, kind: str, code: str) -> None:
        self.section, self.kind = section, kind
        self.path = folder / f"{section}-{kind}.json"
        self.data: dict[str, Any] = {"section": section, "kind": kind, "code": code, "bench": ways_of_measuring(), "turns": [], "trials": []}
        if self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if code in ("", stored["code"]) and stored.get("bench") == ways_of_measuring():
                self.data = stored

    @property
    def trials(self) -> list[dict[str, Any]]:
        return self.data["trials"]

    def of(self, variant: str) -> list[dict[str, Any]]:
        return [trial for trial in self.trials if trial["variant"] == variant]

    def begin_turn(self, conditions: dict[str, Any]) -> None:
        if self.path.exists() and not self.trials:
            # Of other code, or measured in another way: kept aside, since it took long.
            self.path.rename(self.path.with_suffix(".previous.json"))
        load = [round(value, 2) for value in os.getloadavg()]
        self.data["turns"].append({"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": load, **conditions})

    def add(self, trial: dict[str, Any]) -> None:
        self.trials.append(trial)
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=1), encoding="utf-8")
        partial.replace(self.path)
