# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe's decisions, and its calls against real servers on the loopback interface."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _probe, _probe_plan, _probe_rules, _probe_verdict
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given
from hypothesis import strategies as st

SECRET = "Bearer s3cret-of-the-test"


def params(**options: Any) -> dict[str, Any]:
    """Options as the argument spec completes them."""
    checked = ArgumentSpecValidator(_probe.ARGUMENT_SPEC).validate({"base_url": "http://127.0.0.1", "checks": [{"name": "c"}], **options})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def check(**options: Any) -> dict[str, Any]:
    return params(checks=[{"name": "c", **options}])["checks"][0]


def answer(body: Any = "", status: int = 200, **fields: Any) -> _probe_verdict.Answer:
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return _probe_verdict.Answer(status=status, body=content, **{"seconds": 0.01, **fields})


def problems(result: dict[str, Any]) -> dict[str, str]:
    assert result["ok"] is (not result["problems"])
    return {item["rule"]: item["seen"] for item in result["problems"]}


# --- rules and paths


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"above": 0}, [1, 0.1, 10**30], [0, -1, "1", True, None, [], float("nan"), float("inf")]),
        ({"at_least": 2}, [2, 2.5], [1.9, False, "2"]),
        ({"below": 1}, [0, -5, 0.999], [1, 1.0, "0", None]),
        ({"at_most": 1}, [1, 1.0, -3], [1.0001, "1"]),
        ({"above": 0, "below": 1}, [0.5], [0, 1, 2]),
        ({"equals": {"a": 1}}, [{"a": 1}, {"a": 1.0}], [{"a": 1, "b": 2}, {"a": True}, {}]),
        ({"one_of": ["ok", 1]}, ["ok", 1, 1.0], [True, "1", None]),
        ({"exists": True}, [None, 0, ""], [_probe_rules.MISSING]),
        ({"exists": False}, [_probe_rules.MISSING], [None, 0]),
        ({"type": "number"}, [1, 1.5], ["1", True, None, float("nan")]),
        ({"type": "integer"}, [1], [1.5, True]),
        ({"type": "boolean"}, [True, False], [1, "true"]),
        ({"type": "null"}, [None], [0, "", _probe_rules.MISSING]),
        ({"type": "array"}, [[]], [{}, ""]),
        ({"type": "object"}, [{}], [[], None]),
        ({"type": "string"}, [""], [1]),
        ({"length_at_least": 2}, [[1, 2], "ab", {"a": 1, "b": 2}], [[1], "", 2, None]),
        ({"matches": "^v[0-9]+$"}, ["v2"], ["2", "xv2", 2, None]),
        ("healthy", ["healthy"], ["Healthy", None, _probe_rules.MISSING]),
        (1, [1, 1.0], ["1", True]),
        (True, [True], [1, "true", False]),
        (None, [None], [0, _probe_rules.MISSING]),
        ([1, "a"], [[1, "a"]], [[1], ["a", 1], "1a"]),
    ],
)
def test_rule(rule: Any, good: list[Any], bad: list[Any]) -> None:
    assert _probe_rules.rule_problems(rule) == []
    for value in good:
        assert _probe_rules.broken_rules(rule, value) == [], value
    for value in bad:
        assert _probe_rules.broken_rules(rule, value), value


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({}, "an empty rule"),
        ({"abov": 0}, "unknown rule 'abov'"),
        ({"above": "0"}, "a number"),
        ({"above": True}, "a number"),
        ({"above": float("nan")}, "a number"),
        ({"below": None}, "a number"),
        ({"exists": "yes"}, "a boolean"),
        ({"type": "float"}, "one of null"),
        ({"type": ["number"]}, "one of null"),
        ({"length_at_least": -1}, "an integer"),
        ({"one_of": []}, "a list"),
        ({"matches": "("}, "a regular expression"),
        ({"matches": 1}, "a regular expression"),
    ],
)
def test_unusable_rule_is_refused(rule: Any, word: str) -> None:
    assert any(word in text for text in _probe_rules.rule_problems(rule))


