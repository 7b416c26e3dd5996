# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synthetic requests through the lab's real gateways, by a header route in a mesh of the test's own, counted by Envoy."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _metric_gate, _prometheus
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import GATEWAY, Mesh, wait_until
from .test_metric_gate import CALM, URL, breaking_at, gate, options, route

FLOOR = 30


def header_route(mesh: Mesh, version: str = "v2") -> dict[str, Any]:
    """A route by header, whose answers say which version gave them."""
    if mesh.is_gateway_api:
        said = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-version", "value": version}]}}
        return {
            "name": "by-header",
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x-release-canary", "value": "v2"}]}],
            "filters": [said],
            "backendRefs": [{"name": f"echo-{version}", "port": 80}],
        }
    return {
        "name": "by-header",
        "match": [{"headers": {"x-release-canary": {"exact": "v2"}}}],
        "route": [
            {
                "destination": {"host": f"echo.{mesh.namespace}.svc.cluster.local", "subset": version},
                "headers": {"response": {"set": {"x-version": version}}},
            }
        ],
    }


def routes(mesh: Mesh) -> list[dict[str, Any]]:
    spec = mesh.route["spec"]
    return list(spec["rules"] if mesh.is_gateway_api else spec["http"])


def primary_weights(mesh: Mesh) -> list[int]:
    (entry,) = [entry for entry in routes(mesh) if entry["name"] == "primary"]
    return [part.get("weight", 0) for part in entry["backendRefs" if mesh.is_gateway_api else "route"]]


def says(mesh: Mesh) -> str | None:
    """What the answer to a request with the header says of its version."""
    request = urllib.request.Request(f"http://{GATEWAY}/", headers={"Host": mesh.host, "x-release-canary": "v2"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.headers["x-version"]
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"


def settle(mesh: Mesh, version: str | None) -> None:
    # Both gateways must have it: they are asked in turn.
    wait_until(f"the gateways answer with {version}", lambda: all(says(mesh) == version for _request in range(8)))


def put_first(mesh: Mesh, version: str = "v2") -> None:
    place = "/spec/rules/0" if mesh.is_gateway_api else "/spec/http/0"
    mesh.edit([{"op": "add", "path": place, "value": header_route(mesh, version)}], manager="test")
    settle(mesh, version)


@pytest.fixture
def routed(mesh: Mesh) -> Mesh:
    """The mesh with a header route to v2 before its weighted one."""
    put_first(mesh)
    return mesh


def synthetic(mesh: Mesh, **changes: Any) -> dict[str, Any]:
    return {
        "url": f"http://{GATEWAY}/",
        "headers": {"Host": mesh.host, "x-release-canary": "v2"},
        "expect": {"header": "x-version", "value": "v2"},
        "rate": 20,
        **changes,
    }


def cluster(mesh: Mesh) -> dict[str, str]:
    """How Envoy knows v2."""
    if mesh.is_gateway_api:
        return {"version": "", "host": f"echo-v2.{mesh.namespace}.svc.cluster.local"}
    return {"version": "v2", "host": f"echo.{mesh.namespace}.svc.cluster.local"}


def floor(mesh: Mesh, at_least: float = FLOOR) -> dict[str, Any]:
    return {"preset": "gateway_requests", "preset_vars": {**cluster(mesh), "window": "$hold"}, "at_least": at_least}


def errors_at_gateway(mesh: Mesh) -> dict[str, Any]:
    variables = {**cluster(mesh), "window": "5s"}
    return {"name": "errors", "preset": "gateway_error_percent", "preset_vars": variables, "below": 50, "unit": "%"}


def primary(mesh: Mesh) -> dict[str, Any]:
    return {**route(mesh), "route": "primary", "kind": mesh.kind, **mesh.destinations}


def requests_so_far(mesh: Mesh) -> float:
    """How many requests Envoy has sent to v2 in all."""
    query = f'sum(envoy_cluster_upstream_rq{{envoy_cluster_name=~".*[|]v2[|]echo.{mesh.namespace}.*", envoy_response_code!=""}}) or vector(0)'
    reading = _prometheus.Prometheus({"prometheus_url": URL}, 5.0).read(query)
    assert reading.value is not None, reading.detail
    return reading.value


def quiet(mesh: Mesh) -> bool:
    """Whether no request comes for two scrapes and more."""
    before = requests_so_far(mesh)
    time.sleep(3)
    return requests_so_far(mesh) == before


@pytest.mark.parametrize("kind", ["VirtualService", "HTTPRoute"])
def test_a_release_without_users_passes_by_synthetic_requests_and_only_weights_change(mesh: Mesh, kind: str) -> None:
    routed = mesh.of(kind)
    put_first(routed)
    before = routes(routed)
    lines: list[str] = []
    result = gate(
        lines, duration=8, extension=20, outage_budget=20, scrape_interval=1, metrics=[CALM, errors_at_gateway(routed)],
        minimum_requests=floor(routed), synthetic=synthetic(routed), abort_route=primary(routed), shift={"weight": 10},
    )
    assert result["verdict"] == "pass", result["msg"]
    load = result["synthetic"]
    assert load["sent"] >= FLOOR and load["statuses"] == {"200": load["answered"]} and load["failed"] == 0
    assert result["requests"]["count"] >= FLOOR
    assert any("sending up to 20 synthetic requests/s" in line for line in lines)
    assert primary_weights(routed) == [90, 10]
    routed.shift(0, route="primary")
    assert routes(routed) == before


def test_without_them_the_same_release_is_insufficient(routed: Mesh) -> None:
    result = gate(duration=4, extension=1, metrics=[CALM], minimum_requests=floor(routed), abort_route=primary(routed), shift={"weight": 10})
    assert result["verdict"] == "insufficient" and result["synthetic"] is None
    assert primary_weights(routed) == [100, 0]


def test_users_who_send_enough_are_left_alone(routed: Mesh) -> None:
    stop = threading.Event()

    def users() -> None:

        while not stop.wait(0.02):
            says(routed)

    thread = threading.Thread(target=users)
    thread.start()
    try:
        # Users send some 30 a second or more.
        result = gate(
            duration=8, extension=20, scrape_interval=1, metrics=[CALM], minimum_requests=floor(routed, 20), synthetic=synthetic(routed),
        )
    finally:
        stop.set()
        thread.join()
    assert result["verdict"] == "pass", result["msg"]
    assert result["synthetic"]["sent"] == 0


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "does not say which version gave it"),
        ("v1", "was answered by 'v1', expected header x-version to be 'v2'"),
    ],
)
def test_a_header_that_does_not_lead_to_green_is_refused_before_anything_moves(mesh: Mesh, entry: str | None, words: str) -> None:
    if entry is not None:
        put_first(mesh, entry)
    settle(mesh, entry)
    version = mesh.virtual_service["metadata"]["resourceVersion"]
    result = gate(minimum_requests=floor(mesh), synthetic=synthetic(mesh), abort_route=primary(mesh), shift={"weight": 10})
    assert result["verdict"] == "error" and "synthetic load cannot be used" in result["msg"] and words in result["msg"]
    assert result["shift"] is None and result["synthetic"]["sent"] == 0
    assert mesh.virtual_service["metadata"]["resourceVersion"] == version


