# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus over HTTP: one number per query or a reason why not, several queries at once. Private to this collection.

Prometheus answers HTTP 200 in many cases that are no evidence: warnings about partial data, several series, NaN, an HTML
page of a proxy. :func:`interpret` accepts exactly one shape as a number and names everything else.
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._gate import ERROR, GOOD, NO_DATA, Reading
from ansible_collections.signal.rollout.plugins.module_utils._promql import as_duration

try:
    import requests
    import requests.adapters
    import requests.auth
except ImportError:
    requests = None  # type: ignore[assignment]

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "prometheus_url": {"type": "str", "required": True},
    "prometheus_token": {"type": "str", "no_log": True},
    "prometheus_user": {"type": "str"},
    "prometheus_password": {"type": "str", "no_log": True},
    "prometheus_headers": {"type": "dict", "no_log": True},
}
# Apart, since a module that also talks to Kubernetes has these two for that already.
TLS_SPEC: dict[str, dict[str, Any]] = {
    "validate_certs": {"type": "bool", "default": True, "aliases": ["prometheus_validate_certs"]},
    "ca_cert": {"type": "path", "aliases": ["prometheus_ca_cert"]},
}

LARGEST_ANSWER = 8 * 1024 * 1024
_LABELS_SHOWN = 3
_CHUNK = 65536


class PrometheusError(RolloutError):
    """Prometheus gave no usable answer. ``hopeless`` when the question itself is wrong, so that asking again is of no use."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class _SlowAnswer(Exception):
    """The answer was still coming when its time was over."""


def url_problem(url: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """Return what is wrong with ``url``, or an empty text. Never repeats the URL, which may hold a secret."""
    if not url or url != url.strip() or not url.isprintable() or any(ch.isspace() for ch in url):
        return "it is empty or has spaces or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"it is no URL ({one_line(error, 80)})"
    if parts.scheme not in schemes:
        return f"its scheme is '{parts.scheme}', expected {' or '.join(schemes)}"
    if not parts.hostname:
        return "it has no host"
    if port == 0:
        return "its port is 0"
    if parts.scheme.startswith("http") and (parts.username is not None or parts.password is not None):
        return "it holds a user or a password, which logs would show; use the options for them"
    return ""


def problems_of(params: dict[str, Any]) -> list[str]:
    """Return what is wrong with the connection options, before anything is sent."""
    problems = []
    trouble = url_problem(params.get("prometheus_url") or "")
    if trouble:
        problems.append(f"prometheus_url: {trouble}")
    if bool(params.get("prometheus_user")) != bool(params.get("prometheus_password")):
        problems.append("prometheus_user and prometheus_password: one is set without the other")
    if params.get("prometheus_token") and params.get("prometheus_user"):
        problems.append("prometheus_token and prometheus_user: both are set, expected one way to authenticate")
    for name in ("prometheus_token", "prometheus_user", "prometheus_password"):
        if not (params.get(name) or "").isprintable():
            problems.append(f"{name}: it has a line break or control character")
    for name, value in (params.get("prometheus_headers") or {}).items():
        if not str(name).isprintable() or not str(value).isprintable() or not str(name).strip():
            problems.append("prometheus_headers: a header has a line break or control character")
    return problems


class Prometheus:
    """Client of one server. Every thread gets its own keep-alive session."""

    def __init__(self, params: dict[str, Any], timeout: float) -> None:
        require("requests", requests)
        self.url = params["prometheus_url"].rstrip("/")
        self.timeout = timeout
        self._headers = {"Accept": "application/json", "User-Agent": "signal.rollout"}
        if params.get("prometheus_token"):
            self._headers["Authorization"] = f"Bearer {params['prometheus_token']}"
        self._headers.update({str(name): str(value) for name, value in (params.get("prometheus_headers") or {}).items()})
        self._user = (params["prometheus_user"], params["prometheus_password"]) if params.get("prometheus_user") else None
        self._verify: bool | str = params.get("ca_cert") or True if params.get("validate_certs", True) else False
        self._local = threading.local()

    def read(self, query: str) -> Reading:
        """Return the one number that ``query`` gives now. Never raises: trouble is a reading too."""
        try:
            return interpret(self.get("/api/v1/query", {"query": query, "timeout": as_duration(self.timeout)}))
        except PrometheusError as error:
            return Reading(ERROR, detail=error.message, hopeless=error.hopeless)

    def get(self, path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the whole JSON answer to a GET. Raises :class:`PrometheusError` for every other outcome."""
        deadline = time.monotonic() + self.timeout
        try:
            with self._session().get(
                self.url + path,
                params=params,
                timeout=self.timeout,
                stream=True,
                allow_redirects=False,
                verify=self._verify,
            ) as response:
                body = _body(response, deadline)
                return _payload(response.status_code, body)
        except (requests.exceptions.Timeout, _SlowAnswer):
            raise PrometheusError(f"no answer from {self.url} within {self.timeout:g} s") from None
        except requests.exceptions.SSLError as error:
            raise PrometheusError(f"TLS with {self.url} failed: {_root(error)}") from None
        except requests.exceptions.ConnectionError as error:
            raise PrometheusError(f"cannot reach {self.url}: {_root(error)}") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise PrometheusError(f"cannot ask {self.url}: {type(error).__name__}") from None

    def _session(self) -> Any:
        session = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.headers.update(self._headers)
            session.auth = _Basic(self._user)
            self._local.session = session
        return session


