# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP and WebSocket checks of a service, concurrent and with deadlines. Private to this collection.

Reading (:func:`call_http`, :func:`call_websocket`) and deciding (:func:`judge_http`, :func:`judge_websocket`) are
separate: the deciding functions touch no network. Answers are data; nothing in them is ever evaluated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import math
import queue
import re
import shlex
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import (
    RolloutError,
    one_line,
    require,
)

try:
    import requests
    import requests.certs
    import requests.utils
except ImportError:
    requests = None

try:
    import websocket
except ImportError:
    websocket = None

METHODS = ["GET", "HEAD", "OPTIONS"]

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "base_url": {"type": "str", "required": True},
    "host_header": {"type": "str"},
    "headers": {"type": "dict", "no_log": True},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
    "timeout": {"type": "float", "default": 5.0},
    "deadline": {"type": "float", "default": 60.0},
    "concurrency": {"type": "int", "default": 8},
    "retries": {"type": "int", "default": 0},
    "checks": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "method": {"type": "str", "default": "GET", "choices": METHODS},
            "status": {"type": "list", "elements": "int", "default": [200]},
            "json": {"type": "dict"},
            "contains": {"type": "str"},
            "header": {"type": "dict"},
            "latency_below_ms": {"type": "float"},
            "repeat": {"type": "int", "default": 1},
            "websocket": {
                "type": "dict",
                "options": {
                    "send": {"type": "list", "elements": "raw", "default": []},
                    "expect": {"type": "list", "elements": "raw", "default": []},
                    "ping": {"type": "raw"},
                    "pong": {"type": "dict"},
                    "round_trips": {"type": "int", "default": 0},
                    "latency_below_ms": {"type": "float"},
                },
            },
        },
    },
}
SUPPORTS_CHECK_MODE = True

SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss"), "ws": ("http", "ws"), "wss": ("https", "wss")}
MAX_BODY_BYTES = 5 * 1024 * 1024
# A masked value shorter than this would turn up by chance in results and mangle them.
MIN_SECRET_LENGTH = 8
_RETRY_PAUSE = 0.2
_CLOSE_PAUSE = 1.0
_SHOWN_CHARACTERS = 160
_FORBIDDEN = [ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10")]
_HOST_HEADER = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _compiles(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return isinstance(pattern, str)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_MISSING = object()


# --- rules ------------------------------------------------------------------------------------------------------------


def same(expected: Any, seen: Any) -> bool:
    """Compare two JSON values strictly: true is not 1, a text is never a number; 1 and 1.0 are the same number."""
    if isinstance(expected, bool) or isinstance(seen, bool):
        return isinstance(expected, bool) and isinstance(seen, bool) and expected == seen
    if isinstance(expected, dict) and isinstance(seen, dict):
        return expected.keys() == seen.keys() and all(same(expected[key], seen[key]) for key in expected)
    if isinstance(expected, list) and isinstance(seen, list):
        return len(expected) == len(seen) and all(same(left, right) for left, right in zip(expected, seen))
    if isinstance(expected, (int, float)) and isinstance(seen, (int, float)):
        return expected == seen
    return type(expected) is type(seen) and expected == seen


def _length_at_least(limit: int, seen: Any) -> bool:
    return isinstance(seen, (str, list, dict)) and len(seen) >= limit


def _matches(pattern: str, seen: Any) -> bool:
    return isinstance(seen, str) and re.search(pattern, seen[:10_000]) is not None


# What each rule demands of its own argument, in words and as a test; and what it says about a value.
_RULES: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any, Any], bool]]] = {
    "above": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen > limit),
    "at_least": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen >= limit),
    "below": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen < limit),
    "at_most": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen <= limit),
    "equals": ("any value", lambda argument: True, same),
    "one_of": (
        "a list with at least one value",
        lambda argument: isinstance(argument, list) and bool(argument),
        lambda values, seen: any(same(value, seen) for value in values),
    ),
    "exists": (
        "a boolean",
        lambda argument: isinstance(argument, bool),
        lambda wanted, seen: (seen is not _MISSING) is wanted,
    ),
    "type": (
        f"one of {', '.join(_TYPES)}",
        lambda argument: isinstance(argument, str) and argument in _TYPES,
        lambda name, seen: _TYPES[name](seen),
    ),
    "length_at_least": (
        "an integer of 0 or more",
        lambda argument: _TYPES["integer"](argument) and argument >= 0,
        _length_at_least,
    ),
    "matches": ("a regular expression", _compiles, _matches),
}


