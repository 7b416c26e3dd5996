# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real requests to the new version while users send too few to judge it by. Private to this collection.

The mesh routes them there by a header. They are traffic like any other: what becomes of them counts only through the
metrics. Before the first one it is proven that the header leads to the new version and nowhere else.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._http import (
    HttpAnswer,
    HttpClient,
    HttpError,
    Secrets,
    Tls,
    header_problems,
    url_problem,
)
from ansible_collections.signal.rollout.plugins.module_utils._http_json import expression_problem, jmespath_library

ALWAYS, BELOW_FLOOR = "always", "below_floor"

EXPECT_SPEC: dict[str, dict[str, Any]] = {
    "header": {"type": "str"},
    "json_path": {"type": "str"},
    "value": {"type": "str", "required": True},
}

SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "method": {"type": "str", "default": "GET", "choices": ["GET", "HEAD", "POST"]},
    "headers": {"type": "dict", "required": True},
    "secret_headers": {"type": "dict", "no_log": True},
    "body": {"type": "str"},
    "expect": {"type": "dict", "required": True, "options": EXPECT_SPEC},
    "rate": {"type": "float", "default": 10.0},
    "timeout": {"type": "float", "default": 5.0},
    "max_requests": {"type": "int", "default": 10000},
    "when": {"type": "str", "default": BELOW_FLOOR, "choices": [ALWAYS, BELOW_FLOOR]},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
}

# By these a service can tell such a request from a user's.
MARKS = {"User-Agent": "signal.rollout synthetic", "X-Signal-Rollout": "synthetic"}
HIGHEST_RATE = 200.0
MOST_REQUESTS = 1_000_000
# Before the first step green has no traffic, so one answer would do; at 50 % this many are by chance all its own in 3 of 100 cases.
PROBES = 5
_ATTEMPTS = 3
_PAUSE = 0.3
_WORKERS = 8


@dataclass(frozen=True)
class Load:
    """What is sent, and how much of it: ``rate`` per second, ``timeout`` in seconds, ``max_requests`` in one hold."""

    url: str
    headers: tuple[tuple[str, str], ...]
    expect_value: str
    expect_header: str = ""
    expect_path: str = ""
    method: str = "GET"
    secret_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: str = ""
    rate: float = 10.0
    timeout: float = 5.0
    max_requests: int = 10000
    when: str = BELOW_FLOOR
    tls: Tls = Tls()

    def __str__(self) -> str:
        return f"{self.method} {self.url.partition('?')[0]}"


def read_load(entry: dict[str, Any], has_floor: bool, problems: list[str]) -> Load | None:
    """Return the load that the option synthetic describes; append what is wrong with it to ``problems``.

    ``has_floor`` is whether the gate has minimum_requests.
    """
    before = len(problems)
    trouble = url_problem(entry["url"])
    if trouble:
        problems.append(f"synthetic.url: {trouble}")
    headers = _texts(entry["headers"])
    if not headers:
        problems.append("synthetic.headers is empty, expected the header by which the mesh routes to the new version")
    for name in ("headers", "secret_headers"):
        problems.extend(header_problems(f"synthetic.{name}", entry.get(name) or {}))
    if entry.get("body") is not None and entry["method"] != "POST":
        problems.append("synthetic.body: it belongs to method POST")
    _numbers(entry, problems)
    if entry["when"] == BELOW_FLOOR and not has_floor:
        problems.append(f"synthetic.when is '{BELOW_FLOOR}', but there is no minimum_requests, expected one, or '{ALWAYS}'")
    expect = entry["expect"]
    if bool(expect.get("header")) == bool(expect.get("json_path")):
        problems.append("synthetic.expect: it has both or neither of header and json_path, expected exactly one")
    if expect.get("json_path"):
        trouble = expression_problem(expect["json_path"])
        if trouble:
            problems.append(f"synthetic.expect.json_path: {trouble}")
        if entry["method"] == "HEAD":
            problems.append("synthetic.expect.json_path: an answer to HEAD has no body, expected synthetic.expect.header")
    if not expect["value"].strip():
        problems.append("synthetic.expect.value is empty, expected what only the new version answers")
    tls = Tls(bool(entry["validate_certs"]), entry.get("ca_cert") or "")
    problems.extend(tls.problems(lambda option: f"synthetic.{option}"))
    if len(problems) > before:
        return None
    return Load(
        url=entry["url"],
        headers=tuple(sorted(headers.items())),
        expect_value=expect["value"],
        expect_header=(expect.get("header") or "").lower(),
        expect_path=expect.get("json_path") or "",
        method=entry["method"],
        secret_headers=tuple(sorted(_texts(entry.get("secret_headers") or {}).items())),
        body=entry.get("body") or "",
        rate=float(entry["rate"]),
        timeout=float(entry["timeout"]),
        max_requests=entry["max_requests"],
        when=entry["when"],
        tls=tls,
    )


def _texts(headers: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers.items()}


def _numbers(entry: dict[str, Any], problems: list[str]) -> None:
    for name, highest in (("rate", HIGHEST_RATE), ("timeout", 60.0), ("max_requests", MOST_REQUESTS)):
        value = entry[name]
        if not math.isfinite(value) or not 0 < value <= highest:
            problems.append(f"synthetic.{name} is {value}, expected a number above 0 and at most {highest:g}")


