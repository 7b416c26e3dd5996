# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about HTTPRoutes, without a server."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _http_route, _weights

from .test_virtual_service import apply_patch

V1, V2 = "signal-service-v1", "signal-service-v2"


def backend(name: str, weight: int | None = None, **rest: Any) -> dict[str, Any]:
    entry = {"name": name, "port": 80, **rest}
    return entry if weight is None else {**entry, "weight": weight}


def http_route(*rules: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "kind": "HTTPRoute",
        "metadata": {"name": "signal-service", "namespace": "signal", "uid": "u-1", "generation": 7, "resourceVersion": "42"},
        "spec": {
            "parentRefs": [{"name": "edge", "namespace": "istio-system"}],
            "hostnames": ["signal-service-gwapi.lab"],
            "rules": [{"name": name, "backendRefs": backends} for name, backends in rules],
        },
    }


def simple(stable: int | None = 100, canary: int | None = 0) -> dict[str, Any]:
    return http_route(("primary", [backend(V1, stable), backend(V2, canary)]))


def test_patch_pins_the_object_its_generation_and_both_backends() -> None:
    document = simple(90, 10)
    operations = _http_route.patch_operations(document, _http_route.read_route(document, "primary", V1, V2), _weights.wanted(50))
    assert {operation["path"]: operation["value"] for operation in operations if operation["op"] == "test"} == {
        "/metadata/uid": "u-1",
        "/metadata/generation": 7,
        "/spec/rules/0/name": "primary",
        "/spec/rules/0/backendRefs/0/name": V1,
        "/spec/rules/0/backendRefs/0/weight": 90,
        "/spec/rules/0/backendRefs/1/name": V2,
        "/spec/rules/0/backendRefs/1/weight": 10,
    }
    assert not any("resourceVersion" in operation["path"] for operation in operations)


def test_patch_changes_the_two_weights_and_nothing_else() -> None:
    document = http_route(("header", [backend(V2, 100)]), ("primary", [backend(V1, 100), backend(V2, 0)]))
    document["spec"]["rules"][0]["matches"] = [{"headers": [{"name": "x-canary", "value": "1"}]}]
    document["spec"]["rules"][1]["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": V2, "port": 80}}}]
    route = _http_route.read_route(document, "primary", V1, V2)
    after = apply_patch(document, _http_route.patch_operations(document, route, _weights.wanted(30)))
    expected = copy.deepcopy(document)
    for entry, weight in zip(expected["spec"]["rules"][1]["backendRefs"], (70, 30), strict=True):
        entry["weight"] = weight
    assert after == expected


def test_absent_weight_counts_as_one_as_the_gateway_api_says() -> None:
    document = simple(99, None)
    route = _http_route.read_route(document, None, V1, V2)
    assert route.weights == _weights.Weights(99, 1)
    after = apply_patch(document, _http_route.patch_operations(document, route, _weights.wanted(0)))
    assert [entry["weight"] for entry in after["spec"]["rules"][0]["backendRefs"]] == [100, 0]
    with pytest.raises(_weights.WeightError, match="weights are signal-service-v1=100, signal-service-v2=absent, expected .* sum to 100"):
        _http_route.read_route(simple(100, None), None, V1, V2)


@pytest.mark.parametrize(
    ("document", "rule", "words"),
    [
        (simple(80, 10), None, "sum to 100"),
        (http_route(("primary", [backend(V1, 100)])), None, f"expected backend Service '{V2}' exactly once, found not at all"),
        (http_route(("primary", [backend(V1, 50), backend(V2, 25), backend(V2, 25, port=81)])), None, "more than once"),
        (http_route(("primary", [backend(V1, 100), backend(V2, 0, kind="Bucket", group="x")])), None, "found not at all"),
        (http_route(("primary", [backend(V1, 50), backend(V2, 0), backend("third", 50)])), None, r"carry traffic \(third=50\)"),
        (simple(), "other", "its rules are 'primary'"),
        (http_route(("a", []), ("a", [])), "a", "more than once"),
        (http_route(("a", []), ("primary", [])), None, "has 2 rules"),
        (http_route(("a", [backend(V1)]), ("primary", [backend(V1, 100), backend(V2, 0)])), "primary", "'primary' is never reached"),
    ],
)
def test_object_that_cannot_be_managed_is_refused_in_its_own_words(document: Any, rule: Any, words: str) -> None:
    with pytest.raises(_weights.WeightError, match=words):
        _http_route.read_route(document, rule, V1, V2)


def test_third_backend_is_kept_when_asked() -> None:
    document = http_route(("primary", [backend(V1, 70), backend(V2, 10), backend("third", 20)]))
    assert _http_route.read_route(document, None, V1, V2, "keep").kept == 20


def test_backend_of_another_namespace_is_that_namespaces_service() -> None:
    document = http_route(("primary", [backend(V1, 100), backend(V2, 0, namespace="green")]))
    assert _http_route.read_route(document, None, V1, V2).canary.service == f"{V2}.green.svc.cluster.local"


def envoy(clusters: dict[str, int], name: str = "primary", gateway: str = "istio-system~edge") -> dict[str, Any]:
    config = (
        "/apis/networking.istio.io/v1/namespaces/signal/virtual-service/"
        f"{gateway}~istio-autogenerated-k8s-gateway~http~signal-service-gwapi.lab"
    )
    weighted = [{"name": f"outbound|80||{service}.signal.svc.cluster.local", "weight": weight} for service, weight in clusters.items()]
    action = {"cluster": weighted[0]["name"]} if len(weighted) == 1 else {"weighted_clusters": {"clusters": weighted}}
    route = {"name": name, "route": action, "metadata": {"filter_metadata": {"istio": {"config": config}}}}
    return {"configs": [{"route_config": {"virtual_hosts": [{"routes": [route]}]}}]}


