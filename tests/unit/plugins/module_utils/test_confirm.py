# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options and words of a confirmation, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _confirm, _envoy, _http_route, _virtual_service

OBSERVED = {"prometheus_url": "http://prometheus:9090", "preset": "requests"}


def options(**given: Any) -> dict[str, Any]:
    validated = ArgumentSpecValidator(_confirm.CONFIRM_SPEC).validate(given)
    assert not validated.error_messages
    return validated.validated_parameters


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"method": "none"},
        {"method": "observed", "observed": OBSERVED},
        {"observed": {"prometheus_url": "http://p", "stable_query": "a", "canary_query": "b"}},
        {"sidecars": {"selector": "app=caller"}, "istiod": {"url": "http://istiod:15014"}},
    ],
)
def test_good_options_have_no_problems(given: dict[str, Any]) -> None:
    assert _confirm.problems_of(options(**given)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timeout": 0}, "confirm.timeout is 0"),
        ({"method": "observed"}, "confirm.observed is missing"),
        ({"sidecars": {"selector": "app=x", "sample": 0}}, "confirm.sidecars.sample is 0, expected at least 1"),
        ({"istiod": {"url": "istiod:15014"}}, "confirm.istiod.url: its scheme is 'istiod'"),
        ({"observed": {"prometheus_url": "http://p"}}, "either a preset or both"),
        ({"observed": {**OBSERVED, "stable_query": "x", "canary_query": "y"}}, "either a preset or both"),
        ({"observed": {"prometheus_url": "http://p", "stable_query": "x"}}, "either a preset or both"),
        ({"observed": {**OBSERVED, "prometheus_url": "p"}}, "confirm.observed.prometheus_url: its scheme is ''"),
        ({"observed": {**OBSERVED, "minimum_requests": 0}}, "confirm.observed.minimum_requests is 0"),
        ({"observed": {**OBSERVED, "timeout": 30}}, "confirm.observed.timeout is 30 s, expected more than two scrapes of 15 s"),
        ({"observed": {**OBSERVED, "scrape_interval": 0}}, "confirm.observed.scrape_interval is 0"),
    ],
)
def test_every_mistake_is_named(given: dict[str, Any], said: str) -> None:
    problems = _confirm.problems_of(options(**given))
    assert len(problems) == 1 and said in problems[0]


def test_all_mistakes_are_found_at_once() -> None:
    assert len(_confirm.problems_of(options(timeout=-1, method="observed", sidecars={"selector": "a", "sample": 0}))) == 3


def test_two_queries_cannot_stand_for_several_routes() -> None:
    given = options(observed={"prometheus_url": "http://p", "stable_query": "x", "canary_query": "y"})
    assert "2 routes move; use a preset" in _confirm.problems_of(given, routes=2)[0]
    assert _confirm.problems_of(options(observed=OBSERVED), routes=2) == []


def outcome(**given: Any) -> dict[str, Any]:
    base = {"method": "envoy", "state": "confirmed", "seconds": 0.118, "gateways": 0, "sidecars": 0, "requests": 0, "share": None, "reason": ""}
    return {**base, **given}


@pytest.mark.parametrize(
    ("confirmed", "expected"),
    [
        (outcome(gateways=2), "confirmed by 2 gateways in 0.12 s"),
        (outcome(gateways=1, sidecars=3, method="exec"), "confirmed by 1 gateway and 3 sidecars in 0.12 s"),
        (outcome(method="observed", requests=512, share=9.77, seconds=31.0), "confirmed by 9.8 % of 512 requests in 31.00 s"),
        (outcome(state="unconfirmed", reason="after 10 s 1 of 2"), "UNCONFIRMED: after 10 s 1 of 2"),
        (outcome(method="none", state="unconfirmed", reason="confirm.method is none"), "not confirmed, as confirm.method says"),
        (None, "not confirmed, as confirm.method says"),
    ],
)
def test_outcome_is_told_in_a_few_words(confirmed: dict[str, Any] | None, expected: str) -> None:
    assert _confirm.words(confirmed) == expected


@pytest.mark.parametrize(
    ("kind", "configs", "concerned"),
    [
        ("rds http.8080", ("http.8080",), True),
        ("rds https.443.x", ("http.8080",), False),
        ("rds https.443.x", (), True),
        ("lds", (), False),
        ("cds", ("http.8080",), False),
    ],
)
def test_only_rejected_routes_of_interest_end_the_wait(kind: str, configs: tuple[str, ...], concerned: bool) -> None:
    proxy = _envoy.Proxy("ns", "pod", "gateway", _envoy.PROXY, configs=configs)
    assert _confirm._concerns(kind, proxy) is concerned


@pytest.mark.parametrize(
    ("gateways", "match", "expected"),
    [
        (None, None, (False, True)),
        (["edge"], None, (True, False)),
        (["edge", "mesh"], None, (True, True)),
        (["edge", "mesh"], [{"gateways": ["mesh"]}], (False, True)),
        (["edge", "mesh"], [{"gateways": ["mesh"]}, {"uri": {"prefix": "/x"}}], (True, True)),
    ],
)
def test_carriers_of_a_virtual_service_are_its_gateways_and_the_mesh(
    gateways: list[str] | None, match: list[dict[str, Any]] | None, expected: tuple[bool, bool]
) -> None:
    spec: dict[str, Any] = {"http": [{"match": match} if match else {}]}
    if gateways:
        spec["gateways"] = gateways
    assert _virtual_service.carriers({"spec": spec}, 0) == expected


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ([{"name": "edge"}], (True, False)),
        ([{"kind": "Service", "group": "", "name": "x"}], (False, True)),
        ([{"kind": "Gateway", "name": "edge"}, {"kind": "Service", "name": "x"}], (True, True)),
    ],
)
def test_carriers_of_an_http_route_are_its_parents(parents: list[dict[str, Any]], expected: tuple[bool, bool]) -> None:
    assert _http_route.carriers({"metadata": {"namespace": "ns"}, "spec": {"parentRefs": parents}}) == expected
