# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Prometheus client makes of answers, good and odd, over real HTTP on loopback."""

from __future__ import annotations

import base64
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _http, _prometheus
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
    problem = _http.url_problem(url)
    assert words in problem
    assert "hunter2" not in problem


def test_good_addresses_pass() -> None:
    assert [_http.url_problem(url) for url in ("http://10.79.0.52:9090", "https://prometheus.example/tenant/a/", "http://[::1]:9090")] == [""] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prometheus_user": "me"}, "one is set without the other"),
        ({"prometheus_password": "secret-word"}, "one is set without the other"),
        ({"prometheus_token": "secret-word", "prometheus_user": "me", "prometheus_password": "x"}, "both are set"),
        ({"prometheus_token": "secret-word\nX-Evil: 1"}, "line break"),
        ({"prometheus_headers": {"X-Tenant": "secret-word\r\n"}}, "line break"),
        ({"prometheus_headers": {"X-Tenant": "secret-wörd"}}, "outside ASCII"),
        ({"prometheus_token": "secret-word", "prometheus_headers": {"authorization": "x"}}, "one way to authenticate"),
        ({"prometheus_tenant": "desk", "prometheus_headers": {"x-scope-orgid": "other"}}, "both are set"),
        ({"prometheus_token_file": "/no/such/file"}, "prometheus_token_file: the token file /no/such/file cannot be read: No such file"),
        ({"ca_cert": "/no/such/file"}, "ca_cert: /no/such/file cannot be read: No such file"),
        ({"prometheus_client_cert": "/no/such/file"}, "prometheus_client_cert: /no/such/file cannot be read"),
        ({"prometheus_client_key": __file__}, "set without prometheus_client_cert"),
    ],
)
def test_wrong_credentials_are_refused_without_repeating_them(options: dict[str, Any], words: str) -> None:
    problems = _prometheus.problems_of({"prometheus_url": "http://host", **options})
    assert any(words in problem for problem in problems)
    assert "secret-word" not in str(problems)


# ------------------------------------------------------------------------------------------------------ over HTTP


def client(server: Any, timeout: float = 5.0, **options: Any) -> _prometheus.Prometheus:
    return _prometheus.Prometheus({"prometheus_url": server.url + "/", **options}, timeout)


def test_a_query_is_sent_as_it_is_and_its_number_comes_back(server: Any) -> None:
    reading = client(server, 2.5).read('sum(rate(x{a="b & c"}[30s]))')
    assert (reading.state, reading.value) == ("good", 1.0)
    path, headers, _peer = server.requests[0]
    assert parse_qs(urlsplit(path).query) == {
        "query": ['sum(rate(x{a="b & c"}[30s]))'],
        "timeout": ["2500ms"],
        "partial_response": ["false"],
    }
    assert "Authorization" not in headers


def test_the_connection_is_kept(server: Any) -> None:
    prometheus = client(server)
    for _query in range(3):
        prometheus.read("q")
    assert len({peer for _path, _headers, peer in server.requests}) == 1


def test_token_user_and_headers_are_sent(server: Any) -> None:
    client(server, prometheus_token="t0ken").read("q")
    client(server, prometheus_user="me", prometheus_password="pass word").read("q")
    client(server, prometheus_headers={"X-Scope-OrgID": "desk"}).read("q")
    sent = [headers for _path, headers, _peer in server.requests]
    assert sent[0]["Authorization"] == "Bearer t0ken"
    assert sent[1]["Authorization"] == "Basic " + base64.b64encode(b"me:pass word").decode()
    assert sent[2]["X-Scope-OrgID"] == "desk"


