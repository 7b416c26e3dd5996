# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Draining against the lab's Envoys: running requests and open WebSockets, as the gateways and as the service count them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _drain, _kube, _scale
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import GATEWAY, Mesh, _objects, connection, restore, wait_until

# /sleep/N answers after N seconds, /metrics tells the open WebSockets, any upgrade is taken. TERM closes WebSockets with 1001.
SERVER = r"""
import asyncio, base64, hashlib, signal
open_sockets = set()
async def client(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            keys = [line.split(":", 1)[1].strip() for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key:")]
            if keys:
                accept = base64.b64encode(hashlib.sha1((keys[0] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
                fields = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: " + accept]
                writer.write(("\r\n".join(fields) + "\r\n\r\n").encode())
                open_sockets.add(writer)
                while await reader.read(1024):
                    pass
                break
            if path.startswith("/sleep/"):
                await asyncio.sleep(float(path.split("/")[2]))
            body = b"open_sockets %d\n" % len(open_sockets)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        open_sockets.discard(writer)
        writer.close()
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(client, "0.0.0.0", 8080)
    await stop.wait()
    server.close()
    for writer in list(open_sockets):
        writer.write(b"\x88\x02\x03\xe9")
        await writer.drain()
    await asyncio.sleep(0.5)
    raise SystemExit(0)
asyncio.run(main())
"""
GAUGE = {"selector": "app=echo,version=v2", "port": 8080, "path": "/metrics", "websockets": "open_sockets", "requests": None}
GATEWAYS = {"namespace": "istio-system", "selector": "istio=ingressgateway", "admin_port": 15000, "container": "istio-proxy"}


@pytest.fixture(scope="module")
def talking_mesh(shared_mesh: Mesh) -> Mesh:
    """The mesh whose green can keep a request or a WebSocket open."""
    body = next(item for _path, item in _objects(shared_mesh) if item["kind"] == "Deployment" and item["metadata"]["name"] == "echo-v2")
    template = body["spec"]["template"]
    template["spec"]["terminationGracePeriodSeconds"] = 5
    template["spec"]["containers"][0]["command"] = ["python3", "-c", SERVER]
    shared_mesh.kube.patch(shared_mesh.path("deployments", "echo-v2", ("apps", "v1")), {"spec": {"template": template}}, _kube.MERGE_PATCH)
    wait_until("the new green is ready", lambda: _commands(shared_mesh) == {SERVER}, 60)
    return shared_mesh


def _commands(mesh: Mesh) -> set[str]:
    pods = mesh.kube.list(mesh.path("pods", None, ("", "v1")), {"labelSelector": "version=v2"})
    return {pod["spec"]["containers"][0]["command"][2] if pod_is_ready(pod) else "not ready" for pod in pods}


@pytest.fixture(params=["VirtualService", "HTTPRoute"])
def mesh(talking_mesh: Mesh, request: pytest.FixtureRequest) -> Mesh:
    """The mesh by each kind of route, green started and without traffic."""
    scale(talking_mesh, 1)
    wait_until("green is ready", lambda: _commands(talking_mesh) == {SERVER}, 60)
    restore(talking_mesh)
    return talking_mesh.of(request.param)


def scale(mesh: Mesh, replicas: int, **options: Any) -> dict[str, Any]:
    defaults = {name: rule.get("default") for name, rule in _scale.ARGUMENT_SPEC.items()}
    params = {**defaults, **connection(namespace=mesh.namespace), "name": "echo-v2", "replicas": replicas, **options}
    return _scale.run(params, Context())


def drain(mesh: Mesh, user: str = "admin", **options: Any) -> dict[str, Any]:
    params = {
        **connection(user, namespace=mesh.namespace), "kind": mesh.kind, "name": "echo", "route": None, "destination_host": None,
        "extra_destinations": "refuse", "others": None, **mesh.destinations, "leaving": "canary", "gateways": GATEWAYS, "pods": GAUGE,
        "longest_request": 30.0, "websocket_timeout": 0.0, "settle": 0.2, "interval": 0.1, **options,
    }  # fmt: skip
    return _drain.run(params, Context())


