# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus over HTTP: one number per query or a reason why not. Private to this collection.

Prometheus answers HTTP 200 in many cases that are no evidence: warnings about partial data, several series, NaN, an HTML
page of a proxy. :func:`interpret` accepts exactly one shape as a number and names everything else. The same goes for what
speaks its query API: Thanos, Mimir, VictoriaMetrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import ERROR, GOOD, NO_DATA, Reading
from ansible_collections.signal.rollout.plugins.module_utils._http import (
    HttpClient,
    HttpError,
    Secrets,
    Tls,
    TokenFile,
    header_problems,
    url_problem,
)
from ansible_collections.signal.rollout.plugins.module_utils._question import as_duration

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "prometheus_url": {"type": "str"},
    "prometheus_token": {"type": "str", "no_log": True},
    "prometheus_token_file": {"type": "path", "no_log": False},
    "prometheus_user": {"type": "str"},
    "prometheus_password": {"type": "str", "no_log": True},
    "prometheus_tenant": {"type": "str"},
    "prometheus_headers": {"type": "dict", "no_log": True},
    "prometheus_client_cert": {"type": "path"},
    "prometheus_client_key": {"type": "path", "no_log": False},
}
# Apart, since a module that also talks to Kubernetes has these two for that already.
TLS_SPEC: dict[str, dict[str, Any]] = {
    "validate_certs": {"type": "bool", "default": True, "aliases": ["prometheus_validate_certs"]},
    "ca_cert": {"type": "path", "aliases": ["prometheus_ca_cert"]},
}
# The same two for a module that talks to Kubernetes as well; :func:`beside_kubernetes` gives them their usual names.
BESIDE_KUBERNETES_SPEC: dict[str, dict[str, Any]] = {
    "prometheus_validate_certs": {"type": "bool", "default": True},
    "prometheus_ca_cert": {"type": "path"},
}

TENANT_HEADER = "X-Scope-OrgID"
# A longer query goes by POST: proxies and servers limit the length of an address, the shortest at 2,000 to 8,000 characters.
LONGEST_ADDRESS = 2000
_LABELS_SHOWN = 3
_REFUSED = (401, 403)


class PrometheusError(RolloutError):
    """Prometheus gave no usable answer. ``hopeless`` when the question itself is wrong, so that asking again is of no use."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


def _tls(params: dict[str, Any]) -> Tls:
    return Tls(
        validate_certs=bool(params.get("validate_certs", True)),
        ca_cert=params.get("ca_cert") or "",
        client_cert=params.get("prometheus_client_cert") or "",
        client_key=params.get("prometheus_client_key") or "",
    )


def beside_kubernetes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a module that talks to Kubernetes as well, with Prometheus' own under the names that this client knows."""
    return {**params, "validate_certs": params["prometheus_validate_certs"], "ca_cert": params["prometheus_ca_cert"]}


def problems_of(params: dict[str, Any]) -> list[str]:
    """Return what is wrong with the connection options, before anything is sent."""
    problems = []
    trouble = url_problem(params.get("prometheus_url") or "")
    if trouble:
        problems.append(f"prometheus_url: {trouble}")
    if bool(params.get("prometheus_user")) != bool(params.get("prometheus_password")):
        problems.append("prometheus_user and prometheus_password: one is set without the other")
    headers = {str(name).lower(): value for name, value in (params.get("prometheus_headers") or {}).items()}
    ways = [name for name in ("prometheus_token", "prometheus_token_file", "prometheus_user") if params.get(name)]
    if "authorization" in headers:
        ways.append("Authorization in prometheus_headers")
    if len(ways) > 1:
        both = "both are set" if len(ways) == 2 else "all are set"
        problems.append(f"{' and '.join(ways)}: {both}, expected one way to authenticate")
    if params.get("prometheus_tenant") and TENANT_HEADER.lower() in headers:
        problems.append(f"prometheus_tenant and {TENANT_HEADER} in prometheus_headers: both are set")
    for name in ("prometheus_token", "prometheus_user", "prometheus_password", "prometheus_tenant"):
        if not (params.get(name) or "").isprintable():
            problems.append(f"{name}: it has a line break or control character")
    problems.extend(header_problems("prometheus_headers", params.get("prometheus_headers") or {}))
    if params.get("prometheus_token_file"):
        try:
            TokenFile(params["prometheus_token_file"]).token()
        except HttpError as error:
            problems.append(f"prometheus_token_file: {error.message}")
    problems.extend(_tls(params).problems(lambda option: option if option == "ca_cert" else f"prometheus_{option}"))
    return problems


