# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes of weights against an HTTP server that fails in every way an API server can."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _kube, _move
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .test_virtual_service import apply_patch, destination

DROP = object()


class Answer:
    """What the server does with one PATCH: perhaps apply it, then answer with ``status``, or not at all."""

    def __init__(self, status: Any = 200, applies: bool = False, before: Callable[[dict[str, Any]], None] | None = None, **headers: str) -> None:
        self.status, self.applies, self.before, self.headers = status, applies, before, headers


class Server(ThreadingHTTPServer):
    """VirtualServices by name, and a script of what becomes of the next writes (an empty one writes them)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {name: virtual_service(name) for name in ("one", "two")}
        self.script: list[Answer] = []
        self.log: list[str] = []
        self.times: list[float] = []

    def weights(self, name: str = "one") -> list[int]:
        return [entry["weight"] for entry in self.objects[name]["spec"]["http"][0]["route"]]

    def edit(self, name: str, stable: int, canary: int, manager: str = "kubectl-edit") -> None:
        """Write as somebody else."""
        document = self.objects[name]
        for entry, weight in zip(document["spec"]["http"][0]["route"], (stable, canary), strict=True):
            entry["weight"] = weight
        touch(document, manager)


def virtual_service(name: str) -> dict[str, Any]:
    document = {
        "metadata": {"name": name, "namespace": "signal", "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {"http": [{"name": "primary", "route": [destination("v1", 100), destination("v2", 0)]}]},
    }
    touch(document, "setup")
    return document


def touch(document: dict[str, Any], manager: str) -> None:
    metadata = document["metadata"]
    metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
    metadata["managedFields"] = [
        {"manager": manager, "time": "2026-11-24T10:58:46Z", "fieldsV1": {"f:spec": {"f:http": {}}}}
    ]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused: Any) -> None:
        """Keep the output of the tests quiet."""

    def do_GET(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        self.server.log.append(f"GET {name}")
        found = self.server.objects.get(name)
        self._send(200, found) if found else self._send(404, {"reason": "NotFound", "message": "not found"})

    def do_PATCH(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        operations = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.log.append(f"PATCH {name}")
        self.server.times.append(time.monotonic())
        answer = self.server.script.pop(0) if self.server.script else Answer(applies=True)
        document = self.server.objects[name]
        if answer.before is not None:
            answer.before(document)
        body: dict[str, Any] = {"message": "as the test wants it", "reason": "Test"}
        status = answer.status
        if answer.applies:
            stale = any(o["path"] == "/metadata/resourceVersion" and o["value"] != document["metadata"]["resourceVersion"] for o in operations)
            if stale:
                status, body = 409, {"message": "the object has been modified", "reason": "Conflict"}
            else:
                self.server.objects[name] = body = apply_patch(document, operations)
                touch(body, "signal.rollout")
        if status is DROP:
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, body, answer.headers)

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in (headers or {}).items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def params(server: Server, weight: int, name: str = "one", **options: Any) -> dict[str, Any]:
    given = {**dict.fromkeys(_kube.ARGUMENT_SPEC), **dict.fromkeys(_canary_weight.ROUTE_SPEC), **options}
    confirm = {key: rule.get("default") for key, rule in _canary_weight.ROUTE_SPEC["confirm"]["options"].items()}
    return {
        **given,
        "host": f"http://127.0.0.1:{server.server_port}", "namespace": "signal", "kind": "VirtualService", "name": name,
        "stable": "v1", "canary": "v2", "extra_destinations": "refuse", "weight": weight, "confirm": {**confirm, "method": "none"},
    }


def move(server: Server, weight: int, context: Context | None = None, **options: Any) -> _move.Move:
    """A move that has looked and is about to write."""
    wanted = params(server, weight, **options)
    made = _move.Move(wanted, _kube.connect(wanted), context or Context())
    made.look()
    return made


def nothing() -> None:
    """Nobody interrupts."""


def test_one_write_is_one_request(server: Server) -> None:
    made = move(server, 10)
    made.write(nothing)
    assert server.log == ["GET one", "PATCH one"] and server.weights() == [90, 10]
    assert made.report["changed"] is True


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_overloaded_server_is_asked_again_after_what_it_says_with_a_read_before(server: Server, status: int) -> None:
    server.script = [Answer(status, Retry_After="1"), Answer(applies=True)]
    move(server, 10).write(nothing)
    assert server.log == ["GET one", "PATCH one", "GET one", "PATCH one"] and server.weights() == [90, 10]
    assert server.times[1] - server.times[0] >= 1


def test_retry_after_may_be_a_date_and_is_capped() -> None:
    assert _kube.KubeError("x", retry_after=3600).pause(0.1) == _kube.KubeError("x", retry_after=5).pause(0.1) == 5
    assert 8 < (_kube._retry_after(formatdate(time.time() + 10, usegmt=True)) or 0) <= 10
    assert _kube._retry_after("soon") is None and _kube._retry_after("") is None
    assert _kube.KubeError("x").pause(0.1) == 0.1


def test_server_that_asks_for_more_time_than_there_is_ends_the_write(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_move, "_WRITE_SECONDS", 1.0)
    server.script = [Answer(429, Retry_After="3600")]
    made = move(server, 10)
    with pytest.raises(_kube.KubeError, match="429"):
        made.write(nothing)
    assert server.log == ["GET one", "PATCH one"] and made.report["changed"] is False


@pytest.mark.parametrize("applied", [True, False])
def test_lost_answer_is_settled_by_reading(server: Server, applied: bool) -> None:
    server.script = [Answer(DROP, applies=applied)]
    made = move(server, 10)
    made.write(nothing)
    assert server.weights() == [90, 10] and made.report["changed"] is True
    assert server.log == ["GET one", "PATCH one", "GET one"] + ([] if applied else ["PATCH one"])


def test_write_that_failed_inside_the_server_but_was_stored_is_not_written_twice(server: Server) -> None:
    server.script = [Answer(504, applies=True)]
    move(server, 10).write(nothing)
    assert server.log == ["GET one", "PATCH one", "GET one"] and server.weights() == [90, 10]


def test_lost_write_that_arrives_after_the_reading_is_our_own_and_not_drift(server: Server) -> None:
    def arrive(document: dict[str, Any]) -> None:
        server.edit("one", 90, 10, "signal.rollout")

    server.script = [Answer(DROP), Answer(applies=True, before=arrive)]
    made = move(server, 10)
    made.write(nothing)
    assert server.weights() == [90, 10] and made.report["changed"] is True and made.report["drift"] is None


def test_unrelated_edit_is_kept_and_the_change_repeated_on_top(server: Server) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["spec"]["http"][0]["timeout"] = "7s"
        touch(document, "kubectl-edit")

    server.script = [Answer(applies=True, before=edit)]
    move(server, 10).write(nothing)
    assert server.weights() == [90, 10] and server.objects["one"]["spec"]["http"][0]["timeout"] == "7s"
    assert server.log == ["GET one", "PATCH one", "GET one", "PATCH one"]


def moved_destination(document: dict[str, Any]) -> None:
    document["spec"]["http"][0]["route"][1]["destination"]["host"] = "elsewhere"
    touch(document, "kubectl-edit")


def renamed_route(document: dict[str, Any]) -> None:
    document["spec"]["http"][0]["name"] = "renamed"
    touch(document, "kubectl-edit")


def made_anew(document: dict[str, Any]) -> None:
    document["metadata"]["uid"] = "another"
    touch(document, "kubectl-create")


def other_weights(document: dict[str, Any]) -> None:
    for entry, weight in zip(document["spec"]["http"][0]["route"], (63, 37), strict=True):
        entry["weight"] = weight
    touch(document, "kubectl-edit")


@pytest.mark.parametrize(
    ("edit", "field"),
    [(other_weights, "weight of the canary"), (moved_destination, "route"), (renamed_route, "route"), (made_anew, "object")],
)
def test_edit_of_weights_or_route_in_the_same_moment_is_drift_with_its_writer(
    server: Server, edit: Callable[[dict[str, Any]], None], field: str
) -> None:
    server.script = [Answer(applies=True, before=edit)]
    made = move(server, 10, route="primary")
    with pytest.raises(_move.Drift, match="It was not overwritten"):
        made.write(nothing)
    drift = made.report["drift"]
    assert (drift["field"], drift["time"]) == (field, "2026-11-24T10:58:46Z") and drift["manager"].startswith("kubectl-")
    assert drift["before"] == {"stable": 100, "canary": 0}
    assert server.log.count("PATCH one") == 1 and server.objects["one"]["metadata"]["managedFields"][0]["manager"] == drift["manager"]


def test_way_back_goes_over_weights_that_somebody_writes_in_the_same_moment(server: Server) -> None:
    server.edit("one", 90, 10)
    server.script = [Answer(applies=True, before=other_weights)]
    move(server, 0).write(nothing)
    assert server.weights() == [100, 0]


def test_refusal_is_final(server: Server) -> None:
    server.script = [Answer(403), Answer(applies=True)]
    made = move(server, 10)
    with pytest.raises(_kube.KubeError, match="403"):
        made.write(nothing)
    assert server.log == ["GET one", "PATCH one"] and made.report["changed"] is False


def test_unknown_outcome_that_reading_cannot_settle_counts_as_changed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_move, "_WRITE_SECONDS", 0.0)
    server.script = [Answer(DROP, applies=True)]
    made = move(server, 10)
    with pytest.raises(_kube.KubeError, match="No answer"):
        made.write(nothing)
    assert made.report["changed"] is True


def test_an_interruption_ends_the_pause_between_two_tries(server: Server) -> None:
    context = Context()
    server.script = [Answer(429, Retry_After="5")] * 3

    def stop() -> None:
        if context.cancelled.is_set():
            raise RolloutError("stopped")

    threading.Timer(0.2, context.interrupt, ["SIGTERM"]).start()
    with pytest.raises(RolloutError, match="stopped"):
        move(server, 10, context).write(stop)
    assert server.log.count("PATCH one") == 1 and server.weights() == [100, 0]


# ------------------------------------------------------------------------------------------------- several routes


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preconditions of a weight are another test's; here is only what becomes of writes."""
    monkeypatch.setattr(_move.Move, "check", lambda self: None)
    monkeypatch.setattr(_move.Move, "prepare", lambda self: None)
    monkeypatch.setattr(_move.Move, "confirm", lambda self, stop: None)