class Clients:
    """Clients of green, each in flight until it ends by itself or is told to leave."""

    def __init__(self, mesh: Mesh) -> None:
        self.headers = {"Host": mesh.host}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.answers: list[int] = []
        self.closed: list[int | None] = []
        self.opened = 0
        self.leave = asyncio.Event()
        self.tasks: list[Any] = []

    def _start(self, work: Any) -> None:
        self.tasks.append(asyncio.run_coroutine_threadsafe(work, self.loop))

    def request(self, seconds: float) -> None:
        self._start(self._request(seconds))

    def websocket(self) -> None:
        wanted = self.opened + 1
        self._start(self._websocket())
        wait_until("the WebSocket is open", lambda: self.opened >= wanted, 10)

    async def _request(self, seconds: float) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"http://{GATEWAY}/sleep/{seconds}", headers=self.headers) as answer:
            self.answers.append(answer.status)

    async def _websocket(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{GATEWAY}/", headers=self.headers) as socket:
            self.opened += 1
            await asyncio.wait({asyncio.create_task(self.leave.wait()), asyncio.create_task(socket.receive())}, return_when=asyncio.FIRST_COMPLETED)
            self.closed.append(socket.close_code)

    def say_leave(self) -> None:
        self.loop.call_soon_threadsafe(self.leave.set)

    def end(self) -> None:
        self.say_leave()
        for task in self.tasks:
            task.result(40)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def clients(mesh: Mesh) -> Iterator[Clients]:
    made = Clients(mesh)
    yield made
    made.end()


def test_version_without_connections_is_drained_at_once(mesh: Mesh) -> None:
    answer = drain(mesh)
    assert answer["drained"] and answer["cut"] == 0 and answer["reason"] == "nothing is running"
    assert answer["end"] == {"requests": 0, "websockets": 0}
    assert answer["sources"] == {"gateways": 2, "pods": 1} and not answer["changed"]


def test_running_requests_are_waited_for_and_get_their_answers(mesh: Mesh, clients: Clients) -> None:
    mesh.shift(100)
    for _number in range(3):
        clients.request(3.0)
    wait_until("they run", lambda: _running(mesh) == 3, 10)
    mesh.shift(0)
    answer = drain(mesh)
    assert answer["start"]["requests"] == 3 and answer["drained"], answer
    assert clients.answers == [200, 200, 200], "drained means that every answer has left"


def _running(mesh: Mesh) -> int:
    """Requests of green that run, as the gateways count them while it still has the traffic."""
    subset, service = ("", "echo-v2") if mesh.is_gateway_api else ("v2", "echo")
    pods = mesh.kube.list("/api/v1/namespaces/istio-system/pods", {"labelSelector": GATEWAYS["selector"]})
    total = 0
    for pod in pods:
        stats = mesh.kube.get(f"/api/v1/namespaces/istio-system/pods/{pod['metadata']['name']}:15000/proxy/stats", {"format": "json"})
        total += _drain.gauges_of_clusters(stats, subset, f"{service}.{mesh.namespace}.svc.cluster.local") or 0
    return total


def test_request_beyond_the_longest_is_counted_as_cut(mesh: Mesh, clients: Clients) -> None:
    mesh.shift(100)
    clients.request(6.0)
    wait_until("it runs", lambda: _running(mesh) == 1, 10)
    mesh.shift(0)
    answer = drain(mesh, longest_request=1.0)
    assert not answer["drained"] and answer["cut"] == 1 and answer["end"]["requests"] == 1, answer


def test_open_websockets_are_told_from_requests_counted_and_closed_with_1001(mesh: Mesh, clients: Clients) -> None:
    mesh.shift(100)
    for _number in range(4):
        clients.websocket()
    mesh.shift(0)
    answer = drain(mesh)
    assert answer["start"] == {"requests": 0, "websockets": 4} and answer["cut"] == 4, answer
    assert clients.closed == [], "a drain closes nothing"
    assert scale(mesh, 0)["changed"]
    wait_until("the clients have seen the end", lambda: len(clients.closed) == 4, 15)
    assert clients.closed == [1001] * 4


def test_websockets_that_leave_in_their_time_are_not_cut(mesh: Mesh, clients: Clients) -> None:
    mesh.shift(100)
    clients.websocket()
    clients.websocket()
    mesh.shift(0)
    threading.Timer(1.5, clients.say_leave).start()
    answer = drain(mesh, websocket_timeout=30.0)
    assert answer["start"]["websockets"] == 2 and answer["drained"] and answer["cut"] == 0, answer


def test_envoy_alone_counts_an_open_websocket_as_a_running_request(mesh: Mesh, clients: Clients) -> None:
    mesh.shift(100)
    clients.websocket()
    mesh.shift(0)
    answer = drain(mesh, pods=None, longest_request=1.0)
    assert answer["start"] == {"requests": 1, "websockets": None} and answer["cut"] == 1, answer


def test_version_that_still_has_traffic_is_not_drained(mesh: Mesh) -> None:
    mesh.shift(10)
    with pytest.raises(RolloutError, match="has 10 % of the traffic, expected 0"):
        drain(mesh)


def test_requests_that_came_by_another_route_are_waited_for_too(mesh: Mesh, clients: Clients, talking_mesh: Mesh) -> None:
    other = talking_mesh.of("VirtualService" if mesh.is_gateway_api else "HTTPRoute")
    others = [{"kind": mesh.kind, **mesh.destinations}]
    mesh.shift(100)
    clients.request(3.0)
    wait_until("it runs", lambda: _running(mesh) == 1, 10)
    mesh.shift(0)
    # Seen from the route that never carried it.
    alone = drain(other, pods=None)
    assert alone["start"]["requests"] == 0, alone
    together = drain(other, pods=None, others=others)
    assert together["start"]["requests"] == 1 and together["drained"], together
    mesh.shift(10)
    with pytest.raises(RolloutError, match="has 10 % of the traffic, expected 0"):
        drain(other, others=others)


def test_gateways_that_may_not_be_read_leave_the_time_of_the_longest_request(mesh: Mesh) -> None:
    answer = drain(mesh, gateways={**GATEWAYS, "admin_port": 15001}, pods=None, longest_request=1.0)
    assert not answer["drained"] and answer["cut"] is None and "cannot be seen" in answer["reason"], answer
    assert answer["start"] == {"requests": None, "websockets": None}
    nobody = drain(mesh, gateways={**GATEWAYS, "selector": "istio=nobody"}, pods=None, longest_request=0.5)
    assert "no ready gateway" in nobody["reason"]


def test_metric_that_the_service_does_not_have_is_named_and_not_taken_for_0(mesh: Mesh) -> None:
    answer = drain(mesh, pods={**GAUGE, "websockets": "open_socket"})
    assert answer["end"]["websockets"] is None and "has no metric open_socket" in answer["reason"]