def rule_problems(rule: Any) -> list[str]:
    """Return why ``rule`` is no usable rule. A value that is no dictionary is one: it must be equal."""
    if not isinstance(rule, dict):
        return []
    if not rule:
        return ["an empty rule, expected at least one of " + ", ".join(_RULES)]
    problems = []
    for name, argument in rule.items():
        if name not in _RULES:
            problems.append(f"unknown rule '{one_line(name, 40)}', expected {', '.join(_RULES)} (a dictionary: use equals)")
        elif not _RULES[name][1](argument):
            problems.append(f"rule {name} has {shown(argument)}, expected {_RULES[name][0]}")
    return problems


def broken_rules(rule: Any, seen: Any) -> list[str]:
    """Return in words the rules that ``seen`` does not keep; ``_MISSING`` stands for a value that is not there."""
    if not isinstance(rule, dict):
        rule = {"equals": rule}
    broken = []
    for name, argument in rule.items():
        absent = seen is _MISSING and name != "exists"
        if absent or not _RULES[name][2](argument, seen):
            broken.append(_rule_text(name, argument))
    return broken


def _rule_text(name: str, argument: Any) -> str:
    if name == "exists":
        return "present" if argument else "absent"
    if name == "equals":
        return shown(argument)
    return f"{name.replace('_', ' ')} {shown(argument)}"


def lookup(document: Any, path: str) -> Any:
    r"""Return the value at a dotted path (``checks.database``, ``data.0.delta``), or ``_MISSING``.

    Numbers count list elements from 0. A dot that belongs to a key is written ``\.``. An empty path, or ``$``, is the whole.
    """
    if path in ("", "$"):
        return document
    value = document
    for part in re.split(r"(?<!\\)\.", path):
        key = part.replace("\\.", ".")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return _MISSING
    return value


def subset(expected: Any, seen: Any, top: bool = True) -> bool:
    """Tell whether a received message holds all that ``expected`` names.

    Dictionaries may have more keys than expected, lists must be as long; inside a message a dictionary of rules
    (``{"above": 0}``) applies to the value. The message itself is never read as rules, so that its keys may be called ``type``.
    """
    if isinstance(expected, dict):
        if not top and is_rule(expected):
            return not broken_rules(expected, seen)
        return isinstance(seen, dict) and all(
            subset(value, seen.get(key, _MISSING), top=False) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(seen, list)
            and len(expected) == len(seen)
            and all(subset(left, right, top=False) for left, right in zip(expected, seen))
        )
    return seen is not _MISSING and same(expected, seen)


def is_rule(value: Any) -> bool:
    """Tell whether a dictionary inside an expected message is meant as rules."""
    return isinstance(value, dict) and bool(value) and not rule_problems(value)


def shown(value: Any) -> str:
    """Return a value for a message: as JSON, on one line, shortened."""
    if value is _MISSING:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return one_line(text, _SHOWN_CHARACTERS)


