# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a source of figures can be asked. Pure; private to this collection.

A question is the key of its answer: equal questions are asked once, however many metrics share them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Stands for the seconds that the hold has lasted when a query is sent.
HOLD = "$hold"


def as_duration(value: float) -> str:
    """Return seconds as Prometheus writes a duration: whole milliseconds."""
    milliseconds = max(1, round(value * 1000))
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


@dataclass(frozen=True)
class Request:
    """One HTTP request whose JSON answer holds figures. Equal requests are sent once per poll.

    ``headers`` and ``token`` are never shown. ``statuses`` are the status codes that count as an answer, empty for 200 to 299.
    ``timeout`` is in seconds.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    token: str = field(default="", repr=False)
    body: str = field(default="", repr=False)
    timeout: float = 5.0
    statuses: tuple[int, ...] = ()
    validate_certs: bool = True
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""

    def __str__(self) -> str:
        # The part after '?' may hold a key, and nobody needs it to recognise the address.
        address, mark, _query = self.url.partition("?")
        return f"{self.method} {address}{mark and '?...'}"


@dataclass(frozen=True)
class Question:
    """One figure that is asked for: ``text`` is PromQL, or with ``request`` the path of the figure in its JSON answer.

    ``time_path`` finds the time that the figure of a ``request`` stands for; without it that is the moment of the answer.
    """

    text: str
    request: Request | None = None
    time_path: str = ""

    def at(self, hold: float) -> str:
        """Return the text to send when the hold has lasted ``hold`` seconds."""
        return self.text.replace(HOLD, as_duration(hold))

    def __str__(self) -> str:
        return f"{self.request}: {self.text}" if self.request is not None else self.text