class Prometheus:
    """Client of one server, with a keep-alive session per thread. ``timeout`` is in seconds, for each answer."""

    def __init__(self, params: dict[str, Any], timeout: float) -> None:
        self.url = params["prometheus_url"].rstrip("/")
        self.timeout = timeout
        extra = {str(name): str(value) for name, value in (params.get("prometheus_headers") or {}).items()}
        self._secrets = Secrets([params.get("prometheus_token") or "", *extra.values()])
        self._headers = {"Accept": "application/json", "User-Agent": "signal.rollout"}
        if params.get("prometheus_token"):
            self._headers["Authorization"] = f"Bearer {params['prometheus_token']}"
        if params.get("prometheus_tenant"):
            self._headers[TENANT_HEADER] = params["prometheus_tenant"]
        self._headers.update(extra)
        self._token_file = TokenFile(params["prometheus_token_file"]) if params.get("prometheus_token_file") else None
        user = (params["prometheus_user"], params["prometheus_password"]) if params.get("prometheus_user") else None
        self._client = HttpClient(_tls(params), self._secrets, user)

    def read(self, query: str, timeout: float | None = None, at: float | None = None) -> Reading:
        """Return the one number that ``query`` gives now, or gave ``at`` a unix time. Never raises: trouble is a reading too."""
        # Thanos leaves out stores that fail unless it is told not to; others do not know the parameter.
        asked = {"query": query, "timeout": as_duration(timeout or self.timeout), "partial_response": "false"}
        if at is not None:
            asked["time"] = f"{at:.3f}"
        try:
            return interpret(self.ask("/api/v1/query", asked, timeout))
        except PrometheusError as error:
            return Reading(ERROR, detail=error.message, hopeless=error.hopeless)

    def ask(self, path: str, params: dict[str, str] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the whole JSON answer to a question. Raises :class:`PrometheusError` for every other outcome."""
        params = params or {}
        long = len(urlencode(params)) > LONGEST_ADDRESS
        try:
            headers = dict(self._headers)
            if self._token_file is not None:
                token = self._token_file.token()
                self._secrets.add(token)
                headers["Authorization"] = f"Bearer {token}"
            answer = self._client.send(
                "POST" if long else "GET",
                self.url + path,
                timeout or self.timeout,
                headers,
                params=None if long else params,
                data=params if long else None,
                shown=self.url,
            )
        except HttpError as error:
            raise PrometheusError(self._secrets.mask(error.message)) from None
        return self._payload(answer.status, answer.body)

    def _payload(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict) or (status in _REFUSED and "status" not in payload):
            if 300 <= status < 400:
                raise PrometheusError(f"HTTP {status}: a redirect, which is not followed. Next: set the final address in prometheus_url")
            beginning = one_line(self._secrets.mask(body[:2000].decode(errors="backslashreplace")), 80) or "it is empty"
            if status in _REFUSED:
                raise PrometheusError(f"HTTP {status}, the credentials or the tenant are refused: {beginning}")
            raise PrometheusError(f"HTTP {status}, and the answer is not Prometheus' JSON: {beginning}")
        if status != 200 or payload.get("status") != "success":
            kind = str(payload.get("errorType") or "")
            words = str(payload.get("error") or payload.get("message") or payload.get("status") or "no reason given")
            told = one_line(self._secrets.mask(words), 200)
            raise PrometheusError(f"HTTP {status}: {f'{kind}: ' if kind else ''}{told}", hopeless=status == 400 and kind == "bad_data")
        return payload


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
