# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every section has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .results import Results
from .stage import Stage


@dataclass
class Options:
    """What the command line says. Rates in requests/s, times in seconds."""

    rate: int = 200
    window: int = 10
    scale: float = 20.0


class Section(Protocol):
    """One thing to measure. ``seconds`` is about how long one trial takes, ``prepare`` how long it takes before the first."""

    name: str
    about: str
    variants: Sequence[str]
    trials: int
    seconds: float
    preparation: float

    def prepare(self, stage: Stage, options: Options) -> None: ...

    def trial(self, stage: Stage, options: Options, variant: str) -> dict[str, Any]: ...

    def table(self, results: Sequence[Results]) -> str: ...
