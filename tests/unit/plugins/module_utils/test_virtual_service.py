# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about VirtualServices and DestinationRules, without a server."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _virtual_service, _weights
from hypothesis import given
from hypothesis import strategies as st

HOST = "signal-service.signal.svc.cluster.local"


def destination(subset: str, weight: int | None, host: str = HOST) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": {"host": host, "subset": subset}}
    if weight is not None:
        entry["weight"] = weight
    return entry


def virtual_service(*routes: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "metadata": {"name": "signal-service", "namespace": "signal", "resourceVersion": "42"},
        "spec": {"http": [{"name": name, "route": entries} for name, entries in routes]},
    }


def simple(stable: int | None = 100, canary: int | None = 0) -> dict[str, Any]:
    return virtual_service(("primary", [destination("v1", stable), destination("v2", canary)]))


def apply_patch(document: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The part of RFC 6902 the engine uses, written out so that a wrong path shows."""
    result = copy.deepcopy(document)
    for operation in operations:
        *parents, last = operation["path"].strip("/").split("/")
        node: Any = result
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if operation["op"] == "test":
            assert node[last] == operation["value"], operation
        elif operation["op"] == "replace":
            assert last in node, operation
            node[last] = operation["value"]
        else:
            assert operation["op"] == "add" and last not in node, operation
            node[last] = operation["value"]
    return result


@given(st.integers(0, 100), st.integers(0, 100))
def test_patch_changes_the_two_weights_and_nothing_else(old: int, new: int) -> None:
    before = virtual_service(
        ("header", [destination("v1", 100)]), ("primary", [destination("v1", 100 - old), destination("v2", old)])
    )
    before["spec"]["http"][0]["match"] = [{"headers": {"x-canary": {"exact": "1"}}}]
    before["spec"]["http"][1]["retries"] = {"attempts": 3}
    route = _virtual_service.read_route(before, "primary", None, "v1", "v2")
    after = apply_patch(before, _virtual_service.patch_operations(before, route, _weights.wanted(new)))
    assert [entry.pop("weight") for entry in after["spec"]["http"][1]["route"]] == [100 - new, new]
    for entry in before["spec"]["http"][1]["route"]:
        entry.pop("weight")
    assert after == before


def test_patch_pins_route_destinations_old_weights_and_resource_version() -> None:
    document = simple(90, 10)
    operations = _virtual_service.patch_operations(
        document, _virtual_service.read_route(document, "primary", None, "v1", "v2"), _weights.wanted(50)
    )
    tests = {operation["path"]: operation["value"] for operation in operations if operation["op"] == "test"}
    assert tests == {
        "/spec/http/0/name": "primary",
        "/spec/http/0/route/0/destination/host": HOST,
        "/spec/http/0/route/0/destination/subset": "v1",
        "/spec/http/0/route/0/weight": 90,
        "/spec/http/0/route/1/destination/host": HOST,
        "/spec/http/0/route/1/destination/subset": "v2",
        "/spec/http/0/route/1/weight": 10,
    }
    assert operations[-1] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "42"}


def test_absent_weight_counts_as_zero_and_is_added() -> None:
    document = simple(100, None)
    route = _virtual_service.read_route(document, "primary", None, "v1", "v2")
    assert route.weights == _weights.Weights(100, 0)
    after = apply_patch(document, _virtual_service.patch_operations(document, route, _weights.wanted(10)))
    assert after["spec"]["http"][0]["route"][1]["weight"] == 10


@pytest.mark.parametrize(
    ("document", "route", "words"),
    [
        (simple(80, 10), None, "sum to 100"),
        (simple(110, -10), None, "sum to 100"),
        (virtual_service(("primary", [destination("v1", 100)])), None, "expected subset or host 'v2' exactly once"),
        (virtual_service(), None, "has 0 http routes"),
        (simple(), "other", "its http routes are 'primary'"),
        (virtual_service(("a", [destination("v1", 100)]), ("b", [])), None, "has 2 http routes"),
        (virtual_service(("a", []), ("a", [])), "a", "more than once"),
        (
            virtual_service(("p", [destination("v1", 50), destination("v2", 0), destination("v3", 50)])),
            None,
            r"carry traffic \(v3=50\)",
        ),
        (
            virtual_service(("p", [destination("v1", 50), destination("v2", 25), destination("v2", 25)])),
            None,
            "more than once",
        ),
        (
            virtual_service(("p", [destination("v1", 50, "a.b.svc"), destination("v2", 50, "c.b.svc")])),
            None,
            "different hosts",
        ),
    ],
)
def test_object_that_cannot_be_managed_is_refused_in_its_own_words(document: Any, route: Any, words: str) -> None:
    with pytest.raises(_weights.WeightError, match=words):
        _virtual_service.read_route(document, route, None, "v1", "v2")


def test_same_subset_twice_in_the_options_is_refused() -> None:
    with pytest.raises(_weights.WeightError, match="two different destinations"):
        _virtual_service.read_route(simple(), None, None, "v1", "v1")


def test_third_destination_without_weight_is_kept() -> None:
    document = virtual_service(("p", [destination("v1", 100), destination("v3", 0), destination("v2", 0)]))
    route = _virtual_service.read_route(document, None, None, "v1", "v2")
    after = apply_patch(document, _virtual_service.patch_operations(document, route, _weights.wanted(30)))
    assert [entry["weight"] for entry in after["spec"]["http"][0]["route"]] == [70, 0, 30]


def test_last_writer_is_the_newest_manager_of_the_routes() -> None:
    document = simple()
    document["metadata"]["managedFields"] = [
        {"manager": "kubectl-edit", "time": "2026-01-01T10:00:02Z", "fieldsV1": {"f:spec": {"f:http": {}}}},
        {"manager": "signal.rollout", "time": "2026-01-01T10:00:01Z", "fieldsV1": {"f:spec": {"f:http": {}}}},
        {"manager": "labeller", "time": "2026-01-01T10:00:09Z", "fieldsV1": {"f:metadata": {}}},
    ]
    assert _weights.last_writer(document, _virtual_service.FIELD) == {"manager": "kubectl-edit", "time": "2026-01-01T10:00:02Z"}
    assert _weights.last_writer(simple(), _virtual_service.FIELD)["manager"] == "unknown"


def envoy(action: dict[str, Any], name: str = "primary", origin: str = "signal-service") -> dict[str, Any]:
    config = f"/apis/networking.istio.io/v1/namespaces/signal/virtual-service/{origin}"
    route = {"name": name, "route": action, "metadata": {"filter_metadata": {"istio": {"config": config}}}}
    return {"configs": [{"route_config": {"virtual_hosts": [{"routes": [route]}]}}]}


def shown(dump: dict[str, Any]) -> list[_weights.Weights]:
    return _virtual_service.envoy_weights(dump, simple(), _virtual_service.read_route(simple(), "primary", None, "v1", "v2"))


def test_envoy_single_cluster_means_all_traffic() -> None:
    assert shown(envoy({"cluster": f"outbound|80|v2|{HOST}"})) == [_weights.Weights(0, 100)]


def test_envoy_weighted_clusters_are_read_relative_to_their_total() -> None:
    clusters = [{"name": f"outbound|80|v1|{HOST}", "weight": 450}, {"name": f"outbound|80|v2|{HOST}", "weight": 50}]
    assert shown(envoy({"weighted_clusters": {"clusters": clusters}})) == [_weights.Weights(90, 10)]


def test_envoy_routes_of_other_objects_are_not_taken_for_ours() -> None:
    assert shown(envoy({"cluster": f"outbound|80|v2|{HOST}"}, name="other")) == []
    assert shown(envoy({"cluster": f"outbound|80|v2|{HOST}"}, origin="another")) == []
    assert shown(envoy({"cluster": "outbound|80|v2|other.signal.svc.cluster.local"})) == [_weights.Weights(0, 0)]


def test_subset_labels_come_from_rules_of_the_same_host_only() -> None:
    rules = [
        {"metadata": {"namespace": "signal"}, "spec": {"host": "signal-service", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}},
        {"metadata": {"namespace": "signal"}, "spec": {"host": "other", "subsets": [{"name": "v2", "labels": {"version": "v2"}}]}},
    ]
    assert _virtual_service.subset_labels(rules, HOST, "istio-system") == {"v1": {"version": "v1"}}


@pytest.mark.parametrize(
    ("export_to", "seen"), [(None, True), (["*"], True), (["."], False), (["istio-system"], True), (["elsewhere"], False)]
)
def test_subsets_of_a_rule_that_the_gateways_do_not_get_do_not_count(export_to: list[str] | None, seen: bool) -> None:
    spec: dict[str, Any] = {"host": HOST, "subsets": [{"name": "v1"}]}
    if export_to:
        spec["exportTo"] = export_to
    rules = [{"metadata": {"namespace": "signal"}, "spec": spec}]
    assert bool(_virtual_service.subset_labels(rules, HOST, "istio-system")) is seen
    assert bool(_virtual_service.subset_labels(rules, HOST, "signal")) is (seen and export_to != ["istio-system"] or export_to == ["."])


def test_a_rule_for_this_very_host_wins_over_a_wildcard() -> None:
    def rule(host: str, subset: str) -> dict[str, Any]:
        return {"metadata": {"namespace": "signal"}, "spec": {"host": host, "subsets": [{"name": subset}]}}

    wide, wider = rule("*.signal.svc.cluster.local", "wide"), rule("*.cluster.local", "wider")
    assert set(_virtual_service.subset_labels([wider, wide, rule("signal-service", "own")], HOST, "istio-system")) == {"own"}
    assert set(_virtual_service.subset_labels([wider, wide], HOST, "istio-system")) == {"wide"}


def hosts(*entries: tuple[str, int]) -> dict[str, Any]:
    route = [{"destination": {"host": host}, "weight": weight} for host, weight in entries]
    return virtual_service(("primary", route))


def test_destinations_without_subset_are_named_by_their_host() -> None:
    document = hosts(("signal-service-v1", 100), ("signal-service-v2.signal.svc.cluster.local", 0))
    route = _virtual_service.read_route(document, None, None, "signal-service-v1", "signal-service-v2")
    assert (route.stable.service, route.canary.service) == tuple(f"signal-service-{v}.signal.svc.cluster.local" for v in ("v1", "v2"))
    after = apply_patch(document, _virtual_service.patch_operations(document, route, _weights.wanted(25)))
    assert [entry["weight"] for entry in after["spec"]["http"][0]["route"]] == [75, 25]
    dump = envoy({"cluster": "outbound|80||signal-service-v2.signal.svc.cluster.local"})
    assert _virtual_service.envoy_weights(dump, document, route) == [_weights.Weights(0, 100)]


def test_kept_destination_leaves_its_share_to_nobody() -> None:
    document = virtual_service(("p", [destination("v1", 70), destination("v2", 10), destination("v3", 20)]))
    route = _virtual_service.read_route(document, None, None, "v1", "v2", "keep")
    assert route.kept == 20
    after = apply_patch(document, _virtual_service.patch_operations(document, route, _weights.wanted(50, route.kept)))
    assert [entry["weight"] for entry in after["spec"]["http"][0]["route"]] == [30, 50, 20]
    with pytest.raises(_weights.WeightError, match="weight is 81, but other destinations keep 20 %: expected at most 80"):
        _weights.wanted(81, route.kept)


@pytest.mark.parametrize(
    "match",
    [None, [], [{}], [{"uri": {"prefix": "/"}}], [{"uri": {"regex": ".*"}}], [{"name": "all"}], [{"uri": {"prefix": "/x"}}, {"uri": {"prefix": "/"}}]],
)
def test_a_route_behind_one_that_matches_everything_is_refused(match: list[dict[str, Any]] | None) -> None:
    document = virtual_service(("all", [destination("v1", 100)]), ("primary", [destination("v1", 100), destination("v2", 0)]))
    document["spec"]["http"][0]["match"] = match
    with pytest.raises(_weights.WeightError, match="'all' comes first and matches every request, so that 'primary' is never reached"):
        _virtual_service.read_route(document, "primary", None, "v1", "v2")


@pytest.mark.parametrize(
    "match", [[{"headers": {"x-canary": {"exact": "1"}}}], [{"uri": {"prefix": "/api"}}], [{"uri": {"prefix": "/"}, "gateways": ["mesh"]}]]
)
def test_header_and_path_routes_before_the_managed_one_are_left_alone(match: list[dict[str, Any]]) -> None:
    document = virtual_service(("header", [destination("v2", 100)]), ("primary", [destination("v1", 100), destination("v2", 0)]))
    document["spec"]["http"][0]["match"] = match
    assert _virtual_service.read_route(document, "primary", None, "v1", "v2").index == 1


@pytest.mark.parametrize(("gateways", "only"), [(None, True), (["mesh"], True), (["edge", "mesh"], False), (["edge"], False)])
def test_routes_that_no_gateway_has(gateways: list[str] | None, only: bool) -> None:
    document = simple()
    document["spec"]["gateways"] = gateways
    assert _virtual_service.is_for_sidecars_only(document) is only