@given(st.sampled_from(["above", "at_least", "below", "at_most"]), st.one_of(st.none(), st.booleans(), st.text(), st.just(float("nan")), st.just(float("inf"))))
def test_what_is_no_finite_number_never_passes_a_limit(name: str, value: Any) -> None:
    assert _probe_rules.broken_rules({name: 0}, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", "healthy"),
        ("checks.database", "ok"),
        ("data.0.delta", 0.5),
        ("data.1.delta", _probe_rules.MISSING),
        ("data.x", _probe_rules.MISSING),
        ("data.-1", _probe_rules.MISSING),
        ("status.x", _probe_rules.MISSING),
        (r"with\.dot", 1),
        ("with.dot", _probe_rules.MISSING),
        ("nothing", None),
        ("0", "digit key"),
    ],
)
def test_lookup(path: str, value: Any) -> None:
    document = {"status": "healthy", "checks": {"database": "ok"}, "data": [{"delta": 0.5}], "with.dot": 1, "nothing": None, "0": "digit key"}
    assert _probe_rules.lookup(document, path) == value if value is not _probe_rules.MISSING else _probe_rules.lookup(document, path) is value


def test_whole_document() -> None:
    assert _probe_rules.lookup([1], "$") == [1] and _probe_rules.lookup([1], "") == [1]


@pytest.mark.parametrize(
    ("expected", "seen", "fits"),
    [
        ({"type": "hello"}, {"type": "hello", "version": "v2"}, True),
        ({"type": "number"}, {"type": "number"}, True),
        ({"type": "hello"}, {"type": "bye"}, False),
        ({"delta": {"above": 0}}, {"delta": 0.4}, True),
        ({"delta": {"above": 0}}, {"delta": "0.4"}, False),
        ({"delta": {"above": 0}}, {}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"type": "call"}}, {"a": {"type": "call", "x": 1}}, True),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "c": 3}]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({}, {"anything": 1}, True),
        ({}, [1], False),
        ({"a": None}, {}, False),
    ],
)
def test_subset(expected: Any, seen: Any, fits: bool) -> None:
    assert _probe_rules.subset(expected, seen) is fits


# --- latency


def test_percentiles_by_nearest_rank() -> None:
    assert _probe_verdict.percentiles([number / 1000 for number in range(1, 101)]) == {"min": 1.0, "median": 50.5, "p99": 99.0, "max": 100.0}
    assert _probe_verdict.percentiles([0.002]) == {"min": 2.0, "median": 2.0, "p99": 2.0, "max": 2.0}
    assert _probe_verdict.percentiles([]) == {"min": None, "median": None, "p99": None, "max": None}


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=300))
def test_percentiles_are_ordered(values: list[float]) -> None:
    found = _probe_verdict.percentiles(values)
    assert found["min"] <= found["median"] <= found["max"] and found["min"] <= found["p99"] <= found["max"]


# --- judging


def test_answer_that_keeps_all_rules_passes() -> None:
    wanted = check(json={"status": "healthy", "price": {"above": 0}}, contains="healthy", header={"X-Signal-Version": "v2"}, latency_below_ms=50)
    result = _probe_verdict.judge_http(wanted, [answer({"status": "healthy", "price": 3}, headers={"x-signal-version": "v2"})])
    assert result["ok"] and result["status"] == 200 and result["problems"] == []
    assert result["latency_ms"] == {"min": 10.0, "median": 10.0, "p99": 10.0, "max": 10.0}