def test_a_route_that_changes_during_the_hold_ends_the_sending(routed: Mesh) -> None:
    replaced = {"op": "replace", "path": "/spec/http/0", "value": header_route(routed, "v1")}
    change = threading.Timer(3.0, routed.edit, [[replaced]])
    change.start()
    result = gate(duration=8, metrics=[CALM], synthetic=synthetic(routed, when="always"))
    change.join()
    assert result["verdict"] == "pass"
    assert result["synthetic"]["misrouted"] == "v1"
    assert any("synthetic load stopped: an answer came from 'v1'" in warning for warning in result["warnings"])


def test_a_breach_ends_the_sending_at_once(routed: Mesh) -> None:
    result = gate(
        duration=60, metrics=[CALM, breaking_at(time.time() + 3)], synthetic=synthetic(routed, when="always"), abort_route=primary(routed),
        shift={"weight": 10},
    )
    assert result["verdict"] == "breach" and result["synthetic"]["sent"] > 10
    wait_until("Envoy counts no more requests", lambda: quiet(routed))


def test_an_interruption_ends_the_sending_at_once(routed: Mesh) -> None:
    context = Context()
    timer = threading.Timer(3.0, context.interrupt, ["SIGTERM"])
    timer.start()
    asked = options(duration=60, synthetic=synthetic(routed, when="always"), abort_route=primary(routed), shift={"weight": 10})
    with pytest.raises(RolloutError) as caught:
        _metric_gate.run(asked, context)
    timer.join()
    assert caught.value.result["verdict"] == "cancelled" and caught.value.result["synthetic"]["sent"] > 10
    wait_until("Envoy counts no more requests", lambda: quiet(routed))


def test_check_mode_sends_nothing(routed: Mesh) -> None:
    wait_until("Envoy counts no more requests", lambda: quiet(routed))
    before = requests_so_far(routed)
    result = gate(check_mode=True, minimum_requests=floor(routed), synthetic=synthetic(routed))
    assert result["verdict"] == "none" and result["synthetic"] is None
    time.sleep(2.5)
    assert requests_so_far(routed) == before
