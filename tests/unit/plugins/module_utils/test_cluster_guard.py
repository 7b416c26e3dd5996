# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the guard in the cluster acts, what exactly it writes, and which rights it needs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _cluster_guard, _cluster_guard_script, _events, _http_route, _virtual_service
from ansible_collections.signal.rollout.plugins.module_utils._cluster_guard_script import Silence, decide

ROOT = Path(__file__).resolve().parents[4]
HOST = "echo.shop.svc.cluster.local"


def virtual_service(*shares: int | None, subsets: tuple[str, ...] = ("v1", "v2", "v3"), name: str = "primary") -> dict[str, Any]:
    """One whose second http route is the managed one."""
    route = []
    for subset, share in zip(subsets, shares):
        entry: dict[str, Any] = {"destination": {"host": HOST, "subset": subset}}
        route.append(entry if share is None else {**entry, "weight": share})
    written = [{"manager": "kubectl-edit", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {"f:http": {}}}}]
    metadata = {"name": "echo", "namespace": "shop", "uid": "u-1", "generation": 7, "resourceVersion": "70", "managedFields": written}
    header = {"name": "header", "match": [{"headers": {"x": {"exact": "y"}}}], "route": [{"destination": {"host": HOST, "subset": "v2"}}]}
    return {"kind": "VirtualService", "metadata": metadata, "spec": {"http": [header, {"name": name, "route": route}]}}


def known(document: dict[str, Any]) -> dict[str, Any]:
    """What the engine writes down of ``document`` for the guard."""
    rule = _virtual_service.read_route(document, "primary", None, "v1", "v2", "keep")
    return _cluster_guard.described("VirtualService", "VirtualService shop/echo", "/the/path", rule)


def applied(document: dict[str, Any], operations: list[dict[str, Any]]) -> list[int]:
    """The weights of the managed route once ``operations`` are applied; a test that does not hold is an error."""
    for operation in operations:
        *way, last = [int(key) if key.isdigit() else key for key in operation["path"].strip("/").split("/")]
        place: Any = document
        for key in way:
            place = place[key]
        if operation["op"] == "test":
            assert place[last] == operation["value"], operation
        else:
            place[last] = operation["value"]
    return [entry.get("weight", 0) for entry in document["spec"]["http"][1]["route"]]


def test_all_traffic_goes_back_under_tests_of_everything_that_is_known() -> None:
    document = virtual_service(90, 10)
    decision = decide(document, known(document), (50, 10))
    assert decision.before == 10 and decision.operations is not None
    tested = {operation["path"]: operation["value"] for operation in decision.operations if operation["op"] == "test"}
    assert tested == {
        "/metadata/uid": "u-1",
        "/metadata/generation": 7,
        "/spec/http/1/name": "primary",
        "/spec/http/1/route/0/destination/host": HOST,
        "/spec/http/1/route/0/destination/subset": "v1",
        "/spec/http/1/route/1/destination/host": HOST,
        "/spec/http/1/route/1/destination/subset": "v2",
        "/spec/http/1/route/0/weight": 90,
        "/spec/http/1/route/1/weight": 10,
    }
    assert applied(document, decision.operations) == [100, 0]


def test_share_of_a_further_destination_is_kept() -> None:
    document = virtual_service(70, 10, 20)
    decision = decide(document, known(document), (10,))
    assert decision.operations and applied(document, decision.operations) == [80, 0, 20]


def test_weight_that_is_not_written_is_added() -> None:
    document = virtual_service(None, 100)
    decision = decide(document, known(document), (100,))
    assert decision.operations and applied(document, decision.operations) == [100, 0]


def test_canary_without_traffic_asks_for_nothing() -> None:
    document = virtual_service(100, 0)
    assert decide(document, known(document), (10,)) == _cluster_guard_script.Decision(None, 0, "")


BEFORE = virtual_service(90, 10)
DRIFTS: dict[str, tuple[dict[str, Any], str]] = {
    "weights of a stranger": (virtual_service(60, 40), "the canary has 40 % and stable 60 %"),
    "a further destination with traffic": (virtual_service(80, 10, 10), "which this release did not set"),
    "another subset": (virtual_service(90, 10, subsets=("v1", "v9")), "canary destination is there 0 times"),
    "the destination twice": (virtual_service(80, 10, 10, subsets=("v1", "v2", "v2")), "canary destination is there 2 times"),
    "another name of the rule": (virtual_service(90, 10, name="renamed"), "rule 'primary' is there 0 times"),
}


@pytest.mark.parametrize("case", list(DRIFTS))
def test_what_another_hand_has_changed_is_left_and_told(case: str) -> None:
    document, words = DRIFTS[case]
    decision = decide(document, known(BEFORE), (10,))
    assert decision.operations is None
    assert words in decision.drift and "last written by 'kubectl-edit' at 2026-01-02T00:00:00Z" in decision.drift


