# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Prometheus client makes of answers, good and odd, over real HTTP on loopback."""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _prometheus
from hypothesis import given
from hypothesis import strategies as st


def answer(result: Any, kind: str = "vector", **more: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}, **more}


def series(value: Any, at: Any = 1.5, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [at, value]}


# ----------------------------------------------------------------------------------------------- interpretation


INFO = "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket"


@pytest.mark.parametrize(
    "payload",
    [
        answer([series("0.25")]),
        answer([1.5, "0.25"], "scalar"),
        answer([series("0.25")], infos=["a hint"], warnings=[]),
        answer([series("0.25")], warnings=[INFO]),
    ],
)
def test_one_finite_number_is_good(payload: dict[str, Any]) -> None:
    reading = _prometheus.interpret(payload)
    assert (reading.state, reading.value, reading.at) == ("good", 0.25, 1.5)


@pytest.mark.parametrize(
    ("payload", "state", "words"),
    [
        (answer([]), "no_data", "no series"),
        (answer([series("NaN")]), "no_data", "NaN"),
        (answer([series("+Inf")]), "no_data", "infinite"),
        (answer([series("-Inf")]), "no_data", "infinite"),
        (answer([series("1", pod="a"), series("2", pod="b")]), "error", '2 series where one is expected: {pod="a"}, {pod="b"}'),
        (answer([series("1", pod=str(n)) for n in range(9)]), "error", "and 6 more"),
        (answer([series("1")], warnings=["partial data from store-3"]), "error", "warns: partial data from store-3"),
        (answer([series("1")], warnings=[INFO, "PromQL warning: bucket label is missing"]), "error", "warns: PromQL warning: bucket"),
        (answer([series("1")], warnings="partial"), "error", "warns: partial"),
        (answer([series("1")], isPartial=True), "error", "partial"),
        (answer([{"metric": {}, "values": [[1, "1"]]}], "matrix"), "error", "gives a matrix"),
        (answer([1, "text"], "string"), "error", "gives a string"),
        (answer([{"metric": {}, "histogram": [1, {}]}]), "error", "native histogram"),
        (answer([series(0.25)]), "error", "pair of time and text"),
        (answer([series("0.25", at="now")]), "error", "no time"),
        (answer([series("0.25", at=math.nan)]), "error", "no time"),
        (answer([series("0,25")]), "error", "expected a number"),
        ({"status": "error", "data": {"resultType": "vector", "result": [series("1")]}}, "error", "status: success"),
        ({"data": {"resultType": "vector", "result": [series("1")]}}, "error", "status: success"),
        ({"status": "success"}, "error", "nothing known"),
        ({"status": "success", "data": []}, "error", "nothing known"),
        (answer({"a": 1}), "error", "expected one number"),
        (answer(["x"]), "error", "no plain value"),
        ([], "error", "status: success"),
        (None, "error", "status: success"),
    ],
)
def test_everything_else_is_not(payload: Any, state: str, words: str) -> None:
    reading = _prometheus.interpret(payload)
    assert (reading.state, reading.value) == (state, None)
    assert words in reading.detail


WORDS = st.sampled_from(["success", "vector", "scalar", "1", "NaN"])
KEYS = st.sampled_from(["status", "data", "result", "resultType", "metric", "value", "warnings"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(JSON)
def test_no_odd_json_raises_or_becomes_a_number_that_is_none(payload: Any) -> None:
    reading = _prometheus.interpret(payload)
    assert reading.state in ("good", "no_data", "error")
    assert (reading.state == "good") == (reading.value is not None)


@given(JSON, st.sampled_from(["vector", "scalar", "matrix"]))
def test_no_odd_result_is_good_unless_it_is_one_finite_number(result: Any, kind: str) -> None:
    reading = _prometheus.interpret(answer(result, kind))
    if reading.state == "good":
        pair = result if kind == "scalar" else result[0]["value"]
        assert kind == "scalar" or len(result) == 1
        assert math.isfinite(float(pair[1]))


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("prometheus:9090", "scheme is 'prometheus'"),
        ("file:///etc/passwd", "scheme is 'file'"),
        ("gopher://x", "scheme is 'gopher'"),
        ("http://", "no host"),
        ("http://host:99999", "no URL"),
        ("http://host:0", "port is 0"),
        ("http://user:hunter2@host", "holds a user or a password"),
        ("http://host/\r\nX: y", "control characters"),
        ("http://ho st", "spaces"),
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(url: str, words: str) -> None:
    problem = _prometheus.url_problem(url)
    assert words in problem
    assert "hunter2" not in problem


def test_good_addresses_pass() -> None:
    assert [_prometheus.url_problem(url) for url in ("http://10.79.0.52:9090", "https://prometheus.example/tenant/a/", "http://[::1]:9090")] == [""] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prometheus_user": "me"}, "one is set without the other"),
        ({"prometheus_password": "secret-word"}, "one is set without the other"),
        ({"prometheus_token": "secret-word", "prometheus_user": "me", "prometheus_password": "x"}, "both are set"),
        ({"prometheus_token": "secret-word\nX-Evil: 1"}, "line break"),
        ({"prometheus_headers": {"X-Tenant": "secret-word\r\n"}}, "line break"),
    ],
)
def test_wrong_credentials_are_refused_without_repeating_them(options: dict[str, Any], words: str) -> None:
    problems = _prometheus.problems_of({"prometheus_url": "http://host", **options})
    assert any(words in problem for problem in problems)
    assert "secret-word" not in str(problems)


