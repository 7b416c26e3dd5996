# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the answers to a check say about it, HTTP and WebSocket. Pure, private to this collection."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _probe_rules
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

MAX_BODY_BYTES = 5 * 1024 * 1024


@dataclasses.dataclass
class Answer:
    """One HTTP call: ``status`` 0 and ``error`` set when no answer came. ``seconds`` from the request to the last byte."""

    status: int = 0
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    attempts: int = 1
    error: str | None = None


@dataclasses.dataclass
class Dialogue:
    """One WebSocket connection: what was matched of ``expect``, and ``round_trips`` in seconds.

    ``seconds`` runs from connecting to the last expected message. ``last`` is the last message received before the first
    unmatched one was given up. ``opened`` is the time until the connection was accepted, in seconds; ``messages`` and
    ``pings`` count what the server has sent since, ``closed`` says that it ended the connection by a close frame.
    """

    status: int = 0
    matched: int = 0
    round_trips: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    attempts: int = 1
    opened: float = 0.0
    messages: int = 0
    pings: int = 0
    closed: bool = False
    last: str | None = None
    error: str | None = None

    @property
    def silent(self) -> bool:
        """Whether it was accepted and then brought no message at all."""
        return self.status == 101 and self.error is not None and self.messages == 0 and not self.closed


def percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """Return min, median, p99 (nearest rank: below 100 samples it is the maximum) and max in milliseconds."""
    values = sorted(value * 1000 for value in seconds)
    if not values:
        return {"min": None, "median": None, "p99": None, "max": None}
    rank = math.ceil(0.99 * len(values))
    return {
        "min": round(values[0], 3),
        "median": round(statistics.median(values), 3),
        "p99": round(values[rank - 1], 3),
        "max": round(values[-1], 3),
    }


def judge_http(check: Mapping[str, Any], answers: list[Answer]) -> dict[str, Any]:
    """Return the result of one HTTP check over all its calls. Every broken rule of every call is a problem, counted once."""
    found: list[tuple[str, str, str]] = []
    for answer in answers:
        found.extend(_http_problems(check, answer))
    latency = percentiles(answer.seconds for answer in answers if answer.error is None)
    found.extend(_latency_problem("latency_below_ms", check["latency_below_ms"], latency))
    status = next((answer.status for answer in reversed(answers) if answer.status), None)
    return _result(check, found, len(answers), status, latency, sum(answer.attempts for answer in answers))


def _http_problems(check: Mapping[str, Any], answer: Answer) -> list[tuple[str, str, str]]:
    if answer.error is not None:
        return [("connection", answer.error, "an HTTP answer")]
    found = []
    if answer.status not in check["status"]:
        body = one_line(answer.body[:400].decode("utf-8", "replace"), _probe_rules.SHOWN_CHARACTERS)
        found.append(("status", f"{answer.status}{f' ({body})' if body else ''}", _either(check["status"])))
    headers = {name.lower(): value for name, value in answer.headers.items()}
    for name, rule in (check["header"] or {}).items():
        seen = headers.get(name.lower(), _probe_rules.MISSING)
        broken = _probe_rules.broken_rules(rule, seen)
        if broken:
            found.append((f"header {name}", _probe_rules.shown(seen), " and ".join(broken)))
    if len(answer.body) > MAX_BODY_BYTES:
        found.append(("body", f"more than {MAX_BODY_BYTES} bytes", f"at most {MAX_BODY_BYTES} bytes"))
        return found
    text = answer.body.decode("utf-8", "replace")
    if check["contains"] is not None and check["contains"] not in text:
        found.append(("contains", one_line(text, _probe_rules.SHOWN_CHARACTERS) or "an empty body", f"a body with {_probe_rules.shown(check['contains'])}"))
    if check["json"]:
        found.extend(_json_problems(check["json"], text))
    return found


