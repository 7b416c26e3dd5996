# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module service_contract: what a release needs of other services, asked of them. Private to this collection."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _contract_rules, _http, _http_json
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Reading
from ansible_collections.signal.rollout.plugins.module_utils._question import Request

VALUES_SPEC: dict[str, dict[str, Any]] = {
    "json_path": {"type": "str", "required": True},
    "equals": {"type": "raw"},
    "at_least": {"type": "float"},
    "at_most": {"type": "float"},
}
REQUESTS_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "status": {"type": "int", "default": 200},
    "latency_below_ms": {"type": "float"},
    "version": {
        "type": "dict",
        "options": {"json_path": {"type": "str", "required": True}, "range": {"type": "str", "required": True}},
    },
    "fields": {
        "type": "list",
        "elements": "dict",
        "options": {
            "json_path": {"type": "str", "required": True},
            "type": {"type": "str", "required": True, "choices": list(_contract_rules.TYPES)},
        },
    },
    "values": {"type": "list", "elements": "dict", "options": VALUES_SPEC},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "services": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "box": {"type": "str"},
            "headers": {"type": "dict", "no_log": True},
            "token": {"type": "str", "no_log": True},
            "requests": {"type": "list", "elements": "dict", "required": True, "options": REQUESTS_SPEC},
        },
    },
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "timeout": {"type": "float", "default": 5.0},
}
SUPPORTS_CHECK_MODE = True

_AT_ONCE = 8
_LIMITS = ("equals", "at_least", "at_most")


@dataclass(frozen=True)
class _Asked:
    """What one request of a service has shown."""

    path: str
    milliseconds: float | None
    breaches: list[str]
    kept: list[str]


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Ask every service and hold its answers against the contract. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys when one breaks it.
    """
    problems = _mistakes(params)
    if problems:
        raise RolloutError(f"service_contract: {'; '.join(problems)}. Nothing was asked. Next: correct the options.")
    client = _http_json.HttpJson()
    services = params["services"]
    asked = [(service, request, _request(params, service, request)) for service in services for request in service["requests"]]
    for _service, _wanted, request in asked:
        client.prepare(request)
    with ThreadPoolExecutor(min(_AT_ONCE, len(asked))) as pool:
        answers = list(pool.map(lambda entry: _ask(client, entry[1], entry[2]), asked))
    shown, proofs, broken = [], {}, []
    for service in services:
        mine = [answer for (of_service, _wanted, _request), answer in zip(asked, answers, strict=True) if of_service is service]
        breaches = [f"{answer.path}: {breach}" for answer in mine for breach in answer.breaches]
        kept = [words for answer in mine for words in answer.kept]
        slowest = max((answer.milliseconds for answer in mine if answer.milliseconds is not None), default=None)
        shown.append(
            {"name": service["name"], "ok": not breaches, "breaches": breaches, "kept": kept, "requests": len(mine), "slowest_ms": slowest}
        )
        broken += [f"{service['name']} {breach}" for breach in breaches]
        line = "; ".join(breaches) if breaches else f"{', '.join(kept)}; {len(mine)} requests, slowest {slowest} ms"
        if service["box"]:
            proofs[service["box"]] = {"state": "failed" if breaches else "proven", "evidence": one_line(f"{service['name']}: {line}")}
    result = {"changed": False, "services": shown, "proofs": proofs}
    if broken:
        raise RolloutError(
            f"service_contract: {len(broken)} breaches: {one_line('; '.join(broken), 1500)}. "
            "Next: have the service brought to what the release needs, or correct the contract.",
            **result,
        )
    return result


def _mistakes(params: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    names = [service["name"] for service in params["services"]]
    problems += [f"services names {name} twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if not names:
        problems.append("services is empty, expected at least one")
    tls = _http.Tls(params["validate_certs"], *(params[name] or "" for name in ("ca_cert", "client_cert", "client_key")))
    problems += tls.problems(lambda name: name)
    if not math.isfinite(params["timeout"]) or not 0 < params["timeout"] <= _http_json.LONGEST_TIMEOUT:
        problems.append(f"timeout is {params['timeout']} s, expected a number above 0 and at most {_http_json.LONGEST_TIMEOUT:g}")
    for service in params["services"]:
        where = f"services.{service['name']}"
        trouble = _http.url_problem(service["url"])
        problems += [f"{where}.url: {trouble}"] if trouble else []
        problems += _http.header_problems(f"{where}.headers", {**(service["headers"] or {}), "Authorization": service["token"] or ""})
        if not service["requests"]:
            problems.append(f"{where}.requests is empty, expected at least one")
        for request in service["requests"]:
            problems += [f"{where} {one_line(request['path'], 60)}: {text}" for text in _request_mistakes(request)]
    return problems


def _request_mistakes(request: dict[str, Any]) -> list[str]:
    problems = []
    if not request["path"].startswith("/"):
        problems.append("path does not begin with /")
    version = request["version"]
    trouble = _contract_rules.range_problem(version["range"]) if version else ""
    if trouble:
        problems.append(f"version.range '{one_line(version['range'], 40)}': {trouble}")
    entries = [*([version] if version else []), *(request["fields"] or []), *(request["values"] or [])]
    problems += [trouble for entry in entries if (trouble := _http_json.expression_problem(entry["json_path"]))]
    problems += [
        f"values.{entry['json_path']} has no limit, expected one of {', '.join(_LIMITS)}"
        for entry in request["values"] or []
        if all(entry[name] is None for name in _LIMITS)
    ]
    if not entries:
        problems.append("nothing is demanded of the answer, expected version, fields or values")
    return problems


def _request(params: dict[str, Any], service: dict[str, Any], wanted: dict[str, Any]) -> Request:
    return Request(
        url=service["url"].rstrip("/") + wanted["path"],
        method="GET",
        headers=tuple(sorted((str(name), str(value)) for name, value in (service["headers"] or {}).items())),
        token=service["token"] or "",
        body="",
        timeout=params["timeout"],
        statuses=(wanted["status"],),
        validate_certs=params["validate_certs"],
        ca_cert=params["ca_cert"] or "",
        client_cert=params["client_cert"] or "",
        client_key=params["client_key"] or "",
    )


def _ask(client: _http_json.HttpJson, wanted: dict[str, Any], request: Request) -> _Asked:
    began = time.perf_counter()
    answer = client.fetch(request)
    milliseconds = round((time.perf_counter() - began) * 1000, 1)
    if isinstance(answer, Reading):
        return _Asked(wanted["path"], None, [answer.detail], [])
    document = answer.document

    def find(path: str) -> Any:
        found = _http_json._find(path, document)
        return None if isinstance(found, Reading) else found

    breaches, kept = _contract_rules.breaches(wanted, find)
    slowest = wanted["latency_below_ms"]
    if slowest is not None and milliseconds >= slowest:
        breaches.append(f"answered in {milliseconds} ms, expected less than {slowest:g} ms")
    return _Asked(wanted["path"], milliseconds, breaches, kept)
