# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module monitoring_check: whether dashboards show data and alerts could fire. Private to this collection.

It only asks Prometheus. What the answers mean is decided in ``_monitoring.py``.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _monitoring, _prometheus
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._http import HttpClient, HttpError, Secrets, Tls, url_problem
from ansible_collections.signal.rollout.plugins.module_utils._question import as_duration

DASHBOARD_SPEC: dict[str, dict[str, Any]] = {
    "title": {"type": "str", "required": True},
    "definition": {"type": "raw"},
    "panels": {"type": "list", "elements": "str", "default": []},
    "box": {"type": "str", "default": ""},
}

ALERT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "query": {"type": "str", "required": True},
    "above": {"type": "float", "required": True},
    "unit": {"type": "str", "default": ""},
    "expr": {"type": "str"},
    "for_seconds": {"type": "float"},
    "labels": {"type": "dict", "default": {}},
    "box": {"type": "str", "default": ""},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.TLS_SPEC,
    "dashboards": {"type": "list", "elements": "dict", "options": DASHBOARD_SPEC, "default": []},
    "dashboards_box": {"type": "str", "default": ""},
    "dashboard_variables": {"type": "dict", "default": {}},
    "alerts": {"type": "list", "elements": "dict", "options": ALERT_SPEC, "default": []},
    "alerts_box": {"type": "str", "default": ""},
    "since": {"type": "str"},
    "step": {"type": "float", "default": 30.0},
    "minimum_coverage": {"type": "float", "default": 90.0},
    "timeout": {"type": "float", "default": 10.0},
    "wait": {"type": "float", "default": 0.0},
    "reload_url": {"type": "str", "default": ""},
    "required": {"type": "bool", "default": True},
}
SUPPORTS_CHECK_MODE = True

