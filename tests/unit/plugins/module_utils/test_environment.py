# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What environment a container must have, and how a running one differs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _environment

OBJECTS = {("ConfigMap", "config"): {"A": "1", "B": "2"}, ("Secret", "secret"): {"PASSWORD": "hunter2", "B": "of the secret"}}
POD = {"metadata": {"name": "pod-1", "namespace": "signal"}, "status": {"podIP": "10.0.0.1"}}


def values(*env: dict[str, Any], env_from: list[dict[str, Any]] | None = None) -> dict[str, str | None]:
    return _environment.declared({"env": list(env), "envFrom": env_from or []}, OBJECTS, POD).values


def test_later_sources_win_and_single_variables_win_over_all() -> None:
    both = [{"configMapRef": {"name": "config"}}, {"secretRef": {"name": "secret"}}]
    assert values(env_from=both) == {"A": "1", "B": "of the secret", "PASSWORD": "hunter2"}
    assert values({"name": "B", "value": "own"}, env_from=both)["B"] == "own"
    assert values(env_from=[{"prefix": "X_", "configMapRef": {"name": "config"}}]) == {"X_A": "1", "X_B": "2"}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"configMapKeyRef": {"name": "config", "key": "A"}}, "1"),
        ({"secretKeyRef": {"name": "secret", "key": "PASSWORD"}}, "hunter2"),
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "pod-1"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "10.0.0.1"),
        ({"fieldRef": {"fieldPath": "metadata.labels['x']"}}, None),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, None),
    ],
)
def test_a_variable_has_the_value_of_its_source(source: dict[str, Any], value: str | None) -> None:
    assert values({"name": "X", "valueFrom": source}) == {"X": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [("$(A)-$(B)", "1-2"), ("$(NONE)", "$(NONE)"), ("$$(A)", "$(A)"), ("plain $A", "plain $A"), ("$(U)", None)],
)
def test_references_are_put_in_as_the_kubelet_does(text: str, value: str | None) -> None:
    assert _environment.expand(text, {"A": "1", "B": "2", "U": None}) == value


@pytest.mark.parametrize("optional", [True, False])
def test_what_is_needed_and_not_there_is_named(optional: bool) -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "none", "optional": optional}}],
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "NONE", "optional": optional}}}],
    }
    assert _environment.declared(container, OBJECTS, POD).missing == ([] if optional else ["ConfigMap none", "key NONE of Secret secret"])


def test_only_names_tell_of_a_difference() -> None:
    wanted = _environment.Declared({"A": "1", "PASSWORD": "hunter2", "POD": None, "GONE": "x"})
    drift = _environment.compare(wanted, _environment.environ(b"A=1\0PASSWORD=hunter3=\0POD=any\0PATH=/bin\0no equals\0"))
    assert (drift.different, drift.missing) == (("PASSWORD",), ("GONE",))
    assert not _environment.compare(_environment.Declared({"A": "1"}), {"A": "1", "MORE": "2"})


def test_the_hash_tells_any_two_configurations_apart() -> None:
    hashes = {_environment.fingerprint(values) for values in ({"A": "12"}, {"A": "1", "B": "2"}, {"A": "21"}, {"B": "12"}, {"A": ""}, {})}
    assert len(hashes) == 6


def test_configmaps_that_nothing_refers_to_are_orphans() -> None:
    spec = {
        "containers": [{"envFrom": [{"configMapRef": {"name": "a"}}]}],
        "volumes": [{"configMap": {"name": "b"}}, {"projected": {"sources": [{"configMap": {"name": "c"}}]}}, {"emptyDir": {}}],
    }
    maps = [{"metadata": {"name": name}} for name in "dcba"]
    assert _environment.orphans(maps, [{"spec": {"template": {"spec": spec}}}]) == ["d"]