def is_needed(counted: float, at_least: float, sent: int, elapsed: float, remaining: float) -> bool:
    """Return whether users alone would not reach the floor by the end of the hold. Pure; times in seconds.

    ``counted`` are the requests so far, of which ``sent`` were sent from here. What users have sent per second they
    are taken to go on sending. Requests from here do not make it unneeded: without any, rates and percentiles of the rest
    of the hold could not be seen.
    """
    users = max(0.0, counted - sent)
    # The share first: a moment after the start the rate alone could be infinite.
    more = users * (max(0.0, remaining) / elapsed) if elapsed > 0 else 0.0
    return users + (more if more > 0 else 0.0) < at_least


def version_of(load: Load, answer: HttpAnswer) -> str | None:
    """Return what ``answer`` says of the version that gave it; None when it does not say."""
    if load.expect_header:
        return answer.headers.get(load.expect_header)
    library = jmespath_library()
    try:
        found = library.search(load.expect_path, json.loads(answer.body))
    except (ValueError, RecursionError, ArithmeticError, TypeError, AttributeError, library.exceptions.JMESPathError):
        return None
    return None if found is None else str(found)


class SyntheticLoad:
    """Sends the requests of one hold, from threads of its own, evenly spaced, never more than the load allows.

    A connection is kept per thread. When all of them wait for an answer, requests are left out, not made up for.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        secrets = Secrets(value for _name, value in load.secret_headers)
        self._client = HttpClient(load.tls, secrets)
        self._headers = {**MARKS, **dict(load.headers), **dict(load.secret_headers)}
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._next = 0.0
        self._started = False
        self.sent = 0
        self._answered = 0
        self._failed = 0
        self._statuses: Counter[int] = Counter()
        self._last_failure = ""
        self.misrouted = ""

    def probe(self) -> str:
        """Return why the header does not lead to the new version, or an empty text when it does."""
        for _probe in range(PROBES):
            answer: HttpAnswer | None = None
            seen: str | None = None
            reason = ""
            for attempt in range(_ATTEMPTS):
                if attempt and self._stopped.wait(_PAUSE):
                    return "it was interrupted"
                try:
                    answer = self._send()
                except HttpError as error:
                    reason = self._client.secrets.mask(error.message)
                    continue
                seen = version_of(self.load, answer)
                if seen is not None:
                    break
                reason = f"its answer, HTTP {answer.status}, does not say which version gave it"
            if seen is None:
                return f"{self.load}: {reason}; expected {self._expected()}"
            if seen != self.load.expect_value:
                return f"{self.load} was answered by '{one_line(seen, 40)}', expected {self._expected()}: the header route does not lead to it"
        return ""

    def steer(self, wanted: bool) -> bool:
        """Send from now on, or pause; return whether that is a change."""
        if self._stopped.is_set() or wanted == self._wanted.is_set():
            return False
        if not wanted:
            self._wanted.clear()
            return True
        if self.exhausted or self.misrouted:
            return False
        self._wanted.set()
        if not self._started:
            self._started = True
            for number in range(min(_WORKERS, math.ceil(self.load.rate * self.load.timeout))):
                threading.Thread(target=self._work, name=f"synthetic {number}", daemon=True).start()
        return True

    def stop(self) -> None:
        """Send nothing more. Also called from a signal handler, so it takes no lock."""
        self._stopped.set()
        self._wanted.clear()

    @property
    def exhausted(self) -> bool:
        return self.sent >= self.load.max_requests

    def result(self) -> dict[str, Any]:
        """What was sent and what came back. Requests under way when it stopped are sent, but neither answered nor failed."""
        with self._lock:
            return {
                "sent": self.sent,
                "answered": self._answered,
                "failed": self._failed,
                "statuses": {str(status): number for status, number in sorted(self._statuses.items())},
                "last_failure": self._last_failure,
                "misrouted": self.misrouted,
            }

    def _expected(self) -> str:
        where = f"header {self.load.expect_header}" if self.load.expect_header else self.load.expect_path
        return f"{where} to be '{self.load.expect_value}'"

    def _send(self) -> HttpAnswer:
        load = self.load
        return self._client.send(load.method, load.url, load.timeout, self._headers, data=load.body.encode() or None)

    def _work(self) -> None:
        while not self._stopped.is_set():
            if not self._wanted.wait(0.1):
                continue
            pause = self._take_turn()
            if pause is None:
                return
            if pause > 0:
                self._stopped.wait(pause)
                continue
            self._send_one()

    def _take_turn(self) -> float | None:
        """Return 0 for a turn, the seconds until there may be one, or None when there is none any more."""
        with self._lock:
            if self._stopped.is_set() or self.exhausted or self.misrouted:
                return None
            now = time.monotonic()
            if not self._wanted.is_set():
                return 0.05
            if now < self._next:
                return min(self._next - now, 0.25)
            # Never earlier than now: what was missed while every thread waited must not come as a burst.
            self._next = max(self._next, now - 1 / self.load.rate) + 1 / self.load.rate
            self.sent += 1
            return 0.0

    def _send_one(self) -> None:
        try:
            answer = self._send()
        except Exception as error:
            # A thread that dies silently would look like an answer that never comes.
            reason = error.message if isinstance(error, HttpError) else type(error).__name__
            with self._lock:
                self._failed += 1
                self._last_failure = self._client.secrets.mask(reason)
            return
        seen = version_of(self.load, answer)
        with self._lock:
            self._answered += 1
            self._statuses[answer.status] += 1
            if seen is not None and seen != self.load.expect_value and not self.misrouted:
                self.misrouted = one_line(seen, 40)
                self._wanted.clear()
