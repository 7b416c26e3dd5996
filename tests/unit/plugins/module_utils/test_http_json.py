# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Figures from JSON documents: what is one number, what is none, and that mistakes are found before anything is asked."""

from __future__ import annotations

import json
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _http_json, _prometheus, _sources
from ansible_collections.signal.rollout.plugins.module_utils._errors import MissingLibrary
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Reading
from ansible_collections.signal.rollout.plugins.module_utils._question import Question
from hypothesis import given
from hypothesis import strategies as st


def question(url: str = "http://host/health", path: str = "p99", **changes: Any) -> Question:
    problems: list[str] = []
    found = _http_json.read_question(checked(url=url, json_path=path, **changes), problems)
    assert found is not None, problems
    return found


def checked(**options: Any) -> dict[str, Any]:
    given_options = {"url": "http://host/health", "json_path": "p99", **options}
    validation = ArgumentSpecValidator(_http_json.SPEC).validate(given_options)
    assert not validation.error_messages, validation.error_messages
    return validation.validated_parameters


def problems_of(**options: Any) -> list[str]:
    problems: list[str] = []
    assert (_http_json.read_question(checked(**options), problems) is None) == bool(problems)
    return problems


def reading(document: Any, path: str, time_path: str = "") -> Reading:
    changes = {"time_path": time_path} if time_path else {}
    return _http_json.interpret(question(path=path, **changes), _http_json.Answer(document, 1000.0))


# ------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://host"}, "http.url: its scheme is 'ftp'"),
        ({"url": "http://me:s3cret@host"}, "holds a user or a password"),
        ({"json_path": "a["}, "http.json_path: 'a[' is no JMESPath expression"),
        ({"json_path": ""}, "is no JMESPath expression"),
        ({"json_path": "no_such(a)"}, "Unknown function: no_such()"),
        ({"json_path": "max(a, b)"}, "Expected 1 argument for function max()"),
        ({"time_path": "a..b"}, "http.time_path: 'a..b' is no JMESPath expression"),
        ({"body": "{}"}, "it belongs to method POST"),
        ({"headers": {"X-Key": "s3cret\r\nX-Evil: 1"}}, "line break"),
        ({"token": "s3cret\n"}, "http.token: a header is empty, or has a line break"),
        ({"token": "s3cret", "headers": {"authorization": "s3cret"}}, "one way to authenticate"),
        ({"status": [200, 42]}, "42 is no status code"),
        ({"timeout": 0}, "http.timeout is 0.0 s"),
        ({"timeout": math.inf}, "http.timeout is inf s"),
        ({"ca_cert": "/no/such/file"}, "http.ca_cert: /no/such/file cannot be read"),
        ({"client_key": __file__}, "http.client_key: it is set without http.client_cert"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked_and_no_secret_is_repeated(options: dict[str, Any], words: str) -> None:
    problems = problems_of(**options)
    assert words in "; ".join(problems)
    assert "s3cret" not in str(problems)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems_of(url="", json_path="a[", timeout=-1)) == 3


def test_a_question_shows_its_address_and_path_but_no_secret() -> None:
    asked = question("https://host/figures?key=s3cret", "a.b", headers={"X-Key": "s3cret"}, token="s3cret", method="POST", body="s3cret")
    assert str(asked) == "POST https://host/figures?...: a.b"
    assert "s3cret" not in repr(asked).replace("?key=s3cret", "")


# ------------------------------------------------------------------------------------------------- interpretation

DOCUMENT = {"p99": 12.5, "count": 7, "text": "12.5", "none": None, "yes": True, "many": [1, 2], "queues": [{"length": 3}, {"length": 4}]}


@pytest.mark.parametrize(
    ("path", "value"), [("p99", 12.5), ("count", 7), ("many[0]", 1), ("sum(queues[].length)", 7), ("to_number(text)", 12.5), ("`0`", 0)]
)
def test_one_finite_number_is_good_and_stands_for_the_moment_of_the_answer(path: str, value: float) -> None:
    assert reading(DOCUMENT, path) == Reading("good", value, 1000.0)


@pytest.mark.parametrize(
    ("path", "state", "hopeless", "words"),
    [
        ("none", "no_data", False, "nothing at none"),
        ("missing.deep", "no_data", False, "nothing at missing.deep"),
        ("text", "error", False, 'text gives "12.5", expected a number'),
        ("yes", "error", False, "yes gives true, expected a number"),
        ("many", "error", True, "many gives a list of 2, expected one number"),
        ("queues[0]", "error", True, "gives an object"),
        ("sum(text)", "error", False, "sum(text) cannot be applied to the answer"),
    ],
)
def test_everything_else_is_not(path: str, state: str, hopeless: bool, words: str) -> None:
    found = reading(DOCUMENT, path)
    assert (found.state, found.value, found.hopeless) == (state, None, hopeless)
    assert words in found.detail


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", str(10**400)])
def test_a_number_that_is_not_finite_is_no_data(number: str) -> None:
    found = reading(json.loads(f'{{"x": {number}}}'), "x")
    assert (found.state, found.value) == ("no_data", None)


@pytest.mark.parametrize(
    ("at", "expected"),
    [(1795519126, 1795519126.0), (1795519126.5, 1795519126.5), ("2026-11-24T12:38:46Z", 1795523926.0), ("2026-11-24T13:38:46+01:00", 1795523926.0)],
)
def test_the_figures_own_time_is_taken(at: Any, expected: float) -> None:
    assert reading({"v": 1, "at": at}, "v", "at").at == expected