@pytest.mark.parametrize(
    ("options", "reply", "rule", "seen"),
    [
        ({}, answer("oops", status=503), "status", "503 (oops)"),
        ({"status": [200, 204]}, answer(status=301), "status", "301"),
        ({"json": {"status": "healthy"}}, answer({"status": "degraded"}), "json status", '"degraded"'),
        ({"json": {"status": "healthy"}}, answer({}), "json status", "nothing"),
        ({"json": {"status": "healthy"}}, answer("<html>"), "json", "<html>"),
        ({"json": {"status": "healthy"}}, answer(b""), "json", "an empty body"),
        ({"json": {"price": {"above": 0}}}, answer('{"price": NaN}'), "json", '{"price": NaN}'),
        ({"json": {"price": {"above": 0}}}, answer({"price": None}), "json price", "null"),
        ({"json": {"data": {"length_at_least": 1}}}, answer({"data": []}), "json data", "[]"),
        ({"contains": "healthy"}, answer("sick"), "contains", "sick"),
        ({"header": {"x-v": "v2"}}, answer(headers={"X-V": "v1"}), "header x-v", '"v1"'),
        ({"header": {"x-v": {"exists": True}}}, answer(), "header x-v", "nothing"),
        ({"latency_below_ms": 10}, answer(seconds=0.010), "latency_below_ms", "p99 10 ms (median 10 ms)"),
        ({}, answer(status=0, error="Connection refused"), "connection", "Connection refused"),
        ({"contains": "x"}, answer(b"x" * (_probe_verdict.MAX_BODY_BYTES + 1)), "body", f"more than {_probe_verdict.MAX_BODY_BYTES} bytes"),
    ],
)
def test_each_broken_rule_is_named(options: dict[str, Any], reply: _probe_verdict.Answer, rule: str, seen: str) -> None:
    assert problems(_probe_verdict.judge_http(check(**options), [reply])) == {rule: seen}


def test_all_problems_of_a_check_are_reported() -> None:
    wanted = check(json={"a": 1, "b": 2}, contains="x", header={"h": "1"}, latency_below_ms=1)
    found = problems(_probe_verdict.judge_http(wanted, [answer({"a": 0}, status=500)]))
    assert list(found) == ["status", "header h", "contains", "json a", "json b", "latency_below_ms"]


def test_repeated_calls_are_counted_in_the_message() -> None:
    answers = [answer({"s": "ok"}), answer({"s": "bad"}), answer({"s": "worse"}), answer(error="cut", status=0)]
    result = _probe_verdict.judge_http(check(json={"s": "ok"}, repeat=4), answers)
    assert [item["message"] for item in result["problems"]] == [
        'json s: "bad" in 2 of 4 calls, expected "ok"',
        "connection: cut in 1 of 4 calls, expected an HTTP answer",
    ]
    assert result["calls"] == 4


def test_limit_without_any_measurement_does_not_pass() -> None:
    found = problems(_probe_verdict.judge_http(check(latency_below_ms=100), [answer(status=0, error="refused")]))
    assert found == {"connection": "refused", "latency_below_ms": "no measurement"}


def test_foreign_text_is_shown_as_one_printable_line() -> None:
    reply = answer(b"\x1b[31mred\n{{ lookup('pipe', 'id') }}\x00" + b"y" * 1000, status=500)
    seen = problems(_probe_verdict.judge_http(check(), [reply]))["status"]
    assert seen.isprintable() and len(seen) < 200 and "{{ lookup('pipe', 'id') }}" in seen


def dialogue(**fields: Any) -> _probe_verdict.Dialogue:
    return _probe_verdict.Dialogue(**{"status": 101, "seconds": 0.005, **fields})


WS = {"expect": [{"type": "hello"}, {"type": "greeks"}], "round_trips": 2, "latency_below_ms": 50}


@pytest.mark.parametrize(
    ("talk", "rule", "seen"),
    [
        (dialogue(status=403, error="status 403"), "connection", "status 403"),
        (dialogue(status=0, error="Connection refused"), "connection", "Connection refused"),
        (
            dialogue(matched=1, error="no such message in time", last='{"type":"tick"}'),
            "websocket.expect[1]",
            'no such message in time; the last message was {"type":"tick"}',
        ),
        (dialogue(matched=0, error="the server closed with code 1011", closed=True), "websocket.expect[0]", "the server closed with code 1011"),
        (dialogue(matched=2, round_trips=[0.01], error="no such message in time"), "websocket.round_trips", "1 (no such message in time)"),
        (dialogue(matched=2, round_trips=[0.01, 0.05]), "websocket.latency_below_ms", "p99 50 ms (median 30 ms)"),
    ],
)
def test_each_broken_promise_of_a_websocket_is_named(talk: _probe_verdict.Dialogue, rule: str, seen: str) -> None:
    found = problems(_probe_verdict.judge_websocket(check(websocket=WS), [talk]))
    assert found[rule] == seen
    assert set(found) <= {rule, "websocket.latency_below_ms"}


