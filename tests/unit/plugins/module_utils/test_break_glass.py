# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The line that puts traffic back by kubectl alone: as a shell takes it apart, and as the API server would apply it."""

from __future__ import annotations

import copy
import json
import shlex
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _http_route, _virtual_service

METADATA = {"namespace": "signal", "name": "signal-service"}


def virtual_service(*entries: tuple[str, str, int | None]) -> dict[str, Any]:
    route = [
        {"destination": {"host": host, **({"subset": subset} if subset else {})}, **({} if weight is None else {"weight": weight})}
        for host, subset, weight in entries
    ]
    http = [{"name": "canary-header", "match": [{"headers": {"x": {"exact": "y"}}}], "route": route[:1]}, {"name": "primary", "route": route}]
    return {"metadata": METADATA, "spec": {"http": http}}


def http_route(*entries: tuple[str, int | None]) -> dict[str, Any]:
    backends = [{"name": name, "port": 80, **({} if weight is None else {"weight": weight})} for name, weight in entries]
    return {"metadata": METADATA, "spec": {"rules": [{"name": "primary", "backendRefs": backends}]}}


def apply(document: dict[str, Any], line: str) -> dict[str, Any]:
    """Apply the line's JSON Patch as the API server does; AssertionError where a ``test`` does not hold."""
    words = shlex.split(line)
    changed = copy.deepcopy(document)
    for operation in json.loads(words[words.index("-p") + 1]):
        *way, last = [int(part) if part.isdigit() else part for part in operation["path"].strip("/").split("/")]
        place: Any = changed
        for part in way:
            place = place[part]
        if operation["op"] == "test":
            assert place[last] == operation["value"]
        else:
            place[last] = operation["value"]
    return changed


@pytest.mark.parametrize(("old", "new"), [(100, 0), (90, 10), (0, 100), (100, None)])
def test_line_gives_all_traffic_to_stable_whatever_the_weights_are(old: int, new: int | None) -> None:
    document = virtual_service(("svc", "v1", old), ("svc", "v2", new))
    route = _virtual_service.read_route(document, "primary", None, "v1", "v2")
    line = _virtual_service.break_glass(document, route)
    assert shlex.split(line)[:6] == ["kubectl", "-n", "signal", "patch", "virtualservice", "signal-service"] and "\n" not in line
    later = virtual_service(("svc", "v1", 37), ("svc", "v2", 63))
    for state in (document, later, apply(document, line)):
        assert [entry["weight"] for entry in apply(state, line)["spec"]["http"][1]["route"]] == [100, 0]


def test_line_leaves_the_share_of_a_third_destination() -> None:
    document = virtual_service(("svc", "v1", 60), ("svc", "v2", 30), ("svc", "v0", 10))
    route = _virtual_service.read_route(document, "primary", None, "v1", "v2", "keep")
    after = apply(document, _virtual_service.break_glass(document, route))
    assert [entry["weight"] for entry in after["spec"]["http"][1]["route"]] == [90, 0, 10]


def test_line_is_refused_after_somebody_has_reordered_the_destinations() -> None:
    document = virtual_service(("svc", "v1", 50), ("svc", "v2", 50))
    route = _virtual_service.read_route(document, "primary", None, "v1", "v2")
    line = _virtual_service.break_glass(document, route)
    with pytest.raises(AssertionError):
        apply(virtual_service(("svc", "v2", 50), ("svc", "v1", 50)), line)


def test_destinations_without_subset_are_told_by_their_host() -> None:
    document = virtual_service(("blue.signal.svc.cluster.local", "", 50), ("green.signal.svc.cluster.local", "", 50))
    route = _virtual_service.read_route(document, "primary", None, "blue", "green")
    after = apply(document, _virtual_service.break_glass(document, route))
    assert [entry["weight"] for entry in after["spec"]["http"][1]["route"]] == [100, 0]


def test_line_for_an_http_route_writes_its_backends() -> None:
    document = http_route(("blue", 50), ("green", 50))
    route = _http_route.read_route(document, None, "blue", "green")
    line = _http_route.break_glass(document, route)
    assert shlex.split(line)[4].split(".")[0] == "httproute"
    assert [entry["weight"] for entry in apply(document, line)["spec"]["rules"][0]["backendRefs"]] == [100, 0]
