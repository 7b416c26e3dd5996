# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad variables are found all at once, and secrets do not show."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _variables

KNOWN = {"canary_steps", "canary_hold_seconds", "rollout_namespace"}
PREFIXES = ("canary_", "rollout_")


@pytest.mark.parametrize("name", ["canary_step", "canery_steps", "rollout_namepsace", "canary_unheard_of", "cannary_steps"])
def test_unknown_name_with_our_prefix_or_near_one_of_ours_is_refused(name: str) -> None:
    assert [problem.variable for problem in _variables.misnamed([name], KNOWN, PREFIXES)] == [name]


def test_misspelling_is_answered_with_the_name_that_was_meant() -> None:
    assert "'canary_steps'" in _variables.misnamed(["canery_steps"], KNOWN, PREFIXES)[0].rule


def test_names_of_ones_own_are_nobody_elses_business() -> None:
    assert _variables.misnamed(["team_pager", "group_names", "canary_steps"], KNOWN, PREFIXES) == []


def rules(value: Any, **rule: Any) -> list[str]:
    return [problem.rule for problem in _variables.check_rules({"x": rule}, {"x": value, "y": 2.0, "steps": [10, 50, 100]}, {})]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (-1, {"minimum": 0}),
        (101, {"maximum": 100}),
        (0, {"above": 0}),
        ([10, 101], {"maximum": 100}),
        ([50, 10, 100], {"strictly_increasing": True}),
        ([10, 10, 100], {"strictly_increasing": True}),
        ([10, 50], {"ends_with": 100}),
        ([], {"ends_with": 100}),
        ([], {"not_empty": True}),
        ("2", {"pattern": "v[0-9.]+"}),
        (1.0, {"at_least_variable": {"name": "y"}}),
        (3.0, {"at_least_variable": {"name": "y", "times": 2}}),
        (2.0, {"differs_from": "y"}),
        (float("nan"), {"minimum": 0}),
        (float("inf"), {"minimum": 0}),
        ("file:///etc/passwd", {"url": ["http", "https"]}),
        ("http://user:word@host", {"url": ["http"]}),
        ("http://host:99999", {"url": ["http"]}),
        ("http://a\r\nb", {"url": ["http"]}),
        ("http://", {"url": ["http"]}),
        (20, {"one_of_variable": "steps"}),
        ({"document": "a.json", "path": None, "names": []}, {"together": ["document", "path"]}),
        ({"document": None, "path": None, "names": ["2.0.0"]}, {"together": ["document", "path"]}),
    ],
)
def test_value_that_breaks_its_rule_is_refused(value: Any, rule: dict[str, Any]) -> None:
    assert len(rules(value, **rule)) == 1


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0, {"minimum": 0, "maximum": 100}),
        ({}, {"together": ["document", "path"]}),
        ({"document": None, "path": None, "names": []}, {"together": ["document", "path"]}),
        ({"document": "a.json", "path": "/a.json", "names": []}, {"together": ["document", "path"]}),
        ([10, 50, 100], {"strictly_increasing": True, "ends_with": 100, "minimum": 1, "maximum": 100}),
        ("v1.10", {"pattern": "v[0-9.]+"}),
        (4.0, {"at_least_variable": {"name": "y", "times": 2}}),
        (50, {"one_of_variable": "steps"}),
        ("http://10.79.0.52:9090/prefix", {"url": ["http", "https"]}),
    ],
)
def test_value_within_its_rule_passes(value: Any, rule: dict[str, Any]) -> None:
    assert rules(value, **rule) == []


def test_every_wrong_variable_is_reported_not_only_the_first() -> None:
    options = {"a": {"type": "int"}, "b": {"type": "str", "choices": ["x"]}, "c": {"type": "str", "required": True}}
    problems, typed = _variables.check_types("canary", options, {"a": "ten", "b": "y"})
    assert [problem.variable for problem in problems] == ["a", "b", "c"]
    assert typed == {}


def test_values_become_their_declared_types() -> None:
    options = {"a": {"type": "int"}, "b": {"type": "list", "elements": "int"}}
    assert _variables.check_types("canary", options, {"a": "10", "b": ["1", 2]}) == ([], {"a": 10, "b": [1, 2]})


def test_secret_of_the_wrong_type_is_not_shown() -> None:
    options = {"p": {"type": "int", "no_log": True}}
    problems, unused = _variables.check_types("preflight", options, {"p": "hunter2secret"})
    assert len(problems) == 1 and "hunter2secret" not in str(problems[0])


@pytest.mark.parametrize("arrived", [83, 1.1, True])
def test_version_that_lost_its_quotes_on_the_way_is_refused(arrived: Any) -> None:
    problems = _variables.check_text({"rollout_version": {"text": True}}, {"rollout_version": arrived})
    assert [problem.variable for problem in problems] == ["rollout_version"]
    assert "AWX" in str(problems[0]) and repr(arrived) in str(problems[0])


def test_version_that_is_text_passes() -> None:
    assert _variables.check_text({"rollout_version": {"text": True}}, {"rollout_version": "0123", "canary_until": 10}) == []


CONTACTS = {"contacts": {"environments": ["production"], "roles": ["Service Owner", "DevOps Lead"]}}
REACHABLE = [{"role": "Service Owner", "name": "Ann", "contact": "+49 30 1"}, {"role": "DevOps Lead", "name": "Bob", "contact": "bob@example.com"}]


@pytest.mark.parametrize(
    ("contacts", "environment", "words"),
    [
        (REACHABLE, "production", ""),
        (REACHABLE[:1], "production", "role DevOps Lead"),
        ([*REACHABLE[:1], {"role": "DevOps Lead", "name": "TBD", "contact": "email/phone"}], "production", "name and contact of DevOps Lead"),
        (REACHABLE[:1], "lab", ""),
    ],
)
def test_every_emergency_contact_is_somebody_in_production(contacts: list[dict[str, str]], environment: str, words: str) -> None:
    problems = _variables.check_rules({"rollout_contacts": CONTACTS}, {"rollout_contacts": contacts, "rollout_environment": environment}, {})
    assert (words in str(problems[0]) if words else not problems)
