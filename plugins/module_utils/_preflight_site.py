# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the checks of preflight_check look at, and what they yield. Private to this collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _prometheus

# Makes a problem: option, object, rule, what was seen, what was expected, what to do next.
Ask = Callable[..., "Problem"]
# Characters that the evidence of a box may have.
EVIDENCE_LIMIT = 300


@dataclass(frozen=True)
class Problem:
    """One reason not to start. ``variable`` is what the user would change."""

    check: str
    object: str
    variable: str
    rule: str
    seen: str
    expected: str
    next: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.object}. Rule: {self.rule}. Seen: {self.seen}. Expected: {self.expected}. Next: {self.next}."


class NotApplicable(Exception):
    """A check cannot be made for a reason that another check has told already."""


@dataclass
class Site:
    """What the checks look at: the options, and what earlier checks have found out (``facts``)."""

    params: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)

    @property
    def namespace(self) -> str:
        return str(self.params["namespace"])

    def variable(self, option: str) -> str:
        """The user's own name for ``option``: the longest prefix of it that the option ``variables`` names."""
        names = self.params.get("variables") or {}
        parts = option.split(".")
        for length in range(len(parts), 0, -1):
            if ".".join(parts[:length]) in names:
                return str(names[".".join(parts[:length])])
        return option

    def kube(self) -> _kube.Kube:
        """A connection for the calling thread."""
        connection = getattr(self._local, "kube", None)
        if connection is None:
            connection = self._local.kube = self.facts["kube"].clone()
        return connection

    @property
    def prometheus_params(self) -> dict[str, Any]:
        return _prometheus.beside_kubernetes(self.params)

    def prometheus(self) -> _prometheus.Prometheus:
        return _prometheus.Prometheus(self.prometheus_params, min(5.0, self.params["timeout"]))


@dataclass(frozen=True)
class Check:
    """One entry of :data:`CHECKS`, made when all ``options`` are set.

    It waits for the checks in ``after`` and ``needs``, and is left out when one of ``needs`` has found a problem.
    """

    name: str
    options: tuple[str, ...]
    find: Callable[[Site, Ask], Iterator[Problem]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
