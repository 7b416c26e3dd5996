# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way back of the demo service under load: requests, WebSockets, configuration, and the line for when nothing else works."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import threading
from typing import Any

import aiohttp
import pytest

from .conftest import LAB, Stage

BLUE, GREEN = [100, 0], [0, 100]
GATEWAY = "http://10.79.0.60"


class Subscribers:
    """WebSocket clients of whatever version has the traffic when they connect; each stays until the service ends it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.versions: list[str] = []
        self.codes: list[int | None] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers={"Host": "signal-service.lab"}) as session:
            await asyncio.gather(*(self._one(session) for _number in range(self.number)))

    async def _one(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{GATEWAY}/api/v1/subscriptions/websocket") as socket:
            hello = await socket.receive_json(timeout=10)
            self.versions.append(hello["version"])
            while (await socket.receive(timeout=120)).type == aiohttp.WSMsgType.TEXT:
                continue
            self.codes.append(socket.close_code)

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{len(self.codes)} of {self.number} were told to go"


def paste(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a person pastes it into a shell that has kubectl and the deployer's rights."""
    full = {**os.environ, "KUBECONFIG": str(LAB / "kubeconfig" / "deployer"), "PATH": f"{LAB / 'bin'}:{os.environ['PATH']}", **environment}
    return subprocess.run(line, shell=True, env=full, capture_output=True, text=True, timeout=30, check=False)


def test_rollback_under_load_loses_no_request_and_closes_green_s_websockets_with_1001(stage: Stage) -> None:
    # The gate is not what is tested: a slow machine must not end the release.
    released = stage.play("deploy_v2", "--skip-tags", "verification", canary_max_p99_ms=5000, canary_max_cpu_percent=99)
    assert released.code == 0, released.output[-4000:]
    subscribers = Subscribers(5)
    stage.until("they are connected", lambda: len(subscribers.versions) == 5, 15)
    assert subscribers.versions == ["v2"] * 5

    ended = stage.play("rollback")
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == BLUE and stage.replicas("v2") == 0 and stage.replicas("v1") == 2
    subscribers.wait()
    assert subscribers.codes == [1001] * 5
    drain = stage.record()["steps"]["rollback"]["evidence"]["drain"]
    assert drain["sources"]["gateways"] == 2 and drain["sources"]["pods"] == 2
    assert drain["start"]["websockets"] == 5 and drain["end"] == {"requests": 0, "websockets": 5} and drain["cut"] == 5
    stage.until("green's pods have ended", lambda: not pods(stage, "v2"), 40)

    totals = stage.traffic()
    assert totals["versions"]["v2"] > 0
    assert (totals["failed"], totals["causes"]) == (0, {})
    # Those that were opened before the release stayed with blue through all of it.
    assert totals["websocket"]["opened"] == {"v1": 10} and totals["websocket"]["closed"] == {}


def pods(stage: Stage, version: str) -> list[dict[str, Any]]:
    path = "/api/v1/namespaces/signal/pods"
    return stage.kube.list(path, {"labelSelector": f"app=signal-service,version={version}"})


def test_blue_that_is_deleted_in_the_middle_of_a_release_comes_back_as_it_was(stage: Stage) -> None:
    secret = stage.find("", "v1", "secrets", "signal-service-secrets-v1")
    config = stage.find("", "v1", "configmaps", "signal-service-config-v1")
    assert secret is not None and config is not None
    run = stage.start("deploy_v2", "--skip-tags", "verification", canary_hold_seconds=60, canary_bake_seconds=60, canary_steps=[100])
    stage.until("green has everything", lambda: stage.weights() == GREEN)
    run.kill()
    stage.until("the guard or the run has put traffic back", lambda: stage.weights() == BLUE, 20)
    for plural, group in (("deployments", "apps/v1"), ("configmaps", "v1"), ("secrets", "v1")):
        name = {"deployments": "signal-service-v1", "configmaps": "signal-service-config-v1", "secrets": "signal-service-secrets-v1"}[plural]
        base = f"/apis/{group}" if "/" in group else f"/api/{group}"
        stage.kube.delete(f"{base}/namespaces/signal/{plural}/{name}")
    stage.until("blue is gone", lambda: not pods(stage, "v1"), 60)

    ended = stage.play("rollback")
    assert ended.code == 0, ended.output[-4000:]
    assert stage.weights() == BLUE and stage.replicas("v1") == 2 and stage.replicas("v2") == 0
    again = stage.find("", "v1", "secrets", "signal-service-secrets-v1")
    assert again is not None and again["data"] == secret["data"]
    back = stage.find("", "v1", "configmaps", "signal-service-config-v1")
    assert back is not None and (back["data"], back["immutable"]) == (config["data"], config["immutable"])
    password = base64.b64decode(secret["data"]["PGPASSWORD"]).decode()
    kept = stage.find("", "v1", "configmaps", "signal-rollout-signal-service-snapshot")
    assert kept is not None
    for text in (ended.output, run.log.read_text(encoding="utf-8"), str(kept)):
        assert password not in text and secret["data"]["PGPASSWORD"] not in text
    second = stage.play("rollback")
    assert (second.code, second.changed) == (0, 0), second.output[-4000:]


@pytest.mark.parametrize("weight", [10, 100])
def test_line_that_status_prints_puts_traffic_back_when_it_is_pasted(stage: Stage, weight: int) -> None:
    # Whatever the weights are: the line is pasted into a shell as it stands on the screen.
    names = [entry.get("name") for entry in stage.virtual_service["spec"]["http"]]
    place = f"/spec/http/{names.index('primary')}/route"
    stage.kube.patch(
        "/apis/networking.istio.io/v1/namespaces/signal/virtualservices/signal-service",
        [
            {"op": "replace", "path": f"{place}/0/weight", "value": 100 - weight},
            {"op": "replace", "path": f"{place}/1/weight", "value": weight},
        ],
    )
    shown = stage.play("status")
    assert shown.code == 0, shown.output[-3000:]
    lines = [line.strip() for line in shown.output.splitlines() if line.strip().startswith("kubectl -n signal patch")]
    assert len(lines) == 1, shown.output[-3000:]
    done = paste(lines[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert stage.weights() == BLUE
    once_more = paste(lines[0])
    assert once_more.returncode == 0 and "no change" in once_more.stdout