def test_a_renewed_token_file_is_read_again(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    prometheus = client(server, prometheus_token_file=str(file))
    prometheus.read("q")
    renewed = tmp_path / "renewed"
    renewed.write_text("other-token\n")
    # As Kubernetes renews a projected token: by a rename.
    renewed.replace(file)
    prometheus.read("q")
    assert [headers["Authorization"] for _path, headers, _peer in server.requests] == ["Bearer first-token", "Bearer other-token"]
    file.unlink()
    reading = prometheus.read("q")
    assert (reading.state, reading.hopeless) == ("error", False)
    assert "cannot be read: No such file" in reading.detail


@pytest.mark.parametrize("content", ["", "two\nlines", "t\x07ken", "tökén"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    (problem,) = _prometheus.problems_of({"prometheus_url": "http://host", "prometheus_token_file": str(file)})
    assert "holds no token, expected one line of text" in problem


def test_an_encrypted_key_is_refused_since_nobody_could_type_its_passphrase(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    options = {"prometheus_client_cert": str(certificate), "prometheus_client_key": str(key)}
    (problem,) = _prometheus.problems_of({"prometheus_url": "http://host", **options})
    assert "the key is encrypted" in problem


def test_the_tenant_and_the_path_prefix_are_sent(server: Any) -> None:
    _prometheus.Prometheus({"prometheus_url": f"{server.url}/prometheus/", "prometheus_tenant": "desk"}, 5.0).read("q")
    path, headers, _peer = server.requests[0]
    assert path.startswith("/prometheus/api/v1/query?")
    assert headers["X-Scope-OrgID"] == "desk"


def test_a_long_query_goes_by_post_and_a_short_one_by_get(server: Any) -> None:
    asked: list[str] = []
    server.respond = lambda handler, query: (asked.append(query), server.send(handler, answer([series("2")])))
    long = " or ".join(f'x{{pod="{number}"}}' for number in range(200))
    assert client(server).read("x").value == client(server).read(long).value == 2
    assert server.methods == ["GET", "POST"]
    assert asked == ["x", long]
    assert "?" not in server.requests[1][0]


@pytest.mark.parametrize(
    "options",
    [
        {"prometheus_token": "s3cret-t0ken"},
        {"prometheus_user": "me", "prometheus_password": "s3cret-t0ken"},
        {"prometheus_headers": {"X-Key": "s3cret-t0ken"}},
        {"prometheus_token_file": "token"},
    ],
)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_server_that_repeats_the_secret_does_not_get_it_into_a_message(
    server: Any, tmp_path: Path, options: dict[str, Any], status: int
) -> None:
    if "prometheus_token_file" in options:
        (tmp_path / "token").write_text("s3cret-t0ken")
        options = {"prometheus_token_file": str(tmp_path / "token")}

    def repeat(handler: BaseHTTPRequestHandler, query: str) -> None:
        told = str(handler.headers.get("X-Key") or handler.headers.get("Authorization"))
        body: Any = {"status": "error", "errorType": "bad", "error": told} if query == "json" else f"you sent {told}"
        server.send(handler, body, status)

    server.respond = repeat
    prometheus = client(server, **options)
    for query in ("json", "text"):
        detail = prometheus.read(query).detail
        assert "********" in detail
        assert "s3cret" not in detail and base64.b64encode(b"me:s3cret-t0ken").decode() not in detail


def test_a_netrc_file_is_not_used(server: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        (401, "Unauthorized", "HTTP 401, the credentials or the tenant are refused: Unauthorized", False),
        (403, {"message": "no such tenant"}, "HTTP 403, the credentials or the tenant are refused", False),
        (404, "not found", "HTTP 404, and the answer is not Prometheus' JSON: not found", False),
        (200, "<html><body>Please log in</body></html>", "HTTP 200, and the answer is not Prometheus' JSON: <html>", False),
        (200, "", "it is empty", False),
        (200, "[1, 2]", "not Prometheus' JSON", False),
        (500, {"status": "success", "data": {}}, "HTTP 500: success", False),
    ],
)
def test_a_refusal_is_an_error_in_prometheus_words(server: Any, status: int, body: Any, words: str, hopeless: bool) -> None:
    server.respond = lambda handler, query: server.send(handler, body, status)
    reading = client(server).read("q")
    assert (reading.state, reading.value, reading.hopeless) == ("error", None, hopeless)
    assert words in reading.detail


def test_a_redirect_is_not_followed_and_takes_no_token_along(server: Any, other_server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, "moved", 302, Location=other_server.url)
    reading = client(server, prometheus_token="t0ken").read("q")
    assert reading.state == "error"
    assert "redirect" in reading.detail
    assert other_server.requests == []


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


def test_silence_is_an_error_after_the_timeout(server: Any) -> None:
    quiet = threading.Event()
    server.respond = lambda handler, query: quiet.wait(5) and None
    started = time.monotonic()
    reading = client(server, 0.3).read("q")
    quiet.set()
    assert "no answer" in reading.detail
    assert time.monotonic() - started < 4.5


def test_a_cut_answer_is_an_error(server: Any) -> None:
    def cut(handler: BaseHTTPRequestHandler, query: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(b'{"status": "succ')
        handler.close_connection = True

    server.respond = cut
    assert client(server).read("q").state == "error"


def test_a_huge_answer_is_refused(server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, " " * (_http.LARGEST_ANSWER + 10))
    assert "larger than 8 MiB" in client(server).read("q").detail


def test_tls_is_verified(tmp_path: Any, server: Any) -> None:
    reading = _prometheus.Prometheus({"prometheus_url": server.url.replace("http:", "https:"), "validate_certs": True}, 2.0).read("q")
    assert reading.state == "error"
    assert "TLS" in reading.detail