class _Basic:
    """Authentication that is exactly what the options say: without it, requests would add a password from a .netrc file."""

    def __init__(self, user: tuple[str, str] | None) -> None:
        self._user = user

    def __call__(self, request: Any) -> Any:
        return requests.auth.HTTPBasicAuth(*self._user)(request) if self._user else request


def _body(response: Any, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_content(_CHUNK):
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise PrometheusError(f"the answer is larger than {LARGEST_ANSWER // 1024 // 1024} MiB")
        if time.monotonic() > deadline:
            raise _SlowAnswer
        chunks.append(chunk)
    return b"".join(chunks)


def _payload(status: int, body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        if 300 <= status < 400:
            raise PrometheusError(f"HTTP {status}: a redirect, which is not followed. Next: set the final address in prometheus_url")
        beginning = one_line(body[:300].decode(errors="backslashreplace"), 80)
        raise PrometheusError(f"HTTP {status}, and the answer is not Prometheus' JSON: {beginning or 'it is empty'}")
    if status != 200 or payload.get("status") != "success":
        kind = str(payload.get("errorType") or "")
        words = one_line(payload.get("error") or payload.get("message") or payload.get("status") or "no reason given", 200)
        raise PrometheusError(f"HTTP {status}: {f'{kind}: ' if kind else ''}{words}", hopeless=status == 400 and kind == "bad_data")
    return payload


def _root(error: BaseException) -> str:
    """The innermost reason of a nested connection error, as one line."""
    current: BaseException = error
    for _level in range(8):
        inner = [getattr(current, "reason", None), *current.args, current.__cause__]
        reason = next((item for item in inner if isinstance(item, BaseException)), None)
        if reason is None:
            break
        current = reason
    text = getattr(current, "strerror", None) or str(current) or type(current).__name__
    return one_line(text, 120)


def interpret(payload: Any) -> Reading:
    """Return the reading that a successful answer to an instant query stands for. Pure.

    Accepted: a scalar, or a vector of exactly one series, with a finite value, without warnings. Everything else is NO_DATA
    (there is nothing to see) or ERROR (there is something else to see).
    """
    if not isinstance(payload, dict) or payload.get("status") != "success":
        return Reading(ERROR, detail="the answer does not say 'status: success'")
    warnings = _warnings(payload.get("warnings"))
    if warnings:
        return Reading(ERROR, detail=f"Prometheus warns: {one_line('; '.join(warnings), 200)}")
    if payload.get("isPartial"):
        return Reading(ERROR, detail="the answer is marked as partial")
    data = payload.get("data")
    kind = data.get("resultType") if isinstance(data, dict) else None
    result = data.get("result") if isinstance(data, dict) else None
    if kind == "scalar":
        return _number(result)
    if kind != "vector" or not isinstance(result, list):
        return Reading(ERROR, detail=f"the query gives a {kind or 'nothing known'}, expected one number", hopeless=kind in ("matrix", "string"))
    if not result:
        return Reading(NO_DATA, detail="no series")
    if len(result) > 1:
        return Reading(ERROR, detail=_several(result), hopeless=True)
    series = result[0]
    if not isinstance(series, dict) or "value" not in series:
        return Reading(ERROR, detail="the series has no plain value (a native histogram?), expected one number")
    return _number(series["value"])


def _warnings(found: Any) -> list[str]:
    """The warnings that make an answer unusable. Prometheus before 3.0 lists its remarks on style among them."""
    texts = found if isinstance(found, list) else [found] if found else []
    return [str(text) for text in texts if not str(text).startswith("PromQL info:")]


def _number(pair: Any) -> Reading:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str):
        return Reading(ERROR, detail="the value is not a pair of time and text")
    at = pair[0]
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
        return Reading(ERROR, detail="the value has no time")
    try:
        value = float(pair[1])
    except ValueError:
        return Reading(ERROR, detail=f"the value is '{one_line(pair[1], 40)}', expected a number")
    if not math.isfinite(value):
        words = "NaN (nothing to divide by: no traffic?)" if math.isnan(value) else "infinite"
        return Reading(NO_DATA, detail=f"the value is {words}", at=float(at))
    return Reading(GOOD, value=value, at=float(at))


def _several(result: list[Any]) -> str:
    names = [_labels(series) for series in result[:_LABELS_SHOWN]]
    more = f" and {len(result) - _LABELS_SHOWN} more" if len(result) > _LABELS_SHOWN else ""
    return f"{len(result)} series where one is expected: {', '.join(names)}{more}. Next: aggregate the query, e.g. by sum() or max()"


def _labels(series: Any) -> str:
    labels = series.get("metric") if isinstance(series, dict) else None
    if not isinstance(labels, dict):
        return "{}"
    return one_line("{" + ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}", 120)


class Lanes:
    """Asks several queries at once, each in a thread of its own, so that a slow one does not delay the others.

    The threads are daemons: a hanging name lookup or server must not keep the process alive once the gate has decided.
    """

    def __init__(self, client: Any, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        # Not SimpleQueue: when a signal handler runs longer than its get() may wait, CPython 3.11 turns the
        # time left into a negative one and waits for ever. The handler that puts traffic back does run longer.
        self._answers: queue.Queue[tuple[str, int, Reading]] = queue.Queue()
        self._inputs: dict[str, queue.SimpleQueue[tuple[int, str] | None]] = {}
        self._asked: dict[str, tuple[int, float]] = {}
        self._stuck: set[str] = set()
        self._serial = 0

    def ask(self, key: str, query: str) -> bool:
        """Send ``query`` in the lane ``key``; False while that lane still waits for its previous answer."""
        if key in self._asked or key in self._stuck:
            return False
        if key not in self._inputs:
            self._inputs[key] = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(key, self._inputs[key]), name=f"lane {key[:20]}", daemon=True).start()
        self._serial += 1
        self._asked[key] = (self._serial, time.monotonic())
        self._inputs[key].put((self._serial, query))
        return True

    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._asked)

    def answers(self, wait: float) -> list[tuple[str, Reading]]:
        """Return the answers that are there, waiting up to ``wait`` seconds for the first one."""
        found: list[tuple[str, Reading]] = []
        deadline = time.monotonic() + wait
        while not found:
            left = deadline - time.monotonic()
            try:
                self._take(self._answers.get(timeout=max(0.0, left)) if left > 0 else self._answers.get_nowait(), found)
            except queue.Empty:
                break
        while True:
            try:
                self._take(self._answers.get_nowait(), found)
            except queue.Empty:
                break
        found.extend(self._overdue())
        return found

    def close(self) -> None:
        for lane in self._inputs.values():
            lane.put(None)

    def _work(self, key: str, tasks: queue.SimpleQueue[tuple[int, str] | None]) -> None:
        while True:
            task = tasks.get()
            if task is None:
                return
            serial, query = task
            try:
                reading = self._client.read(query)
            except Exception as error:
                # A lane that dies silently would look like a slow server for ever.
                reading = Reading(ERROR, detail=f"internal error while asking: {type(error).__name__}")
            self._answers.put((key, serial, reading))

    def _take(self, answer: tuple[str, int, Reading], found: list[tuple[str, Reading]]) -> None:
        key, serial, reading = answer
        self._stuck.discard(key)
        if self._asked.get(key, (0, 0.0))[0] == serial:
            del self._asked[key]
            found.append((key, reading))

    def _overdue(self) -> list[tuple[str, Reading]]:
        # The client ends its own calls in time, save for what no timeout covers, such as a name lookup.
        now = time.monotonic()
        late = [key for key, (_serial, asked) in self._asked.items() if now - asked > self._timeout + 1.0]
        for key in late:
            del self._asked[key]
            self._stuck.add(key)
        return [(key, Reading(ERROR, detail=f"no answer within {self._timeout:g} s")) for key in late]