_AT_ONCE = 4
_PAUSE = 1.0
# A look back over weeks must not make Prometheus evaluate a query ten thousand times.
_MOST_STEPS = 300


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Ask for every panel and every alert. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys for wrong options, and, with ``required``, while anything is not as it should be.
    """
    since = _read(params)
    began = time.monotonic()
    prometheus = _prometheus.Prometheus(params, params["timeout"])
    while True:
        answer = Check(params, prometheus, time.time() - since if since is not None else None).run()
        loaded = all(alert["loaded"] for alert in answer["alerts"])
        if loaded or context.check_mode or time.monotonic() - began >= params["wait"]:
            break
        context.progress(f"monitoring_check: waiting for {', '.join(alert['name'] for alert in answer['alerts'] if not alert['loaded'])}")
        _reload(params)
        if context.sleep(_PAUSE):
            break
    answer["seconds"] = round(time.monotonic() - began, 3)
    if params["required"] and answer["problems"]:
        raise RolloutError(
            f"monitoring_check: {len(answer['problems'])} {'problem' if len(answer['problems']) == 1 else 'problems'}: {'; '.join(answer['problems'])}. "
            "Next: ansible-playbook playbooks/monitor.yml --tags install, and look at Prometheus' page /rules",
            **answer,
        )
    return answer


def _reload(params: dict[str, Any]) -> None:
    """Have the rules read again. Whether that helped is seen by the next look, so its own trouble is none."""
    if params["reload_url"]:
        tls = Tls(validate_certs=bool(params["validate_certs"]), ca_cert=params["ca_cert"] or "")
        with contextlib.suppress(HttpError):
            HttpClient(tls, Secrets([]), None).send("POST", params["reload_url"], params["timeout"], {}, shown=params["reload_url"])


def _read(params: dict[str, Any]) -> float | None:
    """Return the beginning of the window in Unix seconds. Raises :class:`RolloutError` with every mistake."""
    problems = _prometheus.problems_of(params)
    since: float | None = None
    if not params["dashboards"] and not params["alerts"]:
        problems.append("dashboards and alerts are both empty, expected at least one of them")
    trouble = url_problem(params["reload_url"]) if params["reload_url"] else ""
    if trouble:
        problems.append(f"reload_url: {trouble}")
    if params["since"]:
        try:
            at = datetime.fromisoformat(params["since"].replace("Z", "+00:00"))
            since = at.replace(tzinfo=at.tzinfo or timezone.utc).timestamp()
        except ValueError:
            problems.append(f"since is '{params['since'][:40]}', expected a time such as 2026-11-24T12:05:12Z")
        else:
            if since >= time.time():
                problems.append(f"since is {params['since']}, expected a time in the past")
    for name, low, high in (("step", 1.0, 3600.0), ("timeout", 0.1, 300.0), ("minimum_coverage", 0.0, 100.0), ("wait", 0.0, 3600.0)):
        if not (math.isfinite(params[name]) and low <= params[name] <= high):
            problems.append(f"{name} is {params[name]}, expected {low:g} to {high:g}")
    for kind, key in (("dashboards", "title"), ("alerts", "name")):
        names = [entry[key] for entry in params[kind]]
        problems.extend(f"{kind} has {name} twice" for name in sorted({name for name in names if names.count(name) > 1}))
    problems.extend(
        f"alert {entry['name']}: above is {entry['above']}, expected a number" for entry in params["alerts"] if not math.isfinite(entry["above"])
    )
    if problems:
        raise RolloutError(f"monitoring_check: {'; '.join(problems)}. Nothing was asked. Next: correct the options.")
    return since


class Check:
    """One look. ``window`` is the time to look back over, in seconds."""

    def __init__(self, params: dict[str, Any], prometheus: _prometheus.Prometheus, window: float | None) -> None:
        self.params = params
        self.prometheus = prometheus
        self.window = window
        self.problems: list[str] = []
        variables = {"__rate_interval": "1m", "__interval": "1m", "__range": "1h", **params["dashboard_variables"]}
        self.dashboards = [_monitoring.read_dashboard(entry, variables, self.problems) for entry in params["dashboards"]]
        self.alerts = [
            _monitoring.Alert(
                name=entry["name"],
                box=entry["box"],
                expr=entry["expr"] or f"{entry['query']} > {entry['above']:g}",
                query=entry["query"],
                limit=entry["above"],
                unit=entry["unit"],
                for_seconds=entry["for_seconds"],
                labels=entry["labels"],
            )
            for entry in params["alerts"]
        ]

    def run(self) -> dict[str, Any]:
        jobs: list[Callable[[], None]] = [
            lambda panel=panel: self._look_at(panel) for dashboard in self.dashboards for panel in dashboard.panels if panel.state != _monitoring.MISSING
        ]
        unreachable = ""
        try:
            # One question first: a dead server would cost its time-out for each of them.
            rules = self.prometheus.ask("/api/v1/rules", {"type": "alert"}) if self.alerts else self._query("vector(1)")
        except _prometheus.PrometheusError as error:
            unreachable = f"Prometheus at {self.prometheus.url}: {error.message}"
        else:
            jobs += [lambda alert=alert: self._ask_about(alert, rules) for alert in self.alerts]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for done in [pool.submit(job) for job in jobs]:
                    done.result()
        return self._answer(unreachable)

    def _query(self, query: str) -> dict[str, Any]:
        return self.prometheus.ask(
            "/api/v1/query", {"query": query, "timeout": as_duration(self.params["timeout"]), "partial_response": "false"}
        )

    def _look_at(self, panel: _monitoring.Panel) -> None:
        if not panel.queries:
            panel.state, panel.detail = _monitoring.EMPTY, "it has no query"
            return
        try:
            panel.state = _monitoring.state_of([self._query(query) for query in panel.queries])
        except _prometheus.PrometheusError as error:
            panel.state, panel.detail = _monitoring.ERROR, error.message
            return
        panel.detail = {_monitoring.EMPTY: "no series", _monitoring.IDLE: "no number, no traffic?"}.get(panel.state, "")

    def _ask_about(self, alert: _monitoring.Alert, rules: dict[str, Any]) -> None:
        try:
            _monitoring.match_rule(alert, self._formatted(alert.expr), rules)
            if not _monitoring.values(self._query(alert.query)) and not alert.problem:
                alert.problem = "its query finds no series, so it could never fire"
            if self.window is not None:
                self._look_back(alert, self.window)
        except _prometheus.PrometheusError as error:
            alert.asked = False
            alert.problem = alert.problem or error.message

    def _formatted(self, expr: str) -> str:
        """Return the expression as this server writes it; only Prometheus itself can, what speaks its query API may not."""
        try:
            return str(self.prometheus.ask("/api/v1/format_query", {"query": expr}).get("data") or expr)
        except _prometheus.PrometheusError as error:
            if error.hopeless:
                raise
            return expr

    def _look_back(self, alert: _monitoring.Alert, window: float) -> None:
        step = max(self.params["step"], window / _MOST_STEPS)
        span = as_duration(max(1.0, math.floor(window)))
        every = f"[{span}:{as_duration(step)}]"
        alert.fired = bool(_monitoring.values(self._query(f"count(count_over_time({alert.selector}[{span}]))")))
        seen = _monitoring.values(self._query(f"count_over_time((count(({alert.query}) > -Inf)){every})"))
        alert.coverage = min(100.0, 100.0 * (seen[0] if seen else 0.0) / max(1.0, math.floor(window / step)))
        worst = [value for value in _monitoring.values(self._query(f"max_over_time((max({alert.query})){every})")) if math.isfinite(value)]
        alert.worst = worst[0] if worst else None

    def _answer(self, unreachable: str) -> dict[str, Any]:
        proofs: dict[str, dict[str, str] | None] = {}
        if unreachable:
            self.problems.append(unreachable)
        else:
            self._judge(proofs)
        return {
            "changed": False,
            "verdict": "pass" if not self.problems else "fail",
            "problems": self.problems,
            "dashboards": [dashboard.shown() for dashboard in self.dashboards],
            "alerts": [alert.shown() for alert in self.alerts],
            "proofs": {box: made for box, made in proofs.items() if box and made},
        }

    def _judge(self, proofs: dict[str, dict[str, str] | None]) -> None:
        for dashboard in self.dashboards:
            if not dashboard.present or dashboard.count(_monitoring.EMPTY, _monitoring.ERROR, _monitoring.MISSING) or (
                dashboard.box and dashboard.count(_monitoring.IDLE)
            ):
                self.problems.append(f"dashboard {dashboard.summary()}")
            proofs[dashboard.box] = _monitoring.prove_watched(dashboard)
        if self.dashboards:
            proofs[self.params["dashboards_box"]] = _monitoring.prove_created(self.dashboards)
        for alert in self.alerts:
            if alert.problem:
                self.problems.append(f"alert {alert.name}: {alert.problem}")
            elif alert.state == "firing":
                self.problems.append(f"alert {alert.name} fires now")
            if self.window is None:
                continue
            made = proofs[alert.box] = _monitoring.prove_quiet(alert, self.window, self.params["minimum_coverage"])
            if made and made["state"] == _monitoring.FAILED and alert.state != "firing":
                self.problems.append(made["evidence"])
            elif not made and not alert.problem:
                self.problems.append(
                    f"alert {alert.name} was measured in {alert.coverage or 0:.0f} % of the last {_monitoring.clock(self.window)}, "
                    f"expected {self.params['minimum_coverage']:g} %"
                )
        if self.alerts:
            proofs[self.params["alerts_box"]] = _monitoring.prove_configured(self.alerts)