def shown(dump: dict[str, Any]) -> list[_weights.Weights]:
    return _http_route.envoy_weights(dump, simple(), _http_route.read_route(simple(), "primary", V1, V2))


def test_envoy_shows_the_rule_by_gateway_name_and_services() -> None:
    assert shown(envoy({V1: 90, V2: 10})) == [_weights.Weights(90, 10)]
    assert shown(envoy({V2: 1})) == [_weights.Weights(0, 100)]


def test_envoy_routes_of_other_objects_are_not_taken_for_ours() -> None:
    assert shown(envoy({V1: 100}, name="other")) == []
    assert shown(envoy({V1: 100}, gateway="istio-system~another")) == []
    # Routes of one host are merged, and another HTTPRoute may call its rule the same.
    assert shown(envoy({"other": 100})) == []


def condition(kind: str, status: str = "True", generation: int = 7, **rest: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": kind, "message": "fine", "observedGeneration": generation, **rest}


def with_status(*conditions: dict[str, Any], controller: str = _http_route.CONTROLLER) -> dict[str, Any]:
    parent = {"controllerName": controller, "parentRef": {"name": "edge", "namespace": "istio-system"}, "conditions": list(conditions)}
    return {**simple(), "status": {"parents": [parent]}}


def gateway(*conditions: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "istio-system", "name": "edge", "generation": 3}
    return {"kind": "Gateway", "metadata": metadata, "status": {"conditions": list(conditions)}}


FINE = (condition("Accepted"), condition("ResolvedRefs"))
PROGRAMMED = gateway(condition("Programmed", generation=3))


def test_accepted_route_behind_a_programmed_gateway_is_usable() -> None:
    _http_route.refuse_unusable(with_status(*FINE), [PROGRAMMED])


@pytest.mark.parametrize(
    ("document", "parent", "words"),
    [
        (
            with_status(*FINE),
            gateway(condition("Programmed", "False", 3, reason="AddressNotUsable", message="Failed to assign to any requested addresses")),
            "Gateway istio-system/edge has Programmed=False, AddressNotUsable: Failed to assign to any requested addresses",
        ),
        (with_status(*FINE), gateway(), "Gateway istio-system/edge has no condition Programmed"),
        (with_status(*FINE), gateway(condition("Programmed", generation=2)), "for generation 2, it is at 3"),
        (
            with_status(FINE[0], condition("ResolvedRefs", "False", reason="BackendNotFound", message="backend(nope) not found")),
            PROGRAMMED,
            r"ResolvedRefs=False, BackendNotFound: backend\(nope\) not found",
        ),
        (with_status(FINE[0], condition("ResolvedRefs", generation=6)), PROGRAMMED, "for generation 6, it is at 7"),
        (with_status(*FINE, controller="another.io/controller"), PROGRAMMED, "does not mention Gateway istio-system/edge"),
        ({**simple(), "status": {"parents": []}}, PROGRAMMED, "does not mention Gateway istio-system/edge"),
    ],
)
def test_route_that_the_mesh_does_not_take_is_refused_with_the_conditions_words(
    document: dict[str, Any], parent: dict[str, Any], words: str
) -> None:
    with pytest.raises(_weights.WeightError, match=words):
        _http_route.refuse_unusable(document, [parent])


def test_route_without_a_parent_is_refused() -> None:
    document = with_status(*FINE)
    document["spec"] = {**document["spec"], "parentRefs": []}
    with pytest.raises(_weights.WeightError, match="hangs on nothing"):
        _http_route.refuse_unusable(document, [])


def test_route_of_the_mesh_hangs_on_a_service_and_needs_no_gateway() -> None:
    document = with_status(*FINE)
    reference = {"group": "", "kind": "Service", "name": "signal-service", "port": 80}
    document["spec"] = {**document["spec"], "parentRefs": [reference]}
    with pytest.raises(_weights.WeightError, match="does not mention Service signal/signal-service"):
        _http_route.refuse_unusable(document, [])
    document["status"]["parents"][0]["parentRef"] = reference
    _http_route.refuse_unusable(document, [])
    route = _http_route.read_route(document, "primary", V1, V2)
    dump = envoy({V1: 90, V2: 10})
    entry = dump["configs"][0]["route_config"]["virtual_hosts"][0]["routes"][0]
    config = "/apis/networking.istio.io/v1/namespaces/signal/virtual-service/signal~80~{}.signal.svc.cluster.local"
    for service, expected in (("signal-service", [_weights.Weights(90, 10)]), ("another", [])):
        entry["metadata"]["filter_metadata"]["istio"]["config"] = config.format(service)
        assert _http_route.envoy_weights(dump, document, route) == expected


def test_rule_without_a_name_is_found_by_the_name_that_istiod_makes() -> None:
    document = http_route(("", [backend(V1, 100), backend(V2, 0)]))
    route = _http_route.read_route(document, None, V1, V2)
    assert _http_route.envoy_weights(envoy({V1: 1}, name="signal.signal-service.0"), document, route) == [_weights.Weights(100, 0)]
    assert _http_route.envoy_weights(envoy({V1: 1}, name="signal.signal-service.1"), document, route) == []


def test_status_of_an_older_generation_lags() -> None:
    assert _http_route.status_lags(with_status(condition("Accepted"), condition("ResolvedRefs", generation=6)))
    assert not _http_route.status_lags(with_status(*FINE))