def shift(server: Server, weight: int, **options: Any) -> dict[str, Any]:
    return _canary_weight.run(params(server, weight, others=[{"name": "two"}], **options), Context())


def test_routes_that_move_together_are_all_read_before_the_first_write(server: Server, ready: None) -> None:
    result = shift(server, 10)
    assert server.log == ["GET one", "GET two", "PATCH one", "PATCH two"]
    assert (server.weights("one"), server.weights("two")) == ([90, 10], [90, 10])
    assert [(route["name"], route["changed"], route["after"]) for route in result["routes"]] == [
        ("one", True, {"stable": 90, "canary": 10}),
        ("two", True, {"stable": 90, "canary": 10}),
    ]


def test_when_a_later_write_fails_the_earlier_ones_are_taken_back(server: Server, ready: None) -> None:
    server.script = [Answer(applies=True), Answer(403)]
    with pytest.raises(_kube.KubeError, match=r"403.*VirtualService signal/one is back at stable=100 canary=0\.") as caught:
        shift(server, 10)
    assert (server.weights("one"), server.weights("two")) == ([100, 0], [100, 0])
    assert caught.value.result["changed"] is False


def test_what_somebody_else_has_changed_meanwhile_is_not_taken_back(server: Server, ready: None) -> None:
    def edit(document: dict[str, Any]) -> None:
        server.edit("one", 50, 50)

    server.script = [Answer(applies=True), Answer(403, before=edit)]
    with pytest.raises(_kube.KubeError, match=r"403.*signal/one is NOT back: .*is 50, expected 10.*'kubectl-edit'") as caught:
        shift(server, 10)
    assert server.weights("one") == [50, 50] and caught.value.result["changed"] is True


