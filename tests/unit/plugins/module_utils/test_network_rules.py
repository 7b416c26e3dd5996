# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What NetworkPolicies let pass."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _network_rules
from ansible_collections.signal.rollout.plugins.module_utils._network_rules import Peer, Wish

GREEN = {"app": "x", "version": "v2"}
DATABASE = Peer("data", {"kubernetes.io/metadata.name": "data", "tier": "db"}, {"app": "postgres"}, ports={"pg": 5432})
OWN = Peer("signal", {"kubernetes.io/metadata.name": "signal"}, {"app": "postgres"})
OUTSIDE = Peer(ip="203.0.113.7")


def policy(egress: list[Any] | None = None, selector: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    rules = {} if egress is None else {"egress": egress}
    return {"metadata": {"name": "p"}, "spec": {"podSelector": selector or {}, "policyTypes": ["Egress"], **rules, **spec}}


def allowed(policies: list[dict[str, Any]], peer: Peer, port: int = 5432, protocol: str = "TCP") -> bool:
    return _network_rules.allows(policies, "signal", GREEN, "egress", peer, port, protocol)


def test_pods_that_no_policy_selects_may_do_everything() -> None:
    assert allowed([], DATABASE)
    assert allowed([policy([], {"matchLabels": {"app": "other"}})], DATABASE)


def test_a_policy_without_rules_closes_everything_in_its_direction_only() -> None:
    assert not allowed([policy()], DATABASE)
    assert _network_rules.allows([policy()], "signal", GREEN, "ingress", DATABASE, 80)
    assert allowed([policy(policyTypes=["Ingress"])], DATABASE)


@pytest.mark.parametrize(
    ("spec", "isolates"),
    [({"podSelector": {}}, (True, False)), ({"podSelector": {}, "egress": [{}]}, (True, True)), ({"podSelector": {}, "egress": []}, (True, False))],
)
def test_without_types_a_policy_is_for_ingress_and_for_egress_when_it_has_rules(spec: dict[str, Any], isolates: tuple[bool, bool]) -> None:
    found = tuple(bool(_network_rules.selecting([{"spec": spec}], GREEN, direction)) for direction in ("ingress", "egress"))
    assert found == isolates


@pytest.mark.parametrize(
    ("to", "peer", "passes"),
    [
        ([], DATABASE, True),
        ([{"namespaceSelector": {"matchLabels": {"tier": "db"}}}], DATABASE, True),
        ([{"namespaceSelector": {"matchLabels": {"tier": "db"}}, "podSelector": {"matchLabels": {"app": "mysql"}}}], DATABASE, False),
        ([{"namespaceSelector": {"matchLabels": {"tier": "db"}}}, {"podSelector": {"matchLabels": {"app": "mysql"}}}], DATABASE, True),
        ([{"podSelector": {"matchLabels": {"app": "postgres"}}}], DATABASE, False),
        ([{"podSelector": {"matchLabels": {"app": "postgres"}}}], OWN, True),
        ([{"namespaceSelector": {}}], DATABASE, True),
        ([{"namespaceSelector": {}}], OUTSIDE, False),
        ([{"ipBlock": {"cidr": "203.0.113.0/24"}}], OUTSIDE, True),
        ([{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}}], OUTSIDE, False),
        ([{"ipBlock": {"cidr": "10.0.0.0/8"}}], OUTSIDE, False),
    ],
)
def test_a_rule_is_for_the_peers_that_it_names(to: list[dict[str, Any]], peer: Peer, passes: bool) -> None:
    assert allowed([policy([{"to": to}])], peer) is passes


@pytest.mark.parametrize(
    ("ports", "port", "protocol", "passes"),
    [
        ([], 1, "TCP", True),
        ([{"port": 5432}], 5432, "TCP", True),
        ([{"port": 5432}], 5433, "TCP", False),
        ([{"port": 5432}], 5432, "UDP", False),
        ([{"protocol": "UDP"}], 53, "UDP", True),
        ([{"port": 5000, "endPort": 6000}], 5432, "TCP", True),
        ([{"port": 5000, "endPort": 5400}], 5432, "TCP", False),
        ([{"port": "pg"}], 5432, "TCP", True),
        ([{"port": "none"}], 5432, "TCP", False),
    ],
)
def test_a_rule_is_for_the_ports_that_it_names(ports: list[dict[str, Any]], port: int, protocol: str, passes: bool) -> None:
    assert allowed([policy([{"ports": ports}])], DATABASE, port, protocol) is passes


def test_policies_add_up() -> None:
    assert allowed([policy(), policy([{}])], DATABASE)


def test_what_is_otherwise_than_declared_is_named() -> None:
    wishes = [Wish("egress", DATABASE, 5432), Wish("egress", OUTSIDE, 443, allowed=False)]
    assert _network_rules.breaches([policy([{"to": [{"namespaceSelector": {}}]}])], "signal", GREEN, wishes, ["egress"], {}) == []
    found = _network_rules.breaches([policy([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])], "signal", GREEN, wishes, ["ingress"], {})
    assert found == [
        "ingress: no NetworkPolicy selects the pods, so that everything is allowed, expected one",
        "egress to pods app=postgres of data port 5432/TCP is not allowed, expected allowed",
        "egress to 203.0.113.7 port 443/TCP is allowed, expected not allowed",
    ]