def test_websocket_that_breaks_while_sending_does_not_pass() -> None:
    found = problems(_probe_verdict.judge_websocket(check(websocket={"send": ["x"]}), [dialogue(error="Broken pipe")]))
    assert found == {"websocket": "Broken pipe"}


def test_websocket_that_keeps_its_promises_passes() -> None:
    result = _probe_verdict.judge_websocket(check(websocket=WS, latency_below_ms=20), [dialogue(matched=2, round_trips=[0.01, 0.02])])
    assert result["ok"] and result["status"] == 101 and result["latency_ms"]["max"] == 20.0


# --- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"base_url": "ftp://h"}, "base_url is 'ftp://h'"),
        ({"base_url": "file:///etc/passwd"}, "expected http://"),
        ({"base_url": "gopher://h"}, "expected http://"),
        ({"base_url": "h"}, "expected http://"),
        ({"base_url": "http://"}, "expected http://"),
        ({"base_url": "http://h?x=1"}, "no user, query or fragment"),
        ({"base_url": "http://h#x"}, "no user, query or fragment"),
        ({"base_url": "http://h:99999"}, "cannot be read"),
        ({"base_url": "http://h\r\nX: 1"}, "control character"),
        ({"base_url": "http://user:hunter2hunter2@h"}, "holds a user or password"),
        ({"base_url": "http://169.254.169.254"}, "link-local address"),
        ({"base_url": "http://2852039166"}, "link-local address"),
        ({"base_url": "http://[fe80::1]"}, "link-local address"),
        ({"base_url": "http://[::ffff:169.254.169.254]"}, "link-local address"),
        ({"host_header": "a b"}, "host_header is 'a b'"),
        ({"host_header": "a\r\nX: 1"}, "host_header"),
        ({"headers": {"X-Token": "value\r\nX-Evil: 1"}}, "control or non-Latin"),
        ({"headers": {"X Token": "value-value"}}, "no header name"),
        ({"headers": {"Host": "other.example.com"}}, "host_header instead"),
        ({"headers": {"X-Short": "1"}}, "at least 8"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"deadline": 1e9}, "deadline is 1e+09"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": 10**6}, "retries is 1e+06"),
        ({"checks": []}, "checks is empty"),
        ({"checks": [{"name": "a"}, {"name": "a"}]}, "'a' 2 times"),
        ({"checks": [{"name": "a", "path": "health"}]}, "path is 'health'"),
        ({"checks": [{"name": "a", "path": "/x y"}]}, "path is '/x y'"),
        ({"checks": [{"name": "a", "path": "/x\r\nHost: y"}]}, "without spaces, control characters"),
        ({"checks": [{"name": "a", "status": []}]}, "status is []"),
        ({"checks": [{"name": "a", "status": [42]}]}, "status is [42]"),
        ({"checks": [{"name": "a", "repeat": 0}]}, "repeat is 0"),
        ({"checks": [{"name": "a", "latency_below_ms": 0}]}, "latency_below_ms is 0"),
        ({"checks": [{"name": "a", "json": {"x": {"abov": 1}}}]}, "unknown rule 'abov'"),
        ({"checks": [{"name": "a", "method": "HEAD", "contains": "x"}]}, "expected GET"),
        ({"checks": [{"name": "a", "websocket": {}, "contains": "x"}]}, "beside websocket"),
        ({"checks": [{"name": "a", "websocket": {"ping": {"t": 1}}}]}, "belong together"),
        ({"checks": [{"name": "a", "websocket": {"latency_below_ms": 5}}]}, "needs websocket.round_trips"),
        ({"checks": [{"name": "a", "websocket": {"expect": [1]}}]}, "websocket.expect[0] is 1"),
        ({"ca_cert": "/x", "validate_certs": False}, "one of the two"),
    ],
)
def test_unusable_option_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RolloutError) as refused:
        _probe_plan.Plan(params(**options))
    assert sentence in refused.value.message
    assert "hunter2hunter2" not in refused.value.message


