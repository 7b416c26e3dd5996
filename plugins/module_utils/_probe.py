# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP and WebSocket checks of a service, concurrent and with deadlines. Private to this collection.

Reading (``_probe_http.py``, ``_probe_websocket.py``) and deciding (``_probe_verdict.py``, by ``_probe_rules.py``) are separate.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _probe_http, _probe_verdict, _probe_websocket
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._probe_plan import Plan

try:
    import requests
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
        with _probe_http.session_of(plan) as session:
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
    return [ready.get(index) or _probe_verdict.unfinished(check, why) for index, check in enumerate(plan.checks)]


def _run_one(
    session: Any, plan: Plan, check: Mapping[str, Any], left: Callable[[], float], stop: threading.Event
) -> dict[str, Any]:
    try:
        if check["websocket"] is not None:
            answers = _repeated(check, left, lambda: _probe_websocket.call_websocket(plan, check, left))
            result = _probe_verdict.judge_websocket(check, answers)
        else:
            answers = _repeated(check, left, lambda: _probe_http.call_http(session, plan, check, left, stop))
            result = _probe_verdict.judge_http(check, answers)
    except Exception as error:
        # A thread that dies without a word would look like a deadline; say what it was, and fail the check.
        return _probe_verdict.unfinished(check, f"internal error: {type(error).__name__}: {one_line(error, 120)}")
    if len(answers) < check["repeat"]:
        seen = f"{len(answers)} calls before the deadline of {plan.deadline:g} s"
        late = _probe_verdict.unfinished(check, seen)["problems"][0]
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
