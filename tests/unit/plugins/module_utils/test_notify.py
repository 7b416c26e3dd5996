# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages: their text, who has had them, and their delivery to real servers on the loopback interface."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _notify
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given
from hypothesis import strategies as st

EVENT = "signal-service/v2/start"
TOKEN = "T0ken-in-the-address"


def params(**options: Any) -> dict[str, Any]:
    """Options as the argument spec completes them."""
    checked = ArgumentSpecValidator(_notify.ARGUMENT_SPEC).validate({"targets": [], "event": EVENT, "title": "Start", "body": "v2 starts", **options})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


# --- text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain text\n\twith lines", "plain text\n\twith lines"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07end", "red end"),
        ("bell\x07 nul\x00 c1\x9b", "bell nul c1"),
        ("rtl\u202eevil\u2066", "rtlevil"),
        ("lone \ud800 half", "lone  half"),
        ("ask @everyone and @here", "ask @\u200beveryone and @\u200bhere"),
        ("@Channel @ALL @room", "@\u200bChannel @\u200bALL @\u200broom"),
        ("<!channel> <!here> <@U123> <!subteam^S1>", "<\u200b!channel> <\u200b!here> <\u200b@U123> <\u200b!subteam^S1>"),
        ("someone@example.com @anna", "someone@example.com @anna"),
        ("ü 漢 🚀", "ü 漢 🚀"),
    ],
)
def test_text_is_cleaned(text: str, clean: str) -> None:
    assert _notify.clean(text, 1000) == clean


def test_title_is_one_line() -> None:
    assert _notify.clean("Subject\r\nBcc: everyone@example.com", 200, single_line=True) == "Subject Bcc: everyone@example.com"


def test_long_text_is_cut_and_says_so() -> None:
    cut = _notify.clean("x" * 1_000_000, 400)
    assert len(cut) == 400 and cut.endswith("... (cut, 1000000 characters)")


@given(st.text(max_size=400), st.booleans())
def test_no_text_mentions_everybody_or_holds_control_characters(text: str, single_line: bool) -> None:
    cleaned = _notify.clean(text + "@everyone<!here>", 5000, single_line)
    assert "@everyone" not in cleaned and "<!" not in cleaned and "<@" not in cleaned
    assert all(character in "\n\t" or ord(character) >= 32 for character in cleaned)
    cleaned.encode("utf-8")


# --- who has had it


@pytest.mark.parametrize(
    ("count", "sent", "todo"),
    [
        (2, [], [0, 1]),
        (2, [EVENT], []),
        (2, ["another"], [0, 1]),
        (2, [f"{EVENT}#0"], [1]),
        (2, [f"{EVENT}#0", f"{EVENT}#1"], []),
        (3, [f"{EVENT}#0", f"{EVENT}#1"], [2]),
        (0, [], []),
    ],
)
def test_who_is_still_to_be_told(count: int, sent: list[str], todo: list[int]) -> None:
    assert _notify.open_targets(EVENT, count, sent) == todo


@pytest.mark.parametrize(
    ("count", "sent", "delivered", "record"),
    [
        (2, [], [0, 1], [EVENT]),
        (2, [], [1], [f"{EVENT}#1"]),
        (2, [f"{EVENT}#1"], [0], [EVENT]),
        (2, [f"{EVENT}#1"], [], []),
        (2, [EVENT], [], [EVENT]),
        (0, [], [], []),
    ],
)
def test_what_is_to_be_recorded(count: int, sent: list[str], delivered: list[int], record: list[str]) -> None:
    assert _notify.record_events(EVENT, count, sent, delivered) == record


@given(st.integers(min_value=1, max_value=6), st.data())
def test_every_target_hears_once_over_any_number_of_partial_runs(count: int, data: st.DataObject) -> None:
    sent: list[str] = []
    heard = [0] * count
    for _run in range(6):
        todo = _notify.open_targets(EVENT, count, sent)
        delivered = data.draw(st.lists(st.sampled_from(todo), unique=True)) if todo else []
        for index in delivered:
            heard[index] += 1
        sent += _notify.record_events(EVENT, count, sent, delivered)
    for index in _notify.open_targets(EVENT, count, sent):
        heard[index] += 1
    assert heard == [1] * count