def test_one_route_that_cannot_go_back_does_not_keep_the_others(server: Server, ready: None) -> None:
    for name in ("one", "two"):
        server.edit(name, 90, 10)
    server.script = [Answer(403), Answer(applies=True)]
    with pytest.raises(_kube.KubeError, match=r"Back and confirmed: VirtualService signal/two\. Not so, 1 of 2: .*403") as caught:
        shift(server, 0)
    assert (server.weights("one"), server.weights("two")) == ([90, 10], [100, 0])
    assert [route["after"]["canary"] for route in caught.value.result["routes"]] == [10, 0]


def test_route_that_does_not_exist_does_not_keep_the_others_from_going_back(server: Server, ready: None) -> None:
    server.edit("two", 90, 10)
    del server.objects["one"]
    with pytest.raises(RolloutError, match=r"Back and confirmed: VirtualService signal/two\. Not so, 1 of 2: .*signal/one does not exist"):
        shift(server, 0)
    assert server.weights("two") == [100, 0]


def test_another_weight_on_one_of_them_is_drift_and_nothing_is_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_move.Move, "_refuse_unready", lambda self: None)
    server.edit("two", 75, 25)
    with pytest.raises(_move.Drift, match="VirtualService signal/two: the canary's weight is 25, expected 0") as caught:
        shift(server, 10, expected_weight=0)
    assert server.weights("one") == [100, 0] and "PATCH" not in " ".join(server.log)
    assert caught.value.result["drift"]["object"] == "VirtualService signal/two"


def test_the_same_route_named_twice_is_refused(server: Server) -> None:
    with pytest.raises(RolloutError, match="VirtualService/signal/one/None is named more than once"):
        _canary_weight.run(params(server, 10, others=[{"name": "one"}]), Context())
    assert server.log == []


def test_what_a_further_route_leaves_out_is_taken_from_the_main_one() -> None:
    main = {"kind": "VirtualService", "namespace": "signal", "name": "one", "route": "primary", "destination_host": "api", "stable": "v1", "canary": "v2"}
    others = [{"name": "two", "kind": None}, {"kind": "HTTPRoute", "stable": "api-v1", "canary": "api-v2", "destination_host": None}]
    _one, two, three = _canary_weight.each_route({**main, "others": others})
    assert two == {**main, "name": "two"}
    assert three == {**main, "kind": "HTTPRoute", "destination_host": None, "stable": "api-v1", "canary": "api-v2"}
