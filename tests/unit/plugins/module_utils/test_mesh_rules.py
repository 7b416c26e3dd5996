# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gateways, mutual TLS and labels around a route."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _mesh_rules, _preflight

ROOT = "istio-system"


def service(hosts: list[str], gateways: list[str] | None = None) -> dict[str, Any]:
    return {"metadata": {"namespace": "signal"}, "spec": {"hosts": hosts, "gateways": gateways or ["edge"]}}


def gateway(*hosts: str, namespace: str = "signal") -> dict[str, Any]:
    return {"metadata": {"name": "edge", "namespace": namespace}, "spec": {"servers": [{"hosts": list(hosts)}]}}


def test_gateways_are_of_the_own_namespace_unless_another_is_named() -> None:
    assert _mesh_rules.gateways_of(service([], ["edge", "mesh", "infra/public"])) == [("signal", "edge"), ("infra", "public")]


@pytest.mark.parametrize(
    ("servers", "unserved"),
    [
        (gateway("*"), []),
        (gateway("*.lab"), []),
        (gateway("signal.lab"), []),
        (gateway("other.lab"), ["signal.lab"]),
        (gateway("./*", namespace="infra"), ["signal.lab"]),
        (gateway("signal/*", namespace="infra"), []),
    ],
)
def test_a_host_is_served_when_a_server_takes_it(servers: dict[str, Any], unserved: list[str]) -> None:
    assert _mesh_rules.unserved_hosts(service(["signal-service", "signal.lab"]), [servers]) == unserved


def policy(namespace: str, mode: str | None, **labels: str) -> dict[str, Any]:
    selector = {"selector": {"matchLabels": labels}} if labels else {}
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {**selector, **({"mtls": {"mode": mode}} if mode else {})}}


@pytest.mark.parametrize(
    ("policies", "mode"),
    [
        ([], "PERMISSIVE"),
        ([policy(ROOT, "STRICT")], "STRICT"),
        ([policy(ROOT, "STRICT"), policy("signal", "DISABLE")], "DISABLE"),
        ([policy("signal", "STRICT"), policy("signal", "PERMISSIVE", app="x")], "PERMISSIVE"),
        ([policy("signal", "STRICT"), policy("signal", None, app="x")], "STRICT"),
        ([policy("signal", "STRICT", app="other"), policy("elsewhere", "STRICT")], "PERMISSIVE"),
    ],
)
def test_the_policy_that_is_nearest_to_the_pods_decides(policies: list[dict[str, Any]], mode: str) -> None:
    assert _mesh_rules.mtls_of(policies, "signal", {"app": "x"}, ROOT)[0] == mode


@pytest.mark.parametrize(
    ("server", "client", "sidecar", "fits"),
    [
        ("STRICT", "", True, True),
        ("STRICT", "ISTIO_MUTUAL", True, True),
        ("STRICT", "DISABLE", True, False),
        ("PERMISSIVE", "DISABLE", True, True),
        ("DISABLE", "ISTIO_MUTUAL", True, False),
        ("PERMISSIVE", "ISTIO_MUTUAL", False, False),
        ("STRICT", "DISABLE", False, True),
    ],
)
def test_both_sides_of_a_connection_must_mean_the_same(server: str, client: str, sidecar: bool, fits: bool) -> None:
    assert (_mesh_rules.tls_conflict(server, client, sidecar) == "") is fits


def test_the_subset_says_more_than_its_rule() -> None:
    subset = {"name": "v2", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}
    rule = {"metadata": {"name": "r", "namespace": "signal"}, "spec": {"host": "x", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}, "subsets": [subset]}}
    assert _mesh_rules.client_tls([rule], "x.signal.svc.cluster.local", "v2")[0] == "DISABLE"
    assert _mesh_rules.client_tls([rule], "x.signal.svc.cluster.local", "v1")[0] == "ISTIO_MUTUAL"
    assert _mesh_rules.client_tls([rule], "y.signal.svc.cluster.local", "v1")[0] == ""


def outcome(*problems: Any, skipped: str = "") -> Any:
    return SimpleNamespace(problems=list(problems), skipped=skipped)


MEASURED = SimpleNamespace(check="nodes", object="Deployment x", seen="0 of 2 fit", expected="room for 2")
NO_ANSWER = SimpleNamespace(check="nodes", object="check nodes", seen="no answer within 10 s", expected="an answer")


@pytest.mark.parametrize(
    ("outcomes", "facts", "state"),
    [
        ({"capacity": outcome(), "nodes": outcome()}, {"evidence nodes": "all fit"}, "proven"),
        ({"capacity": outcome(), "nodes": outcome()}, {}, None),
        ({"capacity": outcome()}, {"evidence nodes": "all fit"}, None),
        ({"capacity": outcome(skipped="why"), "nodes": outcome()}, {"evidence nodes": "all fit"}, None),
        ({"capacity": outcome(), "nodes": outcome(NO_ANSWER)}, {"evidence nodes": "all fit"}, None),
        ({"capacity": outcome(), "nodes": outcome(MEASURED)}, {"evidence nodes": "all fit"}, "failed"),
    ],
)
def test_only_what_was_measured_proves_or_refutes(outcomes: dict[str, Any], facts: dict[str, str], state: str | None) -> None:
    found = _preflight.proofs(outcomes, facts)
    assert found.get("infrastructure.capacity", {}).get("state") == state