# --- reasons


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Failed to send JSON POST notification: Page not found., error=404."], "the service answered 404"),
        (["Socket Exception: HTTPConnectionPool(host='h', port=1): ... [Errno 111] Connection refused"], "connection refused"),
        (["Socket Exception: Failed to resolve 'hooks.example.com' ([Errno -2] Name or service not known)"], "host name not found"),
        (["Socket Exception: Read timed out. (read timeout=1)"], "timed out"),
        (["certificate verify failed"], "TLS: the certificate or handshake was not accepted"),
        (["Connection aborted.', RemoteDisconnected("], "the connection was cut"),
        ([f"something about https://hooks.example.com/{TOKEN}"], "not accepted by the service"),
        ([], "not accepted by the service"),
    ],
)
def test_reason_is_in_our_own_words(lines: list[str], reason: str) -> None:
    assert _notify.reason_of(lines) == reason


# --- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"event": " "}, "event is ''"),
        ({"event": "a#1"}, "without #"),
        ({"event": "a\nb"}, "printable"),
        ({"event": "x" * 201}, "expected 1 to 200"),
        ({"title": "  "}, "title is empty"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"max_length": 1}, "max_length is 1"),
    ],
)
def test_unusable_option_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RolloutError) as refused:
        _notify.run(params(**options), Context())
    assert sentence in refused.value.message


def test_required_without_any_target_fails() -> None:
    with pytest.raises(RolloutError, match="targets is empty"):
        _notify.run(params(required=True), Context())


def test_no_target_and_not_required_says_that_nothing_was_sent() -> None:
    result = _notify.run(params(), Context())
    assert (result["changed"], result["sent"], result["already_sent"], result["record_events"]) == (False, False, False, [])


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_notify, "apprise", None)
    with pytest.raises(RolloutError, match="'apprise' is not installed"):
        _notify.run(params(), Context())


def test_release_that_cannot_refuse_redirects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_notify.apprise.AppriseAsset, "http_redirects")
    with pytest.raises(RolloutError, match="needs Apprise 2.0 or newer, found"):
        _notify.run(params(), Context())


# --- a real receiver