def _json_problems(rules: Mapping[str, Any], text: str) -> list[tuple[str, str, str]]:
    try:
        document = _probe_rules.read_json(text)
    except (ValueError, RecursionError):
        return [("json", one_line(text, _probe_rules.SHOWN_CHARACTERS) or "an empty body", "a JSON document")]
    found = []
    for path, rule in rules.items():
        seen = _probe_rules.lookup(document, path)
        broken = _probe_rules.broken_rules(rule, seen)
        if broken:
            found.append((f"json {path or '$'}", _probe_rules.shown(seen), " and ".join(broken)))
    return found


def judge_websocket(check: Mapping[str, Any], dialogues: list[Dialogue]) -> dict[str, Any]:
    """Return the result of one WebSocket check over all its connections."""
    options = check["websocket"]
    found: list[tuple[str, str, str]] = []
    for dialogue in dialogues:
        if dialogue.status != 101:
            found.append(("connection", dialogue.error or f"status {dialogue.status}", "a WebSocket (status 101)"))
            continue
        if dialogue.matched < len(options["expect"]):
            wanted = options["expect"][dialogue.matched]
            seen = dialogue.error or "nothing"
            if dialogue.last is not None:
                seen += f"; the last message was {one_line(dialogue.last, _probe_rules.SHOWN_CHARACTERS)}"
            elif dialogue.silent:
                seen += f"; accepted after {dialogue.opened:.3g} s, since then {dialogue.pings} pings and no message"
            found.append((f"websocket.expect[{dialogue.matched}]", seen, f"a message with {_probe_rules.shown(wanted)}"))
        elif dialogue.error is not None or len(dialogue.round_trips) < options["round_trips"]:
            if options["round_trips"]:
                seen = f"{len(dialogue.round_trips)} ({dialogue.error or 'no answer'})"
                found.append(("websocket.round_trips", seen, str(options["round_trips"])))
            else:
                found.append(("websocket", dialogue.error or "nothing", "a conversation without an error"))
    trips = [value for dialogue in dialogues for value in dialogue.round_trips]
    connections = percentiles(dialogue.seconds for dialogue in dialogues if dialogue.status == 101 and not dialogue.error)
    latency = percentiles(trips) if options["round_trips"] else connections
    found.extend(_latency_problem("websocket.latency_below_ms", options["latency_below_ms"], latency))
    found.extend(_latency_problem("latency_below_ms", check["latency_below_ms"], connections))
    status = next((dialogue.status for dialogue in reversed(dialogues) if dialogue.status), None)
    return _result(check, found, len(dialogues), status, latency, sum(dialogue.attempts for dialogue in dialogues))


def _latency_problem(rule: str, limit: float | None, latency: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    if limit is None:
        return []
    if latency["p99"] is None:
        return [(rule, "no measurement", f"a p99 below {limit:g} ms")]
    if latency["p99"] < limit:
        return []
    return [(rule, f"p99 {latency['p99']:g} ms (median {latency['median']:g} ms)", f"below {limit:g} ms")]


def _result(
    check: Mapping[str, Any],
    found: list[tuple[str, str, str]],
    calls: int,
    status: int | None,
    latency: dict[str, float | None],
    attempts: int,
) -> dict[str, Any]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for rule, seen, expected in found:
        grouped.setdefault((rule, expected), []).append(seen)
    problems = []
    for (rule, expected), values in grouped.items():
        times = f" in {len(values)} of {calls} calls" if calls > 1 and not rule.endswith("latency_below_ms") else ""
        problems.append(
            {
                "rule": rule,
                "seen": values[0],
                "expected": expected,
                "message": f"{rule}: {values[0]}{times}, expected {expected}",
            }
        )
    return {
        "name": check["name"],
        "ok": not problems,
        "status": status,
        "problems": problems,
        "latency_ms": latency,
        "calls": calls,
        "attempts": attempts,
    }


def unfinished(check: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return the result of a check that did not come to an end."""
    return _result(check, [("deadline", reason, "an answer")], 0, None, percentiles([]), 0)


def _either(values: Iterable[int]) -> str:
    return " or ".join(str(value) for value in values)