@pytest.mark.parametrize(
    ("base", "path", "web_socket", "url"),
    [
        ("http://h:80", "/a", None, "http://h:80/a"),
        ("https://h/", "/a?b=c", None, "https://h/a?b=c"),
        ("https://h/base", "/a", {}, "wss://h/base/a"),
        ("ws://h", "/a", None, "http://h/a"),
        ("wss://h", "/a", {}, "wss://h/a"),
        ("http://h", "/NSE@NIFTY@OPTION@21500@CALL", None, "http://h/NSE@NIFTY@OPTION@21500@CALL"),
    ],
)
def test_url_of_a_check(base: str, path: str, web_socket: dict[str, Any] | None, url: str) -> None:
    plan = _probe_plan.Plan(params(base_url=base, checks=[{"name": "a", "path": path, **({} if web_socket is None else {"websocket": web_socket})}]))
    assert plan.url(plan.checks[0]) == url


# --- a real HTTP server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []
    flaky_left = 0
    together = threading.Barrier(8)

    def do_GET(self) -> None:
        type(self).seen.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        route = self.path.split("?")[0]
        if route == "/health":
            self.reply(200, json.dumps({"status": "healthy", "checks": {"database": "ok"}}).encode(), {"x-signal-version": "v2"})
        elif route == "/redirect":
            self.reply(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
        elif route == "/slow":
            time.sleep(0.5)
            self.reply(200, b"late")
        elif route == "/together":
            # Nobody gets an answer before all have asked.
            self.together.wait(15)
            self.reply(200, b"all")
        elif route == "/big":
            self.reply(200, b"x" * (_probe_verdict.MAX_BODY_BYTES + 100_000))
        elif route == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _number in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif route == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            packed = gzip.compress(json.dumps({"status": "healthy", "rest": "x" * 1000}).encode())
            for piece in (packed[:7], packed[7:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(0.01)
        elif route == "/cut":
            self.close_connection = True
        elif route == "/flaky" and type(self).flaky_left > 0:
            type(self).flaky_left -= 1
            self.close_connection = True
        elif route == "/flaky":
            self.reply(200, b"ok")
        else:
            self.reply(404, b"no such page")

    do_HEAD = do_OPTIONS = do_GET

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *unused: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *unused: Any) -> None:
        # Clients that give up early are part of the tests.
        pass


@pytest.fixture
def http_server() -> Iterator[str]:
    Handler.seen = []
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def failing(**options: Any) -> RolloutError:
    with pytest.raises(RolloutError) as refused:
        _probe.run(params(**options), Context())
    return refused.value


@pytest.mark.parametrize("check_mode", [False, True])
def test_healthy_service_passes_and_is_really_read(http_server: str, check_mode: bool) -> None:
    checks = [
        {"name": "health", "path": "/health", "json": {"checks.database": "ok"}, "header": {"x-signal-version": "v2"}, "repeat": 5},
        {"name": "head", "path": "/health", "method": "HEAD"},
        {"name": "absent", "path": "/nowhere", "status": [404], "contains": "no such"},
    ]
    result = _probe.run(params(base_url=http_server, checks=checks, host_header="signal-service.lab", headers={"Authorization": SECRET}), Context(check_mode))
    assert [item["ok"] for item in result["checks"]] == [True, True, True]
    assert result["changed"] is False and result["failed_checks"] == []
    assert len(Handler.seen) == 7
    assert {entry["host"] for entry in Handler.seen} == {"signal-service.lab"}
    assert {entry["authorization"] for entry in Handler.seen} == {SECRET}


def test_failure_names_every_failed_check_and_a_command(http_server: str) -> None:
    checks = [
        {"name": "health", "path": "/health", "json": {"status": "sick", "checks.database": "down"}},
        {"name": "fine", "path": "/health"},
        {"name": "gone", "path": "/nowhere"},
    ]
    error = failing(base_url=http_server, checks=checks, headers={"Authorization": SECRET}, host_header="a.lab")
    assert error.message.startswith(f"2 of 3 checks failed at {http_server}: health: json status: ")
    assert 'json checks.database: "ok", expected "down"' in error.message
    assert "gone: status: 404 (no such page), expected 200" in error.message
    assert error.message.endswith(f"Next: curl -sS -i --max-time 5 -H 'Host: a.lab' {http_server}/health")
    assert error.result["failed_checks"] == ["health", "gone"]
    assert [item["ok"] for item in error.result["checks"]] == [False, True, False]
    assert SECRET not in error.message + str(error.result)


def test_redirect_is_an_answer_and_not_followed(http_server: str) -> None:
    error = failing(base_url=http_server, checks=[{"name": "r", "path": "/redirect"}])
    assert error.result["checks"][0]["status"] == 302


def test_chunked_and_compressed_answer_is_read(http_server: str) -> None:
    wanted = {"name": "c", "path": "/chunked", "json": {"status": "healthy", "rest": {"length_at_least": 1000}}, "repeat": 3}
    assert _probe.run(params(base_url=http_server, checks=[wanted]), Context())["checks"][0]["ok"]


@pytest.mark.parametrize("path", ["/slow", "/drip"])
def test_call_ends_at_its_timeout(http_server: str, path: str) -> None:
    error = failing(base_url=http_server, timeout=0.2, checks=[{"name": "r", "path": path}])
    assert error.result["checks"][0]["problems"][0]["seen"] == "no complete answer within 0.2 s"


def test_all_ends_at_the_deadline(http_server: str) -> None:
    started = time.monotonic()
    checks = [{"name": "slow", "path": "/slow", "repeat": 100}, {"name": "after", "path": "/slow"}]
    error = failing(base_url=http_server, timeout=5, deadline=0.8, concurrency=1, checks=checks)
    assert time.monotonic() - started < 10
    slow, after = error.result["checks"]
    assert not slow["ok"] and not after["ok"]
    assert any(item["rule"] == "deadline" for item in slow["problems"])
    assert "not finished within the deadline of 0.8 s" in after["problems"][0]["seen"]


def test_cancelled_run_ends_at_once(http_server: str) -> None:
    context = Context()
    threading.Timer(0.1, context.interrupt, ["SIGTERM"]).start()
    started = time.monotonic()
    with pytest.raises(RolloutError, match="interrupted"):
        _probe.run(params(base_url=http_server, checks=[{"name": "slow", "path": "/slow", "repeat": 100}]), context)
    assert time.monotonic() - started < 10


def test_big_body_is_not_read_to_its_end(http_server: str) -> None:
    error = failing(base_url=http_server, checks=[{"name": "big", "path": "/big", "contains": "x"}])
    assert error.result["checks"][0]["problems"][0]["rule"] == "body"


@pytest.mark.parametrize(("cuts", "retries", "ok", "attempts"), [(2, 2, True, 3), (2, 1, False, 2), (1, 0, False, 1)])
def test_only_a_lost_connection_is_tried_again(http_server: str, cuts: int, retries: int, ok: bool, attempts: int) -> None:
    Handler.flaky_left = cuts
    options = params(base_url=http_server, retries=retries, checks=[{"name": "f", "path": "/flaky"}])
    if ok:
        result = _probe.run(options, Context())
    else:
        with pytest.raises(RolloutError) as refused:
            _probe.run(options, Context())
        result = refused.value.result
        assert result["checks"][0]["problems"][0]["seen"] == "Remote end closed connection without response"
    assert result["checks"][0]["attempts"] == attempts


def test_status_is_never_asked_for_again(http_server: str) -> None:
    failing(base_url=http_server, retries=5, checks=[{"name": "f", "path": "/nowhere"}])
    assert len(Handler.seen) == 1


def test_refused_connection_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    checks = [{"name": "http"}, {"name": "ws", "websocket": {}}]
    error = failing(base_url=f"http://127.0.0.1:{port}", checks=checks)
    assert [item["problems"][0]["seen"] for item in error.result["checks"]] == ["Connection refused", "Connection refused"]


def test_unknown_host_is_named() -> None:
    error = failing(base_url="http://nowhere.invalid", checks=[{"name": "a"}])
    assert error.result["checks"][0]["problems"][0]["rule"] == "connection"
    assert "nowhere.invalid" not in error.result["checks"][0]["problems"][0]["seen"]


def test_environment_has_no_say(http_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login u password leaked-password\n", encoding="utf-8")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("no_proxy", raising=False)
    _probe.run(params(base_url=http_server, checks=[{"name": "h", "path": "/health"}]), Context())
    assert "authorization" not in Handler.seen[0]


def test_checks_run_at_the_same_time(http_server: str) -> None:
    checks = [{"name": str(number), "path": "/together"} for number in range(Handler.together.parties)]
    result = _probe.run(params(base_url=http_server, checks=checks, concurrency=Handler.together.parties, timeout=20), Context())
    assert all(check["ok"] for check in result["checks"])


def test_plain_server_behind_https_is_a_tls_problem(http_server: str) -> None:
    checks = [{"name": "http"}, {"name": "ws", "websocket": {}}]
    error = failing(base_url=http_server.replace("http:", "https:"), checks=checks)
    assert all(item["problems"][0]["seen"].startswith("TLS: ") for item in error.result["checks"]), error.message


# --- a real WebSocket server, small enough to misbehave on purpose


class Talk(socketserver.StreamRequestHandler):
    """Speaks RFC 6455 for one connection; the path says how to behave."""

    def handle(self) -> None:
        request = self.rfile.readline().decode()
        headers = {}
        while line := self.rfile.readline().strip().decode():
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        self.path = request.split()[1]
        if self.path == "/forbidden":
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        if self.path == "/moved":
            self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
            return
        key = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        self.wfile.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {key}\r\n\r\n".encode())
        if self.path == "/silent" or (self.path == "/silent-once" and not self.server.visited):
            self.server.visited = True
            self.frame(9, b"still here")
            self.read()
            self.read()
            return
        self.say({"type": "hello", "version": "v2", "host": headers["host"]})
        if self.path == "/close":
            self.frame(8, struct.pack("!H", 1011))
            return
        if self.path == "/cut":
            return
        while True:
            opcode, data = self.read()
            if opcode == 8:
                self.frame(8, data[:2])
                return
            if opcode == 9 and self.path != "/mute":
                self.frame(10, data)
            if opcode == 1 and self.path != "/mute":
                self.answer(json.loads(data))

    def answer(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.say({"type": "subscribed"})
            self.say({"type": "noise"})
            self.frame(1, b"not json")
            self.say({"type": "greeks", "delta": 0.5})
        elif message["type"] == "ping":
            self.say({"type": "noise"})
            self.say({"type": "pong", "t": message["t"]})

    def say(self, message: dict[str, Any]) -> None:
        self.frame(1, json.dumps(message).encode())

    def frame(self, opcode: int, data: bytes) -> None:
        assert len(data) < 126
        self.wfile.write(bytes([0x80 | opcode, len(data)]) + data)
        self.wfile.flush()

    def read(self) -> tuple[int, bytes]:
        head = self.rfile.read(2)
        if len(head) < 2:
            return 8, b""
        mask = self.rfile.read(4)
        data = self.rfile.read(head[1] & 0x7F)
        return head[0] & 0x0F, bytes(byte ^ mask[position % 4] for position, byte in enumerate(data))


@pytest.fixture
def ws_server() -> Iterator[str]:
    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        visited = False

    server = Threaded(("127.0.0.1", 0), Talk)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


SUBSCRIBE = {"send": [{"type": "subscribe"}], "expect": [{"type": "hello", "version": "v2"}, {"type": "subscribed"}, {"delta": {"above": 0}}]}


def test_websocket_conversation(ws_server: str) -> None:
    checks = [
        {"name": "protocol pings", "path": "/", "websocket": {**SUBSCRIBE, "round_trips": 10, "latency_below_ms": 1000}},
        {"name": "own pings", "path": "/", "websocket": {"ping": {"type": "ping", "t": 7}, "pong": {"type": "pong", "t": 7}, "round_trips": 10}},
        {"name": "only connecting", "path": "/", "websocket": {}, "repeat": 3},
        {"name": "host", "path": "/", "websocket": {"expect": [{"host": "signal-service.lab"}]}},
    ]
    result = _probe.run(params(base_url=ws_server, checks=checks, host_header="signal-service.lab"), Context())
    assert [item["status"] for item in result["checks"]] == [101, 101, 101, 101]
    assert all(0 < item["latency_ms"]["min"] <= item["latency_ms"]["p99"] < 1000 for item in result["checks"])
    assert result["checks"][2]["calls"] == 3


@pytest.mark.parametrize(
    ("path", "web_socket", "rule", "seen"),
    [
        ("/forbidden", {}, "connection", "status 403"),
        ("/moved", {}, "connection", "status 302"),
        ("/close", {"expect": [{"type": "hello"}, {"type": "x"}]}, "websocket.expect[1]", "the server closed with code 1011"),
        ("/cut", {"expect": [{"type": "x"}]}, "websocket.expect[0]", "the connection was cut without a close frame; the last message was"),
        ("/silent", {**SUBSCRIBE}, "websocket.expect[0]", "since then 1 pings and no message"),
        ("/mute", {**SUBSCRIBE}, "websocket.expect[1]", "no such message in time"),
        ("/mute", {"round_trips": 2}, "websocket.round_trips", "0 (no such message in time)"),
        ("/", {"send": [{"type": "subscribe"}], "expect": [{"type": "nope"}]}, "websocket.expect[0]", 'the last message was {"type": "greeks", "delta": 0.5}'),
    ],
)
def test_websocket_that_misbehaves_is_named(ws_server: str, path: str, web_socket: dict[str, Any], rule: str, seen: str) -> None:
    error = failing(base_url=ws_server, timeout=0.3, checks=[{"name": "w", "path": path, "websocket": web_socket}])
    found = error.result["checks"][0]["problems"][0]
    assert found["rule"] == rule
    assert seen in found["seen"]


def test_websocket_that_stays_silent_is_tried_again_and_says_so(ws_server: str) -> None:
    checks = [{"name": "w", "path": "/silent-once", "websocket": SUBSCRIBE}]
    result = _probe.run(params(base_url=ws_server, timeout=0.3, retries=2, checks=checks), Context())
    assert result["checks"][0]["attempts"] == 2
    assert result["warnings"] == ["w needed 2 attempts for 1 call at " + ws_server]


def test_websocket_that_always_stays_silent_fails_after_all_attempts(ws_server: str) -> None:
    error = failing(base_url=ws_server, timeout=0.2, retries=2, checks=[{"name": "w", "path": "/silent", "websocket": SUBSCRIBE}])
    assert error.result["checks"][0]["attempts"] == 3


def test_wrong_message_is_never_asked_for_again(ws_server: str) -> None:
    wrong = {"expect": [{"type": "hello", "version": "v1"}]}
    error = failing(base_url=ws_server, timeout=0.2, retries=2, checks=[{"name": "w", "path": "/", "websocket": wrong}])
    assert error.result["checks"][0]["attempts"] == 1


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "websocket", None)
    with pytest.raises(RolloutError, match="'websocket-client' is not installed"):
        _probe.run(params(checks=[{"name": "w", "websocket": {}}]), Context())
    monkeypatch.setattr(_probe, "requests", None)
    with pytest.raises(RolloutError, match="'requests' is not installed"):
        _probe.run(params(), Context())
