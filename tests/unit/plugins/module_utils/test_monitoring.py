# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dashboards and alerts: what counts, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _monitoring as m
from ansible_collections.signal.rollout.plugins.module_utils import _monitoring_check
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


def vector(*values: str) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, value]} for value in values]}}


def alert(**options: Any) -> m.Alert:
    given = {"name": "Errors", "box": "", "expr": "sum(x) > 1", "query": "sum(x)", "limit": 1.0, "unit": "%", "for_seconds": 60.0, "labels": {}}
    return m.Alert(**{**given, **options})


def loaded(**options: Any) -> dict[str, Any]:
    rule = {"name": "Errors", "type": "alerting", "query": "sum(x) > 1", "duration": 60, "health": "ok", "state": "inactive", "labels": {}, **options}
    return {"status": "success", "data": {"groups": [{"rules": [rule]}]}}


DASHBOARD = {
    "panels": [
        {"id": 1, "type": "row", "title": "Row", "panels": [{"type": "timeseries", "title": "Requests", "targets": [{"expr": "rate(x[$__rate_interval])"}]}]},
        {"id": 2, "type": "text", "title": "Words"},
        {"id": 3, "type": "stat", "title": "Errors", "targets": [{"expr": 'sum(y{namespace="${namespace:regex}"})'}, {"expr": "z", "hide": True}]},
    ]
}


@pytest.mark.parametrize("definition", [DASHBOARD, {"dashboard": DASHBOARD}, json.dumps(DASHBOARD)], ids=["plain", "as the API wraps it", "text"])
def test_panels_are_found_in_rows_and_variables_are_filled(definition: Any) -> None:
    entry = {"title": "D", "definition": definition, "panels": ["errors", "Latency"]}
    found = m.read_dashboard(entry, {"__rate_interval": "10s", "namespace": "signal"}, [])
    assert [(panel.title, panel.queries, panel.state) for panel in found.panels] == [
        ("Requests", ["rate(x[10s])"], m.EMPTY),
        ("Errors", ['sum(y{namespace="signal"})'], m.EMPTY),
        ("Latency", [], m.MISSING),
    ]


def test_a_definition_that_is_no_json_is_told() -> None:
    problems: list[str] = []
    assert not m.read_dashboard({"title": "D", "definition": "{nope"}, {}, problems).present
    assert "dashboard D: its definition is no JSON" in problems[0]


def test_a_dollar_of_a_regular_expression_is_no_variable() -> None:
    assert m.filled('x{code=~"5..$"} and $unknown', {"known": "1"}) == 'x{code=~"5..$"} and $unknown'


@pytest.mark.parametrize(
    ("payloads", "state"),
    [
        ([vector()], m.EMPTY),
        ([vector("NaN")], m.IDLE),
        ([vector("NaN", "0")], m.DATA),
        ([vector(), vector("3")], m.DATA),
        ([vector("+Inf")], m.IDLE),
        ([{"data": {"resultType": "scalar", "result": [1, "2"]}}], m.DATA),
    ],
)
def test_a_panel_without_a_number_shows_no_data(payloads: list[dict[str, Any]], state: str) -> None:
    assert m.state_of(payloads) == state


def dashboard(*states: str, present: bool = True) -> m.Dashboard:
    return m.Dashboard("D", "dashboards.overview", present, [m.Panel(f"P{number}", ["x"], state) for number, state in enumerate(states)])


@pytest.mark.parametrize(
    ("found", "created", "watched"),
    [
        (dashboard(m.DATA, m.DATA), "proven", "proven"),
        (dashboard(m.DATA, m.IDLE), "proven", None),
        (dashboard(m.DATA, m.EMPTY), "failed", "failed"),
        (dashboard(m.DATA, m.MISSING), "failed", "failed"),
        (dashboard(present=False), None, None),
    ],
)
def test_dashboards_are_proven_by_what_they_show(found: m.Dashboard, created: str | None, watched: str | None) -> None:
    made, seen = m.prove_created([found]), m.prove_watched(found)
    assert (made and made["state"], seen and seen["state"]) == (created, watched)


