# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``labctl`` says while it works: what is being done, since when, and how long it usually takes."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds of a first build on two cores. This machine's own times are kept beside them: a rebuild after a small change
# takes a fraction of the first.
USUAL_SECONDS = {
    "host packages": 25.0,
    "go toolchain": 20.0,
    "kubernetes": 245.0,
    "istiod": 160.0,
    "envoy": 5.0,
    "base image": 110.0,
    "service images": 0.1,
    "pgclient": 0.2,
}
HEARTBEAT = 15.0
REMEMBERED = 5


class Progress:
    """Prints one line when a part begins, one every 15 s while it lasts and one when it ends; remembers durations."""

    def __init__(self, history: Path, stream=None) -> None:
        self._history = history
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._running: dict[str, float] = {}
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._known: dict[str, list[float]] = {}
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(history.read_text())
            self._known = {name: times for name, times in stored.items() if isinstance(times, list)}

    def say(self, text: str) -> None:
        with self._lock:
            print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def part(self, name: str, what: str) -> Iterator[None]:
        """Announce a long part, and record how long it took when it succeeds."""
        usual = self.usual(name)
        self.say(f"{name}: {what}" + (f" (usually {usual})" if usual else ""))
        start = time.monotonic()
        self._running[name] = start
        self._ensure_heartbeat()
        try:
            yield
        except BaseException:
            self._running.pop(name, None)
            self.say(f"{name}: FAILED after {duration(time.monotonic() - start)}")
            raise
        self._running.pop(name, None)
        took = time.monotonic() - start
        self.say(f"{name}: done in {duration(took)}")
        self._remember(name, took)

    @contextlib.contextmanager
    def step(self, what: str, at_least: float = 0) -> Iterator[None]:
        """A short step: one line when it is done, with its time; none when it took less than ``at_least`` seconds."""
        start = time.monotonic()
        yield
        if time.monotonic() - start >= at_least:
            self.say(f"{what} ({time.monotonic() - start:.1f} s)")

    def usual(self, name: str) -> str:
        """What is known of a part's time: '5.0 s', or '7.5 s to 6 min 40 s' when a rebuild is much faster than a first build."""
        times = [*self._known.get(name, []), *([USUAL_SECONDS[name]] if name in USUAL_SECONDS else [])]
        if not times:
            return ""
        low, high = min(times), max(times)
        return duration(high) if high < 2 * low or high < 10 else f"{duration(low)} to {duration(high)}"

    def close(self) -> None:
        self._stop.set()
        if self._beat:
            self._beat.join(1)

    def _ensure_heartbeat(self) -> None:
        if self._beat is None:
            self._beat = threading.Thread(target=self._heartbeat, daemon=True)
            self._beat.start()

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            now = time.monotonic()
            running = [
                f"{name} {duration(now - start)}" + (f" of {usual}" if (usual := self.usual(name)) else "")
                for name, start in list(self._running.items())
                if now - start >= HEARTBEAT - 1
            ]
            if running:
                self.say("... " + ", ".join(running))

    def _remember(self, name: str, took: float) -> None:
        with self._lock:
            self._known[name] = [*self._known.get(name, []), round(took, 1)][-REMEMBERED:]
            with contextlib.suppress(OSError):
                self._history.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._history.with_suffix(".tmp")
                temporary.write_text(json.dumps(self._known, indent=1, sort_keys=True))
                temporary.rename(self._history)


def duration(seconds: float) -> str:
    """5.3 -> '5.3 s', 370 -> '6 min 10 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
