# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synthetic requests: when they are needed, where they may go, how many there are at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _synthetic
from hypothesis import given
from hypothesis import strategies as st


def options(**changes: Any) -> dict[str, Any]:
    asked = {
        "url": "http://host/api?key=s3cret", "headers": {"x-release-canary": "v2"}, "expect": {"header": "X-Signal-Version", "value": "v2"},
        **changes,
    }
    checked = ArgumentSpecValidator(_synthetic.SPEC).validate(asked)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def load(**changes: Any) -> _synthetic.Load:
    problems: list[str] = []
    found = _synthetic.read_load(options(**changes), True, problems)
    assert found is not None, problems
    return found


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "host/api"}, "synthetic.url: its scheme is ''"),
        ({"headers": {}}, "synthetic.headers is empty"),
        ({"headers": {"x": "a\nb"}}, "synthetic.headers: a header is empty, or has a line break"),
        ({"secret_headers": {"x": "s3cret\nb"}}, "synthetic.secret_headers: a header is empty, or has a line break"),
        ({"body": "{}"}, "synthetic.body: it belongs to method POST"),
        ({"rate": 0}, "synthetic.rate is 0.0"),
        ({"rate": 201}, "synthetic.rate is 201.0, expected a number above 0 and at most 200"),
        ({"timeout": -1}, "synthetic.timeout is -1.0"),
        ({"max_requests": 0}, "synthetic.max_requests is 0"),
        ({"expect": {"value": "v2"}}, "both or neither of header and json_path"),
        ({"expect": {"value": "v2", "header": "a", "json_path": "b"}}, "both or neither of header and json_path"),
        ({"expect": {"value": "v2", "json_path": "a["}}, "synthetic.expect.json_path: 'a[' is no JMESPath expression"),
        ({"expect": {"value": " ", "header": "a"}}, "synthetic.expect.value is empty"),
        ({"method": "HEAD", "expect": {"value": "v2", "json_path": "a"}}, "an answer to HEAD has no body"),
        ({"ca_cert": "/no/such/file"}, "synthetic.ca_cert: /no/such/file cannot be read"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(changes: dict[str, Any], words: str) -> None:
    problems: list[str] = []
    assert _synthetic.read_load(options(**changes), True, problems) is None
    assert words in "; ".join(problems)
    assert "s3cret" not in str(problems)


def test_a_floor_is_needed_to_be_below_it() -> None:
    problems: list[str] = []
    assert _synthetic.read_load(options(), False, problems) is None
    assert "there is no minimum_requests" in problems[0]
    assert _synthetic.read_load(options(when="always"), False, []) is not None


# ------------------------------------------------------------------------------------------------ when it is needed


@pytest.mark.parametrize(
    ("counted", "sent", "elapsed", "remaining", "needed"),
    [
        (0, 0, 10, 290, True),
        (100, 0, 10, 290, False),  # users send 10/s: 3,000 by the end
        (99, 0, 10, 290, True),  # 2,970 by the end
        (100, 90, 10, 290, True),  # users send 1/s
        (2995, 2995, 200, 100, True),  # nobody but us: the rest of the hold must be seen too
        (2995, 0, 200, 100, False),
        (2994, 0, 300, 0, True),  # the hold is being extended
        (100, 200, 10, 290, True),  # not yet scraped
        (0, 0, 0, 300, True),
    ],
)
def test_users_who_would_not_reach_the_floor_make_it_needed(
    counted: float, sent: int, elapsed: float, remaining: float, needed: bool
) -> None:
    assert _synthetic.is_needed(counted, 2995, sent, elapsed, remaining) is needed


@given(st.floats(0, 1e6), st.floats(1, 1e6), st.integers(0, 10**6), st.floats(0, 1e5), st.floats(-1, 1e5))
def test_it_is_never_needed_once_users_have_reached_the_floor(
    counted: float, floor: float, sent: int, elapsed: float, remaining: float
) -> None:
    needed = _synthetic.is_needed(counted, floor, sent, elapsed, remaining)
    if counted - sent >= floor:
        assert not needed
    elif remaining <= 0:
        assert needed


# ------------------------------------------------------------------------------------------------------ over HTTP


def answers(server: Any, version: str | None = "v2", status: int = 200, body: Any = None) -> None:
    headers = {} if version is None else {"X-Signal-Version": version}
    server.respond = lambda handler, query: server.send(handler, body if body is not None else {"version": version}, status, **headers)


def test_a_header_that_leads_to_the_new_version_is_proven_by_five_answers(server: Any) -> None:
    answers(server)
    assert _synthetic.SyntheticLoad(load(url=server.url)).probe() == ""
    assert len(server.requests) == 5
    by_json = load(url=server.url, expect={"json_path": "version", "value": "v2"})
    assert _synthetic.SyntheticLoad(by_json).probe() == ""
    _path, headers, _peer = server.requests[0]
    assert headers["x-release-canary"] == "v2"
    assert (headers["User-Agent"], headers["X-Signal-Rollout"]) == ("signal.rollout synthetic", "synthetic")


def test_a_header_route_that_leads_elsewhere_is_refused_even_if_only_sometimes(server: Any) -> None:
    versions = iter(["v2", "v2", "v1"])
    server.respond = lambda handler, query: server.send(handler, "{}", **{"X-Signal-Version": next(versions)})
    trouble = _synthetic.SyntheticLoad(load(url=server.url)).probe()
    assert "was answered by 'v1', expected header x-signal-version to be 'v2': the header route does not lead to it" in trouble


def test_an_answer_that_does_not_say_its_version_proves_nothing(server: Any) -> None:
    answers(server, version=None, status=503, body="no healthy upstream")
    trouble = _synthetic.SyntheticLoad(load(url=server.url)).probe()
    assert "its answer, HTTP 503, does not say which version gave it" in trouble
    by_json = load(url=server.url, expect={"json_path": "a.b", "value": "v2"})
    assert "does not say which version" in _synthetic.SyntheticLoad(by_json).probe()


def test_one_probe_that_fails_is_tried_again(server: Any) -> None:
    count = iter(range(100))
    server.respond = lambda handler, query: server.send(
        handler, "{}", **({"X-Signal-Version": "v2"} if next(count) % 2 else {})
    )
    assert _synthetic.SyntheticLoad(load(url=server.url)).probe() == ""


def test_nothing_there_is_told_without_the_secret() -> None:
    trouble = _synthetic.SyntheticLoad(load(url="http://127.0.0.1:1/x?key=s3cret", secret_headers={"X-Key": "s3cret"})).probe()
    assert trouble == "GET http://127.0.0.1:1/x: cannot reach http://127.0.0.1:1/x: Connection refused; expected header x-signal-version to be 'v2'"


def test_the_number_of_requests_is_bounded_and_connections_are_kept(server: Any) -> None:
    answers(server)
    running = _synthetic.SyntheticLoad(load(url=server.url, rate=200, max_requests=40))
    assert running.steer(True)
    wait_until(lambda: running.result()["answered"] == 40)
    time.sleep(0.1)
    assert running.result() == {
        "sent": 40, "answered": 40, "failed": 0, "statuses": {"200": 40}, "last_failure": "", "misrouted": ""
    }
    assert len(server.requests) == 40
    assert len({peer for _path, _headers, peer in server.requests}) <= 8
    running.steer(False)
    assert not running.steer(True), "nothing is left to send"
    running.stop()


def test_the_rate_is_a_bound_also_after_answers_that_took_long(server: Any) -> None:
    release = threading.Event()

    def slow(handler: Any, query: str) -> None:
        release.wait(10)
        server.send(handler, "{}", **{"X-Signal-Version": "v2"})

    server.respond = slow
    running = _synthetic.SyntheticLoad(load(url=server.url, rate=20, timeout=9))
    running.steer(True)
    wait_until(lambda: running.sent == 8)
    time.sleep(1.0)
    assert running.sent == 8, "every connection waits"
    release.set()
    began = time.monotonic()
    time.sleep(0.5)
    running.stop()
    # 20 each second since the release, and nothing made up for: far below the 20 that were left out.
    assert running.sent - 8 <= 20 * (time.monotonic() - began) + 2


def test_it_pauses_and_goes_on_as_told_and_stops_for_good(server: Any) -> None:
    answers(server)
    running = _synthetic.SyntheticLoad(load(url=server.url, rate=100))
    assert running.steer(True) and not running.steer(True)
    wait_until(lambda: running.sent > 3)
    assert running.steer(False)
    paused = running.sent
    time.sleep(0.3)
    assert running.sent <= paused + 1
    assert running.steer(True)
    wait_until(lambda: running.sent > paused + 3)
    running.stop()
    stopped = running.sent
    time.sleep(0.3)
    assert running.sent <= stopped + 1
    assert not running.steer(True)


def test_failures_and_statuses_are_counted_and_judged_by_nobody(server: Any) -> None:
    statuses = iter([200, 500, 503] * 100)
    server.respond = lambda handler, query: server.send(handler, "{}", next(statuses), **{"X-Signal-Version": "v2"})
    running = _synthetic.SyntheticLoad(load(url=server.url, rate=200, max_requests=9))
    running.steer(True)
    wait_until(lambda: running.result()["answered"] == 9)
    assert running.result()["statuses"] == {"200": 3, "500": 3, "503": 3}
    nobody = _synthetic.SyntheticLoad(load(url="http://127.0.0.1:1/", rate=200, max_requests=3))
    nobody.steer(True)
    wait_until(lambda: nobody.result()["failed"] == 3)
    assert nobody.result()["last_failure"] == "cannot reach http://127.0.0.1:1/: Connection refused"


def test_an_answer_of_another_version_ends_the_sending(server: Any) -> None:
    count = iter(range(1000))
    server.respond = lambda handler, query: server.send(handler, "{}", **{"X-Signal-Version": "v1" if next(count) >= 5 else "v2"})
    running = _synthetic.SyntheticLoad(load(url=server.url, rate=100))
    running.steer(True)
    wait_until(lambda: running.misrouted)
    sent = running.sent
    time.sleep(0.3)
    assert running.misrouted == "v1" and running.sent <= sent + 1
    assert not running.steer(True)