def test_one_dashboard_of_two_is_not_enough() -> None:
    made = m.prove_created([dashboard(m.DATA), dashboard(present=False)])
    assert made == {"state": "failed", "evidence": "D: there is none"}


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({}, ""),
        ({"query": "sum (x)\n  >  1"}, ""),
        ({"query": "sum(x) > 2"}, "it is loaded with another expression: sum(x) > 2"),
        ({"duration": 300}, "it is loaded with 'for: 300 s', expected 60 s"),
        ({"health": "err", "lastError": "many-to-many"}, "its health is err: many-to-many"),
        ({"name": "Other"}, "no rule of this name is loaded"),
    ],
)
def test_a_rule_counts_when_it_is_loaded_as_written(rule: dict[str, Any], problem: str) -> None:
    asked = alert()
    m.match_rule(asked, "sum(x) > 1", loaded(**rule))
    assert (asked.problem, asked.loaded) == (problem, not problem)


def test_the_rule_of_another_service_is_not_ours() -> None:
    asked = alert(labels={"service": "signal-service"})
    m.match_rule(asked, "sum(x) > 1", loaded(labels={"service": "billing"}))
    assert asked.problem == "it is loaded without the labels {'service': 'signal-service'}"


def test_white_space_in_a_string_matters() -> None:
    assert m.same_expression('a{b="c d"} > 1', 'a{b="c d"}>1')
    assert not m.same_expression('a{b="c d"}', 'a{b="cd"}')


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({"loaded": True, "fired": False, "coverage": 100.0, "worst": 0.2}, "proven"),
        ({"loaded": True, "fired": True, "coverage": 100.0, "worst": 7.0}, "failed"),
        ({"loaded": True, "fired": False, "coverage": 50.0}, None),
        ({"loaded": True, "fired": None, "coverage": None}, None),
        ({"loaded": False, "fired": False, "coverage": 100.0}, None),
    ],
)
def test_silence_counts_only_when_it_was_heard(found: dict[str, Any], state: str | None) -> None:
    made = m.prove_quiet(alert(**found), 720.0, 90.0)
    assert (made and made["state"]) == state


def test_evidence_of_silence_has_its_figures() -> None:
    made = m.prove_quiet(alert(loaded=True, fired=False, coverage=100.0, worst=0.2), 720.0, 90.0)
    assert made == {"state": "proven", "evidence": "Errors was loaded, measured in 100 % of 12 min, and did not fire, worst 0.2 (limit 1 %)"}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ([{"health": "ok"}, {"health": "ok"}], "proven"),
        ([{"health": "ok"}, {"problem": "no rule of this name is loaded"}], "failed"),
        ([{"problem": "no rule of this name is loaded"}], None),
        ([{"health": "ok"}, {"asked": False, "problem": "timed out"}], None),
    ],
)
def test_alerts_are_configured_when_all_are(found: list[dict[str, Any]], state: str | None) -> None:
    made = m.prove_configured([alert(**options) for options in found])
    assert (made and made["state"]) == state


def params(**options: Any) -> dict[str, Any]:
    given = {name: spec.get("default") for name, spec in _monitoring_check.ARGUMENT_SPEC.items()}
    return {**given, "prometheus_url": "http://127.0.0.1:9", **options}


def test_every_mistake_is_told_before_anything_is_asked() -> None:
    entry = {"name": "A", "query": "x", "above": float("nan"), "unit": "", "expr": None, "for_seconds": None, "labels": {}, "box": ""}
    with pytest.raises(RolloutError) as caught:
        _monitoring_check.run(params(alerts=[entry, entry], since="yesterday", step=0.0), Context())
    for words in ("since is 'yesterday'", "step is 0.0", "alerts has A twice", "above is nan", "Nothing was asked"):
        assert words in caught.value.message


def test_a_prometheus_that_is_away_proves_nothing() -> None:
    answer = _monitoring_check.run(params(dashboards=[{"title": "D", "definition": DASHBOARD, "panels": [], "box": "b"}], required=False), Context())
    assert (answer["verdict"], answer["proofs"]) == ("fail", {})
    assert "Prometheus at http://127.0.0.1:9" in answer["problems"][0]
