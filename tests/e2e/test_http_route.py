# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release by the Gateway API's HTTPRoute instead of a VirtualService, and its way back."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _http_route, _kube

from .conftest import LAB, Stage, labctl

BLUE, GREEN = [100, 0], [0, 100]
HOST = "signal-service-gwapi.lab"
GATEWAY_API: dict[str, Any] = {
    "rollout_route_kind": "HTTPRoute",
    "rollout_stable_destination": "signal-service-v1",
    "rollout_canary_destination": "signal-service-v2",
    "rollout_host_header": HOST,
}


def weights(stage: Stage) -> list[int]:
    """Percent on v1 and on v2, by the HTTPRoute."""
    found = stage.find(*_http_route.GROUP, _http_route.PLURAL, "signal-service")
    assert found is not None
    return [entry["weight"] for entry in found["spec"]["rules"][0]["backendRefs"]]


def send_there() -> None:
    labctl("traffic", "stop")
    labctl("traffic", "start", "--host", HOST, "--rate", "100", "--websockets", "10", "--duration", "600")


def test_release_and_rollback_by_an_http_route_lose_no_request(stage: Stage) -> None:
    send_there()
    released = stage.play("deploy_v2", **GATEWAY_API)
    assert released.code == 0, released.output[-4000:]
    assert weights(stage) == GREEN and stage.weights() == BLUE, "the VirtualService is not this release's"
    record = stage.record()
    assert record["outcome"] == "complete"
    confirmed = [record["steps"][f"canary_{weight}"]["evidence"]["confirmed"] for weight in (10, 50, 100)]
    assert [(entry["method"], entry["proxies"]) for entry in confirmed] == [("envoy", 2)] * 3

    back = stage.play("rollback", **GATEWAY_API)
    assert back.code == 0, back.output[-4000:]
    assert weights(stage) == BLUE and stage.replicas("v2") == 0
    totals = stage.traffic()
    assert totals["sent"] > 2000 and totals["versions"]["v2"] > 0
    assert (totals["failed"], totals["causes"]) == (0, {})


def test_breach_by_an_http_route_goes_back_and_the_line_by_hand_works(stage: Stage) -> None:
    send_there()
    run = stage.start("deploy_v2", canary_hold_seconds=12, **GATEWAY_API)
    stage.until("green has 10 %", lambda: weights(stage) == [90, 10])
    labctl("break", "error-ratio", "0.3")
    stage.until("traffic is back", lambda: weights(stage) == BLUE, 15)
    assert run.end().code != 0
    operations = [{"op": "replace", "path": f"/spec/rules/0/backendRefs/{place}/weight", "value": 50} for place in (0, 1)]
    stage.kube.patch(_kube.path_of(*_http_route.GROUP, _http_route.PLURAL, "signal", "signal-service"), operations)
    assert weights(stage) == [50, 50]
    line = stage.record()["break_glass"]
    environment = {**os.environ, "KUBECONFIG": str(LAB / "kubeconfig" / "deployer"), "PATH": f"{LAB / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(stage) == BLUE