# ------------------------------------------------------------------------------------------------------ over HTTP


class Server:
    """A loopback HTTP server whose answer is a function of the query; it keeps the requests it got."""

    def __init__(self) -> None:
        self.respond: Callable[[BaseHTTPRequestHandler, str], None] = lambda handler, query: self.send(handler, answer([series("1")]))
        self.requests: list[tuple[str, dict[str, str], tuple[str, int]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers), self.client_address))
                query = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
                outer.respond(self, query)

            def log_message(self, *unused: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                # The client hangs up on purpose in some tests.
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def client(server: Server, timeout: float = 5.0, **options: Any) -> _prometheus.Prometheus:
    return _prometheus.Prometheus({"prometheus_url": server.url + "/", **options}, timeout)


def test_a_query_is_sent_as_it_is_and_its_number_comes_back(server: Server) -> None:
    reading = client(server, 2.5).read('sum(rate(x{a="b & c"}[30s]))')
    assert (reading.state, reading.value) == ("good", 1.0)
    path, headers, _peer = server.requests[0]
    assert parse_qs(urlsplit(path).query) == {"query": ['sum(rate(x{a="b & c"}[30s]))'], "timeout": ["2500ms"]}
    assert "Authorization" not in headers


def test_the_connection_is_kept(server: Server) -> None:
    prometheus = client(server)
    for _query in range(3):
        prometheus.read("q")
    assert len({peer for _path, _headers, peer in server.requests}) == 1


def test_token_user_and_headers_are_sent(server: Server) -> None:
    client(server, prometheus_token="t0ken").read("q")
    client(server, prometheus_user="me", prometheus_password="pass word").read("q")
    client(server, prometheus_headers={"X-Scope-OrgID": "desk"}).read("q")
    sent = [headers for _path, headers, _peer in server.requests]
    assert sent[0]["Authorization"] == "Bearer t0ken"
    assert sent[1]["Authorization"] == "Basic " + base64.b64encode(b"me:pass word").decode()
    assert sent[2]["X-Scope-OrgID"] == "desk"


def test_a_netrc_file_is_not_used(server: Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client(server).read("q")
    client(server, prometheus_token="t0ken").read("q")
    assert [headers.get("Authorization") for _path, headers, _peer in server.requests] == [None, "Bearer t0ken"]


@pytest.mark.parametrize(
    ("status", "body", "words", "hopeless"),
    [
        (400, {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected <)>"}, "HTTP 400: bad_data: parse error", True),
        (422, {"status": "error", "errorType": "execution", "error": "too many samples"}, "HTTP 422: execution: too many samples", False),
        (503, {"status": "error", "errorType": "timeout", "error": "query timed out"}, "HTTP 503: timeout", False),
        (200, {"status": "error", "errorType": "internal", "error": "store is gone"}, "HTTP 200: internal: store is gone", False),
        (401, "Unauthorized", "HTTP 401, and the answer is not Prometheus' JSON: Unauthorized", False),
        (200, "<html><body>Please log in</body></html>", "HTTP 200, and the answer is not Prometheus' JSON: <html>", False),
        (200, "", "it is empty", False),
        (200, "[1, 2]", "not Prometheus' JSON", False),
        (500, {"status": "success", "data": {}}, "HTTP 500: success", False),
    ],
)
def test_a_refusal_is_an_error_in_prometheus_words(server: Server, status: int, body: Any, words: str, hopeless: bool) -> None:
    server.respond = lambda handler, query: server.send(handler, body, status)
    reading = client(server).read("q")
    assert (reading.state, reading.value, reading.hopeless) == ("error", None, hopeless)
    assert words in reading.detail


def test_a_redirect_is_not_followed_and_takes_no_token_along(server: Server) -> None:
    other = Server()
    server.respond = lambda handler, query: server.send(handler, "moved", 302, Location=other.url)
    reading = client(server, prometheus_token="t0ken").read("q")
    other.http.shutdown()
    other.http.server_close()
    assert reading.state == "error"
    assert "redirect" in reading.detail
    assert other.requests == []


def test_a_server_that_is_down_is_named_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reading = _prometheus.Prometheus({"prometheus_url": f"http://127.0.0.1:{port}"}, 2.0).read("q")
    assert reading.detail == f"cannot reach http://127.0.0.1:{port}: Connection refused"


def test_an_unknown_host_is_an_error() -> None:
    reading = _prometheus.Prometheus({"prometheus_url": "http://prometheus.invalid:9090"}, 2.0).read("q")
    assert reading.state == "error"
    assert "cannot reach http://prometheus.invalid:9090" in reading.detail


def test_silence_is_an_error_after_the_timeout(server: Server) -> None:
    quiet = threading.Event()
    server.respond = lambda handler, query: quiet.wait(5) and None
    started = time.monotonic()
    reading = client(server, 0.3).read("q")
    quiet.set()
    assert "no answer" in reading.detail
    assert time.monotonic() - started < 4.5


def test_a_cut_answer_is_an_error(server: Server) -> None:
    def cut(handler: BaseHTTPRequestHandler, query: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(b'{"status": "succ')
        handler.close_connection = True

    server.respond = cut
    assert client(server).read("q").state == "error"


def test_a_huge_answer_is_refused(server: Server) -> None:
    server.respond = lambda handler, query: server.send(handler, " " * (_prometheus.LARGEST_ANSWER + 10))
    assert "larger than 8 MiB" in client(server).read("q").detail


def test_tls_is_verified(tmp_path: Any, server: Server) -> None:
    reading = _prometheus.Prometheus({"prometheus_url": server.url.replace("http:", "https:"), "validate_certs": True}, 2.0).read("q")
    assert reading.state == "error"
    assert "TLS" in reading.detail


# --------------------------------------------------------------------------------------------------------- lanes


def collect(lanes: _prometheus.Lanes, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    while lanes.waiting() and time.monotonic() < deadline:
        found.update(lanes.answers(0.05))
    return found


def test_queries_run_at_the_same_time_and_a_slow_one_delays_nobody(server: Server) -> None:
    def respond(handler: BaseHTTPRequestHandler, query: str) -> None:
        time.sleep(0.8 if query == "slow" else 0.1)
        server.send(handler, answer([series("1")]))

    server.respond = respond
    lanes = _prometheus.Lanes(client(server), 5.0)
    for name in ("slow", "a", "b", "c", "d"):
        assert lanes.ask(name, name)
    fast: dict[str, Any] = {}
    while len(fast) < 4:
        fast.update(lanes.answers(0.05))
    assert set(fast) == {"a", "b", "c", "d"}
    assert not lanes.ask("slow", "slow"), "a lane asks nothing new while it waits"
    assert set(collect(lanes, 3)) == {"slow"}
    lanes.close()


class Hanging:
    """A client whose call never returns: what a hanging name lookup looks like."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def read(self, query: str) -> Any:
        self.release.wait(20)
        return _prometheus.Reading("good", 1.0, 1.0)


def test_a_call_that_never_returns_is_an_error_and_its_late_answer_is_ignored() -> None:
    hanging = Hanging()
    lanes = _prometheus.Lanes(hanging, 0.2)
    lanes.ask("q", "q")
    found = collect(lanes, 5)
    assert (found["q"].state, found["q"].detail) == ("error", "no answer within 0.2 s")
    assert not lanes.ask("q", "q")
    hanging.release.set()
    deadline = time.monotonic() + 5
    late: list[Any] = []
    while not lanes.ask("q", "again") and time.monotonic() < deadline:
        late += lanes.answers(0.05)
    assert late == []
    assert collect(lanes, 5)["q"].value == 1.0
    lanes.close()


class Crashing:
    def read(self, query: str) -> Any:
        raise KeyError("a bug")


def test_a_bug_in_a_lane_is_an_error_and_not_silence() -> None:
    lanes = _prometheus.Lanes(Crashing(), 1.0)
    lanes.ask("q", "q")
    assert "KeyError" in collect(lanes, 3)["q"].detail
    lanes.close()
