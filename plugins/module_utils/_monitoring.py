# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dashboards and alerts must be like to count. Pure; private to this collection.

A dashboard counts by what its panels can show, an alert by whether it could fire: the rule is loaded as it was written, and what it
measures exists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

DATA, IDLE, EMPTY, ERROR, MISSING = "data", "idle", "empty", "error", "missing"
PROVEN, FAILED = "proven", "failed"
EVIDENCE_LIMIT = 300

_NO_FIGURES = ("row", "text", "news", "dashlist", "alertlist")
_VARIABLE = re.compile(r"\$\{(?P<braced>\w+)(?::[^}]*)?\}|\$(?P<bare>\w+)")


# --- dashboards ------------------------------------------------------------------------------------------------------


@dataclass
class Panel:
    """One panel: its title, its queries with variables filled in, and what they gave."""

    title: str
    queries: list[str]
    state: str = EMPTY
    detail: str = ""

    def shown(self) -> dict[str, Any]:
        return {"title": self.title, "state": self.state, "detail": self.detail, "queries": self.queries}


@dataclass
class Dashboard:
    """One dashboard as it is installed. ``present`` is False where there is none."""

    title: str
    box: str
    present: bool
    panels: list[Panel] = field(default_factory=list)

    def count(self, *states: str) -> int:
        return sum(panel.state in states for panel in self.panels)

    def named(self, *states: str) -> str:
        return ", ".join(f"{panel.title} ({panel.detail or panel.state})" for panel in self.panels if panel.state in states)

    def summary(self) -> str:
        if not self.present:
            return f"{self.title}: there is none"
        words = f"{self.title}: {self.count(DATA)} of {len(self.panels)} panels have data"
        rest = self.named(IDLE, EMPTY, ERROR, MISSING)
        return f"{words}, not: {rest}" if rest else words

    def shown(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "present": self.present,
            "with_data": self.count(DATA),
            "panels": [panel.shown() for panel in self.panels],
        }


def read_dashboard(entry: Mapping[str, Any], variables: Mapping[str, str], problems: list[str]) -> Dashboard:
    """Return what is installed for ``entry``, with the panels that it must have and lacks."""
    definition = entry.get("definition")
    if isinstance(definition, str) and definition.strip():
        try:
            definition = json.loads(definition)
        except ValueError as error:
            problems.append(f"dashboard {entry['title']}: its definition is no JSON ({error}), expected what Grafana exports")
            definition = None
    dashboard = Dashboard(entry["title"], entry.get("box") or "", bool(definition))
    if not isinstance(definition, Mapping):
        return dashboard
    # What Grafana's API answers with wraps the dashboard.
    inner = definition.get("dashboard", definition)
    dashboard.panels = [
        Panel(str(panel.get("title") or f"panel {panel.get('id', '?')}"), [filled(query, variables) for query in _queries(panel)])
        for panel in _panels(inner.get("panels") if isinstance(inner, Mapping) else None)
    ]
    there = {panel.title.casefold() for panel in dashboard.panels}
    dashboard.panels += [
        Panel(title, [], MISSING, "no such panel") for title in entry.get("panels") or [] if title.casefold() not in there
    ]
    return dashboard


def _panels(found: Any) -> Iterable[Mapping[str, Any]]:
    for panel in found if isinstance(found, list) else []:
        if not isinstance(panel, Mapping):
            continue
        # A collapsed row holds its panels itself.
        yield from _panels(panel.get("panels"))
        if panel.get("type") not in _NO_FIGURES:
            yield panel


def _queries(panel: Mapping[str, Any]) -> list[str]:
    targets = panel.get("targets")
    return [
        str(target["expr"])
        for target in (targets if isinstance(targets, list) else [])
        if isinstance(target, Mapping) and target.get("expr") and not target.get("hide")
    ]


def filled(query: str, variables: Mapping[str, str]) -> str:
    """Return ``query`` with Grafana's variables replaced; one without a value stays, and Prometheus will name it."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        return str(variables[name]) if name in variables else match[0]

    return _VARIABLE.sub(value, query)


def state_of(payloads: Iterable[Mapping[str, Any]]) -> str:
    """Return what a panel shows by the answers to its queries: data, series without a number (idle), or nothing."""
    best = EMPTY
    for payload in payloads:
        found = values(payload)
        if any(math.isfinite(value) for value in found):
            return DATA
        if found:
            best = IDLE
    return best


def values(payload: Mapping[str, Any]) -> list[float]:
    """Return the values of an answer to an instant query; NaN and infinite ones too."""
    data = payload.get("data") or {}
    result = data.get("result") or []
    pairs = [result] if data.get("resultType") == "scalar" else [series.get("value") for series in result if isinstance(series, Mapping)]
    found = []
    for pair in pairs:
        try:
            found.append(float(pair[1]))
        except (TypeError, ValueError, IndexError):
            continue
    return found


# --- alerts ----------------------------------------------------------------------------------------------------------


@dataclass
class Alert:
    """One alert: what it must be, and what was found of it."""

    name: str
    box: str
    expr: str
    query: str
    limit: float
    unit: str
    for_seconds: float | None
    labels: Mapping[str, str]
    loaded: bool = False
    health: str = ""
    problem: str = ""
    state: str = ""
    asked: bool = True
    fired: bool | None = None
    coverage: float | None = None
    worst: float | None = None

    @property
    def selector(self) -> str:
        """The series that Prometheus keeps of it while it fires."""
        labels = {"alertname": self.name, "alertstate": "firing", **self.labels}
        return "ALERTS{" + ",".join(f"{name}={quoted(value)}" for name, value in labels.items()) + "}"

    def shown(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "loaded": self.loaded,
            "health": self.health,
            "fired": self.fired,
            "worst": self.worst,
            "limit": self.limit,
            "unit": self.unit,
            "coverage_percent": None if self.coverage is None else round(self.coverage, 1),
            "problem": self.problem,
        }


def quoted(text: str) -> str:
    """Return ``text`` as a PromQL string."""
    return json.dumps(str(text), ensure_ascii=False)


def same_expression(one: str, other: str) -> bool:
    """Whether two expressions are the same text but for white space outside of strings."""
    return _squeezed(one) == _squeezed(other)


def _squeezed(expression: str) -> str:
    parts = re.split(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)""", expression)
    return "".join(part if index % 2 else re.sub(r"\s+", "", part) for index, part in enumerate(parts))


