# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Figures from the JSON answer of any HTTP address: one number by a JMESPath expression, or a reason why not. Private to this collection.

The same rules as for Prometheus: exactly one finite number is a figure; null, a text, a list, another status is none.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import ERROR, GOOD, NO_DATA, Reading
from ansible_collections.signal.rollout.plugins.module_utils._http import (
    HttpClient,
    HttpError,
    Secrets,
    Tls,
    header_problems,
    url_problem,
)
from ansible_collections.signal.rollout.plugins.module_utils._question import Question, Request

SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "json_path": {"type": "str", "required": True},
    "time_path": {"type": "str"},
    "method": {"type": "str", "default": "GET", "choices": ["GET", "POST"]},
    "body": {"type": "str"},
    "headers": {"type": "dict", "no_log": True},
    "token": {"type": "str", "no_log": True},
    "status": {"type": "list", "elements": "int", "default": []},
    "timeout": {"type": "float", "default": 5.0},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
}

LONGEST_TIMEOUT = 60.0


@dataclass(frozen=True)
class Answer:
    """A JSON document, and the unix time at which it was there."""

    document: Any
    at: float


def read_question(entry: dict[str, Any], problems: list[str]) -> Question | None:
    """Return the question that the option ``http`` of a metric describes; append what is wrong with it to ``problems``.

    Raises :class:`MissingLibrary` when the library for the paths is not installed.
    """
    before = len(problems)
    trouble = url_problem(entry.get("url") or "")
    if trouble:
        problems.append(f"http.url: {trouble}")
    for name in ("json_path", "time_path"):
        expression = entry.get(name)
        trouble = expression_problem(expression) if expression is not None else ""
        if trouble:
            problems.append(f"http.{name}: {trouble}")
    if entry.get("body") is not None and entry["method"] != "POST":
        problems.append("http.body: it belongs to method POST")
    headers = {str(name): str(value) for name, value in (entry.get("headers") or {}).items()}
    problems.extend(header_problems("http.headers", headers))
    problems.extend(header_problems("http.token", {"Authorization": entry.get("token") or ""}))
    if entry.get("token") and any(name.lower() == "authorization" for name in headers):
        problems.append("http.token: http.headers has an Authorization too, expected one way to authenticate")
    wrong = [status for status in entry["status"] if not 100 <= status <= 599]
    if wrong:
        problems.append(f"http.status: {wrong[0]} is no status code, expected 100 to 599")
    timeout = entry["timeout"]
    if not math.isfinite(timeout) or not 0 < timeout <= LONGEST_TIMEOUT:
        problems.append(f"http.timeout is {timeout} s, expected a number above 0 and at most {LONGEST_TIMEOUT:g}")
    tls = Tls(bool(entry["validate_certs"]), *(entry.get(name) or "" for name in ("ca_cert", "client_cert", "client_key")))
    problems.extend(tls.problems(lambda option: f"http.{option}"))
    if len(problems) > before:
        return None
    request = Request(
        url=entry["url"],
        method=entry["method"],
        headers=tuple(sorted(headers.items())),
        token=entry.get("token") or "",
        body=entry.get("body") or "",
        timeout=float(timeout),
        statuses=tuple(entry["status"]),
        validate_certs=tls.validate_certs,
        ca_cert=tls.ca_cert,
        client_cert=tls.client_cert,
        client_key=tls.client_key,
    )
    return Question(entry["json_path"], request, entry.get("time_path") or "")


def jmespath_library() -> ModuleType:
    """Return the library for JMESPath; raises :class:`MissingLibrary`. Only gates with expressions need it."""
    try:
        import jmespath
    except ImportError:
        jmespath = None  # type: ignore[assignment]
    return require("jmespath", jmespath)


def expression_problem(expression: str) -> str:
    library = jmespath_library()
    try:
        library.compile(expression)
        # Whether its functions exist shows only when they are called.
        with contextlib.suppress(library.exceptions.JMESPathTypeError):
            library.search(expression, None)
    except library.exceptions.JMESPathError as error:
        return f"'{one_line(expression, 80)}' is no JMESPath expression: {one_line(error, 120)}"
    return ""