# --- answers and the decision -----------------------------------------------------------------------------------------


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
        body = one_line(answer.body[:400].decode("utf-8", "replace"), _SHOWN_CHARACTERS)
        found.append(("status", f"{answer.status}{f' ({body})' if body else ''}", _either(check["status"])))
    headers = {name.lower(): value for name, value in answer.headers.items()}
    for name, rule in (check["header"] or {}).items():
        seen = headers.get(name.lower(), _MISSING)
        broken = broken_rules(rule, seen)
        if broken:
            found.append((f"header {name}", shown(seen), " and ".join(broken)))
    if len(answer.body) > MAX_BODY_BYTES:
        found.append(("body", f"more than {MAX_BODY_BYTES} bytes", f"at most {MAX_BODY_BYTES} bytes"))
        return found
    text = answer.body.decode("utf-8", "replace")
    if check["contains"] is not None and check["contains"] not in text:
        found.append(("contains", one_line(text, _SHOWN_CHARACTERS) or "an empty body", f"a body with {shown(check['contains'])}"))
    if check["json"]:
        found.extend(_json_problems(check["json"], text))
    return found


def _json_problems(rules: Mapping[str, Any], text: str) -> list[tuple[str, str, str]]:
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return [("json", one_line(text, _SHOWN_CHARACTERS) or "an empty body", "a JSON document")]
    found = []
    for path, rule in rules.items():
        seen = lookup(document, path)
        broken = broken_rules(rule, seen)
        if broken:
            found.append((f"json {path or '$'}", shown(seen), " and ".join(broken)))
    return found


def _refuse_constant(name: str) -> None:
    # Python would read NaN and Infinity, which are no JSON and compare false with everything.
    raise ValueError(name)


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
                seen += f"; the last message was {one_line(dialogue.last, _SHOWN_CHARACTERS)}"
            elif dialogue.silent:
                seen += f"; accepted after {dialogue.opened:.3g} s, since then {dialogue.pings} pings and no message"
            found.append((f"websocket.expect[{dialogue.matched}]", seen, f"a message with {shown(wanted)}"))
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


# --- options ----------------------------------------------------------------------------------------------------------


