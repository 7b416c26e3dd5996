# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The books of one run: what was sent, what came back, second by second. No input or output.

Every request belongs to the second in which it was sent, whenever its answer arrives, so that each second's
``sent`` equals ``ok`` + ``failed`` + ``in_flight``. Times of day are seconds since 1970, latencies are milliseconds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping

# Latencies are counted in buckets that grow by 2 %: percentiles are then exact to 1 %.
_GROWTH = math.log(1.02)
_SMALLEST_MS = 0.01


def bucket(milliseconds: float) -> int:
    """Return the index of the latency bucket that holds this value."""
    return max(0, math.ceil(math.log(max(milliseconds, _SMALLEST_MS) / _SMALLEST_MS) / _GROWTH))


def bucket_value(index: int) -> float:
    """Return the middle of a latency bucket, in milliseconds."""
    return _SMALLEST_MS * math.exp((index - 0.5) * _GROWTH) if index else _SMALLEST_MS


class Latencies:
    """A distribution of latencies in milliseconds: bucket counts, and the exact extremes and sum."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.total = 0
        self.sum = 0.0
        self.smallest = math.inf
        self.largest = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one value."""
        self.counts[bucket(milliseconds)] += 1
        self.total += 1
        self.sum += milliseconds
        self.smallest = min(self.smallest, milliseconds)
        self.largest = max(self.largest, milliseconds)

    def percentile(self, share: float) -> float | None:
        """Return the value below or at which ``share`` (0 to 1) of all values lie; None without values."""
        wanted = max(1, math.ceil(share * self.total))
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                return min(max(bucket_value(index), self.smallest), self.largest)
        return None

    def summary(self) -> dict[str, float | int | None]:
        """Return count, mean, min, p50, p90, p99 and max (None without values)."""
        if not self.total:
            return {"count": 0} | dict.fromkeys(("mean", "min", "p50", "p90", "p99", "max"))
        values = {
            "mean": self.sum / self.total,
            "min": self.smallest,
            "p50": self.percentile(0.5),
            "p90": self.percentile(0.9),
            "p99": self.percentile(0.99),
            "max": self.largest,
        }
        return {"count": self.total} | {name: round(value, 3) for name, value in values.items()}

    def dump(self) -> dict[str, object]:
        """Return everything, to be read back with ``load``."""
        return {
            "counts": {str(index): count for index, count in sorted(self.counts.items())},
            "sum": round(self.sum, 3),
            "min": None if not self.total else round(self.smallest, 3),
            "max": round(self.largest, 3),
        }

    def merge(self, dumped: Mapping[str, object]) -> None:
        """Add a distribution as ``dump`` returned it."""
        counts = {int(index): count for index, count in dumped["counts"].items()}
        if not counts:
            return
        self.counts.update(counts)
        self.total += sum(counts.values())
        self.sum += dumped["sum"]
        self.smallest = min(self.smallest, dumped["min"])
        self.largest = max(self.largest, dumped["max"])


class Second:
    """What belongs to one second of the clock, or to a longer slice of the run."""

    def __init__(self) -> None:
        self.sent = 0
        self.ok = 0
        self.failed = 0
        self.causes: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.failed_versions: Counter[str] = Counter()
        self.latency = Latencies()
        self.lag_ms = 0.0
        self.ws_opened: Counter[str] = Counter()
        self.ws_open_failures: Counter[str] = Counter()
        self.ws_closed: Counter[str] = Counter()
        self.ws_messages = 0
        self.ws_stalls = 0
        self.ws_rtt = Latencies()

    @property
    def in_flight(self) -> int:
        """Return how many requests have no outcome yet."""
        return self.sent - self.ok - self.failed

    def dump(self) -> dict[str, object]:
        """Return the books of this second as JSON-ready data."""
        return {
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "causes": dict(sorted(self.causes.items())),
            "versions": dict(sorted(self.versions.items())),
            "failed_versions": dict(sorted(self.failed_versions.items())),
            "latency_ms": self.latency.dump(),
            "lag_ms": round(self.lag_ms, 3),
            "websocket": {
                "opened": dict(sorted(self.ws_opened.items())),
                "open_failures": dict(sorted(self.ws_open_failures.items())),
                "closed": dict(sorted(self.ws_closed.items())),
                "messages": self.ws_messages,
                "stalls": self.ws_stalls,
                "rtt_ms": self.ws_rtt.dump(),
            },
        }

    def merge(self, dumped: Mapping[str, object]) -> None:
        """Add a second as ``dump`` returned it."""
        self.sent += dumped["sent"]
        self.ok += dumped["ok"]
        self.failed += dumped["failed"]
        self.causes.update(dumped["causes"])
        self.versions.update(dumped["versions"])
        self.failed_versions.update(dumped["failed_versions"])
        self.latency.merge(dumped["latency_ms"])
        self.lag_ms = max(self.lag_ms, dumped["lag_ms"])
        websocket = dumped["websocket"]
        self.ws_opened.update(websocket["opened"])
        self.ws_open_failures.update(websocket["open_failures"])
        self.ws_closed.update(websocket["closed"])
        self.ws_messages += websocket["messages"]
        self.ws_stalls += websocket["stalls"]
        self.ws_rtt.merge(websocket["rtt_ms"])

    def totals(self) -> dict[str, object]:
        """Return the books with percentiles in place of bucket counts."""
        data = self.dump()
        data["latency_ms"] = self.latency.summary()
        data["websocket"] |= {"rtt_ms": self.ws_rtt.summary()}
        return data


class Ledger:
    """All seconds of a run. Seconds are closed in order, when every request sent in them has its outcome."""

    def __init__(self) -> None:
        self._open: dict[int, Second] = {}
        self._closed_text: list[str] = []
        self._closed = Second()
        self._newest_closed = -1
        self.ws_now: Counter[str] = Counter()

    def at(self, epoch: float) -> Second:
        """Return the books of the second that holds ``epoch``; raises ValueError when that one is closed."""
        second = math.floor(epoch)
        if second <= self._newest_closed:
            raise ValueError(f"second {second} is closed, the newest closed one is {self._newest_closed}")
        if second not in self._open:
            self._open[second] = Second()
        return self._open[second]

    def close_before(self, epoch: float) -> None:
        """Close the complete seconds before ``epoch``, up to the first incomplete one; they become text once."""
        for second in sorted(self._open):
            if second >= math.floor(epoch) or self._open[second].in_flight:
                return
            books = self._open.pop(second).dump()
            self._closed.merge(books)
            self._closed_text.append(_line(second, books))
            self._newest_closed = second

    def totals(self) -> dict[str, object]:
        """Return the books of the whole run so far."""
        whole = Second()
        whole.merge(self._closed.dump())
        for books in self._open.values():
            whole.merge(books.dump())
        data = whole.totals()
        data["websocket"] |= {"open": dict(sorted((name, count) for name, count in self.ws_now.items() if count))}
        return data

    def seconds_text(self) -> str:
        """Return all seconds as a JSON list."""
        lines = self._closed_text + [_line(second, self._open[second].dump()) for second in sorted(self._open)]
        return "[\n" + ",\n".join(lines) + "\n]"


def _line(second: int, books: Mapping[str, object]) -> str:
    return json.dumps({"t": second, **books}, separators=(",", ":"))


def total(seconds: Iterable[Mapping[str, object]]) -> Second:
    """Return the sum of seconds as a report file holds them."""
    whole = Second()
    for books in seconds:
        whole.merge(books)
    return whole