class HttpJson:
    """Asks the addresses of questions; one client for each way to connect."""

    def __init__(self) -> None:
        self._clients: dict[Request, HttpClient] = {}

    def prepare(self, request: Request) -> None:
        """Make the client of ``request``, before threads use it."""
        if request not in self._clients:
            tls = Tls(request.validate_certs, request.ca_cert, request.client_cert, request.client_key)
            secrets = Secrets([request.token, *(value for _name, value in request.headers)])
            self._clients[request] = HttpClient(tls, secrets)

    def fetch(self, request: Request) -> Answer | Reading:
        """Return the JSON answer to ``request``, or the reading that says why there is none. Never raises."""
        client = self._clients[request]
        headers = {"Accept": "application/json", "User-Agent": "signal.rollout", **dict(request.headers)}
        if request.token:
            headers["Authorization"] = f"Bearer {request.token}"
        try:
            answer = client.send(request.method, request.url, request.timeout, headers, data=request.body.encode() or None)
        except HttpError as error:
            return Reading(ERROR, detail=client.secrets.mask(error.message))
        at, status, body = time.time(), answer.status, answer.body
        fine = status in request.statuses if request.statuses else 200 <= status <= 299
        beginning = one_line(client.secrets.mask(body[:2000].decode(errors="backslashreplace")), 80) or "the answer is empty"
        if not fine:
            expected = ", ".join(map(str, request.statuses)) or "200 to 299"
            hint = ", and redirects are not followed" if 300 <= status < 400 else ""
            return Reading(ERROR, detail=f"HTTP {status}, expected {expected}{hint}: {beginning}", at=at)
        try:
            return Answer(json.loads(body), at)
        except (ValueError, RecursionError):
            return Reading(ERROR, detail=f"the answer is not JSON: {beginning}", at=at)


def interpret(question: Question, answer: Answer) -> Reading:
    """Return the reading that ``answer`` holds for ``question``. Pure."""
    found = _find(question.text, answer.document)
    reading = found if isinstance(found, Reading) else _reading(question.text, found, answer.at)
    if reading.state != GOOD or not question.time_path:
        return reading
    found = _find(question.time_path, answer.document)
    if isinstance(found, Reading):
        return Reading(found.state, detail=f"time_path: {found.detail}", hopeless=found.hopeless)
    at = _unix_time(found)
    if at is None:
        seen = one_line(json.dumps(found), 60)
        return Reading(ERROR, detail=f"its time at {question.time_path} is {seen}, expected unix seconds or an ISO 8601 time with its zone")
    return Reading(GOOD, value=reading.value, at=at)


def _reading(path: str, found: Any, at: float) -> Reading:
    if found is None:
        return Reading(NO_DATA, detail=f"nothing at {path}", at=at)
    if isinstance(found, (list, dict)):
        kind = f"a list of {len(found)}" if isinstance(found, list) else "an object"
        detail = f"{path} gives {kind}, expected one number. Next: choose one, e.g. by [0], max() or sum()"
        return Reading(ERROR, detail=detail, hopeless=True)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        seen = one_line(json.dumps(found), 60)
        return Reading(ERROR, detail=f"{path} gives {seen}, expected a number (to_number() makes one of a text)")
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        return Reading(NO_DATA, detail=f"{path} is {'NaN' if math.isnan(value) else 'infinite'}", at=at)
    return Reading(GOOD, value=value, at=at)


def _find(expression: str, document: Any) -> Any:
    library = jmespath_library()
    try:
        return library.search(expression, document)
    except library.exceptions.JMESPathError as error:
        # A function that meets null where a number was last time: it may be back at the next poll.
        return Reading(ERROR, detail=f"{expression} cannot be applied to the answer: {one_line(error, 120)}")
    except (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return Reading(ERROR, detail=f"{expression} cannot be applied to the answer: {type(error).__name__}")


def _unix_time(found: Any) -> float | None:
    if isinstance(found, bool):
        return None
    if isinstance(found, (int, float)):
        return float(found) if abs(found) < 1e11 and math.isfinite(found) else None
    if not isinstance(found, str):
        return None
    try:
        moment = datetime.fromisoformat(found)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