class Plan:
    """The validated options. Raises :class:`RolloutError` that names every unusable value at once."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self.base_url: str = params["base_url"]
        self.timeout: float = params["timeout"]
        self.deadline: float = params["deadline"]
        self.concurrency: int = params["concurrency"]
        self.retries: int = params["retries"]
        self.host_header: str | None = params["host_header"]
        self.validate_certs: bool = params["validate_certs"]
        self.ca_cert: str | None = params["ca_cert"]
        self.headers: dict[str, str] = {}
        self.checks: list[dict[str, Any]] = params["checks"]
        self._check_base_url()
        self._check_headers(params["headers"] or {})
        for name, low, high, unit in (
            ("timeout", 0.01, 300, " seconds"),
            ("deadline", 0.1, 3600, " seconds"),
            ("concurrency", 1, 64, ""),
            ("retries", 0, 10, ""),
        ):
            if not low <= params[name] <= high:
                self.problems.append(f"{name} is {params[name]:g}, expected {low:g} to {high:g}{unit}")
        if not self.checks:
            self.problems.append("checks is empty, expected at least one")
        for index, check in enumerate(self.checks):
            self._check_check(f"checks[{index}]", check)
        names = [check["name"] for check in self.checks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problems.append(f"checks has '{one_line(name, 60)}' {names.count(name)} times, expected different names")
        if self.problems:
            raise RolloutError(f"endpoint_probe cannot use its options: {'; '.join(self.problems)}")

    def url(self, check: Mapping[str, Any]) -> str:
        """Return the address of a check, with the scheme that fits it."""
        scheme, rest = self.base_url.split("://", 1)
        wanted = SCHEMES[scheme.lower()][1 if check["websocket"] is not None else 0]
        return requests.utils.requote_uri(f"{wanted}://{rest.rstrip('/')}{check['path']}")

    @property
    def verify(self) -> bool | str:
        return (self.ca_cert or True) if self.validate_certs else False

    def _check_base_url(self) -> None:
        url = self.base_url
        rule = "expected http://, https://, ws:// or wss:// with a host, and no user, query or fragment"
        if any(ord(character) <= 32 or ord(character) == 127 for character in url):
            self.problems.append(f"base_url holds a control character or space, {rule}")
            return
        try:
            parts = urlsplit(url)
            port_in_range = parts.port is None or parts.port > 0
        except ValueError as error:
            self.problems.append(f"base_url cannot be read ({one_line(error, 80)}), {rule}")
            return
        if "@" in parts.netloc:
            # The part before the @ may be a password, so the address is not repeated.
            self.problems.append(f"base_url holds a user or password, {rule}; credentials go into headers")
        elif parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment or not port_in_range:
            self.problems.append(f"base_url is '{one_line(url, 120)}', {rule}")
        elif _is_link_local(parts.hostname):
            self.problems.append(f"base_url names the link-local address {parts.hostname}, which is never a service to release")
        if self.host_header is not None and not _HOST_HEADER.fullmatch(self.host_header):
            self.problems.append(f"host_header is '{one_line(self.host_header, 80)}', expected a host name, optionally with a port")
        if self.ca_cert and not self.validate_certs:
            self.problems.append("ca_cert is given although validate_certs is false, expected one of the two")

    def _check_headers(self, headers: Mapping[str, Any]) -> None:
        for name, value in headers.items():
            text = str(value)
            where = f"headers['{one_line(name, 40)}']"
            if not _HEADER_NAME.fullmatch(name):
                self.problems.append(f"{where} is no header name")
            elif name.lower() == "host":
                self.problems.append(f"{where}: expected the option host_header instead")
            elif any(ord(character) < 32 or ord(character) > 255 or ord(character) == 127 for character in text):
                self.problems.append(f"{where} holds a control or non-Latin character ({len(text)} characters in all)")
            elif len(text) < MIN_SECRET_LENGTH:
                self.problems.append(
                    f"{where} has {len(text)} characters, expected at least {MIN_SECRET_LENGTH}: header values are masked "
                    "in all output, and a shorter one would mangle it"
                )
            else:
                self.headers[name] = text

    def _check_check(self, where: str, check: Mapping[str, Any]) -> None:
        label = f"{where} ({one_line(check['name'], 60)})"
        path = check["path"]
        if not path.startswith("/") or "#" in path or any(ord(character) <= 32 or ord(character) == 127 for character in path):
            self.problems.append(f"{label}: path is '{one_line(path, 80)}', expected /... without spaces, control characters or #")
        bad = [code for code in check["status"] if not 100 <= code <= 599]
        if bad or not check["status"]:
            self.problems.append(f"{label}: status is {check['status']}, expected codes from 100 to 599")
        if not 1 <= check["repeat"] <= 10_000:
            self.problems.append(f"{label}: repeat is {check['repeat']}, expected 1 to 10000")
        self._check_limit(label, "latency_below_ms", check["latency_below_ms"])
        for option in ("json", "header"):
            for key, rule in (check[option] or {}).items():
                self.problems.extend(f"{label}: {option} {one_line(key, 60)}: {text}" for text in rule_problems(rule))
        if check["websocket"] is not None:
            self._check_websocket(label, check)
        elif check["method"] != "GET" and (check["json"] or check["contains"] is not None):
            self.problems.append(f"{label}: method is {check['method']}, expected GET for a check of the body")

    def _check_websocket(self, label: str, check: Mapping[str, Any]) -> None:
        options = check["websocket"]
        unused = [name for name in ("json", "contains", "header") if check[name]]
        if unused or check["method"] != "GET" or check["status"] != [200]:
            self.problems.append(f"{label}: expected neither method, status, json, contains nor header beside websocket")
        if not 0 <= options["round_trips"] <= 10_000:
            self.problems.append(f"{label}: websocket.round_trips is {options['round_trips']}, expected 0 to 10000")
        if (options["ping"] is None) != (options["pong"] is None):
            self.problems.append(f"{label}: websocket.ping and websocket.pong belong together, expected both or neither")
        if options["latency_below_ms"] is not None and not options["round_trips"]:
            self.problems.append(f"{label}: websocket.latency_below_ms needs websocket.round_trips of at least 1")
        self._check_limit(label, "websocket.latency_below_ms", options["latency_below_ms"])
        for index, message in enumerate(options["expect"]):
            if not isinstance(message, (dict, str)):
                self.problems.append(f"{label}: websocket.expect[{index}] is {shown(message)}, expected a dictionary or a text")

    def _check_limit(self, label: str, name: str, limit: float | None) -> None:
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            self.problems.append(f"{label}: {name} is {limit:g}, expected more than 0 ms")


def _is_link_local(host: str) -> bool:
    """Tell whether ``host`` is or resolves to a link-local address, where clouds keep their instances' credentials."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for entry in found:
        address = ipaddress.ip_address(str(entry[4][0]).split("%", 1)[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if any(mapped.version == network.version and mapped in network for network in _FORBIDDEN):
            return True
    return False


# --- calls ------------------------------------------------------------------------------------------------------------


def call_http(session: Any, plan: Plan, check: Mapping[str, Any], left: Callable[[], float], stop: threading.Event) -> Answer:
    """Make one call; a connection that fails is tried again ``plan.retries`` times. Never raises for the network."""
    url = plan.url(check)
    answer = Answer()
    for attempt in range(1, plan.retries + 2):
        limit = min(plan.timeout, left())
        if limit <= 0:
            return Answer(attempts=attempt, error="the overall deadline has passed")
        started = time.perf_counter()
        try:
            with session.request(check["method"], url, timeout=limit, allow_redirects=False, stream=True, verify=plan.verify) as got:
                body = _read_body(got, started + limit)
                seconds = time.perf_counter() - started
                return Answer(got.status_code, dict(got.headers), body, seconds, attempt)
        except requests.exceptions.SSLError as error:
            return Answer(attempts=attempt, error=f"TLS: {_cause(error)}")
        except requests.exceptions.ConnectTimeout:
            answer = Answer(attempts=attempt, error=f"no connection within {limit:.3g} s")
        except requests.exceptions.ConnectionError as error:
            answer = Answer(attempts=attempt, error=_cause(error))
        except (requests.exceptions.Timeout, TimeoutError):
            return Answer(attempts=attempt, error=f"no complete answer within {limit:.3g} s")
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            return Answer(attempts=attempt, error=_cause(error))
        if attempt <= plan.retries and stop.wait(min(_RETRY_PAUSE, max(0.0, left()))):
            break
    return answer


def _read_body(response: Any, deadline: float) -> bytes:
    """Read the body in pieces as they arrive: a server that sends a byte now and then must not outlast the timeout."""
    body = bytearray()
    read = getattr(response.raw, "read1", None) or response.raw.read
    while True:
        if time.perf_counter() > deadline:
            raise TimeoutError
        try:
            piece = read(65536, decode_content=True)
        except Exception as error:
            if "timed out" in str(error):
                raise TimeoutError from None
            raise requests.exceptions.ConnectionError(error) from error
        body += piece
        if not piece or len(body) > MAX_BODY_BYTES:
            return bytes(body)


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a network error, without addresses and without the library's wrapping."""
    seen: set[int] = set()
    best = error
    current: Any = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        best = current
        inner = getattr(current, "reason", None)
        candidates = [inner, *current.args, current.__cause__, current.__context__]
        current = next((item for item in candidates if isinstance(item, BaseException) and id(item) not in seen), None)
    if isinstance(best, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {best.verify_message}"
    if isinstance(best, OSError) and best.strerror:
        return one_line(best.strerror, 120)
    return one_line(best, 120) or type(best).__name__


def call_websocket(plan: Plan, check: Mapping[str, Any], left: Callable[[], float]) -> Dialogue:
    """Hold one conversation; one that is accepted and stays silent is tried again ``plan.retries`` times.

    Nothing was answered then, so nothing is asked twice. Never raises for the network.
    """
    attempts = 0
    for _attempt in range(plan.retries + 1):
        dialogue = _converse(plan, check, left)
        attempts += dialogue.attempts
        if not dialogue.silent or not check["websocket"]["expect"] or left() <= _RETRY_PAUSE:
            break
    dialogue.attempts = attempts
    return dialogue


def _converse(plan: Plan, check: Mapping[str, Any], left: Callable[[], float]) -> Dialogue:
    """Connect, send all, wait for what is expected in order, then measure round trips."""
    options = check["websocket"]
    dialogue = Dialogue()
    started = time.perf_counter()
    deadline = time.monotonic() + min(plan.timeout, left())
    client = websocket.WebSocket(enable_multithread=False)
    try:
        _open_websocket(client, plan, plan.url(check), dialogue, deadline)
        if dialogue.status != 101:
            return dialogue
        dialogue.opened = time.perf_counter() - started
        for message in options["send"]:
            client.send(_as_text(message))
        for wanted in options["expect"]:
            _await_message(client, wanted, dialogue, deadline)
            dialogue.matched += 1
        dialogue.seconds = time.perf_counter() - started
        for number in range(options["round_trips"]):
            deadline = time.monotonic() + min(plan.timeout, left())
            dialogue.round_trips.append(_round_trip(client, options, number, dialogue, deadline))
    except _Unanswered as error:
        dialogue.error = str(error)
    except websocket.WebSocketTimeoutException:
        dialogue.error = f"nothing within {plan.timeout:.3g} s"
    except (websocket.WebSocketException, OSError, ValueError) as error:
        dialogue.error = _cause(error)
    finally:
        _close_websocket(client)
    return dialogue


class _Unanswered(Exception):
    """The awaited message did not come; the text says what came instead."""


def _open_websocket(client: Any, plan: Plan, url: str, dialogue: Dialogue, deadline: float) -> None:
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    # The library would take a proxy from the environment and connect by itself; a probe speaks to the address it was given.
    limit = max(0.001, deadline - time.monotonic())
    try:
        connection = _connect(plan, parts.hostname or "", port, limit, dialogue)
        if secure:
            context = ssl.create_default_context(cafile=plan.ca_cert or requests.certs.where())
            if not plan.validate_certs:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(connection, server_hostname=parts.hostname)
    except ssl.SSLError as error:
        dialogue.error = f"TLS: {_cause(error)}"
        return
    except TimeoutError:
        dialogue.error = f"no connection within {limit:.3g} s"
        return
    client.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        client.connect(
            url,
            socket=connection,
            redirect_limit=0,
            suppress_origin=True,
            host=plan.host_header,
            header=[f"{name}: {value}" for name, value in plan.headers.items()],
        )
        dialogue.status = 101
    except websocket.WebSocketBadStatusException as error:
        dialogue.status = error.status_code
        dialogue.error = f"status {error.status_code}"
    except websocket.WebSocketException as error:
        answer = getattr(client, "handshake_response", None)
        dialogue.status = answer.status if answer else 0
        dialogue.error = f"status {answer.status}" if answer else _cause(error)


def _connect(plan: Plan, host: str, port: int, limit: float, dialogue: Dialogue) -> socket.socket:
    dialogue.attempts = 0
    while True:
        dialogue.attempts += 1
        try:
            connection = socket.create_connection((host, port), timeout=limit)
        except OSError:
            if dialogue.attempts > plan.retries:
                raise
            time.sleep(_RETRY_PAUSE)
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _await_message(client: Any, wanted: Any, dialogue: Dialogue, deadline: float) -> None:
    """Read until a message matches; others in between are skipped, as a service may send at any time."""
    dialogue.last = None
    while True:
        text = _receive(client, deadline, websocket.ABNF.OPCODE_TEXT, dialogue)
        if _fits(wanted, text):
            return
        dialogue.last = text


def _fits(wanted: Any, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted == text
    try:
        return subset(wanted, json.loads(text, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        return False


def _receive(client: Any, deadline: float, opcode: int, dialogue: Dialogue) -> str:
    """Return the next message of that kind. Raises :class:`_Unanswered` at the deadline or when the server closes."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Unanswered("no such message in time")
        client.settimeout(left)
        try:
            kind, frame = client.recv_data_frame(control_frame=True)
        except websocket.WebSocketTimeoutException:
            raise _Unanswered("no such message in time") from None
        except websocket.WebSocketConnectionClosedException:
            raise _Unanswered("the connection was cut without a close frame") from None
        if kind == websocket.ABNF.OPCODE_CLOSE:
            dialogue.closed = True
            code = int.from_bytes(frame.data[:2], "big") if len(frame.data) >= 2 else 1005
            raise _Unanswered(f"the server closed with code {code}")
        dialogue.messages += kind == websocket.ABNF.OPCODE_TEXT
        dialogue.pings += kind == websocket.ABNF.OPCODE_PING
        if kind == opcode:
            return frame.data.decode("utf-8", "replace")


def _round_trip(client: Any, options: Mapping[str, Any], number: int, dialogue: Dialogue, deadline: float) -> float:
    started = time.perf_counter()
    if options["ping"] is not None:
        client.send(_as_text(options["ping"]))
        _await_message(client, options["pong"], dialogue, deadline)
        return time.perf_counter() - started
    payload = f"rollout-{number}"
    client.ping(payload)
    while _receive(client, deadline, websocket.ABNF.OPCODE_PONG, dialogue) != payload:
        continue
    return time.perf_counter() - started


def _as_text(message: Any) -> str:
    return message if isinstance(message, str) else json.dumps(message)


def _close_websocket(client: Any) -> None:
    # The verdict is known by now; a peer that is already gone cannot change it.
    with contextlib.suppress(websocket.WebSocketException, OSError, ValueError):
        client.close(timeout=_CLOSE_PAUSE)


# --- the engine -------------------------------------------------------------------------------------------------------


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run all checks, and report all problems of all checks. Raises :class:`RolloutError` when one is not met."""
    result: dict[str, Any] = {"changed": False, "checks": [], "failed_checks": [], "seconds": 0.0}
    started = time.monotonic()
    try:
        require("requests", requests)
        if any(check["websocket"] is not None for check in params["checks"]):
            require("websocket-client", websocket)
        plan = Plan(params)
    except RolloutError as error:
        raise RolloutError(error.message, **result) from None
    checks = _run_all(plan, context, time.monotonic() + plan.deadline)
    failed = [check for check in checks if not check["ok"]]
    result.update(
        checks=checks, failed_checks=[check["name"] for check in failed], seconds=round(time.monotonic() - started, 3)
    )
    if failed:
        raise RolloutError(_failure_message(plan, checks, failed), **result)
    # Passed, but a client would have noticed.
    result["warnings"] = [
        f"{check['name']} needed {check['attempts']} attempts for {check['calls']} call{'s' * (check['calls'] > 1)} at {plan.base_url}"
        for check in checks
        if check["attempts"] > check["calls"]
    ]
    return result


def _run_all(plan: Plan, context: Context, deadline: float) -> list[dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done = threading.Condition()
    stop = threading.Event()

    def left() -> float:
        return 0.0 if stop.is_set() else deadline - time.monotonic()

    def work() -> None:
        with _session(plan) as session:
            while left() > 0:
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                answer = _run_one(session, plan, plan.checks[index], left, stop)
                with done:
                    results[index] = answer
                    done.notify_all()

    for index in range(len(plan.checks)):
        todo.put(index)
    # Daemon threads: one that hangs in a system call must not keep the task from ending at its deadline.
    for number in range(min(plan.concurrency, len(plan.checks))):
        threading.Thread(target=work, name=f"probe-{number}", daemon=True).start()
    with done:
        while len(results) < len(plan.checks) and left() > 0 and not context.cancelled.is_set():
            done.wait(min(0.1, max(0.0, left())))
        if len(results) < len(plan.checks) and not context.cancelled.is_set():
            # Calls are limited to the deadline themselves; a moment lets them report what they saw.
            done.wait_for(lambda: len(results) == len(plan.checks), timeout=0.25)
        stop.set()
        ready = dict(results)
    why = "interrupted" if context.cancelled.is_set() else f"not finished within the deadline of {plan.deadline:g} s"
    return [ready.get(index) or unfinished(check, why) for index, check in enumerate(plan.checks)]


def _session(plan: Plan) -> Any:
    session = requests.Session()
    # Neither proxies nor .netrc passwords of the environment: the probe speaks to the address it was given, as itself.
    session.trust_env = False
    if not plan.validate_certs:
        # The user has asked for it; a warning for every call would only bury the results.
        requests.packages.urllib3.disable_warnings(requests.packages.urllib3.exceptions.InsecureRequestWarning)
    session.headers["User-Agent"] = "signal.rollout"
    session.headers.update(plan.headers)
    if plan.host_header:
        session.headers["Host"] = plan.host_header
    return session


def _run_one(
    session: Any, plan: Plan, check: Mapping[str, Any], left: Callable[[], float], stop: threading.Event
) -> dict[str, Any]:
    try:
        if check["websocket"] is not None:
            answers = _repeated(check, left, lambda: call_websocket(plan, check, left))
            result = judge_websocket(check, answers)
        else:
            answers = _repeated(check, left, lambda: call_http(session, plan, check, left, stop))
            result = judge_http(check, answers)
    except Exception as error:
        # A thread that dies without a word would look like a deadline; say what it was, and fail the check.
        return unfinished(check, f"internal error: {type(error).__name__}: {one_line(error, 120)}")
    if len(answers) < check["repeat"]:
        seen = f"{len(answers)} calls before the deadline of {plan.deadline:g} s"
        late = unfinished(check, seen)["problems"][0]
        late.update(expected=f"{check['repeat']} calls", message=f"deadline: {seen}, expected {check['repeat']} calls")
        result["problems"].append(late)
        result["ok"] = False
    return result


def _repeated(check: Mapping[str, Any], left: Callable[[], float], call: Callable[[], Any]) -> list[Any]:
    answers = [call()]
    while len(answers) < check["repeat"] and left() > 0:
        answers.append(call())
    return answers


def _failure_message(plan: Plan, checks: list[dict[str, Any]], failed: list[dict[str, Any]]) -> str:
    parts = [f"{check['name']}: " + "; ".join(item["message"] for item in check["problems"][:5]) for check in failed[:20]]
    if len(failed) > 20:
        parts.append(f"and {len(failed) - 20} more checks")
    first = next(check for check in plan.checks if check["name"] == failed[0]["name"])
    return (
        f"{len(failed)} of {len(checks)} checks failed at {plan.base_url}: {' | '.join(parts)}. Next: {_by_hand(plan, first)}"
    )


def _by_hand(plan: Plan, check: Mapping[str, Any]) -> str:
    """Return a command that repeats a check by hand, without the secret headers."""
    command = ["curl", "-sS", "-i", "--max-time", f"{plan.timeout:g}"]
    url = plan.url(check)
    if check["websocket"] is not None:
        url = "http" + url.removeprefix("ws")
        command += ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"]
        command += ["-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: cm9sbG91dC1wcm9iZS0wMQ=="]
    elif check["method"] != "GET":
        command += ["-X", check["method"]]
    if plan.host_header:
        command += ["-H", f"Host: {plan.host_header}"]
    return shlex.join([*command, url])