class Hook(BaseHTTPRequestHandler):
    received: list[dict[str, Any]] = []
    together = threading.Barrier(10)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/slow"):
            time.sleep(1)
        if self.path.startswith("/together"):
            # Nobody gets an answer before all have asked.
            self.together.wait(15)
        type(self).received.append({"path": self.path, "event": self.headers.get("X-Rollout-Event"), **json.loads(body)})
        status = int(self.path.rsplit("/", 1)[1]) if self.path.startswith("/status/") else 200
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/hook/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *unused: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *unused: Any) -> None:
        # Senders that give up early are part of the tests.
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.received = []
    server = Server(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"json://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def nobody() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"json://user:{TOKEN}@127.0.0.1:{probe.getsockname()[1]}/{TOKEN}"


def test_message_arrives_with_its_event(hook: str) -> None:
    result = _notify.run(params(targets=[f"{hook}/hook/{TOKEN}"], body="v2 starts\nask @everyone", severity="success"), Context())
    assert [(item["path"], item["event"], item["title"], item["type"]) for item in Hook.received] == [(f"/hook/{TOKEN}", EVENT, "Start", "success")]
    assert Hook.received[0]["message"] == "v2 starts\nask @\u200beveryone"
    assert (result["changed"], result["sent"], result["delivered"], result["failures"]) == (True, True, [0], [])
    assert result["record_events"] == [EVENT]
    assert TOKEN not in str(result)


def test_event_is_sent_once(hook: str) -> None:
    first = _notify.run(params(targets=[f"{hook}/hook/x"]), Context())
    second = _notify.run(params(targets=[f"{hook}/hook/x"], sent_events=first["record_events"]), Context())
    assert len(Hook.received) == 1
    assert (second["changed"], second["sent"], second["already_sent"]) == (False, False, True)


def test_check_mode_sends_nothing_and_shows_the_message(hook: str) -> None:
    result = _notify.run(params(targets=[f"{hook}/hook/x", "nosuch://x"], title="A\nB"), Context(check_mode=True))
    assert Hook.received == []
    assert result["changed"] is True and result["sent"] is False and result["record_events"] == []
    assert result["preview"] == {"title": "A B", "body": "v2 starts"}
    assert result["targets"] == [{"index": 0, "service": "JSON"}, {"index": 1, "service": "scheme 'nosuch'"}]
    assert [item["index"] for item in result["failures"]] == [1]


def test_dead_target_does_not_fail_and_does_not_hinder_the_others(hook: str, nobody: str) -> None:
    result = _notify.run(params(targets=[nobody, f"{hook}/hook/x", "no address at all", f"{hook}/status/503"]), Context())
    assert result["delivered"] == [1]
    assert result["failures"] == [
        {"index": 0, "service": "JSON", "reason": "connection refused"},
        {"index": 2, "service": "no URL", "reason": "Apprise does not understand this address"},
        {"index": 3, "service": "JSON", "reason": "the service answered 503"},
    ]
    assert result["record_events"] == [f"{EVENT}#1"]
    assert "was not taken by 3 of 4 targets" in result["warnings"][0]
    assert TOKEN not in str(result) and "127.0.0.1" not in str(result)


def test_repeating_tells_only_those_who_have_not_heard(hook: str, nobody: str) -> None:
    first = _notify.run(params(targets=[nobody, f"{hook}/hook/x"]), Context())
    second = _notify.run(params(targets=[f"{hook}/hook/now-up", f"{hook}/hook/x"], sent_events=first["record_events"]), Context())
    assert [item["path"] for item in Hook.received] == ["/hook/x", "/hook/now-up"]
    assert second["record_events"] == [EVENT]


def test_required_target_that_is_dead_fails_with_the_same_keys(hook: str, nobody: str) -> None:
    with pytest.raises(RolloutError) as refused:
        _notify.run(params(targets=[f"{hook}/hook/x", nobody], required=True), Context())
    assert "targets[1] (JSON): connection refused" in refused.value.message
    assert refused.value.result["delivered"] == [0] and refused.value.result["record_events"] == [f"{EVENT}#0"]
    assert TOKEN not in refused.value.message + str(refused.value.result)
    assert set(refused.value.result) == set(_notify.run(params(), Context()))


def test_redirect_is_not_followed(hook: str) -> None:
    result = _notify.run(params(targets=[f"{hook}/status/307"]), Context())
    assert [item["path"] for item in Hook.received] == ["/status/307"]
    assert result["failures"][0]["reason"] == "the service answered 307"


def test_address_cannot_lift_the_limits(hook: str) -> None:
    started = time.monotonic()
    result = _notify.run(params(targets=[f"{hook}/slow?rto=30&cto=30&redirect=yes", f"{hook}/status/307?redirect=yes"], timeout=0.3), Context())
    assert time.monotonic() - started < 10
    assert [item["reason"] for item in result["failures"]] == ["timed out", "the service answered 307"]
    assert not [item for item in Hook.received if "elsewhere" in item["path"]]


def test_many_targets_are_told_at_the_same_time(hook: str) -> None:
    result = _notify.run(params(targets=[f"{hook}/together/{number}" for number in range(Hook.together.parties)], timeout=20), Context())
    assert len(result["delivered"]) == Hook.together.parties


def test_cancelled_run_ends_at_once(hook: str) -> None:
    context = Context()
    threading.Timer(0.1, context.interrupt, ["SIGTERM"]).start()
    result = _notify.run(params(targets=[f"{hook}/slow"], timeout=30), context)
    assert result["failures"][0]["reason"] == "interrupted"


def test_address_is_not_logged(hook: str, nobody: str, caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.DEBUG)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        _notify.run(params(targets=[f"{hook}/hook/{TOKEN}", nobody, f"nosuch://{TOKEN}"]), Context())
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    assert len(Hook.received) == 1
    assert not any(TOKEN in line or "127.0.0.1" in line for line in lines), lines