@pytest.mark.parametrize("at", [None, "yesterday", "2026-11-24T12:38:46", True, [1], 1795519126000, math.nan])
def test_a_time_that_is_none_makes_the_figure_an_error(at: Any) -> None:
    found = reading({"v": 1, "at": at}, "v", "at")
    assert (found.state, found.value) == ("error", None)
    assert "expected unix seconds or an ISO 8601 time with its zone" in found.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "at"]), inner),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["a", "a.b", "a[0]", "sum(a)", "max_by(a, &b).b", "length(a)", "to_number(a)", "avg(values(@))"]))
def test_no_odd_json_raises_or_becomes_a_number_that_is_none(document: Any, path: str) -> None:
    for time_path in ("", "at"):
        found = reading(document, path, time_path)
        assert found.state in ("good", "no_data", "error")
        assert (found.state == "good") == (found.value is not None)
        assert found.value is None or math.isfinite(found.value)


# ------------------------------------------------------------------------------------------------------ over HTTP


def ask(asked: Question, prometheus: Any = None) -> Reading:
    return _sources.ask_once(prometheus, [asked], 30.0)[asked]


def test_figures_of_one_address_share_one_request_and_prometheus_is_asked_beside(server: Any, other_server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, DOCUMENT)
    figures = [question(server.url, path) for path in ("p99", "count", "none")]
    queries = [Question("up[$hold]"), Question("up")]
    prometheus = _prometheus.Prometheus({"prometheus_url": other_server.url}, 5.0)
    sources = _sources.Sources(prometheus)
    for poll in (1, 2):
        assert all(sources.ask(asked, 30.0) for asked in figures + queries)
        assert not any(sources.ask(asked, 30.0) for asked in figures + queries), "each still waits for its answer"
        found: dict[Question, Reading] = {}
        while sources.waiting():
            found.update(sources.answers(1.0))
        assert [found[asked].state for asked in figures] == ["good", "good", "no_data"]
        assert [found[asked].value for asked in queries] == [1.0, 1.0]
        assert len(server.requests) == poll
    assert len(other_server.requests) == 4
    assert any("up%5B30s%5D" in path for path, _headers, _peer in other_server.requests)
    sources.close()


def test_other_headers_are_another_request(server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, {"v": len(server.requests)})
    figures = [question(server.url, "v", headers={"X-Desk": desk}) for desk in ("a", "b")]
    found = _sources.ask_once(None, figures, 1.0)
    assert {headers["X-Desk"] for _path, headers, _peer in server.requests} == {"a", "b"}
    assert sorted(reading.value or 0 for reading in found.values()) == [1, 2]


def test_method_body_token_and_headers_are_sent(server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, {"v": 1})
    ask(question(f"{server.url}/x?desk=7", "v", method="POST", body='{"q": 1}', token="t0ken", headers={"Content-Type": "application/json"}))
    path, headers, _peer = server.requests[0]
    assert (server.methods, path, server.bodies) == (["POST"], "/x?desk=7", ['{"q": 1}'])
    assert headers["Authorization"] == "Bearer t0ken" and headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "accepted", "state"), [(200, [], "good"), (299, [], "good"), (404, [], "error"), (503, [503], "good"), (200, [503], "error")]
)
def test_only_the_expected_status_is_an_answer(server: Any, status: int, accepted: list[int], state: str) -> None:
    server.respond = lambda handler, query: server.send(handler, {"v": 1}, status)
    found = ask(question(server.url, "v", status=accepted))
    assert found.state == state
    assert state == "good" or f"HTTP {status}, expected" in found.detail


def test_a_redirect_is_not_followed_and_takes_no_token_along(server: Any, other_server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, "{}", 307, Location=other_server.url)
    found = ask(question(server.url, "v", token="t0ken"))
    assert found.state == "error" and "redirects are not followed" in found.detail
    assert other_server.requests == []


@pytest.mark.parametrize("body", ["<html>log in</html>", "", "{", "[" * 100_000])
def test_an_answer_that_is_not_json_is_an_error(server: Any, body: str) -> None:
    server.respond = lambda handler, query: server.send(handler, body)
    found = ask(question(server.url, "v"))
    assert found.state == "error" and "not JSON" in found.detail and len(found.detail) < 200


def test_a_huge_answer_and_a_slow_one_are_errors(server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, " " * (9 * 1024 * 1024))
    assert "larger than 8 MiB" in ask(question(server.url, "v")).detail

    def drip(handler: Any, query: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        for _byte in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            threading.Event().wait(0.1)

    server.respond = drip
    assert "within 0.3 s" in ask(question(server.url, "v", timeout=0.3)).detail


def test_a_server_that_repeats_the_secret_does_not_get_it_into_a_message(server: Any) -> None:
    server.respond = lambda handler, query: server.send(handler, f"{handler.headers['Authorization']} {handler.headers['X-Key']}", 500)
    detail = ask(question(server.url, "v", token="s3cret-a", headers={"X-Key": "s3cret-b"})).detail
    assert "HTTP 500" in detail and "s3cret" not in detail


def test_the_library_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "jmespath.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jmespath", raising=False)
    with pytest.raises(MissingLibrary, match="'jmespath' is not installed"):
        problems_of()