def match_rule(alert: Alert, formatted: str, payload: Mapping[str, Any]) -> None:
    """Note in ``alert`` what Prometheus has loaded of it. ``formatted`` is its expression as Prometheus writes it."""
    candidates = [
        rule
        for group in (payload.get("data") or {}).get("groups") or []
        for rule in group.get("rules") or []
        if rule.get("name") == alert.name and rule.get("type", "alerting") == "alerting"
    ]
    if not candidates:
        alert.problem = "no rule of this name is loaded"
        return
    # Several services may use one name; theirs carry other labels.
    own = [rule for rule in candidates if all((rule.get("labels") or {}).get(name) == value for name, value in alert.labels.items())]
    for rule in own or candidates:
        problem = _differs(alert, formatted, rule)
        alert.health, alert.state = str(rule.get("health") or "unknown"), str(rule.get("state") or "unknown")
        alert.problem = problem
        if not problem:
            alert.loaded = True
            return


def _differs(alert: Alert, formatted: str, rule: Mapping[str, Any]) -> str:
    query = str(rule.get("query") or "")
    if not (same_expression(formatted, query) or same_expression(alert.expr, query)):
        return f"it is loaded with another expression: {query[:100]}"
    held = rule.get("duration")
    if alert.for_seconds is not None and held is not None and float(held) != alert.for_seconds:
        return f"it is loaded with 'for: {float(held):g} s', expected {alert.for_seconds:g} s"
    missing = {name: value for name, value in alert.labels.items() if (rule.get("labels") or {}).get(name) != value}
    if missing:
        return f"it is loaded without the labels {missing}"
    if rule.get("health") != "ok":
        return f"its health is {rule.get('health')}: {rule.get('lastError') or 'no reason given'}"[:160]
    return ""


# --- proofs ----------------------------------------------------------------------------------------------------------


def proof(state: str, words: str) -> dict[str, str]:
    return {"state": state, "evidence": words if len(words) <= EVIDENCE_LIMIT else words[: EVIDENCE_LIMIT - 3] + "..."}


def prove_created(dashboards: list[Dashboard]) -> dict[str, str] | None:
    """Whether the dashboards exist and could show what they are for, with or without traffic. None: nothing to judge."""
    present = [dashboard for dashboard in dashboards if dashboard.present]
    if not present:
        return None
    bad = [dashboard for dashboard in dashboards if not dashboard.present or dashboard.count(EMPTY, MISSING, ERROR)]
    if bad:
        return proof(FAILED, "; ".join(dashboard.summary() for dashboard in bad))
    panels = sum(len(dashboard.panels) for dashboard in present)
    idle = sum(dashboard.count(IDLE) for dashboard in present)
    waiting = f", {idle} of them wait for traffic" if idle else ""
    return proof(PROVEN, f"{len(present)} dashboards, {panels} panels, every query finds series{waiting}")


def prove_watched(dashboard: Dashboard) -> dict[str, str] | None:
    """Whether every panel of one dashboard shows data now."""
    if not dashboard.present or not dashboard.panels:
        return None
    if dashboard.count(EMPTY, MISSING, ERROR):
        return proof(FAILED, dashboard.summary())
    return None if dashboard.count(IDLE) else proof(PROVEN, dashboard.summary())


def prove_configured(alerts: list[Alert]) -> dict[str, str] | None:
    """Whether every alert is loaded as written and could fire. None while none of them is known to Prometheus, or one was not asked about."""
    if not any(alert.health for alert in alerts) or not all(alert.asked for alert in alerts):
        return None
    bad = [f"{alert.name}: {alert.problem}" for alert in alerts if alert.problem]
    if bad:
        return proof(FAILED, "; ".join(bad))
    return proof(PROVEN, f"{len(alerts)} of {len(alerts)} alerts are loaded with their expressions and healthy, every query finds series")


def prove_quiet(alert: Alert, seconds: float, minimum_coverage: float) -> dict[str, str] | None:
    """Whether the alert was there and did not fire in the window. None where that was not seen."""
    limit = f"{alert.limit:g} {alert.unit}".rstrip()
    worst = "" if alert.worst is None else f", worst {alert.worst:.4g} (limit {limit})"
    if alert.fired:
        return proof(FAILED, f"{alert.name} fired within the last {clock(seconds)}{worst}")
    if alert.fired is None or not alert.loaded or alert.problem or alert.coverage is None or alert.coverage < minimum_coverage:
        return None
    return proof(PROVEN, f"{alert.name} was loaded, measured in {alert.coverage:.0f} % of {clock(seconds)}, and did not fire{worst}")


def clock(seconds: float) -> str:
    """Return a time span for people."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
