# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Typed errors of the engine. Pure, private to this collection."""

from __future__ import annotations

from typing import Any


class RolloutError(Exception):
    """A step cannot be done, or its answer is not a pass.

    The door that runs the engine turns it into a failed result: ``message`` becomes ``msg`` and
    ``result`` is merged in, so that a rescue block finds the same keys as after a success.
    """

    def __init__(self, message: str, **result: Any) -> None:
        super().__init__(message)
        self.message = message
        self.result = result

    def reword(self, message: str) -> None:
        """Give the error that is on its way another message."""
        self.message = message
        self.args = (message,)


class MissingLibrary(RolloutError):
    """A Python library that this engine needs is not installed where it runs."""


def require(name: str, module: Any) -> Any:
    """Return ``module``, or raise :class:`MissingLibrary` when its guarded import gave None."""
    if module is None:
        raise MissingLibrary(
            f"The Python library '{name}' is not installed for the interpreter that runs this task. "
            f"Next: install it there (pip install {name}), or point ansible_python_interpreter to one that has it."
        )
    return module


def one_line(text: Any, limit: int = 300) -> str:
    """Return foreign text as one printable line of at most ``limit`` characters.

    Server messages can repeat a whole object or carry control characters; neither belongs in a terminal.
    """
    flat = " ".join(str(text).split())
    clean = "".join(ch if ch.isprintable() else "?" for ch in flat)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