def test_rule_of_an_http_route_without_names_and_weights_is_known_by_its_place() -> None:
    document = {
        "metadata": {"name": "echo", "namespace": "shop", "uid": "u-1", "generation": 7},
        "spec": {"rules": [{"backendRefs": [{"name": "echo-v1", "weight": 50}, {"name": "echo-v2", "weight": 50}]}]},
    }
    rule = _http_route.read_route(document, None, "echo-v1", "echo-v2")
    decision = decide(document, _cluster_guard.described("HTTPRoute", "HTTPRoute shop/echo", "/the/path", rule), (50,))
    changed = [(operation["path"], operation["value"]) for operation in decision.operations or [] if operation["op"] == "add"]
    assert changed == [("/spec/rules/0/backendRefs/0/weight", 100), ("/spec/rules/0/backendRefs/1/weight", 0)]


def test_silence_is_counted_from_the_last_renewal_that_was_seen() -> None:
    silence = Silence(longest_gap=5)
    assert [silence.look(now, renewed) for now, renewed in ((10, "a"), (14, "a"), (18, "a"), (20, "b"), (23, "b"))] == [0, 4, 8, 0, 3]


def test_silence_begins_anew_after_a_gap_in_which_nothing_was_seen() -> None:
    silence = Silence(longest_gap=5)
    assert [silence.look(now, "a") for now in (10, 15, 20.1, 22)] == [0, 5, 0, pytest.approx(1.9)]


def test_rights_of_the_shipped_file_are_those_that_the_guard_needs_and_no_more() -> None:
    account, role, binding = yaml.safe_load((ROOT / _cluster_guard.RBAC_FILE).read_text())["items"]
    routes = [{"kind": kind, "namespace": "signal", "name": "signal-service"} for kind in ("VirtualService", "HTTPRoute")]
    needed = _cluster_guard.needed_rights("signal-service", "signal", routes)["signal"]
    assert _cluster_guard.missing_rights(role["rules"], needed) == []
    given = {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    }
    assert given == set(needed)
    assert _cluster_guard.is_bound(binding, role["metadata"]["name"], account["metadata"]["name"], account["metadata"]["namespace"])
    defaults = yaml.safe_load((ROOT / "roles/canary/defaults/main.yml").read_text())
    assert defaults["canary_guard_service_account"] == account["metadata"]["name"] == role["metadata"]["name"]


def test_every_right_that_is_missing_is_named() -> None:
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"], "resourceNames": ["another"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    needed = _cluster_guard.needed_rights("echo", "shop", [{"kind": "VirtualService", "namespace": "edge", "name": "web"}])
    assert _cluster_guard.missing_rights(rules, needed["shop"]) == ["get configmaps/signal-rollout-echo", "patch configmaps/signal-rollout-echo"]
    assert _cluster_guard.missing_rights([], needed["edge"]) == [
        "get virtualservices.networking.istio.io/web",
        "patch virtualservices.networking.istio.io/web",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"roleRef": {"kind": "ClusterRole", "name": "guard"}},
        {"subjects": [{"kind": "ServiceAccount", "name": "guard", "namespace": "another"}]},
        {"subjects": None},
    ],
)
def test_binding_of_something_else_does_not_count(change: dict[str, Any]) -> None:
    binding = {"roleRef": {"kind": "Role", "name": "guard"}, "subjects": [{"kind": "ServiceAccount", "name": "guard", "namespace": "shop"}]}
    assert _cluster_guard.is_bound(binding, "guard", "guard", "shop")
    assert not _cluster_guard.is_bound({**binding, **change}, "guard", "guard", "shop")


def test_program_needs_nothing_but_the_standard_library_of_an_old_python() -> None:
    text = _cluster_guard.program()
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    assert 'if __name__ == "__main__":' in text


def record(**rest: Any) -> dict[str, Any]:
    return {"id": "r-1", "events": [{"time": "2026-01-01T00:00:02Z", "kind": "resumed", "by": "rollout_record"}], **rest}


SAID = {"state": "moved", "time": "2026-01-01T00:00:01Z", "holder": "run-a", "release": "r-1", "words": "back", "before": 10, "after": 0}


def test_what_the_guard_did_is_among_the_events_of_its_release_once_and_in_order() -> None:
    once = _events.fold(record(), SAID)
    assert [(event["kind"], event["by"]) for event in once["events"]] == [("guard", "guard in the cluster"), ("resumed", "rollout_record")]
    assert _events.fold(once, SAID)["events"] == once["events"]
    assert _events.death_seen(once, "run-a") is None, "silence is no proof of an end"


@pytest.mark.parametrize("said", [{}, {**SAID, "release": "r-0"}, {**SAID, "state": "watching"}, {**SAID, "state": "ended"}])
def test_guard_of_another_release_or_one_that_did_nothing_is_no_event(said: dict[str, Any]) -> None:
    assert _events.fold(record(), said) == record()
